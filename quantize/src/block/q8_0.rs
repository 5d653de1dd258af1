//! `Q8_0`: 32 signed bytes and one scale.
//!
//! Block: `d` f16, `q[32]` i8; x ≈ d q.

use gguf::TensorType;

use super::Block;
use crate::codec::Importance;
use crate::lanes::{Floats, Ints, Rows, half_bits, half_value};

pub(crate) struct Q80;

const LEN: usize = 32;
const BYTES: usize = 34;

impl Block for Q80 {
    const TYPE: TensorType = TensorType::Q8_0;
    const IMPORTANCE: Importance = Importance::Ignored;

    #[inline(always)]
    fn decode<F: Floats>(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<LEN>().0) {
            let d = F::splat(half_value([block[0], block[1]]));
            for at in (0..LEN).step_by(F::N) {
                (F::from_int(F::Int::load_i8(&block[2 + at..])) * d).store(&mut out[at..]);
            }
        }
    }

    #[inline(always)]
    fn encode<F: Floats>(rows: Rows<'_>, out: &mut [u8]) {
        for (x, block) in rows.values.as_chunks::<LEN>().0.iter().zip(out.as_chunks_mut::<BYTES>().0) {
            let mut largest = F::splat(0.0);
            for at in (0..LEN).step_by(F::N) {
                largest = largest.max(F::load(&x[at..]).abs());
            }
            let d = largest.reduce_max() / 127.0;
            let inverse = F::splat(if d != 0.0 { 1.0 / d } else { 0.0 });
            block[..2].copy_from_slice(&half_bits(d).to_le_bytes());
            for at in (0..LEN).step_by(F::N) {
                (F::load(&x[at..]) * inverse).round().store_u8(&mut block[2 + at..]);
            }
        }
    }
}
