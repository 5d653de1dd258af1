//! Folders in Mistral's own form: `params.json` and `consolidated.safetensors`.

use gguf::{Error, Result};
use serde_json::{Map, Value};

use crate::config::{Config, MISTRAL_FORM, as_u64};
use crate::hf::rows::deepseek::{DEEPSEEK2, absorbed, deepseek2};
use crate::hf::rows::llama::local_experts;
use crate::hf::{BASE, Class, How, NameRule, Params, r};
use crate::tokenizer::VocabKind;

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        when: |root| is_there(root, "moe"),
        arch: "deepseek2",
        spelling: &[ENDS, ATTENTION, LATENT, NORMS, GATED, EXPERTS],
        prepare: latent,
        keys: |p| {
            deepseek2(p)?;
            scaling(p)?;
            let original = p.config().get("yarn").and_then(|y| y.get("original_max_position_embeddings"));
            let original = original.and_then(as_u64).ok_or_else(|| lacks("yarn.original_max_position_embeddings"))?;
            p.u32("attention.temperature_length", original)?;
            p.f32("rope.scaling.yarn_log_multiplier", 0.1);
            Ok(())
        },
        drop_further_blocks: DEEPSEEK2.drop_further_blocks,
        remark: "Mistral Large 3 in its own form, with --mistral-format",
        ..FORM
    },
    Class {
        when: |root| is_there(root, "llama_4_scaling"),
        arch: "mistral3",
        remark: "Ministral 3 in its own form, with --mistral-format",
        ..FORM
    },
    Class { remark: "models of Mistral in their own form, with --mistral-format", ..FORM },
];

const FORM: Class = Class {
    names: &[MISTRAL_FORM],
    arch: "llama",
    vocabulary: VocabKind::Mistral,
    spelling: &[ENDS, ATTENTION, NORMS, GATED],
    keys: |p| {
        Params::common(p)?;
        let config = p.config();
        let head = match config.u64("head_dim") {
            Some(head) => head,
            None => config.need_u64(&["dim"])? / config.heads()?,
        };
        p.u32("rope.dimension_count", head)?;
        scaling(p)
    },
    ..BASE
};

const ENDS: &[NameRule] = &[r("tok_embeddings", "token_embd"), r("norm", "output_norm"), r("output", "output")];

const ATTENTION: &[NameRule] = &[
    r("layers.{}.attention.wq", "blk.{}.attn_q"),
    r("layers.{}.attention.wk", "blk.{}.attn_k"),
    r("layers.{}.attention.wv", "blk.{}.attn_v"),
    r("layers.{}.attention.wo", "blk.{}.attn_output"),
];

const LATENT: &[NameRule] = &[
    r("layers.{}.attention.wq_a", "blk.{}.attn_q_a"),
    r("layers.{}.attention.q_a_norm", "blk.{}.attn_q_a_norm"),
    r("layers.{}.attention.wq_b", "blk.{}.attn_q_b"),
    r("layers.{}.attention.wkv_a_with_mqa", "blk.{}.attn_kv_a_mqa"),
    r("layers.{}.attention.kv_a_norm", "blk.{}.attn_kv_a_norm"),
    r("layers.{}.attention.wkv_b", "blk.{}.attn_").how(How::Split(absorbed)),
];

const NORMS: &[NameRule] =
    &[r("layers.{}.attention_norm", "blk.{}.attn_norm"), r("layers.{}.ffn_norm", "blk.{}.ffn_norm")];

const GATED: &[NameRule] = &[
    r("layers.{}.feed_forward.w1", "blk.{}.ffn_gate"),
    r("layers.{}.feed_forward.w2", "blk.{}.ffn_down"),
    r("layers.{}.feed_forward.w3", "blk.{}.ffn_up"),
];

const STACK: How = How::Stack { group: "experts", members: local_experts };

const EXPERTS: &[NameRule] = &[
    r("layers.{}.experts.{x}.w2", "blk.{}.ffn_down_exps").how(STACK),
    r("layers.{}.experts.{x}.w1", "blk.{}.ffn_gate_exps").how(STACK),
    r("layers.{}.experts.{x}.w3", "blk.{}.ffn_up_exps").how(STACK),
    r("layers.{}.gate", "blk.{}.ffn_gate_inp"),
    r("layers.{}.shared_experts.w2", "blk.{}.ffn_down_shexp"),
    r("layers.{}.shared_experts.w1", "blk.{}.ffn_gate_shexp"),
    r("layers.{}.shared_experts.w3", "blk.{}.ffn_up_shexp"),
];

/// Names of this form, each with that of transformers.
const NAMES: &[(&str, &str)] = &[
    ("dim", "hidden_size"),
    ("norm_eps", "rms_norm_eps"),
    ("n_kv_heads", "num_key_value_heads"),
    ("n_layers", "num_hidden_layers"),
    ("n_heads", "num_attention_heads"),
    ("hidden_dim", "intermediate_size"),
];

/// The same of the part about experts.
const EXPERT_NAMES: &[(&str, &str)] = &[
    ("route_every_n", "moe_layer_freq"),
    ("first_k_dense_replace", "first_k_dense_replace"),
    ("num_experts_per_tok", "num_experts_per_tok"),
    ("num_experts", "n_routed_experts"),
    ("expert_hidden_dim", "moe_intermediate_size"),
    ("routed_scale", "routed_scaling_factor"),
    ("num_shared_experts", "n_shared_experts"),
    ("num_expert_groups", "n_group"),
    ("num_expert_groups_per_tok", "topk_group"),
];

/// A context that nothing is said of.
const CONTEXT: u64 = 128_000;

fn is_there(root: &Map<String, Value>, key: &str) -> bool {
    root.get(key).is_some_and(|v| !v.is_null())
}

fn lacks(key: &str) -> Error {
    Error::input(format!("params.json has no {key}"))
}

/// The configuration in the names that the rows of latent attention read.
fn latent(config: &mut Config) -> Result<()> {
    if config.get("kv_lora_rank").is_none() {
        return Err(Error::input("params.json has experts, but no kv_lora_rank: Mixtral's own form is not read")
            .help("convert the files of the same repository that are in the form of transformers"));
    }
    for (own, name) in NAMES {
        if let Some(value) = config.get(own).cloned() {
            config.set(name, value);
        }
    }
    let experts = config.get("moe").and_then(Value::as_object).cloned().ok_or_else(|| lacks("moe"))?;
    for (own, name) in EXPERT_NAMES {
        if let Some(value) = experts.get(*own) {
            config.set(name, value.clone());
        }
    }
    let tied = config.bool("tied_embeddings").unwrap_or(false);
    config.set("tie_word_embeddings", tied);
    if !config.has("max_position_embeddings") {
        config.set("max_position_embeddings", CONTEXT);
    }
    config.set("norm_topk_prob", true);
    config.set("scoring_func", "softmax");
    Ok(())
}

/// How positions beyond the context of the first training rotate, and how queries grow there.
fn scaling(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    if let Some(yarn) = config.get("yarn") {
        let number = |key: &str| yarn[key].as_f64().ok_or_else(|| lacks(&format!("yarn.{key}")));
        let original = as_u64(&yarn["original_max_position_embeddings"]);
        let applies = yarn["apply_scale"].as_bool().ok_or_else(|| lacks("yarn.apply_scale"))?;
        p.set("rope.scaling.type", "yarn");
        p.f32("rope.scaling.factor", number("factor")?);
        p.f32("rope.scaling.yarn_beta_fast", number("beta")?);
        p.f32("rope.scaling.yarn_beta_slow", number("alpha")?);
        p.f32("rope.scaling.yarn_log_multiplier", if applies { 0.0 } else { 1.0 });
        let original = original.ok_or_else(|| lacks("yarn.original_max_position_embeddings"))?;
        p.u32("rope.scaling.original_context_length", original)?;
    }
    if let Some(scaling) = config.get("llama_4_scaling") {
        p.f32("attention.temperature_scale", scaling["beta"].as_f64().ok_or_else(|| lacks("llama_4_scaling.beta"))?);
    }
    Ok(())
}
