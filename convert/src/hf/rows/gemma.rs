//! Gemma 1 to 4. Norms of the first three store their distance from 1.

use std::path::Path;

use gguf::{Error, Result};
use serde_json::{Map, Value, json};

use crate::config::{Config, Rope, as_u64};
use crate::hf::{
    ATTENTION, BARE, BASE, Class, Contents, GATED, How, Modules, NameRule, Outputs, Params, Piece, plus_one, r,
};
use crate::modules;
use crate::safetensors::{self, Stored};
use crate::tokenizer::VocabKind;
use crate::transform::{Rows, padded, values};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["GemmaForCausalLM"],
        arch: "gemma",
        defaults: r#"{"num_key_value_heads": 16, "rms_norm_eps": 1e-06, "max_position_embeddings": 8192, "head_dim": 256,
            "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28, "num_attention_heads": 16,
            "vocab_size": 256000}"#,
        vocabulary: VocabKind::Gemma,
        spelling: &[GEMMA_ENDS, ATTENTION, GEMMA_NORMS, GATED],
        keys: gemma,
        remark: "norms plus 1",
        ..BASE
    },
    Class {
        names: &["Gemma2ForCausalLM"],
        arch: "gemma2",
        defaults: r#"{"num_key_value_heads": 4, "rms_norm_eps": 1e-06, "max_position_embeddings": 8192, "head_dim": 256,
            "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
            "vocab_size": 256000, "sliding_window": 4096, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}"#,
        vocabulary: VocabKind::Gemma2,
        spelling: &[GEMMA_ENDS, ATTENTION, FOUR_NORMS, GATED],
        keys: gemma2,
        remark: "norms plus 1; capped logits; every other layer slides",
        ..BASE
    },
    Class {
        names: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
        arch: "gemma3",
        defaults: r#"{"num_key_value_heads": 4, "rms_norm_eps": 1e-06, "max_position_embeddings": 131072, "head_dim": 256,
            "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
            "vocab_size": 262208, "sliding_window": 4096, "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 1000000.0}}}"#,
        rope: Rope::GEMMA,
        vocabulary: VocabKind::Gemma3,
        spelling: &[GEMMA3_ENDS, ATTENTION, FOUR_NORMS, GEMMA_HEAD_NORMS, GATED],
        keys: gemma3,
        cut_embedding: true,
        remark: "norms plus 1; two rotations; the text model of the multi-modal ones",
        ..BASE
    },
    Class {
        names: &["Gemma3TextModel"],
        arch: "gemma-embedding",
        // The window is read as the folder states it: the configuration class halves it.
        defaults: r#"{"num_key_value_heads": 4, "rms_norm_eps": 1e-06, "max_position_embeddings": 131072, "head_dim": 256,
            "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
            "vocab_size": 262208, "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 1000000.0}}}"#,
        rope: Rope::GEMMA,
        vocabulary: VocabKind::Gemma3,
        spelling: &[GEMMA3_ENDS, ATTENTION, FOUR_NORMS, GEMMA_HEAD_NORMS, GATED, DENSE_LAYERS],
        prefixes: BARE,
        inspect: dense_modules,
        beside: dense_weights,
        keys: embedding,
        cut_embedding: true,
        remark: "EmbeddingGemma",
        ..BASE
    },
    Class {
        names: &["Gemma3nForCausalLM", "Gemma3nForConditionalGeneration"],
        arch: "gemma3n",
        defaults: r#"{"vocab_size_per_layer_input": 262144, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "max_position_embeddings": 32768, "head_dim": 256,
            "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 35, "num_attention_heads": 8,
            "vocab_size": 262400, "sliding_window": 512, "final_logit_softcapping": 30.0,
            "hidden_size_per_layer_input": 256, "altup_active_idx": 0, "altup_num_inputs": 4, "num_kv_shared_layers": 15,
            "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 1000000.0}}}"#,
        rope: Rope::GEMMA,
        vocabulary: VocabKind::Gemma3,
        spelling: &[GEMMA3N, PLAIN_NORMS, ATTENTION, GATED, PER_LAYER],
        prepare: each_layer,
        keys: gemma3n,
        modules: Modules {
            last: &["embed_audio.embedding_projection", "altup_unembed_projections.{}"],
            ..Modules::USUAL
        },
        remark: "the text model; alternating updates, low-rank residuals, an embedding for each layer",
        ..BASE
    },
    Class {
        names: &["Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"],
        remark: "the text model; heads of two sizes, experts beside a dense feed-forward",
        ..GEMMA4
    },
    Class {
        names: &["Gemma4UnifiedForConditionalGeneration"],
        defaults: r#"{"num_key_value_heads": 4, "rms_norm_eps": 1e-06, "max_position_embeddings": 262144, "head_dim": 256,
            "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 30, "num_attention_heads": 8,
            "vocab_size": 262144, "sliding_window": 1024, "num_kv_shared_layers": 0, "use_double_wide_mlp": false,
            "attention_k_eq_v": false, "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0}}}"#,
        keys: unified,
        remark: "the text model; tokens that are never sampled",
        ..GEMMA4
    },
    Class {
        names: &["Gemma4AssistantForCausalLM", "Gemma4UnifiedAssistantForCausalLM"],
        arch: "gemma4-assistant",
        spelling: &[ASSISTANT, PLAIN_NORMS, ATTENTION, GATED],
        unused: &["masked_embedding", "model.masked_embedding"],
        prepare: |config| {
            two_sizes(config)?;
            if config.u64("num_kv_shared_layers").unwrap_or(0) == 0 {
                config.set("num_kv_shared_layers", config.layers()?);
            }
            Ok(())
        },
        keys: assistant,
        modules: Modules { last: &["post_projection"], ..Modules::USUAL },
        remark: "drafts for Gemma 4, which lends it keys and values",
        ..GEMMA4
    },
];

const GEMMA4: Class = Class {
    arch: "gemma4",
    defaults: r#"{"num_key_value_heads": 4, "rms_norm_eps": 1e-06, "max_position_embeddings": 131072, "head_dim": 256,
        "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 30, "num_attention_heads": 8,
        "vocab_size": 262144, "sliding_window": 512, "hidden_size_per_layer_input": 256, "num_kv_shared_layers": 0,
        "use_double_wide_mlp": false, "attention_k_eq_v": false, "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0}}}"#,
    rope: Rope::Stated,
    vocabulary: VocabKind::Gemma4,
    spelling: &[GEMMA4_RULES, PLAIN_NORMS, ATTENTION, GATED, PER_LAYER],
    prepare: two_sizes,
    keys: gemma4,
    modules: Modules {
        linear: &["router.proj"],
        last: &["embed_audio.embedding_projection", "embed_vision.embedding_projection"],
        ..Modules::USUAL
    },
    generated: rotated_part,
    cut_embedding: true,
    ..BASE
};

/// Layers behind the pooling.
const DENSE_LAYERS: &[NameRule] = &[r("dense_2", "dense_2"), r("dense_3", "dense_3")];

const PLAIN_NORMS: &[NameRule] = &[
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm"),
    r("model.layers.{}.pre_feedforward_layernorm", "blk.{}.ffn_norm"),
    r("model.layers.{}.post_feedforward_layernorm", "blk.{}.post_ffw_norm"),
    r("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"),
    r("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"),
];

/// Embeddings of tokens for each layer.
const PER_LAYER: &[NameRule] = &[
    r("model.per_layer_model_projection", "per_layer_model_proj"),
    r("model.per_layer_projection_norm", "per_layer_proj_norm"),
    r("model.layers.{}.per_layer_input_gate", "blk.{}.inp_gate"),
    r("model.layers.{}.per_layer_projection", "blk.{}.proj"),
    r("model.layers.{}.post_per_layer_input_norm", "blk.{}.post_norm"),
];

const GEMMA3N: &[NameRule] = &[
    r("model.embed_tokens", "token_embd").how(How::Change(whole_vocabulary)),
    r("model.embed_tokens_per_layer", "per_layer_token_embd").how(How::Change(whole_vocabulary)),
    r("model.norm", "output_norm"),
    r("lm_head", "output"),
    r("model.altup_projections.{x}", "altup_proj").how(How::Stack { group: "altup in", members: further_inputs }),
    r("model.altup_unembed_projections.{x}", "altup_unembd_proj")
        .how(How::Stack { group: "altup out", members: further_inputs }),
    r("model.layers.{}.altup.correct_output_scale", "blk.{}.altup_correct_scale.weight"),
    r("model.layers.{}.altup.correction_coefs", "blk.{}.altup_correct_coef"),
    r("model.layers.{}.altup.prediction_coefs", "blk.{}.altup_predict_coef"),
    r("model.layers.{}.altup.modality_router", "blk.{}.altup_router"),
    r("model.layers.{}.altup.router_norm", "blk.{}.altup_router_norm"),
    r("model.layers.{}.laurel.linear_left", "blk.{}.laurel_l"),
    r("model.layers.{}.laurel.linear_right", "blk.{}.laurel_r"),
    r("model.layers.{}.laurel.post_laurel_norm", "blk.{}.laurel_post_norm"),
];

const GEMMA4_RULES: &[NameRule] = &[
    r("model.embed_tokens", "token_embd"),
    r("model.embed_tokens_per_layer", "per_layer_token_embd"),
    r("model.norm", "output_norm"),
    r("lm_head", "output"),
    r("model.layers.{}.layer_scalar", "blk.{}.layer_output_scale.weight"),
    r("model.layers.{}.pre_feedforward_layernorm_2", "blk.{}.pre_ffw_norm_2"),
    r("model.layers.{}.post_feedforward_layernorm_1", "blk.{}.post_ffw_norm_1"),
    r("model.layers.{}.post_feedforward_layernorm_2", "blk.{}.post_ffw_norm_2"),
    r("model.layers.{}.router.proj", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.router.scale", "blk.{}.ffn_gate_inp.scale"),
    r("model.layers.{}.router.per_expert_scale", "blk.{}.ffn_down_exps.scale"),
    r("model.layers.{}.experts.gate_up_proj", "blk.{}.ffn_gate_up_exps.weight"),
    r("model.layers.{}.experts.down_proj", "blk.{}.ffn_down_exps.weight"),
];

const ASSISTANT: &[NameRule] = &[
    GEMMA4_RULES[0],
    GEMMA4_RULES[2],
    GEMMA4_RULES[4],
    r("pre_projection", "nextn.pre_projection"),
    r("post_projection", "nextn.post_projection"),
];

const GEMMA_ENDS: &[NameRule] = &[
    r("model.embed_tokens", "token_embd"),
    r("model.norm", "output_norm").how(How::MapWeight(plus_one)),
    r("lm_head", "").how(How::Drop),
];

const GEMMA3_ENDS: &[NameRule] = &[
    r("model.embed_tokens", "token_embd"),
    r("model.norm", "output_norm").how(How::MapWeight(plus_one)),
    r("lm_head", "output"),
];

const GEMMA_NORMS: &[NameRule] = &[
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm").how(How::MapWeight(plus_one)),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm").how(How::MapWeight(plus_one)),
];

const FOUR_NORMS: &[NameRule] = &[
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm").how(How::MapWeight(plus_one)),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm").how(How::MapWeight(plus_one)),
    r("model.layers.{}.pre_feedforward_layernorm", "blk.{}.ffn_norm").how(How::MapWeight(plus_one)),
    r("model.layers.{}.post_feedforward_layernorm", "blk.{}.post_ffw_norm").how(How::MapWeight(plus_one)),
];

const GEMMA_HEAD_NORMS: &[NameRule] = &[
    r("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm").how(How::MapWeight(plus_one)),
    r("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm").how(How::MapWeight(plus_one)),
];

fn gemma(p: &mut Params<'_>) -> Result<()> {
    p.need_u32("context_length", &["max_position_embeddings"])?;
    p.need_u32("embedding_length", &["hidden_size"])?;
    p.blocks()?;
    p.need_u32("feed_forward_length", &["intermediate_size"])?;
    p.need_u32("attention.head_count", &["num_attention_heads"])?;
    p.need_u32("attention.head_count_kv", &["num_key_value_heads"])?;
    p.need_f32("attention.layer_norm_rms_epsilon", &["rms_norm_eps"])?;
    p.need_u32("attention.key_length", &["head_dim"])?;
    p.need_u32("attention.value_length", &["head_dim"])?;
    p.file_type();
    Ok(())
}

fn gemma2(p: &mut Params<'_>) -> Result<()> {
    gemma(p)?;
    p.need_f32("attn_logit_softcapping", &["attn_logit_softcapping"])?;
    p.need_f32("final_logit_softcapping", &["final_logit_softcapping"])?;
    p.need_u32("attention.sliding_window", &["sliding_window"])
}

fn gemma3(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    if let Some(cap) = p.config().f64("final_logit_softcapping").filter(|c| *c != 0.0) {
        p.f32("final_logit_softcapping", cap);
    }
    if p.config().u64("sliding_window_pattern") != Some(1) {
        p.need_u32("attention.sliding_window", &["sliding_window"])?;
    }
    Ok(())
}

fn embedding(p: &mut Params<'_>) -> Result<()> {
    gemma3(p)?;
    p.need_u32("attention.sliding_window", &["sliding_window"])?;
    for layer in p.config().get(DENSE).and_then(Value::as_array).into_iter().flatten() {
        for (side, key) in [("in", "in_features"), ("out", "out_features")] {
            if let (Some(name), Some(len)) = (layer["name"].as_str(), as_u64(&layer[key])) {
                p.u32(&format!("{name}_feat_{side}"), len)?;
            }
        }
    }
    p.pooling()
}

/// The layers behind the pooling that the file has.
const DENSE: &str = "layers behind the pooling";

/// The layers behind the pooling, where they are asked for. The format has two, the first by its folder's name.
fn dense_modules(config: &mut Config, contents: &Contents<'_>) -> Result<()> {
    if !contents.dense_modules {
        return Ok(());
    }
    let mut layers = Vec::new();
    for module in modules::read(contents.folder)?.iter().filter(|m| m.kind.ends_with("Dense")) {
        if !module.folder.join("model.safetensors").is_file() {
            continue;
        }
        let name = if module.path == "2_Dense" { "dense_2" } else { "dense_3" };
        let stated = crate::json::read_optional(&module.folder.join("config.json"))?.unwrap_or_default();
        layers.push(json!({
            "name": name,
            "path": module.path,
            "in_features": stated["in_features"],
            "out_features": stated["out_features"],
        }));
    }
    config.set(DENSE, layers);
    Ok(())
}

fn dense_weights(config: &Config, folder: &Path) -> Result<Vec<Stored>> {
    let mut found = Vec::new();
    for layer in config.get(DENSE).and_then(Value::as_array).into_iter().flatten() {
        let (Some(name), Some(path)) = (layer["name"].as_str(), layer["path"].as_str()) else { continue };
        let file = folder.join(path).join("model.safetensors");
        let weight = safetensors::open_file(&file)?.into_iter().find(|t| t.name() == "linear.weight");
        let weight = weight.ok_or_else(|| Error::input("has no linear.weight").at(&file))?;
        found.push(weight.renamed(format!("{name}.weight")));
    }
    Ok(found)
}

/// Embeddings of all tokens, also of those that stand for images and sounds and are stored nowhere.
fn whole_vocabulary(config: &Config, piece: &Piece) -> Result<Rows> {
    padded(&piece.rows, config.need_u64(&["vocab_size"])?)
}

/// The inputs of a layer beside the first, which have projections.
fn further_inputs(config: &Config) -> Result<u64> {
    match config.u64("altup_num_inputs") {
        Some(4) => Ok(3),
        Some(other) => Err(Error::input(format!("config.json: altup_num_inputs is {other}; Gemma 3n has four"))),
        None => Err(Error::input("config.json: altup_num_inputs is missing; Gemma 3n has four")),
    }
}

/// Which layers see all of the text, where they are not listed: every nth.
fn with_layer_types(config: &mut Config, every: u64) -> Result<()> {
    let kind = |full: bool| if full { "full_attention" } else { "sliding_attention" };
    let types: Vec<&str> = (1..=config.layers()?).map(|i| kind(i % every == 0)).collect();
    if config.get("layer_types").is_none() {
        config.set("layer_types", types);
    }
    Ok(())
}

/// What Gemma 3n states once for all layers becomes a list.
fn each_layer(config: &mut Config) -> Result<()> {
    /// Layers whose activations are sparse, in models that have more.
    const SPARSE: usize = 10;
    let layers = config.layers()? as usize;
    with_layer_types(config, 5)?;
    if let Some(inner) = config.u64("intermediate_size") {
        config.set("intermediate_size", vec![inner; layers]);
    }
    if config.get("activation_sparsity_pattern").is_none() {
        let sparse = if layers > SPARSE { SPARSE } else { 0 };
        config.set("activation_sparsity_pattern", [vec![0.95; sparse], vec![0.0; layers - sparse]].concat());
    }
    // The vocabulary is that of the model, not the smaller one of the embeddings for each layer.
    config.remove("vocab_size_per_layer_input");
    config.remove("text_config");
    Ok(())
}

fn gemma3n(p: &mut Params<'_>) -> Result<()> {
    gemma3(p)?;
    let config = p.config();
    p.need_u32("altup.active_idx", &["altup_active_idx"])?;
    p.need_u32("altup.num_inputs", &["altup_num_inputs"])?;
    p.need_u32("embedding_length_per_layer_input", &["hidden_size_per_layer_input"])?;
    p.need_u32("attention.shared_kv_layers", &["num_kv_shared_layers"])?;
    let sparsity = config.get("activation_sparsity_pattern").and_then(Value::as_array);
    let sparsity = sparsity.ok_or_else(|| Error::input("config.json: activation_sparsity_pattern is no list"))?;
    let deviations: Vec<f32> = sparsity.iter().map(|s| deviations(s.as_f64().unwrap_or(0.0) as f32)).collect();
    p.f32s("activation_sparsity_scale", &deviations);
    let slides = p.sliding_layers().unwrap_or_default();
    p.sliding_pattern(&slides);
    Ok(())
}

/// How many standard deviations above the mean this part of normally distributed values lies below, as the reference
/// computes it: an inverse error function in f32, times the root of 2.
fn deviations(part: f32) -> f32 {
    let argument: f32 = 2.0 * part - 1.0;
    let inverse = quantile((1.0 + f64::from(argument)) / 2.0) / std::f64::consts::SQRT_2;
    inverse as f32 * std::f32::consts::SQRT_2
}

/// The quantile of the normal distribution (Wichura, *Algorithm AS 241*, 1988, to about 16 digits).
fn quantile(p: f64) -> f64 {
    const A: [f64; 8] = [
        3.387_132_872_796_366_5,
        133.141_667_891_784_38,
        1_971.590_950_306_551_3,
        13_731.693_765_509_46,
        45_921.953_931_549_87,
        67_265.770_927_008_7,
        33_430.575_583_588_13,
        2_509.080_928_730_122_7,
    ];
    const B: [f64; 8] = [
        1.0,
        42.313_330_701_600_91,
        687.187_007_492_057_9,
        5_394.196_021_424_751,
        21_213.794_301_586_597,
        39_307.895_800_092_71,
        28_729.085_735_721_943,
        5_226.495_278_852_854,
    ];
    const C: [f64; 8] = [
        1.423_437_110_749_683_5,
        4.630_337_846_156_546,
        5.769_497_221_460_691,
        3.647_848_324_763_204_5,
        1.270_458_252_452_368_4,
        0.241_780_725_177_450_6,
        0.022_723_844_989_269_184,
        7.745_450_142_783_414e-4,
    ];
    const D: [f64; 8] = [
        1.0,
        2.053_191_626_637_759,
        1.676_384_830_183_803_8,
        0.689_767_334_985_1,
        0.148_103_976_427_480_08,
        0.015_198_666_563_616_457,
        5.475_938_084_995_345e-4,
        1.050_750_071_644_416_9e-9,
    ];
    const E: [f64; 8] = [
        6.657_904_643_501_103,
        5.463_784_911_164_114,
        1.784_826_539_917_291_3,
        0.296_560_571_828_504_87,
        0.026_532_189_526_576_124,
        1.242_660_947_388_078_4e-3,
        2.711_555_568_743_487_6e-5,
        2.010_334_399_292_288_1e-7,
    ];
    const F: [f64; 8] = [
        1.0,
        0.599_832_206_555_888,
        0.136_929_880_922_735_8,
        0.014_875_361_290_850_615,
        7.868_691_311_456_133e-4,
        1.846_318_317_510_054_8e-5,
        1.421_511_758_316_446e-7,
        2.044_263_103_389_939_8e-15,
    ];
    let fraction = |above: &[f64; 8], below: &[f64; 8], r: f64| {
        let value = |of: &[f64; 8]| of.iter().rev().fold(0.0, |sum, c| sum * r + c);
        value(above) / value(below)
    };
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        return q * fraction(&A, &B, 0.180_625 - q * q);
    }
    let tail = if q < 0.0 { p } else { 1.0 - p };
    if tail <= 0.0 {
        return f64::INFINITY.copysign(q);
    }
    let r = (-tail.ln()).sqrt();
    let value = if r <= 5.0 { fraction(&C, &D, r - 1.6) } else { fraction(&E, &F, r - 5.0) };
    value.copysign(q)
}

/// The heads of layers with full attention, which may be larger and fewer, stated once or in a part for each layer.
fn two_sizes(config: &mut Config) -> Result<()> {
    with_layer_types(config, 6)?;
    let mut types = config.get("layer_types").cloned().unwrap_or_default();
    if let Some(last) = types.as_array_mut().and_then(|t| t.last_mut()) {
        *last = json!("full_attention");
    }
    // A text model that sees both ways says so, and has a window on either side.
    if config.str("use_bidirectional_attention") == Some("all") {
        config.set("is_causal", false);
        if let Some(window) = config.u64("sliding_window") {
            config.set("sliding_window", window / 2 * 2);
        }
    }
    let full = |layer: usize| types.get(layer).is_some_and(|t| t == "full_attention");
    let stated = |name: &str| {
        let layers = config.get("per_layer_config")?.as_object()?;
        layers.iter().filter(|(layer, _)| layer.parse().is_ok_and(full)).find_map(|(_, l)| as_u64(l.get(name)?))
    };
    let (head, heads) = if config.get("per_layer_config").is_some() {
        (stated("head_dim"), stated("num_key_value_heads"))
    } else {
        let equal = config.bool("attention_k_eq_v") != Some(false);
        (config.u64("global_head_dim").or(Some(512)), config.u64("num_global_key_value_heads").filter(|_| equal))
    };
    config.set("global_head_dim", head.map_or(Value::Null, Value::from));
    config.set("num_global_key_value_heads", heads.map_or(Value::Null, Value::from));
    config.set("layer_types", types);
    Ok(())
}

/// A factor for each frequency of layers with full attention: 1 for those that rotate, too large to matter for others.
fn rotated_part(config: &Config) -> Result<Outputs> {
    const STILL: f32 = 1e30;
    let none = Map::new();
    let full = config.rope().get("full_attention").and_then(Value::as_object).unwrap_or(&none);
    let kind = full.get("rope_type").and_then(Value::as_str).unwrap_or("default");
    if kind != "proportional" {
        return Err(Error::input(format!("config.json: full attention with rope of type {kind}, not proportional")));
    }
    let part = full.get("partial_rotary_factor").and_then(Value::as_f64);
    let part = part.ok_or_else(|| Error::input("config.json: full_attention has no partial_rotary_factor"))?;
    let head = config.need_u64(&["global_head_dim"])?;
    if head > 1 << 16 || !(0.0..=1.0).contains(&part) {
        return Err(Error::input(format!("config.json claims heads of {head} dimensions of which {part} rotate")));
    }
    let (half, rotate) = ((head / 2) as usize, (head as f64 * part / 2.0) as usize);
    let factors = [vec![1.0; rotate], vec![STILL; half.saturating_sub(rotate)]].concat();
    Ok(vec![("rope_freqs.weight".into(), values(vec![factors.len() as u64], &factors))])
}

fn gemma4(p: &mut Params<'_>) -> Result<()> {
    gemma3(p)?;
    let config = p.config();
    let shared = config.need_u64(&["num_kv_shared_layers"])?;
    p.u32("attention.shared_kv_layers", shared)?;
    p.u32("embedding_length_per_layer_input", config.u64("hidden_size_per_layer_input").unwrap_or(0))?;
    let slides = p.sliding_layers().unwrap_or_default();
    p.sliding_pattern(&slides);
    let (full, sliding) = (config.need_u64(&["global_head_dim"])?, config.need_u64(&["head_dim"])?);
    p.u32("attention.key_length", full)?;
    p.u32("attention.value_length", full)?;
    p.u32("attention.key_length_swa", sliding)?;
    p.u32("attention.value_length_swa", sliding)?;
    p.maybe_u32("expert_feed_forward_length", &["expert_intermediate_size", "moe_intermediate_size"])?;
    let blocks = config.blocks()?;
    if config.bool("use_double_wide_mlp") == Some(true) {
        let inner = config.need_u64(&["intermediate_size"])?;
        let own = blocks.saturating_sub(shared);
        let lengths: Vec<i64> = (0..blocks).map(|i| (if i < own { inner } else { inner * 2 }) as i64).collect();
        p.i32s("feed_forward_length", &lengths)?;
    }
    if let (Some(full), Some(few)) = (config.u64("num_global_key_value_heads"), config.u64("num_key_value_heads")) {
        let heads: Vec<i64> = slides.iter().map(|s| (if *s { few } else { full }) as i64).collect();
        p.i32s("attention.head_count_kv", &heads)?;
    }
    // All dimensions rotate; factors keep some of them still.
    p.u32("rope.dimension_count", full)?;
    let part = config.rope().get("partial_rotary_factor").and_then(Value::as_f64).unwrap_or(1.0);
    p.u32("rope.dimension_count_swa", (sliding as f64 * part) as u64)
}

fn unified(p: &mut Params<'_>) -> Result<()> {
    gemma4(p)?;
    let generation = crate::json::read_optional(&p.folder().join("generation_config.json"))?.unwrap_or(Value::Null);
    let never: Option<Vec<i64>> =
        generation["suppress_tokens"].as_array().map(|l| l.iter().filter_map(Value::as_i64).collect());
    p.i32s("tokenizer.ggml.suppress_tokens", &never.unwrap_or_default())
}

fn assistant(p: &mut Params<'_>) -> Result<()> {
    gemma4(p)?;
    p.need_u32("embedding_length_out", &["backbone_hidden_size"])?;
    let blocks = p.config().blocks()?;
    p.u32("nextn_predict_layers", blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_reference() {
        // torch.distributions.Normal(0, 1).icdf in f32.
        for (part, value) in [(0.95_f32, 1.644_853_6_f32), (0.5, 0.0), (0.1, -1.281_551_6), (0.999, 3.090_236_2)] {
            assert_eq!(deviations(part), value, "{part}");
        }
        assert_eq!((deviations(0.0), deviations(1.0)), (f32::NEG_INFINITY, f32::INFINITY));
    }
}
