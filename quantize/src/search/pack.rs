//! The bytes of chosen scales and levels, by each format's layout (described in [`crate::block`]'s files).

use gguf::TensorType::{self, *};

use crate::lanes::half_bits;

/// What was chosen for one superblock.
pub(crate) struct Chosen<'a> {
    /// The code of each level, counted from 0.
    pub(crate) codes: &'a [u8],
    /// The code of each block's scale.
    pub(crate) scales: &'a [f32],
    /// The code of each block's minimum.
    pub(crate) mins: &'a [f32],
    /// The float of the superblock's scales.
    pub(crate) d: f32,
    /// The float of its minima.
    pub(crate) dmin: f32,
}

/// Writes a superblock of a type of [`super::grid::GRIDS`].
pub(crate) fn pack(ty: TensorType, chosen: &Chosen<'_>, out: &mut [u8]) {
    let Chosen { codes, scales, mins, d, dmin } = *chosen;
    out.fill(0);
    let half = |value: f32| half_bits(value).to_le_bytes();
    match ty {
        Q4_0 | IQ4_NL => {
            out[..2].copy_from_slice(&half(scales[0]));
            nibbles(codes, &mut out[2..]);
        }
        Q4_1 => {
            out[..2].copy_from_slice(&half(scales[0]));
            out[2..4].copy_from_slice(&half(-mins[0]));
            nibbles(codes, &mut out[4..]);
        }
        Q5_0 => {
            out[..2].copy_from_slice(&half(scales[0]));
            out[2..6].copy_from_slice(&fifth_bits(codes).to_le_bytes());
            nibbles(codes, &mut out[6..]);
        }
        Q5_1 => {
            out[..2].copy_from_slice(&half(scales[0]));
            out[2..4].copy_from_slice(&half(-mins[0]));
            out[4..8].copy_from_slice(&fifth_bits(codes).to_le_bytes());
            nibbles(codes, &mut out[8..]);
        }
        Q8_0 => {
            out[..2].copy_from_slice(&half(scales[0]));
            out[2..].iter_mut().zip(codes).for_each(|(to, &code)| *to = code.wrapping_sub(127));
        }
        Q2_K => {
            for (j, out) in out[..16].iter_mut().enumerate() {
                *out = scales[j] as u8 | (mins[j] as u8) << 4;
            }
            pairs(codes, &mut out[16..80]);
            out[80..82].copy_from_slice(&half(d));
            out[82..84].copy_from_slice(&half(dmin));
        }
        Q3_K => {
            for (i, &code) in codes.iter().enumerate() {
                out[i % 32] |= (code >> 2) << (i / 32);
            }
            pairs(codes, &mut out[32..96]);
            for (j, &scale) in scales.iter().enumerate() {
                let six = (scale as i32 + 32) as u8;
                out[96 + j % 8] |= (six & 15) << (j / 8 * 4);
                out[104 + j % 4] |= (six >> 4) << (2 * (j / 4));
            }
            out[108..110].copy_from_slice(&half(d));
        }
        Q4_K | Q5_K => {
            out[..2].copy_from_slice(&half(d));
            out[2..4].copy_from_slice(&half(dmin));
            six_bits(scales, mins, &mut out[4..16]);
            let low = if ty == Q5_K { 48 } else { 16 };
            for (i, &code) in codes.iter().enumerate() {
                if ty == Q5_K {
                    out[16 + i % 32] |= (code >> 4) << (i / 32);
                }
                out[low + i / 64 * 32 + i % 32] |= (code & 15) << (i / 32 % 2 * 4);
            }
        }
        Q6_K => {
            for (i, &code) in codes.iter().enumerate() {
                let (part, k, l) = (i / 128, i / 32 % 4, i % 32);
                out[part * 64 + k % 2 * 32 + l] |= (code & 15) << (k / 2 * 4);
                out[128 + part * 32 + l] |= (code >> 4) << (2 * k);
            }
            for (out, &scale) in out[192..208].iter_mut().zip(scales) {
                *out = scale as i8 as u8;
            }
            out[208..210].copy_from_slice(&half(d));
        }
        IQ4_XS => {
            out[..2].copy_from_slice(&half(d));
            let mut high = 0_u16;
            for (j, &scale) in scales.iter().enumerate() {
                let six = (scale as i32 + 32) as u16;
                high |= (six >> 4) << (2 * j);
                out[4 + j / 2] |= ((six & 15) as u8) << (j % 2 * 4);
            }
            out[2..4].copy_from_slice(&high.to_le_bytes());
            for (codes, out) in codes.chunks(32).zip(out[8..].chunks_mut(16)) {
                nibbles(codes, out);
            }
        }
        MXFP4 => {
            out[0] = scales[0] as u8;
            nibbles(codes, &mut out[1..]);
        }
        NVFP4 => {
            for (j, codes) in codes.chunks(16).enumerate() {
                out[j] = scales[j] as u8;
                nibbles(codes, &mut out[4 + 8 * j..][..8]);
            }
        }
        TQ1_0 => {
            for (byte, value, count) in [(0, 0, 32), (32, 160, 16), (48, 240, 4)] {
                for l in 0..count {
                    let digit = |k: usize| codes[value..].get(k * count + l).copied().unwrap_or(0);
                    let digits = if count == 4 { 4 } else { 5 };
                    let number = (0..5).fold(0_u32, |n, k| n * 3 + u32::from(if k < digits { digit(k) } else { 0 }));
                    out[byte + l] = (number * 256).div_ceil(243) as u8;
                }
            }
            out[52..54].copy_from_slice(&half(scales[0]));
        }
        TQ2_0 => {
            pairs(codes, &mut out[..64]);
            out[64..66].copy_from_slice(&half(scales[0]));
        }
        Q2_0 => {
            out[..2].copy_from_slice(&half(scales[0]));
            for (out, codes) in out[2..].iter_mut().zip(codes.chunks(4)) {
                *out = codes.iter().rev().fold(0, |byte, code| byte << 2 | code);
            }
        }
        _ => unreachable!("{ty} has no grid"),
    }
}

/// Byte i holds the codes i and i + half.
fn nibbles(codes: &[u8], out: &mut [u8]) {
    let half = codes.len() / 2;
    for (i, out) in out[..half].iter_mut().enumerate() {
        *out = codes[i] & 15 | codes[i + half] << 4;
    }
}

fn fifth_bits(codes: &[u8]) -> u32 {
    codes.iter().enumerate().fold(0, |bits, (i, &code)| bits | u32::from(code >> 4) << i)
}

/// The lower two bits: in each half of 128 values, value 32 k + l is at bit 2 k of byte l.
fn pairs(codes: &[u8], out: &mut [u8]) {
    for (i, &code) in codes.iter().enumerate() {
        out[i / 128 * 32 + i % 32] |= (code & 3) << (i / 32 % 4 * 2);
    }
}

/// Eight scales and eight minima of six bits in twelve bytes.
fn six_bits(scales: &[f32], mins: &[f32], out: &mut [u8]) {
    for j in 0..4 {
        let (scale, min) = (scales[j] as u8, mins[j] as u8);
        let (scale_high, min_high) = (scales[j + 4] as u8, mins[j + 4] as u8);
        out[j] = scale | scale_high >> 4 << 6;
        out[j + 4] = min | min_high >> 4 << 6;
        out[j + 8] = scale_high & 15 | (min_high & 15) << 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::{Floats, Path, Task};
    use crate::search::grid::{GRIDS, Grid, Levels, Min, Scale};

    struct Random(u32);

    impl Random {
        fn below(&mut self, n: i32) -> i32 {
            self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((self.0 >> 8) as i32) % n
        }
    }

    /// What lane 0 decodes to.
    struct Value<'a>(&'a Grid, f32, f32, f32, f32, f32, &'a mut f32);

    impl Task for Value<'_> {
        #[inline(always)]
        fn run<F: Floats>(self) {
            let Value(grid, level, scale, min, d, dmin, out) = self;
            let scale = grid.scale_of(F::splat(scale), F::splat(d));
            let min = grid.minimum_of(F::splat(min), F::splat(dmin));
            let mut lanes = [0.0; 32];
            (scale * F::splat(level) - min).store(&mut lanes);
            *out = lanes[0];
        }
    }

    #[test]
    fn every_format_decodes_to_what_was_chosen() {
        let mut random = Random(11);
        for (ty, grid) in GRIDS.iter().filter(|row| !matches!(row.1.levels, Levels::Book(_))) {
            for _ in 0..20 {
                let level = |random: &mut Random| match grid.levels {
                    Levels::Even { low, high } => (low + random.below(high - low + 1)) as f32,
                    Levels::Points(points) => points.values[random.below(16) as usize],
                    Levels::Book(_) => 0.0,
                };
                let levels: Vec<f32> = (0..grid.len).map(|_| level(&mut random)).collect();
                let codes: Vec<u8> = levels.iter().map(|&l| grid.code(l)).collect();
                let floats = [0.5, -0.01171875, 3.25];
                let (d, dmin) = (floats[random.below(3) as usize], 0.0078125);
                let scale = |random: &mut Random| match grid.scale {
                    Scale::Times { low, high } => (low + random.below(high - low + 1)) as f32,
                    Scale::Stepped { high, .. } => random.below(high + 1) as f32,
                    Scale::Half | Scale::Magnitude(_) | Scale::Row => floats[random.below(3) as usize],
                    Scale::Power => (2 + random.below(200)) as f32,
                    Scale::Small => (1 + random.below(126)) as f32,
                };
                let min = |random: &mut Random| match grid.min {
                    Min::None => 0.0,
                    Min::Half => floats[random.below(3) as usize],
                    Min::Times { high } => random.below(high + 1) as f32,
                };
                let scales: Vec<f32> = (0..grid.blocks()).map(|_| scale(&mut random)).collect();
                let mins: Vec<f32> = (0..grid.blocks()).map(|_| min(&mut random)).collect();
                let mut bytes = vec![0; ty.bytes_for(grid.len as u64).unwrap() as usize];
                pack(*ty, &Chosen { codes: &codes, scales: &scales, mins: &mins, d, dmin }, &mut bytes);
                let mut decoded = vec![0.0; grid.len];
                crate::decode_rows(*ty, &bytes, &mut decoded).unwrap();
                for (i, &got) in decoded.iter().enumerate() {
                    let (scale, min) = (scales[i / grid.sub], mins[i / grid.sub]);
                    let mut want = 0.0;
                    Path::current().run(Value(grid, levels[i], scale, min, d, dmin, &mut want));
                    assert_eq!(got, want, "{ty} value {i}: level {} scale {scale} min {min}", levels[i]);
                }
            }
        }
    }
}
