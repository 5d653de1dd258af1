//! Talkie: gains in place of norms, and rotation the other way round.

use gguf::{Error, Result};

use crate::config::Config;
use crate::hf::contents::floats;
use crate::hf::{BASE, Class, Contents, How, NameRule, Params, Piece, r};
use crate::transform::{Rows, reshaped, scaled_rows};

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["TalkieForCausalLM"],
    arch: "talkie",
    spelling: &[TALKIE],
    inspect: gain_of_head,
    early: |p| p.maybe_f32("logit_scale", &[GAIN]),
    keys: |p| {
        Params::common(p)?;
        // The norms have no term of their own against zero but that of the arithmetic.
        p.f32("attention.layer_norm_rms_epsilon", f64::from(f32::EPSILON));
        Ok(())
    },
    remark: "gains in place of norms with weights",
    ..BASE
}];

const TALKIE: &[NameRule] = &[
    r("model.embed", "token_embd"),
    r("lm_head", "output.weight").how(How::Change(|_, piece| Ok(piece.rows.clone()))),
    r("lm_head_gain.w_g", "").how(How::Drop),
    r("model.blocks.{}.attn.attn_query", "blk.{}.attn_q").how(How::Change(turned_back)),
    r("model.blocks.{}.attn.attn_key", "blk.{}.attn_k").how(How::Change(turned_back)),
    r("model.blocks.{}.attn.attn_value", "blk.{}.attn_v"),
    r("model.blocks.{}.attn.attn_resid", "blk.{}.attn_output"),
    r("model.blocks.{}.attn.head_gain.head_g", "blk.{}.attn_q_norm.weight").how(How::Change(one_a_head)),
    r("model.blocks.{}.attn_gain.a_g", "blk.{}.attn_output.scale"),
    r("model.blocks.{}.mlp_gain.a_g", "blk.{}.ffn_down.scale"),
    r("model.blocks.{}.embed_skip.a_g", "blk.{}.layer_output_scale.weight"),
    r("model.blocks.{}.mlp.mlp_gate", "blk.{}.ffn_gate"),
    r("model.blocks.{}.mlp.mlp_linear", "blk.{}.ffn_up"),
    r("model.blocks.{}.mlp.mlp_resid", "blk.{}.ffn_down"),
];

/// The gain of the output head.
pub(crate) const GAIN: &str = "gain of the output head";

fn gain_of_head(config: &mut Config, contents: &Contents<'_>) -> Result<()> {
    const NAME: &str = "lm_head_gain.w_g";
    if contents.ending(NAME).next().is_none() && !contents.tensors.is_empty() {
        return Err(Error::input(format!("tensor {NAME} is missing")).help("is the checkpoint complete?"));
    }
    if let Some(tensor) = contents.ending(NAME).next() {
        let &[gain] = floats(tensor)?.as_slice() else {
            return Err(Error::input(format!("tensor {} is not one number", tensor.name())));
        };
        config.set(GAIN, gain);
    }
    Ok(())
}

/// The second half of each head negated, which turns the rotation round.
fn turned_back(config: &Config, piece: &Piece) -> Result<Rows> {
    let head = config.need_u64(&["head_dim"])?;
    let rows = piece.rows.shape().first().copied().unwrap_or(0);
    let heads = rows.checked_div(head).filter(|heads| heads * head == rows);
    let heads =
        heads.ok_or_else(|| Error::input(format!("its {rows} rows are not a whole number of heads of {head}")))?;
    let signs: Vec<(u64, f32)> = (0..heads).flat_map(|_| [(head / 2, 1.0), (head - head / 2, -1.0)]).collect();
    Ok(scaled_rows(&piece.rows, &signs))
}

fn one_a_head(_: &Config, piece: &Piece) -> Result<Rows> {
    let shape: Vec<u64> = piece.rows.shape().iter().copied().chain([1]).collect();
    reshaped(&piece.rows, shape)
}
