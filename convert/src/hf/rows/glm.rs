//! GLM 4 to 5, dense, with experts, with latent attention.

use gguf::{Error, Result};
use serde_json::Value;

use crate::config::{Config, as_u64};
use crate::hf::rows::deepseek::{
    self, DEEPSEEK2, EXPERTS, INDEXER, LATENT, absorbed_heads, clamps, deepseek2, hyper_connections, indexer,
};
use crate::hf::rows::llama::head_dim;
use crate::hf::{
    ATTENTION, BASE, BEHIND, Class, ENDS, GATED, HEAD_NORMS, How, NORMS, NameRule, PREDICTION, Params, Piece, Types, r,
    with_prediction,
};
use crate::tokenizer::VocabKind;
use crate::transform::{Rows, mapped, permuted, reshaped};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["Glm4ForCausalLM"],
        defaults: r#"{"num_key_value_heads": 2, "rms_norm_eps": 1.5625e-07, "max_position_embeddings": 131072,
            "head_dim": 128, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40,
            "num_attention_heads": 32, "vocab_size": 151552,
            "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5, "rope_type": "default"}}"#,
        remark: "GLM-4-0414, GLM-Z1",
        ..GLM4
    },
    Class {
        names: &["Glm4vForConditionalGeneration"],
        defaults: r#"{"num_key_value_heads": 2, "rms_norm_eps": 1e-05, "max_position_embeddings": 32768,
            "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40, "num_attention_heads": 32,
            "vocab_size": 151552, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        remark: "the text model of GLM-4.1V; rows of queries and keys in the other order of rotation",
        ..GLM4
    },
    Class {
        names: &["GlmOcrForConditionalGeneration"],
        defaults: r#"{"num_key_value_heads": 8, "rms_norm_eps": 1e-05, "max_position_embeddings": 131072,
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16, "num_attention_heads": 16,
            "vocab_size": 59392, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        prepare: with_prediction,
        keys: |p| {
            glm4(p)?;
            p.maybe_u32("nextn_predict_layers", &["num_nextn_predict_layers"])
        },
        remark: "the text model of GLM-OCR; layers of prediction kept",
        ..GLM4
    },
    Class {
        names: &["Glm4MoeForCausalLM"],
        defaults: r#"{"num_nextn_predict_layers": 1, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "max_position_embeddings": 131072,
            "hidden_size": 4096, "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_hidden_layers": 46,
            "num_attention_heads": 96, "vocab_size": 151552, "num_experts_per_tok": 8, "n_shared_experts": 1,
            "n_routed_experts": 128, "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1,
            "first_k_dense_replace": 1, "norm_topk_prob": true,
            "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5, "rope_type": "default"}}"#,
        remark: "GLM-4.5 to 4.7; layers of prediction kept",
        ..GLM4_MOE
    },
    Class {
        names: &["Glm4vMoeForConditionalGeneration"],
        defaults: r#"{"num_key_value_heads": 8, "rms_norm_eps": 1e-05, "max_position_embeddings": 65536,
            "hidden_size": 4096, "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_hidden_layers": 46,
            "num_attention_heads": 96, "vocab_size": 151424, "num_experts_per_tok": 8, "n_shared_experts": 1,
            "n_routed_experts": 128, "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1,
            "first_k_dense_replace": 1, "norm_topk_prob": true,
            "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5, "rope_type": "default"}}"#,
        remark: "the text model of GLM-4.5V and 4.6V",
        ..GLM4_MOE
    },
    Class {
        names: &["SolarOpenForCausalLM"],
        defaults: r#"{"num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-05,
            "max_position_embeddings": 131072, "hidden_size": 4096, "moe_intermediate_size": 1280,
            "num_hidden_layers": 48, "num_attention_heads": 64, "vocab_size": 196608, "num_experts_per_tok": 8,
            "n_shared_experts": 1, "n_routed_experts": 128, "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1,
            "norm_topk_prob": true, "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}}"#,
        aliases: &[("num_local_experts", "n_routed_experts")],
        vocabulary: VocabKind::SolarOpen,
        prediction: None,
        remark: "Solar Open, of GLM-4.5's form",
        ..GLM4_MOE
    },
    Class {
        names: &["Glm4MoeLiteForCausalLM"],
        defaults: r#"{"num_key_value_heads": 20, "rms_norm_eps": 1e-05, "max_position_embeddings": 202752,
            "hidden_size": 2048, "intermediate_size": 10240, "moe_intermediate_size": 1536, "num_hidden_layers": 47,
            "num_attention_heads": 20, "vocab_size": 154880, "n_shared_experts": 1, "n_routed_experts": 64,
            "routed_scaling_factor": 1.8, "kv_lora_rank": 512, "q_lora_rank": 768, "qk_rope_head_dim": 64,
            "v_head_dim": 256, "qk_nope_head_dim": 192, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 4,
            "norm_topk_prob": true, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        aliases: &[("num_local_experts", "n_routed_experts"), ("head_dim", "qk_rope_head_dim")],
        vocabulary: VocabKind::GlmMoe,
        spelling: &[deepseek::ENDS, LATENT, NORMS, GATED, EXPERTS, PREDICTION],
        prediction: Some(BEHIND),
        prepare: with_prediction,
        keys: |p| {
            deepseek2(p)?;
            match p.config().u64("num_nextn_predict_layers") {
                Some(further) if further > 0 => p.u32("nextn_predict_layers", further),
                _ => Ok(()),
            }
        },
        remark: "GLM-4.7-Flash; latent attention, layers of prediction kept",
        ..DEEPSEEK2
    },
    Class {
        names: &["GlmMoeDsaForCausalLM"],
        arch: "glm-dsa",
        defaults: r#"{"num_key_value_heads": 64, "rms_norm_eps": 1e-05, "max_position_embeddings": 202752,
            "head_dim": "computed", "hidden_size": 6144, "intermediate_size": 12288, "moe_intermediate_size": 2048,
            "num_hidden_layers": 78, "num_attention_heads": 64, "vocab_size": 154880, "n_shared_experts": 1,
            "n_routed_experts": 256, "routed_scaling_factor": 2.5, "kv_lora_rank": 512, "q_lora_rank": 2048,
            "qk_rope_head_dim": 64, "v_head_dim": 256, "qk_nope_head_dim": 192, "n_group": 1, "topk_group": 1,
            "num_experts_per_tok": 8, "norm_topk_prob": true, "first_k_dense_replace": 3, "index_topk": 2048,
            "index_head_dim": 128, "index_n_heads": 32,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        aliases: &[("num_local_experts", "n_routed_experts"), ("num_experts", "n_routed_experts")],
        vocabulary: VocabKind::GlmMoe,
        spelling: &[deepseek::ENDS, LATENT, INDEXER, NORMS, GATED, EXPERTS, PREDICTION],
        modules: deepseek::INDEXER_IN_F32,
        drop_further_blocks: false,
        prediction: Some(BEHIND),
        prepare: with_indexer_types,
        keys: glm_dsa,
        remark: "GLM-5; the indexer of sparse attention, layers of prediction kept",
        ..DEEPSEEK2
    },
    Class {
        names: &["Glm5NextForConditionalGeneration"],
        arch: "glm5-next",
        defaults: r#"{"num_key_value_heads": 64, "rms_norm_eps": 1e-05, "max_position_embeddings": 1048576,
            "hidden_size": 4096, "intermediate_size": 12288, "moe_intermediate_size": 2048, "num_hidden_layers": 45,
            "num_attention_heads": 64, "vocab_size": 154880, "n_shared_experts": 1, "n_routed_experts": 288,
            "routed_scaling_factor": 2.5, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 0,
            "v_head_dim": 256, "qk_nope_head_dim": 256, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 8,
            "norm_topk_prob": true, "index_topk": 2048, "index_head_dim": 128, "index_n_heads": 32, "index_kpool": 16,
            "index_kpool_always_select_tail": true, "swiglu_limit": 10.0, "hc_mult": 4, "hc_eps": 1e-06,
            "hc_sinkhorn_iters": 20}"#,
        aliases: &[("num_local_experts", "n_routed_experts")],
        vocabulary: VocabKind::GlmMoe,
        spelling: &[
            deepseek::ENDS,
            KIMI_DELTA,
            LATENT_ALL_HEADS,
            LATENT,
            POOLED_INDEXER,
            INDEXER,
            STREAMS,
            NORMS,
            GATED,
            EXPERTS,
            PREDICTION,
        ],
        types: Types::Also(&["hc_attn_", "hc_ffn_", "indexer_compressor_", "ssm_a", "ssm_dt", "exp_probs_b"]),
        prediction: Some(BEHIND),
        prepare: mixed_layers,
        keys: glm5_next,
        remark: "the text model of GLM-5.3; delta attention, latent attention and several streams; prediction kept",
        ..BASE
    },
];

const GLM4: Class = Class {
    arch: "glm4",
    vocabulary: VocabKind::Glm4,
    spelling: &[ENDS, GLM4_ATTENTION, NORMS, GLM4_FEED, PREDICTION],
    keys: glm4,
    ..BASE
};

const GLM4_MOE: Class = Class {
    arch: "glm4moe",
    aliases: &[("num_local_experts", "n_routed_experts"), ("num_mtp_layers", "num_nextn_predict_layers")],
    vocabulary: VocabKind::GlmMoe,
    spelling: &[ENDS, ATTENTION, HEAD_NORMS, GLM4_MOE_NORMS, GATED, EXPERTS, PREDICTION],
    prediction: Some(BEHIND),
    prepare: with_prediction,
    keys: glm4_moe,
    ..BASE
};

const GLM4_ATTENTION: &[NameRule] = &[
    r("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q").how(How::Change(halves_together)),
    r("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k").how(How::Change(halves_together)),
    r("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    r("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
];

const GLM4_FEED: &[NameRule] = &[
    r("model.layers.{}.post_self_attn_layernorm", "blk.{}.post_attention_norm"),
    r("model.layers.{}.post_mlp_layernorm", "blk.{}.post_ffw_norm"),
    r("model.layers.{}.mlp.gate_up_proj", "blk.{}.ffn_up"),
    r("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
];

/// Kimi's delta attention, as GLM-5.3 stores it.
const KIMI_DELTA: &[NameRule] = &[
    r("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    r("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    r("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    r("model.layers.{}.self_attn.q_conv1d", "blk.{}.ssm_conv1d_q").how(How::Change(|_, p| convolution(p))),
    r("model.layers.{}.self_attn.k_conv1d", "blk.{}.ssm_conv1d_k").how(How::Change(|_, p| convolution(p))),
    r("model.layers.{}.self_attn.v_conv1d", "blk.{}.ssm_conv1d_v").how(How::Change(|_, p| convolution(p))),
    r("model.layers.{}.self_attn.f_a_proj", "blk.{}.ssm_f_a"),
    r("model.layers.{}.self_attn.f_b_proj", "blk.{}.ssm_f_b"),
    r("model.layers.{}.self_attn.g_a_proj", "blk.{}.ssm_g_a"),
    r("model.layers.{}.self_attn.g_b_proj", "blk.{}.ssm_g_b"),
    r("model.layers.{}.self_attn.b_proj", "blk.{}.ssm_beta"),
    r("model.layers.{}.self_attn.o_norm", "blk.{}.ssm_norm"),
    r("model.layers.{}.self_attn.dt_bias", "blk.{}.ssm_dt.bias"),
    r("model.layers.{}.self_attn.A_log", "blk.{}.ssm_a").how(How::Change(decays)),
];

const LATENT_ALL_HEADS: &[NameRule] =
    &[r("model.layers.{}.self_attn.kv_b_proj", "blk.{}.attn_").how(How::Split(|c, p| {
        let (keys, values) = (c.need_u64(&["qk_nope_head_dim"])?, c.need_u64(&["v_head_dim"])?);
        absorbed_heads(p, c.heads()?, keys, values)
    }))];

/// What pools keys for the indexer.
const POOLED_INDEXER: &[NameRule] = &[
    r("model.layers.{}.self_attn.indexer.index_kpool_compress_gate", "blk.{}.indexer_compressor_gate.weight"),
    r("model.layers.{}.self_attn.indexer.index_kpool_compress_ape", "blk.{}.indexer_compressor_ape.weight"),
];

/// What mixes several residual streams.
const STREAMS: &[NameRule] = &[
    r("model.layers.{}.hc_attn_fn", "blk.{}.hc_attn_fn.weight"),
    r("model.layers.{}.hc_attn_base", "blk.{}.hc_attn_base.weight"),
    r("model.layers.{}.hc_attn_scale", "blk.{}.hc_attn_scale.weight"),
    r("model.layers.{}.hc_ffn_fn", "blk.{}.hc_ffn_fn.weight"),
    r("model.layers.{}.hc_ffn_base", "blk.{}.hc_ffn_base.weight"),
    r("model.layers.{}.hc_ffn_scale", "blk.{}.hc_ffn_scale.weight"),
];

const GLM4_MOE_NORMS: &[NameRule] = &[
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm"),
];

/// The part of a head that rotates.
fn rotary(config: &Config) -> f64 {
    config.rope_f64("partial_rotary_factor").unwrap_or(0.5)
}

/// Where positions have sections, llama.cpp rotates halves: the dimensions of a head that rotate are reordered from
/// neighbours to halves.
fn halves_together(config: &Config, piece: &Piece) -> Result<Rows> {
    if config.rope().get("mrope_section").is_none() {
        return Ok(piece.rows.clone());
    }
    let head = head_dim(config)?;
    let turning = (head as f64 * rotary(config)) as u64;
    let rows = piece.rows.shape().first().copied().unwrap_or(0);
    let heads = rows / head.max(1);
    if heads * head != rows || turning > head || !turning.is_multiple_of(2) {
        return Err(Error::input(format!("its {rows} rows are no heads of {head} of which {turning} rotate")));
    }
    let order = (0..heads).flat_map(|h| {
        let turned = (0..turning).step_by(2).chain((1..turning).step_by(2));
        turned.chain(turning..head).map(move |d| h * head + d)
    });
    permuted(&piece.rows, order.collect())
}

fn glm4(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let head = head_dim(p.config())?;
    p.u32("rope.dimension_count", (head as f64 * rotary(p.config())) as u64)
}

fn glm4_moe(p: &mut Params<'_>) -> Result<()> {
    glm4(p)?;
    p.maybe_u32("expert_count", &["n_routed_experts"])?;
    p.maybe_u32("expert_feed_forward_length", &["moe_intermediate_size"])?;
    p.maybe_u32("expert_shared_count", &["n_shared_experts"])?;
    p.maybe_u32("leading_dense_block_count", &["first_k_dense_replace"])?;
    // The router is a sigmoid in all of them, which no field says.
    p.set("expert_gating_func", 2_u32);
    p.maybe_f32("expert_weights_scale", &["routed_scaling_factor"])?;
    p.maybe_bool("expert_weights_norm", "norm_topk_prob")?;
    p.maybe_u32("nextn_predict_layers", &["num_nextn_predict_layers"])
}

/// Which layers have an indexer, by a pattern of letters or by a period where they are not listed.
fn with_indexer_types(config: &mut Config) -> Result<()> {
    with_prediction(config)?;
    if config.get("indexer_types").is_some() {
        return Ok(());
    }
    let kind = |full: bool| if full { "full" } else { "shared" };
    let types: Vec<Value> = match config.get("index_topk_pattern") {
        Some(Value::String(letters)) => letters.chars().map(|c| kind(c == 'F').into()).collect(),
        Some(Value::Array(types)) => types.clone(),
        _ => {
            let every = config.u64("index_topk_freq").unwrap_or(1).max(1);
            let offset = config.u64("index_skip_topk_offset").unwrap_or(2);
            (0..config.layers()?).map(|i| kind((i + 1).saturating_sub(offset) % every == 0).into()).collect()
        }
    };
    config.set("indexer_types", types);
    Ok(())
}

fn glm_dsa(p: &mut Params<'_>) -> Result<()> {
    deepseek2(p)?;
    let config = p.config();
    let factor = config.rope_f64("partial_rotary_factor").unwrap_or(1.0);
    p.u32("rope.dimension_count", (config.need_u64(&["qk_rope_head_dim"])? as f64 * factor) as u64)?;
    p.maybe_u32("nextn_predict_layers", &["num_nextn_predict_layers"])?;
    indexer(p)?;
    indexer_types(p);
    Ok(())
}

/// A convolution over single channels, with the dimensions of one that llama.cpp has.
pub(super) fn convolution(piece: &Piece) -> Result<Rows> {
    match *piece.rows.shape() {
        _ if piece.suffix != ".weight" => Ok(piece.rows.clone()),
        [channels, 1, width] | [channels, width] => reshaped(&piece.rows, vec![1, channels, 1, width]),
        ref shape => Err(Error::input(format!("its shape {shape:?} is not that of a convolution"))),
    }
}

/// The decay of each head.
fn decays(config: &Config, piece: &Piece) -> Result<Rows> {
    let count = piece.rows.shape().iter().product();
    let flat = reshaped(&piece.rows, vec![count])?;
    let heads = permuted(&flat, (0..config.heads()?.min(count)).collect())?;
    let wide = mapped(&heads, |v| v);
    Ok(mapped(&wide, |v| -crate::transform::exp(v)))
}

/// The kinds of layers as the configuration class derives them: three with delta attention, one with latent attention.
fn mixed_layers(config: &mut Config) -> Result<()> {
    config.remove("head_dim");
    let kind = |i: u64| if i % 4 == 3 { "indexed_attention" } else { "linear_attention" };
    if config.get("layer_types").is_none() {
        let types: Vec<&str> = (0..config.layers()?).map(kind).collect();
        config.set("layer_types", types);
    }
    with_indexer_types(config)
}

fn glm5_next(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    let (layers, blocks) = (config.layers()?, config.blocks()?);
    let types = config.get("layer_types").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if types.len() as u64 != layers {
        return Err(Error::input(format!("config.json: layer_types lists {} of {layers} layers", types.len())));
    }
    let mut heads: Vec<i64> = types.iter().map(|t| i64::from(t != "linear_attention")).collect();
    heads.resize(blocks as usize, 1);
    p.i32s("attention.head_count_kv", &heads)?;
    p.need_u32("vocab_size", &["vocab_size"])?;
    p.f32("attention.layer_norm_epsilon", 1e-6);
    if blocks > layers {
        p.u32("nextn_predict_layers", blocks - layers)?;
    }
    let linear = config.get("linear_attn_config").cloned().unwrap_or_default();
    let of = |name: &str| {
        as_u64(&linear[name]).ok_or_else(|| Error::input(format!("config.json has no {name} in linear_attn_config")))
    };
    if of("num_heads")? != config.heads()? {
        return Err(Error::input("config.json: num_heads of linear_attn_config is not num_attention_heads"));
    }
    p.u32("ssm.conv_kernel", of("short_conv_kernel_size")?)?;
    p.u32("kda.head_dim", of("head_dim")?)?;
    if let Some(bound) = linear["gate_lower_bound"].as_f64() {
        p.f32("kda.gate_lower_bound", bound);
    }
    let rope = config.need_u64(&["qk_rope_head_dim"])?;
    if config.bool("mla_use_nope") != Some(true) || rope != 0 {
        return Err(Error::input(
            "config.json: latent attention that rotates (mla_use_nope, qk_rope_head_dim) is not known",
        ));
    }
    let rank = config.need_u64(&["kv_lora_rank"])?;
    p.need_u32("attention.q_lora_rank", &["q_lora_rank"])?;
    p.u32("attention.kv_lora_rank", rank)?;
    p.u32("rope.dimension_count", rope)?;
    p.u32("attention.key_length", rank)?;
    p.u32("attention.value_length", rank)?;
    p.need_u32("attention.key_length_mla", &["qk_nope_head_dim"])?;
    p.need_u32("attention.value_length_mla", &["v_head_dim"])?;
    indexer(p)?;
    p.need_u32("attention.indexer.kpool", &["index_kpool"])?;
    p.set("attention.indexer.kpool_select_tail", config.bool("index_kpool_always_select_tail").unwrap_or(true));
    indexer_types(p);
    if config.bool("mhc") == Some(false) {
        return Err(Error::input("config.json: mhc is false, and glm5-next has several residual streams"));
    }
    hyper_connections(p)?;
    p.need_u32("leading_dense_block_count", &["first_k_dense_replace"])?;
    p.need_u32("expert_feed_forward_length", &["moe_intermediate_size"])?;
    p.need_u32("expert_shared_count", &["n_shared_experts"])?;
    p.need_f32("expert_weights_scale", &["routed_scaling_factor"])?;
    p.need_bool("expert_weights_norm", "norm_topk_prob")?;
    match config.f64("swiglu_limit") {
        Some(limit) => clamps(p, limit),
        None => Ok(()),
    }
}

fn indexer_types(p: &mut Params<'_>) {
    let types = p.config().get("indexer_types").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    p.bools("attention.indexer.types", &types.iter().map(|t| t == "full").collect::<Vec<bool>>());
}
