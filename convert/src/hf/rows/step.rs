//! Step 3.5 and the text model of Step 3.7.

use gguf::{Error, Result};
use serde_json::{Value, json};

use crate::config::{Config, as_u64};
use crate::hf::rows::llama::{MAX_ROTARY, frequency, head_dim};
use crate::hf::rows::qwen::DENSE_OR_EXPERTS;
use crate::hf::rows::qwen_next::{ENDS, NORM, PREDICTION_PLUS_ONE};
use crate::hf::{ATTENTION, BASE, BEHIND, Class, How, NameRule, Outputs, Params, r, with_prediction};
use crate::transform::{squeezed, values};

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["Step3p5ForCausalLM", "Step3p7ForConditionalGeneration"],
    arch: "step35",
    // The library's class renames what the format's keys are made from.
    spelling: &[ENDS, ATTENTION, NORMS, DENSE_OR_EXPERTS, EXPERTS, PREDICTION_PLUS_ONE],
    prediction: Some(BEHIND),
    prepare: by_kind_of_layer,
    rename: prediction_names,
    generated: rope_freqs,
    keys: step,
    remark: "layers that slide have other heads; experts; layers of multi-token prediction",
    ..BASE
}];

const SQUEEZED: How = How::Change(|_, piece| squeezed(&piece.rows));

const NORMS: &[NameRule] = &[
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm").how(NORM),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm").how(NORM),
    r("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm").how(NORM),
    r("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm").how(NORM),
    r("model.layers.{}.self_attn.g_proj", "blk.{}.attn_gate").how(SQUEEZED),
];

const EXPERTS: &[NameRule] = &[
    r("model.layers.{}.moe.gate", "blk.{}.ffn_gate_inp").how(SQUEEZED),
    r("model.layers.{}.moe.router_bias", "blk.{}.exp_probs_b.bias"),
    r("model.layers.{}.moe.gate_proj", "blk.{}.ffn_gate_exps").how(SQUEEZED),
    r("model.layers.{}.moe.up_proj", "blk.{}.ffn_up_exps").how(SQUEEZED),
    r("model.layers.{}.moe.down_proj", "blk.{}.ffn_down_exps").how(SQUEEZED),
    r("model.layers.{}.share_expert.gate_proj", "blk.{}.ffn_gate_shexp"),
    r("model.layers.{}.share_expert.up_proj", "blk.{}.ffn_up_shexp"),
    r("model.layers.{}.share_expert.down_proj", "blk.{}.ffn_down_shexp"),
];

/// The base of rotation is one number a layer: the first is of full attention, the second of layers that slide.
fn by_kind_of_layer(config: &mut Config) -> Result<()> {
    let bases = config.get("rope_theta").and_then(Value::as_array).cloned();
    if let Some([full, sliding, ..]) = bases.as_deref() {
        config.set_rope("rope_theta", full.clone());
        config.set_rope("sliding_attention", json!({ "rope_theta": sliding }));
    }
    with_prediction(config)
}

/// Layers of prediction have some parts one level deeper.
fn prediction_names(config: &Config, name: &str) -> Option<String> {
    let block = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse::<u64>().ok());
    if block.is_none_or(|block| config.layers().is_ok_and(|layers| block < layers)) {
        return Some(name.to_owned());
    }
    Some(name.replace(".transformer.", ".").replace("shared_head.output", "shared_head.head"))
}

/// A list with one entry a block, filled up with what is usual.
fn each_block<T: Clone>(config: &Config, list: impl IntoIterator<Item = T>, usual: T) -> Result<Vec<T>> {
    let mut list: Vec<T> = list.into_iter().collect();
    list.resize(config.blocks()? as usize, usual);
    Ok(list)
}

fn entries<'a>(config: &'a Config, key: &str) -> &'a [Value] {
    config.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Which blocks slide.
fn slides(config: &Config) -> Result<Vec<bool>> {
    each_block(config, entries(config, "layer_types").iter().map(|kind| kind == "sliding_attention"), false)
}

fn step(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    let slides = slides(config)?;
    let parts = entries(config, "partial_rotary_factors").iter().map(|part| part.as_f64().unwrap_or(f64::NAN));
    let parts = each_block(config, parts, 0.5)?;
    let usual: Vec<f64> = slides.iter().map(|slides| if *slides { 1.0 } else { 0.5 }).collect();
    if parts != usual {
        let what = "config.json: partial_rotary_factors are not 1 in layers that slide and 0.5 in the others";
        return Err(Error::input(what));
    }
    let sliding = config.get("attention_other_setting");
    for (key, name) in
        [("attention.head_count", "num_attention_heads"), ("attention.head_count_kv", "num_attention_groups")]
    {
        let full = config.need_u64(&[name])?;
        let other = sliding.and_then(|s| s.get(name)).and_then(as_u64).unwrap_or(full);
        let heads: Vec<u64> = slides.iter().map(|slides| if *slides { other } else { full }).collect();
        p.i32s(key, &heads)?;
    }
    p.need_u32("attention.sliding_window", &["sliding_window"])?;
    p.sliding_pattern(&slides);
    p.need_u32("attention.value_length", &["head_dim"])?;
    p.need_u32("expert_count", &["moe_num_experts"])?;
    p.need_u32("expert_used_count", &["moe_top_k"])?;
    p.need_u32("expert_feed_forward_length", &["moe_intermediate_size"])?;
    p.need_u32("expert_shared_feed_forward_length", &["share_expert_dim"])?;
    p.maybe_f32("expert_weights_scale", &["moe_router_scaling_factor"])?;
    p.maybe_bool("expert_weights_norm", "norm_expert_weight")?;
    let sparse = config.str("moe_layers_enum").map_or("", str::trim);
    let sparse = sparse.split(',').filter(|i| !i.is_empty()).map(|i| i.trim().parse::<u64>());
    let sparse: Vec<u64> = sparse
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| Error::input("config.json: moe_layers_enum does not number layers"))?;
    p.u32("leading_dense_block_count", sparse.into_iter().min().unwrap_or(0))?;
    p.u32("moe_every_n_layers", config.u64("moe_every_n_layer").unwrap_or(1))?;
    p.f32("attention.layer_norm_rms_epsilon", config.f64("rms_norm_eps").unwrap_or(1e-5));
    for (key, name) in [("swiglu_clamp_exp", "swiglu_limits"), ("swiglu_clamp_shexp", "swiglu_limits_shared")] {
        if config.get(name).is_some() {
            let limits = entries(config, name).iter().map(|limit| limit.as_f64().unwrap_or(0.0) as f32);
            p.f32s(key, &each_block(config, limits, 0.0)?);
        }
    }
    match config.u64("num_nextn_predict_layers") {
        Some(more) if more > 0 => p.u32("nextn_predict_layers", more),
        _ => Ok(()),
    }
}

/// Llama 3's scaling of long wavelengths for the dimensions that rotate in full attention, in the reference's
/// arithmetic, which is in f64 here. The others are not scaled.
fn rope_freqs(config: &Config) -> Result<Outputs> {
    if config.rope_type() != "llama3" {
        return Ok(Vec::new());
    }
    let number = |key: &str, default: f64| config.rope_full().get(key).and_then(Value::as_f64).unwrap_or(default);
    let base = match config.get("rope_theta") {
        Some(Value::Array(bases)) => bases.first().and_then(Value::as_f64),
        base => base.and_then(Value::as_f64),
    };
    let head = head_dim(config)?;
    if head > MAX_ROTARY {
        return Err(Error::input(format!("config.json claims heads of {head} dimensions")));
    }
    let full = entries(config, "layer_types").iter().zip(entries(config, "partial_rotary_factors"));
    let part = full.take(config.blocks()? as usize).find(|(kind, _)| *kind == "full_attention");
    let part = part.and_then(|(_, part)| part.as_f64());
    let part = part.ok_or_else(|| Error::input("config.json has no partial_rotary_factors of full attention"))?;
    let rotary = (head as f64 * part) as u64;
    let (factor, low, high) = (number("factor", 8.0), number("low_freq_factor", 1.0), number("high_freq_factor", 4.0));
    let original = number("original_max_position_embeddings", 8192.0).trunc();
    let scaled = (0..rotary).step_by(2).map(|i| {
        let wavelength = 2.0 * std::f64::consts::PI / f64::from(frequency(base.unwrap_or(10000.0), i, rotary));
        if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor as f32
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
        }
    });
    let mut factors: Vec<f32> = scaled.collect();
    factors.resize(factors.len().max(head as usize / 2), 1.0);
    Ok(vec![("rope_freqs.weight".into(), values(vec![factors.len() as u64], &factors))])
}
