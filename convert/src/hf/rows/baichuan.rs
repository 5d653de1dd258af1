//! Baichuan 1 and 2.

use gguf::{Error, Result};

use crate::config::Config;
use crate::hf::rows::llama::quotient;
use crate::hf::{BASE, Class, ENDS, GATED, How, NORMS, NameRule, Outputs, Params, Piece, r};
use crate::tokenizer::VocabKind;
use crate::transform::{reordered, sliced};

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["BaichuanForCausalLM", "BaiChuanForCausalLM"],
    arch: "baichuan",
    vocabulary: VocabKind::SentencePiece,
    spelling: &[ENDS, NORMS, GATED, BAICHUAN],
    keys: baichuan,
    remark: "Baichuan 1 and 2; fused query, key and value taken apart",
    ..BASE
}];

const BAICHUAN: &[NameRule] = &[
    r("model.layers.{}.self_attn.W_pack", "blk.{}.attn_").how(How::Split(unpacked)),
    r("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
];

/// Three thirds, of which queries and keys rotate neighbours in the file.
fn unpacked(config: &Config, piece: &Piece) -> Result<Outputs> {
    let heads = config.heads()?;
    let rows = piece.rows.shape().first().copied().unwrap_or(0);
    let half = rows / 3 / heads / 2;
    if half * 2 * heads * 3 != rows {
        return Err(Error::input(format!("its {rows} rows are no query, key and value for {heads} heads")));
    }
    let third = rows / 3;
    let turned = |first: u64| reordered(&piece.rows, first, &[(heads, 2 * half), (half, 1), (2, half)]);
    let name = |kind: &str| format!("{}{kind}{}", piece.to, piece.suffix);
    Ok(vec![
        (name("q"), turned(0)?),
        (name("k"), turned(third)?),
        (name("v"), sliced(&piece.rows, 0, 2 * third, third)?),
    ])
}

fn baichuan(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.set("tensor_data_layout", "Meta AI original pth");
    let head = quotient(p.config())?;
    p.u32("rope.dimension_count", head)
}
