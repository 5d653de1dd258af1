//! Whole files, byte for byte: what the reference converter wrote for every folder of `fixtures/golden/arch`.

use std::path::Path;

use convert::{Checkpoint, Options, OutType};
use gguf::Source;

const TYPES: [(&str, OutType); 3] = [("bf16", OutType::BF16), ("f16", OutType::F16), ("f32", OutType::F32)];

fn converted(folder: &Path, options: &Options) -> gguf::Result<Vec<u8>> {
    let checkpoint = Checkpoint::open(folder, options)?;
    gguf::write::copy(&checkpoint, checkpoint.metadata(), Vec::new(), |_| {})
}

fn folders() -> Vec<String> {
    let root = fixtures::path("golden/arch");
    let mut names: Vec<String> =
        std::fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_architecture_is_byte_identical() {
    let only = std::env::var("ONLY").ok();
    let (mut equal, mut faults) = (0, Vec::new());
    for name in folders().iter().filter(|n| only.as_ref().is_none_or(|o| n.contains(o.as_str()))) {
        let expected = fixtures::json(&format!("golden/arch/{name}/expected.json"));
        let folder = fixtures::path(&format!("golden/arch/{name}/hf/{name}"));
        for (key, outtype) in TYPES {
            let wanted = expected["files"][key].as_str().unwrap();
            match converted(&folder, &Options { outtype, ..Options::default() }) {
                Ok(bytes) if fixtures::sha256(&bytes) == wanted => equal += 1,
                Ok(bytes) => {
                    if let Some(dir) = std::env::var_os("KEEP") {
                        std::fs::write(Path::new(&dir).join(format!("{name}-{key}.gguf")), &bytes).unwrap();
                    }
                    faults.push(format!("{name} {key}: other bytes"));
                }
                Err(e) => faults.push(format!("{name} {key}: {e} ({})", e.way_out().unwrap_or(""))),
            }
        }
    }
    assert!(faults.is_empty(), "{equal} files are equal, {} are not:\n{}", faults.len(), faults.join("\n"));
    assert!(equal > 0, "no folder was chosen");
}

#[test]
fn the_trained_model_is_byte_identical() {
    let expected = fixtures::json("golden/tiny-llama/expected.json");
    let folder = fixtures::path("models/tiny-llama");
    for (key, outtype) in TYPES {
        let bytes = converted(&folder, &Options { outtype, ..Options::default() }).unwrap();
        let wanted = &expected["convert"][key];
        assert_eq!(fixtures::sha256(&bytes), wanted["sha256"].as_str().unwrap(), "{key}");
    }
}

#[test]
fn auto_is_the_type_of_the_checkpoint() {
    let folder = fixtures::path("models/tiny-llama");
    let auto = converted(&folder, &Options::default()).unwrap();
    let bf16 = converted(&folder, &Options { outtype: OutType::BF16, ..Options::default() }).unwrap();
    assert!(auto == bf16);
}
