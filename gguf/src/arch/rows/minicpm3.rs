//! MiniCPM 3.

use crate::arch::{Arch, BASE, Dense, Dims, Ends, Keys, Latent, Layer, Norm, NormKind, Rotary, step, trunk};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "minicpm3",
    keys: minicpm3_keys,
    ends: |d| Ends::tied(d).long_rope(d.rot(0) / 2),
    stacks: &[trunk(minicpm3)],
    remark: "latent attention; embeddings, branches and logits scaled by constants that no key says",
    ..BASE
}];

fn minicpm3_keys(k: &mut Keys<'_>) {
    k.rms();
    k.d.q_rank = k.need_u32("attention.q_lora_rank");
    k.d.kv_rank = k.need_u32("attention.kv_lora_rank");
    k.d.embedding_scale = 12.0;
    k.d.residual_scale = 1.4 / (k.d.layers() as f32).sqrt();
    k.d.logit_scale = 256.0 / k.d.embd.get() as f32;
}

fn minicpm3(d: &Dims, l: usize) -> Layer {
    // transformers' default epsilon within the attention; llama.cpp takes that of the key.
    let attention = Latent { rotary: Rotary::Halves, norm: NormKind::Rms(1e-6), ..Latent::new(d, l) };
    Layer::new([
        step(Norm::rms(d, "attn_norm"), attention).times(d.residual_scale),
        step(Norm::rms(d, "ffn_norm"), Dense::gated(d, d.ff(0))).times(d.residual_scale),
    ])
}
