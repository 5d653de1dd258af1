//! The rows, one file a family.

mod arctic;
mod bert;
mod cohere;
mod dbrx;
mod deepseek;
mod encoders;
mod falcon;
mod gemma;
mod gpt;
mod grok;
mod llada;
mod llama;
mod mamba;
mod maple;
mod mellum;
mod minicpm3;
mod muse;
mod nanbeige;
mod olmo;
mod openelm;
mod phi;
mod plamo;
mod qwen;
mod stablelm;
mod talkie;

use super::{Arch, Bias, Branch, Dim, Dims, Item, Kind, Layer, Norm, Reads, Slot, Step, linear, step};

/// Every row, family by family.
pub(super) const FAMILIES: &[&[Arch]] = &[
    arctic::ROWS,
    bert::ROWS,
    cohere::ROWS,
    dbrx::ROWS,
    deepseek::ROWS,
    encoders::ROWS,
    falcon::ROWS,
    gemma::ROWS,
    gpt::ROWS,
    grok::ROWS,
    llada::ROWS,
    llama::ROWS,
    mamba::ROWS,
    maple::ROWS,
    mellum::ROWS,
    minicpm3::ROWS,
    muse::ROWS,
    nanbeige::ROWS,
    olmo::ROWS,
    openelm::ROWS,
    phi::ROWS,
    plamo::ROWS,
    qwen::ROWS,
    stablelm::ROWS,
    talkie::ROWS,
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

/// What a layer of multi-token prediction has besides a layer of the trunk.
fn prediction(d: &Dims) -> Vec<Item> {
    let mut items = linear("nextn.eh_proj", 2 * d.embd, d.embd, Bias::Never);
    items.extend(["enorm", "hnorm"].map(|n| Slot::new(format!("nextn.{n}.weight"), [d.embd]).into()));
    items.extend(
        ["embed_tokens", "shared_head_head"]
            .map(|n| Slot::new(format!("nextn.{n}.weight"), [d.embd, d.vocab]).optional().into()),
    );
    items.push(Slot::new("nextn.shared_head_norm.weight", [d.embd]).optional().into());
    items
}
