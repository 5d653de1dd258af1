//! Towers of SigLIP, with what stands behind them in several families.

use gguf::{Array, Error, Result};
use serde_json::Value;

use super::change::{CHANNELS_LAST, QUERY_KEY_VALUE};
use super::spelling::SIGLIP;
use super::{
    BASE, Forced, Sense, activation, common, epsilon, inverse, processor_of, r, told_activation, tower, tower_of,
    vision,
};
use crate::config::Config;
use crate::hf::{Class, Contents, How, NameRule, Params, plus_one};

pub(super) const ROWS: &[Class] = &[
    Class {
        names: &["Gemma3ForConditionalGeneration"],
        towers: &[vision("siglip_vision_model")],
        prefixes: &[
            ("model.vision_tower.", "vision_tower."),
            ("model.multi_modal_projector.", "multi_modal_projector."),
            ("vision_tower.vision_model.", "vision."),
            // As newer libraries save it.
            ("vision_tower.", "vision."),
            ("vision_model.", "vision."),
        ],
        rename: |_, name| {
            let own = ["multi_modal_projector.", "vision."].iter().any(|p| name.starts_with(p));
            (own && !name.starts_with("vision.head.")).then(|| name.to_owned())
        },
        spelling: &[SIGLIP, GEMMA3],
        forced: &[("mm.input_projection.", Forced::F16), ("v.patch_embd.", Forced::F32)],
        keys: gemma3,
        remark: "the tower of Gemma 3",
        ..BASE
    },
    Class {
        names: &["Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"],
        towers: &[vision("idefics3_vision")],
        defaults: r#"{"scale_factor": 2}"#,
        prepare: |config| {
            if let Some(tower) = config.section_mut("vision").filter(|t| t.str("model_type") == Some("smolvlm_vision"))
            {
                for (key, value) in [("hidden_size", 1152), ("num_attention_heads", 16), ("intermediate_size", 3072)] {
                    if tower.get(key).is_none() {
                        tower.set(key, value);
                    }
                }
            }
            Ok(())
        },
        prefixes: &[("model.vision_model.", "vision."), ("vision_model.", "vision.")],
        rename: |_, name| {
            (name.starts_with("vision.") || name.starts_with("model.connector.")).then(|| name.to_owned())
        },
        spelling: &[SIGLIP, &[r("model.connector.modality_projection.proj", "mm.model.fc")]],
        forced: &[("v.patch_embd.", Forced::F32)],
        keys: idefics3,
        remark: "the towers of Idefics 3 and SmolVLM",
        ..BASE
    },
    Class {
        names: &["JanusForConditionalGeneration"],
        towers: &[vision("janus_vision_model")],
        prepare: janus_width,
        prefixes: &[("model.vision_model.", "vision."), ("vision_model.", "vision."), ("model.aligner.", "aligner.")],
        rename: |_, name| match name.strip_prefix("aligner.hidden_layers.") {
            // Layers of the projector count from the one before them.
            Some(rest) => {
                let (number, rest) = rest.split_once('.')?;
                Some(format!("aligner.{}.{rest}", number.parse::<u64>().ok()?.checked_add(1)?))
            }
            None => (name.starts_with("vision.") || name.starts_with("aligner.")).then(|| name.to_owned()),
        },
        spelling: &[SIGLIP, JANUS],
        keys: janus,
        remark: "the tower of Janus Pro that sees; what it draws with stays in the checkpoint",
        ..BASE
    },
    Class {
        names: &["Lfm2VlForConditionalGeneration"],
        towers: &[vision("siglip2_vision_model")],
        defaults: r#"{"downsample_factor": 2}"#,
        prepare: |config| {
            // Images are of any size.
            if let Some(tower) = config.section_mut("vision") {
                tower.set("image_size", 256);
            }
            Ok(())
        },
        prefixes: &[
            ("model.vision_tower.", "vision_tower."),
            ("model.multi_modal_projector.", "multi_modal_projector."),
            ("vision_tower.vision_model.", "vision."),
            ("vision_tower.", "vision."),
        ],
        spelling: &[
            &[r("vision.embeddings.patch_embedding", "v.patch_embd").how(CHANNELS_LAST)],
            SIGLIP,
            &[r("multi_modal_projector.layer_norm", "mm.input_norm"), r("multi_modal_projector.linear_{}", "mm.{}")],
        ],
        keys: lfm2,
        remark: "the tower of LFM2-VL",
        ..BASE
    },
    Class {
        names: &["MiniCPMV4_6ForConditionalGeneration"],
        towers: &[vision("minicpmv4_6_vision")],
        defaults: r#"{"insert_layer_id": 6}"#,
        prepare: |config| {
            let slice = config.section(super::PROCESSOR).and_then(|p| p.u64("scale_resolution"));
            if let (Some(slice), Some(tower)) = (slice, config.section_mut("vision")) {
                tower.set("image_size", slice);
            }
            Ok(())
        },
        unused: &["lm_head.", "mtp"],
        rename: |config, name| {
            let merger = name.starts_with("model.vision_tower.vit_merger.");
            (!merger || downsampling(config) != Some("4x")).then(|| name.to_owned())
        },
        prefixes: &[
            ("model.vision_tower.embeddings.", "vision.embeddings."),
            ("model.vision_tower.encoder.", "vision.encoder."),
            ("model.vision_tower.post_layernorm.", "vision.post_layernorm."),
        ],
        spelling: &[SIGLIP, MINICPM],
        keys: minicpm,
        remark: "the tower of MiniCPM-V 4.6",
        ..BASE
    },
    Class {
        names: &["InternVisionModel"],
        towers: &[vision("")],
        prepare: |config| {
            if let Some(tower) = config.section_mut("vision") {
                for key in ["image_size", "patch_size"] {
                    if let Some(first) = tower.get(key).and_then(|v| v.get(0)).cloned() {
                        tower.set(key, first);
                    }
                }
            }
            Ok(())
        },
        prefixes: &[("vision_model.", "vision."), ("model.vision_tower.", "vision.")],
        rename: |_, name| {
            let own = ["vision.", "mlp", "model.multi_modal_projector."].iter().any(|p| name.starts_with(p));
            let bare = [".ls", ".lambda_", "position_embedding"].iter().any(|part| name.contains(part));
            let suffix = if bare && !name.ends_with(".weight") { ".weight" } else { "" };
            own.then(|| format!("{name}{suffix}"))
        },
        spelling: &[SIGLIP, INTERN],
        keys: internvl,
        remark: "the tower of InternVL and Intern-S1",
        ..BASE
    },
    Class {
        names: &["Llama4ForConditionalGeneration"],
        towers: &[vision("llama4_vision_model")],
        rename: |_, name| {
            let own = name.contains("multi_modal_projector") || name.contains("vision_model");
            let bare = name.contains("positional_embedding_vlm") && !name.contains(".weight");
            own.then(|| format!("{name}{}", if bare { ".weight" } else { "" }))
        },
        spelling: &[LLAMA4],
        keys: llama4,
        remark: "the tower of Llama 4; the norm before the feed-forward has the name of one after attention",
        ..BASE
    },
    Class {
        names: &["Phi4ForCausalLMV"],
        towers: &[vision("")],
        inspect: phi4_sizes,
        prefixes: &[
            ("model.vision_tower.vision_tower.", "vision_tower."),
            ("vision_tower.vision_model.", "vision."),
            ("model.mm_projector.", "mm_projector."),
        ],
        rename: |config, name| {
            let own = ["vision.", "mm_projector.0.", "mm_projector.2."].iter().any(|p| name.starts_with(p));
            let behind = ["vision.head.", "vision.post_layernorm."].iter().any(|p| name.starts_with(p));
            let layers = tower_of(config, Sense::Vision).and_then(|tower| tower.need_u64(super::LAYERS)).unwrap_or(0);
            // The model takes what goes into the last layer.
            (own && !behind && !name.starts_with(&format!("vision.encoder.layers.{layers}."))).then(|| name.to_owned())
        },
        spelling: &[
            &[r("vision.embeddings.patch_embedding", "v.patch_embd").how(CHANNELS_LAST)],
            SIGLIP,
            &[r("mm_projector.{}", "mm.{}")],
        ],
        keys: phi4,
        remark: "the tower of Phi-4 that sees, without its last layer",
        ..BASE
    },
    Class {
        names: &["YoutuVLForConditionalGeneration"],
        towers: &[vision("")],
        prepare: |config| {
            if let Some(tower) = config.section_mut("vision").filter(|tower| tower.get("image_size").is_none()) {
                tower.set("image_size", 560);
            }
            Ok(())
        },
        prefixes: &[("siglip2.vision_model.", "vision.")],
        rename: |_, name| {
            let own = name.starts_with("vision.") || name.starts_with("merger.");
            let unused = ["vision.head.", "vision.embeddings.position_embedding"].iter().any(|p| name.starts_with(p));
            (own && !unused).then(|| name.to_owned())
        },
        spelling: &[SIGLIP, &[r("merger.ln_q", "mm.input_norm"), r("merger.mlp.{}", "mm.{}")]],
        keys: youtu,
        remark: "the tower of Youtu-VL",
        ..BASE
    },
];

const GEMMA3: &[NameRule] = &[
    r("multi_modal_projector.mm_input_projection_weight", "mm.input_projection.weight"),
    r("multi_modal_projector.mm_input_projection", "mm.input_projection"),
    r("multi_modal_projector.mm_soft_emb_norm", "mm.soft_emb_norm").how(How::MapWeight(plus_one)),
];

const JANUS: &[NameRule] = &[
    r("vision.encoder.layers.{}.self_attn.projection_layer", "v.blk.{}.attn_out"),
    r("aligner.fc1", "mm.0"),
    r("aligner.{}", "mm.{}"),
];

const MINICPM: &[NameRule] = &[
    r("model.vision_tower.vit_merger.layer_norm1", "v.vit_merger.ln1"),
    r("model.vision_tower.vit_merger.self_attn.q_proj", "v.vit_merger.attn_q"),
    r("model.vision_tower.vit_merger.self_attn.k_proj", "v.vit_merger.attn_k"),
    r("model.vision_tower.vit_merger.self_attn.v_proj", "v.vit_merger.attn_v"),
    r("model.vision_tower.vit_merger.self_attn.out_proj", "v.vit_merger.attn_out"),
    r("model.vision_tower.vit_merger.pre_norm", "v.vit_merger.ds_ln"),
    r("model.vision_tower.vit_merger.linear_1", "v.vit_merger.ds_ffn_up"),
    r("model.vision_tower.vit_merger.linear_2", "v.vit_merger.ds_ffn_down"),
    r("model.merger.mlp.0.pre_norm", "mm.input_norm"),
    r("model.merger.mlp.0.linear_1", "mm.up"),
    r("model.merger.mlp.0.linear_2", "mm.down"),
];

/// The two forms of InternVL: its own, and that of the transformers library.
const INTERN: &[NameRule] = &[
    r("vision.encoder.layers.{}.attn.qkv", "v.blk.{}.attn_").how(QUERY_KEY_VALUE),
    r("vision.encoder.layers.{}.attn.proj", "v.blk.{}.attn_out"),
    r("vision.encoder.layers.{}.attn.q_norm", "v.blk.{}.attn_q_norm"),
    r("vision.encoder.layers.{}.attn.k_norm", "v.blk.{}.attn_k_norm"),
    r("vision.encoder.layers.{}.norm1", "v.blk.{}.ln1"),
    r("vision.encoder.layers.{}.norm2", "v.blk.{}.ln2"),
    r("vision.encoder.layers.{}.ls1", "v.blk.{}.ls1"),
    r("vision.encoder.layers.{}.ls2", "v.blk.{}.ls2"),
    r("vision.embeddings.cls_token", "v.class_embd"),
    r("vision.embeddings.patch_embeddings.projection", "v.patch_embd"),
    r("vision.embeddings.position_embeddings", "v.position_embd"),
    r("vision.encoder.layer.{}.attention.q_proj", "v.blk.{}.attn_q"),
    r("vision.encoder.layer.{}.attention.k_proj", "v.blk.{}.attn_k"),
    r("vision.encoder.layer.{}.attention.v_proj", "v.blk.{}.attn_v"),
    r("vision.encoder.layer.{}.attention.q_norm", "v.blk.{}.attn_q_norm"),
    r("vision.encoder.layer.{}.attention.k_norm", "v.blk.{}.attn_k_norm"),
    r("vision.encoder.layer.{}.attention.projection_layer", "v.blk.{}.attn_out"),
    r("vision.encoder.layer.{}.layernorm_before", "v.blk.{}.ln1"),
    r("vision.encoder.layer.{}.layernorm_after", "v.blk.{}.ln2"),
    r("vision.encoder.layer.{}.lambda_1", "v.blk.{}.ls1"),
    r("vision.encoder.layer.{}.lambda_2", "v.blk.{}.ls2"),
    r("vision.encoder.layer.{}.mlp.fc1", "v.blk.{}.ffn_up"),
    r("vision.encoder.layer.{}.mlp.fc2", "v.blk.{}.ffn_down"),
    r("mlp1.{}", "mm.model.mlp.{}"),
    r("model.multi_modal_projector.layer_norm", "mm.model.mlp.0"),
    r("model.multi_modal_projector.linear_1", "mm.model.mlp.1"),
    r("model.multi_modal_projector.linear_2", "mm.model.mlp.3"),
];

const LLAMA4: &[NameRule] = &[
    r("vision_model.class_embedding", "v.class_embd"),
    r("vision_model.positional_embedding_vlm", "v.position_embd"),
    r("vision_model.patch_embedding.linear", "v.patch_embd"),
    r("vision_model.layernorm_pre", "v.pre_ln"),
    r("vision_model.layernorm_post", "v.post_ln"),
    r("vision_model.model.layers.{}.input_layernorm", "v.blk.{}.ln1"),
    r("vision_model.model.layers.{}.post_attention_layernorm", "v.blk.{}.attn_post_norm"),
    r("vision_model.model.layers.{}.self_attn.q_proj", "v.blk.{}.attn_q"),
    r("vision_model.model.layers.{}.self_attn.k_proj", "v.blk.{}.attn_k"),
    r("vision_model.model.layers.{}.self_attn.v_proj", "v.blk.{}.attn_v"),
    r("vision_model.model.layers.{}.self_attn.o_proj", "v.blk.{}.attn_out"),
    r("vision_model.model.layers.{}.mlp.fc1", "v.blk.{}.ffn_up"),
    r("vision_model.model.layers.{}.mlp.fc2", "v.blk.{}.ffn_down"),
    r("vision_model.vision_adapter.mlp.fc{}", "mm.model.mlp.{}"),
    r("multi_modal_projector.linear_1", "mm.model.fc"),
];

fn gemma3(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    p.set("projector_type", "gemma3");
    epsilon(p, Sense::Vision, "layer_norm_eps", 1e-6)?;
    p.set("use_gelu", true);
    let tokens = processor_of(p)?.u64_or(&["image_seq_length"], 256)?;
    let tower = tower(p, Sense::Vision)?;
    let patches = tower.need_u64(&["image_size"])?.checked_div(tower.need_u64(&["patch_size"])?).unwrap_or(0);
    let factor = patches.checked_div((tokens as f64).sqrt() as u64).unwrap_or(0);
    // Readers take 4 where nothing is said.
    if factor > 0 && factor != 4 {
        p.u32("vision.projector.scale_factor", factor)?;
    }
    Ok(())
}

fn idefics3(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    p.set("projector_type", "idefics3");
    epsilon(p, Sense::Vision, "layer_norm_eps", 1e-5)?;
    let factor = p.config().u64("scale_factor").unwrap_or(2);
    p.u32("vision.projector.scale_factor", factor)?;
    p.set("use_gelu", true);
    let longest = processor_of(p)?.get("size").and_then(|size| size.get("longest_edge")).and_then(Value::as_u64);
    let size = longest.map_or_else(|| tower(p, Sense::Vision)?.need_u64(&["image_size"]), Ok)?;
    p.u32("vision.preproc_image_size", size)
}

/// The width of the feed-forward where only its ratio is said.
fn janus_width(config: &mut Config) -> Result<()> {
    if let Some(tower) = config.section_mut("vision").filter(|t| t.get("intermediate_size").is_none())
        && let (Some(width), Some(ratio)) = (tower.u64("hidden_size"), tower.f64("mlp_ratio"))
    {
        tower.set("intermediate_size", (width as f64 * ratio).round_ties_even() as u64);
    }
    Ok(())
}

fn janus(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    p.set("projector_type", "janus_pro");
    epsilon(p, Sense::Vision, "layer_norm_eps", 1e-6)?;
    let tower = tower(p, Sense::Vision)?;
    told_activation(p, tower);
    Ok(())
}

fn lfm2(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    p.set("projector_type", "lfm2");
    let tower = tower(p, Sense::Vision)?;
    p.f32("vision.attention.layer_norm_epsilon", tower.need_f64(&["layer_norm_eps"])?);
    let factor = p.config().u64("downsample_factor").unwrap_or(2);
    p.u32("vision.projector.scale_factor", factor)?;
    p.set("use_gelu", true);
    // Layers behind the one whose output is taken are not counted.
    let taken = p.config().get("vision_feature_layer").and_then(Value::as_i64).unwrap_or(-1);
    let layers = tower.need_u64(super::LAYERS)? as i64 + taken.saturating_add(1);
    let layers = u64::try_from(layers).map_err(|_| {
        Error::input(format!("config.json: vision_feature_layer is {taken}, the tower has not so many layers"))
    })?;
    p.u32("vision.block_count", layers)
}

/// How many patches become one, where the processor says it.
fn downsampling(config: &Config) -> Option<&str> {
    config.section(super::PROCESSOR)?.str("downsample_mode")
}

fn minicpm(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    let factor = match downsampling(p.config()).unwrap_or("16x") {
        "4x" => 2_u32,
        "16x" => 4,
        other => {
            return Err(Error::input(format!("preprocessor_config.json: downsample_mode is {other}, not 4x or 16x")));
        }
    };
    p.set("projector_type", "minicpmv4_6");
    p.set("vision.projector.scale_factor", factor);
    let insert = |config: &Config| config.u64("insert_layer_id");
    let layer = insert(p.config()).or_else(|| insert(p.config().section("vision")?)).unwrap_or(6);
    let layer = i32::try_from(layer).map_err(|_| Error::input("config.json: insert_layer_id is too large"))?;
    p.set("vision.wa_layer_indexes", Array::from(&[layer][..]));
    p.set("use_gelu", true);
    epsilon(p, Sense::Vision, "layer_norm_eps", 1e-6)
}

fn internvl(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    p.set("projector_type", "internvl");
    let tower = tower(p, Sense::Vision)?;
    p.f32("vision.attention.layer_norm_epsilon", tower.need_f64(&["layer_norm_eps"])?);
    activation(p, tower)?;
    let config = p.config();
    let factor = inverse("config.json", "downsample_ratio", config.need_f64(&["downsample_ratio"])?)?;
    p.u32("vision.projector.scale_factor", factor)?;
    for (key, name) in
        [("vision.preproc_min_tiles", "min_dynamic_patch"), ("vision.preproc_max_tiles", "max_dynamic_patch")]
    {
        if let Some(tiles) = config.u64(name).filter(|n| *n > 0) {
            p.u32(key, tiles)?;
        }
    }
    Ok(())
}

fn llama4(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    p.set("projector_type", "llama4");
    let tower = tower(p, Sense::Vision)?;
    p.f32("vision.attention.layer_norm_epsilon", tower.need_f64(&["norm_eps"])?);
    let ratio = tower.need_f64(&["pixel_shuffle_ratio"])?;
    p.u32("vision.projector.scale_factor", inverse(tower.place(), "pixel_shuffle_ratio", ratio)?)?;
    if tower.str("hidden_act") != Some("gelu") {
        return Err(Error::input("config.json: the tower of Llama 4 has the activation gelu, this one another"));
    }
    p.set("use_gelu", true);
    Ok(())
}

/// The tower has one layer less than the checkpoint; images are as large as the positions of a square.
fn phi4_sizes(config: &mut Config, contents: &Contents<'_>) -> Result<()> {
    const POSITIONS: &str = "model.vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight";
    const OWN: &str = "vision_model.embeddings.position_embedding.weight";
    let processor = config.section(super::PROCESSOR);
    let patch = processor.map_or(Ok(0), |processor| processor.need_u64(&["patch_size"]))?;
    let positions = contents.tensors.iter().find(|tensor| tensor.name().ends_with(OWN));
    let positions = positions.and_then(|tensor| tensor.shape().first().copied());
    let Some(count) = positions else { return Err(Error::input(format!("the folder has no tensor {POSITIONS}"))) };
    let side = count.isqrt();
    if side * side != count {
        return Err(Error::input(format!("{POSITIONS}: {count} positions are no square of patches")));
    }
    let Some(tower) = config.section_mut("vision") else { return Ok(()) };
    let layers = tower.need_u64(super::LAYERS)?;
    if layers < 2 {
        return Err(Error::input(format!("{}: {layers} layers, of which the last is left out", tower.place())));
    }
    if let Some(name) = super::LAYERS.iter().find(|name| tower.get(name).is_some()) {
        tower.set(name, layers - 1);
    }
    tower.set("patch_size", patch);
    tower.set("image_size", side * patch);
    config.set_blocks(layers - 1);
    Ok(())
}

fn phi4(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    p.set("projector_type", "phi4");
    let (tower, processor) = (tower(p, Sense::Vision)?, processor_of(p)?);
    let patch = tower.need_u64(&["patch_size"])?;
    let area = patch.saturating_mul(patch);
    for (key, name) in [("vision.image_min_pixels", "min_num_patches"), ("vision.image_max_pixels", "max_num_patches")]
    {
        let count = match processor.get(name) {
            Some(_) => processor.need_u64(&[name])?,
            None => p.config().need_u64(&[name])?,
        };
        p.u32(key, count.saturating_mul(area))?;
    }
    p.set("use_gelu", true);
    epsilon(p, Sense::Vision, "layer_norm_eps", 1e-6)
}

fn youtu(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    p.set("projector_type", "youtuvl");
    epsilon(p, Sense::Vision, "layer_norm_eps", 1e-6)?;
    let tower = tower(p, Sense::Vision)?;
    match tower.str("hidden_act").unwrap_or("gelu_pytorch_tanh").to_lowercase().as_str() {
        "gelu" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_new" | "gelu_accurate" => p.set("use_gelu", true),
        "silu" => p.set("use_silu", true),
        other => {
            return Err(Error::input(format!("{}: hidden_act is {other}, which is no GELU or SiLU", tower.place())));
        }
    }
    p.u32("vision.spatial_merge_size", tower.u64_or(&["spatial_merge_size"], 2)?)?;
    if tower.get("window_size").is_some() {
        p.u32("vision.window_size", tower.need_u64(&["window_size"])?)?;
    }
    p.i32s("vision.wa_layer_indexes", &tower.need_list(&["fullatt_block_indexes"])?)
}
