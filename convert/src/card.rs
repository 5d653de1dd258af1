//! The front matter of a model card: the YAML between the first two lines of three dashes.
//!
//! The card comes from anyone, so nothing of it is followed further than to a limit: bytes, values (an alias counts as
//! all it stands for) and depth. What is written by hand is read as PyYAML reads it: a key that stands twice has its
//! last value, and `<<` takes over the keys of other mappings.

use std::collections::BTreeMap;
use std::path::Path;

use gguf::{Error, Result};
use serde_json::{Map, Value};
use yaml_rust2::parser::{Event, Parser, Tag};
use yaml_rust2::scanner::TScalarStyle;
use yaml_rust2::{Yaml, scanner::ScanError};

use crate::json;

/// Longer cards are no cards; those with hundreds of results have some hundred kilobytes.
const MAX_BYTES: u64 = 1 << 24;

/// Values of a front matter, those that aliases repeat included.
const MAX_VALUES: usize = 1 << 19;

/// Collections inside each other.
const MAX_DEPTH: usize = 64;

/// The front matter of a card, if there are a card and a front matter that is a mapping.
///
/// # Errors
/// A file that cannot be read, or a front matter that is no YAML or too large.
pub(crate) fn read(path: &Path) -> Result<Option<Value>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&json::read_at_most(path, MAX_BYTES)?).into_owned();
    front_matter(&text)
        .map_err(|e| e.at(path).help("fix the lines between the two ---, or leave the card aside with --no-model-card"))
}

/// The front matter of this text.
fn front_matter(text: &str) -> Result<Option<Value>> {
    let mut lines = text.lines();
    if lines.next() != Some("---") {
        return Ok(None);
    }
    let mut front: String = lines.take_while(|line| *line != "---").flat_map(|line| [line, "\n"]).collect();
    // Norwegian, and tabs for indentation: what cards get wrong.
    front = front.replace("- no\n", "- \"no\"\n").replace('\t', "  ");
    Ok(document(&front)?.filter(Value::is_object))
}

/// The first document of a YAML text.
fn document(text: &str) -> Result<Option<Value>> {
    let mut parser = Parser::new_from_str(text);
    let mut reader = Reader::default();
    loop {
        let (event, _) = parser.next_token().map_err(not_yaml)?;
        match event {
            Event::DocumentEnd | Event::StreamEnd => return Ok(reader.root),
            Event::Nothing | Event::StreamStart | Event::DocumentStart => {}
            event => reader.take(event)?,
        }
    }
}

fn not_yaml(error: ScanError) -> Error {
    Error::input("the front matter of the model card is not YAML").caused_by(error)
}

fn wrong(what: &str) -> Error {
    Error::input(format!("the front matter of the model card {what}"))
}

/// A value and how many values it is made of.
#[derive(Clone, Debug)]
struct Counted {
    value: Value,
    count: usize,
}

/// A collection that is not complete.
#[derive(Debug)]
struct Open {
    anchor: usize,
    count: usize,
    items: Items,
}

#[derive(Debug)]
enum Items {
    Sequence(Vec<Value>),
    Mapping { own: Map<String, Value>, merged: Vec<Map<String, Value>>, key: Option<Key> },
}

#[derive(Debug)]
enum Key {
    /// A key that is text; others are of no use here.
    Text(Option<String>),
    /// The keys of the value are taken over.
    Merge,
}

#[derive(Debug, Default)]
struct Reader {
    root: Option<Value>,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Counted>,
    values: usize,
}

impl Reader {
    fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::SequenceStart(anchor, _) => self.begin(anchor, Items::Sequence(Vec::new())),
            Event::MappingStart(anchor, _) => {
                self.begin(anchor, Items::Mapping { own: Map::new(), merged: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { anchor, count, items }) = self.open.pop() else { return Err(wrong("ends too early")) };
                let value = match items {
                    Items::Sequence(items) => Value::Array(items),
                    Items::Mapping { own, merged, .. } => {
                        // Of mappings that are merged the first one has the last word, and own keys before all.
                        let mut all = Map::new();
                        merged.into_iter().rev().chain([own]).for_each(|map| all.extend(map));
                        Value::Object(all)
                    }
                };
                self.value(Counted { value, count }, anchor)
            }
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor).cloned();
                let value = value.ok_or_else(|| wrong("has an alias of what it is part of"))?;
                self.count(value.count)?;
                self.value(value, 0)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1)?;
                let plain = style == TScalarStyle::Plain && tag.is_none();
                if plain
                    && text == "<<"
                    && let Some(Open { items: Items::Mapping { key: key @ None, .. }, .. }) = self.open.last_mut()
                {
                    *key = Some(Key::Merge);
                    return Ok(());
                }
                self.value(Counted { value: scalar(text, style, tag.as_ref()), count: 1 }, anchor)
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, anchor: usize, items: Items) -> Result<()> {
        if self.open.len() == MAX_DEPTH {
            return Err(wrong(&format!("nests deeper than {MAX_DEPTH} collections")));
        }
        self.count(1)?;
        self.open.push(Open { anchor, count: 1, items });
        Ok(())
    }

    fn count(&mut self, more: usize) -> Result<()> {
        self.values = self.values.saturating_add(more);
        if self.values > MAX_VALUES {
            return Err(wrong(&format!("has more than {MAX_VALUES} values")));
        }
        Ok(())
    }

    /// Puts a complete value where it belongs.
    fn value(&mut self, counted: Counted, anchor: usize) -> Result<()> {
        if anchor > 0 {
            self.anchors.insert(anchor, counted.clone());
            // The copy is a value as well.
            self.count(counted.count)?;
        }
        let Counted { value, count } = counted;
        let Some(open) = self.open.last_mut() else {
            self.root.get_or_insert(value);
            return Ok(());
        };
        open.count += count;
        match &mut open.items {
            Items::Sequence(items) => items.push(value),
            Items::Mapping { own, merged, key } => match key.take() {
                None => *key = Some(Key::Text(text_of(&value))),
                Some(Key::Text(Some(key))) => _ = own.insert(key, value),
                Some(Key::Text(None)) => {}
                Some(Key::Merge) => match value {
                    Value::Object(map) => merged.push(map),
                    Value::Array(maps) => {
                        for map in maps {
                            let Value::Object(map) = map else { return Err(wrong("merges what is no mapping")) };
                            merged.push(map);
                        }
                    }
                    _ => return Err(wrong("merges what is no mapping")),
                },
            },
        }
        Ok(())
    }
}

/// Scalars keep their spelling: a version is `1.0`, not 1.
fn scalar(text: String, style: TScalarStyle, tag: Option<&Tag>) -> Value {
    let says_text = tag.is_some_and(|tag| tag.suffix == "str" || !tag.handle.contains("yaml.org"));
    if style != TScalarStyle::Plain || says_text {
        return Value::String(text);
    }
    match Yaml::from_str(&text) {
        Yaml::Integer(n) => Value::String(n.to_string()),
        Yaml::Boolean(b) => Value::Bool(b),
        Yaml::Null => Value::Null,
        _ => Value::String(text),
    }
}

/// A key that is no collection, as text.
fn text_of(key: &Value) -> Option<String> {
    match key {
        Value::String(text) => Some(text.clone()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn front(yaml: &str) -> Result<Option<Value>> {
        front_matter(&format!("---\n{yaml}\n---\n# Title\n"))
    }

    #[test]
    fn mappings_are_merged_as_pyyaml_merges_them() {
        for (yaml, expected) in [
            ("base: &b {name: X}\n<<: *b\nauthor: Z", json!({"base": {"name": "X"}, "name": "X", "author": "Z"})),
            (
                "name: own\nbase: &b {name: X, license: mit}\n<<: *b",
                json!({"base": {"name": "X", "license": "mit"}, "name": "own", "license": "mit"}),
            ),
            (
                "a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\n<<: [*a, *b]\nc: 3",
                json!({"a": {"x": "1", "y": "1"}, "b": {"x": "2", "z": "2"}, "x": "1", "y": "1", "z": "2", "c": "3"}),
            ),
            ("<<: {name: X}\nname: Y", json!({"name": "Y"})),
            ("<<: {name: X}\n<<: {author: Y}", json!({"name": "X", "author": "Y"})),
            ("a: {<<: {name: X}, b: 1}", json!({"a": {"name": "X", "b": "1"}})),
            ("\"<<\": {name: X}", json!({"<<": {"name": "X"}})),
            ("a: <<", json!({"a": "<<"})),
            ("name: one\nname: two", json!({"name": "two"})),
            ("tags: &t [a, b]\nlanguage: *t", json!({"tags": ["a", "b"], "language": ["a", "b"]})),
            (
                "version: 1.0\nyes: true\nno: ~\ntext: '1'\nmore: !!str 2",
                json!({"version": "1.0", "yes": true, "no": null, "text": "1", "more": "2"}),
            ),
        ] {
            assert_eq!(front(yaml).unwrap(), Some(expected), "{yaml}");
        }
        for yaml in ["<<: 3", "<<: [1]", "a: *nowhere", "a: &a [*a]", "a: [", "a: \"b"] {
            assert!(front(yaml).is_err(), "{yaml}");
        }
        for yaml in ["", "- a", "text", "# comment"] {
            assert_eq!(front(yaml).unwrap(), None, "{yaml}");
        }
        assert_eq!(front_matter("no front\n---\na: 1").unwrap(), None);
        assert_eq!(front_matter("").unwrap(), None);
    }

    #[test]
    fn little_text_makes_little_of_it() {
        let laughs: String =
            (1..30).map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(", "))).collect();
        let laughs = format!("a0: &a0 [ha, ha]\n{laughs}");
        let merges: String =
            (1..40).map(|i| format!("b{i}: &b{i} {{<<: [*b{0}, *b{0}], k{i}: *b{0}}}\n", i - 1)).collect();
        let merges = format!("b0: &b0 {{x: 1}}\n{merges}");
        for (yaml, word) in [
            (laughs.as_str(), "values"),
            (&merges, "values"),
            (&"- ".repeat(200_000), "nests deeper"),
            (&"[".repeat(200_000), "model card"),
            (&"{a: ".repeat(200_000), "model card"),
            (&"a: ".repeat(10_000), "not YAML"),
            (&(0..300).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>(), "nests deeper"),
        ] {
            let error = front(yaml).unwrap_err().to_string();
            assert!(error.contains(word), "{}: {error}", &yaml[..20]);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in r#"[ \-\n:,&*<>\[\]{}'"|!#?%@ab1.~]{0,200}"#) {
            let _ = front(&text);
        }

        #[test]
        fn any_lines_are_read_or_refused(lines in prop::collection::vec(r#"( {0,3}(- )?([a-c]|<<): ?(&[a-c] |\*[a-c]|\[.{0,9}\]|\{.{0,9}\}|\||>-|"?[a-z ]{0,9}"?)?|.{0,12})"#, 0..30)) {
            let _ = front(&lines.join("\n"));
        }
    }
}
