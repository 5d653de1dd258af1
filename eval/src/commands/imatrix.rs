//! `evaluate imatrix`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use eval::collect::Collector;
use eval::forward::Forward;
use eval::perplexity::{Chunks, Plan, Protocol};
use eval::weights::Stored;
use gguf::cli::{Common, Exit, Output, count, parse_bytes, parse_count, print, print_json};
use gguf::{Error, Result, quote};
use serde_json::json;

use super::{Opened, ProgressBar, read_text};

/// The forms of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// What llama-imatrix writes today.
    Gguf,
    /// What it wrote before.
    Dat,
}

/// Collect the importance of each column of each matrix from a text, for `quantize --imatrix`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  evaluate imatrix tiny-llama --text calibration.txt
  evaluate imatrix tiny-llama --text calibration.txt --chunks 24 -o imatrix.dat --format dat")]
pub struct Args {
    /// A GGUF file or a checkpoint folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// The text, UTF-8
    #[arg(long, short = 'f', value_name = "FILE")]
    text: PathBuf,

    /// The file to write
    #[arg(long, short, default_value = "imatrix.gguf", value_name = "FILE")]
    output: PathBuf,

    /// Its form
    #[arg(long, value_enum, default_value_t = Form::Gguf, value_name = "FORM")]
    format: Form,

    /// Tokens of a chunk
    #[arg(long, short, default_value_t = 512, value_name = "N")]
    ctx: usize,

    /// At most so many chunks
    #[arg(long, value_name = "N", value_parser = parse_count)]
    chunks: Option<usize>,

    /// Collect for the output matrix too
    #[arg(long)]
    process_output: bool,

    /// Memory for hidden states and what a layer makes of them
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes, value_name = "SIZE")]
    max_memory: u64,

    /// Replace a file that exists
    #[arg(long, help_heading = "Output")]
    force: bool,
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<Exit> {
    Output::check(&args.output, args.force, &[&args.model, &args.text])?;
    let opened = Opened::open(&args.model)?;
    let (model, tokenizer) = (&opened.model, &opened.tokenizer);
    let tokens = tokenizer.encode(&read_text(&args.text)?, true, false).map_err(|e| e.at(&args.text))?;
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let chunks = Chunks::new(&tokens, bos, args.ctx, args.chunks, Protocol::Plain).map_err(|e| e.at(&args.text))?;
    let plan = Plan::new(model, 1, args.ctx, args.max_memory);
    let collector = Collector::new(&opened.source, args.process_output);
    let stored = Stored(&opened.source);
    let bar = ProgressBar::new(common, "imatrix", chunks.tokens() as u64);
    let begun = Instant::now();
    let passes = chunks.inputs.len().div_ceil(plan.sequences.max(1)) as u64;
    for (pass, inputs) in chunks.inputs.chunks(plan.sequences.max(1)).enumerate() {
        let told = |done: u64, total: u64| bar.at(pass as u64 * total + done, passes * total);
        let forward = Forward::new(model, &stored).limits(plan.limits).observer(&collector).progress(&told);
        if args.process_output {
            forward.logits(inputs, |_| 0..args.ctx, |_| Ok(())).map_err(|e| e.at(&args.model))?;
        } else {
            forward.hidden(inputs).map_err(|e| e.at(&args.model))?;
        }
    }
    bar.finish();
    let partial = collector.partial();
    if !common.quiet {
        for (name, without, all) in &partial {
            eprintln!("note: {name}: {without} of {all} experts saw no token; a longer text would reach them");
        }
    }
    let dataset = args.text.file_name().unwrap_or_default().to_string_lossy();
    let matrix = collector.finish(&dataset, chunks.inputs.len() as u32, args.ctx as u32);
    let bytes = match args.format {
        Form::Gguf => matrix.to_gguf()?,
        Form::Dat => matrix.to_dat(),
    };
    let mut out = Output::create(&args.output, args.force, &[&args.model, &args.text])?;
    out.write_all(&bytes).map_err(|e| Error::io(&args.output, "write", e))?;
    out.commit()?;
    let seconds = begun.elapsed().as_secs_f64();
    if common.json {
        print_json(&json!({
            "output": quote::json(&args.output),
            "entries": matrix.entries.len(),
            "chunks": chunks.inputs.len(),
            "tokens": chunks.tokens(),
            "partial": partial.iter().map(|(name, without, all)| json!({"tensor": name, "experts_without_data": without,
                "experts": all})).collect::<Vec<_>>(),
            "seconds": seconds,
        }))?;
    } else {
        print(&format!(
            "{}: the importance of {} matrices over {} tokens in {} chunks of {}; {seconds:.1} s\n",
            quote::path(&args.output),
            matrix.entries.len(),
            count(chunks.tokens() as u64),
            chunks.inputs.len(),
            args.ctx,
        ))?;
    }
    Ok(Exit::Done)
}
