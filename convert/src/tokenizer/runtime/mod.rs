//! The tokenizer that a GGUF's metadata describes: text to ids and back, equal to llama.cpp's.
//!
//! A text is cut at its special tokens first ([`partition`]); what lies between goes through the model's own
//! algorithm, one file each.

mod bpe;
mod partition;
mod plamo2;
mod rwkv;
mod split;
mod spm;
mod tokens;
mod trie;
mod ugm;
mod unicode;
mod wpm;

use gguf::{Error, Metadata, Result};

use bpe::{Part, Style};
pub(crate) use bpe::{byte_char, char_byte};
use partition::{Fragment, Partition};
pub(crate) use split::PreTokenizer;
use tokens::{Attr, Specials, Tokens};
use trie::Trie;
pub(crate) use ugm::Charsmap;

/// An id that stands for a token in this tokenizer's vocabulary.
pub type Id = u32;

/// A tokenizer built from the `tokenizer.*` keys of a GGUF alone.
#[derive(Debug)]
pub struct Tokenizer {
    tokens: Tokens,
    specials: Specials,
    partition: Partition,
    pieces: Pieces,
    settings: Settings,
    model: Model,
    departures: Departures,
}

/// What llama.cpp is known to do otherwise than the published tokenizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Departures {
    /// The pre-tokenizer's cuts: what is different about them.
    pub cuts: Option<&'static str>,
    /// WordPiece prepares its texts otherwise.
    pub word_piece: bool,
}

/// What the metadata and the kind of model say about spaces and the tokens around a text.
#[derive(Clone, Debug)]
struct Settings {
    add_bos: bool,
    add_eos: bool,
    add_sep: bool,
    add_space_prefix: bool,
    escape_whitespaces: bool,
    remove_extra_whitespaces: bool,
}

#[derive(Debug)]
enum Model {
    Spm(spm::Spm),
    Bpe(Box<bpe::Bpe>),
    Wpm(wpm::Wpm),
    Ugm(Box<ugm::Ugm>),
    Rwkv(rwkv::Rwkv),
    Plamo2(Box<plamo2::Plamo2>),
}

/// The bytes that each token stands for, one after the other.
#[derive(Debug)]
struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Pieces {
    fn get(&self, id: usize) -> Option<&[u8]> {
        let end = *self.ends.get(id)?;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        Some(&self.bytes[start..end])
    }
}

/// The escaped space, U+2581.
pub(crate) const ESCAPED_SPACE: &str = "\u{2581}";

impl Tokenizer {
    /// Builds the tokenizer that the keys `tokenizer.ggml.*` describe.
    ///
    /// # Errors
    /// Keys that are missing, contradict each other, or name a model or pre-tokenizer that is not known.
    pub fn from_metadata(metadata: &Metadata) -> Result<Tokenizer> {
        Tokenizer::build(metadata, false)
    }

    /// As [`Tokenizer::from_metadata`], but preparing texts and cutting words as the published tokenizer does where
    /// llama.cpp is known to do it otherwise.
    ///
    /// # Errors
    /// Those of [`Tokenizer::from_metadata`].
    pub fn from_metadata_as_published(metadata: &Metadata) -> Result<Tokenizer> {
        Tokenizer::build(metadata, true)
    }

    fn build(metadata: &Metadata, published: bool) -> Result<Tokenizer> {
        let name = metadata.str("tokenizer.ggml.model").ok_or_else(|| {
            Error::input("the metadata has no tokenizer.ggml.model, so there is no tokenizer")
                .help("convert the checkpoint again with its tokenizer's files in the folder")
        })?;
        let kind = Kind::find(name)?;
        let mut tokens = Tokens::load(metadata)?;
        let mut settings = kind.settings();
        let mut specials = kind.specials();
        let mut departures = Departures { word_piece: kind == Kind::Wpm, ..Departures::default() };
        let mut pre = None;
        if kind == Kind::Bpe {
            let name =
                if name == "gemma4" { "gemma4" } else { metadata.str("tokenizer.ggml.pre").unwrap_or("default") };
            let row = PreTokenizer::find(name)?;
            settings.add_bos = row.add_bos;
            settings.add_sep = row.add_sep;
            settings.escape_whitespaces = row.escaped;
            departures.cuts = row.departure();
            if row.no_bos || name == "gemma4" {
                specials.bos = None;
            }
            pre = Some(row);
        }
        let specials = Specials::load(metadata, specials, &mut tokens);
        for (key, value) in [
            ("tokenizer.ggml.add_bos_token", &mut settings.add_bos),
            ("tokenizer.ggml.add_eos_token", &mut settings.add_eos),
            ("tokenizer.ggml.add_sep_token", &mut settings.add_sep),
            ("tokenizer.ggml.add_space_prefix", &mut settings.add_space_prefix),
            ("tokenizer.ggml.remove_extra_whitespaces", &mut settings.remove_extra_whitespaces),
        ] {
            if let Some(given) = metadata.bool(key) {
                *value = given;
            }
        }
        if pre.is_some_and(|row| row.whole_lines) {
            settings.add_bos = true;
        }
        match kind {
            // WordPiece texts stand between beginning and separator, whatever the keys say.
            Kind::Wpm => (settings.add_bos, settings.add_eos) = (true, false),
            // Nothing is put around the texts of these.
            Kind::Rwkv | Kind::Plamo2 => (settings.add_bos, settings.add_eos) = (false, false),
            _ => {}
        }
        if settings.add_bos && specials.bos.is_none() {
            return Err(Error::input("the tokenizer puts a beginning token in front, but none is defined")
                .help("set tokenizer.ggml.bos_token_id, or tokenizer.ggml.add_bos_token to false"));
        }
        if settings.add_eos && specials.eos.is_none() {
            return Err(Error::input("the tokenizer puts an end token behind, but none is defined")
                .help("set tokenizer.ggml.eos_token_id, or tokenizer.ggml.add_eos_token to false"));
        }
        tokens::strip_attributes(metadata, &mut tokens);
        let partition = Partition::new(&tokens);
        let pieces = pieces(&tokens, kind, name, &settings);
        let unknown = || {
            specials.unk.ok_or_else(|| {
                Error::input("the vocabulary has no unknown token").help("set tokenizer.ggml.unknown_token_id")
            })
        };
        let lowercase = metadata.bool("tokenizer.ggml.normalizer.lowercase");
        let model = match (kind, pre) {
            (Kind::Spm, _) => Model::Spm(spm::Spm::new(&tokens)),
            (Kind::Bpe, Some(row)) => {
                let style = match name {
                    "whitespace" => Style::Dropped { lowercase: lowercase.unwrap_or(!row.keeps_case) },
                    "hybriddna" => {
                        let id = |text: &str| tokens.id(text.as_bytes());
                        match (id("<dna>"), id("</dna>"), id("<oov>")) {
                            (Some(begin), Some(end), Some(other)) => Style::Dna { begin, end, other },
                            _ => Style::Plain,
                        }
                    }
                    _ if settings.escape_whitespaces => Style::Escaped,
                    _ => Style::Plain,
                };
                Model::Bpe(Box::new(bpe::Bpe::new(metadata, &tokens, row, style, published)?))
            }
            (Kind::Wpm, _) => {
                if specials.sep.is_none() {
                    return Err(
                        Error::input("the vocabulary has no separator").help("set tokenizer.ggml.seperator_token_id")
                    );
                }
                let lowercase = lowercase.unwrap_or(true);
                let strip_accents = metadata.bool("tokenizer.ggml.normalizer.strip_accents").unwrap_or(lowercase);
                let pieces = Trie::of(0..tokens.len() as Id, &tokens);
                Model::Wpm(wpm::Wpm { lowercase, strip_accents, unknown: unknown()?, published, pieces })
            }
            (Kind::Ugm, _) => Model::Ugm(Box::new(ugm::Ugm::new(metadata, &tokens, unknown()?)?)),
            (Kind::Rwkv, _) => Model::Rwkv(rwkv::Rwkv::new(&tokens, specials.unk)),
            (Kind::Plamo2, _) => Model::Plamo2(Box::new(plamo2::Plamo2::new(&tokens)?)),
            (Kind::Bpe, None) => return Err(Error::input("a BPE vocabulary needs a pre-tokenizer")),
        };
        Ok(Tokenizer { tokens, specials, partition, pieces, settings, model, departures })
    }

    /// The ids of a text.
    ///
    /// `add_special` puts the beginning and end tokens around it, as far as the model wants them; `parse_special`
    /// takes control tokens written out in the text for what they say, instead of for plain text.
    ///
    /// # Errors
    /// Text that the vocabulary has no way to express.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<Id>> {
        let mut out = Vec::with_capacity(text.len() / 3 + 2);
        if add_special && self.settings.add_bos {
            out.extend(self.specials.bos);
        }
        let prepared: Vec<Part<'_>>;
        let fragments = self.partition.split(text, parse_special, &self.tokens);
        match &self.model {
            Model::Spm(spm) => {
                let mut session = spm.session(&self.tokens);
                let mut after_special = true;
                for fragment in fragments {
                    match fragment {
                        Fragment::Token(id) => {
                            out.push(id);
                            after_special = true;
                        }
                        Fragment::Text(text) => {
                            session.encode(text, self.settings.add_space_prefix && after_special, &mut out)?;
                            after_special = false;
                        }
                    }
                }
            }
            Model::Bpe(bpe) => {
                // Prepared texts live as long as the session that remembers their words.
                prepared = fragments
                    .iter()
                    .flat_map(|fragment| match *fragment {
                        Fragment::Token(id) => vec![Part::Token(id)],
                        Fragment::Text(text) => bpe.style().prepare(text, &self.tokens),
                    })
                    .collect();
                let mut session = bpe.session(&self.tokens);
                for part in &prepared {
                    match part {
                        Part::Token(id) => out.push(*id),
                        Part::Text(text) => session.encode(text, &mut out)?,
                    }
                }
            }
            Model::Wpm(wpm) => {
                let mut session = wpm.session();
                for fragment in fragments {
                    match fragment {
                        Fragment::Token(id) => out.push(id),
                        Fragment::Text(text) => session.encode(text, &mut out),
                    }
                }
                if add_special {
                    out.extend(self.specials.sep);
                }
            }
            Model::Rwkv(rwkv) => {
                for fragment in fragments {
                    match fragment {
                        Fragment::Token(id) => out.push(id),
                        Fragment::Text(text) => rwkv.encode(text, &mut out)?,
                    }
                }
            }
            Model::Plamo2(plamo2) => {
                for fragment in fragments {
                    match fragment {
                        Fragment::Token(id) => out.push(id),
                        Fragment::Text(text) => plamo2.encode(text, &mut out),
                    }
                }
            }
            Model::Ugm(ugm) => {
                for fragment in fragments {
                    match fragment {
                        Fragment::Token(id) => out.push(id),
                        Fragment::Text(text) => ugm.encode(text, &self.tokens, &self.settings, &mut out)?,
                    }
                }
            }
        }
        if add_special && self.settings.add_eos {
            out.extend(self.specials.eos);
        }
        Ok(out)
    }

    /// The ids of two texts that are read together, each ended as a text alone is, with a separator between where the
    /// model wants one; and the first token of those that are of the second kind, where the vocabulary is of a family
    /// that tells kinds apart.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn encode_pair(&self, first: &str, second: &str) -> Result<(Vec<Id>, Option<usize>)> {
        let mut out = self.encode(first, true, false)?;
        let word_pieces = matches!(self.model, Model::Wpm(_));
        if self.settings.add_sep && !word_pieces {
            out.extend(self.specials.sep);
        }
        let start = out.len();
        out.extend(self.encode(second, false, false)?);
        if word_pieces {
            out.extend(self.specials.sep);
        } else if self.settings.add_eos {
            out.extend(self.specials.eos);
        }
        Ok((out, word_pieces.then_some(start)))
    }

    /// The bytes of a sequence of ids. What [`Tokenizer::encode`] added at both ends is left out again: the beginning
    /// and end tokens, and the space in front. Ids beyond the vocabulary stand for nothing.
    pub fn decode(&self, ids: &[Id]) -> Vec<u8> {
        let mut ids = ids;
        if self.settings.add_bos && ids.first().copied() == self.specials.bos {
            ids = &ids[1..];
        }
        if self.settings.add_eos && !ids.is_empty() && ids.last().copied() == self.specials.eos {
            ids = &ids[..ids.len() - 1];
        }
        let mut bytes = Vec::new();
        for (i, &id) in ids.iter().enumerate() {
            let piece = self.piece(id);
            let prefixed = i == 0 && self.settings.add_space_prefix;
            bytes.extend_from_slice(if prefixed { piece.strip_prefix(b" ").unwrap_or(piece) } else { piece });
        }
        bytes
    }

    /// The bytes that one token stands for; nothing for an id beyond the vocabulary. A character may be spread over
    /// several tokens: see [`Tokenizer::decoder`].
    pub fn piece(&self, id: Id) -> &[u8] {
        self.pieces.get(id as usize).unwrap_or_default()
    }

    /// A decoder for ids that come one by one.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder { tokenizer: self, pending: Vec::new(), first: true }
    }

    /// The number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    /// The text of a token as the vocabulary writes it.
    pub fn text(&self, id: Id) -> Option<&[u8]> {
        self.tokens.text(id)
    }

    /// The id of a token as the vocabulary writes it.
    pub fn id(&self, text: &[u8]) -> Option<Id> {
        self.tokens.id(text)
    }

    /// The token at the beginning of a text.
    pub fn bos(&self) -> Option<Id> {
        self.specials.bos
    }

    /// The token at the end of a text.
    pub fn eos(&self) -> Option<Id> {
        self.specials.eos
    }

    /// The token at the end of a turn.
    pub fn eot(&self) -> Option<Id> {
        self.specials.eot
    }

    /// The token for what the vocabulary cannot express.
    pub fn unknown(&self) -> Option<Id> {
        self.specials.unk
    }

    /// The token between texts.
    pub fn separator(&self) -> Option<Id> {
        self.specials.sep
    }

    /// The token that fills up.
    pub fn padding(&self) -> Option<Id> {
        self.specials.pad
    }

    /// Whether a text is encoded with a beginning token in front of it.
    pub fn adds_bos(&self) -> bool {
        self.settings.add_bos
    }

    /// Whether a text is encoded with an end token behind it.
    pub fn adds_eos(&self) -> bool {
        self.settings.add_eos
    }

    /// Whether a separator stands between two texts that are encoded as a pair.
    pub fn adds_separator(&self) -> bool {
        self.settings.add_sep
    }

    /// What llama.cpp is known to do otherwise than the published tokenizer of this kind.
    pub(crate) fn departures(&self) -> Departures {
        self.departures
    }

    /// Whether a generated text ends at this token.
    pub fn is_end_of_generation(&self, id: Id) -> bool {
        self.specials.end_of_generation.contains(&id)
    }

    /// Whether this token structures a text instead of being part of it.
    pub fn is_control(&self, id: Id) -> bool {
        self.tokens.attr(id).any(Attr::CONTROL | Attr::UNKNOWN)
    }
}

/// Decodes ids one by one into text that is complete at any moment: a character spread over several tokens is held
/// back until it is whole.
#[derive(Debug)]
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    pending: Vec<u8>,
    first: bool,
}

impl Decoder<'_> {
    /// The text that this token completes. Control tokens give none.
    pub fn push(&mut self, id: Id) -> String {
        if self.tokenizer.is_control(id) {
            return String::new();
        }
        let mut piece = self.tokenizer.piece(id);
        if self.first && self.tokenizer.settings.add_space_prefix {
            piece = piece.strip_prefix(b" ").unwrap_or(piece);
        }
        self.first = false;
        self.pending.extend_from_slice(piece);
        self.take(false)
    }

    /// What is left when no more tokens come, with broken characters replaced.
    pub fn finish(mut self) -> String {
        self.take(true)
    }

    fn take(&mut self, all: bool) -> String {
        let mut text = String::new();
        let mut rest: &[u8] = &self.pending;
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(e) => {
                    let (valid, tail) = rest.split_at(e.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    match e.error_len() {
                        Some(n) => {
                            text.push('\u{fffd}');
                            rest = &tail[n..];
                        }
                        None if all => {
                            text.push('\u{fffd}');
                            rest = &[];
                            break;
                        }
                        None => {
                            rest = tail;
                            break;
                        }
                    }
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }
}

/// The models that `tokenizer.ggml.model` can name and that are implemented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Spm,
    Bpe,
    Wpm,
    Ugm,
    Rwkv,
    Plamo2,
}

impl Kind {
    fn find(name: &str) -> Result<Kind> {
        Ok(match name {
            "llama" => Kind::Spm,
            "gpt2" | "gemma4" | "whitespace" | "hybriddna" => Kind::Bpe,
            "bert" => Kind::Wpm,
            "t5" => Kind::Ugm,
            "rwkv" => Kind::Rwkv,
            "plamo2" => Kind::Plamo2,
            "none" | "no_vocab" => {
                return Err(Error::input("the model was stored without a tokenizer")
                    .help("use token ids instead of text, or convert again with the tokenizer's files"));
            }
            other => {
                return Err(Error::input(format!("the tokenizer model '{other}' is not implemented")).help(
                    "known are llama (SentencePiece), gpt2 (byte-level BPE), gemma4, whitespace and hybriddna (BPE), bert (WordPiece), t5 (unigram), rwkv and plamo2",
                ));
            }
        })
    }

    fn settings(self) -> Settings {
        let plain = Settings {
            add_bos: false,
            add_eos: false,
            add_sep: false,
            add_space_prefix: false,
            escape_whitespaces: true,
            remove_extra_whitespaces: false,
        };
        match self {
            Kind::Spm => Settings { add_bos: true, add_space_prefix: true, ..plain },
            Kind::Bpe => plain,
            Kind::Wpm => Settings { add_bos: true, add_sep: true, ..plain },
            Kind::Ugm => Settings { add_eos: true, ..plain },
            Kind::Rwkv | Kind::Plamo2 => plain,
        }
    }

    /// The special ids where the metadata gives none.
    fn specials(self) -> Specials {
        let none = Specials::default();
        match self {
            Kind::Spm => Specials { bos: Some(1), eos: Some(2), unk: Some(0), ..none },
            Kind::Bpe => Specials { bos: Some(11), eos: Some(11), ..none },
            Kind::Wpm => {
                Specials { bos: Some(101), unk: Some(100), sep: Some(102), pad: Some(0), mask: Some(103), ..none }
            }
            Kind::Ugm => Specials { eos: Some(1), unk: Some(2), pad: Some(0), ..none },
            Kind::Rwkv => none,
            Kind::Plamo2 => Specials { bos: Some(1), eos: Some(2), unk: Some(0), pad: Some(3), ..none },
        }
    }
}

/// The bytes of every token, by the way in which the kind of model writes them.
fn pieces(tokens: &Tokens, kind: Kind, name: &str, settings: &Settings) -> Pieces {
    let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(tokens.len()));
    let bases = if name == "hybriddna" { tokens.id(b"<oov>") } else { None };
    for id in 0..tokens.len() as Id {
        let (mut text, attr) = (tokens.text(id).unwrap_or_default(), tokens.attr(id));
        if bases.is_some_and(|other| id > other) {
            text = text.strip_suffix(bpe::BASES_MARK.as_bytes()).unwrap_or(text);
        }
        match kind {
            Kind::Rwkv => bytes.extend(rwkv::unescape(text)),
            Kind::Plamo2 if attr.any(Attr::BYTE) && text.len() == 6 => bytes.extend(tokens::byte_of(text)),
            Kind::Plamo2 => bytes.extend_from_slice(text),
            _ if attr.any(Attr::CONTROL | Attr::UNKNOWN | Attr::USER_DEFINED) => bytes.extend_from_slice(text),
            Kind::Bpe if attr.any(Attr::NORMAL) && !settings.escape_whitespaces => unmap(text, &mut bytes),
            _ if attr.any(Attr::NORMAL) => unescape(text, &mut bytes),
            _ if attr.any(Attr::BYTE) => bytes.extend(tokens::byte_of(text)),
            _ => {}
        }
        ends.push(bytes.len());
    }
    Pieces { bytes, ends }
}

/// Appends the bytes that the characters of a byte-level token stand for; any other character is shown as what it is.
fn unmap(text: &[u8], out: &mut Vec<u8>) {
    for c in String::from_utf8_lossy(text).chars() {
        match bpe::char_byte(c) {
            Some(byte) => out.push(byte),
            None => {
                out.extend_from_slice(b"[UNK_BYTE_0x");
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    out.extend(format!("{byte:02x}").bytes());
                }
                out.extend_from_slice(text);
                out.push(b']');
            }
        }
    }
}

/// Appends a text with its escaped spaces made plain.
fn unescape(mut text: &[u8], out: &mut Vec<u8>) {
    while let Some((&first, rest)) = text.split_first() {
        if let Some(rest) = text.strip_prefix(ESCAPED_SPACE.as_bytes()) {
            out.push(b' ');
            text = rest;
        } else {
            out.push(first);
            text = rest;
        }
    }
}
