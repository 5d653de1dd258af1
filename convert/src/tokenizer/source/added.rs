//! The added tokens that the files around a tokenizer put on top of it, by the rules of transformers 5.
//!
//! `added_tokens_decoder` of `tokenizer_config.json` says all, where it is there. Folders older than it have
//! `special_tokens_map.json`, whose roles go before those of the configuration, and `added_tokens.json`. Then come the
//! tokens with a role: the seven that all models share, those that a model names for itself (`*_token`,
//! `model_specific_special_tokens`, `extra_special_tokens` as an object), and extra ones in a list.

use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use gguf::Result;

use super::Source;
use crate::tokenizer::folder;

/// The roles that all models share.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Adds them. `defaults` are the roles that the class gives where the files give none.
pub(super) fn add(source: &mut Source, dir: &Path, config: &Value, defaults: &[(&str, &str)]) -> Result<()> {
    let mut given: Map<String, Value> = config.as_object().cloned().unwrap_or_default();
    let decoder = given.get("added_tokens_decoder").and_then(Value::as_object).cloned();
    let mut stated: Vec<(u64, AddedToken)> = Vec::new();
    if let Some(decoder) = &decoder {
        stated.extend(decoder.iter().filter_map(|(id, token)| Some((id.parse().ok()?, added_token(token)?))));
    } else {
        if let Some(Value::Object(map)) = folder::json(dir, "special_tokens_map.json")? {
            given.extend(map);
        }
        for (role, text) in defaults {
            given.entry(*role).or_insert_with(|| Value::from(*text));
        }
        if let Some(Value::Object(added)) = folder::json(dir, "added_tokens.json")? {
            let named: Vec<String> = roles(&given).into_iter().map(|token| token.content).collect();
            for (text, id) in added.iter().filter(|(text, _)| !text.is_empty()) {
                if let Some(id) = id.as_u64() {
                    stated.push((id, AddedToken::from(text.clone(), named.contains(text))));
                }
            }
        }
    }
    for (role, text) in defaults {
        given.entry(*role).or_insert_with(|| Value::from(*text));
    }
    stated.sort_by_key(|(id, _)| *id);
    let roles = roles(&given);
    source.named = roles.iter().map(|token| token.content.clone()).collect();

    let there = source.tokenizer.get_added_tokens_decoder();
    let mut tokens: Vec<AddedToken> =
        stated.iter().map(|(_, token)| token.clone()).filter(|token| !there.values().any(|t| t == token)).collect();
    for token in &mut tokens {
        token.special |= source.named.contains(&token.content);
    }
    for role in roles {
        let known =
            there.values().any(|t| t.content == role.content) || tokens.iter().any(|t| t.content == role.content);
        if !known {
            tokens.push(role);
        }
    }
    for token in &tokens {
        super::check_added(&token.content).map_err(|e| e.at(dir))?;
    }
    if !tokens.is_empty() {
        source.tokenizer.add_tokens(&tokens);
    }
    for (id, token) in &stated {
        let actual = source.tokenizer.token_to_id(&token.content);
        if let Some(actual) = actual.filter(|&actual| u64::from(actual) != *id) {
            let file = if decoder.is_some() { "tokenizer_config.json" } else { "added_tokens.json" };
            source.notes.push(format!(
                "{file} gives the token '{}' the id {id}, but transformers reads it as {actual}",
                token.content
            ));
        }
    }
    unlisted(source, dir)
}

/// Notes tokens of `added_tokens.json` that the newer files leave out, as transformers does.
fn unlisted(source: &mut Source, dir: &Path) -> Result<()> {
    let Some(Value::Object(added)) = folder::json(dir, "added_tokens.json")? else { return Ok(()) };
    let missing: Vec<&str> =
        added.keys().map(String::as_str).filter(|text| source.tokenizer.token_to_id(text).is_none()).collect();
    if let [first, ..] = missing.as_slice() {
        source.notes.push(format!(
            "added_tokens.json has {} tokens that tokenizer.json and tokenizer_config.json leave out, such as '{first}': transformers does not know them",
            missing.len()
        ));
    }
    Ok(())
}

/// The tokens with a role, in the order in which they are added.
fn roles(given: &Map<String, Value>) -> Vec<AddedToken> {
    let list = |key: &str| given.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let object = |key: &str| given.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
    let shared = ROLES.iter().filter_map(|role| given.get(*role)).cloned();
    let own = given.iter().filter(|(key, value)| {
        key.ends_with("_token") && !ROLES.contains(&key.as_str()) && (value.is_string() || value["content"].is_string())
    });
    let own = own.map(|(_, value)| value.clone());
    let mut extra = list("extra_special_tokens");
    if extra.is_empty() && object("extra_special_tokens").is_empty() {
        extra = list("additional_special_tokens");
    }
    let specific = object("model_specific_special_tokens").into_iter().chain(object("extra_special_tokens"));
    let all = shared.chain(own).chain(specific.map(|(_, value)| value)).chain(extra);
    let mut tokens: Vec<AddedToken> = Vec::new();
    for token in all.filter_map(|value| role_token(&value)) {
        if !tokens.iter().any(|t| t.content == token.content) {
            tokens.push(token);
        }
    }
    tokens
}

fn role_token(value: &Value) -> Option<AddedToken> {
    match value {
        Value::String(text) => (!text.is_empty()).then(|| AddedToken::from(text.clone(), true)),
        other => added_token(other).map(|token| token.special(true)),
    }
}

/// A token as the files write it, with the library's defaults.
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn source(dir: &Path, config: Value) -> Source {
        let json = json!({"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}});
        let mut source = Source::from_json(json, "vocab.json").unwrap();
        add(&mut source, dir, &config, &[]).unwrap();
        source
    }

    fn ids(source: &Source, texts: &[&str]) -> Vec<Option<u32>> {
        texts.iter().map(|text| source.tokenizer.token_to_id(text)).collect()
    }

    #[test]
    fn special_tokens_by_name_are_added() {
        let dir = tempfile::tempdir().unwrap();
        let config = json!({
            "eos_token": "<e>", "image_token": "<i>", "extra_special_tokens": {"video_token": "<v>"},
            "model_specific_special_tokens": {"audio_token": {"content": "<a>"}}, "additional_special_tokens": ["<x>"],
        });
        let source = source(dir.path(), config);
        assert_eq!(ids(&source, &["<e>", "<i>", "<a>", "<v>", "<x>"]), [Some(2), Some(3), Some(4), Some(5), None]);
        let lists = json!({"additional_special_tokens": ["<x>"], "extra_special_tokens": []});
        assert_eq!(ids(&self::source(dir.path(), lists), &["<x>"]), [Some(2)]);
    }

    #[test]
    fn the_files_of_old_folders_are_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("added_tokens.json"), r#"{"<y>": 3, "<x>": 2, "<z>": 9}"#).unwrap();
        std::fs::write(dir.path().join("special_tokens_map.json"), r#"{"eos_token": {"content": "<y>"}}"#).unwrap();
        let old = source(dir.path(), json!({"eos_token": "<x>"}));
        assert_eq!(ids(&old, &["<x>", "<y>", "<z>"]), [Some(2), Some(3), Some(4)]);
        let special = |text: &str| old.tokenizer.get_added_vocabulary().is_special_token(text);
        assert!(special("<y>") && !special("<x>"));
        assert!(old.notes[0].contains("'<z>' the id 9") && old.notes.len() == 1, "{:?}", old.notes);
        // A configuration that lists its added tokens speaks for itself.
        let new = source(dir.path(), json!({"added_tokens_decoder": {"2": {"content": "<n>", "special": true}}}));
        assert_eq!(ids(&new, &["<n>", "<y>"]), [Some(2), None]);
    }
}
