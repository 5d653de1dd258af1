//! `evaluate generate`.

use std::path::PathBuf;
use std::time::Instant;

use eval::generate::{Past, Sampler, Sampling, generate};
use eval::weights::SourceWeights;
use gguf::cli::{Common, Exit, parse_bytes, print};
use gguf::{Result, quote};
use serde_json::json;

use super::{Opened, files_of};

/// Continue a text, a quick check of a model
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  evaluate generate tiny-llama --prompt 'The old man' --predict 40
  evaluate generate Tiny-Llama-4.2M-Q4_K_M.gguf --prompt 'The old man' --temperature 0.8 --seed 7")]
pub struct Args {
    /// A GGUF file or a checkpoint folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// The text to continue
    #[arg(long, short, value_name = "TEXT")]
    prompt: String,

    /// At most so many tokens
    #[arg(long = "predict", short = 'n', alias = "tokens", default_value_t = 64, value_name = "N")]
    tokens: usize,

    /// How freely tokens are chosen: 0 takes the most probable one
    #[arg(allow_negative_numbers = true, long, default_value_t = 0.0, value_name = "T")]
    temperature: f32,

    /// Choose among the most probable tokens that together have this share
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    top_p: f32,

    /// What the random numbers begin with
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,

    /// Compute the whole text for every token instead of keeping keys and values (for checking; slow)
    #[arg(long)]
    no_cache: bool,

    /// Memory for keys and values of the text and for what a layer makes of the prompt
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes, value_name = "SIZE")]
    max_memory: u64,
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<Exit> {
    let opened = Opened::for_tokens(&args.model, common)?;
    let tokenizer = &opened.tokenizer;
    let prompt = tokenizer.encode(&args.prompt, true, true)?;
    let sampling = Sampling { temperature: args.temperature, top_p: args.top_p, seed: args.seed };
    // What cannot be sampled is refused before anything is printed.
    Sampler::new(sampling)?;
    let begun = Instant::now();
    let mut decoder = tokenizer.decoder();
    for &token in &prompt {
        decoder.push(token);
    }
    let mut text = String::new();
    // What is refused is refused before the first of it is printed.
    let mut waiting = (!common.wants_document()).then_some(&args.prompt);
    let weights = SourceWeights(&opened.source);
    let past = if args.no_cache { Past::ComputedAgain } else { Past::Kept };
    let memory = (past, args.max_memory);
    let tokens = generate(&opened.model, &weights, &prompt, args.tokens, sampling, memory, |token| {
        waiting.take().map_or(Ok(()), |prompt| print(prompt))?;
        if tokenizer.is_end_of_generation(token) {
            return Ok(false);
        }
        let piece = decoder.push(token);
        if !common.wants_document() {
            print(&piece)?;
        }
        text.push_str(&piece);
        Ok(true)
    })
    .map_err(|e| e.at(&args.model))?;
    let seconds = begun.elapsed().as_secs_f64();
    let rate = tokens.len() as f64 / seconds;
    if common.wants_document() {
        let fields = json!({
            "model": quote::json(&args.model),
            "prompt": args.prompt,
            "text": text,
            "prompt_tokens": prompt,
            "tokens": tokens,
            "seconds": seconds,
            "tokens_per_second": rate,
        });
        super::print_document(common, "generate", &files_of([&args.model], &[]), &[], fields)?;
    } else {
        waiting.map_or(Ok(()), |prompt| print(prompt))?;
        print("\n")?;
        if !common.quiet {
            eprintln!("{} tokens in {seconds:.1} s, {rate:.1} tokens/s", tokens.len());
        }
    }
    Ok(Exit::Done)
}
