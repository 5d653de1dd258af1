//! The program itself, run in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value as Json;
use tempfile::TempDir;

pub fn gguf<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> assert_cmd::assert::Assert {
    Command::new(env!("CARGO_BIN_EXE_gguf")).args(args).assert()
}

pub fn stdout(run: &assert_cmd::assert::Assert) -> String {
    String::from_utf8(run.get_output().stdout.clone()).expect("text")
}

pub fn stderr(run: &assert_cmd::assert::Assert) -> String {
    String::from_utf8(run.get_output().stderr.clone()).expect("text")
}

pub fn json(run: &assert_cmd::assert::Assert) -> Json {
    serde_json::from_slice(&run.get_output().stdout).expect("one JSON document")
}

pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn with(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("written");
        path
    }

    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.0.path())
            .expect("the folder")
            .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

pub fn args<'a>(words: &[&'a str], paths: &[&'a Path]) -> Vec<&'a std::ffi::OsStr> {
    words.iter().copied().map(std::ffi::OsStr::new).chain(paths.iter().map(|p| p.as_os_str())).collect()
}
