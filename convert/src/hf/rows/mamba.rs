//! Mamba 1 and 2: state spaces instead of attention.

use gguf::{Error, Result};

use crate::config::Config;
use crate::hf::{BASE, Class, How, NameRule, Params, Piece, r};
use crate::tokenizer::VocabKind;
use crate::transform::{Rows, mapped, reshaped, squeezed};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["MambaForCausalLM", "MambaLMHeadModel", "FalconMambaForCausalLM"],
        arch: "mamba",
        vocabulary: VocabKind::Mamba,
        spelling: &[MAMBA],
        keys: mamba,
        drop_equal_output: true,
        remark: "Mamba 1, Falcon Mamba",
        ..BASE
    },
    Class {
        names: &["Mamba2ForCausalLM"],
        arch: "mamba2",
        vocabulary: VocabKind::Mamba2,
        spelling: &[MAMBA2],
        prefixes: &[("model.backbone", "backbone"), ("model.lm_head", "lm_head")],
        keys: mamba2,
        remark: "Mamba 2, Codestral Mamba",
        ..BASE
    },
];

const MAMBA: &[NameRule] = &[
    r("backbone.embeddings", "token_embd"),
    r("backbone.embedding", "token_embd"),
    r("backbone.norm_f", "output_norm"),
    r("lm_head", "output"),
    r("backbone.layers.{}.norm", "blk.{}.attn_norm"),
    r("backbone.layers.{}.mixer.in_proj", "blk.{}.ssm_in"),
    r("backbone.layers.{}.mixer.conv1d", "blk.{}.ssm_conv1d").how(How::Change(convolution)),
    r("backbone.layers.{}.mixer.x_proj", "blk.{}.ssm_x"),
    r("backbone.layers.{}.mixer.dt_proj", "blk.{}.ssm_dt"),
    r("backbone.layers.{}.mixer.A_log", "blk.{}.ssm_a").how(How::Map(minus_exp)),
    r("backbone.layers.{}.mixer.D", "blk.{}.ssm_d"),
    r("backbone.layers.{}.mixer.out_proj", "blk.{}.ssm_out"),
];

const MAMBA2: &[NameRule] = &[
    r("backbone.embeddings", "token_embd"),
    r("backbone.embedding", "token_embd"),
    r("backbone.norm_f", "output_norm"),
    r("lm_head", "output"),
    r("backbone.layers.{}.norm", "blk.{}.attn_norm"),
    r("backbone.layers.{}.mixer.in_proj", "blk.{}.ssm_in"),
    r("backbone.layers.{}.mixer.conv1d", "blk.{}.ssm_conv1d").how(How::Change(convolution)),
    r("backbone.layers.{}.mixer.dt_bias", "blk.{}.ssm_dt.bias"),
    r("backbone.layers.{}.mixer.A_log", "blk.{}.ssm_a").how(How::Change(decay_a_head)),
    r("backbone.layers.{}.mixer.D", "blk.{}.ssm_d").how(How::Change(column)),
    r("backbone.layers.{}.mixer.norm", "blk.{}.ssm_norm").how(How::Change(norm_a_group)),
    r("backbone.layers.{}.mixer.out_proj", "blk.{}.ssm_out"),
];

/// The decay of a state space from its logarithm.
pub(super) fn minus_exp(v: f32) -> f32 {
    -crate::transform::exp(v)
}

/// A convolution over one channel has a dimension of 1 that the file leaves out.
pub(super) fn convolution(_: &Config, piece: &Piece) -> Result<Rows> {
    if piece.suffix == ".weight" { squeezed(&piece.rows) } else { Ok(piece.rows.clone()) }
}

/// One value a head, as a column.
pub(super) fn column(_: &Config, piece: &Piece) -> Result<Rows> {
    let mut shape = piece.rows.shape().to_vec();
    shape.push(1);
    reshaped(&piece.rows, shape)
}

/// The decay of each head from its logarithm, as a column.
pub(super) fn decay_a_head(config: &Config, piece: &Piece) -> Result<Rows> {
    Ok(mapped(&column(config, piece)?, minus_exp))
}

fn norm_a_group(config: &Config, piece: &Piece) -> Result<Rows> {
    let groups = config.u64_or(&["n_groups"], 1)?;
    in_groups(&piece.rows, groups)
}

/// A vector as one row a group.
pub(super) fn in_groups(rows: &Rows, groups: u64) -> Result<Rows> {
    let size: u64 = rows.shape().iter().product();
    if groups == 0 || !size.is_multiple_of(groups) {
        return Err(Error::input(format!("its {size} values do not divide into {groups} groups")));
    }
    reshaped(rows, vec![groups, size / groups])
}

fn mamba(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    let width = config.need_u64(&["hidden_size", "d_model"])?;
    let inner = config.u64_or(&["intermediate_size", "d_inner"], width.saturating_mul(2))?;
    if inner != width.saturating_mul(2) {
        return Err(Error::input(format!("config.json: an inner size of {inner} is not twice the width of {width}")));
    }
    // State spaces have no longest context; llama.cpp wants some keys that mean nothing here.
    without_attention(p, width)?;
    p.u32("ssm.conv_kernel", config.u64_or(&["conv_kernel", "d_conv"], 4)?)?;
    p.u32("ssm.inner_size", inner)?;
    p.u32("ssm.state_size", config.u64_or(&["state_size", "d_state"], 16)?)?;
    p.u32("ssm.time_step_rank", config.u64_or(&["time_step_rank", "dt_rank"], width.div_ceil(16))?)?;
    p.f32("attention.layer_norm_rms_epsilon", config.f64_or(&["layer_norm_epsilon", "rms_norm_eps"], 1e-5)?);
    p.set("ssm.dt_b_c_rms", config.str("model_type") == Some("falcon_mamba"));
    p.file_type();
    Ok(())
}

fn without_attention(p: &mut Params<'_>, width: u64) -> Result<()> {
    p.u32("context_length", 1 << 20)?;
    p.u32("embedding_length", width)?;
    p.u32("feed_forward_length", 0)?;
    p.u32("attention.head_count", 0)?;
    p.blocks()
}

fn mamba2(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    let width = config.need_u64(&["hidden_size", "d_model", "dim"])?;
    let expanded = width.saturating_mul(config.u64_or(&["mamba_expand", "expand"], 2)?);
    let inner = config.u64_or(&["mamba_d_ssm", "intermediate_size", "d_inner"], expanded)?;
    let head = config.u64_or(&["mamba_d_head", "head_dim"], 64)?;
    if inner != expanded || inner % head != 0 {
        let what = format!("an inner size of {inner} is not {expanded}, or no whole number of heads of {head}");
        return Err(Error::input(format!("config.json: {what}")));
    }
    without_attention(p, width)?;
    p.u32("ssm.conv_kernel", config.u64_or(&["conv_kernel", "d_conv"], 4)?)?;
    p.u32("ssm.inner_size", inner)?;
    p.u32("ssm.state_size", config.u64_or(&["state_size", "d_state"], 128)?)?;
    p.u32("ssm.time_step_rank", inner / head)?;
    p.u32("ssm.group_count", config.u64_or(&["n_groups"], 1)?)?;
    p.f32("attention.layer_norm_rms_epsilon", config.f64_or(&["layer_norm_epsilon", "rms_norm_eps"], 1e-5)?);
    p.file_type();
    Ok(())
}
