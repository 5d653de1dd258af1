//! `IQ3_XXS` and `IQ3_S`: groups of four values of eight levels from grids of 256 and 512 points.
//!
//! Blocks of 256 values:
//!
//! * `IQ3_XXS`: `d` f16, `q[64]` indices, then for each 32 values a u32 with four sets of 7 signs and a scale of 4 bits;
//!   x ≈ ± d (½ + scale)/2 × 4, 12, … 52 or 62;
//! * `IQ3_S`: `d` f16, `q[64]` the low 8 bits of an index, `h[8]` the high bits of eight indices, `signs[32]`, `s[4]`
//!   two scales of 4 bits, one for 32 values; x ≈ ± d (1 + 2 scale) × 1, 3, … 15.

use gguf::TensorType;
use gguf::decode::grids;

use super::Block;
use super::grid::{self, Four, Grid};
use super::iq2::{even, put_nibbles, signs_and_scale};
use super::lattice::{self, Again, Lane, Rules};
use super::levels::{Coded, Rounded};
use crate::codec::ImportanceUse;
use crate::lanes::{Floats, Ints, Rows, half_value};

pub(crate) struct IQ3XXS;
pub(crate) struct IQ3S;

/// What the levels of `IQ3_XXS` stand for in a decoded block, and those of `IQ3_S`.
const XXS_LEVELS: [u8; 8] = [4, 12, 20, 28, 36, 44, 52, 62];
const S_LEVELS: [u8; 8] = [1, 3, 5, 7, 9, 11, 13, 15];

/// What the four levels of each point stand for, a byte each.
static XXS_POINTS: [u32; 256] = spread(&grids::IQ3_XXS, &XXS_LEVELS);
static S_POINTS: [u32; 512] = spread(&grids::IQ3_S, &S_LEVELS);

const fn spread<const N: usize>(points: &[u16; N], levels: &[u8; 8]) -> [u32; N] {
    let mut all = [0; N];
    let mut i = 0;
    while i < N {
        let code = points[i] as usize;
        all[i] =
            u32::from_le_bytes([levels[code & 7], levels[code >> 3 & 7], levels[code >> 6 & 7], levels[code >> 9 & 7]]);
        i += 1;
    }
    all
}

/// For each set of four signs, ones in the bytes of the negative values.
const NEGATIVE: [u32; 16] = {
    let mut masks = [0; 16];
    let mut i = 0;
    while i < 16 {
        let mut k = 0;
        while k < 4 {
            if i >> k & 1 != 0 {
                masks[i] |= 0xff << (8 * k);
            }
            k += 1;
        }
        i += 1;
    }
    masks
};

/// The codes of four values, by [`Coded`]: `offset` plus or less the level, by the sign in the low bits. No level is above
/// the offset, so that no byte reaches into the next.
#[inline(always)]
fn four_codes(levels: u32, signs: u8, offset: u8) -> [u8; 4] {
    let negative = NEGATIVE[usize::from(signs & 15)];
    let middle = u32::from_ne_bytes([offset; 4]);
    ((middle + levels) & !negative | (middle - levels) & negative).to_le_bytes()
}

/// Decodes blocks from their integer form: scale times level.
#[inline(always)]
fn decode_codes<F: Floats, B: Coded>(bytes: &[u8], out: &mut [f32]) {
    let offset = F::Int::splat(i32::from(B::OFFSET));
    for (block, out) in bytes.chunks_exact(B::SIZE.1).zip(out.as_chunks_mut::<256>().0) {
        let (mut codes, mut scales) = ([0; 256], [0.0; 8]);
        B::levels(block, &mut codes, &mut scales, &mut []);
        for ((codes, scale), out) in codes.as_chunks::<32>().0.iter().zip(scales).zip(out.as_chunks_mut::<32>().0) {
            let scale = F::splat(scale);
            for at in (0..32).step_by(F::N) {
                (scale * F::from_int(F::Int::load_u8(&codes[at..]) - offset)).store(&mut out[at..]);
            }
        }
    }
}

impl Rules for IQ3XXS {
    type Shape = Four;
    const GRID: &'static Grid = &grid::IQ3_XXS;
    const SUB: usize = 32;
    const SIGMA: f32 = 2.0;
    const EVEN: bool = true;
    const TINY: f32 = 1e-8;
    const REACH: i32 = 15;
    const STEP: f32 = 0.2;
    const SHORT: bool = true;
    const AGAIN: Again = Again::Off;
    const FUDGE: f32 = 1.0125;

    #[inline(always)]
    fn write(lane: &Lane, block: &mut [u8]) {
        if lane.zero {
            return;
        }
        block[..2].copy_from_slice(&lane.d.to_le_bytes());
        for (byte, &index) in block[2..66].iter_mut().zip(&lane.index) {
            *byte = index as u8;
        }
        for (ib, word) in block[66..].as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *word = signs_and_scale(lane, ib);
        }
    }
}

impl Block for IQ3XXS {
    const TYPE: TensorType = TensorType::IQ3_XXS;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Used;
    const SIZE: (usize, usize) = (256, 2 + 256 / 4 + 256 / 32 * 4);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        decode_codes::<F, Self>(bytes, out);
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        lattice::encode::<F, Self>(rows, Self::SIZE.1, out);
    }
}

impl Rules for IQ3S {
    type Shape = Four;
    const GRID: &'static Grid = &grid::IQ3_S;
    const SUB: usize = 32;
    const SIGMA: f32 = 2.0;
    const EVEN: bool = false;
    const TINY: f32 = f32::from_bits(1);
    const REACH: i32 = 9;
    const STEP: f32 = 0.2;
    const SHORT: bool = true;
    const AGAIN: Again = Again::AllIfOff;
    const FUDGE: f32 = 1.033;

    #[inline(always)]
    fn write(lane: &Lane, block: &mut [u8]) {
        block[..2].copy_from_slice(&lane.d.to_le_bytes());
        // The reference leaves no room for values that count as zero: the low bits and the signs after them move up
        // (their high bits do not), which decodes to something else. Equal bytes are the contract.
        for (at, ib) in (0..8).filter(|ib| lane.idle >> ib & 1 == 0).enumerate() {
            for (k, &index) in lane.index[8 * ib..][..8].iter().enumerate() {
                block[2 + 8 * at + k] = index as u8;
                block[66 + ib] |= ((index >> 8) << k) as u8;
            }
            block[74 + 4 * at..][..4].copy_from_slice(&lane.signs[4 * ib..][..4]);
        }
        put_nibbles(&lane.scales[..8], &mut block[106..]);
    }
}

impl Block for IQ3S {
    const TYPE: TensorType = TensorType::IQ3_S;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Used;
    const SIZE: (usize, usize) = (256, 2 + 256 / 4 + 256 / 32 + 256 / 8 + 256 / 64);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        decode_codes::<F, Self>(bytes, out);
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        lattice::encode::<F, Self>(rows, Self::SIZE.1, out);
    }
}

impl Coded for IQ3XXS {
    const ROUNDED: Rounded = Rounded::Q8K;
    const GROUP: usize = 32;
    const OFFSET: u8 = 62;
    const MOST: u8 = 2 * Self::OFFSET;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        let d = half_value([block[0], block[1]]);
        for (ib, word) in block[66..].as_chunks::<4>().0.iter().enumerate() {
            let word = u32::from_le_bytes(*word);
            scales[ib] = d * (0.5 + (word >> 28) as f32) * 0.5;
            for (k, codes) in codes[32 * ib..][..32].as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let signs = even((word >> (7 * (k / 2)) & 127) as u8) >> (4 * (k % 2));
                *codes = four_codes(XXS_POINTS[usize::from(block[2 + 8 * ib + k])], signs, Self::OFFSET);
            }
        }
    }
}

impl Coded for IQ3S {
    const ROUNDED: Rounded = Rounded::Q8K;
    const GROUP: usize = 32;
    const OFFSET: u8 = 15;
    const MOST: u8 = 2 * Self::OFFSET;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        let d = half_value([block[0], block[1]]);
        for (j, to) in scales.iter_mut().enumerate() {
            *to = d * (1.0 + 2.0 * f32::from(block[106 + j / 2] >> (4 * (j % 2)) & 15));
        }
        for (k, codes) in codes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let high = usize::from(block[66 + k / 8] >> (k % 8) & 1);
            let levels = S_POINTS[usize::from(block[2 + k]) | high << 8];
            *codes = four_codes(levels, block[74 + k / 2] >> (4 * (k % 2)), Self::OFFSET);
        }
    }
}
