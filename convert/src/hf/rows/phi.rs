//! Phi 2, 3 and 4.

use gguf::{Error, Result};
use serde_json::Value;

use crate::config::{Config, Rope};
use crate::hf::rows::llama::MIXTRAL_EXPERTS;
use crate::hf::{ATTENTION, BASE, Class, ENDS, NORMS, NameRule, Outputs, Params, r};
use crate::tokenizer::VocabKind;
use crate::transform::values;

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["PhiForCausalLM"],
        arch: "phi2",
        defaults: r#"{"intermediate_size": 8192, "num_key_value_heads": null, "layer_norm_eps": 1e-05, "max_position_embeddings": 2048,
            "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32, "vocab_size": 51200,
            "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5, "rope_type": "default"}}"#,
        spelling: &[PHI2],
        keys: phi2,
        remark: "attention and feed-forward side by side",
        ..BASE
    },
    Class {
        names: &["Phi3ForCausalLM", "Phi4ForCausalLMV"],
        arch: "phi3",
        rope: Rope::Scaled(&["short_factor", "long_factor"]),
        defaults: r#"{"num_key_value_heads": null, "rms_norm_eps": 1e-05, "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096, "hidden_size": 3072, "intermediate_size": 8192,
            "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32064,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        vocabulary: VocabKind::Phi3,
        spelling: &[ENDS, NORMS, PHI3],
        prepare: |config| {
            // The library's class has one kind of scaling, whatever older years called it.
            if config.is_known() && ["su", "yarn"].contains(&config.rope_type().as_str()) {
                config.set_rope("rope_type", "longrope");
            }
            Ok(())
        },
        early: attention_factor,
        keys: phi3,
        generated: long_factors,
        remark: "Phi 3, 3.5, 4; fused projections; longrope factors",
        ..BASE
    },
    Class {
        names: &["PhiMoEForCausalLM"],
        arch: "phimoe",
        rope: Rope::Scaled(&["short_mscale", "long_mscale"]),
        defaults: r#"{"vocab_size": 32064, "hidden_size": 4096, "intermediate_size": 6400, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": null, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-05, "num_experts_per_tok": 2, "num_local_experts": 16, "tie_word_embeddings": false,
            "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}}"#,
        vocabulary: VocabKind::Phi3,
        spelling: &[ENDS, ATTENTION, NORMS, MIXTRAL_EXPERTS],
        early: attention_factor,
        keys: |p| {
            phi3(p)?;
            p.need_u32("expert_used_count", &["num_experts_per_tok", "num_experts_per_token"])?;
            p.need_u32("expert_count", &["num_local_experts", "num_experts"])
        },
        generated: long_factors,
        remark: "Phi 3.5 with experts; layer norms",
        ..BASE
    },
];

const PHI2: &[NameRule] = &[
    r("model.embed_tokens", "token_embd"),
    r("model.final_layernorm", "output_norm"),
    r("lm_head", "output"),
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    r("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    r("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    r("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    r("model.layers.{}.self_attn.dense", "blk.{}.attn_output"),
    r("model.layers.{}.mlp.fc1", "blk.{}.ffn_up"),
    r("model.layers.{}.mlp.fc2", "blk.{}.ffn_down"),
];

const PHI3: &[NameRule] = &[
    r("model.layers.{}.self_attn.qkv_proj", "blk.{}.attn_qkv"),
    r("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    r("model.layers.{}.mlp.gate_up_proj", "blk.{}.ffn_up"),
    r("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
];

/// The reference rounds down after the product, not before.
fn rotary(config: &Config, default: f64) -> Result<u64> {
    let factor = config.rope_f64("partial_rotary_factor").unwrap_or(default);
    let width = config.need_u64(&["hidden_size", "n_embd"])?;
    Ok((factor * width as f64) as u64 / config.heads()?)
}

fn phi2(p: &mut Params<'_>) -> Result<()> {
    let width = p.config().need_u64(&["hidden_size", "n_embd"])?;
    let heads = p.config().heads()?;
    p.need_u32("context_length", &["n_positions", "max_position_embeddings"])?;
    p.u32("embedding_length", width)?;
    p.u32("feed_forward_length", 4 * width)?;
    p.blocks()?;
    p.u32("attention.head_count", heads)?;
    p.u32("attention.head_count_kv", heads)?;
    p.need_f32("attention.layer_norm_epsilon", &["layer_norm_epsilon", "layer_norm_eps"])?;
    let rotary = rotary(p.config(), 0.5)?;
    p.u32("rope.dimension_count", rotary)?;
    p.file_type();
    p.set("tokenizer.ggml.add_bos_token", false);
    Ok(())
}

fn original_context(config: &Config) -> Result<u64> {
    config
        .rope_f64("original_max_position_embeddings")
        .map(|n| n as u64)
        .filter(|n| *n > 0)
        .ok_or_else(|| Error::input("config.json has no original_max_position_embeddings"))
}

fn phi3(p: &mut Params<'_>) -> Result<()> {
    p.need_u32("context_length", &["n_positions", "max_position_embeddings"])?;
    let original = original_context(p.config())?;
    p.u32("rope.scaling.original_context_length", original)?;
    p.need_u32("embedding_length", &["hidden_size", "n_embd"])?;
    p.need_u32("feed_forward_length", &["intermediate_size"])?;
    p.blocks()?;
    p.need_u32("attention.head_count", &["num_attention_heads", "n_head"])?;
    p.need_u32("attention.head_count_kv", &["num_key_value_heads", "n_head_kv"])?;
    p.need_f32("attention.layer_norm_rms_epsilon", &["rms_norm_eps"])?;
    let rotary = rotary(p.config(), 1.0)?;
    p.u32("rope.dimension_count", rotary)?;
    let theta = p.config().rope_f64("rope_theta").ok_or_else(|| Error::input("config.json has no rope_theta"))?;
    p.f32("rope.freq_base", theta);
    p.file_type();
    // 0 tells Phi 4 from the others of this architecture.
    let window = p.config().u64("sliding_window").unwrap_or(0);
    p.u32("attention.sliding_window", window)
}

/// The factors of one kind for so many rotating dimensions, if the configuration has any.
fn factors(config: &Config, kind: &str, want: u64) -> Result<Option<Vec<f32>>> {
    let Some(list) = config.rope().get(kind).and_then(Value::as_array).filter(|l| !l.is_empty()) else {
        return Ok(None);
    };
    let numbers: Option<Vec<f32>> = list.iter().map(|v| v.as_f64().map(|f| f as f32)).collect();
    let numbers = numbers.ok_or_else(|| Error::input(format!("config.json: {kind} is not a list of numbers")))?;
    if numbers.len() as u64 * 2 != want {
        let what = format!("config.json: {kind} has {} factors for {want} rotating dimensions", numbers.len());
        return Err(Error::input(what));
    }
    Ok(Some(numbers))
}

/// Rotation over a longer context than trained for is stronger by a factor.
fn attention_factor(p: &mut Params<'_>) -> Result<()> {
    if factors(p.config(), "long_factor", rotary(p.config(), 1.0)?)?.is_none() {
        return Ok(());
    }
    let original = original_context(p.config())? as f64;
    let longest = p.config().need_u64(&["n_positions", "max_position_embeddings"])? as f64;
    let scale = longest / original;
    let factor = match p.config().rope_type().as_str() {
        "su" | "longrope" if scale > 1.0 => (1.0 + scale.ln() / original.ln()).sqrt(),
        "yarn" if scale > 1.0 => 0.1 * scale.ln() + 1.0,
        "su" | "longrope" | "yarn" => 1.0,
        other => return Err(Error::input(format!("config.json: rope scaling \"{other}\" with factors is not known"))),
    };
    p.f32("rope.scaling.attn_factor", factor);
    Ok(())
}

fn long_factors(config: &Config) -> Result<Outputs> {
    rope_factors(config, rotary(config, 1.0)?)
}

/// The factors of rotation for long and short contexts, where the configuration has them.
pub(super) fn rope_factors(config: &Config, dimensions: u64) -> Result<Outputs> {
    let (long, short) = (factors(config, "long_factor", dimensions)?, factors(config, "short_factor", dimensions)?);
    let tensor = |name: &str, list: &[f32]| (format!("{name}.weight"), values(vec![list.len() as u64], list));
    match (long, short) {
        (Some(long), Some(short)) => Ok(vec![tensor("rope_factors_long", &long), tensor("rope_factors_short", &short)]),
        (None, None) => Ok(Vec::new()),
        _ => Err(Error::input("config.json has one of long_factor and short_factor, not both")),
    }
}
