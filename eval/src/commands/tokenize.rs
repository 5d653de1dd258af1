//! `evaluate tokenize`.

use std::path::PathBuf;

use convert::tokenizer::Tokenizer;
use gguf::cli::{Align, Common, Exit, Table, count, print};
use gguf::{Result, quote};
use serde_json::json;

use super::files_of;
use super::passages::TextArgs;

/// Print the tokens that a model's tokenizer makes of a text: ids and pieces
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  evaluate tokenize tiny-llama --text sample.txt
  evaluate tokenize Tiny-Llama-4.2M-Q4_K_M.gguf --prompt 'The old man' --json
  evaluate tokenize tiny-llama --prompt '<s>hello' --no-bos --parse-special
  evaluate tokenize tiny-llama --text sample.txt --ids > ids.txt
  evaluate tokenize tiny-llama --text - < sample.txt")]
pub struct Args {
    /// A GGUF file or a checkpoint folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    #[command(flatten)]
    text: TextArgs,

    /// Put no token in front of the text or behind it, whatever the tokenizer says
    #[arg(long)]
    no_bos: bool,

    /// Take the names of special tokens in the text as these tokens
    #[arg(long)]
    parse_special: bool,

    /// Print the ids alone, with commas, as `evaluate logits --tokens @FILE` takes them
    #[arg(long, conflicts_with = "json")]
    ids: bool,
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<Exit> {
    let path = convert::location::find(&args.model, common)?;
    let options = convert::Options { any_pre: true, ..convert::Options::default() };
    let source = convert::open(&path, &options)?;
    let tokenizer = Tokenizer::from_metadata(source.metadata()).map_err(|e| e.at(&path))?;
    let passages = args.text.read()?;
    let tokens = passages.encode(&tokenizer, !args.no_bos, args.parse_special)?;
    if args.ids {
        let ids: Vec<String> = tokens.iter().map(u32::to_string).collect();
        print(&(ids.join(",") + "\n"))?;
        return Ok(Exit::Done);
    }
    if common.wants_document() {
        let token = |&id: &u32| {
            let piece = tokenizer.piece(id);
            let mut one =
                json!({"id": id, "piece": String::from_utf8_lossy(piece), "control": tokenizer.is_control(id)});
            // A piece may be a part of a character.
            if std::str::from_utf8(piece).is_err() {
                one["bytes"] = json!(piece);
            }
            one
        };
        let fields = json!({"model": quote::json(&args.model), "text": args.text.json(&passages), "count": tokens.len(),
            "tokens": tokens.iter().map(token).collect::<Vec<_>>()});
        let inputs = files_of([&args.model], &args.text.files());
        // Only the header is read of a file.
        let files = gguf::cli::Files::new(common, false, &inputs, &[])?;
        common.print_document("evaluate-tokenize-1", env!("CARGO_PKG_VERSION"), &files, fields)?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&[("id", Align::Right), ("piece", Align::Left)]);
    for &id in &tokens {
        let piece = tokenizer.piece(id);
        let shown = match std::str::from_utf8(piece) {
            Ok(text) => format!("\"{}\"", text.escape_debug()),
            Err(_) => piece.iter().map(|byte| format!("<0x{byte:02X}>")).collect(),
        };
        table.row([id.to_string(), shown]);
    }
    print(&format!("{}{} tokens\n", table.render(), count(tokens.len() as u64)))?;
    Ok(Exit::Done)
}
