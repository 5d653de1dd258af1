//! The towers of Gemma 3n: MobileNet, which sees, and a conformer, which hears.

use gguf::Result;
use serde_json::Value;

use super::gemma::EMBEDDERS;
use super::{BASE, Forced, PROCESSOR, Sense, audio, common, epsilon, r, tower, vision};
use crate::config::Config;
use crate::hf::{Class, How, NameRule, Params};
use crate::transform;

pub(super) const ROWS: &[Class] = &[Class {
    names: &["Gemma3nForConditionalGeneration"],
    towers: &[vision("gemma3n_vision"), audio("gemma3n_audio")],
    prepare: sizes,
    rename: |_, name| {
        let own = ["model.vision_tower.", "model.audio_tower.", "model.embed_vision.", "model.embed_audio."];
        own.iter().any(|beginning| name.starts_with(beginning)).then(|| name.to_owned())
    },
    spelling: &[MOBILENET, CONFORMER, EMBEDDERS],
    forced: &[
        ("v.conv_stem.", Forced::F32),
        ("a.conv1d.", Forced::F32),
        ("a.blk.{}.conv_dw.", Forced::F32),
        ("a.pre_encode.out.", Forced::F16),
    ],
    keys: gemma3n,
    remark: "the towers of Gemma 3n; the reference fails on the norms between its first convolutions of sound",
    ..BASE
}];

const MOBILENET: &[NameRule] = &[
    r("model.vision_tower.timm_model.conv_stem.conv", "v.conv_stem.conv").how(How::Change(|_, piece| {
        match piece.rows.shape() {
            &[len] => transform::reshaped(&piece.rows, vec![1, len, 1, 1]),
            _ => Ok(piece.rows.clone()),
        }
    })),
    r("model.vision_tower.timm_model.conv_stem.bn", "v.conv_stem.bn"),
    r("model.vision_tower.timm_model.msfa.ffn.pw_exp.conv", "v.msfa.ffn.pw_exp.conv"),
    r("model.vision_tower.timm_model.msfa.ffn.pw_exp.bn", "v.msfa.ffn.pw_exp.bn"),
    r("model.vision_tower.timm_model.msfa.ffn.pw_proj.conv", "v.msfa.ffn.pw_proj.conv"),
    r("model.vision_tower.timm_model.msfa.ffn.pw_proj.bn", "v.msfa.ffn.pw_proj.bn"),
    r("model.vision_tower.timm_model.msfa.norm", "v.msfa.norm"),
    // Stages, and blocks in them.
    r("model.vision_tower.timm_model.blocks.{}.{x}.conv_exp", "v.blk.{}.{x}.conv_exp"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.bn1", "v.blk.{}.{x}.bn1"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.conv_pwl", "v.blk.{}.{x}.conv_pwl"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.bn2", "v.blk.{}.{x}.bn2"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.dw_start.conv", "v.blk.{}.{x}.dw_start.conv"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.dw_start.bn", "v.blk.{}.{x}.dw_start.bn"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.dw_mid.conv", "v.blk.{}.{x}.dw_mid.conv"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.dw_mid.bn", "v.blk.{}.{x}.dw_mid.bn"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.pw_exp.conv", "v.blk.{}.{x}.pw_exp.conv"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.pw_exp.bn", "v.blk.{}.{x}.pw_exp.bn"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.pw_proj.conv", "v.blk.{}.{x}.pw_proj.conv"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.pw_proj.bn", "v.blk.{}.{x}.pw_proj.bn"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.layer_scale.gamma", "v.blk.{}.{x}.layer_scale.gamma"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.attn.query.proj", "v.blk.{}.{x}.attn.query.proj"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.attn.key.proj", "v.blk.{}.{x}.attn.key.proj"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.attn.value.proj", "v.blk.{}.{x}.attn.value.proj"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.attn.output.proj", "v.blk.{}.{x}.attn.output.proj"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.attn.key.down_conv", "v.blk.{}.{x}.attn.key.down_conv"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.attn.key.norm", "v.blk.{}.{x}.attn.key.norm"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.attn.value.down_conv", "v.blk.{}.{x}.attn.value.down_conv"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.attn.value.norm", "v.blk.{}.{x}.attn.value.norm"),
    r("model.vision_tower.timm_model.blocks.{}.{x}.norm", "v.blk.{}.{x}.norm"),
];

const CONFORMER: &[NameRule] = &[
    r("model.audio_tower.subsample_conv_projection.conv_{}.conv", "a.conv1d.{}"),
    r("model.audio_tower.subsample_conv_projection.conv_{}.norm", "a.conv1d.{}.norm"),
    r("model.audio_tower.subsample_conv_projection.input_proj_linear", "a.pre_encode.out"),
    r("model.audio_tower.conformer.{}.ffw_layer_start.pre_layer_norm", "a.blk.{}.ffn_norm"),
    r("model.audio_tower.conformer.{}.ffw_layer_start.post_layer_norm", "a.blk.{}.ffn_post_norm"),
    r("model.audio_tower.conformer.{}.ffw_layer_start.ffw_layer_1", "a.blk.{}.ffn_up"),
    r("model.audio_tower.conformer.{}.ffw_layer_start.ffw_layer_2", "a.blk.{}.ffn_down"),
    r("model.audio_tower.conformer.{}.ffw_layer_end.pre_layer_norm", "a.blk.{}.ffn_norm_1"),
    r("model.audio_tower.conformer.{}.ffw_layer_end.post_layer_norm", "a.blk.{}.ffn_post_norm_1"),
    r("model.audio_tower.conformer.{}.ffw_layer_end.ffw_layer_1", "a.blk.{}.ffn_up_1"),
    r("model.audio_tower.conformer.{}.ffw_layer_end.ffw_layer_2", "a.blk.{}.ffn_down_1"),
    r("model.audio_tower.conformer.{}.attention.attn.q_proj", "a.blk.{}.attn_q"),
    r("model.audio_tower.conformer.{}.attention.attn.k_proj", "a.blk.{}.attn_k"),
    r("model.audio_tower.conformer.{}.attention.attn.v_proj", "a.blk.{}.attn_v"),
    r("model.audio_tower.conformer.{}.attention.attn.per_dim_scale", "a.blk.{}.per_dim_scale"),
    r("model.audio_tower.conformer.{}.attention.attn.relative_position_embedding.pos_proj", "a.blk.{}.linear_pos"),
    r("model.audio_tower.conformer.{}.attention.post", "a.blk.{}.attn_out"),
    r("model.audio_tower.conformer.{}.attention.pre_attn_norm", "a.blk.{}.ln1"),
    r("model.audio_tower.conformer.{}.attention.post_norm", "a.blk.{}.ln2"),
    r("model.audio_tower.conformer.{}.lconv1d.pre_layer_norm", "a.blk.{}.conv_norm"),
    r("model.audio_tower.conformer.{}.lconv1d.linear_start", "a.blk.{}.conv_pw1"),
    r("model.audio_tower.conformer.{}.lconv1d.depthwise_conv1d", "a.blk.{}.conv_dw"),
    r("model.audio_tower.conformer.{}.lconv1d.conv_norm", "a.blk.{}.norm_conv"),
    r("model.audio_tower.conformer.{}.lconv1d.linear_end", "a.blk.{}.conv_pw2"),
    r("model.audio_tower.conformer.{}.norm", "a.blk.{}.layer_pre_norm"),
];

/// Stages of MobileNet; as many as no tower has, since the reference writes no number of its own.
const STAGES: u64 = 128;

fn sizes(config: &mut Config) -> Result<()> {
    let mut size = 768;
    let mut tokens = 256;
    if let Some(processor) = config.section_mut(PROCESSOR) {
        // MobileNet takes pixels as they are.
        processor.set("image_mean", vec![0.0; 3]);
        processor.set("image_std", vec![1.0; 3]);
        size = processor.get("size").and_then(|size| size.get("height")).and_then(Value::as_u64).unwrap_or(size);
        tokens = processor.u64_or(&["image_seq_length"], tokens)?;
    }
    if let Some(tower) = config.section_mut("vision") {
        let inner = tower.u64_or(&["intermediate_size"], 2048)?.saturating_mul(4);
        let heads = tower.u64_or(&["num_attention_heads"], 8)?;
        for (name, value) in [
            ("n_layers", STAGES),
            ("intermediate_size", inner),
            ("num_attention_heads", heads),
            ("image_size", size),
            ("patch_size", size.checked_div(tokens).unwrap_or(0)),
        ] {
            tower.set(name, value);
        }
    }
    if let Some(tower) = config.section_mut("audio") {
        for (name, from) in
            [("n_layers", "conf_num_hidden_layers"), ("num_attention_heads", "conf_num_attention_heads")]
        {
            let value = tower.need_u64(&[from])?;
            tower.set(name, value);
        }
        let inner = tower.u64_or(&["intermediate_size"], 6144)?;
        tower.set("intermediate_size", inner);
    }
    Ok(())
}

fn gemma3n(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    p.set("vision.projector_type", "gemma3nv");
    epsilon(p, Sense::Vision, "layer_norm_eps", 1e-6)?;
    p.set("audio.projector_type", "gemma3na");
    p.u32("audio.num_mel_bins", tower(p, Sense::Audio)?.need_u64(&["input_feat_size"])?)?;
    p.f32("audio.attention.layer_norm_epsilon", 1e-5);
    Ok(())
}
