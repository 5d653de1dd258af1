//! Jamba: state spaces and attention, dense feed-forwards and experts, each every few layers.

use gguf::Result;

use crate::config::Config;
use crate::hf::rows::llama::local_experts;
use crate::hf::rows::mamba::{convolution, minus_exp};
use crate::hf::{ATTENTION, BASE, Class, How, NameRule, Params, r};
use crate::tokenizer::VocabKind;

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["JambaForCausalLM"],
    arch: "jamba",
    defaults: r#"{"vocab_size": 65536, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "max_position_embeddings": 262144,
        "num_experts_per_tok": 2, "num_experts": 16, "expert_layer_period": 2, "expert_layer_offset": 1,
        "attn_layer_period": 8, "attn_layer_offset": 4, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2,
        "mamba_dt_rank": "auto", "tie_word_embeddings": false}"#,
    aliases: &[("num_local_experts", "num_experts")],
    vocabulary: VocabKind::Jamba,
    spelling: &[JAMBA, ATTENTION, EXPERTS],
    prepare: computed_rank,
    rename: one_feed_forward,
    keys: jamba,
    remark: "state spaces with attention every few layers; experts every other layer",
    ..BASE
}];

const STACK: How = How::Stack { group: "experts", members: local_experts };

const JAMBA: &[NameRule] = &[
    r("model.embed_tokens", "token_embd"),
    r("model.final_layernorm", "output_norm"),
    r("lm_head", "output"),
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    r("model.layers.{}.mamba.in_proj", "blk.{}.ssm_in"),
    r("model.layers.{}.mamba.conv1d", "blk.{}.ssm_conv1d").how(How::Change(convolution)),
    r("model.layers.{}.mamba.x_proj", "blk.{}.ssm_x"),
    r("model.layers.{}.mamba.dt_proj", "blk.{}.ssm_dt"),
    r("model.layers.{}.mamba.A_log", "blk.{}.ssm_a").how(How::Map(minus_exp)),
    r("model.layers.{}.mamba.D", "blk.{}.ssm_d"),
    r("model.layers.{}.mamba.out_proj", "blk.{}.ssm_out"),
    r("model.layers.{}.mamba.dt_layernorm", "blk.{}.ssm_dt_norm"),
    r("model.layers.{}.mamba.b_layernorm", "blk.{}.ssm_b_norm"),
    r("model.layers.{}.mamba.c_layernorm", "blk.{}.ssm_c_norm"),
    r("model.layers.{}.mamba.B_layernorm", "blk.{}.ssm_b_norm"),
    r("model.layers.{}.mamba.C_layernorm", "blk.{}.ssm_c_norm"),
    r("model.layers.{}.pre_ff_layernorm", "blk.{}.ffn_norm"),
    r("model.layers.{}.pre_moe_layernorm", "blk.{}.ffn_norm"),
];

const EXPERTS: &[NameRule] = &[
    r("model.layers.{}.feed_forward.down_proj", "blk.{}.ffn_down"),
    r("model.layers.{}.feed_forward.gate_proj", "blk.{}.ffn_gate"),
    r("model.layers.{}.feed_forward.up_proj", "blk.{}.ffn_up"),
    r("model.layers.{}.feed_forward.experts.{x}.down_proj", "blk.{}.ffn_down_exps").how(STACK),
    r("model.layers.{}.feed_forward.experts.{x}.gate_proj", "blk.{}.ffn_gate_exps").how(STACK),
    r("model.layers.{}.feed_forward.experts.{x}.up_proj", "blk.{}.ffn_up_exps").how(STACK),
    r("model.layers.{}.feed_forward.router", "blk.{}.ffn_gate_inp"),
];

fn computed_rank(config: &mut Config) -> Result<()> {
    if config.str("mamba_dt_rank") == Some("auto") {
        let width = config.need_u64(&["hidden_size", "mamba_d_model"])?;
        config.set("mamba_dt_rank", width.div_ceil(16));
    }
    Ok(())
}

/// Mini-Jamba calls its feed-forward `moe`, and that of a layer without experts its only expert.
fn one_feed_forward(config: &Config, name: &str) -> Option<String> {
    let name = name.replace(".moe.", ".feed_forward.");
    let Some(block) = crate::hf::contents::block_of(&name) else { return Some(name) };
    let offset = config.u64("expert_layer_offset").unwrap_or(0);
    let period = config.u64("expert_layer_period").unwrap_or(1).max(1);
    let has_experts = block.checked_sub(offset).is_some_and(|i| i % period == 0);
    Some(if has_experts { name } else { name.replace(".experts.0.", ".") })
}

fn jamba(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    let width = config.need_u64(&["hidden_size", "mamba_d_model"])?;
    let (offset, period) = (config.need_u64(&["attn_layer_offset"])?, config.need_u64(&["attn_layer_period"])?.max(1));
    let heads = config.need_u64(&["num_key_value_heads"])?;
    let attends = |i: u64| i.checked_sub(offset).is_some_and(|i| i % period == 0);
    let heads: Vec<u64> = (0..config.blocks()?).map(|i| if attends(i) { heads } else { 0 }).collect();
    p.blocks()?;
    p.need_u32("context_length", &["max_position_embeddings", "n_ctx"])?;
    p.u32("embedding_length", width)?;
    p.need_u32("feed_forward_length", &["intermediate_size"])?;
    p.need_u32("attention.head_count", &["num_attention_heads"])?;
    p.i32s("attention.head_count_kv", &heads)?;
    p.u32("ssm.conv_kernel", config.u64_or(&["mamba_d_conv"], 4)?)?;
    p.u32("ssm.inner_size", config.need_u64(&["mamba_expand"])?.saturating_mul(width))?;
    p.u32("ssm.state_size", config.u64_or(&["mamba_d_state"], 16)?)?;
    p.u32("ssm.time_step_rank", config.u64_or(&["mamba_dt_rank"], width.div_ceil(16))?)?;
    p.f32("attention.layer_norm_rms_epsilon", config.f64_or(&["layer_norm_epsilon", "rms_norm_eps"], 1e-6)?);
    p.need_u32("expert_count", &["num_local_experts", "num_experts"])?;
    p.need_u32("expert_used_count", &["num_experts_per_tok", "num_experts_per_token"])?;
    p.file_type();
    Ok(())
}
