//! The blocks of a tensor, piece by piece, so that mapped pages can be given back.

use std::ops::Range;

use super::scan::Scan;
use crate::endian;
use crate::types::TensorType;
use crate::value::Endian;

/// Bytes that are looked at between two releases of mapped pages.
const STEP: usize = 4 << 20;

/// Shows every block of a type, in little-endian order with its number, and says how many there were: none where the
/// order of the fields inside is not specified, so that there is nothing to judge.
pub(super) fn each_block(scan: &Scan, ty: TensorType, span: Range<usize>, mut look: impl FnMut(u64, &[u8])) -> u64 {
    each_piece(scan, ty, span, |before, piece| {
        (before..).zip(piece.chunks_exact(ty.block_bytes() as usize)).for_each(|(n, block)| look(n, block));
    })
}

/// The same by pieces of whole blocks, each with the number of blocks before it.
pub(super) fn each_piece(scan: &Scan, ty: TensorType, span: Range<usize>, mut look: impl FnMut(u64, &[u8])) -> u64 {
    let block = ty.block_bytes() as usize;
    let step = STEP / block * block;
    let (mut at, mut n) = (span.start, 0);
    while at < span.end {
        let end = span.end.min(at + step);
        let piece = &scan.bytes[at..end];
        let swapped;
        let piece = match scan.endian {
            Endian::Little => piece,
            Endian::Big => match endian::swapped(ty, piece) {
                Ok(bytes) => {
                    swapped = bytes;
                    &swapped[..]
                }
                Err(_) => return 0,
            },
        };
        look(n, piece);
        n += (piece.len() / block) as u64;
        scan.release(at..end);
        at = end;
    }
    n
}
