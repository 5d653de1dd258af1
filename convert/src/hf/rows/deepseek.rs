//! DeepSeek V2, V3 and R1: latent attention, experts with some that all tokens share.

use gguf::{Error, Result};

use crate::config::Config;
use crate::hf::rows::llama::local_experts;
use crate::hf::rows::qwen::DENSE_OR_EXPERTS;
use crate::hf::{BASE, Class, How, NORMS, Outputs, Params, Piece, Rule, r};
use crate::transform::view;

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["DeepseekV2ForCausalLM"],
        arch: "deepseek2",
        defaults: r#"{"num_key_value_heads": null, "rms_norm_eps": 1e-06, "max_position_embeddings": 2048,
            "head_dim": "computed", "hidden_size": 4096, "intermediate_size": 11008, "vocab_size": 102400,
            "first_k_dense_replace": 0, "kv_lora_rank": 512, "q_lora_rank": 1536, "n_routed_experts": 64,
            "n_shared_experts": 2, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "routed_scaling_factor": 1.0,
            "norm_topk_prob": false, "v_head_dim": 128, "moe_intermediate_size": 1407,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        spelling: DEEPSEEK,
        keys: deepseek2,
        remark: "V2, V2-Lite; latent keys and values split for absorption",
        ..BASE
    },
    Class {
        names: &["DeepseekV3ForCausalLM"],
        arch: "deepseek2",
        defaults: r#"{"num_key_value_heads": null, "rms_norm_eps": 1e-06, "max_position_embeddings": 4096,
            "head_dim": "computed", "hidden_size": 7168, "intermediate_size": 18432, "vocab_size": 129280,
            "first_k_dense_replace": 3, "kv_lora_rank": 512, "q_lora_rank": 1536, "n_routed_experts": 256,
            "n_shared_experts": 1, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "routed_scaling_factor": 2.5,
            "norm_topk_prob": true, "v_head_dim": 128, "moe_intermediate_size": 2048, "n_group": 8, "topk_group": 4,
            "num_experts_per_tok": 8, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        spelling: DEEPSEEK,
        keys: deepseek2,
        remark: "V3, R1; the layers of multi-token prediction are left out",
        ..BASE
    },
];

const DEEPSEEK: &[&[Rule]] = &[ENDS, LATENT, NORMS, DENSE_OR_EXPERTS, EXPERTS];

const ENDS: &[Rule] =
    &[r("model.embed_tokens", "token_embd"), r("model.norm", "output_norm"), r("lm_head", "output").how(How::Untied)];

pub(super) const LATENT: &[Rule] = &[
    r("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    r("model.layers.{}.self_attn.q_a_proj", "blk.{}.attn_q_a"),
    r("model.layers.{}.self_attn.q_a_layernorm", "blk.{}.attn_q_a_norm"),
    r("model.layers.{}.self_attn.q_b_proj", "blk.{}.attn_q_b"),
    r("model.layers.{}.self_attn.kv_a_proj_with_mqa", "blk.{}.attn_kv_a_mqa"),
    r("model.layers.{}.self_attn.kv_a_layernorm", "blk.{}.attn_kv_a_norm"),
    r("model.layers.{}.self_attn.kv_b_proj", "blk.{}.attn_").how(How::Split(absorbed)),
    r("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
];

const STACK: How = How::Stack { group: "experts", members: local_experts };

const EXPERTS: &[Rule] = &[
    r("model.layers.{}.mlp.experts.{x}.down_proj", "blk.{}.ffn_down_exps").how(STACK),
    r("model.layers.{}.mlp.experts.{x}.gate_proj", "blk.{}.ffn_gate_exps").how(STACK),
    r("model.layers.{}.mlp.experts.{x}.up_proj", "blk.{}.ffn_up_exps").how(STACK),
    r("model.layers.{}.mlp.gate", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.mlp.gate.e_score_correction", "blk.{}.exp_probs_b"),
    r("model.layers.{}.mlp.shared_experts.down_proj", "blk.{}.ffn_down_shexp"),
    r("model.layers.{}.mlp.shared_experts.gate_proj", "blk.{}.ffn_gate_shexp"),
    r("model.layers.{}.mlp.shared_experts.up_proj", "blk.{}.ffn_up_shexp"),
];

/// The second projection of keys and values: a head's keys transposed, its values as they are.
pub(super) fn absorbed(config: &Config, piece: &Piece) -> Result<Outputs> {
    let heads = config.kv_heads()?;
    let (keys, head) = (config.need_u64(&["qk_nope_head_dim"])?, config.need_u64(&["v_head_dim"])?);
    let &[rows, rank] = piece.rows.shape() else {
        return Err(Error::input(format!("its shape {:?} is not that of a matrix", piece.rows.shape())));
    };
    if Some(rows) != keys.checked_add(head).and_then(|n| n.checked_mul(heads)) {
        return Err(Error::input(format!("its {rows} rows are not {heads} heads of {keys} + {head}")));
    }
    let stride = (keys + head) * rank;
    let key = view(&piece.rows, vec![heads, rank, keys], 0, &[(heads, stride), (rank, 1), (keys, rank)])?;
    let value = view(&piece.rows, vec![heads, head, rank], keys * rank, &[(heads, stride), (head, rank), (rank, 1)])?;
    Ok(vec![(format!("{}k_b{}", piece.to, piece.suffix), key), (format!("{}v_b{}", piece.to, piece.suffix), value)])
}

pub(super) fn deepseek2(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    // Latent attention is attention with one head of keys and values.
    let mut shared = config.clone();
    shared.set("num_key_value_heads", 1_u64);
    p.common_of(&shared)?;
    let experts = config.u64("n_routed_experts");
    let dense = match config.u64("first_k_dense_replace") {
        Some(dense) => dense,
        None if experts.is_none() => config.blocks()?,
        None => 0,
    };
    let rank = config.u64("kv_lora_rank").unwrap_or(512);
    let rope = config.need_u64(&["qk_rope_head_dim"])?;
    p.u32("leading_dense_block_count", dense)?;
    p.need_u32("vocab_size", &["vocab_size"])?;
    p.maybe_u32("attention.q_lora_rank", &["q_lora_rank"])?;
    p.u32("attention.kv_lora_rank", rank)?;
    p.u32("attention.key_length", rank.saturating_add(rope))?;
    p.u32("attention.value_length", rank)?;
    p.u32("attention.key_length_mla", config.need_u64(&["qk_nope_head_dim"])?.saturating_add(rope))?;
    p.need_u32("attention.value_length_mla", &["v_head_dim"])?;
    p.need_u32("expert_feed_forward_length", &["moe_intermediate_size", "intermediate_size"])?;
    p.maybe_u32("expert_count", &["n_routed_experts"])?;
    p.u32("expert_shared_count", config.u64("n_shared_experts").unwrap_or(0))?;
    p.maybe_f32("expert_weights_scale", &["routed_scaling_factor"])?;
    if config.bool("norm_topk_prob") == Some(true) {
        p.set("expert_weights_norm", true);
    }
    p.u32("rope.dimension_count", rope)?;
    if let Some(scale) = config.rope().get("mscale_all_dim").and_then(serde_json::Value::as_f64) {
        p.f32("rope.scaling.yarn_log_multiplier", 0.1 * scale);
    }
    Ok(())
}
