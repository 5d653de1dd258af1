//! `IQ4_NL` and `IQ4_XS`: four bits that choose one of sixteen unevenly spaced values.
//!
//! Blocks: `IQ4_NL` `d` f16, `q[16]`: 32 levels. `IQ4_XS` `d` f16, `h` u16, `l[4]`, `q[128]`: 8 × 32 levels, each 32 with
//! a scale of 6 bits (less 32), its high bits in `h`. The nibbles of byte `j` of 16 are the values `j` (low) and
//! `j + 16` (high). x ≈ d (scale) VALUES\[level\].
//!
//! The scale of 32 values is searched: the largest of them goes to the far end of the values, or up to 7 away from it,
//! and the best fitting scale of each try is compared. From the smallest try to the largest a value grows by 134/120,
//! and any two [`BOUNDS`] on one side of zero are further apart than that, so it crosses at most one of them: a level
//! is looked up once, and each try takes one comparison.

use gguf::TensorType;

use super::Block;
use super::grid::{Unweighted, weigh};
use super::levels::{Coded, Rounded};
use crate::codec::ImportanceUse;
use crate::lanes::{Floats, Ints, Rows, Slots, half_value, nearest_int};

pub(crate) struct IQ4NL;

pub(crate) struct IQ4XS;

/// Values of a scale.
const SUB: usize = 32;

/// What the levels stand for.
const VALUES: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

/// Where each level ends and the next begins: half way between their values.
const BOUNDS: [f32; 16] = {
    let mut bounds = [f32::INFINITY; 16];
    let mut i = 0;
    while i < 15 {
        bounds[i] = (VALUES[i] + VALUES[i + 1]) / 2.0;
        i += 1;
    }
    bounds
};

/// The level whose value is nearest, the higher one half way; NaN counts as high.
#[inline(always)]
fn level<F: Floats>(x: F) -> F::Int {
    let mut level = F::Int::splat(0);
    for step in [8, 4, 2, 1] {
        let next = level + F::Int::splat(step);
        let below = x.lt(F::lookup16(&BOUNDS, next - F::Int::splat(1)));
        level = F::Int::select(below, level, next);
    }
    level
}

/// The scale that fits 32 values best.
#[inline(always)]
fn search<F: Floats>(x: &[F; SUB], w: &[F; SUB]) -> F {
    let zero = F::splat(0.0);
    let one = F::Int::splat(1);
    let (mut amax, mut max) = (zero, zero);
    for &x in x {
        let a = x.abs();
        let more = a.gt(amax);
        amax = F::select(more, a, amax);
        max = F::select(more, x, max);
    }

    // The first try gives the largest value the other sign.
    let id = F::splat(1.0) / (-max / F::splat(VALUES[0]));
    let (mut qx, mut q2) = (zero, zero);
    // What the other tries share: the bound that a value may cross, its two sums on either side.
    let closest = F::splat(7.0 + VALUES[0]) / max;
    let mut bounds = [zero; SUB];
    let mut below = [(zero, zero); SUB];
    let mut above = [(zero, zero); SUB];
    for i in 0..SUB {
        let (x, w) = (x[i], w[i]);
        let (first, second) = products(x, w, level(id * x));
        qx = qx + first;
        q2 = q2 + second;

        let at = closest * x;
        let here = level(at);
        let lower = F::Int::select(at.lt(zero), here - one, here).max(F::Int::splat(0));
        bounds[i] = F::lookup16(&BOUNDS, lower);
        below[i] = products(x, w, lower);
        above[i] = products(x, w, (lower + one).min(F::Int::splat(15)));
    }
    let mut d = F::select(q2.gt(zero), qx / q2, zero);
    let mut best = d * qx;

    for tries in [[-7.0f32, -6.0, -5.0, -4.0, -3.0], [-2.0, -1.0, 0.0, 1.0, 2.0], [3.0, 4.0, 5.0, 6.0, 7.0]] {
        let mut ids = [zero; 5];
        for (id, by) in ids.iter_mut().zip(tries) {
            *id = F::splat(by + VALUES[0]) / max;
        }
        let mut qx = [zero; 5];
        let mut q2 = [zero; 5];
        for i in 0..SUB {
            for t in 0..5 {
                let down = (ids[t] * x[i]).lt(bounds[i]);
                qx[t] = qx[t] + F::select(down, below[i].0, above[i].0);
                q2[t] = q2[t] + F::select(down, below[i].1, above[i].1);
            }
        }
        for t in 0..5 {
            let better = q2[t].gt(zero) & (qx[t] * qx[t]).gt(best * q2[t]);
            d = F::select(better, qx[t] / q2[t], d);
            best = F::select(better, d * qx[t], best);
        }
    }
    F::select(amax.lt(F::splat(1e-15)), zero, d)
}

/// What a value adds to the sums over weight × value × x and weight × value².
#[inline(always)]
fn products<F: Floats>(x: F, w: F, level: F::Int) -> (F, F) {
    let q = F::lookup16(&VALUES, level);
    let wq = w * q;
    (wq * x, wq * q)
}

/// Writes 32 levels, sixteen bytes from `at` on.
#[inline(always)]
fn put_levels<F: Floats>(slots: &mut Slots<'_>, at: usize, x: &[F], inverse: F) {
    let mut bytes = [F::Int::splat(0); SUB / 2];
    for (j, byte) in bytes.iter_mut().enumerate() {
        *byte = level(inverse * x[j]) | level(inverse * x[j + SUB / 2]).shl(4);
    }
    slots.put_bytes(at, &bytes);
}

/// `1 / d`, and 0 for 0.
#[inline(always)]
fn inverse<F: Floats>(d: F) -> F {
    F::select(d.eq(F::splat(0.0)), F::splat(0.0), F::splat(1.0) / d)
}

/// Sixteen bytes to 32 values.
#[inline(always)]
fn get_values<F: Floats>(q: &[u8], d: f32, out: &mut [f32]) {
    let d = F::splat(d);
    for at in (0..SUB / 2).step_by(F::N) {
        let byte = F::Int::load_u8(&q[at..]);
        (d * F::lookup16(&VALUES, byte & F::Int::splat(15))).store(&mut out[at..]);
        (d * F::lookup16(&VALUES, byte.shr(4))).store(&mut out[at + SUB / 2..]);
    }
}

impl Block for IQ4NL {
    const TYPE: TensorType = TensorType::IQ4_NL;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Used;
    const SIZE: (usize, usize) = (SUB, 2 + SUB / 2);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<{ IQ4NL::SIZE.1 }>().0.iter().zip(out.as_chunks_mut::<SUB>().0) {
            get_values::<F>(&block[2..], half_value([block[0], block[1]]), out);
        }
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        for (group, mut slots) in rows.groups(F::N, SUB, Self::SIZE.1, out) {
            let mut x = [F::splat(0.0); SUB];
            group.values(0, &mut x);
            let mut sum = F::splat(0.0);
            for &x in &x {
                sum = sum + x * x;
            }
            let mut w = [F::splat(0.0); SUB];
            weigh(&group, 0, &x, sum * F::splat(2.0 / SUB as f32), Unweighted::Square, &mut w);
            let d = search(&x, &w);
            slots.put_u16(0, d.to_half());
            put_levels(&mut slots, 2, &x, inverse(d));
        }
    }
}

/// The factor of `d` for 32 values of an `IQ4_XS` block.
#[inline(always)]
fn scale(block: &[u8], ib: usize) -> i32 {
    let high = u16::from_le_bytes([block[2], block[3]]);
    let low = block[4 + ib / 2] >> (4 * (ib % 2)) & 15;
    i32::from(low) + i32::from(high >> (2 * ib) & 3) * 16 - 32
}

impl Block for IQ4XS {
    const TYPE: TensorType = TensorType::IQ4_XS;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Used;
    const SIZE: (usize, usize) = (256, 2 + 2 + 256 / 64 + 256 / 2);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<{ IQ4XS::SIZE.1 }>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = half_value([block[0], block[1]]);
            for (ib, out) in out.as_chunks_mut::<SUB>().0.iter_mut().enumerate() {
                get_values::<F>(&block[8 + 16 * ib..], d * scale(block, ib) as f32, out);
            }
        }
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        let zero = F::splat(0.0);
        let int = F::Int::splat;
        for (group, mut slots) in rows.groups(F::N, 256, Self::SIZE.1, out) {
            let mut x = [zero; 256];
            group.values(0, &mut x);
            let mut sum = zero;
            for &x in &x {
                sum = sum + x * x;
            }
            let sigma2 = sum * F::splat(2.0 / 256.0);

            let mut scales = [zero; 8];
            let (mut amax, mut max) = (zero, zero);
            for (ib, x) in x.as_chunks::<SUB>().0.iter().enumerate() {
                let mut w = [zero; SUB];
                weigh(&group, SUB * ib, x, sigma2, Unweighted::Square, &mut w);
                let d = search(x, &w);
                let more = d.abs().gt(amax);
                amax = F::select(more, d.abs(), amax);
                max = F::select(more, d, max);
                scales[ib] = d;
            }

            let d = -max / F::splat(32.0);
            slots.put_u16(0, d.to_half());
            let id = inverse(d);
            let (mut low, mut high) = (int(0), int(0));
            for (ib, x) in x.as_chunks::<SUB>().0.iter().enumerate() {
                let scale = nearest_int::<F>(id * scales[ib]).min(int(31)).max(int(-32));
                put_levels(&mut slots, 8 + 16 * ib, x, inverse(d * F::from_int(scale)));
                let scale = scale + int(32);
                low = low | (scale & int(15)).shl(4 * ib as u32);
                high = high | scale.shr(4).shl(2 * ib as u32);
            }
            slots.put_u16(2, high);
            slots.put_u32(4, low);
        }
    }
}

/// What a code is more than its value.
const SHIFT: u8 = 127;

/// The codes that nibbles stand for, by [`Coded`].
#[inline(always)]
fn codes_of(nibbles: &[u8], codes: &mut [u8]) {
    const CODES: [u8; 16] = {
        let mut codes = [0; 16];
        let mut i = 0;
        while i < 16 {
            codes[i] = (VALUES[i] as i32 + SHIFT as i32) as u8;
            i += 1;
        }
        codes
    };
    let (low, high) = codes.split_at_mut(SUB / 2);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(nibbles) {
        (*low, *high) = (CODES[usize::from(byte & 15)], CODES[usize::from(byte >> 4)]);
    }
}

impl Coded for IQ4NL {
    const ROUNDED: Rounded = Rounded::Q80;
    const GROUP: usize = SUB;
    const OFFSET: u8 = SHIFT;
    const MOST: u8 = 240;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        scales[0] = half_value([block[0], block[1]]);
        codes_of(&block[2..], codes);
    }
}

impl Coded for IQ4XS {
    const ROUNDED: Rounded = Rounded::Q8K;
    const GROUP: usize = SUB;
    const OFFSET: u8 = SHIFT;
    const MOST: u8 = 240;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        let d = half_value([block[0], block[1]]);
        for (ib, codes) in codes.as_chunks_mut::<SUB>().0.iter_mut().enumerate() {
            scales[ib] = d * scale(block, ib) as f32;
            codes_of(&block[8 + 16 * ib..], codes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::Path;

    /// The reference's rule, by distances.
    fn nearest(x: f32) -> usize {
        if x <= VALUES[0] {
            return 0;
        }
        let above = VALUES.iter().position(|&value| x < value).unwrap_or(15);
        if x >= VALUES[15] || x - VALUES[above - 1] >= VALUES[above] - x { above } else { above - 1 }
    }

    #[test]
    fn levels_by_bounds_are_levels_by_distance() {
        struct Check;
        impl crate::lanes::Task for Check {
            #[inline(always)]
            fn run<F: Floats>(self) {
                for bound in BOUNDS[..15].iter().chain(&VALUES) {
                    for ulps in -64i32..=64 {
                        let x = f32::from_bits(bound.to_bits().wrapping_add_signed(ulps));
                        let mut lanes = [0i32; 32];
                        level(F::splat(x)).store(&mut lanes);
                        assert_eq!(lanes[0] as usize, nearest(x), "{x}");
                    }
                }
            }
        }
        for path in Path::ALL {
            path.run(Check);
        }
    }

    #[test]
    fn bounds_are_further_apart_than_the_tries_reach() {
        for pair in BOUNDS[..15].windows(2).filter(|pair| pair[0] * pair[1] > 0.0) {
            let (near, far) = (pair[0].abs().min(pair[1].abs()), pair[0].abs().max(pair[1].abs()));
            assert!(far / near > 1.01 * 134.0 / 120.0);
        }
    }
}
