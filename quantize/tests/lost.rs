//! Weights that a type cannot hold: `gguf check --data` tells them from zeros that were there before.

use gguf::check::{Options, Profile, check_bytes};
use gguf::{Metadata, Shape, TensorInfo, TensorType, write};
use quantize::{Codec, FORMATS, encode_rows};

const ROW: usize = 1024;
const ROWS: usize = 4;

/// What the rule says of these weights in a type.
fn findings(ty: TensorType, weights: &[f32]) -> Vec<String> {
    let mut bytes = vec![0; ty.bytes_for(weights.len() as u64).expect("whole blocks") as usize];
    encode_rows(ty, weights, ROW, Some(&[1.0; ROW]), &mut bytes).unwrap();
    let info = TensorInfo::new("blk.0.attn_q.weight", Shape::new(&[ROW as u64, ROWS as u64]).unwrap(), ty).unwrap();
    let metadata = Metadata::from_iter([("general.architecture", "llama")]);
    let file = write::to_bytes(&metadata, &[info], |_| Ok(bytes.clone())).unwrap();
    let options = Options { profile: Profile::Format, data: true, ..Options::default() };
    let report = check_bytes(file.into(), "x.gguf", &options);
    report.findings.iter().filter(|f| f.rule.name == "block-degenerate").map(|f| f.message.clone()).collect()
}

fn weights(change: impl Fn(usize, f32) -> f32) -> Vec<f32> {
    let mut state = 7_u32;
    (0..ROW * ROWS)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            change(i, (state >> 8) as f32 / (1 << 23) as f32 - 1.0)
        })
        .collect()
}

fn block_types() -> impl Iterator<Item = TensorType> {
    FORMATS.iter().map(|f| f.ty()).filter(|ty| ty.is_quantized())
}

#[test]
fn weights_and_padding_are_not_told_of() {
    for ty in block_types() {
        assert_eq!(findings(ty, &weights(|_, w| w)), [""; 0], "{ty}");
        // A row and columns of zeros, zeros inside blocks, and weights of one value.
        let padded = weights(|i, w| if i / ROW == 2 || i % ROW >= 768 { 0.0 } else { w });
        assert_eq!(findings(ty, &padded), [""; 0], "{ty}");
        let holes = weights(|i, w| if i % 256 < 64 { 0.0 } else { w });
        if ty.block_len() > 64 {
            assert_eq!(findings(ty, &holes), [""; 0], "{ty}");
        }
        let flat = weights(|i, w| if i % 256 < 32 { 0.25 } else { w });
        assert_eq!(findings(ty, &flat), [""; 0], "{ty}");
    }
}

#[test]
fn a_block_and_a_matrix_that_were_too_small_are_found() {
    for ty in block_types().filter(|&ty| ty != TensorType::MXFP4) {
        let block = weights(|i, w| if i / 256 == 5 { w * 1e-12 } else { w });
        assert!(findings(ty, &block)[0].contains("have a scale of 0"), "{ty}");
        let all = weights(|_, w| w * 1e-12);
        assert_eq!(findings(ty, &all).len(), 1, "{ty}");
    }
}

#[test]
fn parts_of_a_superblock_that_were_too_small_are_found() {
    for ty in [TensorType::Q2_K, TensorType::Q3_K, TensorType::Q4_K, TensorType::Q5_K, TensorType::Q6_K] {
        let len = ty.scale_len() as usize;
        for part in 0..256 / len {
            let lost = weights(|i, w| if i / 256 == 5 && i % 256 / len == part { w * 1e-4 } else { w });
            let told = findings(ty, &lost);
            assert_eq!(told.len(), 1, "{ty} part {part}: {told:?}");
            let said = format!("1 of 16 blocks of {ty} have parts of {len} weights");
            assert!(told[0].contains(&said) && told[0].contains("first is block 5"), "{told:?}");
        }
    }
}
