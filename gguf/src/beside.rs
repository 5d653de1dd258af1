//! Names beside a file: its folder, where its links lead, and hidden names for what belongs to it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The most bytes of a name on the file systems in use.
pub(crate) const NAME_MAX: usize = 255;

/// The folder that a path lies in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The name that a path leads to when its links are followed, whether or not there is something under it.
///
/// # Errors
/// Links that lead in a circle.
pub(crate) fn real(path: &Path) -> Result<PathBuf> {
    Ok(hops(path)?.pop().unwrap_or_default())
}

/// The path and every name on the way to where its links end.
///
/// # Errors
/// Links that lead in a circle.
pub(crate) fn hops(path: &Path) -> Result<Vec<PathBuf>> {
    /// As many as Linux follows.
    const MOST_LINKS: usize = 40;
    let mut names = vec![path.to_path_buf()];
    while names.len() <= MOST_LINKS {
        let Some(to) = names.last().and_then(|name| Some(folder_of(name).join(fs::read_link(name).ok()?))) else {
            return Ok(names);
        };
        names.push(to);
    }
    Err(Error::input("is a link that leads to itself").at(path))
}

/// A hidden name beside a file, `.NAME.ENDING`; where that is longer than names can be, a digest stands for the name.
pub(crate) fn hidden(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(stem(path.file_name().unwrap_or_default(), ending.len()));
    name.push(".");
    name.push(ending);
    folder_of(path).join(name)
}

/// The name, or a digest in its place where the hidden name would be too long.
pub(crate) fn stem(name: &OsStr, ending: usize) -> OsString {
    if name.len() + ending + 2 <= NAME_MAX {
        return name.to_owned();
    }
    crate::quote::hex(&Sha256::digest(name.as_encoded_bytes())[..16]).into()
}

/// A part of a name, cut where an ASCII character is.
pub(crate) fn os_str(part: &[u8]) -> Option<&OsStr> {
    #[cfg(unix)]
    return Some(std::os::unix::ffi::OsStrExt::from_bytes(part));
    #[cfg(not(unix))]
    return std::str::from_utf8(part).ok().map(OsStr::new);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_names_differ() {
        let long = |c: char| PathBuf::from("d").join(c.to_string().repeat(250));
        assert_ne!(hidden(&long('a'), "edit-journal"), hidden(&long('b'), "edit-journal"));
        assert_eq!(hidden(Path::new("m.gguf"), "edit-journal"), Path::new("./.m.gguf.edit-journal"));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_to_their_end_and_not_in_circles() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("d")).unwrap();
        std::os::unix::fs::symlink("d/inner", at("outer")).unwrap();
        std::os::unix::fs::symlink("end", at("d/inner")).unwrap();
        assert_eq!(real(&at("outer")).unwrap(), at("d/end"));
        std::os::unix::fs::symlink("circle", at("circle")).unwrap();
        assert!(real(&at("circle")).is_err());
    }
}
