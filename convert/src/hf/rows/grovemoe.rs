//! GroveMoE: small experts that neighbours share.

use gguf::Result;

use crate::config::Config;
use crate::hf::rows::llama::local_experts;
use crate::hf::{ATTENTION, BASE, Class, ENDS, GATED, HEAD_NORMS, How, NORMS, NameRule, Params, r};

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["GroveMoeForCausalLM", "modeling_grove_moe.GroveMoeForCausalLM"],
    arch: "grovemoe",
    spelling: &[ENDS, ATTENTION, HEAD_NORMS, NORMS, GATED, GROVE],
    keys: grovemoe,
    remark: "experts, and a small one for each two of them",
    ..BASE
}];

/// Experts that share a small one.
const GROUP: u64 = 2;

const STACK: How = How::Stack { group: "experts", members: local_experts };
const CHUNKS: How = How::Stack { group: "chunk experts", members: chunks };

const GROVE: &[NameRule] = &[
    r("model.layers.{}.mlp.chunk_experts.{x}.down_proj", "blk.{}.ffn_down_chexps").how(CHUNKS),
    r("model.layers.{}.mlp.chunk_experts.{x}.gate_proj", "blk.{}.ffn_gate_chexps").how(CHUNKS),
    r("model.layers.{}.mlp.chunk_experts.{x}.up_proj", "blk.{}.ffn_up_chexps").how(CHUNKS),
    r("model.layers.{}.mlp.experts.{x}.down_proj", "blk.{}.ffn_down_exps").how(STACK),
    r("model.layers.{}.mlp.experts.{x}.gate_proj", "blk.{}.ffn_gate_exps").how(STACK),
    r("model.layers.{}.mlp.experts.{x}.up_proj", "blk.{}.ffn_up_exps").how(STACK),
    r("model.layers.{}.mlp.gate", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.mlp.expert_bias", "").how(How::Drop),
    r("model.layers.{}.mlp.gate.expert_bias", "").how(How::Drop),
];

fn chunks(config: &Config) -> Result<u64> {
    Ok(local_experts(config)? / GROUP)
}

fn grovemoe(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.maybe_u32("expert_feed_forward_length", &["moe_intermediate_size"])?;
    // The model's own code has these numbers, its configuration has not.
    let inner = p.config().u64("head_dim").filter(|n| *n > 0).unwrap_or(128);
    p.u32("expert_chunk_feed_forward_length", inner)?;
    p.u32("experts_per_group", GROUP)?;
    p.f32("expert_group_scale", 0.05);
    Ok(())
}
