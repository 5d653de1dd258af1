//! Vocabularies in tiktoken's form: a line for each token with its bytes in base64 and its rank; special tokens stand in
//! the configuration or in the Python code beside it.
//!
//! That code is not run: of it, the literals of special tokens are read, and ranges of numbered ones.

use std::ops::Range;
use std::path::Path;

use ahash::AHashMap;
use regex::Regex;
use serde_json::{Map, Value, json};

use gguf::{Error, Result};

use super::runtime::byte_char;
use super::{base64, expressions, folder};

/// A family whose vocabulary is a file of ranks.
struct Form {
    file: &'static str,
    pre: &'static str,
    /// The expression that words match.
    words: &'static str,
    /// The special tokens behind the ranks, where no file says them.
    special: &'static [&'static str],
    /// How many tokens `<|extra_0|>` and so on come after these.
    extra: usize,
}

const FORMS: &[Form] = &[
    Form {
        file: "qwen.tiktoken",
        pre: "qwen2",
        words: expressions::QWEN2,
        special: &["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        extra: 205,
    },
    Form {
        file: "hy.tiktoken",
        pre: "hunyuan",
        words: expressions::QWEN2,
        special: &["<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>"],
        extra: 205,
    },
    Form { file: "tiktoken.model", pre: "kimi-k2", words: expressions::KIMI, special: &[], extra: 0 },
];

/// No token comes near this many bytes; longer ones would take long to take apart.
const LONGEST: usize = 1024;

/// A vocabulary of ranks.
pub(crate) struct Ranks {
    /// The file's name.
    pub file: &'static str,
    /// The pre-tokenizer that cuts as the family does.
    pub pre: &'static str,
    /// The bytes of tokens and their ids, in the file's order.
    pub tokens: Vec<(Vec<u8>, u32)>,
    /// Special tokens with their ids.
    pub special: Vec<(String, u32)>,
    words: &'static str,
    ids: AHashMap<Vec<u8>, u32>,
}

impl Ranks {
    /// The vocabulary of a folder; `None` where it holds no such file.
    pub fn open(dir: &Path, config: &Value) -> Result<Option<Ranks>> {
        for form in FORMS {
            let Some(text) = folder::text(&dir.join(form.file))? else { continue };
            let mut ranks = Ranks::parse(&text, form).map_err(|e| e.at(dir.join(form.file)))?;
            ranks.special = ranks.special_tokens(dir, config, form)?;
            return Ok(Some(ranks));
        }
        Ok(None)
    }

    fn parse(text: &str, form: &Form) -> Result<Ranks> {
        let mut ranks = Ranks {
            file: form.file,
            pre: form.pre,
            tokens: Vec::new(),
            special: Vec::new(),
            words: form.words,
            ids: AHashMap::new(),
        };
        let mut used = std::collections::HashSet::new();
        for (line, content) in text.lines().enumerate().filter(|(_, content)| !content.trim().is_empty()) {
            let fault = |what: &str| Error::input(format!("line {}: {what}", line + 1));
            let (token, rank) =
                content.trim().split_once(' ').ok_or_else(|| fault("this is not a token and its rank"))?;
            let token = base64::decode(token).ok_or_else(|| fault("the token is not base64"))?;
            let rank: u32 = rank.trim().parse().map_err(|_| fault("the rank is no number"))?;
            if token.is_empty() || token.len() > LONGEST {
                return Err(fault(&format!("a token of {} bytes", token.len())));
            }
            if !used.insert(rank) || ranks.ids.insert(token.clone(), rank).is_some() {
                return Err(fault("the token or its rank stands twice"));
            }
            ranks.tokens.push((token, rank));
        }
        if ranks.tokens.is_empty() {
            return Err(Error::input("the file has no tokens"));
        }
        Ok(ranks)
    }

    /// The first id behind the ranks.
    fn end(&self) -> u32 {
        self.tokens.iter().map(|(_, rank)| rank.saturating_add(1)).max().unwrap_or(0)
    }

    fn special_tokens(&self, dir: &Path, config: &Value, form: &Form) -> Result<Vec<(String, u32)>> {
        let end = self.end();
        let size =
            super::vocab::vocab_size(&folder::json(dir, "config.json")?.unwrap_or(Value::Null), &["vocab_size"])?;
        let size = size.and_then(|size| u32::try_from(size).ok()).unwrap_or(u32::MAX);
        let code = code(dir, config)?;
        if let Some(decoder) = config["added_tokens_decoder"].as_object().filter(|d| !d.is_empty()) {
            let stated = decoder
                .iter()
                .filter_map(|(id, token)| Some((token["content"].as_str()?.to_owned(), id.parse::<u32>().ok()?)));
            let mut special: Vec<(String, u32)> = stated.filter(|(_, id)| *id >= end).collect();
            special.sort_by_key(|(_, id)| *id);
            // Ids between those that are stated have names of the class's own.
            let last = match special.last() {
                Some(_) if code.contains("<|reserved_token_{") && size != u32::MAX => size,
                Some((_, id)) => id.saturating_add(1),
                None => end,
            };
            let stated: std::collections::HashSet<u32> = special.iter().map(|(_, id)| *id).collect();
            special.extend(
                (end..last).filter(|id| !stated.contains(id)).map(|id| (format!("<|reserved_token_{id}|>"), id)),
            );
            special.sort_by_key(|(_, id)| *id);
            return Ok(special);
        }
        let mut texts = literals(&code);
        if texts.is_empty() {
            texts = form.special.iter().map(|t| (*t).to_owned()).collect();
            texts.extend((0..form.extra).map(|i| format!("<|extra_{i}|>")));
        }
        Ok(texts.into_iter().zip(end..size).collect())
    }

    /// A token's bytes as a byte-level vocabulary writes them.
    pub fn text(token: &[u8]) -> String {
        token.iter().copied().map(byte_char).collect()
    }

    /// The pairs that are joined to tokens, in the file's order: a token is made of the two parts that remain when all
    /// pairs of lower rank in it were joined. What does not end as two parts is left out.
    pub fn merges(&self) -> Vec<String> {
        let two = |(token, rank): &(Vec<u8>, u32)| {
            let parts = self.parts(token, *rank);
            let [a, b] = parts.as_slice() else { return None };
            Some(format!("{} {}", Ranks::text(&token[a.clone()]), Ranks::text(&token[b.clone()])))
        };
        self.tokens.iter().filter(|(token, _)| token.len() > 1).filter_map(two).collect()
    }

    /// The parts of a token when all pairs of lower ranks are joined.
    fn parts(&self, token: &[u8], rank: u32) -> Vec<Range<usize>> {
        let mut parts: Vec<Range<usize>> = (0..token.len()).map(|i| i..i + 1).collect();
        loop {
            let pairs = parts.windows(2).enumerate();
            let ranked = pairs.filter_map(|(i, p)| Some((*self.ids.get(&token[p[0].start..p[1].end])?, i)));
            match ranked.min() {
                Some((lowest, i)) if lowest < rank => {
                    parts[i].end = parts[i + 1].end;
                    parts.remove(i + 1);
                }
                _ => return parts,
            }
        }
    }

    /// The same tokenizer in the form of `tokenizer.json`.
    pub fn tokenizer_json(&self) -> Result<Value> {
        let mut vocab: Map<String, Value> =
            self.tokens.iter().map(|(token, rank)| (Ranks::text(token), Value::from(*rank))).collect();
        for (text, id) in &self.special {
            if vocab.insert(text.clone(), Value::from(*id)).is_some() {
                return Err(Error::input(format!("the special token '{text}' is an ordinary one too")));
            }
        }
        Ok(byte_level_json(vocab, &self.merges(), self.words, &self.special))
    }
}

/// A byte-level `tokenizer.json` in which a word that is a token is taken whole.
pub(super) fn byte_level_json(
    vocab: Map<String, Value>,
    merges: &[String],
    words: &str,
    special: &[(String, u32)],
) -> Value {
    let added: Vec<Value> = special
        .iter()
        .map(|(text, id)| {
            json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let split = json!({"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": false});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes]}, "post_processor": null, "decoder": bytes,
        "model": {"type": "BPE", "ignore_merges": true, "vocab": vocab, "merges": merges},
    })
}

/// The Python code of the folder's tokenizer; nothing where there is none.
fn code(dir: &Path, config: &Value) -> Result<String> {
    let class = match &config["auto_map"]["AutoTokenizer"] {
        Value::Array(classes) => classes.iter().find_map(Value::as_str),
        other => other.as_str(),
    };
    let module = class.and_then(|class| class.split_once('.')).map(|(module, _)| module);
    let plain = |name: &&str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match module.filter(plain) {
        Some(module) => Ok(folder::text(&dir.join(format!("{module}.py")))?.unwrap_or_default()),
        None => Ok(String::new()),
    }
}

/// The special tokens `<|...|>` that Python code writes out, and those it numbers over a range, in their order.
fn literals(code: &str) -> Vec<String> {
    const MOST: usize = 1 << 12;
    let literal = r#"["'](?P<text><\|[^"'{}|\n]+\|>)["']"#;
    let numbered = r#"f["'](?P<head><\|[^"'{}|\n]+)\{(?P<name>\w+)\}(?P<tail>[^"'{}|\n]*\|>)["']\s*for\s+(?P<over>\w+)\s+in\s+range\((?P<count>\d{1,5})\)"#;
    let Ok(expression) = Regex::new(&format!("{numbered}|{literal}")) else { return Vec::new() };
    let mut found: Vec<String> = Vec::new();
    for part in expression.captures_iter(code) {
        if let Some(text) = part.name("text") {
            found.push(text.as_str().to_owned());
        } else if part["name"] == part["over"] {
            let count: usize = part["count"].parse().unwrap_or(0);
            found.extend((0..count.min(MOST)).map(|i| format!("{}{i}{}", &part["head"], &part["tail"])));
        }
    }
    let mut seen = std::collections::HashSet::new();
    found.retain(|text| seen.insert(text.clone()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(tokens: &[(&str, u32)]) -> Ranks {
        let tokens: Vec<(Vec<u8>, u32)> = tokens.iter().map(|(t, r)| (t.as_bytes().to_vec(), *r)).collect();
        let ids = tokens.iter().cloned().collect();
        Ranks { file: "", pre: "", special: Vec::new(), words: "", tokens, ids }
    }

    #[test]
    fn merges_follow_the_ranks() {
        let ranks = ranks(&[("a", 0), ("b", 1), (" ", 2), ("ab", 3), ("ba", 4), ("aba", 5), (" aba", 6), ("abba", 7)]);
        assert_eq!(ranks.merges(), ["a b", "b a", "ab a", "Ġ aba", "ab ba"]);
    }

    #[test]
    fn literals_of_code_are_read_in_order() {
        let code = r#"
            END = "<|endoftext|>"
            EXTRAS = tuple((f"<|extra_{i}|>" for i in range(3)))
            TOKENS = ['<|im_start|>', "<|endoftext|>", "<|unended", "plain"]
            log(f"<|{name}|>")
        "#;
        assert_eq!(literals(code), ["<|endoftext|>", "<|extra_0|>", "<|extra_1|>", "<|extra_2|>", "<|im_start|>"]);
    }

    #[test]
    fn damaged_lines_are_named() {
        let form = &FORMS[0];
        for (text, what) in [
            ("IQ== 0\nIg==", "line 2"),
            ("IQ== x", "no number"),
            ("I 0", "base64"),
            ("IQ== 0\nIQ== 1", "twice"),
            ("", "no tokens"),
        ] {
            let e = Ranks::parse(text, form).err().unwrap();
            assert!(e.message().contains(what), "{text:?}: {e}");
        }
        assert_eq!(Ranks::parse("IQ== 0\n\nIg== 1\n", form).unwrap().tokens.len(), 2);
    }
}
