//! Attention over keys that are compressed in time (DeepSeek 4).

use super::dim::Dim;
use super::slot::{Bias, Item, Slot, linear};
use super::sparse::Indexer;

/// One key a token serves as key and value of all query heads. Beside a window of such keys, a token sees what earlier
/// spans of `ratio` tokens were compressed to: sums of projections (`attn_compressor_kv`) weighted by the softmax of
/// `attn_compressor_gate` plus a number a place. Spans of 4 overlap, and an indexer chooses among them; all others are
/// seen. The last dimensions of a head rotate, in pairs, in keys with a base of their own where they are compressed; the
/// output is rotated back and passes two matrices, the first of them group by group.
#[derive(Clone, Debug)]
pub struct Compressed {
    /// Length of what is projected.
    pub input: Dim,
    /// Query heads.
    pub heads: Dim,
    /// Length of a head.
    pub head: Dim,
    /// Dimensions of a head that rotate.
    pub rot: Dim,
    /// Length of the compressed query.
    pub q_rank: Dim,
    /// Tokens of a span; 0: nothing is compressed, the window is all.
    pub ratio: Dim,
    /// Tokens of the window.
    pub window: Dim,
    /// Groups of the output's first matrix.
    pub groups: Dim,
    /// Length that each group is compressed to.
    pub out_rank: Dim,
    /// What chooses spans where they overlap.
    pub indexer: Indexer,
    /// Base of the rotation where keys are compressed.
    pub compressed_base: f32,
    /// Epsilon of its norms.
    pub eps: f32,
}

impl Compressed {
    /// Spans of so many tokens overlap.
    const OVERLAPPING: u64 = 4;

    /// Whether spans overlap, and an indexer chooses among them.
    pub fn overlaps(&self) -> bool {
        self.ratio == Self::OVERLAPPING
    }

    pub(super) fn items(&self) -> Vec<Item> {
        let Compressed { input, heads, head, q_rank, ratio, groups, out_rank, .. } = *self;
        let mut items = vec![Slot::new("attn_sinks.weight", [heads]).into()];
        items.extend(linear("attn_q_a", input, q_rank, Bias::Never));
        items.push(Slot::new("attn_q_a_norm.weight", [q_rank]).into());
        items.extend(linear("attn_q_b", q_rank, heads * head, Bias::Never));
        items.extend(linear("attn_kv", input, head, Bias::Never));
        items.push(Slot::new("attn_kv_a_norm.weight", [head]).into());
        let grouped = Slot::new("attn_output_a.weight", [heads * head / groups, out_rank, groups]);
        items.push(grouped.count_only().into());
        items.extend(linear("attn_output_b", groups * out_rank, input, Bias::Never));
        if ratio == 0 {
            return items;
        }
        let overlapping = self.overlaps();
        items.extend(compressor("attn_compressor", input, head, if overlapping { 2 } else { 1 }, ratio));
        if overlapping {
            let Indexer { heads: index_heads, len, .. } = self.indexer;
            items.extend(linear("indexer.proj", input, index_heads, Bias::Never));
            items.extend(linear("indexer.attn_q_b", q_rank, index_heads * len, Bias::Never));
            items.extend(compressor("indexer_compressor", input, len, 2, ratio));
        }
        items
    }
}

/// What compresses keys of `len` values; `parts` 2 where spans overlap.
fn compressor(name: &str, input: Dim, len: Dim, parts: u64, ratio: Dim) -> Vec<Item> {
    let mut items = linear(&format!("{name}_kv"), input, len * parts, Bias::Never);
    items.extend(linear(&format!("{name}_gate"), input, len * parts, Bias::Never));
    items.push(Slot::new(format!("{name}_ape.weight"), [len * parts, ratio]).into());
    items.push(Slot::new(format!("{name}_norm.weight"), [len]).into());
    items
}
