//! The error of each tensor's weights: what a type did to them before any token was seen.

use gguf::{Error, Result, Source, TensorInfo};
use serde::Serialize;

/// The place in another precision of a model of the tensor that corresponds to `ours`.
///
/// # Errors
/// There is none, or it has another shape: it is another model.
pub fn counterpart(ours: &TensorInfo, other: &dyn Source) -> Result<usize> {
    let help = "compare precisions of one and the same model";
    let Some(at) = other.find(ours.name()) else {
        return Err(Error::input(format!("has no tensor {}, which the base has", ours.name())).help(help));
    };
    let (base, theirs) = (ours.shape(), other.tensors()[at].shape());
    // Trailing dimensions of 1 may be written or not.
    if (0..4).any(|i| base.dim(i) != theirs.dim(i)) {
        return Err(Error::input(format!("tensor {} is {theirs}, in the base {base}", ours.name())).help(help));
    }
    Ok(at)
}

/// How far a tensor's decoded weights are from the base's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorError {
    /// The GGUF name.
    pub name: String,
    /// The type it was stored in.
    #[serde(rename = "type")]
    pub ty: String,
    /// Weights.
    pub elements: u64,
    /// Root of the mean square of the differences, in the unit of the weights.
    pub rmse: f64,
    /// RMSE divided by the root mean square of the base's weights.
    pub relative: f64,
    /// The largest absolute difference.
    pub max: f64,
    /// Cosine of the angle between the two tensors as vectors.
    pub cosine: f64,
    /// Signal to noise, 20 log₁₀ of the inverse relative error, in dB; infinite (null) without any error.
    pub snr_db: f64,
    /// RMSE with each column weighted by its importance, where one was given.
    pub weighted_rmse: Option<f64>,
}

impl TensorError {
    /// The measured values, as [`TensorError::from_numbers`] takes them.
    pub fn numbers(&self) -> [f64; 6] {
        let weighted = self.weighted_rmse.unwrap_or(f64::NAN);
        [self.rmse, self.relative, self.max, self.cosine, self.snr_db, weighted]
    }

    /// The error of a tensor of this name, type and number of weights.
    pub fn from_numbers((name, ty, elements): (String, String, u64), numbers: &[f64; 6]) -> TensorError {
        let [rmse, relative, max, cosine, snr_db, weighted] = *numbers;
        let weighted_rmse = Some(weighted).filter(|w| !w.is_nan());
        TensorError { name, ty, elements, rmse, relative, max, cosine, snr_db, weighted_rmse }
    }
}

/// Sums over pairs of weights, in f64.
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrorSums {
    n: u64,
    base2: f64,
    other2: f64,
    product: f64,
    difference2: f64,
    weighted: f64,
    weights: f64,
    max: f64,
}

impl ErrorSums {
    /// Adds rows of equal length: `base` and `other` are `[rows, importance.len()]` where an importance is given.
    pub fn add(&mut self, base: &[f32], other: &[f32], importance: Option<&[f32]>) {
        // Chunks keep the inner sums short and let them stay in registers.
        for (b, o) in base.chunks(1024).zip(other.chunks(1024)) {
            let mut part = ErrorSums::default();
            for (&b, &o) in b.iter().zip(o) {
                let (b, o) = (f64::from(b), f64::from(o));
                let d = o - b;
                part.base2 += b * b;
                part.other2 += o * o;
                part.product += b * o;
                part.difference2 += d * d;
                part.max = part.max.max(d.abs());
            }
            self.base2 += part.base2;
            self.other2 += part.other2;
            self.product += part.product;
            self.difference2 += part.difference2;
            self.max = self.max.max(part.max);
        }
        self.n += base.len().min(other.len()) as u64;
        if let Some(importance) = importance.filter(|i| !i.is_empty()) {
            for (b, o) in base.chunks(importance.len()).zip(other.chunks(importance.len())) {
                for ((&b, &o), &w) in b.iter().zip(o).zip(importance) {
                    self.weighted += f64::from(w) * f64::from(o - b).powi(2);
                    self.weights += f64::from(w);
                }
            }
        }
    }

    /// Adds the sums of another part of the same tensor.
    pub fn merge(&mut self, other: &ErrorSums) {
        self.n += other.n;
        self.base2 += other.base2;
        self.other2 += other.other2;
        self.product += other.product;
        self.difference2 += other.difference2;
        self.weighted += other.weighted;
        self.weights += other.weights;
        self.max = self.max.max(other.max);
    }

    /// Whether no pair of weights differed.
    pub fn is_equal(&self) -> bool {
        self.max == 0.0
    }

    /// What the sums say of the tensor.
    pub fn finish(&self, name: &str, ty: &str) -> TensorError {
        let n = self.n.max(1) as f64;
        let rmse = (self.difference2 / n).sqrt();
        let relative = (self.difference2 / self.base2).sqrt();
        let norms = (self.base2 * self.other2).sqrt();
        TensorError {
            name: name.to_owned(),
            ty: ty.to_owned(),
            elements: self.n,
            rmse,
            relative,
            max: self.max,
            cosine: if norms > 0.0 { self.product / norms } else { f64::NAN },
            snr_db: -20.0 * relative.log10(),
            weighted_rmse: (self.weights > 0.0).then(|| (self.weighted / self.weights).sqrt()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn the_measures_follow_their_definitions() {
        let mut sums = ErrorSums::default();
        sums.add(&[3.0, 4.0], &[3.0, 3.0], Some(&[1.0, 3.0]));
        let e = sums.finish("t", "Q8_0");
        assert_relative_eq!(e.rmse, 0.5f64.sqrt(), epsilon = 1e-12);
        assert_relative_eq!(e.relative, 0.2, epsilon = 1e-12);
        assert_relative_eq!(e.snr_db, 13.979400086720377, epsilon = 1e-9);
        assert_relative_eq!(e.cosine, 21.0 / (5.0 * 18f64.sqrt()), epsilon = 1e-12);
        assert_relative_eq!(e.weighted_rmse.expect("weighted"), 0.75f64.sqrt(), epsilon = 1e-12);
        assert_eq!(e.max, 1.0);
    }

    #[test]
    fn parts_add_up() {
        let base: Vec<f32> = (0..4096).map(|i| (i as f32).sin()).collect();
        let other: Vec<f32> = base.iter().map(|v| (v * 16.0).round() / 16.0).collect();
        let mut whole = ErrorSums::default();
        whole.add(&base, &other, None);
        let (mut a, mut b) = (ErrorSums::default(), ErrorSums::default());
        a.add(&base[..1000], &other[..1000], None);
        b.add(&base[1000..], &other[1000..], None);
        a.merge(&b);
        let (whole, parts) = (whole.finish("t", "x"), a.finish("t", "x"));
        assert_relative_eq!(whole.rmse, parts.rmse, max_relative = 1e-12);
        assert_eq!(whole.elements, parts.elements);
        assert!(parts.weighted_rmse.is_none());
    }
}
