//! What types cost tensors, guessed from an importance matrix alone: no model is run.
//!
//! The error of a tensor's outputs is that of some rows, each column weighted by its importance, relative to the
//! outputs. How much such an error counts at the end was measured on small trained models (`SHARES`) and is the same in
//! every layer here; `evaluate optimize` measures it for the model at hand.

use gguf::arch::Role;
use gguf::{Result, Source, TensorType};
use rayon::prelude::*;

use super::mix::{Frame, Free};
use crate::plan::Planned;

/// Rows of a tensor that are encoded in each type.
const ROWS: usize = 96;
/// Matrices of a stack that are looked at.
const EXPERTS: usize = 4;

/// The divergence of a model whose tensors of a role all have an error of their outputs as large as these.
const SHARES: &[(Role, f64)] = &[
    (Role::Output, 0.6),
    (Role::Embedding, 0.2),
    (Role::AttnQ, 0.08),
    (Role::AttnK, 0.14),
    (Role::AttnV, 0.14),
    (Role::AttnOutput, 0.08),
    (Role::FfnGate, 0.19),
    (Role::FfnUp, 0.13),
    (Role::FfnDown, 0.3),
];
/// That of all other roles.
const OTHERS: f64 = 0.1;

/// The loss of each free tensor in each of its types, in the order of the frame.
///
/// # Errors
/// Whatever reading and encoding can meet.
pub fn losses(source: &dyn Source, frame: &Frame<'_>) -> Result<Vec<Vec<f64>>> {
    let share = |free: &Free| {
        let role = Role::of(&free.name);
        let all = frame.free.iter().filter(|f| Role::of(&f.name) == role).count().max(1);
        // An embedding without a head beside it is both.
        let head = role == Role::Embedding && !frame.free.iter().any(|f| Role::of(&f.name) == Role::Output);
        let role = if head { Role::Output } else { role };
        SHARES.iter().find(|s| s.0 == role).map_or(OTHERS, |s| s.1) / all as f64
    };
    let of = |free: &Free| -> Result<Vec<f64>> {
        let Some(planned) = frame.planned(free) else { return Ok(Vec::new()) };
        let errors = relative_errors(source, planned, &free.types).map_err(|e| e.in_tensor(&free.name))?;
        Ok(errors.into_iter().map(|e| e * share(free)).collect())
    };
    frame.free.par_iter().map(of).collect()
}

/// The error of a tensor's outputs in each type, relative to the outputs.
fn relative_errors(source: &dyn Source, tensor: &Planned, types: &[TensorType]) -> Result<Vec<f64>> {
    let info = &source.tensors()[tensor.source];
    let cols = info.shape().row_len() as usize;
    let rows = info.shape().dim(1).max(1) as usize;
    let matrices = (info.rows() as usize / rows).max(1);
    let looked_at = EXPERTS.min(matrices);
    let (mut errors, mut energy) = (vec![0.0; types.len()], 0.0);
    for i in 0..looked_at {
        let matrix = i * matrices / looked_at;
        let importance = tensor.importance.as_ref().and_then(|all| all.get(matrix * cols..(matrix + 1) * cols));
        let count = (ROWS / looked_at).clamp(1, rows);
        let mut values = vec![0.0; count * cols];
        for (i, out) in values.chunks_exact_mut(cols).enumerate() {
            let row = (matrix * rows + i * rows / count) as u64;
            crate::decode_rows(info.ty(), &source.rows(tensor.source, row..row + 1)?, out)?;
        }
        let weighted = |values: &[f32], of: &[f32]| -> f64 {
            let one = |(i, (a, b)): (usize, (&f32, &f32))| {
                importance.map_or(1.0, |w| f64::from(w[i % cols])) * f64::from(a - b).powi(2)
            };
            values.iter().zip(of).enumerate().map(one).sum()
        };
        energy += weighted(&values, &vec![0.0; values.len()]);
        let mut decoded = vec![0.0; values.len()];
        for (&ty, error) in types.iter().zip(&mut errors) {
            let mut bytes = vec![0; ty.bytes_for(values.len() as u64).unwrap_or(0) as usize];
            crate::encode_rows(ty, &values, cols, importance, &mut bytes)?;
            crate::decode_rows(ty, &bytes, &mut decoded)?;
            *error += weighted(&values, &decoded);
        }
    }
    source.release(tensor.source, 0..info.rows());
    Ok(errors.into_iter().map(|e| if energy > 0.0 { e / energy } else { 0.0 }).collect())
}
