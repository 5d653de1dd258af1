//! Attention to the tokens that an indexer chooses: small heads score each earlier token, or pools of tokens that follow
//! each other, and the best are attended to. Later layers without an indexer take what the last one chose.

use gguf::Result;
use gguf::arch::{IndexForm, Indexer, Need, NormKind, Over, Pool, Sparse};
use rayon::prelude::*;

use super::attention::{Chosen, attention, rotate};
use super::latent::{compressed_query, latent_attention};
use super::moe::largest;
use super::{LayerState, Part, Site, Span, copied, norm};
use crate::device::Values;
use crate::matmul::{Accumulation, View, dense};
use crate::model::RopeKey;
use crate::numeric::soft_mean;

/// The mixer of a layer with sparse attention.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn sparse_attention(
    s: &Sparse,
    part: &Part<'_>,
    site: &Site<'_>,
    x: &[f32],
    mut states: Option<&mut [LayerState]>,
) -> Result<Vec<f32>> {
    let low = match &s.over {
        Over::Latent(l) => compressed_query(l, part, x)?,
        Over::Heads(_) => None,
    };
    if let Some(indexer) = &s.indexer {
        let there = indexer.need == Need::Required || part.has(key_name(indexer));
        let chosen = match there {
            true => choose(indexer, s, part, site, (x, low.as_deref()), states.as_deref_mut())?,
            false => Chosen::default(),
        };
        *site.kept.chosen.borrow_mut() = chosen;
    }
    let chosen = site.kept.chosen.borrow();
    let site = &Site { chosen: (!chosen.seen.is_empty()).then_some(&*chosen), ..*site };
    match &s.over {
        Over::Latent(l) => latent_attention(l, part, site, x, low, states),
        Over::Heads(a) => attention(a, part, site, &copied(x).into(), states).map(Values::into_vec),
    }
}

/// The matrix of the keys.
fn key_name(indexer: &Indexer) -> &'static str {
    match indexer.form {
        IndexForm::Compressed { .. } => "indexer.attn_k.weight",
        IndexForm::Plain { .. } => "indexer.k_proj.weight",
    }
}

/// Dimensions of a head that rotate.
fn rotated(s: &Sparse) -> usize {
    match &s.over {
        Over::Latent(l) => l.rot.len(),
        Over::Heads(a) => a.rot.len(),
    }
}

/// Scores of the keys that all queries see.
pub(super) struct Scored<'a> {
    /// `[tokens, heads · len]`.
    pub(super) queries: &'a [f32],
    /// Factors of heads, `[tokens, heads]`, where there are any.
    pub(super) weights: Option<&'a [f32]>,
    pub(super) keys: &'a [f32],
    pub(super) heads: usize,
    /// Length of a head.
    pub(super) len: usize,
}

fn choose(
    n: &Indexer,
    s: &Sparse,
    part: &Part<'_>,
    site: &Site<'_>,
    (x, low): (&[f32], Option<&[f32]>),
    mut states: Option<&mut [LayerState]>,
) -> Result<Chosen> {
    let (heads, len) = (n.heads.len(), n.len.len());
    let tokens = site.tokens();
    let table = site.tables.get(RopeKey::of_indexer(s));
    let normalize = |x: &mut [f32], name: &str, kind: NormKind| -> Result<()> {
        let weight = part.values_of(&format!("indexer.{name}_norm.weight"), len)?;
        let bias = part.values(&format!("indexer.{name}_norm.bias"))?.filter(|b| b.len() == len);
        norm::normalize(kind, x, len, Some(&weight), bias.as_deref());
        Ok(())
    };
    let (mut q, mut k, weights, kind) = match n.form {
        IndexForm::Compressed { .. } => {
            let q = part.linear_to("indexer.attn_q_b", low.unwrap_or(x), tokens, heads * len)?;
            let k = part.linear_to("indexer.attn_k", x, tokens, len)?;
            (q, k, Some(part.linear_to("indexer.proj", x, tokens, heads)?), NormKind::Layer(n.eps))
        }
        IndexForm::Plain { .. } => {
            let mut q = part.linear_to("indexer.q_proj", x, tokens, heads * len)?;
            let kind = NormKind::Rms(n.eps);
            normalize(&mut q, "q", kind)?;
            (q, part.linear_to("indexer.k_proj", x, tokens, len)?, None, kind)
        }
    };
    // Averages of keys are normalized and rotated, single keys before.
    let averaged = matches!(n.pool, Pool::Mean { .. });
    if !averaged {
        normalize(&mut k, "k", kind)?;
    }
    // Where rotation begins in a head.
    let from = if n.rotates_last { len - rotated(s).min(len) } else { 0 };
    if let Some(table) = table {
        rotate(table, site.spans, &mut q, heads, len, from);
        if !averaged {
            rotate(table, site.spans, &mut k, 1, len, from);
        }
    }
    // With each key goes its score within a pool.
    let (mut kept, mut width) = (k, len);
    let mut places = Vec::new();
    if let Pool::Gated { len: pool, .. } = n.pool {
        let gate = part.linear_to("indexer_compressor_gate", x, tokens, len)?;
        places = part.values_of("indexer_compressor_ape.weight", pool.len() * len)?;
        kept = kept.chunks(len).zip(gate.chunks(len)).flat_map(|(k, g)| k.iter().chain(g)).copied().collect();
        width = 2 * len;
    }
    // Where blocks are ranked by their best token, each head chooses for a group of attention's heads.
    let groups = if matches!(n.pool, Pool::Best { .. }) { heads } else { 1 };
    let mut seen = Vec::with_capacity(tokens * groups);
    for (i, span) in site.spans.iter().enumerate() {
        let own = &kept[span.start * width..(span.start + span.len) * width];
        let all: &[f32] = match states.as_deref_mut() {
            Some(states) => {
                states[i].index_keys.extend_from_slice(own);
                &states[i].index_keys
            }
            None => own,
        };
        let rows = |x: &'_ [f32], step: usize| x[span.start * step..(span.start + span.len) * step].to_vec();
        let queries = rows(&q, heads * len);
        let weights = weights.as_deref().map(|w| rows(w, heads));
        let keys = match n.pool {
            Pool::None | Pool::Best { .. } => copied(all),
            Pool::Gated { len: pool, .. } => {
                all.chunks_exact(pool.len() * width).flat_map(|pool| gated_mean(pool, &places, len)).collect()
            }
            Pool::Mean { len: pool } => {
                let pool = pool.len();
                let mean = |rows: &[f32]| -> Vec<f32> {
                    (0..len).map(|c| rows.iter().skip(c).step_by(len).sum::<f32>() / pool as f32).collect()
                };
                let mut keys: Vec<f32> = all.chunks_exact(pool * len).flat_map(mean).collect();
                normalize(&mut keys, "k", kind)?;
                if let Some(table) = table {
                    keys.chunks_mut(len).enumerate().for_each(|(p, key)| table.rotate(&mut key[from..], p * pool));
                }
                keys
            }
        };
        let scored = Scored { queries: &queries, weights: weights.as_deref(), keys: &keys, heads, len };
        seen.extend(choose_of(n, span, &scored, groups));
    }
    Ok(Chosen { groups, seen })
}

/// The key of a pool: the mean of its keys, weighted channel by channel by the softmax of their gates plus `places`.
fn gated_mean(pool: &[f32], places: &[f32], len: usize) -> Vec<f32> {
    (0..len)
        .map(|c| {
            let rows = pool.chunks(2 * len).zip(places.chunks(len));
            soft_mean(&rows.map(|(row, place)| (row[len + c] + place[c], row[c])).collect::<Vec<_>>())
        })
        .collect()
}

/// What the tokens of a sequence see.
fn choose_of(n: &Indexer, span: &Span, scored: &Scored<'_>, groups: usize) -> Vec<Vec<usize>> {
    (0..span.len)
        .into_par_iter()
        .flat_map_iter(|t| (0..groups).map(move |g| (t, g)))
        .map(|(t, g)| {
            let position = span.past + t;
            let g = (groups > 1).then_some(g);
            let best = n.best.len();
            match n.pool {
                Pool::None => {
                    if position < best {
                        return Vec::new();
                    }
                    let mut seen = largest(&scores(scored, t, g, position + 1), best);
                    seen.sort_unstable();
                    seen
                }
                Pool::Gated { len, .. } | Pool::Mean { len } => {
                    let len = len.len().max(1);
                    let pools = (position + 1) / len;
                    let mut chosen = largest(&scores(scored, t, g, pools), best / len);
                    chosen.sort_unstable();
                    let mut seen: Vec<usize> = chosen.into_iter().flat_map(|p| p * len..(p + 1) * len).collect();
                    if !matches!(n.pool, Pool::Gated { tail: false, .. }) {
                        seen.extend(pools * len..=position);
                    }
                    seen
                }
                Pool::Best { len, local } => {
                    let len = len.len().max(1);
                    let scores = scores(scored, t, g, position + 1);
                    let mut blocks: Vec<f32> = scores
                        .chunks(len)
                        .map(|block| block.iter().copied().fold(f32::NEG_INFINITY, f32::max))
                        .collect();
                    blocks.iter_mut().rev().take(local.len()).for_each(|block| *block = f32::INFINITY);
                    let mut chosen = largest(&blocks, best);
                    chosen.sort_unstable();
                    chosen.into_iter().flat_map(|b| b * len..((b + 1) * len).min(position + 1)).collect()
                }
            }
        })
        .collect()
}

/// Scores of the first `keys` keys for a token: of all heads together, or of one where heads choose apart.
pub(super) fn scores(s: &Scored<'_>, token: usize, group: Option<usize>, keys: usize) -> Vec<f32> {
    let query = &s.queries[token * s.heads * s.len..][..s.heads * s.len];
    let of_head = |h: usize| {
        let mut found = vec![0.0; keys];
        let (query, keys_) = (View::new(&query[h * s.len..], s.len, 1), View::new(s.keys, 1, s.len));
        if keys > 0 {
            dense(1, keys, s.len, 1.0, query, keys_, Accumulation::Store, &mut found, keys);
        }
        found
    };
    if let Some(head) = group {
        return of_head(head);
    }
    let mut sum = vec![0.0; keys];
    for h in 0..s.heads {
        let weight = s.weights.map_or(1.0, |w| w[token * s.heads + h]);
        sum.iter_mut().zip(of_head(h)).for_each(|(sum, score)| *sum += weight * score.max(0.0));
    }
    sum
}
