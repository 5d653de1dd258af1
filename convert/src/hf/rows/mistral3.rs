//! Mistral Small 3, Ministral 3 and Mistral 4.

use gguf::{Error, Result};
use serde_json::{Map, Value};

use crate::config;
use crate::hf::rows::deepseek::{LATENT, deepseek2};
use crate::hf::rows::llama::{LLAMA, llama};
use crate::hf::rows::qwen::DENSE_OR_EXPERTS;
use crate::hf::{ATTENTION_ROTATED, BARE, BASE, Class, ENDS, ENDS_UNTIED, GATED, NORMS, NameRule, Params, r};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: MISTRAL3,
        when: |root| is(root, "mistral4"),
        arch: "mistral4",
        defaults: r#"{"vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 12288, "moe_intermediate_size": 2048,
            "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 32, "n_shared_experts": 1,
            "n_routed_experts": 128, "routed_scaling_factor": 1.0, "kv_lora_rank": 256, "q_lora_rank": 1024,
            "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 64, "n_group": 1, "topk_group": 1,
            "num_experts_per_tok": 4, "first_k_dense_replace": 0, "norm_topk_prob": true,
            "max_position_embeddings": 1048576, "rms_norm_eps": 1e-06, "tie_word_embeddings": false,
            "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 128.0,
            "original_max_position_embeddings": 8192, "beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0,
            "mscale": 1.0, "llama_4_scaling_beta": 0.1}}"#,
        aliases: &[("num_local_experts", "n_routed_experts")],
        spelling: &[ENDS_UNTIED, LATENT, NORMS, DENSE_OR_EXPERTS, MISTRAL4],
        prepare: |config| {
            let rotating = config.need_u64(&["qk_rope_head_dim"])?;
            config.set("head_dim", config.need_u64(&["qk_nope_head_dim"])?.saturating_add(rotating));
            Ok(())
        },
        keys: deepseek2,
        remark: "latent attention; experts and one that all tokens share",
        ..BASE
    },
    Class {
        names: MISTRAL3,
        when: |root| is(root, "ministral3"),
        arch: "mistral3",
        defaults: r#"{"vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 34,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": false,
            "rope_parameters": {"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 16.0,
            "original_max_position_embeddings": 16384, "beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0,
            "mscale": 1.0, "llama_4_scaling_beta": 0.1}}"#,
        keys: ministral3,
        remark: "Ministral 3: attention scaled by position",
        ..SMALL3
    },
    Class {
        names: MISTRAL3,
        defaults: r#"{"num_key_value_heads": 8, "rms_norm_eps": 1e-06, "max_position_embeddings": 131072,
            "head_dim": "computed", "vocab_size": 32000, "intermediate_size": 14336, "hidden_size": 4096,
            "num_hidden_layers": 32, "num_attention_heads": 32,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        remark: "the text model of Mistral Small 3",
        ..SMALL3
    },
];

const MISTRAL3: &[&str] = &["Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"];

const SMALL3: Class =
    Class { arch: "mistral3", prefixes: BARE, spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GATED], ..LLAMA };

fn is(root: &Map<String, Value>, kind: &str) -> bool {
    config::model_type(root) == kind
}

const MISTRAL4: &[NameRule] = &[
    r("model.layers.{}.mlp.gate", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.mlp.gate.e_score_correction", "blk.{}.exp_probs_b"),
    r("model.layers.{}.mlp.experts.gate_up_proj", "blk.{}.ffn_gate_up_exps.weight"),
    r("model.layers.{}.mlp.experts.down_proj", "blk.{}.ffn_down_exps.weight"),
    r("model.layers.{}.mlp.shared_experts.down_proj", "blk.{}.ffn_down_shexp"),
    r("model.layers.{}.mlp.shared_experts.gate_proj", "blk.{}.ffn_gate_shexp"),
    r("model.layers.{}.mlp.shared_experts.up_proj", "blk.{}.ffn_up_shexp"),
];

fn ministral3(p: &mut Params<'_>) -> Result<()> {
    llama(p)?;
    let rope = p.config().rope();
    let number = |key: &str| {
        rope.get(key)
            .and_then(Value::as_f64)
            .ok_or_else(|| Error::input(format!("config.json: the rope parameters have no {key}")))
    };
    if p.config().rope_type() != "yarn" {
        return Err(Error::input("config.json: Ministral 3 rotates by yarn, this rope_type is another"));
    }
    p.f32("rope.scaling.yarn_log_multiplier", number("mscale_all_dim")?);
    p.f32("attention.temperature_scale", number("llama_4_scaling_beta")?);
    Ok(())
}
