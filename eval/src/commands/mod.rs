//! The program's commands: options, work, report.

pub mod generate;
pub mod perplexity;

use std::path::Path;

use convert::tokenizer::Tokenizer;
use eval::model::Model;
use eval::weights::Stored;
use gguf::{Error, Result, Source};

/// A model that was opened, whatever it is stored as.
pub struct Opened {
    pub source: Box<dyn Source + Send>,
    pub model: Model,
    pub tokenizer: Tokenizer,
}

impl Opened {
    /// Opens a GGUF file or a checkpoint folder and what is needed to run it.
    pub fn open(path: &Path) -> Result<Opened> {
        let source = convert::open(path, &convert::Options::default())?;
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
