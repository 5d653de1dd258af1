//! OLMo 1 to 3.

use super::{needs_experts, rms_layer};
use crate::arch::{
    Arch, Attention, BASE, Dense, Dims, Ends, Experts, Gating, Keys, Layer, Norm, Rotary, WindowKind, output, step,
    trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "olmo",
        types: crate::arch::Types { seventy_b: 80, ..BASE.types },
        keys: |k| {
            k.layer_norm();
            k.d.clamp_qkv = k.f32_or("attention.clamp_kqv", 0.0);
        },
        ends: |d| Ends::of(d, Norm::layer(d, "").plain()).with([output(d).optional().into()]),
        stacks: &[trunk(|d, l| {
            let norm = || Norm::layer(d, "").plain();
            let attention = Attention::wide(d, l).rotary(d, Rotary::Pairs, l);
            Layer::new([step(norm(), attention), step(norm(), Dense::gated(d, d.ff(0)))])
        })],
        remark: "norms without weights; limited projections",
        ..BASE
    },
    Arch {
        name: "olmo2",
        keys: olmo2_keys,
        ends: Ends::untied,
        stacks: &[trunk(olmo2)],
        remark: "norms behind attention and feed alone; OLMo 3 has windows in three of four layers",
        ..BASE
    },
    Arch {
        name: "olmoe",
        ends: Ends::untied,
        stacks: &[trunk(|d, l| {
            let attention = Attention::wide(d, l)
                .rotary(d, Rotary::Halves, l)
                .whole_norms(d)
                .with_norms(|n| n.lens = Some([d.embd, d.embd]));
            rms_layer(d, attention, Experts::new(d, l, d.ff(0)).gating(Gating::Softmax, false))
        })],
        demand: needs_experts,
        remark: "norms of all queries and all keys; experts whose weights keep their sum",
        ..BASE
    },
];

fn olmo2_keys(k: &mut Keys<'_>) {
    k.rms();
    k.d.window = k.u32_or("attention.sliding_window", 0);
    if k.d.window > 0 {
        k.d.window_kind = WindowKind::Sliding;
        k.window_pattern(4, false);
        k.windowed_rope_as_others();
    } else {
        k.no_windows();
    }
}

fn olmo2(d: &Dims, l: usize) -> Layer {
    let attention = Attention::wide(d, l)
        .rotary(d, Rotary::Halves, l)
        .plain_rope_in_windows(d, l)
        .whole_norms(d)
        .with_norms(|n| n.lens = Some([d.embd, d.kv_heads(0) * (d.embd / d.heads(0))]));
    Layer::new([
        step(None, attention).then(Norm::rms(d, "post_attention_norm")),
        step(None, Dense::gated(d, d.ff(0))).then(Norm::rms(d, "post_ffw_norm")),
    ])
}
