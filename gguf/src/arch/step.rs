//! What a layer does: steps of branches that join the residual stream, and the kinds that a branch can be.
//!
//! A kind says its slots and every number that its arithmetic needs, so that nothing downstream asks for a model by
//! name: `gguf check` and `convert` demand the slots, `evaluate` runs the numbers. (A table in the form of an enum: the
//! files of the kinds import what a kind is made of, and this file the kinds.)

use super::altup::{AltUp, Laurel};
use super::compressed::Compressed;
use super::dim::Dim;
use super::dims::{Dims, WindowKind};
use super::head_mamba::HeadMamba;
use super::kda::Kda;
use super::lightning::Lightning;
use super::per_layer::PerLayer;
use super::residual::Residual;
use super::rwkv::{ChannelMix, Rwkv6, Rwkv7};
use super::simple::{Linear, Pass};
use super::slot::{Bias, Item, Need, Slot, bias, either, linear, optional};
use super::sparse::Sparse;
use super::temperature::Temperature;

/// One layer: its steps in order, and tensors that no step uses.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The steps.
    pub steps: Vec<Step>,
    /// Tensors that belong to the layer beside its steps: read by the whole model, or by nobody.
    pub extra: Vec<Item>,
    /// The residual stream is multiplied with this at the end of the layer, where the tensor is there.
    pub out_scale: Option<&'static str>,
    /// What the residual stream is multiplied with at the end of the layer.
    pub times: f32,
    /// The layer runs on one of several streams (Gemma 3n).
    pub altup: Option<Box<AltUp>>,
}

impl Default for Layer {
    fn default() -> Layer {
        Layer { steps: Vec::new(), extra: Vec::new(), out_scale: None, times: 1.0, altup: None }
    }
}

impl Layer {
    /// A layer of these steps.
    pub fn new(steps: impl Into<Vec<Step>>) -> Layer {
        Layer { steps: steps.into(), ..Layer::default() }
    }

    /// The same with more tensors.
    #[must_use]
    pub fn with(mut self, items: impl IntoIterator<Item = Item>) -> Layer {
        self.extra.extend(items);
        self
    }

    /// Whether a branch looks at the stream as it was when the layer began.
    pub fn reads_input(&self) -> bool {
        let reads = |branch: &Branch| {
            branch.reads == Reads::LayerInput || matches!(&branch.kind, Kind::Experts(e) if e.router_reads_layer)
        };
        self.steps.iter().flat_map(|s| &s.branches).any(reads)
    }

    /// All items of the layer, in order, each once.
    pub fn items(&self) -> Vec<Item> {
        let mut items = Vec::new();
        for step in &self.steps {
            for branch in &step.branches {
                items.extend(branch.before.iter().flat_map(Norm::items));
                items.extend(branch.kind.items());
                items.extend(branch.after.iter().flat_map(Norm::items));
            }
            items.extend(step.after.iter().flat_map(Norm::items));
            items.extend(step.sum_norm.iter().flat_map(Norm::items));
            items.extend(step.residual.items());
        }
        items.extend(self.altup.iter().flat_map(|a| a.items()));
        items.extend(self.extra.iter().cloned());
        let mut seen = std::collections::HashSet::new();
        items.retain(|item| match item {
            Item::Slot(slot) => seen.insert(slot.name.clone()),
            Item::Either { .. } => true,
        });
        items
    }
}

/// Branches that read the same residual stream; their sum joins it.
#[derive(Clone, Debug)]
pub struct Step {
    /// One branch, or several side by side.
    pub branches: Vec<Branch>,
    /// A norm of the sum of the branches, before it joins.
    pub after: Option<Norm>,
    /// What the sum is multiplied with when it joins.
    pub scale: f32,
    /// A norm of the residual stream after the join (BERT).
    pub sum_norm: Option<Norm>,
    /// The sum takes the stream's place instead of being added.
    pub replaces: bool,
    /// What the sum joins.
    pub residual: Residual,
    /// What the stream is multiplied with after the join (Gemma 3n).
    pub stream_scale: f32,
}

/// One branch.
#[derive(Clone, Debug)]
pub struct Branch {
    /// Where the branch reads from.
    pub reads: Reads,
    /// The norm of its input.
    pub before: Option<Norm>,
    /// What it does.
    pub kind: Kind,
    /// The norm of its output.
    pub after: Option<Norm>,
    /// What its output is multiplied with.
    pub scale: f32,
}

/// Where a branch reads from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// The residual stream as it is when the step begins.
    #[default]
    Stream,
    /// The residual stream as it was when the layer began.
    LayerInput,
    /// The input that the first branch of this step read, behind its norm: one norm serves both.
    FirstInput,
    /// The embeddings of the tokens, as the first layer reads them.
    Embeddings,
}

/// What a branch does.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// Attention over heads.
    Attention(Box<Attention>),
    /// Attention over compressed keys and values.
    Latent(Box<Latent>),
    /// Attention of a decoder to what its encoder made.
    Cross(Box<Attention>),
    /// A selective state space (Mamba).
    Mamba(Mamba),
    /// A state space of heads (Mamba 2).
    Mamba2(Mamba2),
    /// A gated delta rule (Qwen3-Next).
    DeltaNet(DeltaNet),
    /// A short gated convolution (LFM2).
    ShortConv(ShortConv),
    /// Attention that sees the tokens which an indexer chooses.
    Sparse(Box<Sparse>),
    /// Attention over keys that are compressed in time (DeepSeek 4).
    Compressed(Box<Compressed>),
    /// A delta rule with a decay of each channel (Kimi).
    Kda(Kda),
    /// Linear attention with a fixed decay of each head (MiniMax-01).
    Lightning(Lightning),
    /// Time mixing of RWKV 6.
    Rwkv6(Rwkv6),
    /// Time mixing of RWKV 7.
    Rwkv7(Rwkv7),
    /// Channel mixing of RWKV.
    ChannelMix(ChannelMix),
    /// A dense feed-forward network.
    Dense(Dense),
    /// A mixture of experts.
    Experts(Box<Experts>),
    /// One matrix.
    Linear(Linear),
    /// What it reads, unchanged but for a factor.
    Pass(Pass),
    /// A gate for what the layer gets beside the stream.
    PerLayer(PerLayer),
    /// A residual of low rank.
    Laurel(Laurel),
    /// A state space of heads with the projections of Mamba (PLaMo 2).
    HeadMamba(HeadMamba),
    /// A kind whose tensors are known and that has no kernel: its name, for the message that says so.
    Other(Other),
}

/// A kind that is described by its tensors alone.
#[derive(Clone, Debug)]
pub struct Other {
    /// What an engineer of the field calls it: "RWKV 6 time mixing".
    pub name: &'static str,
    /// Its tensors.
    pub items: Vec<Item>,
}

impl Kind {
    /// The kind's tensors.
    pub fn items(&self) -> Vec<Item> {
        match self {
            Kind::Attention(a) => a.items(""),
            Kind::Cross(a) => a.items("cross_"),
            Kind::Latent(l) => l.items(),
            Kind::Mamba(m) => m.items(),
            Kind::Mamba2(m) => m.items(),
            Kind::DeltaNet(n) => n.items(),
            Kind::ShortConv(c) => c.items(),
            Kind::Sparse(a) => a.items(),
            Kind::Compressed(a) => a.items(),
            Kind::Kda(k) => k.items(),
            Kind::Lightning(l) => l.items(),
            Kind::Rwkv6(r) => r.items(),
            Kind::Rwkv7(r) => r.items(),
            Kind::ChannelMix(c) => c.items(),
            Kind::Dense(f) => f.items(),
            Kind::Experts(e) => e.items(),
            Kind::Linear(m) => m.items(),
            Kind::Pass(p) => p.items(),
            Kind::PerLayer(p) => p.items(),
            Kind::Laurel(r) => r.items(),
            Kind::HeadMamba(m) => m.items(),
            Kind::Other(o) => o.items.clone(),
        }
    }

    /// What the kind is called.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Attention(_) => "attention",
            Kind::Cross(_) => "cross attention",
            Kind::Latent(_) => "latent attention",
            Kind::Mamba(_) => "Mamba",
            Kind::Mamba2(_) => "Mamba 2",
            Kind::DeltaNet(_) => "gated delta net",
            Kind::ShortConv(_) => "short convolution",
            Kind::Sparse(_) => "sparse attention",
            Kind::Compressed(_) => "compressed attention",
            Kind::Kda(_) => "Kimi delta attention",
            Kind::Lightning(_) => "lightning attention",
            Kind::Rwkv6(_) => "RWKV 6 time mixing",
            Kind::Rwkv7(_) => "RWKV 7 time mixing",
            Kind::ChannelMix(_) => "RWKV channel mixing",
            Kind::Dense(_) => "dense feed-forward",
            Kind::Experts(_) => "experts",
            Kind::Linear(_) => "linear layer",
            Kind::Pass(_) => "skip connection",
            Kind::PerLayer(_) => "per-layer input",
            Kind::Laurel(_) => "residual of low rank",
            Kind::HeadMamba(_) => "Mamba with heads",
            Kind::Other(other) => other.name,
        }
    }
}

impl From<Attention> for Kind {
    fn from(a: Attention) -> Kind {
        Kind::Attention(Box::new(a))
    }
}

impl From<Latent> for Kind {
    fn from(l: Latent) -> Kind {
        Kind::Latent(Box::new(l))
    }
}

impl From<Mamba> for Kind {
    fn from(m: Mamba) -> Kind {
        Kind::Mamba(m)
    }
}

impl From<Mamba2> for Kind {
    fn from(m: Mamba2) -> Kind {
        Kind::Mamba2(m)
    }
}

impl From<DeltaNet> for Kind {
    fn from(n: DeltaNet) -> Kind {
        Kind::DeltaNet(n)
    }
}

impl From<ShortConv> for Kind {
    fn from(c: ShortConv) -> Kind {
        Kind::ShortConv(c)
    }
}

macro_rules! kinds {
    ($($kind:ident)+) => {$(
        impl From<$kind> for Kind {
            fn from(kind: $kind) -> Kind {
                Kind::$kind(kind)
            }
        }
    )+};
}

kinds! { Kda Lightning Rwkv6 Rwkv7 ChannelMix }

impl From<Sparse> for Kind {
    fn from(a: Sparse) -> Kind {
        Kind::Sparse(Box::new(a))
    }
}

impl From<Compressed> for Kind {
    fn from(a: Compressed) -> Kind {
        Kind::Compressed(Box::new(a))
    }
}

impl From<Dense> for Kind {
    fn from(f: Dense) -> Kind {
        Kind::Dense(f)
    }
}

impl From<Experts> for Kind {
    fn from(e: Experts) -> Kind {
        Kind::Experts(Box::new(e))
    }
}

impl From<Linear> for Kind {
    fn from(m: Linear) -> Kind {
        Kind::Linear(m)
    }
}

impl From<Pass> for Kind {
    fn from(p: Pass) -> Kind {
        Kind::Pass(p)
    }
}

impl From<PerLayer> for Kind {
    fn from(p: PerLayer) -> Kind {
        Kind::PerLayer(p)
    }
}

impl From<Laurel> for Kind {
    fn from(r: Laurel) -> Kind {
        Kind::Laurel(r)
    }
}

impl From<HeadMamba> for Kind {
    fn from(m: HeadMamba) -> Kind {
        Kind::HeadMamba(m)
    }
}

impl From<Other> for Kind {
    fn from(o: Other) -> Kind {
        Kind::Other(o)
    }
}

impl Branch {
    /// A branch with a norm before it.
    pub fn new(before: impl Into<Option<Norm>>, kind: impl Into<Kind>) -> Branch {
        Branch { reads: Reads::Stream, before: before.into(), kind: kind.into(), after: None, scale: 1.0 }
    }

    /// The same with a norm behind it.
    #[must_use]
    pub fn then(mut self, after: Norm) -> Branch {
        self.after = Some(after);
        self
    }

    /// The same reading from somewhere else.
    #[must_use]
    pub fn reads(mut self, reads: Reads) -> Branch {
        self.reads = reads;
        self
    }

    /// The same with its output multiplied.
    #[must_use]
    pub fn times(mut self, scale: f32) -> Branch {
        self.scale = scale;
        self
    }
}

/// A step of one branch that is added to the stream.
pub fn step(before: impl Into<Option<Norm>>, kind: impl Into<Kind>) -> Step {
    Step::of([Branch::new(before, kind)])
}

impl Step {
    /// A step of these branches.
    pub fn of(branches: impl Into<Vec<Branch>>) -> Step {
        Step {
            branches: branches.into(),
            after: None,
            scale: 1.0,
            sum_norm: None,
            replaces: false,
            residual: Residual::Stream,
            stream_scale: 1.0,
        }
    }

    /// The same with a norm of what the branches make.
    #[must_use]
    pub fn then(mut self, after: Norm) -> Step {
        self.after = Some(after);
        self
    }

    /// The same, multiplied when it joins.
    #[must_use]
    pub fn times(mut self, scale: f32) -> Step {
        self.scale = scale;
        self
    }

    /// The same, joining this instead of the one stream.
    #[must_use]
    pub fn joins(mut self, residual: Residual) -> Step {
        self.residual = residual;
        self
    }

    /// The same with the stream normalized after the join.
    #[must_use]
    pub fn normalized(mut self, norm: Norm) -> Step {
        self.sum_norm = Some(norm);
        self
    }
}

/// How a norm normalizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormKind {
    /// By the root of the mean square, with this epsilon.
    Rms(f32),
    /// By mean and variance, with this epsilon.
    Layer(f32),
}

/// A norm over `len` values.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// The tensor's name without `.weight`; empty where the norm has no weights.
    pub name: &'static str,
    /// How it normalizes.
    pub kind: NormKind,
    /// Number of its weights.
    pub len: Dim,
    /// Whether it has a bias.
    pub bias: Bias,
    /// Whether the model works without; where it is absent, nothing is normalized.
    pub need: Need,
    /// Whether the tensor's name has no `.weight` (some converters' `ffn_norm`).
    pub bare: bool,
}

impl Norm {
    /// By the root of the mean square, over the model's width.
    pub fn rms(d: &Dims, name: &'static str) -> Norm {
        Norm { name, kind: NormKind::Rms(d.rms_eps), len: d.embd, bias: Bias::Never, need: Need::Required, bare: false }
    }

    /// By mean and variance, over the model's width, with weight and bias.
    pub fn layer(d: &Dims, name: &'static str) -> Norm {
        Norm { kind: NormKind::Layer(d.norm_eps), bias: Bias::Required, ..Norm::rms(d, name) }
    }

    /// The same with this bias.
    #[must_use]
    pub fn bias(mut self, bias: Bias) -> Norm {
        self.bias = bias;
        self
    }

    /// The same where the file has it.
    #[must_use]
    pub fn optional(mut self) -> Norm {
        self.need = Need::Optional;
        if self.bias == Bias::Required {
            self.bias = Bias::Optional;
        }
        self
    }

    /// The same over another number of values.
    #[must_use]
    pub fn len(mut self, len: Dim) -> Norm {
        self.len = len;
        self
    }

    /// The same without tensors: it normalizes, and that is all.
    #[must_use]
    pub fn plain(mut self) -> Norm {
        self.name = "";
        self.bias = Bias::Never;
        self
    }

    /// The same with a tensor whose name has no `.weight`.
    #[must_use]
    pub fn bare(mut self) -> Norm {
        self.bare = true;
        self
    }

    /// The name of its weights.
    pub fn weight(&self) -> String {
        if self.bare { self.name.to_owned() } else { format!("{}.weight", self.name) }
    }

    /// Its tensors.
    pub fn items(&self) -> Vec<Item> {
        if self.name.is_empty() {
            return Vec::new();
        }
        let mut items = vec![Slot::new(self.weight(), [self.len]).needed(self.need == Need::Required).into()];
        items.extend(bias(self.name, self.len, self.bias));
        items
    }
}

/// How heads rotate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotary {
    /// Not at all.
    None,
    /// Pairs of neighbours (llama.cpp: norm).
    Pairs,
    /// Pairs half the rotated dimensions apart (llama.cpp: neox).
    Halves,
    /// As halves, sections of the dimensions by different positions; for text all positions are the same.
    Sections,
}

/// How queries, keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projections {
    /// One tensor for all three, or three.
    Either,
    /// Three tensors.
    Separate,
    /// One tensor.
    Fused,
    /// One tensor, in which query, key and value of a head stand together.
    ByHead,
}

/// A norm of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadNorms {
    /// How they normalize.
    pub kind: NormKind,
    /// Shape of the queries' weights: `[head]`, `[all heads' lengths]` or `[head, heads]`.
    pub query: HeadNorm,
    /// Whether the model works without.
    pub need: Need,
    /// Whether they have biases.
    pub bias: Bias,
    /// Whether they come after the rotation.
    pub after_rotation: bool,
    /// Numbers of weights over all heads of queries and of keys, where they are not those of the projections' rows.
    pub lens: Option<[Dim; 2]>,
}

impl HeadNorms {
    /// Norms that must be there, before the rotation, without biases.
    pub(super) const PLAIN: HeadNorms = HeadNorms {
        kind: NormKind::Rms(0.0),
        query: HeadNorm::Head,
        need: Need::Required,
        bias: Bias::Never,
        after_rotation: false,
        lens: None,
    };
}

/// What one norm of queries or keys is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadNorm {
    /// Each head, with the same weights.
    Head,
    /// All heads together.
    Whole,
    /// Each head, with weights of its own (`[head, heads]`).
    PerHead,
    /// Each head, without weights.
    Plain,
    /// Each head; then queries, and no keys, are multiplied with a number a head (`[1, heads]`).
    QueryGain,
}

/// What multiplies attention's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Nothing.
    None,
    /// The sigmoid of the second half of each query head: `attn_q` has twice the rows.
    DoubledQuery,
    /// The sigmoid of `attn_gate`, a number a head.
    Head,
    /// The sigmoid of `attn_gate`, a number an element.
    Element,
    /// The softplus of `attn_gate`, a number a head.
    SoftplusHead,
    /// The softplus of `attn_gate`, a number an element.
    SoftplusElement,
}

impl Gate {
    /// The tensor of the gate of an attention over `heads` heads, `len` values of all together.
    pub(super) fn items(self, name: &str, input: Dim, heads: Dim, len: Dim) -> Vec<Item> {
        match self {
            Gate::None | Gate::DoubledQuery => Vec::new(),
            Gate::Head | Gate::SoftplusHead => linear(name, input, heads, Bias::Never),
            Gate::Element | Gate::SoftplusElement => linear(name, input, len, Bias::Never),
        }
    }
}

/// Attention over heads: multi-head, grouped, multi-query.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Query heads.
    pub heads: Dim,
    /// Key-value heads.
    pub kv_heads: Dim,
    /// Length of a head's key.
    pub key_len: Dim,
    /// Length of a head's value.
    pub value_len: Dim,
    /// Length of what is projected.
    pub input: Dim,
    /// Length of what comes out.
    pub output: Dim,
    /// Rows of `attn_q`, `attn_k`, `attn_v`, and columns of `attn_output`, as the loader demands them.
    pub rows: [Dim; 4],
    /// How they are stored.
    pub projections: Projections,
    /// Biases of queries, keys and values.
    pub bias: Bias,
    /// Bias of the output.
    pub out_bias: Bias,
    /// The output's tensor, without `.weight`.
    pub out_name: &'static str,
    /// Whether separate projections must be there (not in layers of multi-token prediction).
    pub need: Need,
    /// Whether the layer has keys and values of its own; otherwise it takes those of the last layer before it that has
    /// them and sees as far.
    pub own_kv: bool,
    /// Whether the tensors of keys and values must be there even if the layer does not use them.
    pub unused_kv: bool,
    /// Whether values may be the keys (no `attn_v`).
    pub value_optional: bool,
    /// Norms of queries and keys.
    pub norms: Option<HeadNorms>,
    /// A norm without weights of the values.
    pub value_norm: Option<NormKind>,
    /// Norm before the output matrix (BitNet).
    pub sub_norm: Option<Norm>,
    /// What multiplies the output.
    pub gate: Gate,
    /// A learned score a head that takes part in the softmax (`attn_sinks`).
    pub sinks: Option<Need>,
    /// How heads rotate.
    pub rotary: Rotary,
    /// Rotated dimensions.
    pub rot: Dim,
    /// Whether this layer's rotation is that of windowed layers.
    pub windowed_rope: bool,
    /// Whether positions are taken as they are, whatever the scaling of the model's rotation.
    pub plain_rope: bool,
    /// Whether the tensors with a factor a frequency are for this layer.
    pub rope_factors: bool,
    /// What a token may see, and how far.
    pub window: (WindowKind, Dim),
    /// What scores are multiplied with.
    pub scale: f32,
    /// Scores are squeezed into ± this; 0: not.
    pub softcap: f32,
    /// Exponent of ALiBi's slopes; 0: none.
    pub alibi: f32,
    /// Queries, keys and values are limited to ± this; 0: not.
    pub clamp: f32,
    /// Relative position buckets (T5); 0: none.
    pub buckets: Dim,
    /// How queries grow with their position.
    pub temperature: Option<Temperature>,
    /// Whether a token sees its past only.
    pub causal: bool,
}

impl Attention {
    /// Attention of a layer, its lengths computed from heads, everything else as most models have it.
    pub fn new(d: &Dims, layer: usize) -> Attention {
        let key_len = d.key_len(layer);
        let scale = if d.attention_scale == 0.0 { 1.0 / (key_len.get() as f32).sqrt() } else { d.attention_scale };
        let windowed = d.windowed(layer) && d.window_kind != WindowKind::None && d.window > 0;
        Attention {
            heads: d.heads(layer),
            kv_heads: d.kv_heads(layer),
            key_len,
            value_len: d.value_len(layer),
            input: d.embd,
            output: d.embd,
            rows: [d.queries(layer), d.keys(layer), d.values(layer), d.queries(layer)],
            projections: Projections::Either,
            bias: Bias::Optional,
            out_bias: Bias::Never,
            out_name: "attn_output",
            need: if layer < d.layers() { Need::Required } else { Need::Optional },
            own_kv: d.has_kv(layer),
            unused_kv: false,
            value_optional: false,
            norms: None,
            value_norm: None,
            sub_norm: None,
            gate: Gate::None,
            sinks: None,
            rotary: Rotary::None,
            rot: d.rot(layer),
            windowed_rope: d.windowed(layer) && d.window_kind != WindowKind::None,
            plain_rope: false,
            rope_factors: true,
            window: if windowed { (d.window_kind, d.window) } else { (WindowKind::None, Dim(0)) },
            scale,
            softcap: d.attn_softcap,
            alibi: if d.use_alibi || d.alibi_bias > 0.0 { d.alibi_bias } else { 0.0 },
            clamp: d.clamp_qkv,
            buckets: Dim(0),
            temperature: None,
            causal: d.causal,
        }
    }

    /// The same in a model whose loader takes the width for the length of all queries and of the output's input.
    pub fn square(d: &Dims, layer: usize) -> Attention {
        let mut a = Attention::new(d, layer);
        a.rows = [d.embd, d.values(layer), d.values(layer), d.embd];
        a
    }

    /// Attention of a layer in a model whose loader takes every layer's heads and lengths from the first one.
    pub fn uniform(d: &Dims, layer: usize) -> Attention {
        let Attention { heads, kv_heads, key_len, value_len, rows, scale, .. } = Attention::new(d, 0);
        Attention { heads, kv_heads, key_len, value_len, rows, scale, ..Attention::new(d, layer) }
    }

    /// The same, rotating as full layers do even where it sees a window only.
    #[must_use]
    pub fn global_rope(mut self) -> Attention {
        self.windowed_rope = false;
        self
    }

    /// The same, rotating so (where the layer rotates).
    #[must_use]
    pub fn rotary(mut self, d: &Dims, rotary: Rotary, layer: usize) -> Attention {
        self.rotary = d.rotary(rotary, layer);
        self
    }

    /// The same with these biases of queries, keys and values, and of the output.
    #[must_use]
    pub fn bias(mut self, qkv: Bias, out: Bias) -> Attention {
        (self.bias, self.out_bias) = (qkv, out);
        self
    }

    /// The same, stored so.
    #[must_use]
    pub fn stored(mut self, projections: Projections) -> Attention {
        self.projections = projections;
        self
    }

    /// The same with norms of each query and key head by the root of the mean square, before the rotation.
    #[must_use]
    pub fn head_norms(mut self, d: &Dims) -> Attention {
        self.norms = Some(HeadNorms { kind: NormKind::Rms(d.rms_eps), ..HeadNorms::PLAIN });
        self
    }

    /// The same with its norms over all heads together.
    #[must_use]
    pub fn whole_norms(mut self, d: &Dims) -> Attention {
        self = self.head_norms(d);
        if let Some(norms) = &mut self.norms {
            norms.query = HeadNorm::Whole;
        }
        self
    }

    /// The same with a gate.
    #[must_use]
    pub fn gate(mut self, gate: Gate) -> Attention {
        self.gate = gate;
        if gate == Gate::DoubledQuery {
            self.rows[0] = self.rows[0] * 2;
        }
        self
    }

    pub(super) fn items(&self, prefix: &str) -> Vec<Item> {
        let [q, k, v, columns] = self.rows;
        let name = |n: &str| format!("{prefix}attn_{n}");
        let needed = |items: Vec<Item>| if self.need == Need::Required { items } else { optional(items) };
        let mut separate = needed(linear(&name("q"), self.input, q, Bias::Never));
        let key = linear(&name("k"), self.input, k, Bias::Never);
        let kv = self.own_kv || self.unused_kv;
        separate.extend(if kv { needed(key) } else { optional(key) });
        let value = linear(&name("v"), self.input, v, Bias::Never);
        separate.extend(if kv && !self.value_optional { needed(value) } else { optional(value) });
        let biases: Vec<Item> =
            [("q", q), ("k", k), ("v", v)].iter().filter_map(|&(n, len)| bias(&name(n), len, self.bias)).collect();
        let qkv = name("qkv");
        let all = q + k + v;
        let mut items = match self.projections {
            Projections::Separate => {
                separate.extend(biases);
                separate
            }
            Projections::Fused | Projections::ByHead => linear(&qkv, self.input, all, self.bias),
            Projections::Either => vec![either_projections(&qkv, self.input, all, self.bias, separate, biases)],
        };
        items.extend(linear(&format!("{prefix}{}", self.out_name), columns, self.output, self.out_bias));
        if let Some(norms) = self.norms.filter(|n| n.query != HeadNorm::Plain) {
            let shape = |rows: Dim, heads: Dim| match norms.query {
                HeadNorm::PerHead => vec![self.key_len, heads],
                HeadNorm::Whole => vec![rows],
                HeadNorm::QueryGain => vec![Dim(1), heads],
                HeadNorm::Head | HeadNorm::Plain => vec![self.key_len],
            };
            let required = norms.need == Need::Required;
            let [all_q, all_k] = norms.lens.unwrap_or([q, k]);
            let both = [("q_norm", all_q, self.heads, true), ("k_norm", all_k, self.kv_heads, kv)];
            let gain_alone = norms.query == HeadNorm::QueryGain;
            for (n, rows, heads, own) in both.into_iter().take(if gain_alone { 1 } else { 2 }) {
                let shape = shape(rows, heads);
                let slot = Slot::new(format!("{prefix}attn_{n}.weight"), shape.clone()).needed(required && own);
                items.push(slot.into());
                if norms.bias != Bias::Never {
                    let slot = Slot::new(format!("{prefix}attn_{n}.bias"), shape);
                    items.push(slot.needed(norms.bias == Bias::Required).into());
                }
            }
        }
        items.extend(self.sub_norm.iter().flat_map(Norm::items));
        items.extend(self.gate.items(&name("gate"), self.input, self.heads, columns));
        if let Some(need) = self.sinks {
            items.push(Slot::new(name("sinks.weight"), [self.heads]).needed(need == Need::Required).into());
        }
        items
    }
}

/// One tensor for queries, keys and values, or three. One weight may go with three biases.
pub(super) fn either_projections(
    qkv: &str,
    input: Dim,
    all: Dim,
    kind: Bias,
    mut separate: Vec<Item>,
    biases: Vec<Item>,
) -> Item {
    let mut with = vec![Slot::new(format!("{qkv}.weight"), [input, all]).into()];
    if kind != Bias::Never {
        let fused = bias(qkv, all, kind).into_iter().collect();
        with.push(either(format!("{qkv}.bias"), fused, biases.clone()));
    }
    separate.extend(biases);
    either(format!("{qkv}.weight"), with, separate)
}

/// Attention over keys and values that are compressed to one latent vector a token (DeepSeek).
#[derive(Clone, Debug)]
pub struct Latent {
    /// Query heads.
    pub heads: Dim,
    /// Length of what is projected.
    pub input: Dim,
    /// Length of the compressed query; 0: the query is projected at once.
    pub q_rank: Dim,
    /// Length of the compressed key and value.
    pub kv_rank: Dim,
    /// Dimensions of a key that rotate.
    pub rot: Dim,
    /// Length of a head's key, with those that rotate.
    pub key_len: Dim,
    /// Length of a head's value.
    pub value_len: Dim,
    /// How the decompression is stored: one matrix (`attn_kv_b`), or taken apart for absorption.
    pub absorbed: Absorbed,
    /// Epsilon of its norms.
    pub norm: NormKind,
    /// How it rotates.
    pub rotary: Rotary,
    /// What scores are multiplied with.
    pub scale: f32,
    /// What a token may see.
    pub window: (WindowKind, Dim),
    /// Whether this layer's rotation is that of windowed layers.
    pub windowed_rope: bool,
    /// What multiplies the output before its matrix.
    pub gate: Gate,
    /// A learned score a head that takes part in the softmax (`attn_sinks`).
    pub sinks: Option<Need>,
    /// Whether the part of the keys that rotates has a norm of its own (`attn_k_norm`).
    pub rotated_norm: bool,
    /// Whether a file may have the query compressed or not, as its `attn_q_a_norm` says.
    pub either_query: bool,
    /// How queries grow with their position.
    pub temperature: Option<Temperature>,
    /// More tensors of the mixer; empty in most models.
    pub extra: Vec<Item>,
}

/// How the decompression of keys and values is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absorbed {
    /// As one matrix.
    No,
    /// As `attn_k_b` and `attn_v_b`.
    Yes,
    /// Either.
    Either,
}

impl Latent {
    /// Latent attention of a layer as DeepSeek has it.
    pub fn new(d: &Dims, layer: usize) -> Latent {
        let (key_len, value_len) =
            if d.is_mla() { (d.key_len_mla, d.value_len_mla) } else { (d.key_len(layer), d.value_len(layer)) };
        Latent {
            heads: d.heads(layer),
            input: d.embd,
            q_rank: d.q_rank,
            kv_rank: d.kv_rank,
            rot: d.rot(layer),
            key_len,
            value_len,
            absorbed: if d.is_mla() { Absorbed::Yes } else { Absorbed::No },
            norm: NormKind::Rms(d.rms_eps),
            rotary: Rotary::Pairs,
            scale: 1.0 / (key_len.get() as f32).sqrt(),
            window: (WindowKind::None, Dim(0)),
            windowed_rope: false,
            gate: Gate::None,
            sinks: None,
            rotated_norm: false,
            either_query: false,
            temperature: None,
            extra: Vec::new(),
        }
    }

    pub(super) fn items(&self) -> Vec<Item> {
        let plain = self.key_len - self.rot;
        let mut items = Vec::new();
        let mut compressed = vec![Slot::new("attn_q_a_norm.weight", [self.q_rank]).into()];
        compressed.extend(linear("attn_q_a", self.input, self.q_rank, Bias::Never));
        compressed.extend(linear("attn_q_b", self.q_rank, self.heads * self.key_len, Bias::Never));
        let whole = linear("attn_q", self.input, self.heads * self.key_len, Bias::Never);
        match (self.either_query, self.q_rank > 0) {
            (true, _) => items.push(either("attn_q_a_norm.weight", compressed, whole)),
            (false, true) => items.extend(compressed),
            (false, false) => items.extend(whole),
        }
        items.push(Slot::new("attn_kv_a_norm.weight", [self.kv_rank]).into());
        items.extend(linear("attn_kv_a_mqa", self.input, self.kv_rank + self.rot, Bias::Never));
        let whole = linear("attn_kv_b", self.kv_rank, self.heads * (plain + self.value_len), Bias::Never);
        let apart = vec![
            Slot::new("attn_k_b.weight", [plain, self.kv_rank, self.heads]).into(),
            Slot::new("attn_v_b.weight", [self.kv_rank, self.value_len, self.heads]).into(),
        ];
        match self.absorbed {
            Absorbed::No => items.extend(whole),
            Absorbed::Yes => items.extend(apart),
            Absorbed::Either => items.push(either("attn_kv_b.weight", whole, apart)),
        }
        let values = self.heads * self.value_len;
        items.extend(self.gate.items("attn_gate", self.input, self.heads, values));
        if let Some(need) = self.sinks {
            items.push(Slot::new("attn_sinks.weight", [self.heads]).needed(need == Need::Required).into());
        }
        if self.rotated_norm {
            items.push(Slot::new("attn_k_norm.weight", [self.rot]).into());
        }
        items.extend(linear("attn_output", values, self.input, Bias::Never));
        items.extend(self.extra.iter().cloned());
        items
    }
}

/// A selective state space with a state a channel (Mamba).
#[derive(Clone, Debug)]
pub struct Mamba {
    /// Length of what is projected.
    pub input: Dim,
    /// Sizes.
    pub sizes: super::dims::StateSpace,
    /// Norms of dt, B and C with weights (Jamba).
    pub norms: Option<Norms>,
    /// Norms of dt, B and C without weights (Falcon Mamba), with this epsilon.
    pub plain_norms: Option<f32>,
}

/// How the norms of dt, B and C are named.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norms {
    /// Epsilon.
    pub eps: f32,
    /// The names' ending: `.weight` or nothing.
    pub suffix: &'static str,
}

impl Mamba {
    fn items(&self) -> Vec<Item> {
        let super::dims::StateSpace { kernel, inner, state, rank, .. } = self.sizes;
        let mut items = linear("ssm_in", self.input, 2 * inner, Bias::Never);
        items.push(Slot::new("ssm_conv1d.weight", [kernel, inner]).into());
        items.push(Slot::new("ssm_conv1d.bias", [inner]).into());
        items.extend(linear("ssm_x", inner, rank + 2 * state, Bias::Never));
        if let Some(norms) = self.norms {
            for (name, len) in [("ssm_dt_norm", rank), ("ssm_b_norm", state), ("ssm_c_norm", state)] {
                items.push(Slot::new(format!("{name}{}", norms.suffix), [len]).into());
            }
        }
        items.extend(linear("ssm_dt", rank, inner, Bias::Required));
        items.push(Slot::new("ssm_a", [state, inner]).into());
        items.push(Slot::new("ssm_d", [inner]).into());
        items.extend(linear("ssm_out", inner, self.input, Bias::Never));
        items
    }
}

/// A state space of heads (Mamba 2).
#[derive(Clone, Debug)]
pub struct Mamba2 {
    /// Length of what is projected.
    pub input: Dim,
    /// Sizes.
    pub sizes: super::dims::StateSpace,
    /// Whether the convolution must have a bias.
    pub conv_bias: Bias,
    /// Whether its gated norm may be missing.
    pub norm_need: Need,
    /// Epsilon of the gated norm.
    pub eps: f32,
}

impl Mamba2 {
    /// Mamba 2 as most hybrids have it.
    pub fn new(d: &Dims) -> Mamba2 {
        Mamba2 { input: d.embd, sizes: d.ssm, conv_bias: Bias::Optional, norm_need: Need::Required, eps: d.rms_eps }
    }

    fn items(&self) -> Vec<Item> {
        let super::dims::StateSpace { kernel, inner, state, rank, groups } = self.sizes;
        let convolved = inner + 2 * groups * state;
        let mut items = linear("ssm_in", self.input, inner + convolved + rank, Bias::Never);
        items.push(Slot::new("ssm_conv1d.weight", [kernel, convolved]).into());
        items.extend(bias("ssm_conv1d", convolved, self.conv_bias));
        items.push(Slot::new("ssm_dt.bias", [rank]).into());
        items.push(Slot::new("ssm_a", [Dim(1), rank]).into());
        items.push(Slot::new("ssm_d", [Dim(1), rank]).into());
        let norm = Slot::new("ssm_norm.weight", [inner / groups, groups]);
        items.push(norm.needed(self.norm_need == Need::Required).into());
        items.extend(linear("ssm_out", inner, self.input, Bias::Never));
        items
    }
}

/// How a gated delta net's inputs are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeltaInputs {
    /// `ssm_ba` holds beta and alpha of each key head one after the other; queries, keys, values and gate are in
    /// `attn_qkv` and `attn_gate`, or in old files in one `ssm_in` (Qwen3-Next).
    Interleaved,
    /// `ssm_beta` and `ssm_alpha`, `attn_qkv` and `attn_gate` (Qwen3.5). Value heads stand so that the key heads repeat
    /// as a whole: value head v goes with key head v mod key heads, where it is v / (value heads / key heads) otherwise.
    Apart,
}

/// A gated delta rule over heads (Qwen3-Next).
#[derive(Clone, Debug)]
pub struct DeltaNet {
    /// Length of what is projected.
    pub input: Dim,
    /// Sizes: `state` is a head's key and value length, `groups` key heads, `rank` value heads.
    pub sizes: super::dims::StateSpace,
    /// How the inputs are stored.
    pub inputs: DeltaInputs,
    /// Whether the loader demands `attn_qkv` and `attn_gate`, without which nothing can be computed.
    pub inputs_need: Need,
    /// Whether the gate passes the sigmoid instead of SiLU.
    pub sigmoid_gate: bool,
    /// Epsilon of its norms.
    pub eps: f32,
}

impl DeltaNet {
    /// The delta net of a model.
    pub fn new(d: &Dims, inputs: DeltaInputs) -> DeltaNet {
        DeltaNet {
            input: d.embd,
            sizes: d.ssm,
            inputs,
            inputs_need: if d.any_size { Need::Required } else { Need::Optional },
            sigmoid_gate: false,
            eps: d.rms_eps,
        }
    }

    fn items(&self) -> Vec<Item> {
        let super::dims::StateSpace { kernel, state, rank, groups, .. } = self.sizes;
        let (keys, values) = (state * groups, state * rank);
        let mixed = keys * 2 + values;
        let mut items = Vec::new();
        if self.inputs == DeltaInputs::Interleaved {
            items.push(Slot::new("ssm_in.weight", [self.input, keys * 2 + values * 2]).optional().into());
        }
        let needed = self.inputs_need == Need::Required;
        items.push(Slot::new("attn_qkv.weight", [self.input, mixed]).needed(needed).into());
        items.push(Slot::new("attn_gate.weight", [self.input, values]).needed(needed).into());
        items.push(Slot::new("ssm_conv1d.weight", [kernel, mixed]).into());
        items.push(Slot::new("ssm_dt.bias", [rank]).into());
        items.push(Slot::new("ssm_a", [rank]).into());
        match self.inputs {
            DeltaInputs::Interleaved => items.push(Slot::new("ssm_ba.weight", [self.input, rank * 2]).into()),
            DeltaInputs::Apart => {
                items.push(Slot::new("ssm_beta.weight", [self.input, rank]).into());
                items.push(Slot::new("ssm_alpha.weight", [self.input, rank]).into());
            }
        }
        items.push(Slot::new("ssm_norm.weight", [state]).into());
        items.extend(linear("ssm_out", values, self.input, Bias::Never));
        items
    }
}

/// A short causal convolution between two gates (LFM2).
#[derive(Clone, Debug)]
pub struct ShortConv {
    /// Width of the stream.
    pub input: Dim,
    /// Width of the convolution.
    pub kernel: Dim,
    /// Whether the window ends with the token itself; otherwise the token is in its middle.
    pub causal: bool,
}

impl ShortConv {
    /// The convolution of a model.
    pub fn new(d: &Dims) -> ShortConv {
        ShortConv { input: d.embd, kernel: d.shortconv, causal: d.causal }
    }

    fn items(&self) -> Vec<Item> {
        vec![
            Slot::new("shortconv.conv.weight", [self.kernel, self.input]).into(),
            Slot::new("shortconv.in_proj.weight", [self.input, 3 * self.input]).into(),
            Slot::new("shortconv.out_proj.weight", [self.input, self.input]).into(),
        ]
    }
}

/// The function between two matrices of a feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// x · σ(x) of the gate, the gate limited from above before and the other half to ± this.
    SiluClamped(f32),
    /// The same with x · σ(x) limited from above instead of the gate (Step 3.5).
    SiluLimited(f32),
    /// β tanh(g / β) · σ(g) · λ tanh(u / λ) of the gate g and the other half u; without the last for λ = 0 (Kimi K3).
    Situ {
        /// β.
        beta: f32,
        /// λ.
        linear: f32,
    },
    /// xIELU with these parameters: αₙ, αₚ, β, ε.
    Xielu([f32; 4]),
}

/// How a gate is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedGate {
    /// There is none.
    None,
    /// In `ffn_gate`.
    Apart,
    /// In `ffn_gate` where the file has it.
    Optional,
    /// In the first half of `ffn_up`'s rows.
    Fused,
    /// In the second half of `ffn_up`'s rows.
    FusedLast,
}

/// A dense feed-forward network.
#[derive(Clone, Debug)]
pub struct Dense {
    /// Width of the stream.
    pub input: Dim,
    /// Length between the matrices.
    pub len: Dim,
    /// The gate.
    pub gate: FeedGate,
    /// The function.
    pub activation: Activation,
    /// The function where a gate that may be missing is missing.
    pub ungated: Activation,
    /// Bias of up.
    pub bias: Bias,
    /// Bias of the gate.
    pub gate_bias: Bias,
    /// Bias of down.
    pub down_bias: Bias,
    /// The names' ending: nothing, or `_shexp`.
    pub suffix: &'static str,
    /// Norm before the down matrix (BitNet).
    pub sub_norm: Option<Norm>,
    /// The function's values are divided by a number a channel (`ffn.act.scales`), where the file has it.
    pub act_scales: bool,
    /// Before the function, a token's gate loses its mean plus so many standard deviations, and what is below zero then
    /// is zero (Gemma 3n).
    pub sparsity: Option<f32>,
    /// Whether the tensors must be there.
    pub need: Need,
}

impl Dense {
    /// A gated network with SiLU, without biases.
    pub fn gated(d: &Dims, len: Dim) -> Dense {
        Dense {
            input: d.embd,
            len,
            gate: FeedGate::Apart,
            activation: Activation::Silu,
            ungated: Activation::GeluTanh,
            bias: Bias::Never,
            gate_bias: Bias::Never,
            down_bias: Bias::Never,
            suffix: "",
            sub_norm: None,
            act_scales: false,
            sparsity: None,
            need: Need::Required,
        }
    }

    /// A network without gate.
    pub fn plain(d: &Dims, len: Dim, activation: Activation) -> Dense {
        Dense { gate: FeedGate::None, activation, ungated: activation, ..Dense::gated(d, len) }
    }

    /// The same with biases everywhere.
    #[must_use]
    pub fn bias(mut self, bias: Bias) -> Dense {
        (self.bias, self.gate_bias, self.down_bias) = (bias, bias, bias);
        self
    }

    /// The same with another function.
    #[must_use]
    pub fn activation(mut self, activation: Activation) -> Dense {
        self.activation = activation;
        self
    }

    /// The same with the gate in the first half of `ffn_up`.
    #[must_use]
    pub fn fused(mut self) -> Dense {
        self.gate = FeedGate::Fused;
        self
    }

    /// The same with names that end so.
    #[must_use]
    pub fn suffix(mut self, suffix: &'static str) -> Dense {
        self.suffix = suffix;
        self
    }

    fn items(&self) -> Vec<Item> {
        let name = |n: &str| format!("ffn_{n}{}", self.suffix);
        let mut items = Vec::new();
        match self.gate {
            FeedGate::Apart => items.extend(linear(&name("gate"), self.input, self.len, self.gate_bias)),
            FeedGate::Optional => items.extend(optional(linear(&name("gate"), self.input, self.len, self.gate_bias))),
            FeedGate::None | FeedGate::Fused | FeedGate::FusedLast => {}
        }
        let rows = if matches!(self.gate, FeedGate::Fused | FeedGate::FusedLast) { 2 * self.len } else { self.len };
        items.extend(linear(&name("up"), self.input, rows, self.bias));
        items.extend(linear(&name("down"), self.len, self.input, self.down_bias));
        if self.act_scales {
            items.push(Slot::new("ffn.act.scales", [self.len]).optional().into());
        }
        items.extend(self.sub_norm.iter().flat_map(Norm::items));
        if self.need == Need::Optional { optional(items) } else { items }
    }
}

/// How scores of experts become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// Softmax over all experts, then the best.
    Softmax,
    /// Sigmoid of each.
    Sigmoid,
    /// The best, then softmax over them.
    SoftmaxOfBest,
    /// The root of the softplus of each.
    SqrtSoftplus,
    /// The best one after the other, each with the share that softmax gives it among those not chosen yet whose score s
    /// is near: (best − s) / max(|s|, best) ≤ 0.02 (Phi-3.5-MoE).
    SparseMixer,
    /// By a number that has no meaning.
    Unknown,
}

impl Gating {
    /// llama.cpp's number for it (`expert_gating_func`), or this where the number is 0.
    pub fn of(number: u64, otherwise: Gating) -> Option<Gating> {
        match number {
            0 => Some(otherwise),
            1 => Some(Gating::Softmax),
            2 => Some(Gating::Sigmoid),
            3 => Some(Gating::SoftmaxOfBest),
            4 => Some(Gating::SqrtSoftplus),
            _ => None,
        }
    }

    /// The same from what a model's keys say.
    pub fn said(d: &Dims, otherwise: Gating) -> Gating {
        Gating::of(d.expert_gating, otherwise).unwrap_or(Gating::Unknown)
    }
}

/// How the gate of experts is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertGate {
    /// There is none: up and down alone.
    None,
    /// In `ffn_gate_exps`.
    Apart,
    /// In `ffn_gate_exps` where the file has it.
    Optional,
    /// In one tensor with the other half (`ffn_gate_up_exps`), or apart.
    Either,
}

/// Experts read a compressed input, and what they make is decompressed. The router and shared experts read the stream.
#[derive(Clone, Debug)]
pub struct Compression {
    /// The matrix before the experts, without `.weight`.
    pub down: &'static str,
    /// The matrix behind them.
    pub up: &'static str,
    /// A norm before that one.
    pub norm: Option<Norm>,
    /// Whether the matrices must be there.
    pub need: Need,
}

/// Smaller experts, each of which a group of experts shares. They read what the experts made; those of the best experts'
/// groups, no more than there are groups, are weighted as these experts are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chunks {
    /// Length between their matrices.
    pub len: Dim,
    /// Experts of a group.
    pub group: Dim,
    /// What their sum is multiplied with.
    pub scale: f32,
}

/// What a router reads: the stream, normalized without weights, times `scale` and `ffn_gate_inp.scale` (Gemma 4).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouterInput {
    /// How it normalizes.
    pub norm: NormKind,
    /// What it is multiplied with.
    pub scale: f32,
}

/// A mixture of experts.
#[derive(Clone, Debug)]
pub struct Experts {
    /// Width of the stream.
    pub input: Dim,
    /// Width that the experts read and write, where it is compressed; else that of the stream.
    pub inner: Dim,
    /// How many there are.
    pub count: Dim,
    /// How many a token uses.
    pub used: Dim,
    /// Length between their matrices.
    pub len: Dim,
    /// The gate.
    pub gate: ExpertGate,
    /// Their function.
    pub activation: Activation,
    /// Biases of router and experts (gpt-oss).
    pub bias: Bias,
    /// Bias that is added for choosing alone (`exp_probs_b.bias`).
    pub choice_bias: Option<Need>,
    /// The name of that bias.
    pub choice_name: &'static str,
    /// Whether the router reads the stream as it was when the layer began, instead of the experts' input.
    pub router_reads_layer: bool,
    /// The vocabulary, where a token's experts are not chosen but said by a table of it (`ffn_gate_tid2eid`).
    pub by_token: Option<Dim>,
    /// Smaller experts beside them, one a group (GroveMoE).
    pub chunks: Option<Chunks>,
    /// How their input is compressed to `inner`.
    pub compression: Option<Compression>,
    /// How scores become weights.
    pub gating: Gating,
    /// Whether the weights of the chosen ones are made to sum to one.
    pub normalize: bool,
    /// What the weights are multiplied with; 0 and 1: nothing.
    pub scale: f32,
    /// Groups they form; only the best are searched.
    pub groups: Dim,
    /// How many groups are searched.
    pub groups_used: Dim,
    /// Whether a group is as good as its best expert, instead of the sum of its two best.
    pub group_of_best: bool,
    /// What the router reads in place of the experts' input.
    pub router: Option<RouterInput>,
    /// Whether weights multiply the experts' input instead of their output (Llama 4).
    pub weigh_input: bool,
    /// Experts that all tokens share: one dense network.
    pub shared: Option<Dense>,
    /// Whether the shared ones are weighted by the sigmoid of `ffn_gate_inp_shexp`.
    pub shared_gate: bool,
    /// Whether the router must be there (not in layers of multi-token prediction).
    pub need: Need,
    /// Whether the loader takes a file without any of the tensors, though the layer then does nothing that is meant.
    pub may_lack: bool,
    /// More tensors of the feed.
    pub extra: Vec<Item>,
}

impl Experts {
    /// Experts of a layer with SiLU, softmax over all and weights that sum to one.
    pub fn new(d: &Dims, layer: usize, len: Dim) -> Experts {
        Experts {
            input: d.embd,
            inner: d.embd,
            count: d.experts,
            used: d.experts_used(layer),
            len,
            gate: ExpertGate::Apart,
            activation: Activation::Silu,
            bias: Bias::Never,
            choice_bias: None,
            choice_name: "exp_probs_b.bias",
            router_reads_layer: false,
            by_token: None,
            chunks: None,
            compression: None,
            gating: Gating::Softmax,
            normalize: true,
            scale: d.expert_weights_scale,
            groups: d.expert_groups,
            groups_used: d.expert_groups_used,
            group_of_best: false,
            router: None,
            weigh_input: false,
            shared: None,
            shared_gate: false,
            need: if layer < d.layers() { Need::Required } else { Need::Optional },
            may_lack: false,
            extra: Vec::new(),
        }
    }

    /// The same with experts that all tokens share.
    #[must_use]
    pub fn shared(mut self, shared: Dense) -> Experts {
        self.shared = Some(shared.suffix("_shexp"));
        self
    }

    /// The same with this gating, its weights made to sum to one or not.
    #[must_use]
    pub fn gating(mut self, gating: Gating, normalize: bool) -> Experts {
        (self.gating, self.normalize) = (gating, normalize);
        self
    }

    /// The same with another function.
    #[must_use]
    pub fn activation(mut self, activation: Activation) -> Experts {
        self.activation = activation;
        self
    }

    /// The same with gate and up in one tensor, or apart.
    #[must_use]
    pub fn fused_or_apart(mut self) -> Experts {
        self.gate = ExpertGate::Either;
        self
    }

    fn items(&self) -> Vec<Item> {
        let mut items = linear("ffn_gate_inp", self.input, self.count, self.bias);
        if self.router.is_some() {
            items.push(Slot::new("ffn_gate_inp.scale", [self.input]).into());
        }
        if let Some(need) = self.choice_bias {
            items.push(Slot::new(self.choice_name, [self.count]).needed(need == Need::Required).into());
        }
        let wide = |name: &str, len: Dim| {
            let mut items: Vec<Item> =
                vec![Slot::new(format!("ffn_{name}_exps.weight"), [self.inner, len, self.count]).into()];
            items.extend(self.stack_bias(name, len));
            items
        };
        items.push(Slot::new("ffn_down_exps.weight", [self.len, self.inner, self.count]).into());
        items.extend(self.stack_bias("down", self.inner));
        let mut apart = wide("gate", self.len);
        apart.extend(wide("up", self.len));
        match self.gate {
            ExpertGate::None => items.extend(wide("up", self.len)),
            ExpertGate::Apart => items.extend(apart),
            ExpertGate::Optional => {
                items.extend(optional(wide("gate", self.len)));
                items.extend(wide("up", self.len));
            }
            ExpertGate::Either => {
                let apart = if self.need == Need::Required { apart } else { optional(apart) };
                items.push(either("ffn_gate_up_exps.weight", wide("gate_up", 2 * self.len), apart));
            }
        }
        if let Some(Compression { down, up, norm, need }) = &self.compression {
            let mut both = linear(down, self.input, self.inner, Bias::Never);
            both.extend(linear(up, self.inner, self.input, Bias::Never));
            items.extend(if *need == Need::Required { both } else { optional(both) });
            items.extend(norm.iter().flat_map(Norm::items));
        }
        if let Some(vocabulary) = self.by_token {
            items.push(Slot::new("ffn_gate_tid2eid.weight", [self.used, vocabulary]).into());
        }
        if let Some(Chunks { len, group, .. }) = self.chunks {
            let count = self.count / group;
            for (name, shape) in [("gate", [self.input, len]), ("down", [len, self.input]), ("up", [self.input, len])] {
                items.push(Slot::new(format!("ffn_{name}_chexps.weight"), [shape[0], shape[1], count]).into());
            }
        }
        if let Some(shared) = &self.shared {
            if self.shared_gate {
                items.push(Slot::new("ffn_gate_inp_shexp.weight", [self.input]).into());
            }
            items.extend(shared.items());
        }
        items.extend(self.extra.iter().cloned());
        if self.may_lack { optional(items) } else { items }
    }

    fn stack_bias(&self, name: &str, len: Dim) -> Option<Item> {
        let slot = Slot::new(format!("ffn_{name}_exps.bias"), [len, self.count]);
        match self.bias {
            Bias::Never => None,
            Bias::Optional => Some(slot.optional().into()),
            Bias::Required => Some(slot.into()),
        }
    }
}
