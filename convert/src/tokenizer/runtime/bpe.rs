//! Byte-level BPE: in each word the pair of neighbours with the lowest rank is joined, again and again.
//!
//! Texts of the vocabulary and of the merges are numbered, so that a join is one look-up of two numbers; words are
//! remembered. Short words search their pairs in line, long ones keep them in a queue: both join the lowest rank, and
//! of equal ones the leftmost.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use ahash::AHashMap;

use gguf::{Error, Metadata, Result};

use super::split::{PreTokenizer, Splitter};
use super::tokens::Tokens;
use super::unicode::{SPACE, Table};
use super::{ESCAPED_SPACE, Id, spm};

/// Words of more symbols than this keep their pairs in a queue.
const SHORT: usize = 48;
/// Words longer than this are not worth remembering.
const LONGEST_WORD: usize = 64;
/// How many words a session remembers at most.
const MOST_WORDS: usize = 1 << 20;

/// The number of a text: the id of a token, or one beyond them.
type Text = u32;
/// A character that neither vocabulary nor merges know.
const UNKNOWN: Text = u32::MAX;

/// The characters that stand for bytes in a byte-level vocabulary.
pub(crate) fn byte_char(byte: u8) -> char {
    let hidden = |b: u8| matches!(b, 0..=0x20 | 0x7f..=0xa0 | 0xad);
    if hidden(byte) {
        // The bytes without a visible character of their own take those from U+0100 on, in order.
        let before = (0..byte).filter(|&b| hidden(b)).count() as u32;
        char::from_u32(256 + before).unwrap_or('\u{fffd}')
    } else {
        char::from(byte)
    }
}

/// The byte that a character of a byte-level vocabulary stands for.
pub(crate) fn char_byte(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// What happens to a text before it is cut into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    /// Spaces are escaped.
    Escaped,
    /// White space is dropped, and what lies between is independent.
    Dropped {
        lowercase: bool,
    },
    /// Between `<dna>` and `</dna>`, six bases at a time are a token.
    Dna {
        begin: Id,
        end: Id,
        other: Id,
    },
}

/// A text made ready for its words, or a token that it became.
#[derive(Debug)]
pub(crate) enum Part<'t> {
    Text(Cow<'t, str>),
    Token(Id),
}

/// What sets tokens for six bases apart from ordinary ones of the same letters.
pub(crate) const BASES_MARK: &str = "\u{e000}";

impl Style {
    /// The parts of a text.
    pub fn prepare<'t>(self, text: &'t str, tokens: &Tokens) -> Vec<Part<'t>> {
        match self {
            Style::Plain => vec![Part::Text(Cow::Borrowed(text))],
            Style::Escaped => vec![Part::Text(Cow::Owned(text.replace(' ', ESCAPED_SPACE)))],
            Style::Dropped { lowercase } => {
                let table = Table::get();
                let words = text.split(|c| table.of(c) & SPACE != 0).filter(|word| !word.is_empty());
                let lower = |word: &str| word.chars().map(|c| c.to_lowercase().next().unwrap_or(c)).collect();
                words
                    .map(|word| Part::Text(if lowercase { Cow::Owned(lower(word)) } else { Cow::Borrowed(word) }))
                    .collect()
            }
            Style::Dna { begin, end, other } => {
                let (mut parts, mut rest) = (Vec::new(), text);
                let text = |text: &'t str| (!text.is_empty()).then_some(Part::Text(Cow::Borrowed(text)));
                while let Some((before, after)) = rest.split_once("<dna>") {
                    parts.extend(text(before));
                    parts.push(Part::Token(begin));
                    let (bases, after) = after.split_once("</dna>").map_or((after, None), |(b, a)| (b, Some(a)));
                    parts.extend(six_bases(bases).map(|key| Part::Token(tokens.id(&key).unwrap_or(other))));
                    let Some(after) = after else { return parts };
                    parts.push(Part::Token(end));
                    rest = after;
                }
                parts.extend(text(rest));
                parts
            }
        }
    }
}

/// The texts of the tokens for bases, six at a time, the last filled up with A.
fn six_bases(bases: &str) -> impl Iterator<Item = Vec<u8>> {
    const SIX: usize = 6;
    bases.as_bytes().chunks(SIX).map(|six| {
        let mut key = six.to_ascii_uppercase();
        key.resize(SIX, b'A');
        key.extend_from_slice(BASES_MARK.as_bytes());
        key
    })
}

#[derive(Debug)]
pub(crate) struct Bpe {
    /// Pairs of texts with their rank and the text they join to.
    merges: AHashMap<(Text, Text), (u32, Text)>,
    /// Numbers of texts that are no tokens.
    others: AHashMap<Box<[u8]>, Text>,
    /// What is written for each of those texts.
    fallbacks: Vec<Box<[Id]>>,
    /// The text of each byte.
    bytes: [Text; 256],
    splitter: Splitter,
    style: Style,
    /// Words are byte-level, not plain UTF-8.
    encoded: bool,
    /// No merge makes a text with an escaped space inside: words are independent within what is cut.
    words: bool,
    ignore_merges: bool,
    whole_lines: bool,
    tokens: u32,
}

impl Bpe {
    pub fn new(metadata: &Metadata, tokens: &Tokens, pre: &PreTokenizer, style: Style, published: bool) -> Result<Bpe> {
        let merges = metadata
            .get("tokenizer.ggml.merges")
            .ok_or_else(|| Error::input("the metadata has no tokenizer.ggml.merges, which a BPE vocabulary needs"));
        // Kimi's vocabulary comes without merges.
        let merges = match merges {
            Err(_) if metadata.str("tokenizer.ggml.pre") == Some("kimi-k2") => None,
            other => {
                Some(other?.as_array().ok_or_else(|| Error::input("tokenizer.ggml.merges is no array of strings"))?)
            }
        };
        let mut bpe = Bpe {
            merges: AHashMap::with_capacity(merges.map_or(0, |m| m.len() as usize)),
            others: AHashMap::new(),
            fallbacks: Vec::new(),
            bytes: [UNKNOWN; 256],
            splitter: pre.splitter(published)?,
            style,
            encoded: !pre.plain,
            words: pre.escaped,
            ignore_merges: pre.ignore_merges,
            whole_lines: pre.whole_lines,
            tokens: tokens.len() as u32,
        };
        let mut joined = Vec::new();
        if let Some(merges) = merges {
            let list =
                merges.iter_bytes().ok_or_else(|| Error::input("tokenizer.ggml.merges is no array of strings"))?;
            for (rank, merge) in list.enumerate() {
                // The space between the parts is the first that is not the first character.
                let Some(space) = merge.iter().skip(1).position(|&b| b == b' ') else { continue };
                let (first, second) = (&merge[..space + 1], &merge[space + 2..]);
                let pair = (bpe.number(first, tokens), bpe.number(second, tokens));
                joined.clear();
                joined.extend_from_slice(first);
                joined.extend_from_slice(second);
                bpe.words &= !spm::space_inside(&joined);
                let both = bpe.number(&joined, tokens);
                bpe.merges.entry(pair).or_insert((rank as u32, both));
            }
        }
        for byte in 0..=255_u8 {
            bpe.bytes[usize::from(byte)] = bpe.number(byte_char(byte).encode_utf8(&mut [0; 4]).as_bytes(), tokens);
        }
        Ok(bpe)
    }

    fn number(&mut self, text: &[u8], tokens: &Tokens) -> Text {
        if let Some(id) = tokens.id(text) {
            return id;
        }
        if let Some(&number) = self.others.get(text) {
            return number;
        }
        let number = self.tokens + self.fallbacks.len() as u32;
        self.fallbacks.push(fallback(text, self.encoded, tokens));
        self.others.insert(text.into(), number);
        number
    }

    /// What happens to texts first.
    pub fn style(&self) -> Style {
        self.style
    }

    pub fn session<'t>(&'t self, tokens: &'t Tokens) -> Session<'t> {
        Session {
            bpe: self,
            tokens,
            seen: AHashMap::new(),
            ids: Vec::new(),
            encoded: String::new(),
            work: Work::default(),
        }
    }
}

/// What stands for a text that is no token: the tokens of its bytes, as far as there are any.
fn fallback(text: &[u8], encoded: bool, tokens: &Tokens) -> Box<[Id]> {
    let byte = |&byte: &u8| {
        if encoded { tokens.id(&[byte]) } else { tokens.id(format!("<0x{byte:02X}>").as_bytes()) }
    };
    text.iter().filter_map(byte).collect()
}

/// One call's working memory.
pub(crate) struct Session<'t> {
    bpe: &'t Bpe,
    tokens: &'t Tokens,
    seen: AHashMap<&'t str, (usize, usize)>,
    ids: Vec<Id>,
    encoded: String,
    work: Work,
}

/// A pair's rank, the places of both, their texts, and what they join to.
type Pair = (u32, usize, usize, Text, Text, Text);

#[derive(Default)]
struct Work {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Pair>>,
}

#[derive(Clone, Copy)]
struct Symbol {
    text: Text,
    /// Where it begins in the word, for what has no number.
    start: usize,
    prev: usize,
    next: usize,
    /// The rank of the pair it makes with the next one, and what they join to.
    pair: Option<(u32, Text)>,
}

const NONE: usize = usize::MAX;
/// A symbol that was joined into its left neighbour.
const GONE: Text = u32::MAX - 1;

impl<'t> Session<'t> {
    /// Appends the ids of a text.
    pub fn encode(&mut self, text: &'t str, out: &mut Vec<Id>) -> Result<()> {
        let bpe = self.bpe;
        bpe.splitter.split(text, &mut |word| {
            if bpe.words && !bpe.ignore_merges {
                spm::words(word).for_each(|word| self.word(word, out));
            } else {
                self.word(word, out);
            }
            Ok(())
        })
    }

    fn word(&mut self, word: &'t str, out: &mut Vec<Id>) {
        if let Some(&(from, to)) = self.seen.get(word) {
            out.extend_from_slice(&self.ids[from..to]);
            return;
        }
        let from = out.len();
        self.join(word, out);
        if word.len() <= LONGEST_WORD && self.seen.len() < MOST_WORDS {
            let start = self.ids.len();
            self.ids.extend_from_slice(&out[from..]);
            self.seen.insert(word, (start, self.ids.len()));
        }
    }

    fn whole(&mut self, word: &str) -> Option<Id> {
        if !self.bpe.encoded {
            return self.tokens.id(word.as_bytes());
        }
        if word.len() > self.tokens.longest() {
            return None;
        }
        self.encoded.clear();
        self.encoded.extend(word.bytes().map(byte_char));
        self.tokens.id(self.encoded.as_bytes())
    }

    fn join(&mut self, word: &str, out: &mut Vec<Id>) {
        let lines = self.bpe.whole_lines && word.bytes().all(|b| b == b'\n');
        if (self.bpe.ignore_merges || lines)
            && let Some(id) = self.whole(word)
        {
            out.push(id);
            return;
        }
        let mut symbols = std::mem::take(&mut self.work.symbols);
        symbols.clear();
        let symbol = |text, start| Symbol { text, start, prev: NONE, next: NONE, pair: None };
        if self.bpe.encoded {
            symbols.extend(word.bytes().enumerate().map(|(i, b)| symbol(self.bpe.bytes[usize::from(b)], i)));
        } else {
            symbols.extend(word.char_indices().map(|(i, c)| {
                let mut utf8 = [0; 4];
                let bytes = c.encode_utf8(&mut utf8).as_bytes();
                let known = self.tokens.id(bytes).or_else(|| self.bpe.others.get(bytes).copied());
                symbol(known.unwrap_or(UNKNOWN), i)
            }));
        }
        if symbols.len() <= SHORT {
            self.join_short(&mut symbols)
        } else {
            self.join_long(&mut symbols)
        }
        for (i, symbol) in symbols.iter().enumerate() {
            match symbol.text {
                GONE => {}
                UNKNOWN => {
                    let end = symbols.get(i + 1).map_or(word.len(), |next| next.start);
                    out.extend_from_slice(&fallback(
                        &word.as_bytes()[symbol.start..end],
                        self.bpe.encoded,
                        self.tokens,
                    ));
                }
                text if text < self.bpe.tokens => out.push(text),
                text => out.extend_from_slice(&self.bpe.fallbacks[(text - self.bpe.tokens) as usize]),
            }
        }
        self.work.symbols = symbols;
    }

    fn pair(&self, left: Text, right: Text) -> Option<(u32, Text)> {
        self.bpe.merges.get(&(left, right)).copied()
    }

    fn join_short(&self, symbols: &mut Vec<Symbol>) {
        for i in 1..symbols.len() {
            symbols[i - 1].pair = self.pair(symbols[i - 1].text, symbols[i].text);
        }
        loop {
            let mut best: Option<(usize, (u32, Text))> = None;
            for (i, symbol) in symbols.iter().enumerate() {
                if let Some(pair) = symbol.pair
                    && best.is_none_or(|(_, (rank, _))| pair.0 < rank)
                {
                    best = Some((i, pair));
                }
            }
            let Some((i, (_, joined))) = best else { return };
            symbols[i].text = joined;
            symbols.remove(i + 1);
            symbols[i].pair = symbols.get(i + 1).and_then(|next| self.pair(joined, next.text));
            if i > 0 {
                symbols[i - 1].pair = self.pair(symbols[i - 1].text, joined);
            }
        }
    }

    fn join_long(&mut self, symbols: &mut [Symbol]) {
        let mut queue = std::mem::take(&mut self.work.queue);
        queue.clear();
        let last = symbols.len() - 1;
        for (i, symbol) in symbols.iter_mut().enumerate() {
            symbol.prev = if i == 0 { NONE } else { i - 1 };
            symbol.next = if i == last { NONE } else { i + 1 };
        }
        let consider = |symbols: &[Symbol], left: usize, right: usize, queue: &mut BinaryHeap<_>| {
            if left != NONE && right != NONE {
                let (a, b) = (symbols[left].text, symbols[right].text);
                if let Some((rank, joined)) = self.pair(a, b) {
                    queue.push(Reverse((rank, left, right, a, b, joined)));
                }
            }
        };
        for right in 1..symbols.len() {
            consider(symbols, right - 1, right, &mut queue);
        }
        while let Some(Reverse((_, left, right, a, b, joined))) = queue.pop() {
            // A pair that has changed since it was noted is no pair any more.
            if symbols[left].text != a || symbols[right].text != b {
                continue;
            }
            let next = symbols[right].next;
            symbols[left].text = joined;
            symbols[left].next = next;
            symbols[right].text = GONE;
            if next != NONE {
                symbols[next].prev = left;
            }
            consider(symbols, symbols[left].prev, left, &mut queue);
            consider(symbols, left, next, &mut queue);
        }
        self.work.queue = queue;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_characters_are_one_to_one() {
        for byte in 0..=255 {
            assert_eq!(char_byte(byte_char(byte)), Some(byte));
        }
        assert_eq!(byte_char(b' '), 'Ġ');
        assert_eq!(byte_char(b'\n'), 'Ċ');
        assert_eq!(char_byte(' '), None);
        assert_eq!(char_byte('ń'), None);
    }
}
