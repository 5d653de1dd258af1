//! A Hugging Face checkpoint folder seen as if it were a GGUF file.

pub mod packed;
