//! Selective state spaces (Mamba).

use gguf::Result;
use gguf::arch::{Activation, Mamba, NormKind, StateSpace};
use rayon::prelude::*;

use super::conv::causal_conv;
use super::{LayerState, Part, Site, ffn, norm};
use crate::numeric::{columns, softplus};

/// The mixer of a Mamba layer: projection, causal convolution, selective scan, gate, projection.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn mamba(
    m: &Mamba,
    part: &Part<'_>,
    site: &Site<'_>,
    x: &[f32],
    mut memory: Option<&mut [LayerState]>,
) -> Result<Vec<f32>> {
    let StateSpace { kernel, inner, state, rank, .. } = m.sizes;
    let (inner, state, rank) = (inner.len(), state.len(), rank.len());
    let tokens = site.tokens();
    let both = part.linear_to("ssm_in", x, tokens, 2 * inner)?;
    let filter = part.values_of("ssm_conv1d.weight", kernel.len() * inner)?;
    let filter_bias = part.values_of("ssm_conv1d.bias", inner)?;
    let decay = part.values_of("ssm_a", state * inner)?;
    let skip = part.values_of("ssm_d", inner)?;
    let input = columns(&both, 2 * inner, 0, inner);
    let mut u = causal_conv(site, &input, inner, &filter, Some(&filter_bias), memory.as_deref_mut());
    ffn::activate(Activation::Silu, &mut u);

    let mut selected = part.linear_to("ssm_x", &u, tokens, rank + 2 * state)?;
    norms(m, part, &mut selected)?;
    let low = columns(&selected, rank + 2 * state, 0, rank);
    let mut step = part.linear_to("ssm_dt", &low, tokens, inner)?;
    step.par_iter_mut().with_min_len(1024).for_each(|d| *d = softplus(*d));

    let mut out = vec![0.0; tokens * inner];
    for (i, span) in site.spans.iter().enumerate() {
        let mut states = LayerState::take(memory.as_deref_mut(), i, inner * state);
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
        LayerState::put(memory.as_deref_mut(), i, states);
    }
    for (out, both) in out.chunks_mut(inner).zip(both.chunks(2 * inner)) {
        for (o, &z) in out.iter_mut().zip(&both[inner..]) {
            *o *= z * ffn::sigmoid(z);
        }
    }
    part.linear("ssm_out", &out)
}

/// The norms of dt, B and C, where the model has such.
fn norms(m: &Mamba, part: &Part<'_>, selected: &mut [f32]) -> Result<()> {
    let (rank, state) = (m.sizes.rank.len(), m.sizes.state.len());
    let parts = [("ssm_dt_norm", 0, rank), ("ssm_b_norm", rank, state), ("ssm_c_norm", rank + state, state)];
    let kind = match (m.norms, m.plain_norms) {
        (Some(norms), _) => NormKind::Rms(norms.eps),
        (None, Some(eps)) => NormKind::Rms(eps),
        (None, None) => return Ok(()),
    };
    for (name, from, len) in parts {
        let weight = match m.norms {
            Some(norms) => Some(part.values_of(&format!("{name}{}", norms.suffix), len)?),
            None => None,
        };
        for row in selected.chunks_mut(rank + 2 * state) {
            norm::normalize(kind, &mut row[from..from + len], len, weight.as_deref(), None);
        }
    }
    Ok(())
}
