//! `evaluate perplexity`.

use std::path::PathBuf;
use std::time::Instant;

use eval::perplexity::{Chunks, Plan, Protocol, Score, perplexity};
use eval::weights::Stored;
use gguf::Result;
use gguf::cli::{Common, Exit, count, parse_bytes, print, print_json};
use serde_json::json;

use super::{Opened, ProgressBar, read_text};

/// Which tokens are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// The second half of each chunk, as llama-perplexity does.
    Halves,
    /// Every token of each chunk but the first.
    Plain,
}

/// Measure how surprised a model is by a text
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  evaluate perplexity tiny-llama --text sample.txt
  evaluate perplexity tiny-llama-Q4_K_M.gguf --text sample.txt --ctx 512 --chunks 40 --json")]
pub struct Args {
    /// A GGUF file or a checkpoint folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// The text, UTF-8
    #[arg(long, short = 'f', value_name = "FILE")]
    text: PathBuf,

    /// Tokens of a chunk
    #[arg(long, short, default_value_t = 512, value_name = "N")]
    ctx: usize,

    /// At most so many chunks
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,

    /// Which tokens of a chunk are scored
    #[arg(long, value_enum, default_value_t = Form::Halves, value_name = "FORM")]
    protocol: Form,

    /// Let chunks overlap: so many tokens apart, the last so many scored
    #[arg(long, value_name = "N", conflicts_with = "protocol")]
    stride: Option<usize>,

    /// Memory for hidden states and what a layer makes of them; more lets more chunks share a pass over the model
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes, value_name = "SIZE")]
    max_memory: u64,
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<Exit> {
    let opened = Opened::for_tokens(&args.model)?;
    let (model, tokenizer) = (&opened.model, &opened.tokenizer);
    let tokens = tokenizer.encode(&read_text(&args.text)?, true, false).map_err(|e| e.at(&args.text))?;
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let protocol = match (args.stride, args.protocol) {
        (Some(stride), _) => Protocol::Strided(stride),
        (None, Form::Halves) => Protocol::Halves,
        (None, Form::Plain) => Protocol::Plain,
    };
    let chunks = Chunks::new(&tokens, bos, args.ctx, args.chunks, protocol).map_err(|e| e.at(&args.text))?;
    let plan = Plan::new(model, 1, chunks.inputs[0].tokens.len(), args.max_memory);

    let bar = ProgressBar::new(common, "perplexity", chunks.tokens() as u64);
    let progress = |done: u64, total: u64| bar.at(done, total);
    if !common.quiet && model.context > 0 && args.ctx > model.context {
        bar.say(&format!("note: the model was made for {} tokens, the context is {}", model.context, args.ctx));
    }
    let begun = Instant::now();
    let mut each = Vec::new();
    let mut running = Vec::new();
    let score = perplexity(model, &Stored(&opened.source), &chunks, plan, Some(&progress), |chunk, so_far| {
        each.push(chunk.nll());
        running.push(so_far.ppl());
    })
    .map_err(|e| e.at(&args.model))?;
    bar.finish();
    let seconds = begun.elapsed().as_secs_f64();
    report(args, common, &chunks, &score, (&each, &running), seconds)?;
    Ok(Exit::Done)
}

fn report(
    args: &Args,
    common: &Common,
    chunks: &Chunks,
    score: &Score,
    (each, running): (&[f64], &[f64]),
    seconds: f64,
) -> Result<()> {
    let rate = chunks.tokens() as f64 / seconds;
    if common.json {
        return print_json(&json!({
            "model": args.model.display().to_string(),
            "text": args.text.display().to_string(),
            "protocol": match args.stride {
                Some(_) => "stride",
                None if args.protocol == Form::Plain => "plain",
                None => "halves",
            },
            "ctx": args.ctx,
            "stride": args.stride,
            "chunks": chunks.inputs.len(),
            "tokens": chunks.tokens(),
            "scored": score.count,
            "mean_nll": score.nll(),
            "mean_nll_error": score.nll_error(),
            "ppl": score.ppl(),
            "ppl_error": score.ppl_error(),
            "chunk_nll": each,
            "running_ppl": running,
            "seconds": seconds,
            "tokens_per_second": rate,
        }));
    }
    if !common.quiet {
        let values: Vec<String> = running.iter().enumerate().map(|(i, p)| format!("[{}] {p:.4}", i + 1)).collect();
        for line in values.chunks(8) {
            eprintln!("{}", line.join("  "));
        }
    }
    let pm = |error: Option<f64>| error.map_or(String::new(), |e| format!(" ± {e:.5}"));
    print(&format!(
        "perplexity  {:.4}{}\nmean nll    {:.6}{}\n{} tokens scored in {} chunks of {}; {:.1} s, {rate:.0} tokens/s\n",
        score.ppl(),
        pm(score.ppl_error()),
        score.nll(),
        pm(score.nll_error()),
        count(score.count),
        chunks.inputs.len(),
        chunks.inputs[0].tokens.len(),
        seconds,
    ))
}
