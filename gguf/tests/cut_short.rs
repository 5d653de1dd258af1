//! Files that are cut short while they are mapped. A test of its own process: it would spoil the commits of others.

use std::fs;

use gguf::cli::{NO_INPUTS, Output, OutputFolder};
use gguf::map::{Map, unchanged};

#[test]
fn a_file_that_is_cut_within_its_last_page_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let write = |len| fs::write(&path, vec![7_u8; len]).unwrap();
    let map = || Map::of(&fs::File::open(&path).unwrap(), &path).unwrap();
    let is_found = || unchanged().is_err_and(|e| e.path() == Some(path.as_path()));
    write(5000);
    let living = map();
    assert!(!is_found());
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(4500).unwrap();
    assert_eq!(living[4800], 0, "this is why");
    assert!(is_found());

    // Nothing gets its name.
    let file = Output::create(&folder.path().join("file"), false, NO_INPUTS).unwrap();
    assert!(file.commit().unwrap_err().to_string().contains("became shorter"));
    let target = folder.path().join("folder");
    let made = OutputFolder::create(&target, false, &[]).unwrap();
    assert!(made.commit().is_err());
    assert!(!folder.path().join("file").exists() && !target.exists());

    // The map is gone and was told of; then that is over.
    drop(living);
    assert!(is_found() && !is_found());
    // A file that is longer, or another one of that name, is no matter.
    let living = map();
    write(9000);
    assert!(!is_found());
    fs::remove_file(&path).unwrap();
    fs::write(&path, "x").unwrap();
    drop(living);
    assert!(!is_found());
}
