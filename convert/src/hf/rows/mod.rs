//! The rows, one file a family.

mod afmoe;
mod arctic;
mod baichuan;
mod bailing;
mod bert;
mod bitnet;
mod chameleon;
mod chatglm;
mod codeshell;
mod cogvlm;
mod cohere;
mod dbrx;
mod deci;
mod deepseek;
mod dots;
mod dream;
mod ernie;
mod exaone;
mod falcon_h1;
mod gemma;
mod glm;
mod gpt;
mod gpt_oss;
mod granite;
mod grok;
mod grovemoe;
mod llama;
mod mamba;
mod nemotron;
mod olmo;
mod phi;
mod qwen;
mod t5;

use super::Class;

/// Every row, family by family.
pub(super) const FAMILIES: &[&[Class]] = &[
    afmoe::ROWS,
    arctic::ROWS,
    baichuan::ROWS,
    bailing::ROWS,
    bert::ROWS,
    bitnet::ROWS,
    chameleon::ROWS,
    chatglm::ROWS,
    codeshell::ROWS,
    cogvlm::ROWS,
    cohere::ROWS,
    dbrx::ROWS,
    deci::ROWS,
    deepseek::ROWS,
    dots::ROWS,
    dream::ROWS,
    ernie::ROWS,
    exaone::ROWS,
    falcon_h1::ROWS,
    gemma::ROWS,
    glm::ROWS,
    gpt::ROWS,
    gpt_oss::ROWS,
    granite::ROWS,
    grok::ROWS,
    grovemoe::ROWS,
    llama::ROWS,
    mamba::ROWS,
    nemotron::ROWS,
    olmo::ROWS,
    phi::ROWS,
    qwen::ROWS,
    t5::ROWS,
];
