//! Second moments of what matrices are multiplied with.
//!
//! Sums run in f32 over the rows of one call and are then added: no chain is longer than a few thousand products.

use rayon::prelude::*;

use super::strips::{Strips, Sum, Tile, multiply_strips};

/// XᵀX of inputs X `[tokens, n]` that come a few rows at a time.
#[derive(Clone, Debug)]
pub struct Moments {
    h: Strips,
    tokens: usize,
}

impl Moments {
    /// Of no inputs yet.
    pub fn new(n: usize) -> Moments {
        Moments { h: Strips::zeros(n, n), tokens: 0 }
    }

    /// Inputs seen so far.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Adds inputs, one in a row of `x`.
    pub fn add(&mut self, x: &Strips) {
        self.tokens += x.rows();
        // The upper half is enough.
        let tiles = self.h.tiles_mut().into_par_iter();
        tiles.filter(|tile| tile.rows.start < tile.cols().end).for_each(|tile| add_product(x, x, tile));
    }

    /// All of H.
    #[must_use]
    pub fn finish(mut self) -> Strips {
        let n = self.h.rows();
        for col in 0..n {
            for row in 0..col {
                *self.h.at_mut(col, row) = self.h.at(row, col);
            }
        }
        self.h
    }
}

/// `sum[c][lane] += Σ a[k][c] b[k][lane]` for matrices whose rows belong together: XᵀY of two streams.
pub fn add_cross(a: &Strips, b: &Strips, sum: &mut Strips) {
    sum.tiles_mut().into_par_iter().for_each(|tile| add_product(a, b, tile));
}

fn add_product(a: &Strips, b: &Strips, tile: Tile<'_>) {
    let strips = tile.strips_of(b);
    let mut sums: Vec<Vec<f32>> = tile.parts.iter().map(|part| vec![0.0; part.len()]).collect();
    let mut parts: Vec<&mut [f32]> = sums.iter_mut().map(Vec::as_mut_slice).collect();
    multiply_strips(a, tile.rows, &strips, 0..a.rows(), Sum::Store, &mut parts);
    for (part, sums) in tile.parts.into_iter().zip(&sums) {
        part.iter_mut().zip(sums).for_each(|(part, sum)| *part += *sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_sums_over_all_inputs() {
        let (n, tokens) = (70, 50);
        let x: Vec<f32> = (0..n * tokens).map(|i| ((i * 7919) % 101) as f32 / 50.0 - 1.0).collect();
        let y: Vec<f32> = x.iter().map(|v| 1.0 - v * v).collect();
        let mut moments = Moments::new(n);
        let mut cross = Strips::zeros(n, n);
        for (x, y) in x.chunks(20 * n).zip(y.chunks(20 * n)) {
            let (x, y) = (Strips::from_rows(x, n), Strips::from_rows(y, n));
            moments.add(&x);
            add_cross(&x, &y, &mut cross);
        }
        assert_eq!(moments.tokens(), tokens);
        let h = moments.finish();
        for i in 0..n {
            for j in 0..n {
                let sum = |a: &[f32], b: &[f32]| -> f32 { (0..tokens).map(|t| a[t * n + i] * b[t * n + j]).sum() };
                assert!((h.at(i, j) - sum(&x, &x)).abs() < 1e-4);
                assert!((cross.at(i, j) - sum(&x, &y)).abs() < 1e-4);
                assert_eq!(h.at(i, j), h.at(j, i));
            }
        }
    }
}
