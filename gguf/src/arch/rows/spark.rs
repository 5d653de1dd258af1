//! Spark X2.5: gates of heads, windows, gated GELU.

use crate::arch::{Activation, Arch, Attention, BASE, Dense, Dims, Gate, Layer, Norm, Rotary, WindowKind, step, trunk};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "spark2_5",
    keys: |k| {
        k.rms();
        k.d.window = k.need_u32("attention.sliding_window");
        k.d.window_kind = WindowKind::Sliding;
        k.d.windowed = k.need_array("attention.sliding_window_pattern").iter().map(|n| *n != 0).collect();
        k.windowed_rope_as_others();
    },
    stacks: &[trunk(layer)],
    remark: "gates of heads, windows, gated GELU",
    ..BASE
}];

fn layer(d: &Dims, l: usize) -> Layer {
    let attention = Attention::new(d, l).rotary(d, Rotary::Halves, l).gate(Gate::Head);
    let feed = Dense::gated(d, d.ff(0)).activation(Activation::GeluTanh);
    Layer::new([step(Norm::rms(d, "attn_norm"), attention), step(Norm::rms(d, "ffn_norm"), feed)])
}
