//! The way back: a checkpoint folder from a GGUF file.
//!
//! The rows of [`crate::hf`] say how the tensors and keys of a checkpoint become those of a file; here they are read the
//! other way. Nothing says a second time what a row says: names come from the same patterns, changes of layout are
//! inverted by watching them, and the configuration is the one from which the row makes the file's keys. What was
//! found is held against the row once more before a folder gets its name: converted again, the folder gives the file.

mod config;
mod elementwise;
mod general;
mod layout;
mod tensors;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use gguf::{Error, Metadata, Result, Source, TensorType};
use serde_json::{Map, Value as Json};

use crate::checkpoint::Checkpoint;
use crate::hf::{self, Class};
use crate::python::{Layout, dumps};
use crate::safetensors::Dtype;
use crate::shards::{Entry, Shards};
use crate::tokenizer;
use crate::transform::{self, Elements, Rows, row_count, row_len};
use crate::{Options as Forward, OutType};

use tensors::{File, Named};

/// The type of a folder's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    /// The upper half of a binary32.
    BF16,
    /// IEEE binary16.
    F16,
    /// IEEE binary32.
    F32,
}

impl Float {
    fn elements(self) -> Elements {
        match self {
            Float::BF16 => Elements::BF16,
            Float::F16 => Elements::F16,
            Float::F32 => Elements::F32,
        }
    }

    /// The name that `torch_dtype` has for it.
    fn torch(self) -> &'static str {
        match self {
            Float::BF16 => "bfloat16",
            Float::F16 => "float16",
            Float::F32 => "float32",
        }
    }
}

/// How a folder is made.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The type of the weights; that of the file's matrices where none is asked for, bf16 for blocks.
    pub outtype: Option<Float>,
    /// The class of the model, where the architecture is that of several.
    pub class: Option<String>,
    /// The most bytes of a shard; 0 is all in one.
    pub max_shard_bytes: u64,
}

/// A checkpoint folder that a file becomes: everything but the data.
pub struct Folder {
    file: File,
    class: &'static Class,
    name: String,
    tensors: Vec<Named>,
    entries: Vec<Entry>,
    files: Vec<(String, Vec<u8>)>,
    notes: Vec<String>,
    float: Float,
    max_shard_bytes: u64,
    /// Tensors by the type they have in the file.
    types: BTreeMap<&'static str, u64>,
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folder").field("class", &self.name).field("tensors", &self.tensors.len()).finish()
    }
}

/// Refuses what is no model: adapters, importance matrices, projectors.
fn check_kind(metadata: &Metadata) -> Result<&str> {
    let kind = metadata.str("general.type").unwrap_or("model");
    let is = |what: &str, way: &str| Err(Error::input(format!("the file is {what}, not a model")).help(way));
    match (kind, metadata.str("adapter.type")) {
        ("adapter", _) | (_, Some(_)) => {
            return is("an adapter", "give the file of a model; an adapter has no folder of its own");
        }
        ("imatrix", _) => return is("an importance matrix", "give the file of the model that it was measured on"),
        ("mmproj", _) => return is("a projector", "give the file of the text model"),
        _ => {}
    }
    let architecture = metadata
        .architecture()
        .ok_or_else(|| Error::input("the file has no general.architecture").help("gguf check says more of the file"))?;
    if architecture == "clip" {
        return is("a projector", "give the file of the text model");
    }
    Ok(architecture)
}

impl Folder {
    /// Plans the folder of a file.
    ///
    /// # Errors
    /// What is no model, an architecture or a tensor that no class has, keys that no configuration says, a vocabulary
    /// that no files hold.
    pub fn plan(source: Arc<dyn Source + Send + Sync>, options: &Options) -> Result<Folder> {
        let metadata = source.metadata().clone();
        let architecture = check_kind(&metadata)?;
        let file = File(source);
        let candidates: Vec<(&'static Class, &'static str)> = hf::all()
            .filter(|class| class.arch == architecture && class.towers.is_empty() && !class.drafts)
            .flat_map(|class| class.names.iter().map(move |name| (class, *name)))
            .filter(|(_, name)| options.class.as_deref().is_none_or(|asked| asked == *name))
            .collect();
        if candidates.is_empty() {
            return Err(match &options.class {
                Some(class) => Error::usage(format!("no class {class} makes files of the architecture {architecture}"))
                    .help("convert --list says which classes there are"),
                None => {
                    Error::input(format!("the architecture {architecture} has no row that leads back to a checkpoint"))
                        .help("convert --list says which architectures are known")
                }
            });
        }
        // The first class whose names and fields say the whole file; of those that do not, the first one's complaint.
        let mut fault = None;
        for (class, name) in candidates {
            match Folder::of_class(&file, &metadata, class, name, options) {
                Ok(folder) => return Ok(folder),
                Err(error) => _ = fault.get_or_insert(error),
            }
        }
        Err(fault.unwrap_or_else(|| Error::input("the file has no class")))
    }

    fn of_class(
        file: &File,
        metadata: &Metadata,
        class: &'static Class,
        name: &'static str,
        options: &Options,
    ) -> Result<Folder> {
        let found = config::back(class, name, metadata, file)?;
        let tensors = tensors::back(class, &found.config, file)?;
        let float = options.outtype.unwrap_or_else(|| own_float(file));
        let mut notes = Vec::new();
        let mut types: BTreeMap<&'static str, u64> = BTreeMap::new();
        for info in file.0.tensors() {
            *types.entry(info.ty().name()).or_default() += 1;
        }
        let mut wide = 0_u64;
        let entries = tensors
            .iter()
            .map(|tensor| {
                let dtype = dtype(tensor, float, file)?;
                wide += u64::from(dtype == Dtype::F32 && float != Float::F32);
                Ok(Entry { name: tensor.name.clone(), dtype, shape: tensor.rows.shape().to_vec() })
            })
            .collect::<Result<Vec<_>>>()?;
        if wide > 0 {
            notes.push(format!("{wide} tensors stay F32: {} cannot hold their values", float.torch()));
        }
        let mut root = found.root;
        root.insert("torch_dtype".into(), float.torch().into());
        let tokenizer::back::Files { files, notes: more } = tokenizer::back::files(metadata, class.vocabulary)?;
        notes.extend(more);
        if !found.lost.is_empty() {
            notes.push(format!("no field of {name} says {}", found.lost.join(", ")));
        }
        if !found.added.is_empty() {
            notes.push(format!("a file of this folder has besides {}", found.added.join(", ")));
        }
        for (field, value) in &found.assumed {
            notes.push(format!("assumed: {field} is {value}, the default of {name}; the file does not say it"));
        }
        let mut all: Vec<(String, Vec<u8>)> = files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        let lines = |value: &Json| (dumps(value, Layout::SortedLines) + "\n").into_bytes();
        all.push(("config.json".into(), lines(&Json::Object(root))));
        all.push(("generation_config.json".into(), lines(&general::generation(metadata))));
        if let Some(card) = general::card(metadata) {
            all.push(("README.md".into(), card.into_bytes()));
        }
        Ok(Folder {
            file: file.clone(),
            class,
            name: name.to_owned(),
            tensors,
            entries,
            files: all,
            notes,
            float,
            max_shard_bytes: options.max_shard_bytes,
            types,
        })
    }

    /// The class of the model.
    pub fn class(&self) -> &str {
        &self.name
    }

    /// What a person should know: what was decoded, assumed, lost.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The tensors, as they will be stored.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Tensors of the file by their types there.
    pub fn types(&self) -> &BTreeMap<&'static str, u64> {
        &self.types
    }

    /// The type of the weights.
    pub fn float(&self) -> Float {
        self.float
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(Entry::bytes).sum()
    }

    /// Writes everything into a folder that is there and empty.
    ///
    /// # Errors
    /// What reading, decoding and writing meets.
    pub fn write(&self, folder: &Path, progress: &dyn Fn(u64)) -> Result<()> {
        for (name, bytes) in &self.files {
            let path = folder.join(name);
            std::fs::write(&path, bytes).map_err(|e| Error::io(&path, "write", e))?;
        }
        let parameters = self.entries.iter().map(|e| e.shape.iter().product::<u64>()).sum();
        let most = if self.max_shard_bytes == 0 { u64::MAX } else { self.max_shard_bytes };
        let shards = Shards::create(folder, &self.entries, most, parameters)?;
        for (i, (tensor, entry)) in self.tensors.iter().zip(&self.entries).enumerate() {
            let to = target(entry.dtype, &tensor.rows);
            let (count, row) = (row_count(tensor.rows.shape()), row_len(tensor.rows.shape()).max(1));
            let step = (CHUNK / row).max(1);
            let mut at = 0;
            for first in (0..count).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
                let rows = first..(first + step).min(count);
                let fault = |e: Error| Error::input(format!("tensor {}: {}", tensor.name, e.message()));
                let bytes = tensor.rows.rows(rows.clone()).map_err(fault)?;
                let bytes = transform::cast(bytes, tensor.rows.elements(), to).map_err(fault)?;
                shards.write(i, at, &bytes)?;
                at += bytes.len() as u64;
                progress(bytes.len() as u64);
                tensor.rows.release(rows);
            }
        }
        Ok(())
    }

    /// Converts a written folder again and holds it against the file: what differs, one sentence each. Types of
    /// matrices are not compared, since blocks were decoded; general keys are not, since the folder's name has a part
    /// in them.
    ///
    /// # Errors
    /// A folder that does not convert, or tensors that are not those of the file.
    pub fn check(&self, folder: &Path) -> Result<Vec<String>> {
        let outtype = match self.float {
            Float::BF16 => OutType::BF16,
            Float::F16 => OutType::F16,
            Float::F32 => OutType::F32,
        };
        let pre = self.file.0.metadata().str("tokenizer.ggml.pre").map(str::to_owned);
        let again = Checkpoint::open(folder, &Forward { outtype, any_pre: true, ..Forward::default() })
            .map_err(|e| Error::input("the finished folder does not convert again").caused_by(e))?;
        let mut differing = Vec::new();
        let (of, other) = (self.file.0.metadata(), again.metadata());
        let own = |key: &str| !key.starts_with("general.") && !key.starts_with("split.");
        let mut keys: Vec<&str> = of.iter().map(|(k, _)| k).filter(|k| own(k)).collect();
        keys.extend(other.iter().map(|(k, _)| k).filter(|k| own(k) && of.get(k).is_none()));
        for key in keys {
            let what = match (of.get(key), other.get(key)) {
                (Some(a), Some(b)) if a == b => continue,
                (Some(_), None) => "is not written when the folder is converted",
                (None, _) => "is written besides when the folder is converted",
                _ => "has another value when the folder is converted",
            };
            differing.push(match (key, &pre) {
                ("tokenizer.ggml.pre", Some(name)) => format!("{key} {what}; convert it with --pre {name}"),
                _ => format!("{key} {what}"),
            });
        }
        for info in self.file.0.tensors() {
            let same = again.find(info.name()).map(|i| again.tensors()[i].shape());
            if same != Some(info.shape()) {
                return Err(Error::input(format!("tensor {} does not come back from the folder", info.name())));
            }
        }
        if let Some(more) = again.tensors().iter().find(|t| self.file.0.find(t.name()).is_none()) {
            return Err(Error::input(format!(
                "the folder would make a tensor {} that the file does not have",
                more.name()
            )));
        }
        Ok(differing)
    }

    /// The architecture.
    pub fn architecture(&self) -> &str {
        self.class.arch
    }
}

/// Elements that are read and written together.
const CHUNK: u64 = 1 << 20;

/// The type that a tensor is cast to on its way into the folder.
fn target(dtype: Dtype, rows: &Rows) -> TensorType {
    match dtype {
        Dtype::BF16 => TensorType::BF16,
        Dtype::F16 => TensorType::F16,
        Dtype::F32 => TensorType::F32,
        _ => rows.elements().ty(),
    }
}

/// The type of a file's matrices, bf16 where they are blocks.
fn own_float(file: &File) -> Float {
    let mut bytes: BTreeMap<TensorType, u64> = BTreeMap::new();
    for info in file.0.tensors().iter().filter(|t| t.shape().dims().len() > 1) {
        *bytes.entry(info.ty()).or_default() += info.elements();
    }
    match bytes.into_iter().max_by_key(|(_, n)| *n).map(|(ty, _)| ty) {
        Some(TensorType::F32) => Float::F32,
        Some(TensorType::F16) => Float::F16,
        _ => Float::BF16,
    }
}

/// The type of a tensor in the folder. What a file keeps in f32 beside narrower matrices stays so where the asked type
/// cannot hold a value of it: nobody asked for less than the file has.
fn dtype(tensor: &Named, float: Float, file: &File) -> Result<Dtype> {
    let wanted = match float {
        Float::BF16 => Dtype::BF16,
        Float::F16 => Dtype::F16,
        Float::F32 => Dtype::F32,
    };
    match tensor.rows.elements() {
        Elements::Blocks(TensorType::I32) => return Ok(Dtype::I32),
        Elements::Blocks(TensorType::I64) => return Ok(Dtype::I64),
        _ => {}
    }
    let in_f32 = tensor.of.iter().all(|i| file.0.tensors()[*i].ty() == TensorType::F32);
    let narrower = own_float(file) != Float::F32;
    if float == Float::F32 || !in_f32 || !narrower || holds(float.elements(), &tensor.rows)? {
        return Ok(wanted);
    }
    Ok(Dtype::F32)
}

/// Whether a type holds every value of a tensor.
fn holds(elements: Elements, rows: &Rows) -> Result<bool> {
    let (count, row) = (row_count(rows.shape()), row_len(rows.shape()).max(1));
    let step = (CHUNK / row).max(1);
    for first in (0..count).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
        let range = first..(first + step).min(count);
        let values = transform::to_f32(rows.elements(), &rows.rows(range.clone())?)?;
        let narrow = transform::to_f32(elements, &transform::from_f32(&values, elements))?;
        rows.release(range);
        if values.iter().zip(&narrow).any(|(a, b)| a.to_bits() != b.to_bits()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A map of JSON values.
type Object = Map<String, Json>;
