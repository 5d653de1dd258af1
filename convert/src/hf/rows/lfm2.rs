//! LFM2: short convolutions with attention in some layers.

use std::path::Path;

use gguf::{Error, Result};

use crate::config::Config;
use crate::hf::rows::llama::local_experts;
use crate::hf::{BASE, Class, Contents, How, NameRule, Params, Piece, SIGMOID, r};
use crate::safetensors::{self, Stored};
use crate::tokenizer::VocabKind;
use crate::transform::{Rows, reshaped};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class { names: &["Lfm2ForCausalLM", "LFM2ForCausalLM"], remark: "short convolutions and attention", ..LFM2 },
    Class {
        names: &["Lfm2Model", "Lfm2BidirectionalModel"],
        rename: whole_names,
        beside: dense,
        inspect: dense_width,
        early: output_width,
        keys: retriever,
        remark: "late interaction and embedding models; the dense layer of 1_Dense",
        ..LFM2
    },
    Class {
        names: &["Lfm25AudioTokenizer"],
        vocabulary: VocabKind::None,
        rename: audio_names,
        keys: audio,
        remark: "the audio detokenizer's backbone",
        ..LFM2
    },
    Class {
        names: &["Lfm2MoeForCausalLM"],
        arch: "lfm2moe",
        defaults: r#"{"vocab_size": 65536, "hidden_size": 2048, "intermediate_size": 7168, "moe_intermediate_size": 1792,
            "num_hidden_layers": 32, "max_position_embeddings": 128000, "norm_eps": 1e-05, "num_attention_heads": 32,
            "num_key_value_heads": 8, "conv_L_cache": 3, "num_dense_layers": 2, "num_experts_per_tok": 4,
            "num_experts": 32, "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
            "tie_word_embeddings": true}"#,
        spelling: &[ENDS, LAYER, EXPERTS],
        prepare: |_| Ok(()),
        rename: |_, name| Some(name.to_owned()),
        keys: lfm2_moe,
        remark: "short convolutions and attention; experts after the first layers",
        ..LFM2
    },
];

const LFM2: Class = Class {
    arch: "lfm2",
    defaults: r#"{"vocab_size": 65536, "hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 128000, "norm_eps": 1e-05,
        "conv_L_cache": 3, "block_multiple_of": 256, "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": true,
        "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}, "tie_word_embeddings": true}"#,
    spelling: &[ENDS, LAYER],
    prepare: old_names,
    rename: without_audio,
    keys: lfm2,
    ..BASE
};

const ENDS: &[NameRule] = &[
    r("model.embed_tokens", "token_embd"),
    r("model.embedding_norm", "token_embd_norm"),
    r("lm_head", "output"),
    r("dense_2", "dense_2"),
    r("dense_2_out", "dense_2"),
];

const LAYER: &[NameRule] = &[
    r("model.layers.{}.operator_norm", "blk.{}.attn_norm"),
    r("model.layers.{}.ffn_norm", "blk.{}.ffn_norm"),
    r("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    r("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    r("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    r("model.layers.{}.self_attn.out_proj", "blk.{}.attn_output"),
    r("model.layers.{}.self_attn.q_layernorm", "blk.{}.attn_q_norm"),
    r("model.layers.{}.self_attn.k_layernorm", "blk.{}.attn_k_norm"),
    r("model.layers.{}.conv.conv", "blk.{}.shortconv.conv").how(How::Change(one_channel)),
    r("model.layers.{}.conv.in_proj", "blk.{}.shortconv.in_proj"),
    r("model.layers.{}.conv.out_proj", "blk.{}.shortconv.out_proj"),
    r("model.layers.{}.feed_forward.w1", "blk.{}.ffn_gate"),
    r("model.layers.{}.feed_forward.w2", "blk.{}.ffn_down"),
    r("model.layers.{}.feed_forward.w3", "blk.{}.ffn_up"),
];

const STACK: How = How::Stack { group: "experts", members: local_experts };

const EXPERTS: &[NameRule] = &[
    r("model.layers.{}.feed_forward.experts.{x}.w1", "blk.{}.ffn_gate_exps").how(STACK),
    r("model.layers.{}.feed_forward.experts.{x}.w2", "blk.{}.ffn_down_exps").how(STACK),
    r("model.layers.{}.feed_forward.experts.{x}.w3", "blk.{}.ffn_up_exps").how(STACK),
    r("model.layers.{}.feed_forward.gate", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.feed_forward.expert_bias", "blk.{}.exp_probs_b.bias"),
];

/// A convolution over one channel, whose dimension the file leaves out.
fn one_channel(_: &Config, piece: &Piece) -> Result<Rows> {
    match *piece.rows.shape() {
        [channels, 1, width] => reshaped(&piece.rows, vec![channels, width]),
        _ => Ok(piece.rows.clone()),
    }
}

fn old_names(config: &mut Config) -> Result<()> {
    for (old, new) in [("block_ff_dim", "intermediate_size"), ("tie_embedding", "tie_word_embeddings")] {
        if let Some(value) = config.get(old).cloned() {
            config.set(new, value);
            config.remove(old);
        }
    }
    let full = config.need_list(&["full_attn_idxs"]).ok();
    config.set_layer_types(
        |i, _| {
            if full.as_ref().is_none_or(|full| full.contains(&i)) { "full_attention" } else { "conv" }
        },
    )
}

/// Parts of names that belong to the audio model around a text model.
const AUDIO: &[&str] = &["audio", "codebook", "conformer", "depth_embedding", "depthformer", "depth_linear"];

fn without_audio(_: &Config, name: &str) -> Option<String> {
    let audio = AUDIO.iter().any(|part| name.contains(part));
    (!audio).then(|| name.replace("lfm.", "model."))
}

fn whole_names(config: &Config, name: &str) -> Option<String> {
    let name = without_audio(config, name)?;
    Some(if name.starts_with("dense_2") { name } else { format!("model.{name}") })
}

fn audio_names(config: &Config, name: &str) -> Option<String> {
    if name == "istft.window" || name.starts_with("emb.emb") {
        return None;
    }
    let name = if name.starts_with("lin") { name.replace("lin", "dense_2_out") } else { name.to_owned() };
    without_audio(config, &name)
}

/// The file of the dense layer after the model.
const DENSE: &str = "1_Dense/model.safetensors";

fn dense(_: &Config, folder: &Path) -> Result<Vec<Stored>> {
    let path = folder.join(DENSE);
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let tensor = safetensors::open_file(&path)?.into_iter().find(|t| t.name() == "linear.weight");
    let tensor = tensor.ok_or_else(|| Error::input("has no linear.weight").at(&path))?;
    Ok(vec![tensor.renamed("dense_2.weight".into())])
}

fn dense_width(config: &mut Config, contents: &Contents<'_>) -> Result<()> {
    if let Some(tensor) = dense(config, contents.folder)?.first() {
        config.set("embedding_length_out", tensor.shape().first().copied().unwrap_or(0));
    }
    Ok(())
}

fn output_width(p: &mut Params<'_>) -> Result<()> {
    p.maybe_u32("embedding_length_out", &["embedding_length_out"])
}

/// The keys of both, with key-value heads in the layers that attend only.
fn shared(p: &mut Params<'_>, attends: impl Fn(&str) -> bool) -> Result<()> {
    let mut config = p.config().clone();
    let heads = config.need_u64(&["num_key_value_heads"])?;
    let types = config.get("layer_types").and_then(serde_json::Value::as_array).cloned();
    let types = types.ok_or_else(|| Error::input("config.json has no layer_types"))?;
    let heads: Vec<u64> = types.iter().map(|t| if attends(t.as_str().unwrap_or("")) { heads } else { 0 }).collect();
    config.set("num_key_value_heads", heads);
    p.common_of(&config)
}

fn lfm2(p: &mut Params<'_>) -> Result<()> {
    shared(p, |kind| kind != "conv")?;
    p.need_u32("vocab_size", &["vocab_size"])?;
    p.need_u32("shortconv.l_cache", &["conv_L_cache"])?;
    p.need_f32("attention.layer_norm_rms_epsilon", &["norm_eps"])?;
    let width = feed_forward(p.config())?;
    p.u32("feed_forward_length", width)
}

/// The width of the feed-forward: two thirds of the stated one, times a factor, rounded up.
fn feed_forward(config: &Config) -> Result<u64> {
    let stated = config.need_u64(&["block_ff_dim", "intermediate_size"])?;
    if config.bool("block_auto_adjust_ff_dim") != Some(true) {
        return Ok(stated);
    }
    let width = (2.0 * stated as f64 / 3.0) as u64;
    let width = config.f64("block_ffn_dim_multiplier").map_or(width, |factor| (factor * width as f64) as u64);
    Ok(width.next_multiple_of(config.need_u64(&["block_multiple_of"])?.max(1)))
}

fn retriever(p: &mut Params<'_>) -> Result<()> {
    lfm2(p)?;
    if p.config().class() == "Lfm2BidirectionalModel" {
        p.set("attention.causal", false);
    }
    p.pooling()
}

fn audio(p: &mut Params<'_>) -> Result<()> {
    lfm2(p)?;
    p.need_u32("attention.sliding_window", &["sliding_window"])?;
    p.need_u32("embedding_length_out", &["output_size"])
}

fn lfm2_moe(p: &mut Params<'_>) -> Result<()> {
    shared(p, |kind| kind == "full_attention")?;
    p.need_u32("expert_feed_forward_length", &["moe_intermediate_size"])?;
    p.need_u32("leading_dense_block_count", &["num_dense_layers"])?;
    p.set("expert_gating_func", SIGMOID);
    p.need_u32("vocab_size", &["vocab_size"])?;
    p.need_u32("shortconv.l_cache", &["conv_L_cache"])
}
