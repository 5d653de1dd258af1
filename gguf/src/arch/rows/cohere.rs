//! Command R and its successors: attention and feed side by side on one norm.

use super::mtp::prediction;
use super::{needs_experts, parallel_layer};
use crate::arch::{
    Arch, Attention, BASE, Bias, Dense, Dims, Ends, Experts, FaultKind, Gating, HeadNorm, Keys, Layer, Mtp, Norm,
    NormKind, Rotary, WindowKind, blocks, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "command-r",
        keys: |k| {
            k.d.logit_scale = k.f32_or("logit_scale", 0.0);
            k.layer_norm();
        },
        stacks: &[trunk(|d, l| {
            let mut attention = Attention::wide(d, l).rotary(d, Rotary::Pairs, l);
            if d.layers() >= 64 {
                attention = attention.norms(NormKind::Layer(d.norm_eps), HeadNorm::PerHead);
            }
            parallel_layer(norm(d, "attn_norm"), attention, Dense::gated(d, d.ff(0)))
        })],
        remark: "one norm for attention and feed; norms of heads in models of 64 layers and more",
        ..COHERE
    },
    Arch {
        name: "cohere2",
        keys: cohere2_keys,
        stacks: &[trunk(|d, l| {
            let attention = Attention::wide(d, l).rotary(d, Rotary::Pairs, l).usual_rope();
            parallel_layer(norm(d, "attn_norm"), attention, Dense::gated(d, d.ff(0)))
        })],
        remark: "windows in three of four layers, which alone rotate",
        ..COHERE
    },
    Arch {
        name: "cohere2moe",
        keys: cohere2moe_keys,
        ends: |d| Ends::tied(d).norm(norm(d, "output_norm")),
        stacks: &[blocks(cohere2moe)],
        mtp: Mtp { without_trunk: true, without_layers: true },
        demand: needs_experts,
        remark: "Cohere 2 with experts, averaged with a shared one; leading dense layers rotate in any case",
        ..BASE
    },
];

const COHERE: Arch = Arch { ends: |d| Ends::embedding_only(d).norm(norm(d, "output_norm")), ..BASE };

/// By mean and variance without bias, or by the root of the mean square where the keys have that epsilon.
fn norm(d: &Dims, name: &'static str) -> Norm {
    if d.rms_eps == 0.0 { Norm::layer(d, name).bias(Bias::Never) } else { Norm::rms(d, name) }
}

fn cohere2_keys(k: &mut Keys<'_>) {
    k.d.window_kind = WindowKind::Sliding;
    k.window_pattern(4, false);
    k.windowed_rope_as_others();
    k.d.rotates = (0..k.d.layers_all).map(|l| k.d.windowed(l)).collect();
    k.d.window = k.need_u32("attention.sliding_window");
    k.d.logit_scale = k.need_f32("logit_scale");
    k.layer_norm();
}

fn cohere2moe_keys(k: &mut Keys<'_>) {
    let eps = (k.f32("attention.layer_norm_epsilon"), k.f32("attention.layer_norm_rms_epsilon"));
    if eps == (None, None) {
        let message = "cohere2moe.attention.layer_norm_epsilon is missing, and its rms kind too";
        k.fault(FaultKind::KeyMissing, "attention.layer_norm_epsilon", message);
    }
    (k.d.norm_eps, k.d.rms_eps) = (eps.0.unwrap_or(0.0), eps.1.unwrap_or(0.0));
    k.d.window = k.need_u32("attention.sliding_window");
    k.d.logit_scale = k.need_f32("logit_scale");
    k.need_dense_lead();
    k.need_expert_ff();
    k.d.shared_ff = k.u32_or("expert_shared_feed_forward_length", 0);
    k.d.experts_shared = k.u32_or("expert_shared_count", 0);
    k.expert_weights();
    k.d.window_kind = WindowKind::Sliding;
    k.window_pattern(4, true);
    k.windowed_rope_as_others();
    k.d.rotates = (0..k.d.layers_all).map(|l| k.d.windowed(l) || l < k.d.dense_lead).collect();
}

fn cohere2moe(d: &Dims, l: usize) -> Layer {
    let attention = Attention::grouped(d, l).rotary(d, Rotary::Pairs, l).usual_rope();
    let before = norm(d, "attn_norm");
    if l < d.dense_lead && l < d.layers() {
        return parallel_layer(before, attention, Dense::gated(d, d.ff(0)));
    }
    let len = d.expert_ff(0).or(d.ff(0));
    let mut experts = Experts::new(d, l, len).fused_or_apart();
    // Softmax over the chosen ones, as in transformers; llama.cpp's over all is the same where weights sum to one.
    experts = match Gating::said(d, Gating::Sigmoid) {
        Gating::Softmax => experts.gating(Gating::SoftmaxOfBest, false),
        other => experts.gating(other, d.expert_weights_norm),
    };
    let shared = d.experts_shared > 0;
    if shared {
        experts = experts.shared(Dense::gated(d, d.shared_ff.or(len * d.experts_shared)));
    }
    let mut layer = parallel_layer(before, attention, experts);
    // The mean of routed and shared experts.
    layer.steps[0].branches[1].scale = if shared { 0.5 } else { 1.0 };
    if l < d.layers() { layer } else { layer.with(prediction(d)) }
}
