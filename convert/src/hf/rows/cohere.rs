//! Command R and Command A.

use gguf::{Error, Result};
use serde_json::Value;

use crate::config::Config;
use crate::hf::rows::deepseek::EXPERTS;
use crate::hf::{ATTENTION, BASE, Class, GATED, How, NameRule, PREDICTION, Params, r, with_prediction};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["CohereForCausalLM"],
        arch: "command-r",
        defaults: r#"{"num_hidden_layers": 40, "num_attention_heads": 64, "num_key_value_heads": null, "layer_norm_eps": 1e-05, "max_position_embeddings": 8192,
            "hidden_size": 8192, "intermediate_size": 22528, "logit_scale": 0.0625, "vocab_size": 256000,
            "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}, "tie_word_embeddings": true}"#,
        spelling: &[COHERE, TIED_HEAD, COHERE_NORMS, ATTENTION, GATED],
        prepare: trained_context,
        keys: command_r,
        remark: "Command R, Command R+, Aya",
        ..BASE
    },
    Class {
        names: &["Cohere2ForCausalLM"],
        arch: "cohere2",
        defaults: r#"{"num_hidden_layers": 40, "num_attention_heads": 64, "num_key_value_heads": null, "layer_norm_eps": 1e-05, "max_position_embeddings": 8192,
            "hidden_size": 8192, "intermediate_size": 22528, "logit_scale": 0.0625, "vocab_size": 256000,
            "head_dim": "computed", "sliding_window": 4096,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "tie_word_embeddings": true}"#,
        spelling: &[COHERE, TIED_HEAD, ATTENTION, GATED],
        drop_zero_biases: true,
        keys: cohere2,
        remark: "Command R7B, Command A; zero biases left out",
        ..BASE
    },
    Class {
        names: &["Cohere2MoeForCausalLM"],
        arch: "cohere2moe",
        defaults: r#"{"num_key_value_heads": null, "head_dim": 128, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 8192, "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
            "num_attention_heads": 64, "logit_scale": 0.0625, "vocab_size": 256000, "sliding_window": 4096,
            "num_experts_per_tok": 2, "num_experts": 8, "num_shared_experts": 0, "expert_selection_fn": "softmax",
            "shared_expert_combination_strategy": "average", "norm_topk_prob": true, "rms_norm_eps": null,
            "prefix_dense_intermediate_size": null, "prefix_dense_sliding_window_pattern": 1,
            "sliding_window_pattern": 4, "rope_scaling": null, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
            "tie_word_embeddings": true}"#,
        spelling: &[COHERE, HEAD, ATTENTION, GATED, EXPERTS, PREDICTION],
        drop_zero_biases: true,
        prepare: with_layer_types,
        keys: cohere2_moe,
        remark: "Command A with experts; zero biases left out, layers of prediction kept",
        ..BASE
    },
];

const COHERE: &[NameRule] = &[
    r("model.embed_tokens", "token_embd"),
    r("model.norm", "output_norm"),
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
];

/// The head is the token embedding.
const TIED_HEAD: &[NameRule] = &[r("lm_head", "").how(How::Tied)];

/// A head of one's own is kept, whatever the configuration says of it.
const HEAD: &[NameRule] = &[r("lm_head", "output")];

const COHERE_NORMS: &[NameRule] = &[
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

/// The kinds of layers as the configuration class derives them where they are not listed: those before the experts
/// begin have a pattern of their own.
fn with_layer_types(config: &mut Config) -> Result<()> {
    let (layers, dense) = (config.layers()?, config.u64("first_k_dense_replace").unwrap_or(0));
    let pattern = |every: &str| config.u64(every).filter(|n| *n > 0).unwrap_or(1);
    let (before, after) = (pattern("prefix_dense_sliding_window_pattern"), pattern("sliding_window_pattern"));
    let kind = |i: u64| {
        let slides = if i < dense { !(i + 1).is_multiple_of(before) } else { !(i - dense + 1).is_multiple_of(after) };
        if slides { "sliding_attention" } else { "full_attention" }
    };
    let types: Vec<&str> = (0..layers).map(kind).collect();
    let feeds: Vec<&str> = (0..layers).map(|i| if i < dense { "dense" } else { "sparse" }).collect();
    if config.get("layer_types").is_none() {
        config.set("layer_types", types);
    }
    if config.get("mlp_layer_types").is_none() {
        config.set("mlp_layer_types", feeds);
    }
    with_prediction(config)
}

fn cohere2_moe(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    let inner = config.need_u64(&["intermediate_size"])?;
    Params::common(p)?;
    p.need_f32("logit_scale", &["logit_scale"])?;
    p.need_u32("attention.sliding_window", &["sliding_window"])?;
    let slides = p.sliding_layers().unwrap_or_default();
    p.sliding_pattern(&slides);
    p.need_u32("vocab_size", &["vocab_size"])?;
    p.u32("expert_feed_forward_length", inner)?;
    let feeds = config.get("mlp_layer_types").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    p.u32("leading_dense_block_count", feeds.iter().take_while(|f| **f == "dense").count() as u64)?;
    p.set("expert_weights_norm", config.bool("norm_topk_prob").unwrap_or(false));
    let shared = config.u64("num_shared_experts").unwrap_or(0);
    if shared > 0 {
        let combined = config.str("shared_expert_combination_strategy").unwrap_or("average");
        if combined != "average" {
            return Err(Error::input(format!(
                "config.json: shared_expert_combination_strategy is {combined}, and cohere2moe knows average alone"
            )));
        }
        p.u32("expert_shared_count", shared)?;
        p.u32("expert_shared_feed_forward_length", inner.saturating_mul(shared))?;
    }
    if config.u64("num_nextn_predict_layers").is_some_and(|n| n > 0) {
        p.need_u32("nextn_predict_layers", &["num_nextn_predict_layers"])?;
    }
    p.need_u32("rope.dimension_count", &["head_dim"])?;
    p.set("rope.scaling.type", "none");
    Ok(())
}
