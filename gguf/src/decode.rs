//! Blocks as numbers: one row at a time, one number after the other.
//!
//! This is what the formats mean, written as plainly as it can be; programs that decode much have faster ways to the
//! same numbers. Every value is one f32 multiplication, or one and a subtraction, in the order of the formula.

use crate::error::{Error, Result};
use crate::types::TensorType;

/// Decodes whole blocks of a type: `bytes` holds as many as fill `out`.
///
/// # Errors
/// A type that holds no weights or is not decoded here, and lengths that do not fit each other.
pub fn rows(ty: TensorType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let Some(decode) = decoder(ty) else {
        return Err(Error::input(format!("{ty} is not decoded to numbers here")).help(
            "requantize the file to a type of the Q or IQ4 families first: quantize FILE --type q8_0 --requantize",
        ));
    };
    if ty.bytes_for(out.len() as u64) != Some(bytes.len() as u64) {
        return Err(Error::input(format!("{} bytes are not those of {} values of {ty}", bytes.len(), out.len())));
    }
    let (length, size) = (ty.block_len() as usize, ty.bytes_for(ty.block_len()).unwrap_or(1) as usize);
    for (block, out) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(length)) {
        decode(block, out);
    }
    Ok(())
}

/// Whether [`rows`] decodes this type.
pub fn is_decoded(ty: TensorType) -> bool {
    decoder(ty).is_some()
}

/// Decodes one block.
type Decoder = fn(&[u8], &mut [f32]);

fn decoder(ty: TensorType) -> Option<Decoder> {
    Some(match ty {
        TensorType::F32 => |b, out| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        TensorType::F16 => |b, out| out[0] = half_at(b, 0),
        TensorType::BF16 => |b, out| out[0] = f32::from_le_bytes([0, 0, b[0], b[1]]),
        TensorType::F64 => |b, out| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&b[..8]);
            out[0] = f64::from_le_bytes(bytes) as f32;
        },
        TensorType::Q4_0 => |b, out| nibbles(b, 2, out, |q, _| (f32::from(q) - 8.0) * half_at(b, 0)),
        TensorType::Q4_1 => |b, out| nibbles(b, 4, out, |q, _| f32::from(q) * half_at(b, 0) + half_at(b, 2)),
        TensorType::Q5_0 => |b, out| {
            nibbles(b, 6, out, |q, i| (f32::from(q | fifth(b, 2, i)) - 16.0) * half_at(b, 0));
        },
        TensorType::Q5_1 => |b, out| {
            nibbles(b, 8, out, |q, i| f32::from(q | fifth(b, 4, i)) * half_at(b, 0) + half_at(b, 2));
        },
        TensorType::Q8_0 => |b, out| {
            let d = half_at(b, 0);
            out.iter_mut().zip(&b[2..]).for_each(|(out, q)| *out = f32::from(*q as i8) * d);
        },
        TensorType::Q2_K => q2_k,
        TensorType::Q3_K => q3_k,
        TensorType::Q4_K => |b, out| q45_k(b, None, 16, out),
        TensorType::Q5_K => |b, out| q45_k(b, Some(16), 48, out),
        TensorType::Q6_K => q6_k,
        TensorType::IQ4_NL => |b, out| nibbles(b, 2, out, |q, _| LEVELS[usize::from(q)] * half_at(b, 0)),
        TensorType::IQ4_XS => iq4_xs,
        TensorType::MXFP4 => |b, out| nibbles(b, 1, out, |q, _| FP4[usize::from(q)] * power(b[0])),
        TensorType::NVFP4 => |b, out| {
            for (s, out) in out.chunks_exact_mut(16).enumerate() {
                let d = ue4m3(b[s]);
                for i in 0..8 {
                    let q = b[4 + 8 * s + i];
                    out[i] = FP4[usize::from(q & 15)] * d;
                    out[i + 8] = FP4[usize::from(q >> 4)] * d;
                }
            }
        },
        TensorType::TQ1_0 => tq1_0,
        TensorType::TQ2_0 => |b, out| {
            let d = half_at(b, 64);
            for (j, out) in out.iter_mut().enumerate() {
                let (half, k, l) = quarters(j);
                *out = (f32::from(b[half * 32 + l] >> (2 * k) & 3) - 1.0) * d;
            }
        },
        TensorType::Q1_0 => |b, out| {
            let d = half_at(b, 0);
            out.iter_mut()
                .enumerate()
                .for_each(|(i, out)| *out = if b[2 + i / 8] >> (i % 8) & 1 == 1 { d } else { -d });
        },
        TensorType::Q2_0 => |b, out| {
            let d = half_at(b, 0);
            let level = |i: usize| f32::from(b[2 + i / 4] >> (2 * (i % 4)) & 3) - 1.0;
            out.iter_mut().enumerate().for_each(|(i, out)| *out = level(i) * d);
        },
        _ => return None,
    })
}

/// Half of an unsigned E4M3, whose NaN counts as 0: the levels of [`FP4`] are doubled.
fn ue4m3(bits: u8) -> f32 {
    let mantissa = f32::from(bits & 7);
    match bits {
        0 | 0x7F => 0.0,
        1..8 => mantissa * f32::exp2(-10.0),
        _ => (1.0 + mantissa / 8.0) * f32::exp2(f32::from(bits >> 3 & 15) - 8.0),
    }
}

/// Five ternary digits a byte, a number that times a power of 3 has the digit in front; the last four bytes have four.
fn tq1_0(b: &[u8], out: &mut [f32]) {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let d = half_at(b, 52);
    // Runs of bytes: the first, how many, and how many digits of each.
    for (first, count, at, digits) in [(0, 32, 0, 5), (32, 16, 160, 5), (48, 4, 240, 4)] {
        for (k, power) in POWERS.into_iter().enumerate().take(digits) {
            for i in 0..count {
                let digit = (u16::from(b[first + i].wrapping_mul(power)) * 3) >> 8;
                out[at + k * count + i] = (f32::from(digit) - 1.0) * d;
            }
        }
    }
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Half of 2 to the power of a byte less 127: the levels of [`FP4`] are doubled.
fn power(exponent: u8) -> f32 {
    f32::from_bits(match exponent {
        0 | 1 => 0x0020_0000 << exponent,
        e => u32::from(e - 1) << 23,
    })
}

/// 32 values of 4 bits: byte i has values i and i + 16.
fn nibbles(block: &[u8], at: usize, out: &mut [f32], value: impl Fn(u8, usize) -> f32) {
    for i in 0..16 {
        let q = block[at + i];
        out[i] = value(q & 15, i);
        out[i + 16] = value(q >> 4, i + 16);
    }
}

/// The fifth bit of value i, at its place.
fn fifth(block: &[u8], at: usize, i: usize) -> u8 {
    (block[at + i / 8] >> (i % 8) & 1) << 4
}

/// The place of value j in superblocks that keep 2 bits of four values in a byte: half, pair of bits, byte of 32.
fn quarters(j: usize) -> (usize, usize, usize) {
    (j / 128, j / 32 % 4, j % 32)
}

fn q2_k(b: &[u8], out: &mut [f32]) {
    let (d, least) = (half_at(b, 80), half_at(b, 82));
    for (j, out) in out.iter_mut().enumerate() {
        let (half, k, l) = quarters(j);
        let scales = b[j / 16];
        let q = b[16 + half * 32 + l] >> (2 * k) & 3;
        *out = d * f32::from(scales & 15) * f32::from(q) - least * f32::from(scales >> 4);
    }
}

fn q3_k(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 108);
    for (j, out) in out.iter_mut().enumerate() {
        let (half, k, l) = quarters(j);
        let block = j / 16;
        let low = b[96 + block % 8] >> (block / 8 * 4) & 15;
        let high = b[96 + 8 + block % 4] >> (2 * (block / 4)) & 3;
        let scale = d * (f32::from(low | high << 4) - 32.0);
        let q = i32::from(b[32 + half * 32 + l] >> (2 * k) & 3) + 4 * i32::from(b[l] >> (half * 4 + k) & 1);
        *out = scale * (q - 4) as f32;
    }
}

/// Scale and minimum of a block of 32 in `Q4_K` and `Q5_K`: 6 bits each, in 12 bytes.
fn scale_and_least(scales: &[u8], block: usize) -> (u8, u8) {
    if block < 4 {
        return (scales[block] & 63, scales[block + 4] & 63);
    }
    let low = scales[block + 4];
    (low & 15 | scales[block - 4] >> 6 << 4, low >> 4 | scales[block] >> 6 << 4)
}

fn q45_k(b: &[u8], fifths: Option<usize>, low: usize, out: &mut [f32]) {
    let (d, least) = (half_at(b, 0), half_at(b, 2));
    for (j, out) in out.iter_mut().enumerate() {
        let (block, l) = (j / 32, j % 32);
        let (scale, min) = scale_and_least(&b[4..16], block);
        let mut q = b[low + block / 2 * 32 + l] >> (block % 2 * 4) & 15;
        if let Some(at) = fifths {
            q |= (b[at + l] >> block & 1) << 4;
        }
        *out = d * f32::from(scale) * f32::from(q) - least * f32::from(min);
    }
}

fn q6_k(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 208);
    for (j, out) in out.iter_mut().enumerate() {
        let (half, k, l) = quarters(j);
        let low = b[half * 64 + k % 2 * 32 + l] >> (k / 2 * 4) & 15;
        let high = b[128 + half * 32 + l] >> (2 * k) & 3;
        let scale = d * f32::from(b[192 + j / 16] as i8);
        *out = scale * (i32::from(low | high << 4) - 32) as f32;
    }
}

fn iq4_xs(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    let high = u16::from_le_bytes([b[2], b[3]]);
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let low = b[4 + j / 2] >> (j % 2 * 4) & 15;
        let scale = i32::from(low) | i32::from(high >> (2 * j) & 3) << 4;
        let scale = d * (scale - 32) as f32;
        nibbles(b, 8 + j * 16, out, |q, _| scale * LEVELS[usize::from(q)]);
    }
}

/// The levels of `IQ4_NL` and `IQ4_XS`.
const LEVELS: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

/// The values of E2M1, doubled; its negative zero counts as 0.
const FP4: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked() {
        assert!(rows(TensorType::Q8_0, &[0; 34], &mut [0.0; 32]).is_ok());
        assert!(rows(TensorType::Q8_0, &[0; 33], &mut [0.0; 32]).is_err());
        assert!(rows(TensorType::I32, &[0; 4], &mut [0.0; 1]).is_err());
    }
}
