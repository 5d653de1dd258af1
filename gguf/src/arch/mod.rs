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
mod dim;
mod dims;
mod ends;
mod head_mamba;
mod keys;
mod per_layer;
mod plan;
mod rows;
mod simple;
mod slot;
mod step;

use std::collections::HashMap;

pub use altup::{AltUp, AltUpEnds, Laurel};
pub use attend::Temperature;
pub use classifier::{Classifier, HeadFunction};
pub use dim::Dim;
pub use dims::{Dims, Own, Scaling, StateSpace, WindowKind};
pub use ends::{Ends, output};
pub use head_mamba::HeadMamba;
pub use keys::{Keys, MAX_LAYERS};
pub use per_layer::{PerLayer, PerLayerInputs};
pub use plan::{Plan, StackPlan};
pub use simple::{Linear, Pass};
pub use slot::{Bias, Item, Need, Slot, bias, either, factor, linear, optional, resolve};
pub use step::*;

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
    /// Whether every layer is recurrent unless keys say otherwise.
    pub recurrent: bool,
    /// Whether heads rotate as a whole: another `rope.dimension_count` is refused.
    pub rotates_whole_heads: bool,
    /// Whether one expert means none.
    pub one_expert_is_none: bool,
    /// Layers of multi-token prediction, where the architecture has such.
    pub mtp: Mtp,
    /// Rules between keys and tensors beyond types and shapes: names the rule that does not hold.
    pub demand: fn(&Dims) -> Option<String>,
    /// What is special, in one line.
    pub remark: &'static str,
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
}

/// The one stack of most models: all layers, those of multi-token prediction included.
pub(crate) const fn blocks(layer: fn(&Dims, usize) -> Layer) -> Stack {
    Stack { prefix: "blk.", count: |d| d.layers_all, layer }
}

/// The one stack of a model without layers of multi-token prediction.
pub(crate) const fn trunk(layer: fn(&Dims, usize) -> Layer) -> Stack {
    Stack { prefix: "blk.", count: Dims::layers, layer }
}

/// A row from which others are made by functional update.
pub(crate) const BASE: Arch = Arch {
    name: "",
    keys: |k| k.rms(),
    early: |_| {},
    ends: Ends::tied,
    stacks: &[],
    recurrent: false,
    rotates_whole_heads: false,
    one_expert_is_none: false,
    mtp: Mtp { without_trunk: false, without_layers: false },
    demand: |_| None,
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
        let mut keys = Keys::new(self, get, shapes);
        keys.common(self);
        (self.keys)(&mut keys);
        let Keys { mut d, faults, .. } = keys;
        if d.decoder_layers == 0 {
            d.decoder_layers = d.layers();
        }
        (d, faults)
    }

    /// What the model is made of.
    pub fn plan(&'static self, d: &Dims) -> Plan {
        Plan::new(self, d)
    }
}
