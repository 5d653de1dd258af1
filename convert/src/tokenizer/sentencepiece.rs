//! `tokenizer.model`: the part of SentencePiece's `ModelProto` that conversion and the check need.
//!
//! Field numbers and defaults are those of `sentencepiece_model.proto`.

use std::path::{Path, PathBuf};

use quick_protobuf::{BytesReader, MessageRead, Result as ProtoResult};

use gguf::{Error, Result};

use super::folder;

/// What a piece stands for (`ModelProto.SentencePiece.Type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum PieceType {
    #[default]
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// One piece of the vocabulary.
#[derive(Clone, Debug, Default)]
pub(crate) struct Piece {
    pub text: Vec<u8>,
    pub score: f32,
    pub kind: PieceType,
}

/// How the pieces are put together (`TrainerSpec.ModelType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModelType {
    Unigram,
    Bpe,
    Word,
    Char,
}

/// A SentencePiece model.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub path: PathBuf,
    pub pieces: Vec<Piece>,
    pub model_type: ModelType,
    pub treat_whitespace_as_suffix: bool,
    pub charsmap: Vec<u8>,
    pub add_dummy_prefix: bool,
    pub remove_extra_whitespaces: bool,
}

impl Model {
    /// The model of the first of these files that the folder holds; `None` where it holds none.
    pub fn open(dir: &Path, names: &[&str]) -> Result<Option<Model>> {
        for name in names {
            if let Some(bytes) = folder::bytes(dir, name)? {
                return Model::parse(&bytes)
                    .map(Some)
                    .map_err(|e| e.at(dir.join(name)))
                    .map(|model| model.map(|model| Model { path: dir.join(name), ..model }));
            }
        }
        Ok(None)
    }

    fn parse(bytes: &[u8]) -> Result<Model> {
        let mut reader = BytesReader::from_bytes(bytes);
        let proto = ModelProto::from_reader(&mut reader, bytes).map_err(|e| {
            Error::input("this is not a SentencePiece model")
                .help("the file may be a Git LFS pointer or cut short: download it again")
                .caused_by(e.to_string())
        })?;
        if proto.pieces.is_empty() {
            return Err(Error::input("the SentencePiece model has no pieces"));
        }
        let unknown = proto.pieces.iter().filter(|p| p.kind == PieceType::Unknown).count();
        if unknown != 1 {
            return Err(Error::input(format!(
                "a SentencePiece model has one piece of type unknown, this one has {unknown}"
            )));
        }
        let model_type = match proto.trainer.model_type {
            1 => ModelType::Unigram,
            2 => ModelType::Bpe,
            3 => ModelType::Word,
            4 => ModelType::Char,
            other => return Err(Error::input(format!("unknown SentencePiece model type {other}"))),
        };
        Ok(Model {
            path: PathBuf::new(),
            pieces: proto.pieces,
            model_type,
            treat_whitespace_as_suffix: proto.trainer.treat_whitespace_as_suffix,
            charsmap: proto.normalizer.charsmap,
            add_dummy_prefix: proto.normalizer.add_dummy_prefix,
            remove_extra_whitespaces: proto.normalizer.remove_extra_whitespaces,
        })
    }
}

/// The wire types of the protocol in a tag's low three bits.
mod wire {
    pub const VARINT: u32 = 0;
    pub const LENGTH: u32 = 2;
    pub const FIXED32: u32 = 5;
}

const fn tag(field: u32, wire: u32) -> u32 {
    field << 3 | wire
}

#[derive(Default)]
struct ModelProto {
    pieces: Vec<Piece>,
    trainer: TrainerSpec,
    normalizer: NormalizerSpec,
}

impl<'a> MessageRead<'a> for ModelProto {
    fn from_reader(r: &mut BytesReader, bytes: &'a [u8]) -> ProtoResult<Self> {
        let mut message = ModelProto::default();
        while !r.is_eof() {
            match r.next_tag(bytes)? {
                t if t == tag(1, wire::LENGTH) => message.pieces.push(r.read_message(bytes)?),
                t if t == tag(2, wire::LENGTH) => message.trainer = r.read_message(bytes)?,
                t if t == tag(3, wire::LENGTH) => message.normalizer = r.read_message(bytes)?,
                t => r.read_unknown(bytes, t)?,
            }
        }
        Ok(message)
    }
}

impl<'a> MessageRead<'a> for Piece {
    fn from_reader(r: &mut BytesReader, bytes: &'a [u8]) -> ProtoResult<Self> {
        let mut piece = Piece::default();
        while !r.is_eof() {
            match r.next_tag(bytes)? {
                t if t == tag(1, wire::LENGTH) => piece.text = r.read_bytes(bytes)?.to_vec(),
                t if t == tag(2, wire::FIXED32) => piece.score = r.read_float(bytes)?,
                t if t == tag(3, wire::VARINT) => {
                    piece.kind = match r.read_int32(bytes)? {
                        2 => PieceType::Unknown,
                        3 => PieceType::Control,
                        4 => PieceType::UserDefined,
                        5 => PieceType::Unused,
                        6 => PieceType::Byte,
                        _ => PieceType::Normal,
                    }
                }
                t => r.read_unknown(bytes, t)?,
            }
        }
        Ok(piece)
    }
}

struct TrainerSpec {
    model_type: i32,
    treat_whitespace_as_suffix: bool,
}

impl Default for TrainerSpec {
    fn default() -> Self {
        TrainerSpec { model_type: 1, treat_whitespace_as_suffix: false }
    }
}

impl<'a> MessageRead<'a> for TrainerSpec {
    fn from_reader(r: &mut BytesReader, bytes: &'a [u8]) -> ProtoResult<Self> {
        let mut spec = TrainerSpec::default();
        while !r.is_eof() {
            match r.next_tag(bytes)? {
                t if t == tag(3, wire::VARINT) => spec.model_type = r.read_int32(bytes)?,
                t if t == tag(24, wire::VARINT) => spec.treat_whitespace_as_suffix = r.read_bool(bytes)?,
                t => r.read_unknown(bytes, t)?,
            }
        }
        Ok(spec)
    }
}

struct NormalizerSpec {
    charsmap: Vec<u8>,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
}

impl Default for NormalizerSpec {
    fn default() -> Self {
        NormalizerSpec { charsmap: Vec::new(), add_dummy_prefix: true, remove_extra_whitespaces: true }
    }
}

impl<'a> MessageRead<'a> for NormalizerSpec {
    fn from_reader(r: &mut BytesReader, bytes: &'a [u8]) -> ProtoResult<Self> {
        let mut spec = NormalizerSpec::default();
        while !r.is_eof() {
            match r.next_tag(bytes)? {
                t if t == tag(2, wire::LENGTH) => spec.charsmap = r.read_bytes(bytes)?.to_vec(),
                t if t == tag(3, wire::VARINT) => spec.add_dummy_prefix = r.read_bool(bytes)?,
                t if t == tag(4, wire::VARINT) => spec.remove_extra_whitespaces = r.read_bool(bytes)?,
                t => r.read_unknown(bytes, t)?,
            }
        }
        Ok(spec)
    }
}
