//! The files of a checkpoint folder that describe its tokenizer.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use gguf::{Error, Result};

/// No tokenizer file comes near this many bytes; a larger one is refused before it is read.
const LARGEST: u64 = 1 << 30;

/// The bytes of a file in the folder; `None` where there is no such file.
pub(crate) fn bytes(dir: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let path = dir.join(name);
    if !path.is_file() {
        return Ok(None);
    }
    read(&path).map(Some)
}

/// A file parsed as JSON; `None` where there is no such file.
pub(crate) fn json(dir: &Path, name: &str) -> Result<Option<Value>> {
    let Some(bytes) = bytes(dir, name)? else { return Ok(None) };
    let bytes = crate::json::from_python(&bytes).map_err(|e| e.at(dir.join(name)))?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| Error::input("this is not the JSON it should be").at(dir.join(name)).caused_by(e))
}

/// A text file with its line ends made uniform, as reading in text mode does; `None` where there is no such file.
pub(crate) fn text(path: &Path) -> Result<Option<String>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text =
        String::from_utf8(read(path)?).map_err(|e| Error::input("this is not UTF-8 text").at(path).caused_by(e))?;
    Ok(Some(if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text }))
}

/// The files of a subfolder with this extension, by name.
pub(crate) fn list(dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(dir).map_err(|e| Error::io(dir, "list the folder", e))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(dir, "list the folder", e))?.path();
        if path.extension().is_some_and(|e| e == extension) && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let file = fs::File::open(path).map_err(|e| Error::io(path, "open the file", e))?;
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, "read the file", e))?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::input("the file is larger than any tokenizer: more than 1 GiB").at(path));
    }
    Ok(bytes)
}

/// Whether Python would take the value for true.
pub(crate) fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}
