//! What the inputs of a stage add up to.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quantize::search::moments::{Moments, add_cross};
use quantize::search::strips::Strips;

use crate::device::Values;
use crate::layers::Observe;

/// The sums over the inputs of the matrices of a stage, or of one expert of them.
pub(super) struct Sums {
    moments: Moments,
    against: Against,
    squares: Vec<f64>,
    counted: usize,
    before: Strips,
    after: Strips,
}

/// What the inputs in the quantized stream are multiplied with for the same tokens, to know what the outputs should be.
#[derive(Clone)]
pub(super) enum Against {
    /// With nothing.
    Nothing,
    /// With the original's inputs (rows): of all matrices that read them, whatever they make of them.
    Inputs(Strips),
    /// With what one matrix is to make of them (columns).
    Outputs(Strips),
}

impl Against {
    /// The original's inputs, `n` values each.
    pub(super) fn inputs(n: usize) -> Against {
        Against::Inputs(Strips::zeros(n, n))
    }

    /// Outputs of so many values, of inputs of `n`.
    pub(super) fn outputs(n: usize, values: usize) -> Against {
        Against::Outputs(Strips::zeros(n, values))
    }
}

/// The same when all inputs were seen.
#[derive(Clone)]
pub(super) struct Seen {
    /// Second moments of the inputs in the quantized stream.
    pub(super) h: Strips,
    /// Those between them and what they stand against.
    pub(super) against: Against,
    /// Mean squares of the original's inputs.
    pub(super) importance: Vec<f32>,
    /// Tokens that were seen.
    pub(super) tokens: usize,
}

impl Sums {
    /// Of no inputs yet.
    pub(super) fn new(n: usize, against: Against) -> Sums {
        Sums {
            moments: Moments::new(n),
            against,
            squares: vec![0.0; n],
            counted: 0,
            before: Strips::default(),
            after: Strips::default(),
        }
    }

    /// Adds the inputs of both streams for the same tokens, and what the outputs should be where these are asked for. The
    /// original's inputs are those of other tokens where experts were chosen differently: then they count for the
    /// importance only.
    pub(super) fn add(&mut self, before: &[f32], after: &[f32], outputs: &[f32]) {
        let n = self.squares.len();
        self.count_squares(before);
        if after.is_empty() {
            return;
        }
        self.after.assign_rows(after, n);
        self.moments.add(&self.after);
        match &mut self.against {
            Against::Nothing => {}
            Against::Inputs(sums) => {
                self.before.assign_rows(before, n);
                add_cross(&self.before, &self.after, sums);
            }
            Against::Outputs(sums) => {
                self.before.assign_rows(outputs, sums.cols());
                add_cross(&self.after, &self.before, sums);
            }
        }
    }

    fn count_squares(&mut self, x: &[f32]) {
        let n = self.squares.len();
        self.counted += x.len() / n;
        for rows in x.chunks(n * 64) {
            let mut part = vec![0.0_f32; n];
            for row in rows.chunks_exact(n) {
                part.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x);
            }
            self.squares.iter_mut().zip(part).for_each(|(sum, part)| *sum += f64::from(part));
        }
    }

    pub(super) fn finish(self) -> Seen {
        let counted = self.counted.max(1) as f64;
        let tokens = self.moments.tokens();
        Seen {
            h: self.moments.finish(),
            against: self.against,
            importance: self.squares.iter().map(|s| (s / counted) as f32).collect(),
            tokens,
        }
    }
}

/// Keeps what one tensor is multiplied with, expert by expert, and what comes out.
pub(super) struct Capture<'a> {
    name: &'a str,
    /// Whether outputs are kept.
    outputs: bool,
    seen: Mutex<Captured>,
}

/// What was captured.
#[derive(Default)]
pub(super) struct Captured {
    /// The inputs by expert; 0 is the only one where there are none.
    pub(super) inputs: BTreeMap<usize, Vec<f32>>,
    /// The outputs of all, where they are kept.
    pub(super) outputs: Vec<f32>,
}

impl<'a> Capture<'a> {
    pub(super) fn of(name: &'a str, outputs: bool) -> Capture<'a> {
        Capture { name, outputs, seen: Mutex::default() }
    }

    pub(super) fn finish(self) -> Captured {
        self.seen.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, Captured> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observe for Capture<'_> {
    fn input(&self, tensor: &str, expert: Option<usize>, x: &[f32], _: usize) {
        if tensor == self.name {
            self.seen().inputs.entry(expert.unwrap_or(0)).or_default().extend_from_slice(x);
        }
    }

    fn output(&self, tensor: &str, y: &Values) {
        if self.outputs && tensor == self.name {
            self.seen().outputs.extend_from_slice(y);
        }
    }
}

/// Keeps which tensors read the same input.
#[derive(Default)]
pub(super) struct Recorder {
    seen: Mutex<Vec<Recorded>>,
}

/// Tensors that read the same inputs.
#[derive(Default)]
pub(super) struct Recorded {
    /// Fingerprints of the inputs.
    prints: Vec<u64>,
    /// The tensors, in the order in which they were first multiplied.
    pub(super) tensors: Vec<String>,
    /// How many rows the first of them was multiplied with, matrix by matrix.
    pub(super) rows: BTreeMap<usize, usize>,
}

impl Recorder {
    /// The stages in the order in which they were first multiplied.
    pub(super) fn stages(self) -> Vec<Recorded> {
        self.seen.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observe for Recorder {
    fn input(&self, tensor: &str, expert: Option<usize>, x: &[f32], cols: usize) {
        let mut print = (x.len() as u64) << 16 ^ cols as u64;
        for value in x.iter().step_by((x.len() / 1021).max(1)) {
            print = (print ^ u64::from(value.to_bits())).wrapping_mul(0x0000_0100_0000_01b3);
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // A tensor belongs to one stage, however many experts of it read different inputs.
        let known = seen.iter().position(|g| g.tensors.iter().any(|t| t == tensor));
        let at = known.or_else(|| seen.iter().position(|g| g.prints.contains(&print)));
        let at = at.unwrap_or_else(|| {
            seen.push(Recorded::default());
            seen.len() - 1
        });
        let group = &mut seen[at];
        group.prints.push(print);
        if known.is_none() {
            group.tensors.push(tensor.to_owned());
        }
        if group.tensors[0] == tensor {
            *group.rows.entry(expert.unwrap_or(0)).or_default() += x.len() / cols.max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_with_one_input_are_one_stage() {
        let recorder = Recorder::default();
        let (a, b, c) = ([1.0; 8], [2.0; 8], [3.0; 4]);
        recorder.input("q", None, &a, 4);
        recorder.input("k", None, &a, 4);
        recorder.input("o", None, &b, 4);
        recorder.input("up", Some(0), &c, 4);
        recorder.input("gate", Some(0), &c, 4);
        recorder.input("down", Some(0), &[9.0; 4], 4);
        recorder.input("up", Some(3), &[5.0; 4], 4);
        recorder.input("gate", Some(3), &[5.0; 4], 4);
        recorder.input("down", Some(3), &[8.0; 4], 4);
        let stages = recorder.stages();
        assert_eq!(stages[2].rows, BTreeMap::from([(0, 1), (3, 1)]));
        let stages: Vec<Vec<String>> = stages.into_iter().map(|s| s.tensors).collect();
        assert_eq!(stages, [vec!["q", "k"], vec!["o"], vec!["up", "gate"], vec!["down"]]);
    }

    #[test]
    fn inputs_of_both_streams_are_summed() {
        let of = |against| {
            let mut sums = Sums::new(2, against);
            sums.add(&[1.0, 2.0], &[3.0, 4.0], &[0.5]);
            sums.add(&[0.0, 1.0], &[1.0, 0.0], &[2.0]);
            sums.finish()
        };
        let seen = of(Against::inputs(2));
        assert_eq!([seen.h.at(0, 0), seen.h.at(0, 1), seen.h.at(1, 1)], [10.0, 12.0, 16.0]);
        let Against::Inputs(cross) = seen.against else { panic!("inputs were asked for") };
        // Rows are the original's columns.
        assert_eq!([cross.at(0, 0), cross.at(0, 1), cross.at(1, 0)], [3.0, 4.0, 7.0]);
        assert_eq!((seen.importance, seen.tokens), (vec![0.5, 2.5], 2));
        let Against::Outputs(outputs) = of(Against::outputs(2, 1)).against else { panic!("outputs were asked for") };
        assert_eq!([outputs.at(0, 0), outputs.at(1, 0)], [3.5, 2.0]);
    }
}
