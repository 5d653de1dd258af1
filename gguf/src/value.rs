//! Metadata: ordered keys with values of the thirteen types of the specification.
//!
//! Strings and arrays stay in the encoded form of the file and share its memory, so opening a file with a
//! vocabulary of 256,000 tokens allocates nothing per token. What was validated once (lengths, nesting, booleans)
//! is trusted afterwards: the constructors here and the reader are the only ways to make an [`Array`].

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use indexmap::IndexMap;

use crate::error::{Error, Result};

/// The type of a metadata value; the numbers are those of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// Every type, by ascending id.
    pub const ALL: [ValueType; 13] = [
        ValueType::U8,
        ValueType::I8,
        ValueType::U16,
        ValueType::I16,
        ValueType::U32,
        ValueType::I32,
        ValueType::F32,
        ValueType::Bool,
        ValueType::String,
        ValueType::Array,
        ValueType::U64,
        ValueType::I64,
        ValueType::F64,
    ];

    /// The type with this id in a file, if there is one.
    pub fn from_id(id: u32) -> Option<ValueType> {
        ValueType::ALL.get(id as usize).copied()
    }

    /// The id in a file.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// The short name used in output and on command lines.
    pub fn name(self) -> &'static str {
        ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "arr", "u64", "i64", "f64"][self as usize]
    }

    /// Bytes of a value of fixed size; `None` for strings and arrays.
    pub fn fixed_bytes(self) -> Option<u64> {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            String | Array => None,
        }
    }

    /// The fewest bytes one element takes in a file: what bounds an array's length before it is believed.
    pub fn smallest_bytes(self) -> u64 {
        match self {
            ValueType::String => 8,
            ValueType::Array => 12,
            other => other.fixed_bytes().unwrap_or(1),
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The byte order of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Endian {
    /// Least significant byte first: what nearly every file is.
    #[default]
    Little,
    /// Most significant byte first.
    Big,
}

/// A string of a file: bytes that ought to be UTF-8 but need not.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Text(Bytes);

impl Text {
    /// The bytes as they stand in the file.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The string, if it is valid UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// The string with invalid bytes replaced.
    pub fn to_str_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl From<Bytes> for Text {
    fn from(bytes: Bytes) -> Text {
        Text(bytes)
    }
}

impl From<&str> for Text {
    fn from(s: &str) -> Text {
        Text(Bytes::copy_from_slice(s.as_bytes()))
    }
}

impl From<String> for Text {
    fn from(s: String) -> Text {
        Text(Bytes::from(s.into_bytes()))
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_str_lossy(), f)
    }
}

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(Text),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// What a message says of a value: its type and the value, of an array how many there are.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Characters of a text that are shown.
        const SHOWN: usize = 60;
        match self {
            Value::U8(v) => write!(f, "u8 {v}"),
            Value::I8(v) => write!(f, "i8 {v}"),
            Value::U16(v) => write!(f, "u16 {v}"),
            Value::I16(v) => write!(f, "i16 {v}"),
            Value::U32(v) => write!(f, "u32 {v}"),
            Value::I32(v) => write!(f, "i32 {v}"),
            Value::F32(v) => write!(f, "f32 {v}"),
            Value::Bool(v) => write!(f, "bool {v}"),
            Value::U64(v) => write!(f, "u64 {v}"),
            Value::I64(v) => write!(f, "i64 {v}"),
            Value::F64(v) => write!(f, "f64 {v}"),
            Value::Array(array) => write!(f, "{array:?}"),
            Value::String(text) => {
                let text = text.to_str_lossy();
                let end = text.char_indices().nth(SHOWN).map_or(text.len(), |(at, _)| at);
                let more = if end < text.len() { "…" } else { "" };
                write!(f, "str \"{}{more}\"", crate::quote::text(&text[..end]))
            }
        }
    }
}

impl Value {
    /// The type of this value.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// Any non-negative integer as `u64`.
    pub fn as_u64(&self) -> Option<u64> {
        self.as_i128().and_then(|v| u64::try_from(v).ok())
    }

    /// Any integer as `i64`.
    pub fn as_i64(&self) -> Option<i64> {
        self.as_i128().and_then(|v| i64::try_from(v).ok())
    }

    fn as_i128(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// A float of either width as `f64`.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::F32(v) => Some(v.into()),
            Value::F64(v) => Some(v),
            _ => None,
        }
    }

    /// A boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// A string that is valid UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => text.as_str(),
            _ => None,
        }
    }

    /// An array.
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }

    /// Bytes of the encoded value, without its type.
    pub fn encoded_len(&self) -> u64 {
        match self {
            Value::String(text) => 8 + text.0.len() as u64,
            Value::Array(array) => 12 + array.data.len() as u64,
            other => other.value_type().fixed_bytes().unwrap_or(0),
        }
    }

    /// Appends the encoded value, without its type, in this byte order.
    #[cfg(feature = "write")]
    pub(crate) fn encode_as(&self, endian: Endian, out: &mut Vec<u8>) {
        let start = out.len();
        match (endian, self) {
            (Endian::Little, _) => self.encode(out),
            (Endian::Big, Value::String(text)) => {
                out.extend((text.0.len() as u64).to_be_bytes());
                out.extend_from_slice(&text.0);
            }
            (Endian::Big, Value::Array(array)) => {
                out.extend(array.element.id().to_be_bytes());
                out.extend(array.len.to_be_bytes());
                for item in array.iter() {
                    item.encode_as(endian, out);
                }
            }
            (Endian::Big, _) => {
                self.encode(out);
                out[start..].reverse();
            }
        }
    }

    /// Appends the encoded value, without its type, in little-endian order.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::U8(v) => out.push(*v),
            Value::I8(v) => out.extend(v.to_le_bytes()),
            Value::U16(v) => out.extend(v.to_le_bytes()),
            Value::I16(v) => out.extend(v.to_le_bytes()),
            Value::U32(v) => out.extend(v.to_le_bytes()),
            Value::I32(v) => out.extend(v.to_le_bytes()),
            Value::F32(v) => out.extend(v.to_le_bytes()),
            Value::Bool(v) => out.push(u8::from(*v)),
            Value::String(text) => {
                out.extend((text.0.len() as u64).to_le_bytes());
                out.extend_from_slice(&text.0);
            }
            Value::Array(array) => {
                out.extend(array.element.id().to_le_bytes());
                out.extend(array.len.to_le_bytes());
                out.extend_from_slice(&array.data);
            }
            Value::U64(v) => out.extend(v.to_le_bytes()),
            Value::I64(v) => out.extend(v.to_le_bytes()),
            Value::F64(v) => out.extend(v.to_le_bytes()),
        }
    }
}

macro_rules! value_from {
    ($($ty:ty => $variant:ident),*) => {$(
        impl From<$ty> for Value {
            fn from(v: $ty) -> Value {
                Value::$variant(v.into())
            }
        }
    )*};
}
value_from!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool,
    u64 => U64, i64 => I64, f64 => F64, &str => String, String => String, Text => String, Array => Array);

/// An array of a file: its elements in encoded, little-endian form.
#[derive(Clone, PartialEq)]
pub struct Array {
    element: ValueType,
    len: u64,
    data: Bytes,
}

impl Array {
    /// An array over bytes that were validated already: little-endian, exactly `len` elements, lengths in bounds.
    pub(crate) fn from_validated(element: ValueType, len: u64, data: Bytes) -> Array {
        Array { element, len, data }
    }

    /// An array of strings.
    pub fn strings<S: AsRef<[u8]>>(items: impl IntoIterator<Item = S>) -> Array {
        let (mut data, mut len) = (Vec::new(), 0);
        for item in items {
            let item = item.as_ref();
            data.extend((item.len() as u64).to_le_bytes());
            data.extend_from_slice(item);
            len += 1;
        }
        Array { element: ValueType::String, len, data: data.into() }
    }

    /// An array of any values of one type.
    ///
    /// # Errors
    /// A value whose type is not `element`.
    pub fn of(element: ValueType, items: impl IntoIterator<Item = Value>) -> Result<Array> {
        let (mut data, mut len) = (Vec::new(), 0);
        for item in items {
            if item.value_type() != element {
                return Err(Error::usage(format!("an array of {element} cannot hold a {}", item.value_type())));
            }
            item.encode(&mut data);
            len += 1;
        }
        Ok(Array { element, len, data: data.into() })
    }

    /// The type of the elements.
    pub fn element_type(&self) -> ValueType {
        self.element
    }

    /// The number of elements.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements, one after the other. Strings and arrays share this array's memory.
    pub fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        let mut rest = self.data.clone();
        (0..self.len).map_while(move |_| split_value(self.element, &mut rest))
    }

    /// The elements as byte strings without copying; `None` when they are not strings.
    pub fn iter_bytes(&self) -> Option<impl Iterator<Item = &[u8]> + '_> {
        if self.element != ValueType::String {
            return None;
        }
        let mut rest: &[u8] = &self.data;
        Some((0..self.len).map_while(move |_| {
            let (len, tail) = rest.split_first_chunk::<8>()?;
            let (item, tail) = tail.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
            rest = tail;
            Some(item)
        }))
    }

    /// The elements as `f32`; `None` when they are something else.
    pub fn to_f32s(&self) -> Option<Vec<f32>> {
        let bytes = self.fixed::<4>(ValueType::F32)?;
        Some(bytes.map(f32::from_le_bytes).collect())
    }

    /// The elements as `i32`; `None` when they are something else.
    pub fn to_i32s(&self) -> Option<Vec<i32>> {
        let bytes = self.fixed::<4>(ValueType::I32)?;
        Some(bytes.map(i32::from_le_bytes).collect())
    }

    /// The elements as `u64`, whatever their integer type; `None` when one is negative or no integer.
    pub fn to_u64s(&self) -> Option<Vec<u64>> {
        self.iter().map(|v| v.as_u64()).collect()
    }

    fn fixed<const N: usize>(&self, element: ValueType) -> Option<impl Iterator<Item = [u8; N]> + '_> {
        (self.element == element).then(|| self.data.as_chunks::<N>().0.iter().copied())
    }
}

impl<T: Into<Value> + Copy> From<&[T]> for Array
where
    T: FixedElement,
{
    fn from(items: &[T]) -> Array {
        let mut data = Vec::with_capacity(size_of_val(items));
        for &item in items {
            item.into().encode(&mut data);
        }
        Array { element: T::TYPE, len: items.len() as u64, data: data.into() }
    }
}

/// An element type of fixed size.
pub trait FixedElement {
    /// Its type in a file.
    const TYPE: ValueType;
}

macro_rules! fixed_element {
    ($($ty:ty => $variant:ident),*) => {$(
        impl FixedElement for $ty { const TYPE: ValueType = ValueType::$variant; }
    )*};
}
fixed_element!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool,
    u64 => U64, i64 => I64, f64 => F64);

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}; {}]", self.element, self.len)
    }
}

/// Takes one little-endian value off the front of validated bytes.
fn split_value(ty: ValueType, rest: &mut Bytes) -> Option<Value> {
    fn take<const N: usize>(rest: &mut Bytes) -> Option<[u8; N]> {
        let chunk = *rest.first_chunk::<N>()?;
        let _ = rest.split_to(N);
        Some(chunk)
    }
    Some(match ty {
        ValueType::U8 => Value::U8(take::<1>(rest)?[0]),
        ValueType::I8 => Value::I8(i8::from_le_bytes(take(rest)?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(take(rest)?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(take(rest)?)),
        ValueType::U32 => Value::U32(u32::from_le_bytes(take(rest)?)),
        ValueType::I32 => Value::I32(i32::from_le_bytes(take(rest)?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(take(rest)?)),
        ValueType::Bool => Value::Bool(take::<1>(rest)?[0] != 0),
        ValueType::U64 => Value::U64(u64::from_le_bytes(take(rest)?)),
        ValueType::I64 => Value::I64(i64::from_le_bytes(take(rest)?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(take(rest)?)),
        ValueType::String => {
            let len = usize::try_from(u64::from_le_bytes(take(rest)?)).ok()?;
            if len > rest.len() {
                return None;
            }
            Value::String(Text(rest.split_to(len)))
        }
        ValueType::Array => {
            let element = ValueType::from_id(u32::from_le_bytes(take(rest)?))?;
            let len = u64::from_le_bytes(take(rest)?);
            let bytes = encoded_len(element, len, rest)?;
            Value::Array(Array { element, len, data: rest.split_to(bytes) })
        }
    })
}

/// Bytes that `len` encoded elements take at the front of `data`; `None` where they do not fit.
fn encoded_len(element: ValueType, len: u64, data: &[u8]) -> Option<usize> {
    if let Some(size) = element.fixed_bytes() {
        let bytes = usize::try_from(len.checked_mul(size)?).ok()?;
        return (bytes <= data.len()).then_some(bytes);
    }
    let mut at = 0_usize;
    for _ in 0..len {
        let rest = data.get(at..)?;
        at += if element == ValueType::String {
            let n = usize::try_from(u64::from_le_bytes(*rest.first_chunk::<8>()?)).ok()?;
            n.checked_add(8).filter(|&n| n <= rest.len())?
        } else {
            let inner = ValueType::from_id(u32::from_le_bytes(*rest.first_chunk::<4>()?))?;
            let n = u64::from_le_bytes(*rest.get(4..)?.first_chunk::<8>()?);
            12 + encoded_len(inner, n, rest.get(12..)?)?
        };
    }
    Some(at)
}

/// GGUF keys with their values, in the order of the file. Keys are unique.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(IndexMap<String, Value>);

impl Metadata {
    /// No keys.
    pub fn new() -> Metadata {
        Metadata::default()
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Sets a key: in place where it exists, else at the end. Returns the old value.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        self.0.insert(key.into(), value.into())
    }

    /// Removes a key and keeps the order of the others.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.0.shift_remove(key)
    }

    /// Keys and values, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// A non-negative integer of any width.
    pub fn u64(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// A float of either width.
    pub fn f64(&self, key: &str) -> Option<f64> {
        self.get(key)?.as_f64()
    }

    /// A boolean.
    pub fn bool(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    /// A string.
    pub fn str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// An array.
    pub fn array(&self, key: &str) -> Option<&Array> {
        self.get(key)?.as_array()
    }

    /// `general.architecture`.
    pub fn architecture(&self) -> Option<&str> {
        self.str("general.architecture")
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Metadata {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(iter: T) -> Metadata {
        Metadata(iter.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}
