//! Double quantization: the scales of the blocks, themselves in 8 bits.
//!
//! The mean of all scales is taken off, and what remains is quantized in blocks of 256 to the nearest of 256 points of
//! the signed dynamic map: a decimal exponent from −6 to 0 and a fraction that has the more bits the larger the
//! exponent (Dettmers, *8-Bit Approximations for Parallelism in Deep Learning*, 2015).

use std::sync::LazyLock;

use convert::packed::bnb::{NESTED_BLOCK as BLOCK, decode_nested};

use super::absmax::absmax;

/// The 256 points in ascending order (`nested_quant_map`).
pub static POINTS: LazyLock<[f32; 256]> = LazyLock::new(|| {
    let mut points = vec![0.0, 1.0];
    for exponent in 0..7 {
        let edges = even_steps(0.1, 1.0, (1 << exponent) + 1);
        let power = 10_f64.powi(exponent - 6) as f32;
        for edge in edges.windows(2) {
            let point = power * ((edge[0] + edge[1]) / 2.0);
            points.extend([point, -point]);
        }
    }
    points.sort_by(f32::total_cmp);
    let mut all = [0.0; 256];
    all.copy_from_slice(&points);
    all
});

/// `n` values from `start` to `end`, counted from the nearer end, each rounded once (torch's `linspace`).
fn even_steps(start: f32, end: f32, n: usize) -> Vec<f32> {
    let step = f64::from((end - start) / (n - 1) as f32);
    (0..n)
        .map(|i| {
            if i < n / 2 {
                (f64::from(start) + step * i as f64) as f32
            } else {
                (f64::from(end) - step * (n - 1 - i) as f64) as f32
            }
        })
        .collect()
}

/// Scales in 8 bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Nested {
    /// The mean that was taken off.
    pub offset: f32,
    /// A code for each scale.
    pub codes: Vec<u8>,
    /// A scale for each 256 of them.
    pub scales: Vec<f32>,
}

impl Nested {
    /// Quantizes finite scales.
    pub fn encode(scales: &[f32]) -> Nested {
        let offset = mean(scales);
        let table = &*NEAREST;
        let mut nested = Nested { offset, codes: Vec::with_capacity(scales.len()), scales: Vec::new() };
        let mut rest = [0.0; BLOCK];
        for block in scales.chunks(BLOCK) {
            let rest = &mut rest[..block.len()];
            for (rest, scale) in rest.iter_mut().zip(block) {
                *rest = scale - offset;
            }
            let max = absmax(rest).unwrap_or(0.0);
            nested.scales.push(max);
            let factor = 1.0 / max;
            nested.codes.extend(rest.iter().map(|v| nearest(table, v * factor)));
        }
        nested
    }

    /// The scales these codes stand for.
    pub fn decode(&self) -> Vec<f32> {
        decode_nested(&POINTS, &self.codes, &self.scales, BLOCK, self.offset)
    }
}

/// The nearest code of each of 65536 even steps from −1 to 1.
///
/// The library looks codes up in such a table rather than searching for the nearest, so a value within half a step of a
/// half-way mark can get the neighbour: its bytes depend on it, and an exact zero becomes the code of 1.2e-5.
static NEAREST: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let points = &*POINTS;
    let mut code = 0;
    (0..=u16::MAX)
        .map(|i| {
            let value = f32::from(i) / HALF_STEPS - 1.0;
            while code < 255 && value > (points[code] + points[code + 1]) / 2.0 {
                code += 1;
            }
            code as u8
        })
        .collect()
});

/// Steps of the table from 0 to 1.
const HALF_STEPS: f32 = 32767.5;

/// The code of a value from −1 to 1; NaN, from a block of zeros, gets the first.
fn nearest(table: &[u8], value: f32) -> u8 {
    let step = (value + 1.0) * HALF_STEPS + 0.5;
    table[(step as usize).min(table.len() - 1)]
}

/// The mean in f32, added up in the order of torch's cascade sum with eight lanes and one thread.
///
/// Four accumulators of eight lanes each run over the values, and every 16 (or more) steps are folded into the next of
/// four levels, which keeps the rounding error small. The order decides the last bits of the offset and with them the
/// bytes of the file.
pub fn mean(values: &[f32]) -> f32 {
    const LANES: usize = 8;
    const ROWS: usize = 4;
    const LEVELS: usize = 4;
    type Row = [f32; LANES];
    let add = |a: &mut Row, b: &Row| a.iter_mut().zip(b).for_each(|(a, b)| *a += b);

    let (rows, tail) = values.as_chunks::<LANES>();
    let (steps, odd) = rows.as_chunks::<ROWS>();
    let ceil_log2 = steps.len().max(1).next_power_of_two().trailing_zeros() as usize;
    let power = (ceil_log2 / LEVELS).max(4);
    let mut levels = [[[0.0; LANES]; ROWS]; LEVELS];
    let folded = steps.len() >> power << power;
    for (i, step) in steps.iter().enumerate() {
        for (sum, row) in levels[0].iter_mut().zip(step) {
            add(sum, row);
        }
        let done = i + 1;
        if done <= folded && done % (1 << power) == 0 {
            for level in 1..LEVELS {
                let below = std::mem::take(&mut levels[level - 1]);
                for (sum, row) in levels[level].iter_mut().zip(&below) {
                    add(sum, row);
                }
                if done & (((1 << power) - 1) << (level * power)) != 0 {
                    break;
                }
            }
        }
    }
    let [mut sums, upper @ ..] = levels;
    for level in &upper {
        for (sum, row) in sums.iter_mut().zip(level) {
            add(sum, row);
        }
    }
    let [mut sum, others @ ..] = sums;
    for row in odd {
        add(&mut sum, row);
    }
    for row in &others {
        add(&mut sum, row);
    }
    let total = tail.iter().chain(&sum).fold(0.0, |total, v| total + v);
    total / values.len() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_ascending_and_codes_are_nearest() {
        let points = &*POINTS;
        assert!(points.windows(2).all(|w| w[0] < w[1]));
        for (i, &point) in points.iter().enumerate() {
            // Around zero the points lie closer than the table's steps.
            let code = usize::from(nearest(&NEAREST, point));
            assert!((points[code] - point).abs() <= 2.0 / 65535.0, "{i}");
            assert!(code == i || point.abs() < 1e-4, "{i}");
        }
        assert_eq!(nearest(&NEAREST, -2.0), 0);
        assert_eq!(nearest(&NEAREST, 2.0), 255);
        assert_eq!(nearest(&NEAREST, f32::NAN), 0);
    }

    #[test]
    fn equal_scales_survive() {
        let nested = Nested::encode(&[0.25; 300]);
        assert_eq!(nested.scales, [0.0, 0.0]);
        assert_eq!(nested.decode(), [0.25; 300]);
    }

    #[test]
    fn the_mean_is_the_mean() {
        for n in [1, 7, 8, 31, 33, 1000, 20_000] {
            let values: Vec<f32> = (0..n).map(|i| ((i * 7919) % 1013) as f32).collect();
            let exact = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
            approx::assert_relative_eq!(f64::from(mean(&values)), exact, max_relative = 1e-6);
        }
    }
}
