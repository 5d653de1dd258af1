//! The parts that blocks are composed of, one copy of each for all architectures. (A table: this file calls the kinds, and
//! their files import what every kind is given.)

pub mod altup;
pub mod attention;
pub mod compressed;
pub mod conv;
pub mod delta;
pub mod ffn;
pub mod head_mamba;
pub mod kda;
pub mod latent;
pub mod lightning;
pub mod mamba;
pub mod mamba2;
pub mod moe;
pub mod norm;
pub mod residual;
pub mod rope;
pub mod rwkv;
pub mod sight;
pub mod sparse;
mod values;

use std::cell::RefCell;
use std::collections::HashMap;

use gguf::arch::{Item, Kind, Need, Norm, PerLayer};
use gguf::{Error, Result};
use rayon::prelude::*;

use self::attention::Buckets;
use crate::device::{Device, Values};
use crate::matmul::{Given, Order, product_of};
use crate::model::{Model, Tables};
use crate::numeric::{self, PIECE, copied};
use crate::weights::{Arithmetic, Matrix, Weights};

/// The tokens of one sequence within a group.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The first token's row in the group.
    pub start: usize,
    /// How many tokens.
    pub len: usize,
    /// How many tokens of the sequence came before.
    pub past: usize,
}

/// What a layer keeps of one sequence between calls.
#[derive(Clone, Debug, Default)]
pub struct LayerState {
    /// Keys of all tokens so far.
    pub keys: Vec<f32>,
    /// Values of all tokens so far.
    pub values: Vec<f32>,
    /// Last inputs of a causal convolution.
    pub inputs: Vec<f32>,
    /// State of a recurrent mixer.
    pub state: Vec<f32>,
    /// Last input of a mix over channels.
    pub channel_inputs: Vec<f32>,
    /// Keys of an indexer, of all tokens so far.
    pub index_keys: Vec<f32>,
}

impl LayerState {
    /// What grows with the tokens.
    pub fn of_tokens_mut(&mut self) -> [&mut Vec<f32>; 3] {
        [&mut self.keys, &mut self.values, &mut self.index_keys]
    }

    /// Values that are kept, where `grown` says how many there will be of those that grow with the tokens.
    pub fn floats(&self, grown: impl Fn(usize) -> usize) -> usize {
        let of_tokens = [&self.keys, &self.values, &self.index_keys].map(|kept| grown(kept.len()));
        let others = [&self.inputs, &self.state, &self.channel_inputs].map(Vec::len);
        of_tokens.into_iter().chain(others).fold(0, usize::saturating_add)
    }

    /// The recurrent state of sequence `i`, taken out; zeros of this number where there is none yet.
    fn take(states: Option<&mut [LayerState]>, i: usize, len: usize) -> Vec<f32> {
        match states {
            Some(states) if !states[i].state.is_empty() => std::mem::take(&mut states[i].state),
            _ => vec![0.0; len],
        }
    }

    /// Puts it back, where states are kept.
    fn put(states: Option<&mut [LayerState]>, i: usize, state: Vec<f32>) {
        if let Some(states) = states {
            states[i].state = state;
        }
    }
}

/// What layers keep of a group for later layers of the same pass.
#[derive(Debug, Default)]
pub struct Kept {
    /// Keys and values, by layer.
    pub kv: RefCell<HashMap<usize, [Values; 2]>>,
    /// What the last indexer chose.
    pub chosen: RefCell<attention::Chosen>,
    /// Values of the first layer (RWKV 7).
    pub first_values: RefCell<Vec<f32>>,
}

/// Where a layer stands and what it may look at.
pub struct Site<'a> {
    /// The model.
    pub model: &'a Model,
    /// The layer's number within its stack.
    pub layer: usize,
    /// The tokens of the group.
    pub ids: &'a [u32],
    /// The sequences of the group.
    pub spans: &'a [Span],
    /// Rotations.
    pub tables: &'a Tables,
    /// Learned biases of distances.
    pub buckets: Option<&'a Buckets>,
    /// What the encoder made, of each sequence.
    pub encoded: Option<&'a [&'a [f32]]>,
    /// What layers share.
    pub kept: &'a Kept,
    /// What the tokens see of their past, where an indexer chooses.
    pub chosen: Option<&'a attention::Chosen>,
    /// Blocks that were begun before this layer, where the residual stream has such.
    pub blocks: usize,
    /// The stream as it was when the layer began, where a branch asks for it.
    pub layer_input: Option<&'a Values>,
    /// The stream as the step's branches found it.
    pub stream: Option<&'a Values>,
    /// The embeddings of the tokens, where a branch asks for them.
    pub embeddings: Option<&'a [f32]>,
    /// What this layer gets of each token beside the stream.
    pub per_layer: Option<&'a [f32]>,
}

impl Site<'_> {
    /// Tokens of the group.
    pub fn tokens(&self) -> usize {
        self.spans.iter().map(|s| s.len).sum()
    }
}

/// What a branch makes of its input `[tokens, width]`.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn branch(
    kind: &Kind,
    part: &Part<'_>,
    site: &Site<'_>,
    x: &Values,
    state: Option<&mut [LayerState]>,
) -> Result<Values> {
    match kind {
        Kind::Attention(a) => return attention::attention(a, part, site, x, state),
        Kind::Dense(f) => return ffn::feed_forward(f, part, x),
        Kind::Experts(e) => return moe::mixture(e, part, site, x),
        Kind::Linear(l) => return part.apply(l.name, x),
        _ => {}
    }
    if let Some((device, _)) = x.resident() {
        device
            .kernels()
            .say_once(&format!("note: {} is computed on the processor, its products on the device", kind.name()));
    }
    let x: &[f32] = x;
    let made = match kind {
        Kind::Cross(a) => attention::cross_attention(a, part, site, x),
        Kind::Latent(l) => {
            let low = latent::compressed_query(l, part, x)?;
            latent::latent_attention(l, part, site, x, low, state)
        }
        Kind::Compressed(c) => compressed::compressed_attention(c, part, site, x, state),
        Kind::Sparse(s) => sparse::sparse_attention(s, part, site, x, state),
        Kind::Mamba(m) => mamba::mamba(m, part, site, x, state),
        Kind::Mamba2(m) => mamba2::mamba2(m, part, site, x, state),
        Kind::DeltaNet(n) => delta::delta_net(n, part, site, x, state),
        Kind::Kda(k) => kda::kda(k, part, site, x, state),
        Kind::Lightning(l) => lightning::lightning(l, part, site, x, state),
        Kind::Rwkv6(r) => rwkv::rwkv6(r, part, site, x, state),
        Kind::Rwkv7(r) => rwkv::rwkv7(r, part, site, x, state),
        Kind::ChannelMix(c) => rwkv::channel_mix(c, part, site, x, state),
        Kind::HeadMamba(m) => head_mamba::head_mamba(m, part, site, x, state),
        Kind::ShortConv(c) => conv::short_conv(c, part, site, x, state),
        Kind::Pass(pass) => {
            let mut x = copied(x);
            if let Some(name) = pass.factor {
                let factor = part.values_of(name, 1)?[0];
                x.par_chunks_mut(PIECE).for_each(|x| numeric::scale(x, factor));
            }
            Ok(x)
        }
        Kind::PerLayer(p) => per_layer(p, part, site, x),
        Kind::Laurel(l) => {
            let low = part.linear("laurel_l", x)?;
            let mut made = part.linear("laurel_r", &low)?;
            part.norm_in_place(&l.norm, &mut made)?;
            add(&mut made, x);
            Ok(made)
        }
        other => Err(Error::input(format!("{} cannot be evaluated", other.name()))),
    };
    made.map(Values::from)
}

/// What a layer gets of each token beside the stream, gated by the stream and brought to its width.
fn per_layer(p: &PerLayer, part: &Part<'_>, site: &Site<'_>, x: &[f32]) -> Result<Vec<f32>> {
    let given = site.per_layer.ok_or_else(|| Error::input("the model has no per-layer inputs"))?;
    let mut gate = part.linear_to("inp_gate", x, site.tokens(), p.width.len())?;
    ffn::activate(p.activation, &mut gate);
    gate.iter_mut().zip(given).for_each(|(g, x)| *g *= x);
    part.linear("proj", &gate)
}

/// Sees what each matrix is multiplied with: what an importance matrix is made from.
pub trait Observe: Sync {
    /// The rows `x` (`cols` values each) are about to be multiplied with this tensor, or with this expert of it.
    fn input(&self, tensor: &str, expert: Option<usize>, x: &[f32], cols: usize);

    /// The rows `y` are what the product gave, before any scale and bias.
    fn output(&self, _tensor: &str, _y: &Values) {}
}

/// The matrices of one block (or of the model's ends), by name without the block's prefix.
pub struct Part<'a> {
    prefix: String,
    matrices: HashMap<String, Matrix<'a>>,
    observer: Option<&'a dyn Observe>,
    order: Order,
    arithmetic: Arithmetic,
    device: Option<&'a Device>,
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
        Ok(Part {
            prefix: prefix.to_owned(),
            matrices,
            observer,
            order: Order::Fixed,
            arithmetic: weights.arithmetic(),
            device: weights.device(),
        })
    }

    /// Adds up in the order that is the quickest, for sequences that grow token by token.
    pub fn quickest(mut self) -> Part<'a> {
        self.order = Order::Quickest;
        self
    }

    /// How products are taken.
    pub fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    /// The device that values may stay on between products. Those as deployed are taken on the processor.
    pub fn device(&self) -> Option<&'a Device> {
        self.device.filter(|_| self.arithmetic == Arithmetic::Exact)
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
        Ok(Part {
            prefix: prefix.to_owned(),
            matrices,
            observer: None,
            order: Order::Fixed,
            arithmetic: weights.arithmetic(),
            device: weights.device(),
        })
    }

    /// The tensors of these items, where they exist.
    ///
    /// # Errors
    /// Whatever reading can meet.
    pub fn of_items(weights: &'a dyn Weights, items: &[Item]) -> Result<Part<'a>> {
        let names: Vec<&str> = items
            .iter()
            .filter_map(|item| match item {
                Item::Slot(slot) => Some(slot.name.as_str()),
                Item::Either { .. } => None,
            })
            .collect();
        Part::pick(weights, "", &names)
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

    /// `x · wᵀ · s + b` for the tensors `name.weight` and, where they exist, `name.scale` (the factor of packed weights)
    /// and `name.bias`.
    ///
    /// # Errors
    /// A missing tensor, or sizes that do not fit.
    pub fn linear(&self, name: &str, x: &[f32]) -> Result<Vec<f32>> {
        self.linear_of(name, Given::Slice(x)).map(Values::into_vec)
    }

    /// The same for values wherever they are.
    ///
    /// # Errors
    /// As [`Part::linear`].
    pub fn apply(&self, name: &str, x: &Values) -> Result<Values> {
        self.linear_of(name, Given::Values(x))
    }

    fn linear_of(&self, name: &str, x: Given<'_>) -> Result<Values> {
        let w = self.need(&format!("{name}.weight"))?;
        let scale = self.values(&format!("{name}.scale"))?.filter(|s| s.len() == 1).map(|s| s[0]);
        self.multiply(w, 0..w.rows(), None, x, scale, self.values(&format!("{name}.bias"))?.as_deref())
    }

    /// The same as [`Part::linear`], for `tokens` rows of which each must give `rows` values.
    ///
    /// # Errors
    /// As [`Part::linear`], and another number of values.
    pub fn linear_to(&self, name: &str, x: &[f32], tokens: usize, rows: usize) -> Result<Vec<f32>> {
        let y = self.linear(name, x)?;
        self.fits(name, y.len(), tokens, rows)?;
        Ok(y)
    }

    /// The same for values wherever they are.
    ///
    /// # Errors
    /// As [`Part::linear_to`].
    pub fn apply_to(&self, name: &str, x: &Values, tokens: usize, rows: usize) -> Result<Values> {
        let y = self.apply(name, x)?;
        self.fits(name, y.len(), tokens, rows)?;
        Ok(y)
    }

    fn fits(&self, name: &str, len: usize, tokens: usize, rows: usize) -> Result<()> {
        if len == tokens * rows {
            return Ok(());
        }
        Err(Error::input(format!(
            "tensor {}{name}.weight gives {} values a token, the keys ask for {rows}",
            self.prefix,
            len.checked_div(tokens).unwrap_or(0)
        )))
    }

    /// The same for one expert of a stack of `count`.
    ///
    /// # Errors
    /// As [`Part::linear`].
    pub fn expert(&self, name: &str, expert: usize, count: usize, x: &[f32]) -> Result<Vec<f32>> {
        self.expert_of(name, expert, count, Given::Slice(x)).map(Values::into_vec)
    }

    /// The same for values wherever they are.
    ///
    /// # Errors
    /// As [`Part::linear`].
    pub fn apply_expert(&self, name: &str, expert: usize, count: usize, x: &Values) -> Result<Values> {
        self.expert_of(name, expert, count, Given::Values(x))
    }

    fn expert_of(&self, name: &str, expert: usize, count: usize, x: Given<'_>) -> Result<Values> {
        let w = self.need(&format!("{name}.weight"))?;
        if w.rows() % count != 0 {
            return Err(Error::input(format!("{} rows are no {count} experts", w.rows())).in_tensor(w.name()));
        }
        let rows = w.rows() / count;
        let bias = self.values(&format!("{name}.bias"))?;
        let bias = bias.as_deref().map(|b| b.get(expert * rows..(expert + 1) * rows).unwrap_or(b));
        let scale = self.values(&format!("{name}.scale"))?.and_then(|s| s.get(expert).copied());
        self.multiply(w, expert * rows..(expert + 1) * rows, Some(expert), x, scale, bias)
    }

    fn multiply(
        &self,
        w: &Matrix<'_>,
        rows: std::ops::Range<usize>,
        expert: Option<usize>,
        x: Given<'_>,
        scale: Option<f32>,
        bias: Option<&[f32]>,
    ) -> Result<Values> {
        let out = rows.len();
        if !x.len().is_multiple_of(w.cols().max(1)) {
            return Err(Error::input(format!(
                "tensor {} has rows of {}, which do not fit its input",
                w.name(),
                w.cols()
            )));
        }
        if let Some(bias) = bias.filter(|b| b.len() != out) {
            return Err(Error::input(format!("{} biases for {out} rows", bias.len())).in_tensor(w.name()));
        }
        if let Some(observer) = self.observer {
            observer.input(w.name(), expert, x.slice(), w.cols());
        }
        let mut y = product_of(x, w, rows, self.order)?;
        if let Some(observer) = self.observer {
            observer.output(w.name(), &y);
        }
        if let Some(scale) = scale.filter(|s| *s != 1.0) {
            y.scale(scale)?;
        }
        if let Some(bias) = bias.filter(|b| !b.is_empty()) {
            y.add_rows(bias)?;
        }
        Ok(y)
    }

    /// `x` through a norm, in a copy; a norm that may be missing and is changes nothing.
    ///
    /// # Errors
    /// A missing tensor, or weights of another length.
    pub fn norm(&self, norm: &Norm, x: &Values) -> Result<Values> {
        let mut x = x.copied()?;
        self.normalize(norm, &mut x)?;
        Ok(x)
    }

    /// Normalizes groups of the norm's length wherever the values are.
    ///
    /// # Errors
    /// A missing tensor, or weights of another length.
    pub fn normalize(&self, norm: &Norm, x: &mut Values) -> Result<()> {
        match self.weights_of_norm(norm, x.len())? {
            None => Ok(()),
            Some((weight, bias)) => x.normalize(norm.kind, norm.len.len(), weight.as_deref(), bias.as_deref()),
        }
    }

    /// The same in place.
    ///
    /// # Errors
    /// A missing tensor, or weights of another length.
    pub fn norm_in_place(&self, norm: &Norm, x: &mut [f32]) -> Result<()> {
        if let Some((weight, bias)) = self.weights_of_norm(norm, x.len())? {
            norm::normalize(norm.kind, x, norm.len.len(), weight.as_deref(), bias.as_deref());
        }
        Ok(())
    }

    /// What a norm of so many values multiplies with and adds; `None` where it is missing and may be.
    #[allow(clippy::type_complexity)]
    fn weights_of_norm(&self, norm: &Norm, values: usize) -> Result<Option<(Option<Vec<f32>>, Option<Vec<f32>>)>> {
        let len = norm.len.len();
        if norm.name.is_empty() {
            return Ok(Some((None, None)));
        }
        if norm.need == Need::Optional && !self.has(&norm.weight()) {
            return Ok(None);
        }
        let weight = self.values_of(&norm.weight(), len)?;
        let bias = self.values(&format!("{}.bias", norm.name))?;
        if bias.as_ref().is_some_and(|b| b.len() != len) || !values.is_multiple_of(len.max(1)) {
            return Err(Error::input(format!("tensor {}{}.bias does not fit its weights", self.prefix, norm.name)));
        }
        Ok(Some((Some(weight), bias)))
    }
}

/// `x += y`.
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    add_scaled(x, y, 1.0);
}

/// `x += scale · y`.
pub(crate) fn add_scaled(x: &mut [f32], y: &[f32], scale: f32) {
    x.par_chunks_mut(PIECE).zip(y.par_chunks(PIECE)).for_each(|(x, y)| numeric::add_scaled(x, y, scale));
}
