//! The whole on the text that was held back: what was chosen against plain bytes.

use gguf::{Result, Source};

use super::Job;
use crate::compare::{Baseline, compare};
use crate::device::Device;
use crate::divergence::Divergence;
use crate::forward::{Forward, Input, Stream};
use crate::model::{Model, Shape};
use crate::perplexity::{Chunks, Schedule};
use crate::weights::{OnDevice, SourceWeights, Weights};

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

/// What [`losses`] of a model are.
pub fn measure(model: &Model) -> &'static str {
    if model.shape == Shape::Encoder { "mean cosine distance" } else { "mean KLD" }
}

/// The loss of chosen bytes and of plain ones.
///
/// # Errors
/// Whatever running can meet.
pub fn judge(job: &Job<'_>, plain: &dyn Weights, chosen: &dyn Weights, memory: u64) -> Result<Verdict> {
    let losses = losses((job.model, job.device), job.source, job.held, &[plain, chosen], memory)?;
    Ok(Verdict { measure: measure(job.model), plain: losses[0], chosen: losses[1] })
}

/// Mean KL divergence of each form from the original; for encoders the mean cosine distance of their outputs.
///
/// # Errors
/// Whatever running can meet.
pub fn losses(
    (model, device): (&Model, Option<&Device>),
    source: &dyn Source,
    text: &[Input],
    forms: &[&dyn Weights],
    memory: u64,
) -> Result<Vec<f64>> {
    let base = OnDevice::new(SourceWeights(source), device);
    let on: Vec<_> = forms.iter().map(|&weights| OnDevice::new(weights, device)).collect();
    let stream = |weights| Stream { model, weights };
    let models: Vec<Stream<'_>> = on.iter().map(|weights| stream(weights)).collect();
    let len = text.iter().map(|i| i.tokens.len()).max().unwrap_or(0);
    let plan = Schedule::new(model, 1 + forms.len(), len, memory);
    if model.shape == Shape::Encoder {
        let all = std::iter::once(stream(&base)).chain(models.iter().copied()).collect();
        let streams = Forward::lockstep(all)?.limits(plan.limits).hidden(text)?;
        let distance = |stream: &Vec<f32>| {
            let mut sum = 0.0;
            let mut start = 0;
            for input in text {
                let values = start * model.width..(start + input.tokens.len()) * model.width;
                sum += cosine_distance(&streams[0][values.clone()], &stream[values], model.width);
                start += input.tokens.len();
            }
            sum / text.len().max(1) as f64
        };
        return Ok(streams[1..].iter().map(distance).collect());
    }
    let chunks = Chunks { inputs: text.to_vec(), scored: 0..len.saturating_sub(1), first: 0 };
    let found = compare(Baseline::Run(stream(&base)), &models, &chunks, plan, None, |_| Ok(()))?;
    let mean = |positions| Divergence::of(&found.base_nll, positions, chunks.scored.len()).kld.value;
    Ok(found.models.iter().map(|positions| mean(positions)).collect())
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
