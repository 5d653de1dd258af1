//! HRM-Text: two stacks of layers that run in cycles.

use gguf::{Error, Result};

use crate::config::Config;
use crate::hf::rows::llama::{halves, head_dim};
use crate::hf::{BASE, Class, How, NameRule, Outputs, Params, Piece, r};
use crate::transform::sliced;

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["HrmTextForCausalLM"],
    arch: "hrm_text",
    defaults: r#"{"vocab_size": 151808, "hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 16,
        "num_attention_heads": 12, "max_position_embeddings": 2048, "rms_norm_eps": 1e-06, "head_dim": 128, "H_cycles": 2,
        "L_cycles": 3, "prefix_lm": true, "initializer_range": 0.02, "tie_word_embeddings": false,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
    spelling: &[HRM],
    prepare: cycles,
    rename: one_stack,
    keys: hrm,
    remark: "two stacks that run in cycles; fused projections taken apart",
    ..BASE
}];

const HRM: &[NameRule] = &[
    r("model.embed_tokens", "token_embd"),
    r("lm_head", "output"),
    r("model.z_L_init", "hrm.z_l_init"),
    r("model.layers.{}.self_attn.gqkv_proj", "blk.{}.attn_").how(How::Split(fused_attention)),
    r("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    r("model.layers.{}.mlp.gate_up_proj", "blk.{}.ffn_").how(How::Split(fused_feed_forward)),
    r("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
];

/// The blocks of the file are those of the cache: every run of a layer has one.
fn cycles(config: &mut Config) -> Result<()> {
    if config.get("embedding_scale").is_none()
        && let Some(range) = config.f64("initializer_range")
    {
        config.set("embedding_scale", 1.0 / range);
    }
    let layers = config.u64_or(&["num_layers_per_stack"], config.layers()?)?;
    config.set("num_layers_per_stack", layers);
    let (high, low) = (config.need_u64(&["H_cycles"])?, config.need_u64(&["L_cycles"])?);
    config.set_blocks(layers.saturating_mul(high).saturating_mul(low.saturating_add(1)));
    Ok(())
}

/// The low stack comes first, the high one after it.
fn one_stack(config: &Config, name: &str) -> Option<String> {
    let stacks = [("model.L_module.layers.", 0), ("model.H_module.layers.", config.u64("num_layers_per_stack")?)];
    let found = stacks.iter().find_map(|(stack, first)| Some((name.strip_prefix(stack)?, first)));
    let Some((rest, first)) = found else { return Some(name.to_owned()) };
    let (layer, rest) = rest.split_once('.')?;
    let layer = layer.parse::<u64>().ok()?.checked_add(*first)?;
    let rest = rest.strip_prefix("attn.").map_or_else(|| rest.to_owned(), |own| format!("self_attn.{own}"));
    Some(format!("model.layers.{layer}.{rest}"))
}

fn fused_attention(_: &Config, piece: &Piece) -> Result<Outputs> {
    let rows = piece.rows.shape().first().copied().unwrap_or(0);
    if rows % 4 != 0 {
        return Err(Error::input(format!("its {rows} rows are no four equal parts")));
    }
    let kinds = ["gate", "q", "k", "v"].iter().zip(0..);
    kinds
        .map(|(kind, i)| {
            Ok((format!("{}{kind}{}", piece.to, piece.suffix), sliced(&piece.rows, 0, i * rows / 4, rows / 4)?))
        })
        .collect()
}

fn fused_feed_forward(_: &Config, piece: &Piece) -> Result<Outputs> {
    let name = |kind: &str| format!("{}{kind}{}", piece.to, piece.suffix);
    halves(&piece.rows, name("gate"), name("up"))
}

fn hrm(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    p.u32("rope.dimension_count", head_dim(config)?)?;
    p.need_f32("embedding_scale", &["embedding_scale"])?;
    p.need_u32("hrm.layers_per_stack", &["num_layers_per_stack"])?;
    p.need_u32("hrm.h_cycles", &["H_cycles"])?;
    p.need_u32("hrm.l_cycles", &["L_cycles"])?;
    p.set("hrm.prefix_lm", config.bool("prefix_lm").unwrap_or(false));
    Ok(())
}
