//! HunYuan and Hy: dense, with experts, with latent attention.

use gguf::{Error, Result};

use crate::config::Config;
use crate::hf::rows::deepseek::{LATENT, deepseek2};
use crate::hf::rows::llama::halves;
use crate::hf::rows::qwen::DENSE_OR_EXPERTS;
use crate::hf::{
    ATTENTION, BASE, BEHIND, Class, ENDS, ENDS_UNTIED, EXPERTS, GATED, HEAD_NORMS, How, NORMS, NameRule, Outputs,
    PREDICTION, Params, Piece, SIGMOID, r,
};
use crate::tokenizer::VocabKind;

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["HunYuanDenseV1ForCausalLM"],
        arch: "hunyuan-dense",
        spelling: &[ENDS_UNTIED, ATTENTION, NAMED_HEAD_NORMS, NORMS, GATED],
        keys: dense,
        remark: "Hunyuan dense",
        ..HUNYUAN
    },
    Class {
        names: &["HunYuanVLForConditionalGeneration"],
        arch: "hunyuan_vl",
        aliases: &[("attention_head_dim", "head_dim"), ("org_vocab_size", "vocab_size"), ("pad_id", "pad_token_id")],
        spelling: &[ENDS_UNTIED, ATTENTION, NAMED_HEAD_NORMS, NORMS, GATED],
        prepare: sections_under_their_new_name,
        keys: vision_language,
        remark: "the text model of HunyuanOCR",
        ..HUNYUAN
    },
    Class {
        names: &["HunYuanMoEV1ForCausalLM"],
        arch: "hunyuan-moe",
        aliases: &[("num_experts_per_tok", "moe_topk"), ("num_local_experts", "num_experts")],
        vocabulary: VocabKind::Gpt2,
        spelling: &[ENDS_UNTIED, ATTENTION, NAMED_HEAD_NORMS, NORMS, GATED, EXPERTS, NAMED_EXPERTS],
        keys: experts,
        late: |_| Ok(()),
        remark: "Hunyuan with experts and one that all tokens share",
        ..HUNYUAN
    },
    Class {
        names: &["HYV3ForCausalLM"],
        arch: "hy_v3",
        defaults: r#"{"vocab_size": 120832, "hidden_size": 4096, "intermediate_size": 13312, "num_hidden_layers": 80,
            "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-05, "num_experts": 192, "num_experts_per_tok": 8, "num_shared_experts": 1,
            "moe_intermediate_size": 1536, "router_scaling_factor": 2.826, "tie_word_embeddings": false,
            "rope_parameters": {"rope_theta": 11158840.0, "rope_type": "default"}}"#,
        aliases: &[("num_local_experts", "num_experts")],
        spelling: &[ENDS, ATTENTION, HEAD_NORMS, NORMS, DENSE_OR_EXPERTS, EXPERTS, NAMED_EXPERTS, PREDICTION],
        prediction: Some(BEHIND),
        prepare: next_token_layers,
        rename: last_norm_of_next_token,
        keys: hy_v3,
        remark: "Hy 3: experts chosen by sigmoids; layers of multi-token prediction",
        ..BASE
    },
    Class {
        names: &["HYV4ForCausalLM"],
        arch: "hy_v4",
        defaults: r#"{"vocab_size": 120832, "hidden_size": 2816, "intermediate_size": 6912, "moe_intermediate_size": 768,
            "num_hidden_layers": 34, "num_attention_heads": 32, "num_key_value_heads": null,
            "max_position_embeddings": 262144, "rms_norm_eps": 1e-05, "n_routed_experts": 256, "n_shared_experts": 1,
            "num_experts_per_tok": 8, "routed_scaling_factor": 2.827, "norm_topk_prob": true, "n_group": 1,
            "topk_group": 1, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64,
            "v_head_dim": 256, "index_topk": 2048, "index_head_dim": 128, "index_n_heads": 16, "hc_mult": 4,
            "hc_magnitude": 2.0, "hc_eps": 1e-06, "swiglu_limit": 10.0, "tie_word_embeddings": false,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        aliases: &[("num_local_experts", "n_routed_experts")],
        unused: &["model.mtp_layers."],
        spelling: &[ENDS_UNTIED, LATENT, NORMS, DENSE_OR_EXPERTS, HY_V4],
        prepare: hy_v4_layers,
        keys: hy_v4,
        // llama.cpp rotates pairs of neighbours of the same rows.
        beyond: |_| vec![("rope.interleaved", false.into())],
        in_f32: |config, name| {
            let head = name == "output.weight" && config.bool("enable_lm_head_fp32") == Some(true);
            (head || HYPER_CONNECTIONS.iter().any(|end| name.ends_with(end))).then_some(true)
        },
        remark: "Hy 4: latent attention with an indexer, hyper-connections; layers of multi-token prediction are left out",
        ..BASE
    },
];

const HUNYUAN: Class = Class {
    defaults: r#"{"vocab_size": 290943, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": null, "max_position_embeddings": 2048, "rms_norm_eps": 1e-05,
        "eod_token_id": 3, "tie_word_embeddings": false,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
    vocabulary: VocabKind::HunYuan,
    late: ends_of_text,
    ..BASE
};

const NAMED_HEAD_NORMS: &[NameRule] = &[
    r("model.layers.{}.self_attn.query_layernorm", "blk.{}.attn_q_norm"),
    r("model.layers.{}.self_attn.key_layernorm", "blk.{}.attn_k_norm"),
];

const NAMED_EXPERTS: &[NameRule] = &[
    r("model.layers.{}.mlp.gate.wg", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.mlp.router.gate", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.mlp.expert_bias", "blk.{}.exp_probs_b"),
    r("model.layers.{}.mlp.shared_mlp.down_proj", "blk.{}.ffn_down_shexp"),
    r("model.layers.{}.mlp.shared_mlp.gate_proj", "blk.{}.ffn_gate_shexp"),
    r("model.layers.{}.mlp.shared_mlp.up_proj", "blk.{}.ffn_up_shexp"),
];

const HYPER_CONNECTIONS: &[&str] = &["hc_attn_fn.weight", "hc_ffn_fn.weight", "output_hc_fn.weight"];

const HY_V4: &[NameRule] = &[
    r("model.hc_head.hc_head_fn", "output_hc_fn.weight"),
    r("model.hc_head.hc_head_base", "output_hc_base.weight"),
    r("model.hc_head.hc_head_scale", "output_hc_scale.weight"),
    r("model.layers.{}.hc_attn_layer.hc_pre.hc_fn", "blk.{}.hc_attn_fn.weight"),
    r("model.layers.{}.hc_attn_layer.hc_pre.hc_base", "blk.{}.hc_attn_base.weight"),
    r("model.layers.{}.hc_attn_layer.hc_pre.hc_scale", "blk.{}.hc_attn_scale.weight"),
    r("model.layers.{}.hc_mlp_layer.hc_pre.hc_fn", "blk.{}.hc_ffn_fn.weight"),
    r("model.layers.{}.hc_mlp_layer.hc_pre.hc_base", "blk.{}.hc_ffn_base.weight"),
    r("model.layers.{}.hc_mlp_layer.hc_pre.hc_scale", "blk.{}.hc_ffn_scale.weight"),
    r("model.layers.{}.self_attn.learnable_sink_param", "blk.{}.attn_sinks.weight"),
    r("model.layers.{}.self_attn.linear_gate", "blk.{}.attn_gate"),
    r("model.layers.{}.self_attn.indexer.k_norm", "blk.{}.indexer.k_norm"),
    r("model.layers.{}.self_attn.indexer.weights_proj", "blk.{}.indexer.proj"),
    r("model.layers.{}.self_attn.indexer.wk", "blk.{}.indexer.attn_k"),
    r("model.layers.{}.self_attn.indexer.wq_b", "blk.{}.indexer.attn_q_b"),
    r("model.layers.{}.mlp.gate", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.mlp.gate.e_score_correction", "blk.{}.exp_probs_b"),
    r("model.layers.{}.mlp.experts.down_proj", "blk.{}.ffn_down_exps.weight"),
    r("model.layers.{}.mlp.experts.gate_up_proj", "blk.{}.ffn_").how(How::Split(fused_experts)),
    r("model.layers.{}.mlp.shared_experts.down_proj", "blk.{}.ffn_down_shexp"),
    r("model.layers.{}.mlp.shared_experts.gate_proj", "blk.{}.ffn_gate_shexp"),
    r("model.layers.{}.mlp.shared_experts.up_proj", "blk.{}.ffn_up_shexp"),
];

fn fused_experts(_: &Config, piece: &Piece) -> Result<Outputs> {
    let name = |kind: &str| format!("{}{kind}_exps.weight", piece.to);
    halves(&piece.rows, name("gate"), name("up"))
}

/// The end of text is what the configuration calls the end of a document, that of a turn the first of several ends.
fn ends_of_text(p: &mut Params<'_>) -> Result<()> {
    if let Some(end) = p.config().u64("eod_token_id") {
        p.u32("tokenizer.ggml.eos_token_id", end)?;
    }
    let generation = crate::json::read_optional(&p.folder().join("generation_config.json"))?.unwrap_or_default();
    if let Some([first, _, ..]) = generation["eos_token_id"].as_array().map(Vec::as_slice)
        && let Some(first) = first.as_u64()
    {
        p.u32("tokenizer.ggml.eot_token_id", first)?;
    }
    Ok(())
}

/// The longest context of models whose base was stretched by a factor; configurations state a shorter one.
const STRETCHED: u64 = 256 * 1024;

/// The base of rotation, stretched for a longer context.
fn stretched_base(config: &Config, alpha: f64, dimensions: u64) -> f64 {
    let alpha = config.rope_f64("alpha").unwrap_or(alpha);
    let base = config.rope_f64("rope_theta").unwrap_or(10000.0);
    let dimensions = dimensions as f64;
    base * alpha.powf(dimensions / (dimensions - 2.0))
}

fn unscaled(p: &mut Params<'_>, base: f64) {
    p.f32("rope.freq_base", base);
    p.set("rope.scaling.type", "none");
    p.f32("rope.scaling.factor", 1.0);
}

fn stretched_context(p: &mut Params<'_>) -> Result<()> {
    p.u32("rope.scaling.original_context_length", STRETCHED)?;
    p.u32("context_length", STRETCHED)?;
    let (base, longest) = (p.config().rope_f64("rope_theta"), p.config().u64("max_position_embeddings"));
    if base.unwrap_or(10000.0) != 10000.0 || !matches!(longest, Some(32_768 | STRETCHED)) {
        return Err(Error::input("config.json: dynamic rope scaling with this rope_theta or context is not known"));
    }
    Ok(())
}

/// The keys of all, without a number of experts: some dense models state one.
fn without_experts(p: &mut Params<'_>) -> Result<()> {
    let mut config = p.config().clone();
    config.remove("num_experts");
    p.common_of(&config)
}

fn dense(p: &mut Params<'_>) -> Result<()> {
    without_experts(p)?;
    if p.config().rope_type() != "dynamic" {
        return Ok(());
    }
    let base = stretched_base(p.config(), 50.0, p.config().need_u64(&["head_dim"])?);
    unscaled(p, base);
    stretched_context(p)
}

/// transformers reads `xdrope_section` as `mrope_section`, which all classes write among their first keys.
fn sections_under_their_new_name(config: &mut Config) -> Result<()> {
    if let (Some(sections), None) = (config.rope().get("xdrope_section").cloned(), config.rope().get("mrope_section")) {
        config.set_rope("mrope_section", sections);
    }
    Ok(())
}

/// Rotation in several dimensions is told by its sections.
fn vision_language(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    let sections = config.rope().get("mrope_section").or_else(|| config.rope().get("xdrope_section")).cloned();
    let kind = config.rope_type();
    if !(kind == "xdrope" || kind == "dynamic" && sections.is_some()) {
        return dense(p);
    }
    without_experts(p)?;
    let number = |key: &str| {
        config.rope_f64(key).ok_or_else(|| Error::input(format!("config.json: the rope parameters have no {key}")))
    };
    unscaled(p, number("rope_theta")?);
    p.f32("rope.scaling.factor", config.rope_f64("factor").unwrap_or(1.0));
    let longest = config.need_u64(&["max_position_embeddings"])?;
    p.f32("rope.scaling.alpha", number("alpha")?);
    p.u32("rope.scaling.original_context_length", longest)?;
    p.u32("context_length", longest)?;
    let sections: Option<Vec<u64>> =
        sections.as_ref().and_then(|s| s.as_array()?.iter().map(serde_json::Value::as_u64).collect());
    let sections = sections.ok_or_else(|| Error::input("config.json: the rope parameters have no sections"))?;
    p.i32s("rope.dimension_sections", &sections)
}

/// A number that is the same for every layer.
fn same_in_all(config: &Config, name: &str) -> Result<u64> {
    let list = config.need_list(&[name])?;
    match list.split_first() {
        Some((first, rest)) if rest.iter().all(|n| n == first) => Ok(*first),
        _ => Err(Error::input(format!("config.json: {name} is not the same number for every layer"))),
    }
}

fn experts(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    p.need_u32("expert_shared_feed_forward_length", &["intermediate_size"])?;
    p.u32("expert_feed_forward_length", same_in_all(config, "moe_intermediate_size")?)?;
    p.u32("expert_used_count", same_in_all(config, "moe_topk")?)?;
    p.u32("expert_shared_count", same_in_all(config, "num_shared_expert")?)?;
    if config.rope_type() != "dynamic" {
        return Ok(());
    }
    let dimensions = config.need_u64(&["hidden_size"])? / config.heads()?;
    if config.rope_f64("alpha").unwrap_or(1000.0) != 1000.0 || dimensions != 128 {
        return Err(Error::input("config.json: dynamic rope scaling with this alpha or width of heads is not known"));
    }
    unscaled(p, stretched_base(config, 1000.0, dimensions));
    stretched_context(p)
}

/// Layers of multi-token prediction follow the others.
pub(super) fn next_token_layers(config: &mut Config) -> Result<()> {
    let more = config.u64("num_nextn_predict_layers").unwrap_or(0);
    config.set_blocks(config.layers()?.saturating_add(more));
    Ok(())
}

/// Whether a tensor is of a layer of multi-token prediction that follows the others.
pub(super) fn is_of_next_token(config: &Config, name: &str) -> bool {
    let block = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse::<u64>().ok());
    block.zip(config.layers().ok()).is_some_and(|(block, layers)| block >= layers)
}

fn last_norm_of_next_token(config: &Config, name: &str) -> Option<String> {
    let next = is_of_next_token(config, name);
    Some(if next { name.replace(".final_layernorm.", ".shared_head.norm.") } else { name.to_owned() })
}

fn hy_v3(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    let width = config.need_u64(&["moe_intermediate_size"])?;
    p.u32("expert_feed_forward_length", width)?;
    let shared = config.u64("num_shared_experts").unwrap_or(1);
    p.u32("expert_shared_feed_forward_length", width.saturating_mul(shared))?;
    p.set("expert_weights_norm", config.bool("route_norm").unwrap_or(true));
    p.f32("expert_weights_scale", config.f64("router_scaling_factor").unwrap_or(1.0));
    p.set("expert_gating_func", SIGMOID);
    match config.u64("num_nextn_predict_layers") {
        Some(layers) if layers > 0 => p.u32("nextn_predict_layers", layers),
        _ => Ok(()),
    }
}

fn hy_v4_layers(config: &mut Config) -> Result<()> {
    // Latent attention has keys and values for every head, whatever the configuration says.
    config.set("num_key_value_heads", config.heads()?);
    config.set("head_dim", config.need_u64(&["qk_rope_head_dim"])?);
    if config.get("indexer_types").is_none() && (config.is_known() || config.get("layer_types").is_none()) {
        let kinds = (0..config.layers()?).map(|i| if i == 0 || i % 4 == 1 { "full" } else { "shared" });
        config.set("indexer_types", kinds.collect::<Vec<_>>());
    }
    Ok(())
}

/// Layers before the first with experts.
pub(super) fn leading_dense(config: &Config) -> Option<u64> {
    let kinds = config.get("mlp_layer_types")?.as_array()?;
    Some(kinds.iter().take_while(|kind| *kind == "dense").count() as u64)
}

fn hy_v4(p: &mut Params<'_>) -> Result<()> {
    let mut config = p.config().clone();
    // One group is no grouping.
    if config.u64("n_group") == Some(1) && config.u64("topk_group") == Some(1) {
        config.remove("n_group");
        config.remove("topk_group");
    }
    let derived = leading_dense(&config);
    match (config.u64("first_k_dense_replace"), derived) {
        (Some(stated), Some(derived)) if stated != derived => {
            let what = format!("first_k_dense_replace is {stated}, mlp_layer_types begins with {derived} dense layers");
            return Err(Error::input(format!("config.json: {what}")));
        }
        (None, derived) => config.set("first_k_dense_replace", derived.unwrap_or(1)),
        _ => {}
    }
    p.with(&config, deepseek2)?;
    p.set("expert_gating_func", SIGMOID);
    if let Some(limit) = config.f64("swiglu_limit").filter(|limit| *limit > 0.0) {
        p.f32s("swiglu_clamp_exp", &vec![limit as f32; config.blocks()? as usize]);
    }
    p.need_u32("hyper_connection.count", &["hc_mult"])?;
    p.need_f32("hyper_connection.epsilon", &["hc_eps"])?;
    p.need_f32("hyper_connection.magnitude", &["hc_magnitude"])?;
    let layers = config.layers()? as usize;
    let owners: Vec<bool> = match config.get("indexer_types").and_then(serde_json::Value::as_array) {
        Some(kinds) => kinds.iter().take(layers).map(|kind| kind == "full").collect(),
        None => {
            let sparse = |kind: &serde_json::Value| kind == "sparse_attention" || kind == "deepseek_sparse_attention";
            let kinds = config.get("layer_types").and_then(serde_json::Value::as_array);
            let owners: Vec<bool> = kinds.into_iter().flatten().take(layers).map(sparse).collect();
            if !owners.contains(&true) {
                return Ok(());
            }
            owners
        }
    };
    if owners.len() != layers || config.get("indexer_types").is_some() && owners.first() == Some(&false) {
        return Err(Error::input("config.json: indexer_types does not say for each layer whose indexer it uses"));
    }
    p.need_u32("attention.indexer.head_count", &["index_n_heads"])?;
    p.need_u32("attention.indexer.key_length", &["index_head_dim"])?;
    p.need_u32("attention.indexer.top_k", &["index_topk"])?;
    p.bools("attention.indexer.types", &owners);
    Ok(())
}
