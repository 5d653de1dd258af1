//! Names of the files of a split model.

use std::path::{Path, PathBuf};

/// The file name of a shard, counted from 0: `split::path("out/model", 0, 3)` is `out/model-00001-of-00003.gguf`.
pub fn path(prefix: impl AsRef<Path>, no: usize, count: usize) -> PathBuf {
    let mut name = prefix.as_ref().as_os_str().to_owned();
    name.push(format!("-{:05}-of-{count:05}.gguf", no + 1));
    name.into()
}

/// The file name of a shard of the model that would be called `whole` if it were one file, which it is where the count is 1.
///
/// ```
/// assert_eq!(gguf::split::of_whole("out/a.gguf", 1, 2).to_str(), Some("out/a-00002-of-00002.gguf"));
/// assert_eq!(gguf::split::of_whole("out/a.gguf", 0, 1).to_str(), Some("out/a.gguf"));
/// ```
pub fn of_whole(whole: impl AsRef<Path>, no: usize, count: usize) -> PathBuf {
    let whole = whole.as_ref();
    match count {
        1 => whole.to_path_buf(),
        _ if whole.extension().is_some_and(|end| end == "gguf") => path(whole.with_extension(""), no, count),
        _ => path(whole, no, count),
    }
}

/// Takes a shard's path apart into prefix, number from 0 and count; `None` where it is not called as one.
///
/// ```
/// let (prefix, no, count) = gguf::split::parse("m/a-00002-of-00003.gguf").unwrap();
/// assert_eq!((prefix.to_str(), no, count), (Some("m/a"), 1, 3));
/// assert!(gguf::split::parse("m/a.gguf").is_none());
/// ```
pub fn parse(path: impl AsRef<Path>) -> Option<(PathBuf, usize, usize)> {
    let path = path.as_ref();
    let name = path.file_name()?;
    // Byte by byte: what stands before the numbers need not be UTF-8.
    let stem = name.as_encoded_bytes().strip_suffix(b".gguf")?;
    let (rest, count) = last_number(stem)?;
    let (prefix, no) = last_number(rest.strip_suffix(b"-of")?)?;
    let prefix = crate::beside::os_str(prefix).filter(|prefix| !prefix.is_empty())?;
    Some((path.with_file_name(prefix), no.checked_sub(1)?, count))
}

/// Takes `-00012` off the end of a name: at least five digits.
fn last_number(name: &[u8]) -> Option<(&[u8], usize)> {
    let digits = name.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let (rest, digits) = name.split_at(name.len() - digits);
    let number = std::str::from_utf8(digits).ok().filter(|d| d.len() >= 5)?.parse().ok()?;
    Some((rest.strip_suffix(b"-")?, number))
}
