//! Pre-tokenizers of byte-level BPE: how a text is cut into words before pairs are joined.
//!
//! A pre-tokenizer is a list of cuts; each is applied to every piece that the one before it left, as if the piece were
//! the whole text. What no cut matches stays in pieces too. The expressions are those of llama.cpp, whose engine knows
//! no letter case outside ASCII: where that makes an expression coarser than the one of the published tokenizer, the
//! row has both.

use std::ops::Range;

use fancy_regex::RegexBuilder;
use regex::Regex;

use gguf::{Error, Result};

use super::unicode::{LETTER, MARK, NUMBER, SPACE, Table};
use crate::tokenizer::expressions;

/// Steps back that an expression may take: what one word may cost, far above any text's longest.
const BACKTRACKS: usize = 1 << 28;

/// One cut.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// Words of the shape that most tokenizers share.
    Words(Words),
    /// What an expression matches.
    Regex(&'static str),
    /// Runs of line feeds, and runs of anything else.
    Lines,
    /// Digits in threes, counted from the right.
    Thousands,
    /// Kimi's words, which treat Han characters apart.
    Kimi,
}

/// The words of GPT-2 and its descendants:
/// contractions, letters, digits, signs, line ends, and white space up to the last before a word.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Words {
    contractions: Contractions,
    /// Letters take any one character but a line end, letter or number in front; else they take a space.
    any_prefix: bool,
    /// Marks count as letters.
    marks: bool,
    /// Digits in a word.
    digits: usize,
    /// Digits take a space in front.
    digit_space: bool,
    /// Signs take the line ends after them.
    sign_lines: bool,
    /// Line ends make words of their own, with the white space before them.
    lines: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Contractions {
    None,
    Lower,
    AnyCase,
}

const WORDS_GPT2: Words = Words {
    contractions: Contractions::Lower,
    any_prefix: false,
    marks: false,
    digits: usize::MAX,
    digit_space: true,
    sign_lines: false,
    lines: false,
};
const WORDS_LLAMA3: Words = Words {
    contractions: Contractions::AnyCase,
    any_prefix: true,
    marks: false,
    digits: 3,
    digit_space: false,
    sign_lines: true,
    lines: true,
};
const WORDS_QWEN2: Words = Words { digits: 1, ..WORDS_LLAMA3 };

const GPT2: Cut = Cut::Words(WORDS_GPT2);
const LLAMA3: Cut = Cut::Words(WORDS_LLAMA3);
const QWEN2: Cut = Cut::Words(WORDS_QWEN2);
const NUMBER_EACH: Cut = Cut::Regex(expressions::EACH_NUMBER);
const NUMBERS_OF_3: Cut = Cut::Regex(expressions::NUMBERS_OF_3);
const CJK_KANA: Cut = Cut::Regex(expressions::CJK_KANA);
const CJK_HANGUL: Cut = Cut::Regex("[一-龥ࠀ-一가-퟿]+");
const LINE_ENDS: Cut = Cut::Regex(r"[\r\n]");
const BLOOM: Cut = Cut::Regex(r" ?[^(\s|.,!?…。，、।۔،)]+");
const DEEPSEEK3: Cut = Cut::Regex(expressions::DEEPSEEK3);
/// The words that distinguish upper from lower case, where letters outside ASCII are both.
const CASED: &str = r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same with marks among the letters.
const CASED_MARKS: &str = r"[^\r\n\p{L}\p{N}]?[[\p{L}\p{M}]&&[^a-z]]*[[\p{L}\p{M}]&&[^A-Z]]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[[\p{L}\p{M}]&&[^a-z]]+[[\p{L}\p{M}]&&[^A-Z]]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same where no case is told apart at all.
const UNCASED_MARKS: &str = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const UNCASED_MARKS_DIGIT: &str = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What is different where llama.cpp's expression knows letter case in ASCII only.
const ASCII_CASE: &str = "its expression for this pre-tokenizer knows upper and lower case in ASCII only";
/// What is different where it knows none.
const NO_CASE: &str = "its engine does not tell upper from lower case, as the expression of this pre-tokenizer wants";

/// A pre-tokenizer of llama.cpp.
pub(crate) struct PreTokenizer {
    /// The values of `tokenizer.ggml.pre` that mean it.
    names: &'static [&'static str],
    cuts: &'static [Cut],
    /// The cuts of the published tokenizer where llama.cpp's differ, and what is different.
    published: Option<(&'static [Cut], &'static str)>,
    /// A word that is a token is taken whole, whatever the merges say.
    pub ignore_merges: bool,
    /// A beginning is added unless the metadata says otherwise.
    pub add_bos: bool,
    /// A separator stands between two texts unless the metadata says otherwise.
    pub add_sep: bool,
    /// Without a key there is no beginning token.
    pub no_bos: bool,
    /// The vocabulary is written in plain UTF-8 and falls back to `<0x..>` tokens.
    pub plain: bool,
    /// Spaces are escaped in the vocabulary.
    pub escaped: bool,
    /// Capital letters stay unless the metadata says otherwise, where words lie between white space.
    pub keeps_case: bool,
    /// A word of nothing but line feeds that is a token is taken whole.
    pub whole_lines: bool,
}

const PLAIN_ROW: PreTokenizer = PreTokenizer {
    names: &[],
    cuts: &[],
    published: None,
    ignore_merges: false,
    add_bos: false,
    add_sep: false,
    no_bos: false,
    plain: false,
    escaped: false,
    keeps_case: false,
    whole_lines: false,
};

const fn row(names: &'static [&'static str], cuts: &'static [Cut]) -> PreTokenizer {
    PreTokenizer { names, cuts, ..PLAIN_ROW }
}

/// Every pre-tokenizer that `tokenizer.ggml.pre` can name for a BPE model.
const PRE_TOKENIZERS: &[PreTokenizer] = &[
    row(
        &["default", ""],
        &[Cut::Regex(r"[\p{P}$+<=>^~|]+"), GPT2, Cut::Regex(r"\p{N}+"), Cut::Regex("[0-9][0-9][0-9]")],
    ),
    PreTokenizer {
        ignore_merges: true,
        add_bos: true,
        ..row(
            &["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
            &[LLAMA3],
        )
    },
    row(&["dbrx", "smaug-bpe"], &[LLAMA3]),
    PreTokenizer { no_bos: true, ..row(&["chatglm-bpe"], &[LLAMA3]) },
    PreTokenizer { no_bos: true, ignore_merges: true, ..row(&["glm4", "glm5"], &[LLAMA3]) },
    row(
        &["jais-2"],
        &[Cut::Regex(
            r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
        )],
    ),
    row(
        &["deepseek-llm"],
        &[
            LINE_ENDS,
            Cut::Regex(
                r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
            ),
            Cut::Regex(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            Cut::Regex(r"\s+$"),
            CJK_HANGUL,
            Cut::Regex(r"\p{N}+"),
        ],
    ),
    row(&["deepseek-coder"], &[LINE_ENDS, Cut::Regex(r"\s?\p{L}+"), Cut::Regex(r"\s?\p{P}+"), CJK_HANGUL, NUMBER_EACH]),
    row(&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], &[NUMBERS_OF_3, CJK_KANA, DEEPSEEK3]),
    row(&["spark2_5"], &[NUMBERS_OF_3, CJK_KANA, Cut::Regex(expressions::SPARK), NUMBER_EACH]),
    PreTokenizer {
        ignore_merges: true,
        published: Some((
            &[Cut::Regex(expressions::YOUTU_SCRIPTS), Cut::Regex(expressions::GPT4O_EACH_DIGIT)],
            NO_CASE,
        )),
        ..row(&["youtu"], &[Cut::Regex(expressions::YOUTU_SCRIPTS), Cut::Regex(UNCASED_MARKS_DIGIT)])
    },
    row(&["falcon"], &[Cut::Regex(r"[\p{P}$+<=>^~|`]+"), GPT2, Cut::Regex("[0-9][0-9][0-9]")]),
    row(
        &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[NUMBER_EACH, GPT2],
    ),
    row(
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
        ],
        &[GPT2],
    ),
    PreTokenizer { add_sep: true, ..row(&["jina-v1-en", "jina-v2-code", "roberta-bpe"], &[GPT2]) },
    row(
        &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "stablelm2", "hunyuan", "solar-open", "megrez", "grok-2"],
        &[QWEN2],
    ),
    row(&["qwen35"], &[Cut::Words(Words { marks: true, ..WORDS_QWEN2 })]),
    row(&["ufakzeka"], &[Cut::Words(Words { contractions: Contractions::None, ..WORDS_QWEN2 })]),
    row(&["seed-coder"], &[Cut::Words(Words { sign_lines: false, ..WORDS_QWEN2 })]),
    row(&["laguna"], &[Cut::Lines, QWEN2]),
    PreTokenizer {
        ignore_merges: true,
        ..row(&["minicpm5"], &[NUMBERS_OF_3, Cut::Words(Words { digits: usize::MAX, ..WORDS_LLAMA3 })])
    },
    row(&["poro-chat", "bloom", "gpt3-finnish"], &[BLOOM]),
    row(&["viking"], &[BLOOM, NUMBER_EACH]),
    PreTokenizer {
        ignore_merges: true,
        add_bos: true,
        published: Some((&[Cut::Regex(expressions::TEKKEN)], ASCII_CASE)),
        ..row(&["tekken"], &[Cut::Regex(TEKKEN)])
    },
    PreTokenizer {
        add_bos: true,
        ..row(
            &["chameleon"],
            &[
                Cut::Regex("<sentinel:[0-9]+>"),
                Cut::Regex("(?:IMGIMG)(?:(?:A|B|C|D|E|F|G|H|I){1,4})Z"),
                Cut::Regex(r"(?:[\t\n]|    |  )"),
                NUMBER_EACH,
                Cut::Regex(r"[\p{P}!-/:-@\[-`{-~]"),
                GPT2,
            ],
        )
    },
    PreTokenizer {
        published: Some((&[Cut::Regex(expressions::GPT4O)], ASCII_CASE)),
        ..row(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[Cut::Regex(CASED)])
    },
    PreTokenizer {
        ignore_merges: true,
        published: Some((&[Cut::Regex(expressions::GPT4O)], ASCII_CASE)),
        ..row(&["granite-embed-multi-97m"], &[Cut::Regex(CASED_MARKS)])
    },
    PreTokenizer {
        published: Some((&[Cut::Regex(expressions::GROUPED_DIGITS), Cut::Regex(expressions::GPT4O)], NO_CASE)),
        ..row(&["tiny_aya", "cohere2moe"], &[Cut::Thousands, Cut::Regex(UNCASED_MARKS)])
    },
    PreTokenizer {
        published: Some((
            &[Cut::Regex(expressions::KIMI)],
            "its words for this pre-tokenizer do not tell upper from lower case and take no marks with their letters",
        )),
        ..row(&["kimi-k2"], &[Cut::Kimi])
    },
    row(&["superbpe"], &[Cut::Regex(expressions::NUMBERS), Cut::Regex("(?=(?:[0-9]{3})+(?![0-9]))")]),
    row(
        &["bailingmoe", "bailingmoe2", "llada-moe"],
        &[Cut::Regex(
            r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        )],
    ),
    row(
        &["exaone-moe"],
        &[Cut::Regex(
            r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        )],
    ),
    PreTokenizer {
        published: Some((
            &[NUMBERS_OF_3, Cut::Regex(expressions::AFMOE_SCRIPTS), DEEPSEEK3],
            "it groups digits in threes from the right",
        )),
        ..row(&["afmoe"], &[Cut::Thousands, Cut::Regex(expressions::AFMOE_SCRIPTS), DEEPSEEK3])
    },
    PreTokenizer {
        plain: true,
        escaped: true,
        whole_lines: true,
        ..row(&["gemma4", "granite-embed-multi-311m"], &[Cut::Lines])
    },
    PreTokenizer { plain: true, escaped: true, ..row(&["sarvam-moe"], &[Cut::Lines]) },
    PreTokenizer { plain: true, keeps_case: true, ..row(&["whitespace"], &[Cut::Regex(r"\S+")]) },
];

impl PreTokenizer {
    /// The pre-tokenizer of this name.
    ///
    /// # Errors
    /// No row has it.
    pub fn find(name: &str) -> Result<&'static PreTokenizer> {
        PRE_TOKENIZERS.iter().find(|row| row.names.contains(&name)).ok_or_else(|| {
            Error::input(format!("tokenizer.ggml.pre is '{name}', which is no pre-tokenizer that is known"))
                .help("set the key to the pre-tokenizer that splits text the same way, such as gpt-2 or llama-bpe")
        })
    }

    /// The cuts as text, by which rows that cut alike are found.
    pub fn cuts_shown(&self) -> String {
        format!("{:?}", self.cuts)
    }

    /// The cuts as expressions, where all are such or words of GPT-2.
    pub fn expressions(&self) -> Option<Vec<&'static str>> {
        const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
        let expression = |cut: &Cut| match cut {
            Cut::Regex(expression) => Some(*expression),
            Cut::Words(words) if *words == WORDS_GPT2 => Some(WORDS),
            _ => None,
        };
        self.cuts.iter().map(expression).collect()
    }

    /// What llama.cpp's cuts do otherwise than those of the published tokenizer, if anything.
    pub fn departure(&self) -> Option<&'static str> {
        self.published.map(|(_, what)| what)
    }

    /// The cuts made ready: llama.cpp's, or the published ones.
    pub fn splitter(&self, published: bool) -> Result<Splitter> {
        let cuts = match self.published {
            Some((cuts, _)) if published => cuts,
            _ => self.cuts,
        };
        let ready = |cut: &Cut| {
            Ok(match *cut {
                Cut::Words(words) => Ready::Words(words),
                Cut::Regex(expression) => Ready::regex(expression)?,
                Cut::Lines => Ready::Lines,
                Cut::Thousands => Ready::Thousands,
                Cut::Kimi => Ready::Kimi,
            })
        };
        Ok(Splitter { cuts: cuts.iter().map(ready).collect::<Result<_>>()? })
    }
}

/// The cuts of a pre-tokenizer with their expressions compiled.
#[derive(Debug)]
pub(crate) struct Splitter {
    cuts: Vec<Ready>,
}

/// An expression's end where the last character of white space is left to the word after it.
const LEAVES_SPACE: &str = r"|\s+(?!\S)|\s+";

#[derive(Debug)]
enum Ready {
    Words(Words),
    /// An expression that needs no looking ahead.
    Regex(Regex),
    /// One that ends in [`LEAVES_SPACE`], without it but for all white space; and whether line ends are words in it.
    Spaced(Regex, bool),
    /// Any other, by a slower engine.
    Looking(Box<fancy_regex::Regex>),
    Lines,
    Thousands,
    Kimi,
}

impl Splitter {
    /// Calls `word` with every word of the text, in order.
    ///
    /// # Errors
    /// Those of `word`, and an expression that takes more steps over the text than is bearable.
    pub fn split<'t>(&self, text: &'t str, word: &mut impl FnMut(&'t str) -> Result<()>) -> Result<()> {
        cut_all(&self.cuts, text, word)
    }
}

fn cut_all<'t>(cuts: &[Ready], text: &'t str, word: &mut dyn FnMut(&'t str) -> Result<()>) -> Result<()> {
    match cuts {
        [] => word(text),
        [last] => last.apply(text, word),
        [first, rest @ ..] => first.apply(text, &mut |piece| cut_all(rest, piece, word)),
    }
}

/// The matches and what lies between them, in order.
fn pieces<'t>(
    text: &'t str,
    matches: impl Iterator<Item = Result<Range<usize>>>,
    piece: &mut dyn FnMut(&'t str) -> Result<()>,
) -> Result<()> {
    let mut at = 0;
    for found in matches {
        let found = found?;
        if found.start > at {
            piece(&text[at..found.start])?;
        }
        if found.end > found.start {
            piece(&text[found.clone()])?;
        }
        at = found.end;
    }
    if at < text.len() {
        piece(&text[at..])?;
    }
    Ok(())
}

impl Ready {
    fn regex(expression: &str) -> Result<Ready> {
        if let Some(rest) = expression.strip_suffix(LEAVES_SPACE)
            && let Ok(regex) = Regex::new(&format!(r"{rest}|\s+"))
        {
            return Ok(Ready::Spaced(regex, rest.contains(r"|\s*[\r\n]")));
        }
        if let Ok(regex) = Regex::new(expression) {
            return Ok(Ready::Regex(regex));
        }
        let looking = RegexBuilder::new(expression).backtrack_limit(BACKTRACKS).build();
        let looking = looking
            .map_err(|e| Error::input(format!("the expression /{expression}/ is not understood")).caused_by(e))?;
        Ok(Ready::Looking(Box::new(looking)))
    }

    fn apply<'t>(&self, text: &'t str, piece: &mut dyn FnMut(&'t str) -> Result<()>) -> Result<()> {
        match self {
            Ready::Words(words) => words.apply(text, piece),
            Ready::Regex(regex) => {
                let matches = regex.find_iter(text).map(|found| Ok(found.range()));
                pieces(text, matches, piece)
            }
            Ready::Spaced(regex, lines) => {
                let mut at = 0;
                let matches = std::iter::from_fn(|| {
                    let found = regex.find_at(text, at)?;
                    let mut range = found.range();
                    // White space before a word leaves it the last character, unless that is a line end of its own.
                    if range.end < text.len() && found.as_str().chars().all(char::is_whitespace) {
                        let last = found.as_str().chars().next_back().unwrap_or(' ');
                        let rest = range.end - last.len_utf8();
                        if rest > range.start && !(*lines && matches!(last, '\r' | '\n')) {
                            range.end = rest;
                        }
                    }
                    at = range.end;
                    Some(Ok(range))
                });
                pieces(text, matches, piece)
            }
            Ready::Looking(regex) => {
                let matches = regex.find_iter(text).map(|found| {
                    found.map(|found| found.range()).map_err(|e| {
                        Error::input("a pre-tokenizer's expression gave up on the text")
                            .help("the text has a very long run without a word's end")
                            .caused_by(e)
                    })
                });
                pieces(text, matches, piece)
            }
            Ready::Lines => runs(text, |c| c == '\n').try_for_each(piece),
            Ready::Thousands => thousands(text, piece),
            Ready::Kimi => kimi(text, piece),
        }
    }
}

/// The runs of characters for which `class` says the same.
fn runs(text: &str, class: impl Fn(char) -> bool) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = class(rest.chars().next()?);
        let end = rest.find(|c| class(c) != first).unwrap_or(rest.len());
        let (run, tail) = rest.split_at(end);
        rest = tail;
        Some(run)
    })
}

fn thousands<'t>(text: &'t str, piece: &mut dyn FnMut(&'t str) -> Result<()>) -> Result<()> {
    let table = Table::get();
    // What is no digit goes with the first digits after it, as the reference has it.
    let mut from = 0;
    let mut at = 0;
    for run in runs(text, |c| table.of(c) & NUMBER != 0) {
        let end = at + run.len();
        if run.chars().next().is_some_and(|c| table.of(c) & NUMBER != 0) {
            let count = run.chars().count();
            for (i, (offset, c)) in run.char_indices().enumerate() {
                if (count - i - 1).is_multiple_of(3) {
                    let to = at + offset + c.len_utf8();
                    piece(&text[from..to])?;
                    from = to;
                }
            }
        }
        at = end;
    }
    if from < text.len() {
        piece(&text[from..])?;
    }
    Ok(())
}

/// A place in a text with a view of the characters around it.
struct Cursor<'t> {
    text: &'t str,
    at: usize,
    table: &'static Table,
}

impl<'t> Cursor<'t> {
    fn new(text: &'t str) -> Cursor<'t> {
        Cursor { text, at: 0, table: Table::get() }
    }

    #[inline]
    fn peek(&self, from: usize) -> Option<(char, u8)> {
        let bytes = self.text.as_bytes();
        match *bytes.get(from)? {
            byte if byte < 0x80 => Some((byte as char, self.table.of(byte as char))),
            _ => {
                let c = self.text[from..].chars().next()?;
                Some((c, self.table.of(c)))
            }
        }
    }

    /// The end of a run of at most `most` characters from a place, all with a flag that `wanted` takes.
    #[inline]
    fn run(&self, from: usize, most: usize, wanted: impl Fn(char, u8) -> bool) -> usize {
        let mut at = from;
        for _ in 0..most {
            match self.peek(at) {
                Some((c, flags)) if wanted(c, flags) => at += c.len_utf8(),
                _ => break,
            }
        }
        at
    }

    /// The end of an English contraction at a place, if there is one.
    fn contraction(&self, from: usize, any_case: bool) -> Option<usize> {
        let bytes = self.text.as_bytes().get(from..)?;
        let letter = |i: usize| {
            let byte = *bytes.get(i)?;
            Some(if any_case { byte.to_ascii_lowercase() } else { byte })
        };
        if bytes.first() != Some(&b'\'') {
            return None;
        }
        match (letter(1)?, letter(2)) {
            (b's' | b't' | b'm' | b'd', _) => Some(from + 2),
            (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(from + 3),
            _ => None,
        }
    }

    /// The end of the white space word at a place: up to its last line end where `lines` are words, else up to the
    /// last character before a word, else all of it.
    fn space(&self, from: usize, lines: bool) -> usize {
        let end = self.run(from, usize::MAX, |_, flags| flags & SPACE != 0);
        let run = &self.text[from..end];
        if lines && let Some(last) = run.rfind(['\r', '\n']) {
            return from + last + 1;
        }
        match run.char_indices().next_back() {
            Some((last, _)) if last > 0 && end < self.text.len() => from + last,
            _ => end,
        }
    }
}

impl Words {
    fn apply<'t>(&self, text: &'t str, piece: &mut dyn FnMut(&'t str) -> Result<()>) -> Result<()> {
        let mut cursor = Cursor::new(text);
        while let Some((c, flags)) = cursor.peek(cursor.at) {
            let end = self.word(&cursor, c, flags);
            piece(&text[cursor.at..end])?;
            cursor.at = end;
        }
        Ok(())
    }

    fn word(&self, cursor: &Cursor<'_>, c: char, flags: u8) -> usize {
        let at = cursor.at;
        let letter = if self.marks { LETTER | MARK } else { LETTER };
        if c == '\''
            && self.contractions != Contractions::None
            && let Some(end) = cursor.contraction(at, self.contractions == Contractions::AnyCase)
        {
            return end;
        }
        let next = at + c.len_utf8();
        let letters = |from| cursor.run(from, usize::MAX, |_, flags| flags & letter != 0);
        let prefix =
            if self.any_prefix { !matches!(c, '\r' | '\n') && flags & (LETTER | NUMBER) == 0 } else { c == ' ' };
        if flags & letter != 0 {
            return letters(at);
        }
        if prefix {
            let end = letters(next);
            if end > next {
                return end;
            }
        }
        let number = |_: char, flags: u8| flags & NUMBER != 0;
        if flags & NUMBER != 0 {
            return cursor.run(at, self.digits, number);
        }
        if self.digit_space && c == ' ' {
            let end = cursor.run(next, self.digits, number);
            if end > next {
                return end;
            }
        }
        let sign = |_: char, flags: u8| flags & (SPACE | letter | NUMBER) == 0;
        let from = if c == ' ' { next } else { at };
        let end = cursor.run(from, usize::MAX, sign);
        if end > from {
            return if self.sign_lines { cursor.run(end, usize::MAX, |c, _| matches!(c, '\r' | '\n')) } else { end };
        }
        cursor.space(at, self.lines)
    }
}

/// The Han characters that Kimi's words keep apart.
fn han(c: char) -> bool {
    matches!(u32::from(c),
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2EBEF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}

fn kimi<'t>(text: &'t str, piece: &mut dyn FnMut(&'t str) -> Result<()>) -> Result<()> {
    let mut cursor = Cursor::new(text);
    let letter = |c: char, flags: u8| flags & LETTER != 0 && !han(c);
    while let Some((c, flags)) = cursor.peek(cursor.at) {
        let (at, next) = (cursor.at, cursor.at + c.len_utf8());
        let prefix = !matches!(c, '\r' | '\n') && flags & (LETTER | NUMBER) == 0;
        let from = if prefix && cursor.run(next, 1, letter) > next { next } else { at };
        let letters = cursor.run(from, usize::MAX, letter);
        let end = if han(c) {
            cursor.run(at, usize::MAX, |c, _| han(c))
        } else if letters > from {
            cursor.contraction(letters, true).unwrap_or(letters)
        } else if flags & NUMBER != 0 {
            cursor.run(at, 3, |_, flags| flags & NUMBER != 0)
        } else {
            let from = if c == ' ' { next } else { at };
            let signs = cursor.run(from, usize::MAX, |_, flags| flags & (SPACE | LETTER | NUMBER) == 0);
            if signs > from {
                cursor.run(signs, usize::MAX, |c, _| matches!(c, '\r' | '\n'))
            } else {
                cursor.space(at, true)
            }
        };
        piece(&text[at..end])?;
        cursor.at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    /// The splitters of all rows by their first name, compiled once.
    static SPLITTERS: LazyLock<Vec<Splitter>> =
        LazyLock::new(|| PRE_TOKENIZERS.iter().map(|row| row.splitter(false).unwrap()).collect());

    fn words(name: &str, text: &str) -> Vec<String> {
        let row = PRE_TOKENIZERS.iter().position(|row| row.names.contains(&name)).unwrap();
        let mut words = Vec::new();
        SPLITTERS[row]
            .split(text, &mut |word| {
                words.push(word.to_owned());
                Ok(())
            })
            .unwrap();
        words
    }

    #[test]
    fn names_are_unique_and_expressions_compile() {
        let mut seen = std::collections::BTreeSet::new();
        for row in PRE_TOKENIZERS {
            for name in row.names {
                assert!(seen.insert(name), "{name} twice");
            }
            row.splitter(true).unwrap();
        }
        assert!(PreTokenizer::find("nonsense").is_err());
    }

    #[test]
    fn words_are_cut_as_published() {
        assert_eq!(
            words("gpt-2", "Hello  world's 123!\n\n x"),
            ["Hello", " ", " world", "'s", " 123", "!", "\n\n", " x"]
        );
        assert_eq!(
            words("llama-bpe", "I'LL (see) 12345\r\n  y"),
            ["I", "'LL", " (", "see", ")", " ", "123", "45", "\r\n", " ", " y"]
        );
        assert_eq!(words("qwen2", "a12 "), ["a", "1", "2", " "]);
        assert_eq!(words("gpt-4o", "CamelCase'll"), ["Camel", "Case'll"]);
        assert_eq!(words("afmoe", "1234567"), ["1", "234", "567"]);
        assert_eq!(words("superbpe", "1234567"), ["1", "234", "567"]);
        assert_eq!(words("kimi-k2", "你好world 123"), ["你好", "world", " ", "123"]);
        assert_eq!(words("gemma4", "a\n\nb"), ["a", "\n\n", "b"]);
    }

    /// The words of the shared shape against the same written as an expression.
    const EXPRESSIONS: [(&str, &str); 6] = [
        ("gpt-2", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
        (
            "llama-bpe",
            r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        (
            "qwen2",
            r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        (
            "qwen35",
            r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        ("ufakzeka", r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
        (
            "seed-coder",
            r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
    ];

    static REGEXES: LazyLock<Vec<fancy_regex::Regex>> = LazyLock::new(|| {
        EXPRESSIONS.iter().map(|(_, expression)| fancy_regex::Regex::new(expression).unwrap()).collect()
    });

    /// Every expression of the table with the engine that was chosen for it, and with the one that knows them all.
    static ENGINES: LazyLock<Vec<(Ready, fancy_regex::Regex)>> = LazyLock::new(|| {
        let cuts = PRE_TOKENIZERS
            .iter()
            .flat_map(|row| row.cuts.iter().chain(row.published.into_iter().flat_map(|(cuts, _)| cuts)));
        let expressions: std::collections::BTreeSet<&str> =
            cuts.filter_map(|cut| if let Cut::Regex(regex) = cut { Some(*regex) } else { None }).collect();
        let both = |regex: &str| (Ready::regex(regex).unwrap(), fancy_regex::Regex::new(regex).unwrap());
        expressions.into_iter().map(both).collect()
    });

    proptest! {
        #[test]
        fn scanners_equal_their_expressions(text in "([a-zA-Z0-9' \\r\\n\\t.,!?é\u{301}Жж中\u{3000}७🦙\u{200d}]|'(s|LL|Ve)){0,40}") {
            for ((name, _), regex) in EXPRESSIONS.iter().zip(&*REGEXES) {
                let expected: Vec<String> = regex.find_iter(&text).map(|m| m.unwrap().as_str().to_owned()).collect();
                prop_assert_eq!(words(name, &text), expected, "{}", name);
            }
        }

        #[test]
        fn engines_agree(text in "([a-zA-Z0-9' \\r\\n\\t.,!?/(é\u{301}Жж中か\u{3000}७🦙\u{200d}$+|]|'(s|LL|Ve)){0,40}") {
            for (ready, regex) in &*ENGINES {
                let mut ours = Vec::new();
                ready.apply(&text, &mut |piece| {
                    ours.push(piece);
                    Ok(())
                })
                .unwrap();
                let mut theirs = Vec::new();
                let matches = regex.find_iter(&text).map(|m| Ok(m.unwrap().range()));
                pieces(&text, matches, &mut |piece| {
                    theirs.push(piece);
                    Ok(())
                })
                .unwrap();
                prop_assert_eq!(ours, theirs, "{}", regex.as_str());
            }
        }

        #[test]
        fn nothing_is_lost(text in any::<String>()) {
            for row in PRE_TOKENIZERS {
                prop_assert_eq!(words(row.names[0], &text).concat(), text.as_str(), "{:?}", row.names);
            }
        }
    }
}
