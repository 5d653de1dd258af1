//! What a block format is: bytes to f32 and back.

use gguf::TensorType;

/// Whether a format makes use of an importance for each column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportanceUse {
    /// The bytes are the same with and without.
    Ignored,
    /// Better with, possible without.
    Used,
    /// Refused without: the result would be useless.
    Required,
}

/// A format that tensors are stored in.
///
/// Implementations trust their arguments; callers check them first, or use [`decode_rows`](crate::decode_rows) and [`encode_rows`](crate::encode_rows).
pub trait Codec: Sync {
    /// The type this codec reads and writes.
    fn ty(&self) -> TensorType;

    /// What an importance does to this format.
    fn importance(&self) -> ImportanceUse;

    /// Decodes whole blocks: `bytes` holds n blocks, `out` has room for their n × block length values.
    fn decode(&self, bytes: &[u8], out: &mut [f32]);

    /// Encodes rows of `row_len` values each, the importance (one value a column) shared by all of them.
    ///
    /// Formats with a search encode up to 32 blocks at once, so calls with many rows are faster than many calls.
    fn encode(&self, rows: &[f32], row_len: usize, importance: Option<&[f32]>, out: &mut [u8]);
}
