//! Tensor data of big-endian files.

use crate::error::{Error, Result};
use crate::types::{ScaleField, TensorType};

/// Types with fields wider than a byte that are no scales. ggml reads some of them through casts, so what their
/// bytes are in a big-endian file depends on the program that wrote it; gguf-py's converter refuses them too.
const UNSPECIFIED: [TensorType; 10] = [
    TensorType::Q8_1,
    TensorType::Q8_K,
    TensorType::IQ1_S,
    TensorType::IQ1_M,
    TensorType::IQ2_XXS,
    TensorType::IQ2_XS,
    TensorType::IQ2_S,
    TensorType::IQ3_XXS,
    TensorType::IQ3_S,
    TensorType::IQ4_XS,
];

/// The same elements in the other byte order: plain elements reversed, the f16 scales of blocks swapped, as gguf-py's
/// `gguf_convert_endian.py` does it.
///
/// # Errors
/// A type for which the order of its fields in big-endian files is not specified.
pub(crate) fn swapped(ty: TensorType, bytes: &[u8]) -> Result<Vec<u8>> {
    if UNSPECIFIED.contains(&ty) {
        return Err(Error::input(format!("{ty} data of big-endian files is not specified"))
            .help("quantize again from the original weights"));
    }
    let mut out = bytes.to_vec();
    for block in out.chunks_exact_mut(ty.block_bytes() as usize) {
        if !ty.is_quantized() {
            block.reverse();
            continue;
        }
        for field in ty.scale_fields() {
            let (at, len) = match *field {
                ScaleField::F16(at) => (at as usize, 2),
                ScaleField::F32(at) => (at as usize, 4),
                ScaleField::E8m0(_) | ScaleField::E4m3(_) | ScaleField::Iq1m(_) => continue,
            };
            if let Some(bytes) = block.get_mut(at..at + len) {
                bytes.reverse();
            }
        }
    }
    Ok(out)
}
