//! The base's log-probabilities as `llama-perplexity --save-all-logits` stores them (`.kld` files): reading and writing.
//!
//! `_logits_`, context, vocabulary and chunks as 32-bit numbers, the tokens of all chunks, then for each chunk and each
//! position from half the context to the one before the last: an f32 scale, an f32 least log-probability, and a 16-bit
//! level for each token of the vocabulary, one more where it is odd (`tools/perplexity/perplexity.cpp`). All
//! little-endian.
//!
//! A row reaches 16 below its largest logit; what was lower is stored as that floor. So a token at or below [`LEAST`]
//! may have had any probability up to e⁻¹⁶, and has no part in a divergence; as the right token it counts as stored.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use gguf::map::Map;
use gguf::{Error, Result};
use rayon::prelude::*;

use crate::numeric;
use crate::perplexity::Chunks;

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
    map: Map,
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
        let map = Map::of(&file, path)?;
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

/// Writes such a file while the base is run.
#[derive(Debug)]
pub struct KldWriter<W: Write> {
    out: W,
    rows: usize,
}

impl<W: Write> KldWriter<W> {
    /// Begins a file for these chunks, of which each has the second half scored.
    ///
    /// # Errors
    /// What writing meets.
    pub fn new(mut out: W, chunks: &Chunks, vocabulary: usize) -> Result<KldWriter<W>> {
        let context = chunks.inputs.first().map_or(0, |c| c.tokens.len());
        let numbers = [context, vocabulary, chunks.inputs.len()].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let tokens = chunks.inputs.iter().flat_map(|input| input.tokens.iter().copied());
        let mut head = MAGIC.to_vec();
        head.extend(numbers.into_iter().chain(tokens).flat_map(u32::to_le_bytes));
        out.write_all(&head).map_err(failed)?;
        Ok(KldWriter { out, rows: chunks.inputs.len() * scored(context as u64) as usize })
    }

    /// Appends rows of logits `[rows, vocabulary]`, of the scored positions in order.
    ///
    /// # Errors
    /// What writing meets.
    pub fn add(&mut self, logits: &[f32], vocabulary: usize) -> Result<()> {
        let rows: Vec<Vec<u8>> = logits.par_chunks(vocabulary).map(encode).collect();
        for row in &rows {
            self.rows = self.rows.checked_sub(1).ok_or_else(|| Error::usage("there are more rows than positions"))?;
            self.out.write_all(row).map_err(failed)?;
        }
        Ok(())
    }

    /// Gives the output back when every row was added.
    ///
    /// # Errors
    /// Rows that are missing.
    pub fn finish(mut self) -> Result<W> {
        if self.rows > 0 {
            return Err(Error::usage(format!("{} rows of the base are missing", self.rows)));
        }
        self.out.flush().map_err(failed)?;
        Ok(self.out)
    }
}

fn failed(e: std::io::Error) -> Error {
    Error::new(gguf::ErrorKind::System, "cannot write the log-probabilities").caused_by(e)
}

/// A row of logits as levels: f32 arithmetic in the order of `log_softmax` of llama-perplexity, exponentials rounded
/// correctly to within the last bit.
fn encode(logits: &[f32]) -> Vec<u8> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let min = logits.iter().copied().fold(f32::INFINITY, f32::min).max(max - 16.0);
    let sum: f64 = logits.iter().map(|&logit| f64::from(f64::from(logit - max).exp() as f32)).sum();
    let least = min - max - sum.ln() as f32;
    let scale = (max - min) / 65535.0;
    let level = |logit: f32| {
        if scale > 0.0 && logit > min { (1.0 / scale * (logit - min)).round_ties_even() as u16 } else { 0 }
    };
    let mut row = Vec::with_capacity(8 + 2 * logits.len() + 2);
    row.extend(scale.to_le_bytes());
    row.extend(least.to_le_bytes());
    row.extend(logits.iter().flat_map(|&logit| level(logit).to_le_bytes()));
    row.resize(2 * row_words(logits.len() as u64) as usize, 0);
    row
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
    fn what_is_written_is_read_back() {
        let tokens: Vec<u32> = (0..16).collect();
        let chunks = Chunks::new(&tokens, None, 8, None, crate::perplexity::Protocol::Halves).unwrap();
        let rows: Vec<f32> =
            (0..6 * 5).map(|i| ((i * 37) % 11) as f32 * 0.7 - if i % 5 == 4 { 30.0 } else { 0.0 }).collect();
        let mut writer = KldWriter::new(Vec::new(), &chunks, 5).unwrap();
        writer.add(&rows[..15], 5).unwrap();
        writer.add(&rows[15..], 5).unwrap();
        assert!(writer.add(&rows[..5], 5).is_err());
        let file = open(&writer.finish().unwrap()).expect("a good file");
        assert_eq!((file.context(), file.vocabulary(), file.chunks(), file.tokens(1)), (8, 5, 2, (8..16).collect()));
        let mut got = Vec::new();
        for (i, row) in rows.chunks(5).enumerate() {
            file.log_probabilities(i / 3, i % 3, &mut got).expect("probabilities");
            let sum = numeric::log_sum(row);
            for (&logit, &found) in row.iter().zip(&got) {
                let wanted = (f64::from(logit) - sum).max(f64::from(got.iter().copied().fold(0.0, f32::min)));
                assert!((wanted - f64::from(found)).abs() < 2e-4, "{wanted} {found}");
            }
        }
        let short = KldWriter::new(Vec::new(), &chunks, 5).unwrap();
        assert!(short.finish().is_err());
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
