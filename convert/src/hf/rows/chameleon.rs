//! Chameleon: the text model, whose heads have norms of their own.

use gguf::{Error, Result};

use crate::hf::{ATTENTION_ROTATED, BASE, Class, ENDS, GATED, How, NORMS, NameRule, Params, Piece, r};
use crate::transform::{Rows, reshaped, view};

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["ChameleonForConditionalGeneration", "ChameleonForCausalLM"],
    arch: "chameleon",
    defaults: r#"{"num_key_value_heads": 32, "rms_norm_eps": 1e-05, "max_position_embeddings": 4096,
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "vocab_size": 65536, "swin_norm": false, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
    spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GATED, CHAMELEON],
    unused: &["model.vqmodel"],
    keys: chameleon,
    remark: "the image tokenizer is left out; one norm for all heads, as stored for the first",
    ..BASE
}];

const CHAMELEON: &[NameRule] = &[
    r("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm").how(How::Change(|c, p| first_head(c.heads()?, p))),
    r("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm").how(How::Change(|c, p| first_head(c.kv_heads()?, p))),
];

/// The first head's row for all heads, its halves interleaved.
fn first_head(heads: u64, piece: &Piece) -> Result<Rows> {
    let &[_, head] = piece.rows.shape() else {
        return Err(Error::input(format!("its shape {:?} is not that of a row for each head", piece.rows.shape())));
    };
    if heads > 1 << 16 || !head.is_multiple_of(2) {
        return Err(Error::input(format!("{heads} heads of {head} dimensions do not rotate in pairs")));
    }
    let single = view(&piece.rows, vec![heads * head, 1], 0, &[(heads, 0), (head / 2, 1), (2, head / 2), (1, 1)])?;
    reshaped(&single, vec![heads, head])
}

fn chameleon(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let swin = p.config().bool("swin_norm").unwrap_or(false);
    p.set("swin_norm", swin);
    Ok(())
}
