//! ERNIE 4.5 and PaddleOCR, which has its text model.

use crate::arch::{
    Arch, Attention, BASE, Bias, Dense, Dims, ExpertGate, Experts, Keys, Kind, Layer, Need, Norm, Rotary, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "ernie4_5",
        stacks: &[trunk(|d, l| layer(d, l, Rotary::Pairs, dense(d)))],
        remark: "Llama's layers",
        ..ERNIE
    },
    Arch {
        name: "ernie4_5-moe",
        keys: |k| {
            keys(k);
            k.need_expert_ff();
            k.shared_ff();
            k.d.expert_every = k.need_u32("interleave_moe_layer_step").len();
            k.dense_lead();
            k.unused(&["expert_shared_count"]);
        },
        stacks: &[trunk(|d, l| layer(d, l, Rotary::Pairs, if l < d.dense_lead { dense(d) } else { experts(d, l) }))],
        remark: "experts behind leading dense layers",
        ..ERNIE
    },
    Arch {
        name: "paddleocr",
        stacks: &[trunk(|d, l| layer(d, l, Rotary::Sections, dense(d)))],
        remark: "ERNIE 4.5 with rotation by sections",
        ..ERNIE
    },
];

const ERNIE: Arch = Arch { keys, ..BASE };

fn keys(k: &mut Keys<'_>) {
    k.rope_sections();
    k.rms();
}

fn layer(d: &Dims, l: usize, rotary: Rotary, feed: Kind) -> Layer {
    let mut attention = Attention::uniform(d, l).bias(Bias::Optional, Bias::Optional).rotary(d, rotary, l);
    attention.rows[1] = d.values(0);
    Layer::new([step(Norm::rms(d, "attn_norm"), attention), step(Norm::rms(d, "ffn_norm"), feed)])
}

fn dense(d: &Dims) -> Kind {
    Dense::gated(d, d.ff(0)).into()
}

/// The loader demands experts in every layer behind the leading ones, so that a step of more than one never loads.
fn experts(d: &Dims, l: usize) -> Kind {
    let experts =
        Experts { gate: ExpertGate::Optional, choice_bias: Some(Need::Optional), ..Experts::new(d, l, d.expert_ff(0)) };
    if d.shared_ff > 0 { experts.shared(Dense::gated(d, d.shared_ff)) } else { experts }.into()
}
