//! Qwen 1 to 3.

use super::mtp::prediction;
use super::{expert_len, needs_experts, rms_layer};
use crate::arch::{
    Arch, Attention, BASE, Bias, Classifier, DeltaInputs, DeltaNet, Dense, Dim, Dims, Ends, Experts, Gate, Gating,
    Keys, Layer, Mtp, Norm, Projections, Rotary, Slot, Types, blocks, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "qwen",
        keys: |k| {
            k.rms();
            k.unused(&["attention.layer_norm_epsilon"]);
        },
        ends: Ends::untied,
        stacks: &[trunk(|d, l| {
            let mut attention = Attention::wide(d, l).stored(Projections::Fused).bias(Bias::Required, Bias::Never);
            attention.rows = [d.embd; 4];
            rms_layer(d, attention.rotary(d, Rotary::Halves, l), Dense::gated(d, d.ff(0) / 2))
        })],
        remark: "one tensor with a bias for queries, keys and values; the key has twice the feed's length",
        ..BASE
    },
    Arch {
        name: "qwen2",
        types: Types { seventy_b: 80, ..BASE.types },
        remark: "biases of queries, keys and values",
        ..QWEN2
    },
    Arch {
        name: "qwen2vl",
        keys: |k| {
            k.need_rope_sections();
            // The loader takes no epsilon at all from the file.
            k.d.rms_eps = k.unread_f32("attention.layer_norm_rms_epsilon").unwrap_or(0.0);
        },
        stacks: &[trunk(|d, l| qwen2(d, l, Rotary::Sections))],
        remark: "Qwen2 with rotation by time, height and width",
        ..QWEN2
    },
    Arch {
        name: "qwen2moe",
        keys: moe_keys,
        ends: Ends::untied,
        stacks: &[trunk(|d, l| {
            let mut experts = Experts::new(d, l, expert_len(d)).gating(Gating::Softmax, false);
            experts = experts.shared(Dense::gated(d, d.shared_ff.or(d.ff(0))));
            experts.shared_gate = true;
            rms_layer(d, Attention::wide(d, l).rotary(d, Rotary::Halves, l), experts)
        })],
        demand: needs_experts,
        remark: "experts whose weights keep their sum, and a shared one with a gate",
        ..BASE
    },
    Arch {
        name: "dream",
        keys: |k| {
            k.rms();
            k.d.causal = false;
        },
        remark: "Qwen2 in both directions, a diffusion model",
        ..QWEN2
    },
    Arch {
        name: "qwen3",
        ends: |d| Ends::tied(d).classifier(d, Classifier::shares(d)),
        remark: "norms of each head's queries and keys; rerankers have a classifier",
        ..QWEN3
    },
    Arch { name: "qwen3vl", remark: "Qwen3 with rotation by time, height and width", ..QWEN3VL },
    Arch {
        name: "qwen3tts",
        ends: |d| {
            let codes = Dim(3072);
            let output = Slot::new("output.weight", [d.embd, codes]).optional();
            let mut ends = Ends::embedding_only(d).with([output.into()]);
            ends.first_logit = if d.present("output.weight") { d.vocab - codes } else { Dim(0) };
            ends.classifier(d, Classifier { softmax: false, ..Classifier::shares(d) })
        },
        remark: "Qwen3-VL that gives the last 3072 tokens alone, which are codes of speech",
        ..QWEN3VL
    },
    Arch {
        name: "qwen3moe",
        keys: moe_keys,
        stacks: &[trunk(|d, l| qwen3moe(d, l, Rotary::Halves))],
        remark: "Qwen3 with experts",
        ..QWEN3MOE
    },
    Arch {
        name: "qwen3vlmoe",
        keys: |k| {
            qwen3vl_keys(k);
            k.expert_ff();
        },
        stacks: &[trunk(|d, l| qwen3moe(d, l, Rotary::Sections))],
        remark: "Qwen3-VL with experts",
        ..QWEN3MOE
    },
    Arch {
        name: "rnd1",
        keys: |k| {
            moe_keys(k);
            k.d.causal = false;
        },
        remark: "Qwen3 with experts in both directions, a diffusion model",
        ..QWEN3MOE
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

const QWEN2: Arch = Arch {
    ends: |d| Ends::tied(d).output_bias(d, Bias::Optional),
    stacks: &[trunk(|d, l| qwen2(d, l, Rotary::Halves))],
    ..BASE
};

const QWEN3: Arch = Arch { stacks: &[trunk(|d, l| qwen3(d, l, Rotary::Halves))], ..BASE };

const QWEN3VL: Arch = Arch {
    keys: qwen3vl_keys,
    ends: |d| Ends::tied(d).classifier(d, Classifier::shares(d)),
    stacks: &[trunk(|d, l| qwen3(d, l, Rotary::Sections))],
    ..BASE
};

const QWEN3MOE: Arch = Arch { stacks: &[trunk(|d, l| qwen3moe(d, l, Rotary::Halves))], demand: needs_experts, ..BASE };

fn qwen2(d: &Dims, l: usize, rotary: Rotary) -> Layer {
    rms_layer(d, Attention::wide(d, l).rotary(d, rotary, l), Dense::gated(d, d.ff(0)))
}

fn moe_keys(k: &mut Keys<'_>) {
    k.rms();
    k.expert_ff();
    k.d.shared_ff = k.unread_u32("expert_shared_feed_forward_length").unwrap_or(0).into();
}

fn qwen3vl_keys(k: &mut Keys<'_>) {
    // Images add to the first layers; text does not.
    k.u32("n_deepstack_layers");
    k.need_rope_sections();
    k.rms();
}

fn normed(d: &Dims, l: usize, rotary: Rotary) -> Attention {
    Attention::grouped(d, l).rotary(d, rotary, l).head_norms(d)
}

fn qwen3(d: &Dims, l: usize, rotary: Rotary) -> Layer {
    rms_layer(d, normed(d, l, rotary), Dense::gated(d, d.ff(0)))
}

fn qwen3moe(d: &Dims, l: usize, rotary: Rotary) -> Layer {
    rms_layer(d, normed(d, l, rotary), Experts::new(d, l, expert_len(d)))
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
    let mut experts = Experts::new(d, l, expert_len(d)).fused_or_apart();
    experts = experts.shared(Dense::gated(d, d.shared_ff.or(d.ff(l))));
    experts.shared_gate = true;
    let layer = Layer::new([mixer, step(Norm::rms(d, "post_attention_norm"), experts)]);
    if l < d.layers() { layer } else { layer.with(prediction(d)) }
}
