//! The text models of Qwen that also see or hear.

use gguf::Result;
use serde_json::Value;

use crate::config::Config;
use crate::hf::rows::llama::halves;
use crate::hf::rows::qwen::{
    DENSE_OR_EXPERTS, QWEN3, QWEN3_MOE, ROUTER, SEPARATE_EXPERTS, find_reranker, qwen_moe, qwen3,
};
use crate::hf::{
    ATTENTION, BARE, BASE, Class, ENDS, GATED, HEAD_NORMS, How, NORMS, NameRule, Outputs, Params, Piece, r,
};
use crate::tokenizer::VocabKind;
use crate::transform::transposed;

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["Qwen2VLModel", "Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"],
        defaults: r#"{"vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
            "num_attention_heads": 64, "num_key_value_heads": 8, "max_position_embeddings": 32768, "rms_norm_eps": 1e-05,
            "tie_word_embeddings": false, "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}}"#,
        remark: "the text models of Qwen2-VL and Qwen2.5-VL",
        ..QWEN2_VL
    },
    Class {
        names: &["Qwen2_5OmniModel"],
        defaults: r#"{"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 32768, "rms_norm_eps": 1e-06,
            "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}}"#,
        remark: "the thinker of Qwen2.5-Omni",
        ..QWEN2_VL
    },
    Class {
        names: &["Qwen3VLForConditionalGeneration"],
        arch: "qwen3vl",
        defaults: r#"{"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-06, "tie_word_embeddings": false,
            "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}"#,
        prefixes: THINKER,
        inspect: find_reranker,
        keys: |p| {
            qwen3(p)?;
            deep_layers(p)
        },
        remark: "the text model of Qwen3-VL and its rerankers",
        ..QWEN3
    },
    Class {
        names: &["Qwen3ASRForConditionalGeneration"],
        arch: "qwen3vl",
        defaults: r#"{"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-06, "tie_word_embeddings": true,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        vocabulary: VocabKind::Qwen3Asr,
        prefixes: THINKER,
        keys: |p| {
            qwen3(p)?;
            p.u32("n_deepstack_layers", 0)
        },
        remark: "the text model of Qwen3-ASR",
        ..QWEN3
    },
    Class {
        names: &["Qwen3VLMoeForConditionalGeneration"],
        defaults: r#"{"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
            "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": "computed",
            "max_position_embeddings": 128000, "rms_norm_eps": 1e-06, "moe_intermediate_size": 1408,
            "num_experts_per_tok": 4, "num_local_experts": 60,
            "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}"#,
        keys: |p| {
            qwen_moe(p)?;
            deep_layers(p)
        },
        remark: "the text model of Qwen3-VL with experts",
        ..QWEN3_VL_MOE
    },
    Class {
        names: &["Qwen3OmniMoeForConditionalGeneration"],
        defaults: r#"{"vocab_size": 3584, "hidden_size": 2048, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 32768, "rms_norm_eps": 1e-06,
            "moe_intermediate_size": 768, "num_experts_per_tok": 8, "num_experts": 128,
            "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}}"#,
        prepare: |_| Ok(()),
        vocabulary: VocabKind::Qwen3Omni,
        keys: |p| {
            qwen_moe(p)?;
            p.u32("n_deepstack_layers", 0)
        },
        remark: "the thinker of Qwen3-Omni",
        ..QWEN3_VL_MOE
    },
];

const QWEN2_VL: Class = Class {
    arch: "qwen2vl",
    vocabulary: VocabKind::SentencePieceOrGpt2,
    spelling: &[ENDS, ATTENTION, NORMS, GATED],
    prefixes: THINKER,
    ..BASE
};

const QWEN3_VL_MOE: Class = Class {
    arch: "qwen3vlmoe",
    prefixes: THINKER,
    spelling: &[ENDS, ATTENTION, HEAD_NORMS, NORMS, DENSE_OR_EXPERTS, SEPARATE_EXPERTS, TRANSPOSED_EXPERTS, ROUTER],
    ..QWEN3_MOE
};

/// What speaking models put in front of the text model's names.
const THINKER: &[(&str, &str)] = &[("thinker.", ""), BARE[0], BARE[1], BARE[2]];

/// Experts in one tensor for all, with inputs before outputs.
const TRANSPOSED_EXPERTS: &[NameRule] = &[
    r("model.layers.{}.mlp.experts.down_proj", "blk.{}.ffn_down_exps.weight")
        .how(How::Change(|_, piece| transposed(&piece.rows))),
    r("model.layers.{}.mlp.experts.gate_up_proj", "blk.{}.ffn_").how(How::Split(transposed_halves)),
];

fn transposed_halves(_: &Config, piece: &Piece) -> Result<Outputs> {
    let name = |kind: &str| format!("{}{kind}_exps.weight", piece.to);
    halves(&transposed(&piece.rows)?, name("gate"), name("up"))
}

/// How many layers of the tower feed the text model's: three where the tower says nothing of it.
fn deep_layers(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    let thinker = config.get("thinker_config").map(|t| t.get("vision_config"));
    let vision = thinker.unwrap_or_else(|| config.get("vision_config"));
    let layers = vision.and_then(|v| v.get("deepstack_visual_indexes")).and_then(Value::as_array).map(Vec::len);
    let usual = if config.is_known() { 3 } else { 0 };
    p.u32("n_deepstack_layers", layers.unwrap_or(usual) as u64)
}
