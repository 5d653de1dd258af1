//! The file that a folder is made of, and its rows.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use gguf::{Result, Source, TensorType};

use crate::transform::{self, Elements, RowSource, Rows};

/// A tensor of a file as a lazy tensor: floats as they are, blocks decoded to f32.
#[derive(Debug)]
struct FileRows {
    file: File,
    tensor: usize,
    shape: Vec<u64>,
    elements: Elements,
}

/// A file that tensors are read from for as long as they are there.
#[derive(Clone)]
pub(crate) struct File(pub(crate) Arc<dyn Source + Send + Sync>);

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("tensors", &self.0.tensors().len()).finish()
    }
}

impl File {
    /// The tensor of this number, row-major.
    pub(crate) fn rows(&self, tensor: usize) -> Rows {
        let info = &self.0.tensors()[tensor];
        let shape: Vec<u64> = info.shape().dims().iter().rev().copied().collect();
        let elements = match info.ty() {
            TensorType::F16 => Elements::F16,
            TensorType::BF16 => Elements::BF16,
            ty @ (TensorType::I8 | TensorType::I16 | TensorType::I32 | TensorType::I64) => Elements::Blocks(ty),
            _ => Elements::F32,
        };
        Arc::new(FileRows { file: self.clone(), tensor, shape, elements })
    }
}

impl RowSource for FileRows {
    fn shape(&self) -> &[u64] {
        &self.shape
    }
    fn elements(&self) -> Elements {
        self.elements
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let ty = self.file.0.tensors()[self.tensor].ty();
        let count = (rows.end - rows.start) * transform::row_len(&self.shape);
        let bytes = self.file.0.rows(self.tensor, rows)?;
        if self.elements.ty() == ty {
            return Ok(bytes);
        }
        let mut floats = vec![0.0_f32; count as usize];
        gguf::decode::rows(ty, &bytes, &mut floats)?;
        Ok(Cow::Owned(transform::from_f32(&floats, Elements::F32)))
    }
    fn release(&self, rows: Range<u64>) {
        self.file.0.release(self.tensor, rows);
    }
}
