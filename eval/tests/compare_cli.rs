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
    approx::assert_relative_eq!(kld(&run), kld(&saved), max_relative = 1e-9);
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
    for types in ["q8_0,nf4,q8_0", "q4_k,q4_k_m"] {
        let said = refused(p.folder.path(), 2, &["compare", &p.model, "--types", types, "--text", &p.sample]);
        assert!(said.contains("twice for the same"), "{said}");
    }
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
    // By single rows as by whole matrices, also where scales share their mean.
    let types = ["tensors", &p.model, &p.model, "--type", "q4_k_m,nf4,nf4-double,int8"];
    let whole = json(p.folder.path(), &types);
    let rows = json(p.folder.path(), &[&types[..], &["--max-memory", "1"]].concat());
    for (a, b) in whole["models"].as_array().unwrap().iter().zip(rows["models"].as_array().unwrap()) {
        assert_eq!(a["name"], b["name"]);
        let of = |model: &serde_json::Value| model["tensors"].as_array().unwrap().clone();
        assert_eq!(of(a).len(), of(b).len());
        for (a, b) in of(a).iter().zip(&of(b)) {
            assert_eq!((&a["name"], &a["type"], &a["max"]), (&b["name"], &b["type"], &b["max"]));
            let (a, b) = (a["rmse"].as_f64().unwrap(), b["rmse"].as_f64().unwrap());
            assert!((a - b).abs() <= 1e-12 * a, "{a} {b}");
        }
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

#[test]
fn several_texts_in_one_run_are_each_alone() {
    let p = place();
    let at = p.folder.path();
    std::fs::write(at.join("other.txt"), fixtures::bytes("models/tiny-llama/calibration.txt")).unwrap();
    let wiki = format!("wiki={}", p.sample);
    let both = ["--text", &wiki, "--text", "code=other.txt"];
    let cut = ["--ctx", "64", "--chunks", "2"];
    let compare = ["compare", &p.model, "--types", "q4_k_m"];
    let report = json(at, &[&compare[..], &both, &cut].concat());
    let alone = |text: &str| json(at, &[&compare[..], &["--text", text], &cut].concat());
    for (i, alone) in [alone(&p.sample), alone("other.txt")].iter().enumerate() {
        let on = &report["texts"][i];
        assert_eq!(on["protocol"]["text"], ["wiki", "code"][i]);
        assert_eq!(on["base"]["ppl"], alone["base"]["ppl"]);
        assert_eq!(on["models"][0]["divergence"], alone["models"][0]["divergence"]);
        assert!(alone.get("texts").is_none());
    }
    assert_eq!((&report["protocol"]["text"], &report["protocol"]["chunks"]), (&"wiki, code".into(), &4.into()));
    let csv = evaluate(at, &[&compare[..], &both, &cut, &["--csv", "-q"]].concat());
    assert!(text(&csv.stdout).lines().nth(2).unwrap().ends_with(",code"), "{}", text(&csv.stdout));
    // Limits are those of each text.
    let rules = "[[limits]]\ntexts = \"wiki\"\nmax-kld = 1\n[[limits]]\ntexts = \"code\"\nmax-kld = 1e-9\n";
    std::fs::write(at.join("gate.toml"), rules).unwrap();
    let said = refused(at, 1, &[&compare[..], &both, &cut, &["--gate", "gate.toml", "--html", "page.html"]].concat());
    assert!(said.contains("gate: Q4_K_M on code: ") && !said.contains("on wiki"), "{said}");
    let page = std::fs::read_to_string(at.join("page.html")).unwrap();
    assert!(page.contains("Text by text") && page.contains("<h3>code</h3>"));
    // Parts of the run come to the same.
    for part in ["1/2", "2/2"] {
        evaluate(at, &[&compare[..], &both, &cut, &["--part", part, "-o", "parts"]].concat());
    }
    let gathered = json(at, &["gather", "parts"]);
    assert_eq!(gathered["texts"][1]["models"], report["texts"][1]["models"]);
    let ppl = json(at, &[&["perplexity", &p.model], &both[..], &cut].concat());
    assert_eq!(ppl["texts"][1]["mean_nll"], report["texts"][1]["base"]["mean_nll"]["value"]);
    let same = refused(at, 2, &["compare", &p.model, "--text", &p.sample, "--text", &p.sample]);
    assert!(same.contains("two texts are called \"sample.txt\""), "{same}");
}

#[test]
fn a_text_may_come_from_standard_input_or_the_command_line() {
    let p = place();
    let words = fixtures::bytes("models/tiny-llama/calibration.txt")[..1500].to_vec();
    let words = String::from_utf8(words).unwrap();
    let args = ["perplexity", &p.model, "--ctx", "64", "--chunks", "1", "--json", "-q"];
    let value = |more: &[&str]| -> Value {
        let mut command = Command::cargo_bin("evaluate").unwrap();
        let output = command.args(args).args(more).write_stdin(words.clone()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["mean_nll"].clone()
    };
    assert_eq!(value(&["--text", "-"]), value(&["--prompt", &words]));
}

#[test]
fn a_saved_base_needs_no_base() {
    let p = place();
    let at = p.folder.path();
    let text = ["--text", &p.sample, "--ctx", "64", "--chunks", "2"];
    // The same weights, turned by another base: something to measure.
    let source = convert::open(Path::new(&p.model), &convert::Options::default()).unwrap();
    let mut metadata = source.metadata().clone();
    metadata.set("llama.rope.freq_base", 20_000_f32);
    let bytes = gguf::write::copy(source.as_ref(), &metadata, Vec::new(), |_| ()).unwrap();
    std::fs::write(at.join("turned.gguf"), bytes).unwrap();
    let model = "turned.gguf";
    let kld = |report: &Value| report["models"][0]["divergence"]["kld"]["value"].as_f64().unwrap();
    let whole =
        json(at, &[&["compare", &p.model, model, "--save-base", "base.gguf", "--card", "card.md"], &text[..]].concat());
    for base in ["base.gguf", "base.kld"] {
        if base.ends_with("kld") {
            evaluate(at, &[&["compare", &p.model, "--types", "q8_0", "--save-base", base, "-q"], &text[..]].concat());
        }
        let alone = json(at, &[&["compare", model, "--base-from", base], &text[..]].concat());
        // The states of the own form are exact, the probabilities of llama-perplexity's are 16 bits.
        let error = if base.ends_with("kld") { 2e-3 } else { 1e-9 };
        approx::assert_relative_eq!(kld(&alone), kld(&whole), max_relative = error);
        assert_eq!(alone["models"].as_array().map(Vec::len), Some(1));
        // Several models, none of which is the base.
        let two = json(at, &[&["compare", model, model, "--base-from", base, "--no-base"], &text[..]].concat());
        assert_eq!((two["models"].as_array().map(Vec::len), kld(&two)), (Some(2), kld(&alone)));
    }
    let alone = json(at, &[&["compare", model, "--base-from", "base.gguf"], &text[..]].concat());
    assert_eq!(alone["base"]["name"], whole["base"]["name"]);
    assert_eq!(alone["base"]["bytes"], whole["base"]["bytes"]);
    let card = std::fs::read_to_string(at.join("card.md")).unwrap();
    let command = "evaluate compare tiny-llama turned.gguf --text sample.txt --ctx 64 --chunks 2\n";
    assert!(card.contains(command) && card.contains("| model |"), "{card}");
    let folder = p.folder.path().to_string_lossy().into_owned();
    assert!(!card.contains(&folder));
    let wide = evaluate(
        at,
        &[&["compare", &p.model, "--types", "int8", "--wide", "-q", "--threads", "1"], &text[..]].concat(),
    );
    let wide = self::text(&wide.stdout);
    assert!(wide.contains("maximum KLD") && wide.contains("INT8: 8.1"), "{wide}");
}

#[test]
fn an_importance_matrix_is_written_on_the_way() {
    let p = place();
    let at = p.folder.path();
    let run = |more: &[&str]| {
        let args = ["imatrix", &p.model, "--text", &p.sample, "--ctx", "32", "-q"];
        let output = evaluate(at, &[&args[..], more].concat());
        assert!(output.status.success(), "{more:?}: {}", text(&output.stderr));
    };
    run(&["--chunks", "3", "-o", "a.gguf", "--output-frequency", "1", "--save-frequency", "2"]);
    run(&["--chunks", "2", "-o", "b.gguf"]);
    run(&["--chunks", "3", "-o", "c.gguf"]);
    let bytes = |name: &str| std::fs::read(at.join(name)).unwrap();
    assert!(bytes("a.gguf.at_2") == bytes("b.gguf") && bytes("a.gguf") == bytes("c.gguf"));
    // What is left out at the beginning and what is seen add up to all.
    run(&["--chunks", "1", "--from-chunk", "2", "-o", "rest.gguf"]);
    let rest = bytes("rest.gguf");
    assert!(rest.len() == bytes("b.gguf").len() && rest != bytes("b.gguf"));
}

#[test]
fn tokens_of_a_text_are_printed() {
    let p = place();
    let at = p.folder.path();
    let ids = |more: &[&str]| {
        let output = evaluate(at, &[&["tokenize", &p.model, "--ids"], more].concat());
        text(&output.stdout).trim().split(',').map(|id| id.parse::<u32>().unwrap()).collect::<Vec<_>>()
    };
    let all = ids(&["--prompt", "The old man"]);
    assert_eq!(ids(&["--prompt", "The old man", "--no-bos"]), all[1..]);
    assert_eq!(ids(&["--prompt", "</s>", "--no-bos", "--parse-special"]), [2]);
    let told = json(at, &["tokenize", &p.model, "--prompt", "The old man"]);
    assert_eq!((&told["count"], &told["tokens"][0]["piece"]), (&all.len().into(), &"<s>".into()));
}
