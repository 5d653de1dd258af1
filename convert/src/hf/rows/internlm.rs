//! InternLM 2 and 3.

use gguf::{Error, Result};

use crate::config::Config;
use crate::hf::rows::llama::llama;
use crate::hf::{ATTENTION_ROTATED, BASE, Class, ENDS, GATED, How, NORMS, NameRule, Outputs, Params, Piece, r};
use crate::tokenizer::VocabKind;
use crate::transform::reordered;
use crate::transform::rotated;

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["InternLM2ForCausalLM"],
        arch: "internlm2",
        vocabulary: VocabKind::InternLm2,
        spelling: &[INTERNLM2],
        keys: Params::common,
        remark: "fused projections taken apart",
        ..BASE
    },
    Class {
        names: &["InternLM3ForCausalLM"],
        arch: "llama",
        defaults: r#"{"vocab_size": 128512, "hidden_size": 4096, "intermediate_size": 10240, "num_hidden_layers": 48,
            "num_attention_heads": 32, "num_key_value_heads": 2, "max_position_embeddings": 32768, "rms_norm_eps": 1e-05,
            "head_dim": 128, "tie_word_embeddings": false,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        vocabulary: VocabKind::InternLm3,
        spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GATED],
        unused: &["vision_model"],
        keys: llama,
        remark: "a Llama with another vocabulary",
        ..BASE
    },
];

const INTERNLM2: &[NameRule] = &[
    r("model.tok_embeddings", "token_embd"),
    r("model.norm", "output_norm"),
    r("output", "output"),
    r("model.layers.{}.attention_norm", "blk.{}.attn_norm"),
    r("model.layers.{}.ffn_norm", "blk.{}.ffn_norm"),
    r("model.layers.{}.attention.wqkv", "blk.{}.attn_").how(How::Split(by_kind)),
    r("model.layers.{}.attention.wo", "blk.{}.attn_output"),
    r("model.layers.{}.feed_forward.w1", "blk.{}.ffn_gate"),
    r("model.layers.{}.feed_forward.w2", "blk.{}.ffn_down"),
    r("model.layers.{}.feed_forward.w3", "blk.{}.ffn_up"),
];

/// The query heads of each key head, its key and its value one after the other.
fn by_kind(config: &Config, piece: &Piece) -> Result<Outputs> {
    let (heads, groups) = (config.heads()?, config.kv_heads()?);
    let (queries, head) = (heads / groups, config.need_u64(&["hidden_size"])? / heads);
    let all = (queries + 2) * head;
    let rows = piece.rows.shape().first().copied().unwrap_or(0);
    if rows != groups * all {
        return Err(Error::input(format!("its {rows} rows are not {groups} groups of {all}")));
    }
    let part = |first: u64, rows: u64| reordered(&piece.rows, first * head, &[(groups, all), (rows * head, 1)]);
    let name = |kind: &str| format!("{}{kind}{}", piece.to, piece.suffix);
    Ok(vec![
        (name("q"), rotated(&part(0, queries)?, heads)?),
        (name("k"), rotated(&part(queries, 1)?, groups)?),
        (name("v"), part(queries + 1, 1)?),
    ])
}
