//! The researcher's story of `docs/stories`: every type of the list from one run, and what each costs.
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn a_researcher_gets_every_type_of_the_list_and_its_cost() {
    let programs = assert_cmd::cargo::cargo_bin("evaluate").parent().map(PathBuf::from).unwrap();
    if !programs.join("quantize").exists() {
        eprintln!("skipped: the program quantize is not built");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let model = fixtures::path("models/tiny-llama");
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(programs).chain(std::env::split_paths(&others))).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/stories/researcher.sh");
    let mut command = Command::new("bash");
    command.arg(script).arg(&model).arg(place.path()).arg(model.join("sample.txt")).env("PATH", path);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for ty in ["F32", "F16", "BF16", "Q8_0", "Q4_K_M"] {
        assert!(place.path().join(format!("Tiny-Llama-4.2M-{ty}.gguf")).is_file(), "{ty}");
    }
    for ty in ["nf4", "fp4", "int8"] {
        assert!(place.path().join(format!("tiny-llama-{ty}/model.safetensors")).is_file(), "{ty}");
        assert!(said.contains(&ty.to_uppercase()), "{ty}: {said}");
    }
    assert!(place.path().join("report.html").is_file());
}
