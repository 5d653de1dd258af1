//! Every tensor that bitsandbytes writes, from the same input, byte by byte.

use std::collections::BTreeMap;

use convert::packed::Float;
use convert::packed::bnb::{Code, QuantState, decode};
use quantize::bnb::nested::{self, Nested};
use quantize::bnb::{four_bit, int8, state};

const ROWS: usize = 32;
const COLS: usize = 1024;

/// The tensors of a safetensors file: dtype, shape, bytes.
fn tensors(file: &[u8]) -> BTreeMap<String, (String, Vec<u64>, &[u8])> {
    let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&file[8..8 + header]).unwrap();
    json.as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
        .map(|(name, t)| {
            let [start, end] = [0, 1].map(|i| 8 + header + t["data_offsets"][i].as_u64().unwrap() as usize);
            let shape = t["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
            (name.clone(), (t["dtype"].as_str().unwrap().to_owned(), shape, &file[start..end]))
        })
        .collect()
}

/// The input of the golden cases in this type, decoded again.
fn input(float: Float) -> Vec<f32> {
    let bytes = fixtures::bytes("golden/blocks/input.f32");
    let mut values = vec![0.0; bytes.len() / 4];
    Float::F32.decode(&bytes, &mut values);
    let mut stored = Vec::new();
    values.iter().for_each(|v| float.push(*v, &mut stored));
    float.decode(&stored, &mut values);
    values
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn four_bits_equal_those_of_bitsandbytes() {
    let file = fixtures::bytes("golden/bnb/bnb.safetensors");
    let tensors = tensors(&file);
    let manifest = fixtures::json("golden/bnb/manifest.json");
    let mut cases = 0;
    for (case, golden) in manifest["cases"].as_object().unwrap() {
        let parts: Vec<&str> = case.split('.').collect();
        let &[code, block, double, float] = parts.as_slice() else { continue };
        cases += 1;
        let code = Code::from_name(code).unwrap();
        let block: usize = block[1..].parse().unwrap();
        let float = Float::ALL.into_iter().find(|f| f.safetensors().to_string().eq_ignore_ascii_case(float)).unwrap();
        let tensor = |suffix: &str| tensors[&format!("{case}.weight{suffix}")].2;

        let values = input(float);
        let mut codes = vec![0; values.len() / 2];
        let mut scales = vec![0.0; values.len() / block];
        assert!(four_bit::encode(code, &values, block, &mut codes, &mut scales));
        assert!(codes == tensor(""), "{case}: codes");
        assert_eq!(bytes_of(code.points()), tensor(".quant_map"), "{case}");

        let mut expected =
            QuantState { code, block, float, shape: vec![ROWS as u64, COLS as u64], offset: None, nested_block: 256 };
        if double == "double" {
            let nested = Nested::encode(&scales);
            expected.offset = Some(nested.offset);
            assert!(nested.codes == tensor(".absmax"), "{case}: absmax");
            assert_eq!(bytes_of(&nested.scales), tensor(".nested_absmax"), "{case}");
            assert_eq!(bytes_of(&*nested::POINTS), tensor(".nested_quant_map"), "{case}");
            scales = nested.decode();
        } else {
            assert_eq!(bytes_of(&scales), tensor(".absmax"), "{case}");
        }
        let json = tensor(&format!(".{}", QuantState::key(code)));
        assert_eq!(state::to_json(&expected), std::str::from_utf8(json).unwrap(), "{case}");
        assert_eq!(QuantState::from_json(json).unwrap(), expected);

        let mut decoded = vec![0.0; values.len()];
        decode(code.points(), &codes, &scales, block, 0, &mut decoded);
        for value in &mut decoded {
            // The machine that made the goldens turned f32 into bf16 with one instruction (VCVTNEPS2BF16), which takes
            // subnormals for zero; without it the library rounds them as we do.
            if float == Float::Bf16 && value.is_subnormal() {
                *value *= 0.0;
            }
            *value = float.round(*value);
        }
        assert_eq!(fixtures::sha256(&bytes_of(&decoded)), golden["dequant_f32_sha256"], "{case}: decoded values");
    }
    assert_eq!(cases, 20);
}

#[test]
fn int8_equals_that_of_bitsandbytes() {
    let file = fixtures::bytes("golden/bnb/bnb.safetensors");
    let tensors = tensors(&file);
    let mut codes = vec![0; COLS];
    let mut all = Vec::new();
    let mut scales = Vec::new();
    // The rows whose values overflow f16 were left out of the golden.
    for row in input(Float::F32).chunks_mut(COLS).enumerate().filter(|(r, _)| r % 16 != 14).map(|(_, row)| row) {
        scales.push(int8::encode_row(row, &mut codes).unwrap());
        all.extend_from_slice(&codes);
    }
    assert!(all == tensors["int8.f16.weight"].2, "codes");
    assert_eq!(bytes_of(&scales), tensors["int8.f16.SCB"].2);
}
