//! The bytes of one tensor: chosen, or plain.

use std::sync::Arc;

use convert::packed::Float;
use gguf::{Error, Result, TensorInfo, TensorType};
use quantize::bnb::chosen::Coded;
use quantize::bnb::coding::Coding;
use quantize::plan::Planned;
use quantize::search::inputs::{Inputs, Solver};
use quantize::search::strips::{Strips, Sum, multiply_all};
use quantize::search::{knows, search};
use quantize::{ImportanceUse, codec, first_not_finite};
use rayon::prelude::*;

use super::overlay::Chosen;
use super::sums::{Against, Seen};
use super::{Job, Options};
use crate::weights::Matrix;

/// Fewer tokens than a row has values leave directions that were never seen: the damping grows.
fn damping(usual: f64, n: usize, tokens: usize) -> f64 {
    usual * (n as f64 / tokens.max(1) as f64).max(1.0)
}

/// What all tensors that read the same inputs are chosen with.
pub(super) struct Chooser<'s> {
    seen: &'s Seen,
    solver: Option<Solver>,
    pub(super) inputs: Option<Inputs>,
}

impl<'s> Chooser<'s> {
    pub(super) fn new(seen: &'s Seen, options: &Options) -> Chooser<'s> {
        let n = seen.h.rows();
        let solver = match seen.against {
            Against::Nothing => None,
            _ => Solver::new(&seen.h, damping(options.target_damping, n, seen.tokens)),
        };
        let inputs = options.feedback.then(|| Inputs::new(seen.h.clone(), damping(options.damping, n, seen.tokens)));
        Chooser { seen, solver, inputs: inputs.flatten() }
    }
}

impl Job<'_> {
    /// The rows of one matrix of a tensor.
    pub(super) fn weights(&self, tensor: usize, expert: usize) -> Result<Vec<f32>> {
        let info = &self.source.tensors()[tensor];
        let rows = info.shape().dim(1).max(1) as usize;
        let matrix = Matrix::from_bytes(info, self.source.rows(tensor, 0..info.rows())?)?;
        let mut values = Vec::new();
        matrix.decoded_by_all(expert * rows..(expert + 1) * rows, 64, &mut values)?;
        self.source.release(tensor, 0..info.rows());
        if let Some(at) = first_not_finite(&values) {
            let (row, column) = (expert * rows + at / matrix.cols(), at % matrix.cols());
            return Err(Error::input(format!("the weight at row {row}, column {column} is NaN or infinite"))
                .in_tensor(info.name())
                .help("the checkpoint is damaged or its training diverged"));
        }
        Ok(values)
    }

    /// The bytes that the search chooses for one matrix of a tensor; `None` where it does not know the type, or the
    /// inputs tell nothing.
    pub(super) fn search(&self, tensor: &Planned, expert: usize, chooser: &Chooser<'_>) -> Result<Option<Vec<u8>>> {
        let ty = tensor.info.ty();
        let seen = chooser.seen;
        let n = seen.h.rows();
        if (self.folder.is_none() && !knows(ty)) || tensor.info.shape().row_len() as usize != n {
            return Ok(None);
        }
        let mut target = Strips::transposed(&self.weights(tensor.source, expert)?, n);
        if let Some(solver) = &chooser.solver {
            // W + (Z − W H) (H + damping)⁻¹, where Z is what the outputs should be against the inputs: W C for those of
            // the original.
            let wanted = match &seen.against {
                Against::Inputs(cross) => {
                    let mut wanted = Strips::zeros(n, target.cols());
                    multiply_all(cross, &target, Sum::Store, &mut wanted);
                    Some(wanted)
                }
                Against::Outputs(outputs) if outputs.cols() == target.cols() => Some(outputs.clone()),
                Against::Outputs(_) | Against::Nothing => None,
            };
            if let Some(mut more) = wanted {
                multiply_all(&seen.h, &target, Sum::Subtract, &mut more);
                let more = solver.solve(&more);
                target.values_mut().iter_mut().zip(more.values()).for_each(|(t, m)| *t += m);
            }
        }
        if !self.options.feedback {
            let mut rows = vec![0.0; n * target.cols()];
            rows.par_chunks_mut(n).enumerate().for_each(|(row, out)| target.column(row, out));
            return match self.coding(tensor) {
                Some((coding, float)) => Ok(coding.plain(&rows, n, float).map(|coded| coded.to_bytes())),
                None => encode(&tensor.info, &rows, n, Some(&seen.importance)).map(Some),
            };
        }
        if let Some((coding, float)) = self.coding(tensor) {
            let search = |inputs| coding.search(inputs, self.options.effort, &target, float).to_bytes();
            return Ok(chooser.inputs.as_ref().map(search));
        }
        Ok(chooser.inputs.as_ref().map(|inputs| search(inputs, ty, self.options.effort, &target).0))
    }

    /// The bytes that the type's codec writes, with the importance of the columns of each expert.
    pub(super) fn plain(&self, tensor: &Planned, importance: Option<&[f32]>) -> Result<Chosen> {
        let info = &self.source.tensors()[tensor.source];
        let cols = info.shape().row_len() as usize;
        let experts = (info.shape().dim(2) as usize).max(1);
        let mut bytes = Vec::new();
        for expert in 0..experts {
            let values = self.weights(tensor.source, expert)?;
            if let Some((coding, float)) = self.coding(tensor) {
                // The values were found to be finite.
                bytes.extend(coding.plain(&values, cols, float).unwrap_or_default().to_bytes());
                continue;
            }
            let importance = importance.and_then(|i| i.get(expert * cols..(expert + 1) * cols));
            bytes.extend(encode(&tensor.info, &values, cols, importance)?);
        }
        Ok(self.chosen(tensor, bytes))
    }

    /// How a folder stores a tensor, and the type of its weights there.
    fn coding(&self, tensor: &Planned) -> Option<(Coding, Float)> {
        let folder = self.folder?;
        Some((folder.coding, *folder.matrices.tensors().get(&tensor.source)?))
    }

    /// A tensor with these bytes: of its type, or of a folder's form.
    pub(super) fn chosen(&self, tensor: &Planned, bytes: Vec<u8>) -> Chosen {
        let Some((coding, float)) = self.coding(tensor) else {
            return Chosen { info: tensor.info.clone(), bytes: Arc::new(bytes), coded: None };
        };
        let info = &tensor.info;
        let values =
            coding.decode(&Coded::from_bytes(&bytes, info.elements() as usize), info.shape().row_len() as usize, float);
        let decoded = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        // A shape that was a tensor's is one in any type.
        let info = TensorInfo::new(info.name(), *info.shape(), TensorType::F32).unwrap_or_else(|_| info.clone());
        Chosen { info, bytes: Arc::new(decoded), coded: Some(Arc::new(bytes)) }
    }
}

/// Encodes rows with the codec of the tensor's type.
pub(super) fn encode(info: &TensorInfo, values: &[f32], cols: usize, importance: Option<&[f32]>) -> Result<Vec<u8>> {
    let ty = info.ty();
    let ones;
    let importance = match importance {
        // An importance of nothing is none.
        Some(importance) if importance.iter().any(|&i| i > 0.0) => Some(importance),
        _ if codec(ty).is_some_and(|c| c.importance() == ImportanceUse::Required) => {
            ones = vec![1.0; cols];
            Some(ones.as_slice())
        }
        _ => None,
    };
    let row_bytes = ty.bytes_for(cols as u64).unwrap_or(0) as usize;
    let each = ((1 << 17) / cols.max(1)).max(1);
    let mut bytes = vec![0; values.len() / cols.max(1) * row_bytes];
    bytes
        .par_chunks_mut((each * row_bytes).max(1))
        .zip(values.par_chunks((each * cols).max(1)))
        .try_for_each(|(out, values)| quantize::encode_rows(ty, values, cols, importance, out))
        .map_err(|e| e.in_tensor(info.name()))?;
    Ok(bytes)
}
