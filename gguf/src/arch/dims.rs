//! The hyperparameters of a model, read once, with the defaults that llama.cpp's loader uses where a key is absent.

use std::collections::{HashMap, HashSet};

use super::dim::Dim;
use super::step::{Activation, Rotary};

/// What a token may see of its past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WindowKind {
    /// All of it: the model has no windows.
    #[default]
    None,
    /// The last so many tokens, with itself.
    Sliding,
    /// Its own chunk of so many tokens, up to itself.
    Chunked,
    /// Half a window before and half behind (encoders).
    Symmetric,
}

/// Sizes of a state-space layer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StateSpace {
    /// Width of the causal convolution.
    pub kernel: Dim,
    /// Channels.
    pub inner: Dim,
    /// States of a channel (Mamba), of a head (Mamba 2), or the length of a key head (delta net).
    pub state: Dim,
    /// Rank of the time step (Mamba), or the number of (value) heads.
    pub rank: Dim,
    /// Groups that share B and C, or key heads of a delta net.
    pub groups: Dim,
}

/// The kind of `rope.scaling.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scaling {
    /// Positions as they are.
    None,
    /// Positions divided by the factor.
    #[default]
    Linear,
    /// YaRN: low frequencies are interpolated, high ones are not.
    Yarn,
    /// A factor a frequency, from two tensors.
    LongRope,
}

/// Everything that a file's keys say of a model. Lengths are elements; per-layer lists have 512 entries at most and an
/// accessor that gives 0 (or `false`) behind their end.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The names are those of the keys; what needs words has them.
pub struct Dims {
    pub arch: &'static str,
    /// Tensors of the file by name, in ggml order; empty where there is no file yet.
    pub shapes: HashMap<String, Vec<u64>>,
    /// What the loader tells from a model's size (a number of layers, a constant of the published models) is told from the
    /// file's keys and tensors instead: for a model of that form in a size of its own, which the loader does not take.
    pub any_size: bool,
    /// Keys that were read, with the architecture's prefix.
    pub read: HashSet<String>,

    pub vocab: Dim,
    pub token_types: Dim,
    pub context: Dim,
    pub embd: Dim,
    /// Length of what the model gives out, where it is not `embd`; 0 says nothing.
    pub embd_out: Dim,
    /// Label names of a classifier.
    pub labels: u64,
    /// Layers with those of multi-token prediction.
    pub layers_all: usize,
    /// Layers of multi-token prediction, at the end.
    pub nextn: usize,
    pub decoder_layers: usize,
    pub heads: Vec<Dim>,
    pub kv_heads: Vec<Dim>,
    pub ff: Vec<Dim>,
    pub key_len: Dim,
    pub value_len: Dim,
    pub key_len_windowed: Dim,
    pub value_len_windowed: Dim,
    /// Rotated dimensions of a head.
    pub rot: Dim,
    pub rot_windowed: Dim,

    pub experts: Dim,
    pub experts_used: Vec<Dim>,
    pub experts_shared: Dim,
    pub expert_groups: Dim,
    pub expert_groups_used: Dim,
    pub experts_per_group: Dim,
    pub expert_ff: Vec<Dim>,
    pub shared_ff: Dim,
    /// Feed-forward length of chunk experts.
    pub chunk_ff: Dim,
    pub dense_lead: usize,
    pub expert_weights_scale: f32,
    pub expert_weights_norm: bool,
    /// The scores' function by llama.cpp's number: 0 not said, 1 softmax, 2 sigmoid, 3 softmax over the chosen, 4 the
    /// root of softplus.
    pub expert_gating: u64,
    pub expert_group_scale: f32,
    /// Every so many layers have experts, where the architecture has such a key.
    pub expert_every: usize,
    /// Length of the compressed input of experts; 0: none.
    pub expert_latent: Dim,

    pub causal: bool,
    /// llama.cpp's number: 0 none, 1 mean, 2 first, 3 last, 4 rank; -1 not said.
    pub pooling: i64,
    /// The same for a classifier.
    pub classifier_pooling: i64,
    pub norm_eps: f32,
    pub rms_eps: f32,
    pub group_eps: f32,
    pub norm_groups: Dim,

    pub window_kind: WindowKind,
    pub window: Dim,
    pub windowed: Vec<bool>,
    /// Layers that are recurrent instead of attending.
    pub recurrent: Vec<bool>,
    /// Layers that keep keys and values of their own; those behind use the last ones'. `None`: all.
    pub own_kv_layers: Option<usize>,

    pub rope_finetuned: bool,
    pub rope_base: f32,
    pub rope_base_windowed: f32,
    /// What positions are multiplied with.
    pub rope_scale: f32,
    pub rope_scale_windowed: f32,
    pub rope_scaling: Scaling,
    /// The same of windowed layers.
    pub rope_scaling_windowed: Scaling,
    /// Layers that rotate.
    pub rotates: Vec<bool>,
    pub rope_sections: [i64; 4],
    pub rope_attn_factor: f32,
    pub original_context: Dim,
    pub yarn_ext_factor: f32,
    pub yarn_attn_factor: f32,
    pub yarn_beta_fast: f32,
    pub yarn_beta_slow: f32,
    pub yarn_log_mul: f32,

    pub q_rank: Dim,
    pub kv_rank: Dim,
    /// Lengths of latent attention; 0: keys and values are not compressed.
    pub key_len_mla: Dim,
    pub value_len_mla: Dim,

    pub ssm: StateSpace,
    /// Norms without weights of a Mamba layer's dt, B and C.
    pub ssm_norms: bool,
    /// Width of a short convolution.
    pub shortconv: Dim,
    pub wkv_head: Dim,
    pub token_shift: Dim,

    pub clamp_qkv: f32,
    pub alibi_bias: f32,
    pub use_alibi: bool,
    pub attn_softcap: f32,
    pub final_softcap: f32,
    pub logit_scale: f32,
    pub residual_scale: f32,
    pub embedding_scale: f32,
    /// What scores are multiplied with; 0: one over the root of a head's length.
    pub attention_scale: f32,
    pub parallel_residual: bool,
    pub relative_buckets: Dim,
    /// Width of per-layer embeddings; 0: none.
    pub per_layer_embd: Dim,

    /// Numbers of keys that one architecture has for itself, by the key without prefix.
    pub own: HashMap<&'static str, Own>,
}

/// The value of a key that only one family has.
#[derive(Clone, Debug, PartialEq)]
pub enum Own {
    /// A count, or a boolean as 0 or 1.
    Count(u64),
    /// A number.
    Float(f32),
    /// A number a layer.
    Counts(Vec<u64>),
    /// A float a layer.
    Floats(Vec<f32>),
    /// A name.
    Name(String),
}

impl Dims {
    /// Layers that the main model runs.
    pub fn layers(&self) -> usize {
        self.layers_all.saturating_sub(self.nextn)
    }

    /// Query heads of a layer.
    pub fn heads(&self, layer: usize) -> Dim {
        at(&self.heads, layer)
    }

    /// Key-value heads of a layer.
    pub fn kv_heads(&self, layer: usize) -> Dim {
        at(&self.kv_heads, layer)
    }

    /// Feed-forward length of a layer.
    pub fn ff(&self, layer: usize) -> Dim {
        at(&self.ff, layer)
    }

    /// Feed-forward length of a layer's experts.
    pub fn expert_ff(&self, layer: usize) -> Dim {
        at(&self.expert_ff, layer)
    }

    /// Experts that a token uses in a layer.
    pub fn experts_used(&self, layer: usize) -> Dim {
        at(&self.experts_used, layer)
    }

    /// Whether a layer sees a window only.
    pub fn windowed(&self, layer: usize) -> bool {
        self.windowed.get(layer).copied().unwrap_or(false)
    }

    /// Whether a layer is recurrent.
    pub fn recurrent(&self, layer: usize) -> bool {
        self.recurrent.get(layer).copied().unwrap_or(false)
    }

    /// Whether a layer has keys and values of its own.
    pub fn has_kv(&self, layer: usize) -> bool {
        self.own_kv_layers.is_none_or(|n| layer < n)
    }

    /// Length of a head's key in a layer.
    pub fn key_len(&self, layer: usize) -> Dim {
        if self.windowed(layer) { self.key_len_windowed } else { self.key_len }
    }

    /// Length of a head's value in a layer.
    pub fn value_len(&self, layer: usize) -> Dim {
        if self.windowed(layer) { self.value_len_windowed } else { self.value_len }
    }

    /// Rotated dimensions of a head in a layer.
    pub fn rot(&self, layer: usize) -> Dim {
        if self.windowed(layer) { self.rot_windowed } else { self.rot }
    }

    /// Length of all keys of a token in a layer.
    pub fn keys(&self, layer: usize) -> Dim {
        self.key_len(layer) * self.kv_heads(layer)
    }

    /// Length of all values of a token in a layer.
    pub fn values(&self, layer: usize) -> Dim {
        self.value_len(layer) * self.kv_heads(layer)
    }

    /// Length of all queries of a token in a layer.
    pub fn queries(&self, layer: usize) -> Dim {
        self.key_len(layer) * self.heads(layer)
    }

    /// Whether keys and values are compressed to a latent vector.
    pub fn is_mla(&self) -> bool {
        self.key_len_mla > 0 && self.value_len_mla > 0
    }

    /// Classes that a classifier tells apart.
    pub fn classes(&self) -> Dim {
        Dim(self.labels.max(1))
    }

    /// The file's tensor of this name, if there is one: its dimensions in ggml order.
    pub fn shape(&self, name: &str) -> Option<&[u64]> {
        self.shapes.get(name).map(Vec::as_slice)
    }

    /// Whether the file has this tensor.
    pub fn present(&self, name: &str) -> bool {
        self.shapes.contains_key(name)
    }

    /// Whether the file has this tensor of a layer (`blk.`).
    pub fn has(&self, layer: usize, name: &str) -> bool {
        self.present(&format!("blk.{layer}.{name}"))
    }

    /// A dimension of a tensor: 1 behind its last, 0 where there is no such tensor.
    pub fn dim_of(&self, name: &str, dimension: usize) -> Dim {
        Dim(self.shape(name).map_or(0, |s| s.get(dimension).copied().unwrap_or(1)))
    }

    /// The length that most of these tensors' dimensions have, the first of those that are as frequent; 0 where there is
    /// no such tensor. For lengths that no key tells.
    pub fn usual_dim(&self, places: &[(&str, usize)]) -> Dim {
        let found: Vec<Dim> =
            places.iter().map(|(name, axis)| self.dim_of(name, *axis)).filter(|d| !d.is_empty()).collect();
        let often = |length: &Dim| found.iter().filter(|other| *other == length).count();
        found.iter().rev().max_by_key(|length| often(length)).copied().unwrap_or(Dim(0))
    }

    /// A count of a key that this family has for itself; 0 where it was not read.
    pub fn count(&self, key: &str) -> Dim {
        match self.own.get(key) {
            Some(Own::Count(n)) => Dim(*n),
            Some(Own::Counts(all)) => Dim(all.first().copied().unwrap_or(0)),
            _ => Dim(0),
        }
    }

    /// The list of such a key; empty where it was not read.
    pub fn counts(&self, key: &str) -> &[u64] {
        match self.own.get(key) {
            Some(Own::Counts(all)) => all,
            _ => &[],
        }
    }

    /// A count a layer of such a key; 0 where it was not read.
    pub fn count_at(&self, key: &str, layer: usize) -> Dim {
        match self.own.get(key) {
            Some(Own::Count(n)) => Dim(*n),
            Some(Own::Counts(all)) => Dim(all.get(layer).copied().unwrap_or(0)),
            _ => Dim(0),
        }
    }

    /// A name of such a key.
    pub fn name(&self, key: &str) -> Option<&str> {
        match self.own.get(key)? {
            Own::Name(name) => Some(name),
            _ => None,
        }
    }

    /// A float of such a key.
    pub fn float(&self, key: &str) -> Option<f32> {
        match self.own.get(key)? {
            Own::Float(v) => Some(*v),
            Own::Floats(all) => all.first().copied(),
            _ => None,
        }
    }

    /// A float a layer of such a key.
    pub fn float_at(&self, key: &str, layer: usize) -> Option<f32> {
        match self.own.get(key)? {
            Own::Float(v) => Some(*v),
            Own::Floats(all) => all.get(layer).copied(),
            _ => None,
        }
    }

    /// Whether a layer has an indexer of its own.
    pub fn indexes(&self, layer: usize) -> bool {
        self.count_at(super::sparse::TYPES, layer) > 0
    }

    /// The function of a feed in a layer where this key limits SwiGLU: what makes it of a limit, or SiLU without.
    pub fn limited(&self, key: &str, layer: usize, kind: fn(f32) -> Activation) -> Activation {
        self.float_at(key, layer).filter(|limit| *limit > 1e-6).map_or(Activation::Silu, kind)
    }

    /// All but every n-th layer is windowed, counted from 1; with `dense_first` the first of each n is not. An n of 0
    /// windows all. How the loader reads a pattern that is one number.
    pub fn set_window_pattern(&mut self, n: u64, dense_first: bool) {
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        self.windowed = (0..self.layers())
            .map(|i| match (n, dense_first) {
                (0, _) => true,
                (n, true) => i % n != 0,
                (n, false) => i % n < n - 1,
            })
            .collect();
    }

    /// How a layer's heads rotate, for an architecture that rotates this way.
    pub fn rotary(&self, rotary: Rotary, layer: usize) -> Rotary {
        if self.rotates.get(layer).copied().unwrap_or(true) { rotary } else { Rotary::None }
    }
}

/// An entry of a per-layer list; 0 behind its end.
fn at(list: &[Dim], layer: usize) -> Dim {
    list.get(layer).copied().unwrap_or_default()
}
