//! Names of files and keys that would drive a terminal, forge a line or are not UTF-8.
#![cfg(unix)]

mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use common::program::{Folder, args, gguf, json, stderr, stdout};
use common::{Model, Raw};

/// Command lines over FILE, in an order in which each has what it needs, with their exit codes.
const LINES: &[(&str, i32)] = &[
    ("show FILE", 0),
    ("show FILE --layout", 0),
    ("check FILE", 0),
    ("check FILE --sarif", 0),
    ("hash FILE", 0),
    ("copy FILE FILE.copy", 0),
    ("copy FILE FILE.copy", 2),
    ("copy FILE FILE", 2),
    ("split FILE FILE.split --split-max-tensors 5", 0),
    ("split FILE FILE.split --split-max-tensors 5 --dry-run", 0),
    ("hash FILE.split-00001-of-00003.gguf", 0),
    ("hash FILE.split-00002-of-00003.gguf", 3),
    ("merge FILE.split-00001-of-00003.gguf FILE.merged", 0),
    ("dump FILE output_norm.weight -o FILE.npy", 0),
    ("diff FILE FILE.copy", 0),
    ("set FILE general.name Tony", 0),
    ("set FILE general.name Tom --reserve 4K", 0),
    ("rename FILE general.name general.label", 0),
    ("remove FILE general.label", 0),
    ("recover FILE", 0),
    ("diff FILE FILE.copy", 1),
    ("show FILE.absent", 3),
    ("set FILE llama.block_count many", 2),
];

/// Runs every line over a file of this name, for people and as JSON.
fn run_all(name: &[u8]) {
    for as_json in [false, true] {
        let folder = Folder::new();
        let path = folder.path("").join(OsStr::from_bytes(name));
        std::fs::write(&path, Model::llama().bytes()).expect("written");
        for (line, code) in LINES {
            let words = line.split(' ').map(|word| match word.strip_prefix("FILE") {
                Some(rest) => OsStr::from_bytes(&[path.as_os_str().as_bytes(), rest.as_bytes()].concat()).to_owned(),
                None => OsStr::new(word).to_owned(),
            });
            let as_json = as_json && !line.contains("--sarif");
            let run = gguf(words.chain(as_json.then(|| "--json".into()))).code(*code);
            for text in [stdout(&run), stderr(&run)] {
                assert!(!text.contains('\x1b') && !text.contains("\nerror: forged"), "{line}: {text}");
            }
            if as_json && *code < 2 && !line.contains("--layout") {
                json(&run);
            }
        }
    }
}

#[test]
fn a_name_that_is_not_utf_8_breaks_no_command() {
    run_all(b"m\xFF.gguf");
    let folder = Folder::new();
    let path = folder.path("").join(OsStr::from_bytes(b"m\xFF.gguf"));
    std::fs::write(&path, Model::llama().bytes()).expect("written");
    let report = json(&gguf(args(&["check", "--json"], &[&path])).code(0));
    assert!(report["reports"][0]["file"].as_str().is_some_and(|f| f.ends_with(r"m\xFF.gguf'")), "{report}");
    let sarif = json(&gguf(args(&["check", "--sarif"], &[&path])).code(0));
    let uri = sarif["runs"][0]["artifacts"][0]["location"]["uri"].as_str().expect("a URI");
    assert!(uri.ends_with("/m%FF.gguf"), "{uri}");
}

#[test]
fn a_name_forges_no_line_and_drives_no_terminal() {
    let name = "m\nerror: forged\x1b[2J.gguf";
    run_all(name.as_bytes());
    let folder = Folder::new();
    let path = folder.with(name, Model::llama().bytes());
    let shards = stdout(&gguf(args(&["split", "--dry-run"], &[&path, &folder.path("a\nb")])).code(0));
    assert_eq!(shards.lines().count(), 1, "{shards}");
}

#[test]
fn keys_and_values_drive_no_terminal() {
    let folder = Folder::new();
    // An array that runs past the end: the error names its key.
    let past = [&9_u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
    let path = folder.with("m.gguf", Raw::default().key(b"a\x1b[2J\nerror: forged", 9, &past).bytes());
    for command in ["show", "check", "hash"] {
        let run = gguf(args(&[command], &[&path]));
        for text in [stdout(&run), stderr(&run)] {
            assert!(!text.contains('\x1b') && !text.contains("\nerror: forged"), "{text}");
        }
    }
    let missing = gguf(args(&["show", "--key", "b\x1b[2J"], &[&folder.with("n.gguf", Model::llama().bytes())])).code(3);
    assert!(!stderr(&missing).contains('\x1b'));
}
