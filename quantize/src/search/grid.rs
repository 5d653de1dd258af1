//! Which numbers each format can hold, one row a format.
//!
//! A value is scale × level − min. The levels are even or sixteen points; the scale is a float of its own for each
//! block, or a float of the superblock times an integer of the block; the minimum likewise, where there is one. What
//! the search has chosen is written by the format's own layout (`super::pack`), so that decoding gives exactly the
//! chosen values: a product of scale and level, and a difference, each rounded to f32 as decoders do. (A table: the file of
//! code books imports what its rows are rows of.)

use convert::packed::Float;
use gguf::TensorType::{self, *};

use super::book::{self, Book};
use crate::lanes::{Floats, Ints, Masks};

/// The levels of a format.
#[derive(Clone, Copy, Debug)]
pub enum Levels {
    /// The integers from `low` to `high`.
    Even {
        /// The lowest.
        low: i32,
        /// The highest.
        high: i32,
    },
    /// A table of points.
    Points(Points),
    /// A book of groups of levels.
    Book(&'static Book),
}

/// Sixteen levels (or fewer, the last repeated), ascending.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Points {
    /// What the levels stand for.
    pub values: [f32; 16],
    /// Where each ends and the next begins.
    pub bounds: [f32; 16],
    /// The code of each.
    pub codes: [u8; 16],
}

impl Points {
    /// Points with their codes, ascending; fewer than sixteen are filled up.
    pub const fn new(points: &[f32], codes: &[u8]) -> Points {
        let (mut values, mut bounds, mut all) = ([0.0; 16], [f32::INFINITY; 16], [0; 16]);
        let mut i = 0;
        while i < 16 {
            let at = if i < points.len() { i } else { points.len() - 1 };
            values[i] = points[at];
            all[i] = codes[at];
            if i + 1 < points.len() {
                bounds[i] = (points[i] + points[i + 1]) / 2.0;
            }
            i += 1;
        }
        Points { values, bounds, codes: all }
    }
}

impl Levels {
    /// The nearest level.
    #[inline(always)]
    fn nearest<F: Floats>(&self, x: F) -> F {
        match self {
            Levels::Even { low, high } => x.nearest().min(F::splat(*high as f32)).max(F::splat(*low as f32)),
            Levels::Points(points) => F::lookup16(&points.values, index(points, x)),
            Levels::Book(_) => x,
        }
    }

    /// The level furthest from zero on either side.
    #[inline(always)]
    fn ends(&self) -> (f32, f32) {
        match self {
            Levels::Even { low, high } => (*low as f32, *high as f32),
            Levels::Points(points) => (points.values[0], points.values[15]),
            Levels::Book(_) => (-1.0, 1.0),
        }
    }
}

/// The place of the nearest point.
#[inline(always)]
fn index<F: Floats>(points: &Points, x: F) -> F::Int {
    let mut index = F::Int::splat(0);
    for step in [8, 4, 2, 1] {
        let next = index + F::Int::splat(step);
        let below = x.lt(F::lookup16(&points.bounds, next - F::Int::splat(1)));
        index = F::Int::select(below, index, next);
    }
    index
}

/// What a scale can be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// A binary16 of the block.
    Half,
    /// A float of the block, not below zero.
    Magnitude(Float),
    /// That of the row, which is chosen before.
    Row,
    /// Half a power of two (E8M0).
    Power,
    /// Half an unsigned E4M3.
    Small,
    /// The superblock's binary16 times an integer of the block.
    Times {
        /// The lowest integer.
        low: i32,
        /// The highest.
        high: i32,
    },
    /// The superblock's binary16 times (`first` + `step` × an integer from 0) × `part`.
    Stepped {
        /// What the integer 0 stands for.
        first: f32,
        /// What each more adds.
        step: f32,
        /// What the sum is multiplied with.
        part: f32,
        /// The highest integer.
        high: i32,
    },
}

/// What a minimum can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Min {
    /// There is none.
    None,
    /// A binary16 of the block, of either sign.
    Half,
    /// The superblock's binary16 times an integer from 0.
    Times {
        /// The highest.
        high: i32,
    },
}

/// The numbers that a format can hold.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Values of a superblock; of a block where there are no superblocks.
    pub len: usize,
    /// Values of a block: those that share a scale.
    pub sub: usize,
    /// Levels.
    pub levels: Levels,
    /// Scales.
    pub scale: Scale,
    /// Minima.
    pub min: Min,
}

const fn even(len: usize, sub: usize, low: i32, high: i32, scale: Scale, min: Min) -> Grid {
    Grid { len, sub, levels: Levels::Even { low, high }, scale, min }
}

const fn points(len: usize, sub: usize, points: Points, scale: Scale) -> Grid {
    Grid { len, sub, levels: Levels::Points(points), scale, min: Min::None }
}

const fn book(sub: usize, book: &'static Book, first: f32, step: f32, part: f32, high: i32) -> Grid {
    let scale = Scale::Stepped { first, step, part, high };
    Grid { len: 256, sub, levels: Levels::Book(book), scale, min: Min::None }
}

const IN_ORDER: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

const IQ4: Points = Points::new(
    &[-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0],
    &IN_ORDER,
);

/// Twice the values of E2M1.
const E2M1: Points = Points::new(
    &[-12.0, -8.0, -6.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0],
    &[15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7],
);

const SIX_BITS: Scale = Scale::Times { low: -32, high: 31 };

/// The formats of GGUF whose values are scale × level − min.
#[rustfmt::skip]
pub static GRIDS: &[(TensorType, Grid)] = &[
    (Q4_0,   even(32, 32,   -8,   7, Scale::Half, Min::None)),
    (Q4_1,   even(32, 32,    0,  15, Scale::Half, Min::Half)),
    (Q5_0,   even(32, 32,  -16,  15, Scale::Half, Min::None)),
    (Q5_1,   even(32, 32,    0,  31, Scale::Half, Min::Half)),
    (Q8_0,   even(32, 32, -127, 127, Scale::Half, Min::None)),
    (Q2_K,   even(256, 16,   0,   3, Scale::Times { low: 0, high: 15 }, Min::Times { high: 15 })),
    (Q3_K,   even(256, 16,  -4,   3, SIX_BITS, Min::None)),
    (Q4_K,   even(256, 32,   0,  15, Scale::Times { low: 0, high: 63 }, Min::Times { high: 63 })),
    (Q5_K,   even(256, 32,   0,  31, Scale::Times { low: 0, high: 63 }, Min::Times { high: 63 })),
    (Q6_K,   even(256, 16, -32,  31, Scale::Times { low: -128, high: 127 }, Min::None)),
    (IQ4_NL, points(32, 32, IQ4, Scale::Half)),
    (IQ4_XS, points(256, 32, IQ4, SIX_BITS)),
    (MXFP4,  points(32, 32, E2M1, Scale::Power)),
    (NVFP4,  points(64, 16, E2M1, Scale::Small)),
    (TQ1_0,  even(256, 256, -1,   1, Scale::Half, Min::None)),
    (TQ2_0,  even(256, 256, -1,   1, Scale::Half, Min::None)),
    (Q2_0,   even(64, 64,   -1,   2, Scale::Half, Min::None)),
    (IQ2_XXS, book(32, &book::IQ2_XXS, 0.5, 1.0, 0.25, 15)),
    (IQ2_XS,  book(16, &book::IQ2_XS,  0.5, 1.0, 0.25, 15)),
    (IQ2_S,   book(16, &book::IQ2_S,   0.5, 1.0, 0.25, 15)),
    (IQ3_XXS, book(32, &book::IQ3_XXS, 0.5, 1.0, 0.5, 15)),
    (IQ3_S,   book(32, &book::IQ3_S,   1.0, 2.0, 1.0, 15)),
    (IQ1_S,   book(32, &book::IQ1_S,   1.0, 2.0, 1.0, 7)),
    (IQ1_M,   book(16, &book::IQ1_M,   1.0, 2.0, 1.0, 7)),
];

/// The numbers of a type, where they are scale × level − min.
pub fn grid(ty: TensorType) -> Option<&'static Grid> {
    GRIDS.iter().find(|row| row.0 == ty).map(|row| &row.1)
}

impl Grid {
    /// Blocks of a superblock.
    pub fn blocks(&self) -> usize {
        self.len / self.sub
    }

    /// Whether scales (and minima) are integers times a float of the superblock.
    pub fn is_nested(&self) -> bool {
        matches!(self.scale, Scale::Times { .. } | Scale::Stepped { .. })
    }

    /// The level nearest to `x / scale`, with `inverse` = 1 / scale.
    #[inline(always)]
    pub(crate) fn level<F: Floats>(&self, x: F, inverse: F) -> F {
        self.levels.nearest(x * inverse)
    }

    /// The code of a level.
    pub fn code(&self, level: f32) -> u8 {
        match &self.levels {
            Levels::Even { low, .. } => (level as i32 - low) as u8,
            Levels::Points(points) => {
                let at = points.bounds.iter().position(|&bound| level < bound).unwrap_or(15);
                points.codes[at]
            }
            // Groups of levels have codes, not levels.
            Levels::Book(_) => 0,
        }
    }

    /// The scale that can be stored nearest to `scale`, `step` places away, and its code: the integer where the
    /// superblock's `d` is multiplied with one, else what the layout stores.
    #[inline(always)]
    pub(crate) fn scale<F: Floats>(&self, scale: F, d: F, step: i32) -> (F, F) {
        let notch = F::splat(1.0 + NOTCH * step as f32);
        match self.scale {
            Scale::Times { low, high } => {
                let code = ((scale * inverse(d)).nearest() + F::splat(step as f32))
                    .min(F::splat(high as f32))
                    .max(F::splat(low as f32));
                (d * code, code)
            }
            Scale::Stepped { first, step: more, part, high } => {
                let number = scale * inverse(d * F::splat(part));
                let code = (((number - F::splat(first)) * F::splat(1.0 / more)).nearest() + F::splat(step as f32))
                    .min(F::splat(high as f32))
                    .max(F::splat(0.0));
                (self.scale_of(code, d), code)
            }
            Scale::Half => {
                let half = F::from_half((scale * notch).to_half());
                (half, half)
            }
            Scale::Magnitude(float) => {
                let scale = rounded(float, (scale * notch).abs());
                (scale, scale)
            }
            Scale::Row => (d, d),
            Scale::Power => {
                // Nearest by ratio: the exponent after multiplying with the square root of two.
                let bits = (scale.abs() * F::splat(std::f32::consts::SQRT_2)).bits().shr(23) + F::Int::splat(step);
                let bits = bits.min(F::Int::splat(253)).max(F::Int::splat(1));
                (F::from_bits(bits.shl(23)), F::from_int(bits + F::Int::splat(1)))
            }
            Scale::Small => {
                let twice = scale.abs() * F::splat(2.0);
                let bits = (twice.bits() + F::Int::splat(0x0008_0000)).shr(20) - F::Int::splat(120 << 3);
                let tiny = (twice * F::splat(512.0)).nearest();
                let is_tiny = tiny.lt(F::splat(8.0));
                let code = F::select(is_tiny, tiny, F::from_int(bits)) + F::splat(step as f32);
                let code = code.min(F::splat(126.0)).max(F::splat(1.0));
                (half_of_ue4m3(code), code)
            }
        }
    }

    /// The minimum that can be stored nearest to `min`, `step` places away, and its code. Places of a minimum of its own
    /// are parts of the scale.
    #[inline(always)]
    pub(crate) fn minimum<F: Floats>(&self, min: F, dmin: F, scale: F, step: i32) -> (F, F) {
        match self.min {
            Min::None => (F::splat(0.0), F::splat(0.0)),
            Min::Times { high } => {
                let code = ((min * inverse(dmin)).nearest() + F::splat(step as f32))
                    .min(F::splat(high as f32))
                    .max(F::splat(0.0));
                (dmin * code, code)
            }
            Min::Half => {
                let half = F::from_half((min + scale * F::splat(0.2 * step as f32)).to_half());
                (half, half)
            }
        }
    }

    /// The scale of a code, as decoders compute it.
    #[inline(always)]
    pub(crate) fn scale_of<F: Floats>(&self, code: F, d: F) -> F {
        match self.scale {
            Scale::Times { .. } => d * code,
            Scale::Stepped { first, step, part, .. } => {
                (d * (F::splat(first) + F::splat(step) * code)) * F::splat(part)
            }
            Scale::Half | Scale::Magnitude(_) => code,
            Scale::Row => d,
            Scale::Power => F::from_bits((code.truncate() - F::Int::splat(1)).shl(23)),
            Scale::Small => half_of_ue4m3(code),
        }
    }

    /// What the superblock's float is multiplied with for a code.
    pub(crate) fn times(&self, code: f32) -> f32 {
        match self.scale {
            Scale::Stepped { first, step, part, .. } => (first + step * code) * part,
            _ => code,
        }
    }

    /// The minimum of a code, as decoders compute it.
    #[inline(always)]
    pub(crate) fn minimum_of<F: Floats>(&self, code: F, dmin: F) -> F {
        match self.min {
            Min::Times { .. } => dmin * code,
            _ => code,
        }
    }

    /// The scale of least weighted error for values without a minimum, of either sign.
    #[inline(always)]
    pub(crate) fn fit<F: Floats>(&self, x: &[F], w: &[F]) -> F {
        fit(&self.levels, x, w)
    }

    /// The scale and minimum of least weighted error. Minima below zero only where the format has them.
    #[inline(always)]
    pub(crate) fn fit_min<F: Floats>(&self, x: &[F], w: &[F]) -> (F, F) {
        let zero = F::splat(0.0);
        let (_, top) = self.levels.ends();
        let free = self.min == Min::Half;
        let (mut least, mut most) = (x[0], x[0]);
        let (mut sum_w, mut sum_x) = (zero, zero);
        for (&x, &w) in x.iter().zip(w) {
            least = least.min(x);
            most = most.max(x);
            sum_w = sum_w + w;
            sum_x = sum_x + w * x;
        }
        if !free {
            least = least.min(zero);
            most = most.max(zero);
        }
        let range = most - least;
        let flat = range.gt(zero).not();
        let range = F::select(flat, F::splat(1.0), range);
        let mut best = F::splat(f32::INFINITY);
        let (mut scale, mut min) = (zero, -least);
        for step in 0..AFFINE_TRIES {
            // From a range that is cut at both ends to one that is wider than the values.
            let cut = 0.62 + 0.55 * step as f32 / (AFFINE_TRIES - 1) as f32;
            let trial = range * F::splat(cut / top);
            let inverse = inverse(trial);
            // The middle stays where it is, unless the minimum is held at zero.
            let middle = (least + most) * F::splat(0.5);
            let start = middle - range * F::splat(cut * 0.5);
            let start = if free { start } else { start.min(zero) };
            let (mut sum_l, mut sum_ll, mut sum_lx) = (zero, zero, zero);
            for (&x, &w) in x.iter().zip(w) {
                let l = self.level(x - start, inverse);
                let wl = w * l;
                sum_l = sum_l + wl;
                sum_ll = sum_ll + wl * l;
                sum_lx = sum_lx + wl * x;
            }
            let determinant = sum_w * sum_ll - sum_l * sum_l;
            let mut s = (sum_w * sum_lx - sum_x * sum_l) / determinant;
            let mut m = (sum_l * sum_lx - sum_ll * sum_x) / determinant;
            let below = m.lt(zero);
            if !free && below.any() {
                s = F::select(below, sum_lx / sum_ll, s);
                m = F::select(below, zero, m);
            }
            let good = zero.lt(determinant) & zero.lt(s);
            let inverse = F::splat(1.0) / F::select(good, s, F::splat(1.0));
            let mut error = zero;
            for (&x, &w) in x.iter().zip(w) {
                let difference = (s * self.level(x + m, inverse) - m) - x;
                error = error + (w * difference) * difference;
            }
            let better = good & error.lt(best);
            best = F::select(better, error, best);
            scale = F::select(better, s, scale);
            min = F::select(better, m, min);
        }
        let found = best.lt(F::splat(f32::INFINITY)) & flat.not();
        (F::select(found, scale, zero), F::select(found, min, -least))
    }

    /// A superblock's float for the integers of these scales (or minima), each weighted.
    #[inline(always)]
    pub(crate) fn fit_super<F: Floats>(low: i32, high: i32, x: &[F], w: &[F]) -> F {
        F::from_half(fit(&Levels::Even { low, high }, x, w).to_half())
    }
}

/// How far one step of a float scale goes.
const NOTCH: f32 = 0.02;

const AFFINE_TRIES: usize = 24;

/// 1 / x, 0 for 0.
#[inline(always)]
pub(crate) fn inverse<F: Floats>(x: F) -> F {
    F::select(x.eq(F::splat(0.0)), F::splat(0.0), F::splat(1.0) / x)
}

/// A value, not below zero, as a type holds it.
#[inline(always)]
fn rounded<F: Floats>(float: Float, x: F) -> F {
    match float {
        Float::F32 => x,
        Float::F16 => F::from_half(x.to_half()),
        Float::Bf16 => {
            let bits = x.bits();
            let odd = bits.shr(16) - bits.shr(17).shl(1);
            F::from_bits((bits + odd + F::Int::splat(0x7FFF)).shr(16).shl(16))
        }
    }
}

/// Half of the unsigned E4M3 with this code.
#[inline(always)]
fn half_of_ue4m3<F: Floats>(code: F) -> F {
    let tiny = code * F::splat(1.0 / 1024.0);
    let normal = F::from_bits((code.truncate() + F::Int::splat(119 << 3)).shl(20));
    F::select(code.lt(F::splat(8.0)), tiny, normal)
}

/// The scale of least weighted error for levels from `low` to `high`: the largest value is brought to places around
/// either end, and the levels of each try decide the scale that fits them best.
#[inline(always)]
fn fit<F: Floats>(levels: &Levels, x: &[F], w: &[F]) -> F {
    let zero = F::splat(0.0);
    let (low, high) = levels.ends();
    let (mut largest, mut magnitude) = (zero, zero);
    for &x in x {
        let more = magnitude.lt(x.abs());
        magnitude = F::select(more, x.abs(), magnitude);
        largest = F::select(more, x, largest);
    }
    let is_zero = magnitude.eq(zero);
    let per_value = F::splat(1.0) / F::select(is_zero, F::splat(1.0), largest);
    let (mut scale, mut best) = (zero, zero);
    for end in [low, high] {
        if end == 0.0 {
            continue;
        }
        for step in 0..TRIES {
            let share = 0.7 + 0.45 * step as f32 / (TRIES - 1) as f32;
            let factor = per_value * F::splat(end * share);
            let (mut sum_lx, mut sum_ll) = (zero, zero);
            for (&x, &w) in x.iter().zip(w) {
                let l = levels.nearest(x * factor);
                sum_lx = sum_lx + (w * x) * l;
                sum_ll = sum_ll + (w * l) * l;
            }
            let better = zero.lt(sum_ll) & (best * sum_ll).lt(sum_lx * sum_lx);
            let fitted = sum_lx / sum_ll;
            scale = F::select(better, fitted, scale);
            best = F::select(better, fitted * sum_lx, best);
        }
    }
    F::select(is_zero, zero, scale)
}

/// Tries around either end.
const TRIES: usize = 12;
