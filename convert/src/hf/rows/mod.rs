//! The rows, one file a family.

mod bert;
mod cohere;
mod deepseek;
mod gemma;
mod glm;
mod gpt;
mod gpt_oss;
mod hrm;
mod hunyuan;
mod internlm;
mod jais;
mod jamba;
mod kimi;
mod laguna;
mod lfm2;
mod llada;
mod llama;
mod maincoder;
mod mamba;
mod mimo;
mod minicpm;
mod minimax;
mod mistral3;
mod nemotron;
mod nemotron_h;
mod olmo;
mod openelm;
mod orion;
mod phi;
mod plamo;
mod qwen;
mod qwen_next;
mod t5;

use super::Class;

/// Every row, family by family.
pub(super) const FAMILIES: &[&[Class]] = &[
    llama::ROWS,
    qwen::ROWS,
    qwen_next::ROWS,
    gemma::ROWS,
    phi::ROWS,
    gpt::ROWS,
    olmo::ROWS,
    cohere::ROWS,
    deepseek::ROWS,
    glm::ROWS,
    gpt_oss::ROWS,
    nemotron::ROWS,
    nemotron_h::ROWS,
    openelm::ROWS,
    orion::ROWS,
    plamo::ROWS,
    mamba::ROWS,
    hrm::ROWS,
    hunyuan::ROWS,
    internlm::ROWS,
    jais::ROWS,
    jamba::ROWS,
    kimi::ROWS,
    laguna::ROWS,
    lfm2::ROWS,
    llada::ROWS,
    maincoder::ROWS,
    mimo::ROWS,
    minicpm::ROWS,
    minimax::ROWS,
    mistral3::ROWS,
    bert::ROWS,
    t5::ROWS,
];
