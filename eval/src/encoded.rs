//! A model's own weights in another precision, encoded when they are asked for: no file is written.
//!
//! Each matrix is decoded from the source, encoded to the type that a recipe chooses for it and decoded again where it is
//! multiplied, so its values are exactly those of the file that `quantize` would write. What the encoding did to each
//! tensor is measured on the way.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use convert::packed::Float;
use convert::packed::bnb::{Code, LLM_INT8_THRESHOLD, decode, decode_int8};
use gguf::arch::Module;
use gguf::{Error, Result, Runtime, Source, TensorInfo, TensorType};
use quantize::bnb::{four_bit, int8, nested::Nested};
use quantize::plan::{self, Importance, Plan, Planned};
use quantize::recipe::FileType;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::numeric;
use crate::tensors::{ErrorSums, TensorError};
use crate::weights::{Matrix, Weights};

/// The part of a model that is quantized; the rest stays in types of 16 bits and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantized {
    /// Weights.
    pub weights: u64,
    /// Bytes that they take.
    pub bytes: u64,
}

impl Quantized {
    /// Bits of each of its weights; NaN without any.
    pub fn bits_per_weight(self) -> f64 {
        8.0 * self.bytes as f64 / self.weights as f64
    }
}

/// A precision that weights can be encoded to in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Precision {
    /// A file type of GGUF: a recipe that chooses a block format for each tensor.
    File(&'static FileType),
    /// bitsandbytes' 4-bit form of the linear layers, in blocks of 64; the scales in 8 bits where `nested`.
    FourBit {
        /// The sixteen code points.
        code: Code,
        /// Double quantization.
        nested: bool,
    },
    /// bitsandbytes' INT8 form of the linear layers, by rows.
    Int8,
}

/// Weights that share a scale in the 4-bit forms.
const BLOCK: usize = 64;

/// Names of the precisions that are no file types.
const BNB: [(&str, Precision); 5] = [
    ("NF4", Precision::FourBit { code: Code::Nf4, nested: false }),
    ("NF4-double", Precision::FourBit { code: Code::Nf4, nested: true }),
    ("FP4", Precision::FourBit { code: Code::Fp4, nested: false }),
    ("FP4-double", Precision::FourBit { code: Code::Fp4, nested: true }),
    ("INT8", Precision::Int8),
];

impl std::str::FromStr for Precision {
    type Err = Error;

    /// A file type of `quantize`, or `nf4`, `nf4-double`, `fp4`, `fp4-double`, `int8`; in any case.
    fn from_str(text: &str) -> Result<Precision> {
        if let Some((_, precision)) = BNB.iter().find(|b| b.0.eq_ignore_ascii_case(text)) {
            return Ok(*precision);
        }
        text.parse().map(Precision::File).map_err(|e: Error| {
            let known = e.way_out().unwrap_or_default().to_owned();
            let own = BNB.map(|b| b.0).join(", ");
            Error::usage(format!("\"{text}\" is no precision")).help(format!("{known}, {own}"))
        })
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Precision::File(file_type) => f.pad(file_type.name),
            other => f.pad(BNB.iter().find(|b| b.1 == *other).map_or("", |b| b.0)),
        }
    }
}

/// How one tensor is encoded.
#[derive(Clone, Debug)]
enum How {
    Kept,
    Blocks(TensorType, Option<Arc<Vec<f32>>>),
    FourBit { code: Code, nested: bool },
    Int8,
}

/// The weights of a source in another precision.
pub struct Encoded<'a> {
    source: &'a dyn Source,
    tensors: Vec<TensorInfo>,
    how: Vec<How>,
    measured: Mutex<BTreeMap<usize, ErrorSums>>,
    /// Importance for the weighted error, also where a type makes no use of it.
    importance: Option<&'a Importance>,
    notes: Vec<String>,
}

impl fmt::Debug for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoded").field("tensors", &self.tensors.len()).finish()
    }
}

impl<'a> Encoded<'a> {
    /// Plans a precision for a source; nothing is read yet.
    ///
    /// # Errors
    /// What planning meets: types that nothing fits, an importance that is missing or does not fit.
    pub fn new(
        source: &'a dyn Source,
        precision: Precision,
        importance: Option<&'a Importance>,
    ) -> Result<Encoded<'a>> {
        let tensors = source.tensors().to_vec();
        let mut how = vec![How::Kept; tensors.len()];
        let mut notes = Vec::new();
        match precision {
            Precision::File(file_type) => {
                // Weights that are quantized already are compared as they are; encoding them again is what was asked.
                let options = plan::Options { allow_requantize: true, ..plan::Options::default() };
                let plan = Plan::new(source.metadata(), source.tensors(), file_type, &options, importance)?;
                let (fell, _) = plan.fallbacks();
                if fell > 0 {
                    notes.push(format!("{fell} tensors do not fit their type and fall back to another"));
                }
                notes.extend(plan.notes.iter().cloned());
                return Ok(Encoded { notes, importance, ..Encoded::planned(source, plan) });
            }
            Precision::FourBit { code, nested } => {
                for (info, how) in tensors.iter().zip(&mut how).filter(|(info, _)| is_linear(info)) {
                    if !info.shape().row_len().is_multiple_of(BLOCK as u64) {
                        return Err(Error::input(format!(
                            "row length {} is not a multiple of the block size {BLOCK}, so its blocks cannot be told \
                             from a GGUF's rows",
                            info.shape().row_len()
                        ))
                        .in_tensor(info.name())
                        .help(format!("write a folder with `quantize --type {}` and compare that", code.name())));
                    }
                    *how = How::FourBit { code, nested };
                }
            }
            Precision::Int8 => {
                notes.push(
                    "exact arithmetic measures the rounding of the weights alone; bitsandbytes rounds activations to 8 bits \
                     as well, which `--arithmetic deployed` computes"
                        .to_owned(),
                );
                for (_, how) in tensors.iter().zip(&mut how).filter(|(info, _)| is_linear(info)) {
                    *how = How::Int8;
                }
            }
        }
        Ok(Encoded { source, tensors, how, measured: Mutex::default(), importance, notes })
    }

    /// The types and importances of a plan that was made already.
    pub fn planned(source: &'a dyn Source, plan: Plan) -> Encoded<'a> {
        let mut encoded = Encoded {
            source,
            tensors: source.tensors().to_vec(),
            how: vec![How::Kept; source.tensors().len()],
            measured: Mutex::default(),
            importance: None,
            notes: plan.notes.clone(),
        };
        for planned in plan.tensors.into_iter().filter(Planned::converts) {
            encoded.how[planned.source] = How::Blocks(planned.info.ty(), planned.importance);
            encoded.tensors[planned.source] = planned.info;
        }
        encoded
    }

    /// What a person should know of the precision, a line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Bytes of all tensors in this precision.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().zip(&self.how).map(|(info, how)| stored_bytes(info, how)).sum()
    }

    /// The part of the weights that is quantized.
    pub fn quantized(&self) -> Quantized {
        let mut sum = Quantized { weights: 0, bytes: 0 };
        for (info, how) in self.tensors.iter().zip(&self.how) {
            let part = match how {
                How::Kept | How::Blocks(..) => info.ty().is_quantized(),
                How::FourBit { .. } | How::Int8 => true,
            };
            if part {
                sum.weights += info.elements();
                sum.bytes += stored_bytes(info, how);
            }
        }
        sum
    }

    /// The errors of the tensors that were encoded so far, in the source's order.
    pub fn errors(&self) -> Vec<TensorError> {
        let measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        measured.iter().map(|(&i, sums)| sums.finish(self.tensors[i].name(), &self.type_name(i))).collect()
    }

    /// The type of a tensor in this precision, for people.
    pub fn type_name(&self, tensor: usize) -> String {
        match self.how[tensor] {
            How::Kept => self.source.tensors()[tensor].ty().to_string(),
            How::Blocks(ty, _) => ty.to_string(),
            How::FourBit { code, nested } => Precision::FourBit { code, nested }.to_string(),
            How::Int8 => Precision::Int8.to_string(),
        }
    }

    /// Encodes every tensor once to measure its error, by pieces of rows that take about `memory` bytes; a row is the
    /// least.
    ///
    /// # Errors
    /// Whatever reading and encoding can meet.
    pub fn measure(&self, memory: u64, mut progress: impl FnMut(u64)) -> Result<()> {
        for (i, info) in self.tensors.iter().enumerate() {
            let (rows, cols) = (info.rows() as usize, info.shape().row_len());
            let step = usize::try_from(memory / (BYTES_A_WEIGHT * cols.max(1))).unwrap_or(usize::MAX).max(1);
            let pieces = || (0..rows).step_by(step).map(|first| first..first.saturating_add(step).min(rows));
            let release = |rows: &Range<usize>| self.source.release(i, rows.start as u64..rows.end as u64);
            if !matches!(self.how[i], How::Kept) {
                // The scales of a matrix share their mean.
                let scales = match &self.how[i] {
                    How::FourBit { code, nested: true } if step < rows => {
                        let mut all = Vec::new();
                        for piece in pieces() {
                            all.extend(self.four_bit(i, *code, &self.values(i, &piece)?)?.1);
                            release(&piece);
                        }
                        Some(Nested::encode(&all).decode())
                    }
                    _ => None,
                };
                let mut all = ErrorSums::default();
                for piece in pieces() {
                    let blocks = piece.start * cols as usize / BLOCK..piece.end * cols as usize / BLOCK;
                    let scales = scales.as_ref().map(|scales| &scales[blocks]);
                    all.merge(&self.piece(i, &piece, scales)?.1);
                    release(&piece);
                }
                self.measured.lock().unwrap_or_else(PoisonError::into_inner).insert(i, all);
            }
            progress(info.elements());
        }
        Ok(())
    }

    fn encode(&self, tensor: usize) -> Result<Matrix<'_>> {
        let base = &self.source.tensors()[tensor];
        if matches!(self.how[tensor], How::Kept) {
            return Matrix::from_bytes(base, self.source.rows(tensor, 0..base.rows())?);
        }
        let (made, sums) = self.piece(tensor, &(0..base.rows() as usize), None)?;
        let matrix = match made {
            Made::Blocks(bytes) => Matrix::from_bytes(&self.tensors[tensor], Cow::Owned(bytes))?,
            Made::Values(values) => Matrix::from_f32(base.name(), values, base.shape().row_len() as usize),
        };
        self.measured.lock().unwrap_or_else(PoisonError::into_inner).insert(tensor, sums);
        Ok(matrix.run_by(self.runtime(tensor)))
    }

    /// The base's weights of these rows.
    fn values(&self, tensor: usize, rows: &Range<usize>) -> Result<Vec<f32>> {
        let base = &self.source.tensors()[tensor];
        let mut values = vec![0.0; rows.len() * base.shape().row_len() as usize];
        let bytes = self.source.rows(tensor, rows.start as u64..rows.end as u64)?;
        quantize::decode_rows(base.ty(), &bytes, &mut values).map_err(|e| e.in_tensor(base.name()))?;
        Ok(values)
    }

    /// Codes and scales of values.
    fn four_bit(&self, tensor: usize, code: Code, values: &[f32]) -> Result<(Vec<u8>, Vec<f32>)> {
        let (mut codes, mut scales) = (vec![0; values.len() / 2], vec![0.0; values.len() / BLOCK]);
        if four_bit::encode(code, values, BLOCK, &mut codes, &mut scales) {
            Ok((codes, scales))
        } else {
            Err(self.not_finite(tensor))
        }
    }

    fn not_finite(&self, tensor: usize) -> Error {
        Error::input(format!("tensor {} holds a value that is not finite", self.tensors[tensor].name()))
    }

    /// Encodes rows of a tensor, whose error it gives as well; `scales` are those of its blocks where they are known.
    fn piece(&self, tensor: usize, rows: &Range<usize>, scales: Option<&[f32]>) -> Result<(Made, ErrorSums)> {
        let base = &self.source.tensors()[tensor];
        let cols = base.shape().row_len() as usize;
        let named = |e: Error| e.in_tensor(base.name());
        // Enough rows that encoders fill their lanes, few enough that threads share a small tensor.
        let step = (ENCODED_VALUES / cols.max(1)).max(1);
        let part = |i: usize| rows.start + i * step..(rows.start + (i + 1) * step).min(rows.end);
        let weights = self.importance.and_then(|i| i.matrix.importance(base.name()));
        let weights = weights.as_deref().filter(|w| w.len() == cols);
        let measure = |base: &[f32], other: &[f32]| {
            let mut sums = ErrorSums::default();
            sums.add(base, other, weights);
            sums
        };
        let (made, sums): (Made, Vec<ErrorSums>) = match &self.how[tensor] {
            How::Kept => {
                return Err(Error::usage(format!("tensor {} is not encoded", base.name())));
            }
            How::Blocks(ty, importance) => {
                let out_row = self.tensors[tensor].row_bytes() as usize;
                let mut out = vec![0_u8; rows.len() * out_row];
                let per_expert = (base.shape().dim(1) as usize).max(1);
                let importance = importance.as_deref().map(|v| &v[..]);
                let sums = out
                    .par_chunks_mut((step * out_row).max(1))
                    .enumerate()
                    .map(|(i, out)| {
                        let values = self.values(tensor, &part(i))?;
                        encode_experts(*ty, &values, cols, part(i), per_expert, importance, out).map_err(named)?;
                        let mut again = vec![0.0; values.len()];
                        quantize::decode_rows(*ty, out, &mut again).map_err(named)?;
                        Ok(measure(&values, &again))
                    })
                    .collect::<Result<Vec<_>>>()?;
                (Made::Blocks(out), sums)
            }
            How::FourBit { code, nested } => {
                let values = self.values(tensor, rows)?;
                let (codes, own) = self.four_bit(tensor, *code, &values)?;
                let scales = match scales {
                    Some(scales) => scales.to_vec(),
                    None if *nested => Nested::encode(&own).decode(),
                    None => own,
                };
                let mut out = vec![0.0; values.len()];
                decode(code.points(), &codes, &scales, BLOCK, 0, &mut out);
                let float = match base.ty() {
                    TensorType::BF16 => Some(Float::Bf16),
                    TensorType::F16 => Some(Float::F16),
                    _ => None,
                };
                if let Some(float) = float {
                    numeric::round_to(float, &mut out);
                }
                let sums = vec![measure(&values, &out)];
                (Made::Values(out), sums)
            }
            How::Int8 => {
                let mut out = vec![0.0; rows.len() * cols];
                let sums = out
                    .par_chunks_mut((step * cols).max(1))
                    .enumerate()
                    .map(|(i, out)| {
                        let values = self.values(tensor, &part(i))?;
                        let mut codes = vec![0; cols];
                        for (row, out) in values.clone().chunks_mut(cols).zip(out.chunks_mut(cols)) {
                            let scale = int8::encode_row(row, &mut codes).ok_or_else(|| self.not_finite(tensor))?;
                            decode_int8(&codes, scale, out);
                        }
                        Ok(measure(&values, out))
                    })
                    .collect::<Result<Vec<_>>>()?;
                (Made::Values(out), sums)
            }
        };
        let mut all = ErrorSums::default();
        sums.iter().for_each(|s| all.merge(s));
        Ok((made, all))
    }
}

/// What encoding made of rows.
enum Made {
    /// Blocks of the tensor's type.
    Blocks(Vec<u8>),
    /// Decoded weights of a form that GGUF has no type for.
    Values(Vec<f32>),
}

/// The most bytes that a weight takes while its error is measured: the base's, as f32 and encoded; decoded again.
const BYTES_A_WEIGHT: u64 = 16;

/// Values that are encoded together by one thread.
const ENCODED_VALUES: usize = 1 << 17;

impl Weights for Encoded<'_> {
    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn matrix(&self, tensor: usize) -> Result<Matrix<'_>> {
        if tensor >= self.tensors.len() {
            return Err(Error::usage(format!("there is no tensor number {tensor}")));
        }
        self.encode(tensor)
    }

    fn release(&self, tensor: usize) {
        if let Some(info) = self.tensors.get(tensor) {
            self.source.release(tensor, 0..info.rows());
        }
    }

    fn runtime(&self, tensor: usize) -> Runtime {
        match self.how.get(tensor) {
            Some(How::FourBit { .. }) => Runtime::FourBit(self.tensors[tensor].ty()),
            Some(How::Int8) => Runtime::Int8 { threshold: LLM_INT8_THRESHOLD },
            _ => Runtime::Ggml,
        }
    }
}

/// Encodes rows that may belong to several experts, each with its own importance.
fn encode_experts(
    ty: TensorType,
    values: &[f32],
    cols: usize,
    rows: Range<usize>,
    per_expert: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<()> {
    let Some(importance) = importance.filter(|i| i.len() > cols) else {
        return quantize::encode_rows(ty, values, cols, importance, out);
    };
    let row_bytes = out.len() / rows.len().max(1);
    let mut row = rows.start;
    while row < rows.end {
        let expert = row / per_expert;
        let end = ((expert + 1) * per_expert).min(rows.end);
        let columns = importance
            .get(expert * cols..(expert + 1) * cols)
            .ok_or_else(|| Error::input("the importance does not cover every expert"))?;
        let (from, to) = (row - rows.start, end - rows.start);
        let part = &mut out[from * row_bytes..to * row_bytes];
        quantize::encode_rows(ty, &values[from * cols..to * cols], cols, Some(columns), part)?;
        row = end;
    }
    Ok(())
}

/// The matrices that bitsandbytes replaces: linear layers, not routers, embeddings, experts or the head.
fn is_linear(info: &TensorInfo) -> bool {
    Module::of(info.name(), info.shape().dims().len()) == Module::Linear
}

fn stored_bytes(info: &TensorInfo, how: &How) -> u64 {
    match how {
        How::Kept | How::Blocks(..) => info.bytes(),
        How::FourBit { nested, .. } => {
            let scales = info.elements().div_ceil(BLOCK as u64);
            let scale_bytes = if *nested { scales + 4 * scales.div_ceil(256) + 4 } else { 4 * scales };
            info.elements().div_ceil(2) + scale_bytes
        }
        How::Int8 => info.elements() + 4 * info.rows(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precisions_have_the_names_they_are_read_by() {
        for text in ["q4_k_m", "NF4", "nf4-double", "fp4", "int8", "IQ2_XXS"] {
            let precision: Precision = text.parse().unwrap();
            assert!(precision.to_string().eq_ignore_ascii_case(text), "{precision}");
        }
        let error = "q9".parse::<Precision>().unwrap_err();
        assert!(error.way_out().unwrap().contains("NF4"));
    }

    #[test]
    fn four_bits_take_half_a_byte_and_their_scales() {
        let shape = gguf::Shape::new(&[256, 256]).unwrap();
        let info = TensorInfo::new("blk.0.attn_q.weight", shape, TensorType::BF16).unwrap();
        let bits = |how: How| 8.0 * stored_bytes(&info, &how) as f64 / info.elements() as f64;
        assert_eq!(bits(How::FourBit { code: Code::Nf4, nested: false }), 4.5);
        assert!((bits(How::FourBit { code: Code::Nf4, nested: true }) - 4.127).abs() < 1e-3);
    }
}
