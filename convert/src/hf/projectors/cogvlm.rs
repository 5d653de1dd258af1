//! The tower of CogVLM.

use super::{BASE, Sense, common, epsilon, r, vision};
use crate::hf::{Class, NameRule};

pub(super) const ROWS: &[Class] = &[Class {
    names: &["CogVLMForCausalLM"],
    towers: &[vision("")],
    rename: |_, name| name.starts_with("model.vision.").then(|| name.to_owned()),
    spelling: &[SPELLING],
    keys: |p| {
        common(p)?;
        epsilon(p, Sense::Vision, "layer_norm_eps", 1e-6)?;
        p.set("projector_type", "cogvlm");
        Ok(())
    },
    remark: "the tower of CogVLM and CogVLM2",
    ..BASE
}];

const SPELLING: &[NameRule] = &[
    r("model.vision.patch_embedding.cls_embedding", "v.class_embd"),
    r("model.vision.patch_embedding.proj", "v.patch_embd"),
    r("model.vision.patch_embedding.position_embedding", "v.position_embd"),
    r("model.vision.transformer.layers.{}.input_layernorm", "v.blk.{}.ln1"),
    r("model.vision.transformer.layers.{}.post_attention_layernorm", "v.blk.{}.ln2"),
    r("model.vision.transformer.layers.{}.attention.query_key_value", "v.blk.{}.attn_qkv"),
    r("model.vision.transformer.layers.{}.attention.dense", "v.blk.{}.attn_out"),
    r("model.vision.transformer.layers.{}.mlp.fc1", "v.blk.{}.ffn_up"),
    r("model.vision.transformer.layers.{}.mlp.fc2", "v.blk.{}.ffn_down"),
    r("model.vision.linear_proj.linear_proj", "mm.model.fc"),
    r("model.vision.linear_proj.norm1", "mm.post_fc_norm"),
    r("model.vision.linear_proj.dense_h_to_4h", "mm.up"),
    r("model.vision.linear_proj.gate_proj", "mm.gate"),
    r("model.vision.linear_proj.dense_4h_to_h", "mm.down"),
    r("model.vision.boi", "v.boi"),
    r("model.vision.eoi", "v.eoi"),
];
