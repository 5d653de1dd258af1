//! GPT-2 and those that came of it: NeoX, BLOOM, Falcon, MPT, StarCoder, StableLM.

use gguf::{Error, Result};

use crate::config::{Config, Rope};
use crate::hf::{
    ATTENTION, BASE, Class, ENDS, GATED, How, Modules, NORMS, NameRule, Outputs, Params, Piece, r, window,
};
use crate::tokenizer::VocabKind;
use crate::transform::{Rows, joined, reordered, reshaped};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["GPT2LMHeadModel"],
        arch: "gpt2",
        defaults: r#"{"n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "layer_norm_epsilon": 1e-05,
            "vocab_size": 50257}"#,
        spelling: &[GPT2],
        prefixes: &[("transformer.", "")],
        keys: gpt2,
        remark: "weights transposed",
        ..BASE
    },
    Class {
        names: &["RuGPT3XLForCausalLM"],
        arch: "gpt2",
        spelling: &[RUGPT],
        remark: "queries, keys and values joined",
        ..BASE
    },
    Class {
        names: &["GPTNeoXForCausalLM"],
        arch: "gptneox",
        defaults: r#"{"max_position_embeddings": 2048, "hidden_size": 6144, "num_hidden_layers": 44,
            "num_attention_heads": 64, "intermediate_size": 24576, "layer_norm_eps": 1e-05, "use_parallel_residual": true,
            "vocab_size": 50432,
            "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.25, "rope_type": "default"}}"#,
        rope: Rope::One("rotary_emb_base"),
        spelling: &[NEOX],
        keys: neox,
        remark: "Pythia, GPT-NeoX; heads of query, key and value taken apart",
        ..BASE
    },
    Class {
        names: &["BloomForCausalLM", "BloomModel"],
        arch: "bloom",
        defaults: r#"{"hidden_size": 64, "n_layer": 2, "n_head": 8, "layer_norm_epsilon": 1e-05, "vocab_size": 250880}"#,
        spelling: &[BLOOM],
        prefixes: &[("transformer.", "")],
        keys: bloom,
        remark: "heads of query, key and value taken apart",
        ..BASE
    },
    Class {
        names: &["FalconForCausalLM", "RWForCausalLM"],
        arch: "falcon",
        defaults: r#"{"hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71, "layer_norm_epsilon": 1e-05,
            "vocab_size": 65024}"#,
        spelling: &[FALCON],
        prefixes: &[("transformer.", "")],
        keys: falcon,
        modules: Modules {
            own_class: &["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
            ..Modules::USUAL
        },
        remark: "7B and 40B; groups of query, key and value taken apart",
        ..BASE
    },
    Class {
        names: &["MPTForCausalLM", "MptForCausalLM"],
        arch: "mpt",
        defaults: r#"{"d_model": 2048, "n_heads": 16, "n_layers": 24, "max_seq_len": 2048, "vocab_size": 50368,
            "attn_config": {"clip_qkv": null, "alibi": true, "alibi_bias_max": 8}}"#,
        vocabulary: VocabKind::Mpt,
        spelling: &[MPT],
        prefixes: &[("transformer.", "")],
        keys: mpt,
        remark: "ALiBi",
        ..BASE
    },
    Class {
        names: &["GPTBigCodeForCausalLM"],
        arch: "starcoder",
        defaults: r#"{"n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "layer_norm_epsilon": 1e-05,
            "vocab_size": 50257, "multi_query": true}"#,
        aliases: &[
            ("hidden_size", "n_embd"),
            ("max_position_embeddings", "n_positions"),
            ("num_attention_heads", "n_head"),
            ("num_hidden_layers", "n_layer"),
        ],
        spelling: &[GPT2_LINEAR],
        prefixes: &[("transformer.", "")],
        prepare: |config| match config.bool("multi_query") {
            Some(false) => Err(Error::input("config.json: multi_query is false")
                .help("starcoder files have one head of keys and values for all queries")),
            _ => Ok(()),
        },
        keys: starcoder,
        remark: "StarCoder, SantaCoder: one head of keys and values",
        ..BASE
    },
    Class {
        names: &["Starcoder2ForCausalLM"],
        arch: "starcoder2",
        defaults: r#"{"num_hidden_layers": 30, "num_attention_heads": 24, "num_key_value_heads": 2, "norm_epsilon": 1e-05, "max_position_embeddings": 4096,
            "hidden_size": 3072, "intermediate_size": 12288, "vocab_size": 49152,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "tie_word_embeddings": true}"#,
        spelling: &[ENDS, ATTENTION, NORMS, STARCODER2],
        beyond: window,
        remark: "biases everywhere",
        ..BASE
    },
    Class {
        names: &["StableLmForCausalLM", "StableLMEpochForCausalLM", "LlavaStableLMEpochForCausalLM"],
        arch: "stablelm",
        defaults: r#"{"num_key_value_heads": 32, "layer_norm_eps": 1e-05, "max_position_embeddings": 4096,
            "hidden_size": 2560, "intermediate_size": 6912, "num_hidden_layers": 32, "num_attention_heads": 32,
            "vocab_size": 50304, "use_parallel_residual": false,
            "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.25, "rope_type": "default"}}"#,
        spelling: &[ENDS, ATTENTION, STABLELM, GATED],
        keys: stablelm,
        remark: "norms of each head stacked",
        ..BASE
    },
];

const GPT2: &[NameRule] = &[
    r("wte", "token_embd"),
    r("wpe", "position_embd"),
    r("ln_f", "output_norm"),
    r("lm_head", "output"),
    r("h.{}.ln_1", "blk.{}.attn_norm"),
    r("h.{}.ln_2", "blk.{}.ffn_norm"),
    r("h.{}.attn.c_attn", "blk.{}.attn_qkv").how(How::Transpose),
    r("h.{}.attn.c_proj", "blk.{}.attn_output").how(How::Transpose),
    r("h.{}.mlp.c_fc", "blk.{}.ffn_up").how(How::Transpose),
    r("h.{}.mlp.c_proj", "blk.{}.ffn_down").how(How::Transpose),
    r("h.{}.attn.bias", "").how(How::Drop),
    r("h.{}.attn.masked_bias", "").how(How::Drop),
];

/// GPT-2's names with linear layers, stored output-major.
pub(super) const GPT2_LINEAR: &[NameRule] = &[
    r("wte", "token_embd"),
    r("wpe", "position_embd"),
    r("ln_f", "output_norm"),
    r("lm_head", "output"),
    r("h.{}.ln_1", "blk.{}.attn_norm"),
    r("h.{}.ln_2", "blk.{}.ffn_norm"),
    r("h.{}.attn.c_attn", "blk.{}.attn_qkv"),
    r("h.{}.attn.c_proj", "blk.{}.attn_output"),
    r("h.{}.mlp.c_fc", "blk.{}.ffn_up"),
    r("h.{}.mlp.c_proj", "blk.{}.ffn_down"),
];

const QKV: How = How::Join {
    group: "query, key and value",
    make: |_, piece, parts| Ok(vec![(format!("{}{}", piece.to, piece.suffix), joined_vectors(parts)?)]),
};

const RUGPT: &[NameRule] = &[
    r("model.embed_tokens", "token_embd"),
    r("model.embed_positions", "position_embd"),
    r("model.norm", "output_norm"),
    r("lm_head", "output"),
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    r("model.layers.{}.self_attn.q_proj", "blk.{}.attn_qkv").how(QKV),
    r("model.layers.{}.self_attn.k_proj", "blk.{}.attn_qkv").how(QKV),
    r("model.layers.{}.self_attn.v_proj", "blk.{}.attn_qkv").how(QKV),
    r("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    r("model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    r("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
];

const NEOX: &[NameRule] = &[
    r("gpt_neox.embed_in", "token_embd"),
    r("gpt_neox.final_layer_norm", "output_norm"),
    r("embed_out", "output"),
    r("gpt_neox.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    r("gpt_neox.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    r("gpt_neox.layers.{}.attention.query_key_value", "blk.{}.attn_qkv").how(How::Split(heads_apart)),
    r("gpt_neox.layers.{}.attention.dense", "blk.{}.attn_output"),
    r("gpt_neox.layers.{}.mlp.dense_h_to_4h", "blk.{}.ffn_up"),
    r("gpt_neox.layers.{}.mlp.dense_4h_to_h", "blk.{}.ffn_down"),
];

const BLOOM: &[NameRule] = &[
    r("word_embeddings", "token_embd"),
    r("word_embeddings_layernorm", "token_embd_norm"),
    r("ln_f", "output_norm"),
    r("lm_head", "output"),
    r("h.{}.input_layernorm", "blk.{}.attn_norm"),
    r("h.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    r("h.{}.self_attention.query_key_value", "blk.{}.attn_qkv").how(How::Split(heads_apart)),
    r("h.{}.self_attention.dense", "blk.{}.attn_output"),
    r("h.{}.mlp.dense_h_to_4h", "blk.{}.ffn_up"),
    r("h.{}.mlp.dense_4h_to_h", "blk.{}.ffn_down"),
];

const FALCON: &[NameRule] = &[
    r("word_embeddings", "token_embd"),
    r("ln_f", "output_norm"),
    r("lm_head", "output"),
    r("h.{}.input_layernorm", "blk.{}.attn_norm"),
    r("h.{}.ln_mlp", "blk.{}.attn_norm"),
    r("h.{}.ln_attn", "blk.{}.attn_norm_2"),
    r("h.{}.self_attention.query_key_value", "blk.{}.attn_qkv").how(How::Split(groups_apart)),
    r("h.{}.self_attention.dense", "blk.{}.attn_output"),
    r("h.{}.mlp.dense_h_to_4h", "blk.{}.ffn_up"),
    r("h.{}.mlp.dense_4h_to_h", "blk.{}.ffn_down"),
];

const MPT: &[NameRule] = &[
    r("wte", "token_embd"),
    r("wpe", "position_embd"),
    r("norm_f", "output_norm"),
    r("lm_head", "output"),
    r("blocks.{}.norm_1", "blk.{}.attn_norm"),
    r("blocks.{}.norm_2", "blk.{}.ffn_norm"),
    r("blocks.{}.attn.Wqkv", "blk.{}.attn_qkv"),
    r("blocks.{}.attn.out_proj", "blk.{}.attn_output"),
    r("blocks.{}.attn.q_ln", "blk.{}.attn_q_norm"),
    r("blocks.{}.attn.k_ln", "blk.{}.attn_k_norm"),
    r("blocks.{}.ffn.up_proj", "blk.{}.ffn_up"),
    r("blocks.{}.ffn.down_proj", "blk.{}.ffn_down"),
    r("blocks.{}.ffn.act.scales", "blk.{}.ffn.act.scales"),
];

const STARCODER2: &[NameRule] =
    &[r("model.layers.{}.mlp.c_fc", "blk.{}.ffn_up"), r("model.layers.{}.mlp.c_proj", "blk.{}.ffn_down")];

const STABLELM: &[NameRule] = &[
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    r("model.layers.{}.self_attn.q_layernorm.norms.{x}", "blk.{}.attn_q_norm")
        .how(How::Stack { group: "query norms", members: Config::heads }),
    r("model.layers.{}.self_attn.k_layernorm.norms.{x}", "blk.{}.attn_k_norm")
        .how(How::Stack { group: "key norms", members: Config::kv_heads }),
];

/// Head by head query, key and value: all queries first, then all keys, then all values.
fn heads_apart(config: &Config, piece: &Piece) -> Result<Outputs> {
    let heads = config.heads_under(&["n_head", "num_attention_heads"])?;
    let rows = piece.rows.shape().first().copied().unwrap_or(0);
    let head = rows / heads / 3;
    if head * heads * 3 != rows {
        return Err(Error::input(format!("its {rows} rows are no query, key and value for {heads} heads")));
    }
    let rows = reordered(&piece.rows, 0, &[(3, head), (heads, 3 * head), (head, 1)])?;
    Ok(vec![(format!("{}{}", piece.to, piece.suffix), rows)])
}

/// Groups of queries with their key and value: all queries first, then all keys, then all values.
fn groups_apart(config: &Config, piece: &Piece) -> Result<Outputs> {
    let heads = config.heads()?;
    let groups = falcon_kv_heads(config);
    let rows = piece.rows.shape().first().copied().unwrap_or(0);
    let queries = heads / groups.max(1);
    let head = rows / (groups * (queries + 2)).max(1);
    if queries * groups != heads || head * groups * (queries + 2) != rows {
        return Err(Error::input(format!("its {rows} rows are no {groups} groups for {heads} heads")));
    }
    let group = (queries + 2) * head;
    let part =
        |first: u64, count: u64| reordered(&piece.rows, first * head, &[(groups, group), (count, head), (head, 1)]);
    let parts = vec![part(0, queries)?, part(queries, 1)?, part(queries + 1, 1)?];
    let rows = joined_vectors(parts)?;
    Ok(vec![(format!("{}{}", piece.to, piece.suffix), rows)])
}

/// Tensors joined along their first dimension, vectors too.
fn joined_vectors(parts: Vec<Rows>) -> Result<Rows> {
    if parts.iter().any(|p| p.shape().len() != 1) {
        return joined(parts);
    }
    let count = parts.iter().map(|p| p.shape()[0]).sum();
    let columns: Result<Vec<Rows>> = parts.iter().map(|p| reshaped(p, vec![p.shape()[0], 1])).collect();
    reshaped(&joined(columns?)?, vec![count])
}

fn falcon_kv_heads(config: &Config) -> u64 {
    config.u64("num_kv_heads").or_else(|| config.u64("n_head_kv")).unwrap_or(1)
}

fn gpt2(p: &mut Params<'_>) -> Result<()> {
    let width = p.config().need_u64(&["n_embd"])?;
    p.blocks()?;
    p.need_u32("context_length", &["n_ctx", "n_positions"])?;
    p.u32("embedding_length", width)?;
    p.u32("feed_forward_length", 4 * width)?;
    p.need_u32("attention.head_count", &["n_head"])?;
    p.need_f32("attention.layer_norm_epsilon", &["layer_norm_epsilon"])?;
    p.file_type();
    Ok(())
}

fn starcoder(p: &mut Params<'_>) -> Result<()> {
    let width = p.config().need_u64(&["n_embd"])?;
    p.need_u32("context_length", &["n_positions"])?;
    p.u32("embedding_length", width)?;
    p.u32("feed_forward_length", width.saturating_mul(4))?;
    p.blocks()?;
    p.need_u32("attention.head_count", &["n_head"])?;
    p.u32("attention.head_count_kv", 1)?;
    p.need_f32("attention.layer_norm_epsilon", &["layer_norm_epsilon"])?;
    p.file_type();
    Ok(())
}

fn neox(p: &mut Params<'_>) -> Result<()> {
    p.need_u32("context_length", &["max_position_embeddings"])?;
    p.need_u32("embedding_length", &["hidden_size"])?;
    p.blocks()?;
    p.need_u32("feed_forward_length", &["intermediate_size"])?;
    let factor = p.config().f64("rotary_pct").or_else(|| p.config().rope_f64("partial_rotary_factor"));
    p.rotary(factor.unwrap_or(0.25))?;
    p.need_u32("attention.head_count", &["num_attention_heads"])?;
    let parallel = p.config().bool("use_parallel_residual").unwrap_or(true);
    p.set("use_parallel_residual", parallel);
    p.need_f32("attention.layer_norm_epsilon", &["layer_norm_eps"])
}

fn bloom(p: &mut Params<'_>) -> Result<()> {
    let width = p.config().need_u64(&["hidden_size", "n_embed"])?;
    let heads = p.config().need_u64(&["n_head", "num_attention_heads"])?;
    let context = p.config().u64("seq_length").unwrap_or(width);
    p.u32("context_length", context)?;
    p.u32("embedding_length", width)?;
    p.u32("feed_forward_length", 4 * width)?;
    p.blocks()?;
    p.u32("attention.head_count", heads)?;
    p.u32("attention.head_count_kv", heads)?;
    p.need_f32("attention.layer_norm_epsilon", &["layer_norm_epsilon"])?;
    p.file_type();
    Ok(())
}

fn falcon(p: &mut Params<'_>) -> Result<()> {
    let width = p.config().need_u64(&["hidden_size"])?;
    // Falcon's configuration has no context length.
    p.u32("context_length", 2048)?;
    p.set("tensor_data_layout", "jploski");
    p.u32("embedding_length", width)?;
    p.u32("feed_forward_length", 4 * width)?;
    p.blocks()?;
    p.need_u32("attention.head_count", &["num_attention_heads", "n_head"])?;
    let groups = falcon_kv_heads(p.config());
    p.u32("attention.head_count_kv", groups)?;
    p.need_f32("attention.layer_norm_epsilon", &["layer_norm_epsilon"])?;
    p.file_type();
    Ok(())
}

fn mpt(p: &mut Params<'_>) -> Result<()> {
    let width = p.config().need_u64(&["d_model"])?;
    let attention = p.config().get("attn_config").cloned().unwrap_or_default();
    p.need_u32("context_length", &["max_seq_len"])?;
    p.u32("embedding_length", width)?;
    p.blocks()?;
    p.u32("feed_forward_length", 4 * width)?;
    p.need_u32("attention.head_count", &["n_heads"])?;
    if let Some(heads) = attention["kv_n_heads"].as_u64().filter(|h| *h > 0) {
        p.u32("attention.head_count_kv", heads)?;
    }
    p.f32("attention.layer_norm_epsilon", 1e-5);
    if let Some(clamp) = attention["clip_qkv"].as_f64() {
        p.f32("attention.clamp_kqv", clamp);
    }
    let alibi = attention.get("alibi").is_none_or(|alibi| alibi.as_bool() == Some(true));
    p.f32("attention.max_alibi_bias", if alibi { attention["alibi_bias_max"].as_f64().unwrap_or(8.0) } else { 0.0 });
    Ok(())
}

fn stablelm(p: &mut Params<'_>) -> Result<()> {
    p.need_u32("context_length", &["max_position_embeddings"])?;
    p.need_u32("embedding_length", &["hidden_size"])?;
    p.blocks()?;
    p.need_u32("feed_forward_length", &["intermediate_size"])?;
    let factor = p.config().rope_f64("partial_rotary_factor").unwrap_or(0.25);
    p.rotary(factor)?;
    p.need_u32("attention.head_count", &["num_attention_heads"])?;
    p.need_u32("attention.head_count_kv", &["num_key_value_heads"])?;
    let parallel = p.config().bool("use_parallel_residual").unwrap_or(true);
    p.set("use_parallel_residual", parallel);
    p.need_f32("attention.layer_norm_epsilon", &["layer_norm_eps", "norm_eps"])?;
    p.file_type();
    Ok(())
}
