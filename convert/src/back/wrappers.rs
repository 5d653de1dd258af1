//! Classes of models that see or hear: what their folders hold beside a text model, and what a projector file does not say
//! in the spelling of its keys.
//!
//! Names and layouts of tensors are those of the rows of [`crate::hf::projectors`]; here stands where a class keeps the
//! numbers, and how it calls what the rows know by another name.

use gguf::arch::MAX_LAYERS;
use serde_json::{Map, Value as Json, json};

use super::keys::{Keys, float};

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
    /// The field that holds the text model's configuration.
    pub(crate) text_field: &'static str,
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
    text_names: &[],
    names: &[],
    rename: |name| name,
    avoid: &[],
    tower: "",
    vision: &[],
    audio: &[],
    processor: "",
    derive: |_, _| {},
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
        avoid: &[".attn.q", ".attn.k", ".attn.v", "linear_fc", "mlp.up_proj", "mlp.down_proj"],
        tower: "qwen2_vl_vision",
        vision: &[
            ("patch_size", "patch_size"),
            ("embedding_length", "embed_dim"),
            ("feed_forward_length", "hidden_size"),
            ("block_count", "depth"),
            ("attention.head_count", "num_heads"),
        ],
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
