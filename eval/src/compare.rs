//! Several precisions of a model against a base, in lockstep.
//!
//! All streams pass each layer together, so that their logits for the same position exist at the same time; a position
//! is reduced to a handful of numbers ([`Position`]) and the logits are dropped. The base's logits come from running it,
//! from its final hidden states that an earlier run saved ([`SavedBase`]), or from a file of llama-perplexity
//! ([`KldFile`]).

use gguf::{Error, Result};
use rayon::prelude::*;

use crate::baseline::SavedBase;
use crate::divergence::{Position, RowSummary};
use crate::forward::{Forward, Head, Progress, Stream};
use crate::kld::{self, KldFile};
use crate::perplexity::{Chunks, Schedule};

/// Where the base's logits come from.
#[derive(Clone, Copy)]
pub enum Baseline<'a> {
    /// The base is run together with the others.
    Run(Stream<'a>),
    /// Only the base's output matrix is used, on hidden states that were saved.
    Saved(&'a SavedBase, Stream<'a>),
    /// The base's log-probabilities as llama-perplexity stored them.
    Kld(&'a KldFile),
}

impl std::fmt::Debug for Baseline<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Baseline::Run(_) => "Run",
            Baseline::Saved(..) => "Saved",
            Baseline::Kld(_) => "Kld",
        })
    }
}

/// What a comparison keeps of every scored position, in order.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// −ln p of the right token under the base.
    pub base_nll: Vec<f64>,
    /// The positions of each compared model.
    pub models: Vec<Vec<Position>>,
    /// Right tokens that a file of llama-perplexity keeps at its floor: their −ln p under the base was that or more.
    pub clipped: usize,
}

impl Comparison {
    /// What was found at these positions alone; how many of them were clipped is not known any more.
    pub fn only(&self, positions: std::ops::Range<usize>) -> Comparison {
        let cut = |all: usize| positions.start.min(all)..positions.end.min(all);
        Comparison {
            base_nll: self.base_nll[cut(self.base_nll.len())].to_vec(),
            models: self.models.iter().map(|m| m[cut(m.len())].to_vec()).collect(),
            clipped: 0,
        }
    }
}

/// Compares models with a base on chunks of text. `keep` is given the base's hidden states of the scored positions of
/// each chunk, in order, where the base is run.
///
/// # Errors
/// As [`Forward::logits`], a saved base that does not fit the chunks, and whatever `keep` returns.
pub fn compare(
    baseline: Baseline<'_>,
    models: &[Stream<'_>],
    chunks: &Chunks,
    plan: Schedule,
    progress: Option<Progress<'_>>,
    mut keep: impl FnMut(&[f32]) -> Result<()>,
) -> Result<Comparison> {
    let mut streams: Vec<Stream<'_>> = Vec::new();
    if let Baseline::Run(base) = baseline {
        streams.push(base);
    }
    streams.extend(models);
    let with_heads: Vec<Stream<'_>> = match baseline {
        Baseline::Run(base) | Baseline::Saved(_, base) => std::iter::once(base).chain(models.iter().copied()).collect(),
        Baseline::Kld(_) => models.to_vec(),
    };
    let heads = with_heads
        .iter()
        .map(|s| Head::load(s.model, s.weights, plan.limits.decode_head, None))
        .collect::<Result<Vec<_>>>()?;
    let Some(first) = with_heads.first() else { return Err(Error::usage("there is nothing to compare")) };
    let model = first.model;
    let mut found = Comparison { base_nll: Vec::new(), models: vec![Vec::new(); models.len()], clipped: 0 };
    let together = plan.sequences.max(1);
    let passes = chunks.inputs.len().div_ceil(together) as u64;
    let scored = chunks.scored.clone();
    let width = model.width;
    for (pass, inputs) in chunks.inputs.chunks(together).enumerate() {
        let told = |done: u64, total: u64| {
            if let Some(progress) = progress {
                progress(pass as u64 * total + done, passes * total);
            }
        };
        let hidden = if streams.is_empty() {
            Vec::new()
        } else {
            Forward::lockstep(streams.clone())?.limits(plan.limits).progress(&told).hidden(inputs)?
        };
        let mut start = 0;
        for (i, input) in inputs.iter().enumerate() {
            let chunk = chunks.first + pass * together + i;
            let of = |stream: &'_ [f32], block: &std::ops::Range<usize>| -> std::ops::Range<usize> {
                debug_assert!(stream.len() >= (start + block.end) * width);
                (start + block.start) * width..(start + block.end) * width
            };
            if let (Baseline::Run(_), Some(base)) = (baseline, hidden.first()) {
                keep(&base[of(base, &scored)])?;
            }
            for at in scored.clone().step_by(plan.limits.logit_rows.max(1)) {
                let block = at..(at + plan.limits.logit_rows.max(1)).min(scored.end);
                let base = match baseline {
                    Baseline::Run(_) => heads[0].logits(with_heads[0].model, &hidden[0][of(&hidden[0], &block)])?,
                    Baseline::Saved(saved, _) => heads[0].logits(
                        with_heads[0].model,
                        &saved.hidden(chunk, block.start - scored.start..block.end - scored.start)?,
                    )?,
                    Baseline::Kld(file) => {
                        let (mut all, mut row) = (Vec::with_capacity(block.len() * model.vocabulary), Vec::new());
                        for position in block.clone() {
                            file.log_probabilities(chunk, position - scored.start, &mut row)?;
                            all.extend_from_slice(&row);
                        }
                        all
                    }
                };
                let targets = &input.tokens[block.start + 1..block.end + 1];
                let rows = match baseline {
                    Baseline::Kld(_) => summaries(&base, model.vocabulary, |row| RowSummary::stored(row, kld::LEAST))?,
                    _ => summaries(&base, model.vocabulary, RowSummary::of)?,
                };
                let rights = base.chunks(model.vocabulary).zip(&rows).zip(targets);
                let nll: Vec<f64> = rights.map(|((l, r), &t)| r.nll(l, t as usize)).collect();
                if let Baseline::Kld(_) = baseline {
                    found.clipped += nll.iter().filter(|&&nll| -nll <= kld::LEAST).count();
                }
                found.base_nll.extend(nll);
                let (first_head, first_stream) = match baseline {
                    Baseline::Run(_) => (1, 1),
                    Baseline::Saved(..) => (1, 0),
                    Baseline::Kld(_) => (0, 0),
                };
                for (m, positions) in found.models.iter_mut().enumerate() {
                    let hidden = &hidden[first_stream + m];
                    let logits = heads[first_head + m].logits(models[m].model, &hidden[of(hidden, &block)])?;
                    let others = summaries(&logits, model.vocabulary, RowSummary::of)?;
                    positions.par_extend(
                        base.par_chunks(model.vocabulary)
                            .zip(&rows)
                            .zip(logits.par_chunks(model.vocabulary).zip(&others))
                            .zip(targets)
                            .map(|((base, other), &target)| Position::compare(base, other, target as usize)),
                    );
                }
            }
            start += input.tokens.len();
        }
    }
    Ok(found)
}

fn summaries(
    logits: &[f32],
    vocabulary: usize,
    of: impl Fn(&[f32]) -> Option<RowSummary> + Sync,
) -> Result<Vec<RowSummary>> {
    logits
        .par_chunks(vocabulary)
        .map(|row| of(row).ok_or_else(|| Error::input("a row of logits holds a value that is no number")))
        .collect()
}
