//! Writing a GGUF file: plan every offset first, then stream.

use std::io::{self, Write};

use crate::error::{Error, Result};
use crate::read::{MAGIC, MAX_KEY_BYTES, MAX_NAME_BYTES, alignment};
use crate::source::{Source, TensorInfo};
use crate::value::Metadata;

/// The version of the format that is written.
pub const VERSION: u32 = 3;

/// A file of which everything but the data is known.
#[derive(Clone, Debug)]
pub struct Plan {
    header: Vec<u8>,
    tensors: Vec<TensorInfo>,
    offsets: Vec<u64>,
    alignment: u64,
    total: u64,
}

impl Plan {
    /// Lays out a file. The alignment is `general.alignment` of the metadata, else 32.
    ///
    /// # Errors
    /// Keys or names that the format forbids, names used twice, sizes that overflow.
    pub fn new(metadata: &Metadata, tensors: &[TensorInfo]) -> Result<Plan> {
        let alignment = alignment(metadata)?;
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata.iter() {
            if key.is_empty() || key.len() as u64 > MAX_KEY_BYTES || key.contains('\0') {
                return Err(Error::usage(format!("\"{}\" cannot be a key", key.escape_debug())));
            }
            put_text(&mut header, key);
            header.extend(value.value_type().id().to_le_bytes());
            value.encode(&mut header);
        }
        let mut names = std::collections::HashSet::new();
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
            put_text(&mut header, name);
            header.extend((info.shape().dims().len() as u32).to_le_bytes());
            for dim in info.shape().dims() {
                header.extend(dim.to_le_bytes());
            }
            header.extend(info.ty().id().to_le_bytes());
            header.extend(offset.to_le_bytes());
            offsets.push(offset);
            offset = info
                .bytes()
                .checked_next_multiple_of(alignment)
                .and_then(|n| offset.checked_add(n))
                .ok_or_else(|| Error::usage(format!("tensor {name}: its offset overflows")))?;
        }
        header.resize(header.len().next_multiple_of(alignment as usize), 0);
        let total = offset.checked_add(header.len() as u64).ok_or_else(|| Error::usage("the file's size overflows"))?;
        Ok(Plan { header, tensors: tensors.to_vec(), offsets, alignment, total })
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.total
    }

    /// Bytes before the data, padding included.
    pub fn header_bytes(&self) -> u64 {
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

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Streams the data of a [`Plan`]: the bytes of each tensor in order, in pieces of any size.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    plan: Plan,
    tensor: usize,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the header and stands before the first tensor.
    ///
    /// # Errors
    /// What writing meets.
    pub fn new(mut out: W, plan: Plan) -> io::Result<Writer<W>> {
        out.write_all(&plan.header)?;
        let mut writer = Writer { out, plan, tensor: 0, written: 0 };
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
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        self.finish_tensors()
    }

    /// Steps over every tensor that is complete, padding behind it.
    fn finish_tensors(&mut self) -> io::Result<()> {
        while let Some(info) = self.plan.tensors.get(self.tensor).filter(|t| t.bytes() == self.written) {
            let padding = info.bytes().next_multiple_of(self.plan.alignment) - info.bytes();
            io::copy(&mut io::Read::take(io::repeat(0), padding), &mut self.out)?;
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

/// Rows that are read at once when a source is copied: about this many bytes.
const COPY_BYTES: u64 = 4 << 20;

/// Streams a whole source into a file of the same tensors, calling `progress` with the bytes of each piece.
///
/// # Errors
/// What reading the source or writing meets.
pub fn copy<W: Write>(source: &dyn Source, metadata: &Metadata, out: W, mut progress: impl FnMut(u64)) -> Result<W> {
    let plan = Plan::new(metadata, source.tensors())?;
    let failed = |e| Error::new(crate::ErrorKind::System, "cannot write").caused_by(e);
    let mut writer = Writer::new(out, plan).map_err(failed)?;
    for (i, info) in source.tensors().iter().enumerate() {
        let step = (COPY_BYTES / info.row_bytes().max(1)).max(1);
        let mut row = 0;
        while row < info.rows() && info.bytes() > 0 {
            let rows = row..(row + step).min(info.rows());
            row = rows.end;
            let bytes = source.rows(i, rows.clone())?;
            writer.write(&bytes).map_err(failed)?;
            progress(bytes.len() as u64);
            drop(bytes);
            source.release(i, rows);
        }
    }
    writer.finish().map_err(failed)
}

/// A whole small file in memory: `data` gives each tensor's bytes by its position.
///
/// # Errors
/// Those of [`Plan::new`] and of `data`, and data of the wrong length.
pub fn to_bytes(
    metadata: &Metadata,
    tensors: &[TensorInfo],
    mut data: impl FnMut(usize) -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let failed = |e: io::Error| Error::usage("the data does not fit the plan").caused_by(e);
    let mut writer = Writer::new(Vec::new(), Plan::new(metadata, tensors)?).map_err(failed)?;
    for i in 0..tensors.len() {
        writer.write(&data(i)?).map_err(failed)?;
    }
    writer.finish().map_err(failed)
}
