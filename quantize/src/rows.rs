//! Rows of a type to f32 and back, by the type's format.

use gguf::{Error, Result, TensorType};

use crate::block;
use crate::codec::{Codec, ImportanceUse};
use crate::lanes::{Floats, Ints, Masks, Path as SimdPath, Task};

/// The codec of a type; `None` where tensors of this type are not weights (integers, F64, intermediates).
pub fn codec(ty: TensorType) -> Option<&'static dyn Codec> {
    block::format(ty).map(|format| format as &dyn Codec)
}

/// Decodes whole blocks of a type into f32: `bytes` holds n blocks, `out` takes their n × block length values.
///
/// # Errors
/// Without a codec for the type, or where the lengths do not fit each other.
pub fn decode_rows(ty: TensorType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let codec = known(ty)?;
    expect_bytes(ty, out.len(), bytes.len())?;
    codec.decode(bytes, out);
    Ok(())
}

/// Encodes whole rows of `row_len` values into a type, the importance (one value a column) shared by all of them.
///
/// # Errors
/// Without a codec for the type; where the lengths do not fit each other or the blocks of the type; where a value or an
/// importance is not finite (the message says which); where the type needs an importance and has none.
pub fn encode_rows(
    ty: TensorType,
    rows: &[f32],
    row_len: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<()> {
    let codec = known(ty)?;
    if row_len == 0 || !rows.len().is_multiple_of(row_len) {
        return Err(Error::usage(format!("{} values are not a whole number of rows of {row_len}", rows.len())));
    }
    if !(row_len as u64).is_multiple_of(ty.block_len()) {
        return Err(Error::usage(format!(
            "row length {row_len} is not a multiple of the {ty} block size {}",
            ty.block_len()
        )));
    }
    expect_bytes(ty, rows.len(), out.len())?;
    if let Some(at) = first_not_finite(rows) {
        let (row, column) = (at / row_len, at % row_len);
        return Err(Error::input(format!("the value at row {row}, column {column} is {}", rows[at])));
    }
    match importance {
        Some(importance) => {
            if importance.len() != row_len {
                let got = importance.len();
                return Err(Error::usage(format!("{got} values of importance for rows of {row_len}")));
            }
            if let Some(at) = first_not_finite(importance) {
                return Err(Error::input(format!("the importance of column {at} is {}", importance[at])));
            }
        }
        None if codec.importance() == ImportanceUse::Required => {
            return Err(Error::input(format!("{ty} needs an importance for each column"))
                .help("measure one (an imatrix file) and pass it, or choose a type of more bits"));
        }
        None => {}
    }
    codec.encode(rows, row_len, importance, out);
    Ok(())
}

/// The index of the first NaN or infinity.
pub fn first_not_finite(values: &[f32]) -> Option<usize> {
    let mut any = false;
    SimdPath::current().run(AnyNotFinite { values, any: &mut any });
    if any { values.iter().position(|value| !value.is_finite()) } else { None }
}

struct AnyNotFinite<'a> {
    values: &'a [f32],
    any: &'a mut bool,
}

impl Task for AnyNotFinite<'_> {
    #[inline(always)]
    fn run<F: Floats>(self) {
        // No exponent is larger than that of what is not finite.
        let exponent = F::Int::splat(0x7f80_0000);
        let mut most = F::Int::splat(0);
        let chunks = self.values.chunks_exact(F::N);
        let rest = chunks.remainder();
        for chunk in chunks {
            most = most.max(F::load(chunk).bits() & exponent);
        }
        *self.any = most.eq(exponent).any() || rest.iter().any(|value| !value.is_finite());
    }
}

fn known(ty: TensorType) -> Result<&'static dyn Codec> {
    codec(ty)
        .ok_or_else(|| Error::input(format!("{ty} is no format of weights")).help("`quantize --help` lists the types"))
}

fn expect_bytes(ty: TensorType, values: usize, bytes: usize) -> Result<()> {
    match ty.bytes_for(values as u64) {
        Some(expected) if expected == bytes as u64 => Ok(()),
        Some(expected) => Err(Error::input(format!("{values} values of {ty} take {expected} bytes, not {bytes}"))),
        None => {
            Err(Error::input(format!("{values} values are not a whole number of {ty} blocks of {}", ty.block_len())))
        }
    }
}
