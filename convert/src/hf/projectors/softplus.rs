//! The softplus as the reference's library computes it, bit for bit: 32 values at a time with the functions of SLEEF,
//! what is left with those of the C library. Neither rounds correctly, so the last place depends on which of them a
//! value met. Constants and the order of operations are those of SLEEF 3 (`expf`, `log1pf` within one unit in the last
//! place, with a fused multiply-add) and of glibc 2.36.

use std::f32::consts::{LN_2, LOG2_E};

/// How many values are computed at once: two registers of AVX-512.
const LANES: usize = 32;

/// The logarithm of one more than the exponential of each value.
pub(super) fn softplus(values: &[f32]) -> Vec<f32> {
    let at_once = values.len() / LANES * LANES;
    let of = |(i, v): (usize, &f32)| match *v {
        // The library's own threshold.
        v if v > 20.0 => v,
        v if i < at_once => sleef_log1p(sleef_exp(v)),
        v => libm_log1p(libm_exp(v)),
    };
    values.iter().enumerate().map(of).collect()
}

fn sleef_exp(x: f32) -> f32 {
    const STEPS: [f32; 5] = [0.001_393_043_6, 0.008_333_361, 0.041_666_485, 0.166_666_67, 0.5];
    let q = (x * LOG2_E).round_ties_even();
    let s = q.mul_add(-1.428_606_8e-6, q.mul_add(-0.693_145_75, x));
    let sum = STEPS.iter().fold(0.000_198_527_62_f32, |sum, step| sum.mul_add(s, *step));
    let mantissa = 1.0 + (s * s).mul_add(sum, s);
    (f64::from(mantissa) * f64::from(q).exp2()) as f32
}

/// Of a number above 0: in pairs of floats, of which the second is what rounding took from the first.
fn sleef_log1p(x: f32) -> f32 {
    const LOW: f32 = -1.904_654_2e-9;
    let exponent = f64::from((x + 1.0) * (1.0 / 0.75)).log2().floor() as f32;
    let scale = (-exponent).exp2();
    let m = x.mul_add(scale, scale - 1.0);
    let high = LN_2 * exponent;
    let low = LOW.mul_add(exponent, LN_2.mul_add(exponent, -high));
    // m / (2 + m)
    let below = 2.0 + m;
    let below_rest = (2.0 - below) + m;
    let inverse = 1.0 / below;
    let ratio = m * inverse;
    let left = (-below_rest).mul_add(inverse, (-below).mul_add(inverse, 1.0));
    let rest = ratio.mul_add(left, inverse.mul_add(m, -ratio));
    let square = ratio * ratio;
    let sum = 0.302_729_5_f32.mul_add(square, 0.399_610_82).mul_add(square, 0.666_669_5);
    let (twice, twice_rest) = (ratio * 2.0, rest * 2.0);
    let first = high + twice;
    let first_rest = (high - first) + twice + low + twice_rest;
    let cubed = square * ratio * sum;
    let last = first + cubed;
    last + ((first - last) + cubed + first_rest)
}

fn libm_exp(x: f32) -> f32 {
    const STEPS: [f64; 3] = [0.055_503_615_593_415_35, 0.240_228_452_244_572_2, 0.693_147_180_691_620_3];
    let scaled = std::f64::consts::LOG2_E * 32.0 * f64::from(x);
    let k = scaled.round_ties_even();
    let r = scaled - k;
    let [cube, square, one] = [STEPS[0] / 32.0 / 32.0 / 32.0, STEPS[1] / 32.0 / 32.0, STEPS[2] / 32.0];
    (((cube * r + square) * (r * r) + (one * r + 1.0)) * (k / 32.0).exp2()) as f32
}

/// Of a number above 0, as fdlibm computes it.
fn libm_log1p(x: f32) -> f32 {
    /// The halves of the logarithm of 2.
    const LN2: (f32, f32) = (f32::from_bits(0x3f31_7180), f32::from_bits(0x3717_f7d1));
    const STEPS: [f32; 7] = [
        f32::from_bits(0x3e17_8897),
        f32::from_bits(0x3e1c_d04f),
        f32::from_bits(0x3e3a_3325),
        f32::from_bits(0x3e63_8e29),
        f32::from_bits(0x3e92_4925),
        f32::from_bits(0x3ecc_cccd),
        f32::from_bits(0x3f2a_aaab),
    ];
    if x < 2_f32.powi(-29) {
        return if x < 2_f32.powi(-54) { x } else { x - x * x * 0.5 };
    }
    let (mut exponent, mut rest, mut f, mut bits) = (0_i32, 0.0, x, 1_u32);
    // Below the root of 2, less 1, the number itself is small enough.
    if x.to_bits() >= 0x3ed4_13d7 {
        let sum = 1.0 + x;
        exponent = (sum.to_bits() >> 23) as i32 - 127;
        rest = if exponent > 0 { 1.0 - (sum - x) } else { x - (sum - 1.0) } / sum;
        bits = sum.to_bits() & 0x007f_ffff;
        if bits < 0x0035_04f7 {
            f = f32::from_bits(bits | 0x3f80_0000) - 1.0;
        } else {
            exponent += 1;
            f = f32::from_bits(bits | 0x3f00_0000) - 1.0;
            bits = (0x0080_0000 - bits) >> 2;
        }
    }
    let (half, k) = (0.5 * f * f, exponent as f32);
    let (high, low) = (k * LN2.0, k * LN2.1 + rest);
    if bits == 0 {
        let r = half * (1.0 - 0.666_666_7 * f);
        return match (f == 0.0, exponent) {
            (true, 0) => 0.0,
            (true, _) => high + (rest + k * LN2.1),
            (_, 0) => f - r,
            _ => high - ((r - low) - f),
        };
    }
    let s = f / (2.0 + f);
    let z = s * s;
    let r = z * STEPS[1..].iter().fold(STEPS[0], |sum, step| step + z * sum);
    match exponent {
        0 => f - (half - s * (half + r)),
        _ => high - ((half - (s * (half + r) + low)) - f),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_library() {
        // Of 40 values, the last eight are computed alone.
        let values: Vec<f32> = (0..40).map(|i| (i as f32 - 20.0) * 0.37).collect();
        let made: Vec<u32> = softplus(&values).into_iter().map(f32::to_bits).collect();
        assert_eq!(made, EXPECTED);
        assert_eq!(softplus(&[25.0, -200.0]), [25.0, 0.0]);
    }

    const EXPECTED: [u32; 40] = [
        0x3a20_2ff2,
        0x3a67_e07e,
        0x3aa7_d0a2,
        0x3af2_e1c6,
        0x3b2f_bdce,
        0x3b7e_4641,
        0x3bb7_e6c5,
        0x3c04_f421,
        0x3c40_2238,
        0x3c8a_b782,
        0x3cc8_126b,
        0x3d10_0bb6,
        0x3d4e_ef12,
        0x3d94_26a0,
        0x3dd3_2955,
        0x3e15_8a4f,
        0x3e52_0391,
        0x3e91_d781,
        0x3ec7_b9e4,
        0x3f06_7114,
        0x3f31_7218,
        0x3f65_2966,
        0x3f90_a6cb,
        0x3fb2_8a5b,
        0x3fd7_b116,
        0x3fff_7e16,
        0x4014_adc5,
        0x402a_63c5,
        0x4040_ac61,
        0x4057_5ee7,
        0x406e_5cf2,
        0x4082_c829,
        0x408e_748c,
        0x409a_2dff,
        0x40a5_f08a,
        0x40b1_b963,
        0x40bd_869c,
        0x40c9_56dc,
        0x40d5_2935,
        0x40e0_fd02,
    ];
}
