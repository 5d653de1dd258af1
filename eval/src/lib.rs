//! The reference transformer, perplexity, divergence, reports, the gate.

pub mod forward;
pub mod layers;
pub mod matmul;
pub mod model;
pub mod weights;

pub use gguf::{Error, Result};
