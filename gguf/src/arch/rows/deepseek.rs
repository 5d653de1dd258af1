//! DeepSeek 1 to 3, and others of their form.

use super::mtp::prediction;
use super::rms_layer;
use crate::arch::{
    Arch, Attention, BASE, Dense, Dims, Experts, Gating, Keys, Latent, Layer, Mtp, Need, NormKind, Own, Rotary,
    Scaling, Temperature, blocks, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "deepseek",
        keys: |k| {
            k.rms();
            k.dense_lead();
            k.need_expert_ff();
            k.d.experts_shared = k.need_u32("expert_shared_count");
            k.expert_scale();
            k.unused(&["expert_gating_func"]);
        },
        stacks: &[trunk(|d, l| {
            let attention = Attention::wide(d, l).rotary(d, Rotary::Pairs, l);
            if l < d.dense_lead {
                return rms_layer(d, attention, Dense::gated(d, d.ff(0)));
            }
            let experts = Experts::new(d, l, d.expert_ff(0)).gating(Gating::Softmax, false);
            rms_layer(d, attention, experts.shared(Dense::gated(d, d.expert_ff(0) * d.experts_shared)))
        })],
        demand: |d| lacks_experts(d, d.layers()),
        remark: "experts whose weights keep their sum, and shared ones; leading dense layers",
        ..BASE
    },
    Arch {
        name: "deepseek2",
        keys: deepseek2_keys,
        stacks: &[blocks(deepseek2)],
        mtp: Mtp { without_trunk: true, without_layers: true },
        demand: |d| {
            let (key, _) = lengths(d);
            let none = key <= d.rot(0);
            none.then(|| format!("all {key} values of a key rotate")).or_else(|| lacks_experts(d, d.layers_all))
        },
        remark: "latent attention; DeepSeek 2 and 3, GLM 4.7 Flash, Youtu and others",
        ..BASE
    },
    Arch {
        name: "deepseek2-ocr",
        keys: |k| {
            k.rms();
            moe_keys(k);
        },
        stacks: &[trunk(|d, l| {
            let mut attention = Attention::wide(d, l).rotary(d, Rotary::Halves, l);
            (attention.rows, attention.kv_heads) = ([d.embd; 4], d.heads(0));
            // Positions as they are, over whole heads.
            (attention.plain_rope, attention.rot) = (true, d.embd / d.heads(0));
            feed(d, l, attention)
        })],
        demand: |d| lacks_experts(d, d.layers()),
        remark: "the language model of DeepSeek-OCR: plain attention, DeepSeek's experts",
        ..BASE
    },
];

fn lacks_experts(d: &Dims, layers: usize) -> Option<String> {
    let none = d.experts == 0 || d.experts_used(0) == 0;
    (none && layers > d.dense_lead).then(|| format!("{} has experts behind its {} dense layers", d.arch, d.dense_lead))
}

/// Length of a head's key and value.
fn lengths(d: &Dims) -> (crate::arch::Dim, crate::arch::Dim) {
    if d.is_mla() { (d.key_len_mla, d.value_len_mla) } else { (d.key_len(0), d.value_len(0)) }
}

fn moe_keys(k: &mut Keys<'_>) {
    k.dense_lead();
    k.need_expert_ff();
    k.d.experts_shared = k.need_u32("expert_shared_count");
    k.expert_weights();
}

fn deepseek2_keys(k: &mut Keys<'_>) {
    let vocab = k.u32("vocab_size").or_else(|| k.array_len("tokenizer.ggml.tokens")).unwrap_or(0);
    k.keep("vocab_size", Own::Count(vocab));
    let layers = k.d.layers();
    k.rms();
    // The Lite models, which project queries at once, are told by their numbers of layers.
    let lite = matches!(layers, 26 | 27) || layers == 48 && vocab == 128_256;
    if k.d.any_size {
        k.d.q_rank = k.u32_or("attention.q_lora_rank", 0);
    } else if !lite {
        k.d.q_rank = k.need_u32("attention.q_lora_rank");
    }
    k.d.kv_rank = k.need_u32("attention.kv_lora_rank");
    k.d.key_len_mla = k.u32_or("attention.key_length_mla", 0);
    k.d.value_len_mla = k.u32_or("attention.value_length_mla", 0);
    moe_keys(k);
    k.d.yarn_log_mul = k.f32_or("rope.scaling.yarn_log_multiplier", 0.0);
    k.own_f32("attention.temperature_scale");
    k.own_u32("attention.temperature_length");
}

/// transformers' default epsilon within the attention; llama.cpp takes that of the key.
pub(super) const EPSILON_WITHIN: NormKind = NormKind::Rms(1e-6);

/// What YaRN multiplies scores of latent attention with in place of its cosines.
pub(super) fn yarn_scale(d: &Dims, log_multiplier: f32) -> f32 {
    let stretched = d.rope_scaling == Scaling::Yarn && d.rope_scale < 1.0;
    if stretched { (1.0 - log_multiplier * d.rope_scale.ln()).powi(2) } else { 1.0 }
}

fn deepseek2(d: &Dims, l: usize) -> Layer {
    let mut attention = Latent { norm: EPSILON_WITHIN, ..Latent::new(d, 0) };
    attention.scale *= yarn_scale(d, d.yarn_log_mul);
    attention.temperature = d.float("attention.temperature_scale").filter(|s| *s != 0.0).map(|scale| Temperature {
        floor: d.count("attention.temperature_length"),
        scale,
        offset: 0.0,
    });
    let layer = feed(d, l, attention);
    if l < d.layers() { layer } else { layer.with(prediction(d)) }
}

fn feed(d: &Dims, l: usize, mixer: impl Into<crate::arch::Kind>) -> Layer {
    if l < d.dense_lead {
        return rms_layer(d, mixer, Dense::gated(d, d.ff(0)));
    }
    let mut experts = Experts::new(d, l, d.expert_ff(0)).fused_or_apart();
    experts.choice_bias = Some(Need::Optional);
    experts = experts.gating(gating(d, l), d.expert_weights_norm);
    // DeepSeek 2 takes the best expert for the worth of its group, DeepSeek 3 the best two, as llama.cpp does for both.
    experts.group_of_best = experts.gating == Gating::Softmax;
    rms_layer(d, mixer, experts.shared(Dense::gated(d, d.expert_ff(0) * d.experts_shared)))
}

/// What a file without `expert_gating_func` means. A bias for the choice came with the sigmoid in transformers;
/// llama.cpp goes by the numbers of layers and tokens alone, which it takes for those of GLM 4.7 Flash.
fn gating(d: &Dims, l: usize) -> Gating {
    let flash = matches!(d.layers(), 47 | 48) && d.count("vocab_size") == 154_880;
    let otherwise = if flash || d.has(l, "exp_probs_b.bias") { Gating::Sigmoid } else { Gating::Softmax };
    Gating::said(d, otherwise)
}
