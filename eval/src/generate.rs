//! Continuing a text, token by token: a quick check of a model.

use gguf::{Error, Result};

use crate::forward::{Forward, Session};
use crate::model::Model;
use crate::perplexity::Schedule;
use crate::weights::Weights;

/// How the next token is taken from its probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; zero takes the most probable token.
    pub temperature: f32,
    /// Only the most probable tokens that together have this probability are taken.
    pub top_p: f32,
    /// What the random numbers begin with.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { temperature: 0.0, top_p: 1.0, seed: 0 }
    }
}

/// What is done about the tokens before the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// What the layers keep of them is kept.
    Kept,
    /// They pass the model again for every token.
    ComputedAgain,
}

/// Takes tokens; the same seed takes the same ones.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    state: u64,
}

impl Sampler {
    /// A sampler at the beginning of its numbers.
    ///
    /// # Errors
    /// A temperature that is negative or no number, or a share outside of 0 to 1.
    pub fn new(sampling: Sampling) -> Result<Sampler> {
        let Sampling { temperature, top_p, seed } = sampling;
        if !(temperature >= 0.0 && temperature.is_finite() && top_p > 0.0 && top_p <= 1.0) {
            return Err(Error::usage(format!("temperature {temperature} with top-p {top_p} cannot be sampled"))
                .help("a temperature of 0 or more, a top-p above 0 and at most 1"));
        }
        Ok(Sampler { sampling, state: seed })
    }

    /// The next token for these logits.
    pub fn take(&mut self, logits: &[f32]) -> u32 {
        let best = |a: usize, b: usize| if logits[b] > logits[a] { b } else { a };
        if self.sampling.temperature == 0.0 {
            return (0..logits.len()).reduce(best).unwrap_or(0) as u32;
        }
        let peak = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut order: Vec<(usize, f64)> =
            logits.iter().map(|&x| f64::from((x - peak) / self.sampling.temperature).exp()).enumerate().collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let all: f64 = order.iter().map(|o| o.1).sum();
        let mut kept = 0.0;
        let within = order.iter().take_while(|o| {
            let wanted = kept < f64::from(self.sampling.top_p) * all;
            kept += o.1;
            wanted
        });
        let within = within.count().max(1);
        let kept: f64 = order[..within].iter().map(|o| o.1).sum();
        let mut at = self.random() * kept;
        for &(token, share) in &order[..within] {
            if at < share {
                return token as u32;
            }
            at -= share;
        }
        order[within - 1].0 as u32
    }

    /// A number from 0 up to 1 (SplitMix64, Steele et al. 2014).
    fn random(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Continues `prompt` by at most `count` tokens; `visit` sees each and says whether to go on.
///
/// With [`Past::Kept`], keys and values of the past are kept; without, the whole text passes the model for every token,
/// which gives the same tokens and takes far longer. What a layer makes of the prompt and what is kept stay within
/// `memory` bytes, on top of one layer as it is stored.
///
/// # Errors
/// An empty prompt, a model that is no decoder, a past that `memory` does not hold, and as [`Forward::logits`].
pub fn generate(
    model: &Model,
    weights: &dyn Weights,
    prompt: &[u32],
    count: usize,
    sampling: Sampling,
    (past, memory): (Past, u64),
    mut visit: impl FnMut(u32) -> Result<bool>,
) -> Result<Vec<u32>> {
    if prompt.is_empty() {
        return Err(Error::usage("there is nothing to continue").help("give a --prompt"));
    }
    let mut sampler = Sampler::new(sampling)?;
    let mut tokens = prompt.to_vec();
    let capacity = prompt.len().saturating_add(count);
    let limits = Schedule::new(model, 1, 1, memory).limits;
    // The rest is for what a layer makes of a group of tokens.
    let kept = memory / 4 * 3;
    let mut session = Session::within(model, weights, capacity, kept)?;
    let mut next: Vec<u32> = prompt.to_vec();
    for _ in 0..count {
        let logits = match past {
            Past::Kept => {
                let mut logits = Vec::new();
                for piece in next.chunks(limits.group_tokens) {
                    logits = session.feed(&[piece])?;
                    session.reserve(kept)?;
                }
                logits
            }
            Past::ComputedAgain => last_logits(model, weights, &tokens, memory)?,
        };
        let token = sampler.take(&logits);
        tokens.push(token);
        if !visit(token)? {
            break;
        }
        next = vec![token];
    }
    Ok(tokens.split_off(prompt.len()))
}

fn last_logits(model: &Model, weights: &dyn Weights, tokens: &[u32], memory: u64) -> Result<Vec<f32>> {
    let mut last = Vec::new();
    let end = tokens.len() - 1;
    let limits = Schedule::new(model, 1, tokens.len(), memory).limits;
    Forward::new(model, weights).limits(limits).logits(
        &[tokens.to_vec().into()],
        |_| end..end + 1,
        |logits| {
            last.clone_from(&logits.streams[0]);
            Ok(())
        },
    )?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_temperature_takes_the_first_of_the_best() {
        let mut sampler = Sampler::new(Sampling::default()).unwrap();
        assert_eq!(sampler.take(&[0.0, 2.0, 1.0, 2.0]), 1);
    }

    #[test]
    fn samples_follow_the_probabilities_and_the_seed() {
        let sampling = Sampling { temperature: 1.0, top_p: 1.0, seed: 7 };
        let logits = [0.0, 3.0_f32.ln(), f32::NEG_INFINITY];
        let draw = || {
            let mut sampler = Sampler::new(sampling).unwrap();
            (0..4000).map(|_| sampler.take(&logits)).collect::<Vec<_>>()
        };
        let drawn = draw();
        assert_eq!(drawn, draw());
        let share = drawn.iter().filter(|&&t| t == 1).count() as f64 / 4000.0;
        assert!((share - 0.75).abs() < 0.03, "{share}");
        assert!(!drawn.contains(&2));
    }

    #[test]
    fn top_p_leaves_the_improbable_out() {
        let mut sampler = Sampler::new(Sampling { temperature: 1.0, top_p: 0.7, seed: 1 }).unwrap();
        assert!((0..200).all(|_| sampler.take(&[0.0, 3.0_f32.ln()]) == 1));
        assert!(Sampler::new(Sampling { temperature: -1.0, ..Sampling::default() }).is_err());
    }
}
