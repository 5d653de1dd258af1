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
mod draft;
mod dream;
mod encoders;
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
mod mistral_form;
mod muse;
mod nemotron;
mod nemotron_h;
mod olmo;
mod openelm;
mod orion;
mod phi;
mod plamo;
mod qwen;
mod qwen4;
mod qwen_next;
mod qwen_vl;
mod refact;
mod rwkv;
mod smallthinker;
mod spark;
mod speech;
mod step;
mod t5;
mod talkie;
mod wavtokenizer;

pub(crate) use bert::FIRST_POSITION;
pub(crate) use dots::PREDICTION_BLOCK;
pub(crate) use qwen::{ANSWERS, WHOLE_HEAD};
pub(crate) use qwen4::{CONSTANTS as NGRAM_CONSTANTS, NGRAM_WIDTH};
pub(crate) use talkie::GAIN;

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
    draft::ROWS,
    dream::ROWS,
    encoders::ROWS,
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
    hrm::ROWS,
    hunyuan::ROWS,
    internlm::ROWS,
    jais::ROWS,
    jamba::ROWS,
    kimi::ROWS,
    laguna::ROWS,
    lfm2::ROWS,
    llada::ROWS,
    llama::ROWS,
    maincoder::ROWS,
    mamba::ROWS,
    mimo::ROWS,
    minicpm::ROWS,
    minimax::ROWS,
    mistral3::ROWS,
    mistral_form::ROWS,
    muse::ROWS,
    nemotron::ROWS,
    nemotron_h::ROWS,
    olmo::ROWS,
    openelm::ROWS,
    orion::ROWS,
    phi::ROWS,
    plamo::ROWS,
    qwen::ROWS,
    qwen4::ROWS,
    qwen_next::ROWS,
    qwen_vl::ROWS,
    refact::ROWS,
    rwkv::ROWS,
    smallthinker::ROWS,
    spark::ROWS,
    speech::ROWS,
    step::ROWS,
    t5::ROWS,
    talkie::ROWS,
    wavtokenizer::ROWS,
];
