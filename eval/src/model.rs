//! What a model is made of: a table row for its architecture, numbers from its metadata.
//!
//! A row names the parts that its blocks are composed of; exceptions are named values in the row, so that nothing
//! downstream asks for a model by name. What tensors say by being there (biases, q/k norms, fused projections, gates,
//! shared experts) is not in the row. Kinds and constants are those of llama.cpp's `src/models` (names, layout) and of
//! transformers' model definitions (arithmetic) where the two differ.

use gguf::{Error, Metadata, Result, TensorInfo};

use crate::layers::rope::{Rope, Scaling, Table};
use crate::weights::Weights;

/// How activations are normalized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// By the root of the mean square.
    Rms,
    /// By mean and variance.
    Layer,
    /// By mean and variance, also where no tensor holds weights (OLMo).
    LayerWithoutWeights,
}

/// How a block's two branches join the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// Attention first, the feed-forward network on its result.
    Sequential,
    /// Both on the same input.
    Parallel,
    /// Both on the same input unless `use_parallel_residual` is false.
    ParallelByMetadata,
    /// Both on the same input where the feed-forward network has no norm of its own.
    ParallelWithoutNorm,
    /// Each sum is normalized, the branches are not (BERT).
    Normalized,
}

/// How a token knows where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Position {
    /// Not at all, or by a learned table where `position_embd` exists.
    Table,
    /// Rotation of pairs of neighbours.
    RotaryPairs,
    /// Rotation of pairs half the rotated dimensions apart.
    RotaryHalves,
    /// A bias that grows with the distance; the greatest slope's exponent where metadata has none.
    Alibi(f32),
    /// A learned bias for buckets of distances (T5).
    Buckets,
}

/// Which layers rotate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// All.
    All,
    /// Those with a sliding window.
    Windowed,
    /// All but every n-th.
    AllButEvery(usize),
}

/// Which layers see only a window of the past, where metadata names its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// None.
    Never,
    /// All.
    Always,
    /// All but every n-th, unless `sliding_window_pattern` lists them.
    AllButEvery(usize),
}

/// The function between two matrices of a feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · σ(x).
    Silu,
    /// The Gaussian error linear unit by its definition.
    Gelu,
    /// The same through tanh.
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// max(x, 0)².
    ReluSquared,
    /// gpt-oss: g · σ(1.702 g) · (u + 1) with g ≤ 7 and |u| ≤ 7.
    SwigluOai,
}

/// How scores of experts become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// Softmax over all experts, then the best.
    Softmax,
    /// The best, then softmax over them.
    SoftmaxOfBest,
    /// Sigmoid of each.
    Sigmoid,
}

/// Whether the weights of the chosen experts are made to sum to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalized {
    /// Yes.
    Always,
    /// Where `expert_weights_norm` says so.
    ByMetadata,
}

/// What the word embeddings are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbeddingScale {
    /// `embedding_scale`, or 1.
    Metadata,
    /// The square root of their length.
    RootOfWidth,
}

/// What `logit_scale` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitScale {
    /// The logits are multiplied with it.
    Multiply,
    /// The logits are divided by it.
    Divide,
}

/// What scores are multiplied with before the softmax.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreScale {
    /// `attention.scale`, or one over the square root of the head's length.
    Head,
    /// The same, but one over √(width / heads) for the model with this many layers (the 27 B Gemmas).
    HeadUnlessLayers(usize),
    /// One (T5).
    One,
}

/// What a block does in place of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mixer {
    /// Attention over heads.
    Attention,
    /// Attention over a compressed latent vector (DeepSeek).
    LatentAttention,
    /// A selective state space (Mamba).
    StateSpace,
}

/// Which stacks of blocks a model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A decoder: causal, with logits.
    Decoder,
    /// An encoder: hidden states only.
    Encoder,
    /// An encoder whose output a decoder attends to.
    EncoderDecoder,
}

/// One architecture.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// `general.architecture`.
    pub name: &'static str,
    /// Stacks of blocks.
    pub shape: Shape,
    /// What mixes tokens.
    pub mixer: Mixer,
    /// Kind of all norms.
    pub norm: Norm,
    /// Placement of the branches.
    pub residual: Residual,
    /// Whether a branch's input is normalized (in OLMo 2 and EXAONE 4 only its output is).
    pub input_norms: bool,
    /// The tensor that normalizes the feed-forward network's input.
    pub ffn_norm: &'static str,
    /// Kind of positions.
    pub position: Position,
    /// Layers that rotate.
    pub rotated: Rotated,
    /// YaRN's limits are whole dimensions (they are not in gpt-oss).
    pub whole_yarn_limits: bool,
    /// Layers with a window.
    pub window: Window,
    /// Feed-forward activation.
    pub activation: Activation,
    /// The rows of `ffn_up` hold the gate first, then the other half.
    pub fused_gate: bool,
    /// How experts are weighted.
    pub gating: Gating,
    /// Whether their weights sum to one.
    pub normalized: Normalized,
    /// Scale of the embeddings.
    pub embedding_scale: EmbeddingScale,
    /// Meaning of `logit_scale`.
    pub logit_scale: LogitScale,
    /// Scale of the scores.
    pub score_scale: ScoreScale,
}

const LLAMA: Row = Row {
    name: "llama",
    shape: Shape::Decoder,
    mixer: Mixer::Attention,
    norm: Norm::Rms,
    residual: Residual::Sequential,
    input_norms: true,
    ffn_norm: "ffn_norm",
    position: Position::RotaryPairs,
    rotated: Rotated::All,
    whole_yarn_limits: true,
    window: Window::Never,
    activation: Activation::Silu,
    fused_gate: false,
    gating: Gating::Softmax,
    normalized: Normalized::Always,
    embedding_scale: EmbeddingScale::Metadata,
    logit_scale: LogitScale::Multiply,
    score_scale: ScoreScale::Head,
};

const NEOX: Row = Row { position: Position::RotaryHalves, ..LLAMA };

const GEMMA: Row =
    Row { activation: Activation::GeluTanh, embedding_scale: EmbeddingScale::RootOfWidth, name: "gemma", ..NEOX };

const GPT: Row =
    Row { norm: Norm::Layer, position: Position::Table, activation: Activation::GeluTanh, name: "gpt2", ..LLAMA };

const COHERE: Row = Row { norm: Norm::Layer, residual: Residual::Parallel, name: "command-r", ..LLAMA };

/// All architectures that can be run.
pub const ROWS: &[Row] = &[
    LLAMA,
    Row { name: "smollm3", rotated: Rotated::AllButEvery(4), ..LLAMA },
    Row { name: "ernie4_5", ..LLAMA },
    Row { name: "granite", logit_scale: LogitScale::Divide, ..LLAMA },
    Row { name: "granitemoe", logit_scale: LogitScale::Divide, ..LLAMA },
    Row { name: "olmo", norm: Norm::LayerWithoutWeights, ..LLAMA },
    Row { name: "deepseek2", mixer: Mixer::LatentAttention, normalized: Normalized::ByMetadata, ..LLAMA },
    COHERE,
    Row { name: "cohere2", rotated: Rotated::Windowed, window: Window::AllButEvery(4), ..COHERE },
    Row { name: "qwen2", ..NEOX },
    Row { name: "qwen3", ..NEOX },
    Row { name: "qwen2moe", normalized: Normalized::ByMetadata, ..NEOX },
    Row { name: "qwen3moe", ..NEOX },
    Row { name: "olmo2", input_norms: false, ..NEOX },
    Row { name: "olmoe", normalized: Normalized::ByMetadata, ..NEOX },
    Row { name: "phi3", fused_gate: true, window: Window::Always, ..NEOX },
    Row { name: "glm4", position: Position::RotaryPairs, fused_gate: true, ..NEOX },
    Row { name: "exaone4", input_norms: false, rotated: Rotated::Windowed, window: Window::AllButEvery(4), ..NEOX },
    Row {
        name: "gpt-oss",
        ffn_norm: "post_attention_norm",
        window: Window::AllButEvery(2),
        activation: Activation::SwigluOai,
        gating: Gating::SoftmaxOfBest,
        normalized: Normalized::ByMetadata,
        whole_yarn_limits: false,
        ..NEOX
    },
    GEMMA,
    Row { name: "gemma2", window: Window::AllButEvery(2), score_scale: ScoreScale::HeadUnlessLayers(46), ..GEMMA },
    Row { name: "gemma3", window: Window::AllButEvery(6), score_scale: ScoreScale::HeadUnlessLayers(62), ..GEMMA },
    GPT,
    Row { name: "bloom", position: Position::Alibi(8.0), ..GPT },
    Row { name: "mpt", position: Position::Alibi(8.0), activation: Activation::Gelu, ..GPT },
    Row { name: "starcoder2", position: Position::RotaryHalves, ..GPT },
    Row { name: "phi2", position: Position::RotaryHalves, residual: Residual::Parallel, ..GPT },
    Row {
        name: "falcon",
        position: Position::RotaryHalves,
        residual: Residual::Parallel,
        activation: Activation::Gelu,
        ..GPT
    },
    Row {
        name: "gptneox",
        position: Position::RotaryHalves,
        residual: Residual::ParallelByMetadata,
        activation: Activation::Gelu,
        ..GPT
    },
    Row {
        name: "stablelm",
        norm: Norm::Layer,
        position: Position::RotaryHalves,
        residual: Residual::ParallelWithoutNorm,
        ..LLAMA
    },
    Row { name: "nemotron", position: Position::RotaryHalves, activation: Activation::ReluSquared, ..GPT },
    Row { name: "mamba", mixer: Mixer::StateSpace, position: Position::Table, ..LLAMA },
    Row {
        name: "bert",
        shape: Shape::Encoder,
        residual: Residual::Normalized,
        input_norms: false,
        activation: Activation::Gelu,
        ..GPT
    },
    Row {
        name: "t5",
        shape: Shape::EncoderDecoder,
        position: Position::Buckets,
        activation: Activation::GeluTanh,
        score_scale: ScoreScale::One,
        ..LLAMA
    },
];

/// Numbers of a mixture of experts.
#[derive(Clone, Copy, Debug)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many a token uses.
    pub used: usize,
    /// Groups they form; only the best groups are searched.
    pub groups: usize,
    /// How many groups are searched.
    pub groups_used: usize,
    /// What their weights are multiplied with.
    pub scale: f32,
    /// Whether their weights are made to sum to one.
    pub normalize: bool,
    /// How scores become weights.
    pub gating: Gating,
}

/// Lengths of the parts of latent attention.
#[derive(Clone, Copy, Debug)]
pub struct Latent {
    /// Length of the compressed key and value.
    pub rank: usize,
    /// Length of the part of a key that does not rotate.
    pub plain: usize,
}

/// Lengths of the parts of a state space.
#[derive(Clone, Copy, Debug)]
pub struct StateSpace {
    /// Width of the convolution.
    pub kernel: usize,
    /// Channels.
    pub inner: usize,
    /// States of a channel.
    pub state: usize,
    /// Rank of the time step.
    pub rank: usize,
}

/// A model that can be run: its row, its numbers, its rotations. Weights stay where they are.
#[derive(Clone, Debug)]
pub struct Model {
    /// The architecture.
    pub row: &'static Row,
    /// Blocks of the (first) stack.
    pub layers: usize,
    /// Blocks of the decoder of an encoder-decoder.
    pub decoder_layers: usize,
    /// Length of a hidden state.
    pub width: usize,
    /// The greatest feed-forward length, for planning memory.
    pub feed_forward: usize,
    /// Number of tokens.
    pub vocabulary: usize,
    /// Tokens the model was made for.
    pub context: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Length of a head's key.
    pub key_len: usize,
    /// Length of a head's value.
    pub value_len: usize,
    /// Added to the variance.
    pub epsilon: f32,
    /// Scores are multiplied with it.
    pub score_scale: f32,
    /// Scores are squeezed into ± this.
    pub score_cap: Option<f32>,
    /// Logits are squeezed into ± this.
    pub logit_cap: Option<f32>,
    /// Logits are multiplied with it.
    pub logit_scale: f32,
    /// Embeddings are multiplied with it.
    pub embedding_scale: f32,
    /// Branches are multiplied with it.
    pub residual_scale: f32,
    /// Queries, keys and values are limited to ± this.
    pub clamp: Option<f32>,
    /// Both branches on the same input; `None` where the tensors of the layer tell.
    pub parallel: Option<bool>,
    /// Exponent of ALiBi's slopes.
    pub alibi: Option<f32>,
    /// Mixture of experts.
    pub experts: Option<Experts>,
    /// Latent attention.
    pub latent: Option<Latent>,
    /// State space.
    pub state_space: Option<StateSpace>,
    /// Size of the window, where there is one.
    pub window_len: Option<usize>,
    /// Layers that see only the window.
    pub windowed: Vec<bool>,
    rope: Option<Rope>,
    windowed_rope: Option<Rope>,
}

/// Keys of one architecture.
struct Keys<'a> {
    metadata: &'a Metadata,
    prefix: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn size(&self, name: &str) -> Result<Option<usize>> {
        let key = self.key(name);
        match self.metadata.get(&key) {
            None => Ok(None),
            Some(value) => value
                .as_u64()
                .or_else(|| same_everywhere(value))
                .filter(|&n| n <= u64::from(u32::MAX))
                .map(|n| Some(n as usize))
                .ok_or_else(|| Error::input(format!("the key {key} is {value:?}, not one size for all layers"))),
        }
    }

    fn needed(&self, name: &str) -> Result<usize> {
        self.size(name)?
            .filter(|&n| n > 0)
            .ok_or_else(|| Error::input(format!("the key {} is missing or zero", self.key(name))))
    }

    fn float(&self, name: &str) -> Result<Option<f32>> {
        let key = self.key(name);
        match self.metadata.get(&key) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(v) if v.is_finite() => Ok(Some(v as f32)),
                _ => Err(Error::input(format!("the key {key} is {value:?}, not a finite number"))),
            },
        }
    }
}

/// The value of an array whose elements are all the same.
fn same_everywhere(value: &gguf::Value) -> Option<u64> {
    let all = value.as_array()?.to_u64s()?;
    let first = *all.first()?;
    all.iter().all(|&v| v == first).then_some(first)
}

impl Model {
    /// The model that metadata and tensors describe.
    ///
    /// # Errors
    /// An architecture without a row, or numbers that are missing or do not fit each other.
    pub fn new(metadata: &Metadata, weights: &dyn Weights) -> Result<Model> {
        let name = metadata.architecture().ok_or_else(|| Error::input("the key general.architecture is missing"))?;
        let row = ROWS.iter().find(|r| r.name == name).ok_or_else(|| {
            let known: Vec<&str> = ROWS.iter().map(|r| r.name).collect();
            Error::input(format!("the architecture {name} can be converted and quantized, but not run yet"))
                .help(format!("those that can be run: {}", known.join(", ")))
        })?;
        let keys = Keys { metadata, prefix: name };
        let tensors = weights.tensors();
        let layers = keys.needed("block_count")?;
        if layers > tensors.len() {
            return Err(Error::input(format!("{layers} layers cannot be made of {} tensors", tensors.len())));
        }
        let width = keys.needed("embedding_length")?;
        let vocabulary = embedding(tensors, width)?;
        let state_space = match row.mixer {
            Mixer::StateSpace => Some(StateSpace {
                kernel: keys.needed("ssm.conv_kernel")?,
                inner: keys.needed("ssm.inner_size")?,
                state: keys.needed("ssm.state_size")?,
                rank: keys.needed("ssm.time_step_rank")?,
            }),
            _ => None,
        };
        let heads = match state_space {
            Some(_) => 1,
            None => keys.needed("attention.head_count")?,
        };
        let kv_heads = keys.size("attention.head_count_kv")?.filter(|&n| n > 0).unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(Error::input(format!("{heads} heads are no multiple of {kv_heads} key-value heads")));
        }
        let latent = match row.mixer {
            Mixer::LatentAttention => Some(latent(&keys)?),
            _ => None,
        };
        let head_len = match keys.size("attention.key_length")? {
            Some(n) if n > 0 => n,
            _ if width % heads == 0 => width / heads,
            _ => return Err(Error::input(format!("a width of {width} is no multiple of {heads} heads"))),
        };
        let (key_len, value_len) = match latent {
            Some(_) => (keys.needed("attention.key_length_mla")?, keys.needed("attention.value_length_mla")?),
            None => (head_len, keys.size("attention.value_length")?.filter(|&n| n > 0).unwrap_or(head_len)),
        };
        let epsilon = match row.norm {
            Norm::Rms => "attention.layer_norm_rms_epsilon",
            _ => "attention.layer_norm_epsilon",
        };
        let scaling = Scaling::from_metadata(metadata, name, row.whole_yarn_limits)?;
        let rotated_len = match latent {
            Some(latent) => key_len - latent.plain,
            None => keys.size("rope.dimension_count")?.unwrap_or(key_len),
        };
        let base = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
        let context = keys.size("context_length")?.unwrap_or(0);
        let windowed_base = keys.float("rope.freq_base_swa")?;
        let interleaved = match row.position {
            Position::RotaryPairs => Some(true),
            Position::RotaryHalves => Some(false),
            _ => None,
        };
        let rope = interleaved
            .filter(|_| state_space.is_none())
            .map(|pairs| Rope::new(rotated_len, key_len, pairs, base, &scaling, weights, latent.is_some()))
            .transpose()?;
        // Where windowed layers have their own base, the scaling is for the others (Gemma 3).
        let windowed_rope = interleaved
            .zip(windowed_base)
            .map(|(pairs, base)| Rope::new(rotated_len, key_len, pairs, base, &Scaling::none(), weights, false))
            .transpose()?;
        let window = keys.size("attention.sliding_window")?.filter(|&n| n > 0);
        let plain_scale = 1.0 / (key_len as f32).sqrt();
        let score_scale = match row.score_scale {
            ScoreScale::One => 1.0,
            ScoreScale::HeadUnlessLayers(n) if n == layers => 1.0 / (width as f32 / heads as f32).sqrt(),
            _ => keys.float("attention.scale")?.filter(|&s| s != 0.0).unwrap_or(plain_scale),
        } * if latent.is_some() { scaling.latent_score_factor() } else { 1.0 };
        let logit_scale = match (keys.float("logit_scale")?.filter(|&s| s != 0.0), row.logit_scale) {
            (None, _) => 1.0,
            (Some(s), LogitScale::Multiply) => s,
            (Some(s), LogitScale::Divide) => 1.0 / s,
        };
        Ok(Model {
            row,
            layers,
            decoder_layers: keys.size("decoder_block_count")?.unwrap_or(layers),
            width,
            feed_forward: keys
                .size("feed_forward_length")?
                .unwrap_or(0)
                .max(keys.size("expert_shared_feed_forward_length")?.unwrap_or(0)),
            vocabulary,
            context,
            heads,
            kv_heads,
            key_len,
            value_len,
            epsilon: keys
                .float(epsilon)?
                .filter(|&e| e >= 0.0)
                .ok_or_else(|| Error::input(format!("the key {} is missing or negative", keys.key(epsilon))))?,
            score_scale,
            score_cap: keys.float("attn_logit_softcapping")?.filter(|&c| c > 0.0),
            logit_cap: keys.float("final_logit_softcapping")?.filter(|&c| c > 0.0),
            logit_scale,
            embedding_scale: match row.embedding_scale {
                EmbeddingScale::RootOfWidth => (width as f32).sqrt(),
                EmbeddingScale::Metadata => keys.float("embedding_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0),
            },
            residual_scale: keys.float("residual_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0),
            clamp: keys.float("attention.clamp_kqv")?.filter(|&c| c > 0.0),
            parallel: match row.residual {
                Residual::Parallel => Some(true),
                Residual::ParallelByMetadata => Some(metadata.bool(&keys.key("use_parallel_residual")).unwrap_or(true)),
                Residual::ParallelWithoutNorm => None,
                Residual::Sequential | Residual::Normalized => Some(false),
            },
            alibi: match row.position {
                Position::Alibi(exponent) => {
                    Some(keys.float("attention.max_alibi_bias")?.unwrap_or(exponent)).filter(|&e| e > 0.0)
                }
                _ => None,
            },
            experts: experts(&keys, row, tensors)?,
            latent,
            state_space,
            windowed: windowed(&keys, row, layers)?,
            window_len: window,
            rope,
            windowed_rope,
        })
    }

    /// The same model with its rotations' frequencies rounded to bf16, as transformers has them after `model.to(bfloat16)`:
    /// to reproduce what was computed there. Files never mean this.
    #[must_use]
    pub fn with_rounded_frequencies(mut self) -> Model {
        for rope in [&mut self.rope, &mut self.windowed_rope].into_iter().flatten() {
            rope.round_frequencies();
        }
        self
    }

    /// How many tokens of the past a layer's token sees, with itself; `None` for all.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.window_len.filter(|_| self.windowed.get(layer).copied().unwrap_or(false))
    }

    /// Whether a layer's queries and keys rotate, and if so whether as the windowed layers do.
    fn rotation(&self, layer: usize) -> Option<bool> {
        let windowed = self.window(layer).is_some();
        let rotates = match self.row.rotated {
            Rotated::All => true,
            // Without windows at all, every layer rotates (EXAONE 4.0 1.2B).
            Rotated::Windowed => windowed || self.window_len.is_none(),
            Rotated::AllButEvery(n) => !(layer + 1).is_multiple_of(n),
        };
        rotates.then_some(windowed && self.windowed_rope.is_some())
    }

    /// The rotations of all layers for the positions of `context` tokens.
    pub fn tables(&self, context: usize) -> Tables {
        let table = |rope: &Option<Rope>| rope.as_ref().map(|r| r.table(context));
        Tables { usual: table(&self.rope), windowed: table(&self.windowed_rope) }
    }

    /// Length of all keys of a token.
    pub fn keys_len(&self) -> usize {
        self.kv_heads * self.key_len
    }

    /// Length of all values of a token.
    pub fn values_len(&self) -> usize {
        self.kv_heads * self.value_len
    }
}

/// Cosines and sines of a model's rotations.
#[derive(Clone, Debug)]
pub struct Tables {
    usual: Option<Table>,
    windowed: Option<Table>,
}

impl Tables {
    /// The table of a layer; `None` where it does not rotate.
    pub fn layer(&self, model: &Model, layer: usize) -> Option<&Table> {
        if model.rotation(layer)? { self.windowed.as_ref() } else { self.usual.as_ref() }
    }
}

/// The number of tokens that `token_embd` has rows for.
fn embedding(tensors: &[TensorInfo], width: usize) -> Result<usize> {
    let table = tensors
        .iter()
        .find(|t| t.name() == "token_embd.weight")
        .ok_or_else(|| Error::input("tensor token_embd.weight is missing"))?;
    if table.shape().row_len() != width as u64 {
        return Err(Error::input(format!(
            "tensor token_embd.weight has rows of {}, the model's width is {width}",
            table.shape().row_len()
        )));
    }
    Ok(table.rows() as usize)
}

fn latent(keys: &Keys<'_>) -> Result<Latent> {
    let rank = keys.needed("attention.kv_lora_rank")?;
    let rotated = keys.needed("rope.dimension_count")?;
    let key_len = keys.size("attention.key_length_mla")?.filter(|&n| n >= rotated).ok_or_else(|| {
        Error::input("the file keeps keys and values of latent attention in one tensor, as files of 2024 did")
            .help("convert the checkpoint again")
    })?;
    Ok(Latent { rank, plain: key_len - rotated })
}

fn experts(keys: &Keys<'_>, row: &Row, tensors: &[TensorInfo]) -> Result<Option<Experts>> {
    let Some(count) = keys.size("expert_count")?.filter(|&n| n > 0) else { return Ok(None) };
    let used = keys.needed("expert_used_count")?;
    let groups = keys.size("expert_group_count")?.filter(|&n| n > 0).unwrap_or(1);
    let groups_used = keys.size("expert_group_used_count")?.filter(|&n| n > 0).unwrap_or(groups);
    if used > count || count % groups != 0 || groups_used > groups || used > count / groups * groups_used {
        return Err(Error::input(format!(
            "{used} of {count} experts from {groups_used} of {groups} groups is not possible"
        )));
    }
    // A bias for choosing came with sigmoid scores; files without the key are from configurations without it.
    let biased = tensors.iter().any(|t| t.name().ends_with("exp_probs_b.bias"));
    let gating = match keys.size("expert_gating_func")? {
        None | Some(0) if biased => Gating::Sigmoid,
        None | Some(0) => row.gating,
        Some(1) => Gating::Softmax,
        Some(2) => Gating::Sigmoid,
        Some(3) => Gating::SoftmaxOfBest,
        Some(n) => {
            return Err(Error::input(format!("the key {} is {n}, which is unknown", keys.key("expert_gating_func"))));
        }
    };
    let said = keys.metadata.bool(&keys.key("expert_weights_norm"));
    Ok(Some(Experts {
        count,
        used,
        groups,
        groups_used,
        scale: keys.float("expert_weights_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0),
        normalize: match row.normalized {
            Normalized::Always => true,
            Normalized::ByMetadata => said.unwrap_or(false),
        },
        gating,
    }))
}

fn windowed(keys: &Keys<'_>, row: &Row, layers: usize) -> Result<Vec<bool>> {
    let every = |n: usize| (0..layers).map(|i| (i + 1) % n != 0).collect();
    let period = match row.window {
        Window::Never => return Ok(vec![false; layers]),
        Window::Always => return Ok(vec![true; layers]),
        Window::AllButEvery(n) => n,
    };
    let key = keys.key("attention.sliding_window_pattern");
    match keys.metadata.get(&key) {
        None => Ok(every(period)),
        Some(value) => {
            let listed = value.as_array().map(|a| a.iter().map(|v| v.as_bool()).collect::<Option<Vec<_>>>());
            match (value.as_u64(), listed) {
                (Some(n), _) if n > 0 => Ok(every(n as usize)),
                (_, Some(Some(list))) if list.len() >= layers => Ok(list),
                _ => Err(Error::input(format!("the key {key} says nothing for {layers} layers"))),
            }
        }
    }
}
