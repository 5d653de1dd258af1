//! Block codecs, the recipes that choose one for each tensor, and the pipeline that streams a model through them.

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

// The program is written as any user of the library is.
#[cfg(feature = "cli")]
extern crate self as quantize;

pub mod block;
pub mod bnb;
pub mod codec;
#[cfg(feature = "cli")]
mod commands;
pub mod imatrix;
mod lanes;
pub mod parts;
pub mod pattern;
pub mod pipeline;
pub mod plan;
#[cfg(feature = "cli")]
pub mod program;
pub mod recipe;
mod rows;
pub mod search;
mod suspects;

pub use block::{FORMATS, Format, LEVELS, Levels, Rounded, format, levels};
pub use codec::{Codec, ImportanceUse};
pub use gguf::{Error, ErrorKind, Result};
pub use lanes::Path as SimdPath;
pub use rows::{codec, decode_rows, encode_rows, first_not_finite};
