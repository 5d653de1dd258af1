//! Small loops over values, written so that they vectorize.

/// eˣ with an error of at most two units of the last place, zero below the normal numbers, and nothing
/// greater than e^88.37, where powers of two end: a power of two times a
/// polynomial (the one of Cephes). Unlike the library's, it vectorizes.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding and subtracting it rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first exact in few bits.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const FIT: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1];
    let within = x.clamp(-87.3, 88.37);
    let n = within * std::f32::consts::LOG2_E + ROUND - ROUND;
    let r = within - n * LN_2[0] - n * LN_2[1];
    let fit = FIT.iter().fold(0.0, |sum, c| sum * r + c);
    let power = f32::from_bits(((n as i32 + 127) as u32) << 23);
    let y = (fit * r * r + r + 1.0) * power;
    if x < -87.3 { 0.0 } else { y }
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

/// Multiplies all values.
pub(crate) fn scale(x: &mut [f32], by: f32) {
    x.iter_mut().for_each(|x| *x *= by);
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
    fn maxima_and_sums_take_every_value() {
        let mut x: Vec<f32> = (0..37).map(|i| ((i * 7) % 37) as f32).collect();
        assert_eq!(max(&x), 36.0);
        assert_eq!(max(&[]), f32::NEG_INFINITY);
        let want: f64 = x.iter().map(|&v| f64::from(v - 36.0).exp()).sum();
        assert!((f64::from(exp_and_sum(&mut x, 36.0)) / want - 1.0).abs() < 1e-6);
    }
}
