//! Granite's encoders of speech.

use gguf::{Error, Result};

use super::change::{folded_norm, halved, without};
use super::{BASE, Forced, Sense, Tower, audio, common, r, tower};
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
