//! The rows, one file a family.

mod llama;
mod qwen;

use super::Arch;

/// Every row, family by family.
pub(super) const FAMILIES: &[&[Arch]] = &[llama::ROWS, qwen::ROWS];
