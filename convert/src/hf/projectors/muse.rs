//! The tower of Muse Glimmer.

use gguf::{Error, Result};

use super::change::{ROTATED, floats};
use super::{BASE, Sense, common, r, tower, tower_of, vision};
use crate::config::Config;
use crate::hf::{Class, How, NameRule, Outputs, Params, Piece};
use crate::transform::{self, Elements};

pub(super) const ROWS: &[Class] = &[Class {
    names: &["MuseGlimmerForConditionalGeneration"],
    towers: &[vision("muse_glimmer_vision")],
    prepare: |config| {
        if let Some(tower) = config.section_mut("vision") {
            // Images are of any size.
            let sides = ["pos_emb_height", "patch_size", "merge_size"].map(|name| tower.need_u64(&[name]));
            let size = sides.into_iter().try_fold(1_u64, |size, side| Ok::<_, Error>(size.saturating_mul(side?)))?;
            tower.set("image_size", size);
        }
        Ok(())
    },
    rename: |_, name| {
        let own = ["model.vision_tower.", "model.vision_adapter.", "model.vision_projection."];
        own.iter().any(|beginning| name.starts_with(beginning)).then(|| name.to_owned())
    },
    spelling: &[GLIMMER],
    keys: glimmer,
    remark: "the tower of Muse Glimmer; patches of several frames are added",
    ..BASE
}];

const GLIMMER: &[NameRule] = &[
    r("model.vision_tower.patch_embedder.patch_embedding", "v.patch_embd").how(How::Cut(added_frames)),
    r("model.vision_tower.ln_pre", "v.pre_ln"),
    r("model.vision_tower.ln_post", "v.post_ln"),
    r("model.vision_tower.layers.{}.norm1", "v.blk.{}.ln1"),
    r("model.vision_tower.layers.{}.norm2", "v.blk.{}.ln2"),
    r("model.vision_tower.layers.{}.attn.q_proj", "v.blk.{}.attn_q").how(ROTATED),
    r("model.vision_tower.layers.{}.attn.k_proj", "v.blk.{}.attn_k").how(ROTATED),
    r("model.vision_tower.layers.{}.attn.v_proj", "v.blk.{}.attn_v"),
    r("model.vision_tower.layers.{}.attn.proj", "v.blk.{}.attn_out"),
    r("model.vision_tower.layers.{}.mlp.fc1", "v.blk.{}.ffn_up"),
    r("model.vision_tower.layers.{}.mlp.fc2", "v.blk.{}.ffn_down"),
    r("model.vision_adapter.fc1", "mm.0"),
    r("model.vision_adapter.fc2", "mm.1"),
    r("model.vision_projection", "mm.2"),
];

/// A linear layer over patches of several frames becomes a convolution over their sum.
fn added_frames(config: &Config, piece: &Piece) -> Result<Outputs> {
    let name = format!("{}{}", piece.to, piece.suffix);
    if piece.suffix != ".weight" {
        return Ok(vec![(name, piece.rows.clone())]);
    }
    let tower = tower_of(config, Sense::Vision)?;
    let (frames, side) = (tower.need_u64(&["patch_temporal"])?, tower.need_u64(&["patch_size"])?);
    let shape = piece.rows.shape();
    let out = shape.first().copied().unwrap_or(0);
    let area = side.saturating_mul(side).saturating_mul(3);
    let columns: u64 = shape.iter().skip(1).product();
    if frames == 0 || area == 0 || columns != area.saturating_mul(frames) {
        return Err(Error::input(format!(
            "its shape {shape:?} is not that of patches of {frames} frames, {side} by {side}"
        )));
    }
    let narrow = piece.rows.elements() == Elements::F16;
    // Half precision stays what it is, as it does in the reference.
    let round = |v: f32| if narrow { half::f16::from_f32(v).to_f32() } else { v };
    let (area, columns) = (area as usize, columns as usize);
    let values = floats(&piece.rows)?;
    let sum = |row: &[f32], i: usize| round((i..columns).step_by(area).map(|at| row[at]).sum());
    let sums: Vec<f32> = values.chunks_exact(columns).flat_map(|row| (0..area).map(move |i| sum(row, i))).collect();
    Ok(vec![(name, transform::values(vec![out, 3, side, side], &sums))])
}

fn glimmer(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    let tower = tower(p, Sense::Vision)?;
    p.set("projector_type", "muse-glimmer");
    p.f32("vision.attention.layer_norm_epsilon", tower.need_f64(&["layer_norm_eps"])?);
    p.u32("vision.spatial_merge_size", tower.need_u64(&["merge_size"])?)
}
