//! Packed checkpoints against what the libraries and definitions make of them (see `fixtures/packed/generate.py`).

use std::path::Path;

use convert::packed::{Blocks, Unpacked, unpack};
use convert::safetensors::open_folder;
use convert::transform::{Elements, Rows, row_count, to_f32};
use gguf::TensorType;
use serde_json::{Map, Value, json};

fn config(form: &str) -> Map<String, Value> {
    let Value::Object(config) = fixtures::json(&format!("packed/{form}/config.json")) else { panic!("{form}") };
    config
}

fn unpacked(form: &str, config: &Map<String, Value>, blocks: Blocks) -> gguf::Result<Unpacked> {
    let stored = open_folder(&fixtures::path(&format!("packed/{form}")))?;
    unpack(config, None, &stored, blocks).map(|u| u.expect("a packed checkpoint"))
}

fn all(rows: &Rows) -> Vec<f32> {
    to_f32(rows.elements(), &rows.rows(0..row_count(rows.shape())).unwrap()).unwrap()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn values_are_those_of_the_library_or_definition() {
    let expected = fixtures::json("packed/expected.json");
    let mut compared = 0;
    for (form, weights) in expected.as_object().unwrap() {
        let Unpacked { tensors, note } = unpacked(form, &config(form), Blocks::Decode).unwrap();
        assert!(note.starts_with("packed by ") && note.ends_with("5 tensors plain"), "{form}: {note}");
        let weights = weights.as_object().unwrap();
        assert_eq!(tensors.len(), 5 + weights.len(), "{form}");
        for (name, hash) in weights {
            let (_, rows) = tensors.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{form}: {name}"));
            let values = all(rows);
            compared += values.len();
            assert_eq!(fixtures::sha256(&bytes_of(&values)), *hash, "{form}: {name} {:?}", &values[..4]);
            // Rows on their own are the same as rows together.
            let cols = rows.shape()[1] as usize;
            for row in [0, 1, row_count(rows.shape()) - 1] {
                let one = to_f32(rows.elements(), &rows.rows(row..row + 1).unwrap()).unwrap();
                assert_eq!(one, values[row as usize * cols..][..cols], "{form}: {name} row {row}");
            }
        }
    }
    assert_eq!(compared, expected.as_object().unwrap().len() * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 256 * 256));
}

#[test]
fn blocks_that_gguf_knows_keep_their_bits() {
    for (form, ty, group) in [("ct-mxfp4", TensorType::MXFP4, 32), ("ct-nvfp4", TensorType::NVFP4, 16)] {
        let kept = unpacked(form, &config(form), Blocks::Keep).unwrap();
        assert!(kept.note.contains("kept bit for bit"), "{}", kept.note);
        let stored = open_folder(&fixtures::path(&format!("packed/{form}"))).unwrap();
        for (name, rows) in kept.tensors.iter().filter(|(_, r)| r.elements() == Elements::Blocks(ty)) {
            let codes = stored.iter().find(|t| *t.name() == format!("{name}_packed")).unwrap().bytes();
            let scales = stored.iter().find(|t| *t.name() == format!("{name}_scale")).unwrap().bytes();
            let bytes = rows.rows(0..row_count(rows.shape())).unwrap();
            let (mut found_scales, mut found) = (Vec::new(), vec![0; codes.len()]);
            let groups = if group == 16 { 4 } else { 1 };
            for (b, block) in bytes.chunks(groups * (1 + group / 2)).enumerate() {
                let (scales, nibbles) = block.split_at(groups);
                found_scales.extend_from_slice(scales);
                for (i, byte) in nibbles.iter().enumerate() {
                    let first = (b * groups + i / (group / 2)) * group + i % (group / 2);
                    for (element, code) in [(first, byte & 15), (first + group / 2, byte >> 4)] {
                        found[element / 2] |= code << (4 * (element % 2));
                    }
                }
            }
            assert!(found == codes && found_scales == scales, "{form}: {name}");
        }
    }
    let nvfp4 = unpacked("ct-nvfp4", &config("ct-nvfp4"), Blocks::Keep).unwrap();
    assert_eq!(nvfp4.tensors.iter().filter(|(name, _)| name.ends_with("_proj.scale")).count(), 7);
}

#[test]
fn stacks_of_gpt_oss_keep_their_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let header = json!({
        "m.gate_up_proj_blocks": {"dtype": "U8", "shape": [2, 4, 1, 16], "data_offsets": [0, 128]},
        "m.gate_up_proj_scales": {"dtype": "U8", "shape": [2, 4, 1], "data_offsets": [128, 136]},
    });
    let header = header.to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend((0..128_u8).chain(120..128));
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    let stored = open_folder(folder.path()).unwrap();
    let Value::Object(root) = json!({"quantization_config": {"quant_method": "mxfp4"}}) else { unreachable!() };
    let kept = unpack(&root, None, &stored, Blocks::Keep).unwrap().unwrap();
    let (name, rows) = &kept.tensors[0];
    assert_eq!((name.as_str(), rows.shape()), ("m.gate_up_proj_blocks", [2, 4, 32].as_slice()));
    assert_eq!(rows.elements(), Elements::Blocks(TensorType::MXFP4));
    let bytes = rows.rows(1..2).unwrap();
    assert_eq!((bytes.len(), bytes[0]), (17, 121));
    // Element 0 is the lower half of byte 16, element 16 that of byte 24.
    assert_eq!(bytes[1], (24 & 15) << 4, "the lower four bits of 16 are 0");
}

/// What is said of a form after its configuration or tensors were changed.
fn refusal(form: &str, change: impl FnOnce(&mut Map<String, Value>)) -> String {
    let mut config = config(form);
    change(&mut config);
    unpacked(form, &config, Blocks::Decode).unwrap_err().to_string()
}

#[test]
fn wrong_forms_are_refused_by_name() {
    let set = |key: &'static str, value: Value| {
        move |c: &mut Map<String, Value>| {
            _ = c["quantization_config"].as_object_mut().unwrap().insert(key.into(), value)
        }
    };
    assert!(refusal("awq", set("quant_method", json!("hqq"))).contains("hqq"));
    assert!(refusal("awq", set("version", json!("gemv"))).contains("gemv"));
    assert!(refusal("awq", set("bits", json!(3))).contains("3 bits"));
    assert!(refusal("gptq-3", set("bits", json!(5))).contains("5 bits"));
    assert!(refusal("gptq-3", set("bits", json!(8))).contains("qzeros"));
    assert!(refusal("gptq-2", set("checkpoint_format", json!("marlin"))).contains("marlin"));
    assert!(refusal("fp8-e4m3-block", set("weight_block_size", json!([64, 64]))).contains("64 × 64"));
    assert!(refusal("fp8-e4m3-block", set("weight_block_size", json!("128"))).contains("weight_block_size"));
    assert!(refusal("ct-pack-4", set("format", json!("marlin-24"))).contains("marlin-24"));
    assert!(refusal("ct-pack-4", set("quantization_status", json!("calibration"))).contains("calibration"));
    assert!(refusal("bnb-nf4", set("quant_method", json!("gptq"))).contains("GPTQ of 0 bits"));
    assert!(refusal("bnb-nf4", set("quant_method", json!("awq"))).contains("no tensor is packed so"));
}

/// A copy of a form's tensors with some of them changed in the header.
fn changed(form: &str, change: impl Fn(&mut Map<String, Value>)) -> tempfile::TempDir {
    let bytes = fixtures::bytes(&format!("packed/{form}/model.safetensors"));
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    change(&mut header);
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&bytes[8 + length..]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    folder
}

#[test]
fn parts_that_are_missing_are_named() {
    let q = "model.layers.0.self_attn.q_proj";
    let fault = |form: &str, folder: &Path| {
        let stored = open_folder(folder).unwrap();
        unpack(&config(form), None, &stored, Blocks::Decode).unwrap_err().to_string()
    };
    for (form, part) in [
        ("bnb-nf4", "weight.absmax"),
        ("bnb-nf4", "weight.quant_map"),
        ("bnb-nf4-double", "weight.nested_absmax"),
        ("gptq-4-act", "qzeros"),
        ("gptq-4-act", "scales"),
        ("awq", "scales"),
        ("ct-pack-4", "weight_scale"),
        ("ct-pack-4", "weight_shape"),
        ("ct-nvfp4", "weight_scale"),
    ] {
        let name = format!("{q}.{part}");
        let missing = changed(form, |h| {
            let entry = h.shift_remove(&name).unwrap();
            h.insert(format!("{name}x"), entry);
        });
        assert!(fault(form, missing.path()).contains(part), "{form} without {part}");
    }
}
