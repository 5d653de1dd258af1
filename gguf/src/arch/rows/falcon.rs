//! Falcon.

use crate::arch::{
    Activation, Arch, Attention, BASE, Bias, Branch, Dense, Dims, Ends, Layer, Norm, Projections, Reads, Rotary, Step,
    trunk,
};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "falcon",
    keys: |k| {
        k.layer_norm();
        k.unused(&["tensor_data_layout"]);
    },
    ends: |d| Ends::tied(d).norm(Norm::layer(d, "output_norm")),
    stacks: &[trunk(falcon)],
    rotates_whole_heads: true,
    remark: "attention and feed side by side; 40B and later normalize for each, 7B once for both",
    ..BASE
}];

fn falcon(d: &Dims, l: usize) -> Layer {
    let attention =
        Attention::wide(d, l).stored(Projections::Fused).bias(Bias::Never, Bias::Never).rotary(d, Rotary::Halves, l);
    // GELU by its definition as in transformers; llama.cpp takes tanh.
    let feed = Branch::new(Norm::layer(d, "attn_norm"), Dense::plain(d, d.ff(0), Activation::Gelu));
    let second = Norm::layer(d, "attn_norm_2").optional();
    if d.has(l, "attn_norm_2.weight") {
        return Layer::new([Step::of([Branch::new(second, attention), feed])]);
    }
    let attention = Branch::new(Norm::layer(d, "attn_norm"), attention);
    let items = second.items();
    Layer::new([Step::of([attention, Branch { before: None, ..feed }.reads(Reads::FirstInput)])]).with(items)
}
