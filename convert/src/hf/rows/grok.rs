//! Grok 1 and 2.

use gguf::Result;

use crate::hf::rows::llama::{MIXTRAL_EXPERTS, head_dim, local_experts};
use crate::hf::{ATTENTION, BASE, Class, GATED, How, NameRule, Params, r};
use crate::tokenizer::VocabKind;

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["GrokForCausalLM", "Grok1ForCausalLM"],
    arch: "grok",
    vocabulary: VocabKind::SentencePieceOrGpt2,
    spelling: &[GROK1, GROK2, ATTENTION, GATED, MIXTRAL_EXPERTS],
    keys: grok,
    remark: "scales of embedding and output, capped logits of attention and router",
    ..BASE
}];

const STACK: How = How::Stack { group: "grok-1 experts", members: local_experts };

const GROK1: &[NameRule] = &[
    r("transformer.in_out_embed", "token_embd"),
    r("model.embed_tokens", "token_embd"),
    r("lm_head", "output"),
    r("transformer.rms_norm", "output_norm"),
    r("model.norm", "output_norm"),
    r("transformer.decoder_layer.{}.rms_norm", "blk.{}.attn_norm"),
    r("transformer.decoder_layer.{}.rms_norm_1", "blk.{}.attn_output_norm"),
    r("transformer.decoder_layer.{}.rms_norm_2", "blk.{}.ffn_norm"),
    r("transformer.decoder_layer.{}.rms_norm_3", "blk.{}.layer_output_norm"),
    r("transformer.decoder_layer.{}.multi_head_attention.query", "blk.{}.attn_q"),
    r("transformer.decoder_layer.{}.multi_head_attention.key", "blk.{}.attn_k"),
    r("transformer.decoder_layer.{}.multi_head_attention.value", "blk.{}.attn_v"),
    r("transformer.decoder_layer.{}.multi_head_attention.linear", "blk.{}.attn_output"),
    r("transformer.decoder_layer.{}.router", "blk.{}.ffn_gate_inp"),
    r("transformer.decoder_layer.{}.moe.{x}.linear", "blk.{}.ffn_gate_exps").how(STACK),
    r("transformer.decoder_layer.{}.moe.{x}.linear_1", "blk.{}.ffn_down_exps").how(STACK),
    r("transformer.decoder_layer.{}.moe.{x}.linear_v", "blk.{}.ffn_up_exps").how(STACK),
];

const GROK2: &[NameRule] = &[
    r("model.layers.{}.pre_attn_norm", "blk.{}.attn_norm"),
    r("model.layers.{}.post_attn_norm", "blk.{}.attn_output_norm"),
    r("model.layers.{}.pre_moe_norm", "blk.{}.ffn_norm"),
    r("model.layers.{}.post_moe_norm", "blk.{}.post_ffw_norm"),
];

fn grok(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    p.f32("attn_logit_softcapping", config.f64("attn_logit_softcapping").unwrap_or(30.0));
    p.f32("router_logit_softcapping", config.f64("router_logit_softcapping").unwrap_or(30.0));
    if let Some(cap) = config.f64("final_logit_softcapping").filter(|c| *c != 0.0) {
        p.f32("final_logit_softcapping", cap);
    }
    p.maybe_u32("expert_feed_forward_length", &["moe_intermediate_size"])?;
    // Grok 2 calls it "original".
    if matches!(config.str("rope_type"), Some("yarn" | "original")) {
        p.set("rope.scaling.type", "yarn");
        p.need_f32("rope.scaling.factor", &["scaling_factor"])?;
        p.need_u32("rope.scaling.original_context_length", &["original_max_position_embeddings"])?;
        p.need_f32("rope.scaling.yarn_ext_factor", &["extrapolation_factor"])?;
        p.need_f32("rope.scaling.yarn_attn_factor", &["attn_factor"])?;
        p.need_f32("rope.scaling.yarn_beta_fast", &["beta_fast"])?;
        p.need_f32("rope.scaling.yarn_beta_slow", &["beta_slow"])?;
    }
    if config.u64("attn_temperature_len").is_some_and(|n| n > 0) {
        p.need_u32("attention.temperature_length", &["attn_temperature_len"])?;
    }
    let scale = match config.f64("attn_output_multiplier") {
        Some(scale) => scale,
        None => (head_dim(config)? as f64).powf(-0.5),
    };
    p.f32("attention.output_scale", scale);
    p.need_f32("embedding_scale", &["embedding_multiplier_scale"])?;
    p.need_f32("logit_scale", &["output_multiplier_scale"])
}
