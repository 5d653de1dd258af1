//! The program's commands: options, work, report.

pub mod compare;
pub mod gather;
pub mod generate;
pub mod imatrix;
pub mod logits;
pub mod optimize;
pub mod parts;
pub mod perplexity;
pub mod tensors;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use convert::tokenizer::Tokenizer;
use eval::model::Model;
use eval::weights::Stored;
use gguf::cli::{Common, Progress};
use gguf::{Error, Result, Source};
use quantize::imatrix::Imatrix;
use quantize::plan::Importance;

/// The files that an output must not replace: those of the model (every file of a folder), and others that were named.
pub fn files_of(model: &Path, others: &[&Path]) -> Vec<PathBuf> {
    let mut files = gguf::split::files(model);
    if let Ok(entries) = std::fs::read_dir(model) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.extend(others.iter().map(|other| other.to_path_buf()));
    files
}

/// A model that was opened, whatever it is stored as.
pub struct Opened {
    pub source: Box<dyn Source + Send>,
    pub model: Model,
    pub tokenizer: Tokenizer,
}

impl Opened {
    /// Opens a GGUF file or a checkpoint folder and what is needed to run it.
    pub fn open(path: &Path) -> Result<Opened> {
        let source = convert::open(path, &convert::Options { exact: true, ..convert::Options::default() })?;
        let model = Model::new(source.metadata(), &Stored(&source)).map_err(|e| e.at(path))?;
        let tokenizer = Tokenizer::from_metadata(source.metadata()).map_err(|e| e.at(path))?;
        if tokenizer.vocab_size() > model.vocabulary {
            return Err(Error::input(format!(
                "the tokenizer has {} tokens, the embeddings only {}",
                tokenizer.vocab_size(),
                model.vocabulary
            ))
            .at(path));
        }
        Ok(Opened { source, model, tokenizer })
    }
}

/// The most bytes of a text: years of work for any model, and what a device that never ends may cost.
const LARGEST_TEXT: u64 = 1 << 30;

/// The name of a model: of its folder, or of its file without the ending.
pub fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    stem.unwrap_or_default().to_string_lossy().into_owned()
}

/// A text file.
pub fn read_text(path: &Path) -> Result<String> {
    convert::json::read_text(path, LARGEST_TEXT)
}

/// An importance matrix with the name of its file.
pub fn open_importance(path: &Path) -> Result<Importance> {
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Importance { matrix: Imatrix::open(path)?, file })
}

/// Progress of a run in tokens, told as shares of its work.
pub struct ProgressBar {
    bar: Progress,
    tokens: u64,
    shown: AtomicU64,
}

impl ProgressBar {
    /// Progress over so many tokens.
    pub fn new(common: &Common, label: &str, tokens: u64) -> ProgressBar {
        ProgressBar {
            bar: Progress::tokens(common.progress, common.quiet, label, tokens),
            tokens,
            shown: AtomicU64::new(0),
        }
    }

    /// So much of all the work is done.
    pub fn at(&self, done: u64, total: u64) {
        let now = (u128::from(done) * u128::from(self.tokens) / u128::from(total.max(1))) as u64;
        self.bar.add(now.saturating_sub(self.shown.fetch_max(now, Ordering::Relaxed)));
    }

    /// A line for people.
    pub fn say(&self, line: &str) {
        self.bar.say(line);
    }

    /// Ends the job.
    pub fn finish(&self) {
        self.bar.finish();
    }
}
