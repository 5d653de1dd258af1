//! The rows, one file a family.

mod apertus;
mod arcee;
mod arctic;
mod bailing;
mod bert;
mod bitnet;
mod chameleon;
mod cogvlm;
mod cohere;
mod dbrx;
mod deepseek;
mod deepseek3;
mod dots;
mod draft;
mod encoders;
mod ernie;
mod exaone;
mod falcon;
mod falcon_h1;
mod gemma;
mod glm;
mod gpt;
mod gpt_oss;
mod granite;
mod grok;
mod grove;
mod hrm;
mod hunyuan;
mod jais;
mod kimi;
mod laguna;
mod lfm;
mod llada;
mod llama;
mod mamba;
mod maple;
mod mellum;
mod mimo;
mod minicpm3;
mod minimax;
mod mistral;
mod mtp;
mod muse;
mod nanbeige;
mod nemotron;
mod olmo;
mod openelm;
mod pangu;
mod phi;
mod plamo;
mod plm;
mod qwen;
mod qwen35;
mod qwen4;
mod rwkv;
mod seed;
mod smallthinker;
mod smollm;
mod spark;
mod stablelm;
mod stepfun;
mod t5;
mod talkie;
mod wavtokenizer;

use super::{Arch, Branch, Dense, Dim, Dims, Experts, Item, Kind, Layer, Norm, Reads, Step, optional, step};

/// Every row, family by family.
pub(super) const FAMILIES: &[&[Arch]] = &[
    apertus::ROWS,
    arcee::ROWS,
    arctic::ROWS,
    bailing::ROWS,
    bert::ROWS,
    bitnet::ROWS,
    chameleon::ROWS,
    cogvlm::ROWS,
    cohere::ROWS,
    dbrx::ROWS,
    deepseek3::ROWS,
    deepseek::ROWS,
    dots::ROWS,
    draft::ROWS,
    encoders::ROWS,
    ernie::ROWS,
    exaone::ROWS,
    falcon::ROWS,
    falcon_h1::ROWS,
    gemma::ROWS,
    glm::ROWS,
    gpt::ROWS,
    gpt_oss::ROWS,
    granite::ROWS,
    grok::ROWS,
    grove::ROWS,
    hrm::ROWS,
    hunyuan::ROWS,
    jais::ROWS,
    kimi::ROWS,
    laguna::ROWS,
    lfm::ROWS,
    llada::ROWS,
    llama::ROWS,
    mamba::ROWS,
    maple::ROWS,
    mellum::ROWS,
    mimo::ROWS,
    minicpm3::ROWS,
    minimax::ROWS,
    mistral::ROWS,
    muse::ROWS,
    nanbeige::ROWS,
    nemotron::ROWS,
    olmo::ROWS,
    openelm::ROWS,
    pangu::ROWS,
    phi::ROWS,
    plamo::ROWS,
    plm::ROWS,
    qwen35::ROWS,
    qwen::ROWS,
    qwen4::ROWS,
    rwkv::ROWS,
    seed::ROWS,
    smallthinker::ROWS,
    smollm::ROWS,
    spark::ROWS,
    stablelm::ROWS,
    stepfun::ROWS,
    t5::ROWS,
    talkie::ROWS,
    wavtokenizer::ROWS,
];

/// A mixer and a feed one after the other, the input of each normalized by the root of the mean square.
fn rms_layer(d: &Dims, mixer: impl Into<Kind>, feed: impl Into<Kind>) -> Layer {
    Layer::new([step(Norm::rms(d, "attn_norm"), mixer), step(Norm::rms(d, "ffn_norm"), feed)])
}

/// The same, normalized by mean and variance, with biases.
fn norm_layer(d: &Dims, mixer: impl Into<Kind>, feed: impl Into<Kind>) -> Layer {
    Layer::new([step(Norm::layer(d, "attn_norm"), mixer), step(Norm::layer(d, "ffn_norm"), feed)])
}

/// A mixer and a feed side by side, on the same normalized input.
fn parallel_layer(norm: Norm, mixer: impl Into<Kind>, feed: impl Into<Kind>) -> Layer {
    Layer::new([Step::of([Branch::new(norm, mixer), Branch::new(None, feed).reads(Reads::FirstInput)])])
}

/// Length of the experts, or the dense length shared out among those that a token uses.
fn expert_len(d: &Dims) -> Dim {
    d.expert_ff(0).or(d.ff(0) / d.experts_used(0))
}

/// The rule of models that are nothing without experts.
fn needs_experts(d: &Dims) -> Option<String> {
    (d.experts == 0 || d.experts_used(0) == 0).then(|| format!("{} has experts in every layer", d.arch))
}

/// A feed that is one of experts where the file has a router, else dense, and the tensors of the other one, which the
/// loader takes as well. Where there is no file yet, experts that a model has are in every layer.
fn feed_by_router(d: &Dims, l: usize, dense: Dense, experts: Experts) -> (Kind, Vec<Item>) {
    let routed = if d.shapes.is_empty() { d.experts > 0 } else { d.has(l, "ffn_gate_inp.weight") };
    let (dense, experts): (Kind, Kind) = (dense.into(), experts.into());
    let (feed, other) = if routed { (experts, dense) } else { (dense, experts) };
    let other = optional(other.items());
    (feed, other)
}
