//! Llama and its closest relatives.

use gguf::{Error, Result};
use serde_json::Value;

use crate::config::Config;
use crate::hf::{ATTENTION_ROTATED, BARE, BASE, Class, ENDS, GATED, How, NORMS, Outputs, Params, Rule, r};
use crate::tokenizer::VocabKind;
use crate::transform::{Rows, sliced, values};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["LlamaForCausalLM", "LLaMAForCausalLM", "LlavaForConditionalGeneration", "IQuestCoderForCausalLM"],
        defaults: LLAMA_DEFAULTS,
        spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GATED],
        remark: "Llama 1 to 3.x and models of its form; Llama 3 scaling as rope_freqs",
        ..LLAMA
    },
    Class {
        names: &["MistralForCausalLM"],
        defaults: r#"{"num_key_value_heads": 8, "rms_norm_eps": 1e-06, "max_position_embeddings": 131072,
            "head_dim": "computed", "vocab_size": 32000, "intermediate_size": 14336, "hidden_size": 4096,
            "sliding_window": 4096, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GATED],
        remark: "Mistral 7B, Nemo, Small",
        ..LLAMA
    },
    Class {
        names: &["MixtralForCausalLM"],
        defaults: r#"{"num_key_value_heads": 8, "rms_norm_eps": 1e-05, "max_position_embeddings": 131072,
            "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 32000, "intermediate_size": 14336,
            "hidden_size": 4096, "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}}"#,
        spelling: &[ENDS, ATTENTION_ROTATED, NORMS, MIXTRAL_EXPERTS],
        remark: "experts stacked",
        ..LLAMA
    },
    Class {
        names: &["SmolLM3ForCausalLM"],
        arch: "smollm3",
        defaults: r#"{"num_key_value_heads": 4, "rms_norm_eps": 1e-06, "max_position_embeddings": 32768,
            "vocab_size": 128256, "intermediate_size": 11008, "hidden_size": 2048,
            "rope_parameters": {"rope_theta": 2000000.0, "rope_type": "default"}, "tie_word_embeddings": true}"#,
        spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GATED],
        remark: "every fourth layer without rotation",
        ..LLAMA
    },
];

/// What Llama's configuration class fills in.
pub(super) const LLAMA_DEFAULTS: &str = r#"{"num_key_value_heads": null, "rms_norm_eps": 1e-06,
    "max_position_embeddings": 2048, "head_dim": "computed", "vocab_size": 32000, "intermediate_size": 11008,
    "hidden_size": 4096, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#;

const LLAMA: Class =
    Class { arch: "llama", vocabulary: VocabKind::Llama, prefixes: BARE, keys: llama, generated: rope_freqs, ..BASE };

const MIXTRAL: How = How::Stack { group: "experts", members: local_experts };

/// Experts of Mixtral.
pub(super) const MIXTRAL_EXPERTS: &[Rule] = &[
    r("model.layers.{}.block_sparse_moe.gate", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.block_sparse_moe.experts.{x}.w1", "blk.{}.ffn_gate_exps").how(MIXTRAL),
    r("model.layers.{}.block_sparse_moe.experts.{x}.w2", "blk.{}.ffn_down_exps").how(MIXTRAL),
    r("model.layers.{}.block_sparse_moe.experts.{x}.w3", "blk.{}.ffn_up_exps").how(MIXTRAL),
];

/// The experts of a layer.
pub(super) fn local_experts(config: &Config) -> Result<u64> {
    config.need_u64(&["num_local_experts", "num_experts", "n_routed_experts"])
}

/// Gate and up, one after the other along the second dimension from the end, as two tensors.
pub(super) fn halves(rows: &Rows, gate: String, up: String) -> Result<Outputs> {
    let axis = rows.shape().len().checked_sub(2);
    let axis = axis.ok_or_else(|| Error::input(format!("its shape {:?} has no two halves", rows.shape())))?;
    let half = rows.shape()[axis] / 2;
    if half * 2 != rows.shape()[axis] {
        return Err(Error::input(format!("its shape {:?} has no two equal halves", rows.shape())));
    }
    Ok(vec![(gate, sliced(rows, axis, 0, half)?), (up, sliced(rows, axis, half, half)?)])
}

/// The keys of Llama.
pub(super) fn llama(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.need_u32("vocab_size", &["vocab_size"])?;
    let dimensions = head_dim(p.config())?;
    p.u32("rope.dimension_count", dimensions)
}

/// Dimensions of a head: stated, or the quotient.
pub(super) fn head_dim(config: &Config) -> Result<u64> {
    match config.u64("head_dim") {
        Some(dimensions) => Ok(dimensions),
        None => quotient(config),
    }
}

/// The width divided among the heads, whatever is stated.
pub(super) fn quotient(config: &Config) -> Result<u64> {
    Ok(config.need_u64(&["hidden_size"])? / config.heads()?)
}

/// Llama 3's scaling of long wavelengths as a factor for each frequency, in the reference's f32 arithmetic.
pub(super) fn rope_freqs(config: &Config) -> Result<Outputs> {
    rope_freqs_with(config, 8.0)
}

/// More rotating dimensions than any model has.
const MAX_ROTARY: u64 = 1 << 16;

/// As [`rope_freqs`] with another factor where the configuration has none.
pub(super) fn rope_freqs_with(config: &Config, factor: f64) -> Result<Outputs> {
    if config.rope_type() != "llama3" {
        return Ok(Vec::new());
    }
    let number = |key: &str, default: f64| config.rope_full().get(key).and_then(Value::as_f64).unwrap_or(default);
    let dimensions = head_dim(config)?;
    if dimensions > MAX_ROTARY {
        return Err(Error::input(format!("config.json claims heads of {dimensions} dimensions")));
    }
    let base = number("rope_theta", 10000.0);
    let factor = number("factor", factor);
    let low = number("low_freq_factor", 1.0);
    let high = number("high_freq_factor", 4.0);
    let original = number("original_max_position_embeddings", 8192.0);
    let (low_wavelength, high_wavelength) = ((original / low) as f32, (original / high) as f32);
    let factors: Vec<f32> = (0..dimensions)
        .step_by(2)
        .map(|i| {
            let exponent = i as f32 / dimensions as f32;
            let frequency = 1.0 / (base.powf(f64::from(exponent)) as f32);
            // torch divides a number by a tensor as the product with the reciprocal.
            let wavelength = (1.0 / frequency) * (2.0 * std::f64::consts::PI) as f32;
            if wavelength < high_wavelength {
                1.0
            } else if wavelength > low_wavelength {
                factor as f32
            } else {
                let smooth = ((1.0 / wavelength) * original as f32 - low as f32) / (high - low) as f32;
                1.0 / ((1.0 - smooth) / factor as f32 + smooth)
            }
        })
        .collect();
    Ok(vec![("rope_freqs.weight".into(), values(vec![factors.len() as u64], &factors))])
}
