//! Vocabularies that single families keep in their own way.

use std::path::Path;

use serde_json::Value;

use gguf::{Array, Error, Metadata, Result};

use super::sentencepiece::Model;
use super::special::{Special, TYPES, Template};
use super::vocab::{TokenType, Vocab};
use super::{Setting, folder};

/// The score of a token that was added to a vocabulary.
const ADDED: f32 = -1000.0;

/// RWKV's list of tokens, one a line: its id, its text as a Python literal, its length in bytes.
const RWKV_LIST: &str = "rwkv_vocab_v20230424.txt";

impl Setting<'_> {
    /// Byte-level BPE, without a padding token where the configuration has a negative one.
    pub(super) fn hunyuan(&self, out: &mut Metadata) -> Result<()> {
        let pad = super::vocab::hparam(self.config, "pad_token_id").and_then(Value::as_i64);
        let types: Vec<&str> = TYPES.iter().copied().filter(|t| *t != "pad" || pad.is_none_or(|id| id >= 0)).collect();
        let source = self.source()?;
        self.write_gpt2(&source, None, out)?;
        Special::load(self.dir, true, &types, None)?.write(out);
        Ok(())
    }

    /// SentencePiece, else the vocabulary of a SentencePiece BPE in `tokenizer.json` without a space put in front.
    pub(super) fn jamba(&self, out: &mut Metadata) -> Result<()> {
        if self.has("tokenizer.model") {
            return self.sentencepiece(out);
        }
        let source = self.source()?;
        if !super::byte_fallback(&source.json) {
            return Err(Error::input("Jamba's tokenizer is a BPE with byte fallback, this one is not")
                .at(self.dir.join("tokenizer.json")));
        }
        self.write_spm(&self.llama_hf(&source)?, out)?;
        out.set("tokenizer.ggml.add_space_prefix", false);
        Ok(())
    }

    /// SentencePiece, else byte-level BPE, in a vocabulary padded to a multiple of 16 or what the configuration says.
    pub(super) fn mamba2(&self, out: &mut Metadata) -> Result<()> {
        let multiple = super::vocab::vocab_size(self.config, &["pad_vocab_size_multiple"])?.unwrap_or(16);
        let size = self.size()?.map(|size| size.next_multiple_of(multiple));
        if !self.has("tokenizer.model") && self.has("tokenizer.model.v3") {
            return Err(Error::input("the tokenizer is in tokenizer.model.v3")
                .at(self.dir)
                .help("rename tokenizer.model.v3 to tokenizer.model"));
        }
        if self.has("tokenizer.model") { self.padded_sentencepiece(size, out) } else { self.gpt2(size, out) }
    }

    /// Byte-level BPE in a vocabulary padded to a multiple of 8.
    pub(super) fn nemotron_h(&self, out: &mut Metadata) -> Result<()> {
        self.gpt2(self.size()?.map(|size| size.next_multiple_of(8)), out)
    }

    /// SentencePiece whose end is that of a turn, where there is such a token.
    pub(super) fn internlm2(&self, out: &mut Metadata) -> Result<()> {
        const END_OF_TURN: &str = "<|im_end|>";
        let model = Model::open(self.dir, &["tokenizer.model"])?.ok_or_else(|| self.missing("tokenizer.model"))?;
        let size = self.size()?.unwrap_or(model.pieces.len());
        if size > model.pieces.len() {
            let what = format!("config.json states {size} tokens, the model has {}", model.pieces.len());
            return Err(Error::input(what).at(&model.path));
        }
        let mut vocab = Vocab::from_pieces(&model, size);
        for (text, kind) in vocab.texts.iter_mut().zip(&mut vocab.types) {
            if text.starts_with(b"[UNUSED") {
                *kind = TokenType::Unused;
            }
            // A text that C would take for the empty one.
            if text == b"\0" {
                *text = "🐉".into();
            }
        }
        if let Some(added) = folder::json(self.dir, "added_tokens.json")? {
            for text in added.as_object().into_iter().flat_map(|tokens| tokens.keys()) {
                vocab.push(text.as_str(), ADDED, TokenType::UserDefined);
            }
        }
        let config = folder::json(self.dir, "tokenizer_config.json")?.unwrap_or(Value::Null);
        let decoder = config["added_tokens_decoder"].as_object().into_iter().flatten();
        let decoder = decoder.map(|(id, token)| (id.parse().ok(), token.clone()));
        let tokenizer = folder::json(self.dir, "tokenizer.json")?.unwrap_or(Value::Null);
        let added = tokenizer["added_tokens"].as_array().into_iter().flatten();
        let added = added.map(|token| (token["id"].as_u64(), token.clone()));
        let mut end = None;
        for (id, token) in decoder.chain(added) {
            let text = token["content"].as_str().unwrap_or_default();
            let id = id.and_then(|id| usize::try_from(id).ok()).filter(|id| *id < vocab.len()).ok_or_else(|| {
                Error::input(format!("the added token {text} has an id beyond the vocabulary of {}", vocab.len()))
                    .at(self.dir)
            })?;
            if text == END_OF_TURN {
                end = Some(id);
            }
            vocab.texts[id] = text.into();
            vocab.scores[id] = ADDED;
            let special = folder::truthy(&token["special"]);
            vocab.types[id] = if special { TokenType::Control } else { TokenType::UserDefined };
        }
        out.set("tokenizer.ggml.model", "llama");
        out.set("tokenizer.ggml.pre", "default");
        vocab.write(true, out);
        out.set("tokenizer.ggml.add_space_prefix", model.add_dummy_prefix);
        let mut special = Special::load(self.dir, false, &TYPES, Some(vocab.len()))?;
        if let Some(end) = end {
            special.ids.insert("eos".into(), end as u32);
        }
        special.write(out);
        Ok(())
    }

    /// SentencePiece with `add_prefix_space` of the tokenizer's configuration; its end is that of a turn, where that
    /// is a special token.
    pub(super) fn internlm3(&self, out: &mut Metadata) -> Result<()> {
        let vocab = self.sentencepiece_vocab(None)?;
        out.set("tokenizer.ggml.model", "llama");
        out.set("tokenizer.ggml.pre", "default");
        vocab.write(true, out);
        self.space_prefix(out)?;
        let mut special = Special::load(self.dir, false, &TYPES, Some(vocab.len()))?;
        let config = folder::json(self.dir, "tokenizer_config.json")?.unwrap_or(Value::Null);
        for (id, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
            let end = token["content"] == "<|im_end|>" && folder::truthy(&token["special"]);
            if let (true, Ok(id), Some(eos)) = (end, id.parse(), special.ids.get_mut("eos")) {
                *eos = id;
            }
        }
        special.write(out);
        Ok(())
    }

    /// Byte-level BPE whose added tokens are control tokens exactly where they are marked as special.
    pub(super) fn llada(&self, out: &mut Metadata) -> Result<()> {
        self.gpt2_with(out, |vocab, source| {
            let texts = source.by_id();
            for (id, token) in source.tokenizer.get_added_tokens_decoder() {
                let (Some(text), Some(kind)) = (texts.get(&id), vocab.types.get_mut(id as usize)) else { continue };
                *kind = if token.special { TokenType::Control } else { TokenType::UserDefined };
                vocab.texts[id as usize] = text.as_bytes().to_vec();
            }
        })
    }

    /// Byte-level BPE whose end of a turn is a control token, though it is not marked as special.
    pub(super) fn laguna(&self, out: &mut Metadata) -> Result<()> {
        self.gpt2_with(out, |vocab, _| {
            for (text, kind) in vocab.texts.iter().zip(&mut vocab.types) {
                if text == b"</assistant>" {
                    *kind = TokenType::Control;
                }
            }
        })
    }

    /// Byte-level BPE; of the tokens for infill, the end of the text has a key.
    pub(super) fn refact(&self, out: &mut Metadata) -> Result<()> {
        self.gpt2(None, out)?;
        let mut special = Special::load(self.dir, false, &["prefix", "suffix", "middle", "eot"], None)?;
        special.template = None;
        special.write(out);
        Ok(())
    }

    /// A BPE with byte fallback of `tokenizer.json`, without scores.
    pub(super) fn xverse(&self, out: &mut Metadata) -> Result<()> {
        let source = self.source()?;
        let texts = source.by_id();
        let size = self.size()?.unwrap_or(texts.len());
        let added = source.tokenizer.get_added_tokens_decoder();
        let fault = |what: String| Error::input(what).at(self.dir.join("tokenizer.json"));
        if let Some(id) = texts.keys().find(|id| **id as usize >= size) {
            return Err(fault(format!("a token has the id {id}, beyond the vocabulary of {size}")));
        }
        let mut vocab = Vocab::default();
        for id in 0..size as u32 {
            let text = texts.get(&id).ok_or_else(|| fault(format!("no token has the id {id}")))?;
            let kind = match added.get(&id) {
                _ if text == "\0" || is_byte(text) => TokenType::Byte,
                Some(token) if token.special => TokenType::Control,
                Some(_) => TokenType::UserDefined,
                None => TokenType::Normal,
            };
            // The reference writes the empty text of C as Python shows it.
            vocab.push(if text == "\0" { r"<b'\x00'>" } else { text }, 0.0, kind);
        }
        out.set("tokenizer.ggml.model", "llama");
        out.set("tokenizer.ggml.pre", "default");
        vocab.write(false, out);
        Special::load(self.dir, false, &TYPES, Some(vocab.len()))?.write(out);
        Ok(())
    }

    /// RWKV's list of tokens.
    pub(super) fn rwkv(&self, out: &mut Metadata) -> Result<()> {
        let path = self.dir.join(RWKV_LIST);
        let list = folder::text(&path)?.ok_or_else(|| self.missing(RWKV_LIST))?;
        let mut vocab = Vocab::default();
        vocab.push("<s>", 0.0, TokenType::Control);
        for (number, line) in list.lines().enumerate() {
            let text =
                rwkv_token(line).ok_or_else(|| Error::input(format!("line {} is no token", number + 1)).at(&path))?;
            vocab.push(shown(&text), 0.0, TokenType::Normal);
        }
        let size = self.size()?.unwrap_or(65536);
        if size < vocab.len() {
            let what = format!("it has {} tokens, config.json states {size}", vocab.len());
            return Err(Error::input(what).at(&path));
        }
        for id in vocab.len()..size {
            vocab.push(format!("[PAD{id}]"), 0.0, TokenType::Unused);
        }
        out.set("tokenizer.ggml.model", "rwkv");
        vocab.write(false, out);
        let mut special = Special::load(self.dir, false, &TYPES, None)?;
        special.template.get_or_insert_with(|| Template::One(include_str!("templates/rwkv-world.jinja").into()));
        // The empty line ends a turn, and no text has a beginning or an end of its own.
        special.set("eot", &Value::from(261))?;
        special.ids.insert("bos".into(), 0);
        special.ids.insert("eos".into(), 0);
        special.write(out);
        Ok(())
    }

    /// PLaMo's list of tokens, a JSON array a line: text, score, type.
    pub(super) fn plamo(&self, out: &mut Metadata) -> Result<()> {
        let path = self.dir.join("tokenizer.jsonl");
        let list = folder::text(&path)?.ok_or_else(|| self.missing("tokenizer.jsonl"))?;
        let mut vocab = Vocab::default();
        for (number, line) in list.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let fault = || Error::input(format!("line {} is no token", number + 1)).at(&path);
            let token: Value = serde_json::from_str(line).map_err(|e| fault().caused_by(e))?;
            let text = token[0].as_str().ok_or_else(fault)?;
            let score = token[1].as_f64().ok_or_else(fault)? as f32;
            let kind = match token[2].as_str() {
                Some("UNKNOWN") => TokenType::Unknown,
                Some("CONTROL") => TokenType::Control,
                Some("BYTE") => TokenType::Byte,
                _ if text.starts_with("<|plamo:") && text.ends_with("|>") => TokenType::Control,
                _ => TokenType::Normal,
            };
            vocab.push(text, score, kind);
        }
        let size = self.size()?.ok_or_else(|| Error::input("has no vocab_size").at(self.dir.join("config.json")))?;
        for i in 1..=size.saturating_sub(vocab.len()) {
            vocab.push(format!("[PAD{i}]"), ADDED, TokenType::Unused);
        }
        out.set("tokenizer.ggml.model", "plamo2");
        out.set("tokenizer.ggml.pre", "default");
        vocab.write(true, out);
        let config =
            folder::json(self.dir, "tokenizer_config.json")?.ok_or_else(|| self.missing("tokenizer_config.json"))?;
        for (role, key) in [
            ("bos_token", "bos_token_id"),
            ("eos_token", "eos_token_id"),
            ("pad_token", "padding_token_id"),
            ("sep_token", "seperator_token_id"),
            ("unk_token", "unknown_token_id"),
        ] {
            let Some(text) = config[role].as_str() else { continue };
            let id = vocab.texts.iter().position(|t| t == text.as_bytes());
            let id = id.ok_or_else(|| Error::input(format!("its {role} {text} is no token")).at(&path))?;
            out.set(format!("tokenizer.ggml.{key}"), id as u32);
        }
        // The token that begins an instruction ends what is generated.
        out.set("tokenizer.ggml.eot_token_id", 4_u32);
        out.set("tokenizer.ggml.add_space_prefix", false);
        Ok(())
    }
}

/// The text of the folder's `chat_template.jinja`, if it has one.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn template_file(dir: &Path) -> Result<Option<String>> {
    folder::text(&dir.join("chat_template.jinja"))
}

/// The ids of the tokenizer without the added ones, which are the rows of an embedding that were trained.
///
/// # Errors
/// A tokenizer that cannot be read.
pub(crate) fn base_size(dir: &Path) -> Result<usize> {
    let source =
        super::source::Source::open(dir)?.ok_or_else(|| Error::input("the folder holds no tokenizer.json").at(dir))?;
    Ok(source.tokenizer.get_vocab_size(false))
}

/// Whether a token stands for a byte.
pub(super) fn is_byte(text: &str) -> bool {
    text.len() == 6
        && text.starts_with("<0x")
        && text.ends_with('>')
        && text.bytes().skip(3).take(2).all(|b| b.is_ascii_hexdigit())
}

/// The bytes of a token of RWKV's list.
fn rwkv_token(line: &str) -> Option<Vec<u8>> {
    let (_, rest) = line.split_once(' ')?;
    let (literal, length) = rest.rsplit_once(' ')?;
    let bytes = python_literal(literal.trim())?;
    (length.trim().parse::<usize>().ok()? == bytes.len()).then_some(bytes)
}

/// The bytes of a Python string or bytes literal, a string's in UTF-8.
fn python_literal(literal: &str) -> Option<Vec<u8>> {
    let (is_bytes, quoted) = match literal.strip_prefix('b') {
        Some(rest) => (true, rest),
        None => (false, literal),
    };
    let quote = quoted.chars().next().filter(|c| ['\'', '"'].contains(c))?;
    let inner = quoted.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut out = Vec::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c == quote {
            return None;
        }
        let code = |chars: &mut std::str::Chars<'_>, digits: usize| {
            let text: String = chars.by_ref().take(digits).collect();
            u32::from_str_radix(&text, 16).ok().filter(|_| text.len() == digits)
        };
        let value = if c != '\\' {
            c as u32
        } else {
            match chars.next()? {
                'n' => 0x0A,
                't' => 0x09,
                'r' => 0x0D,
                'a' => 0x07,
                'b' => 0x08,
                'f' => 0x0C,
                'v' => 0x0B,
                '0' => 0,
                'x' => code(&mut chars, 2)?,
                'u' if !is_bytes => code(&mut chars, 4)?,
                'U' if !is_bytes => code(&mut chars, 8)?,
                c @ ('\\' | '\'' | '"') => c as u32,
                _ => return None,
            }
        };
        if is_bytes {
            out.push(u8::try_from(value).ok()?);
        } else {
            out.extend(char::from_u32(value)?.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Some(out)
}

/// Bytes as Python shows them, without the quotes: what the file holds for RWKV's tokens.
fn shown(bytes: &[u8]) -> String {
    let quote = if bytes.contains(&b'\'') && !bytes.contains(&b'"') { b'"' } else { b'\'' };
    let mut out = String::new();
    for &byte in bytes {
        match byte {
            b'\\' => out.push_str("\\\\"),
            b'\t' => out.push_str("\\t"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            _ if byte == quote => out.extend(['\\', char::from(byte)]),
            0x20..0x7F => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out
}

/// Token ids as the array that a key holds.
pub(crate) fn ids(ids: &[u32]) -> Array {
    Array::from(ids.iter().map(|id| *id as i32).collect::<Vec<_>>().as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_literals_give_bytes_and_are_shown_again() {
        for (line, bytes, again) in [
            (r"1 '\x00' 1", &b"\0"[..], r"\x00"),
            (r"128 b'\x80' 1", b"\x80", r"\x80"),
            (r"10 '\n' 1", b"\n", r"\n"),
            (r#"35 '"' 1"#, b"\"", "\""),
            (r#"40 "'" 1"#, b"'", "'"),
            (r#"41 "'\"" 2"#, b"'\"", r#"\'""#),
            (r"300 '\\' 1", b"\\", r"\\"),
            ("301 ' a b' 4", b" a b", " a b"),
            ("302 '\u{e9}' 2", "é".as_bytes(), r"\xc3\xa9"),
            (r"303 '\u00e9' 2", "é".as_bytes(), r"\xc3\xa9"),
        ] {
            assert_eq!(rwkv_token(line).as_deref(), Some(bytes), "{line}");
            assert_eq!(shown(bytes), again, "{line}");
        }
        for line in ["", "1", "1 a 1", "1 'a' 2", "1 'a 1", r"1 '\q' 1", r"1 '\x' 1"] {
            assert_eq!(rwkv_token(line), None, "{line}");
        }
    }
}
