//! Attention over keys that are compressed in time (DeepSeek 4): beside a window of single keys, a token sees what spans of
//! earlier tokens were compressed to. Keys serve as values.

use gguf::Result;
use gguf::arch::{Compressed, NormKind};

use super::attention::{Chosen, Heads, attend_chosen, rotate};
use super::moe::largest;
use super::rope::Table;
use super::sight::Sight;
use super::sparse::{Scored, scores};
use super::{LayerState, Part, Site, norm};
use crate::model::RopeKey;
use crate::numeric::{columns, soft_mean};

/// The mixer of a layer with compressed attention.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn compressed_attention(
    c: &Compressed,
    part: &Part<'_>,
    site: &Site<'_>,
    x: &[f32],
    mut states: Option<&mut [LayerState]>,
) -> Result<Vec<f32>> {
    let (heads, head, tokens) = (c.heads.len(), c.head.len(), site.tokens());
    let (index_heads, index_len) = (c.indexer.heads.len(), c.indexer.len.len());
    let kind = NormKind::Rms(c.eps);
    let table = site.tables.get(RopeKey::of_compressed(c));
    // The last dimensions of a head rotate.
    let from = |len: usize| len - c.rot.len().min(len);
    let turn = |x: &mut [f32], heads: usize, len: usize| {
        if let Some(table) = table {
            rotate(table, site.spans, x, heads, len, from(len));
        }
    };
    let mut low = part.linear_to("attn_q_a", x, tokens, c.q_rank.len())?;
    let weight = part.values_of("attn_q_a_norm.weight", c.q_rank.len())?;
    norm::normalize(kind, &mut low, c.q_rank.len(), Some(&weight), None);
    let mut q = part.linear_to("attn_q_b", &low, tokens, heads * head)?;
    norm::normalize(kind, &mut q, head, None, None);
    turn(&mut q, heads, head);
    let mut k = part.linear_to("attn_kv", x, tokens, head)?;
    norm::normalize(kind, &mut k, head, Some(&part.values_of("attn_kv_a_norm.weight", head)?), None);
    turn(&mut k, 1, head);
    let spans = match c.ratio.len() {
        0 => None,
        _ => Some(Compressor::load(c, part, site, x, "attn_compressor", head)?),
    };
    let index = match c.overlaps() {
        true => {
            let mut q = part.linear_to("indexer.attn_q_b", &low, tokens, index_heads * index_len)?;
            turn(&mut q, index_heads, index_len);
            let weights = part.linear_to("indexer.proj", x, tokens, index_heads)?;
            Some((Compressor::load(c, part, site, x, "indexer_compressor", index_len)?, q, weights))
        }
        false => None,
    };
    let spec = Heads {
        heads,
        kv_heads: 1,
        key_len: head,
        value_len: head,
        scale: 1.0 / (head as f32).sqrt(),
        cap: None,
        sight: Sight::all(),
        slopes: None,
        sinks: Some(part.values_of("attn_sinks.weight", heads)?),
        buckets: None,
    };
    let mut out = Vec::with_capacity(q.len());
    for (i, span) in site.spans.iter().enumerate() {
        let mut state = states.as_deref_mut().map(|states| &mut states[i]);
        let rows = |x: &[f32], width: usize| x[span.start * width..(span.start + span.len) * width].to_vec();
        let mut keys = grown(state.as_deref_mut().map(|s| &mut s.keys), rows(&k, head));
        let mut seen: Vec<Vec<usize>> = (span.past..span.past + span.len)
            .map(|p| ((p + 1).saturating_sub(c.window.len().max(1))..=p).collect())
            .collect();
        if let Some(spans) = &spans {
            let single = keys.len() / head;
            let all = grown(state.as_deref_mut().map(|s| &mut s.values), rows(&spans.rows, spans.width()));
            keys.extend(spans.compress(&all, table, from(head)));
            // Spans that are over are seen: all, or those that the indexer ranks best.
            let ranked = index.as_ref().map(|(spans, q, weights)| {
                let all = grown(state.map(|s| &mut s.index_keys), rows(&spans.rows, spans.width()));
                let keys = spans.compress(&all, table, from(index_len));
                (keys, rows(q, index_heads * index_len), rows(weights, index_heads))
            });
            for (t, seen) in seen.iter_mut().enumerate() {
                let over = (span.past + t + 1) / c.ratio.len();
                let mut chosen: Vec<usize> = match &ranked {
                    Some((keys, queries, weights)) => {
                        let (heads, len) = (index_heads, index_len);
                        let scored = Scored { queries, weights: Some(weights), keys, heads, len };
                        largest(&scores(&scored, t, None, over), c.indexer.best.len())
                    }
                    None => (0..over).collect(),
                };
                chosen.sort_unstable();
                seen.extend(chosen.into_iter().map(|s| single + s));
            }
        }
        out.extend(attend_chosen(&spec, &rows(&q, heads * head), &keys, &Chosen { groups: 1, seen }));
    }
    // Values rotated as keys do: what a token gets is turned back.
    if let Some(table) = table {
        for span in site.spans {
            let rows = &mut out[span.start * heads * head..(span.start + span.len) * heads * head];
            for (at, value) in rows.chunks_mut(head).enumerate() {
                table.rotate_back(&mut value[from(head)..], span.past + at / heads);
            }
        }
    }
    let (groups, rank) = (c.groups.len().max(1), c.out_rank.len());
    let wide = heads * head / groups;
    let mut low = vec![0.0; tokens * groups * rank];
    for g in 0..groups {
        let made = part.expert("attn_output_a", g, groups, &columns(&out, heads * head, g * wide, wide))?;
        for (row, made) in low.chunks_mut(groups * rank).zip(made.chunks(rank)) {
            row[g * rank..(g + 1) * rank].copy_from_slice(made);
        }
    }
    part.linear("attn_output_b", &low)
}

/// These rows, behind those that are kept where some are; what is kept grows by them.
fn grown(kept: Option<&mut Vec<f32>>, rows: Vec<f32>) -> Vec<f32> {
    match kept {
        Some(kept) => {
            kept.extend(rows);
            kept.clone()
        }
        None => rows,
    }
}

/// What compresses spans of tokens to a key each.
struct Compressor {
    /// Of each token: its keys, and their scores within a span.
    rows: Vec<f32>,
    /// What is added to scores, by the place in a span.
    places: Vec<f32>,
    norm: Vec<f32>,
    kind: NormKind,
    ratio: usize,
    len: usize,
    /// A span takes the first half of the span before, and the second half of its own keys.
    overlaps: bool,
}

impl Compressor {
    fn load(c: &Compressed, part: &Part<'_>, site: &Site<'_>, x: &[f32], name: &str, len: usize) -> Result<Compressor> {
        let (ratio, overlaps) = (c.ratio.len(), c.overlaps());
        let wide = if overlaps { 2 * len } else { len };
        let keys = part.linear_to(&format!("{name}_kv"), x, site.tokens(), wide)?;
        let gates = part.linear_to(&format!("{name}_gate"), x, site.tokens(), wide)?;
        Ok(Compressor {
            rows: keys.chunks(wide).zip(gates.chunks(wide)).flat_map(|(k, g)| k.iter().chain(g)).copied().collect(),
            places: part.values_of(&format!("{name}_ape.weight"), wide * ratio)?,
            norm: part.values_of(&format!("{name}_norm.weight"), len)?,
            kind: NormKind::Rms(c.eps),
            ratio,
            len,
            overlaps,
        })
    }

    /// Values of a token.
    fn width(&self) -> usize {
        if self.overlaps { 4 * self.len } else { 2 * self.len }
    }

    /// The keys of all spans that are complete, rotated as their first tokens.
    fn compress(&self, rows: &[f32], table: Option<&Table>, from: usize) -> Vec<f32> {
        let (len, ratio, width) = (self.len, self.ratio, self.width());
        let spans: Vec<&[f32]> = rows.chunks_exact(ratio * width).collect();
        let mut keys = Vec::with_capacity(spans.len() * len);
        // Scores and values of a channel of all tokens of a span.
        let of = |span: &[f32], channel: usize| -> Vec<(f32, f32)> {
            let places = self.places.chunks(width / 2);
            let rows = span.chunks(width).zip(places);
            rows.map(|(row, place)| (row[width / 2 + channel] + place[channel], row[channel])).collect()
        };
        for (s, span) in spans.iter().enumerate() {
            for channel in 0..len {
                let mut all = if self.overlaps { of(span, len + channel) } else { of(span, channel) };
                if let (true, Some(before)) = (self.overlaps, s.checked_sub(1).map(|s| spans[s])) {
                    all.extend(of(before, channel));
                }
                keys.push(soft_mean(&all));
            }
        }
        norm::normalize(self.kind, &mut keys, len, Some(&self.norm), None);
        if let Some(table) = table {
            keys.chunks_mut(len).enumerate().for_each(|(s, key)| table.rotate(&mut key[from..], s * ratio));
        }
        keys
    }
}
