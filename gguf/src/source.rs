//! The seam: everything downstream works on [`Source`], so that a GGUF file, a split GGUF and a checkpoint folder
//! are the same thing.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::types::TensorType;
use crate::value::{Metadata, Value};

/// The most dimensions a tensor may have (`GGML_MAX_DIMS`).
pub const MAX_DIMS: usize = 4;

/// A tensor's dimensions in ggml order: the first is the length of a row, contiguous in memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [u64; MAX_DIMS],
    len: u8,
}

impl Shape {
    /// A shape with these dimensions, the row length first.
    ///
    /// # Errors
    /// More than four dimensions, or a number of elements that overflows `i64` as ggml counts them.
    pub fn new(dims: &[u64]) -> Result<Shape> {
        if dims.len() > MAX_DIMS {
            return Err(Error::input(format!("a tensor has {} dimensions, the most is {MAX_DIMS}", dims.len())));
        }
        dims.iter()
            // A dimension of zero does not excuse the others: their product is the number of rows.
            .try_fold(1_u64, |n, &d| n.checked_mul(d.max(1)))
            .filter(|&n| i64::try_from(n).is_ok())
            .filter(|_| dims.iter().all(|&d| i64::try_from(d).is_ok()))
            .ok_or_else(|| Error::input(format!("the number of elements of {dims:?} overflows")))?;
        let mut all = [1; MAX_DIMS];
        all[..dims.len()].copy_from_slice(dims);
        Ok(Shape { dims: all, len: dims.len() as u8 })
    }

    /// The dimensions, the row length first.
    pub fn dims(&self) -> &[u64] {
        &self.dims[..usize::from(self.len)]
    }

    /// The dimension at this position, 1 where the tensor has fewer.
    pub fn dim(&self, i: usize) -> u64 {
        self.dims.get(i).copied().unwrap_or(1)
    }

    /// Elements in a row.
    pub fn row_len(&self) -> u64 {
        self.dims[0]
    }

    /// The number of rows: the product of all dimensions but the first.
    pub fn rows(&self) -> u64 {
        self.dims[1..].iter().product()
    }

    /// The number of elements.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.dims(), f)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.dims().iter().map(u64::to_string).collect::<Vec<_>>().join(" × ");
        f.pad(&text)
    }
}

/// What is known of a tensor without touching its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    name: String,
    shape: Shape,
    ty: TensorType,
    bytes: u64,
}

impl TensorInfo {
    /// A tensor of this name, shape and type.
    ///
    /// # Errors
    /// A row that is not a whole number of blocks, or a size that overflows.
    pub fn new(name: impl Into<String>, shape: Shape, ty: TensorType) -> Result<TensorInfo> {
        let name = name.into();
        let bytes = ty.bytes_for(shape.row_len()).and_then(|row| row.checked_mul(shape.rows()));
        match bytes {
            Some(bytes) if i64::try_from(bytes).is_ok() => Ok(TensorInfo { name, shape, ty, bytes }),
            Some(_) => Err(Error::input(format!("the size of {shape} {ty} overflows")).in_tensor(name)),
            None => Err(Error::input(format!(
                "row length {} is not a multiple of the {ty} block size {}",
                shape.row_len(),
                ty.block_len()
            ))
            .in_tensor(name)),
        }
    }

    /// The GGUF name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The dimensions in ggml order.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The type of the elements.
    pub fn ty(&self) -> TensorType {
        self.ty
    }

    /// Bytes of the data, without padding.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> u64 {
        self.ty.bytes_for(self.shape.row_len()).unwrap_or(0)
    }

    /// The number of rows.
    pub fn rows(&self) -> u64 {
        self.shape.rows()
    }

    /// The number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.elements()
    }
}

/// What multiplies with a tensor where the model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Runtime {
    /// ggml, by the type that the tensor is declared in.
    #[default]
    Ggml,
    /// bitsandbytes in four bits: weights, activations and result in this float type (`bnb_4bit_compute_dtype`).
    FourBit(TensorType),
    /// LLM.int8: activations of a token rounded to 8 bits, but for those of `threshold` or more (`llm_int8_threshold`; 0
    /// for none), which stay in 16 bits.
    Int8 {
        /// The least magnitude of an outlier.
        threshold: f32,
    },
}

/// A model seen as a GGUF file.
///
/// Rows are numbered over all dimensions but the first: the experts of a stack follow each other. A source may be
/// asked from several threads at once.
pub trait Source: Sync {
    /// GGUF keys, in order.
    fn metadata(&self) -> &Metadata;

    /// The tensors, in order, known without touching data.
    fn tensors(&self) -> &[TensorInfo];

    /// The bytes of these rows in the declared type, little-endian.
    ///
    /// # Errors
    /// A tensor or row that does not exist, and whatever reading can meet.
    fn rows(&self, tensor: usize, rows: Range<u64>) -> Result<Cow<'_, [u8]>>;

    /// Says that these rows will not be asked for soon, so that mapped memory may go. Never changes a result.
    fn release(&self, tensor: usize, rows: Range<u64>) {
        let _ = (tensor, rows);
    }

    /// These rows before they were rounded, where the source gives them in a narrower type than it has: a checkpoint of
    /// f32 that is given as f16. Asked for no rows it says whether that is so, and reads nothing.
    ///
    /// # Errors
    /// As [`Source::rows`].
    fn unrounded(&self, tensor: usize, rows: Range<u64>) -> Result<Option<Vec<f32>>> {
        let _ = (tensor, rows);
        Ok(None)
    }

    /// The position of the tensor with this name.
    fn find(&self, name: &str) -> Option<usize> {
        self.tensors().iter().position(|t| t.name() == name)
    }

    /// What packed the weights before they were decoded for this source, if something did: their precision is that
    /// form's, whatever type they are declared in.
    fn packed(&self) -> Option<&str> {
        None
    }

    /// Bytes of all tensors where they are stored: less than [`Source::tensors`] sum up to where rows are decoded from a
    /// packed form.
    fn stored_bytes(&self) -> u64 {
        self.tensors().iter().map(TensorInfo::bytes).sum()
    }

    /// What multiplies with a tensor where the model runs as it is stored.
    fn runtime(&self, tensor: usize) -> Runtime {
        let _ = tensor;
        Runtime::Ggml
    }

    /// What a person should know of how this source was made: decoded forms, parts left out. One line each.
    fn notes(&self) -> &[String] {
        &[]
    }

    /// What is known of the model's arithmetic beyond the metadata: keys that its architecture has no place for, or that
    /// hold another value in files by convention. They take precedence where the model is computed, and are never
    /// written.
    fn beyond(&self) -> &[(String, Value)] {
        &[]
    }
}

impl<S: Source + Send + ?Sized> Source for Box<S> {
    fn metadata(&self) -> &Metadata {
        (**self).metadata()
    }
    fn tensors(&self) -> &[TensorInfo] {
        (**self).tensors()
    }
    fn rows(&self, tensor: usize, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        (**self).rows(tensor, rows)
    }
    fn release(&self, tensor: usize, rows: Range<u64>) {
        (**self).release(tensor, rows);
    }
    fn unrounded(&self, tensor: usize, rows: Range<u64>) -> Result<Option<Vec<f32>>> {
        (**self).unrounded(tensor, rows)
    }
    fn find(&self, name: &str) -> Option<usize> {
        (**self).find(name)
    }
    fn packed(&self) -> Option<&str> {
        (**self).packed()
    }
    fn runtime(&self, tensor: usize) -> Runtime {
        (**self).runtime(tensor)
    }
    fn stored_bytes(&self) -> u64 {
        (**self).stored_bytes()
    }
    fn notes(&self) -> &[String] {
        (**self).notes()
    }
    fn beyond(&self) -> &[(String, Value)] {
        (**self).beyond()
    }
}

/// The tensors of a source by name, for finding one among hundreds of thousands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(Vec<usize>);

impl Names {
    /// The names of these tensors.
    ///
    /// # Errors
    /// The number of a tensor whose name another one has already.
    pub(crate) fn of(tensors: &[TensorInfo]) -> Result<Names, usize> {
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by_key(|&i| (tensors[i].name(), i));
        let twice = order.windows(2).filter(|w| tensors[w[0]].name() == tensors[w[1]].name()).map(|w| w[1]).min();
        twice.map_or(Ok(Names(order)), Err)
    }

    /// The position of a name among the same tensors.
    pub(crate) fn find(&self, tensors: &[TensorInfo], name: &str) -> Option<usize> {
        let at = self.0.binary_search_by(|&i| tensors[i].name().cmp(name)).ok()?;
        self.0.get(at).copied()
    }
}

/// Checks a request against a tensor's bounds and gives the byte range of these rows in its data.
///
/// # Errors
/// A tensor that does not exist, or rows past its end.
pub fn row_range(tensors: &[TensorInfo], tensor: usize, rows: &Range<u64>) -> Result<Range<u64>> {
    let info = tensors.get(tensor).ok_or_else(|| Error::usage(format!("there is no tensor number {tensor}")))?;
    if rows.start > rows.end || rows.end > info.rows() {
        return Err(Error::usage(format!("tensor {} has {} rows, not {rows:?}", info.name(), info.rows())));
    }
    Ok(rows.start * info.row_bytes()..rows.end * info.row_bytes())
}
