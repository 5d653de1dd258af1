//! gpt-oss: experts with interleaved gates, attention sinks.

use gguf::{Error, Result};

use crate::config::Config;
use crate::hf::{ATTENTION, BASE, Class, ENDS, How, NameRule, Outputs, Params, Piece, r};
use crate::transform::{strided, transposed, view};

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["GptOssForCausalLM"],
    arch: "gpt-oss",
    defaults: r#"{"num_key_value_heads": 8, "rms_norm_eps": 1e-05, "max_position_embeddings": 131072, "head_dim": 64,
        "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36, "num_attention_heads": 64,
        "num_local_experts": 128, "num_experts_per_tok": 4, "sliding_window": 128, "vocab_size": 201088,
        "rope_parameters": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
        "original_max_position_embeddings": 4096}, "rope_theta": 150000.0}"#,
    spelling: &[ENDS, ATTENTION, GPT_OSS],
    keys: gpt_oss,
    remark: "20B and 120B; gate and up disentangled",
    ..BASE
}];

const GPT_OSS: &[NameRule] = &[
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm"),
    r("model.layers.{}.self_attn.sinks", "blk.{}.attn_sinks.weight"),
    r("model.layers.{}.mlp.router", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.mlp.experts.down_proj", "blk.{}.ffn_down_exps.weight").how(How::Split(down)),
    r("model.layers.{}.mlp.experts.down_proj_blocks", "blk.{}.ffn_down_exps.weight"),
    r("model.layers.{}.mlp.experts.down_proj_bias", "blk.{}.ffn_down_exps.bias"),
    r("model.layers.{}.mlp.experts.gate_up_proj", "blk.{}.ffn_").how(How::Split(gate_up)),
    r("model.layers.{}.mlp.experts.gate_up_proj_blocks", "blk.{}.ffn_").how(How::Split(gate_up_blocks)),
    r("model.layers.{}.mlp.experts.gate_up_proj_bias", "blk.{}.ffn_").how(How::Split(gate_up_bias)),
];

fn down(_: &Config, piece: &Piece) -> Result<Outputs> {
    Ok(vec![(piece.to.clone(), transposed(&piece.rows)?)])
}

/// How many gates, each with its up, so many rows or columns are.
fn pairs(both: u64) -> Result<u64> {
    if both.is_multiple_of(2) {
        return Ok(both / 2);
    }
    Err(Error::input(format!("its {both} gates and ups are not a whole number of pairs")))
}

/// Stored with columns gate, up, gate, up; the file has a matrix of each, transposed.
fn gate_up(_: &Config, piece: &Piece) -> Result<Outputs> {
    let &[experts, input, columns] = piece.rows.shape() else {
        return Err(Error::input(format!("its shape {:?} is not that of experts", piece.rows.shape())));
    };
    let pairs = pairs(columns)?;
    let half = |kind: &str, first: u64| {
        let axes = [(experts, input * columns), (pairs, 2), (input, columns)];
        let rows = view(&piece.rows, vec![experts, pairs, input], first, &axes)?;
        Ok((format!("{}{kind}_exps.weight", piece.to), rows))
    };
    Ok(vec![half("gate", 0)?, half("up", 1)?])
}

/// In MXFP4 stored output-major, with rows gate, up, gate, up.
fn gate_up_blocks(_: &Config, piece: &Piece) -> Result<Outputs> {
    let pairs = pairs(piece.rows.shape().get(1).copied().unwrap_or(0))?;
    let half = |kind: &str, first: u64| {
        Ok((format!("{}{kind}_exps.weight", piece.to), strided(&piece.rows, 1, first, 2, pairs)?))
    };
    Ok(vec![half("gate", 0)?, half("up", 1)?])
}

fn gate_up_bias(_: &Config, piece: &Piece) -> Result<Outputs> {
    let pairs = pairs(piece.rows.shape().get(1).copied().unwrap_or(0))?;
    let half = |kind: &str, first: u64| {
        Ok((format!("{}{kind}_exps.bias", piece.to), strided(&piece.rows, 1, first, 2, pairs)?))
    };
    Ok(vec![half("gate", 0)?, half("up", 1)?])
}

fn gpt_oss(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.need_u32("attention.sliding_window", &["sliding_window"])?;
    p.need_u32("expert_feed_forward_length", &["intermediate_size"])
}
