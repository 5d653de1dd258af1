//! `Q2_K`: superblocks of 16 blocks of 16, each with a 4-bit scale and minimum.
//!
//! Block: 16 bytes of scales (lower nibble) and minima, 64 bytes of levels, `d` f16, `dmin` f16; x ≈ d scale q − dmin min.
//! In each half of 128 values, value 32 k + l is at bit 2 k of byte l.

use gguf::TensorType;

use super::Block;
use super::levels::{Coded, Rounded};
use crate::codec::ImportanceUse;
use crate::lanes::{Floats, Group, Ints, Masks, Rows, Slots, half_value, nearest_int};
use crate::search::{Affine, AffineTries, affine, clamp, positive};

pub(crate) struct Q2K;

const LEN: usize = 256;
const BYTES: usize = LEN / SUB + LEN / 4 + 2 + 2;
const SUB: usize = 16;
const BLOCKS: usize = 16;
const LEVELS: usize = 16;
const D: usize = 80;
const DMIN: usize = 82;

impl Block for Q2K {
    const TYPE: TensorType = TensorType::Q2_K;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Used;
    const SIZE: (usize, usize) = (LEN, BYTES);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<LEN>().0) {
            let d = half_value([block[D], block[D + 1]]);
            let dmin = half_value([block[DMIN], block[DMIN + 1]]);
            for j in 0..BLOCKS {
                let scale = F::splat(d * f32::from(block[j] & 15));
                let min = F::splat(dmin * f32::from(block[j] >> 4));
                // Which half, which 32 of it, which 16 of those.
                let (half, k, from) = (j / 8, j / 2 % 4, j % 2 * SUB);
                for at in (from..from + SUB).step_by(F::N) {
                    let level = F::Int::load_u8(&block[LEVELS + half * 32 + at..]).shr(2 * k as u32);
                    let value = scale * F::from_int(level & F::Int::splat(3)) - min;
                    value.store(&mut out[half * 128 + k * 32 + at..]);
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

    let mut found = [Affine::zero(); BLOCKS];
    let mut packed = [none; BLOCKS];
    let (d, dmin) = if group.has_importance() {
        let mut sum_x2 = zero;
        for x in x {
            sum_x2 = sum_x2 + x * x;
        }
        let sigma2 = sum_x2 / F::splat(LEN as f32);
        let tries = AffineTries { levels: 3.0, first: -0.9, step: 0.05, steps: 36 };
        let (mut sums, mut scales, mut mins) = ([zero; BLOCKS], [zero; BLOCKS], [zero; BLOCKS]);
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
            scales[j] = found[j].scale;
            mins[j] = found[j].min;
        }
        let (d, scales) = positive(15, &scales, &sums);
        let (dmin, mins) = positive(15, &mins, &sums);
        for (j, packed) in packed.iter_mut().enumerate() {
            *packed = (scales[j] | mins[j].shl(4)) & F::Int::splat(255);
        }
        (d, dmin)
    } else {
        let tries = AffineTries { levels: 3.0, first: -0.5, step: 0.1, steps: 15 };
        let (mut max_scale, mut max_min) = (zero, zero);
        for (found, x) in found.iter_mut().zip(blocks) {
            let mut w = *x;
            for w in &mut w {
                *w = w.abs();
            }
            *found = affine::<F, SUB, true>(tries, x, &w);
            max_scale = found.scale.max(max_scale);
            max_min = found.min.max(max_min);
        }
        let top = F::splat(15.0);
        let (scaled, lowered) = (zero.lt(max_scale), zero.lt(max_min));
        let (inverse_scale, inverse_min) = (top / max_scale, top / max_min);
        for (packed, found) in packed.iter_mut().zip(&found) {
            let scale = F::Int::select(scaled, nearest_int(inverse_scale * found.scale), none);
            let min = F::Int::select(lowered, nearest_int(inverse_min * found.min), none);
            *packed = (scale | min.shl(4)) & F::Int::splat(255);
        }
        (F::select(scaled, max_scale / top, zero), F::select(lowered, max_min / top, zero))
    };
    slots.put_bytes(0, &packed);
    let (d, dmin) = (d.to_half(), dmin.to_half());
    slots.put_u16(D, d);
    slots.put_u16(DMIN, dmin);
    let (d, dmin) = (F::from_half(d), F::from_half(dmin));

    let mut bytes = [none; 64];
    for (j, x) in blocks.iter().enumerate() {
        let scale = d * F::from_int(packed[j] & F::Int::splat(15));
        let min = dmin * F::from_int(packed[j].shr(4));
        let unused = scale.eq(zero);
        let mut levels = [none; SUB];
        for (level, &x) in levels.iter_mut().zip(x) {
            *level = clamp(nearest_int((x + min) / scale), 0, 3);
        }
        if unused.any() {
            for (level, &x) in levels.iter_mut().zip(x) {
                *level = F::Int::select(unused, found[j].level(x, 3), *level);
            }
        }
        let (half, k, from) = (j / 8, j / 2 % 4, j % 2 * SUB);
        for (byte, level) in bytes[half * 32 + from..].iter_mut().zip(levels) {
            *byte = *byte | level.shl(2 * k as u32);
        }
    }
    slots.put_bytes(LEVELS, &bytes);
}

impl Coded for Q2K {
    const ROUNDED: Rounded = Rounded::Q8K;
    const GROUP: usize = SUB;
    const OFFSET: u8 = 0;
    const MOST: u8 = 3;
    const MINS: bool = true;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], mins: &mut [f32]) {
        let d = half_value([block[D], block[D + 1]]);
        let dmin = half_value([block[DMIN], block[DMIN + 1]]);
        for ((scale, min), byte) in scales.iter_mut().zip(mins).zip(&block[..BLOCKS]) {
            *scale = d * f32::from(byte & 15);
            *min = -dmin * f32::from(byte >> 4);
        }
        for (part, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (half, k) = (part / 4, part % 4);
            for (code, low) in codes.iter_mut().zip(&block[LEVELS + half * 32..]) {
                *code = low >> (2 * k) & 3;
            }
        }
    }
}
