//! BERT and encoders of its form: each sum is normalized, the branches are not.

use crate::arch::{
    Activation, Arch, Attention, BASE, Bias, Branch, Classifier, Dense, Dim, Dims, Ends, ExpertGate, Experts, FeedGate,
    Gating, HeadNorm, Kind, Layer, Need, Norm, NormKind, Pass, Reads, Rotary, Step, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "bert",
        ends: |d| ends(d, false).positions(d, true).classifier(d, Classifier::of(d)),
        stacks: &[trunk(|d, l| bert(d, attention(d, l), plain(d)))],
        departs: |d| {
            let bare = d.present("cls.output.weight") && !d.present("cls.weight");
            bare.then_some("the file leaves out the layer before the classifier, so llama.cpp scores without it")
        },
        remark: "BERT, RoBERTa, XLM-R, DistilBERT: learned positions; a classifier where the file has one",
        ..BERT
    },
    Arch {
        name: "jina-bert-v2",
        keys: |k| {
            k.layer_norm();
            k.d.alibi_bias = 8.0;
        },
        ends: |d| {
            let head = Classifier { hidden: Dim(1), labels: Dim(0), ..Classifier::of(d) };
            ends(d, true).classifier(d, head)
        },
        stacks: &[trunk(jina_v2)],
        demand: |d| (0..d.layers()).find_map(|l| jina_v2_rows(d, l)),
        departs: |d| {
            let last = (0..d.layers()).any(|l| jina_v2_gate(d, l) == FeedGate::FusedLast);
            last.then_some("feeds are gated by the second half of their matrix, llama.cpp takes the first")
        },
        remark: "ALiBi in place of positions; a gated feed in one tensor or two",
        ..BASE
    },
    Arch { name: "jina-bert-v3", remark: "BERT with rotation", ..ROTATED },
    Arch {
        name: "nomic-bert",
        stacks: &[trunk(|d, l| bert(d, attention(d, l).rotary(d, Rotary::Halves, l), gated(d)))],
        remark: "BERT with rotation and a gated feed",
        ..ROTATED
    },
    Arch {
        name: "nomic-bert-moe",
        keys: |k| {
            k.layer_norm();
            k.d.expert_every = k.u32_or("moe_every_n_layers", 0).len();
        },
        stacks: &[trunk(nomic_moe)],
        remark: "BERT with rotation, experts without gates in the second of every n layers",
        ..ROTATED
    },
];

const BERT: Arch = Arch {
    keys: |k| k.layer_norm(),
    demand: |d| (d.token_types == 0).then(|| format!("{} has kinds of tokens", d.arch)),
    ..BASE
};

const ROTATED: Arch = Arch {
    ends: |d| ends(d, false),
    stacks: &[trunk(|d, l| bert(d, attention(d, l).rotary(d, Rotary::Halves, l), plain(d)))],
    ..BERT
};

fn ends(d: &Dims, token_types: bool) -> Ends {
    Ends::of(d, None).embedding_norm(Norm::layer(d, "token_embd_norm")).token_types(d, token_types).hidden()
}

fn attention(d: &Dims, l: usize) -> Attention {
    Attention::wide(d, l).bias(Bias::Optional, Bias::Optional)
}

// GELU by its definition as in transformers; llama.cpp takes tanh.
fn plain(d: &Dims) -> Dense {
    Dense::plain(d, d.ff(0), Activation::Gelu).bias(Bias::Optional)
}

fn gated(d: &Dims) -> Dense {
    Dense { gate_bias: Bias::Never, ..Dense::gated(d, d.ff(0)).bias(Bias::Optional) }
}

fn bert(d: &Dims, attention: Attention, feed: impl Into<Kind>) -> Layer {
    Layer::new([
        step(None, attention).normalized(Norm::layer(d, "attn_output_norm")),
        step(None, feed).normalized(Norm::layer(d, "layer_output_norm")),
    ])
}

fn nomic_moe(d: &Dims, l: usize) -> Layer {
    let attention = attention(d, l).rotary(d, Rotary::Halves, l);
    if d.expert_every == 0 || l % d.expert_every != 1 {
        return bert(d, attention, plain(d));
    }
    let mut experts = Experts::new(d, 0, d.ff(0)).gating(Gating::Softmax, false);
    (experts.gate, experts.activation) = (ExpertGate::None, Activation::Gelu);
    bert(d, attention, experts)
}

/// Rows of the up matrix, which may hold the gate too.
fn jina_v2_up(d: &Dims, l: usize) -> Dim {
    d.dim_of(&format!("blk.{l}.ffn_up.weight"), 1).or(d.ff(0))
}

fn jina_v2_rows(d: &Dims, l: usize) -> Option<String> {
    let (rows, len) = (jina_v2_up(d, l), d.ff(0));
    (rows != len && rows != len * 2)
        .then(|| format!("blk.{l}.ffn_up.weight has {rows} rows, not {len} or twice as many"))
}

/// Models with norms of queries and keys gate with the second half in their own code; llama.cpp with the first.
fn jina_v2_gate(d: &Dims, l: usize) -> FeedGate {
    let packed = jina_v2_up(d, l) != d.ff(0) && !d.has(l, "ffn_gate.weight");
    match (packed, d.has(l, "attn_q_norm.weight")) {
        (false, _) => FeedGate::Optional,
        (true, false) => FeedGate::Fused,
        (true, true) => FeedGate::FusedLast,
    }
}

fn jina_v2(d: &Dims, l: usize) -> Layer {
    let attention = Attention::wide(d, l)
        .bias(Bias::Optional, Bias::Required)
        .norms(NormKind::Layer(d.norm_eps), HeadNorm::Whole)
        .with_norms(|n| {
            (n.need, n.bias, n.lens) = (Need::Optional, Bias::Optional, Some([d.embd, d.embd]));
        });
    let mut feed = Dense::gated(d, d.ff(0)).bias(Bias::Optional).activation(Activation::Gelu);
    (feed.gate_bias, feed.down_bias, feed.ungated) = (Bias::Never, Bias::Required, Activation::Gelu);
    feed.gate = jina_v2_gate(d, l);
    let mut layer = bert(d, attention, feed);
    let second = Norm::layer(d, "attn_norm_2").optional();
    if d.has(l, "attn_norm_2.weight") {
        // The layer's input joins once more.
        let again = Branch::new(None, Pass { factor: None }).reads(Reads::LayerInput);
        layer.steps.insert(1, Step::of([again]).normalized(second));
        return layer;
    }
    layer.with(second.items())
}
