//! Arcee's AFM and Trinity.

use crate::arch::{
    Activation, Arch, Attention, BASE, Dense, Dims, Ends, Experts, Gate, Gating, Keys, Kind, Layer, Need, Norm, Rotary,
    WindowKind, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "arcee",
        ends: |d| Ends::tied(d).rope_freqs(d.rot(0) / 2),
        stacks: &[trunk(arcee)],
        remark: "squared ReLU without gate",
        ..BASE
    },
    Arch {
        name: "afmoe",
        keys: afmoe_keys,
        ends: |d| Ends { embedding_scale: (d.embd.get() as f32).sqrt(), ..Ends::tied(d) },
        stacks: &[trunk(afmoe)],
        remark: "Trinity: experts, gated attention, windows; full layers do not rotate",
        ..BASE
    },
];

fn arcee(d: &Dims, l: usize) -> Layer {
    let attention = Attention::uniform(d, l).rotary(d, Rotary::Pairs, l);
    let feed = Dense::plain(d, d.ff(0), Activation::ReluSquared);
    Layer::new([step(Norm::rms(d, "attn_norm"), attention), step(Norm::rms(d, "ffn_norm"), feed)])
}

fn afmoe_keys(k: &mut Keys<'_>) {
    k.rms();
    k.dense_lead();
    k.need_expert_ff();
    k.d.experts_shared = k.need_u32("expert_shared_count");
    k.expert_weights();
    k.d.window = k.u32_or("attention.sliding_window", 0);
    // The loader's graph rotates by the number of a layer, all but every fourth; the model rotates in layers with a
    // window, which is the same for a pattern of four.
    if k.d.window > 0 {
        k.d.window_kind = WindowKind::Sliding;
        k.window_pattern(4, false);
        k.windowed_rope_as_others();
        k.d.rotates = (0..k.d.layers_all).map(|l| k.d.windowed(l)).collect();
    } else {
        k.unused(&["attention.sliding_window_pattern", "rope.freq_base_swa"]);
        k.d.rotates = (1..=k.d.layers_all).map(|n| !n.is_multiple_of(4)).collect();
    }
}

fn afmoe(d: &Dims, l: usize) -> Layer {
    let attention = Attention::uniform(d, l).rotary(d, Rotary::Halves, l).head_norms(d).gate(Gate::Element);
    let feed: Kind = if l < d.dense_lead {
        Dense::gated(d, d.ff(0)).into()
    } else {
        let experts = Experts {
            gating: Gating::said(d, Gating::Sigmoid),
            normalize: d.expert_weights_norm,
            choice_bias: Some(Need::Required),
            ..Experts::new(d, l, d.expert_ff(0))
        };
        let shared = d.expert_ff(0) * d.experts_shared;
        if d.experts_shared > 0 { experts.shared(Dense::gated(d, shared)) } else { experts }.into()
    };
    Layer::new([
        step(Norm::rms(d, "attn_norm"), attention).then(Norm::rms(d, "post_attention_norm")),
        step(Norm::rms(d, "ffn_norm"), feed).then(Norm::rms(d, "post_ffw_norm")),
    ])
}
