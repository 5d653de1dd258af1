//! Standard output and error whose other end has gone.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::program::Folder;
use common::{Model, Raw};

/// The exit code with nobody behind these streams.
fn code(args: &[&str], path: &Path, stderr_too: bool) -> Option<i32> {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gguf"));
    command.args(&args[..1]).arg(path).args(&args[1..]).stdin(Stdio::null());
    if stderr_too {
        command.stderr(writer.try_clone().expect("a second end"));
    } else {
        command.stderr(Stdio::null());
    }
    command.stdout(writer).status().expect("it runs").code()
}

#[test]
fn a_verdict_stays_when_nobody_reads_it() {
    let folder = Folder::new();
    let good = folder.with("good.gguf", Model::llama().bytes());
    let bad = folder.with("bad.gguf", Raw::default().key(b"a.b", 7, &[2]).bytes());
    let other = folder.with("other.gguf", Model::llama().filled(1));
    let other = other.to_str().expect("UTF-8");
    for stderr_too in [false, true] {
        for json in [&[][..], &["--json"]] {
            let code = |args: &[&str], path| code(&[args, json].concat(), path, stderr_too);
            assert_eq!(code(&["check"], &bad), Some(1));
            assert_eq!(code(&["check"], &good), Some(0));
            assert_eq!(code(&["diff", other], &good), Some(1));
            assert_eq!(code(&["show"], &good), Some(0));
            assert_eq!(code(&["show"], &bad), Some(3));
            assert_eq!(code(&["hash", "--progress", "json"], &good), Some(0));
            assert_eq!(code(&["set", "general.name", "Tony"], &good), Some(0));
            assert_eq!(code(&["set", "llama.block_count", "many"], &good), Some(2));
        }
    }
}

#[test]
fn an_alignment_beyond_reason_is_not_written() {
    let metadata = gguf::Metadata::from_iter([("general.alignment", gguf::Value::from(1_u32 << 31))]);
    let error = gguf::FileLayout::new(&metadata, &[]).unwrap_err();
    assert!(error.message().contains("general.alignment is 2147483648"), "{error}");
    let metadata = gguf::Metadata::from_iter([("general.alignment", gguf::Value::from(1_u32 << 16))]);
    assert!(gguf::FileLayout::new(&metadata, &[]).is_ok());
}
