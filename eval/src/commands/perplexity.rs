//! `evaluate perplexity`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use eval::device::Ran;
use eval::divergence::error_over_chunks;
use eval::parts::{Gathered, Numbers};
use eval::perplexity::{Protocol, Schedule, Score, perplexity};
use eval::report::Text;
use eval::weights::{Arithmetic, OnDevice};
use gguf::cli::{Common, Exit, count, parse_bytes, parse_count, print};
use gguf::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::parts::{self, PartArgs};
use super::passages::{Cut, TextArgs};
use super::{ArithmeticArgs, DeviceArgs, Opened, ProgressBar, files_of, weights_of};

/// Which tokens are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// The second half of each chunk, as llama-perplexity does.
    Halves,
    /// Every token of each chunk but the first.
    Plain,
}

/// Measure how well a model predicts a text
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  evaluate perplexity tiny-llama --text sample.txt
  evaluate perplexity Tiny-Llama-4.2M-Q4_K_M.gguf --text sample.txt --ctx 512 --chunks 40 --json
  evaluate perplexity tiny-llama --text sample.txt --part 1/2 -o parts
  evaluate perplexity tiny-llama --text sample.txt --part 2/2 -o parts
  evaluate gather parts")]
pub struct Args {
    /// A GGUF file or a checkpoint folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    #[command(flatten)]
    text: TextArgs,

    /// Tokens of a chunk
    #[arg(long, short, default_value_t = 512, value_name = "TOKENS")]
    ctx: usize,

    /// At most so many chunks of each text
    #[arg(long, value_name = "N", value_parser = parse_count)]
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

    #[command(flatten)]
    arithmetic: ArithmeticArgs,

    #[command(flatten)]
    device: DeviceArgs,

    #[command(flatten)]
    part: PartArgs,

    /// The folder that parts go to
    #[arg(long, short, requires = "part", value_name = "PATH", help_heading = "Several machines")]
    output: Option<PathBuf>,

    /// Replace a part that exists
    #[arg(long, requires = "part", help_heading = "Several machines")]
    force: bool,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Form::Halves => "halves",
            Form::Plain => "plain",
        }
    }
}

/// What was measured, beside the tokens' values.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    model: Value,
    text: Value,
    texts: Vec<Text>,
    protocol: String,
    #[serde(default)]
    arithmetic: Arithmetic,
    #[serde(default)]
    device: Option<Ran>,
    ctx: usize,
    stride: Option<usize>,
    /// Chunks of the text.
    chunks: usize,
    /// Tokens of a chunk.
    length: usize,
    /// Scored tokens of a chunk.
    scored: usize,
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<Exit> {
    let opened = Opened::for_tokens(&args.model, common)?;
    let (model, tokenizer) = (&opened.model, &opened.tokenizer);
    let passages = args.text.read()?;
    let protocol = match (args.stride, args.protocol) {
        (Some(stride), _) => Protocol::Strided(stride),
        (None, Form::Halves) => Protocol::Halves,
        (None, Form::Plain) => Protocol::Plain,
    };
    let (mut chunks, texts) = passages.chunks(tokenizer, Cut::new(args.ctx, args.chunks, protocol))?;
    let mut facts = Facts {
        model: gguf::quote::json(&args.model),
        text: args.text.json(&passages),
        texts,
        protocol: args.stride.map_or(args.protocol.name(), |_| "stride").into(),
        arithmetic: args.arithmetic.chosen(),
        device: None,
        ctx: args.ctx,
        stride: args.stride,
        chunks: chunks.inputs.len(),
        length: chunks.inputs[0].tokens.len(),
        scored: chunks.scored.len(),
    };
    let mut output = None;
    let part = args.part.part.map(|part| {
        let options = [
            ("protocol", json!(facts.protocol)),
            ("context (--ctx)", json!(facts.ctx)),
            ("distance of chunks (--stride)", json!(facts.stride)),
            ("number of chunks (--chunks)", json!(facts.chunks)),
            ("arithmetic (--arithmetic)", json!(facts.arithmetic)),
        ];
        parts::Run::new(("perplexity", part, "chunks"), &opened.source, passages.digest(), options)
    });
    let part = part.transpose()?;
    if let Some(run) = &part {
        chunks = run.chunks(chunks)?;
        let inputs = files_of([&args.model], &args.text.files());
        output = run.output(&args.model, parts::folder(args.output.as_ref())?, args.force, &inputs)?;
        if output.is_none() {
            return run.finished(common);
        }
    }
    let plan = Schedule::new(model, 1, facts.length, args.max_memory);
    let bar = ProgressBar::new(common, "perplexity", chunks.tokens() as u64);
    let progress = |done: u64, total: u64| bar.at(done, total);
    if !common.quiet && model.context > 0 && args.ctx > model.context {
        bar.say(&format!("note: the model was made for {} tokens, the context is {}", model.context, args.ctx));
    }
    let begun = Instant::now();
    let (nll, device) = args
        .device
        .run(common, |device| {
            let mut nll = Vec::with_capacity(chunks.inputs.len() * facts.scored);
            let weights = OnDevice::new(weights_of(&opened.source, facts.arithmetic)?, device);
            perplexity(model, &weights, &chunks, plan, Some(&progress), |chunk| nll.extend_from_slice(chunk))?;
            Ok(nll)
        })
        .map_err(|e| e.at(&args.model))?;
    facts.device = device;
    bar.finish();
    if let (Some(run), Some(output)) = (part, output) {
        return run.write(output, json!(facts), BTreeMap::from([("nll".to_owned(), Numbers::F64(nll))]), common);
    }
    report(common, &files_of([&args.model], &args.text.files()), &facts, &nll, begun.elapsed().as_secs_f64())?;
    Ok(Exit::Done)
}

/// Reports what all parts of a run come to.
pub fn gather(parts: &Gathered, common: &Common) -> Result<Exit> {
    let at = |e: Error| e.at(&parts.paths[0]);
    let facts: Facts = serde_json::from_value(parts.first().facts.clone())
        .map_err(|e| at(Error::input("holds no perplexity").caused_by(e)))?;
    let nll = parts.f64s(0..parts.parts.len(), "nll")?;
    if facts.scored == 0 || facts.chunks.checked_mul(facts.scored) != Some(nll.len()) {
        return Err(at(Error::input(format!(
            "the parts hold {} scored tokens, {} chunks of {} are wanted",
            nll.len(),
            facts.chunks,
            facts.scored
        ))));
    }
    report(common, &parts.paths, &facts, &nll, parts.seconds())?;
    Ok(Exit::Done)
}

/// A mean negative log-likelihood with both of its errors, and the perplexity that follows.
struct Figures {
    score: Score,
    /// The mean of each chunk.
    chunks: Vec<f64>,
    over_chunks: Option<f64>,
}

impl Figures {
    fn of(nll: &[f64], scored: usize) -> Figures {
        let chunks: Vec<f64> = nll.chunks(scored).map(|chunk| Score::of(chunk).nll()).collect();
        let over_chunks = Some(error_over_chunks(chunks.iter().copied())).filter(|e| e.is_finite());
        Figures { score: Score::of(nll), chunks, over_chunks }
    }

    fn json(&self) -> Value {
        let score = &self.score;
        json!({
            "scored": score.count,
            "mean_nll": score.nll(),
            "mean_nll_error": score.nll_error(),
            "mean_nll_chunk_error": self.over_chunks,
            "ppl": score.ppl(),
            "ppl_error": score.ppl_error(),
            "ppl_chunk_error": self.over_chunks.map(|e| e * score.ppl()),
            "chunk_nll": self.chunks,
        })
    }

    fn ppl_errors(&self) -> String {
        errors(self.score.ppl_error(), self.over_chunks.map(|e| e * self.score.ppl()))
    }
}

fn errors(by_tokens: Option<f64>, by_chunks: Option<f64>) -> String {
    let tokens = by_tokens.map_or(String::new(), |e| format!(" ± {e:.5} over tokens"));
    tokens + &by_chunks.map_or(String::new(), |e| format!(", ± {e:.5} over chunks"))
}

fn report(common: &Common, inputs: &[PathBuf], facts: &Facts, nll: &[f64], seconds: f64) -> Result<()> {
    let tokens = facts.chunks * facts.length;
    let rate = tokens as f64 / seconds;
    let all = Figures::of(nll, facts.scored);
    let mut start = 0;
    let mut of_text = |text: &Text| {
        let own = nll.get(start..start + text.chunks * facts.scored).unwrap_or_default();
        start += own.len();
        Figures::of(own, facts.scored)
    };
    let by_text: Vec<(&Text, Figures)> = facts.texts.iter().map(|text| (text, of_text(text))).collect();
    let mut so_far = Score::default();
    let running: Vec<f64> = nll
        .chunks(facts.scored)
        .map(|chunk| {
            chunk.iter().for_each(|&nll| so_far.add(nll));
            so_far.ppl()
        })
        .collect();
    if common.wants_document() {
        let mut fields = json!({
            "model": facts.model,
            "text": facts.text,
            "protocol": facts.protocol,
            "arithmetic": facts.arithmetic,
            "device": facts.device,
            "ctx": facts.ctx,
            "stride": facts.stride,
            "chunks": facts.chunks,
            "tokens": tokens,
            "running_ppl": running,
            "seconds": seconds,
            "tokens_per_second": rate,
        });
        let mut add = |more: Value| {
            if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
                fields.extend(more);
            }
        };
        add(all.json());
        let texts = by_text.iter().map(|(text, figures)| {
            let mut one = json!(text);
            if let (Some(one), Value::Object(more)) = (one.as_object_mut(), figures.json()) {
                one.extend(more);
            }
            one
        });
        add(json!({ "texts": texts.collect::<Vec<_>>() }));
        return super::print_document(common, "perplexity", inputs, &[], fields);
    }
    if !common.quiet {
        let values: Vec<String> = running.iter().enumerate().map(|(i, p)| format!("[{}] {p:.4}", i + 1)).collect();
        for line in values.chunks(8) {
            eprintln!("{}", line.join("  "));
        }
    }
    let mut out = String::new();
    if by_text.len() > 1 {
        let longest = by_text.iter().map(|(text, _)| text.name.chars().count()).max().unwrap_or(0);
        for (text, figures) in &by_text {
            let (name, ppl) = (&text.name, figures.score.ppl());
            out += &format!("{name:<longest$}  {ppl:.4}{}, {} chunks\n", figures.ppl_errors(), text.chunks);
        }
        out += "\n";
    }
    print(&format!(
        "{out}perplexity  {:.4}{}\nmean nll    {:.6}{}\n{} tokens scored in {} chunks of {}; {:.1} s, {rate:.0} tokens/s\n\
         Arithmetic: {}{}.\n\
         The error over tokens takes them as independent, which is llama.cpp's convention.\n",
        all.score.ppl(),
        all.ppl_errors(),
        all.score.nll(),
        errors(all.score.nll_error(), all.over_chunks),
        count(all.score.count),
        facts.chunks,
        facts.length,
        seconds,
        facts.arithmetic.words(),
        facts.device.as_ref().map_or(String::new(), |device| format!(", on {device}")),
    ))
}
