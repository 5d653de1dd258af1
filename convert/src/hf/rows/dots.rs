//! dots: dots.llm1 and dots3-note.

use gguf::{Error, Result};
use serde_json::Value;

use crate::Part;
use crate::config::Config;
use crate::hf::rows::deepseek::{self, DEEPSEEK2, EXPERTS, INDEXER, absorbed_heads, deepseek2, indexer};
use crate::hf::rows::qwen::{FUSED_EXPERTS, qwen_moe};
use crate::hf::{
    ATTENTION, BASE, BEHIND, Class, Contents, ENDS, GATED, HEAD_NORMS, How, NORMS, NameRule, Outputs, PREDICTION,
    Params, Piece, Prediction, r,
};
use crate::tokenizer::VocabKind;
use crate::transform::{Rows, mapped};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["Dots1ForCausalLM"],
        arch: "dots1",
        defaults: r#"{"num_key_value_heads": 32, "rms_norm_eps": 1e-06, "max_position_embeddings": 2048,
        "hidden_size": 4608, "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_hidden_layers": 62,
        "num_attention_heads": 32, "vocab_size": 152064, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 0,
        "norm_topk_prob": false, "routed_scaling_factor": 1.0,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        aliases: &[("num_local_experts", "n_routed_experts")],
        spelling: &[ENDS, ATTENTION, HEAD_NORMS, NORMS, GATED, EXPERTS, FUSED_EXPERTS],
        keys: dots1,
        remark: "dots.llm1",
        ..BASE
    },
    Class {
        names: &["Dots3NoteForCausalLM", "Dots3NoteForConditionalGeneration", "Dots3NoteTextForCausalLM"],
        arch: "dots3note",
        vocabulary: VocabKind::Dots3,
        spelling: &[deepseek::ENDS, DOTS3, NORMS, GATED, EXPERTS, INDEXER, PREDICTION],
        prefixes: &[("model.mtp.embed_tokens.", "model.layers.{*}.embed_tokens.")],
        unused: &["vision_encoder.", "audio_encoder."],
        drop_further_blocks: false,
        prepare: checked,
        prediction: Some(Prediction { beginnings: &["model.mtp."], ..BEHIND }),
        inspect: with_stored_prediction,
        keys: dots3,
        remark: "the text model; two kinds of latent attention, one of them sliding; the block of prediction kept",
        ..DEEPSEEK2
    },
];

const DOTS3: &[NameRule] = &[
    r("model.layers.{}.self_attn.q_a_proj", "blk.{}.attn_q_a"),
    r("model.layers.{}.self_attn.q_a_layernorm", "blk.{}.attn_q_a_norm")
        .how(How::Change(|c, p| rescaled(c, p, c.need_u64(&["q_lora_rank"])?))),
    r("model.layers.{}.self_attn.q_b_proj", "blk.{}.attn_q_b"),
    r("model.layers.{}.self_attn.kv_a_proj_with_mqa", "blk.{}.attn_kv_a_mqa"),
    r("model.layers.{}.self_attn.kv_a_layernorm", "blk.{}.attn_kv_a_norm").how(How::Change(|c, p| {
        let rank = if slides(c, p.block) { "swa_kv_lora_rank" } else { "kv_lora_rank" };
        rescaled(c, p, c.need_u64(&[rank])?)
    })),
    r("model.layers.{}.self_attn.kv_b_proj", "blk.{}.attn_").how(How::Split(absorbed)),
    r("model.layers.{}.self_attn.k_rope_only_layernorm", "blk.{}.attn_k_norm"),
    r("model.layers.{}.self_attn.g_proj", "blk.{}.attn_gate"),
    r("model.layers.{}.self_attn.gate_proj", "blk.{}.attn_gate"),
    r("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
];

/// Whether a layer's attention slides. That of the block of prediction does.
fn slides(config: &Config, block: u64) -> bool {
    let types = config.get("layer_types").and_then(|t| t.get(block as usize));
    block >= config.layers().unwrap_or(0) || types.is_some_and(|t| t == "sliding_attention")
}

/// Norms of latent queries, keys and values, with the scale that the model applies after them.
fn rescaled(config: &Config, piece: &Piece, rank: u64) -> Result<Rows> {
    if config.bool("apply_mla_qkv_lora_rescale") != Some(true) || piece.suffix != ".weight" {
        return Ok(piece.rows.clone());
    }
    let factor = (config.need_f64(&["hidden_size"])? / rank as f64).sqrt() as f32;
    Ok(mapped(&piece.rows, move |v| v * factor))
}

fn absorbed(config: &Config, piece: &Piece) -> Result<Outputs> {
    let names = if slides(config, piece.block) {
        ["swa_num_attention_heads", "swa_qk_nope_head_dim", "swa_v_head_dim"]
    } else {
        ["num_attention_heads", "qk_nope_head_dim", "v_head_dim"]
    };
    let [heads, keys, values] = names.map(|name| config.need_u64(&[name]));
    absorbed_heads(piece, heads?, keys?, values?)
}

/// Refuses by name what the format has no key for.
fn checked(config: &mut Config) -> Result<()> {
    config.remove("head_dim");
    let yes = Value::Bool(true);
    for (name, absent, known) in [
        ("use_dsa", true, yes.clone()),
        ("normalization", true, "RMSNorm".into()),
        ("final_norm", true, "RMSNorm".into()),
        ("k_rope_only_layernorm", true, yes),
        ("topk_method", true, "noaux_tc".into()),
        ("scoring_func", false, "sigmoid".into()),
        ("n_group", true, 1.into()),
        ("topk_group", true, 1.into()),
        ("use_dynamic_rsf", true, false.into()),
        ("moe_gating_fp32", true, false.into()),
        ("attention_gate_type", true, "headwise".into()),
        ("swa_attention_gate_type", true, "headwise".into()),
    ] {
        let right = config.get(name).map_or(absent, |v| *v == known);
        if !right {
            let stated = config.get(name).cloned().unwrap_or_default();
            return Err(Error::input(format!("config.json: {name} is {stated}, and dots3note knows {known} alone")));
        }
    }
    let of = |name: &str| config.need_u64(&[name]);
    let (rope, ranks) = (of("swa_qk_rope_head_dim")?, (of("swa_q_lora_rank")?, of("q_lora_rank")?));
    let whole = of("swa_qk_nope_head_dim")?.saturating_add(rope) == config.u64("swa_head_dim").unwrap_or(256);
    if !whole || rope != of("qk_rope_head_dim")? || ranks.0 != ranks.1 {
        return Err(Error::input(
            "config.json: swa_head_dim, swa_qk_rope_head_dim and swa_q_lora_rank do not fit those of full attention",
        ));
    }
    let listed = config.get("layer_types").and_then(Value::as_array).map_or(0, Vec::len) as u64;
    if listed < config.layers()? {
        return Err(Error::input("config.json: layer_types is shorter than num_hidden_layers"));
    }
    Ok(())
}

/// The number of blocks of prediction where a file says it.
pub(crate) const PREDICTION_BLOCK: &str = "blocks of prediction";

/// The configuration does not say that there is a block of prediction; its embedding does.
fn with_stored_prediction(config: &mut Config, contents: &Contents<'_>) -> Result<()> {
    let kept = config.part() != Part::Trunk;
    let stored = contents.tensors.iter().any(|t| t.name().ends_with("model.mtp.embed_tokens.weight"));
    if kept && (stored || config.has(PREDICTION_BLOCK)) {
        config.set_blocks(config.layers()?.saturating_add(1));
    }
    Ok(())
}

fn dots3(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    let (layers, blocks) = (config.layers()?, config.blocks()?);
    let (few, many) = (config.need_u64(&["swa_num_attention_heads"])?, config.need_u64(&["num_attention_heads"])?);
    deepseek2(p)?;
    let heads: Vec<i64> = (0..blocks).map(|i| (if slides(config, i) { few } else { many }) as i64).collect();
    p.i32s("attention.head_count", &heads)?;
    let (rank, rope) = (config.need_u64(&["swa_kv_lora_rank"])?, config.need_u64(&["swa_qk_rope_head_dim"])?);
    let pattern: Vec<bool> = (0..layers).map(|i| slides(config, i)).collect();
    p.need_u32("attention.sliding_window", &["sliding_window_size"])?;
    p.sliding_pattern(&pattern);
    p.u32("attention.kv_lora_rank_swa", rank)?;
    p.u32("attention.key_length_swa", rank.saturating_add(rope))?;
    p.u32("attention.value_length_swa", rank)?;
    p.u32("attention.key_length_mla_swa", config.need_u64(&["swa_qk_nope_head_dim"])?.saturating_add(rope))?;
    p.need_u32("attention.value_length_mla_swa", &["swa_v_head_dim"])?;
    if blocks > layers {
        p.u32("nextn_predict_layers", blocks - layers)?;
    }
    indexer(p)?;
    p.bools("attention.indexer.types", &pattern.iter().map(|s| !s).collect::<Vec<bool>>());
    Ok(())
}

fn dots1(p: &mut Params<'_>) -> Result<()> {
    qwen_moe(p)?;
    p.need_u32("leading_dense_block_count", &["first_k_dense_replace"])?;
    p.need_u32("expert_shared_count", &["n_shared_experts"])?;
    p.need_f32("expert_weights_scale", &["routed_scaling_factor"])?;
    p.need_bool("expert_weights_norm", "norm_topk_prob")
}
