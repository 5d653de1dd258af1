//! CogVLM: the text model, with the experts for language alone.

use crate::hf::rows::llama::{llama, rope_freqs};
use crate::hf::{BASE, Class, ENDS, NORMS, NameRule, r};
use crate::tokenizer::VocabKind;

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["CogVLMForCausalLM"],
    arch: "cogvlm",
    vocabulary: VocabKind::Llama,
    spelling: &[ENDS, NORMS, COGVLM],
    keys: llama,
    generated: rope_freqs,
    // Its names look like those of a tower that sees.
    lacks: &["vis_attn_qkv", "vis_attn_output", "vis_gate", "vis_down", "vis_up"],
    remark: "the experts for images are left out",
    ..BASE
}];

const COGVLM: &[NameRule] = &[
    r("model.layers.{}.self_attn.language_expert_query_key_value", "blk.{}.attn_qkv"),
    r("model.layers.{}.self_attn.language_expert_dense", "blk.{}.attn_output"),
    r("model.layers.{}.mlp.language_mlp.gate_proj", "blk.{}.ffn_gate"),
    r("model.layers.{}.mlp.language_mlp.up_proj", "blk.{}.ffn_up"),
    r("model.layers.{}.mlp.language_mlp.down_proj", "blk.{}.ffn_down"),
];
