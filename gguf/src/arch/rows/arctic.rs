//! Arctic.

use crate::arch::{Arch, Attention, BASE, Branch, Dense, Dims, Experts, Layer, Norm, Reads, Rotary, Step, step, trunk};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "arctic",
    stacks: &[trunk(arctic)],
    remark: "a dense feed behind the attention, experts on the layer's input",
    ..BASE
}];

fn arctic(d: &Dims, l: usize) -> Layer {
    let attention = Attention::wide(d, l).rotary(d, Rotary::Pairs, l);
    let dense = Branch::new(Norm::rms(d, "ffn_norm"), Dense::gated(d, d.embd));
    let experts = Branch::new(Norm::rms(d, "ffn_norm_exps"), Experts::new(d, l, d.ff(0))).reads(Reads::LayerInput);
    Layer::new([step(Norm::rms(d, "attn_norm"), attention), Step::of([dense, experts])])
}
