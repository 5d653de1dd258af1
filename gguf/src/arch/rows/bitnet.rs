//! BitNet: norms before the last matrix of each branch.

use crate::arch::{Arch, Attention, BASE, Bias, Dense, Dims, Ends, Layer, Norm, Projections, Rotary, step, trunk};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "bitnet",
    ends: Ends::embedding_only,
    stacks: &[trunk(layer)],
    remark: "norms before the output and down matrices",
    ..BASE
}];

fn layer(d: &Dims, l: usize) -> Layer {
    let attention = Attention {
        rows: [d.embd, d.values(0), d.values(0), d.embd],
        bias: Bias::Never,
        sub_norm: Some(Norm::rms(d, "attn_sub_norm")),
        ..Attention::uniform(d, l).stored(Projections::Separate)
    };
    let len = d.ff(0);
    let feed = Dense { sub_norm: Some(Norm::rms(d, "ffn_sub_norm").len(len)), ..Dense::gated(d, len) };
    Layer::new([
        step(Norm::rms(d, "attn_norm"), attention.rotary(d, Rotary::Halves, l)),
        step(Norm::rms(d, "ffn_norm"), feed),
    ])
}
