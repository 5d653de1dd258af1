//! The vocabulary of a checkpoint: token texts, scores and types, by the converter's ways of reading one.

use std::path::Path;

use serde_json::Value;

use gguf::{Array, Error, Metadata, Result};

use super::folder;
use super::sentencepiece::{Model, PieceType};

/// The types of tokens, numbered as in `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum TokenType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// The score of an id that nothing defines.
pub(crate) const UNUSED_SCORE: f32 = -10000.0;
/// The score of a token that was added to a SentencePiece model.
const ADDED_SCORE: f32 = -1000.0;
/// No vocabulary is larger; a `vocab_size` beyond it is not believed.
const LARGEST_VOCAB: u64 = 1 << 26;

/// Tokens by id.
#[derive(Debug, Default)]
pub(crate) struct Vocab {
    pub texts: Vec<Vec<u8>>,
    pub scores: Vec<f32>,
    pub types: Vec<TokenType>,
}

impl Vocab {
    /// `n` ids that nothing defines yet.
    pub fn unused(n: usize) -> Vocab {
        Vocab {
            texts: (0..n).map(|i| format!("[PAD{i}]").into_bytes()).collect(),
            scores: vec![UNUSED_SCORE; n],
            types: vec![TokenType::Unused; n],
        }
    }

    pub fn len(&self) -> usize {
        self.texts.len()
    }

    pub fn push(&mut self, text: impl Into<Vec<u8>>, score: f32, kind: TokenType) {
        self.texts.push(text.into());
        self.scores.push(score);
        self.types.push(kind);
    }

    pub fn set(&mut self, id: usize, text: impl Into<Vec<u8>>, score: f32, kind: TokenType) {
        self.texts[id] = text.into();
        self.scores[id] = score;
        self.types[id] = kind;
    }

    /// Appends the token list, the scores where asked for, and the types.
    pub fn write(&self, scores: bool, out: &mut Metadata) {
        out.set("tokenizer.ggml.tokens", Array::strings(&self.texts));
        if scores {
            out.set("tokenizer.ggml.scores", Array::from(self.scores.as_slice()));
        }
        self.write_types(out);
    }

    /// Appends the types alone.
    pub fn write_types(&self, out: &mut Metadata) {
        let types: Vec<i32> = self.types.iter().map(|&t| t as i32).collect();
        out.set("tokenizer.ggml.token_type", Array::from(types.as_slice()));
    }

    /// The pieces of a SentencePiece model in a vocabulary of `size` ids. What lies beyond is left out.
    pub fn from_pieces(model: &Model, size: usize) -> Vocab {
        let mut vocab = Vocab::unused(size);
        for (id, piece) in model.pieces.iter().take(size).enumerate() {
            let kind = match piece.kind {
                // The converter does not ask for user-defined pieces, so they count as normal ones.
                PieceType::Normal | PieceType::UserDefined => TokenType::Normal,
                PieceType::Unknown => TokenType::Unknown,
                PieceType::Control => TokenType::Control,
                PieceType::Unused => TokenType::Unused,
                PieceType::Byte => TokenType::Byte,
            };
            vocab.set(id, piece.text.clone(), piece.score, kind);
        }
        vocab
    }

    /// `added_tokens.json`: token texts with their ids.
    pub fn apply_added_tokens(&mut self, dir: &Path) -> Result<()> {
        let Some(added) = folder::json(dir, "added_tokens.json")? else { return Ok(()) };
        for (text, id) in added.as_object().into_iter().flatten() {
            if let Some(id) = self.id(id)? {
                self.set(id, text.as_bytes(), ADDED_SCORE, TokenType::UserDefined);
            }
        }
        Ok(())
    }

    /// `added_tokens_decoder` of `tokenizer_config.json`. `looks` also takes for special what looks so.
    pub fn apply_added_decoder(&mut self, dir: &Path, looks: bool) -> Result<()> {
        let Some(config) = folder::json(dir, "tokenizer_config.json")? else { return Ok(()) };
        for (id, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
            let id = id.parse::<u64>().map(Value::from).unwrap_or(Value::Null);
            let id = self.id(&id).map_err(|e| e.at(dir.join("tokenizer_config.json")))?;
            self.apply_added(id, token, looks).map_err(|e| e.at(dir.join("tokenizer_config.json")))?;
        }
        Ok(())
    }

    /// `added_tokens_decoder` of a tokenizer's configuration, each token written, scored and typed by `how`. Ids beyond
    /// the vocabulary are left out.
    pub fn apply_decoder(
        &mut self,
        config: &Value,
        how: impl Fn(&Value, &str) -> (String, f32, TokenType),
    ) -> Result<()> {
        for (id, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
            let text = token["content"].as_str().ok_or_else(|| Error::input("an added token has no content"))?;
            if let Some(id) = self.id(&id.parse::<u64>().map(Value::from).unwrap_or(Value::Null))? {
                let (text, score, kind) = how(token, text);
                self.set(id, text, score, kind);
            }
        }
        Ok(())
    }

    /// `added_tokens` of `tokenizer.json`.
    pub fn apply_tokenizer_json(&mut self, dir: &Path) -> Result<()> {
        let Some(tokenizer) = folder::json(dir, "tokenizer.json")? else { return Ok(()) };
        for token in tokenizer["added_tokens"].as_array().into_iter().flatten() {
            let id = self.id(&token["id"]).map_err(|e| e.at(dir.join("tokenizer.json")))?;
            self.apply_added(id, token, false).map_err(|e| e.at(dir.join("tokenizer.json")))?;
        }
        Ok(())
    }

    fn apply_added(&mut self, id: Option<usize>, token: &Value, looks: bool) -> Result<()> {
        let text = token["content"].as_str().ok_or_else(|| Error::input("an added token has no content"))?;
        let Some(id) = id else { return Ok(()) };
        if folder::truthy(&token["special"]) || looks && looks_special(text) {
            self.set(id, text, ADDED_SCORE, TokenType::Control);
        } else if looks {
            self.set(id, text.replace('\u{2581}', " "), ADDED_SCORE, TokenType::UserDefined);
        } else {
            self.set(id, text, ADDED_SCORE, TokenType::UserDefined);
        }
        Ok(())
    }

    /// An id as an index; `None` where it lies beyond the vocabulary.
    fn id(&self, id: &Value) -> Result<Option<usize>> {
        let id = id
            .as_u64()
            .ok_or_else(|| Error::input(format!("an added token has the id {id}, which is no number from 0 on")))?;
        Ok(usize::try_from(id).ok().filter(|&id| id < self.len()))
    }
}

/// Whether a token looks like one that structures a text, though it may not be marked as special.
pub(crate) fn looks_special(text: &str) -> bool {
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || text.starts_with("<|") && text.ends_with("|>")
        || text.starts_with("<｜") && text.ends_with("｜>")
        || text.starts_with("<unused") && text.ends_with('>')
}

/// A hyperparameter; that of the text model goes before that of the wrapper around it.
pub(crate) fn hparam<'a>(config: &'a Value, name: &str) -> Option<&'a Value> {
    [&config["text_config"][name], &config[name]].into_iter().find(|v| !v.is_null())
}

/// The first of these sizes that the configuration gives, bounded.
pub(crate) fn vocab_size(config: &Value, names: &[&str]) -> Result<Option<usize>> {
    let Some((name, size)) = names.iter().find_map(|n| hparam(config, n).map(|v| (n, v))) else { return Ok(None) };
    match crate::config::as_u64(size) {
        Some(0) => Ok(None),
        Some(size) if size <= LARGEST_VOCAB => Ok(Some(size as usize)),
        _ => Err(Error::input(format!("the configuration's {name} is {size}, which is no size of a vocabulary"))),
    }
}
