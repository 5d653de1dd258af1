//! Whole packed models: packed folder → q4_k_m equals decoded folder → q4_k_m.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use assert_cmd::Command;
use convert::packed::{Blocks, unpack};
use convert::safetensors::open_folder;
use convert::transform::{Elements, row_count};
use gguf::Source;
use serde_json::{Map, Value, json};

const BASE: &str = "golden/arch/Tiny-Llama-MQA-256/hf/Tiny-Llama-MQA-256";

fn tokenizer(folder: &Path) {
    for name in ["tokenizer.model", "tokenizer_config.json"] {
        fs::copy(fixtures::path(BASE).join(name), folder.join(name)).unwrap();
    }
}

/// A folder of this form with a tokenizer.
fn packed(form: &str, folder: &Path) {
    fs::create_dir(folder).unwrap();
    tokenizer(folder);
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixtures::path(&format!("packed/{form}")).join(name), folder.join(name)).unwrap();
    }
}

/// The same model with its weights decoded and no word of packing.
fn decoded(packed: &Path, folder: &Path) {
    fs::create_dir(folder).unwrap();
    tokenizer(folder);
    let mut config: Map<String, Value> =
        serde_json::from_slice(&fs::read(packed.join("config.json")).unwrap()).unwrap();
    let unpacked = unpack(&config, None, &open_folder(packed).unwrap(), Blocks::Decode).unwrap().unwrap();
    config.remove("quantization_config");
    fs::write(folder.join("config.json"), Value::Object(config).to_string()).unwrap();
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, rows) in unpacked.tensors {
        let dtype = match rows.elements() {
            Elements::F16 => "F16",
            Elements::BF16 => "BF16",
            _ => "F32",
        };
        let bytes = rows.rows(0..row_count(rows.shape())).unwrap();
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name, json!({"dtype": dtype, "shape": rows.shape(), "data_offsets": offsets}));
        data.extend_from_slice(&bytes);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&data);
    fs::write(folder.join("model.safetensors"), file).unwrap();
}

fn quantized(folder: &Path, ty: &str, out: &Path) -> (BTreeMap<String, Vec<u8>>, String) {
    let run = Command::cargo_bin("quantize")
        .unwrap()
        .arg(folder)
        .arg(out)
        .args(["--type", ty, "--threads", "1", "--allow-requantize"])
        .assert()
        .success();
    let notes = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
    let file = gguf::File::open(out).unwrap();
    let tensors = file
        .tensors()
        .iter()
        .enumerate()
        .map(|(i, t)| (format!("{} {}", t.name(), t.ty()), file.rows(i, 0..t.rows()).unwrap().into_owned()));
    (tensors.collect(), notes)
}

#[test]
fn packed_and_decoded_folders_become_the_same_file() {
    let expected = fixtures::json("packed/expected.json");
    for form in expected.as_object().unwrap().keys() {
        let work = tempfile::tempdir().unwrap();
        let [a, b] = ["packed", "plain"].map(|sub| work.path().join(sub));
        fs::create_dir(&a).unwrap();
        fs::create_dir(&b).unwrap();
        let [a, b] = [a, b].map(|folder| folder.join("tiny-mqa"));
        packed(form, &a);
        decoded(&a, &b);
        let (from_packed, notes) = quantized(&a, "q4_k_m", &work.path().join("a.gguf"));
        let (from_plain, _) = quantized(&b, "q4_k_m", &work.path().join("b.gguf"));
        assert!(notes.contains("packed by "), "{form}: {notes}");
        assert_eq!(from_packed.keys().collect::<Vec<_>>(), from_plain.keys().collect::<Vec<_>>(), "{form}");
        assert!(from_packed.keys().any(|k| k.contains("attn_q") && k.ends_with("Q4_K")), "{form}");
        for (name, bytes) in &from_packed {
            assert!(*bytes == from_plain[name], "{form}: {name}");
        }
    }
}

#[test]
fn folders_are_written_by_the_program_and_read_again() {
    let work = tempfile::tempdir().unwrap();
    let input = fixtures::path("models/tiny-llama");
    for (ty, extra) in [
        ("nf4", &["--double-quant", "--compute-dtype", "bfloat16"][..]),
        ("FP4", &["--block-size", "128"][..]),
        ("int8", &[][..]),
        ("affine8", &["--per", "row", "--zero-point"][..]),
        ("affine8", &["--per", "row"][..]),
        ("affine8", &["--per", "tensor"][..]),
        ("affine4", &["--group-size", "64", "--zero-point"][..]),
        ("affine4", &["--per", "tensor"][..]),
    ] {
        let out = work.path().join("out");
        let run = Command::cargo_bin("quantize")
            .unwrap()
            .arg(&input)
            .arg(&out)
            .args(["--type", ty, "--force", "--json"])
            .args(extra)
            .assert()
            .success();
        let result: Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
        assert_eq!((result["quantized"].as_u64(), result["kept"].as_u64()), (Some(28), Some(11)), "{ty}");

        let config: Map<String, Value> = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
        // Packed zero points load in transformers only where weights are decoded on the way.
        let (form, zero_point) = (&config["quantization_config"], extra.contains(&"--zero-point"));
        assert_eq!(form.get("dequantize").is_some(), form["format"] == "pack-quantized" && zero_point, "{ty}");
        let unpacked = unpack(&config, None, &open_folder(&out).unwrap(), Blocks::Decode).unwrap().unwrap();
        let original = open_folder(&input).unwrap();
        for (name, rows) in unpacked.tensors.iter().filter(|(name, _)| name.contains("proj")) {
            let before = original.iter().find(|t| t.name() == name).unwrap();
            let mut expected = vec![0.0; before.elements() as usize];
            convert::packed::Float::Bf16.decode(before.bytes(), &mut expected);
            let found =
                convert::transform::to_f32(rows.elements(), &rows.rows(0..row_count(rows.shape())).unwrap()).unwrap();
            let (mut error, mut power) = (0.0, 0.0);
            for (a, b) in found.iter().zip(&expected) {
                error += f64::from(a - b).powi(2);
                power += f64::from(*b).powi(2);
            }
            let coarse = if extra.contains(&"tensor") { 0.5 } else { 0.2 };
            let limit = if ty.ends_with('8') { coarse / 10.0 } else { coarse };
            assert!((error / power).sqrt() < limit, "{ty}: {name}: {}", (error / power).sqrt());
        }
    }
    let refused = Command::cargo_bin("quantize")
        .unwrap()
        .arg(&input)
        .arg(work.path().join("x"))
        .args(["--type", "nf4", "--block-size", "65"])
        .assert()
        .code(2);
    assert!(String::from_utf8_lossy(&refused.get_output().stderr).contains("65"));
    Command::cargo_bin("quantize")
        .unwrap()
        .arg(&input)
        .arg(work.path().join("x"))
        .args(["--type", "affine4", "--group-size", "96"])
        .assert()
        .code(2);
    assert!(!work.path().join("x").exists());
}
