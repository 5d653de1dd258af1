//! What a step's output joins: the residual stream, or one of the forms that newer models have in its place.

use super::dim::Dim;
use super::slot::{Item, Slot};

/// What the sum of a step's branches joins.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Residual {
    /// The stream, to which it is added.
    #[default]
    Stream,
    /// The input of the first branch behind its norm, multiplied with this: the stream itself is dropped (MiniMax-01).
    Normed(f32),
    /// Several streams side by side (hyper-connections).
    Streams(Streams),
    /// The stream since the last block began; what a step reads is mixed from it and from earlier blocks (Kimi K3).
    Blocks(Blocks),
}

impl Residual {
    /// Its tensors.
    pub fn items(&self) -> Vec<Item> {
        match self {
            Residual::Stream | Residual::Normed(_) => Vec::new(),
            Residual::Streams(streams) => streams.items(),
            Residual::Blocks(blocks) => blocks.items(),
        }
    }

    /// The tensors of reading alone: behind the layers.
    pub fn reading_items(&self) -> Vec<Item> {
        match self {
            Residual::Streams(streams) => streams.reading_items(),
            other => other.items(),
        }
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Residual::Stream => "a residual stream",
            Residual::Normed(_) => "residuals of normalized inputs",
            Residual::Streams(_) => "hyper-connections",
            Residual::Blocks(_) => "residuals over blocks",
        }
    }
}

/// Several residual streams, all equal to the embedding at first. What a step reads is a weighted sum of them, and its
/// output goes to each with a weight. The weights are computed from the streams themselves, laid end to end and divided
/// by the root of their mean square.
#[derive(Clone, Debug, PartialEq)]
pub struct Streams {
    /// How many.
    pub count: Dim,
    /// Width of one.
    pub width: Dim,
    /// What the tensors' names begin with: `hc_attn`, `hc_ffn`; `output_hc` behind the layers.
    pub name: &'static str,
    /// How the weights are made.
    pub weights: StreamWeights,
    /// Epsilon of the root of the mean square.
    pub eps: f32,
}

/// How weights of streams are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StreamWeights {
    /// Of m = `fn` · streams, taken apart and with `scale` and `base` applied: reading σ(·) + ε, writing 2 σ(·), and a
    /// matrix from stream to stream whose rows are a softmax, then divided by the sums of its columns and its rows in
    /// turn, each sum with ε added, `rounds` times the columns (DeepSeek 4).
    Doubly {
        /// Rounds.
        rounds: Dim,
        /// ε.
        eps: f32,
    },
    /// The same without a matrix: every stream keeps what it has. Writing is magnitude · σ(·) + ε (Hunyuan 4).
    Apart {
        /// Magnitude.
        magnitude: f32,
        /// ε.
        eps: f32,
    },
    /// Behind a norm with weights: reading is the mean of the streams, each value times the sigmoid of
    /// `up` · silu(`down` · streams / count); writing 2 σ(`inject` · streams / count) (Qwen 4).
    LowRank {
        /// Rank of the two matrices.
        rank: Dim,
    },
    /// Behind the layers: the mean of the streams.
    Mean,
}

impl Streams {
    fn items(&self) -> Vec<Item> {
        let tensor = |part: &str, shape: Vec<Dim>| Slot::new(format!("{}_{part}.weight", self.name), shape);
        let all = self.count * self.width;
        let affine = |rows: Dim, parts: u64| {
            vec![
                tensor("fn", vec![all, rows]).into(),
                tensor("base", vec![rows]).into(),
                tensor("scale", vec![Dim(parts)]).into(),
            ]
        };
        match self.weights {
            StreamWeights::Doubly { .. } => affine((self.count + 2) * self.count, 3),
            StreamWeights::Apart { .. } => affine(self.count * 2, 2),
            StreamWeights::LowRank { rank } => {
                let mut items = low_rank(&tensor, self.count, self.width, rank);
                items.push(tensor("inject", vec![all, self.count]).into());
                items
            }
            StreamWeights::Mean => Vec::new(),
        }
    }

    /// The tensors of reading alone: behind the layers.
    pub fn reading_items(&self) -> Vec<Item> {
        let tensor = |part: &str, shape: Vec<Dim>| Slot::new(format!("{}_{part}.weight", self.name), shape);
        match self.weights {
            StreamWeights::Doubly { .. } | StreamWeights::Apart { .. } => vec![
                tensor("fn", vec![self.count * self.width, self.count]).into(),
                tensor("base", vec![self.count]).into(),
                tensor("scale", vec![Dim(1)]).into(),
            ],
            StreamWeights::LowRank { rank } => low_rank(&tensor, self.count, self.width, rank),
            StreamWeights::Mean => Vec::new(),
        }
    }
}

fn low_rank(tensor: &dyn Fn(&str, Vec<Dim>) -> Slot, count: Dim, width: Dim, rank: Dim) -> Vec<Item> {
    vec![
        tensor("norm", vec![width, count]).count_only().into(),
        tensor("down", vec![count * width, rank]).into(),
        tensor("up", vec![rank, count * width]).into(),
    ]
}

/// Blocks of layers: each begins with an empty stream, and what it began with is kept. A step reads the sum of all that was
/// kept and of the stream, weighted by the softmax of their products with `score`, for which each is divided by the root
/// of its mean square. Before anything was kept it reads the stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    /// Width of the stream.
    pub width: Dim,
    /// The tensor of the scores, without `.weight`.
    pub score: &'static str,
    /// Whether a block begins here: the stream is kept and the step's output takes its place.
    pub begins: bool,
    /// Epsilon of the root of the mean square.
    pub eps: f32,
}

impl Blocks {
    /// Its tensor.
    pub fn items(&self) -> Vec<Item> {
        vec![Slot::new(format!("{}.weight", self.score), [self.width]).into()]
    }
}
