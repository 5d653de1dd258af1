//! The tokenizer of `tokenizer.json`, loaded as the reference loads it: with the added tokens that
//! `tokenizer_config.json` puts on top.

use std::path::Path;

use ahash::AHashMap;
use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, Tokenizer};

use gguf::{Error, Result};

use super::folder;

/// The special tokens that a tokenizer's configuration can name.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A source tokenizer.
pub(crate) struct Source {
    pub tokenizer: Tokenizer,
    /// `tokenizer.json`, or what was made in its place.
    pub json: Value,
    /// The texts of the special tokens that the configuration names.
    pub named: Vec<String>,
}

impl Source {
    /// Opens the folder's tokenizer; `None` where it has none of a form that can be read.
    ///
    /// A folder without `tokenizer.json` but with the older files `vocab.json` and `merges.txt`, or `vocab.txt`, has
    /// one made of them.
    pub fn open(dir: &Path) -> Result<Option<Source>> {
        let config = folder::json(dir, "tokenizer_config.json")?.unwrap_or(Value::Null);
        let json = match folder::json(dir, "tokenizer.json")? {
            Some(json) => json,
            None => match older(dir, &config)? {
                Some(json) => json,
                None => return Ok(None),
            },
        };
        let path = dir.join("tokenizer.json");
        let bytes =
            serde_json::to_vec(&json).map_err(|e| Error::input("cannot read the tokenizer").at(&path).caused_by(e))?;
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|e| {
            Error::input("the tokenizers library cannot load this")
                .at(&path)
                .help("the file may be damaged, or of a newer form than this program knows")
                .caused_by(e.to_string())
        })?;
        // What a training run left behind would cut or fill up what is encoded.
        tokenizer.with_padding(None);
        let _ = tokenizer.with_truncation(None);
        let named = add_configured(&mut tokenizer, dir, &config)?;
        Ok(Some(Source { tokenizer, json, named }))
    }

    /// The ids of a text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = self
            .tokenizer
            .encode_fast(text, add_special)
            .map_err(|e| Error::input("the source tokenizer cannot encode a text").caused_by(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// What the ids of a text decode to.
    pub fn round_trip(&self, text: &str) -> Result<String> {
        self.tokenizer
            .decode(&self.encode(text, false)?, false)
            .map_err(|e| Error::input("the source tokenizer cannot decode a text").caused_by(e.to_string()))
    }

    /// Token texts by id, added ones included.
    pub fn by_id(&self) -> AHashMap<u32, String> {
        self.tokenizer.get_vocab(true).into_iter().map(|(text, id)| (id, text)).collect()
    }

    /// The id of an added token.
    pub fn added_id(&self, text: &str) -> Option<u32> {
        self.tokenizer.get_added_vocabulary().get_vocab().get(text).copied()
    }
}

/// Adds the tokens of `added_tokens_decoder`, by id, and then those that the configuration gives a role. A token that
/// is there already takes the properties stated here.
fn add_configured(tokenizer: &mut Tokenizer, dir: &Path, config: &Value) -> Result<Vec<String>> {
    let mut added: Vec<(u64, AddedToken)> = Vec::new();
    for (id, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
        if let (Ok(id), Some(token)) = (id.parse(), added_token(token)) {
            added.push((id, token));
        }
    }
    added.sort_by_key(|(id, _)| *id);
    for (_, token) in &added {
        tokenizer.add_tokens(std::slice::from_ref(token));
    }
    let map = folder::json(dir, "special_tokens_map.json")?.unwrap_or(Value::Null);
    let more = config["additional_special_tokens"].as_array().into_iter().flatten();
    let more = more.chain(config["extra_special_tokens"].as_array().into_iter().flatten());
    let roles = ROLES.iter().map(|role| if config[role].is_null() { &map[role] } else { &config[role] });
    let mut named = Vec::new();
    for token in roles.chain(more) {
        let token = match token {
            Value::String(text) if !text.is_empty() => AddedToken::from(text.clone(), true),
            other => match added_token(other) {
                Some(token) => token.special(true),
                None => continue,
            },
        };
        let known = tokenizer.get_added_vocabulary().get_vocab().contains_key(&token.content);
        named.push(token.content.clone());
        if !known {
            tokenizer.add_special_tokens(&[token]);
        }
    }
    Ok(named)
}

fn added_token(token: &Value) -> Option<AddedToken> {
    let content = token["content"].as_str().filter(|s| !s.is_empty())?;
    let flag = |key: &str| token[key].as_bool();
    let special = flag("special").unwrap_or(false);
    Some(
        AddedToken::from(content, special)
            .single_word(flag("single_word").unwrap_or(false))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false))
            .normalized(flag("normalized").unwrap_or(!special)),
    )
}

/// The tokenizer of folders older than `tokenizer.json`, in its form.
fn older(dir: &Path, config: &Value) -> Result<Option<Value>> {
    let class = config["tokenizer_class"].as_str().unwrap_or_default().trim_end_matches("Fast");
    if let (Some(vocab), Some(merges)) = (folder::json(dir, "vocab.json")?, folder::text(&dir.join("merges.txt"))?) {
        let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
        let (normalizer, pre) = match class {
            "GPT2Tokenizer" | "" => (Value::Null, bytes(true)),
            "Qwen2Tokenizer" => {
                let split = json!({"type": "Split", "pattern": {"Regex": super::pre::QWEN2}, "behavior": "Isolated", "invert": false});
                (json!({"type": "NFC"}), json!({"type": "Sequence", "pretokenizers": [split, bytes(false)]}))
            }
            _ => return Ok(None),
        };
        let merges: Vec<&str> = merges.lines().filter(|l| !l.starts_with("#version") && !l.trim().is_empty()).collect();
        return Ok(Some(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": null, "decoder": bytes(true),
            "model": {"type": "BPE", "vocab": vocab, "merges": merges},
        })));
    }
    if matches!(class, "BertTokenizer" | "DistilBertTokenizer")
        && let Some(text) = folder::text(&dir.join("vocab.txt"))?
    {
        let vocab: Map<String, Value> =
            text.lines().enumerate().map(|(id, t)| (t.to_owned(), Value::from(id))).collect();
        let added: Vec<Value> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
            .iter()
            .filter_map(|t| {
                let id = vocab.get(*t)?;
                Some(json!({"id": id, "content": t, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}))
            })
            .collect();
        let end = |t: &str| json!([t, vocab.get(t)]);
        return Ok(Some(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
                "lowercase": config["do_lower_case"].as_bool().unwrap_or(true)},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {"type": "BertProcessing", "sep": end("[SEP]"), "cls": end("[CLS]")},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab},
        })));
    }
    Ok(None)
}
