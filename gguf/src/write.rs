//! Writing a GGUF file: plan every offset first, then stream.

use std::io::{self, Write};

use crate::error::{Error, Result};
use crate::read::{MAGIC, MAX_KEY_BYTES, MAX_NAME_BYTES, alignment};
use crate::source::{Source, TensorInfo};
use crate::value::{Endian, Metadata, Value};

/// The version of the format that is written.
pub const VERSION: u32 = 3;

/// The largest alignment that is written where nothing else is asked for: 64 KiB is a large page of memory, and padding
/// costs as much for every tensor.
pub const MAX_ALIGNMENT: u64 = 1 << 16;

/// How a file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The byte order.
    pub endian: Endian,
    /// The largest `general.alignment` that is written.
    pub max_alignment: u64,
}

impl Default for Layout {
    fn default() -> Layout {
        Layout { endian: Endian::Little, max_alignment: MAX_ALIGNMENT }
    }
}

impl From<Endian> for Layout {
    fn from(endian: Endian) -> Layout {
        Layout { endian, ..Layout::default() }
    }
}

/// A file of which everything but the data is known.
///
/// ```
/// use gguf::{Metadata, FileLayout, Shape, TensorInfo, TensorType, Writer};
///
/// let metadata = Metadata::from_iter([("general.architecture", "llama")]);
/// let tensors = [TensorInfo::new("a", Shape::new(&[4, 2])?, TensorType::F32)?];
/// let plan = FileLayout::new(&metadata, &tensors)?;
/// let total = plan.file_bytes();
/// // Any `Write` will do; the bytes of each tensor follow in order, in pieces of any size.
/// let mut writer = Writer::new(Vec::new(), plan)?;
/// for value in 0..8 {
///     writer.write(&(value as f32).to_le_bytes())?;
/// }
/// let file = writer.finish()?;
/// assert_eq!(file.len() as u64, total);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct FileLayout {
    /// Without the padding behind it.
    header: Vec<u8>,
    padding: u64,
    tensors: Vec<TensorInfo>,
    offsets: Vec<u64>,
    alignment: u64,
    total: u64,
    endian: Endian,
}

/// Appends integers and strings in a byte order.
struct Encoder {
    out: Vec<u8>,
    endian: Endian,
}

impl Encoder {
    fn u32(&mut self, v: u32) {
        Value::U32(v).encode_as(self.endian, &mut self.out);
    }

    fn u64(&mut self, v: u64) {
        Value::U64(v).encode_as(self.endian, &mut self.out);
    }

    fn text(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.out.extend_from_slice(text.as_bytes());
    }
}

impl FileLayout {
    /// Lays out a file. The alignment is `general.alignment` of the metadata, else 32.
    ///
    /// # Errors
    /// Keys or names that the format forbids, names used twice, sizes that overflow.
    pub fn new(metadata: &Metadata, tensors: &[TensorInfo]) -> Result<FileLayout> {
        FileLayout::with_layout(metadata, tensors, Layout::default())
    }

    /// Lays out a file in this byte order, or with this alignment. Data is given to the [`Writer`] in little-endian order
    /// all the same.
    ///
    /// # Errors
    /// Those of [`FileLayout::new`], and types for which big-endian data is not specified.
    pub fn with_layout(metadata: &Metadata, tensors: &[TensorInfo], layout: impl Into<Layout>) -> Result<FileLayout> {
        let Layout { endian, max_alignment } = layout.into();
        let alignment = alignment(metadata)?;
        if alignment > max_alignment {
            return Err(Error::input(format!(
                "general.alignment is {alignment}: the header and every tensor would be padded to that; {max_alignment} is the \
                 most that is written"
            ))
            .help(
                "`gguf set FILE general.alignment 32` lays the file out again; the commands of `gguf` write it all the \
                 same with --allow-large-alignment",
            ));
        }
        let mut header = Encoder { out: Vec::new(), endian };
        header.out.extend(MAGIC);
        header.u32(VERSION);
        header.u64(tensors.len() as u64);
        header.u64(metadata.len() as u64);
        for (key, value) in metadata.iter() {
            if key.is_empty() || key.len() as u64 > MAX_KEY_BYTES || key.contains('\0') {
                return Err(Error::usage(format!("\"{}\" cannot be a key", crate::quote::shortened(key))));
            }
            header.text(key);
            header.u32(value.value_type().id());
            value.encode_as(endian, &mut header.out);
        }
        let mut names = std::collections::HashSet::with_capacity(tensors.len());
        let mut offsets = Vec::with_capacity(tensors.len());
        let mut offset = 0_u64;
        for info in tensors {
            let name = info.name();
            if name.is_empty() || name.len() as u64 >= MAX_NAME_BYTES || name.contains(char::is_control) {
                return Err(Error::usage(format!("\"{}\" cannot name a tensor", name.escape_debug()))
                    .help(format!("tensor names have 1 to {} bytes", MAX_NAME_BYTES - 1)));
            }
            if !names.insert(name) {
                return Err(Error::usage(format!("two tensors are named {name}")));
            }
            if endian == Endian::Big {
                crate::endian::swapped(info.ty(), &[])?;
            }
            header.text(name);
            header.u32(info.shape().dims().len() as u32);
            for &dim in info.shape().dims() {
                header.u64(dim);
            }
            header.u32(info.ty().id());
            header.u64(offset);
            offsets.push(offset);
            offset = info
                .bytes()
                .checked_next_multiple_of(alignment)
                .and_then(|n| offset.checked_add(n))
                .ok_or_else(|| Error::usage("its offset overflows").in_tensor(name))?;
        }
        let header = header.out;
        let header_bytes = (header.len() as u64).next_multiple_of(alignment);
        let padding = header_bytes - header.len() as u64;
        let total = offset.checked_add(header_bytes).ok_or_else(|| Error::usage("the file's size overflows"))?;
        Ok(FileLayout { header, padding, tensors: tensors.to_vec(), offsets, alignment, total, endian })
    }

    /// The plan of a file that ends with its header, where it has no tensors: llama.cpp's converter pads none such.
    #[must_use]
    pub fn unpadded(mut self) -> FileLayout {
        if self.tensors.is_empty() {
            self.padding = 0;
            self.total = self.header_len();
        }
        self
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.total
    }

    /// Bytes before the data, padding included.
    pub fn header_bytes(&self) -> u64 {
        self.header_len() + self.padding
    }

    /// The header with its padding.
    #[cfg(feature = "edit")]
    pub(crate) fn padded_header(&self) -> Vec<u8> {
        let mut header = self.header.clone();
        header.resize(header.len() + self.padding as usize, 0);
        header
    }

    /// Bytes of the header without its padding.
    pub(crate) fn header_len(&self) -> u64 {
        self.header.len() as u64
    }

    /// Where a tensor's data begins, from the end of the header.
    pub fn offset(&self, tensor: usize) -> Option<u64> {
        self.offsets.get(tensor).copied()
    }

    /// The tensors, in order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }
}

/// Streams the data of a [`FileLayout`]: the bytes of each tensor in order, in pieces of any size.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    plan: FileLayout,
    tensor: usize,
    written: u64,
    /// The beginning of a block whose rest has not come yet; only big-endian data waits for whole blocks.
    partial: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes the header and stands before the first tensor.
    ///
    /// # Errors
    /// What writing meets.
    pub fn new(mut out: W, plan: FileLayout) -> io::Result<Writer<W>> {
        out.write_all(&plan.header)?;
        pad(&mut out, plan.padding)?;
        let mut writer = Writer { out, plan, tensor: 0, written: 0, partial: Vec::new() };
        writer.finish_tensors()?;
        Ok(writer)
    }

    /// Appends bytes to the current tensor; padding follows its last byte by itself.
    ///
    /// # Errors
    /// What writing meets, or more bytes than the plan has left for this tensor.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let left = self.plan.tensors.get(self.tensor).map_or(0, |t| t.bytes() - self.written);
        if bytes.len() as u64 > left {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more bytes than the plan has for this tensor"));
        }
        match self.plan.endian {
            Endian::Little => self.out.write_all(bytes)?,
            Endian::Big => self.write_swapped(bytes)?,
        }
        self.written += bytes.len() as u64;
        self.finish_tensors()
    }

    fn write_swapped(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(info) = self.plan.tensors.get(self.tensor) else { return Ok(()) };
        self.partial.extend_from_slice(bytes);
        let whole = self.partial.len() / info.ty().block_bytes() as usize * info.ty().block_bytes() as usize;
        let swapped = crate::endian::swapped(info.ty(), &self.partial[..whole]).map_err(io::Error::other)?;
        self.partial.drain(..whole);
        self.out.write_all(&swapped)
    }

    /// Steps over every tensor that is complete, padding behind it.
    fn finish_tensors(&mut self) -> io::Result<()> {
        while let Some(info) = self.plan.tensors.get(self.tensor).filter(|t| t.bytes() == self.written) {
            let padding = info.bytes().next_multiple_of(self.plan.alignment) - info.bytes();
            pad(&mut self.out, padding)?;
            self.tensor += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Gives the output back when every tensor is complete.
    ///
    /// # Errors
    /// A tensor whose bytes are missing.
    pub fn finish(self) -> io::Result<W> {
        match self.plan.tensors.get(self.tensor) {
            None => Ok(self.out),
            Some(info) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("tensor {} has {} of its {} bytes", info.name(), self.written, info.bytes()),
            )),
        }
    }
}

fn pad(out: &mut impl Write, bytes: u64) -> io::Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0), bytes), out).map(drop)
}

/// Rows that are read at once when a source is copied: about this many bytes.
const COPY_BYTES: u64 = 4 << 20;

/// Streams a whole source into a file of the same tensors, calling `progress` with the bytes of each piece.
///
/// # Errors
/// What reading the source or writing meets.
pub fn copy<W: Write>(source: &dyn Source, metadata: &Metadata, out: W, progress: impl FnMut(u64)) -> Result<W> {
    copy_part(source, 0..source.tensors().len(), metadata, Layout::default(), out, progress)
}

/// Streams some tensors of a source into a file of this layout, or this byte order: a shard, for example.
///
/// # Errors
/// Tensors that do not exist, and what reading the source or writing meets.
pub fn copy_part<W: Write>(
    source: &dyn Source,
    part: std::ops::Range<usize>,
    metadata: &Metadata,
    layout: impl Into<Layout>,
    out: W,
    progress: impl FnMut(u64),
) -> Result<W> {
    let infos = source
        .tensors()
        .get(part.clone())
        .ok_or_else(|| Error::usage(format!("there are {} tensors, not {part:?}", source.tensors().len())))?;
    copy_planned(source, part, FileLayout::with_layout(metadata, infos, layout)?, COPY_BYTES, out, progress)
}

/// As [`copy_part`], into a file that is laid out already, with pieces of at most so many bytes; a row is the least.
///
/// # Errors
/// What reading the source or writing meets, and a plan of other tensors.
pub fn copy_planned<W: Write>(
    source: &dyn Source,
    part: std::ops::Range<usize>,
    plan: FileLayout,
    piece: u64,
    out: W,
    mut progress: impl FnMut(u64),
) -> Result<W> {
    let mut writer = Writer::new(out, plan).map_err(failed)?;
    for i in part {
        pieces(source, i, piece, |bytes| {
            writer.write(bytes).map_err(failed)?;
            progress(bytes.len() as u64);
            Ok(())
        })?;
    }
    writer.finish().map_err(failed)
}

/// The error of a write. What cannot even be read from memory was mapped from a file that is shorter now.
fn failed(e: io::Error) -> Error {
    /// `EFAULT` of every Unix.
    const BAD_ADDRESS: i32 = 14;
    if cfg!(unix) && e.raw_os_error() == Some(BAD_ADDRESS) {
        return crate::map::became_shorter();
    }
    Error::new(crate::ErrorKind::System, "cannot write").caused_by(e)
}

/// Gives a tensor's bytes in order, a few megabytes at a time.
///
/// # Errors
/// What reading the source meets, and what `work` says.
pub fn for_each_piece(source: &dyn Source, tensor: usize, work: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    pieces(source, tensor, COPY_BYTES, work)
}

fn pieces(source: &dyn Source, tensor: usize, most: u64, mut work: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let info =
        source.tensors().get(tensor).ok_or_else(|| Error::usage(format!("there is no tensor number {tensor}")))?;
    let step = (most.min(COPY_BYTES) / info.row_bytes().max(1)).max(1);
    let mut row = 0;
    while row < info.rows() && info.bytes() > 0 {
        let rows = row..row.saturating_add(step).min(info.rows());
        row = rows.end;
        work(&source.rows(tensor, rows.clone())?)?;
        source.release(tensor, rows);
    }
    Ok(())
}

/// A whole small file in memory: `data` gives each tensor's bytes by its position.
///
/// # Errors
/// Those of [`FileLayout::new`] and of `data`, and data of the wrong length.
pub fn to_bytes(
    metadata: &Metadata,
    tensors: &[TensorInfo],
    mut data: impl FnMut(usize) -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let failed = |e: io::Error| Error::usage("the data does not fit the plan").caused_by(e);
    let mut writer = Writer::new(Vec::new(), FileLayout::new(metadata, tensors)?).map_err(failed)?;
    for i in 0..tensors.len() {
        writer.write(&data(i)?).map_err(failed)?;
    }
    writer.finish().map_err(failed)
}
