//! Latent attention (DeepSeek): keys and values are compressed to one vector a token.
//!
//! Where the decompression is stored for absorption, queries are brought into the space of the compressed vectors, so that
//! all heads share one key and one value, and the result is brought back. Where it is stored as one matrix, keys and
//! values are decompressed.

use gguf::Result;
use gguf::arch::{Dim, Latent, Need, Norm};

use super::attention::{Heads, apply_gate, keep, rotate, sinks, warm, with_state};
use super::sight::Sight;
use super::{LayerState, Part, Site};
use crate::model::RopeKey;
use crate::numeric::columns;

/// The compressed query behind its norm, where queries are compressed.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn compressed_query(l: &Latent, part: &Part<'_>, x: &[f32]) -> Result<Option<Vec<f32>>> {
    let compressed = if l.either_query { part.has("attn_q_a_norm.weight") } else { l.q_rank > 0 };
    if !compressed {
        return Ok(None);
    }
    let mut low = part.linear_to("attn_q_a", x, x.len() / l.input.len().max(1), l.q_rank.len())?;
    part.norm_in_place(&norm(l, "attn_q_a_norm", l.q_rank), &mut low)?;
    Ok(Some(low))
}

fn norm(l: &Latent, name: &'static str, len: Dim) -> Norm {
    Norm { name, kind: l.norm, len, bias: gguf::arch::Bias::Never, need: Need::Required, bare: false }
}

/// The mixer of a layer with latent attention, given its compressed query where it has one.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn latent_attention(
    l: &Latent,
    part: &Part<'_>,
    site: &Site<'_>,
    x: &[f32],
    low: Option<Vec<f32>>,
    state: Option<&mut [LayerState]>,
) -> Result<Vec<f32>> {
    let tokens = site.tokens();
    let (heads, rank, rotated) = (l.heads.len(), l.kv_rank.len(), l.rot.len());
    let (key_len, value_len) = (l.key_len.len(), l.value_len.len());
    let plain = key_len - rotated;
    let mut q = match low {
        Some(low) => part.linear_to("attn_q_b", &low, tokens, heads * key_len)?,
        None => part.linear_to("attn_q", x, tokens, heads * key_len)?,
    };
    let both = part.linear_to("attn_kv_a_mqa", x, tokens, rank + rotated)?;
    let mut compressed = columns(&both, rank + rotated, 0, rank);
    part.norm_in_place(&norm(l, "attn_kv_a_norm", l.kv_rank), &mut compressed)?;
    let mut turned = columns(&both, rank + rotated, rank, rotated);
    if l.rotated_norm {
        part.norm_in_place(&norm(l, "attn_k_norm", l.rot), &mut turned)?;
    }
    if let Some(table) = site.tables.get(RopeKey::of_latent(l)) {
        rotate(table, site.spans, &mut q, heads, key_len, plain);
        rotate(table, site.spans, &mut turned, 1, rotated, 0);
    }
    if let Some(temperature) = l.temperature {
        warm(temperature, site.spans, &mut q, heads * key_len);
    }
    let sinks = sinks(l.sinks, heads, part)?;
    let spec = |kv_heads: usize, key_len: usize, value_len: usize| Heads {
        heads,
        kv_heads,
        key_len,
        value_len,
        scale: l.scale,
        cap: None,
        sight: Sight::new(l.window, true),
        slopes: None,
        sinks: sinks.clone(),
        buckets: None,
    };
    if part.has("attn_kv_b.weight") {
        let wide = part.linear_to("attn_kv_b", &compressed, tokens, heads * (plain + value_len))?;
        let mut k = Vec::with_capacity(tokens * heads * key_len);
        for (t, row) in wide.chunks(heads * (plain + value_len)).enumerate() {
            let turned = &turned[t * rotated..(t + 1) * rotated];
            for head in row.chunks(plain + value_len) {
                k.extend_from_slice(&head[..plain]);
                k.extend_from_slice(turned);
            }
        }
        let mut v = columns(&wide, plain + value_len, plain, value_len);
        keep(part.arithmetic(), [&mut k, &mut v]);
        let steps = (heads * key_len, heads * value_len);
        let mut out = with_state(&spec(heads, key_len, value_len), site, &q, k, v, state, steps, None);
        apply_gate(l.gate, (heads, value_len), part, x, &[], &mut out)?;
        return part.linear("attn_output", &out);
    }
    // The key of a token is its compressed vector and the part that rotates; its value is the compressed vector.
    let shared = rank + rotated;
    let mut k = Vec::with_capacity(tokens * shared);
    for (t, c) in compressed.chunks(rank).enumerate() {
        k.extend_from_slice(c);
        k.extend_from_slice(&turned[t * rotated..(t + 1) * rotated]);
    }
    keep(part.arithmetic(), [&mut k, &mut []]);
    let of_head = |x: &[f32], width: usize, from: usize, len: usize| columns(x, width, from, len);
    let mut wide = vec![0.0; tokens * heads * shared];
    for h in 0..heads {
        let absorbed = part.expert("attn_k_b", h, heads, &of_head(&q, heads * key_len, h * key_len, plain))?;
        let turned = of_head(&q, heads * key_len, h * key_len + plain, rotated);
        for (t, row) in wide.chunks_mut(heads * shared).enumerate() {
            let row = &mut row[h * shared..][..shared];
            row[..rank].copy_from_slice(&absorbed[t * rank..(t + 1) * rank]);
            row[rank..].copy_from_slice(&turned[t * rotated..(t + 1) * rotated]);
        }
    }
    let found = with_state(&spec(1, shared, rank), site, &wide, k, Vec::new(), state, (shared, shared), None);
    let mut out = vec![0.0; tokens * heads * value_len];
    for h in 0..heads {
        let value = part.expert("attn_v_b", h, heads, &of_head(&found, heads * rank, h * rank, rank))?;
        for (row, v) in out.chunks_mut(heads * value_len).zip(value.chunks(value_len)) {
            row[h * value_len..][..value_len].copy_from_slice(v);
        }
    }
    apply_gate(l.gate, (heads, value_len), part, x, &[], &mut out)?;
    part.linear("attn_output", &out)
}
