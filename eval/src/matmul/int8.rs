//! LLM.int8: products as bitsandbytes takes them of 8-bit weights (Dettmers et al., "LLM.int8(): 8-bit Matrix
//! Multiplication for Transformers at Scale", 2022).
//!
//! A row of weights has one scale, its largest magnitude over 127; so has a token's activations, but for outliers. A column
//! in which any token of the product has a threshold or more is multiplied in 16 bits with the decoded weights, for all
//! tokens; its lesser values still have a part in the scales.

use std::ops::Range;

use convert::packed::Float;
use gguf::Result;
use rayon::prelude::*;

use crate::numeric;
use crate::weights::Matrix;

/// Rows that a thread takes at a time.
const ROWS: usize = 32;

/// `x · wᵀ` for rows of a matrix whose values are whole multiples of a 127th of their row's largest. Columns with an
/// activation of `threshold` or more are outliers; 0 for none.
pub(super) fn product(x: &[f32], w: &Matrix<'_>, rows: Range<usize>, threshold: f32) -> Result<Vec<f32>> {
    let (cols, out) = (w.cols(), rows.len());
    let x = numeric::rounded(Float::F16, x);
    let least = if threshold > 0.0 { threshold } else { f32::INFINITY };
    let within = |x: f32| x.abs() < least;
    let outliers = outlier_columns(&x, cols, within);
    let tokens: Vec<Token> = x.par_chunks(cols).map(|x| Token::new(x, within, &outliers)).collect();
    let parts: Vec<Vec<f32>> = (0..out.div_ceil(ROWS))
        .into_par_iter()
        .map(|part| {
            let of = rows.start + part * ROWS..(rows.start + (part + 1) * ROWS).min(rows.end);
            let mut decoded = Vec::new();
            let decoded = w.decoded(of, &mut decoded)?;
            let weights: Vec<Row> = decoded.chunks(cols).map(|row| Row::new(row, &outliers)).collect();
            let mut y = Vec::with_capacity(tokens.len() * weights.len());
            for token in &tokens {
                for row in &weights {
                    let sum = numeric::dot_int8(&row.codes, &token.codes) as f32;
                    let product = Float::F16.round(sum * (token.largest * row.largest / (127.0 * 127.0)));
                    let in_16_bits: f32 = token.outliers.iter().zip(&row.outliers).map(|(x, w)| x * w).sum();
                    y.push(if outliers.is_empty() { product } else { Float::F16.round(product + in_16_bits) });
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

/// Columns in which a token is not within the threshold. What is no number is an outlier too, and stays none.
fn outlier_columns(x: &[f32], cols: usize, within: impl Fn(f32) -> bool) -> Vec<usize> {
    let mut all = vec![true; cols];
    for token in x.chunks(cols) {
        all.iter_mut().zip(token).for_each(|(all, &x)| *all &= within(x));
    }
    (0..cols).filter(|&col| !all[col]).collect()
}

/// Rounded activations.
struct Token {
    codes: Vec<i8>,
    largest: f32,
    outliers: Vec<f32>,
}

impl Token {
    fn new(x: &[f32], within: impl Fn(f32) -> bool, outliers: &[usize]) -> Token {
        let (mut codes, largest) = codes(x, within);
        outliers.iter().for_each(|&col| codes[col] = 0);
        Token { codes, largest, outliers: outliers.iter().map(|&col| x[col]).collect() }
    }
}

/// A row of weights.
struct Row {
    codes: Vec<i8>,
    largest: f32,
    outliers: Vec<f32>,
}

impl Row {
    fn new(values: &[f32], outliers: &[usize]) -> Row {
        let (codes, largest) = codes(values, |_| true);
        Row { codes, largest, outliers: outliers.iter().map(|&col| Float::F16.round(values[col])).collect() }
    }
}

/// Codes of values in 127ths of the largest magnitude of those that have a part in it, and that.
fn codes(values: &[f32], part: impl Fn(f32) -> bool) -> (Vec<i8>, f32) {
    let largest = values.iter().filter(|x| part(**x)).fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let scale = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    (values.iter().map(|x| (x * scale).round_ties_even() as i8).collect(), largest)
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
    fn a_column_is_an_outlier_for_all_tokens_of_a_product() {
        let w = Matrix::from_f32("w", vec![1.27, 0.64, -1.0, 0.5], 4);
        // 0.3 of the second token would be 76 of 127 of its scale: as a column of 16 bits it stays as it is.
        let x = vec![0.0, 0.0, 40.0, 0.0, 0.0, 0.0, 0.3, 0.0];
        let rounded: Vec<f32> = x.iter().map(|&x| Float::F16.round(x)).collect();
        assert_eq!(outlier_columns(&rounded, 4, |x| x.abs() < 6.0), [2]);
        let y = product(&x, &w, 0..1, 6.0).unwrap();
        assert_eq!(y, [Float::F16.round(-40.0), Float::F16.round(-rounded[6])]);
        // The lesser value of the column still has a part in its token's scale.
        let small = Token::new(&[0.1, 0.0, 0.3, 0.0], |x| x.abs() < 6.0, &[2]);
        assert_eq!((small.largest, small.codes[0], small.codes[2]), (0.3, 42, 0));
    }

    #[test]
    fn the_library_s_product_is_ours_to_a_step_of_16_bits() {
        let told = fixtures::json("golden/bnb/int8-product.json");
        let numbers = |key: &str| -> Vec<f32> {
            told[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
        };
        let cols = told["cols"].as_u64().unwrap() as usize;
        let (codes, scales, x) = (numbers("codes"), numbers("scales"), numbers("x"));
        let rows = codes.chunks(cols).zip(&scales);
        let w: Vec<f32> = rows.flat_map(|(row, s)| row.iter().map(move |c| c * s * (1.0 / 127.0))).collect();
        let w = Matrix::from_f32("w", w, cols);
        let compare = |ours: &[f32], theirs: &[f32]| {
            assert_eq!(ours.len(), theirs.len());
            for (ours, theirs) in ours.iter().zip(theirs) {
                assert!((ours - theirs).abs() <= theirs.abs().max(0.1) / 1024.0, "{ours} {theirs}");
            }
        };
        let together = product(&x, &w, 0..scales.len(), 6.0).unwrap();
        compare(&together, &numbers("y"));
        let alone: Vec<f32> = x.chunks(cols).flat_map(|x| product(x, &w, 0..scales.len(), 6.0).unwrap()).collect();
        compare(&alone, &numbers("alone"));
        assert_ne!(together, alone, "the outliers of one token are columns for all");
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let y = product(&[f32::NAN, 1.0], &Matrix::from_f32("w", vec![1.0, 2.0], 2), 0..1, 6.0).unwrap();
        assert!(y[0].is_nan());
    }
}
