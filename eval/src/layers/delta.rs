//! Gated delta nets (Qwen3-Next): linear attention whose state forgets by a gate and corrects what it holds for a key.

use gguf::arch::{Activation, DeltaInputs, DeltaNet, NormKind, StateSpace};
use gguf::{Error, Result};
use rayon::prelude::*;

use super::attention::columns;
use super::conv::causal_conv;
use super::mamba::softplus;
use super::{LayerState, Part, Site, ffn, norm};

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
        let mut held = match states.as_deref_mut() {
            Some(states) if !states[i].state.is_empty() => std::mem::take(&mut states[i].state),
            _ => vec![0.0; values * len * len],
        };
        let found: Vec<Vec<f32>> = held
            .par_chunks_mut(len * len)
            .enumerate()
            .map(|(h, held)| {
                // Value heads of a key head follow each other, or take turns where the file was made so.
                let key = match n.inputs {
                    DeltaInputs::Interleaved => h / each.max(1),
                    DeltaInputs::Apart => h % keys,
                };
                let mut y = Vec::with_capacity(span.len * len);
                let mut known = vec![0.0_f32; len];
                for t in span.start..span.start + span.len {
                    let row = &u[t * channels..(t + 1) * channels];
                    let (q, k) = (&row[key * len..][..len], &row[(keys + key) * len..][..len]);
                    let v = &row[(2 * keys + h) * len..][..len];
                    let keep = (decay[h] * softplus(alpha[t * values + h] + step_bias[h])).exp();
                    let correct = ffn::sigmoid(beta[t * values + h]);
                    // held[a, b]: what key dimension a says of value dimension b.
                    known.fill(0.0);
                    for (held, &k) in held.chunks_mut(len).zip(k) {
                        for (h, known) in held.iter_mut().zip(&mut known) {
                            *h *= keep;
                            *known += *h * k;
                        }
                    }
                    let at = y.len();
                    y.resize(at + len, 0.0);
                    for (known, v) in known.iter_mut().zip(v) {
                        *known = (v - *known) * correct;
                    }
                    for ((held, &k), &q) in held.chunks_mut(len).zip(k).zip(q) {
                        for ((h, d), y) in held.iter_mut().zip(&known).zip(&mut y[at..]) {
                            *h += k * d;
                            *y += *h * q;
                        }
                    }
                }
                y
            })
            .collect();
        for (h, y) in found.iter().enumerate() {
            for (t, y) in y.chunks(len).enumerate() {
                out[((span.start + t) * values + h) * len..][..len].copy_from_slice(y);
            }
        }
        if let Some(states) = states.as_deref_mut() {
            states[i].state = held;
        }
    }
    let weight = part.values_of("ssm_norm.weight", len)?;
    norm::normalize(NormKind::Rms(n.eps), &mut out, len, Some(&weight), None);
    out.iter_mut().zip(&gate).for_each(|(o, &z)| *o *= z * ffn::sigmoid(z));
    part.linear("ssm_out", &out)
}

/// Brings a vector to this length.
fn to_length(x: &mut [f32], length: f64) {
    let squares: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    let scale = (length / (squares + LENGTH_EPSILON).sqrt()) as f32;
    x.iter_mut().for_each(|v| *v *= scale);
}
