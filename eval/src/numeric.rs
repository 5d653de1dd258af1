//! Small loops over values, written so that they vectorize.

use convert::packed::Float;
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

/// Values that a thread takes at once where the work is a pass over memory.
pub(crate) const PIECE: usize = 1 << 14;

/// A copy, made by all threads.
pub(crate) fn copied(x: &[f32]) -> Vec<f32> {
    let mut copy = Vec::with_capacity(x.len());
    copy.par_extend(x.par_iter().with_min_len(PIECE).copied());
    copy
}

/// eˣ with an error of at most two units of the last place, zero below the normal numbers, and nothing
/// greater than e^88.37, where powers of two end: a power of two times a
/// polynomial (the one of Cephes). Unlike the library's, it vectorizes.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding and subtracting it rounds to a whole number, which is then in the lowest bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first exact in few bits.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const FIT: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1];
    let within = x.clamp(-87.3, 88.37);
    let shifted = within * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = within - n * LN_2[0] - n * LN_2[1];
    let fit = FIT.iter().fold(0.0, |sum, c| sum * r + c);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    let y = (fit * r * r + r + 1.0) * power;
    if x < -87.3 { 0.0 } else { y }
}

/// eˣ in f64 with a relative error below 10⁻¹⁵, zero below e⁻⁷⁰⁰; for x up to 700. It vectorizes as [`exp`] does.
#[inline(always)]
pub(crate) fn exp_f64(x: f64) -> f64 {
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // ln 2 in two parts, the first exact in few bits.
    const LN_2: [f64; 2] = [0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10];
    // 1 / n!, from n = 13 down to 0.
    const FIT: [f64; 14] = [
        1.605_904_383_682_161_3e-10,
        2.087_675_698_786_81e-9,
        2.505_210_838_544_172e-8,
        2.755_731_922_398_589e-7,
        2.755_731_922_398_589e-6,
        2.480_158_730_158_73e-5,
        1.984_126_984_126_984e-4,
        1.388_888_888_888_889e-3,
        8.333_333_333_333_333e-3,
        4.166_666_666_666_666_4e-2,
        1.666_666_666_666_666_6e-1,
        5e-1,
        1.0,
        1.0,
    ];
    let within = x.clamp(-700.0, 700.0);
    let shifted = within * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = within - n * LN_2[0] - n * LN_2[1];
    let fit = FIT.iter().fold(0.0, |sum, c| sum * r + c);
    let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1.0_f64.to_bits()));
    let y = fit * power;
    if x < -700.0 { 0.0 } else { y }
}

/// Rounds each value to a type, to nearest even, by all threads.
pub(crate) fn round_to(float: Float, x: &mut [f32]) {
    x.par_chunks_mut(PIECE).for_each(|x| match float {
        Float::F32 => {}
        Float::Bf16 => to_bf16(x),
        Float::F16 => {
            let mut halves = [f16::ZERO; 64];
            for x in x.chunks_mut(halves.len()) {
                let halves = &mut halves[..x.len()];
                halves.convert_from_f32_slice(x);
                halves.convert_to_f32_slice(x);
            }
        }
    });
}

/// A copy, rounded to a type.
pub(crate) fn rounded(float: Float, x: &[f32]) -> Vec<f32> {
    let mut x = copied(x);
    round_to(float, &mut x);
    x
}

/// Compiles a function for AVX-512, for AVX2 and for any machine, and takes the one of the program's path. The results
/// are the same: nothing is contracted, and sums have lanes of their own.
macro_rules! widest {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? $body:block)*) => {$(
        $(#[$meta])*
        $vis fn $name($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            fn anywhere($($arg: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($arg: $type),*) $(-> $result)? { anywhere($($arg),*) }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) $(-> $result)? { anywhere($($arg),*) }
                match quantize::SimdPath::current() {
                    // SAFETY: the path is only taken on machines that have the features.
                    quantize::SimdPath::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    quantize::SimdPath::Avx2 => return unsafe { avx2($($arg),*) },
                    _ => {}
                }
            }
            anywhere($($arg),*)
        }
    )*};
}
pub(crate) use widest;

widest! {
    /// The sum of products of two slices of one length, at most 2¹⁶ long.
    pub(crate) fn dot_int8(a: &[i8], b: &[i8]) -> i32 {
        a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
    }

    /// Rounds each value to bfloat16.
    fn to_bf16(x: &mut [f32]) {
        for x in x {
            let bits = x.to_bits();
            let even = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
            *x = if x.is_nan() { *x } else { f32::from_bits(even) };
        }
    }

    /// The greatest value, `-∞` of none; values that are no number are passed over.
    pub(crate) fn max(x: &[f32]) -> f32 {
        let (chunks, rest) = x.as_chunks::<16>();
        let mut lanes = [f32::NEG_INFINITY; 16];
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane = if x > *lane { x } else { *lane };
            }
        }
        lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
    }

    /// Replaces each value by its exponential relative to `peak`, and gives their sum.
    pub(crate) fn exp_and_sum(x: &mut [f32], peak: f32) -> f32 {
        let (chunks, rest) = x.as_chunks_mut::<16>();
        let mut lanes = [0.0_f32; 16];
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *x = exp(*x - peak);
                *lane += *x;
            }
        }
        let mut sum = lanes.iter().sum();
        for x in rest {
            *x = exp(*x - peak);
            sum += *x;
        }
        sum
    }

    /// ln Σ eˣ in f64; no number where a value is none or all are `-∞`.
    pub(crate) fn log_sum(x: &[f32]) -> f64 {
        let peak = f64::from(max(x));
        let (chunks, rest) = x.as_chunks::<8>();
        let mut lanes = [0.0_f64; 8];
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane += exp_f64(f64::from(x) - peak);
            }
        }
        let sum: f64 = lanes.iter().sum::<f64>() + rest.iter().map(|&x| exp_f64(f64::from(x) - peak)).sum::<f64>();
        peak + sum.ln()
    }

    /// Σ p (ln p − ln q) of the distributions that two rows of logits stand for, in nats. `log_sum` is that of `p`,
    /// `shift` that of `q` less that of `p`. The logits' difference is taken before the large sums are added. Where
    /// ln p is `least` or less there is no term.
    pub(crate) fn divergence(p: &[f32], q: &[f32], log_sum: f64, shift: f64, least: f64) -> f64 {
        let (p, p_rest) = p.as_chunks::<8>();
        let (q, q_rest) = q.as_chunks::<8>();
        let mut lanes = [0.0_f64; 8];
        for (p, q) in p.iter().zip(q) {
            for ((lane, &p), &q) in lanes.iter_mut().zip(p).zip(q) {
                *lane += divergence_term(p, q, log_sum, shift, least);
            }
        }
        let rest: f64 = p_rest.iter().zip(q_rest).map(|(&p, &q)| divergence_term(p, q, log_sum, shift, least)).sum();
        lanes.iter().sum::<f64>() + rest
    }

    /// Multiplies all values.
    pub(crate) fn scale(x: &mut [f32], by: f32) {
        x.iter_mut().for_each(|x| *x *= by);
    }

    /// Multiplies each value with its factor.
    pub(crate) fn multiply(x: &mut [f32], by: &[f32]) {
        x.iter_mut().zip(by).for_each(|(x, by)| *x *= by);
    }

    /// `x += scale · y`.
    pub(crate) fn add_scaled(x: &mut [f32], y: &[f32], scale: f32) {
        x.iter_mut().zip(y).for_each(|(x, y)| *x += scale * y);
    }
}

#[inline(always)]
fn divergence_term(p: f32, q: f32, log_sum: f64, shift: f64, least: f64) -> f64 {
    let log_p = f64::from(p) - log_sum;
    let term = exp_f64(log_p) * (f64::from(p) - f64::from(q) + shift);
    if log_p > least { term } else { 0.0 }
}

/// ln(1 + eˣ).
pub(crate) fn softplus(x: f32) -> f32 {
    // Beyond 20 the logarithm adds nothing that f32 could hold.
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// The mean of values, weighted by the softmax of their scores; of scores and values.
pub(crate) fn soft_mean(all: &[(f32, f32)]) -> f32 {
    let mut shares: Vec<f32> = all.iter().map(|(score, _)| *score).collect();
    let sum = exp_and_sum(&mut shares, all.iter().map(|a| a.0).fold(f32::NEG_INFINITY, f32::max));
    shares.iter().zip(all).map(|(share, (_, value))| share * value).sum::<f32>() / sum
}

/// `len` columns of rows of `width`, from one on.
pub(crate) fn columns(x: &[f32], width: usize, from: usize, len: usize) -> Vec<f32> {
    x.chunks(width.max(1)).flat_map(|row| &row[from..from + len]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_near_the_exact_ones() {
        let mut worst = 0.0_f64;
        for i in -8700..=8837 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2.4e-7, "{worst:e}");
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn exponentials_in_f64_are_near_the_exact_ones() {
        let mut worst = 0.0_f64;
        for i in -69_000..=69_000 {
            let x = f64::from(i) / 100.0 + 1e-3 * f64::from(i % 7);
            worst = worst.max((exp_f64(x) / x.exp() - 1.0).abs());
        }
        assert!(worst < 1e-15, "{worst:e}");
        assert_eq!([exp_f64(0.0), exp_f64(-800.0), exp_f64(f64::NEG_INFINITY)], [1.0, 0.0, 0.0]);
        assert!(exp_f64(f64::NAN).is_nan());
    }

    #[test]
    fn sums_of_exponentials_and_divergences_follow_their_definitions() {
        let row = |seed: f32| -> Vec<f32> { (0..203).map(|i| ((i as f32 + seed) * 1.7).sin() * 9.0).collect() };
        let (p, q) = (row(0.0), row(0.01));
        let exact = |x: &[f32]| x.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
        assert!((log_sum(&p) - exact(&p)).abs() < 1e-13);
        let (ls, shift) = (exact(&p), exact(&q) - exact(&p));
        let want: f64 =
            p.iter().zip(&q).map(|(&p, &q)| (f64::from(p) - ls).exp() * (f64::from(p) - f64::from(q) + shift)).sum();
        assert!((divergence(&p, &q, ls, shift, -40.0) / want - 1.0).abs() < 1e-12);
        assert!(log_sum(&[0.0, f32::NAN]).is_nan() && log_sum(&[f32::NEG_INFINITY; 9]).is_nan());
    }

    #[test]
    fn maxima_and_sums_take_every_value() {
        let mut x: Vec<f32> = (0..37).map(|i| ((i * 7) % 37) as f32).collect();
        assert_eq!(max(&x), 36.0);
        assert_eq!(max(&[]), f32::NEG_INFINITY);
        let want: f64 = x.iter().map(|&v| f64::from(v - 36.0).exp()).sum();
        assert!((f64::from(exp_and_sum(&mut x, 36.0)) / want - 1.0).abs() < 1e-6);
    }
}
