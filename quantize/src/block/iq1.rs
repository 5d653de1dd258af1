//! `IQ1_S` and `IQ1_M`: groups of eight values of three levels from a grid of 2048 points, shifted by ±⅛.
//!
//! Blocks of 256 values:
//!
//! * `IQ1_S`: `d` f16, `q[32]` the low 8 bits of an index, `h[8]` u16, one for 32 values: the high 3 bits of four
//!   indices, a scale of 3 bits and whether the shift is negative;
//! * `IQ1_M`: `q[32]`, `h[16]`, one for 16 values: for each of two groups the high 3 bits of an index and whether the
//!   shift is negative, then `s[4]` u16 with four scales of 3 bits and four bits of the f16 `d`.
//!
//! x ≈ d (2 scale + 1) (−1, 0 or 1, and the shift).
//!
//! With three levels the best split is found exactly: values are sorted, and all pairs of bounds between them compared by
//! sums over prefixes.

use gguf::TensorType;

use super::Block;
use super::grid::{self, Eight, LANES, Map, Target, Unweighted, weigh};
use super::levels::{Coded, Rounded};
use crate::codec::ImportanceUse;
use crate::lanes::{Floats, Group, Ints, Masks, Rows, half_value, nearest_int};
use crate::search::clamp;

pub(crate) struct IQ1S;
pub(crate) struct IQ1M;

/// Values of a superblock.
const LEN: usize = 256;

/// What the levels stand for, shifted up and down.
const UP: [f32; 3] = [-0.875, 0.125, 1.125];
const DOWN: [f32; 3] = [-1.125, -0.125, 0.875];

/// [`UP`] and [`DOWN`] for the tables of [`Target`].
const TABLES: [[f32; 32]; 2] = {
    let mut tables = [[0.0; 32]; 2];
    let mut i = 0;
    while i < 32 {
        if i % 4 < 3 {
            tables[0][i] = UP[i % 4];
            tables[1][i] = DOWN[i % 4];
        }
        i += 1;
    }
    tables
};

/// Decodes eight values.
#[inline(always)]
fn eight(index: usize, down: bool, d: f32, out: &mut [f32; 8]) {
    let code = grid::IQ1.points[index % 2048];
    let values = if down { &DOWN } else { &UP };
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * values[usize::from(code >> (2 * i) & 3) % 3];
    }
}

/// The place of each value in ascending order; equal values keep theirs.
#[inline(always)]
fn ranks<F: Floats>(x: &[F]) -> [F::Int; 32] {
    let one = F::Int::splat(1);
    let zero = F::Int::splat(0);
    let mut ranks = [zero; 32];
    for i in 1..x.len() {
        let mut rank = zero;
        for j in 0..i {
            let after = x[i].lt(x[j]);
            rank = rank + F::Int::select(after, zero, one);
            ranks[j] = ranks[j] + F::Int::select(after, one, zero);
        }
        ranks[i] = rank;
    }
    ranks
}

/// Puts a value of each lane at the place that its rank says.
#[inline(always)]
fn scatter<F: Floats>(value: F, ranks: &[i32; LANES], to: &mut [[f32; LANES]; 32]) {
    let mut lanes = [0.0; LANES];
    value.store(&mut lanes);
    for lane in 0..F::N {
        to[ranks[lane] as usize % 32][lane] = lanes[lane];
    }
}

/// The best split so far.
struct Best<F: Floats> {
    scale: F,
    score: F,
    /// What the split is called; negative for none.
    name: F::Int,
}

impl<F: Floats> Best<F> {
    #[inline(always)]
    fn none(scale: F) -> Self {
        Best { scale, score: F::splat(-f32::MAX), name: F::Int::splat(-1) }
    }

    /// A split by its sums over weight × value × level and weight × level².
    #[inline(always)]
    fn offer(&mut self, qx: F, q2: F, name: i32) {
        let better = F::splat(0.0).lt(q2) & (self.score * q2).lt(qx * qx);
        if better.any() {
            self.scale = F::select(better, qx / q2, self.scale);
            self.score = F::select(better, self.scale * qx, self.score);
            self.name = F::Int::select(better, F::Int::splat(name), self.name);
        }
    }
}

/// What a search found for the values of one scale.
struct Found<F: Floats> {
    scale: F,
    /// The codes of the groups, points of the grid.
    codes: [[u16; LANES]; 4],
    /// For each group, all bits set if its shift is negative.
    down: [F::Int; 4],
}

/// The levels of a split, and what the grid makes of them.
///
/// `low` and `high` are the bounds, `down` the shift of each group. Lanes in `idle` have code and scale 0.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn settle<F: Floats>(
    map: &Map,
    lanes: usize,
    x: &[F],
    w: &[F],
    ranks: &[F::Int; 32],
    (low, high): (F::Int, F::Int),
    mut scale: F,
    mut down: [F::Mask; 4],
    idle: F::Mask,
) -> Found<F> {
    let zero = F::splat(0.0);
    let int = F::Int::splat;
    let groups = x.len() / 8;
    let negative = scale.lt(zero);
    scale = scale.abs();
    let mut codes = [[0u16; LANES]; 4];
    for (k, codes) in codes[..groups].iter_mut().enumerate() {
        let mut code = int(0);
        for i in 0..8 {
            let rank = ranks[8 * k + i];
            let above = F::Int::select(low.gt(rank), int(0), int(1)) + F::Int::select(high.gt(rank), int(0), int(1));
            let level = F::Int::select(negative, int(2) - above, above);
            code = code | level.shl(2 * i as u32);
        }
        let mut all = [0i32; LANES];
        F::Int::select(idle, int(0), code).store(&mut all);
        for (code, all) in codes.iter_mut().zip(all) {
            *code = all as u16;
        }
        down[k] = (down[k] & negative.not()) | (down[k].not() & negative);
    }

    let busy = idle.not().bits();
    let mut scales = [0.0; LANES];
    scale.store(&mut scales);
    let mut off = [0i32; LANES];
    for (k, down) in down[..groups].iter().enumerate() {
        let mut x_lanes = [[0.0f32; LANES]; 8];
        let mut w_lanes = [[0.0f32; LANES]; 8];
        for i in 0..8 {
            x[8 * k + i].store(&mut x_lanes[i]);
            w[8 * k + i].store(&mut w_lanes[i]);
        }
        let down = down.bits();
        for lane in 0..lanes {
            let code = &mut codes[k][lane];
            if busy >> lane & 1 != 0 && !map.has(*code) {
                off[lane] = 1;
                let table = &TABLES[(down >> lane & 1) as usize];
                let target = Target::new::<Eight>(&x_lanes, &w_lanes, lane);
                *code = target.nearest::<F, Eight>(map, *code, scales[lane], table);
            }
        }
    }
    let off = F::Int::load(&off).eq(int(1));
    if off.any() {
        let (mut qx, mut q2) = (zero, zero);
        for k in 0..groups {
            let values = values::<F>(&codes[k], down[k]);
            for (i, q) in values.into_iter().enumerate() {
                let wq = w[8 * k + i] * q;
                qx = qx + wq * x[8 * k + i];
                q2 = q2 + wq * q;
            }
        }
        scale = F::select(off & qx.gt(zero) & q2.gt(zero), qx / q2, scale);
    }
    let mut found = Found { scale: F::select(idle, zero, scale), codes, down: [int(0); 4] };
    for (found, &down) in found.down.iter_mut().zip(&down).take(groups) {
        *found = F::Int::select(down & idle.not(), int(-1), int(0));
    }
    found
}

/// What the levels of a group stand for.
#[inline(always)]
fn values<F: Floats>(codes: &[u16; LANES], down: F::Mask) -> [F; 8] {
    let mut lanes = [0i32; LANES];
    for (lane, &code) in lanes.iter_mut().zip(codes) {
        *lane = i32::from(code);
    }
    let code = F::Int::load(&lanes);
    let shift = F::select(down, F::splat(-1.125), F::splat(-0.875));
    let mut values = [shift; 8];
    for (i, value) in values.iter_mut().enumerate() {
        // Multiples of an eighth: exact.
        *value = shift + F::from_int(code.shr(2 * i as u32) & F::Int::splat(3));
    }
    values
}

/// The largest magnitude, from the first value on.
#[inline(always)]
fn largest<F: Floats>(x: &[F]) -> F {
    let mut max = x[0].abs();
    for x in &x[1..] {
        max = max.max(x.abs());
    }
    max
}

/// A weight times the square of a value.
#[inline(always)]
fn squared<F: Floats>(w: F, value: f32) -> F {
    (w * F::splat(value)) * F::splat(value)
}

/// 32 values with one shift.
#[inline(always)]
fn search_s<F: Floats>(map: &Map, lanes: usize, x: &[F], w: &[F]) -> Found<F> {
    const N: usize = 32;
    let zero = F::splat(0.0);
    let max = largest(x);
    let idle = max.lt(F::splat(1e-12));

    let ranks = ranks(x);
    let mut sorted_wx = [[0.0f32; LANES]; 32];
    let mut sorted_w = [[0.0f32; LANES]; 32];
    for i in 0..N {
        let mut places = [0i32; LANES];
        ranks[i].store(&mut places);
        scatter(w[i] * x[i], &places, &mut sorted_wx);
        scatter(w[i], &places, &mut sorted_w);
    }
    let mut sum_x = [zero; N + 1];
    let mut sum_w = [zero; N + 1];
    for j in 0..N {
        sum_x[j + 1] = sum_x[j] + F::load(&sorted_wx[j]);
        sum_w[j + 1] = sum_w[j] + F::load(&sorted_w[j]);
    }

    // What is above the higher bound contributes the same to every pair with it.
    let mut above = [(zero, zero, zero, zero); N + 1];
    for (i, above) in above.iter_mut().enumerate() {
        let (x, w) = (sum_x[N] - sum_x[i], sum_w[N] - sum_w[i]);
        *above = (x * F::splat(UP[2]), squared(w, UP[2]), x * F::splat(DOWN[2]), squared(w, DOWN[2]));
    }
    let eighth = F::splat(0.125);
    let mut best = Best::none(max);
    for low in 0..=N {
        let (x, w) = (sum_x[low], sum_w[low]);
        let below = (x * F::splat(UP[0]), squared(w, UP[0]), x * F::splat(DOWN[0]), squared(w, DOWN[0]));
        for high in low..=N {
            // Between the bounds the two shifts differ by the sign.
            let between = (sum_x[high] - x) * eighth;
            let square = ((sum_w[high] - w) * eighth) * eighth;
            let name = (low * 64 + high) as i32;
            best.offer((below.0 + between) + above[high].0, (below.1 + square) + above[high].1, name);
            best.offer((below.2 - between) + above[high].2, (below.3 + square) + above[high].3, name + 4096);
        }
    }
    let idle = idle | F::Int::splat(0).gt(best.name);
    let (low, high) = (best.name.shr(6) & F::Int::splat(63), best.name & F::Int::splat(63));
    let down = best.name.gt(F::Int::splat(4095));
    settle(map, lanes, x, w, &ranks, (low, high), best.scale, [down; 4], idle)
}

/// 16 values with a shift for each half.
#[inline(always)]
fn search_m<F: Floats>(map: &Map, lanes: usize, x: &[F], w: &[F]) -> Found<F> {
    const N: usize = 16;
    let zero = F::splat(0.0);
    let int = F::Int::splat;
    let max = largest(x);
    let idle = max.lt(F::splat(1e-7));

    let ranks = ranks(x);
    // Prefix sums of each half: the other half counts as nothing.
    let mut sum_x = [[zero; N + 1]; 2];
    let mut sum_w = [[zero; N + 1]; 2];
    for half in 0..2 {
        let mut sorted_wx = [[0.0f32; LANES]; 32];
        let mut sorted_w = [[0.0f32; LANES]; 32];
        for i in 8 * half..8 * half + 8 {
            let mut places = [0i32; LANES];
            ranks[i].store(&mut places);
            scatter(w[i] * x[i], &places, &mut sorted_wx);
            scatter(w[i], &places, &mut sorted_w);
        }
        for j in 0..N {
            sum_x[half][j + 1] = sum_x[half][j] + F::load(&sorted_wx[j]);
            sum_w[half][j + 1] = sum_w[half][j] + F::load(&sorted_w[j]);
        }
    }

    let up = F::splat(UP[2]);
    let down = F::splat(DOWN[2]);
    // Differences of squares of the values, exact: from the middle to the lowest and to the highest.
    let (up_low, up_high) = (F::splat(0.75), F::splat(-1.25));
    let (down_low, down_high) = (F::splat(1.25), F::splat(-0.75));
    let mut best = Best::none(max);
    for low in 0..=N {
        let mut start = [(zero, zero, zero, zero); 2];
        for half in 0..2 {
            let (x, w) = (sum_x[half][N], sum_w[half][N]);
            let at = sum_w[half][low];
            let base = ((w * up) * up + at * up_low, (w * down) * down + at * down_low);
            start[half] = (x * up, base.0, x * down, base.1);
        }
        for high in low..=N {
            let mut sums = [(zero, zero, zero, zero); 2];
            for half in 0..2 {
                let start = start[half];
                let x = sum_x[half][low] + sum_x[half][high];
                let w = sum_w[half][high];
                sums[half] = (start.0 - x, start.1 + w * up_high, start.2 - x, start.3 + w * down_high);
            }
            let name = (low * 64 + high) as i32;
            let [first, second] = sums;
            best.offer(first.0 + second.0, first.1 + second.1, name);
            best.offer(first.0 + second.2, first.1 + second.3, name + 4096);
            best.offer(first.2 + second.0, first.3 + second.1, name + 2 * 4096);
            best.offer(first.2 + second.2, first.3 + second.3, name + 3 * 4096);
        }
    }
    let idle = idle | int(0).gt(best.name);
    let (low, high) = (best.name.shr(6) & int(63), best.name & int(63));
    let first = (best.name & int(8192)).gt(int(0));
    let second = (best.name & int(4096)).gt(int(0));
    settle(map, lanes, x, w, &ranks, (low, high), best.scale, [first, second, first, second], idle)
}

/// The values of a group of superblocks, and twice their mean square.
#[inline(always)]
fn load<F: Floats>(group: &Group<'_>, x: &mut [F; LEN]) -> F {
    group.values(0, x);
    let mut sum = F::splat(0.0);
    for &x in &*x {
        sum = sum + x * x;
    }
    (F::splat(2.0) * sum) / F::splat(LEN as f32)
}

impl Block for IQ1S {
    const TYPE: TensorType = TensorType::IQ1_S;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Required;
    const SIZE: (usize, usize) = (LEN, 2 + LEN / 8 + LEN / 32 * 2);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<{ IQ1S::SIZE.1 }>().0.iter().zip(out.as_chunks_mut::<LEN>().0) {
            let d = half_value([block[0], block[1]]);
            for (k, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
                let word = usize::from(u16::from_le_bytes([block[34 + k / 4 * 2], block[35 + k / 4 * 2]]));
                let d = d * (2 * (word >> 12 & 7) + 1) as f32;
                let high = word >> (3 * (k % 4)) & 7;
                eight(usize::from(block[2 + k]) | high << 8, word >> 15 != 0, d, out);
            }
        }
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        const SUB: usize = 32;
        const { assert!(F::N <= LANES) };
        let map = grid::IQ1.map();
        let zero = F::splat(0.0);
        let int = F::Int::splat;
        for (group, mut slots) in rows.groups(F::N, LEN, Self::SIZE.1, out) {
            let lanes = slots.blocks().count();
            let mut x = [zero; LEN];
            let sigma2 = load(&group, &mut x);
            for block in slots.blocks() {
                block.fill(0);
            }
            let mut scales = [zero; 8];
            let mut max_scale = zero;
            let mut words = [int(0); 8];
            let mut shifts = [int(0); 8];
            for (ib, x) in x.as_chunks::<SUB>().0.iter().enumerate() {
                let mut w = [zero; SUB];
                weigh(&group, SUB * ib, x, sigma2, Unweighted::Square, &mut w);
                let found = search_s(map, lanes, x, &w);
                scales[ib] = found.scale;
                max_scale = max_scale.max(found.scale);
                let mut high = [0i32; LANES];
                for (lane, block) in slots.blocks().enumerate() {
                    for k in 0..4 {
                        let index = map.index(found.codes[k][lane]);
                        block[2 + 4 * ib + k] = index as u8;
                        high[lane] |= i32::from(index >> 8) << (3 * k);
                    }
                }
                words[ib] = F::Int::load(&high);
                shifts[ib] = found.down[0] & int(1 << 15);
            }
            let none = max_scale.eq(zero);
            let d = max_scale / F::splat(15.0);
            slots.put_u16(0, F::Int::select(none, int(0), (d * F::splat(1.125)).to_half()));
            let id = F::splat(1.0) / d;
            for ib in 0..8 {
                let level = clamp(nearest_int(F::splat(0.5) * (id * scales[ib] - F::splat(1.0))), 0, 7);
                let top = F::Int::select(none, int(0), level.shl(12) | shifts[ib]);
                slots.put_u16(34 + 2 * ib, words[ib] | top);
            }
        }
    }
}

/// The scale of an `IQ1_M` block and the words that hold the factors of 16 values each, three bits a factor.
#[inline(always)]
fn scale_words(block: &[u8]) -> (f32, [u16; 4]) {
    let mut words = [0u16; 4];
    let mut half = 0;
    for (i, word) in words.iter_mut().enumerate() {
        *word = u16::from_le_bytes([block[48 + 2 * i], block[49 + 2 * i]]);
        half |= *word >> 12 << (4 * i);
    }
    (half_value(half.to_le_bytes()), words)
}

impl Block for IQ1M {
    const TYPE: TensorType = TensorType::IQ1_M;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Used;
    const SIZE: (usize, usize) = (LEN, LEN / 8 + LEN / 16 + LEN / 32);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<{ IQ1M::SIZE.1 }>().0.iter().zip(out.as_chunks_mut::<LEN>().0) {
            let (d, words) = scale_words(block);
            for (k, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
                let level = words[k / 8] >> (3 * (k / 2 % 4)) & 7;
                let nibble = block[32 + k / 2] >> (4 * (k % 2)) & 15;
                let index = usize::from(block[k]) | usize::from(nibble & 7) << 8;
                eight(index, nibble & 8 != 0, d * f32::from(2 * level + 1), out);
            }
        }
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        const SUB: usize = 16;
        const { assert!(F::N <= LANES) };
        let map = grid::IQ1.map();
        let zero = F::splat(0.0);
        let int = F::Int::splat;
        for (group, mut slots) in rows.groups(F::N, LEN, Self::SIZE.1, out) {
            let lanes = slots.blocks().count();
            let mut x = [zero; LEN];
            let sigma2 = load(&group, &mut x);
            for block in slots.blocks() {
                block.fill(0);
            }
            let mut w = [zero; LEN];
            let mut scales = [zero; 16];
            let mut max_scale = zero;
            let mut codes = [[[0u16; LANES]; 4]; 16];
            let mut shifts = [[int(0); 2]; 16];
            for (ib, (x, w)) in x.as_chunks::<SUB>().0.iter().zip(w.as_chunks_mut::<SUB>().0).enumerate() {
                weigh(&group, SUB * ib, x, sigma2, Unweighted::Square, w);
                let found = search_m(map, lanes, x, w);
                scales[ib] = found.scale;
                max_scale = max_scale.max(found.scale);
                codes[ib] = found.codes;
                shifts[ib] = [found.down[0], found.down[1]];
                for (lane, block) in slots.blocks().enumerate() {
                    for k in 0..2 {
                        let index = map.index(found.codes[k][lane]);
                        block[2 * ib + k] = index as u8;
                        block[32 + ib] |= ((index >> 8) << (4 * k)) as u8;
                    }
                }
            }

            let none = max_scale.eq(zero);
            let mut d = max_scale / F::splat(15.0);
            let id = F::splat(1.0) / d;
            let (mut qx, mut q2) = (zero, zero);
            let mut words = [int(0); 4];
            for ib in 0..16 {
                let level = clamp(nearest_int(F::splat(0.5) * (id * scales[ib] - F::splat(1.0))), 0, 7);
                words[ib / 4] = words[ib / 4] | level.shl(3 * (ib % 4) as u32);
                let factor = F::from_int(level + level + int(1));
                for k in 0..2 {
                    let values = values::<F>(&codes[ib][k], int(0).gt(shifts[ib][k]));
                    for (i, value) in values.into_iter().enumerate() {
                        let at = 16 * ib + 8 * k + i;
                        let q = value * factor;
                        let wq = w[at] * q;
                        qx = qx + wq * x[at];
                        q2 = q2 + wq * q;
                    }
                }
                let mut signs = [0i32; LANES];
                let bits = (shifts[ib][0] & int(0x08)) | (shifts[ib][1] & int(0x80));
                F::Int::select(none, int(0), bits).store(&mut signs);
                for (lane, block) in slots.blocks().enumerate() {
                    block[32 + ib] |= signs[lane] as u8;
                }
            }
            d = F::select(q2.gt(zero), qx / q2, d);
            let half = (d * F::splat(1.1125)).to_half();
            for (i, word) in words.into_iter().enumerate() {
                let word = word | (half.shr(4 * i as u32) & int(15)).shl(12);
                slots.put_u16(48 + 2 * i, F::Int::select(none, int(0), word));
            }
        }
    }
}

/// The codes of eight values, by [`Coded`]: in eighths, −1, 0 or 1 and an eighth up or down are whole.
#[inline(always)]
fn eight_codes(index: usize, down: bool, to: &mut [u8]) {
    let code = grid::IQ1.points[index % 2048];
    for (i, to) in to.iter_mut().enumerate() {
        *to = 8 * ((code >> (2 * i) & 3) as u8 % 3) + if down { 0 } else { 2 };
    }
}

impl Coded for IQ1S {
    const ROUNDED: Rounded = Rounded::Q8K;
    const GROUP: usize = 32;
    const OFFSET: u8 = 9;
    const MOST: u8 = 18;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        let d = half_value([block[0], block[1]]);
        let word = |ib: usize| usize::from(u16::from_le_bytes([block[34 + 2 * ib], block[35 + 2 * ib]]));
        for (ib, to) in scales.iter_mut().enumerate() {
            *to = d * (2 * (word(ib) >> 12 & 7) + 1) as f32 * 0.125;
        }
        for (k, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let word = word(k / 4);
            let high = word >> (3 * (k % 4)) & 7;
            eight_codes(usize::from(block[2 + k]) | high << 8, word >> 15 != 0, codes);
        }
    }
}

impl Coded for IQ1M {
    const ROUNDED: Rounded = Rounded::Q8K;
    const GROUP: usize = 16;
    const OFFSET: u8 = 9;
    const MOST: u8 = 18;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        let (d, words) = scale_words(block);
        for (j, to) in scales.iter_mut().enumerate() {
            *to = d * f32::from(2 * (words[j / 4] >> (3 * (j % 4)) & 7) + 1) * 0.125;
        }
        for (k, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let nibble = block[32 + k / 2] >> (4 * (k % 2)) & 15;
            let index = usize::from(block[k]) | usize::from(nibble & 7) << 8;
            eight_codes(index, nibble & 8 != 0, codes);
        }
    }
}
