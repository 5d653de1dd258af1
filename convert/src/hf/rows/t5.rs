//! T5: an encoder and a decoder.

use gguf::Result;

use crate::config::Config;
use crate::hf::{BASE, Class, How, Key, Modules, NameRule, Params, r};
use crate::tokenizer::VocabKind;

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["T5ForConditionalGeneration", "T5WithLMHeadModel"],
        beyond: scaled_states,
        departs: unscaled,
        remark: "T5, Flan-T5",
        ..T5
    },
    Class { names: &["MT5ForConditionalGeneration"], defaults: MULTILINGUAL, remark: "mT5", ..T5 },
    Class {
        names: &["UMT5ForConditionalGeneration", "UMT5Model"],
        defaults: MULTILINGUAL,
        beyond: scaled_states,
        departs: unscaled,
        remark: "UMT5: biases of distances in every layer",
        ..T5
    },
    Class {
        names: &["T5EncoderModel"],
        arch: "t5encoder",
        spelling: &[T5_ENDS, ENCODER],
        prepare: |_| Ok(()),
        keys: |p| t5(p, false),
        remark: "the encoder of T5 alone: sentence-T5",
        ..T5
    },
];

const T5: Class = Class {
    arch: "t5",
    defaults: r#"{"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8,
        "relative_attention_num_buckets": 32, "layer_norm_epsilon": 1e-06, "vocab_size": 32128,
        "decoder_start_token_id": 0}"#,
    aliases: &[
        ("hidden_size", "d_model"),
        ("num_attention_heads", "num_heads"),
        ("num_hidden_layers", "num_layers"),
        ("head_dim", "d_kv"),
    ],
    vocabulary: VocabKind::T5,
    spelling: &[T5_ENDS, ENCODER, DECODER],
    prepare: |config| {
        // A decoder is as deep as the encoder where nothing else is said.
        if config.u64("num_decoder_layers").is_none() {
            let layers = config.blocks()?;
            config.set("num_decoder_layers", layers);
        }
        Ok(())
    },
    keys: |p| t5(p, true),
    modules: Modules { in_f32: &["wo"], ..Modules::USUAL },
    remark: "one of its equal embeddings",
    ..BASE
};

const MULTILINGUAL: &str = r#"{"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6,
    "relative_attention_num_buckets": 32, "layer_norm_epsilon": 1e-06, "vocab_size": 250112,
    "decoder_start_token_id": 0}"#;

/// The library divides the states by the root of their length before the output, unless it was told that the output is
/// not the embeddings; llama.cpp never does.
fn scaled_states(config: &Config) -> Vec<Key> {
    let tied = config.bool("tie_word_embeddings") != Some(false);
    let scaled = config.bool("scale_decoder_outputs").unwrap_or(tied);
    let width = config.f64("d_model").filter(|width| scaled && *width > 0.0);
    width.map(|width| ("logit_scale", (1.0 / width.sqrt()).into())).into_iter().collect()
}

fn unscaled(config: &Config) -> Option<&'static str> {
    let scaled = !scaled_states(config).is_empty();
    scaled.then_some("states are divided by the root of their length before the output, which llama.cpp does not do")
}

const T5_ENDS: &[NameRule] = &[
    r("decoder.embed_tokens", "token_embd").how(How::First),
    r("encoder.embed_tokens", "token_embd").how(How::First),
    r("shared", "token_embd").how(How::First),
    r("lm_head", "output"),
    r("encoder.final_layer_norm", "enc.output_norm"),
    r("decoder.final_layer_norm", "dec.output_norm"),
];

const ENCODER: &[NameRule] = &[
    r("encoder.block.{}.layer.0.SelfAttention.q", "enc.blk.{}.attn_q"),
    r("encoder.block.{}.layer.0.SelfAttention.k", "enc.blk.{}.attn_k"),
    r("encoder.block.{}.layer.0.SelfAttention.v", "enc.blk.{}.attn_v"),
    r("encoder.block.{}.layer.0.SelfAttention.o", "enc.blk.{}.attn_o"),
    r("encoder.block.{}.layer.0.SelfAttention.relative_attention_bias", "enc.blk.{}.attn_rel_b"),
    r("encoder.block.{}.layer.0.layer_norm", "enc.blk.{}.attn_norm"),
    r("encoder.block.{}.layer.1.DenseReluDense.wi_0", "enc.blk.{}.ffn_gate"),
    r("encoder.block.{}.layer.1.DenseReluDense.wi_1", "enc.blk.{}.ffn_up"),
    r("encoder.block.{}.layer.1.DenseReluDense.wi", "enc.blk.{}.ffn_up"),
    r("encoder.block.{}.layer.1.DenseReluDense.wo", "enc.blk.{}.ffn_down"),
    r("encoder.block.{}.layer.1.layer_norm", "enc.blk.{}.ffn_norm"),
];

const DECODER: &[NameRule] = &[
    r("decoder.block.{}.layer.0.SelfAttention.q", "dec.blk.{}.attn_q"),
    r("decoder.block.{}.layer.0.SelfAttention.k", "dec.blk.{}.attn_k"),
    r("decoder.block.{}.layer.0.SelfAttention.v", "dec.blk.{}.attn_v"),
    r("decoder.block.{}.layer.0.SelfAttention.o", "dec.blk.{}.attn_o"),
    r("decoder.block.{}.layer.0.SelfAttention.relative_attention_bias", "dec.blk.{}.attn_rel_b"),
    r("decoder.block.{}.layer.0.layer_norm", "dec.blk.{}.attn_norm"),
    r("decoder.block.{}.layer.1.EncDecAttention.q", "dec.blk.{}.cross_attn_q"),
    r("decoder.block.{}.layer.1.EncDecAttention.k", "dec.blk.{}.cross_attn_k"),
    r("decoder.block.{}.layer.1.EncDecAttention.v", "dec.blk.{}.cross_attn_v"),
    r("decoder.block.{}.layer.1.EncDecAttention.o", "dec.blk.{}.cross_attn_o"),
    r("decoder.block.{}.layer.1.EncDecAttention.relative_attention_bias", "dec.blk.{}.cross_attn_rel_b"),
    r("decoder.block.{}.layer.1.layer_norm", "dec.blk.{}.cross_attn_norm"),
    r("decoder.block.{}.layer.2.DenseReluDense.wi_0", "dec.blk.{}.ffn_gate"),
    r("decoder.block.{}.layer.2.DenseReluDense.wi_1", "dec.blk.{}.ffn_up"),
    r("decoder.block.{}.layer.2.DenseReluDense.wi", "dec.blk.{}.ffn_up"),
    r("decoder.block.{}.layer.2.DenseReluDense.wo", "dec.blk.{}.ffn_down"),
    r("decoder.block.{}.layer.2.layer_norm", "dec.blk.{}.ffn_norm"),
];

fn t5(p: &mut Params<'_>, decoder: bool) -> Result<()> {
    let context = p.config().u64("n_positions").unwrap_or(512);
    p.u32("context_length", context)?;
    p.need_u32("embedding_length", &["d_model"])?;
    p.need_u32("feed_forward_length", &["d_ff"])?;
    p.blocks()?;
    if decoder {
        p.need_u32("decoder_block_count", &["num_decoder_layers"])?;
    }
    p.need_u32("attention.head_count", &["num_heads"])?;
    p.need_u32("attention.key_length", &["d_kv"])?;
    p.need_u32("attention.value_length", &["d_kv"])?;
    p.need_f32("attention.layer_norm_epsilon", &["layer_norm_epsilon"])?;
    p.need_u32("attention.relative_buckets_count", &["relative_attention_num_buckets"])?;
    p.need_f32("attention.layer_norm_rms_epsilon", &["layer_norm_epsilon"])?;
    if decoder {
        p.need_u32("decoder_start_token_id", &["decoder_start_token_id"])?;
    }
    p.file_type();
    Ok(())
}
