//! DeepSeek 3.2 and 4, and GLM 5, which has the attention of the first.

use super::deepseek::{EPSILON_WITHIN, yarn_scale};
use super::kimi::kda;
use super::mtp::prediction;
use crate::arch::{
    Absorbed, Activation, Arch, BASE, Compressed, Dense, Dim, Dims, Ends, Experts, Gating, IndexForm, Indexer, Item,
    Kda, Keys, Kind, Latent, Layer, Mtp, Need, Norm, Over, Own, Pool, Residual, Rotary, Slot, Sparse, Step,
    StreamWeights, Streams, Types, WindowKind, blocks, optional, step,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "deepseek32",
        keys: |k| {
            deepseek32_keys(k);
            k.d.expert_gating = k.need_u32("expert_gating_func").get();
            // The converter writes a tenth of it.
            k.d.yarn_log_mul = k.f32("rope.scaling.yarn_log_multiplier").map_or(0.0, |v| v / 0.1);
        },
        stacks: &[blocks(|d, l| deepseek32(d, l, Rotary::Halves, Need::Required))],
        remark: "latent attention to the tokens that an indexer chooses, experts",
        ..DEEPSEEK32
    },
    Arch {
        name: "glm-dsa",
        keys: |k| {
            deepseek32_keys(k);
            k.expert_gating();
            // GLM 5.2, by its context, has a pattern of its own.
            k.indexer_types(if k.d.context < GLM_5_2_CONTEXT { |_| true } else { glm_5_2 });
        },
        stacks: &[blocks(|d, l| deepseek32(d, l, Rotary::Pairs, Need::Optional))],
        remark: "GLM 5: the same",
        ..DEEPSEEK32
    },
    Arch {
        name: "glm5-next",
        keys: glm5_next_keys,
        ends: |d| Ends::untied(d).reads(Residual::Streams(Streams { weights: StreamWeights::Mean, ..streams(d, "") })),
        stacks: &[blocks(glm5_next)],
        types: Types {
            kept: &[
                "hc_",
                "indexer.attn_q_b",
                "indexer.attn_k",
                "indexer.proj",
                "indexer_compressor_gate",
                "indexer_compressor_ape",
                "ssm_f_a.weight",
                "ssm_f_b.weight",
                "ssm_g_a.weight",
                "ssm_g_b.weight",
                "ssm_beta.weight",
                "attn_kv_a_mqa.weight",
                "attn_k_b.weight",
                "attn_v_b.weight",
            ],
            at_least_q8_0: &["attn_q_a", "attn_q_b", "nextn.eh_proj"],
            ..BASE.types
        },
        remark: "delta attention, latent attention with a pooling indexer, several residual streams, experts",
        ..BASE
    },
    Arch {
        name: "deepseek4",
        keys: deepseek4_keys,
        ends: |d| Ends::untied(d).reads(Residual::Streams(streams(d, "output_hc"))),
        stacks: &[blocks(deepseek4)],
        mtp: Mtp { without_trunk: true, without_layers: false },
        demand: |d| {
            let known = (0..d.layers_all).all(|l| matches!(d.count_at(RATIOS, l).get(), 0 | 4 | 128));
            (!known).then(|| "keys are compressed by 4, by 128 or not at all".to_owned())
        },
        remark: "keys compressed in time, several residual streams, experts by token in the first layers",
        ..BASE
    },
];

const DEEPSEEK32: Arch = Arch {
    mtp: Mtp { without_trunk: true, without_layers: true },
    demand: |d| {
        if !d.is_mla() {
            return Some("keys and values are compressed".to_owned());
        }
        let experts = d.dense_lead >= d.layers_all || d.experts > 0 && d.experts_used(0) > 0;
        (!experts).then(|| "layers behind the leading dense ones have experts".to_owned())
    },
    ..BASE
};

/// The context of GLM 5.2, and its layers with an indexer of their own.
const GLM_5_2_CONTEXT: u64 = 1 << 20;

fn glm_5_2(l: usize) -> bool {
    l < 2 || l % 4 == 2
}

fn deepseek32_keys(k: &mut Keys<'_>) {
    k.need_expert_ff();
    k.rms();
    // The indexer's.
    k.d.norm_eps = 1e-6;
    k.rope_sections();
    k.d.experts_shared = k.need_u32("expert_shared_count");
    k.dense_lead();
    k.expert_scale();
    k.expert_norm();
    k.d.q_rank = k.need_u32("attention.q_lora_rank");
    k.d.kv_rank = k.need_u32("attention.kv_lora_rank");
    k.d.key_len_mla = k.u32_or("attention.key_length_mla", 0);
    k.d.value_len_mla = k.u32_or("attention.value_length_mla", 0);
    k.indexer();
}

/// GLM 5's loader takes a file without indexers, and layers share what one before them has chosen.
fn deepseek32(d: &Dims, l: usize, rotary: Rotary, need: Need) -> Layer {
    let mut latent = Latent { norm: EPSILON_WITHIN, absorbed: Absorbed::Yes, ..Latent::new(d, 0) };
    latent.scale *= yarn_scale(d, 0.1 * d.yarn_log_mul);
    let form = IndexForm::Compressed { input: d.embd, rank: d.q_rank };
    let indexer = Indexer { need, ..Indexer::new(d, form, rotary) };
    let shares = need == Need::Optional && l < d.layers() && !d.indexes(l);
    let unused = if shares { indexer.items() } else { Vec::new() };
    let mixer = Sparse { over: Over::Latent(Box::new(latent)), indexer: (!shares).then_some(indexer) };
    let feed: Kind = if l < d.dense_lead {
        Dense::gated(d, d.ff(0)).into()
    } else {
        Experts {
            gating: Gating::said(d, Gating::Sigmoid),
            normalize: d.expert_weights_norm,
            choice_bias: Some(Need::Optional),
            ..Experts::new(d, l, d.expert_ff(0)).shared(Dense::gated(d, d.expert_ff(0) * d.experts_shared))
        }
        .into()
    };
    let layer = Layer::new([step(Norm::rms(d, "attn_norm"), mixer), step(Norm::rms(d, "ffn_norm"), feed)]);
    let layer = layer.with(unused);
    if l < d.layers() { layer } else { layer.with(prediction(d)) }
}

const STREAMS: &str = "hyper_connection.count";
const ROUNDS: &str = "hyper_connection.sinkhorn_iterations";
const EPSILON: &str = "hyper_connection.epsilon";

fn stream_keys(k: &mut Keys<'_>) {
    k.own_need_u32(STREAMS);
    k.own_need_u32(ROUNDS);
    k.own_need_f32(EPSILON);
}

fn streams(d: &Dims, name: &'static str) -> Streams {
    let weights = StreamWeights::Doubly { rounds: d.count(ROUNDS), eps: d.float(EPSILON).unwrap_or(0.0) };
    Streams { count: d.count(STREAMS), width: d.embd, name, weights, eps: d.rms_eps }
}

fn joined(d: &Dims, step: Step, name: &'static str) -> Step {
    step.joins(Residual::Streams(streams(d, name)))
}

const EXPERT_LIMIT: &str = "swiglu_clamp_exp";
const LIMIT: &str = "swiglu_clamp_shexp";

/// The limit of all other feeds is that of experts where no key says so.
fn limits(k: &mut Keys<'_>) {
    k.swiglu_limits(LIMIT);
    if let (None, Some(limits)) = (k.d.own.get(LIMIT), k.d.own.get(EXPERT_LIMIT).cloned()) {
        k.keep(LIMIT, limits);
    }
}

fn dense(d: &Dims, l: usize, len: Dim) -> Dense {
    Dense::gated(d, len).activation(d.limited(LIMIT, l, Activation::SiluClamped))
}

fn experts(d: &Dims, l: usize, len: Dim, otherwise: Gating) -> Experts {
    Experts {
        activation: d.limited(EXPERT_LIMIT, l, Activation::SiluClamped),
        gating: Gating::said(d, otherwise),
        normalize: d.expert_weights_norm,
        choice_bias: Some(Need::Required),
        ..Experts::new(d, l, len).shared(dense(d, l, len * d.experts_shared))
    }
}

const POOL: &str = "attention.indexer.kpool";
const TAIL: &str = "attention.indexer.kpool_select_tail";

fn glm5_next_keys(k: &mut Keys<'_>) {
    k.rms();
    k.d.norm_eps = k.f32_or("attention.layer_norm_epsilon", 0.0);
    k.d.key_len_mla = k.need_u32("attention.key_length_mla");
    k.d.value_len_mla = k.need_u32("attention.value_length_mla");
    k.d.q_rank = k.need_u32("attention.q_lora_rank");
    k.d.kv_rank = k.need_u32("attention.kv_lora_rank");
    k.d.ssm.kernel = k.need_u32("ssm.conv_kernel");
    k.own_need_u32("kda.head_dim");
    k.own_f32("kda.gate_lower_bound");
    k.d.recurrent = (0..k.d.layers_all).map(|l| k.d.kv_heads(l) == 0).collect();
    k.need_expert_ff();
    k.d.experts_shared = k.need_u32("expert_shared_count");
    k.dense_lead();
    k.expert_weights();
    k.swiglu_limits(EXPERT_LIMIT);
    limits(k);
    k.indexer();
    k.own_need_u32(POOL);
    let tail = k.bool(TAIL).unwrap_or(true);
    k.keep(TAIL, Own::Count(tail.into()));
    let (pool, best) = (k.d.count(POOL), k.d.count("attention.indexer.top_k"));
    k.demand(pool > 1 && best % pool == 0, POOL, "an indexer chooses whole pools of more than one token");
    k.indexer_types(|_| true);
    stream_keys(k);
    k.demand(k.d.count(STREAMS) == 4, STREAMS, "there are four residual streams");
}

fn glm5_next(d: &Dims, l: usize) -> Layer {
    let predicts = l >= d.layers();
    let mut unused = Vec::new();
    let mixer: Kind = if d.recurrent(l) {
        Kda { least: 1e-6, ..kda(d) }.into()
    } else {
        let form = IndexForm::Compressed { input: d.embd, rank: d.q_rank };
        let pool = Pool::Gated { len: d.count(POOL), input: d.embd, tail: d.count(TAIL) > 0 };
        let indexer = Indexer { pool, ..Indexer::new(d, form, Rotary::None) };
        let own = predicts || d.indexes(l);
        if !own {
            unused = optional(indexer.items());
        }
        let latent = Latent { absorbed: Absorbed::Yes, rotary: Rotary::None, ..Latent::new(d, 0) };
        Sparse { over: Over::Latent(Box::new(latent)), indexer: own.then_some(indexer) }.into()
    };
    let feed: Kind = if l < d.dense_lead {
        dense(d, l, d.ff(0)).into()
    } else {
        experts(d, l, d.expert_ff(l), Gating::Sigmoid).into()
    };
    let (mixer, feed) = (step(Norm::rms(d, "attn_norm"), mixer), step(Norm::rms(d, "ffn_norm"), feed));
    if predicts {
        return Layer::new([mixer, feed]).with(prediction(d));
    }
    Layer::new([joined(d, mixer, "hc_attn"), joined(d, feed, "hc_ffn")]).with(unused)
}

const RATIOS: &str = "attention.compress_ratios";
const GROUPS: &str = "attention.output_group_count";
const OUT_RANK: &str = "attention.output_lora_rank";
const COMPRESSED_BASE: &str = "attention.compress_rope_freq_base";
const BY_TOKEN: &str = "hash_layer_count";

fn deepseek4_keys(k: &mut Keys<'_>) {
    // Without the tensors of prediction, its layers are those of the trunk.
    let probe = format!("blk.{}.nextn.eh_proj.weight", k.d.layers());
    if !k.d.shapes.is_empty() && !k.d.present(&probe) {
        k.d.nextn = 0;
    }
    k.rms();
    k.d.q_rank = k.need_u32("attention.q_lora_rank");
    k.d.window = k.need_u32("attention.sliding_window");
    k.need_expert_ff();
    k.d.experts_shared = k.need_u32("expert_shared_count");
    k.d.expert_weights_scale = k.need_f32("expert_weights_scale");
    k.d.expert_weights_norm = k.need_bool("expert_weights_norm");
    let values = k.need_f32s(EXPERT_LIMIT, k.d.layers_all);
    k.keep(EXPERT_LIMIT, Own::Floats(values));
    limits(k);
    k.indexer();
    k.own_need_u32(GROUPS);
    k.own_need_u32(OUT_RANK);
    k.own_need_f32(COMPRESSED_BASE);
    stream_keys(k);
    k.own_need_u32(BY_TOKEN);
    let ratios = k.need_array(RATIOS);
    let fits = ratios.len() >= k.d.layers_all && ratios.len() <= crate::arch::MAX_LAYERS;
    k.demand(fits, RATIOS, "there is one a layer");
    k.keep(RATIOS, Own::Counts(ratios));
    k.d.expert_gating = k.need_u32("expert_gating_func").get();
    k.demand(k.d.expert_gating == 4, "expert_gating_func", "experts are weighted by the root of softplus");
    k.d.window_kind = WindowKind::Sliding;
    k.d.windowed = vec![true; k.d.layers_all];
}

fn deepseek4(d: &Dims, l: usize) -> Layer {
    let attention = Compressed {
        input: d.embd,
        heads: d.heads(0),
        head: d.key_len(0),
        rot: d.rot(0),
        q_rank: d.q_rank,
        ratio: d.count_at(RATIOS, l),
        window: d.window,
        groups: d.count(GROUPS),
        out_rank: d.count(OUT_RANK),
        indexer: Indexer::new(d, IndexForm::Compressed { input: d.embd, rank: d.q_rank }, Rotary::Pairs),
        compressed_base: d.float(COMPRESSED_BASE).unwrap_or(0.0),
        eps: d.rms_eps,
    };
    let by_token = d.count(BY_TOKEN) > l as u64;
    let experts = Experts {
        choice_bias: (!by_token).then_some(Need::Required),
        by_token: by_token.then_some(d.vocab),
        ..experts(d, l, d.expert_ff(0), Gating::SqrtSoftplus)
    };
    let images: Item = Slot::new("exp_probs_b_vl.bias", [d.experts]).optional().into();
    let layer = Layer::new([
        joined(d, step(Norm::rms(d, "attn_norm"), attention), "hc_attn"),
        joined(d, step(Norm::rms(d, "ffn_norm"), experts), "hc_ffn"),
    ])
    .with([images]);
    if l < d.layers() { layer } else { layer.with(prediction(d)) }
}
