//! Cutting a text at the special tokens written out in it.

use aho_corasick::{AhoCorasick, AhoCorasickKind};

use super::Id;
use super::tokens::{Attr, Tokens};

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragment<'t> {
    Text(&'t str),
    Token(Id),
}

/// Finds special tokens: longer texts first, each over the whole text before the next is looked for.
#[derive(Debug)]
pub(crate) struct Partition {
    /// By falling length of their texts.
    special: Vec<Id>,
    /// Says in one pass which of them occur at all: a vocabulary may have thousands.
    finder: Option<AhoCorasick>,
}

impl Partition {
    pub fn new(tokens: &Tokens) -> Partition {
        let special = |id: &Id| tokens.attr(*id).any(Attr::CONTROL | Attr::USER_DEFINED | Attr::UNKNOWN);
        let mut special: Vec<Id> = (0..tokens.len() as Id).filter(special).collect();
        special.sort_by_key(|&id| std::cmp::Reverse(tokens.text(id).map_or(0, <[u8]>::len)));
        // Of the automatons, the one whose size and time to build grow with the texts alone: a token may be very long.
        let finder = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(special.iter().map(|&id| tokens.text(id).unwrap_or_default()))
            .ok();
        Partition { special, finder }
    }

    /// The fragments of a text. Without `parse`, control tokens in it are plain text.
    pub fn split<'t>(&self, text: &'t str, parse: bool, tokens: &Tokens) -> Vec<Fragment<'t>> {
        let mut fragments = Vec::new();
        if !text.is_empty() {
            fragments.push(Fragment::Text(text));
        }
        for (index, occurs) in self.occurring(text).into_iter().enumerate() {
            let id = self.special[index];
            let attr = tokens.attr(id);
            if !occurs || !parse && attr.any(Attr::CONTROL | Attr::UNKNOWN) {
                continue;
            }
            // A special token that is no text cannot stand in one.
            let Some(needle) = tokens.text(id).and_then(|t| std::str::from_utf8(t).ok()) else { continue };
            let mut next = Vec::with_capacity(fragments.len());
            for fragment in fragments {
                match fragment {
                    Fragment::Text(text) => cut(text, needle, id, attr, &mut next),
                    token => next.push(token),
                }
            }
            fragments = next;
        }
        fragments
    }

    fn occurring(&self, text: &str) -> Vec<bool> {
        let Some(finder) = &self.finder else { return vec![true; self.special.len()] };
        let mut occurs = vec![false; self.special.len()];
        for found in finder.find_overlapping_iter(text) {
            occurs[found.pattern().as_usize()] = true;
        }
        occurs
    }
}

/// C's `isspace`.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

fn cut<'t>(text: &'t str, needle: &str, id: Id, attr: Attr, out: &mut Vec<Fragment<'t>>) {
    let mut rest = text;
    while let Some(at) = rest.find(needle) {
        let mut left = &rest[..at];
        if attr.any(Attr::LSTRIP) {
            left = left.trim_end_matches(is_space);
        }
        if !left.is_empty() {
            out.push(Fragment::Text(left));
        }
        out.push(Fragment::Token(id));
        rest = &rest[at + needle.len()..];
        if attr.any(Attr::RSTRIP) {
            rest = rest.trim_start_matches(is_space);
        }
    }
    if !rest.is_empty() {
        out.push(Fragment::Text(rest));
    }
}
