//! Weights that a block could not hold: its scale, or that of a part of it, became 0.

use std::ops::Range;

use super::blocks::{each_block, each_piece};
use super::finding::{Place, Sink};
use super::scan::{Scan, Tensor};
use crate::finite::{any_half, iq1m_scale};
use crate::quote::shortened;
use crate::types::{ScaleField, TensorType};

rules! { Data;
    BLOCK_DEGENERATE = "block-degenerate" Warning "ggml (scales of 16 bits)"
        "the weights of a block, or of a part of it with a scale of its own, did not all become 0"
        => "weights were too small or too large for the type: quantize the original again to one with more bits, or to bf16";
}

/// What a block's scale says of it.
#[derive(Clone, Copy, PartialEq)]
enum Held {
    /// Weights.
    Weights,
    /// Weights, but for parts with numbers whose own scale is 0.
    Partly,
    /// Zeros, as an encoder writes them.
    Zeros,
    /// Numbers with a scale of 0: the weights were smaller than any scale.
    Numbers,
}

/// The parts of a superblock. An encoder chooses the numbers of a part before it knows that the scale will be 0, so
/// that those of a part which held weights differ, and those of one which did not are all the same.
struct Parts {
    ty: TensorType,
    /// Whether the scale of a part is 0.
    scale_is_zero: fn(&[u8], usize) -> bool,
    /// The number that stands for a weight.
    number: fn(&[u8], usize) -> u8,
}

const PARTS: [Parts; 7] = [
    Parts {
        ty: TensorType::Q2_K,
        scale_is_zero: |block, part| block[part] & 0x0F == 0,
        number: |block, i| two_bits(&block[16..], i),
    },
    Parts {
        ty: TensorType::Q3_K,
        scale_is_zero: |block, part| {
            let scales = &block[96..108];
            let low = if part < 8 { scales[part] & 0x0F } else { scales[part - 8] >> 4 };
            let high = scales[8 + part % 4] >> (part / 4 * 2) & 3;
            low | high << 4 == 32
        },
        number: |block, i| two_bits(&block[32..], i) | (block[i % 32] >> (i / 32) & 1) << 2,
    },
    Parts {
        ty: TensorType::Q4_K,
        scale_is_zero: |block, part| six_bits(&block[4..16], part) == 0,
        number: |block, i| four_bits(&block[16..], i),
    },
    Parts {
        ty: TensorType::Q5_K,
        scale_is_zero: |block, part| six_bits(&block[4..16], part) == 0,
        number: |block, i| four_bits(&block[48..], i) | (block[16 + i % 32] >> (i / 32) & 1) << 4,
    },
    Parts {
        ty: TensorType::Q6_K,
        scale_is_zero: |block, part| block[192 + part] == 0,
        number: |block, i| {
            let (half, i) = (i / 128, i % 128);
            let low = block[64 * half + i % 64] >> (i / 64 * 4) & 0x0F;
            low | (block[128 + 32 * half + i % 32] >> (i / 32 * 2) & 3) << 4
        },
    },
    Parts {
        ty: TensorType::IQ4_XS,
        scale_is_zero: |block, part| {
            let low = block[4 + part / 2] >> (part % 2 * 4) & 0x0F;
            let high = u16::from_le_bytes([block[2], block[3]]) >> (part * 2) & 3;
            u16::from(low) | high << 4 == 32
        },
        number: |block, i| block[8 + i / 32 * 16 + i % 16] >> (i % 32 / 16 * 4) & 0x0F,
    },
    Parts {
        ty: TensorType::NVFP4,
        scale_is_zero: |block, part| block[part] & 0x7F == 0,
        number: |block, i| block[4 + i / 16 * 8 + i % 8] >> (i % 16 / 8 * 4) & 0x0F,
    },
];

/// Number `i` of `Q2_K` and `Q3_K`: 128 numbers in 32 bytes, 32 of them in the same bits.
fn two_bits(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

/// Number `i` of `Q4_K` and `Q5_K`: 64 numbers in 32 bytes, the first 32 in the lower halves.
fn four_bits(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 0x0F
}

/// A scale of `Q4_K` and `Q5_K`, which share 12 bytes with the minima.
fn six_bits(scales: &[u8], part: usize) -> u8 {
    if part < 4 { scales[part] & 63 } else { scales[part + 4] & 0x0F | scales[part - 4] >> 6 << 4 }
}

/// How blocks of a type are judged.
struct Judge {
    /// Looked up once: there are billions of blocks.
    fields: &'static [ScaleField],
    block_bytes: usize,
    /// Weights of a part, and parts of a block.
    part_len: usize,
    n_parts: usize,
    parts: Option<&'static Parts>,
}

impl Judge {
    fn of(ty: TensorType) -> Judge {
        Judge {
            fields: ty.scale_fields(),
            block_bytes: ty.block_bytes() as usize,
            part_len: ty.scale_len() as usize,
            n_parts: (ty.block_len() / ty.scale_len()) as usize,
            parts: PARTS.iter().find(|parts| parts.ty == ty),
        }
    }

    /// Whether all of these blocks hold weights, as far as one look at their scales tells.
    fn all_hold(&self, blocks: &[u8]) -> bool {
        match (self.parts, self.fields) {
            (None, [ScaleField::F16(at)]) => {
                !any_half(blocks, self.block_bytes, *at as usize, |b| u16::from_le_bytes(b) & 0x7FFF == 0)
            }
            _ => false,
        }
    }

    fn held(&self, block: &[u8]) -> Held {
        let empty = self.fields.iter().all(|&field| scale_is_zero(field, block));
        let numbers = match self.parts {
            Some(parts) => {
                let len = self.part_len;
                let differ = |part: usize| {
                    let mut numbers = (part * len..(part + 1) * len).map(|i| (parts.number)(block, i));
                    let first = numbers.next();
                    numbers.any(|n| Some(n) != first)
                };
                (0..self.n_parts).any(|part| (empty || (parts.scale_is_zero)(block, part)) && differ(part))
            }
            None => empty && self.has_numbers(block),
        };
        match (empty, numbers) {
            (true, true) => Held::Numbers,
            (true, false) => Held::Zeros,
            (false, true) => Held::Partly,
            (false, false) => Held::Weights,
        }
    }

    /// Whether a block is none of zeros. Of these an encoder makes two patterns at most: bits that are all the same, and
    /// those above them.
    fn has_numbers(&self, block: &[u8]) -> bool {
        let mut patterns = [None; 2];
        for (at, &byte) in block.iter().enumerate() {
            if self.fields.iter().any(|field| field.span().contains(&at)) || patterns.contains(&Some(byte)) {
                continue;
            }
            match patterns.iter_mut().find(|p| p.is_none()) {
                Some(free) => *free = Some(byte),
                None => return true,
            }
        }
        false
    }
}

/// Looks for blocks whose scale is 0 although something was to be kept. Rows and columns of zeros alone are padding.
pub(super) fn check(scan: &Scan, tensor: &Tensor, ty: TensorType, span: Range<usize>, sink: &mut Sink<'_>) {
    let judge = Judge::of(ty);
    let across = tensor.dims.first().map_or(0, |row| row / ty.block_len()).max(1);
    let (mut zeros, mut numbers, mut partly) = (0_u64, 0_u64, 0_u64);
    let (mut first, mut first_part) = (u64::MAX, u64::MAX);
    let total = each_piece(scan, ty, span.clone(), |before, piece| {
        if judge.all_hold(piece) {
            return;
        }
        for (i, block) in (before..).zip(piece.chunks_exact(judge.block_bytes)) {
            match judge.held(block) {
                Held::Weights => {}
                Held::Partly => {
                    first_part = first_part.min(i);
                    partly += 1;
                }
                Held::Zeros => zeros += 1,
                Held::Numbers => {
                    first = first.min(i);
                    numbers += 1;
                }
            }
        }
    });
    let mut lost = numbers;
    // Where no block is 0, or none holds anything, there is no need to look again.
    if zeros > 0 && zeros + numbers < total {
        let (mut columns, mut rows) = (Vec::new(), Vec::new());
        each_block(scan, ty, span.clone(), |i, bytes| {
            if matches!(judge.held(bytes), Held::Weights | Held::Partly) {
                for (held, at) in [(&mut columns, i % across), (&mut rows, i / across)] {
                    if held.len() <= at as usize {
                        held.resize(at as usize + 1, false);
                    }
                    held[at as usize] = true;
                }
            }
        });
        let holds = |held: &[bool], at: u64| held.get(at as usize).copied().unwrap_or(false);
        each_block(scan, ty, span.clone(), |i, bytes| {
            if holds(&columns, i % across) && holds(&rows, i / across) && judge.held(bytes) == Held::Zeros {
                first = first.min(i);
                lost += 1;
            }
        });
    }
    let name = shortened(&tensor.name);
    let mut add = |first: u64, what: std::fmt::Arguments<'_>| {
        let at = span.start as u64 + first * ty.block_bytes();
        sink.add(&BLOCK_DEGENERATE, Place::tensor(at, &tensor.name), format_args!("tensor {name}: {what}"));
    };
    if lost > 0 {
        let what = "have a scale of 0, so that their weights are zeros";
        add(first, format_args!("{lost} of {total} blocks of {ty} {what}; the first is block {first}"));
    }
    if partly > 0 {
        let what = format_args!("have parts of {} weights that became all the same", ty.scale_len());
        add(first_part, format_args!("{partly} of {total} blocks of {ty} {what}; the first is block {first_part}"));
    }
    // An encoder that overflows writes what stands for zeros.
    if zeros == total && total > 0 && tensor.dims.len() > 1 {
        add(0, format_args!("all {total} blocks of {ty} have a scale of 0, so that its weights are zeros"));
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
