//! Gated delta nets (Qwen3-Next): linear attention whose state forgets by a gate and corrects what it holds for a key.

use gguf::arch::{Activation, DeltaInputs, DeltaNet, NormKind, StateSpace};
use gguf::{Error, Result};
use rayon::prelude::*;

use super::conv::causal_conv;
use super::{LayerState, Part, Site, Span, ffn, norm};
use crate::numeric::{columns, softplus};

/// Added under the root where queries and keys are brought to length one.
const LENGTH_EPSILON: f64 = 1e-6;

/// The mixer of a layer with a gated delta net.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn delta_net(
    n: &DeltaNet,
    part: &Part<'_>,
    site: &Site<'_>,
    x: &[f32],
    mut states: Option<&mut [LayerState]>,
) -> Result<Vec<f32>> {
    let StateSpace { kernel, state, rank, groups, .. } = n.sizes;
    let (len, values, keys) = (state.len(), rank.len(), groups.len().max(1));
    let tokens = site.tokens();
    let channels = (2 * keys + values) * len;
    if part.has("ssm_in.weight") {
        return Err(Error::input(
            "queries, keys, values and gate of a delta net are in one ssm_in tensor, as in files of its first days",
        )
        .help("convert the checkpoint again"));
    }
    let mixed = part.linear_to("attn_qkv", x, tokens, channels)?;
    let gate = part.linear_to("attn_gate", x, tokens, values * len)?;
    let each = values / keys;
    // Beta says how much is corrected, alpha how much is forgotten.
    let (beta, alpha) = match n.inputs {
        DeltaInputs::Interleaved => {
            let both = part.linear_to("ssm_ba", x, tokens, 2 * values)?;
            (columns(&both, 2 * each, 0, each), columns(&both, 2 * each, each, each))
        }
        DeltaInputs::Apart => {
            (part.linear_to("ssm_beta", x, tokens, values)?, part.linear_to("ssm_alpha", x, tokens, values)?)
        }
    };
    let filter = part.values_of("ssm_conv1d.weight", channels * kernel.len())?;
    let mut u = causal_conv(site, &mixed, channels, &filter, None, states.as_deref_mut());
    ffn::activate(Activation::Silu, &mut u);
    let step_bias = part.values_of("ssm_dt.bias", values)?;
    let decay = part.values_of("ssm_a", values)?;
    for row in u.chunks_mut(channels) {
        let (queries, rest) = row.split_at_mut(keys * len);
        queries.chunks_mut(len).for_each(|q| to_length(q, 1.0 / (len as f64).sqrt()));
        rest[..keys * len].chunks_mut(len).for_each(|k| to_length(k, 1.0));
    }
    let mut out = vec![0.0; tokens * values * len];
    for (i, span) in site.spans.iter().enumerate() {
        let mut held = LayerState::take(states.as_deref_mut(), i, values * len * len);
        let found: Vec<Vec<f32>> = held
            .par_chunks_mut(len * len)
            .enumerate()
            .map(|(h, held)| {
                // Value heads of a key head follow each other, or take turns where the file was made so.
                let key = match n.inputs {
                    DeltaInputs::Interleaved => h / each.max(1),
                    DeltaInputs::Apart => h % keys,
                };
                let mut rule = Rule::new(held, len);
                let mut y = Vec::with_capacity(span.len * len);
                for t in span.start..span.start + span.len {
                    let row = &u[t * channels..(t + 1) * channels];
                    let (q, k) = (&row[key * len..][..len], &row[(keys + key) * len..][..len]);
                    let v = &row[(2 * keys + h) * len..][..len];
                    let keep = (decay[h] * softplus(alpha[t * values + h] + step_bias[h])).exp();
                    let correct = ffn::sigmoid(beta[t * values + h]);
                    rule.learn(q, k, v, std::iter::repeat(keep), correct, &mut y);
                }
                y
            })
            .collect();
        rows_of_heads(&found, span, len, &mut out);
        LayerState::put(states.as_deref_mut(), i, held);
    }
    let weight = part.values_of("ssm_norm.weight", len)?;
    norm::normalize(NormKind::Rms(n.eps), &mut out, len, Some(&weight), None);
    out.iter_mut().zip(&gate).for_each(|(o, &z)| *o *= z * ffn::sigmoid(z));
    part.linear("ssm_out", &out)
}

/// The state of a head under the delta rule: what each dimension of a key says of each dimension of a value, row by row.
pub(super) struct Rule<'a> {
    held: &'a mut [f32],
    known: Vec<f32>,
}

impl<'a> Rule<'a> {
    /// The rule over this state of values of `len`.
    pub(super) fn new(held: &'a mut [f32], len: usize) -> Rule<'a> {
        Rule { held, known: vec![0.0; len] }
    }

    /// Forgets to `keep`, a factor a dimension of the key, moves what is known of `k` towards `v` at the rate `correct`,
    /// and appends what is known of `q` to `y`.
    pub(super) fn learn(
        &mut self,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        keep: impl Iterator<Item = f32>,
        correct: f32,
        y: &mut Vec<f32>,
    ) {
        let len = self.known.len();
        self.known.fill(0.0);
        for ((held, &k), keep) in self.held.chunks_mut(len).zip(k).zip(keep) {
            for (h, known) in held.iter_mut().zip(&mut self.known) {
                *h *= keep;
                *known += *h * k;
            }
        }
        for (known, v) in self.known.iter_mut().zip(v) {
            *known = (v - *known) * correct;
        }
        let at = y.len();
        y.resize(at + len, 0.0);
        for ((held, &k), &q) in self.held.chunks_mut(len).zip(k).zip(q) {
            for ((h, d), y) in held.iter_mut().zip(&self.known).zip(&mut y[at..]) {
                *h += k * d;
                *y += *h * q;
            }
        }
    }
}

/// Puts what each head made of a sequence, `[tokens, len]`, side by side into the rows of its tokens.
pub(super) fn rows_of_heads(found: &[Vec<f32>], span: &Span, len: usize, out: &mut [f32]) {
    let heads = found.len();
    for (h, y) in found.iter().enumerate() {
        for (t, y) in y.chunks(len).enumerate() {
            out[((span.start + t) * heads + h) * len..][..len].copy_from_slice(y);
        }
    }
}

/// Brings a vector to this length.
pub(super) fn to_length(x: &mut [f32], length: f64) {
    let squares: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    let scale = (length / (squares + LENGTH_EPSILON).sqrt()) as f32;
    x.iter_mut().for_each(|v| *v *= scale);
}
