//! Which of llama.cpp's pre-tokenizers a `tokenizer.json` means.
//!
//! Two ways lead there. The reference converter hashes what the tokenizer makes of a fixed text, which knows published
//! vocabularies and no others. So where the hash says nothing, the structure does: the normalizer, the regular
//! expressions and the digit and byte steps of the file, matched against a table.

mod pre_hashes;

use std::fmt;

use serde_json::Value;
use sha2::{Digest, Sha256};

use gguf::{Error, Result};

use super::source::Source;

/// The text whose ids are hashed. It belongs to the facts: other characters give other hashes.
pub(super) const CHECK_TEXT: &str = "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u{200d}🌫\u{fe0f} (multiple emojis concatenated) ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ ------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL";

const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(super) const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_SIGNS: &str = r"\s?[!-/:-~！-／：-～‘-‟　-。]+";
const DEEPSEEK_CJK: &str = "[一-龥ࠀ-一가-퟿]+";
const CJK_KANA: &str = "[一-龥぀-ゟ゠-ヿ]+";
const BAILING: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const SEED_CODER: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";
const MINICPM5: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const UFAKZEKA: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const JAIS2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}";
const BLOOM: &str = " ?[^(\\s|[.,!?…。，、।۔،])]+";
const GROUPED_DIGITS: &str = r"\d{1,3}(?=(?:\d{3})*\b)";

/// One step of a pre-tokenizer, as far as it tells one from another.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// Cut out what the expression matches; the rest stays in pieces.
    Split(String),
    /// Digits one by one.
    EachDigit,
    /// Runs of digits.
    DigitRuns,
    /// Runs of punctuation.
    Punctuation,
    /// GPT-2's expression, then bytes as characters.
    WordsAndBytes,
    /// Bytes as characters.
    Bytes,
    /// White space and punctuation, as BERT does.
    Bert,
    /// Anything else, as the file writes it.
    Other(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Split(regex) => write!(f, "split at /{regex}/"),
            Step::EachDigit => f.write_str("each digit"),
            Step::DigitRuns => f.write_str("runs of digits"),
            Step::Punctuation => f.write_str("runs of punctuation"),
            Step::WordsAndBytes => f.write_str("byte level with GPT-2's words"),
            Step::Bytes => f.write_str("byte level"),
            Step::Bert => f.write_str("BERT's words"),
            Step::Other(json) => f.write_str(json),
        }
    }
}

/// A step in the table.
enum Pattern {
    S(&'static str),
    Each,
    Runs,
    Punct,
    Words,
    Bytes,
    Bert,
}

use Pattern::{Bert, Bytes, Each, Punct, Runs, S, Words};

impl Pattern {
    fn matches(&self, step: &Step) -> bool {
        match (self, step) {
            (S(regex), Step::Split(other)) => plain(regex) == plain(other),
            (Each, Step::EachDigit)
            | (Runs, Step::DigitRuns)
            | (Punct, Step::Punctuation)
            | (Words, Step::WordsAndBytes)
            | (Bytes, Step::Bytes)
            | (Bert, Step::Bert) => true,
            _ => false,
        }
    }
}

/// A structure and the pre-tokenizer it means.
struct Structure {
    pre: &'static str,
    steps: &'static [Pattern],
    /// A token that the family has, where another shares the steps. The first row that fits wins, so rows with one
    /// stand before the row of the same steps without.
    token: Option<&'static str>,
}

const fn row(pre: &'static str, steps: &'static [Pattern], token: Option<&'static str>) -> Structure {
    Structure { pre, steps, token }
}

const STRUCTURES: &[Structure] = &[
    row("gpt-2", &[Words], None),
    row("gpt-2", &[S(GPT2), Bytes], None),
    row("glm4", &[S(LLAMA3), Bytes], Some("[gMASK]")),
    row("llama-bpe", &[S(LLAMA3), Bytes], None),
    row("qwen2", &[S(QWEN2), Bytes], None),
    row("qwen35", &[S(QWEN35), Bytes], None),
    row("command-r", &[Each, Words], Some("<|END_OF_TURN_TOKEN|>")),
    row("starcoder", &[Each, Words], None),
    row("starcoder", &[S(r"\p{N}"), Words], None),
    row("falcon", &[Punct, Words, Runs, S("[0-9][0-9][0-9]")], None),
    row("falcon", &[Punct, Words, S("[0-9][0-9][0-9]")], None),
    row(
        "deepseek-llm",
        &[S(r"[\r\n]"), S(DEEPSEEK_LETTERS), S(DEEPSEEK_SIGNS), S(r"\s+$"), S(DEEPSEEK_CJK), Each, Bytes],
        None,
    ),
    row(
        "deepseek-coder",
        &[S(r"[\r\n]"), S(r"\s?\p{L}+"), S(r"\s?\p{P}+"), S(DEEPSEEK_CJK), Each, Bytes],
        Some("<|EOT|>"),
    ),
    row("deepseek-llm", &[S(r"[\r\n]"), S(r"\s?\p{L}+"), S(r"\s?\p{P}+"), S(DEEPSEEK_CJK), Each, Bytes], None),
    row("deepseek-v3", &[S(r"\p{N}{1,3}"), S(CJK_KANA), S(DEEPSEEK3), Bytes], None),
    row("gpt-4o", &[S(GPT4O), Bytes], None),
    row("tekken", &[S(TEKKEN), Bytes], None),
    row("tiny_aya", &[S(GROUPED_DIGITS), S(GPT4O), Bytes], None),
    row("bailingmoe", &[S(BAILING), Bytes], None),
    row("seed-coder", &[S(SEED_CODER), Bytes], None),
    row("exaone-moe", &[S(EXAONE_MOE), Bytes], None),
    row("minicpm5", &[S(r"\p{N}{1,3}"), S(MINICPM5), Bytes], None),
    row("ufakzeka", &[S(UFAKZEKA), Bytes], None),
    row("jais-2", &[S(JAIS2), Bytes], None),
    row("bloom", &[S(BLOOM), Bytes], None),
    row("viking", &[S(BLOOM), Each, Bytes], None),
    row("bert-bge", &[Bert], None),
];

/// The pre-tokenizer of a source tokenizer, or of `request` where the person says it.
///
/// # Errors
/// Neither hash nor structure is known.
pub(super) fn find(source: &Source, request: Option<&str>) -> Result<String> {
    if let Some(pre) = request {
        return Ok(pre.to_owned());
    }
    let mut hashes = Vec::new();
    // The published hashes are of ids with the special tokens around; a copy of such a vocabulary may have lost its
    // post-processor.
    for special in [true, false] {
        let hash = hash(&source.encode(CHECK_TEXT, special)?);
        if let Some((_, pre)) = pre_hashes::HASHES.iter().find(|(h, _)| *h == hash) {
            return Ok((*pre).to_owned());
        }
        hashes.push(hash);
    }
    by_structure(&source.json).map(str::to_owned).map_err(|found| {
        Error::input(format!("the pre-tokenizer is unknown: no published tokenizer hashes to {}, and this structure is in no table: {found}", hashes[0]))
            .help("name the pre-tokenizer that splits text the same way with --pre NAME, such as --pre gpt-2 or --pre llama-bpe, and let --check-tokenizer compare")
    })
}

/// SHA-256 of ids as Python prints a list of them.
fn hash(ids: &[u32]) -> String {
    let list: Vec<String> = ids.iter().map(u32::to_string).collect();
    Sha256::digest(format!("[{}]", list.join(", "))).iter().map(|b| format!("{b:02x}")).collect()
}

/// The pre-tokenizer by the structure of `tokenizer.json`, or a description of what was found.
fn by_structure(json: &Value) -> Result<&'static str, String> {
    let steps = steps(&json["pre_tokenizer"]);
    let normalizers = normalizers(&json["normalizer"]);
    let bert = steps == [Step::Bert];
    // llama.cpp normalizes a text for WordPiece alone; composing characters is the one step that is safe to leave out.
    let known = normalizers.iter().all(|n| n == "NFC" || bert && n == "BertNormalizer");
    let has = |text: &str| json["added_tokens"].as_array().into_iter().flatten().any(|t| t["content"] == *text);
    let fits = |row: &&Structure| {
        row.steps.len() == steps.len()
            && row.steps.iter().zip(&steps).all(|(pattern, step)| pattern.matches(step))
            && row.token.is_none_or(has)
    };
    match STRUCTURES.iter().find(fits) {
        Some(row) if known => Ok(row.pre),
        _ => {
            let show = |list: Vec<String>| if list.is_empty() { "none".to_owned() } else { list.join(", then ") };
            let steps = steps.iter().map(Step::to_string).collect();
            Err(format!("normalizer: {}; pre-tokenizer: {}", show(normalizers), show(steps)))
        }
    }
}

fn normalizers(json: &Value) -> Vec<String> {
    match json["type"].as_str() {
        None => Vec::new(),
        Some("Sequence") => json["normalizers"].as_array().into_iter().flatten().flat_map(normalizers).collect(),
        Some(name @ ("NFC" | "BertNormalizer")) => vec![name.to_owned()],
        Some(_) => vec![json.to_string()],
    }
}

fn steps(json: &Value) -> Vec<Step> {
    let Some(kind) = json["type"].as_str() else { return Vec::new() };
    let other = || Step::Other(json.to_string());
    vec![match kind {
        "Sequence" => return json["pretokenizers"].as_array().into_iter().flatten().flat_map(steps).collect(),
        "Digits" if json["individual_digits"] == true => Step::EachDigit,
        "Digits" => Step::DigitRuns,
        "Punctuation" if json["behavior"] == "Contiguous" => Step::Punctuation,
        "BertPreTokenizer" => Step::Bert,
        "ByteLevel" if json["add_prefix_space"] == true => other(),
        "ByteLevel" if json["use_regex"] == false => Step::Bytes,
        "ByteLevel" => Step::WordsAndBytes,
        "Split" => {
            // Keeping each match apart, or dropping what does not match: the same where everything matches.
            let isolated = json["behavior"] == "Isolated" && json["invert"] != true;
            let kept = json["behavior"] == "Removed" && json["invert"] == true;
            match json["pattern"]["Regex"].as_str() {
                Some(regex) if isolated || kept => Step::Split(regex.to_owned()),
                _ => other(),
            }
        }
        _ => other(),
    }]
}

/// An expression with the spellings of the same thing made one.
fn plain(regex: &str) -> String {
    let mut plain = regex.replace('\r', r"\r").replace('\n', r"\n").replace('\t', r"\t");
    for spelled in [
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
        "(?i:'s|'t|'re|'ve|'m|'d|'ll)",
        "'(?i:[sdmt]|ll|ve|re)",
    ] {
        plain = plain.replace(spelled, CONTRACTIONS);
    }
    plain
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hashes_are_unique_and_of_full_length() {
        let mut seen = std::collections::BTreeSet::new();
        for (hash, pre) in pre_hashes::HASHES {
            assert!(hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{hash}");
            assert!(seen.insert(hash), "{hash} twice");
            assert!(!pre.is_empty());
        }
    }

    #[test]
    fn every_row_is_reached() {
        for (i, row) in STRUCTURES.iter().enumerate() {
            let shadowed = STRUCTURES[..i].iter().any(|before| {
                before.token.is_none()
                    && before.steps.len() == row.steps.len()
                    && before.steps.iter().zip(row.steps).all(|(a, b)| match (a, b) {
                        (S(a), S(b)) => plain(a) == plain(b),
                        (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
                    })
            });
            assert!(!shadowed, "row {i} ({}) stands behind a more general one", row.pre);
        }
    }

    #[test]
    fn an_unknown_structure_is_shown() {
        let json = json!({
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": false},
        });
        let shown = by_structure(&json).unwrap_err();
        assert!(shown.contains("Lowercase") && shown.contains("split at /x+/"), "{shown}");
    }
}
