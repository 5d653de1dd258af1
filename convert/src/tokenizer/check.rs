//! The check after a conversion: texts go through the folder's tokenizer, read as transformers reads it, and through
//! the one that the GGUF describes, run as llama.cpp runs it, and the ids must be the same.
//!
//! Where they are not, the converted tokenizer is changed by what llama.cpp, or the reference converter, is known to do
//! otherwise. What that explains is a warning; anything else is an error.
//!
//! The folder's side is `tokenizer.json`, or what was made in its place, through the `tokenizers` library; or
//! `tokenizer.model` and vocabularies that only Python code reads, through their algorithms written a second time.

mod sentencepiece;
mod words;

use std::cell::OnceCell;
use std::path::Path;

use gguf::{Array, Error, Metadata, Result};

use super::runtime::Tokenizer;
use super::sentencepiece::Model;
use super::source::Source;
use super::{folder, kinds};
use sentencepiece::SentencePiece;

/// Texts of many kinds: languages, scripts, numbers, code, white space, signs.
const BUILT_IN: &[&str] = &[
    "The quick brown fox jumps over the lazy dog. It's 10 o'clock; we'll see, won't we? I'VE, YOU'RE, she'd.",
    "  Two spaces in front,   three   between, and some behind.   \n\n\n\tA tab, then\r\na Windows line end.\n",
    "1 12 123 1234 12345 3.14159 1,234,567.89 0x1F 1e-5 2026-11-21 ½ ² Ⅷ ٣٤٥ १२३",
    "fn main() {\n    let xs: Vec<u32> = (0..10).map(|i| i * 2 + 1).collect();\n    println!(\"{:?} // {}\", xs, xs[0] == 1 && xs.len() >= 10);\n}\n",
    "def f(x):\n\treturn {'a': [x, None], \"b\": x**2 != 4}  # comment_with_underscores camelCase HTTPServer\n",
    "Ça va très bien, merci ! Où est l'hôtel « Étoile » ? Grüße aus Köln: Straße, Übung. ¿Qué tal, señor? Żółć, příliš žluťoučký kůň.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Ελληνικά: Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "我能吞下玻璃而不伤身体。人工智能2026年。いろはにほへと、カタカナと漢字。한국어 텍스트입니다.",
    "مرحبا بالعالم، كيف الحال؟ שלום עולם. नमस्ते दुनिया, क्या हाल है? สวัสดีชาวโลก ভাষা தமிழ் ភាសាខ្មែរ",
    "🚀 🦙🦙 ✅ 😶\u{200d}🌫\u{fe0f} 👩\u{200d}👩\u{200d}👧 🇪🇺 ♥ → ∑ ∞ ≠ € £ ¥ © ™ … — “quoted” ‘single’ „deutsch“",
    "!!! ??? ... ,,, ;;; ::: --- ___ === +++ *** /// \\\\\\ ||| &&& %%% $$$ ### @@@ ~~~ ^^^ ``` ''' \"\"\" () [] {} <>",
    "http://example.com/a/b?c=d&e=f#g user.name+tag@example.org C:\\Windows\\System32 /usr/local/bin/../lib $HOME \"a\"b'c'd",
    "A",
    " a",
    "\n",
];

/// A user's text is compared in parts of about so many bytes, cut at line ends.
const PART: usize = 4096;

/// What the check compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The file that the source tokenizer was read from.
    pub source: String,
    /// How many texts were compared.
    pub texts: usize,
    /// How many tokens they have.
    pub tokens: usize,
    /// What is different by intent or outside the texts, one sentence each.
    pub notes: Vec<String>,
}

/// Encodes built-in texts and the user's with the folder's tokenizer and with the one that `metadata` describes.
///
/// # Errors
/// The first token that differs though nothing known explains it, with its place and its text; and what keeps either
/// tokenizer from being read.
pub fn check_tokenizer(dir: &Path, metadata: &Metadata, user_text: Option<&str>) -> Result<Report> {
    let mut report = Report::default();
    check_templates(dir, metadata, &mut report.notes)?;
    match metadata.str("tokenizer.ggml.model") {
        None | Some("none" | "no_vocab") => {
            report.notes.push("the model has no tokenizer".to_owned());
            return Ok(report);
        }
        Some(_) => {}
    }
    padding(metadata, &mut report.notes);
    let ours = Tokenizer::from_metadata(metadata)?;
    let reference = Reference::open(dir, metadata, &mut report)?;
    // A model file is what the conversion follows. transformers reads tokenizer.json, where there is one beside it.
    let beside = match &reference {
        Reference::SentencePiece { .. } if dir.join("tokenizer.json").is_file() => Source::open(dir)?,
        _ => None,
    };
    let known = Difference::known(&reference, metadata, &ours);
    let choices = Without::choices(known.len());
    let texts: Vec<(&str, &str)> = BUILT_IN
        .iter()
        .map(|text| (*text, "a built-in text"))
        .chain(parts(user_text.unwrap_or_default()).map(|text| (text, "the given text")))
        .collect();
    let mut comparison = Comparison {
        ours: &ours,
        metadata,
        reference: &reference,
        known: &known,
        choices: &choices,
        report: &mut report,
    };
    let mut explained = vec![0_usize; known.len()];
    let mut otherwise = 0;
    for (text, what) in &texts {
        for &difference in comparison.compare(text, what)? {
            explained[difference] += 1;
        }
        if let Some(source) = &beside {
            otherwise += usize::from(source.encode(text, false)? != ours.encode(text, false, true)?);
        }
    }
    for (difference, count) in known.iter().zip(explained).filter(|(_, count)| *count > 0) {
        report.notes.push(format!("{count} of {} texts: {}", texts.len(), difference.what));
    }
    if otherwise > 0 {
        report.notes.push(format!(
            "{otherwise} of {} texts: transformers, which reads tokenizer.json, encodes them otherwise than {}, which the converted tokenizer follows",
            texts.len(),
            report.source
        ));
    }
    let source = match (&reference, &beside) {
        (Reference::Json(source), _) => Some(&**source),
        (_, beside) => beside.as_ref(),
    };
    if let Some(source) = source {
        report.notes.extend(source.notes.iter().cloned());
        tokens(source, &ours, &mut report.notes);
    }
    if let Reference::Json(source) = &reference {
        around(source, &ours, &mut report.notes)?;
    }
    Ok(report)
}

/// Says where a chat template of the metadata is no Jinja, and where transformers takes another one.
fn check_templates(dir: &Path, metadata: &Metadata, notes: &mut Vec<String>) -> Result<()> {
    let configured = folder::json(dir, "tokenizer_config.json")?.map(|config| config["chat_template"].clone());
    let written = metadata.str("tokenizer.chat_template");
    if let Some(file) = folder::text(&dir.join("chat_template.jinja"))?
        && written != Some(file.as_str())
    {
        notes.push(match (written, configured) {
            (Some(_), Some(configured)) if !configured.is_null() => "transformers takes the chat template of chat_template.jinja, the reference converter and this one that of tokenizer_config.json".to_owned(),
            (Some(_), _) => "the chat template is not that of chat_template.jinja, which transformers takes".to_owned(),
            (None, _) => "chat_template.jinja is left aside, as the reference converter does without a tokenizer_config.json; transformers takes it".to_owned(),
        });
    }
    for (key, value) in metadata.iter().filter(|(key, _)| key.starts_with("tokenizer.chat_template")) {
        if let Some(template) = value.as_str()
            && let Err(e) = check_chat_template(template)
        {
            notes.push(format!("{key}: {}", e.message()));
        }
    }
    Ok(())
}

/// Whether a chat template can be parsed. It is not run.
///
/// # Errors
/// The line and the fault.
pub fn check_chat_template(template: &str) -> Result<()> {
    let plain = without_generation(template);
    let environment = minijinja::Environment::new();
    match environment.template_from_str(&plain) {
        Ok(_) => Ok(()),
        Err(e) => {
            let line = e.line().map(|line| format!(" in line {line}")).unwrap_or_default();
            let detail = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
            Err(Error::input(format!("the chat template cannot be parsed{line}: {detail}")))
        }
    }
}

/// The template without the tags `generation` and `endgeneration`, which mark an answer for training and do nothing else.
fn without_generation(template: &str) -> String {
    const OPEN: &str = "{%";
    let (mut plain, mut rest) = (String::with_capacity(template.len()), template);
    while let Some(start) = rest.find(OPEN) {
        // The end of a tag stands behind its beginning, of which the sign is no part.
        let inner = &rest[start + OPEN.len()..];
        let Some(len) = inner.find("%}") else { break };
        let tag = inner[..len].trim_matches(['-', '+']).trim();
        let end = start + OPEN.len() + len + 2;
        plain.push_str(&rest[..if matches!(tag, "generation" | "endgeneration") { start } else { end }]);
        rest = &rest[end..];
    }
    plain.push_str(rest);
    plain
}

/// Says where the padding id is none: nothing is ever padded with it, so the file is no worse.
fn padding(metadata: &Metadata, notes: &mut Vec<String>) {
    let size = metadata.array("tokenizer.ggml.tokens").map_or(0, Array::len);
    if let Some(id) = metadata.u64("tokenizer.ggml.padding_token_id").filter(|&id| id >= size) {
        notes.push(format!("pad_token_id is {id}, beyond the vocabulary of {size} tokens: llama.cpp leaves it aside"));
    }
}

/// A text in parts, cut behind line ends, or between characters where there are none.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = rest.len().min(PART);
        while !rest.is_char_boundary(end) {
            end += 1;
        }
        if end < rest.len() {
            end = rest[..end].rfind('\n').map_or(end, |at| at + 1);
        }
        let (part, tail) = rest.split_at(end);
        rest = tail;
        Some(part)
    })
}

/// What the texts are compared with.
enum Reference {
    Json(Box<Source>),
    SentencePiece { model: Box<SentencePiece>, fairseq: bool },
    Longest(words::Longest),
    Best(words::Best),
}

impl Reference {
    fn open(dir: &Path, metadata: &Metadata, report: &mut Report) -> Result<Reference> {
        let kind = metadata.str("tokenizer.ggml.model").unwrap_or_default();
        let missing = |what: &str| {
            Error::input("the folder holds no tokenizer to compare with")
                .at(dir)
                .help(format!("copy {what} of the original model into the folder"))
        };
        match kind {
            "rwkv" => {
                report.source = super::rwkv::FILE.to_owned();
                return words::Longest::open(dir)?.map(Reference::Longest).ok_or_else(|| missing(super::rwkv::FILE));
            }
            "plamo2" => {
                report.source = super::plamo::FILE.to_owned();
                return words::Best::open(dir)?.map(Reference::Best).ok_or_else(|| missing(super::plamo::FILE));
            }
            "llama" | "t5" => {
                if let Some(found) = Reference::model(dir, metadata, report)? {
                    return Ok(found);
                }
            }
            _ => {}
        }
        let source = Source::open(dir)?.ok_or_else(|| missing("tokenizer.json or tokenizer.model"))?;
        report.source = source.file.to_owned();
        Ok(Reference::Json(Box::new(source)))
    }

    /// The SentencePiece model of the folder.
    fn model(dir: &Path, metadata: &Metadata, report: &mut Report) -> Result<Option<Reference>> {
        const FAIRSEQ: &str = "sentencepiece.bpe.model";
        let mut names = vec!["tokenizer.model".to_owned(), "spiece.model".to_owned()];
        let json = dir.join("tokenizer.json").is_file();
        if !json {
            names.push(FAIRSEQ.to_owned());
            names.extend(kinds::mistral_model(dir)?.map(|(name, _)| name));
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let Some(model) = Model::open(dir, &names)? else { return Ok(None) };
        report.source = model.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let fairseq = report.source == FAIRSEQ;
        let prefix = metadata.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
        if prefix != model.add_dummy_prefix {
            let puts =
                |yes: bool| if yes { "puts a space in front of a text" } else { "puts no space in front of a text" };
            report.notes.push(format!(
                "the model file {}, the converted tokenizer {}, as the reference converter has it for this architecture",
                puts(model.add_dummy_prefix),
                puts(prefix)
            ));
        }
        let model = Box::new(SentencePiece::new(dir, model, prefix)?);
        Ok(Some(Reference::SentencePiece { model, fairseq }))
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self {
            Reference::Json(source) => source.encode(text, false),
            Reference::SentencePiece { model, fairseq } => {
                let ids = model.encode(text)?;
                Ok(if *fairseq { ids.into_iter().map(fairseq_id).collect() } else { ids })
            }
            Reference::Longest(words) => words.encode(text),
            Reference::Best(words) => Ok(words.encode(text)),
        }
    }

    /// Whether control tokens are found in a text, as the library does; the others take them for plain text.
    fn finds_control(&self) -> bool {
        matches!(self, Reference::Json(_))
    }

    /// The token for what cannot be written.
    fn unknown(&self) -> Option<u32> {
        match self {
            Reference::SentencePiece { model, fairseq } => {
                Some(if *fairseq { fairseq_id(model.unknown) } else { model.unknown })
            }
            _ => None,
        }
    }
}

/// The id that fairseq gives a piece: it has `<s>`, `<pad>`, `</s>` and `<unk>` in front.
fn fairseq_id(id: u32) -> u32 {
    match id {
        0 => 3,
        1 => 0,
        2 => 2,
        other => other + 1,
    }
}

/// Something that llama.cpp, or the reference converter, is known to do otherwise than the folder's tokenizer.
struct Difference {
    what: String,
    undo: Undo,
}

/// What the converted tokenizer would be without a difference.
enum Undo {
    /// Texts are prepared and cut as the published tokenizer does.
    Published,
    /// A key has another value.
    Key(&'static str, gguf::Value),
    /// Texts are changed before they are encoded.
    Text(fn(&str) -> String),
}

impl Difference {
    /// Those that can be there.
    fn known(reference: &Reference, metadata: &Metadata, ours: &Tokenizer) -> Vec<Difference> {
        let mut known = Vec::new();
        let mut add = |what: &str, undo: Undo| known.push(Difference { what: what.to_owned(), undo });
        let departures = ours.departures();
        if let Some(cuts) = departures.cuts {
            add(&format!("llama.cpp splits them otherwise than transformers: {cuts}"), Undo::Published);
        }
        if departures.word_piece {
            add(
                "llama.cpp prepares them otherwise than transformers: of a decomposed character it keeps the first part alone, as the first consonant of a Hangul syllable, and all marks count as accents",
                Undo::Published,
            );
        }
        let Reference::Json(source) = reference else { return known };
        if source.prefixes_space() {
            add(
                "transformers puts a space in front of them, llama.cpp does not: it has no such setting for this kind of tokenizer",
                Undo::Text(|text| if text.starts_with(' ') { text.to_owned() } else { format!(" {text}") }),
            );
        }
        match metadata.str("tokenizer.ggml.model") {
            Some("llama") => {
                if same_scores(metadata) {
                    let scores = kinds::ranked_scores(source, metadata);
                    add(
                        "llama.cpp joins pairs from the left and not by the ranks of merges as transformers does, as all scores are the same, which is what the reference converter writes for this architecture",
                        Undo::Key("tokenizer.ggml.scores", Array::from(scores.as_slice()).into()),
                    );
                }
                let key = "tokenizer.ggml.add_space_prefix";
                let puts = kinds::puts_space(&source.json);
                if metadata.bool(key).unwrap_or(true) != puts {
                    let does = |puts: bool| if puts { "puts a space in front of them" } else { "puts none" };
                    add(
                        &format!(
                            "llama.cpp {}, as the reference converter writes it, and transformers {}",
                            does(!puts),
                            does(puts)
                        ),
                        Undo::Key(key, puts.into()),
                    );
                }
            }
            Some("t5") => {
                if source.splits_white_space() {
                    add(
                        "transformers splits words at every kind of white space, llama.cpp at those that the character map makes spaces",
                        Undo::Text(|text| text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect()),
                    );
                }
                let key = "tokenizer.ggml.remove_extra_whitespaces";
                let removes = metadata.bool(key).unwrap_or(false);
                let does = |removes: bool| if removes { "removes" } else { "keeps" };
                add(
                    &format!(
                        "llama.cpp {} extra spaces, as the reference converter writes it, and transformers {} them",
                        does(removes),
                        does(!removes)
                    ),
                    Undo::Key(key, (!removes).into()),
                );
            }
            _ => {}
        }
        known
    }
}

/// The converted tokenizer without some of the known differences.
struct Without {
    /// The places of the differences.
    which: Vec<usize>,
    tokenizer: OnceCell<Tokenizer>,
}

impl Without {
    /// Every choice of the differences, smaller ones first.
    fn choices(count: usize) -> Vec<Without> {
        let mut choices: Vec<Vec<usize>> =
            (1..1_usize << count).map(|bits| (0..count).filter(|i| bits >> i & 1 == 1).collect()).collect();
        choices.sort_by_key(Vec::len);
        choices.into_iter().map(|which| Without { which, tokenizer: OnceCell::new() }).collect()
    }

    fn encode(&self, known: &[Difference], metadata: &Metadata, text: &str, parse: bool) -> Result<Vec<u32>> {
        let tokenizer = match self.tokenizer.get() {
            Some(tokenizer) => tokenizer,
            None => {
                let built = self.build(known, metadata)?;
                self.tokenizer.get_or_init(|| built)
            }
        };
        let mut text = text.to_owned();
        for &i in &self.which {
            if let Undo::Text(change) = known[i].undo {
                text = change(&text);
            }
        }
        tokenizer.encode(&text, false, parse)
    }

    fn build(&self, known: &[Difference], metadata: &Metadata) -> Result<Tokenizer> {
        let mut metadata = metadata.clone();
        let mut published = false;
        for &i in &self.which {
            match &known[i].undo {
                Undo::Published => published = true,
                Undo::Key(key, value) => {
                    metadata.set(*key, value.clone());
                }
                Undo::Text(_) => {}
            }
        }
        if published { Tokenizer::from_metadata_as_published(&metadata) } else { Tokenizer::from_metadata(&metadata) }
    }
}

/// Whether all ordinary tokens have one score.
fn same_scores(metadata: &Metadata) -> bool {
    let scores = metadata.array("tokenizer.ggml.scores").and_then(Array::to_f32s).unwrap_or_default();
    scores.len() > 1 && scores.iter().all(|score| *score == scores[0])
}

fn show(id: Option<&u32>, text: Option<String>) -> String {
    match id {
        None => "nothing".to_owned(),
        Some(id) => format!("{id} ({:?})", text.unwrap_or_default()),
    }
}

struct Comparison<'a> {
    ours: &'a Tokenizer,
    metadata: &'a Metadata,
    reference: &'a Reference,
    known: &'a [Difference],
    choices: &'a [Without],
    report: &'a mut Report,
}

impl Comparison<'_> {
    /// Compares the ids of a text; the places of the known differences that explain theirs, where they are not the same.
    fn compare(&mut self, text: &str, what: &str) -> Result<&[usize]> {
        let theirs = self.reference.encode(text)?;
        let parse = self.reference.finds_control();
        let ours = self.ours.encode(text, false, parse)?;
        self.report.texts += 1;
        self.report.tokens += theirs.len();
        let Some(at) = self.first_difference(&ours, &theirs) else { return Ok(&[]) };
        for choice in self.choices {
            if choice.encode(self.known, self.metadata, text, parse)? == theirs {
                return Ok(&choice.which);
            }
        }
        // Where the tokens before the difference end in the text, as far as they stand for it as it is.
        let before: usize = ours[..at].iter().map(|&id| self.ours.piece(id).len()).sum();
        let mut begin = before.min(text.len());
        while !text.is_char_boundary(begin) {
            begin -= 1;
        }
        let near: String = text[begin..].chars().take(24).collect();
        let shown = |id: Option<&u32>| {
            show(id, id.and_then(|&id| self.ours.text(id)).map(|t| String::from_utf8_lossy(t).into_owned()))
        };
        Err(Error::input(format!(
            "token {at} of {what} differs: {} gives {}, the converted tokenizer {}, near {near:?}",
            self.report.source,
            shown(theirs.get(at)),
            shown(ours.get(at))
        ))
        .help("the model would read text otherwise than it was trained to: if the pre-tokenizer is the wrong one, name the right one with --pre NAME"))
    }

    /// Where the ids differ in more than the way to say that a character is unknown.
    fn first_difference(&mut self, ours: &[u32], theirs: &[u32]) -> Option<usize> {
        let unknown = (self.reference.unknown(), self.ours.unknown());
        for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
            if a == b {
                continue;
            }
            let (Some(source), Some(converted)) = unknown else { return Some(i) };
            if (*a, *b) != (converted, source) {
                return Some(i);
            }
            let note = format!(
                "the model file's unknown token is {source}, but nothing in the folder says so to the converter: llama.cpp takes {converted}"
            );
            if !self.report.notes.contains(&note) {
                self.report.notes.push(note);
            }
        }
        (ours.len() != theirs.len()).then_some(ours.len().min(theirs.len()))
    }
}

/// Notes added tokens of transformers that the converted vocabulary has otherwise.
fn tokens(source: &Source, ours: &Tokenizer, notes: &mut Vec<String>) {
    let mut added: Vec<(u32, String)> =
        source.tokenizer.get_added_tokens_decoder().into_iter().map(|(id, token)| (id, token.content)).collect();
    added.sort();
    let stands = |id: u32, text: &str| {
        let Some(own) = ours.text(id) else { return false };
        let plain = |text: &str| text.replace('\u{2581}', " ");
        let own = String::from_utf8_lossy(own);
        // BERT's ordinary tokens are written with what stands for a space in front.
        own == text || plain(&own) == plain(text) || plain(&own).trim_start() == plain(text).trim_start()
    };
    let wrong: Vec<&(u32, String)> = added.iter().filter(|(id, text)| !stands(*id, text)).collect();
    let Some((id, text)) = wrong.first() else { return };
    let own = ours.text(*id).map_or_else(|| "no token".to_owned(), |own| format!("'{}'", String::from_utf8_lossy(own)));
    notes.push(format!(
        "transformers knows {} added tokens that the converted vocabulary has otherwise, the first of them '{text}' with the id {id}, where that has {own}",
        wrong.len()
    ));
}

/// Notes where the tokens around a text are not the same.
fn around(source: &Source, ours: &Tokenizer, notes: &mut Vec<String>) -> Result<()> {
    const TEXT: &str = "A";
    let (inner, theirs) = (source.encode(TEXT, false)?, source.encode(TEXT, true)?);
    let (own, ours) = (ours.encode(TEXT, false, true)?, ours.encode(TEXT, true, true)?);
    let split = |ids: &[u32], inner: &[u32]| {
        let at = ids.windows(inner.len().max(1)).position(|w| w == inner)?;
        Some((ids[..at].to_vec(), ids[at + inner.len()..].to_vec()))
    };
    if let (Some(a), Some(b)) = (split(&theirs, &inner), split(&ours, &own))
        && a != b
    {
        notes.push(format!(
            "around a text, transformers puts {:?} and {:?}, llama.cpp {:?} and {:?}",
            a.0, a.1, b.0, b.1
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_parsed_but_not_run() {
        check_chat_template("{% for m in messages %}{{ m['role'].no_such_method() }}{% endfor %}").unwrap();
        check_chat_template("{%- generation -%}x{% endgeneration %}{% for a in b %}{% break %}{% endfor %}").unwrap();
        check_chat_template("{% macro f(x) -%}{{ raise_exception('no') }}{%- endmacro %}{{ f(1) }}").unwrap();
        let e = check_chat_template("one\n{% for m in messages %}").unwrap_err();
        assert!(e.message().contains("line 2"), "{e}");
    }

    #[test]
    fn parts_are_the_text_again() {
        let text = "ä\n".repeat(9000) + &"🦙".repeat(3000);
        let parts: Vec<&str> = parts(&text).collect();
        assert_eq!(parts.concat(), text);
        assert!(parts.len() > 5 && parts.iter().all(|p| p.len() <= PART + 4));
    }
}
