//! MiniMax Text 01, M1, M2 and M3.

use gguf::{Error, Result};

use crate::config::Config;
use crate::hf::rows::llama::MIXTRAL_EXPERTS;
use crate::hf::{ATTENTION, BASE, Class, Contents, ENDS, HEAD_NORMS, How, NORMS, NameRule, Params, plus_one, r};
use crate::tokenizer::{VocabKind, base_size};
use crate::transform::{self, row_count, row_len, to_f32};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["MiniMaxText01ForCausalLM", "MiniMaxM1ForCausalLM"],
        arch: "minimax-01",
        vocabulary: VocabKind::MiniMaxText01,
        spelling: &[ENDS, ATTENTION, NORMS, MIXTRAL_EXPERTS, LIGHTNING],
        inspect: empty_tokens,
        keys: minimax01,
        remark: "lightning attention, full attention every few layers; experts",
        ..BASE
    },
    Class {
        names: &["MiniMaxM2ForCausalLM"],
        arch: "minimax-m2",
        defaults: r#"{"vocab_size": 200064, "hidden_size": 3072, "intermediate_size": 1536, "num_hidden_layers": 62,
            "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 196608,
            "rms_norm_eps": 1e-06, "num_experts_per_tok": 8, "num_local_experts": 256, "tie_word_embeddings": false,
            "rope_parameters": {"rope_theta": 5000000.0, "rope_type": "default"}}"#,
        aliases: &[("num_experts", "num_local_experts")],
        spelling: &[ENDS, ATTENTION, HEAD_NORMS, NORMS, MIXTRAL_EXPERTS, M2],
        keys: minimax_m2,
        remark: "experts chosen by sigmoids",
        ..BASE
    },
    Class {
        names: &["MiniMaxM3SparseForCausalLM", "MiniMaxM3SparseForConditionalGeneration"],
        arch: "minimax-m3",
        spelling: &[M3, ATTENTION, MIXTRAL_EXPERTS, M2],
        keys: minimax_m3,
        in_f32: |_, name| name.contains(".indexer.").then_some(true),
        remark: "the text model of MiniMax M3: sparse attention by blocks; norms plus 1",
        ..BASE
    },
];

const LIGHTNING: &[NameRule] = &[
    r("model.layers.{}.self_attn.qkv_proj", "blk.{}.attn_qkv"),
    r("model.layers.{}.self_attn.output_gate", "blk.{}.attn_gate"),
    r("model.layers.{}.self_attn.norm", "blk.{}.attn_norm_2"),
    r("model.layers.{}.self_attn.out_proj", "blk.{}.attn_output"),
];

const M2: &[NameRule] = &[
    r("model.layers.{}.block_sparse_moe.e_score_correction", "blk.{}.exp_probs_b"),
    r("model.layers.{}.block_sparse_moe.gate.e_score_correction", "blk.{}.exp_probs_b"),
    r("model.layers.{}.block_sparse_moe.shared_experts.down_proj", "blk.{}.ffn_down_shexp"),
    r("model.layers.{}.block_sparse_moe.shared_experts.gate_proj", "blk.{}.ffn_gate_shexp"),
    r("model.layers.{}.block_sparse_moe.shared_experts.up_proj", "blk.{}.ffn_up_shexp"),
    r("model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    r("model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    r("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
];

const NORM: How = How::MapWeight(plus_one);

const M3: &[NameRule] = &[
    r("model.embed_tokens", "token_embd"),
    r("model.norm", "output_norm").how(NORM),
    r("lm_head", "output"),
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm").how(NORM),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm").how(NORM),
    r("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm").how(NORM),
    r("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm").how(NORM),
    r("model.layers.{}.self_attn.index_q_proj", "blk.{}.indexer.q_proj"),
    r("model.layers.{}.self_attn.index_k_proj", "blk.{}.indexer.k_proj"),
    r("model.layers.{}.self_attn.index_q_norm", "blk.{}.indexer.q_norm").how(NORM),
    r("model.layers.{}.self_attn.index_k_norm", "blk.{}.indexer.k_norm").how(NORM),
];

/// Tokens beyond the tokenizer's own whose embedding is nothing but zeros must not be sampled.
fn empty_tokens(config: &mut Config, contents: &Contents<'_>) -> Result<()> {
    let Some(embedding) = contents.ending("model.embed_tokens.weight").next() else { return Ok(()) };
    let rows = transform::stored(embedding)?;
    let first = base_size(contents.folder)? as u64;
    let mut empty = Vec::new();
    for row in first..row_count(rows.shape()) {
        let values = to_f32(rows.elements(), &rows.rows(row..row + 1)?)?;
        if values.iter().all(|v| *v == 0.0) && row_len(rows.shape()) > 0 {
            empty.push(row);
        }
    }
    config.set("empty tokens", empty);
    Ok(())
}

fn minimax01(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    p.i32s("tokenizer.ggml.suppress_tokens", &config.need_list(&["empty tokens"]).unwrap_or_default())?;
    let alpha = config.need_f64(&["layernorm_full_attention_alpha"])?;
    for name in ["layernorm_linear_attention_alpha", "layernorm_mlp_alpha"] {
        if config.need_f64(&[name])? != alpha {
            return Err(Error::input(format!("config.json: {name} is not layernorm_full_attention_alpha")));
        }
    }
    for name in ["layernorm_full_attention_beta", "layernorm_linear_attention_beta", "layernorm_mlp_beta"] {
        if config.need_f64(&[name])? != 1.0 {
            return Err(Error::input(format!("config.json: {name} is not 1, the only one that is known")));
        }
    }
    p.f32("residual_scale", alpha);
    p.need_u32("rope.dimension_count", &["rotary_dim"])
}

fn minimax_m2(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.need_u32("expert_feed_forward_length", &["intermediate_size"])?;
    p.need_u32("rope.dimension_count", &["rotary_dim"])
}

fn minimax_m3(p: &mut Params<'_>) -> Result<()> {
    minimax_m2(p)?;
    let config = p.config();
    p.need_u32("expert_shared_count", &["n_shared_experts"])?;
    p.need_f32("expert_weights_scale", &["routed_scaling_factor"])?;
    p.set("expert_weights_norm", true);
    let sparse = config.get("sparse_attention_config");
    let sparse = sparse.ok_or_else(|| Error::input("config.json has no sparse_attention_config"))?;
    for (key, name) in [
        ("head_count", "sparse_num_index_heads"),
        ("key_length", "sparse_index_dim"),
        ("top_k", "sparse_topk_blocks"),
        ("block_size", "sparse_block_size"),
        ("local_blocks", "sparse_local_block"),
    ] {
        let value = sparse[name].as_u64();
        let value = value.ok_or_else(|| Error::input(format!("config.json: sparse_attention_config has no {name}")))?;
        p.u32(&format!("attention.indexer.{key}"), value)?;
    }
    let dense = config.need_list(&["moe_layer_freq"])?.iter().take_while(|has_experts| **has_experts == 0).count();
    p.u32("leading_dense_block_count", dense as u64)
}
