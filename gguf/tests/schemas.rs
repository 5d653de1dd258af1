//! The JSON documents of every command are what `docs/schemas` says.

mod common;

use std::path::Path;

use common::Model;
use common::program::{Folder, gguf};
use serde_json::Value;

/// Runs a command and judges its document, which is of this schema.
fn document(schema: &str, code: i32, words: &[&str]) -> Value {
    let document = fixtures::schema::document(env!("CARGO_BIN_EXE_gguf"), schema, code, words);
    assert_eq!((&document["program"], &document["version"]), (&"gguf".into(), &env!("CARGO_PKG_VERSION").into()));
    document
}

#[test]
fn every_command_prints_a_document_of_its_schema() {
    let folder = Folder::new();
    let at = |name: &str| folder.path(name).to_string_lossy().into_owned();
    let model = folder.with("m.gguf", Model::llama().bytes());
    let m = model.to_string_lossy().into_owned();
    let (copy, first) = (at("copy.gguf"), at("s-00001-of-00002.gguf"));
    document("gguf-show-1", 0, &["show", &m]);
    assert_eq!(document("gguf-show-key-1", 0, &["show", &m, "--key", "general.name"])["general.name"], "Tiny");
    document("gguf-show-memory-1", 0, &["show", &m, "--memory"]);
    document("gguf-check-1", 0, &["check", &m, "--profile", "format"]);
    document("gguf-rules-1", 0, &["check", "--list-rules"]);
    document("gguf-explain-1", 0, &["explain", "tensor-overlap"]);
    let copied = document("gguf-copy-1", 0, &["copy", &m, &copy, "--no-verify"]);
    let digest = fixtures::sha256(&std::fs::read(&copy).unwrap());
    assert_eq!(copied["files"]["outputs"][0]["sha256"], digest.as_str());
    document("gguf-copy-1", 0, &["copy", &m, &at("none.gguf"), "--set", "general.name=x", "--dry-run"]);
    document("gguf-diff-1", 0, &["diff", &m, &copy]);
    document("gguf-set-1", 0, &["set", &copy, "general.name", "Other", "--no-verify"]);
    document("gguf-set-1", 0, &["set", &copy, "general.name", "Third", "--dry-run"]);
    document("gguf-diff-1", 1, &["diff", &m, &copy]);
    document("gguf-rename-1", 0, &["rename", &copy, "general.name", "general.basename", "--no-verify"]);
    document("gguf-remove-1", 0, &["remove", &copy, "general.basename", "--no-verify"]);
    document("gguf-recover-1", 0, &["recover", &m]);
    document("gguf-hash-1", 0, &["hash", &m, "--all"]);
    let lines = common::program::stdout(&gguf(["hash", &m]).code(0));
    let manifest = folder.with("manifest", lines).to_string_lossy().into_owned();
    document("gguf-hash-1", 0, &["hash", &m, "--check", &manifest]);
    document("gguf-split-1", 0, &["split", &m, &at("s"), "--split-max-tensors", "8", "--no-verify"]);
    document("gguf-merge-1", 0, &["merge", &first, &at("merged.gguf"), "--no-verify"]);
    document("gguf-dump-1", 0, &["dump", &m, "token_embd.weight", "-o", &at("t.npy")]);
    document("gguf-modelfile-1", 0, &["modelfile", &m, "-o", &at("Modelfile")]);
    assert!(Path::new(&at("Modelfile")).exists());
}

#[test]
fn with_progress_json_the_document_is_the_last_line() {
    let folder = Folder::new();
    let model = folder.with("m.gguf", Model::llama().bytes()).to_string_lossy().into_owned();
    let out = common::program::stdout(&gguf(["hash", &model, "--progress", "json"]).code(0));
    let last: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["schema"]), (&"result".into(), &"gguf-hash-1".into()));
    assert_eq!(fixtures::schema::faults(&last), [""; 0]);
}
