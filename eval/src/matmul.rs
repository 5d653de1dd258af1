//! Every matrix product of the crate, behind two functions.
//!
//! [`product`] multiplies activations with a stored matrix: a panel of its rows is decoded to f32 and multiplied with
//! all the activations, then the next panel. Decoding is paid once for all the tokens, and never more than a panel a
//! thread is decoded. [`dense`] multiplies two f32 matrices already in memory (attention).
//!
//! Panels have a size of their own, whatever the number of threads, and a sum is never divided between threads: the
//! results are the same for any number.

use std::cell::RefCell;
use std::ops::Range;

use gemm_common::Parallelism;
use gguf::{Error, Result};
use rayon::prelude::*;

use crate::weights::Matrix;

/// Rows of a panel: the kernel packs the activations anew for each, which wants many rows. Threads take panels of their
/// own and never wait for each other, so that a busy machine slows the product no more than it must.
const PANEL_ROWS: usize = 1024;

/// Rows of a panel for narrow activations.
const NARROW_PANEL_ROWS: usize = 64;

/// Activations of fewer tokens than this are narrow: the product is bound by decoding, and each thread decodes and
/// multiplies small panels of its own.
const NARROW: usize = 16;

thread_local! {
    static PANEL: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// What happens to the destination's old content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// It is replaced.
    Store,
    /// The product is added to it.
    Add,
}

/// `y = x · wᵀ`: activations `x` `[tokens, cols]` and the rows `rows` of `w` `[.., cols]` give `y` `[tokens, rows]`,
/// all row-major.
///
/// # Errors
/// Rows that cannot be decoded, or sizes that do not fit each other.
pub fn product(x: &[f32], w: &Matrix<'_>, rows: Range<usize>, y: &mut [f32]) -> Result<()> {
    let (cols, out) = (w.cols(), rows.len());
    let tokens = x.len().checked_div(cols).unwrap_or(0);
    if tokens * cols != x.len() || y.len() != tokens * out || rows.end > w.rows() {
        return Err(Error::input(format!(
            "tensor {}: {} rows of {cols} do not fit activations of {} values",
            w.name(),
            w.rows(),
            x.len()
        )));
    }
    if tokens == 0 || out == 0 {
        return Ok(());
    }
    let target = Target(y.as_mut_ptr());
    // SAFETY: `y` holds `tokens` rows of `out` values, checked above, and no column is written from two places;
    // `panel` holds rows of `cols` values and `x` holds `tokens` of them.
    let multiply = |part: Range<usize>, panel: &[f32]| unsafe {
        let size = Size { m: part.len(), n: tokens, k: cols };
        let dst = target.get().add(part.start);
        kernel(size, dst, out, Into::Store, panel.as_ptr(), (cols, 1), x.as_ptr(), (1, cols), 1.0);
    };
    let panel = if tokens < NARROW { NARROW_PANEL_ROWS } else { PANEL_ROWS.min(out.div_ceil(2).next_multiple_of(64)) };
    (0..out.div_ceil(panel)).into_par_iter().try_for_each(|i| {
        let part = i * panel..((i + 1) * panel).min(out);
        let stored = rows.start + part.start..rows.start + part.end;
        // Taken, not borrowed: a decoder that divides its work may find itself in another panel on this thread.
        let mut scratch = PANEL.take();
        multiply(part, w.decoded(stored, &mut scratch)?);
        PANEL.set(scratch);
        Ok(())
    })
}

/// A matrix in memory: its first element, and the distance between rows and between columns.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    data: &'a [f32],
    row: usize,
    col: usize,
}

impl<'a> View<'a> {
    /// A view with this distance between rows and this between columns.
    pub fn new(data: &'a [f32], row: usize, col: usize) -> View<'a> {
        View { data, row, col }
    }

    fn holds(&self, rows: usize, cols: usize) -> bool {
        rows == 0 || cols == 0 || (rows - 1) * self.row + (cols - 1) * self.col < self.data.len()
    }
}

/// `c = scale · a · b` or `c += scale · a · b` on the calling thread: `a` `[n, k]`, `b` `[k, m]`, `c` `[n, m]` with
/// rows `ld` apart.
///
/// # Panics
/// When a view is smaller than its part in the product: the caller is wrong.
#[allow(clippy::too_many_arguments)]
pub fn dense(n: usize, m: usize, k: usize, scale: f32, a: View<'_>, b: View<'_>, into: Into, c: &mut [f32], ld: usize) {
    assert!(a.holds(n, k) && b.holds(k, m) && ld >= m && (n == 0 || (n - 1) * ld + m <= c.len()));
    // SAFETY: the assertion above keeps every access within its slice.
    unsafe {
        kernel(
            Size { m, n, k },
            c.as_mut_ptr(),
            ld,
            into,
            b.data.as_ptr(),
            (b.col, b.row),
            a.data.as_ptr(),
            (a.col, a.row),
            scale,
        );
    }
}

#[derive(Clone, Copy)]
struct Size {
    m: usize,
    n: usize,
    k: usize,
}

/// The kernel: `dst` (column-major `[m, n]`, columns `ld` apart) from `lhs` `[m, k]` and `rhs` `[k, n]`, each with
/// the distances of its rows and columns.
///
/// # Safety
/// The pointers are valid for these sizes and distances, and nobody else writes the destination.
#[allow(clippy::too_many_arguments)]
unsafe fn kernel(
    size: Size,
    dst: *mut f32,
    ld: usize,
    into: Into,
    lhs: *const f32,
    lhs_steps: (usize, usize),
    rhs: *const f32,
    rhs_steps: (usize, usize),
    scale: f32,
) {
    let (read, alpha) = match into {
        Into::Store => (false, 0.0),
        Into::Add => (true, 1.0),
    };
    let Size { m, n, k } = size;
    // SAFETY: as promised by the caller.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            m,
            n,
            k,
            dst,
            ld as isize,
            1,
            read,
            lhs,
            lhs_steps.1 as isize,
            lhs_steps.0 as isize,
            rhs,
            rhs_steps.1 as isize,
            rhs_steps.0 as isize,
            alpha,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[derive(Clone, Copy)]
struct Target(*mut f32);

impl Target {
    fn get(self) -> *mut f32 {
        self.0
    }
}

// SAFETY: tasks write disjoint columns through it, see `product`.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn plain(x: &[f32], w: &[f32], cols: usize) -> Vec<f64> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        x.chunks(cols).flat_map(|x| w.chunks(cols).map(move |w| dot(x, w))).collect()
    }

    #[test]
    fn products_equal_the_definition_for_narrow_and_wide_sizes() {
        for (tokens, rows, cols) in [(1, 1, 1), (1, 200, 64), (3, 65, 96), (40, 1100, 33), (130, 513, 128)] {
            let (x, w) = (numbers(tokens * cols, 1), numbers(rows * cols, 2));
            let mut y = vec![f32::NAN; tokens * rows];
            product(&x, &Matrix::from_f32("w", w.clone(), cols), 0..rows, &mut y).unwrap();
            for (got, want) in y.iter().zip(plain(&x, &w, cols)) {
                assert!((f64::from(*got) - want).abs() < 1e-4, "{tokens} {rows} {cols}: {got} {want}");
            }
        }
    }

    #[test]
    fn a_range_of_rows_is_multiplied_alone() {
        let (x, w) = (numbers(5 * 8, 3), numbers(30 * 8, 4));
        let mut y = vec![0.0; 5 * 10];
        product(&x, &Matrix::from_f32("w", w.clone(), 8), 10..20, &mut y).unwrap();
        for (got, want) in y.iter().zip(plain(&x, &w[80..160], 8)) {
            assert!((f64::from(*got) - want).abs() < 1e-5);
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let w = Matrix::from_f32("w", vec![0.0; 12], 4);
        assert!(product(&[0.0; 6], &w, 0..3, &mut [0.0; 3]).is_err());
        assert!(product(&[0.0; 4], &w, 0..4, &mut [0.0; 4]).is_err());
    }

    #[test]
    fn dense_products_take_any_layout() {
        let (a, b) = (numbers(3 * 4, 5), numbers(4 * 2, 6));
        let mut c = vec![1.0; 3 * 5];
        dense(3, 2, 4, 2.0, View::new(&a, 4, 1), View::new(&b, 2, 1), Into::Add, &mut c, 5);
        for i in 0..3 {
            for j in 0..2 {
                let want = 1.0 + 2.0 * (0..4).map(|k| a[i * 4 + k] * b[k * 2 + j]).sum::<f32>();
                assert!((c[i * 5 + j] - want).abs() < 1e-5);
            }
        }
        assert_eq!(c[2..5], [1.0; 3], "columns outside stay as they were");
    }
}
