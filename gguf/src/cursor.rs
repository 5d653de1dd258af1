//! A cursor over bytes that are not trusted: nothing is believed before it was compared with what remains.

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::value::{Array, Endian, Text, Value, ValueType};

/// Arrays may be nested this deep; beyond it a file is refused rather than followed.
pub(crate) const MAX_ARRAY_DEPTH: u32 = 4;

/// The most elements an array may have (`GGUF_MAX_ARRAY_ELEMENTS`).
pub(crate) const MAX_ARRAY_LEN: u64 = 1 << 30;

pub(crate) struct Cursor {
    bytes: Bytes,
    /// The length of the whole, of which the bytes may be the beginning.
    total: u64,
    /// Where reading ended at the end of the bytes and not of the whole: how many bytes it would have taken.
    wanting: Option<u64>,
    at: u64,
    pub(crate) endian: Endian,
}

impl Cursor {
    /// A cursor over these bytes.
    pub(crate) fn new(bytes: Bytes) -> Cursor {
        let total = bytes.len() as u64;
        Cursor::beginning(bytes, total)
    }

    /// A cursor over the beginning of something that is `total` bytes long.
    pub(crate) fn beginning(bytes: Bytes, total: u64) -> Cursor {
        Cursor { bytes, total, wanting: None, at: 0, endian: Endian::Little }
    }

    /// How many bytes of the beginning are needed at least to go on, where that is what reading failed for.
    pub(crate) fn wanting(&self) -> Option<u64> {
        self.wanting
    }

    /// The position, from the start of the GGUF.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Bytes that remain.
    pub(crate) fn remaining(&self) -> u64 {
        self.total.saturating_sub(self.at)
    }

    /// Whether the next bytes are at hand.
    fn has(&mut self, len: u64, what: &str) -> Result<()> {
        if len > self.remaining() {
            return Err(self.too_short(len, what));
        }
        let end = self.at + len;
        if end > self.bytes.len() as u64 {
            self.wanting = Some(end);
            return Err(self.too_short(len, what));
        }
        Ok(())
    }

    pub(crate) fn take(&mut self, len: u64, what: &str) -> Result<Bytes> {
        self.has(len, what)?;
        let start = self.at as usize;
        self.at += len;
        Ok(self.bytes.slice(start..start + len as usize))
    }

    fn too_short(&self, len: u64, what: &str) -> Error {
        Error::input(format!("{what} needs {len} bytes, {} remain", self.remaining())).at_offset(self.at)
    }

    fn fixed<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        self.has(N as u64, what)?;
        let Some(&(mut out)) = self.bytes.get(self.at as usize..).and_then(<[u8]>::first_chunk::<N>) else {
            return Err(self.too_short(N as u64, what));
        };
        self.at += N as u64;
        if self.endian == Endian::Big {
            out.reverse();
        }
        Ok(out)
    }

    pub(crate) fn u32(&mut self, what: &str) -> Result<u32> {
        self.fixed(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &str) -> Result<u64> {
        self.fixed(what).map(u64::from_le_bytes)
    }

    /// A string: length, then bytes.
    pub(crate) fn text(&mut self, what: &str) -> Result<Text> {
        let len = self.u64(what)?;
        self.take(len, what).map(Text::from)
    }

    /// A value of this type.
    pub(crate) fn value(&mut self, ty: ValueType, key: &str) -> Result<Value> {
        Ok(match ty {
            ValueType::U8 => Value::U8(u8::from_le_bytes(self.fixed(key)?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(self.fixed(key)?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(self.fixed(key)?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(self.fixed(key)?)),
            ValueType::U32 => Value::U32(self.u32(key)?),
            ValueType::I32 => Value::I32(i32::from_le_bytes(self.fixed(key)?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(self.fixed(key)?)),
            ValueType::U64 => Value::U64(self.u64(key)?),
            ValueType::I64 => Value::I64(i64::from_le_bytes(self.fixed(key)?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(self.fixed(key)?)),
            ValueType::Bool => match self.fixed::<1>(key)?[0] {
                byte @ 0..=1 => Value::Bool(byte == 1),
                byte => {
                    return Err(
                        Error::input(format!("key {key}: a boolean is {byte}, not 0 or 1")).at_offset(self.at - 1)
                    );
                }
            },
            ValueType::String => Value::String(self.text(key)?),
            ValueType::Array => {
                let (element, len) = self.array_head(key)?;
                let start = self.at;
                self.skip_elements(element, len, key, 1)?;
                self.has(0, key)?;
                let data = self.bytes.slice(start as usize..self.at as usize);
                let data = if self.endian == Endian::Big { little_endian(element, len, &data).into() } else { data };
                Value::Array(Array::from_validated(element, len, data))
            }
        })
    }

    /// The element type and length of an array, the length bounded by what remains.
    fn array_head(&mut self, key: &str) -> Result<(ValueType, u64)> {
        let at = self.at;
        let id = self.u32(key)?;
        let element = ValueType::from_id(id).ok_or_else(|| {
            Error::input(format!("key {key}: array elements have the unknown type {id}")).at_offset(at)
        })?;
        let len = self.u64(key)?;
        let fits = len.checked_mul(element.smallest_bytes()).is_some_and(|n| n <= self.remaining());
        if !fits || len > MAX_ARRAY_LEN {
            return Err(Error::input(format!(
                "key {key}: an array of {len} × {element} does not fit the {} bytes that remain",
                self.remaining()
            ))
            .at_offset(at));
        }
        Ok((element, len))
    }

    /// Walks over elements, validating lengths, booleans and depth.
    fn skip_elements(&mut self, element: ValueType, len: u64, key: &str, depth: u32) -> Result<()> {
        if depth > MAX_ARRAY_DEPTH {
            return Err(
                Error::input(format!("key {key}: arrays are nested deeper than {MAX_ARRAY_DEPTH}")).at_offset(self.at)
            );
        }
        match element {
            ValueType::String => {
                for _ in 0..len {
                    let n = self.u64(key)?;
                    if n > self.remaining() {
                        return Err(Error::input(format!("key {key}: a string of {n} bytes runs past the end"))
                            .at_offset(self.at));
                    }
                    self.at += n;
                }
            }
            ValueType::Array => {
                for _ in 0..len {
                    let (inner, n) = self.array_head(key)?;
                    self.skip_elements(inner, n, key, depth + 1)?;
                }
            }
            ValueType::Bool => {
                let at = self.at;
                let bytes = self.take(len, key)?;
                if let Some(i) = bytes.iter().position(|&b| b > 1) {
                    return Err(Error::input(format!("key {key}: boolean {i} is {}, not 0 or 1", bytes[i]))
                        .at_offset(at + i as u64));
                }
            }
            fixed => {
                let size = fixed.fixed_bytes().expect("strings and arrays are handled above");
                self.take(len * size, key)?;
            }
        }
        Ok(())
    }
}

/// Re-encodes validated big-endian elements as little-endian.
pub(crate) fn little_endian(element: ValueType, len: u64, data: &Bytes) -> Vec<u8> {
    let mut cursor = Cursor { endian: Endian::Big, ..Cursor::new(data.clone()) };
    let mut out = Vec::with_capacity(data.len());
    for _ in 0..len {
        if let Ok(value) = cursor.value(element, "") {
            value.encode(&mut out);
        }
    }
    out
}
