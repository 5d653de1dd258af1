//! Tokenizers, in both directions: the files of a checkpoint folder become the `tokenizer.*` keys of a GGUF
//! ([`metadata`]), and these keys alone become a tokenizer that encodes and decodes text ([`Tokenizer`]).
//!
//! What is written equals what the reference converter writes. What is encoded equals what llama.cpp encodes.

mod folder;
mod runtime;
mod sentencepiece;
mod special;
mod vocab;

use std::path::Path;

use serde_json::Value;

use gguf::{Error, Metadata, Result};

pub use runtime::{Decoder, Tokenizer};

use sentencepiece::Model;
use special::{Special, TYPES};
use vocab::Vocab;

/// The ways in which the converter's model classes read a vocabulary, as an architecture's row names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VocabKind {
    /// Byte-level BPE of `tokenizer.json`: most architectures.
    Gpt2,
    /// Llama and its many children: SentencePiece, else a BPE with byte fallback, else byte-level BPE.
    Llama,
    /// SentencePiece alone.
    SentencePiece,
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
    /// SentencePiece with the pad and unknown ids 0 and 1: Nemotron.
    Nemotron,
    /// SentencePiece with the added tokens of `tokenizer.json`, or byte-level BPE for the class `GPT2Tokenizer`: Phi-3, Phi-4.
    Phi3,
    /// Byte-level BPE with the turn tokens of GLM-4: GLM-4-0414 and later.
    Glm,
    /// Byte-level BPE in a vocabulary padded to a multiple of 8, else SentencePiece: Mamba.
    Mamba,
    /// Byte-level BPE, else SentencePiece with SEA-LION's ids: MPT.
    Mpt,
    /// WordPiece with phantom spaces: BERT.
    Bert,
    /// Byte-level BPE where there is a `tokenizer.json`, else as BERT: RoBERTa.
    Roberta,
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
        VocabKind::SentencePiece => set.sentencepiece(&mut out)?,
        VocabKind::Llama => set.llama(&mut out)?,
        VocabKind::None => {
            out.set("tokenizer.ggml.model", "none");
        }
        _ => return Err(Error::input("not yet")),
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

    fn sentencepiece(&self, out: &mut Metadata) -> Result<()> {
        let model = Model::open(self.dir, &["tokenizer.model"])?.ok_or_else(|| self.missing("tokenizer.model"))?;
        let size = vocab::vocab_size(self.config, &["vocab_size_per_layer_input", "vocab_size"])?;
        let mut vocab = Vocab::from_pieces(&model, size.unwrap_or(model.pieces.len()));
        vocab.apply_added_tokens(self.dir)?;
        vocab.apply_added_decoder(self.dir, true)?;
        self.write_spm("llama", &vocab, out)
    }

    fn write_spm(&self, model: &str, vocab: &Vocab, out: &mut Metadata) -> Result<()> {
        out.set("tokenizer.ggml.model", model);
        out.set("tokenizer.ggml.pre", "default");
        vocab.write(true, out);
        Special::load(self.dir, false, &TYPES, Some(vocab.len()))?.write(out);
        Ok(())
    }

    fn llama(&self, out: &mut Metadata) -> Result<()> {
        if let Some(config) = folder::json(self.dir, "tokenizer_config.json")?
            && let Some(prefix) = config["add_prefix_space"].as_bool()
        {
            out.set("tokenizer.ggml.add_space_prefix", prefix);
        }
        self.sentencepiece(out)?;
        let size = vocab::vocab_size(self.config, &["vocab_size"])?.unwrap_or(32000);
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
}
