//! GLM 4, ERNIE 4.5 and EXAONE 4.

use gguf::{Error, Result};

use crate::config::Config;
use crate::hf::rows::llama::{halves, head_dim, rope_freqs_with};
use crate::hf::{
    ATTENTION, BASE, Class, ENDS, GATED, HEAD_NORMS, How, NORMS, Outputs, POST_NORMS, Params, Piece, Rule, r,
};
use crate::tokenizer::VocabKind;
use crate::transform::sliced;

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["Glm4ForCausalLM"],
        arch: "glm4",
        defaults: r#"{"num_key_value_heads": 2, "rms_norm_eps": 1.5625e-07, "max_position_embeddings": 131072,
            "head_dim": 128, "hidden_size": 4096, "intermediate_size": 13696, "vocab_size": 151552,
            "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5, "rope_type": "default"}}"#,
        vocabulary: VocabKind::Glm4,
        spelling: &[ENDS, ATTENTION, NORMS, GLM4],
        keys: glm4,
        remark: "GLM-4-0414, GLM-Z1",
        ..BASE
    },
    Class {
        names: &["Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"],
        arch: "ernie4_5",
        defaults: r#"{"num_key_value_heads": 2, "rms_norm_eps": 1e-05, "max_position_embeddings": 131072,
            "head_dim": "computed", "hidden_size": 1024, "intermediate_size": 3072, "vocab_size": 103424,
            "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}, "tie_word_embeddings": true}"#,
        vocabulary: VocabKind::Ernie,
        spelling: &[ENDS, ERNIE],
        prefixes: &[("ernie.", "model.")],
        remark: "fused projections taken apart",
        ..BASE
    },
    Class {
        names: &["Exaone4ForCausalLM"],
        arch: "exaone4",
        defaults: r#"{"num_key_value_heads": 32, "rms_norm_eps": 1e-05, "max_position_embeddings": 2048,
            "hidden_size": 4096, "intermediate_size": 16384, "vocab_size": 102400, "sliding_window": 4096,
            "sliding_window_pattern": 4, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        spelling: &[ENDS, ATTENTION, HEAD_NORMS, POST_NORMS, GATED],
        keys: exaone4,
        generated: |config| rope_freqs_with(config, 16.0),
        remark: "norms after attention and feed-forward; layers that slide",
        ..BASE
    },
];

const GLM4: &[Rule] = &[
    r("model.layers.{}.post_self_attn_layernorm", "blk.{}.post_attention_norm"),
    r("model.layers.{}.post_mlp_layernorm", "blk.{}.post_ffw_norm"),
    r("model.layers.{}.mlp.gate_up_proj", "blk.{}.ffn_up"),
    r("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
];

const ERNIE: &[Rule] = &[
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    r("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    r("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    r("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    r("model.layers.{}.self_attn.qkv_proj", "blk.{}.attn_").how(How::Split(ernie_qkv)),
    r("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    r("model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    r("model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    r("model.layers.{}.mlp.up_gate_proj", "blk.{}.ffn_").how(How::Split(ernie_halves)),
    r("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
];

fn ernie_qkv(config: &Config, piece: &Piece) -> Result<Outputs> {
    let head = head_dim(config)?;
    let (query, key) = (config.heads()? * head, config.kv_heads()? * head);
    let rows = piece.rows.shape().first().copied().unwrap_or(0);
    if rows != query + 2 * key {
        return Err(Error::input(format!(
            "its {rows} rows are not {query} of queries, {key} of keys and {key} of values"
        )));
    }
    let part = |kind: &str, first: u64, count: u64| {
        Ok((format!("{}{kind}{}", piece.to, piece.suffix), sliced(&piece.rows, 0, first, count)?))
    };
    Ok(vec![part("q", 0, query)?, part("k", query, key)?, part("v", query + key, key)?])
}

fn ernie_halves(_: &Config, piece: &Piece) -> Result<Outputs> {
    let name = |kind: &str| format!("{}{kind}{}", piece.to, piece.suffix);
    halves(&piece.rows, name("gate"), name("up"))
}

fn glm4(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let factor = p.config().rope_f64("partial_rotary_factor").unwrap_or(0.5);
    let head = head_dim(p.config())?;
    p.u32("rope.dimension_count", (head as f64 * factor) as u64)
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

/// A number (all layers slide but every nth) or letters (`L` slides).
fn sliding_pattern(config: &Config) -> Result<Vec<bool>> {
    let blocks = config.blocks()?;
    let letters = config.str("sliding_window_pattern").unwrap_or("").as_bytes();
    let every = config.u64("sliding_window_pattern").unwrap_or(0);
    Ok(match every {
        _ if !letters.is_empty() => (0..blocks as usize).map(|i| letters[i % letters.len()] == b'L').collect(),
        0 => Vec::new(),
        every => (1..=blocks).map(|i| i % every != 0).collect(),
    })
}
