//! DeepSeek 1 to 3.2 and those of their form: latent attention, experts with some that all tokens share.

use gguf::{Error, Result};
use serde_json::{Map, Value};

use crate::config::Config;
use crate::hf::rows::llama::{head_dim, local_experts};
use crate::hf::{
    ATTENTION, ATTENTION_ROTATED, BASE, Class, GATED, How, NORMS, Outputs, PREDICTION, Params, Piece, Rule, r,
    with_prediction,
};
use crate::tokenizer::VocabKind;
use crate::transform::view;

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["DeepseekForCausalLM"],
        arch: "deepseek",
        vocabulary: VocabKind::SentencePieceOrGpt2,
        spelling: &[crate::hf::ENDS, ATTENTION_ROTATED, NORMS, GATED, EXPERTS],
        keys: deepseek,
        remark: "DeepSeek-MoE-16B",
        ..BASE
    },
    Class {
        names: &["DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "DeepseekOCRForCausalLM", "UnlimitedOCRForCausalLM"],
        arch: "deepseek2-ocr",
        when: is_ocr,
        spelling: &[ENDS, ATTENTION, NORMS, GATED, EXPERTS],
        unused: &["model.sam_model", "model.qwen2_model", "sam_model", "qwen2_model"],
        early: |p| {
            p.set("tokenizer.chat_template", "{% for m in messages %}{{m['content']}}{% endfor %}");
            Ok(())
        },
        keys: ocr,
        remark: "the text model of DeepSeek-OCR 1 and 2, with attention of the common kind",
        ..DEEPSEEK2
    },
    Class {
        names: &["DeepseekV2ForCausalLM"],
        defaults: r#"{"num_key_value_heads": null, "rms_norm_eps": 1e-06, "max_position_embeddings": 2048,
            "head_dim": "computed", "hidden_size": 4096, "intermediate_size": 11008, "vocab_size": 102400,
            "num_hidden_layers": 32, "num_attention_heads": 32,
            "first_k_dense_replace": 0, "kv_lora_rank": 512, "q_lora_rank": 1536, "n_routed_experts": 64,
            "n_shared_experts": 2, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "routed_scaling_factor": 1.0,
            "norm_topk_prob": false, "v_head_dim": 128, "moe_intermediate_size": 1407,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        aliases: &[("num_experts", "n_routed_experts")],
        remark: "V2, V2-Lite; latent keys and values split for absorption",
        ..DEEPSEEK2
    },
    Class {
        names: &["DeepseekV3ForCausalLM", "KimiK25ForConditionalGeneration"],
        defaults: r#"{"num_key_value_heads": 128, "rms_norm_eps": 1e-06, "max_position_embeddings": 4096,
            "head_dim": "computed", "hidden_size": 7168, "intermediate_size": 18432, "vocab_size": 129280,
            "num_hidden_layers": 61, "num_attention_heads": 128,
            "first_k_dense_replace": 3, "kv_lora_rank": 512, "q_lora_rank": 1536, "n_routed_experts": 256,
            "n_shared_experts": 1, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "routed_scaling_factor": 2.5,
            "norm_topk_prob": true, "v_head_dim": 128, "moe_intermediate_size": 2048, "n_group": 8, "topk_group": 4,
            "num_experts_per_tok": 8, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        aliases: &[("num_local_experts", "n_routed_experts"), ("num_mtp_layers", "num_nextn_predict_layers")],
        remark: "V3, R1, Kimi K2; the layers of prediction are left out",
        ..DEEPSEEK2
    },
    Class {
        names: &["KimiVLForConditionalGeneration", "YoutuVLForConditionalGeneration"],
        remark: "the text model; its configuration is read as it stands",
        ..DEEPSEEK2
    },
    Class {
        names: &["YoutuForCausalLM"],
        defaults: r#"{"num_key_value_heads": null, "rms_norm_eps": 1e-06, "max_position_embeddings": 131072,
            "head_dim": "computed", "hidden_size": 2048, "intermediate_size": 6144, "vocab_size": 128256,
            "num_hidden_layers": 32, "num_attention_heads": 16, "kv_lora_rank": 512, "q_lora_rank": 1536,
            "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "tie_word_embeddings": true,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        remark: "latent attention without experts",
        ..DEEPSEEK2
    },
    Class {
        names: &["DeepseekV32ForCausalLM"],
        arch: "deepseek32",
        defaults: r#"{"num_key_value_heads": 128, "rms_norm_eps": 1e-06, "max_position_embeddings": 163840,
            "head_dim": "computed", "hidden_size": 7168, "intermediate_size": 18432, "vocab_size": 129280,
            "num_hidden_layers": 61, "num_attention_heads": 128,
            "first_k_dense_replace": 3, "kv_lora_rank": 512, "q_lora_rank": 1536, "n_routed_experts": 256,
            "n_shared_experts": 1, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "routed_scaling_factor": 2.5,
            "norm_topk_prob": true, "v_head_dim": 128, "moe_intermediate_size": 2048, "n_group": 8, "topk_group": 4,
            "num_experts_per_tok": 8, "index_topk": 2048, "index_head_dim": 128, "index_n_heads": 64,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        aliases: &[("num_local_experts", "n_routed_experts"), ("num_experts", "n_routed_experts")],
        spelling: &[ENDS, LATENT, INDEXER, NORMS, GATED, EXPERTS, PREDICTION],
        drop_further_blocks: false,
        prepare: with_prediction,
        keys: deepseek32,
        remark: "V3.2; the indexer of sparse attention, layers of prediction kept",
        ..DEEPSEEK2
    },
];

/// Latent attention with the layers of prediction left out, from which others are made.
pub(super) const DEEPSEEK2: Class = Class {
    arch: "deepseek2",
    spelling: &[ENDS, LATENT, NORMS, GATED, EXPERTS],
    drop_further_blocks: true,
    keys: deepseek2,
    ..BASE
};

/// Token embedding, final norm, and an output head unless it is tied.
pub(super) const ENDS: &[Rule] =
    &[r("model.embed_tokens", "token_embd"), r("model.norm", "output_norm"), r("lm_head", "output").how(How::Untied)];

/// Latent attention.
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

/// The indexer of sparse attention.
pub(super) const INDEXER: &[Rule] = &[
    r("model.layers.{}.self_attn.indexer.k_norm", "blk.{}.indexer.k_norm"),
    r("model.layers.{}.self_attn.indexer.weights_proj", "blk.{}.indexer.proj"),
    r("model.layers.{}.self_attn.indexer.wk", "blk.{}.indexer.attn_k"),
    r("model.layers.{}.self_attn.indexer.wq_b", "blk.{}.indexer.attn_q_b"),
];

/// Experts with their router and those that all tokens share.
pub(super) const EXPERTS: &[Rule] = &[
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
fn absorbed(config: &Config, piece: &Piece) -> Result<Outputs> {
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

fn deepseek(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let head = head_dim(p.config())?;
    p.u32("rope.dimension_count", head)?;
    p.set("rope.scaling.type", "none");
    p.need_u32("leading_dense_block_count", &["first_k_dense_replace"])?;
    p.need_u32("vocab_size", &["vocab_size"])?;
    p.need_u32("expert_feed_forward_length", &["moe_intermediate_size"])?;
    p.f32("expert_weights_scale", 1.0);
    p.need_u32("expert_count", &["n_routed_experts"])?;
    p.need_u32("expert_shared_count", &["n_shared_experts"])
}

/// Whether the folder's own class is that of a reader of documents.
fn is_ocr(root: &Map<String, Value>) -> bool {
    let class = root.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str);
    matches!(class, Some("DeepseekOCRForCausalLM" | "DeepseekOCR2ForCausalLM" | "UnlimitedOCRForCausalLM"))
}

/// The keys of latent attention with experts.
pub(super) fn deepseek2(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    // Latent attention is attention with one head of keys and values.
    let mut shared = config.clone();
    shared.set("num_key_value_heads", 1_u64);
    let rank = config.u64("kv_lora_rank").unwrap_or(512);
    let rope = config.need_u64(&["qk_rope_head_dim"])?;
    before_attention(p, shared)?;
    p.u32("attention.kv_lora_rank", rank)?;
    p.u32("attention.key_length", rank.saturating_add(rope))?;
    p.u32("attention.value_length", rank)?;
    p.u32("attention.key_length_mla", config.need_u64(&["qk_nope_head_dim"])?.saturating_add(rope))?;
    p.need_u32("attention.value_length_mla", &["v_head_dim"])?;
    after_attention(p)?;
    p.u32("rope.dimension_count", rope)?;
    long_context(p);
    Ok(())
}

fn ocr(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    before_attention(p, config.clone())?;
    after_attention(p)?;
    p.need_u32("rope.dimension_count", &["qk_rope_head_dim"])?;
    if let Some(window) =
        ["sliding_window_size", "sliding_window"].iter().find_map(|k| config.u64(k).filter(|n| *n > 0))
    {
        p.u32("attention.sliding_window", window)?;
    }
    long_context(p);
    Ok(())
}

fn before_attention(p: &mut Params<'_>, mut changed: Config) -> Result<()> {
    let config = p.config();
    if !changed.has("rms_norm_eps") {
        changed.set("rms_norm_eps", 1e-6);
    }
    p.common_of(&changed)?;
    let dense = match config.u64("first_k_dense_replace") {
        Some(dense) => dense,
        None if config.u64("n_routed_experts").is_none() => config.layers()?,
        None => 0,
    };
    p.u32("leading_dense_block_count", dense)?;
    p.need_u32("vocab_size", &["vocab_size"])?;
    p.maybe_u32("attention.q_lora_rank", &["q_lora_rank"])
}

fn after_attention(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    p.need_u32("expert_feed_forward_length", &["moe_intermediate_size", "intermediate_size"])?;
    p.maybe_u32("expert_count", &["n_routed_experts"])?;
    p.u32("expert_shared_count", config.u64("n_shared_experts").unwrap_or(0))?;
    p.maybe_f32("expert_weights_scale", &["routed_scaling_factor"])?;
    if config.bool("norm_topk_prob") == Some(true) {
        p.set("expert_weights_norm", true);
    }
    Ok(())
}

/// The factor of YaRN, which the reference writes a tenth of.
fn long_context(p: &mut Params<'_>) {
    if let Some(scale) = p.config().rope().get("mscale_all_dim").and_then(Value::as_f64) {
        p.f32("rope.scaling.yarn_log_multiplier", 0.1 * scale);
    }
}

fn deepseek32(p: &mut Params<'_>) -> Result<()> {
    deepseek2(p)?;
    p.maybe_u32("nextn_predict_layers", &["num_nextn_predict_layers"])?;
    indexer(p)
}

/// The keys of the indexer of sparse attention.
pub(super) fn indexer(p: &mut Params<'_>) -> Result<()> {
    p.need_u32("attention.indexer.head_count", &["index_n_heads"])?;
    p.need_u32("attention.indexer.key_length", &["index_head_dim"])?;
    p.need_u32("attention.indexer.top_k", &["index_topk"])
}
