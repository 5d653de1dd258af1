//! Edits that were interrupted, and journals that belong to somebody else.
#![cfg(unix)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use common::Model;
use common::program::{Folder, args, gguf, json, stderr, stdout};
use gguf::{File, Source};
use sha2::{Digest, Sha256};

/// A good file and the headers before and after an edit of it.
struct Edit {
    bytes: Vec<u8>,
    old: Vec<u8>,
    new: Vec<u8>,
}

impl Edit {
    fn new() -> Edit {
        let bytes = Model::llama().filled(3);
        let file = File::from_bytes(bytes.clone().into()).expect("good");
        let mut keys = file.metadata().clone();
        keys.set("general.name", "Tony");
        let fitting = gguf::edit::fit(&file, &keys).expect("possible").expect("fits");
        let new = fitting.header().to_vec();
        Edit { old: bytes[..new.len()].to_vec(), new, bytes }
    }

    /// The journal of this edit, of a file with this number and size.
    fn journal(&self, inode: u64, size: u64) -> Vec<u8> {
        let numbers = [inode, size, self.old.len() as u64].map(u64::to_le_bytes).concat();
        let body = [&numbers[..], &self.old, &self.new].concat();
        [&b"GGUFEDI2"[..], &Sha256::digest(&body), &body].concat()
    }

    /// The file in the middle of the edit: marked, the first half new.
    fn half(&self) -> Vec<u8> {
        let half = self.new.len() / 2;
        [&gguf::edit::MARK[..], &self.new[4..half], &self.old[half..], &self.bytes[self.old.len()..]].concat()
    }

    /// Puts bytes and the journal of their edit under this name.
    fn interrupt(&self, path: &Path, bytes: &[u8]) {
        fs::write(path, bytes).expect("written");
        let meta = fs::metadata(path).expect("there");
        fs::write(journal_of(path), self.journal(meta.ino(), meta.len())).expect("written");
    }
}

fn journal_of(path: &Path) -> PathBuf {
    let name = path.file_name().expect("a name").as_bytes();
    path.with_file_name(OsStr::from_bytes(&[b".", name, b".edit-journal"].concat()))
}

fn says_interrupted(path: &Path) -> bool {
    let report = json(&gguf(args(&["check", "--json", "--profile", "format"], &[path])).code(1));
    let findings = report["reports"][0]["findings"].as_array().expect("findings").clone();
    findings.iter().any(|f| f["rule"] == "edit-interrupted")
}

#[test]
fn every_command_refuses_an_interrupted_edit_and_recover_undoes_it() {
    let (edit, folder) = (Edit::new(), Folder::new());
    let path = folder.path("m.gguf");
    // Marked and mixed; all new but for the journal; before the first byte.
    let whole_new = [&edit.new[..], &edit.bytes[edit.old.len()..]].concat();
    for state in [edit.half(), whole_new, edit.bytes.clone()] {
        edit.interrupt(&path, &state);
        for command in ["show", "hash"] {
            let refused = gguf(args(&[command], &[&path])).code(3);
            assert!(stderr(&refused).contains("gguf recover"), "{}", stderr(&refused));
        }
        assert!(says_interrupted(&path));
        gguf(args(&["check", "-q"], &[&path])).code(1);
        assert!(stdout(&gguf(args(&["recover"], &[&path])).code(0)).contains("is back"));
        assert_eq!(fs::read(&path).expect("readable"), edit.bytes);
        assert_eq!(folder.names(), ["m.gguf"]);
        assert!(stdout(&gguf(args(&["recover"], &[&path])).code(0)).contains("no edit"));
        // An edit recovers by itself before it begins.
        edit.interrupt(&path, &state);
        gguf(args(&["set"], &[&path, Path::new("general.name"), Path::new("Tina")])).code(0);
        assert_eq!(File::open(&path).expect("readable").metadata().str("general.name"), Some("Tina"));
        assert_eq!(folder.names(), ["m.gguf"]);
    }
}

#[test]
fn a_journal_beside_a_file_that_was_written_anew_is_void() {
    let (edit, folder) = (Edit::new(), Folder::new());
    let path = folder.path("m.gguf");
    let others = [
        // Another size, another header of the same size, and data of another size behind the same header.
        Model::llama().set("general.description", "x".repeat(300)).filled(3),
        Model::llama().set("general.name", "Tuna").filled(3),
        [&edit.bytes[..], &[0; 32]].concat(),
    ];
    for other in &others {
        for in_place in [true, false] {
            edit.interrupt(&path, &edit.half());
            if !in_place {
                fs::remove_file(&path).expect("removed");
            }
            fs::write(&path, other).expect("written");
            gguf(args(&["show"], &[&path])).code(0);
            gguf(args(&["check", "-q"], &[&path])).code(0);
            assert!(stdout(&gguf(args(&["recover"], &[&path])).code(0)).contains("no edit"));
            assert_eq!(&fs::read(&path).expect("readable"), other);
            assert_eq!(folder.names(), ["m.gguf"]);
        }
        // An edit is not held up by it, and takes it away.
        edit.interrupt(&path, &edit.half());
        fs::write(&path, other).expect("written");
        gguf(args(&["set"], &[&path, Path::new("general.name"), Path::new("Tina")])).code(0);
        assert_eq!(File::open(&path).expect("readable").metadata().str("general.name"), Some("Tina"));
        assert_eq!(folder.names(), ["m.gguf"]);
    }
    // Writing the file anew takes it away too.
    edit.interrupt(&path, &edit.half());
    let source = folder.with("source.gguf", &edit.bytes);
    gguf(args(&["copy", "--force"], &[&source, &path])).code(0);
    assert_eq!(folder.names(), ["m.gguf", "source.gguf"]);
    assert_eq!(fs::read(&path).expect("readable"), edit.bytes);
}

#[test]
fn a_folder_that_was_copied_can_be_recovered() {
    let (edit, folder) = (Edit::new(), Folder::new());
    let (path, copy) = (folder.path("m.gguf"), folder.path("copy/m.gguf"));
    edit.interrupt(&path, &edit.half());
    fs::create_dir(folder.path("copy")).expect("created");
    for name in [&path, &journal_of(&path)] {
        fs::copy(name, folder.path("copy").join(name.file_name().expect("a name"))).expect("copied");
    }
    gguf(args(&["recover"], &[&copy])).code(0);
    assert_eq!(fs::read(&copy).expect("readable"), edit.bytes);
}

#[test]
fn an_interrupted_edit_without_its_journal_is_told_and_left_alone() {
    let (edit, folder) = (Edit::new(), Folder::new());
    let path = folder.with("m.gguf", edit.half());
    for broken in [None, Some(&b"GGUFEDI2"[..]), Some(&edit.journal(1, 2)[..60])] {
        if let Some(broken) = broken {
            fs::write(journal_of(&path), broken).expect("written");
        }
        assert!(says_interrupted(&path));
        gguf(args(&["show"], &[&path])).code(3);
        let refused = gguf(args(&["recover"], &[&path])).code(3);
        assert!(stderr(&refused).contains("journal"), "{}", stderr(&refused));
        assert_eq!(fs::read(&path).expect("readable"), edit.half());
    }
}

#[test]
fn a_journal_belongs_to_the_file_and_to_the_bytes_of_its_name() {
    let (edit, folder) = (Edit::new(), Folder::new());
    let named = |byte: u8| folder.path("").join(OsStr::from_bytes(&[byte, b'.', b'g']));
    edit.interrupt(&named(0xFF), &edit.half());
    let other = Model::llama().set("general.name", "Tuna").filled(3);
    fs::write(named(0xFE), &other).expect("written");
    gguf(args(&["recover"], &[&named(0xFE)])).code(0);
    assert_eq!(fs::read(named(0xFE)).expect("readable"), other);
    gguf(args(&["recover"], &[&named(0xFF)])).code(0);
    assert_eq!(fs::read(named(0xFF)).expect("readable"), edit.bytes);
    // Through links, one in another folder and one to a link.
    fs::create_dir(folder.path("d")).expect("created");
    let real = folder.path("d/real.gguf");
    symlink("d/real.gguf", folder.path("link.gguf")).expect("linked");
    symlink("link.gguf", folder.path("twice.gguf")).expect("linked");
    edit.interrupt(&real, &edit.half());
    for path in [&real, &folder.path("link.gguf"), &folder.path("twice.gguf")] {
        gguf(args(&["show"], &[path])).code(3);
        assert!(says_interrupted(path));
    }
    gguf(args(&["recover"], &[&folder.path("twice.gguf")])).code(0);
    assert_eq!(fs::read(&real).expect("readable"), edit.bytes);
    // An edit through a link leaves the link a link.
    for value in ["Tina", &"x".repeat(300)] {
        gguf(args(&["set"], &[&folder.path("twice.gguf"), Path::new("general.name"), Path::new(value)])).code(0);
        assert_eq!(File::open(&real).expect("readable").metadata().str("general.name"), Some(value));
        assert!(fs::symlink_metadata(folder.path("twice.gguf")).expect("there").is_symlink());
    }
    // A name that leaves no room for more.
    let long = folder.path(&("n".repeat(250) + ".gguf"));
    fs::write(&long, &edit.bytes).expect("written");
    gguf(args(&["set"], &[&long, Path::new("general.name"), Path::new("Tina")])).code(0);
    assert_eq!(fs::read_dir(folder.path("d")).expect("the folder").count(), 1);
}

#[test]
fn a_file_that_is_being_edited_is_left_to_its_editor() {
    let (edit, folder) = (Edit::new(), Folder::new());
    let path = folder.path("m.gguf");
    edit.interrupt(&path, &edit.half());
    let editor = fs::OpenOptions::new().write(true).open(&path).expect("opened");
    editor.lock().expect("locked");
    let refused = gguf(args(&["recover"], &[&path])).code(4);
    assert!(stderr(&refused).contains("another program"), "{}", stderr(&refused));
    assert_eq!(fs::read(&path).expect("readable"), edit.half());
    drop(editor);
    gguf(args(&["recover"], &[&path])).code(0);
}
