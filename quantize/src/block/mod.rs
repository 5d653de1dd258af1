//! The block formats: one row a format, one file a family.
//!
//! A format is a type that implements `Block` once over any number of lanes; its row holds the entry points that
//! choose the instance ([`Path`]) at run time.

mod bits;
mod float;
mod fp4;
pub(crate) mod grid;
mod iq1;
pub(crate) mod iq2;
pub(crate) mod iq3;
mod iq4;
pub(crate) mod lattice;
mod levels;
mod q2_k;
mod q3_k;
mod q45;
mod q45_k;
mod q6_k;
mod q8_0;
mod ternary;

use gguf::TensorType;

pub use levels::{LEVELS, Levels, Rounded, levels};

use crate::codec::{Codec, ImportanceUse};
use crate::lanes::{Floats, Ints, MAX_LANES, Path, Rows, Task};

/// A format: its type, and its codec over any number of lanes.
pub(crate) trait Block {
    const TYPE: TensorType;
    const IMPORTANCE: ImportanceUse;
    /// Values of a block, and the bytes that its parts add up to.
    const SIZE: (usize, usize);

    /// Decodes whole blocks, as many as fill `out`. `#[inline(always)]`.
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]);

    /// Encodes whole rows. `#[inline(always)]`.
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]);
}

/// Every format of weights, by ascending id of its type. (A table: its rows' files import what they are rows of.)
#[rustfmt::skip]
pub static FORMATS: &[Format] = &[
    row::<float::F32>(),
    row::<float::F16>(),
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
    row::<float::BF16>(),
    row::<ternary::TQ10>(),
    row::<ternary::TQ20>(),
    row::<fp4::Mxfp4>(),
    row::<fp4::Nvfp4>(),
    row::<bits::Q10>(),
    row::<bits::Q20>(),
];

/// The row of a type in [`FORMATS`].
pub fn format(ty: TensorType) -> Option<&'static Format> {
    FORMATS.binary_search_by_key(&ty, |row| row.ty).ok().map(|i| &FORMATS[i])
}

/// A row of [`FORMATS`].
pub struct Format {
    ty: TensorType,
    importance: ImportanceUse,
    decode: fn(Path, &[u8], &mut [f32]),
    encode: fn(Path, Rows<'_>, &mut [u8]),
}

impl Format {
    /// [`Codec::decode`] on this path.
    pub fn decode_on(&self, path: Path, bytes: &[u8], out: &mut [f32]) {
        (self.decode)(path, bytes, out);
    }

    /// [`Codec::encode`] on this path.
    pub fn encode_on(&self, path: Path, rows: &[f32], row_len: usize, importance: Option<&[f32]>, out: &mut [u8]) {
        if !rows.is_empty() {
            (self.encode)(path, Rows { values: rows, row_len, importance }, out);
        }
    }
}

impl Codec for Format {
    fn ty(&self) -> TensorType {
        self.ty
    }

    fn importance(&self) -> ImportanceUse {
        self.importance
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        self.decode_on(Path::current(), bytes, out);
    }

    fn encode(&self, rows: &[f32], row_len: usize, importance: Option<&[f32]>, out: &mut [u8]) {
        self.encode_on(Path::current(), rows, row_len, importance, out);
    }
}

/// The largest magnitude of some values, as many as fill the lanes.
#[inline(always)]
pub(crate) fn largest<F: Floats>(x: &[f32]) -> f32 {
    let mut largest = F::splat(0.0);
    for at in (0..x.len()).step_by(F::N) {
        largest = largest.max(F::load(&x[at..]).abs());
    }
    largest.reduce_max()
}

/// A number for each of some neighbouring blocks: what a format does once a block is done for all of them at once.
type OfBlocks<T> = [T; MAX_LANES];

/// The bits of each as binary16, little-endian.
#[inline(always)]
fn halves<F: Floats>(values: &OfBlocks<f32>) -> OfBlocks<[u8; 2]> {
    let mut halves = [[0; 2]; MAX_LANES];
    for at in (0..MAX_LANES).step_by(F::N) {
        F::load(&values[at..]).to_half().store_u16(halves[at..].as_flattened_mut());
    }
    halves
}

/// The inverse of each, 0 of 0.
#[inline(always)]
fn inverses<F: Floats>(values: &OfBlocks<f32>) -> OfBlocks<f32> {
    let mut inverses = [0.0; MAX_LANES];
    let zero = F::splat(0.0);
    for at in (0..MAX_LANES).step_by(F::N) {
        let value = F::load(&values[at..]);
        F::select(value.eq(zero), zero, F::splat(1.0) / value).store(&mut inverses[at..]);
    }
    inverses
}

const fn row<B: Block>() -> Format {
    let (len, bytes) = B::TYPE.block_size();
    assert!(B::SIZE.0 == len as usize && B::SIZE.1 == bytes as usize, "a block is as large as the format says");
    Format { ty: B::TYPE, importance: B::IMPORTANCE, decode: decode::<B>, encode: encode::<B> }
}

fn decode<B: Block>(path: Path, bytes: &[u8], out: &mut [f32]) {
    struct Decode<'a, B>(&'a [u8], &'a mut [f32], std::marker::PhantomData<B>);
    impl<B: Block> Task for Decode<'_, B> {
        #[inline(always)]
        fn run<F: Floats>(self) {
            B::decode::<F>(self.0, self.1);
        }
    }
    path.run(Decode(bytes, out, std::marker::PhantomData::<B>));
}

fn encode<B: Block>(path: Path, rows: Rows<'_>, out: &mut [u8]) {
    struct Encode<'a, B>(Rows<'a>, &'a mut [u8], std::marker::PhantomData<B>);
    impl<B: Block> Task for Encode<'_, B> {
        #[inline(always)]
        fn run<F: Floats>(self) {
            B::encode::<F>(self.0, self.1);
        }
    }
    path.run(Encode(rows, out, std::marker::PhantomData::<B>));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_unique() {
        for pair in FORMATS.windows(2) {
            assert!(pair[0].ty < pair[1].ty);
        }
        for row in FORMATS {
            assert_eq!(format(row.ty).map(|found| found.ty), Some(row.ty));
        }
    }
}
