//! Vocabularies that come with Python code instead of a tokenizer's file: what that code does with them.

use std::path::Path;

use ahash::AHashMap;

use gguf::{Error, Result};

use crate::tokenizer::vocab::{TokenType, Vocab};
use crate::tokenizer::{plamo, rwkv};

/// RWKV's: from the left, the longest token that fits.
pub(super) struct Longest {
    ids: AHashMap<Vec<u8>, u32>,
    longest: usize,
}

impl Longest {
    pub fn open(dir: &Path) -> Result<Option<Longest>> {
        let Some(tokens) = rwkv::tokens(dir)? else { return Ok(None) };
        let longest = tokens.iter().map(Vec::len).max().unwrap_or(0);
        Ok(Some(Longest { ids: tokens.into_iter().zip(1..).collect(), longest }))
    }

    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let (mut ids, mut rest) = (Vec::new(), text.as_bytes());
        while !rest.is_empty() {
            let fits =
                (1..=rest.len().min(self.longest)).rev().find_map(|len| Some((len, *self.ids.get(&rest[..len])?)));
            let (len, id) = fits.ok_or_else(|| {
                Error::input(format!("no token of the vocabulary begins with the byte 0x{:02x}", rest[0]))
            })?;
            ids.push(id);
            rest = &rest[len..];
        }
        Ok(ids)
    }
}

/// PLaMo's: the greatest sum of scores, from the end on, the longest of equal ones first.
pub(super) struct Best {
    tokens: AHashMap<Vec<char>, (u32, i64)>,
    bytes: Vec<u32>,
    longest: usize,
}

impl Best {
    pub fn open(dir: &Path) -> Result<Option<Best>> {
        Ok(plamo::tokens(dir)?.map(|vocab| Best::new(&vocab)))
    }

    fn new(vocab: &Vocab) -> Best {
        let (mut tokens, mut bytes) = (AHashMap::new(), vec![0; 256]);
        for (id, ((text, score), kind)) in (0..).zip(vocab.texts.iter().zip(&vocab.scores).zip(&vocab.types)) {
            let text = String::from_utf8_lossy(text);
            if *kind == TokenType::Byte {
                let byte = text.get(3..5).and_then(|digits| usize::from_str_radix(digits, 16).ok());
                if let Some(slot) = byte.and_then(|byte| bytes.get_mut(byte)) {
                    *slot = id;
                }
            } else if score.is_finite() {
                tokens.insert(text.chars().collect(), (id, (f64::from(*score) * 1e4).round() as i64));
            }
        }
        let longest = tokens.keys().map(Vec::len).max().unwrap_or(0);
        Best { tokens, bytes, longest }
    }

    pub fn encode(&self, text: &str) -> Vec<u32> {
        /// What a character costs that is written as bytes.
        const UNKNOWN: i64 = 10_000_000;
        let chars: Vec<char> = text.chars().skip_while(|&c| c == '\u{feff}').collect();
        let mut costs = vec![0_i64; chars.len() + 1];
        let mut first: Vec<(usize, Option<u32>)> = vec![(1, None); chars.len()];
        for at in (0..chars.len()).rev() {
            costs[at] = i64::MAX;
            for len in (1..=self.longest.min(chars.len() - at)).rev() {
                if let Some(&(id, score)) = self.tokens.get(&chars[at..at + len])
                    && costs[at + len] - score < costs[at]
                {
                    costs[at] = costs[at + len] - score;
                    first[at] = (len, Some(id));
                }
            }
            if costs[at + 1] + UNKNOWN < costs[at] {
                costs[at] = costs[at + 1] + UNKNOWN;
                first[at] = (1, None);
            }
        }
        let (mut ids, mut at) = (Vec::new(), 0);
        while at < chars.len() {
            match first[at] {
                (_, Some(id)) => ids.push(id),
                (_, None) => {
                    let mut utf8 = [0; 4];
                    ids.extend(chars[at].encode_utf8(&mut utf8).bytes().map(|b| self.bytes[usize::from(b)]));
                }
            }
            at += first[at].0;
        }
        ids
    }
}
