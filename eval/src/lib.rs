//! The reference transformer, perplexity, divergence, reports, the gate.

pub mod divergence;
pub mod kld;
pub mod report;
pub mod tensors;
