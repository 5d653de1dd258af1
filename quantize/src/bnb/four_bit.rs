//! NF4 and FP4: a scale for each block of weights, and for each weight the nearest of sixteen code points.
//!
//! A block's scale is its largest magnitude, kept as f32; each weight, divided by it, lies in −1 … 1 and becomes the
//! index of the nearest code point, ties going to the smaller one. Two codes share a byte, the first in its upper
//! half. Blocks run over the whole tensor in row-major order: they know nothing of rows.
//!
//! The sixteen points of NF4 are quantiles of the normal distribution with an exact zero (Dettmers et al., *QLoRA*,
//! 2023, appendix E); those of FP4 are a sign, two exponent bits and one mantissa bit, scaled to 1. Values and the
//! order of operations are those of bitsandbytes 0.50.2 on the CPU, so that the bytes are equal.

pub use convert::packed::bnb::{BLOCK_LENGTHS, Code};

use super::absmax::absmax;

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

const fn bounds(points: &[f32; 16], order: &[u8; 16]) -> [f32; 15] {
    let mut bounds = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        bounds[i] = (points[order[i] as usize] + points[order[i + 1] as usize]) / 2.0;
        i += 1;
    }
    bounds
}

struct Table {
    /// Codes by ascending value.
    order: [u8; 16],
    /// Half way between neighbouring values.
    bounds: [f32; 15],
    /// What is added to a code where a value lies beyond each bound, modulo 256.
    steps: [u8; 15],
}

const fn steps(order: &[u8; 16]) -> [u8; 15] {
    let mut steps = [0; 15];
    let mut i = 0;
    while i < 15 {
        steps[i] = order[i + 1].wrapping_sub(order[i]);
        i += 1;
    }
    steps
}

impl Table {
    const fn new(code: Code) -> Table {
        let order = ascending(code.points());
        Table { order, bounds: bounds(code.points(), &order), steps: steps(&order) }
    }
}

static TABLES: [Table; 2] = [Table::new(Code::Nf4), Table::new(Code::Fp4)];

/// Values looked at together; a power of two not above the smallest block.
const LANES: usize = 32;

/// Encodes values in blocks of `block`, the last of which may be short: two codes a byte in `codes`
/// (`values.len()` halved and rounded up), a scale for each block in `scales`.
///
/// Gives false, with unspecified output, where a value is not finite.
pub fn encode(code: Code, values: &[f32], block: usize, codes: &mut [u8], scales: &mut [f32]) -> bool {
    let table = &TABLES[code as usize];
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512bw") {
        // SAFETY: the machine has just said that it has both.
        return unsafe { encode_avx512(table, values, block, codes, scales) };
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the machine has just said that it has AVX2.
        return unsafe { encode_avx2(table, values, block, codes, scales) };
    }
    encode_blocks(table, values, block, codes, scales)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn encode_avx512(table: &Table, values: &[f32], block: usize, codes: &mut [u8], scales: &mut [f32]) -> bool {
    encode_blocks(table, values, block, codes, scales)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn encode_avx2(table: &Table, values: &[f32], block: usize, codes: &mut [u8], scales: &mut [f32]) -> bool {
    encode_blocks(table, values, block, codes, scales)
}

#[inline(always)]
fn encode_blocks(table: &Table, values: &[f32], block: usize, codes: &mut [u8], scales: &mut [f32]) -> bool {
    for ((values, codes), scale) in values.chunks(block).zip(codes.chunks_mut(block / 2)).zip(scales) {
        let Some(max) = absmax(values) else { return false };
        let whole = values.len() == block;
        // A whole block is multiplied by the reciprocal, a short one divided: the library does so.
        *scale = if whole { max } else { max.max(1e-38) };
        let (factor, divisor) = if whole { (1.0 / max.max(1e-38), 1.0) } else { (1.0, *scale) };
        let (groups, rest) = values.as_chunks::<LANES>();
        let (bytes, last) = codes.split_at_mut(groups.len() * LANES / 2);
        for (group, bytes) in groups.iter().zip(bytes.as_chunks_mut::<{ LANES / 2 }>().0) {
            *bytes = encode_group(table, group, factor, divisor);
        }
        if !rest.is_empty() {
            // What is missing counts as zero: the last code of an odd number of values is that of zero.
            let mut group = [0.0; LANES];
            group[..rest.len()].copy_from_slice(rest);
            last.copy_from_slice(&encode_group(table, &group, factor, divisor)[..last.len()]);
        }
    }
    true
}

#[inline(always)]
fn encode_group(table: &Table, group: &[f32; LANES], factor: f32, divisor: f32) -> [u8; LANES / 2] {
    let mut scaled = [0.0_f32; LANES];
    for (scaled, &value) in scaled.iter_mut().zip(group) {
        *scaled = if divisor == 1.0 { value * factor } else { value / divisor };
    }
    // Sums of steps instead of a look-up by rank: comparisons and additions are all that lanes need.
    let mut lanes = [u32::from(table.order[0]); LANES];
    for (bound, &step) in table.bounds.iter().zip(&table.steps) {
        for (code, &scaled) in lanes.iter_mut().zip(&scaled) {
            *code = code.wrapping_add(if scaled > *bound { u32::from(step) } else { 0 });
        }
    }
    let mut bytes = [0; LANES / 2];
    for (byte, &[high, low]) in bytes.iter_mut().zip(lanes.as_chunks::<2>().0) {
        *byte = (high << 4) as u8 | (low as u8 & 15);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use convert::packed::bnb::decode;

    #[test]
    fn tables_are_ascending_and_hold_both_ends() {
        for code in Code::ALL {
            let table = &TABLES[code as usize];
            let point = |rank: usize| code.points()[usize::from(table.order[rank])];
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
    fn what_is_not_finite_is_refused() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = [1.0; 64];
            values[33] = bad;
            assert!(!encode(Code::Nf4, &values, 64, &mut [0; 32], &mut [0.0]));
        }
    }
}
