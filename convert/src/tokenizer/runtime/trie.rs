//! Texts as a tree of their bytes, for models that look for the tokens that begin at a place.

use std::ops::Range;

use super::Id;
use super::tokens::Tokens;

/// Texts with an id each.
#[derive(Debug)]
pub(crate) struct Trie {
    /// By the first byte: the texts that begin with it are below this node.
    roots: Box<[u32; 256]>,
    nodes: Vec<Node>,
    /// The bytes that lead on from each node and where they lead, a stretch for each.
    bytes: Vec<u8>,
    targets: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    edges: u32,
    count: u16,
    id: Option<Id>,
}

/// No node.
const NOWHERE: u32 = u32::MAX;

impl Trie {
    /// A tree of tokens as the vocabulary writes them.
    pub fn of(ids: impl Iterator<Item = Id>, tokens: &Tokens) -> Trie {
        Trie::new(ids.map(|id| (tokens.text(id).unwrap_or_default(), id)).collect())
    }

    /// A tree of these texts. Empty ones are left out, and of equal ones the last counts.
    pub fn new<T: AsRef<[u8]>>(mut texts: Vec<(T, Id)>) -> Trie {
        texts.retain(|(text, _)| !text.as_ref().is_empty());
        texts.reverse();
        texts.sort_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()));
        texts.dedup_by(|a, b| a.0.as_ref() == b.0.as_ref());
        let text = |i: usize| texts[i].0.as_ref();
        let mut trie =
            Trie { roots: Box::new([NOWHERE; 256]), nodes: Vec::new(), bytes: Vec::new(), targets: Vec::new() };
        // Stretches of texts that share their first bytes wait with the node that those lead to.
        let mut waiting: Vec<(u32, usize, Range<usize>)> = Vec::new();
        for range in groups(&texts, 0..texts.len(), 0) {
            let node = trie.node();
            trie.roots[usize::from(text(range.start)[0])] = node;
            waiting.push((node, 1, range));
        }
        while let Some((node, depth, range)) = waiting.pop() {
            let own = text(range.start).len() == depth;
            let id = own.then(|| texts[range.start].1);
            let edges = trie.bytes.len() as u32;
            let mut count = 0;
            for group in groups(&texts, range.start + usize::from(own)..range.end, depth) {
                let target = trie.node();
                trie.bytes.push(text(group.start)[depth]);
                trie.targets.push(target);
                waiting.push((target, depth + 1, group));
                count += 1;
            }
            trie.nodes[node as usize] = Node { edges, count, id };
        }
        trie
    }

    fn node(&mut self) -> u32 {
        self.nodes.push(Node { edges: 0, count: 0, id: None });
        self.nodes.len() as u32 - 1
    }

    /// The ids of all texts that this one begins with, with their lengths, the shortest first.
    pub fn prefixes<'t>(&'t self, text: &'t [u8]) -> impl Iterator<Item = (usize, Id)> + 't {
        let mut at = match text.first() {
            Some(&byte) => self.roots[usize::from(byte)],
            None => NOWHERE,
        };
        let mut depth = 0;
        std::iter::from_fn(move || {
            while at != NOWHERE {
                let node = self.nodes[at as usize];
                depth += 1;
                let edges = node.edges as usize..node.edges as usize + usize::from(node.count);
                at = match text.get(depth) {
                    Some(byte) => match self.bytes[edges.clone()].binary_search(byte) {
                        Ok(i) => self.targets[edges.start + i],
                        Err(_) => NOWHERE,
                    },
                    None => NOWHERE,
                };
                if let Some(id) = node.id {
                    return Some((depth, id));
                }
            }
            None
        })
    }

    /// The longest of the texts that this one begins with.
    pub fn longest(&self, text: &[u8]) -> Option<(usize, Id)> {
        self.prefixes(text).last()
    }
}

/// The stretches of sorted texts, all longer than `depth`, that have the same byte there.
fn groups<T: AsRef<[u8]>>(texts: &[(T, Id)], range: Range<usize>, depth: usize) -> Vec<Range<usize>> {
    let byte = |i: usize| texts[i].0.as_ref().get(depth);
    let mut groups: Vec<Range<usize>> = Vec::new();
    for i in range {
        match groups.last_mut() {
            Some(last) if byte(last.start) == byte(i) => last.end = i + 1,
            _ => groups.push(i..i + 1),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_found_from_the_shortest_on() {
        let trie = Trie::new(vec![("a", 0), ("ab", 1), ("abcd", 2), ("b", 3), ("", 4), ("ab", 5)]);
        assert_eq!(trie.prefixes(b"abcx").collect::<Vec<_>>(), [(1, 0), (2, 5)]);
        assert_eq!(trie.longest(b"abcde"), Some((4, 2)));
        assert_eq!(trie.longest(b"c"), None);
        assert_eq!(trie.longest(b""), None);
    }
}
