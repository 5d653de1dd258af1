//! The rows, one file a family.

mod ernie;
mod exaone;
mod falcon_h1;
mod glm;
mod gpt_oss;
mod granite;
mod lfm;
mod llama;
mod mtp;
mod nemotron;
mod qwen;
mod qwen35;
mod smollm;
mod t5;

use super::Arch;

/// Every row, family by family.
pub(super) const FAMILIES: &[&[Arch]] = &[
    ernie::ROWS,
    exaone::ROWS,
    falcon_h1::ROWS,
    glm::ROWS,
    gpt_oss::ROWS,
    granite::ROWS,
    lfm::ROWS,
    llama::ROWS,
    nemotron::ROWS,
    qwen::ROWS,
    qwen35::ROWS,
    smollm::ROWS,
    t5::ROWS,
];
