//! The plain formats: one value after the other.

use std::marker::PhantomData;

use gguf::TensorType;

use super::Block;
use crate::codec::ImportanceUse;
use crate::lanes::{Floats, Ints, MAX_LANES, Rows};

/// IEEE binary32, little-endian.
pub(crate) struct F32;

/// A format of two bytes a value.
pub(crate) struct Words<W>(PhantomData<W>);

pub(crate) struct Half;
pub(crate) struct Brain;

/// IEEE binary16, ties to even; what is too large becomes infinity.
pub(crate) type F16 = Words<Half>;

/// The upper half of a binary32, ties to even.
pub(crate) type BF16 = Words<Brain>;

impl Block for F32 {
    const TYPE: TensorType = TensorType::F32;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Ignored;
    const SIZE: (usize, usize) = (1, 4);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *out = f32::from_le_bytes(*bytes);
        }
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        for (value, out) in rows.values.iter().zip(out.as_chunks_mut::<4>().0) {
            *out = value.to_le_bytes();
        }
    }
}

/// What sets the two apart.
pub(crate) trait Word {
    const TYPE: TensorType;
    fn value<F: Floats>(word: F::Int) -> F;
    fn word<F: Floats>(value: F) -> F::Int;
}

impl Word for Half {
    const TYPE: TensorType = TensorType::F16;

    #[inline(always)]
    fn value<F: Floats>(word: F::Int) -> F {
        F::from_half(word)
    }

    #[inline(always)]
    fn word<F: Floats>(value: F) -> F::Int {
        value.to_half()
    }
}

impl Word for Brain {
    const TYPE: TensorType = TensorType::BF16;

    #[inline(always)]
    fn value<F: Floats>(word: F::Int) -> F {
        F::from_bits(word.shl(16))
    }

    #[inline(always)]
    fn word<F: Floats>(value: F) -> F::Int {
        let int = F::Int::splat;
        let bits = value.bits();
        let odd = bits.shr(16) & int(1);
        let rounded = (bits + (int(0x7fff) + odd)).shr(16);
        let nan = (bits & int(i32::MAX)).gt(int(0x7f80_0000));
        F::Int::select(nan, bits.shr(16) | int(64), rounded)
    }
}

impl<W: Word> Block for Words<W> {
    const TYPE: TensorType = W::TYPE;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Ignored;
    const SIZE: (usize, usize) = (1, 2);

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        let (mut words, mut values) = (bytes.chunks_exact(2 * F::N), out.chunks_exact_mut(F::N));
        for (words, values) in words.by_ref().zip(values.by_ref()) {
            W::value::<F>(F::Int::load_u16(words)).store(values);
        }
        let (words, values) = (words.remainder(), values.into_remainder());
        let (mut padded, mut lanes) = ([0; 2 * MAX_LANES], [0.0; MAX_LANES]);
        padded[..words.len()].copy_from_slice(words);
        W::value::<F>(F::Int::load_u16(&padded)).store(&mut lanes);
        values.copy_from_slice(&lanes[..values.len()]);
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        let (mut values, mut words) = (rows.values.chunks_exact(F::N), out.chunks_exact_mut(2 * F::N));
        for (values, words) in values.by_ref().zip(words.by_ref()) {
            W::word(F::load(values)).store_u16(words);
        }
        let (values, words) = (values.remainder(), words.into_remainder());
        let (mut lanes, mut padded) = ([0.0; MAX_LANES], [0; 2 * MAX_LANES]);
        lanes[..values.len()].copy_from_slice(values);
        W::word(F::load(&lanes)).store_u16(&mut padded);
        words.copy_from_slice(&padded[..words.len()]);
    }
}
