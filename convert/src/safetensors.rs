//! Reading safetensors: one file, or an index with shards.
//!
//! The format's own library says what a header is and which types there are, and has the last word on places and
//! sizes. Here stands what it does not: keys that stand twice and names with control characters are refused, so that no
//! two readers see different tensors, an error names the tensor, and the file is mapped, its pages given back.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::safetensors::tensor::{Metadata, TensorInfo};
use gguf::map::Map;
use gguf::{Error, Result};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use crate::{json, links};

/// The longest header the format allows.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

pub use ::safetensors::Dtype;

/// A file of tensors, mapped.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    map: Map,
}

/// A tensor of a checkpoint: known by its header, its data in the map.
#[derive(Clone, Debug)]
pub struct Stored {
    name: String,
    dtype: Dtype,
    shape: Vec<u64>,
    part: Arc<Part>,
    span: Range<usize>,
}

impl Stored {
    /// The name in the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same tensor under another name.
    #[must_use]
    pub fn renamed(mut self, name: String) -> Stored {
        self.name = name;
        self
    }

    /// The type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The shape, row-major: the last dimension is contiguous.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// The number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Where its data begin in the file: the order in which it was written.
    pub fn offset(&self) -> usize {
        self.span.start
    }

    /// The file it is in.
    pub fn path(&self) -> &Path {
        &self.part.path
    }

    /// All bytes of the data, little-endian.
    pub fn bytes(&self) -> &[u8] {
        &self.part.map[self.span.clone()]
    }

    /// Gives the mapped pages of these bytes back to the system.
    pub fn release(&self, bytes: Range<usize>) {
        let start = self.span.start + bytes.start.min(self.span.len());
        let end = self.span.start + bytes.end.min(self.span.len());
        self.part.map.release(start..end);
    }
}

/// Reads the header of one file. The tensors are sorted by name.
///
/// # Errors
/// A file that cannot be read or whose header breaks a rule.
pub fn open_file(path: &Path) -> Result<Vec<Stored>> {
    let file = fs::File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let meta = file.metadata().map_err(|e| Error::io(path, "examine", e))?;
    if !meta.is_file() {
        return Err(Error::input("is not a file").at(path));
    }
    if meta.len() < 8 {
        return Err(Error::input(format!("has {} bytes, too few for a safetensors header", meta.len())).at(path));
    }
    let map = Map::of(&file, path)?;
    let part = Arc::new(Part { path: path.to_path_buf(), map });
    parse_header(&part).map_err(|e| e.at(path))
}

fn parse_header(part: &Arc<Part>) -> Result<Vec<Stored>> {
    let bytes: &[u8] = &part.map;
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| Error::input("is too short for a header"))?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES || length > rest.len() as u64 {
        return Err(Error::input(format!(
            "the header claims {length} bytes; the file has {} after its length, the format allows {MAX_HEADER_BYTES}",
            rest.len()
        ))
        .at_offset(0)
        .help("the file is cut short or no safetensors file: fetch it again"));
    }
    let (header, data) = rest.split_at(length as usize);
    let data_start = bytes.len() - data.len();
    let entries: Entries = serde_json::from_slice(header)
        .map_err(|e| Error::input("the header is not the JSON it should be").caused_by(e))?;
    let mut tensors = Vec::with_capacity(entries.0.len());
    for (name, info) in entries.0 {
        check(&name, &info, data.len())?;
        tensors.push((name, info));
    }
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut expected = 0;
    for (name, TensorInfo { data_offsets: (start, end), .. }) in &tensors {
        if *start != expected {
            return Err(Error::input(format!("its data begins at {start}, the tensors before it end at {expected}"))
                .in_tensor(name));
        }
        expected = *end;
    }
    if expected != data.len() {
        return Err(Error::input(format!("{} bytes follow the last tensor", data.len() - expected)));
    }
    Metadata::new(None, tensors.clone())
        .map_err(|e| Error::input("the header does not describe the data").caused_by(e))?;
    let stored = |(name, info): (String, TensorInfo)| Stored {
        name,
        dtype: info.dtype,
        shape: info.shape.iter().map(|&d| d as u64).collect(),
        part: Arc::clone(part),
        span: data_start + info.data_offsets.0..data_start + info.data_offsets.1,
    };
    let mut tensors: Vec<Stored> = tensors.into_iter().map(stored).collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tensors)
}

/// The tensors of a header, read without a tree in between: memory grows with the tensors there are.
struct Entries(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let (mut entries, mut seen) = (Vec::new(), HashSet::new());
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("the key {name:?} stands twice")));
            }
            if name == "__metadata__" {
                // A tensor of this name would have fields that are no strings.
                map.next_value::<BTreeMap<String, String>>()
                    .map_err(|e| A::Error::custom(format!("__metadata__ does not map strings to strings: {e}")))?;
                continue;
            }
            let fault = |e: A::Error| A::Error::custom(format!("tensor \"{}\": {e}", name.escape_debug()));
            let info = map.next_value().map_err(fault)?;
            entries.push((name, info));
        }
        Ok(Entries(entries))
    }
}

/// More dimensions than any tensor has.
const MAX_DIMENSIONS: usize = 32;

/// Holds what a header says of a tensor against the bytes of data there are, so that an error names the tensor.
fn check(name: &str, info: &TensorInfo, available: usize) -> Result<()> {
    let fault = |what: &str| Error::input(format!("tensor \"{}\": {what}", name.escape_debug()));
    if name.is_empty() || name.contains(char::is_control) {
        return Err(fault("the name is empty or holds control characters"));
    }
    if info.shape.len() > MAX_DIMENSIONS {
        return Err(fault(&format!("its shape has {} dimensions", info.shape.len())));
    }
    let (start, end) = info.data_offsets;
    if start > end || end > available {
        return Err(fault(&format!("its data from {start} to {end} lies outside the {available} bytes of the file"))
            .help("the file is cut short or damaged: fetch it again"));
    }
    let elements = info.shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
    let bits = elements.and_then(|n| n.checked_mul(info.dtype.bitsize()));
    if bits.filter(|bits| bits % 8 == 0).map(|bits| bits / 8) != Some(end - start) {
        return Err(fault(&format!(
            "its shape {:?} of {} does not make the {} bytes it has",
            info.shape,
            info.dtype,
            end - start
        )));
    }
    Ok(())
}

/// The single file of weights, which the transformers library prefers to any index.
const SINGLE: &str = "model.safetensors";

/// The list of shards.
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a checkpoint folder, in the order of its files' names and, within a file, of their own.
///
/// # Errors
/// No safetensors file, an index and shards that disagree, links that lead out of the folder, and what [`open_file`]
/// meets.
pub fn open_folder(folder: &Path) -> Result<Vec<Stored>> {
    open_folder_with_notes(folder, &mut Vec::new())
}

/// As [`open_folder`], with what there is to say of files that were left aside.
///
/// # Errors
/// As [`open_folder`].
pub fn open_folder_with_notes(folder: &Path, notes: &mut Vec<String>) -> Result<Vec<Stored>> {
    links::check(folder)?;
    let index_path = folder.join(INDEX);
    let index = match json::read_optional(&index_path) {
        Ok(index) => index.map(|index| parse_index(&index).map_err(|e| e.at(&index_path))).transpose(),
        Err(error) => Err(error),
    };
    // A whole checkpoint in one file beside what is left of an older one in shards.
    let single = folder.join(SINGLE);
    let named = index.as_ref().is_ok_and(|i| i.as_ref().is_some_and(|i| i.values().any(|file| file == SINGLE)));
    let whole = single.is_file() && !named;
    let listed = index.and_then(|index| {
        let tensors = listed(folder, index.as_ref())?;
        Ok((tensors, index.is_some()))
    });
    match listed {
        Ok((tensors, indexed)) => {
            if whole && indexed {
                notes.push(format!(
                    "left aside: {SINGLE}, which {INDEX} does not name; transformers reads it alone, so remove it or the \
                     index with its shards"
                ));
            }
            Ok(tensors)
        }
        Err(error) if whole => {
            let tensors = open_file(&single)?;
            notes.push(format!(
                "{SINGLE} is read alone, as transformers does; remove {INDEX} and what is left of its shards ({error})"
            ));
            Ok(tensors)
        }
        Err(error) => Err(error),
    }
}

/// The tensors of the files that an index names, without one of all files of the usual name.
fn listed(folder: &Path, index: Option<&BTreeMap<String, String>>) -> Result<Vec<Stored>> {
    let index_path = folder.join(INDEX);
    let files: Vec<String> = match index {
        Some(index) => index.values().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
        None => files_named(folder, "model", ".safetensors")?,
    };
    if files.is_empty() {
        return Err(no_weights(folder)?);
    }
    let mut tensors: Vec<Stored> = Vec::new();
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for file in &files {
        let path = folder.join(file);
        if !path.is_file() {
            let count = index.into_iter().flatten().filter(|(_, f)| *f == file).count();
            return Err(Error::input(format!("the shard is missing: the index places {count} tensors in it"))
                .at(&path)
                .help("fetch the missing file into the folder"));
        }
        for tensor in open_file(&path)? {
            if let Some(other) = seen.insert(tensor.name.clone(), file.clone()) {
                return Err(Error::input(format!("tensor {} is also in {other}", tensor.name)).at(&path));
            }
            tensors.push(tensor);
        }
    }
    if let Some(index) = index {
        for (name, file) in index {
            match seen.get(name) {
                None => return Err(Error::input(format!("tensor {name} is missing from {file}")).at(&index_path)),
                Some(found) if found != file => {
                    let what = format!("tensor {name} is in {found}, the index says {file}");
                    return Err(Error::input(what).at(&index_path));
                }
                Some(_) => {}
            }
        }
        if let Some((name, file)) = seen.iter().find(|(name, _)| !index.contains_key(*name)) {
            return Err(Error::input(format!("tensor {name} of {file} is not in the index")).at(&index_path));
        }
    }
    Ok(tensors)
}

fn parse_index(index: &Value) -> Result<BTreeMap<String, String>> {
    let map = index["weight_map"].as_object().ok_or_else(|| Error::input("the index has no weight_map"))?;
    let mut files = BTreeMap::new();
    for (name, file) in map {
        let file = file.as_str().ok_or_else(|| Error::input(format!("weight_map gives {name} no file name")))?;
        let bare = !file.is_empty() && !file.contains(['/', '\\', '\0', ':']) && file != "." && file != "..";
        if !bare {
            let what = format!("weight_map places {name} in \"{}\", not a bare file name", file.escape_debug());
            return Err(Error::input(what).help("shards lie in the checkpoint's folder itself"));
        }
        files.insert(name.clone(), file.to_owned());
    }
    Ok(files)
}

fn files_named(folder: &Path, prefix: &str, suffix: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, "list", e))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(folder, "list", e))?;
        if let Some(name) = entry.file_name().to_str().filter(|n| n.starts_with(prefix) && n.ends_with(suffix)) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The tensors of a folder in Mistral's own form, factors of packed weights under the names that other forms give them.
///
/// # Errors
/// No file of the name `consolidated*.safetensors`, a tensor in two of them, and what [`open_file`] meets.
pub fn open_consolidated(folder: &Path) -> Result<Vec<Stored>> {
    links::check(folder)?;
    let files = files_named(folder, "consolidated", ".safetensors")?;
    if files.is_empty() {
        return Err(Error::input("holds no file of the name consolidated*.safetensors, as Mistral's own form has")
            .at(folder)
            .help("fetch the weights, or leave --mistral-format away for a folder in the form of transformers"));
    }
    let mut tensors: Vec<Stored> = Vec::new();
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for file in files {
        let path = folder.join(&file);
        for mut tensor in open_file(&path)? {
            if let Some(other) = seen.insert(tensor.name.clone(), file.clone()) {
                return Err(Error::input(format!("tensor {} is also in {other}", tensor.name)).at(&path));
            }
            for (own, usual) in [(".qscale_weight", ".weight_scale"), (".qscale_act", ".input_scale")] {
                if let Some(stem) = tensor.name.strip_suffix(own) {
                    tensor.name = format!("{stem}{usual}");
                }
            }
            tensors.push(tensor);
        }
    }
    Ok(tensors)
}

/// Whether a folder has a safetensors file whose name begins so.
///
/// # Errors
/// A folder that cannot be listed.
pub fn has_file(folder: &Path, prefix: &str) -> Result<bool> {
    Ok(!files_named(folder, prefix, ".safetensors")?.is_empty())
}

/// Why a folder in Mistral's own form is refused where it was not said to be one; none where it is no such folder.
///
/// # Errors
/// A folder that cannot be listed.
pub(crate) fn mistral_form(folder: &Path) -> Result<Option<Error>> {
    let own = files_named(folder, "consolidated", ".safetensors")?;
    let help = if folder.join("params.json").is_file() {
        "--mistral-format reads it; the files of the other form are model*.safetensors and config.json"
    } else {
        "--mistral-format reads it: fetch params.json and the tokenizer (tekken.json or tokenizer.model.v*) from the \
         same repository, or the files of the other form (model*.safetensors and config.json)"
    };
    Ok(own.first().map(|own| {
        Error::input(format!("the weights are in Mistral's own form ({own}), not in that of transformers"))
            .at(folder)
            .help(help)
    }))
}

/// Why a folder without safetensors is refused, with the way out.
fn no_weights(folder: &Path) -> Result<Error> {
    let mut pickles = Vec::new();
    for suffix in [".bin", ".pt", ".pth", ".ckpt"] {
        pickles.extend(files_named(folder, "", suffix)?.into_iter().filter(|name| name != "training_args.bin"));
    }
    if let Some(error) = mistral_form(folder)? {
        return Ok(error);
    }
    let others = files_named(folder, "", ".safetensors")?;
    if let Some(other) = others.first() {
        return Ok(Error::input(format!("holds {other}, but no file of the name model*.safetensors"))
            .at(folder)
            .help("rename it to model.safetensors where it is the whole checkpoint"));
    }
    let Some(first) = pickles.first() else {
        return Ok(Error::input("holds no safetensors file")
            .at(folder)
            .help("a checkpoint folder has model.safetensors, or model.safetensors.index.json with its shards"));
    };
    let folder_name = gguf::quote::path(folder);
    Ok(Error::input(format!("the weights are a pickle ({first}), which can run code when it is loaded: refused"))
        .at(folder)
        .help(format!(
            "where you trust the file, rewrite it once: python -c \"from transformers import AutoModelForCausalLM as M; \
             M.from_pretrained('{folder_name}', torch_dtype='auto').save_pretrained('{folder_name}-safetensors')\" \
             and copy the tokenizer's files beside it"
        )))
}
