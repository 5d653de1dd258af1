//! The way back: a checkpoint folder from a GGUF file.
//!
//! The rows of [`crate::hf`] say how the tensors and keys of a checkpoint become those of a file; here they are read the
//! other way. Nothing says a second time what a row says: names come from the same patterns, changes of layout are
//! inverted by watching them, and the configuration is the one from which the row makes the file's keys. What was
//! found is held against the row once more before a folder gets its name: converted again, the folder gives the file.

mod config;
mod derive;
mod elementwise;
mod file;
mod general;
mod keys;
mod layout;
mod tensors;
mod towers;
mod ways;
mod wrappers;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use gguf::lost::{self, Degenerate, Lost};
use gguf::{Error, Metadata, Result, Source, TensorType, finite};
use half::f16;
use serde_json::{Map, Value as Json};

use crate::checkpoint::Checkpoint;
use crate::hf::{self, Class};
use crate::python::{Layout, dumps};
use crate::safetensors::Dtype;
use crate::shards::{Entry, Shards};
use crate::tokenizer;
use crate::transform::{self, Elements, Rows, row_count, row_len};
use crate::{Options as Forward, OutType};

use file::File;
use tensors::Named;
use towers::Towers;
use ways::{WAYS, Way};
use wrappers::Wrapper;

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

    /// The name that `--outtype` has for it.
    pub fn name(self) -> &'static str {
        match self {
            Float::BF16 => "bf16",
            Float::F16 => "f16",
            Float::F32 => "f32",
        }
    }

    /// The largest part of a value, and the largest value, that is lost on the way into the folder and back.
    fn loss(self) -> (f32, f32) {
        match self {
            Float::BF16 => (1.0 / 128.0, f32::MIN_POSITIVE),
            Float::F16 => (1.0 / 1024.0, 1.0e-7),
            Float::F32 => (1.0e-6, f32::MIN_POSITIVE),
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

/// A projector file.
#[derive(Clone)]
pub struct Projector(pub Arc<dyn Source + Send + Sync>);

impl fmt::Debug for Projector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Projector").field("tensors", &self.0.tensors().len()).finish()
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
    /// The file of the towers of the model, where it has some.
    pub projector: Option<Projector>,
    /// Weights that the type cannot hold and that become zeros are an error.
    pub no_degenerate: bool,
    /// Bytes of the buffers for pieces of tensors; 0 is no bound of one's own.
    pub max_memory: u64,
}

impl Options {
    /// Elements that are read and written together.
    fn chunk(&self) -> u64 {
        match self.max_memory {
            0 => CHUNK,
            bytes => (bytes / transform::FORMS / size_of::<f32>() as u64).clamp(1, CHUNK),
        }
    }
}

/// A checkpoint folder that a file becomes: everything but the data.
pub struct Folder {
    file: File,
    class: &'static Class,
    name: String,
    tensors: Vec<Named>,
    towers: Option<Towers>,
    entries: Vec<Entry>,
    files: Vec<(String, Vec<u8>)>,
    notes: Vec<String>,
    float: Float,
    max_shard_bytes: u64,
    chunk: u64,
    no_degenerate: bool,
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

/// The rows by which a class becomes files of an architecture, if these come back so.
fn rows_of(architecture: &str, way: &'static Way) -> impl Iterator<Item = &'static Class> {
    let own = move |class: &&Class| class.arch == architecture && class.names.contains(&way.class) && !class.drafts;
    hf::all().filter(move |class| own(class) && way.is_of(class.arch))
}

/// Why no folder is made of a draft.
const OF_A_TARGET: &str = "a draft's folder converts beside that of its target alone, whose vocabulary the file has";

/// The classes with towers, of which folders are made with a projector file, and why not where there is a reason: with the
/// kinds of their projectors.
pub fn with_towers() -> impl Iterator<Item = (&'static str, &'static [&'static str], Option<&'static str>)> {
    wrappers::WRAPPERS.iter().map(|wrapper| (wrapper.class, wrapper.kinds, wrapper.refused))
}

/// Whether a folder of a class can be made of the files that a row makes of it; why not, if there is a reason of its own.
pub fn has_way(row: &Class, class: &str) -> std::result::Result<(), Option<&'static str>> {
    if row.drafts {
        return Err(Some(OF_A_TARGET));
    }
    let own = ways::find(class).find(|way| !way.towers && way.is_of(row.arch));
    let refused = match own {
        Some(way) => way.refused,
        None => wrappers::find(class).next().ok_or(None)?.refused,
    };
    refused.map_or(Ok(()), |why| Err(Some(why)))
}

/// A row, how its class comes back, and the class with towers that it is the text model of.
type Candidate = (&'static Class, &'static Way, Option<&'static Wrapper>);

fn no_way(architecture: &str, class: Option<&str>, candidates: &[Candidate]) -> Error {
    let why = candidates.iter().find_map(|(_, way, _)| Some((way.class, way.refused?)));
    if let Some((class, why)) = why {
        return Error::input(format!("there is no way back to {class}: {why}"));
    }
    let rows = || hf::all().filter(|row| row.arch == architecture);
    if rows().all(|row| row.drafts) && rows().next().is_some() {
        return Error::input(format!(
            "there is no way back from files of the architecture {architecture}: {OF_A_TARGET}"
        ));
    }
    let makes = |name: &str| rows().any(|row| row.names.contains(&name));
    match class {
        Some(class) if !makes(class) => {
            Error::usage(format!("no class {class} makes files of the architecture {architecture}"))
        }
        Some(class) if ways::find(class).any(|way| way.is_of(architecture)) => {
            Error::input(format!("the vocabulary or tensors of the file are not those of {class}"))
        }
        Some(class) => Error::input(format!("{class} has no way back from a file to a folder")),
        None => Error::input(format!("the architecture {architecture} has no way back to a checkpoint folder")),
    }
    .help("convert --list says which classes have one")
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
        let keys = keys::Keys::new(architecture, &metadata, &file);
        let asked = options.class.as_deref();
        let projector = options.projector.as_ref().map(|projector| File(Arc::clone(&projector.0)));
        let candidates: Vec<Candidate> = match &projector {
            None => {
                let seeing = |class: &&str| wrappers::find(class).any(|wrapper| wrapper.refused.is_none());
                if let Some(class) = asked.filter(seeing) {
                    return Err(Error::usage(format!("{class} sees or hears, and the file is its text model alone"))
                        .help(
                            "--mmproj PROJECTOR.gguf gives its towers; without --class the text model comes back alone",
                        ));
                }
                let ways = WAYS.iter().filter(|way| asked.is_none_or(|asked| asked == way.class) && !way.towers);
                let fitting = ways.filter(|way| (way.fits)(&keys));
                fitting.flat_map(|way| rows_of(architecture, way).map(move |row| (row, way, None))).collect()
            }
            Some(projector) => {
                let wrappers = towers::candidates(projector, asked)?;
                let of = |wrapper: &'static Wrapper| {
                    let ways = wrapper.text.iter().flat_map(|text| WAYS.iter().filter(move |way| way.class == *text));
                    let fitting = ways.filter(|way| (way.fits)(&keys));
                    fitting.flat_map(move |way| rows_of(architecture, way).map(move |row| (row, way, Some(wrapper))))
                };
                let found: Vec<Candidate> = wrappers.iter().copied().flat_map(of).collect();
                if found.is_empty() {
                    let classes: Vec<&str> = wrappers.iter().map(|wrapper| wrapper.class).collect();
                    return Err(Error::input(format!(
                        "a text model of the architecture {architecture} is none of {}, of which the projector file is",
                        classes.join(", ")
                    ))
                    .help("do the two files belong together?"));
                }
                found
            }
        };
        let possible = || candidates.iter().filter(|(_, way, _)| way.refused.is_none());
        // The first class whose names and fields say the whole file; of those that do not, the first one's complaint.
        let mut fault: Option<(&str, Error)> = None;
        for &candidate in possible() {
            let (_, way, _) = candidate;
            match Folder::of_class(&file, &metadata, candidate, projector.as_ref(), options) {
                Ok(folder) => return Ok(folder),
                // A class with several rows has the general one last.
                Err(error) if fault.as_ref().is_none_or(|(of, _)| *of == way.class) => fault = Some((way.class, error)),
                Err(_) => {}
            }
        }
        Err(fault.map(|(_, error)| error).unwrap_or_else(|| no_way(architecture, asked, &candidates)))
    }

    fn of_class(
        file: &File,
        metadata: &Metadata,
        (class, way, wrapper): Candidate,
        projector: Option<&File>,
        options: &Options,
    ) -> Result<Folder> {
        let name = wrapper.map_or(way.class, |wrapper| wrapper.class);
        let found = config::back(class, way, metadata, file)?;
        let mut tensors = tensors::back(class, way, &found, file)?;
        let ids = keys::Keys::new(class.arch, metadata, file);
        let towers = wrapper.zip(projector).map(|(wrapper, file)| Towers::of(file, wrapper, &found.root, &ids));
        let towers = towers.transpose()?;
        if let Some(towers) = &towers {
            tensors.iter_mut().for_each(|tensor| tensor.name = towers.text_name(&tensor.name));
        }
        let float = options.outtype.unwrap_or_else(|| own_float(file));
        let mut notes = Vec::new();
        let mut types: BTreeMap<&'static str, u64> = BTreeMap::new();
        for info in file.0.tensors().iter().chain(projector.into_iter().flat_map(|file| file.0.tensors())) {
            *types.entry(info.ty().name()).or_default() += 1;
        }
        let mut wide = 0_u64;
        let of_towers = towers.iter().flat_map(|towers| towers.tensors.iter().map(|tensor| (tensor, &towers.file)));
        let entries = tensors
            .iter()
            .map(|tensor| (tensor, file))
            .chain(of_towers)
            .map(|(tensor, file)| {
                let dtype = dtype(tensor, float, file, options.chunk())?;
                wide += u64::from(dtype == Dtype::F32 && float != Float::F32);
                Ok(Entry { name: tensor.name.clone(), dtype, shape: tensor.rows.shape().to_vec() })
            })
            .collect::<Result<Vec<_>>>()?;
        if wide > 0 {
            notes.push(format!("{wide} tensors stay F32: {} cannot hold their values", float.torch()));
        }
        let mut root = match &towers {
            Some(towers) => {
                notes.extend(towers.notes.iter().cloned());
                towers.root.clone()
            }
            None => found.root,
        };
        root.insert("torch_dtype".into(), float.torch().into());
        let tokenizer::back::Files { files, notes: more } = tokenizer::back::files(metadata, class.vocabulary)?;
        notes.extend(more);
        if !way.in_library || wrapper.is_some_and(|wrapper| !wrapper.in_library) {
            notes.push(format!(
                "the transformers library has no code of {name}: copy the Python files of the original folder, and the auto_map of its config.json"
            ));
        }
        if !found.added.is_empty() {
            notes.push(format!("a file of this folder has besides {}", found.added.join(", ")));
        }
        for (field, value) in &found.assumed {
            notes.push(format!("assumed: {field} is {value}, the default of {name}; the file does not say it"));
        }
        let mut all: Vec<(String, Vec<u8>)> = files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        let of_pooling = found.pooling.into_iter().flat_map(|pooling| pooling.files(found.width));
        let of_towers =
            towers.iter().flat_map(|towers| &towers.files).map(|(name, value)| ((*name).to_owned(), value.clone()));
        for (name, value) in of_pooling.chain(of_towers) {
            all.push((name, {
                let mut bytes = serde_json::to_vec_pretty(&value).unwrap_or_default();
                bytes.push(b'\n');
                bytes
            }));
        }
        if found.pooling.is_some() {
            notes.push("assumed: states are normalized behind the pooling; the file does not say it".to_owned());
        }
        let lines = |value: &Json| (dumps(value, Layout::SortedLines) + "\n").into_bytes();
        all.push(("config.json".into(), lines(&Json::Object(root))));
        all.push(("generation_config.json".into(), lines(&general::generation(metadata))));
        if let Some(card) = general::card(metadata, projector.map(|file| file.0.metadata())) {
            all.push(("README.md".into(), card.into_bytes()));
        }
        Ok(Folder {
            file: file.clone(),
            class,
            name: name.to_owned(),
            tensors,
            towers,
            entries,
            files: all,
            notes,
            float,
            max_shard_bytes: options.max_shard_bytes,
            chunk: options.chunk(),
            no_degenerate: options.no_degenerate,
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

    /// Writes everything into a folder that is there and empty. Gives the tensors with rows of which nothing is left in the
    /// type of the folder.
    ///
    /// # Errors
    /// What reading, decoding and writing meets, and weights that are too large for the type.
    pub fn write(&self, folder: &Path, progress: &dyn Fn(u64)) -> Result<Vec<Degenerate>> {
        for (name, bytes) in &self.files {
            let path = folder.join(name);
            if let Some(parent) = path.parent().filter(|parent| *parent != folder) {
                std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, "create", e))?;
            }
            std::fs::write(&path, bytes).map_err(|e| Error::io(&path, "write", e))?;
        }
        let parameters = self.entries.iter().map(|e| e.shape.iter().product::<u64>()).sum();
        let most = if self.max_shard_bytes == 0 { u64::MAX } else { self.max_shard_bytes };
        let shards = Shards::create(folder, &self.entries, most, parameters)?;
        let mut degenerate = Vec::new();
        let of_towers = self.towers.iter().flat_map(|towers| &towers.tensors);
        for (i, (tensor, entry)) in self.tensors.iter().chain(of_towers).zip(&self.entries).enumerate() {
            let mut lost = Lost::default();
            let to = target(entry.dtype, &tensor.rows);
            let (count, row) = (row_count(tensor.rows.shape()), row_len(tensor.rows.shape()).max(1));
            let step = (self.chunk / row).max(1);
            let mut at = 0;
            for first in (0..count).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
                let rows = first..(first + step).min(count);
                let fault = |e: Error| e.in_tensor(&tensor.name);
                let (before, elements) = (tensor.rows.rows(rows.clone()).map_err(fault)?, tensor.rows.elements());
                let bytes = transform::cast(Cow::Borrowed(&before), elements, to).map_err(fault)?;
                if elements.ty() != to {
                    let weights = || transform::to_f32(elements, &before);
                    lost.add(lost::rounded(to, row, &bytes, || weights().map(Some)).map_err(fault)?);
                    if to == TensorType::F16 && finite::first(to, &bytes).is_some() {
                        too_large(&weights()?).map_err(fault)?;
                    }
                }
                shards.write(i, at, &bytes)?;
                at += bytes.len() as u64;
                progress(bytes.len() as u64);
                tensor.rows.release(rows);
            }
            if lost.blocks > 0 {
                let found = Degenerate::new(&tensor.name, to, lost, count * row, row);
                if self.no_degenerate {
                    return Err(Error::input(found.to_string()).help(NO_DEGENERATE_HELP));
                }
                degenerate.push(found);
            }
        }
        Ok(degenerate)
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
        let text = Forward { outtype, any_pre: true, ..Forward::default() };
        let mut differing = self.held(&self.file, &self.tensors, self.class.arch, folder, &text)?;
        if let Some(towers) = &self.towers {
            let options = Forward { outtype, projector: true, ..Forward::default() };
            differing.extend(self.held(&towers.file, &towers.tensors, towers::ARCH, folder, &options)?);
        }
        Ok(differing)
    }

    /// Holds what a folder is converted to against one of the files.
    fn held(
        &self,
        file: &File,
        tensors: &[Named],
        arch: &str,
        folder: &Path,
        options: &Forward,
    ) -> Result<Vec<String>> {
        let again =
            Checkpoint::open(folder, options).map_err(|e| e.about("the finished folder does not convert again"))?;
        let mut differing = Vec::new();
        let (of, other) = (file.0.metadata(), again.metadata());
        let pre = of.str("tokenizer.ggml.pre");
        // The type of the matrices is the folder's.
        let own =
            |key: &str| key != "clip.file_type" && (key.starts_with("tokenizer.") || config::is_of_model(arch, key));
        let mut keys: Vec<&str> = of.iter().map(|(k, _)| k).filter(|k| own(k)).collect();
        keys.extend(other.iter().map(|(k, _)| k).filter(|k| own(k) && of.get(k).is_none()));
        for key in keys {
            let what = match (of.get(key), other.get(key)) {
                (Some(a), Some(b)) if a == b => continue,
                (Some(_), None) => "is not written when the folder is converted",
                (None, _) => "is written besides when the folder is converted",
                _ => "has another value when the folder is converted",
            };
            differing.push(match (key, pre) {
                ("tokenizer.ggml.pre", Some(name)) => format!("{key} {what}; convert it with --pre {name}"),
                _ => format!("{key} {what}"),
            });
        }
        for info in file.0.tensors() {
            let same = again.find(info.name()).map(|i| again.tensors()[i].shape());
            if same != Some(info.shape()) {
                return Err(Error::input(format!("tensor {} does not come back from the folder", info.name())));
            }
        }
        if let Some(more) = again.tensors().iter().find(|t| file.0.find(t.name()).is_none()) {
            return Err(Error::input(format!(
                "the folder would make a tensor {} that the file does not have",
                more.name()
            )));
        }
        let copies = copies(file, tensors);
        for (tensor, info) in file.0.tensors().iter().enumerate().filter(|(tensor, _)| !copies.contains(tensor)) {
            if let Some(other) = again.find(info.name()) {
                self.check_values(file, tensor, &again, other)?;
            }
        }
        Ok(differing)
    }

    /// Holds the values of a tensor of the file against those that the folder gives.
    fn check_values(&self, file: &File, tensor: usize, again: &Checkpoint, other: usize) -> Result<()> {
        let rows = file.rows(tensor);
        let (count, row) = (row_count(rows.shape()), row_len(rows.shape()).max(1));
        let step = (self.chunk / row).max(1);
        let (part, least) = self.float.loss();
        let name = file.0.tensors()[tensor].name();
        for first in (0..count).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            let range = first..(first + step).min(count);
            let of = rows.rows(range.clone())?;
            let made = again.rows(other, range.clone())?;
            if of != made {
                let of = match rows.elements() {
                    Elements::Blocks(_) => Vec::new(),
                    elements => transform::to_f32(elements, &of)?,
                };
                let mut values = vec![0.0_f32; of.len()];
                gguf::decode::rows(again.tensors()[other].ty(), &made, &mut values)?;
                let near =
                    |a: f32, b: f32| a == b || (a - b).abs() <= a.abs() * part + least || a.is_nan() && b.is_nan();
                if of.is_empty() || of.iter().zip(&values).any(|(a, b)| !near(*a, *b)) {
                    let what = format!("tensor {name} would come back from the folder with other values");
                    return Err(Error::input(what));
                }
            }
            rows.release(range.clone());
            again.release(other, range);
        }
        Ok(())
    }

    /// The architecture.
    pub fn architecture(&self) -> &str {
        self.class.arch
    }
}

/// Tensors of a file that are cut out of another one, which is rounded in its own way.
fn copies(file: &File, tensors: &[Named]) -> Vec<usize> {
    let elements = |tensor: &usize| file.0.tensors()[*tensor].elements();
    let several = tensors.iter().filter(|named| named.of.len() > 1);
    several
        .filter(|named| named.of.iter().map(elements).sum::<u64>() > named.rows.shape().iter().product())
        .flat_map(|named| {
            let largest = named.of.iter().copied().max_by_key(elements);
            named.of.iter().copied().filter(move |tensor| Some(*tensor) != largest)
        })
        .collect()
}

/// What helps where weights that are lost are refused.
pub(crate) const NO_DEGENERATE_HELP: &str = "choose another --outtype, or leave --no-degenerate out";

/// Refuses weights that are numbers and become infinite in f16.
fn too_large(weights: &[f32]) -> Result<()> {
    match weights.iter().find(|w| w.is_finite() && f16::from_f32(**w).is_infinite()) {
        Some(weight) => Err(Error::input(format!("the weight {weight:e} is too large for f16"))),
        None => Ok(()),
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
fn dtype(tensor: &Named, float: Float, file: &File, chunk: u64) -> Result<Dtype> {
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
    if float == Float::F32 || !in_f32 || !narrower || holds(float.elements(), &tensor.rows, chunk)? {
        return Ok(wanted);
    }
    Ok(Dtype::F32)
}

/// Whether a type holds every value of a tensor.
fn holds(elements: Elements, rows: &Rows, chunk: u64) -> Result<bool> {
    let (count, row) = (row_count(rows.shape()), row_len(rows.shape()).max(1));
    let step = (chunk / row).max(1);
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
