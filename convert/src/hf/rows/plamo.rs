//! PLaMo 1 to 3.

use gguf::{Error, Result};

use crate::config::Config;
use crate::hf::rows::mamba::{convolution, minus_exp};
use crate::hf::{BASE, Class, How, NameRule, Params, Piece, plus_one, r};
use crate::tokenizer::VocabKind;
use crate::transform::{Rows, reordered, reshaped, view};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["PlamoForCausalLM"],
        arch: "plamo",
        vocabulary: VocabKind::SentencePiece,
        spelling: &[PLAMO],
        keys: plamo,
        remark: "PLaMo 13B: query heads in the order of llama.cpp's broadcast",
        ..BASE
    },
    Class {
        names: &["Plamo2ForCausalLM", "PLaMo2ForCausalLM"],
        arch: "plamo2",
        vocabulary: VocabKind::Plamo2,
        spelling: &[PLAMO23, PLAMO2],
        keys: plamo2,
        remark: "state spaces and attention; norms that store their distance",
        ..BASE
    },
    Class {
        names: &["Plamo3ForCausalLM", "PLaMo3ForCausalLM"],
        arch: "plamo3",
        vocabulary: VocabKind::Plamo3,
        spelling: &[PLAMO23, PLAMO3],
        prepare: scaled_context,
        keys: plamo3,
        remark: "layers that slide; norms that store their distance",
        ..BASE
    },
];

const PLAMO: &[NameRule] = &[
    r("model.embed_tokens", "token_embd"),
    r("model.norm", "output_norm"),
    r("lm_head", "output"),
    r("model.layers.layers.{}.norm", "blk.{}.attn_norm"),
    r("model.layers.layers.{}.self_attn.q_proj", "blk.{}.attn_q").how(How::Change(queries)),
    r("model.layers.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    r("model.layers.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    r("model.layers.layers.{}.self_attn.o_proj", "blk.{}.attn_output").how(How::Change(output)),
    r("model.layers.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    r("model.layers.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    r("model.layers.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
];

const NORM: How = How::Map(plus_one);

/// Norms after mixer and feed-forward are far smaller than 1 where training begins.
const AFTER_MIXER: How = How::Map(|v| v + 0.2);
const AFTER_FEED_FORWARD: How = How::Map(|v| v + (1.0 / 11.180_339_887_498_949) as f32);

/// The names of some norms end in the file where that of the module does.
const PLAMO23: &[NameRule] = &[
    r("model.embed_tokens", "token_embd"),
    r("model.norm", "output_norm").how(NORM),
    r("lm_head", "output"),
    r("model.layers.layers.{}.pre_mixer_norm", "blk.{}.attn_norm").how(NORM),
    r("model.layers.layers.{}.post_mixer_norm.weight", "blk.{}.post_attention_norm").how(AFTER_MIXER),
    r("model.layers.layers.{}.pre_mlp_norm", "blk.{}.ffn_norm").how(NORM),
    r("model.layers.layers.{}.post_mlp_norm.weight", "blk.{}.post_ffw_norm").how(AFTER_FEED_FORWARD),
    r("model.layers.layers.{}.mixer.qkv_proj", "blk.{}.attn_qkv"),
    r("model.layers.layers.{}.mixer.o_proj", "blk.{}.attn_output"),
    r("model.layers.layers.{}.mlp.gate_up_proj", "blk.{}.ffn_up"),
    r("model.layers.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
];

const PLAMO2: &[NameRule] = &[
    r("model.layers.layers.{}.mixer.q_weight", "blk.{}.attn_q_norm.weight"),
    r("model.layers.layers.{}.mixer.k_weight", "blk.{}.attn_k_norm.weight"),
    r("model.layers.layers.{}.mixer.in_proj", "blk.{}.ssm_in"),
    r("model.layers.layers.{}.mixer.conv1d", "blk.{}.ssm_conv1d").how(How::Change(convolution)),
    r("model.layers.layers.{}.mixer.bcdt_proj", "blk.{}.ssm_x"),
    r("model.layers.layers.{}.mixer.dt_proj", "blk.{}.ssm_dt"),
    r("model.layers.layers.{}.mixer.dt_bias", "blk.{}.ssm_dt.bias"),
    r("model.layers.layers.{}.mixer.A_log", "blk.{}.ssm_a").how(How::Map(minus_exp)),
    r("model.layers.layers.{}.mixer.D", "blk.{}.ssm_d"),
    r("model.layers.layers.{}.mixer.out_proj", "blk.{}.ssm_out"),
    r("model.layers.layers.{}.mixer.dt_norm_weight", "blk.{}.ssm_dt_norm"),
    r("model.layers.layers.{}.mixer.B_norm_weight", "blk.{}.ssm_b_norm"),
    r("model.layers.layers.{}.mixer.C_norm_weight", "blk.{}.ssm_c_norm"),
];

const PLAMO3: &[NameRule] = &[
    r("model.layers.layers.{}.mixer.q_norm", "blk.{}.attn_q_norm").how(NORM),
    r("model.layers.layers.{}.mixer.k_norm", "blk.{}.attn_k_norm").how(NORM),
];

/// PLaMo 13B's heads: as many of keys and values, each with so many queries of so many dimensions.
const GROUPS: u64 = 5;
const QUERIES: u64 = 8;
const HEAD: u64 = 128;

fn square(piece: &Piece) -> Result<u64> {
    let width = GROUPS * QUERIES * HEAD;
    if piece.rows.shape() != [width, width] {
        let shape = piece.rows.shape();
        return Err(Error::input(format!("its shape is {shape:?}, that of PLaMo 13B is [{width}, {width}]")));
    }
    Ok(width)
}

fn queries(_: &Config, piece: &Piece) -> Result<Rows> {
    square(piece)?;
    reordered(&piece.rows, 0, &[(GROUPS, HEAD), (QUERIES, GROUPS * HEAD), (HEAD, 1)])
}

fn output(_: &Config, piece: &Piece) -> Result<Rows> {
    let width = square(piece)?;
    let axes = [(width, width), (GROUPS, HEAD), (QUERIES, GROUPS * HEAD), (HEAD, 1)];
    reshaped(&view(&piece.rows, vec![width * GROUPS * QUERIES, HEAD], 0, &axes)?, vec![width, width])
}

fn plamo(p: &mut Params<'_>) -> Result<()> {
    p.u32("context_length", 4096)?;
    p.need_u32("embedding_length", &["hidden_size"])?;
    p.need_u32("feed_forward_length", &["intermediate_size"])?;
    p.blocks()?;
    p.need_u32("attention.head_count", &["num_attention_heads"])?;
    // The configuration's number is wrong.
    p.u32("attention.head_count_kv", GROUPS)?;
    p.need_f32("attention.layer_norm_rms_epsilon", &["rms_norm_eps"])?;
    p.file_type();
    Ok(())
}

fn plamo2(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    let or = |name: &str, usual: u64| config.u64(name).unwrap_or(usual);
    p.need_u32("vocab_size", &["vocab_size"])?;
    let (step, blocks) = (or("mamba_step", 2).max(1), config.blocks()?);
    if config.bool("mamba_enabled") != Some(false) {
        let attends = |i: u64| if blocks <= step / 2 { i + 1 == blocks } else { i % step == step / 2 };
        let of = |heads: u64| (0..blocks).map(|i| if attends(i) { heads } else { 0 }).collect::<Vec<_>>();
        p.i32s("attention.head_count_kv", &of(or("num_key_value_heads", 4)))?;
        p.i32s("attention.head_count", &of(or("num_attention_heads", 32)))?;
    }
    let (head, heads) = (or("hidden_size_per_head", 128), or("mamba_num_heads", 64));
    p.u32("context_length", or("max_position_embeddings", 2048))?;
    p.u32("embedding_length", or("hidden_size", 4096))?;
    p.u32("attention.key_length", head)?;
    p.u32("attention.value_length", head)?;
    p.blocks()?;
    p.f32("attention.layer_norm_rms_epsilon", config.f64("rms_norm_eps").unwrap_or(1e-6));
    p.f32("rope.freq_base", config.rope_f64("rope_theta").unwrap_or(10000.0));
    p.u32("ssm.state_size", or("mamba_d_state", 64))?;
    p.u32("ssm.conv_kernel", or("mamba_d_conv", 4))?;
    p.u32("ssm.time_step_rank", heads)?;
    p.u32("ssm.inner_size", heads.saturating_mul(head))?;
    p.u32("ssm.group_count", 0)?;
    p.u32("feed_forward_length", or("intermediate_size", 13312))?;
    p.file_type();
    Ok(())
}

/// A longer context than trained for is told by flat keys.
fn scaled_context(config: &mut Config) -> Result<()> {
    let factor = config.f64("rope_scaling_factor").unwrap_or(1.0);
    if factor == 1.0 || config.rope().contains_key("rope_type") {
        return Ok(());
    }
    let original = config.need_u64(&["initial_context_length"])?;
    for (key, value) in [
        ("rope_type", serde_json::Value::from("yarn")),
        ("factor", factor.into()),
        ("original_max_position_embeddings", original.into()),
        ("beta_fast", 32.0.into()),
        ("beta_slow", 1.0.into()),
    ] {
        config.set_rope(key, value);
    }
    Ok(())
}

fn plamo3(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    p.need_u32("vocab_size", &["vocab_size"])?;
    if config.first(&["window_size", "sliding_window"]).is_none() {
        return Ok(());
    }
    p.need_u32("attention.sliding_window", &["window_size", "sliding_window"])?;
    let pattern = config.get("sliding_window_pattern");
    match pattern.and_then(|pattern| pattern.as_array()) {
        Some(list) => {
            let slides: Vec<bool> = list.iter().map(|slides| slides.as_bool() == Some(true)).collect();
            p.sliding_pattern(&slides);
            Ok(())
        }
        None => p.need_u32("attention.sliding_window_pattern", &["sliding_window_pattern"]),
    }
}
