//! Reading a GGUF file over a memory map.
//!
//! [`File`] is strict: what the specification forbids and what would let two readers see different things is an
//! error. To learn everything that is wrong with a file, use the `check` module.

use std::borrow::Cow;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::cursor::Cursor;
use crate::error::{Error, ErrorKind, Result};
use crate::map::Mapped;
use crate::source::{MAX_DIMS, Names, Shape, Source, TensorInfo, row_range};
use crate::types::{REMOVED_IDS, TensorType};
use crate::value::{Endian, Metadata, ValueType};

/// The first four bytes of every file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// The alignment of tensor data where `general.alignment` says nothing.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: u64 = 65535;

/// A tensor's name is shorter than this (`GGML_MAX_NAME`).
pub const MAX_NAME_BYTES: u64 = 64;

/// An opened GGUF file.
///
/// ```
/// # fn main() -> gguf::Result<()> {
/// use gguf::{File, Source};
/// # let path = std::env::temp_dir().join(format!("gguf-doc-{}.gguf", std::process::id()));
/// # let meta = gguf::Metadata::from_iter([("general.architecture", "llama")]);
/// # std::fs::write(&path, gguf::write::to_bytes(&meta, &[], |_| Ok(Vec::new()))?).unwrap();
/// let file = File::open(&path)?;
/// assert_eq!(file.metadata().architecture(), Some("llama"));
/// for tensor in file.tensors() {
///     println!("{} {} {}", tensor.name(), tensor.shape(), tensor.ty());
/// }
/// # std::fs::remove_file(&path).ok();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct File {
    path: Option<PathBuf>,
    mapped: Mapped,
    header: Header,
}

/// What stands before the data of a GGUF file: keys, and where each tensor lies.
#[derive(Clone, Debug)]
pub struct Header {
    version: u32,
    endian: Endian,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    names: Names,
    offsets: Vec<u64>,
    alignment: u64,
    data_start: u64,
    total: u64,
}

impl File {
    /// Opens a file through a memory map.
    ///
    /// # Errors
    /// A file that cannot be read, or that breaks a rule of the format.
    pub fn open(path: impl AsRef<Path>) -> Result<File> {
        File::open_at(path, 0)
    }

    /// Opens a GGUF that begins at this byte of a larger file. Padding counts from there; so do the offsets in errors.
    ///
    /// # Errors
    /// Those of [`File::open`], and a byte beyond the end.
    pub fn open_at(path: impl AsRef<Path>, at: u64) -> Result<File> {
        let path = path.as_ref();
        let mapped = crate::map::open(path)?;
        if at == 0 && crate::journal::is_interrupted_in(path, &mapped.bytes) {
            return Err(Error::input("an edit of this file was interrupted")
                .at(path)
                .help(format!("`gguf recover {}` puts the old header back", crate::quote::path(path))));
        }
        let mut file = mapped.at(at).and_then(File::from_mapped).map_err(|e| e.at(path))?;
        file.path = Some(path.to_path_buf());
        Ok(file)
    }

    /// Reads a file that is already in memory.
    ///
    /// # Errors
    /// Bytes that break a rule of the format.
    pub fn from_bytes(bytes: Bytes) -> Result<File> {
        File::from_mapped(bytes.into())
    }

    fn from_mapped(mapped: Mapped) -> Result<File> {
        let header = Header::parse(&mut Cursor::new(mapped.bytes.clone()))?;
        Ok(File { path: None, mapped, header })
    }

    /// The file's path, if it was opened by one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What stands before the data.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// The byte order.
    pub fn endian(&self) -> Endian {
        self.header.endian
    }

    /// The alignment of tensor data, in bytes.
    pub fn alignment(&self) -> u64 {
        self.header.alignment
    }

    /// The byte at which tensor data begins.
    pub fn data_start(&self) -> u64 {
        self.header.data_start
    }

    /// The bytes before the data, padding included; fewer, where the file ends inside the padding.
    #[cfg(feature = "edit")]
    pub(crate) fn header_bytes(&self) -> &[u8] {
        &self.mapped.bytes[..self.mapped.bytes.len().min(self.header.data_start as usize)]
    }

    /// The bytes of the file, from the start of the GGUF.
    pub fn bytes(&self) -> &[u8] {
        &self.mapped.bytes
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.mapped.bytes.len() as u64
    }

    /// Where a tensor's data begins, in bytes from [`File::data_start`].
    pub fn offset(&self, tensor: usize) -> Option<u64> {
        self.header.offset(tensor)
    }

    fn span(&self, tensor: usize, rows: &Range<u64>) -> Result<Range<usize>> {
        let span = self.header.span(tensor, rows)?;
        Ok(span.start as usize..span.end as usize)
    }
}

/// Bytes that are read first of a file of which only the header is wanted.
const FIRST_READ: u64 = 1 << 20;

impl Header {
    /// Reads the header of a file and nothing of its data. What gives a range of bytes for a position, such as a
    /// request to a server, can be `Read + Seek` too: it is asked for the length, and for the beginning in a few pieces.
    ///
    /// # Errors
    /// What breaks a rule of the format, data past the end among it, and what reading meets.
    pub fn read(from: impl Read + Seek) -> Result<Header> {
        Header::read_by(from, FIRST_READ)
    }

    fn read_by(mut from: impl Read + Seek, first: u64) -> Result<Header> {
        let failed = |e| Error::new(ErrorKind::System, "cannot read the header").caused_by(e);
        let total = from.seek(SeekFrom::End(0)).map_err(failed)?;
        from.rewind().map_err(failed)?;
        let mut beginning = Vec::new();
        let mut wanted = first;
        loop {
            let more = wanted.min(total).saturating_sub(beginning.len() as u64);
            let held = beginning.len() as u64 + more;
            (&mut from).take(more).read_to_end(&mut beginning).map_err(failed)?;
            if (beginning.len() as u64) < held {
                return Err(Error::input("ends before its length: it was cut meanwhile"));
            }
            let bytes = Bytes::from(beginning);
            let mut cursor = Cursor::beginning(bytes.clone(), total);
            let header = Header::parse(&mut cursor);
            match cursor.wanting().filter(|_| header.is_err()) {
                // Never twice as much as there is to come.
                Some(least) => wanted = least.max(held.saturating_mul(2)),
                None => return header,
            }
            drop(cursor);
            beginning = bytes.try_into_mut().map_or_else(|shared| shared.to_vec(), Vec::from);
        }
    }

    fn parse(cursor: &mut Cursor) -> Result<Header> {
        let total = cursor.remaining();
        let magic = cursor.take(4, "the header")?;
        if magic[..] == crate::journal::MARK {
            return Err(Error::input("an edit of this file was interrupted").at_offset(0));
        }
        if magic[..] != MAGIC {
            return Err(Error::input("is not a GGUF file: it does not begin with \"GGUF\"").at_offset(0));
        }
        let version = read_version(cursor)?;
        let (n_tensors, n_kv) = (cursor.u64("the header")?, cursor.u64("the header")?);
        let least = n_kv.checked_mul(13).zip(n_tensors.checked_mul(24)).and_then(|(a, b)| a.checked_add(b));
        if least.is_none_or(|n| n > cursor.remaining()) {
            return Err(Error::input(format!(
                "{n_kv} keys and {n_tensors} tensors cannot fit the {} bytes that remain",
                cursor.remaining()
            ))
            .at_offset(8));
        }
        let mut metadata = Metadata::new();
        for _ in 0..n_kv {
            read_key(cursor, &mut metadata)?;
        }
        let alignment = alignment(&metadata)?;
        let mut tensors = Vec::with_capacity(n_tensors as usize);
        let mut offsets = Vec::with_capacity(n_tensors as usize);
        let mut expected = 0_u64;
        for _ in 0..n_tensors {
            let at = cursor.at();
            let (info, offset) = read_tensor_info(cursor)?;
            if offset != expected {
                return Err(Error::input(format!(
                    "its data begins at offset {offset}, the tensors before it end at {expected}"
                ))
                .in_tensor(info.name())
                .at_offset(at));
            }
            expected = info
                .bytes()
                .checked_next_multiple_of(alignment)
                .and_then(|n| offset.checked_add(n))
                .ok_or_else(|| Error::input("its offset overflows").in_tensor(info.name()).at_offset(at))?;
            tensors.push(info);
            offsets.push(offset);
        }
        let names = Names::of(&tensors)
            .map_err(|twice| Error::input(format!("tensor {} is named twice", tensors[twice].name())))?;
        let data_start = cursor
            .at()
            .checked_next_multiple_of(alignment)
            .ok_or_else(|| Error::input("the start of the data overflows"))?;
        for (info, &offset) in tensors.iter().zip(&offsets) {
            let end = data_start.checked_add(offset).and_then(|n| n.checked_add(info.bytes()));
            if end.is_none_or(|end| end > total) {
                return Err(Error::input(format!(
                    "its {} bytes at offset {offset} run past the end of the file ({total} bytes)",
                    info.bytes()
                ))
                .in_tensor(info.name())
                .help("the file is cut short: fetch or write it again"));
            }
        }
        let endian = cursor.endian;
        Ok(Header { version, endian, metadata, tensors, names, offsets, alignment, data_start, total })
    }

    /// The version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The byte order.
    pub fn endian(&self) -> Endian {
        self.endian
    }

    /// The alignment of tensor data, in bytes.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The byte at which tensor data begins.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.total
    }

    /// The keys.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors, in the order of their data.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Where a tensor's data begins, in bytes from [`Header::data_start`].
    pub fn offset(&self, tensor: usize) -> Option<u64> {
        self.offsets.get(tensor).copied()
    }

    /// Where rows of a tensor lie, in bytes from the start of the file.
    ///
    /// # Errors
    /// A tensor or rows that there are not.
    pub fn span(&self, tensor: usize, rows: &Range<u64>) -> Result<Range<u64>> {
        let range = row_range(&self.tensors, tensor, rows)?;
        let base = self.data_start + self.offsets[tensor];
        Ok(base + range.start..base + range.end)
    }
}

impl Source for File {
    fn metadata(&self) -> &Metadata {
        &self.header.metadata
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    fn rows(&self, tensor: usize, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let bytes = &self.mapped.bytes[self.span(tensor, &rows)?];
        if self.header.endian == Endian::Little {
            return Ok(Cow::Borrowed(bytes));
        }
        crate::endian::swapped(self.header.tensors[tensor].ty(), bytes).map(Cow::Owned)
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.header.names.find(&self.header.tensors, name)
    }

    fn release(&self, tensor: usize, rows: Range<u64>) {
        if let Ok(span) = self.span(tensor, &rows) {
            self.mapped.release(span);
        }
    }
}

fn read_version(cursor: &mut Cursor) -> Result<u32> {
    let mut version = cursor.u32("the header")?;
    if version & 0xFFFF == 0 && matches!(version.swap_bytes(), 2 | 3) {
        cursor.endian = Endian::Big;
        version = version.swap_bytes();
    }
    match version {
        2 | 3 => Ok(version),
        1 => Err(Error::input("GGUF version 1 is not supported")
            .at_offset(4)
            .help("version 1 was replaced in 2023: convert the original checkpoint again")),
        other => Err(Error::input(format!("GGUF version {other} is not known; versions 2 and 3 are")).at_offset(4)),
    }
}

fn read_key(cursor: &mut Cursor, metadata: &mut Metadata) -> Result<()> {
    let at = cursor.at();
    let fault = |message: String| Error::input(message).at_offset(at);
    let key = cursor.text("a key")?;
    let key = key.as_str().ok_or_else(|| fault("a key is not valid UTF-8".into()))?;
    if key.is_empty() || key.len() as u64 > MAX_KEY_BYTES || key.contains('\0') {
        let shown: String = key.escape_debug().take(60).collect();
        return Err(fault(format!("the key \"{shown}\" is empty, longer than {MAX_KEY_BYTES} bytes or holds a NUL")));
    }
    let id = cursor.u32(key)?;
    let ty = ValueType::from_id(id).ok_or_else(|| fault(format!("key {key}: value type {id} is unknown")))?;
    let value = cursor.value(ty, key)?;
    if metadata.set(key, value).is_some() {
        return Err(fault(format!("the key {key} stands twice")));
    }
    Ok(())
}

/// The alignment that metadata asks for.
pub(crate) fn alignment(metadata: &Metadata) -> Result<u64> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(crate::Value::U32(n)) if n.is_power_of_two() => Ok(u64::from(*n)),
        Some(other) => Err(Error::input(format!("general.alignment is {other}, not a u32 that is a power of two"))),
    }
}

fn read_tensor_info(cursor: &mut Cursor) -> Result<(TensorInfo, u64)> {
    let at = cursor.at();
    let fault = |message: String| Error::input(message).at_offset(at);
    let name = cursor.text("a tensor's name")?;
    let name = name.as_str().ok_or_else(|| fault("a tensor's name is not valid UTF-8".into()))?;
    if name.is_empty() || name.len() as u64 >= MAX_NAME_BYTES || name.contains(char::is_control) {
        let shown = name.escape_debug();
        return Err(fault(format!(
            "the tensor name \"{shown}\" is empty, {MAX_NAME_BYTES} bytes or longer, or holds control characters"
        )));
    }
    let n_dims = cursor.u32(name)?;
    if n_dims as usize > MAX_DIMS {
        return Err(fault(format!("tensor {name} has {n_dims} dimensions, the most is {MAX_DIMS}")));
    }
    let mut dims = [1_u64; MAX_DIMS];
    for dim in &mut dims[..n_dims as usize] {
        *dim = cursor.u64(name)?;
    }
    let shape = Shape::new(&dims[..n_dims as usize]).map_err(|e| e.in_tensor(name).at_offset(at))?;
    let id = cursor.u32(name)?;
    let ty = TensorType::from_id(id).ok_or_else(|| {
        let why = if REMOVED_IDS.contains(&id) { "was removed from the format" } else { "is unknown" };
        fault(format!("tensor {name}: type {id} {why}"))
    })?;
    let offset = cursor.u64(name)?;
    let info = TensorInfo::new(name, shape, ty).map_err(|e| e.at_offset(at))?;
    Ok((info, offset))
}

#[cfg(all(test, feature = "write"))]
mod tests {
    use std::io::Cursor as InMemory;

    use super::*;
    use crate::{Array, Value};

    /// A file with keys of every form and two tensors.
    fn file() -> Vec<u8> {
        let words = Array::strings(["a", "bc", ""]);
        let metadata = Metadata::from_iter([
            ("general.architecture", Value::from("llama")),
            ("a.words", Value::Array(words)),
            ("a.bytes", Value::Array(Array::from(&[7_u8; 300][..]))),
            ("a.flag", Value::Bool(true)),
        ]);
        let shape = Shape::new(&[32, 2]).unwrap();
        let tensors = ["x.weight", "y.weight"].map(|name| TensorInfo::new(name, shape, TensorType::Q8_0).unwrap());
        crate::write::to_bytes(&metadata, &tensors, |_| Ok(vec![1; 68])).unwrap()
    }

    /// Says how much of what it holds was read.
    struct Counted(InMemory<Vec<u8>>, u64);

    impl Read for Counted {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let n = self.0.read(buffer)?;
            self.1 += n as u64;
            Ok(n)
        }
    }

    impl Seek for Counted {
        fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }

    #[test]
    fn a_header_is_read_by_pieces_of_any_size() {
        let bytes = file();
        let whole = File::from_bytes(bytes.clone().into()).unwrap();
        for first in 1..bytes.len() as u64 {
            let mut from = Counted(InMemory::new(bytes.clone()), 0);
            let header = Header::read_by(&mut from, first).unwrap();
            assert!(header.metadata().iter().eq(whole.metadata().iter()), "{first}");
            assert_eq!(header.tensors(), whole.tensors(), "{first}");
            assert_eq!(header.span(1, &(1..2)).unwrap(), header.data_start() + 96 + 34..header.data_start() + 96 + 68);
            assert_eq!(header.file_bytes(), bytes.len() as u64);
            assert!(from.1 <= first.max(2 * header.data_start()), "{first}: {} bytes were read", from.1);
        }
    }

    #[test]
    fn what_is_wrong_is_said_as_of_a_file() {
        let bytes = file();
        for cut in 0..bytes.len() {
            let said = File::from_bytes(bytes[..cut].to_vec().into()).map(|_| ()).map_err(|e| e.to_string());
            for first in [1, 50, 4096] {
                let header = Header::read_by(InMemory::new(&bytes[..cut]), first);
                assert_eq!(header.map(|_| ()).map_err(|e| e.to_string()), said, "{cut} {first}");
            }
        }
        let mut wrong = bytes;
        for at in 0..wrong.len() {
            wrong[at] ^= 0xFF;
            let said = File::from_bytes(wrong.clone().into()).map(|_| ()).map_err(|e| e.to_string());
            let header = Header::read_by(InMemory::new(&wrong), 40).map(|_| ()).map_err(|e| e.to_string());
            assert_eq!(header, said, "{at}");
            wrong[at] ^= 0xFF;
        }
    }
}
