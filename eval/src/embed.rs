//! What becomes of the hidden states of a text: one vector, or the scores of a classifier.
//!
//! The states are pooled to one and go through what stands behind: the matrices of the file, those that a
//! sentence-transformers folder lists and its file has no place for, a classifier. Several precisions of a model go through
//! their layers in lockstep, as [`Forward`] does.

use convert::modules::{self, Behind, Stage};
use gguf::arch::HeadFunction;
use gguf::{Error, Result};
use quantize::first_not_finite;
use rayon::prelude::*;

use crate::forward::{Forward, Input, Progress, Stream};
use crate::layers::{Part, add, ffn, norm};
use crate::matmul::{Order, product};
use crate::model::Model;
use crate::numeric;
use crate::perplexity::Schedule;
use crate::weights::{Matrix, Weights};

/// How the states of a text become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Pool {
    /// Their mean
    Mean,
    /// The first token's
    #[cfg_attr(feature = "cli", value(name = "cls", alias = "first"))]
    First,
    /// The last token's
    Last,
}

impl From<modules::Pooling> for Pool {
    fn from(pooling: modules::Pooling) -> Pool {
        match pooling {
            modules::Pooling::Mean => Pool::Mean,
            modules::Pooling::First => Pool::First,
            modules::Pooling::Last => Pool::Last,
        }
    }
}

impl Pool {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Pool::Mean => "mean",
            Pool::First => "cls",
            Pool::Last => "last",
        }
    }

    /// What a file's keys say; nothing where they say nothing, or that every token keeps its own.
    pub fn of_keys(model: &Model) -> Option<Pool> {
        match model.dims.pooling {
            1 => Some(Pool::Mean),
            2 => Some(Pool::First),
            3 => Some(Pool::Last),
            _ => None,
        }
    }

    fn pool(self, states: &[f32], out: &mut [f32]) {
        let width = out.len();
        match self {
            Pool::First => out.copy_from_slice(&states[..width]),
            Pool::Last => out.copy_from_slice(&states[states.len() - width..]),
            Pool::Mean => {
                let count = (states.len() / width) as f64;
                for (i, out) in out.iter_mut().enumerate() {
                    let sum: f64 = states[i..].iter().step_by(width).map(|&x| f64::from(x)).sum();
                    *out = (sum / count) as f32;
                }
            }
        }
    }
}

/// Whether a model scores texts instead of making vectors of them: it has a classifier.
pub fn scores(model: &Model) -> bool {
    let Some(classifier) = &model.ends().classifier else { return false };
    let narrow = classifier.hidden > 0 && classifier.hidden != model.dims.embd;
    model.dims.present("cls.output.weight") || narrow && model.dims.present("cls.weight")
}

/// Whether a model is one for vectors or scores rather than for predicting tokens.
pub fn embeds(model: &Model) -> bool {
    !model.ends().logits || model.dims.pooling > 0 || scores(model)
}

/// What stands behind the hidden states of one precision of a model.
pub struct Head<'a> {
    pool: Pool,
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    /// A matrix of the file.
    Linear(Part<'a>, &'static str),
    /// A matrix from elsewhere.
    Given(Matrix<'a>, Option<Vec<f32>>),
    Function(HeadFunction),
    Norm(Part<'a>, gguf::arch::Norm),
    GivenNorm(modules::Norm),
    /// Divided by the length.
    Normalize,
    Softmax,
}

impl std::fmt::Debug for Head<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Head").field("pool", &self.pool).field("steps", &self.steps.len()).finish()
    }
}

impl<'a> Head<'a> {
    /// What makes vectors: pooled as `pool` says, or the folder, or the file; of length 1 where they are to be normalized.
    ///
    /// # Errors
    /// A decoder that says nothing of pooling, and tensors that do not fit.
    pub fn vectors(
        model: &Model,
        weights: &'a dyn Weights,
        behind: &Behind,
        pool: Option<Pool>,
        normalized: bool,
    ) -> Result<Head<'a>> {
        let listed = behind.stages.iter().find_map(|s| match s {
            Stage::Pool(pooling) => Some(Pool::from(*pooling)),
            _ => None,
        });
        let by_default = || (!model.ends().logits).then_some(Pool::Mean);
        let pool = pool.or(listed).or_else(|| Pool::of_keys(model)).or_else(by_default).ok_or_else(|| {
            Error::input(format!("{} says nothing of how its states become one vector", model.name()))
                .help("--pooling mean, cls or last")
        })?;
        let mut steps = Vec::new();
        let own: Vec<&'static str> = model
            .ends()
            .after_pooling
            .iter()
            .copied()
            .filter(|name| weights.tensors().iter().any(|t| t.name().strip_suffix(".weight") == Some(name)))
            .collect();
        for name in &own {
            steps.push(linear(weights, name)?);
        }
        for stage in &behind.stages {
            match stage {
                Stage::Pool(_) | Stage::Normalize => {}
                Stage::Dense(_) if !own.is_empty() => {}
                Stage::Dense(dense) => steps.extend(given(dense)),
                Stage::Norm(norm) => steps.push(Step::GivenNorm(norm.clone())),
            }
        }
        if normalized {
            steps.push(Step::Normalize);
        }
        Ok(Head { pool, steps })
    }

    /// What makes scores.
    ///
    /// # Errors
    /// A model without a classifier, and tensors that do not fit.
    pub fn scores(model: &Model, weights: &'a dyn Weights, behind: &Behind) -> Result<Head<'a>> {
        let classifier = model
            .ends()
            .classifier
            .as_ref()
            .filter(|_| scores(model))
            .ok_or_else(|| Error::input(format!("this {} has no classifier", model.name())))?;
        let pool = match (classifier.of_mean, model.dims.causal) {
            (true, _) => Pool::Mean,
            (false, true) => Pool::Last,
            (false, false) => Pool::First,
        };
        let mut steps = Vec::new();
        if model.dims.present("cls.weight") {
            steps.extend([linear(weights, "cls")?, Step::Function(classifier.function)]);
            if let Some(norm) = classifier.norm.as_ref().filter(|n| model.dims.present(&n.weight())) {
                let bias = format!("{}.bias", norm.name);
                steps.push(Step::Norm(Part::pick(weights, "", &[&norm.weight(), &bias])?, norm.clone()));
            }
        } else if let Some(pooler) = &behind.pooler {
            steps.extend(given(pooler));
        }
        if model.dims.present("cls.output.weight") {
            steps.push(linear(weights, "cls.output")?);
        }
        if classifier.softmax {
            steps.push(Step::Softmax);
        }
        Ok(Head { pool, steps })
    }

    /// How states become one.
    pub fn pool(&self) -> Pool {
        self.pool
    }

    /// What becomes of the hidden states of texts of these lengths: one row of values each.
    ///
    /// # Errors
    /// A text without tokens, matrices that do not fit, or a value that is no number.
    pub fn apply(&self, model: &Model, hidden: &[f32], lengths: &[usize]) -> Result<Vec<Vec<f32>>> {
        let mut width = model.width;
        let mut x = vec![0.0; lengths.len() * width];
        let mut rest = hidden;
        for (&len, out) in lengths.iter().zip(x.chunks_mut(width)) {
            let states = rest.split_off(..len * width).filter(|s| !s.is_empty());
            let states = states.ok_or_else(|| Error::input("a text without tokens has no states"))?;
            self.pool.pool(states, out);
        }
        for step in &self.steps {
            match step {
                Step::Linear(part, name) => x = part.linear(name, &x)?,
                Step::Given(matrix, bias) => {
                    x = product(&x, matrix, 0..matrix.rows(), Order::Fixed)?;
                    if let Some(bias) = bias {
                        x.chunks_mut(bias.len().max(1)).for_each(|x| add(x, bias));
                    }
                }
                Step::Function(function) => apply(*function, &mut x),
                Step::Norm(part, norm) => part.norm_in_place(norm, &mut x)?,
                Step::GivenNorm(given) => {
                    let kind = gguf::arch::NormKind::Layer(given.eps);
                    if given.weight.len() != width || given.bias.len() != width {
                        return Err(Error::input(format!(
                            "the norm behind the pooling is of {} values, not {width}",
                            given.weight.len()
                        )));
                    }
                    norm::normalize(kind, &mut x, width, Some(&given.weight), Some(&given.bias));
                }
                Step::Normalize => x.par_chunks_mut(width.max(1)).for_each(to_length_one),
                Step::Softmax => x.par_chunks_mut(width.max(1)).for_each(softmax),
            }
            width = x.len() / lengths.len().max(1);
        }
        if first_not_finite(&x).is_some() {
            return Err(Error::input("a text's vector holds a value that is no number"));
        }
        Ok(x.chunks(width.max(1)).map(<[f32]>::to_vec).collect())
    }
}

fn linear<'a>(weights: &'a dyn Weights, name: &'static str) -> Result<Step<'a>> {
    let names = [".weight", ".bias", ".scale"].map(|suffix| format!("{name}{suffix}"));
    Ok(Step::Linear(Part::pick(weights, "", &[&names[0], &names[1], &names[2]])?, name))
}

fn given<'a>(dense: &modules::Dense) -> Vec<Step<'a>> {
    let matrix = Matrix::from_f32(&dense.name, dense.weight.clone(), dense.inputs);
    [Step::Given(matrix, dense.bias.clone())].into_iter().chain(dense.function.map(Step::Function)).collect()
}

fn apply(function: HeadFunction, x: &mut [f32]) {
    use gguf::arch::Activation;
    match function {
        HeadFunction::Tanh => x.iter_mut().for_each(|x| *x = x.tanh()),
        HeadFunction::Sigmoid => x.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
        HeadFunction::Gelu => ffn::activate(Activation::Gelu, x),
        HeadFunction::Relu => ffn::activate(Activation::Relu, x),
        HeadFunction::Silu => ffn::activate(Activation::Silu, x),
    }
}

fn to_length_one(x: &mut [f32]) {
    let length = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    // A vector of zeros has no direction; it stays one of zeros, as in sentence-transformers.
    let factor = (1.0 / length.max(1e-12)) as f32;
    x.iter_mut().for_each(|x| *x *= factor);
}

fn softmax(x: &mut [f32]) {
    let most = numeric::max(x);
    x.iter_mut().for_each(|x| *x = (*x - most).exp());
    let sum: f32 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= sum);
}

/// The vectors or scores of all texts, of each stream: `[streams][texts]`.
///
/// # Errors
/// As [`Forward::hidden`] and [`Head::apply`].
pub fn run(
    streams: &[Stream<'_>],
    heads: &[Head<'_>],
    inputs: &[Input],
    max_memory: u64,
    progress: Option<Progress<'_>>,
) -> Result<Vec<Vec<Vec<f32>>>> {
    let Some(first) = streams.first() else { return Err(Error::usage("there is no model to run")) };
    let longest = inputs.iter().map(|i| i.tokens.len()).max().unwrap_or(1);
    let plan = Schedule::new(first.model, streams.len(), longest, max_memory);
    let mut found: Vec<Vec<Vec<f32>>> = vec![Vec::with_capacity(inputs.len()); streams.len()];
    let together = plan.sequences.max(1);
    let passes = inputs.len().div_ceil(together) as u64;
    for (pass, inputs) in inputs.chunks(together).enumerate() {
        let told = |done: u64, total: u64| {
            if let Some(progress) = progress {
                progress(pass as u64 * total + done, passes * total);
            }
        };
        let hidden = Forward::lockstep(streams.to_vec())?.limits(plan.limits).progress(&told).hidden(inputs)?;
        let lengths: Vec<usize> = inputs.iter().map(|i| i.tokens.len()).collect();
        for (((stream, head), hidden), found) in streams.iter().zip(heads).zip(&hidden).zip(&mut found) {
            found.extend(head.apply(stream.model, hidden, &lengths)?);
        }
    }
    Ok(found)
}
