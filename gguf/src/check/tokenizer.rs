//! Keys under `tokenizer.`.

use std::collections::HashSet;

use super::finding::Sink;
use super::known::{PRE_TOKENIZERS, TOKENIZER_MODELS};
use super::model::Model;
use super::template;
use crate::quote::shortened;
use crate::value::{Array, Value, ValueType};

rules! { Tokenizer;
    TOKENIZER_MODEL_UNKNOWN = "tokenizer-model-unknown" Error "llama.cpp"
        "tokenizer.ggml.model is one that llama.cpp knows"
        => "convert the checkpoint again";
    TOKENIZER_PRE_UNKNOWN = "tokenizer-pre-unknown" Error "llama.cpp"
        "tokenizer.ggml.pre is one that llama.cpp knows"
        => "`gguf set FILE tokenizer.ggml.pre NAME`; a wrong one makes wrong tokens silently";
    TOKENIZER_PRE_MISSING = "tokenizer-pre-missing" Warning "llama.cpp"
        "a BPE tokenizer names its pre-tokenizer"
        => "`gguf set FILE tokenizer.ggml.pre NAME`";
    TOKENS_MISSING = "tokens-missing" Error "llama.cpp"
        "tokenizer.ggml.tokens is an array of strings, and not empty"
        => "convert the checkpoint again";
    VOCAB_SIZE_MISMATCH = "vocab-size-mismatch" Error "llama.cpp"
        "there are as many tokens as rows in token_embd and as vocab_size says"
        => "convert the checkpoint again; padding tokens fill a gap";
    TOKEN_DUPLICATE = "token-duplicate" Error "llama.cpp"
        "no token stands twice"
        => "convert the checkpoint again";
    TOKEN_EMPTY = "token-empty" Warning "llama.cpp"
        "no token is empty"
        => "convert the checkpoint again";
    TOKEN_TOO_LONG = "token-too-long" Error "ours; CVE-2025-49847"
        "no token has more than 64 KiB"
        => "the file is damaged or hostile";
    SCORES_TYPE = "scores-type" Error "llama.cpp"
        "tokenizer.ggml.scores is an array of f32 (or i32)"
        => "convert the checkpoint again";
    SCORES_LENGTH = "scores-length" Error "llama.cpp"
        "there is a score for each token"
        => "convert the checkpoint again";
    SCORES_NONFINITE = "scores-nonfinite" Warning "ours"
        "no score is NaN or infinite"
        => "convert the checkpoint again";
    TOKEN_TYPE_TYPE = "token-type-type" Error "llama.cpp"
        "tokenizer.ggml.token_type is an array of i32"
        => "convert the checkpoint again";
    TOKEN_TYPE_LENGTH = "token-type-length" Error "llama.cpp"
        "there is a type for each token"
        => "convert the checkpoint again";
    TOKEN_TYPE_RANGE = "token-type-range" Warning "llama.cpp"
        "a token's type is 1 to 6"
        => "convert the checkpoint again";
    MERGES_MISSING = "merges-missing" Error "llama.cpp"
        "a tokenizer of the gpt2 family has tokenizer.ggml.merges"
        => "convert the checkpoint again";
    MERGES_FORM = "merges-form" Error "llama.cpp"
        "a merge is two parts with a space between"
        => "convert the checkpoint again";
    MERGES_UNKNOWN_TOKEN = "merges-unknown-token" Warning "ours"
        "what a merge joins and what it makes are tokens"
        => "convert the checkpoint again";
    SPECIAL_ID_RANGE = "special-id-range" Error "llama.cpp"
        "ids of special tokens are below the number of tokens"
        => "`gguf set FILE KEY ID` or `gguf remove FILE KEY`";
    SPECIAL_ID_TYPE = "special-id-type" Error "llama.cpp; CVE-2024-8063"
        "ids of special tokens are u32"
        => "`gguf set FILE KEY ID` stores a u32";
    BYTE_TOKENS_MISSING = "byte-tokens-missing" Warning "llama.cpp"
        "a SentencePiece vocabulary has all 256 tokens <0x00> to <0xFF>"
        => "text with other characters cannot be tokenized; convert again with byte fallback";
    SEPARATOR_KEY_SPELLING = "separator-key-spelling" Warning "llama.cpp, which reads seperator_token_id"
        "the separator's key is spelled tokenizer.ggml.seperator_token_id, as llama.cpp reads it"
        => "`gguf rename FILE tokenizer.ggml.separator_token_id tokenizer.ggml.seperator_token_id`";
    CHARSMAP_INVALID = "charsmap-invalid" Error "llama.cpp"
        "the precompiled character map begins with the size of its trie, which fits and is a multiple of 4"
        => "convert the checkpoint again";
    SUPPRESS_ID_RANGE = "suppress-id-range" Warning "llama.cpp"
        "tokenizer.ggml.suppress_tokens are ids below the number of tokens"
        => "`gguf set FILE tokenizer.ggml.suppress_tokens '[…]'`";
    CHAT_TEMPLATE_MISSING = "chat-template-missing" Warning "ours"
        "a model that calls itself instruct or chat and has tokens for turns has a chat template"
        => "`gguf set FILE tokenizer.chat_template --from-file template.jinja`";
    CHAT_TEMPLATE_UNPARSEABLE = "chat-template-unparseable" Error "ours"
        "a chat template is valid Jinja"
        => "`gguf set FILE tokenizer.chat_template --from-file template.jinja`";
    CHAT_TEMPLATE_UNSAFE = "chat-template-unsafe" Warning "ours; CVE-2024-34359, CVE-2026-5760"
        "a chat template touches no dunder attributes, uses no attr filter and no loop over a huge range"
        => "read the template before you run it anywhere; replace it with the original's";
    CHAT_TEMPLATES_NAMES = "chat-templates-names" Error "gguf-py"
        "every name in tokenizer.chat_templates has its tokenizer.chat_template.NAME"
        => "`gguf set FILE tokenizer.chat_template.NAME --from-file template.jinja`";
}

/// Keys of special tokens, without `tokenizer.ggml.` and `_token_id`.
const SPECIAL: &[&str] = &[
    "bos",
    "eos",
    "eot",
    "eom",
    "unknown",
    "seperator",
    "padding",
    "mask",
    "cls",
    "prefix",
    "suffix",
    "middle",
    "fim_pre",
    "fim_suf",
    "fim_mid",
    "fim_pad",
    "fim_rep",
    "fim_sep",
];

/// The longest token that is believed.
const MAX_TOKEN_BYTES: usize = 64 << 10;

pub(super) fn check(model: &Model<'_>, sink: &mut Sink<'_>) {
    if model.arch.is_empty() || model.arch == "clip" || model.kind != "model" {
        return;
    }
    const MODEL: &str = "tokenizer.ggml.model";
    let Some(kind) = model.get(MODEL).and_then(Value::as_str) else {
        model.fault(sink, &TOKENIZER_MODEL_UNKNOWN, MODEL, format_args!("{MODEL} is missing or no string"));
        return;
    };
    if TOKENIZER_MODELS.binary_search(&kind).is_err() {
        model.fault(sink, &TOKENIZER_MODEL_UNKNOWN, MODEL, format_args!("{MODEL} is {}", shortened(kind)));
    }
    chat_templates(model, sink);
    if ["none", "no_vocab"].contains(&kind) {
        return;
    }
    let bpe = ["gpt2", "hybriddna", "whitespace", "gemma4"].contains(&kind);
    pre(model, bpe, sink);
    let Some(tokens) = tokens(model, sink) else { return };
    let set: HashSet<&[u8]> = tokens.iter().copied().collect();
    judge_tokens(model, &tokens, kind, &set, sink);
    scores(model, tokens.len() as u64, sink);
    token_types(model, tokens.len() as u64, sink);
    if bpe {
        merges(model, &set, sink);
    }
    special(model, tokens.len() as u64, sink);
    charsmap(model, sink);
    turns(model, &set, sink);
}

fn pre(model: &Model<'_>, bpe: bool, sink: &mut Sink<'_>) {
    const PRE: &str = "tokenizer.ggml.pre";
    match model.get(PRE) {
        None if bpe => {
            model.fault(sink, &TOKENIZER_PRE_MISSING, PRE, format_args!("{PRE} is missing"));
        }
        Some(value) if bpe && value.as_str().is_none_or(|p| PRE_TOKENIZERS.binary_search(&p).is_err()) => {
            model.fault(sink, &TOKENIZER_PRE_UNKNOWN, PRE, format_args!("{PRE} is {value}"));
        }
        _ => {}
    }
}

fn tokens<'a>(model: &Model<'a>, sink: &mut Sink<'_>) -> Option<Vec<&'a [u8]>> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    let tokens: Option<Vec<&[u8]>> =
        model.get(TOKENS).and_then(Value::as_array).and_then(Array::iter_bytes).map(Iterator::collect);
    if tokens.as_ref().is_none_or(Vec::is_empty) {
        model.fault(sink, &TOKENS_MISSING, TOKENS, format_args!("{TOKENS} is missing, empty or no array of strings"));
        return None;
    }
    tokens
}

fn judge_tokens(model: &Model<'_>, tokens: &[&[u8]], kind: &str, set: &HashSet<&[u8]>, sink: &mut Sink<'_>) {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    let n = tokens.len() as u64;
    let rows = model.by_name.get("token_embd.weight").and_then(|t| t.dims.get(1)).copied();
    if let Some(rows) = rows.filter(|&rows| rows != n) {
        model.fault(sink, &VOCAB_SIZE_MISMATCH, TOKENS, format_args!("{n} tokens, token_embd.weight has {rows} rows"));
    }
    if let Some(size) = model.number("vocab_size").filter(|&size| size != n) {
        let key = model.own_key("vocab_size");
        model.fault(sink, &VOCAB_SIZE_MISMATCH, &key, format_args!("{n} tokens, {key} is {size}"));
    }
    let mut seen = HashSet::with_capacity(tokens.len());
    for (i, token) in tokens.iter().enumerate() {
        if token.is_empty() {
            model.fault(sink, &TOKEN_EMPTY, TOKENS, format_args!("token {i} is empty"));
        } else if !seen.insert(*token) {
            let text = String::from_utf8_lossy(token);
            let message = format_args!("token {i}, \"{}\", stands twice", shortened(&text));
            model.fault(sink, &TOKEN_DUPLICATE, TOKENS, message);
        }
        if token.len() > MAX_TOKEN_BYTES {
            let len = token.len();
            model.fault(sink, &TOKEN_TOO_LONG, TOKENS, format_args!("token {i} has {len} bytes"));
        }
    }
    if kind == "llama" {
        let missing = (0..=255_u8).filter(|b| !set.contains(format!("<0x{b:02X}>").as_bytes())).count();
        if missing > 0 {
            model.fault(
                sink,
                &BYTE_TOKENS_MISSING,
                TOKENS,
                format_args!("{missing} of the 256 byte tokens are missing"),
            );
        }
    }
}

fn scores(model: &Model<'_>, n: u64, sink: &mut Sink<'_>) {
    const KEY: &str = "tokenizer.ggml.scores";
    let Some(value) = model.get(KEY) else { return };
    let array = value.as_array().filter(|a| matches!(a.element_type(), ValueType::F32 | ValueType::I32));
    let Some(array) = array else {
        model.fault(sink, &SCORES_TYPE, KEY, format_args!("{KEY} is no array of f32: {value}"));
        return;
    };
    if array.len() != n {
        model.fault(sink, &SCORES_LENGTH, KEY, format_args!("{} scores for {n} tokens", array.len()));
    }
    let bad = array.to_f32s().into_iter().flatten().position(|s| !s.is_finite());
    if let Some(i) = bad {
        model.fault(sink, &SCORES_NONFINITE, KEY, format_args!("the score of token {i} is not finite"));
    }
}

fn token_types(model: &Model<'_>, n: u64, sink: &mut Sink<'_>) {
    const KEY: &str = "tokenizer.ggml.token_type";
    let Some(value) = model.get(KEY) else { return };
    let Some(types) = value.as_array().and_then(Array::to_i32s) else {
        model.fault(sink, &TOKEN_TYPE_TYPE, KEY, format_args!("{KEY} is no array of i32: {value}"));
        return;
    };
    if types.len() as u64 != n {
        model.fault(sink, &TOKEN_TYPE_LENGTH, KEY, format_args!("{} types for {n} tokens", types.len()));
    }
    if let Some((i, ty)) = types.iter().enumerate().find(|(_, t)| !(1..=6).contains(*t)) {
        model.fault(sink, &TOKEN_TYPE_RANGE, KEY, format_args!("token {i} has the type {ty}"));
    }
}

fn merges(model: &Model<'_>, tokens: &HashSet<&[u8]>, sink: &mut Sink<'_>) {
    const KEY: &str = "tokenizer.ggml.merges";
    let Some(merges) = model.get(KEY).and_then(Value::as_array).and_then(Array::iter_bytes) else {
        model.fault(sink, &MERGES_MISSING, KEY, format_args!("{KEY} is missing or no array of strings"));
        return;
    };
    let mut joined = Vec::new();
    for (i, merge) in merges.enumerate() {
        // The first part may itself be a space.
        let Some(at) = merge.iter().skip(1).position(|&b| b == b' ').map(|at| at + 1) else {
            let text = String::from_utf8_lossy(merge);
            model.fault(sink, &MERGES_FORM, KEY, format_args!("merge {i} is \"{}\"", shortened(&text)));
            continue;
        };
        let (left, right) = (&merge[..at], &merge[at + 1..]);
        joined.clear();
        joined.extend_from_slice(left);
        joined.extend_from_slice(right);
        if let Some(part) = [left, right, &joined].into_iter().find(|part| !tokens.contains(*part)) {
            let text = String::from_utf8_lossy(part);
            let message = format_args!("merge {i} speaks of \"{}\", which is no token", shortened(&text));
            model.fault(sink, &MERGES_UNKNOWN_TOKEN, KEY, message);
        }
    }
}

fn special(model: &Model<'_>, n: u64, sink: &mut Sink<'_>) {
    for name in SPECIAL {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match model.get(&key) {
            None => {}
            Some(Value::U32(id)) if u64::from(*id) < n => {}
            Some(Value::U32(id)) => {
                model.fault(sink, &SPECIAL_ID_RANGE, &key, format_args!("{key} is {id}, there are {n} tokens"));
            }
            Some(other) => {
                model.fault(sink, &SPECIAL_ID_TYPE, &key, format_args!("{key} is a {}, not a u32", other.value_type()));
            }
        }
    }
    const MISSPELT: &str = "tokenizer.ggml.separator_token_id";
    if model.get(MISSPELT).is_some() {
        model.fault(sink, &SEPARATOR_KEY_SPELLING, MISSPELT, format_args!("llama.cpp does not read {MISSPELT}"));
    }
    const SUPPRESS: &str = "tokenizer.ggml.suppress_tokens";
    let ids = model.get(SUPPRESS).and_then(Value::as_array);
    if let Some(id) = ids.and_then(|a| a.iter().find(|v| v.as_u64().is_none_or(|id| id >= n))) {
        model.fault(sink, &SUPPRESS_ID_RANGE, SUPPRESS, format_args!("{SUPPRESS} holds {id}, there are {n} tokens"));
    }
}

fn charsmap(model: &Model<'_>, sink: &mut Sink<'_>) {
    const KEY: &str = "tokenizer.ggml.precompiled_charsmap";
    let Some(value) = model.get(KEY) else { return };
    let array = value.as_array().filter(|a| matches!(a.element_type(), ValueType::U8 | ValueType::I8));
    let good = array.is_some_and(|array| {
        let head: Vec<u8> = array
            .iter()
            .take(4)
            .filter_map(|v| match v {
                Value::U8(b) => Some(b),
                Value::I8(b) => Some(b.cast_unsigned()),
                _ => None,
            })
            .collect();
        array.is_empty()
            || head.first_chunk::<4>().is_some_and(|&size| {
                let size = u64::from(u32::from_le_bytes(size));
                size.is_multiple_of(4) && size + 4 <= array.len()
            })
    });
    if !good {
        model.fault(sink, &CHARSMAP_INVALID, KEY, format_args!("{KEY} ({value}) does not hold the trie that it says"));
    }
}

fn turns(model: &Model<'_>, tokens: &HashSet<&[u8]>, sink: &mut Sink<'_>) {
    const TURNS: &[&str] =
        &["<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]", "<|turn|>", "<|user|>"];
    const TEMPLATE: &str = "tokenizer.chat_template";
    let texts = ["general.name", "general.basename", "general.finetune"];
    let instruct = texts.iter().filter_map(|k| model.get(k)?.as_str()).any(|text| {
        text.split(|c: char| !c.is_alphanumeric())
            .any(|word| ["instruct", "chat", "it"].iter().any(|w| word.eq_ignore_ascii_case(w)))
    });
    if instruct && model.get(TEMPLATE).is_none() && TURNS.iter().any(|t| tokens.contains(t.as_bytes())) {
        model.fault(sink, &CHAT_TEMPLATE_MISSING, TEMPLATE, format_args!("an instruct model without {TEMPLATE}"));
    }
}

fn chat_templates(model: &Model<'_>, sink: &mut Sink<'_>) {
    for key in &model.first.keys {
        let is_template = key.name == "tokenizer.chat_template" || key.name.starts_with("tokenizer.chat_template.");
        let Some(text) = key.value.as_str().filter(|_| is_template) else { continue };
        if let Some(message) = template::syntax_error(text) {
            model.fault(sink, &CHAT_TEMPLATE_UNPARSEABLE, &key.name, format_args!("{}: {message}", key.name));
        }
        for trick in template::tricks(text) {
            let message = format_args!("{} uses {}", key.name, shortened(&trick));
            model.fault(sink, &CHAT_TEMPLATE_UNSAFE, &key.name, message);
        }
    }
    const NAMES: &str = "tokenizer.chat_templates";
    let names = model.get(NAMES).and_then(Value::as_array).and_then(Array::iter_bytes);
    for name in names.into_iter().flatten() {
        let name = String::from_utf8_lossy(name);
        if model.get(&format!("tokenizer.chat_template.{name}")).is_none() {
            let message = format_args!("{NAMES} lists {}, which has no template", shortened(&name));
            model.fault(sink, &CHAT_TEMPLATES_NAMES, NAMES, message);
        }
    }
}
