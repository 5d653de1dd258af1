//! The texts that models are measured on: `--text [NAME=]FILE`, one or several, standard input, or `--prompt`.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use convert::tokenizer::Tokenizer;
use eval::perplexity::{Chunks, Protocol};
use eval::report::Text;
use gguf::digest::sha256;
use gguf::{Error, Result};
use serde_json::Value;

use super::{LARGEST_TEXT, read_text};

/// What stands for standard input.
pub const STANDARD_INPUT: &str = "-";

/// A text of the command line.
#[derive(Clone, Debug)]
pub struct Named {
    /// What it is called in reports and gates, where that was said.
    name: Option<String>,
    /// Its file, or `-`.
    path: PathBuf,
}

/// `FILE` or `NAME=FILE`. A file whose own name has a `=` is taken as it is.
fn named(word: OsString) -> Result<Named, String> {
    let path = PathBuf::from(word);
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    if let Some((name, file)) = path.to_str().and_then(|word| word.split_once('='))
        && !name.is_empty()
        && name.chars().all(plain)
        && !path.exists()
    {
        if file.is_empty() {
            return Err(format!("no file follows \"{name}=\""));
        }
        return Ok(Named { name: Some(name.to_owned()), path: PathBuf::from(file) });
    }
    Ok(Named { name: None, path })
}

/// The option's texts.
#[derive(Debug, clap::Args)]
pub struct TextArgs {
    /// A text, UTF-8, or - for standard input; of several each has its figures and limits, by its file's name or NAME
    #[arg(long, short = 'f', value_name = "[NAME=]FILE", required_unless_present = "prompt",
        value_parser = OsStringValueParser::new().try_map(named))]
    text: Vec<Named>,

    /// The text itself, in place of a file
    #[arg(long, short, value_name = "TEXT", conflicts_with = "text")]
    prompt: Option<String>,
}

impl TextArgs {
    /// The files that are read.
    pub fn files(&self) -> Vec<PathBuf> {
        self.text.iter().map(|t| &t.path).filter(|p| *p != Path::new(STANDARD_INPUT)).cloned().collect()
    }

    /// Where the text is from, as JSON reports name it: its path, or the names of several.
    pub fn json(&self, passages: &Passages) -> Value {
        match &*self.text {
            [one] => gguf::quote::json(&one.path),
            _ => passages.name().into(),
        }
    }

    /// Reads them where each holds a text a line.
    ///
    /// # Errors
    /// `--prompt`, which is one text, and those of [`TextArgs::read`].
    pub fn read_lines(&self, of: &str) -> Result<Passages> {
        match self.prompt {
            Some(_) => Err(Error::usage(format!("--prompt is for models that predict tokens; {of} need a file"))),
            None => self.read(),
        }
    }

    /// Reads all of them.
    ///
    /// # Errors
    /// A file that cannot be read, and two texts of one name.
    pub fn read(&self) -> Result<Passages> {
        let mut all: Vec<Passage> = Vec::new();
        if let Some(prompt) = &self.prompt {
            all.push(Passage { name: "prompt".into(), place: "--prompt".into(), content: prompt.clone() });
        }
        for text in &self.text {
            let standard = text.path == Path::new(STANDARD_INPUT);
            let (place, content) = match standard {
                true => (PathBuf::from("standard input"), read_standard_input()?),
                false => (text.path.clone(), read_text(&text.path)?),
            };
            let own = || match standard {
                true => "standard input".into(),
                false => text.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            };
            let name = text.name.clone().unwrap_or_else(own);
            if all.iter().any(|p| p.name == name) {
                return Err(Error::usage(format!("two texts are called \"{name}\""))
                    .help("name each: --text wiki=FILE --text code=FILE"));
            }
            all.push(Passage { name, place, content });
        }
        Ok(Passages(all))
    }
}

/// All of standard input as text.
pub fn read_standard_input() -> Result<String> {
    let place = Path::new("standard input");
    let mut bytes = Vec::new();
    let failed = |e| Error::io(place, "read", e);
    std::io::stdin().lock().take(LARGEST_TEXT + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST_TEXT {
        return Err(Error::input(format!("is longer than {LARGEST_TEXT} bytes")).at(place));
    }
    String::from_utf8(bytes).map_err(|e| Error::input("is no UTF-8 text").at(place).caused_by(e))
}

/// How texts are cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Tokens of a chunk.
    pub context: usize,
    /// The most chunks of a text.
    pub most: Option<usize>,
    /// What is scored.
    pub protocol: Protocol,
    /// Chunks at the beginning of each text that are left out.
    pub from: usize,
    /// Whether the names of special tokens in a text are these tokens.
    pub parse_special: bool,
}

impl Cut {
    /// Chunks of `context` tokens from the beginning, at most `most`.
    pub fn new(context: usize, most: Option<usize>, protocol: Protocol) -> Cut {
        Cut { context, most, protocol, from: 0, parse_special: false }
    }
}

/// A text that was read.
#[derive(Debug)]
pub struct Passage {
    /// What it is called in reports and gates.
    pub name: String,
    /// Where it came from, for errors.
    pub place: PathBuf,
    /// All of it.
    pub content: String,
}

/// The texts of a run, of which there is at least one.
#[derive(Debug)]
pub struct Passages(Vec<Passage>);

impl Passages {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Passage> {
        self.0.iter()
    }

    /// The names of all.
    pub fn name(&self) -> String {
        self.0.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Where they came from, for errors.
    pub fn place(&self) -> &Path {
        &self.0[0].place
    }

    /// What tells these texts from others: SHA-256 of the one, or of the list of the digests of several.
    pub fn digest(&self) -> String {
        match &*self.0 {
            [one] => sha256(one.content.as_bytes()),
            several => {
                let lines: String = several.iter().map(|p| sha256(p.content.as_bytes()) + "\n").collect();
                sha256(lines.as_bytes())
            }
        }
    }

    /// The tokens of all texts, one after the other.
    ///
    /// # Errors
    /// Texts that the vocabulary cannot express.
    pub fn encode(&self, tokenizer: &Tokenizer, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        let of = |p: &Passage| tokenizer.encode(&p.content, add_special, parse_special).map_err(|e| e.at(&p.place));
        Ok(self.0.iter().map(of).collect::<Result<Vec<_>>>()?.concat())
    }

    /// Cuts each text into chunks and says what each text gave.
    ///
    /// # Errors
    /// Texts that the vocabulary cannot express or that are too short, and those of [`Chunks::new`].
    pub fn chunks(&self, tokenizer: &Tokenizer, cut: Cut) -> Result<(Chunks, Vec<Text>)> {
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let mut texts = Vec::with_capacity(self.0.len());
        let mut all: Option<Chunks> = None;
        for passage in &self.0 {
            let at = |e: Error| e.at(&passage.place);
            let tokens = tokenizer.encode(&passage.content, true, cut.parse_special).map_err(at)?;
            let rest = tokens.get(cut.from.saturating_mul(cut.context)..).unwrap_or_default();
            let chunks = Chunks::new(rest, bos, cut.context, cut.most, cut.protocol).map_err(at)?;
            texts.push(Text {
                name: passage.name.clone(),
                sha256: sha256(passage.content.as_bytes()),
                tokens: tokens.len(),
                chunks: chunks.inputs.len(),
            });
            match &mut all {
                Some(all) => all.inputs.extend(chunks.inputs),
                None => all = Some(chunks),
            }
        }
        all.map(|chunks| (chunks, texts)).ok_or_else(|| Error::usage("there is no text"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_goes_before_a_file_and_is_no_part_of_a_path() {
        let parts = |word: &str| named(word.into()).map(|n| (n.name, n.path.to_string_lossy().into_owned()));
        let of = |name: Option<&str>, path: &str| Ok((name.map(str::to_owned), path.to_owned()));
        assert_eq!(parts("sample.txt"), of(None, "sample.txt"));
        assert_eq!(parts("wiki=a/b.txt"), of(Some("wiki"), "a/b.txt"));
        assert_eq!(parts("wiki=a=b.txt"), of(Some("wiki"), "a=b.txt"));
        assert_eq!(parts("a/b=c.txt"), of(None, "a/b=c.txt"));
        assert_eq!(parts("=c.txt"), of(None, "=c.txt"));
        assert_eq!(parts("-"), of(None, "-"));
        assert!(parts("wiki=").is_err());
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("a=b.txt");
        std::fs::write(&odd, "x").unwrap();
        assert_eq!(named(odd.clone().into()).unwrap().path, odd);
    }
}
