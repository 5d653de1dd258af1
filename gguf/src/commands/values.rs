//! Values of keys as people and programs read them.

use serde_json::{Value as Json, json};

use crate::quote;
use crate::value::{Array, Value, ValueType};

/// `str`, `u32`, `[str; 2048]`.
pub fn type_name(value: &Value) -> String {
    match value {
        Value::Array(array) => format!("[{}; {}]", array.element_type(), array.len()),
        other => other.value_type().name().to_owned(),
    }
}

/// Elements of an array that are shown.
const SHOWN: usize = 8;

/// Characters of a string that are shown.
const SHOWN_CHARS: usize = 80;

/// A value on one short line.
pub fn short(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let text = quote::text(&text.to_str_lossy());
            match text.char_indices().nth(SHOWN_CHARS) {
                None => text,
                Some((end, _)) => format!("{}… ({} bytes)", &text[..end], count_bytes(value)),
            }
        }
        Value::Array(array) => {
            let quoted = array.element_type() == ValueType::String;
            let items: Vec<String> = array
                .iter()
                .take(SHOWN)
                .map(|v| {
                    let text: String = short(&v).chars().take(24).collect();
                    if quoted { format!("\"{text}\"") } else { text }
                })
                .collect();
            let more = if array.len() > SHOWN as u64 { ", …" } else { "" };
            format!("[{}{more}]", items.join(", "))
        }
        other => whole(other),
    }
}

fn count_bytes(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.as_bytes().len() as u64,
        _ => 0,
    }
}

/// A value in full.
pub fn whole(value: &Value) -> String {
    match value {
        Value::U8(v) => v.to_string(),
        Value::I8(v) => v.to_string(),
        Value::U16(v) => v.to_string(),
        Value::I16(v) => v.to_string(),
        Value::U32(v) => v.to_string(),
        Value::I32(v) => v.to_string(),
        Value::F32(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
        Value::U64(v) => v.to_string(),
        Value::I64(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::String(text) => text.to_str_lossy().into_owned(),
        Value::Array(array) => {
            let lines: Vec<String> = array.iter().map(|v| whole(&v)).collect();
            lines.join("\n")
        }
    }
}

pub fn short_json(value: &Value) -> Json {
    match value {
        Value::Array(array) if array.len() > SHOWN as u64 => json!({
            "length": array.len(),
            "first": array.iter().take(SHOWN).map(|v| short_json(&v)).collect::<Vec<_>>(),
        }),
        other => whole_json(other),
    }
}

/// A value as JSON; what JSON has no number for becomes a string.
pub fn whole_json(value: &Value) -> Json {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::F32(v) if v.is_finite() => json!(v),
        Value::F32(v) => json!(v.to_string()),
        Value::Bool(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F64(v) if v.is_finite() => json!(v),
        Value::F64(v) => json!(v.to_string()),
        Value::String(text) => json!(text.to_str_lossy()),
        Value::Array(array) => array_json(array),
    }
}

fn array_json(array: &Array) -> Json {
    Json::Array(array.iter().map(|v| whole_json(&v)).collect())
}
