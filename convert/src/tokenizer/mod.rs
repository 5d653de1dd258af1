//! Tokenizers, in both directions: the files of a checkpoint folder become the `tokenizer.*` keys of a GGUF
//! ([`metadata`]), and these keys alone become a tokenizer that encodes and decodes text ([`Tokenizer`]).
//!
//! What is written equals what the reference converter writes. What is encoded equals what llama.cpp encodes.

pub(crate) mod back;
mod base64;
mod check;
mod expressions;
pub(crate) mod folder;
mod kinds;
mod plamo;
mod pre;
mod runtime;
mod rwkv;
mod sentencepiece;
mod source;
mod special;
mod tekken;
pub mod templates;
mod tiktoken;
mod vocab;

use std::path::Path;

use serde_json::Value;

use gguf::{Metadata, Result};

pub(crate) use folder::truthy;

pub use check::{Report, check_chat_template, check_tokenizer};
pub use runtime::{Decoder, Id, Tokenizer};

/// The ways in which the converter's model classes read a vocabulary, as an architecture's row names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VocabKind {
    /// SentencePiece with the added tokens of the tokenizer's configuration as Arctic types and scores them.
    Arctic,
    /// WordPiece with phantom spaces: BERT.
    Bert,
    /// Byte-level BPE with the turn tokens of ChatGLM 3 and 4.
    ChatGlm,
    /// As Llama's `tokenizer.json` alone, with one score for all, but for the size of Llama 3's vocabulary: DeciLM.
    Deci,
    /// Byte-level BPE, or Kimi K2's file of ranks where there is no `tokenizer.json`: DeepSeek V2, V3.
    DeepSeek2,
    /// Byte-level BPE whose configuration must ask for a beginning token: DeepSeek V3.2.
    DeepSeek32,
    /// Byte-level BPE with the end of an assistant's turn: dots3-note.
    Dots3,
    /// SentencePiece, else byte-level BPE whose added tokens are taken as they stand: Dream.
    Dream,
    /// SentencePiece with `add_prefix_space` of the tokenizer's configuration: ERNIE 4.5, openPangu.
    Ernie,
    /// Byte-level BPE without a beginning token: EuroBERT.
    EuroBert,
    /// SentencePiece without a space put in front, with CodeGemma's ids: Gemma 1.
    Gemma,
    /// SentencePiece without a space put in front: Gemma 2.
    Gemma2,
    /// As Gemma 2 where there is a `tokenizer.model`, else byte-level BPE: Gemma 3.
    Gemma3,
    /// As Gemma 3, in a vocabulary without that of the embeddings per layer: Gemma 3n.
    Gemma3n,
    /// BPE in plain UTF-8 of `tokenizer.json`: Gemma 4.
    Gemma4,
    /// Byte-level BPE with the turn tokens of GLM-4 and GLM-Edge.
    Glm4,
    /// Byte-level BPE with the turn tokens of GLM-4.5 and later.
    GlmMoe,
    /// Byte-level BPE of `tokenizer.json`: most architectures.
    Gpt2,
    /// As Mamba 2, in a vocabulary padded to a multiple of 8 where a layer has a state: Granite 4.
    GraniteHybrid,
    /// SentencePiece where there is a `tokenizer.model`, else byte-level BPE with a chat template: Grok.
    Grok,
    /// Byte-level BPE, or a file of ranks, with the ids of HunYuan's configuration.
    HunYuan,
    /// A file of ranks: HunYuan with experts.
    HunYuanMoe,
    /// SentencePiece with all added tokens of the folder and the end of a chat turn: InternLM 2.
    InternLm2,
    /// SentencePiece with `add_prefix_space` and the end of a chat turn: InternLM 3.
    InternLm3,
    /// Byte-level BPE with Intern-S1's beginning token.
    InternS1,
    /// SentencePiece, else as Llama's `tokenizer.json`, without a space put in front: Jamba.
    Jamba,
    /// BERT's or RoBERTa's by the class of the tokenizer: Jina BERT v2.
    JinaBert2,
    /// As Kimi Linear, with the end token of the configuration and a template of its own: Kimi K3.
    KimiK3,
    /// Byte-level BPE, or Kimi K2's file of ranks with its end token: Kimi Linear.
    KimiLinear,
    /// Byte-level BPE with the end of a turn and the folder's own template: Laguna.
    Laguna,
    /// Byte-level BPE whose added tokens are taken as they stand, with a beginning token: LLaDA.
    Llada,
    /// Llama and its many children: SentencePiece, else a BPE with byte fallback, else byte-level BPE.
    Llama,
    /// Byte-level BPE in a vocabulary padded to a multiple of 8, else SentencePiece: Mamba.
    Mamba,
    /// SentencePiece in a vocabulary padded to a multiple of 16, else byte-level BPE: Mamba 2.
    Mamba2,
    /// Byte-level BPE with a template of its own: MiniMax-Text-01.
    MiniMaxText01,
    /// Mistral's own files, `tekken.json` or a versioned SentencePiece model.
    Mistral,
    /// Byte-level BPE with beginning, end and separator: ModernBERT.
    ModernBert,
    /// Byte-level BPE, else SentencePiece with SEA-LION's ids: MPT.
    Mpt,
    /// Byte-level BPE with the end of a turn by its text: Muse Glimmer.
    MuseGlimmer,
    /// SentencePiece with the pad and unknown ids 0 and 1: Nemotron.
    Nemotron,
    /// Byte-level BPE in a vocabulary padded to a multiple of 8: Nemotron-H.
    NemotronH,
    /// Unigram or WordPiece, by the model in `tokenizer.json`: Nomic BERT.
    NomicBert,
    /// A model without a tokenizer.
    None,
    /// SentencePiece with the added tokens of `tokenizer.json`, or byte-level BPE for the class `GPT2Tokenizer`: Phi-3, Phi-4.
    Phi3,
    /// PLaMo 2's lines of JSON.
    Plamo2,
    /// The same with a chat template: PLaMo 3.
    Plamo3,
    /// A unigram model with learned vectors behind its pieces: Pocket TTS.
    PocketTts,
    /// A file of ranks: Qwen 1.
    Qwen,
    /// As Qwen 2, begun and ended by the end of a turn: Qwen3-Omni.
    Qwen3Omni,
    /// The same with a template of its own: Qwen3-ASR.
    Qwen3Asr,
    /// As Qwen 2, without a template and with codes of speech behind the words: Qwen3-TTS.
    Qwen3Tts,
    /// Byte-level BPE that carries no template: Refact.
    Refact,
    /// Byte-level BPE where there is a `tokenizer.json`, else as BERT: RoBERTa.
    Roberta,
    /// RWKV's vocabulary of bytes.
    Rwkv,
    /// SentencePiece alone.
    SentencePiece,
    /// SentencePiece where there is a `tokenizer.model`, else byte-level BPE: Qwen2, DeepSeek.
    SentencePieceOrGpt2,
    /// Byte-level BPE with Solar's turn tokens.
    SolarOpen,
    /// Byte-level BPE of `tokenizer.json`, or a file of ranks: StableLM.
    StableLm,
    /// SentencePiece unigram with its character map, or BPE for Pile-T5: T5.
    T5,
    /// SentencePiece unigram with fairseq's ids, of the model file or of `tokenizer.json`: XLM-RoBERTa.
    XlmRoberta,
    /// That of the model that a draft is made for.
    Target,
    /// The tokens of `tokenizer.json` as a SentencePiece vocabulary without scores: XVERSE.
    Xverse,
}

/// What the person asked for, and what the tokenizer's keys depend on beside the folder.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The pre-tokenizer to write instead of the one that is found (`--pre`).
    pub pre: Option<String>,
    /// Take the plainest pre-tokenizer where none is found: for work on token ids alone.
    pub any: bool,
    /// The architecture, for the one key of a vocabulary that begins with it.
    pub architecture: Option<String>,
    /// The folder is read in Mistral's own format.
    pub mistral_format: bool,
    /// Mistral's own tokenizers get no chat template but the folder's (`--disable-mistral-community-chat-template`).
    pub no_community_template: bool,
}

/// The `tokenizer.*` keys of a checkpoint folder, in the converter's order.
///
/// `config` is the parsed `config.json`.
///
/// # Errors
/// Missing or malformed files, special ids beyond the vocabulary, and a pre-tokenizer that is known neither by its hash
/// nor by its structure.
pub fn metadata(dir: &Path, config: &Value, kind: VocabKind, request: &Request) -> Result<Metadata> {
    kinds::Setting { dir, config, request }.write(kind)
}

/// The number of tokens of a folder's tokenizer without the added ones.
///
/// # Errors
/// A folder without a tokenizer, or one that cannot be read.
pub(crate) fn base_size(dir: &Path) -> Result<usize> {
    Ok(folder_source(dir)?.tokenizer.get_vocab_size(false))
}

/// The id of a token by its text, of a folder's tokenizer.
///
/// # Errors
/// A folder without a tokenizer, or one that cannot be read.
pub(crate) fn id_of(dir: &Path, text: &str) -> Result<Option<u32>> {
    Ok(folder_source(dir)?.tokenizer.token_to_id(text))
}

fn folder_source(dir: &Path) -> Result<source::Source> {
    source::Source::open(dir)?.ok_or_else(|| gguf::Error::input("the folder holds no tokenizer.json").at(dir))
}
