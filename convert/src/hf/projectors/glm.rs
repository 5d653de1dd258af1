//! Towers of GLM-4V and its successors.

use gguf::Result;

use super::qwen::qwen3_sizes;
use super::spelling::{VISUAL, VISUAL_FUSED};
use super::{BASE, Sense, common, epsilon, r, told_activation, tower, vision};
use crate::hf::{Class, NameRule, Params};

pub(super) const ROWS: &[Class] = &[
    Class {
        names: &["Glm4vForConditionalGeneration"],
        towers: &[vision("glm4v_vision")],
        remark: "the tower of GLM-4.1V",
        ..GLM4
    },
    Class {
        names: &["Glm4vMoeForConditionalGeneration"],
        towers: &[vision("glm4v_moe_vision")],
        remark: "the tower of GLM-4.5V",
        ..GLM4
    },
    Class {
        names: &["GlmOcrForConditionalGeneration"],
        towers: &[vision("glm_ocr_vision")],
        remark: "the tower of GLM-OCR: queries and keys have norms",
        ..GLM4
    },
    Class {
        names: &["Glm5NextForConditionalGeneration"],
        towers: &[vision("glm5_next_vision")],
        keys: glm5,
        remark: "the tower of GLM-5 Next",
        ..GLM4
    },
];

const GLM4: Class = Class {
    prepare: qwen3_sizes,
    prefixes: &[("model.visual.", "visual.")],
    rename: |_, name| name.starts_with("visual.").then(|| name.to_owned()),
    spelling: &[VISUAL, VISUAL_FUSED, GLM],
    keys: |p| glm4(p, "glm4v"),
    ..BASE
};

const GLM: &[NameRule] = &[
    r("visual.post_conv_layernorm", "v.norm_embd"),
    r("visual.embeddings.position_embedding", "v.position_embd"),
    r("visual.post_layernorm", "v.post_ln"),
    r("visual.downsample", "mm.patch_merger"),
    r("visual.merger.proj", "mm.model.fc"),
    r("visual.merger.post_projection_norm", "mm.post_norm"),
    r("visual.merger.gate_proj", "mm.gate"),
    r("visual.merger.up_proj", "mm.up"),
    r("visual.merger.down_proj", "mm.down"),
];

fn glm4(p: &mut Params<'_>, kind: &str) -> Result<()> {
    common(p)?;
    p.set("projector_type", kind);
    let tower = tower(p, Sense::Vision)?;
    told_activation(p, tower);
    epsilon(p, Sense::Vision, "rms_norm_eps", 1e-5)
}

fn glm5(p: &mut Params<'_>) -> Result<()> {
    glm4(p, "glm5v")?;
    let (tower, processor) = (tower(p, Sense::Vision)?, super::processor_of(p)?);
    p.u32("vision.spatial_merge_size", tower.u64_or(&["spatial_merge_size"], 2)?)?;
    if let Some(limit) = tower.f64("swiglu_limit") {
        p.f32("vision.swiglu_clamp", limit);
    }
    // The processor counts tokens, the format pixels.
    let side = processor.u64_or(&["patch_size"], 14)?.saturating_mul(processor.u64_or(&["merge_size"], 2)?);
    let area = side.saturating_mul(side);
    for (key, name) in
        [("vision.image_min_pixels", "min_image_tokens"), ("vision.image_max_pixels", "max_image_tokens")]
    {
        if let Some(tokens) = processor.u64(name) {
            p.u32(key, tokens.saturating_mul(area))?;
        }
    }
    Ok(())
}
