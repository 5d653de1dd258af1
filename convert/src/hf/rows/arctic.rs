//! Snowflake Arctic: a dense feed-forward beside the experts.

use gguf::Result;

use crate::hf::rows::llama::{MIXTRAL_EXPERTS, quotient};
use crate::hf::{ATTENTION_ROTATED, BASE, Class, ENDS, NameRule, Params, r};
use crate::tokenizer::VocabKind;

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["ArcticForCausalLM"],
    arch: "arctic",
    vocabulary: VocabKind::Arctic,
    spelling: &[ENDS, ATTENTION_ROTATED, ARCTIC, MIXTRAL_EXPERTS],
    keys: arctic,
    remark: "a dense feed-forward beside experts; tokens redefined in the tokenizer's configuration",
    ..BASE
}];

const ARCTIC: &[NameRule] = &[
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    r("model.layers.{}.residual_layernorm", "blk.{}.ffn_norm"),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm_exps"),
    r("model.layers.{}.residual_mlp.w1", "blk.{}.ffn_gate"),
    r("model.layers.{}.residual_mlp.w2", "blk.{}.ffn_down"),
    r("model.layers.{}.residual_mlp.w3", "blk.{}.ffn_up"),
];

fn arctic(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.need_u32("vocab_size", &["vocab_size"])?;
    let head = quotient(p.config())?;
    p.u32("rope.dimension_count", head)
}
