//! Whisper's encoder.

use gguf::arch::NormKind;
use gguf::{Error, Result};

use super::grid::Pixels;
use super::vit::{join, linear};
use super::{Act, Tower, normed};
use crate::layers::{Part, attention::attend_spans};
use crate::matmul::{Order, product};
use crate::numeric;
use crate::weights::Matrix;

/// The states of a spectrogram `[bins, frames]` behind the last layer and its norm, a vector for two frames; where they
/// are halved, for four.
pub(super) fn run(tower: &Tower<'_>, pixels: &Pixels, halved: bool) -> Result<Vec<f32>> {
    let width = tower.width()?;
    let (bins, frames) = pixels.matrix()?;
    let wanted = tower.need("num_mel_bins")?;
    if bins != wanted {
        return Err(Error::input(format!("a spectrogram of {bins} bins is not one of {wanted}")));
    }
    // Windows of both convolutions; of a layer, states and their norm, queries, keys, values and what attention makes.
    tower.check_held(frames, 4 * bins + 4 * width)?;
    let part = tower.ends(&[
        "a.conv1d.1.weight",
        "a.conv1d.1.bias",
        "a.conv1d.2.weight",
        "a.conv1d.2.bias",
        "a.position_embd.weight",
        "a.post_ln.weight",
        "a.post_ln.bias",
    ])?;
    // Rows of frames from here on.
    let columns: Vec<f32> = (0..bins * frames).map(|i| pixels.values()[i % bins * frames + i / bins]).collect();
    let x = convolved(&part, "a.conv1d.1", &columns, bins, 1)?;
    let mut x = convolved(&part, "a.conv1d.2", &x, width, 2)?;
    let tokens = x.len() / width;
    let positions = part.need("a.position_embd.weight")?;
    if positions.rows() < tokens || positions.cols() != width {
        return Err(Error::input(format!(
            "{frames} frames are more than the {} that the tower has positions for",
            2 * positions.rows()
        )));
    }
    let mut table = vec![0.0; tokens * width];
    positions.decode(0..tokens, &mut table)?;
    join(&mut x, &table)?;
    let heads = tower.need("attention.head_count")?;
    let len = width / heads;
    let norm = NormKind::Layer(tower.epsilon());
    for number in 0..tower.need("block_count")? {
        let part = tower.part(&format!("a.blk.{number}."))?;
        let h = normed(&part, norm, "ln1", x.clone(), width)?;
        let (q, k, v) = (linear(&part, "attn_q", &h)?, linear(&part, "attn_k", &h)?, linear(&part, "attn_v", &h)?);
        if [&q, &k, &v].iter().any(|made| made.len() != tokens * heads * len) {
            return Err(Error::input(format!("layer {number}: queries, keys or values are not {width} wide")));
        }
        let scale = 1.0 / (len as f32).sqrt();
        let made = attend_spans((heads, heads, len), scale, &q, &k, &v, &[(0..tokens, 0..tokens)]);
        join(&mut x, &linear(&part, "attn_out", &made)?)?;
        drop((h, q, k, v));
        let h = normed(&part, norm, "ln2", x.clone(), width)?;
        let made = tower.by_groups(&h, width, 2 * part.need("ffn_up.weight")?.rows(), |h| {
            let mut h = linear(&part, "ffn_up", h)?;
            Act::Gelu.apply(&mut h);
            linear(&part, "ffn_down", &h)
        })?;
        join(&mut x, &made)?;
        part.release(tower.weights);
    }
    if halved {
        x = x
            .chunks_exact(2 * width)
            .flat_map(|two| two[..width].iter().zip(&two[width..]).map(|(a, b)| (a + b) / 2.0))
            .collect();
    }
    normed(&part, norm, "a.post_ln", x, width)
}

/// A convolution over three frames with zeros on both sides and GELU behind it: `x` `[frames, channels]`.
fn convolved(part: &Part<'_>, name: &str, x: &[f32], channels: usize, stride: usize) -> Result<Vec<f32>> {
    const KERNEL: usize = 3;
    let bias = part.values(&format!("{name}.bias"))?.ok_or_else(|| part.missing(&format!("{name}.bias")))?;
    let out = bias.len();
    let wide = channels * KERNEL;
    let weight = Matrix::from_f32(name, part.values_of(&format!("{name}.weight"), out * wide)?, wide);
    let frames = x.len() / channels;
    let count = (frames - 1) / stride + 1;
    let mut windows = vec![0.0; count * wide];
    for (t, window) in windows.chunks_mut(wide).enumerate() {
        for (i, value) in window.iter_mut().enumerate() {
            let (channel, tap) = (i / KERNEL, i % KERNEL);
            if let Some(frame) = (t * stride + tap).checked_sub(1).filter(|frame| *frame < frames) {
                *value = x[frame * channels + channel];
            }
        }
    }
    let mut y = product(&windows, &weight, 0..out, Order::Fixed)?;
    y.chunks_mut(out).for_each(|row| numeric::add_scaled(row, &bias, 1.0));
    Act::Gelu.apply(&mut y);
    Ok(y)
}
