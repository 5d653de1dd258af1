//! Where a model is: what a person names, and the folder or file that is meant.
//!
//! A folder or file is itself. A folder of the hub's cache (`models--OWNER--NAME`, its `snapshots`, one of those) is the
//! snapshot that `refs/main` names, and the model is called by its repository, not by a commit. `hf://OWNER/NAME[@REVISION]`
//! and a bare `OWNER/NAME` are fetched from the hub, as far as this program was built with it.

use std::fs;
use std::path::{Path, PathBuf};

#[cfg(feature = "cli")]
use gguf::cli::Common;
use gguf::{Error, Result};

pub use crate::remote::Remote;
use crate::remote::{SCHEME, is_part};

#[cfg(feature = "cli")]
use crate::links;

/// The folders of a repository in the hub's cache.
const SNAPSHOTS: &str = "snapshots";

/// Whether text has the form of `OWNER/NAME` and no folder of that owner is here, so that it can only mean the hub.
fn is_bare(text: &str) -> bool {
    let name = text.split_once('@').map_or(text, |(name, _)| name);
    let parts: Vec<&str> = name.split('/').collect();
    parts.len() == 2 && parts.iter().all(|p| is_part(p)) && !Path::new(parts[0]).exists()
}

/// Finds the folder or file that is meant, fetching it from the hub where its name says so.
///
/// # Errors
/// What is not there, links to nothing, pointers of Git LFS, a repository of the cache without its snapshot, and what the
/// hub says.
#[cfg(feature = "cli")]
pub fn find(wanted: &Path, common: &Common) -> Result<PathBuf> {
    if let Some(text) = wanted.to_str().filter(|text| text.starts_with(SCHEME)) {
        return fetch(&Remote::parse(text)?, Extent::Checkpoint, common);
    }
    match fs::metadata(wanted) {
        Ok(meta) if meta.is_dir() => of_cache(wanted),
        Ok(_) => links::check_pointer(wanted).map(|()| wanted.to_path_buf()),
        Err(_) if fs::symlink_metadata(wanted).is_ok() => Err(links::dangling(wanted)),
        Err(_) => match wanted.to_str().filter(|text| is_bare(text)) {
            Some(text) => fetch(&Remote::parse(text)?, Extent::Checkpoint, common),
            None => Err(missing(wanted)),
        },
    }
}

/// The place in the hub's cache of a name on the hub, where it is there already; nobody is asked. Anything else is itself.
pub(crate) fn in_cache(wanted: &Path) -> PathBuf {
    let of_hub = |text: &&str| text.starts_with(SCHEME) || (fs::symlink_metadata(wanted).is_err() && is_bare(text));
    let remote = wanted.to_str().filter(of_hub).and_then(|text| Remote::parse(text).ok());
    remote.and_then(|remote| fetched(&remote)).unwrap_or_else(|| wanted.to_path_buf())
}

/// The snapshot of a folder of the hub's cache; any other folder as it is.
pub(crate) fn of_cache(folder: &Path) -> Result<PathBuf> {
    let named = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let whole = || folder.canonicalize().map_err(|e| Error::io(folder, "find", e));
    let repository = if named(folder) == SNAPSHOTS && named(&whole()?).as_str() == SNAPSHOTS {
        whole()?.parent().map(Path::to_path_buf).unwrap_or_default()
    } else if folder.join(SNAPSHOTS).is_dir() && !folder.join("config.json").exists() {
        folder.to_path_buf()
    } else {
        return if folder.join("config.json").exists() { Ok(folder.to_path_buf()) } else { of_whole_cache(folder) };
    };
    let snapshots = repository.join(SNAPSHOTS);
    let main = repository.join("refs/main");
    if let Ok(commit) = crate::json::read_text(&main, 1 << 16) {
        let commit = commit.trim();
        if is_part(commit) && snapshots.join(commit).is_dir() {
            return Ok(snapshots.join(commit));
        }
        return Err(Error::input(format!("names the commit {}, which is not in the cache", commit.escape_debug()))
            .at(&main)
            .help("download the model again: `hf download OWNER/NAME`"));
    }
    let entries = fs::read_dir(&snapshots).map_err(|e| Error::io(&snapshots, "list", e))?;
    let mut all: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    all.sort();
    match all.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Error::input("is a repository of the hub's cache without a snapshot")
            .at(folder)
            .help("download the model: `hf download OWNER/NAME`")),
        [first, ..] => Err(Error::input(format!("has {} snapshots and no refs/main that names one", all.len()))
            .at(&repository)
            .help(format!("name one of them: {}", gguf::quote::path(first)))),
    }
}

/// A folder that holds the whole cache has models, but is none.
fn of_whole_cache(folder: &Path) -> Result<PathBuf> {
    let is_model = |name: &str| name.starts_with("models--");
    let Ok(entries) = fs::read_dir(folder) else { return Ok(folder.to_path_buf()) };
    let mut models: Vec<String> =
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).filter(|name| is_model(name)).collect();
    if models.is_empty() {
        return Ok(folder.to_path_buf());
    }
    models.sort();
    models.truncate(8);
    Err(Error::input("is a cache of the hub, not a model")
        .at(folder)
        .help(format!("name one of its models: {}", models.join(", "))))
}

/// The error of a path where there is nothing, with what may have been meant.
pub(crate) fn missing(wanted: &Path) -> Error {
    let error = Error::input("there is no such folder or file").at(wanted);
    if let Some(near) = near(wanted) {
        return error.help(format!("did you mean {}?", gguf::quote::path(near)));
    }
    match wanted.to_str().map(Remote::parse) {
        Some(Ok(remote)) => error.help(format!("{SCHEME}{} is a model of the hub", remote.repository)),
        _ => error,
    }
}

/// The entry beside a missing path whose name is most like its own.
fn near(wanted: &Path) -> Option<PathBuf> {
    /// How alike names are that stand for one another.
    const ALIKE: f64 = 0.8;
    /// Folders of more entries are not searched.
    const MOST: usize = 10_000;
    let folder = wanted.parent().filter(|p| !p.as_os_str().is_empty());
    let name = wanted.file_name()?.to_str()?.to_lowercase();
    let entries = fs::read_dir(folder.unwrap_or(Path::new("."))).ok()?;
    let scored = entries.flatten().take(MOST).filter_map(|entry| {
        let other = entry.file_name().into_string().ok()?;
        let alike = strsim::normalized_damerau_levenshtein(&name, &other.to_lowercase());
        (alike >= ALIKE && !other.starts_with('.')).then_some((alike, other))
    });
    let (_, best) = scored.max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(&a.1)))?;
    Some(folder.map_or_else(|| PathBuf::from(&best), |f| f.join(&best)))
}

/// The name of a model by where it is: that of its folder or file, of its repository where it is a snapshot in the hub's
/// cache.
pub fn model_name(path: &Path) -> String {
    let named = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
    // `.` and `..` have no name of their own; a link keeps the name it goes by.
    let own = path.to_path_buf();
    let whole = if path.file_name().is_some() { own } else { path.canonicalize().unwrap_or(own) };
    if let Some(name) = repository_of(path) {
        return name;
    }
    let name = if path.is_dir() { named(&whole) } else { whole.file_stem().map(|n| n.to_string_lossy().into_owned()) };
    name.unwrap_or_else(|| "model".into())
}

/// The repository of which a folder is a snapshot in the hub's cache, without its owner.
pub fn repository_of(folder: &Path) -> Option<String> {
    let named = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
    let whole = folder.canonicalize().ok()?;
    let snapshots = whole.parent()?;
    if named(snapshots)? != SNAPSHOTS {
        return None;
    }
    let repository = named(snapshots.parent()?)?;
    let repository = repository.strip_prefix("models--")?;
    Some(repository.split_once("--").map_or(repository, |(_, name)| name).to_owned())
}

/// Finds the folder with a model's `config.json`, fetching that alone from the hub where the name is not one of a folder.
///
/// # Errors
/// As [`find`].
#[cfg(feature = "cli")]
pub fn find_configuration(name: &str, common: &Common) -> Result<PathBuf> {
    if Path::new(name).exists() {
        return find(Path::new(name), common);
    }
    fetch(&Remote::parse(name)?, Extent::Configuration, common)
}

#[cfg(feature = "hub")]
use crate::hub::{Extent, fetch, fetched};

#[cfg(all(feature = "cli", not(feature = "hub")))]
enum Extent {
    Checkpoint,
    Configuration,
}

#[cfg(not(feature = "hub"))]
fn fetched(_: &Remote) -> Option<PathBuf> {
    None
}

#[cfg(all(feature = "cli", not(feature = "hub")))]
fn fetch(remote: &Remote, _: Extent, _: &Common) -> Result<PathBuf> {
    Err(Error::usage(format!("{remote} is on the hub, which this program was built without"))
        .help(format!("`hf download {}` fetches it; give the folder that this prints", remote.repository)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_hub_are_read_and_lead_nowhere_else() {
        let remote = |text: &str| Remote::parse(text).map(|r| (r.repository, r.file, r.revision)).ok();
        let some = |repository: &str, file: Option<&str>, revision: &str| {
            Some((repository.to_owned(), file.map(str::to_owned), revision.to_owned()))
        };
        assert_eq!(remote("hf://a/b"), some("a/b", None, "main"));
        assert_eq!(remote("a/b-1.5_x@refs/pr/3"), some("a/b-1.5_x", None, "refs/pr/3"));
        assert_eq!(remote("hf://a/b/sub/c.gguf@v1"), some("a/b", Some("sub/c.gguf"), "v1"));
        for bad in ["hf://a", "hf://", "hf://a/..", "hf://../b", "hf://a/b/../c", "hf://a/b@", "hf://a/b@../c", "a b/c"]
        {
            assert_eq!(remote(bad), None, "{bad}");
        }
        assert!(is_bare("owner/name") && is_bare("owner/name@v1"));
        for local in ["name", "./name", "../a/b", "/a/b", "a/b/c", "src/lib", "a/.b"] {
            assert!(!is_bare(local), "{local}");
        }
    }

    #[test]
    fn a_repository_of_the_cache_is_its_snapshot_of_main() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--owner--Name-1--x");
        let common = Common::default();
        for commit in ["aaa", "bbb"] {
            fs::create_dir_all(repository.join(SNAPSHOTS).join(commit)).unwrap();
        }
        let error = find(&repository, &common).unwrap_err();
        assert!(error.message().contains("2 snapshots"), "{error}");
        fs::create_dir(repository.join("refs")).unwrap();
        fs::write(repository.join("refs/main"), "bbb\n").unwrap();
        for given in [repository.clone(), repository.join(SNAPSHOTS)] {
            let found = find(&given, &common).unwrap();
            assert!(found.ends_with("snapshots/bbb"), "{}", found.display());
            assert_eq!(model_name(&found), "Name-1--x");
        }
        // A snapshot that is named is meant, and is called by its repository too.
        let older = repository.join("snapshots/aaa");
        assert_eq!(find(&older, &common).unwrap(), older);
        assert_eq!(model_name(&older), "Name-1--x");
        fs::write(repository.join("refs/main"), "../../etc").unwrap();
        assert!(find(&repository, &common).unwrap_err().message().contains("not in the cache"));
        let error = find(cache.path(), &common).unwrap_err();
        assert!(error.way_out().is_some_and(|help| help.contains("models--owner--Name-1--x")), "{error}");
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is_near() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("tiny-llama")).unwrap();
        let error = find(&folder.path().join("tiny-lama"), &Common::default()).unwrap_err();
        assert!(error.way_out().is_some_and(|help| help.contains("tiny-llama")), "{error}");
        assert!(find(&folder.path().join("other"), &Common::default()).unwrap_err().way_out().is_none());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_nothing_and_a_pointer_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("m.gguf");
        std::os::unix::fs::symlink("../blobs/0123", &link).unwrap();
        let error = find(&link, &Common::default()).unwrap_err();
        assert!(error.message().contains("blobs/0123") && error.way_out().is_some(), "{error}");
        let pointer = folder.path().join("p.gguf");
        fs::write(&pointer, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n").unwrap();
        assert!(find(&pointer, &Common::default()).unwrap_err().message().contains("Git LFS"));
    }
}
