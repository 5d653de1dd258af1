//! A base that is saved to be compared with later, without running it again.
//!
//! What is kept are the hidden states behind the last norm at the scored positions, as f16: two bytes for each of the
//! model's dimensions, where llama-perplexity's `.kld` keeps two for each token of the vocabulary (16 times as many for
//! 2,048 dimensions and a vocabulary of 32,768). The logits are made from them with the base's own output matrix, so the
//! base has to be there still; only its layers are not run. Rounding the states to f16 moves each logit by about a
//! four-thousandth of its size, which adds some 1e-7 to a KL divergence.
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

/// What a saved base belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The model: see [`fingerprint`].
    pub model: String,
    /// SHA-256 of the text.
    pub text: String,
}

/// SHA-256 over the names, shapes, types and the first and last row of every tensor, in the order of their names: the
/// same for a folder and the file it was converted to in its own type.
///
/// # Errors
/// Whatever reading meets.
pub fn fingerprint(source: &dyn Source) -> Result<String> {
    let mut order: Vec<usize> = (0..source.tensors().len()).collect();
    order.sort_by_key(|&i| source.tensors()[i].name());
    let mut hash = Sha256::new();
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
    pub fn new(out: W, name: &str, identity: &Identity, chunks: &Chunks, width: usize) -> Result<Saver<W>> {
        let context = chunks.inputs.first().map_or(0, |c| c.tokens.len()) as u64;
        let count = chunks.inputs.len() as u64;
        let metadata = Metadata::from_iter([
            ("general.type", Value::from(KIND)),
            ("general.name", Value::from(name)),
            ("base.model", Value::from(identity.model.as_str())),
            ("base.text", Value::from(identity.text.as_str())),
            ("base.scored", Value::from(Array::from(&[chunks.scored.start as u32, chunks.scored.end as u32][..]))),
        ]);
        let tensors = [
            TensorInfo::new(TOKENS, Shape::new(&[context, count])?, TensorType::I32)?,
            TensorInfo::new(HIDDEN, Shape::new(&[width as u64, chunks.scored.len() as u64, count])?, TensorType::F16)?,
        ];
        let plan = gguf::Plan::new(&metadata, &tensors)?;
        let mut saver = Saver { writer: gguf::Writer::new(out, plan).map_err(failed)?, bytes: Vec::new() };
        for chunk in &chunks.inputs {
            let tokens: Vec<u8> = chunk.tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
            saver.writer.write(&tokens).map_err(failed)?;
        }
        Ok(saver)
    }

    /// Appends the hidden states of the scored positions of the next chunk.
    ///
    /// # Errors
    /// What writing meets, or a state too large for f16.
    pub fn add(&mut self, hidden: &[f32]) -> Result<()> {
        self.bytes.clear();
        for &value in hidden {
            let small = f16::from_f32(value);
            if !small.is_finite() {
                return Err(Error::input(format!("a hidden state of {value} does not fit f16"))
                    .help("compare without --save-base"));
            }
            self.bytes.extend(small.to_le_bytes());
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
        let fits = h.ty() == TensorType::F16
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

    /// Checks that this base belongs to a model, a text and chunks.
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
        if meta.str("base.model") != Some(&identity.model) {
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

    #[test]
    fn what_was_saved_comes_back_and_belongs_to_one_model_and_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("base.gguf");
        let identity = Identity { model: "m".into(), text: "t".into() };
        let mut saver = Saver::new(Vec::new(), "tiny", &identity, &chunks(5), 4).unwrap();
        for chunk in 0..2 {
            let states: Vec<f32> = (0..3 * 4).map(|i| (chunk * 100 + i) as f32).collect();
            saver.add(&states).unwrap();
        }
        std::fs::write(&path, saver.finish().unwrap()).unwrap();
        let saved = SavedBase::open(&path).unwrap();
        assert_eq!(saved.hidden(1, 1..2).unwrap(), [104.0, 105.0, 106.0, 107.0]);
        saved.check(&identity, &chunks(5), 4).unwrap();
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
        let mut saver = Saver::new(Vec::new(), "", &identity, &chunks(0), 4).unwrap();
        assert!(saver.add(&[1e9; 12]).is_err());
        assert!(saver.finish().is_err(), "nothing was added");
    }
}
