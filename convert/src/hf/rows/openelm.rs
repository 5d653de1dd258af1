//! OpenELM: another number of heads and another width in every layer.

use gguf::{Error, Result};
use serde_json::Value;

use crate::config::Config;
use crate::hf::{BASE, Class, How, NameRule, Outputs, Params, Piece, r};
use crate::tokenizer::VocabKind;
use crate::transform::sliced;

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["OpenELMForCausalLM"],
    arch: "openelm",
    vocabulary: VocabKind::SentencePiece,
    spelling: &[OPENELM],
    prepare: |config| {
        config.set_blocks(config.need_u64(&["num_transformer_layers"])?);
        Ok(())
    },
    keys: openelm,
    remark: "heads and widths by layer; fused projections taken apart",
    ..BASE
}];

const OPENELM: &[NameRule] = &[
    r("transformer.token_embeddings", "token_embd"),
    r("transformer.norm", "output_norm"),
    r("lm_head", "output"),
    r("transformer.layers.{}.attn_norm", "blk.{}.attn_norm"),
    r("transformer.layers.{}.ffn_norm", "blk.{}.ffn_norm"),
    r("transformer.layers.{}.attn.qkv_proj", "blk.{}.attn_qkv"),
    r("transformer.layers.{}.attn.q_norm", "blk.{}.attn_q_norm"),
    r("transformer.layers.{}.attn.k_norm", "blk.{}.attn_k_norm"),
    r("transformer.layers.{}.attn.out_proj", "blk.{}.attn_output"),
    r("transformer.layers.{}.ffn.proj_1", "blk.{}.ffn_").how(How::Split(gate_and_up)),
    r("transformer.layers.{}.ffn.proj_2", "blk.{}.ffn_down"),
];

/// Widths of the feed-forwards: a multiple of the model's, rounded to one of a divisor, not down by more than a tenth.
fn widths(config: &Config) -> Result<Vec<u64>> {
    let (model, divisor) = (config.need_f64(&["model_dim"])?, config.need_u64(&["ffn_dim_divisor"])?.max(1));
    let factors = config.get("ffn_multipliers").and_then(Value::as_array);
    let factors: Option<Vec<f64>> = factors.and_then(|list| list.iter().map(Value::as_f64).collect());
    let factors = factors.ok_or_else(|| Error::input("config.json has no ffn_multipliers"))?;
    let rounded = |factor: f64| {
        let width = factor * model;
        let near = divisor.max((width + divisor as f64 / 2.0) as u64 / divisor * divisor);
        if (near as f64) < 0.9 * width { near + divisor } else { near }
    };
    Ok(factors.into_iter().map(rounded).collect())
}

fn gate_and_up(config: &Config, piece: &Piece) -> Result<Outputs> {
    let width = widths(config)?.get(piece.block as usize).copied();
    let width = width.ok_or_else(|| Error::input("config.json has no width for its layer"))?;
    let rows = piece.rows.shape().first().copied().unwrap_or(0);
    let rest = rows.checked_sub(width);
    let rest = rest.ok_or_else(|| Error::input(format!("its {rows} rows are fewer than {width}")))?;
    let name = |kind: &str| format!("{}{kind}{}", piece.to, piece.suffix);
    Ok(vec![(name("gate"), sliced(&piece.rows, 0, 0, width)?), (name("up"), sliced(&piece.rows, 0, width, rest)?)])
}

fn openelm(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    let (widths, blocks) = (widths(config)?, config.blocks()?);
    let (queries, keys) = (config.need_list(&["num_query_heads"])?, config.need_list(&["num_kv_heads"])?);
    if [widths.len(), queries.len(), keys.len()].iter().any(|n| *n as u64 != blocks) {
        return Err(Error::input(format!("config.json does not have the heads and widths of {blocks} layers")));
    }
    p.blocks()?;
    p.need_u32("context_length", &["max_context_length"])?;
    p.need_u32("embedding_length", &["model_dim"])?;
    p.i32s("feed_forward_length", &widths)?;
    p.i32s("attention.head_count", &queries)?;
    p.i32s("attention.head_count_kv", &keys)?;
    p.need_f32("rope.freq_base", &["rope_freq_constant"])?;
    p.f32("attention.layer_norm_rms_epsilon", 1e-6);
    let head = config.need_u64(&["head_dim"])?;
    p.u32("rope.dimension_count", head)?;
    p.u32("attention.key_length", head)?;
    p.u32("attention.value_length", head)?;
    p.file_type();
    Ok(())
}
