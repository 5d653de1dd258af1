//! DeepSeek 1 to 3.2 and those of their form: latent attention, experts with some that all tokens share.

use std::path::Path;

use gguf::{Error, Result};
use serde_json::{Map, Value};

use crate::config::{Config, Rope};
use crate::hf::rows::llama::{head_dim, local_experts};
use crate::hf::{
    ATTENTION, ATTENTION_ROTATED, BASE, BEHIND, Class, Early, GATED, How, Modules, NORMS, NameRule, Outputs,
    PREDICTION, Params, Piece, Types, r, with_prediction,
};
use crate::tokenizer::{VocabKind, templates};
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
        early_of: Early::Class,
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
        defaults: r#"{"num_key_value_heads": 16, "rms_norm_eps": 1e-06, "max_position_embeddings": 131072,
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
        prediction: Some(BEHIND),
        prepare: with_prediction,
        keys: deepseek32,
        modules: INDEXER_IN_F32,
        remark: "V3.2; the indexer of sparse attention, layers of prediction kept",
        ..DEEPSEEK2
    },
    Class { names: &["DeepseekV4ForCausalLM"], ..DEEPSEEK4_CLASS },
];

pub(super) const DEEPSEEK4_CLASS: Class = Class {
    arch: "deepseek4",
    defaults: r#"{"swiglu_limit": 10.0, "sliding_window": 128, "index_topk": 512, "index_head_dim": 128, "index_n_heads": 64, "hc_eps": 1e-06, "hc_sinkhorn_iters": 20, "hc_mult": 4, "compress_rope_theta": 160000.0, "o_lora_rank": 1024, "o_groups": 8, "num_key_value_heads": 1, "rms_norm_eps": 1e-06, "max_position_embeddings": 1048576,
        "head_dim": 512, "hidden_size": 4096, "moe_intermediate_size": 2048, "vocab_size": 129280,
        "num_hidden_layers": 43, "num_attention_heads": 64, "q_lora_rank": 1024, "num_experts_per_tok": 6,
        "n_routed_experts": 256, "n_shared_experts": 1, "scoring_func": "sqrtsoftplus", "norm_topk_prob": true,
        "routed_scaling_factor": 1.5, "rope_parameters": {"rope_theta": 10000.0}}"#,
    aliases: &[("num_local_experts", "n_routed_experts")],
    rope: Rope::Old,
    spelling: &[DEEPSEEK4],
    unused: &["mtp.", "aligner.", "image_"],
    prepare: rotating_part,
    packing: Some("deepseek-v4"),
    types: Types::AsStored,
    file_type: Some((38, "MXFP4_MOE")),
    leading: &[
        &["blk.{}.ffn_gate_tid2eid.weight"],
        &["blk.{}.ffn_gate_exps.weight", "blk.{}.ffn_down_exps.weight", "blk.{}.ffn_up_exps.weight"],
    ],
    early: |p| {
        p.set("tokenizer.chat_template", chat_template(p.folder()));
        Ok(())
    },
    early_of: Early::Class,
    keys: deepseek4,
    modules: Modules {
        own_class: &["wo_a"],
        in_f32: &["compressor.wkv", "compressor.wgate", "indexer.weights_proj"],
        ..Modules::USUAL
    },
    remark: "V4; experts kept in MXFP4, other tensors in their own type; the layers of prediction are left out",
    ..BASE
};

/// How much of a head of V4 rotates, as its class has it: a part of the head that is stated, or follows from a number of
/// dimensions, or the usual one. That of a part of the configuration is taken as it stands.
fn rotating_part(config: &mut Config) -> Result<()> {
    const ROTATES: &str = "qk_rope_head_dim";
    const USUAL: f64 = 64.0 / 512.0;
    if !config.is_known() || config.is_wrapped() && config.get(ROTATES).is_some() {
        return Ok(());
    }
    let head = config.need_f64(&["head_dim"])?;
    let stated = config.f64("partial_rotary_factor").filter(|_| !config.is_wrapped());
    let factor = stated.or_else(|| Some(config.f64(ROTATES)? / head)).unwrap_or(USUAL);
    config.set(ROTATES, (head * factor) as u64);
    Ok(())
}

/// What the indexer's heads weigh is computed in f32.
pub(super) const INDEXER_IN_F32: Modules = Modules { in_f32: &["indexer.weights_proj"], ..Modules::USUAL };

/// Latent attention with the layers of prediction left out, from which others are made.
pub(super) const DEEPSEEK2: Class = Class {
    arch: "deepseek2",
    spelling: &[ENDS, LATENT, NORMS, GATED, EXPERTS],
    drop_further_blocks: true,
    keys: deepseek2,
    ..BASE
};

/// Token embedding, final norm, and an output head unless it is tied.
pub(super) const ENDS: &[NameRule] =
    &[r("model.embed_tokens", "token_embd"), r("model.norm", "output_norm"), r("lm_head", "output").how(How::Untied)];

/// Latent attention.
pub(super) const LATENT: &[NameRule] = &[
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
pub(super) const INDEXER: &[NameRule] = &[
    r("model.layers.{}.self_attn.indexer.k_norm", "blk.{}.indexer.k_norm"),
    r("model.layers.{}.self_attn.indexer.weights_proj", "blk.{}.indexer.proj"),
    r("model.layers.{}.self_attn.indexer.wk", "blk.{}.indexer.attn_k"),
    r("model.layers.{}.self_attn.indexer.wq_b", "blk.{}.indexer.attn_q_b"),
];

const DEEPSEEK4_EXPERTS: How = How::Stack { group: "experts", members: local_experts };

pub(super) const DEEPSEEK4: &[NameRule] = &[
    r("embed", "token_embd"),
    r("norm", "output_norm"),
    r("head", "output"),
    r("hc_head_fn", "output_hc_fn.weight"),
    r("hc_head_base", "output_hc_base.weight"),
    r("hc_head_scale", "output_hc_scale.weight"),
    r("layers.{}.hc_attn_fn", "blk.{}.hc_attn_fn.weight"),
    r("layers.{}.hc_attn_base", "blk.{}.hc_attn_base.weight"),
    r("layers.{}.hc_attn_scale", "blk.{}.hc_attn_scale.weight"),
    r("layers.{}.hc_ffn_fn", "blk.{}.hc_ffn_fn.weight"),
    r("layers.{}.hc_ffn_base", "blk.{}.hc_ffn_base.weight"),
    r("layers.{}.hc_ffn_scale", "blk.{}.hc_ffn_scale.weight"),
    r("layers.{}.attn.attn_sink", "blk.{}.attn_sinks.weight"),
    r("layers.{}.attn.wq_a", "blk.{}.attn_q_a"),
    r("layers.{}.attn.wq_b", "blk.{}.attn_q_b"),
    r("layers.{}.attn.q_norm", "blk.{}.attn_q_a_norm"),
    r("layers.{}.attn.wkv", "blk.{}.attn_kv"),
    r("layers.{}.attn.kv_norm", "blk.{}.attn_kv_a_norm"),
    r("layers.{}.attn.wo_a", "blk.{}.attn_output_a"),
    r("layers.{}.attn.wo_b", "blk.{}.attn_output_b"),
    r("layers.{}.attn.compressor.ape", "blk.{}.attn_compressor_ape.weight"),
    r("layers.{}.attn.compressor.wkv", "blk.{}.attn_compressor_kv"),
    r("layers.{}.attn.compressor.wgate", "blk.{}.attn_compressor_gate"),
    r("layers.{}.attn.compressor.norm", "blk.{}.attn_compressor_norm"),
    r("layers.{}.attn.indexer.wq_b", "blk.{}.indexer.attn_q_b"),
    r("layers.{}.attn.indexer.weights_proj", "blk.{}.indexer.proj"),
    r("layers.{}.attn.indexer.compressor.ape", "blk.{}.indexer_compressor_ape.weight"),
    r("layers.{}.attn.indexer.compressor.wkv", "blk.{}.indexer_compressor_kv"),
    r("layers.{}.attn.indexer.compressor.wgate", "blk.{}.indexer_compressor_gate"),
    r("layers.{}.attn.indexer.compressor.norm", "blk.{}.indexer_compressor_norm"),
    r("layers.{}.attn_norm", "blk.{}.attn_norm"),
    r("layers.{}.ffn_norm", "blk.{}.ffn_norm"),
    r("layers.{}.ffn.gate.bias", "blk.{}.exp_probs_b.bias").how(How::Split(scored)),
    r("layers.{}.ffn.gate.bias_vl", "blk.{}.exp_probs_b_vl.bias"),
    r("layers.{}.ffn.gate.tid2eid", "blk.{}.ffn_gate_tid2eid.weight").how(How::Split(hashed)),
    r("layers.{}.ffn.gate", "blk.{}.ffn_gate_inp"),
    r("layers.{}.ffn.experts.{x}.w1", "blk.{}.ffn_gate_exps").how(DEEPSEEK4_EXPERTS),
    r("layers.{}.ffn.experts.{x}.w2", "blk.{}.ffn_down_exps").how(DEEPSEEK4_EXPERTS),
    r("layers.{}.ffn.experts.{x}.w3", "blk.{}.ffn_up_exps").how(DEEPSEEK4_EXPERTS),
    r("layers.{}.ffn.shared_experts.w1", "blk.{}.ffn_gate_shexp"),
    r("layers.{}.ffn.shared_experts.w2", "blk.{}.ffn_down_shexp"),
    r("layers.{}.ffn.shared_experts.w3", "blk.{}.ffn_up_shexp"),
];

/// The first layers choose experts by a table of tokens; the bias of their router is of no use.
fn scored(config: &Config, piece: &Piece) -> Result<Outputs> {
    let hashed = piece.block < config.u64("num_hash_layers").unwrap_or(0);
    Ok(if hashed { Vec::new() } else { vec![(piece.to.clone(), piece.rows.clone())] })
}

/// The table of tokens, in layers that use it.
fn hashed(config: &Config, piece: &Piece) -> Result<Outputs> {
    let hashed = piece.block < config.u64("num_hash_layers").unwrap_or(0);
    Ok(if hashed { vec![(piece.to.clone(), piece.rows.clone())] } else { Vec::new() })
}

/// The template that is written where the folder has none. That of July 2026 is another one.
fn chat_template(folder: &Path) -> &'static str {
    let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    if name.contains("0731") { templates::DEEPSEEK_V4_FLASH_0731 } else { templates::DEEPSEEK_V4 }
}

/// Experts with their router and those that all tokens share.
pub(super) const EXPERTS: &[NameRule] = &[
    r("model.layers.{}.mlp.experts.{x}.down_proj", "blk.{}.ffn_down_exps").how(STACK),
    r("model.layers.{}.mlp.experts.{x}.gate_proj", "blk.{}.ffn_gate_exps").how(STACK),
    r("model.layers.{}.mlp.experts.{x}.up_proj", "blk.{}.ffn_up_exps").how(STACK),
    r("model.layers.{}.mlp.gate", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.mlp.gate.e_score_correction", "blk.{}.exp_probs_b"),
    r("model.layers.{}.mlp.shared_experts.down_proj", "blk.{}.ffn_down_shexp"),
    r("model.layers.{}.mlp.shared_experts.gate_proj", "blk.{}.ffn_gate_shexp"),
    r("model.layers.{}.mlp.shared_experts.up_proj", "blk.{}.ffn_up_shexp"),
];

pub(super) fn absorbed(config: &Config, piece: &Piece) -> Result<Outputs> {
    let (keys, values) = (config.need_u64(&["qk_nope_head_dim"])?, config.need_u64(&["v_head_dim"])?);
    absorbed_heads(piece, config.kv_heads()?, keys, values)
}

/// The second projection of keys and values: a head's keys transposed, its values as they are.
pub(super) fn absorbed_heads(piece: &Piece, heads: u64, keys: u64, head: u64) -> Result<Outputs> {
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

fn deepseek4(p: &mut Params<'_>) -> Result<()> {
    deepseek4_of_draft(p)?;
    let config = p.config();
    let (width, streams) = (config.need_u64(&["hidden_size"])?, config.need_u64(&["hc_mult"])?);
    p.u32("embedding_length_out", width.saturating_mul(streams))
}

/// The keys of V4 that its draft has too.
pub(super) fn deepseek4_of_draft(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    p.need_u32("rope.dimension_count", &["qk_rope_head_dim"])?;
    p.need_u32("attention.q_lora_rank", &["q_lora_rank"])?;
    p.need_u32("attention.sliding_window", &["sliding_window"])?;
    p.need_u32("expert_feed_forward_length", &["moe_intermediate_size"])?;
    p.need_u32("expert_shared_count", &["n_shared_experts"])?;
    p.need_f32("expert_weights_scale", &["routed_scaling_factor"])?;
    p.need_bool("expert_weights_norm", "norm_topk_prob")?;
    clamps(p, config.need_f64(&["swiglu_limit"])?)?;
    indexer(p)?;
    p.need_u32("attention.output_group_count", &["o_groups"])?;
    p.need_u32("attention.output_lora_rank", &["o_lora_rank"])?;
    p.need_i32s("attention.compress_ratios", "compress_ratios")?;
    p.need_f32("attention.compress_rope_freq_base", &["compress_rope_theta"])?;
    hyper_connections(p)?;
    p.need_u32("hash_layer_count", &["num_hash_layers"])
}

/// The bound of activations of experts, the same for all layers.
pub(super) fn clamps(p: &mut Params<'_>, limit: f64) -> Result<()> {
    let limits = vec![limit as f32; p.config().blocks()? as usize];
    p.f32s("swiglu_clamp_exp", &limits);
    p.f32s("swiglu_clamp_shexp", &limits);
    Ok(())
}

/// The keys of several residual streams.
pub(super) fn hyper_connections(p: &mut Params<'_>) -> Result<()> {
    p.need_u32("hyper_connection.count", &["hc_mult"])?;
    p.need_u32("hyper_connection.sinkhorn_iterations", &["hc_sinkhorn_iters"])?;
    p.need_f32("hyper_connection.epsilon", &["hc_eps"])
}
