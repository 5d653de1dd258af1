//! MiMo V2: windows with sinks, experts, layers of multi-token prediction.

use gguf::{Error, Result};

use crate::Part;
use crate::config::Config;
use crate::hf::contents::block_of;
use crate::hf::rows::qwen::DENSE_OR_EXPERTS;
use crate::hf::{
    ATTENTION, BASE, BEHIND, Class, ENDS, EXPERTS_GATE_FIRST, NORMS, NameRule, PREDICTION, Params, Prediction, r,
};

/// Configurations do not say how many layers of multi-token prediction there are; all models have three.
const NEXT_TOKEN_LAYERS: u64 = 3;

const BEGINNING: &str = "model.mtp.layers.";

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["MiMoV2FlashForCausalLM", "MiMoV2ForCausalLM"],
    arch: "mimo2",
    spelling: &[ENDS, ATTENTION, NORMS, DENSE_OR_EXPERTS, EXPERTS_GATE_FIRST, MIMO, PREDICTION],
    prepare: |config| {
        let further = if config.part() == Part::Trunk { 0 } else { NEXT_TOKEN_LAYERS };
        config.set_blocks(config.layers()?.saturating_add(further));
        Ok(())
    },
    prediction: Some(Prediction { beginnings: &[BEGINNING], ..BEHIND }),
    rename: next_token_names,
    keys: mimo,
    // The reference looks for routers under the number that the layer has in the checkpoint.
    in_f32: |config, name| {
        let next = block_of(name).zip(config.layers().ok()).is_some_and(|(block, layers)| block >= layers);
        (next && name.ends_with("ffn_gate_inp.weight")).then_some(false)
    },
    remark: "windows with sinks in most layers; experts; layers of multi-token prediction",
    ..BASE
}];

const MIMO: &[NameRule] = &[
    r("model.layers.{}.self_attn.qkv_proj", "blk.{}.attn_qkv"),
    r("model.layers.{}.self_attn.attention_sink_bias", "blk.{}.attn_sinks.weight"),
    r("model.layers.{}.mlp.gate", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.mlp.gate.e_score_correction", "blk.{}.exp_probs_b"),
    r("model.layers.{}.final_layernorm", "blk.{}.layer_output_norm"),
];

fn next_token_names(config: &Config, name: &str) -> Option<String> {
    let Some((layer, rest)) = name.strip_prefix(BEGINNING).and_then(|rest| rest.split_once('.')) else {
        return Some(name.to_owned());
    };
    let block = config.layers().ok()?.checked_add(layer.parse().ok()?)?;
    Some(format!("model.layers.{block}.{rest}"))
}

fn mimo(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    let need = |name: &str| config.need_u64(&[name]);
    for (sliding, full) in [
        ("swa_head_dim", "head_dim"),
        ("swa_num_attention_heads", "num_attention_heads"),
        ("swa_v_head_dim", "v_head_dim"),
    ] {
        if need(sliding)? != need(full)? {
            return Err(Error::input(format!("config.json: {sliding} is not {full}, which llama.cpp wants equal")));
        }
    }
    if config.str("topk_method") != Some("noaux_tc") {
        return Err(Error::input("config.json: topk_method is not noaux_tc, the only one that is known"));
    }
    let mut pattern = config.need_list(&["hybrid_layer_pattern"])?;
    let further = config.blocks()?.saturating_sub(config.layers()?);
    pattern.resize(pattern.len() + further as usize, 1);
    let (full, sliding) = (need("num_key_value_heads")?, need("swa_num_key_value_heads")?);
    let heads: Vec<u64> = pattern.iter().map(|kind| if *kind == 1 { sliding } else { full }).collect();
    p.i32s("attention.head_count_kv", &heads)?;
    p.u32("attention.sliding_window", need("sliding_window")?)?;
    p.i32s("attention.sliding_window_pattern", &pattern)?;
    p.u32("attention.value_length", need("v_head_dim")?)?;
    p.u32("expert_count", need("n_routed_experts")?)?;
    p.u32("expert_feed_forward_length", need("moe_intermediate_size")?)?;
    let part = config.rope().get("partial_rotary_factor").and_then(serde_json::Value::as_f64);
    let part = part.ok_or_else(|| Error::input("config.json has no partial_rotary_factor"))?;
    p.u32("rope.dimension_count", (need("head_dim")? as f64 * part) as u64)?;
    p.f32("attention.layer_norm_rms_epsilon", config.f64("layernorm_epsilon").unwrap_or(1e-5));
    p.maybe_f32("attention.value_scale", &["attention_value_scale"])?;
    if further > 0 {
        p.u32("nextn_predict_layers", further)?;
    }
    Ok(())
}
