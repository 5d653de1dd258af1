//! The GGUF file format: read without copying, write as a stream, judge against the specification, edit.
//!
//! This crate knows no model and does no arithmetic on weights. Its seam to the rest of the pipeline is [`Source`]:
//! a model seen as a GGUF file, whatever it is stored as.
//!
//! | to | use |
//! |---|---|
//! | read a file, whole or split | [`open`], [`File`], [`split::Splits`] |
//! | read a GGUF inside a larger file | [`File::open_at`] |
//! | read what stands before the data alone | [`Header::read`] |
//! | write one, in either byte order | [`FileLayout`] and [`Writer`], [`write::copy`] |
//! | write several | [`split::Division`], [`split::metadata`], [`write::copy_part`] |
//! | learn everything that is wrong with one | [`check::check`], [`check::rules`] |
//! | be sure of what was just written | [`check::verify_file`] |
//! | change its keys | [`edit::apply`], [`edit::fit`] |
//!
//! # Reading
//!
//! ```
//! # fn main() -> gguf::Result<()> {
//! # let path = std::env::temp_dir().join(format!("gguf-doc-lib-{}.gguf", std::process::id()));
//! # let meta = gguf::Metadata::from_iter([("general.architecture", "llama")]);
//! # let info = gguf::TensorInfo::new("a", gguf::Shape::new(&[4, 2])?, gguf::TensorType::F32)?;
//! # std::fs::write(&path, gguf::write::to_bytes(&meta, &[info], |_| Ok(vec![0; 32]))?).unwrap();
//! use gguf::{Source, TensorType};
//!
//! let model = gguf::open(&path)?;
//! let a = model.find("a").expect("there is such a tensor");
//! let info = &model.tensors()[a];
//! assert_eq!((info.shape().dims(), info.ty()), (&[4, 2][..], TensorType::F32));
//! // The second row, as bytes of the map: nothing is copied.
//! assert_eq!(model.rows(a, 1..2)?.len(), 16);
//! # std::fs::remove_file(&path).ok();
//! # Ok(())
//! # }
//! ```
//!
//! # Trust
//!
//! Nothing in a file is believed before it was compared with the bytes that are there: counts, lengths and offsets
//! are bounded first, sums and products are checked, nesting is limited. [`File`] refuses what the specification
//! forbids and what would let two readers see different things; the [module on checking](check) tells it all. No
//! input makes this crate panic or read outside its map. What it cannot guard against is another process that
//! shortens a file while it is mapped: the system then ends the program (SIGBUS), as it does every reader over a map, or
//! gives zeros for what was in the last page ([`map::unchanged`] finds that afterwards).
//!
//! # Features
//!
//! `cli` (default) adds what command-line programs share and the binary `gguf`; a library needs none of it.

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

// The program is written as any user of the library is.
#[cfg(feature = "cli")]
extern crate self as gguf;

pub mod arch;
#[cfg(feature = "write")]
pub mod atomic;
mod beside;
#[cfg(feature = "check")]
pub mod check;
mod cursor;
pub mod decode;
pub mod digest;
#[cfg(feature = "edit")]
pub mod edit;
mod endian;
pub mod error;
#[cfg(feature = "cli")]
mod fault;
pub mod finite;
mod journal;
pub mod keys;
pub mod lost;
pub mod map;
pub mod memory;
pub mod modelfile;
pub mod projector;
pub mod quote;
pub mod read;
mod shard_name;
pub mod source;
pub mod split;
#[cfg(feature = "write")]
mod temporary;
pub mod text;
pub mod types;
pub mod value;
#[cfg(feature = "write")]
pub mod write;

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
mod commands;
#[cfg(feature = "cli")]
pub mod program;

pub use error::{Error, ErrorKind, Result};
pub use read::{File, Header};
pub use source::{Runtime, Shape, Source, TensorInfo, row_range};
pub use split::open;
pub use types::TensorType;
pub use value::{Array, Endian, Metadata, Text, Value, ValueType};
#[cfg(feature = "write")]
pub use write::{FileLayout, Writer};
