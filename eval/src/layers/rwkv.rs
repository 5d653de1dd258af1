//! Mixing over time and over channels of RWKV 6 and 7. Both read a mix of a token and the one before it.

use gguf::Result;
use gguf::arch::{Activation, ChannelMix, NormKind, Rwkv6, Rwkv7};
use rayon::prelude::*;

use super::delta::rows_of_heads;
use super::{LayerState, Part, Site, add, ffn, norm, numeric};
use crate::numeric::columns;

/// Added to the square of a key's length before it is divided by it: only keys of zeros show it.
const LEAST_LENGTH: f32 = 1e-12;

/// What the logarithm of a state's decay of RWKV 7 is at most: 1 / √e.
const MOST_DECAY: f32 = -0.606_531;

/// For each token, the one before minus itself; the last token of a growing sequence is kept where `place` says.
fn shift(
    site: &Site<'_>,
    x: &[f32],
    width: usize,
    mut states: Option<&mut [LayerState]>,
    place: fn(&mut LayerState) -> &mut Vec<f32>,
) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    for (i, span) in site.spans.iter().enumerate() {
        let rows = span.start * width..(span.start + span.len) * width;
        let own = &x[rows.clone()];
        let mut before = vec![0.0; width];
        if let Some(kept) = states.as_deref_mut().map(|states| place(&mut states[i])) {
            if kept.len() == width {
                before.copy_from_slice(kept);
            }
            if let Some(last) = own.len().checked_sub(width) {
                *kept = own[last..].to_vec();
            }
        }
        before.extend_from_slice(&own[..own.len().saturating_sub(width)]);
        out[rows].iter_mut().zip(before.iter().zip(own)).for_each(|(out, (before, now))| *out = before - now);
    }
    out
}

/// `x + lerp · shifted`, the factors channel by channel.
fn mixed(x: &[f32], shifted: &[f32], lerp: &[f32]) -> Vec<f32> {
    let rows = x.chunks(lerp.len()).zip(shifted.chunks(lerp.len()));
    rows.flat_map(|(x, s)| x.iter().zip(s).zip(lerp).map(|((x, s), l)| x + s * l)).collect()
}

/// Mixing over channels: a feed with squared ReLU.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn channel_mix(
    c: &ChannelMix,
    part: &Part<'_>,
    site: &Site<'_>,
    x: &[f32],
    states: Option<&mut [LayerState]>,
) -> Result<Vec<f32>> {
    let (width, tokens) = (c.input.len(), site.tokens());
    let shifted = shift(site, x, width, states, |state| &mut state.channel_inputs);
    let read = |name: &str| -> Result<Vec<f32>> {
        let lerp = part.values_of(&format!("channel_mix_lerp_{name}.weight"), width)?;
        Ok(mixed(x, &shifted, &lerp))
    };
    let mut key = part.linear_to("channel_mix_key", &read("k")?, tokens, c.len.len())?;
    ffn::activate(Activation::ReluSquared, &mut key);
    let mut out = part.linear_to("channel_mix_value", &key, tokens, width)?;
    if c.receptance {
        let gate = part.linear_to("channel_mix_receptance", &read("r")?, tokens, width)?;
        out.iter_mut().zip(gate).for_each(|(o, g)| *o *= ffn::sigmoid(g));
    }
    Ok(out)
}

/// What the heads of a layer do with their states, token by token: runs `step` over the heads of each sequence, and puts
/// what they make side by side.
fn over_heads(
    site: &Site<'_>,
    mut states: Option<&mut [LayerState]>,
    heads: usize,
    len: usize,
    step: impl Fn(usize, usize, &mut [f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    let mut out = vec![0.0; site.tokens() * heads * len];
    for (i, span) in site.spans.iter().enumerate() {
        let mut held = LayerState::take(states.as_deref_mut(), i, heads * len * len);
        let found: Vec<Vec<f32>> = held
            .par_chunks_mut(len * len)
            .enumerate()
            .map(|(h, held)| {
                let mut y = vec![0.0; span.len * len];
                for (t, y) in y.chunks_mut(len).enumerate() {
                    step(span.start + t, h, held, y);
                }
                y
            })
            .collect();
        rows_of_heads(&found, span, len, &mut out);
        LayerState::put(states.as_deref_mut(), i, held);
    }
    out
}

/// Mixing over time of RWKV 6.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn rwkv6(
    r: &Rwkv6,
    part: &Part<'_>,
    site: &Site<'_>,
    x: &[f32],
    mut states: Option<&mut [LayerState]>,
) -> Result<Vec<f32>> {
    let (width, len, rank) = (r.input.len(), r.head.len(), r.mix_rank.len());
    let (heads, tokens) = (width / len.max(1), site.tokens());
    let kv_heads = if r.kv_heads == 0 { heads } else { r.kv_heads.len() };
    let shifted = shift(site, x, width, states.as_deref_mut(), |state| &mut state.inputs);
    let first = mixed(x, &shifted, &part.values_of("time_mix_lerp_x.weight", width)?);
    let mut low = part.linear_to("time_mix_w1", &first, tokens, 5 * rank)?;
    low.iter_mut().for_each(|x| *x = x.tanh());
    let fused = part.values("time_mix_lerp_fused.weight")?.filter(|l| l.len() == 5 * width);
    // How much of the token before is in what makes decay, key, value, receptance and gate.
    let read = |piece: usize, name: &str| -> Result<Vec<f32>> {
        let mut share = part.expert("time_mix_w2", piece, 5, &columns(&low, 5 * rank, piece * rank, rank))?;
        let lerp = match &fused {
            Some(all) => all[piece * width..(piece + 1) * width].to_vec(),
            None => part.values_of(&format!("time_mix_lerp_{name}.weight"), width)?,
        };
        share.par_chunks_mut(width).for_each(|row| numeric::add_scaled(row, &lerp, 1.0));
        numeric::multiply(&mut share, &shifted);
        add(&mut share, x);
        Ok(share)
    };
    let key = part.linear_to("time_mix_key", &read(1, "k")?, tokens, kv_heads * len)?;
    let value = part.linear_to("time_mix_value", &read(2, "v")?, tokens, kv_heads * len)?;
    let receptance = part.linear_to("time_mix_receptance", &read(3, "r")?, tokens, width)?;
    let gate = part.linear_to("time_mix_gate", &read(4, "g")?, tokens, width)?;
    let mut low = part.linear("time_mix_decay_w1", &read(0, "w")?)?;
    low.iter_mut().for_each(|x| *x = x.tanh());
    let mut decay = part.linear_to("time_mix_decay_w2", &low, tokens, width)?;
    let base = part.values_of("time_mix_decay.weight", width)?;
    decay.par_chunks_mut(width).for_each(|row| {
        row.iter_mut().zip(&base).for_each(|(d, base)| *d = (-(*d + base).exp()).exp());
    });
    let bonus = match r.from_attention {
        true => Vec::new(),
        false => part.values_of("time_mix_first.weight", width)?,
    };
    let scale = 1.0 / (len as f32).sqrt();
    let mut out = over_heads(site, states, heads, len, |t, h, held, y| {
        let at = t * width + h * len;
        let kv = (t * kv_heads + h / (heads / kv_heads).max(1)) * len;
        let value = &value[kv..kv + len];
        for (i, held) in held.chunks_mut(len).enumerate() {
            let (w, r) = (decay[at + i], receptance[at + i]);
            if bonus.is_empty() {
                // What is forgotten of the state makes room for the key.
                let k = key[kv + i] * (1.0 - w);
                for ((s, v), y) in held.iter_mut().zip(value).zip(&mut *y) {
                    *s = *s * w + k * v;
                    *y += *s * r * scale;
                }
            } else {
                let k = key[kv + i];
                for ((s, v), y) in held.iter_mut().zip(value).zip(&mut *y) {
                    *y += r * (bonus[h * len + i] * k * v + *s);
                    *s = *s * w + k * v;
                }
            }
        }
    });
    if r.from_attention {
        out.iter_mut().zip(&gate).for_each(|(o, &g)| *o *= ffn::sigmoid(g));
    } else {
        head_norm(part, &mut out, width, len, r.eps)?;
        out.iter_mut().zip(&gate).for_each(|(o, &g)| *o *= g * ffn::sigmoid(g));
    }
    part.linear("time_mix_output", &out)
}

/// The norm of each head, with weights of its own.
fn head_norm(part: &Part<'_>, out: &mut [f32], width: usize, len: usize, eps: f32) -> Result<()> {
    let (weight, bias) = (part.values_of("time_mix_ln.weight", width)?, part.values_of("time_mix_ln.bias", width)?);
    norm::normalize(NormKind::Layer(eps), out, len, Some(&weight), Some(&bias));
    Ok(())
}

/// Mixing over time of RWKV 7.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn rwkv7(
    r: &Rwkv7,
    part: &Part<'_>,
    site: &Site<'_>,
    x: &[f32],
    mut states: Option<&mut [LayerState]>,
) -> Result<Vec<f32>> {
    let (width, len) = (r.input.len(), r.head.len());
    let (heads, tokens) = (width / len.max(1), site.tokens());
    let gated = part.has("time_mix_g1.weight") && part.has("time_mix_g2.weight");
    let shifted = shift(site, x, width, states.as_deref_mut(), |state| &mut state.inputs);
    let lerp = part.need("time_mix_lerp_fused.weight")?.to_f32()?;
    let lerp =
        if lerp.len() == 5 * width && !gated { lerp } else { part.values_of("time_mix_lerp_fused.weight", 6 * width)? };
    let read = |piece: usize| mixed(x, &shifted, &lerp[piece * width..(piece + 1) * width]);
    // name0 + name2 · f(name1 · x)
    let low_rank = |name: &str, x: &[f32], f: fn(f32) -> f32| -> Result<Vec<f32>> {
        let mut low = part.linear(&format!("time_mix_{name}1"), x)?;
        low.iter_mut().for_each(|x| *x = f(*x));
        let mut y = part.linear_to(&format!("time_mix_{name}2"), &low, tokens, width)?;
        if part.has(&format!("time_mix_{name}0.weight")) {
            let base = part.values_of(&format!("time_mix_{name}0.weight"), width)?;
            y.par_chunks_mut(width).for_each(|row| numeric::add_scaled(row, &base, 1.0));
        }
        Ok(y)
    };
    let receptance = part.linear_to("time_mix_receptance", &read(0), tokens, width)?;
    let mut decay = low_rank("w", &read(1), f32::tanh)?;
    decay.iter_mut().for_each(|w| *w = (MOST_DECAY * ffn::sigmoid(*w)).exp());
    let mut key = part.linear_to("time_mix_key", &read(2), tokens, width)?;
    let read_value = read(3);
    let mut value = part.linear_to("time_mix_value", &read_value, tokens, width)?;
    if site.layer == 0 {
        site.kept.first_values.borrow_mut().clone_from(&value);
    } else {
        let share = low_rank("v", &read_value, |x| x)?;
        let first = site.kept.first_values.borrow();
        for ((v, first), share) in value.iter_mut().zip(&*first).zip(share) {
            *v += (first - *v) * ffn::sigmoid(share);
        }
    }
    let mut rate = low_rank("a", &read(4), |x| x)?;
    rate.iter_mut().for_each(|a| *a = ffn::sigmoid(*a));
    // The key by which the state forgets, of length one.
    let mut removed = key.clone();
    let (k_k, k_a) = (part.values_of("time_mix_k_k.weight", width)?, part.values_of("time_mix_k_a.weight", width)?);
    removed.par_chunks_mut(width).for_each(|row| {
        numeric::multiply(row, &k_k);
        for head in row.chunks_mut(len) {
            let length = head.iter().map(|v| v * v).sum::<f32>().sqrt().max(LEAST_LENGTH);
            numeric::scale(head, 1.0 / length);
        }
    });
    for (row, rate) in key.chunks_mut(width).zip(rate.chunks(width)) {
        row.iter_mut().zip(rate).zip(&k_a).for_each(|((k, a), k_a)| *k *= 1.0 + (a - 1.0) * k_a);
    }
    let mut out = over_heads(site, states, heads, len, |t, h, held, y| {
        let own = t * width + h * len..t * width + (h + 1) * len;
        let (r, w, k) = (&receptance[own.clone()], &decay[own.clone()], &key[own.clone()]);
        let (gone, rate, v) = (&removed[own.clone()], &rate[own.clone()], &value[own]);
        // A row of the state is what all dimensions of a key say of one of the value.
        for ((held, v), y) in held.chunks_mut(len).zip(v).zip(y) {
            let known: f32 = held.iter().zip(gone).map(|(s, g)| s * g).sum();
            for (j, s) in held.iter_mut().enumerate() {
                *s = *s * w[j] + k[j] * v - known * gone[j] * rate[j];
                *y += *s * r[j];
            }
        }
    });
    if part.has("time_mix_ln.weight") {
        head_norm(part, &mut out, width, len, r.eps)?;
    }
    let r_k = part.values_of("time_mix_r_k.weight", width)?;
    for (at, out) in out.chunks_mut(len).enumerate() {
        let own = at * len..(at + 1) * len;
        let r_k = &r_k[at % heads * len..][..len];
        let sum: f32 =
            key[own.clone()].iter().zip(&receptance[own.clone()]).zip(r_k).map(|((k, r), b)| k * r * b).sum();
        numeric::add_scaled(out, &value[own], sum);
    }
    if gated {
        let gate = low_rank("g", &read(5), ffn::sigmoid)?;
        numeric::multiply(&mut out, &gate);
    }
    part.linear("time_mix_output", &out)
}
