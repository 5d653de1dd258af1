//! `Q3_K`: superblocks of 16 blocks of 16, each with a 6-bit scale.
//!
//! Block: 32 bytes of third bits (bit k of byte l is that of value 32 k + l), 64 bytes of lower bit pairs (in each half
//! of 128 values, value 32 k + l is at bit 2 k of byte l), 12 bytes of scales (nibbles of scales j and j + 8 in byte j,
//! upper pairs of scale j at bit 2 (j / 4) of byte 8 + j mod 4), `d` f16; x ≈ d (scale − 32) (q − 4).

use gguf::TensorType;

use super::Block;
use super::levels::{Coded, Rounded};
use crate::codec::ImportanceUse;
use crate::lanes::{Floats, Group, Ints, Masks, Rows, Slots, half_value, nearest_int};
use crate::search::{Symmetric, clamp, refined, symmetric};

pub(crate) struct Q3K;

const LEN: usize = 256;
const BYTES: usize = LEN / 8 + LEN / 4 + 12 + 2;
const SUB: usize = 16;
const BLOCKS: usize = 16;
const LOW: usize = 32;
const SCALES: usize = 96;
const D: usize = 108;

/// The factor of `d` for 16 values.
#[inline(always)]
fn scale(block: &[u8], j: usize) -> f32 {
    let low = block[SCALES + j % 8] >> (j / 8 * 4) & 15;
    let high = block[SCALES + 8 + j % 4] >> (2 * (j / 4)) & 3;
    f32::from(low | high << 4) - 32.0
}

impl Block for Q3K {
    const TYPE: TensorType = TensorType::Q3_K;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Used;
    const SIZE: (usize, usize) = (LEN, BYTES);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<LEN>().0) {
            let d = half_value([block[D], block[D + 1]]);
            for j in 0..BLOCKS {
                let scale = F::splat(d * scale(block, j));
                // Which half, which 32 of it, which 16 of those.
                let (half, k, from) = (j / 8, j / 2 % 4, j % 2 * SUB);
                for at in (from..from + SUB).step_by(F::N) {
                    let low = F::Int::load_u8(&block[LOW + half * 32 + at..]).shr(2 * k as u32);
                    let high = F::Int::load_u8(&block[at..]).shr((half * 4 + k) as u32) & F::Int::splat(1);
                    let level = ((low & F::Int::splat(3)) | high.shl(2)) - F::Int::splat(4);
                    (scale * F::from_int(level)).store(&mut out[half * 128 + k * 32 + at..]);
                }
            }
        }
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        for (group, slots) in rows.groups(F::Wide::N, LEN, BYTES, out) {
            encode_group::<F::Wide>(group, slots);
        }
    }
}

#[inline(always)]
fn encode_group<F: Floats>(group: Group<'_>, mut slots: Slots<'_>) {
    let zero = F::splat(0.0);
    let none = F::Int::splat(0);
    let mut x = [zero; LEN];
    group.values(0, &mut x);
    let blocks = x.as_chunks::<SUB>().0;
    let weighted = group.has_importance();

    let mut scales = [zero; BLOCKS];
    let mut found = [Symmetric::zero(); BLOCKS];
    // 6 bits each: 32 more than the factor of `d`.
    let mut sixes = [none; BLOCKS];
    let d = if weighted {
        let mut sum_x2 = zero;
        for x in x {
            sum_x2 = sum_x2 + x * x;
        }
        let sigma2 = (F::splat(2.0) * sum_x2) / F::splat(LEN as f32);
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
            found[j] = symmetric::<F, SUB, false>(4.0, x, &w);
            scales[j] = found[j].scale;
        }
        let whole = symmetric::<F, BLOCKS, true>(32.0, &scales, &sums);
        for (six, &scale) in sixes.iter_mut().zip(&scales) {
            *six = whole.level(scale, 32);
        }
        whole.scale
    } else {
        let (mut largest, mut magnitude) = (zero, zero);
        for (scale, x) in scales.iter_mut().zip(blocks) {
            *scale = refined(4.0, x).0;
            let more = magnitude.lt(scale.abs());
            magnitude = F::select(more, scale.abs(), magnitude);
            largest = F::select(more, *scale, largest);
        }
        let is_zero = largest.eq(zero);
        let factor = F::splat(-32.0) / largest;
        for (six, &scale) in sixes.iter_mut().zip(&scales) {
            // The reference stores a signed byte before it limits it.
            let wrapped = (nearest_int(factor * scale) + F::Int::splat(128)) & F::Int::splat(255);
            let level = clamp(wrapped - F::Int::splat(128), -32, 31) + F::Int::splat(32);
            *six = F::Int::select(is_zero, none, level);
        }
        F::select(is_zero, zero, F::splat(1.0) / factor)
    };

    let mut packed = [none; 12];
    for (j, six) in sixes.iter().enumerate() {
        packed[j % 8] = packed[j % 8] | (*six & F::Int::splat(15)).shl(j as u32 / 8 * 4);
        packed[8 + j % 4] = packed[8 + j % 4] | (six.shr(4) & F::Int::splat(3)).shl(2 * (j as u32 / 4));
    }
    slots.put_bytes(SCALES, &packed);
    let d = d.to_half();
    slots.put_u16(D, d);
    let d = F::from_half(d);

    let (mut high, mut low) = ([none; 32], [none; 64]);
    for (j, x) in blocks.iter().enumerate() {
        let scale = d * F::from_int((sixes[j] & F::Int::splat(63)) - F::Int::splat(32));
        let unused = scale.eq(zero);
        let mut levels = [none; SUB];
        for (level, &x) in levels.iter_mut().zip(x) {
            *level = clamp(nearest_int(x / scale), -4, 3) + F::Int::splat(4);
        }
        if unused.any() {
            let kept = if weighted { [zero; SUB] } else { refined(4.0, x).1 };
            for (i, level) in levels.iter_mut().enumerate() {
                let kept = if weighted { found[j].level(x[i], 4) } else { kept[i].truncate() };
                *level = F::Int::select(unused, kept, *level);
            }
        }
        let (half, k, from) = (j / 8, j / 2 % 4, j % 2 * SUB);
        for (i, level) in levels.iter().enumerate() {
            let (low, high) = (&mut low[half * 32 + from + i], &mut high[from + i]);
            *low = *low | (*level & F::Int::splat(3)).shl(2 * k as u32);
            *high = *high | level.shr(2).shl((half * 4 + k) as u32);
        }
    }
    slots.put_bytes(0, &high);
    slots.put_bytes(LOW, &low);
}

impl Coded for Q3K {
    const ROUNDED: Rounded = Rounded::Q8K;
    const GROUP: usize = SUB;
    const OFFSET: u8 = 4;
    const MOST: u8 = 7;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        let d = half_value([block[D], block[D + 1]]);
        for (j, to) in scales.iter_mut().enumerate() {
            *to = d * scale(block, j);
        }
        for (part, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (half, k) = (part / 4, part % 4);
            for ((code, low), high) in codes.iter_mut().zip(&block[LOW + half * 32..]).zip(block) {
                *code = (low >> (2 * k) & 3) | (high >> part & 1) << 2;
            }
        }
    }
}
