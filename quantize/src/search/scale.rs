//! The searches for the scale (and minimum) that quantized blocks have in common, one lane per block.
//!
//! Each follows the reference operation by operation: which candidate wins depends on the last bit of a sum. Branches on
//! data are selects. None stores the levels of a candidate as integers: a search returns the factor they were taken
//! with, from which [`Affine::levels`] and [`Symmetric::levels`] derive them again.
//!
//! Sources: `make_qkx2_quants` and `make_qkx3_quants` ([`affine`]), `make_qx_quants` ([`symmetric`]), `make_q3_quants`
//! ([`refined`]), `make_qp_quants` ([`positive`]) of ggml-quants.c.

use crate::lanes::{Floats, Ints, Masks, Routine, nearest_int};

/// Blocks whose largest magnitude is below this count as zero.
const TINY: f32 = 1e-15;

/// What [`affine`] tries: levels 0 to `levels`, factors `(first + step × i + levels) / range` for i up to `steps`.
#[derive(Clone, Copy)]
pub(crate) struct AffineTries {
    pub(crate) levels: f32,
    pub(crate) first: f32,
    pub(crate) step: f32,
    pub(crate) steps: u32,
}

/// x ≈ scale × level − min.
#[derive(Clone, Copy)]
pub(crate) struct Affine<F> {
    pub(crate) scale: F,
    pub(crate) min: F,
    factor: F,
    offset: F,
}

impl<F: Floats> Affine<F> {
    /// A value to fill arrays with.
    #[inline(always)]
    pub(crate) fn zero() -> Self {
        let zero = F::splat(0.0);
        Affine { scale: zero, min: zero, factor: zero, offset: zero }
    }

    /// The level that the search gave to a value.
    #[inline(always)]
    pub(crate) fn level(&self, x: F, levels: i32) -> F::Int {
        clamp(nearest_int(self.factor * (x - self.offset)), 0, levels)
    }
}

/// Limits in the order of `MAX(low, MIN(high, level))`.
#[inline(always)]
pub(crate) fn clamp<I: Ints>(level: I, low: i32, high: i32) -> I {
    level.min(I::splat(high)).max(I::splat(low))
}

/// The scale and minimum of least weighted error.
#[inline(always)]
pub(crate) fn affine<F: Floats, const N: usize, const ABSOLUTE: bool>(
    tries: AffineTries,
    x: &[F; N],
    w: &[F; N],
) -> Affine<F> {
    struct Search<'a, F, const N: usize, const ABSOLUTE: bool, const EXACT: bool>(AffineTries, &'a [F; N], &'a [F; N]);
    impl<F: Floats, const N: usize, const ABSOLUTE: bool, const EXACT: bool> Routine for Search<'_, F, N, ABSOLUTE, EXACT> {
        type Output = (Affine<F>, bool);
        #[inline(always)]
        fn run(self) -> (Affine<F>, bool) {
            affine_tries::<F, N, ABSOLUTE, EXACT>(self.0, self.1, self.2)
        }
    }
    let (found, sure) = F::call(Search::<F, N, ABSOLUTE, false>(tries, x, w));
    if sure { found } else { F::call(Search::<F, N, ABSOLUTE, true>(tries, x, w)).0 }
}

/// With `EXACT` levels go through integers, as in the reference. Without, they stay floats, and the second result is
/// whether that made no difference.
#[inline(always)]
fn affine_tries<F: Floats, const N: usize, const ABSOLUTE: bool, const EXACT: bool>(
    tries: AffineTries,
    x: &[F; N],
    w: &[F; N],
) -> (Affine<F>, bool) {
    let zero = F::splat(0.0);
    let one = F::splat(1.0);
    let levels = F::splat(tries.levels);

    let (mut min, mut max) = (x[0], x[0]);
    let mut sum_w = w[0];
    let mut sum_x = sum_w * x[0];
    for i in 1..N {
        min = x[i].min(min);
        max = x[i].max(max);
        sum_w = sum_w + w[i];
        sum_x = sum_x + w[i] * x[i];
    }
    let lowest = min;
    min = zero.min(min);
    let constant = max.eq(min);
    // Lanes with one value have no range; any other keeps their (unused) numbers ordinary.
    let range = |min: F| F::select(constant, one, max - min);
    let limit = F::splat(4_194_303.0);
    let mut sure = max.eq(max);

    let mut taken = [zero; N];
    let mut factor = levels / range(min);
    let mut scale = one / factor;
    let mut best = zero;
    sure = sure & (factor * (lowest - min)).abs().lt(limit) & (factor * (max - min)).abs().lt(limit);
    for i in 0..N {
        let level = affine_level::<F, EXACT>(factor * (x[i] - min), levels);
        let difference = (scale * level + min) - x[i];
        let error = if ABSOLUTE { difference.abs() } else { difference * difference };
        best = best + w[i] * error;
    }
    let mut found = Affine { scale, min, factor, offset: min };

    for step in 0..=tries.steps {
        factor = F::splat((tries.first + tries.step * step as f32) + tries.levels) / range(min);
        sure = sure & (factor * (lowest - min)).abs().lt(limit) & (factor * (max - min)).abs().lt(limit);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (zero, zero, zero);
        for i in 0..N {
            let level = affine_level::<F, EXACT>(factor * (x[i] - min), levels);
            taken[i] = level;
            let wl = w[i] * level;
            sum_l = sum_l + wl;
            sum_l2 = sum_l2 + wl * level;
            sum_xl = sum_xl + wl * x[i];
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        let solvable = zero.lt(determinant);
        let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        let above = zero.lt(this_min);
        if above.any() {
            this_min = zero.min(this_min);
            this_scale = F::select(above, sum_xl / sum_l2, this_scale);
        }
        let mut sum = zero;
        for i in 0..N {
            let difference = (this_scale * taken[i] + this_min) - x[i];
            let error = if ABSOLUTE { difference.abs() } else { difference * difference };
            sum = sum + w[i] * error;
        }
        let better = solvable & sum.lt(best);
        best = F::select(better, sum, best);
        found.factor = F::select(better, factor, found.factor);
        found.offset = F::select(better, min, found.offset);
        scale = F::select(better, this_scale, scale);
        min = F::select(better, this_min, min);
    }
    found.scale = F::select(constant, zero, scale);
    found.factor = F::select(constant, zero, found.factor);
    found.min = -F::select(constant, zero.min(lowest), min);
    found.offset = F::select(constant, zero.min(lowest), found.offset);
    let unsure = (sure | constant).not();
    (found, EXACT || !unsure.any())
}

#[inline(always)]
fn affine_level<F: Floats, const EXACT: bool>(value: F, levels: F) -> F {
    if EXACT {
        F::from_int(nearest_int(value)).min(levels).max(F::splat(0.0))
    } else {
        value.nearest().min(levels).max(F::splat(0.0))
    }
}

/// x ≈ scale × (level − half), with levels from 0 to 2 half − 1.
#[derive(Clone, Copy)]
pub(crate) struct Symmetric<F: Floats> {
    pub(crate) scale: F,
    factor: F,
    is_zero: F::Mask,
}

impl<F: Floats> Symmetric<F> {
    /// A value to fill arrays with.
    #[inline(always)]
    pub(crate) fn zero() -> Self {
        let zero = F::splat(0.0);
        Symmetric { scale: zero, factor: zero, is_zero: zero.eq(zero) }
    }

    /// The level that the search gave to a value; 0 in blocks that count as zero.
    #[inline(always)]
    pub(crate) fn level(&self, x: F, half: i32) -> F::Int {
        let level = clamp(nearest_int(self.factor * x), -half, half - 1) + F::Int::splat(half);
        F::Int::select(self.is_zero, F::Int::splat(0), level)
    }
}

/// The scale of least weighted error out of 19 around the one that maps the largest magnitude to −half.
///
/// `EXACT` is for values that may not be finite: levels then go through integers, as in the reference. Without, values
/// are finite, and no level leaves the range of [`Floats::nearest`].
#[inline(always)]
pub(crate) fn symmetric<F: Floats, const N: usize, const EXACT: bool>(
    half: f32,
    x: &[F; N],
    w: &[F; N],
) -> Symmetric<F> {
    struct Search<'a, F, const N: usize, const EXACT: bool>(f32, &'a [F; N], &'a [F; N]);
    impl<F: Floats, const N: usize, const EXACT: bool> Routine for Search<'_, F, N, EXACT> {
        type Output = Symmetric<F>;
        #[inline(always)]
        fn run(self) -> Symmetric<F> {
            symmetric_tries::<F, N, EXACT>(self.0, self.1, self.2)
        }
    }
    F::call(Search::<F, N, EXACT>(half, x, w))
}

#[inline(always)]
fn symmetric_tries<F: Floats, const N: usize, const EXACT: bool>(half: f32, x: &[F; N], w: &[F; N]) -> Symmetric<F> {
    let zero = F::splat(0.0);
    let (largest, is_zero) = signed_largest(x);
    let mut factor = F::splat(-half) / largest;
    let (mut sum_lx, mut sum_l2) = symmetric_sums::<F, N, EXACT>(factor, half, x, w);
    let mut scale = F::select(sum_l2.eq(zero), zero, sum_lx / sum_l2);
    let mut best = scale * sum_lx;
    let mut found = Symmetric { scale, factor, is_zero };
    for step in -9..=9 {
        if step == 0 {
            continue;
        }
        factor = F::splat(-(half + 0.1 * step as f32)) / largest;
        (sum_lx, sum_l2) = symmetric_sums::<F, N, EXACT>(factor, half, x, w);
        let better = zero.lt(sum_l2) & (best * sum_l2).lt(sum_lx * sum_lx);
        if better.any() {
            scale = sum_lx / sum_l2;
            found.scale = F::select(better, scale, found.scale);
            found.factor = F::select(better, factor, found.factor);
            best = F::select(better, scale * sum_lx, best);
        }
    }
    found.scale = F::select(is_zero, zero, found.scale);
    found
}

/// The first value of the largest magnitude, or 1 in lanes where all values count as zero, and which lanes those are.
#[inline(always)]
fn signed_largest<F: Floats, const N: usize>(x: &[F; N]) -> (F, F::Mask) {
    let (mut largest, mut magnitude) = (F::splat(0.0), F::splat(0.0));
    for &x in x {
        let more = magnitude.lt(x.abs());
        magnitude = F::select(more, x.abs(), magnitude);
        largest = F::select(more, x, largest);
    }
    let is_zero = magnitude.lt(F::splat(TINY));
    (F::select(is_zero, F::splat(1.0), largest), is_zero)
}

/// Σ w x l and Σ w l² of the levels (without `half`) that a factor gives.
#[inline(always)]
fn symmetric_sums<F: Floats, const N: usize, const EXACT: bool>(
    factor: F,
    half: f32,
    x: &[F; N],
    w: &[F; N],
) -> (F, F) {
    let (mut sum_lx, mut sum_l2) = (F::splat(0.0), F::splat(0.0));
    let (low, high) = (F::splat(-half), F::splat(half - 1.0));
    for i in 0..N {
        let value = factor * x[i];
        let level = if EXACT { F::from_int(nearest_int(value)) } else { value.nearest() };
        let level = level.min(high).max(low);
        sum_lx = sum_lx + (w[i] * x[i]) * level;
        sum_l2 = sum_l2 + (w[i] * level) * level;
    }
    (sum_lx, sum_l2)
}

/// The scale of least squared error weighted by x² that moving single levels finds, and the levels (with `half`).
#[inline(always)]
pub(crate) fn refined<F: Floats, const N: usize>(half: f32, x: &[F; N]) -> (F, [F; N]) {
    struct Search<'a, F, const N: usize>(f32, &'a [F; N]);
    impl<F: Floats, const N: usize> Routine for Search<'_, F, N> {
        type Output = (F, [F; N]);
        #[inline(always)]
        fn run(self) -> (F, [F; N]) {
            refined_tries(self.0, self.1)
        }
    }
    F::call(Search(half, x))
}

#[inline(always)]
fn refined_tries<F: Floats, const N: usize>(half: f32, x: &[F; N]) -> (F, [F; N]) {
    let zero = F::splat(0.0);
    let (low, high) = (F::splat(-half), F::splat(half - 1.0));
    let (largest, is_zero) = signed_largest(x);
    let factor = F::splat(-half) / largest;
    let mut levels = [zero; N];
    let (mut sum_lx, mut sum_l2) = (zero, zero);
    for i in 0..N {
        let level = (factor * x[i]).nearest().min(high).max(low);
        levels[i] = level;
        let w = x[i] * x[i];
        sum_lx = sum_lx + (w * x[i]) * level;
        sum_l2 = sum_l2 + (w * level) * level;
    }
    let (few, many, tiny) = (F::splat(0.499), F::splat(1e6), F::splat(1e-30));
    for attempt in 0..5 {
        let mut changed = false;
        for i in 0..N {
            let w = x[i] * x[i];
            let wx = w * x[i];
            let old = levels[i];
            let rest_lx = sum_lx - wx * old;
            let rest_l2 = sum_l2 - (w * old) * old;
            let product = x[i] * rest_l2;
            let positive = zero.lt(rest_lx);
            if attempt > 0 {
                // Few levels still move. Without a division: does the quotient, in units of `rest_lx`, clearly round to
                // the old level, or lie beyond the limit that the level is at?
                let off = product - old * rest_lx;
                let near = few * rest_lx;
                let stays = (off.lt(near) | old.eq(high)) & ((-near).lt(off) | old.eq(low));
                let clear = stays & off.abs().lt(many * rest_lx) & tiny.lt(rest_lx);
                if !(positive & clear.not()).any() {
                    continue;
                }
            }
            let new = F::from_int(nearest_int(product / rest_lx)).min(high).max(low);
            let differs = positive & new.eq(old).not();
            if !differs.any() {
                continue;
            }
            let lx = rest_lx + wx * new;
            let l2 = rest_l2 + (w * new) * new;
            let better = zero.lt(l2) & ((sum_lx * sum_lx) * l2).lt((lx * lx) * sum_l2);
            let take = differs & better;
            levels[i] = F::select(take, new, old);
            sum_lx = F::select(take, lx, sum_lx);
            sum_l2 = F::select(take, l2, sum_l2);
            changed |= take.any();
        }
        if !changed {
            break;
        }
    }
    let scale = F::select(zero.lt(sum_l2), sum_lx / sum_l2, zero);
    for level in &mut levels {
        *level = F::select(is_zero, zero, *level + F::splat(half));
    }
    (F::select(is_zero, zero, scale), levels)
}

/// The scale for values that are not negative and their levels from 0 to `levels`, each a byte.
///
/// Used once for a superblock, so it takes the reference's integers literally.
#[inline(always)]
pub(crate) fn positive<F: Floats, const N: usize>(levels: i32, x: &[F; N], w: &[F; N]) -> (F, [F::Int; N]) {
    struct Search<'a, F, const N: usize>(i32, &'a [F; N], &'a [F; N]);
    impl<F: Floats, const N: usize> Routine for Search<'_, F, N> {
        type Output = (F, [F::Int; N]);
        #[inline(always)]
        fn run(self) -> (F, [F::Int; N]) {
            positive_tries(self.0, self.1, self.2)
        }
    }
    F::call(Search(levels, x, w))
}

#[inline(always)]
fn positive_tries<F: Floats, const N: usize>(levels: i32, x: &[F; N], w: &[F; N]) -> (F, [F::Int; N]) {
    let zero = F::splat(0.0);
    let one = F::splat(1.0);
    let byte = F::Int::splat(255);
    let top = F::Int::splat(levels);

    let mut max = zero;
    for &x in x {
        max = max.max(x);
    }
    let is_zero = max.lt(F::splat(TINY));
    let max = F::select(is_zero, one, max);
    let mut factor = F::splat(levels as f32) / max;
    let mut best = zero;
    let scale = one / factor;
    for i in 0..N {
        let level = F::from_int(nearest_int(factor * x[i]) & byte);
        let difference = x[i] - scale * level;
        best = best + (w[i] * difference) * difference;
    }
    for step in -4..=4 {
        if step == 0 {
            continue;
        }
        let this = F::splat(0.1 * step as f32 + levels as f32) / max;
        let scale = one / this;
        let mut error = zero;
        for i in 0..N {
            let level = F::from_int(nearest_int(this * x[i]).min(top));
            let difference = x[i] - scale * level;
            error = error + (w[i] * difference) * difference;
        }
        let better = error.lt(best);
        best = F::select(better, error, best);
        factor = F::select(better, this, factor);
    }
    let mut taken = [F::Int::splat(0); N];
    let (mut sum_lx, mut sum_l2) = (zero, zero);
    for i in 0..N {
        let level = nearest_int(factor * x[i]).min(top);
        taken[i] = level & byte;
        let level = F::from_int(level);
        sum_lx = sum_lx + (w[i] * x[i]) * level;
        sum_l2 = sum_l2 + (w[i] * level) * level;
    }
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..N {
            let wx = w[i] * x[i];
            let old = F::from_int(taken[i]);
            let rest_lx = sum_lx - wx * old;
            let rest_l2 = sum_l2 - (w[i] * old) * old;
            let new = nearest_int((x[i] * rest_l2) / rest_lx).min(top);
            let differs = zero.lt(rest_lx) & zero.lt(rest_l2) & new.eq(taken[i]).not();
            let level = F::from_int(new);
            let lx = rest_lx + wx * level;
            let l2 = rest_l2 + (w[i] * level) * level;
            let take = differs & ((sum_lx * sum_lx) * l2).lt((lx * lx) * sum_l2);
            taken[i] = F::Int::select(take, new & byte, taken[i]);
            sum_lx = F::select(take, lx, sum_lx);
            sum_l2 = F::select(take, l2, sum_l2);
            changed |= take.any();
        }
        if !changed {
            break;
        }
    }
    for level in &mut taken {
        *level = F::Int::select(is_zero, F::Int::splat(0), *level);
    }
    let scale = F::select(zero.lt(sum_l2), sum_lx / sum_l2, zero);
    (F::select(is_zero, zero, scale), taken)
}
