//! `MXFP4` and `NVFP4`: the 16 values of an E2M1 float, scaled by a small float.
//!
//! `MXFP4` block: one E8M0 exponent, 16 bytes of nibbles (byte i holds values i and i + 16).
//! `NVFP4` block: four unsigned E4M3 scales, 32 bytes of nibbles; each scale and 8 bytes (byte i holds values i and
//! i + 8) make 16 values.
//!
//! The table holds twice the E2M1 values, so the scales here are half of what the formats say.

use gguf::TensorType;

use super::levels::{Coded, Rounded};
use super::{Block, largest};
use crate::codec::ImportanceUse;
use crate::lanes::{Floats, Ints, Rows};

pub(crate) struct Mxfp4;
pub(crate) struct Nvfp4;

/// Twice the values of E2M1.
const VALUES: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

/// Fills nibbles with the indexes of the nearest values: the first half of `x` in the lower ones.
#[inline(always)]
fn nearest<F: Floats>(x: &[f32], d: f32, nibbles: &mut [u8]) {
    let mut indexes = [0u8; 32];
    for at in (0..x.len()).step_by(F::N) {
        let x = F::load(&x[at..]);
        let mut index = F::Int::splat(0);
        let mut least = (F::splat(VALUES[0] * d) - x).abs();
        for (i, value) in VALUES.iter().enumerate().skip(1) {
            let error = (F::splat(value * d) - x).abs();
            let better = error.lt(least);
            least = F::select(better, error, least);
            index = F::Int::select(better, F::Int::splat(i as i32), index);
        }
        index.store_u8(&mut indexes[at..]);
    }
    let half = x.len() / 2;
    for i in 0..half {
        nibbles[i] = indexes[i] | indexes[i + half] << 4;
    }
}

/// The values that nibbles stand for.
#[inline(always)]
fn values<F: Floats>(nibbles: &[u8], d: f32, out: &mut [f32]) {
    let half = nibbles.len();
    let mut indexes = [0u8; 32];
    for i in 0..half {
        indexes[i] = nibbles[i] & 15;
        indexes[i + half] = nibbles[i] >> 4;
    }
    for at in (0..2 * half).step_by(F::N) {
        (F::lookup16(&VALUES, F::Int::load_u8(&indexes[at..])) * F::splat(d)).store(&mut out[at..]);
    }
}

/// Half of 2^(e − 127).
#[inline(always)]
fn half_of_e8m0(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}

impl Block for Mxfp4 {
    const TYPE: TensorType = TensorType::MXFP4;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Ignored;
    const SIZE: (usize, usize) = (32, 1 + 32 / 2);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<{ Mxfp4::SIZE.1 }>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            values::<F>(&block[1..], half_of_e8m0(block[0]), out);
        }
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        for (x, block) in rows.values.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<{ Mxfp4::SIZE.1 }>().0) {
            let largest = largest::<F>(x);
            block[0] = if largest > 0.0 {
                // Rounded to f32, the logarithm of a value just below a power of two is that power, as in the
                // reference; a negative exponent (subnormal values) wraps.
                let power = (f64::from(largest).log2() as f32).floor();
                (power as i32 - 2 + 127) as u8
            } else {
                0
            };
            nearest::<F>(x, half_of_e8m0(block[0]), &mut block[1..]);
        }
    }
}

/// Half of the value of an unsigned E4M3 (exponent bias 7); the NaN counts as 0.
#[inline(always)]
fn half_of_ue4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    match bits {
        0 | 0x7f => 0.0,
        1..8 => mantissa * f32::from_bits(0x3b00_0000) * 0.5,
        _ => (1.0 + mantissa / 8.0) * f32::from_bits(((exponent - 7 + 127) as u32) << 23) * 0.5,
    }
}

/// The unsigned E4M3 that the reference takes: the mantissa is rounded by its next bit alone, and 448 is the limit.
#[inline(always)]
fn ue4m3(value: f32) -> u8 {
    const LARGEST: u8 = 0x7e;
    if value.is_nan() || value <= 0.0 {
        return 0;
    }
    let value = if value > 448.0 { 448.0 } else { value };
    let bits = value.to_bits();
    let exponent = (bits >> 23) as i32 - 127 + 7;
    if exponent <= 0 {
        return ((value * 512.0 + 0.5) as i32).min(7) as u8;
    }
    if exponent >= 15 {
        return LARGEST;
    }
    // A mantissa that rounds up to 8 carries into the exponent.
    let rounded = (exponent << 3) + (bits >> 20 & 7) as i32 + (bits >> 19 & 1) as i32;
    if rounded >= 15 << 3 { LARGEST } else { rounded as u8 }
}

impl Block for Nvfp4 {
    const TYPE: TensorType = TensorType::NVFP4;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Ignored;
    const SIZE: (usize, usize) = (64, 64 / 16 + 64 / 2);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<{ Nvfp4::SIZE.1 }>().0.iter().zip(out.as_chunks_mut::<64>().0) {
            for (s, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                values::<F>(&block[4 + 8 * s..][..8], half_of_ue4m3(block[s]), out);
            }
        }
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        for (x, block) in rows.values.as_chunks::<64>().0.iter().zip(out.as_chunks_mut::<{ Nvfp4::SIZE.1 }>().0) {
            for (s, x) in x.as_chunks::<16>().0.iter().enumerate() {
                block[s] = ue4m3(largest::<F>(x) / 6.0);
                nearest::<F>(x, half_of_ue4m3(block[s]), &mut block[4 + 8 * s..][..8]);
            }
        }
    }
}

/// The largest of [`VALUES`].
const FARTHEST: u8 = 12;

/// The codes that nibbles stand for, by [`Coded`].
#[inline(always)]
fn codes_of(nibbles: &[u8], codes: &mut [u8]) {
    let code = |nibble: u8| (VALUES[usize::from(nibble)] as i32 + i32::from(FARTHEST)) as u8;
    let (low, high) = codes.split_at_mut(nibbles.len());
    for ((low, high), byte) in low.iter_mut().zip(high).zip(nibbles) {
        (*low, *high) = (code(byte & 15), code(byte >> 4));
    }
}

impl Coded for Mxfp4 {
    const ROUNDED: Rounded = Rounded::Q80;
    const GROUP: usize = 32;
    const OFFSET: u8 = FARTHEST;
    const MOST: u8 = 2 * FARTHEST;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        scales[0] = half_of_e8m0(block[0]);
        codes_of(&block[1..17], codes);
    }
}

impl Coded for Nvfp4 {
    const ROUNDED: Rounded = Rounded::Q80;
    const GROUP: usize = 16;
    const OFFSET: u8 = FARTHEST;
    const MOST: u8 = 2 * FARTHEST;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        for (s, codes) in codes.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            scales[s] = half_of_ue4m3(block[s]);
            codes_of(&block[4 + 8 * s..][..8], codes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ue4m3_is_its_own_nearest() {
        for bits in 0..=0x7eu8 {
            // The exponent 15 is one that the reference never takes but for the largest of all.
            if bits < 0x78 {
                assert_eq!(ue4m3(half_of_ue4m3(bits) * 2.0), bits, "{bits:#x}");
            } else {
                assert_eq!(ue4m3(half_of_ue4m3(bits) * 2.0), 0x7e, "{bits:#x}");
            }
        }
        assert_eq!(ue4m3(f32::MAX), 0x7e);
        assert_eq!(ue4m3(f32::NAN), 0);
    }
}
