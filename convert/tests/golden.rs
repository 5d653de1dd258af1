//! Whole files, byte for byte: what the reference converter wrote for every folder of `fixtures/golden/arch` and
//! `fixtures/golden/encoders`.

use std::path::Path;

use convert::{Checkpoint, Options, OutType};
use gguf::Source;

const TYPES: [(&str, OutType); 3] = [("bf16", OutType::BF16), ("f16", OutType::F16), ("f32", OutType::F32)];

/// Of embedding models and rerankers.
const ALL_TYPES: [(&str, OutType); 4] = [TYPES[0], TYPES[1], TYPES[2], ("q8_0", OutType::Q8_0)];

fn converted(folder: &Path, options: &Options) -> gguf::Result<Vec<u8>> {
    let checkpoint = Checkpoint::open(folder, options)?;
    gguf::write::copy(&checkpoint, checkpoint.metadata(), Vec::new(), |_| {})
}

/// The file with the reference's decays of state spaces in place of ours, which may differ by one unit in the last
/// place: its exponential is that of a vendor's library and depends on the processor, ours is rounded correctly.
fn with_decays_of(reference: &Path, mut bytes: Vec<u8>) -> Vec<u8> {
    let Ok(decays) = std::fs::read(reference) else { return bytes };
    let file = gguf::File::from_bytes(bytes.clone().into()).unwrap();
    let (mut decays, mut next) = (decays.as_slice(), file.data_start());
    for tensor in file.tensors() {
        let start = next as usize;
        next = (next + tensor.bytes()).next_multiple_of(32);
        if !tensor.name().ends_with("ssm_a") {
            continue;
        }
        let (theirs, rest) = decays.split_at(tensor.bytes() as usize);
        let ours = &mut bytes[start..][..theirs.len()];
        for (a, b) in ours.as_chunks::<4>().0.iter().zip(theirs.as_chunks::<4>().0) {
            let (a, b) = (i32::from_le_bytes(*a), i32::from_le_bytes(*b));
            assert!((a - b).abs() <= 1, "{}: {a:#x} is not {b:#x}", tensor.name());
        }
        ours.copy_from_slice(theirs);
        decays = rest;
    }
    assert!(decays.is_empty());
    bytes
}

fn folders(root: &str) -> Vec<String> {
    let root = fixtures::path(root);
    let mut names: Vec<String> =
        std::fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Converts every folder to every type: how many files are equal, and which are not.
fn compare(root: &str, types: &[(&str, OutType)]) {
    let only = std::env::var("ONLY").ok();
    let (mut equal, mut faults) = (0, Vec::new());
    for name in folders(root).iter().filter(|n| only.as_ref().is_none_or(|o| n.contains(o.as_str()))) {
        let expected = fixtures::json(&format!("{root}/{name}/expected.json"));
        let folder = fixtures::path(&format!("{root}/{name}/hf/{name}"));
        let arguments: Vec<&str> =
            expected["arguments"].as_array().into_iter().flatten().filter_map(|a| a.as_str()).collect();
        let options = Options {
            // A vocabulary of its own has no published hash: the reference was told.
            pre: expected["pre"].as_str().filter(|p| !p.is_empty() && root.ends_with("encoders")).map(str::to_owned),
            dense_modules: arguments.contains(&"--sentence-transformers-dense-modules"),
            ..Options::default()
        };
        for &(key, outtype) in types {
            let wanted = expected["files"][key].as_str().unwrap();
            let decays = folder.join("../../ssm_a.f32");
            let bytes = converted(&folder, &Options { outtype, ..options.clone() });
            match bytes.map(|bytes| with_decays_of(&decays, bytes)) {
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
    assert!(equal > 0 || only.is_some(), "there is no folder");
}

#[test]
fn every_architecture_is_byte_identical() {
    compare("golden/arch", &TYPES);
}

#[test]
fn every_encoder_is_byte_identical() {
    compare("golden/encoders", &ALL_TYPES);
}

#[test]
fn adapters_of_tasks_are_byte_identical() {
    let name = "jina-embeddings-v3-Tiny";
    let golden = fixtures::json(&format!("golden/encoders/{name}/expected.json"));
    let folder = fixtures::path(&format!("golden/encoders/{name}/hf/{name}"));
    for (key, outtype) in &ALL_TYPES[1..] {
        let checkpoint = Checkpoint::open(&folder, &Options { outtype: *outtype, ..Options::default() }).unwrap();
        assert_eq!(checkpoint.tasks().len(), 3);
        for task in checkpoint.tasks() {
            let bytes = gguf::write::copy(task, task.metadata(), Vec::new(), |_| {}).unwrap();
            let wanted = &golden["more"][task.file_name(&format!("{name}-{key}.gguf"))];
            assert_eq!(fixtures::sha256(&bytes), wanted.as_str().unwrap(), "{} {key}", task.name());
        }
    }
}

/// Where llama.cpp computes something else from the file, the conversion says so.
#[test]
fn departures_of_llama_cpp_are_told() {
    for (name, about) in [
        ("NeoBERT-Tiny", "three blocks"),
        ("jina-embeddings-v2-Tiny-code", "second half"),
        ("camembert-Tiny", "positions"),
        ("ms-marco-Tiny-L2", "before the classifier"),
        ("distilbert-Tiny-sst2", "ReLU"),
        ("umt5-Tiny-model", "root of their length"),
    ] {
        let folder = fixtures::path(&format!("golden/encoders/{name}/hf/{name}"));
        let checkpoint = Checkpoint::open(&folder, &Options { any_pre: true, ..Options::default() }).unwrap();
        assert!(checkpoint.notes().iter().any(|n| n.contains("llama.cpp") && n.contains(about)), "{name}");
    }
    for name in
        ["bge-m3-Tiny", "jina-embeddings-v2-Tiny-en", "roberta-Tiny-stsb", "umt5-Tiny-small", "distilbert-Tiny-mlm"]
    {
        let folder = fixtures::path(&format!("golden/encoders/{name}/hf/{name}"));
        let checkpoint = Checkpoint::open(&folder, &Options { any_pre: true, ..Options::default() }).unwrap();
        assert!(checkpoint.departures().is_empty(), "{name}");
    }
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

/// What the reference converter (llama.cpp of llama-cpp-python 0.3.36) writes with `--outtype tq1_0` and `tq2_0`.
#[test]
fn the_trained_model_of_ternary_blocks_is_byte_identical() {
    let folder = fixtures::path("models/tiny-llama");
    for (outtype, wanted) in [
        (OutType::TQ1_0, "96132e8f224cb7d52d5bf46374fe9e222596a1a1197dc96a5b38dff2bea93291"),
        (OutType::TQ2_0, "2d57b089ef0a5933985a1325bee1e9c1965d633a76d919668ce2e43243b58dc9"),
    ] {
        let bytes = converted(&folder, &Options { outtype, ..Options::default() }).unwrap();
        assert_eq!(fixtures::sha256(&bytes), wanted, "{outtype:?}");
    }
}

#[test]
fn auto_is_the_type_of_the_checkpoint() {
    let folder = fixtures::path("models/tiny-llama");
    let auto = converted(&folder, &Options::default()).unwrap();
    let bf16 = converted(&folder, &Options { outtype: OutType::BF16, ..Options::default() }).unwrap();
    assert!(auto == bf16);
}
