//! Hunyuan: dense, mixtures, 3 and 4.

use super::deepseek::EPSILON_WITHIN;
use super::mtp::prediction;
use crate::arch::{
    Absorbed, Activation, Arch, Attention, BASE, Dense, Dims, Ends, ExpertGate, Experts, Gate, Gating, HeadNorms,
    IndexForm, Indexer, Keys, Kind, Latent, Layer, Mtp, Need, Norm, Over, Residual, Rotary, Sparse, Step,
    StreamWeights, Streams, blocks, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch { name: "hunyuan-dense", remark: "norms of heads behind the rotation", ..HUNYUAN },
    Arch { name: "hunyuan_vl", remark: "the same with rotation by sections", ..HUNYUAN },
    Arch {
        name: "hunyuan-moe",
        keys: |k| {
            k.rms();
            k.need_expert_ff();
            k.shared_ff();
        },
        stacks: &[trunk(hunyuan_moe)],
        one_expert_is_none: false,
        remark: "the same with experts and a shared one",
        ..HUNYUAN
    },
    Arch {
        name: "hy_v3",
        keys: |k| {
            k.rms();
            k.need_expert_ff();
            k.shared_ff();
            k.expert_weights();
        },
        stacks: &[blocks(hy_v3)],
        mtp: Mtp { without_trunk: true, without_layers: true },
        remark: "Hunyuan 3: experts behind dense layers, norms of heads",
        ..BASE
    },
    Arch {
        name: "hy_v4",
        keys: hy_v4_keys,
        ends: |d| Ends::untied(d).reads(Residual::Streams(streams(d, "output_hc"))),
        stacks: &[trunk(hy_v4)],
        demand: |d| {
            if !d.is_mla() || d.key_len_mla <= d.rot(0).get() {
                return Some("keys and values are compressed, and keys longer than what rotates".to_owned());
            }
            let experts = d.dense_lead >= d.layers() || d.experts > 0 && d.experts_used(0) > 0;
            (!experts).then(|| "layers behind the leading dense ones have experts".to_owned())
        },
        remark: "Hunyuan 4: several residual streams, gated latent attention with an indexer, experts",
        ..BASE
    },
];

const HUNYUAN: Arch = Arch {
    keys: hunyuan_keys,
    stacks: &[trunk(|d, l| hunyuan(d, l, Dense::gated(d, d.ff(0)).into()))],
    one_expert_is_none: true,
    ..BASE
};

/// The base of the rotation grows with alpha.
fn hunyuan_keys(k: &mut Keys<'_>) {
    k.rms();
    k.rope_sections();
    let alpha = k.f32_or("rope.scaling.alpha", 0.0);
    if alpha > 0.0 {
        let len = k.d.key_len(0).get() as f32;
        k.d.rope_base *= alpha.powf(len / (len - 2.0));
    }
}

fn hunyuan(d: &Dims, l: usize, feed: Kind) -> Layer {
    let by_sections = d.rope_sections[0] > 0 && d.rope_sections[1] > 0;
    let rotary = if by_sections { Rotary::Sections } else { Rotary::Halves };
    let attention = Attention::uniform(d, l).rotary(d, rotary, l).head_norms(d);
    let norms = attention.norms.map(|norms| HeadNorms { after_rotation: true, ..norms });
    Layer::new([
        step(Norm::rms(d, "attn_norm"), Attention { norms, ..attention }),
        step(Norm::rms(d, "ffn_norm"), feed),
    ])
}

fn hunyuan_moe(d: &Dims, l: usize) -> Layer {
    let shared = d.shared_ff.or(d.ff(l));
    hunyuan(d, l, Experts::new(d, l, d.ff(0)).shared(Dense::gated(d, shared)).into())
}

/// The loader takes every tensor of both feeds where it is there; a layer with a router is one of experts.
fn hy_v3(d: &Dims, l: usize) -> Layer {
    let attention = Attention::uniform(d, l).rotary(d, Rotary::Halves, l).head_norms(d);
    let len = d.expert_ff(0).or(d.ff(0) / d.experts_used(0).or(1.into()));
    let dense = Dense { need: Need::Optional, ..Dense::gated(d, d.ff(0)) };
    let experts = Experts {
        gate: ExpertGate::Either,
        gating: Gating::said(d, Gating::Sigmoid),
        normalize: d.expert_weights_norm,
        choice_bias: Some(Need::Optional),
        choice_name: "exp_probs_b",
        may_lack: true,
        ..Experts::new(d, l, len).shared(Dense::gated(d, d.shared_ff.or(len)))
    };
    let (feed, other) = super::feed_by_router(d, l, dense, experts);
    let layer = Layer::new([step(Norm::rms(d, "attn_norm"), attention), step(Norm::rms(d, "ffn_norm"), feed)]);
    let layer = layer.with(other);
    if l < d.layers() { layer } else { layer.with(prediction(d)) }
}

const INDEXER: [&str; 3] = ["attention.indexer.head_count", "attention.indexer.key_length", "attention.indexer.top_k"];
const TYPES: &str = "attention.indexer.types";
const LIMIT: &str = "swiglu_clamp_exp";
const MAGNITUDE: &str = "hyper_connection.magnitude";

fn hy_v4_keys(k: &mut Keys<'_>) {
    k.rms();
    k.dense_lead();
    k.d.q_rank = k.need_u32("attention.q_lora_rank");
    k.d.kv_rank = k.need_u32("attention.kv_lora_rank");
    k.d.key_len_mla = k.need_u32("attention.key_length_mla");
    k.d.value_len_mla = k.need_u32("attention.value_length_mla");
    k.need_expert_ff();
    k.d.experts_shared = k.need_u32("expert_shared_count");
    k.expert_weights();
    k.swiglu_limits(LIMIT);
    k.own_need_u32("hyper_connection.count");
    k.own_need_f32("hyper_connection.epsilon");
    k.own_need_f32(MAGNITUDE);
    let [heads, len, best] = INDEXER.map(|key| {
        k.own_u32(key);
        k.d.count(key)
    });
    if best > 0 {
        k.d.norm_eps = k.d.rms_eps;
        let rule = "an indexer has heads that are longer than what rotates";
        k.demand(heads > 0 && len > k.d.rot(0), INDEXER[0], rule);
        k.indexer_types(|_| false);
        k.demand(k.d.indexes(0), TYPES, "the first layer has an indexer of its own");
    } else {
        k.unused(&[TYPES]);
    }
}

fn streams(d: &Dims, name: &'static str) -> Streams {
    let eps = d.float("hyper_connection.epsilon").unwrap_or(0.0);
    let weights = StreamWeights::Apart { magnitude: d.float(MAGNITUDE).unwrap_or(0.0), eps };
    Streams { count: d.count("hyper_connection.count"), width: d.embd, name, weights, eps: d.rms_eps }
}

fn hy_v4(d: &Dims, l: usize) -> Layer {
    let latent = Latent {
        norm: EPSILON_WITHIN,
        gate: Gate::Element,
        sinks: Some(Need::Required),
        absorbed: Absorbed::Yes,
        ..Latent::new(d, 0)
    };
    let mixer: Kind = if d.count(INDEXER[2]) > 0 {
        let form = IndexForm::Compressed { input: d.embd, rank: d.q_rank };
        let indexer = d.indexes(l).then(|| Indexer { rotates_last: true, ..Indexer::new(d, form, Rotary::Pairs) });
        Sparse { over: Over::Latent(Box::new(latent)), indexer }.into()
    } else {
        latent.into()
    };
    let feed: Kind = if l < d.dense_lead {
        Dense::gated(d, d.ff(0)).into()
    } else {
        Experts {
            activation: d.limited(LIMIT, l, Activation::SiluClamped),
            gating: Gating::said(d, Gating::Sigmoid),
            normalize: d.expert_weights_norm,
            choice_bias: Some(Need::Optional),
            ..Experts::new(d, l, d.expert_ff(0)).shared(Dense::gated(d, d.expert_ff(0) * d.experts_shared))
        }
        .into()
    };
    let joined = |step: Step, name| step.joins(Residual::Streams(streams(d, name)));
    Layer::new([
        joined(step(Norm::rms(d, "attn_norm"), mixer), "hc_attn"),
        joined(step(Norm::rms(d, "ffn_norm"), feed), "hc_ffn"),
    ])
}
