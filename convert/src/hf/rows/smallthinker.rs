//! SmallThinker: experts chosen before attention.

use gguf::Result;

use crate::hf::{ATTENTION, BASE, Class, ENDS, How, NORMS, NameRule, Params, SIGMOID, SOFTMAX, r};

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["SmallThinkerForCausalLM"],
    arch: "smallthinker",
    spelling: &[ENDS, ATTENTION, NORMS, SPARSE],
    keys: smallthinker,
    remark: "experts chosen before attention; some layers slide",
    ..BASE
}];

const EXPERT: How = How::Stack {
    group: "experts",
    members: |config| config.need_u64(&["moe_num_primary_experts", "num_local_experts", "num_experts"]),
};

const SPARSE: &[NameRule] = &[
    r("model.layers.{}.block_sparse_moe.primary_router", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.block_sparse_moe.experts.{x}.down", "blk.{}.ffn_down_exps").how(EXPERT),
    r("model.layers.{}.block_sparse_moe.experts.{x}.gate", "blk.{}.ffn_gate_exps").how(EXPERT),
    r("model.layers.{}.block_sparse_moe.experts.{x}.up", "blk.{}.ffn_up_exps").how(EXPERT),
    r("model.layers.{}.block_sparse_moe.gate", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.block_sparse_moe.down", "blk.{}.ffn_down"),
    r("model.layers.{}.block_sparse_moe.up", "blk.{}.ffn_up"),
];

fn smallthinker(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    p.maybe_u32("expert_count", &["moe_num_primary_experts"])?;
    p.maybe_u32("expert_used_count", &["moe_num_active_primary_experts"])?;
    p.maybe_u32("expert_feed_forward_length", &["moe_ffn_hidden_size"])?;
    p.maybe_u32("feed_forward_length", &["moe_ffn_hidden_size"])?;
    let softmax = config.bool("moe_primary_router_apply_softmax") == Some(true);
    p.set("expert_gating_func", if softmax { SOFTMAX } else { SIGMOID });
    let slides = config.need_list(&["sliding_window_layout"]).unwrap_or_default().iter().any(|layer| *layer != 0);
    match config.u64("sliding_window_size") {
        Some(window) if slides && window > 0 => p.u32("attention.sliding_window", window),
        _ => Ok(()),
    }
}
