//! Laguna: gated attention with windows and head counts of each layer.

use crate::arch::{
    Arch, Attention, BASE, Dense, Dims, Experts, Gate, Gating, Keys, Kind, Layer, Need, Norm, Rotary, Scaling,
    WindowKind, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "laguna",
    keys,
    stacks: &[trunk(layer)],
    demand: |d| {
        let rows = |l: usize| d.dim_of(&format!("blk.{l}.attn_gate.weight"), 1);
        let fits = |l: usize| rows(l) == 0 || rows(l) == d.heads(l) || rows(l) == d.key_len(0) * d.heads(l);
        let rule = "attn_gate has a row a head, or one a value";
        (!(0..d.layers()).all(fits)).then(|| rule.to_owned())
    },
    remark: "attention with a softplus gate; windowed layers rotate without YaRN; head counts by layer",
    ..BASE
}];

fn keys(k: &mut Keys<'_>) {
    k.rms();
    k.need_dense_lead();
    k.need_expert_ff();
    k.expert_weights();
    k.d.experts_shared = k.u32_or("expert_shared_count", 1);
    k.shared_ff();
    k.d.shared_ff = k.d.shared_ff.or(k.d.expert_ff(0) * k.d.experts_shared);
    k.d.window = k.u32_or("attention.sliding_window", 0);
    if k.d.window > 0 {
        k.d.window_kind = WindowKind::Sliding;
        k.window_pattern(4, true);
        k.windowed_rope_as_others();
        k.d.rope_scale_windowed = 1.0;
        k.d.rope_scaling_windowed = Scaling::None;
    } else {
        k.unused(&["attention.sliding_window_pattern", "rope.freq_base_swa"]);
    }
}

fn layer(d: &Dims, l: usize) -> Layer {
    let rows = d.dim_of(&format!("blk.{l}.attn_gate.weight"), 1);
    let each = rows == d.key_len(0) * d.heads(l) && rows != d.heads(l);
    let gate = if each { Gate::SoftplusElement } else { Gate::SoftplusHead };
    let lengths = Attention::uniform(d, l);
    let (heads, kv_heads) = (d.heads(l), d.kv_heads(l));
    let attention = Attention {
        heads,
        kv_heads,
        rows: [d.key_len(0) * heads, d.key_len(0) * kv_heads, d.value_len(0) * kv_heads, d.key_len(0) * heads],
        ..lengths.rotary(d, Rotary::Halves, l).head_norms(d).gate(gate)
    };
    let feed: Kind = if l < d.dense_lead {
        Dense::gated(d, d.ff(0)).into()
    } else {
        Experts {
            gating: Gating::said(d, Gating::Sigmoid),
            normalize: d.expert_weights_norm,
            choice_bias: Some(Need::Required),
            ..Experts::new(d, l, d.expert_ff(0)).shared(Dense::gated(d, d.shared_ff))
        }
        .into()
    };
    Layer::new([step(Norm::rms(d, "attn_norm"), attention), step(Norm::rms(d, "ffn_norm"), feed)])
}
