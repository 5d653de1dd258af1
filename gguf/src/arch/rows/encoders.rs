//! Encoders that normalize before each branch.

use super::rms_layer;
use crate::arch::{
    Activation, Arch, Attention, BASE, Bias, Classifier, Dense, Dims, Ends, HeadFunction, Keys, Layer, Norm, Own,
    Projections, Rotary, WindowKind, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "modern-bert",
        keys: modern_bert_keys,
        ends: modern_bert_ends,
        stacks: &[trunk(modern_bert)],
        remark: "windows around a token in two of three layers; a gated feed in one tensor",
        ..BASE
    },
    Arch {
        name: "neo-bert",
        ends: |d| Ends::of(d, Norm::rms(d, "enc.output_norm")).classifier(d, Classifier::of(d)).hidden(),
        stacks: &[trunk(|d, l| {
            // As the model's own code reads the rows; llama.cpp takes three blocks.
            let attention = Attention::wide(d, l).stored(Projections::ByHead).bias(Bias::Never, Bias::Never);
            rms_layer(d, attention.rotary(d, Rotary::Pairs, l), Dense::gated(d, d.ff(0)).fused())
        })],
        departs: |_| {
            Some("rows of queries, keys and values belong to a head each, llama.cpp takes three blocks of them")
        },
        remark: "queries, keys and values of a head together in one tensor; a gated feed in one tensor",
        ..BASE
    },
    Arch {
        name: "eurobert",
        ends: |d| Ends::embedding_only(d).hidden(),
        stacks: &[trunk(|d, l| {
            rms_layer(d, Attention::wide(d, l).rotary(d, Rotary::Halves, l), Dense::gated(d, d.ff(0)))
        })],
        remark: "Llama's layers, in both directions",
        ..BASE
    },
];

fn modern_bert_keys(k: &mut Keys<'_>) {
    let window = k.u32_or("attention.sliding_window", 0);
    if window > 0 {
        (k.d.window_kind, k.d.window) = (WindowKind::Symmetric, window);
        k.d.rope_base_windowed = k.f32_or("rope.freq_base_swa", 10_000.0);
        k.window_pattern(3, true);
    } else {
        k.no_windows();
    }
    k.layer_norm();
    if let Some(name) = k.str("hidden_activation") {
        k.keep("hidden_activation", Own::Name(name));
    }
    if k.d.classifier_pooling == -1 {
        k.d.classifier_pooling = 1;
    }
    k.unused(&["attention.layer_norm_rms_epsilon"]);
}

fn norm(d: &Dims, name: &'static str) -> Norm {
    Norm::layer(d, name).bias(Bias::Never)
}

fn modern_bert_ends(d: &Dims) -> Ends {
    let head = Classifier {
        hidden_bias: Bias::Never,
        function: HeadFunction::Gelu,
        norm: Some(norm(d, "cls.norm")),
        ..Classifier::of(d)
    };
    Ends::of(d, norm(d, "output_norm")).embedding_norm(norm(d, "token_embd_norm")).classifier(d, head).hidden()
}

fn modern_bert(d: &Dims, l: usize) -> Layer {
    let mut attention = Attention::wide(d, l).stored(Projections::Fused).bias(Bias::Never, Bias::Never);
    attention.rows = [d.embd; 4];
    // transformers' names; llama.cpp knows fewer and takes GELU for the others.
    let activation = match d.name("hidden_activation") {
        Some("silu" | "swish" | "swiglu") => Activation::Silu,
        Some("relu" | "reglu") => Activation::Relu,
        Some("gelu_new" | "gelu_fast" | "gelu_pytorch_tanh") => Activation::GeluTanh,
        _ => Activation::Gelu,
    };
    let before = norm(d, "attn_norm");
    Layer::new([
        step(if l == 0 { before.optional() } else { before }, attention.rotary(d, Rotary::Halves, l)),
        step(norm(d, "ffn_norm"), Dense::gated(d, d.ff(0)).fused().activation(activation)),
    ])
}
