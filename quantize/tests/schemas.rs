//! The JSON documents of `quantize` are what `docs/schemas` says.

use serde_json::Value;

fn document(schema: &str, words: &[&str]) -> Value {
    fixtures::schema::document(env!("CARGO_BIN_EXE_quantize"), schema, 0, words)
}

#[test]
fn every_form_prints_a_document_of_its_schema() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixtures::path("models/tiny-llama").to_string_lossy().into_owned();
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    document("quantize-types-1", &["--type", "list"]);
    document("quantize-key-1", &[&model, "--type", "q8_0", "--print-cache-key"]);
    document("quantize-1", &[&model, "--type", "q4_k_m", "--dry-run"]);
    let manifest = at("q.json");
    let order = [&model, "--type", "q8_0", "-o", &at("q.gguf"), "--manifest", &manifest];
    document("quantize-1", &order);
    document("quantize-1", &[&order[..], &["--if-changed"]].concat());
    document("quantize-1", &[&model, "--type", "nf4", "-o", &at("nf4")]);
    document("quantize-verify-1", &["verify-build", &manifest, "--source", &model]);
    let parts = at("parts");
    for part in ["1/2", "2/2"] {
        document("quantize-part-1", &[&model, "--type", "q8_0", "--part", part, "-o", &parts]);
    }
    document("quantize-gather-1", &["--gather", &parts, "-o", &at("whole.gguf")]);
    let matrix = fixtures::path("golden/tiny-llama/imatrix.gguf").to_string_lossy().into_owned();
    document("quantize-imatrix-show-1", &["imatrix", "show", &matrix]);
    let converted = document("quantize-imatrix-1", &["imatrix", "convert", &matrix, &at("m.dat")]);
    assert_eq!((&converted["files"], &converted["digests"]["outputs"][0]["path"]), (&1.into(), &at("m.dat").into()));
}
