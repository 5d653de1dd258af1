//! The `general.*` keys and the default name, byte for byte, for every case of `fixtures/golden/metadata.json`.

use std::fs;
use std::path::Path;

use convert::{Checkpoint, Options, OutType};
use gguf::Source;

/// The folder that all cases are copies of.
const ORIGINAL: &str = "golden/arch/Tiny-Llama-2-7B-Chat/hf/Tiny-Llama-2-7B-Chat";

fn copy(to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(fixtures::path(ORIGINAL)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
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
