//! LLaVA with a tower of CLIP, as llama.cpp's older script writes it: other keys, other names, no general keys.

use gguf::{Array, Error, Result};
use serde_json::{Map, Value};

use super::{BASE, Forced, Sense, processor_of, r, tower, vision};
use crate::OutType;
use crate::config::Config;
use crate::hf::{Class, NameRule, Params};

pub(super) const ROWS: &[Class] = &[Class {
    names: &["LlavaForConditionalGeneration"],
    when: sees_as_clip,
    towers: &[vision("clip_vision_model")],
    defaults: r#"{"vision_feature_layer": -2, "vision_config": {"hidden_size": 1024, "intermediate_size": 4096,
        "projection_dim": 768, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14}}"#,
    general: false,
    unasked: Some(OutType::F16),
    prefixes: &[
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("vision_tower.vision_model.", "vision."),
        // As newer libraries save it.
        ("vision_tower.", "vision."),
        ("vision_model.", "vision."),
    ],
    unused: &["vision.embeddings.position_ids", "vision.post_layernorm.", "visual_projection."],
    rename: own_layers,
    spelling: &[SPELLING],
    leading: &[PROJECTOR, FRONT, LAYERS],
    forced: &[
        ("mm.0.weight", Forced::F16),
        ("mm.2.weight", Forced::F16),
        ("v.patch_embd.weight", Forced::F16),
        ("v.position_embd.weight", Forced::Float),
    ],
    keys: llava,
    remark: "LLaVA 1.5 with CLIP; feed-forward projections have each other's names, as readers expect them",
    ..BASE
}];

fn sees_as_clip(root: &Map<String, Value>) -> bool {
    let kind = root.get("vision_config").and_then(|tower| tower.get("model_type")).and_then(Value::as_str);
    kind.is_none_or(|kind| kind == "clip_vision_model")
}

/// The layers whose output the projector takes: by their number, as states of the tower are counted, of which the
/// embedding is the first.
fn feature_layers(config: &Config) -> Result<Vec<u64>> {
    let layers = super::tower_of(config, Sense::Vision)?.need_u64(super::LAYERS)?;
    let Some(stated) = config.get("vision_feature_layer") else { return Ok(Vec::new()) };
    let one = std::slice::from_ref(stated);
    let stated_list = stated.as_array().map_or(one, Vec::as_slice);
    let number = |value: &Value| {
        let n = value.as_i64()?;
        let n = if n >= 0 { n } else { n.checked_add_unsigned(layers)?.checked_add(1)? };
        u64::try_from(n).ok().filter(|n| *n <= layers)
    };
    let numbers: Option<Vec<u64>> = stated_list.iter().map(number).collect();
    numbers.ok_or_else(|| {
        Error::input(format!("config.json: vision_feature_layer is {stated}, the tower has {layers} layers"))
    })
}

/// The layers that the file has.
fn layers(config: &Config) -> Result<u64> {
    let all = super::tower_of(config, Sense::Vision)?.need_u64(super::LAYERS)?;
    Ok(feature_layers(config)?.into_iter().max().unwrap_or(all.saturating_sub(1)))
}

/// The tower up to the last layer whose output is taken, and the projector.
fn own_layers(config: &Config, name: &str) -> Option<String> {
    let own = name.starts_with("vision.") || name.starts_with("multi_modal_projector.");
    let layer =
        name.strip_prefix("vision.encoder.layers.").and_then(|rest| rest.split_once('.')?.0.parse::<u64>().ok());
    let beyond = layer.is_some_and(|layer| layers(config).is_ok_and(|count| layer >= count));
    (own && !beyond).then(|| name.to_owned())
}

const SPELLING: &[NameRule] = &[
    r("multi_modal_projector.linear_1", "mm.0"),
    r("multi_modal_projector.linear_2", "mm.2"),
    r("vision.embeddings.class_embedding", "v.class_embd"),
    r("vision.embeddings.patch_embedding", "v.patch_embd"),
    r("vision.embeddings.position_embedding", "v.position_embd"),
    r("vision.pre_layrnorm", "v.pre_ln"),
    r("vision.encoder.layers.{}.self_attn.k_proj", "v.blk.{}.attn_k"),
    r("vision.encoder.layers.{}.self_attn.v_proj", "v.blk.{}.attn_v"),
    r("vision.encoder.layers.{}.self_attn.q_proj", "v.blk.{}.attn_q"),
    r("vision.encoder.layers.{}.self_attn.out_proj", "v.blk.{}.attn_out"),
    r("vision.encoder.layers.{}.layer_norm1", "v.blk.{}.ln1"),
    r("vision.encoder.layers.{}.mlp.fc1", "v.blk.{}.ffn_down"),
    r("vision.encoder.layers.{}.mlp.fc2", "v.blk.{}.ffn_up"),
    r("vision.encoder.layers.{}.layer_norm2", "v.blk.{}.ln2"),
];

/// The projector comes first, then the tower in the order of its modules.
const PROJECTOR: &[&str] = &["mm.0.bias", "mm.0.weight", "mm.2.bias", "mm.2.weight"];
const FRONT: &[&str] = &[
    "v.class_embd",
    "v.patch_embd.weight",
    "v.patch_embd.bias",
    "v.position_embd.weight",
    "v.pre_ln.weight",
    "v.pre_ln.bias",
];
const LAYERS: &[&str] = &[
    "v.blk.{}.attn_k.weight",
    "v.blk.{}.attn_k.bias",
    "v.blk.{}.attn_v.weight",
    "v.blk.{}.attn_v.bias",
    "v.blk.{}.attn_q.weight",
    "v.blk.{}.attn_q.bias",
    "v.blk.{}.attn_out.weight",
    "v.blk.{}.attn_out.bias",
    "v.blk.{}.ln1.weight",
    "v.blk.{}.ln1.bias",
    "v.blk.{}.ffn_down.weight",
    "v.blk.{}.ffn_down.bias",
    "v.blk.{}.ffn_up.weight",
    "v.blk.{}.ffn_up.bias",
    "v.blk.{}.ln2.weight",
    "v.blk.{}.ln2.bias",
];

fn llava(p: &mut Params<'_>) -> Result<()> {
    p.set("has_text_encoder", false);
    p.set("has_vision_encoder", true);
    p.set("has_llava_projector", true);
    p.file_type();
    p.set("general.description", "image encoder for LLaVA");
    p.set("projector_type", "mlp");
    let tower = tower(p, Sense::Vision)?;
    for (key, names) in [
        ("vision.image_size", &["image_size"][..]),
        ("vision.patch_size", &["patch_size"]),
        ("vision.embedding_length", &["hidden_size"]),
        ("vision.feed_forward_length", &["intermediate_size"]),
        ("vision.projection_dim", &["projection_dim"]),
        ("vision.attention.head_count", &["num_attention_heads"]),
    ] {
        p.u32(key, tower.need_u64(names)?)?;
    }
    p.f32("vision.attention.layer_norm_epsilon", tower.need_f64(&["layer_norm_eps"])?);
    let (layers, taken) = (layers(p.config())?, feature_layers(p.config())?);
    p.u32("vision.block_count", layers)?;
    p.i32s("vision.feature_layer", &taken)?;
    // What CLIP was trained with holds where the folder says nothing.
    let processor = processor_of(p)?;
    for (key, name, usual) in [
        ("vision.image_mean", "image_mean", [0.48145466, 0.4578275, 0.40821073]),
        ("vision.image_std", "image_std", [0.26862954, 0.26130258, 0.27577711]),
    ] {
        match processor.get(name) {
            Some(_) => super::numbers(p, key, processor, name)?,
            None => p.set(key, Array::from(&usual.map(|v: f64| v as f32)[..])),
        }
    }
    p.set("use_gelu", tower.str("hidden_act") == Some("gelu"));
    Ok(())
}
