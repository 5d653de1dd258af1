//! Talkie: norms without weights, and the embeddings again in every layer.

use crate::arch::{
    Arch, Attention, BASE, Branch, Dense, Dims, Ends, HeadNorm, Layer, Norm, NormKind, Pass, Reads, Rotary, Step,
    output, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "talkie",
    keys: |k| {
        k.rms();
        k.d.logit_scale = k.need_f32("logit_scale");
    },
    ends: |d| Ends::of(d, plain(d)).embedding_norm(plain(d)).with([output(d).into()]),
    stacks: &[trunk(talkie)],
    remark: "norms without weights; each layer adds the normalized embeddings times a number of its own",
    ..BASE
}];

fn plain(d: &Dims) -> Norm {
    Norm::rms(d, "").plain()
}

fn talkie(d: &Dims, l: usize) -> Layer {
    let attention = Attention::grouped(d, l)
        .rotary(d, Rotary::Halves, l)
        .norms(NormKind::Rms(d.rms_eps), HeadNorm::QueryGain)
        .norms_after_rotation();
    let skip = Branch::new(None, Pass { factor: Some("layer_output_scale.weight") }).reads(Reads::Embeddings);
    Layer::new([step(plain(d), attention), step(plain(d), Dense::gated(d, d.ff(0))), Step::of([skip])])
}
