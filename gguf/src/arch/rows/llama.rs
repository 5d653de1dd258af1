//! Llama and its closest relatives.

use crate::arch::{Arch, Attention, BASE, Bias, Dense, Dims, Ends, Experts, Layer, Norm, Rotary, Types, blocks, step};

pub(super) const ROWS: &[Arch] = &[Arch { name: "llama", ..LLAMA }, Arch { name: "llama-embed", ..LLAMA }];

const LLAMA: Arch = Arch {
    ends: |d| Ends::tied(d).rope_factors(d),
    stacks: &[blocks(llama)],
    rotates_whole_heads: true,
    types: Types { seventy_b: 80, shared_heads_only: true, ..BASE.types },
    remark: "Llama 1 to 3, Mistral, Mixtral and models of their form",
    ..BASE
};

/// Grouped attention, then a gated network or experts.
fn llama(d: &Dims, l: usize) -> Layer {
    let attention = Attention::new(d, 0).bias(Bias::Optional, Bias::Optional).rotary(d, Rotary::Pairs, l);
    let feed = Norm::rms(d, "ffn_norm");
    let feed = if d.experts == 0 {
        step(feed, Dense::gated(d, d.ff(0)).bias(Bias::Optional))
    } else {
        let mut experts = Experts::new(d, l, d.ff(0));
        experts.gate = crate::arch::ExpertGate::Optional;
        if d.shared_ff > 0 {
            experts = experts.shared(Dense::gated(d, d.shared_ff));
        }
        step(feed, experts)
    };
    Layer::new([step(Norm::rms(d, "attn_norm"), attention), feed])
}
