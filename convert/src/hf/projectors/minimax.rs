//! The tower of MiniMax M3.

use gguf::{Error, Result};
use serde_json::Value;

use super::spelling::SIGLIP;
use super::{BASE, Sense, common, epsilon, r, tower, tower_of, vision};
use crate::config::Config;
use crate::hf::{Class, How, NameRule, Outputs, Params, Piece};
use crate::transform::{self, Rows};

pub(super) const ROWS: &[Class] = &[Class {
    names: &["MiniMaxM3SparseForConditionalGeneration", "MiniMaxM3VLForConditionalGeneration"],
    towers: &[vision("minimax_m3_vl_vision")],
    prefixes: &[("vision_tower.vision_model.", "vision.")],
    rename: |_, name| {
        let own = ["vision.", "vision_tower.", "multi_modal_projector.", "patch_merge_mlp."];
        own.iter().any(|beginning| name.starts_with(beginning)).then(|| name.to_owned())
    },
    spelling: &[OWN, SIGLIP],
    keys: minimax,
    remark: "the tower of MiniMax M3, which rotates in three directions",
    ..BASE
}];

const OWN: &[NameRule] = &[
    r("vision.embeddings.patch_embedding", "v.patch_embd").how(How::Split(frames)),
    r("vision.encoder.layers.{}.self_attn.q_proj", "v.blk.{}.attn_q").how(AXES),
    r("vision.encoder.layers.{}.self_attn.k_proj", "v.blk.{}.attn_k").how(AXES),
    r("multi_modal_projector.linear_{}", "mm.{}"),
    r("patch_merge_mlp.linear_1", "mm.merger.fc1"),
    r("patch_merge_mlp.linear_2", "mm.merger.fc2"),
];

/// A convolution over frames becomes one over each.
fn frames(_: &Config, piece: &Piece) -> Result<Outputs> {
    if piece.suffix != ".weight" {
        return Ok(vec![(format!("{}{}", piece.to, piece.suffix), piece.rows.clone())]);
    }
    let &[out, channels, time, height, width] = piece.rows.shape() else {
        return Err(Error::input(format!(
            "its shape {:?} is not that of a convolution over frames",
            piece.rows.shape()
        )));
    };
    let area = height * width;
    let axes = [(out, channels * time * area), (channels, time * area), (height, width), (width, 1)];
    let frame = |t: u64| {
        let suffix = if t == 0 { String::new() } else { format!(".{t}") };
        let rows = transform::view(&piece.rows, vec![out, channels, height, width], t * area, &axes)?;
        Ok((format!("{}.weight{suffix}", piece.to), rows))
    };
    (0..time).map(frame).collect()
}

/// The halves of each head, which hold time, height and width, become three parts with both halves of each.
const AXES: How = How::Change(|config, piece| axes(config, &piece.rows));

fn axes(config: &Config, rows: &Rows) -> Result<Rows> {
    /// The head size that readers know.
    const HEAD: u64 = 80;
    let heads = tower_of(config, Sense::Vision)?.need_u64(&["num_attention_heads"])?;
    let count = rows.shape().first().copied().unwrap_or(0);
    if heads.checked_mul(HEAD) != Some(count) {
        return Err(Error::input(format!("its {count} rows are not {heads} heads of {HEAD}")));
    }
    // Of the 40 pairs of a head, three times as many rotate as fit.
    let each = HEAD / 2 * 2 / 3 / 2;
    let half = 3 * each;
    let part = |n: u64| (n * each..(n + 1) * each).chain(half + n * each..half + (n + 1) * each);
    let head: Vec<u64> = part(0).chain(part(1)).chain(part(2)).chain(2 * half..HEAD).collect();
    let order = (0..heads).flat_map(|h| head.iter().map(move |i| h * HEAD + i)).collect();
    transform::permuted(rows, order)
}

fn minimax(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    p.set("projector_type", "minimax_m3");
    p.set("use_gelu", true);
    epsilon(p, Sense::Vision, "layer_norm_eps", 1e-5)?;
    let merged = tower(p, Sense::Vision)?
        .get("img_token_compression_config")
        .and_then(|compression| compression.get("spatial_merge_size"))
        .and_then(Value::as_u64);
    p.u32("vision.spatial_merge_size", merged.unwrap_or(2))
}
