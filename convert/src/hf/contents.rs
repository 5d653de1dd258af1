//! What a checkpoint folder holds beside its configuration, for the classes whose keys depend on it.

use std::path::Path;

use gguf::{Error, Result};

use crate::safetensors::{Dtype, Stored};
use crate::transform;

/// A folder and the tensors in it, under the names that they have there.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// The folder.
    pub folder: &'a Path,
    /// Its tensors.
    pub tensors: &'a [Stored],
    /// Whether the layers behind the pooling are wanted too, where files of the architecture have a place for them.
    pub dense_modules: bool,
    /// Whether the output matrix of a reranker is wanted as a whole.
    pub whole_head: bool,
}

impl<'a> Contents<'a> {
    /// Tensors whose names end so, in the checkpoint's order.
    pub fn ending(&self, end: &'a str) -> impl Iterator<Item = &'a Stored> {
        self.tensors.iter().filter(move |t| t.name().ends_with(end))
    }
}

/// The values of a small tensor.
///
/// # Errors
/// A type that no numbers are read from.
pub(crate) fn floats(tensor: &Stored) -> Result<Vec<f32>> {
    let rows = transform::stored(tensor)?;
    transform::to_f32(rows.elements(), &rows.rows(0..transform::row_count(rows.shape()))?)
}

/// The values of a small tensor of whole numbers, exactly.
///
/// # Errors
/// A tensor of another type.
pub(crate) fn integers(tensor: &Stored) -> Result<Vec<i64>> {
    let bytes = tensor.bytes();
    Ok(match tensor.dtype() {
        Dtype::I64 => bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        Dtype::I32 => bytes.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
        other => {
            return Err(Error::input(format!("tensor {}: {other} is no type of whole numbers", tensor.name()))
                .at(tensor.path()));
        }
    })
}

/// The block that a name is of: its first part that is a number.
pub(crate) fn block_of(name: &str) -> Option<u64> {
    name.split('.').find_map(|part| part.parse().ok())
}
