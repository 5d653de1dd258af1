//! INT8 by rows: the weights of LLM.int8().
//!
//! Weights go through f16 first. A row's scale is its largest magnitude (`SCB`), and a weight becomes
//! round(weight × 127 ÷ scale) (Dettmers et al., *LLM.int8()*, 2022). Outliers are a matter of the activations at run
//! time and of `llm_int8_threshold`; the weights know nothing of them.

use crate::SimdPath;
use crate::lanes::{Floats, Ints, MAGIC, MAX_LANES, Task};
use crate::rows::first_not_finite;

/// Encodes a row into `codes` and gives its scale; none where a value is not finite as f16. The row is rounded to f16.
pub fn encode_row(row: &mut [f32], codes: &mut [u8]) -> Option<f32> {
    encode_row_on(SimdPath::current(), row, codes)
}

fn encode_row_on(path: SimdPath, row: &mut [f32], codes: &mut [u8]) -> Option<f32> {
    let mut scale = 0.0;
    path.run(Round { row, scale: &mut scale });
    if first_not_finite(row).is_some() {
        return None;
    }
    // The reciprocal first, then times 127: so the library's arithmetic goes.
    let factor = if scale == 0.0 { 0.0 } else { 1.0 / scale * 127.0 };
    path.run(Encode { row, factor, codes });
    Some(scale)
}

/// Rounds a row to f16 and finds its largest magnitude.
struct Round<'a> {
    row: &'a mut [f32],
    scale: &'a mut f32,
}

impl Task for Round<'_> {
    #[inline(always)]
    fn run<F: Floats>(self) {
        let mut most = F::splat(0.0);
        let mut parts = self.row.chunks_exact_mut(F::N);
        for part in parts.by_ref() {
            most = most.max(rounded::<F>(part));
        }
        let rest = parts.into_remainder();
        let mut lanes = [0.0; MAX_LANES];
        lanes[..rest.len()].copy_from_slice(rest);
        most = most.max(rounded::<F>(&mut lanes));
        rest.copy_from_slice(&lanes[..rest.len()]);
        *self.scale = most.reduce_max();
    }
}

/// Rounds the first lanes of values to f16, and gives their magnitudes.
#[inline(always)]
fn rounded<F: Floats>(values: &mut [f32]) -> F {
    let rounded = F::from_half(F::load(values).to_half());
    rounded.store(values);
    rounded.abs()
}

/// Codes of values that were rounded.
struct Encode<'a> {
    row: &'a [f32],
    factor: f32,
    codes: &'a mut [u8],
}

impl Task for Encode<'_> {
    #[inline(always)]
    fn run<F: Floats>(self) {
        let factor = F::splat(self.factor);
        let (mut values, mut codes) = (self.row.chunks_exact(F::N), self.codes.chunks_exact_mut(F::N));
        for (values, codes) in values.by_ref().zip(codes.by_ref()) {
            encode::<F>(values, factor, codes);
        }
        let (values, rest) = (values.remainder(), codes.into_remainder());
        let (mut lanes, mut codes) = ([0.0; MAX_LANES], [0; MAX_LANES]);
        lanes[..values.len()].copy_from_slice(values);
        encode::<F>(&lanes, factor, &mut codes);
        rest.copy_from_slice(&codes[..rest.len()]);
    }
}

#[inline(always)]
fn encode<F: Floats>(values: &[f32], factor: F, codes: &mut [u8]) {
    // Adding it rounds to a whole number, ties to even, and leaves that in the lowest bits.
    (F::load(values) * factor + F::splat(MAGIC)).bits().store_u8(codes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_gives_the_same_codes() {
        for len in [1, 15, 64, 333] {
            let row: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin() * 3.0f32.powi(i % 7 - 9)).collect();
            let run = |path| {
                let (mut row, mut codes) = (row.clone(), vec![0; len as usize]);
                let scale = encode_row_on(path, &mut row, &mut codes).map(f32::to_bits);
                (row.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), codes, scale)
            };
            let want = run(SimdPath::OneLane);
            for path in SimdPath::ALL {
                match path.is_available() {
                    true => assert_eq!(run(path), want, "{path}, {len} values"),
                    false => eprintln!("skipped: this machine has no {path}"),
                }
            }
        }
    }

    #[test]
    fn what_is_too_large_for_f16_is_refused() {
        for bad in [65520.0, f32::INFINITY, f32::NAN] {
            assert_eq!(encode_row(&mut [1.0, bad, 2.0], &mut [0; 3]), None);
        }
        assert_eq!(encode_row(&mut [0.0; 20], &mut [1; 20]), Some(0.0));
    }
}
