//! What a matrix is multiplied with, in the forms that the searches read.

use rayon::prelude::*;

use super::cholesky::{factor, inverse_square};
use super::strips::{STRIP, Strips, Sum, multiply, multiply_all};

/// Columns that are searched before all others are told of their errors.
pub(crate) const BLOCK: usize = 256;

/// The second moments of a matrix's inputs with their factor.
#[derive(Debug)]
pub struct Inputs {
    n: usize,
    /// H + damping.
    pub(crate) h: Strips,
    /// R, with H = R Rᵀ.
    pub(crate) r: Strips,
    /// For each [`BLOCK`] of columns the inverse of R's square there.
    pub(crate) u: Vec<Strips>,
    /// For each block H's square there.
    pub(crate) squares: Vec<Strips>,
    /// The diagonal of R.
    pub(crate) root: Vec<f32>,
}

/// The mean of the diagonal.
pub fn mean_diagonal(h: &Strips) -> f64 {
    let n = h.rows();
    (0..n).map(|i| f64::from(h.at(i, i))).sum::<f64>() / n.max(1) as f64
}

impl Inputs {
    /// Factors H after adding `damping` times the mean of its diagonal to the diagonal; ten times as much, and so on,
    /// where that leaves it without a factor. `None` where nothing was seen, or a moment is no number.
    pub fn new(mut h: Strips, damping: f64) -> Option<Inputs> {
        let n = h.rows();
        let mean = mean_diagonal(&h);
        if !(mean > 0.0 && mean.is_finite()) {
            return None;
        }
        let (mut share, mut r) = (damping, None);
        while r.is_none() && share < 100.0 {
            r = factor(&h, share * mean);
            if r.is_none() {
                share = (share * 10.0).max(1e-4);
            }
        }
        let r = r?;
        for i in 0..n {
            *h.at_mut(i, i) += (share * mean) as f32;
        }
        let blocks: Vec<usize> = (0..n).step_by(BLOCK).collect();
        let u = blocks.par_iter().map(|&at| inverse_square(&r, at, BLOCK.min(n - at))).collect();
        let squares = blocks.par_iter().map(|&at| square(&h, at, BLOCK.min(n - at))).collect();
        let root = (0..n).map(|i| r.at(i, i)).collect();
        Some(Inputs { n, h, r, u, squares, root })
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.n
    }
}

fn square(h: &Strips, at: usize, len: usize) -> Strips {
    let mut square = Strips::zeros(len, len);
    for i in 0..len {
        for j in 0..len {
            *square.at_mut(i, j) = h.at(at + i, at + j);
        }
    }
    square
}

/// H + damping, ready to be solved with.
#[derive(Debug)]
pub struct Solver {
    r: Strips,
    turned: Strips,
    u: Vec<Strips>,
    u_turned: Vec<Strips>,
}

impl Solver {
    /// Factors H after adding `damping` times the mean of its diagonal to the diagonal. `None` where it has no factor.
    pub fn new(h: &Strips, damping: f64) -> Option<Solver> {
        let n = h.rows();
        let r = factor(h, damping * mean_diagonal(h))?;
        let turned = r.turned();
        let blocks: Vec<usize> = (0..n).step_by(BLOCK).collect();
        let u: Vec<Strips> = blocks.par_iter().map(|&at| inverse_square(&r, at, BLOCK.min(n - at))).collect();
        let u_turned = u.par_iter().map(Strips::turned).collect();
        Some(Solver { r, turned, u, u_turned })
    }

    /// `b` (H + damping)⁻¹, with one row of `b` in a lane.
    #[must_use]
    pub fn solve(&self, b: &Strips) -> Strips {
        let Solver { r, turned, u, u_turned } = self;
        let n = r.rows();
        let blocks: Vec<usize> = (0..n).step_by(BLOCK).collect();
        let mut x = b.clone();
        x.par_groups_mut(1).for_each(|x| {
            let mut part = vec![0.0; BLOCK * STRIP];
            // x R Rᵀ = b: first z Rᵀ = b from the last columns on, then x R = z from the first.
            for (i, &at) in blocks.iter().enumerate().rev() {
                let len = BLOCK.min(n - at);
                part[..len * STRIP].copy_from_slice(&x[at * STRIP..(at + len) * STRIP]);
                multiply(turned, at..at + len, x, at + len..n, Sum::Subtract, &mut part);
                multiply(&u_turned[i], 0..len, &part, 0..len, Sum::Store, &mut x[at * STRIP..(at + len) * STRIP]);
            }
            for (i, &at) in blocks.iter().enumerate() {
                let len = BLOCK.min(n - at);
                part[..len * STRIP].copy_from_slice(&x[at * STRIP..(at + len) * STRIP]);
                multiply(r, at..at + len, x, 0..at, Sum::Subtract, &mut part);
                multiply(&u[i], 0..len, &part, 0..len, Sum::Store, &mut x[at * STRIP..(at + len) * STRIP]);
            }
        });
        x
    }
}

/// e H eᵀ of every row, summed: the squared error of the outputs.
pub fn quadratic(h: &Strips, e: &Strips) -> f64 {
    let mut product = Strips::zeros(h.rows(), e.cols());
    multiply_all(h, e, Sum::Store, &mut product);
    let parts: Vec<f64> = product
        .values()
        .par_chunks(1 << 14)
        .zip(e.values().par_chunks(1 << 14))
        .map(|(p, e)| p.iter().zip(e).map(|(&p, &e)| f64::from(p) * f64::from(e)).sum::<f64>())
        .collect();
    parts.iter().sum()
}
