//! WordPiece: each word is written with the longest tokens that fit, from the left, or as unknown.

use ahash::AHashMap;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::decompose_canonical;

use super::trie::Trie;
use super::unicode::{ACCENT, CONTROL, MARK, PUNCTUATION, SPACE, SYMBOL, Table};
use super::{ESCAPED_SPACE, Id};

/// Words longer than this are not worth remembering.
const LONGEST_WORD: usize = 64;
/// How many words a session remembers at most.
const MOST_WORDS: usize = 1 << 20;

/// Published tokenizers write longer words as unknown.
const LONGEST_PUBLISHED: usize = 100;

#[derive(Debug)]
pub(crate) struct Wpm {
    pub lowercase: bool,
    pub strip_accents: bool,
    pub unknown: Id,
    /// Texts are prepared as the published tokenizer does it, not as llama.cpp does.
    pub published: bool,
    pub pieces: Trie,
}

pub(crate) struct Session<'t> {
    wpm: &'t Wpm,
    seen: AHashMap<Box<str>, Box<[Id]>>,
}

impl Wpm {
    pub fn session(&self) -> Session<'_> {
        Session { wpm: self, seen: AHashMap::new() }
    }

    /// The characters of a text as llama.cpp prepares them: where accents go, each character becomes the first of its
    /// canonical decomposition, which for a Hangul syllable is its first consonant alone.
    fn prepare(&self, text: &str) -> String {
        let table = Table::get();
        let mut prepared = String::with_capacity(text.len());
        for c in text.chars() {
            let c = if self.strip_accents { base(c) } else { c };
            let flags = table.of(c);
            if flags & SPACE != 0 {
                prepared.push(' ');
            } else if !(c == '\0' || c == '\u{fffd}' || flags & CONTROL != 0 || self.strip_accents && flags & MARK != 0)
            {
                prepared.push(if self.lowercase { c.to_lowercase().next().unwrap_or(c) } else { c });
            }
        }
        prepared
    }

    /// The same as the published tokenizer does it: control characters go, then the text is decomposed and loses its
    /// accents, and then it is made lower case.
    fn prepare_published(&self, text: &str) -> String {
        let table = Table::get();
        let kept = text.chars().filter_map(|c| match c {
            '\t' | '\n' | '\r' => Some(' '),
            '\0' | '\u{fffd}' => None,
            _ if table.of(c) & CONTROL != 0 => None,
            _ if table.of(c) & SPACE != 0 => Some(' '),
            _ => Some(c),
        });
        let stripped: String = if self.strip_accents {
            kept.nfd().filter(|&c| table.of(c) & ACCENT == 0).collect()
        } else {
            kept.collect()
        };
        if self.lowercase { stripped.to_lowercase() } else { stripped }
    }
}

impl Session<'_> {
    /// Appends the ids of a text.
    pub fn encode(&mut self, text: &str, out: &mut Vec<Id>) {
        let table = Table::get();
        let text = if self.wpm.published { self.wpm.prepare_published(text) } else { self.wpm.prepare(text) };
        let mut word = String::new();
        for c in text.chars() {
            let flags = table.of(c);
            if c == ' ' {
                self.word(&mut word, out);
            } else if flags & PUNCTUATION != 0 || u32::from(c) < 0x7f && flags & SYMBOL != 0 || chinese(c) {
                self.word(&mut word, out);
                word.push(c);
                self.word(&mut word, out);
            } else {
                word.push(c);
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
        let too_long = self.wpm.published && word.chars().count() > LONGEST_PUBLISHED;
        while at < text.len() && !too_long {
            match self.wpm.pieces.longest(&text[at..]) {
                Some((len, id)) => {
                    out.push(id);
                    at += len;
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
