//! State spaces of heads (Mamba 2).

use gguf::Result;
use gguf::arch::{Activation, Mamba2, NormKind, StateSpace};
use rayon::prelude::*;

use super::conv::causal_conv;
use super::delta::rows_of_heads;
use super::{LayerState, Part, Site, ffn, norm};
use crate::numeric::{columns, softplus};

/// The mixer of a Mamba 2 layer: projection, causal convolution, scan over heads, gated norm, projection.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn mamba2(
    m: &Mamba2,
    part: &Part<'_>,
    site: &Site<'_>,
    x: &[f32],
    mut states: Option<&mut [LayerState]>,
) -> Result<Vec<f32>> {
    let StateSpace { kernel, inner, state, rank, groups } = m.sizes;
    let (inner, state, heads, groups) = (inner.len(), state.len(), rank.len(), groups.len().max(1));
    let tokens = site.tokens();
    let convolved = inner + 2 * groups * state;
    let all = part.linear_to("ssm_in", x, tokens, inner + convolved + heads)?;
    let row = inner + convolved + heads;
    let mixed = columns(&all, row, inner, convolved);
    let filter = part.values_of("ssm_conv1d.weight", convolved * kernel.len())?;
    let bias = part.values("ssm_conv1d.bias")?.filter(|b| b.len() == convolved);
    let mut u = causal_conv(site, &mixed, convolved, &filter, bias.as_deref(), states.as_deref_mut());
    ffn::activate(Activation::Silu, &mut u);
    let step_bias = part.values_of("ssm_dt.bias", heads)?;
    let decay = part.values_of("ssm_a", heads)?;
    let skip = part.values_of("ssm_d", heads)?;
    let steps: Vec<f32> = all
        .chunks(row)
        .flat_map(|row| row[inner + convolved..].iter().zip(&step_bias).map(|(dt, bias)| softplus(dt + bias)))
        .collect();
    let [input, b, c] = [(0, inner), (inner, groups * state), (inner + groups * state, groups * state)]
        .map(|(from, len)| columns(&u, convolved, from, len));
    let scan =
        Scan { heads, groups, state, inner, input: &input, steps: &steps, b: &b, c: &c, decay: &decay, skip: &skip };
    let mut out = scan.run(site, states);
    let gate = columns(&all, row, 0, inner);
    out.iter_mut().zip(&gate).for_each(|(o, &z)| *o *= z * ffn::sigmoid(z));
    if part.has("ssm_norm.weight") {
        let weight = part.values_of("ssm_norm.weight", inner)?;
        norm::normalize(NormKind::Rms(m.eps), &mut out, inner / groups, Some(&weight), None);
    }
    part.linear("ssm_out", &out)
}

/// A scan over the states of heads, whose inputs and what they are written and read with stand in rows of tokens.
pub(super) struct Scan<'a> {
    pub(super) heads: usize,
    /// Groups of heads with the same b and c.
    pub(super) groups: usize,
    /// Length of the state of a value.
    pub(super) state: usize,
    /// Length of all heads' inputs.
    pub(super) inner: usize,
    /// `[tokens, inner]`.
    pub(super) input: &'a [f32],
    /// Time steps, `[tokens, heads]`.
    pub(super) steps: &'a [f32],
    /// What the state is written with, `[tokens, groups · state]`.
    pub(super) b: &'a [f32],
    /// What it is read with.
    pub(super) c: &'a [f32],
    /// Of each head.
    pub(super) decay: &'a [f32],
    /// How much of its input a head lets through.
    pub(super) skip: &'a [f32],
}

impl Scan<'_> {
    /// What the heads give, `[tokens, inner]`.
    pub(super) fn run(&self, site: &Site<'_>, mut states: Option<&mut [LayerState]>) -> Vec<f32> {
        let Scan { heads, groups, state, inner, .. } = *self;
        let len = inner / heads.max(1);
        let mut out = vec![0.0; site.tokens() * inner];
        for (i, span) in site.spans.iter().enumerate() {
            let mut held = LayerState::take(states.as_deref_mut(), i, inner * state);
            let found: Vec<Vec<f32>> = held
                .par_chunks_mut(len * state)
                .enumerate()
                .map(|(h, held)| {
                    let group = h / (heads / groups).max(1);
                    let mut y = Vec::with_capacity(span.len * len);
                    for t in span.start..span.start + span.len {
                        let dt = self.steps[t * heads + h];
                        let keep = (dt * self.decay[h]).exp();
                        let b = &self.b[(t * groups + group) * state..][..state];
                        let c = &self.c[(t * groups + group) * state..][..state];
                        for (x, held) in self.input[t * inner + h * len..][..len].iter().zip(held.chunks_mut(state)) {
                            let mut sum = self.skip[h] * x;
                            for ((s, b), c) in held.iter_mut().zip(b).zip(c) {
                                *s = *s * keep + dt * b * x;
                                sum += *s * c;
                            }
                            y.push(sum);
                        }
                    }
                    y
                })
                .collect();
            rows_of_heads(&found, span, len, &mut out);
            LayerState::put(states.as_deref_mut(), i, held);
        }
        out
    }
}
