//! Tensors on their way: lazy, read by ranges of rows.
//!
//! A [`Rows`] knows its shape without its data. Reorderings (head permutations, splits, transposes, deinterleaving)
//! are all one thing, a strided view; stacks of experts are concatenations; arithmetic on small tensors is a map.
//! The reference computes in f32 (f16 checkpoints: f16) and so do we: see [`Elements`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::ThreadId;

use gguf::{Error, Result, Runtime, TensorInfo, TensorType, row_range};
use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::blocks;
use crate::float::Float;
use crate::safetensors::{Dtype, Stored};

/// The element type of rows in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elements {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// Bytes already in the form of this GGUF type; rows are whole blocks.
    Blocks(TensorType),
}

impl Elements {
    /// Bytes of this many elements; `None` where they are not a whole number of blocks.
    pub fn bytes(self, elements: u64) -> Option<u64> {
        self.ty().bytes_for(elements)
    }

    /// The GGUF type with the same bytes.
    pub fn ty(self) -> TensorType {
        match self {
            Elements::F32 => TensorType::F32,
            Elements::F16 => TensorType::F16,
            Elements::BF16 => TensorType::BF16,
            Elements::Blocks(ty) => ty,
        }
    }

    fn size(self) -> usize {
        if self == Elements::F32 { 4 } else { 2 }
    }
}

impl From<Float> for Elements {
    fn from(float: Float) -> Elements {
        match float {
            Float::F32 => Elements::F32,
            Float::F16 => Elements::F16,
            Float::Bf16 => Elements::BF16,
        }
    }
}

/// A tensor that gives its rows when asked: the seam between what a checkpoint stores and what the file shall hold.
///
/// A row is the last dimension of the row-major shape; rows are numbered over all others. Implementations may be
/// asked from several threads at once. Decoders of packed checkpoints implement this.
pub trait RowSource: Send + Sync + fmt::Debug {
    /// The shape, row-major: the last dimension is contiguous.
    fn shape(&self) -> &[u64];

    /// The type of the elements that [`RowSource::rows`] gives.
    fn elements(&self) -> Elements;

    /// The bytes of these rows, little-endian.
    ///
    /// # Errors
    /// What reading or decoding meets. Ranges are within bounds.
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>>;

    /// What multiplies with it where the model runs as it is stored.
    fn runtime(&self) -> Runtime {
        Runtime::Ggml
    }

    /// Says that these rows will not be asked for soon.
    fn release(&self, rows: Range<u64>) {
        let _ = rows;
    }
}

/// A piece of a tensor is held in at most so many forms of its size at once: as it is stored, as f32 while it is converted
/// or its rounding is looked at, and as it is written, each once more where rows are moved.
pub const FORMS: u64 = 16;

/// A shared lazy tensor.
pub type Rows = Arc<dyn RowSource>;

/// The length of a row: the last dimension, 1 for a scalar.
pub fn row_len(shape: &[u64]) -> u64 {
    shape.last().copied().unwrap_or(1)
}

/// The number of rows: the product of all dimensions but the last.
pub fn row_count(shape: &[u64]) -> u64 {
    shape.split_last().map_or(1, |(_, rest)| rest.iter().product())
}

/// A tensor of the checkpoint as it is stored.
///
/// # Errors
/// A type that no float tensor is converted from.
pub fn stored(tensor: &Stored) -> Result<Rows> {
    let elements = match tensor.dtype() {
        Dtype::F32 => Elements::F32,
        Dtype::F16 => Elements::F16,
        Dtype::BF16 => Elements::BF16,
        Dtype::F64 | Dtype::I64 | Dtype::I32 | Dtype::I16 | Dtype::I8 | Dtype::U8 | Dtype::BOOL => {
            return Ok(Arc::new(Widened { tensor: tensor.clone() }));
        }
        other => {
            return Err(Error::input(format!("elements of type {other} are not weights"))
                .in_tensor(tensor.name())
                .at(tensor.path())
                .help("a packed checkpoint names its method under quantization_config in config.json"));
        }
    };
    Ok(Arc::new(Plain { tensor: tensor.clone(), elements }))
}

#[derive(Debug)]
struct Plain {
    tensor: Stored,
    elements: Elements,
}

impl Plain {
    fn span(&self, rows: &Range<u64>) -> Range<usize> {
        let row = row_len(self.tensor.shape()) as usize * self.elements.size();
        rows.start as usize * row..rows.end as usize * row
    }
}

impl RowSource for Plain {
    fn shape(&self) -> &[u64] {
        self.tensor.shape()
    }
    fn elements(&self) -> Elements {
        self.elements
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        Ok(Cow::Borrowed(&self.tensor.bytes()[self.span(&rows)]))
    }
    fn release(&self, rows: Range<u64>) {
        self.tensor.release(self.span(&rows));
    }
}

/// Integers and doubles as f32.
#[derive(Debug)]
struct Widened {
    tensor: Stored,
}

impl RowSource for Widened {
    fn shape(&self) -> &[u64] {
        self.tensor.shape()
    }
    fn elements(&self) -> Elements {
        Elements::F32
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let size = self.tensor.dtype().bitsize() / 8;
        let row = row_len(self.tensor.shape()) as usize;
        let bytes = &self.tensor.bytes()[rows.start as usize * row * size..rows.end as usize * row * size];
        let mut out = Vec::with_capacity(bytes.len() / size * 4);
        for item in bytes.chunks_exact(size) {
            let mut wide = [0; 8];
            wide[..size].copy_from_slice(item);
            let value = match self.tensor.dtype() {
                Dtype::F64 => f64::from_le_bytes(wide) as f32,
                Dtype::I64 => i64::from_le_bytes(wide) as f32,
                Dtype::I32 => i32::from_le_bytes([wide[0], wide[1], wide[2], wide[3]]) as f32,
                Dtype::I16 => f32::from(i16::from_le_bytes([wide[0], wide[1]])),
                Dtype::I8 => f32::from(wide[0] as i8),
                _ => f32::from(wide[0]),
            };
            out.extend(value.to_le_bytes());
        }
        Ok(Cow::Owned(out))
    }
}

/// Whole numbers as I32: tables of ids.
///
/// # Errors
/// A tensor of another type.
pub(crate) fn integers(tensor: &Stored) -> Result<Rows> {
    match tensor.dtype() {
        Dtype::I64 | Dtype::I32 => Ok(Arc::new(Integers { tensor: tensor.clone() })),
        other => Err(Error::input(format!("{other} is no type of ids")).in_tensor(tensor.name()).at(tensor.path())),
    }
}

#[derive(Debug)]
struct Integers {
    tensor: Stored,
}

impl RowSource for Integers {
    fn shape(&self) -> &[u64] {
        self.tensor.shape()
    }
    fn elements(&self) -> Elements {
        Elements::Blocks(TensorType::I32)
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let size = self.tensor.dtype().bitsize() / 8;
        let row = row_len(self.tensor.shape()) as usize;
        let bytes = &self.tensor.bytes()[rows.start as usize * row * size..rows.end as usize * row * size];
        // The lower half of a number is its I32.
        Ok(Cow::Owned(bytes.chunks_exact(size).flat_map(|n| &n[..4]).copied().collect()))
    }
}

/// The tensor as blocks of Q8_0. Rows that are not a whole number of blocks stay floats.
pub(crate) fn as_q8_0(of: &Rows) -> Rows {
    let whole = TensorType::Q8_0.bytes_for(row_len(of.shape())).is_some();
    if whole { Arc::new(Quantized { of: Arc::clone(of) }) } else { Arc::clone(of) }
}

#[derive(Debug)]
struct Quantized {
    of: Rows,
}

impl RowSource for Quantized {
    fn shape(&self) -> &[u64] {
        self.of.shape()
    }
    fn elements(&self) -> Elements {
        Elements::Blocks(TensorType::Q8_0)
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        cast(self.of.rows(rows)?, self.of.elements(), TensorType::Q8_0)
    }
    fn release(&self, rows: Range<u64>) {
        self.of.release(rows);
    }
}

/// Values made here.
pub fn values(shape: Vec<u64>, values: &[f32]) -> Rows {
    Arc::new(Values { shape, elements: Elements::F32, bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect() })
}

/// Whole numbers made here, as a vector of I64.
pub(crate) fn whole_numbers(values: &[i64]) -> Rows {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Arc::new(Values { shape: vec![values.len() as u64], elements: Elements::Blocks(TensorType::I64), bytes })
}

#[derive(Debug)]
struct Values {
    shape: Vec<u64>,
    elements: Elements,
    bytes: Vec<u8>,
}

impl RowSource for Values {
    fn shape(&self) -> &[u64] {
        &self.shape
    }
    fn elements(&self) -> Elements {
        self.elements
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let row = self.elements.bytes(row_len(&self.shape)).unwrap_or(0) as usize;
        Ok(Cow::Borrowed(&self.bytes[rows.start as usize * row..rows.end as usize * row]))
    }
}

/// A view of a tensor's elements in another order.
///
/// Element `[i, j, …]` of the view is element `offset + i·strides[0] + j·strides[1] + …` of the tensor, counted in
/// its memory order. `dims` may be finer than the shape that the view shows.
#[derive(Debug)]
struct View {
    of: Rows,
    shape: Vec<u64>,
    /// Dimensions over all rows, without that of the row itself.
    dims: Vec<u64>,
    strides: Vec<u64>,
    offset: u64,
    column_stride: u64,
}

/// A view with this shape: `axes` lists length and stride (in elements of `of`) of each axis, the row's last.
/// The product of the axes before the last is the number of rows.
///
/// # Errors
/// Axes that do not make the shape, or that reach past the tensor.
pub fn view(of: &Rows, shape: Vec<u64>, offset: u64, axes: &[(u64, u64)]) -> Result<Rows> {
    let total: u64 = of.shape().iter().product();
    let Some((&(columns, column_stride), outer)) = axes.split_last() else {
        return Err(Error::input("a view needs an axis"));
    };
    let rows: u64 = outer.iter().map(|a| a.0).product();
    let reach = axes.iter().try_fold(offset, |n, &(len, stride)| {
        len.checked_sub(1).and_then(|last| last.checked_mul(stride)).and_then(|far| n.checked_add(far))
    });
    let fits = columns == row_len(&shape) && rows == row_count(&shape) && reach.is_some_and(|last| last < total);
    // Blocks move as whole rows or not at all.
    let whole_rows = columns == row_len(of.shape())
        && column_stride == 1
        && offset.is_multiple_of(columns.max(1))
        && outer.iter().all(|a| a.1.is_multiple_of(columns.max(1)));
    if !fits || matches!(of.elements(), Elements::Blocks(_)) && !whole_rows {
        return Err(Error::input(format!(
            "a tensor of shape {:?} does not divide as the configuration says",
            of.shape()
        )));
    }
    Ok(Arc::new(View {
        of: Arc::clone(of),
        shape,
        dims: outer.iter().map(|a| a.0).collect(),
        strides: outer.iter().map(|a| a.1).collect(),
        offset,
        column_stride,
    }))
}

impl View {
    /// Where a row of the view begins in the tensor's elements.
    fn start(&self, mut row: u64) -> u64 {
        let mut at = self.offset;
        for (&dim, &stride) in self.dims.iter().zip(&self.strides).rev() {
            at += row % dim * stride;
            row /= dim;
        }
        at
    }

    /// These elements of the tensor, which need not be whole rows.
    fn elements_of(&self, span: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let row = row_len(self.of.shape()).max(1);
        let size = self.of.elements().size();
        let rows = span.start / row..span.end.div_ceil(row);
        if matches!(self.of.elements(), Elements::Blocks(_)) {
            return self.of.rows(rows);
        }
        let first = ((span.start - rows.start * row) as usize) * size;
        let len = (span.end - span.start) as usize * size;
        Ok(match self.of.rows(rows)? {
            Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[first..first + len]),
            Cow::Owned(mut bytes) => {
                bytes.truncate(first + len);
                bytes.drain(..first);
                Cow::Owned(bytes)
            }
        })
    }

    /// The part of the tensor that these rows of the view touch.
    fn reach(&self, rows: &Range<u64>) -> Range<u64> {
        let (mut low, mut high) = (u64::MAX, 0);
        let width = row_len(&self.shape).saturating_sub(1) * self.column_stride + 1;
        for row in rows.clone() {
            let start = self.start(row);
            low = low.min(start);
            high = high.max(start + width);
        }
        low.min(high)..high
    }

    fn copied(&self, rows: &Range<u64>) -> Result<Vec<u8>> {
        let size = self.of.elements().size();
        let columns = row_len(&self.shape);
        let mut out = Vec::with_capacity(((rows.end - rows.start) * columns) as usize * size);
        let mut row = rows.start;
        while row < rows.end {
            // Rows that follow each other in the tensor too are one piece.
            let start = self.start(row);
            let mut end = start + columns;
            row += 1;
            while row < rows.end && self.start(row) == end {
                end += columns;
                row += 1;
            }
            out.extend_from_slice(&self.elements_of(start..end)?);
        }
        Ok(out)
    }

    fn gathered(&self, rows: &Range<u64>) -> Result<Vec<u8>> {
        let reach = self.reach(rows);
        let bytes = self.elements_of(reach.clone())?;
        let starts: Vec<usize> = rows.clone().map(|r| (self.start(r) - reach.start) as usize).collect();
        let (columns, stride) = (row_len(&self.shape) as usize, self.column_stride as usize);
        match self.of.elements().size() {
            4 => Ok(gather::<4>(&bytes, &starts, columns, stride)),
            _ => Ok(gather::<2>(&bytes, &starts, columns, stride)),
        }
    }
}

/// Tiles keep both sides of a transpose in the cache.
const TILE: usize = 32;

fn gather<const N: usize>(bytes: &[u8], starts: &[usize], columns: usize, stride: usize) -> Vec<u8> {
    let items = bytes.as_chunks::<N>().0;
    let mut out = vec![[0; N]; starts.len() * columns];
    for (t, tile) in starts.chunks(TILE).enumerate() {
        for first in (0..columns).step_by(TILE) {
            for (r, start) in tile.iter().enumerate() {
                let row = (t * TILE + r) * columns;
                for column in first..columns.min(first + TILE) {
                    out[row + column] = items[start + column * stride];
                }
            }
        }
    }
    out.into_flattened()
}

impl RowSource for View {
    fn shape(&self) -> &[u64] {
        &self.shape
    }
    fn elements(&self) -> Elements {
        self.of.elements()
    }
    fn runtime(&self) -> Runtime {
        self.of.runtime()
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        if rows.is_empty() || row_len(&self.shape) == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        if self.column_stride != 1 {
            return self.gathered(&rows).map(Cow::Owned);
        }
        let columns = row_len(&self.shape);
        let first = self.start(rows.start);
        let straight = rows.clone().all(|row| self.start(row) == first + (row - rows.start) * columns);
        if straight {
            return self.elements_of(first..first + (rows.end - rows.start) * columns);
        }
        self.copied(&rows).map(Cow::Owned)
    }
    fn release(&self, rows: Range<u64>) {
        if rows.is_empty() || row_len(&self.shape) == 0 {
            return;
        }
        // The columns of a transpose touch every page again and again: they go with its last row.
        if self.column_stride != 1 && rows.end < row_count(&self.shape) {
            return;
        }
        let rows = if self.column_stride == 1 { rows } else { 0..row_count(&self.shape) };
        let (reach, row) = (self.reach(&rows), row_len(self.of.shape()).max(1));
        self.of.release(reach.start / row..reach.end.div_ceil(row));
    }
}

/// The entries of the first dimension in another order: `axes` lists length and stride, in entries, of the parts that
/// the new first dimension is made of.
///
/// # Errors
/// Axes that reach past the tensor.
pub fn reordered(of: &Rows, first: u64, axes: &[(u64, u64)]) -> Result<Rows> {
    let mut shape = of.shape().to_vec();
    let entry: u64 = shape.iter().skip(1).product();
    let count = axes.iter().map(|a| a.0).product();
    match shape.first_mut() {
        Some(dimension) => *dimension = count,
        None => return Err(Error::input("a scalar has no entries to reorder")),
    }
    let mut all: Vec<(u64, u64)> = axes.iter().map(|&(len, stride)| (len, stride * entry)).collect();
    if shape.len() > 1 {
        all.extend(contiguous(&shape[1..]));
        return view(of, shape, first * entry, &all);
    }
    // A vector is one row: it is taken apart into rows of one element and put together again.
    all.push((1, 1));
    reshaped(&view(of, vec![count, 1], first, &all)?, shape)
}

/// A tensor's rows in another order.
#[derive(Debug)]
struct Permuted {
    of: Rows,
    shape: Vec<u64>,
    order: Vec<u64>,
}

/// The entries of the first dimension of a vector or matrix in this order, by their numbers.
///
/// # Errors
/// A tensor of more dimensions, or numbers beyond it.
pub fn permuted(of: &Rows, order: Vec<u64>) -> Result<Rows> {
    let shape = of.shape().to_vec();
    let count = shape.first().copied().unwrap_or(0);
    if !matches!(shape.len(), 1 | 2) || order.iter().any(|i| *i >= count) {
        return Err(Error::input(format!("a tensor of shape {shape:?} has no such entries to reorder")));
    }
    let (entries, columns) = (order.len() as u64, shape.get(1).copied());
    // The elements of a vector are rows of one element for a while.
    let matrix = reshaped(of, vec![count, columns.unwrap_or(1)])?;
    let rows: Rows = Arc::new(Permuted { of: matrix, shape: vec![entries, columns.unwrap_or(1)], order });
    if columns.is_some() { Ok(rows) } else { reshaped(&rows, vec![entries]) }
}

impl RowSource for Permuted {
    fn shape(&self) -> &[u64] {
        &self.shape
    }
    fn elements(&self) -> Elements {
        self.of.elements()
    }
    fn runtime(&self) -> Runtime {
        self.of.runtime()
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let mut out = Vec::new();
        for row in &self.order[rows.start as usize..rows.end as usize] {
            out.extend_from_slice(&self.of.rows(*row..row + 1)?);
        }
        Ok(Cow::Owned(out))
    }
    fn release(&self, rows: Range<u64>) {
        for row in &self.order[rows.start as usize..rows.end as usize] {
            self.of.release(*row..row + 1);
        }
    }
}

/// The same elements in another shape.
///
/// # Errors
/// Shapes of different size.
pub fn reshaped(of: &Rows, shape: Vec<u64>) -> Result<Rows> {
    let axes: Vec<(u64, u64)> = contiguous(&shape);
    if shape.iter().try_fold(1_u64, |n, d| n.checked_mul(*d)) != Some(of.shape().iter().product()) {
        return Err(Error::input(format!("a tensor of shape {:?} is none of {shape:?}", of.shape())));
    }
    view(of, shape, 0, &axes)
}

/// The same elements without dimensions of 1.
///
/// # Errors
/// None but those of [`reshaped`].
pub fn squeezed(of: &Rows) -> Result<Rows> {
    reshaped(of, of.shape().iter().copied().filter(|d| *d != 1).collect())
}

/// Lengths and strides of a row-major shape.
pub fn contiguous(shape: &[u64]) -> Vec<(u64, u64)> {
    let mut axes: Vec<(u64, u64)> = Vec::with_capacity(shape.len().max(1));
    let mut stride = 1;
    for &dim in shape.iter().rev() {
        axes.push((dim, stride));
        stride *= dim;
    }
    if axes.is_empty() {
        axes.push((1, 1));
    }
    axes.reverse();
    axes
}

/// The last two dimensions exchanged.
///
/// # Errors
/// A tensor of fewer than two dimensions.
pub fn transposed(of: &Rows) -> Result<Rows> {
    let mut shape = of.shape().to_vec();
    let mut axes = contiguous(&shape);
    let n = shape.len();
    if n < 2 {
        return Err(Error::input(format!("a tensor of shape {shape:?} has nothing to transpose")));
    }
    shape.swap(n - 2, n - 1);
    axes.swap(n - 2, n - 1);
    view(of, shape, 0, &axes)
}

/// Every `step`th entry of an axis, beginning at `first`, `count` of them.
///
/// # Errors
/// An axis that is not there or too short.
pub fn strided(of: &Rows, axis: usize, first: u64, step: u64, count: u64) -> Result<Rows> {
    let mut shape = of.shape().to_vec();
    let mut axes = contiguous(&shape);
    let (Some(dim), Some(entry)) = (shape.get_mut(axis), axes.get_mut(axis)) else {
        return Err(Error::input(format!("a tensor of shape {shape:?} has no dimension {axis}")));
    };
    let offset = first * entry.1;
    *dim = count;
    *entry = (count, entry.1 * step);
    view(of, shape, offset, &axes)
}

/// `count` entries of an axis from `first` on.
///
/// # Errors
/// An axis that is not there or too short.
pub fn sliced(of: &Rows, axis: usize, first: u64, count: u64) -> Result<Rows> {
    strided(of, axis, first, 1, count)
}

/// Tensors one after the other along the first dimension, which is new when `stack` is set.
#[derive(Debug)]
struct Concatenated {
    parts: Vec<Rows>,
    /// Where each part's rows begin, and the end.
    starts: Vec<u64>,
    shape: Vec<u64>,
    elements: Elements,
}

fn concatenated(parts: Vec<Rows>, shape: Vec<u64>) -> Rows {
    let elements = parts.first().map_or(Elements::F32, |p| p.elements());
    // Tensors of different types meet in f32, as they do in the reference.
    let same = parts.iter().all(|p| p.elements() == elements);
    let (parts, elements) =
        if same { (parts, elements) } else { (parts.iter().map(|p| mapped(p, |v| v)).collect(), Elements::F32) };
    let mut starts = vec![0];
    for part in &parts {
        starts.push(starts.last().copied().unwrap_or(0) + row_count(part.shape()));
    }
    Arc::new(Concatenated { parts, starts, shape, elements })
}

/// Tensors of one shape under a new first dimension.
///
/// # Errors
/// No tensor, or different shapes.
pub fn stacked(parts: Vec<Rows>) -> Result<Rows> {
    let Some(first) = parts.first() else {
        return Err(Error::input("there is nothing to stack"));
    };
    if let Some(other) = parts.iter().find(|p| p.shape() != first.shape()) {
        return Err(Error::input(format!("shapes {:?} and {:?} do not stack", first.shape(), other.shape())));
    }
    let mut shape = vec![parts.len() as u64];
    shape.extend(first.shape());
    // Scalars and vectors become rows of their own; matrices keep theirs.
    Ok(concatenated(parts, shape))
}

/// Tensors joined along their first dimension.
///
/// # Errors
/// No tensor, or shapes that differ beyond it.
pub fn joined(parts: Vec<Rows>) -> Result<Rows> {
    let Some(first) = parts.first() else {
        return Err(Error::input("there is nothing to join"));
    };
    let tail = first.shape().get(1..).unwrap_or(&[]).to_vec();
    if tail.is_empty() || parts.iter().any(|p| p.shape().get(1..) != Some(&tail)) {
        let shapes: Vec<_> = parts.iter().map(|p| p.shape()).collect();
        return Err(Error::input(format!("shapes {shapes:?} do not join")));
    }
    let mut shape = vec![parts.iter().map(|p| p.shape()[0]).sum()];
    shape.extend(tail);
    Ok(concatenated(parts, shape))
}

/// The product of tensors of as many elements, element by element in f32, as a vector.
///
/// # Errors
/// No tensor, or different sizes.
pub fn multiplied(parts: &[Rows]) -> Result<Rows> {
    let size = |rows: &Rows| rows.shape().iter().product::<u64>();
    let elements = parts.first().map(size).ok_or_else(|| Error::input("there is nothing to multiply"))?;
    if parts.iter().any(|p| size(p) != elements) {
        return Err(Error::input("tensors of different sizes do not multiply"));
    }
    let vectors = parts.iter().map(|p| reshaped(p, vec![elements])).collect::<Result<_>>()?;
    Ok(Arc::new(Product { parts: vectors, shape: vec![elements] }))
}

#[derive(Debug)]
struct Product {
    parts: Vec<Rows>,
    shape: Vec<u64>,
}

impl RowSource for Product {
    fn shape(&self) -> &[u64] {
        &self.shape
    }
    fn elements(&self) -> Elements {
        Elements::F32
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let mut product: Vec<f32> = Vec::new();
        for part in &self.parts {
            let values = to_f32(part.elements(), &part.rows(rows.clone())?)?;
            if product.is_empty() {
                product = values;
            } else {
                product.iter_mut().zip(values).for_each(|(p, v)| *p *= v);
            }
        }
        Ok(Cow::Owned(from_f32(&product, Elements::F32)))
    }
}

/// The product of each row with a matrix `[outputs, inputs]`, plus a bias, and a function of that: all in f32, the sums
/// in the same order everywhere.
///
/// # Errors
/// Rows, a matrix and a bias that do not fit each other.
pub(crate) fn linear(of: &Rows, matrix: &Rows, bias: Option<&Rows>, f: fn(f32) -> f32) -> Result<Rows> {
    let (inputs, outputs) = (row_len(of.shape()), row_count(matrix.shape()));
    let fits = bias.is_none_or(|bias| bias.shape() == [outputs]);
    if of.shape().len() != 2 || matrix.shape().len() != 2 || row_len(matrix.shape()) != inputs || !fits {
        return Err(Error::input(format!("{:?} times {:?} is no linear layer", of.shape(), matrix.shape())));
    }
    Ok(Arc::new(Linear {
        of: of.clone(),
        matrix: matrix.clone(),
        bias: bias.cloned(),
        f,
        shape: vec![of.shape()[0], outputs],
        read: OnceLock::new(),
        last: Mutex::default(),
    }))
}

/// Rows, and their values.
type Made = (Range<u64>, Vec<f32>);

#[derive(Debug)]
struct Linear {
    of: Rows,
    matrix: Rows,
    bias: Option<Rows>,
    f: fn(f32) -> f32,
    shape: Vec<u64>,
    /// The matrix and the bias, once they were read.
    read: OnceLock<(Vec<f32>, Vec<f32>)>,
    /// What each thread made last: rows are asked for again where what rounding took from them is looked at.
    last: Mutex<HashMap<ThreadId, Made>>,
}

impl Linear {
    /// The matrix and the bias.
    fn parts(&self) -> Result<&(Vec<f32>, Vec<f32>)> {
        if let Some(read) = self.read.get() {
            return Ok(read);
        }
        let all = |rows: &Rows| to_f32(rows.elements(), &rows.rows(0..row_count(rows.shape()))?);
        let bias = self.bias.as_ref().map_or(Ok(Vec::new()), all)?;
        let read = (all(&self.matrix)?, bias);
        Ok(self.read.get_or_init(|| read))
    }

    fn made(&self, rows: Range<u64>) -> Result<Vec<f32>> {
        /// Rows that go through the matrix together: it is larger than a cache.
        const TOGETHER: usize = 16;
        let (matrix, bias) = self.parts()?;
        let (inputs, outputs) = (row_len(self.of.shape()).max(1) as usize, row_len(&self.shape).max(1) as usize);
        let values = to_f32(self.of.elements(), &self.of.rows(rows)?)?;
        let mut out = vec![0.0; values.len() / inputs * outputs];
        let groups = out.par_chunks_mut(TOGETHER * outputs).zip(values.par_chunks(TOGETHER * inputs));
        groups.for_each(|(out, rows)| {
            for (j, column) in matrix.chunks(inputs).enumerate() {
                let bias = bias.get(j).copied().unwrap_or(0.0);
                for (row, out) in rows.chunks(inputs).zip(out.chunks_mut(outputs)) {
                    out[j] = (self.f)(dot(row, column) + bias);
                }
            }
        });
        Ok(out)
    }
}

/// The product of two vectors, summed in as many lanes as registers hold.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 32;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0_f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.into_iter().chain(a_rest.iter().zip(b_rest).map(|(a, b)| a * b)).sum()
}

impl RowSource for Linear {
    fn shape(&self) -> &[u64] {
        &self.shape
    }
    fn elements(&self) -> Elements {
        Elements::F32
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = std::thread::current().id();
        if let Some((_, made)) = last().get(&thread).filter(|(own, _)| *own == rows) {
            return Ok(Cow::Owned(from_f32(made, Elements::F32)));
        }
        let made = self.made(rows.clone())?;
        let bytes = from_f32(&made, Elements::F32);
        last().insert(thread, (rows, made));
        Ok(Cow::Owned(bytes))
    }
    fn release(&self, rows: Range<u64>) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).remove(&std::thread::current().id());
        self.of.release(rows);
    }
}

/// A square image of `from` by `from` pixels of so many channels, which come last, at the size of `to` by `to`: bilinear,
/// corners on corners, with the sums in the order of torch's kernel for vectors.
pub(crate) fn bilinear(values: &[f32], from: usize, to: usize, channels: usize) -> Vec<f32> {
    let step = if to > 1 { (from as f32 - 1.0) / (to as f32 - 1.0) } else { 0.0 };
    let place = |i: usize| {
        let at = step * i as f32;
        let first = (at as usize).min(from - 1);
        let far = (at - first as f32).clamp(0.0, 1.0);
        (first, (first + 1).min(from - 1), 1.0 - far, far)
    };
    let mut out = Vec::with_capacity(to * to * channels);
    for (top, bottom, upper, lower) in (0..to).map(place) {
        for (left, right, near, far) in (0..to).map(place) {
            let pixel = |row: usize, column: usize| &values[(row * from + column) * channels..][..channels];
            let corners = [pixel(top, left), pixel(top, right), pixel(bottom, left), pixel(bottom, right)];
            let weights = [upper * near, upper * far, lower * near, lower * far];
            out.extend((0..channels).map(|c| {
                let sum = weights[3].mul_add(corners[3][c], weights[2] * corners[2][c]);
                weights[0].mul_add(corners[0][c], weights[1].mul_add(corners[1][c], sum))
            }));
        }
    }
    out
}

/// Zeros of a shape.
#[derive(Debug)]
struct Zeros {
    shape: Vec<u64>,
    elements: Elements,
}

/// Zeros of this shape and type.
pub fn zeros(shape: Vec<u64>, elements: Elements) -> Rows {
    Arc::new(Zeros { shape, elements })
}

impl RowSource for Zeros {
    fn shape(&self) -> &[u64] {
        &self.shape
    }
    fn elements(&self) -> Elements {
        self.elements
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let count = (rows.end - rows.start) * row_len(&self.shape);
        Ok(Cow::Owned(vec![0; self.elements.bytes(count).unwrap_or(0) as usize]))
    }
}

/// The tensor with rows of zeros behind, as far as it has fewer than `count`.
///
/// # Errors
/// A tensor that has no rows.
pub fn padded(of: &Rows, count: u64) -> Result<Rows> {
    let mut shape = of.shape().to_vec();
    match shape.first_mut() {
        Some(rows) if *rows < count => *rows = count - *rows,
        _ => return Ok(Arc::clone(of)),
    }
    joined(vec![Arc::clone(of), zeros(shape, of.elements())])
}

impl Concatenated {
    fn pieces(&self, rows: Range<u64>) -> impl Iterator<Item = (&Rows, Range<u64>)> {
        let first = self.starts.partition_point(|&s| s <= rows.start).saturating_sub(1);
        self.parts[first..].iter().zip(self.starts[first..].windows(2)).map_while(move |(part, bounds)| {
            let (start, end) = (rows.start.max(bounds[0]), rows.end.min(bounds[1]));
            (bounds[0] < rows.end).then(|| (part, start.min(end) - bounds[0]..end - bounds[0]))
        })
    }
}

impl RowSource for Concatenated {
    fn shape(&self) -> &[u64] {
        &self.shape
    }
    fn elements(&self) -> Elements {
        self.elements
    }
    fn runtime(&self) -> Runtime {
        let first = self.parts.first().map(|part| part.runtime()).unwrap_or_default();
        if self.parts.iter().all(|part| part.runtime() == first) { first } else { Runtime::Ggml }
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let mut pieces = self.pieces(rows.clone());
        let Some((part, range)) = pieces.next() else {
            return Ok(Cow::Borrowed(&[]));
        };
        if range.end - range.start == rows.end - rows.start {
            return part.rows(range);
        }
        let mut out = part.rows(range)?.into_owned();
        for (part, range) in pieces {
            out.extend_from_slice(&part.rows(range)?);
        }
        Ok(Cow::Owned(out))
    }
    fn release(&self, rows: Range<u64>) {
        for (part, range) in self.pieces(rows) {
            part.release(range);
        }
    }
}

/// Arithmetic on every element: in f32, and rounded to f16 where the tensor is f16.
pub fn mapped(of: &Rows, f: impl Fn(f32) -> f32 + Send + Sync + 'static) -> Rows {
    let elements = if of.elements() == Elements::F16 { Elements::F16 } else { Elements::F32 };
    Arc::new(Mapped { of: Arc::clone(of), f: Box::new(f), elements })
}

/// Rows times factors, in f32 and rounded to f16 where the tensor is f16.
#[derive(Debug)]
struct ScaledRows {
    of: Rows,
    /// Where each factor ends.
    factors: Vec<(u64, f32)>,
    elements: Elements,
}

/// Rows times a factor each: numbers of rows with their factor. Rows beyond them stay as they are.
pub fn scaled_rows(of: &Rows, factors: &[(u64, f32)]) -> Rows {
    let mut end = 0_u64;
    let ends = factors.iter().map(|&(count, factor)| {
        end = end.saturating_add(count);
        (end, factor)
    });
    let elements = if of.elements() == Elements::F16 { Elements::F16 } else { Elements::F32 };
    Arc::new(ScaledRows { of: Arc::clone(of), factors: ends.collect(), elements })
}

impl RowSource for ScaledRows {
    fn shape(&self) -> &[u64] {
        self.of.shape()
    }
    fn elements(&self) -> Elements {
        self.elements
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let mut floats = to_f32(self.of.elements(), &self.of.rows(rows.clone())?)?;
        let row = row_len(self.of.shape()).max(1) as usize;
        for (row, values) in rows.zip(floats.chunks_mut(row)) {
            let place = self.factors.partition_point(|&(end, _)| end <= row);
            if let Some((_, factor)) = self.factors.get(place) {
                values.iter_mut().for_each(|v| *v *= factor);
            }
        }
        Ok(Cow::Owned(from_f32(&floats, self.elements)))
    }
    fn release(&self, rows: Range<u64>) {
        self.of.release(rows);
    }
}

/// Every element times a factor, in f32.
pub fn scaled(of: &Rows, factor: f32) -> Rows {
    Arc::new(Scaled { of: Arc::clone(of), factor })
}

#[derive(Debug)]
struct Scaled {
    of: Rows,
    factor: f32,
}

impl RowSource for Scaled {
    fn shape(&self) -> &[u64] {
        self.of.shape()
    }
    fn elements(&self) -> Elements {
        Elements::F32
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let floats = to_f32(self.of.elements(), &self.of.rows(rows)?)?;
        Ok(Cow::Owned(packed(&floats, |v| (v * self.factor).to_le_bytes())))
    }
    fn release(&self, rows: Range<u64>) {
        self.of.release(rows);
    }
}

/// The exponential in f32, correctly rounded.
///
/// The reference's value depends on the processor: torch asks the vendor's library, which is wrong in the last bit
/// for some values. Rounded correctly it is the same everywhere, and at most one unit in the last place from theirs.
pub(crate) fn exp(v: f32) -> f32 {
    // No library's double is wrong by more; what rounds alike on both sides of the error needs no further look.
    const ERROR: f64 = 1e-13;
    let near = f64::from(v).exp();
    let (low, high) = ((near * (1.0 - ERROR)) as f32, (near * (1.0 + ERROR)) as f32);
    if low.to_bits() == high.to_bits() || v.is_nan() { near as f32 } else { exp_by_series(f64::from(v)) }
}

/// The exponential of a number near which a double does not tell which f32 is the nearest: as a sum of two doubles.
fn exp_by_series(v: f64) -> f32 {
    // The logarithm of 2: its first 33 bits, so that multiples are exact, and the rest in two parts.
    const LN2: [f64; 3] = [0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10, 1.161_222_722_936_253_2e-26];
    let power = (v / std::f64::consts::LN_2).round();
    let rest = add(Double { high: v - power * LN2[0], low: 0.0 }, product(-power, LN2[1]));
    let rest = add(rest, Double { high: -power * LN2[2], low: 0.0 });
    let one = Double { high: 1.0, low: 0.0 };
    // Horner's scheme from the 27th term on, below the last bit of the second double.
    let sum = (1..28).rev().fold(one, |sum, n| add(one, divided(times(sum, rest), f64::from(n))));
    let scale = 2f64.powi(power as i32);
    let (high, low) = (sum.high * scale, sum.low * scale);
    // Rounding twice is right when what was lost the first time shows in the last bit.
    let odd = high.to_bits() & 1 == 1;
    let high = match low {
        _ if low == 0.0 || odd => high,
        _ if low > 0.0 => f64::from_bits(high.to_bits() + 1),
        _ => f64::from_bits(high.to_bits() - 1),
    };
    high as f32
}

/// A number as the sum of two doubles, the second no larger than the rounding error of the first.
#[derive(Clone, Copy)]
struct Double {
    high: f64,
    low: f64,
}

fn sum(a: f64, b: f64) -> Double {
    let high = a + b;
    let part = high - a;
    Double { high, low: (a - (high - part)) + (b - part) }
}

fn product(a: f64, b: f64) -> Double {
    let high = a * b;
    Double { high, low: a.mul_add(b, -high) }
}

fn add(a: Double, b: Double) -> Double {
    let first = sum(a.high, b.high);
    sum(first.high, first.low + a.low + b.low)
}

fn times(a: Double, b: Double) -> Double {
    let first = product(a.high, b.high);
    sum(first.high, first.low + a.high * b.low + a.low * b.high)
}

fn divided(a: Double, by: f64) -> Double {
    let high = a.high / by;
    let rest = product(high, by);
    sum(high, ((a.high - rest.high) - rest.low + a.low) / by)
}

/// What is done to each element.
type Function = Box<dyn Fn(f32) -> f32 + Send + Sync>;

struct Mapped {
    of: Rows,
    f: Function,
    elements: Elements,
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapped").field("of", &self.of).finish_non_exhaustive()
    }
}

impl RowSource for Mapped {
    fn shape(&self) -> &[u64] {
        self.of.shape()
    }
    fn elements(&self) -> Elements {
        self.elements
    }
    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let mut floats = to_f32(self.of.elements(), &self.of.rows(rows)?)?;
        floats.iter_mut().for_each(|v| *v = (self.f)(*v));
        Ok(Cow::Owned(from_f32(&floats, self.elements)))
    }
    fn release(&self, rows: Range<u64>) {
        self.of.release(rows);
    }
}

/// Elements as f32.
///
/// # Errors
/// Blocks, which only their codec can decode.
pub fn to_f32(elements: Elements, bytes: &[u8]) -> Result<Vec<f32>> {
    Ok(match elements {
        Elements::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Elements::F16 => {
            let halves: Vec<f16> = bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b)).collect();
            let mut floats = vec![0.0; halves.len()];
            halves.convert_to_f32_slice(&mut floats);
            floats
        }
        Elements::BF16 => bytes.as_chunks::<2>().0.iter().map(|b| f32::from_le_bytes([0, 0, b[0], b[1]])).collect(),
        Elements::Blocks(ty) => return Err(Error::input(format!("{ty} blocks are not decoded here"))),
    })
}

/// Fixed-size pieces, written in place: loops that a compiler turns into vector code.
fn packed<T: Copy, const N: usize>(items: &[T], f: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    let mut out = vec![0; items.len() * N];
    for (to, from) in out.as_chunks_mut::<N>().0.iter_mut().zip(items) {
        *to = f(*from);
    }
    out
}

pub(crate) fn from_f32(floats: &[f32], elements: Elements) -> Vec<u8> {
    match elements {
        Elements::F16 => {
            let mut halves = vec![f16::ZERO; floats.len()];
            halves.convert_from_f32_slice(floats);
            packed(&halves, f16::to_le_bytes)
        }
        Elements::BF16 => packed(floats, |v| bf16::from_f32(v).to_le_bytes()),
        Elements::F32 | Elements::Blocks(_) => packed(floats, f32::to_le_bytes),
    }
}

/// Rows of one of these tensors, made of its source, in the type that it has: what [`gguf::Source::rows`] gives.
///
/// # Errors
/// Rows that there are not, what reading meets, and those of [`cast`].
pub(crate) fn rows_of<'a>(
    infos: &[TensorInfo],
    sources: &'a [Rows],
    tensor: usize,
    rows: Range<u64>,
) -> Result<Cow<'a, [u8]>> {
    row_range(infos, tensor, &rows)?;
    let (info, source) = (&infos[tensor], &sources[tensor]);
    if info.bytes() == 0 {
        return Ok(Cow::Borrowed(&[]));
    }
    cast(source.rows(rows)?, source.elements(), info.ty())
}

/// The same rows as f32 before [`cast`] rounds them: what [`gguf::Source::unrounded`] gives.
///
/// # Errors
/// Rows that there are not, and what reading meets.
pub(crate) fn unrounded(
    infos: &[TensorInfo],
    sources: &[Rows],
    tensor: usize,
    rows: Range<u64>,
) -> Result<Option<Vec<f32>>> {
    row_range(infos, tensor, &rows)?;
    let (info, source) = (&infos[tensor], &sources[tensor]);
    let elements = source.elements();
    if info.bytes() == 0 || elements.ty() == info.ty() || matches!(elements, Elements::Blocks(_)) {
        return Ok(None);
    }
    if rows.is_empty() {
        return Ok(Some(Vec::new()));
    }
    to_f32(elements, &source.rows(rows)?).map(Some)
}

/// The bytes of these elements as another type. Rows that become blocks are whole ones.
///
/// # Errors
/// A conversion that is no cast between f32, f16 and bf16, nor one to Q8_0, TQ1_0 or TQ2_0.
pub fn cast(bytes: Cow<'_, [u8]>, from: Elements, to: TensorType) -> Result<Cow<'_, [u8]>> {
    Ok(match (from, to) {
        (Elements::F32, TensorType::F32) | (Elements::F16, TensorType::F16) => bytes,
        (Elements::Blocks(ty), to) if ty == to => bytes,
        (Elements::BF16, TensorType::BF16) => {
            if has_signalling_bf16(&bytes) {
                Cow::Owned(quieted(&bytes))
            } else {
                bytes
            }
        }
        (Elements::BF16, TensorType::F32) => Cow::Owned(packed(bytes.as_chunks::<2>().0, |b| [0, 0, b[0], b[1]])),
        (from, TensorType::F32) => Cow::Owned(from_f32(&to_f32(from, &bytes)?, Elements::F32)),
        (from, TensorType::F16) => Cow::Owned(from_f32(&to_f32(from, &bytes)?, Elements::F16)),
        (from, TensorType::BF16) => Cow::Owned(from_f32(&to_f32(from, &bytes)?, Elements::BF16)),
        (from, TensorType::Q8_0) => Cow::Owned(blocks::q8_0(&to_f32(from, &bytes)?)),
        (from, TensorType::TQ1_0) => Cow::Owned(blocks::tq1_0(&to_f32(from, &bytes)?)),
        (from, TensorType::TQ2_0) => Cow::Owned(blocks::tq2_0(&to_f32(from, &bytes)?)),
        (_, other) => return Err(Error::usage(format!("a checkpoint is not converted to {other}"))),
    })
}

/// Whether there is a NaN that the reference would make quiet.
fn has_signalling_bf16(bytes: &[u8]) -> bool {
    bytes.as_chunks::<2>().0.iter().fold(false, |found, b| {
        let bits = u16::from_le_bytes(*b) & 0x7FFF;
        found | (bits > 0x7F80 && bits & 64 == 0)
    })
}

fn quieted(bytes: &[u8]) -> Vec<u8> {
    let quiet = |b: &[u8; 2]| bf16::from_f32(bf16::from_le_bytes(*b).to_f32()).to_le_bytes();
    packed(bytes.as_chunks::<2>().0, |b| quiet(&b))
}

/// A tensor of a checkpoint under its own name: as stored, or what a decoder makes of it.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// The name in the checkpoint.
    pub name: String,
    /// The data.
    pub rows: Rows,
}

/// Rows of each head in the order in which neighbours rotate: the two halves interleaved.
pub(crate) fn rotated(rows: &Rows, heads: u64) -> Result<Rows> {
    let count = rows.shape().first().copied().unwrap_or(0);
    let half = count / heads / 2;
    if half == 0 || half * 2 * heads != count {
        return Err(Error::input(format!("its {count} rows are not a whole number of pairs for {heads} heads")));
    }
    reordered(rows, 0, &[(heads, 2 * half), (half, 1), (2, half)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(shape: &[u64]) -> Rows {
        let n: u64 = shape.iter().product();
        values(shape.to_vec(), &(0..n).map(|i| i as f32).collect::<Vec<_>>())
    }

    fn all(rows: &Rows) -> Vec<f32> {
        to_f32(rows.elements(), &rows.rows(0..row_count(rows.shape())).unwrap()).unwrap()
    }

    #[test]
    fn a_transpose_exchanges_the_last_two_dimensions_at_any_cut() {
        let t = transposed(&counting(&[2, 3, 4])).unwrap();
        assert_eq!(t.shape(), [2, 4, 3]);
        assert_eq!(all(&t)[..6], [0.0, 4.0, 8.0, 1.0, 5.0, 9.0]);
        let whole = t.rows(0..8).unwrap().into_owned();
        let cut: Vec<u8> = (0..8).flat_map(|r| t.rows(r..r + 1).unwrap().into_owned()).collect();
        assert_eq!(whole, cut);
    }

    #[test]
    fn a_linear_layer_is_products_sums_and_a_function_at_any_cut() {
        let made = linear(&counting(&[40, 67]), &counting(&[3, 67]), Some(&counting(&[3])), |x| x / 2.0).unwrap();
        assert_eq!((made.shape(), made.elements()), (&[40, 3][..], Elements::F32));
        let expected = |row: u64, j: u64| {
            let sum: u64 = (0..67).map(|i| (row * 67 + i) * (j * 67 + i)).sum();
            (sum + j) as f32 / 2.0
        };
        for (i, value) in (0_u64..).zip(all(&made)) {
            approx::assert_relative_eq!(value, expected(i / 3, i % 3), max_relative = 1e-6);
        }
        let cut: Vec<u8> = (0..40).flat_map(|r| made.rows(r..r + 1).unwrap().into_owned()).collect();
        assert_eq!(made.rows(0..40).unwrap(), cut);
        assert_eq!(made.rows(0..40).unwrap(), cut);
        assert!(linear(&counting(&[4, 6]), &counting(&[3, 5]), None, |x| x).is_err());
    }

    #[test]
    fn large_transposes_cross_tiles() {
        let of = counting(&[70, 45]);
        let t = transposed(&transposed(&of).unwrap()).unwrap();
        assert_eq!(all(&t), all(&of));
    }

    #[test]
    fn slices_strides_and_stacks() {
        let of = counting(&[4, 2]);
        assert_eq!(all(&sliced(&of, 0, 1, 2).unwrap()), [2.0, 3.0, 4.0, 5.0]);
        assert_eq!(all(&strided(&of, 0, 1, 2, 2).unwrap()), [2.0, 3.0, 6.0, 7.0]);
        assert_eq!(all(&strided(&of, 1, 1, 2, 1).unwrap()), [1.0, 3.0, 5.0, 7.0]);
        let stack = stacked(vec![of.clone(), of.clone()]).unwrap();
        assert_eq!(stack.shape(), [2, 4, 2]);
        assert_eq!(to_f32(Elements::F32, &stack.rows(3..6).unwrap()).unwrap(), [6.0, 7.0, 0.0, 1.0, 2.0, 3.0]);
        assert!(sliced(&of, 0, 3, 2).is_err());
        assert!(view(&of, vec![3, 3], 0, &[(3, 3), (3, 1)]).is_err());
    }

    #[test]
    fn entries_are_permuted() {
        assert_eq!(all(&permuted(&counting(&[3, 2]), vec![2, 0]).unwrap()), [4.0, 5.0, 0.0, 1.0]);
        let vector = permuted(&counting(&[3]), vec![2, 1, 0]).unwrap();
        assert_eq!((vector.shape(), all(&vector)), (&[3][..], vec![2.0, 1.0, 0.0]));
        assert!(permuted(&counting(&[3]), vec![3]).is_err());
    }

    #[test]
    fn rows_are_padded_and_scaled() {
        let of = counting(&[3, 2]);
        assert_eq!(all(&padded(&of, 4).unwrap())[4..], [4.0, 5.0, 0.0, 0.0]);
        assert_eq!(padded(&of, 2).unwrap().shape(), [3, 2]);
        let scaled = scaled_rows(&of, &[(1, 2.0), (1, 3.0)]);
        assert_eq!(all(&scaled), [0.0, 2.0, 6.0, 9.0, 4.0, 5.0]);
        assert_eq!(to_f32(Elements::F32, &scaled.rows(1..2).unwrap()).unwrap(), [6.0, 9.0]);
    }

    #[test]
    fn the_exponential_is_rounded_correctly() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        // Both ways are one function.
        for i in -80_000..88_000_i32 {
            let v = i as f32 * 1e-3;
            assert_eq!(exp(v).to_bits(), exp_by_series(f64::from(v)).to_bits(), "{v}");
        }
        // Values whose exponential lies closest to the middle of two neighbours.
        for (bits, right) in HARD {
            assert_eq!(exp(f32::from_bits(bits)).to_bits(), right, "{bits:#x}");
        }
    }

    const HARD: [(u32, u32); 10] = [
        (0xC169_12CD, 0x34FD_331B),
        (0x3D1A_274E, 0x3F84_E8BA),
        (0x4031_5B33, 0x417F_A47D),
        (0x4001_B249, 0x40F2_CD14),
        (0x4288_942B, 0x70B7_A4C5),
        (0xBC2A_461A, 0x3F7D_5A6E),
        (0x3FE6_7199, 0x40C1_A7A6),
        (0xC078_1533, 0x3CA9_CCB8),
        (0x41CB_F87B, 0x51DC_50BE),
        (0xC13D_6631, 0x36F2_8E33),
    ];

    #[test]
    fn casts_round_to_even_and_quiet_nans() {
        let rounded = |bits: u32| from_f32(&[f32::from_bits(bits)], Elements::BF16);
        assert_eq!(rounded(0x3F80_8000), [0x80, 0x3F]);
        assert_eq!(rounded(0x3F81_8000), [0x82, 0x3F]);
        assert_eq!(rounded(0x7F80_0001), [0xC0, 0x7F]);
        assert_eq!(rounded(0xFFFF_FFFF), [0xFF, 0xFF]);
        assert_eq!(quieted(&[0x81, 0x7F, 0x80, 0x7F]), [0xC1, 0x7F, 0x80, 0x7F]);
        let signalling = 0x7F81_u16.to_le_bytes();
        let out = cast(Cow::Borrowed(&signalling), Elements::BF16, TensorType::BF16).unwrap();
        assert_eq!(*out, 0x7FC1_u16.to_le_bytes());
        let one = cast(Cow::Borrowed(&[0x80, 0x3F]), Elements::BF16, TensorType::F32).unwrap();
        assert_eq!(*one, 1.0_f32.to_le_bytes());
    }
}
