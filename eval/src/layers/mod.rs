//! The parts that blocks are composed of, one copy of each for all architectures.

pub mod attention;
pub mod ffn;
pub mod moe;
pub mod norm;
pub(crate) mod numeric;
pub mod rope;
pub mod ssm;

use std::collections::HashMap;

use gguf::{Error, Result};
use rayon::prelude::*;

use crate::matmul::product;
use crate::model::{Model, Norm};
use crate::weights::{Matrix, Weights};

/// Sees what each matrix is multiplied with: what an importance matrix is made from.
pub trait Observe: Sync {
    /// The rows `x` (`cols` values each) are about to be multiplied with this tensor, or with this expert of it.
    fn input(&self, tensor: &str, expert: Option<usize>, x: &[f32], cols: usize);
}

/// The matrices of one block (or of the model's ends), by name without the block's prefix.
pub struct Part<'a> {
    prefix: String,
    matrices: HashMap<String, Matrix<'a>>,
    observer: Option<&'a dyn Observe>,
}

impl<'a> Part<'a> {
    /// All tensors whose name begins with this prefix.
    ///
    /// # Errors
    /// Whatever reading can meet.
    pub fn load(weights: &'a dyn Weights, prefix: &str, observer: Option<&'a dyn Observe>) -> Result<Part<'a>> {
        let mut matrices = HashMap::new();
        for (i, info) in weights.tensors().iter().enumerate() {
            if let Some(name) = info.name().strip_prefix(prefix) {
                matrices.insert(name.to_owned(), weights.matrix(i)?);
            }
        }
        Ok(Part { prefix: prefix.to_owned(), matrices, observer })
    }

    /// Only these tensors behind the prefix, where they exist.
    ///
    /// # Errors
    /// Whatever reading can meet.
    pub fn pick(weights: &'a dyn Weights, prefix: &str, names: &[&str]) -> Result<Part<'a>> {
        let mut matrices = HashMap::new();
        for (i, info) in weights.tensors().iter().enumerate() {
            if let Some(name) = info.name().strip_prefix(prefix).filter(|n| names.contains(n)) {
                matrices.insert(name.to_owned(), weights.matrix(i)?);
            }
        }
        Ok(Part { prefix: prefix.to_owned(), matrices, observer: None })
    }

    /// Says that this part will not be asked for soon.
    pub fn release(self, weights: &dyn Weights) {
        let prefix = self.prefix.clone();
        drop(self);
        for (i, info) in weights.tensors().iter().enumerate() {
            if info.name().starts_with(&prefix) {
                weights.release(i);
            }
        }
    }

    /// A tensor that may be missing.
    pub fn get(&self, name: &str) -> Option<&Matrix<'a>> {
        self.matrices.get(name)
    }

    /// Whether there is this tensor.
    pub fn has(&self, name: &str) -> bool {
        self.matrices.contains_key(name)
    }

    /// A tensor that must be there.
    ///
    /// # Errors
    /// It is missing.
    pub fn need(&self, name: &str) -> Result<&Matrix<'a>> {
        self.get(name).ok_or_else(|| self.missing(name))
    }

    /// The error for a tensor that is not there.
    pub fn missing(&self, name: &str) -> Error {
        Error::input(format!("tensor {}{name} is missing", self.prefix))
    }

    /// A small tensor's values, where it exists.
    ///
    /// # Errors
    /// A type that cannot be decoded.
    pub fn values(&self, name: &str) -> Result<Option<Vec<f32>>> {
        self.get(name).map(Matrix::to_f32).transpose()
    }

    /// A small tensor's values, of this number.
    ///
    /// # Errors
    /// It is missing, of another size, or of a type that cannot be decoded.
    pub fn values_of(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let values = self.need(name)?.to_f32()?;
        if values.len() == len {
            return Ok(values);
        }
        Err(Error::input(format!("tensor {}{name} has {} values, not {len}", self.prefix, values.len())))
    }

    /// `x · wᵀ + b` for the tensors `name.weight` and, where it exists, `name.bias`.
    ///
    /// # Errors
    /// A missing tensor, or sizes that do not fit.
    pub fn linear(&self, name: &str, x: &[f32]) -> Result<Vec<f32>> {
        let w = self.need(&format!("{name}.weight"))?;
        self.multiply(w, 0..w.rows(), None, x, self.values(&format!("{name}.bias"))?.as_deref())
    }

    /// The same for one expert of a stack of `count`.
    ///
    /// # Errors
    /// As [`Part::linear`].
    pub fn expert(&self, name: &str, expert: usize, count: usize, x: &[f32]) -> Result<Vec<f32>> {
        let w = self.need(&format!("{name}.weight"))?;
        if w.rows() % count != 0 {
            return Err(Error::input(format!("tensor {}: {} rows are no {count} experts", w.name(), w.rows())));
        }
        let rows = w.rows() / count;
        let bias = self.values(&format!("{name}.bias"))?;
        let bias = bias.as_deref().map(|b| b.get(expert * rows..(expert + 1) * rows).unwrap_or(b));
        self.multiply(w, expert * rows..(expert + 1) * rows, Some(expert), x, bias)
    }

    fn multiply(
        &self,
        w: &Matrix<'_>,
        rows: std::ops::Range<usize>,
        expert: Option<usize>,
        x: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<Vec<f32>> {
        let out = rows.len();
        if let Some(bias) = bias.filter(|b| b.len() != out) {
            return Err(Error::input(format!("tensor {}: {} biases for {out} rows", w.name(), bias.len())));
        }
        if let Some(observer) = self.observer {
            observer.input(w.name(), expert, x, w.cols());
        }
        let mut y = product(x, w, rows)?;
        if let Some(bias) = bias.filter(|b| !b.is_empty()) {
            y.par_chunks_mut(out).with_min_len(16).for_each(|row| add(row, bias));
        }
        Ok(y)
    }

    /// `x` through the norm of this name; `None` where the model has none there.
    ///
    /// # Errors
    /// Weights of another length.
    pub fn norm(&self, model: &Model, name: &str, x: &[f32]) -> Result<Option<Vec<f32>>> {
        let mut x = copied(x);
        Ok(self.norm_in_place(model, name, &mut x, model.width)?.then_some(x))
    }

    /// Normalizes groups of `len` values; `false` where the model has no such norm.
    ///
    /// # Errors
    /// Weights of another length.
    pub fn norm_in_place(&self, model: &Model, name: &str, x: &mut [f32], len: usize) -> Result<bool> {
        let weight = self.values(&format!("{name}.weight"))?;
        let bias = self.values(&format!("{name}.bias"))?;
        let Some(weight) = weight else {
            let plain = model.row.norm == Norm::LayerWithoutWeights;
            if plain {
                norm::normalize(model.row.norm, model.epsilon, x, len, None, None);
            }
            return Ok(plain);
        };
        if weight.len() % len != 0
            || bias.as_ref().is_some_and(|b| b.len() != weight.len())
            || !x.len().is_multiple_of(weight.len())
        {
            return Err(Error::input(format!(
                "tensor {}{name}.weight has {} values, which do not fit groups of {len}",
                self.prefix,
                weight.len()
            )));
        }
        norm::normalize(model.row.norm, model.epsilon, x, len, Some(&weight), bias.as_deref());
        Ok(true)
    }
}

/// Values that a thread takes at once where the work is a pass over memory.
pub(crate) const PIECE: usize = 1 << 14;

/// A copy, made by all threads.
pub(crate) fn copied(x: &[f32]) -> Vec<f32> {
    let mut copy = Vec::with_capacity(x.len());
    copy.par_extend(x.par_iter().with_min_len(PIECE).copied());
    copy
}

/// `x += y`.
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    add_scaled(x, y, 1.0);
}

/// `x += scale · y`.
pub(crate) fn add_scaled(x: &mut [f32], y: &[f32], scale: f32) {
    x.par_chunks_mut(PIECE).zip(y.par_chunks(PIECE)).for_each(|(x, y)| numeric::add_scaled(x, y, scale));
}
