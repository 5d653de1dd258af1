//! Tensors that depend on a sum over many of their elements: ternary weights, normalized columns, centered vectors.
//!
//! Floating-point sums depend on their order. Those of up to [`SERIAL`] elements are added as the reference's library
//! adds them (torch's cascade sum with vectors of eight lanes, which is the same on every processor with AVX2), so that
//! the bytes are the same. Beyond that the library's result depends on the number of threads; here the sum is then
//! rounded correctly.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use gguf::Result;

use crate::transform::{Elements, RowSource, Rows, from_f32, row_count, row_len, to_f32, values};

/// Sums of fewer elements are made by one thread.
const SERIAL: u64 = 32768;
const LANES: usize = 8;
/// Vectors that are added side by side.
const SIDE: usize = 4;
/// Partial sums of partial sums.
const LEVELS: usize = 4;
/// A few thousand elements at a time: no tensor is in memory as a whole.
const CHUNK: u64 = 1 << 16;

type Vector<const N: usize> = [f32; N];

fn add<const N: usize>(sum: &mut Vector<N>, more: &Vector<N>) {
    sum.iter_mut().zip(more).for_each(|(s, m)| *s += m);
}

/// The sum of vectors: four side by side, and of each a cascade, so that large sums meet large ones.
fn cascade<const N: usize>(vectors: &[Vector<N>]) -> Vector<N> {
    let rows = vectors.as_chunks::<SIDE>().0;
    let logarithm = usize::BITS - rows.len().saturating_sub(1).leading_zeros();
    let power = (logarithm as usize / LEVELS).max(4);
    let step = 1 << power;
    let mut sums = [[[0.0_f32; N]; SIDE]; LEVELS];
    for (i, row) in rows.iter().enumerate() {
        sums[0].iter_mut().zip(row).for_each(|(s, v)| add(s, v));
        let done = i + 1;
        if !done.is_multiple_of(step) {
            continue;
        }
        for level in 1..LEVELS {
            let lower = std::mem::replace(&mut sums[level - 1], [[0.0; N]; SIDE]);
            sums[level].iter_mut().zip(&lower).for_each(|(s, v)| add(s, v));
            if done & ((step - 1) << (level * power)) != 0 {
                break;
            }
        }
    }
    let [mut total, higher @ ..] = sums;
    for level in &higher {
        total.iter_mut().zip(level).for_each(|(s, v)| add(s, v));
    }
    let [mut first, others @ ..] = total;
    vectors.as_chunks::<SIDE>().1.iter().for_each(|v| add(&mut first, v));
    others.iter().for_each(|v| add(&mut first, v));
    first
}

/// The sum of elements in the library's order. Those of 16 bits are taken in vectors of twice the length.
fn sum(values: &[f32], elements: Elements) -> f32 {
    const WIDE: usize = 2 * LANES;
    let (vectors, rest): (Vec<Vector<LANES>>, &[f32]) = if elements == Elements::F32 {
        let (vectors, rest) = values.as_chunks::<LANES>();
        (vectors.to_vec(), rest)
    } else {
        let (pairs, rest) = values.as_chunks::<WIDE>();
        (pairs.iter().map(|p| std::array::from_fn(|i| p[i] + p[i + LANES])).collect(), rest)
    };
    if vectors.is_empty() {
        let single: Vec<Vector<1>> = values.iter().map(|v| [*v]).collect();
        return cascade(&single)[0];
    }
    let rest = rest.iter().fold(0.0, |sum, v| sum + v);
    cascade(&vectors).iter().fold(rest, |sum, v| sum + v)
}

/// Goes through a tensor's elements, a few thousand at a time.
fn each(of: &Rows, mut see: impl FnMut(&[f32])) -> Result<()> {
    let count = row_count(of.shape());
    let rows = (CHUNK / row_len(of.shape()).max(1)).max(1);
    for first in (0..count).step_by(rows as usize) {
        let range = first..(first + rows).min(count);
        see(&to_f32(of.elements(), &of.rows(range.clone())?)?);
        of.release(range);
    }
    Ok(())
}

/// The mean of what `f` makes of the elements as f32.
fn mean(of: &Rows, elements: Elements, f: fn(f32) -> f32) -> Result<f32> {
    let count: u64 = of.shape().iter().product();
    let mut seen: Vec<f32> = Vec::new();
    let mut wide = 0.0_f64;
    each(of, |part| {
        if count < SERIAL {
            seen.extend(part.iter().map(|v| f(*v)));
        } else {
            wide += part.iter().map(|v| f64::from(f(*v))).sum::<f64>();
        }
    })?;
    Ok(if count < SERIAL { sum(&seen, elements) / count as f32 } else { (wide / count as f64) as f32 })
}

/// Minus one, zero or one times the mean magnitude, by the nearest (Ma et al., *The Era of 1-bit LLMs*, 2024).
#[derive(Debug)]
struct Ternary {
    of: Rows,
    inverse: OnceLock<f32>,
    elements: Elements,
}

/// The tensor's ternary weights, as floats.
pub(crate) fn ternary(of: &Rows) -> Rows {
    let elements = if of.elements() == Elements::F16 { Elements::F16 } else { Elements::F32 };
    Arc::new(Ternary { of: Arc::clone(of), inverse: OnceLock::new(), elements })
}

impl RowSource for Ternary {
    fn shape(&self) -> &[u64] {
        self.of.shape()
    }
    fn elements(&self) -> Elements {
        self.elements
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let inverse = match self.inverse.get() {
            Some(inverse) => *inverse,
            None => {
                let scale = mean(&self.of, Elements::F32, f32::abs)?.max(1e-5);
                *self.inverse.get_or_init(|| 1.0 / scale)
            }
        };
        let mut floats = to_f32(self.of.elements(), &self.of.rows(rows)?)?;
        floats.iter_mut().for_each(|v| *v = (*v * inverse).round_ties_even().clamp(-1.0, 1.0) / inverse);
        Ok(Cow::Owned(from_f32(&floats, self.elements)))
    }
    fn release(&self, rows: Range<u64>) {
        self.of.release(rows);
    }
}

/// Columns divided by their length.
#[derive(Debug)]
struct Normalized {
    of: Rows,
    lengths: OnceLock<Vec<f32>>,
}

/// A matrix with columns of length 1, in f32.
pub(crate) fn normalized_columns(of: &Rows) -> Rows {
    Arc::new(Normalized { of: Arc::clone(of), lengths: OnceLock::new() })
}

impl Normalized {
    fn lengths(&self) -> Result<&[f32]> {
        if let Some(lengths) = self.lengths.get() {
            return Ok(lengths);
        }
        let columns = row_len(self.of.shape()).max(1) as usize;
        let mut squares = vec![0.0_f32; columns];
        each(&self.of, |part| {
            for row in part.chunks(columns) {
                squares.iter_mut().zip(row).for_each(|(s, v)| *s += v * v);
            }
        })?;
        // So that a column of zeros stays one.
        Ok(self.lengths.get_or_init(|| squares.iter().map(|s| s.sqrt() + 1e-7).collect()))
    }
}

impl RowSource for Normalized {
    fn shape(&self) -> &[u64] {
        self.of.shape()
    }
    fn elements(&self) -> Elements {
        Elements::F32
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let lengths = self.lengths()?;
        let mut floats = to_f32(self.of.elements(), &self.of.rows(rows)?)?;
        for row in floats.chunks_mut(lengths.len()) {
            row.iter_mut().zip(lengths).for_each(|(v, length)| *v /= length);
        }
        Ok(Cow::Owned(from_f32(&floats, Elements::F32)))
    }
    fn release(&self, rows: Range<u64>) {
        self.of.release(rows);
    }
}

/// A vector minus its mean, both rounded to its own type.
pub(crate) fn centered(of: &Rows) -> Result<Rows> {
    let elements = of.elements();
    let rounded = |v: &[f32]| to_f32(elements, &from_f32(v, elements));
    let mean = rounded(&[mean(of, elements, |v| v)?])?;
    let mut floats = Vec::new();
    each(of, |part| floats.extend(part.iter().zip(mean.iter().cycle()).map(|(v, mean)| v - mean)))?;
    Ok(values(of.shape().to_vec(), &rounded(&floats)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(rows: &Rows) -> Vec<f32> {
        to_f32(rows.elements(), &rows.rows(0..row_count(rows.shape())).unwrap()).unwrap()
    }

    #[test]
    fn sums_of_any_length_are_sums() {
        for n in [0_u32, 1, 3, 7, 8, 9, 31, 32, 33, 500, 4096, 20_000] {
            let numbers: Vec<f32> = (0..n).map(|i| (i % 7) as f32).collect();
            let exact = numbers.iter().sum::<f32>();
            assert_eq!((sum(&numbers, Elements::F32), sum(&numbers, Elements::BF16)), (exact, exact), "{n}");
        }
    }

    #[test]
    fn ternary_weights_have_one_magnitude() {
        let of = values(vec![2, 2], &[0.5, -1.5, 0.25, -0.75]);
        assert_eq!(all(&ternary(&of)), [0.75, -0.75, 0.0, -0.75]);
    }

    #[test]
    fn columns_have_length_one() {
        let of = values(vec![2, 2], &[3.0, 0.0, 4.0, 0.0]);
        let rows = all(&normalized_columns(&of));
        assert!((rows[0] - 0.6).abs() < 1e-6 && (rows[2] - 0.8).abs() < 1e-6, "{rows:?}");
        assert_eq!((rows[1], rows[3]), (0.0, 0.0));
    }

    #[test]
    fn centered_vectors_have_no_mean() {
        assert_eq!(all(&centered(&values(vec![4], &[1.0, 2.0, 3.0, 6.0])).unwrap()), [-2.0, -1.0, 0.0, 3.0]);
    }
}
