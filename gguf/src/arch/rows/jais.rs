//! Jais and Jais 2.

use crate::arch::{
    Activation, Arch, Attention, BASE, Bias, Dense, Dims, Ends, Layer, Norm, Projections, Rotary, Types, output, step,
    trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "jais",
        keys: |k| {
            k.layer_norm();
            k.d.alibi_bias = k.f32_or("attention.max_alibi_bias", 0.0);
        },
        ends: |d| Ends::of(d, Norm::layer(d, "output_norm")).with([output(d).into()]),
        stacks: &[trunk(jais)],
        remark: "ALiBi, scores divided by the length of a head instead of its root",
        ..BASE
    },
    Arch {
        name: "jais2",
        keys: |k| k.layer_norm(),
        ends: |d| Ends::tied(d).norm(Norm::layer(d, "output_norm")),
        stacks: &[trunk(jais2)],
        types: Types { seventy_b: 68, ..BASE.types },
        remark: "squared ReLU without gate, biases",
        ..BASE
    },
];

fn jais(d: &Dims, l: usize) -> Layer {
    let attention = Attention {
        rows: [d.embd, d.values(0), d.values(0), d.embd],
        scale: 1.0 / d.value_len(0).get() as f32,
        ..Attention::uniform(d, l).stored(Projections::Fused).bias(Bias::Required, Bias::Required)
    };
    let feed = Dense::gated(d, d.ff(0)).bias(Bias::Required);
    Layer::new([step(Norm::layer(d, "attn_norm"), attention), step(Norm::layer(d, "ffn_norm"), feed)])
}

fn jais2(d: &Dims, l: usize) -> Layer {
    let attention = Attention::uniform(d, l).bias(Bias::Optional, Bias::Required).rotary(d, Rotary::Halves, l);
    let feed = Dense::plain(d, d.ff(0), Activation::ReluSquared).bias(Bias::Required);
    Layer::new([step(Norm::layer(d, "attn_norm"), attention), step(Norm::layer(d, "ffn_norm"), feed)])
}
