//! SmallThinker: the router reads the layer's input.

use crate::arch::{
    Activation, Arch, Attention, BASE, Dim, Dims, Experts, Gating, Keys, Layer, Norm, Rotary, WindowKind, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "smallthinker",
    keys,
    stacks: &[trunk(layer)],
    demand: |d| {
        let experts = d.layers() == 0 || d.experts > 0 && d.experts_used(0) > 0;
        (!experts).then(|| "every layer has experts".to_owned())
    },
    remark: "experts with ReLU, chosen by the layer's input; windows in three of four layers",
    ..BASE
}];

/// The window is always as long; the layers without one do not rotate, but for a model of four layers, where the loader's
/// graph takes the period for "all rotate".
fn keys(k: &mut Keys<'_>) {
    const PERIOD: usize = 4;
    let said = k.u32_or("attention.sliding_window", 0);
    if said > 0 {
        k.d.window = Dim(4096);
        k.d.window_kind = WindowKind::Sliding;
        k.window_pattern(PERIOD as u64, true);
        k.windowed_rope_as_others();
        let all = k.d.layers() == PERIOD;
        k.d.rotates = (0..k.d.layers_all).map(|l| all || !l.is_multiple_of(PERIOD)).collect();
    } else {
        k.unused(&["attention.sliding_window_pattern", "rope.freq_base_swa"]);
    }
    k.expert_ff();
    k.rms();
    k.expert_gating();
}

fn layer(d: &Dims, l: usize) -> Layer {
    let mut attention = Attention::uniform(d, l).rotary(d, Rotary::Halves, l);
    attention.rows[1] = d.values(0);
    let experts = Experts {
        activation: Activation::Relu,
        gating: Gating::said(d, Gating::Sigmoid),
        router_reads_layer: true,
        ..Experts::new(d, l, d.expert_ff(0))
    };
    Layer::new([step(Norm::rms(d, "attn_norm"), attention), step(Norm::rms(d, "ffn_norm"), experts)])
}
