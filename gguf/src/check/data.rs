//! The values of tensors: what a program that multiplies with them cannot recover from.

use std::ops::Range;

use super::lost;
use super::scan::{Scan, Tensor};
use super::{Place, Rule, Sink, shortened};
use crate::endian;
use crate::types::{ScaleField, TensorType};
use crate::value::Endian;

rules! { Data;
    DATA_NONFINITE = "data-nonfinite" Error "llama.cpp (--check-tensors)"
        "no value is NaN or infinite"
        => "the checkpoint is damaged or overflowed in F16; convert again, with --outtype bf16 or f32";
    BLOCK_SCALE_NONFINITE = "block-scale-nonfinite" Error "ggml (row validation)"
        "no block's scale is NaN or infinite"
        => "quantize again from finite weights";
    MXFP4_SCALE_INVALID = "mxfp4-scale-invalid" Error "ggml (row validation)"
        "no MXFP4 block has the exponent 0xFF, which is NaN"
        => "quantize again from finite weights";
    BLOCK_DEGENERATE = "block-degenerate" Warning "ggml (scales of 16 bits)"
        "the weights of a block, or of a part of it with a scale of its own, did not all become 0"
        => "weights were too small or too large for the type: quantize the original again to one with more bits, or to bf16";
}

/// Bytes that are looked at between two releases of mapped pages.
const STEP: usize = 4 << 20;

pub(super) fn check(scan: &Scan, sink: &mut Sink<'_>) {
    let Some(start) = scan.data_start() else { return };
    for tensor in &scan.tensors {
        let Some((ty, bytes)) = tensor.ty.zip(tensor.bytes) else { continue };
        let span = start.checked_add(tensor.offset).and_then(|from| Some((from, from.checked_add(bytes)?)));
        let Some((from, to)) = span.filter(|&(_, to)| to <= scan.bytes.len() as u64) else { continue };
        let span = from as usize..to as usize;
        if let Some(judge) = Judge::of(ty) {
            judge.run(scan, tensor, span.clone(), sink);
        }
        if ty.is_quantized() && !ty.scale_fields().is_empty() {
            lost::check(scan, tensor, ty, span, sink);
        }
    }
}

/// How the blocks of a type are judged.
struct Judge {
    ty: TensorType,
    rule: &'static Rule,
    /// Whether a block, in little-endian order, breaks the rule.
    bad: fn(&[ScaleField], &[u8]) -> bool,
    noun: &'static str,
}

impl Judge {
    fn of(ty: TensorType) -> Option<Judge> {
        let plain = |bad| Some(Judge { ty, rule: &DATA_NONFINITE, bad, noun: "value" });
        match ty {
            TensorType::F16 => plain(|_, b| half_bad(b, 0x7C00)),
            TensorType::BF16 => plain(|_, b| half_bad(b, 0x7F80)),
            TensorType::F32 => plain(|_, b| f32_bad(b)),
            TensorType::F64 => plain(|_, b| b.first_chunk().is_some_and(|&b| !f64::from_le_bytes(b).is_finite())),
            TensorType::MXFP4 => Some(Judge { ty, rule: &MXFP4_SCALE_INVALID, bad: scale_bad, noun: "block" }),
            _ if ty.scale_fields().is_empty() => None,
            _ => Some(Judge { ty, rule: &BLOCK_SCALE_NONFINITE, bad: scale_bad, noun: "block" }),
        }
    }

    fn run(&self, scan: &Scan, tensor: &Tensor, span: Range<usize>, sink: &mut Sink<'_>) {
        let (mut count, mut first) = (0_u64, 0);
        let fields = self.ty.scale_fields();
        let total = each_block(scan, self.ty, span.clone(), |i, bytes| {
            if (self.bad)(fields, bytes) {
                if count == 0 {
                    first = i;
                }
                count += 1;
            }
        });
        if count > 0 {
            let at = span.start as u64 + first * self.ty.block_bytes();
            let (name, noun) = (shortened(&tensor.name), self.noun);
            let message =
                format_args!("tensor {name}: {count} of {total} {noun}s not finite, the first is {noun} {first}");
            sink.add(self.rule, Place::tensor(at, &tensor.name), message);
        }
    }
}

/// Shows every block of a type, in little-endian order with its number, and says how many there were: none where the
/// order of the fields inside is not specified, so that there is nothing to judge.
pub(super) fn each_block(scan: &Scan, ty: TensorType, span: Range<usize>, mut look: impl FnMut(u64, &[u8])) -> u64 {
    let block = ty.block_bytes() as usize;
    let step = STEP / block * block;
    let (mut at, mut n) = (span.start, 0);
    while at < span.end {
        let end = span.end.min(at + step);
        let piece = &scan.bytes[at..end];
        let swapped;
        let blocks = match scan.endian {
            Endian::Little => piece,
            Endian::Big => match endian::swapped(ty, piece) {
                Ok(bytes) => {
                    swapped = bytes;
                    &swapped[..]
                }
                Err(_) => return 0,
            },
        };
        for bytes in blocks.chunks_exact(block) {
            look(n, bytes);
            n += 1;
        }
        scan.release(at..end);
        at = end;
    }
    n
}

fn half_bad(bytes: &[u8], exponent: u16) -> bool {
    bytes.first_chunk().is_some_and(|&b| u16::from_le_bytes(b) & exponent == exponent)
}

fn f32_bad(bytes: &[u8]) -> bool {
    bytes.first_chunk().is_some_and(|&b| !f32::from_le_bytes(b).is_finite())
}

fn scale_bad(fields: &[ScaleField], block: &[u8]) -> bool {
    fields.iter().any(|field| match *field {
        ScaleField::F16(at) => block.get(at as usize..).is_some_and(|b| half_bad(b, 0x7C00)),
        ScaleField::F32(at) => block.get(at as usize..).is_some_and(f32_bad),
        ScaleField::E8m0(at) => block.get(at as usize) == Some(&0xFF),
        ScaleField::E4m3(at) => block.get(at as usize).is_some_and(|b| b & 0x7F == 0x7F),
        ScaleField::Iq1m(at) => iq1m_scale(block, at).is_some_and(|scale| scale & 0x7C00 == 0x7C00),
    })
}

/// The f16 that is put together from the top nibbles of four u16, the lowest first.
pub(super) fn iq1m_scale(block: &[u8], at: u32) -> Option<u16> {
    let (fields, _) = block.get(at as usize..at as usize + 8)?.as_chunks::<2>();
    Some(fields.iter().rev().fold(0_u16, |scale, &b| scale << 4 | u16::from_le_bytes(b) >> 12))
}
