//! The plain decoder of the format gives the numbers of the fast ones, bit for bit.

use gguf::{TensorType, decode};

#[test]
fn plain_and_fast_decoders_agree() {
    let mut seed = 1_u32;
    let mut random = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    let mut compared = 0;
    for ty in TensorType::all().filter(|ty| ty.is_quantized() && decode::is_decoded(*ty)) {
        let values = 64 * ty.block_len();
        let bytes: Vec<u8> = (0..ty.bytes_for(values).unwrap()).map(|_| random()).collect();
        let (mut plain, mut fast) = (vec![0.0_f32; values as usize], vec![0.0_f32; values as usize]);
        decode::rows(ty, &bytes, &mut plain).unwrap();
        quantize::decode_rows(ty, &bytes, &mut fast).unwrap();
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        let first = plain.iter().zip(&fast).position(|(a, b)| !same(*a, *b));
        assert_eq!(first, None, "{ty}: {:?} and {:?}", first.map(|i| plain[i]), first.map(|i| fast[i]));
        compared += 1;
    }
    assert!(compared >= 17, "{compared}");
}
