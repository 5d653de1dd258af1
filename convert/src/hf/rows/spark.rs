//! iFLYTEK Spark X2.5.

use gguf::{Error, Result};
use serde_json::Value;

use crate::config::Config;
use crate::hf::{ATTENTION, BASE, Class, ENDS, GATED, How, NORMS, NameRule, Params, Piece, r};
use crate::transform::Rows;

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["Spark2_5ForCausalLM"],
    arch: "spark2_5",
    spelling: &[ENDS, ATTENTION, SPARK, NORMS, GATED],
    keys: spark,
    remark: "a gate on each head of attention; layers that slide",
    ..BASE
}];

const SPARK: &[NameRule] = &[
    r("model.layers.{}.self_attn.q_k_v_proj", "blk.{}.attn_qkv"),
    r("model.layers.{}.self_attn.g_proj", "blk.{}.attn_gate").how(How::Change(one_gate_a_head)),
];

fn one_gate_a_head(config: &Config, piece: &Piece) -> Result<Rows> {
    let (heads, gates) = (config.heads()?, piece.rows.shape().first().copied().unwrap_or(0));
    if gates != heads {
        return Err(Error::input(format!("it has {gates} gates for {heads} heads in config.json")));
    }
    Ok(piece.rows.clone())
}

fn spark(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    let layers = config.get("layer_types").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if layers.len() as u64 != config.blocks()? {
        return Err(Error::input(format!("config.json names the kinds of {} layers", layers.len())));
    }
    if let Some(other) = layers.iter().find(|kind| *kind != "sliding_attention" && *kind != "full_attention") {
        return Err(Error::input(format!("config.json: {other} is no kind of layer that is known")));
    }
    let gates = config.str("gate_attn_act_mode") == Some("sigmoid");
    if !gates || config.bool("headwise_attn_output_gate") != Some(true) {
        return Err(Error::input("config.json: attention without sigmoid gates on its heads is not known"));
    }
    if config.str("hidden_act") != Some("gelu") {
        return Err(Error::input("config.json: hidden_act is not gelu, the only one that is known"));
    }
    p.need_u32("vocab_size", &["vocab_size"])?;
    p.need_u32("attention.sliding_window", &["sliding_window"])?;
    p.sliding_pattern(&p.sliding_layers().unwrap_or_default());
    let head = config.need_u64(&["head_dim"])?;
    for (kind, key) in [("full_attention", "rope.dimension_count"), ("sliding_attention", "rope.dimension_count_swa")] {
        let part = config.rope().get(kind).and_then(|rope| rope.get("partial_rotary_factor")).and_then(Value::as_f64);
        let part = part.ok_or_else(|| {
            Error::input(format!("config.json: rope_parameters of {kind} have no partial_rotary_factor"))
        })?;
        p.u32(key, (head as f64 * part) as u64)?;
    }
    Ok(())
}
