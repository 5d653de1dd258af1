//! GPT-2 and others of its form: norms by mean and variance, a feed without gate, biases.

use super::{norm_layer, parallel_layer};
use crate::arch::{
    Activation, Arch, Attention, BASE, Bias, Branch, Dense, Dims, Ends, HeadNorm, Layer, Need, Norm, NormKind,
    Projections, Rotary, Slot, Step, output, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch { name: "gpt2", remark: "learned positions", ..GPT2 },
    Arch { name: "starcoder", remark: "GPT-2 with one key-value head", ..GPT2 },
    Arch {
        name: "bloom",
        keys: |k| {
            k.layer_norm();
            k.d.alibi_bias = 8.0;
        },
        ends: |d| tied(d).embedding_norm(Norm::layer(d, "token_embd_norm")),
        remark: "ALiBi, and a norm behind the embeddings",
        ..GPT2
    },
    Arch {
        name: "mpt",
        keys: |k| {
            k.layer_norm();
            k.d.clamp_qkv = k.f32_or("attention.clamp_kqv", 0.0);
            k.d.alibi_bias = k.f32_or("attention.max_alibi_bias", 0.0);
        },
        ends: |d| Ends::tied(d).norm(Norm::layer(d, "output_norm").bias(Bias::Optional)).positions(d, false),
        stacks: &[trunk(mpt)],
        remark: "ALiBi or learned positions, limited projections, biases where the file has them",
        ..BASE
    },
    Arch {
        name: "codeshell",
        ends: |d| {
            // A file may have the output alone: its rows are then the embeddings too.
            let mut ends = tied(d);
            ends.items = vec![Slot::new("token_embd.weight", [d.embd, d.vocab]).optional().into(), output(d).into()];
            ends
        },
        remark: "rotation, and biases of the projections where the file has them",
        ..ROTATED
    },
    Arch { name: "starcoder2", remark: "rotation, and biases of the projections where the file has them", ..ROTATED },
    Arch {
        name: "pockettts",
        ends: |d| Ends::embedding_only(d).norm(Norm::layer(d, "output_norm")),
        stacks: &[trunk(|d, l| {
            let attention = Attention::wide(d, l).rotary(d, Rotary::Pairs, l).optional();
            norm_layer(d, attention, Dense::plain(d, d.ff(0), Activation::GeluTanh))
        })],
        remark: "the language model of Pocket TTS: rotation, no biases but those of norms",
        ..GPT2
    },
    Arch {
        name: "gptneox",
        keys: |k| {
            k.layer_norm();
            k.d.parallel_residual = k.need_bool("use_parallel_residual");
        },
        ends: |d| Ends::untied(d).norm(Norm::layer(d, "output_norm")),
        stacks: &[trunk(gptneox)],
        remark: "attention and feed side by side, each with its norm, where a key says so",
        ..BASE
    },
    Arch {
        name: "phi2",
        keys: |k| {
            k.layer_norm();
            // Converters write four times the width, whatever the model has: what most of the first layer's tensors have.
            let places = [("blk.0.ffn_up.weight", 1), ("blk.0.ffn_up.bias", 0), ("blk.0.ffn_down.weight", 0)];
            let length = k.d.usual_dim(&places);
            if k.d.any_size && !length.is_empty() {
                k.d.ff = vec![length; k.d.layers_all];
            }
        },
        ends: |d| Ends::untied(d).norm(Norm::layer(d, "output_norm")).output_bias(d, Bias::Required),
        stacks: &[trunk(|d, l| {
            parallel_layer(Norm::layer(d, "attn_norm"), rotated(d, l), feed(d, Activation::GeluTanh))
        })],
        remark: "attention and feed side by side on one norm; the output has a bias",
        ..ROTATED
    },
];

const GPT2: Arch = Arch {
    keys: |k| k.layer_norm(),
    ends: |d| tied(d).positions(d, true),
    stacks: &[trunk(|d, l| norm_layer(d, fused(d, l), feed(d, Activation::GeluTanh)))],
    ..BASE
};

const ROTATED: Arch =
    Arch { ends: tied, stacks: &[trunk(|d, l| norm_layer(d, rotated(d, l), feed(d, Activation::GeluTanh)))], ..GPT2 };

fn tied(d: &Dims) -> Ends {
    Ends::tied(d).norm(Norm::layer(d, "output_norm"))
}

/// One tensor for queries, keys and values, biases everywhere, no rotation.
fn fused(d: &Dims, l: usize) -> Attention {
    Attention::wide(d, l).stored(Projections::Fused).bias(Bias::Required, Bias::Required)
}

/// Rotation of halves, and a bias of the output that must be there.
fn rotated(d: &Dims, l: usize) -> Attention {
    Attention::wide(d, l).bias(Bias::Optional, Bias::Required).rotary(d, Rotary::Halves, l)
}

fn feed(d: &Dims, activation: Activation) -> Dense {
    Dense::plain(d, d.ff(0), activation).bias(Bias::Required)
}

fn gptneox(d: &Dims, l: usize) -> Layer {
    let attention = fused(d, l).rotary(d, Rotary::Halves, l);
    // GELU by its definition as in transformers; llama.cpp takes tanh.
    let feed = feed(d, Activation::Gelu);
    if !d.parallel_residual {
        return norm_layer(d, attention, feed);
    }
    let attention = Branch::new(Norm::layer(d, "attn_norm"), attention);
    Layer::new([Step::of([attention, Branch::new(Norm::layer(d, "ffn_norm"), feed)])])
}

fn mpt(d: &Dims, l: usize) -> Layer {
    let attention = Attention::wide(d, l)
        .stored(Projections::Fused)
        .bias(Bias::Optional, Bias::Optional)
        .norms(NormKind::Layer(d.norm_eps), HeadNorm::Whole)
        .with_norms(|n| {
            (n.need, n.bias, n.lens) = (Need::Optional, Bias::Optional, Some([d.embd, d.embd]));
        });
    // GELU by its definition as in transformers; llama.cpp takes tanh.
    let mut feed = Dense::plain(d, d.ff(0), Activation::Gelu).bias(Bias::Optional);
    feed.act_scales = true;
    let norm = |name| Norm::layer(d, name).bias(Bias::Optional);
    Layer::new([crate::arch::step(norm("attn_norm"), attention), crate::arch::step(norm("ffn_norm"), feed)])
}
