//! dots: dots.llm1.

use gguf::Result;

use crate::hf::rows::deepseek::EXPERTS;
use crate::hf::rows::qwen::{FUSED_EXPERTS, qwen_moe};
use crate::hf::{ATTENTION, BASE, Class, ENDS, GATED, HEAD_NORMS, NORMS, Params};

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["Dots1ForCausalLM"],
    arch: "dots1",
    defaults: r#"{"num_key_value_heads": 32, "rms_norm_eps": 1e-06, "max_position_embeddings": 2048,
        "hidden_size": 4608, "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_hidden_layers": 62,
        "num_attention_heads": 32, "vocab_size": 152064, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 0,
        "norm_topk_prob": false, "routed_scaling_factor": 1.0,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
    aliases: &[("num_local_experts", "n_routed_experts")],
    spelling: &[ENDS, ATTENTION, HEAD_NORMS, NORMS, GATED, EXPERTS, FUSED_EXPERTS],
    keys: dots1,
    remark: "dots.llm1",
    ..BASE
}];

fn dots1(p: &mut Params<'_>) -> Result<()> {
    qwen_moe(p)?;
    p.need_u32("leading_dense_block_count", &["first_k_dense_replace"])?;
    p.need_u32("expert_shared_count", &["n_shared_experts"])?;
    p.need_f32("expert_weights_scale", &["routed_scaling_factor"])?;
    p.need_bool("expert_weights_norm", "norm_topk_prob")
}
