//! Mixing of RWKV 6 and 7, over time and over channels.

use super::dim::Dim;
use super::slot::{Bias, Item, Need, Slot, bias, either, linear, optional};

/// Time mixing of RWKV 6: a state of each head with decays that depend on the data, and of its descendant that was made
/// from Qwen 2.5, which has no bonus for the current token (`time_mix_first`), no norm, and keys times 1 − decay.
#[derive(Clone, Debug)]
pub struct Rwkv6 {
    /// Width of the stream.
    pub input: Dim,
    /// Length of a head.
    pub head: Dim,
    /// Heads of keys and values; 0: as many as there are.
    pub kv_heads: Dim,
    /// Rank of the mix of neighbours.
    pub mix_rank: Dim,
    /// Rank of the decay.
    pub decay_rank: Dim,
    /// Whether it is the one that was made from Qwen 2.5.
    pub from_attention: bool,
    /// Epsilon of the norm of each head (`time_mix_ln`).
    pub eps: f32,
}

impl Rwkv6 {
    pub(super) fn items(&self) -> Vec<Item> {
        let Rwkv6 { input, head, kv_heads, mix_rank, decay_rank, from_attention, .. } = *self;
        let heads = input / head;
        let kv = if kv_heads == 0 || kv_heads == heads { input } else { kv_heads * head };
        let name = |n: &str| format!("time_mix_{n}");
        let vector = |n: &str| Slot::new(format!("time_mix_{n}.weight"), [input]);
        let mut items = linear(&name("w1"), input, mix_rank * 5, Bias::Never);
        items.push(Slot::new("time_mix_w2.weight", [mix_rank, input, Dim(5)]).into());
        items.push(vector("lerp_x").into());
        let fused: Item = Slot::new("time_mix_lerp_fused.weight", [input, Dim(1), Dim(1), Dim(5)]).into();
        if from_attention {
            items.push(fused);
        } else {
            // The loader asks for one of two alternatives by its first tensor and takes all.
            let apart = ["k", "v", "r", "g"].map(|n| Item::from(vector(&format!("lerp_{n}")).optional()));
            let without = [Item::from(vector("lerp_w"))].into_iter().chain(apart.clone()).collect();
            let with = [fused, vector("lerp_w").optional().into()].into_iter().chain(apart).collect();
            items.push(either("time_mix_lerp_fused.weight", with, without));
        }
        items.push(Slot::new("time_mix_first.weight", [head, heads]).needed(!from_attention).into());
        items.push(vector("decay").into());
        items.extend(linear(&name("decay_w1"), input, decay_rank, Bias::Never));
        items.extend(linear(&name("decay_w2"), decay_rank, input, Bias::Never));
        let biases = if from_attention { Bias::Optional } else { Bias::Never };
        items.extend(linear(&name("key"), input, kv, biases));
        items.extend(linear(&name("value"), input, kv, biases));
        items.extend(linear(&name("receptance"), input, input, biases));
        items.extend(linear(&name("gate"), input, input, Bias::Never));
        if !from_attention {
            items.push(vector("ln").into());
            items.extend(bias(&name("ln"), input, Bias::Required));
        }
        items.extend(linear(&name("output"), input, input, Bias::Never));
        items
    }
}

/// Time mixing of RWKV 7: a delta rule of each head with decays and rates that depend on the data. Values are mixed with
/// those of the first layer.
#[derive(Clone, Debug)]
pub struct Rwkv7 {
    /// Width of the stream.
    pub input: Dim,
    /// Length of a head.
    pub head: Dim,
    /// Rank of the decay.
    pub decay_rank: Dim,
    /// Rank of the rate.
    pub rate_rank: Dim,
    /// Rank of the mix with the first layer's values.
    pub value_rank: Dim,
    /// Rank of the gate.
    pub gate_rank: Dim,
    /// Whether gate and norm (`time_mix_ln`) must be there.
    pub need: Need,
    /// Epsilon of the norm of each head.
    pub eps: f32,
}

impl Rwkv7 {
    pub(super) fn items(&self) -> Vec<Item> {
        let Rwkv7 { input, decay_rank, rate_rank, value_rank, gate_rank, .. } = *self;
        let vector = |n: &str| Item::from(Slot::new(format!("time_mix_{n}.weight"), [input]));
        let matrix =
            |n: &str, cols: Dim, rows: Dim| Item::from(Slot::new(format!("time_mix_{n}.weight"), [cols, rows]));
        let needed = |items: Vec<Item>| if self.need == Need::Required { items } else { optional(items) };
        let mut items = Vec::new();
        for (n, rank) in [("w", decay_rank), ("a", rate_rank), ("v", value_rank)] {
            items.push(vector(&format!("{n}0")));
            items.push(matrix(&format!("{n}1"), input, rank));
            items.push(matrix(&format!("{n}2"), rank, input));
        }
        items.extend(needed(vec![matrix("g1", input, gate_rank), matrix("g2", gate_rank, input)]));
        let six = [input, Dim(1), Dim(1), Dim(6)];
        let lerp = Slot::new("time_mix_lerp_fused.weight", six);
        // Without a gate there is nothing to mix for it.
        let five = [input, Dim(1), Dim(1), Dim(5)];
        items.push(if self.need == Need::Required { lerp } else { lerp.or_shape(five) }.into());
        items.extend(["k_k", "k_a", "r_k"].map(vector));
        items.extend(["key", "value", "receptance"].map(|n| matrix(n, input, input)));
        let mut norm = vec![vector("ln")];
        norm.extend(bias("time_mix_ln", input, Bias::Required));
        items.extend(needed(norm));
        items.push(matrix("output", input, input));
        items
    }
}

/// Channel mixing of RWKV: a feed with squared ReLU that reads a mix of this token and the one before.
#[derive(Clone, Debug)]
pub struct ChannelMix {
    /// Width of the stream.
    pub input: Dim,
    /// Length between the matrices.
    pub len: Dim,
    /// Whether the output is multiplied with the sigmoid of `channel_mix_receptance` (RWKV 6).
    pub receptance: bool,
}

impl ChannelMix {
    pub(super) fn items(&self) -> Vec<Item> {
        let ChannelMix { input, len, .. } = *self;
        let mut items = vec![Slot::new("channel_mix_lerp_k.weight", [input]).into()];
        items.extend(linear("channel_mix_key", input, len, Bias::Never));
        items.extend(linear("channel_mix_value", len, input, Bias::Never));
        if self.receptance {
            items.push(Slot::new("channel_mix_lerp_r.weight", [input]).into());
            items.extend(linear("channel_mix_receptance", input, input, Bias::Never));
        }
        items
    }
}
