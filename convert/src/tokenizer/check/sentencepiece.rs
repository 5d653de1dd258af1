//! SentencePiece's algorithms as the model file specifies them, written here a second time so that they do not share the
//! faults of those that the converted tokenizer runs.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::path::Path;

use ahash::AHashMap;
use serde_json::Value;

use gguf::{Error, Result};

use crate::tokenizer::folder;
use crate::tokenizer::runtime::{Charsmap, ESCAPED_SPACE};
use crate::tokenizer::sentencepiece::{Model, ModelType, PieceType};

/// SentencePiece as the model file specifies it.
pub(super) struct SentencePiece {
    pub model: Model,
    ids: AHashMap<Vec<u8>, u32>,
    /// Pieces that are taken whole wherever they stand, the longest first.
    whole: Vec<(String, u32)>,
    charsmap: Option<Charsmap>,
    bytes: Vec<Option<u32>>,
    pub unknown: u32,
    unknown_score: f32,
    best_score: f32,
    longest: usize,
    prefix: bool,
}

impl SentencePiece {
    pub fn new(dir: &Path, model: Model, prefix: bool) -> Result<SentencePiece> {
        let mut ids = AHashMap::new();
        let mut whole = Vec::new();
        let mut bytes = vec![None; 256];
        let (mut unknown, mut low, mut high) = (0, f32::MAX, f32::MIN);
        for (id, piece) in model.pieces.iter().enumerate() {
            let id = id as u32;
            match piece.kind {
                PieceType::Normal | PieceType::UserDefined | PieceType::Unused => {
                    ids.insert(piece.text.clone(), id);
                }
                PieceType::Unknown => unknown = id,
                PieceType::Byte => {
                    if let Some(byte) = piece
                        .text
                        .get(3..5)
                        .and_then(|d| std::str::from_utf8(d).ok())
                        .and_then(|d| u8::from_str_radix(d, 16).ok())
                    {
                        bytes[usize::from(byte)] = Some(id);
                    }
                }
                PieceType::Control => {}
            }
            if piece.kind == PieceType::Normal {
                low = low.min(piece.score);
                high = high.max(piece.score);
            }
            if piece.kind == PieceType::UserDefined
                && let Ok(text) = std::str::from_utf8(&piece.text)
            {
                whole.push((text.replace(ESCAPED_SPACE, " "), id));
            }
        }
        for (text, id) in added_tokens(dir)? {
            if !ids.contains_key(text.as_bytes()) {
                whole.push((text, id));
            }
        }
        whole.retain(|(text, _): &(String, u32)| !text.is_empty());
        whole.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        let charsmap = if model.charsmap.is_empty() {
            None
        } else {
            Some(Charsmap::parse(&model.charsmap).map_err(|e| e.at(&model.path))?)
        };
        if matches!(model.model_type, ModelType::Word | ModelType::Char) {
            return Err(Error::input(format!(
                "a SentencePiece model of type {:?} cannot be checked",
                model.model_type
            ))
            .at(&model.path));
        }
        let longest = model.pieces.iter().map(|p| p.text.len()).max().unwrap_or(0);
        Ok(SentencePiece {
            model,
            ids,
            whole,
            charsmap,
            bytes,
            unknown,
            unknown_score: low - 10.0,
            best_score: high,
            longest,
            prefix,
        })
    }

    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut parts = self.normalize(text)?;
        let mut ids = Vec::new();
        for part in parts.drain(..) {
            match part {
                Part::Whole(id) => ids.push(id),
                Part::Text(text) if self.model.model_type == ModelType::Bpe => self.bpe(&text, &mut ids),
                Part::Text(text) => self.unigram(&text, &mut ids),
            }
        }
        Ok(ids)
    }

    /// The text with characters mapped, spaces escaped, and user-defined pieces taken out.
    fn normalize(&self, text: &str) -> Result<Vec<Part>> {
        let mut parts: Vec<Part> = Vec::new();
        let mut current = String::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some((piece, id)) = self.whole.iter().find(|(piece, _)| rest.starts_with(piece.as_str())) {
                if !current.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut current)));
                }
                parts.push(Part::Whole(*id));
                rest = &rest[piece.len()..];
                continue;
            }
            let mapped = match &self.charsmap {
                Some(map) => map.longest(rest.as_bytes())?,
                None => None,
            };
            match mapped {
                Some((with, len)) if rest.is_char_boundary(len) => {
                    current.push_str(&String::from_utf8_lossy(with));
                    rest = &rest[len..];
                }
                _ => {
                    current.extend(rest.chars().next());
                    rest = rest.get(rest.chars().next().map_or(1, char::len_utf8)..).unwrap_or_default();
                }
            }
        }
        if !current.is_empty() {
            parts.push(Part::Text(current));
        }
        let first = parts.first().is_some_and(|p| matches!(p, Part::Text(_)));
        for (i, part) in parts.iter_mut().enumerate() {
            if let Part::Text(text) = part {
                if self.model.remove_extra_whitespaces {
                    let words: Vec<&str> = text.split(' ').filter(|w| !w.is_empty()).collect();
                    *text = words.join(" ");
                }
                if self.prefix && i == 0 && first && !(self.model.remove_extra_whitespaces && text.is_empty()) {
                    text.insert(if self.model.treat_whitespace_as_suffix { text.len() } else { 0 }, ' ');
                }
                *text = text.replace(' ', ESCAPED_SPACE);
            }
        }
        Ok(parts)
    }

    fn bpe(&self, text: &str, out: &mut Vec<u32>) {
        // Spans of the text, linked; a span of no length was joined to its left.
        let mut spans: Vec<[usize; 2]> = text.char_indices().map(|(i, c)| [i, i + c.len_utf8()]).collect();
        let n = spans.len();
        let mut next: Vec<usize> = (1..=n).collect();
        let mut before: Vec<usize> = (0..n).map(|i| i.wrapping_sub(1)).collect();
        let mut halves: AHashMap<&str, usize> = AHashMap::new();
        let mut heap = BinaryHeap::new();
        let score = |from: usize, to: usize| {
            if to - from > self.longest {
                return None;
            }
            self.ids.get(&text.as_bytes()[from..to]).map(|&id| self.model.pieces[id as usize].score)
        };
        for i in 1..n {
            if let Some(score) = score(spans[i - 1][0], spans[i][1]) {
                heap.push(Join { score, left: i - 1, from: spans[i - 1][0], middle: spans[i][0], to: spans[i][1] });
            }
        }
        while let Some(join) = heap.pop() {
            let (left, right) = (join.left, next[join.left]);
            if right >= n || spans[left] != [join.from, join.middle] || spans[right] != [join.middle, join.to] {
                continue;
            }
            halves.insert(&text[join.from..join.to], join.middle - join.from);
            spans[left][1] = join.to;
            spans[right] = [join.to, join.to];
            next[left] = next[right];
            if next[right] < n {
                before[next[right]] = left;
            }
            let neighbours = [(before[left], left), (left, next[left])];
            for (a, b) in neighbours {
                if a < n
                    && b < n
                    && let Some(score) = score(spans[a][0], spans[b][1])
                {
                    heap.push(Join { score, left: a, from: spans[a][0], middle: spans[b][0], to: spans[b][1] });
                }
            }
        }
        let mut at = 0;
        while at < n {
            self.piece(&text[spans[at][0]..spans[at][1]], &halves, out);
            at = next[at];
        }
    }

    /// Writes a joined piece; one that is unused is taken apart again.
    fn piece(&self, text: &str, halves: &AHashMap<&str, usize>, out: &mut Vec<u32>) {
        match self.ids.get(text.as_bytes()) {
            Some(&id) if self.model.pieces[id as usize].kind != PieceType::Unused => out.push(id),
            known => match halves.get(text) {
                Some(&middle) => {
                    self.piece(&text[..middle], halves, out);
                    self.piece(&text[middle..], halves, out);
                }
                None => match known {
                    Some(&id) => out.push(id),
                    None => self.unwritten(text, out),
                },
            },
        }
    }

    /// A character without a piece: its bytes, or unknown.
    fn unwritten(&self, text: &str, out: &mut Vec<u32>) {
        let bytes: Option<Vec<u32>> = text.bytes().map(|b| self.bytes[usize::from(b)]).collect();
        match bytes {
            Some(ids) => out.extend(ids),
            None if out.last() == Some(&self.unknown) => {}
            None => out.push(self.unknown),
        }
    }

    fn unigram(&self, text: &str, out: &mut Vec<u32>) {
        let mut best: Vec<Option<(f64, usize, Option<u32>)>> = vec![None; text.len() + 1];
        best[0] = Some((0.0, 0, None));
        for (at, c) in text.char_indices() {
            let Some((so_far, ..)) = best[at] else { continue };
            let mut single = false;
            let mut offer = |to: usize, score: f64, id: Option<u32>| {
                if best[to].is_none_or(|(s, ..)| so_far + score > s) {
                    best[to] = Some((so_far + score, at, id));
                }
            };
            for to in at + 1..=text.len().min(at + self.longest) {
                let Some(&id) = self.ids.get(&text.as_bytes()[at..to]) else { continue };
                let piece = &self.model.pieces[id as usize];
                let score = match piece.kind {
                    PieceType::Unused => continue,
                    PieceType::UserDefined => (to - at) as f64 * f64::from(self.best_score) - 0.1,
                    _ => f64::from(piece.score),
                };
                single |= to == at + c.len_utf8();
                offer(to, score, Some(id));
            }
            if !single {
                offer(at + c.len_utf8(), f64::from(self.unknown_score), None);
            }
        }
        let mut path = Vec::new();
        let mut at = text.len();
        while at > 0 {
            let Some((_, from, id)) = best[at] else { break };
            path.push((from, at, id));
            at = from;
        }
        for (from, to, id) in path.into_iter().rev() {
            match id {
                Some(id) => out.push(id),
                None => self.unwritten(&text[from..to], out),
            }
        }
    }
}

enum Part {
    Text(String),
    Whole(u32),
}

#[derive(PartialEq)]
struct Join {
    score: f32,
    left: usize,
    from: usize,
    middle: usize,
    to: usize,
}

impl Eq for Join {}

impl Ord for Join {
    fn cmp(&self, other: &Join) -> Ordering {
        self.score.total_cmp(&other.score).then(other.from.cmp(&self.from))
    }
}

impl PartialOrd for Join {
    fn partial_cmp(&self, other: &Join) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The tokens beside the model file that are found in plain text.
fn added_tokens(dir: &Path) -> Result<Vec<(String, u32)>> {
    let mut added = Vec::new();
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    if let Some(file) = folder::json(dir, "added_tokens.json")? {
        added.extend(file.as_object().into_iter().flatten().filter_map(|(text, v)| Some((text.clone(), id(v)?))));
    }
    if let Some(config) = folder::json(dir, "tokenizer_config.json")? {
        for (key, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
            if let (Ok(id), Some(text)) = (key.parse::<u32>(), token["content"].as_str()) {
                added.retain(|(_, other)| *other != id);
                if !folder::truthy(&token["special"]) && !crate::tokenizer::vocab::looks_special(text) {
                    added.push((text.replace(ESCAPED_SPACE, " "), id));
                }
            }
        }
    }
    Ok(added)
}
