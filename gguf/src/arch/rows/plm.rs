//! PLM: latent attention and squared ReLU.

use crate::arch::{Activation, Arch, BASE, Dense, Dims, Ends, Latent, Layer, Norm, step, trunk};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "plm",
    keys: |k| {
        k.rms();
        k.d.kv_rank = k.need_u32("attention.kv_lora_rank");
    },
    ends: Ends::embedding_only,
    stacks: &[trunk(layer)],
    remark: "latent attention, squared ReLU without gate",
    ..BASE
}];

fn layer(d: &Dims, l: usize) -> Layer {
    let feed = Dense::plain(d, d.ff(0), Activation::ReluSquared);
    Layer::new([step(Norm::rms(d, "attn_norm"), Latent::new(d, l)), step(Norm::rms(d, "ffn_norm"), feed)])
}
