//! GLM 4 to 5, dense, with experts, with latent attention.

use gguf::{Error, Result};
use serde_json::Value;

use crate::config::Config;
use crate::hf::rows::deepseek::{self, DEEPSEEK2, EXPERTS, INDEXER, LATENT, deepseek2, indexer};
use crate::hf::rows::llama::head_dim;
use crate::hf::{
    ATTENTION, BASE, Class, ENDS, GATED, HEAD_NORMS, How, NORMS, PREDICTION, Params, Piece, Rule, r, with_prediction,
};
use crate::tokenizer::VocabKind;
use crate::transform::{Rows, permuted};

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
        defaults: r#"{"num_key_value_heads": 8, "rms_norm_eps": 1e-05, "max_position_embeddings": 131072,
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
        vocabulary: VocabKind::Solar,
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
        drop_further_blocks: false,
        prepare: with_indexer_types,
        keys: glm_dsa,
        remark: "GLM-5; the indexer of sparse attention, layers of prediction kept",
        ..DEEPSEEK2
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
    prepare: with_prediction,
    keys: glm4_moe,
    ..BASE
};

const GLM4_ATTENTION: &[Rule] = &[
    r("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q").how(How::Change(halves_together)),
    r("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k").how(How::Change(halves_together)),
    r("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    r("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
];

const GLM4_FEED: &[Rule] = &[
    r("model.layers.{}.post_self_attn_layernorm", "blk.{}.post_attention_norm"),
    r("model.layers.{}.post_mlp_layernorm", "blk.{}.post_ffw_norm"),
    r("model.layers.{}.mlp.gate_up_proj", "blk.{}.ffn_up"),
    r("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
];

const GLM4_MOE_NORMS: &[Rule] = &[
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
    let types = config.get("indexer_types").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    p.bools("attention.indexer.types", &types.iter().map(|t| t == "full").collect::<Vec<bool>>());
    Ok(())
}
