//! The text models of models that speak: Qwen3-TTS and Pocket TTS.
//!
//! What they hear a voice with and make sound with is in their projector files. Vectors that enter the text model beside
//! those of words are rows of its embeddings in the file.

use gguf::{Array, Error, Result};
use serde_json::Value;

use crate::config::Config;
use crate::hf::projectors::QUERY_KEY_VALUE;
use crate::hf::rows::qwen::QWEN3;
use crate::hf::{ATTENTION, BASE, Class, GATED, HEAD_NORMS, How, NORMS, NameRule, Outputs, Params, Piece, r};
use crate::tokenizer::VocabKind;
use crate::transform::{self, Rows, reshaped, row_len};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["Qwen3TTSForConditionalGeneration"],
        arch: "qwen3tts",
        defaults: crate::config::RAW,
        vocabulary: VocabKind::Qwen3Tts,
        spelling: &[TALKER, ATTENTION, HEAD_NORMS, NORMS, GATED],
        inner: "talker.",
        unused: &["code_predictor."],
        prepare: |config| {
            // The words; codes of speech follow them.
            match config.u64("text_vocab_size") {
                Some(words) => config.set("vocab_size", words),
                None => return Err(Error::input("config.json has no text_vocab_size of talker_config")),
            }
            Ok(())
        },
        keys: talker,
        remark: "the talker of Qwen3-TTS; its projection of words is part of the embeddings, codes of speech follow them",
        ..QWEN3
    },
    Class {
        names: &["PocketTTSModel"],
        when: |root| root.get("bos_before_voice") == Some(&Value::Bool(true)),
        spelling: &[POCKET, WITH_VOICE],
        ..POCKET_TTS
    },
    Class { names: &["PocketTTSModel"], remark: "the same without a vector before the voice", ..POCKET_TTS },
];

const POCKET_TTS: Class = Class {
    arch: "pockettts",
    vocabulary: VocabKind::PocketTts,
    spelling: &[POCKET, WITHOUT_VOICE],
    inner: "flow_lm.",
    unused: &["flow_net.", "out_eos.", "emb_mean", "emb_std", "speaker_proj_weight"],
    leading: &[&["token_embd.weight"]],
    remark: "the language model of Pocket TTS, whose folder has no config.json; learned vectors follow the words",
    ..BASE
};

/// Codes of speech that are made of a first one and are no word of the talker.
const FURTHER_CODES: u64 = 1024;

/// What becomes the embeddings, by whole names: weights and biases together.
const TALKER: &[NameRule] = &[
    r("model.norm", "output_norm"),
    r("codec_head", "output"),
    r("model.text_embedding.weight", "token_embd").how(FOLDED),
    r("text_projection.linear_fc1.weight", "token_embd").how(FOLDED),
    r("text_projection.linear_fc1.bias", "token_embd").how(FOLDED),
    r("text_projection.linear_fc2.weight", "token_embd").how(FOLDED),
    r("text_projection.linear_fc2.bias", "token_embd").how(FOLDED),
    r("model.codec_embedding.weight", "token_embd").how(FOLDED),
];

const FOLDED: How = How::Join { group: "embeddings", make: folded };

/// Embeddings of words behind their projection, and those of codes.
fn folded(config: &Config, _: &Piece, parts: Vec<Rows>) -> Result<Outputs> {
    let Ok([words, up, up_bias, down, down_bias, codes]) = <[Rows; 6]>::try_from(parts) else {
        return Err(Error::usage("embeddings and their projection are six tensors"));
    };
    let act: fn(f32) -> f32 = match config.str("hidden_act") {
        Some("silu") => |x| x / (1.0 + transform::exp(-x)),
        Some("relu") => |x| x.max(0.0),
        other => {
            return Err(Error::input(format!(
                "config.json has the hidden_act {} of a projection that becomes part of the embeddings",
                other.unwrap_or("null")
            ))
            .help("silu and relu are known"));
        }
    };
    let inner = transform::linear(&words, &up, Some(&up_bias), act)?;
    let words = transform::linear(&inner, &down, Some(&down_bias), |x| x)?;
    Ok(vec![("token_embd.weight".to_owned(), transform::joined(vec![words, codes])?)])
}

fn talker(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    let own = |key: &str| config.get("talker_config").and_then(|talker| talker.get(key)).and_then(Value::as_u64);
    let (Some(codes), Some(end)) = (own("vocab_size"), own("codec_eos_token_id")) else {
        return Err(Error::input("config.json has no vocab_size or codec_eos_token_id of talker_config"));
    };
    let words = config.need_u64(&["vocab_size"])?;
    let (size, end) = (words.saturating_add(codes), words.saturating_add(end));
    let never: Vec<i32> = (size.saturating_sub(FURTHER_CODES)..size)
        .filter(|id| *id != end)
        .map(|id| i32::try_from(id).map_err(|_| Error::input(format!("a vocabulary of {size} is too large"))))
        .collect::<Result<_>>()?;
    p.set("tokenizer.ggml.suppress_tokens", Array::from(never.as_slice()));
    p.u32("tokenizer.ggml.eos_token_id", end)?;
    p.set("tokenizer.ggml.add_eos_token", false);
    Ok(())
}

const POCKET: &[NameRule] = &[
    r("out_norm", "output_norm"),
    r("transformer.layers.{}.norm1", "blk.{}.attn_norm"),
    r("transformer.layers.{}.norm2", "blk.{}.ffn_norm"),
    r("transformer.layers.{}.self_attn.in_proj", "blk.{}.attn_").how(QUERY_KEY_VALUE),
    r("transformer.layers.{}.self_attn.out_proj", "blk.{}.attn_output"),
    r("transformer.layers.{}.linear1", "blk.{}.ffn_up"),
    r("transformer.layers.{}.linear2", "blk.{}.ffn_down"),
];

const EMBEDDINGS: How = How::Join { group: "embeddings", make: with_vectors };

/// What becomes the embeddings, in the order of the file.
const WITH_VOICE: &[NameRule] = &[
    r("conditioner.embed.weight", "token_embd").how(EMBEDDINGS),
    r("bos_before_voice", "token_embd").how(EMBEDDINGS),
    r("bos_emb", "token_embd").how(EMBEDDINGS),
    r("input_linear.weight", "token_embd").how(EMBEDDINGS),
];

const WITHOUT_VOICE: &[NameRule] = &[
    r("conditioner.embed.weight", "token_embd").how(EMBEDDINGS),
    r("bos_emb", "token_embd").how(EMBEDDINGS),
    r("input_linear.weight", "token_embd").how(EMBEDDINGS),
];

/// Embeddings of words, learned vectors, and the first state behind its projection.
fn with_vectors(_: &Config, _: &Piece, mut parts: Vec<Rows>) -> Result<Outputs> {
    let (Some(projection), Some(state)) = (parts.pop(), parts.pop()) else {
        return Err(Error::usage("a first state and its projection are two tensors"));
    };
    let count = state.shape().iter().product();
    let first = transform::linear(&reshaped(&state, vec![1, count])?, &projection, None, |x| x)?;
    let width = row_len(first.shape());
    let rows = |rows: &Rows| {
        let count: u64 = rows.shape().iter().product();
        reshaped(rows, vec![count / width.max(1), width])
    };
    let mut all = parts.iter().map(rows).collect::<Result<Vec<_>>>()?;
    all.push(first);
    Ok(vec![("token_embd.weight".to_owned(), transform::joined(all)?)])
}
