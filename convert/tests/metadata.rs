//! The `general.*` keys and the default name, byte for byte, for every case of `fixtures/golden/metadata.json`.

use std::fs;
use std::path::Path;

use convert::{Checkpoint, Options, OutType};
use gguf::Source;

/// The folder that all cases are copies of.
const ORIGINAL: &str = "golden/arch/Tiny-Llama-2-7B-Chat/hf/Tiny-Llama-2-7B-Chat";

fn copy(to: &Path) {
    fixtures::copy(&fixtures::path(ORIGINAL), to);
}

fn options() -> Options {
    Options { outtype: OutType::BF16, ..Options::default() }
}

#[test]
fn every_case_is_byte_identical() {
    let golden = fixtures::json("golden/metadata.json");
    let temporary = tempfile::tempdir().unwrap();
    for (name, case) in golden["cases"].as_object().unwrap() {
        let folder = temporary.path().join(name);
        copy(&folder);
        if let Some(card) = case["card"].as_str() {
            fs::write(folder.join("README.md"), card).unwrap();
        }
        if case["generation_config"].is_object() {
            fs::write(folder.join("generation_config.json"), case["generation_config"].to_string()).unwrap();
        }
        if !case["error"].is_null() {
            let error = Checkpoint::open(&folder, &options()).unwrap_err();
            assert_eq!(error.path(), Some(folder.join("README.md").as_path()), "{error}");
            let without = Options { skip_model_card: true, ..options() };
            assert!(Checkpoint::open(&folder, &without).is_ok(), "{name}");
            continue;
        }
        let checkpoint = Checkpoint::open(&folder, &options()).unwrap();
        let bytes = gguf::write::copy(&checkpoint, checkpoint.metadata(), Vec::new(), |_| {}).unwrap();
        assert_eq!(fixtures::sha256(&bytes), case["sha256"].as_str().unwrap(), "{name}: {:?}", keys(&checkpoint));
        assert_eq!(checkpoint.file_name(), case["default_name"][0].as_str().unwrap());
    }
}

fn keys(checkpoint: &Checkpoint) -> Vec<String> {
    let general = checkpoint.metadata().iter().filter(|(key, _)| key.starts_with("general."));
    general.map(|(key, value)| format!("{key}={value:?}")).collect()
}

#[test]
fn the_person_has_the_last_word() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("some-model");
    copy(&folder);
    let file = temporary.path().join("override.json");
    fs::write(
        &file,
        r#"{"general.author": "A. Uthor", "general.name": "From file", "general.tags": ["x"],
            "general.base_models": [{"name": "B"}], "general.sampling.top_k": 7}"#,
    )
    .unwrap();
    let options = Options { metadata: Some(file.clone()), model_name: Some("From the line".into()), ..options() };
    let checkpoint = Checkpoint::open(&folder, &options).unwrap();
    let metadata = checkpoint.metadata();
    assert_eq!(metadata.str("general.name"), Some("From the line"));
    assert_eq!(metadata.str("general.author"), Some("A. Uthor"));
    assert_eq!(metadata.str("general.base_model.0.name"), Some("B"));
    assert_eq!(metadata.u64("general.sampling.top_k"), Some(7));
    for wrong in [r#"{"general.nonsense": 1}"#, r#"{"llama.block_count": 1}"#, "[]", "{"] {
        fs::write(&file, wrong).unwrap();
        let error = Checkpoint::open(&folder, &options).unwrap_err();
        assert_eq!(error.path(), Some(file.as_path()), "{wrong}: {error}");
    }
}

/// The keys of a copy of the folder with this `generation_config.json`.
fn generation(text: &str) -> gguf::Result<Checkpoint> {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("model");
    copy(&folder);
    fs::write(folder.join("generation_config.json"), text).unwrap();
    Checkpoint::open(&folder, &options())
}

#[test]
fn samplers_are_numbers_however_python_writes_them() {
    let checkpoint = generation(r#"{"temperature": NaN, "top_k": 20, "top_p": Infinity, "min_p": -Infinity}"#).unwrap();
    let float = |key: &str| match checkpoint.metadata().get(key) {
        Some(gguf::Value::F32(v)) => *v,
        other => panic!("{key}: {other:?}"),
    };
    assert_eq!(checkpoint.metadata().u64("general.sampling.top_k"), Some(20));
    assert!(float("general.sampling.temp").is_nan());
    assert_eq!(float("general.sampling.top_p"), f32::INFINITY);
    assert_eq!(float("general.sampling.min_p"), f32::NEG_INFINITY);
    assert!(checkpoint.notes().iter().any(|n| n.contains("general.sampling.temp is NaN")), "{:?}", checkpoint.notes());

    for (text, expected) in [("50.0", Some(50)), ("5e1", Some(50)), ("50", Some(50)), ("null", None)] {
        let checkpoint = generation(&format!(r#"{{"top_k": {text}}}"#)).unwrap();
        assert_eq!(checkpoint.metadata().u64("general.sampling.top_k"), expected, "{text}");
    }
    for wrong in ["50.5", "\"50\"", "true", "1e300", "NaN", "[50]", "4294967296"] {
        let error = generation(&format!(r#"{{"top_k": {wrong}}}"#)).unwrap_err();
        assert!(error.to_string().contains("general.sampling.top_k is") && error.path().is_some(), "{wrong}: {error}");
    }
    // What is no JSON is left aside, and said.
    let checkpoint = generation("{\"top_k\": 20,").unwrap();
    assert_eq!(checkpoint.metadata().get("general.sampling.top_k"), None);
    assert!(checkpoint.notes().iter().any(|n| n.contains("generation_config.json")));
}

#[test]
fn a_mark_of_byte_order_and_words_of_python_change_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("Tiny-Llama-2-7B-Chat");
    copy(&folder);
    for name in ["config.json", "tokenizer_config.json", "generation_config.json"] {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        let text = text.replacen('{', "\u{feff}{\"initializer_range\": NaN, \"limits\": [0.0, -Infinity],", 1);
        fs::write(folder.join(name), text.replace("\"initializer_range\": 0.02,", "")).unwrap();
    }
    let checkpoint = Checkpoint::open(&folder, &options()).unwrap();
    let bytes = gguf::write::copy(&checkpoint, checkpoint.metadata(), Vec::new(), |_| {}).unwrap();
    let golden = fixtures::json("golden/arch/Tiny-Llama-2-7B-Chat/expected.json");
    assert_eq!(fixtures::sha256(&bytes), golden["files"]["bf16"]);
    // Where a number is needed the word is none.
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    fs::write(folder.join("config.json"), config.replace("\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": NaN")).unwrap();
    let error = Checkpoint::open(&folder, &options()).unwrap_err().to_string();
    assert!(error.contains("rms_norm_eps") && error.contains("NaN"), "{error}");
}

#[test]
fn cards_merge_mappings_and_words_become_titles() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("ß-model-3b");
    copy(&folder);
    let checkpoint = Checkpoint::open(&folder, &options()).unwrap();
    assert_eq!(checkpoint.metadata().str("general.name"), Some("Ss Model 3b"));
    fs::write(folder.join("README.md"), "---\nbase: &b {name: X}\n<<: *b\nauthor: Z\n---\n# x\n").unwrap();
    let checkpoint = Checkpoint::open(&folder, &options()).unwrap();
    assert_eq!(checkpoint.metadata().str("general.name"), Some("X"));
    assert_eq!(checkpoint.metadata().str("general.author"), Some("Z"));
}
