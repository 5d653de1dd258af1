//! Blocks of which a type may hold nothing: almost none do, and each of them costs a decoding.

use std::ops::Range;

use crate::lanes::{Floats, Ints, Masks, Path, Task};

/// How weights are taken together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks {
    /// Weights of a block.
    pub(crate) len: usize,
    /// Weights that share a scale: a part of a block, or all of it.
    pub(crate) part: usize,
}

/// How much smaller than the largest weight of its superblock that of a part can be so that every type holds it.
const PART_HELD: f32 = 0.125;

/// The blocks whose largest magnitude is outside of `held`, or of which a part with weights is far smaller than the
/// block, in their order. Blocks of zeros hold what they are.
pub(crate) fn suspects(weights: &[f32], blocks: Blocks, held: Range<f32>) -> Vec<usize> {
    // The bits of magnitudes are in their order; NaN and infinities are behind all others.
    let held = held.start.to_bits() as i32..held.end.to_bits() as i32;
    let mut found = Vec::new();
    Path::current().run(Suspects { weights, blocks, held, found: &mut found });
    found
}

struct Suspects<'a> {
    weights: &'a [f32],
    blocks: Blocks,
    held: Range<i32>,
    found: &'a mut Vec<usize>,
}

impl Task for Suspects<'_> {
    #[inline(always)]
    fn run<F: Floats>(self) {
        let Blocks { len, part } = self.blocks;
        for (i, block) in self.weights.chunks_exact(len.max(1)).enumerate() {
            let most = Most::<F>::of(block);
            let suspect = if !most.reaches(self.held.start) || most.reaches(self.held.end) {
                most.reaches(1)
            } else if part < len {
                let small = (f32::from_bits(most.value() as u32) * PART_HELD).to_bits() as i32;
                let mut small_parts = false;
                for part in block.chunks_exact(part.max(1)) {
                    let most = Most::<F>::of(part);
                    small_parts |= !most.reaches(small) && most.reaches(1);
                }
                small_parts
            } else {
                false
            };
            if suspect {
                self.found.push(i);
            }
        }
    }
}

/// The largest magnitude, as bits, still in lanes.
struct Most<F: Floats> {
    lanes: F::Int,
    rest: i32,
}

impl<F: Floats> Most<F> {
    #[inline(always)]
    fn of(weights: &[f32]) -> Most<F> {
        let magnitude = F::Int::splat(i32::MAX);
        let mut lanes = F::Int::splat(0);
        let chunks = weights.chunks_exact(F::N);
        let mut rest = 0;
        for weight in chunks.remainder() {
            rest = rest.max(weight.to_bits() as i32 & i32::MAX);
        }
        for chunk in chunks {
            lanes = lanes.max(F::load(chunk).bits() & magnitude);
        }
        Most { lanes, rest }
    }

    #[inline(always)]
    fn reaches(&self, bits: i32) -> bool {
        self.lanes.gt(F::Int::splat(bits - 1)).any() || self.rest >= bits
    }

    #[inline(always)]
    fn value(&self) -> i32 {
        let mut lanes = [0; crate::lanes::MAX_LANES];
        self.lanes.store(&mut lanes);
        let mut most = self.rest;
        for lane in &lanes[..F::N] {
            most = most.max(*lane);
        }
        most
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, one block after the other.
    fn expected(weights: &[f32], blocks: Blocks, held: &Range<f32>) -> Vec<usize> {
        let largest = gguf::lost::largest;
        let suspect = |block: &&[f32]| {
            let most = largest(block);
            let small = |part: &[f32]| largest(part) > 0.0 && largest(part) < most * PART_HELD;
            most != 0.0 && (!held.contains(&most) || block.chunks_exact(blocks.part).any(small))
        };
        let blocks = weights.chunks_exact(blocks.len).enumerate();
        blocks.filter(|(_, block)| suspect(block)).map(|(i, _)| i).collect()
    }

    proptest! {
        #[test]
        fn every_path_finds_what_the_definition_says(
            exponents in prop::collection::vec((-45..45_i32, any::<bool>(), 0..4_u8), 6),
            len in prop::sample::select(vec![(32, 32), (256, 32), (256, 16), (64, 16), (37, 37), (5, 5)]),
        ) {
            let blocks = Blocks { len: len.0, part: len.1 };
            let mut weights = Vec::new();
            for (b, &(exponent, negative, kind)) in exponents.iter().enumerate() {
                for i in 0..blocks.len {
                    let scale = 10_f32.powi(exponent) * if negative { -1.0 } else { 1.0 };
                    weights.push(match kind {
                        0 => scale * (1.0 + (i * 7 + b) as f32 % 5.0),
                        1 if i / blocks.part == b % 3 => scale * 0.01,
                        2 if i == b => f32::NAN,
                        3 => 0.0,
                        _ => scale,
                    });
                }
            }
            let held = 1e-3..1e9_f32;
            let want = expected(&weights, blocks, &held);
            for path in Path::ALL.into_iter().filter(|path| path.is_available()) {
                let mut found = Vec::new();
                let bits = held.start.to_bits() as i32..held.end.to_bits() as i32;
                path.run(Suspects { weights: &weights, blocks, held: bits, found: &mut found });
                prop_assert_eq!(&found, &want, "{}", path);
            }
        }
    }
}
