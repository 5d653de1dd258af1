//! The grids of the IQ1, IQ2 and IQ3 formats: which groups of levels have an index, and which points lie near the others.
//!
//! A group of values (eight of three levels, or four of eight levels) is rounded to levels one by one; few of the
//! combinations are points of the grid. One that is not goes to the best of the points around it: those at the smallest
//! few distances ("shells"), in the order of distance, then index. The lists are computed once, when first needed.
//!
//! Levels are packed 2 (three levels) or 3 (eight levels) bits each, the first value lowest: a code. The points of a
//! grid ascend, so a set of codes is all there is to write down, and a few lines hold it.

use std::sync::OnceLock;

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

/// The `number`th combination of levels in ascending order of codes, packed.
const fn packed(mut number: usize, levels: usize, bits: u32) -> u16 {
    let mut code = 0;
    let mut shift = 0;
    while number != 0 {
        code |= (number % levels) << shift;
        number /= levels;
        shift += bits;
    }
    code as u16
}

/// The `N` points of a set written six combinations of levels a character, the first in the lowest bit, from '0' on.
const fn points<const N: usize, const BITS: u32>(set: &str) -> [u16; N] {
    let set = set.as_bytes();
    let levels = if BITS == 2 { 3 } else { 8 };
    let mut points = [0; N];
    let (mut count, mut number, mut i) = (0, 0, 0);
    while i < set.len() {
        if set[i] >= b'0' {
            let mut bit = 0;
            while bit < 6 {
                if (set[i] - b'0') >> bit & 1 == 1 {
                    points[count] = packed(number, levels, BITS);
                    count += 1;
                }
                number += 1;
                bit += 1;
            }
        }
        i += 1;
    }
    assert!(count == N);
    points
}

/// IQ2_XXS: 256 points.
pub(crate) static IQ2_XXS: Grid = Grid::new(&points::<256, 2>(IQ2_XXS_SET), 2, 2);

#[rustfmt::skip]
const IQ2_XXS_SET: &str = r"
    EE15E11A15404@1A001000010105004000004000@11@15101@110151010400@1@000@100100001001A110A150001000100010000
    00004010000000000@11@0100101A00110100140100000001@00000000110A0@0001000000100004000001040000000000@11001
    000@0000A000000000001000000@00000005400010@050000000@0100000005000000000000@11001040000001000@0001000000
    0000000001000101000000010000000000000000000010000000@11A11141@11001001000@0A000@010001401000011010000010
    @0004010000000001000000000000@1100A000000001000000A0400000000@000001001A@1000001100010004000000010000000
    000@00000000000005000400000000000@00000010000001@@000001000000000100000000010000000000001100100010000100
    000@00000000010000100000A0000000000000050000000100000000000000000000040000000000000000000000000000000000
    05400@00004000010101000000000@00000000000@1A0010010000010000400000100@0001001000004000000000000010000000
    000000@00000000000011011000000@0004000000100000000@000000001004010000000000000@0000000000000000000000000
    0000@0000000100000000000000000000000400000100@0000@00000000000010000000000000001000000000000000000000000
    000000000000000000010000000100000000000000000000000000
";

/// IQ2_XS: 512 points.
pub(crate) static IQ2_XS: Grid = Grid::new(&points::<512, 2>(IQ2_XS_SET), 2, 2);

#[rustfmt::skip]
const IQ2_XS_SET: &str = r"
    EEEEAEEA1EAA1@EEE1EA11A1100EA11@1A001400@EEA1EA51@1100EA11@11@01000@1104500001000EE1A@11101001D11001000@
    @0001001100000041@EEA1EA11D1100EA11@11001050@5100100100000EA11@A1011000@110010000000010100@0000000@15001
    01004000A000000040000000000@000000@EE11@11001001@1100110@000001004000001000A110@1000000001000@040000@0@0
    040000000004150100@000104000000000101000101000004500@EEA1EE1A@1100EA11@1100A004@150@100000000EAA1@110010
    10@11011000000401400011000000@1100A014000001@000110@000001000000000000EA11A11001000@1A005000000001000010
    000000D11@01001@00@01100000001100000@00000100@01010@010000@000040500000000000000000@000@110010140400@100
    000000000000001040000400104000000000000100A000000010000000000000@0000000040000000@0000000000400000140000
    0EA11D11005000E51001@@0000001001000005001A1E0010010@000100001000000@00010000040000110@000405000140000000
    000000004000001140A110010400100010040000100000000000400@000A0000111000000000@0000005000000@0000000000000
    0@000000400000@000000000@000001000005501400000001000000@@000004510040000100100000100000@0000000000000000
    0000000@000100405100000001110000000050000000500000@004
";

/// IQ2_S: 1024 points.
pub(crate) static IQ2_S: Grid = Grid::new(&points::<1024, 2>(IQ2_S_SET), 2, 1);

#[rustfmt::skip]
const IQ2_S_SET: &str = r"
    EEEEAEEAEEA1ADEEA1EAEAA1E@1EA11DEA00A414@EEAEEEEE@EAA1EEEAAEEA1EA11@EA00AA11@1100EAEADEEA1A010D1EA0AA11@
    01001@145010000@0@EEA5EAEEA5AA1EEEEAEEA1EA10@AA@1A@10@1100EAEAAEEA1EA11@EEA1EA11@1100AA11@11001000DEAA0E
    A11@1000EA11@110@000401100104000000EAEAD1E011410D1E@0E@11@11001404511000500AEAA1EA11@1100AA11@11041000@1
    10010@000000A@10@11000400D1100000000@000404000010500@EEE5EEEE@1AA1EAEE@EEA1EA11@1E11AA11@1000EEEEAEEA1EA
    11@EEA1EA11D1100EA11@1100100@@AEA1EA1101100EA11@11001040@1100100000000EAEEAEEA1EA10@EEA1EA11@1100AA11@11
    0@1000@EEA1EA11@1100EA11@11001000@1104100000000EA11@11401000@110010000000010@000000@000A5EA1AA1101100EA1
    1@110010@0011001040000@0AA11@11001000@11001400104001000000000010@1100000@000101000400000000000004000000@
    0EAAA@1EA0A@10@AEA1EA10@110@AD10@11000000@EEA0EA11@1100EA11@11001400@110@100000000A@10@11000004@1000100@
    000000004000504004@AE11EA11@1100A@10@11400000@1100100000004EA11@11001040@11001000000A01000040010000@1104
    10000000@10000@400000000000000000100A414D1100000440000100@000004404500004500A110010000@00110@00000000000
    00000@000000004001000000040000000100400005051000001004
";

/// IQ1_S and IQ1_M: 2048 points.
pub(crate) static IQ1: Grid = Grid::new(&points::<2048, 2>(IQ1_SET), 2, 3);

#[rustfmt::skip]
const IQ1_SET: &str = r"
    EE2552Z02552553Z62RRRZ12Z0255255222A5EB550Z0222RH00222j0Z0:RkZZ2@Zj20820:X:S22:20552552R02552552:232H2:2
    0Z225525522B2E52550;23:8:J20Z@2ZZ::2Ro:28P2:00Z02QRZX02Z02R2KR@^jR:8:kJRRjZZj`gjZ[k^2j0^RX[bCkPT2820R02Z
    :Z[22:020XRBP;j>R0b:R2@P05XZ:R22R40552E522B2552E52:22<2Zj02Q222E2552R222E2552X22hRZP02:B20222::JR:0:[Z22
    522222325140552552:0255055@:22PR2Z22Q23550552R22552552R020RZZ008B4[R^R2Zj6ZZX2702Z022PR82@80220B02Zj`ZRZ
    23bRj:RjJOjR;j6ZB2[:Z:gR:B43Z02B424::Z22Z22b<;Z8RnZVPR>Z20P00X2Z820802jRR:::j2:P2:S2jj;^jjojR2j:RRPR:PRj
    R2@Xb803jCZjNon:XjBSnjgjjOoOoJNOjjMJkObooJRnBTNh::24Zj[34Z:2bRj22jjojBBj3281Ra2JbSZ2T^202X2288^ZB0P02ZR2
    V2Bb2V8T2R20R20S0>102R020`VRZZj^2HZ_:2Zb20hJGj2dbV>422Q;Zj=:E4MY40P222PR222214:82ZJ>j:R<42J20R10::ZH2485
    4550552[22552552Z22:ZNX2BX22552550:22552550820:@R:208202RRPJ:j6^ZZ:P00R22:>bR422415525E2:2B552556Z02ZZR:
    02P22552552Z00552552R32R2Z062Z22Z:ZZ:2kR2XP:Z22:22XZ:P22X0@Z8:P8Pjk2XP;2:ZkBbjjojB:n^Z:8BQ2Jf2:<V3X22P22
    RXVH02R22XZZ[XZjRV:XRR02@02X::202j00552552Z2055255BZ60PBZ:02U204=@452R22552550022:8[b32000PZ:PR2j2RjR:00
    2RD2XT>504aB5550550Z205525528B228RR20Q00550550Z0055255
";

/// IQ3_XXS: 256 points.
pub(crate) static IQ3_XXS: Grid = Grid::new(&points::<256, 3>(IQ3_XXS_SET), 3, 2);

#[rustfmt::skip]
const IQ3_XXS_SET: &str = r"
    EXH12@000PR258B120101DQ05X8022082F0800000400800P@080X8800@0040000000P000@000A10080P00X@1:D1P100058@10000
    00P258@000004D00180@0040R00000@00000041001002020000000000001040000@1:DT040000XB124000PH058H1060800P0A000
    0000A00000208000800P08000010000000000X0@000800002DP200@0P@@104P0@1000X@0P000400108008000000000@002004440
    4000P000001001008000000200@0001P00:08200000000000010040P10@@008000080000@00000P0@00000208000100000000000
    PD00100000004000200014400100P000001040000@0100000P0000@082000001400020000000000004000000@001000000040050
    @000080000P0000P000000100000110000000000@000002000004000000080000002080000000PJ00@004000000@040000004000
    P@0004080P00040000P0080000@10010000000000400000000000000000
";

/// IQ3_S: 512 points.
pub(crate) static IQ3_S: Grid = Grid::new(&points::<512, 3>(IQ3_S_SET), 3, 3);

#[rustfmt::skip]
const IQ3_S_SET: &str = r"
    WNe88DZ258i5STX8@0P84<JBR41Y:0@288B1:1A10:B08:1198001@105QPX00420Y00200108@50D4204100LaZ5850@901;5Q098@1
    04D0T61190B048I226Q00@@0X@10:@D400P098@108000000A20D0000:DP0P80044`ZEYH1ZD0PYD@RT8112000B2P21:0R08A92@Q2
    440@08809@R00009@801060204@Q080000R000R0050210004X:1Z@Y088P:@X0010@045011@10100024QR1X880P022AP00@@408@1
    P@0401020040080000P20D0800000411ABP010@04Z01QPP800P2Q802108110Q25820000050040600080X08000001000200100400
    04201PP00001A@00AB0@@X212@00000118021102000Q1080@80888101@0@00000@0@00P20000000040000@10400000000X20:000
    10@00480000400010011P@@010Q004000000002080010T0000100400P00004000000:0000000049050D0@@0048040P2000P419@0
    08000@000@208000RP@000@000000@0040000@000800000010000000000
";

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
