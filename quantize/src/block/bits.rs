//! `Q1_0` and `Q2_0`: one or two bits a value and one scale.
//!
//! `Q1_0` block: `d` f16, 16 bytes of signs (bit i is set where value i is not negative); x ≈ ±d, d the mean magnitude.
//! `Q2_0` block: `d` f16, 16 bytes of four values each; x ≈ d (q − 1), d the largest magnitude.

use gguf::TensorType;

use super::levels::{Coded, Rounded};
use super::{Block, largest};
use crate::codec::ImportanceUse;
use crate::lanes::{Floats, Group, Ints, Masks, Rows, Slots, half_bits, half_value};

pub(crate) struct Q10;
pub(crate) struct Q20;

const LEN_1: usize = 128;
const LEN_2: usize = 64;
const BYTES: usize = 2 + LEN_1 / 8;

impl Block for Q10 {
    const TYPE: TensorType = TensorType::Q1_0;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Ignored;
    const SIZE: (usize, usize) = (LEN_1, BYTES);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<LEN_1>().0) {
            let d = half_value([block[0], block[1]]).to_bits();
            for (byte, out) in block[2..].iter().zip(out.as_chunks_mut::<8>().0) {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = f32::from_bits(d ^ (u32::from(!byte) >> i & 1) << 31);
                }
            }
        }
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        // One lane per block: the sum has an order.
        for (group, slots) in rows.groups(F::Wide::N, LEN_1, BYTES, out) {
            encode_signs::<F::Wide>(group, slots);
        }
    }
}

#[inline(always)]
fn encode_signs<F: Floats>(group: Group<'_>, mut slots: Slots<'_>) {
    let zero = F::splat(0.0);
    let mut sum = zero;
    for word in 0..4 {
        let mut x = [zero; 32];
        group.values(word * 32, &mut x);
        let mut signs = F::Int::splat(0);
        for (i, x) in x.into_iter().enumerate() {
            sum = sum + x.abs();
            let bit = F::Int::select(x.lt(zero).not(), F::Int::splat(1), F::Int::splat(0));
            signs = signs | bit.shl(i as u32);
        }
        slots.put_u32(2 + 4 * word, signs);
    }
    slots.put_u16(0, (sum / F::splat(LEN_1 as f32)).to_half());
}

impl Block for Q20 {
    const TYPE: TensorType = TensorType::Q2_0;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Ignored;
    const SIZE: (usize, usize) = (LEN_2, BYTES);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<LEN_2>().0) {
            let d = F::splat(half_value([block[0], block[1]]));
            let mut levels = [0u8; LEN_2];
            for (byte, levels) in block[2..].iter().zip(levels.as_chunks_mut::<4>().0) {
                for (i, level) in levels.iter_mut().enumerate() {
                    *level = byte >> (2 * i) & 3;
                }
            }
            for at in (0..LEN_2).step_by(F::N) {
                let level = F::Int::load_u8(&levels[at..]) - F::Int::splat(1);
                (F::from_int(level) * d).store(&mut out[at..]);
            }
        }
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        for (x, block) in rows.values.as_chunks::<LEN_2>().0.iter().zip(out.as_chunks_mut::<BYTES>().0) {
            let d = largest::<F>(x);
            let inverse = F::splat(if d > 0.0 { 1.0 / d } else { 0.0 });
            block[..2].copy_from_slice(&half_bits(d).to_le_bytes());
            let mut levels = [0u8; LEN_2];
            for at in (0..LEN_2).step_by(F::N) {
                let level = (F::load(&x[at..]) * inverse).round() + F::Int::splat(1);
                level.max(F::Int::splat(0)).min(F::Int::splat(3)).store_u8(&mut levels[at..]);
            }
            for (byte, [a, b, c, d]) in block[2..].iter_mut().zip(levels.as_chunks::<4>().0) {
                *byte = a | b << 2 | c << 4 | d << 6;
            }
        }
    }
}

impl Coded for Q10 {
    const ROUNDED: Rounded = Rounded::Q80;
    const GROUP: usize = 32;
    const OFFSET: u8 = 1;
    const MOST: u8 = 2;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        scales.fill(half_value([block[0], block[1]]));
        for (codes, byte) in codes.as_chunks_mut::<8>().0.iter_mut().zip(&block[2..]) {
            for (i, code) in codes.iter_mut().enumerate() {
                *code = (byte >> i & 1) * 2;
            }
        }
    }
}

impl Coded for Q20 {
    const ROUNDED: Rounded = Rounded::Q80;
    const GROUP: usize = 32;
    const OFFSET: u8 = 1;
    const MOST: u8 = 3;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        scales.fill(half_value([block[0], block[1]]));
        for (codes, byte) in codes.as_chunks_mut::<4>().0.iter_mut().zip(&block[2..]) {
            for (i, code) in codes.iter_mut().enumerate() {
                *code = byte >> (2 * i) & 3;
            }
        }
    }
}
