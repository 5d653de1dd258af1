//! A model that can be run: the plan that `gguf::arch` makes of its keys, checked against its tensors, and its rotations.
//!
//! Nothing here knows an architecture by name. What a layer does is its list of steps; a kind of branch without a kernel is
//! refused by its name, before anything is computed.

use std::collections::HashMap;
use std::ops::Range;

use gguf::arch::{
    self, Arch, Attention, Compressed, Dim, Dims, Ends, Flow, Gating, HeadFunction, Indexer, Kind, Latent, Layer,
    ModelPlan, Over, Pool, Residual, Rotary, Sparse, StackPlan, WindowKind,
};
use gguf::{Error, Metadata, Result, Value};

use crate::layers::rope::{Rope, Scaling, Table};
use crate::weights::Weights;

/// Which stacks of layers a model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A decoder: causal, with logits.
    Decoder,
    /// An encoder: hidden states only.
    Encoder,
    /// An encoder whose output a decoder attends to.
    EncoderDecoder,
}

/// What comes next on the way through a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// This layer.
    Layer(usize),
    /// The last norm, between two passes.
    Norm,
    /// A stack of a cycle begins with the sum of both states.
    Begin,
    /// It ends with a norm, and gives one of the states.
    End(Side),
}

/// A state of layers that run in cycles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The high one.
    High = 0,
    /// The low one.
    Low = 1,
}

/// A model that can be run. Weights stay where they are.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its hyperparameters.
    pub dims: Dims,
    /// What its layers do.
    pub plan: ModelPlan,
    /// Its stacks.
    pub shape: Shape,
    /// Length of a hidden state.
    pub width: usize,
    /// Number of tokens.
    pub vocabulary: usize,
    /// Tokens the model was made for.
    pub context: usize,
    /// For each layer that takes keys and values of another: that one.
    pub kv_from: HashMap<usize, usize>,
    ropes: Vec<(RopeKey, Rope)>,
}

/// What distinguishes the rotations of a model's layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RopeKey {
    rotary: Rotary,
    len: usize,
    windowed: bool,
    latent: bool,
    factors: bool,
    plain: bool,
    /// Where keys are compressed in time, the base is another.
    compressed: bool,
}

impl RopeKey {
    /// The rotation of attention over heads, if it rotates.
    pub fn of(attention: &Attention) -> Option<RopeKey> {
        let rotates = attention.rotary != Rotary::None && attention.rot > 0;
        rotates.then(|| RopeKey {
            rotary: attention.rotary,
            len: attention.rot.len(),
            windowed: attention.windowed_rope,
            latent: false,
            factors: attention.rope_factors,
            plain: attention.plain_rope,
            compressed: false,
        })
    }

    /// The rotation of latent attention, if it rotates.
    pub fn of_latent(latent: &Latent) -> Option<RopeKey> {
        let rotates = latent.rotary != Rotary::None && latent.rot > 0;
        rotates.then(|| RopeKey {
            rotary: latent.rotary,
            len: latent.rot.len(),
            windowed: latent.windowed_rope,
            latent: true,
            factors: true,
            plain: false,
            compressed: false,
        })
    }

    /// The rotation of an indexer, if it has one: that of its attention, by pairs or halves of its own.
    pub fn of_indexer(s: &Sparse) -> Option<RopeKey> {
        let rotary = s.indexer.as_ref()?.rotary;
        match &s.over {
            Over::Latent(l) => RopeKey::of_latent(&Latent { rotary, ..(**l).clone() }),
            Over::Heads(a) => RopeKey::of(&Attention { rotary, ..(**a).clone() }),
        }
    }

    /// The rotation of compressed attention, if it rotates: scaled where keys are compressed, plain where they are not.
    pub fn of_compressed(c: &Compressed) -> Option<RopeKey> {
        let compressed = c.ratio > 0;
        (c.rot > 0).then(|| RopeKey {
            rotary: Rotary::Pairs,
            len: c.rot.len(),
            windowed: false,
            latent: true,
            factors: false,
            plain: !compressed,
            compressed,
        })
    }
}

/// Keys of an architecture that change no arithmetic of a text, beyond those that are read.
const NO_ARITHMETIC: &[&str] = &[
    // Written by some converters beside the number that is used.
    "tensor_data_layout",
    "attention.recurrent_layers",
];

impl Model {
    /// The model that metadata and tensors describe.
    ///
    /// # Errors
    /// An architecture without a row or with a layer that has no kernel yet, keys that are missing, wrong or that nobody
    /// reads, and tensors that are missing, unexpected or of another shape than the keys ask for.
    pub fn new(metadata: &Metadata, weights: &dyn Weights) -> Result<Model> {
        let name = metadata.architecture().ok_or_else(|| Error::input("the key general.architecture is missing"))?;
        let arch = arch::find(name).ok_or_else(|| {
            Error::input(format!("the architecture {name} is not known"))
                .help("`convert --list` says which can be evaluated")
        })?;
        let shapes = weights.tensors().iter().map(|t| (t.name().to_owned(), t.shape().dims().to_vec())).collect();
        let beyond = |key: &str| weights.beyond().iter().find(|(k, _)| k == key).map(|(_, value)| value);
        let get = |key: &str| beyond(key).or_else(|| metadata.get(key));
        let (dims, faults) = arch.dims_of_any_size(&get, shapes);
        refuse(&faults)?;
        unread(metadata, arch, &dims)?;
        let mut plan = arch.plan(&dims);
        refuse(&plan.faults(&dims))?;
        plan_beyond(&mut plan, &|key| beyond(&format!("{name}.{key}")));
        Model::of(dims, plan, weights)
    }

    fn of(dims: Dims, plan: ModelPlan, weights: &dyn Weights) -> Result<Model> {
        for (stack, l, layer) in layers(&plan, &dims) {
            let mut parts = layer.steps.iter().flat_map(|s| &s.branches).map(|b| unsupported(&b.kind));
            if let Some(missing) = parts.find_map(|missing| missing) {
                return Err(Error::input(format!(
                    "layer {}{l} has {missing}, which cannot be evaluated yet",
                    stack.prefix
                ))
                .help("the model can be converted and quantized"));
            }
        }
        for (stack, l, layer) in layers(&plan, &dims) {
            let streams = layer.steps.iter().map(|s| match &s.residual {
                Residual::Streams(streams) => streams.count > 0,
                _ => true,
            });
            let kinds = layer.steps.iter().flat_map(|s| &s.branches).map(|b| divides(&b.kind));
            if !streams.chain(kinds).all(|fits| fits) {
                let at = format!("layer {}{l} has heads, groups or experts of no length, or that", stack.prefix);
                return Err(Error::input(format!("{at} do not divide into each other"))
                    .help("`gguf check FILE` says which keys of the file contradict each other"));
            }
        }
        let shape = match plan.stacks.as_slice() {
            [_, _] => Shape::EncoderDecoder,
            _ if plan.ends.logits => Shape::Decoder,
            _ => Shape::Encoder,
        };
        let ropes = ropes(&plan, &dims, weights)?;
        let kv_from = shared_kv(&plan, &dims);
        Ok(Model {
            shape,
            width: dims.embd.len(),
            vocabulary: dims.dim_of("token_embd.weight", 1).len(),
            context: dims.context.len(),
            kv_from,
            ropes,
            plan,
            dims,
        })
    }

    /// The same model with its rotations' frequencies rounded to bf16, as transformers has them after
    /// `model.to(bfloat16)`: to reproduce what was computed there. Files never mean this.
    #[must_use]
    pub fn with_rounded_frequencies(mut self) -> Model {
        self.ropes.iter_mut().for_each(|(_, rope)| rope.round_frequencies());
        self
    }

    /// The architecture's name.
    pub fn name(&self) -> &'static str {
        self.dims.arch
    }

    /// Before and behind the layers.
    pub fn ends(&self) -> &Ends {
        &self.plan.ends
    }

    /// The rotations of all layers for the positions of `context` tokens.
    pub fn tables(&self, context: usize) -> Tables {
        Tables(self.ropes.iter().map(|(key, rope)| (*key, rope.table(context))).collect())
    }

    /// Bytes of [`Model::tables`].
    pub fn table_bytes(&self, context: usize) -> u64 {
        self.ropes.iter().map(|(_, rope)| rope.table_bytes(context)).fold(0, u64::saturating_add)
    }

    /// The layers of a stack that are run; those of multi-token prediction are not.
    pub fn layers<'a>(&self, stack: &'a StackPlan) -> &'a [Layer] {
        &stack.layers[..run(stack, &self.dims)]
    }

    /// The order in which a stack's layers run, and what happens between them.
    pub fn turns(&self, stack: &StackPlan) -> Vec<Turn> {
        let layers = self.layers(stack).len();
        let all = |layers: Range<usize>| layers.map(Turn::Layer);
        if let Flow::Cycles { layers, high, low, .. } = self.plan.flow {
            let cycle = || {
                let lows = (0..low)
                    .flat_map(move |_| [Turn::Begin].into_iter().chain(all(0..layers)).chain([Turn::End(Side::Low)]));
                lows.chain([Turn::Begin]).chain(all(layers..2 * layers)).chain([Turn::End(Side::High)])
            };
            return (0..high).flat_map(|_| cycle()).collect();
        }
        let mut turns = Vec::new();
        for pass in 0..self.ends().loops.max(1) {
            if pass > 0 && self.ends().loop_norm {
                turns.push(Turn::Norm);
            }
            turns.extend(all(0..layers));
        }
        turns
    }

    /// Residual streams that a token has at once, with what blocks keep.
    pub fn streams(&self) -> usize {
        let steps = self.plan.stacks.iter().flat_map(|s| self.layers(s)).flat_map(|l| &l.steps);
        let blocks = steps.clone().filter(|s| matches!(&s.residual, Residual::Blocks(b) if b.begins)).count();
        let counts = steps.map(|s| match &s.residual {
            Residual::Streams(streams) => streams.count.len(),
            _ => 1 + blocks,
        });
        counts.chain(self.ends().altup.map(|a| a.streams.len())).max().unwrap_or(1)
    }

    /// The most values that attention and feed hold for a token at once, for planning memory: attention's, feed's.
    pub fn widest(&self) -> (usize, usize) {
        let mut widest = (0, 0);
        for (_, _, layer) in layers(&self.plan, &self.dims) {
            for branch in layer.steps.iter().flat_map(|s| &s.branches) {
                let heads = |a: &Attention| a.rows.iter().map(|r| r.len()).sum::<usize>();
                let latent = |l: &Latent| (l.heads * (l.kv_rank * 2 + l.rot + l.key_len + l.value_len)).len();
                let (attention, feed) = match &branch.kind {
                    Kind::Attention(a) | Kind::Cross(a) => (heads(a), 0),
                    Kind::Latent(l) => (latent(l), 0),
                    Kind::Sparse(s) => {
                        let over = match &s.over {
                            Over::Heads(a) => heads(a),
                            Over::Latent(l) => latent(l),
                        };
                        let index = s.indexer.as_ref().map_or(0, |n| (n.len * (n.heads + Dim(2)) + n.best).len());
                        (over + index, 0)
                    }
                    Kind::Compressed(c) => {
                        let index = c.indexer.heads * c.indexer.len;
                        ((c.heads * c.head * 2 + c.head * 5 + index * 2 + c.indexer.best).len(), 0)
                    }
                    Kind::Mamba(m) => ((m.sizes.inner * 4).len(), 0),
                    Kind::Mamba2(m) => ((m.sizes.inner * 3 + m.sizes.groups * m.sizes.state * 4).len(), 0),
                    Kind::DeltaNet(n) => ((n.sizes.state * (n.sizes.groups * 2 + n.sizes.rank * 2) * 2).len(), 0),
                    Kind::Kda(k) => ((k.heads * k.head * 9).len(), 0),
                    Kind::Lightning(l) => ((l.heads * l.head * 5).len(), 0),
                    Kind::Rwkv6(r) => ((r.input * 8).len(), 0),
                    Kind::Rwkv7(r) => ((r.input * 10).len(), 0),
                    Kind::ChannelMix(c) => (0, c.len.len()),
                    Kind::HeadMamba(m) => ((m.sizes.inner * 4).len(), 0),
                    Kind::ShortConv(c) => ((c.input * 4).len(), 0),
                    Kind::Dense(f) => (0, f.len.len()),
                    Kind::Experts(e) => {
                        let shared = e.shared.as_ref().map_or(0, |s| s.len.len());
                        (0, (e.len * e.used).len().max(shared))
                    }
                    _ => (0, 0),
                };
                widest = (widest.0.max(attention), widest.1.max(feed));
            }
        }
        widest
    }
}

/// Layers of a stack that are run.
fn run(stack: &StackPlan, dims: &Dims) -> usize {
    if stack.prefix == "blk." { dims.layers().min(stack.layers.len()) } else { stack.layers.len() }
}

/// All layers that are run, with their stack and number.
fn layers<'a>(plan: &'a ModelPlan, dims: &'a Dims) -> impl Iterator<Item = (&'a StackPlan, usize, &'a Layer)> {
    plan.stacks.iter().flat_map(move |stack| {
        stack.layers[..run(stack, dims)].iter().enumerate().map(move |(l, layer)| (stack, l, layer))
    })
}

/// What a checkpoint's configuration says of its layers and the keys of its architecture cannot: windows, weights of
/// experts that are taken as they are, rotations of halves in place of pairs, where positions begin, what logits are
/// multiplied with, what stands before a classifier.
fn plan_beyond<'a>(plan: &mut ModelPlan, get: &dyn Fn(&str) -> Option<&'a Value>) {
    let window = get("attention.sliding_window").and_then(Value::as_u64);
    let pattern = get("attention.sliding_window_pattern").and_then(Value::as_array);
    let windowed: Option<Vec<bool>> = pattern.map(|p| p.iter().map(|v| v.as_bool().unwrap_or(true)).collect());
    let normalize = get("expert_weights_norm").and_then(Value::as_bool);
    let halves = get("rope.interleaved").and_then(Value::as_bool) == Some(false);
    if let Some(first) = get("position_offset").and_then(Value::as_u64) {
        plan.ends.first_position = usize::try_from(first).unwrap_or(usize::MAX / 2);
    }
    let function = get("classifier.activation").and_then(Value::as_str).and_then(HeadFunction::named);
    if let (Some(head), Some(function)) = (&mut plan.ends.classifier, function) {
        head.function = function;
    }
    if let Some(scale) = get("logit_scale").and_then(Value::as_f64) {
        plan.ends.logit_scale = scale as f32;
    }
    for layers in plan.stacks.iter_mut().map(|s| &mut s.layers) {
        for (l, layer) in layers.iter_mut().enumerate() {
            let slides = windowed.as_ref().is_none_or(|w| w.get(l).copied().unwrap_or(false));
            for branch in layer.steps.iter_mut().flat_map(|s| &mut s.branches) {
                match (&mut branch.kind, window, normalize) {
                    (Kind::Attention(a), Some(n), _) if slides => a.window = (WindowKind::Sliding, Dim(n)),
                    (Kind::Experts(e), _, Some(normalize)) => e.normalize = normalize,
                    (Kind::Latent(l), ..) if halves => l.rotary = Rotary::Halves,
                    (Kind::Sparse(s), ..) if halves => {
                        if let Over::Latent(l) = &mut s.over {
                            l.rotary = Rotary::Halves;
                        }
                        s.indexer.iter_mut().for_each(|n| n.rotary = Rotary::Halves);
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The first of these faults as an error, with the number of the others.
fn refuse(faults: &[arch::Fault]) -> Result<()> {
    let Some(first) = faults.first() else { return Ok(()) };
    let more = if faults.len() > 1 { format!(" ({} more)", faults.len() - 1) } else { String::new() };
    Err(Error::input(format!("{}{more}", first.message)).help("`gguf check FILE` lists what is wrong with a file"))
}

/// A key of the architecture that nobody read may change what the model computes.
fn unread(metadata: &Metadata, arch: &Arch, dims: &Dims) -> Result<()> {
    let prefix = format!("{}.", arch.name);
    let unread = metadata.iter().map(|(key, _)| key).find(|key| {
        key.strip_prefix(&prefix).is_some_and(|own| !dims.read.contains(*key) && !NO_ARITHMETIC.contains(&own))
    });
    match unread {
        None => Ok(()),
        Some(key) => Err(Error::input(format!(
            "the key {key} is not one that {} is known to have, so what it changes would be left out",
            arch.name
        ))
        .help(format!("if it changes nothing, take it away: `gguf remove FILE {key}`"))),
    }
}

/// What a kind has no kernel for.
fn unsupported(kind: &Kind) -> Option<&'static str> {
    match kind {
        Kind::Attention(_)
        | Kind::Cross(_)
        | Kind::Latent(_)
        | Kind::Sparse(_)
        | Kind::Compressed(_)
        | Kind::Mamba(_)
        | Kind::Mamba2(_)
        | Kind::DeltaNet(_)
        | Kind::Kda(_)
        | Kind::Lightning(_)
        | Kind::Rwkv6(_)
        | Kind::Rwkv7(_)
        | Kind::ChannelMix(_)
        | Kind::HeadMamba(_)
        | Kind::ShortConv(_)
        | Kind::Linear(_)
        | Kind::Pass(_)
        | Kind::PerLayer(_)
        | Kind::Laurel(_)
        | Kind::Dense(_) => None,
        Kind::Experts(e) if e.gating == Gating::Unknown => Some("experts with a gating function that is not known"),
        Kind::Experts(e) if e.inner != e.input && e.compression.is_none() => Some("experts on a compressed input"),
        Kind::Experts(_) => None,
        other => Some(other.name()),
    }
}

/// Whether the sizes of a kind are such that its arithmetic has no empty parts and no remainders.
fn divides(kind: &Kind) -> bool {
    let some = |sizes: &[Dim]| sizes.iter().all(|size| *size > 0);
    let into = |all: Dim, parts: Dim| parts > 0 && all.get().is_multiple_of(parts.get());
    let heads = |a: &Attention| some(&[a.heads, a.key_len, a.value_len]) && into(a.heads, a.kv_heads);
    let latent = |l: &Latent| some(&[l.heads, l.kv_rank, l.value_len]) && l.key_len >= l.rot;
    let index = |n: &Indexer| some(&[n.heads, n.len, n.best]);
    match kind {
        Kind::Attention(a) | Kind::Cross(a) => heads(a),
        Kind::Latent(l) => latent(l),
        Kind::Sparse(s) => {
            let (over, all) = match &s.over {
                Over::Heads(a) => (heads(a), a.heads),
                Over::Latent(l) => (latent(l), l.heads),
            };
            let apart = |n: &Indexer| !matches!(n.pool, Pool::Best { .. }) || into(all, n.heads);
            over && s.indexer.as_ref().is_none_or(|n| index(n) && apart(n))
        }
        Kind::Compressed(c) => {
            let heads = some(&[c.heads, c.head, c.q_rank, c.out_rank]) && c.head >= c.rot;
            heads && into(c.heads * c.head, c.groups) && (!c.overlaps() || index(&c.indexer))
        }
        Kind::Kda(k) => some(&[k.heads, k.head, k.kernel]),
        Kind::Lightning(l) => some(&[l.heads, l.head]),
        Kind::Rwkv6(r) => {
            some(&[r.head, r.mix_rank])
                && into(r.input, r.head)
                && (r.kv_heads == 0 || into(r.input / r.head, r.kv_heads))
        }
        Kind::Rwkv7(r) => some(&[r.head]) && into(r.input, r.head),
        Kind::ChannelMix(c) => some(&[c.input, c.len]),
        Kind::HeadMamba(m) => some(&[m.sizes.state, m.sizes.kernel, m.step]) && into(m.sizes.inner, m.sizes.rank),
        Kind::Experts(e) => {
            let chunks = e.chunks.as_ref().is_none_or(|c| c.len > 0 && into(e.count, c.group));
            some(&[e.count, e.len, e.inner]) && chunks
        }
        _ => true,
    }
}

/// The rotations that the layers have, each once.
fn ropes(plan: &ModelPlan, dims: &Dims, weights: &dyn Weights) -> Result<Vec<(RopeKey, Rope)>> {
    let mut ropes: Vec<(RopeKey, Rope)> = Vec::new();
    for (_, _, layer) in layers(plan, dims) {
        for branch in layer.steps.iter().flat_map(|s| &s.branches) {
            for (key, head) in rotations(&branch.kind) {
                if ropes.iter().any(|(k, _)| *k == key) {
                    continue;
                }
                let scaling = if key.plain { Scaling::none() } else { Scaling::of(dims, key.windowed, plan.arch)? };
                let base = match &branch.kind {
                    Kind::Compressed(c) if key.compressed => c.compressed_base,
                    _ if key.windowed => dims.rope_base_windowed,
                    _ => dims.rope_base,
                };
                let pairs = key.rotary == Rotary::Pairs;
                let factors = key.factors.then_some(weights);
                ropes.push((key, Rope::new(key.len, head, pairs, base, &scaling, factors, key.latent)?));
            }
        }
    }
    Ok(ropes)
}

/// The rotations of a branch, each with the length of a head.
fn rotations(kind: &Kind) -> Vec<(RopeKey, usize)> {
    let heads = |a: &Attention| RopeKey::of(a).map(|key| (key, a.key_len.len()));
    let latent = |l: &Latent| RopeKey::of_latent(l).map(|key| (key, l.rot.len()));
    match kind {
        Kind::Attention(a) => heads(a).into_iter().collect(),
        Kind::Latent(l) => latent(l).into_iter().collect(),
        Kind::Sparse(s) => {
            let over = match &s.over {
                Over::Heads(a) => heads(a),
                Over::Latent(l) => latent(l),
            };
            let index = RopeKey::of_indexer(s).zip(s.indexer.as_ref()).map(|(key, n)| (key, n.len.len()));
            over.into_iter().chain(index).collect()
        }
        Kind::Compressed(c) => RopeKey::of_compressed(c).map(|key| (key, c.rot.len())).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// For each layer without keys and values of its own: the last one before that has some, with the same window.
fn shared_kv(plan: &ModelPlan, dims: &Dims) -> HashMap<usize, usize> {
    let mut from = HashMap::new();
    let mut last: HashMap<bool, usize> = HashMap::new();
    for (_, l, layer) in layers(plan, dims) {
        for branch in layer.steps.iter().flat_map(|s| &s.branches) {
            let Kind::Attention(attention) = &branch.kind else { continue };
            if attention.own_kv {
                last.insert(attention.windowed_rope, l);
            } else if let Some(&source) = last.get(&attention.windowed_rope) {
                from.insert(l, source);
            }
        }
    }
    from
}

/// Cosines and sines of a model's rotations.
#[derive(Clone, Debug)]
pub struct Tables(Vec<(RopeKey, Table)>);

impl Tables {
    /// The table of a rotation.
    pub fn get(&self, key: Option<RopeKey>) -> Option<&Table> {
        let key = key?;
        self.0.iter().find(|(k, _)| *k == key).map(|(_, table)| table)
    }
}
