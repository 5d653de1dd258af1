//! The way back as a property over all fixtures: folder → file → folder gives the tensors of the checkpoint, byte for
//! byte, and the folder gives the file again, byte for byte.
//!
//! `FOLDERS=DIR` walks over another folder of checkpoints, `ONLY=PART` over those whose names have this part.

mod cases;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use convert::back::{Folder, Options as Back};
use convert::{Checkpoint, Options, OutType, Part, safetensors};
use gguf::Source;
use serde_json::Value;

fn converted(folder: &Path, options: &Options) -> gguf::Result<Vec<u8>> {
    let checkpoint = Checkpoint::open(folder, options)?;
    gguf::write::copy(&checkpoint, checkpoint.metadata(), Vec::new(), |_| {})
}

/// What came back of a folder.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// Tensors and file are the same: the architecture and the class.
    Same(String, String),
    /// What differs.
    Differs(String),
    /// The way back refuses it.
    Refused(String),
}

fn there_and_back(folder: &Path) -> Outcome {
    there_and_back_with(folder, &Options { outtype: OutType::BF16, ..Options::default() })
}

fn there_and_back_with(folder: &Path, options: &Options) -> Outcome {
    let options = Options { any_pre: true, ..options.clone() };
    let bytes = match converted(folder, &options) {
        Ok(bytes) => bytes,
        Err(e) => return Outcome::Refused(format!("does not convert: {e}")),
    };
    let file = gguf::File::from_bytes(bytes.clone().into()).unwrap();
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let class = config["architectures"][0].as_str().map(str::to_owned);
    let file: Arc<gguf::File> = Arc::new(file);
    let mut whole = true;
    let back = match Folder::plan(file.clone(), &Back { class, ..Back::default() }) {
        Ok(back) => back,
        // What a file has of a model with a head that no file has is the model without it.
        Err(e) if e.to_string().contains("head") => match Folder::plan(file, &Back::default()) {
            Ok(back) => {
                whole = false;
                back
            }
            Err(_) => return Outcome::Refused(format!("{e}; {}", e.way_out().unwrap_or(""))),
        },
        Err(e) => return Outcome::Refused(format!("{e}; {}", e.way_out().unwrap_or(""))),
    };
    let dir = tempfile::tempdir().unwrap();
    // The folder's name has a part in the general keys.
    let made = dir.path().join(folder.file_name().unwrap());
    std::fs::create_dir(&made).unwrap();
    let mut faults = match remade(&back, &made, &options, &bytes) {
        Ok(faults) => faults,
        Err(e) => return Outcome::Differs(format!("is not written: {e}")),
    };
    faults.extend(different_tensors(folder, &made, whole, options.part == Part::Model));
    faults.extend(different_switches(folder, &made));
    if faults.is_empty() {
        Outcome::Same(back.architecture().to_owned(), back.class().to_owned())
    } else {
        Outcome::Differs(faults.join("; "))
    }
}

/// Writes a folder, and says where it and the file made of it are not what they came from.
fn remade(back: &Folder, made: &Path, options: &Options, bytes: &[u8]) -> gguf::Result<Vec<String>> {
    back.write(made, &|_| {})?;
    let mut faults = Vec::new();
    if let Err(e) = back.check(made) {
        faults.push(format!("{e}: {}", std::error::Error::source(&e).map(|e| e.to_string()).unwrap_or_default()));
    }
    match converted(made, options) {
        Ok(again) if again == bytes => {}
        Ok(again) => faults.push(different_files(bytes, &again)),
        Err(e) => faults.push(format!("does not convert again: {e}")),
    }
    Ok(faults)
}

fn by_name(folder: &Path) -> BTreeMap<String, safetensors::Stored> {
    safetensors::open_folder(folder).unwrap().into_iter().map(|t| (t.name().to_owned(), t)).collect()
}

/// Tables that are stored in parts, as one: into how many is in no file.
fn joined(tensors: BTreeMap<String, safetensors::Stored>) -> BTreeMap<String, Held> {
    let mut out: BTreeMap<String, Held> = BTreeMap::new();
    for (name, tensor) in tensors {
        let held = Held { dtype: tensor.dtype(), shape: tensor.shape().to_vec(), bytes: tensor.bytes().to_vec() };
        match out.get_mut(name.split(PARTS).next().unwrap()).filter(|_| name.contains(PARTS)) {
            Some(first) => {
                first.shape[0] += held.shape[0];
                first.bytes.extend(held.bytes);
            }
            None => _ = out.insert(name.split(PARTS).next().unwrap().to_owned(), held),
        }
    }
    out
}

/// What stands before the number of a part.
const PARTS: &str = ".ngram_embedding.shard_";

/// A tensor of a folder.
struct Held {
    dtype: safetensors::Dtype,
    shape: Vec<u64>,
    bytes: Vec<u8>,
}

/// Whether no file has a tensor of the class, or not of these: what the row leaves out.
fn is_left_out(class: &str, name: &str) -> bool {
    let rows = convert::hf::all().filter(|row| row.names.contains(&class));
    rows.flat_map(|row| row.unused).any(|beginning| name.starts_with(beginning))
}

/// Of a model whose head is in no file (not `whole`) the rest is compared, without what its names begin with; of a file
/// with a part of the model (not `complete`) that part.
fn different_tensors(folder: &Path, made: &Path, whole: bool, complete: bool) -> Vec<String> {
    let (mut of, other) = (joined(by_name(folder)), joined(by_name(made)));
    let config: Value = serde_json::from_slice(&std::fs::read(made.join("config.json")).unwrap()).unwrap();
    let class = config["architectures"][0].as_str().unwrap_or_default();
    if !whole {
        let bare = |name: &str| {
            let beginnings = ["bert.", "distilbert.", "model."];
            beginnings.iter().find_map(|b| name.strip_prefix(b)).unwrap_or(name).to_owned()
        };
        of = of.into_iter().map(|(name, t)| (bare(&name), t)).filter(|(name, _)| other.contains_key(name)).collect();
    }
    let mut faults = Vec::new();
    let few = |names: Vec<&String>| names.iter().take(3).map(|n| n.as_str()).collect::<Vec<_>>().join(", ");
    // The layer before a classifier is in no file, and nobody needs frequencies that code computes.
    let in_no_file =
        |name: &str| name.starts_with("pooler.") || name.ends_with(".inv_freq") || name.ends_with("mlp.experts.bias");
    let lost: Vec<&String> =
        of.keys().filter(|n| !other.contains_key(*n) && !in_no_file(n) && !is_left_out(class, n)).collect();
    let more: Vec<&String> = other.keys().filter(|n| !of.contains_key(*n)).collect();
    if complete && !lost.is_empty() {
        faults.push(format!("{} tensors are lost: {}", lost.len(), few(lost)));
    }
    if !more.is_empty() {
        faults.push(format!("{} tensors are too many: {}", more.len(), few(more)));
    }
    let differs = |name: &&String| {
        let Some(b) = other.get(*name) else { return false };
        let a = &of[*name];
        let (mut x, mut y) = (a.bytes.as_slice(), b.bytes.as_slice());
        if name.ends_with("position_embeddings.weight") && x != y {
            // Rows before the first position of a text are in no file: they become zeros.
            let lost = 2 * a.shape[1] as usize * FIRST_POSITION;
            if y[..lost].iter().any(|byte| *byte != 0) {
                return true;
            }
            (x, y) = (&x[lost..], &y[lost..]);
        }
        let whole_numbers = a.dtype == safetensors::Dtype::I64 && x != y;
        let bf16 = a.dtype == safetensors::Dtype::BF16 && (a.dtype != b.dtype || !near(x, y));
        a.shape != b.shape || whole_numbers || bf16
    };
    let scaled = SCALED.contains(&class);
    let differing: Vec<&String> = of.keys().filter(|name| !scaled && differs(name)).collect();
    if let Some(first) = differing.first() {
        let (a, b) = (&of[*first], &other[*first]);
        faults.push(format!(
            "{} tensors differ: {} ({} {:?}, {} {:?})",
            differing.len(),
            first,
            a.dtype,
            a.shape,
            b.dtype,
            b.shape
        ));
    }
    faults
}

/// The first position of a text in all fixtures whose positions begin behind that of padding.
const FIRST_POSITION: usize = 2;

/// Switches of the original configuration that came back otherwise. What the class does not read is left out, and so
/// is what the file has no say in.
fn different_switches(folder: &Path, made: &Path) -> Vec<String> {
    let read = |folder: &Path| -> Value {
        serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
    };
    let (of, other) = (read(folder), read(made));
    let of = of.as_object().unwrap();
    let differs = |field: &&String| {
        let (a, b) = (of[field.as_str()].as_bool(), other.get(field.as_str()).and_then(Value::as_bool));
        a.is_some() && b.is_some() && a != b && !FREE_SWITCHES.contains(&field.as_str())
    };
    of.keys().filter(differs).map(|field| format!("{field} is not {}", of[field])).collect()
}

/// Classes whose multipliers are in the weights of a file: they come back as 1, with other weights and the same model.
const SCALED: &[&str] = &["FalconH1ForCausalLM", "JAISLMHeadModel"];

/// Switches that say the same model either way.
///
/// - `tie_word_embeddings`: a model without a head, or whose head is the embedding, ties as well as not.
/// - `block_auto_adjust_ff_dim`: the width that comes back is the adjusted one.
const FREE_SWITCHES: &[&str] = &["tie_word_embeddings", "block_auto_adjust_ff_dim"];

/// Whether bfloat16 are the same but for what is lost beside 1, which some norms have added.
fn near(a: &[u8], b: &[u8]) -> bool {
    let value = |b: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
    a.as_chunks().0.iter().zip(b.as_chunks().0).all(|(a, b)| a == b || (value(a) - value(b)).abs() <= f32::EPSILON)
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
        let (a, b) = (order(&a), order(&b));
        let first = a.iter().zip(&b).find(|(a, b)| a != b);
        return format!("keys have another order: {first:?}");
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
    let same = all.iter().filter(|(_, o)| matches!(o, Outcome::Same(..))).count();
    for (name, outcome) in &all {
        println!("{name}: {outcome:?}");
    }
    println!("{same} of {} come back", all.len());
}

#[test]
fn every_family_comes_back() {
    for (name, outcome) in walk(&fixtures::path("golden/arch")) {
        assert!(matches!(outcome, Outcome::Same(..)), "{name}: {outcome:?}");
    }
}

/// Published files have keys of the programs that made them, and old ones do not say how texts are cut.
#[test]
fn keys_of_no_part_of_the_model_are_passed_over() {
    let folder = fixtures::path("golden/arch/Tiny-Llama-3.2-1B-Instruct/hf/Tiny-Llama-3.2-1B-Instruct");
    let options = Options { outtype: OutType::BF16, any_pre: true, ..Options::default() };
    let checkpoint = Checkpoint::open(&folder, &options).unwrap();
    let mut metadata = checkpoint.metadata().clone();
    metadata.remove("tokenizer.ggml.pre");
    metadata.set("quantize.imatrix.file", "imatrix.dat");
    metadata.set("quantize.imatrix.entries_count", 12_i32);
    metadata.set("somebody.url", "https://example.org");
    let bytes = gguf::write::copy(&checkpoint, &metadata, Vec::new(), |_| {}).unwrap();
    let file = gguf::File::from_bytes(bytes.into()).unwrap();
    let back = Folder::plan(Arc::new(file), &Back::default()).unwrap();
    assert_eq!(back.class(), "LlamaForCausalLM");
    assert!(back.notes().iter().any(|note| note.contains("how texts are cut")), "{:?}", back.notes());
    let dir = tempfile::tempdir().unwrap();
    back.write(dir.path(), &|_| {}).unwrap();
    back.check(dir.path()).unwrap();
    assert_eq!(different_tensors(&folder, dir.path(), true, true), Vec::<String>::new());
}

/// What is not refused comes back whole, and of each class that has a way back something does.
#[test]
fn nothing_comes_back_otherwise() {
    let mut cases = fixtures::json("generated/cases.json");
    let cases = cases.as_object_mut().unwrap();
    // Of these the reference has no file, or one that says nothing of the way back.
    cases.extend(fixtures::json("generated/back.json").as_object().unwrap().clone());
    let cases = &*cases;
    let mut faults = Vec::new();
    let mut came: BTreeSet<(String, String)> = BTreeSet::new();
    let mut same = 0;
    let mut look = |name: &str, folder: &Path, options: &Options| match there_and_back_with(folder, options) {
        Outcome::Same(arch, class) => {
            same += 1;
            came.insert((arch, class));
        }
        Outcome::Differs(what) => faults.push(format!("{name}: {what}")),
        Outcome::Refused(why) => {
            if std::env::var_os("SHOW").is_some() {
                println!("{name}: {why}");
            }
        }
    };
    let large = std::env::var_os("LARGE").is_some();
    let only = std::env::var("ONLY").ok();
    let asked = |name: &&String| only.as_ref().is_none_or(|part| name.contains(part.as_str()));
    for name in cases.keys().filter(asked) {
        let case = cases::resolved(cases, name);
        // A folder with towers has a test of its own; what a class calls by another name comes back by its first.
        let other = case.contains_key("text") || name == "Nemotron-Puzzle-model";
        let other = other || ["error", "one_way"].iter().any(|key| case.contains_key(*key));
        if other || case.contains_key("large") && !large {
            continue;
        }
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join(name);
        cases::write(&case, &folder);
        let mut options = cases::options(cases, &case, &folder);
        if matches!(options.outtype, OutType::TQ1_0 | OutType::TQ2_0) {
            // What comes back of these is not what was there.
            options.outtype = OutType::BF16;
        }
        if folder.join("config.json").is_file() {
            look(name, &folder, &options);
        }
    }
    let plain = Options { outtype: OutType::BF16, ..Options::default() };
    for root in ["golden/arch", "golden/encoders"].into_iter().filter(|_| only.is_none()) {
        for entry in std::fs::read_dir(fixtures::path(root)).unwrap().map(Result::unwrap) {
            let folder = entry.path().join("hf").join(entry.file_name());
            if folder.is_dir() {
                look(entry.file_name().to_str().unwrap(), &folder, &plain);
            }
        }
    }
    for row in convert::hf::all() {
        for name in row.names.iter().filter(|name| convert::back::has_way(row, name).is_ok()) {
            let seen = convert::back::with_towers().any(|(class, ..)| class == *name);
            let untold = *name == UNTOLD || !large && *name == "PlamoForCausalLM";
            if !seen && !untold && !came.contains(&(row.arch.to_owned(), (*name).to_owned())) {
                faults.push(format!("{name}, {}: nothing here comes back", row.arch));
            }
        }
    }
    println!("{same} come back");
    if only.is_some() {
        faults.retain(|fault| !fault.ends_with("nothing here comes back"));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(only.is_some() || same >= LEAST, "{same} come back");
}

/// Text models of classes with towers, whose files say nothing of what the text model alone does not have.
const ALONE: &[(&str, &str)] = &[
    ("DotsOCRForCausalLM", "Qwen2ForCausalLM"),
    ("Gemma3nForConditionalGeneration", "Gemma3nForCausalLM"),
    ("Glm4vMoeForConditionalGeneration", "Glm4MoeForCausalLM"),
    ("Phi4ForCausalLMV", "Phi3ForCausalLM"),
    ("Step3p7ForConditionalGeneration", "Step3p5ForCausalLM"),
    ("StepVLForConditionalGeneration", "Qwen3ForCausalLM"),
    ("YoutuVLForConditionalGeneration", "DeepseekV3ForCausalLM"),
];

#[test]
fn text_models_come_back_alone() {
    let cases = fixtures::json("generated/cases.json");
    let cases = cases.as_object().unwrap();
    let mut seen = BTreeSet::new();
    for name in cases.keys() {
        let case = cases::resolved(cases, name);
        let class = case.get("config").and_then(|config| config["architectures"][0].as_str());
        let alone = ALONE.iter().find(|(whole, _)| Some(*whole) == class);
        let Some((class, text)) = alone.filter(|_| !name.starts_with("mmproj-")) else { continue };
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join(name);
        cases::write(&case, &folder);
        let options = Options { any_pre: true, ..cases::options(cases, &case, &folder) };
        let bytes = converted(&folder, &options).unwrap();
        let file = Arc::new(gguf::File::from_bytes(bytes.clone().into()).unwrap());
        let asked = Back { class: Some((*class).to_owned()), ..Back::default() };
        let refused = Folder::plan(file.clone(), &asked).unwrap_err();
        assert!(refused.way_out().is_some_and(|way| way.contains("--mmproj")), "{name}: {refused}");
        let back = Folder::plan(file, &Back::default()).unwrap();
        let made = temporary.path().join("back").join(name);
        std::fs::create_dir_all(&made).unwrap();
        assert_eq!(remade(&back, &made, &options, &bytes).unwrap(), Vec::<String>::new(), "{name}");
        let config: Value = serde_json::from_slice(&std::fs::read(made.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["architectures"][0], *text, "{name}");
        seen.insert(class);
    }
    assert_eq!(seen.len(), ALONE.len(), "{seen:?}");
}

/// Checkpoints that come back.
const LEAST: usize = 224;

/// A class that reads what the fixtures have for a vocabulary in a way that none comes back from.
const UNTOLD: &str = "DeciLMForCausalLM";
