//! DBRX.

use crate::arch::{Arch, Attention, BASE, Bias, Dims, Ends, Experts, Layer, Norm, Projections, Rotary, step, trunk};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "dbrx",
    keys: |k| {
        k.layer_norm();
        k.d.clamp_qkv = k.need_f32("attention.clamp_kqv");
    },
    ends: |d| Ends::untied(d).norm(norm(d, "output_norm")),
    stacks: &[trunk(|d, l| {
        let attention = Attention::wide(d, l).stored(Projections::Fused).bias(Bias::Never, Bias::Never);
        Layer::new([
            step(norm(d, "attn_norm"), attention.rotary(d, Rotary::Halves, l)),
            step(norm(d, "attn_output_norm"), Experts::new(d, l, d.ff(0))),
        ])
    })],
    demand: |d| (d.experts == 0).then(|| "dbrx has experts".to_owned()),
    remark: "experts; limited projections in one tensor",
    ..BASE
}];

fn norm(d: &Dims, name: &'static str) -> Norm {
    Norm::layer(d, name).bias(Bias::Never)
}
