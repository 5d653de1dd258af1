//! `TQ1_0` and `TQ2_0`: the levels −1, 0 and 1 with one scale, for models trained to have no others.
//!
//! `TQ2_0` block: 64 bytes (in each half of 128 values, value 32 k + l is at bit 2 k of byte l), `d` f16.
//! `TQ1_0` block: 52 bytes of five ternary digits each, `d` f16. A byte is ⌈256 n / 243⌉ for the number n that the digits
//! make, first digit first, so that multiplying by 3 brings up digit after digit. Bytes 0 to 31 hold values l + 32 k,
//! bytes 32 to 47 values 160 + l + 16 k, bytes 48 to 51 values 240 + l + 4 k with the fifth digit unused.

use gguf::TensorType;

use super::levels::{Coded, Rounded};
use super::{Block, largest};
use crate::codec::ImportanceUse;
use crate::lanes::{Floats, Ints, Rows, half_bits, half_value};

pub(crate) struct TQ10;
pub(crate) struct TQ20;

const LEN: usize = 256;
const BYTES_1: usize = 48 + 4 + 2;
const BYTES_2: usize = LEN / 4 + 2;
const D_1: usize = 52;
const D_2: usize = 64;
/// The bytes of the last 16 values in `TQ1_0`.
const TAIL: usize = 48;

/// Runs of bytes that hold five digits each: first byte, first value, how many.
const RUNS: [(usize, usize, usize); 2] = [(0, 0, 32), (32, 160, 16)];
const POWERS: [i32; 5] = [1, 3, 9, 27, 81];

/// The scale of a block, and its inverse.
#[inline(always)]
fn scale<F: Floats>(x: &[f32; LEN]) -> (f32, F) {
    let d = largest::<F>(x);
    (d, F::splat(if d != 0.0 { 1.0 / d } else { 0.0 }))
}

/// Digits 0, 1, 2 in the low byte. (Where the inverse is infinite, 1 as in the reference: rounding gives a number whose
/// low byte is 0.)
#[inline(always)]
fn digits<F: Floats>(x: &[f32], inverse: F) -> F::Int {
    ((F::load(x) * inverse).round() + F::Int::splat(1)) & F::Int::splat(255)
}

/// The byte of five digits.
#[inline(always)]
fn five<F: Floats>(number: F::Int) -> F::Int {
    let dividend = number.shl(8) + F::Int::splat(242);
    // Exact: the dividend has 16 bits, and no quotient is closer to an integer from below than 1 / 243.
    (F::from_int(dividend) / F::splat(243.0)).truncate()
}

impl Block for TQ10 {
    const TYPE: TensorType = TensorType::TQ1_0;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Ignored;
    const SIZE: (usize, usize) = (LEN, BYTES_1);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES_1>().0.iter().zip(out.as_chunks_mut::<LEN>().0) {
            let scale = half_value([block[D_1], block[D_1 + 1]]);
            let d = F::splat(scale);
            for (byte, value, count) in RUNS {
                for (k, power) in POWERS.into_iter().enumerate() {
                    for at in (0..count).step_by(F::N) {
                        let digits = F::Int::load_u8(&block[byte + at..]) * F::Int::splat(power);
                        let digit = ((digits & F::Int::splat(255)) * F::Int::splat(3)).shr(8);
                        let x = F::from_int(digit - F::Int::splat(1)) * d;
                        x.store(&mut out[value + k * count + at..]);
                    }
                }
            }
            for (i, out) in out[LEN - 16..].iter_mut().enumerate() {
                let digits = (u32::from(block[TAIL + i % 4]) * POWERS[i / 4] as u32) & 255;
                *out = (((digits * 3) >> 8) as f32 - 1.0) * scale;
            }
        }
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        for (x, block) in rows.values.as_chunks::<LEN>().0.iter().zip(out.as_chunks_mut::<BYTES_1>().0) {
            let (d, inverse) = scale::<F>(x);
            block[D_1..].copy_from_slice(&half_bits(d).to_le_bytes());
            for (byte, value, count) in RUNS {
                for at in (0..count).step_by(F::N) {
                    let mut number = F::Int::splat(0);
                    for k in 0..5 {
                        number = number * F::Int::splat(3) + digits(&x[value + k * count + at..], inverse);
                    }
                    five::<F>(number).store_u8(&mut block[byte + at..]);
                }
            }
            let mut tail = [0; 16];
            for at in (0..16).step_by(F::N) {
                digits(&x[LEN - 16 + at..], inverse).store(&mut tail[at..]);
            }
            for i in 0..4 {
                let number = ((tail[i] * 3 + tail[i + 4]) * 3 + tail[i + 8]) * 3 + tail[i + 12];
                block[TAIL + i] = ((number * 3 * 256 + 242) / 243) as u8;
            }
        }
    }
}

impl Block for TQ20 {
    const TYPE: TensorType = TensorType::TQ2_0;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Ignored;
    const SIZE: (usize, usize) = (LEN, BYTES_2);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES_2>().0.iter().zip(out.as_chunks_mut::<LEN>().0) {
            let d = F::splat(half_value([block[D_2], block[D_2 + 1]]));
            for (half, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
                for k in 0..4 {
                    for at in (0..32).step_by(F::N) {
                        let digit = F::Int::load_u8(&block[half * 32 + at..]).shr(2 * k as u32) & F::Int::splat(3);
                        (F::from_int(digit - F::Int::splat(1)) * d).store(&mut out[k * 32 + at..]);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        for (x, block) in rows.values.as_chunks::<LEN>().0.iter().zip(out.as_chunks_mut::<BYTES_2>().0) {
            let (d, inverse) = scale::<F>(x);
            block[D_2..].copy_from_slice(&half_bits(d).to_le_bytes());
            for (half, x) in x.as_chunks::<128>().0.iter().enumerate() {
                for at in (0..32).step_by(F::N) {
                    let mut byte = F::Int::splat(0);
                    for k in 0..4 {
                        let digit = digits(&x[k * 32 + at..], inverse) & F::Int::splat(3);
                        byte = byte | digit.shl(2 * k as u32);
                    }
                    byte.store_u8(&mut block[half * 32 + at..]);
                }
            }
        }
    }
}

impl Coded for TQ10 {
    const ROUNDED: Rounded = Rounded::Q8K;
    const GROUP: usize = 32;
    const OFFSET: u8 = 1;
    const MOST: u8 = 2;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        scales.fill(half_value([block[D_1], block[D_1 + 1]]));
        let digit = |byte: u8, k: usize| ((u16::from(byte.wrapping_mul(POWERS[k] as u8)) * 3) >> 8) as u8;
        for (byte, value, count) in RUNS {
            for (k, codes) in codes[value..value + 5 * count].chunks_exact_mut(count).enumerate() {
                codes.iter_mut().zip(&block[byte..]).for_each(|(code, byte)| *code = digit(*byte, k));
            }
        }
        for (k, codes) in codes[LEN - 16..].chunks_exact_mut(4).enumerate() {
            codes.iter_mut().zip(&block[TAIL..]).for_each(|(code, byte)| *code = digit(*byte, k));
        }
    }
}

impl Coded for TQ20 {
    const ROUNDED: Rounded = Rounded::Q8K;
    const GROUP: usize = 32;
    const OFFSET: u8 = 1;
    /// Three is no ternary level, yet the bits can hold it.
    const MOST: u8 = 3;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        scales.fill(half_value([block[D_2], block[D_2 + 1]]));
        for (part, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (half, k) = (part / 4, part % 4);
            codes.iter_mut().zip(&block[half * 32..]).for_each(|(code, byte)| *code = byte >> (2 * k) & 3);
        }
    }
}
