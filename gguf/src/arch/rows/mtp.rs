//! Layers of multi-token prediction: what they have besides a layer of the trunk.

use crate::arch::{Bias, Dims, Item, Slot, linear};

/// The next token's embedding joins the state of this one: two norms and a projection.
pub(super) fn joining(d: &Dims) -> Vec<Item> {
    let mut items = linear("nextn.eh_proj", 2 * d.embd, d.embd, Bias::Never);
    items.extend(["enorm", "hnorm"].map(|n| Slot::new(format!("nextn.{n}.weight"), [d.embd]).into()));
    items
}

/// The same with embeddings, norm and output of the layer's own, where the file has them.
pub(super) fn prediction(d: &Dims) -> Vec<Item> {
    let mut items = joining(d);
    items.extend(
        ["embed_tokens", "shared_head_head"]
            .map(|n| Slot::new(format!("nextn.{n}.weight"), [d.embd, d.vocab]).optional().into()),
    );
    items.push(head_norm(d).optional().into());
    items
}

/// The norm before the output.
pub(super) fn head_norm(d: &Dims) -> Slot {
    Slot::new("nextn.shared_head_norm.weight", [d.embd])
}
