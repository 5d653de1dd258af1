//! What happens to the data of towers' tensors.

use gguf::{Error, Result};

use super::{Sense, tower_of};
use crate::config::Config;
use crate::hf::{How, Outputs, Piece};
use crate::transform::rotated;
use crate::transform::{self, Elements, Rows, row_count};

/// Queries, keys and values of one tensor become three.
pub(in crate::hf) const QUERY_KEY_VALUE: How = How::Split(query_key_value);

fn query_key_value(_: &Config, piece: &Piece) -> Result<Outputs> {
    let rows = piece.rows.shape().first().copied().unwrap_or(0);
    if !rows.is_multiple_of(3) {
        return Err(Error::input(format!("its {rows} rows are no queries, keys and values of the same size")));
    }
    let part = |n: u64, name: &str| {
        Ok((
            format!("{}{name}{}", piece.to, piece.suffix),
            transform::sliced(&piece.rows, 0, n * (rows / 3), rows / 3)?,
        ))
    };
    Ok(vec![part(0, "q")?, part(1, "k")?, part(2, "v")?])
}

/// The halves of a tensor become two, with these endings of the target's name.
pub(super) fn halved(piece: &Piece, first: &str, second: &str) -> Result<Outputs> {
    let rows = piece.rows.shape().first().copied().unwrap_or(0);
    if !rows.is_multiple_of(2) {
        return Err(Error::input(format!("its {rows} rows are no two halves")));
    }
    let part = |n: u64, name: &str| {
        Ok((
            format!("{}{name}{}", piece.to, piece.suffix),
            transform::sliced(&piece.rows, 0, n * (rows / 2), rows / 2)?,
        ))
    };
    Ok(vec![part(0, first)?, part(1, second)?])
}

/// A convolution over two frames becomes one over each.
pub(super) const FRAMES: How = How::Split(frames);

fn frames(_: &Config, piece: &Piece) -> Result<Outputs> {
    if piece.suffix != ".weight" {
        return Ok(vec![(format!("{}{}", piece.to, piece.suffix), piece.rows.clone())]);
    }
    let &[out, channels, time, height, width] = piece.rows.shape() else {
        return Err(Error::input(format!(
            "its shape {:?} is not that of a convolution over frames",
            piece.rows.shape()
        )));
    };
    if time != 2 {
        return Err(Error::input(format!(
            "it takes {time} frames at once; patches of two frames are what readers know"
        )));
    }
    let area = height * width;
    let axes = [(out, channels * time * area), (channels, time * area), (height, width), (width, 1)];
    let frame = |t: u64| transform::view(&piece.rows, vec![out, channels, height, width], t * area, &axes);
    Ok(vec![(format!("{}.weight", piece.to), frame(0)?), (format!("{}.weight.1", piece.to), frame(1)?)])
}

/// A linear layer over patches whose channels come last becomes a convolution.
pub(super) const CHANNELS_LAST: How = How::Change(channels_last);

fn channels_last(_: &Config, piece: &Piece) -> Result<Rows> {
    let &[out, columns] = piece.rows.shape() else { return Ok(piece.rows.clone()) };
    let side = (columns / 3).isqrt();
    if side * side * 3 != columns {
        return Err(Error::input(format!("its {columns} columns are no square patch of three channels")));
    }
    let axes = [(out, columns), (3, 1), (side, side * 3), (side, 3)];
    transform::view(&piece.rows, vec![out, 3, side, side], 0, &axes)
}

/// The halves of each head are interleaved: rotation of neighbours instead of halves.
pub(super) const ROTATED: How = How::Change(|config, piece| {
    let heads = tower_of(config, Sense::Vision)?.need_u64(&["num_attention_heads"])?;
    if heads == 0 {
        return Err(Error::input("the tower has no heads"));
    }
    rotated(&piece.rows, heads)
});

/// A vector of biases becomes a column.
pub(super) const COLUMN_BIAS: How = How::Change(|_, piece| match piece.rows.shape() {
    &[len] if piece.suffix == ".bias" => transform::reshaped(&piece.rows, vec![len, 1]),
    _ => Ok(piece.rows.clone()),
});

/// A kernel loses this dimension, which is 1.
pub(super) fn without(piece: &Piece, axis: usize) -> Result<Rows> {
    let mut shape = piece.rows.shape().to_vec();
    if shape.get(axis) != Some(&1) {
        return Ok(piece.rows.clone());
    }
    shape.remove(axis);
    transform::reshaped(&piece.rows, shape)
}

/// All values of a small tensor.
pub(super) fn floats(rows: &Rows) -> Result<Vec<f32>> {
    transform::to_f32(rows.elements(), &rows.rows(0..row_count(rows.shape()))?)
}

/// Weight, bias, mean and variance of a batch norm become a weight and a bias.
pub(super) fn folded_norm(piece: &Piece, parts: &[Rows]) -> Result<Outputs> {
    const EPSILON: f32 = 1e-5;
    let [weight, bias, mean, variance] = parts else { return Err(Error::input("a batch norm has four parts")) };
    let narrow = [weight, bias, mean, variance].iter().all(|rows| rows.elements() == Elements::F16);
    // Half precision stays what it is through every step, as it does in the reference.
    let round = |v: f32| if narrow { half::f16::from_f32(v).to_f32() } else { v };
    let (w, b, m, s) = (floats(weight)?, floats(bias)?, floats(mean)?, floats(variance)?);
    if [b.len(), m.len(), s.len()].iter().any(|len| *len != w.len()) {
        return Err(Error::input("the parts of a batch norm are not of the same length"));
    }
    let scale: Vec<f32> = w.iter().zip(&s).map(|(w, s)| round(w / round(round(s + EPSILON).sqrt()))).collect();
    let shift: Vec<f32> = b.iter().zip(&m).zip(&scale).map(|((b, m), a)| round(b - round(m * a))).collect();
    let len = w.len() as u64;
    Ok(vec![
        (format!("{}.weight", piece.to), transform::values(vec![len], &scale)),
        (format!("{}.bias", piece.to), transform::values(vec![len], &shift)),
    ])
}
