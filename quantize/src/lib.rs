//! Block codecs, the recipes that choose one for each tensor, and the pipeline that streams a model through them.

pub mod block;
pub mod bnb;
pub mod codec;
pub mod imatrix;
mod lanes;
pub mod parts;
pub mod pattern;
pub mod pipeline;
pub mod plan;
pub mod recipe;
pub mod search;

pub use block::{FORMATS, Format, LEVELS, Levels, Rounded, format, levels};
pub use codec::{Codec, Importance, codec, decode_rows, encode_rows};
pub use gguf::{Error, ErrorKind, Result};
pub use lanes::Path as SimdPath;
