//! Lightning attention: linear attention with a fixed decay of each head.

use super::dim::Dim;
use super::slot::{Bias, Item, Slot, linear};

/// Linear attention over heads (MiniMax-01).
///
/// `attn_qkv` passes SiLU; its rows are query, key and value of each head in turn. The state of head h (from 0) of H loses
/// e^(−slope · 2^(−8 (h + 1) / H)) at each token, then gains key ⊗ value. What it gives is normalized over all heads
/// (`attn_norm_2`) and multiplied with the sigmoid of `attn_gate`.
#[derive(Clone, Debug)]
pub struct Lightning {
    /// Length of what is projected.
    pub input: Dim,
    /// Heads.
    pub heads: Dim,
    /// Length of a head.
    pub head: Dim,
    /// What the heads' slopes are multiplied with in this layer.
    pub slope: f32,
    /// Epsilon of the norm.
    pub eps: f32,
}

impl Lightning {
    pub(super) fn items(&self) -> Vec<Item> {
        let inner = self.heads * self.head;
        let mut items = vec![Slot::new("attn_norm_2.weight", [inner]).into()];
        items.extend(linear("attn_qkv", self.input, inner * 3, Bias::Never));
        items.extend(linear("attn_gate", self.input, inner, Bias::Never));
        items.extend(linear("attn_output", inner, self.input, Bias::Never));
        items
    }
}
