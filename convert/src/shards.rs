//! Files of tensors as `save_pretrained` lays them out.
//!
//! Tensors are dealt to shards in the order of the model; within a file they are sorted by the size of their type,
//! largest first, then by name, as the safetensors library does. All sizes are known before a byte of data is, so that
//! every file has its length at once and data is written to its place from several threads.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use ::safetensors::tensor::{Metadata, TensorInfo};
use gguf::{Error, Result};
use serde_json::{Map, json};

use crate::python::{Layout, dumps};
use crate::safetensors::Dtype;

/// The most bytes of a file of weights where nothing else is asked for, as `save_pretrained` has it.
pub const SHARD_BYTES: u64 = 50_000_000_000;

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape, row-major.
    pub shape: Vec<u64>,
}

impl Entry {
    /// Bytes of its data.
    pub fn bytes(&self) -> u64 {
        self.shape.iter().product::<u64>() * self.dtype.bitsize() as u64 / 8
    }
}

/// Where the data of an entry goes.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    file: usize,
    offset: u64,
    bytes: u64,
}

/// The files of a folder, open for writing anywhere.
#[derive(Debug)]
pub struct Shards {
    files: Vec<(PathBuf, File)>,
    places: Vec<Place>,
}

impl Shards {
    /// Creates the files in this folder, and an index where there are several. `parameters` is what the index says of
    /// the model's size.
    ///
    /// # Errors
    /// What creating and writing meets.
    pub fn create(folder: &Path, entries: &[Entry], max_bytes: u64, parameters: u64) -> Result<Shards> {
        let shards = deal(entries, max_bytes);
        let mut created =
            Shards { files: Vec::new(), places: vec![Place { file: 0, offset: 0, bytes: 0 }; entries.len()] };
        let mut weight_map = Map::new();
        for (number, shard) in shards.iter().enumerate() {
            let name = match shards.len() {
                1 => "model.safetensors".to_owned(),
                count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
            };
            let mut order = shard.clone();
            order.sort_by_key(|&i| (Reverse(entries[i].dtype), &entries[i].name));
            let mut header = Vec::with_capacity(order.len());
            let mut end = 0;
            for &i in &order {
                let entry = &entries[i];
                let start = end;
                end += entry.bytes();
                created.places[i] = Place { file: number, offset: start, bytes: entry.bytes() };
                let shape = entry.shape.iter().map(|&d| d as usize).collect();
                let data_offsets = (start as usize, end as usize);
                header.push((entry.name.clone(), TensorInfo { dtype: entry.dtype, shape, data_offsets }));
                weight_map.insert(entry.name.clone(), json!(name));
            }
            let form = HashMap::from([("format".to_owned(), "pt".to_owned())]);
            let fault = |e| Error::usage("these tensors make no file").caused_by(e);
            let header = Metadata::new(Some(form), header).map_err(fault)?;
            let mut head = serde_json::to_vec(&header)
                .map_err(|e| Error::usage("the names of these tensors make no header").caused_by(e))?;
            head.resize(head.len().next_multiple_of(8), b' ');
            head.splice(0..0, (head.len() as u64).to_le_bytes());
            for &i in &order {
                created.places[i].offset += head.len() as u64;
            }
            let path = folder.join(name);
            let file = File::create_new(&path).map_err(|e| Error::io(&path, "create", e))?;
            file.set_len(head.len() as u64 + end).map_err(|e| Error::io(&path, "give it its length", e))?;
            write_at(&file, &head, 0).map_err(|e| Error::io(&path, "write", e))?;
            created.files.push((path, file));
        }
        if shards.len() > 1 {
            let total: u64 = entries.iter().map(Entry::bytes).sum();
            let index =
                json!({"metadata": {"total_parameters": parameters, "total_size": total}, "weight_map": weight_map});
            let path = folder.join("model.safetensors.index.json");
            let text = dumps(&index, Layout::SortedLines) + "\n";
            std::fs::write(&path, text).map_err(|e| Error::io(&path, "write", e))?;
        }
        Ok(created)
    }

    /// Writes a part of an entry's data, `at` bytes from its start. Any thread may, in any order.
    ///
    /// # Errors
    /// Bytes past the end of the entry, and what writing meets.
    pub fn write(&self, entry: usize, at: u64, bytes: &[u8]) -> Result<()> {
        let place = self.places[entry];
        if at + bytes.len() as u64 > place.bytes {
            return Err(Error::usage(format!("{} bytes at {at} are past the end of an entry", bytes.len())));
        }
        let (path, file) = &self.files[place.file];
        write_at(file, bytes, place.offset + at).map_err(|e| Error::io(path, "write", e))
    }
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}

/// Deals entries, in their order, to shards of at most this size; a larger entry gets a shard of its own.
fn deal(entries: &[Entry], max_bytes: u64) -> Vec<Vec<usize>> {
    let mut shards = Vec::new();
    let mut current = Vec::new();
    let mut size = 0;
    for (i, entry) in entries.iter().enumerate() {
        let bytes = entry.bytes();
        if bytes > max_bytes {
            shards.push(vec![i]);
            continue;
        }
        if size + bytes > max_bytes {
            shards.push(std::mem::take(&mut current));
            size = 0;
        }
        current.push(i);
        size += bytes;
    }
    if !current.is_empty() || shards.is_empty() {
        shards.push(current);
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(bytes: &[u64]) -> Vec<Entry> {
        bytes.iter().map(|&b| Entry { name: format!("t{b}"), dtype: Dtype::U8, shape: vec![b] }).collect()
    }

    #[test]
    fn entries_are_dealt_in_order() {
        assert_eq!(deal(&entries(&[6, 6, 2, 6, 2, 2]), 10), [vec![0], vec![1, 2], vec![3, 4, 5]]);
        assert_eq!(deal(&entries(&[3, 11, 4]), 10), [vec![1], vec![0, 2]]);
        assert_eq!(deal(&[], 10), [Vec::<usize>::new()]);
    }
}
