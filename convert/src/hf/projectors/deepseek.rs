//! The tower of DeepSeek V4 with vision.

use gguf::{Error, Result};
use serde_json::Value;

use super::change::halved;
use super::{BASE, PROCESSOR, Sense, common, r, tower, vision};
use crate::config::Config;
use crate::hf::{Class, How, NameRule, Params, Piece, Tower};
use crate::transform::{self, Rows};

pub(super) const ROWS: &[Class] = &[Class {
    names: &["DeepseekV4ForCausalLM"],
    // The class is that of the text model without a tower as well.
    when: |root| root.get("vision_n_layers").and_then(Value::as_u64).is_some_and(|layers| layers > 0),
    towers: &[Tower { path: &[], ..vision("") }],
    prepare: sizes,
    rename: |_, name| {
        ["vision.", "aligner.", "image_"].iter().any(|own| name.starts_with(own)).then(|| name.to_owned())
    },
    spelling: &[V4],
    keys: v4,
    remark: "the tower of DeepSeek V4 Flash Vision, described among the values of the text model",
    ..BASE
}];

const V4: &[NameRule] = &[
    r("vision.patch_embed.proj", "v.patch_embd").how(How::Change(patches)),
    r("vision.blocks.{}.norm1", "v.blk.{}.ln1"),
    r("vision.blocks.{}.norm2", "v.blk.{}.ln2"),
    r("vision.blocks.{}.attn.wqkv", "v.blk.{}.attn_qkv"),
    r("vision.blocks.{}.attn.wo", "v.blk.{}.attn_out"),
    r("vision.blocks.{}.mlp.w1", "v.blk.{}.ffn_").how(How::Split(|_, piece| halved(piece, "gate", "up"))),
    r("vision.blocks.{}.mlp.w2", "v.blk.{}.ffn_down"),
    r("vision.norm", "v.post_ln"),
    r("aligner.w{}", "mm.{}"),
    r("image_newline", "v.image_newline"),
    r("image_start", "v.token_embd.img_start"),
    r("image_end", "v.token_embd.img_end"),
    r("image_pad", "v.token_embd.img_pad"),
];

/// A linear layer over patches becomes a convolution.
fn patches(config: &Config, piece: &Piece) -> Result<Rows> {
    let &[out, _] = piece.rows.shape() else { return Ok(piece.rows.clone()) };
    let side = super::tower_of(config, Sense::Vision)?.need_u64(&["patch_size"])?;
    transform::reshaped(&piece.rows, vec![out, 3, side, side])
}

/// The sizes under the names that other towers have for them.
fn sizes(config: &mut Config) -> Result<()> {
    if let Some(processor) = config.section_mut(PROCESSOR) {
        for name in ["image_mean", "image_std"] {
            if !processor.has(name) {
                processor.set(name, vec![0.5; 3]);
            }
        }
    }
    let Some(tower) = config.section_mut("vision") else { return Ok(()) };
    for (name, from) in [
        ("num_hidden_layers", "vision_n_layers"),
        ("hidden_size", "vision_dim"),
        ("num_attention_heads", "vision_n_heads"),
        ("intermediate_size", "vision_inter_dim"),
        ("patch_size", "vision_patch_size"),
    ] {
        let value = tower.need_u64(&[from])?;
        tower.set(name, value);
    }
    // Images are of any size.
    let side = tower.need_u64(&["patch_size"])?.saturating_mul(tower.need_u64(&["vision_downsample_ratio"])?);
    tower.set("image_size", side.saturating_mul(16));
    Ok(())
}

fn v4(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    p.set("projector_type", "deepseek4v");
    // That of the tower's own norms, not of the text model's.
    p.f32("vision.attention.layer_norm_epsilon", 1e-6);
    p.set("use_silu", true);
    let tower = tower(p, Sense::Vision)?;
    p.u32("vision.projector.scale_factor", tower.need_u64(&["vision_downsample_ratio"])?)?;
    p.u32("vision.image_min_pixels", tower.need_u64(&["vision_min_pixels"])?)?;
    for (name, known) in [("vision_max_n_token", 384), ("vision_max_wh_ratio", 8)] {
        let value = tower.need_u64(&[name])?;
        if value != known {
            return Err(Error::input(format!(
                "config.json: {name} is {value}; the format has no place for it and readers take {known}"
            )));
        }
    }
    Ok(())
}
