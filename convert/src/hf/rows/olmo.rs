//! OLMo 1, 2 and 3, dense and with experts.

use gguf::Result;

use crate::config::Rope;
use crate::hf::rows::qwen::EXPERTS;
use crate::hf::{
    ATTENTION, ATTENTION_ROTATED, BASE, Class, ENDS, GATED, HEAD_NORMS, NORMS, NameRule, POST_NORMS, Params, r,
};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["OlmoForCausalLM", "OLMoForCausalLM"],
        arch: "olmo",
        defaults: r#"{"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": null, "max_position_embeddings": 2048, "hidden_size": 4096,
            "intermediate_size": 11008, "vocab_size": 50304,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        spelling: &[OLMO_ENDS, ATTENTION_ROTATED, GATED],
        keys: olmo,
        remark: "norms without weights",
        ..BASE
    },
    Class {
        names: &["Olmo2ForCausalLM"],
        defaults: r#"{"num_key_value_heads": null, "rms_norm_eps": 1e-05, "max_position_embeddings": 2048,
            "hidden_size": 4096, "intermediate_size": 11008, "vocab_size": 50304, "num_hidden_layers": 32,
            "num_attention_heads": 32, "tie_word_embeddings": false,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        remark: "norms after attention and feed-forward",
        ..OLMO2
    },
    Class {
        names: &["Olmo3ForCausalLM"],
        defaults: r#"{"num_key_value_heads": null, "rms_norm_eps": 1e-05, "max_position_embeddings": 2048,
            "hidden_size": 4096, "intermediate_size": 11008, "vocab_size": 50304, "num_hidden_layers": 32,
            "num_attention_heads": 32, "tie_word_embeddings": false, "sliding_window": 4096,
            "rope_parameters": {"full_attention": {"rope_theta": 500000.0, "rope_type": "default"},
                "sliding_attention": {"rope_theta": 500000.0, "rope_type": "default"}}}"#,
        rope: Rope::Kinds { full: "rope_theta", sliding: "rope_theta", both: false },
        prepare: |config| {
            let known = config.is_known();
            let every_fourth =
                |i: u64, _| if (i + 1).is_multiple_of(4) { "full_attention" } else { "sliding_attention" };
            if known { config.set_layer_types(every_fourth) } else { Ok(()) }
        },
        remark: "as OLMo 2; all layers but every fourth slide",
        ..OLMO2
    },
    Class {
        names: &["SeedOssForCausalLM"],
        arch: "seed_oss",
        defaults: r#"{"vocab_size": 155136, "hidden_size": 4096, "intermediate_size": 27648, "num_hidden_layers": 64,
            "num_attention_heads": 80, "num_key_value_heads": 8, "max_position_embeddings": 524288,
            "rms_norm_eps": 1e-06, "head_dim": 128, "tie_word_embeddings": false,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        spelling: &[ENDS, ATTENTION, SEED_NORMS, GATED],
        remark: "Seed-OSS: biases in attention",
        ..BASE
    },
    Class {
        names: &["OlmoeForCausalLM"],
        arch: "olmoe",
        defaults: r#"{"num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": null, "rms_norm_eps": 1e-05, "max_position_embeddings": 4096,
            "hidden_size": 2048, "intermediate_size": 2048, "num_experts": 64, "num_experts_per_tok": 8,
            "vocab_size": 50304, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        spelling: &[ENDS, ATTENTION, HEAD_NORMS, NORMS, EXPERTS],
        keys: olmoe,
        remark: "experts stacked",
        ..BASE
    },
];

const OLMO2: Class =
    Class { arch: "olmo2", spelling: &[ENDS, ATTENTION, HEAD_NORMS, POST_NORMS, GATED], keys: olmo2, ..BASE };

const SEED_NORMS: &[NameRule] = &[
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm"),
];

const OLMO_ENDS: &[NameRule] = &[r("model.embed_tokens", "token_embd"), r("lm_head", "output")];

fn olmo(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.f32("attention.layer_norm_epsilon", 1e-5);
    p.maybe_f32("attention.clamp_kqv", &["clip_qkv"])
}

fn olmo2(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    if !p.config().has("sliding_window") {
        return Ok(());
    }
    p.need_u32("attention.sliding_window", &["sliding_window"])?;
    // OLMo 3 slides in all layers but every fourth.
    let usual = || (1..=p.config().blocks().unwrap_or(0)).map(|i| i % 4 != 0).collect();
    let pattern: Vec<bool> = p.sliding_layers().unwrap_or_else(usual);
    p.sliding_pattern(&pattern);
    Ok(())
}

fn olmoe(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.f32("attention.layer_norm_rms_epsilon", 1e-5);
    Ok(())
}
