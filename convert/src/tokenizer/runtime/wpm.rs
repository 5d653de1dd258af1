//! WordPiece: each word is written with the longest tokens that fit, from the left, or as unknown.

use ahash::AHashMap;
use unicode_normalization::char::decompose_canonical;

use super::tokens::Tokens;
use super::unicode::{CONTROL, MARK, PUNCTUATION, SPACE, SYMBOL, Table};
use super::{ESCAPED_SPACE, Id};

/// Words longer than this are not worth remembering.
const LONGEST_WORD: usize = 64;
/// How many words a session remembers at most.
const MOST_WORDS: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Wpm {
    pub lowercase: bool,
    pub strip_accents: bool,
    pub unknown: Id,
}

pub(crate) struct Session<'t> {
    wpm: &'t Wpm,
    tokens: &'t Tokens,
    seen: AHashMap<Box<str>, Box<[Id]>>,
}

impl Wpm {
    pub fn session<'t>(&'t self, tokens: &'t Tokens) -> Session<'t> {
        Session { wpm: self, tokens, seen: AHashMap::new() }
    }
}

impl Session<'_> {
    /// Appends the ids of a text.
    pub fn encode(&mut self, text: &str, out: &mut Vec<Id>) {
        let table = Table::get();
        let mut word = String::new();
        for c in text.chars() {
            let c = if self.wpm.strip_accents { base(c) } else { c };
            let flags = table.of(c);
            if flags & SPACE != 0 {
                self.word(&mut word, out);
                continue;
            }
            if c == '\0' || c == '\u{fffd}' || flags & CONTROL != 0 || self.wpm.strip_accents && flags & MARK != 0 {
                continue;
            }
            let lower = if self.wpm.lowercase { c.to_lowercase().next().unwrap_or(c) } else { c };
            if flags & PUNCTUATION != 0 || u32::from(c) < 0x7f && flags & SYMBOL != 0 || chinese(c) {
                self.word(&mut word, out);
                word.push(lower);
                self.word(&mut word, out);
            } else {
                word.push(lower);
            }
        }
        self.word(&mut word, out);
    }

    fn word(&mut self, word: &mut String, out: &mut Vec<Id>) {
        if word.is_empty() {
            return;
        }
        if let Some(ids) = self.seen.get(word.as_str()) {
            out.extend_from_slice(ids);
        } else {
            let from = out.len();
            self.pieces(word, out);
            if word.len() <= LONGEST_WORD && self.seen.len() < MOST_WORDS {
                self.seen.insert(word.as_str().into(), out[from..].into());
            }
        }
        word.clear();
    }

    fn pieces(&self, word: &str, out: &mut Vec<Id>) {
        let text = [ESCAPED_SPACE.as_bytes(), word.as_bytes()].concat();
        let from = out.len();
        let mut at = 0;
        while at < text.len() {
            let longest = text.len().min(at + self.tokens.longest() + 1);
            match (at + 1..=longest).rev().find_map(|end| Some((end, self.tokens.id(&text[at..end])?))) {
                Some((end, id)) => {
                    out.push(id);
                    at = end;
                }
                None => {
                    out.truncate(from);
                    break;
                }
            }
        }
        if out.len() == from {
            out.push(self.wpm.unknown);
        }
    }
}

/// The first character of the canonical decomposition.
fn base(c: char) -> char {
    let mut first = None;
    decompose_canonical(c, |part| {
        first.get_or_insert(part);
    });
    first.unwrap_or(c)
}

/// The characters that BERT makes words of their own, with the gap that its Rust tokenizer has.
fn chinese(c: char) -> bool {
    matches!(u32::from(c),
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F | 0x2B740..=0x2B81F
        | 0x2B920..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}
