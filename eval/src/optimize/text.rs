//! Text that a model writes itself: what it is good at is what its weights must keep.

use gguf::{Error, Result};
use rayon::prelude::*;

use crate::forward::{Input, Session};
use crate::generate::{Sampler, Sampling};
use crate::model::{Model, Shape};
use crate::weights::Weights;

/// Lets a model write `count` texts of `len` tokens from `first` on, all side by side, so that each layer is read once
/// for a token of all of them. The same seed writes the same texts.
///
/// # Errors
/// A model that is no decoder, and whatever running can meet.
pub fn own_text(
    model: &Model,
    weights: &dyn Weights,
    first: u32,
    (count, len): (usize, usize),
    seed: u64,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Input>> {
    if model.shape != Shape::Decoder {
        return Err(Error::input(format!("{} is no decoder: it writes no text", model.name()))
            .help("give a text to calibrate with"));
    }
    let mut samplers = (0..count as u64)
        .map(|i| {
            // Each text has numbers of its own.
            let seed = seed ^ (i + 1).wrapping_mul(0xD1B5_4A32_D192_ED03);
            Sampler::new(Sampling { temperature: 1.0, top_p: 1.0, seed })
        })
        .collect::<Result<Vec<_>>>()?;
    let mut texts: Vec<Vec<u32>> = vec![vec![first]; count];
    let mut session = Session::new(model, weights, count, len)?;
    for at in 0..len.saturating_sub(1) {
        let now: Vec<&[u32]> = texts.iter().map(|t| &t[at..]).collect();
        let logits = session.feed(&now)?;
        texts
            .par_iter_mut()
            .zip(&mut samplers)
            .zip(logits.par_chunks(model.vocabulary))
            .for_each(|((text, sampler), logits)| text.push(sampler.take(logits)));
        progress(count);
    }
    Ok(texts.into_iter().map(Input::from).collect())
}
