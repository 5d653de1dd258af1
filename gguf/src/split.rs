//! Models in several files: their names, their keys, reading them as one and writing them.
//!
//! The first shard holds the metadata and every shard three keys: `split.no` (u16, from 0), `split.count` (u16) and
//! `split.tensors.count` (i32, over all shards). Files are called `PREFIX-00001-of-00003.gguf`, counted from 1.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::read::File;
pub use crate::shard_name::{of_whole, parse, path};
use crate::source::{Names, Source, TensorInfo, row_range};
use crate::value::{Metadata, Value};

/// The key of a shard's number.
pub const NO: &str = "split.no";

/// The key of the number of shards.
pub const COUNT: &str = "split.count";

/// The key of the number of tensors in all shards.
pub const TENSORS_COUNT: &str = "split.tensors.count";

/// The files that a model is read from when this one is opened: all its shards that there are, or itself.
pub fn files(path: impl AsRef<Path>) -> Vec<PathBuf> {
    let path = path.as_ref();
    let mut files = vec![path.to_path_buf()];
    if let Some((prefix, own, count)) = parse(path) {
        // A name that says more shards than a u16 counts is that of no model.
        let others = (0..count.min(usize::from(u16::MAX))).filter(|&no| no != own);
        files.extend(others.map(|no| self::path(&prefix, no, count)).filter(|path| path.exists()));
    }
    files
}

/// Opens a GGUF file, or all files of a split model through its first.
///
/// ```no_run
/// let model = gguf::open("model-00001-of-00003.gguf")?;
/// println!("{} tensors", model.tensors().len());
/// # Ok::<(), gguf::Error>(())
/// ```
///
/// # Errors
/// A file that cannot be read or breaks a rule of the format, a shard that is missing or does not belong.
pub fn open(path: impl AsRef<Path>) -> Result<Box<dyn Source + Send>> {
    let first = File::open(path)?;
    Ok(if is_shard(first.metadata()) { Box::new(Splits::new(first)?) } else { Box::new(first) })
}

/// Whether the keys are those of one file of several. A count of 0 or 1 means a whole model.
pub fn is_shard(metadata: &Metadata) -> bool {
    metadata.u64(COUNT).is_some_and(|n| n > 1)
}

/// A split model as one source. Its metadata is that of the first shard without the keys of splits.
#[derive(Debug)]
pub struct Splits {
    files: Vec<File>,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    names: Names,
    /// For each tensor its file and its number there.
    places: Vec<(usize, usize)>,
}

impl Splits {
    /// Opens the shards that belong to this first one.
    ///
    /// # Errors
    /// A file that is not the first shard or not called like one; shards that are missing or contradict each other.
    pub fn new(first: File) -> Result<Splits> {
        let path = first.path().map(Path::to_path_buf).unwrap_or_default();
        let fault = |message: String| Error::input(message).at(&path);
        let count = first.metadata().u64(COUNT).unwrap_or(0);
        let no = first.metadata().u64(NO).ok_or_else(|| fault(format!("{COUNT} is {count} but {NO} is missing")))?;
        let named = parse(&path).filter(|&(_, n, c)| (n as u64, c as u64) == (no, count));
        let Some((prefix, ..)) = named else {
            return Err(fault(format!("shard {no} of {count} is not called like it"))
                .help(format!("rename it to NAME-{:05}-of-{count:05}.gguf", no.saturating_add(1))));
        };
        let count = count as usize;
        if no != 0 {
            let first = self::path(&prefix, 0, count);
            return Err(fault(format!("this is shard {no} of {count}, counted from 0"))
                .help(format!("open the first one, {}", crate::quote::path(first))));
        }
        let total = first.metadata().u64(TENSORS_COUNT);
        let mut metadata = first.metadata().clone();
        for key in [NO, COUNT, TENSORS_COUNT] {
            metadata.remove(key);
        }
        let mut files = vec![first];
        for i in 1..count {
            let path = self::path(&prefix, i, count);
            let file = File::open(&path)?;
            let (no, n) = (file.metadata().u64(NO), file.metadata().u64(COUNT));
            if no != Some(i as u64) || n.is_some_and(|n| n != count as u64) {
                let said = |number: Option<u64>| number.map_or("nothing".to_owned(), |n| n.to_string());
                return Err(Error::input(format!(
                    "{NO} is {}, {COUNT} is {}; the name says {i} of {count}, counted from 0",
                    said(no),
                    said(n)
                ))
                .at(path));
            }
            files.push(file);
        }
        let (mut tensors, mut places) = (Vec::new(), Vec::new());
        for (f, file) in files.iter().enumerate() {
            tensors.extend_from_slice(file.tensors());
            places.extend((0..file.tensors().len()).map(|t| (f, t)));
        }
        let names = Names::of(&tensors)
            .map_err(|twice| fault(format!("two shards hold the tensor {}", tensors[twice].name())))?;
        if let Some(total) = total.filter(|&n| n != tensors.len() as u64) {
            return Err(fault(format!("{TENSORS_COUNT} is {total}, the {count} shards hold {}", tensors.len())));
        }
        Ok(Splits { files, metadata, tensors, names, places })
    }

    /// The shards, in order.
    pub fn files(&self) -> &[File] {
        &self.files
    }
}

impl Source for Splits {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn rows(&self, tensor: usize, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        row_range(&self.tensors, tensor, &rows)?;
        let (file, tensor) = self.places[tensor];
        self.files[file].rows(tensor, rows)
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.names.find(&self.tensors, name)
    }

    fn release(&self, tensor: usize, rows: Range<u64>) {
        if let Some(&(file, tensor)) = self.places.get(tensor) {
            self.files[file].release(tensor, rows);
        }
    }
}

/// How a model is divided into shards. The default divides nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Division {
    /// The most bytes of tensor data in a shard. A single tensor that is larger gets a shard of its own.
    pub max_bytes: Option<u64>,
    /// The most tensors in a shard.
    pub max_tensors: Option<u64>,
    /// The first shard holds no tensor, so that it can be fetched quickly.
    pub metadata_first: bool,
}

impl Division {
    /// Which tensors go into which shard, in their order; a limit that a tensor would break closes a shard. The bytes of a
    /// tensor count with their padding to a multiple of `padded_to`: gguf-split counts the alignment of the file, the
    /// converter (`convert_hf_to_gguf.py`) 1, no padding.
    ///
    /// ```
    /// use gguf::split::Division;
    /// # use gguf::{Shape, TensorInfo, TensorType};
    /// # let tensors: Vec<TensorInfo> = (0..5)
    /// #     .map(|i| TensorInfo::new(format!("t{i}"), Shape::new(&[8]).unwrap(), TensorType::F32).unwrap())
    /// #     .collect();
    /// let twos = Division { max_tensors: Some(2), ..Division::default() };
    /// assert_eq!(twos.parts(&tensors, 32)?, [0..2, 2..4, 4..5]);
    /// assert_eq!(Division { metadata_first: true, ..twos }.parts(&tensors, 32)?, [0..0, 0..2, 2..4, 4..5]);
    /// assert_eq!(Division { max_bytes: Some(32), ..twos }.parts(&tensors, 32)?, [0..1, 1..2, 2..3, 3..4, 4..5]);
    /// # Ok::<(), gguf::Error>(())
    /// ```
    ///
    /// # Errors
    /// A limit of 0, or more than 65535 shards.
    pub fn parts(&self, tensors: &[TensorInfo], padded_to: u64) -> Result<Vec<Range<usize>>> {
        if self.max_bytes == Some(0) || self.max_tensors == Some(0) {
            return Err(Error::usage("a shard cannot be limited to nothing"));
        }
        let mut parts: Vec<Range<usize>> = self.metadata_first.then_some(0..0).into_iter().collect();
        let (mut start, mut size) = (0, 0_u64);
        for (i, info) in tensors.iter().enumerate() {
            let bytes = info.bytes().checked_next_multiple_of(padded_to).unwrap_or(u64::MAX);
            let full = self.max_bytes.is_some_and(|most| size.saturating_add(bytes) > most)
                || self.max_tensors.is_some_and(|most| (i - start) as u64 >= most);
            if full && i > start {
                parts.push(start..i);
                (start, size) = (i, 0);
            }
            size = size.saturating_add(bytes);
        }
        if start < tensors.len() || parts.is_empty() {
            parts.push(start..tensors.len());
        }
        if parts.len() > usize::from(u16::MAX) {
            return Err(Error::usage(format!("{} shards are more than {}", parts.len(), u16::MAX))
                .help("allow more bytes or tensors in a shard"));
        }
        Ok(parts)
    }
}

/// In which order a program appends the keys of splits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyOrder {
    /// gguf-split: number, tensors, count.
    #[default]
    GgufSplit,
    /// gguf-py (`convert_hf_to_gguf.py`) and llama-quantize: number, count, tensors.
    GgufPy,
}

/// The metadata of a shard: all keys in the first, the keys of splits in each.
///
/// # Errors
/// More shards than a u16 counts or more tensors than an i32 does.
pub fn metadata(all: &Metadata, no: usize, count: usize, n_tensors: usize, order: KeyOrder) -> Result<Metadata> {
    let short = |n: usize| u16::try_from(n).map_err(|_| Error::usage(format!("{count} shards are too many")));
    let tensors = i32::try_from(n_tensors).map_err(|_| Error::usage(format!("{n_tensors} tensors are too many")))?;
    let mut out = if no == 0 { all.clone() } else { Metadata::new() };
    if no > 0
        && let Some(alignment) = all.get("general.alignment")
    {
        // gguf-split loses it, so that its shards beyond the first are laid out for 32 (and read wrongly by those
        // who apply the first shard's): each shard says its own.
        out.set("general.alignment", alignment.clone());
    }
    let (no, count) = ((NO, Value::U16(short(no)?)), (COUNT, Value::U16(short(count)?)));
    let tensors = (TENSORS_COUNT, Value::I32(tensors));
    let keys = match order {
        KeyOrder::GgufSplit => [no, tensors, count],
        KeyOrder::GgufPy => [no, count, tensors],
    };
    for (key, value) in keys {
        out.remove(key);
        out.set(key, value);
    }
    Ok(out)
}

/// The metadata that gguf-split gives a merged file: the first shard's, with a count of 0 at the end, so that nobody
/// looks for further shards.
pub fn merged_metadata(first: &Metadata) -> Metadata {
    let mut out = first.clone();
    out.remove(COUNT);
    out.set(COUNT, 0_u16);
    out
}
