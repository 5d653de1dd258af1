//! Granite's encoder of speech: layers of two feed-forward parts around attention and a convolution, and a query
//! transformer behind them.

use std::ops::Range;

use gguf::arch::NormKind;
use gguf::{Error, Result};
use rayon::prelude::*;

use super::grid::Pixels;
use super::vit::{join, linear};
use super::{Act, Tower, normed};
use crate::layers::ffn::sigmoid;
use crate::layers::{Part, attention::attend_spans};
use crate::numeric;

/// The epsilon of the query transformer.
const QUERY_NORM: NormKind = NormKind::Layer(1e-12);

/// The vectors of stacked mel frames `[frames, bins]`.
pub(super) fn granite(tower: &Tower<'_>, pixels: &Pixels) -> Result<Vec<f32>> {
    let (frames, bins) = pixels.matrix()?;
    let wanted = tower.need("num_mel_bins")?;
    if bins != wanted {
        return Err(Error::input(format!("frames of {bins} values are not of {wanted}")));
    }
    let part = tower.ends(&[
        "a.input_projection.weight",
        "a.input_projection.bias",
        "a.enc_ctc_out.weight",
        "a.enc_ctc_out.bias",
        "a.enc_ctc_out_mid.weight",
        "a.enc_ctc_out_mid.bias",
    ])?;
    let taken = match tower.value("feature_layer") {
        Some(gguf::Value::Array(list)) => list.iter().filter_map(|v| v.as_u64()).collect(),
        _ => Vec::new(),
    };
    let width = tower.width()?;
    // States that are taken from layers; of a layer, states and their norm, queries, keys, values, what attention makes
    // and what the convolution makes, which is twice as wide before its gate.
    tower.check_held(frames, (8 + 2 * taken.len()) * width)?;
    let mut x = part.linear("a.input_projection", pixels.values())?;
    if x.len() != frames * width {
        return Err(Error::input(format!("tensor a.input_projection.weight does not give {width} values")));
    }
    let mut kept: Vec<Vec<f32>> = Vec::new();
    if taken.contains(&0) {
        kept.push(x.clone());
    }
    let layers = tower.need("block_count")?;
    for number in 0..layers {
        layer(tower, number, &mut x)?;
        if taken.contains(&(number as u64 + 1)) {
            kept.push(x.clone());
        }
        if number + 1 == layers / 2 {
            // What the middle layer takes to be said enters the rest.
            let mut said = part.linear("a.enc_ctc_out", &x)?;
            let letters = part.need("a.enc_ctc_out.weight")?.rows();
            said.chunks_mut(letters.max(1)).for_each(softmax);
            join(&mut x, &part.linear("a.enc_ctc_out_mid", &said)?)?;
        }
    }
    let states = if taken.is_empty() {
        x
    } else {
        kept.push(x);
        (0..frames).flat_map(|t| kept.iter().flat_map(move |x| x[t * width..][..width].to_vec())).collect()
    };
    queried(tower, &states, frames)
}

fn softmax(x: &mut [f32]) {
    let peak = numeric::max(x);
    let sum = numeric::exp_and_sum(x, peak);
    numeric::scale(x, 1.0 / sum);
}

fn layer(tower: &Tower<'_>, number: usize, x: &mut Vec<f32>) -> Result<()> {
    let part = tower.part(&format!("a.blk.{number}."))?;
    let width = tower.width()?;
    let norm = NormKind::Layer(tower.epsilon());
    let feed = |x: &[f32], norm_name: &str, up: &str, down: &str| -> Result<Vec<f32>> {
        let h = normed(&part, norm, norm_name, x.to_vec(), width)?;
        tower.by_groups(&h, width, 2 * part.need(&format!("{up}.weight"))?.rows(), |h| {
            let mut h = linear(&part, up, h)?;
            Act::Silu.apply(&mut h);
            let mut y = linear(&part, down, &h)?;
            numeric::scale(&mut y, 0.5);
            Ok(y)
        })
    };
    let made = feed(x, "ffn_norm", "ffn_up", "ffn_down")?;
    join(x, &made)?;
    let h = normed(&part, norm, "ln1", x.clone(), width)?;
    let made = attention(tower, &part, &h)?;
    join(x, &linear(&part, "attn_out", &made)?)?;
    let h = normed(&part, norm, "norm_conv", x.clone(), width)?;
    let made = convolution(&part, &h, tower.need("conv_kernel_size")?)?;
    join(x, &made)?;
    let made = feed(x, "ffn_norm_1", "ffn_up_1", "ffn_down_1")?;
    join(x, &made)?;
    *x = normed(&part, norm, "ln2", std::mem::take(x), width)?;
    part.release(tower.weights);
    Ok(())
}

/// Attention within chunks, whose scores also hold the query's product with a vector of the distance (Shaw et al.).
fn attention(tower: &Tower<'_>, part: &Part<'_>, h: &[f32]) -> Result<Vec<f32>> {
    let (width, heads) = (tower.width()?, tower.need("attention.head_count")?);
    let (len, chunk) = (width / heads, tower.need("chunk_size")?);
    let frames = h.len() / width;
    let (q, k, v) = (linear(part, "attn_q", h)?, linear(part, "attn_k", h)?, linear(part, "attn_v", h)?);
    if [&q, &k, &v].iter().any(|made| made.len() != frames * heads * len) {
        return Err(Error::input("queries, keys or values are not as wide as the tower"));
    }
    let table = part.need("attn_rel_pos_emb")?;
    let (rows, farthest) = (table.rows(), tower.need("max_pos_emb")?);
    if table.cols() != len || rows < 2 * farthest + 1 {
        return Err(Error::input(format!("tensor attn_rel_pos_emb is not {} rows of {len}", 2 * farthest + 1)));
    }
    let table = table.to_f32()?;
    let scale = 1.0 / (len as f32).sqrt();
    let wide = heads * len;
    let mut out = vec![0.0; frames * wide];
    out.par_chunks_mut(wide).enumerate().for_each(|(t, out)| {
        let first = t / chunk * chunk;
        let seen = first..(first + chunk).min(frames);
        for (head, out) in out.chunks_mut(len).enumerate() {
            let query = &q[t * wide + head * len..][..len];
            let dot = |other: &[f32]| query.iter().zip(other).map(|(a, b)| a * b).sum::<f32>();
            let mut scores: Vec<f32> = seen
                .clone()
                .map(|s| {
                    let distance = (t as i64 - s as i64).clamp(-(farthest as i64), farthest as i64);
                    let row = (distance + farthest as i64) as usize;
                    scale * (dot(&k[s * wide + head * len..][..len]) + dot(&table[row * len..][..len]))
                })
                .collect();
            softmax(&mut scores);
            for (s, share) in seen.clone().zip(scores) {
                numeric::add_scaled(out, &v[s * wide + head * len..][..len], share);
            }
        }
    });
    Ok(out)
}

/// A gated linear layer, a convolution over time of each channel alone, a folded norm, and a linear layer.
fn convolution(part: &Part<'_>, h: &[f32], kernel: usize) -> Result<Vec<f32>> {
    let both = linear(part, "conv_pw1", h)?;
    let wide = part.need("conv_pw1.weight")?.rows();
    let inner = wide / 2;
    let gated: Vec<f32> =
        both.chunks(wide.max(1)).flat_map(|row| (0..inner).map(|i| row[i] * sigmoid(row[inner + i]))).collect();
    let weight = part.values_of("conv_dw.weight", inner * kernel)?;
    // The converter gives the folded norm the name of its variance.
    let name = if part.has("conv_norm.weight") { "conv_norm" } else { "conv_norm_var" };
    let scale = part.values_of(&format!("{name}.weight"), inner)?;
    let shift = part.values_of(&format!("{name}.bias"), inner)?;
    let frames = gated.len() / inner;
    let before = kernel / 2;
    let mut out = vec![0.0; gated.len()];
    out.par_chunks_mut(inner).enumerate().for_each(|(t, out)| {
        for tap in 0..kernel {
            let Some(frame) = (t + tap).checked_sub(before).filter(|frame| *frame < frames) else { continue };
            let row = &gated[frame * inner..][..inner];
            out.iter_mut().enumerate().for_each(|(c, out)| *out += row[c] * weight[c * kernel + tap]);
        }
        out.iter_mut().zip(scale.iter().zip(&shift)).for_each(|(v, (a, b))| *v = *v * a + b);
        Act::Silu.apply(out);
    });
    linear(part, "conv_pw2", &out)
}

/// A few queries read each window of states.
fn queried(tower: &Tower<'_>, states: &[f32], frames: usize) -> Result<Vec<f32>> {
    let window = tower.need("projector.window_size")?;
    let heads = tower.need("projector.head_count")?;
    let ends = tower.ends(&[
        "a.proj_query",
        "a.proj_norm.weight",
        "a.proj_norm.bias",
        "a.proj_linear.weight",
        "a.proj_linear.bias",
    ])?;
    let query = ends.need("a.proj_query")?;
    let (count, width) = (query.rows(), query.cols());
    if width == 0 || count == 0 || !width.is_multiple_of(heads) {
        return Err(Error::input(format!("tensor a.proj_query: {width} values are no {heads} heads")));
    }
    let windows = frames.div_ceil(window);
    let mut states = states.to_vec();
    states.resize(states.len() / frames * window * windows, 0.0);
    let first = normed(&ends, QUERY_NORM, "a.proj_norm", query.to_f32()?, width)?;
    let mut x = first.repeat(windows);
    let spans = |each: usize| -> Vec<(Range<usize>, Range<usize>)> {
        (0..windows).map(|w| (w * count..(w + 1) * count, w * each..(w + 1) * each)).collect()
    };
    let len = width / heads;
    let scale = 1.0 / (len as f32).sqrt();
    for number in 0.. {
        let part = tower.part(&format!("a.proj_blk.{number}."))?;
        if !part.has("self_attn_q.weight") {
            break;
        }
        let attend = |x: &mut Vec<f32>, kind: &str, from: Option<&[f32]>| -> Result<()> {
            let q = linear(&part, &format!("{kind}_q"), x)?;
            let source: &[f32] = from.unwrap_or(x);
            let (k, v) = (linear(&part, &format!("{kind}_k"), source)?, linear(&part, &format!("{kind}_v"), source)?);
            let each = if from.is_some() { window } else { count };
            if q.len() != x.len() || k.len() != windows * each * width || v.len() != k.len() {
                return Err(Error::input(format!("tensors {kind} of a.proj_blk.{number} are not {width} wide")));
            }
            let made = attend_spans((heads, heads, len), scale, &q, &k, &v, &spans(each));
            join(x, &linear(&part, &format!("{kind}_out"), &made)?)?;
            *x = normed(&part, QUERY_NORM, &format!("{kind}_norm"), std::mem::take(x), width)?;
            Ok(())
        };
        attend(&mut x, "self_attn", None)?;
        attend(&mut x, "cross_attn", Some(&states))?;
        let mut h = linear(&part, "ffn_up", &x)?;
        Act::Gelu.apply(&mut h);
        join(&mut x, &linear(&part, "ffn_down", &h)?)?;
        x = normed(&part, QUERY_NORM, "ffn_norm", x, width)?;
    }
    ends.linear("a.proj_linear", &x)
}
