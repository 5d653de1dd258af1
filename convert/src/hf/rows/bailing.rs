//! Bailing: Ling 1 and 2, Sarvam.

use gguf::{Error, Result};

use crate::config::Config;
use crate::hf::rows::deepseek::EXPERTS;
use crate::hf::rows::llama::head_dim;
use crate::hf::{BASE, Class, GATED, How, NORMS, Outputs, PREDICTION, Params, Piece, Rule, r, with_prediction};
use crate::reduce::{centered, normalized_columns};
use crate::transform::{Rows, reordered, sliced};

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
];

const BAILING_ENDS: &[Rule] = &[
    r("model.word_embeddings", "token_embd"),
    r("model.embed_tokens", "token_embd"),
    r("model.norm", "output_norm"),
    r("lm_head", "output").how(How::Change(head)),
];

const BAILING: &[Rule] = &[
    r("model.layers.{}.attention.query_key_value", "blk.{}.attn_").how(How::Split(apart)),
    r("model.layers.{}.attention.dense", "blk.{}.attn_output"),
];

const BAILING2: &[Rule] = &[
    r("model.layers.{}.attention.query_key_value", "blk.{}.attn_qkv"),
    r("model.layers.{}.attention.query_layernorm", "blk.{}.attn_q_norm"),
    r("model.layers.{}.attention.key_layernorm", "blk.{}.attn_k_norm"),
    r("model.layers.{}.attention.dense", "blk.{}.attn_output"),
    r("model.layers.{}.final_layernorm", "blk.{}.layer_output_norm"),
];

const EXPERT_BIAS: &[Rule] = &[r("model.layers.{}.mlp.gate.expert_bias", "blk.{}.exp_probs_b.bias")];

const CENTERED_BIAS: &[Rule] = &[r("model.layers.{}.mlp.gate.expert_bias", "blk.{}.exp_probs_b.bias")
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
