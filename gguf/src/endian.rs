//! Tensor data of big-endian files.

use crate::error::{Error, Result};
use crate::types::TensorType;

/// The same elements in the other byte order.
///
/// # Errors
/// A type whose blocks are not plain elements: how their fields are ordered in big-endian files is not specified.
pub(crate) fn swapped(ty: TensorType, bytes: &[u8]) -> Result<Vec<u8>> {
    if ty.is_quantized() {
        return Err(Error::input(format!("reading {ty} data of a big-endian file is not supported"))
            .help("convert the model again on or for a little-endian machine"));
    }
    let mut out = bytes.to_vec();
    for element in out.chunks_exact_mut(ty.block_bytes() as usize) {
        element.reverse();
    }
    Ok(out)
}
