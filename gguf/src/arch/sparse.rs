//! Attention that sees the tokens which an indexer chooses.

use super::dim::Dim;
use super::dims::Dims;
use super::slot::{Bias, Item, Need, Slot, linear, optional};
use super::step::{Attention, Latent, Rotary};

/// Attention restricted to the best tokens by an index. A sequence of no more tokens than are chosen is attended whole.
#[derive(Clone, Debug)]
pub struct Sparse {
    /// What attends.
    pub over: Over,
    /// What chooses; `None`: what the last layer with an indexer chose holds here too.
    pub indexer: Option<Indexer>,
}

/// What attends to chosen tokens.
#[derive(Clone, Debug)]
pub enum Over {
    /// Attention over heads.
    Heads(Box<Attention>),
    /// Latent attention.
    Latent(Box<Latent>),
}

impl Sparse {
    pub(super) fn items(&self) -> Vec<Item> {
        let mut items = match &self.over {
            Over::Heads(a) => a.items(""),
            Over::Latent(l) => l.items(),
        };
        items.extend(self.indexer.iter().flat_map(Indexer::items));
        items
    }
}

/// Small heads that score each earlier token: Σ over heads of weight · max(query · key, 0), with one key a token and the
/// weights `indexer.proj` / √(length · heads) where it has them.
#[derive(Clone, Debug, PartialEq)]
pub struct Indexer {
    /// Heads.
    pub heads: Dim,
    /// Length of a head.
    pub len: Dim,
    /// How many tokens are chosen.
    pub best: Dim,
    /// What queries are made of, and how they and the keys are normalized.
    pub form: IndexForm,
    /// How queries and keys rotate: as many dimensions as in the attention, the first ones.
    pub rotary: Rotary,
    /// Whether it is the last dimensions that rotate (Hunyuan 4).
    pub rotates_last: bool,
    /// Neighbours that are chosen together.
    pub pool: Pool,
    /// Epsilon of its norms.
    pub eps: f32,
    /// Whether it must be there.
    pub need: Need,
}

/// What an indexer's queries are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexForm {
    /// Of the compressed query of latent attention, `rank` long; a layer norm of the keys; weights of heads.
    Compressed {
        /// Length of the stream.
        input: Dim,
        /// Length of the compressed query.
        rank: Dim,
    },
    /// Of the stream; norms of queries and keys by the root of the mean square; no weights.
    Plain {
        /// Length of the stream.
        input: Dim,
    },
}

/// Which neighbours an indexer chooses together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// None: single tokens.
    None,
    /// So many tokens, whose keys become one by a softmax of `indexer_compressor_gate` plus a number a place
    /// (`indexer_compressor_ape`); with `tail`, those of the last, incomplete pool are always chosen.
    Gated {
        /// Tokens.
        len: Dim,
        /// Length of the stream.
        input: Dim,
        /// Whether the tail is chosen.
        tail: bool,
    },
    /// So many tokens, whose keys are averaged; those of the last, incomplete pool are always chosen, with as many more as
    /// make a pool less one.
    Mean {
        /// Tokens.
        len: Dim,
    },
    /// So many tokens, ranked by the best of them; the last `local` blocks are always chosen.
    Best {
        /// Tokens.
        len: Dim,
        /// Blocks.
        local: Dim,
    },
}

/// Which layers have an indexer of their own.
pub(super) const TYPES: &str = "attention.indexer.types";
/// Heads, their length and the number of chosen tokens.
pub(super) const KEYS: [&str; 3] =
    ["attention.indexer.head_count", "attention.indexer.key_length", "attention.indexer.top_k"];

impl Indexer {
    /// The indexer that a model's keys describe.
    pub fn new(d: &Dims, form: IndexForm, rotary: Rotary) -> Indexer {
        let [heads, len, best] = KEYS.map(|key| d.count(key));
        let eps = if d.norm_eps == 0.0 { d.rms_eps } else { d.norm_eps };
        Indexer { heads, len, best, form, rotary, rotates_last: false, pool: Pool::None, eps, need: Need::Required }
    }

    /// Its tensors.
    pub fn items(&self) -> Vec<Item> {
        let Indexer { heads, len, .. } = *self;
        let norm = |n: &str| Slot::new(format!("indexer.{n}_norm.weight"), [len]).into();
        let mut items: Vec<Item>;
        match self.form {
            IndexForm::Compressed { input, rank } => {
                items = vec![norm("k"), Slot::new("indexer.k_norm.bias", [len]).into()];
                items.extend(linear("indexer.proj", input, heads, Bias::Never));
                items.extend(linear("indexer.attn_k", input, len, Bias::Never));
                items.extend(linear("indexer.attn_q_b", rank, heads * len, Bias::Never));
            }
            IndexForm::Plain { input } => {
                items = linear("indexer.q_proj", input, heads * len, Bias::Never);
                items.extend(linear("indexer.k_proj", input, len, Bias::Never));
                items.extend([norm("q"), norm("k")]);
            }
        }
        if let Pool::Gated { len: pool, input, .. } = self.pool {
            items.extend(linear("indexer_compressor_gate", input, len, Bias::Never));
            items.push(Slot::new("indexer_compressor_ape.weight", [len, pool]).into());
        }
        if self.need == Need::Required { items } else { optional(items) }
    }
}
