//! What stands in place of one residual stream: several side by side (hyper-connections), or a stream and what it was
//! when each block of layers began. A token's streams lie end to end in its row.

use gguf::arch::{Activation, Blocks, NormKind, Residual, StreamWeights, Streams};
use gguf::{Error, Result};
use rayon::prelude::*;

use super::{Part, copied, ffn, norm, numeric};

/// What a step reads of the streams, and how its output goes back to them.
pub struct Reading {
    /// What is read, `[tokens, width]`.
    pub read: Vec<f32>,
    write: Write,
}

/// How a step's output goes back.
enum Write {
    /// To each stream with a weight, `[tokens, streams]`; the streams are mixed with each other before by a matrix
    /// `[from, to]` a token, where there is one.
    Weighted { weights: Vec<f32>, mix: Option<Vec<f32>> },
    /// To the first stream; where a block begins it is kept before, and begins anew.
    Block { begins: bool },
}

/// Streams of this width, `slots` a token, of which `kept` hold what earlier blocks began with.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Width of a stream.
    pub width: usize,
    /// Streams a token has place for.
    pub slots: usize,
    /// Blocks that are kept.
    pub kept: usize,
}

/// What a step reads, where it does not read the one stream as it is.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn read(residual: &Residual, part: &Part<'_>, x: &[f32], form: Form) -> Result<Option<Reading>> {
    match residual {
        Residual::Stream | Residual::Normed(_) => Ok(None),
        Residual::Streams(streams) => streams_read(streams, part, x, true).map(Some),
        Residual::Blocks(blocks) => {
            let read = blocks_read(blocks, part, x, form)?;
            Ok(Some(Reading { read, write: Write::Block { begins: blocks.begins } }))
        }
        other => Err(Error::input(format!("{} cannot be evaluated yet", other.name()))),
    }
}

/// What is read behind the last layer.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn read_last(residual: &Residual, part: &Part<'_>, x: Vec<f32>, form: Form) -> Result<Vec<f32>> {
    if let Residual::Streams(streams) = residual {
        return Ok(streams_read(streams, part, &x, false)?.read);
    }
    Ok(read(residual, part, &x, form)?.map_or(x, |reading| reading.read))
}

impl Reading {
    /// Brings what the step made back to the streams, times `scale`; gives how many blocks are kept then.
    pub fn join(&self, x: &mut [f32], made: &[f32], scale: f32, form: Form) -> usize {
        let Form { width, slots, kept } = form;
        let rows = x.par_chunks_mut(width * slots).zip(made.par_chunks(width)).enumerate();
        match &self.write {
            Write::Weighted { weights, mix } => {
                rows.for_each(|(t, (row, made))| {
                    if let Some(mix) = mix {
                        mix_streams(row, &mix[t * slots * slots..][..slots * slots], width);
                    }
                    for (stream, weight) in row.chunks_mut(width).zip(&weights[t * slots..]) {
                        numeric::add_scaled(stream, made, weight * scale);
                    }
                });
                kept
            }
            Write::Block { begins } => {
                rows.for_each(|(_, (row, made))| {
                    if *begins {
                        row.copy_within(..width, (kept + 1) * width);
                        row[..width].fill(0.0);
                    }
                    numeric::add_scaled(&mut row[..width], made, scale);
                });
                kept + usize::from(*begins)
            }
        }
    }
}

/// Each stream becomes the sum of all, weighted by its column of `[from, to]`.
fn mix_streams(row: &mut [f32], matrix: &[f32], width: usize) {
    let before = row.to_vec();
    let count = row.len() / width;
    row.fill(0.0);
    for (to, stream) in row.chunks_mut(width).enumerate() {
        for (from, before) in before.chunks(width).enumerate() {
            numeric::add_scaled(stream, before, matrix[from * count + to]);
        }
    }
}

/// Reads several streams; `writes`: with the weights for writing, which the streams behind the layers have not.
fn streams_read(s: &Streams, part: &Part<'_>, x: &[f32], writes: bool) -> Result<Reading> {
    let (count, width) = (s.count.len(), s.width.len());
    let tokens = x.len() / (count * width).max(1);
    let name = |what: &str| format!("{}_{what}", s.name);
    let mut read = vec![0.0; tokens * width];
    let weigh = |read: &mut [f32], factors: &[f32]| {
        let rows = read.par_chunks_mut(width).zip(x.par_chunks(count * width)).zip(factors.par_chunks(count));
        rows.for_each(|((read, row), factors)| {
            for (stream, factor) in row.chunks(width).zip(factors) {
                numeric::add_scaled(read, stream, *factor);
            }
        });
    };
    let (mut weights, mut mix) = (Vec::new(), None);
    match s.weights {
        StreamWeights::Mean => weigh(&mut read, &vec![1.0 / count as f32; tokens * count]),
        StreamWeights::Doubly { eps, .. } | StreamWeights::Apart { eps, .. } => {
            let doubly = matches!(s.weights, StreamWeights::Doubly { .. });
            let (parts, rows) = match (writes, doubly) {
                (false, _) => (1, count),
                (true, false) => (2, 2 * count),
                (true, true) => (3, (count + 2) * count),
            };
            let mut normed = copied(x);
            norm::normalize(NormKind::Rms(s.eps), &mut normed, count * width, None, None);
            let mut m = part.linear_to(&name("fn"), &normed, tokens, rows)?;
            let base = part.values_of(&name("base.weight"), rows)?;
            let scale = part.values_of(&name("scale.weight"), parts)?;
            for row in m.chunks_mut(rows) {
                for (i, (m, base)) in row.iter_mut().zip(&base).enumerate() {
                    *m = *m * scale[(i / count).min(parts - 1)] + base;
                }
            }
            let column = |from: usize, f: &dyn Fn(f32) -> f32| -> Vec<f32> {
                m.chunks(rows).flat_map(|row| &row[from..from + count]).map(|&v| f(v)).collect()
            };
            weigh(&mut read, &column(0, &|v| ffn::sigmoid(v) + eps));
            if writes {
                weights = match s.weights {
                    StreamWeights::Apart { magnitude, .. } => column(count, &|v| magnitude * ffn::sigmoid(v) + eps),
                    _ => column(count, &|v| 2.0 * ffn::sigmoid(v)),
                };
            }
            if let (true, StreamWeights::Doubly { rounds, .. }) = (writes, s.weights) {
                let matrices = m.chunks(rows).flat_map(|row| stochastic(&row[2 * count..], count, rounds.len(), eps));
                mix = Some(matrices.collect());
            }
        }
        StreamWeights::LowRank { .. } => {
            let mut normed = copied(x);
            let weight = part.values_of(&name("norm.weight"), count * width)?;
            norm::normalize(NormKind::Rms(s.eps), &mut normed, width, Some(&weight), None);
            let share = 1.0 / count as f32;
            let mut low = part.linear(&name("down"), &normed)?;
            numeric::scale(&mut low, share);
            ffn::activate(Activation::Silu, &mut low);
            let gate = part.linear_to(&name("up"), &low, tokens, count * width)?;
            let rows =
                read.par_chunks_mut(width).zip(normed.par_chunks(count * width)).zip(gate.par_chunks(count * width));
            rows.for_each(|((read, normed), gate)| {
                for (i, (v, g)) in normed.iter().zip(gate).enumerate() {
                    read[i % width] += share * v * ffn::sigmoid(*g);
                }
            });
            if writes {
                weights = part.linear_to(&name("inject"), &normed, tokens, count)?;
                weights.iter_mut().for_each(|w| *w = 2.0 * ffn::sigmoid(*w * share));
            }
        }
    }
    Ok(Reading { read, write: Write::Weighted { weights, mix } })
}

/// A matrix whose rows are a softmax of these, with columns and rows brought to sums near one in turn (Sinkhorn and
/// Knopp), the columns `rounds` times.
fn stochastic(logits: &[f32], n: usize, rounds: usize, eps: f32) -> Vec<f32> {
    let mut m = Vec::with_capacity(n * n);
    for row in logits.chunks(n) {
        let peak = numeric::max(row);
        let mut row = row.to_vec();
        let sum = numeric::exp_and_sum(&mut row, peak);
        m.extend(row.iter().map(|v| v / sum + eps));
    }
    for round in 0..rounds.max(1) {
        if round > 0 {
            for row in m.chunks_mut(n) {
                let sum = row.iter().sum::<f32>() + eps;
                row.iter_mut().for_each(|v| *v /= sum);
            }
        }
        for c in 0..n {
            let sum = m.iter().skip(c).step_by(n).sum::<f32>() + eps;
            m.iter_mut().skip(c).step_by(n).for_each(|v| *v /= sum);
        }
    }
    m
}

/// The sum of the stream and of all that was kept, weighted by the softmax of their scores.
fn blocks_read(b: &Blocks, part: &Part<'_>, x: &[f32], form: Form) -> Result<Vec<f32>> {
    let Form { width, slots, kept } = form;
    let tokens = x.len() / (width * slots).max(1);
    let score = part.values_of(&format!("{}.weight", b.score), width)?;
    let mut read = vec![0.0; tokens * width];
    read.par_chunks_mut(width).zip(x.par_chunks(width * slots)).for_each(|(read, row)| {
        let row = &row[..width * (kept + 1)];
        let mut weights: Vec<f32> = row
            .chunks(width)
            .map(|stream| {
                let mut normed = stream.to_vec();
                norm::normalize(NormKind::Rms(b.eps), &mut normed, width, Some(&score), None);
                normed.iter().sum()
            })
            .collect();
        let peak = numeric::max(&weights);
        let sum = numeric::exp_and_sum(&mut weights, peak);
        for (stream, weight) in row.chunks(width).zip(&weights) {
            numeric::add_scaled(read, stream, weight / sum);
        }
    });
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixing_matrices_have_rows_and_columns_of_sum_one() {
        let m = stochastic(&[0.3, -1.0, 2.0, 0.7, 0.1, -0.4, 1.5, 0.0, -2.0], 3, 60, 1e-6);
        for i in 0..3 {
            let (row, column) = (m[3 * i..3 * i + 3].iter().sum::<f32>(), (0..3).map(|r| m[3 * r + i]).sum::<f32>());
            assert!((row - 1.0).abs() < 1e-4 && (column - 1.0).abs() < 1e-4, "{row} {column}");
        }
    }

    #[test]
    fn streams_are_mixed_before_a_step_s_output_is_added() {
        // Two streams of two values; the matrix swaps them.
        let form = Form { width: 2, slots: 2, kept: 0 };
        let write = Write::Weighted { weights: vec![1.0, 10.0], mix: Some(vec![0.0, 1.0, 1.0, 0.0]) };
        let mut x = [1.0, 2.0, 3.0, 4.0];
        Reading { read: vec![0.0; 2], write }.join(&mut x, &[1.0, -1.0], 0.5, form);
        assert_eq!(x, [3.5, 3.5, 6.0, -3.0]);
    }

    #[test]
    fn a_block_keeps_what_it_began_with() {
        let form = Form { width: 2, slots: 3, kept: 1 };
        let mut x = [1.0, 2.0, 7.0, 7.0, 0.0, 0.0];
        let reading = |begins| Reading { read: vec![0.0; 2], write: Write::Block { begins } };
        assert_eq!(reading(true).join(&mut x, &[5.0, 6.0], 1.0, form), 2);
        assert_eq!(x, [5.0, 6.0, 7.0, 7.0, 1.0, 2.0]);
        assert_eq!(reading(false).join(&mut x, &[1.0, 1.0], 1.0, Form { kept: 2, ..form }), 2);
        assert_eq!(x, [6.0, 7.0, 7.0, 7.0, 1.0, 2.0]);
    }
}
