//! What the configuration classes of the transformers library take, kind by kind.
//!
//! A class of the library refuses a configuration one of whose fields has another type, and the reference then reads
//! `config.json` as it stands: nothing is filled in and nothing renamed. `fields.txt` says the types; its form is told in
//! `fixtures/generated/fields.py`, which makes it.

use serde_json::{Map, Value};

const TABLE: &str = include_str!("fields.txt");

/// Parts of a line that say something else than the types of fields.
const NOT_TYPES: &[&str] = &["text", "layers", "names"];

/// The fields of one kind of model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields(&'static str);

/// What becomes of a field that is null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Null {
    /// It stays null.
    Stays,
    /// The class computes what stands in its place.
    Computed,
    /// Nothing is known of it.
    Unsaid,
}

impl Fields {
    /// The fields of this `model_type`.
    pub(crate) fn of(kind: &str) -> Option<Fields> {
        let line = TABLE.lines().find(|line| line.split(' ').next() == Some(kind));
        line.map(Fields)
    }

    /// The library's classes of this kind.
    pub(crate) fn classes(self) -> impl Iterator<Item = &'static str> {
        self.parts().next().into_iter().flat_map(|(_, classes)| classes.split(','))
    }

    /// What the text model's part is where it does not say.
    fn text(self) -> Option<Fields> {
        self.said("text").and_then(Fields::of)
    }

    /// Other names that are taken for fields, each with the field.
    pub(crate) fn names(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.said("names").into_iter().flat_map(|names| names.split(' ')).filter_map(|pair| pair.split_once('>'))
    }

    fn said(self, what: &str) -> Option<&'static str> {
        self.parts().skip(1).find(|(own, _)| *own == what).map(|(_, said)| said)
    }

    /// Types, and the fields that have them.
    fn parts(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.0.split(" | ").map(|part| part.split_once(' ').unwrap_or((part, "")))
    }

    /// The types of a field.
    fn types(self, field: &str) -> Option<&'static str> {
        let mut parts = self.parts().skip(1).filter(|(types, _)| !NOT_TYPES.contains(types));
        parts.find(|(_, fields)| fields.split(' ').any(|own| own == field)).map(|(types, _)| types)
    }

    /// Whether the class has a field of this name, not only another that it stands for.
    pub(crate) fn declares(self, field: &str) -> bool {
        self.types(field).is_some_and(|types| !types.starts_with('*'))
    }

    /// What becomes of a field that is null.
    pub(crate) fn null(self, field: &str) -> Null {
        match self.types(field) {
            Some(types) if types.ends_with('?') => Null::Stays,
            Some(types) if types.ends_with('!') => Null::Computed,
            _ => Null::Unsaid,
        }
    }

    /// The first field whose value the class refuses.
    fn refused(self, values: &Map<String, Value>) -> Option<&str> {
        let mut fields = values.iter().filter_map(|(field, value)| Some((field, value, self.types(field)?)));
        let refused = fields.find(|(_, value, types)| !takes(types, value));
        refused.map(|(field, ..)| field.as_str()).or_else(|| {
            const COUNT: &str = "num_hidden_layers";
            let usual: u64 = self.said("layers")?.parse().ok()?;
            let other = self.names().find(|(name, _)| *name == COUNT).map_or(COUNT, |(_, field)| field);
            let count = values.get(COUNT).or_else(|| values.get(other)).map_or(Some(usual), Value::as_u64)?;
            let kinds = values.get("layer_types").and_then(Value::as_array)?;
            (kinds.len() as u64 != count).then_some("layer_types")
        })
    }
}

/// The fields of a configuration, and those of its text model where that is a part of it.
pub(crate) fn of(root: &Map<String, Value>, text: Option<&Map<String, Value>>) -> [Option<Fields>; 2] {
    let stated = |map: &Map<String, Value>| map.get("model_type").and_then(Value::as_str).and_then(Fields::of);
    let whole = stated(root);
    [whole, text.and_then(|text| stated(text).or_else(|| whole?.text()))]
}

/// The field whose value the library's class of a configuration refuses, or of its text model.
pub(crate) fn refused<'a>(root: &'a Map<String, Value>, text: Option<&'a Map<String, Value>>) -> Option<&'a str> {
    refused_of(of(root, text), root, text)
}

/// The same where their fields are known.
pub(crate) fn refused_of<'a>(
    [whole, part]: [Option<Fields>; 2],
    root: &'a Map<String, Value>,
    text: Option<&'a Map<String, Value>>,
) -> Option<&'a str> {
    whole.and_then(|fields| fields.refused(root)).or_else(|| part?.refused(text?))
}

/// Whether one of these types takes a value.
fn takes(types: &str, value: &Value) -> bool {
    let null = types.ends_with(['?', '!']);
    value.is_null() && null || types.trim_end_matches(['?', '!']).split('/').any(|own| is(own, value))
}

fn is(own: &str, value: &Value) -> bool {
    match (own.split_at_checked(1).unwrap_or((own, "")), value) {
        (("*", _), value) => !value.is_null(),
        (("b", _), Value::Bool(_)) | (("s", _), Value::String(_)) | (("d", _), Value::Object(_)) => true,
        (("i", _), Value::Number(number)) => !number.is_f64(),
        (("f", _), Value::Number(number)) => number.is_f64(),
        // What JSON has no number for, as the library writes it.
        (("f", _), Value::Object(value)) => value.contains_key("__float__"),
        (("l", of), Value::Array(items)) => items.iter().all(|item| of.split("").any(|own| is(own, item))),
        (("=", names), Value::String(value)) => names.split(',').any(|name| name == value),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn kinds_are_sorted_and_known() {
        let kinds: Vec<&str> = TABLE.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(kinds.is_sorted_by(|a, b| a < b));
        for kind in kinds {
            assert!(super::super::MODEL_TYPES.lines().any(|known| known == kind), "{kind}");
            let fields = Fields::of(kind).unwrap();
            for (types, names) in fields.parts().skip(1) {
                let known = types.trim_end_matches(['?', '!']).split('/').all(|own| {
                    matches!(own, "*" | "b" | "i" | "f" | "s" | "d")
                        || NOT_TYPES.contains(&own)
                        || own.starts_with(['l', '='])
                });
                assert!(known && !names.contains("  "), "{kind}: {types}");
            }
        }
    }

    #[test]
    fn fields_have_the_types_of_the_library() {
        for (kind, text, field) in [
            ("llama", r#"{"rms_norm_eps": 1e-5, "attention_dropout": 0, "head_dim": null, "unknown": []}"#, None),
            ("llama", r#"{"rms_norm_eps": 1}"#, Some("rms_norm_eps")),
            ("llama", r#"{"hidden_size": 64.0}"#, Some("hidden_size")),
            ("llama", r#"{"attention_bias": null}"#, Some("attention_bias")),
            ("llama", r#"{"eos_token_id": [1, 2]}"#, None),
            ("llama", r#"{"eos_token_id": ["1"]}"#, Some("eos_token_id")),
            ("modernbert", r#"{"classifier_pooling": "max"}"#, Some("classifier_pooling")),
            ("modernbert", r#"{"num_hidden_layers": 2, "layer_types": ["full_attention"]}"#, Some("layer_types")),
            ("gemma3", r#"{"text_config": {"head_dim": 1.5}}"#, Some("head_dim")),
            ("gemma2", r#"{"layer_types": ["full_attention"]}"#, Some("layer_types")),
            ("gpt2", r#"{"n_layer": 1, "layer_types": ["full_attention"]}"#, None),
            ("mamba2", r#"{"time_step_limit": [0.0, {"__float__": "Infinity"}]}"#, None),
            ("nonsense", r#"{"hidden_size": "a"}"#, None),
        ] {
            let mut root = map(text);
            root.insert("model_type".into(), kind.into());
            let own = root.get("text_config").and_then(Value::as_object);
            assert_eq!(refused(&root, own), field, "{kind} {text}");
        }
        let null = |kind: &str, field: &str| Fields::of(kind).map(|fields| fields.null(field));
        assert_eq!(null("llama", "head_dim"), Some(Null::Computed));
        assert_eq!(null("deepseek_v3", "head_dim"), Some(Null::Stays));
        assert_eq!(null("llama", "rms_norm_eps"), Some(Null::Unsaid));
    }
}
