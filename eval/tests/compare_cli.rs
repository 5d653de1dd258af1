//! `evaluate compare`, `tensors` and `imatrix` through the real binary.

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use convert::packed::bnb::Code;
use quantize::bnb::{Form, Options, Storage, write};
use serde_json::Value;

fn evaluate(folder: &Path, args: &[&str]) -> Output {
    Command::cargo_bin("evaluate").unwrap().current_dir(folder).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that must succeed and gives its JSON.
fn json(folder: &Path, args: &[&str]) -> Value {
    let output = evaluate(folder, &[args, &["--json", "--quiet"]].concat());
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs a command that must fail with this code and gives what it says.
fn refused(folder: &Path, code: i32, args: &[&str]) -> String {
    let output = evaluate(folder, args);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
    text(&output.stderr)
}

struct Place {
    folder: tempfile::TempDir,
    model: String,
    sample: String,
}

fn place() -> Place {
    let model = fixtures::path("models/tiny-llama");
    let sample = model.join("sample.txt");
    let owned = |p: PathBuf| p.to_string_lossy().into_owned();
    Place { folder: tempfile::tempdir().unwrap(), model: owned(model), sample: owned(sample) }
}

#[test]
fn the_report_comes_in_every_form() {
    let p = place();
    let args = ["compare", &p.model, "--types", "q8_0,nf4", "--text", &p.sample, "--chunks", "2"];
    let report = json(p.folder.path(), &[&args[..], &["--html", "page.html"]].concat());
    assert_eq!(report["protocol"]["positions"], 510);
    assert_eq!(report["models"][1]["name"], "NF4");
    let kld = |i: usize| report["models"][i]["divergence"]["kld"]["value"].as_f64().unwrap();
    assert!(kld(0) > 0.0 && kld(0) < kld(1), "{} {}", kld(0), kld(1));
    assert_eq!(report["models"][0]["tensors"].as_array().unwrap().len(), 30);
    let page = std::fs::read_to_string(p.folder.path().join("page.html")).unwrap();
    assert!(page.contains("NF4") && page.ends_with("</html>\n"));
    let csv = evaluate(p.folder.path(), &[&args[..], &["--csv", "--quiet"]].concat());
    assert_eq!(text(&csv.stdout).lines().count(), 3);
    let markdown = evaluate(p.folder.path(), &[&args[..], &["--markdown", "--quiet"]].concat());
    assert!(text(&markdown.stdout).starts_with("| model |"));
    let exists = refused(p.folder.path(), 2, &[&args[..], &["--html", "page.html"]].concat());
    assert!(exists.contains("--force"), "{exists}");
}

#[test]
fn packed_folders_have_the_size_and_the_values_that_they_store() {
    let p = place();
    for (form, name) in [
        (Form::Int8 { threshold: 6.0 }, "int8"),
        (Form::FourBit { code: Code::Nf4, block: 64, double: false, storage: Storage::Uint8 }, "nf4"),
        (Form::FourBit { code: Code::Fp4, block: 64, double: true, storage: Storage::Uint8 }, "fp4-double"),
    ] {
        let packed = p.folder.path().join(name);
        write(p.model.as_ref(), &packed, &Options::new(form), &|_| {}).unwrap();
        let tensors = convert::safetensors::open_folder(&packed).unwrap();
        let stored: usize = tensors.iter().map(|tensor| tensor.bytes().len()).sum();
        let args = ["compare", &p.model, name, "--types", name, "--text", &p.sample, "--ctx", "64", "--chunks", "1"];
        let report = json(p.folder.path(), &args);
        let [folder, memory] = [0, 1].map(|i| &report["models"][i]);
        assert_eq!(folder["bytes"], stored, "{name}");
        let bits = folder["bits_per_weight"].as_f64().unwrap();
        let elements = report["base"]["parameters"].as_f64().unwrap();
        assert!((bits - 8.0 * stored as f64 / elements).abs() < 1e-9, "{name}: {bits}");
        // The norms are stored in 16 bits and computed in 32; the state of each matrix is text beside it.
        let encoded = memory["bits_per_weight"].as_f64().unwrap();
        assert!((bits / encoded - 1.0).abs() < 0.01, "{name}: {bits} {encoded}");
        // Not a bit is lost to a narrower type: what is encoded in memory from the base is what the folder holds.
        assert_eq!(folder["divergence"]["kld"], memory["divergence"]["kld"], "{name}");
        // As a base too.
        let report =
            json(p.folder.path(), &["compare", name, &p.model, "--text", &p.sample, "--ctx", "64", "--chunks", "1"]);
        assert_eq!(report["base"]["bytes"], stored, "{name}");
    }
}

#[test]
fn the_gate_says_no_with_a_sentence_and_a_file() {
    let p = place();
    let args = ["compare", &p.model, "--types", "q2_k", "--text", &p.sample, "--chunks", "1", "--quiet"];
    let limits = ["--max-kld", "0.01", "--min-same-top", "10%", "--junit", "gate.xml", "--github"];
    let output = evaluate(p.folder.path(), &[&args[..], &limits].concat());
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("gate: Q2_K: mean KL divergence is"), "{said}");
    assert!(said.contains("::error title=evaluate max-kld::"), "{said}");
    assert!(!said.contains("same top token"), "what holds needs no word: {said}");
    let junit = std::fs::read_to_string(p.folder.path().join("gate.xml")).unwrap();
    assert!(junit.contains("tests=\"2\" failures=\"1\""), "{junit}");
    let output = evaluate(p.folder.path(), &[&args[..], &["--max-kld", "10", "--confidence", "99%"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn a_gate_file_judges_by_type_and_text() {
    let p = place();
    let at = p.folder.path();
    let rules = "[[limits]]\ntypes = \"q8_0\"\ntexts = \"sample\"\nmax-kld = 0.001\nmax-kld-99 = 0.01\n\
        [[limits]]\ntypes = [\"nf4\", \"q2_k\"]\nmax-kld = 1e-9\n";
    std::fs::write(at.join("gate.toml"), rules).unwrap();
    let args =
        ["compare", &p.model, "--types", "q8_0,nf4", "--text", &p.sample, "--chunks", "2", "--gate", "gate.toml"];
    let output = evaluate(at, &[&args[..], &["--json", "--sarif", "gate.sarif"]].concat());
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("note: gate.toml has limits for model \"q2_k\"") && said.contains("gate: NF4: "), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let held = |i: usize| report["gate"][i]["holds"].as_bool().unwrap();
    assert_eq!((held(0), held(1), held(2)), (true, true, false));
    let log: Value = serde_json::from_slice(&std::fs::read(at.join("gate.sarif")).unwrap()).unwrap();
    let results = log["runs"][0]["results"].as_array().unwrap();
    assert_eq!(results.len(), 1);
    let place = &results[0]["locations"][0]["physicalLocation"];
    assert_eq!((&place["artifactLocation"]["uri"], &place["region"]["startLine"]), (&"gate.toml".into(), &1.into()));
    // An option goes before the file; limits of nothing that is measured pass for none.
    assert!(evaluate(at, &[&args[..], &["--max-kld", "1"]].concat()).status.success());
    std::fs::write(at.join("gate.toml"), "[[limits]]\ntypes = \"q9\"\nmax-kld = 1\n").unwrap();
    assert!(refused(at, 3, &args).contains("has no limit for what is measured here"));
    std::fs::write(at.join("gate.toml"), "[[limits]]\nmax-klt = 1\n").unwrap();
    assert!(refused(at, 3, &args).contains("max-klt is no limit"));
}

#[test]
fn a_saved_base_stands_for_the_base_and_for_nothing_else() {
    let p = place();
    let args = ["compare", &p.model, "--types", "q4_k_m", "--text", &p.sample, "--chunks", "2"];
    let run = json(p.folder.path(), &[&args[..], &["--save-base", "base.gguf"]].concat());
    let saved = json(p.folder.path(), &[&args[..], &["--base-from", "base.gguf"]].concat());
    let kld = |report: &Value| report["models"][0]["divergence"]["kld"]["value"].as_f64().unwrap();
    approx::assert_relative_eq!(kld(&run), kld(&saved), max_relative = 1e-3);
    let other = p.folder.path().join("other.txt");
    std::fs::write(&other, fixtures::bytes("models/tiny-llama/calibration.txt")).unwrap();
    let other = other.to_string_lossy();
    let said = refused(
        p.folder.path(),
        3,
        &["compare", &p.model, "--types", "q4_k_m", "--text", &other, "--chunks", "2", "--base-from", "base.gguf"],
    );
    assert!(said.contains("another text"), "{said}");
    let said = refused(p.folder.path(), 3, &[&args[..], &["--ctx", "256", "--base-from", "base.gguf"]].concat());
    assert!(said.contains("another cut"), "{said}");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let p = place();
    let stranger = fixtures::path("golden/arch/Mistral-Tiny-v0.1/hf/Mistral-Tiny-v0.1");
    let stranger = stranger.to_string_lossy();
    let said = refused(p.folder.path(), 3, &["compare", &p.model, &stranger, "--text", &p.sample]);
    assert!(said.contains("vocabulary of 512"), "{said}");
    std::fs::write(p.folder.path().join("short.txt"), "A few words.").unwrap();
    let said = refused(p.folder.path(), 3, &["compare", &p.model, "--text", "short.txt"]);
    assert!(said.contains("short.txt") && said.contains("512"), "{said}");
    let few = ["--ctx", "64", "--chunks", "1", "--max-kld", "1", "--confidence", "95%"];
    let said = refused(p.folder.path(), 3, &[&["compare", &p.model, "--text", &p.sample][..], &few].concat());
    assert!(said.contains("too few"), "{said}");
    let said = refused(p.folder.path(), 2, &["compare", &p.model, "--text", &p.sample, "--confidence", "95%"]);
    assert!(said.contains("--max-kld"), "{said}");
    let said = refused(p.folder.path(), 2, &["compare", &p.model, "--types", "iq1_s", "--text", &p.sample]);
    assert!(said.contains("importance"), "{said}");
}

#[test]
fn tensors_are_sorted_by_harm() {
    let p = place();
    let found = json(p.folder.path(), &["tensors", &p.model, "--types", "q4_k_m,int8"]);
    for model in found["models"].as_array().unwrap() {
        let snr: Vec<f64> =
            model["tensors"].as_array().unwrap().iter().map(|t| t["snr_db"].as_f64().unwrap()).collect();
        assert!(snr.len() >= 28 && snr.windows(2).all(|w| w[0] <= w[1]), "{snr:?}");
    }
    let same = json(p.folder.path(), &["tensors", &p.model, &p.model]);
    assert_eq!(same["models"][0]["tensors"], serde_json::json!([]));
}

#[test]
fn the_importance_matrix_is_that_of_the_reference() {
    let p = place();
    let calibration = fixtures::path("models/tiny-llama/calibration.txt");
    let calibration = calibration.to_string_lossy();
    let args = ["imatrix", &p.model, "--text", &calibration, "--chunks", "24"];
    let told = json(p.folder.path(), &[&args[..], &["-o", "ours.gguf"]].concat());
    assert_eq!(told["entries"], 28);
    let open = |path: &Path| quantize::imatrix::Imatrix::open(path).unwrap();
    let ours = open(&p.folder.path().join("ours.gguf"));
    let golden = open(&fixtures::path("golden/tiny-llama/imatrix.gguf"));
    assert_eq!((ours.chunks, ours.chunk_size, &ours.datasets), (24, 512, &golden.datasets));
    assert!(ours.entries.keys().eq(golden.entries.keys()));
    for (name, golden) in &golden.entries {
        let ours = &ours.entries[name];
        assert_eq!(ours.counts, golden.counts, "{name}");
        let sum = |v: &[f32]| v.iter().map(|&x| f64::from(x)).sum::<f64>();
        // The reference multiplies with activations rounded to bf16, so single columns of little weight differ more
        // than the bound; as a whole each tensor keeps it.
        let difference: f64 = ours.sums.iter().zip(&golden.sums).map(|(a, b)| f64::from((a - b).abs())).sum();
        assert!(difference <= 1e-3 * sum(&golden.sums), "{name}: {difference} of {}", sum(&golden.sums));
    }
    let told = json(p.folder.path(), &[&args[..], &["-o", "ours.dat", "--format", "dat"]].concat());
    assert_eq!(told["entries"], 28);
    assert_eq!(open(&p.folder.path().join("ours.dat")).entries.len(), 28);
}
