//! Qwen 3.5: gated delta nets, gated attention every fourth layer, rotation by sections.

use super::mtp::prediction;
use super::qwen::recurrent_layers;
use crate::arch::{
    Arch, Attention, BASE, DeltaInputs, DeltaNet, Dense, Dims, Experts, Gate, Keys, Kind, Layer, Mtp, Norm, Rotary,
    blocks, step,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "qwen35",
        stacks: &[blocks(|d, l| layer(d, l, Dense::gated(d, d.ff(0)).into()))],
        remark: "gated delta nets, gated attention every fourth layer",
        ..QWEN35
    },
    Arch {
        name: "qwen35moe",
        keys: |k| {
            k.expert_ff();
            k.shared_ff();
            keys(k);
        },
        stacks: &[blocks(|d, l| layer(d, l, experts(d, l).into()))],
        remark: "the same with experts and a shared expert with a gate",
        ..QWEN35
    },
];

const QWEN35: Arch = Arch { keys, mtp: Mtp { without_trunk: true, without_layers: false }, ..BASE };

fn keys(k: &mut Keys<'_>) {
    k.rms();
    k.need_rope_sections();
    k.state_space(true);
    recurrent_layers(k);
}

fn layer(d: &Dims, l: usize, feed: Kind) -> Layer {
    let mixer: Kind = if l < d.layers() && d.recurrent(l) {
        DeltaNet::new(d, DeltaInputs::Apart).into()
    } else {
        Attention::uniform(d, l).rotary(d, Rotary::Sections, l).head_norms(d).gate(Gate::DoubledQuery).into()
    };
    let layer = Layer::new([step(Norm::rms(d, "attn_norm"), mixer), step(Norm::rms(d, "post_attention_norm"), feed)]);
    if l < d.layers() { layer } else { layer.with(prediction(d)) }
}

fn experts(d: &Dims, l: usize) -> Experts {
    let len = d.expert_ff(0).or(d.ff(0) / d.experts_used(0));
    let shared = Dense::gated(d, d.shared_ff.or(d.ff(0)));
    Experts { shared_gate: true, ..Experts::new(d, l, len).fused_or_apart().shared(shared) }
}
