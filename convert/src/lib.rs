//! A Hugging Face checkpoint folder seen as if it were a GGUF file.

pub mod packed;
pub mod tokenizer;

pub use gguf::{Error, Result};
