//! `Q6_K`: superblocks of 16 blocks of 16, each with an 8-bit scale.
//!
//! Block: 128 bytes of nibbles, 64 bytes of upper bit pairs, 16 scales i8, `d` f16; x ≈ d scale (q − 32). In each half of
//! 128 values, value 32 k + l has its nibble in byte 32 (k mod 2) + l (the upper one for k ≥ 2) and its upper bits in
//! byte l, at bit 2 k.

use gguf::TensorType;

use super::Block;
use super::levels::{Coded, Rounded};
use crate::codec::ImportanceUse;
use crate::lanes::{Floats, Group, Ints, Masks, Rows, Slots, half_value, nearest_int};
use crate::search::{Symmetric, clamp, symmetric};

pub(crate) struct Q6K;

const LEN: usize = 256;
const BYTES: usize = LEN / 2 + LEN / 4 + LEN / SUB + 2;
const SUB: usize = 16;
const BLOCKS: usize = 16;
const HIGH: usize = 128;
const SCALES: usize = 192;
const D: usize = 208;

impl Block for Q6K {
    const TYPE: TensorType = TensorType::Q6_K;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Used;
    const SIZE: (usize, usize) = (LEN, BYTES);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<LEN>().0) {
            let d = half_value([block[D], block[D + 1]]);
            for j in 0..BLOCKS {
                let scale = F::splat(d * f32::from(block[SCALES + j] as i8));
                // Which half, which 32 of it, which 16 of those.
                let (half, k, from) = (j / 8, j / 2 % 4, j % 2 * SUB);
                for at in (from..from + SUB).step_by(F::N) {
                    let low = F::Int::load_u8(&block[half * 64 + k % 2 * 32 + at..]).shr(k as u32 / 2 * 4);
                    let high = F::Int::load_u8(&block[HIGH + half * 32 + at..]).shr(2 * k as u32);
                    let level = (low & F::Int::splat(15)) | (high & F::Int::splat(3)).shl(4);
                    let value = scale * F::from_int(level - F::Int::splat(32));
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

    let mut found = [Symmetric::zero(); BLOCKS];
    let (mut largest, mut magnitude) = (zero, zero);
    for (j, x) in blocks.iter().enumerate() {
        let mut w = *x;
        for w in &mut w {
            *w = *w * *w;
        }
        group.importance(j * SUB, &mut w);
        found[j] = symmetric::<F, SUB, false>(32.0, x, &w);
        let scale = found[j].scale;
        let more = magnitude.lt(scale.abs());
        magnitude = F::select(more, scale.abs(), magnitude);
        largest = F::select(more, scale, largest);
    }
    let is_zero = magnitude.lt(F::splat(1e-15));
    let factor = F::splat(-128.0) / largest;
    let d = F::Int::select(is_zero, none, (F::splat(1.0) / factor).to_half());
    slots.put_u16(D, d);
    let d = F::from_half(d);

    let mut scales = [none; BLOCKS];
    let mut levels = [none; LEN];
    for (j, x) in blocks.iter().enumerate() {
        let scale = nearest_int(factor * found[j].scale).min(F::Int::splat(127)) & F::Int::splat(255);
        scales[j] = F::Int::select(is_zero, none, scale);
        // From a signed byte.
        let scale = ((scale + F::Int::splat(128)) & F::Int::splat(255)) - F::Int::splat(128);
        let scale = d * F::from_int(scale);
        let unused = scale.eq(zero);
        let levels = &mut levels[j * SUB..][..SUB];
        for (level, &x) in levels.iter_mut().zip(x) {
            *level = clamp(nearest_int(x / scale), -32, 31) + F::Int::splat(32);
        }
        if unused.any() {
            for (level, &x) in levels.iter_mut().zip(x) {
                let kept = F::Int::select(is_zero, none, found[j].level(x, 32));
                *level = F::Int::select(unused, kept, *level);
            }
        }
    }
    slots.put_bytes(SCALES, &scales);

    let nibble = F::Int::splat(15);
    for (half, levels) in levels.as_chunks::<128>().0.iter().enumerate() {
        let (mut low, mut high) = ([none; 64], [none; 32]);
        for l in 0..32 {
            let [a, b, c, d] = [levels[l], levels[l + 32], levels[l + 64], levels[l + 96]];
            low[l] = (a & nibble) | (c & nibble).shl(4);
            low[l + 32] = (b & nibble) | (d & nibble).shl(4);
            high[l] = (a.shr(4) | b.shr(4).shl(2)) | (c.shr(4).shl(4) | d.shr(4).shl(6));
        }
        slots.put_bytes(half * 64, &low);
        slots.put_bytes(HIGH + half * 32, &high);
    }
}

impl Coded for Q6K {
    const ROUNDED: Rounded = Rounded::Q8K;
    const GROUP: usize = SUB;
    const OFFSET: u8 = 32;
    const MOST: u8 = 63;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        let d = half_value([block[D], block[D + 1]]);
        for (to, scale) in scales.iter_mut().zip(&block[SCALES..]) {
            *to = d * f32::from(*scale as i8);
        }
        for (part, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (half, k) = (part / 4, part % 4);
            let low = &block[half * 64 + k % 2 * 32..];
            for ((code, low), high) in codes.iter_mut().zip(low).zip(&block[HIGH + half * 32..]) {
                *code = (low >> (k / 2 * 4) & 15) | (high >> (2 * k) & 3) << 4;
            }
        }
    }
}
