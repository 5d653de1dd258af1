//! Changing keys of a file without copying its tensors.
//!
//! Tensor data begins at a multiple of the alignment, so a header may grow into the padding behind it, or into space
//! that was reserved under the key [`RESERVED`]. Where the new header takes exactly the room of the old one, only
//! it is written; else the caller streams a copy.
//!
//! The header is written over a journal: a sibling file that holds the old header, on disk before the first byte
//! changes and removed after the last one is on disk. Who opens a file beside such a journal is refused until
//! [`recover`] put the old header back. So a crash never leaves a file half-edited without a way back.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::read::File;
use crate::source::Source;
use crate::value::{Array, Metadata, Value};
use crate::write::Plan;

/// The key whose value, an array of zero bytes, is room for later edits. Readers that do not know it pass over it.
pub const RESERVED: &str = "gguf.reserved";

/// One change of the keys.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Sets a key, in place where it exists.
    Set(String, Value),
    /// Gives a key another name and keeps its place.
    Rename(String, String),
    /// Removes a key.
    Remove(String),
    /// Keeps room of this many bytes for later edits.
    Reserve(u64),
}

/// The keys after these changes.
///
/// ```
/// use gguf::edit::{Change, apply};
/// let old = gguf::Metadata::from_iter([("general.name", "a"), ("general.author", "b")]);
/// let new = apply(&old, &[Change::Rename("general.name".into(), "general.basename".into())])?;
/// assert_eq!(new.iter().next().map(|(key, _)| key), Some("general.basename"));
/// # Ok::<(), gguf::Error>(())
/// ```
///
/// # Errors
/// A key to rename or remove that does not exist, or a new name that does.
pub fn apply(metadata: &Metadata, changes: &[Change]) -> Result<Metadata> {
    let missing = |key: &str| Error::usage(format!("there is no key {key}")).help("`gguf show FILE` lists the keys");
    let mut out = metadata.clone();
    for change in changes {
        match change {
            Change::Set(key, value) => {
                out.set(key, value.clone());
            }
            Change::Rename(old, new) => {
                if out.get(old).is_none() {
                    return Err(missing(old));
                }
                if old != new && out.get(new).is_some() {
                    return Err(Error::usage(format!("there is a key {new} already")).help("remove it first"));
                }
                let renamed = out.iter().map(|(k, v)| (if k == old { new } else { k }, v.clone()));
                out = renamed.collect::<Vec<_>>().into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            }
            Change::Remove(key) => {
                out.remove(key).ok_or_else(|| missing(key))?;
            }
            Change::Reserve(bytes) => {
                out.set(RESERVED, zeros(*bytes));
            }
        }
    }
    Ok(out)
}

fn zeros(len: u64) -> Array {
    Array::from(&vec![0_u8; usize::try_from(len).unwrap_or(0)][..])
}

/// A header that takes the room of an old one.
#[derive(Clone, Debug)]
pub struct InPlace {
    old: Vec<u8>,
    new: Vec<u8>,
}

/// A header with these keys for the room of the file's own, if it fits.
///
/// # Errors
/// Keys that the format forbids, or a file whose layout is not that of the keys.
pub fn fit(file: &File, metadata: &Metadata) -> Result<Option<InPlace>> {
    let room = file.data_start();
    let plan = |m: &Metadata| Plan::with_endian(m, file.tensors(), file.endian());
    // Another alignment moves the tensors.
    if crate::read::alignment(metadata)? != file.alignment() {
        return Ok(None);
    }
    let mut fitting = plan(metadata)?;
    if fitting.header_bytes() != room
        && let Some(reserved) = metadata.array(RESERVED)
    {
        let without = fitting.header_len().saturating_sub(reserved.len());
        if let Some(spare) = room.checked_sub(without) {
            let mut metadata = metadata.clone();
            metadata.set(RESERVED, zeros(spare));
            fitting = plan(&metadata)?;
        }
    }
    let old = file.header().to_vec();
    Ok((fitting.header_bytes() == room && old.len() as u64 == room)
        .then(|| InPlace { old, new: fitting.header().to_vec() }))
}

impl InPlace {
    /// The header that will take the old one's place, padding included.
    pub fn header(&self) -> &[u8] {
        &self.new
    }

    /// Writes the header into the file, over a journal.
    ///
    /// # Errors
    /// A file whose header is no longer the one that was read, and what reading and writing meet.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let failed = |e| Error::io(path, "write the new header", e);
        let mut file = fs::OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        let mut now = vec![0; self.old.len()];
        file.read_exact(&mut now).map_err(failed)?;
        if now != self.old {
            return Err(Error::input("the file was changed by someone else meanwhile").at(path).help("try again"));
        }
        let journal = write_journal(path, &self.old)?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        file.write_all(&self.new).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        fs::remove_file(&journal).map_err(|e| Error::io(&journal, "remove the journal of the edit", e))
    }
}

const JOURNAL_MAGIC: &[u8; 8] = b"GGUFEDIT";

/// Where the journal of a file's edit lies.
fn journal_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.edit-journal"))
}

fn write_journal(path: &Path, old: &[u8]) -> Result<PathBuf> {
    let journal = journal_path(path);
    let failed = |e| Error::io(&journal, "write the journal of the edit", e);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(JOURNAL_MAGIC).map_err(failed)?;
    file.write_all(&Sha256::digest(old)).map_err(failed)?;
    file.write_all(old).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist_noclobber(&journal).map_err(|e| failed(e.error))?;
    if let Ok(folder) = fs::File::open(folder) {
        // Not every file system lets a folder be synced.
        let _ = folder.sync_all();
    }
    Ok(journal)
}

/// Whether an edit of this file was interrupted.
pub fn is_interrupted(path: impl AsRef<Path>) -> bool {
    journal_path(path.as_ref()).exists()
}

/// Puts the header back that an interrupted edit was replacing; says whether there was one.
///
/// # Errors
/// A journal that is not whole (then the file was not touched yet and the journal may be deleted), and what reading
/// and writing meet.
pub fn recover(path: impl AsRef<Path>) -> Result<bool> {
    let path = path.as_ref();
    let journal = journal_path(path);
    if !journal.exists() {
        return Ok(false);
    }
    let bytes = fs::read(&journal).map_err(|e| Error::io(&journal, "read", e))?;
    let old = bytes
        .strip_prefix(JOURNAL_MAGIC)
        .and_then(|rest| rest.split_at_checked(32))
        .filter(|(sum, old)| Sha256::digest(old)[..] == **sum)
        .map(|(_, old)| old)
        .ok_or_else(|| Error::input("is no whole journal of an edit").at(&journal).help("delete it"))?;
    let failed = |e| Error::io(path, "put the old header back", e);
    let mut file = fs::OpenOptions::new().write(true).open(path).map_err(failed)?;
    file.write_all(old).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::remove_file(&journal).map_err(|e| Error::io(&journal, "remove", e))?;
    Ok(true)
}

/// Reads a value from text, for command lines: `12`, `true`, `1.5`, `text`, `[1,2,3]`.
///
/// # Errors
/// Text that is no value of this type.
pub fn parse_value(text: &str, ty: crate::ValueType, element: Option<crate::ValueType>) -> Result<Value> {
    use crate::ValueType as T;
    fn number<N: std::str::FromStr>(text: &str, ty: T) -> Result<N> {
        text.trim().parse().map_err(|_| Error::usage(format!("\"{text}\" is no {ty}")))
    }
    Ok(match ty {
        T::U8 => Value::U8(number(text, ty)?),
        T::I8 => Value::I8(number(text, ty)?),
        T::U16 => Value::U16(number(text, ty)?),
        T::I16 => Value::I16(number(text, ty)?),
        T::U32 => Value::U32(number(text, ty)?),
        T::I32 => Value::I32(number(text, ty)?),
        T::F32 => Value::F32(number(text, ty)?),
        T::U64 => Value::U64(number(text, ty)?),
        T::I64 => Value::I64(number(text, ty)?),
        T::F64 => Value::F64(number(text, ty)?),
        T::Bool => match text.trim() {
            "true" | "1" => Value::Bool(true),
            "false" | "0" => Value::Bool(false),
            _ => return Err(Error::usage(format!("\"{text}\" is neither true nor false"))),
        },
        T::String => Value::from(text),
        T::Array => {
            let items: Vec<serde_json::Value> = serde_json::from_str(text).map_err(|e| {
                Error::usage(format!("\"{text}\" is no JSON array")).caused_by(e).help("such as '[\"en\",\"de\"]'")
            })?;
            let element = element.unwrap_or_else(|| match items.first() {
                Some(serde_json::Value::Bool(_)) => T::Bool,
                Some(serde_json::Value::Number(n)) if n.is_f64() => T::F32,
                Some(serde_json::Value::Number(_)) => T::I32,
                _ => T::String,
            });
            if element == T::Array {
                return Err(Error::usage("an array of arrays is refused by most readers"));
            }
            let values = items.iter().map(|item| match item {
                serde_json::Value::String(text) => parse_value(text, element, None),
                other => parse_value(&other.to_string(), element, None),
            });
            Value::Array(Array::of(element, values.collect::<Result<Vec<_>>>()?)?)
        }
    })
}

/// The value that a text gives a key, of the type that readers of the key want. Where they want none, the type is that
/// of the old value, or what the text looks like.
///
/// ```
/// use gguf::{Value, edit::value_for};
/// assert_eq!(value_for("llama.rope.freq_base", None, "10000")?, Value::F32(10000.0));
/// assert_eq!(value_for("general.name", None, "7")?, Value::from("7"));
/// assert_eq!(value_for("my.key", None, "7")?, Value::U32(7));
/// # Ok::<(), gguf::Error>(())
/// ```
///
/// # Errors
/// A text that is no value of this type.
pub fn value_for(key: &str, old: Option<&Value>, text: &str) -> Result<Value> {
    use crate::ValueType as T;
    let Some(kind) = crate::keys::kind(key) else {
        return match old {
            Some(Value::Array(array)) => parse_value(text, T::Array, Some(array.element_type())),
            Some(value) => parse_value(text, value.value_type(), None),
            None => parse_value(text, looks_like(text), None),
        };
    };
    let own = old.and_then(Value::as_array).map(Array::element_type).filter(|t| kind.each.contains(t));
    let lists = own.iter().chain(kind.each).map(|&element| (T::Array, Some(element)));
    let one = kind.one.map(|ty| (ty, None));
    let types: Vec<_> =
        if looks_like(text) == T::Array { lists.chain(one).collect() } else { one.into_iter().collect() };
    let value = types.into_iter().find_map(|(ty, element)| parse_value(text, ty, element).ok());
    value.ok_or_else(|| {
        Error::usage(format!("{key} is of type {kind}, and \"{text}\" is no value of it"))
            .help("--type stores another type all the same")
    })
}

/// The type that a value looks like.
fn looks_like(text: &str) -> crate::ValueType {
    use crate::ValueType;
    if text == "true" || text == "false" {
        ValueType::Bool
    } else if text.parse::<u32>().is_ok() {
        ValueType::U32
    } else if text.parse::<i32>().is_ok() {
        ValueType::I32
    } else if text.parse::<u64>().is_ok() {
        ValueType::U64
    } else if text.parse::<i64>().is_ok() {
        ValueType::I64
    } else if text.parse::<f32>().is_ok_and(f32::is_finite) {
        ValueType::F32
    } else if text.starts_with('[') && serde_json::from_str::<Vec<serde_json::Value>>(text).is_ok() {
        ValueType::Array
    } else {
        ValueType::String
    }
}
