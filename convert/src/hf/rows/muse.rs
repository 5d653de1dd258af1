//! Muse Glimmer, the text model.

use gguf::{Error, Result};

use crate::config::Config;
use crate::hf::rows::llama::MAX_ROTARY;
use crate::hf::{BASE, Class, ENDS, GATED, How, NameRule, Outputs, Params, Piece, plus_one, r};
use crate::tokenizer::VocabKind;
use crate::transform::rotated;
use crate::transform::values;

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["MuseGlimmerForConditionalGeneration"],
    arch: "muse-glimmer",
    defaults: r#"{"vocab_size": 202048, "hidden_size": 6656, "intermediate_size": 19968, "num_hidden_layers": 52,
        "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-05, "sliding_window": 2048, "final_logit_softcapping": 20.0, "qk_scale_factor": 3.87,
        "output_multiplier": 0.19611613513818404, "tie_word_embeddings": false,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
    vocabulary: VocabKind::MuseGlimmer,
    spelling: &[ENDS, MUSE, GATED],
    prepare: |config| {
        // From the last layer on, every fourth attends to all.
        let kind = |i, layers| if (layers - 1 - i) % 4 == 0 { "full_attention" } else { "sliding_attention" };
        if config.is_known() { config.set_layer_types(kind) } else { Ok(()) }
    },
    keys: muse,
    remark: "the text model; scales of queries as norms of heads; all layers but every fourth slide",
    ..BASE
}];

const NORM: How = How::MapWeight(plus_one);

const MUSE: &[NameRule] = &[
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm").how(NORM),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm").how(NORM),
    r("model.layers.{}.pre_feedforward_layernorm", "blk.{}.ffn_norm").how(NORM),
    r("model.layers.{}.post_feedforward_layernorm", "blk.{}.post_ffw_norm").how(NORM),
    r("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q").how(How::Split(queries_with_norms)),
    r("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k").how(How::RotateKey),
    r("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    r("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    r("model.layers.{}.self_attn.gate_proj", "blk.{}.attn_gate"),
    r("model.layers.{}.self_attn.g_proj", "blk.{}.attn_gate"),
];

/// The model norms queries and keys without weights and scales the queries: that is what the norms' weights are.
fn queries_with_norms(config: &Config, piece: &Piece) -> Result<Outputs> {
    let queries = (format!("{}{}", piece.to, piece.suffix), rotated(&piece.rows, config.heads()?)?);
    if piece.suffix != ".weight" {
        return Ok(vec![queries]);
    }
    let head = config.need_u64(&["head_dim"])?;
    if head > MAX_ROTARY {
        return Err(Error::input(format!("config.json claims heads of {head} dimensions")));
    }
    let scale = config.need_f64(&["qk_scale_factor"])? as f32;
    let norm = |of: &str, value: f32| {
        (format!("blk.{}.attn_{of}_norm.weight", piece.block), values(vec![head], &vec![value; head as usize]))
    };
    Ok(vec![norm("q", scale), norm("k", 1.0), queries])
}

fn muse(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.need_f32("final_logit_softcapping", &["final_logit_softcapping"])?;
    p.need_f32("logit_scale", &["output_multiplier"])?;
    p.need_u32("attention.sliding_window", &["sliding_window"])?;
    p.sliding_pattern(&p.sliding_layers().unwrap_or_default());
    Ok(())
}
