//! DBRX.

use gguf::{Error, Result};
use serde_json::Value;

use crate::config::{Config, as_u64};
use crate::hf::{BASE, Class, How, Modules, NameRule, Params, Piece, Types, r};
use crate::transform::{Rows, reshaped, transposed};

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["DbrxForCausalLM"],
    arch: "dbrx",
    defaults: r#"{"d_model": 2048, "n_heads": 16, "n_layers": 24, "max_seq_len": 2048, "vocab_size": 32000}"#,
    aliases: &[
        ("num_attention_heads", "n_heads"),
        ("hidden_size", "d_model"),
        ("num_hidden_layers", "n_layers"),
        ("max_position_embeddings", "max_seq_len"),
    ],
    spelling: &[DBRX],
    types: Types::NoMatrices,
    keys: dbrx,
    modules: Modules { linear: &["router.layer"], ..Modules::USUAL },
    remark: "experts in one matrix, taken apart",
    ..BASE
}];

const DBRX: &[NameRule] = &[
    r("transformer.wte", "token_embd"),
    r("transformer.norm_f", "output_norm"),
    r("lm_head", "output"),
    r("transformer.blocks.{}.norm_attn_norm.norm_1", "blk.{}.attn_norm"),
    r("transformer.blocks.{}.norm_attn_norm.norm_2", "blk.{}.attn_output_norm"),
    r("transformer.blocks.{}.norm_attn_norm.attn.Wqkv", "blk.{}.attn_qkv"),
    r("transformer.blocks.{}.norm_attn_norm.attn.out_proj", "blk.{}.attn_output"),
    r("transformer.blocks.{}.ffn.router.layer", "blk.{}.ffn_gate_inp"),
    r("transformer.blocks.{}.ffn.experts.mlp.w1", "blk.{}.ffn_gate_exps.weight").how(How::Change(experts)),
    r("transformer.blocks.{}.ffn.experts.mlp.v1", "blk.{}.ffn_up_exps.weight").how(How::Change(experts)),
    r("transformer.blocks.{}.ffn.experts.mlp.w2", "blk.{}.ffn_down_exps.weight")
        .how(How::Change(|c, p| transposed(&experts(c, p)?))),
];

/// A value of a part of the configuration; a default where the part does not have it.
fn part<'a>(config: &'a Config, part: &str, name: &str) -> Option<&'a Value> {
    config.get(part)?.get(name).filter(|v| !v.is_null())
}

fn number(config: &Config, of: &str, name: &str, default: Option<u64>) -> Result<u64> {
    match part(config, of, name) {
        Some(value) => as_u64(value)
            .ok_or_else(|| Error::input(format!("config.json: {name} of {of} is {value}, not a whole number"))),
        None => default.ok_or_else(|| Error::input(format!("config.json has no {name} in {of}"))),
    }
}

fn float(config: &Config, of: &str, name: &str) -> Result<f64> {
    part(config, of, name)
        .and_then(Value::as_f64)
        .ok_or_else(|| Error::input(format!("config.json has no number {name} in {of}")))
}

/// One expert after the other in the rows of a matrix.
fn experts(config: &Config, piece: &Piece) -> Result<Rows> {
    let experts = number(config, "ffn_config", "moe_num_experts", Some(4))?;
    let inner = number(config, "ffn_config", "ffn_hidden_size", Some(3584))?;
    reshaped(&piece.rows, vec![experts, inner, config.need_u64(&["d_model"])?])
}

fn dbrx(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    p.blocks()?;
    p.need_u32("context_length", &["max_seq_len"])?;
    p.need_u32("embedding_length", &["d_model"])?;
    p.u32("feed_forward_length", number(config, "ffn_config", "ffn_hidden_size", Some(3584))?)?;
    p.need_u32("attention.head_count", &["n_heads"])?;
    p.u32("attention.head_count_kv", number(config, "attn_config", "kv_n_heads", Some(1))?)?;
    p.f32("rope.freq_base", float(config, "attn_config", "rope_theta")?);
    p.f32("attention.clamp_kqv", float(config, "attn_config", "clip_qkv")?);
    p.u32("expert_count", number(config, "ffn_config", "moe_num_experts", Some(4))?)?;
    p.u32("expert_used_count", number(config, "ffn_config", "moe_top_k", Some(1))?)?;
    p.f32("attention.layer_norm_epsilon", 1e-5);
    p.file_type();
    Ok(())
}
