//! Projector files, byte for byte: what the reference converter wrote for every folder of `fixtures/golden/mmproj`,
//! and what folders bring that hold no towers or that lack something.

use std::path::{Path, PathBuf};

use convert::{Checkpoint, Options, OutType};
use gguf::Source;
use serde_json::{Value, json};

const TYPES: [(&str, OutType); 4] =
    [("bf16", OutType::BF16), ("f16", OutType::F16), ("f32", OutType::F32), ("q8_0", OutType::Q8_0)];

fn converted(folder: &Path, outtype: OutType) -> gguf::Result<Vec<u8>> {
    let checkpoint = Checkpoint::open(folder, &Options { outtype, projector: true, ..Options::default() })?;
    gguf::write::copy(&checkpoint, checkpoint.metadata(), Vec::new(), |_| {})
}

fn folders() -> Vec<String> {
    let root = fixtures::path("golden/mmproj");
    let mut names: Vec<String> =
        std::fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The file with the reference's values of some tensors in place of ours, which may differ by one unit in the last
/// place: sines and logarithms of a vendor's library depend on the processor, ours are rounded correctly.
fn with_values_of(name: &str, apart: &Value, mut bytes: Vec<u8>) -> Vec<u8> {
    let Some(apart) = apart.as_array() else { return bytes };
    let theirs = std::fs::read(fixtures::path(&format!("golden/mmproj/{name}/apart.f32"))).unwrap();
    let mut theirs = theirs.as_slice();
    let file = gguf::File::from_bytes(bytes.clone().into()).unwrap();
    let mut next = file.data_start();
    for tensor in file.tensors() {
        let start = next as usize;
        next = (next + tensor.bytes()).next_multiple_of(32);
        if !apart.iter().any(|own| own == tensor.name()) {
            continue;
        }
        let (wanted, rest) = theirs.split_at(tensor.bytes() as usize);
        let ours = &mut bytes[start..][..wanted.len()];
        for (a, b) in ours.as_chunks::<4>().0.iter().zip(wanted.as_chunks::<4>().0) {
            let (a, b) = (f32::from_le_bytes(*a), f32::from_le_bytes(*b));
            assert!((a - b).abs() <= f32::EPSILON * b.abs(), "{}: {a} is not {b}", tensor.name());
        }
        ours.copy_from_slice(wanted);
        theirs = rest;
    }
    assert!(theirs.is_empty());
    bytes
}

#[test]
fn every_folder_is_byte_identical() {
    let only = std::env::var("ONLY").ok();
    let (mut equal, mut faults) = (0, Vec::new());
    for name in folders().iter().filter(|n| only.as_ref().is_none_or(|o| n.contains(o.as_str()))) {
        let expected = fixtures::json(&format!("golden/mmproj/{name}/expected.json"));
        let folder = fixtures::path(&format!("golden/mmproj/{name}/hf/{name}"));
        for (key, outtype) in TYPES {
            let Some(wanted) = expected["mmproj"][key].as_str() else { continue };
            match converted(&folder, outtype).map(|bytes| with_values_of(name, &expected["apart"], bytes)) {
                Ok(bytes) if fixtures::sha256(&bytes) == wanted => equal += 1,
                Ok(_) => faults.push(format!("{name} {key}: other bytes")),
                Err(e) => faults.push(format!("{name} {key}: {e} ({})", e.way_out().unwrap_or(""))),
            }
        }
    }
    assert!(faults.is_empty(), "{equal} files are equal, {} are not:\n{}", faults.len(), faults.join("\n"));
    assert!(only.is_some() || equal >= 100, "{equal} files");
}

/// A copy of a folder of `golden/mmproj` with another configuration.
fn changed(name: &str, change: impl Fn(&mut Value)) -> (tempfile::TempDir, PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let source = fixtures::path(&format!("golden/mmproj/{name}/hf/{name}"));
    let folder = temporary.path().join(name);
    fixtures::copy(&source, &folder);
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    (temporary, folder)
}

/// Renames tensors in the files of a folder.
fn rename(folder: &Path, from: &str, to: &str) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "safetensors") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let (len, rest) = bytes.split_first_chunk::<8>().unwrap();
        let (header, data) = rest.split_at(u64::from_le_bytes(*len) as usize);
        let header = str::from_utf8(header).unwrap();
        assert!(header.contains(from), "{}", path.display());
        let renamed = format!("{:width$}", header.replace(from, to), width = header.len());
        std::fs::write(&path, [len, renamed.as_bytes(), data].concat()).unwrap();
    }
}

/// transformers 5 saves towers without the name of the model that they once were in; the reference knows no such names.
#[test]
fn towers_as_newer_libraries_save_them_make_the_same_file() {
    for name in ["gemma-3-Tiny-it", "llava-1.5-Tiny-7b-hf", "LFM2-VL-Tiny-450M"] {
        let (_temporary, folder) = changed(name, |_| ());
        rename(&folder, ".vision_model.", ".");
        let as_given = converted(&fixtures::path(&format!("golden/mmproj/{name}/hf/{name}")), OutType::BF16).unwrap();
        assert!(converted(&folder, OutType::BF16).unwrap() == as_given, "{name}");
    }
}

fn refused(folder: &Path) -> gguf::Error {
    match Checkpoint::open(folder, &Options { projector: true, ..Options::default() }) {
        Ok(_) => panic!("{} was converted", folder.display()),
        Err(e) => e,
    }
}

fn message(folder: &Path) -> String {
    refused(folder).to_string()
}

#[test]
fn what_is_no_tower_or_lacks_something_is_named() {
    let text = message(&fixtures::path("models/tiny-llama"));
    assert!(text.contains("LlamaForCausalLM has no towers"), "{text}");
    let (_keep, folder) = changed("gemma-3-Tiny-it", |_| {});
    std::fs::remove_file(folder.join("preprocessor_config.json")).unwrap();
    let text = message(&folder);
    assert!(text.contains("preprocessor_config.json has no image_mean"), "{text}");
    let (_keep, folder) = changed("gemma-3-Tiny-it", |c| c["vision_config"]["num_hidden_layers"] = json!(9));
    let text = message(&folder);
    assert!(text.contains("encoder.layers.4.") && text.contains("is missing"), "{text}");
    let (_keep, folder) = changed("Qwen2.5-VL-Tiny-Instruct", |c| {
        c["vision_config"]["fullatt_block_indexes"] = json!([1, 2]);
    });
    let text = message(&folder);
    assert!(text.contains("fullatt_block_indexes [1, 2]"), "{text}");
}

#[test]
fn towers_of_an_unknown_class_are_refused_with_the_nearest_that_is_known() {
    let refused = |class: &str, kind: &str, text: bool| {
        let (_keep, folder) = changed("gemma-3-Tiny-it", |config| {
            config["architectures"] = json!([class]);
            config["vision_config"]["model_type"] = json!(kind);
            if !text {
                config.as_object_mut().unwrap().shift_remove("vision_config");
            }
        });
        let error = refused(&folder);
        assert_eq!(error.kind(), gguf::ErrorKind::Input);
        (error.to_string(), error.way_out().unwrap_or_default().to_owned())
    };
    for (class, kind, nearest) in [
        ("Qwen3VLAForConditionalGeneration", "unheard_of", "Qwen3VLForConditionalGeneration"),
        ("LlavaNextForConditionalGeneration", "unheard_of", "LlavaForConditionalGeneration"),
        ("SomethingElse", "qwen3_vl_moe_vision", "Qwen3VLMoeForConditionalGeneration"),
    ] {
        let (text, help) = refused(class, kind, true);
        assert!(text.contains(&format!("{class} has no towers that are known")), "{text}");
        assert!(help.contains(&format!("the nearest class whose towers are known is {nearest};")), "{help}");
    }
    let (text, help) = refused("LlamaForCausalLM", "", false);
    assert!(text.contains("config.json describes none") && help.contains("without --mmproj"), "{text} ({help})");
    let (text, _) = refused("DeepseekV4ForCausalLM", "", false);
    assert!(text.contains("DeepseekV4ForCausalLM has no towers"), "{text}");
}

#[test]
fn a_folder_without_tensors_of_its_towers_makes_no_file() {
    let (_keep, folder) = changed("gemma-3-Tiny-it", |_| {});
    let mut header = br#"{"model.norm.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#.to_vec();
    while !header.len().is_multiple_of(8) {
        header.push(b' ');
    }
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend([0; 4]);
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
    let text = message(&folder);
    assert!(text.contains("no tensor of the folder is of its towers (vision_config)"), "{text}");
}
