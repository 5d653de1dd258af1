//! The way back with a projector file: folder → two files → folder gives the tensors of the checkpoint, byte for byte, and
//! the folder gives both files again, byte for byte. Every folder of `golden/mmproj` comes back or is refused by name.
//!
//! Folders there have no weights of the text model: `text.json` says their names and shapes, and the test makes some.
//! `FOLDERS=DIR` walks over another folder of folders, which have all of them; `ONLY=PART` over those of this name.

mod cases;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use convert::back::{Folder, Options as Back, Projector};
use convert::{Checkpoint, Options, OutType, safetensors};
use gguf::Source;
use serde_json::{Map, Value, json};

/// Why folders do not come back.
const REFUSED: &[(&str, &str)] = &[
    // Without a text model: those of these come back below.
    ("GLM-5-Next-Tiny", "a text model of the architecture llama is none of Glm5NextForConditionalGeneration"),
    ("Gemma-4-Unified-Tiny", "a text model of the architecture llama is none of Gemma4UnifiedForConditionalGeneration"),
    ("PaddleOCR-VL-Tiny", "a text model of the architecture llama is none of PaddleOCRVLForConditionalGeneration"),
    ("Janus-Tiny-Pro-1B", "what it draws with is in no file"),
    ("Qwen2.5-Omni-Tiny-3B", "what it speaks with, and the marks around sound, are in no file"),
    ("gemma-4-Tiny-E2B-audio", "the scales of its encoder of sound went through a softplus"),
    ("granite-speech-Tiny-3.3-2b", "weight, mean and variance of its batch norms became one weight and one bias"),
    ("ultravox-Tiny-v0_5", "its folder holds the encoder alone, the text model is a folder of its own"),
];

/// The fixtures whose tokenizers the folders have: beginnings of their names.
const TOKENIZERS: &[(&str, &str)] = &[
    ("gemma-4", "generated/tokenizers/byte-fallback"),
    ("GLM", "golden/arch/GLM-4-Tiny-0414/hf/GLM-4-Tiny-0414"),
    ("gemma-3", "golden/encoders/embeddinggemma-Tiny-dense/hf/embeddinggemma-Tiny-dense"),
    ("llava-1.5", "golden/encoders/embeddinggemma-Tiny-dense/hf/embeddinggemma-Tiny-dense"),
    ("", "golden/encoders/Qwen2-Embedding-Tiny-gte/hf/Qwen2-Embedding-Tiny-gte"),
];

/// Folders whose tokenizer here has more tokens than their own, and the two numbers.
const LARGER: &[&str] = &["gemma-4", "GLM"];
const SMALL: u64 = 384;
const LARGE: u64 = 512;

/// Configurations that count layers which the folder does not have: a file of its text model would not load.
const COUNTED: &[(&str, &str)] = &[("MiniCPM-V-4.6-Tiny", "/text_config/mtp_num_hidden_layers")];

/// Tensors of folders that no file has and that no model of theirs reads.
const LOST: &[(&str, &[&str])] = &[
    (
        "llava-1.5-Tiny-7b-hf",
        &["vision_tower.vision_model.encoder.layers.2.", "vision_tower.vision_model.post_layernorm."],
    ),
    ("Youtu-VL", &["siglip2.vision_model.head."]),
    (
        "Phi-4-vision",
        &[
            "model.vision_tower.vision_tower.vision_model.encoder.layers.2.",
            "model.vision_tower.vision_tower.vision_model.post_layernorm.",
            "model.vision_tower.vision_tower.vision_model.head.",
        ],
    ),
    ("PaddleOCR-VL", &["visual.vision_model.embeddings.packing_position_embedding.", "visual.vision_model.head."]),
];

/// Tables of positions whose first row is in no file and becomes zeros, since the model has no class token.
const FIRST_ROW: &[&str] = &["vit.embeddings.position_embedding.weight"];

fn converted(folder: &Path, projector: bool) -> gguf::Result<Vec<u8>> {
    let options = Options { outtype: OutType::BF16, any_pre: true, projector, ..Options::default() };
    let checkpoint = Checkpoint::open(folder, &options)?;
    gguf::write::copy(&checkpoint, checkpoint.metadata(), Vec::new(), |_| {})
}

fn by_name(folder: &Path) -> BTreeMap<String, safetensors::Stored> {
    safetensors::open_folder(folder).unwrap().into_iter().map(|t| (t.name().to_owned(), t)).collect()
}

/// The folder with weights of the text model.
fn completed(source: &Path, mut text: Map<String, Value>, folder: &Path) {
    fixtures::copy(source, folder);
    if !folder.join("tokenizer_config.json").is_file() {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let (_, tokenizer) = TOKENIZERS.iter().find(|(own, _)| name.starts_with(own)).unwrap();
        for entry in fs::read_dir(fixtures::path(tokenizer)).unwrap().map(Result::unwrap) {
            if entry.file_name().to_str().unwrap().starts_with("tokenizer") {
                fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
            }
        }
        if LARGER.iter().any(|own| name.starts_with(own)) {
            text.values_mut().filter(|shape| shape[0] == SMALL).for_each(|shape| shape[0] = json!(LARGE));
            let path = folder.join("config.json");
            let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            for (_, value) in config["text_config"].as_object_mut().unwrap().iter_mut().filter(|(_, v)| **v == SMALL) {
                *value = json!(LARGE);
            }
            fs::write(&path, config.to_string()).unwrap();
        }
    }
    let path = folder.join("model.safetensors");
    cases::weights(&path, &text, 1);
    let (mut header, mut data) = (Map::new(), Vec::new());
    let of_text: Vec<safetensors::Stored> = safetensors::open_file(&path).unwrap();
    for tensor in of_text.iter().chain(by_name(source).values()) {
        let start = data.len();
        data.extend(tensor.bytes());
        let place =
            json!({"dtype": tensor.dtype().to_string(), "shape": tensor.shape(), "data_offsets": [start, data.len()]});
        header.insert(tensor.name().to_owned(), place);
    }
    drop(of_text);
    let header = Value::Object(header).to_string();
    fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()).unwrap();
}

/// Whether two tensors of bf16 have the same bytes, or the same values in F16 where the file may have them so: `narrow` are
/// the sizes of its tensors of F16, which convolutions are whatever is asked for.
fn same(a: &safetensors::Stored, b: &safetensors::Stored, narrow: &[u64]) -> bool {
    let halves = |bytes: &[u8]| -> Vec<u16> {
        let values = bytes.as_chunks::<2>().0.iter().map(|v| half::bf16::from_le_bytes(*v).to_f32());
        values.map(|v| half::f16::from_f32(v).to_bits()).collect()
    };
    a.bytes() == b.bytes() || narrow.contains(&a.elements()) && halves(a.bytes()) == halves(b.bytes())
}

fn opened(bytes: &[u8]) -> Arc<gguf::File> {
    Arc::new(gguf::File::from_bytes(bytes.to_vec().into()).unwrap())
}

/// The tensors of the folder that no file has: beginnings of their names.
fn lost_of(name: &str) -> &'static [&'static str] {
    LOST.iter().find(|(own, _)| *own == name).map_or(&[][..], |(_, lost)| lost)
}

/// What differs on the way there and back; an error where there is no way.
fn there_and_back(folder: &Path) -> Result<Vec<String>, String> {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    let class = config["architectures"][0].as_str().map(str::to_owned);
    let projector = converted(folder, true).map_err(|e| e.to_string())?;
    // Where there are no weights of a text model any model serves for the refusal.
    let text = match converted(folder, false) {
        Ok(text) => text,
        Err(e) if REFUSED.iter().all(|(own, _)| *own != name) => return Err(e.to_string()),
        Err(_) => converted(&fixtures::path("models/tiny-llama"), false).map_err(|e| e.to_string())?,
    };
    let options = Back { class, projector: Some(Projector(opened(&projector))), ..Back::default() };
    let plan = Folder::plan(opened(&text), &options).map_err(|e| format!("{e} ({})", e.way_out().unwrap_or("")))?;
    let temporary = tempfile::tempdir().unwrap();
    // The folder's name has a part in the general keys.
    let made = temporary.path().join(name);
    fs::create_dir(&made).unwrap();
    plan.write(&made, &|_| {}).map_err(|e| e.to_string())?;
    let mut faults = Vec::new();
    match plan.check(&made) {
        Ok(differing) => faults.extend(differing),
        Err(e) => faults.push(format!("{e}: {:?}", std::error::Error::source(&e).map(ToString::to_string))),
    }
    let lost = lost_of(name);
    let is_lost = |tensor: &str| lost.iter().any(|part| tensor.starts_with(part));
    let (of, other) = (by_name(folder), by_name(&made));
    let projector_file = opened(&projector);
    let narrow = projector_file.tensors().iter().filter(|t| t.ty() == gguf::TensorType::F16).map(|t| t.elements());
    let narrow: Vec<u64> = narrow.collect();
    for (tensor, a) in of.iter().filter(|(tensor, _)| !is_lost(tensor)) {
        match other.get(tensor) {
            None => faults.push(format!("{tensor} is lost")),
            Some(b) if a.shape() != b.shape() => faults.push(format!("{tensor}: {:?} {:?}", a.shape(), b.shape())),
            Some(b) if FIRST_ROW.contains(&tensor.as_str()) => {
                let row = a.bytes().len() / a.shape()[0] as usize;
                if b.bytes()[..row].iter().any(|byte| *byte != 0) || a.bytes()[row..] != b.bytes()[row..] {
                    faults.push(format!("{tensor} differs"));
                }
            }
            Some(b) if a.dtype() != b.dtype() || !same(a, b, &narrow) => faults.push(format!("{tensor} differs")),
            Some(_) => {}
        }
    }
    faults
        .extend(other.keys().filter(|tensor| !of.contains_key(*tensor)).map(|tensor| format!("{tensor} is too many")));
    for (what, before, is_projector) in [("text", &text, false), ("projector", &projector, true)] {
        match converted(&made, is_projector) {
            Ok(again) if again == *before => {}
            Ok(again) => faults.push(format!("the {what} file differs: {}", different(before, &again))),
            Err(e) => faults.push(format!("the {what} file does not come again: {e}")),
        }
    }
    Ok(faults)
}

/// The first keys that differ.
fn different(of: &[u8], other: &[u8]) -> String {
    let (of, other) = (opened(of), opened(other));
    let keys = of.metadata().iter().filter(|(key, value)| other.metadata().get(key) != Some(*value));
    let mut found: Vec<String> =
        keys.map(|(key, value)| format!("{key} {value:?} {:?}", other.metadata().get(key))).take(4).collect();
    let order = |file: &gguf::File| file.metadata().iter().map(|(key, _)| key.to_owned()).collect::<Vec<_>>();
    if order(&of) != order(&other) {
        found.push("the order of keys".into());
    }
    let tensors = |file: &gguf::File| file.tensors().iter().map(|t| t.name().to_owned()).collect::<Vec<_>>();
    if tensors(&of) != tensors(&other) {
        found.push("the order of tensors".into());
    }
    found.join(", ")
}

/// The folders, complete.
fn folders(temporary: &Path) -> Vec<PathBuf> {
    let only = std::env::var("ONLY").ok();
    let root = std::env::var_os("FOLDERS").map_or_else(|| fixtures::path("golden/mmproj"), PathBuf::from);
    let mut names: Vec<String> = fs::read_dir(root.clone())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| only.as_ref().is_none_or(|only| name.contains(only.as_str())))
        .filter(|name| root.join(name).is_dir())
        .collect();
    names.sort();
    let folder = |name: String| {
        let source = root.join(&name).join("hf").join(&name);
        let text = root.join(&name).join("text.json");
        let text = fs::read(text).map_or(Map::new(), |text| serde_json::from_slice(&text).unwrap());
        let folder = temporary.join(&name);
        completed(&source, text, &folder);
        if let Some((_, counted)) = COUNTED.iter().find(|(own, _)| *own == name) {
            let path = folder.join("config.json");
            let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            *config.pointer_mut(counted).unwrap() = json!(0);
            fs::write(&path, config.to_string()).unwrap();
        }
        folder
    };
    names.into_iter().map(folder).collect()
}

#[test]
fn towers_come_back_with_their_text_model_or_are_refused_by_name() {
    let temporary = tempfile::tempdir().unwrap();
    let (mut wrong, mut came) = (Vec::new(), 0);
    for folder in folders(temporary.path()) {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let refused = REFUSED.iter().find(|(own, _)| *own == name).map(|(_, why)| *why);
        match (there_and_back(&folder), refused) {
            (Ok(faults), None) if faults.is_empty() => came += 1,
            (Ok(faults), _) => {
                wrong.push(format!("{name}: {} faults: {}", faults.len(), faults[..faults.len().min(6)].join("; ")))
            }
            (Err(e), Some(why)) if e.contains(why) => {}
            (Err(e), _) => wrong.push(format!("{name}: {e}")),
        }
    }
    assert!(wrong.is_empty(), "{came} came back, these did not:\n{}", wrong.join("\n"));
    assert!(came > 0 || std::env::var_os("ONLY").is_some());
}

/// Towers of generated cases with text models of other fixtures.
#[test]
fn generated_towers_come_back_with_a_text_model() {
    let only = std::env::var("ONLY").ok();
    let mut cases = fixtures::json("generated/cases.json");
    let cases = cases.as_object_mut().unwrap();
    let back = fixtures::json("generated/back.json");
    cases.extend(back.as_object().unwrap().clone());
    let cases = &*cases;
    let (mut wrong, mut came) = (Vec::new(), BTreeSet::new());
    let asked = |name: &&String| only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    for name in back.as_object().unwrap().keys().filter(asked) {
        if !cases::resolved(cases, name).contains_key("text") {
            continue;
        }
        let case = cases::with_text(cases, name);
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join(name);
        cases::write(&case, &folder);
        match there_and_back(&folder) {
            Ok(faults) if faults.is_empty() => {
                came.insert(case["config"]["architectures"][0].as_str().unwrap().to_owned());
            }
            Ok(faults) => {
                wrong.push(format!("{name}: {} faults: {}", faults.len(), faults[..faults.len().min(6)].join("; ")))
            }
            Err(e) => wrong.push(format!("{name}: {e}")),
        }
    }
    assert!(wrong.is_empty(), "{} came back, these did not:\n{}", came.len(), wrong.join("\n"));
    let golden = fs::read_dir(fixtures::path("golden/mmproj")).unwrap().map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let config = fixtures::json(&format!("golden/mmproj/{name}/hf/{name}/config.json"));
        config["architectures"][0].as_str().unwrap_or_default().to_owned()
    });
    came.extend(golden);
    // Of each class that has a way back something comes back.
    for (class, _, refused) in convert::back::with_towers().filter(|_| only.is_none()) {
        assert!(refused.is_some() || came.contains(class), "{class}");
    }
}
