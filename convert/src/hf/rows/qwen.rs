//! Qwen 2 and 3, dense and with experts.

use gguf::Result;

use crate::config::Config;
use crate::hf::rows::llama::{halves, local_experts};
use crate::hf::{ATTENTION, BARE, BASE, Class, ENDS, GATED, HEAD_NORMS, How, NORMS, Outputs, Params, Piece, Rule, r};
use crate::tokenizer::VocabKind;

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["Qwen2ForCausalLM", "Qwen2Model", "KORMoForCausalLM"],
        arch: "qwen2",
        defaults: r#"{"num_key_value_heads": 32, "rms_norm_eps": 1e-06, "max_position_embeddings": 32768,
            "vocab_size": 151936, "intermediate_size": 22016, "hidden_size": 4096,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        vocabulary: VocabKind::SentencePieceOrGpt2,
        spelling: &[ENDS, ATTENTION, NORMS, GATED],
        prefixes: BARE,
        keys: qwen,
        remark: "Qwen 1.5, 2, 2.5; biases of query, key and value",
        ..BASE
    },
    Class {
        names: &["Qwen3ForCausalLM", "Qwen3Model"],
        arch: "qwen3",
        defaults: r#"{"num_key_value_heads": 32, "rms_norm_eps": 1e-06, "max_position_embeddings": 32768, "head_dim": 128,
            "vocab_size": 151936, "intermediate_size": 22016, "hidden_size": 4096,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        vocabulary: VocabKind::SentencePieceOrGpt2,
        spelling: &[ENDS, ATTENTION, HEAD_NORMS, NORMS, GATED],
        prefixes: BARE,
        keys: qwen,
        remark: "norms of each head",
        ..BASE
    },
    Class {
        names: &["Qwen2MoeForCausalLM"],
        arch: "qwen2moe",
        defaults: r#"{"num_key_value_heads": 16, "rms_norm_eps": 1e-06, "max_position_embeddings": 32768,
            "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632, "vocab_size": 151936, "intermediate_size": 5632, "hidden_size": 2048,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        spelling: &[ENDS, ATTENTION, NORMS, DENSE_OR_EXPERTS, EXPERTS, SHARED_EXPERT],
        keys: qwen_moe,
        remark: "Qwen 1.5 and 2 with experts and one that all tokens share",
        ..BASE
    },
    Class {
        names: &["Qwen3MoeForCausalLM"],
        arch: "qwen3moe",
        defaults: r#"{"num_key_value_heads": 4, "rms_norm_eps": 1e-06, "max_position_embeddings": 32768, "head_dim": "computed",
            "num_local_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
            "vocab_size": 151936, "intermediate_size": 6144, "hidden_size": 2048,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        prepare: one_number_of_experts,
        spelling: &[ENDS, ATTENTION, HEAD_NORMS, NORMS, DENSE_OR_EXPERTS, EXPERTS],
        keys: qwen_moe,
        remark: "experts stacked, or fused ones taken apart",
        ..BASE
    },
];

const STACK: How = How::Stack { group: "experts", members: local_experts };

/// Experts, each with its own tensors or all in one.
pub(super) const EXPERTS: &[Rule] = &[
    r("model.layers.{}.mlp.experts.{x}.down_proj", "blk.{}.ffn_down_exps").how(STACK),
    r("model.layers.{}.mlp.experts.{x}.gate_proj", "blk.{}.ffn_gate_exps").how(STACK),
    r("model.layers.{}.mlp.experts.{x}.up_proj", "blk.{}.ffn_up_exps").how(STACK),
    FUSED_EXPERTS[0],
    FUSED_EXPERTS[1],
    r("model.layers.{}.mlp.gate", "blk.{}.ffn_gate_inp"),
];

/// Experts in one tensor for all.
pub(super) const FUSED_EXPERTS: &[Rule] = &[
    r("model.layers.{}.mlp.experts.down_proj", "blk.{}.ffn_down_exps").how(How::Split(fused_down)),
    r("model.layers.{}.mlp.experts.gate_up_proj", "blk.{}.ffn_").how(How::Split(fused_halves)),
];

/// The feed-forward of a layer without experts.
pub(super) const DENSE_OR_EXPERTS: &[Rule] = &[
    r("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
    r("model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    r("model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
];

pub(super) const SHARED_EXPERT: &[Rule] = &[
    r("model.layers.{}.mlp.shared_expert.down_proj", "blk.{}.ffn_down_shexp"),
    r("model.layers.{}.mlp.shared_expert.gate_proj", "blk.{}.ffn_gate_shexp"),
    r("model.layers.{}.mlp.shared_expert.up_proj", "blk.{}.ffn_up_shexp"),
    r("model.layers.{}.mlp.shared_expert_gate", "blk.{}.ffn_gate_inp_shexp"),
];

fn fused_down(_: &Config, piece: &Piece) -> Result<Outputs> {
    Ok(vec![(format!("{}.weight", piece.to), piece.rows.clone())])
}

fn fused_halves(_: &Config, piece: &Piece) -> Result<Outputs> {
    let name = |kind: &str| format!("{}{kind}_exps.weight", piece.to);
    halves(&piece.rows, name("gate"), name("up"))
}

/// A default must not stand beside a stated number of the other spelling.
fn one_number_of_experts(config: &mut Config) -> Result<()> {
    if let Some(experts) = config.u64("num_experts") {
        config.set("num_local_experts", experts);
    }
    Ok(())
}

fn qwen(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.pooling()
}

/// The keys of experts.
pub(super) fn qwen_moe(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.maybe_u32("expert_feed_forward_length", &["moe_intermediate_size"])?;
    p.maybe_u32("expert_shared_feed_forward_length", &["shared_expert_intermediate_size"])
}
