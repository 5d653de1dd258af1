//! The rows, one file a family.

mod apertus;
mod arcee;
mod bailing;
mod bitnet;
mod chameleon;
mod cogvlm;
mod deepseek3;
mod dots;
mod draft;
mod ernie;
mod exaone;
mod falcon_h1;
mod glm;
mod gpt_oss;
mod granite;
mod grove;
mod hrm;
mod hunyuan;
mod jais;
mod kimi;
mod laguna;
mod lfm;
mod llama;
mod mimo;
mod minimax;
mod mistral;
mod mtp;
mod nemotron;
mod pangu;
mod plm;
mod qwen;
mod qwen35;
mod qwen4;
mod rwkv;
mod seed;
mod smallthinker;
mod smollm;
mod spark;
mod stepfun;
mod t5;
mod wavtokenizer;

use super::{Arch, Dense, Dims, Experts, Item, Kind, optional};

/// Every row, family by family.
pub(super) const FAMILIES: &[&[Arch]] = &[
    apertus::ROWS,
    arcee::ROWS,
    bailing::ROWS,
    bitnet::ROWS,
    chameleon::ROWS,
    cogvlm::ROWS,
    deepseek3::ROWS,
    dots::ROWS,
    draft::ROWS,
    ernie::ROWS,
    exaone::ROWS,
    falcon_h1::ROWS,
    glm::ROWS,
    gpt_oss::ROWS,
    granite::ROWS,
    grove::ROWS,
    hrm::ROWS,
    hunyuan::ROWS,
    jais::ROWS,
    kimi::ROWS,
    laguna::ROWS,
    lfm::ROWS,
    llama::ROWS,
    mimo::ROWS,
    minimax::ROWS,
    mistral::ROWS,
    nemotron::ROWS,
    pangu::ROWS,
    plm::ROWS,
    qwen::ROWS,
    qwen35::ROWS,
    qwen4::ROWS,
    rwkv::ROWS,
    seed::ROWS,
    smallthinker::ROWS,
    smollm::ROWS,
    spark::ROWS,
    stepfun::ROWS,
    t5::ROWS,
    wavtokenizer::ROWS,
];

/// A feed that is one of experts where the file has a router, else dense, and the tensors of the other one, which the
/// loader takes as well. Where there is no file yet, experts that a model has are in every layer.
fn feed_by_router(d: &Dims, l: usize, dense: Dense, experts: Experts) -> (Kind, Vec<Item>) {
    let routed = if d.shapes.is_empty() { d.experts > 0 } else { d.has(l, "ffn_gate_inp.weight") };
    let (dense, experts): (Kind, Kind) = (dense.into(), experts.into());
    let (feed, other) = if routed { (experts, dense) } else { (dense, experts) };
    let other = optional(other.items());
    (feed, other)
}
