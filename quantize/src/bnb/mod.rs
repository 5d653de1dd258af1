//! Checkpoints that transformers loads: bitsandbytes' NF4, FP4 and INT8.

pub mod absmax;
pub mod four_bit;
pub mod int8;
pub mod nested;
pub mod python;
pub mod state;
