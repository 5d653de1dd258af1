//! Collecting an importance matrix: the squares of what each matrix is multiplied with, summed by column.
//!
//! The same sums that llama-imatrix collects: for every matrix of the blocks the squared activations of all tokens of
//! the text, for a stack of experts those of the tokens that each expert was chosen for.
//!
//! The sums are exact: each square is rounded once, to a multiple of 2⁻⁵⁵, and integers are added. So it does not
//! matter in which order, in how many groups or on how many machines a text is seen.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use gguf::{Source, TensorInfo};
use quantize::imatrix::{Entry, Imatrix};
use rayon::prelude::*;

use crate::layers::Observe;

/// What one matrix was multiplied with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Columns of an expert.
    pub columns: usize,
    /// Sums of squares in units of 2⁻⁵⁵, expert after expert.
    pub sums: Vec<i128>,
    /// Tokens that each expert saw.
    pub counts: Vec<i64>,
}

impl Sums {
    /// Adds what another part of the text came to; `false` where they are of different matrices.
    pub fn add(&mut self, other: &Sums) -> bool {
        if (self.columns, self.sums.len(), self.counts.len()) != (other.columns, other.sums.len(), other.counts.len()) {
            return false;
        }
        self.sums.iter_mut().zip(&other.sums).for_each(|(a, b)| *a = a.saturating_add(*b));
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a = a.saturating_add(*b));
        true
    }

    fn entry(&self) -> Entry {
        Entry { sums: self.sums.iter().map(|&sum| (sum as f64 / UNIT) as f32).collect(), counts: self.counts.clone() }
    }
}

/// Units of a sum in 1.
const UNIT: f64 = (1_u64 << 55) as f64;
/// Coarse units in 1: the squares of a block of rows are multiples of them, and multiples of [`UNIT`] below.
const COARSE: f64 = (1_u64 << 8) as f64;
/// Rows that are added up in f64 before the integers: what they come to has at most 52 bits.
const BLOCK: usize = 64;
/// Values below this can be added up in f64.
const SMALL: f32 = (1_u32 << 19) as f32;

/// Adds the squares of some rows, by column.
fn add_squares(rows: &[f32], sums: &mut [i128]) {
    let cols = sums.len();
    if !rows.iter().all(|v| v.abs() < SMALL) {
        for row in rows.chunks_exact(cols) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                // The cast saturates, and makes 0 of NaN, which no run survives.
                *sum = sum.saturating_add((f64::from(value).powi(2) * UNIT).round_ties_even() as i128);
            }
        }
        return;
    }
    // Adding and subtracting 1.5 · 2⁵² units rounds to a multiple of the unit.
    let to_multiple = |v: f64, unit: f64| {
        let shift = 1.5 * (1_u64 << 52) as f64 / unit;
        (v + shift) - shift
    };
    let (mut coarse, mut fine) = (vec![0.0_f64; cols], vec![0.0_f64; cols]);
    for row in rows.chunks_exact(cols) {
        for ((coarse, fine), &value) in coarse.iter_mut().zip(&mut fine).zip(row) {
            let square = f64::from(value) * f64::from(value);
            let multiple = to_multiple(square, COARSE);
            *coarse += multiple;
            *fine += to_multiple(square - multiple, UNIT);
        }
    }
    for ((sum, coarse), fine) in sums.iter_mut().zip(coarse).zip(fine) {
        let units = ((coarse * COARSE) as i128) * (1 << 47) + (fine * UNIT) as i128;
        *sum = sum.saturating_add(units);
    }
}

/// Sees every product of a run and sums the squares.
#[derive(Debug)]
pub struct Collector {
    /// Experts of each tensor that is watched.
    watched: BTreeMap<String, usize>,
    sums: Mutex<BTreeMap<String, Sums>>,
}

impl Collector {
    /// Watches the matrices of the blocks, and the output matrix where asked.
    pub fn new(source: &dyn Source, output: bool) -> Collector {
        let matrix = |t: &&TensorInfo| t.shape().dims().len() >= 2 && t.name().ends_with(".weight");
        let wanted = |t: &&TensorInfo| t.name().starts_with("blk.") || (output && t.name() == "output.weight");
        let experts = |t: &TensorInfo| if t.name().contains("_exps.") { t.shape().dim(2) as usize } else { 1 };
        let watched =
            source.tensors().iter().filter(matrix).filter(wanted).map(|t| (t.name().to_owned(), experts(t))).collect();
        Collector { watched, sums: Mutex::default() }
    }

    /// What was collected until now, by tensor.
    pub fn so_far(&self) -> BTreeMap<String, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was collected, by tensor.
    pub fn finish(self) -> BTreeMap<String, Sums> {
        self.sums.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The importance matrix of what was collected over `chunks` chunks of `chunk_size` tokens of `dataset`.
pub fn imatrix(sums: &BTreeMap<String, Sums>, dataset: &str, chunks: u32, chunk_size: u32) -> Imatrix {
    Imatrix {
        entries: sums.iter().map(|(name, sums)| (name.clone(), sums.entry())).collect(),
        datasets: vec![dataset.to_owned()],
        chunks,
        chunk_size,
        legacy: false,
    }
}

/// Stacks of which some experts saw no token: name, experts without data, all experts.
pub fn partial(sums: &BTreeMap<String, Sums>) -> Vec<(String, usize, usize)> {
    sums.iter()
        .map(|(name, s)| (name.clone(), s.counts.iter().filter(|&&c| c == 0).count(), s.counts.len()))
        .filter(|p| p.1 > 0)
        .collect()
}

impl Observe for Collector {
    fn input(&self, tensor: &str, expert: Option<usize>, x: &[f32], cols: usize) {
        let Some(&experts) = self.watched.get(tensor) else { return };
        if cols == 0 {
            return;
        }
        let add = |mut sums: Vec<i128>, rows: &[f32]| {
            add_squares(rows, &mut sums);
            sums
        };
        let join = |mut a: Vec<i128>, b: Vec<i128>| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a = a.saturating_add(b));
            a
        };
        let none = || vec![0_i128; cols];
        let squares = x.par_chunks(cols * BLOCK).fold(none, add).reduce(none, join);
        let expert = expert.unwrap_or(0);
        let mut all = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let sums = all.entry(tensor.to_owned()).or_insert_with(|| Sums {
            columns: cols,
            sums: vec![0; cols * experts],
            counts: vec![0; experts],
        });
        if let (true, Some(count)) = (sums.columns == cols, sums.counts.get_mut(expert)) {
            *count += (x.len() / cols) as i64;
            for (sum, square) in sums.sums[expert * cols..].iter_mut().zip(squares) {
                *sum = sum.saturating_add(square);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_are_summed_by_column_and_expert() {
        let watched = BTreeMap::from([("blk.0.ffn_up_exps.weight".to_owned(), 3)]);
        let collector = Collector { watched, sums: Mutex::default() };
        collector.input("blk.0.ffn_up_exps.weight", Some(2), &[1.0, 2.0, 3.0, 4.0], 2);
        collector.input("blk.0.ffn_up_exps.weight", Some(0), &[5.0, 0.0], 2);
        collector.input("blk.0.attn_q.weight", None, &[9.0, 9.0], 2);
        let sums = collector.finish();
        assert_eq!(partial(&sums), [("blk.0.ffn_up_exps.weight".to_owned(), 1, 3)]);
        let matrix = imatrix(&sums, "text", 1, 512);
        let entry = &matrix.entries["blk.0.ffn_up_exps.weight"];
        assert_eq!(entry.counts, [1, 0, 2]);
        assert_eq!(entry.sums, [25.0, 0.0, 0.0, 0.0, 10.0, 20.0]);
        assert_eq!(matrix.entries.len(), 1);
    }

    #[test]
    fn sums_do_not_depend_on_how_rows_are_grouped() {
        let (rows, cols) = (300, 7);
        let mut state = 1_u32;
        let x: Vec<f32> = (0..rows * cols)
            .map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Columns of very different sizes, and one that a few huge values are in.
                let size = [1e-7, 1e-3, 1.0, 30.0, 4e3, 1e5, if i % 701 == 6 { 3e9 } else { 1.0 }][i % cols];
                ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * size
            })
            .collect();
        let whole = |step: usize| {
            let mut sums = vec![0; cols];
            x.chunks(step * cols).for_each(|rows| add_squares(rows, &mut sums));
            sums
        };
        let want = whole(1);
        for step in [2, 13, 64] {
            assert_eq!(whole(step), want, "{step}");
        }
        for (c, &sum) in want.iter().enumerate() {
            let plain: f64 = x.iter().skip(c).step_by(cols).map(|&v| f64::from(v).powi(2)).sum();
            let got = sum as f64 / UNIT;
            assert!((got - plain).abs() <= 1e-12 * plain + 300.0 / UNIT, "column {c}: {got} {plain}");
        }
    }
}
