//! Llama and its closest relatives.

use gguf::Result;
use serde_json::Value;

use super::{ATTENTION_ROTATED, Architecture, BASE, ENDS, GATED, How, NORMS, Params, Rule, r};
use crate::config::Config;
use crate::tokenizer::VocabKind;
use crate::transform::{Rows, values};

pub(super) const ROWS: &[Architecture] = &[Architecture {
    classes: &["LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM"],
    defaults: r#"{"num_key_value_heads": null, "rms_norm_eps": 1e-06, "max_position_embeddings": 2048,
            "head_dim": "computed", "vocab_size": 32000, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
    tensors: &[ENDS, ATTENTION_ROTATED, NORMS, GATED],
    remark: "Llama 1 to 3.x, Mistral",
    ..LLAMA
}];

const LLAMA: Architecture = Architecture {
    name: "llama",
    vocab: VocabKind::Llama,
    prefixes: &[("model.text_model.", "model.")],
    keys: llama,
    generated: rope_freqs,
    ..BASE
};

fn llama(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.need_u32("vocab_size", &["vocab_size"])?;
    let dimensions = match p.config().u64("head_dim") {
        Some(dimensions) => dimensions,
        None => p.config().need_u64(&["hidden_size"])? / p.config().heads()?,
    };
    p.u32("rope.dimension_count", dimensions)
}

/// Llama 3's scaling of long wavelengths as a factor for each frequency, in the reference's f32 arithmetic.
pub(super) fn rope_freqs(config: &Config) -> Result<Vec<(String, Rows)>> {
    rope_freqs_with(config, 8.0)
}

/// As [`rope_freqs`] with another factor where the configuration has none.
pub(super) fn rope_freqs_with(config: &Config, factor: f64) -> Result<Vec<(String, Rows)>> {
    if config.rope_type() != "llama3" {
        return Ok(Vec::new());
    }
    let number = |key: &str, default: f64| config.rope_full().get(key).and_then(Value::as_f64).unwrap_or(default);
    let dimensions = match config.u64("head_dim") {
        Some(dimensions) => dimensions,
        None => config.need_u64(&["hidden_size"])? / config.heads()?,
    };
    let dimensions = dimensions.min(1 << 16);
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
