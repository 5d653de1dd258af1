//! Rotary positions: interleaved or half-split, partial, with linear, YaRN, Llama-3 and longrope scaling.

use std::f64::consts::PI;
use std::sync::Arc;

use gguf::arch::{self, Arch, Dims};
use gguf::{Error, Result};

use crate::device::{Buffer, Device, Kept, Rotation};
use crate::weights::Weights;

/// How frequencies are stretched for contexts longer than the training's.
#[derive(Clone, Debug)]
pub struct Scaling {
    kind: Kind,
    /// Cosine and sine are multiplied with it.
    attention_factor: f64,
    /// Tokens of the original training.
    original: usize,
}

#[derive(Clone, Debug)]
enum Kind {
    None,
    Linear(f64),
    Yarn { factor: f64, beta_fast: f64, beta_slow: f64, log_multiplier: f64, whole_limits: bool },
}

impl Scaling {
    /// No scaling.
    pub fn none() -> Scaling {
        Scaling { kind: Kind::None, attention_factor: 1.0, original: 0 }
    }

    /// What a model's keys say of the rotation of its windowed or its other layers. Factors of single frequencies
    /// (Llama 3, longrope) are tensors.
    ///
    /// # Errors
    /// A factor that is not positive.
    pub fn of(dims: &Dims, windowed: bool, arch: &Arch) -> Result<Scaling> {
        let scale = if windowed { dims.rope_scale_windowed } else { dims.rope_scale };
        let factor = 1.0 / f64::from(scale);
        if !(factor > 0.0 && factor.is_finite()) {
            return Err(Error::input(format!("the key {}.rope.scaling.factor is {factor}", arch.name)));
        }
        // A factor without a kind is linear, as in files before the key existed.
        let kind = match dims.rope_scaling {
            arch::Scaling::None | arch::Scaling::LongRope => Kind::None,
            arch::Scaling::Linear if factor == 1.0 => Kind::None,
            arch::Scaling::Linear => Kind::Linear(factor),
            arch::Scaling::Yarn => Kind::Yarn {
                factor,
                beta_fast: dims.yarn_beta_fast.into(),
                beta_slow: dims.yarn_beta_slow.into(),
                log_multiplier: f64::from(dims.yarn_log_mul) * 0.1,
                whole_limits: !arch.fractional_yarn,
            },
        };
        let attention_factor = dims.rope_attn_factor.into();
        Ok(Scaling { kind, attention_factor, original: dims.original_context.len() })
    }
}

/// The rotation of one kind of layer.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Values of a head that rotate.
    len: usize,
    pairs: bool,
    /// Angle per position of each pair, for contexts up to `original` and beyond.
    short: Vec<f64>,
    long: Vec<f64>,
    original: usize,
    factor: f64,
}

impl Rope {
    /// The rotation of the first `len` values of heads of `head_len`. `pairs`: of neighbours, else of values half of
    /// `len` apart. Factors of single frequencies are read from `rope_freqs`, `rope_factors_long` and `_short` of
    /// `weights`, where they are given.
    ///
    /// # Errors
    /// A length that is odd or longer than the head, a base that is not positive, or factors of the wrong number.
    pub fn new(
        len: usize,
        head_len: usize,
        pairs: bool,
        base: f32,
        scaling: &Scaling,
        weights: Option<&dyn Weights>,
        latent: bool,
    ) -> Result<Rope> {
        if len == 0 || !len.is_multiple_of(2) || len > head_len || base.is_nan() || base <= 0.0 {
            return Err(Error::input(format!("{len} of a head's {head_len} values cannot rotate with base {base}")));
        }
        let factors = |name: &str| -> Result<Option<Vec<f32>>> {
            let Some(weights) = weights else { return Ok(None) };
            let named = |t: &gguf::TensorInfo| {
                t.name().strip_suffix(".weight").is_some_and(|t| t == name || t == format!("blk.0.{name}"))
            };
            let Some(tensor) = weights.tensors().iter().position(named) else { return Ok(None) };
            let factors = weights.matrix(tensor)?.to_f32()?;
            // Where layers rotate by different lengths, each takes the first ones.
            if factors.len() >= len / 2 && factors.iter().all(|&f| f > 0.0) {
                return Ok(Some(factors));
            }
            Err(Error::input(format!("{} factors, not {} positive ones", factors.len(), len / 2)).in_tensor(name))
        };
        let both = factors("rope_freqs")?;
        let long = factors("rope_factors_long")?.or_else(|| both.clone());
        let short = factors("rope_factors_short")?.or(both);
        let angles = |factors: Option<&[f32]>| {
            (0..len / 2).map(|i| angle(i, len, base.into(), factors.map_or(1.0, |f| f[i].into()), scaling)).collect()
        };
        let factor = match scaling.kind {
            // Latent attention has it in its scores.
            Kind::Yarn { factor, log_multiplier, .. } if !latent => {
                // The quotient of two such factors where the model has a second one for all dimensions.
                let all = if log_multiplier == 0.0 { 1.0 } else { 1.0 + log_multiplier * factor.ln() };
                scaling.attention_factor * (1.0 + 0.1 * factor.ln()) / all
            }
            Kind::Yarn { .. } => 1.0,
            _ => scaling.attention_factor,
        };
        Ok(Rope {
            len,
            pairs,
            short: angles(short.as_deref()),
            long: angles(long.as_deref()),
            original: scaling.original,
            factor,
        })
    }

    /// Rounds the angles per position to bf16.
    pub(crate) fn round_frequencies(&mut self) {
        for angle in self.short.iter_mut().chain(&mut self.long) {
            *angle = half::bf16::from_f64(*angle).to_f64();
        }
    }

    /// Bytes of [`Rope::table`].
    pub fn table_bytes(&self, context: usize) -> u64 {
        (context as u64).saturating_mul((self.short.len().max(self.long.len()) * size_of::<[f32; 2]>()) as u64)
    }

    /// Cosine and sine for the positions of `context` tokens.
    pub fn table(&self, context: usize) -> Table {
        let angles = if self.original > 0 && context > self.original { &self.long } else { &self.short };
        let mut values = Vec::with_capacity(context * angles.len());
        for position in 0..context {
            for angle in angles {
                // Models are trained with angles rounded to f32, and large scores would show the difference.
                let (sin, cos) = f64::from(position as f32 * *angle as f32).sin_cos();
                values.push([(cos * self.factor) as f32, (sin * self.factor) as f32]);
            }
        }
        Table { half: self.len / 2, pairs: self.pairs, values, kept: Arc::default() }
    }
}

/// The angle per position of pair `i` of `len / 2`.
fn angle(i: usize, len: usize, base: f64, factor: f64, scaling: &Scaling) -> f64 {
    let plain = base.powf(-2.0 * i as f64 / len as f64) / factor;
    match scaling.kind {
        Kind::None => plain,
        Kind::Linear(factor) => plain / factor,
        Kind::Yarn { factor, beta_fast, beta_slow, whole_limits, .. } => {
            // The dimension whose wave turns `beta` times within the original context (YaRN, section 3.2).
            let dimension =
                |beta: f64| len as f64 * (scaling.original as f64 / (beta * 2.0 * PI)).ln() / (2.0 * base.ln());
            let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
            if whole_limits {
                (low, high) = (low.floor(), high.ceil());
            }
            let (low, high) = (low.max(0.0), high.min(len as f64 - 1.0));
            let stretched = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            plain / factor * stretched + plain * (1.0 - stretched)
        }
    }
}

/// Cosines and sines for some positions.
#[derive(Clone, Debug)]
pub struct Table {
    half: usize,
    pairs: bool,
    values: Vec<[f32; 2]>,
    /// The same on a device.
    kept: Arc<Kept>,
}

impl Table {
    /// Rotates the start of all heads of `len` values on a device.
    pub(super) fn rotate_on(
        &self,
        device: &Device,
        positions: &[u32],
        x: &Buffer,
        heads: usize,
        len: usize,
    ) -> Result<()> {
        let Table { half, pairs, values, kept } = self;
        let rotation = Rotation { half: *half, neighbours: *pairs, angles: values, positions, heads, len };
        device.kernels().rotate(&rotation, kept, x)
    }

    /// Rotates the start of one head's values for this position; positions past the table are left as they are.
    pub fn rotate(&self, head: &mut [f32], position: usize) {
        self.turn(head, position, 1.0);
    }

    /// Undoes what [`Table::rotate`] does.
    pub fn rotate_back(&self, head: &mut [f32], position: usize) {
        self.turn(head, position, -1.0);
    }

    #[inline]
    fn turn(&self, head: &mut [f32], position: usize, direction: f32) {
        let Some(turns) = self.values.get(position * self.half..(position + 1) * self.half) else { return };
        if self.pairs {
            for (pair, [cos, sin]) in head.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
                let ([a, b], sin) = (*pair, sin * direction);
                *pair = [a * cos - b * sin, a * sin + b * cos];
            }
        } else {
            let Some((low, high)) = head.split_at_mut_checked(self.half) else { return };
            for ((a, b), [cos, sin]) in low.iter_mut().zip(high).zip(turns) {
                let sin = sin * direction;
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        }
    }
}
