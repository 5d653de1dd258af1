//! MiniCPM 1 to 3.

use gguf::Result;

use crate::config::Config;
use crate::hf::rows::phi::rope_factors;
use crate::hf::{ATTENTION, ATTENTION_ROTATED, BASE, Class, ENDS, GATED, NORMS, NameRule, Outputs, Params, r};
use crate::tokenizer::VocabKind;

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["MiniCPMForCausalLM"],
        arch: "minicpm",
        vocabulary: VocabKind::SentencePiece,
        spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GATED],
        keys: minicpm,
        generated: |config| {
            let dimensions = config.need_u64(&["hidden_size"])? / config.heads()?;
            factors(config, dimensions)
        },
        remark: "scales of embedding, residuals and output",
        ..BASE
    },
    Class {
        names: &["MiniCPM3ForCausalLM"],
        arch: "minicpm3",
        defaults: r#"{"vocab_size": 73448, "hidden_size": 2560, "intermediate_size": 6400, "num_hidden_layers": 62,
            "num_attention_heads": 40, "num_key_value_heads": 40, "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-05, "kv_lora_rank": 256, "q_lora_rank": 768, "qk_nope_head_dim": 64,
            "qk_rope_head_dim": 32, "tie_word_embeddings": true,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        vocabulary: VocabKind::SentencePiece,
        spelling: &[ENDS, ATTENTION, LATENT, NORMS, GATED],
        keys: minicpm3,
        generated: |config| factors(config, config.need_u64(&["qk_rope_head_dim"])?),
        remark: "latent attention",
        ..BASE
    },
];

const LATENT: &[NameRule] = &[
    r("model.layers.{}.self_attn.q_a_proj", "blk.{}.attn_q_a"),
    r("model.layers.{}.self_attn.q_a_layernorm", "blk.{}.attn_q_a_norm"),
    r("model.layers.{}.self_attn.q_b_proj", "blk.{}.attn_q_b"),
    r("model.layers.{}.self_attn.kv_a_proj_with_mqa", "blk.{}.attn_kv_a_mqa"),
    r("model.layers.{}.self_attn.kv_a_layernorm", "blk.{}.attn_kv_a_norm"),
    r("model.layers.{}.self_attn.kv_b_proj", "blk.{}.attn_kv_b"),
];

fn factors(config: &Config, dimensions: u64) -> Result<Outputs> {
    rope_factors(config, dimensions)
}

fn minicpm(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    p.need_f32("embedding_scale", &["scale_emb"])?;
    let layers = config.need_f64(&["num_hidden_layers"])?;
    p.f32("residual_scale", config.need_f64(&["scale_depth"])? / layers.powf(0.5));
    p.f32("logit_scale", config.need_f64(&["hidden_size"])? / config.need_f64(&["dim_model_base"])?);
    Ok(())
}

fn minicpm3(p: &mut Params<'_>) -> Result<()> {
    p.file_type();
    p.need_u32("context_length", &["max_position_embeddings"])?;
    p.need_u32("embedding_length", &["hidden_size"])?;
    p.blocks()?;
    p.need_u32("feed_forward_length", &["intermediate_size"])?;
    p.need_u32("attention.head_count", &["num_attention_heads"])?;
    p.need_u32("attention.head_count_kv", &["num_key_value_heads"])?;
    p.need_f32("attention.layer_norm_rms_epsilon", &["rms_norm_eps"])?;
    p.need_u32("vocab_size", &["vocab_size"])?;
    p.maybe_u32("attention.q_lora_rank", &["q_lora_rank"])?;
    p.need_u32("attention.kv_lora_rank", &["kv_lora_rank"])?;
    let rope = p.config().need_u64(&["qk_rope_head_dim"])?;
    p.u32("attention.key_length", p.config().need_u64(&["qk_nope_head_dim"])?.saturating_add(rope))?;
    p.u32("rope.dimension_count", rope)
}
