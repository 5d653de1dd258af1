//! `evaluate embed`, and `evaluate compare` of embedding models and rerankers, through the real binary.

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;

fn evaluate(folder: &Path, args: &[&str]) -> Output {
    Command::cargo_bin("evaluate").unwrap().current_dir(folder).args(args).output().unwrap()
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(folder: &Path, args: &[&str]) -> Value {
    let output = evaluate(folder, &[args, &["--json", "--quiet"]].concat());
    assert!(output.status.success(), "{args:?}: {}", said(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(folder: &Path, code: i32, args: &[&str]) -> String {
    let output = evaluate(folder, args);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", said(&output.stderr));
    said(&output.stderr)
}

/// A file of the model that needs no pre-tokenizer told by hand.
fn file(folder: &Path, name: &str) -> String {
    let golden = fixtures::json(&format!("golden/encoders/{name}/expected.json"));
    let pre = golden["pre"].as_str().filter(|p| !p.is_empty()).map(str::to_owned);
    let from = fixtures::path(&format!("golden/encoders/{name}/hf/{name}"));
    let source = convert::Checkpoint::open(&from, &convert::Options { pre, ..convert::Options::default() }).unwrap();
    let path: PathBuf = folder.join(format!("{name}.gguf"));
    let bytes = gguf::write::copy(&source, gguf::Source::metadata(&source), Vec::new(), |_| {}).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path.to_string_lossy().into_owned()
}

/// Texts, a line each.
fn texts(count: usize) -> String {
    (0..count).map(|i| format!("text {i} of {} words, {}\n", i % 7, "abc ".repeat(1 + i % 5))).collect()
}

#[test]
fn vectors_come_with_their_cosines() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let model = file(folder, "bge-m3-Tiny");
    std::fs::write(folder.join("a.txt"), "one text\n\nanother text\none text\n").unwrap();
    let found = json(folder, &["embed", &model, "--text", "a.txt", "-o", "a.f32"]);
    assert_eq!((&found["pooling"], &found["dimensions"]), (&"cls".into(), &48.into()));
    let rows = found["texts"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[1]["text"]), (3, &"another text".into()));
    let cosine = |i: usize, j: usize| found["cosine"][i][j].as_f64().unwrap();
    assert!((cosine(0, 2) - 1.0).abs() < 1e-6 && (cosine(0, 1) - cosine(1, 0)).abs() < 1e-12);
    let length: f64 = rows[0]["vector"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap().powi(2)).sum();
    assert!((length - 1.0).abs() < 1e-5);
    assert_eq!(std::fs::read(folder.join("a.f32")).unwrap().len(), 3 * 48 * 4);
    // JSON lines are the same texts under names.
    std::fs::write(folder.join("a.jsonl"), "{\"id\": \"x\", \"text\": \"one text\"}\n\"another text\"\n").unwrap();
    let named = json(folder, &["embed", &model, "--text", "a.jsonl"]);
    assert_eq!((&named["texts"][0]["id"], &named["texts"][0]["vector"]), (&"x".into(), &rows[0]["vector"]));
    let table = evaluate(folder, &["embed", &model, "--text", "a.txt", "--quiet"]);
    assert!(said(&table.stdout).contains("1.0000"));
    // A decoder that says nothing of pooling asks for it.
    let decoder = fixtures::path("models/tiny-llama").to_string_lossy().into_owned();
    assert!(refused(folder, 3, &["embed", &decoder, "--text", "a.txt"]).contains("--pooling"));
    assert_eq!(json(folder, &["embed", &decoder, "--text", "a.txt", "--pooling", "last"])["pooling"], "last");
    std::fs::write(folder.join("empty.txt"), "\n \n").unwrap();
    refused(folder, 3, &["embed", &model, "--text", "empty.txt"]);
    std::fs::write(folder.join("bad.jsonl"), "\"a\"\n{\"x\": 1}\n").unwrap();
    assert!(refused(folder, 3, &["embed", &model, "--text", "bad.jsonl"]).contains("line 2"));
}

#[test]
fn rerankers_score_pairs_and_say_where_llama_cpp_departs() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    std::fs::write(folder.join("p.txt"), "a query\ta document\na query\tanother one\n").unwrap();
    let model = file(folder, "bge-reranker-Tiny-m3");
    let found = json(folder, &["embed", &model, "--text", "p.txt"]);
    assert_eq!(found["labels"], serde_json::json!(["LABEL_0"]));
    assert_eq!(found["texts"][1]["document"], "another one");
    assert!(found["texts"][0]["scores"]["LABEL_0"].is_number());
    let labels = file(folder, "bert-Tiny-nli-3labels");
    let output = evaluate(folder, &["embed", &labels, "--text", "p.txt"]);
    assert!(said(&output.stdout).contains("contradiction"));
    assert!(said(&output.stderr).contains("llama.cpp computes something else"));
}

#[test]
fn the_loss_of_an_embedding_model_is_shown_and_judged() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let model = file(folder, "bge-m3-Tiny");
    std::fs::write(folder.join("t.txt"), texts(30)).unwrap();
    let args = ["compare", &model, &model, "--types", "q8_0,q4_0", "--text", "t.txt"];
    let report = json(folder, &[&args[..], &["--html", "page.html"]].concat());
    let of = |i: usize, what: &str| report["models"][i]["similarity"][what]["value"].as_f64().unwrap();
    for what in ["cosine", "rank_correlation", "overlap"] {
        assert!((of(0, what) - 1.0).abs() < 1e-9, "{what}");
        assert!(of(2, what) <= 1.0 + 1e-9, "{what}");
    }
    assert_eq!(report["models"][2]["similarity"]["nearest"], 10);
    assert!(std::fs::read_to_string(folder.join("page.html")).unwrap().ends_with("</html>\n"));
    let gate = |limits: &[&str], code: i32| {
        let output = evaluate(folder, &[&args[..3], &["--text", "t.txt", "--quiet"], limits].concat());
        assert_eq!(output.status.code(), Some(code), "{limits:?}: {}", said(&output.stderr));
    };
    gate(&["--min-cosine", "0.5", "--min-overlap", "10%"], 0);
    gate(&["--types", "q4_0", "--min-cosine", "1"], 1);
    // Nothing would ever pass.
    gate(&["--min-overlap", "101%"], 2);
    gate(&["--max-kld", "0.1"], 2);
    let csv = evaluate(folder, &[&args[..], &["--csv", "--quiet"]].concat());
    assert_eq!(said(&csv.stdout).lines().count(), 4);
    // Several files of texts: each has its figures and limits, and is what it is alone.
    std::fs::write(folder.join("u.txt"), texts(25).replace("text", "word")).unwrap();
    let two = ["compare", &model, "--types", "q4_0", "--text", "t.txt", "--text", "other=u.txt"];
    let both = json(folder, &[&two[..], &["--html", "two.html"]].concat());
    assert_eq!(
        (both["protocol"]["text"].as_str(), both["protocol"]["texts"].as_u64()),
        (Some("t.txt, other"), Some(55))
    );
    for (i, name, path, count) in [(0, "t.txt", "t.txt", 30), (1, "other", "u.txt", 25)] {
        let alone = json(folder, &["compare", &model, "--types", "q4_0", "--text", path]);
        let on = &both["texts"][i];
        assert_eq!((on["protocol"]["text"].as_str(), on["protocol"]["texts"].as_u64()), (Some(name), Some(count)));
        assert_eq!(on["protocol"]["text_sha256"], alone["protocol"]["text_sha256"]);
        assert_eq!(on["models"][0]["similarity"], alone["models"][0]["similarity"]);
    }
    assert!(std::fs::read_to_string(folder.join("two.html")).unwrap().contains("<h3>other</h3>"));
    let csv = evaluate(folder, &[&two[..], &["--csv", "--quiet"]].concat());
    assert_eq!(said(&csv.stdout).lines().filter(|line| line.ends_with(",other")).count(), 1);
    std::fs::write(folder.join("gate.toml"), "[[limits]]\ntexts = [\"other\"]\nmin-cosine = 0.5\n").unwrap();
    let judged = |limits: &[&str]| -> Vec<String> {
        let report = json(folder, &[&two[..], limits].concat());
        let name = |verdict: &serde_json::Value| verdict["text"].as_str().unwrap().to_owned();
        report["gate"].as_array().unwrap().iter().map(name).collect()
    };
    assert_eq!(judged(&["--gate", "gate.toml"]), ["other"]);
    assert_eq!(judged(&["--min-cosine", "0.5"]), ["t.txt", "other"]);
    assert!(refused(folder, 2, &["compare", &model, "--types", "q4_0", "--prompt", "a"]).contains("--prompt"));
    // Scores have a table of their own.
    let reranker = file(folder, "bge-reranker-Tiny-m3");
    let report = json(folder, &["compare", &reranker, "--types", "q8_0", "--text", "t.txt"]);
    assert!(report["models"][0]["scores"]["change"]["value"].as_f64().unwrap() >= 0.0);
    refused(folder, 2, &["compare", &reranker, "--types", "q8_0", "--text", "t.txt", "--min-cosine", "0.9"]);
}
