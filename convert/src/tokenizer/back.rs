//! A tokenizer's files from the `tokenizer.*` keys of a GGUF file: the way back.
//!
//! A byte-level BPE becomes a `tokenizer.json`, a SentencePiece vocabulary a `tokenizer.model`, WordPiece a
//! `tokenizer.json` with its `vocab.txt`, and what they say of special tokens a `tokenizer_config.json`.

use serde_json::{Map, Value, json};

use gguf::{Array, Error, Metadata, Result};

use super::runtime::{ESCAPED_SPACE, PreTokenizer, char_byte};
use super::vocab::TokenType;
use super::{VocabKind, base64, pre};

/// Files of a folder.
pub(crate) struct Files {
    /// Names and contents.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// What a person should know of them.
    pub notes: Vec<String>,
}

/// The tokens of a file.
struct Tokens {
    texts: Vec<Vec<u8>>,
    types: Vec<i32>,
    scores: Vec<f32>,
}

/// The score of a token that was added to a SentencePiece model.
const ADDED_SCORE: f32 = -1000.0;

/// The files of a folder whose vocabulary is read in this way.
///
/// # Errors
/// A vocabulary that no class of the transformers library holds in files that are known.
pub(crate) fn files(metadata: &Metadata, kind: VocabKind) -> Result<Files> {
    let model = metadata.str("tokenizer.ggml.model").unwrap_or("none");
    let refused = |what: &str| {
        Err(Error::input(format!("a vocabulary of the kind \"{model}\" {what}"))
            .help("take the tokenizer's files of the original model"))
    };
    let mut out = Files { files: Vec::new(), notes: Vec::new() };
    if model == "none" || model == "no_vocab" {
        return Ok(out);
    }
    let tokens = Tokens::of(metadata)?;
    let mut config = special(metadata, &tokens);
    match (model, kind) {
        ("gpt2", VocabKind::Qwen) => ranks(&tokens, &mut config, &mut out)?,
        ("gpt2", _) => gpt2(metadata, &tokens, kind, &mut config, &mut out)?,
        ("llama", VocabKind::Arctic | VocabKind::Deci | VocabKind::Xverse) => {
            return refused("is read in its own way by this class, of which there is no way back");
        }
        ("llama", _) => sentencepiece(metadata, &tokens, kind, &mut config, &mut out)?,
        ("gemma4", _) => byte_fallback(metadata, &tokens, &mut config, &mut out)?,
        ("plamo2", _) => plamo(metadata, &tokens, &mut config, &mut out)?,
        ("rwkv", _) => rwkv(&tokens, &mut config, &mut out)?,
        ("bert", _) => word_piece(metadata, &tokens, &mut config, &mut out)?,
        ("t5", _) => unigram(metadata, &tokens, kind, &mut config, &mut out)?,
        _ => return refused("has no files that are known of which it could be read again"),
    }
    out.files.push(("tokenizer_config.json", pretty(&Value::Object(config))));
    Ok(out)
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

impl Tokens {
    fn of(metadata: &Metadata) -> Result<Tokens> {
        let list = metadata
            .array("tokenizer.ggml.tokens")
            .ok_or_else(|| Error::input("the file has no tokenizer.ggml.tokens").help("it holds no vocabulary"))?;
        let texts: Vec<Vec<u8>> = list.iter_bytes().into_iter().flatten().map(<[u8]>::to_vec).collect();
        let types = metadata.array("tokenizer.ggml.token_type").and_then(Array::to_i32s);
        let scores = metadata.array("tokenizer.ggml.scores").and_then(Array::to_f32s);
        let types = types.unwrap_or_else(|| vec![TokenType::Normal as i32; texts.len()]);
        let scores = scores.unwrap_or_else(|| vec![0.0; texts.len()]);
        if types.len() != texts.len() || scores.len() != texts.len() {
            return Err(Error::input("tokens, types and scores of the vocabulary are not as many")
                .help("gguf check says more of the file"));
        }
        Ok(Tokens { texts, types, scores })
    }

    fn text(&self, id: usize) -> Result<&str> {
        std::str::from_utf8(&self.texts[id])
            .map_err(|_| Error::input(format!("token {id} is no UTF-8, so no JSON file can hold it")))
    }

    fn is(&self, id: usize, kind: TokenType) -> bool {
        self.types[id] == kind as i32
    }

    /// Whether an id stands for nothing: a vocabulary is filled up with such. Where ids are one larger than those of a
    /// SentencePiece model, the number in the text is that of the model.
    fn is_padding(&self, id: usize) -> bool {
        let numbered = |id: usize| self.texts[id] == format!("[PAD{id}]").as_bytes();
        let shifted = |id: usize| id > 0 && self.texts[id] == format!("[PAD{}]", id - 1).as_bytes();
        self.is(id, TokenType::Unused) && (numbered(id) || shifted(id))
    }

    /// The text of a token with a role. Files of XLM-RoBERTa fill up the place of the one that masks.
    fn named(&self, id: usize, role: &str) -> Result<&str> {
        if role == "mask" && self.is_padding(id) { Ok("<mask>") } else { self.text(id) }
    }
}

/// The special tokens, what is put around texts, and the chat template.
fn special(metadata: &Metadata, tokens: &Tokens) -> Map<String, Value> {
    let mut config = Map::new();
    for kind in ["bos", "eos", "sep"] {
        if let Some(add) = adds(metadata, kind) {
            config.insert(format!("add_{kind}_token"), add.into());
        }
    }
    for role in roles(metadata).filter(|role| role.place == Place::Tokenizer) {
        let id = usize::try_from(role.id).ok().filter(|id| *id < tokens.texts.len());
        // A class makes a special token of what its configuration names.
        if let Some(id) = id.filter(|id| !tokens.is(*id, TokenType::Normal))
            && let Ok(text) = tokens.named(id, role.name)
        {
            config.insert(format!("{}_token", role.name), text.into());
        }
    }
    if let Some(template) = template(metadata) {
        config.insert("chat_template".into(), template);
    }
    if let Some(longest) = metadata.architecture().and_then(|a| metadata.u64(&format!("{a}.context_length"))) {
        config.insert("model_max_length".into(), longest.into());
    }
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    config
}

/// Whether a tokenizer puts this token around texts, where it says so. What stands after the chat template is said by
/// the class of the model.
fn adds(metadata: &Metadata, role: &str) -> Option<bool> {
    let key = format!("tokenizer.ggml.add_{role}_token");
    let mut before = metadata.iter().take_while(|(key, _)| *key != "tokenizer.chat_template");
    before.find(|(own, _)| *own == key)?.1.as_bool()
}

/// A token with a role.
pub(crate) struct Role {
    /// The name that configurations have for the role.
    pub name: &'static str,
    /// The token.
    pub id: u64,
    /// Where a folder says so.
    pub place: Place,
}

/// Where a folder names a special token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the configuration of the tokenizer, and that of the model.
    Tokenizer,
    /// In the configuration of the model alone.
    Model,
    /// Nowhere: it follows from the kind of the vocabulary.
    Kind,
}

/// What ends a turn, which a folder does not name.
const TURNS: &[&str] = &["eot", "eom"];

/// The tokens with roles. The order of the keys tells where they are from: those of the tokenizer are written first, in
/// the order of roles, then those of the model, and what follows from the kind after the flags.
pub(crate) fn roles(metadata: &Metadata) -> impl Iterator<Item = Role> + '_ {
    let (mut last, mut place, mut begun) = (0, Place::Tokenizer, false);
    metadata.iter().filter_map(move |(key, value)| {
        let own = key.strip_prefix("tokenizer.ggml.")?;
        // Some classes write a flag before the vocabulary.
        begun |= own == "tokens";
        let own = own.strip_suffix("_token_id").or(own.strip_suffix("_token"))?;
        if begun && (own.starts_with("add_") || TURNS.contains(&own)) {
            place = Place::Kind;
        }
        let rank = ROLES.iter().position(|(_, known)| *known == own)?;
        if rank < last && place == Place::Tokenizer {
            place = Place::Model;
        }
        last = rank;
        Some(Role { name: ROLES[rank].0, id: value.as_u64()?, place: if begun { place } else { Place::Model } })
    })
}

/// The roles that the configuration of a tokenizer knows, with the names that keys have for them.
const ROLES: &[(&str, &str)] = &[
    ("bos", "bos"),
    ("eos", "eos"),
    ("unk", "unknown"),
    ("sep", "seperator"),
    ("pad", "padding"),
    ("cls", "cls"),
    ("mask", "mask"),
];

/// The chat template, or all of them by their names.
fn template(metadata: &Metadata) -> Option<Value> {
    let default = metadata.str("tokenizer.chat_template");
    // What stands before the vocabulary is of the class of the model, and no file of the tokenizer says it.
    let own = metadata.iter().take_while(|(key, _)| *key != "tokenizer.ggml.tokens");
    let of_class = own.into_iter().any(|(key, _)| key == "tokenizer.chat_templates");
    let names = metadata.array("tokenizer.chat_templates").filter(|_| !of_class);
    let mut named: Vec<Value> = Vec::new();
    for name in names.into_iter().flat_map(Array::iter) {
        let name = name.as_str()?.to_owned();
        let text = metadata.str(&format!("tokenizer.chat_template.{name}"))?;
        named.push(json!({"name": name, "template": text}));
    }
    if named.is_empty() {
        return default.map(Value::from);
    }
    if let Some(text) = default {
        named.insert(0, json!({"name": "default", "template": text}));
    }
    Some(named.into())
}

fn added(id: usize, text: &str, special: bool) -> Value {
    json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": !special, "special": special})
}

/// The token of this role, where it is put around texts.
fn around(metadata: &Metadata, tokens: &Tokens, role: &str) -> Option<(u64, String)> {
    let added = adds(metadata, role) == Some(true);
    let id = metadata.u64(&format!("tokenizer.ggml.{role}_token_id")).filter(|_| added)?;
    let text = tokens.text(usize::try_from(id).ok().filter(|id| *id < tokens.texts.len())?).ok()?;
    Some((id, text.to_owned()))
}

/// What stands around a text: the tokens that the keys say are added.
fn post_processor(metadata: &Metadata, tokens: &Tokens) -> Value {
    let (bos, eos) = (around(metadata, tokens, "bos"), around(metadata, tokens, "eos"));
    if bos.is_none() && eos.is_none() {
        // A byte-level step here would say that nothing is added, which the file need not say.
        return Value::Null;
    }
    let mut special = Map::new();
    for (id, text) in [&bos, &eos].into_iter().flatten() {
        special.insert(text.clone(), json!({"id": text, "ids": [id], "tokens": [text]}));
    }
    let around = |name: &str, ty: u32| {
        let token = |t: &Option<(u64, String)>| {
            t.as_ref().map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": ty}}))
        };
        let sequence = json!({"Sequence": {"id": name, "type_id": ty}});
        token(&bos).into_iter().chain([sequence]).chain(token(&eos)).collect::<Vec<_>>()
    };
    // Where the file does not say whether texts of a pair are separated, the second just follows.
    let separated = metadata.get("tokenizer.ggml.add_sep_token").is_some();
    let second = if separated { around("B", 1) } else { vec![json!({"Sequence": {"id": "B", "type_id": 1}})] };
    let mut pair = around("A", 0);
    let last = if separated || eos.is_none() { pair.len() } else { pair.len() - 1 };
    pair.splice(last..last, second);
    json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": special})
}

/// The merges as pairs of tokens.
fn merges(metadata: &Metadata) -> Result<Vec<Value>> {
    let merges = metadata.array("tokenizer.ggml.merges");
    let merges = merges.ok_or_else(|| Error::input("the file has no tokenizer.ggml.merges"))?;
    merges
        .iter()
        .map(|merge| {
            let merge = merge.as_str().and_then(|m| m.split_once(' ')).map(|(a, b)| json!([a, b]));
            merge.ok_or_else(|| Error::input("a merge of the vocabulary is no pair of tokens"))
        })
        .collect()
}

/// Byte-level BPE.
fn gpt2(
    metadata: &Metadata,
    tokens: &Tokens,
    kind: VocabKind,
    config: &mut Map<String, Value>,
    out: &mut Files,
) -> Result<()> {
    let name = metadata.str("tokenizer.ggml.pre").unwrap_or("default");
    if metadata.str("tokenizer.ggml.pre").is_none_or(|name| name == "default") {
        out.notes.push(
            "the file does not say how texts are cut into words: the folder does it as llama.cpp then does; better take the \
             tokenizer.json of the original model"
                .to_owned(),
        );
    }
    let Some(cuts) = pre::json_of(name) else {
        return Err(Error::input(format!(
            "tokenizer.ggml.pre is '{name}', of which no tokenizer.json is known that means it"
        ))
        .help("take the tokenizer.json of the original model"));
    };
    let mut vocab = Map::new();
    let mut list = Vec::new();
    for id in 0..tokens.texts.len() {
        if tokens.is_padding(id) {
            continue;
        }
        let text = tokens.text(id)?;
        if vocab.insert(text.to_owned(), id.into()).is_some() {
            return Err(Error::input(format!(
                "two tokens of the vocabulary are '{text}', which no tokenizer.json can hold"
            )));
        }
        if tokens.is(id, TokenType::Control) || tokens.is(id, TokenType::UserDefined) {
            list.push(added(id, text, tokens.is(id, TokenType::Control)));
        }
    }
    let merges = merges(metadata)?;
    let ignores = PreTokenizer::find(name).is_ok_and(|row| row.ignore_merges);
    let normalizer = if COMPOSED.contains(&name) { json!({"type": "NFC"}) } else { Value::Null };
    let roberta = matches!(kind, VocabKind::JinaBert2 | VocabKind::Roberta);
    let post = match (around(metadata, tokens, "bos"), around(metadata, tokens, "eos")) {
        (Some((first, begins)), Some((last, ends))) if roberta => json!({"type": "RobertaProcessing",
            "sep": [ends, last], "cls": [begins, first], "trim_offsets": true, "add_prefix_space": false}),
        _ => post_processor(metadata, tokens),
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": list,
        "normalizer": normalizer,
        "pre_tokenizer": cuts,
        "post_processor": post,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignores,
            "vocab": vocab, "merges": merges},
    });
    out.files.push(("tokenizer.json", pretty(&tokenizer)));
    let class = match kind {
        VocabKind::Phi3 => "GPT2Tokenizer",
        VocabKind::JinaBert2 | VocabKind::Roberta => "RobertaTokenizer",
        _ => "PreTrainedTokenizerFast",
    };
    config.insert("tokenizer_class".into(), class.into());
    Ok(())
}

/// Qwen 1's file of ranks, which are the ids, with the special tokens in the configuration.
fn ranks(tokens: &Tokens, config: &mut Map<String, Value>, out: &mut Files) -> Result<()> {
    let mut lines = String::new();
    let mut special = Map::new();
    for id in (0..tokens.texts.len()).filter(|id| !tokens.is_padding(*id)) {
        let text = tokens.text(id)?;
        if tokens.is(id, TokenType::Control) {
            special.insert(id.to_string(), added(id, text, true));
            continue;
        }
        let bytes: Option<Vec<u8>> = text.chars().map(char_byte).collect();
        let bytes = bytes.ok_or_else(|| Error::input(format!("token {id} is not written as bytes")))?;
        lines += &format!("{} {id}\n", base64::encode(&bytes));
    }
    out.files.push(("qwen.tiktoken", lines.into_bytes()));
    config.insert("added_tokens_decoder".into(), special.into());
    config.insert("tokenizer_class".into(), "QWenTokenizer".into());
    Ok(())
}

/// Pre-tokenizers whose published tokenizers compose characters first.
const COMPOSED: &[&str] = &["qwen2", "qwen35", "stablelm2"];

/// A SentencePiece BPE.
fn sentencepiece(
    metadata: &Metadata,
    tokens: &Tokens,
    kind: VocabKind,
    config: &mut Map<String, Value>,
    out: &mut Files,
) -> Result<()> {
    let mut pieces = pieces(tokens, 0..tokens.texts.len());
    if kind == VocabKind::InternLm2 {
        // What stands in files for the zero byte, and types that follow from texts.
        for piece in pieces.iter_mut() {
            if piece.0 == "🐉".as_bytes() {
                piece.0 = b"\0";
            }
            if piece.0.starts_with(b"[UNUSED") {
                piece.2 = TokenType::Normal as i32;
            }
        }
    }
    if !pieces.iter().any(|piece| piece.2 == TokenType::Unknown as i32) {
        // A model has such a piece, whatever type a file has for it.
        let named = metadata.u64("tokenizer.ggml.unknown_token_id").and_then(|id| usize::try_from(id).ok());
        let spelled = || pieces.iter().position(|piece| piece.0 == b"<unk>");
        if let Some(piece) = named.or_else(spelled).and_then(|id| pieces.get_mut(id)) {
            piece.2 = TokenType::Unknown as i32;
        }
    }
    let prefix = metadata.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let model = Proto { pieces, unigram: false, prefix, remove_spaces: false, charsmap: &[] };
    out.files.push(("tokenizer.model", model.bytes(metadata, tokens, 0)));
    let mut decoder = Map::new();
    for id in 0..tokens.texts.len() {
        let special = tokens.is(id, TokenType::Control);
        let plain = tokens.is(id, TokenType::UserDefined);
        if plain || special && tokens.scores[id] == ADDED_SCORE {
            let text = tokens.text(id)?;
            let mut token = added(id, text, special);
            token.as_object_mut().map(|token| token.shift_remove("id"));
            decoder.insert(id.to_string(), token);
        }
    }
    if !decoder.is_empty() {
        config.insert("added_tokens_decoder".into(), decoder.into());
    }
    if let Some(prefix) = metadata.bool("tokenizer.ggml.add_space_prefix") {
        config.insert("add_prefix_space".into(), prefix.into());
    }
    let gemma = matches!(kind, VocabKind::Gemma | VocabKind::Gemma2 | VocabKind::Gemma3 | VocabKind::Gemma3n);
    config.insert("tokenizer_class".into(), if gemma { "GemmaTokenizer" } else { "LlamaTokenizer" }.into());
    config.insert("legacy".into(), (!gemma).into());
    Ok(())
}

/// A piece: its text, score and type.
type Piece<'a> = (&'a [u8], f32, i32);

fn pieces<'a>(tokens: &'a Tokens, ids: std::ops::Range<usize>) -> Vec<Piece<'a>> {
    // A vocabulary that was filled up ends before what fills it.
    let end = ids.clone().rev().find(|id| !tokens.is_padding(*id)).map_or(ids.start, |id| id + 1);
    (ids.start..end).map(|id| (tokens.texts[id].as_slice(), tokens.scores[id], tokens.types[id])).collect()
}

/// A SentencePiece model about to be written. Field numbers are those of `sentencepiece_model.proto`.
struct Proto<'a> {
    pieces: Vec<Piece<'a>>,
    unigram: bool,
    prefix: bool,
    remove_spaces: bool,
    charsmap: &'a [u8],
}

impl Proto<'_> {
    /// `shift` is how much larger an id is in the file than in the model.
    fn bytes(&self, metadata: &Metadata, tokens: &Tokens, shift: i64) -> Vec<u8> {
        let mut out = Vec::new();
        for (text, score, kind) in &self.pieces {
            let mut piece = Vec::new();
            delimited(&mut piece, 1, text);
            varint(&mut piece, 2 << 3 | 5);
            piece.extend(score.to_le_bytes());
            if *kind != TokenType::Normal as i32 {
                number(&mut piece, 3, u64::try_from(*kind).unwrap_or(1));
            }
            delimited(&mut out, 1, &piece);
        }
        let mut trainer = Vec::new();
        number(&mut trainer, 3, if self.unigram { 1 } else { 2 });
        number(&mut trainer, 4, self.pieces.len() as u64);
        if tokens.types.contains(&(TokenType::Byte as i32)) {
            number(&mut trainer, 35, 1);
        }
        let unknown = self.pieces.iter().position(|p| p.2 == TokenType::Unknown as i32).map(|id| id as i64);
        let role = |key: &str| {
            let id = metadata.u64(&format!("tokenizer.ggml.{key}_token_id")).and_then(|id| i64::try_from(id).ok());
            id.map(|id| id - shift).filter(|id| (0..self.pieces.len() as i64).contains(id))
        };
        let roles = [unknown.or(role("unknown")), role("bos"), role("eos"), role("padding")];
        for (field, id) in (40_u64..).zip(roles) {
            // -1 is none, in the ten bytes that negative numbers take.
            number(&mut trainer, field, id.unwrap_or(-1) as u64);
        }
        for (field, id) in (45_u64..).zip(roles) {
            if let Some(piece) = id.and_then(|id| self.pieces.get(id as usize)) {
                delimited(&mut trainer, field, piece.0);
            }
        }
        delimited(&mut out, 2, &trainer);
        let mut normalizer = Vec::new();
        delimited(&mut normalizer, 1, if self.charsmap.is_empty() { b"identity" } else { b"nmt_nfkc" });
        if !self.charsmap.is_empty() {
            delimited(&mut normalizer, 2, self.charsmap);
        }
        number(&mut normalizer, 3, self.prefix.into());
        number(&mut normalizer, 4, self.remove_spaces.into());
        number(&mut normalizer, 5, 1);
        delimited(&mut out, 3, &normalizer);
        out
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn delimited(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// BERT's WordPiece.
fn word_piece(metadata: &Metadata, tokens: &Tokens, config: &mut Map<String, Value>, out: &mut Files) -> Result<()> {
    let lowercase = metadata.bool("tokenizer.ggml.normalizer.lowercase");
    let strip = metadata.bool("tokenizer.ggml.normalizer.strip_accents");
    let mut vocab = Map::new();
    let (mut list, mut lines) = (Vec::new(), String::new());
    for id in 0..tokens.texts.len() {
        if tokens.is_padding(id) {
            continue;
        }
        let text = tokens.text(id)?;
        let control = tokens.is(id, TokenType::Control);
        let text = match text.strip_prefix(ESCAPED_SPACE) {
            _ if control => text.to_owned(),
            Some(begins) => begins.to_owned(),
            None => format!("##{text}"),
        };
        lines += &text;
        lines.push('\n');
        if control || tokens.is(id, TokenType::UserDefined) {
            list.push(added(id, &text, control));
        }
        vocab.insert(text, id.into());
    }
    let known = |text: &str| vocab.get(text).and_then(Value::as_u64);
    let unknown = if known("[UNK]").is_some() { "[UNK]" } else { "<unk>" };
    let mut post = Value::Null;
    // Older files call the class token the beginning.
    let class = metadata.u64("tokenizer.ggml.cls_token_id").or(metadata.u64("tokenizer.ggml.bos_token_id"));
    let class = class.or(known("[CLS]")).and_then(|id| Some((tokens.text(usize::try_from(id).ok()?).ok()?, id)));
    let separator = metadata.u64("tokenizer.ggml.seperator_token_id").or(known("[SEP]"));
    let separator = separator.and_then(|id| Some((tokens.text(usize::try_from(id).ok()?).ok()?, id)));
    // Without the flags the class of the tokenizer says what stands around a text.
    let says = metadata.get("tokenizer.ggml.add_bos_token").is_some();
    if let (true, Some((class, first)), Some((separator, last))) = (says, class, separator) {
        let token = |text: &str, ty: u32| json!({"SpecialToken": {"id": text, "type_id": ty}});
        let sequence = |name: &str, ty: u32| json!({"Sequence": {"id": name, "type_id": ty}});
        post = json!({"type": "TemplateProcessing",
            "single": [token(class, 0), sequence("A", 0), token(separator, 0)],
            "pair": [token(class, 0), sequence("A", 0), token(separator, 0), sequence("B", 1), token(separator, 1)],
            "special_tokens": {class: {"id": class, "ids": [first], "tokens": [class]},
                separator: {"id": separator, "ids": [last], "tokens": [separator]}}});
        config.entry("cls_token").or_insert(class.into());
        config.entry("sep_token").or_insert(separator.into());
    }
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": list,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": strip, "lowercase": lowercase.unwrap_or(true)},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": post,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    });
    out.files.push(("tokenizer.json", pretty(&tokenizer)));
    out.files.push(("vocab.txt", lines.into_bytes()));
    config.insert("tokenizer_class".into(), "BertTokenizer".into());
    config.insert("do_lower_case".into(), lowercase.unwrap_or(true).into());
    Ok(())
}

/// SentencePiece's unigram model, of T5 or with fairseq's ids of XLM-RoBERTa.
fn unigram(
    metadata: &Metadata,
    tokens: &Tokens,
    kind: VocabKind,
    config: &mut Map<String, Value>,
    out: &mut Files,
) -> Result<()> {
    let charsmap: Vec<u8> = metadata
        .array("tokenizer.ggml.precompiled_charsmap")
        .map(|array| array.iter().filter_map(|v| u8::try_from(v.as_i64()? & 255).ok()).collect())
        .unwrap_or_default();
    let prefix = metadata.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let remove_spaces = metadata.bool("tokenizer.ggml.remove_extra_whitespaces").unwrap_or(true);
    let fairseq = matches!(kind, VocabKind::XlmRoberta | VocabKind::NomicBert);
    let (pieces, name, class, shift) = if fairseq {
        // The model's own first three, which fairseq's ids replace.
        let mut all: Vec<Piece<'_>> = vec![(b"<unk>", 0.0, 2), (b"<s>", 0.0, 3), (b"</s>", 0.0, 3)];
        all.extend(pieces(tokens, 4.min(tokens.texts.len())..tokens.texts.len()));
        (all, "sentencepiece.bpe.model", "XLMRobertaTokenizer", 1)
    } else {
        let added = |id: usize| tokens.is(id, TokenType::UserDefined) && tokens.scores[id] == ADDED_SCORE;
        let end =
            (0..tokens.texts.len()).rev().find(|id| !added(*id) && !tokens.is_padding(*id)).map_or(0, |id| id + 1);
        let more: Map<String, Value> = (0..tokens.texts.len())
            .filter(|id| added(*id))
            .map(|id| Ok((tokens.text(id)?.to_owned(), id.into())))
            .collect::<Result<_>>()?;
        if !more.is_empty() {
            out.files.push(("added_tokens.json", pretty(&more.into())));
        }
        (pieces(tokens, 0..end), "spiece.model", "T5Tokenizer", 0)
    };
    if roles(metadata).any(|role| ["unk", "sep", "mask"].contains(&role.name)) {
        // These roles are read from the tokens that such a file adds.
        out.files.push(("tokenizer.json", pretty(&unigram_json(metadata, tokens, &charsmap)?)));
    }
    let model = Proto { pieces, unigram: true, prefix, remove_spaces, charsmap: &charsmap };
    out.files.push((name, model.bytes(metadata, tokens, shift)));
    config.insert("tokenizer_class".into(), class.into());
    config.insert("clean_up_tokenization_spaces".into(), remove_spaces.into());
    Ok(())
}

/// A unigram model as `tokenizer.json` has it.
fn unigram_json(metadata: &Metadata, tokens: &Tokens, charsmap: &[u8]) -> Result<Value> {
    let (mut list, mut vocab) = (Vec::new(), Vec::new());
    for id in 0..tokens.texts.len() {
        let masks = metadata.u64("tokenizer.ggml.mask_token_id") == Some(id as u64);
        if tokens.is_padding(id) && !masks {
            continue;
        }
        let text = tokens.named(id, if masks { "mask" } else { "" })?;
        let special = masks || tokens.is(id, TokenType::Control) || tokens.is(id, TokenType::Unknown);
        if special || tokens.is(id, TokenType::UserDefined) {
            let mut token = added(id, text, special);
            if masks {
                token["lstrip"] = true.into();
            }
            list.push(token);
        }
        vocab.push(json!([text, tokens.scores[id]]));
    }
    let normalizer = match charsmap {
        [] => Value::Null,
        map => json!({"type": "Precompiled", "precompiled_charsmap": base64::encode(map)}),
    };
    let token = |id: usize| tokens.is(id, TokenType::Unknown);
    let unknown = (0..tokens.texts.len()).find(|id| token(*id)).map(|id| id as u64);
    let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true});
    let mut post = post_processor(metadata, tokens);
    if let (Some((_, begins)), Some((_, ends))) = (around(metadata, tokens, "bos"), around(metadata, tokens, "eos")) {
        // Two texts are separated by two tokens.
        let token = |text: &str| json!({"SpecialToken": {"id": text, "type_id": 0}});
        let sequence = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
        post["pair"] = json!([token(&begins), sequence("A"), token(&ends), token(&ends), sequence("B"), token(&ends)]);
    }
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": list,
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": post,
        "decoder": metaspace,
        "model": {"type": "Unigram",
            "unk_id": unknown.or(metadata.u64("tokenizer.ggml.unknown_token_id")),
            "vocab": vocab, "byte_fallback": false},
    }))
}

/// A BPE of texts whose spaces are escaped, which falls back to bytes.
fn byte_fallback(metadata: &Metadata, tokens: &Tokens, config: &mut Map<String, Value>, out: &mut Files) -> Result<()> {
    let (mut list, mut vocab) = (Vec::new(), Map::new());
    for id in (0..tokens.texts.len()).filter(|id| !tokens.is_padding(*id)) {
        let text = tokens.text(id)?;
        let control = tokens.is(id, TokenType::Control);
        if control || tokens.is(id, TokenType::UserDefined) {
            list.push(added(id, text, control));
        }
        vocab.insert(text.to_owned(), id.into());
    }
    // What stands after this key is of the class.
    let place = |key: &str| metadata.iter().position(|(own, _)| own == key);
    let own = place("tokenizer.ggml.add_bos_token") < place("tokenizer.ggml.add_space_prefix");
    if !own {
        config.shift_remove("add_bos_token");
    }
    let unknown = metadata.u64("tokenizer.ggml.unknown_token_id").and_then(|id| usize::try_from(id).ok());
    let unknown = unknown.filter(|id| *id < tokens.texts.len()).map(|id| tokens.text(id)).transpose()?;
    let escape = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let shown = json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": list,
        "normalizer": escape,
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false},
        "post_processor": if own { post_processor(metadata, tokens) } else { Value::Null },
        "decoder": {"type": "Sequence", "decoders": [shown, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges(metadata)?},
    });
    out.files.push(("tokenizer.json", pretty(&tokenizer)));
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    Ok(())
}

/// PLaMo's lines of JSON.
fn plamo(metadata: &Metadata, tokens: &Tokens, config: &mut Map<String, Value>, out: &mut Files) -> Result<()> {
    let mut lines = Vec::new();
    // Ids that fill up are numbered from 1 on, behind all others.
    let end = (0..tokens.texts.len()).rev().find(|id| !tokens.is(*id, TokenType::Unused)).map_or(0, |id| id + 1);
    for id in 0..end {
        let kind = match tokens.types[id] {
            kind if kind == TokenType::Unknown as i32 => "UNKNOWN",
            kind if kind == TokenType::Control as i32 => "CONTROL",
            kind if kind == TokenType::Byte as i32 => "BYTE",
            _ => "NORMAL",
        };
        let line = json!([tokens.text(id)?, tokens.scores[id], kind, null, null, null, null]);
        lines.extend(line.to_string().into_bytes());
        lines.push(b'\n');
    }
    out.files.push((super::plamo::FILE, lines));
    config.insert("tokenizer_class".into(), "Plamo2Tokenizer".into());
    for role in roles(metadata) {
        if let Some(id) = usize::try_from(role.id).ok().filter(|id| *id < tokens.texts.len()) {
            config.insert(format!("{}_token", role.name), tokens.text(id)?.into());
        }
    }
    Ok(())
}

/// RWKV's lines of id, text and length.
fn rwkv(tokens: &Tokens, config: &mut Map<String, Value>, out: &mut Files) -> Result<()> {
    let mut lines = String::new();
    for id in (1..tokens.texts.len()).filter(|id| !tokens.is_padding(*id)) {
        let bytes = super::rwkv::shown_bytes(tokens.text(id)?)
            .ok_or_else(|| Error::input(format!("token {id} is not written as Python writes bytes")))?;
        lines += &super::rwkv::line(id, &bytes);
    }
    out.files.push((super::rwkv::FILE, lines.into_bytes()));
    config.insert("tokenizer_class".into(), "RwkvTokenizer".into());
    // The end of texts is the id 0, which the file of the vocabulary does not have.
    for role in ["bos", "eos", "unk"] {
        config.insert(format!("{role}_token"), "<s>".into());
    }
    Ok(())
}
