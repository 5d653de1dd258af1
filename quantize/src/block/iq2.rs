//! `IQ2_XXS`, `IQ2_XS` and `IQ2_S`: groups of eight values of three levels from grids of 256, 512 and 1024 points.
//!
//! Blocks of 256 values:
//!
//! * `IQ2_XXS`: `d` f16, then for each 32 values four indices of 8 bits and a u32 with four sets of 7 signs and a scale
//!   of 4 bits;
//! * `IQ2_XS`: `d` f16, `q[32]` u16 with an index of 9 bits and 7 signs, `s[8]` two scales of 4 bits, one for 16 values;
//! * `IQ2_S`: `d` f16, `q[32]` the low 8 bits of an index, `signs[32]`, `h[8]` the high 2 bits of four indices, `s[8]`.
//!
//! Where signs have 7 bits, the eighth makes their number even. x ≈ ± d (½ + scale)/4 × 8, 25 or 43.

use gguf::TensorType;

use super::Block;
use super::grid::{self, Eight, Grid, Unweighted};
use super::lattice::{self, Again, Lane, Rules};
use super::levels::{Coded, Rounded};
use crate::codec::ImportanceUse;
use crate::lanes::{Floats, Rows, half_value};

pub(crate) struct IQ2XXS;
pub(crate) struct IQ2XS;
pub(crate) struct IQ2S;

/// What the levels stand for in a decoded block.
const LEVELS: [f32; 4] = [8.0, 25.0, 43.0, 0.0];

/// The eighth sign makes the number of minus signs even.
#[inline(always)]
pub(super) fn even(signs: u8) -> u8 {
    signs | ((signs.count_ones() as u8 & 1) << 7)
}

/// Decodes eight values.
#[inline(always)]
fn eight(code: u16, signs: u8, d: f32, out: &mut [f32; 8]) {
    for (i, out) in out.iter_mut().enumerate() {
        let x = d * LEVELS[usize::from(code >> (2 * i) & 3)];
        *out = if signs >> i & 1 != 0 { -x } else { x };
    }
}

#[inline(always)]
fn scale(d: f32, level: u8) -> f32 {
    d * (0.5 + f32::from(level)) * 0.25
}

impl Rules for IQ2XXS {
    type Shape = Eight;
    const GRID: &'static Grid = &grid::IQ2_XXS;
    const SUB: usize = 32;
    const SIGMA: f32 = 1.0;
    const EVEN: bool = true;
    const TINY: f32 = 1e-15;
    const REACH: i32 = 6;
    const STEP: f32 = 0.1;
    const FITTED: bool = true;
    const AGAIN: Again = Again::All;
    const FUDGE: f32 = 1.0;

    #[inline(always)]
    fn write(lane: &Lane, block: &mut [u8]) {
        if lane.zero {
            return;
        }
        block[..2].copy_from_slice(&lane.d.to_le_bytes());
        for (ib, words) in block[2..].as_chunks_mut::<8>().0.iter_mut().enumerate() {
            for (byte, &index) in words.iter_mut().zip(&lane.index[4 * ib..][..4]) {
                *byte = index as u8;
            }
            words[4..].copy_from_slice(&signs_and_scale(lane, ib));
        }
    }
}

/// Four sets of 7 signs and a scale of 4 bits.
#[inline(always)]
pub(super) fn signs_and_scale(lane: &Lane, ib: usize) -> [u8; 4] {
    let mut word = u32::from(lane.scales[ib]) << 28;
    for k in 0..4 {
        word |= u32::from(lane.signs[4 * ib + k]) << (7 * k);
    }
    word.to_le_bytes()
}

impl Block for IQ2XXS {
    const TYPE: TensorType = TensorType::IQ2_XXS;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Required;
    const SIZE: (usize, usize) = (256, 2 + 256 / 32 * 8);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<{ IQ2XXS::SIZE.1 }>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = half_value([block[0], block[1]]);
            for (words, out) in block[2..].as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<32>().0) {
                let word = u32::from_le_bytes([words[4], words[5], words[6], words[7]]);
                let d = scale(d, (word >> 28) as u8);
                for (k, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                    let code = grid::IQ2_XXS.points[usize::from(words[k])];
                    eight(code, even((word >> (7 * k) & 127) as u8), d, out);
                }
            }
        }
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        lattice::encode::<F, Self>(rows, Self::SIZE.1, out);
    }
}

impl Rules for IQ2XS {
    type Shape = Eight;
    const GRID: &'static Grid = &grid::IQ2_XS;
    const SUB: usize = 16;
    const SIGMA: f32 = 1.0;
    const EVEN: bool = true;
    const TINY: f32 = 1e-15;
    const REACH: i32 = 9;
    const STEP: f32 = 0.1;
    const AGAIN: Again = Again::Off;
    const FUDGE: f32 = 1.0;

    #[inline(always)]
    fn write(lane: &Lane, block: &mut [u8]) {
        if lane.zero {
            return;
        }
        block[..2].copy_from_slice(&lane.d.to_le_bytes());
        for (k, word) in block[2..66].as_chunks_mut::<2>().0.iter_mut().enumerate() {
            *word = (lane.index[k] | u16::from(lane.signs[k]) << 9).to_le_bytes();
        }
        put_nibbles(&lane.scales, &mut block[66..]);
    }
}

/// Two scales of 4 bits a byte, the first in the low bits.
#[inline(always)]
pub(super) fn put_nibbles(scales: &[u8], bytes: &mut [u8]) {
    for (byte, pair) in bytes.iter_mut().zip(scales.as_chunks::<2>().0) {
        *byte = pair[0] | pair[1] << 4;
    }
}

/// Scale `j` of those that [`put_nibbles`] wrote.
#[inline(always)]
fn nibble(bytes: &[u8], j: usize) -> u8 {
    bytes[j / 2] >> (4 * (j % 2)) & 15
}

/// The scales of a block in the order of its values.
#[inline(always)]
fn nibble_scales(d: f32, bytes: &[u8], scales: &mut [f32]) {
    for (j, to) in scales.iter_mut().enumerate() {
        *to = scale(d, nibble(bytes, j));
    }
}

impl IQ2XS {
    /// The levels and signs of the eight values of group `k`.
    #[inline(always)]
    fn point(block: &[u8], k: usize) -> (u16, u8) {
        let word = u16::from_le_bytes([block[2 + 2 * k], block[3 + 2 * k]]);
        (grid::IQ2_XS.points[usize::from(word & 511)], even((word >> 9) as u8))
    }
}

impl Block for IQ2XS {
    const TYPE: TensorType = TensorType::IQ2_XS;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Required;
    const SIZE: (usize, usize) = (256, 2 + 256 / 8 * 2 + 256 / 32);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<{ IQ2XS::SIZE.1 }>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = half_value([block[0], block[1]]);
            for (k, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let (code, signs) = IQ2XS::point(block, k);
                eight(code, signs, scale(d, nibble(&block[66..], k / 2)), out);
            }
        }
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        lattice::encode::<F, Self>(rows, Self::SIZE.1, out);
    }
}

impl Rules for IQ2S {
    type Shape = Eight;
    const GRID: &'static Grid = &grid::IQ2_S;
    const SUB: usize = 16;
    const SIGMA: f32 = 2.0;
    const UNWEIGHTED: Unweighted = Unweighted::Raised;
    const EVEN: bool = false;
    const TINY: f32 = 1e-8;
    const REACH: i32 = 9;
    const STEP: f32 = 0.1;
    const SHORT: bool = true;
    const AGAIN: Again = Again::Off;
    const FUDGE: f32 = 0.9875;

    #[inline(always)]
    fn write(lane: &Lane, block: &mut [u8]) {
        block[..2].copy_from_slice(&lane.d.to_le_bytes());
        for k in 0..32 {
            block[2 + k] = lane.index[k] as u8;
            block[34 + k] = lane.signs[k];
            block[66 + k / 4] |= ((lane.index[k] >> 8) << (2 * (k % 4))) as u8;
        }
        put_nibbles(&lane.scales, &mut block[74..]);
    }
}

impl IQ2S {
    /// The levels and signs of the eight values of group `k`.
    #[inline(always)]
    fn point(block: &[u8], k: usize) -> (u16, u8) {
        let high = usize::from(block[66 + k / 4] >> (2 * (k % 4)) & 3);
        (grid::IQ2_S.points[usize::from(block[2 + k]) | high << 8], block[34 + k])
    }
}

impl Block for IQ2S {
    const TYPE: TensorType = TensorType::IQ2_S;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Used;
    const SIZE: (usize, usize) = (256, 2 + 256 / 8 + 256 / 8 + 256 / 32 + 256 / 32);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<{ IQ2S::SIZE.1 }>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = half_value([block[0], block[1]]);
            for (k, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let (code, signs) = IQ2S::point(block, k);
                eight(code, signs, scale(d, nibble(&block[74..], k / 2)), out);
            }
        }
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        lattice::encode::<F, Self>(rows, Self::SIZE.1, out);
    }
}

/// The largest level.
const FARTHEST: u8 = 43;

/// The codes of eight values, by [`Coded`].
#[inline(always)]
fn eight_codes(code: u16, signs: u8, to: &mut [u8]) {
    for (i, to) in to.iter_mut().enumerate() {
        let level = LEVELS[usize::from(code >> (2 * i) & 3)] as u8;
        *to = if signs >> i & 1 != 0 { FARTHEST - level } else { FARTHEST + level };
    }
}

impl Coded for IQ2XXS {
    const ROUNDED: Rounded = Rounded::Q8K;
    const GROUP: usize = 32;
    const OFFSET: u8 = FARTHEST;
    const MOST: u8 = 2 * FARTHEST;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        let d = half_value([block[0], block[1]]);
        for (ib, words) in block[2..].as_chunks::<8>().0.iter().enumerate() {
            let word = u32::from_le_bytes([words[4], words[5], words[6], words[7]]);
            scales[ib] = scale(d, (word >> 28) as u8);
            for (k, codes) in codes[32 * ib..][..32].as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let code = grid::IQ2_XXS.points[usize::from(words[k])];
                eight_codes(code, even((word >> (7 * k) & 127) as u8), codes);
            }
        }
    }
}

impl Coded for IQ2XS {
    const ROUNDED: Rounded = Rounded::Q8K;
    const GROUP: usize = 16;
    const OFFSET: u8 = FARTHEST;
    const MOST: u8 = 2 * FARTHEST;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        let d = half_value([block[0], block[1]]);
        nibble_scales(d, &block[66..], scales);
        for (k, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let (code, signs) = IQ2XS::point(block, k);
            eight_codes(code, signs, codes);
        }
    }
}

impl Coded for IQ2S {
    const ROUNDED: Rounded = Rounded::Q8K;
    const GROUP: usize = 16;
    const OFFSET: u8 = FARTHEST;
    const MOST: u8 = 2 * FARTHEST;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        let d = half_value([block[0], block[1]]);
        nibble_scales(d, &block[74..], scales);
        for (k, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let (code, signs) = IQ2S::point(block, k);
            eight_codes(code, signs, codes);
        }
    }
}
