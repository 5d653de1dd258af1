//! Gemma 1, 2 and 3: norms that store their distance from 1.

use gguf::Result;

use crate::hf::{ATTENTION, BASE, Class, GATED, How, Params, Rule, plus_one, r};
use crate::tokenizer::VocabKind;

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["GemmaForCausalLM"],
        arch: "gemma",
        defaults: r#"{"num_key_value_heads": 16, "rms_norm_eps": 1e-06, "max_position_embeddings": 8192, "head_dim": 256,
            "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28, "num_attention_heads": 16,
            "vocab_size": 256000}"#,
        vocabulary: VocabKind::Gemma,
        spelling: &[GEMMA_ENDS, ATTENTION, GEMMA_NORMS, GATED],
        keys: gemma,
        remark: "norms plus 1",
        ..BASE
    },
    Class {
        names: &["Gemma2ForCausalLM"],
        arch: "gemma2",
        defaults: r#"{"num_key_value_heads": 4, "rms_norm_eps": 1e-06, "max_position_embeddings": 8192, "head_dim": 256,
            "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
            "vocab_size": 256000, "sliding_window": 4096, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}"#,
        vocabulary: VocabKind::Gemma2,
        spelling: &[GEMMA_ENDS, ATTENTION, FOUR_NORMS, GATED],
        keys: gemma2,
        remark: "norms plus 1; capped logits; every other layer slides",
        ..BASE
    },
    Class {
        names: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
        arch: "gemma3",
        defaults: r#"{"num_key_value_heads": 4, "rms_norm_eps": 1e-06, "max_position_embeddings": 131072, "head_dim": 256,
            "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
            "vocab_size": 262208, "sliding_window": 4096, "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 1000000.0}}}"#,
        vocabulary: VocabKind::Gemma3,
        spelling: &[GEMMA3_ENDS, ATTENTION, FOUR_NORMS, GEMMA_HEAD_NORMS, GATED],
        keys: gemma3,
        cut_embedding: true,
        remark: "norms plus 1; two rotations; the text model of the multi-modal ones",
        ..BASE
    },
];

const GEMMA_ENDS: &[Rule] = &[
    r("model.embed_tokens", "token_embd"),
    r("model.norm", "output_norm").how(How::MapWeight(plus_one)),
    r("lm_head", "").how(How::Drop),
];

const GEMMA3_ENDS: &[Rule] = &[
    r("model.embed_tokens", "token_embd"),
    r("model.norm", "output_norm").how(How::MapWeight(plus_one)),
    r("lm_head", "output"),
];

const GEMMA_NORMS: &[Rule] = &[
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm").how(How::MapWeight(plus_one)),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm").how(How::MapWeight(plus_one)),
];

const FOUR_NORMS: &[Rule] = &[
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm").how(How::MapWeight(plus_one)),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm").how(How::MapWeight(plus_one)),
    r("model.layers.{}.pre_feedforward_layernorm", "blk.{}.ffn_norm").how(How::MapWeight(plus_one)),
    r("model.layers.{}.post_feedforward_layernorm", "blk.{}.post_ffw_norm").how(How::MapWeight(plus_one)),
];

const GEMMA_HEAD_NORMS: &[Rule] = &[
    r("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm").how(How::MapWeight(plus_one)),
    r("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm").how(How::MapWeight(plus_one)),
];

fn gemma(p: &mut Params<'_>) -> Result<()> {
    p.need_u32("context_length", &["max_position_embeddings"])?;
    p.need_u32("embedding_length", &["hidden_size"])?;
    p.blocks()?;
    p.need_u32("feed_forward_length", &["intermediate_size"])?;
    p.need_u32("attention.head_count", &["num_attention_heads"])?;
    p.need_u32("attention.head_count_kv", &["num_key_value_heads"])?;
    p.need_f32("attention.layer_norm_rms_epsilon", &["rms_norm_eps"])?;
    p.need_u32("attention.key_length", &["head_dim"])?;
    p.need_u32("attention.value_length", &["head_dim"])?;
    p.file_type();
    Ok(())
}

fn gemma2(p: &mut Params<'_>) -> Result<()> {
    gemma(p)?;
    p.need_f32("attn_logit_softcapping", &["attn_logit_softcapping"])?;
    p.need_f32("final_logit_softcapping", &["final_logit_softcapping"])?;
    p.need_u32("attention.sliding_window", &["sliding_window"])
}

fn gemma3(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    if let Some(cap) = p.config().f64("final_logit_softcapping").filter(|c| *c != 0.0) {
        p.f32("final_logit_softcapping", cap);
    }
    if p.config().u64("sliding_window_pattern") != Some(1) {
        p.need_u32("attention.sliding_window", &["sliding_window"])?;
    }
    Ok(())
}
