//! OLMo 1, 2 and 3, dense and with experts.

use gguf::Result;

use crate::hf::rows::qwen::EXPERTS;
use crate::hf::{
    ATTENTION, ATTENTION_ROTATED, BASE, Class, ENDS, GATED, HEAD_NORMS, NORMS, POST_NORMS, Params, Rule, r,
};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["OlmoForCausalLM", "OLMoForCausalLM"],
        arch: "olmo",
        defaults: r#"{"num_key_value_heads": null, "max_position_embeddings": 2048, "hidden_size": 4096,
            "intermediate_size": 11008, "vocab_size": 50304,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        spelling: &[OLMO_ENDS, ATTENTION_ROTATED, GATED],
        keys: olmo,
        remark: "norms without weights",
        ..BASE
    },
    Class {
        names: &["Olmo2ForCausalLM", "Olmo3ForCausalLM"],
        arch: "olmo2",
        defaults: r#"{"num_key_value_heads": null, "rms_norm_eps": 1e-05, "max_position_embeddings": 2048,
            "hidden_size": 4096, "intermediate_size": 11008, "vocab_size": 50304,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        spelling: &[ENDS, ATTENTION, HEAD_NORMS, POST_NORMS, GATED],
        keys: olmo2,
        remark: "norms after attention and feed-forward; OLMo 3 slides",
        ..BASE
    },
    Class {
        names: &["OlmoeForCausalLM"],
        arch: "olmoe",
        defaults: r#"{"num_key_value_heads": null, "rms_norm_eps": 1e-05, "max_position_embeddings": 4096,
            "hidden_size": 2048, "intermediate_size": 2048, "num_experts": 64, "num_experts_per_tok": 8,
            "vocab_size": 50304, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        spelling: &[ENDS, ATTENTION, HEAD_NORMS, NORMS, EXPERTS],
        keys: olmoe,
        remark: "experts stacked",
        ..BASE
    },
];

const OLMO_ENDS: &[Rule] = &[r("model.embed_tokens", "token_embd"), r("lm_head", "output")];

fn olmo(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.f32("attention.layer_norm_epsilon", 1e-5);
    p.maybe_f32("attention.clamp_kqv", &["clip_qkv"])
}

fn olmo2(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    if !p.config().has("sliding_window") {
        return Ok(());
    }
    p.need_u32("attention.sliding_window", &["sliding_window"])?;
    // OLMo 3 slides in all layers but every fourth.
    let usual = || (1..=p.config().blocks().unwrap_or(0)).map(|i| i % 4 != 0).collect();
    let pattern: Vec<bool> = p.sliding_layers().unwrap_or_else(usual);
    p.sliding_pattern(&pattern);
    Ok(())
}

fn olmoe(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.f32("attention.layer_norm_rms_epsilon", 1e-5);
    Ok(())
}
