//! A Hugging Face checkpoint folder seen as if it were a GGUF file.
//!
//! [`Checkpoint`] maps names, shapes, metadata and the tokenizer; the weights change their layout as they are read,
//! and their precision between f32, f16 and bf16 only, or to plain Q8_0, TQ1_0 and TQ2_0. What it shows equals, byte for
//! byte, what llama.cpp's `convert_hf_to_gguf.py` writes.

// The program is written as any user of the library is.
#[cfg(feature = "cli")]
extern crate self as convert;

pub mod back;
mod blocks;
mod card;
pub mod checkpoint;
#[cfg(feature = "cli")]
pub mod cli;
mod complete;
pub mod config;
pub mod files;
mod float;
pub mod hf;
#[cfg(feature = "hub")]
pub mod hub;
pub mod json;
pub mod links;
pub mod location;
pub mod lora;
pub mod metadata;
pub mod modules;
mod names;
pub mod packed;
#[cfg(feature = "cli")]
pub mod program;
pub mod python;
mod reduce;
mod remote;
pub mod safetensors;
pub mod shards;
mod side_files;
pub mod tasks;
mod text_names;
mod titlecase;
pub mod tokenizer;
pub mod transform;
mod undescribed;

use std::path::{Path, PathBuf};

use gguf::TensorType;

pub use checkpoint::Checkpoint;
pub use gguf::modelfile;
pub use gguf::{Error, Result};
pub use transform::{Elements, RowSource, Rows, Tensor};

/// The type of a file's matrices; vectors and a few small matrices are f32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum OutType {
    /// The 16-bit type the checkpoint has; f16 where it has none
    #[default]
    Auto,
    /// IEEE binary32
    F32,
    /// IEEE binary16
    F16,
    /// The upper half of a binary32
    #[cfg_attr(feature = "cli", value(name = "bf16"))]
    BF16,
    /// Blocks of 32 weights of 8 bits with one scale; f16 where a row is not a whole number of blocks
    #[cfg_attr(feature = "cli", value(name = "q8_0"))]
    Q8_0,
    /// Blocks of 256 levels -1, 0 and 1 with one scale, 1.69 bits each: for models trained to have no others
    #[cfg_attr(feature = "cli", value(name = "tq1_0"))]
    TQ1_0,
    /// The same in 2.06 bits each, which are faster to unpack
    #[cfg_attr(feature = "cli", value(name = "tq2_0"))]
    TQ2_0,
}

impl OutType {
    /// The type that is asked for; nothing where the checkpoint decides.
    fn ty(self) -> Option<TensorType> {
        Some(match self {
            OutType::Auto => return None,
            OutType::F32 => TensorType::F32,
            OutType::F16 => TensorType::F16,
            OutType::BF16 => TensorType::BF16,
            OutType::Q8_0 => TensorType::Q8_0,
            OutType::TQ1_0 => TensorType::TQ1_0,
            OutType::TQ2_0 => TensorType::TQ2_0,
        })
    }
}

/// Which part of a checkpoint becomes the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// The text model, with its layers of multi-token prediction where the reference converter keeps them.
    #[default]
    Model,
    /// The text model without layers of multi-token prediction.
    Trunk,
    /// The layers of multi-token prediction, with what they share with the model.
    Prediction,
    /// The draft inside DeepSeek V4 alone.
    DSpark,
}

/// How a checkpoint is converted.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The type of the matrices.
    pub outtype: OutType,
    /// The model's name instead of the one that is derived.
    pub model_name: Option<String>,
    /// A JSON file of `general.*` keys that override those that are derived.
    pub metadata: Option<PathBuf>,
    /// The pre-tokenizer instead of the one that is found.
    pub pre: Option<String>,
    /// Under `auto`, weights that a folder packs are unpacked to f32, which holds them exactly.
    pub exact: bool,
    /// Take the plainest pre-tokenizer where none is found: for work on token ids alone.
    pub any_pre: bool,
    /// What becomes of blocks that GGUF has a type for.
    pub blocks: packed::Blocks,
    /// Adapters that are merged, with a factor each, in this order.
    pub merge: Vec<(PathBuf, f32)>,
    /// Leave the model card (`README.md`) aside.
    pub skip_model_card: bool,
    /// The folder is in Mistral's own form: `params.json` and `consolidated*.safetensors`.
    pub mistral_format: bool,
    /// Write no chat template that the community made for models in Mistral's own form.
    pub no_community_template: bool,
    /// Take the layers behind the pooling of a sentence-transformers folder too, where files of the architecture have a
    /// place for them.
    pub dense_modules: bool,
    /// Keep the whole output matrix of a reranker, of which a file has the rows of its answers alone: for logits.
    pub whole_head: bool,
    /// The keys alone, without tensors; the folder needs no weights.
    pub vocab_only: bool,
    /// Which part of the checkpoint becomes the file.
    pub part: Part,
    /// The folder of the model that a draft is made for.
    pub target: Option<PathBuf>,
    /// The projector file instead of the text model's: the towers that see and hear.
    pub projector: bool,
}

/// Opens a model, whatever it is stored as: a checkpoint folder, or a GGUF file.
///
/// # Errors
/// What [`Checkpoint::open`] or [`gguf::File::open`] meets.
pub fn open(path: &Path, options: &Options) -> Result<Box<dyn gguf::Source + Send>> {
    if path.is_dir() {
        return Ok(Box::new(Checkpoint::open(path, options)?));
    }
    if !path.exists() {
        return Err(location::missing(path));
    }
    if path.extension().is_some_and(|e| ["safetensors", "bin", "pt", "pth"].iter().any(|x| e == *x)) {
        return Err(Error::input("is the weights alone, without configuration and tokenizer")
            .at(path)
            .help("give the folder that it is in"));
    }
    gguf::split::open(path)
}
