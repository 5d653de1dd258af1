//! Towers of models that read documents.

use gguf::{Error, Result};
use serde_json::Value;

use super::qwen::pixels;
use super::spelling::SIGLIP;
use super::{BASE, Forced, Sense, common, epsilon, processor_of, r, tower, vision};
use crate::config::Config;
use crate::hf::{Class, How, NameRule, Params};
use crate::transform;

pub(super) const ROWS: &[Class] = &[
    Class {
        names: &["DotsOCRForCausalLM"],
        towers: &[vision("")],
        prepare: |config| {
            if let Some(tower) = config.section_mut("vision") {
                // Images are of any size.
                tower.set("image_size", 0);
            }
            Ok(())
        },
        rename: |_, name| name.starts_with("vision_tower.").then(|| name.to_owned()),
        spelling: &[DOTS],
        keys: |p| {
            common(p)?;
            p.set("projector_type", "dots_ocr");
            pixels(p)?;
            let tower = tower(p, Sense::Vision)?;
            p.f32("vision.attention.layer_norm_epsilon", tower.need_f64(&["rms_norm_eps"])?);
            p.u32("vision.projector.scale_factor", tower.need_u64(&["spatial_merge_size"])?)?;
            p.set("use_silu", true);
            Ok(())
        },
        remark: "the tower of dots.ocr",
        ..BASE
    },
    Class {
        names: &["HunYuanVLForConditionalGeneration"],
        towers: &[vision("hunyuan_vl_vision")],
        prepare: |config| {
            if let Some(tower) = config.section_mut("vision").filter(|tower| tower.get("image_size").is_none()) {
                let largest = tower.u64_or(&["max_image_size"], 2048)?;
                tower.set("image_size", largest);
            }
            Ok(())
        },
        rename: |_, name| name.starts_with("vit.").then(|| name.to_owned()),
        spelling: &[HUNYUAN],
        forced: &[("mm.0.weight", Forced::Float), ("mm.2.weight", Forced::Float)],
        keys: |p| {
            common(p)?;
            p.set("projector_type", "hunyuanvl");
            p.set("use_gelu", true);
            epsilon(p, Sense::Vision, "rms_norm_eps", 1e-5)?;
            let tower = tower(p, Sense::Vision)?;
            p.u32("vision.spatial_merge_size", tower.u64_or(&["spatial_merge_size"], 2)?)?;
            pixels(p)
        },
        remark: "the tower of HunyuanOCR and HunyuanVL",
        ..BASE
    },
    Class {
        names: &["PaddleOCRVisionModel"],
        towers: &[vision("paddleocr_vl_vision")],
        prepare: |config| {
            let most = match config.section(super::PROCESSOR) {
                Some(processor) => processor.need_u64(&["max_pixels"])?,
                None => return Ok(()),
            };
            if let Some(tower) = config.section_mut("vision") {
                tower.set("image_size", most.isqrt());
            }
            Ok(())
        },
        prefixes: &[("visual.vision_model.", "vision."), ("model.vision_model.", "vision.")],
        rename: |_, name| {
            let own = name.starts_with("vision.") || name.starts_with("mlp_AR.");
            let unused = name.contains("packing_position_embedding") || name.starts_with("vision.head.");
            (own && !unused).then(|| name.to_owned())
        },
        spelling: &[SIGLIP, &[r("mlp_AR.pre_norm", "mm.input_norm"), r("mlp_AR.linear_{}", "mm.{}")]],
        keys: |p| {
            common(p)?;
            p.set("projector_type", "paddleocr");
            let processor = processor_of(p)?;
            p.u32("vision.image_max_pixels", processor.need_u64(&["max_pixels"])?)?;
            p.u32("vision.image_min_pixels", processor.need_u64(&["min_pixels"])?)?;
            p.set("use_gelu", true);
            epsilon(p, Sense::Vision, "rms_norm_eps", 1e-6)
        },
        remark: "the tower of PaddleOCR-VL",
        ..BASE
    },
    Class {
        names: &["DeepseekOCRForCausalLM"],
        keys: |p| deepseek(p, "deepseekocr", 9),
        remark: "the towers of DeepSeek-OCR: SAM's, and CLIP's behind it",
        ..DEEPSEEK
    },
    Class {
        names: &["UnlimitedOCRForCausalLM"],
        keys: |p| deepseek(p, "deepseekocr", 32),
        remark: "the towers of Unlimited-OCR, which are those of DeepSeek-OCR",
        ..DEEPSEEK
    },
    Class {
        names: &["DeepseekOCR2ForCausalLM"],
        prepare: |config| {
            deepseek_sizes(config)?;
            let Some(tower) = config.section_mut("vision") else { return Ok(()) };
            let width = tower.get("width").and_then(|w| w.get("qwen2-0-5b")).and_then(|w| w.get("dim")).cloned();
            let width = width.ok_or_else(|| lacking(tower, "width.qwen2-0-5b.dim"))?;
            tower.set("hidden_size", width);
            // What the model's own code builds the encoder with.
            for (key, value) in
                [("layers", 24), ("patch_size", 16), ("intermediate_size", 4864), ("num_attention_heads", 14)]
            {
                if tower.get(key).is_none() {
                    tower.set(key, value);
                }
            }
            Ok(())
        },
        keys: |p| {
            deepseek(p, "deepseekocr2", 6)?;
            p.set("vision.attention.head_count_kv", 2_u32);
            Ok(())
        },
        remark: "the towers of DeepSeek-OCR 2: SAM's, and an encoder of Qwen2's form behind it",
        ..DEEPSEEK
    },
];

const DOTS: &[NameRule] = &[
    r("vision_tower.patch_embed.patchifier.proj", "v.patch_embd"),
    r("vision_tower.patch_embed.patchifier.norm", "v.pre_ln"),
    r("vision_tower.blocks.{}.norm1", "v.blk.{}.ln1"),
    r("vision_tower.blocks.{}.norm2", "v.blk.{}.ln2"),
    r("vision_tower.blocks.{}.attn.qkv", "v.blk.{}.attn_qkv"),
    r("vision_tower.blocks.{}.attn.proj", "v.blk.{}.attn_out"),
    r("vision_tower.blocks.{}.mlp.fc1", "v.blk.{}.ffn_gate"),
    r("vision_tower.blocks.{}.mlp.fc2", "v.blk.{}.ffn_down"),
    r("vision_tower.blocks.{}.mlp.fc3", "v.blk.{}.ffn_up"),
    r("vision_tower.post_trunk_norm", "mm.post_norm"),
    r("vision_tower.merger.ln_q", "mm.input_norm"),
    r("vision_tower.merger.mlp.{}", "mm.{}"),
];

const HUNYUAN: &[NameRule] = &[
    r("vit.embeddings.patch_embedding", "v.patch_embd"),
    // The first position is that of a class token.
    r("vit.embeddings.position_embedding", "v.position_embd").how(How::Cut(|_, piece| {
        let rows = piece.rows.shape().first().copied().unwrap_or(0);
        let rest = transform::sliced(&piece.rows, 0, 1, rows.saturating_sub(1))?;
        Ok(vec![(format!("{}{}", piece.to, piece.suffix), rest)])
    })),
    r("vit.layers.{}.input_layernorm", "v.blk.{}.ln1"),
    r("vit.layers.{}.post_attention_layernorm", "v.blk.{}.ln2"),
    r("vit.layers.{}.self_attn.q_proj", "v.blk.{}.attn_q"),
    r("vit.layers.{}.self_attn.k_proj", "v.blk.{}.attn_k"),
    r("vit.layers.{}.self_attn.v_proj", "v.blk.{}.attn_v"),
    r("vit.layers.{}.self_attn.o_proj", "v.blk.{}.attn_out"),
    r("vit.layers.{}.mlp.dense_h_to_4h", "v.blk.{}.ffn_up"),
    r("vit.layers.{}.mlp.dense_4h_to_h", "v.blk.{}.ffn_down"),
    r("vit.perceive.proj.{}", "mm.{}"),
    r("vit.perceive.mlp", "mm.model.fc"),
    r("vit.perceive.before_rms", "mm.pre_norm"),
    r("vit.perceive.after_rms", "mm.post_norm"),
    r("vit.perceive.image_newline", "v.image_newline"),
    r("vit.perceive.image_sep", "v.view_seperator"),
    r("vit.perceive.image_begin", "mm.image_begin"),
    r("vit.perceive.image_end", "mm.image_end"),
];

const DEEPSEEK: Class = Class {
    towers: &[vision("")],
    prepare: deepseek_sizes,
    unused: &["lm_head.", "model.embed_tokens.", "model.layers.", "model.norm."],
    rename: |_, name| {
        let bare = ["pos_embed", "rel_pos_h", "rel_pos_w"].iter().any(|end| name.ends_with(end));
        Some(format!("{name}{}", if bare { ".weight" } else { "" }))
    },
    spelling: &[SAM, CLIP, QWEN2, ENDS],
    forced: &[
        ("v.patch_embd.", Forced::F32),
        ("v.sam.pos_embd.", Forced::F32),
        ("v.sam.blk.{}.attn.pos_", Forced::F32),
        ("v.sam.neck.", Forced::F32),
        ("v.sam.net_", Forced::F32),
    ],
    ..BASE
};

const SAM: &[NameRule] = &[
    r("model.sam_model.pos_embed", "v.sam.pos_embd"),
    r("model.sam_model.patch_embed.proj", "v.sam.patch_embd"),
    r("model.sam_model.blocks.{}.norm1", "v.sam.blk.{}.pre_ln"),
    r("model.sam_model.blocks.{}.norm2", "v.sam.blk.{}.post_ln"),
    r("model.sam_model.blocks.{}.attn.rel_pos_h", "v.sam.blk.{}.attn.pos_h"),
    r("model.sam_model.blocks.{}.attn.rel_pos_w", "v.sam.blk.{}.attn.pos_w"),
    r("model.sam_model.blocks.{}.attn.qkv", "v.sam.blk.{}.attn.qkv"),
    r("model.sam_model.blocks.{}.attn.proj", "v.sam.blk.{}.attn.out"),
    r("model.sam_model.blocks.{}.mlp.lin1", "v.sam.blk.{}.mlp.lin1"),
    r("model.sam_model.blocks.{}.mlp.lin2", "v.sam.blk.{}.mlp.lin2"),
    r("model.sam_model.neck.{}", "v.sam.neck.{}"),
    r("model.sam_model.net_2", "v.sam.net_2"),
    r("model.sam_model.net_3", "v.sam.net_3"),
];

const CLIP: &[NameRule] = &[
    r("model.vision_model.embeddings.class_embedding", "v.class_embd"),
    r("model.vision_model.embeddings.patch_embedding", "v.patch_embd"),
    r("model.vision_model.embeddings.position_embedding", "v.position_embd"),
    r("model.vision_model.pre_layrnorm", "v.pre_ln"),
    r("model.vision_model.transformer.layers.{}.layer_norm1", "v.blk.{}.ln1"),
    r("model.vision_model.transformer.layers.{}.layer_norm2", "v.blk.{}.ln2"),
    r("model.vision_model.transformer.layers.{}.self_attn.qkv_proj", "v.blk.{}.attn_qkv"),
    r("model.vision_model.transformer.layers.{}.self_attn.out_proj", "v.blk.{}.attn_out"),
    r("model.vision_model.transformer.layers.{}.mlp.fc1", "v.blk.{}.ffn_up"),
    r("model.vision_model.transformer.layers.{}.mlp.fc2", "v.blk.{}.ffn_down"),
];

const QWEN2: &[NameRule] = &[
    r("model.qwen2_model.model.model.layers.{}.input_layernorm", "v.blk.{}.ln1"),
    r("model.qwen2_model.model.model.layers.{}.post_attention_layernorm", "v.blk.{}.ln2"),
    r("model.qwen2_model.model.model.layers.{}.self_attn.q_proj", "v.blk.{}.attn_q"),
    r("model.qwen2_model.model.model.layers.{}.self_attn.k_proj", "v.blk.{}.attn_k"),
    r("model.qwen2_model.model.model.layers.{}.self_attn.v_proj", "v.blk.{}.attn_v"),
    r("model.qwen2_model.model.model.layers.{}.self_attn.o_proj", "v.blk.{}.attn_out"),
    r("model.qwen2_model.model.model.layers.{}.mlp.gate_proj", "v.blk.{}.ffn_gate"),
    r("model.qwen2_model.model.model.layers.{}.mlp.up_proj", "v.blk.{}.ffn_up"),
    r("model.qwen2_model.model.model.layers.{}.mlp.down_proj", "v.blk.{}.ffn_down"),
    r("model.qwen2_model.model.model.norm", "v.post_ln"),
    r("model.qwen2_model.query_768", "v.resample_query_768"),
    r("model.qwen2_model.query_1024", "v.resample_query_1024"),
];

const ENDS: &[NameRule] = &[
    r("model.projector.layers", "mm.model.fc"),
    r("model.image_newline", "v.image_newline"),
    r("model.view_seperator", "v.view_seperator")
        .how(How::Change(|_, piece| transform::reshaped(&piece.rows, [&[1], piece.rows.shape()].concat()))),
];

fn lacking(tower: &Config, name: &str) -> Error {
    Error::input(format!("{} has no {name}", tower.place()))
}

/// The sizes of CLIP's tower stand under its name, those of SAM's under another.
fn deepseek_sizes(config: &mut Config) -> Result<()> {
    let Some(tower) = config.section_mut("vision") else { return Ok(()) };
    let widths = tower.get("width").and_then(Value::as_object).cloned();
    let widths = widths.ok_or_else(|| lacking(tower, "width"))?;
    tower.set("sam", widths.get("sam_vit_b").cloned().ok_or_else(|| lacking(tower, "width.sam_vit_b"))?);
    for (key, value) in widths.get("clip-l-14-224").and_then(Value::as_object).into_iter().flatten() {
        tower.set(key, value.clone());
    }
    if let Some(width) = tower.u64("width") {
        tower.set("hidden_size", width);
    }
    if let Some(heads) = tower.u64("heads") {
        tower.set("num_heads", heads);
        tower.set("intermediate_size", heads.saturating_mul(4));
    }
    Ok(())
}

fn deepseek(p: &mut Params<'_>, kind: &str, tiles: u32) -> Result<()> {
    common(p)?;
    p.set("projector_type", kind);
    epsilon(p, Sense::Vision, "layer_norm_eps", 1e-6)?;
    p.set("use_gelu", true);
    let tower = tower(p, Sense::Vision)?;
    let side = processor_of(p)?.u64_or(&["image_seq_length"], 256)?.isqrt();
    let patches = tower.need_u64(&["image_size"])?.checked_div(tower.need_u64(&["patch_size"])?);
    // 4 is what readers know.
    if let Some(factor) = patches.and_then(|n| n.checked_div(side)).filter(|factor| ![0, 4].contains(factor)) {
        p.u32("vision.projector.scale_factor", factor)?;
    }
    p.u32("vision.window_size", tower.u64_or(&["window_size"], 14)?)?;
    p.set("vision.preproc_min_tiles", 2_u32);
    p.set("vision.preproc_max_tiles", tiles);
    for (key, name) in [
        ("vision.sam.block_count", "layers"),
        ("vision.sam.embedding_length", "width"),
        ("vision.sam.head_count", "heads"),
    ] {
        let value = tower.get("sam").and_then(|sam| sam.get(name)).and_then(Value::as_u64);
        p.u32(key, value.ok_or_else(|| lacking(tower, &format!("width.sam_vit_b.{name}")))?)?;
    }
    Ok(())
}
