//! The memory that a model takes where it runs: its weights, and what it keeps of the tokens it has seen.
//!
//! The sizes are those that llama.cpp allocates for one sequence: keys and values of each token in each layer that has
//! its own, of the last tokens alone in layers with a window (plus one batch, in steps of 256), one compressed vector a
//! token in latent attention, and a state that does not grow with the context in recurrent layers (f32). Buffers for the
//! computation come on top; they depend on the device and the batch.

use std::collections::HashMap;

use crate::arch::{
    self, Absorbed, Attention, Compressed, DeltaNet, Dim, Dims, HeadMamba, Kind, Latent, Mamba, Mamba2, Over, Rwkv6,
    Rwkv7, WindowKind,
};
use crate::{Error, Metadata, Result, Source, TensorType};

/// llama.cpp allocates a cache in steps of this many tokens.
const STEP: u64 = 256;
/// Tokens of a batch that llama.cpp computes at once by default: a window's cache holds them too.
const BATCH: u64 = 512;

/// How many of its tokens a layer remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tokens {
    /// All.
    All,
    /// The last so many.
    Last(u64),
    /// One for each so many.
    OneOf(u64),
}

impl Tokens {
    /// What a layer with this window remembers.
    fn seen((kind, len): (WindowKind, Dim)) -> Tokens {
        match kind {
            WindowKind::Sliding | WindowKind::Chunked if len > 0 => Tokens::Last(len.get()),
            _ => Tokens::All,
        }
    }

    fn of(self, context: u64) -> u64 {
        let whole = |n: u64| n.saturating_add(STEP - 1) / STEP * STEP;
        match self {
            Tokens::All => whole(context),
            Tokens::Last(window) => whole(whole(context).min(window.saturating_add(BATCH))),
            Tokens::OneOf(n) => whole(context).div_ceil(n.max(1)),
        }
    }
}

/// Rows that a layer keeps: one for each token it remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rows {
    tokens: Tokens,
    elements: u64,
}

/// What a model keeps of its context.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    rows: Vec<Rows>,
    /// Numbers of the recurrent layers' states, f32.
    state: u64,
    /// The context that the model was made for; 0: its keys do not say.
    context: u64,
}

/// The kinds of type that llama.cpp and Ollama keep keys and values in.
pub const CACHE_TYPES: [TensorType; 2] = [TensorType::F16, TensorType::Q8_0];

impl Cache {
    /// What the model of these keys keeps.
    ///
    /// # Errors
    /// An architecture that is not known, keys that are missing or wrong.
    pub fn new(source: &dyn Source) -> Result<Cache> {
        let metadata = source.metadata();
        let shapes = source.tensors().iter().map(|t| (t.name().to_owned(), t.shape().dims().to_vec())).collect();
        Cache::of(metadata, shapes)
    }

    fn of(metadata: &Metadata, shapes: HashMap<String, Vec<u64>>) -> Result<Cache> {
        let name = metadata.architecture().unwrap_or_default();
        let row = arch::find(name).ok_or_else(|| {
            Error::input(format!("the architecture \"{name}\" is not known, so the size of its cache is not either"))
        })?;
        let (dims, faults) = row.dims(&|key| metadata.get(key), shapes);
        if let Some(fault) = faults.first() {
            return Err(Error::input(fault.message.clone()).help("`gguf check FILE` tells everything that is wrong"));
        }
        let mut cache = Cache { context: dims.context.get(), ..Cache::default() };
        for stack in &row.plan(&dims).stacks {
            // Layers of multi-token prediction run only where they are asked for.
            let trunk = stack.layers.len().min(if stack.prefix == "blk." { dims.layers() } else { usize::MAX });
            // An encoder sees a whole text at once and keeps nothing.
            let layers = if stack.prefix == "enc.blk." { &[] } else { &stack.layers[..trunk] };
            for branch in layers.iter().flat_map(|l| &l.steps).flat_map(|s| &s.branches) {
                cache.add(&branch.kind, &dims);
            }
        }
        Ok(cache)
    }

    fn add(&mut self, kind: &Kind, d: &Dims) {
        let before = |kernel: Dim| kernel - 1;
        match kind {
            Kind::Attention(a) if a.own_kv && a.causal => self.heads(a),
            Kind::Latent(l) => self.latent(l),
            Kind::Sparse(sparse) => {
                match &sparse.over {
                    Over::Heads(a) => self.heads(a),
                    Over::Latent(l) => self.latent(l),
                }
                if let Some(indexer) = &sparse.indexer {
                    self.row(Tokens::All, indexer.len);
                }
            }
            Kind::Compressed(c) => self.compressed(c),
            Kind::Mamba(Mamba { sizes: s, .. }) | Kind::HeadMamba(HeadMamba { sizes: s, .. }) => {
                self.state(before(s.kernel) * s.inner + s.state * s.inner);
            }
            Kind::Mamba2(Mamba2 { sizes: s, .. }) => {
                self.state(before(s.kernel) * (s.inner + s.groups * s.state * 2) + s.state * s.inner);
            }
            Kind::DeltaNet(DeltaNet { sizes: s, .. }) => {
                self.state(before(s.kernel) * (s.groups * s.state * 2 + s.rank * s.state) + s.rank * s.state * s.state);
            }
            Kind::Kda(k) => self.state(k.heads * k.head * (before(k.kernel) * 3 + k.head)),
            Kind::Lightning(l) => self.state(l.heads * l.head * l.head),
            Kind::ShortConv(c) => self.state(before(c.kernel) * c.input),
            Kind::Rwkv6(Rwkv6 { input, head, .. }) | Kind::Rwkv7(Rwkv7 { input, head, .. }) => {
                self.state(*input * (*head + d.token_shift));
            }
            Kind::Attention(_) | Kind::Cross(_) => {}
            // Each token for itself. The neighbour that channel mixing reads is counted with time mixing.
            Kind::ChannelMix(_) | Kind::Dense(_) | Kind::Experts(_) | Kind::Linear(_) | Kind::Pass(_) => {}
            Kind::PerLayer(_) | Kind::Laurel(_) | Kind::Other(_) => {}
        }
    }

    fn heads(&mut self, a: &Attention) {
        self.row(Tokens::seen(a.window), a.kv_heads * a.key_len);
        self.row(Tokens::seen(a.window), a.kv_heads * a.value_len);
    }

    fn latent(&mut self, l: &Latent) {
        if l.absorbed == Absorbed::Yes {
            // Values are made of the same compressed vector.
            self.row(Tokens::seen(l.window), l.kv_rank + l.rot);
        } else {
            self.row(Tokens::seen(l.window), l.heads * l.key_len);
            self.row(Tokens::seen(l.window), l.heads * l.value_len);
        }
    }

    fn compressed(&mut self, c: &Compressed) {
        self.row(Tokens::Last(c.window.get()), c.head);
        if c.ratio > 0 {
            self.row(Tokens::OneOf(c.ratio.get()), c.head);
            if c.overlaps() {
                self.row(Tokens::OneOf(c.ratio.get()), c.indexer.len);
            }
        }
    }

    fn row(&mut self, tokens: Tokens, elements: Dim) {
        self.rows.push(Rows { tokens, elements: elements.get() });
    }

    fn state(&mut self, numbers: Dim) {
        self.state = self.state.saturating_add(numbers.get());
    }

    /// Whether the model keeps nothing: it has no past.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.state == 0
    }

    /// The context that the model was made for; `None`: its keys do not say.
    pub fn context(&self) -> Option<u64> {
        Some(self.context).filter(|n| *n > 0)
    }

    /// Bytes for this many tokens with keys and values of this type; `None` where a row is not a whole number of its blocks.
    pub fn bytes(&self, context: u64, ty: TensorType) -> Option<u64> {
        let mut sum = self.state.saturating_mul(4);
        for row in &self.rows {
            sum = sum.saturating_add(row.tokens.of(context).saturating_mul(ty.bytes_for(row.elements)?));
        }
        Some(sum)
    }
}

/// Bytes of a model's tensors.
pub fn weights(source: &dyn Source) -> u64 {
    source.tensors().iter().fold(0, |sum: u64, t| sum.saturating_add(t.bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Value;

    fn cache(arch: &str, keys: &[(&str, u32)]) -> Cache {
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", arch);
        metadata.set(format!("{arch}.attention.layer_norm_rms_epsilon"), 1e-6_f32);
        for (key, value) in keys {
            metadata.set(format!("{arch}.{key}"), Value::U32(*value));
        }
        Cache::of(&metadata, HashMap::new()).unwrap()
    }

    const LLAMA_8B: &[(&str, u32)] = &[
        ("block_count", 32),
        ("context_length", 131_072),
        ("embedding_length", 4096),
        ("feed_forward_length", 14_336),
        ("attention.head_count", 32),
        ("attention.head_count_kv", 8),
        ("vocab_size", 128_256),
    ];

    #[test]
    fn the_whole_context_of_llama_3_1_takes_16_gib() {
        let cache = cache("llama", LLAMA_8B);
        assert_eq!(cache.context(), Some(131_072));
        assert_eq!(cache.bytes(131_072, TensorType::F16), Some(16 << 30));
        assert_eq!(cache.bytes(4096, TensorType::F16), Some(512 << 20));
        // A block of 32 numbers takes 34 bytes, and an allocation has steps of 256 tokens.
        assert_eq!(cache.bytes(4096, TensorType::Q8_0), Some((512 << 20) / 64 * 34));
        assert_eq!(cache.bytes(1, TensorType::F16), cache.bytes(256, TensorType::F16));
    }

    #[test]
    fn windows_hold_their_tokens_and_a_batch() {
        // Gemma 3 4B: 34 layers, of which every sixth sees everything.
        let keys = [
            ("block_count", 34),
            ("context_length", 131_072),
            ("embedding_length", 2560),
            ("feed_forward_length", 10_240),
            ("attention.head_count", 8),
            ("attention.head_count_kv", 4),
            ("attention.key_length", 256),
            ("attention.value_length", 256),
            ("attention.sliding_window", 1024),
            ("vocab_size", 262_208),
        ];
        let cache = cache("gemma3", &keys);
        let token = 2 * 4 * 256 * 2;
        assert_eq!(cache.bytes(131_072, TensorType::F16), Some(5 * 131_072 * token + 29 * 1536 * token));
        assert_eq!(cache.bytes(1024, TensorType::F16), Some(34 * 1024 * token));
    }

    #[test]
    fn latent_attention_keeps_one_vector_a_token() {
        // DeepSeek V2 Lite as it is converted today.
        let keys = [
            ("block_count", 27),
            ("context_length", 163_840),
            ("embedding_length", 2048),
            ("feed_forward_length", 10_944),
            ("expert_feed_forward_length", 1408),
            ("expert_count", 64),
            ("expert_used_count", 6),
            ("expert_shared_count", 2),
            ("leading_dense_block_count", 1),
            ("attention.head_count", 16),
            ("attention.head_count_kv", 1),
            ("attention.kv_lora_rank", 512),
            ("attention.key_length", 576),
            ("attention.value_length", 512),
            ("attention.key_length_mla", 192),
            ("attention.value_length_mla", 128),
            ("rope.dimension_count", 64),
            ("vocab_size", 102_400),
        ];
        let cache = cache("deepseek2", &keys);
        assert_eq!(cache.bytes(4096, TensorType::F16), Some(27 * 4096 * 576 * 2));
    }

    #[test]
    fn every_architecture_has_a_size_that_never_falls() {
        for row in arch::all() {
            let Some(metadata) = arch::sample(row) else { continue };
            let cache = Cache::of(&metadata, HashMap::new()).unwrap();
            let sizes = [1, 256, 4096, u64::MAX / 8].map(|n| cache.bytes(n, TensorType::F16).unwrap());
            assert!(sizes.is_sorted(), "{}: {sizes:?}", row.name);
        }
    }
}
