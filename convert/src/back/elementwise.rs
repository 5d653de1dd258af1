//! The inverse of a function of single numbers, found by looking: what a 16-bit float becomes is a table of 65,536
//! rows, and what no such float becomes is searched by halving, since every such function rises or falls throughout.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use gguf::Result;

use crate::transform::{Elements, RowSource, Rows, from_f32, to_f32};

/// A function and what it makes of every bfloat16.
struct Inverse<F> {
    f: F,
    /// The number of the smallest magnitude that has a value, by the value's bits.
    table: HashMap<u32, f32>,
}

impl<F: Fn(f32) -> f32> Inverse<F> {
    fn of(f: F) -> Inverse<F> {
        let mut table: HashMap<u32, f32> = HashMap::new();
        for bits in 0..=u16::MAX {
            let number = f32::from_bits(u32::from(bits) << 16);
            let value = f(number);
            if number.is_finite() && value.is_finite() {
                table
                    .entry(value.to_bits())
                    .and_modify(|old| {
                        if number.abs() < old.abs() {
                            *old = number;
                        }
                    })
                    .or_insert(number);
            }
        }
        Inverse { f, table }
    }

    /// A number that has this value, or comes nearest to it.
    fn at(&self, value: f32) -> f32 {
        self.table.get(&value.to_bits()).copied().unwrap_or_else(|| self.search(value))
    }

    fn search(&self, value: f32) -> f32 {
        let finite = |number: i64| {
            let v = (self.f)(of_rank(number));
            if v.is_nan() { f32::INFINITY } else { v }
        };
        let (mut low, mut high) = (rank(f32::MIN), rank(f32::MAX));
        let rises = finite(rank(1.0)) > finite(rank(-1.0));
        while low < high {
            let middle = (low + high).div_euclid(2);
            let v = finite(middle);
            if if rises { v < value } else { v > value } { low = middle + 1 } else { high = middle }
        }
        // Of the two neighbours the nearer one.
        let near = |n: i64| (f64::from(finite(n)) - f64::from(value)).abs();
        let best = if low > rank(f32::MIN) && near(low - 1) < near(low) { low - 1 } else { low };
        of_rank(best)
    }
}

/// Floats by their order.
fn rank(v: f32) -> i64 {
    let bits = i64::from(v.to_bits() & 0x7FFF_FFFF);
    if v.is_sign_negative() { -bits } else { bits }
}

fn of_rank(rank: i64) -> f32 {
    let magnitude = f32::from_bits(rank.unsigned_abs() as u32);
    if rank < 0 { -magnitude } else { magnitude }
}

struct Undone<F> {
    of: Rows,
    inverse: Inverse<F>,
}

impl<F> fmt::Debug for Undone<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Undone").field("of", &self.of).finish()
    }
}

/// The tensor that `f` was applied to.
pub(crate) fn undone(of: &Rows, f: impl Fn(f32) -> f32 + Send + Sync + 'static) -> Rows {
    Arc::new(Undone { of: Arc::clone(of), inverse: Inverse::of(f) })
}

impl<F: Fn(f32) -> f32 + Send + Sync> RowSource for Undone<F> {
    fn shape(&self) -> &[u64] {
        self.of.shape()
    }
    fn elements(&self) -> Elements {
        Elements::F32
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let mut floats = to_f32(self.of.elements(), &self.of.rows(rows)?)?;
        floats.iter_mut().for_each(|v| *v = self.inverse.at(*v));
        Ok(Cow::Owned(from_f32(&floats, Elements::F32)))
    }
    fn release(&self, rows: Range<u64>) {
        self.of.release(rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_undone() {
        let functions: [fn(f32) -> f32; 5] =
            [|v| v + 1.0, |v| -crate::transform::exp(v), |v| v + 0.2, |v| v * 0.25, |v| v * 1.632_993_2];
        for f in functions {
            let inverse = Inverse::of(f);
            for bits in [0x3F80_u16, 0x3DCD, 0x4048, 0xBE80, 0x3C00] {
                let number = f32::from_bits(u32::from(bits) << 16);
                assert_eq!(inverse.at(f(number)), number);
            }
            for number in [0.123_456_7_f32, -1.765_432, 3.3] {
                assert_eq!(f(inverse.at(f(number))), f(number), "{number}");
            }
        }
    }
}
