//! The search that `IQ2_XXS`, `IQ2_XS`, `IQ2_S`, `IQ3_XXS` and `IQ3_S` share: groups of levels from a grid, signs apart.
//!
//! A superblock of 256 values has a scale of 4 bits for each `SUB` of them. A scale is searched by trying factors around
//! the one that maps the largest magnitude to the top level: each group is rounded to levels, a combination that is not
//! on the grid gives way to its best neighbour there, and the scale that fits the result best is compared with the best
//! so far. The winner is rounded once more with its own scale.
//!
//! Everything but the choice of a neighbour has one lane per superblock. There the superblocks take turns, because each
//! has a list of its own: its candidates fill the lanes, or if they are few, the tries that share the list.

use super::grid::{Grid, LANES, Map, Shape, Tables, Target, Unweighted, weigh};
use crate::lanes::{Floats, Group, Ints, Masks, Rows, nearest_int};
use crate::search;

/// Values of a superblock.
const LEN: usize = 256;

/// What sets a format apart.
pub(crate) trait Rules {
    /// Its groups.
    type Shape: Shape;
    /// Its grid.
    const GRID: &'static Grid;
    /// Values of a scale.
    const SUB: usize;
    /// The sum of squares over 256 times this is the `sigma2` of the weights.
    const SIGMA: f32;
    /// The weights without an importance.
    const UNWEIGHTED: Unweighted = Unweighted::Square;
    /// Eight values have an even number of minus signs, so that seven of them say it all.
    const EVEN: bool;
    /// Below this a largest value counts as zero.
    const TINY: f32;
    /// Factors from `-REACH` to `REACH` times `STEP` away from the top level are tried.
    const REACH: i32;
    /// See `REACH`.
    const STEP: f32;
    /// The factors are around the scale of a fit to evenly spaced levels, not around the largest value.
    const FITTED: bool = false;
    /// The lists of neighbours are so short that they leave most lanes without a candidate: the tries fill the lanes.
    const SHORT: bool = false;
    /// What the last rounding takes up again.
    const AGAIN: Again;
    /// What the f16 scale is multiplied by.
    const FUDGE: f32;

    /// Writes a block. All of its bytes are zero.
    fn write(lane: &Lane, block: &mut [u8]);
}

/// Which groups are rounded again with the scale of the best try.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Those that were off the grid.
    Off,
    /// All, if one was off the grid (or no try succeeded).
    AllIfOff,
    /// All.
    All,
}

/// What was found for one superblock.
pub(crate) struct Lane {
    /// The bits of the f16 scale.
    pub(crate) d: u16,
    /// All scales are zero.
    pub(crate) zero: bool,
    /// The grid's index of each group.
    pub(crate) index: [u16; 64],
    /// The minus signs of each eight values.
    pub(crate) signs: [u8; 32],
    /// The level of each scale.
    pub(crate) scales: [u8; 16],
    /// Bit `i` is set where the values of scale `i` count as zero.
    pub(crate) idle: u16,
}

/// Encodes rows by the rules of a format.
#[inline(always)]
pub(super) fn encode<F: Floats, R: Rules>(rows: Rows<'_>, block_bytes: usize, out: &mut [u8]) {
    const { assert!(F::N <= LANES) };
    let map = R::GRID.map();
    let zero = F::splat(0.0);
    let int = F::Int::splat;
    for (group, mut slots) in rows.groups(F::N, LEN, block_bytes, out) {
        let lanes = slots.blocks().count();
        let mut x = [zero; LEN];
        group.values(0, &mut x);
        let mut sum = zero;
        for &x in &x {
            sum = sum + x * x;
        }
        let sigma2 = (F::splat(R::SIGMA) * sum) / F::splat(LEN as f32);

        let mut codes = [[0u16; LANES]; 64];
        let mut signs = [[0i32; LANES]; 32];
        let mut scales = [zero; 16];
        let mut idle = [0u64; 16];
        let mut max_scale = zero;
        let (groups, bytes) = (R::SUB / R::Shape::DIMS, R::SUB / 8);
        for sub in 0..LEN / R::SUB {
            let x = &mut x[sub * R::SUB..][..R::SUB];
            let codes = &mut codes[sub * groups..][..groups];
            let signs = &mut signs[sub * bytes..][..bytes];
            let (scale, none) = search_scale::<F, R>(map, &group, sub * R::SUB, lanes, x, sigma2, codes, signs);
            max_scale = max_scale.max(scale);
            scales[sub] = scale;
            idle[sub] = none;
        }

        let is_zero = max_scale.eq(zero);
        let d = max_scale / F::splat(31.0);
        let id = F::splat(1.0) / d;
        let mut halves = [0i32; LANES];
        F::Int::select(is_zero, int(0), (d * F::splat(R::FUDGE)).to_half()).store(&mut halves);
        let mut levels = [[0i32; LANES]; 16];
        for (level, scale) in levels.iter_mut().zip(scales) {
            let found = search::clamp(nearest_int(F::splat(0.5) * (id * scale - F::splat(1.0))), 0, 15);
            F::Int::select(is_zero, int(0), found).store(level);
        }
        let is_zero = is_zero.bits();
        for (lane, block) in slots.blocks().enumerate() {
            let mut found = Lane {
                d: halves[lane] as u16,
                zero: is_zero >> lane & 1 != 0,
                index: [0; 64],
                signs: [0; 32],
                scales: [0; 16],
                idle: 0,
            };
            for (index, codes) in found.index.iter_mut().zip(&codes[..LEN / R::Shape::DIMS]) {
                *index = map.index(codes[lane]);
            }
            for (byte, signs) in found.signs.iter_mut().zip(&signs) {
                *byte = signs[lane] as u8;
            }
            for (scale, levels) in found.scales.iter_mut().zip(&levels) {
                *scale = levels[lane] as u8;
            }
            for (sub, lanes) in idle.iter().enumerate() {
                found.idle |= ((lanes >> lane & 1) << sub) as u16;
            }
            block.fill(0);
            R::write(&found, block);
        }
    }
}

/// Takes the signs off eight values. Of an odd number of minus signs the least important is dropped, and its value
/// keeps the minus.
#[inline(always)]
fn take_signs<F: Floats>(even: bool, x: &mut [F], w: &[F]) -> F::Int {
    let zero = F::splat(0.0);
    let int = F::Int::splat;
    let (mut signs, mut count) = (int(0), int(0));
    let mut least = (w[0] * x[0]) * x[0];
    let mut least_bit = int(1);
    for i in 0..8 {
        let negative = x[i].lt(zero);
        signs = signs | F::Int::select(negative, int(1 << i), int(0));
        count = count + F::Int::select(negative, int(1), int(0));
        if even {
            let size = (w[i] * x[i]) * x[i];
            let less = size.lt(least);
            least = F::select(less, size, least);
            least_bit = F::Int::select(less, int(1 << i), least_bit);
        }
        x[i] = F::select(negative, -x[i], x[i]);
    }
    if !even {
        return signs;
    }
    let odd = (count & int(1)).eq(int(1));
    for (i, x) in x.iter_mut().enumerate() {
        let flip = odd & least_bit.eq(int(1 << i));
        *x = F::select(flip, -*x, *x);
    }
    let flipped = (signs | least_bit) - (signs & least_bit);
    F::Int::select(odd, flipped, signs) & int(127)
}

/// The scale of `SUB` values, 0 where they count as zero (and the bits of these lanes); the codes of their groups and their signs. The values lose
/// their signs.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn search_scale<F: Floats, R: Rules>(
    map: &Map,
    group: &Group<'_>,
    from: usize,
    lanes: usize,
    x: &mut [F],
    sigma2: F,
    codes: &mut [[u16; LANES]],
    signs: &mut [[i32; LANES]],
) -> (F, u64) {
    let zero = F::splat(0.0);
    let one = F::splat(1.0);
    let int = F::Int::splat;
    let dims = R::Shape::DIMS;
    let top = R::Shape::LEVELS as i32 - 1;
    let tries = (2 * R::REACH + 1) as usize;

    let mut weights = [zero; 32];
    let w = &mut weights[..R::SUB];
    weigh(group, from, x, sigma2, R::UNWEIGHTED, w);
    let mut sign_lanes = [int(0); 4];
    for (i, signs) in sign_lanes[..R::SUB / 8].iter_mut().enumerate() {
        *signs = take_signs(R::EVEN, &mut x[8 * i..][..8], &w[8 * i..][..8]);
    }
    let (mut max, mut amax) = (x[0], x[0].abs());
    for &x in &x[1..] {
        max = max.max(x);
        amax = amax.max(x.abs());
    }
    let mut idle = max.lt(F::splat(R::TINY));

    let range = 2.0 * top as f32 + 1.0;
    let mut scale = max / F::splat(range);
    if R::FITTED {
        let mut values = [zero; 32];
        values[..R::SUB].copy_from_slice(x);
        let (fitted, _) = search::positive(top + 2, &values, &weights);
        scale = fitted;
        max = fitted * F::splat((top + 1) as f32);
        idle = idle | zero.lt(max).not();
    }
    max = F::select(idle, one, max);
    let w = &weights[..R::SUB];

    // The levels of every try, and the scale it takes to choose neighbours.
    let mut rounded = [[[0u16; LANES]; 8]; 31];
    let mut factors = [[0.0f32; LANES]; 31];
    let largest = amax * (F::splat(range + R::REACH as f32 * R::STEP) / max);
    let unusual = (largest.lt(F::splat(4e6)) | idle).not().any();
    for (t, (rounded, factors)) in rounded[..tries].iter_mut().zip(&mut factors).enumerate() {
        let id = F::splat(range + (t as i32 - R::REACH) as f32 * R::STEP) / max;
        (one / id).store(factors);
        for (rounded, x) in rounded.iter_mut().zip(x.chunks_exact(dims)) {
            let code = if unusual { round::<F, R, true>(x, id) } else { round::<F, R, false>(x, id) };
            put_codes::<F>(code, rounded);
        }
    }

    // The neighbours of what is off the grid.
    let mut natural = [[0.0f32; LANES]; 32];
    let mut roots = [[0.0f32; LANES]; 32];
    for i in 0..R::SUB {
        x[i].store(&mut natural[i]);
        w[i].sqrt().store(&mut roots[i]);
    }
    let busy = idle.not().bits();
    let mut off = [[0u32; 8]; LANES]; // for each group, the tries that left the grid
    let mut table = Tables::<F>::empty();
    for lane in (0..lanes).filter(|lane| busy >> lane & 1 != 0) {
        let mut scales = [0.0f32; 32];
        for (scale, factors) in scales.iter_mut().zip(&factors) {
            *scale = factors[lane];
        }
        for k in 0..R::SUB / dims {
            let (natural, roots) = (&natural[k * dims..], &roots[k * dims..]);
            if R::SHORT {
                let mut codes = [0i32; 32];
                for (code, rounded) in codes.iter_mut().zip(&rounded[..tries]) {
                    *code = i32::from(rounded[k][lane]);
                }
                for from in (0..tries).step_by(F::N) {
                    table.fill::<R::Shape>(natural, roots, lane, F::load(&scales[from..]));
                    let own = F::Int::load(&codes[from..]);
                    let mut best = own;
                    let mut left = u64::MAX >> (64 - F::N.min(tries - from));
                    while left != 0 {
                        let code = codes[from + left.trailing_zeros() as usize % LANES];
                        let same = own.eq(int(code));
                        left &= !same.bits();
                        if !map.has(code as u16) {
                            off[lane][k] |= (same.bits() << from) as u32;
                            best = F::Int::select(same, table.nearest::<R::Shape>(map, code as u16), best);
                        }
                    }
                    best.store(&mut codes[from..]);
                }
                for (rounded, code) in rounded[..tries].iter_mut().zip(codes) {
                    rounded[k][lane] = code as u16;
                }
            } else {
                let target = Target::new::<R::Shape>(natural, roots, lane);
                for t in 0..tries {
                    let code = &mut rounded[t][k][lane];
                    if !map.has(*code) {
                        off[lane][k] |= 1 << t;
                        *code = target.nearest::<F, R::Shape>(map, *code, scales[t], levels::<R>());
                    }
                }
            }
        }
    }

    // The best try.
    let mut best = zero;
    let mut best_try = int(-1);
    for (t, rounded) in rounded[..tries].iter().enumerate() {
        let (qx, q2) = sums::<F, R>(x, w, rounded);
        let better = q2.gt(zero) & (qx * qx).gt(best * q2);
        scale = F::select(better, qx / q2, scale);
        best = F::select(better, scale * qx, best);
        best_try = F::Int::select(better, int(t as i32), best_try);
    }
    let mut best_tries = [0i32; LANES];
    best_try.store(&mut best_tries);
    let mut chosen = [[0u16; LANES]; 8];
    let mut best_off = [if R::AGAIN == Again::AllIfOff { -1 } else { 0 }; LANES]; // a bit for each group
    for lane in (0..lanes).filter(|lane| busy >> lane & 1 != 0) {
        if let Some(rounded) = rounded.get(best_tries[lane] as usize) {
            for (chosen, rounded) in chosen.iter_mut().zip(rounded) {
                chosen[lane] = rounded[lane];
            }
            best_off[lane] = 0;
            for (k, off) in off[lane].iter().enumerate() {
                best_off[lane] |= ((off >> best_tries[lane] & 1) << k) as i32;
            }
        }
    }

    // Once more with the best scale.
    let mut again = idle.not() & scale.gt(zero);
    if R::AGAIN != Again::All {
        again = again & F::Int::load(&best_off).eq(int(0)).not();
    }
    let again_bits = again.bits();
    if again_bits != 0 {
        let id = one / scale;
        let mut scales = [0.0f32; LANES];
        scale.store(&mut scales);
        for (k, x) in x.chunks_exact(dims).enumerate() {
            let mut fresh = [0u16; LANES];
            put_codes::<F>(round::<F, R, true>(x, id), &mut fresh);
            for lane in (0..lanes).filter(|lane| again_bits >> lane & 1 != 0) {
                if R::AGAIN == Again::Off && best_off[lane] >> k & 1 == 0 {
                    continue;
                }
                let mut code = fresh[lane];
                if !map.has(code) {
                    let target = Target::new::<R::Shape>(&natural[k * dims..], &roots[k * dims..], lane);
                    code = target.nearest::<F, R::Shape>(map, code, scales[lane], levels::<R>());
                }
                chosen[k][lane] = code;
            }
        }
        let (qx, q2) = sums::<F, R>(x, w, &chosen);
        scale = F::select(again & q2.gt(zero), qx / q2, scale);
    }

    let negative = scale.lt(zero);
    scale = F::select(idle, zero, scale.abs());
    for (out, lanes) in signs.iter_mut().zip(sign_lanes) {
        let all = int(if R::EVEN { 127 } else { 255 });
        let lanes = F::Int::select(negative, all - lanes, lanes);
        F::Int::select(idle, int(0), lanes).store(out);
    }
    codes.copy_from_slice(&chosen[..codes.len()]);
    (scale, idle.bits())
}

/// The codes of a group's nearest levels.
///
/// `EXACT` is the reference's way to an integer, right for any number; else `id * x` is below 4e6.
#[inline(always)]
fn round<F: Floats, R: Rules, const EXACT: bool>(x: &[F], id: F) -> F::Int {
    let int = F::Int::splat;
    let bits = R::Shape::BITS;
    let mut code = int(0);
    for (i, &x) in x.iter().enumerate() {
        let at = id * x;
        let shift = bits * i as u32;
        let level = if EXACT {
            let level = nearest_int(F::splat(0.5) * (at - F::splat(1.0)));
            search::clamp(level, 0, R::Shape::LEVELS as i32 - 1).shl(shift)
        } else if bits == 2 {
            // Half of a number is exact, and so is one less near the bounds: 2 is still level 0, and 4 is level 2.
            let unit = int(1 << shift);
            F::Int::select(at.gt(F::splat(2.0)), unit, int(0)) + F::Int::select(at.lt(F::splat(4.0)), int(0), unit)
        } else {
            let level = F::splat(0.5) * (at - F::splat(1.0));
            let level = level.max(F::splat(0.0)).min(F::splat(7.0)) + F::splat(crate::lanes::MAGIC);
            (level.bits() & int(7)).shl(shift)
        };
        code = code | level;
    }
    code
}

/// The sums over weight × value × level and weight × level².
#[inline(always)]
fn sums<F: Floats, R: Rules>(x: &[F], w: &[F], codes: &[[u16; LANES]]) -> (F, F) {
    let dims = R::Shape::DIMS;
    let (mut qx, mut q2) = (F::splat(0.0), F::splat(0.0));
    for (k, (x, w)) in x.chunks_exact(dims).zip(w.chunks_exact(dims)).enumerate() {
        let code = get_codes::<F>(&codes[k]);
        for i in 0..dims {
            let level = code.shr(R::Shape::BITS * i as u32) & F::Int::splat((1 << R::Shape::BITS) - 1);
            let q = F::from_int((level + level) + F::Int::splat(1));
            qx = qx + (w[i] * x[i]) * q;
            q2 = q2 + (w[i] * q) * q;
        }
    }
    (qx, q2)
}

#[inline(always)]
fn put_codes<F: Floats>(codes: F::Int, to: &mut [u16; LANES]) {
    let mut lanes = [0i32; LANES];
    codes.store(&mut lanes);
    for (to, lane) in to.iter_mut().zip(lanes) {
        *to = lane as u16;
    }
}

#[inline(always)]
fn get_codes<F: Floats>(from: &[u16; LANES]) -> F::Int {
    let mut lanes = [0i32; LANES];
    for (lane, &code) in lanes.iter_mut().zip(from) {
        *lane = i32::from(code);
    }
    F::Int::load(&lanes)
}

/// What the levels stand for, in the order of [`Shape::sum`]'s table.
#[inline(always)]
fn levels<R: Rules>() -> &'static [f32; 32] {
    const fn repeated(count: usize) -> [f32; 32] {
        let mut levels = [0.0; 32];
        let mut i = 0;
        while i < 32 {
            levels[i] = (2 * (i % count) + 1) as f32;
            i += 1;
        }
        levels
    }
    const FOUR: [f32; 32] = repeated(4);
    const EIGHT: [f32; 32] = repeated(8);
    if R::Shape::BITS == 2 { &FOUR } else { &EIGHT }
}
