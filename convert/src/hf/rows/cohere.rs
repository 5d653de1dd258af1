//! Command R.

use gguf::Result;

use crate::config::Config;
use crate::hf::{ATTENTION, BASE, Class, GATED, How, Params, Rule, r};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["CohereForCausalLM"],
        arch: "command-r",
        defaults: r#"{"num_key_value_heads": null, "layer_norm_eps": 1e-05, "max_position_embeddings": 8192,
            "hidden_size": 8192, "intermediate_size": 22528, "logit_scale": 0.0625, "vocab_size": 256000,
            "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}, "tie_word_embeddings": true}"#,
        spelling: &[COHERE, COHERE_NORMS, ATTENTION, GATED],
        prepare: trained_context,
        keys: command_r,
        remark: "Command R, Command R+, Aya",
        ..BASE
    },
    Class {
        names: &["Cohere2ForCausalLM"],
        arch: "cohere2",
        defaults: r#"{"num_key_value_heads": null, "layer_norm_eps": 1e-05, "max_position_embeddings": 8192,
            "hidden_size": 8192, "intermediate_size": 22528, "logit_scale": 0.0625, "vocab_size": 256000,
            "head_dim": "computed", "sliding_window": 4096,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "tie_word_embeddings": true}"#,
        spelling: &[COHERE, ATTENTION, GATED],
        keys: cohere2,
        remark: "Command R7B, Command A; zero biases left out",
        ..BASE
    },
];

const COHERE: &[Rule] = &[
    r("model.embed_tokens", "token_embd"),
    r("model.norm", "output_norm"),
    r("lm_head", "").how(How::Tied),
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
];

const COHERE_NORMS: &[Rule] = &[
    r("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"),
    r("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"),
];

/// These models were trained on longer texts than `max_position_embeddings` says.
fn trained_context(config: &mut Config) -> Result<()> {
    if let Some(length) = config.u64("model_max_length") {
        config.set("max_position_embeddings", length);
    }
    Ok(())
}

fn command_r(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.need_f32("logit_scale", &["logit_scale"])?;
    p.set("rope.scaling.type", "none");
    Ok(())
}

fn cohere2(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.need_f32("logit_scale", &["logit_scale"])?;
    p.need_u32("attention.sliding_window", &["sliding_window"])?;
    p.need_u32("vocab_size", &["vocab_size"])?;
    let factor = p.config().f64("rotary_pct").or_else(|| p.config().rope_f64("partial_rotary_factor"));
    p.rotary(factor.unwrap_or(1.0))?;
    p.set("rope.scaling.type", "none");
    Ok(())
}
