//! The stories of `docs/stories` that end with files, as the scripts are, by the real binaries; and what a manifest holds.
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value as Json;

/// The folder of the finished programs. `gguf` and `convert` are built with the workspace; alone, what needs them is left
/// to CI.
fn programs() -> PathBuf {
    assert_cmd::cargo::cargo_bin("quantize").parent().unwrap().to_path_buf()
}

fn tiny() -> String {
    fixtures::path("models/tiny-llama").to_str().unwrap().to_owned()
}

fn story(name: &str, folder: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/stories").join(name);
    let path = std::env::join_paths(
        std::iter::once(programs()).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let mut command = Command::new("bash");
    command.arg(script).arg(tiny()).arg(folder).env("PATH", path.unwrap());
    command.output().unwrap()
}

fn quantize(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(programs().join("quantize")).current_dir(folder).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn names(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

#[test]
fn a_fine_tune_gets_its_file_and_modelfile() {
    if !programs().join("gguf").exists() {
        eprintln!("skipped: the program gguf is not built");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let output = story("fine-tune-to-ollama.sh", place.path());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(names(place.path()), ["Modelfile", "Tiny-Llama-4.2M-Q4_K_M.gguf"]);
    assert!(said.contains("FROM ./Tiny-Llama-4.2M-Q4_K_M.gguf") && !said.contains("num_ctx"), "{said}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("tokens of"), "the tokenizers were not compared");
}

#[test]
fn a_pipeline_gets_a_file_that_others_derive_again() {
    let place = tempfile::tempdir().unwrap();
    let output = story("pipeline.sh", place.path());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for wanted in ["nothing has changed", "model.gguf: OK", "verified: the same source"] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    assert_eq!(names(place.path()), ["SHA256SUMS", "model.gguf", "model.intoto.json", "result.json"]);
    let read = |name: &str| std::fs::read(place.path().join(name)).unwrap();
    let (manifest, result): (Json, Json) = (
        serde_json::from_slice(&read("model.intoto.json")).unwrap(),
        serde_json::from_slice(&read("result.json")).unwrap(),
    );
    let digest = fixtures::sha256(&read("model.gguf"));
    assert_eq!(manifest["subject"][0]["digest"]["sha256"], digest.as_str());
    assert_eq!(result["files"]["outputs"][0]["sha256"], digest.as_str());
    assert_eq!((&result["schema"], &result["program"]), (&"quantize-1".into(), &"quantize".into()));
    // Nothing of this machine, and no time.
    let text = String::from_utf8(read("model.intoto.json")).unwrap();
    assert!(!text.contains(place.path().to_str().unwrap()) && !text.contains(&tiny()), "{text}");

    // The same run elsewhere gives the same manifest.
    let other = tempfile::tempdir().unwrap();
    assert!(story("pipeline.sh", other.path()).status.success());
    assert_eq!(std::fs::read(other.path().join("model.intoto.json")).unwrap(), text.as_bytes());
}

#[test]
fn what_changed_is_made_again_and_what_was_forged_is_told() {
    let place = tempfile::tempdir().unwrap();
    let tiny = tiny();
    let make = |more: &[&str]| {
        let args = [&[tiny.as_str(), "-o", "m.gguf", "--manifest", "m.json", "--if-changed"], more].concat();
        let (code, said, errors) = quantize(place.path(), &args);
        assert_eq!(code, 0, "{errors}");
        said.contains("nothing has changed")
    };
    assert!(!make(&["--type", "q8_0"]) && make(&["--type", "q8_0"]));
    // Threads change no byte; a type does.
    assert!(make(&["--type", "q8_0", "--threads", "1"]));
    assert!(!make(&["--type", "q4_0"]));
    let path = place.path().join("m.gguf");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.push(0);
    std::fs::write(&path, &bytes).unwrap();
    assert!(!make(&["--type", "q4_0"]));

    let verify = |more: &[&str]| quantize(place.path(), &[&["verify", "m.json", "--source", &tiny], more].concat());
    let (code, said, errors) = verify(&["--json"]);
    assert_eq!(code, 0, "{said}{errors}");
    let last = bytes.len() - 2;
    bytes.truncate(last + 1);
    bytes[last] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let (code, said, _) = verify(&["--result", "."]);
    assert!(code == 1 && said.contains("differs") && said.contains("not verified"), "{said}");

    // Other options than the bytes were made with.
    let manifest = std::fs::read_to_string(place.path().join("m.json")).unwrap();
    std::fs::write(place.path().join("m.json"), manifest.replace("q4_0", "q4_1")).unwrap();
    let (code, said, _) = verify(&[]);
    assert!(code == 1 && said.contains("derived") && said.contains("differs"), "{said}");
    // Options that write elsewhere, and names that lead elsewhere.
    std::fs::write(place.path().join("m.json"), manifest.replace("\"type\"", "\"output\"")).unwrap();
    assert_eq!(verify(&[]).0, 3);
    std::fs::write(place.path().join("m.json"), manifest.replace("\"config.json\"", "\"../config.json\"")).unwrap();
    assert_eq!(verify(&[]).0, 3);
    assert!(!names(place.path()).iter().any(|name| name.contains("derived")), "{:?}", names(place.path()));
}

#[test]
fn several_types_and_a_folder_are_one_result() {
    let place = tempfile::tempdir().unwrap();
    let args = [&tiny(), "-o", ".", "-t", "q8_0", "-t", "nf4", "--manifest", "m.json", "--checksums"];
    let (code, said, errors) = quantize(place.path(), &args);
    assert_eq!(code, 0, "{said}{errors}");
    let sums = std::fs::read_to_string(place.path().join("SHA256SUMS")).unwrap();
    assert!(sums.contains("  tiny-llama-nf4/model.safetensors\n") && sums.contains("-Q8_0.gguf\n"), "{sums}");
    let (code, said, errors) = quantize(place.path(), &["verify", "m.json", "--source", &tiny(), "--result", "."]);
    assert_eq!(code, 0, "{said}{errors}");
    let (code, _, errors) = quantize(
        place.path(),
        &[&tiny(), "-o", "model.{ftype}.gguf", "-t", "q8_0", "-t", "f16", "--manifest", "n.json"],
    );
    assert_eq!(code, 0, "{errors}");
    let (code, said, errors) = quantize(place.path(), &["verify", "n.json", "--source", &tiny(), "--result", "."]);
    assert_eq!(code, 0, "{said}{errors}");
    assert!(place.path().join("model.Q8_0.gguf").exists() && place.path().join("model.F16.gguf").exists());
}

#[test]
fn completions_and_man_pages_name_the_options() {
    let place = tempfile::tempdir().unwrap();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, said, errors) = quantize(place.path(), &["--completions", shell]);
        assert!(code == 0 && said.contains("tensor-type-file"), "{shell}: {errors}");
    }
    assert_eq!(quantize(place.path(), &["--completions", "cmd"]).0, 2);
    assert_eq!(quantize(place.path(), &["--man", "man1"]).0, 0);
    let pages = names(&place.path().join("man1"));
    assert!(pages.contains(&"quantize.1".to_owned()) && pages.contains(&"quantize-verify.1".to_owned()), "{pages:?}");
}

#[test]
fn the_order_of_llama_quantize_and_near_names_are_told_the_command() {
    let place = tempfile::tempdir().unwrap();
    let (code, _, said) = quantize(place.path(), &["in.gguf", "out.gguf", "Q4_K_M", "8"]);
    assert!(code == 2 && said.contains("quantize in.gguf -o out.gguf --type q4_k_m --threads 8"), "{said}");
    let (code, _, said) = quantize(place.path(), &["in.gguf", "--type", "q4km"]);
    assert!(code == 2 && said.contains("did you mean q4_k_m?"), "{said}");
    let (code, said, _) = quantize(place.path(), &["--type", "list"]);
    assert!(code == 0 && said.contains("q4_k_m") && said.contains("nf4"), "{said}");
}
