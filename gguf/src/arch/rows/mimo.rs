//! MiMo V2: keys and values of different lengths, windows with bases and heads of their own.

use super::mtp::prediction;
use crate::arch::{
    Arch, Attention, BASE, Branch, Dense, Dims, Ends, Experts, Gating, Keys, Layer, Mtp, Need, Norm, Own, Rotary, Slot,
    Step, WindowKind, blocks, step,
};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "mimo2",
    keys,
    ends: Ends::untied,
    stacks: &[blocks(layer)],
    mtp: Mtp { without_trunk: true, without_layers: true },
    remark: "windows and sinks, head counts of each kind of layer, experts",
    ..BASE
}];

const VALUE_SCALE: &str = "attention.value_scale";

fn keys(k: &mut Keys<'_>) {
    k.rms();
    // Always a sigmoid.
    k.unused(&["expert_gating_func"]);
    k.d.window_kind = WindowKind::Sliding;
    k.need_expert_ff();
    k.d.window = k.need_u32("attention.sliding_window");
    k.d.rope_base_windowed = k.f32_or("rope.freq_base_swa", 10_000.0);
    k.d.windowed = k.need_array("attention.sliding_window_pattern").iter().map(|n| *n != 0).collect();
    if let Some(scale) = k.f32(VALUE_SCALE).filter(|s| *s != 0.0) {
        k.keep(VALUE_SCALE, Own::Float(scale));
    }
}

/// A layer with a router is one of experts; the loader takes every tensor of both feeds where it is there.
fn layer(d: &Dims, l: usize) -> Layer {
    let heads = d.heads(l);
    let columns = d.value_len(0) * heads;
    let attention = Attention {
        rows: [d.key_len(0) * heads, d.keys(l), d.values(l), columns],
        sinks: Some(Need::Optional),
        ..Attention::new(d, l).rotary(d, Rotary::Halves, l)
    };
    let dense = Dense { need: Need::Optional, ..Dense::gated(d, d.ff(0)) };
    let experts = Experts {
        gating: Gating::Sigmoid,
        choice_bias: Some(Need::Optional),
        may_lack: true,
        ..Experts::new(d, l, d.expert_ff(0))
    };
    let (feed, other) = super::feed_by_router(d, l, dense, experts);
    let scale = d.float(VALUE_SCALE).unwrap_or(1.0);
    let layer = Layer::new([
        Step::of([Branch::new(Norm::rms(d, "attn_norm"), attention).times(scale)]),
        step(Norm::rms(d, "ffn_norm"), feed),
    ])
    .with(other);
    if l < d.layers() {
        return layer;
    }
    layer.with(prediction(d)).with([Slot::new("layer_output_norm.weight", [d.embd]).optional().into()])
}
