//! Mistral's own tokenizer file, `tekken.json`: special tokens first, then bytes by rank.

use std::path::Path;

use ahash::AHashMap;
use serde_json::{Map, Value};

use gguf::{Error, Result};

use super::tiktoken::{Ranks, byte_level_json};
use super::{base64, folder};

/// The special tokens of files that list none.
const SPECIAL: [&str; 20] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];
/// Newer files list their own.
const LAST_WITHOUT_LIST: u32 = 7;
/// No vocabulary is larger.
const LARGEST: u64 = 1 << 24;
/// No token comes near this many bytes.
const LONGEST: usize = 1024;

/// A tekken vocabulary.
#[derive(Debug)]
pub(crate) struct Tekken {
    /// The version of Mistral's tokenizers: 3 of `v3`.
    pub version: u32,
    /// The texts of the special tokens, whose ids are their places.
    pub special: Vec<String>,
    /// The bytes of the others, by rank; their ids begin behind the special ones.
    pub tokens: Vec<Vec<u8>>,
    pattern: String,
}

impl Tekken {
    /// The vocabulary of a folder; `None` where it holds none.
    pub fn open(dir: &Path) -> Result<Option<Tekken>> {
        let Some(file) = folder::json(dir, "tekken.json")? else { return Ok(None) };
        Tekken::parse(&file).map(Some).map_err(|e| e.at(dir.join("tekken.json")))
    }

    fn parse(file: &Value) -> Result<Tekken> {
        let config = &file["config"];
        let number = |key: &str| {
            let value = config[key].as_u64().filter(|&n| n <= LARGEST);
            value.ok_or_else(|| {
                Error::input(format!("config.{key} is {}, which is no size of a vocabulary", config[key]))
            })
        };
        let (size, special_size) =
            (number("default_vocab_size")? as usize, number("default_num_special_tokens")? as usize);
        let version = config["version"].as_str().unwrap_or_default();
        let version = version
            .strip_prefix('v')
            .and_then(|v| v.parse().ok())
            .ok_or_else(|| Error::input(format!("config.version is {}, not v and a number", config["version"])))?;
        let pattern = config["pattern"].as_str().ok_or_else(|| Error::input("config.pattern is no expression"))?;
        let mut special: Vec<String> = match file["special_tokens"].as_array() {
            Some(list) => {
                let text = |token: &Value| token["token_str"].as_str().map(str::to_owned);
                list.iter()
                    .map(text)
                    .collect::<Option<_>>()
                    .ok_or_else(|| Error::input("a special token has no token_str"))?
            }
            None if version <= LAST_WITHOUT_LIST => SPECIAL.iter().map(|t| (*t).to_owned()).collect(),
            None => return Err(Error::input("the file lists no special tokens").help("take a newer copy of the file")),
        };
        if special.len() > special_size {
            return Err(Error::input(format!("{} special tokens where config says {special_size}", special.len())));
        }
        special.extend((special.len()..special_size).map(|i| format!("<SPECIAL_{i}>")));
        let vocab = file["vocab"].as_array().map_or(&[][..], Vec::as_slice);
        let own =
            size.checked_sub(special_size).filter(|&own| (256..=vocab.len()).contains(&own)).ok_or_else(|| {
                Error::input(format!(
                    "config says {size} tokens, {special_size} of them special, but the file has {} others",
                    vocab.len()
                ))
            })?;
        let mut tokens = Vec::with_capacity(own);
        for (rank, token) in vocab.iter().take(own).enumerate() {
            let bytes = token["token_bytes"].as_str().and_then(base64::decode);
            let bytes = bytes.filter(|b| (1..=LONGEST).contains(&b.len()));
            let bytes =
                bytes.ok_or_else(|| Error::input(format!("the token of rank {rank} has no bytes in base64")))?;
            if token["rank"].as_u64() != Some(rank as u64) || rank < 256 && bytes != [rank as u8] {
                return Err(Error::input(format!("the token in place {rank} is not the one of that rank")));
            }
            tokens.push(bytes);
        }
        Ok(Tekken { version, special, tokens, pattern: pattern.to_owned() })
    }

    /// The id of a special token.
    ///
    /// # Errors
    /// There is none of this text.
    pub fn special_id(&self, text: &str) -> Result<u32> {
        let id = self.special.iter().position(|t| t == text);
        id.map(|id| id as u32).ok_or_else(|| Error::input(format!("the vocabulary has no special token {text}")))
    }

    /// Every way to join two tokens to a third, by the rank of the third, then of the first and second.
    ///
    /// # Errors
    /// A token that no two others make.
    pub fn merges(&self) -> Result<Vec<String>> {
        let ranks: AHashMap<&[u8], usize> =
            self.tokens.iter().enumerate().map(|(rank, t)| (t.as_slice(), rank)).collect();
        let mut merges = Vec::new();
        for (rank, token) in self.tokens.iter().enumerate().skip(256) {
            let split = |at: usize| Some((*ranks.get(&token[..at])?, *ranks.get(&token[at..])?, at));
            let mut ways: Vec<(usize, usize, usize)> = (1..token.len()).filter_map(split).collect();
            if ways.is_empty() {
                return Err(Error::input(format!("no two tokens make the token of rank {rank}")));
            }
            ways.sort_unstable();
            merges.extend(
                ways.iter().map(|&(_, _, at)| format!("{} {}", Ranks::text(&token[..at]), Ranks::text(&token[at..]))),
            );
        }
        Ok(merges)
    }

    /// The same tokenizer in the form of `tokenizer.json`.
    pub fn tokenizer_json(&self) -> Value {
        let special: Vec<(String, u32)> = self.special.iter().cloned().zip(0..).collect();
        let own = self.tokens.iter().map(|token| Ranks::text(token)).zip(special.len()..);
        let mut vocab: Map<String, Value> = own.map(|(text, id)| (text, Value::from(id))).collect();
        vocab.extend(special.iter().map(|(text, id)| (text.clone(), Value::from(*id))));
        // Merges that cannot be made are the converter's to name.
        byte_level_json(vocab, &self.merges().unwrap_or_default(), &self.pattern, &special)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file() -> Value {
        let text = |bytes: &[u8]| {
            const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
            let group = |b: &[u8]| {
                let bits = u32::from(b[0]) << 16
                    | u32::from(*b.get(1).unwrap_or(&0)) << 8
                    | u32::from(*b.get(2).unwrap_or(&0));
                (0..=b.len()).map(|i| char::from(DIGITS[(bits >> (18 - 6 * i) & 63) as usize])).collect::<String>()
            };
            bytes.chunks(3).map(group).collect::<String>()
        };
        let mut tokens: Vec<Vec<u8>> = (0..=255).map(|b| vec![b]).collect();
        tokens.extend([b"ab".to_vec(), b"bc".to_vec(), b"abc".to_vec()]);
        let vocab: Vec<Value> =
            tokens.iter().enumerate().map(|(rank, t)| json!({"rank": rank, "token_bytes": text(t)})).collect();
        json!({
            "config": {"pattern": ".+", "default_vocab_size": 280, "default_num_special_tokens": 22, "version": "v3"},
            "vocab": vocab,
        })
    }

    #[test]
    fn a_vocabulary_is_cut_and_filled_up_to_its_sizes() {
        let tekken = Tekken::parse(&file()).unwrap();
        assert_eq!((tekken.tokens.len(), tekken.special.len(), tekken.version), (258, 22, 3));
        assert_eq!((tekken.special[21].as_str(), tekken.special_id("<pad>").unwrap()), ("<SPECIAL_21>", 11));
        assert_eq!(tekken.merges().unwrap(), ["a b", "b c"]);
        let mut whole = file();
        whole["config"]["default_vocab_size"] = json!(281);
        assert_eq!(Tekken::parse(&whole).unwrap().merges().unwrap(), ["a b", "b c", "a bc", "ab c"]);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for (pointer, value) in [
            ("/config/default_vocab_size", json!(1000)),
            ("/config/default_vocab_size", json!(-1)),
            ("/config/default_num_special_tokens", json!(3)),
            ("/config/version", json!(3)),
            ("/config/version", json!("v11")),
            ("/vocab/256/rank", json!(9)),
            ("/vocab/65/token_bytes", json!("AA==")),
            ("/vocab/257/token_bytes", json!("")),
            ("/config/pattern", Value::Null),
        ] {
            let mut changed = file();
            *changed.pointer_mut(pointer).unwrap() = value;
            assert!(Tekken::parse(&changed).is_err(), "{pointer}");
        }
    }
}
