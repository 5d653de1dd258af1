//! Decoding what a checkpoint already quantized.

pub mod bnb;
mod float;

pub use float::Float;
