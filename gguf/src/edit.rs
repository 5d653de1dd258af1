//! Changing keys of a file without copying its tensors.
//!
//! Tensor data begins at a multiple of the alignment, so a header may grow into the padding behind it, or into space
//! that was reserved under the key [`RESERVED`]. Where the new header takes exactly the room of the old one, only
//! it is written; else the caller streams a copy.
//!
//! The header is written over a journal: a sibling of the file itself (not of a link to it) that holds the old header
//! and the new one, on disk before the first byte changes and removed after the last one is on disk. Until then the file
//! begins with [`MARK`] instead of its magic, so that no reader takes the mixture for a model, whether or not it knows
//! of journals. An edit that fails puts the old header back by itself; after a crash [`recover`] does.
//!
//! A journal tells whose it is: the file has its size, its number in the file system, and in every byte of the header
//! what was there before or after the edit. Beside any other file, such as one that was written anew since, it is void:
//! nobody is refused for it, and nothing is written from it.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::beside;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Journal, inode, journal_path, remove_journal};
pub use crate::journal::{MARK, is_interrupted};
use crate::read::File;
use crate::source::Source;
use crate::value::{Array, Metadata, Value};
use crate::write::{FileLayout, MAX_ALIGNMENT};

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
    let plan = |m: &Metadata| FileLayout::with_layout(m, file.tensors(), file.endian());
    // Another alignment moves the tensors; a header of a large one is nothing to hold in memory.
    if crate::read::alignment(metadata)? != file.alignment() || file.alignment() > MAX_ALIGNMENT {
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
    let old = file.header_bytes().to_vec();
    Ok((fitting.header_bytes() == room && old.len() as u64 == room)
        .then(|| InPlace { old, new: fitting.padded_header() }))
}

impl InPlace {
    /// The header that will take the old one's place, padding included.
    pub fn header(&self) -> &[u8] {
        &self.new
    }

    /// Writes the header into the file, over a journal. Where that fails the old header is back afterwards.
    ///
    /// # Errors
    /// A file whose header is no longer the one that was read, one that somebody edits, and what reading and writing
    /// meet.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let real = beside::real(path)?;
        let failed = |e| Error::io(path, "write the new header", e);
        let mut file = open_alone(&real).map_err(|e| e.at(path))?;
        let mut now = vec![0; self.old.len()];
        file.read_exact(&mut now).map_err(failed)?;
        if now != self.old {
            return Err(Error::input("the file was changed by someone else meanwhile").at(path).help("try again"));
        }
        let meta = file.metadata().map_err(failed)?;
        let journal = Journal { inode: inode(&meta), size: meta.len(), old: self.old.clone(), new: self.new.clone() };
        journal.write(&real)?;
        if let Err(error) = replace_header(&mut file, &self.new) {
            let error = failed(error);
            return Err(match replace_header(&mut file, &self.old) {
                Ok(()) => match remove_journal(&real) {
                    Ok(()) => error.help("the file is as it was before"),
                    Err(left) => left,
                },
                Err(_) => error.help(format!("`gguf recover {}` puts the old header back", crate::quote::path(path))),
            });
        }
        remove_journal(&real)
    }
}

/// Opens a file for writing unless another program edits it.
fn open_alone(path: &Path) -> Result<fs::File> {
    let failed = |e| Error::io(path, "open for writing", e);
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(Error::input("is no regular file, which an edit needs").at(path));
    }
    let file = fs::OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => {
            Err(Error::new(ErrorKind::System, "another program is editing the file").at(path).help("try again"))
        }
        // Where files cannot be locked, two edits at once are told by the header that the second one finds.
        _ => Ok(file),
    }
}

/// Writes a header behind [`MARK`], and the magic last; each step is on disk before the next.
fn replace_header(file: &mut fs::File, header: &[u8]) -> io::Result<()> {
    let (magic, rest) = header.split_at(header.len().min(MARK.len()));
    for (at, bytes) in [(0, &MARK[..]), (magic.len(), rest), (0, magic)] {
        file.seek(SeekFrom::Start(at as u64))?;
        file.write_all(bytes)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Puts the header back that an interrupted edit was replacing; says whether there was one.
///
/// A journal that belongs to another file, or to what this one was before it was written anew, is removed and not
/// used.
///
/// # Errors
/// A file that somebody edits, an interrupted edit whose journal is gone, and what reading and writing meet.
pub fn recover(path: impl AsRef<Path>) -> Result<bool> {
    let path = path.as_ref();
    let real = beside::real(path)?;
    let journal = fs::symlink_metadata(journal_path(&real)).is_ok();
    if !journal && !is_interrupted(path) {
        return Ok(false);
    }
    let mut file = open_alone(&real).map_err(|e| e.at(path))?;
    let failed = |e| Error::io(path, "put the old header back", e);
    let meta = file.metadata().map_err(failed)?;
    let own = Journal::read(&real).and_then(|journal| {
        let mut now = vec![0; journal.old.len()];
        file.read_exact(&mut now).ok()?;
        journal.belongs_to(&meta, &now).then_some((journal, now))
    });
    let Some((journal, now)) = own else {
        if is_interrupted(path) {
            let help = "bring the journal (.NAME.edit-journal) back beside the file, or fetch the file again";
            return Err(Error::input("an edit of this file was interrupted, and its journal is gone")
                .at(path)
                .help(help));
        }
        remove_journal(&real)?;
        return Ok(false);
    };
    if now != journal.old {
        replace_header(&mut file, &journal.old).map_err(failed)?;
    }
    remove_journal(&real)?;
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
            .help("--value-type stores another type all the same")
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
