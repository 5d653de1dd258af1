//! Lightning attention (MiniMax-01): linear attention with a fixed decay of each head.

use gguf::Result;
use gguf::arch::{Activation, Lightning, NormKind};
use rayon::prelude::*;

use super::delta::rows_of_heads;
use super::{LayerState, Part, Site, ffn, norm};

/// The mixer of a layer with lightning attention.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn lightning(
    l: &Lightning,
    part: &Part<'_>,
    site: &Site<'_>,
    x: &[f32],
    mut states: Option<&mut [LayerState]>,
) -> Result<Vec<f32>> {
    let (heads, len) = (l.heads.len(), l.head.len());
    let inner = heads * len;
    let tokens = site.tokens();
    let mut qkv = part.linear_to("attn_qkv", x, tokens, 3 * inner)?;
    ffn::activate(Activation::Silu, &mut qkv);
    let mut out = vec![0.0; tokens * inner];
    for (i, span) in site.spans.iter().enumerate() {
        let mut held = LayerState::take(states.as_deref_mut(), i, inner * len);
        let found: Vec<Vec<f32>> = held
            .par_chunks_mut(len * len)
            .enumerate()
            .map(|(h, held)| {
                let keep = decay(h, heads, l.slope);
                let mut y = vec![0.0; span.len * len];
                for (t, y) in (span.start..).zip(y.chunks_mut(len)) {
                    let row = &qkv[(t * heads + h) * 3 * len..][..3 * len];
                    let (q, rest) = row.split_at(len);
                    let (k, v) = rest.split_at(len);
                    for ((held, q), k) in held.chunks_mut(len).zip(q).zip(k) {
                        for ((s, v), y) in held.iter_mut().zip(v).zip(&mut *y) {
                            *s = *s * keep + k * v;
                            *y += *s * q;
                        }
                    }
                }
                y
            })
            .collect();
        rows_of_heads(&found, span, len, &mut out);
        LayerState::put(states.as_deref_mut(), i, held);
    }
    let weight = part.values_of("attn_norm_2.weight", inner)?;
    norm::normalize(NormKind::Rms(l.eps), &mut out, inner, Some(&weight), None);
    let gate = part.linear_to("attn_gate", x, tokens, inner)?;
    out.iter_mut().zip(&gate).for_each(|(o, &g)| *o *= ffn::sigmoid(g));
    part.linear("attn_output", &out)
}

/// What a token leaves of the state of head `h`.
fn decay(h: usize, heads: usize, slope: f32) -> f32 {
    (-slope * (-8.0 * (h + 1) as f32 / heads as f32).exp2()).exp()
}
