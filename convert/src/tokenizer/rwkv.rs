//! RWKV's vocabulary: a line for each token with its id, its text as Python writes it, and its length.

use std::path::Path;

use serde_json::Value;

use gguf::{Array, Error, Metadata, Result};

use super::special::{Special, TYPES, Template};
use super::vocab::{self, TokenType, Vocab};
use super::{folder, templates};

/// The file's name, with the day of its making.
pub(super) const FILE: &str = "rwkv_vocab_v20230424.txt";
/// The vocabulary of a configuration that does not say.
const SIZE: usize = 65536;
/// `\n\n`, at which a turn ends.
const END_OF_TURN: u64 = 261;

/// The tokens' bytes by id, without the end of text that is the id 0; `None` where the folder has no such file.
pub(super) fn tokens(dir: &Path) -> Result<Option<Vec<Vec<u8>>>> {
    let path = dir.join(FILE);
    let Some(text) = folder::text(&path)? else { return Ok(None) };
    let mut tokens = Vec::new();
    // Lines end at line feeds alone: the texts have other line ends in them.
    for (line, content) in text.trim_end_matches('\n').split('\n').enumerate() {
        let fault = |what: &str| Error::input(format!("line {}: {what}", line + 1)).at(&path);
        let (_, rest) = content.split_once(' ').ok_or_else(|| fault("this is no id, text and length"))?;
        let (literal, len) = rest.rsplit_once(' ').ok_or_else(|| fault("this is no id, text and length"))?;
        let bytes = literal_bytes(literal).ok_or_else(|| fault("the text is not as Python writes texts"))?;
        if len.trim().parse() != Ok(bytes.len()) {
            return Err(fault(&format!("the length is {len}, but the text has {} bytes", bytes.len())));
        }
        tokens.push(bytes);
    }
    Ok(Some(tokens))
}

/// The keys of the vocabulary.
pub(super) fn write(dir: &Path, config: &Value, out: &mut Metadata) -> Result<()> {
    let tokens = tokens(dir)?.ok_or_else(|| {
        Error::input(format!("the folder holds no {FILE}"))
            .at(dir)
            .help("copy the tokenizer's files of the original model into the folder")
    })?;
    let size = vocab::vocab_size(config, &["vocab_size"]).map_err(|e| e.at(dir.join("config.json")))?.unwrap_or(SIZE);
    if tokens.len() >= size {
        return Err(Error::input(format!(
            "{} tokens and the end of text, in the vocabulary of {size} that config.json states",
            tokens.len()
        ))
        .at(dir.join(FILE)));
    }
    let mut vocab = Vocab::default();
    vocab.push("<s>", 0.0, TokenType::Control);
    for token in &tokens {
        vocab.push(python_repr(token), 0.0, TokenType::Normal);
    }
    for id in vocab.len()..size {
        vocab.push(format!("[PAD{id}]"), 0.0, TokenType::Unused);
    }
    out.set("tokenizer.ggml.model", "rwkv");
    out.set("tokenizer.ggml.tokens", Array::strings(&vocab.texts));
    vocab.write_types(out);
    let mut special = Special::load(dir, false, &TYPES, None)?;
    if special.template.is_none() {
        special.template = Some(Template::One(templates::RWKV_WORLD.to_owned()));
    }
    special.set("eot", &Value::from(END_OF_TURN))?;
    for role in ["bos", "eos"] {
        special.ids.insert(role.to_owned(), 0);
    }
    special.write(out);
    super::special::check_ids(out, vocab.len() as u64).map_err(|e| e.at(dir.join("config.json")))
}

/// The bytes that a token of a file stands for.
pub(super) fn shown_bytes(text: &str) -> Option<Vec<u8>> {
    // Either kind of quote may stand in it as it is.
    let quoted = |quote: char| literal_bytes(&format!("b{quote}{text}{quote}"));
    quoted('\'').or_else(|| quoted('"'))
}

/// The line of a token.
pub(super) fn line(id: usize, bytes: &[u8]) -> String {
    let shown: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    format!("{id} b'{shown}' {}\n", bytes.len())
}

/// The bytes of a Python literal of text or bytes.
fn literal_bytes(literal: &str) -> Option<Vec<u8>> {
    let (raw, literal) = match literal.strip_prefix('b') {
        Some(rest) => (true, rest),
        None => (false, literal),
    };
    let quote = literal.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let inner = literal.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        let c = if c != '\\' {
            c
        } else {
            let escape = chars.next()?;
            let digits = match escape {
                'x' => 2,
                'u' if !raw => 4,
                'U' if !raw => 8,
                _ => 0,
            };
            if digits > 0 {
                let count = digits;
                let digits: String = chars.by_ref().take(count).filter(char::is_ascii_hexdigit).collect();
                if digits.len() != count {
                    return None;
                }
                let code = u32::from_str_radix(&digits, 16).ok()?;
                if raw {
                    bytes.push(u8::try_from(code).ok()?);
                    continue;
                }
                char::from_u32(code)?
            } else {
                match escape {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    '\\' | '\'' | '"' => escape,
                    _ => return None,
                }
            }
        };
        bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Some(bytes)
}

/// Bytes as Python shows them, without the quotes.
fn python_repr(bytes: &[u8]) -> String {
    let escape_quote = bytes.contains(&b'"') || !bytes.contains(&b'\'');
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            b'\\' => text.push_str("\\\\"),
            b'\'' if escape_quote => text.push_str("\\'"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_read_as_python_reads_them() {
        for (literal, bytes) in [
            (r"'a b'", b"a b".as_slice()),
            (r"'\x80'", "\u{80}".as_bytes()),
            (r"b'\x80'", b"\x80"),
            (r#""it's""#, b"it's"),
            (r"'\n\t\\\''", b"\n\t\\'"),
            (r"'\u3000'", "\u{3000}".as_bytes()),
            ("'é'", "é".as_bytes()),
        ] {
            assert_eq!(literal_bytes(literal).as_deref(), Some(bytes), "{literal}");
        }
        for wrong in ["a", "'a", r"'\x8'", r"'\q'", r"b'\u3000'", "'", ""] {
            assert_eq!(literal_bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn bytes_are_shown_as_python_shows_them() {
        for (bytes, text) in [
            (b"it's".as_slice(), "it's"),
            (b"'\"", r#"\'""#),
            (b"\"", r#"""#),
            (b"\x00\x7f\xff ~", r"\x00\x7f\xff ~"),
            (b"\\\n", r"\\\n"),
        ] {
            assert_eq!(python_repr(bytes), text);
        }
    }
}
