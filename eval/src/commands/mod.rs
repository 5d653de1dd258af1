//! The program's commands: options, work, report.

pub mod compare;
pub mod features;
pub mod generate;
pub mod imatrix;
pub mod logits;
pub mod perplexity;
pub mod tensors;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use convert::tokenizer::Tokenizer;
use eval::model::Model;
use eval::weights::Stored;
use gguf::cli::{Common, Progress};
use gguf::{Error, Result, Source};
use quantize::imatrix::Imatrix;
use quantize::plan::Importance;

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

/// A text file.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read the text", e))?;
    String::from_utf8(bytes)
        .map_err(|e| Error::input("the text is not UTF-8").at(path).at_offset(e.utf8_error().valid_up_to() as u64))
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
