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

/// The maker's own configurations have one epsilon, under the name of the other kind of norm, and the reference writes it
/// as such: the file is the reference's, what is computed from the folder is the model.
#[test]
fn qwen_1_has_its_epsilon_beyond_the_file() {
    let cases = fixtures::json("generated/back.json");
    let cases = cases.as_object().unwrap();
    let mut case = resolved(cases, "Qwen-1");
    let temporary = tempfile::tempdir().unwrap();
    let open = |case: &Map<String, Value>, name: &str| {
        let folder = temporary.path().join(name);
        write(case, &folder);
        Checkpoint::open(&folder, &options(cases, case, &folder)).unwrap()
    };
    let key = "qwen.attention.layer_norm_rms_epsilon";
    let stated = open(&case, "stated");
    assert!(stated.metadata().f64(key).is_some() && stated.beyond().is_empty());
    case["config"].as_object_mut().unwrap().shift_remove("rms_norm_eps");
    let alone = open(&case, "alone");
    assert_eq!(alone.metadata().f64(key), None);
    assert_eq!(alone.beyond(), [(key.to_owned(), 1e-6_f32.into())]);
    assert!(alone.notes().iter().any(|note| note.contains("does not load") && note.contains(key)));
    // Without either name there is none.
    case["config"].as_object_mut().unwrap().shift_remove("layer_norm_epsilon");
    let folder = temporary.path().join("none");
    write(&case, &folder);
    let error = Checkpoint::open(&folder, &options(cases, &case, &folder)).unwrap_err().to_string();
    assert!(error.contains(key), "{error}");
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
