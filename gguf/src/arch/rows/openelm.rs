//! OpenELM.

use super::rms_layer;
use crate::arch::{Arch, Attention, BASE, Bias, Dense, Dims, Ends, Layer, Projections, Rotary, trunk};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "openelm",
    ends: Ends::embedding_only,
    stacks: &[trunk(openelm)],
    remark: "numbers of heads and feed lengths of each layer's own",
    ..BASE
}];

fn openelm(d: &Dims, l: usize) -> Layer {
    let mut attention = Attention::uniform(d, l)
        .heads(d.heads(l), d.kv_heads(l))
        .stored(Projections::Fused)
        .bias(Bias::Never, Bias::Never)
        .rotary(d, Rotary::Halves, l)
        .head_norms(d);
    let [queries, keys, ..] = attention.rows;
    attention.rows = [queries, keys, keys, queries];
    rms_layer(d, attention, Dense::gated(d, d.ff(l)))
}
