//! `gguf show --layout`: the bytes of a file, each field with what it means.

use std::fmt::Write as _;

use gguf::{Endian, Error, File, Result, Source, Value, quote};

use super::values::{short, type_name};

/// A field of more bytes than this is shown by its first ones.
const WHOLE: usize = 16;

/// How many are shown then.
const FIRST: usize = 8;

struct Picture<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
    out: String,
}

impl Picture<'_> {
    /// A field: its offset, its bytes (the first of many), what it says.
    fn field(&mut self, len: u64, meaning: &str) -> Result<()> {
        let end = usize::try_from(len).ok().and_then(|n| self.at.checked_add(n)).filter(|&e| e <= self.bytes.len());
        let field = end.map(|end| &self.bytes[self.at..end]).ok_or_else(|| Error::input("the file ends early"))?;
        let shown = if field.len() > WHOLE { FIRST } else { field.len() };
        let hex: Vec<String> = field[..shown].iter().map(|b| format!("{b:02x}")).collect();
        let more = if field.len() > shown { format!(" … {} bytes", field.len()) } else { String::new() };
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "{:08x}  {:<48} {meaning}", self.at, hex.join(" ") + &more);
        self.at += field.len();
        Ok(())
    }

    fn heading(&mut self, text: &str) {
        let _ = writeln!(self.out, "\n{text}");
    }

    fn u64_here(&self) -> Option<u64> {
        let raw: [u8; 8] = *self.bytes.get(self.at..)?.first_chunk()?;
        Some(if self.big { u64::from_be_bytes(raw) } else { u64::from_le_bytes(raw) })
    }

    fn text(&mut self, what: &str) -> Result<()> {
        let len = self.u64_here().unwrap_or(0);
        self.field(8, &format!("{what}: {len} bytes"))?;
        let text = self.bytes.get(self.at..self.at.saturating_add(len as usize)).unwrap_or_default();
        let text = quote::text(&String::from_utf8_lossy(&text[..text.len().min(60)]));
        self.field(len, &format!("\"{text}\""))
    }

    fn array(&mut self, value: &Value, end: usize) -> Result<()> {
        let Value::Array(array) = value else { return Ok(()) };
        let element = array.element_type();
        self.field(4, &format!("elements of type {} ({element})", element.id()))?;
        self.field(8, &format!("{} elements", array.len()))?;
        self.field((end - self.at) as u64, &short(value))
    }
}

/// The picture of a whole file. Arrays are one field, however long.
pub fn picture(file: &File) -> Result<String> {
    let map = file.bytes();
    let mut p = Picture { bytes: map, at: 0, big: file.endian() == Endian::Big, out: String::new() };
    p.out.push_str("offset    bytes                                            meaning\n");
    p.heading("header");
    p.field(4, "magic \"GGUF\"")?;
    p.field(4, &format!("version {}", file.version()))?;
    p.field(8, &format!("{} tensors", file.tensors().len()))?;
    p.field(8, &format!("{} keys", file.metadata().len()))?;
    for (key, value) in file.metadata().iter() {
        p.heading(&format!("key {}", quote::text(key)));
        p.text("key")?;
        p.field(4, &format!("type {} ({})", value.value_type().id(), value.value_type()))?;
        let end = p.at + value.encoded_len() as usize;
        match value {
            Value::Array(_) => p.array(value, end)?,
            Value::String(_) => p.text("string")?,
            other => p.field((end - p.at) as u64, &format!("{} {}", type_name(other), short(other)))?,
        }
    }
    for (i, info) in file.tensors().iter().enumerate() {
        p.heading(&format!("tensor {}", quote::text(info.name())));
        p.text("name")?;
        p.field(4, &format!("number of dimensions: {}", info.shape().dims().len()))?;
        for (d, dim) in info.shape().dims().iter().enumerate() {
            let role = if d == 0 { " (length of a row)" } else { "" };
            p.field(8, &format!("dimension {d}: {dim}{role}"))?;
        }
        p.field(4, &format!("type {} ({})", info.ty().id(), info.ty()))?;
        p.field(8, &format!("offset {} from the start of the data", file.offset(i).unwrap_or(0)))?;
    }
    let padding = file.data_start().min(map.len() as u64) - p.at as u64;
    if padding > 0 {
        p.heading("padding");
        p.field(padding, &format!("to a multiple of {}", file.alignment()))?;
    }
    for info in file.tensors() {
        p.heading(&format!("data of {}", quote::text(info.name())));
        p.field(info.bytes(), &format!("{} {}", info.shape(), info.ty()))?;
        let padding = info.bytes().next_multiple_of(file.alignment()) - info.bytes();
        let padding = padding.min((map.len() - p.at) as u64);
        if padding > 0 {
            p.field(padding, "padding")?;
        }
    }
    Ok(p.out)
}
