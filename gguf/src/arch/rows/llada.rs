//! LLaDA: diffusion models, which see in both directions.

use super::{expert_len, needs_experts, rms_layer};
use crate::arch::{Arch, Attention, BASE, Bias, Dense, Dims, Ends, Experts, Gating, Layer, Rotary, trunk};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "llada",
        keys: |k| {
            k.rms();
            k.d.causal = false;
        },
        ends: |d| Ends::tied(d).rope_freqs(d.rot(0) / 2),
        stacks: &[trunk(llada)],
        remark: "Llama's layers in both directions",
        ..BASE
    },
    Arch {
        name: "llada-moe",
        keys: |k| {
            k.expert_ff();
            k.rms();
            k.d.causal = false;
        },
        ends: Ends::untied,
        stacks: &[trunk(|d, l| {
            let attention = Attention::wide(d, l).rotary(d, Rotary::Halves, l).head_norms(d);
            rms_layer(d, attention, Experts::new(d, l, expert_len(d)).gating(Gating::Softmax, false))
        })],
        demand: needs_experts,
        remark: "norms of heads and experts whose weights keep their sum, in both directions",
        ..BASE
    },
];

fn llada(d: &Dims, l: usize) -> Layer {
    let mut attention = Attention::uniform(d, l).bias(Bias::Optional, Bias::Optional).rotary(d, Rotary::Pairs, l);
    // A file may have the factors; the graph does not use them.
    attention.rope_factors = false;
    rms_layer(d, attention, Dense::gated(d, d.ff(0)).bias(Bias::Optional))
}
