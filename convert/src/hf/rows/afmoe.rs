//! AFMoE: Arcee's Trinity.

use gguf::Result;

use crate::hf::rows::llama::{llama, local_experts, rope_freqs};
use crate::hf::{ATTENTION, BASE, Class, ENDS, GATED, HEAD_NORMS, How, Modules, NameRule, Params, r};
use crate::tokenizer::VocabKind;

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["AfmoeForCausalLM"],
    arch: "afmoe",
    defaults: r#"{"num_key_value_heads": null, "head_dim": 128, "rms_norm_eps": 1e-05, "max_position_embeddings": 16384,
        "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 1408, "num_hidden_layers": 32,
        "num_dense_layers": 1, "num_attention_heads": 16, "num_experts": 64, "num_experts_per_tok": 6,
        "num_shared_experts": 2, "route_scale": 1.0, "sliding_window": 1024, "vocab_size": 200192,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
    vocabulary: VocabKind::Llama,
    spelling: &[ENDS, ATTENTION, HEAD_NORMS, AFMOE, GATED],
    keys: afmoe,
    generated: rope_freqs,
    modules: Modules { linear: &["router.gate"], ..Modules::USUAL },
    remark: "Trinity; gated attention, experts with a bias, layers that slide",
    ..BASE
}];

const STACK: How = How::Stack { group: "experts", members: local_experts };

const AFMOE: &[NameRule] = &[
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm"),
    r("model.layers.{}.pre_mlp_layernorm", "blk.{}.ffn_norm"),
    r("model.layers.{}.post_mlp_layernorm", "blk.{}.post_ffw_norm"),
    r("model.layers.{}.self_attn.gate_proj", "blk.{}.attn_gate"),
    r("model.layers.{}.mlp.experts.{x}.gate_proj", "blk.{}.ffn_gate_exps").how(STACK),
    r("model.layers.{}.mlp.experts.{x}.up_proj", "blk.{}.ffn_up_exps").how(STACK),
    r("model.layers.{}.mlp.experts.{x}.down_proj", "blk.{}.ffn_down_exps").how(STACK),
    r("model.layers.{}.mlp.expert_bias", "blk.{}.exp_probs_b.bias"),
    r("model.layers.{}.mlp.router.gate", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.mlp.shared_experts.gate_proj", "blk.{}.ffn_gate_shexp"),
    r("model.layers.{}.mlp.shared_experts.up_proj", "blk.{}.ffn_up_shexp"),
    r("model.layers.{}.mlp.shared_experts.down_proj", "blk.{}.ffn_down_shexp"),
];

fn afmoe(p: &mut Params<'_>) -> Result<()> {
    llama(p)?;
    p.maybe_u32("expert_shared_count", &["num_shared_experts"])?;
    p.maybe_u32("expert_feed_forward_length", &["moe_intermediate_size"])?;
    p.maybe_u32("leading_dense_block_count", &["num_dense_layers"])?;
    p.maybe_bool("expert_weights_norm", "route_norm")?;
    p.maybe_f32("expert_weights_scale", &["route_scale"])?;
    p.maybe_u32("attention.sliding_window", &["sliding_window"])
}
