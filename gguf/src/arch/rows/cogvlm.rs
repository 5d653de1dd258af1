//! CogVLM: beside each matrix one for images.

use crate::arch::{
    Arch, Attention, BASE, Bias, Dense, Dims, Ends, Layer, Norm, Projections, Rotary, Scaling, linear, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "cogvlm",
    keys: |k| {
        k.rms();
        // The graph rotates whole heads with this base, whatever the keys say.
        (k.d.rope_base, k.d.rope_scale, k.d.rope_scaling) = (10_000.0, 1.0, Scaling::None);
    },
    ends: |d| Ends::tied(d).rope_freqs(d.rot(0) / 2),
    stacks: &[trunk(layer)],
    remark: "other matrices for images than for text",
    ..BASE
}];

fn layer(d: &Dims, l: usize) -> Layer {
    let inner = d.queries(0);
    let attention = Attention {
        kv_heads: d.heads(0),
        rows: [inner; 4],
        bias: Bias::Never,
        rot: d.key_len(0),
        rope_factors: false,
        ..Attention::uniform(d, l).stored(Projections::Fused)
    };
    let len = d.ff(0);
    let images = [
        ("vis_attn_qkv", d.embd, inner * 3),
        ("vis_attn_output", inner, d.embd),
        ("vis_gate", d.embd, len),
        ("vis_down", len, d.embd),
        ("vis_up", d.embd, len),
    ];
    Layer::new([
        step(Norm::rms(d, "attn_norm"), attention.rotary(d, Rotary::Halves, l)),
        step(Norm::rms(d, "ffn_norm"), Dense::gated(d, len)),
    ])
    .with(images.into_iter().flat_map(|(name, cols, rows)| linear(name, cols, rows, Bias::Never)))
}
