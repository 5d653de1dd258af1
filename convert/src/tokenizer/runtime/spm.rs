//! SentencePiece BPE: the pair of neighbours whose union has the highest score is joined, again and again.
//!
//! Joining needs the union to be in the vocabulary. So where no token of the vocabulary has an escaped space behind
//! another character, no pair is ever joined over such a place, and the words of a text are independent: each is
//! encoded once and remembered. Any other vocabulary is encoded text by text, with the same outcome.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;

use ahash::AHashMap;

use gguf::{Error, Result};

use super::tokens::Tokens;
use super::{ESCAPED_SPACE, Id};

/// Words longer than this are not worth remembering.
const LONGEST_WORD: usize = 64;
/// How many words a session remembers at most.
const MOST_WORDS: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Spm {
    words: bool,
}

impl Spm {
    pub fn new(tokens: &Tokens) -> Spm {
        Spm { words: !tokens.texts().any(space_inside) }
    }

    pub fn session<'t>(&self, tokens: &'t Tokens) -> Session<'t> {
        Session {
            tokens,
            words: self.words,
            seen: AHashMap::new(),
            text: String::new(),
            symbols: Vec::new(),
            queue: BinaryHeap::new(),
        }
    }
}

/// One call's working memory.
pub(crate) struct Session<'t> {
    tokens: &'t Tokens,
    words: bool,
    seen: AHashMap<Box<str>, Box<[Id]>>,
    text: String,
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Pair>,
}

/// A stretch of the text that is one token so far, in a doubly linked list. Joined into its left neighbour, it is empty.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    len: usize,
    prev: usize,
    next: usize,
}

/// No neighbour.
const NONE: usize = usize::MAX;

#[derive(PartialEq)]
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Eq for Pair {}

impl Ord for Pair {
    fn cmp(&self, other: &Pair) -> Ordering {
        // Scores that are no numbers are equal to all, as they are where `<` is all that is asked.
        self.score.partial_cmp(&other.score).unwrap_or(Ordering::Equal).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Session<'_> {
    /// Appends the ids of a text, with a space in front of it if so wanted.
    pub fn encode(&mut self, text: &str, prefix: bool, out: &mut Vec<Id>) -> Result<()> {
        let mut escaped = std::mem::take(&mut self.text);
        escaped.clear();
        if prefix {
            escaped.push_str(ESCAPED_SPACE);
        }
        let mut parts = text.split(' ');
        escaped.push_str(parts.next().unwrap_or_default());
        for part in parts {
            escaped.push_str(ESCAPED_SPACE);
            escaped.push_str(part);
        }
        let done = if self.words {
            words(&escaped).try_for_each(|word| self.word(word, out))
        } else {
            self.join(&escaped, out)
        };
        self.text = escaped;
        done
    }

    fn word(&mut self, word: &str, out: &mut Vec<Id>) -> Result<()> {
        if let Some(ids) = self.seen.get(word) {
            out.extend_from_slice(ids);
            return Ok(());
        }
        let from = out.len();
        self.join(word, out)?;
        if word.len() <= LONGEST_WORD && self.seen.len() < MOST_WORDS {
            self.seen.insert(word.into(), out[from..].into());
        }
        Ok(())
    }

    fn join(&mut self, text: &str, out: &mut Vec<Id>) -> Result<()> {
        self.symbols.clear();
        self.queue.clear();
        for (i, (start, c)) in text.char_indices().enumerate() {
            let prev = if i == 0 { NONE } else { i - 1 };
            self.symbols.push(Symbol { start, len: c.len_utf8(), prev, next: i + 1 });
        }
        match self.symbols.last_mut() {
            Some(last) => last.next = NONE,
            None => return Ok(()),
        }
        for right in 1..self.symbols.len() {
            self.consider(text, right - 1, right);
        }
        while let Some(pair) = self.queue.pop() {
            let (left, right) = (self.symbols[pair.left], self.symbols[pair.right]);
            if left.len == 0 || right.len == 0 || left.len + right.len != pair.len {
                continue;
            }
            self.symbols[pair.left].len = pair.len;
            self.symbols[pair.left].next = right.next;
            self.symbols[pair.right].len = 0;
            if right.next != NONE {
                self.symbols[right.next].prev = pair.left;
            }
            self.consider(text, left.prev, pair.left);
            self.consider(text, pair.left, right.next);
        }
        let mut at = 0;
        while at != NONE {
            let symbol = self.symbols[at];
            let range = symbol.start..symbol.start + symbol.len;
            self.emit(text, range, out)?;
            at = symbol.next;
        }
        Ok(())
    }

    fn consider(&mut self, text: &str, left: usize, right: usize) {
        if left == NONE || right == NONE {
            return;
        }
        let (a, b) = (self.symbols[left], self.symbols[right]);
        let len = a.len + b.len;
        if len > self.tokens.longest() {
            return;
        }
        if let Some(id) = self.tokens.id(&text.as_bytes()[a.start..a.start + len]) {
            self.queue.push(Pair { score: self.tokens.score(id), left, right, len });
        }
    }

    fn emit(&self, text: &str, range: Range<usize>, out: &mut Vec<Id>) -> Result<()> {
        let bytes = &text.as_bytes()[range.clone()];
        if let Some(id) = self.tokens.id(bytes) {
            out.push(id);
            return Ok(());
        }
        for &byte in bytes {
            out.push(self.tokens.byte(byte).ok_or_else(|| {
                let c = &text[range.clone()];
                Error::input(format!("the vocabulary has neither '{c}' nor the byte token <0x{byte:02X}> to write it"))
            })?);
        }
        Ok(())
    }
}

/// The words of a text: each begins with the escaped spaces in front of it.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let spaces = rest.len() - rest.trim_start_matches(ESCAPED_SPACE).len();
        let end = rest[spaces..].find(ESCAPED_SPACE).map_or(rest.len(), |at| spaces + at);
        let (word, tail) = rest.split_at(end);
        rest = tail;
        Some(word)
    })
}

/// Whether an escaped space stands behind another character in a text.
pub(super) fn space_inside(text: &[u8]) -> bool {
    let space = ESCAPED_SPACE.as_bytes();
    text.windows(space.len()).enumerate().any(|(at, window)| window == space && at > 0 && !text[..at].ends_with(space))
}
