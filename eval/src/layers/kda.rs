//! Kimi delta attention: a delta rule whose state forgets channel by channel.

use gguf::Result;
use gguf::arch::{Activation, Decay, Kda, KdaInputs, NormKind};
use rayon::prelude::*;

use super::conv::causal_conv;
use super::delta::{Rule, rows_of_heads, to_length};
use super::{LayerState, Part, Site, ffn, norm};
use crate::numeric::softplus;

/// The mixer of a layer with Kimi delta attention.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn kda(
    n: &Kda,
    part: &Part<'_>,
    site: &Site<'_>,
    x: &[f32],
    mut states: Option<&mut [LayerState]>,
) -> Result<Vec<f32>> {
    let (heads, len) = (n.heads.len(), n.head.len());
    let inner = heads * len;
    let tokens = site.tokens();
    let mixed = projections(part, x, tokens, inner)?;
    let mut filter = Vec::with_capacity(3 * inner * n.kernel.len());
    for name in ["q", "k", "v"] {
        filter.extend(part.values_of(&format!("ssm_conv1d_{name}.weight"), inner * n.kernel.len())?);
    }
    let mut u = causal_conv(site, &mixed, 3 * inner, &filter, None, states.as_deref_mut());
    ffn::activate(Activation::Silu, &mut u);
    for row in u.chunks_mut(3 * inner) {
        let (queries, rest) = row.split_at_mut(inner);
        queries.chunks_mut(len).for_each(|q| to_length(q, 1.0 / (len as f64).sqrt()));
        rest[..inner].chunks_mut(len).for_each(|k| to_length(k, 1.0));
    }
    let low_rank = |name: &str| -> Result<Vec<f32>> {
        let low = part.linear_to(&format!("{name}_a"), x, tokens, len)?;
        part.linear_to(&format!("{name}_b"), &low, tokens, inner)
    };
    let mut decay = match n.projected {
        KdaInputs::Whole => part.linear_to("ssm_f_a", x, tokens, inner)?,
        _ => low_rank("ssm_f")?,
    };
    let gate = match n.projected {
        KdaInputs::LowRank => low_rank("ssm_g")?,
        KdaInputs::WholeGate => part.linear_to("ssm_g", x, tokens, inner)?,
        KdaInputs::Whole => part.linear_to("ssm_g_a", x, tokens, inner)?,
    };
    let rates = part.values_of("ssm_a", heads)?;
    let step_bias = part.values_of("ssm_dt.bias", inner)?;
    decay.par_chunks_mut(inner).for_each(|row| {
        for (c, f) in row.iter_mut().enumerate() {
            let step = *f + step_bias[c];
            let lost = match n.decay {
                Decay::Softplus => rates[c / len] * softplus(step),
                Decay::Bounded { bound, sign } => bound * ffn::sigmoid(sign * rates[c / len] * step),
            };
            *f = lost.exp();
        }
    });
    let beta = part.linear_to("ssm_beta", x, tokens, heads)?;
    let mut out = vec![0.0; tokens * inner];
    for (i, span) in site.spans.iter().enumerate() {
        let mut held = LayerState::take(states.as_deref_mut(), i, inner * len);
        let found: Vec<Vec<f32>> = held
            .par_chunks_mut(len * len)
            .enumerate()
            .map(|(h, held)| {
                let mut rule = Rule::new(held, len);
                let mut y = Vec::with_capacity(span.len * len);
                for t in span.start..span.start + span.len {
                    let [q, k, v] = [0, 1, 2].map(|part| &u[(3 * t + part) * inner + h * len..][..len]);
                    let keep = &decay[t * inner + h * len..][..len];
                    rule.learn(q, k, v, keep.iter().copied(), ffn::sigmoid(beta[t * heads + h]), &mut y);
                }
                y
            })
            .collect();
        rows_of_heads(&found, span, len, &mut out);
        LayerState::put(states.as_deref_mut(), i, held);
    }
    let weight = part.values_of("ssm_norm.weight", len)?;
    norm::normalize(NormKind::Rms(n.eps), &mut out, len, Some(&weight), None);
    out.iter_mut().zip(&gate).for_each(|(o, &z)| *o *= ffn::sigmoid(z));
    part.linear("attn_output", &out)
}

/// Queries, keys and values of all tokens, in one row each.
fn projections(part: &Part<'_>, x: &[f32], tokens: usize, inner: usize) -> Result<Vec<f32>> {
    if part.has("attn_qkv.weight") {
        return part.linear_to("attn_qkv", x, tokens, 3 * inner);
    }
    let three = ["attn_q", "attn_k", "attn_v"].map(|name| part.linear_to(name, x, tokens, inner));
    let [q, k, v] = three;
    let (q, k, v) = (q?, k?, v?);
    let rows = q.chunks(inner).zip(k.chunks(inner)).zip(v.chunks(inner));
    Ok(rows.flat_map(|((q, k), v)| [q, k, v].concat()).collect())
}
