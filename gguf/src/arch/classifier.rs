//! What makes scores of labels of a pooled state.

use super::dim::Dim;
use super::dims::Dims;
use super::slot::{Bias, Item, bias, linear, optional};
use super::step::Norm;

/// A head behind the pooling, whose tensors a file may lack: `cls` with the function and the norm behind it, then
/// `cls.output`.
#[derive(Clone, Debug, PartialEq)]
pub struct Classifier {
    /// Rows of `cls`; 0: there is none.
    pub hidden: Dim,
    /// Bias of `cls`.
    pub hidden_bias: Bias,
    /// The function behind `cls`.
    pub function: HeadFunction,
    /// The norm behind it.
    pub norm: Option<Norm>,
    /// Number of scores of `cls.output`; 0: there is none.
    pub labels: Dim,
    /// Bias of `cls.output`.
    pub bias: Bias,
    /// Whether scores become shares (rerankers of Qwen 3).
    pub softmax: bool,
    /// Whether the mean of all states is scored in place of one, where the model pools for ranking.
    pub of_mean: bool,
}

/// A function behind the pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadFunction {
    /// The hyperbolic tangent.
    Tanh,
    /// The Gaussian error linear unit by its definition.
    Gelu,
    /// What is below 0 becomes 0.
    Relu,
    /// The sigmoid linear unit.
    Silu,
    /// The logistic function.
    Sigmoid,
}

impl HeadFunction {
    /// The function that transformers calls so.
    pub fn named(name: &str) -> Option<HeadFunction> {
        Some(match name {
            "tanh" => HeadFunction::Tanh,
            "gelu" => HeadFunction::Gelu,
            "relu" => HeadFunction::Relu,
            "silu" | "swish" => HeadFunction::Silu,
            "sigmoid" => HeadFunction::Sigmoid,
            _ => return None,
        })
    }
}

impl Classifier {
    /// A hidden layer with tanh and an output, both with biases (BERT).
    pub fn of(d: &Dims) -> Classifier {
        Classifier {
            hidden: d.embd,
            hidden_bias: Bias::Optional,
            function: HeadFunction::Tanh,
            norm: None,
            labels: d.classes(),
            bias: Bias::Optional,
            softmax: false,
            of_mean: d.classifier_pooling == 1,
        }
    }

    /// One matrix, of which softmax makes shares (Qwen 3).
    pub fn shares(d: &Dims) -> Classifier {
        Classifier { hidden: Dim(0), bias: Bias::Never, softmax: true, ..Classifier::of(d) }
    }

    pub(super) fn items(&self, d: &Dims) -> Vec<Item> {
        let mut items = Vec::new();
        if self.hidden > 0 {
            items.extend(linear("cls", d.embd, self.hidden, Bias::Never));
            items.extend(bias("cls", self.hidden, self.hidden_bias));
        }
        if self.labels > 0 {
            items.extend(linear("cls.output", d.embd, self.labels, Bias::Never));
            items.extend(bias("cls.output", self.labels, self.bias));
        }
        items.extend(self.norm.iter().flat_map(Norm::items));
        optional(items)
    }
}
