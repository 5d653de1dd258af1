//! BitNet b1.58: ternary weights, quantized while they are converted.

use gguf::Result;
use serde_json::Value;

use crate::config::Config;
use crate::hf::{BASE, Class, ENDS, How, NORMS, NameRule, Params, Piece, r};
use crate::reduce::ternary;
use crate::tokenizer::VocabKind;
use crate::transform::Rows;

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        when: |root| root.get("model_type").and_then(Value::as_str) == Some("bitnet"),
        defaults: r#"{"num_key_value_heads": 5, "rms_norm_eps": 1e-05, "max_position_embeddings": 2048,
            "hidden_size": 2560, "intermediate_size": 6912, "num_hidden_layers": 30, "num_attention_heads": 20,
            "vocab_size": 128256, "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}"#,
        ..BITNET
    },
    BITNET,
];

const BITNET: Class = Class {
    names: &["BitnetForCausalLM", "BitNetForCausalLM"],
    arch: "bitnet",
    defaults: crate::hf::rows::llama::LLAMA_DEFAULTS,
    vocabulary: VocabKind::SentencePiece,
    spelling: &[ENDS_TIED, NORMS, TERNARY],
    keys: bitnet,
    remark: "weights made ternary",
    ..BASE
};

const ENDS_TIED: &[NameRule] = &[ENDS[0], ENDS[1], r("lm_head", "").how(How::Tied)];

const TERNARY: &[NameRule] = &[
    r("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q").how(How::Change(rounded)),
    r("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k").how(How::Change(rounded)),
    r("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v").how(How::Change(rounded)),
    r("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output").how(How::Change(rounded)),
    r("model.layers.{}.self_attn.inner_attn_ln", "blk.{}.attn_sub_norm"),
    r("model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate").how(How::Change(rounded)),
    r("model.layers.{}.mlp.up_proj", "blk.{}.ffn_up").how(How::Change(rounded)),
    r("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down").how(How::Change(rounded)),
    r("model.layers.{}.mlp.ffn_layernorm", "blk.{}.ffn_sub_norm"),
];

fn rounded(_: &Config, piece: &Piece) -> Result<Rows> {
    Ok(if piece.suffix == ".weight" { ternary(&piece.rows) } else { piece.rows.clone() })
}

fn bitnet(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.set("rope.scaling.type", "linear");
    p.f32("rope.scaling.factor", 1.0);
    Ok(())
}
