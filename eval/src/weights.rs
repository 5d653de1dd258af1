//! Where weights come from: a precision of a model, matrix by matrix.
//!
//! The transformer asks a [`Weights`] for the matrices of one layer, multiplies with them and drops them. A
//! [`Source`] (GGUF file or checkpoint folder) is one; so is anything else that can decode rows, such as a model whose
//! matrices are encoded to another type when they are asked for.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use convert::packed::Float;
use gguf::{Error, Result, Runtime, Source, TensorInfo, TensorType, Value};
use rayon::prelude::*;

use crate::device::{Device, Form, Kept, Multiplied, StoredMatrix};

/// Rows that a thread decodes at a time.
const DECODED_ROWS: usize = 64;

/// How products with weights are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arithmetic {
    /// f32 on decoded weights: what the weights are worth, whatever runs them.
    #[default]
    Exact,
    /// As the programs do that run the model. For the types of GGUF that is ggml on a processor: activations rounded to 8
    /// bits for quantized weights and to the weights' own type for F16 and BF16, keys and values kept in F16.
    Deployed,
}

impl Arithmetic {
    /// Both, with the names they are asked for by and what they are in words.
    pub const ALL: [(&'static str, Arithmetic, &'static str); 2] = [
        ("exact", Arithmetic::Exact, "f32 on decoded weights"),
        (
            "deployed",
            Arithmetic::Deployed,
            "as deployed: activations rounded as ggml rounds them, keys and values in F16",
        ),
    ];

    /// The name.
    pub fn name(self) -> &'static str {
        Arithmetic::ALL[self as usize].0
    }

    /// In words.
    pub fn words(self) -> &'static str {
        Arithmetic::ALL[self as usize].2
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Arithmetic {
    type Err = Error;

    fn from_str(name: &str) -> Result<Arithmetic> {
        Arithmetic::ALL
            .iter()
            .find(|row| row.0.eq_ignore_ascii_case(name))
            .map(|row| row.1)
            .ok_or_else(|| Error::usage(format!("\"{name}\" is no arithmetic")).help("use exact or deployed"))
    }
}

/// One precision of a model.
pub trait Weights: Sync {
    /// The tensors with their shapes. Names and order are those of the model's source; types may differ.
    fn tensors(&self) -> &[TensorInfo];

    /// A tensor as a matrix of rows, without decoding it yet where that can wait.
    ///
    /// # Errors
    /// Whatever reading can meet.
    fn matrix(&self, tensor: usize) -> Result<Matrix<'_>>;

    /// Says that a layer's tensor will not be asked for soon.
    fn release(&self, tensor: usize) {
        let _ = tensor;
    }

    /// What is known of the arithmetic beyond the metadata, as [`Source::beyond`].
    fn beyond(&self) -> &[(String, Value)] {
        &[]
    }

    /// How products with these weights are taken.
    fn arithmetic(&self) -> Arithmetic {
        Arithmetic::Exact
    }

    /// What multiplies with a tensor where the model runs.
    fn runtime(&self, tensor: usize) -> Runtime {
        let _ = tensor;
        Runtime::Ggml
    }

    /// The device that they are multiplied on, if it is not the processor.
    fn device(&self) -> Option<&Device> {
        None
    }
}

/// Whether what a sequence comes to depends on the others that pass a block with it: LLM.int8 takes a column of
/// activations as an outlier for all tokens of a product.
pub(crate) fn depends_on_batch(weights: &dyn Weights) -> bool {
    weights.arithmetic() == Arithmetic::Deployed
        && (0..weights.tensors().len())
            .any(|tensor| matches!(weights.runtime(tensor), Runtime::Int8 { threshold } if threshold > 0.0))
}

impl<W: Weights + ?Sized> Weights for &W {
    fn tensors(&self) -> &[TensorInfo] {
        (**self).tensors()
    }

    fn matrix(&self, tensor: usize) -> Result<Matrix<'_>> {
        (**self).matrix(tensor)
    }

    fn release(&self, tensor: usize) {
        (**self).release(tensor);
    }

    fn beyond(&self) -> &[(String, Value)] {
        (**self).beyond()
    }

    fn arithmetic(&self) -> Arithmetic {
        (**self).arithmetic()
    }

    fn runtime(&self, tensor: usize) -> Runtime {
        (**self).runtime(tensor)
    }

    fn device(&self) -> Option<&Device> {
        (**self).device()
    }
}

impl<W: Weights + ?Sized> Weights for Box<W> {
    fn tensors(&self) -> &[TensorInfo] {
        (**self).tensors()
    }

    fn matrix(&self, tensor: usize) -> Result<Matrix<'_>> {
        (**self).matrix(tensor)
    }

    fn release(&self, tensor: usize) {
        (**self).release(tensor);
    }

    fn beyond(&self) -> &[(String, Value)] {
        (**self).beyond()
    }

    fn arithmetic(&self) -> Arithmetic {
        (**self).arithmetic()
    }

    fn runtime(&self, tensor: usize) -> Runtime {
        (**self).runtime(tensor)
    }

    fn device(&self) -> Option<&Device> {
        (**self).device()
    }
}

/// Weights that are multiplied as the programs do that run them.
#[derive(Clone, Copy)]
pub struct Deployed<W>(W);

impl<W: Weights> Deployed<W> {
    /// These weights. Whether a source holds weights that other programs than ggml run is the caller's to check.
    pub fn new(weights: W) -> Deployed<W> {
        Deployed(weights)
    }
}

impl<W> fmt::Debug for Deployed<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deployed")
    }
}

impl<W: Weights> Weights for Deployed<W> {
    fn tensors(&self) -> &[TensorInfo] {
        self.0.tensors()
    }

    fn matrix(&self, tensor: usize) -> Result<Matrix<'_>> {
        self.0.matrix(tensor).map(Matrix::deployed)
    }

    fn release(&self, tensor: usize) {
        self.0.release(tensor);
    }

    fn beyond(&self) -> &[(String, Value)] {
        self.0.beyond()
    }

    fn arithmetic(&self) -> Arithmetic {
        Arithmetic::Deployed
    }

    fn runtime(&self, tensor: usize) -> Runtime {
        self.0.runtime(tensor)
    }

    fn device(&self) -> Option<&Device> {
        self.0.device()
    }
}

/// The weights as a source stores them.
#[derive(Clone, Copy)]
pub struct SourceWeights<'a>(pub &'a dyn Source);

impl fmt::Debug for SourceWeights<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceWeights({} tensors)", self.0.tensors().len())
    }
}

impl Weights for SourceWeights<'_> {
    fn tensors(&self) -> &[TensorInfo] {
        self.0.tensors()
    }

    fn matrix(&self, tensor: usize) -> Result<Matrix<'_>> {
        let info =
            self.0.tensors().get(tensor).ok_or_else(|| Error::usage(format!("there is no tensor number {tensor}")))?;
        let matrix = Matrix::from_bytes(info, self.0.rows(tensor, 0..info.rows())?)?;
        Ok(matrix.run_by(self.runtime(tensor)))
    }

    fn release(&self, tensor: usize) {
        if let Some(info) = self.0.tensors().get(tensor) {
            self.0.release(tensor, 0..info.rows());
        }
    }

    fn beyond(&self) -> &[(String, Value)] {
        self.0.beyond()
    }

    fn runtime(&self, tensor: usize) -> Runtime {
        self.0.runtime(tensor)
    }
}

/// A function that decodes rows into f32.
pub type Decode<'a> = Arc<dyn Fn(Range<usize>, &mut [f32]) -> Result<()> + Send + Sync + 'a>;

/// A stored matrix: `rows` × `cols`, decoded a few rows at a time. The rows of a stack of experts follow each other.
#[derive(Clone)]
pub struct Matrix<'a> {
    name: String,
    rows: usize,
    cols: usize,
    data: Data<'a>,
    runtime: Runtime,
    deployed: bool,
    device: Option<(Device, Arc<Kept>)>,
}

#[derive(Clone)]
enum Data<'a> {
    Plain(Arc<[f32]>),
    Blocks { ty: TensorType, row_bytes: usize, bytes: Cow<'a, [u8]> },
    Function(Decode<'a>),
}

impl fmt::Debug for Matrix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}, {}]", self.name, self.rows, self.cols)
    }
}

impl<'a> Matrix<'a> {
    /// A matrix over the bytes of all rows of this tensor, in its type.
    ///
    /// # Errors
    /// Bytes that are not as many as the tensor's shape says.
    pub fn from_bytes(info: &TensorInfo, bytes: Cow<'a, [u8]>) -> Result<Matrix<'a>> {
        if bytes.len() as u64 != info.bytes() {
            return Err(Error::input(format!("{} bytes, not {}", bytes.len(), info.bytes())).in_tensor(info.name()));
        }
        let row_bytes = info.row_bytes() as usize;
        let data = Data::Blocks { ty: info.ty(), row_bytes, bytes };
        Ok(Matrix {
            name: info.name().to_owned(),
            rows: info.rows() as usize,
            cols: info.shape().row_len() as usize,
            data,
            runtime: Runtime::Ggml,
            deployed: false,
            device: None,
        })
    }

    /// A matrix of f32 in memory, row-major, `cols` a row.
    pub fn from_f32(name: &str, data: Vec<f32>, cols: usize) -> Matrix<'a> {
        let rows = data.len().checked_div(cols).unwrap_or(0);
        Matrix {
            name: name.to_owned(),
            rows,
            cols,
            data: Data::Plain(data.into()),
            runtime: Runtime::Ggml,
            deployed: false,
            device: None,
        }
    }

    /// A matrix whose rows a function decodes: for forms of weights that no GGUF type describes.
    pub fn from_fn(name: &str, rows: usize, cols: usize, decode: Decode<'a>) -> Matrix<'a> {
        Matrix {
            name: name.to_owned(),
            rows,
            cols,
            data: Data::Function(decode),
            runtime: Runtime::Ggml,
            deployed: false,
            device: None,
        }
    }

    /// The same, with what multiplies with it where the model runs.
    #[must_use]
    pub fn run_by(self, runtime: Runtime) -> Matrix<'a> {
        Matrix { runtime, ..self }
    }

    /// The same, multiplied as the programs do that run it.
    #[must_use]
    pub fn deployed(self) -> Matrix<'a> {
        Matrix { deployed: true, ..self }
    }

    /// The same, multiplied on a device.
    #[must_use]
    pub fn on(self, device: &Device) -> Matrix<'a> {
        Matrix { device: Some((device.clone(), Arc::default())), ..self }
    }

    /// The device that it is multiplied on, and what that keeps of it.
    pub fn device(&self) -> Option<(&Device, &Kept)> {
        self.device.as_ref().map(|(device, kept)| (device, &**kept))
    }

    /// What a product does with it.
    pub(crate) fn multiplied(&self) -> Multiplied<'_> {
        if !self.deployed {
            return Multiplied::Exact;
        }
        match (&self.data, self.runtime) {
            (_, Runtime::FourBit(TensorType::F16)) => Multiplied::Computed(Float::F16),
            (_, Runtime::FourBit(TensorType::BF16)) => Multiplied::Computed(Float::Bf16),
            (_, Runtime::FourBit(_)) => Multiplied::Exact,
            (_, Runtime::Int8 { threshold }) => Multiplied::Int8 { threshold },
            (Data::Blocks { ty, bytes, .. }, Runtime::Ggml) => match ty {
                TensorType::F16 => Multiplied::Rounded(Float::F16),
                TensorType::BF16 => Multiplied::Rounded(Float::Bf16),
                _ => quantize::levels(*ty).map_or(Multiplied::Exact, |levels| Multiplied::Levels { levels, bytes }),
            },
            _ => Multiplied::Exact,
        }
    }

    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of rows, over all experts.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// These rows in f32: borrowed where they are f32 already, else decoded into `scratch`.
    ///
    /// # Errors
    /// A type that cannot be decoded.
    pub fn decoded<'s>(&'s self, rows: Range<usize>, scratch: &'s mut Vec<f32>) -> Result<&'s [f32]> {
        let count = rows.len().max(1);
        self.decoded_by_all(rows, count, scratch)
    }

    /// The same by all threads, each taking so many rows at a time.
    ///
    /// # Errors
    /// A type that cannot be decoded.
    pub fn decoded_by_all<'s>(
        &'s self,
        rows: Range<usize>,
        each: usize,
        scratch: &'s mut Vec<f32>,
    ) -> Result<&'s [f32]> {
        if let Data::Plain(values) = &self.data {
            return values
                .get(rows.start * self.cols..rows.end * self.cols)
                .ok_or_else(|| Error::usage(format!("tensor {} has no rows {rows:?}", self.name)));
        }
        let len = rows.len() * self.cols;
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        let piece = (each * self.cols).max(1);
        if len <= piece {
            self.decode(rows, &mut scratch[..len])?;
        } else {
            scratch[..len].par_chunks_mut(piece).enumerate().try_for_each(|(i, out)| {
                let start = rows.start + i * each;
                self.decode(start..start + out.len() / self.cols, out)
            })?;
        }
        Ok(&scratch[..len])
    }

    /// Decodes these rows.
    ///
    /// # Errors
    /// Rows that do not exist, or a type that cannot be decoded.
    pub fn decode(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        if rows.start > rows.end || rows.end > self.rows || out.len() != rows.len() * self.cols {
            return Err(Error::usage(format!("tensor {} has {} rows, not {rows:?}", self.name, self.rows)));
        }
        match &self.data {
            Data::Plain(values) => {
                out.copy_from_slice(&values[rows.start * self.cols..rows.end * self.cols]);
                Ok(())
            }
            Data::Blocks { ty, row_bytes, bytes } => {
                let bytes = &bytes[rows.start * row_bytes..rows.end * row_bytes];
                quantize::decode_rows(*ty, bytes, out).map_err(|e| e.in_tensor(&self.name))
            }
            Data::Function(decode) => decode(rows, out),
        }
    }

    /// One row of a table of numbers, which are no weights: their type is I32, or one that weights have too.
    ///
    /// # Errors
    /// Those of [`Matrix::decode`].
    pub fn decode_numbers(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let Data::Blocks { ty: TensorType::I32, row_bytes, bytes } = &self.data else {
            return self.decode(row..row + 1, out);
        };
        let bytes = bytes
            .get(row * row_bytes..(row + 1) * row_bytes)
            .ok_or_else(|| Error::usage(format!("tensor {} has {} rows, not {row}", self.name, self.rows)))?;
        let numbers = bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b) as f32);
        out.iter_mut().zip(numbers).for_each(|(out, n)| *out = n);
        Ok(())
    }

    /// All values in f32.
    ///
    /// # Errors
    /// A type that cannot be decoded.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.rows * self.cols];
        self.decode(0..self.rows, &mut out)?;
        Ok(out)
    }

    /// The same matrix decoded to f32 as a whole, for one that is multiplied many times; as it is where products are
    /// taken as deployed or on a device.
    ///
    /// # Errors
    /// A type that cannot be decoded.
    pub fn into_f32(self) -> Result<Matrix<'a>> {
        if matches!(self.data, Data::Plain(_)) || self.deployed || self.device.is_some() || self.cols == 0 {
            return Ok(self);
        }
        let mut out = Vec::new();
        self.decoded_by_all(0..self.rows, DECODED_ROWS, &mut out)?;
        Ok(Matrix::from_f32(&self.name, out, self.cols))
    }
}

impl StoredMatrix for Matrix<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn form(&self) -> Form<'_> {
        match &self.data {
            Data::Plain(values) => Form::Values(values),
            Data::Blocks { ty, bytes, .. } => Form::Blocks { ty: *ty, bytes },
            Data::Function(_) => Form::Function,
        }
    }

    fn multiplied(&self) -> Multiplied<'_> {
        Matrix::multiplied(self)
    }

    fn values(&self, rows: Range<usize>) -> Result<Vec<f32>> {
        Ok(self.decoded_by_all(rows, DECODED_ROWS, &mut Vec::new())?.to_vec())
    }
}

/// Weights that are multiplied on a device.
#[derive(Debug)]
pub struct OnDevice<W> {
    weights: W,
    device: Option<Device>,
}

impl<W: Weights> OnDevice<W> {
    /// These weights on a device, or on the processor.
    pub fn new(weights: W, device: Option<&Device>) -> OnDevice<W> {
        OnDevice { weights, device: device.cloned() }
    }
}

impl<W: Weights> Weights for OnDevice<W> {
    fn tensors(&self) -> &[TensorInfo] {
        self.weights.tensors()
    }

    fn matrix(&self, tensor: usize) -> Result<Matrix<'_>> {
        let matrix = self.weights.matrix(tensor)?;
        Ok(match &self.device {
            Some(device) => matrix.on(device),
            None => matrix,
        })
    }

    fn release(&self, tensor: usize) {
        self.weights.release(tensor);
    }

    fn beyond(&self) -> &[(String, Value)] {
        self.weights.beyond()
    }

    fn arithmetic(&self) -> Arithmetic {
        self.weights.arithmetic()
    }

    fn runtime(&self, tensor: usize) -> Runtime {
        self.weights.runtime(tensor)
    }

    fn device(&self) -> Option<&Device> {
        self.device.as_ref()
    }
}
