//! Falcon-H1: attention and a state space side by side, with multipliers that become part of the weights.

use gguf::{Error, Result};
use serde_json::Value;

use crate::config::Config;
use crate::hf::rows::granite::{STATE_SPACES, maybe_state, state};
use crate::hf::{BASE, Class, How, NameRule, Params, Piece, r};
use crate::transform::{Rows, mapped, scaled_rows};

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["FalconH1ForCausalLM"],
    arch: "falcon-h1",
    // Before the state spaces' own rules, of which two are changed.
    spelling: &[FALCON_H1, STATE_SPACES],
    keys: falcon_h1,
    remark: "attention beside a state space; multipliers taken into the weights",
    ..BASE
}];

const FALCON_H1: &[NameRule] = &[
    r("model.embed_tokens", "token_embd").how(How::Change(|c, p| times(c, p, &["embedding_multiplier"]))),
    r("model.final_layernorm", "output_norm"),
    r("lm_head", "output").how(How::Change(|c, p| times(c, p, &["lm_head_multiplier"]))),
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    // The reference's name of this one has no ending.
    r("model.layers.{}.pre_ff_layernorm.weight", "blk.{}.ffn_norm"),
    r("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q")
        .how(How::Change(|c, p| times(c, p, &["attention_in_multiplier"]))),
    r("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k")
        .how(How::Change(|c, p| times(c, p, &["key_multiplier", "attention_in_multiplier"]))),
    r("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v")
        .how(How::Change(|c, p| times(c, p, &["attention_in_multiplier"]))),
    r("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output")
        .how(How::Change(|c, p| times(c, p, &["attention_out_multiplier"]))),
    r("model.layers.{}.feed_forward.gate_proj", "blk.{}.ffn_gate")
        .how(How::Change(|c, p| Ok(scaled(&p.rows, listed(c, "mlp_multipliers", 0)?)))),
    r("model.layers.{}.feed_forward.up_proj", "blk.{}.ffn_up"),
    r("model.layers.{}.feed_forward.down_proj", "blk.{}.ffn_down")
        .how(How::Change(|c, p| Ok(scaled(&p.rows, listed(c, "mlp_multipliers", 1)?)))),
    r("model.layers.{}.mamba.in_proj", "blk.{}.ssm_in").how(How::Change(projected)),
    r("model.layers.{}.mamba.out_proj", "blk.{}.ssm_out").how(How::Change(|c, p| times(c, p, &["ssm_out_multiplier"]))),
];

fn scaled(rows: &Rows, factor: f64) -> Rows {
    let factor = factor as f32;
    mapped(rows, move |v| v * factor)
}

/// The tensor times multipliers of the configuration, one after the other.
fn times(config: &Config, piece: &Piece, names: &[&str]) -> Result<Rows> {
    names.iter().try_fold(piece.rows.clone(), |rows, name| Ok(scaled(&rows, config.need_f64(&[name])?)))
}

/// A multiplier of a list.
fn listed(config: &Config, name: &str, place: usize) -> Result<f64> {
    let value = config.get(name).and_then(|l| l.get(place)).and_then(Value::as_f64);
    value.ok_or_else(|| Error::input(format!("config.json has no number {place} in {name}")))
}

/// Gate, input, B, C and time steps have a multiplier each.
fn projected(config: &Config, piece: &Piece) -> Result<Rows> {
    let inner = config.need_u64(&["mamba_d_ssm"])?;
    let states = config.need_u64(&["mamba_n_groups"])?.saturating_mul(config.need_u64(&["mamba_d_state"])?);
    let rows = scaled(&piece.rows, config.need_f64(&["ssm_in_multiplier"])?);
    let parts = [inner, inner, states, states, u64::MAX];
    let factors: Result<Vec<(u64, f32)>> =
        (0..).zip(parts).map(|(i, count)| Ok((count, listed(config, "ssm_multipliers", i)? as f32))).collect();
    Ok(scaled_rows(&rows, &factors?))
}

fn falcon_h1(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    let or = |names: &[&str], default: u64| maybe_state(config, names).filter(|n| *n > 0).unwrap_or(default);
    let inner = config.need_u64(&["mamba_d_ssm"])?;
    let head = config.u64("mamba_d_head").or_else(|| config.u64("head_dim")).filter(|n| *n > 0).unwrap_or(64);
    let names = ["layer_norm_epsilon", "rms_norm_eps"];
    let epsilon = if config.first(&names).is_some() { config.need_f64(&names)? } else { 1e-5 };
    p.u32("context_length", config.u64("max_position_embeddings").unwrap_or(0))?;
    p.need_u32("embedding_length", &["hidden_size", "d_model", "dim"])?;
    p.need_u32("feed_forward_length", &["intermediate_size"])?;
    p.need_u32("attention.head_count", &["num_attention_heads"])?;
    p.blocks()?;
    p.u32("ssm.conv_kernel", or(&["conv_kernel", "d_conv"], 4))?;
    p.u32("ssm.inner_size", inner)?;
    p.u32("ssm.state_size", or(&["state_size", "d_state"], 128))?;
    p.u32("ssm.time_step_rank", inner / head)?;
    p.u32("ssm.group_count", state(config, &["n_groups"])?)?;
    p.f32("attention.layer_norm_rms_epsilon", epsilon);
    p.file_type();
    p.need_u32("vocab_size", &["vocab_size"])?;
    p.need_u32("attention.head_count_kv", &["num_key_value_heads"])?;
    p.need_u32("attention.key_length", &["head_dim"])?;
    p.need_u32("attention.value_length", &["head_dim"])?;
    let activation = config.str("hidden_act").unwrap_or("silu");
    if activation != "silu" || !inner.is_multiple_of(state(config, &["d_head"])?) {
        return Err(Error::input(format!(
            "config.json: a state space with {activation} and {inner} dimensions is not known"
        )));
    }
    let base = config.rope_f64("rope_theta").ok_or_else(|| Error::input("config.json has no rope_theta"))?;
    p.f32("rope.freq_base", base);
    Ok(())
}
