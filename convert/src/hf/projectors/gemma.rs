//! Towers of Gemma 4, and the embedders of Gemma 4 Unified.

use gguf::{Error, Result};

use super::change::{floats, without};
use super::{BASE, Forced, Sense, Tower, audio, common, epsilon, r, tower, tower_of, vision};
use crate::config::Config;
use crate::hf::{Class, How, NameRule, Params, Piece};
use crate::transform::{self, Elements, Rows};

pub(super) const ROWS: &[Class] = &[
    Class {
        names: &["Gemma4ForConditionalGeneration"],
        remark: "the towers of Gemma 4; values of clipped layers are kept between bounds of their own",
        ..GEMMA
    },
    Class {
        names: &["Gemma4UnifiedForConditionalGeneration"],
        towers: &[vision("gemma4_unified_vision"), audio("gemma4_unified_audio")],
        prepare: |config| {
            for (sense, width) in [("vision", "mm_embed_dim"), ("audio", "audio_embed_dim")] {
                let Some(part) = config.section_mut(sense) else { continue };
                let width = part.need_u64(&[width])?;
                part.set("hidden_size", width);
                // There are no layers.
                for name in ["intermediate_size", "num_layers", "num_attention_heads"] {
                    part.set(name, 0);
                }
            }
            if let Some(tower) = config.section_mut("vision") {
                // Images are of any size.
                tower.set("image_size", 224);
            }
            Ok(())
        },
        rename: |_, name| {
            let own = ["model.vision_embedder.", "model.embed_vision.", "model.embed_audio."];
            let bare = if name.ends_with("pos_embedding") { ".weight" } else { "" };
            own.iter().any(|prefix| name.starts_with(prefix)).then(|| format!("{name}{bare}"))
        },
        spelling: &[UNIFIED, EMBEDDERS],
        keys: |p| {
            gemma4(p)?;
            p.set("vision.projector_type", "gemma4uv");
            p.set("audio.projector_type", "gemma4ua");
            Ok(())
        },
        remark: "what Gemma 4 Unified has in place of towers: embedders of patches and of sound",
        ..BASE
    },
];

const GEMMA: Class = Class {
    towers: &[vision("gemma4_vision"), Tower { optional: true, ..audio("gemma4_audio") }],
    prepare: |config| {
        if let Some(tower) = config.section_mut("vision") {
            // Images are of any size.
            tower.set("image_size", 224);
        }
        if let Some(tower) = config.section_mut("audio") {
            let width = tower.u64("hidden_size");
            if let Some(width) = width {
                tower.set("intermediate_size", width.saturating_mul(4));
            }
        }
        Ok(())
    },
    rename: |_, name| {
        let own = ["model.vision_tower.", "model.audio_tower.", "model.embed_vision.", "model.embed_audio."];
        if !own.iter().any(|prefix| name.starts_with(prefix)) {
            return None;
        }
        let bare = ["layer_scalar", "position_embedding_table", "per_dim_scale", "per_dim_key_scale"];
        let suffix = if bare.iter().any(|end| name.ends_with(end)) { ".weight" } else { "" };
        Some(format!("{}{suffix}", name.replace(".linear.", ".")))
    },
    spelling: &[GEMMA4, EMBEDDERS, CONFORMER],
    suffixes: &[".weight", ".bias", ".input_max", ".input_min", ".output_max", ".output_min"],
    forced: &[
        ("a.conv1d.{}.weight", Forced::F32),
        ("a.input_projection.", Forced::F32),
        ("a.blk.{}.conv_dw.", Forced::F32),
    ],
    keys: gemma4,
    ..BASE
};

const GEMMA4: &[NameRule] = &[
    r("model.vision_tower.patch_embedder.input_proj", "v.patch_embd").how(super::change::CHANNELS_LAST),
    r("model.vision_tower.patch_embedder.position_embedding_table", "v.position_embd"),
    r("model.vision_tower.std_bias", "v.std_bias"),
    r("model.vision_tower.std_scale", "v.std_scale"),
    r("model.vision_tower.encoder.layers.{}.input_layernorm", "v.blk.{}.ln1"),
    r("model.vision_tower.encoder.layers.{}.post_attention_layernorm", "v.blk.{}.attn_post_norm"),
    r("model.vision_tower.encoder.layers.{}.pre_feedforward_layernorm", "v.blk.{}.ln2"),
    r("model.vision_tower.encoder.layers.{}.post_feedforward_layernorm", "v.blk.{}.ffn_post_norm"),
    r("model.vision_tower.encoder.layers.{}.self_attn.q_proj", "v.blk.{}.attn_q"),
    r("model.vision_tower.encoder.layers.{}.self_attn.k_proj", "v.blk.{}.attn_k"),
    r("model.vision_tower.encoder.layers.{}.self_attn.v_proj", "v.blk.{}.attn_v"),
    r("model.vision_tower.encoder.layers.{}.self_attn.o_proj", "v.blk.{}.attn_out"),
    r("model.vision_tower.encoder.layers.{}.self_attn.q_norm", "v.blk.{}.attn_q_norm"),
    r("model.vision_tower.encoder.layers.{}.self_attn.k_norm", "v.blk.{}.attn_k_norm"),
    r("model.vision_tower.encoder.layers.{}.mlp.gate_proj", "v.blk.{}.ffn_gate"),
    r("model.vision_tower.encoder.layers.{}.mlp.up_proj", "v.blk.{}.ffn_up"),
    r("model.vision_tower.encoder.layers.{}.mlp.down_proj", "v.blk.{}.ffn_down"),
    r("model.vision_tower.encoder.layers.{}.layer_scalar", "v.blk.{}.out_scale"),
];

/// What stands between the towers and the text model.
pub(super) const EMBEDDERS: &[NameRule] = &[
    r("model.embed_vision.embedding", "mm.embedding"),
    r("model.embed_vision.embedding_projection", "mm.input_projection"),
    r("model.embed_vision.hard_embedding_norm", "mm.hard_emb_norm"),
    r("model.embed_vision.soft_embedding_norm", "mm.soft_emb_norm"),
    r("model.embed_audio.embedding", "mm.a.embedding"),
    r("model.embed_audio.embedding_projection", "mm.a.input_projection"),
    r("model.embed_audio.hard_embedding_norm", "mm.a.hard_emb_norm"),
    r("model.embed_audio.soft_embedding_norm", "mm.a.soft_emb_norm"),
];

const UNIFIED: &[NameRule] = &[
    r("model.vision_embedder.patch_dense", "v.patch_embd").how(How::Change(|config, piece| {
        match piece.suffix.as_str() {
            ".weight" => channels_first(config, piece),
            _ => Ok(piece.rows.clone()),
        }
    })),
    r("model.vision_embedder.patch_ln1", "v.patch_norm.1").how(How::Change(channels_first)),
    r("model.vision_embedder.patch_ln{}", "v.patch_norm.{}"),
    r("model.vision_embedder.pos_norm", "v.patch_norm.3"),
    r("model.vision_embedder.pos_embedding", "v.position_embd").how(How::Change(|_, piece| {
        let &[places, axes, width] = piece.rows.shape() else { return Ok(piece.rows.clone()) };
        let order = [(axes, width), (places, axes * width), (width, 1)];
        transform::view(&piece.rows, vec![axes, places, width], 0, &order)
    })),
];

/// Pixels whose channels stand together, as they go into the first layer, become channel after channel.
fn channels_first(config: &Config, piece: &Piece) -> Result<Rows> {
    let tower = tower_of(config, Sense::Vision)?;
    let side = match tower.get("model_patch_size") {
        Some(_) => tower.need_u64(&["model_patch_size"])?,
        None => tower.need_u64(&["patch_size"])?.saturating_mul(tower.need_u64(&["pooling_kernel_size"])?),
    };
    let shape = piece.rows.shape().to_vec();
    let columns = transform::row_len(&shape);
    if side.checked_mul(side).and_then(|area| area.checked_mul(3)) != Some(columns) {
        return Err(Error::input(format!("its {columns} columns are no patch of {side} by {side} in three channels")));
    }
    let out = transform::row_count(&shape);
    let axes = [(out, columns), (3, 1), (side, side * 3), (side, 3)];
    transform::reshaped(&transform::view(&piece.rows, vec![out, 3, side, side], 0, &axes)?, shape)
}

/// Scales that are stored before the softplus.
const SOFTPLUS: How = How::Change(|_, piece| softplus(&piece.rows));

const CONFORMER: &[NameRule] = &[
    r("model.audio_tower.subsample_conv_projection.layer{}.conv", "a.conv1d.{}"),
    r("model.audio_tower.subsample_conv_projection.layer{}.norm", "a.conv1d.{}.norm"),
    r("model.audio_tower.subsample_conv_projection.input_proj_linear", "a.input_projection"),
    r("model.audio_tower.output_proj", "a.pre_encode.out"),
    r("model.audio_tower.layers.{}.feed_forward1.pre_layer_norm", "a.blk.{}.ffn_norm"),
    r("model.audio_tower.layers.{}.feed_forward1.post_layer_norm", "a.blk.{}.ffn_post_norm"),
    r("model.audio_tower.layers.{}.feed_forward1.ffw_layer_1", "a.blk.{}.ffn_up"),
    r("model.audio_tower.layers.{}.feed_forward1.ffw_layer_2", "a.blk.{}.ffn_down"),
    r("model.audio_tower.layers.{}.feed_forward2.pre_layer_norm", "a.blk.{}.ffn_norm_1"),
    r("model.audio_tower.layers.{}.feed_forward2.post_layer_norm", "a.blk.{}.ffn_post_norm_1"),
    r("model.audio_tower.layers.{}.feed_forward2.ffw_layer_1", "a.blk.{}.ffn_up_1"),
    r("model.audio_tower.layers.{}.feed_forward2.ffw_layer_2", "a.blk.{}.ffn_down_1"),
    r("model.audio_tower.layers.{}.self_attn.q_proj", "a.blk.{}.attn_q"),
    r("model.audio_tower.layers.{}.self_attn.k_proj", "a.blk.{}.attn_k"),
    r("model.audio_tower.layers.{}.self_attn.v_proj", "a.blk.{}.attn_v"),
    r("model.audio_tower.layers.{}.self_attn.post", "a.blk.{}.attn_out"),
    r("model.audio_tower.layers.{}.self_attn.relative_k_proj", "a.blk.{}.attn_k_rel"),
    r("model.audio_tower.layers.{}.self_attn.per_dim_scale", "a.blk.{}.per_dim_scale").how(SOFTPLUS),
    r("model.audio_tower.layers.{}.norm_pre_attn", "a.blk.{}.attn_pre_norm"),
    r("model.audio_tower.layers.{}.norm_post_attn", "a.blk.{}.attn_post_norm"),
    r("model.audio_tower.layers.{}.norm_out", "a.blk.{}.ln2"),
    r("model.audio_tower.layers.{}.norm", "a.blk.{}.layer_pre_norm"),
    r("model.audio_tower.layers.{}.lconv1d.pre_layer_norm", "a.blk.{}.conv_norm"),
    r("model.audio_tower.layers.{}.lconv1d.linear_start", "a.blk.{}.conv_pw1"),
    r("model.audio_tower.layers.{}.lconv1d.depthwise_conv1d", "a.blk.{}.conv_dw").how(DEPTH),
    r("model.audio_tower.layers.{}.lconv1d.conv_norm", "a.blk.{}.norm_conv"),
    r("model.audio_tower.layers.{}.lconv1d.linear_end", "a.blk.{}.conv_pw2"),
];

const DEPTH: How = How::Change(|_, piece| without(piece, 1));

fn softplus(rows: &Rows) -> Result<Rows> {
    let narrow = rows.elements() == Elements::F16;
    // Half precision stays what it is, as it does in the reference.
    let round = |v: f32| if narrow { half::f16::from_f32(v).to_f32() } else { v };
    let values: Vec<f32> = super::softplus::softplus(&floats(rows)?).into_iter().map(round).collect();
    Ok(transform::values(rows.shape().to_vec(), &values))
}

fn gemma4(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    p.set("vision.projector_type", "gemma4v");
    epsilon(p, Sense::Vision, "layer_norm_eps", 1e-6)?;
    if p.config().section("audio").is_some() {
        p.set("audio.projector_type", "gemma4a");
        let bins = tower(p, Sense::Audio)?.u64("input_feat_size").unwrap_or(128);
        p.u32("audio.num_mel_bins", bins)?;
        epsilon(p, Sense::Audio, "layer_norm_eps", 1e-6)?;
    }
    Ok(())
}
