//! The way back as a property over all fixtures: folder → file → folder gives the tensors of the checkpoint, byte for
//! byte, and the folder gives the file again, byte for byte.
//!
//! `FOLDERS=DIR` walks over another folder of checkpoints, `ONLY=PART` over those whose names have this part.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use convert::back::{Folder, Options as Back};
use convert::{Checkpoint, Options, OutType, safetensors};
use gguf::Source;
use serde_json::Value;

fn converted(folder: &Path, options: &Options) -> gguf::Result<Vec<u8>> {
    let checkpoint = Checkpoint::open(folder, options)?;
    gguf::write::copy(&checkpoint, checkpoint.metadata(), Vec::new(), |_| {})
}

/// What came back of a folder.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// Tensors and file are the same.
    Same,
    /// What differs.
    Differs(String),
    /// The way back refuses it.
    Refused(String),
}

fn there_and_back(folder: &Path) -> Outcome {
    let options = Options { outtype: OutType::BF16, any_pre: true, ..Options::default() };
    let bytes = match converted(folder, &options) {
        Ok(bytes) => bytes,
        Err(e) => return Outcome::Refused(format!("does not convert: {e}")),
    };
    let file = gguf::File::from_bytes(bytes.clone().into()).unwrap();
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let class = config["architectures"][0].as_str().map(str::to_owned);
    let back = match Folder::plan(Arc::new(file), &Back { class, ..Back::default() }) {
        Ok(back) => back,
        Err(e) => return Outcome::Refused(format!("{e}; {}", e.way_out().unwrap_or(""))),
    };
    let dir = tempfile::tempdir().unwrap();
    // The folder's name has a part in the general keys.
    let made = dir.path().join(folder.file_name().unwrap());
    std::fs::create_dir(&made).unwrap();
    if let Err(e) = back.write(&made, &|_| {}) {
        return Outcome::Differs(format!("is not written: {e}"));
    }
    let mut faults = Vec::new();
    if let Err(e) = back.check(&made) {
        faults.push(format!("{e}: {}", std::error::Error::source(&e).map(|e| e.to_string()).unwrap_or_default()));
    }
    faults.extend(different_tensors(folder, &made));
    match converted(&made, &options) {
        Ok(again) if again == bytes => {}
        Ok(again) => faults.push(different_files(&bytes, &again)),
        Err(e) => faults.push(format!("does not convert again: {e}")),
    }
    if faults.is_empty() { Outcome::Same } else { Outcome::Differs(faults.join("; ")) }
}

fn by_name(folder: &Path) -> BTreeMap<String, safetensors::Stored> {
    safetensors::open_folder(folder).unwrap().into_iter().map(|t| (t.name().to_owned(), t)).collect()
}

fn different_tensors(folder: &Path, made: &Path) -> Vec<String> {
    let (of, other) = (by_name(folder), by_name(made));
    let mut faults = Vec::new();
    let few = |names: Vec<&String>| names.iter().take(3).map(|n| n.as_str()).collect::<Vec<_>>().join(", ");
    let lost: Vec<&String> = of.keys().filter(|n| !other.contains_key(*n)).collect();
    let more: Vec<&String> = other.keys().filter(|n| !of.contains_key(*n)).collect();
    if !lost.is_empty() {
        faults.push(format!("{} tensors are lost: {}", lost.len(), few(lost)));
    }
    if !more.is_empty() {
        faults.push(format!("{} tensors are too many: {}", more.len(), few(more)));
    }
    let differs = |name: &&String| {
        let Some(b) = other.get(*name) else { return false };
        let a = &of[*name];
        a.shape() != b.shape() || a.dtype().name() == "BF16" && (a.dtype() != b.dtype() || a.bytes() != b.bytes())
    };
    let differing: Vec<&String> = of.keys().filter(differs).collect();
    if let Some(first) = differing.first() {
        let (a, b) = (&of[*first], &other[*first]);
        faults.push(format!(
            "{} tensors differ: {} ({} {:?}, {} {:?})",
            differing.len(),
            first,
            a.dtype(),
            a.shape(),
            b.dtype(),
            b.shape()
        ));
    }
    faults
}

fn different_files(a: &[u8], b: &[u8]) -> String {
    let (a, b) =
        (gguf::File::from_bytes(a.to_vec().into()).unwrap(), gguf::File::from_bytes(b.to_vec().into()).unwrap());
    let mut keys: Vec<&str> = a.metadata().iter().map(|(k, _)| k).collect();
    keys.extend(b.metadata().iter().map(|(k, _)| k).filter(|k| a.metadata().get(k).is_none()));
    let differing: Vec<&str> = keys.into_iter().filter(|k| a.metadata().get(k) != b.metadata().get(k)).collect();
    if !differing.is_empty() {
        return format!("keys differ: {}", differing.join(", "));
    }
    let order = |f: &gguf::File| f.metadata().iter().map(|(k, _)| k.to_owned()).collect::<Vec<_>>();
    if order(&a) != order(&b) {
        return "keys have another order".to_owned();
    }
    let names = |f: &gguf::File| f.tensors().iter().map(|t| t.name().to_owned()).collect::<Vec<_>>();
    if names(&a) != names(&b) {
        return "tensors have another order".to_owned();
    }
    for (i, (x, y)) in a.tensors().iter().zip(b.tensors()).enumerate() {
        if x != y || a.rows(i, 0..x.rows()).unwrap() != b.rows(i, 0..y.rows()).unwrap() {
            return format!("tensor {} differs: {} {}, {} {}", x.name(), x.ty(), x.shape(), y.ty(), y.shape());
        }
    }
    "differs".to_owned()
}

fn walk(root: &Path) -> Vec<(String, Outcome)> {
    let only = std::env::var("ONLY").ok();
    let mut names: Vec<String> =
        std::fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let folder = |name: &String| -> Option<PathBuf> {
        let folder = root.join(name).join("hf").join(name);
        (folder.is_dir() && only.as_ref().is_none_or(|o| name.contains(o.as_str()))).then_some(folder)
    };
    names.iter().filter_map(|name| Some((name.clone(), there_and_back(&folder(name)?)))).collect()
}

#[test]
#[ignore = "walks over the folders that FOLDERS names"]
fn folders_come_back() {
    let root = PathBuf::from(std::env::var_os("FOLDERS").unwrap());
    let all = walk(&root);
    let same = all.iter().filter(|(_, o)| *o == Outcome::Same).count();
    for (name, outcome) in &all {
        println!("{name}: {outcome:?}");
    }
    println!("{same} of {} come back", all.len());
}

/// Folders of which nothing is lost, in tensors, keys or tokenizers.
const WHOLE: &[&str] = &[
    "Bloom-Tiny-560m",
    "Ernie-4.5-Tiny",
    "Exaone-4-Tiny",
    "Falcon-Tiny-7B",
    "GPT2-Tiny",
    "Gemma-Tiny-2B",
    "Granite-3-Tiny",
    "Granite-MoE-Tiny",
    "MPT-Tiny-7B",
    "Mistral-Tiny-v0.1",
    "Mixtral-Tiny-4x1B",
    "Phi-2-Tiny",
    "Phi-3-Tiny-mini-4k",
    "Pythia-Tiny-GPTNeoX",
    "Qwen2-MoE-Tiny",
    "Qwen2-Tiny",
    "Qwen3-MoE-Tiny-A1B",
    "Qwen3-Tiny-0.6B",
    "StableLM-Tiny-2",
    "Starcoder2-Tiny",
    "Tiny-Llama-2-7B-Chat",
    "Tiny-Llama-3.2-1B-Instruct",
    "Tiny-Llama-Bias",
    "Tiny-Llama-MQA-256",
];

#[test]
fn whole_families_come_back() {
    for name in WHOLE {
        let folder = fixtures::path(&format!("golden/arch/{name}/hf/{name}"));
        assert_eq!(there_and_back(&folder), Outcome::Same, "{name}");
    }
}
