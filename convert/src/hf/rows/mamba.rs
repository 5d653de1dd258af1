//! Mamba: state spaces instead of attention.

use gguf::{Error, Result};

use crate::config::Config;
use crate::hf::{BASE, Class, How, Outputs, Params, Piece, Rule, r};
use crate::tokenizer::VocabKind;
use crate::transform::reshaped;

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["MambaForCausalLM", "MambaLMHeadModel", "FalconMambaForCausalLM"],
    arch: "mamba",
    vocabulary: VocabKind::Mamba,
    spelling: &[MAMBA],
    keys: mamba,
    drop_equal_output: true,
    remark: "Mamba 1, Falcon Mamba",
    ..BASE
}];

const MAMBA: &[Rule] = &[
    r("backbone.embeddings", "token_embd"),
    r("backbone.embedding", "token_embd"),
    r("backbone.norm_f", "output_norm"),
    r("lm_head", "output"),
    r("backbone.layers.{}.norm", "blk.{}.attn_norm"),
    r("backbone.layers.{}.mixer.in_proj", "blk.{}.ssm_in"),
    r("backbone.layers.{}.mixer.conv1d", "blk.{}.ssm_conv1d").how(How::Split(squeezed)),
    r("backbone.layers.{}.mixer.x_proj", "blk.{}.ssm_x"),
    r("backbone.layers.{}.mixer.dt_proj", "blk.{}.ssm_dt"),
    r("backbone.layers.{}.mixer.A_log", "blk.{}.ssm_a").how(How::Map(minus_exp)),
    r("backbone.layers.{}.mixer.D", "blk.{}.ssm_d"),
    r("backbone.layers.{}.mixer.out_proj", "blk.{}.ssm_out"),
];

fn minus_exp(v: f32) -> f32 {
    -crate::transform::exp(v)
}

/// A convolution over one channel has a dimension of 1 that the file leaves out.
fn squeezed(_: &Config, piece: &Piece) -> Result<Outputs> {
    let name = format!("{}{}", piece.to, piece.suffix);
    let shape: Vec<u64> = piece.rows.shape().iter().copied().filter(|d| *d != 1).collect();
    let rows = if piece.suffix == ".weight" { reshaped(&piece.rows, shape)? } else { piece.rows.clone() };
    Ok(vec![(name, rows)])
}

fn mamba(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    let or = |names: &[&str], default: u64| -> Result<u64> {
        match config.first(names) {
            Some(_) => config.need_u64(names).map(|n| if n == 0 { default } else { n }),
            None => Ok(default),
        }
    };
    let width = config.need_u64(&["hidden_size", "d_model"])?;
    let inner = or(&["intermediate_size", "d_inner"], width.saturating_mul(2))?;
    if inner != width.saturating_mul(2) {
        return Err(Error::input(format!("config.json: an inner size of {inner} is not twice the width of {width}")));
    }
    let names = ["layer_norm_epsilon", "rms_norm_eps"];
    let epsilon = if config.first(&names).is_some() { config.need_f64(&names)? } else { 1e-5 };
    // State spaces have no longest context; llama.cpp wants some keys that mean nothing here.
    p.u32("context_length", 1 << 20)?;
    p.u32("embedding_length", width)?;
    p.u32("feed_forward_length", 0)?;
    p.u32("attention.head_count", 0)?;
    p.blocks()?;
    p.u32("ssm.conv_kernel", or(&["conv_kernel", "d_conv"], 4)?)?;
    p.u32("ssm.inner_size", inner)?;
    p.u32("ssm.state_size", or(&["state_size", "d_state"], 16)?)?;
    p.u32("ssm.time_step_rank", or(&["time_step_rank", "dt_rank"], width.div_ceil(16))?)?;
    p.f32("attention.layer_norm_rms_epsilon", epsilon);
    p.set("ssm.dt_b_c_rms", config.str("model_type") == Some("falcon_mamba"));
    p.file_type();
    Ok(())
}
