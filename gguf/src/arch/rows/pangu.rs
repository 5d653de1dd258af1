//! openPangu Embedded.

use crate::arch::{Arch, Attention, BASE, Bias, Dense, Dims, Ends, Layer, Norm, Rotary, step, trunk};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "pangu-embedded",
    ends: |d| Ends::tied(d).rope_factors(d),
    stacks: &[trunk(layer)],
    remark: "a bias of attention's output",
    ..BASE
}];

/// The graph does not take the factors of frequencies that the loader does.
fn layer(d: &Dims, l: usize) -> Layer {
    let attention = Attention { rope_factors: false, ..Attention::uniform(d, l) };
    let attention = attention.bias(Bias::Optional, Bias::Required).rotary(d, Rotary::Halves, l);
    Layer::new([step(Norm::rms(d, "attn_norm"), attention), step(Norm::rms(d, "ffn_norm"), Dense::gated(d, d.ff(0)))])
}
