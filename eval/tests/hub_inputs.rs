//! A model that is named as the hub calls it is protected from outputs as a folder is: its files lie in the cache.
#![cfg(all(unix, feature = "hub"))]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A cache that holds one model, as the hub's own library lays it out.
struct Cache(TempDir);

impl Cache {
    fn new() -> Cache {
        let cache = Cache(TempDir::new().unwrap());
        let snapshot = cache.snapshot();
        let blobs = cache.repository().join("blobs");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(&blobs).unwrap();
        fs::create_dir_all(cache.repository().join("refs")).unwrap();
        fs::write(cache.repository().join("refs/main"), COMMIT).unwrap();
        for entry in fs::read_dir(fixtures::path("golden/arch/Qwen2-Tiny/hf/Qwen2-Tiny")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_owned();
            let blob = format!("blob-{}", name.to_string_lossy());
            fs::copy(&path, blobs.join(&blob)).unwrap();
            symlink(Path::new("../../blobs").join(&blob), snapshot.join(name)).unwrap();
        }
        fs::write(cache.0.path().join("t.txt"), "once upon a time there was a little girl ".repeat(60)).unwrap();
        cache
    }

    fn repository(&self) -> PathBuf {
        self.0.path().join("hub/models--owner--tiny")
    }

    fn snapshot(&self) -> PathBuf {
        self.repository().join("snapshots").join(COMMIT)
    }

    fn run(&self, program: &str, args: &[&str]) -> Option<(i32, String)> {
        let path = Path::new(env!("CARGO_BIN_EXE_evaluate")).with_file_name(program);
        if !path.exists() {
            eprintln!("skipped: {program} was not built; `cargo test --workspace` builds it");
            return None;
        }
        let mut command = Command::new(path);
        command.current_dir(self.0.path()).env("HF_HUB_CACHE", self.0.path().join("hub")).env("HF_HUB_OFFLINE", "1");
        let output = command.args(args).output().unwrap();
        Some((output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}

fn bytes(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn no_output_replaces_a_file_in_the_cache_that_a_model_is_read_from() {
    let cache = Cache::new();
    let before = bytes(&cache.repository().join("blobs"));
    let weights = cache.snapshot().join("model.safetensors");
    let blob = cache.repository().join("blobs/blob-config.json");
    for name in ["hf://owner/tiny", "hf://owner/tiny@main", "owner/tiny"] {
        for target in [weights.to_str().unwrap(), blob.to_str().unwrap()] {
            let lines: [(&str, Vec<&str>); 6] = [
                ("convert", vec![name, "--no-check-tokenizer"]),
                ("quantize", vec![name, "-t", "q8_0", "--no-check-tokenizer"]),
                ("evaluate", vec!["logits", name, "--tokens", "1,2,3"]),
                ("evaluate", vec!["imatrix", name, "--text", "t.txt", "--ctx", "8", "--chunks", "1"]),
                ("evaluate", vec!["embed", name, "--tokens", "1,2,3"]),
                (
                    "evaluate",
                    vec!["optimize", name, "-t", "q4_0", "--calibrate", "t.txt", "--ctx", "8", "--chunks", "3"],
                ),
            ];
            for (program, line) in lines {
                let args = [&line[..], &["--force", "-o", target]].concat();
                let Some((code, said)) = cache.run(program, &args) else { continue };
                assert_eq!(code, 2, "{program} {args:?}: {said}");
                assert!(said.contains("the output is the input"), "{program} {args:?}: {said}");
            }
            let args = ["compare", name, "-t", "q8_0", "--text", "t.txt", "--ctx", "16", "--chunks", "1"];
            let (code, said) = cache.run("evaluate", &[&args[..], &["--force", "--html", target]].concat()).unwrap();
            assert_eq!(code, 2, "compare: {said}");
        }
        // A folder around the model is no output either.
        let (around, inside) = (cache.repository(), cache.snapshot().join("nf4"));
        for target in [&around, &cache.snapshot(), &inside] {
            let lines: [(&str, Vec<&str>); 2] = [
                ("quantize", vec![name, "-t", "nf4"]),
                (
                    "evaluate",
                    vec!["optimize", name, "-t", "nf4", "--calibrate", "t.txt", "--ctx", "8", "--chunks", "3"],
                ),
            ];
            for (program, line) in lines {
                let args = [&line[..], &["--force", "-o", target.to_str().unwrap()]].concat();
                let Some((code, said)) = cache.run(program, &args) else { continue };
                assert_eq!(code, 2, "{program} {args:?}: {said}");
            }
        }
    }
    assert_eq!(bytes(&cache.repository().join("blobs")), before);
}
