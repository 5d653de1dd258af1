//! The reference transformer, perplexity, divergence, reports, the gate.

// The program is written as any user of the library is.
#[cfg(feature = "cli")]
extern crate self as eval;

pub mod baseline;
pub mod choices;
pub mod collect;
#[cfg(feature = "cli")]
mod commands;
pub mod compare;
pub mod device;
pub mod devices;
pub mod divergence;
pub mod embed;
pub mod encoded;
pub mod forward;
pub mod generate;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod kld;
pub mod layers;
pub mod matmul;
pub mod model;
mod numeric;
pub mod optimize;
pub mod parts;
pub mod perplexity;
#[cfg(feature = "cli")]
pub mod program;
#[cfg(feature = "cli")]
pub mod report;
pub mod similarity;
pub mod tensors;
pub mod towers;
pub mod weights;

pub use gguf::{Error, Result};
