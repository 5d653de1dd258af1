//! The GGUF file format: read without copying, write as a stream, judge against the specification, edit.
//!
//! This crate knows no model and does no arithmetic on weights. Its seam to the rest of the pipeline is [`Source`]:
//! a model seen as a GGUF file, whatever it is stored as.

pub mod check;
mod cursor;
pub mod edit;
mod endian;
pub mod error;
pub mod map;
pub mod read;
pub mod source;
pub mod split;
pub mod types;
pub mod value;
pub mod write;

#[cfg(feature = "cli")]
pub mod cli;

pub use error::{Error, ErrorKind, Result};
pub use read::File;
pub use source::{Shape, Source, TensorInfo, row_range};
pub use split::open;
pub use types::TensorType;
pub use value::{Array, Endian, Metadata, Text, Value, ValueType};
pub use write::{Plan, Writer};
