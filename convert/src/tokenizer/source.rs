//! The tokenizer of a folder, loaded as transformers loads it: `tokenizer.json`, or what stands in its place, with the
//! added tokens that the files around it put on top.

mod added;
pub(crate) mod older;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ahash::AHashMap;
use serde_json::Value;
use tokenizers::models::ModelWrapper;
use tokenizers::{Model, Tokenizer};

use gguf::{Error, Result};

use super::{folder, tekken, tiktoken};

/// A source tokenizer.
pub(crate) struct Source {
    pub tokenizer: Tokenizer,
    /// `tokenizer.json`, or what was made in its place.
    pub json: Value,
    /// The file it was read from.
    pub file: &'static str,
    /// The texts of the special tokens that the files give a role.
    pub named: Vec<String>,
    /// What is not as the files say it, one sentence each.
    pub notes: Vec<String>,
}

impl Source {
    /// Opens the folder's tokenizer; `None` where it has none of a form that can be read.
    ///
    /// A folder without `tokenizer.json` but with files of another form has one made of them: `vocab.json` and
    /// `merges.txt`, `vocab.txt`, Mistral's `tekken.json`, tiktoken's ranks.
    pub fn open(dir: &Path) -> Result<Option<Source>> {
        let config = folder::json(dir, "tokenizer_config.json")?.unwrap_or(Value::Null);
        let mut roles: &[(&str, &str)] = &[];
        let (file, json) = if let Some(json) = folder::json(dir, "tokenizer.json")? {
            ("tokenizer.json", json)
        } else if let Some(older) = older::read(dir, &config)? {
            roles = older.roles;
            (older.file, older.json)
        } else if let Some(tekken) = tekken::Tekken::open(dir)? {
            ("tekken.json", tekken.tokenizer_json())
        } else if let Some(ranks) = tiktoken::Ranks::open(dir, &config)? {
            (ranks.file, ranks.tokenizer_json()?)
        } else {
            return Ok(None);
        };
        let mut source = Source::from_json(json, file).map_err(|e| e.at(dir.join(file)))?;
        added::add(&mut source, dir, &config, roles)?;
        Ok(Some(source))
    }

    /// A tokenizer in the form of `tokenizer.json` alone.
    pub fn from_json(json: Value, file: &'static str) -> Result<Source> {
        check(&json)?;
        let bytes = serde_json::to_vec(&json).map_err(|e| Error::input("cannot read the tokenizer").caused_by(e))?;
        let mut tokenizer = guard(|| Tokenizer::from_bytes(&bytes).map_err(|e| e.to_string())).map_err(|e| {
            Error::input("the tokenizers library cannot load this")
                .help("the file may be damaged, or of a newer form than this program knows")
                .caused_by(e)
        })?;
        // What a training run left behind would cut or fill up what is encoded.
        tokenizer.with_padding(None);
        let _ = tokenizer.with_truncation(None);
        Ok(Source { tokenizer, json, file, named: Vec::new(), notes: Vec::new() })
    }

    /// The ids of a text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encode = || self.tokenizer.encode_fast(text, add_special).map_err(|e| e.to_string());
        let encoding =
            guard(encode).map_err(|e| Error::input("the source tokenizer cannot encode a text").caused_by(e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// What the ids of a text decode to.
    pub fn round_trip(&self, text: &str) -> Result<String> {
        let ids = self.encode(text, false)?;
        guard(|| self.tokenizer.decode(&ids, false).map_err(|e| e.to_string()))
            .map_err(|e| Error::input("the source tokenizer cannot decode a text").caused_by(e))
    }

    /// Token texts by id, added ones included.
    pub fn by_id(&self) -> AHashMap<u32, String> {
        self.tokenizer.get_vocab(true).into_iter().map(|(text, id)| (id, text)).collect()
    }

    /// The id of an added token.
    pub fn added_id(&self, text: &str) -> Option<u32> {
        self.tokenizer.get_added_vocabulary().get_vocab().get(text).copied()
    }

    /// Whether the merges alone join the text of every token of the vocabulary to that token.
    pub fn merges_reach_all_tokens(&self) -> bool {
        let ModelWrapper::BPE(bpe) = self.tokenizer.get_model() else { return true };
        let mut merging = bpe.clone();
        merging.ignore_merges = false;
        let added = self.tokenizer.get_added_vocabulary();
        self.tokenizer.get_vocab(false).iter().all(|(text, id)| {
            added.get_vocab().contains_key(text)
                || merging.tokenize(text).is_ok_and(|tokens| matches!(tokens.as_slice(), [one] if one.id == *id))
        })
    }

    /// Whether the byte-level step puts a space in front of a text that has none.
    pub fn prefixes_space(&self) -> bool {
        self.has_step(|step| step["type"] == "ByteLevel" && step["add_prefix_space"] == true)
    }

    /// Whether words are split at every kind of white space.
    pub fn splits_white_space(&self) -> bool {
        self.has_step(|step| step["type"] == "WhitespaceSplit" || step["type"] == "Whitespace")
    }

    /// Whether a step of the pre-tokenizer is so.
    fn has_step(&self, is: impl Fn(&Value) -> bool) -> bool {
        let pre = &self.json["pre_tokenizer"];
        is(pre) || pre["pretokenizers"].as_array().is_some_and(|steps| steps.iter().any(is))
    }
}

/// Runs a call of the tokenizers library, which must not take the program with it where it panics.
fn guard<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err("it fails on an assumption of its own".to_owned()))
}

/// Bytes of an added token at most: the library builds a table of all their characters, in the square of the time.
const LONGEST_ADDED: usize = 4096;

/// Refuses an added token for which the library would take minutes.
fn check_added(text: &str) -> Result<()> {
    if text.len() <= LONGEST_ADDED {
        return Ok(());
    }
    let begins: String = text.chars().take(20).collect();
    Err(Error::input(format!(
        "the added token that begins with '{}' has {} bytes, more than {LONGEST_ADDED}",
        gguf::quote::text(&begins),
        text.len()
    ))
    .help("the file may be damaged: take that of the original model"))
}

/// Checks what the library takes for granted.
fn check(json: &Value) -> Result<()> {
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        check_added(token["content"].as_str().unwrap_or_default())?;
    }
    let model = &json["model"];
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default();
    if prefix.is_empty() || model["type"] != "BPE" && !model["type"].is_null() {
        return Ok(());
    }
    for merge in model["merges"].as_array().into_iter().flatten() {
        let right = match merge {
            Value::String(both) => both.rsplit(' ').next(),
            pair => pair[1].as_str(),
        };
        if let Some(right) = right
            && !right.is_char_boundary(prefix.len())
        {
            return Err(Error::input(format!(
                "the right side '{right}' of a merge is shorter than the prefix of continued words, '{prefix}'"
            ))
            .help("the file may be damaged: take that of the original model"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_prefix_longer_than_a_side_of_a_merge_is_refused() {
        let mut tokenizer = json!({"model": {"type": "BPE", "continuing_subword_prefix": "####", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}});
        for merges in [json!([["a", "b"]]), json!(["a b"])] {
            tokenizer["model"]["merges"] = merges;
            let e = Source::from_json(tokenizer.clone(), "tokenizer.json").err().unwrap();
            assert!(e.message().contains("'b' of a merge is shorter"), "{e}");
        }
        tokenizer["model"]["continuing_subword_prefix"] = Value::Null;
        assert!(check(&tokenizer).is_ok());
    }

    #[test]
    fn an_added_token_without_end_is_refused() {
        let tokenizer = |length: usize| json!({"version": "1.0", "added_tokens": [{"id": 2, "content": "a".repeat(length), "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}], "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}});
        assert!(Source::from_json(tokenizer(1000), "tokenizer.json").is_ok());
        let e = Source::from_json(tokenizer(60_000), "tokenizer.json").err().unwrap();
        assert!(e.message().contains("has 60000 bytes"), "{e}");
    }

    #[test]
    fn merges_that_do_not_reach_a_token_are_seen() {
        let model = |merges: Value| json!({"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4}, "merges": merges}});
        let reach =
            |merges: Value| Source::from_json(model(merges), "tokenizer.json").unwrap().merges_reach_all_tokens();
        assert!(reach(json!([["a", "b"], ["ab", "c"]])));
        assert!(!reach(json!([["a", "b"]])));
    }
}
