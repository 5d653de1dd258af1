//! LFM2: short convolutions, attention in some layers.

use crate::arch::{
    Arch, Attention, BASE, Bias, Dense, Dims, Ends, Experts, Gating, Keys, Kind, Layer, Need, Norm, Rotary, ShortConv,
    WindowKind, linear, optional, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "lfm2",
        keys: |k| {
            keys(k);
            k.d.dense_lead = k.d.layers();
            k.d.window = k.u32_or("attention.sliding_window", 0);
            if k.d.window > 0 {
                k.d.window_kind = WindowKind::Sliding;
                k.d.windowed = k.d.recurrent.iter().map(|r| !r).collect();
            }
        },
        remark: "short convolutions, attention in some layers",
        ..LFM2
    },
    Arch {
        name: "lfm2moe",
        keys: |k| {
            keys(k);
            k.dense_lead();
            k.need_expert_ff();
            k.d.expert_gating = k.need_u32("expert_gating_func").get();
        },
        remark: "the same with experts behind leading dense layers",
        ..LFM2
    },
];

const LFM2: Arch = Arch {
    ends: |d| {
        let out = d.embd_out.or(d.embd);
        let norm = Norm::rms(d, "token_embd_norm");
        // The projection of late interaction (ColBERT).
        let projection = optional(linear("dense_2", d.embd, out, Bias::Optional));
        Ends { after_pooling: &["dense_2"], ..Ends::tied(d).norm(norm).with(projection) }
    },
    stacks: &[trunk(layer)],
    demand: |d| {
        let experts = (d.dense_lead..d.layers()).is_empty() || d.experts > 0 && d.experts_used(0) > 0;
        if !experts {
            return Some("layers behind the leading dense ones have experts".to_owned());
        }
        let attends = (0..d.layers()).any(|l| !d.recurrent(l));
        (attends && d.keys(0) != d.values(0)).then(|| "keys are as long as values".to_owned())
    },
    ..BASE
};

/// Layers without key-value heads are convolutions.
fn keys(k: &mut Keys<'_>) {
    k.d.shortconv = k.need_u32("shortconv.l_cache");
    k.rms();
    k.recurrent_without_kv();
}

fn layer(d: &Dims, l: usize) -> Layer {
    let mixer: Kind = if d.recurrent(l) {
        ShortConv::new(d).into()
    } else {
        let attention = Attention { rows: [d.embd, d.keys(l), d.values(l), d.embd], ..Attention::new(d, l) };
        attention.head_norms(d).rotary(d, Rotary::Halves, l).global_rope().into()
    };
    let feed: Kind = if l < d.dense_lead {
        Dense::gated(d, d.ff(0)).into()
    } else {
        Experts {
            gating: Gating::said(d, Gating::Softmax),
            choice_bias: Some(Need::Required),
            ..Experts::new(d, l, d.expert_ff(0))
        }
        .into()
    };
    Layer::new([step(Norm::rms(d, "attn_norm"), mixer), step(Norm::rms(d, "ffn_norm"), feed)])
}
