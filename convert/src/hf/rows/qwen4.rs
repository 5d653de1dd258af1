//! Qwen4-Exp: as Qwen3.5 with hyper-connections, sparse attention behind an indexer, and embeddings of n-grams.

use gguf::{Array, Error, Result};
use serde_json::Value;

use crate::config::{Config, RAW};
use crate::hf::contents::integers;
use crate::hf::rows::qwen::{DENSE_OR_EXPERTS, EXPERTS, SHARED_EXPERT};
use crate::hf::rows::qwen_next::{DELTA, DELTA_NET, NORM, qwen35};
use crate::hf::{ATTENTION, Class, Contents, How, NameRule, Outputs, Params, Piece, r};
use crate::transform::{sliced, squeezed};

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["Qwen4ExpForCausalLM", "Qwen4ExpForConditionalGeneration"],
    arch: "qwen4exp",
    // The library's class renames the kinds of layers, which the format's keys are made from.
    defaults: RAW,
    unused: &["mtp.", "model.mtp."],
    rename: |_, name| Some(name.to_owned()),
    prepare: |_| Ok(()),
    inspect: hash_constants,
    spelling: &[
        ENDS,
        ATTENTION,
        NORMS,
        DELTA_NET,
        DENSE_OR_EXPERTS,
        EXPERTS,
        SHARED_EXPERT,
        HYPER_CONNECTIONS,
        INDEXER,
        NGRAMS,
    ],
    keys: qwen4,
    remark: "hyper-connections, an indexer, and n-grams; layers of multi-token prediction are left out",
    prediction: None,
    ..DELTA
}];

const ENDS: &[NameRule] = &[r("model.embed_tokens", "token_embd"), r("lm_head", "output")];

const NORMS: &[NameRule] = &[
    r("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm").how(NORM),
    r("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm").how(NORM),
];

const HYPER_CONNECTIONS: &[NameRule] = &[
    r("model.hyper_connection_mixer.hc_norm", "output_hc_norm").how(NORM),
    r("model.hyper_connection_mixer.input_mix_weight_down", "output_hc_down"),
    r("model.hyper_connection_mixer.input_mix_weight_up", "output_hc_up"),
    r("model.layers.{}.attn_hyper_connection.block_inject_weight", "blk.{}.hc_attn_inject"),
    r("model.layers.{}.attn_hyper_connection.hc_norm", "blk.{}.hc_attn_norm").how(NORM),
    r("model.layers.{}.attn_hyper_connection.input_mix_weight_down", "blk.{}.hc_attn_down"),
    r("model.layers.{}.attn_hyper_connection.input_mix_weight_up", "blk.{}.hc_attn_up"),
    r("model.layers.{}.mlp_hyper_connection.block_inject_weight", "blk.{}.hc_ffn_inject"),
    r("model.layers.{}.mlp_hyper_connection.hc_norm", "blk.{}.hc_ffn_norm").how(NORM),
    r("model.layers.{}.mlp_hyper_connection.input_mix_weight_down", "blk.{}.hc_ffn_down"),
    r("model.layers.{}.mlp_hyper_connection.input_mix_weight_up", "blk.{}.hc_ffn_up"),
];

const INDEXER: &[NameRule] = &[
    r("model.layers.{}.self_attn.indexer.index_qk_proj", "blk.{}.indexer.").how(How::Split(queries_and_keys)),
    r("model.layers.{}.self_attn.indexer.q_layernorm", "blk.{}.indexer.q_norm").how(NORM),
    r("model.layers.{}.self_attn.indexer.k_layernorm", "blk.{}.indexer.k_norm").how(NORM),
];

/// Embeddings of n-grams, whose table comes in parts.
const NGRAMS: &[NameRule] = &[
    r("model.layers.{}.ple.conv1d", "blk.{}.ple_conv1d").how(How::Change(|_, piece| squeezed(&piece.rows))),
    r("model.layers.{}.ple.key_proj", "blk.{}.ple_key"),
    r("model.layers.{}.ple.value_proj", "blk.{}.ple_value"),
    r("model.layers.{}.ple.norm_conv", "blk.{}.ple_norm_conv").how(NORM),
    r("model.layers.{}.ple.norm_key", "blk.{}.ple_norm_key").how(NORM),
    r("model.layers.{}.ple.norm_query", "blk.{}.ple_norm_query").how(NORM),
    r("model.layers.{}.ple.ple_embedding.ngram_embedding.shard_{x}", "per_layer_token_embd")
        .how(How::Chain { group: "n-grams", members: |config| config.need_u64(&["split_ngram_parts"]) }),
    r("model.layers.{}.ple.ple_embedding.layer_multipliers", "").how(How::Drop),
    r("model.layers.{}.ple.ple_embedding.ngram_heads_offsets", "").how(How::Drop),
    r("model.layers.{}.ple.ple_embedding.ngram_heads_vocab_sizes", "").how(How::Drop),
];

/// The constants of the n-grams' hash, which are keys.
pub(crate) const CONSTANTS: [(&str, &str); 3] = [
    ("ple.layer_multipliers", "ple_embedding.layer_multipliers"),
    ("ple.head_offsets", "ple_embedding.ngram_heads_offsets"),
    ("ple.head_vocab_sizes", "ple_embedding.ngram_heads_vocab_sizes"),
];

/// The width of the table of n-grams.
pub(crate) const NGRAM_WIDTH: &str = "width of n-grams";

fn hash_constants(config: &mut Config, contents: &Contents<'_>) -> Result<()> {
    let front = || {
        let found = |name: &str| Some(contents.ending(name).next()?.name().strip_suffix(name)?.to_owned());
        CONSTANTS.iter().find_map(|(_, name)| found(name))
    };
    for (key, name) in CONSTANTS {
        if let Some(tensor) = contents.ending(name).next() {
            let numbers = integers(tensor)?;
            let ngrams = config.need_u64(&["ngram_size"])?;
            let heads = config.need_u64(&["heads_per_ngram"])?.saturating_mul(ngrams.saturating_sub(1));
            let wanted = if key == CONSTANTS[0].0 { ngrams } else { heads };
            if numbers.len() as u64 != wanted {
                let found = numbers.len();
                return Err(Error::input(format!("{found} numbers where {wanted} are asked for"))
                    .in_tensor(tensor.name())
                    .help("the weights and config.json do not belong together"));
            }
            config.set(key, numbers);
        } else if let Some(front) = front() {
            return Err(Error::input(format!("tensor {front}{name} is missing")).help("is the checkpoint complete?"));
        }
    }
    let part = contents.tensors.iter().find(|t| t.name().contains(".ngram_embedding.shard_"));
    if let Some(&width) = part.and_then(|t| t.shape().last()).filter(|_| !contents.vocab_only) {
        config.set(NGRAM_WIDTH, width);
    }
    Ok(())
}

fn queries_and_keys(config: &Config, piece: &Piece) -> Result<Outputs> {
    let rows = piece.rows.shape().first().copied().unwrap_or(0);
    let queries = config.need_u64(&["indexer_n_heads"])?.saturating_mul(config.need_u64(&["indexer_head_dim"])?);
    let keys = rows.checked_sub(queries).ok_or_else(|| {
        Error::input(format!("it has {rows} rows, fewer than the {queries} of the indexer's queries in config.json"))
    })?;
    let name = |kind: &str| format!("{}{kind}_proj{}", piece.to, piece.suffix);
    Ok(vec![(name("q"), sliced(&piece.rows, 0, 0, queries)?), (name("k"), sliced(&piece.rows, 0, queries, keys)?)])
}

fn qwen4(p: &mut Params<'_>) -> Result<()> {
    qwen35(p)?;
    let config = p.config();
    p.need_u32("hyper_connection.count", &["hc_count"])?;
    p.need_u32("hyper_connection.low_rank", &["hc_lowrank"])?;
    p.need_u32("attention.indexer.head_count", &["indexer_n_heads"])?;
    p.need_u32("attention.indexer.key_length", &["indexer_head_dim"])?;
    p.need_u32("attention.indexer.top_k", &["indexer_budget"])?;
    let ratio = config.need_u64(&["indexer_compress_ratio"])?;
    let full = p.layers_of("full_attention").ok_or_else(|| Error::input("config.json has no layer_types"))?;
    let ratios: Vec<u64> = full.iter().map(|full| if *full { ratio } else { 0 }).collect();
    p.i32s("attention.compress_ratios", &ratios)?;
    // They count from 1.
    let layers: Vec<i64> = config.need_list(&["ple_layer_ids"])?.into_iter().map(|i| i as i64 - 1).collect();
    if layers.is_empty() {
        return Ok(());
    }
    p.i32s("ple.layers", &layers)?;
    p.need_u32("ple.ngram_size", &["ngram_size"])?;
    p.need_u32("ple.heads_per_ngram", &["heads_per_ngram"])?;
    p.need_u32("ple.conv_kernel", &["ple_conv_kernel_size"])?;
    let ends = config.get("eos_token_id").and_then(Value::as_array).and_then(|ids| ids.last()).and_then(Value::as_u64);
    p.u32("ple.eos_token_id", ends.map_or_else(|| config.need_u64(&["eos_token_id"]), Ok)?)?;
    p.maybe_u32("ple.image_token_id", &["image_token_id"])?;
    p.maybe_u32("embedding_length_per_layer_input", &[NGRAM_WIDTH])?;
    for (key, name) in CONSTANTS {
        if !config.has(key) {
            return Err(Error::input(format!("the tensor that ends in {name} is missing")));
        }
        p.set(key, Array::from(config.need_list(&[key])?.as_slice()));
    }
    Ok(())
}
