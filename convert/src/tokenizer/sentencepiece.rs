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
    roles: [Vec<u8>; 4],
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

    /// Takes the bytes of a model apart.
    ///
    /// # Errors
    /// What is no SentencePiece model, or a damaged one.
    pub fn parse(bytes: &[u8]) -> Result<Model> {
        let damaged = |e: String| {
            Error::input("this is not a SentencePiece model")
                .help("the file may be a Git LFS pointer or cut short: download it again")
                .caused_by(e)
        };
        // The reader believes the lengths inside a message, so they are looked at first.
        check_lengths(bytes, true)
            .map_err(|at| damaged(format!("a length or number at byte {at} leads out of its message")))?;
        let mut reader = BytesReader::from_bytes(bytes);
        let proto = ModelProto::from_reader(&mut reader, bytes).map_err(|e| damaged(e.to_string()))?;
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
            roles: proto.trainer.roles,
        })
    }

    /// The id of the piece with a role, of the type that the role has.
    pub fn role(&self, role: Role) -> Option<u32> {
        let text = self.roles[role as usize].as_slice();
        let kind = if role == Role::Unknown { PieceType::Unknown } else { PieceType::Control };
        let id = self.pieces.iter().position(|piece| piece.text == text && piece.kind == kind)?;
        u32::try_from(id).ok()
    }
}

/// The pieces that a model names for a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Unknown,
    Beginning,
    End,
    Padding,
}

/// Walks over the fields of a message, and over those of the messages in it where `nested`, and returns the place of a
/// length or number that does not end in it.
fn check_lengths(bytes: &[u8], nested: bool) -> Result<(), usize> {
    let mut at = 0;
    while at < bytes.len() {
        let begin = at;
        let tag = varint(bytes, &mut at).ok_or(begin)?;
        let field = at;
        let len = match (tag & 7) as u32 {
            wire::VARINT => {
                varint(bytes, &mut at).ok_or(field)?;
                0
            }
            wire::FIXED64 => 8,
            wire::FIXED32 => 4,
            wire::LENGTH => varint(bytes, &mut at).ok_or(field)?,
            _ => return Err(begin),
        };
        let end = usize::try_from(len).ok().and_then(|len| at.checked_add(len)).filter(|&end| end <= bytes.len());
        let end = end.ok_or(field)?;
        // Pieces, trainer's, normalizer's and denormalizer's settings, and test data are messages.
        if nested && (tag & 7) as u32 == wire::LENGTH && tag >> 3 <= 5 {
            check_lengths(&bytes[at..end], false).map_err(|inner| at + inner)?;
        }
        at = end;
    }
    Ok(())
}

/// A number of the protocol: seven bits a byte, the lowest first.
fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0_u64;
    for i in 0..10 {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The wire types of the protocol in a tag's low three bits.
mod wire {
    pub const VARINT: u32 = 0;
    pub const FIXED64: u32 = 1;
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
    /// The texts of the pieces with a role, by [`Role`].
    roles: [Vec<u8>; 4],
}

impl Default for TrainerSpec {
    fn default() -> Self {
        let roles = ["<unk>", "<s>", "</s>", "<pad>"].map(|text| text.as_bytes().to_vec());
        TrainerSpec { model_type: 1, treat_whitespace_as_suffix: false, roles }
    }
}

impl<'a> MessageRead<'a> for TrainerSpec {
    fn from_reader(r: &mut BytesReader, bytes: &'a [u8]) -> ProtoResult<Self> {
        let mut spec = TrainerSpec::default();
        while !r.is_eof() {
            match r.next_tag(bytes)? {
                t if t == tag(3, wire::VARINT) => spec.model_type = r.read_int32(bytes)?,
                t if t == tag(24, wire::VARINT) => spec.treat_whitespace_as_suffix = r.read_bool(bytes)?,
                t if (45..=48).any(|field| t == tag(field, wire::LENGTH)) => {
                    spec.roles[(t >> 3) as usize - 45] = r.read_bytes(bytes)?.to_vec();
                }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A field of bytes.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, content.len() as u8], content].concat()
    }

    fn model() -> Vec<u8> {
        let piece = |text: &str, kind: u8| field(1, &[field(1, text.as_bytes()), vec![3 << 3, kind]].concat());
        [piece("<unk>", 2), piece("<s>", 3), piece("</s>", 3), piece("a", 1), field(2, &[3 << 3, 2])].concat()
    }

    #[test]
    fn pieces_and_roles_are_read() {
        let model = Model::parse(&model()).unwrap();
        assert_eq!((model.pieces.len(), model.model_type), (4, ModelType::Bpe));
        let roles = [Role::Unknown, Role::Beginning, Role::End, Role::Padding].map(|role| model.role(role));
        assert_eq!(roles, [Some(0), Some(1), Some(2), None]);
    }

    #[test]
    fn lengths_that_lead_out_of_their_message_are_refused() {
        let good = model();
        for (at, byte) in [(1, 0), (1, 200), (3, 6), (3, 60), (3, 200), (1, 1), (12, 0x7f)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(Model::parse(&bad).is_err(), "byte {at} as {byte}");
        }
        assert!(Model::parse(&[0xff; 20]).is_err());
        assert!(Model::parse(b"version https://git-lfs.github.com/spec/v1\n").is_err());
    }

    proptest! {
        #[test]
        fn damaged_models_do_no_harm(changes in proptest::collection::vec((any::<u8>(), any::<u8>()), 1..4), cut in any::<u8>()) {
            let mut bytes = model();
            for (at, byte) in changes {
                let at = usize::from(at) % bytes.len();
                bytes[at] = byte;
            }
            let _ = Model::parse(&bytes);
            let cut = usize::from(cut) % bytes.len();
            let _ = Model::parse(&bytes[..cut]);
        }
    }
}
