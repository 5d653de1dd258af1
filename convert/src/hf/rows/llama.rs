//! Llama and its closest relatives.

use gguf::{Error, Result};
use serde_json::{Value, json};

use crate::config::{self, Config};
use crate::hf::contents::{block_of, floats};
use crate::hf::{
    ATTENTION, ATTENTION_ROTATED, BARE, BASE, Class, Contents, ENDS, GATED, HEAD_NORMS, How, NORMS, NameRule, Outputs,
    Params, Piece, r, window,
};
use crate::names::with_block;
use crate::tokenizer::VocabKind;
use crate::transform::{Rows, sliced, transposed, values};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class { names: &["LlavaForConditionalGeneration"], when: |root| config::model_type(root) == "mistral", ..MISTRAL },
    Class {
        names: &[
            "LlamaForCausalLM",
            "LLaMAForCausalLM",
            "LlamaModel",
            "LlavaForConditionalGeneration",
            "VoxtralForConditionalGeneration",
            "VLlama3ForCausalLM",
            "IQuestCoderForCausalLM",
        ],
        prepare: |config| {
            // SmolVLM2 leaves the number of its heads out.
            if config.class() == "VLlama3ForCausalLM" && !config.has("num_attention_heads") {
                config.set("num_attention_heads", 32_u64);
            }
            Ok(())
        },
        defaults: LLAMA_DEFAULTS,
        spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GATED],
        remark: "Llama 1 to 3.x and models of its form; Llama 3 scaling as rope_freqs",
        ..LLAMA
    },
    Class { names: &["MistralForCausalLM"], ..MISTRAL },
    Class {
        names: &["JanusForConditionalGeneration"],
        defaults: LLAMA_DEFAULTS,
        spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GATED],
        unused: &[
            "model.vision_model.",
            "model.aligner.",
            "model.vqmodel.",
            "model.generation_embeddings.",
            "model.generation_aligner.",
            "model.generation_head.",
        ],
        remark: "the text model of Janus Pro",
        ..LLAMA
    },
    Class {
        names: &["Sarashina2VisionForCausalLM"],
        defaults: LLAMA_DEFAULTS,
        // A norm outside of the text model is the projector's.
        prefixes: &[],
        spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GATED],
        rename: |_, name| match name.strip_prefix("llm.") {
            Some(own) => Some(own.replace("text_model.", "")),
            None => (!name.starts_with("norm.")).then(|| name.to_owned()),
        },
        remark: "the text model of Sarashina 2.2 Vision",
        ..LLAMA
    },
    Class {
        names: &["LlamaBidirectionalModel"],
        arch: "llama-embed",
        defaults: LLAMA_DEFAULTS,
        spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GATED],
        remark: "Llama Embed Nemotron: attention in both directions",
        ..LLAMA
    },
    Class {
        names: &["ArceeForCausalLM"],
        arch: "arcee",
        defaults: r#"{"vocab_size": 32000, "hidden_size": 2560, "intermediate_size": 18432, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": null, "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-05, "head_dim": "computed",
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GATED],
        keys: |p| {
            llama(p)?;
            p.pooling()
        },
        remark: "AFM: squared ReLU without a gate",
        ..LLAMA
    },
    Class {
        names: &["ApertusForCausalLM"],
        arch: "apertus",
        defaults: r#"{"vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": null, "max_position_embeddings": 65536,
            "rms_norm_eps": 1e-05, "rope_parameters": {"rope_theta": 12000000.0, "rope_type": "llama3", "factor": 8.0,
            "original_max_position_embeddings": 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0}}"#,
        spelling: &[ENDS, ATTENTION, HEAD_NORMS, GATED, APERTUS],
        inspect: activations,
        early: activation_keys,
        remark: "xIELU with values of its own in every layer",
        ..LLAMA
    },
    Class {
        names: &["Llama4ForCausalLM", "Llama4ForConditionalGeneration"],
        arch: "llama4",
        defaults: r#"{"vocab_size": 202048, "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
            "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
            "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "num_experts_per_tok": 1, "num_local_experts": 16,
            "interleave_moe_layer_step": 1, "attention_chunk_size": 8192, "no_rope_layer_interval": 4,
            "tie_word_embeddings": false, "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}"#,
        vocabulary: VocabKind::Gpt2,
        spelling: &[ENDS, ATTENTION, NORMS, LLAMA4],
        prepare: llama4_layers,
        keys: llama4,
        remark: "Scout, Maverick: experts in every nth layer; chunked attention",
        ..LLAMA
    },
    Class {
        names: &["NanbeigeForCausalLM"],
        arch: "nanbeige",
        spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GATED],
        keys: nanbeige,
        remark: "a Llama whose blocks run in loops",
        ..LLAMA
    },
    Class {
        names: &["UltravoxModel"],
        prepare: |_| {
            Err(Error::input("Ultravox has no text decoder of its own")
                .help("convert the Llama or other model that it was trained with; --mmproj writes its encoder"))
        },
        remark: "refused: its text decoder is another model",
        ..LLAMA
    },
    Class {
        names: &["MixtralForCausalLM"],
        defaults: r#"{"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "max_position_embeddings": 131072,
            "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 32000, "intermediate_size": 14336,
            "hidden_size": 4096, "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}}"#,
        spelling: &[ENDS, ATTENTION_ROTATED, NORMS, MIXTRAL_EXPERTS],
        beyond: window,
        remark: "experts stacked",
        ..LLAMA
    },
    Class {
        names: &["SmolLM3ForCausalLM"],
        arch: "smollm3",
        defaults: r#"{"num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "max_position_embeddings": 32768,
            "vocab_size": 128256, "intermediate_size": 11008, "hidden_size": 2048,
            "rope_parameters": {"rope_theta": 2000000.0, "rope_type": "default"}, "tie_word_embeddings": true}"#,
        spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GATED],
        remark: "every fourth layer without rotation",
        ..LLAMA
    },
];

pub(super) const LLAMA: Class = Class {
    arch: "llama",
    vocabulary: VocabKind::Llama,
    prefixes: BARE,
    rename: |_, name| Some(name.replace("text_model.", "")),
    keys: llama,
    generated: rope_freqs,
    rotated: FIRST_NAMES,
    ..BASE
};

/// The names of heads of queries and keys, those of Llama's first code before the others.
pub(super) const FIRST_NAMES: [&[&str]; 2] =
    [&["n_heads", "num_attention_heads", "n_head"], &["n_kv_heads", "num_key_value_heads"]];

/// What Llama's configuration class fills in.
pub(super) const LLAMA_DEFAULTS: &str = r#"{"num_key_value_heads": null, "rms_norm_eps": 1e-06, "max_position_embeddings": 2048,
    "head_dim": "computed", "vocab_size": 32000, "intermediate_size": 11008, "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#;

const MISTRAL: Class = Class {
    defaults: r#"{"num_key_value_heads": 8, "rms_norm_eps": 1e-06, "max_position_embeddings": 131072,
        "head_dim": "computed", "vocab_size": 32000, "intermediate_size": 14336, "hidden_size": 4096,
        "num_hidden_layers": 32, "num_attention_heads": 32, "sliding_window": 4096,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
    spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GATED],
    beyond: window,
    remark: "Mistral 7B, Nemo, Small",
    ..LLAMA
};

const APERTUS: &[NameRule] = &[
    r("model.layers.{}.attention_layernorm", "blk.{}.attn_norm"),
    r("model.layers.{}.feedforward_layernorm", "blk.{}.ffn_norm"),
    r("model.layers.{}.mlp.act_fn.alpha_n", "").how(How::Drop),
    r("model.layers.{}.mlp.act_fn.alpha_p", "").how(How::Drop),
    r("model.layers.{}.mlp.act_fn.beta", "").how(How::Drop),
    r("model.layers.{}.mlp.act_fn.eps", "").how(How::Drop),
];

const LLAMA4: &[NameRule] = &[
    r("model.layers.{}.feed_forward.gate_proj", "blk.{}.ffn_gate"),
    r("model.layers.{}.feed_forward.up_proj", "blk.{}.ffn_up"),
    r("model.layers.{}.feed_forward.down_proj", "blk.{}.ffn_down"),
    r("model.layers.{}.feed_forward.router", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.feed_forward.experts.gate_up_proj", "blk.{}.ffn_").how(How::Split(transposed_halves)),
    r("model.layers.{}.feed_forward.experts.down_proj", "blk.{}.ffn_down_exps.weight")
        .how(How::Change(|_, piece| transposed(&piece.rows))),
    r("model.layers.{}.feed_forward.shared_expert.gate_proj", "blk.{}.ffn_gate_shexp"),
    r("model.layers.{}.feed_forward.shared_expert.up_proj", "blk.{}.ffn_up_shexp"),
    r("model.layers.{}.feed_forward.shared_expert.down_proj", "blk.{}.ffn_down_shexp"),
];

const MIXTRAL: How = How::Stack { group: "experts", members: local_experts };

pub(super) const MIXTRAL_EXPERTS: &[NameRule] = &[
    r("model.layers.{}.block_sparse_moe.gate", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.block_sparse_moe.experts.{x}.w1", "blk.{}.ffn_gate_exps").how(MIXTRAL),
    r("model.layers.{}.block_sparse_moe.experts.{x}.w2", "blk.{}.ffn_down_exps").how(MIXTRAL),
    r("model.layers.{}.block_sparse_moe.experts.{x}.w3", "blk.{}.ffn_up_exps").how(MIXTRAL),
];

/// The experts of a layer.
pub(super) fn local_experts(config: &Config) -> Result<u64> {
    config.need_u64(&["num_local_experts", "num_experts", "n_routed_experts"])
}

/// Gate and up, one after the other along the second dimension from the end, as two tensors.
pub(super) fn halves(rows: &Rows, gate: String, up: String) -> Result<Outputs> {
    let axis = rows.shape().len().checked_sub(2);
    let axis = axis.ok_or_else(|| Error::input(format!("its shape {:?} has no two halves", rows.shape())))?;
    let half = rows.shape()[axis] / 2;
    if half * 2 != rows.shape()[axis] {
        return Err(Error::input(format!("its shape {:?} has no two equal halves", rows.shape())));
    }
    Ok(vec![(gate, sliced(rows, axis, 0, half)?), (up, sliced(rows, axis, half, half)?)])
}

/// The keys of Llama.
pub(super) fn llama(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.need_u32("vocab_size", &["vocab_size"])?;
    let dimensions = head_dim(p.config())?;
    p.u32("rope.dimension_count", dimensions)
}

fn transposed_halves(_: &Config, piece: &Piece) -> Result<Outputs> {
    let name = |kind: &str| format!("{}{kind}_exps.weight", piece.to);
    halves(&transposed(&piece.rows)?, name("gate"), name("up"))
}

/// The name of the activation that a parameter is of, with `{}` for the block.
fn activation(name: &str) -> Option<String> {
    let (activation, _) = name.rsplit_once(".act_fn.")?;
    let block = block_of(name)?.to_string();
    let parts = activation.split('.').map(|part| if part == block { "{}" } else { part });
    Some(parts.chain(["act_fn"]).collect::<Vec<_>>().join("."))
}

/// The values of the activation in every layer, each kind in the order in which the checkpoint completes it.
fn activations(config: &mut Config, contents: &Contents<'_>) -> Result<()> {
    let layers = config.layers()?;
    let mut kinds: Vec<(usize, &str, Vec<f32>)> = Vec::new();
    for kind in ["alpha_n", "alpha_p", "beta", "eps"] {
        let (mut last, mut values) = (0, std::collections::BTreeMap::new());
        for (i, tensor) in contents.tensors.iter().enumerate() {
            if tensor.name().ends_with(&format!(".act_fn.{kind}")) {
                let &[value] = floats(tensor)?.as_slice() else {
                    return Err(Error::input(format!("tensor {} is not one number", tensor.name())));
                };
                values.insert(block_of(tensor.name()), value);
                last = i;
            }
        }
        let gap = (0..layers).find(|block| !values.contains_key(&Some(*block)));
        if let (Some(gap), Some(name)) = (gap, contents.tensors.iter().find_map(|t| activation(t.name()))) {
            let name = with_block(&name, Some(gap));
            return Err(Error::input(format!("tensor {name}.{kind} is missing")).help("is the checkpoint complete?"));
        }
        if values.len() as u64 == layers {
            kinds.push((last, kind, values.into_values().collect()));
        }
    }
    kinds.sort_by_key(|(last, _, _)| *last);
    config.set("xielu", kinds.into_iter().map(|(_, kind, values)| json!([kind, values])).collect::<Vec<_>>());
    Ok(())
}

fn activation_keys(p: &mut Params<'_>) -> Result<()> {
    for entry in p.config().get("xielu").and_then(Value::as_array).into_iter().flatten() {
        let values: Vec<f32> =
            entry[1].as_array().into_iter().flatten().filter_map(Value::as_f64).map(|v| v as f32).collect();
        p.f32s(&format!("xielu.{}", entry[0].as_str().unwrap_or_default()), &values);
    }
    Ok(())
}

/// The usual width is that of the experts here, that of dense layers has another name.
fn llama4_layers(config: &mut Config) -> Result<()> {
    config.set("intermediate_size_moe", config.need_u64(&["intermediate_size"])?);
    config.set("intermediate_size", config.need_u64(&["intermediate_size_mlp"])?);
    let every = config.u64("no_rope_layer_interval").unwrap_or(4).max(1);
    let rotates = config.need_list(&["no_rope_layers"]).unwrap_or_default();
    let chunks = config.get("attention_chunk_size").is_some();
    config.set_layer_types(|i, _| {
        let rotates = rotates.get(i as usize).map_or((i + 1) % every != 0, |r| *r != 0);
        if rotates && chunks { "chunked_attention" } else { "full_attention" }
    })
}

fn llama4(p: &mut Params<'_>) -> Result<()> {
    llama(p)?;
    p.need_u32("interleave_moe_layer_step", &["interleave_moe_layer_step"])?;
    p.need_u32("expert_feed_forward_length", &["intermediate_size_moe"])?;
    if p.layers_of("full_attention").is_some_and(|full| !full.contains(&false)) {
        p.u32("attention.sliding_window", 0)?;
    }
    Ok(())
}

fn nanbeige(p: &mut Params<'_>) -> Result<()> {
    llama(p)?;
    let config = p.config();
    p.u32("num_loops", config.u64_or(&["num_loops"], 1)?)?;
    p.set("skip_loop_final_norm", config.bool("skip_loop_final_norm").unwrap_or(false));
    Ok(())
}

/// Dimensions of a head: stated, or the quotient.
pub(super) fn head_dim(config: &Config) -> Result<u64> {
    match config.u64("head_dim") {
        Some(dimensions) => Ok(dimensions),
        None => quotient(config),
    }
}

/// The width divided among the heads, whatever is stated.
pub(super) fn quotient(config: &Config) -> Result<u64> {
    Ok(config.need_u64(&["hidden_size"])? / config.heads()?)
}

/// Llama 3's scaling of long wavelengths as a factor for each frequency, in the reference's f32 arithmetic.
pub(super) fn rope_freqs(config: &Config) -> Result<Outputs> {
    rope_freqs_with(config, 8.0)
}

/// More rotating dimensions than any model has.
pub(super) const MAX_ROTARY: u64 = 1 << 16;

/// The frequency of a dimension's rotation, of so many that rotate, in the reference's f32 arithmetic.
pub(super) fn frequency(base: f64, dimension: u64, dimensions: u64) -> f32 {
    let exponent = dimension as f32 / dimensions as f32;
    1.0 / (base.powf(f64::from(exponent)) as f32)
}

/// As [`rope_freqs`] with another factor where the configuration has none.
pub(super) fn rope_freqs_with(config: &Config, factor: f64) -> Result<Outputs> {
    if config.rope_type() != "llama3" {
        return Ok(Vec::new());
    }
    let number = |key: &str, default: f64| config.rope_full().get(key).and_then(Value::as_f64).unwrap_or(default);
    let dimensions = head_dim(config)?;
    if dimensions > MAX_ROTARY {
        return Err(Error::input(format!("config.json claims heads of {dimensions} dimensions")));
    }
    let base = number("rope_theta", 10000.0);
    let factor = number("factor", factor);
    let low = number("low_freq_factor", 1.0);
    let high = number("high_freq_factor", 4.0);
    let original = number("original_max_position_embeddings", 8192.0);
    let (low_wavelength, high_wavelength) = ((original / low) as f32, (original / high) as f32);
    let factors: Vec<f32> = (0..dimensions)
        .step_by(2)
        .map(|i| {
            // torch divides a number by a tensor as the product with the reciprocal.
            let wavelength = (1.0 / frequency(base, i, dimensions)) * (2.0 * std::f64::consts::PI) as f32;
            if wavelength < high_wavelength {
                1.0
            } else if wavelength > low_wavelength {
                factor as f32
            } else {
                let smooth = ((1.0 / wavelength) * original as f32 - low as f32) / (high - low) as f32;
                1.0 / ((1.0 - smooth) / factor as f32 + smooth)
            }
        })
        .collect();
    Ok(vec![("rope_freqs.weight".into(), values(vec![factors.len() as u64], &factors))])
}
