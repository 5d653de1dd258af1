//! A base that is saved to be compared with later, without running it again.
//!
//! What is kept are the hidden states behind the last norm at the scored positions, in f32: four bytes for each of the
//! model's dimensions, where llama-perplexity's `.kld` keeps two for each token of the vocabulary (8 times as many for
//! 2,048 dimensions and a vocabulary of 32,768). The logits are made from them with the base's output matrix, which the
//! file holds as well, so that the base itself is not needed any more and the figures are those of a run with it. Files of
//! before kept the states as f16, which moves a KL divergence of 0.0027 over 62 positions by 0.000001; they are read.
//!
//! The file is a GGUF file: `gguf show` looks into it.

use std::io::Write;
use std::ops::Range;
use std::path::Path;

use gguf::{Array, Error, File, Metadata, Result, Shape, Source, TensorInfo, TensorType, Value};
use half::f16;
use half::slice::HalfFloatSliceExt;
use sha2::{Digest, Sha256};

use crate::perplexity::Chunks;

const KIND: &str = "evaluate-base";
const HIDDEN: &str = "hidden";
const TOKENS: &str = "tokens";
/// The output matrix, or the embeddings where they are one, and what is added behind it.
const OUTPUT: &str = "output.weight";
const OUTPUT_BIAS: &str = "output.bias";

/// What a saved base belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The model: see [`fingerprint`].
    pub model: String,
    /// SHA-256 of the text.
    pub text: String,
}

/// SHA-256 over the architecture's keys and over the names, shapes, types and the first and last row of every tensor, in
/// the order of their names: the same for a folder and the file it was converted to in its own type. The same weights with
/// another rotary base are another model.
///
/// # Errors
/// Whatever reading meets.
pub fn fingerprint(source: &dyn Source) -> Result<String> {
    let mut order: Vec<usize> = (0..source.tensors().len()).collect();
    order.sort_by_key(|&i| source.tensors()[i].name());
    let mut hash = Sha256::new();
    let architecture = source.metadata().str("general.architecture").unwrap_or_default();
    let own = source.metadata().iter().filter(|(key, _)| key.split('.').next() == Some(architecture));
    let mut keys: Vec<(String, Value)> = own.map(|(key, value)| (key.to_string(), value.clone())).collect();
    keys.sort_by(|a, b| a.0.cmp(&b.0));
    hash.update(gguf::write::to_bytes(&Metadata::from_iter(keys), &[], |_| Ok(Vec::new()))?);
    for i in order {
        let info = &source.tensors()[i];
        hash.update(format!("{} {} {}\n", info.name(), info.shape(), info.ty()));
        if info.rows() > 0 && info.bytes() > 0 {
            hash.update(source.rows(i, 0..1)?);
            hash.update(source.rows(i, info.rows() - 1..info.rows())?);
        }
    }
    Ok(gguf::quote::hex(&hash.finalize()))
}

/// Writes a base while it is run: the hidden states of the scored positions, chunk by chunk.
#[derive(Debug)]
pub struct Saver<W: Write> {
    writer: gguf::Writer<W>,
    bytes: Vec<u8>,
}

impl<W: Write> Saver<W> {
    /// Begins a file for these chunks of a model of this width.
    ///
    /// # Errors
    /// What writing meets.
    pub fn new(
        out: W,
        (name, source): (&str, &dyn Source),
        identity: &Identity,
        chunks: &Chunks,
        width: usize,
    ) -> Result<Saver<W>> {
        let context = chunks.inputs.first().map_or(0, |c| c.tokens.len()) as u64;
        let count = chunks.inputs.len() as u64;
        let metadata = Metadata::from_iter([
            ("general.type", Value::from(KIND)),
            ("general.name", Value::from(name)),
            ("base.model", Value::from(identity.model.as_str())),
            ("base.text", Value::from(identity.text.as_str())),
            ("base.architecture", Value::from(source.metadata().architecture().unwrap_or_default())),
            ("base.parameters", Value::from(source.tensors().iter().map(TensorInfo::elements).sum::<u64>())),
            ("base.bytes", Value::from(source.tensors().iter().map(TensorInfo::bytes).sum::<u64>())),
            ("base.scored", Value::from(Array::from(&[chunks.scored.start as u32, chunks.scored.end as u32][..]))),
        ]);
        let find = |name: &str| source.tensors().iter().position(|t| t.name() == name);
        let output = find(OUTPUT).or_else(|| find("token_embd.weight")).map(|i| (i, OUTPUT));
        let head: Vec<(usize, &str)> = output.into_iter().chain(find(OUTPUT_BIAS).map(|i| (i, OUTPUT_BIAS))).collect();
        let renamed = |&(i, name): &(usize, &str)| {
            let info = &source.tensors()[i];
            TensorInfo::new(name, *info.shape(), info.ty())
        };
        let mut tensors = vec![
            TensorInfo::new(TOKENS, Shape::new(&[context, count])?, TensorType::I32)?,
            TensorInfo::new(HIDDEN, Shape::new(&[width as u64, chunks.scored.len() as u64, count])?, TensorType::F32)?,
        ];
        // The states come last, since they come while the base runs.
        let states = tensors.pop();
        tensors.extend(head.iter().map(renamed).collect::<Result<Vec<_>>>()?);
        tensors.extend(states);
        let plan = gguf::FileLayout::new(&metadata, &tensors)?;
        let mut saver = Saver { writer: gguf::Writer::new(out, plan).map_err(failed)?, bytes: Vec::new() };
        for chunk in &chunks.inputs {
            let tokens: Vec<u8> = chunk.tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
            saver.writer.write(&tokens).map_err(failed)?;
        }
        for (i, _) in head {
            gguf::write::for_each_piece(source, i, |bytes| saver.writer.write(bytes).map_err(failed))?;
        }
        Ok(saver)
    }

    /// Appends the hidden states of the scored positions of the next chunk.
    ///
    /// # Errors
    /// What writing meets, or a state that is no number.
    pub fn add(&mut self, hidden: &[f32]) -> Result<()> {
        self.bytes.clear();
        for &value in hidden {
            if !value.is_finite() {
                return Err(Error::input(format!("a hidden state is {value}")).help("compare without --save-base"));
            }
            self.bytes.extend(value.to_le_bytes());
        }
        self.writer.write(&self.bytes).map_err(failed)
    }

    /// Gives the output back when every chunk was added.
    ///
    /// # Errors
    /// Chunks that are missing.
    pub fn finish(self) -> Result<W> {
        self.writer.finish().map_err(failed)
    }
}

fn failed(e: std::io::Error) -> Error {
    Error::new(gguf::ErrorKind::System, "cannot write the saved base").caused_by(e)
}

/// A base that was saved.
#[derive(Debug)]
pub struct SavedBase {
    file: File,
    hidden: usize,
    tokens: usize,
    scored: Range<usize>,
}

impl SavedBase {
    /// Opens a saved base.
    ///
    /// # Errors
    /// A file that is none.
    pub fn open(path: &Path) -> Result<SavedBase> {
        let file = File::open(path)?;
        let meta = file.metadata();
        let scored = meta.array("base.scored").and_then(Array::to_u64s).unwrap_or_default();
        let (Some(hidden), Some(tokens), Some(KIND), &[from, to]) =
            (file.find(HIDDEN), file.find(TOKENS), meta.str("general.type"), &scored[..])
        else {
            return Err(Error::input("is no saved base")
                .at(path)
                .help("`evaluate compare --save-base FILE` writes one"));
        };
        let (h, t) = (&file.tensors()[hidden], &file.tensors()[tokens]);
        let fits = [TensorType::F16, TensorType::F32].contains(&h.ty())
            && t.ty() == TensorType::I32
            && to.checked_sub(from) == Some(h.shape().dim(1))
            && to < t.shape().row_len()
            && h.shape().dim(2) == t.shape().dim(1);
        if !fits {
            return Err(Error::input("is a saved base whose parts do not fit each other").at(path));
        }
        let scored = from as usize..to as usize;
        Ok(SavedBase { hidden, tokens, scored, file })
    }

    /// The digest of the model that was saved, as [`fingerprint`] makes it.
    pub fn model(&self) -> Option<&str> {
        self.file.metadata().str("base.model")
    }

    /// The name of the model, its weights, and the bytes that they take, where the file says so.
    pub fn about(&self) -> (Option<&str>, Option<u64>, Option<u64>) {
        let meta = self.file.metadata();
        (meta.str("general.name"), meta.u64("base.parameters"), meta.u64("base.bytes"))
    }

    /// The file itself, whose output matrix stands for that of the base.
    ///
    /// # Errors
    /// A file of an earlier version, which has none.
    pub fn head(&self) -> Result<&File> {
        match self.file.find(OUTPUT) {
            Some(_) => Ok(&self.file),
            None => {
                let error = Error::input("holds no output matrix, so the base itself is needed")
                    .help("name the base in front of the models, or save it again with --save-base");
                Err(match self.file.path() {
                    Some(path) => error.at(path),
                    None => error,
                })
            }
        }
    }

    /// Checks that this base belongs to a model, a text and chunks; an empty model is any.
    ///
    /// # Errors
    /// Another model, text or cut, told which.
    pub fn check(&self, identity: &Identity, chunks: &Chunks, width: usize) -> Result<()> {
        let wrong = |what: &str| {
            let error = Error::input(format!("the saved base belongs to another {what}"))
                .help("save it again with --save-base, or leave --base-from out");
            match self.file.path() {
                Some(path) => error.at(path),
                None => error,
            }
        };
        let meta = self.file.metadata();
        if !identity.model.is_empty() && meta.str("base.model") != Some(&identity.model) {
            return Err(wrong("model"));
        }
        if meta.str("base.text") != Some(&identity.text) {
            return Err(wrong("text"));
        }
        let (hidden, tokens) = (&self.file.tensors()[self.hidden], &self.file.tensors()[self.tokens]);
        let context = chunks.inputs.first().map_or(0, |c| c.tokens.len()) as u64;
        let count = (chunks.first + chunks.inputs.len()) as u64;
        let cut = self.scored == chunks.scored && tokens.shape().row_len() == context && tokens.shape().dim(1) >= count;
        if !cut || hidden.shape().row_len() != width as u64 {
            return Err(wrong("cut of the text (--ctx, --chunks)"));
        }
        for (i, chunk) in chunks.inputs.iter().enumerate() {
            let at = (chunks.first + i) as u64;
            let saved = self.file.rows(self.tokens, at..at + 1)?;
            if !saved.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).eq(chunk.tokens.iter().copied()) {
                return Err(wrong("tokenizer"));
            }
        }
        Ok(())
    }

    /// Hidden states `[positions, width]` of some scored positions of a chunk, counted from the first scored one.
    ///
    /// # Errors
    /// Positions that the file does not have.
    pub fn hidden(&self, chunk: usize, positions: Range<usize>) -> Result<Vec<f32>> {
        let start = (chunk * self.scored.len()) as u64;
        let bytes = self.file.rows(self.hidden, start + positions.start as u64..start + positions.end as u64)?;
        if self.file.tensors()[self.hidden].ty() == TensorType::F32 {
            return Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect());
        }
        let halves: Vec<f16> = bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b)).collect();
        let mut out = vec![0.0; halves.len()];
        halves.convert_to_f32_slice(&mut out);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::perplexity::Protocol;

    fn chunks(first: u32) -> Chunks {
        let tokens: Vec<u32> = (first..first + 16).collect();
        Chunks::new(&tokens, None, 8, None, Protocol::Halves).unwrap()
    }

    /// A model of 4 dimensions whose embeddings are its output matrix.
    fn source() -> File {
        let shape = Shape::new(&[4, 3]).unwrap();
        let tensors = [TensorInfo::new("token_embd.weight", shape, TensorType::F32).unwrap()];
        let metadata = Metadata::from_iter([("general.architecture", Value::from("llama"))]);
        let plan = gguf::FileLayout::new(&metadata, &tensors).unwrap();
        let mut writer = gguf::Writer::new(Vec::new(), plan).unwrap();
        writer.write(&[7; 48]).unwrap();
        File::from_bytes(writer.finish().unwrap().into()).unwrap()
    }

    #[test]
    fn what_was_saved_comes_back_and_belongs_to_one_model_and_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("base.gguf");
        let identity = Identity { model: "m".into(), text: "t".into() };
        let mut saver = Saver::new(Vec::new(), ("tiny", &source()), &identity, &chunks(5), 4).unwrap();
        for chunk in 0..2 {
            let states: Vec<f32> = (0..3 * 4).map(|i| (chunk * 100 + i) as f32).collect();
            saver.add(&states).unwrap();
        }
        std::fs::write(&path, saver.finish().unwrap()).unwrap();
        let saved = SavedBase::open(&path).unwrap();
        assert_eq!(saved.hidden(1, 1..2).unwrap(), [104.0, 105.0, 106.0, 107.0]);
        saved.check(&identity, &chunks(5), 4).unwrap();
        saved.check(&Identity { model: String::new(), ..identity.clone() }, &chunks(5), 4).unwrap();
        let head = saved.head().unwrap();
        assert_eq!(*head.rows(head.find(OUTPUT).unwrap(), 0..3).unwrap(), [7; 48]);
        assert_eq!(saved.about(), (Some("tiny"), Some(12), Some(48)));
        let told = |identity: Identity, chunks: &Chunks, width| {
            saved.check(&identity, chunks, width).unwrap_err().message().to_owned()
        };
        assert!(told(Identity { model: "x".into(), ..identity.clone() }, &chunks(5), 4).contains("model"));
        assert!(told(Identity { text: "x".into(), ..identity.clone() }, &chunks(5), 4).contains("text"));
        assert!(told(identity.clone(), &chunks(6), 4).contains("tokenizer"));
        assert!(told(identity, &chunks(5), 5).contains("cut"));
    }

    #[test]
    fn states_that_do_not_fit_are_refused() {
        let identity = Identity { model: String::new(), text: String::new() };
        let mut saver = Saver::new(Vec::new(), ("", &source()), &identity, &chunks(0), 4).unwrap();
        assert!(saver.add(&[f32::INFINITY; 12]).is_err());
        assert!(saver.finish().is_err(), "nothing was added");
    }
}
