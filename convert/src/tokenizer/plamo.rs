//! PLaMo's vocabulary: a line of JSON for each token with its text, score and type.

use std::path::Path;

use serde_json::Value;

use gguf::{Error, Metadata, Result};

use super::folder;
use super::vocab::{self, TokenType, Vocab};

/// The file's name.
pub(super) const FILE: &str = "tokenizer.jsonl";
/// The score of an id that no line defines.
const PAD_SCORE: f32 = -1000.0;
/// `<|plamo:op|>`, at which a turn ends.
const END_OF_TURN: u32 = 4;

/// The tokens of a folder; `None` where it has no such file.
pub(super) fn tokens(dir: &Path) -> Result<Option<Vocab>> {
    let path = dir.join(FILE);
    let Some(text) = folder::text(&path)? else { return Ok(None) };
    let mut vocab = Vocab::default();
    for (line, content) in text.split('\n').enumerate().filter(|(_, content)| !content.trim().is_empty()) {
        let fault = |what: &str| Error::input(format!("line {}: {what}", line + 1)).at(&path);
        let token: Value = serde_json::from_str(content).map_err(|e| fault("this is no JSON").caused_by(e))?;
        let text = token[0].as_str().ok_or_else(|| fault("the token has no text"))?;
        let score = token[1].as_f64().ok_or_else(|| fault("the token has no score"))?;
        let kind = match token[2].as_str() {
            Some("UNKNOWN") => TokenType::Unknown,
            Some("CONTROL") => TokenType::Control,
            Some("BYTE") => TokenType::Byte,
            _ if text.starts_with("<|plamo:") && text.ends_with("|>") => TokenType::Control,
            _ => TokenType::Normal,
        };
        vocab.push(text, score as f32, kind);
    }
    Ok(Some(vocab))
}

/// The keys of the vocabulary.
pub(super) fn write(dir: &Path, config: &Value, out: &mut Metadata) -> Result<()> {
    let mut vocab = tokens(dir)?.ok_or_else(|| {
        Error::input(format!("the folder holds no {FILE}"))
            .at(dir)
            .help("copy the tokenizer's files of the original model into the folder")
    })?;
    let size = vocab::vocab_size(config, &["vocab_size"]).map_err(|e| e.at(dir.join("config.json")))?.unwrap_or(0);
    for i in 1..=size.saturating_sub(vocab.len()) {
        vocab.push(format!("[PAD{i}]"), PAD_SCORE, TokenType::Unused);
    }
    out.set("tokenizer.ggml.model", "plamo2");
    out.set("tokenizer.ggml.pre", "default");
    vocab.write(true, out);
    let roles = folder::json(dir, "tokenizer_config.json")?.unwrap_or(Value::Null);
    for (role, key) in [("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("sep", "seperator"), ("unk", "unknown")] {
        let text = &roles[format!("{role}_token")];
        let Some(text) = text.as_str().or(text["content"].as_str()) else { continue };
        let id = vocab.texts.iter().position(|t| t == text.as_bytes()).ok_or_else(|| {
            Error::input(format!("{role}_token is '{text}', which the vocabulary does not have"))
                .at(dir.join("tokenizer_config.json"))
        })?;
        out.set(format!("tokenizer.ggml.{key}_token_id"), id as u32);
    }
    out.set("tokenizer.ggml.eot_token_id", END_OF_TURN);
    out.set("tokenizer.ggml.add_space_prefix", false);
    super::special::check_ids(out, vocab.len() as u64).map_err(|e| e.at(dir.join(FILE)))
}
