//! Nemotron and Minitron: norms that store their distance from 1.

use gguf::{Error, Result};

use crate::hf::{ATTENTION, BASE, Class, How, NameRule, Params, plus_one, r};
use crate::tokenizer::VocabKind;

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["NemotronForCausalLM"],
    arch: "nemotron",
    defaults: r#"{"num_key_value_heads": null, "norm_eps": 1e-05, "max_position_embeddings": 4096, "head_dim": "computed",
        "hidden_size": 6144, "intermediate_size": 24576, "num_hidden_layers": 32, "num_attention_heads": 48,
        "vocab_size": 256000,
        "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5, "rope_type": "default"}}"#,
    vocabulary: VocabKind::Nemotron,
    spelling: &[ATTENTION, NEMOTRON],
    keys: nemotron,
    remark: "norms plus 1",
    ..BASE
}];

const NEMOTRON: &[NameRule] = &[
    r("model.embed_tokens", "token_embd"),
    r("model.norm", "output_norm").how(How::MapWeight(plus_one)),
    r("lm_head", "output"),
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm").how(How::MapWeight(plus_one)),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm").how(How::MapWeight(plus_one)),
    r("model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    r("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
];

fn nemotron(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.need_u32("vocab_size", &["vocab_size"])?;
    let names = ["layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"];
    p.need_f32("attention.layer_norm_epsilon", &names)?;
    let config = p.config();
    let part = config.rope_f64("partial_rotary_factor");
    let part = part.ok_or_else(|| Error::input("config.json has no partial_rotary_factor"))?;
    let width = config.need_u64(&["hidden_size", "n_embd"])?;
    p.u32("rope.dimension_count", (part * width as f64) as u64 / config.heads()?)?;
    match config.f64("factor").filter(|f| *f != 0.0).or_else(|| config.rope_f64("factor")) {
        None => p.set("rope.scaling.type", "none"),
        Some(factor) => {
            p.set("rope.scaling.type", "linear");
            p.f32("rope.scaling.factor", factor);
        }
    }
    Ok(())
}
