//! Several residual streams of which a layer runs on one (Gemma 3n: alternating updates). A token's streams lie end to end
//! in its row.

use gguf::Result;
use gguf::arch::{AltUp, AltUpEnds};
use rayon::prelude::*;

use super::{Part, Site, add, norm, numeric, per_layer};
use crate::numeric::columns;

/// A layer on all streams, in place: they are predicted, `steps` run on the active one, and all are corrected.
///
/// # Errors
/// Tensors that are missing or do not fit, and whatever the steps return.
pub fn layer(
    a: &AltUp,
    part: &Part<'_>,
    site: &Site<'_>,
    x: &mut [f32],
    steps: impl FnOnce(&mut [f32]) -> Result<()>,
) -> Result<()> {
    let (n, width) = (a.streams.len(), a.input.len());
    let tokens = site.tokens();
    let active = |x: &[f32]| columns(x, n * width, a.active * width, width);
    let modalities = |x: &[f32]| -> Result<Vec<f32>> {
        let mut read = x.to_vec();
        let weight = part.values_of("altup_router_norm.weight", width)?;
        norm::normalize(a.norm, &mut read, width, Some(&weight), None);
        numeric::scale(&mut read, a.router_scale);
        let mut found = part.linear_to("altup_router", &read, tokens, n)?;
        found.iter_mut().for_each(|m| *m = m.tanh());
        Ok(found)
    };
    let predict = part.linear_to("altup_predict_coef", &modalities(&active(x))?, tokens, n * n)?;
    x.par_chunks_mut(n * width).zip(predict.par_chunks(n * n)).for_each(|(row, coefficients)| {
        let before = row.to_vec();
        for (j, stream) in row.chunks_mut(width).enumerate() {
            for (i, before) in before.chunks(width).enumerate() {
                numeric::add_scaled(stream, before, coefficients[i + n * j]);
            }
        }
    });
    let mut result = active(x);
    steps(&mut result)?;
    let correct = part.linear_to("altup_correct_coef", &modalities(&result)?, tokens, n)?;
    let rows = x.par_chunks_mut(n * width).zip(correct.par_chunks(n)).zip(result.par_chunks(width));
    rows.for_each(|((row, coefficients), result)| {
        let mut change = result.to_vec();
        numeric::add_scaled(&mut change, &row[a.active * width..][..width], -1.0);
        for (stream, c) in row.chunks_mut(width).zip(coefficients) {
            numeric::add_scaled(stream, &change, c + 1.0);
        }
    });
    let mut first = active(x);
    let scale = part.values_of("altup_correct_scale.weight", width)?;
    first.par_chunks_mut(width).for_each(|row| numeric::multiply(row, &scale));
    let mut made = per_layer(&a.per_layer, part, site, &first)?;
    part.norm_in_place(&a.after, &mut made)?;
    x.par_chunks_mut(n * width).zip(made.par_chunks(width)).for_each(|(row, made)| {
        row.chunks_mut(width).skip(1).for_each(|stream| numeric::add_scaled(stream, made, 1.0));
    });
    Ok(())
}

/// The streams that embeddings become.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn spread(ends: &AltUpEnds, part: &Part<'_>, embeddings: &[f32], width: usize) -> Result<Vec<f32>> {
    let n = ends.streams.len();
    let mut x = vec![0.0; embeddings.len() * n];
    place(&mut x, embeddings, 0, n, width);
    for j in 1..n {
        let mut stream = part.expert("altup_proj", j - 1, n - 1, embeddings)?;
        to_magnitude(&mut stream, embeddings, width, ends.floor);
        place(&mut x, &stream, j, n, width);
    }
    Ok(x)
}

/// The one stream that all become behind the layers.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn gather(ends: &AltUpEnds, part: &Part<'_>, x: &[f32], width: usize) -> Result<Vec<f32>> {
    let n = ends.streams.len();
    let stream = |j: usize| columns(x, n * width, j * width, width);
    let active = stream(ends.active);
    let mut sum = stream(0);
    for j in 1..n {
        let mut made = part.expert("altup_unembd_proj", j - 1, n - 1, &stream(j))?;
        to_magnitude(&mut made, &active, width, ends.floor);
        add(&mut sum, &made);
    }
    numeric::scale(&mut sum, 1.0 / n as f32);
    Ok(sum)
}

/// Puts a stream in its place among `n`.
fn place(x: &mut [f32], stream: &[f32], at: usize, n: usize, width: usize) {
    for (row, stream) in x.chunks_mut(n * width).zip(stream.chunks(width)) {
        row[at * width..][..width].copy_from_slice(stream);
    }
}

/// Brings each token to the root of the mean square that another stream has there.
fn to_magnitude(x: &mut [f32], other: &[f32], width: usize, floor: f32) {
    let mean_square = |x: &[f32]| x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / x.len() as f64;
    x.par_chunks_mut(width).zip(other.par_chunks(width)).for_each(|(x, other)| {
        let own = mean_square(x).max(f64::from(floor)).sqrt();
        numeric::scale(x, (mean_square(other).sqrt() / own) as f32);
    });
}
