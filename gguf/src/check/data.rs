//! The values of tensors: what a program that multiplies with them cannot recover from.

use std::ops::Range;

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
        "a block among others that hold weights has a scale that is not 0"
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
            degenerate(scan, tensor, ty, span, sink);
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
fn each_block(scan: &Scan, ty: TensorType, span: Range<usize>, mut look: impl FnMut(u64, &[u8])) -> u64 {
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

/// What a block's scale says of it.
#[derive(Clone, Copy, PartialEq)]
enum Held {
    /// Weights.
    Weights,
    /// Zeros, as an encoder writes them.
    Zeros,
    /// Numbers with a scale of 0: the weights were smaller than any scale.
    Numbers,
}

impl Held {
    fn of(fields: &[ScaleField], block: &[u8]) -> Held {
        if !fields.iter().all(|&field| scale_is_zero(field, block)) {
            return Held::Weights;
        }
        // Of zeros an encoder makes two patterns at most: bits that are all the same, and those above them.
        let mut patterns = [None; 2];
        for (at, &byte) in block.iter().enumerate() {
            if fields.iter().any(|field| field.span().contains(&at)) || patterns.contains(&Some(byte)) {
                continue;
            }
            match patterns.iter_mut().find(|p| p.is_none()) {
                Some(free) => *free = Some(byte),
                None => return Held::Numbers,
            }
        }
        Held::Zeros
    }
}

/// Looks for blocks whose scale is 0 although something was to be kept. Rows and columns of zeros alone are padding.
fn degenerate(scan: &Scan, tensor: &Tensor, ty: TensorType, span: Range<usize>, sink: &mut Sink<'_>) {
    let across = tensor.dims.first().map_or(0, |row| row / ty.block_len()).max(1);
    let (mut columns, mut rows) = (Vec::new(), Vec::new());
    let (mut zeros, mut numbers, mut first) = (0_u64, 0_u64, 0);
    let fields = ty.scale_fields();
    let total = each_block(scan, ty, span.clone(), |i, bytes| match Held::of(fields, bytes) {
        Held::Weights => {
            for (held, at) in [(&mut columns, i % across), (&mut rows, i / across)] {
                if held.len() <= at as usize {
                    held.resize(at as usize + 1, false);
                }
                held[at as usize] = true;
            }
        }
        Held::Zeros => zeros += 1,
        Held::Numbers => {
            if numbers == 0 {
                first = i;
            }
            numbers += 1;
        }
    });
    // A matrix of zeros alone is what its maker wanted, and where no block is 0 there is no need to look again.
    let lost = match zeros {
        0 => 0,
        _ if rows.is_empty() => 0,
        _ => {
            let holds = |held: &[bool], at: u64| held.get(at as usize).copied().unwrap_or(false);
            let mut lost = 0;
            each_block(scan, ty, span.clone(), |i, bytes| {
                if holds(&columns, i % across) && holds(&rows, i / across) && Held::of(fields, bytes) == Held::Zeros {
                    if lost == 0 && (numbers == 0 || i < first) {
                        first = i;
                    }
                    lost += 1;
                }
            });
            lost
        }
    };
    if lost + numbers > 0 {
        let name = shortened(&tensor.name);
        let at = span.start as u64 + first * ty.block_bytes();
        let message = format_args!(
            "tensor {name}: {} of {total} blocks of {ty} have a scale of 0, so that their weights are zeros; the first is \
             block {first}",
            lost + numbers
        );
        sink.add(&BLOCK_DEGENERATE, Place::tensor(at, &tensor.name), message);
    }
}

fn scale_is_zero(field: ScaleField, block: &[u8]) -> bool {
    match field {
        ScaleField::F16(_) | ScaleField::F32(_) => match block.get(field.span()) {
            // A float but for its sign.
            Some([low @ .., high]) => low.iter().all(|&b| b == 0) && high & 0x7F == 0,
            _ => false,
        },
        ScaleField::Iq1m(at) => iq1m_scale(block, at).is_some_and(|scale| scale & 0x7FFF == 0),
        ScaleField::E4m3(at) => block.get(at as usize).is_some_and(|b| b & 0x7F == 0),
        // The least power of two is not 0.
        ScaleField::E8m0(_) => false,
    }
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
fn iq1m_scale(block: &[u8], at: u32) -> Option<u16> {
    let (fields, _) = block.get(at as usize..at as usize + 8)?.as_chunks::<2>();
    Some(fields.iter().rev().fold(0_u16, |scale, &b| scale << 4 | u16::from_le_bytes(b) >> 12))
}
