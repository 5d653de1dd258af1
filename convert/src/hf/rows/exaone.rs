//! EXAONE 3, 4, 4.5 and those with experts.

use gguf::{Error, Result};
use serde_json::{Map, Value};

use crate::config::Config;
use crate::hf::rows::deepseek::EXPERTS;
use crate::hf::rows::llama::{quotient, rope_freqs, rope_freqs_with};
use crate::hf::{
    ATTENTION, BASE, Class, ENDS, GATED, HEAD_NORMS, NameRule, POST_NORMS, PREDICTION, Params, r, with_prediction,
};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["ExaoneForCausalLM"],
        arch: "exaone",
        spelling: &[EXAONE],
        prefixes: &[("transformer.", "")],
        keys: exaone,
        generated: rope_freqs,
        remark: "EXAONE 3.0, 3.5",
        ..BASE
    },
    Class { names: &["Exaone4ForCausalLM"], ..EXAONE4 },
    Class { when: shares_prediction, prefixes: SHARED_PREDICTION, ..EXAONE45 },
    EXAONE45,
    Class {
        names: &["ExaoneMoEForCausalLM", "ExaoneMoeForCausalLM"],
        arch: "exaone-moe",
        defaults: r#"{"num_key_value_heads": 32, "rms_norm_eps": 1e-05, "max_position_embeddings": 2048,
            "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 32, "num_attention_heads": 32,
            "vocab_size": 102400, "sliding_window": 4096, "sliding_window_pattern": 4, "first_k_dense_replace": 1,
            "moe_intermediate_size": 1024, "num_experts": 64, "num_experts_per_tok": 8, "num_shared_experts": 1,
            "norm_topk_prob": true, "routed_scaling_factor": 2.5, "n_group": 1, "topk_group": 1,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        spelling: &[ENDS, ATTENTION, HEAD_NORMS, EXAONE_MOE, GATED, EXPERTS, PREDICTION],
        prefixes: PREDICTION_NAMES,
        prepare: with_prediction,
        keys: exaone_moe,
        remark: "K-EXAONE; layers of prediction kept",
        ..EXAONE4
    },
];

const EXAONE4: Class = Class {
    arch: "exaone4",
    defaults: r#"{"num_key_value_heads": 32, "rms_norm_eps": 1e-05, "max_position_embeddings": 2048,
        "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 32, "num_attention_heads": 32,
        "vocab_size": 102400, "sliding_window": 4096,
        "sliding_window_pattern": 4, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
    spelling: &[ENDS, ATTENTION, HEAD_NORMS, POST_NORMS, GATED],
    keys: exaone4,
    generated: |config| rope_freqs_with(config, 16.0),
    remark: "norms after attention and feed-forward; layers that slide",
    ..BASE
};

const EXAONE45: Class = Class {
    names: &["Exaone4_5_ForConditionalGeneration"],
    spelling: &[ENDS, ATTENTION, HEAD_NORMS, POST_NORMS, GATED, PREDICTION],
    prefixes: PREDICTION_NAMES,
    prepare: with_prediction,
    keys: exaone45,
    remark: "the text model of EXAONE 4.5; layers of prediction kept",
    ..EXAONE4
};

/// What stands before and after the layers of prediction is one for all of them.
const PREDICTION_NAMES: &[(&str, &str)] = &[
    ("mtp.layers.{}.", "model.layers.{+}."),
    ("mtp.fc.", "model.layers.{*}.eh_proj."),
    ("mtp.pre_fc_norm_embedding.", "model.layers.{*}.enorm."),
    ("mtp.pre_fc_norm_hidden.", "model.layers.{*}.hnorm."),
    ("mtp.norm.", "model.layers.{*}.shared_head.norm."),
];

/// As [`PREDICTION_NAMES`] with one layer for all of them.
const SHARED_PREDICTION: &[(&str, &str)] = &[
    ("mtp.layers.{}.", "model.layers.{*}."),
    PREDICTION_NAMES[1],
    PREDICTION_NAMES[2],
    PREDICTION_NAMES[3],
    PREDICTION_NAMES[4],
];

fn shares_prediction(root: &Map<String, Value>) -> bool {
    let text = root.get("text_config").and_then(|t| t.get("mtp_share_layers"));
    text.or(root.get("mtp_share_layers")) == Some(&Value::Bool(true))
}

const EXAONE: &[NameRule] = &[
    r("wte", "token_embd"),
    r("ln_f", "output_norm"),
    r("lm_head", "output"),
    r("h.{}.ln_1", "blk.{}.attn_norm"),
    r("h.{}.ln_2", "blk.{}.ffn_norm"),
    r("h.{}.attn.attention.q_proj", "blk.{}.attn_q"),
    r("h.{}.attn.attention.k_proj", "blk.{}.attn_k"),
    r("h.{}.attn.attention.v_proj", "blk.{}.attn_v"),
    r("h.{}.attn.attention.out_proj", "blk.{}.attn_output"),
    r("h.{}.mlp.c_fc_0", "blk.{}.ffn_gate"),
    r("h.{}.mlp.c_fc_1", "blk.{}.ffn_up"),
    r("h.{}.mlp.c_proj", "blk.{}.ffn_down"),
];

const EXAONE_MOE: &[NameRule] = &[
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    r("model.layers.{}.mlp.e_score_correction", "blk.{}.exp_probs_b"),
];

fn exaone(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    match config.str("activation_function") {
        Some("silu") => {}
        Some(other) => return Err(Error::input(format!("config.json: EXAONE with {other} is not known"))),
        None => return Err(Error::input("config.json has no activation_function")),
    }
    let factor = config.rope_f64("partial_rotary_factor").unwrap_or(1.0);
    p.u32("rope.dimension_count", (factor * quotient(config)? as f64) as u64)
}

fn exaone4(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.need_u32("vocab_size", &["vocab_size"])?;
    if p.config().get("sliding_window").is_none() {
        return Ok(());
    }
    p.need_u32("attention.sliding_window", &["sliding_window"])?;
    let pattern = match p.sliding_layers() {
        Some(pattern) => pattern,
        None => sliding_pattern(p.config())?,
    };
    p.sliding_pattern(&pattern);
    Ok(())
}

fn exaone45(p: &mut Params<'_>) -> Result<()> {
    exaone4(p)?;
    match p.config().u64("num_nextn_predict_layers") {
        Some(further) if further > 0 => p.u32("nextn_predict_layers", further),
        _ => Ok(()),
    }
}

fn exaone_moe(p: &mut Params<'_>) -> Result<()> {
    exaone4(p)?;
    let config = p.config();
    let (inner, shared) = (config.need_u64(&["moe_intermediate_size"])?, config.need_u64(&["num_shared_experts"])?);
    p.u32("expert_feed_forward_length", inner)?;
    p.u32("expert_shared_count", shared)?;
    p.u32("expert_shared_feed_forward_length", inner.saturating_mul(shared))?;
    p.need_f32("expert_weights_scale", &["routed_scaling_factor"])?;
    p.need_bool("expert_weights_norm", "norm_topk_prob")?;
    let dense = ["first_k_dense_replace", "first_last_k_dense_replace"].iter().find_map(|k| config.u64(k));
    p.u32("leading_dense_block_count", dense.unwrap_or(0))?;
    p.u32("nextn_predict_layers", config.u64("num_nextn_predict_layers").unwrap_or(0))?;
    p.set("rope.scaling.type", "none");
    Ok(())
}

/// A number (all layers slide but every nth) or letters (`L` slides).
fn sliding_pattern(config: &Config) -> Result<Vec<bool>> {
    let layers = config.layers()?;
    let letters = config.str("sliding_window_pattern").unwrap_or("").as_bytes();
    let every = config.u64("sliding_window_pattern").unwrap_or(0);
    Ok(match every {
        _ if !letters.is_empty() => (0..layers as usize).map(|i| letters[i % letters.len()] == b'L').collect(),
        0 => Vec::new(),
        every => (1..=layers).map(|i| i % every != 0).collect(),
    })
}
