//! The factors of second moments, in f64.
//!
//! H = R Rᵀ with R upper triangular: the error of a row is |e R|², and its j-th component depends on the columns up to
//! j. (GPTQ takes U with UᵀU = H⁻¹; that is R⁻¹, of which only the diagonal blocks are needed here.)
//!
//! With both orders reversed this is the usual H′ = MᵀM, M upper triangular, row by row of M: a block of 32 rows is what
//! is left of H′ after the rows above were taken off, its first square is factored, the rest solved with that. The work
//! is the products of rows above, one strip of columns a task.

use rayon::prelude::*;

use super::strips::{STRIP, Strips};
use crate::lanes::{Floats, Path, Task};

/// A square matrix of f64 in strips of 32 columns.
struct Wide {
    n: usize,
    data: Vec<f64>,
}

impl Wide {
    fn rows(&self) -> usize {
        self.n.next_multiple_of(STRIP)
    }
}

/// R with H + `damping`·I = R Rᵀ; `None` where that is not positive definite. H is symmetric; its upper half is read.
pub fn factor(h: &Strips, damping: f64) -> Option<Strips> {
    let n = h.rows();
    let mut m = Wide { n, data: Vec::new() };
    let rows = m.rows();
    m.data = vec![0.0; rows * rows];
    // Reversed; places beyond the matrix become the identity.
    m.data.par_chunks_mut(rows * STRIP).enumerate().for_each(|(s, strip)| {
        for lane in 0..STRIP {
            let col = s * STRIP + lane;
            for row in 0..=col {
                strip[row * STRIP + lane] = match (row < n, col < n) {
                    (true, true) => {
                        let damping = if row == col { damping } else { 0.0 };
                        f64::from(h.at(n - 1 - col, n - 1 - row)) + damping
                    }
                    _ if row == col => 1.0,
                    _ => 0.0,
                };
            }
        }
    });
    for block in 0..rows / STRIP {
        let at = block * STRIP;
        let (above, rest) = m.data.split_at_mut(block * rows * STRIP + rows * STRIP);
        let own = &mut above[block * rows * STRIP..];
        // The square on the diagonal first: all others are solved with it.
        let (before, square) = own.split_at_mut(at * STRIP);
        take_off(before, before, at, &mut square[..STRIP * STRIP]);
        if !factor_square(&mut square[..STRIP * STRIP]) {
            return None;
        }
        let own = &*own;
        rest.par_chunks_mut(rows * STRIP).for_each(|strip| {
            let (before, here) = strip.split_at_mut(at * STRIP);
            let here = &mut here[..STRIP * STRIP];
            take_off(&own[..at * STRIP], before, at, here);
            solve(&own[at * STRIP..][..STRIP * STRIP], here);
        });
    }
    let mut r = Strips::zeros(n, n);
    r.par_groups_mut(1).enumerate().for_each(|(s, strip)| {
        for lane in 0..STRIP.min(n - s * STRIP) {
            let col = s * STRIP + lane;
            for row in 0..=col {
                // R[row][col] = M[n − 1 − col][n − 1 − row]
                let (mr, mc) = (n - 1 - col, n - 1 - row);
                strip[row * STRIP + lane] = m.data[(mc / STRIP * rows + mr) * STRIP + mc % STRIP] as f32;
            }
        }
    });
    Some(r)
}

/// `out[c][lane] −= Σ a[k][c] b[k][lane]` over `depth` rows.
fn take_off(a: &[f64], b: &[f64], depth: usize, out: &mut [f64]) {
    Path::current().run(TakeOff { a, b, depth, out });
}

struct TakeOff<'a> {
    a: &'a [f64],
    b: &'a [f64],
    depth: usize,
    out: &'a mut [f64],
}

impl Task for TakeOff<'_> {
    #[inline(always)]
    fn run<F: Floats>(self) {
        // The lanes of the path are of f32; arrays let the compiler use the registers that it has for f64, if their loops
        // are few and short.
        let rows = self.depth * STRIP;
        let (a, b) = (self.a[..rows].as_chunks::<STRIP>().0, self.b[..rows].as_chunks::<STRIP>().0);
        for (a, b) in a.chunks(256).zip(b.chunks(256)) {
            for c in (0..STRIP).step_by(4) {
                for l in (0..STRIP).step_by(WIDE) {
                    let mut sums = [[0.0; WIDE]; 4];
                    for (a, b) in a.iter().zip(b) {
                        let (Some(&[a0, a1, a2, a3]), Some(b)) = (a[c..].first_chunk(), b[l..].first_chunk()) else {
                            return;
                        };
                        add_row(&mut sums[0], a0, b);
                        add_row(&mut sums[1], a1, b);
                        add_row(&mut sums[2], a2, b);
                        add_row(&mut sums[3], a3, b);
                    }
                    for (t, sums) in sums.iter().enumerate() {
                        let out = &mut self.out[(c + t) * STRIP + l..][..WIDE];
                        out.iter_mut().zip(sums).for_each(|(out, sum)| *out -= sum);
                    }
                }
            }
        }
    }
}

/// Columns whose sums are taken together.
const WIDE: usize = 8;

#[inline(always)]
fn add_row(sums: &mut [f64; WIDE], a: f64, b: &[f64; WIDE]) {
    for w in 0..WIDE {
        sums[w] += a * b[w];
    }
}

/// Factors a square in place: SᵀS. `false` where it is not positive definite.
fn factor_square(s: &mut [f64]) -> bool {
    for i in 0..STRIP {
        for k in 0..i {
            let a = s[k * STRIP + i];
            for j in i..STRIP {
                s[i * STRIP + j] -= a * s[k * STRIP + j];
            }
        }
        let pivot = s[i * STRIP + i];
        if !(pivot > 0.0 && pivot.is_finite()) {
            return false;
        }
        let root = pivot.sqrt();
        for j in i..STRIP {
            s[i * STRIP + j] /= root;
        }
        s[i * STRIP + i] = root;
    }
    true
}

/// `out ⟵ S⁻ᵀ out`.
fn solve(s: &[f64], out: &mut [f64]) {
    for i in 0..STRIP {
        for k in 0..i {
            let a = s[k * STRIP + i];
            let (above, here) = out.split_at_mut(i * STRIP);
            for (here, above) in here[..STRIP].iter_mut().zip(&above[k * STRIP..][..STRIP]) {
                *here -= a * above;
            }
        }
        let inverse = 1.0 / s[i * STRIP + i];
        out[i * STRIP..][..STRIP].iter_mut().for_each(|x| *x *= inverse);
    }
}

/// The inverse of the square of `r` on the diagonal that these columns make, upper triangular.
pub(crate) fn inverse_square(r: &Strips, from: usize, len: usize) -> Strips {
    // Column by column from the left: R U = I.
    let mut u = vec![0.0_f64; len * len];
    let r_at = |i: usize, j: usize| f64::from(r.at(from + i, from + j));
    for col in 0..len {
        u[col * len + col] = 1.0 / r_at(col, col);
        for row in (0..col).rev() {
            let sum: f64 = (row + 1..=col).map(|k| r_at(row, k) * u[k * len + col]).sum();
            u[row * len + col] = -sum / r_at(row, row);
        }
    }
    let values: Vec<f32> = u.into_iter().map(|v| v as f32).collect();
    Strips::from_rows(&values, len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::strips::{Sum, multiply_all};

    fn moments(n: usize, tokens: usize) -> Strips {
        let mut state = 7_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let values: Vec<f32> = (0..tokens * n).map(|_| next()).collect();
        let x = Strips::from_rows(&values, n);
        let mut h = Strips::zeros(n, n);
        multiply_all(&x, &x, Sum::Store, &mut h);
        h
    }

    #[test]
    fn the_factor_times_its_transpose_is_the_matrix() {
        for n in [1, 31, 32, 33, 70, 160] {
            let h = moments(n, 3 * n);
            let r = factor(&h, 0.5).unwrap();
            for i in 0..n {
                for j in 0..n {
                    if j < i {
                        assert_eq!(r.at(i, j), 0.0);
                    }
                    let got: f64 = (0..n).map(|k| f64::from(r.at(i, k)) * f64::from(r.at(j, k))).sum();
                    let want = f64::from(h.at(i, j)) + if i == j { 0.5 } else { 0.0 };
                    assert!((got - want).abs() < 1e-3, "{n}: {i} {j}: {got} {want}");
                }
            }
            let len = n.min(40);
            let u = inverse_square(&r, n - len, len);
            for i in 0..len {
                for j in 0..len {
                    let got: f64 =
                        (0..len).map(|k| f64::from(r.at(n - len + i, n - len + k)) * f64::from(u.at(k, j))).sum();
                    assert!((got - f64::from(u8::from(i == j))).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    fn what_is_not_positive_definite_has_no_factor() {
        let h = moments(40, 10);
        assert!(factor(&h, -1.0).is_none());
        let mut broken = moments(40, 100);
        *broken.at_mut(3, 3) = f32::NAN;
        assert!(factor(&broken, 0.1).is_none());
    }
}
