//! The whole on the text that was held back: what was chosen against plain bytes.

use gguf::Result;

use super::Job;
use crate::compare::{Baseline, compare};
use crate::divergence::Divergence;
use crate::forward::{Forward, Stream};
use crate::model::Shape;
use crate::perplexity::{Chunks, Plan};
use crate::weights::{Stored, Weights};

/// The loss of two forms of a model on the same text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// What was measured.
    pub measure: &'static str,
    /// With plain bytes.
    pub plain: f64,
    /// With chosen bytes.
    pub chosen: f64,
}

impl Verdict {
    /// Whether the chosen bytes lose no more.
    pub fn holds(&self) -> bool {
        self.chosen <= self.plain
    }
}

/// Mean KL divergence from the original; for encoders the mean cosine distance of their outputs.
///
/// # Errors
/// Whatever running can meet.
pub fn judge(job: &Job<'_>, plain: &dyn Weights, chosen: &dyn Weights, memory: u64) -> Result<Verdict> {
    let base = Stored(job.source);
    let stream = |weights| Stream { model: job.model, weights };
    let models = [stream(plain), stream(chosen)];
    let len = job.held.iter().map(|i| i.tokens.len()).max().unwrap_or(0);
    let plan = Plan::new(job.model, 3, len, memory);
    if job.model.shape == Shape::Encoder {
        let forward = Forward::lockstep(vec![stream(&base), models[0], models[1]])?.limits(plan.limits);
        let streams = forward.hidden(job.held)?;
        let distance = |stream: &[f32]| {
            let mut sum = 0.0;
            let mut start = 0;
            for input in job.held {
                let values = start * job.model.width..(start + input.tokens.len()) * job.model.width;
                sum += cosine_distance(&streams[0][values.clone()], &stream[values], job.model.width);
                start += input.tokens.len();
            }
            sum / job.held.len().max(1) as f64
        };
        let (plain, chosen) = (distance(&streams[1]), distance(&streams[2]));
        return Ok(Verdict { measure: "mean cosine distance", plain, chosen });
    }
    let chunks = Chunks { inputs: job.held.to_vec(), scored: 0..len.saturating_sub(1), first: 0 };
    let found = compare(Baseline::Run(stream(&base)), &models, &chunks, plan, None, |_| Ok(()))?;
    let mean = |i: usize| Divergence::of(&found.base_nll, &found.models[i], chunks.scored.len()).kld.value;
    Ok(Verdict { measure: "mean KLD", plain: mean(0), chosen: mean(1) })
}

/// Of the mean states of one sequence.
fn cosine_distance(a: &[f32], b: &[f32], width: usize) -> f64 {
    let mean = |x: &[f32]| {
        let mut mean = vec![0.0_f64; width];
        x.chunks(width).for_each(|row| mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x)));
        mean
    };
    let (a, b) = (mean(a), mean(b));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    1.0 - dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt().max(f64::MIN_POSITIVE)
}
