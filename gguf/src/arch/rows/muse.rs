//! Muse Glimmer.

use crate::arch::{
    Arch, Attention, BASE, Dense, Dims, Ends, Gate, Keys, Layer, Norm, NormKind, Rotary, WindowKind, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "muse-glimmer",
    keys: muse_keys,
    ends: |d| Ends::untied(d).embedding_norm(Norm::rms(d, "").plain()),
    stacks: &[trunk(muse)],
    remark: "gated attention; windows in three of four layers, which alone rotate; capped logits",
    ..BASE
}];

fn muse_keys(k: &mut Keys<'_>) {
    k.rms();
    k.d.window_kind = WindowKind::Sliding;
    k.d.window = k.need_u32("attention.sliding_window");
    k.d.final_softcap = k.f32_or("final_logit_softcapping", 30.0);
    k.d.logit_scale = k.need_f32("logit_scale");
    k.d.rope_base_windowed = k.f32_or("rope.freq_base_swa", k.d.rope_base);
    k.window_pattern(4, false);
    k.d.rotates = (0..k.d.layers_all).map(|l| k.d.windowed(l)).collect();
}

fn muse(d: &Dims, l: usize) -> Layer {
    let attention = Attention::uniform(d, l).rotary(d, Rotary::Pairs, l).head_norms(d).gate(Gate::Element);
    let after = |name| Norm { kind: NormKind::Rms(1e-8), ..Norm::rms(d, name) };
    Layer::new([
        step(Norm::rms(d, "attn_norm"), attention).then(after("post_attention_norm")),
        step(Norm::rms(d, "ffn_norm"), Dense::gated(d, d.ff(0))).then(after("post_ffw_norm")),
    ])
}
