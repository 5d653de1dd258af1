//! NF4 and FP4: a scale for each block of weights, and for each weight the nearest of sixteen code points.
//!
//! A block's scale is its largest magnitude, kept as f32; each weight, divided by it, lies in −1 … 1 and becomes the
//! index of the nearest code point, ties going to the smaller one. Two codes share a byte, the first in its upper
//! half. Blocks run over the whole tensor in row-major order: they know nothing of rows.
//!
//! The sixteen points of NF4 are quantiles of the normal distribution with an exact zero (Dettmers et al., *QLoRA*,
//! 2023, appendix E); those of FP4 are a sign, two exponent bits and one mantissa bit, scaled to 1. Values and the
//! order of operations are those of bitsandbytes 0.50.2 on the CPU, so that the bytes are equal.

use convert::packed::Float;
pub use convert::packed::bnb::{BLOCK_LENGTHS, Code};

use crate::SimdPath;
use crate::block::largest;
use crate::lanes::{Floats, Ints, Task, half_value};
use crate::rows::first_not_finite;

/// The code points in ascending order, equal ones in the order of their codes.
const fn ascending(points: &[f32; 16]) -> [u8; 16] {
    let mut order = [0; 16];
    let mut i = 0;
    while i < 16 {
        let mut place = i;
        while place > 0 && points[order[place - 1] as usize] > points[i] {
            order[place] = order[place - 1];
            place -= 1;
        }
        order[place] = i as u8;
        i += 1;
    }
    order
}

const fn bounds(points: &[f32; 16], order: &[u8; 16]) -> [f32; 16] {
    let mut bounds = [f32::INFINITY; 16];
    let mut i = 0;
    while i < 15 {
        bounds[i] = (points[order[i] as usize] + points[order[i + 1] as usize]) / 2.0;
        i += 1;
    }
    bounds
}

struct Table {
    /// The code of each rank among the ascending points, as the bits of a float: what lanes look up.
    codes: [f32; 16],
    /// Half way between neighbouring points; beyond the last there is none.
    bounds: [f32; 16],
}

impl Table {
    const fn new(code: Code) -> Table {
        let order = ascending(code.points());
        let mut codes = [0.0; 16];
        let mut rank = 0;
        while rank < 16 {
            codes[rank] = f32::from_bits(order[rank] as u32);
            rank += 1;
        }
        Table { codes, bounds: bounds(code.points(), &order) }
    }
}

static TABLES: [Table; 2] = [Table::new(Code::Nf4), Table::new(Code::Fp4)];

/// Values encoded together; a power of two not above the smallest block, and no less than the lanes of any path.
const GROUP: usize = 32;

/// Encodes values in blocks of `block`, the last of which may be short: two codes a byte in `codes`
/// (`values.len()` halved and rounded up), a scale for each block in `scales`.
///
/// Gives false, with unspecified output, where a value is not finite.
pub fn encode(code: Code, values: &[f32], block: usize, codes: &mut [u8], scales: &mut [f32]) -> bool {
    encode_on(SimdPath::current(), code, values, block, codes, scales)
}

fn encode_on(path: SimdPath, code: Code, values: &[f32], block: usize, codes: &mut [u8], scales: &mut [f32]) -> bool {
    if first_not_finite(values).is_some() {
        return false;
    }
    path.run(Encode { table: &TABLES[code as usize], values, block, codes, scales });
    true
}

/// The scales alone, one for each block, of floats as they are stored (little-endian): magnitudes order as their bits do.
/// Gives false, with unspecified output, where a value is not finite.
pub(super) fn stored_scales(float: Float, bytes: &[u8], block: usize, scales: &mut [f32]) -> bool {
    match float {
        Float::F32 => bits_of_scales(bytes.as_chunks().0, u32::from_le_bytes, f32::from_bits, block, scales),
        Float::Bf16 => bits_of_scales(
            bytes.as_chunks().0,
            u16::from_le_bytes,
            |bits| f32::from_bits(u32::from(bits) << 16),
            block,
            scales,
        ),
        Float::F16 => bits_of_scales(
            bytes.as_chunks().0,
            u16::from_le_bytes,
            |bits| half_value(bits.to_le_bytes()),
            block,
            scales,
        ),
    }
}

fn bits_of_scales<const N: usize, B: Bits>(
    values: &[[u8; N]],
    bits: impl Fn([u8; N]) -> B,
    value: impl Fn(B) -> f32,
    block: usize,
    scales: &mut [f32],
) -> bool {
    SimdPath::current().run(StoredScales { values, bits, value: &value, block, scales: &mut *scales });
    scales.iter().all(|scale| scale.is_finite())
}

/// The bits of a float.
trait Bits: Copy + Ord {
    const ZERO: Self;
    fn magnitude(self) -> Self;
}

impl Bits for u16 {
    const ZERO: u16 = 0;
    #[inline(always)]
    fn magnitude(self) -> u16 {
        self & 0x7fff
    }
}

impl Bits for u32 {
    const ZERO: u32 = 0;
    #[inline(always)]
    fn magnitude(self) -> u32 {
        self & 0x7fff_ffff
    }
}

struct StoredScales<'a, const N: usize, R, V> {
    values: &'a [[u8; N]],
    bits: R,
    value: V,
    block: usize,
    scales: &'a mut [f32],
}

impl<const N: usize, B: Bits, R: Fn([u8; N]) -> B, V: Fn(B) -> f32> Task for StoredScales<'_, N, R, V> {
    #[inline(always)]
    fn run<F: Floats>(self) {
        for (values, scale) in self.values.chunks(self.block).zip(self.scales) {
            let most = values.iter().fold(B::ZERO, |most, v| most.max((self.bits)(*v).magnitude()));
            let least = if values.len() == self.block { 0.0 } else { SMALLEST };
            // What is no number stays none.
            let most = (self.value)(most);
            *scale = if most < least { least } else { most };
        }
    }
}

struct Scales<'a> {
    values: &'a [f32],
    block: usize,
    scales: &'a mut [f32],
}

impl Task for Scales<'_> {
    #[inline(always)]
    fn run<F: Floats>(self) {
        for (values, scale) in self.values.chunks(self.block).zip(self.scales) {
            *scale = match values.len() == self.block {
                true => largest::<F>(values),
                false => values.iter().fold(SMALLEST, |max, x| max.max(x.abs())),
            };
        }
    }
}

struct Encode<'a> {
    table: &'a Table,
    values: &'a [f32],
    block: usize,
    codes: &'a mut [u8],
    scales: &'a mut [f32],
}

impl Task for Encode<'_> {
    #[inline(always)]
    fn run<F: Floats>(self) {
        let Encode { table, values, block, codes, scales } = self;
        Scales { values, block, scales }.run::<F>();
        for ((values, codes), &scale) in values.chunks(block).zip(codes.chunks_mut(block / 2)).zip(&*scales) {
            // A whole block is multiplied by the reciprocal, a short one divided: the library does so.
            let scale = match values.len() == block {
                true => Scale::Factor(F::splat(1.0 / scale.max(SMALLEST))),
                false => Scale::Divisor(F::splat(scale)),
            };
            let (groups, rest) = values.as_chunks::<GROUP>();
            let (codes, last) = codes.split_at_mut(groups.len() * GROUP / 2);
            for (group, codes) in groups.iter().zip(codes.as_chunks_mut().0) {
                encode_group::<F>(table, group, scale, codes);
            }
            if !rest.is_empty() {
                // What is missing counts as zero: the last code of an odd number of values is that of zero.
                let (mut group, mut codes) = ([0.0; GROUP], [0; GROUP / 2]);
                group[..rest.len()].copy_from_slice(rest);
                encode_group::<F>(table, &group, scale, &mut codes);
                last.copy_from_slice(&codes[..last.len()]);
            }
        }
    }
}

/// No scale is smaller where it divides.
pub(super) const SMALLEST: f32 = 1e-38;

/// What brings values into −1 … 1.
#[derive(Clone, Copy)]
enum Scale<F> {
    Factor(F),
    Divisor(F),
}

/// The codes of a group.
#[inline(always)]
fn encode_group<F: Floats>(table: &Table, group: &[f32; GROUP], scale: Scale<F>, bytes: &mut [u8; GROUP / 2]) {
    let int = F::Int::splat;
    let mut codes = [0; GROUP];
    for at in (0..GROUP).step_by(F::N) {
        let x = F::load(&group[at..]);
        let x = match scale {
            Scale::Factor(factor) => x * factor,
            Scale::Divisor(divisor) => x / divisor,
        };
        // The number of bounds below the value, by halves.
        let mut rank = int(0);
        for step in [8, 4, 2, 1] {
            let beyond = x.gt(F::lookup16(&table.bounds, rank + int(step - 1)));
            rank = rank + F::Int::select(beyond, int(step), int(0));
        }
        F::lookup16(&table.codes, rank).bits().store_u8(&mut codes[at..]);
    }
    for (byte, &[high, low]) in bytes.iter_mut().zip(codes.as_chunks::<2>().0) {
        *byte = high << 4 | low;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use convert::packed::bnb::decode;

    #[test]
    fn tables_are_ascending_and_hold_both_ends() {
        for code in Code::ALL {
            let table = &TABLES[code as usize];
            let point = |rank: usize| code.points()[table.codes[rank].to_bits() as usize];
            assert!((1..16).all(|rank| point(rank - 1) <= point(rank)));
            assert!(table.bounds.is_sorted());
            assert_eq!([point(0), point(15)], [-1.0, 1.0]);
            assert_eq!(Code::from_name(code.name()), Some(code));
        }
    }

    #[test]
    fn a_code_point_decodes_to_itself() {
        for code in Code::ALL {
            let mut values = [0.0; 32];
            for (v, p) in values.iter_mut().zip(code.points().iter().cycle()) {
                *v = p * 4.0;
            }
            let (mut codes, mut scales, mut back) = ([0; 16], [0.0], [0.0; 32]);
            assert!(encode(code, &values, 32, &mut codes, &mut scales));
            decode(code.points(), &codes, &scales, 32, 0, &mut back);
            assert_eq!(back, values);
            let mut some = [0.0; 5];
            decode(code.points(), &codes, &scales, 32, 3, &mut some);
            assert_eq!(some, values[3..8]);
        }
    }

    #[test]
    fn every_path_gives_the_same_codes() {
        // Bounds and their neighbours, both signs of zero, a block of zeros, subnormals, a short last block.
        let near = TABLES.iter().flat_map(|t| t.bounds).filter(|b| b.is_finite());
        let near = near.flat_map(|b| [b, b.next_up(), b.next_down(), -b, 0.0, -0.0, 1.0]);
        let mut values: Vec<f32> = near.cycle().take(1024).collect();
        values.extend([0.0; 64]);
        values.extend((0..101).map(|i| (i as f32 - 50.0) * 1e-41));
        for code in Code::ALL {
            for block in [32, 64, 4096] {
                let run = |path| {
                    let (mut codes, mut scales) =
                        (vec![0; values.len().div_ceil(2)], vec![0.0; values.len().div_ceil(block)]);
                    assert!(encode_on(path, code, &values, block, &mut codes, &mut scales));
                    (codes, scales.iter().map(|s| s.to_bits()).collect::<Vec<_>>())
                };
                let want = run(SimdPath::OneLane);
                for path in SimdPath::ALL {
                    match path.is_available() {
                        true => assert_eq!(run(path), want, "{path}, {code:?} in blocks of {block}"),
                        false => eprintln!("skipped: this machine has no {path}"),
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = [1.0; 64];
            values[33] = bad;
            assert!(!encode(Code::Nf4, &values, 64, &mut [0; 32], &mut [0.0]));
            for float in [Float::F32, Float::F16, Float::Bf16] {
                assert!(!stored_scales(float, &stored(float, &values), 64, &mut [0.0]));
            }
        }
    }

    fn stored(float: Float, values: &[f32]) -> Vec<u8> {
        let codec = crate::codec(super::super::folder::stored_type(float)).unwrap();
        let mut bytes = vec![0; values.len() * float.size()];
        codec.encode(values, values.len(), None, &mut bytes);
        bytes
    }

    #[test]
    fn scales_of_what_is_stored_are_those_of_the_codes() {
        let mut values: Vec<f32> = (0..997).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.0371).collect();
        values[64..192].fill(0.0);
        values[192..].iter_mut().step_by(71).for_each(|v| *v *= 1e-6);
        for float in [Float::F32, Float::F16, Float::Bf16] {
            let bytes = stored(float, &values);
            let mut decoded = vec![0.0; values.len()];
            float.decode(&bytes, &mut decoded);
            // The last block is short; once it is all zeros.
            for len in [64, 960, 997, 70_usize] {
                let blocks = len.div_ceil(64);
                let (mut want, mut got) = (vec![0.0; blocks], vec![1.0; blocks]);
                assert!(encode(Code::Nf4, &decoded[..len], 64, &mut vec![0; len.div_ceil(2)], &mut want));
                assert!(stored_scales(float, &bytes[..len * float.size()], 64, &mut got));
                assert_eq!(got, want, "{float:?}, {len}");
            }
        }
    }
}
