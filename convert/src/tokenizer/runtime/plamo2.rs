//! PLaMo-2: of all ways to write a text with tokens, the one with the greatest sum of scores, found from the end on;
//! what no token fits is written as its bytes.

use gguf::{Error, Result};

use super::Id;
use super::tokens::{Attr, Tokens, byte_of};
use super::trie::Trie;

/// The score of a character that is written as bytes, in the vocabulary's ten-thousandths.
const UNKNOWN: i64 = -10_000_000;
/// A token with this score or less is not used.
const INVALID: i64 = -20_000_000;

#[derive(Debug)]
pub(crate) struct Plamo2 {
    tokens: Trie,
    bytes: [Id; 256],
    scores: Vec<i64>,
}

impl Plamo2 {
    pub fn new(tokens: &Tokens) -> Result<Plamo2> {
        let mut bytes = [0; 256];
        let mut texts = Vec::with_capacity(tokens.len());
        let mut scores = vec![INVALID; tokens.len()];
        for (id, text) in tokens.texts().enumerate() {
            if !tokens.attr(id as Id).any(Attr::BYTE) {
                texts.push((text, id as Id));
                let score = f64::from(tokens.score(id as Id));
                scores[id] = if score.is_finite() { (score * 1e4).round() as i64 } else { INVALID };
            } else if let Some(byte) = byte_of(text)
                && text.len() == 6
            {
                bytes[usize::from(byte)] = id as Id;
            }
        }
        if let Some(byte) = bytes.iter().position(|&id| id == 0) {
            return Err(Error::input(format!("the vocabulary has no token for the byte <0x{byte:02X}>")));
        }
        Ok(Plamo2 { tokens: Trie::new(texts), bytes, scores })
    }

    /// Appends the ids of a text.
    pub fn encode(&self, text: &str, out: &mut Vec<Id>) {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        // The best way from each place to the end: its cost, the length of its first token, and that token.
        let mut best: Vec<(i64, usize, Option<Id>)> = vec![(i64::MAX, 0, None); text.len() + 1];
        best[text.len()].0 = 0;
        let mut fits: Vec<(usize, Id)> = Vec::new();
        for (at, c) in text.char_indices().rev() {
            fits.clear();
            fits.extend(
                self.tokens.prefixes(&text.as_bytes()[at..]).filter(|(len, _)| text.is_char_boundary(at + len)),
            );
            let mut found = (i64::MAX, 0, None);
            let mut consider = |score: i64, len: usize, id: Option<Id>| {
                let cost = best[at + len].0.saturating_sub(score);
                if score > INVALID && cost < found.0 {
                    found = (cost, len, id);
                }
            };
            // The longest first, and of equal costs the first counts. A token that scores as what is unknown ends the
            // list as that does.
            let mut known = true;
            for &(len, id) in fits.iter().rev() {
                let score = self.scores[id as usize];
                consider(score, len, Some(id));
                known = score != UNKNOWN;
                if !known {
                    break;
                }
            }
            if known {
                consider(UNKNOWN, c.len_utf8(), None);
            }
            best[at] = found;
        }
        let mut at = 0;
        while at < text.len() {
            let (_, len, id) = best[at];
            match id {
                Some(id) => out.push(id),
                None => out.extend(text.as_bytes()[at..at + len].iter().map(|&b| self.bytes[usize::from(b)])),
            }
            at += len;
        }
    }
}
