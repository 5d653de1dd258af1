//! MiniMax 01, M2 and M3.

use crate::arch::{
    Activation, Arch, Attention, BASE, Dense, Dims, Ends, ExpertGate, Experts, Gating, IndexForm, Indexer, Keys, Kind,
    Layer, Lightning, Need, Norm, Over, Pool, Residual, Rotary, Sparse, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "minimax-01",
        keys: minimax01_keys,
        stacks: &[trunk(minimax01)],
        remark: "lightning attention in seven of eight layers; residuals are the normalized inputs",
        ..BASE
    },
    Arch {
        name: "minimax-m2",
        keys: |k| {
            k.rms();
            k.need_expert_ff();
            k.expert_gating();
        },
        ends: Ends::untied,
        stacks: &[trunk(minimax_m2)],
        remark: "experts, norms over all heads together",
        ..BASE
    },
    Arch {
        name: "minimax-m3",
        keys: minimax_m3_keys,
        ends: Ends::untied,
        stacks: &[trunk(minimax_m3)],
        remark: "attention to blocks that an indexer chooses, behind leading dense layers; a clamped SwiGLU",
        ..BASE
    },
];

fn minimax01_keys(k: &mut Keys<'_>) {
    k.rms();
    k.d.residual_scale = k.need_f32("residual_scale");
    let all = k.d.layers_all;
    if k.d.any_size && !k.d.shapes.is_empty() {
        k.unused(&["full_attention_interval"]);
        k.d.recurrent = (0..all).map(|l| k.d.has(l, "attn_gate.weight")).collect();
        return;
    }
    k.d.recurrent = match k.u32s("attention.recurrent_layers", all) {
        Some(list) => {
            k.unused(&["full_attention_interval"]);
            list.iter().map(|n| *n != 0).collect()
        }
        None => {
            let interval = k.u32_or("full_attention_interval", 8).len();
            let trunk = k.d.layers();
            (0..all).map(|l| l < trunk && !(l + 1).is_multiple_of(interval)).collect()
        }
    };
}

fn minimax01(d: &Dims, l: usize) -> Layer {
    let mixer: Kind = if d.recurrent(l) {
        let last = d.layers().saturating_sub(1).max(1) as f32;
        let slope = 1.0 - l as f32 / last + 1e-5;
        // The library's default epsilon, whatever the key of the other norms says.
        Lightning { input: d.embd, heads: d.heads(0), head: d.key_len(0), slope, eps: 1e-6 }.into()
    } else {
        Attention::uniform(d, l).rotary(d, Rotary::Halves, l).into()
    };
    let experts = Experts { gate: ExpertGate::Optional, ..Experts::new(d, l, d.ff(0)) };
    let joined = |step: crate::arch::Step| step.joins(Residual::Normed(d.residual_scale));
    Layer::new([joined(step(Norm::rms(d, "attn_norm"), mixer)), joined(step(Norm::rms(d, "ffn_norm"), experts))])
}

fn minimax_m2(d: &Dims, l: usize) -> Layer {
    let mut attention = Attention::uniform(d, l).rotary(d, Rotary::Halves, l).whole_norms(d);
    attention.rows[1] = d.values(0);
    let experts = Experts {
        gating: Gating::said(d, Gating::Sigmoid),
        choice_bias: Some(Need::Required),
        ..Experts::new(d, l, d.ff(0))
    };
    Layer::new([step(Norm::rms(d, "attn_norm"), attention), step(Norm::rms(d, "ffn_norm"), experts)])
}

const BLOCK: &str = "attention.indexer.block_size";
const LOCAL: &str = "attention.indexer.local_blocks";

fn minimax_m3_keys(k: &mut Keys<'_>) {
    k.rms();
    k.dense_lead();
    k.need_expert_ff();
    k.d.experts_shared = k.need_u32("expert_shared_count");
    k.expert_scale();
    k.expert_norm();
    k.d.expert_gating = k.need_u32("expert_gating_func").get();
    k.indexer();
    k.own_need_u32(BLOCK);
    k.own_need_u32(LOCAL);
    k.demand(k.d.count(BLOCK) > 0, BLOCK, "blocks have tokens");
}

fn minimax_m3(d: &Dims, l: usize) -> Layer {
    let mut attention = Attention::uniform(d, l).rotary(d, Rotary::Halves, l).head_norms(d);
    attention.rows[1] = d.values(0);
    let (mixer, feed): (Kind, Kind) = if l < d.dense_lead {
        (attention.into(), Dense::gated(d, d.ff(0)).activation(Activation::SwigluOai).into())
    } else {
        let pool = Pool::Best { len: d.count(BLOCK), local: d.count(LOCAL) };
        let indexer = Indexer { pool, ..Indexer::new(d, IndexForm::Plain { input: d.embd }, Rotary::Halves) };
        let shared = Dense::gated(d, d.expert_ff(0) * d.experts_shared).activation(Activation::SwigluOai);
        let experts = Experts {
            activation: Activation::SwigluOai,
            gating: Gating::said(d, Gating::Sigmoid),
            normalize: d.expert_weights_norm,
            choice_bias: Some(Need::Required),
            ..Experts::new(d, l, d.expert_ff(0)).shared(shared)
        };
        (Sparse { over: Over::Heads(Box::new(attention)), indexer: Some(indexer) }.into(), experts.into())
    };
    Layer::new([step(Norm::rms(d, "attn_norm"), mixer), step(Norm::rms(d, "ffn_norm"), feed)])
}
