//! The tower of Step3-VL.

use gguf::Result;

use super::{BASE, Forced, PROCESSOR, Sense, common, epsilon, r, vision};
use crate::config::Config;
use crate::hf::{Class, NameRule, Params};

pub(super) const ROWS: &[Class] = &[Class {
    names: &["StepVLForConditionalGeneration", "Step3p7ForConditionalGeneration"],
    towers: &[vision("step3p5_vision")],
    prepare: sizes,
    rename: |_, name| {
        let own = name.starts_with("vision_model.") || name == "vit_large_projector.weight";
        let bare = if name == "vision_model.positional_embedding" { ".weight" } else { "" };
        let name = name.replace(".gamma", ".weight").replace("in_proj_", "in_proj.");
        own.then(|| format!("{name}{bare}"))
    },
    spelling: &[STEP],
    forced: &[("mm.0.weight", Forced::Float), ("mm.1.weight", Forced::Float)],
    keys: step,
    remark: "the tower of Step3-VL and Step 3.7; the reference converts the published sizes alone",
    ..BASE
}];

const STEP: &[NameRule] = &[
    r("vision_model.conv1", "v.patch_embd"),
    r("vision_model.positional_embedding", "v.position_embd"),
    r("vision_model.ln_pre", "v.pre_ln"),
    r("vision_model.transformer.resblocks.{}.ln_1", "v.blk.{}.ln1"),
    r("vision_model.transformer.resblocks.{}.ln_2", "v.blk.{}.ln2"),
    r("vision_model.transformer.resblocks.{}.ls_1", "v.blk.{}.ls1"),
    r("vision_model.transformer.resblocks.{}.ls_2", "v.blk.{}.ls2"),
    r("vision_model.transformer.resblocks.{}.attn.in_proj", "v.blk.{}.attn_qkv"),
    r("vision_model.transformer.resblocks.{}.attn.out_proj", "v.blk.{}.attn_out"),
    r("vision_model.transformer.resblocks.{}.mlp.c_fc", "v.blk.{}.ffn_up"),
    r("vision_model.transformer.resblocks.{}.mlp.c_proj", "v.blk.{}.ffn_down"),
    r("vision_model.vit_downsampler1", "mm.0"),
    r("vision_model.vit_downsampler2", "mm.1"),
    r("vit_large_projector", "mm.model.fc"),
];

/// CLIP's mean and deviation, where the processor has none.
const MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
const DEVIATION: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

fn sizes(config: &mut Config) -> Result<()> {
    if let Some(processor) = config.section_mut(PROCESSOR) {
        for (name, usual) in [("image_mean", MEAN), ("image_std", DEVIATION)] {
            if !processor.has(name) {
                processor.set(name, usual.to_vec());
            }
        }
    }
    let known = config.is_known();
    let Some(tower) = config.section_mut("vision") else { return Ok(()) };
    let width = tower.need_u64(&["hidden_size", "width"])? as f64;
    let ratio = tower.f64_or(&["mlp_ratio"], 8960.0 / 1536.0)?;
    if known {
        // The configuration class goes by the ratio alone.
        tower.set("intermediate_size", (width * ratio) as u64);
    } else if tower.u64("intermediate_size").is_none_or(|n| n == 0) {
        tower.set("intermediate_size", (width * ratio).round_ties_even() as u64);
    }
    Ok(())
}

fn step(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    p.set("projector_type", "step3vl");
    epsilon(p, Sense::Vision, "layer_norm_eps", 1e-5)?;
    let stride = p.config().need_u64(&["understand_projector_stride"])?;
    p.u32("vision.projector.scale_factor", stride.saturating_mul(stride))?;
    // The largest size that the processor of Step3-VL makes images of.
    p.set("vision.preproc_image_size", 3024_u32);
    Ok(())
}
