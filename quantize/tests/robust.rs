//! What can go wrong while a model is written: the program is killed, the disk is full, the input is cut short, the
//! folder cannot be written. Nothing may ever stand at the output's name but a whole file.
#![cfg(unix)]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use gguf::{FileLayout, Metadata, Shape, TensorInfo, TensorType, Value};
use tempfile::TempDir;

fn program() -> Command {
    Command::new(assert_cmd::cargo::cargo_bin!("quantize"))
}

/// A model of one tensor of zeros that takes no space: the data is a hole in the file.
fn hollow_model(path: &Path, rows: u64) {
    let metadata = Metadata::from_iter([("general.architecture", Value::from("llama"))]);
    let info = TensorInfo::new("blk.0.ffn_up.weight", Shape::new(&[4096, rows]).unwrap(), TensorType::F32).unwrap();
    let plan = FileLayout::new(&metadata, std::slice::from_ref(&info)).unwrap();
    let mut bytes = Vec::new();
    drop(gguf::Writer::new(&mut bytes, plan.clone()).unwrap());
    fs::write(path, &bytes).unwrap();
    OpenOptions::new().write(true).open(path).unwrap().set_len(plan.file_bytes()).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Waits until an output is being written; whether one was seen before the program ended.
fn writing(folder: &Path, child: &mut std::process::Child) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        let unfinished = |e: fs::DirEntry| e.file_name().to_string_lossy().ends_with(".tmp");
        let grows = |e: &fs::DirEntry| e.metadata().is_ok_and(|m| m.len() > 4096);
        if fs::read_dir(folder).unwrap().flatten().any(|e| grows(&e) && unfinished(e)) {
            return true;
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    false
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn killed_at_any_time_it_leaves_nothing_at_the_outputs_name_and_the_next_run_succeeds() {
    let folder = TempDir::new().unwrap();
    let (input, target) = (folder.path().join("m.gguf"), folder.path().join("out.gguf"));
    hollow_model(&input, 4096);
    let mut run = program();
    run.args(["-q", "-t", "q4_0", "--no-verify"]).arg(&input).arg(&target).stderr(Stdio::null());
    for delay in [0, 1, 2, 4, 8, 12, 16, 24, 32, 48] {
        let mut child = run.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(!target.exists() || status.success() || whole(&target), "after {delay} ms a part stands at the name");
        let _ = fs::remove_file(&target);
    }
    assert!(run.status().unwrap().success());
    assert!(whole(&target));
}

fn whole(path: &Path) -> bool {
    gguf::check::verify_file(path, true).is_ok()
}

#[test]
fn a_full_disk_is_one_error_and_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let input = folder.path().join("m.gguf");
    hollow_model(&input, 1024);
    let binary: PathBuf = assert_cmd::cargo::cargo_bin!("quantize").into();
    // A limit on the size of files fails writes as a full disk does.
    let output = Command::new("sh")
        .args(["-c", "ulimit -f 256; exec \"$0\" -t q8_0 m.gguf out.gguf"])
        .arg(binary)
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert_eq!(said(&output).matches("error:").count(), 1, "{}", said(&output));
    assert_eq!(names(folder.path()), ["m.gguf"]);
}

#[test]
fn an_input_that_is_cut_short_while_it_is_read_is_one_error() {
    let folder = TempDir::new().unwrap();
    let input = folder.path().join("m.gguf");
    hollow_model(&input, 16384);
    let mut child = program()
        .args(["-t", "q5_1", "--threads", "1", "m.gguf", "out.gguf"])
        .current_dir(folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let seen = writing(folder.path(), &mut child);
    OpenOptions::new().write(true).open(&input).unwrap().set_len(8192).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(seen, "the program ended before it wrote: {}", said(&output));
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(said(&output).contains("m.gguf") && said(&output).contains("cut short"), "{}", said(&output));
    assert_eq!(names(folder.path()), ["m.gguf"]);
}

#[test]
fn interrupted_it_removes_what_it_began() {
    let folder = TempDir::new().unwrap();
    hollow_model(&folder.path().join("m.gguf"), 16384);
    let mut child = program()
        .args(["-t", "q5_1", "--threads", "1", "m.gguf", "out.gguf"])
        .current_dir(folder.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let seen = writing(folder.path(), &mut child);
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let status = child.wait().unwrap();
    assert!(seen && interrupt.success());
    assert_eq!(status.code(), Some(130));
    assert_eq!(names(folder.path()), ["m.gguf"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_one_error() {
    let folder = TempDir::new().unwrap();
    hollow_model(&folder.path().join("m.gguf"), 8);
    let closed = folder.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    let mut places = vec![folder.path().join("missing")];
    // The superuser writes everywhere, and not every system has /proc.
    if fs::write(closed.join("probe"), "").is_err() {
        places.push(closed.clone());
    }
    if Path::new("/proc/self").exists() {
        places.push("/proc".into());
    }
    for place in places {
        let output = program()
            .args(["-t", "q8_0", "m.gguf"])
            .arg(place.join("out.gguf"))
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(matches!(output.status.code(), Some(3 | 4)), "{}: {}", place.display(), said(&output));
        assert_eq!(said(&output).matches("error:").count(), 1, "{}", said(&output));
        assert!(said(&output).contains(place.to_str().unwrap()), "{}", said(&output));
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(names(folder.path()), ["closed", "m.gguf"]);
}

#[test]
fn a_model_may_have_more_shards_than_there_are_handles() {
    const SHARDS: usize = 90;
    let folder = TempDir::new().unwrap();
    let infos: Vec<TensorInfo> = (0..SHARDS)
        .map(|i| {
            TensorInfo::new(format!("blk.{i}.ffn_up.weight"), Shape::new(&[32, 2]).unwrap(), TensorType::F32).unwrap()
        })
        .collect();
    let metadata = Metadata::from_iter([("general.architecture", Value::from("llama"))]);
    for (no, info) in infos.iter().enumerate() {
        let keys = gguf::split::metadata(&metadata, no, SHARDS, SHARDS, gguf::split::KeyOrder::GgufSplit).unwrap();
        let bytes = gguf::write::to_bytes(&keys, std::slice::from_ref(info), |_| Ok(vec![0; 256])).unwrap();
        fs::write(gguf::split::path(folder.path().join("m"), no, SHARDS), bytes).unwrap();
    }
    let binary: PathBuf = assert_cmd::cargo::cargo_bin!("quantize").into();
    let line = "ulimit -n 60; exec \"$0\" -t q8_0 --keep-split m-00001-of-00090.gguf -o out";
    let output = Command::new("sh").args(["-c", line]).arg(binary).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let first = gguf::split::path(folder.path().join("out"), 0, SHARDS);
    assert_eq!(gguf::open(first).unwrap().tensors().len(), SHARDS);
}
