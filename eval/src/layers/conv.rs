//! Causal convolutions along the tokens, one filter a channel, and the mixer that is little else (LFM2).

use gguf::Result;
use gguf::arch::ShortConv;
use rayon::prelude::*;

use super::{LayerState, Part, Site};
use crate::numeric::columns;

/// Convolves `x` `[tokens, channels]` along each sequence with `filter` `[channels, kernel]` (the last tap is the token
/// itself), adds `bias`, and keeps the last inputs of growing sequences in their states.
pub(super) fn causal_conv(
    site: &Site<'_>,
    x: &[f32],
    channels: usize,
    filter: &[f32],
    bias: Option<&[f32]>,
    mut state: Option<&mut [LayerState]>,
) -> Vec<f32> {
    let kernel = filter.len() / channels.max(1);
    let before = kernel.saturating_sub(1) * channels;
    let mut out = vec![0.0; x.len()];
    for (i, span) in site.spans.iter().enumerate() {
        let rows = span.start * channels..(span.start + span.len) * channels;
        let mut history = vec![0.0; before];
        if let Some(state) = state.as_deref_mut().filter(|s| s[i].inputs.len() == before) {
            history.copy_from_slice(&state[i].inputs);
        }
        history.extend_from_slice(&x[rows.clone()]);
        out[rows].par_chunks_mut(channels).with_min_len(4).enumerate().for_each(|(t, out)| {
            for (c, out) in out.iter_mut().enumerate() {
                let taps = (0..kernel).map(|k| filter[c * kernel + k] * history[(t + k) * channels + c]);
                *out = bias.map_or(0.0, |b| b[c]) + taps.sum::<f32>();
            }
        });
        if let Some(state) = state.as_deref_mut() {
            state[i].inputs = history.split_off(history.len() - before);
        }
    }
    out
}

/// A convolution between two gates: `out(c · conv(b · x))`.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn short_conv(
    c: &ShortConv,
    part: &Part<'_>,
    site: &Site<'_>,
    x: &[f32],
    state: Option<&mut [LayerState]>,
) -> Result<Vec<f32>> {
    let width = c.input.len();
    let all = part.linear_to("shortconv.in_proj", x, site.tokens(), 3 * width)?;
    let filter = part.values_of("shortconv.conv.weight", width * c.kernel.len())?;
    let gated: Vec<f32> =
        all.chunks(3 * width).flat_map(|row| (0..width).map(|i| row[i] * row[2 * width + i])).collect();
    let mut y = causal_conv(site, &gated, width, &filter, None, state);
    y.iter_mut().zip(columns(&all, 3 * width, width, width)).for_each(|(y, c)| *y *= c);
    part.linear("shortconv.out_proj", &y)
}
