//! What a checkpoint folder holds beside its configuration, for the classes whose keys depend on it.

use std::path::Path;

use crate::safetensors::Stored;

/// A folder and the tensors in it, under the names that they have there.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// The folder.
    pub folder: &'a Path,
    /// Its tensors.
    pub tensors: &'a [Stored],
}
