//! StableLM.

use super::{norm_layer, parallel_layer};
use crate::arch::{Arch, Attention, BASE, Dense, Dims, Ends, HeadNorm, Layer, Need, Norm, NormKind, Rotary, trunk};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "stablelm",
    keys: |k| {
        k.layer_norm();
        // The tensors say the same.
        k.unused(&["use_parallel_residual"]);
    },
    ends: |d| Ends::untied(d).norm(Norm::layer(d, "output_norm")),
    stacks: &[trunk(stablelm)],
    remark: "attention and feed side by side where the feed has no norm; norms of heads where the file has them",
    ..BASE
}];

fn stablelm(d: &Dims, l: usize) -> Layer {
    let attention = Attention::wide(d, l)
        .rotary(d, Rotary::Halves, l)
        .norms(NormKind::Layer(d.norm_eps), HeadNorm::PerHead)
        .with_norms(|n| n.need = Need::Optional);
    let feed = Dense::gated(d, d.ff(0));
    let second = Norm::layer(d, "ffn_norm").optional();
    if d.has(l, "ffn_norm.weight") {
        let mut layer = norm_layer(d, attention, feed);
        layer.steps[1].branches[0].before = Some(second);
        return layer;
    }
    parallel_layer(Norm::layer(d, "attn_norm"), attention, feed).with(second.items())
}
