//! Classes of models that see or hear: what their folders hold beside a text model, and what a projector file does not say
//! in the spelling of its keys.
//!
//! Names and layouts of tensors are those of the rows of [`crate::hf::projectors`]; here stands where a class keeps the
//! numbers, and how it calls what the rows know by another name.

use gguf::arch::MAX_LAYERS;
use serde_json::{Map, Value as Json, json};

use super::keys::{Keys, float};
use crate::config::Config;

/// A class that a text model's file and a projector file become a folder of.
pub(crate) struct Wrapper {
    /// The class that `config.json` names.
    pub(crate) class: &'static str,
    /// Its `model_type`.
    pub(crate) model_type: &'static str,
    /// The kinds of projectors that are one of this class.
    pub(crate) kinds: &'static [&'static str],
    /// The classes that its text model can be of; by their ways the text model comes back.
    pub(crate) text: &'static [&'static str],
    /// The field that holds the text model's configuration; none where it stands among the fields of the whole.
    pub(crate) text_field: &'static str,
    /// Whether the fields of the text model stand among those of the whole as well.
    pub(crate) flat: bool,
    /// The class that the text model's part names, where it is not that of its way.
    pub(crate) text_class: Option<&'static str>,
    /// The same of its `model_type`.
    pub(crate) text_type: Option<&'static str>,
    /// The field that holds all parts, where there is one.
    pub(crate) outer: Option<&'static str>,
    /// Beginnings of the text model's names, and what stands there in the folder.
    pub(crate) text_names: &'static [(&'static str, &'static str)],
    /// The same for names that the row has for the towers' tensors.
    pub(crate) names: &'static [(&'static str, &'static str)],
    /// What else its folders call a tensor otherwise than the row.
    pub(crate) rename: fn(String) -> String,
    /// Parts of names that the class's folders do not have, where the row knows several for one; with a dot in front, ends.
    pub(crate) avoid: &'static [&'static str],
    /// Its tower's `model_type`.
    pub(crate) tower: &'static str,
    /// Keys of a tower that sees and the fields that say the same.
    pub(crate) vision: &'static [(&'static str, &'static str)],
    /// Keys of a tower that hears and the fields that say the same.
    pub(crate) audio: &'static [(&'static str, &'static str)],
    /// The processor's class.
    pub(crate) processor: &'static str,
    /// What takes more than a field for a key.
    pub(crate) derive: fn(&Keys<'_>, &mut Fields),
    /// What the row takes from tensors of the folder, put into its configuration.
    pub(crate) inspected: fn(&Keys<'_>, &mut Config),
    /// Ends of the names of tables whose rows are the places of a square, and have two dimensions in the folder.
    pub(crate) square: &'static [&'static str],
    /// Rows of the table of positions that the file does not have, before its first.
    pub(crate) first_position: u64,
    /// Tensors of the projector file that stand in the text model's.
    pub(crate) copies: &'static [&'static str],
    /// Whether it can be of this class, where projectors of the kind are of several.
    pub(crate) fits: fn(&Keys<'_>) -> bool,
    /// Whether its code is part of the transformers library.
    pub(crate) in_library: bool,
    /// Fields that no file says, and the values that are taken.
    pub(crate) assumed: &'static [(&'static str, &'static str)],
    /// Tensors of original folders that no file has and no model needs.
    pub(crate) lost: &'static str,
    /// Why no folder is made.
    pub(crate) refused: Option<&'static str>,
}

/// The parts of a configuration.
#[derive(Default)]
pub(crate) struct Fields {
    pub(crate) top: Map<String, Json>,
    pub(crate) vision: Map<String, Json>,
    pub(crate) audio: Map<String, Json>,
    pub(crate) processor: Map<String, Json>,
}

const BASE: Wrapper = Wrapper {
    class: "",
    model_type: "",
    kinds: &[],
    text: &[],
    text_field: "text_config",
    flat: false,
    text_class: None,
    text_type: None,
    outer: None,
    text_names: &[],
    names: &[],
    rename: |name| name,
    avoid: &[],
    tower: "",
    vision: &[],
    audio: &[],
    processor: "",
    derive: |_, _| {},
    inspected: |_, _| {},
    square: &[],
    first_position: 0,
    copies: &[],
    fits: |_| true,
    in_library: true,
    assumed: &[],
    lost: "",
    refused: None,
};

/// The wrapper of a class.
pub(crate) fn find(class: &str) -> impl Iterator<Item = &'static Wrapper> {
    WRAPPERS.iter().filter(move |wrapper| wrapper.class == class)
}

const SIZES: &[(&str, &str)] = &[
    ("image_size", "image_size"),
    ("patch_size", "patch_size"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("block_count", "num_hidden_layers"),
    ("attention.head_count", "num_attention_heads"),
];

const SIGLIP: &[(&str, &str)] =
    &[SIZES[0], SIZES[1], SIZES[2], SIZES[3], SIZES[4], SIZES[5], ("attention.layer_norm_epsilon", "layer_norm_eps")];

/// Towers whose images are of any size.
const FREE: &[(&str, &str)] = &[SIZES[1], SIZES[2], SIZES[3], SIZES[4], SIZES[5], SIGLIP[6]];

const GEMMA4: &[(&str, &str)] = &[SIZES[1], SIZES[2], SIZES[3], SIZES[4], SIZES[5], (SIGLIP[6].0, "rms_norm_eps")];

const LLAMA4: &[(&str, &str)] =
    &[SIZES[0], SIZES[1], SIZES[2], SIZES[3], SIZES[4], SIZES[5], (SIGLIP[6].0, "norm_eps")];

/// Towers that count their layers as depth.
const DEPTH: &[(&str, &str)] = &[
    ("patch_size", "patch_size"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("block_count", "depth"),
    ("attention.head_count", "num_heads"),
    ("projection_dim", "out_hidden_size"),
];

const GLM4: &[(&str, &str)] = &[
    ("image_size", "image_size"),
    DEPTH[0],
    DEPTH[1],
    DEPTH[2],
    DEPTH[3],
    DEPTH[4],
    DEPTH[5],
    (SIGLIP[6].0, "rms_norm_eps"),
];

const ENCODER: &[(&str, &str)] = &[
    ("embedding_length", "d_model"),
    ("feed_forward_length", "encoder_ffn_dim"),
    ("block_count", "encoder_layers"),
    ("attention.head_count", "encoder_attention_heads"),
    ("num_mel_bins", "num_mel_bins"),
];

const WIDTH: &[(&str, &str)] = &[
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("block_count", "num_hidden_layers"),
    ("attention.head_count", "num_attention_heads"),
    ("num_mel_bins", "num_mel_bins"),
];

/// The text model behind a name of its own, its head beside it.
const INSIDE: &[(&str, &str)] = &[("model.", "model.language_model.")];

/// The text model with its head behind a name.
const WHOLE: &[(&str, &str)] = &[("", "language_model.")];

/// The classes, those first that are taken where a kind is that of several.
pub(crate) const WRAPPERS: &[Wrapper] = &[
    Wrapper {
        class: "Gemma3ForConditionalGeneration",
        model_type: "gemma3",
        kinds: &["gemma3"],
        text: &["Gemma3ForCausalLM"],
        text_names: WHOLE,
        names: &[("vision.", "vision_tower.vision_model.")],
        avoid: &[".mm_input_projection"],
        tower: "siglip_vision_model",
        vision: SIGLIP,
        processor: "Gemma3ImageProcessor",
        derive: gemma3,
        ..BASE
    },
    Wrapper {
        class: "Gemma4ForConditionalGeneration",
        model_type: "gemma4",
        kinds: &["gemma4v"],
        text: &["Gemma4ForCausalLM"],
        text_names: INSIDE,
        // Projections are inside of what clips their values.
        rename: |name| match name.strip_suffix("_proj.weight").filter(|stem| stem.contains(".encoder.layers.")) {
            Some(stem) => format!("{stem}_proj.linear.weight"),
            None => name,
        },
        tower: "gemma4_vision",
        vision: GEMMA4,
        processor: "Gemma4ImageProcessor",
        derive: gemma4,
        fits: |keys| !keys.flag("has_audio_encoder").unwrap_or(false),
        assumed: &[("pooling_kernel_size", "3")],
        ..BASE
    },
    Wrapper {
        class: "Gemma4ForConditionalGeneration",
        kinds: &["gemma4v"],
        text: &["Gemma4ForCausalLM"],
        fits: |keys| keys.flag("has_audio_encoder") == Some(true),
        refused: Some("the scales of its encoder of sound went through a softplus"),
        ..BASE
    },
    Wrapper { class: "SmolVLMForConditionalGeneration", model_type: "smolvlm", tower: "smolvlm_vision", ..IDEFICS },
    Wrapper { class: "Idefics3ForConditionalGeneration", model_type: "idefics3", tower: "idefics3_vision", ..IDEFICS },
    Wrapper {
        class: "InternVLChatModel",
        model_type: "internvl_chat",
        kinds: &["internvl"],
        text: &[
            "Qwen2ForCausalLM",
            "Qwen3ForCausalLM",
            "Qwen3MoeForCausalLM",
            "LlamaForCausalLM",
            "InternLM2ForCausalLM",
        ],
        text_field: "llm_config",
        text_names: WHOLE,
        names: &[("vision.", "vision_model.")],
        avoid: &[
            "encoder.layer.",
            "cls_token",
            "patch_embeddings",
            "position_embeddings",
            "multi_modal_projector",
            "self_attn.",
            "layer_norm",
        ],
        tower: "intern_vit_6b",
        vision: SIGLIP,
        processor: "CLIPImageProcessor",
        derive: internvl,
        in_library: false,
        ..BASE
    },
    Wrapper {
        class: "Lfm2VlForConditionalGeneration",
        model_type: "lfm2_vl",
        kinds: &["lfm2"],
        text: &["Lfm2ForCausalLM"],
        text_names: INSIDE,
        names: &[
            ("vision.", "model.vision_tower.vision_model."),
            ("multi_modal_projector.", "model.multi_modal_projector."),
        ],
        tower: "siglip2_vision_model",
        vision: FREE,
        processor: "Lfm2VlImageProcessorFast",
        derive: lfm2,
        ..BASE
    },
    Wrapper {
        class: "LightOnOCRForConditionalGeneration",
        model_type: "lighton_ocr",
        kinds: &["lightonocr"],
        text: &["Qwen3ForCausalLM"],
        text_names: INSIDE,
        names: &[("vision_tower.", "model.vision_encoder."), ("multi_modal_projector.", "model.vision_projection.")],
        processor: "PixtralImageProcessorFast",
        ..PIXTRAL
    },
    Wrapper {
        class: "Mistral3ForConditionalGeneration",
        model_type: "mistral3",
        text: &["Mistral3ForConditionalGeneration", "Ministral3ForCausalLM", "MistralForCausalLM"],
        fits: |keys| keys.has_tensor("mm.patch_merger.weight"),
        ..PIXTRAL
    },
    Wrapper {
        class: "LlavaForConditionalGeneration",
        model_type: "llava",
        text: &["MistralForCausalLM", "LlamaForCausalLM"],
        fits: |keys| !keys.has_tensor("mm.patch_merger.weight"),
        ..PIXTRAL
    },
    Wrapper {
        class: "LlavaForConditionalGeneration",
        model_type: "llava",
        kinds: &["mlp"],
        text: &["LlamaForCausalLM", "MistralForCausalLM"],
        text_names: WHOLE,
        names: &[("vision.", "vision_tower.vision_model.")],
        tower: "clip_vision_model",
        vision: SIGLIP,
        processor: "CLIPImageProcessor",
        derive: llava,
        lost: "the layers of the tower behind the last that is seen with, and the norm behind them",
        ..BASE
    },
    Wrapper {
        class: "Llama4ForConditionalGeneration",
        model_type: "llama4",
        kinds: &["llama4"],
        text: &["Llama4ForCausalLM"],
        text_names: WHOLE,
        tower: "llama4_vision_model",
        vision: LLAMA4,
        processor: "Llama4ImageProcessorFast",
        derive: llama4,
        ..BASE
    },
    Wrapper {
        class: "MiniCPMV4_6ForConditionalGeneration",
        model_type: "minicpmv4_6",
        kinds: &["minicpmv4_6"],
        text: &["Qwen3_5ForCausalLM"],
        text_names: INSIDE,
        names: &[("vision.", "model.vision_tower.")],
        tower: "minicpmv4_6_vision",
        vision: SIGLIP,
        processor: "MiniCPMV4_6ImageProcessor",
        derive: minicpm,
        ..BASE
    },
    Wrapper {
        class: "Qwen2VLForConditionalGeneration",
        model_type: "qwen2_vl",
        kinds: &["qwen2vl_merger"],
        text: &["Qwen2VLForConditionalGeneration"],
        avoid: QWEN2_VL_AVOIDS,
        tower: "qwen2_vl_vision",
        vision: QWEN2_VL,
        derive: qwen2,
        ..QWEN2
    },
    Wrapper {
        class: "Qwen2_5_VLForConditionalGeneration",
        model_type: "qwen2_5_vl",
        kinds: &["qwen2.5vl_merger"],
        text: &["Qwen2_5_VLForConditionalGeneration"],
        tower: "qwen2_5_vl_vision",
        derive: qwen25,
        assumed: &[("window_size", "112"), ("temporal_patch_size", "2")],
        ..QWEN2
    },
    Wrapper {
        class: "Qwen2_5OmniModel",
        kinds: &["qwen2.5o"],
        text: &["Qwen2_5OmniModel"],
        refused: Some("what it speaks with, and the marks around sound, are in no file"),
        ..BASE
    },
    Wrapper {
        class: "Exaone4_5_ForConditionalGeneration",
        model_type: "exaone4_5",
        kinds: &["exaone4_5"],
        text: &["Exaone4ForCausalLM"],
        text_names: INSIDE,
        names: &[("visual.", "model.visual.")],
        tower: "exaone4_5_vision",
        vision: &[
            DEPTH[0],
            DEPTH[1],
            DEPTH[2],
            DEPTH[3],
            DEPTH[4],
            DEPTH[5],
            ("attention.head_count_kv", "num_key_value_heads"),
            ("window_size", "window_size"),
        ],
        derive: exaone,
        ..QWEN2
    },
    Wrapper {
        class: "Qwen3VLForConditionalGeneration",
        model_type: "qwen3_vl",
        text: &["Qwen3VLForConditionalGeneration"],
        tower: "qwen3_vl_vision",
        ..QWEN3
    },
    Wrapper {
        class: "Qwen3VLMoeForConditionalGeneration",
        model_type: "qwen3_vl_moe",
        text: &["Qwen3VLMoeForConditionalGeneration"],
        tower: "qwen3_vl_moe_vision",
        ..QWEN3
    },
    Wrapper {
        class: "Qwen3_5ForConditionalGeneration",
        model_type: "qwen3_5",
        text: &["Qwen3_5ForCausalLM"],
        tower: "qwen3_5_vision",
        ..QWEN3
    },
    Wrapper {
        class: "Qwen3_5MoeForConditionalGeneration",
        model_type: "qwen3_5_moe",
        text: &["Qwen3_5MoeForCausalLM"],
        tower: "qwen3_5_moe_vision",
        ..QWEN3
    },
    Wrapper {
        class: "Glm4vForConditionalGeneration",
        model_type: "glm4v",
        text: &["Glm4vForConditionalGeneration"],
        tower: "glm4v_vision",
        processor: "Glm4vImageProcessor",
        fits: |keys| !keys.has_tensor("attn_q_norm.weight"),
        ..GLM
    },
    Wrapper {
        class: "GlmOcrForConditionalGeneration",
        model_type: "glm_ocr",
        text: &["GlmOcrForConditionalGeneration"],
        tower: "glm_ocr_vision",
        processor: "Glm46VImageProcessor",
        fits: |keys| keys.has_tensor("attn_q_norm.weight"),
        ..GLM
    },
    Wrapper {
        class: "Glm4vMoeForConditionalGeneration",
        model_type: "glm4v_moe",
        text: &["Glm4MoeForCausalLM"],
        text_type: Some("glm4v_moe_text"),
        tower: "glm4v_moe_vision",
        processor: "Glm4vImageProcessor",
        fits: |keys| !keys.has_tensor("attn_q_norm.weight"),
        ..GLM
    },
    Wrapper {
        class: "Glm5NextForConditionalGeneration",
        model_type: "glm5_next",
        kinds: &["glm5v"],
        text: &["Glm5NextForConditionalGeneration"],
        tower: "glm5_next_vision",
        processor: "Glm46VImageProcessor",
        derive: glm5,
        ..GLM
    },
    Wrapper {
        class: "Sarashina2VisionForCausalLM",
        model_type: "sarashina2_vision",
        kinds: &["qwen2vl_merger"],
        text: &["LlamaForCausalLM"],
        text_names: &[("", "llm.")],
        avoid: QWEN2_VL_AVOIDS,
        vision: QWEN2_VL,
        derive: qwen2,
        in_library: false,
        ..QWEN2
    },
    Wrapper {
        class: "Qwen4ExpForConditionalGeneration",
        model_type: "qwen4_exp",
        text: &["Qwen4ExpForConditionalGeneration"],
        tower: "qwen4_exp_vision",
        ..QWEN3
    },
    Wrapper {
        class: "BailingMoeV3VLForConditionalGeneration",
        model_type: "bailing_moe_v3_vl",
        kinds: &["ling3vl"],
        text: &["BailingMoeV3VLForConditionalGeneration"],
        derive: ling,
        in_library: false,
        ..QWEN3
    },
    Wrapper {
        class: "KimiVLForConditionalGeneration",
        model_type: "kimi_vl",
        kinds: &["kimivl"],
        text: &["DeepseekV3ForCausalLM"],
        text_names: WHOLE,
        tower: "moonvit",
        vision: FREE,
        processor: "KimiVLImageProcessor",
        derive: kimi_vl,
        square: &["patch_embed.pos_emb"],
        in_library: false,
        ..BASE
    },
    Wrapper {
        class: "KimiK25ForConditionalGeneration",
        model_type: "kimi_k25",
        kinds: &["kimik25"],
        text: &["DeepseekV3ForCausalLM"],
        text_names: WHOLE,
        names: &[
            ("mm_projector.proj.linear_1.", "mm_projector.proj.0."),
            ("mm_projector.proj.linear_2.", "mm_projector.proj.2."),
        ],
        tower: "kimi_k25_vision",
        vision: &[SIZES[1], SIZES[2], SIZES[3], SIZES[4], SIZES[5], (SIGLIP[6].0, "projector_ln_eps")],
        processor: "KimiK25VisionProcessor",
        derive: kimi_k25,
        ..BASE
    },
    Wrapper {
        class: "YoutuVLForConditionalGeneration",
        model_type: "youtu_vl",
        kinds: &["youtuvl"],
        text: &["YoutuForCausalLM", "DeepseekV3ForCausalLM", "DeepseekV2ForCausalLM"],
        text_field: "",
        flat: true,
        names: &[("vision.", "siglip2.vision_model.")],
        tower: "siglip2_vision_model",
        vision: &[
            SIZES[0],
            SIZES[1],
            SIZES[2],
            SIZES[3],
            SIZES[4],
            SIZES[5],
            SIGLIP[6],
            ("wa_layer_indexes", "fullatt_block_indexes"),
            ("window_size", "window_size"),
            ("spatial_merge_size", "spatial_merge_size"),
        ],
        processor: "Siglip2ImageProcessorFast",
        derive: |keys, out| {
            let silu = keys.flag("use_silu") == Some(true);
            set(&mut out.vision, "hidden_act", if silu { "silu" } else { "gelu_pytorch_tanh" });
        },
        in_library: false,
        lost: "the head of the tower and its table of positions, which the model does not use",
        ..BASE
    },
    Wrapper {
        class: "Gemma3nForConditionalGeneration",
        model_type: "gemma3n",
        kinds: &["gemma3nv", "gemma3na"],
        text: &["Gemma3nForCausalLM"],
        text_names: INSIDE,
        tower: "gemma3n_vision",
        vision: &[("embedding_length", "hidden_size")],
        audio: &[
            ("embedding_length", "hidden_size"),
            ("block_count", "conf_num_hidden_layers"),
            ("attention.head_count", "conf_num_attention_heads"),
            ("num_mel_bins", "input_feat_size"),
        ],
        processor: "SiglipImageProcessorFast",
        derive: gemma3n,
        ..BASE
    },
    Wrapper {
        class: "Gemma4UnifiedForConditionalGeneration",
        model_type: "gemma4_unified",
        kinds: &["gemma4uv", "gemma4ua"],
        text: &["Gemma4UnifiedForConditionalGeneration"],
        text_names: INSIDE,
        tower: "gemma4_unified_vision",
        vision: &[SIZES[1], (SIZES[2].0, "mm_embed_dim"), (SIGLIP[6].0, "rms_norm_eps")],
        audio: &[(SIZES[2].0, "audio_embed_dim")],
        processor: "Gemma4ImageProcessor",
        derive: gemma4_unified,
        ..BASE
    },
    Wrapper {
        class: "MiniMaxM3SparseForConditionalGeneration",
        model_type: "minimax_m3_vl",
        kinds: &["minimax_m3"],
        text: &["MiniMaxM3SparseForCausalLM"],
        text_type: Some("minimax_m3_vl_text"),
        text_names: WHOLE,
        names: &[("vision.", "vision_tower.vision_model.")],
        tower: "minimax_m3_vl_vision",
        vision: SIGLIP,
        processor: "Qwen2VLImageProcessorFast",
        derive: minimax,
        assumed: &[("temporal_patch_size", "2")],
        ..BASE
    },
    Wrapper {
        class: "Phi4ForCausalLMV",
        model_type: "phi4-siglip",
        kinds: &["phi4"],
        text: &["Phi3ForCausalLM"],
        text_field: "",
        flat: true,
        names: &[
            ("vision.", "model.vision_tower.vision_tower.vision_model."),
            ("mm_projector.", "model.mm_projector."),
        ],
        tower: "siglip2_vision_model",
        vision: &[SIZES[2], SIZES[3], SIZES[4], SIZES[5], SIGLIP[6]],
        processor: "Siglip2ImageProcessor",
        derive: phi4,
        inspected: phi4_sizes,
        in_library: false,
        lost: "the last layer of the tower, and the norm and head behind it, which the model does not use",
        ..BASE
    },
    Wrapper {
        class: "DotsOCRForCausalLM",
        model_type: "dots_ocr",
        kinds: &["dots_ocr"],
        text: &["Qwen2ForCausalLM"],
        text_field: "",
        flat: true,
        tower: "dots_vit",
        vision: &[
            SIZES[1],
            SIZES[2],
            SIZES[3],
            SIZES[4],
            SIZES[5],
            (SIGLIP[6].0, "rms_norm_eps"),
            ("projector.scale_factor", "spatial_merge_size"),
        ],
        processor: "Qwen2VLImageProcessor",
        derive: |keys, out| {
            number(keys, "vision.embedding_length", &mut out.vision, "embed_dim");
            set(&mut out.vision, "hidden_act", "silu");
            set(&mut out.vision, "use_bias", keys.has_tensor("attn_qkv.bias"));
            number(keys, "vision.projector.scale_factor", &mut out.processor, "merge_size");
            number(keys, "vision.patch_size", &mut out.processor, "patch_size");
            pixels(keys, out);
        },
        in_library: false,
        ..BASE
    },
    Wrapper {
        class: "StepVLForConditionalGeneration",
        model_type: "step_vl",
        text: &["Qwen3ForCausalLM"],
        vision: &[SIZES[0], SIZES[1], (SIZES[2].0, "width"), (SIZES[4].0, "layers"), (SIZES[5].0, "heads"), SIGLIP[6]],
        in_library: false,
        ..STEP
    },
    Wrapper {
        class: "Step3p7ForConditionalGeneration",
        model_type: "step3p7",
        text: &["Step3p5ForCausalLM"],
        tower: "step3p5_vision",
        vision: SIGLIP,
        ..STEP
    },
    Wrapper {
        class: "Qwen3ASRForConditionalGeneration",
        model_type: "qwen3_asr",
        kinds: &["qwen3a"],
        text: &["Qwen3ASRForConditionalGeneration"],
        outer: Some("thinker_config"),
        text_names: &[("", "thinker.")],
        names: &[("audio_tower.", "thinker.audio_tower.")],
        avoid: &["audio_tower.layer_norm"],
        tower: "qwen3_asr_audio_encoder",
        audio: ENCODER,
        derive: |keys, out| {
            set(&mut out.audio, "activation_function", "gelu");
            set(&mut out.processor, "feature_extractor_type", "WhisperFeatureExtractor");
            number(keys, "audio.num_mel_bins", &mut out.processor, "feature_size");
            number(keys, "audio.projection_dim", &mut out.audio, "output_dim");
            if let Some(channels) = keys.first_dimension("a.conv2d.1.weight") {
                set(&mut out.audio, "downsample_hidden_size", channels);
            }
        },
        in_library: false,
        ..BASE
    },
    Wrapper {
        class: "PaddleOCRVLForConditionalGeneration",
        model_type: "paddleocr_vl",
        kinds: &["paddleocr"],
        text: &["PaddleOCRVLForConditionalGeneration"],
        names: &[("vision.", "visual.vision_model.")],
        tower: "paddleocr_vl_vision",
        vision: FREE,
        processor: "PaddleOCRVLImageProcessor",
        derive: paddle,
        lost: "the head of the tower and its table of packed positions, which the model does not use",
        ..BASE
    },
    Wrapper {
        class: "HunYuanVLForConditionalGeneration",
        model_type: "hunyuan_vl",
        kinds: &["hunyuanvl"],
        text: &["HunYuanVLForConditionalGeneration"],
        tower: "hunyuan_vl_vision",
        vision: &[
            (SIZES[0].0, "max_image_size"),
            SIZES[1],
            SIZES[2],
            SIZES[3],
            SIZES[4],
            SIZES[5],
            (SIGLIP[6].0, "rms_norm_eps"),
            ("spatial_merge_size", "spatial_merge_size"),
        ],
        processor: "HunYuanVLImageProcessor",
        derive: hunyuan,
        first_position: 1,
        lost: "the position of a class token, which the model does not have",
        ..BASE
    },
    Wrapper {
        class: "DeepseekOCRForCausalLM",
        kinds: &["deepseekocr"],
        text: &["DeepseekOCRForCausalLM"],
        derive: deepseek_ocr,
        fits: |keys| keys.u64("vision.preproc_max_tiles") != Some(UNLIMITED_TILES),
        ..DEEPSEEK_OCR
    },
    Wrapper {
        class: "UnlimitedOCRForCausalLM",
        kinds: &["deepseekocr"],
        text: &["UnlimitedOCRForCausalLM"],
        derive: deepseek_ocr,
        fits: |keys| keys.u64("vision.preproc_max_tiles") == Some(UNLIMITED_TILES),
        ..DEEPSEEK_OCR
    },
    Wrapper {
        class: "DeepseekOCR2ForCausalLM",
        kinds: &["deepseekocr2"],
        text: &["DeepseekOCRForCausalLM"],
        avoid: &["vision_model."],
        vision: &[SIZES[0], SIZES[1], SIZES[3], (SIZES[4].0, "layers"), SIZES[5], SIGLIP[6], WINDOW],
        derive: |keys, out| {
            deepseek_sam(keys, out);
            out.vision["width"]["qwen2-0-5b"] = json!({"dim": keys.u64("vision.embedding_length")});
        },
        ..DEEPSEEK_OCR
    },
    Wrapper { class: "Dots3NoteForConditionalGeneration", text: &["Dots3NoteForConditionalGeneration"], ..DOTS3_NOTE },
    Wrapper { class: "Dots3NoteForCausalLM", text: &["Dots3NoteForCausalLM"], ..DOTS3_NOTE },
    Wrapper {
        class: "MuseGlimmerForConditionalGeneration",
        kinds: &["muse-glimmer"],
        refused: Some("its projector file has the sum of the weights of several frames"),
        ..BASE
    },
    Wrapper {
        class: "Qwen2AudioForConditionalGeneration",
        model_type: "qwen2_audio",
        kinds: &["qwen2a"],
        text: &["Qwen2ForCausalLM"],
        text_names: WHOLE,
        tower: "qwen2_audio_encoder",
        audio: ENCODER,
        derive: |keys, out| positions(keys, out),
        ..BASE
    },
    Wrapper {
        class: "VoxtralForConditionalGeneration",
        model_type: "voxtral",
        kinds: &["voxtral"],
        text: &["LlamaForCausalLM"],
        text_names: WHOLE,
        tower: "voxtral_encoder",
        audio: WIDTH,
        derive: |keys, out| {
            positions(keys, out);
            out.top.insert("projector_hidden_act".into(), "gelu".into());
            if let Some(width) = keys.u64("audio.projection_dim") {
                out.top.insert("hidden_size".into(), width.into());
            }
        },
        ..BASE
    },
    Wrapper {
        class: "AudioFlamingo3ForConditionalGeneration",
        model_type: "audioflamingo3",
        kinds: &["musicflamingo"],
        text: &["Qwen2ForCausalLM"],
        text_names: WHOLE,
        tower: "audioflamingo3_encoder",
        audio: WIDTH,
        derive: |keys, out| {
            positions(keys, out);
            out.top.insert("projector_hidden_act".into(), "gelu".into());
            out.top.insert("projector_bias".into(), keys.has_tensor("mm.a.mlp.1.bias").into());
        },
        ..BASE
    },
    Wrapper {
        class: "JanusForConditionalGeneration",
        kinds: &["janus_pro"],
        refused: Some("what it draws with is in no file"),
        ..BASE
    },
    Wrapper {
        class: "GraniteSpeechForConditionalGeneration",
        kinds: &["granite_speech"],
        refused: Some("weight, mean and variance of its batch norms became one weight and one bias"),
        ..BASE
    },
    Wrapper {
        class: "UltravoxModel",
        kinds: &["ultravox"],
        refused: Some("its folder holds the encoder alone, the text model is a folder of its own"),
        ..BASE
    },
];

/// The tiles of the largest image of Unlimited-OCR.
const UNLIMITED_TILES: u64 = 32;

const WINDOW: (&str, &str) = ("window_size", "window_size");

const QWEN2_VL_AVOIDS: &[&str] = &[".attn.q", ".attn.k", ".attn.v", "linear_fc", "mlp.up_proj", "mlp.down_proj"];

const QWEN2_VL: &[(&str, &str)] = &[
    ("patch_size", "patch_size"),
    ("embedding_length", "embed_dim"),
    ("feed_forward_length", "hidden_size"),
    ("block_count", "depth"),
    ("attention.head_count", "num_heads"),
];

const STEP: Wrapper = Wrapper {
    kinds: &["step3vl"],
    rename: |name| {
        let scale = [".ls_1.weight", ".ls_2.weight"].into_iter().find_map(|end| name.strip_suffix(end).zip(Some(end)));
        match scale {
            Some((stem, end)) => format!("{stem}{}", end.replace(".weight", ".gamma")),
            None => name.replace("in_proj.", "in_proj_"),
        }
    },
    processor: "Step3VisionProcessor",
    derive: step,
    ..BASE
};

const DEEPSEEK_OCR: Wrapper = Wrapper {
    model_type: "deepseek_vl_v2",
    text_field: "language_config",
    flat: true,
    text_class: Some("DeepseekV2ForCausalLM"),
    avoid: &["qwen2_model."],
    tower: "vision",
    vision: &[SIGLIP[6], WINDOW],
    processor: "DeepseekOCRImageProcessor",
    in_library: false,
    ..BASE
};

const DOTS3_NOTE: Wrapper = Wrapper {
    model_type: "dots3_note",
    kinds: &["dots3note_v", "dots3note_a"],
    text_field: "",
    flat: true,
    rename: |name| match name.strip_suffix(".weight") {
        Some(stem) if stem.ends_with(".gate_weight") || stem.ends_with(".router_bias") => stem.to_owned(),
        _ => name,
    },
    vision: &[
        SIZES[1],
        (SIZES[2].0, "embed_dim"),
        SIZES[3],
        SIZES[4],
        SIZES[5],
        (SIGLIP[6].0, "rms_norm_eps"),
        ("projection_dim", "hidden_size"),
        ("spatial_merge_size", "spatial_merge_size"),
    ],
    audio: &[("num_mel_bins", "num_mel_bins")],
    processor: "Dots3NoteImageProcessor",
    derive: dots3_note,
    ..BASE
};

const IDEFICS: Wrapper = Wrapper {
    kinds: &["idefics3"],
    text: &["LlamaForCausalLM"],
    text_names: &[("model.", "model.text_model.")],
    names: &[("vision.", "model.vision_model.")],
    vision: SIGLIP,
    processor: "Idefics3ImageProcessor",
    derive: |keys, out| {
        set(&mut out.vision, "hidden_act", "gelu_pytorch_tanh");
        number(keys, "vision.projector.scale_factor", &mut out.top, "scale_factor");
        for (key, field) in [("vision.preproc_image_size", "size"), ("vision.image_size", "max_image_size")] {
            if let Some(size) = keys.u64(key) {
                out.processor.insert(field.into(), json!({"longest_edge": size}));
            }
        }
    },
    ..BASE
};

const PIXTRAL: Wrapper = Wrapper {
    kinds: &["pixtral"],
    text_names: WHOLE,
    tower: "pixtral",
    vision: SIZES,
    processor: "PixtralImageProcessor",
    derive: pixtral,
    copies: &["v.token_embd.img_break"],
    ..BASE
};

const QWEN2: Wrapper = Wrapper {
    avoid: &[".attn.q", ".attn.k", ".attn.v", "mlp.fc", "linear_fc"],
    vision: DEPTH,
    processor: "Qwen2VLImageProcessor",
    assumed: &[("temporal_patch_size", "2")],
    ..BASE
};

const QWEN3: Wrapper = Wrapper {
    kinds: &["qwen3vl_merger"],
    text_names: INSIDE,
    names: &[("visual.", "model.visual.")],
    avoid: &["mlp.fc", "mlp.up_proj", "mlp.down_proj"],
    vision: DEPTH,
    processor: "Qwen2VLImageProcessorFast",
    derive: qwen3,
    assumed: &[("temporal_patch_size", "2")],
    ..BASE
};

const GLM: Wrapper = Wrapper {
    kinds: &["glm4v"],
    text_names: INSIDE,
    names: &[("visual.", "model.visual.")],
    avoid: &["mlp.fc", "linear_fc"],
    vision: GLM4,
    derive: |keys, out| {
        merged(keys, out, "mm.patch_merger.weight");
        set(&mut out.vision, "hidden_act", "silu");
        out.vision.insert("attention_bias".into(), keys.has_tensor("v.blk.0.attn_qkv.bias").into());
    },
    assumed: &[("temporal_patch_size", "2")],
    ..BASE
};

fn set(map: &mut Map<String, Json>, field: &str, value: impl Into<Json>) {
    map.insert(field.to_owned(), value.into());
}

/// A number of a key under a field.
fn number(keys: &Keys<'_>, key: &str, map: &mut Map<String, Json>, field: &str) {
    if let Some(n) = keys.u64(key) {
        set(map, field, n);
    }
}

/// Values of a head of a tower that sees.
fn head_dim(keys: &Keys<'_>, out: &mut Fields) {
    let (width, heads) = (keys.u64("vision.embedding_length"), keys.u64("vision.attention.head_count"));
    if let Some(head) = width.zip(heads).and_then(|(width, heads)| width.checked_div(heads)) {
        set(&mut out.vision, "head_dim", head);
    }
}

/// The inverse of how many places to a side the projector takes as one.
fn set_ratio(keys: &Keys<'_>, map: &mut Map<String, Json>, field: &str) {
    if let Some(factor) = keys.u64("vision.projector.scale_factor").filter(|n| *n > 0) {
        set(map, field, float((1.0 / factor as f64) as f32));
    }
}

/// How many values a tensor takes and gives, as a matrix.
fn shape(keys: &Keys<'_>, name: &str) -> Option<(u64, u64)> {
    match *keys.shape(name)? {
        [out, taken] => Some((taken, out)),
        _ => None,
    }
}

fn gemma3(keys: &Keys<'_>, out: &mut Fields) {
    set(&mut out.vision, "hidden_act", "gelu_pytorch_tanh");
    set(&mut out.vision, "vision_use_head", false);
    let factor = keys.u64("vision.projector.scale_factor").unwrap_or(4);
    let size = keys.u64("vision.image_size").unwrap_or(0);
    let side = keys.u64("vision.patch_size").and_then(|patch| size.checked_div(patch)?.checked_div(factor));
    if let Some(tokens) = side.and_then(|side| side.checked_mul(side)) {
        set(&mut out.top, "mm_tokens_per_image", tokens);
        set(&mut out.processor, "image_seq_length", tokens);
    }
    out.processor.insert("size".into(), json!({"height": size, "width": size}));
}

fn gemma4(keys: &Keys<'_>, out: &mut Fields) {
    set(&mut out.vision, "hidden_activation", "gelu_pytorch_tanh");
    head_dim(keys, out);
    number(keys, "vision.attention.head_count", &mut out.vision, "num_key_value_heads");
    if let Some(table) = keys.shape("v.position_embd.weight").filter(|shape| shape.len() == 3) {
        set(&mut out.vision, "position_embedding_size", table[1]);
    }
    set(&mut out.vision, "standardize", keys.has_tensor("v.std_bias"));
    set(&mut out.vision, "use_clipped_linears", keys.has_tensor("attn_q.input_max"));
    out.top.insert("audio_config".into(), Json::Null);
}

fn internvl(keys: &Keys<'_>, out: &mut Fields) {
    out.vision.insert("architectures".into(), json!(["InternVisionModel"]));
    set(&mut out.vision, "hidden_act", if keys.flag("use_silu") == Some(true) { "silu" } else { "gelu" });
    set(&mut out.vision, "qkv_bias", keys.has_tensor("v.blk.0.attn_q.bias"));
    set(&mut out.vision, "qk_normalization", keys.has_tensor("attn_q_norm.weight"));
    set(&mut out.vision, "norm_type", if keys.has_tensor("ln1.bias") { "layer_norm" } else { "rms_norm" });
    set_ratio(keys, &mut out.top, "downsample_ratio");
    number(keys, "vision.preproc_min_tiles", &mut out.top, "min_dynamic_patch");
    number(keys, "vision.preproc_max_tiles", &mut out.top, "max_dynamic_patch");
    number(keys, "vision.image_size", &mut out.top, "force_image_size");
    set(&mut out.top, "select_layer", -1);
    set(&mut out.top, "ps_version", "v2");
}

fn lfm2(keys: &Keys<'_>, out: &mut Fields) {
    set(&mut out.vision, "hidden_act", "gelu_pytorch_tanh");
    set(&mut out.vision, "vision_use_head", false);
    if let Some((_, places)) = shape(keys, "v.position_embd.weight") {
        set(&mut out.vision, "num_patches", places);
    }
    number(keys, "vision.projector.scale_factor", &mut out.top, "downsample_factor");
    if let Some((_, wide)) = shape(keys, "mm.1.weight") {
        set(&mut out.top, "projector_hidden_size", wide);
    }
    set(&mut out.top, "projector_hidden_act", "gelu");
    set(&mut out.top, "projector_bias", keys.has_tensor("mm.1.bias"));
    set(&mut out.top, "projector_use_layernorm", keys.has_tensor("mm.input_norm.weight"));
    set(&mut out.top, "vision_feature_layer", -1);
}

fn pixtral(keys: &Keys<'_>, out: &mut Fields) {
    set(&mut out.vision, "hidden_act", if keys.flag("use_gelu") == Some(true) { "gelu" } else { "silu" });
    head_dim(keys, out);
    number(keys, "vision.spatial_merge_size", &mut out.top, "spatial_merge_size");
    number(keys, "vision.patch_size", &mut out.processor, "patch_size");
    if let Some(size) = keys.u64("vision.image_size") {
        out.processor.insert("size".into(), json!({"longest_edge": size}));
    }
    set(&mut out.top, "projector_hidden_act", "gelu");
    set(&mut out.top, "multimodal_projector_bias", keys.has_tensor("mm.1.bias"));
    set(&mut out.top, "vision_feature_layer", -1);
    if !keys.has_tensor("mm.patch_merger.weight") {
        set(&mut out.top, "vision_feature_select_strategy", "full");
    }
}

fn llava(keys: &Keys<'_>, out: &mut Fields) {
    number(keys, "vision.projection_dim", &mut out.vision, "projection_dim");
    set(&mut out.vision, "hidden_act", if keys.flag("use_gelu") == Some(true) { "gelu" } else { "quick_gelu" });
    let layers = keys.u64("vision.block_count").unwrap_or(0);
    // Layers that are counted from the last are as many as the file has.
    let taken = keys.list("vision.feature_layer").unwrap_or_default();
    let counted: Vec<Json> = taken.iter().map(|n| if *n == layers { json!(-1) } else { json!(n) }).collect();
    out.top.insert(
        "vision_feature_layer".into(),
        match counted.as_slice() {
            [one] => one.clone(),
            all => json!(all),
        },
    );
    set(&mut out.top, "projector_hidden_act", "gelu");
    set(&mut out.top, "multimodal_projector_bias", keys.has_tensor("mm.0.bias"));
    set(&mut out.top, "vision_feature_select_strategy", "default");
    if let Some(size) = keys.u64("vision.image_size") {
        out.processor.insert("size".into(), json!({"shortest_edge": size}));
        out.processor.insert("crop_size".into(), json!({"height": size, "width": size}));
    }
}

fn llama4(keys: &Keys<'_>, out: &mut Fields) {
    set(&mut out.vision, "hidden_act", "gelu");
    set_ratio(keys, &mut out.vision, "pixel_shuffle_ratio");
    if let Some((_, wide)) = shape(keys, "mm.model.mlp.1.weight") {
        set(&mut out.vision, "projector_input_dim", wide);
    }
    if let Some((_, wide)) = shape(keys, "mm.model.mlp.2.weight") {
        set(&mut out.vision, "projector_output_dim", wide);
    }
    if let Some((wide, _)) = shape(keys, "mm.model.fc.weight") {
        set(&mut out.vision, "vision_output_dim", wide);
    }
    let size = keys.u64("vision.image_size").unwrap_or(0);
    out.processor.insert("size".into(), json!({"height": size, "width": size}));
}

fn minicpm(keys: &Keys<'_>, out: &mut Fields) {
    set(&mut out.vision, "hidden_act", "gelu_pytorch_tanh");
    if let Some([layer]) = keys.list("vision.wa_layer_indexes").as_deref() {
        set(&mut out.vision, "insert_layer_id", *layer);
        set(&mut out.top, "insert_layer_id", *layer);
    }
    let mode = if keys.u64("vision.projector.scale_factor") == Some(2) { "4x" } else { "16x" };
    set(&mut out.top, "downsample_mode", mode);
    set(&mut out.processor, "downsample_mode", mode);
    number(keys, "vision.image_size", &mut out.processor, "scale_resolution");
}

/// How many patches to a side become one: those whose values the projector takes at once, a square of them.
fn merged(keys: &Keys<'_>, out: &mut Fields, taker: &str) {
    let width = keys.u64("vision.embedding_length");
    let side = match keys.shape(taker).as_deref() {
        // A convolution over a square of patches.
        Some(&[_, _, side, _]) => Some(side),
        Some(&[_, taken]) => width.and_then(|width| taken.checked_div(width)).map(u64::isqrt),
        _ => None,
    };
    if let Some(side) = side {
        set(&mut out.vision, "spatial_merge_size", side);
        set(&mut out.processor, "merge_size", side);
    }
    set(&mut out.vision, "temporal_patch_size", 2);
    set(&mut out.vision, "in_channels", 3);
    set(&mut out.processor, "temporal_patch_size", 2);
    number(keys, "vision.patch_size", &mut out.processor, "patch_size");
}

fn qwen2(keys: &Keys<'_>, out: &mut Fields) {
    merged(keys, out, "mm.0.weight");
    set(&mut out.vision, "hidden_act", "quick_gelu");
    let wide = shape(keys, "v.blk.0.ffn_up.weight");
    if let Some(ratio) = wide.and_then(|(taken, given)| given.max(taken).checked_div(given.min(taken))) {
        set(&mut out.vision, "mlp_ratio", ratio);
    }
}

/// The layers that see the whole image, each as far from the one before.
fn whole_layers(keys: &Keys<'_>, out: &mut Fields) {
    let (Some(period), Some(layers)) = (keys.u64("vision.n_wa_pattern"), keys.u64("vision.block_count")) else {
        return;
    };
    if layers <= MAX_LAYERS as u64 && (1..=layers).contains(&period) {
        let whole: Vec<u64> = (1..=layers / period).map(|n| n * period - 1).collect();
        set(&mut out.vision, "fullatt_block_indexes", whole);
    }
}

fn qwen25(keys: &Keys<'_>, out: &mut Fields) {
    merged(keys, out, "mm.0.weight");
    set(&mut out.vision, "hidden_act", "silu");
    set(&mut out.vision, "window_size", 112);
    whole_layers(keys, out);
}

fn exaone(keys: &Keys<'_>, out: &mut Fields) {
    merged(keys, out, "mm.0.weight");
    set(&mut out.vision, "hidden_act", "silu");
    whole_layers(keys, out);
    number(keys, "vision.image_min_pixels", &mut out.processor, "min_pixels");
    number(keys, "vision.image_max_pixels", &mut out.processor, "max_pixels");
}

fn qwen3(keys: &Keys<'_>, out: &mut Fields) {
    merged(keys, out, "mm.0.weight");
    number(keys, "vision.spatial_merge_size", &mut out.vision, "spatial_merge_size");
    set(&mut out.vision, "hidden_act", "gelu_pytorch_tanh");
    if let Some((_, places)) = shape(keys, "v.position_embd.weight") {
        set(&mut out.vision, "num_position_embeddings", places);
    }
    let deep = keys.list("vision.is_deepstack_layers").unwrap_or_default();
    let deep: Vec<u64> = (0..).zip(deep).filter(|(_, is_deep)| *is_deep == 1).map(|(layer, _)| layer).collect();
    set(&mut out.vision, "deepstack_visual_indexes", deep);
}

/// The places of an encoder's table.
fn positions(keys: &Keys<'_>, out: &mut Fields) {
    set(&mut out.audio, "activation_function", "gelu");
    if let Some((_, places)) = shape(keys, "a.position_embd.weight") {
        set(&mut out.audio, "max_source_positions", places);
    }
    set(&mut out.processor, "feature_extractor_type", "WhisperFeatureExtractor");
    number(keys, "audio.num_mel_bins", &mut out.processor, "feature_size");
}

/// Between how many pixels the processor keeps images.
fn pixels(keys: &Keys<'_>, out: &mut Fields) {
    number(keys, "vision.image_min_pixels", &mut out.processor, "min_pixels");
    number(keys, "vision.image_max_pixels", &mut out.processor, "max_pixels");
}

/// How many squares of this side the pixels of a key are.
fn squares(keys: &Keys<'_>, pixels: &str, side: Option<u64>) -> Option<u64> {
    let area = side.and_then(|side| side.checked_mul(side))?;
    keys.u64(pixels)?.checked_div(area)
}

fn glm5(keys: &Keys<'_>, out: &mut Fields) {
    (GLM.derive)(keys, out);
    out.vision.insert("swiglu_limit".into(), keys.f32("vision.swiglu_clamp").map(float).into());
    if let Some((_, wide)) = shape(keys, "mm.up.weight") {
        set(&mut out.vision, "projection_intermediate_size", wide);
    }
    number(keys, "vision.spatial_merge_size", &mut out.vision, "spatial_merge_size");
    number(keys, "vision.spatial_merge_size", &mut out.processor, "merge_size");
    number(keys, "vision.patch_size", &mut out.processor, "patch_size");
    let side = keys.u64("vision.patch_size").zip(keys.u64("vision.spatial_merge_size"));
    let side = side.and_then(|(patch, merged)| patch.checked_mul(merged));
    for (key, field) in
        [("vision.image_min_pixels", "min_image_tokens"), ("vision.image_max_pixels", "max_image_tokens")]
    {
        if let Some(tokens) = squares(keys, key, side) {
            set(&mut out.processor, field, tokens);
        }
    }
}

fn ling(keys: &Keys<'_>, out: &mut Fields) {
    qwen3(keys, out);
    set(&mut out.vision, "disable_merger_proj", true);
    if let Some((wide, _)) = shape(keys, "mm.0.weight") {
        set(&mut out.vision, "out_hidden_size", wide);
    }
    out.vision.shift_remove("deepstack_visual_indexes");
}

fn kimi_vl(keys: &Keys<'_>, out: &mut Fields) {
    if let Some((_, places)) = shape(keys, "v.position_embd.weight") {
        for field in ["init_pos_emb_height", "init_pos_emb_width"] {
            set(&mut out.vision, field, places.isqrt());
        }
    }
    out.vision.insert("merge_kernel_size".into(), json!([2, 2]));
    number(keys, "vision.patch_size", &mut out.processor, "patch_size");
}

fn kimi_k25(keys: &Keys<'_>, out: &mut Fields) {
    // These keys are not under the architecture's name.
    for part in ["height", "width", "time"] {
        if let Some(size) = keys.whole_key(&format!("vision.pos_emb_{part}")) {
            set(&mut out.vision, &format!("init_pos_emb_{part}"), size);
            set(&mut out.vision, &format!("pos_emb_{part}"), size);
        }
    }
    // The model's own code has names of its own for the sizes.
    for field in ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"] {
        if let Some(value) = out.vision.get(field).cloned() {
            set(&mut out.vision, &format!("vt_{field}"), value);
        }
    }
    let merged = keys.u64("vision.projector.scale_factor");
    out.vision.insert("merge_kernel_size".into(), json!([merged, merged]));
    number(keys, "vision.projection_dim", &mut out.vision, "text_hidden_size");
    if let Some(width) = keys.first_dimension("mm.input_norm.weight") {
        set(&mut out.top, "projection_hidden_size", width);
    }
    let gelu = keys.flag("use_gelu") == Some(true);
    set(&mut out.vision, "projector_hidden_act", if gelu { "gelu" } else { "gelu_pytorch_tanh" });
    let most = squares(keys, "vision.image_max_pixels", keys.u64("vision.patch_size"));
    if let Some(most) = most {
        set(&mut out.processor, "in_patch_limit", most);
    }
    let media = json!({"in_patch_limit": most, "patch_size": keys.u64("vision.patch_size"),
        "image_mean": out.processor.get("image_mean"), "image_std": out.processor.get("image_std"),
        "merge_kernel_size": merged});
    out.processor.insert("media_proc_cfg".into(), media);
}

fn gemma3n(keys: &Keys<'_>, out: &mut Fields) {
    // Readers know one width of the feed-forward of sound, and MobileNet's has no meaning.
    for (sense, part, factor) in [("vision", &mut out.vision, 4), ("audio", &mut out.audio, 1)] {
        let width = keys.u64(&format!("{sense}.feed_forward_length")).filter(|width| width.is_multiple_of(factor));
        if let Some(width) = width {
            set(part, "intermediate_size", width / factor);
        }
    }
    number(keys, "vision.attention.head_count", &mut out.vision, "num_attention_heads");
    let (size, patch) = (keys.u64("vision.image_size"), keys.u64("vision.patch_size"));
    out.processor.insert("size".into(), json!({"height": size, "width": size}));
    if let Some(tokens) = size.zip(patch).and_then(|(size, patch)| size.checked_div(patch)) {
        set(&mut out.processor, "image_seq_length", tokens);
    }
    set(&mut out.audio, "model_type", "gemma3n_audio");
}

fn gemma4_unified(keys: &Keys<'_>, out: &mut Fields) {
    // The layer over patches takes all pixels of as many as are pooled.
    let side = keys.shape("v.patch_embd.weight").and_then(|shape| Some((shape.get(1)? / 3).isqrt()));
    if let Some(pooled) = side.zip(keys.u64("vision.patch_size")).and_then(|(side, patch)| side.checked_div(patch)) {
        set(&mut out.vision, "pooling_kernel_size", pooled);
    }
    if let Some(&[_, places, _]) = keys.shape("v.position_embd.weight").as_deref() {
        set(&mut out.vision, "mm_posemb_size", places);
    }
    if let Some((wide, _)) = shape(keys, "mm.input_projection.weight") {
        set(&mut out.vision, "output_proj_dims", wide);
    }
    set(&mut out.audio, "model_type", "gemma4_unified_audio");
}

fn minimax(keys: &Keys<'_>, out: &mut Fields) {
    set(&mut out.vision, "hidden_act", "gelu");
    let merged = keys.u64("vision.spatial_merge_size");
    out.vision.insert(
        "img_token_compression_config".into(),
        json!({"image_token_compression_method": "patch_merge", "spatial_merge_size": merged, "temporal_patch_size": 2}),
    );
    number(keys, "vision.spatial_merge_size", &mut out.vision, "spatial_merge_size");
    number(keys, "vision.spatial_merge_size", &mut out.processor, "merge_size");
    number(keys, "vision.patch_size", &mut out.processor, "patch_size");
    set(&mut out.processor, "temporal_patch_size", 2);
    if let Some((_, wide)) = shape(keys, "mm.1.weight") {
        set(&mut out.top, "projector_hidden_size", wide);
    }
}

fn phi4(keys: &Keys<'_>, out: &mut Fields) {
    set(&mut out.vision, "hidden_act", "gelu_pytorch_tanh");
    if let Some(layers) = keys.u64("vision.block_count").and_then(|layers| layers.checked_add(1)) {
        set(&mut out.vision, "num_hidden_layers", layers);
    }
    if let Some((_, places)) = shape(keys, "v.position_embd.weight") {
        set(&mut out.vision, "num_patches", places);
    }
    number(keys, "vision.patch_size", &mut out.processor, "patch_size");
    for (key, field) in [("vision.image_min_pixels", "min_num_patches"), ("vision.image_max_pixels", "max_num_patches")]
    {
        if let Some(count) = squares(keys, key, keys.u64("vision.patch_size")) {
            set(&mut out.top, field, count);
        }
    }
}

/// The sizes that are those of the table of positions, and the layers without the last.
fn phi4_sizes(keys: &Keys<'_>, config: &mut Config) {
    let layers = keys.u64("vision.block_count").unwrap_or(0);
    config.set_blocks(layers);
    let Some(tower) = config.section_mut("vision") else { return };
    tower.set("num_hidden_layers", layers);
    for (field, key) in [("patch_size", "vision.patch_size"), ("image_size", "vision.image_size")] {
        if let Some(size) = keys.u64(key) {
            tower.set(field, size);
        }
    }
}

fn step(keys: &Keys<'_>, out: &mut Fields) {
    let (width, inner) = (keys.u64("vision.embedding_length"), keys.u64("vision.feed_forward_length"));
    if let (Some(width), Some(inner)) = (width.filter(|width| *width > 0), inner) {
        // A ratio that gives the width of the feed-forward, cut off as well as rounded.
        let ratio = inner as f64 / width as f64;
        let enough = (width as f64 * ratio) as u64 >= inner;
        set(&mut out.vision, "mlp_ratio", if enough { ratio } else { ratio.next_up() });
    }
    set(&mut out.vision, "hidden_act", "quick_gelu");
    if let Some(stride) = keys.u64("vision.projector.scale_factor") {
        set(&mut out.top, "understand_projector_stride", stride.isqrt());
    }
}

fn paddle(keys: &Keys<'_>, out: &mut Fields) {
    out.vision.insert("architectures".into(), json!(["PaddleOCRVisionModel"]));
    set(&mut out.vision, "hidden_act", "gelu_pytorch_tanh");
    let places = shape(keys, "v.position_embd.weight").map(|(_, places)| places.isqrt());
    let size = places.zip(keys.u64("vision.patch_size")).and_then(|(side, patch)| side.checked_mul(patch));
    if let Some(size) = size {
        set(&mut out.vision, "image_size", size);
    }
    let width = keys.u64("vision.embedding_length");
    let merged = shape(keys, "mm.1.weight").zip(width).and_then(|((taken, _), width)| taken.checked_div(width));
    if let Some(side) = merged.map(u64::isqrt) {
        set(&mut out.vision, "spatial_merge_size", side);
        set(&mut out.processor, "merge_size", side);
    }
    number(keys, "vision.patch_size", &mut out.processor, "patch_size");
    pixels(keys, out);
}

fn hunyuan(keys: &Keys<'_>, out: &mut Fields) {
    set(&mut out.vision, "hidden_act", "gelu");
    number(keys, "vision.attention.head_count", &mut out.vision, "num_key_value_heads");
    number(keys, "vision.projection_dim", &mut out.vision, "out_hidden_size");
    number(keys, "vision.patch_size", &mut out.processor, "patch_size");
    number(keys, "vision.spatial_merge_size", &mut out.processor, "merge_size");
    pixels(keys, out);
}

/// The sizes of SAM's tower, which sees first.
fn deepseek_sam(keys: &Keys<'_>, out: &mut Fields) {
    let of = |key: &str| keys.u64(&format!("vision.sam.{key}"));
    let (layers, width, heads) = (of("block_count"), of("embedding_length"), of("head_count"));
    let between = ["v.sam.net_2.weight", "v.sam.net_3.weight"].map(|name| keys.first_dimension(name));
    // Layers that see the whole image are the last of each quarter.
    let quarter = layers.map_or(0, |layers| layers.min(MAX_LAYERS as u64) / 4).max(1);
    let whole: Vec<u64> = (1..=4).map(|n| n * quarter - 1).filter(|layer| Some(*layer) < layers).collect();
    out.vision.insert(
        "width".into(),
        json!({"sam_vit_b": {"layers": layers, "width": width, "heads": heads, "downsample_channels": between,
            "global_attn_indexes": whole}}),
    );
    set(&mut out.vision, "mlp_ratio", 3.7362);
}

fn deepseek_ocr(keys: &Keys<'_>, out: &mut Fields) {
    deepseek_sam(keys, out);
    let of = |key: &str| keys.u64(&format!("vision.{key}"));
    let (size, patch) = (of("image_size"), of("patch_size"));
    out.vision["width"]["clip-l-14-224"] = json!({"heads": of("attention.head_count"), "image_size": size,
        "layers": of("block_count"), "patch_size": patch, "width": of("embedding_length")});
    set(&mut out.vision, "model_name", "deeplip_b_l");
    if let Some(place) = keys.shape("v.sam.pos_embd.weight").as_deref().and_then(|shape| shape.get(1)) {
        let patch = keys.shape("v.sam.patch_embd.weight").as_deref().and_then(|shape| shape.last().copied());
        if let Some(size) = patch.and_then(|patch| patch.checked_mul(*place)) {
            set(&mut out.vision, "image_size", size);
        }
    }
    // An image is so many tokens, which the file says where they are not those of the model's own code.
    let patches = size.zip(patch).and_then(|(size, patch)| size.checked_div(patch)).unwrap_or(0);
    let usual = of("projector.scale_factor").is_none() && [0, 4].contains(&(patches / 16));
    if let Some(side) = patches.checked_div(of("projector.scale_factor").unwrap_or(4)).filter(|_| !usual) {
        set(&mut out.processor, "image_seq_length", side.saturating_mul(side));
    }
}

fn dots3_note(keys: &Keys<'_>, out: &mut Fields) {
    let experts = keys.list("vision.expert_count_per_layer").unwrap_or_default();
    let routed: Json = experts.iter().map(|count| if *count == 0 { json!(-1) } else { json!(count) }).collect();
    out.vision.insert("pyramid_num_routed".into(), routed);
    if let Some(used) = keys.u64("vision.expert_used_count") {
        set(&mut out.vision, "capacity_factor", used);
    }
    for (field, key) in [
        ("adapter_in_dim", "embedding_length"),
        ("adapter_out_dim", "projection_dim"),
        ("adapter_merge_size", "spatial_merge_size"),
    ] {
        number(keys, &format!("vision.{key}"), &mut out.vision, field);
    }
    let sparse = experts.iter().position(|count| *count > 0);
    let inner = sparse.and_then(|layer| keys.shape(&format!("v.blk.{layer}.ffn_up_exps.weight")));
    if let Some(inner) = inner.as_deref().and_then(|shape| shape.get(1)) {
        set(&mut out.vision, "moe_intermediate_size", *inner);
    }
    number(keys, "audio.embedding_length", &mut out.audio, "whisper_adapter_in_dim");
    number(keys, "audio.projection_dim", &mut out.audio, "whisper_adapter_out_dim");
    if let Some(channels) = keys.first_dimension("a.conv2d.1.weight") {
        set(&mut out.audio, "downsample_hidden_size", channels);
    }
    for (field, value) in [
        ("adapter_type", json!("patch_merger")),
        ("pre_pixel_shuffle", json!(true)),
        ("router_scoring_func", json!("sigmoid")),
        ("router_scale", json!(1.0)),
        ("temporal_patch_size", json!(1)),
        ("use_bias", json!(false)),
        ("use_qk_norm", json!(true)),
    ] {
        out.vision.insert(field.into(), value);
    }
    let whisper = json!({"d_model": keys.u64("audio.embedding_length"),
        "encoder_ffn_dim": keys.u64("audio.feed_forward_length"),
        "encoder_attention_heads": keys.u64("audio.attention.head_count"),
        "encoder_layers": keys.u64("audio.block_count"), "num_mel_bins": keys.u64("audio.num_mel_bins"),
        "activation_function": "swiglu"});
    for (field, value) in [
        ("whisper_config", whisper),
        ("use_conv2d_stem", json!(true)),
        ("use_rope", json!(true)),
        ("use_rms_norm", json!(true)),
        ("use_causal", json!(false)),
        ("merge_factor", json!(1)),
        ("chunk_seconds", json!(60)),
        ("rope_parameters", json!({"partial_rotary_factor": 0.5, "rope_theta": 10000.0})),
    ] {
        out.audio.insert(field.into(), value);
    }
    number(keys, "vision.patch_size", &mut out.processor, "patch_size");
    pixels(keys, out);
}
