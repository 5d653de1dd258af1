//! The code-book formats IQ1, IQ2 and IQ3: groups of values whose levels together are a point of a grid.
//!
//! Eight columns (an octet) are chosen at once. In the metric of their own square of the moments, taken as diagonal, the
//! cost of a point is a sum of what each half of its group costs: the halves' costs are tabled, and every point of the
//! grid takes one addition and one comparison. What the diagonal leaves out is brought in by choosing again around what
//! was chosen, as long as the exact error falls. Where a format stores signs apart, those of the target are taken off
//! first; where it stores seven of eight, the cheapest value gives way.

use std::ops::Range;
use std::sync::OnceLock;

use gguf::TensorType;

use super::grid::Grid;
use super::strips::{STRIP, Strips};
use crate::block::grid as points;
use crate::block::lattice::{Lane, Rules};
use crate::lanes::{Floats, Ints, Masks, Task, half_bits, half_value};

/// What a format says of the signs of eight values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signs {
    /// They are part of the levels.
    None,
    /// All eight.
    Free,
    /// Seven: the number of minus signs is even.
    Even,
}

/// A grid of groups of levels.
#[derive(Debug)]
pub struct Book {
    ty: TensorType,
    /// Values of a group: 4 or 8.
    dims: usize,
    /// Different levels.
    count: usize,
    /// What they stand for.
    levels: [f32; 8],
    /// Where groups are shifted: the levels with the other shift.
    other: Option<[f32; 8]>,
    /// The shift is chosen for each group, not for each block.
    shift_each: bool,
    signs: Signs,
    codes: fn() -> &'static [u16],
    halves: OnceLock<Halves>,
}

/// Each point as the places of its two halves among all halves, and the point of each pair of halves.
#[derive(Debug)]
struct Halves {
    pairs: Vec<[u8; 2]>,
    points: Vec<u16>,
}

const S_LEVELS: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];
const XXS_LEVELS: [f32; 8] = [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0];
const TWO_BIT: [f32; 8] = [8.0, 25.0, 43.0, 0.0, 0.0, 0.0, 0.0, 0.0];
const UP: [f32; 8] = [-0.875, 0.125, 1.125, 0.0, 0.0, 0.0, 0.0, 0.0];
const DOWN: [f32; 8] = [-1.125, -0.125, 0.875, 0.0, 0.0, 0.0, 0.0, 0.0];

const fn signed(ty: TensorType, dims: usize, levels: [f32; 8], signs: Signs, codes: fn() -> &'static [u16]) -> Book {
    let count = if dims == 4 { 8 } else { 3 };
    Book { ty, dims, count, levels, other: None, shift_each: false, signs, codes, halves: OnceLock::new() }
}

const fn shifted(ty: TensorType, shift_each: bool) -> Book {
    let codes = || points::IQ1.points;
    let (signs, other) = (Signs::None, Some(DOWN));
    Book { ty, dims: 8, count: 3, levels: UP, other, shift_each, signs, codes, halves: OnceLock::new() }
}

pub(crate) static IQ2_XXS: Book = signed(TensorType::IQ2_XXS, 8, TWO_BIT, Signs::Even, || points::IQ2_XXS.points);
pub(crate) static IQ2_XS: Book = signed(TensorType::IQ2_XS, 8, TWO_BIT, Signs::Even, || points::IQ2_XS.points);
pub(crate) static IQ2_S: Book = signed(TensorType::IQ2_S, 8, TWO_BIT, Signs::Free, || points::IQ2_S.points);
pub(crate) static IQ3_XXS: Book = signed(TensorType::IQ3_XXS, 4, XXS_LEVELS, Signs::Even, || points::IQ3_XXS.points);
pub(crate) static IQ3_S: Book = signed(TensorType::IQ3_S, 4, S_LEVELS, Signs::Free, || points::IQ3_S.points);
pub(crate) static IQ1_S: Book = shifted(TensorType::IQ1_S, false);
pub(crate) static IQ1_M: Book = shifted(TensorType::IQ1_M, true);

/// Values that are chosen together.
const OCTET: usize = 8;
/// No format has more different halves of a group: 3⁴, or 8².
const HALVES: usize = 81;
/// Choices of an octet, each around the one before.
const ROUNDS: usize = 3;

impl Book {
    fn bits(&self) -> u32 {
        if self.dims == 4 { 3 } else { 2 }
    }

    fn halves(&self) -> &Halves {
        self.halves.get_or_init(|| {
            let codes = (self.codes)();
            let half = self.dims / 2;
            let place = |code: u16, part: usize| -> u8 {
                let level =
                    |i: usize| usize::from(code >> (self.bits() as usize * (part * half + i))) % (1 << self.bits());
                (0..half).rev().fold(0, |place, i| place * self.count + level(i)) as u8
            };
            let pairs: Vec<[u8; 2]> = codes.iter().map(|&code| [place(code, 0), place(code, 1)]).collect();
            let mut points = vec![0; HALVES * HALVES];
            for (index, pair) in pairs.iter().enumerate() {
                points[usize::from(pair[0]) * HALVES + usize::from(pair[1])] = index as u16;
            }
            Halves { pairs, points }
        })
    }

    /// The place of the level of each value of a half.
    fn place(&self, levels: &[usize]) -> usize {
        levels.iter().rev().fold(0, |place, level| place * self.count + level)
    }

    /// The floats and the scales that the format's codec gives these columns: where the search begins.
    pub(crate) fn begin(&self, now: &[f32], root: &[f32], d: &mut [f32], scales: &mut [f32]) {
        let len = root.len();
        let mut rows = vec![0.0; STRIP * len];
        for (i, lanes) in now.chunks_exact(STRIP).enumerate() {
            rows[i..].iter_mut().step_by(len).zip(lanes).for_each(|(to, &from)| *to = from);
        }
        let importance: Vec<f32> = root.iter().map(|r| r * r).collect();
        let Some(format) = crate::format(self.ty) else { return };
        let bytes = self.ty.bytes_for(len as u64).unwrap_or(0) as usize;
        let mut blocks = vec![0; STRIP * bytes];
        crate::Codec::encode(format, &rows, len, Some(&importance), &mut blocks);
        for (lane, block) in blocks.chunks_exact(bytes).enumerate() {
            let (float, codes) = self.read_scales(block);
            d[lane] = float;
            scales[lane..].iter_mut().step_by(STRIP).zip(codes).for_each(|(to, code)| *to = f32::from(code));
        }
    }

    /// The float of a block, and the codes of its scales.
    fn read_scales(&self, block: &[u8]) -> (f32, [u8; 16]) {
        let mut codes = [0; 16];
        let d = half_value([block[0], block[1]]);
        let nibbles = |from: usize, codes: &mut [u8; 16]| {
            for (j, code) in codes.iter_mut().enumerate() {
                *code = block.get(from + j / 2).map_or(0, |byte| byte >> (4 * (j % 2)) & 15);
            }
        };
        match self.ty {
            TensorType::IQ2_XXS => (0..8).for_each(|j| codes[j] = block[2 + 8 * j + 7] >> 4),
            TensorType::IQ3_XXS => (0..8).for_each(|j| codes[j] = block[66 + 4 * j + 3] >> 4),
            TensorType::IQ2_XS => nibbles(66, &mut codes),
            TensorType::IQ2_S => nibbles(74, &mut codes),
            TensorType::IQ3_S => nibbles(106, &mut codes),
            TensorType::IQ1_S => (0..8).for_each(|j| codes[j] = block[34 + 2 * j + 1] >> 4 & 7),
            _ => {
                let mut half = 0;
                for i in 0..4 {
                    let word = u16::from_le_bytes([block[48 + 2 * i], block[49 + 2 * i]]);
                    half |= word >> 12 << (4 * i);
                    (0..4).for_each(|k| codes[4 * i + k] = (word >> (3 * k) & 7) as u8);
                }
                return (half_value(half.to_le_bytes()), codes);
            }
        }
        (d, codes)
    }

    /// Writes a block of chosen levels (with their signs and shifts) and scales.
    pub(crate) fn pack(&self, levels: &[f32], scales: &[f32], d: f32, out: &mut [u8]) {
        let halves = self.halves();
        let half = self.dims / 2;
        let mut lane = Lane { d: half_bits(d), zero: false, index: [0; 64], signs: [0; 32], scales: [0; 16], idle: 0 };
        let mut down = [false; 32];
        for (k, group) in levels.chunks(self.dims).enumerate() {
            let other = self.other.as_ref().filter(|other| other[..self.count].contains(&group[0]));
            let table = other.unwrap_or(&self.levels);
            let place = |value: f32| {
                let value = if self.signs == Signs::None { value } else { value.abs() };
                table[..self.count].iter().position(|&level| level == value).unwrap_or(0)
            };
            let places: Vec<usize> = group.iter().map(|&value| place(value)).collect();
            let pair = self.place(&places[..half]) * HALVES + self.place(&places[half..]);
            lane.index[k] = halves.points[pair];
            down[k % 32] = other.is_some();
        }
        for (signs, levels) in lane.signs.iter_mut().zip(levels.chunks(8)) {
            *signs = levels.iter().enumerate().fold(0, |bits, (i, &level)| bits | u8::from(level < 0.0) << i);
            if self.signs == Signs::Even {
                *signs &= 127;
            }
        }
        lane.scales.iter_mut().zip(scales).for_each(|(to, &from)| *to = from as u8);
        out.fill(0);
        match self.ty {
            TensorType::IQ2_XXS => crate::block::iq2::IQ2XXS::write(&lane, out),
            TensorType::IQ2_XS => crate::block::iq2::IQ2XS::write(&lane, out),
            TensorType::IQ2_S => crate::block::iq2::IQ2S::write(&lane, out),
            TensorType::IQ3_XXS => crate::block::iq3::IQ3XXS::write(&lane, out),
            TensorType::IQ3_S => crate::block::iq3::IQ3S::write(&lane, out),
            TensorType::IQ1_S => {
                out[..2].copy_from_slice(&lane.d.to_le_bytes());
                for ib in 0..8 {
                    let mut word = u16::from(lane.scales[ib]) << 12 | u16::from(down[4 * ib]) << 15;
                    for k in 0..4 {
                        let index = lane.index[4 * ib + k];
                        out[2 + 4 * ib + k] = index as u8;
                        word |= (index >> 8) << (3 * k);
                    }
                    out[34 + 2 * ib..][..2].copy_from_slice(&word.to_le_bytes());
                }
            }
            _ => {
                for k in 0..32 {
                    out[k] = lane.index[k] as u8;
                    let nibble = (lane.index[k] >> 8) as u8 | u8::from(down[k]) << 3;
                    out[32 + k / 2] |= nibble << (4 * (k % 2));
                }
                for i in 0..4 {
                    let mut word = (lane.d >> (4 * i) & 15) << 12;
                    (0..4).for_each(|k| word |= u16::from(lane.scales[4 * i + k]) << (3 * k));
                    out[48 + 2 * i..][..2].copy_from_slice(&word.to_le_bytes());
                }
            }
        }
    }

    /// The levels of the point of least Σ m (t − scale × level)², with the signs of the targets.
    #[inline(always)]
    fn nearest<F: Floats>(&self, table: &[f32; 8], t: &[F; OCTET], m: &[f32; OCTET], scale: F) -> [F; OCTET] {
        let zero = F::splat(0.0);
        let mut size = *t;
        let mut minus = [zero.lt(zero); OCTET];
        if self.signs != Signs::None {
            for i in 0..OCTET {
                minus[i] = t[i].lt(zero);
                size[i] = t[i].abs();
            }
        }
        if self.signs == Signs::Even {
            let mut odd = F::Int::splat(0);
            let mut least = F::splat(f32::INFINITY);
            for i in 0..OCTET {
                odd = odd + F::Int::select(minus[i], F::Int::splat(1), F::Int::splat(0));
                least = least.min(F::splat(m[i]) * (t[i] * t[i]));
            }
            let mut odd = (odd & F::Int::splat(1)).eq(F::Int::splat(1));
            for i in 0..OCTET {
                let flip = odd & (F::splat(m[i]) * (t[i] * t[i])).eq(least);
                odd = odd & flip.not();
                size[i] = F::select(flip, -size[i], size[i]);
                minus[i] = (minus[i] & flip.not()) | (flip & minus[i].not());
            }
        }
        let mut out = [zero; OCTET];
        let half = self.dims / 2;
        for group in 0..OCTET / self.dims {
            let mut costs = [[zero; HALVES]; 2];
            for part in 0..2 {
                let at = group * self.dims + part * half;
                self.costs(table, &size[at..at + half], &m[at..at + half], scale, &mut costs[part]);
            }
            let halves = self.halves();
            let (mut best, mut index) = (F::splat(f32::INFINITY), F::Int::splat(0));
            for (i, pair) in halves.pairs.iter().enumerate() {
                let cost = costs[0][usize::from(pair[0])] + costs[1][usize::from(pair[1])];
                let better = cost.lt(best);
                best = F::select(better, cost, best);
                index = F::Int::select(better, F::Int::splat(i as i32), index);
            }
            let mut indexes = [0; 32];
            index.store(&mut indexes);
            let mut lanes = [[0.0; 32]; OCTET];
            for (lane, &index) in indexes[..F::N].iter().enumerate() {
                let pair = halves.pairs[index as usize];
                for part in 0..2 {
                    let mut place = usize::from(pair[part]);
                    for i in 0..half {
                        lanes[part * half + i][lane] = table[place % self.count];
                        place /= self.count;
                    }
                }
            }
            for i in 0..self.dims {
                out[group * self.dims + i] = F::load(&lanes[i]);
            }
        }
        if self.signs != Signs::None {
            for i in 0..OCTET {
                out[i] = F::select(minus[i], -out[i], out[i]);
            }
        }
        out
    }

    /// What each half costs: Σ m level (scale × level − 2 t).
    #[inline(always)]
    fn costs<F: Floats>(&self, table: &[f32; 8], t: &[F], m: &[f32], scale: F, out: &mut [F; HALVES]) {
        let mut filled = 1;
        for (t, &m) in t.iter().zip(m) {
            let mut terms = [F::splat(0.0); 8];
            for l in 0..self.count {
                let level = F::splat(table[l]);
                terms[l] = F::splat(m * table[l]) * (scale * level - (*t + *t));
            }
            // The next value counts in steps of all combinations so far.
            for l in (0..self.count).rev() {
                for i in 0..filled {
                    out[l * filled + i] = out[i] + terms[l];
                }
            }
            filled *= self.count;
        }
    }

    /// The levels for an octet of targets `t`, in the metric `square`, by rounds around what was chosen: Σ (t − x) M (t −
    /// x)ᵀ falls, or the last choice stays. `tables` are the levels that may be taken.
    #[inline(always)]
    fn choose<F: Floats>(
        &self,
        tables: &[[f32; 8]],
        t: &[F; OCTET],
        square: &[[f32; OCTET]; OCTET],
        scale: F,
    ) -> [F; OCTET] {
        let zero = F::splat(0.0);
        let mut diagonal = [0.0; OCTET];
        for i in 0..OCTET {
            diagonal[i] = square[i][i];
        }
        let mut best = F::splat(f32::INFINITY);
        let mut found = [zero; OCTET];
        for table in tables {
            let mut around = *t;
            // A lane that a round did not help goes no further, whatever its neighbours do.
            let mut goes_on = zero.eq(zero);
            for _ in 0..ROUNDS {
                let levels = self.nearest(table, &around, &diagonal, scale);
                let mut error = [zero; OCTET];
                for i in 0..OCTET {
                    error[i] = t[i] - scale * levels[i];
                }
                let mut cost = zero;
                let mut moved = [zero; OCTET];
                for i in 0..OCTET {
                    let mut rest = zero;
                    for j in 0..OCTET {
                        if i != j {
                            rest = rest + error[j] * F::splat(square[i][j]);
                        }
                    }
                    cost = cost + error[i] * (rest + error[i] * F::splat(square[i][i]));
                    moved[i] = rest * F::splat(1.0 / square[i][i]);
                }
                let better = cost.lt(best) & goes_on;
                goes_on = better;
                best = F::select(better, cost, best);
                for i in 0..OCTET {
                    found[i] = F::select(better, levels[i], found[i]);
                    around[i] = t[i] + moved[i];
                }
                if !better.any() {
                    break;
                }
            }
        }
        found
    }

    /// The levels that may stand in a block, one set for each shift that the block (or the group) may have.
    fn tables(&self) -> ([[f32; 8]; 2], usize) {
        match self.other {
            Some(other) => ([self.levels, other], 2),
            None => ([self.levels; 2], 1),
        }
    }
}

/// The square of the metric that the columns of an octet have once those behind them make up for what they can: R Rᵀ.
#[inline(always)]
fn conditional(r: &Strips, column: usize) -> [[f32; OCTET]; OCTET] {
    let mut square = [[0.0; OCTET]; OCTET];
    for i in 0..OCTET {
        for j in 0..OCTET {
            for k in i.max(j)..OCTET {
                square[i][j] += r.at(column + i, column + k) * r.at(column + j, column + k);
            }
        }
    }
    square
}

/// Rounds the columns of one block, after choosing its scale.
pub(super) struct BookPiece<'a> {
    pub(super) grid: &'a Grid,
    pub(super) book: &'static Book,
    pub(super) reach: i32,
    pub(super) u: &'a Strips,
    pub(super) r: &'a Strips,
    /// The first column of the piece in the matrix.
    pub(super) column: usize,
    /// The same columns within the block of U.
    pub(super) piece: Range<usize>,
    pub(super) now: &'a [f32],
    pub(super) d: &'a [f32],
    pub(super) scale: &'a mut [f32],
    pub(super) levels: &'a mut [f32],
    pub(super) values: &'a mut [f32],
    pub(super) errors: &'a mut [f32],
}

impl Task for BookPiece<'_> {
    #[inline(always)]
    fn run<F: Floats>(mut self) {
        let mut squares = [[[0.0; OCTET]; OCTET]; STRIP / OCTET];
        for (o, square) in squares[..self.piece.len() / OCTET].iter_mut().enumerate() {
            *square = conditional(self.r, self.column + o * OCTET);
        }
        for lane in (0..STRIP).step_by(F::Wide::N) {
            self.lanes::<F::Wide>(lane, &squares);
        }
    }
}

/// What a trial of a scale gave.
struct Trial<F> {
    cost: F,
    levels: [F; STRIP],
    errors: [F; STRIP],
}

impl BookPiece<'_> {
    #[inline(always)]
    fn lanes<F: Floats>(&mut self, lane: usize, squares: &[[[f32; OCTET]; OCTET]; STRIP / OCTET]) {
        let zero = F::splat(0.0);
        let count = self.piece.len();
        let d = F::load(&self.d[lane..]);
        let mut x = [zero; STRIP];
        for i in 0..count {
            x[i] = F::load(&self.now[(self.piece.start + i) * STRIP + lane..]);
        }
        let begun = self.grid.scale_of(F::load(&self.scale[lane..]), d);
        let (tables, shifts) = self.book.tables();
        let each = if self.book.shift_each { 1 } else { shifts };
        let mut best = Trial { cost: F::splat(f32::INFINITY), levels: [zero; STRIP], errors: [zero; STRIP] };
        let (mut best_code, mut best_scale) = (zero, zero);
        for step in -self.reach..=self.reach {
            let (scale, code) = self.grid.scale(begun, d, step);
            for shift in 0..each {
                let tables = if self.book.shift_each { &tables[..shifts] } else { &tables[shift..shift + 1] };
                let trial = self.trial(tables, &x, squares, scale);
                let better = trial.cost.lt(best.cost);
                best.cost = F::select(better, trial.cost, best.cost);
                best_code = F::select(better, code, best_code);
                best_scale = F::select(better, scale, best_scale);
                for i in 0..count {
                    best.levels[i] = F::select(better, trial.levels[i], best.levels[i]);
                    best.errors[i] = F::select(better, trial.errors[i], best.errors[i]);
                }
            }
        }
        best_code.store(&mut self.scale[lane..]);
        for i in 0..count {
            best.levels[i].store(&mut self.levels[i * STRIP + lane..]);
            (best_scale * best.levels[i]).store(&mut self.values[i * STRIP + lane..]);
            best.errors[i].store(&mut self.errors[i * STRIP + lane..]);
        }
    }

    #[inline(always)]
    fn trial<F: Floats>(
        &self,
        tables: &[[f32; 8]],
        x: &[F; STRIP],
        squares: &[[[f32; OCTET]; OCTET]; STRIP / OCTET],
        scale: F,
    ) -> Trial<F> {
        let zero = F::splat(0.0);
        let mut now = *x;
        let mut trial = Trial { cost: zero, levels: [zero; STRIP], errors: [zero; STRIP] };
        let count = self.piece.len();
        let at = self.piece.start;
        for first in (0..count).step_by(OCTET) {
            let mut t = [zero; OCTET];
            t.copy_from_slice(&now[first..first + OCTET]);
            let levels = self.book.choose(tables, &t, &squares[first / OCTET], scale);
            for i in 0..OCTET {
                let j = first + i;
                let row = &self.u.strip(at / STRIP)[(at + j) * STRIP + at % STRIP..(at + j + 1) * STRIP];
                let root = 1.0 / row[j];
                let error = (now[j] - scale * levels[i]) * F::splat(root);
                trial.cost = trial.cost + error * error;
                trial.levels[j] = levels[i];
                trial.errors[j] = error;
                for k in j + 1..count {
                    now[k] = now[k] - error * F::splat(row[k]);
                }
            }
        }
        trial
    }
}

/// Chooses the octets of some columns again, given all others.
pub(super) struct BookSteps<'a> {
    pub(super) grid: &'a Grid,
    pub(super) book: &'static Book,
    pub(super) square: &'a Strips,
    pub(super) piece: Range<usize>,
    pub(super) gradient: &'a [f32],
    pub(super) target: &'a [f32],
    pub(super) d: &'a [f32],
    pub(super) scale: &'a [f32],
    pub(super) levels: &'a mut [f32],
    pub(super) error: &'a mut [f32],
    pub(super) change: &'a mut [f32],
}

impl Task for BookSteps<'_> {
    #[inline(always)]
    fn run<F: Floats>(mut self) {
        for lane in (0..STRIP).step_by(F::Wide::N) {
            self.lanes::<F::Wide>(lane);
        }
    }
}

impl BookSteps<'_> {
    #[inline(always)]
    fn lanes<F: Floats>(&mut self, lane: usize) {
        let zero = F::splat(0.0);
        let scale = self.grid.scale_of(F::load(&self.scale[lane..]), F::load(&self.d[lane..]));
        let (tables, shifts) = self.book.tables();
        let count = self.piece.len();
        let at = self.piece.start;
        let mut gradient = [zero; STRIP];
        for i in 0..count {
            gradient[i] = F::load(&self.gradient[(at + i) * STRIP + lane..]);
        }
        for first in (0..count).step_by(OCTET) {
            let (mut old, mut around) = ([zero; OCTET], [zero; OCTET]);
            let mut diagonal = [0.0; OCTET];
            for i in 0..OCTET {
                old[i] = F::load(&self.levels[(first + i) * STRIP + lane..]);
                diagonal[i] = self.square.at(at + first + i, at + first + i);
                around[i] = scale * old[i] + gradient[first + i] * F::splat(1.0 / diagonal[i]);
            }
            let mut best = zero;
            let mut found = old;
            // Where a block has one shift, it keeps it.
            let down = match self.book.other {
                Some(other) => {
                    old[0].eq(F::splat(other[0])) | old[0].eq(F::splat(other[1])) | old[0].eq(F::splat(other[2]))
                }
                None => zero.lt(zero),
            };
            for (s, table) in tables[..shifts].iter().enumerate() {
                let mut around = around;
                // As far as rounds help the lane, whatever its neighbours do.
                let mut goes_on = match (self.book.other.is_none() || self.book.shift_each, s) {
                    (true, _) => zero.eq(zero),
                    (false, 0) => down.not(),
                    (false, _) => down,
                };
                for _ in 0..ROUNDS {
                    let levels = self.book.nearest(table, &around, &diagonal, scale);
                    let mut change = [zero; OCTET];
                    for i in 0..OCTET {
                        change[i] = scale * levels[i] - scale * old[i];
                    }
                    let mut gain = zero;
                    for i in 0..OCTET {
                        let mut product = zero;
                        for j in 0..OCTET {
                            if i != j {
                                product =
                                    product + change[j] * F::splat(self.square.at(at + first + i, at + first + j));
                            }
                        }
                        let twice = gradient[first + i] + gradient[first + i];
                        gain = gain + change[i] * ((product + change[i] * F::splat(diagonal[i])) - twice);
                        around[i] = scale * old[i] + (gradient[first + i] - product) * F::splat(1.0 / diagonal[i]);
                    }
                    let better = gain.lt(best) & goes_on;
                    goes_on = better;
                    best = F::select(better, gain, best);
                    for i in 0..OCTET {
                        found[i] = F::select(better, levels[i], found[i]);
                    }
                    if !better.any() {
                        break;
                    }
                }
            }
            for i in 0..OCTET {
                let j = first + i;
                let change = scale * found[i] - scale * old[i];
                found[i].store(&mut self.levels[j * STRIP + lane..]);
                (F::load(&self.target[j * STRIP + lane..]) - scale * found[i])
                    .store(&mut self.error[j * STRIP + lane..]);
                change.store(&mut self.change[j * STRIP + lane..]);
                for k in 0..count {
                    gradient[k] = gradient[k] - change * F::splat(self.square.at(at + j, at + k));
                }
            }
        }
    }
}
