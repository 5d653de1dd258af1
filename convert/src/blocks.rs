//! The block types that the reference converter encodes itself. Weights come in whole blocks.

use half::f16;

/// Blocks of 32 weights of 8 bits with one f16 scale, a 127th of their largest magnitude.
pub(crate) fn q8_0(weights: &[f32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(weights.len() / 32 * 34);
    for block in weights.as_chunks::<32>().0 {
        let scale = largest(block) / 127.0;
        let inverse = inverse(scale);
        out.extend(f16::from_f32(scale).to_le_bytes());
        out.extend(block.iter().map(|v| (v * inverse).round() as i8 as u8));
    }
    out
}

/// Weights of a ternary block.
const TERNARY: usize = 256;

/// Blocks of 256 ternary digits, five in a byte, and one f16 scale, their largest magnitude. Byte l of a run holds the
/// digits l, l + n, l + 2 n and so on of the n bytes' values, the first of them foremost, as a fraction of 243 in 256ths.
/// The last 16 digits are four in a byte, as five of which the last is 0.
pub(crate) fn tq1_0(weights: &[f32]) -> Vec<u8> {
    /// First digit, bytes and digits in a byte of each run.
    const RUNS: [(usize, usize, usize); 3] = [(0, 32, 5), (160, 16, 5), (240, 4, 4)];
    let mut out = Vec::with_capacity(weights.len() / TERNARY * 54);
    for block in weights.as_chunks::<TERNARY>().0 {
        let (digits, scale) = ternary(block);
        for (first, bytes, count) in RUNS {
            out.extend((first..first + bytes).map(|at| {
                let number =
                    (0..5).fold(0, |n, k| n * 3 + if k < count { u16::from(digits[at + k * bytes]) } else { 0 });
                (number * 256).div_ceil(243) as u8
            }));
        }
        out.extend(scale);
    }
    out
}

/// Blocks of 256 ternary digits in two bits each and one f16 scale, their largest magnitude. Byte l of a half holds its
/// digits l, l + 32, l + 64 and l + 96, from the low bits up.
pub(crate) fn tq2_0(weights: &[f32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(weights.len() / TERNARY * 66);
    for block in weights.as_chunks::<TERNARY>().0 {
        let (digits, scale) = ternary(block);
        for half in digits.as_chunks::<128>().0 {
            out.extend((0..32).map(|at| (0..4).fold(0, |byte, k| byte | half[at + 32 * k] << (2 * k))));
        }
        out.extend(scale);
    }
    out
}

/// The weights as 0, 1 and 2 for -1, 0 and 1 times a scale, and the scale as f16.
fn ternary(block: &[f32; TERNARY]) -> ([u8; TERNARY], [u8; 2]) {
    let scale = largest(block);
    let inverse = inverse(scale);
    // No weight is beyond the scale, so halves round away from 0 to it.
    let digit = |weight: f32| 1 + u8::from(weight * inverse >= 0.5) - u8::from(weight * inverse <= -0.5);
    (block.map(digit), f16::from_f32(scale).to_le_bytes())
}

/// What weights are multiplied by. Where it overflows, the low byte of the whole number that the reference makes of the
/// product is 0, as it is of products with 0.
fn inverse(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

fn largest(block: &[f32]) -> f32 {
    block.iter().fold(0.0_f32, |most, v| most.max(v.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(ty: gguf::TensorType, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![0.0; TERNARY];
        gguf::decode::rows(ty, bytes, &mut out).unwrap();
        out
    }

    #[test]
    fn ternary_weights_come_back_as_they_were() {
        let levels = [-0.5, 0.0, 0.5, 0.5, -0.5];
        let weights: Vec<f32> = (0..TERNARY).map(|i| levels[(i * i + i / 7) % 5]).collect();
        assert_eq!(decoded(gguf::TensorType::TQ1_0, &tq1_0(&weights)), weights);
        assert_eq!(decoded(gguf::TensorType::TQ2_0, &tq2_0(&weights)), weights);
    }

    #[test]
    fn halves_round_away_from_zero_and_no_scale_is_divided_by() {
        let mut weights = [0.0; TERNARY];
        (weights[0], weights[1], weights[2], weights[3]) = (1.0, 0.5, -0.5, 0.499_999_97);
        assert_eq!(ternary(&weights).0[..5], [2, 2, 0, 1, 1]);
        assert_eq!(ternary(&[0.0; TERNARY]), ([1; TERNARY], [0, 0]));
        // The inverse of the scale overflows.
        weights = [1e-40; TERNARY];
        assert_eq!(ternary(&weights), ([1; TERNARY], [0, 0]));
        assert_eq!(q8_0(&weights[..32]), [0; 34]);
    }
}
