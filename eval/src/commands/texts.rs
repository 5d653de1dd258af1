//! Texts that become vectors or scores: a line each, or JSON lines.

use std::path::Path;

use eval::forward::Input;
use gguf::{Error, Result};
use serde_json::Value;

use super::{Opened, read_text};

/// A text, or a pair that a reranker or a classifier of pairs reads together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// What it is called, where its line says so.
    pub id: Option<String>,
    /// The text, or the query.
    pub text: String,
    /// What is judged with it.
    pub document: Option<String>,
}

/// Fields of a JSON line that hold the text or the first of two, and the second.
const FIRST: [&str; 6] = ["text", "query", "sentence1", "sentence", "premise", "content"];
const SECOND: [&str; 4] = ["document", "sentence2", "passage", "hypothesis"];

/// The texts of a file: JSON lines where its name ends so, else a line each, of which a tab parts query and document where
/// the model reads pairs. Empty lines are left out.
///
/// # Errors
/// A file that cannot be read or holds no text, or a line that is no JSON or has no text.
pub fn read(path: &Path, pairs: bool) -> Result<Vec<Text>> {
    parse(&read_text(path)?, path, pairs)
}

/// The same of what was read from there.
///
/// # Errors
/// No text, or a line that is no JSON or has no text.
pub fn parse(all: &str, path: &Path, pairs: bool) -> Result<Vec<Text>> {
    let all = all.strip_prefix('\u{feff}').unwrap_or(all);
    let json = path.extension().is_some_and(|e| e == "jsonl" || e == "ndjson");
    let lines = (1..).zip(all.lines()).filter(|(_, line)| !line.trim().is_empty());
    let texts = lines
        .map(|(number, line)| match json {
            true => of_json(line).map_err(|e| e.about(format_args!("line {number}")).at(path)),
            false => {
                let parts = line.split_once('\t').filter(|_| pairs);
                let (text, document) = parts.map_or((line, None), |(a, b)| (a, Some(b)));
                Ok(Text { id: None, text: text.to_owned(), document: document.map(str::to_owned) })
            }
        })
        .collect::<Result<Vec<Text>>>()?;
    if texts.is_empty() {
        return Err(Error::input("holds no text").at(path).help("a line a text, or JSON lines in a file named .jsonl"));
    }
    Ok(texts)
}

fn of_json(line: &str) -> Result<Text> {
    let value: Value = serde_json::from_str(line).map_err(|e| Error::input(format!("is no JSON: {e}")))?;
    let bare = |text: &str| Text { id: None, text: text.to_owned(), document: None };
    let string = |keys: &[&str]| keys.iter().find_map(|key| value[*key].as_str()).map(str::to_owned);
    if let Some(text) = value.as_str() {
        return Ok(bare(text));
    }
    if let Some([first, second]) = value.as_array().map(Vec::as_slice)
        && let (Some(first), Some(second)) = (first.as_str(), second.as_str())
    {
        return Ok(Text { document: Some(second.to_owned()), ..bare(first) });
    }
    let id = match &value["id"] {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    };
    let text = string(&FIRST).ok_or_else(|| {
        Error::input(format!("has no text: a string, two strings, or an object with {}", FIRST.join(", ")))
    })?;
    Ok(Text { id, text, document: string(&SECOND) })
}

/// The key of the template by which a reranker is asked.
const TEMPLATE: &str = "tokenizer.chat_template.rerank";

/// The tokens of texts, each cut to what the model was made for, and how many were cut.
///
/// # Errors
/// Texts that the vocabulary cannot express, or that have no tokens.
pub fn encode(opened: &Opened, texts: &[Text], prefix: &str, most: Option<usize>) -> Result<(Vec<Input>, usize)> {
    let tokenizer = &opened.tokenizer;
    let template = opened.source.metadata().str(TEMPLATE);
    let most = most.or_else(|| Some(opened.model.context).filter(|n| *n > 0)).unwrap_or(usize::MAX);
    let mut cut = 0;
    let mut inputs = Vec::with_capacity(texts.len());
    for (number, text) in (1..).zip(texts) {
        let wrong = |e: Error| Error::input(format!("text {number}: {}", e.message()));
        let first = format!("{prefix}{}", text.text);
        let (mut tokens, second) = match (&text.document, template) {
            (Some(document), Some(template)) => {
                // Both at once, so that a query that names the document's place stays a query.
                let asked = filled(template, &first, document);
                (tokenizer.encode(&asked, false, true).map_err(wrong)?, None)
            }
            (Some(document), None) => tokenizer.encode_pair(&first, document).map_err(wrong)?,
            (None, _) => (tokenizer.encode(&first, true, false).map_err(wrong)?, None),
        };
        if tokens.is_empty() {
            return Err(Error::input(format!("text {number} has no tokens")));
        }
        if tokens.len() > most {
            // What ends a text ends a shorter one too.
            let ends = tokens.len() - tokens.iter().rev().take_while(|t| tokenizer.is_control(**t)).count();
            let ending = tokens.split_off(ends);
            tokens.truncate(most.saturating_sub(ending.len()));
            tokens.extend(ending.into_iter().take(most));
            cut += 1;
        }
        inputs.push(Input { second: second.unwrap_or(0), ..Input::from(tokens) });
    }
    Ok((inputs, cut))
}

/// A template with its two places filled.
fn filled(template: &str, query: &str, document: &str) -> String {
    let mut out = String::with_capacity(template.len() + query.len() + document.len());
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        let (before, behind) = rest.split_at(at);
        out += before;
        let place = [("{query}", query), ("{document}", document)].into_iter().find(|p| behind.starts_with(p.0));
        let (name, text) = place.unwrap_or((&behind[..1], "{"));
        out += text;
        rest = &behind[name.len()..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_json_have_many_forms() {
        let pair = |a: &str, b: Option<&str>| (a.to_owned(), b.map(str::to_owned));
        for (line, want) in [
            ("\"a\"", pair("a", None)),
            ("[\"a\", \"b\"]", pair("a", Some("b"))),
            ("{\"text\": \"a\", \"id\": 7}", pair("a", None)),
            ("{\"query\": \"a\", \"document\": \"b\"}", pair("a", Some("b"))),
        ] {
            let got = of_json(line).unwrap();
            assert_eq!((got.text, got.document), want, "{line}");
        }
        for line in ["{}", "3", "[\"a\"]", "{\"text\": 1}", "{"] {
            assert!(of_json(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_query_cannot_name_the_document_s_place() {
        assert_eq!(filled("Q {query} D {document} {x}", "{document}", "d"), "Q {document} D d {x}");
    }
}
