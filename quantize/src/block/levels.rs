//! Blocks in integers, for products that are taken in integers.
//!
//! Programs that run quantized models do not decode weights: they round the activations of a row to 8 bits and multiply
//! integers, as ggml does on a processor. A block is then levels of at most 8 bits and scales for groups of 16 or 32 of
//! them; [`Levels::unpack`] gives these, and [`Levels::round`] what the type's activations become. The formats of the
//! rounded activations are ggml's `Q8_0`, `Q8_1` and `Q8_K`, and every number is what its portable C computes.

use std::cmp::Ordering;

use gguf::{Error, Result, TensorType};

use super::Block;
use super::{bits, fp4, iq1, iq2, iq3, iq4, largest, q2_k, q3_k, q6_k, q8_0, q45, q45_k, ternary};
use crate::lanes::{Floats, Ints, Path, Task, half_bits, half_value, nearest_int};

/// What activations are rounded to before they meet a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounded {
    /// 32 values with one scale of 16 bits.
    Q80,
    /// The same, and the sum of the values in 16 bits.
    Q81,
    /// 256 values with one scale of 32 bits, and sums of each 16.
    Q8K,
}

impl Rounded {
    /// Values that share a scale.
    pub fn block(self) -> usize {
        match self {
            Rounded::Q80 | Rounded::Q81 => 32,
            Rounded::Q8K => 256,
        }
    }
}

/// A format that products are taken in integers of.
pub(crate) trait Coded: Block {
    /// What its activations are rounded to.
    const ROUNDED: Rounded;
    /// Values that share a scale here: 16 or 32.
    const GROUP: usize;
    /// What a code is more than the level it stands for.
    const OFFSET: u8;
    /// The largest code.
    const MOST: u8;
    /// Whether groups have minima.
    const MINS: bool = false;

    /// One block: a code for each value, a scale and, where there are such, a minimum for each group, so that a value is
    /// scale · (code − offset) + minimum. All three are exact. `#[inline(always)]`.
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], mins: &mut [f32]);
}

/// A row of the table of integer forms.
pub struct Levels {
    ty: TensorType,
    /// What activations are rounded to.
    pub rounded: Rounded,
    /// Values that share a scale: 16 or 32.
    pub group: usize,
    /// What a code is more than the level it stands for.
    pub offset: u8,
    /// The largest code.
    pub most: u8,
    /// Whether groups have minima.
    pub mins: bool,
    unpack: Unpack,
}

/// Blocks to codes, scales and minima.
type Unpack = fn(Path, &[u8], &mut [u8], &mut [f32], &mut [f32]);

/// Every type that products are taken in integers of, by ascending id. (A table: its rows' files import what they are rows
/// of.) Of the others F32, F16 and BF16 are multiplied as
/// numbers.
#[rustfmt::skip]
pub static LEVELS: &[Levels] = &[
    row::<q45::Q40>(),
    row::<q45::Q41>(),
    row::<q45::Q50>(),
    row::<q45::Q51>(),
    row::<q8_0::Q80>(),
    row::<q2_k::Q2K>(),
    row::<q3_k::Q3K>(),
    row::<q45_k::Q4K>(),
    row::<q45_k::Q5K>(),
    row::<q6_k::Q6K>(),
    row::<iq2::IQ2XXS>(),
    row::<iq2::IQ2XS>(),
    row::<iq3::IQ3XXS>(),
    row::<iq1::IQ1S>(),
    row::<iq4::IQ4NL>(),
    row::<iq3::IQ3S>(),
    row::<iq2::IQ2S>(),
    row::<iq4::IQ4XS>(),
    row::<iq1::IQ1M>(),
    row::<ternary::TQ10>(),
    row::<ternary::TQ20>(),
    row::<fp4::Mxfp4>(),
    row::<fp4::Nvfp4>(),
    row::<bits::Q10>(),
    row::<bits::Q20>(),
];

const fn row<B: Coded>() -> Levels {
    Levels {
        ty: B::TYPE,
        rounded: B::ROUNDED,
        group: B::GROUP,
        offset: B::OFFSET,
        most: B::MOST,
        mins: B::MINS,
        unpack: unpack::<B>,
    }
}

/// The row of a type in [`LEVELS`].
pub fn levels(ty: TensorType) -> Option<&'static Levels> {
    LEVELS.binary_search_by_key(&ty, |row| row.ty).ok().map(|i| &LEVELS[i])
}

impl Levels {
    /// The type.
    pub fn ty(&self) -> TensorType {
        self.ty
    }

    /// Whole blocks: a code for each value, a scale and a minimum for each group (`mins` is left as it is where there
    /// are none). A value is scale · (code − offset) + minimum.
    ///
    /// # Errors
    /// Lengths that do not fit each other.
    pub fn unpack(&self, bytes: &[u8], codes: &mut [u8], scales: &mut [f32], mins: &mut [f32]) -> Result<()> {
        let groups = codes.len() / self.group;
        let fits = self.ty.bytes_for(codes.len() as u64) == Some(bytes.len() as u64)
            && scales.len() == groups
            && (!self.mins || mins.len() == groups);
        if !fits {
            return Err(Error::usage(format!(
                "{} values of {} do not fit {} bytes",
                codes.len(),
                self.ty,
                bytes.len()
            )));
        }
        (self.unpack)(Path::current(), bytes, codes, scales, mins);
        Ok(())
    }

    /// Rounds a row of activations as this type needs: a code for each, the scale of each of this type's groups and what
    /// minima are multiplied with, which is the group's sum of rounded activations. A row that holds a value that is not
    /// finite gets scales that are no numbers.
    ///
    /// # Errors
    /// Lengths that do not fit each other.
    pub fn round(&self, x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [f32]) -> Result<()> {
        let groups = x.len() / self.group;
        if !x.len().is_multiple_of(self.rounded.block())
            || codes.len() != x.len()
            || scales.len() != groups
            || sums.len() != groups
        {
            return Err(Error::usage(format!("{} activations are not a whole number of blocks", x.len())));
        }
        Path::current().run(Round { rounded: self.rounded, group: self.group, x, codes, scales, sums });
        Ok(())
    }
}

fn unpack<B: Coded>(path: Path, bytes: &[u8], codes: &mut [u8], scales: &mut [f32], mins: &mut [f32]) {
    struct Unpack<'a, B>(&'a [u8], &'a mut [u8], &'a mut [f32], &'a mut [f32], std::marker::PhantomData<B>);
    impl<B: Coded> Task for Unpack<'_, B> {
        #[inline(always)]
        fn run<F: Floats>(self) {
            let len = B::TYPE.block_len() as usize;
            let groups = len / B::GROUP;
            let blocks = self.0.chunks_exact(B::TYPE.block_bytes() as usize).zip(self.1.chunks_exact_mut(len));
            for (i, (block, codes)) in blocks.enumerate() {
                let of = i * groups..(i + 1) * groups;
                let mins = if B::MINS { &mut self.3[of.clone()] } else { &mut [] };
                B::levels(block, codes, &mut self.2[of], mins);
            }
        }
    }
    path.run(Unpack(bytes, codes, scales, mins, std::marker::PhantomData::<B>));
}

struct Round<'a> {
    rounded: Rounded,
    group: usize,
    x: &'a [f32],
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Task for Round<'_> {
    #[inline(always)]
    fn run<F: Floats>(self) {
        let Round { rounded, group, x, codes, scales, sums } = self;
        let len = rounded.block();
        let groups = len / group;
        let blocks = x.chunks_exact(len).zip(codes.chunks_exact_mut(len));
        let parts = scales.chunks_exact_mut(groups).zip(sums.chunks_exact_mut(groups));
        for ((x, codes), (scales, sums)) in blocks.zip(parts) {
            let scale = match rounded {
                Rounded::Q8K => round_256::<F>(x, codes),
                _ => round_32::<F>(x, codes),
            };
            let finite = !x.iter().fold(false, |not, x| not | !x.is_finite());
            let stored = match rounded {
                Rounded::Q8K => scale,
                _ => half_value(half_bits(scale).to_le_bytes()),
            };
            let stored = if finite { stored } else { f32::NAN };
            scales.fill(stored);
            for (sum, codes) in sums.iter_mut().zip(codes.chunks_exact(group)) {
                let total = codes.iter().fold(0, |sum, &code| sum + i32::from(code)) as f32;
                *sum = match rounded {
                    Rounded::Q81 => half_value(half_bits(total * scale).to_le_bytes()),
                    _ => total * stored,
                };
            }
        }
    }
}

/// To the nearest multiple of a 127th of the largest magnitude, halves away from zero; gives that before it is rounded
/// itself.
#[inline(always)]
fn round_32<F: Floats>(x: &[f32], codes: &mut [i8]) -> f32 {
    let d = largest::<F>(x) / 127.0;
    let inverse = F::splat(if d != 0.0 { 1.0 / d } else { 0.0 });
    let mut bytes = [0; 32];
    for at in (0..32).step_by(F::N) {
        (F::load(&x[at..]) * inverse).round().store_u8(&mut bytes[at..]);
    }
    codes.iter_mut().zip(bytes).for_each(|(code, byte)| *code = byte as i8);
    d
}

/// The value of the largest magnitude (the first one) becomes −127; halves go to even.
#[inline(always)]
fn round_256<F: Floats>(x: &[f32], codes: &mut [i8]) -> f32 {
    let (mut up, mut down) = (F::splat(0.0), F::splat(0.0));
    for at in (0..256).step_by(F::N) {
        let x = F::load(&x[at..]);
        (up, down) = (up.max(x), down.max(-x));
    }
    let (up, down) = (up.reduce_max(), down.reduce_max());
    let max = match up.partial_cmp(&down) {
        Some(Ordering::Greater) => up,
        Some(Ordering::Less) => -down,
        // Rare but for zeros.
        _ if up > 0.0 => x.iter().copied().find(|x| x.abs() == up).unwrap_or(up),
        _ => {
            codes.fill(0);
            return 0.0;
        }
    };
    let inverse = -127.0 / max;
    let mut bytes = [0; 256];
    for at in (0..256).step_by(F::N) {
        nearest_int(F::load(&x[at..]) * F::splat(inverse)).min(F::Int::splat(127)).store_u8(&mut bytes[at..]);
    }
    codes.iter_mut().zip(bytes).for_each(|(code, byte)| *code = byte as i8);
    1.0 / inverse
}
