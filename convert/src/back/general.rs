//! What a file says of itself beside the model: `generation_config.json` and the front matter of a model card.

use gguf::{Array, Metadata, Value};
use serde_json::{Value as Json, json};

use super::{Object, keys::float};
use crate::metadata::SAMPLING;
use crate::tokenizer::back::roles;

/// The samplers that the file recommends, and the tokens at which a text ends.
pub(super) fn generation(metadata: &Metadata) -> Json {
    let mut out = Object::new();
    for (key, _, names) in SAMPLING {
        let value = match metadata.get(&format!("general.sampling.{key}")) {
            Some(Value::F32(v)) => float(*v),
            Some(other) => match (other.as_str(), other.as_i64()) {
                (Some(text), _) => text.into(),
                (_, Some(number)) => number.into(),
                _ => continue,
            },
            None => continue,
        };
        // The last name is the one that the transformers library reads.
        if let Some(name) = names.last() {
            out.insert((*name).to_owned(), value);
        }
    }
    for role in roles(metadata).filter(|role| ["bos", "eos", "pad"].contains(&role.name)) {
        out.insert(format!("{}_token_id", role.name), role.id.into());
    }
    let suppressed = metadata.array("tokenizer.ggml.suppress_tokens").and_then(gguf::Array::to_i32s);
    if let Some(tokens) = suppressed.filter(|tokens| !tokens.is_empty()) {
        out.insert("suppress_tokens".to_owned(), tokens.into());
    }
    Json::Object(out)
}

/// Keys of a file and the names that a card has for them.
const TEXTS: &[(&str, &str)] = &[
    ("name", "name"),
    ("author", "author"),
    ("version", "version"),
    ("organization", "organization"),
    ("finetune", "finetune"),
    ("basename", "basename"),
    ("description", "description"),
    ("size_label", "size_label"),
    ("license", "license"),
    ("license.name", "license_name"),
    ("license.link", "license_link"),
    ("source.url", "url"),
    ("source.doi", "doi"),
    ("source.uuid", "uuid"),
    ("source.repo_url", "repo_url"),
];

/// A model card with the front matter that gives the file's general keys. What a projector file beside it says otherwise
/// was not read from a card.
pub(super) fn card(metadata: &Metadata, projector: Option<&Metadata>) -> Option<String> {
    let mut front: Vec<(&str, Json)> = Vec::new();
    for (key, field) in TEXTS {
        let key = format!("general.{key}");
        let alike = |text: &str| projector.is_none_or(|other| other.str(&key).is_none_or(|own| own == text));
        if let Some(text) = metadata.str(&key).filter(|text| alike(text)) {
            front.push((field, text.into()));
        }
    }
    for (field, key) in [("base_models", "base_model"), ("datasets", "dataset")] {
        let Some(count) = metadata.u64(&format!("general.{key}.count")).filter(|n| *n <= 1024) else { continue };
        front.push((field, (0..count).map(|i| origin(metadata, &format!("general.{key}.{i}."))).collect()));
    }
    for (field, key) in [("tags", "tags"), ("language", "languages")] {
        if let Some(list) = metadata.array(&format!("general.{key}")) {
            front.push((field, texts(list)));
        }
    }
    if front.is_empty() {
        return None;
    }
    // JSON is YAML too, and nothing in it is taken for something else.
    let lines: String = front.iter().map(|(field, value)| format!("{field}: {value}\n")).collect();
    let title = metadata.str("general.name").unwrap_or("Model").replace(['\n', '\r'], " ");
    Some(format!("---\n{lines}---\n\n# {title}\n\nMade from a GGUF file.\n"))
}

fn texts(list: &Array) -> Json {
    list.iter().filter_map(|v| v.as_str().map(Json::from)).collect()
}

/// A base model or a dataset.
fn origin(metadata: &Metadata, beginning: &str) -> Json {
    let own = metadata.iter().filter_map(|(key, value)| Some((key.strip_prefix(beginning)?, value.as_str()?)));
    Json::Object(own.map(|(field, text)| (field.to_owned(), json!(text))).collect())
}
