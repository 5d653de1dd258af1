//! Laguna: gated attention with another number of heads in every layer, experts.

use gguf::{Error, Result};

use crate::config::{Config, Rope};
use crate::hf::rows::hunyuan::leading_dense;
use crate::hf::rows::qwen::{DENSE_OR_EXPERTS, SHARED_EXPERT};
use crate::hf::{
    ATTENTION, BARE, BASE, Class, ENDS, EXPERTS_GATE_FIRST, HEAD_NORMS, How, NORMS, NameRule, Params, Piece, SIGMOID, r,
};
use crate::tokenizer::VocabKind;
use crate::transform::Rows;

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["LagunaForCausalLM"],
    arch: "laguna",
    defaults: r#"{"vocab_size": 100352, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 40,
        "num_attention_heads": 48, "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-06,
        "sliding_window": 512, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
        "num_experts_per_tok": 8, "num_experts": 256, "head_dim": 128, "gating": true, "moe_routed_scaling_factor": 1.0,
        "tie_word_embeddings": false, "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}}}"#,
    rope: Rope::Stated,
    vocabulary: VocabKind::Laguna,
    spelling: &[ENDS, ATTENTION, HEAD_NORMS, NORMS, DENSE_OR_EXPERTS, EXPERTS_GATE_FIRST, SHARED_EXPERT, LAGUNA],
    prefixes: BARE,
    keys: laguna,
    remark: "gates on attention; heads by layer; experts and one that all tokens share",
    ..BASE
}];

const LAGUNA: &[NameRule] = &[
    r("model.layers.{}.self_attn.g_proj", "blk.{}.attn_gate").how(How::Change(gate)),
    r("model.layers.{}.mlp.gate", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.mlp.gate.e_score_correction", "blk.{}.exp_probs_b"),
    r("model.layers.{}.mlp.experts.e_score_correction", "blk.{}.exp_probs_b"),
];

/// Heads of every layer.
fn heads(config: &Config) -> Result<Vec<u64>> {
    let layers = config.layers()?;
    let heads = match config.get("num_attention_heads_per_layer").and_then(|list| list.as_array()) {
        Some(list) if !list.is_empty() => config.need_list(&["num_attention_heads_per_layer"])?,
        _ => vec![config.heads()?; layers as usize],
    };
    if heads.len() as u64 != layers {
        return Err(Error::input(format!("config.json has the heads of {} layers of {layers}", heads.len())));
    }
    Ok(heads)
}

/// Whether the gate of each layer has a value for every element, not only for every head.
fn gates(config: &Config) -> Result<Vec<bool>> {
    let of_element = |kind: &serde_json::Value| match kind.as_str().map(|kind| kind.replace('-', "_")).as_deref() {
        Some("per_element") => Ok(true),
        Some("per_head") => Ok(false),
        _ => Err(Error::input(format!("config.json: a gate of attention of kind {kind} is not known"))),
    };
    let layers = config.layers()? as usize;
    let stated = config.get("gating").filter(|gating| gating.is_string());
    let gates = match config.get("gating_types").and_then(|list| list.as_array()).filter(|list| !list.is_empty()) {
        Some(list) => list.iter().map(of_element).collect::<Result<Vec<bool>>>()?,
        None => match stated {
            Some(kind) => vec![of_element(kind)?; layers],
            None if config.bool("gating") == Some(true) => vec![false; layers],
            None => return Err(Error::input("config.json: gating says nothing of the gates of attention")),
        },
    };
    if gates.len() != layers {
        return Err(Error::input(format!("config.json has the gates of {} layers of {layers}", gates.len())));
    }
    if gates.contains(&true) && !stated.is_some_and(|kind| of_element(kind).is_ok_and(|element| element)) {
        return Err(Error::input(
            "config.json: gating_types has gates of elements, gating does not say \"per-element\"",
        )
        .help("set \"gating\": \"per-element\", which other programs read"));
    }
    Ok(gates)
}

fn gate(config: &Config, piece: &Piece) -> Result<Rows> {
    let block = piece.block as usize;
    let (heads, gates) = (heads(config)?, gates(config)?);
    let (Some(heads), Some(element)) = (heads.get(block), gates.get(block)) else {
        return Err(Error::input("it is of no layer of config.json"));
    };
    let wanted = if *element { heads.saturating_mul(config.need_u64(&["head_dim"])?) } else { *heads };
    if piece.rows.shape().first() != Some(&wanted) {
        let shape = piece.rows.shape();
        return Err(Error::input(format!("its shape is {shape:?}, config.json wants a gate of {wanted} values")));
    }
    Ok(piece.rows.clone())
}

fn laguna(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    p.need_u32("vocab_size", &["vocab_size"])?;
    p.i32s("attention.head_count", &heads(config)?)?;
    gates(config)?;
    if let Some(window) = config.u64("sliding_window").filter(|window| *window > 0) {
        p.u32("attention.sliding_window", window)?;
    }
    p.need_u32("expert_feed_forward_length", &["moe_intermediate_size"])?;
    p.need_u32("expert_shared_feed_forward_length", &["shared_expert_intermediate_size"])?;
    p.set("expert_weights_norm", true);
    p.need_f32("expert_weights_scale", &["moe_routed_scaling_factor"])?;
    p.set("expert_gating_func", SIGMOID);
    // The class makes the first layer dense where the configuration says nothing.
    p.u32("leading_dense_block_count", leading_dense(config).unwrap_or(1))?;
    let head = config.need_u64(&["head_dim"])?;
    for (kind, key) in [("full_attention", "rope.dimension_count"), ("sliding_attention", "rope.dimension_count_swa")] {
        if let Some(rope) = config.rope().get(kind).filter(|rope| rope.is_object()) {
            let part = rope["partial_rotary_factor"].as_f64().unwrap_or(1.0);
            p.u32(key, (head as f64 * part) as u64)?;
        }
    }
    Ok(())
}
