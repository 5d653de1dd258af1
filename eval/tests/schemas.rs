//! The JSON documents of `evaluate` are what `docs/schemas` says.

use serde_json::Value;

fn document(schema: &str, words: &[&str]) -> Value {
    fixtures::schema::document(env!("CARGO_BIN_EXE_evaluate"), schema, 0, words)
}

#[test]
fn every_command_prints_a_document_of_its_schema() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixtures::path("models/tiny-llama").to_string_lossy().into_owned();
    let sample = fixtures::path("models/tiny-llama/sample.txt").to_string_lossy().into_owned();
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let text = ["--text", &sample, "--ctx", "32", "--chunks", "2"];
    let with = |words: &[&str]| -> Vec<String> { words.iter().chain(&text).map(|w| (*w).to_owned()).collect() };
    let run = |schema: &str, words: &[&str]| {
        let words = with(words);
        document(schema, &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    run("evaluate-perplexity-1", &["perplexity", &model]);
    let page = at("page.html");
    let compared =
        run("evaluate-compare-1", &["compare", &model, "--types", "q8_0", "--max-kld", "9", "--html", &page]);
    let digest = fixtures::sha256(&std::fs::read(&page).unwrap());
    assert_eq!(compared["files"]["outputs"][0]["sha256"], digest.as_str());
    let second = format!("other={sample}");
    run("evaluate-compare-1", &["compare", &model, "--types", "q8_0", "--text", &second]);
    run("evaluate-part-1", &["perplexity", &model, "--part", "1/2", "-o", &at("parts")]);
    run("evaluate-imatrix-1", &["imatrix", &model, "-o", &at("imatrix.gguf")]);
    document("evaluate-tensors-1", &["tensors", &model, "--types", "q8_0", "--top", "3"]);
    document("evaluate-generate-1", &["generate", &model, "--prompt", "The", "-n", "3"]);
    document("evaluate-logits-1", &["logits", &model, "--tokens", "1,2", "-o", &at("l.f32")]);
    document("evaluate-tokenize-1", &["tokenize", &model, "--text", &sample]);
    let questions = at("questions.jsonl");
    std::fs::write(&questions, "{\"question\": \"The\", \"choices\": [\" cat\", \" dog\"], \"answer\": 0}\n").unwrap();
    let words = ["choices", &model, "--type", "q4_0", "--file", &questions, "--format", "multiple-choice"];
    document("evaluate-choices-1", &words);
    document("evaluate-embed-1", &["embed", &model, "--tokens", "1,2,3", "--pooling", "mean"]);
}
