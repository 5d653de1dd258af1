//! `evaluate embed`.

use std::io::Write;
use std::path::PathBuf;

use eval::device::Ran;
use eval::embed::{self, Head, Pool};
use eval::forward::{Input, Stream};
use eval::weights::{OnDevice, SourceWeights};
use gguf::cli::{Align, Common, Exit, Output, Table, count, parse_bytes, print};
use gguf::{Array, Error, Metadata, Result};
use serde_json::{Value, json};

use super::logits::token_list;
use super::texts::{self, Text};
use super::{DeviceArgs, Opened, ProgressBar, files_of};

/// Texts up to which the table of cosines is shown where nothing else is said.
const SHOWN: usize = 12;

/// Make a vector of each text, or the scores of a classifier or reranker
///
/// The text has a line for each, or JSON lines in a file named .jsonl: "a text", {"text": …}, and for what reads pairs
/// {"query": …, "document": …} or, in plain lines, query and document parted by a tab. States are pooled as the folder or
/// file says, go through the layers that stand behind, and become vectors of length 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  evaluate embed bge-small-en-v1.5 --text questions.txt
  evaluate embed bge-small-en-v1.5-Q8_0.gguf --text questions.jsonl --json
  evaluate embed nomic-embed-text-v1.5 --text passages.txt --prefix 'search_document: ' -o passages.f32
  evaluate embed ms-marco-MiniLM-L6-v2 --text pairs.tsv")]
pub struct Args {
    /// A GGUF file or a checkpoint folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// The texts, UTF-8: a line each, or JSON lines
    #[arg(long, short = 'f', value_name = "FILE", required_unless_present = "tokens")]
    text: Option<PathBuf>,

    /// Token ids instead of texts, separated by commas or blanks, or @FILE with such a list
    #[arg(long, value_name = "IDS|@FILE", conflicts_with_all = ["text", "prefix"])]
    tokens: Option<String>,

    /// What stands in front of every text, such as 'query: '
    #[arg(long, default_value = "", value_name = "TEXT")]
    prefix: String,

    /// How the states of a text become one, where the model says nothing or something else is wanted
    #[arg(long, value_enum, value_name = "HOW")]
    pooling: Option<Pool>,

    /// Vectors of a classifier's states instead of its scores
    #[arg(long)]
    vectors: bool,

    /// Vectors of the length that they have, not of length 1
    #[arg(long)]
    raw: bool,

    /// Tokens of a text at most [default: what the model was made for]
    #[arg(long, short, value_name = "TOKENS")]
    ctx: Option<usize>,

    /// Memory for hidden states and what a layer makes of them
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes, value_name = "SIZE")]
    max_memory: u64,

    #[command(flatten)]
    device: DeviceArgs,

    /// Write the vectors too: rows in order, f32 little-endian without a header
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,

    /// Replace an output that exists
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<Exit> {
    let sources = files_of([&args.model], &args.text);
    if let Some(output) = &args.output {
        Output::check(output, args.force, &sources)?;
    }
    let opened = match args.tokens {
        Some(_) => Opened::for_ids(&args.model, common)?,
        None => Opened::open(&args.model, common)?,
    };
    let scores = embed::scores(&opened.model) && !args.vectors && args.pooling.is_none();
    let (texts, inputs, cut) = match (&args.text, &args.tokens) {
        (Some(path), _) => {
            let texts = texts::read(path, scores)?;
            let (inputs, cut) = texts::encode(&opened, &texts, &args.prefix, args.ctx).map_err(|e| e.at(path))?;
            (texts, inputs, cut)
        }
        (None, Some(ids)) => (Vec::new(), vec![Input::from(token_list(ids)?)], 0),
        (None, None) => return Err(Error::usage("there is no text").help("--text FILE")),
    };
    let tokens: usize = inputs.iter().map(|i| i.tokens.len()).sum();
    let bar = ProgressBar::new(common, "embed", tokens as u64);
    if !common.quiet {
        opened.say_departures(&bar);
        if cut > 0 {
            bar.say(&format!("note: {cut} texts are longer than the model was made for, and were cut"));
        }
    }
    let ((found, pool), device) = args
        .device
        .run(common, |device| {
            let weights = OnDevice::new(SourceWeights(&opened.source), device);
            let head = match scores {
                true => Head::scores(&opened.model, &weights, &opened.behind),
                false => Head::vectors(&opened.model, &weights, &opened.behind, args.pooling, !args.raw),
            }?;
            let stream = Stream { model: &opened.model, weights: &weights };
            let told = |done, total| bar.at(done, total);
            let found =
                embed::run(&[stream], std::slice::from_ref(&head), &inputs, args.max_memory, Some(&told))?.remove(0);
            Ok((found, head.pool()))
        })
        .map_err(|e| e.at(&args.model))?;
    bar.finish();
    if let Some(path) = &args.output {
        let mut output = Output::create(path, args.force, &sources)?;
        let bytes: Vec<u8> = found.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
        output.write_all(&bytes).map_err(|e| Error::io(path, "write", e))?;
        output.commit()?;
    }
    let labels = labels(opened.source.metadata(), found.first().map_or(0, Vec::len));
    let result = Found { texts: &texts, inputs: &inputs, rows: &found, pool, device: &device, normalized: !args.raw };
    match (common.wants_document(), scores) {
        (true, _) => {
            let outputs: Vec<PathBuf> = args.output.iter().cloned().collect();
            let fields = result.json(args, scores.then_some(&labels));
            super::print_document(common, "embed", &sources, &outputs, fields)?;
        }
        (false, true) => print(&result.scores(&labels))?,
        (false, false) => print(&result.cosines())?,
    }
    Ok(Exit::Done)
}

/// The names of a classifier's scores.
pub fn labels(metadata: &Metadata, count: usize) -> Vec<String> {
    let key = metadata.architecture().map(|name| format!("{name}.classifier.output_labels"));
    let stated = key.and_then(|key| metadata.get(&key)).and_then(gguf::Value::as_array);
    let stated: Vec<String> =
        stated.into_iter().flat_map(Array::iter).filter_map(|v| v.as_str().map(str::to_owned)).collect();
    match stated.len() == count {
        true => stated,
        false if count == 1 => vec!["score".to_owned()],
        false => (0..count).map(|i| format!("LABEL_{i}")).collect(),
    }
}

/// What came out.
struct Found<'a> {
    texts: &'a [Text],
    inputs: &'a [Input],
    rows: &'a [Vec<f32>],
    pool: Pool,
    device: &'a Option<Ran>,
    normalized: bool,
}

impl Found<'_> {
    /// What a text is called: its own name, or its number.
    fn name(&self, i: usize) -> String {
        self.texts.get(i).and_then(|t| t.id.clone()).unwrap_or_else(|| (i + 1).to_string())
    }

    fn json(&self, args: &Args, labels: Option<&Vec<String>>) -> Value {
        let each = |(i, row): (usize, &Vec<f32>)| {
            let text = self.texts.get(i);
            let mut value = json!({
                "id": text.and_then(|t| t.id.as_deref()),
                "text": text.map(|t| &t.text),
                "document": text.and_then(|t| t.document.as_deref()),
                "tokens": self.inputs[i].tokens.len(),
            });
            match labels {
                Some(labels) => value["scores"] = labels.iter().zip(row).map(|(l, s)| (l.clone(), json!(s))).collect(),
                None => value["vector"] = json!(row),
            }
            value
        };
        let mut result = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": args.model.display().to_string(),
            "pooling": self.pool.name(),
            "device": self.device,
            "texts": self.rows.iter().enumerate().map(each).collect::<Vec<_>>(),
        });
        match labels {
            Some(labels) => result["labels"] = json!(labels),
            None => {
                result["normalized"] = json!(self.normalized);
                result["dimensions"] = json!(self.rows.first().map_or(0, Vec::len));
                if self.rows.len() <= MOST_COSINES {
                    let row = |a: &Vec<f32>| self.rows.iter().map(|b| json!(cosine(a, b))).collect::<Vec<_>>();
                    result["cosine"] = self.rows.iter().map(row).collect();
                }
            }
        }
        result
    }

    fn scores(&self, labels: &[String]) -> String {
        let mut columns = vec![("text", Align::Right)];
        columns.extend(labels.iter().map(|l| (l.as_str(), Align::Right)));
        columns.push(("", Align::Left));
        let mut table = Table::new(&columns);
        for (i, row) in self.rows.iter().enumerate() {
            let scores = row.iter().map(|s| format!("{s:.4}"));
            table.row([self.name(i)].into_iter().chain(scores).chain([self.shown(i)]));
        }
        table.render()
    }

    /// The table of cosines; of many texts, those of each with its nearest.
    fn cosines(&self) -> String {
        let count = self.rows.len();
        let width = self.rows.first().map_or(0, Vec::len);
        let kind = if self.normalized { "of length 1" } else { "as they come" };
        let mut out =
            format!("{} vectors of {width}, {} pooling, {kind}\n\n", gguf::cli::count(count as u64), self.pool.name());
        if count <= SHOWN {
            let names: Vec<String> = (0..count).map(|i| self.name(i)).collect();
            let mut columns = vec![("cosine", Align::Right)];
            columns.extend(names.iter().map(|n| (n.as_str(), Align::Right)));
            columns.push(("", Align::Left));
            let mut table = Table::new(&columns);
            for (i, a) in self.rows.iter().enumerate() {
                let cosines = self.rows.iter().map(|b| format!("{:.4}", cosine(a, b)));
                table.row([names[i].clone()].into_iter().chain(cosines).chain([self.shown(i)]));
            }
            return out + &table.render();
        }
        let mut table = Table::new(&[
            ("text", Align::Right),
            ("nearest", Align::Right),
            ("cosine", Align::Right),
            ("", Align::Left),
        ]);
        for (i, a) in self.rows.iter().enumerate().take(MOST_COSINES) {
            let others = self.rows.iter().enumerate().filter(|(j, _)| *j != i).map(|(j, b)| (j, cosine(a, b)));
            let Some((j, nearest)) = others.max_by(|a, b| a.1.total_cmp(&b.1)) else { continue };
            table.row([self.name(i), self.name(j), format!("{nearest:.4}"), self.shown(i)]);
        }
        out += &table.render();
        if count > MOST_COSINES {
            out += &format!("the first {} of {}\n", count_of(MOST_COSINES), count_of(count));
        }
        out
    }

    /// The beginning of a text, without what a terminal would obey.
    fn shown(&self, i: usize) -> String {
        let Some(text) = self.texts.get(i) else { return String::new() };
        let whole = match &text.document {
            Some(document) => format!("{} ↔ {document}", text.text),
            None => text.text.clone(),
        };
        let clean: String = whole.chars().map(|c| if c.is_control() { ' ' } else { c }).take(60).collect();
        if clean.len() < whole.len() { clean + "…" } else { clean }
    }
}

/// Texts up to which every cosine is given.
const MOST_COSINES: usize = 1000;

fn count_of(n: usize) -> String {
    count(n as u64)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    eval::similarity::cosine(a, b)
}
