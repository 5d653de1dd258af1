//! Llama and its closest relatives.

use super::{norm_layer, rms_layer};
use crate::arch::{
    Arch, Attention, BASE, Bias, Dense, Dims, Ends, ExpertGate, Experts, Gating, HeadNorm, Keys, Layer, Linear, Norm,
    NormKind, Rotary, Temperature, Types, WindowKind, bias, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch { name: "llama", rotates_whole_heads: true, ..LLAMA },
    Arch { name: "llama-embed", rotates_whole_heads: true, ..LLAMA },
    Arch {
        name: "llama4",
        keys: llama4_keys,
        ends: |d| Ends::tied(d).rope_freqs(d.rot(0) / 2),
        stacks: &[trunk(llama4)],
        demand: |d| (d.experts == 0).then(|| "llama4 has experts".to_owned()),
        remark: "chunks of 8192 tokens; every fourth layer sees all, unrotated and tempered; experts with weighted inputs",
        ..BASE
    },
    Arch {
        name: "deci",
        types: crate::arch::Types { seventy_b: 80, ..BASE.types },
        stacks: &[trunk(deci)],
        rotates_whole_heads: true,
        remark: "layers of different sizes, some without attention or with one matrix in its place, some without a feed",
        ..LLAMA
    },
    Arch {
        name: "refact",
        keys: |k| {
            k.rms();
            k.d.alibi_bias = 8.0;
        },
        stacks: &[trunk(|d, l| llama(d, l, Rotary::None))],
        types: BASE.types,
        remark: "Llama with ALiBi in place of rotation",
        ..LLAMA
    },
    Arch {
        name: "maincoder",
        stacks: &[trunk(|d, l| {
            let attention = Attention::grouped(d, l).rotary(d, Rotary::Pairs, l).head_norms(d).norms_after_rotation();
            rms_layer(d, attention, Dense::gated(d, d.ff(0)))
        })],
        remark: "norms of each head's queries and keys, behind the rotation",
        ..BASE
    },
    Arch {
        name: "baichuan",
        keys: baichuan_keys,
        remark: "7B rotates; 13B, told by its 40 layers, has ALiBi in place of rotation",
        ..WIDE
    },
    Arch { name: "xverse", remark: "Llama's layers", ..WIDE },
    Arch { name: "internlm2", remark: "Llama's layers", ..WIDE },
    Arch {
        name: "orion",
        keys: |k| k.layer_norm(),
        ends: |d| Ends::untied(d).norm(Norm::layer(d, "output_norm")),
        stacks: &[trunk(|d, l| {
            let attention = Attention::wide(d, l).rotary(d, Rotary::Halves, l);
            norm_layer(d, attention, Dense::gated(d, d.ff(0)))
        })],
        remark: "Llama's layers with norms by mean and variance",
        ..BASE
    },
];

const LLAMA: Arch = Arch {
    ends: |d| Ends::tied(d).rope_factors(d),
    stacks: &[trunk(|d, l| llama(d, l, Rotary::Pairs))],
    types: Types { seventy_b: 80, shared_heads_only: true, ..BASE.types },
    remark: "Llama 1 to 3, Mistral, Mixtral and models of their form",
    ..BASE
};

/// Llama's layers with an output matrix of their own, read by loaders that take the width for all queries' length.
const WIDE: Arch = Arch {
    ends: Ends::untied,
    stacks: &[trunk(|d, l| rms_layer(d, Attention::wide(d, l).rotary(d, Rotary::Pairs, l), Dense::gated(d, d.ff(0))))],
    ..BASE
};

/// Grouped attention, then a gated network or experts.
fn llama(d: &Dims, l: usize, rotary: Rotary) -> Layer {
    let attention = Attention::uniform(d, l).bias(Bias::Optional, Bias::Optional).rotary(d, rotary, l);
    if d.experts == 0 {
        return rms_layer(d, attention, Dense::gated(d, d.ff(0)).bias(Bias::Optional));
    }
    let mut experts = Experts::new(d, l, d.ff(0));
    experts.gate = ExpertGate::Optional;
    if d.shared_ff > 0 {
        experts = experts.shared(Dense::gated(d, d.shared_ff));
    }
    rms_layer(d, attention, experts)
}

fn llama4_keys(k: &mut Keys<'_>) {
    k.rms();
    k.need_expert_ff();
    k.d.expert_every = k.need_u32("interleave_moe_layer_step").len();
    if k.u32("attention.sliding_window") == Some(0) {
        // MobileLLM, whose layers all see everything, rotates in all of them in transformers; llama.cpp leaves out the last.
        return k.no_windows();
    }
    (k.d.window_kind, k.d.window) = (WindowKind::Chunked, 8192.into());
    k.window_pattern(4, false);
    k.windowed_rope_as_others();
    k.d.rotates = (1..=k.d.layers_all).map(|n| n % 4 != 0).collect();
}

fn llama4(d: &Dims, l: usize) -> Layer {
    let mut attention = Attention::uniform(d, l).rotary(d, Rotary::Pairs, l);
    if attention.rotary == Rotary::None {
        attention.temperature = Some(Temperature { floor: 8192.into(), scale: 0.1, offset: 1.0 });
    } else if d.experts != 128 {
        attention = attention.norms(NormKind::Rms(d.rms_eps), HeadNorm::Plain).norms_after_rotation();
    }
    if d.expert_every == 0 || !(l + 1).is_multiple_of(d.expert_every) {
        return rms_layer(d, attention, Dense::gated(d, d.ff(0)));
    }
    let mut experts = Experts::new(d, l, d.expert_ff(0)).gating(Gating::Sigmoid, false);
    experts.weigh_input = true;
    rms_layer(d, attention, experts.shared(Dense::gated(d, d.expert_ff(0))))
}

fn deci(d: &Dims, l: usize) -> Layer {
    let norm = Norm::rms(d, "attn_norm");
    let mut layer = Layer::new([]);
    if d.kv_heads(l) > 0 {
        let attention = Attention::new(d, l).bias(Bias::Optional, Bias::Optional).rotary(d, Rotary::Pairs, l);
        layer.steps.push(step(norm, attention));
    } else if d.heads(l) > 0 {
        layer.steps.push(step(norm, Linear { name: "attn_output", input: d.embd, output: d.embd }));
    }
    // Where a layer has no feed, llama.cpp drops what its attention gave too; the model's own code does not.
    if d.ff(l) > 0 {
        layer.steps.push(step(Norm::rms(d, "ffn_norm"), Dense::gated(d, d.ff(l)).bias(Bias::Optional)));
    }
    let biases = [("attn_output", d.embd), ("ffn_gate", d.ff(l)), ("ffn_up", d.ff(l)), ("ffn_down", d.embd)];
    layer.with(biases.into_iter().filter_map(|(name, len)| bias(name, len, Bias::Optional)))
}

fn baichuan_keys(k: &mut Keys<'_>) {
    k.rms();
    if k.d.layers() == 40 {
        k.d.alibi_bias = 8.0;
        k.d.rotates = vec![false; k.d.layers_all];
    }
}
