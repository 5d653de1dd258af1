//! Bailing: Ling 1 to 3, Sarvam.

use gguf::{Error, Result};
use serde_json::Value;

use crate::config::Config;
use crate::hf::rows::deepseek::{EXPERTS, absorbed_heads};
use crate::hf::rows::glm::convolution;
use crate::hf::rows::llama::head_dim;
use crate::hf::{
    BASE, Class, GATED, How, NORMS, NameRule, Outputs, PREDICTION, Params, Piece, Prediction, r, with_prediction,
};
use crate::reduce::{centered, normalized_columns};
use crate::transform::{Rows, mapped, reordered, reshaped, sliced};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["BailingMoeForCausalLM"],
        arch: "bailingmoe",
        spelling: &[BAILING_ENDS, BAILING, NORMS, GATED, EXPERTS],
        keys: bailing,
        remark: "Ling-lite, Ling-plus; a normalized output head",
        ..BASE
    },
    Class {
        names: &["BailingMoeV2ForCausalLM"],
        arch: "bailingmoe2",
        spelling: &[BAILING_ENDS, BAILING2, EXPERT_BIAS, NORMS, GATED, EXPERTS, PREDICTION],
        prepare: with_prediction,
        keys: bailing2,
        remark: "Ling 2.0, Ring 2.0; layers of prediction kept",
        ..BASE
    },
    Class {
        names: &["SarvamMoEForCausalLM", "modeling_sarvam_moe.SarvamMoEForCausalLM"],
        arch: "bailingmoe2",
        spelling: &[BAILING_ENDS, BAILING2, CENTERED_BIAS, NORMS, GATED, EXPERTS, PREDICTION],
        prepare: with_prediction,
        keys: sarvam,
        remark: "the bias of experts without its mean",
        ..BASE
    },
    Class {
        names: &["BailingMoeV3ForCausalLM"],
        arch: "bailingmoe3",
        spelling: &[BAILING_ENDS, BAILING3, EXPERT_BIAS, NORMS, GATED, EXPERTS, PREDICTION],
        prediction: BAILING_PREDICTION,
        prepare: with_prediction,
        keys: bailing3,
        remark: "Ling 3.0; delta attention and latent attention, layers of prediction kept",
        ..BASE
    },
    Class {
        names: &["BailingMoeV3VLForConditionalGeneration"],
        arch: "bailingmoe3",
        spelling: &[BAILING_ENDS, BAILING3, EXPERT_BIAS, NORMS, GATED, EXPERTS, PREDICTION],
        unused: &["linear_proj"],
        prediction: BAILING_PREDICTION,
        prepare: with_prediction,
        keys: bailing3_vision,
        remark: "the text model of Ling 3.0 VL",
        ..BASE
    },
];

const BAILING_PREDICTION: Option<Prediction> =
    Some(Prediction { beginnings: &[], shared: &["model.word_embeddings.", "model.norm.", "lm_head."] });

const BAILING_ENDS: &[NameRule] = &[
    r("model.word_embeddings", "token_embd"),
    r("model.embed_tokens", "token_embd"),
    r("model.norm", "output_norm"),
    r("lm_head", "output").how(How::Change(head)),
];

const BAILING: &[NameRule] = &[
    r("model.layers.{}.attention.query_key_value", "blk.{}.attn_").how(How::Split(apart)),
    r("model.layers.{}.attention.dense", "blk.{}.attn_output"),
];

const BAILING2: &[NameRule] = &[
    r("model.layers.{}.attention.query_key_value", "blk.{}.attn_qkv"),
    r("model.layers.{}.attention.query_layernorm", "blk.{}.attn_q_norm"),
    r("model.layers.{}.attention.key_layernorm", "blk.{}.attn_k_norm"),
    r("model.layers.{}.attention.dense", "blk.{}.attn_output"),
    r("model.layers.{}.final_layernorm", "blk.{}.layer_output_norm"),
];

/// Delta attention in most layers, latent attention in the others.
const BAILING3: &[NameRule] = &[
    r("model.layers.{}.attention.q_proj", "blk.{}.attn_q"),
    r("model.layers.{}.attention.k_proj", "blk.{}.attn_k"),
    r("model.layers.{}.attention.v_proj", "blk.{}.attn_v"),
    r("model.layers.{}.attention.o_proj", "blk.{}.attn_output"),
    r("model.layers.{}.attention.dense", "blk.{}.attn_output"),
    r("model.layers.{}.attention.q_conv1d", "blk.{}.ssm_conv1d_q").how(How::Change(|_, p| convolution(p))),
    r("model.layers.{}.attention.k_conv1d", "blk.{}.ssm_conv1d_k").how(How::Change(|_, p| convolution(p))),
    r("model.layers.{}.attention.v_conv1d", "blk.{}.ssm_conv1d_v").how(How::Change(|_, p| convolution(p))),
    r("model.layers.{}.attention.f_proj", "blk.{}.ssm_f_a").how(How::Split(decay)),
    r("model.layers.{}.attention.g_proj", "blk.{}.").how(How::Split(gate)),
    r("model.layers.{}.attention.b_proj", "blk.{}.ssm_beta"),
    r("model.layers.{}.attention.o_norm", "blk.{}.ssm_norm"),
    r("model.layers.{}.attention.dt_bias", "blk.{}.ssm_dt.bias"),
    r("model.layers.{}.attention.A_log", "blk.{}.ssm_a").how(How::Change(|_, p| {
        let count = p.rows.shape().iter().product();
        reshaped(&mapped(&p.rows, crate::transform::exp), vec![count, 1])
    })),
    r("model.layers.{}.attention.q_a_proj", "blk.{}.attn_q_a"),
    r("model.layers.{}.attention.q_a_layernorm", "blk.{}.attn_q_a_norm"),
    r("model.layers.{}.attention.q_b_proj", "blk.{}.attn_q_b"),
    r("model.layers.{}.attention.kv_a_proj_with_mqa", "blk.{}.attn_kv_a_mqa"),
    r("model.layers.{}.attention.kv_a_layernorm", "blk.{}.attn_kv_a_norm"),
    r("model.layers.{}.attention.kv_b_proj", "blk.{}.attn_").how(How::Split(|c, p| {
        let (keys, values) = (c.need_u64(&["qk_nope_head_dim"])?, c.need_u64(&["v_head_dim"])?);
        absorbed_heads(p, c.heads()?, keys, values)
    })),
    r("model.layers.{}.final_layernorm", "blk.{}.layer_output_norm"),
];

const EXPERT_BIAS: &[NameRule] = &[r("model.layers.{}.mlp.gate.expert_bias", "blk.{}.exp_probs_b.bias")];

const CENTERED_BIAS: &[NameRule] = &[r("model.layers.{}.mlp.gate.expert_bias", "blk.{}.exp_probs_b.bias")
    .how(How::Change(|_, piece| centered(&piece.rows)))];

/// The output head, with columns of length 1 where the configuration says so.
fn head(config: &Config, piece: &Piece) -> Result<Rows> {
    let normalized = config.bool("norm_head") == Some(true);
    Ok(if normalized { normalized_columns(&piece.rows) } else { piece.rows.clone() })
}

/// Queries, keys and values one after the other; the first two rotate neighbours in the file.
fn apart(config: &Config, piece: &Piece) -> Result<Outputs> {
    let (heads, keys, head) = (config.heads()?, config.kv_heads()?, head_dim(config)?);
    let rows = piece.rows.shape().first().copied().unwrap_or(0);
    let all = keys.checked_mul(2).and_then(|n| n.checked_add(heads)).and_then(|n| n.checked_mul(head));
    if all != Some(rows) || !head.is_multiple_of(2) {
        return Err(Error::input(format!(
            "its {rows} rows are not {heads} queries and {keys} keys and values of {head}"
        )));
    }
    let turned = |first: u64, heads: u64| reordered(&piece.rows, first, &[(heads, head), (head / 2, 1), (2, head / 2)]);
    let name = |kind: &str| format!("{}{kind}{}", piece.to, piece.suffix);
    Ok(vec![
        (name("q"), turned(0, heads)?),
        (name("k"), turned(heads * head, keys)?),
        (name("v"), sliced(&piece.rows, 0, (heads + keys) * head, keys * head)?),
    ])
}

fn bailing(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let head = head_dim(p.config())?;
    p.u32("rope.dimension_count", head)?;
    p.need_u32("leading_dense_block_count", &["first_k_dense_replace"])?;
    p.need_u32("vocab_size", &["vocab_size"])?;
    p.need_u32("expert_feed_forward_length", &["moe_intermediate_size"])?;
    p.f32("expert_weights_scale", 1.0);
    p.need_u32("expert_shared_count", &["num_shared_experts"])?;
    p.need_bool("expert_weights_norm", "norm_topk_prob")
}

fn bailing2(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    let factor = config.rope_f64("partial_rotary_factor").unwrap_or(0.5);
    p.u32("rope.dimension_count", (head_dim(config)? as f64 * factor) as u64)?;
    p.need_u32("leading_dense_block_count", &["first_k_dense_replace"])?;
    p.need_u32("vocab_size", &["vocab_size"])?;
    let (inner, shared) = (config.need_u64(&["moe_intermediate_size"])?, config.need_u64(&["num_shared_experts"])?);
    p.u32("expert_feed_forward_length", inner)?;
    let together = config.u64("moe_shared_expert_intermediate_size").unwrap_or(inner.saturating_mul(shared));
    p.u32("expert_shared_feed_forward_length", together)?;
    p.need_f32("expert_weights_scale", &["routed_scaling_factor"])?;
    p.u32("expert_shared_count", shared)?;
    p.need_bool("expert_weights_norm", "norm_topk_prob")?;
    p.maybe_u32("nextn_predict_layers", &["num_nextn_predict_layers"])
}

fn sarvam(p: &mut Params<'_>) -> Result<()> {
    bailing2(p)?;
    let head = head_dim(p.config())?;
    p.u32("rope.dimension_count", head)
}

/// Whether a layer has latent attention: the last of each group, those after the last group, and those of prediction.
fn is_latent(config: &Config, block: u64) -> Result<bool> {
    let (layers, group) = (config.layers()?, config.need_u64(&["layer_group_size"])?.max(1));
    Ok(block >= layers / group * group || (block + 1).is_multiple_of(group))
}

fn decay(config: &Config, piece: &Piece) -> Result<Outputs> {
    if is_latent(config, piece.block)? {
        return Err(Error::input("it belongs to delta attention, and the layer has latent attention"));
    }
    Ok(vec![(format!("{}{}", piece.to, piece.suffix), piece.rows.clone())])
}

fn gate(config: &Config, piece: &Piece) -> Result<Outputs> {
    let kind = if is_latent(config, piece.block)? { "attn_gate" } else { "ssm_g_a" };
    Ok(vec![(format!("{}{kind}{}", piece.to, piece.suffix), piece.rows.clone())])
}

fn bailing3(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    let flag = |name: &str| config.bool(name) == Some(true);
    if !flag("no_kda_lora") || !flag("kda_safe_gate") {
        return Err(Error::input("config.json: delta attention without no_kda_lora and kda_safe_gate is not known"));
    }
    if config.str("gated_attention_proj_granularity_type") != Some("head_wise") {
        return Err(Error::input("config.json: gated_attention_proj_granularity_type is not head_wise"));
    }
    let mut shared = config.clone();
    shared.set("num_key_value_heads", 1_u64);
    p.common_of(&shared)?;
    let blocks = config.blocks()?;
    let heads = (0..blocks).map(|i| Ok(i64::from(is_latent(config, i)?))).collect::<Result<Vec<i64>>>()?;
    p.i32s("attention.head_count_kv", &heads)?;
    p.need_u32("vocab_size", &["vocab_size"])?;
    p.need_u32("ssm.conv_kernel", &["short_conv_kernel_size"])?;
    p.need_u32("kda.head_dim", &["head_dim"])?;
    p.need_bool("kda.safe_gate", "kda_safe_gate")?;
    p.need_f32("kda.gate_lower_bound", &["kda_lower_bound"])?;
    p.maybe_u32("attention.q_lora_rank", &["q_lora_rank"])?;
    let (rank, rope) = (config.need_u64(&["kv_lora_rank"])?, config.need_u64(&["qk_rope_head_dim"])?);
    p.u32("attention.kv_lora_rank", rank)?;
    p.u32("rope.dimension_count", rope)?;
    p.u32("attention.key_length", rank.saturating_add(rope))?;
    p.u32("attention.key_length_mla", config.need_u64(&["qk_nope_head_dim"])?.saturating_add(rope))?;
    p.need_u32("attention.value_length_mla", &["v_head_dim"])?;
    p.need_u32("expert_feed_forward_length", &["moe_intermediate_size"])?;
    p.need_u32("expert_shared_feed_forward_length", &["moe_shared_expert_intermediate_size"])?;
    p.u32("expert_shared_count", config.u64("num_shared_experts").unwrap_or(1))?;
    p.need_u32("leading_dense_block_count", &["first_k_dense_replace"])?;
    p.need_f32("expert_weights_scale", &["routed_scaling_factor"])?;
    p.need_bool("expert_weights_norm", "norm_topk_prob")?;
    for (key, name) in
        [("swiglu_clamp_exp", "expert_swiglu_limit_list"), ("swiglu_clamp_shexp", "share_expert_swiglu_limit_list")]
    {
        if let Some(limits) = config.get(name).and_then(Value::as_array) {
            let mut limits: Vec<f32> = limits.iter().map(|l| l.as_f64().unwrap_or(0.0) as f32).collect();
            limits.resize(blocks as usize, 0.0);
            p.f32s(key, &limits);
        }
    }
    match config.u64("num_nextn_predict_layers") {
        Some(further) if further > 0 => p.u32("nextn_predict_layers", further),
        _ => Ok(()),
    }
}

fn bailing3_vision(p: &mut Params<'_>) -> Result<()> {
    bailing3(p)?;
    let config = p.config();
    let sections = config.get("mrope_section").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let sections: Vec<i64> = sections.iter().take(3).filter_map(Value::as_i64).collect();
    let pairs = i64::try_from(config.need_u64(&["qk_rope_head_dim"])? / 2).unwrap_or(0);
    if sections.len() != 3 || sections.iter().sum::<i64>() != pairs {
        return Err(Error::input(format!(
            "config.json: mrope_section is {sections:?}, not three parts of {pairs} pairs"
        )));
    }
    p.i32s("rope.dimension_sections", &[sections, vec![0]].concat())
}
