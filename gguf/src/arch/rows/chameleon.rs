//! Chameleon: text and images in one vocabulary.

use crate::arch::{
    Arch, Attention, BASE, Bias, Branch, Dense, Dims, Ends, HeadNorm, HeadNorms, Kind, Layer, Norm, NormKind, Own,
    Rotary, Step, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "chameleon",
    keys: |k| {
        k.rms();
        k.d.norm_eps = 1e-5;
        if let Some(swin) = k.bool("swin_norm") {
            k.keep("swin_norm", Own::Count(swin.into()));
        }
    },
    // Image tokens are never predicted.
    ends: |d| Ends { never: 4..8196, ..Ends::tied(d) },
    stacks: &[trunk(layer)],
    remark: "norms of heads by mean and variance, with weights of each head; in the large model norms behind the branches",
    ..BASE
}];

fn layer(d: &Dims, l: usize) -> Layer {
    let norms = HeadNorms {
        kind: NormKind::Layer(d.norm_eps),
        query: HeadNorm::PerHead,
        bias: Bias::Optional,
        ..HeadNorms::PLAIN
    };
    let attention = Attention {
        rows: [d.embd, d.values(0), d.values(0), d.embd],
        norms: Some(norms),
        ..Attention::uniform(d, l).rotary(d, Rotary::Pairs, l)
    };
    let behind = d.count("swin_norm") > 0;
    let normed = |name, kind: Kind| -> Step {
        let norm = Norm::rms(d, name);
        if behind { Step::of([Branch::new(None, kind).then(norm)]) } else { step(norm, kind) }
    };
    Layer::new([normed("attn_norm", attention.into()), normed("ffn_norm", Dense::gated(d, d.ff(0)).into())])
}
