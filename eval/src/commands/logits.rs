//! `evaluate logits`.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use eval::forward::{Forward, Input};
use eval::model::{Model, Shape};
use eval::perplexity::Schedule;
use eval::weights::SourceWeights;
use gguf::cli::{Common, Exit, Output, count, parse_bytes, print};
use gguf::{Error, Result, quote};
use serde_json::json;

use super::files_of;

/// Tokens that a decoder of an encoder-decoder reads where nothing else is said.
const DECODER_TOKENS: usize = 16;

/// The largest token list that is read from a file.
const MAX_TOKEN_FILE: u64 = 64 << 20;

/// Write the logits of a token sequence, or the model's hidden states, for comparing with another implementation
///
/// The file holds the rows in order, one a token, f32 little-endian without a header; the shape is printed. An encoder
/// gives hidden states. An encoder-decoder reads the whole sequence in its encoder and the first tokens of it in its
/// decoder.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  evaluate logits tiny-llama --tokens 1,15,72 -o logits.f32
  evaluate logits Tiny-Llama-4.2M-Q4_K_M.gguf --tokens @tokens.txt --hidden -o hidden.f32 --json")]
pub struct Args {
    /// A GGUF file or a checkpoint folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// Token ids, separated by commas or blanks, or @FILE with such a list
    #[arg(long, value_name = "IDS|@FILE")]
    tokens: String,

    /// The hidden states behind the last norm instead of logits
    #[arg(long)]
    hidden: bool,

    /// The file to write
    #[arg(long, short, value_name = "PATH")]
    output: PathBuf,

    /// Replace an output that exists
    #[arg(long)]
    force: bool,

    /// How many tokens of the sequence the decoder of an encoder-decoder reads
    #[arg(long, default_value_t = DECODER_TOKENS, value_name = "N")]
    decoder_tokens: usize,

    /// Memory for hidden states and what a layer makes of them
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes, value_name = "SIZE")]
    max_memory: u64,
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<Exit> {
    let inputs = files_of([&args.model], []);
    Output::check(&args.output, args.force, &inputs)?;
    let tokens = token_list(&args.tokens)?;
    let options = convert::Options { any_pre: true, exact: true, whole_head: true, ..convert::Options::default() };
    let source = convert::open(&convert::location::find(&args.model, common)?, &options)?;
    let weights = SourceWeights(&source);
    let model = Model::new(source.metadata(), &weights).map_err(|e| e.at(&args.model))?;
    let mut output = Output::create(&args.output, args.force, &inputs)?;
    let fault = |e| Error::io(&args.output, "write", e);
    let mut file = BufWriter::new(&mut output);
    let mut write = |values: &[f32]| -> Result<()> {
        values.iter().try_for_each(|v| file.write_all(&v.to_le_bytes())).map_err(fault)
    };
    let input = match model.shape {
        Shape::EncoderDecoder => {
            let read = tokens[..tokens.len().min(args.decoder_tokens.max(1))].to_vec();
            Input { tokens: read, encoder: tokens, second: 0 }
        }
        _ => Input::from(tokens),
    };
    let rows = input.tokens.len();
    let limits = Schedule::new(&model, 1, rows, args.max_memory).limits;
    let forward = Forward::new(&model, &weights).limits(limits);
    let hidden = args.hidden || model.shape == Shape::Encoder;
    if hidden {
        write(&forward.hidden(&[input]).map_err(|e| e.at(&args.model))?[0])?;
    } else {
        forward.logits(&[input], |_| 0..rows, |logits| write(&logits.streams[0])).map_err(|e| e.at(&args.model))?;
    }
    file.flush().map_err(fault)?;
    drop(file);
    output.commit()?;
    let columns = if hidden { model.width } else { model.vocabulary };
    let kind = if hidden { "hidden states" } else { "logits" };
    if common.wants_document() {
        let fields = json!({
            "model": quote::json(&args.model),
            "output": quote::json(&args.output),
            "kind": kind,
            "shape": [rows, columns],
            "type": "f32",
        });
        super::print_document(common, "logits", &inputs, std::slice::from_ref(&args.output), fields)?;
    } else if !common.quiet {
        let name = quote::path(&args.output);
        print(&format!("{name}: {kind}, {} rows of {}, f32\n", count(rows as u64), count(columns as u64)))?;
    }
    Ok(Exit::Done)
}

/// Token ids from the command line or a file.
pub fn token_list(text: &str) -> Result<Vec<u32>> {
    let (text, path) = match text.strip_prefix('@') {
        None => (text.to_owned(), None),
        Some(path) => {
            let path = Path::new(path);
            let size = std::fs::metadata(path).map_err(|e| Error::io(path, "read the tokens", e))?;
            if !size.is_file() || size.len() > MAX_TOKEN_FILE {
                return Err(Error::input("is not a file of at most 64 MiB").at(path));
            }
            (super::read_text(path)?, Some(path))
        }
    };
    let fault = |message: String| {
        let error = Error::usage(message).help("token ids are numbers separated by commas or blanks: 1,15,72");
        match path {
            Some(path) => error.at(path),
            None => error,
        }
    };
    let ids = text.split(|c: char| c == ',' || c.is_whitespace() || c == '[' || c == ']').filter(|id| !id.is_empty());
    let tokens = ids
        .map(|id| id.parse().map_err(|_| fault(format!("\"{}\" is no token id", id.escape_debug()))))
        .collect::<Result<Vec<u32>>>()?;
    if tokens.is_empty() {
        return Err(fault("there are no tokens".into()));
    }
    Ok(tokens)
}
