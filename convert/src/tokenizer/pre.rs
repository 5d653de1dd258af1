//! Which of llama.cpp's pre-tokenizers a `tokenizer.json` means.
//!
//! Two ways lead there. The reference converter hashes what the tokenizer makes of a fixed text, which knows published
//! vocabularies and no others. So where the hash says nothing, the structure does: the normalizer, the regular
//! expressions and the digit and byte steps of the file, matched against a table. Several names may cut alike and differ
//! in what llama.cpp ties to them (a beginning token, merges that are ignored, separators); then a token of the family
//! or what the file does decides.

mod pre_hashes;

use std::fmt;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use gguf::{Error, Result};

use super::expressions::*;
use super::runtime::PreTokenizer;
use super::source::Source;

/// The text whose ids are hashed. It belongs to the facts: other characters give other hashes.
pub(super) const CHECK_TEXT: &str = "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u{200d}🌫\u{fe0f} (multiple emojis concatenated) ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ ------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL";

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
    /// Punctuation, each character for itself.
    EachPunctuation,
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
            Step::EachPunctuation => f.write_str("each punctuation character"),
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
    EachPunct,
    Words,
    Bytes,
    Bert,
}

use Pattern::{Bert, Bytes, Each, EachPunct, Punct, Runs, S, Words};

impl Pattern {
    /// The step as a file writes it.
    fn json(&self) -> Value {
        match self {
            S(regex) => {
                json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
            }
            Each => json!({"type": "Digits", "individual_digits": true}),
            Runs => json!({"type": "Digits", "individual_digits": false}),
            Punct => json!({"type": "Punctuation", "behavior": "Contiguous"}),
            EachPunct => json!({"type": "Punctuation", "behavior": "Isolated"}),
            Words => json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}),
            Bytes => json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}),
            Bert => json!({"type": "BertPreTokenizer"}),
        }
    }

    fn matches(&self, step: &Step, spelling: fn(&str) -> String) -> bool {
        match (self, step) {
            (S(regex), Step::Split(other)) => spelling(regex) == spelling(other),
            (Each, Step::EachDigit)
            | (Runs, Step::DigitRuns)
            | (Punct, Step::Punctuation)
            | (EachPunct, Step::EachPunctuation)
            | (Words, Step::WordsAndBytes)
            | (Bytes, Step::Bytes)
            | (Bert, Step::Bert) => true,
            _ => false,
        }
    }
}

/// When a name of a structure is meant.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    /// Unless another of the same steps is.
    Else,
    /// The vocabulary has this token of a family.
    Has(&'static str),
    /// Texts of a pair are kept apart as RoBERTa does.
    Separates,
    /// A word that is a token is taken whole, whatever the merges say.
    IgnoresMerges,
    /// A beginning is put in front of texts.
    Begins,
}

/// A structure and the pre-tokenizers that cut so. The first name whose condition holds is meant; of those that a
/// family's token gives, the first that joins no words otherwise than the file does.
struct Structure {
    steps: &'static [Pattern],
    names: &'static [(&'static str, When)],
}

const fn row(name: &'static [(&'static str, When)], steps: &'static [Pattern]) -> Structure {
    Structure { steps, names: name }
}

const STRUCTURES: &[Structure] = &[
    row(&[("roberta-bpe", When::Separates), ("gpt-2", When::Else)], &[Words]),
    row(&[("roberta-bpe", When::Separates), ("gpt-2", When::Else)], &[S(GPT2), Bytes]),
    row(
        &[
            ("glm4", When::Has("[gMASK]")),
            ("chatglm-bpe", When::Has("[gMASK]")),
            ("llama-bpe", When::Has("<|begin_of_text|>")),
            ("dbrx", When::Has("<|begin_of_text|>")),
            ("lfm2", When::Has("<|startoftext|>")),
            ("llama-bpe", When::IgnoresMerges),
            ("dbrx", When::Else),
        ],
        &[S(LLAMA3), Bytes],
    ),
    row(&[("qwen2", When::Else)], &[S(QWEN2), Bytes]),
    row(&[("qwen35", When::Else)], &[S(QWEN35), Bytes]),
    row(&[("command-r", When::Has("<|END_OF_TURN_TOKEN|>")), ("starcoder", When::Else)], &[Each, Words]),
    row(&[("starcoder", When::Else)], &[S(EACH_NUMBER), Words]),
    row(&[("falcon", When::Else)], &[Punct, Words, Runs, S("[0-9][0-9][0-9]")]),
    row(&[("falcon", When::Else)], &[Punct, Words, S("[0-9][0-9][0-9]")]),
    row(
        &[("deepseek-llm", When::Else)],
        &[S(r"[\r\n]"), S(DEEPSEEK_LETTERS), S(DEEPSEEK_SIGNS), S(r"\s+$"), S(DEEPSEEK_CJK), Each, Bytes],
    ),
    row(
        &[("deepseek-coder", When::Has("<|EOT|>")), ("deepseek-llm", When::Else)],
        &[S(r"[\r\n]"), S(r"\s?\p{L}+"), S(r"\s?\p{P}+"), S(DEEPSEEK_CJK), Each, Bytes],
    ),
    row(&[("deepseek-v3", When::Else)], &[S(NUMBERS_OF_3), S(CJK_KANA), S(DEEPSEEK3), Bytes]),
    row(&[("spark2_5", When::Else)], &[S(NUMBERS_OF_3), S(CJK_KANA), S(SPARK), Each, Bytes]),
    row(&[("spark2_5", When::Else)], &[S(NUMBERS_OF_3), S(CJK_KANA), S(SPARK), S(EACH_NUMBER), Bytes]),
    row(&[("afmoe", When::Else)], &[S(NUMBERS_OF_3), S(AFMOE_SCRIPTS), S(DEEPSEEK3), Bytes]),
    row(&[("youtu", When::Else)], &[S(YOUTU_SCRIPTS), S(GPT4O_EACH_DIGIT), Bytes]),
    row(&[("granite-embed-multi-97m", When::IgnoresMerges), ("gpt-4o", When::Else)], &[S(GPT4O), Bytes]),
    row(&[("tekken", When::Else)], &[S(TEKKEN), Bytes]),
    row(&[("tiny_aya", When::Else)], &[S(GROUPED_DIGITS), S(GPT4O), Bytes]),
    row(&[("bailingmoe", When::Else)], &[S(BAILING), Bytes]),
    row(&[("seed-coder", When::Else)], &[S(SEED_CODER), Bytes]),
    row(&[("exaone-moe", When::Else)], &[S(EXAONE_MOE), Bytes]),
    row(&[("minicpm5", When::Else)], &[S(NUMBERS_OF_3), S(MINICPM5), Bytes]),
    row(&[("ufakzeka", When::Else)], &[S(UFAKZEKA), Bytes]),
    row(&[("jais-2", When::Else)], &[S(JAIS2), Bytes]),
    row(&[("kimi-k2", When::Else)], &[S(KIMI), Bytes]),
    row(&[("laguna", When::Else)], &[S(LINES), S(QWEN2), Bytes]),
    row(&[("superbpe", When::Else)], &[S(NUMBERS), S(THREES_FROM_THE_RIGHT), Bytes]),
    row(
        &[("chameleon", When::Else)],
        &[
            S("<sentinel:[0-9]+>"),
            S("(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"),
            S(r"([\t\n]|    |  )"),
            Each,
            EachPunct,
            Words,
        ],
    ),
    row(&[("bloom", When::Else)], &[S(BLOOM), Bytes]),
    row(&[("viking", When::Else)], &[S(BLOOM), Each, Bytes]),
    row(&[("bert-bge", When::Else)], &[Bert]),
];

/// The names of a vocabulary in plain UTF-8 whose normalizer escapes its spaces, and whose pre-tokenizer cuts at most at
/// spaces, of which there are none left.
const ESCAPED: &[(&str, When)] = &[("granite-embed-multi-311m", When::Begins), ("sarvam-moe", When::Else)];

/// A pre-tokenizer that was found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub name: String,
    /// Whether a beginning is put in front of texts, where the name says otherwise than the file does.
    pub add_bos: Option<bool>,
}

/// The pre-tokenizer of a source tokenizer, or of `request` where the person says it.
///
/// # Errors
/// Neither hash nor structure is known.
pub(super) fn find(source: &Source, request: Option<&str>) -> Result<Found> {
    let named = |name: &str| Found { name: name.to_owned(), add_bos: None };
    if let Some(pre) = request {
        return Ok(named(pre));
    }
    let mut hashes = Vec::new();
    // The published hashes are of ids with the special tokens around; a copy of such a vocabulary may have lost its
    // post-processor.
    for special in [true, false] {
        let hash = hash(&source.encode(CHECK_TEXT, special)?);
        if let Some((_, pre)) = pre_hashes::HASHES.iter().find(|(h, _)| *h == hash) {
            return Ok(named(pre));
        }
        hashes.push(hash);
    }
    let file = File { source, json: &source.json };
    by_structure(&file).map_err(|found| {
        Error::input(format!("the pre-tokenizer is unknown: no published tokenizer hashes to {}, and this structure is in no table: {found}", hashes[0]))
            .help("name the pre-tokenizer that splits text the same way with --pre NAME, such as --pre gpt-2 or --pre llama-bpe, and let --check-tokenizer compare")
    })
}

/// SHA-256 of ids as Python prints a list of them.
fn hash(ids: &[u32]) -> String {
    let list: Vec<String> = ids.iter().map(u32::to_string).collect();
    gguf::quote::hex(&Sha256::digest(format!("[{}]", list.join(", "))))
}

/// What a file does beside cutting.
struct File<'a> {
    source: &'a Source,
    json: &'a Value,
}

impl File<'_> {
    fn has(&self, text: &str) -> bool {
        self.source.tokenizer.get_added_vocabulary().get_vocab().contains_key(text)
    }

    fn separates(&self) -> bool {
        let post = &self.json["post_processor"];
        let is = |step: &Value| step["type"] == "RobertaProcessing";
        is(post) || post["processors"].as_array().is_some_and(|list| list.iter().any(is))
    }

    fn ignores_merges(&self) -> bool {
        self.json["model"]["ignore_merges"] == true
    }

    fn begins(&self) -> bool {
        let ids = |special: bool| self.source.encode("a", special).unwrap_or_default();
        let (plain, special) = (ids(false), ids(true));
        special.first() != plain.first()
    }

    fn holds(&self, when: When) -> bool {
        match when {
            When::Else => true,
            When::Has(token) => self.has(token),
            When::Separates => self.separates(),
            When::IgnoresMerges => self.ignores_merges(),
            When::Begins => self.begins(),
        }
    }

    /// Whether a name's way with merges writes every token of the vocabulary as the file's does.
    fn merges_alike(&self, name: &str) -> bool {
        let Ok(pre) = PreTokenizer::find(name) else { return true };
        pre.ignore_merges == self.ignores_merges() || self.source.merges_reach_all_tokens()
    }
}

/// The pre-tokenizer by the structure of `tokenizer.json`, or a description of what was found.
fn by_structure(file: &File<'_>) -> Result<Found, String> {
    let steps = steps(&file.json["pre_tokenizer"]);
    let normalizers = normalizers(&file.json["normalizer"]);
    let describe = || {
        let show = |list: Vec<String>| if list.is_empty() { "none".to_owned() } else { list.join(", then ") };
        let steps = steps.iter().map(Step::to_string).collect();
        format!("normalizer: {}; pre-tokenizer: {}", show(normalizers.clone()), show(steps))
    };
    let bert = steps == [Step::Bert];
    let names = if escapes_spaces(file.json) {
        ESCAPED
    } else {
        let fits = |row: &&Structure, spelling: fn(&str) -> String| {
            row.steps.len() == steps.len()
                && row.steps.iter().zip(&steps).all(|(pattern, step)| pattern.matches(step, spelling))
        };
        let found =
            STRUCTURES.iter().find(|row| fits(row, plain)).or_else(|| STRUCTURES.iter().find(|row| fits(row, loose)));
        // llama.cpp normalizes a text for WordPiece alone; composing characters is the one step that is safe to leave
        // out.
        let known = normalizers.iter().all(|n| n == "NFC" || bert && n == "BertNormalizer");
        found.filter(|_| known).ok_or_else(describe)?.names
    };
    let meant: Vec<&(&str, When)> = names.iter().filter(|(_, when)| file.holds(*when)).collect();
    let family: Vec<&str> =
        meant.iter().filter(|(_, when)| matches!(when, When::Has(_))).map(|(name, _)| *name).collect();
    let alike = family.iter().position(|name| file.merges_alike(name)).unwrap_or(0);
    let name = match family.get(alike) {
        Some(name) => *name,
        None => meant.first().ok_or_else(describe)?.0,
    };
    // What the first name of a family says of a beginning is true of the family. Where only the steps decided among
    // several, what the name says need not be what this file does.
    let shared = names.iter().any(|(_, when)| matches!(when, When::Has(_) | When::IgnoresMerges));
    let certain = !family.is_empty() && alike == 0 || !shared;
    let says = PreTokenizer::find(name).is_ok_and(|pre| pre.add_bos);
    let does = certain || file.begins();
    Ok(Found { name: name.to_owned(), add_bos: (!certain && says != does).then_some(does) })
}

/// The pre-tokenizer of a `tokenizer.json` that a name means: that of its structure, or of a structure whose name cuts
/// the same way, else its own expressions. Nothing where there are none.
pub(super) fn json_of(name: &str) -> Option<Value> {
    let has = |row: &&Structure, name: &str| row.names.iter().any(|(known, _)| *known == name);
    let alike = || {
        let cuts = PreTokenizer::find(name).ok()?.cuts_shown();
        let same = |known: &str| PreTokenizer::find(known).is_ok_and(|row| row.cuts_shown() == cuts);
        STRUCTURES.iter().find(|row| row.names.iter().any(|(known, _)| same(known)))
    };
    let row = STRUCTURES.iter().find(|row| has(row, name)).or_else(alike);
    let mut steps: Vec<Value> = match row {
        Some(row) => row.steps.iter().map(Pattern::json).collect(),
        // What no published tokenizer is known for is cut as llama.cpp does: by one expression after the other.
        None => {
            let expressions = PreTokenizer::find(name).ok()?.expressions().filter(|all| !all.is_empty())?;
            expressions.into_iter().map(S).chain([Bytes]).map(|step| step.json()).collect()
        }
    };
    Some(match steps.len() {
        1 => steps.swap_remove(0),
        _ => json!({"type": "Sequence", "pretokenizers": steps}),
    })
}

/// Whether the file's normalizer escapes spaces in a vocabulary that falls back to bytes, with nothing else that cuts.
pub(super) fn escapes_spaces(json: &Value) -> bool {
    let is = |step: &Value| {
        step["type"] == "Replace"
            && step["pattern"]["String"] == " "
            && step["content"] == super::runtime::ESCAPED_SPACE
    };
    let cuts = &json["pre_tokenizer"];
    let at_spaces = cuts["type"] == "Split" && cuts["pattern"]["String"] == " ";
    is(&json["normalizer"]) && (cuts.is_null() || at_spaces) && json["model"]["byte_fallback"] == true
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
        "Punctuation" if json["behavior"] == "Isolated" || json["behavior"].is_null() => Step::EachPunctuation,
        "BertPreTokenizer" => Step::Bert,
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

/// The same where no word of any text can tell the spellings apart: possessive repetitions of characters that cannot
/// stand in what follows them, and one line end for all behind any white space.
fn loose(regex: &str) -> String {
    let mut loose = plain(regex);
    for (spelled, same) in
        [("?+", "?"), ("++", "+"), ("*+", "*"), (r"|\s*[\r\n]|", r"|\s*[\r\n]+|"), (r"\p{N}{1}|", r"\p{N}|")]
    {
        loose = loose.replace(spelled, same);
    }
    loose
}

#[cfg(test)]
mod tests {
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
    fn structures_are_unique_and_name_what_is_known() {
        let key = |row: &Structure| -> Vec<String> {
            row.steps
                .iter()
                .map(|step| match step {
                    S(regex) => plain(regex),
                    other => format!("{:?}", std::mem::discriminant(other)),
                })
                .collect()
        };
        let mut seen = std::collections::BTreeSet::new();
        for row in STRUCTURES {
            assert!(seen.insert(key(row)), "{:?} twice", row.names);
            assert_eq!(row.names.last().unwrap().1, When::Else, "{:?}", row.names);
            for (name, _) in row.names.iter().chain(ESCAPED) {
                assert!(*name == "bert-bge" || PreTokenizer::find(name).is_ok(), "{name}");
            }
        }
    }
}
