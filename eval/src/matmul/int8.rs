//! LLM.int8: products as bitsandbytes takes them of 8-bit weights (Dettmers et al., "LLM.int8(): 8-bit Matrix
//! Multiplication for Transformers at Scale", 2022).
//!
//! A row of weights has one scale, its largest magnitude over 127; so has a token's activations, but for outliers: those of
//! a threshold or more are multiplied in 16 bits with the decoded weights. bitsandbytes takes a column as an outlier for
//! all tokens that it is given together; here each token has its own, as when a text is continued token by token, so that a
//! result does not depend on what else is evaluated.

use std::ops::Range;

use convert::packed::Float;
use gguf::Result;
use rayon::prelude::*;

use crate::numeric;
use crate::weights::Matrix;

/// Rows that a thread takes at a time.
const ROWS: usize = 32;

/// `x · wᵀ` for rows of a matrix whose values are whole multiples of a 127th of their row's largest. Activations of
/// `threshold` or more are outliers; 0 for none.
pub(super) fn product(x: &[f32], w: &Matrix<'_>, rows: Range<usize>, threshold: f32) -> Result<Vec<f32>> {
    let (cols, out) = (w.cols(), rows.len());
    let x = numeric::rounded(Float::F16, x);
    let tokens: Vec<Token> = x.par_chunks(cols).map(|x| Token::new(x, threshold)).collect();
    let parts: Vec<Vec<f32>> = (0..out.div_ceil(ROWS))
        .into_par_iter()
        .map(|part| {
            let of = rows.start + part * ROWS..(rows.start + (part + 1) * ROWS).min(rows.end);
            let mut decoded = Vec::new();
            let decoded = w.decoded(of, &mut decoded)?;
            let weights: Vec<(Vec<i8>, f32)> =
                decoded.chunks(cols).map(|row| codes(row.iter().copied(), |_| true)).collect();
            let mut y = Vec::with_capacity(tokens.len() * weights.len());
            for token in &tokens {
                for ((codes, largest), values) in weights.iter().zip(decoded.chunks(cols)) {
                    let sum = numeric::dot_int8(codes, &token.codes) as f32;
                    let product = Float::F16.round(sum * (token.largest * largest / (127.0 * 127.0)));
                    let outliers: f32 = token.outliers.iter().map(|&(col, x)| x * Float::F16.round(values[col])).sum();
                    y.push(if token.outliers.is_empty() { product } else { Float::F16.round(product + outliers) });
                }
            }
            Ok(y)
        })
        .collect::<Result<_>>()?;
    let mut y = vec![0.0; tokens.len() * out];
    y.par_chunks_mut(out.max(1)).enumerate().for_each(|(token, row)| {
        for (to, part) in row.chunks_mut(ROWS).zip(&parts) {
            to.copy_from_slice(&part[token * to.len()..(token + 1) * to.len()]);
        }
    });
    Ok(y)
}

/// Rounded activations.
struct Token {
    codes: Vec<i8>,
    largest: f32,
    outliers: Vec<(usize, f32)>,
}

impl Token {
    fn new(x: &[f32], threshold: f32) -> Token {
        let least = if threshold > 0.0 { threshold } else { f32::INFINITY };
        let within = |x: f32| x.abs() < least;
        let (codes, largest) = codes(x.iter().copied(), within);
        // What is no number is an outlier too, and stays none.
        let outliers = x.iter().copied().enumerate().filter(|(_, x)| !within(*x)).collect();
        Token { codes, largest, outliers }
    }
}

/// Codes of values in 127ths of the largest magnitude, and that; 0 for those that are not taken part.
fn codes(values: impl Iterator<Item = f32> + Clone, part: impl Fn(f32) -> bool) -> (Vec<i8>, f32) {
    let largest = values.clone().filter(|x| part(*x)).fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let scale = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    (values.map(|x| if part(x) { (x * scale).round_ties_even() as i8 } else { 0 }).collect(), largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outliers_keep_16_bits_and_the_rest_8() {
        // Two rows of whole 127ths; one token with an outlier, one without.
        let w = vec![1.27, 0.64, -1.0, 0.5, -2.54, 0.02, 0.0, 1.0];
        let x = vec![0.5, -1.0, 40.0, 0.25, 1.0, 2.0, 3.0, -4.0];
        let y = product(&x, &Matrix::from_f32("w", w.clone(), 4), 0..2, 6.0).unwrap();
        for (x, y) in x.chunks(4).zip(y.chunks(2)) {
            for (w, y) in w.chunks(4).zip(y) {
                let exact: f32 = w.iter().zip(x).map(|(w, x)| w * x).sum();
                assert!((exact - y).abs() < 0.05, "{exact} {y}");
            }
        }
        // Without its own scale the outlier would leave 8 bits for 0.5 and 0.25 that round them to 0.
        assert!((y[0] - (0.635 - 0.64 - 40.0 + 0.125)).abs() < 0.03, "{}", y[0]);
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let y = product(&[f32::NAN, 1.0], &Matrix::from_f32("w", vec![1.0, 2.0], 2), 0..1, 6.0).unwrap();
        assert!(y[0].is_nan());
    }
}
