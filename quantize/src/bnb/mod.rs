//! Checkpoints that transformers loads: bitsandbytes' NF4, FP4 and INT8, and affine integers in compressed-tensors' form.

pub mod absmax;
pub mod affine;
pub mod chosen;
pub mod coding;
pub mod folder;
pub mod four_bit;
pub mod int8;
pub mod layers;
pub mod matrices;
pub mod nested;
pub mod state;
pub mod stayed;

pub use affine::{AffineOptions, Granularity, write_affine, write_affine_chosen};
pub use folder::{Form, Options, Report, Storage, write, write_chosen};
pub use layers::Why;
pub use stayed::Stayed;
