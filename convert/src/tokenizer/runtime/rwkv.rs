//! RWKV's vocabulary of bytes: from the left, always the longest token that fits.

use gguf::{Error, Result};

use super::Id;
use super::tokens::Tokens;
use super::trie::Trie;

#[derive(Debug)]
pub(crate) struct Rwkv {
    tokens: Trie,
    unknown: Option<Id>,
}

impl Rwkv {
    pub fn new(tokens: &Tokens, unknown: Option<Id>) -> Rwkv {
        let texts = tokens.texts().enumerate().map(|(id, text)| (unescape(text), id as Id)).collect();
        Rwkv { tokens: Trie::new(texts), unknown }
    }

    /// Appends the ids of a text.
    pub fn encode(&self, text: &str, out: &mut Vec<Id>) -> Result<()> {
        let mut rest = text.as_bytes();
        while let Some(&byte) = rest.first() {
            let (len, id) = match self.tokens.longest(rest) {
                Some(found) => found,
                None => (
                    1,
                    self.unknown.ok_or_else(|| {
                        Error::input(format!("no token of the vocabulary begins with the byte 0x{byte:02x}"))
                    })?,
                ),
            };
            out.push(id);
            rest = &rest[len..];
        }
        Ok(())
    }
}

/// The bytes of a token that is written as Python shows bytes: `\\n`, `\\xe4`.
pub(crate) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let byte;
        (byte, rest) = match (first, tail) {
            (b'\\', [b'x', high, low, tail @ ..]) => (hex(*high).wrapping_shl(4).wrapping_add(hex(*low)), tail),
            (b'\\', [b'x', ..] | []) => break,
            (b'\\', [letter, tail @ ..]) => match letter {
                b't' => (b'\t', tail),
                b'n' => (b'\n', tail),
                b'r' => (b'\r', tail),
                other => (*other, tail),
            },
            (byte, tail) => (*byte, tail),
        };
        bytes.push(byte);
    }
    bytes
}

/// A digit as llama.cpp reads it, which takes what is no digit for one too.
fn hex(digit: u8) -> u8 {
    if digit >= b'a' { digit.wrapping_sub(b'a').wrapping_add(10) } else { digit.wrapping_sub(b'0') }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_those_of_python() {
        assert_eq!(unescape(br"a\n\t\r\\\'\x0a\xe4"), b"a\n\t\r\\'\x0a\xe4");
        assert_eq!(unescape("ä".as_bytes()), "ä".as_bytes());
        assert_eq!(unescape(br"\x4"), b"");
        assert_eq!(unescape(b"\\"), b"");
    }
}
