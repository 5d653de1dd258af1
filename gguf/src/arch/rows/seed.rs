//! Seed-OSS.

use crate::arch::{Arch, Attention, BASE, Dense, Dims, Layer, Norm, Rotary, step, trunk};

pub(super) const ROWS: &[Arch] =
    &[Arch { name: "seed_oss", stacks: &[trunk(layer)], remark: "Qwen 2's layers", ..BASE }];

fn layer(d: &Dims, l: usize) -> Layer {
    let mut attention = Attention::uniform(d, l).rotary(d, Rotary::Halves, l);
    attention.rows[2] = d.keys(0);
    let feed = step(Norm::rms(d, "post_attention_norm"), Dense::gated(d, d.ff(0)));
    Layer::new([step(Norm::rms(d, "attn_norm"), attention), feed])
}
