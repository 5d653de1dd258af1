//! Files in folders that come from others and are not what they look like: symbolic links and Git LFS pointers.
//!
//! A link may lead to another file of the folder, or to the blobs of a cache of the hub, where `snapshots` of a
//! repository are links to `blobs` beside them. Elsewhere it would make any file of the machine a part of the output.
//! A link to nothing, or the few lines that Git LFS leaves where a file was not fetched, would be taken for a file that
//! is not there or for a damaged one.

use std::fs;
use std::path::Path;

use gguf::{Error, Result};

/// Weights in forms that are not read, so that it does not matter what they are.
const UNREAD: &[&str] = &["bin", "pt", "pth", "ckpt", "h5", "msgpack", "onnx", "gguf", "ot", "npz"];

/// The most bytes of a pointer by the rules of Git LFS.
const MAX_POINTER: u64 = 1024;

/// What every pointer of Git LFS begins with.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1";

/// Refuses a file that is a pointer of Git LFS to one that was not fetched.
///
/// # Errors
/// Such a pointer, or a file that cannot be read.
pub fn check_pointer(file: &Path) -> Result<()> {
    let meta = fs::metadata(file).map_err(|e| Error::io(file, "examine", e))?;
    if !meta.is_file() || meta.len() > MAX_POINTER {
        return Ok(());
    }
    let text = fs::read(file).map_err(|e| Error::io(file, "read", e))?;
    if !text.starts_with(POINTER) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&text);
    let size = text.lines().find_map(|line| line.strip_prefix("size ")?.parse::<u64>().ok());
    let size = size.map_or_else(String::new, |n| format!(" of {n} bytes"));
    Err(Error::input(format!("is a Git LFS pointer; the file itself{size} was not fetched"))
        .at(file)
        .help("run `git lfs install` and `git lfs pull` in that folder, or download it with `hf download OWNER/NAME`"))
}

/// Folders inside the folder that are looked at as well, such as `1_Pooling`.
const DEPTH: usize = 2;

/// Refuses a folder with a link that leads out of it or to nothing, or with a pointer of Git LFS.
///
/// # Errors
/// Such a file, or a folder that cannot be listed. What is no folder has no links.
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
        // None is ever read: hidden files, weights of other forms, and outputs that a person keeps elsewhere.
        let unread = path.extension().is_some_and(|e| UNREAD.iter().any(|x| e == *x));
        if entry.file_name().as_encoded_bytes().starts_with(b".") || unread {
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
            if kind.is_file() {
                check_pointer(&path)?;
            }
            continue;
        }
        let target = path.canonicalize().map_err(|_| dangling(&path))?;
        if !target.starts_with(root) && !is_blob(&target) {
            return Err(Error::input(format!("is a link out of the folder, to {}", gguf::quote::path(&target))).at(&path).help(
                "put the file itself into the folder; links to other files of it and to the hub's cache are followed",
            ));
        }
    }
    Ok(())
}

/// The error of a link to nothing.
pub(crate) fn dangling(link: &Path) -> Error {
    let to = fs::read_link(link).unwrap_or_default();
    let help = match to.components().any(|part| part.as_os_str() == "blobs") {
        true => "the hub's cache lost the file: download the model again, `hf download OWNER/NAME`",
        false => "put the file where the link leads, or remove the link",
    };
    Error::input(format!("is a link to {}, where there is nothing", to.display())).at(link).help(help)
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
        // What is never read may lead anywhere.
        symlink("nowhere", snapshot.join("pytorch_model.bin")).unwrap();
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
            ("generation_config.json", Path::new("nowhere")),
        ] {
            symlink(target, snapshot.join(name)).unwrap();
            let error = check(&snapshot).unwrap_err();
            assert_eq!(error.path(), Some(snapshot.join(name).as_path()), "{error}");
            fs::remove_file(snapshot.join(name)).unwrap();
        }
    }

    #[test]
    fn pointers_of_git_lfs_are_named_with_what_they_stand_for() {
        let folder = tempfile::tempdir().unwrap();
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4567\n";
        fs::write(folder.path().join("model.safetensors"), pointer).unwrap();
        let error = check(folder.path()).unwrap_err();
        assert!(error.message().contains("Git LFS pointer") && error.message().contains("4567 bytes"), "{error}");
        assert!(error.way_out().is_some_and(|help| help.contains("git lfs pull")));
        fs::write(folder.path().join("model.safetensors"), [0; 16]).unwrap();
        check(folder.path()).unwrap();
    }
}
