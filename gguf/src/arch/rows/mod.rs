//! The rows, one file a family.

mod falcon_h1;
mod granite;
mod lfm;
mod llama;
mod mtp;
mod qwen;
mod qwen35;

use super::Arch;

/// Every row, family by family.
pub(super) const FAMILIES: &[&[Arch]] =
    &[falcon_h1::ROWS, granite::ROWS, lfm::ROWS, llama::ROWS, qwen::ROWS, qwen35::ROWS];
