//! Unigram: of all ways to write a text with tokens, the one with the greatest sum of scores, found by Viterbi's
//! algorithm over the normalized text.

use gguf::{Error, Metadata, Result, Value};

use super::tokens::{Attr, Tokens};
use super::trie::Trie;
use super::{ESCAPED_SPACE, Id, Settings};

/// How much worse than the worst token an unknown character is.
const UNKNOWN_PENALTY: f32 = 10.0;

#[derive(Debug)]
pub(crate) struct Ugm {
    /// The tokens that a text can be written with.
    matcher: Trie,
    /// Those of user-defined tokens, which normalization leaves alone.
    user_defined: Trie,
    charsmap: Option<Charsmap>,
    unknown: Id,
    unknown_score: f32,
}

impl Ugm {
    pub fn new(metadata: &Metadata, tokens: &Tokens, unknown: Id) -> Result<Ugm> {
        let ids = |wanted: Attr| (0..tokens.len() as Id).filter(move |&id| tokens.attr(id).any(wanted));
        let lowest = ids(Attr::NORMAL)
            .map(|id| tokens.score(id))
            .fold(f32::MAX, |low, score| if score < low { score } else { low });
        Ok(Ugm {
            matcher: Trie::of(ids(Attr::NORMAL | Attr::USER_DEFINED | Attr::UNUSED), tokens),
            user_defined: Trie::of(ids(Attr::USER_DEFINED), tokens),
            charsmap: Charsmap::load(metadata)?,
            unknown,
            unknown_score: lowest - UNKNOWN_PENALTY,
        })
    }

    /// Appends the ids of a text.
    pub fn encode(&self, text: &str, tokens: &Tokens, settings: &Settings, out: &mut Vec<Id>) -> Result<()> {
        let text = self.normalize(text, settings)?;
        // The best way to each place: its last token, where that began, and its score.
        let mut best: Vec<(Id, usize, f64)> = vec![(self.unknown, 0, f64::MIN); text.len() + 1];
        best[0].2 = 0.0;
        let improve = |slot: &mut (Id, usize, f64), id: Id, from: usize, score: f64| {
            if score > slot.2 {
                *slot = (id, from, score);
            }
        };
        let mut at = 0;
        while at < text.len() {
            let score = best[at].2;
            let len = utf8_len(text[at]).min(text.len() - at);
            let mut single = false;
            for (depth, id) in self.matcher.prefixes(&text[at..]) {
                single |= depth == len;
                let user_defined = tokens.attr(id).any(Attr::USER_DEFINED);
                let token = if user_defined { 0.0 } else { f64::from(tokens.score(id)) };
                improve(&mut best[at + depth], id, at, score + token);
            }
            if !single {
                improve(&mut best[at + len], self.unknown, at, score + f64::from(self.unknown_score));
            }
            at += len;
        }
        let from = out.len();
        let mut at = text.len();
        let mut after_unknown = false;
        while at > 0 {
            let (id, start, _) = best[at];
            let unknown = id == self.unknown;
            // Unknown characters in a row are one unknown token.
            if !(unknown && after_unknown) {
                out.push(id);
            }
            after_unknown = unknown;
            at = start;
        }
        out[from..].reverse();
        Ok(())
    }

    fn normalize(&self, text: &str, settings: &Settings) -> Result<Vec<u8>> {
        let space: &[u8] = if settings.escape_whitespaces { ESCAPED_SPACE.as_bytes() } else { b" " };
        let bytes = text.as_bytes();
        let mut out = Vec::with_capacity(bytes.len() * 2);
        let (mut prepended, mut in_word) = (false, false);
        let mut at = 0;
        while at < bytes.len() {
            let (piece, consumed) = self.normalize_prefix(text, at)?;
            for &byte in piece {
                if byte != b' ' {
                    if !in_word {
                        in_word = true;
                        if settings.add_space_prefix && !prepended || settings.remove_extra_whitespaces {
                            out.extend_from_slice(space);
                            prepended = true;
                        }
                    }
                    out.push(byte);
                } else {
                    in_word = false;
                    if !settings.remove_extra_whitespaces {
                        out.extend_from_slice(space);
                    }
                }
            }
            at += consumed;
        }
        Ok(out)
    }

    /// What the text at a place becomes, and how many of its bytes that takes.
    fn normalize_prefix<'t>(&'t self, text: &'t str, at: usize) -> Result<(&'t [u8], usize)> {
        let rest = &text.as_bytes()[at..];
        if let Some((longest, _)) = self.user_defined.longest(rest) {
            return Ok((&rest[..longest], longest));
        }
        if let Some(charsmap) = &self.charsmap
            && let Some(found) = charsmap.longest(rest)?
        {
            return Ok(found);
        }
        // A character map may end inside a character; then a byte at a time is replaced until the next begins.
        if !text.is_char_boundary(at) {
            return Ok(("\u{fffd}".as_bytes(), 1));
        }
        let len = utf8_len(rest[0]).min(rest.len());
        Ok((&rest[..len], len))
    }
}

fn utf8_len(lead: u8) -> usize {
    match lead {
        0..0xc0 => 1,
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    }
}

/// SentencePiece's character map: a double array of prefixes that leads to their replacements.
///
/// A node of 32 bits holds the offset of its children in its bits 10 to 30 (shifted by 8 where bit 9 is set), the byte
/// that leads to it in bits 0 to 7, and in bit 8 whether a replacement hangs on it; a node with bit 31 holds the place
/// of a replacement.
#[derive(Debug)]
pub(crate) struct Charsmap {
    nodes: Vec<u32>,
    replacements: Vec<u8>,
}

impl Charsmap {
    fn load(metadata: &Metadata) -> Result<Option<Charsmap>> {
        const KEY: &str = "tokenizer.ggml.precompiled_charsmap";
        let Some(value) = metadata.get(KEY) else { return Ok(None) };
        let bytes: Option<Vec<u8>> = value.as_array().and_then(|array| {
            array
                .iter()
                .map(|item| match item {
                    Value::U8(b) => Some(b),
                    Value::I8(b) => Some(b as u8),
                    _ => None,
                })
                .collect()
        });
        let bytes = bytes.ok_or_else(|| Error::input(format!("{KEY} is no array of bytes")))?;
        Charsmap::parse(&bytes).map(Some).map_err(|e| e.about(KEY))
    }

    /// Takes a map apart: the bytes of its nodes, the nodes, the replacements.
    pub fn parse(bytes: &[u8]) -> Result<Charsmap> {
        let short = || Error::input("the character map is cut short");
        let (len, rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
        let (nodes, replacements) = rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(short)?;
        if replacements.is_empty() {
            return Err(short());
        }
        let nodes = nodes.as_chunks::<4>().0.iter().map(|n| u32::from_le_bytes(*n)).collect();
        Ok(Charsmap { nodes, replacements: replacements.to_vec() })
    }

    fn node(&self, index: u32) -> Result<u32> {
        self.nodes.get(index as usize).copied().ok_or_else(|| Error::input("the character map points out of itself"))
    }

    /// The replacement of the longest prefix that has one, with the prefix's length.
    pub fn longest(&self, text: &[u8]) -> Result<Option<(&[u8], usize)>> {
        let base = |node: u32| (node >> 10) << ((node & (1 << 9)) >> 6);
        if self.nodes.is_empty() {
            return Ok(None);
        }
        let mut index = base(self.node(0)?);
        let mut found = None;
        for (i, &byte) in text.iter().enumerate() {
            if byte == 0 {
                break;
            }
            index ^= u32::from(byte);
            let node = self.node(index)?;
            if node & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            index ^= base(node);
            if node >> 8 & 1 == 1 {
                found = Some((self.node(index)? & 0x7fff_ffff, i + 1));
            }
        }
        let Some((place, len)) = found else { return Ok(None) };
        let rest = self.replacements.get(place as usize..).unwrap_or_default();
        let end = rest
            .iter()
            .position(|&b| b == 0)
            .ok_or_else(|| Error::input("a replacement of the character map has no end"))?;
        Ok(Some((&rest[..end], len)))
    }
}
