//! JSON as Python's `json` module writes it, which is how transformers and bitsandbytes write theirs.

use std::fmt::Write;

use serde_json::Value;

/// How a document is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// On one line, with a space after each comma and colon.
    Line,
    /// Indented by two spaces, keys in order of their bytes, as `config.json` is.
    SortedLines,
}

/// The document as text, without a line end.
pub fn dumps(value: &Value, layout: Layout) -> String {
    let mut out = String::new();
    write_value(value, layout, 0, &mut out);
    out
}

/// A float as `repr` prints it: the shortest digits that read back the same, with an exponent outside 1e-4 … 1e16.
pub fn float(value: f64) -> String {
    let magnitude = value.abs();
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = shortest(value);
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |e| ("-", e));
        format!("{digits}e{sign}{exponent:0>2}")
    } else {
        let text = shortest(value);
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let fraction = digits.split_once('.').map_or(0, |(_, fraction)| fraction.len() as i64);
        let places = (fraction - exponent.parse::<i64>().unwrap_or(0)).max(1);
        format!("{value:.*}", places as usize)
    }
}

/// The shortest digits that read back the same, with an exponent.
///
/// Where two of one length are equally near, Python takes the even one and Rust the larger.
fn shortest(value: f64) -> String {
    let text = format!("{value:e}");
    let digits = text.split('e').next().unwrap_or_default().bytes().filter(u8::is_ascii_digit).count();
    let even = format!("{value:.*e}", digits.saturating_sub(1));
    if even.parse() == Ok(value) { even } else { text }
}

fn write_value(value: &Value, layout: Layout, depth: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(n), ..) => _ = write!(out, "{n}"),
            (_, Some(n), _) => _ = write!(out, "{n}"),
            (.., n) => out.push_str(&float(n.unwrap_or(f64::NAN))),
        },
        Value::String(s) => write_string(s, out),
        Value::Array(items) => {
            let items = items.iter().map(|v| (None, v));
            write_items(['[', ']'], items, layout, depth, out);
        }
        Value::Object(map) => {
            let mut items: Vec<(Option<&str>, &Value)> = map.iter().map(|(k, v)| (Some(k.as_str()), v)).collect();
            if layout == Layout::SortedLines {
                items.sort_by_key(|(k, _)| *k);
            }
            write_items(['{', '}'], items.into_iter(), layout, depth, out);
        }
    }
}

fn write_items<'a>(
    [open, close]: [char; 2],
    items: impl Iterator<Item = (Option<&'a str>, &'a Value)>,
    layout: Layout,
    depth: usize,
    out: &mut String,
) {
    let line = |depth: usize, out: &mut String| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    out.push(open);
    let mut empty = true;
    for (key, value) in items {
        match layout {
            Layout::Line if !empty => out.push_str(", "),
            Layout::Line => {}
            Layout::SortedLines => {
                if !empty {
                    out.push(',');
                }
                line(depth + 1, out);
            }
        }
        empty = false;
        if let Some(key) = key {
            write_string(key, out);
            out.push_str(": ");
        }
        write_value(value, layout, depth + 1, out);
    }
    if !empty && layout == Layout::SortedLines {
        line(depth, out);
    }
    out.push(close);
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn floats_are_printed_as_repr_prints_them() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (6.0, "6.0"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (0.0001, "0.0001"),
            (1e16, "1e+16"),
            (123_456_789_012_345.0, "123456789012345.0"),
            (1e15, "1000000000000000.0"),
            (2.5e300, "2.5e+300"),
            (f64::from(0.133_935_76_f32), "0.13393576443195343"),
            (f64::from(0.120_944_98_f32), "0.12094497680664062"),
            (1234.5, "1234.5"),
            (-0.25, "-0.25"),
        ] {
            assert_eq!(float(value), text);
        }
    }

    #[test]
    fn documents_are_laid_out_as_json_dumps_does() {
        let value = json!({"b": [1, 2.0, []], "a": {"é": null, "x": {}}, "c": "tab\t\u{1F600}"});
        assert_eq!(
            dumps(&value, Layout::Line),
            r#"{"b": [1, 2.0, []], "a": {"\u00e9": null, "x": {}}, "c": "tab\t\ud83d\ude00"}"#
        );
        assert_eq!(
            dumps(&value, Layout::SortedLines),
            "{\n  \"a\": {\n    \"x\": {},\n    \"\\u00e9\": null\n  },\n  \"b\": [\n    1,\n    2.0,\n    []\n  ],\n  \"c\": \"tab\\t\\ud83d\\ude00\"\n}"
        );
    }
}
