//! The ways of reading a vocabulary, one after the other: what each takes from which file, in the reference
//! converter's order of keys.

use std::path::Path;

use ahash::AHashMap;
use serde_json::Value;

use gguf::{Array, Error, Metadata, Result};

use super::sentencepiece::{Model, ModelType, Role};
use super::source::Source;
use super::source::older::{BERT_ROLES, ROBERTA_ROLES};
use super::special::{Special, TYPES};
use super::tekken::Tekken;
use super::tiktoken::Ranks;
use super::vocab::{self, TokenType, Vocab};
use super::{Request, VocabKind, base64, folder, plamo, pre, runtime, rwkv, templates};

/// The score of a token of a `tokenizer.json` that says none.
const NO_SCORE: f32 = -1000.0;

/// What the keys are made of.
pub(super) struct Setting<'a> {
    pub dir: &'a Path,
    pub config: &'a Value,
    pub request: &'a Request,
}

/// Where the scores of a SentencePiece BPE in `tokenizer.json` come from.
#[derive(Clone, Copy, PartialEq)]
enum Scores {
    /// All are the same, as the reference converter has them.
    Same,
    /// The ranks of the merges: llama.cpp joins what scores best, so it joins what the file joins.
    Ranks,
}

impl Setting<'_> {
    /// The keys of a kind of vocabulary.
    pub fn write(&self, kind: VocabKind) -> Result<Metadata> {
        let mut out = Metadata::new();
        self.write_kind(kind, &mut out)?;
        Ok(out)
    }

    fn write_kind(&self, kind: VocabKind, out: &mut Metadata) -> Result<()> {
        const END: &str = "<|endoftext|>";
        match kind {
            VocabKind::Arctic => self.arctic(out),
            VocabKind::Bert => self.bert(out),
            VocabKind::ChatGlm => self.gpt2_with_roles(&[("eos", END), ("eot", "<|user|>"), ("unk", END)], out),
            VocabKind::Deci => match self.size()?.unwrap_or(128_256) {
                128_256 => self.gpt2(None, out),
                _ => self.llama_hf_alone(Scores::Same, out),
            },
            VocabKind::DeepSeek2 if self.has_ranks() => self.ranks(None, out),
            VocabKind::DeepSeek2 => self.gpt2(None, out),
            VocabKind::DeepSeek32 => {
                let config = self.tokenizer_config()?;
                if config["add_bos_token"] != true {
                    return Err(Error::input("add_bos_token is not true")
                        .at(self.dir.join("tokenizer_config.json"))
                        .help("DeepSeek V3.2 wants a beginning token in front of texts: set it to true"));
                }
                self.gpt2(None, out)
            }
            VocabKind::Dots3 => self.gpt2_with_roles(&[("eot", "<|endofassistant|>")], out),
            VocabKind::Dream if self.has("tokenizer.model") => self.sentencepiece(out),
            VocabKind::Dream => self.gpt2_as_it_stands(out),
            VocabKind::Ernie => {
                self.sentencepiece(out)?;
                self.space_prefix(out)
            }
            VocabKind::EuroBert => {
                out.set("tokenizer.ggml.add_bos_token", false);
                self.gpt2(None, out)
            }
            VocabKind::Gemma => {
                self.sentencepiece(out)?;
                let mut special = Special::load(self.dir, false, &["prefix", "suffix", "middle", "fsep", "eot"], None)?;
                special.set("eot", &Value::from(107))?;
                special.template = None;
                special.write(out);
                out.set("tokenizer.ggml.add_space_prefix", false);
                Ok(())
            }
            VocabKind::Gemma2 => self.sentencepiece_without_prefix(&["vocab_size_per_layer_input", "vocab_size"], out),
            VocabKind::Gemma3 if self.has("tokenizer.model") => {
                self.sentencepiece_without_prefix(&["vocab_size_per_layer_input", "vocab_size"], out)
            }
            VocabKind::Gemma3n if self.has("tokenizer.model") => {
                self.sentencepiece_without_prefix(&["vocab_size"], out)
            }
            VocabKind::Gemma3 | VocabKind::Gemma3n => self.gpt2(None, out),
            VocabKind::Gemma4 => self.gemma4(out),
            VocabKind::Glm4 => {
                self.gpt2_with_roles(&[("eos", END), ("eot", "<|user|>"), ("unk", END), ("bos", END)], out)
            }
            VocabKind::GlmMoe => self.gpt2_with_roles(
                &[("bos", "[gMASK]"), ("eot", "<|user|>"), ("unk", END), ("eom", "<|observation|>")],
                out,
            ),
            VocabKind::Gpt2 => self.gpt2(None, out),
            VocabKind::GraniteHybrid => self.mamba2(Some(if self.has_states() { 8 } else { 1 }), out),
            VocabKind::Grok if self.has("tokenizer.model") => self.sentencepiece(out),
            VocabKind::Grok => {
                for file in ["tokenizer.json", "chat_template.jinja"] {
                    if !self.has(file) {
                        return Err(self.missing(file));
                    }
                }
                self.gpt2(None, out)
            }
            VocabKind::HunYuan => self.hunyuan(out),
            VocabKind::HunYuanMoe => {
                self.ranks(None, out)?;
                out.set("tokenizer.ggml.bos_token_id", 127_959_u32);
                self.within(out)
            }
            VocabKind::InternLm2 => self.internlm2(out),
            VocabKind::InternLm3 => self.internlm3(out),
            VocabKind::InternS1 => self.gpt2_then(None, out, |_, special| special.set("bos", &Value::from(151_643))),
            VocabKind::Jamba if self.has("tokenizer.model") => self.sentencepiece(out),
            VocabKind::Jamba => {
                self.llama_hf_alone(Scores::Ranks, out)?;
                out.set("tokenizer.ggml.add_space_prefix", false);
                Ok(())
            }
            VocabKind::JinaBert2 => self.jina_bert2(out),
            VocabKind::KimiK3 => {
                self.kimi_linear(out)?;
                if let Some(eos) = vocab::hparam(self.config, "eos_token_id") {
                    self.set_id("eos", eos, out)?;
                }
                if out.get("tokenizer.chat_template").is_none() {
                    out.set("tokenizer.chat_template", templates::KIMI_K3);
                }
                Ok(())
            }
            VocabKind::KimiLinear => self.kimi_linear(out),
            VocabKind::Laguna => self.laguna(out),
            VocabKind::Llada => {
                self.gpt2_as_it_stands(out)?;
                out.set("tokenizer.ggml.add_bos_token", true);
                Ok(())
            }
            VocabKind::Llama => self.llama(out),
            VocabKind::Mamba => self.mamba(out),
            VocabKind::Mamba2 => self.mamba2(None, out),
            VocabKind::MiniMaxText01 => {
                self.gpt2(None, out)?;
                let own = folder::text(&self.dir.join("chat_template.jinja"))?;
                out.set("tokenizer.chat_template", own.as_deref().unwrap_or(templates::MINIMAX_M1));
                Ok(())
            }
            VocabKind::Mistral => self.mistral(out),
            VocabKind::ModernBert => {
                for key in ["bos", "eos", "sep"] {
                    out.set(format!("tokenizer.ggml.add_{key}_token"), true);
                }
                self.gpt2(None, out)
            }
            VocabKind::Mpt => self.mpt(out),
            VocabKind::MuseGlimmer => {
                let source = self.gpt2_source(None, out)?;
                if let Some(id) = source.tokenizer.token_to_id("<|eot|>") {
                    out.set("tokenizer.ggml.eot_token_id", id);
                }
                Ok(())
            }
            VocabKind::Nemotron => {
                self.sentencepiece(out)?;
                out.set("tokenizer.ggml.padding_token_id", 0_u32);
                out.set("tokenizer.ggml.unknown_token_id", 1_u32);
                Ok(())
            }
            VocabKind::NemotronH => self.gpt2(self.size()?.map(|size| size.next_multiple_of(8)), out),
            VocabKind::NomicBert => {
                let kind = folder::json(self.dir, "tokenizer.json")?.unwrap_or(Value::Null)["model"]["type"].clone();
                match kind.as_str() {
                    Some("Unigram") => self.xlm_roberta(out),
                    Some("WordPiece") => self.bert(out),
                    _ => Err(Error::input(format!("model.type is {kind}, neither Unigram nor WordPiece"))
                        .at(self.dir.join("tokenizer.json"))),
                }
            }
            VocabKind::None => {
                out.set("tokenizer.ggml.model", "none");
                Ok(())
            }
            VocabKind::Phi3 => self.phi3(out),
            VocabKind::Plamo2 => plamo::write(self.dir, self.config, out),
            VocabKind::Plamo3 => {
                plamo::write(self.dir, self.config, out)?;
                let file = folder::text(&self.dir.join("chat_template.jinja"))?;
                let template = file.or(self.tokenizer_config()?["chat_template"].as_str().map(str::to_owned));
                if let Some(template) = template.filter(|t| !t.is_empty()) {
                    out.set("tokenizer.chat_template", template);
                }
                Ok(())
            }
            VocabKind::PocketTts => self.pocket_tts(out),
            VocabKind::Qwen => self.ranks(Some("<|endoftext|>"), out),
            VocabKind::Qwen3Omni => {
                self.sentencepiece_or_gpt2(out)?;
                self.turns(out)
            }
            VocabKind::Qwen3Asr => {
                self.sentencepiece_or_gpt2(out)?;
                out.set("tokenizer.chat_template", templates::QWEN3_ASR);
                self.turns(out)
            }
            VocabKind::Qwen3Tts => self.qwen3_tts(out),
            VocabKind::Refact => {
                self.gpt2(None, out)?;
                let mut special = Special::load(self.dir, false, &["prefix", "suffix", "middle", "eot"], None)?;
                special.template = None;
                special.write(out);
                Ok(())
            }
            VocabKind::Roberta if self.has("tokenizer.json") => {
                self.gpt2(None, out)?;
                self.token_type_count(out)
            }
            VocabKind::Roberta => self.bert(out),
            VocabKind::Rwkv => rwkv::write(self.dir, self.config, out),
            VocabKind::SentencePiece => self.sentencepiece(out),
            VocabKind::SentencePieceOrGpt2 => self.sentencepiece_or_gpt2(out),
            VocabKind::SolarOpen => {
                self.gpt2_with_roles(&[("eos", END), ("eot", END), ("unk", "<unk>"), ("bos", "<|startoftext|>")], out)
            }
            VocabKind::StableLm if self.has_ranks() => self.ranks(Some("<|endoftext|>"), out),
            VocabKind::StableLm => self.gpt2(None, out),
            VocabKind::T5 => self.t5(out),
            VocabKind::Target => Err(Error::input("a draft has no vocabulary of its own").at(self.dir)),
            VocabKind::XlmRoberta => self.xlm_roberta(out),
            VocabKind::Xverse => self.xverse(out),
        }
    }

    fn missing(&self, what: &str) -> Error {
        Error::input(format!("the folder holds no {what}"))
            .at(self.dir)
            .help("copy the tokenizer's files of the original model into the folder")
    }

    fn has(&self, name: &str) -> bool {
        self.dir.join(name).is_file()
    }

    fn tokenizer_config(&self) -> Result<Value> {
        Ok(folder::json(self.dir, "tokenizer_config.json")?.unwrap_or(Value::Null))
    }

    /// The vocabulary size that the configuration gives.
    fn size(&self) -> Result<Option<usize>> {
        vocab::vocab_size(self.config, &["vocab_size"]).map_err(|e| e.at(self.dir.join("config.json")))
    }

    fn source(&self) -> Result<Source> {
        Source::open(self.dir)?.ok_or_else(|| self.missing("tokenizer.json"))
    }

    fn model(&self, names: &[&str]) -> Result<Model> {
        Model::open(self.dir, names)?.ok_or_else(|| self.missing(&names.join(", nor ")))
    }

    /// The role's key, checked against the vocabulary that is written already.
    fn set_id(&self, role: &str, id: &Value, out: &mut Metadata) -> Result<()> {
        let mut special = Special::default();
        special.set(role, id)?;
        special.write(out);
        self.within(out)
    }

    /// Refuses ids with a role that the vocabulary does not have.
    fn within(&self, out: &Metadata) -> Result<()> {
        let size = out.array("tokenizer.ggml.tokens").map_or(0, Array::len);
        super::special::check_ids(out, size).map_err(|e| e.at(self.dir.join("config.json")))
    }

    /// SentencePiece, with what the tokenizer's configuration adds.
    fn sentencepiece(&self, out: &mut Metadata) -> Result<()> {
        self.sentencepiece_of(&["vocab_size_per_layer_input", "vocab_size"], out)
    }

    fn sentencepiece_of(&self, sizes: &[&str], out: &mut Metadata) -> Result<()> {
        let vocab = self.sentencepiece_vocab(sizes)?;
        self.write_spm(&vocab, out)
    }

    fn sentencepiece_vocab(&self, sizes: &[&str]) -> Result<Vocab> {
        let model = self.model(&["tokenizer.model"])?;
        let size = vocab::vocab_size(self.config, sizes).map_err(|e| e.at(self.dir.join("config.json")))?;
        let mut vocab = Vocab::from_pieces(&model, size.unwrap_or(model.pieces.len()));
        vocab.apply_added_tokens(self.dir)?;
        vocab.apply_added_decoder(self.dir, true)?;
        Ok(vocab)
    }

    fn sentencepiece_without_prefix(&self, sizes: &[&str], out: &mut Metadata) -> Result<()> {
        self.sentencepiece_of(sizes, out)?;
        out.set("tokenizer.ggml.add_space_prefix", false);
        Ok(())
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
        self.gpt2_source(size, out).map(|_| ())
    }

    fn gpt2_source(&self, size: Option<usize>, out: &mut Metadata) -> Result<Source> {
        let source = self.source()?;
        self.write_gpt2(&source, &self.base(&source, size)?, |_| Ok(()), out)?;
        Ok(source)
    }

    /// The same with special tokens set before they are written.
    fn gpt2_then(
        &self,
        size: Option<usize>,
        out: &mut Metadata,
        then: impl FnOnce(&Source, &mut Special) -> Result<()>,
    ) -> Result<()> {
        let source = self.source()?;
        self.write_gpt2(&source, &self.base(&source, size)?, |special| then(&source, special), out)
    }

    /// Byte-level BPE whose roles are those of named added tokens, as far as the files give none.
    fn gpt2_with_roles(&self, roles: &[(&str, &str)], out: &mut Metadata) -> Result<()> {
        self.gpt2_then(None, out, |source, special| {
            for (role, text) in roles {
                let id = source.added_id(text).ok_or_else(|| {
                    Error::input(format!("the tokenizer has no added token {text}, which the model's format needs"))
                        .at(self.dir.join(source.file))
                })?;
                special.set(role, &Value::from(id))?;
            }
            Ok(())
        })
    }

    /// Byte-level BPE whose added tokens are written and typed as the file says, whatever they look like.
    fn gpt2_as_it_stands(&self, out: &mut Metadata) -> Result<()> {
        let source = self.source()?;
        let added = source.tokenizer.get_added_tokens_decoder();
        let vocab = self.by_id(&source, None, |id, text| {
            Ok(match added.get(&id) {
                None => (text.to_owned(), TokenType::Normal),
                Some(token) if token.special => (text.to_owned(), TokenType::Control),
                Some(_) => (text.to_owned(), TokenType::UserDefined),
            })
        })?;
        self.write_gpt2(&source, &vocab, |_| Ok(()), out)
    }

    fn write_gpt2(
        &self,
        source: &Source,
        vocab: &Vocab,
        then: impl FnOnce(&mut Special) -> Result<()>,
        out: &mut Metadata,
    ) -> Result<()> {
        let found = self.pre(source)?;
        out.set("tokenizer.ggml.model", "gpt2");
        out.set("tokenizer.ggml.pre", found.name);
        vocab.write(false, out);
        let mut special = Special::load(self.dir, true, &TYPES, None)?;
        if special.merges.is_empty() {
            special.set_merges(&source.json)?;
        }
        then(&mut special)?;
        if let Some(add) = found.add_bos {
            special.add.entry("bos").or_insert(add);
        }
        special.write(out);
        self.within(out)
    }

    fn pre(&self, source: &Source) -> Result<pre::Found> {
        let asked = self.request.pre.as_deref();
        match pre::find(source, asked) {
            Err(_) if self.request.any => pre::find(source, Some("default")),
            found => found,
        }
        .map_err(|e| e.at(self.dir.join(source.file)))
    }

    /// The tokens of a source tokenizer with their types.
    fn base(&self, source: &Source, size: Option<usize>) -> Result<Vocab> {
        let added = source.tokenizer.get_added_tokens_decoder();
        self.by_id(source, size, |id, text| {
            let Some(token) = added.get(&id) else { return Ok((text.to_owned(), TokenType::Normal)) };
            // Added tokens are matched in the plain text, so they are written as plain text.
            let text = if token.normalized { text.to_owned() } else { source.round_trip(text)? };
            Ok(if token.special || vocab::looks_special(&text) {
                (text, TokenType::Control)
            } else {
                (text.replace('\u{2581}', " "), TokenType::UserDefined)
            })
        })
    }

    /// The tokens of a source tokenizer in a vocabulary of `size` ids, as `token` writes and types them; ids that
    /// nothing defines are unused.
    fn by_id(
        &self,
        source: &Source,
        size: Option<usize>,
        token: impl Fn(u32, &str) -> Result<(String, TokenType)>,
    ) -> Result<Vocab> {
        let by_id = source.by_id();
        let size = match size {
            Some(size) => size,
            None => self.size()?.unwrap_or(by_id.len()),
        };
        if let Some((id, text)) = by_id.iter().max_by_key(|(id, _)| **id).filter(|(id, _)| **id as usize >= size) {
            return Err(Error::input(format!(
                "the token '{text}' has the id {id}, beyond the vocabulary of {size} that config.json states"
            ))
            .at(self.dir.join(source.file))
            .help("the tokenizer belongs to another model, or the embeddings were not grown with it"));
        }
        let mut vocab = Vocab::default();
        for id in 0..size as u32 {
            match by_id.get(&id) {
                None => vocab.push(format!("[PAD{id}]"), 0.0, TokenType::Unused),
                Some(text) => {
                    let (text, kind) = token(id, text)?;
                    vocab.push(text, 0.0, kind);
                }
            }
        }
        Ok(vocab)
    }

    fn space_prefix(&self, out: &mut Metadata) -> Result<()> {
        if let Some(prefix) = self.tokenizer_config()?["add_prefix_space"].as_bool() {
            out.set("tokenizer.ggml.add_space_prefix", prefix);
        }
        Ok(())
    }

    fn llama(&self, out: &mut Metadata) -> Result<()> {
        if self.has("tekken.json") && !self.has("tokenizer.json") {
            return self.mistral(out);
        }
        self.space_prefix(out)?;
        if self.tokenizer_config()?["tokenizer_class"] == "HybridDNATokenizer" {
            return Err(Error::input("tokens for six bases of DNA are known to the model's Python code alone")
                .at(self.dir.join("tokenizer_config.json")));
        }
        if self.has("tokenizer.model") {
            self.sentencepiece(out)?;
        } else {
            let source = self.source()?;
            if byte_fallback(&source.json) {
                self.write_llama_hf(&source, Scores::Ranks, out)?;
            } else {
                self.write_gpt2(&source, &self.base(&source, None)?, |_| Ok(()), out)?;
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

    fn llama_hf_alone(&self, scores: Scores, out: &mut Metadata) -> Result<()> {
        let source = self.source()?;
        if !byte_fallback(&source.json) {
            return Err(
                Error::input("this holds no SentencePiece BPE with byte fallback").at(self.dir.join(source.file))
            );
        }
        self.write_llama_hf(&source, scores, out)
    }

    fn write_llama_hf(&self, source: &Source, scores: Scores, out: &mut Metadata) -> Result<()> {
        let vocab = self.llama_hf(source, scores)?;
        self.write_spm(&vocab, out)?;
        // llama.cpp puts a space in front of texts unless it is told not to.
        let key = "tokenizer.ggml.add_space_prefix";
        if scores == Scores::Ranks && out.get(key).is_none() && !puts_space(&source.json) {
            out.set(key, false);
        }
        Ok(())
    }

    /// The vocabulary of a `tokenizer.json` that holds a SentencePiece BPE.
    fn llama_hf(&self, source: &Source, scores: Scores) -> Result<Vocab> {
        let config = self.tokenizer_config()?;
        let mut special: Vec<&str> = source.named.iter().map(String::as_str).collect();
        if config["tokenizer_class"].as_str().is_none_or(|class| class.starts_with("LlamaTokenizer")) {
            special.extend(["<unk>", "<s>", "</s>"]);
        }
        let by_id = source.by_id();
        let base = source.tokenizer.get_vocab_size(false) as u32;
        let (ranks, worst) = if scores == Scores::Ranks { merge_ranks(&source.json) } else { Default::default() };
        let score = |text: &str| match (scores, ranks.get(text)) {
            (Scores::Same, _) => NO_SCORE,
            (Scores::Ranks, Some(rank)) => -(*rank as f32),
            (Scores::Ranks, None) => -(worst as f32),
        };
        let kind = |text: &str| {
            if special.contains(&text) { TokenType::Control } else { TokenType::Normal }
        };
        let mut vocab = Vocab::default();
        for id in 0..base {
            let text = by_id
                .get(&id)
                .ok_or_else(|| Error::input(format!("no token has the id {id}")).at(self.dir.join(source.file)))?;
            let ty = if is_byte(text) { TokenType::Byte } else { kind(text) };
            vocab.push(text.as_str(), score(text), ty);
        }
        let mut added: Vec<_> =
            source.tokenizer.get_added_tokens_decoder().into_iter().filter(|(id, _)| *id >= base).collect();
        added.sort_by_key(|(id, _)| *id);
        for (_, token) in added {
            let text = token.content.as_str();
            let ty = if special.contains(&text) { TokenType::Control } else { TokenType::UserDefined };
            vocab.push(text, NO_SCORE, ty);
        }
        Ok(vocab)
    }

    fn gemma4(&self, out: &mut Metadata) -> Result<()> {
        /// Tokens that are shown though they are special.
        const SHOWN: [&str; 7] = [
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
            return Err(
                Error::input("this holds no SentencePiece BPE with byte fallback").at(self.dir.join(source.file))
            );
        }
        let mut vocab = self.llama_hf(&source, Scores::Same)?;
        for (text, kind) in vocab.texts.iter().zip(&mut vocab.types) {
            if SHOWN.iter().any(|shown| shown.as_bytes() == text) {
                *kind = TokenType::UserDefined;
            }
        }
        out.set("tokenizer.ggml.model", "gemma4");
        vocab.write(true, out);
        Special::load(self.dir, true, &TYPES, None)?.write(out);
        out.set("tokenizer.ggml.add_space_prefix", false);
        out.set("tokenizer.ggml.add_bos_token", true);
        self.within(out)
    }

    fn arctic(&self, out: &mut Metadata) -> Result<()> {
        let model = self.model(&["tokenizer.model"])?;
        let mut vocab = Vocab::from_pieces(&model, self.size()?.unwrap_or(model.pieces.len()));
        let config = self.tokenizer_config()?;
        vocab.apply_decoder(&config, |token, text| match folder::truthy(&token["special"]) {
            true if config["unk_token"] == *text => (text.to_owned(), 0.0, TokenType::Unknown),
            true => (text.to_owned(), 0.0, TokenType::Control),
            false => (text.to_owned(), vocab::UNUSED_SCORE, TokenType::UserDefined),
        })?;
        self.write_spm(&vocab, out)
    }

    fn phi3(&self, out: &mut Metadata) -> Result<()> {
        if self.tokenizer_config()?["tokenizer_class"] == "GPT2Tokenizer" {
            return self.gpt2(None, out);
        }
        let model = self.model(&["tokenizer.model"])?;
        let mut vocab = Vocab::from_pieces(&model, self.size()?.unwrap_or(model.pieces.len()));
        vocab.apply_added_tokens(self.dir)?;
        vocab.apply_added_decoder(self.dir, false)?;
        vocab.apply_tokenizer_json(self.dir)?;
        self.write_spm(&vocab, out)
    }

    fn internlm2(&self, out: &mut Metadata) -> Result<()> {
        const TURN: &str = "<|im_end|>";
        let model = self.model(&["tokenizer.model"])?;
        let mut vocab = Vocab::from_pieces(&model, self.size()?.unwrap_or(model.pieces.len()));
        for (text, kind) in vocab.texts.iter_mut().zip(&mut vocab.types) {
            if text == b"\0" {
                // A zero byte would end the text for readers in C.
                *text = "🐉".as_bytes().to_vec();
            }
            if text.starts_with(b"[UNUSED") {
                *kind = TokenType::Unused;
            }
        }
        if let Some(added) = folder::json(self.dir, "added_tokens.json")? {
            for (text, _) in added.as_object().into_iter().flatten() {
                vocab.push(text.as_str(), NO_SCORE, TokenType::UserDefined);
            }
        }
        vocab.apply_added_decoder(self.dir, false)?;
        vocab.apply_tokenizer_json(self.dir)?;
        out.set("tokenizer.ggml.model", "llama");
        out.set("tokenizer.ggml.pre", "default");
        vocab.write(true, out);
        out.set("tokenizer.ggml.add_space_prefix", model.add_dummy_prefix);
        let mut special = Special::load(self.dir, false, &TYPES, Some(vocab.len()))?;
        let added = [self.tokenizer_config()?, folder::json(self.dir, "tokenizer.json")?.unwrap_or(Value::Null)];
        let stated = added[0]["added_tokens_decoder"].as_object().into_iter().flatten();
        let stated = stated.map(|(id, token)| (id.parse::<u32>().ok(), token));
        let listed = added[1]["added_tokens"].as_array().into_iter().flatten();
        let listed = listed.map(|token| (token["id"].as_u64().and_then(|id| u32::try_from(id).ok()), token));
        if let Some((Some(id), _)) = stated.chain(listed).rfind(|(_, token)| token["content"] == TURN) {
            special.ids.insert("eos".to_owned(), id);
        }
        special.write(out);
        self.within(out)
    }

    fn internlm3(&self, out: &mut Metadata) -> Result<()> {
        let vocab = self.sentencepiece_vocab(&["vocab_size_per_layer_input", "vocab_size"])?;
        out.set("tokenizer.ggml.model", "llama");
        out.set("tokenizer.ggml.pre", "default");
        vocab.write(true, out);
        let mut special = Special::load(self.dir, false, &TYPES, Some(vocab.len()))?;
        self.space_prefix(out)?;
        let config = self.tokenizer_config()?;
        for (id, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
            let Ok(id) = id.parse::<u32>() else { continue };
            if token["content"] == "<|im_end|>" && folder::truthy(&token["special"]) && special.ids.contains_key("eos")
            {
                special.ids.insert("eos".to_owned(), id);
            }
        }
        special.write(out);
        self.within(out)
    }

    /// Beginning and end are the end of a turn, where the configuration lists it.
    fn turns(&self, out: &mut Metadata) -> Result<()> {
        let config = self.tokenizer_config()?;
        let mut added = config["added_tokens_decoder"].as_object().into_iter().flatten();
        if let Some((id, _)) = added.find(|(_, token)| token["content"] == "<|im_end|>")
            && let Ok(id) = id.parse::<u32>()
        {
            out.set("tokenizer.ggml.bos_token_id", id);
            out.set("tokenizer.ggml.eos_token_id", id);
        }
        self.within(out)
    }

    fn mamba(&self, out: &mut Metadata) -> Result<()> {
        let size = self.padded_size(8)?;
        if self.has("tokenizer.json") {
            return self.gpt2(size, out);
        }
        if self.has("tokenizer.model") {
            return self.padded_sentencepiece(size, out);
        }
        Err(self.neox("Mamba"))
    }

    /// `multiple` where the class says it, else what the configuration says.
    fn mamba2(&self, multiple: Option<usize>, out: &mut Metadata) -> Result<()> {
        let size = match multiple {
            Some(multiple) => self.size()?.map(|size| size.next_multiple_of(multiple)),
            None => self.padded_size(16)?,
        };
        if self.has("tokenizer.model") {
            return self.padded_sentencepiece(size, out);
        }
        if self.has("tokenizer.model.v3") {
            return Err(Error::input("the SentencePiece model is named tokenizer.model.v3")
                .at(self.dir)
                .help("rename it to tokenizer.model"));
        }
        if self.has("tokenizer.json") {
            return self.gpt2(size, out);
        }
        Err(self.neox("Mamba 2"))
    }

    fn neox(&self, model: &str) -> Error {
        self.missing("tokenizer.json")
            .help(format!("{model} uses the tokenizer of GPT-NeoX-20B: copy its tokenizer.json here"))
    }

    fn padded_size(&self, default: usize) -> Result<Option<usize>> {
        let multiple = vocab::vocab_size(self.config, &["pad_vocab_size_multiple"])?.unwrap_or(default);
        Ok(self.size()?.map(|size| size.next_multiple_of(multiple)))
    }

    fn padded_sentencepiece(&self, size: Option<usize>, out: &mut Metadata) -> Result<()> {
        let model = self.model(&["tokenizer.model"])?;
        let mut vocab = Vocab::from_pieces(&model, size.unwrap_or(model.pieces.len()));
        vocab.apply_added_tokens(self.dir)?;
        vocab.apply_added_decoder(self.dir, true)?;
        self.write_spm(&vocab, out)
    }

    /// Whether a layer of a Granite 4 model has a state instead of attention.
    fn has_states(&self) -> bool {
        match vocab::hparam(self.config, "layer_types").and_then(Value::as_array).filter(|types| !types.is_empty()) {
            Some(types) => types.iter().any(|kind| kind != "attention"),
            None => {
                let layers = vocab::hparam(self.config, "num_hidden_layers").and_then(Value::as_u64).unwrap_or(0);
                let listed =
                    vocab::hparam(self.config, "attn_layer_indices").and_then(Value::as_array).map_or(0, Vec::len);
                let period = vocab::hparam(self.config, "attn_layer_period").and_then(Value::as_u64);
                if listed > 0 { (listed as u64) < layers } else { period != Some(1) }
            }
        }
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
        // The class makes the tokens that it gives a role special, whatever tokenizer.json says of them.
        let config = self.tokenizer_config()?;
        let special = if has_own_class(&config) { special_texts(&source, &config, BERT_ROLES) } else { Vec::new() };
        // A token that begins a word is written with a space in front of it, one that goes on without its mark.
        for (text, kind) in vocab.texts.iter_mut().zip(&mut vocab.types) {
            if *kind == TokenType::UserDefined && special.iter().any(|own| own.as_bytes() == text.as_slice()) {
                *kind = TokenType::Control;
            }
            if *kind == TokenType::Control {
                continue;
            }
            *text = match text.strip_prefix(b"##") {
                Some(rest) => rest.to_vec(),
                None => [runtime::ESCAPED_SPACE.as_bytes(), text].concat(),
            };
        }
        out.set("tokenizer.ggml.model", "bert");
        out.set("tokenizer.ggml.pre", pre.name);
        vocab.write(false, out);
        Special::load(self.dir, false, &TYPES, Some(vocab.len()))?.write(out);
        Ok(())
    }

    fn jina_bert2(&self, out: &mut Metadata) -> Result<()> {
        let class = self.tokenizer_config()?["tokenizer_class"].clone();
        match class.as_str() {
            Some("BertTokenizer") => return self.bert(out),
            Some("RobertaTokenizer") => {}
            _ => {
                return Err(Error::input(format!(
                    "tokenizer_class is {class}, neither BertTokenizer nor RobertaTokenizer"
                ))
                .at(self.dir.join("tokenizer_config.json")));
            }
        }
        let source = self.source()?;
        let vocab = self.base(&source, None)?;
        if source.json["pre_tokenizer"]["type"] == "Whitespace" {
            // The hash of such a vocabulary is that of another one.
            out.set("tokenizer.ggml.model", "whitespace");
            out.set("tokenizer.ggml.pre", "whitespace");
            vocab.write(false, out);
            Special::load(self.dir, true, &TYPES, None)?.write(out);
            self.within(out)?;
        } else {
            self.write_gpt2(&source, &vocab, |_| Ok(()), out)?;
        }
        out.set("tokenizer.ggml.token_type_count", 2_u32);
        Ok(())
    }

    fn t5(&self, out: &mut Metadata) -> Result<()> {
        let Some(model) = Model::open(self.dir, &["tokenizer.model", "spiece.model"])? else {
            // The reference converter reads the model file alone; newer folders have what it holds in tokenizer.json.
            return match folder::json(self.dir, "tokenizer.json")? {
                Some(json) => self.unigram_json(&json, false, out),
                None => Err(self.missing("tokenizer.model, nor spiece.model, nor tokenizer.json")),
            };
        };
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
        self.write_unigram(&vocab, &Spaces::of(&model), false, out)
    }

    /// The pieces of a unigram model, in whose last places stand vectors that were learned.
    fn pocket_tts(&self, out: &mut Metadata) -> Result<()> {
        let model = self.model(&["tokenizer.model"])?;
        if model.model_type != ModelType::Unigram {
            return Err(Error::input("Pocket TTS's tokenizer is a unigram model, this one is none").at(&model.path));
        }
        let mut vocab = Vocab::from_pieces(&model, self.size()?.unwrap_or(model.pieces.len()));
        vocab.apply_added_tokens(self.dir)?;
        vocab.apply_added_decoder(self.dir, true)?;
        let voice = vocab::hparam(self.config, "bos_before_voice").is_some_and(folder::truthy);
        let further = ["<|pad|>"].into_iter().chain(voice.then_some("<|bos_before_voice|>")).chain(["<|audio_bos|>"]);
        let count = 2 + usize::from(voice);
        let first = vocab.len().checked_sub(count).ok_or_else(|| {
            Error::input(format!("a vocabulary of {} has no place for {count} learned vectors", vocab.len()))
                .at(self.dir)
        })?;
        for (id, text) in (first..).zip(further) {
            vocab.set(id, text, -1000.0, TokenType::Control);
        }
        self.unigram(&vocab, &Spaces::of(&model), false, out)?;
        out.set("tokenizer.ggml.add_bos_token", false);
        out.set("tokenizer.ggml.add_eos_token", false);
        Ok(())
    }

    /// Words, and behind them codes of speech: those with a role are named after the field that says it.
    fn qwen3_tts(&self, out: &mut Metadata) -> Result<()> {
        let talker = &self.config["talker_config"];
        let place = || self.dir.join("config.json");
        let count = vocab::vocab_size(talker, &["vocab_size"]).map_err(|e| e.at(place()))?.unwrap_or(0);
        let mut names: Vec<String> = (0..count).map(|code| format!("<|codec_{code}|>")).collect();
        let mut name =
            |id: &Value, role: &str| match id.as_u64().and_then(|id| names.get_mut(usize::try_from(id).ok()?)) {
                Some(name) => {
                    *name = format!("<|{role}|>");
                    Ok(())
                }
                None => Err(Error::input(format!("{role} is the code {id}, of {count}")).at(place())),
            };
        let roles = talker.as_object().into_iter().flatten();
        for (role, id) in roles.filter_map(|(key, id)| Some((key.strip_suffix("_id")?, id))) {
            match id {
                Value::Number(_) => name(id, role)?,
                Value::Object(ids) => {
                    ids.iter().try_for_each(|(kind, id)| name(id, &format!("{role}_{kind}")))?;
                }
                _ => {}
            }
        }
        let append = |mut vocab: Vocab| {
            names.iter().for_each(|name| vocab.push(name.as_str(), 0.0, TokenType::Control));
            vocab
        };
        if self.has("tokenizer.model") {
            return self.write_spm(&append(self.sentencepiece_vocab(&["vocab_size"])?), out);
        }
        let source = self.source()?;
        let without_template = |special: &mut Special| {
            special.template = None;
            Ok(())
        };
        self.write_gpt2(&source, &append(self.base(&source, None)?), without_template, out)
    }

    fn xlm_roberta(&self, out: &mut Metadata) -> Result<()> {
        let Some(model) = Model::open(self.dir, &["sentencepiece.bpe.model"])? else {
            let json = folder::json(self.dir, "tokenizer.json")?
                .ok_or_else(|| self.missing("sentencepiece.bpe.model, nor tokenizer.json"))?;
            return self.unigram_json(&json, true, out);
        };
        if model.model_type != ModelType::Unigram {
            return Err(Error::input(format!(
                "XLM-RoBERTa's tokenizer is a unigram model, this one is of type {:?}",
                model.model_type
            ))
            .at(&model.path));
        }
        let size = self.size()?.unwrap_or(0).max(model.pieces.len());
        let pieces = Vocab::from_pieces(&model, size);
        // fairseq has special tokens of its own in front, and the model's first three are among them.
        let mut vocab = Vocab::default();
        for text in ["<s>", "<pad>", "</s>"] {
            vocab.push(text, 0.0, TokenType::Control);
        }
        vocab.push("<unk>", 0.0, TokenType::Unknown);
        let rest = pieces.texts.iter().zip(&pieces.scores).zip(&pieces.types).skip(3);
        for ((text, score), kind) in rest.take(size.saturating_sub(4)) {
            vocab.push(text.clone(), *score, *kind);
        }
        // Nomic's model with experts has its mask where the vocabulary is padded.
        const MASK: usize = 250_001;
        if vocab::hparam(self.config, "moe_every_n_layers").is_some_and(folder::truthy) && vocab.len() > MASK {
            vocab.set(MASK, "<mask>", 0.0, TokenType::Control);
        }
        self.write_unigram(&vocab, &Spaces::of(&model), true, out)
    }

    /// A unigram model in a `tokenizer.json`.
    fn unigram_json(&self, json: &Value, types: bool, out: &mut Metadata) -> Result<()> {
        let at = |e: Error| e.at(self.dir.join("tokenizer.json"));
        let config = self.tokenizer_config()?;
        let source = self.source()?;
        let entries = json["model"]["vocab"].as_array().filter(|_| json["model"]["type"] == "Unigram");
        let entries = entries.ok_or_else(|| at(Error::input("this holds no unigram model")))?;
        let size = self.size()?.unwrap_or(0).max(entries.len());
        let added = source.tokenizer.get_added_tokens_decoder();
        let special = special_texts(&source, &config, if types { ROBERTA_ROLES } else { &[] });
        let unknown = config["unk_token"].as_str().and_then(|text| source.added_id(text));
        let unknown = unknown.map(u64::from).or(json["model"]["unk_id"].as_u64()).unwrap_or(3);
        let mut vocab = Vocab::unused(size);
        for (id, entry) in entries.iter().enumerate() {
            let (text, score) = (entry[0].as_str(), entry[1].as_f64());
            let (Some(text), Some(score)) = (text, score) else {
                return Err(at(Error::input(format!("entry {id} of the vocabulary is no text with a score"))));
            };
            let kind = match added.get(&(id as u32)) {
                _ if id as u64 == unknown => TokenType::Unknown,
                Some(token) if special.contains(&token.content.as_str()) => TokenType::Control,
                Some(_) => TokenType::UserDefined,
                None => TokenType::Normal,
            };
            vocab.set(id, text, score as f32, kind);
        }
        let charsmap = charsmap(&json["normalizer"]).map_err(at)?;
        let prefix = config["add_prefix_space"].as_bool();
        let prefix = prefix.unwrap_or_else(|| if types { has_own_class(&config) } else { puts_space(json) });
        let clean = config["clean_up_tokenization_spaces"].as_bool().unwrap_or(false);
        let remove = if types { clean } else { true };
        self.write_unigram(&vocab, &Spaces { prefix, remove, charsmap: &charsmap }, types, out)
    }

    fn write_unigram(&self, vocab: &Vocab, spaces: &Spaces<'_>, types: bool, out: &mut Metadata) -> Result<()> {
        self.unigram(vocab, spaces, types, out)?;
        Special::load(self.dir, false, &TYPES, Some(vocab.len()))?.write(out);
        Ok(())
    }

    /// The same without special tokens.
    fn unigram(&self, vocab: &Vocab, spaces: &Spaces<'_>, types: bool, out: &mut Metadata) -> Result<()> {
        out.set("tokenizer.ggml.model", "t5");
        out.set("tokenizer.ggml.pre", "default");
        vocab.write(true, out);
        out.set("tokenizer.ggml.add_space_prefix", spaces.prefix);
        if types {
            self.token_type_count(out)?;
        }
        out.set("tokenizer.ggml.remove_extra_whitespaces", spaces.remove);
        write_charsmap(spaces.charsmap, out);
        Ok(())
    }

    fn xverse(&self, out: &mut Metadata) -> Result<()> {
        let source = self.source()?;
        let added = source.tokenizer.get_added_tokens_decoder();
        let vocab = self.by_id(&source, None, |id, text| {
            Ok(match added.get(&id) {
                _ if text == "\0" => ("<b'\\x00'>".to_owned(), TokenType::Byte),
                _ if is_byte(text) => (text.to_owned(), TokenType::Byte),
                Some(token) if token.special => (text.to_owned(), TokenType::Control),
                Some(_) => (text.to_owned(), TokenType::UserDefined),
                None => (text.to_owned(), TokenType::Normal),
            })
        })?;
        out.set("tokenizer.ggml.model", "llama");
        out.set("tokenizer.ggml.pre", "default");
        vocab.write(false, out);
        Special::load(self.dir, false, &TYPES, Some(vocab.len()))?.write(out);
        Ok(())
    }

    fn has_ranks(&self) -> bool {
        !self.has("tokenizer.json") && self.open_ranks().is_ok_and(|ranks| ranks.is_some())
    }

    fn open_ranks(&self) -> Result<Option<Ranks>> {
        Ranks::open(self.dir, &self.tokenizer_config()?)
    }

    /// A vocabulary of ranks; `end` is the special token that has the roles that no file gives.
    fn ranks(&self, end: Option<&str>, out: &mut Metadata) -> Result<()> {
        let ranks = self.open_ranks()?.ok_or_else(|| self.missing("file of tiktoken's ranks"))?;
        let at = |e: Error| e.at(self.dir.join(ranks.file));
        let size = self
            .size()?
            .ok_or_else(|| Error::input("config.json has no vocab_size").at(self.dir.join("config.json")))?;
        let special = ranks.special.iter().map(|(text, id)| (*id, text.clone(), TokenType::Control));
        let tokens = ranks.tokens.iter().map(|(token, id)| (*id, Ranks::text(token), TokenType::Normal));
        let by_id: AHashMap<u32, (String, TokenType)> =
            tokens.chain(special).map(|(id, text, kind)| (id, (text, kind))).collect();
        if let Some(id) = by_id.keys().copied().max().filter(|&id| id as usize >= size) {
            return Err(at(Error::input(format!(
                "a token has the id {id}, beyond the vocabulary of {size} that config.json states"
            ))));
        }
        let mut vocab = Vocab::default();
        for id in 0..size as u32 {
            match by_id.get(&id) {
                Some((text, kind)) => vocab.push(text.as_str(), 0.0, *kind),
                None => vocab.push(format!("[PAD{id}]"), 0.0, TokenType::Unused),
            }
        }
        out.set("tokenizer.ggml.model", "gpt2");
        out.set("tokenizer.ggml.pre", self.request.pre.as_deref().unwrap_or(ranks.pre));
        vocab.write(false, out);
        let mut special = Special::load(self.dir, false, &TYPES, None)?;
        special.merges = ranks.merges();
        if let Some(text) = end {
            let id = ranks.special.iter().find(|(t, _)| t == text).map(|(_, id)| Value::from(*id));
            let id = id.ok_or_else(|| at(Error::input(format!("the vocabulary has no special token {text}"))))?;
            let none = special.ids.is_empty();
            for role in ["bos", "eos"].iter().filter(|_| none).chain(&["unk"]) {
                special.set(role, &id)?;
            }
        }
        special.write(out);
        self.within(out)
    }

    fn kimi_linear(&self, out: &mut Metadata) -> Result<()> {
        if !self.has_ranks() {
            return self.gpt2(None, out);
        }
        self.ranks(None, out)?;
        let ranks = self.open_ranks()?.map_or_else(Vec::new, |ranks| ranks.special);
        let end = &self.tokenizer_config()?["eos_token"];
        let end = end.as_str().or(end["content"].as_str()).unwrap_or("[EOS]");
        if let Some((_, id)) = ranks.iter().find(|(text, _)| text == end) {
            out.set("tokenizer.ggml.eos_token_id", *id);
        }
        Ok(())
    }

    fn hunyuan(&self, out: &mut Metadata) -> Result<()> {
        if self.has("tokenizer.json") {
            let source = self.source()?;
            let vocab = self.base(&source, None)?;
            let found = self.pre(&source)?;
            out.set("tokenizer.ggml.model", "gpt2");
            out.set("tokenizer.ggml.pre", found.name);
            vocab.write(false, out);
            let padding = vocab::hparam(self.config, "pad_token_id").and_then(Value::as_i64);
            let types: &[&str] =
                if padding.is_some_and(|id| id < 0) { &["bos", "eos", "unk", "sep", "cls", "mask"] } else { &TYPES };
            let mut special = Special::load(self.dir, true, types, None)?;
            if let Some(add) = found.add_bos {
                special.add.entry("bos").or_insert(add);
            }
            special.write(out);
        } else {
            self.ranks(None, out)?;
            if vocab::hparam(self.config, "hidden_size").and_then(Value::as_u64) == Some(4096) {
                out.set("tokenizer.ggml.bos_token_id", 127_958_u32);
            }
        }
        if let Some(id) = vocab::hparam(self.config, "eod_token_id") {
            self.set_id("eos", id, out)?;
        }
        let generation = folder::json(self.dir, "generation_config.json")?.unwrap_or(Value::Null);
        if let Some([first, _, ..]) = generation["eos_token_id"].as_array().map(Vec::as_slice) {
            self.set_id("eot", first, out)?;
        }
        self.within(out)
    }

    fn laguna(&self, out: &mut Metadata) -> Result<()> {
        let source = self.source()?;
        let mut vocab = self.base(&source, None)?;
        for (text, kind) in vocab.texts.iter().zip(&mut vocab.types) {
            if text == b"</assistant>" {
                *kind = TokenType::Control;
            }
        }
        self.write_gpt2(&source, &vocab, |_| Ok(()), out)?;
        if let Some(template) = folder::text(&self.dir.join("chat_template.jinja"))? {
            out.set("tokenizer.chat_template", template);
        }
        let begin = vocab::hparam(self.config, "bos_token_id");
        let ends = vocab::hparam(self.config, "eos_token_id").and_then(Value::as_array);
        if let Some(end) = ends.into_iter().flatten().find(|id| Some(*id) != begin) {
            self.set_id("eot", end, out)?;
        }
        Ok(())
    }

    /// Mistral's own files: `tekken.json`, or the newest of the SentencePiece models.
    fn mistral(&self, out: &mut Metadata) -> Result<()> {
        let (version, spm) = if let Some(tekken) = Tekken::open(self.dir)? {
            self.tekken(&tekken, out).map_err(|e| e.at(self.dir.join("tekken.json")))?;
            (tekken.version, false)
        } else {
            let (name, version) =
                mistral_model(self.dir)?.ok_or_else(|| self.missing("tekken.json, nor tokenizer.model"))?;
            self.mistral_sentencepiece(&self.model(&[&name])?, out)?;
            (version, true)
        };
        out.set("tokenizer.ggml.add_bos_token", true);
        out.set("tokenizer.ggml.add_eos_token", false);
        let own = folder::text(&self.dir.join("chat_template.jinja"))?;
        let community = || {
            match (version, spm) {
            (1, _) => Ok("mistral-v1"),
            (3, true) => Ok("mistral-v3"),
            (3, false) => Ok("mistral-v3-tekken"),
            (7, true) => Ok("mistral-v7"),
            (7, false) => Ok("mistral-v7-tekken"),
            (11, _) => Ok(templates::MISTRAL_V11),
            (13, _) => Ok(templates::MISTRAL_V13),
            _ => Err(Error::input(format!("no chat template is known for version v{version} of Mistral's tokenizers"))
                .at(self.dir)
                .help("put one into the folder as chat_template.jinja, or leave it out with --disable-mistral-community-chat-template")),
        }
        };
        let known = matches!(version, 1 | 3 | 7 | 11 | 13);
        let template = match own {
            Some(own) if self.request.mistral_format || !known => Some(own),
            _ if self.request.mistral_format && self.request.no_community_template => None,
            _ => Some(community()?.to_owned()),
        };
        if let Some(template) = template {
            out.set("tokenizer.chat_template", template);
        }
        self.within(out)
    }

    fn tekken(&self, tekken: &Tekken, out: &mut Metadata) -> Result<()> {
        out.set("tokenizer.ggml.model", "gpt2");
        out.set("tokenizer.ggml.pre", "tekken");
        out.set("tokenizer.ggml.merges", Array::strings(tekken.merges()?));
        for (key, text) in [("bos", "<s>"), ("eos", "</s>"), ("unknown", "<unk>"), ("padding", "<pad>")] {
            out.set(format!("tokenizer.ggml.{key}_token_id"), tekken.special_id(text)?);
        }
        let mut vocab = Vocab::default();
        for text in &tekken.special {
            vocab.push(text.as_str(), 0.0, TokenType::Control);
        }
        for token in &tekken.tokens {
            vocab.push(Ranks::text(token), 0.0, TokenType::Normal);
        }
        out.set("tokenizer.ggml.tokens", Array::strings(&vocab.texts));
        // Whole numbers, as there is nothing to score.
        out.set("tokenizer.ggml.scores", Array::from(vec![0_i32; vocab.len()].as_slice()));
        vocab.write_types(out);
        self.mistral_size(vocab.len(), out)
    }

    fn mistral_sentencepiece(&self, model: &Model, out: &mut Metadata) -> Result<()> {
        out.set("tokenizer.ggml.model", "llama");
        let role = |role: Role| model.role(role);
        let need = |id: Option<u32>, what: &str| {
            id.ok_or_else(|| Error::input(format!("the model has no {what} token")).at(&model.path))
        };
        let end = need(role(Role::End), "end")?;
        out.set("tokenizer.ggml.bos_token_id", need(role(Role::Beginning), "beginning")?);
        out.set("tokenizer.ggml.eos_token_id", end);
        out.set("tokenizer.ggml.unknown_token_id", need(role(Role::Unknown), "unknown")?);
        out.set("tokenizer.ggml.padding_token_id", role(Role::Padding).unwrap_or(end));
        let vocab = Vocab::from_pieces(model, model.pieces.len());
        vocab.write(true, out);
        self.mistral_size(vocab.len(), out)
    }

    fn mistral_size(&self, size: usize, out: &mut Metadata) -> Result<()> {
        if let Some(architecture) = &self.request.architecture {
            let size = u32::try_from(size).map_err(|_| Error::input("the vocabulary is too large"))?;
            out.set(format!("{architecture}.vocab_size"), size);
        }
        Ok(())
    }
}

/// The SentencePiece model among Mistral's own files with the last name, and the version that its name says.
pub(super) fn mistral_model(dir: &Path) -> Result<Option<(String, u32)>> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, "list the folder", e))?;
    let mut found: Vec<(String, u32)> = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(dir, "list the folder", e))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
        if path.is_file()
            && let Some(version) = mistral_version(&name)
        {
            found.push((name, version));
        }
    }
    found.sort();
    Ok(found.pop())
}

/// The version of a file name such as `tokenizer.model.v3` or `tokenizer.model.v7m1`; 1 where it says none.
fn mistral_version(name: &str) -> Option<u32> {
    const VERSIONS: [u32; 7] = [1, 2, 3, 7, 11, 13, 15];
    let (stem, suffix) = name.split_once('.')?;
    let version = match suffix.strip_prefix("model")? {
        "" => return (!stem.is_empty()).then_some(1),
        version => version.strip_prefix(".v")?,
    };
    let version = version.strip_suffix("m1").or(version.strip_suffix("m2")).unwrap_or(version);
    version.parse().ok().filter(|version| VERSIONS.contains(version) && !stem.is_empty())
}

/// Whether a `tokenizer.json` holds a SentencePiece BPE that falls back to bytes: Llama's, Mistral's.
fn byte_fallback(json: &Value) -> bool {
    let model = &json["model"];
    model["type"] == "BPE" && model["byte_fallback"] == true && json["decoder"]["type"] == "Sequence"
}

/// Whether a `tokenizer.json` puts an escaped space in front of a text.
pub(super) fn puts_space(json: &Value) -> bool {
    fn any(step: &Value, list: &str, puts: &dyn Fn(&Value) -> bool) -> bool {
        puts(step) || step[list].as_array().is_some_and(|steps| steps.iter().any(|step| any(step, list, puts)))
    }
    let prepends = |step: &Value| step["type"] == "Prepend";
    let metaspace = |step: &Value| {
        step["type"] == "Metaspace"
            && match step["prepend_scheme"].as_str() {
                Some(scheme) => scheme != "never",
                None => step["add_prefix_space"] != false,
            }
    };
    any(&json["normalizer"], "normalizers", &prepends) || any(&json["pre_tokenizer"], "pretokenizers", &metaspace)
}

/// By the text that a merge makes, the rank of the first that makes it; and how many merges there are.
fn merge_ranks(json: &Value) -> (AHashMap<String, usize>, usize) {
    let merges = json["model"]["merges"].as_array().map_or(&[][..], Vec::as_slice);
    let mut ranks = AHashMap::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        let made = match merge {
            Value::String(pair) => pair.split_once(' ').map(|(a, b)| format!("{a}{b}")),
            pair => pair[0].as_str().zip(pair[1].as_str()).map(|(a, b)| format!("{a}{b}")),
        };
        if let Some(made) = made {
            ranks.entry(made).or_insert(rank);
        }
    }
    (ranks, merges.len())
}

/// The scores that the tokens of a vocabulary have by the ranks of a source's merges.
pub(super) fn ranked_scores(source: &Source, metadata: &Metadata) -> Vec<f32> {
    let (ranks, worst) = merge_ranks(&source.json);
    let texts = metadata.array("tokenizer.ggml.tokens").and_then(Array::iter_bytes);
    let score = |text: &[u8]| std::str::from_utf8(text).ok().and_then(|text| ranks.get(text).copied()).unwrap_or(worst);
    texts.into_iter().flatten().map(|text| -(score(text) as f32)).collect()
}

/// Whether a token is of the form `<0x0A>`.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The character map of a normalizer, alone or the first of a sequence.
fn charsmap(normalizer: &Value) -> Result<Vec<u8>> {
    let steps = std::slice::from_ref(normalizer);
    let steps = normalizer["normalizers"].as_array().map_or(steps, Vec::as_slice);
    match steps.iter().find_map(|step| step["precompiled_charsmap"].as_str()) {
        Some(text) => base64::decode(text).ok_or_else(|| Error::input("precompiled_charsmap is not base64")),
        None => Ok(Vec::new()),
    }
}

/// Whether transformers makes the tokenizer of this `tokenizer_config.json` by its model's class, which brings its roles and
/// its settings along, or by the general one, which has what the files say.
fn has_own_class(config: &Value) -> bool {
    !matches!(config["tokenizer_class"].as_str(), Some("PreTrainedTokenizerFast" | "TokenizersBackend"))
}

/// The texts of the special tokens of a tokenizer whose class has these roles where the files give none. In one of the
/// general class the files' alone.
fn special_texts<'a>(source: &'a Source, config: &Value, of_class: &[(&str, &'a str)]) -> Vec<&'a str> {
    let brought = of_class.iter().filter(|(role, _)| has_own_class(config) && config[*role].is_null());
    source.named.iter().map(String::as_str).chain(brought.map(|(_, text)| *text)).collect()
}

/// What a unigram model does to a text before it is cut.
struct Spaces<'a> {
    /// Whether a space is put in front.
    prefix: bool,
    /// Whether spaces too many are taken away.
    remove: bool,
    /// What characters become.
    charsmap: &'a [u8],
}

impl Spaces<'_> {
    fn of(model: &Model) -> Spaces<'_> {
        let Model { add_dummy_prefix: prefix, remove_extra_whitespaces: remove, charsmap, .. } = model;
        Spaces { prefix: *prefix, remove: *remove, charsmap }
    }
}

fn write_charsmap(charsmap: &[u8], out: &mut Metadata) {
    if !charsmap.is_empty() {
        out.set("tokenizer.ggml.precompiled_charsmap", Array::from(charsmap));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_are_in_the_names_of_mistrals_files() {
        for (name, version) in [
            ("tokenizer.model", Some(1)),
            ("tokenizer.model.v3", Some(3)),
            ("mistral_instruct_tokenizer_241114.model.v7m1", Some(7)),
            ("tokenizer.model.v4", None),
            ("a.tokenizer.model", None),
            (".model", None),
            ("tokenizer.json", None),
        ] {
            assert_eq!(mistral_version(name), version, "{name}");
        }
    }

    #[test]
    fn a_space_in_front_may_stand_in_three_places() {
        let yes = [
            json!({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]}}),
            json!({"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "first"}}),
            json!({"pre_tokenizer": {"type": "Metaspace", "add_prefix_space": true}}),
        ];
        let no = [
            json!({"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}}),
            json!({"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "never"}}),
        ];
        assert!(yes.iter().all(puts_space) && !no.iter().any(puts_space));
    }

    #[test]
    fn the_first_merge_that_makes_a_token_ranks_it() {
        let (ranks, count) = merge_ranks(&json!({"model": {"merges": ["a b", ["b", "c"], "a bc", "ab c"]}}));
        assert_eq!((ranks["ab"], ranks["bc"], ranks["abc"], count), (0, 1, 2, 4));
    }
}
