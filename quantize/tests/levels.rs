//! Blocks in integers against ggml's portable C: its dot products of blocks, and what it rounds activations to.
//!
//! `fixtures/golden/products/products.bin`: 32 rows of 256 codes of activations, then for each type 32 blocks of random
//! bytes whose scales are one, each with ggml's dot product (f32) with the codes of its row under scales of one: a whole
//! number (or a multiple of a power of two) that f32 holds exactly, so that the order of no sum matters.
//! `rounded.bin`: 24 rows of 256 activations with their `Q8_0` (scale as f32, 32 codes), the sums of `Q8_1` and their
//! `Q8_K` (scale, 256 codes).

use quantize::{LEVELS, Rounded};

const BLOCKS: usize = 32;
const ROW: usize = 256;

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn products_of_blocks_equal_those_of_ggml() {
    let file = fixtures::bytes("golden/products/products.bin");
    let (activations, mut rest) = file.split_at(BLOCKS * ROW);
    for levels in LEVELS {
        let (len, size) = (levels.ty().block_len() as usize, levels.ty().block_bytes() as usize);
        for row in activations.chunks(ROW) {
            let (block, behind) = rest.split_at(size);
            let (want, behind) = behind.split_at(4);
            rest = behind;
            let groups = len / levels.group;
            let (mut codes, mut scales, mut mins) = (vec![0; len], vec![0.0; groups], vec![0.0; groups]);
            levels.unpack(block, &mut codes, &mut scales, &mut mins).unwrap();
            assert!(codes.iter().all(|&code| code <= levels.most), "{}", levels.ty());
            let mut product = 0.0_f64;
            for (g, codes) in codes.chunks(levels.group).enumerate() {
                let x = &row[g * levels.group..];
                let of = |code: u8| i32::from(code) - i32::from(levels.offset);
                let sum: i32 = codes.iter().zip(x).map(|(&code, &x)| of(code) * i32::from(x as i8)).sum();
                let all: i32 = x[..levels.group].iter().map(|&x| i32::from(x as i8)).sum();
                product += f64::from(scales[g]) * f64::from(sum) + f64::from(mins[g]) * f64::from(all);
            }
            assert_eq!(product, f64::from(f32s(want)[0]), "{}", levels.ty());
        }
    }
    assert!(rest.is_empty(), "{} bytes of types that have no row", rest.len());
}

#[test]
fn activations_are_rounded_as_ggml_rounds_them() {
    let file = fixtures::bytes("golden/products/rounded.bin");
    let size = ROW * 4 + 8 * 36 + 8 * 4 + 4 + ROW;
    assert_eq!(file.len() % size, 0);
    for (number, row) in file.chunks(size).enumerate() {
        let (x, rest) = row.split_at(ROW * 4);
        let (q8_0, rest) = rest.split_at(8 * 36);
        let (sums, q8_k) = rest.split_at(8 * 4);
        let x = f32s(x);
        for levels in LEVELS {
            let groups = ROW / levels.group;
            let (mut codes, mut scales, mut got) = (vec![0; ROW], vec![0.0; groups], vec![0.0; groups]);
            levels.round(&x, &mut codes, &mut scales, &mut got).unwrap();
            for (g, codes) in codes.chunks(levels.group).enumerate() {
                let at = g * levels.group;
                let (scale, want) = match levels.rounded {
                    Rounded::Q8K => (f32s(&q8_k[..4])[0], &q8_k[4 + at..][..levels.group]),
                    _ => (f32s(&q8_0[at / 32 * 36..][..4])[0], &q8_0[at / 32 * 36 + 4 + at % 32..][..levels.group]),
                };
                let name = format!("{} row {number} group {g}", levels.ty());
                assert_eq!(scales[g].to_bits(), scale.to_bits(), "{name}");
                assert!(codes.iter().zip(want).all(|(&got, &want)| got == want as i8), "{name}: {codes:?} {want:?}");
                if levels.rounded == Rounded::Q81 {
                    assert_eq!(got[g].to_bits(), f32s(&sums[4 * g..][..4])[0].to_bits(), "{name}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_has_no_scale() {
    for levels in LEVELS {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![0.5; ROW];
            x[200] = odd;
            let groups = ROW / levels.group;
            let (mut codes, mut scales, mut sums) = (vec![0; ROW], vec![0.0; groups], vec![0.0; groups]);
            levels.round(&x, &mut codes, &mut scales, &mut sums).unwrap();
            assert!(scales[200 / levels.group].is_nan(), "{} {odd}", levels.ty());
        }
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    for levels in LEVELS {
        let mut none: [f32; 0] = [];
        assert!(levels.unpack(&[0; 3], &mut [0; 256], &mut none, &mut []).is_err());
        assert!(levels.round(&[0.0; 8], &mut [0; 8], &mut [], &mut []).is_err());
    }
}
