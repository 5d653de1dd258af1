//! Symbolic links in folders that come from others.
//!
//! A link may lead to another file of the folder, or to the blobs of a cache of the hub, where `snapshots` of a
//! repository are links to `blobs` beside them. Elsewhere it would make any file of the machine a part of the output.

use std::fs;
use std::path::Path;

use gguf::{Error, Result};

/// Folders inside the folder that are looked at as well, such as `1_Pooling`.
const DEPTH: usize = 2;

/// Refuses a folder with a link that leads out of it.
///
/// # Errors
/// Such a link, or a folder that cannot be listed. What is no folder has no links.
pub fn check(folder: &Path) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    let root = folder.canonicalize().map_err(|e| Error::io(folder, "find", e))?;
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, "list", e))?;
    check_entries(folder, entries, &root, DEPTH)
}

fn check_entries(folder: &Path, entries: fs::ReadDir, root: &Path, depth: usize) -> Result<()> {
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(folder, "list", e))?;
        let path = entry.path();
        // Neither is ever read: hidden files, and outputs that a person keeps elsewhere.
        if entry.file_name().as_encoded_bytes().starts_with(b".") || path.extension().is_some_and(|e| e == "gguf") {
            continue;
        }
        let kind = entry.file_type().map_err(|e| Error::io(&path, "examine", e))?;
        // Of a folder that cannot be listed nothing is read without saying so.
        if kind.is_dir()
            && depth > 1
            && let Ok(entries) = fs::read_dir(&path)
        {
            check_entries(&path, entries, root, depth - 1)?;
        }
        if !kind.is_symlink() {
            continue;
        }
        // A link to nothing is no file to anyone.
        let Ok(target) = path.canonicalize() else { continue };
        if !target.starts_with(root) && !is_blob(&target) {
            return Err(Error::input(format!("is a link out of the folder, to {}", gguf::quote::path(&target))).at(&path).help(
                "put the file itself into the folder; links to other files of it and to the hub's cache are followed",
            ));
        }
    }
    Ok(())
}

/// Whether a file is one of `models--NAME/blobs/`, where the cache of the hub keeps what its snapshots link to.
fn is_blob(file: &Path) -> bool {
    let name = |path: Option<&Path>| path.and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
    let blobs = file.parent();
    file.is_file()
        && name(blobs).is_some_and(|n| n == "blobs")
        && name(blobs.and_then(Path::parent)).is_some_and(|n| n.starts_with("models--"))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_to_files_of_the_folder_or_of_the_cache() {
        let temporary = tempfile::tempdir().unwrap();
        let cache = temporary.path().join("models--a--b");
        let (snapshot, blobs) = (cache.join("snapshots/0123"), cache.join("blobs"));
        fs::create_dir_all(snapshot.join("1_Pooling")).unwrap();
        fs::create_dir(&blobs).unwrap();
        fs::write(blobs.join("89ab"), "{}").unwrap();
        symlink("../../blobs/89ab", snapshot.join("config.json")).unwrap();
        symlink("../../../blobs/89ab", snapshot.join("1_Pooling/config.json")).unwrap();
        symlink("config.json", snapshot.join("other.json")).unwrap();
        symlink("nowhere", snapshot.join("dangling.json")).unwrap();
        check(&snapshot).unwrap();
        // The folder itself may be a link, as may folders above it.
        symlink(&cache, temporary.path().join("link")).unwrap();
        check(&temporary.path().join("link/snapshots/0123")).unwrap();

        let secret = temporary.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        symlink(&secret, snapshot.join(".hidden")).unwrap();
        symlink(&secret, snapshot.join("out.gguf")).unwrap();
        check(&snapshot).unwrap();
        for (name, target) in [
            ("vocab.json", secret.as_path()),
            ("README.md", Path::new("../../../secret")),
            ("1_Pooling/a.json", &secret),
            ("2_Dense", temporary.path()),
            ("hops.json", Path::new(".hidden")),
        ] {
            symlink(target, snapshot.join(name)).unwrap();
            let error = check(&snapshot).unwrap_err();
            assert_eq!(error.path(), Some(snapshot.join(name).as_path()), "{error}");
            fs::remove_file(snapshot.join(name)).unwrap();
        }
    }
}
