//! Dream: a model of diffusion, which sees the whole text.

use gguf::Result;

use crate::hf::{ATTENTION, BASE, Class, ENDS, GATED, NORMS, Params};
use crate::tokenizer::VocabKind;

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["DreamModel"],
    arch: "dream",
    vocabulary: VocabKind::Dream,
    spelling: &[ENDS, ATTENTION, NORMS, GATED],
    keys: dream,
    remark: "a diffusion model of Qwen 2's form, without a causal mask",
    ..BASE
}];

fn dream(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.pooling()?;
    p.set("attention.causal", false);
    p.maybe_u32("tokenizer.ggml.mask_token_id", &["mask_token_id"])
}
