//! ERNIE 4.5, dense and with experts, and PaddleOCR's text model.

use gguf::{Error, Result};

use crate::config::Config;
use crate::hf::rows::llama::{halves, head_dim};
use crate::hf::{ATTENTION, BASE, Class, ENDS, GATED, How, NORMS, NameRule, Outputs, Params, Piece, r};
use crate::tokenizer::VocabKind;
use crate::transform::sliced;

pub(in crate::hf) const ROWS: &[Class] = &[
    Class { names: &["Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"], ..ERNIE },
    Class {
        names: &["PaddleOCRVLForConditionalGeneration"],
        arch: "paddleocr",
        remark: "the text model; fused projections taken apart",
        ..ERNIE
    },
    Class {
        names: &["Ernie4_5_MoeForCausalLM"],
        arch: "ernie4_5-moe",
        defaults: r#"{"num_key_value_heads": 4, "rms_norm_eps": 1e-05, "max_position_embeddings": 131072,
            "hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 28, "num_attention_heads": 20,
            "vocab_size": 103424, "moe_intermediate_size": 1536, "moe_k": 6, "moe_num_experts": 64,
            "moe_num_shared_experts": 2, "moe_layer_start_index": 1, "moe_layer_interval": 1,
            "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}, "tie_word_embeddings": true}"#,
        aliases: &[("num_experts", "moe_num_experts"), ("num_experts_per_tok", "moe_k")],
        spelling: &[ENDS, ATTENTION, NORMS, GATED, ERNIE_EXPERTS],
        unused: &["model.mtp_block.", "model.mtp_emb_norm.", "model.mtp_hidden_norm.", "model.mtp_linear_proj."],
        keys: ernie_moe,
        remark: "21B-A3B, 300B-A47B; the layers of prediction are left out",
        ..ERNIE
    },
];

const ERNIE: Class = Class {
    arch: "ernie4_5",
    defaults: r#"{"num_key_value_heads": 2, "rms_norm_eps": 1e-05, "max_position_embeddings": 131072,
        "head_dim": 128, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 18,
        "num_attention_heads": 16, "vocab_size": 103424,
        "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}, "tie_word_embeddings": true}"#,
    vocabulary: VocabKind::Ernie,
    spelling: &[ENDS, ATTENTION, NORMS, GATED, FUSED],
    prefixes: &[("ernie.", "model.")],
    remark: "fused projections taken apart",
    ..BASE
};

const FUSED: &[NameRule] = &[
    r("model.layers.{}.self_attn.qkv_proj", "blk.{}.attn_").how(How::Split(qkv)),
    r("model.layers.{}.mlp.up_gate_proj", "blk.{}.ffn_").how(How::Split(gate_up)),
];

const STACK: How = How::Stack { group: "experts", members: |config| config.need_u64(&["moe_num_experts"]) };

const ERNIE_EXPERTS: &[NameRule] = &[
    r("model.layers.{}.mlp.experts.{x}.gate_proj", "blk.{}.ffn_gate_exps").how(STACK),
    r("model.layers.{}.mlp.experts.{x}.up_proj", "blk.{}.ffn_up_exps").how(STACK),
    r("model.layers.{}.mlp.experts.{x}.down_proj", "blk.{}.ffn_down_exps").how(STACK),
    r("model.layers.{}.mlp.gate", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.mlp.moe_statics.e_score_correction", "blk.{}.exp_probs_b"),
    r("model.layers.{}.mlp.shared_experts.gate_proj", "blk.{}.ffn_gate_shexp"),
    r("model.layers.{}.mlp.shared_experts.up_proj", "blk.{}.ffn_up_shexp"),
    r("model.layers.{}.mlp.shared_experts.down_proj", "blk.{}.ffn_down_shexp"),
];

fn qkv(config: &Config, piece: &Piece) -> Result<Outputs> {
    let head = head_dim(config)?;
    let (query, key) = (config.heads()? * head, config.kv_heads()? * head);
    let rows = piece.rows.shape().first().copied().unwrap_or(0);
    if rows != query + 2 * key {
        return Err(Error::input(format!(
            "its {rows} rows are not {query} of queries, {key} of keys and {key} of values"
        )));
    }
    let part = |kind: &str, first: u64, count: u64| {
        Ok((format!("{}{kind}{}", piece.to, piece.suffix), sliced(&piece.rows, 0, first, count)?))
    };
    Ok(vec![part("q", 0, query)?, part("k", query, key)?, part("v", query + key, key)?])
}

fn gate_up(_: &Config, piece: &Piece) -> Result<Outputs> {
    let name = |kind: &str| format!("{}{kind}{}", piece.to, piece.suffix);
    halves(&piece.rows, name("gate"), name("up"))
}

fn ernie_moe(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    p.need_u32("expert_count", &["moe_num_experts"])?;
    p.need_u32("expert_used_count", &["moe_k"])?;
    p.need_u32("interleave_moe_layer_step", &["moe_layer_interval"])?;
    p.need_u32("leading_dense_block_count", &["moe_layer_start_index"])?;
    p.maybe_u32("expert_feed_forward_length", &["moe_intermediate_size"])?;
    p.maybe_u32("expert_shared_count", &["moe_num_shared_experts"])?;
    let shared = config.u64("moe_num_shared_experts").is_some_and(|n| n > 0);
    let heads = config.u64("num_key_value_heads").filter(|n| *n > 0);
    if let (true, Some(inner), Some(heads)) = (shared, config.u64("intermediate_size"), heads) {
        // The reference divides by the heads.
        p.u32("expert_shared_feed_forward_length", inner / heads)?;
    }
    Ok(())
}
