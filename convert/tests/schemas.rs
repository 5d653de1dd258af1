//! The JSON documents of `convert` are what `docs/schemas` says.

use serde_json::Value;

fn document(schema: &str, words: &[&str]) -> Value {
    fixtures::schema::document(env!("CARGO_BIN_EXE_convert"), schema, 0, words)
}

#[test]
fn every_form_prints_a_document_of_its_schema() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixtures::path("models/tiny-llama").to_string_lossy().into_owned();
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    document("convert-classes-1", &["--list"]);
    document("convert-tokenizer-1", &[&model, "--check-tokenizer"]);
    document("convert-1", &[&model, "--dry-run"]);
    let made = document("convert-1", &[&model, "-o", &at("m.gguf")]);
    let digest = fixtures::sha256(&std::fs::read(at("m.gguf")).unwrap());
    assert_eq!(made["files"]["outputs"][0]["sha256"], digest.as_str());
    assert_eq!(made["options"]["output"], at("m.gguf"));
    // The results stand under `files`, the digests beside them.
    let both = document("convert-1", &[&model, "--all", "--dry-run"]);
    assert!(both["files"].is_array() && both["digests"]["inputs"].is_array());
}

#[test]
fn an_output_s_name_may_have_the_type() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixtures::path("models/tiny-llama").to_string_lossy().into_owned();
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let told = |name: &str, ty: &str| document("convert-1", &[&model, "--dry-run", "--outtype", ty, "-o", &at(name)]);
    assert_eq!(told("m-{ftype}.gguf", "q8_0")["output"], at("m-q8_0.gguf"));
    assert_eq!(told("m-{FTYPE}.gguf", "bf16")["output"], at("m-BF16.gguf"));
    assert_eq!(told("m-{outtype}.gguf", "f16")["output"], at("m-f16.gguf"));
}
