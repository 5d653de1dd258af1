//! JSON of files that others wrote: size bounded, no key twice at any level.
//!
//! The files beside the weights are written by Python, whose JSON has three words more: NaN, Infinity and -Infinity. They
//! are read as strings of that spelling, so that who needs a number there says so by the name of the key. Headers of
//! safetensors are JSON as the standard has it.

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::Path;

use gguf::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// No file beside the weights is larger than this; the largest known vocabularies are below 100 MB.
pub const MAX_BYTES: u64 = 1 << 28;

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

/// Parses a document as Python writes it, be there a byte-order mark before it.
///
/// # Errors
/// As [`parse`], and text in another encoding.
pub(crate) fn parse_python(bytes: &[u8]) -> Result<Value> {
    parse(&from_python(bytes)?).map_err(|e| Error::input("is not the JSON it should be").caused_by(e))
}

/// The text of Python's JSON as the standard has it: without a byte-order mark, its words between quotes.
///
/// # Errors
/// Text that is UTF-16.
pub(crate) fn from_python(bytes: &[u8]) -> Result<Cow<'_, [u8]>> {
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return Err(Error::input("is UTF-16 text").help("save it as UTF-8"));
    }
    Ok(quote_words(bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)))
}

/// Python's numbers that JSON has not, as they are written.
const WORDS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// A float, be it one of Python's words.
pub(crate) fn python_f64(value: &Value) -> Option<f64> {
    match value {
        Value::String(word) if WORDS.contains(&word.as_str()) => word.replace("Infinity", "inf").parse().ok(),
        other => other.as_f64(),
    }
}

/// The same text with Python's words between quotes.
fn quote_words(text: &[u8]) -> Cow<'_, [u8]> {
    let mut out: Vec<u8> = Vec::new();
    let (mut copied, mut i, mut quoted) = (0, 0, false);
    while let Some(&byte) = text.get(i) {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => i += 1,
            b'N' | b'I' | b'-' if !quoted => {
                if let Some(word) = WORDS.iter().find(|word| text[i..].starts_with(word.as_bytes())) {
                    out.extend(&text[copied..i]);
                    out.extend(format!("\"{word}\"").bytes());
                    i += word.len();
                    copied = i;
                    continue;
                }
            }
            _ => {}
        }
        i += 1;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.extend(&text[copied..]);
    Cow::Owned(out)
}

/// Reads a file's JSON.
///
/// # Errors
/// A file that is missing, unreadable, too large or no JSON.
pub(crate) fn read(path: &Path) -> Result<Value> {
    parse_python(&read_bytes(path)?).map_err(|e| e.at(path))
}

/// Reads a file's JSON if the file is there.
///
/// # Errors
/// A file that is there but unreadable, too large or no JSON.
pub fn read_optional(path: &Path) -> Result<Option<Value>> {
    if path.is_file() { read(path).map(Some) } else { Ok(None) }
}

/// Reads a small file beside the weights.
///
/// # Errors
/// A file that is missing, unreadable or too large.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    read_at_most(path, MAX_BYTES)
}

/// Reads a file of at most this many bytes.
///
/// # Errors
/// A file that is missing, unreadable or larger.
pub fn read_at_most(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = fs::File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, "read", e))?;
    if bytes.len() as u64 > most {
        return Err(Error::input(format!("is larger than {most} bytes, the most that is read of it")).at(path));
    }
    Ok(bytes)
}

/// Reads a text of at most this many bytes.
///
/// # Errors
/// A file that is missing, unreadable, larger or not UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    String::from_utf8(read_at_most(path, most)?)
        .map_err(|e| Error::input("is not UTF-8 text").at(path).at_offset(e.utf8_error().valid_up_to() as u64))
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
    fn numbers_that_only_python_has_are_kept_by_name() {
        let text = br#"{"a": NaN, "b": [0.0, Infinity, -Infinity], "NaN, \"Infinity": "x NaN \\", "c": -1}"#;
        let value = parse_python(text).unwrap();
        assert_eq!(value["a"], "NaN");
        assert_eq!(value["b"], serde_json::json!([0.0, "Infinity", "-Infinity"]));
        assert_eq!((&value["NaN, \"Infinity"], &value["c"]), (&"x NaN \\".into(), &(-1).into()));
        assert!(parse(text).is_err());
        assert!(python_f64(&value["a"]).is_some_and(f64::is_nan));
        assert_eq!(value["b"].as_array().unwrap().iter().filter_map(python_f64).sum::<f64>().to_string(), "NaN");
        assert_eq!(python_f64(&value["b"][2]), Some(f64::NEG_INFINITY));
        assert_eq!((python_f64(&"nan".into()), python_f64(&1.5.into())), (None, Some(1.5)));
        for wrong in ["nan", "-NaN", "NaNs", "+Infinity", "InfinityInfinity", "Nan"] {
            assert!(parse_python(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_mark_of_byte_order_is_no_part_of_the_document() {
        assert_eq!(parse_python(b"\xEF\xBB\xBF{}").unwrap(), serde_json::json!({}));
        assert!(parse(b"\xEF\xBB\xBF{}").is_err());
        assert!(parse_python(b"\xEF\xBB\xBF\xEF\xBB\xBF{}").is_err());
        assert!(parse_python(b"\xFF\xFE{\0}\0").unwrap_err().to_string().contains("UTF-16"));
    }

    #[test]
    fn files_are_read_to_a_limit() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "{\"a\": 1}").unwrap();
        assert_eq!(read_text(file.path(), 8).unwrap(), "{\"a\": 1}");
        assert!(read_at_most(file.path(), 7).unwrap_err().to_string().contains("larger than 7 bytes"));
        #[cfg(unix)]
        assert!(read_text(Path::new("/dev/zero"), 1000).is_err());
        fs::write(file.path(), b"ab\xFF").unwrap();
        assert!(read_text(file.path(), 8).unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn deep_nesting_is_refused_not_followed() {
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
