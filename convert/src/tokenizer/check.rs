//! The check after a conversion: texts go through the source tokenizer and through the one that the GGUF describes,
//! and the ids must be the same.
//!
//! The source is `tokenizer.json` through the `tokenizers` library, or `tokenizer.model` through SentencePiece's
//! algorithms as the model file specifies them, written here a second time so that they do not share the faults of
//! ours.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::path::Path;

use ahash::AHashMap;
use serde_json::Value;

use gguf::{Error, Metadata, Result};

use super::folder;
use super::runtime::{Charsmap, Departures, ESCAPED_SPACE, Tokenizer};
use super::sentencepiece::{Model, ModelType, PieceType};
use super::source::Source;

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
/// The first token that differs, with its place and its text; and what keeps either tokenizer from being read.
pub fn check_tokenizer(dir: &Path, metadata: &Metadata, user_text: Option<&str>) -> Result<Report> {
    let mut report = Report::default();
    check_templates(metadata, &mut report.notes);
    match metadata.str("tokenizer.ggml.model") {
        None | Some("none" | "no_vocab") => {
            report.notes.push("the model has no tokenizer".to_owned());
            return Ok(report);
        }
        Some(_) => {}
    }
    let ours = Tokenizer::from_metadata(metadata)?;
    let published = if ours.departures() != Departures::default() {
        Some(Tokenizer::from_metadata_as_published(metadata)?)
    } else {
        None
    };
    let reference = Reference::open(dir, metadata, &mut report)?;
    let mut comparison = Comparison { ours: &ours, published, reference: &reference, report: &mut report, departed: 0 };
    for text in BUILT_IN {
        comparison.compare(text, "a built-in text")?;
    }
    for part in parts(user_text.unwrap_or_default()) {
        comparison.compare(part, "the given text")?;
    }
    comparison.finish();
    if let Reference::Json(source) = &reference {
        around(source, &ours, &mut report.notes)?;
    }
    Ok(report)
}

/// Says where a chat template of the metadata is no Jinja.
fn check_templates(metadata: &Metadata, notes: &mut Vec<String>) {
    for (key, value) in metadata.iter().filter(|(key, _)| key.starts_with("tokenizer.chat_template")) {
        if let Some(template) = value.as_str()
            && let Err(e) = check_chat_template(template)
        {
            notes.push(format!("{key}: {}", e.message()));
        }
    }
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
    let (mut plain, mut rest) = (String::with_capacity(template.len()), template);
    while let Some(start) = rest.find("{%") {
        let Some(end) = rest[start..].find("%}").map(|end| start + end + 2) else { break };
        let tag = rest[start + 2..end - 2].trim_matches(['-', '+']).trim();
        plain.push_str(&rest[..if matches!(tag, "generation" | "endgeneration") { start } else { end }]);
        rest = &rest[end..];
    }
    plain.push_str(rest);
    plain
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
    SentencePiece(Box<SentencePiece>),
}

impl Reference {
    fn open(dir: &Path, metadata: &Metadata, report: &mut Report) -> Result<Reference> {
        if matches!(metadata.str("tokenizer.ggml.model"), Some("llama" | "t5"))
            && let Some(model) = Model::open(dir, &["tokenizer.model", "spiece.model"])?
        {
            report.source = name(&model.path);
            let prefix = metadata.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
            if prefix != model.add_dummy_prefix {
                let puts = |yes: bool| {
                    if yes { "puts a space in front of a text" } else { "puts no space in front of a text" }
                };
                report.notes.push(format!(
                    "the model file {}, the converted tokenizer {}, as the reference converter has it for this architecture",
                    puts(model.add_dummy_prefix),
                    puts(prefix)
                ));
            }
            return Ok(Reference::SentencePiece(Box::new(SentencePiece::new(dir, model, prefix)?)));
        }
        let source = Source::open(dir)?.ok_or_else(|| {
            Error::input("the folder holds no tokenizer to compare with")
                .at(dir)
                .help("copy tokenizer.json or tokenizer.model of the original model into the folder")
        })?;
        report.source = "tokenizer.json".to_owned();
        Ok(Reference::Json(Box::new(source)))
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self {
            Reference::Json(source) => source.encode(text, false),
            Reference::SentencePiece(model) => model.encode(text),
        }
    }

    fn token(&self, id: Option<&u32>) -> String {
        let text = id.and_then(|&id| match self {
            Reference::Json(source) => source.tokenizer.id_to_token(id),
            Reference::SentencePiece(model) => {
                model.model.pieces.get(id as usize).map(|p| String::from_utf8_lossy(&p.text).into_owned())
            }
        });
        show(id, text)
    }

    /// The token for what cannot be written.
    fn unknown(&self) -> Option<u32> {
        match self {
            Reference::Json(_) => None,
            Reference::SentencePiece(model) => Some(model.unknown),
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn show(id: Option<&u32>, text: Option<String>) -> String {
    match id {
        None => "nothing".to_owned(),
        Some(id) => format!("{id} ({:?})", text.unwrap_or_default()),
    }
}

struct Comparison<'a> {
    ours: &'a Tokenizer,
    published: Option<Tokenizer>,
    reference: &'a Reference,
    report: &'a mut Report,
    departed: usize,
}

impl Comparison<'_> {
    fn compare(&mut self, text: &str, what: &str) -> Result<()> {
        let theirs = self.reference.encode(text)?;
        // The library finds control tokens in a text; SentencePiece takes them for plain text.
        let parse = matches!(self.reference, Reference::Json(_));
        let ours = self.ours.encode(text, false, parse)?;
        self.report.texts += 1;
        self.report.tokens += theirs.len();
        let Some(at) = self.first_difference(&ours, &theirs) else { return Ok(()) };
        if let Some(published) = &self.published
            && published.encode(text, false, parse)? == theirs
        {
            self.departed += 1;
            return Ok(());
        }
        // Where the tokens before the difference end in the text, as far as they stand for it as it is.
        let before: usize = ours[..at].iter().map(|&id| self.ours.piece(id).len()).sum();
        let mut begin = before.min(text.len());
        while !text.is_char_boundary(begin) {
            begin -= 1;
        }
        let near: String = text[begin..].chars().take(24).collect();
        let source = self.reference.token(theirs.get(at));
        let id = ours.get(at);
        let converted =
            show(id, id.and_then(|&id| self.ours.text(id)).map(|t| String::from_utf8_lossy(t).into_owned()));
        Err(Error::input(format!(
            "token {at} of {what} differs: {} gives {source}, the converted tokenizer {converted}, near {near:?}",
            self.report.source
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

    fn finish(self) {
        if self.departed > 0 {
            self.report.notes.push(format!(
                "{} of {} texts are split otherwise by llama.cpp, whose expression for this pre-tokenizer knows upper and lower case in ASCII only; as published, they are equal",
                self.departed, self.report.texts
            ));
        }
    }
}

/// Notes where the tokens around a text are not the same.
fn around(source: &Source, ours: &Tokenizer, notes: &mut Vec<String>) -> Result<()> {
    const TEXT: &str = "A";
    let (inner, theirs, ours) =
        (source.encode(TEXT, false)?, source.encode(TEXT, true)?, ours.encode(TEXT, true, true)?);
    let split = |ids: &[u32]| {
        let at = ids.windows(inner.len().max(1)).position(|w| w == inner)?;
        Some((ids[..at].to_vec(), ids[at + inner.len()..].to_vec()))
    };
    if let (Some(a), Some(b)) = (split(&theirs), split(&ours))
        && a != b
    {
        notes.push(format!(
            "around a text, the source puts {:?} and {:?}, the converted tokenizer {:?} and {:?}",
            a.0, a.1, b.0, b.1
        ));
    }
    Ok(())
}

/// SentencePiece as the model file specifies it.
struct SentencePiece {
    model: Model,
    ids: AHashMap<Vec<u8>, u32>,
    /// Pieces that are taken whole wherever they stand, the longest first.
    whole: Vec<(String, u32)>,
    charsmap: Option<Charsmap>,
    bytes: Vec<Option<u32>>,
    unknown: u32,
    unknown_score: f32,
    best_score: f32,
    longest: usize,
    prefix: bool,
}

impl SentencePiece {
    fn new(dir: &Path, model: Model, prefix: bool) -> Result<SentencePiece> {
        let mut ids = AHashMap::new();
        let mut whole = Vec::new();
        let mut bytes = vec![None; 256];
        let (mut unknown, mut low, mut high) = (0, f32::MAX, f32::MIN);
        for (id, piece) in model.pieces.iter().enumerate() {
            let id = id as u32;
            match piece.kind {
                PieceType::Normal | PieceType::UserDefined | PieceType::Unused => {
                    ids.insert(piece.text.clone(), id);
                }
                PieceType::Unknown => unknown = id,
                PieceType::Byte => {
                    if let Some(byte) = piece
                        .text
                        .get(3..5)
                        .and_then(|d| std::str::from_utf8(d).ok())
                        .and_then(|d| u8::from_str_radix(d, 16).ok())
                    {
                        bytes[usize::from(byte)] = Some(id);
                    }
                }
                PieceType::Control => {}
            }
            if piece.kind == PieceType::Normal {
                low = low.min(piece.score);
                high = high.max(piece.score);
            }
            if piece.kind == PieceType::UserDefined
                && let Ok(text) = std::str::from_utf8(&piece.text)
            {
                whole.push((text.replace(ESCAPED_SPACE, " "), id));
            }
        }
        for (text, id) in added_tokens(dir)? {
            if !ids.contains_key(text.as_bytes()) {
                whole.push((text, id));
            }
        }
        whole.retain(|(text, _): &(String, u32)| !text.is_empty());
        whole.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        let charsmap = if model.charsmap.is_empty() {
            None
        } else {
            Some(Charsmap::parse(&model.charsmap).map_err(|e| e.at(&model.path))?)
        };
        if matches!(model.model_type, ModelType::Word | ModelType::Char) {
            return Err(Error::input(format!(
                "a SentencePiece model of type {:?} cannot be checked",
                model.model_type
            ))
            .at(&model.path));
        }
        let longest = model.pieces.iter().map(|p| p.text.len()).max().unwrap_or(0);
        Ok(SentencePiece {
            model,
            ids,
            whole,
            charsmap,
            bytes,
            unknown,
            unknown_score: low - 10.0,
            best_score: high,
            longest,
            prefix,
        })
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut parts = self.normalize(text)?;
        let mut ids = Vec::new();
        for part in parts.drain(..) {
            match part {
                Part::Whole(id) => ids.push(id),
                Part::Text(text) if self.model.model_type == ModelType::Bpe => self.bpe(&text, &mut ids),
                Part::Text(text) => self.unigram(&text, &mut ids),
            }
        }
        Ok(ids)
    }

    /// The text with characters mapped, spaces escaped, and user-defined pieces taken out.
    fn normalize(&self, text: &str) -> Result<Vec<Part>> {
        let mut parts: Vec<Part> = Vec::new();
        let mut current = String::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some((piece, id)) = self.whole.iter().find(|(piece, _)| rest.starts_with(piece.as_str())) {
                if !current.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut current)));
                }
                parts.push(Part::Whole(*id));
                rest = &rest[piece.len()..];
                continue;
            }
            let mapped = match &self.charsmap {
                Some(map) => map.longest(rest.as_bytes())?,
                None => None,
            };
            match mapped {
                Some((with, len)) if rest.is_char_boundary(len) => {
                    current.push_str(&String::from_utf8_lossy(with));
                    rest = &rest[len..];
                }
                _ => {
                    current.extend(rest.chars().next());
                    rest = rest.get(rest.chars().next().map_or(1, char::len_utf8)..).unwrap_or_default();
                }
            }
        }
        if !current.is_empty() {
            parts.push(Part::Text(current));
        }
        let first = parts.first().is_some_and(|p| matches!(p, Part::Text(_)));
        for (i, part) in parts.iter_mut().enumerate() {
            if let Part::Text(text) = part {
                if self.model.remove_extra_whitespaces {
                    let words: Vec<&str> = text.split(' ').filter(|w| !w.is_empty()).collect();
                    *text = words.join(" ");
                }
                if self.prefix && i == 0 && first && !(self.model.remove_extra_whitespaces && text.is_empty()) {
                    text.insert(if self.model.treat_whitespace_as_suffix { text.len() } else { 0 }, ' ');
                }
                *text = text.replace(' ', ESCAPED_SPACE);
            }
        }
        Ok(parts)
    }

    fn bpe(&self, text: &str, out: &mut Vec<u32>) {
        // Spans of the text, linked; a span of no length was joined to its left.
        let mut spans: Vec<[usize; 2]> = text.char_indices().map(|(i, c)| [i, i + c.len_utf8()]).collect();
        let n = spans.len();
        let mut next: Vec<usize> = (1..=n).collect();
        let mut before: Vec<usize> = (0..n).map(|i| i.wrapping_sub(1)).collect();
        let mut halves: AHashMap<&str, usize> = AHashMap::new();
        let mut heap = BinaryHeap::new();
        let score = |from: usize, to: usize| {
            if to - from > self.longest {
                return None;
            }
            self.ids.get(&text.as_bytes()[from..to]).map(|&id| self.model.pieces[id as usize].score)
        };
        for i in 1..n {
            if let Some(score) = score(spans[i - 1][0], spans[i][1]) {
                heap.push(Join { score, left: i - 1, from: spans[i - 1][0], middle: spans[i][0], to: spans[i][1] });
            }
        }
        while let Some(join) = heap.pop() {
            let (left, right) = (join.left, next[join.left]);
            if right >= n || spans[left] != [join.from, join.middle] || spans[right] != [join.middle, join.to] {
                continue;
            }
            halves.insert(&text[join.from..join.to], join.middle - join.from);
            spans[left][1] = join.to;
            spans[right] = [join.to, join.to];
            next[left] = next[right];
            if next[right] < n {
                before[next[right]] = left;
            }
            let neighbours = [(before[left], left), (left, next[left])];
            for (a, b) in neighbours {
                if a < n
                    && b < n
                    && let Some(score) = score(spans[a][0], spans[b][1])
                {
                    heap.push(Join { score, left: a, from: spans[a][0], middle: spans[b][0], to: spans[b][1] });
                }
            }
        }
        let mut at = 0;
        while at < n {
            self.piece(&text[spans[at][0]..spans[at][1]], &halves, out);
            at = next[at];
        }
    }

    /// Writes a joined piece; one that is unused is taken apart again.
    fn piece(&self, text: &str, halves: &AHashMap<&str, usize>, out: &mut Vec<u32>) {
        match self.ids.get(text.as_bytes()) {
            Some(&id) if self.model.pieces[id as usize].kind != PieceType::Unused => out.push(id),
            known => match halves.get(text) {
                Some(&middle) => {
                    self.piece(&text[..middle], halves, out);
                    self.piece(&text[middle..], halves, out);
                }
                None => match known {
                    Some(&id) => out.push(id),
                    None => self.unwritten(text, out),
                },
            },
        }
    }

    /// A character without a piece: its bytes, or unknown.
    fn unwritten(&self, text: &str, out: &mut Vec<u32>) {
        let bytes: Option<Vec<u32>> = text.bytes().map(|b| self.bytes[usize::from(b)]).collect();
        match bytes {
            Some(ids) => out.extend(ids),
            None if out.last() == Some(&self.unknown) => {}
            None => out.push(self.unknown),
        }
    }

    fn unigram(&self, text: &str, out: &mut Vec<u32>) {
        let mut best: Vec<Option<(f64, usize, Option<u32>)>> = vec![None; text.len() + 1];
        best[0] = Some((0.0, 0, None));
        for (at, c) in text.char_indices() {
            let Some((so_far, ..)) = best[at] else { continue };
            let mut single = false;
            let mut offer = |to: usize, score: f64, id: Option<u32>| {
                if best[to].is_none_or(|(s, ..)| so_far + score > s) {
                    best[to] = Some((so_far + score, at, id));
                }
            };
            for to in at + 1..=text.len().min(at + self.longest) {
                let Some(&id) = self.ids.get(&text.as_bytes()[at..to]) else { continue };
                let piece = &self.model.pieces[id as usize];
                let score = match piece.kind {
                    PieceType::Unused => continue,
                    PieceType::UserDefined => (to - at) as f64 * f64::from(self.best_score) - 0.1,
                    _ => f64::from(piece.score),
                };
                single |= to == at + c.len_utf8();
                offer(to, score, Some(id));
            }
            if !single {
                offer(at + c.len_utf8(), f64::from(self.unknown_score), None);
            }
        }
        let mut path = Vec::new();
        let mut at = text.len();
        while at > 0 {
            let Some((_, from, id)) = best[at] else { break };
            path.push((from, at, id));
            at = from;
        }
        for (from, to, id) in path.into_iter().rev() {
            match id {
                Some(id) => out.push(id),
                None => self.unwritten(&text[from..to], out),
            }
        }
    }
}

enum Part {
    Text(String),
    Whole(u32),
}

#[derive(PartialEq)]
struct Join {
    score: f32,
    left: usize,
    from: usize,
    middle: usize,
    to: usize,
}

impl Eq for Join {}

impl Ord for Join {
    fn cmp(&self, other: &Join) -> Ordering {
        self.score.total_cmp(&other.score).then(other.from.cmp(&self.from))
    }
}

impl PartialOrd for Join {
    fn partial_cmp(&self, other: &Join) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The tokens beside the model file that are found in plain text.
fn added_tokens(dir: &Path) -> Result<Vec<(String, u32)>> {
    let mut added = Vec::new();
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    if let Some(file) = folder::json(dir, "added_tokens.json")? {
        added.extend(file.as_object().into_iter().flatten().filter_map(|(text, v)| Some((text.clone(), id(v)?))));
    }
    if let Some(config) = folder::json(dir, "tokenizer_config.json")? {
        for (key, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
            if let (Ok(id), Some(text)) = (key.parse::<u32>(), token["content"].as_str()) {
                added.retain(|(_, other)| *other != id);
                if !folder::truthy(&token["special"]) && !super::vocab::looks_special(text) {
                    added.push((text.replace(ESCAPED_SPACE, " "), id));
                }
            }
        }
    }
    Ok(added)
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
