//! The published architectures: one row each, from which everything else is derived.
//!
//! A row says which keys an architecture has (with the defaults of llama.cpp's loader where one is absent), which tensors
//! its layers are made of, and what a layer does with them: steps of branches that join the residual stream, each branch
//! of a [`Kind`] that carries its slots and the numbers of its arithmetic. `gguf check` and `convert` demand the slots,
//! `quantize` takes what a tensor is for, `evaluate` runs the steps. What cannot be said with the kinds there are is a new
//! kind with its slots, not an exception somewhere downstream.
//!
//! Rows are functions of the hyperparameters, since a hybrid's layers differ by number; tables of the same family share
//! them. Facts are those of llama.cpp as vendored in `llama-cpp-python` 0.3.36.

mod altup;
mod attend;
mod classifier;
mod compressed;
mod dim;
mod dims;
mod ends;
mod flow;
mod head_mamba;
mod kda;
mod keys;
mod lightning;
mod per_layer;
mod plan;
mod residual;
mod role;
mod rows;
mod rwkv;
mod sample;
mod simple;
mod slot;
mod sparse;
mod step;
mod temperature;

use std::collections::HashMap;

pub use altup::{AltUp, AltUpEnds, Laurel};
pub use classifier::{Classifier, HeadFunction};
pub use compressed::Compressed;
pub use dim::Dim;
pub use dims::{Dims, Own, Scaling, StateSpace, WindowKind};
pub use ends::{Ends, output};
pub use flow::Flow;
pub use head_mamba::HeadMamba;
pub use kda::{Decay, Kda, KdaInputs};
pub use keys::{Keys, MAX_LAYERS};
pub use lightning::Lightning;
pub use per_layer::{PerLayer, PerLayerInputs};
pub use plan::{ModelPlan, StackPlan};
pub use residual::{Blocks, Residual, StreamWeights, Streams};
pub use role::{Module, Role, quantizes};
pub use rwkv::{ChannelMix, Rwkv6, Rwkv7};
pub use sample::{sample, sample_with};
pub use simple::{Linear, Pass};
pub use slot::{Bias, Item, Need, Slot, bias, either, factor, linear, optional, resolve};
pub use sparse::{IndexForm, Indexer, Over, Pool, Sparse};
pub use step::*;
pub use temperature::Temperature;

use crate::value::Value;

/// One architecture.
#[derive(Clone, Copy)]
pub struct Arch {
    /// `general.architecture`.
    pub name: &'static str,
    /// Reads the architecture's own keys, after those that all have.
    pub keys: fn(&mut Keys<'_>),
    /// Reads keys that come before heads and lengths (one architecture).
    pub early: fn(&mut Keys<'_>),
    /// The tensors before and behind the layers, and what happens there.
    pub ends: fn(&Dims) -> Ends,
    /// The stacks of layers.
    pub stacks: &'static [Stack],
    /// The order in which they run.
    pub flow: fn(&Dims) -> Flow,
    /// Whether every layer is recurrent unless keys say otherwise.
    pub recurrent: bool,
    /// Whether heads rotate as a whole: another `rope.dimension_count` is refused.
    pub rotates_whole_heads: bool,
    /// Whether one expert means none.
    pub one_expert_is_none: bool,
    /// Whether YaRN's limits between dimensions are taken as they are, not rounded to whole dimensions (gpt-oss).
    pub fractional_yarn: bool,
    /// Layers of multi-token prediction, where the architecture has such.
    pub mtp: Mtp,
    /// Rules between keys and tensors beyond types and shapes: names the rule that does not hold.
    pub demand: fn(&Dims) -> Option<String>,
    /// Where llama.cpp computes something else from the file than the model's own code does.
    pub departs: fn(&Dims) -> Option<&'static str>,
    /// What the choice of types asks of the architecture.
    pub types: Types,
    /// Whether every kind of layer has a kernel, so that `evaluate` runs the architecture by itself.
    pub computed: bool,
    /// What is special, in one line.
    pub remark: &'static str,
}

/// What is peculiar to an architecture when types are chosen for its tensors (llama.cpp's `llama-quant.cpp`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Types {
    /// The number of layers of its 70B size, whose few value heads deserve more bits; 0: there is none.
    pub seventy_b: usize,
    /// Whether a model of that depth with a key-value head for each query head is another one (Llama's 65B).
    pub shared_heads_only: bool,
    /// Parts of names of tensors that are kept besides those that all models keep.
    pub kept: &'static [&'static str],
    /// Parts of names that get Q8_0 at least.
    pub at_least_q8_0: &'static [&'static str],
    /// Whether three-dimensional tensors are stacks of experts only where their role says so.
    pub stacks_by_role: bool,
}

/// How a file may leave out what multi-token prediction is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mtp {
    /// A file may hold the layers of prediction alone: the trunk's tensors are then not demanded.
    pub without_trunk: bool,
    /// A file may name such layers and hold none of their tensors.
    pub without_layers: bool,
}

/// A stack of layers.
#[derive(Clone, Copy)]
pub struct Stack {
    /// What its tensors' names begin with: `blk.`.
    pub prefix: &'static str,
    /// How many layers it has.
    pub count: fn(&Dims) -> usize,
    /// A layer.
    pub layer: fn(&Dims, usize) -> Layer,
    /// The norm behind the stack where it is not that of the model's ends (encoder-decoders).
    pub norm: fn(&Dims) -> Option<Norm>,
}

/// The one stack of most models: all layers, those of multi-token prediction included.
pub(crate) const fn blocks(layer: fn(&Dims, usize) -> Layer) -> Stack {
    Stack { prefix: "blk.", count: |d| d.layers_all, layer, norm: |_| None }
}

/// The one stack of models without multi-token prediction: layers that a file says are of it do not belong to the model.
pub(crate) const fn trunk(layer: fn(&Dims, usize) -> Layer) -> Stack {
    Stack { prefix: "blk.", count: Dims::layers, layer, norm: |_| None }
}

/// A row from which others are made by functional update.
pub(crate) const BASE: Arch = Arch {
    name: "",
    keys: |k| k.rms(),
    early: |_| {},
    ends: Ends::tied,
    stacks: &[],
    flow: |_| Flow::Once,
    recurrent: false,
    rotates_whole_heads: false,
    one_expert_is_none: false,
    fractional_yarn: false,
    mtp: Mtp { without_trunk: false, without_layers: false },
    demand: |_| None,
    departs: |_| None,
    types: Types { seventy_b: 0, shared_heads_only: false, kept: &[], at_least_q8_0: &[], stacks_by_role: false },
    computed: true,
    remark: "",
};

impl std::fmt::Debug for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arch").field("name", &self.name).finish()
    }
}

/// What is wrong with a model's keys or tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kind.
    pub kind: FaultKind,
    /// The key or tensor.
    pub subject: String,
    /// What is wrong with it, naming it.
    pub message: String,
}

/// Kinds of [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// A key that must be there is not.
    KeyMissing,
    /// A key is of another type than the loader reads.
    KeyType,
    /// A per-layer array is not as long as there are layers.
    ArrayLength,
    /// A number is impossible, or does not fit another.
    Range,
    /// A rotation that the architecture does not have.
    Rotation,
    /// A kind of rope scaling that does not exist.
    Scaling,
    /// A tensor that must be there is not.
    TensorMissing,
    /// A tensor that the architecture does not have.
    TensorUnexpected,
    /// A tensor of another shape than the keys ask for.
    TensorShape,
}

/// All rows, family by family.
pub fn all() -> impl Iterator<Item = &'static Arch> {
    rows::FAMILIES.iter().copied().flatten()
}

/// The row of an architecture.
pub fn find(name: &str) -> Option<&'static Arch> {
    all().find(|a| a.name == name)
}

impl Arch {
    /// The hyperparameters that a file's keys say, and what is wrong with them. `shapes` are the file's tensors by name,
    /// in ggml order; empty where there are none yet.
    pub fn dims<'a>(
        &'static self,
        get: &'a dyn Fn(&str) -> Option<&'a Value>,
        shapes: HashMap<String, Vec<u64>>,
    ) -> (Dims, Vec<Fault>) {
        self.read(Keys::new(self, get, shapes, false))
    }

    /// The same for a model of this form in whatever size: see [`Dims::any_size`].
    pub fn dims_of_any_size<'a>(
        &'static self,
        get: &'a dyn Fn(&str) -> Option<&'a Value>,
        shapes: HashMap<String, Vec<u64>>,
    ) -> (Dims, Vec<Fault>) {
        self.read(Keys::new(self, get, shapes, true))
    }

    fn read(&'static self, mut keys: Keys<'_>) -> (Dims, Vec<Fault>) {
        keys.common(self);
        (self.keys)(&mut keys);
        let Keys { mut d, faults, .. } = keys;
        if d.decoder_layers == 0 {
            d.decoder_layers = d.layers();
        }
        (d, faults)
    }

    /// What the model is made of.
    pub fn plan(&'static self, d: &Dims) -> ModelPlan {
        ModelPlan::new(self, d)
    }
}
