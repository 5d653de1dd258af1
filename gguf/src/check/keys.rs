//! Keys and the encoding of their values.

use std::collections::hash_map::Entry;

use super::finding::{Place, Severity, Sink};
use super::scan::{Key, Reader, Scan};
use crate::cursor::{MAX_ARRAY_DEPTH, MAX_ARRAY_LEN, little_endian};
use crate::quote::shortened;
use crate::read::{DEFAULT_ALIGNMENT, MAX_KEY_BYTES};
use crate::value::{Array, Endian, Text, Value, ValueType};

rules! { Keys;
    KV_TRUNCATED = "kv-truncated" Error "ggml"
        "every key that the header counts stands in the file"
        => "the file is cut short or its count is wrong; fetch or write it again";
    KEY_EMPTY = "key-empty" Error "ggml"
        "a key has at least one byte"
        => "write the file again without the empty key";
    KEY_TOO_LONG = "key-too-long" Error "specification"
        "a key has at most 65535 bytes"
        => "write the file again with a shorter key";
    KEY_CHARSET = "key-charset" Warning "specification"
        "a key is lower_snake_case segments with dots between (a hyphen may stand in an architecture's name)"
        => "`gguf rename FILE OLD NEW`";
    KEY_INVALID_UTF8 = "key-invalid-utf8" Error "specification"
        "a key is valid UTF-8"
        => "write the file again; readers disagree about such keys";
    KEY_CONTAINS_NUL = "key-contains-nul" Error "ours: readers in C and Python would see different keys"
        "a key holds no NUL"
        => "write the file again; do not trust this one";
    KEY_DUPLICATE = "key-duplicate" Error "ggml"
        "a key stands once"
        => "`gguf remove FILE KEY` cannot choose for you: write the file again";
    VALUE_TYPE_UNKNOWN = "value-type-unknown" Error "specification"
        "a value has one of the types 0 to 12"
        => "what follows cannot be read; write the file again";
    STRING_EXCEEDS_FILE = "string-exceeds-file" Error "ggml; CVE-2024-21825, CVE-2024-23605"
        "a string ends inside the file"
        => "the file is cut short, damaged or hostile; fetch it again";
    STRING_INVALID_UTF8 = "string-invalid-utf8" Warning "specification"
        "a string is valid UTF-8"
        => "set the key again with valid text (tokens may be raw bytes in old files)";
    STRING_CONTAINS_NUL = "string-contains-nul" Warning "ours: readers in C stop at it"
        "a string holds no NUL"
        => "set the key again without it";
    BOOL_INVALID = "bool-invalid" Error "specification"
        "a boolean is 0 or 1"
        => "write the file again; strict readers do not open this one";
    ARRAY_TOO_LONG = "array-too-long" Error "ggml; CVE-2024-25665, CVE-2024-25666"
        "an array has at most 2^30 elements, and they fit the bytes that remain"
        => "the file is cut short, damaged or hostile; fetch it again";
    ARRAY_ELEMENT_TYPE = "array-element-type" Error "specification"
        "an array's elements have one of the types 0 to 12, even when there are none"
        => "what follows cannot be read; write the file again";
    ARRAY_NESTED = "array-nested" Warning "ours: ggml refuses arrays of arrays"
        "arrays hold no arrays; deeper than 4 is an error, since readers recurse"
        => "flatten the array";
    ALIGNMENT_TYPE = "alignment-type" Error "ggml"
        "general.alignment is a u32"
        => "write the file again with an alignment of 32, as a u32";
    ALIGNMENT_INVALID = "alignment-invalid" Error "ggml; CVE-2025-0317"
        "general.alignment is a power of two"
        => "write the file again with an alignment of 32";
    ALIGNMENT_UNUSUAL = "alignment-unusual" Warning "specification"
        "general.alignment is a multiple of 8, and not above 65536"
        => "`gguf set FILE general.alignment 32` lays the file out again";
}

/// Reads the keys; `false` where what follows cannot be told apart.
pub(super) fn read(reader: &mut Reader, count: u64, scan: &mut Scan, sink: &mut Sink<'_>) -> bool {
    for i in 0..count {
        let at = reader.at;
        let Some(key) = read_key(reader, at, i, count, sink) else { return false };
        let Some(id) = reader.u32() else {
            truncated(reader.at, i, count, sink);
            return false;
        };
        let Some(ty) = ValueType::from_id(id) else {
            sink.add(
                &VALUE_TYPE_UNKNOWN,
                Place::key(reader.at - 4, &key),
                format_args!("key {}: value type {id} is unknown", shortened(&key)),
            );
            return false;
        };
        let Some(value) = read_value(reader, ty, &key, sink) else { return false };
        match scan.by_key.entry(key.clone()) {
            Entry::Occupied(_) => {
                sink.add(
                    &KEY_DUPLICATE,
                    Place::key(at, &key),
                    format_args!("the key {} stands twice", shortened(&key)),
                );
            }
            Entry::Vacant(entry) => {
                entry.insert(scan.keys.len());
                scan.keys.push(Key { at, name: key, value });
            }
        }
    }
    true
}

fn truncated(at: u64, i: u64, count: u64, sink: &mut Sink<'_>) {
    sink.add(&KV_TRUNCATED, Place::byte(at), format_args!("the file ends inside key {i} of {count}"));
}

fn read_key(reader: &mut Reader, at: u64, i: u64, count: u64, sink: &mut Sink<'_>) -> Option<String> {
    let Some(len) = reader.u64() else {
        truncated(at, i, count, sink);
        return None;
    };
    let Some(bytes) = reader.take(len) else {
        sink.add(
            &STRING_EXCEEDS_FILE,
            Place::byte(at),
            format_args!("key {i} has {len} bytes, {} remain", reader.remaining()),
        );
        return None;
    };
    let key = String::from_utf8_lossy(&bytes).into_owned();
    let place = Place::key(at, &key);
    let shown = shortened(&key);
    if bytes.is_empty() {
        sink.add(&KEY_EMPTY, place, format_args!("key {i} is empty"));
    } else if len > MAX_KEY_BYTES {
        sink.add(&KEY_TOO_LONG, place, format_args!("the key {shown} has {len} bytes"));
    } else if std::str::from_utf8(&bytes).is_err() {
        sink.add(&KEY_INVALID_UTF8, place, format_args!("the key {shown} is not valid UTF-8"));
    } else if key.contains('\0') {
        sink.add(&KEY_CONTAINS_NUL, place, format_args!("the key {shown} holds a NUL"));
    } else if !is_dotted_snake(&key) {
        sink.add(&KEY_CHARSET, place, format_args!("the key {shown} is not dot-separated lower_snake_case"));
    }
    Some(key)
}

fn is_dotted_snake(key: &str) -> bool {
    let in_segment = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    key.split('.').all(|segment| !segment.is_empty() && segment.bytes().all(in_segment))
}

fn read_value(reader: &mut Reader, ty: ValueType, key: &str, sink: &mut Sink<'_>) -> Option<Value> {
    let at = reader.at;
    let value = match ty {
        ValueType::U8 => reader.fixed().map(u8::from_le_bytes).map(Value::U8),
        ValueType::I8 => reader.fixed().map(i8::from_le_bytes).map(Value::I8),
        ValueType::U16 => reader.fixed().map(u16::from_le_bytes).map(Value::U16),
        ValueType::I16 => reader.fixed().map(i16::from_le_bytes).map(Value::I16),
        ValueType::U32 => reader.fixed().map(u32::from_le_bytes).map(Value::U32),
        ValueType::I32 => reader.fixed().map(i32::from_le_bytes).map(Value::I32),
        ValueType::F32 => reader.fixed().map(f32::from_le_bytes).map(Value::F32),
        ValueType::U64 => reader.fixed().map(u64::from_le_bytes).map(Value::U64),
        ValueType::I64 => reader.fixed().map(i64::from_le_bytes).map(Value::I64),
        ValueType::F64 => reader.fixed().map(f64::from_le_bytes).map(Value::F64),
        ValueType::Bool => reader.fixed::<1>().map(|[byte]| {
            if byte > 1 {
                let message = format_args!("key {}: a boolean is {byte}", shortened(key));
                sink.add(&BOOL_INVALID, Place::key(at, key), message);
            }
            Value::Bool(byte != 0)
        }),
        ValueType::String => return read_string(reader, key, sink).map(Value::String),
        ValueType::Array => return read_array(reader, key, sink).map(Value::Array),
    };
    if value.is_none() {
        let message = format_args!("the file ends inside the value of key {}", shortened(key));
        sink.add(&KV_TRUNCATED, Place::key(at, key), message);
    }
    value
}

fn read_string(reader: &mut Reader, key: &str, sink: &mut Sink<'_>) -> Option<Text> {
    let at = reader.at;
    let Some(len) = reader.u64() else {
        let message = format_args!("the file ends inside a string of key {}", shortened(key));
        sink.add(&KV_TRUNCATED, Place::key(at, key), message);
        return None;
    };
    let Some(bytes) = reader.take(len) else {
        let left = reader.remaining();
        let message = format_args!("key {}: a string has {len} bytes, {left} remain", shortened(key));
        sink.add(&STRING_EXCEEDS_FILE, Place::key(at, key), message);
        return None;
    };
    if std::str::from_utf8(&bytes).is_err() {
        let message = format_args!("key {}: a string is not valid UTF-8", shortened(key));
        sink.add(&STRING_INVALID_UTF8, Place::key(at, key), message);
    }
    if bytes.contains(&0) {
        let message = format_args!("key {}: a string holds a NUL", shortened(key));
        sink.add(&STRING_CONTAINS_NUL, Place::key(at, key), message);
    }
    Some(Text::from(bytes))
}

fn read_array(reader: &mut Reader, key: &str, sink: &mut Sink<'_>) -> Option<Array> {
    let (element, len) = array_head(reader, key, sink)?;
    let start = reader.at as usize;
    skip_elements(reader, element, len, key, 1, sink)?;
    let data = reader.bytes.slice(start..reader.at as usize);
    let data = if reader.endian == Endian::Big { little_endian(element, len, &data).into() } else { data };
    Some(Array::from_validated(element, len, data))
}

fn array_head(reader: &mut Reader, key: &str, sink: &mut Sink<'_>) -> Option<(ValueType, u64)> {
    let at = reader.at;
    let Some((id, len)) = reader.u32().zip(reader.u64()) else {
        let message = format_args!("the file ends inside an array of key {}", shortened(key));
        sink.add(&KV_TRUNCATED, Place::key(at, key), message);
        return None;
    };
    let Some(element) = ValueType::from_id(id) else {
        let message = format_args!("key {}: array elements have the unknown type {id}", shortened(key));
        sink.add(&ARRAY_ELEMENT_TYPE, Place::key(at, key), message);
        return None;
    };
    let fits = len.checked_mul(element.smallest_bytes()).is_some_and(|n| n <= reader.remaining());
    if !fits || len > MAX_ARRAY_LEN {
        let left = reader.remaining();
        let message = format_args!("key {}: an array has {len} × {element}, {left} bytes remain", shortened(key));
        sink.add(&ARRAY_TOO_LONG, Place::key(at, key), message);
        return None;
    }
    Some((element, len))
}

fn skip_elements(
    reader: &mut Reader,
    element: ValueType,
    len: u64,
    key: &str,
    depth: u32,
    sink: &mut Sink<'_>,
) -> Option<()> {
    let at = reader.at;
    // Whatever the innermost arrays hold: the strict reader counts arrays, not their elements.
    if depth > MAX_ARRAY_DEPTH {
        let message = format_args!("key {}: arrays are nested deeper than {MAX_ARRAY_DEPTH}", shortened(key));
        sink.add_as(&ARRAY_NESTED, Severity::Error, Place::key(at, key), message);
        return None;
    }
    match element {
        ValueType::String => {
            for _ in 0..len {
                read_string(reader, key, sink)?;
            }
        }
        ValueType::Array => {
            if depth == 1 {
                let message = format_args!("key {}: an array holds arrays", shortened(key));
                sink.add(&ARRAY_NESTED, Place::key(at, key), message);
            }
            for _ in 0..len {
                let (inner, n) = array_head(reader, key, sink)?;
                skip_elements(reader, inner, n, key, depth + 1, sink)?;
            }
        }
        ValueType::Bool => {
            // The length was compared with what remains.
            let bytes = reader.take(len)?;
            for (i, &byte) in bytes.iter().enumerate().filter(|(_, b)| **b > 1) {
                let message = format_args!("key {}: boolean {i} is {byte}", shortened(key));
                sink.add(&BOOL_INVALID, Place::key(at + i as u64, key), message);
            }
        }
        fixed => {
            reader.take(len * fixed.fixed_bytes()?)?;
        }
    }
    Some(())
}

/// The alignment that the keys ask for; `None` where it is invalid.
pub(super) fn alignment(scan: &Scan, sink: &mut Sink<'_>) -> Option<u64> {
    const KEY: &str = "general.alignment";
    let Some(value) = scan.get(KEY) else { return Some(DEFAULT_ALIGNMENT) };
    let place = scan.at(KEY).map_or(Place::absent_key(KEY), |at| Place::key(at, KEY));
    let &Value::U32(n) = value else {
        sink.add(&ALIGNMENT_TYPE, place, format_args!("general.alignment is a {}, not a u32", value.value_type()));
        return None;
    };
    if !n.is_power_of_two() {
        sink.add(&ALIGNMENT_INVALID, place, format_args!("general.alignment is {n}, no power of two"));
        return None;
    }
    if n % 8 != 0 || n > 65536 {
        sink.add(&ALIGNMENT_UNUSUAL, place, format_args!("general.alignment is {n}"));
    }
    Some(u64::from(n))
}
