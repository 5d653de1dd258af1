//! What a tower is given, and grids of patches.

use gguf::{Error, Result};
use quantize::first_not_finite;

/// What a tower reads: values in the order of their shape.
#[derive(Clone, Debug)]
pub struct Pixels {
    values: Vec<f32>,
    shape: Vec<usize>,
    grid: Option<(usize, usize)>,
}

/// The most values that a tower is given.
const MOST: usize = 1 << 30;

impl Pixels {
    /// Values of this shape: `[3, height, width]` for an image, `[patches, values]` for patches that are flattened already,
    /// `[bins, frames]` for a log-mel spectrogram; dimensions of one in front do not matter. `grid` says how many rows and
    /// columns of patches there are.
    ///
    /// # Errors
    /// Values that are not as many as the shape says, or that are no numbers.
    pub fn new(values: Vec<f32>, shape: &[usize], grid: Option<(usize, usize)>) -> Result<Pixels> {
        let count = shape.iter().try_fold(1_usize, |n, d| n.checked_mul(*d)).filter(|n| *n > 0 && *n <= MOST);
        if count != Some(values.len()) {
            return Err(Error::input(format!("{} values are not of the shape {shape:?}", values.len())));
        }
        if let Some(at) = first_not_finite(&values) {
            return Err(Error::input(format!("value {at} is {}, which is no pixel", values[at])));
        }
        let first = shape.iter().position(|d| *d != 1).unwrap_or(0);
        Ok(Pixels { values, shape: shape[first..].to_vec(), grid })
    }

    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    /// Rows and columns, where there are two.
    pub(super) fn matrix(&self) -> Result<(usize, usize)> {
        match self.shape[..] {
            [rows, cols] => Ok((rows, cols)),
            _ => Err(Error::input(format!("the shape {:?} has not two dimensions", self.shape))),
        }
    }

    /// Channels, height and width, where it is an image.
    pub(super) fn image(&self) -> Option<(usize, usize, usize)> {
        match self.shape[..] {
            [channels, height, width] => Some((channels, height, width)),
            _ => None,
        }
    }

    /// The rows and columns of so many patches: those that were said, else the two factors next to each other that are
    /// whole numbers of merged patches.
    pub(super) fn grid(&self, patches: usize, merge: usize) -> Result<((usize, usize), Option<String>)> {
        if let Some((height, width)) = self.grid {
            if height.checked_mul(width) != Some(patches) {
                return Err(Error::input(format!("a grid of {height} × {width} is not {patches} patches")));
            }
            return Ok(((height, width), None));
        }
        let fits =
            |n: &usize| n.is_multiple_of(merge) && patches.is_multiple_of(*n) && (patches / n).is_multiple_of(merge);
        let height = (1..=patches.isqrt()).rev().find(fits).ok_or_else(|| {
            Error::input(format!("{patches} patches are no grid whose sides are multiples of {merge}"))
        })?;
        let width = patches / height;
        let note = format!("the {patches} patches are taken as {height} rows of {width}; --grid says otherwise");
        Ok(((height, width), Some(note)))
    }
}

/// How learned positions of one grid become those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// There are no others.
    Fixed,
    /// The nearest one below (Idefics 3).
    Buckets,
    /// Between neighbours, corner to corner (Qwen3-VL).
    Corners,
    /// Between neighbours, the middles of places over each other (PaddleOCR-VL).
    Linear,
    /// By cubic curves through four neighbours (GLM-4V).
    Cubic,
    /// By triangles that are as wide as what they cover (SigLIP 2).
    Smoothed,
}

impl Resize {
    /// For each place along a side of `to`, places of a side of `from` and their shares.
    fn along(self, from: usize, to: usize) -> Vec<Vec<(usize, f32)>> {
        let last = from as i64 - 1;
        let clamp = |i: i64| i.clamp(0, last) as usize;
        let scale = from as f32 / to as f32;
        let place = |i: usize| match self {
            Resize::Fixed => vec![(i, 1.0)],
            Resize::Buckets => vec![(i * from / to, 1.0)],
            Resize::Corners => {
                let step = if to > 1 { (from - 1) as f32 / (to - 1) as f32 } else { 0.0 };
                let at = i as f32 * step;
                let share = at - at.floor();
                vec![(clamp(at as i64), 1.0 - share), (clamp(at as i64 + 1), share)]
            }
            Resize::Linear => {
                let at = ((i as f32 + 0.5) * scale - 0.5).max(0.0);
                let share = at - at.floor();
                vec![(clamp(at as i64), 1.0 - share), (clamp(at as i64 + 1), share)]
            }
            Resize::Cubic => {
                let at = (i as f32 + 0.5) * scale - 0.5;
                let base = at.floor();
                (-1..3).map(|k| (clamp(base as i64 + k), cubic(at - base - k as f32))).collect()
            }
            Resize::Smoothed => {
                let wide = scale.max(1.0);
                let center = (i as f32 + 0.5) * scale;
                let begin = ((center - wide + 0.5) as i64).max(0);
                let end = ((center + wide + 0.5) as i64).min(from as i64);
                let share = |j: i64| (1.0 - ((j as f32 - center + 0.5) / wide).abs()).max(0.0);
                let sum: f32 = (begin..end).map(share).sum();
                (begin..end).map(|j| (clamp(j), share(j) / sum)).collect()
            }
        };
        (0..to).map(place).collect()
    }

    /// Positions `[side · side, len]` for a grid, row by row.
    pub(super) fn positions(
        self,
        table: &[f32],
        side: usize,
        len: usize,
        (height, width): (usize, usize),
    ) -> Result<Vec<f32>> {
        if (height, width) == (side, side) {
            return Ok(table.to_vec());
        }
        if self == Resize::Fixed {
            return Err(Error::input(format!(
                "the tower has positions for {side} × {side} patches, the image has {height} × {width}"
            ))
            .help("its images are of one size, which clip.vision.image_size says"));
        }
        let (rows, cols) = (self.along(side, height), self.along(side, width));
        let mut out = vec![0.0; height * width * len];
        for ((y, x), out) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))).zip(out.chunks_mut(len)) {
            for (row, a) in &rows[y] {
                for (col, b) in &cols[x] {
                    let from = &table[(row * side + col) * len..][..len];
                    out.iter_mut().zip(from).for_each(|(out, v)| *out += a * b * v);
                }
            }
        }
        Ok(out)
    }
}

/// The cubic convolution kernel of Keys with a = −3/4.
fn cubic(x: f32) -> f32 {
    const A: f32 = -0.75;
    let x = x.abs();
    match x {
        _ if x <= 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        _ if x < 2.0 => ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A,
        _ => 0.0,
    }
}

/// Each `s` × `s` patches of a grid of rows `len` wide become one row: the first of them first, row by row. The grid's
/// sides are multiples of `s`.
pub(super) fn merged(x: &[f32], (height, width): (usize, usize), len: usize, s: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for y in (0..height / s * s).step_by(s) {
        for at in (0..width / s * s).step_by(s) {
            for dy in 0..s {
                out.extend_from_slice(&x[((y + dy) * width + at) * len..][..s * len]);
            }
        }
    }
    out
}

/// The mean of each `s` × `s` patches.
pub(super) fn pooled(x: &[f32], (height, width): (usize, usize), len: usize, s: usize) -> Vec<f32> {
    let merged = merged(x, (height, width), len, s);
    let share = 1.0 / (s * s) as f32;
    merged
        .chunks(len * s * s)
        .flat_map(|all| {
            let mut mean = vec![0.0; len];
            all.chunks(len).for_each(|row| mean.iter_mut().zip(row).for_each(|(m, v)| *m += v * share));
            mean
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_positions_add_up_and_equal_grids_stay() {
        for resize in [Resize::Corners, Resize::Cubic, Resize::Smoothed, Resize::Buckets] {
            for (from, to) in [(4, 7), (7, 4), (16, 5), (3, 3), (5, 1)] {
                for shares in resize.along(from, to) {
                    let sum: f32 = shares.iter().map(|(_, share)| share).sum();
                    assert!((sum - 1.0).abs() < 1e-6, "{resize:?} {from} {to} {sum}");
                }
            }
        }
        let middle = Resize::Corners.positions(&[0.0, 2.0, 4.0, 6.0], 2, 1, (3, 3)).unwrap();
        assert_eq!(middle, [0.0, 1.0, 2.0, 2.0, 3.0, 4.0, 4.0, 5.0, 6.0]);
        assert!(Resize::Fixed.positions(&[0.0; 4], 2, 1, (3, 3)).is_err());
    }

    #[test]
    fn grids_that_are_not_said_are_as_square_as_can_be() {
        let pixels = |n: usize| Pixels::new(vec![0.0; n * 2], &[1, n, 2], None).unwrap();
        assert_eq!(pixels(24).grid(24, 2).unwrap().0, (4, 6));
        assert_eq!(pixels(16).grid(16, 2).unwrap().0, (4, 4));
        assert!(pixels(15).grid(15, 2).is_err());
        let said = Pixels::new(vec![0.0; 48], &[24, 2], Some((2, 12))).unwrap();
        assert_eq!(said.grid(24, 2).unwrap(), ((2, 12), None));
        assert!(said.grid(23, 1).is_err());
        assert!(Pixels::new(vec![0.0; 3], &[2, 2], None).is_err());
        assert!(Pixels::new(vec![0.0, f32::NAN], &[2], None).is_err());
    }

    #[test]
    fn patches_are_merged_row_by_row() {
        let x: Vec<f32> = (0..16).map(|i| i as f32).collect();
        assert_eq!(merged(&x, (4, 4), 1, 2)[..8], [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]);
        assert_eq!(pooled(&x, (4, 4), 1, 2), [2.5, 4.5, 10.5, 12.5]);
    }
}
