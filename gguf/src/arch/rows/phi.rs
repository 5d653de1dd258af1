//! Phi 3 (Phi 2 is of GPT's form).

use super::{norm_layer, rms_layer};
use crate::arch::{
    Arch, Attention, BASE, Bias, Dense, Dims, Ends, Experts, Gating, Keys, Layer, Norm, Projections, Rotary,
    WindowKind, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "phi3",
        keys: |k| {
            k.rms();
            k.d.window = k.u32_or("attention.sliding_window", 0);
        },
        ends: |d| Ends::tied(d).long_rope(d.rot(0) / 2),
        stacks: &[trunk(|d, l| rms_layer(d, projected(d, l), Dense::gated(d, d.ff(0)).fused()))],
        remark: "queries, keys and values in one tensor, gate and up too; factors for long contexts",
        ..BASE
    },
    Arch {
        name: "phimoe",
        keys: phimoe_keys,
        ends: |d| {
            let ends = Ends::untied(d).norm(Norm::layer(d, "output_norm")).output_bias(d, Bias::Required);
            ends.long_rope(d.embd / d.heads(0) / 2)
        },
        stacks: &[trunk(phimoe)],
        remark: "Phi-3 with experts, chosen one after the other, and biases",
        ..BASE
    },
];

/// The loader takes a file without projections, which nothing can run.
fn projected(d: &Dims, l: usize) -> Attention {
    let attention = attention(d, l);
    if d.any_size { attention.stored(Projections::Fused) } else { attention.optional() }
}

/// transformers gives every layer the window of the key, if there is one; llama.cpp none.
fn attention(d: &Dims, l: usize) -> Attention {
    Attention::wide(d, l).rotary(d, Rotary::Halves, l).window(WindowKind::Sliding, d.window)
}

fn phimoe_keys(k: &mut Keys<'_>) {
    k.rms();
    // transformers normalizes by mean and variance with this epsilon; llama.cpp by the root of the mean square.
    k.d.norm_eps = k.d.rms_eps;
    k.d.window = k.unread_u32("attention.sliding_window").unwrap_or(0).into();
}

fn phimoe(d: &Dims, l: usize) -> Layer {
    // The router of transformers; llama.cpp takes softmax over all and weights that sum to one.
    let experts = Experts::new(d, l, d.ff(0)).gating(Gating::SparseMixer, false);
    norm_layer(d, attention(d, l).bias(Bias::Optional, Bias::Required), experts)
}
