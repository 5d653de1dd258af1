//! `Q8_0`: 32 signed bytes and one scale.
//!
//! Block: `d` f16, `q[32]` i8; x ≈ d q.

use gguf::TensorType;

use super::levels::{Coded, Rounded};
use super::{Block, halves, inverses, largest};
use crate::codec::ImportanceUse;
use crate::lanes::{Floats, Ints, MAX_LANES, Rows, half_value};

pub(crate) struct Q80;

const LEN: usize = 32;
const BYTES: usize = 2 + LEN;

impl Block for Q80 {
    const TYPE: TensorType = TensorType::Q8_0;
    const IMPORTANCE: ImportanceUse = ImportanceUse::Ignored;
    const SIZE: (usize, usize) = (LEN, BYTES);

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
        for (x, blocks) in rows.values.chunks(LEN * MAX_LANES).zip(out.chunks_mut(BYTES * MAX_LANES)) {
            let (x, blocks) = (x.as_chunks::<LEN>().0, blocks.as_chunks_mut::<BYTES>().0);
            let mut d = [0.0; MAX_LANES];
            for (d, x) in d.iter_mut().zip(x) {
                *d = largest::<F>(x) / 127.0;
            }
            let (halves, inverses) = (halves::<F>(&d), inverses::<F>(&d));
            for (((x, block), half), inverse) in x.iter().zip(blocks).zip(halves).zip(inverses) {
                block[..2].copy_from_slice(&half);
                let inverse = F::splat(inverse);
                for at in (0..LEN).step_by(F::N) {
                    (F::load(&x[at..]) * inverse).round().store_u8(&mut block[2 + at..]);
                }
            }
        }
    }
}

impl Coded for Q80 {
    const ROUNDED: Rounded = Rounded::Q80;
    const GROUP: usize = LEN;
    const OFFSET: u8 = 128;
    const MOST: u8 = 255;

    #[inline(always)]
    fn levels(block: &[u8], codes: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        scales[0] = half_value([block[0], block[1]]);
        codes.iter_mut().zip(&block[2..]).for_each(|(code, byte)| *code = byte ^ 0x80);
    }
}
