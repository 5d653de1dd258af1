//! Qwen 1 to 3.

use super::mtp::prediction;
use crate::arch::{
    Arch, Attention, BASE, Bias, DeltaInputs, DeltaNet, Dense, Dims, Ends, Experts, Gate, Keys, Layer, Mtp, Norm,
    Rotary, Types, blocks, linear, optional, step,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "qwen2",
        types: Types { seventy_b: 80, ..BASE.types },
        ends: |d| Ends::tied(d).output_bias(d, Bias::Optional),
        stacks: &[blocks(qwen2)],
        remark: "",
        ..BASE
    },
    Arch {
        name: "qwen3",
        ends: |d| Ends::tied(d).with(optional(linear("cls.output", d.embd, d.classes(), Bias::Never))),
        stacks: &[blocks(qwen3)],
        remark: "norms of each head's queries and keys",
        ..BASE
    },
    Arch {
        name: "qwen3next",
        keys: qwen3next_keys,
        stacks: &[blocks(qwen3next)],
        mtp: Mtp { without_trunk: true, without_layers: false },
        demand: |d| (d.experts == 0).then(|| "qwen3next has experts".to_owned()),
        remark: "gated delta nets, gated attention every fourth layer, a shared expert with a gate",
        ..BASE
    },
];

fn qwen2(d: &Dims, l: usize) -> Layer {
    let attention = Attention::square(d, 0).rotary(d, Rotary::Halves, l);
    Layer::new([step(Norm::rms(d, "attn_norm"), attention), step(Norm::rms(d, "ffn_norm"), Dense::gated(d, d.ff(0)))])
}

fn qwen3(d: &Dims, l: usize) -> Layer {
    let attention = Attention::new(d, 0).rotary(d, Rotary::Halves, l).head_norms(d);
    Layer::new([step(Norm::rms(d, "attn_norm"), attention), step(Norm::rms(d, "ffn_norm"), Dense::gated(d, d.ff(0)))])
}

fn qwen3next_keys(k: &mut Keys<'_>) {
    k.expert_ff();
    k.shared_ff();
    k.rms();
    k.state_space(true);
    recurrent_layers(k);
}

/// Which layers are recurrent: a list, or all but every n-th of the trunk.
pub(super) fn recurrent_layers(k: &mut Keys<'_>) {
    let all = k.d.layers_all;
    k.d.recurrent = match k.u32s("attention.recurrent_layers", all) {
        Some(list) => {
            k.unused(&["full_attention_interval"]);
            list.iter().map(|n| *n != 0).collect()
        }
        None => {
            let interval = k.u32_or("full_attention_interval", 4).len();
            let trunk = k.d.layers();
            (0..all).map(|i| i < trunk && !(i + 1).is_multiple_of(interval)).collect()
        }
    };
}

fn qwen3next(d: &Dims, l: usize) -> Layer {
    let before = Norm::rms(d, "attn_norm");
    let mixer = if d.recurrent(l) {
        step(before, DeltaNet::new(d, DeltaInputs::Interleaved))
    } else {
        step(before, Attention::uniform(d, l).rotary(d, Rotary::Halves, l).head_norms(d).gate(Gate::DoubledQuery))
    };
    let len = d.expert_ff(0).or(d.ff(0) / d.experts_used(0));
    let mut experts = Experts::new(d, l, len).fused_or_apart().shared(Dense::gated(d, d.shared_ff.or(d.ff(l))));
    experts.shared_gate = true;
    let layer = Layer::new([mixer, step(Norm::rms(d, "post_attention_norm"), experts)]);
    if l < d.layers() { layer } else { layer.with(prediction(d)) }
}
