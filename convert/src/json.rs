//! JSON of files that others wrote: size bounded, no key twice at any level.

use std::fmt;
use std::fs;
use std::io::Read;
use std::path::Path;

use gguf::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// No JSON file beside the weights is larger than this; the largest known vocabularies are below 100 MB.
const MAX_BYTES: u64 = 1 << 30;

/// Parses a document in which no object has a key twice.
///
/// # Errors
/// What the grammar forbids, and a key that stands twice: two readers could see different values.
pub(crate) fn parse(bytes: &[u8]) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Unique.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Reads a file's JSON.
///
/// # Errors
/// A file that is missing, unreadable, too large or no JSON.
pub(crate) fn read(path: &Path) -> Result<Value> {
    let bytes = read_bytes(path)?;
    parse(&bytes).map_err(|e| Error::input("is not the JSON it should be").at(path).caused_by(e))
}

/// Reads a file's JSON if the file is there.
///
/// # Errors
/// A file that is there but unreadable, too large or no JSON.
pub(crate) fn read_optional(path: &Path) -> Result<Option<Value>> {
    if path.is_file() { read(path).map(Some) } else { Ok(None) }
}

/// Reads a small file beside the weights.
///
/// # Errors
/// A file that is missing, unreadable or too large.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let file = fs::File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, "read", e))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::input(format!("is larger than {MAX_BYTES} bytes")).at(path));
    }
    Ok(bytes)
}

struct Unique;

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Unique)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(Unique)?;
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} stands twice in one object")));
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_refused_at_any_level() {
        assert!(parse(br#"{"a": 1, "b": {"a": 2}}"#).is_ok());
        assert!(parse(br#"{"a": 1, "a": 2}"#).is_err());
        assert!(parse(br#"{"x": [{"a": 1, "a": 2}]}"#).is_err());
        assert!(parse(b"{} {}").is_err());
    }

    #[test]
    fn deep_nesting_is_refused_not_followed() {
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
