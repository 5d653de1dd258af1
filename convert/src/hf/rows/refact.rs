//! Refact: one key-value head, and ALiBi in place of rotation.

use gguf::Result;

use crate::config::Config;
use crate::hf::{BASE, Class, How, NameRule, Outputs, Params, Piece, r};
use crate::tokenizer::VocabKind;
use crate::transform::{Rows, sliced};

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["GPTRefactForCausalLM"],
    arch: "refact",
    vocabulary: VocabKind::Refact,
    spelling: &[REFACT],
    keys: refact,
    remark: "one head of keys and values, ALiBi",
    ..BASE
}];

const REFACT: &[NameRule] = &[
    r("transformer.wte", "token_embd"),
    r("transformer.ln_f", "output_norm"),
    r("lm_head", "output"),
    r("transformer.h.{}.ln_1", "blk.{}.attn_norm"),
    r("transformer.h.{}.attn.q", "blk.{}.attn_q"),
    r("transformer.h.{}.attn.kv", "blk.{}.attn_")
        .how(How::Split(|config, piece| two(piece, config.need_u64(&["n_embd"])? / config.heads()?, ["k", "v"]))),
    r("transformer.h.{}.attn.c_proj", "blk.{}.attn_output"),
    r("transformer.h.{}.ln_2", "blk.{}.ffn_norm"),
    r("transformer.h.{}.mlp.gate_up_proj", "blk.{}.ffn_")
        .how(How::Split(|config, piece| two(piece, feed_forward(config)?, ["gate", "up"]))),
    r("transformer.h.{}.mlp.c_proj", "blk.{}.ffn_down"),
];

/// Two tensors of one, the first of so many rows.
fn two(piece: &Piece, first: u64, names: [&str; 2]) -> Result<Outputs> {
    let rows = piece.rows.shape().first().copied().unwrap_or(0);
    let part = |name: &str, start: u64, rows: u64| -> Result<(String, Rows)> {
        Ok((format!("{}{name}{}", piece.to, piece.suffix), sliced(&piece.rows, 0, start, rows)?))
    };
    Ok(vec![part(names[0], 0, first)?, part(names[1], first, rows.saturating_sub(first))?])
}

/// Two thirds of four times the width, up to a multiple of 256.
fn feed_forward(config: &Config) -> Result<u64> {
    let width = config.need_u64(&["n_embd"])?;
    Ok((width.saturating_mul(8) / 3).next_multiple_of(256))
}

fn refact(p: &mut Params<'_>) -> Result<()> {
    p.need_u32("context_length", &["n_positions"])?;
    p.need_u32("embedding_length", &["n_embd"])?;
    p.u32("feed_forward_length", feed_forward(p.config())?)?;
    p.blocks()?;
    p.need_u32("attention.head_count", &["n_head"])?;
    p.u32("attention.head_count_kv", 1)?;
    p.need_f32("attention.layer_norm_rms_epsilon", &["layer_norm_epsilon"])?;
    p.file_type();
    Ok(())
}
