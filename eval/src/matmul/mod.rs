//! Every matrix product of the crate, behind two functions.
//!
//! [`product`] multiplies activations with a stored matrix: a panel of its rows is decoded to f32, brought into the
//! order in which the kernel reads it, and multiplied with all the activations, then the next panel. Decoding is paid
//! once for all the tokens, and never more than a panel a thread is decoded. A matrix that is to be multiplied as the
//! programs that run it do ([`Matrix::deployed`]) meets rounded activations. [`dense`] multiplies two f32 matrices already
//! in memory (attention).
//!
//! A sum is never divided between threads: the results are the same for any number.

mod int8;
mod integer;
mod kernel;
#[cfg(any(test, all(target_arch = "x86_64", target_os = "linux")))]
mod tiles;

use std::cell::RefCell;
use std::ops::Range;

use gguf::{Error, Result};
use rayon::prelude::*;

use crate::device::{Device, Kept, Multiplied, Operand, Product, Values};
use crate::numeric;
use crate::weights::Matrix;
use kernel::{Kernel, Tile, kernel};

pub(crate) use integer::forced as forced_kernel;

/// Rows of a panel. Threads take panels of their own and never wait for each other, so that a busy machine slows the
/// product no more than it must.
const PANEL_ROWS: usize = 256;

/// Columns that are multiplied before the next ones: a panel of them stays in the second-level cache, a tile of the
/// activations in the first.
const BLOCK_COLS: usize = 384;

/// Activations of fewer tokens than this are narrow: the product is bound by decoding, and rows are multiplied as they
/// come, without bringing them into another order.
const NARROW: usize = 8;

/// Rows of a panel for narrow activations.
const NARROW_PANEL_ROWS: usize = 64;

/// Values that are decoded at a time for narrow activations: they stay in the first-level cache.
const NARROW_VALUES: usize = 4096;

thread_local! {
    static DECODED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static PANEL: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static ACTIVATIONS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// In which order a product adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One order: what a token comes to does not depend on how many others come with it.
    Fixed,
    /// Whatever is the quickest for so many tokens.
    Quickest,
}

/// What happens to the destination's old content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulation {
    /// It is replaced.
    Store,
    /// The product is added to it.
    Add,
}

/// `x · wᵀ`: activations `x` `[tokens, cols]` and the rows `rows` of `w` `[.., cols]` give `[tokens, rows]`, all
/// row-major.
///
/// # Errors
/// Rows that cannot be decoded, or sizes that do not fit each other.
pub fn product(x: &[f32], w: &Matrix<'_>, rows: Range<usize>, order: Order) -> Result<Vec<f32>> {
    product_of(Given::Slice(x), w, rows, order).map(Values::into_vec)
}

/// Activations as they are handed over.
#[derive(Clone, Copy, Debug)]
pub enum Given<'x> {
    /// In memory.
    Slice(&'x [f32]),
    /// Wherever they are.
    Values(&'x Values),
}

impl<'x> Given<'x> {
    /// How many values there are.
    pub fn len(self) -> usize {
        match self {
            Given::Slice(x) => x.len(),
            Given::Values(x) => x.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The values in memory.
    pub fn slice(self) -> &'x [f32] {
        match self {
            Given::Slice(x) => x,
            Given::Values(x) => x,
        }
    }
}

/// The same for values wherever they are; on a device the result stays where the activations are.
///
/// # Errors
/// As [`product`], and a device that fails.
pub fn product_of(x: Given<'_>, w: &Matrix<'_>, rows: Range<usize>, order: Order) -> Result<Values> {
    let fits = !x.is_empty() && !rows.is_empty() && w.cols() > 0 && x.len().is_multiple_of(w.cols());
    if let Some((device, kept)) = on_device(w).filter(|_| fits && rows.end <= w.rows()) {
        let operand = match x {
            Given::Slice(x) => Operand::Host(x),
            Given::Values(x) => x.operand(),
        };
        return Ok(match device.kernels().product(operand, w, kept, rows)? {
            Product::Host(values) => values.into(),
            Product::Device(buffer, len) => Values::on(device, buffer, len),
        });
    }
    product_with(kernel(), x.slice(), w, rows, order).map(Values::from)
}

fn product_with(kernel: &Kernel, x: &[f32], w: &Matrix<'_>, rows: Range<usize>, order: Order) -> Result<Vec<f32>> {
    let (cols, out) = (w.cols(), rows.len());
    let tokens = x.len().checked_div(cols).unwrap_or(0);
    if tokens * cols != x.len() || rows.end > w.rows() {
        return Err(Error::input(format!("{} rows of {cols} do not fit activations of {} values", w.rows(), x.len()))
            .in_tensor(w.name()));
    }
    let mut y = Vec::with_capacity(tokens * out);
    if tokens > 0 && out > 0 {
        let rounded;
        let x = match w.multiplied() {
            Multiplied::Exact => x,
            Multiplied::Levels { levels, bytes } => {
                integer::wide(integer::kernel(), levels, x, w, bytes, rows, Target(y.as_mut_ptr()))?;
                // SAFETY: there is this capacity, and every value was written.
                unsafe { y.set_len(tokens * out) };
                return Ok(y);
            }
            Multiplied::Int8 { threshold } => return int8::product(x, w, rows, threshold),
            Multiplied::Rounded(float) | Multiplied::Computed(float) => {
                rounded = numeric::rounded(float, x);
                &rounded
            }
        };
        let multiply = if order == Order::Quickest && tokens < NARROW { narrow } else { wide };
        multiply(kernel, x, w, rows, Target(y.as_mut_ptr()))?;
        // SAFETY: there is this capacity, and both ways write every value, or fail.
        unsafe { y.set_len(tokens * out) };
        if let Multiplied::Computed(float) = w.multiplied() {
            numeric::round_to(float, &mut y);
        }
    }
    Ok(y)
}

/// The device that a matrix is multiplied on, and what that keeps of it. Products of LLM.int8 are taken on the processor.
fn on_device<'m>(w: &'m Matrix<'_>) -> Option<(&'m Device, &'m Kept)> {
    let device = w.device()?;
    if !matches!(w.multiplied(), Multiplied::Int8 { .. }) {
        return Some(device);
    }
    device.0.kernels().say_once("note: products of LLM.int8 are computed on the processor");
    None
}

/// The product for many tokens. `y` has room for as many rows of results.
fn wide(kernel: &Kernel, x: &[f32], w: &Matrix<'_>, rows: Range<usize>, y: Target) -> Result<()> {
    let (cols, out) = (w.cols(), rows.len());
    let tokens = x.len() / cols;
    // Buffers are taken, not borrowed: a decoder that divides its work may find itself in another product on this
    // thread.
    let mut packed = ACTIVATIONS.take();
    let ordered = aligned(&mut packed, x.len());
    ordered.par_chunks_mut(BLOCK_COLS * tokens).enumerate().for_each(|(i, block)| {
        let cols_here = block.len() / tokens;
        pack(View::new(&x[i * BLOCK_COLS..], cols, 1), tokens, cols_here, 1.0, kernel.tokens, Edge::Narrow, block);
    });
    let ordered = &*ordered;
    // Small matrices in smaller panels, so that every thread has some.
    let rows_each = PANEL_ROWS.min(out.div_ceil(4 * rayon::current_num_threads())).next_multiple_of(kernel.rows);
    let panels = (0..out.div_ceil(rows_each)).into_par_iter().try_for_each(|i| {
        let part = i * rows_each..((i + 1) * rows_each).min(out);
        let mut decoded = DECODED.take();
        let mut panel = PANEL.take();
        let padded = part.len().next_multiple_of(kernel.rows);
        let weights = aligned(&mut panel, padded * cols);
        for at in part.clone().step_by(kernel.rows) {
            let strip = at..(at + kernel.rows).min(part.end);
            let values = w.decoded(rows.start + strip.start..rows.start + strip.end, &mut decoded)?;
            for col in (0..cols).step_by(BLOCK_COLS) {
                let block = BLOCK_COLS.min(cols - col);
                let to = &mut weights[padded * col + (at - part.start) * block..][..kernel.rows * block];
                pack(View::new(&values[col..], cols, 1), strip.len(), block, 1.0, kernel.rows, Edge::Zeros, to);
            }
        }
        for col in (0..cols).step_by(BLOCK_COLS) {
            let block = Packed {
                x: &ordered[tokens * col..],
                w: &weights[padded * col..],
                tokens,
                rows: part.len(),
                cols: BLOCK_COLS.min(cols - col),
            };
            // SAFETY: `y` has room for `tokens` rows of `out` values; this task alone writes these columns.
            unsafe { multiply(kernel, block, y.get().add(part.start), out, col > 0) };
        }
        DECODED.set(decoded);
        PANEL.set(panel);
        Ok(())
    });
    ACTIVATIONS.set(packed);
    panels
}

/// The same for few tokens.
fn narrow(kernel: &Kernel, x: &[f32], w: &Matrix<'_>, rows: Range<usize>, y: Target) -> Result<()> {
    let (cols, out) = (w.cols(), rows.len());
    let each = (NARROW_VALUES / cols).clamp(1, NARROW_PANEL_ROWS);
    (0..out.div_ceil(NARROW_PANEL_ROWS)).into_par_iter().try_for_each(|i| {
        let part = i * NARROW_PANEL_ROWS..((i + 1) * NARROW_PANEL_ROWS).min(out);
        let mut decoded = DECODED.take();
        for at in part.clone().step_by(each) {
            let few = at..(at + each).min(part.end);
            let values = w.decoded(rows.start + few.start..rows.start + few.end, &mut decoded)?;
            for (row, values) in few.zip(values.chunks(cols)) {
                for (token, x) in x.chunks(cols).enumerate() {
                    // SAFETY: `y` has room for `out` values a token; this task alone writes this column.
                    unsafe { *y.get().add(token * out + row) = kernel.dot(values, x) };
                }
            }
        }
        DECODED.set(decoded);
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

    fn transposed(self) -> View<'a> {
        View { row: self.col, col: self.row, ..self }
    }
}

/// `c = scale · a · b` or `c += scale · a · b` on the calling thread: `a` `[n, k]`, `b` `[k, m]`, `c` `[n, m]` with
/// rows `ld` apart.
///
/// # Panics
/// When a view is smaller than its part in the product: the caller is wrong.
#[allow(clippy::too_many_arguments)]
pub fn dense(
    n: usize,
    m: usize,
    k: usize,
    scale: f32,
    a: View<'_>,
    b: View<'_>,
    into: Accumulation,
    c: &mut [f32],
    ld: usize,
) {
    dense_with(kernel(), n, m, k, scale, a, b, into, c, ld);
}

#[allow(clippy::too_many_arguments)]
fn dense_with(
    kernel: &Kernel,
    n: usize,
    m: usize,
    k: usize,
    scale: f32,
    a: View<'_>,
    b: View<'_>,
    into: Accumulation,
    c: &mut [f32],
    ld: usize,
) {
    assert!(a.holds(n, k) && b.holds(k, m) && ld >= m && (n == 0 || (n - 1) * ld + m <= c.len()));
    if n == 0 || m == 0 {
        return;
    }
    let mut x = DECODED.take();
    let mut w = PANEL.take();
    let padded = m.next_multiple_of(kernel.rows);
    let (activations, weights) = (aligned(&mut x, n * k), aligned(&mut w, padded * k));
    pack(a, n, k, scale, kernel.tokens, Edge::Narrow, activations);
    pack(b.transposed(), m, k, 1.0, kernel.rows, Edge::Zeros, weights);
    let block = Packed { x: activations, w: weights, tokens: n, rows: m, cols: k };
    // SAFETY: `c` holds `n` rows of `m` values `ld` apart, asserted above.
    unsafe { multiply(kernel, block, c.as_mut_ptr(), ld, into == Accumulation::Add) };
    DECODED.set(x);
    PANEL.set(w);
}

/// The first `len` values of a buffer from where a line of the cache begins; it grows if it has to.
fn aligned(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    const LINE: usize = 64;
    let spare = LINE / size_of::<f32>();
    if buffer.len() < len + spare {
        buffer.resize(len + spare, 0.0);
    }
    let start = buffer.as_ptr().align_offset(LINE).min(spare);
    &mut buffer[start..start + len]
}

/// Operands in the order in which the kernel reads them, see [`pack`].
struct Packed<'a> {
    x: &'a [f32],
    w: &'a [f32],
    tokens: usize,
    rows: usize,
    cols: usize,
}

/// Every tile of a product: `y[token · ld + row]`.
///
/// # Safety
/// `y` holds these values, and nobody else writes them.
unsafe fn multiply(kernel: &Kernel, block: Packed<'_>, y: *mut f32, ld: usize, add: bool) {
    let Packed { x, w, tokens, rows, cols } = block;
    assert!(x.len() >= tokens * cols && w.len() >= rows.next_multiple_of(kernel.rows) * cols);
    for token in (0..tokens).step_by(kernel.tokens) {
        for row in (0..rows).step_by(kernel.rows) {
            // SAFETY: the operands are as long as asserted; for `y` the caller's promise.
            unsafe {
                kernel.tile(Tile {
                    tokens: kernel.tokens.min(tokens - token),
                    cols,
                    x: x.as_ptr().add(token * cols),
                    w: w.as_ptr().add(row * cols),
                    y: y.add(token * ld + row),
                    ld,
                    rows: kernel.rows.min(rows - row),
                    add,
                });
            }
        }
    }
}

/// What becomes of the last strip when the rows do not fill it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// It is narrower.
    Narrow,
    /// It is filled up with zeros.
    Zeros,
}

/// Brings `rows` of `cols` values into strips of `width` rows, each `[cols][width]`, multiplied with `scale`.
fn pack(from: View<'_>, rows: usize, cols: usize, scale: f32, width: usize, edge: Edge, to: &mut [f32]) {
    // Columns at a time: what is written stays in the first-level cache until every row was there.
    const PIECE: usize = 64;
    for first in (0..rows).step_by(width) {
        let here = width.min(rows - first);
        let width = if edge == Edge::Narrow { here } else { width };
        let strip = &mut to[first * cols..][..width * cols];
        for start in (0..cols).step_by(PIECE) {
            let piece = &mut strip[start * width..(start + PIECE).min(cols) * width];
            let from = View { data: &from.data[first * from.row + start * from.col..], ..from };
            // Columns lie side by side; a view of one column with rows next to each other is not that.
            if from.row == 1 && from.col >= here {
                for (to, from) in piece.chunks_mut(width).zip(from.data.chunks(from.col)) {
                    to.iter_mut().zip(&from[..here]).for_each(|(to, from)| *to = from * scale);
                }
            } else {
                pack_rows(from, here, width, scale, piece);
            }
            if here < width {
                piece.chunks_mut(width).for_each(|column| column[here..].fill(0.0));
            }
        }
    }
}

/// The first `rows` rows of a view into columns of `width` values.
fn pack_rows(from: View<'_>, rows: usize, width: usize, scale: f32, to: &mut [f32]) {
    let cols = to.len() / width;
    let fours = if from.col == 1 { rows / 4 * 4 } else { 0 };
    for row in (0..fours).step_by(4) {
        let four: [&[f32]; 4] = std::array::from_fn(|i| &from.data[(row + i) * from.row..][..cols]);
        kernel::side_by_side(four, scale, width, &mut to[row..]);
    }
    for row in fours..rows {
        let values = from.data[row * from.row..].iter().step_by(from.col.max(1));
        for (to, value) in to[row..].iter_mut().step_by(width).zip(values) {
            *to = value * scale;
        }
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
    use quantize::SimdPath;

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

    fn on_each_path(check: impl Fn(SimdPath, &Kernel)) {
        for path in SimdPath::ALL {
            match kernel::kernel_for(path) {
                Some(kernel) => check(path, kernel),
                None => eprintln!("skipped: this machine has no {path} (with FMA)"),
            }
        }
    }

    #[test]
    fn products_equal_the_definition_for_narrow_and_wide_sizes() {
        for (tokens, rows, cols) in
            [(1, 1, 1), (1, 200, 64), (7, 65, 96), (8, 31, 5), (40, 1100, 33), (130, 513, 128), (29, 130, 900)]
        {
            let (x, w) = (numbers(tokens * cols, 1), numbers(rows * cols, 2));
            let want = plain(&x, &w, cols);
            on_each_path(|path, kernel| {
                for order in [Order::Fixed, Order::Quickest] {
                    let w = Matrix::from_f32("w", w.clone(), cols);
                    let y = product_with(kernel, &x, &w, 0..rows, order).unwrap();
                    assert_eq!(y.len(), want.len());
                    for (got, want) in y.iter().zip(&want) {
                        assert!((f64::from(*got) - want).abs() < 1e-4, "{path}: {tokens} {rows} {cols}: {got} {want}");
                    }
                }
            });
        }
    }

    #[test]
    fn in_one_order_a_token_does_not_depend_on_its_neighbours() {
        let (tokens, rows, cols) = (29, 130, 900);
        let (x, w) = (numbers(tokens * cols, 5), Matrix::from_f32("w", numbers(rows * cols, 6), cols));
        on_each_path(|path, kernel| {
            let all = product_with(kernel, &x, &w, 0..rows, Order::Fixed).unwrap();
            for (from, to) in [(0, 1), (3, 10), (10, 12), (5, 29), (28, 29)] {
                let some = product_with(kernel, &x[from * cols..to * cols], &w, 0..rows, Order::Fixed).unwrap();
                assert_eq!(some, all[from * rows..to * rows], "{path}: {from}..{to}");
            }
        });
    }

    #[test]
    fn a_range_of_rows_is_multiplied_alone() {
        let (x, w) = (numbers(5 * 8, 3), numbers(30 * 8, 4));
        let y = product(&x, &Matrix::from_f32("w", w.clone(), 8), 10..20, Order::Fixed).unwrap();
        assert_eq!(y.len(), 5 * 10);
        for (got, want) in y.iter().zip(plain(&x, &w[80..160], 8)) {
            assert!((f64::from(*got) - want).abs() < 1e-5);
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let w = Matrix::from_f32("w", vec![0.0; 12], 4);
        assert!(product(&[0.0; 6], &w, 0..3, Order::Fixed).is_err());
        assert!(product(&[0.0; 4], &w, 0..4, Order::Fixed).is_err());
    }

    #[test]
    fn dense_products_take_any_layout() {
        for (n, m, k) in [(3, 2, 4), (1, 1, 1), (37, 65, 19), (12, 32, 64)] {
            let (a, b) = (numbers(n * k, 5), numbers(k * m, 6));
            let turned: Vec<f32> =
                (0..m).flat_map(|j| (0..k).map(move |i| (i, j))).map(|(i, j)| b[i * m + j]).collect();
            on_each_path(|path, kernel| {
                for (b, steps) in [(&b, (m, 1)), (&turned, (1, k))] {
                    for (into, old) in [(Accumulation::Add, 1.0), (Accumulation::Store, 0.0)] {
                        let ld = m + 3;
                        let mut c = vec![1.0; n * ld];
                        let (left, right) = (View::new(&a, k, 1), View::new(b, steps.0, steps.1));
                        dense_with(kernel, n, m, k, 2.0, left, right, into, &mut c, ld);
                        for i in 0..n {
                            for j in 0..m {
                                let sum: f32 = (0..k).map(|l| a[i * k + l] * b[l * steps.0 + j * steps.1]).sum();
                                let (got, want) = (c[i * ld + j], old + 2.0 * sum);
                                assert!((got - want).abs() < 1e-4, "{path}: {n} {m} {k}: {got} {want}");
                            }
                            assert_eq!(c[i * ld + m..(i + 1) * ld], [1.0; 3], "columns outside stay as they were");
                        }
                    }
                }
            });
        }
    }
}
