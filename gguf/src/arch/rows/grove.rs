//! GroveMoE: groups of experts share a smaller one.

use crate::arch::{Arch, Attention, BASE, Chunks, Dims, Experts, Keys, Layer, Norm, Rotary, step, trunk};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "grovemoe",
    keys,
    stacks: &[trunk(layer)],
    demand: |d| {
        let fits = d.experts > 0 && d.experts_used(0) > 0 && d.experts_per_group > 0;
        (!fits).then(|| "every layer has experts in groups".to_owned())
    },
    remark: "groups of experts share a smaller one",
    ..BASE
}];

fn keys(k: &mut Keys<'_>) {
    k.need_expert_ff();
    k.d.chunk_ff = k.u32_or("expert_chunk_feed_forward_length", 0);
    k.d.expert_group_scale = k.need_f32("expert_group_scale");
    k.d.experts_per_group = k.need_u32("experts_per_group");
    k.rms();
}

/// The loader's graph chooses by the sigmoid of the scores, which ranks as they do, and weighs by their softmax.
fn layer(d: &Dims, l: usize) -> Layer {
    let mut attention = Attention::uniform(d, l).rotary(d, Rotary::Halves, l).head_norms(d);
    attention.rows[1] = d.values(0);
    let len = d.expert_ff(0).or(d.ff(0) / d.experts_used(0));
    let small = d.chunk_ff.or(d.key_len(0));
    let chunks = Chunks { len: small, group: d.experts_per_group, scale: d.expert_group_scale };
    let experts = Experts { chunks: Some(chunks), ..Experts::new(d, l, len) };
    Layer::new([step(Norm::rms(d, "attn_norm"), attention), step(Norm::rms(d, "ffn_norm"), experts)])
}
