//! CodeShell.

use gguf::Result;

use crate::hf::rows::gpt::GPT2_LINEAR;
use crate::hf::{BASE, Class, Params};

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["CodeShellForCausalLM"],
    arch: "codeshell",
    spelling: &[GPT2_LINEAR],
    prefixes: &[("transformer.", "")],
    keys: codeshell,
    remark: "",
    ..BASE
}];

fn codeshell(p: &mut Params<'_>) -> Result<()> {
    let width = p.config().need_u64(&["n_embd"])?;
    p.need_u32("context_length", &["n_positions"])?;
    p.u32("embedding_length", width)?;
    p.u32("feed_forward_length", width.saturating_mul(4))?;
    p.blocks()?;
    p.need_u32("attention.head_count", &["n_head"])?;
    p.need_u32("attention.head_count_kv", &["num_query_groups"])?;
    p.need_f32("attention.layer_norm_epsilon", &["layer_norm_epsilon"])?;
    p.file_type();
    p.f32("rope.freq_base", 10000.0);
    p.set("rope.scaling.type", "linear");
    p.f32("rope.scaling.factor", 1.0);
    Ok(())
}
