//! The grids of the IQ1, IQ2 and IQ3 formats: which groups of levels have an index, and which points lie near the others.
//!
//! A group of values (eight of three levels, or four of eight levels) is rounded to levels one by one; few of the
//! combinations are points of the grid. One that is not goes to the best of the points around it: those at the smallest
//! few distances ("shells"), in the order of distance, then index. The lists are computed once, when first needed.
//!
//! The points are those of [`gguf::decode::grids`].

use std::sync::OnceLock;

use gguf::decode::grids::{self, packed};

use crate::lanes::{Floats, Group, Ints, Masks};

/// No instance of these searches has more lanes.
pub(super) const LANES: usize = 16;

/// Lists of neighbours are filled to a multiple of this many, so that any number of lanes reads whole vectors.
const PAD: usize = LANES;

/// A grid.
pub(crate) struct Grid {
    /// The codes of the points, by index.
    pub(crate) points: &'static [u16],
    /// Bits of a level: 2 or 3.
    bits: u32,
    /// How many different distances the neighbours of a code may have.
    shells: usize,
    map: OnceLock<Map>,
}

/// What each code leads to.
pub(super) struct Map {
    slots: Vec<Slot>,
    neighbours: Vec<[u8; 2]>,
}

/// A code's neighbours: `count` of them (none if it is a point itself, whose index is `at`) from the `at`th [`PAD`] on.
#[derive(Clone, Copy, Default)]
struct Slot {
    at: u16,
    count: u16,
}

impl Grid {
    const fn new(points: &'static [u16], bits: u32, shells: usize) -> Grid {
        Grid { points, bits, shells, map: OnceLock::new() }
    }

    /// The map from codes to points, made on the first call.
    pub(super) fn map(&self) -> &Map {
        self.map.get_or_init(|| self.make_map())
    }

    fn make_map(&self) -> Map {
        let (levels, dims) = if self.bits == 2 { (3usize, 8) } else { (8, 4) };
        let level = |code: u16, dim: usize| i32::from(code >> (self.bits as usize * dim) & ((1 << self.bits) - 1));
        let half = |code: u16, part: usize| (code >> (self.bits as usize * dims / 2 * part)) as usize % HALF;

        // Squared distances of half codes, so that a distance is the sum of two of them.
        let mut squares = vec![0u8; HALF * HALF];
        for (i, square) in squares.iter_mut().enumerate() {
            let (a, b) = ((i / HALF) as u16, (i % HALF) as u16);
            let sum: i32 = (0..dims / 2).map(|dim| (level(a, dim) - level(b, dim)).pow(2)).sum();
            *square = sum as u8; // at most 98
        }

        let mut slots = vec![Slot::default(); 1 << (self.bits as usize * dims)];
        for (index, &code) in self.points.iter().enumerate() {
            slots[usize::from(code)].at = index as u16;
        }
        let mut neighbours = Vec::new();
        let mut distances = vec![0u8; self.points.len()];
        let mut points = self.points.iter().peekable();
        for number in 0..levels.pow(dims as u32) {
            let code = packed(number, levels, self.bits);
            if points.next_if_eq(&&code).is_some() {
                continue;
            }
            let (low, high) = (&squares[half(code, 0) * HALF..], &squares[half(code, 1) * HALF..]);
            let mut seen = [false; 256];
            for (distance, &point) in distances.iter_mut().zip(self.points) {
                *distance = low[half(point, 0)] + high[half(point, 1)];
                seen[usize::from(*distance)] = true;
            }
            let at = neighbours.len();
            for shell in (0u8..=255).filter(|&d| seen[usize::from(d)]).take(self.shells) {
                let on_it = distances.iter().zip(self.points).filter(|&(&distance, _)| distance == shell);
                neighbours.extend(on_it.map(|(_, point)| point.to_le_bytes()));
            }
            slots[usize::from(code)] = Slot { at: (at / PAD) as u16, count: (neighbours.len() - at) as u16 };
            // The filling repeats the first neighbour, which a tie then favours anyway.
            let first = neighbours[at];
            neighbours.resize(neighbours.len().next_multiple_of(PAD), first);
        }
        Map { slots, neighbours }
    }
}

/// Half a code has at most this many bits.
const HALF: usize = 1 << 8;

impl Map {
    /// Whether a code is a point of the grid.
    #[inline(always)]
    pub(super) fn has(&self, code: u16) -> bool {
        self.slots[usize::from(code)].count == 0
    }

    /// The index of a point's code.
    #[inline(always)]
    pub(super) fn index(&self, code: u16) -> u16 {
        self.slots[usize::from(code)].at
    }

    /// Of the neighbours of a code that is no point, the one with the smallest sum by `table`, the first among equals.
    #[inline(always)]
    pub(super) fn nearest<F: Floats, S: Shape>(&self, code: u16, table: &[f32; 32]) -> u16 {
        let slot = self.slots[usize::from(code)];
        let list = &self.neighbours[usize::from(slot.at) * PAD..];
        let list = &list[..usize::from(slot.count).next_multiple_of(PAD)];
        let bytes = list.as_flattened();
        let mut best = F::splat(f32::MAX);
        let mut at = F::Int::splat(0);
        for (step, codes) in bytes.chunks_exact(2 * F::N).enumerate() {
            let sum = S::sum::<F>(table, F::Int::load_u16(codes));
            let better = sum.lt(best);
            best = F::select(better, sum, best);
            at = F::Int::select(better, F::Int::splat((step * F::N) as i32), at);
            if (step + 1) * F::N >= usize::from(slot.count) {
                break;
            }
        }
        let least = -((-best).reduce_max());
        let mut ties = best.eq(F::splat(least)).bits();
        let mut places = [0i32; PAD];
        at.store(&mut places);
        let mut place = usize::MAX;
        while ties != 0 {
            let lane = ties.trailing_zeros() as usize;
            place = place.min(places[lane % PAD] as usize + lane);
            ties &= ties - 1;
        }
        // Without a comparable sum (overflow), the nearest one.
        u16::from_le_bytes(*list.get(place).unwrap_or(&list[0]))
    }
}

/// The weights of values without an importance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unweighted {
    /// x²
    Square,
    /// x² and a quarter of `sigma2`
    Raised,
}

/// The weights of values `from` the start of their block on: importance × √(sigma2 + x²).
#[inline(always)]
pub(super) fn weigh<F: Floats>(group: &Group<'_>, from: usize, x: &[F], sigma2: F, without: Unweighted, w: &mut [F]) {
    if group.has_importance() {
        group.importance(from, w);
        for (w, &x) in w.iter_mut().zip(x) {
            *w = *w * (sigma2 + x * x).sqrt();
        }
    } else {
        let base = F::splat(0.25) * sigma2;
        for (w, &x) in w.iter_mut().zip(x) {
            *w = if without == Unweighted::Raised { base + x * x } else { x * x };
        }
    }
}

/// How a code holds its levels, and how a table of 32 numbers says what each level of each value contributes to a sum:
/// the values in order, each with as many numbers as its bits can tell apart.
pub(crate) trait Shape {
    /// Values of a group.
    const DIMS: usize;
    /// Bits of a level.
    const BITS: u32;
    /// Levels of a value.
    const LEVELS: usize;
    /// The sums for as many codes as there are lanes, added up in the order of the values.
    fn sum<F: Floats>(table: &[f32; 32], codes: F::Int) -> F;
}

/// Eight values of three levels.
pub(crate) struct Eight;

impl Shape for Eight {
    const DIMS: usize = 8;
    const BITS: u32 = 2;
    const LEVELS: usize = 3;

    #[inline(always)]
    fn sum<F: Floats>(table: &[f32; 32], codes: F::Int) -> F {
        let table = table.as_chunks::<4>().0;
        let mut sum = F::lookup4(&table[0], codes);
        for (dim, table) in table.iter().enumerate().skip(1) {
            sum = sum + F::lookup4(table, codes.shr(2 * dim as u32));
        }
        sum
    }
}

/// Four values of eight levels.
pub(crate) struct Four;

impl Shape for Four {
    const DIMS: usize = 4;
    const BITS: u32 = 3;
    const LEVELS: usize = 8;

    #[inline(always)]
    fn sum<F: Floats>(table: &[f32; 32], codes: F::Int) -> F {
        let table = table.as_chunks::<8>().0;
        let mut sum = F::lookup8(&table[0], codes);
        for (dim, table) in table.iter().enumerate().skip(1) {
            sum = sum + F::lookup8(table, codes.shr(3 * dim as u32));
        }
        sum
    }
}

/// The values and weights of one group of one superblock, each repeated for every level.
pub(super) struct Target {
    x: [f32; 32],
    w: [f32; 32],
}

impl Target {
    /// Values and weights as lanes, and the lane to take.
    #[inline(always)]
    pub(super) fn new<S: Shape>(x: &[[f32; LANES]], w: &[[f32; LANES]], lane: usize) -> Target {
        let mut target = Target { x: [0.0; 32], w: [0.0; 32] };
        for i in 0..32 {
            target.x[i] = x[i >> S::BITS][lane];
            target.w[i] = w[i >> S::BITS][lane];
        }
        target
    }

    /// The neighbour at the smallest weighted distance; `levels` says what they stand for, as [`Shape::sum`]'s table.
    #[inline(always)]
    pub(super) fn nearest<F: Floats, S: Shape>(&self, map: &Map, code: u16, scale: f32, levels: &[f32; 32]) -> u16 {
        let scale = F::splat(scale);
        let mut table = [0.0f32; 32];
        for at in (0..32).step_by(F::N) {
            let difference = scale * F::load(&levels[at..]) - F::load(&self.x[at..]);
            ((F::load(&self.w[at..]) * difference) * difference).store(&mut table[at..]);
        }
        map.nearest::<F, S>(code, &table)
    }
}

/// What each level of each value of one group contributes to a weighted distance, for a different scale in each lane.
pub(super) struct Tables<F>([F; 32]);

impl<F: Floats> Tables<F> {
    /// A table to fill.
    #[inline(always)]
    pub(super) fn empty() -> Self {
        Tables([F::splat(0.0); 32])
    }

    /// Values and weights as lanes, and the lane to take of them; a scale for each lane of the table.
    #[inline(always)]
    pub(super) fn fill<S: Shape>(&mut self, x: &[[f32; LANES]], w: &[[f32; LANES]], lane: usize, scales: F) {
        let mut scaled = [F::splat(0.0); 8];
        for (level, scaled) in scaled[..S::LEVELS].iter_mut().enumerate() {
            *scaled = scales * F::splat((2 * level + 1) as f32);
        }
        for dim in 0..S::DIMS {
            let (x, w) = (F::splat(x[dim][lane]), F::splat(w[dim][lane]));
            for (level, &scaled) in scaled[..S::LEVELS].iter().enumerate() {
                let difference = scaled - x;
                self.0[(dim << S::BITS) + level] = (w * difference) * difference;
            }
        }
    }

    /// For each lane the code of the neighbour at the smallest distance, the first among equals.
    #[inline(always)]
    pub(super) fn nearest<S: Shape>(&self, map: &Map, code: u16) -> F::Int {
        let slot = map.slots[usize::from(code)];
        // In fours: what fills up the list repeats its first.
        let list = &map.neighbours[usize::from(slot.at) * PAD..][..usize::from(slot.count).next_multiple_of(4)];
        let mut best = F::splat(f32::MAX);
        let mut found = F::Int::splat(i32::from(u16::from_le_bytes(list[0])));
        for four in list.as_chunks::<4>().0 {
            for &code in four {
                let code = usize::from(u16::from_le_bytes(code));
                let mut sum = self.0[code & ((1 << S::BITS) - 1)];
                for dim in 1..S::DIMS {
                    let level = code >> (S::BITS as usize * dim) & ((1 << S::BITS) - 1);
                    sum = sum + self.0[(dim << S::BITS) + level];
                }
                let better = sum.lt(best);
                best = sum.min(best);
                found = F::Int::select(better, F::Int::splat(code as i32), found);
            }
        }
        found
    }
}

/// IQ2_XXS: 256 points.
pub(crate) static IQ2_XXS: Grid = Grid::new(&grids::IQ2_XXS, 2, 2);

/// IQ2_XS: 512 points.
pub(crate) static IQ2_XS: Grid = Grid::new(&grids::IQ2_XS, 2, 2);

/// IQ2_S: 1024 points.
pub(crate) static IQ2_S: Grid = Grid::new(&grids::IQ2_S, 2, 1);

/// IQ1_S and IQ1_M: 2048 points.
pub(crate) static IQ1: Grid = Grid::new(&grids::IQ1, 2, 3);

/// IQ3_XXS: 256 points.
pub(crate) static IQ3_XXS: Grid = Grid::new(&grids::IQ3_XXS, 3, 2);

/// IQ3_S: 512 points.
pub(crate) static IQ3_S: Grid = Grid::new(&grids::IQ3_S, 3, 3);

#[cfg(test)]
mod tests {
    use super::*;

    fn grids() -> [&'static Grid; 6] {
        [&IQ1, &IQ2_XXS, &IQ2_XS, &IQ2_S, &IQ3_XXS, &IQ3_S]
    }

    #[test]
    fn points_ascend_and_have_levels_in_range() {
        for grid in grids() {
            assert!(grid.points.is_sorted_by(|a, b| a < b));
            for &point in grid.points {
                assert!(grid.bits == 3 || point & point >> 1 & 0x5555 == 0, "a fourth level in {point:#x}");
            }
        }
    }

    #[test]
    fn neighbours_are_the_nearest_shells_in_order() {
        for grid in grids() {
            let map = grid.map();
            let distance = |a: u16, b: u16| {
                let level = |code: u16, dim: u32| i32::from(code >> (dim * grid.bits) & ((1 << grid.bits) - 1));
                (0..if grid.bits == 2 { 8 } else { 4 }).map(|dim| (level(a, dim) - level(b, dim)).pow(2)).sum::<i32>()
            };
            let total = if grid.bits == 2 { 6561 } else { 4096 };
            for number in (0..total).step_by(37) {
                let code = packed(number, if grid.bits == 2 { 3 } else { 8 }, grid.bits);
                let slot = map.slots[usize::from(code)];
                if grid.points.contains(&code) {
                    assert!(map.has(code));
                    assert_eq!(grid.points[usize::from(map.index(code))], code);
                    continue;
                }
                let mut all: Vec<_> = grid.points.iter().map(|&point| (distance(code, point), point)).collect();
                all.sort();
                let mut shells: Vec<_> = all.iter().map(|&(distance, _)| distance).collect();
                shells.dedup();
                let reach = shells[grid.shells - 1];
                let expected: Vec<_> =
                    all.iter().filter(|&&(d, _)| d <= reach).map(|&(_, point)| point.to_le_bytes()).collect();
                let at = usize::from(slot.at) * PAD;
                assert_eq!(map.neighbours[at..at + usize::from(slot.count)], expected);
            }
        }
    }
}
