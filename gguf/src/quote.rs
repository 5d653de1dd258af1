//! Names of files and keys as people and programs may see them.
//!
//! A name comes from whoever made the file. One with an escape sequence would drive the terminal, one with a line end
//! would forge a line of a report, and one that is not UTF-8 fits no JSON. So no name is printed but through here.

use std::fmt::Write as _;
use std::path::Path;

/// Characters that are not seen but act: controls, and those of Unicode that turn the direction of text, join lines or
/// have no width.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{AD}' | '\u{61C}' | '\u{180E}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}')
        || matches!(c, '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

/// Text of a file on one line, with escapes for the characters that are not seen but act: `\n`, `\u{1b}`.
pub fn text(text: &str) -> String {
    escaped(text, acts)
}

/// The same for text of several lines: line ends and tabs stay.
pub fn lines(text: &str) -> String {
    escaped(text, |c| acts(c) && !matches!(c, '\n' | '\t'))
}

fn escaped(text: &str, acts: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// A name fit for a message: a hostile one may be megabytes long.
#[cfg(feature = "write")]
pub(crate) fn shortened(name: &str) -> String {
    const MOST: usize = 80;
    match name.char_indices().nth(MOST) {
        None => name.escape_debug().to_string(),
        Some((end, _)) => format!("{}…", name[..end].escape_debug()),
    }
}

/// A path as it stands; where it holds what acts or is not UTF-8, as a shell takes it: `$'a\nb\xFF'`.
///
/// ```
/// assert_eq!(gguf::quote::path("models/größe 7B.gguf"), "models/größe 7B.gguf");
/// assert_eq!(gguf::quote::path("it's\x1b[2J.gguf"), r"$'it\'s\x1B[2J.gguf'");
/// ```
pub fn path(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    if let Some(text) = path.to_str().filter(|text| !text.chars().any(acts)) {
        return text.to_owned();
    }
    let mut out = String::from("$'");
    for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            // Writing to a string cannot fail.
            let _ = match c {
                '\'' | '\\' => write!(out, "\\{c}"),
                '\n' => write!(out, "\\n"),
                '\t' => write!(out, "\\t"),
                '\r' => write!(out, "\\r"),
                c if acts(c) && u32::from(c) < 0x80 => write!(out, "\\x{:02X}", u32::from(c)),
                c if acts(c) && u32::from(c) < 0x10000 => write!(out, "\\u{:04X}", u32::from(c)),
                c if acts(c) => write!(out, "\\U{:08X}", u32::from(c)),
                c => write!(out, "{c}"),
            };
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02X}");
        }
    }
    out.push('\'');
    out
}

/// A path for a JSON document: the text itself where it is UTF-8 (JSON escapes what acts), else as [`path()`] writes it.
pub fn json(path: impl AsRef<Path>) -> serde_json::Value {
    let path = path.as_ref();
    path.to_str().map_or_else(|| self::path(path), str::to_owned).into()
}

/// Bytes as lower-case hexadecimal digits: how digests are written.
///
/// ```
/// assert_eq!(gguf::quote::hex(&[0, 0xaf]), "00af");
/// ```
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A relative or `file:` URI: every byte that RFC 3986 does not allow in a path is escaped.
pub fn uri(path: &Path) -> String {
    let mut out = String::from(if path.is_absolute() { "file://" } else { "" });
    for &byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_is_escaped_and_letters_of_any_language_stay() {
        assert_eq!(text("Größe 模型 e\u{301} \u{1F999}"), "Größe 模型 e\u{301} \u{1F999}");
        assert_eq!(text("a\nb\x1b[2J\u{202E}"), r"a\nb\u{1b}[2J\u{202e}");
        assert_eq!(lines("a\n\tb\x1b[2J"), "a\n\tb\\u{1b}[2J");
        assert_eq!(path("a\nerror: b"), r"$'a\nerror: b'");
        assert_eq!(path("\u{202E}fugg"), r"$'\u202Efugg'");
        assert_eq!(json("a\nb"), "a\nb");
    }

    #[cfg(unix)]
    #[test]
    fn two_names_that_are_no_utf_8_stay_two() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let name = |byte: u8| Path::new(OsStr::from_bytes(&[b'a', byte, b'b'])).to_path_buf();
        assert_eq!(path(name(0xFF)), r"$'a\xFFb'");
        assert_eq!(json(name(0xFE)), r"$'a\xFEb'");
    }
}
