//! Packed checkpoints against what the libraries and definitions make of them (see `fixtures/packed/generate.py`).

use std::path::Path;

use convert::packed::bnb::QuantState;
use convert::packed::{Blocks, Unpacked, complete, unpack};
use convert::safetensors::open_folder;
use convert::transform::{Elements, Rows, row_count, to_f32};
use gguf::TensorType;
use proptest::prelude::*;
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
        let Unpacked { tensors, note, .. } = unpacked(form, &config(form), Blocks::Decode).unwrap();
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

/// A folder with these tensors: name, dtype, shape and bytes.
fn folder_of(tensors: &[(&str, &str, &[u64], Vec<u8>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        header.insert((*name).into(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    folder
}

fn unpacked_of(folder: &Path, root: Value) -> gguf::Result<Option<Unpacked>> {
    let Value::Object(mut root) = root else { panic!("{root}") };
    let stored = open_folder(folder)?;
    complete(&mut root, folder, &stored)?;
    unpack(&root, None, &stored, Blocks::Keep)
}

/// Numbers of a few bits one after the other, the lowest bits first.
fn bit_stream(numbers: &[u32], bits: usize) -> Vec<u8> {
    let mut bytes = vec![0; (numbers.len() * bits).div_ceil(8)];
    for (i, number) in numbers.iter().enumerate() {
        for b in (0..bits).filter(|b| number >> b & 1 == 1) {
            bytes[(i * bits + b) / 8] |= 1 << ((i * bits + b) % 8);
        }
    }
    bytes
}

#[test]
fn mlx_of_all_bits() {
    let (rows, groups, size) = (6_u64, 3_u64, 32_u64);
    let cols = groups * size;
    for bits in [2, 3, 4, 5, 6, 8] {
        let numbers: Vec<u32> =
            (0..(rows * cols) as u32).map(|i| i.wrapping_mul(2_654_435_761) >> (32 - bits)).collect();
        let scale = |i: u64| 0.25 + i as f32 / 64.0;
        let bias = |i: u64| -1.5 + i as f32 / 8.0;
        let floats = |f: &dyn Fn(u64) -> f32| bytes_of(&(0..rows * groups).map(f).collect::<Vec<_>>());
        let words = cols * bits as u64 / 32;
        // Two stacked matrices are one of twice the rows.
        let folder = folder_of(&[
            ("m.biases", "F32", &[2, rows / 2, groups], floats(&bias)),
            ("m.scales", "F32", &[2, rows / 2, groups], floats(&scale)),
            ("m.weight", "U32", &[2, rows / 2, words], bit_stream(&numbers, bits)),
            ("n.weight", "F32", &[2], bytes_of(&[1.0, 2.0])),
        ]);
        for root in [
            json!({"quantization": {"group_size": size, "bits": bits}, "quantization_config": {"group_size": size, "bits": bits}}),
            json!({"quantization": {"group_size": 64, "bits": 4, "mode": "affine", "m": {"bits": bits, "group_size": size}, "n": false}}),
            json!({"quantization": {"group_size": size, "bits": bits, "m": true}, "quantization_config": null}),
        ] {
            let found = unpacked_of(folder.path(), root).unwrap().unwrap();
            assert_eq!(found.method, "mlx");
            let rows = &found.tensors.iter().find(|(name, _)| name == "m.weight").unwrap().1;
            assert_eq!(rows.shape(), [2, 3, cols]);
            for (i, value) in all(rows).into_iter().enumerate() {
                let group = i as u64 / size;
                assert_eq!(value, numbers[i] as f32 * scale(group) + bias(group), "{bits} bits, {i}");
            }
            assert_eq!(found.tensors.len(), 2);
        }
        for (settings, word) in [
            (json!({"group_size": size, "bits": 7}), "no bits and group_size"),
            (json!({"bits": bits}), "no bits and group_size"),
            (json!({"group_size": 16, "bits": bits}), "in groups of 16"),
            (json!({"group_size": size, "bits": bits, "mode": "nvfp4"}), "nvfp4"),
            (json!({"group_size": u64::MAX, "bits": bits}), "in groups of"),
        ] {
            let error = unpacked_of(folder.path(), json!({"quantization": settings})).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}

#[test]
fn modules_of_gptq_may_have_bits_of_their_own() {
    let form = "gptq-4-act";
    let path = fixtures::path(&format!("packed/{form}"));
    let q = "model.layers.0.self_attn.q_proj";
    let plain = unpacked(form, &config(form), Blocks::Keep).unwrap();
    let plain = all(&plain.tensors.iter().find(|(n, _)| n == &format!("{q}.weight")).unwrap().1);
    // The same numbers in eight bits each: twice the words, along the inputs and along the outputs of the zeros.
    let stored = open_folder(&path).unwrap();
    let widened = |bytes: &[u8], line: usize, along_lines: bool| -> Vec<u8> {
        let words: Vec<u32> = bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        let half = |w: u32, upper: u32| (0..4).map(|i| (w >> (16 * upper + 4 * i) & 15) << (8 * i)).sum::<u32>();
        let out: Vec<u32> = if along_lines {
            words.iter().flat_map(|w| [half(*w, 0), half(*w, 1)]).collect()
        } else {
            words
                .chunks(line)
                .flat_map(|l| [0, 1].into_iter().flat_map(move |u| l.iter().map(move |w| half(*w, u))))
                .collect()
        };
        out.iter().flat_map(|w| w.to_le_bytes()).collect()
    };
    let mut tensors: Vec<(String, String, Vec<u64>, Vec<u8>)> = stored
        .iter()
        .map(|t| (t.name().to_owned(), t.dtype().to_string(), t.shape().to_vec(), t.bytes().to_vec()))
        .collect();
    for (name, _, shape, bytes) in &mut tensors {
        if *name == format!("{q}.qweight") {
            *bytes = widened(bytes, shape[1] as usize, false);
            shape[0] *= 2;
        } else if *name == format!("{q}.qzeros") {
            *bytes = widened(bytes, shape[1] as usize, true);
            shape[1] *= 2;
        }
    }
    let tensors: Vec<(&str, &str, &[u64], Vec<u8>)> =
        tensors.iter().map(|(n, d, s, b)| (n.as_str(), d.as_str(), s.as_slice(), b.clone())).collect();
    let folder = folder_of(&tensors);
    let mut root = config(form);
    let error = unpacked_of(folder.path(), Value::Object(root.clone())).unwrap_err().to_string();
    assert!(error.contains("qzeros"), "{error}");
    root["quantization_config"]["dynamic"] = json!({"+:.*q_proj.*": {"bits": 8}, "-:.*lm_head.*": {}});
    let mixed = unpacked_of(folder.path(), Value::Object(root)).unwrap().unwrap();
    assert!(mixed.note.contains("as 8 bits in groups") && mixed.note.contains("as 4 bits in groups"), "{}", mixed.note);
    let found = all(&mixed.tensors.iter().find(|(n, _)| n == &format!("{q}.weight")).unwrap().1);
    assert_eq!(found, plain);
}

#[test]
fn a_packing_may_be_described_elsewhere() {
    for (form, file) in [("gptq-4-act", "quantize_config.json"), ("awq", "quant_config.json")] {
        let root = config(form);
        let settings = root["quantization_config"].clone();
        let folder = tempfile::tempdir().unwrap();
        let weights = "model.safetensors";
        std::fs::copy(fixtures::path(&format!("packed/{form}/{weights}")), folder.path().join(weights)).unwrap();
        let expected = unpacked(form, &root, Blocks::Keep).unwrap();
        let same = |found: Unpacked| {
            assert_eq!(found.note, expected.note);
            for ((a, x), (b, y)) in found.tensors.iter().zip(&expected.tensors) {
                assert!(a == b && all(x) == all(y), "{a}");
            }
        };
        // In the part about text, with nothing said above it.
        for nothing in [json!(null), json!({})] {
            let root = json!({"quantization_config": nothing, "text_config": {"quantization_config": settings}});
            same(unpacked_of(folder.path(), root).unwrap().unwrap());
        }
        // In a file beside config.json, with or without the name of the method.
        let mut bare = settings.clone();
        bare.as_object_mut().unwrap().remove("quant_method");
        for said in [&settings, &bare] {
            std::fs::write(folder.path().join(file), said.to_string()).unwrap();
            same(unpacked_of(folder.path(), json!({})).unwrap().unwrap());
            same(unpacked_of(folder.path(), json!({"quantization_config": {}})).unwrap().unwrap());
        }
        std::fs::write(folder.path().join(file), "[").unwrap();
        assert!(unpacked_of(folder.path(), json!({})).is_err());
        // AutoRound packs as the others do, and says so.
        let mut round = settings.clone();
        round["quant_method"] = "auto-round".into();
        for (packing, known) in
            [(format!("auto_round:auto_{}", form.split('-').next().unwrap()), true), ("auto_round".into(), false)]
        {
            round["packing_format"] = packing.into();
            std::fs::write(folder.path().join("quantization_config.json"), round.to_string()).unwrap();
            std::fs::remove_file(folder.path().join(file)).ok();
            let found = unpacked_of(folder.path(), json!({}));
            assert_eq!(found.is_ok(), known, "{form}");
            if let Ok(Some(found)) = found {
                let first = &expected.tensors.iter().find(|(n, _)| n.ends_with("q_proj.weight")).unwrap().1;
                let same = &found.tensors.iter().find(|(n, _)| n.ends_with("q_proj.weight")).unwrap().1;
                assert_eq!((found.method, all(first)), ("auto-round", all(same)));
            }
        }
        // Left over beside plain weights it says nothing.
        let plain = folder_of(&[("a.weight", "F32", &[1], bytes_of(&[1.0]))]);
        std::fs::write(plain.path().join(file), settings.to_string()).unwrap();
        assert!(unpacked_of(plain.path(), json!({})).unwrap().is_none());
    }
    for nothing in [json!({}), json!(null), json!({"quant_method": null}), json!([])] {
        let plain = folder_of(&[("a.weight", "F32", &[1], bytes_of(&[1.0]))]);
        assert!(unpacked_of(plain.path(), json!({"quantization_config": nothing})).unwrap().is_none());
    }
}

#[test]
fn scales_of_fp8_may_be_powers_of_two() {
    let root = json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 2]}});
    let codes: Vec<u8> = (0..12).map(|i| 0x38 + i).collect();
    let folder = folder_of(&[
        ("m.weight", "F8_E4M3", &[3, 4], codes.clone()),
        ("m.weight_scale_inv", "F8_E8M0", &[2, 2], vec![127, 120, 130, 0]),
    ]);
    let found = unpacked_of(folder.path(), root.clone()).unwrap().unwrap();
    let powers = [1.0, 2_f32.powi(-7), 8.0, 2_f32.powi(-127)];
    for (i, value) in all(&found.tensors[0].1).into_iter().enumerate() {
        assert_eq!(value, convert::packed::decode_e4m3(codes[i]) * powers[i / 8 * 2 + i % 4 / 2]);
    }
    let folder = folder_of(&[
        ("m.weight", "F8_E4M3", &[3, 4], codes),
        ("m.weight_scale_inv", "F8_E8M0", &[2, 2], vec![127, 120, 255, 0]),
    ]);
    let found = unpacked_of(folder.path(), root).unwrap().unwrap();
    assert!(all(&found.tensors[0].1)[8..10].iter().all(|v| v.is_nan()));
}

#[test]
fn what_serves_at_run_time_is_left_aside() {
    let one = || bytes_of(&[2.0]);
    for (method, scale) in [
        ("fp8", "m.weight_scale"),
        ("fp8", "m.weight_scale_inv"),
        ("fp8", "m.qscale_weight"),
        ("modelopt", "m.weight_scale"),
    ] {
        for name in [
            "m.act_scale",
            "m.input_scale",
            "m.activation_scale",
            "m.gate_activation_scale",
            "m.output_scale",
            "attn.k_scale",
            "attn.v_scale",
            "attn.q_scale",
            "attn.kv_scale",
            "m.qscale_act",
        ] {
            let folder = folder_of(&[
                (name, "F32", &[], one()),
                (scale, "F32", &[1], one()),
                ("m.weight", "F8_E4M3", &[1, 2], vec![0x38, 0x40]),
            ]);
            let root = json!({"quantization_config": {"quant_method": method}});
            let found = unpacked_of(folder.path(), root).unwrap().unwrap();
            assert_eq!(found.tensors.len(), 1, "{method}: {name}");
            assert_eq!(all(&found.tensors[0].1), [2.0, 4.0], "{method}: {scale}");
        }
    }
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

#[test]
fn packed_rows_that_hold_nothing_are_nothing() {
    for shape in [[0, 0], [4, 0], [0, 4]] {
        let folder =
            folder_of(&[("m.weight", "I8", &shape, Vec::new()), ("m.weight_scale", "F32", &[], bytes_of(&[1.0]))]);
        let root = json!({"quantization_config": {"quant_method": "fp8"}});
        if let Ok(Some(found)) = unpacked_of(folder.path(), root) {
            for (_, rows) in &found.tensors {
                assert!(rows.rows(0..row_count(rows.shape())).unwrap().is_empty());
            }
        }
    }
}

proptest! {
    #[test]
    fn any_state_of_bitsandbytes_is_read_or_refused(
        entries in prop::collection::vec((
            prop::sample::select(vec!["quant_type", "blocksize", "dtype", "shape", "nested_offset", "nested_blocksize", "nested_dtype", "x"]),
            prop_oneof![
                Just(json!(null)), Just(json!("nf4")), Just(json!("fp4")), Just(json!("float16")), Just(json!("bfloat16")),
                Just(json!([64, 64])), Just(json!([])), Just(json!([0])), Just(json!([u64::MAX, u64::MAX])), Just(json!([-1])),
                Just(json!(64)), Just(json!(u64::MAX)), Just(json!(-1)), Just(json!(0)), Just(json!(1e300)), Just(json!(0.5)),
                Just(json!({})), Just(json!([[1]])),
            ],
        ), 0..9),
        cut in 0..200_usize,
        noise in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let object: Map<String, Value> = entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let text = Value::Object(object).to_string();
        for bytes in [text.as_bytes(), &text.as_bytes()[..cut.min(text.len())], &noise] {
            if let Ok(state) = QuantState::from_json(bytes) {
                assert!(state.block >= 32 && state.block <= 4096 && (1..=4).contains(&state.shape.len()));
            }
        }
        // Beside a weight it is held against the weight's bytes.
        let folder = folder_of(&[
            ("m.weight", "U8", &[32, 1], vec![0x12; 32]),
            ("m.weight.absmax", "F32", &[1], bytes_of(&[1.0])),
            ("m.weight.quant_map", "F32", &[16], bytes_of(&[0.5; 16])),
            ("m.weight.quant_state.bitsandbytes__nf4", "U8", &[text.len() as u64], text.clone().into_bytes()),
        ]);
        let root = json!({"quantization_config": {"quant_method": "bitsandbytes"}});
        if let Ok(Some(found)) = unpacked_of(folder.path(), root) {
            for (_, rows) in &found.tensors {
                rows.rows(0..row_count(rows.shape())).unwrap();
            }
        }
    }

    /// Parts of all methods with shapes and types that need not fit each other.
    #[test]
    fn any_parts_are_unpacked_or_refused(
        method in prop::sample::select(vec!["bitsandbytes", "fp8", "fbgemm_fp8", "mxfp4", "gptq", "awq", "compressed-tensors", "modelopt", "mlx", ""]),
        tensors in prop::collection::btree_map(
            prop::sample::select(vec![
                "m.weight", "m.qweight", "m.qzeros", "m.scales", "m.biases", "m.g_idx", "m.SCB", "m.weight_scale", "m.weight_scale_inv",
                "m.weight_scale_2", "m.weight_packed", "m.weight_shape", "m.weight_zero_point", "m.weight_global_scale", "m_blocks", "m_scales",
                "m.qscale_weight", "m.weight_g_idx",
            ]),
            (prop::sample::select(vec!["F32", "F16", "I32", "U32", "I64", "U8", "I8", "F8_E4M3", "F8_E8M0"]), prop::collection::vec(prop::sample::select(vec![0_u64, 1, 2, 4, 8, 16, 32]), 0..5)),
            1..7,
        ),
        settings in prop::collection::vec((prop::sample::select(vec!["bits", "group_size", "weight_block_size", "format", "dynamic", "w_bit", "load_in_4bit", "config_groups"]),
            prop_oneof![Just(json!(4)), Just(json!(8)), Just(json!(3)), Just(json!(-1)), Just(json!(0)), Just(json!(32)), Just(json!([2, 2])), Just(json!([0, u64::MAX])), Just(json!({"a": {}})),
                Just(json!("pack-quantized")), Just(json!("float-quantized")), Just(json!("nvfp4-pack-quantized")), Just(json!("mxfp4-pack-quantized")), Just(json!(true)),
                Just(json!({"g": {"weights": {"num_bits": 4, "block_structure": [1, 2]}}}))]), 0..5),
        fill: u8,
    ) {
        let tensors: Vec<(&str, &str, Vec<u64>, Vec<u8>)> = tensors.into_iter().map(|(name, (dtype, shape))| {
            let size = match dtype { "I64" => 8, "F32" | "I32" | "U32" => 4, "F16" => 2, _ => 1 };
            let bytes = vec![fill; (shape.iter().product::<u64>() * size) as usize];
            (name, dtype, shape, bytes)
        }).filter(|(.., bytes)| bytes.len() < 1 << 16).collect();
        let tensors: Vec<(&str, &str, &[u64], Vec<u8>)> = tensors.iter().map(|(n, d, s, b)| (*n, *d, s.as_slice(), b.clone())).collect();
        let folder = folder_of(&tensors);
        let mut config: Map<String, Value> = settings.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        if !method.is_empty() {
            config.insert("quant_method".into(), method.into());
        }
        if let Ok(Some(found)) = unpacked_of(folder.path(), json!({"quantization_config": config})) {
            for (_, rows) in &found.tensors {
                if row_count(rows.shape()) < 1 << 12 {
                    rows.rows(0..row_count(rows.shape())).unwrap();
                }
            }
        }
    }
}
