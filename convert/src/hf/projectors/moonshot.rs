//! MoonViT, the tower of Kimi-VL and Kimi K2.5, and of GLM-5V, which took it over.

use gguf::{Error, Result};

use super::change::QUERY_KEY_VALUE;
use super::{BASE, Sense, common, epsilon, processor_of, r, tower, tower_of, vision};
use crate::config::Config;
use crate::hf::{Class, How, NameRule, Params, Piece};
use crate::transform::{self, Rows};

pub(super) const ROWS: &[Class] = &[
    Class {
        names: &["KimiVLForConditionalGeneration"],
        towers: &[vision("")],
        prepare: |config| {
            if let Some(tower) = config.section_mut("vision") {
                // Images are of any size.
                tower.set("image_size", 64 * 14);
            }
            Ok(())
        },
        rename: |_, name| {
            (name.contains("vision_tower") || name.contains("multi_modal_projector")).then(|| name.to_owned())
        },
        spelling: &[TOWER, KIMI_VL],
        keys: |p| {
            common(p)?;
            p.set("projector_type", "kimivl");
            p.set("use_gelu", true);
            p.set("vision.projector.scale_factor", 2_u32);
            epsilon(p, Sense::Vision, "layer_norm_eps", 1e-5)
        },
        remark: "the tower of Kimi-VL",
        ..BASE
    },
    Class { names: &["KimiK25ForConditionalGeneration"], remark: "the tower of Kimi K2.5", ..KIMI_K25 },
    Class {
        names: &["Glm5vForConditionalGeneration"],
        prefixes: &[("mm_projector.linear_", "mm_projector.proj.linear_"), KIMI_K25.prefixes[0], KIMI_K25.prefixes[1]],
        remark: "the tower of GLM-5V, which is that of Kimi K2.5",
        ..KIMI_K25
    },
];

const KIMI_K25: Class = Class {
    towers: &[vision("kimi_k25_vision")],
    prepare: |config| {
        if let Some(tower) = config.section_mut("vision") {
            let patch = tower.u64_or(&["patch_size"], 14)?;
            let height = tower.u64_or(&["init_pos_emb_height"], 64)?;
            tower.set("image_size", height.saturating_mul(patch));
        }
        Ok(())
    },
    prefixes: &[
        ("mm_projector.proj.0.", "mm_projector.proj.linear_1."),
        ("mm_projector.proj.2.", "mm_projector.proj.linear_2."),
    ],
    rename: |_, name| (name.contains("vision_tower") || name.contains("mm_projector")).then(|| name.to_owned()),
    spelling: &[TOWER, K25],
    keys: kimi_k25,
    ..BASE
};

const TOWER: &[NameRule] = &[
    r("vision_tower.patch_embed.proj", "v.patch_embd"),
    r("vision_tower.encoder.blocks.{}.norm0", "v.blk.{}.ln1"),
    r("vision_tower.encoder.blocks.{}.norm1", "v.blk.{}.ln2"),
    r("vision_tower.encoder.blocks.{}.wo", "v.blk.{}.attn_out"),
    r("vision_tower.encoder.blocks.{}.mlp.fc0", "v.blk.{}.ffn_up"),
    r("vision_tower.encoder.blocks.{}.mlp.fc1", "v.blk.{}.ffn_down"),
    r("vision_tower.encoder.final_layernorm", "v.post_ln"),
];

const KIMI_VL: &[NameRule] = &[
    r("vision_tower.patch_embed.pos_emb", "v.position_embd").how(How::Change(|_, piece| {
        let &[rows, columns, width] = piece.rows.shape() else { return Ok(piece.rows.clone()) };
        transform::reshaped(&piece.rows, vec![rows * columns, width])
    })),
    r("vision_tower.encoder.blocks.{}.wqkv", "v.blk.{}.attn_").how(QUERY_KEY_VALUE),
    r("multi_modal_projector.pre_norm", "mm.input_norm"),
    r("multi_modal_projector.linear_{}", "mm.{}"),
];

const K25: &[NameRule] = &[
    r("vision_tower.patch_embed.pos_emb", "v.position_embd"),
    r("vision_tower.encoder.blocks.{}.wqkv", "v.blk.{}.attn_qkv").how(How::Change(split_rotation)),
    r("mm_projector.pre_norm", "mm.input_norm"),
    r("mm_projector.proj.linear_{}", "mm.{}"),
];

/// Queries and keys whose rotations in the two directions take turns become those with one direction after the other.
fn split_rotation(config: &Config, piece: &Piece) -> Result<Rows> {
    let heads = tower_of(config, Sense::Vision)?.u64_or(&["num_attention_heads"], 16)?;
    let rows = piece.rows.shape().first().copied().unwrap_or(0);
    let part = rows / 3;
    let quarter = part.checked_div(heads).unwrap_or(0) / 4;
    if part * 3 != rows || quarter * 4 * heads != part || quarter == 0 {
        return Err(Error::input(format!(
            "its {rows} rows are no queries, keys and values of {heads} heads that rotate in two directions"
        )));
    }
    let turned =
        |n: u64| transform::reordered(&piece.rows, n * part, &[(heads, 4 * quarter), (2, 2), (quarter, 4), (2, 1)]);
    let (parts, shape) =
        ([turned(0)?, turned(1)?, transform::sliced(&piece.rows, 0, 2 * part, part)?], piece.rows.shape());
    if shape.len() > 1 {
        return transform::joined(parts.into());
    }
    // Vectors join as columns do.
    let columns = parts.iter().map(|rows| transform::reshaped(rows, vec![part, 1])).collect::<Result<_>>()?;
    transform::reshaped(&transform::joined(columns)?, shape.to_vec())
}

fn kimi_k25(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    p.set("projector_type", "kimik25");
    let (tower, processor) = (tower(p, Sense::Vision)?, processor_of(p)?);
    for (key, name, usual) in [
        ("vision.pos_emb_height", "init_pos_emb_height", 64),
        ("vision.pos_emb_width", "init_pos_emb_width", 64),
        ("vision.pos_emb_time", "init_pos_emb_time", 4),
    ] {
        p.u32(key, tower.u64_or(&[name], usual)?)?;
    }
    p.set("use_gelu", tower.get("projector_hidden_act").is_none_or(|act| act == "gelu"));
    epsilon(p, Sense::Vision, "projector_ln_eps", 1e-5)?;
    let merged = match tower.get("merge_kernel_size") {
        Some(_) => tower.need_list(&["merge_kernel_size"])?.first().copied().unwrap_or(2),
        None => 2,
    };
    p.u32("vision.projector.scale_factor", merged)?;
    let patch = tower.u64_or(&["patch_size"], 14)?;
    let area = patch.saturating_mul(patch);
    let most = processor.u64_or(&["in_patch_limit"], 16384)?;
    p.u32("vision.image_min_pixels", area.saturating_mul(8))?;
    p.u32("vision.image_max_pixels", area.saturating_mul(most))
}
