//! Orion, openPangu, PLM and Xverse: Llamas with small differences.

use gguf::Result;

use crate::hf::rows::llama::head_dim;
use crate::hf::{ATTENTION, ATTENTION_ROTATED, BASE, Class, ENDS, ENDS_UNTIED, GATED, NORMS, NameRule, Params, r};
use crate::tokenizer::VocabKind;

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["OrionForCausalLM"],
        arch: "orion",
        vocabulary: VocabKind::SentencePiece,
        spelling: &[ENDS, ATTENTION, NORMS, GATED],
        keys: orion,
        remark: "layer norms",
        ..BASE
    },
    Class {
        names: &["PanguEmbeddedForCausalLM"],
        arch: "pangu-embedded",
        vocabulary: VocabKind::Ernie,
        spelling: &[ENDS_UNTIED, ATTENTION, NORMS, GATED],
        keys: pangu,
        remark: "biases of attention",
        ..BASE
    },
    Class {
        names: &["PLMForCausalLM"],
        arch: "plm",
        spelling: &[ENDS, ATTENTION, LATENT, NORMS, GATED],
        keys: plm,
        remark: "latent keys and values; squared ReLU without a gate",
        ..BASE
    },
    Class {
        names: &["XverseForCausalLM"],
        arch: "xverse",
        vocabulary: VocabKind::Xverse,
        spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GATED],
        keys: xverse,
        remark: "a vocabulary without scores",
        ..BASE
    },
];

const LATENT: &[NameRule] = &[
    r("model.layers.{}.self_attn.kv_a_proj_with_mqa", "blk.{}.attn_kv_a_mqa"),
    r("model.layers.{}.self_attn.kv_a_layernorm", "blk.{}.attn_kv_a_norm"),
    r("model.layers.{}.self_attn.kv_b_proj", "blk.{}.attn_kv_b"),
];

/// How Llama's first weights were laid out, which two files state though no reader asks.
const LAYOUT: &str = "Meta AI original pth";

fn orion(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    p.file_type();
    p.set("tensor_data_layout", LAYOUT);
    p.need_u32("context_length", &["max_sequence_length", "max_position_embeddings", "model_max_length"])?;
    p.need_u32("embedding_length", &["hidden_size"])?;
    p.blocks()?;
    p.need_u32("feed_forward_length", &["intermediate_size"])?;
    p.need_u32("attention.head_count", &["num_attention_heads"])?;
    p.u32("attention.head_count_kv", config.kv_heads()?)?;
    // The configuration calls it that of an RMS norm; it is a layer norm's.
    p.need_f32("attention.layer_norm_epsilon", &["rms_norm_eps"])
}

fn pangu(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    p.need_u32("vocab_size", &["vocab_size"])?;
    let head = head_dim(config)?;
    p.u32("rope.dimension_count", head)?;
    p.u32("attention.key_length", head)?;
    p.u32("attention.value_length", head)
}

fn plm(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let need = |name: &str| p.config().need_u64(&[name]);
    let (rope, rest, value) = (need("qk_rope_head_dim")?, need("qk_nope_head_dim")?, need("v_head_dim")?);
    p.need_u32("vocab_size", &["vocab_size"])?;
    p.need_u32("attention.kv_lora_rank", &["kv_lora_rank"])?;
    p.u32("attention.key_length", rope.saturating_add(rest))?;
    p.u32("attention.value_length", value)?;
    p.u32("rope.dimension_count", rope)
}

fn xverse(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.set("tensor_data_layout", LAYOUT);
    let config = p.config();
    p.u32("rope.dimension_count", config.need_u64(&["hidden_size"])? / config.heads()?)
}
