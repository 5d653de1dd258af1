//! Matrices in strips of 32 columns, and the one product that the searches are made of.
//!
//! A strip holds its 32 columns row after row, so that a row of a strip is what lanes load. The product AᵀB of two
//! matrices with as many rows takes both as they lie: strips of B fill the lanes, columns of A are broadcast. Second
//! moments, corrections by errors so far, gradients and triangular systems all have this form.
//!
//! Each value is one chain of fused products and sums over ascending rows, each rounded once: the same bits on every
//! path and for any division of the work.

use std::ops::Range;

use rayon::prelude::*;

use crate::lanes::{Floats, Path, Task};

/// Columns of a strip.
pub const STRIP: usize = 32;

/// A matrix of f32 in strips of [`STRIP`] columns, the last filled up with zeros.
#[derive(Clone, Debug, Default)]
pub struct Strips {
    rows: usize,
    cols: usize,
    data: Vec<f32>,
}

impl Strips {
    /// A matrix of zeros.
    pub fn zeros(rows: usize, cols: usize) -> Strips {
        Strips { rows, cols, data: vec![0.0; rows * cols.div_ceil(STRIP) * STRIP] }
    }

    /// The transpose of a row-major matrix `[cols, rows]`: each of its rows becomes a column.
    ///
    /// # Panics
    /// When the length is no multiple of `rows`: the caller is wrong.
    pub fn transposed(values: &[f32], rows: usize) -> Strips {
        assert!(rows > 0 && values.len().is_multiple_of(rows));
        let mut strips = Strips::zeros(rows, values.len() / rows);
        strips.data.par_chunks_mut(rows * STRIP).zip(values.par_chunks(rows * STRIP)).for_each(|(strip, values)| {
            for (lane, values) in values.chunks(rows).enumerate() {
                strip[lane..].iter_mut().step_by(STRIP).zip(values).for_each(|(to, &from)| *to = from);
            }
        });
        strips
    }

    /// A row-major matrix `[rows, cols]`.
    ///
    /// # Panics
    /// When the length is no multiple of `cols`: the caller is wrong.
    pub fn from_rows(values: &[f32], cols: usize) -> Strips {
        assert!(cols > 0 && values.len().is_multiple_of(cols));
        let mut strips = Strips::default();
        strips.assign_rows(values, cols);
        strips
    }

    /// The same into the memory of this one.
    pub fn assign_rows(&mut self, values: &[f32], cols: usize) {
        self.rows = values.len() / cols;
        self.cols = cols;
        let rows = self.rows;
        self.data.clear();
        self.data.resize(rows * cols.div_ceil(STRIP) * STRIP, 0.0);
        self.data.par_chunks_mut((rows * STRIP).max(1)).enumerate().for_each(|(s, strip)| {
            let here = STRIP.min(cols - s * STRIP);
            for (to, from) in strip.chunks_exact_mut(STRIP).zip(values.chunks_exact(cols)) {
                to[..here].copy_from_slice(&from[s * STRIP..][..here]);
            }
        });
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The number of strips.
    pub fn count(&self) -> usize {
        self.cols.div_ceil(STRIP)
    }

    /// One strip, `[rows][STRIP]`.
    pub fn strip(&self, s: usize) -> &[f32] {
        &self.data[s * self.rows * STRIP..(s + 1) * self.rows * STRIP]
    }

    /// One strip, to be changed.
    pub fn strip_mut(&mut self, s: usize) -> &mut [f32] {
        &mut self.data[s * self.rows * STRIP..(s + 1) * self.rows * STRIP]
    }

    /// Groups of so many neighbouring strips, for threads to share.
    pub fn par_groups_mut(&mut self, strips: usize) -> impl IndexedParallelIterator<Item = &mut [f32]> {
        self.data.par_chunks_mut((self.rows * STRIP * strips.max(1)).max(1))
    }

    /// Parts of a product that is to be stored here, for threads to share: as many strips and rows as keep what they
    /// read in a core's cache.
    pub(crate) fn tiles_mut(&mut self) -> Vec<Tile<'_>> {
        let len = (self.rows * STRIP).max(1);
        let mut tiles = Vec::new();
        for (group, strips) in self.data.chunks_mut(len * TOGETHER).enumerate() {
            let from = tiles.len();
            for (s, strip) in strips.chunks_mut(len).enumerate() {
                for (i, part) in strip.chunks_mut(ROWS * STRIP).enumerate() {
                    if s == 0 {
                        let rows = i * ROWS..i * ROWS + part.len() / STRIP;
                        tiles.push(Tile { first: group * TOGETHER, rows, parts: Vec::with_capacity(TOGETHER) });
                    }
                    tiles[from + i].parts.push(part);
                }
            }
        }
        tiles
    }

    /// One value.
    #[inline(always)]
    pub fn at(&self, row: usize, col: usize) -> f32 {
        self.data[(col / STRIP * self.rows + row) * STRIP + col % STRIP]
    }

    /// One value, to be changed.
    #[inline(always)]
    pub fn at_mut(&mut self, row: usize, col: usize) -> &mut f32 {
        &mut self.data[(col / STRIP * self.rows + row) * STRIP + col % STRIP]
    }

    /// All values, strip after strip; places beyond the last column hold zeros.
    pub fn values(&self) -> &[f32] {
        &self.data
    }

    /// All values, to be changed.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The transpose.
    #[must_use]
    pub fn turned(&self) -> Strips {
        let mut turned = Strips::zeros(self.cols, self.rows);
        let cols = self.cols;
        turned.data.par_chunks_mut((cols * STRIP).max(1)).enumerate().for_each(|(s, strip)| {
            let here = STRIP.min(self.rows - s * STRIP);
            for from in (0..cols).step_by(STRIP) {
                let there = STRIP.min(cols - from);
                for lane in 0..here {
                    let row = &self.data[(from / STRIP * self.rows + s * STRIP + lane) * STRIP..][..there];
                    for (i, &value) in row.iter().enumerate() {
                        strip[(from + i) * STRIP + lane] = value;
                    }
                }
            }
        });
        turned
    }

    /// Column `col` as the row of a row-major matrix.
    pub fn column(&self, col: usize, out: &mut [f32]) {
        let strip = &self.strip(col / STRIP)[col % STRIP..];
        out.iter_mut().zip(strip.iter().step_by(STRIP)).for_each(|(to, &from)| *to = from);
    }
}

/// Strips that are multiplied together, and rows of their product.
const TOGETHER: usize = 4;
const ROWS: usize = 256;

/// A part of a product: some rows of neighbouring strips.
pub(crate) struct Tile<'a> {
    first: usize,
    /// The rows: columns of the left matrix.
    pub(crate) rows: Range<usize>,
    /// These rows of each strip.
    pub(crate) parts: Vec<&'a mut [f32]>,
}

impl Tile<'_> {
    /// The columns that the strips hold.
    pub(crate) fn cols(&self) -> Range<usize> {
        self.first * STRIP..(self.first + self.parts.len()) * STRIP
    }

    /// The strips of the right matrix that belong to it.
    pub(crate) fn strips_of<'b>(&self, b: &'b Strips) -> Vec<&'b [f32]> {
        (self.first..self.first + self.parts.len()).map(|s| b.strip(s)).collect()
    }
}

/// What happens to the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// It is replaced by the product.
    Store,
    /// The product is added.
    Add,
    /// The product is subtracted.
    Subtract,
}

/// `out[c][lane] ⟵ Σ_k a[k][cols.start + c] · b[k][lane]` over the rows `k` in ascending order, for one strip `b`. The
/// rows of `out` are those of `cols`.
///
/// # Panics
/// When sizes do not fit each other: the caller is wrong.
pub fn multiply(a: &Strips, cols: Range<usize>, b: &[f32], k: Range<usize>, sum: Sum, out: &mut [f32]) {
    multiply_strips(a, cols, &[b], k, sum, &mut [out]);
}

/// The same for several strips, which share what is read of `a`.
pub(crate) fn multiply_strips(
    a: &Strips,
    cols: Range<usize>,
    b: &[&[f32]],
    k: Range<usize>,
    sum: Sum,
    out: &mut [&mut [f32]],
) {
    assert!(cols.end <= a.count() * STRIP && k.end <= a.rows && k.start <= k.end && b.len() == out.len());
    assert!(b.iter().all(|b| b.len() >= k.end * STRIP) && out.iter().all(|out| out.len() >= cols.len() * STRIP));
    Path::current().run(Multiply { a, cols, b, k, sum, out });
}

struct Multiply<'a, 'o> {
    a: &'a Strips,
    cols: Range<usize>,
    b: &'a [&'a [f32]],
    k: Range<usize>,
    sum: Sum,
    out: &'a mut [&'o mut [f32]],
}

impl Task for Multiply<'_, '_> {
    #[inline(always)]
    fn run<F: Floats>(self) {
        self.multiply::<F>();
    }
}

/// Rows after which a tile goes back to memory and comes again: what all tiles of a strip read stays in the cache.
const DEPTH: usize = 256;

impl Multiply<'_, '_> {
    #[inline(always)]
    fn multiply<F: Floats>(self) {
        let Multiply { a, cols, b, k, sum, out } = self;
        if sum == Sum::Store {
            out.iter_mut().for_each(|out| out[..cols.len() * STRIP].fill(0.0));
        }
        let subtract = sum == Sum::Subtract;
        let mut from = k.start;
        while from < k.end {
            let to = (from + DEPTH).min(k.end);
            let mut col = cols.start;
            while col < cols.end {
                // A tile does not cross into the next strip of `a`.
                let end = cols.end.min((col / STRIP + 1) * STRIP);
                let strip = &a.strip(col / STRIP)[from * STRIP + col % STRIP..];
                for (b, out) in b.iter().zip(out.iter_mut()) {
                    let b = &b[from * STRIP..to * STRIP];
                    let out = &mut out[(col - cols.start) * STRIP..(end - cols.start) * STRIP];
                    // As many sums as fit the registers of each path.
                    match (F::N, subtract) {
                        (16, false) => tiles::<F, 2, 8, false>(strip, b, out),
                        (16, true) => tiles::<F, 2, 8, true>(strip, b, out),
                        (8, false) => tiles::<F, 4, 2, false>(strip, b, out),
                        (8, true) => tiles::<F, 4, 2, true>(strip, b, out),
                        _ => plain(strip, b, subtract, out),
                    }
                }
                col = end;
            }
            from = to;
        }
    }
}

/// All columns of `out` in tiles of `T`, each of `V` registers: `a` begins at the first column of the first row.
#[inline(always)]
fn tiles<F: Floats, const V: usize, const T: usize, const SUBTRACT: bool>(a: &[f32], b: &[f32], out: &mut [f32]) {
    let mut tiles = out.chunks_exact_mut(T * STRIP);
    let mut at = 0;
    for tile_out in &mut tiles {
        tile::<F, V, T, SUBTRACT>(&a[at..], b, tile_out);
        at += T;
    }
    for row in tiles.into_remainder().chunks_exact_mut(STRIP) {
        tile::<F, V, 1, SUBTRACT>(&a[at..], b, row);
        at += 1;
    }
}

#[inline(always)]
fn tile<F: Floats, const V: usize, const T: usize, const SUBTRACT: bool>(a: &[f32], b: &[f32], out: &mut [f32]) {
    let mut sums = [[F::splat(0.0); V]; T];
    for t in 0..T {
        for v in 0..V {
            sums[t][v] = F::load(&out[t * STRIP + v * F::N..]);
        }
    }
    for (k, b) in b.chunks_exact(STRIP).enumerate() {
        let a = &a[k * STRIP..][..T];
        let mut lanes = [F::splat(0.0); V];
        for v in 0..V {
            let row = F::load(&b[v * F::N..]);
            // Changing a sign is exact, so that a difference is the sum of the negative products.
            lanes[v] = if SUBTRACT { -row } else { row };
        }
        for t in 0..T {
            let a = F::splat(a[t]);
            for v in 0..V {
                sums[t][v] = lanes[v].fused(a, sums[t][v]);
            }
        }
    }
    for t in 0..T {
        for v in 0..V {
            sums[t][v].store(&mut out[t * STRIP + v * F::N..]);
        }
    }
}

/// Without wide registers: whole strips, left to the compiler.
#[inline(always)]
fn plain(a: &[f32], b: &[f32], subtract: bool, out: &mut [f32]) {
    let sign = if subtract { -1.0_f32 } else { 1.0 };
    for (t, out) in out.as_chunks_mut::<STRIP>().0.iter_mut().enumerate() {
        let mut sums = *out;
        for (k, b) in b.as_chunks::<STRIP>().0.iter().enumerate() {
            let a = a[k * STRIP + t] * sign;
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = b.mul_add(a, *sum);
            }
        }
        *out = sums;
    }
}

/// The same over all strips of `b` into those of `out`, shared by the threads.
///
/// # Panics
/// As [`multiply`].
pub fn multiply_all(a: &Strips, b: &Strips, sum: Sum, out: &mut Strips) {
    assert!(a.rows == b.rows && out.rows == a.cols && out.cols == b.cols);
    out.tiles_mut().into_par_iter().for_each(|mut tile| {
        let b = tile.strips_of(b);
        multiply_strips(a, tile.rows, &b, 0..a.rows, sum, &mut tile.parts);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn values_stand_where_they_should() {
        let values = numbers(5 * 70, 1);
        let strips = Strips::from_rows(&values, 70);
        let turned = Strips::transposed(&values, 70);
        assert_eq!((strips.count(), turned.count()), (3, 1));
        for row in 0..5 {
            for col in 0..70 {
                assert_eq!(strips.at(row, col), values[row * 70 + col]);
                assert_eq!(turned.at(col, row), values[row * 70 + col]);
            }
        }
        assert_eq!(strips.turned().values(), turned.values());
        let mut column = vec![0.0; 70];
        turned.column(3, &mut column);
        assert_eq!(column, values[210..280]);
    }

    #[test]
    fn products_follow_the_definition_and_are_the_same_on_every_path() {
        for (k, m, n) in [(1, 1, 1), (5, 70, 33), (300, 41, 64), (513, 8, 31)] {
            let (a, b) = (Strips::from_rows(&numbers(k * m, 2), m), Strips::from_rows(&numbers(k * n, 3), n));
            let mut all = Strips::zeros(m, n);
            multiply_all(&a, &b, Sum::Store, &mut all);
            for col in 0..m {
                for lane in 0..n {
                    let want: f64 = (0..k).map(|k| f64::from(a.at(k, col)) * f64::from(b.at(k, lane))).sum();
                    assert!((f64::from(all.at(col, lane)) - want).abs() < 1e-4);
                }
            }
            for path in Path::ALL.into_iter().filter(|path| path.is_available()) {
                for sum in [Sum::Store, Sum::Add, Sum::Subtract] {
                    let mut out = vec![1.0; m * STRIP];
                    path.run(Multiply { a: &a, cols: 0..m, b: &[b.strip(0)], k: 0..k, sum, out: &mut [&mut out] });
                    for col in 0..m {
                        let mut want = if sum == Sum::Store { 0.0 } else { 1.0 };
                        for k in 0..k {
                            let a = a.at(k, col);
                            want = b.at(k, 0).mul_add(if sum == Sum::Subtract { -a } else { a }, want);
                        }
                        assert_eq!(out[col * STRIP], want, "{path}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_part_of_the_rows_and_columns_is_taken() {
        let (a, b) = (Strips::from_rows(&numbers(20 * 40, 4), 40), Strips::from_rows(&numbers(20 * 8, 5), 8));
        let mut out = vec![0.0; 10 * STRIP];
        multiply(&a, 28..38, b.strip(0), 3..11, Sum::Store, &mut out);
        for col in 0..10 {
            let want: f32 = (3..11).fold(0.0, |sum, k| a.at(k, col + 28).mul_add(b.at(k, 7), sum));
            assert_eq!(out[col * STRIP + 7], want);
        }
    }
}
