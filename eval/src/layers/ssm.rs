//! Selective state spaces (Mamba).

use gguf::{Error, Result};
use rayon::prelude::*;

use super::attention::{Memory, Site};
use super::{Part, ffn};
use crate::model::{Activation, StateSpace};

/// The mixer of a Mamba block: projection, causal convolution, selective scan, gate, projection.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn state_space(
    part: &Part<'_>,
    site: &Site<'_>,
    sizes: StateSpace,
    x: &[f32],
    mut memory: Option<&mut [Memory]>,
) -> Result<Vec<f32>> {
    let StateSpace { kernel, inner, state, rank } = sizes;
    let tokens = x.len() / site.model.width;
    let both = part.linear("ssm_in", x)?;
    fits(&both, tokens, 2 * inner, "ssm_in")?;
    let filter = part.values_of("ssm_conv1d.weight", kernel * inner)?;
    let filter_bias = part.values_of("ssm_conv1d.bias", inner)?;
    let decay = part.values_of("ssm_a", state * inner)?;
    let skip = part.values_of("ssm_d", inner)?;

    let mut u = vec![0.0; tokens * inner];
    for (i, span) in site.spans.iter().enumerate() {
        let input = |t: usize| &both[(span.start + t) * 2 * inner..][..inner];
        // The convolution looks back over the last inputs, of this call or of those before it.
        let mut history = vec![0.0; (kernel - 1) * inner];
        if let Some(memory) = memory.as_deref_mut().filter(|m| !m[i].inputs.is_empty()) {
            history.copy_from_slice(&memory[i].inputs);
        }
        history.extend((0..span.len).flat_map(|t| input(t).iter().copied()));
        for (t, out) in u[span.start * inner..(span.start + span.len) * inner].chunks_mut(inner).enumerate() {
            for (c, out) in out.iter_mut().enumerate() {
                let taps = (0..kernel).map(|k| filter[c * kernel + k] * history[(t + k) * inner + c]);
                *out = filter_bias[c] + taps.sum::<f32>();
            }
        }
        if let Some(memory) = memory.as_deref_mut() {
            memory[i].inputs = history.split_off(history.len() - (kernel - 1) * inner);
        }
    }
    ffn::activate(Activation::Silu, &mut u);

    let selected = part.linear("ssm_x", &u)?;
    fits(&selected, tokens, rank + 2 * state, "ssm_x")?;
    let low: Vec<f32> = selected.chunks(rank + 2 * state).flat_map(|s| &s[..rank]).copied().collect();
    let mut step = part.linear("ssm_dt", &low)?;
    fits(&step, tokens, inner, "ssm_dt")?;
    step.par_iter_mut().with_min_len(1024).for_each(|d| *d = softplus(*d));

    let mut out = vec![0.0; tokens * inner];
    for (i, span) in site.spans.iter().enumerate() {
        let mut states = match memory.as_deref_mut() {
            Some(memory) if !memory[i].state.is_empty() => std::mem::take(&mut memory[i].state),
            _ => vec![0.0; inner * state],
        };
        let columns: Vec<Vec<f32>> = states
            .par_chunks_mut(state)
            .enumerate()
            .with_min_len(16)
            .map(|(c, states)| {
                let mut column = Vec::with_capacity(span.len);
                for t in span.start..span.start + span.len {
                    let (dt, u) = (step[t * inner + c], u[t * inner + c]);
                    let (b, read) = selected[t * (rank + 2 * state) + rank..][..2 * state].split_at(state);
                    let mut y = skip[c] * u;
                    for (s, state_value) in states.iter_mut().enumerate() {
                        *state_value = *state_value * (dt * decay[c * state + s]).exp() + dt * b[s] * u;
                        y += *state_value * read[s];
                    }
                    column.push(y);
                }
                column
            })
            .collect();
        for (c, column) in columns.iter().enumerate() {
            for (t, y) in column.iter().enumerate() {
                out[(span.start + t) * inner + c] = *y;
            }
        }
        if let Some(memory) = memory.as_deref_mut() {
            memory[i].state = states;
        }
    }
    for (out, both) in out.chunks_mut(inner).zip(both.chunks(2 * inner)) {
        for (o, &z) in out.iter_mut().zip(&both[inner..]) {
            *o *= z * ffn::sigmoid(z);
        }
    }
    part.linear("ssm_out", &out)
}

fn softplus(x: f32) -> f32 {
    // Beyond 20 the logarithm adds nothing that f32 could hold.
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

fn fits(x: &[f32], tokens: usize, len: usize, name: &str) -> Result<()> {
    if x.len() == tokens * len {
        return Ok(());
    }
    Err(Error::input(format!("{name} gives {} values for {tokens} tokens of {len}", x.len())))
}
