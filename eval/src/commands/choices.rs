//! `evaluate choices`.

use std::path::PathBuf;
use std::time::Instant;

use eval::choices::{Format, Paired, Question, answer, read};
use eval::divergence::Estimate;
use eval::encoded::{Encoded, Precision};
use eval::forward::Stream;
use eval::perplexity::Schedule;
use eval::report::gate::{self, Gate, Judged, Limit, LimitRule, Measure, parse_share};
use eval::weights::{Arithmetic, Deployed, Weights};
use gguf::cli::{Align, Common, Exit, Table, parse_bytes, parse_count, print, say};
use gguf::digest::sha256;
use gguf::{Error, Result};
use serde_json::json;

use super::comparison::{arithmetic, arithmetic_words, check_measures, open_other};
use super::{ArithmeticArgs, Opened, ProgressBar, files_of, name_of, open_importance, read_text, weights_of};

/// Ask questions with several answers, and count which ones a precision answers otherwise than its base
///
/// The first model is the base. Answers are llama-perplexity's: the choice with the greatest mean log-probability.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  evaluate choices tiny-llama --file hellaswag_val_full.txt --format hellaswag --type q8_0,q4_k_m
  evaluate choices tiny-llama Tiny-Llama-4.2M-Q4_K_M.gguf --file winogrande.csv --format winogrande
  evaluate choices tiny-llama --file arc.jsonl --format multiple-choice --type q4_k_m --max-flips 2%

A line of JSON: {\"question\": …, \"choices\": [\"…\", \"…\"], \"answer\": 0}; for winogrande sentence, option1, option2, answer.

Exit codes: 0 done and within the limits, 1 beyond a limit, 2 wrong usage, 3 bad input, 4 the system failed.")]
pub struct Args {
    /// The base: a GGUF file or a checkpoint folder
    #[arg(value_name = "BASE")]
    base: PathBuf,

    /// Models to compare with it
    #[arg(value_name = "MODEL")]
    models: Vec<PathBuf>,

    /// Types to encode the base's own weights to, in memory, separated by commas or given again
    #[arg(long = "type", short = 't', alias = "types", value_delimiter = ',', value_name = "TYPE")]
    types: Vec<Precision>,

    /// The questions
    #[arg(long, value_name = "FILE")]
    file: PathBuf,

    /// How they are written and scored: hellaswag, winogrande or multiple-choice
    #[arg(long, value_name = "FORM")]
    format: Format,

    /// Only the first so many
    #[arg(long, value_name = "N", value_parser = parse_count)]
    questions: Option<usize>,

    /// An importance matrix for the types that are encoded
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,

    /// Memory for hidden states and what a layer makes of them
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes, value_name = "SIZE")]
    max_memory: u64,

    #[command(flatten)]
    arithmetic: ArithmeticArgs,

    /// The largest share of questions that become wrong or right, such as 2%
    #[arg(long, value_parser = |t: &str| Measure::Flips.limit(t), value_name = "SHARE", help_heading = "Gate")]
    max_flips: Option<Limit>,

    /// A TOML file of limits, of which `max-flips` counts here
    #[arg(long, value_name = "FILE", help_heading = "Gate")]
    gate: Option<PathBuf>,

    /// Ask that a limit holds with this certainty, such as 95%
    #[arg(long, value_parser = parse_share, value_name = "SHARE", help_heading = "Gate")]
    confidence: Option<f64>,
}

/// A model's row.
struct Row {
    name: String,
    paired: Paired,
}

impl Judged for Row {
    fn name(&self) -> &str {
        &self.name
    }

    fn measured(&self, measure: Measure) -> Option<Estimate> {
        let (value, error) = self.paired.flips();
        (measure == Measure::Flips).then_some(Estimate { value, error, chunk_error: f64::NAN })
    }
}

impl Args {
    fn gate(&self) -> Result<Gate> {
        let mut gate = match &self.gate {
            Some(path) => Gate::parse(&read_text(path)?).map_err(|e| e.at(path))?,
            None => Gate::default(),
        };
        gate.rules.push(LimitRule { limits: self.max_flips.into_iter().collect(), ..LimitRule::default() });
        gate.confidence = self.confidence.or(gate.confidence);
        gate.check()?;
        check_measures(&gate, &[Measure::Flips], "answers")?;
        if gate.limits().next().is_none() && (self.gate.is_some() || self.confidence.is_some()) {
            return Err(Error::usage("there is no limit to judge by").help("add --max-flips"));
        }
        Ok(gate)
    }
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<Exit> {
    let begun = Instant::now();
    let gate = args.gate()?;
    let arithmetic = arithmetic(args.arithmetic, &gate)?;
    let base = Opened::for_tokens(&args.base, common)?;
    let importance = args.imatrix.as_deref().map(open_importance).transpose()?;
    let others = args.models.iter().map(|path| open_other(&base, path, common)).collect::<Result<Vec<_>>>()?;
    let encoded = args
        .types
        .iter()
        .map(|&precision| Encoded::new(&base.source, precision, importance.as_ref()).map_err(|e| e.at(&args.base)))
        .collect::<Result<Vec<_>>>()?;
    let file = read_text(&args.file)?;
    let written = read(file.as_bytes(), args.format).map_err(|e| e.at(&args.file))?;
    let encode = |text: &str| base.tokenizer.encode(text, true, false);
    let questions = written
        .iter()
        .take(args.questions.unwrap_or(usize::MAX))
        .enumerate()
        .map(|(i, written)| {
            let question = Question::new(written, args.format, encode);
            question.map_err(|e| e.about(format_args!("question {i}")).at(&args.file))
        })
        .collect::<Result<Vec<_>>>()?;

    // The base is what the others are measured by; alone it is what is measured.
    let alone = others.is_empty() && encoded.is_empty();
    let base_arithmetic = if alone { arithmetic } else { Arithmetic::Exact };
    let base_weights = weights_of(&base.source, base_arithmetic).map_err(|e| e.at(&args.base))?;
    let mut names = Vec::new();
    let mut weights: Vec<(&eval::model::Model, Box<dyn Weights + '_>)> = Vec::new();
    for (path, other) in args.models.iter().zip(&others) {
        names.push(name_of(path));
        weights.push((&other.model, weights_of(&other.source, arithmetic).map_err(|e| e.at(path))?));
    }
    for (precision, encoded) in args.types.iter().zip(&encoded) {
        names.push(precision.to_string());
        weights.push((
            &base.model,
            match arithmetic {
                Arithmetic::Exact => Box::new(encoded),
                Arithmetic::Deployed => Box::new(Deployed::new(encoded)),
            },
        ));
    }
    let streams: Vec<Stream<'_>> = std::iter::once(Stream { model: &base.model, weights: &*base_weights })
        .chain(weights.iter().map(|(model, weights)| Stream { model, weights: &**weights }))
        .collect();

    let longest = questions.iter().flat_map(|q| &q.sequences).map(Vec::len).max().unwrap_or(1);
    let tokens: usize = questions.iter().flat_map(|q| &q.sequences).map(Vec::len).sum();
    let plan = Schedule::new(&base.model, streams.len(), longest, args.max_memory);
    let bar = ProgressBar::new(common, "choices", tokens as u64);
    let answers =
        answer(&streams, &questions, plan, Some(&|done, total| bar.at(done, total))).map_err(|e| e.at(&args.base))?;
    bar.finish();

    let own = Paired::new(&questions, &answers[0], &answers[0]);
    let rows: Vec<Row> = names
        .into_iter()
        .zip(&answers[1..])
        .map(|(name, answers_of)| Row { name, paired: Paired::new(&questions, &answers[0], answers_of) })
        .collect();
    let name = args.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let verdicts = gate::judge(&rows, &gate, &name, false);
    let words = if alone { arithmetic.words().to_owned() } else { arithmetic_words(arithmetic) };
    let flipped = |answers_of: &[usize], lost: bool| -> Vec<usize> {
        let of = |i: &usize| {
            let (before, now) = (answers[0][*i] == questions[*i].answer, answers_of[*i] == questions[*i].answer);
            before != now && before == lost
        };
        (0..questions.len()).filter(of).collect()
    };
    if common.wants_document() {
        let accuracy = |paired: &Paired| {
            let (value, error) = paired.accuracy();
            json!({ "value": value, "error": error })
        };
        let models: Vec<_> = rows
            .iter()
            .zip(&answers[1..])
            .map(|(row, answers_of)| {
                let (difference, error) = row.paired.difference();
                json!({
                    "name": row.name,
                    "right": row.paired.right,
                    "accuracy": accuracy(&row.paired),
                    "difference": { "value": difference, "error": error },
                    "lost": flipped(answers_of, true),
                    "gained": flipped(answers_of, false),
                    "changed": row.paired.changed,
                    "p_value": row.paired.p_value(),
                    "answers": answers_of,
                })
            })
            .collect();
        let fields = json!({
            "base": { "name": name_of(&args.base), "right": own.right, "accuracy": accuracy(&own), "answers": answers[0] },
            "file": name,
            "file_sha256": sha256(file.as_bytes()),
            "format": args.format.name(),
            "arithmetic": words,
            "questions": questions.len(),
            "models": models,
            "gate": verdicts.iter().map(|v| json!({ "model": v.model, "holds": v.holds, "sentence": v.sentence })).collect::<Vec<_>>(),
            "seconds": begun.elapsed().as_secs_f64(),
        });
        let models = [&args.base].into_iter().chain(&args.models);
        super::print_document(common, "choices", &files_of(models, std::slice::from_ref(&args.file)), &[], fields)?;
    } else {
        let percent = |(value, error): (f64, f64)| format!("{:.2} ± {:.2}", 100.0 * value, 100.0 * error);
        let mut table = Table::new(&[
            ("model", Align::Left),
            ("right", Align::Right),
            ("accuracy, %", Align::Right),
            ("difference, %", Align::Right),
            ("lost", Align::Right),
            ("gained", Align::Right),
            ("changed", Align::Right),
            ("p", Align::Right),
        ]);
        let dash = || "–".to_owned();
        table.row([
            name_of(&args.base),
            own.right.to_string(),
            percent(own.accuracy()),
            dash(),
            dash(),
            dash(),
            dash(),
            dash(),
        ]);
        for Row { name, paired } in &rows {
            table.row([
                name.clone(),
                paired.right.to_string(),
                percent(paired.accuracy()),
                percent(paired.difference()),
                paired.lost.to_string(),
                paired.gained.to_string(),
                paired.changed.to_string(),
                format!("{:.3}", paired.p_value()),
            ]);
        }
        print(&format!(
            "{}\n{} questions of {name} ({}). Arithmetic: {words}.\n\
             lost, gained: right before and wrong now, and the other way; p: how often chance alone flips as unevenly.\n",
            table.render(),
            questions.len(),
            args.format.name(),
        ))?;
    }
    verdicts.iter().filter(|_| !common.wants_document()).for_each(|v| say(&v.sentence));
    Ok(if verdicts.iter().all(|v| v.holds) { Exit::Done } else { Exit::No })
}
