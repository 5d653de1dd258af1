//! What a checkpoint folder holds beside its configuration, for the classes whose keys depend on it.

use std::path::{Path, PathBuf};

use gguf::{Error, Result};
use serde_json::{Map, Value};

use super::Class;
use crate::config;
use crate::safetensors::{Dtype, Stored};
use crate::tokenizer::VocabKind;
use crate::transform;

/// A folder and the tensors in it, under the names that they have there.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// The folder.
    pub folder: &'a Path,
    /// Its tensors.
    pub tensors: &'a [Stored],
    /// Whether the layers behind the pooling are wanted too, where files of the architecture have a place for them.
    pub dense_modules: bool,
    /// Whether the output matrix of a reranker is wanted as a whole.
    pub whole_head: bool,
    /// Whether the file will have no tensors.
    pub vocab_only: bool,
    /// The model that it drafts for.
    pub target: Option<&'a Target>,
}

/// The model that a draft is made for.
#[derive(Debug)]
pub struct Target {
    folder: PathBuf,
    root: Map<String, Value>,
    class: &'static Class,
}

impl Target {
    /// Reads the configuration of a folder.
    ///
    /// # Errors
    /// A folder that is no checkpoint, or of a class that is not known.
    pub fn open(folder: &Path) -> Result<Target> {
        let root = config::read(folder)?;
        let class = config::class(&root).and_then(|class| super::find(&class, &root));
        let class = class.map_err(|e| e.at(folder.join("config.json")))?;
        Ok(Target { folder: folder.to_path_buf(), root, class })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How its vocabulary is read.
    pub fn vocabulary(&self) -> VocabKind {
        self.class.vocabulary
    }

    /// A value of its configuration as it is written, that of the text model before that of a wrapper.
    pub fn value(&self, key: &str) -> Option<&Value> {
        let text = config::text_config(&self.root).and_then(|text| text.get(key));
        text.or_else(|| self.root.get(key)).filter(|value| !value.is_null())
    }
}

impl<'a> Contents<'a> {
    /// The model that it drafts for.
    ///
    /// # Errors
    /// None was given.
    pub fn target(&self) -> Result<&'a Target> {
        self.target.ok_or_else(|| Error::usage("the folder of the model that it drafts for was not given"))
    }

    /// Tensors whose names end so, in the checkpoint's order.
    pub fn ending(&self, end: &'a str) -> impl Iterator<Item = &'a Stored> {
        self.tensors.iter().filter(move |t| t.name().ends_with(end))
    }
}

/// The values of a small tensor.
///
/// # Errors
/// A type that no numbers are read from.
pub(crate) fn floats(tensor: &Stored) -> Result<Vec<f32>> {
    let rows = transform::stored(tensor)?;
    transform::to_f32(rows.elements(), &rows.rows(0..transform::row_count(rows.shape()))?)
}

/// The values of a small tensor of whole numbers, exactly.
///
/// # Errors
/// A tensor of another type.
pub(crate) fn integers(tensor: &Stored) -> Result<Vec<i64>> {
    let bytes = tensor.bytes();
    Ok(match tensor.dtype() {
        Dtype::I64 => bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        Dtype::I32 => bytes.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
        other => {
            return Err(Error::input(format!("{other} is no type of whole numbers"))
                .in_tensor(tensor.name())
                .at(tensor.path()));
        }
    })
}

/// The block that a name is of: its first part that is a number.
pub(crate) fn block_of(name: &str) -> Option<u64> {
    name.split('.').find_map(|part| part.parse().ok())
}
