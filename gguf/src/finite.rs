//! Values and blocks that are not finite, as they stand in a file: little-endian.

use crate::types::{ScaleField, TensorType};

/// Values or blocks of which a pass says at once whether one is not finite, before it says which.
const AT_ONCE: usize = 4096;

/// The number of the first value that is NaN or infinite, or of the first block with a scale that is; none where there
/// is none, and for types that have neither. A rest that makes no whole block is not looked at.
pub fn first(ty: TensorType, bytes: &[u8]) -> Option<usize> {
    let size = ty.block_bytes() as usize;
    pieces(ty, bytes).find_map(|(at, piece)| {
        let found = piece.chunks_exact(size).position(|block| any(ty, block))?;
        Some(at + found)
    })
}

/// How many values are NaN or infinite, or blocks have a scale that is.
pub fn count(ty: TensorType, bytes: &[u8]) -> u64 {
    let size = ty.block_bytes() as usize;
    pieces(ty, bytes).map(|(_, piece)| piece.chunks_exact(size).filter(|block| any(ty, block)).count() as u64).sum()
}

/// The pieces in which something is not finite, each with the number of its first value or block.
fn pieces(ty: TensorType, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let pieces = bytes.chunks(AT_ONCE * ty.block_bytes() as usize).enumerate();
    pieces.filter(move |(_, piece)| any(ty, piece)).map(|(i, piece)| (i * AT_ONCE, piece))
}

/// Without a branch between values, so that it becomes vector instructions.
fn any(ty: TensorType, bytes: &[u8]) -> bool {
    match ty {
        TensorType::F16 => any_of(bytes, |b| half(b, 0x7C00)),
        TensorType::BF16 => any_of(bytes, |b| half(b, 0x7F80)),
        TensorType::F32 => any_of(bytes, |b| !f32::from_le_bytes(b).is_finite()),
        TensorType::F64 => any_of(bytes, |b| !f64::from_le_bytes(b).is_finite()),
        _ => {
            let fields = ty.scale_fields();
            if let [ScaleField::F16(at)] = *fields {
                return any_half(bytes, ty.block_bytes() as usize, at as usize, |b| half(b, 0x7C00));
            }
            let scaled = |block: &[u8]| fields.iter().any(|field| scale(*field, block));
            !fields.is_empty() && bytes.chunks_exact(ty.block_bytes() as usize).any(scaled)
        }
    }
}

fn any_of<const N: usize>(bytes: &[u8], bad: impl Fn([u8; N]) -> bool) -> bool {
    bytes.as_chunks().0.iter().fold(false, |any, &b| any | bad(b))
}

/// Whether the two bytes at a place of some block are such, without a branch between blocks.
pub(crate) fn any_half(bytes: &[u8], size: usize, at: usize, is: impl Fn([u8; 2]) -> bool) -> bool {
    let blocks = bytes.chunks_exact(size);
    blocks.fold(false, |any, block| any | block.get(at..at + 2).is_some_and(|b| is([b[0], b[1]])))
}

fn half(bytes: [u8; 2], exponent: u16) -> bool {
    u16::from_le_bytes(bytes) & exponent == exponent
}

fn scale(field: ScaleField, block: &[u8]) -> bool {
    let from = |at: u32| block.get(at as usize..).unwrap_or_default();
    match field {
        ScaleField::F16(at) => from(at).first_chunk().is_some_and(|&b| half(b, 0x7C00)),
        ScaleField::F32(at) => from(at).first_chunk().is_some_and(|&b| !f32::from_le_bytes(b).is_finite()),
        // E8M0 and E4M3 have no infinities: the bits of all ones are NaN.
        ScaleField::E8m0(at) => from(at).first() == Some(&0xFF),
        ScaleField::E4m3(at) => from(at).first().is_some_and(|b| b & 0x7F == 0x7F),
        ScaleField::Iq1m(at) => iq1m_scale(block, at).is_some_and(|scale| half(scale.to_le_bytes(), 0x7C00)),
    }
}

/// The f16 that is put together from the top nibbles of four u16, the lowest first.
pub(crate) fn iq1m_scale(block: &[u8], at: u32) -> Option<u16> {
    let (fields, _) = block.get(at as usize..at as usize + 8)?.as_chunks::<2>();
    Some(fields.iter().rev().fold(0_u16, |scale, &b| scale << 4 | u16::from_le_bytes(b) >> 12))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of zeros in which this field, or the first value, is not finite.
    fn broken(ty: TensorType, field: Option<ScaleField>) -> Vec<u8> {
        let mut block = vec![0; ty.block_bytes() as usize];
        let (at, bytes): (u32, &[u8]) = match field {
            None if ty == TensorType::F16 => (0, &[0, 0xFC]),
            None if ty == TensorType::BF16 => (0, &[0x80, 0x7F]),
            None if ty == TensorType::F32 => (0, &[1, 0, 0x80, 0x7F]),
            None => (0, &[0, 0, 0, 0, 0, 0, 0xF0, 0x7F]),
            Some(ScaleField::F16(at)) => (at, &[0xFF, 0x7F]),
            Some(ScaleField::F32(at)) => (at, &[0, 0, 0x80, 0xFF]),
            Some(ScaleField::E8m0(at)) => (at, &[0xFF]),
            Some(ScaleField::E4m3(at)) => (at, &[0xFF]),
            Some(ScaleField::Iq1m(at)) => (at, &[0, 0, 0, 0, 0, 0xC0, 0, 0x70]),
        };
        block[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        block
    }

    #[test]
    fn every_type_with_floats_is_looked_at() {
        for ty in TensorType::all() {
            let fields: Vec<Option<ScaleField>> = match ty.scale_fields() {
                [] => vec![None],
                fields => fields.iter().copied().map(Some).collect(),
            };
            let plain = [TensorType::F16, TensorType::BF16, TensorType::F32, TensorType::F64].contains(&ty);
            for field in fields.into_iter().filter(|field| plain || field.is_some()) {
                let broken = broken(ty, field);
                let whole = vec![0; ty.block_bytes() as usize];
                for n in [0, 1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 3] {
                    let bytes = [whole.repeat(n), broken.clone(), whole.clone(), broken.clone()].concat();
                    assert_eq!(first(ty, &bytes), Some(n), "{ty} {field:?}");
                    assert_eq!(count(ty, &bytes), 2, "{ty} {field:?}");
                }
                assert_eq!((first(ty, &whole), count(ty, &whole)), (None, 0), "{ty}");
            }
        }
        assert_eq!((first(TensorType::I8, &[0xFF; 9]), count(TensorType::I8, &[0xFF; 9])), (None, 0));
    }

    #[test]
    fn a_rest_that_is_no_block_is_left_alone() {
        assert_eq!(first(TensorType::F32, &[0, 0, 0, 0, 0xFF, 0xFF, 0xFF]), None);
        assert_eq!(count(TensorType::Q8_0, &[0xFF; 33]), 0);
    }
}
