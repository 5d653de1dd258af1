//! Where outputs may go: regular files and free names, through links, whole or not at all.
#![cfg(unix)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::Model;
use common::program::{Folder, args, gguf, stderr};
use gguf::{File, Source};

/// Command lines that write to OUT from FILE, and whether they need to be told to replace what is there.
const WRITERS: &[&str] = &[
    "copy FILE OUT",
    "merge SHARD OUT",
    "dump FILE output_norm.weight -o OUT",
    "set FILE general.name Tony -o OUT",
    "remove FILE general.name -o OUT",
    "rename FILE general.name general.label -o OUT",
];

struct Place {
    folder: Folder,
    file: PathBuf,
    shard: PathBuf,
}

impl Place {
    fn new() -> Place {
        let folder = Folder::new();
        let file = folder.with("m.gguf", Model::llama().filled(3));
        gguf(args(&["split", "--split-max-tensors", "5"], &[&file, &folder.path("s")])).code(0);
        let shard = folder.path("s-00001-of-00003.gguf");
        Place { folder, file, shard }
    }

    fn run(&self, line: &str, out: &Path, force: bool) -> assert_cmd::assert::Assert {
        let words = line.split(' ').map(|word| match word {
            "FILE" => self.file.as_os_str(),
            "SHARD" => self.shard.as_os_str(),
            "OUT" => out.as_os_str(),
            word => OsStr::new(word),
        });
        gguf(words.chain(force.then(|| OsStr::new("--force"))))
    }
}

#[test]
fn devices_pipes_and_open_files_are_refused_before_any_work() {
    let place = Place::new();
    let pipe = place.folder.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let socket = place.folder.path("socket");
    let _listener = UnixListener::bind(&socket).expect("bound");
    symlink("pipe", place.folder.path("to-pipe")).expect("linked");
    let before = place.folder.names();
    let outs = [pipe.clone(), place.folder.path("to-pipe"), socket.clone(), "/dev/null".into(), "-".into()];
    let open = ["/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/1"].map(PathBuf::from);
    for line in WRITERS {
        for out in outs.iter().chain(&open) {
            for force in [false, true] {
                let run = place.run(line, out, force).code(2);
                assert!(run.get_output().stdout.is_empty(), "{line}");
            }
        }
    }
    assert_eq!(place.folder.names(), before);
    let kind = |path: &Path| fs::symlink_metadata(path).expect("there").file_type();
    assert!(kind(&pipe).is_fifo() && kind(&socket).is_socket() && kind(Path::new("/dev/null")).is_char_device());
    // As inputs they are refused too, without waiting for the other end of the pipe.
    for command in ["show", "check", "hash", "recover"] {
        for input in [&pipe, &socket, Path::new("/dev/null"), Path::new("/dev/zero")] {
            let code = gguf(args(&[command], &[input])).get_output().status.code();
            assert!(code == Some(3) || (command == "recover" && code == Some(0)), "{command} {}", input.display());
        }
    }
}

#[test]
fn links_are_followed_and_stay_links() {
    for line in WRITERS {
        let place = Place::new();
        let at = |name: &str| place.folder.path(name);
        fs::create_dir(at("d")).expect("created");
        fs::write(at("d/real"), "old").expect("written");
        symlink("d/real", at("link")).expect("linked");
        symlink("link", at("twice")).expect("linked");
        symlink("d/new", at("dangling")).expect("linked");
        symlink("nowhere/new", at("lost")).expect("linked");
        symlink("circle", at("circle")).expect("linked");
        symlink("d", at("folder")).expect("linked");
        place.run(line, &at("twice"), false).code(2);
        assert_eq!(fs::read(at("d/real")).expect("readable"), b"old");
        place.run(line, &at("twice"), true).code(0);
        assert!(fs::read(at("d/real")).expect("readable").len() > 100);
        place.run(line, &at("dangling"), false).code(0);
        assert_eq!(fs::read(at("d/new")).expect("readable"), fs::read(at("d/real")).expect("readable"), "{line}");
        let names = ["link", "twice", "dangling", "lost", "circle", "folder"];
        place.run(line, &at("lost"), true).code(3);
        place.run(line, &at("circle"), true).code(3);
        place.run(line, &at("folder"), true).code(2);
        for name in names {
            assert!(fs::symlink_metadata(at(name)).expect("there").is_symlink(), "{line}: {name}");
        }
        // The input by another name is the input.
        symlink("m.gguf", at("input")).expect("linked");
        if !line.contains("SHARD") {
            place.run(line, &at("input"), true).code(2);
        }
    }
}

#[test]
fn no_shard_of_the_input_is_an_output() {
    let place = Place::new();
    let shards: Vec<Vec<u8>> =
        (0..3).map(|i| fs::read(gguf::split::path(place.folder.path("s"), i, 3)).expect("readable")).collect();
    for i in 0..3 {
        let out = gguf::split::path(place.folder.path("s"), i, 3);
        for line in ["copy SHARD OUT", "merge SHARD OUT", "dump SHARD output_norm.weight -o OUT"] {
            place.run(line, &out, true).code(2);
        }
    }
    gguf(args(&["split", "--force", "--split-max-tensors", "5"], &[&place.shard, &place.folder.path("s")])).code(2);
    for (i, bytes) in shards.iter().enumerate() {
        assert_eq!(&fs::read(gguf::split::path(place.folder.path("s"), i, 3)).expect("readable"), bytes);
    }
}

#[test]
fn names_as_long_as_names_can_be_are_written() {
    for length in [200, 236, 237, 238, 243, 244, 250, 255] {
        let place = Place::new();
        for (i, line) in WRITERS.iter().enumerate() {
            let out = place.folder.path(&format!("{i}{}.gguf", "n".repeat(length - 6)));
            assert_eq!(out.file_name().map(|n| n.len()), Some(length));
            place.run(line, &out, false).code(0);
            place.run(line, &out, true).code(0);
            if i > 2 {
                // In place, and by a copy over itself.
                for text in ["Tina", &"x".repeat(500)] {
                    gguf(args(&["set"], &[&out, Path::new("general.author"), Path::new(text)])).code(0);
                }
            }
        }
        assert_eq!(place.folder.names().len(), 4 + WRITERS.len());
    }
    // One that is longer is told at once.
    let place = Place::new();
    let long = place.folder.path(&"n".repeat(256));
    for line in WRITERS {
        assert!(!place.run(line, &long, false).get_output().status.success());
    }
    let prefix = place.folder.path(&"n".repeat(240));
    assert!(!gguf(args(&["split"], &[&place.file, &prefix])).get_output().status.success());
    assert_eq!(place.folder.names().len(), 4);
}

#[test]
fn shards_are_more_than_files_can_be_open() {
    let folder = Folder::new();
    let mut model = Model::llama();
    for i in 0..300 {
        model = model.tensor(&format!("extra.{i}"), &[8], gguf::TensorType::F32);
    }
    let path = folder.with("m.gguf", model.filled(1));
    let line = "ulimit -n 60; exec \"$0\" split --force --split-max-tensors 1 \"$1\" \"$2\"";
    for _ in 0..2 {
        let mut shell = Command::new("sh");
        shell.args(["-c", line, env!("CARGO_BIN_EXE_gguf")]).arg(&path).arg(folder.path("s"));
        assert!(shell.output().expect("sh runs").status.success());
        assert_eq!(folder.names().len(), 313);
    }
    let merge = "ulimit -n 60; exec \"$0\" merge --force \"$1\" \"$2\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", merge, env!("CARGO_BIN_EXE_gguf")]).arg(gguf::split::path(folder.path("s"), 0, 312));
    assert!(shell.arg(folder.path("whole.gguf")).output().expect("sh runs").status.success());
    assert!(File::open(folder.path("whole.gguf")).is_ok_and(|f| f.tensors().len() == 312));
}

#[test]
fn what_is_replaced_keeps_its_permissions() {
    let place = Place::new();
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let out = place.folder.path("out");
    place.run("copy FILE OUT", &out, false).code(0);
    assert_eq!(mode(&out), mode(&place.shard));
    fs::set_permissions(&out, fs::Permissions::from_mode(0o600)).expect("set");
    place.run("copy FILE OUT", &out, true).code(0);
    assert_eq!(mode(&out), 0o600);
    // An edit that copies, and one in place.
    for text in [&"x".repeat(500), "y"] {
        gguf(args(&["set"], &[&out, Path::new("general.author"), Path::new(text)])).code(0);
        assert_eq!(mode(&out), 0o600);
    }
    fs::set_permissions(&place.shard, fs::Permissions::from_mode(0o640)).expect("set");
    gguf(args(&["split", "--force", "--split-max-tensors", "5"], &[&place.file, &place.folder.path("s")])).code(0);
    assert_eq!(mode(&place.shard), 0o640);
}

#[test]
fn strays_of_killed_runs_go_with_the_next_run_of_the_target() {
    let place = Place::new();
    let stray = |name: &str| place.folder.with(name, "half a file");
    stray(".out.gguf.0123456789abcd.tmp");
    stray(".s-00002-of-00003.gguf.0123456789abce.tmp");
    stray(".s-00009-of-00011.gguf.0123456789abcf.tmp");
    stray(".m.gguf.0123456789abcg.tmp");
    // Not ours: other targets, other forms.
    let others =
        [".other.gguf.0123456789abcd.tmp", ".out.gguf.backup.tmp", ".out.gguf.tmp", "out.gguf.0123456789abcd.tmp"];
    others.iter().for_each(|name| drop(stray(name)));
    gguf(args(&["copy"], &[&place.file, &place.folder.path("out.gguf")])).code(0);
    gguf(args(&["split", "--force", "--split-max-tensors", "5"], &[&place.file, &place.folder.path("s")])).code(0);
    gguf(args(&["set"], &[&place.file, Path::new("general.name"), Path::new("Tony")])).code(0);
    let mut left = place.folder.names();
    left.retain(|name| name.ends_with(".tmp"));
    let mut others = others.map(String::from);
    others.sort();
    assert_eq!(left, others);
    // A run that lives is left alone.
    let living = fs::File::open(stray(".out.gguf.aaaaaaaaaa0000.tmp")).expect("opened");
    living.lock().expect("locked");
    place.run("copy FILE OUT", &place.folder.path("out.gguf"), true).code(0);
    assert!(place.folder.names().contains(&".out.gguf.aaaaaaaaaa0000.tmp".to_owned()));
}

#[test]
fn a_missing_folder_is_told_before_any_work() {
    let place = Place::new();
    for line in WRITERS {
        let run = place.run(line, &place.folder.path("nowhere/out.gguf"), false).code(3);
        assert!(stderr(&run).contains("nowhere"), "{}", stderr(&run));
    }
}

#[test]
fn shards_go_into_a_folder_that_the_option_names_and_after_a_prefix_in_second_place() {
    let folder = Folder::new();
    let model = folder.with("m.gguf", Model::llama().filled(3));
    fs::create_dir(folder.path("there")).expect("made");
    for (to, first) in [("there", "there/m"), ("new/inner/", "new/inner/m"), ("plain", "plain")] {
        gguf(args(&["split", "-q"], &[&model, Path::new("-o"), &folder.path(to)])).code(0);
        assert!(folder.path(&format!("{first}-00001-of-00001.gguf")).is_file(), "{to}");
    }
    gguf(args(&["split", "-q"], &[&model, &folder.path("there")])).code(0);
    assert!(folder.path("there-00001-of-00001.gguf").is_file());
    // A folder that nothing came into is gone.
    let bad = folder.with("bad.gguf", b"GGUF");
    gguf(args(&["split", "-q"], &[&bad, Path::new("-o"), &folder.path("gone/")])).code(3);
    assert!(!folder.path("gone").exists());
    // Elsewhere a name that ends as a folder does is none of a file.
    let run = gguf(args(&["copy", "-q"], &[&model, Path::new("-o"), &folder.path("copy/")])).code(2);
    assert!(stderr(&run).contains("names a folder"), "{}", stderr(&run));
}

#[test]
fn an_alignment_that_fills_disks_is_written_on_demand_alone() {
    let folder = Folder::new();
    let large = Model::llama().set("general.alignment", 1_u32 << 16).filled(3);
    let model = folder.with("m.gguf", large);
    let edit = |more: &[&str]| {
        let out = folder.path("out.gguf");
        let paths = [model.as_path(), Path::new("general.alignment"), Path::new("131072"), Path::new("-o"), &out];
        gguf(args(&[&["set", "-q", "--force"], more].concat(), &paths))
    };
    let said = stderr(&edit(&[]).code(3));
    assert!(said.contains("131072") && said.contains("--allow-large-alignment"), "{said}");
    edit(&["--allow-large-alignment"]).code(0);
    let written = folder.path("out.gguf");
    assert_eq!(File::open(&written).expect("readable").alignment(), 1 << 17);
    // In place it is copied, and comes back to an ordinary one.
    let set = |value: &str, more: &[&str]| {
        let paths = [written.as_path(), Path::new("general.alignment"), Path::new(value)];
        gguf(args(&[&["set", "-q"], more].concat(), &paths))
    };
    set("262144", &[]).code(3);
    set("262144", &["--allow-large-alignment"]).code(0);
    set("32", &[]).code(0);
    assert_eq!(File::open(&written).expect("readable").alignment(), 32);
}
