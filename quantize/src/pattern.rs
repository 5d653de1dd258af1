//! Regular expressions that pick tensors and modules by their names.
//!
//! Every option that takes such expressions goes through here: one engine, one complaint. Options differ only in where
//! a match may lie.

use fancy_regex::Regex;
use gguf::{Error, Result};

/// A regular expression that names are held against.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: Regex,
    text: String,
    /// Whether a name that ends with the text itself matches as well.
    ending: bool,
}

impl Pattern {
    /// One that is searched for anywhere in the name of a tensor, in any case: the rules of GGUF recipes. `option` is
    /// where it was given.
    ///
    /// # Errors
    /// Text that is no regular expression.
    pub fn anywhere(option: &str, text: &str) -> Result<Pattern> {
        if let Some(brace) = open_brace(text) {
            return Err(Error::usage(format!("{option}: \"{text}\" is no regular expression")).caused_by(format!(
                "the {{ at byte {brace} begins no number of repetitions such as {{2}} or {{1,3}}"
            )));
        }
        // The builder's own switch does not reach the parts of a pattern that look around.
        Pattern::compile(option, text, &format!("(?i){text}"), false)
    }

    /// One that is held against the name of a module as transformers holds `llm_int8_skip_modules`: from the start to
    /// the end of a part of the name, or as an ending. `option` is where it was given.
    ///
    /// # Errors
    /// Text that is no regular expression.
    pub fn module(option: &str, text: &str) -> Result<Pattern> {
        // The boundary is the library's: the match ends at a dot or at the end of the name.
        Pattern::compile(option, text, &format!(r"^(?:{text})(?:(?<=\.)|(?=\.|$))"), true)
    }

    fn compile(option: &str, text: &str, expression: &str, ending: bool) -> Result<Pattern> {
        Regex::new(expression)
            .map(|regex| Pattern { regex, text: text.to_owned(), ending })
            .map_err(|e| Error::usage(format!("{option}: \"{text}\" is no regular expression")).caused_by(e))
    }

    /// Whether a name matches. A pattern that gives up (endless backtracking) does not.
    pub fn matches(&self, name: &str) -> bool {
        (self.ending && name.ends_with(&self.text)) || self.regex.is_match(name).unwrap_or(false)
    }

    /// The text of the pattern.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// The byte of a brace that begins no number of repetitions. The engine would take it literally, llama-quantize's
/// refuses it; a rule that matches nothing helps nobody.
fn open_brace(text: &str) -> Option<usize> {
    let (mut escaped, mut class) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => class = true,
            ']' => class = false,
            // What stands behind \p and \x is no repetition either.
            '{' if !class && !["\\p", "\\P", "\\x", "\\u"].iter().any(|name| text[..at].ends_with(name)) => {
                let inner = text[at + 1..].split_once('}').map_or("", |(inner, _)| inner);
                let (least, most) = inner.split_once(',').unwrap_or((inner, ""));
                let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
                if least.is_empty() || !digits(least) || !digits(most) {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anywhere_searches_in_any_case_and_looks_ahead() {
        let pattern = Pattern::anywhere("--tensor-type", r"BLK\.(?!0)\d+\.attn_v").unwrap();
        assert!(!pattern.matches("blk.0.attn_v.weight"));
        assert!(pattern.matches("blk.1.attn_v.weight"));
        assert_eq!(pattern.as_str(), r"BLK\.(?!0)\d+\.attn_v");
        let ending = Pattern::anywhere("--tensor-type", r"v\.w").unwrap();
        assert!(!ending.matches(r"av\.w"), "the text itself is no ending here");
    }

    #[test]
    fn a_module_matches_as_in_transformers() {
        let matches = |text, name| Pattern::module("--modules-to-not-convert", text).unwrap().matches(name);
        assert!(matches("layer.1", "layer.1.attn"));
        assert!(!matches("layer.1", "layer.11.attn"));
        assert!(matches("layer.*", "layer.11.attn"));
        assert!(!matches("LAYER.1", "layer.1.attn"), "modules are told by their exact names");
        assert!(!matches("mlp.up", "mlp.up_proj"));
        assert!(!matches("attn|mlp.up", "mlp.up_proj"), "the boundary holds for every alternative");
        assert!(matches("fc1", "model.decoder.layers.23.fc1"));
        assert!(!matches("fc1", "model.decoder.layers.23.fc12"));
    }

    #[test]
    fn a_brace_that_counts_nothing_is_refused() {
        for wrong in ["attn_v{", "attn_v{a}", "x{,2}", "x{1", "x{}", r"x\\{"] {
            assert!(Pattern::anywhere("--tensor-type", wrong).is_err(), "{wrong}");
        }
        for right in [r"x{2}", "x{1,}", "x{1,3}", r"x\{", "[{]", r"\p{L}", r"\x{41}"] {
            assert!(Pattern::anywhere("--tensor-type", right).is_ok(), "{right}");
        }
    }

    #[test]
    fn every_option_complains_in_the_same_words() {
        let complaint = |pattern: Result<Pattern>| pattern.unwrap_err().message().to_owned();
        assert_eq!(complaint(Pattern::anywhere("--tensor-type", "(")), "--tensor-type: \"(\" is no regular expression");
        assert_eq!(
            complaint(Pattern::module("--modules-to-not-convert", "(")),
            "--modules-to-not-convert: \"(\" is no regular expression"
        );
    }
}
