//! Collecting an importance matrix: the squares of what each matrix is multiplied with, summed by column.
//!
//! The same sums that llama-imatrix collects: for every matrix of the blocks the squared activations of all tokens of
//! the text, for a stack of experts those of the tokens that each expert was chosen for.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use gguf::{Source, TensorInfo};
use quantize::imatrix::{Entry, Imatrix};

use crate::layers::Observe;

#[derive(Debug, Default)]
struct Sums {
    columns: usize,
    sums: Vec<f64>,
    counts: Vec<i64>,
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

    /// The matrix that was collected.
    pub fn finish(self, dataset: &str, chunks: u32, chunk_size: u32) -> Imatrix {
        let sums = self.sums.into_inner().unwrap_or_else(PoisonError::into_inner);
        let entry = |s: Sums| Entry { sums: s.sums.iter().map(|&v| v as f32).collect(), counts: s.counts };
        Imatrix {
            entries: sums.into_iter().map(|(name, sums)| (name, entry(sums))).collect(),
            datasets: vec![dataset.to_owned()],
            chunks,
            chunk_size,
            legacy: false,
        }
    }

    /// Stacks of which some experts saw no token: name, experts without data, all experts.
    pub fn partial(&self) -> Vec<(String, usize, usize)> {
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        sums.iter()
            .map(|(name, s)| (name.clone(), s.counts.iter().filter(|&&c| c == 0).count(), s.counts.len()))
            .filter(|p| p.1 > 0)
            .collect()
    }
}

impl Observe for Collector {
    fn input(&self, tensor: &str, expert: Option<usize>, x: &[f32], cols: usize) {
        let Some(&experts) = self.watched.get(tensor) else { return };
        if cols == 0 {
            return;
        }
        let mut squares = vec![0.0_f64; cols];
        for rows in x.chunks(cols * 64) {
            // f32 sums of a few rows, f64 over all of them.
            let mut part = vec![0.0_f32; cols];
            for row in rows.chunks_exact(cols) {
                for (sum, &value) in part.iter_mut().zip(row) {
                    *sum += value * value;
                }
            }
            for (sum, part) in squares.iter_mut().zip(part) {
                *sum += f64::from(part);
            }
        }
        let expert = expert.unwrap_or(0);
        let mut all = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let sums = all.entry(tensor.to_owned()).or_insert_with(|| Sums {
            columns: cols,
            sums: vec![0.0; cols * experts],
            counts: vec![0; experts],
        });
        if let (true, Some(count)) = (sums.columns == cols, sums.counts.get_mut(expert)) {
            *count += (x.len() / cols) as i64;
            for (sum, square) in sums.sums[expert * cols..].iter_mut().zip(squares) {
                *sum += square;
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
        assert_eq!(collector.partial(), [("blk.0.ffn_up_exps.weight".to_owned(), 1, 3)]);
        let matrix = collector.finish("text", 1, 512);
        let entry = &matrix.entries["blk.0.ffn_up_exps.weight"];
        assert_eq!(entry.counts, [1, 0, 2]);
        assert_eq!(entry.sums, [25.0, 0.0, 0.0, 0.0, 10.0, 20.0]);
        assert_eq!(matrix.entries.len(), 1);
    }
}
