//! `Q4_K` and `Q5_K`: superblocks of 8 blocks of 32, each with a 6-bit scale and minimum.
//!
//! Block: `d` f16, `dmin` f16, 12 bytes of scales and minima, then for `Q5_K` 32 bytes of fifth bits (bit k of byte l is
//! that of value 32 k + l), then 128 bytes of nibbles (byte 32 k + l holds values 64 k + l and 64 k + 32 + l);
//! x ≈ d scale q − dmin min.

use std::marker::PhantomData;

use gguf::TensorType;

use super::Block;
use super::levels::{Coded, Rounded};
use crate::codec::ImportanceUse;
use crate::lanes::{Floats, Group, Ints, Masks, Rows, Slots, half_value, nearest_int};
use crate::search::{Affine, AffineTries, affine, clamp, positive};

/// The format of these bits.
pub(crate) struct Superblock<B>(PhantomData<B>);

pub(crate) struct Four;
pub(crate) struct Five;

/// 4 bits a value.
pub(crate) type Q4K = Superblock<Four>;

/// 5 bits a value.
pub(crate) type Q5K = Superblock<Five>;

const LEN: usize = 256;
/// Blocks in a superblock, and values in each.
const BLOCKS: usize = 8;
const SUB: usize = 32;
const SCALES: usize = 4;

/// What sets the two apart.
pub(crate) trait Bits {
    const TYPE: TensorType;
    const BYTES: usize;
    /// The largest level.
    const LEVELS: i32;
    /// Where the fifth bits are, if there are any.
    const HIGH: Option<usize>;
    const LOW: usize;
    const TRIES: AffineTries;
    /// With an importance, whether scales are cut to 6 bits before they are stored.
    const CUTS: bool;
}

impl Bits for Four {
    const TYPE: TensorType = TensorType::Q4_K;
    const BYTES: usize = 2 + 2 + 12 + LEN / 2;
    const LEVELS: i32 = 15;
    const HIGH: Option<usize> = None;
    const LOW: usize = 16;
    const TRIES: AffineTries = AffineTries { levels: 15.0, first: -1.0, step: 0.1, steps: 20 };
    const CUTS: bool = false;
}

impl Bits for Five {
    const TYPE: TensorType = TensorType::Q5_K;
    const BYTES: usize = 2 + 2 + 12 + LEN / 8 + LEN / 2;
    const LEVELS: i32 = 31;
    const HIGH: Option<usize> = Some(16);
    const LOW: usize = 48;
    const TRIES: AffineTries = AffineTries { levels: 31.0, first: -0.5, step: 0.1, steps: 15 };
    const CUTS: bool = true;
}

impl<B: Bits> Block for Superblock<B> {
    const TYPE: TensorType = B::TYPE;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Used;
    const SIZE: (usize, usize) = (LEN, B::BYTES);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.chunks_exact(B::BYTES).zip(out.as_chunks_mut::<LEN>().0) {
            let d = half_value([block[0], block[1]]);
            let dmin = half_value([block[2], block[3]]);
            let (scales, mins) = unpack_scales(&block[SCALES..]);
            let nibble = F::Int::splat(15);
            for j in 0..BLOCKS {
                let scale = F::splat(d * f32::from(scales[j]));
                let min = F::splat(dmin * f32::from(mins[j]));
                for at in (0..SUB).step_by(F::N) {
                    let low = F::Int::load_u8(&block[B::LOW + j / 2 * SUB + at..]);
                    let mut level = low.shr(j as u32 % 2 * 4) & nibble;
                    if let Some(high) = B::HIGH {
                        let bit = F::Int::load_u8(&block[high + at..]).shr(j as u32) & F::Int::splat(1);
                        level = level | bit.shl(4);
                    }
                    (scale * F::from_int(level) - min).store(&mut out[j * SUB + at..]);
                }
            }
        }
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        for (group, slots) in rows.groups(F::Wide::N, LEN, B::BYTES, out) {
            encode_group::<B, F::Wide>(group, slots);
        }
    }
}

#[inline(always)]
fn encode_group<B: Bits, F: Floats>(group: Group<'_>, mut slots: Slots<'_>) {
    let zero = F::splat(0.0);
    let mut x = [zero; LEN];
    group.values(0, &mut x);
    let blocks = x.as_chunks::<SUB>().0;

    let mut found = [Affine::zero(); BLOCKS];
    let (d, dmin, scales, mins) = if group.has_importance() {
        let mut sum_x2 = zero;
        for x in x {
            sum_x2 = sum_x2 + x * x;
        }
        let sigma2 = (F::splat(2.0) * sum_x2) / F::splat(LEN as f32);
        let tries = AffineTries { first: -0.9, step: 0.05, steps: 36, ..B::TRIES };
        let mut sums = [zero; BLOCKS];
        for (j, x) in blocks.iter().enumerate() {
            let mut w = [zero; SUB];
            group.importance(j * SUB, &mut w);
            let mut sum = zero;
            for (w, &x) in w.iter_mut().zip(x) {
                *w = *w * (sigma2 + x * x).sqrt();
                sum = sum + *w;
            }
            sums[j] = sum;
            found[j] = affine::<F, SUB, false>(tries, x, &w);
        }
        let (mut scales, mut mins) = ([zero; BLOCKS], [zero; BLOCKS]);
        for (j, found) in found.iter().enumerate() {
            scales[j] = found.scale;
            mins[j] = found.min;
        }
        let (d, mut scales) = positive(63, &scales, &sums);
        let (dmin, mut mins) = positive(63, &mins, &sums);
        if B::CUTS {
            for level in scales.iter_mut().chain(&mut mins) {
                *level = level.min(F::Int::splat(63));
            }
        }
        (d, dmin, scales, mins)
    } else {
        let (mut max_scale, mut max_min) = (zero, zero);
        for (found, x) in found.iter_mut().zip(blocks) {
            let mut sum_x2 = zero;
            for &x in x {
                sum_x2 = sum_x2 + x * x;
            }
            let average = (sum_x2 / F::splat(SUB as f32)).sqrt();
            let mut w = [zero; SUB];
            for (w, x) in w.iter_mut().zip(x) {
                *w = average + x.abs();
            }
            *found = affine::<F, SUB, false>(B::TRIES, x, &w);
            max_scale = found.scale.max(max_scale);
            max_min = found.min.max(max_min);
        }
        let top = F::splat(63.0);
        let inverse_scale = F::select(zero.lt(max_scale), top / max_scale, zero);
        let inverse_min = F::select(zero.lt(max_min), top / max_min, zero);
        let (byte, cut) = (F::Int::splat(255), F::Int::splat(63));
        let (mut scales, mut mins) = ([cut; BLOCKS], [cut; BLOCKS]);
        for (j, found) in found.iter().enumerate() {
            scales[j] = (nearest_int(inverse_scale * found.scale) & byte).min(cut);
            mins[j] = (nearest_int(inverse_min * found.min) & byte).min(cut);
        }
        (max_scale / top, max_min / top, scales, mins)
    };

    let (d, dmin) = (d.to_half(), dmin.to_half());
    slots.put_u16(0, d);
    slots.put_u16(2, dmin);
    let packed = pack_scales(scales, mins);
    slots.put_bytes(SCALES, &packed);
    let (d, dmin) = (F::from_half(d), F::from_half(dmin));

    let mut high = [F::Int::splat(0); SUB];
    let mut even = [F::Int::splat(0); SUB];
    for (j, x) in blocks.iter().enumerate() {
        let (scale, min) = packed_scale(&packed, j);
        let scale = d * F::from_int(scale);
        let min = dmin * F::from_int(min);
        let unused = scale.eq(zero);
        let mut levels = [F::Int::splat(0); SUB];
        for (level, &x) in levels.iter_mut().zip(x) {
            *level = clamp(nearest_int((x + min) / scale), 0, B::LEVELS);
        }
        if unused.any() {
            for (level, &x) in levels.iter_mut().zip(x) {
                *level = F::Int::select(unused, found[j].level(x, B::LEVELS), *level);
            }
        }
        for l in 0..SUB {
            if B::HIGH.is_some() {
                high[l] = high[l] | levels[l].shr(4).shl(j as u32);
                levels[l] = levels[l] & F::Int::splat(15);
            }
            levels[l] = even[l] | levels[l].shl(j as u32 % 2 * 4);
        }
        if j % 2 == 0 {
            even = levels;
        } else {
            slots.put_bytes(B::LOW + j / 2 * SUB, &levels);
            even = [F::Int::splat(0); SUB];
        }
    }
    if let Some(at) = B::HIGH {
        slots.put_bytes(at, &high);
    }
}

/// The 12 bytes that 8 scales and 8 minima take: the first four of each in 6 bits of a byte whose other two are the top
/// bits of the last four, whose nibbles share the last four bytes.
#[inline(always)]
fn pack_scales<I: Ints>(scales: [I; BLOCKS], mins: [I; BLOCKS]) -> [I; 12] {
    let mut bytes = [I::splat(0); 12];
    let (byte, nibble) = (I::splat(255), I::splat(15));
    for j in 0..4 {
        bytes[j] = (scales[j] | scales[j + 4].shr(4).shl(6)) & byte;
        bytes[j + 4] = (mins[j] | mins[j + 4].shr(4).shl(6)) & byte;
        bytes[j + 8] = (scales[j + 4] & nibble) | (mins[j + 4] & nibble).shl(4);
    }
    bytes
}

/// Scale and minimum of block `j` out of [`pack_scales`].
#[inline(always)]
fn packed_scale<I: Ints>(bytes: &[I; 12], j: usize) -> (I, I) {
    if j < 4 {
        (bytes[j] & I::splat(63), bytes[j + 4] & I::splat(63))
    } else {
        let nibbles = bytes[j + 4];
        ((nibbles & I::splat(15)) | bytes[j - 4].shr(6).shl(4), nibbles.shr(4) | bytes[j].shr(6).shl(4))
    }
}

/// The 8 scales and 8 minima of a block.
#[inline(always)]
fn unpack_scales(bytes: &[u8]) -> ([u8; BLOCKS], [u8; BLOCKS]) {
    let (mut scales, mut mins) = ([0; BLOCKS], [0; BLOCKS]);
    for j in 0..4 {
        scales[j] = bytes[j] & 63;
        mins[j] = bytes[j + 4] & 63;
        scales[j + 4] = bytes[j + 8] & 15 | bytes[j] >> 6 << 4;
        mins[j + 4] = bytes[j + 8] >> 4 | bytes[j + 4] >> 6 << 4;
    }
    (scales, mins)
}

impl<B: Bits> Coded for Superblock<B> {
    const ROUNDED: Rounded = Rounded::Q8K;
    const GROUP: usize = SUB;
    const OFFSET: u8 = 0;
    const MOST: u8 = B::LEVELS as u8;
    const MINS: bool = true;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], mins: &mut [f32]) {
        let d = half_value([block[0], block[1]]);
        let dmin = half_value([block[2], block[3]]);
        let (factors, levels) = unpack_scales(&block[SCALES..]);
        scales.iter_mut().zip(factors).for_each(|(scale, factor)| *scale = d * f32::from(factor));
        mins.iter_mut().zip(levels).for_each(|(min, level)| *min = -dmin * f32::from(level));
        for (j, codes) in codes.as_chunks_mut::<SUB>().0.iter_mut().enumerate() {
            for (code, low) in codes.iter_mut().zip(&block[B::LOW + j / 2 * SUB..]) {
                *code = low >> (j % 2 * 4) & 15;
            }
            if let Some(high) = B::HIGH {
                for (code, high) in codes.iter_mut().zip(&block[high..]) {
                    *code |= (high >> j & 1) << 4;
                }
            }
        }
    }
}
