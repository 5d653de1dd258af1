//! Special tokens, merges, chat templates and normalizer flags: what the converter gathers from `tokenizer.json`,
//! `tokenizer_config.json`, `config.json` and the template files, in the order in which it writes them.

use std::path::Path;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use gguf::{Error, Metadata, Result};

use super::folder::{self, truthy};

/// The special tokens looked for unless a caller names others.
pub(crate) const TYPES: [&str; 7] = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"];

/// Special token types with a key of their own. A type without one (`cls`, `prefix`, ...) is looked up but not written.
const ID_KEYS: [(&str, &str); 8] = [
    ("bos", "tokenizer.ggml.bos_token_id"),
    ("eos", "tokenizer.ggml.eos_token_id"),
    ("unk", "tokenizer.ggml.unknown_token_id"),
    ("sep", "tokenizer.ggml.seperator_token_id"),
    ("pad", "tokenizer.ggml.padding_token_id"),
    ("mask", "tokenizer.ggml.mask_token_id"),
    ("eot", "tokenizer.ggml.eot_token_id"),
    ("eom", "tokenizer.ggml.eom_token_id"),
];

const ADD_KEYS: [(&str, &str); 3] = [
    ("bos", "tokenizer.ggml.add_bos_token"),
    ("eos", "tokenizer.ggml.add_eos_token"),
    ("sep", "tokenizer.ggml.add_sep_token"),
];

/// A chat template, or several with names.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Template {
    One(String),
    Named(Vec<Value>),
}

/// What a folder says about its special tokens.
#[derive(Debug, Default)]
pub(crate) struct Special {
    pub merges: Vec<String>,
    pub ids: IndexMap<String, u32>,
    pub add: IndexMap<&'static str, bool>,
    pub template: Option<Template>,
    pub lowercase: Option<bool>,
    pub strip_accents: Option<bool>,
    types: Vec<String>,
    n_vocab: Option<u64>,
}

impl Special {
    /// Reads the folder. `n_vocab` bounds the ids; without it any id is taken.
    pub fn load(dir: &Path, merges: bool, types: &[&str], n_vocab: Option<usize>) -> Result<Special> {
        let mut special = Special {
            types: types.iter().map(|s| (*s).to_owned()).collect(),
            n_vocab: n_vocab.map(|n| n as u64),
            ..Special::default()
        };
        special.load_tokenizer(dir, merges)?;
        special.load_config(dir)?;
        if merges && special.merges.is_empty() {
            special.load_merges_txt(dir)?;
        }
        Ok(special)
    }

    /// Sets an id unless one is known already. What is no number is ignored, and so is an id beyond the vocabulary.
    pub fn set(&mut self, kind: &str, id: &Value) -> Result<()> {
        if let Some(id) = id.as_u64() {
            if self.n_vocab.is_none_or(|n| id < n) && !self.ids.contains_key(kind) {
                let id = u32::try_from(id)
                    .map_err(|_| Error::input(format!("the id {id} of the special token {kind} is too large")))?;
                self.ids.insert(kind.to_owned(), id);
            }
        } else if let Some(id) = id.as_i64() {
            return Err(Error::input(format!("the id {id} of the special token {kind} is negative")));
        }
        Ok(())
    }

    /// Takes the merges of a `tokenizer.json`.
    pub fn set_merges(&mut self, json: &Value) -> Result<()> {
        self.merges = read_merges(&json["model"]["merges"])?;
        Ok(())
    }

    /// Appends the keys in the converter's order.
    pub fn write(&self, out: &mut Metadata) {
        if !self.merges.is_empty() {
            out.set("tokenizer.ggml.merges", gguf::Array::strings(&self.merges));
        }
        for (kind, &id) in &self.ids {
            if let Some((_, key)) = ID_KEYS.iter().find(|(k, _)| k == kind) {
                out.set(*key, id);
            }
        }
        for (kind, &add) in &self.add {
            if let Some((_, key)) = ADD_KEYS.iter().find(|(k, _)| k == kind) {
                out.set(*key, add);
            }
        }
        if let Some(template) = &self.template {
            write_template(template, out);
        }
        if let Some(lowercase) = self.lowercase {
            out.set("tokenizer.ggml.normalizer.lowercase", lowercase);
        }
        if let Some(strip) = self.strip_accents {
            out.set("tokenizer.ggml.normalizer.strip_accents", strip);
        }
    }

    fn load_tokenizer(&mut self, dir: &Path, merges: bool) -> Result<()> {
        let tokenizer = folder::json(dir, "tokenizer.json")?;
        if let Some(tokenizer) = &tokenizer {
            if merges {
                self.merges =
                    read_merges(&tokenizer["model"]["merges"]).map_err(|e| e.at(dir.join("tokenizer.json")))?;
            }
            self.parse_normalizer(&tokenizer["normalizer"]);
        }
        let mut config = match folder::json(dir, "tokenizer_config.json")? {
            Some(Value::Object(config)) => config,
            None => Map::new(),
            Some(_) => return Err(Error::input("this is not a JSON object").at(dir.join("tokenizer_config.json"))),
        };
        if let Some(tokenizer) = tokenizer.as_ref().filter(|t| truthy(t)) {
            self.parse_post_processor(&tokenizer["post_processor"], &mut config);
        }
        if config.is_empty() {
            return Ok(());
        }
        self.template = match config.get("chat_template") {
            // What says nothing leaves the word to the files beside the configuration, as transformers has it.
            None | Some(Value::Null) => template_files(dir)?,
            Some(Value::String(one)) if one.is_empty() => template_files(dir)?,
            Some(Value::String(one)) => Some(Template::One(one.clone())),
            Some(Value::Array(named)) => Some(Template::Named(named.clone())),
            Some(_) => None,
        };
        let no_tokens = Vec::new();
        let added = tokenizer.as_ref().and_then(|t| t["added_tokens"].as_array()).unwrap_or(&no_tokens);
        for kind in self.types.clone() {
            if let Some(add) = config.get(&format!("add_{kind}_token")).and_then(Value::as_bool)
                && let Some((key, _)) = ADD_KEYS.iter().find(|(k, _)| *k == kind)
            {
                // What the post-processor does wins over what the configuration says.
                self.add.entry(key).or_insert(add);
            }
            let content = match config.get(&format!("{kind}_token")) {
                Some(Value::String(content)) => content.as_str(),
                Some(Value::Object(token)) => match token.get("content").and_then(Value::as_str) {
                    Some(content) => content,
                    None => continue,
                },
                _ => continue,
            };
            if let Some(token) = added.iter().find(|t| t["content"] == *content) {
                self.set(&kind, &token["id"])?;
            }
        }
        Ok(())
    }

    fn load_config(&mut self, dir: &Path) -> Result<()> {
        let Some(config) = folder::json(dir, "config.json")? else { return Ok(()) };
        for kind in self.types.clone() {
            let key = format!("{kind}_token_id");
            let id = &config[&key];
            let id = if id.is_null() { &config["text_config"][&key] } else { id };
            self.set(&kind, id).map_err(|e| e.at(dir.join("config.json")))?;
        }
        Ok(())
    }

    fn load_merges_txt(&mut self, dir: &Path) -> Result<()> {
        let Some(text) = folder::text(&dir.join("merges.txt"))? else { return Ok(()) };
        let body = match text.split_once('\n') {
            Some((first, rest)) if first.trim_matches(python_space).starts_with('#') => rest,
            _ => &text,
        };
        for line in body.lines() {
            let mut parts = line.split(python_space).filter(|s| !s.is_empty());
            if let (Some(a), Some(b), None) = (parts.next(), parts.next(), parts.next()) {
                self.merges.push(format!("{a} {b}"));
            }
        }
        Ok(())
    }

    fn parse_normalizer(&mut self, normalizer: &Value) {
        match normalizer["type"].as_str() {
            Some("Lowercase") => self.lowercase = Some(true),
            Some("StripAccents") => self.strip_accents = Some(true),
            Some("BertNormalizer") => {
                if let Some(v) = normalizer.get("lowercase") {
                    self.lowercase = v.as_bool();
                }
                if let Some(v) = normalizer.get("strip_accents") {
                    self.strip_accents = v.as_bool();
                }
            }
            Some("Sequence") => {
                for step in normalizer["normalizers"].as_array().into_iter().flatten() {
                    self.parse_normalizer(step);
                }
            }
            _ => {}
        }
    }

    /// Reads from the post-processor which special tokens a text gets, and completes `config` where it names none.
    fn parse_post_processor(&mut self, post: &Value, config: &mut Map<String, Value>) {
        let named = |config: &Map<String, Value>, key: &str| config.get(key).filter(|v| truthy(v)).cloned();
        let configured = !config.is_empty();
        let mut known = Known {
            bos: named(config, "bos_token"),
            cls: named(config, "cls_token"),
            eos: named(config, "eos_token"),
            sep: named(config, "sep_token"),
        };
        if known.bos.is_none() && known.cls.is_some() {
            known.bos = known.cls.clone();
            set(config, "bos_token", &known.bos);
        }
        if known.eos.is_none() && known.sep.is_some() {
            known.eos = known.sep.clone();
            set(config, "eos_token", &known.eos);
        }
        let single = std::slice::from_ref(post);
        let processors = match post.get("processors") {
            Some(list) => list.as_array().map_or(&[][..], Vec::as_slice),
            None => single,
        };
        for processor in processors {
            match processor["type"].as_str() {
                Some("ByteLevel") => {
                    self.add.entry("bos").or_insert(false);
                    self.add.entry("eos").or_insert(false);
                }
                Some("RobertaProcessing") => {
                    for kind in ["bos", "eos", "sep"] {
                        self.add.insert(kind, true);
                    }
                    if known.cls.is_none() && configured {
                        known.cls = processor.get("cls").map_or(known.bos.clone(), |v| Some(v[0].clone()));
                        set(config, "cls_token", &known.cls);
                    }
                    if known.sep.is_none() && configured {
                        known.sep = processor.get("sep").map_or(known.eos.clone(), |v| Some(v[0].clone()));
                        set(config, "sep_token", &known.sep);
                    }
                }
                Some("TemplateProcessing") => self.parse_template(processor, configured, &mut known, config),
                _ => {}
            }
        }
    }

    fn parse_template(
        &mut self,
        processor: &Value,
        configured: bool,
        known: &mut Known,
        config: &mut Map<String, Value>,
    ) {
        let special = |step: &Value| step["SpecialToken"].get("id").filter(|v| truthy(v)).cloned();
        let none = Vec::new();
        let single = processor["single"].as_array().unwrap_or(&none);
        let (mut first, mut last) = (None, None);
        if single.len() > 1 {
            first = single.first().and_then(special);
            if first.is_some() {
                if !configured {
                    known.bos = first.clone();
                } else if first != known.bos && first != known.cls {
                    if known.bos.is_none() {
                        known.bos = first.clone();
                        set(config, "bos_token", &first);
                    }
                    if known.cls.is_none() {
                        known.cls = first.clone();
                        set(config, "cls_token", &first);
                    }
                }
                self.add.insert("bos", first == known.bos || first == known.cls);
            }
            last = single.last().and_then(special);
            if last.is_some() {
                if !configured {
                    known.eos = last.clone();
                } else if last != known.eos {
                    // The token that ended texts until now ends a turn or a message.
                    for kind in ["eot", "eom"] {
                        if !self.types.iter().any(|t| t == kind) {
                            self.types.push(kind.to_owned());
                            set(config, &format!("{kind}_token"), &known.eos);
                            break;
                        }
                    }
                    known.eos = last.clone();
                    set(config, "eos_token", &last);
                }
                self.add.insert("eos", last == known.eos);
            }
        }
        let pair = processor["pair"].as_array().map_or(&[][..], Vec::as_slice);
        let starts = first.is_some() && pair.first().and_then(special) == first;
        let ends = last.is_some() && pair.last().and_then(special) == last;
        let begin = usize::from(starts);
        let inner = pair.get(begin..pair.len() - usize::from(ends && pair.len() > begin)).unwrap_or(&[]);
        // A [sep] [eos] B
        let [a, middle @ .., b] = inner else { return };
        if a["Sequence"]["id"] != "A" || b["Sequence"]["id"] != "B" || middle.is_empty() {
            return;
        }
        let separates = |token: &Option<Value>| token.is_some() && (*token == known.sep || *token == known.eos);
        let mut add = separates(&special(&middle[0])) && last.is_none();
        if let [_, second] = middle {
            add |= separates(&special(second));
        }
        self.add.insert("sep", add);
        if add && known.sep.is_none() && configured {
            set(config, "sep_token", &known.eos);
        }
    }
}

struct Known {
    bos: Option<Value>,
    cls: Option<Value>,
    eos: Option<Value>,
    sep: Option<Value>,
}

fn set(config: &mut Map<String, Value>, key: &str, value: &Option<Value>) {
    config.insert(key.to_owned(), value.clone().unwrap_or(Value::Null));
}

/// Refuses ids with a role beyond a vocabulary of this size: readers fall back to ids that mean something else. Nothing
/// is ever padded by a reader, so that id may be what it is.
///
/// # Errors
/// The first of them, by its key.
pub(crate) fn check_ids(keys: &Metadata, size: u64) -> Result<()> {
    for (role, key) in ID_KEYS.iter().filter(|(role, _)| *role != "pad") {
        if let Some(id) = keys.u64(key).filter(|&id| id >= size) {
            return Err(Error::input(format!("{role}_token_id is {id}, beyond the vocabulary of {size} tokens"))
                .help(format!("correct {role}_token_id, or add the token to the tokenizer's files")));
        }
    }
    Ok(())
}

/// What Python's `str.split()` splits at.
fn python_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// The merges of `tokenizer.json`, of both forms, as the strings that GGUF holds.
fn read_merges(merges: &Value) -> Result<Vec<String>> {
    let Some(merges) = merges.as_array().filter(|m| !m.is_empty()) else { return Ok(Vec::new()) };
    let malformed = || Error::input("the merges are neither strings nor pairs of strings");
    if merges[0].is_string() {
        return merges.iter().map(|m| m.as_str().map(str::to_owned).ok_or_else(malformed)).collect();
    }
    merges
        .iter()
        .map(|merge| match merge.as_array().map(Vec::as_slice) {
            // A space inside a part would be taken for the one between the parts.
            Some([Value::String(a), Value::String(b)]) => {
                Ok(format!("{} {}", a.replace(' ', "Ġ"), b.replace(' ', "Ġ")))
            }
            _ => Err(malformed()),
        })
        .collect()
}

/// The template of files beside the configuration: `chat_template.jinja` with `additional_chat_templates`, else
/// `chat_template.json`.
fn template_files(dir: &Path) -> Result<Option<Template>> {
    if let Some(default) = folder::text(&dir.join("chat_template.jinja"))? {
        let additional = folder::list(&dir.join(crate::side_files::TEMPLATES), "jinja")?;
        if additional.is_empty() {
            return Ok(Some(Template::One(default)));
        }
        let mut named = vec![serde_json::json!({"name": "default", "template": default})];
        for path in additional {
            let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
            named.push(serde_json::json!({"name": name, "template": folder::text(&path)?}));
        }
        return Ok(Some(Template::Named(named)));
    }
    Ok(match folder::json(dir, "chat_template.json")? {
        Some(file) => match &file["chat_template"] {
            Value::String(one) => Some(Template::One(one.clone())),
            Value::Array(named) => Some(Template::Named(named.clone())),
            _ => None,
        },
        None => None,
    })
}

fn write_template(template: &Template, out: &mut Metadata) {
    let choices = match template {
        Template::One(text) if text.is_empty() => return,
        Template::One(text) => {
            out.set("tokenizer.chat_template", text.as_str());
            return;
        }
        Template::Named(choices) => choices,
    };
    let mut default = None;
    let mut names: Vec<String> = Vec::new();
    for choice in choices {
        let name = choice["name"].as_str().unwrap_or_default();
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let Some(text) = choice["template"].as_str() else { continue };
        if name == "default" {
            default = Some(text);
        } else if !name.is_empty() {
            out.set(format!("tokenizer.chat_template.{name}"), text);
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    if !names.is_empty() {
        out.set("tokenizer.chat_templates", gguf::Array::strings(&names));
    }
    if let Some(text) = default {
        out.set("tokenizer.chat_template", text);
    }
}
