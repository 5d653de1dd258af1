//! Norms.

use gguf::arch::NormKind;
use rayon::prelude::*;

use super::numeric::{self, widest};

/// Normalizes groups of `len` values in place, multiplied with `weight` and shifted by `bias` where there are any.
///
/// `weight` holds one value for each of the `len`, or for each value of a row of several groups (heads with weights of
/// their own): it repeats over the data.
pub fn normalize(kind: NormKind, x: &mut [f32], len: usize, weight: Option<&[f32]>, bias: Option<&[f32]>) {
    if len == 0 {
        return;
    }
    let period = weight.map_or(len, <[f32]>::len).max(len);
    x.par_chunks_mut(period).with_min_len((4096 / period).max(1)).for_each(|row| {
        for (g, group) in row.chunks_mut(len).enumerate() {
            one(kind, group);
            if let Some(weight) = weight {
                numeric::multiply(group, &weight[g * len..]);
            }
            if let Some(bias) = bias {
                for (x, b) in group.iter_mut().zip(&bias[g * len % bias.len().max(1)..]) {
                    *x += b;
                }
            }
        }
    });
}

widest! {
    /// Sums run in f64: a norm is cheap, and its error reaches every value behind it.
    fn one(kind: NormKind, x: &mut [f32]) {
        let n = x.len() as f64;
        let (mean, epsilon) = match kind {
            NormKind::Rms(epsilon) => (0.0, epsilon),
            NormKind::Layer(epsilon) => (sum(x, |v| v) / n, epsilon),
        };
        let mean_of_squares = sum(x, |v| (v - mean) * (v - mean)) / n;
        let scale = (1.0 / (mean_of_squares + f64::from(epsilon)).sqrt()) as f32;
        let mean = mean as f32;
        for v in x {
            *v = (*v - mean) * scale;
        }
    }
}

/// A sum in eight lanes, so that it can be vectorized.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0_f64; 8];
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(f64::from(v));
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&v| f(f64::from(v))).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rms_and_layer_norms_follow_their_definitions() {
        let mut x = vec![3.0, 4.0, 0.0, 0.0];
        normalize(NormKind::Rms(0.0), &mut x, 4, Some(&[1.0, 2.0, 1.0, 1.0]), None);
        assert_eq!(x, [1.2, 3.2, 0.0, 0.0]);
        let mut x = vec![1.0, 3.0, 5.0, 9.0];
        normalize(NormKind::Layer(0.0), &mut x, 2, Some(&[1.0, 1.0]), Some(&[0.5, 0.5]));
        assert_eq!(x, [-0.5, 1.5, -0.5, 1.5]);
    }

    #[test]
    fn heads_can_have_weights_of_their_own() {
        let mut x = vec![1.0, 1.0, 1.0, 1.0];
        normalize(NormKind::Rms(0.0), &mut x, 2, Some(&[1.0, 2.0, 3.0, 4.0]), None);
        assert_eq!(x, [1.0, 2.0, 3.0, 4.0]);
    }
}
