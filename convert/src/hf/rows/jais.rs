//! Jais 1 and 2.

use gguf::{Error, Result};

use crate::config::Config;
use crate::hf::contents::floats;
use crate::hf::rows::llama::head_dim;
use crate::hf::{ATTENTION, BASE, Class, Contents, ENDS, Early, GATED, How, NORMS, NameRule, Params, Piece, r};
use crate::transform::{Rows, mapped};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["JAISLMHeadModel"],
        arch: "jais",
        spelling: &[JAIS],
        rename: |_, name| (!name.ends_with(".attn.bias")).then(|| name.to_owned()),
        prepare: known_kind,
        inspect: slopes,
        early: |p| {
            // An adapter has no slopes.
            p.f32("attention.max_alibi_bias", p.config().f64(LARGEST_SLOPE).unwrap_or(8.0));
            Ok(())
        },
        early_of: Early::Content,
        keys: jais,
        remark: "positions as slopes; scales of embedding and output in the weights",
        ..BASE
    },
    Class {
        names: &["Jais2ForCausalLM"],
        arch: "jais2",
        defaults: r#"{"vocab_size": 150272, "hidden_size": 3328, "intermediate_size": 26624, "num_hidden_layers": 32,
            "num_attention_heads": 26, "num_key_value_heads": null, "max_position_embeddings": 8192,
            "layer_norm_eps": 1e-05, "head_dim": "computed", "tie_word_embeddings": false,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        spelling: &[ENDS, ATTENTION, NORMS, GATED],
        keys: jais2,
        remark: "biases everywhere; squared ReLU",
        ..BASE
    },
];

/// Where the configuration has the largest slope of positions.
const LARGEST_SLOPE: &str = "max_alibi_bias";

const JAIS: &[NameRule] = &[
    r("transformer.wte", "token_embd").how(How::Change(|config, piece| scaled(config, piece, "embeddings"))),
    r("transformer.ln_f", "output_norm"),
    r("lm_head", "output").how(How::Change(|config, piece| scaled(config, piece, "output"))),
    r("transformer.h.{}.ln_1", "blk.{}.attn_norm"),
    r("transformer.h.{}.ln_2", "blk.{}.ffn_norm"),
    r("transformer.h.{}.attn.c_attn", "blk.{}.attn_qkv").how(How::Transpose),
    r("transformer.h.{}.attn.c_proj", "blk.{}.attn_output").how(How::Transpose),
    r("transformer.h.{}.mlp.c_fc", "blk.{}.ffn_up").how(How::Transpose),
    r("transformer.h.{}.mlp.c_fc2", "blk.{}.ffn_gate").how(How::Transpose),
    r("transformer.h.{}.mlp.c_proj", "blk.{}.ffn_down").how(How::Transpose),
    r("transformer.relative_pe.slopes", "").how(How::Drop),
];

fn known_kind(config: &mut Config) -> Result<()> {
    for (name, known) in [("activation_function", "swiglu"), ("position_embedding_type", "alibi")] {
        if config.str(name) != Some(known) {
            return Err(Error::input(format!("config.json: {name} is not {known}, the only one that is known")));
        }
    }
    let embeddings = config.need_f64(&["mup_embeddings_scale", "embeddings_scale"])?;
    let output = match config.f64("mup_output_alpha") {
        Some(alpha) => alpha * config.need_f64(&["mup_width_scale"])?,
        None => config.need_f64(&["width_scale"])?,
    };
    config.set("embeddings factor", embeddings);
    config.set("output factor", output);
    Ok(())
}

fn scaled(config: &Config, piece: &Piece, what: &str) -> Result<Rows> {
    let factor = config.need_f64(&[&format!("{what} factor")])? as f32;
    Ok(mapped(&piece.rows, move |v| v * factor))
}

/// The largest slope of positions, from the slopes where they are stored.
fn slopes(config: &mut Config, contents: &Contents<'_>) -> Result<()> {
    if let Some(tensor) = contents.ending("relative_pe.slopes").next() {
        let first = floats(tensor)?.first().copied().unwrap_or(0.5);
        let heads = config.need_u64(&["n_head"])?.max(1);
        let power = 1_u64 << heads.ilog2();
        config.set(LARGEST_SLOPE, -(f64::from(first).log2() * power as f64).round_ties_even());
    }
    Ok(())
}

fn jais(p: &mut Params<'_>) -> Result<()> {
    p.blocks()?;
    p.need_u32("context_length", &["n_positions"])?;
    p.need_u32("embedding_length", &["n_embd"])?;
    p.need_u32("feed_forward_length", &["n_inner"])?;
    p.need_u32("attention.head_count", &["n_head"])?;
    p.need_f32("attention.layer_norm_epsilon", &["layer_norm_epsilon"])?;
    p.file_type();
    Ok(())
}

fn jais2(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let dimensions = head_dim(p.config())?;
    p.u32("rope.dimension_count", dimensions)
}
