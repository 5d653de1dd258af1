//! `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`: 32 levels of 4 or 5 bits with one scale, and for `_1` a minimum.
//!
//! Block: `d` f16, for `_1` `m` f16, for 5 bits 4 bytes of fifth bits (bit i is that of value i), 16 bytes of nibbles
//! (byte i holds values i and i + 16); x ≈ d (q − 2^(bits − 1)), for `_1` x ≈ d q + m.

use std::marker::PhantomData;

use gguf::TensorType;

use super::levels::{Coded, Rounded};
use super::{Block, halves, inverses, largest};
use crate::codec::ImportanceUse;
use crate::lanes::{Floats, Group, Ints, MAX_LANES, Masks, Rows, Slots, half_value};
use crate::search::{AffineTries, affine, symmetric};

/// The format of these bits.
pub(crate) struct Small<B>(PhantomData<B>);

/// 4 bits, a scale.
pub(crate) type Q40 = Small<Four>;
/// 4 bits, a scale and a minimum.
pub(crate) type Q41 = Small<FourMin>;
/// 5 bits, a scale.
pub(crate) type Q50 = Small<Five>;
/// 5 bits, a scale and a minimum.
pub(crate) type Q51 = Small<FiveMin>;

/// What sets the four apart.
pub(crate) trait Bits {
    const TYPE: TensorType;
    const BITS: u32;
    /// Whether there is a minimum.
    const MIN: bool;

    /// Levels below zero.
    const HALF: i32 = 1 << (Self::BITS - 1);
    const LEVELS: i32 = (1 << Self::BITS) - 1;
    const HIGH: usize = if Self::MIN { 4 } else { 2 };
    const LOW: usize = if Self::BITS == 5 { Self::HIGH + 4 } else { Self::HIGH };
    const BYTES: usize = Self::LOW + LEN / 2;
}

pub(crate) struct Four;
pub(crate) struct FourMin;
pub(crate) struct Five;
pub(crate) struct FiveMin;

impl Bits for Four {
    const TYPE: TensorType = TensorType::Q4_0;
    const BITS: u32 = 4;
    const MIN: bool = false;
}

impl Bits for FourMin {
    const TYPE: TensorType = TensorType::Q4_1;
    const BITS: u32 = 4;
    const MIN: bool = true;
}

impl Bits for Five {
    const TYPE: TensorType = TensorType::Q5_0;
    const BITS: u32 = 5;
    const MIN: bool = false;
}

impl Bits for FiveMin {
    const TYPE: TensorType = TensorType::Q5_1;
    const BITS: u32 = 5;
    const MIN: bool = true;
}

const LEN: usize = 32;

/// The levels of a block, from 0 on.
#[inline(always)]
fn levels<B: Bits>(block: &[u8]) -> [u8; LEN] {
    let mut levels = [0u8; LEN];
    for i in 0..LEN / 2 {
        levels[i] = block[B::LOW + i] & 15;
        levels[i + LEN / 2] = block[B::LOW + i] >> 4;
    }
    if B::BITS == 5 {
        let at = B::HIGH;
        let high = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        for (i, level) in levels.iter_mut().enumerate() {
            *level |= (high >> i & 1) as u8 * 16;
        }
    }
    levels
}

impl<B: Bits> Block for Small<B> {
    const TYPE: TensorType = B::TYPE;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Used;
    const SIZE: (usize, usize) = (LEN, B::BYTES);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.chunks_exact(B::BYTES).zip(out.as_chunks_mut::<LEN>().0) {
            let d = F::splat(half_value([block[0], block[1]]));
            let m = F::splat(if B::MIN { half_value([block[2], block[3]]) } else { 0.0 });
            let levels = levels::<B>(block);
            for at in (0..LEN).step_by(F::N) {
                let level = F::Int::load_u8(&levels[at..]);
                let value =
                    if B::MIN { F::from_int(level) * d + m } else { F::from_int(level - F::Int::splat(B::HALF)) * d };
                value.store(&mut out[at..]);
            }
        }
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        if rows.importance.is_some() {
            let means = rows.mean_squares::<F::Wide>();
            for (group, slots) in rows.groups(F::Wide::N, LEN, B::BYTES, out) {
                encode_group::<B, F::Wide>(group, slots, &means);
            }
        } else {
            for (x, blocks) in rows.values.chunks(LEN * MAX_LANES).zip(out.chunks_mut(B::BYTES * MAX_LANES)) {
                encode_blocks::<B, F>(x.as_chunks::<LEN>().0, blocks);
            }
        }
    }
}

/// Without an importance there is no search. At most [`MAX_LANES`] blocks.
#[inline(always)]
fn encode_blocks<B: Bits, F: Floats>(x: &[[f32; LEN]], blocks: &mut [u8]) {
    let (mut d, mut offset) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
    for ((d, offset), x) in d.iter_mut().zip(&mut offset).zip(x) {
        if B::MIN {
            let (min, max) = extremes::<F>(x);
            (*d, *offset) = ((max - min) / B::LEVELS as f32, min);
        } else {
            *d = signed_largest::<F>(x) / -B::HALF as f32;
        }
    }
    let (scales, minima, inverses) = (halves::<F>(&d), halves::<F>(&offset), inverses::<F>(&d));
    for (i, (x, block)) in x.iter().zip(blocks.chunks_exact_mut(B::BYTES)).enumerate() {
        block[..2].copy_from_slice(&scales[i]);
        if B::MIN {
            block[2..4].copy_from_slice(&minima[i]);
        }
        encode_levels::<B, F>(x, inverses[i], offset[i], block);
    }
}

/// The levels of a block with this inverse of the scale, above this offset.
#[inline(always)]
fn encode_levels<B: Bits, F: Floats>(x: &[f32; LEN], inverse: f32, offset: f32, block: &mut [u8]) {
    let rounding = F::splat(if B::MIN { 0.5 } else { B::HALF as f32 + 0.5 });
    let (inverse, offset) = (F::splat(inverse), F::splat(offset));
    let mut high = 0;
    for at in (0..LEN / 2).step_by(F::N) {
        let mut low = F::Int::splat(0);
        for part in 0..2 {
            let at = at + part * (LEN / 2);
            let x = F::load(&x[at..]);
            let x = if B::MIN { x - offset } else { x };
            // Where 1 / d is infinite, truncation gives a number whose low byte is 0, as in the reference.
            let level = (x * inverse + rounding).truncate().min(F::Int::splat(B::LEVELS)) & F::Int::splat(255);
            if B::BITS == 5 {
                high |= (level.gt(F::Int::splat(15)).bits() as u32) << at;
            }
            low = low | (level & F::Int::splat(15)).shl(4 * part as u32);
        }
        low.store_u8(&mut block[B::LOW + at..]);
    }
    if B::BITS == 5 {
        block[B::HIGH..B::HIGH + 4].copy_from_slice(&high.to_le_bytes());
    }
}

/// The first value of the largest magnitude; +0 if there is none but zeros.
#[inline(always)]
fn signed_largest<F: Floats>(x: &[f32; LEN]) -> f32 {
    let largest = largest::<F>(x);
    if largest == 0.0 {
        return 0.0;
    }
    let mut places = 0u32;
    for at in (0..LEN).step_by(F::N) {
        places |= (F::load(&x[at..]).abs().eq(F::splat(largest)).bits() as u32) << at;
    }
    // There is one unless a value is no number.
    x.get(places.trailing_zeros() as usize).copied().unwrap_or(largest)
}

/// The smallest and the largest value. Of zeros, which differ by sign, the first one counts.
#[inline(always)]
fn extremes<F: Floats>(x: &[f32; LEN]) -> (f32, f32) {
    let mut least = F::splat(f32::MAX);
    let mut largest = F::splat(-f32::MAX);
    for at in (0..LEN).step_by(F::N) {
        let x = F::load(&x[at..]);
        least = x.min(least);
        largest = x.max(largest);
    }
    let (least, largest) = (-(-least).reduce_max(), largest.reduce_max());
    let first = |value: f32| if value == 0.0 { x.iter().find(|x| **x == 0.0).copied().unwrap_or(value) } else { value };
    (first(least), first(largest))
}

#[inline(always)]
fn encode_group<B: Bits, F: Floats>(group: Group<'_>, mut slots: Slots<'_>, means: &[f32]) {
    let sigma2 = group.of_row::<F>(means);
    let (mut x, mut w) = ([F::splat(0.0); LEN], [F::splat(0.0); LEN]);
    group.values(0, &mut x);
    group.importance(0, &mut w);
    for (w, &x) in w.iter_mut().zip(&x) {
        *w = *w * (sigma2 + x * x).sqrt();
    }
    let mut levels = [F::Int::splat(0); LEN];
    if B::MIN {
        let tries = AffineTries { levels: B::LEVELS as f32, first: -0.9, step: 0.05, steps: 36 };
        let found = affine::<F, LEN, false>(tries, &x, &w);
        slots.put_u16(0, found.scale.to_half());
        slots.put_u16(2, (-found.min).to_half());
        for (level, &x) in levels.iter_mut().zip(&x) {
            *level = found.level(x, B::LEVELS);
        }
    } else {
        let found = symmetric::<F, LEN, false>(B::HALF as f32, &x, &w);
        slots.put_u16(0, found.scale.to_half());
        for (level, &x) in levels.iter_mut().zip(&x) {
            *level = found.level(x, B::HALF);
        }
    }
    let nibble = F::Int::splat(15);
    let mut low = [nibble; LEN / 2];
    for (i, low) in low.iter_mut().enumerate() {
        *low = (levels[i] & nibble) | (levels[i + LEN / 2] & nibble).shl(4);
    }
    slots.put_bytes(B::LOW, &low);
    if B::BITS == 5 {
        let mut high = F::Int::splat(0);
        for (i, level) in levels.iter().enumerate() {
            high = high | level.shr(4).shl(i as u32);
        }
        slots.put_u32(B::HIGH, high);
    }
}

impl<B: Bits> Coded for Small<B> {
    const ROUNDED: Rounded = if B::MIN { Rounded::Q81 } else { Rounded::Q80 };
    const GROUP: usize = LEN;
    const OFFSET: u8 = if B::MIN { 0 } else { B::HALF as u8 };
    const MOST: u8 = B::LEVELS as u8;
    const MINS: bool = B::MIN;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], mins: &mut [f32]) {
        scales[0] = half_value([block[0], block[1]]);
        if B::MIN {
            mins[0] = half_value([block[2], block[3]]);
        }
        codes.copy_from_slice(&levels::<B>(block));
    }
}
