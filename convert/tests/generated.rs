//! Checkpoints that are made here, of classes that `golden/arch` has no folder of: what the reference converter writes
//! for the same folders. `fixtures/generated/reference.py` says what the cases are.

mod cases;

use std::fs;
use std::path::Path;

use convert::Checkpoint;
use gguf::Source;
use serde_json::{Map, Value};

use cases::{options, resolved, write};

/// The file with zeros for the tensors that are `apart`, whose values depend on the processor's library.
fn without(case: &Map<String, Value>, mut bytes: Vec<u8>) -> Vec<u8> {
    let Some(apart) = case.get("apart").and_then(Value::as_array) else { return bytes };
    let file = gguf::File::from_bytes(bytes.clone().into()).unwrap();
    let mut next = file.data_start();
    for tensor in file.tensors() {
        let start = next as usize;
        next = (next + tensor.bytes()).next_multiple_of(32);
        if apart.iter().any(|name| name == tensor.name()) {
            bytes[start..][..tensor.bytes() as usize].fill(0);
        }
    }
    bytes
}

/// The maker's own configurations have one epsilon, under the name of the other kind of norm.
#[test]
fn qwen_1_has_its_epsilon_under_the_key_that_is_read() {
    let cases = fixtures::json("generated/back.json");
    let cases = cases.as_object().unwrap();
    let mut case = resolved(cases, "Qwen-1");
    let epsilon = |case: &Map<String, Value>, key: &str| {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("Qwen-1");
        write(case, &folder);
        Checkpoint::open(&folder, &options(cases, case, &folder)).unwrap().metadata().f64(key)
    };
    case["config"].as_object_mut().unwrap().shift_remove("rms_norm_eps");
    for key in ["qwen.attention.layer_norm_rms_epsilon", "qwen.attention.layer_norm_epsilon"] {
        assert_eq!(epsilon(&case, key), Some(f64::from(1e-6_f32)), "{key}");
    }
    case["config"]["rms_norm_eps"] = 1e-5.into();
    assert_eq!(epsilon(&case, "qwen.attention.layer_norm_rms_epsilon"), Some(f64::from(1e-5_f32)));
}

#[test]
fn generated_checkpoints_are_byte_identical() {
    let cases = fixtures::json("generated/cases.json");
    let cases = cases.as_object().unwrap();
    let only = std::env::var("ONLY").ok();
    let mut faults = Vec::new();
    for name in cases.keys().filter(|n| only.as_ref().is_none_or(|o| n.contains(o.as_str()))) {
        let case = resolved(cases, name);
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join(name);
        write(&case, &folder);
        let bytes = Checkpoint::open(&folder, &options(cases, &case, &folder))
            .and_then(|c| gguf::write::copy(&c, c.metadata(), Vec::new(), |_| {}));
        match (bytes, case.get("error").and_then(Value::as_str)) {
            (Ok(bytes), None)
                if fixtures::sha256(&without(&case, bytes.clone())) == case["sha256"].as_str().unwrap() => {}
            (Ok(bytes), _) => {
                if let Some(dir) = std::env::var_os("KEEP") {
                    fs::write(Path::new(&dir).join(format!("{name}.gguf")), bytes).unwrap();
                }
                faults.push(format!("{name}: other bytes"));
            }
            (Err(e), Some(error)) if e.to_string().contains(error) => {}
            (Err(e), _) => faults.push(format!("{name}: {e} ({})", e.way_out().unwrap_or(""))),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
