//! LLaDA: diffusion models that attend in both directions.

use gguf::Result;

use crate::hf::rows::llama::head_dim;
use crate::hf::{ATTENTION, BASE, Class, ENDS, EXPERTS, HEAD_NORMS, How, NORMS, NameRule, Params, r};
use crate::tokenizer::VocabKind;

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["LLaDAModelLM"],
        arch: "llada",
        vocabulary: VocabKind::Llada,
        spelling: &[LLADA],
        keys: llada,
        remark: "diffusion; attention in both directions",
        ..BASE
    },
    Class {
        names: &["LLaDAMoEModel", "LLaDAMoEModelLM"],
        arch: "llada-moe",
        spelling: &[ENDS, ATTENTION, HEAD_NORMS, NORMS, EXPERTS, ROUTER],
        keys: llada_moe,
        remark: "as LLaDA with experts",
        ..BASE
    },
];

const LLADA: &[NameRule] = &[
    r("model.transformer.wte", "token_embd"),
    r("model.transformer.ln_f", "output_norm"),
    r("model.transformer.ff_out", "output"),
    r("model.transformer.blocks.{}.attn_norm", "blk.{}.attn_norm"),
    r("model.transformer.blocks.{}.q_proj", "blk.{}.attn_q").how(How::RotateQuery),
    r("model.transformer.blocks.{}.k_proj", "blk.{}.attn_k").how(How::RotateKey),
    r("model.transformer.blocks.{}.v_proj", "blk.{}.attn_v"),
    r("model.transformer.blocks.{}.attn_out", "blk.{}.attn_output"),
    r("model.transformer.blocks.{}.ff_norm", "blk.{}.ffn_norm"),
    r("model.transformer.blocks.{}.ff_proj", "blk.{}.ffn_gate"),
    r("model.transformer.blocks.{}.up_proj", "blk.{}.ffn_up"),
    r("model.transformer.blocks.{}.ff_out", "blk.{}.ffn_down"),
];

pub(super) const ROUTER: &[NameRule] = &[r("model.layers.{}.mlp.gate", "blk.{}.ffn_gate_inp")];

fn llada(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.pooling()?;
    let mut config = p.config().clone();
    p.need_u32("vocab_size", &["vocab_size"])?;
    if !config.has("hidden_size") {
        config.set("hidden_size", config.need_u64(&["d_model"])?);
    }
    p.u32("rope.dimension_count", head_dim(&config)?)?;
    p.u32("context_length", config.u64("max_sequence_length").unwrap_or(4096))?;
    p.u32("embedding_length", config.u64("d_model").unwrap_or(4096))?;
    p.u32("feed_forward_length", config.u64("mlp_hidden_size").unwrap_or(12288))?;
    both_directions(p);
    Ok(())
}

fn both_directions(p: &mut Params<'_>) {
    p.set("attention.causal", false);
    p.set("diffusion.shift_logits", false);
}

fn llada_moe(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.maybe_u32("expert_feed_forward_length", &["expert_intermediate_size"])?;
    p.u32("tokenizer.ggml.mask_token_id", 156_895)?;
    both_directions(p);
    Ok(())
}
