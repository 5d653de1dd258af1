//! Reading the base's log-probabilities as `llama-perplexity --save-all-logits` stores them (`.kld` files).
//!
//! `_logits_`, context, vocabulary and chunks as 32-bit numbers, the tokens of all chunks, then for each chunk and each
//! position from half the context to the one before the last: an f32 scale, an f32 least log-probability, and a 16-bit
//! level for each token of the vocabulary, one more where it is odd (`tools/perplexity/perplexity.cpp`). All
//! little-endian.
//!
//! A row reaches 16 below its largest logit; what was lower is stored as that floor. So a token at or below [`LEAST`]
//! may have had any probability up to e⁻¹⁶, and has no part in a divergence; as the right token it counts as stored.

use std::fs;
use std::path::{Path, PathBuf};

use gguf::{Error, Result};

use crate::layers::numeric;

const MAGIC: &[u8; 8] = b"_logits_";
const HEADER: u64 = 20;

/// The log-probability at and below which llama-perplexity leaves a token of a stored row out of the divergence.
pub const LEAST: f64 = -16.0;

/// How far the stored probabilities of a row may be from 1 together. A level is off by at most half a step of 16 / 65535,
/// a relative error of 1.2e-4; what was below the floor adds less than e⁻¹⁶ a token.
fn most_off(vocabulary: usize) -> f64 {
    1e-3 + vocabulary as f64 * LEAST.exp()
}

/// An opened file of log-probabilities.
#[derive(Debug)]
pub struct KldFile {
    path: PathBuf,
    map: memmap2::Mmap,
    context: usize,
    vocabulary: usize,
    chunks: usize,
}

impl KldFile {
    /// Opens a file.
    ///
    /// # Errors
    /// A file that cannot be read, is no such file, or is shorter than its header says.
    pub fn open(path: &Path) -> Result<KldFile> {
        let file = fs::File::open(path).map_err(|e| Error::io(path, "open", e))?;
        let len = file.metadata().map_err(|e| Error::io(path, "examine", e))?.len();
        let wrong = |message: String| Error::input(message).at(path);
        if len < HEADER {
            return Err(wrong(format!("{len} bytes are no file of log-probabilities")));
        }
        // SAFETY: a read-only map of a file that is only read from; every access below is checked against its length.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, "map", e))?;
        if map[..8] != MAGIC[..] {
            return Err(wrong("is no file of log-probabilities: it does not begin with \"_logits_\"".into())
                .help("llama-perplexity writes such a file with --save-all-logits"));
        }
        let number = |at: usize| u32::from_le_bytes([map[at], map[at + 1], map[at + 2], map[at + 3]]);
        let [context, vocabulary, chunks] = [number(8), number(12), number(16)].map(u64::from);
        if context < 4 || vocabulary == 0 || chunks == 0 || i32::try_from(vocabulary).is_err() {
            return Err(wrong(format!(
                "a context of {context}, {vocabulary} tokens and {chunks} chunks make no sense"
            )));
        }
        let row = 2 * row_words(vocabulary);
        let need = context
            .checked_mul(chunks)
            .and_then(|n| n.checked_mul(4))
            .zip(row.checked_mul(scored(context)).and_then(|n| n.checked_mul(chunks)))
            .and_then(|(tokens, rows)| tokens.checked_add(rows))
            .and_then(|n| n.checked_add(HEADER));
        match need {
            Some(need) if need <= len => {}
            _ => {
                return Err(wrong(format!(
                    "is cut short: {chunks} chunks of {context} positions need more than {len} bytes"
                ))
                .help("let llama-perplexity finish writing it"));
            }
        }
        Ok(KldFile {
            path: path.to_path_buf(),
            map,
            context: context as usize,
            vocabulary: vocabulary as usize,
            chunks: chunks as usize,
        })
    }

    /// Tokens of a chunk.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The number of chunks.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// The first scored position of a chunk.
    pub fn first_scored(&self) -> usize {
        self.context / 2
    }

    /// The tokens of a chunk, as they were before its first became the beginning-of-sequence token.
    pub fn tokens(&self, chunk: usize) -> Vec<u32> {
        let start = HEADER as usize + 4 * self.context * chunk.min(self.chunks - 1);
        self.map[start..start + 4 * self.context].as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
    }

    /// The log-probabilities (`[vocabulary]`) at a scored position, counted from [`KldFile::first_scored`].
    ///
    /// # Errors
    /// A chunk or position that the file does not have, and values that are no probabilities: none may be above 1, and
    /// together they are 1.
    pub fn log_probabilities(&self, chunk: usize, scored_position: usize, out: &mut Vec<f32>) -> Result<()> {
        let per_chunk = scored(self.context as u64) as usize;
        if chunk >= self.chunks || scored_position >= per_chunk {
            return Err(Error::usage(format!(
                "there is no position {scored_position} of chunk {chunk} in the saved base"
            )));
        }
        let row_bytes = 2 * row_words(self.vocabulary as u64) as usize;
        let rows = HEADER as usize + 4 * self.context * self.chunks;
        let row = &self.map[rows + (chunk * per_chunk + scored_position) * row_bytes..][..row_bytes];
        let float = |at: usize| f32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
        let (scale, least) = (float(0), float(4));
        out.clear();
        let levels = row[8..].as_chunks::<2>().0.iter().take(self.vocabulary);
        out.extend(levels.map(|b| scale * f32::from(u16::from_le_bytes(*b)) + least));
        // ln Σ p, NaN where one of them is.
        let off = numeric::log_sum(out).exp() - 1.0;
        if !off.is_finite() || off.abs() > most_off(self.vocabulary) {
            return Err(Error::input(format!(
                "position {scored_position} of chunk {chunk} holds no probabilities: their sum is {:.4}, not 1",
                off + 1.0
            ))
            .at(&self.path)
            .help("let llama-perplexity write the file again"));
        }
        Ok(())
    }
}

/// 16-bit words of a row: scale and least value, then an even number of levels.
fn row_words(vocabulary: u64) -> u64 {
    vocabulary.next_multiple_of(2) + 4
}

/// Scored positions of a chunk.
fn scored(context: u64) -> u64 {
    context - 1 - context / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of two chunks of 8 tokens over a vocabulary of 3, whose first token becomes more and more probable.
    fn sample() -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for n in [8_u32, 3, 2] {
            bytes.extend(n.to_le_bytes());
        }
        for token in 0..16_u32 {
            bytes.extend(token.to_le_bytes());
        }
        for row in 0..6_u16 {
            bytes.extend(0.5_f32.to_le_bytes());
            bytes.extend(floor([row, 1, 2]).to_le_bytes());
            for level in [row, 1, 2, 0] {
                bytes.extend(level.to_le_bytes());
            }
        }
        bytes
    }

    /// The least log-probability of a row of such levels.
    fn floor(levels: [u16; 3]) -> f32 {
        -levels.map(|level| (0.5 * f32::from(level)).exp()).iter().sum::<f32>().ln()
    }

    fn open(bytes: &[u8]) -> Result<KldFile> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("base.kld");
        fs::write(&path, bytes).expect("a small file");
        KldFile::open(&path)
    }

    #[test]
    fn rows_are_found_and_scaled() {
        let file = open(&sample()).expect("a good file");
        assert_eq!((file.context(), file.vocabulary(), file.chunks(), file.first_scored()), (8, 3, 2, 4));
        assert_eq!(file.tokens(1), (8..16).collect::<Vec<u32>>());
        let mut row = Vec::new();
        file.log_probabilities(1, 2, &mut row).expect("the last row");
        assert_eq!(row, [2.5, 0.5, 1.0].map(|above| above + floor([5, 1, 2])));
        assert!(file.log_probabilities(2, 0, &mut row).is_err());
        assert!(file.log_probabilities(0, 3, &mut row).is_err());
    }

    #[test]
    fn every_cut_is_refused() {
        let bytes = sample();
        for len in 0..bytes.len() {
            assert!(open(&bytes[..len]).is_err(), "{len}");
        }
        let mut lying = bytes;
        lying[8..20].fill(0xFF);
        assert!(open(&lying).is_err());
    }

    #[test]
    fn rows_that_are_no_probabilities_are_refused() {
        let rows = 20 + 4 * 16;
        let said = |at: usize, value: f32| {
            let mut bytes = sample();
            bytes[rows + at..rows + at + 4].copy_from_slice(&value.to_le_bytes());
            let told = open(&bytes).expect("a good header").log_probabilities(0, 0, &mut Vec::new());
            told.expect_err("no probabilities").to_string()
        };
        let least = floor([0, 1, 2]);
        for (scale, floor) in [
            (0.0, 0.0),
            (0.5, 0.0),
            (0.0, least),
            (-0.5, least),
            (0.5, least + 0.01),
            (0.5, least - 0.01),
            (f32::NAN, least),
            (0.5, f32::NAN),
            (f32::INFINITY, least),
            (0.5, f32::NEG_INFINITY),
        ] {
            let mut bytes = sample();
            bytes[rows..rows + 4].copy_from_slice(&scale.to_le_bytes());
            bytes[rows + 4..rows + 8].copy_from_slice(&floor.to_le_bytes());
            assert!(
                open(&bytes).expect("a header").log_probabilities(0, 0, &mut Vec::new()).is_err(),
                "{scale} {floor}"
            );
        }
        assert!(said(4, 0.0).contains("base.kld: position 0 of chunk 0 holds no probabilities"), "{}", said(4, 0.0));
        let mut zeros = sample();
        zeros[rows..].fill(0);
        assert!(open(&zeros).expect("a header").log_probabilities(1, 1, &mut Vec::new()).is_err());
    }
}
