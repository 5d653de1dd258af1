//! Granite's encoders of speech, and the tower of Granite Vision.

use gguf::{Error, Result};
use serde_json::Value;

use super::change::{folded_norm, halved, without};
use super::spelling::SIGLIP;
use super::{BASE, Forced, Sense, Tower, audio, common, epsilon, r, tower, tower_of, vision};
use crate::config::Config;
use crate::hf::{Class, How, NameRule, Params};

pub(super) const ROWS: &[Class] = &[
    Class {
        names: &["GraniteSpeechForConditionalGeneration"],
        towers: &[Tower { path: &["encoder_config"], ..audio("granite_speech_encoder") }],
        remark: "the encoder of Granite Speech; the scale of its batch norms has the name of their variance",
        ..SPEECH
    },
    Class {
        names: &["GraniteSpeechPlusForConditionalGeneration"],
        towers: &[Tower { path: &["encoder_config"], ..audio("granite_speech_plus_encoder") }],
        keys: |p| {
            speech(p)?;
            let tower = tower(p, Sense::Audio)?;
            if tower.get("cat_hidden_layers").and_then(|list| list.as_array()).is_none_or(Vec::is_empty) {
                return Ok(());
            }
            let layers = tower.need_list(&["cat_hidden_layers"])?;
            let wide = tower.need_u64(&["hidden_dim"])?.saturating_mul(layers.len() as u64 + 1);
            let taken = projector(p.config())?.need_u64(&["encoder_hidden_size"])?;
            if taken != wide {
                return Err(Error::input(format!(
                    "config.json: the projector takes {taken} values, the layers that are joined have {wide}"
                )));
            }
            p.i32s("audio.feature_layer", &layers)
        },
        remark: "the same, whose projector takes several layers",
        ..SPEECH
    },
    Class {
        names: &["Granite4VisionForConditionalGeneration"],
        towers: &[vision("clip_vision_model")],
        defaults: r#"
            {"spatial_target_layers": [12, 15, 18, 21], "spatial_vision_layer": -1,
            "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]}"#,
        prepare: |config| projectors(config).map(|_| ()),
        prefixes: &[("model.vision_tower.vision_model.", "vision.")],
        rename: bound_name,
        spelling: &[SIGLIP, VISION],
        keys: granite_vision,
        remark: "the tower of Granite 4 Vision, with a projector for each layer of the text model that it feeds",
        ..BASE
    },
];

const SPEECH: Class = Class {
    defaults: r#"{"window_size": 15, "downsample_rate": 5}"#,
    prepare: |config| {
        let Some(tower) = config.section_mut("audio") else { return Ok(()) };
        for (name, from) in
            [("hidden_size", "hidden_dim"), ("num_attention_heads", "num_heads"), ("num_hidden_layers", "num_layers")]
        {
            if let Some(value) = tower.get(from).cloned() {
                tower.set(name, value);
            }
        }
        if let (Some(width), Some(factor)) = (tower.u64("hidden_dim"), tower.u64("feedforward_mult")) {
            tower.set("intermediate_size", width.saturating_mul(factor));
        }
        Ok(())
    },
    rename: |_, name| {
        let own = name.starts_with("encoder.") || name.starts_with("projector.");
        let buffer = name.contains("attention_dists") || name.contains("num_batches_tracked");
        (own && !buffer).then(|| name.to_owned())
    },
    spelling: &[ENCODER, QFORMER],
    forced: &[
        ("a.blk.{}.conv_dw.", Forced::F32),
        ("a.blk.{}.conv_pw1.", Forced::F32),
        ("a.blk.{}.conv_pw2.", Forced::F32),
    ],
    keys: speech,
    ..BASE
};

/// A kernel over one step loses its last dimension.
const POINT: How = How::Change(|_, piece| without(piece, 2));

/// A kernel of a channel alone loses the middle one.
const DEPTH: How = How::Change(|_, piece| without(piece, 1));

const NORM: How = How::Join { group: "batch norm", make: |_, piece, parts| folded_norm(piece, &parts) };

const ENCODER: &[NameRule] = &[
    r("encoder.input_linear", "a.input_projection"),
    r("encoder.out", "a.enc_ctc_out"),
    r("encoder.out_mid", "a.enc_ctc_out_mid"),
    r("encoder.layers.{}.attn.pre_norm", "a.blk.{}.ln1"),
    r("encoder.layers.{}.attn.to_q", "a.blk.{}.attn_q"),
    r("encoder.layers.{}.attn.to_kv", "a.blk.{}.attn_").how(How::Split(|_, piece| halved(piece, "k", "v"))),
    r("encoder.layers.{}.attn.to_out", "a.blk.{}.attn_out"),
    r("encoder.layers.{}.attn.rel_pos_emb.weight", "a.blk.{}.attn_rel_pos_emb"),
    r("encoder.layers.{}.post_norm", "a.blk.{}.ln2"),
    r("encoder.layers.{}.ff1.pre_norm", "a.blk.{}.ffn_norm"),
    r("encoder.layers.{}.ff1.up_proj", "a.blk.{}.ffn_up"),
    r("encoder.layers.{}.ff1.down_proj", "a.blk.{}.ffn_down"),
    r("encoder.layers.{}.ff2.pre_norm", "a.blk.{}.ffn_norm_1"),
    r("encoder.layers.{}.ff2.up_proj", "a.blk.{}.ffn_up_1"),
    r("encoder.layers.{}.ff2.down_proj", "a.blk.{}.ffn_down_1"),
    r("encoder.layers.{}.conv.norm", "a.blk.{}.norm_conv"),
    r("encoder.layers.{}.conv.up_conv", "a.blk.{}.conv_pw1").how(POINT),
    r("encoder.layers.{}.conv.down_conv", "a.blk.{}.conv_pw2").how(POINT),
    r("encoder.layers.{}.conv.depth_conv.conv", "a.blk.{}.conv_dw").how(DEPTH),
    r("encoder.layers.{}.conv.batch_norm.weight", "a.blk.{}.conv_norm_var").how(NORM),
    r("encoder.layers.{}.conv.batch_norm.bias", "a.blk.{}.conv_norm_var").how(NORM),
    r("encoder.layers.{}.conv.batch_norm.running_mean", "a.blk.{}.conv_norm_var").how(NORM),
    r("encoder.layers.{}.conv.batch_norm.running_var", "a.blk.{}.conv_norm_var").how(NORM),
];

const QFORMER: &[NameRule] = &[
    r("projector.query", "a.proj_query"),
    r("projector.linear", "a.proj_linear"),
    r("projector.qformer.layernorm", "a.proj_norm"),
    r("projector.qformer.encoder.layer.{}.attention.attention.query", "a.proj_blk.{}.self_attn_q"),
    r("projector.qformer.encoder.layer.{}.attention.attention.key", "a.proj_blk.{}.self_attn_k"),
    r("projector.qformer.encoder.layer.{}.attention.attention.value", "a.proj_blk.{}.self_attn_v"),
    r("projector.qformer.encoder.layer.{}.attention.output.dense", "a.proj_blk.{}.self_attn_out"),
    r("projector.qformer.encoder.layer.{}.attention.output.LayerNorm", "a.proj_blk.{}.self_attn_norm"),
    r("projector.qformer.encoder.layer.{}.crossattention.attention.query", "a.proj_blk.{}.cross_attn_q"),
    r("projector.qformer.encoder.layer.{}.crossattention.attention.key", "a.proj_blk.{}.cross_attn_k"),
    r("projector.qformer.encoder.layer.{}.crossattention.attention.value", "a.proj_blk.{}.cross_attn_v"),
    r("projector.qformer.encoder.layer.{}.crossattention.output.dense", "a.proj_blk.{}.cross_attn_out"),
    r("projector.qformer.encoder.layer.{}.crossattention.output.LayerNorm", "a.proj_blk.{}.cross_attn_norm"),
    r("projector.qformer.encoder.layer.{}.intermediate_query.dense", "a.proj_blk.{}.ffn_up"),
    r("projector.qformer.encoder.layer.{}.output_query.dense", "a.proj_blk.{}.ffn_down"),
    r("projector.qformer.encoder.layer.{}.output_query.LayerNorm", "a.proj_blk.{}.ffn_norm"),
];

/// The projectors of Granite 4 Vision, by the number that [`bound_name`] gives them.
const VISION: &[NameRule] = &[
    r("model.image_newline", "v.image_newline"),
    r("projector.{}.image_positions", "v.proj_blk.{}.img_pos"),
    r("projector.{}.query", "v.proj_blk.{}.query"),
    r("projector.{}.out_linear", "v.proj_blk.{}.linear"),
    r("projector.{}.norm", "v.proj_blk.{}.norm"),
    r("projector.{}.qformer.layernorm", "v.proj_blk.{}.post_norm"),
    r("projector.{}.qformer.encoder.layer.0.attention.attention.query", "v.proj_blk.{}.self_attn_q"),
    r("projector.{}.qformer.encoder.layer.0.attention.attention.key", "v.proj_blk.{}.self_attn_k"),
    r("projector.{}.qformer.encoder.layer.0.attention.attention.value", "v.proj_blk.{}.self_attn_v"),
    r("projector.{}.qformer.encoder.layer.0.attention.output.dense", "v.proj_blk.{}.self_attn_out"),
    r("projector.{}.qformer.encoder.layer.0.attention.output.LayerNorm", "v.proj_blk.{}.self_attn_norm"),
    r("projector.{}.qformer.encoder.layer.0.crossattention.attention.query", "v.proj_blk.{}.cross_attn_q"),
    r("projector.{}.qformer.encoder.layer.0.crossattention.attention.key", "v.proj_blk.{}.cross_attn_k"),
    r("projector.{}.qformer.encoder.layer.0.crossattention.attention.value", "v.proj_blk.{}.cross_attn_v"),
    r("projector.{}.qformer.encoder.layer.0.crossattention.output.dense", "v.proj_blk.{}.cross_attn_out"),
    r("projector.{}.qformer.encoder.layer.0.crossattention.output.LayerNorm", "v.proj_blk.{}.cross_attn_norm"),
    r("projector.{}.qformer.encoder.layer.0.intermediate_query.dense", "v.proj_blk.{}.ffn_up"),
    r("projector.{}.qformer.encoder.layer.0.output_query.dense", "v.proj_blk.{}.ffn_down"),
    r("projector.{}.qformer.encoder.layer.0.output_query.LayerNorm", "v.proj_blk.{}.ffn_norm"),
];

/// A projector of Granite 4 Vision: it takes a layer of the tower and feeds one of the text model.
#[derive(Debug)]
struct Bound {
    text_layer: i64,
    layer: i64,
    /// What its name begins with, and its number there.
    kind: &'static str,
    number: usize,
}

const LAYERWISE: &str = "layerwise_projectors";
const SPATIAL: &str = "spatial_projectors";

/// The projectors in the order of the layers of the text model that they feed.
fn projectors(config: &Config) -> Result<Vec<Bound>> {
    let wrong = |name: &str| Error::input(format!("config.json: {name} has no layers' numbers"));
    let text = config.get("text_config").and_then(|text| text.get("num_hidden_layers")).and_then(Value::as_i64);
    let text = text.ok_or_else(|| Error::input("config.json: text_config has no num_hidden_layers"))?;
    let layers = tower_of(config, Sense::Vision)?.need_u64(super::LAYERS)? as i64;
    // Numbers below zero count from the last layer.
    let counted = |layer: i64, layers: i64| if layer < 0 { layers.saturating_add(layer) } else { layer };
    let numbers = |name: &'static str| config.get(name).and_then(Value::as_array).into_iter().flatten();
    let mut pairs = Vec::new();
    for pair in numbers("deepstack_layer_map") {
        let pair = [0, 1].map(|i| pair.get(i).and_then(Value::as_i64));
        let [Some(layer), Some(text_layer)] = pair else { return Err(wrong("deepstack_layer_map")) };
        pairs.push((layer, text_layer));
    }
    pairs.sort_unstable();
    let mut bound = Vec::new();
    for (number, (layer, text_layer)) in pairs.into_iter().enumerate() {
        bound.push(Bound {
            text_layer: counted(text_layer, text),
            layer: counted(layer, layers),
            kind: LAYERWISE,
            number,
        });
    }
    let last = config.get("spatial_vision_layer").map_or(Some(-1), Value::as_i64);
    let layer = counted(last.ok_or_else(|| wrong("spatial_vision_layer"))?, layers);
    for (number, text_layer) in numbers("spatial_target_layers").enumerate() {
        let text_layer = text_layer.as_i64().ok_or_else(|| wrong("spatial_target_layers"))?;
        bound.push(Bound { text_layer, layer, kind: SPATIAL, number });
    }
    bound.sort_by_key(|projector| projector.text_layer);
    Ok(bound)
}

/// Projectors get the number that they have in the file.
fn bound_name(config: &Config, name: &str) -> Option<String> {
    if name.contains("vision.head.") || name.starts_with("lm_head") {
        return None;
    }
    let own = projectors(config).ok()?.into_iter().enumerate().find_map(|(number, Bound { kind, number: own, .. })| {
        let rest = name.strip_prefix(&format!("model.{kind}.{own}."))?;
        Some(format!("projector.{number}.{rest}"))
    });
    Some(own.unwrap_or_else(|| name.to_owned()))
}

fn granite_vision(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    let tower = tower(p, Sense::Vision)?;
    p.set("projector_type", "granite4_vision");
    epsilon(p, Sense::Vision, "layer_norm_eps", 1e-6)?;
    p.set("use_gelu", true);
    p.u32("vision.preproc_image_size", tower.u64_or(&["image_size"], 384)?)?;
    let rate = p.config().str("downsample_rate").unwrap_or("");
    let sides = rate.split_once('/').and_then(|(query, window)| Some((query.parse().ok()?, window.parse().ok()?)));
    let (query, window): (u64, u64) = sides.ok_or_else(|| {
        Error::input(format!("config.json: downsample_rate is {rate:?}, not two whole numbers as in 4/8"))
    })?;
    p.u32("vision.projector.query_side", query)?;
    p.u32("vision.projector.window_side", window)?;
    let bound = projectors(p.config())?;
    let layers: Vec<i64> = bound.iter().map(|projector| projector.layer).collect();
    p.i32s("vision.feature_layer", &layers)?;
    let offset = |projector: &Bound| if projector.kind == SPATIAL { projector.number as i64 } else { -1 };
    let offsets: Vec<i64> = bound.iter().map(offset).collect();
    p.i32s("vision.projector.spatial_offsets", &offsets)?;
    let mut points: Vec<u64> = Vec::new();
    for point in p.config().get("image_grid_pinpoints").and_then(Value::as_array).into_iter().flatten() {
        let [height, width] = [0, 1].map(|i| point.get(i).and_then(Value::as_u64));
        points.extend(width.zip(height).map(|(w, h)| [w, h]).ok_or_else(|| {
            Error::input(format!("config.json: image_grid_pinpoints has {point}, which is no height and width"))
        })?);
    }
    p.i32s("vision.image_grid_pinpoints", &points)
}

/// The configuration of what stands between encoder and text model.
fn projector(config: &Config) -> Result<Config> {
    match config.get("projector_config").and_then(|value| value.as_object()) {
        Some(map) => Ok(Config::of(map.clone(), "config.json: projector_config")),
        None => Err(Error::input("config.json has no projector_config")),
    }
}

fn speech(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    let tower = tower(p, Sense::Audio)?;
    p.set("projector_type", "granite_speech");
    p.u32("audio.num_mel_bins", tower.need_u64(&["input_dim"])?)?;
    p.f32("audio.attention.layer_norm_epsilon", 1e-5);
    for (key, name) in [
        ("audio.chunk_size", "context_size"),
        ("audio.conv_kernel_size", "conv_kernel_size"),
        ("audio.max_pos_emb", "max_pos_emb"),
    ] {
        p.u32(key, tower.need_u64(&[name])?)?;
    }
    p.need_u32("audio.projector.window_size", &["window_size"])?;
    p.need_u32("audio.projector.downsample_rate", &["downsample_rate"])?;
    let heads = projector(p.config())?.u64("num_attention_heads").unwrap_or(12);
    p.u32("audio.projector.head_count", heads)
}
