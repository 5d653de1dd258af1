//! SmolLM3: every fourth layer does not rotate.

use crate::arch::{Arch, Attention, BASE, Dense, Dims, Layer, Norm, Rotary, step, trunk};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "smollm3",
    keys: |k| {
        k.rms();
        k.d.rotates = (1..=k.d.layers_all).map(|n| !n.is_multiple_of(4)).collect();
    },
    stacks: &[trunk(layer)],
    remark: "every fourth layer without rotation",
    ..BASE
}];

fn layer(d: &Dims, l: usize) -> Layer {
    let attention = Attention::uniform(d, l).rotary(d, Rotary::Pairs, l);
    Layer::new([step(Norm::rms(d, "attn_norm"), attention), step(Norm::rms(d, "ffn_norm"), Dense::gated(d, d.ff(0)))])
}
