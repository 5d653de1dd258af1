//! Tokenizers, in both directions: the files of a checkpoint folder become the `tokenizer.*` keys of a GGUF
//! ([`metadata`]), and these keys alone become a tokenizer that encodes and decodes text ([`Tokenizer`]).
//!
//! What is written equals what the reference converter writes. What is encoded equals what llama.cpp encodes.

mod check;
mod folder;
mod pre;
mod runtime;
mod sentencepiece;
mod source;
mod special;
mod vocab;

use std::path::Path;

use serde_json::Value;

use gguf::{Error, Metadata, Result};

pub use check::{Report, check_chat_template, check_tokenizer};
pub use runtime::{Decoder, Id, Tokenizer};

use sentencepiece::{Model, ModelType};
use source::Source;
use special::{Special, TYPES};
use vocab::{TokenType, Vocab};

/// The ways in which the converter's model classes read a vocabulary, as an architecture's row names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VocabKind {
    /// Byte-level BPE of `tokenizer.json`: most architectures.
    Gpt2,
    /// Llama and its many children: SentencePiece, else a BPE with byte fallback, else byte-level BPE.
    Llama,
    /// SentencePiece alone.
    SentencePiece,
    /// SentencePiece with tokens redefined by the tokenizer's configuration: Arctic.
    Arctic,
    /// SentencePiece where there is a `tokenizer.model`, else byte-level BPE: Qwen2, DeepSeek.
    SentencePieceOrGpt2,
    /// SentencePiece with `add_prefix_space` of the tokenizer's configuration: ERNIE 4.5.
    Ernie,
    /// SentencePiece without a space put in front, with CodeGemma's ids: Gemma 1.
    Gemma,
    /// SentencePiece without a space put in front: Gemma 2.
    Gemma2,
    /// As Gemma 2 where there is a `tokenizer.model`, else byte-level BPE: Gemma 3.
    Gemma3,
    /// A BPE with byte fallback, with its merges: Gemma 4.
    Gemma4,
    /// SentencePiece with the pad and unknown ids 0 and 1: Nemotron.
    Nemotron,
    /// SentencePiece with the added tokens of `tokenizer.json`, or byte-level BPE for the class `GPT2Tokenizer`: Phi-3, Phi-4.
    Phi3,
    /// Byte-level BPE with the turn tokens of GLM-4 and GLM-Edge.
    Glm4,
    /// Byte-level BPE with the turn tokens of GLM-4.5 and later.
    GlmMoe,
    /// Byte-level BPE with the turn tokens of ChatGLM and the first GLM-4.
    ChatGlm,
    /// Byte-level BPE with the turn token of dots3-note.
    Dots3,
    /// Byte-level BPE with the roles of Solar Open's tokens.
    Solar,
    /// Byte-level BPE for Llama 3's vocabulary of 128,256 tokens, else a BPE with byte fallback: DeciLM.
    Deci,
    /// As Qwen 2, with added tokens as they are written: Dream.
    Dream,
    /// SentencePiece where there is a `tokenizer.model`, else byte-level BPE, in a vocabulary padded to a multiple of 16
    /// or as the configuration says: Mamba 2.
    Mamba2,
    /// Byte-level BPE in a vocabulary padded to a multiple of 8, else SentencePiece: Mamba.
    Mamba,
    /// Byte-level BPE, else SentencePiece with SEA-LION's ids: MPT.
    Mpt,
    /// WordPiece with phantom spaces: BERT.
    Bert,
    /// Byte-level BPE where there is a `tokenizer.json`, else as BERT: RoBERTa.
    Roberta,
    /// Byte-level BPE of `tokenizer.json`, and of nothing older: StableLM.
    StableLm,
    /// SentencePiece unigram with its character map, or BPE for Pile-T5: T5.
    T5,
    /// A model without a tokenizer.
    None,
}

/// What the person asked for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The pre-tokenizer to write instead of the one that is found (`--pre`).
    pub pre: Option<String>,
}

/// The `tokenizer.*` keys of a checkpoint folder, in the converter's order.
///
/// `config` is the parsed `config.json`.
///
/// # Errors
/// Missing or malformed files, and a pre-tokenizer that is known neither by its hash nor by its structure.
pub fn metadata(dir: &Path, config: &Value, kind: VocabKind, request: &Request) -> Result<Metadata> {
    let mut out = Metadata::new();
    let set = Setting { dir, config, request };
    match kind {
        VocabKind::Gpt2 | VocabKind::StableLm => set.gpt2(None, &mut out)?,
        VocabKind::Llama => set.llama(&mut out)?,
        VocabKind::SentencePiece => set.sentencepiece(&mut out)?,
        VocabKind::SentencePieceOrGpt2 => set.sentencepiece_or_gpt2(&mut out)?,
        VocabKind::Ernie => {
            set.sentencepiece(&mut out)?;
            set.space_prefix(&mut out)?;
        }
        VocabKind::Gemma => {
            set.sentencepiece(&mut out)?;
            let mut special = Special::load(dir, false, &["prefix", "suffix", "middle", "fsep", "eot"], None)?;
            special.set("eot", &Value::from(107))?;
            special.template = None;
            special.write(&mut out);
            out.set("tokenizer.ggml.add_space_prefix", false);
        }
        VocabKind::Gemma2 => {
            set.sentencepiece(&mut out)?;
            out.set("tokenizer.ggml.add_space_prefix", false);
        }
        VocabKind::Gemma3 if set.has("tokenizer.model") => {
            set.sentencepiece(&mut out)?;
            out.set("tokenizer.ggml.add_space_prefix", false);
        }
        VocabKind::Gemma3 => set.gpt2(None, &mut out)?,
        VocabKind::Gemma4 => set.gemma4(&mut out)?,
        VocabKind::Nemotron => {
            set.sentencepiece(&mut out)?;
            out.set("tokenizer.ggml.padding_token_id", 0_u32);
            out.set("tokenizer.ggml.unknown_token_id", 1_u32);
        }
        VocabKind::Phi3 => set.phi3(&mut out)?,
        VocabKind::Glm4 => set.glm(
            &[("eos", "<|endoftext|>"), ("eot", "<|user|>"), ("unk", "<|endoftext|>"), ("bos", "<|endoftext|>")],
            &mut out,
        )?,
        VocabKind::GlmMoe => set.glm(
            &[("bos", "[gMASK]"), ("eot", "<|user|>"), ("unk", "<|endoftext|>"), ("eom", "<|observation|>")],
            &mut out,
        )?,
        VocabKind::ChatGlm => {
            set.glm(&[("eos", "<|endoftext|>"), ("eot", "<|user|>"), ("unk", "<|endoftext|>")], &mut out)?;
        }
        VocabKind::Dots3 => set.glm(&[("eot", "<|endofassistant|>")], &mut out)?,
        VocabKind::Solar => set.glm(
            &[("eos", "<|endoftext|>"), ("eot", "<|endoftext|>"), ("unk", "<unk>"), ("bos", "<|startoftext|>")],
            &mut out,
        )?,
        VocabKind::Arctic => set.arctic(&mut out)?,
        VocabKind::Deci if set.size()?.unwrap_or(128_256) == 128_256 => set.gpt2(None, &mut out)?,
        VocabKind::Deci => set.write_spm(&set.llama_hf(&set.source()?)?, &mut out)?,
        VocabKind::Dream if set.has("tokenizer.model") => set.sentencepiece(&mut out)?,
        VocabKind::Dream => set.dream(&mut out)?,
        VocabKind::Mamba => set.mamba(&mut out)?,
        VocabKind::Mamba2 => set.mamba2(&mut out)?,
        VocabKind::Mpt => set.mpt(&mut out)?,
        VocabKind::Bert => set.bert(&mut out)?,
        VocabKind::Roberta => set.roberta(&mut out)?,
        VocabKind::T5 => set.t5(&mut out)?,
        VocabKind::None => {
            out.set("tokenizer.ggml.model", "none");
        }
    }
    Ok(out)
}

struct Setting<'a> {
    dir: &'a Path,
    config: &'a Value,
    request: &'a Request,
}

impl Setting<'_> {
    fn missing(&self, what: &str) -> Error {
        Error::input(format!("the folder holds no {what}"))
            .at(self.dir)
            .help("copy the tokenizer's files of the original model into the folder")
    }

    fn has(&self, name: &str) -> bool {
        self.dir.join(name).is_file()
    }

    /// The vocabulary size that the configuration gives.
    fn size(&self) -> Result<Option<usize>> {
        vocab::vocab_size(self.config, &["vocab_size"]).map_err(|e| e.at(self.dir.join("config.json")))
    }

    fn source(&self) -> Result<Source> {
        if let Some(source) = Source::open(self.dir)? {
            return Ok(source);
        }
        if self.has("tekken.json") {
            return Err(Error::input("the tokenizer is a tekken.json alone")
                .at(self.dir)
                .help("take the tokenizer.json of the model's Hugging Face repository"));
        }
        Err(self.missing("tokenizer.json"))
    }

    /// SentencePiece, with what the tokenizer's configuration adds.
    fn sentencepiece(&self, out: &mut Metadata) -> Result<()> {
        let model = Model::open(self.dir, &["tokenizer.model"])?.ok_or_else(|| self.missing("tokenizer.model"))?;
        let size = vocab::vocab_size(self.config, &["vocab_size_per_layer_input", "vocab_size"])?;
        let mut vocab = Vocab::from_pieces(&model, size.unwrap_or(model.pieces.len()));
        vocab.apply_added_tokens(self.dir)?;
        vocab.apply_added_decoder(self.dir, true)?;
        self.write_spm(&vocab, out)
    }

    fn write_spm(&self, vocab: &Vocab, out: &mut Metadata) -> Result<()> {
        out.set("tokenizer.ggml.model", "llama");
        out.set("tokenizer.ggml.pre", "default");
        vocab.write(true, out);
        Special::load(self.dir, false, &TYPES, Some(vocab.len()))?.write(out);
        Ok(())
    }

    fn sentencepiece_or_gpt2(&self, out: &mut Metadata) -> Result<()> {
        if self.has("tokenizer.model") { self.sentencepiece(out) } else { self.gpt2(None, out) }
    }

    /// Byte-level BPE, in a vocabulary of `size` ids or of as many as the configuration says.
    fn gpt2(&self, size: Option<usize>, out: &mut Metadata) -> Result<()> {
        let source = self.source()?;
        self.write_gpt2(&source, size, out)?;
        Special::load(self.dir, true, &TYPES, None)?.write(out);
        Ok(())
    }

    fn write_gpt2(&self, source: &Source, size: Option<usize>, out: &mut Metadata) -> Result<()> {
        self.write_base(source, &self.base(source, size)?, out)
    }

    fn write_base(&self, source: &Source, vocab: &Vocab, out: &mut Metadata) -> Result<()> {
        let pre = self.pre(source)?;
        out.set("tokenizer.ggml.model", "gpt2");
        out.set("tokenizer.ggml.pre", pre);
        vocab.write(false, out);
        Ok(())
    }

    fn pre(&self, source: &Source) -> Result<String> {
        pre::find(source, self.request.pre.as_deref()).map_err(|e| e.at(self.dir.join("tokenizer.json")))
    }

    /// The tokens of a source tokenizer with their types.
    fn base(&self, source: &Source, size: Option<usize>) -> Result<Vocab> {
        let by_id = source.by_id();
        let size = match size {
            Some(size) => size,
            None => self.size()?.unwrap_or(by_id.len()),
        };
        if let Some((id, text)) = by_id.iter().max_by_key(|(id, _)| **id).filter(|(id, _)| **id as usize >= size) {
            return Err(Error::input(format!(
                "the token '{text}' has the id {id}, beyond the vocabulary of {size} that config.json states"
            ))
            .at(self.dir.join("tokenizer.json"))
            .help("the tokenizer belongs to another model, or the embeddings were not grown with it"));
        }
        let added = source.tokenizer.get_added_tokens_decoder();
        let mut vocab = Vocab::default();
        for id in 0..size as u32 {
            let Some(text) = by_id.get(&id) else {
                vocab.push(format!("[PAD{id}]"), 0.0, TokenType::Unused);
                continue;
            };
            let Some(token) = added.get(&id) else {
                vocab.push(text.as_str(), 0.0, TokenType::Normal);
                continue;
            };
            // Added tokens are matched in the plain text, so they are written as plain text.
            let text = if token.normalized { text.clone() } else { source.round_trip(text)? };
            if token.special || vocab::looks_special(&text) {
                vocab.push(text, 0.0, TokenType::Control);
            } else {
                vocab.push(text.replace('\u{2581}', " "), 0.0, TokenType::UserDefined);
            }
        }
        Ok(vocab)
    }

    fn space_prefix(&self, out: &mut Metadata) -> Result<()> {
        if let Some(config) = folder::json(self.dir, "tokenizer_config.json")?
            && let Some(prefix) = config["add_prefix_space"].as_bool()
        {
            out.set("tokenizer.ggml.add_space_prefix", prefix);
        }
        Ok(())
    }

    fn llama(&self, out: &mut Metadata) -> Result<()> {
        self.space_prefix(out)?;
        if self.has("tokenizer.model") {
            self.sentencepiece(out)?;
        } else {
            let source = self.source()?;
            if byte_fallback(&source.json) {
                self.write_spm(&self.llama_hf(&source)?, out)?;
            } else {
                self.gpt2(None, out)?;
            }
        }
        let size = self.size()?.unwrap_or(32000);
        // CodeLlama: its infill tokens have no key, but the end of its turns has.
        if size == 32016 {
            let mut special = Special::load(self.dir, false, &["prefix", "suffix", "middle", "eot"], None)?;
            special.set("eot", &Value::from(32010))?;
            special.write(out);
        }
        // The small Granite models add no beginning.
        if size == 49152 {
            out.set("tokenizer.ggml.add_bos_token", false);
        }
        Ok(())
    }

    /// The vocabulary of a `tokenizer.json` that holds a SentencePiece BPE: without scores, so all have the same.
    fn llama_hf(&self, source: &Source) -> Result<Vocab> {
        const SCORE: f32 = -1000.0;
        let config = folder::json(self.dir, "tokenizer_config.json")?.unwrap_or(Value::Null);
        let mut special: Vec<&str> = source.named.iter().map(String::as_str).collect();
        if config["tokenizer_class"].as_str().is_none_or(|class| class.starts_with("LlamaTokenizer")) {
            special.extend(["<unk>", "<s>", "</s>"]);
        }
        let by_id = source.by_id();
        let base = source.tokenizer.get_vocab_size(false) as u32;
        let kind = |text: &str| {
            if special.contains(&text) { TokenType::Control } else { TokenType::Normal }
        };
        let mut vocab = Vocab::default();
        for id in 0..base {
            let text = by_id
                .get(&id)
                .ok_or_else(|| Error::input(format!("no token has the id {id}")).at(self.dir.join("tokenizer.json")))?;
            let byte = text.len() == 6
                && text.starts_with("<0x")
                && text.ends_with('>')
                && text.bytes().skip(3).take(2).all(|b| b.is_ascii_hexdigit());
            vocab.push(text.as_str(), SCORE, if byte { TokenType::Byte } else { kind(text) });
        }
        let mut added: Vec<_> =
            source.tokenizer.get_added_tokens_decoder().into_iter().filter(|(id, _)| *id >= base).collect();
        added.sort_by_key(|(id, _)| *id);
        for (_, token) in added {
            let text = token.content.as_str();
            let ty = if special.contains(&text) { TokenType::Control } else { TokenType::UserDefined };
            vocab.push(text, SCORE, ty);
        }
        Ok(vocab)
    }

    fn gemma4(&self, out: &mut Metadata) -> Result<()> {
        /// Tokens that a chat's reader has to see, though they are special.
        const VISIBLE: [&str; 7] = [
            "<|channel>",
            "<channel|>",
            "<|tool_call>",
            "<tool_call|>",
            "<|tool_response>",
            "<tool_response|>",
            "<|\"|>",
        ];
        let source = self.source()?;
        if !byte_fallback(&source.json) {
            return Err(Error::input("the tokenizer is no BPE with byte fallback").at(self.dir.join("tokenizer.json")));
        }
        let mut vocab = self.llama_hf(&source)?;
        for (text, kind) in vocab.texts.iter().zip(&mut vocab.types) {
            if VISIBLE.iter().any(|v| v.as_bytes() == text) {
                *kind = TokenType::UserDefined;
            }
        }
        out.set("tokenizer.ggml.model", "gemma4");
        vocab.write(true, out);
        Special::load(self.dir, true, &TYPES, None)?.write(out);
        out.set("tokenizer.ggml.add_space_prefix", false);
        out.set("tokenizer.ggml.add_bos_token", true);
        Ok(())
    }

    fn phi3(&self, out: &mut Metadata) -> Result<()> {
        let config = folder::json(self.dir, "tokenizer_config.json")?.unwrap_or(Value::Null);
        if config["tokenizer_class"] == "GPT2Tokenizer" {
            return self.gpt2(None, out);
        }
        let model = Model::open(self.dir, &["tokenizer.model"])?.ok_or_else(|| self.missing("tokenizer.model"))?;
        let mut vocab = Vocab::from_pieces(&model, self.size()?.unwrap_or(model.pieces.len()));
        vocab.apply_added_tokens(self.dir)?;
        vocab.apply_added_decoder(self.dir, false)?;
        vocab.apply_tokenizer_json(self.dir)?;
        self.write_spm(&vocab, out)
    }

    /// Byte-level BPE whose roles are those of named added tokens, as far as the files give none.
    fn glm(&self, roles: &[(&str, &str)], out: &mut Metadata) -> Result<()> {
        let source = self.source()?;
        self.write_gpt2(&source, None, out)?;
        let mut special = Special::load(self.dir, true, &TYPES, None)?;
        for (role, text) in roles {
            let id = source.added_id(text).ok_or_else(|| {
                Error::input(format!("the tokenizer has no added token {text}, which the model's format needs"))
                    .at(self.dir.join("tokenizer.json"))
            })?;
            special.set(role, &Value::from(id))?;
        }
        special.write(out);
        Ok(())
    }

    fn mamba(&self, out: &mut Metadata) -> Result<()> {
        let multiple = vocab::vocab_size(self.config, &["pad_vocab_size_multiple"])?.unwrap_or(8);
        let size = self.size()?.map(|size| size.next_multiple_of(multiple));
        if self.has("tokenizer.json") {
            return self.gpt2(size, out);
        }
        if self.has("tokenizer.model") {
            let model = Model::open(self.dir, &["tokenizer.model"])?.ok_or_else(|| self.missing("tokenizer.model"))?;
            let mut vocab = Vocab::from_pieces(&model, size.unwrap_or(model.pieces.len()));
            vocab.apply_added_tokens(self.dir)?;
            vocab.apply_added_decoder(self.dir, true)?;
            return self.write_spm(&vocab, out);
        }
        Err(self
            .missing("tokenizer.json")
            .help("Mamba uses the tokenizer of GPT-NeoX-20B: copy its tokenizer.json here"))
    }

    fn mamba2(&self, out: &mut Metadata) -> Result<()> {
        let multiple = vocab::vocab_size(self.config, &["pad_vocab_size_multiple"])?.unwrap_or(16);
        let size = self.size()?.map(|size| size.next_multiple_of(multiple));
        if !self.has("tokenizer.model") {
            return self.gpt2(size, out);
        }
        let model = Model::open(self.dir, &["tokenizer.model"])?.ok_or_else(|| self.missing("tokenizer.model"))?;
        let mut vocab = Vocab::from_pieces(&model, size.unwrap_or(model.pieces.len()));
        vocab.apply_added_tokens(self.dir)?;
        vocab.apply_added_decoder(self.dir, true)?;
        self.write_spm(&vocab, out)
    }

    fn arctic(&self, out: &mut Metadata) -> Result<()> {
        let model = Model::open(self.dir, &["tokenizer.model"])?.ok_or_else(|| self.missing("tokenizer.model"))?;
        let mut vocab = Vocab::from_pieces(&model, self.size()?.unwrap_or(model.pieces.len()));
        vocab.redefine(self.dir)?;
        self.write_spm(&vocab, out)
    }

    /// Byte-level BPE whose added tokens are written as they are, control tokens where they are marked as special.
    fn dream(&self, out: &mut Metadata) -> Result<()> {
        let source = self.source()?;
        let mut vocab = self.base(&source, None)?;
        for (id, token) in source.tokenizer.get_added_tokens_decoder() {
            let kind = if token.special { TokenType::Control } else { TokenType::UserDefined };
            vocab.rewrite(id as usize, token.content.as_bytes(), kind);
        }
        self.write_base(&source, &vocab, out)?;
        Special::load(self.dir, true, &TYPES, None)?.write(out);
        Ok(())
    }

    fn mpt(&self, out: &mut Metadata) -> Result<()> {
        if self.has("tokenizer.json") || !self.has("tokenizer.model") {
            return self.gpt2(None, out);
        }
        // SEA-LION
        self.sentencepiece(out)?;
        out.set("tokenizer.ggml.add_bos_token", false);
        out.set("tokenizer.ggml.padding_token_id", 3_u32);
        out.set("tokenizer.ggml.eos_token_id", 1_u32);
        out.set("tokenizer.ggml.unknown_token_id", 0_u32);
        Ok(())
    }

    fn token_type_count(&self, out: &mut Metadata) -> Result<()> {
        let count = vocab::hparam(self.config, "type_vocab_size").and_then(Value::as_u64).unwrap_or(1);
        let count = u32::try_from(count)
            .map_err(|_| Error::input(format!("type_vocab_size is {count}")).at(self.dir.join("config.json")))?;
        out.set("tokenizer.ggml.token_type_count", count);
        Ok(())
    }

    fn bert(&self, out: &mut Metadata) -> Result<()> {
        let source = self.source()?;
        let mut vocab = self.base(&source, None)?;
        let pre = self.pre(&source)?;
        self.token_type_count(out)?;
        // A token that begins a word is written with a space in front of it, one that goes on without its mark.
        for (text, kind) in vocab.texts.iter_mut().zip(&vocab.types) {
            if *kind == TokenType::Control {
                continue;
            }
            *text = match text.strip_prefix(b"##") {
                Some(rest) => rest.to_vec(),
                None => [runtime::ESCAPED_SPACE.as_bytes(), text].concat(),
            };
        }
        out.set("tokenizer.ggml.model", "bert");
        out.set("tokenizer.ggml.pre", pre);
        vocab.write(false, out);
        Special::load(self.dir, false, &TYPES, Some(vocab.len()))?.write(out);
        Ok(())
    }

    fn roberta(&self, out: &mut Metadata) -> Result<()> {
        if !self.has("tokenizer.json") {
            return self.bert(out);
        }
        self.gpt2(None, out)?;
        self.token_type_count(out)
    }

    fn t5(&self, out: &mut Metadata) -> Result<()> {
        let model = Model::open(self.dir, &["tokenizer.model", "spiece.model"])?
            .ok_or_else(|| self.missing("tokenizer.model, nor spiece.model"))?;
        match model.model_type {
            ModelType::Unigram => {}
            // Pile-T5
            ModelType::Bpe => return self.sentencepiece(out),
            other => {
                return Err(Error::input(format!("T5's tokenizer is a unigram model, this one is of type {other:?}"))
                    .at(&model.path));
            }
        }
        let mut vocab = Vocab::from_pieces(&model, self.size()?.unwrap_or(model.pieces.len()));
        vocab.apply_added_tokens(self.dir)?;
        out.set("tokenizer.ggml.model", "t5");
        out.set("tokenizer.ggml.pre", "default");
        vocab.write(true, out);
        out.set("tokenizer.ggml.add_space_prefix", model.add_dummy_prefix);
        out.set("tokenizer.ggml.remove_extra_whitespaces", model.remove_extra_whitespaces);
        if !model.charsmap.is_empty() {
            out.set("tokenizer.ggml.precompiled_charsmap", gguf::Array::from(model.charsmap.as_slice()));
        }
        Special::load(self.dir, false, &TYPES, Some(vocab.len()))?.write(out);
        Ok(())
    }
}

/// Whether a `tokenizer.json` holds a SentencePiece BPE that falls back to bytes: Llama's, Mistral's.
fn byte_fallback(json: &Value) -> bool {
    let model = &json["model"];
    model["type"] == "BPE" && model["byte_fallback"] == true && json["decoder"]["type"] == "Sequence"
}
