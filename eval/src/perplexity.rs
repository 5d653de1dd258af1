//! Perplexity: how well a model predicts a text.
//!
//! The default protocol is llama-perplexity's: the text's tokens are cut into chunks of the context's length, the first
//! token of each is replaced by the beginning token where the tokenizer puts one in front of a text, and the second
//! half of each chunk is scored, so that every scored token has at least half a context before it.

use std::ops::Range;

use gguf::{Error, Result};
use rayon::prelude::*;

use crate::forward::{Forward, Input, Limits, Logits, Progress};
use crate::model::Model;
use crate::numeric;
use crate::weights::Weights;

/// Which tokens of a text are scored, and behind how many others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Chunks side by side, the second half of each scored (llama-perplexity).
    Halves,
    /// Chunks this many tokens apart, the last so many tokens of each scored (llama-perplexity `--ppl-stride`, which
    /// lengthens the context by half the stride and puts no beginning token in front).
    Strided(usize),
    /// Chunks side by side, every token but the first scored.
    Plain,
}

/// A text cut for scoring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    /// The tokens of each chunk as the model sees them.
    pub inputs: Vec<Input>,
    /// Positions whose logits are scored: each predicts the token behind it.
    pub scored: Range<usize>,
    /// The first chunk's place in the text: above 0 where these are only a part of its chunks.
    pub first: usize,
}

impl Chunks {
    /// Cuts tokens into chunks of `context`, at most `most` of them. `bos` replaces the first token of each.
    ///
    /// # Errors
    /// A context too small to score anything, or a text too short for one chunk.
    pub fn new(
        tokens: &[u32],
        bos: Option<u32>,
        context: usize,
        most: Option<usize>,
        protocol: Protocol,
    ) -> Result<Chunks> {
        if most == Some(0) {
            return Err(Error::usage("no chunk was asked for").help("give a number of at least 1, or none for all"));
        }
        let (len, apart) = match protocol {
            Protocol::Strided(stride) => (context + stride / 2, stride),
            _ => (context, context),
        };
        let scored = match protocol {
            Protocol::Halves => len / 2..len.saturating_sub(1),
            Protocol::Strided(stride) => len.saturating_sub(stride + 1)..len.saturating_sub(1),
            Protocol::Plain => 0..len.saturating_sub(1),
        };
        if scored.is_empty() || apart == 0 || apart > len {
            return Err(Error::usage(format!("a context of {context} leaves nothing to score"))
                .help("choose a larger --ctx, or a smaller --stride"));
        }
        let count = match protocol {
            Protocol::Strided(stride) => tokens.len().saturating_sub(len).div_ceil(stride),
            _ => tokens.len() / len,
        };
        if count == 0 {
            return Err(Error::input(format!("the text has {} tokens, one chunk needs {len}", tokens.len()))
                .help("give a longer text, or a smaller --ctx"));
        }
        let count = most.map_or(count, |m| m.min(count));
        let inputs = (0..count)
            .map(|i| {
                let mut chunk = tokens[i * apart..i * apart + len].to_vec();
                if let (Some(bos), false) = (bos, matches!(protocol, Protocol::Strided(_))) {
                    chunk[0] = bos;
                }
                chunk.into()
            })
            .collect();
        Ok(Chunks { inputs, scored, first: 0 })
    }

    /// Only these of the chunks.
    ///
    /// # Panics
    /// Chunks that there are not.
    pub fn only(mut self, chunks: Range<usize>) -> Chunks {
        self.first += chunks.start;
        self.inputs = self.inputs.drain(chunks).collect();
        self
    }

    /// All tokens that pass the model.
    pub fn tokens(&self) -> usize {
        self.inputs.iter().map(|i| i.tokens.len()).sum()
    }

    /// The tokens that the scored positions of a block of logits predict.
    pub fn targets(&self, logits: &Logits<'_>) -> &[u32] {
        &self.inputs[logits.sequence].tokens[logits.positions.start + 1..logits.positions.end + 1]
    }
}

/// The negative log-likelihood of each row's target: `logits` `[targets, vocabulary]`. Sums run in f64.
pub fn token_nll(logits: &[f32], vocabulary: usize, targets: &[u32]) -> Vec<f64> {
    logits
        .par_chunks(vocabulary)
        .zip(targets)
        .map(|(row, &target)| numeric::log_sum(row) - f64::from(row[target as usize]))
        .collect()
}

/// What was measured: a mean with its standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Scored tokens.
    pub count: u64,
    sum: f64,
    squares: f64,
}

impl Score {
    /// Counts one token's negative log-likelihood.
    pub fn add(&mut self, nll: f64) {
        self.count += 1;
        self.sum += nll;
        self.squares += nll * nll;
    }

    /// Counts these tokens' negative log-likelihoods, in order.
    pub fn of(nll: &[f64]) -> Score {
        let mut score = Score::default();
        nll.iter().for_each(|&nll| score.add(nll));
        score
    }

    /// Mean negative log-likelihood in nats.
    pub fn nll(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// Standard error of the mean over tokens as if they were independent, as llama-perplexity has it: √((mean of
    /// squares − square of mean) / (n − 1)). `None` for fewer than two tokens.
    pub fn nll_error(&self) -> Option<f64> {
        let n = self.count as f64;
        let variance = self.squares / n - self.nll() * self.nll();
        (self.count > 1).then(|| (variance.max(0.0) / (n - 1.0)).sqrt())
    }

    /// Perplexity: the exponential of the mean.
    pub fn ppl(&self) -> f64 {
        self.nll().exp()
    }

    /// Standard error of the perplexity, to first order.
    pub fn ppl_error(&self) -> Option<f64> {
        Some(self.nll_error()? * self.ppl())
    }
}

/// How a run is laid out to stay within a bound of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Sequences that go through the model together. A model is read once for each such pass.
    pub sequences: usize,
    /// Sizes within a pass.
    pub limits: Limits,
}

impl Schedule {
    /// A layout for sequences of `len` tokens through `streams` precisions within about `memory` bytes, on top of one
    /// layer as it is stored.
    pub fn new(model: &Model, streams: usize, len: usize, memory: u64) -> Schedule {
        let memory = usize::try_from(memory).unwrap_or(usize::MAX);
        let (len, float) = (len.max(1), size_of::<f32>());
        let streams = streams.max(1);
        let head = model.vocabulary * model.width * float * streams;
        let decode_head = head <= memory / 4;
        let row = model.vocabulary * float * streams;
        let logit_rows = (memory / 8 / row.max(1)).clamp(16, 512);
        // Input, its norm, a branch and its sum; queries, keys and values with their results; the feed-forward halves,
        // and one of them once more in the order in which the product reads it.
        let (attention, feed) = model.widest();
        let token = (4 * model.width * model.streams() + 2 * attention + 4 * feed) * float;
        let group_tokens = (memory / 4 / token.max(1)).clamp(len, 4096.max(len));
        let rest =
            memory.saturating_sub((group_tokens * token).max(if decode_head { head } else { 0 } + logit_rows * row));
        let sequences = (rest / (len * model.width * model.streams() * float * streams)).max(1);
        Schedule { sequences, limits: Limits { group_tokens, logit_rows, decode_head } }
    }
}

/// Scores all chunks, in passes as planned; `scored` sees the negative log-likelihoods of each chunk's scored tokens, in
/// order.
///
/// # Errors
/// As [`Forward::logits`].
pub fn perplexity(
    model: &Model,
    weights: &dyn Weights,
    chunks: &Chunks,
    plan: Schedule,
    progress: Option<Progress<'_>>,
    mut scored: impl FnMut(&[f64]),
) -> Result<()> {
    let passes = chunks.inputs.chunks(plan.sequences.max(1));
    let count = chunks.inputs.len().div_ceil(plan.sequences.max(1)) as u64;
    for (pass, inputs) in passes.enumerate() {
        let first = pass * plan.sequences.max(1);
        let told = |done: u64, total: u64| {
            if let Some(progress) = progress {
                progress(pass as u64 * total + done, count * total);
            }
        };
        let forward = Forward::new(model, weights).limits(plan.limits).progress(&told);
        let mut chunk = Vec::with_capacity(chunks.scored.len());
        forward.logits(
            inputs,
            |_| chunks.scored.clone(),
            |logits| {
                let logits =
                    Logits { sequence: first + logits.sequence, positions: logits.positions.clone(), ..*logits };
                chunk.extend(token_nll(&logits.streams[0], logits.vocabulary, chunks.targets(&logits)));
                if logits.positions.end == chunks.scored.end {
                    scored(&chunk);
                    chunk.clear();
                }
                Ok(())
            },
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_replace_the_first_token_and_score_the_second_half() {
        let tokens: Vec<u32> = (10..37).collect();
        let chunks = Chunks::new(&tokens, Some(1), 8, None, Protocol::Halves).unwrap();
        assert_eq!(chunks.inputs.len(), 3);
        assert_eq!(chunks.inputs[1].tokens, [1, 19, 20, 21, 22, 23, 24, 25]);
        assert_eq!(chunks.scored, 4..7);
        assert_eq!(Chunks::new(&tokens, None, 8, Some(2), Protocol::Plain).unwrap().scored, 0..7);
    }

    #[test]
    fn strides_overlap() {
        let tokens: Vec<u32> = (0..30).collect();
        let chunks = Chunks::new(&tokens, Some(99), 8, None, Protocol::Strided(4)).unwrap();
        assert_eq!(chunks.inputs.len(), 5);
        assert_eq!(chunks.inputs[1].tokens[..3], [4, 5, 6]);
        assert_eq!(chunks.scored, 5..9);
    }

    #[test]
    fn too_little_is_an_error_with_a_way_out() {
        let short = Chunks::new(&[1, 2, 3], None, 8, None, Protocol::Halves).unwrap_err();
        assert!(short.to_string().contains("3 tokens") && short.way_out().is_some());
        assert!(Chunks::new(&[1, 2, 3], None, 1, None, Protocol::Halves).is_err());
        assert!(Chunks::new(&[1; 30], None, 8, None, Protocol::Strided(0)).is_err());
        assert!(Chunks::new(&[1; 30], None, 8, None, Protocol::Strided(40)).is_err());
    }

    #[test]
    fn a_uniform_model_has_its_vocabulary_as_perplexity() {
        let mut score = Score::default();
        token_nll(&[0.5; 64], 16, &[0, 3, 7, 15]).into_iter().for_each(|n| score.add(n));
        assert!((score.ppl() - 16.0).abs() < 1e-9);
        assert!(score.nll_error().unwrap() < 1e-9);
    }

    #[test]
    fn the_standard_error_is_that_of_the_mean() {
        let mut score = Score::default();
        [1.0, 2.0, 3.0, 4.0].into_iter().for_each(|n| score.add(n));
        // Population variance 1.25 over n − 1 = 3.
        assert!((score.nll_error().unwrap() - (1.25_f64 / 3.0).sqrt()).abs() < 1e-12);
    }
}
