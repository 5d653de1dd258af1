//! Apertus: xIELU without gate.

use crate::arch::{
    Activation, Arch, Attention, BASE, Bias, Dense, Dims, Ends, Layer, Norm, Own, Rotary, bias, step, trunk,
};

const XIELU: [&str; 4] = ["xielu.alpha_n", "xielu.alpha_p", "xielu.beta", "xielu.eps"];

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "apertus",
    keys: |k| {
        k.rms();
        for key in XIELU {
            let values = k.need_f32s(key, k.d.layers());
            k.keep(key, Own::Floats(values));
        }
    },
    ends: |d| Ends::untied(d).rope_factors(d),
    stacks: &[trunk(layer)],
    remark: "xIELU without gate, with parameters of each layer; norms of heads",
    ..BASE
}];

fn layer(d: &Dims, l: usize) -> Layer {
    let mut attention = Attention::uniform(d, l).bias(Bias::Optional, Bias::Optional).head_norms(d);
    attention.rows[1] = d.values(0);
    let parameters = XIELU.map(|key| d.float_at(key, l).unwrap_or(0.0));
    let feed = Dense::plain(d, d.ff(0), Activation::Xielu(parameters));
    // The loader takes biases of the heads' norms that its graph does not add.
    let unused = ["attn_q_norm", "attn_k_norm"].into_iter().filter_map(|n| bias(n, d.key_len(0), Bias::Optional));
    Layer::new([
        step(Norm::rms(d, "attn_norm"), attention.rotary(d, Rotary::Halves, l)),
        step(Norm::rms(d, "ffn_norm"), feed),
    ])
    .with(unused)
}
