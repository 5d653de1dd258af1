//! `evaluate imatrix`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use eval::collect::{Collector, Sums, imatrix, partial};
use eval::device::Ran;
use eval::forward::Forward;
use eval::parts::{Gathered, Numbers};
use eval::perplexity::{Protocol, Schedule};
use eval::weights::{OnDevice, SourceWeights};
use gguf::cli::{Common, Exit, Output, count, parse_bytes, parse_count, print, say};
use gguf::{Error, Result};
use quantize::imatrix::Imatrix;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::parts::{self, PartArgs};
use super::passages::{Cut, TextArgs};
use super::{DeviceArgs, Opened, ProgressBar, files_of};

/// The file that is written where none is named.
const DEFAULT_OUTPUT: &str = "imatrix.gguf";

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
  evaluate imatrix tiny-llama --text calibration.txt --chunks 24 -o imatrix.dat --format dat
  evaluate imatrix tiny-llama --text calibration.txt --part auto -o parts")]
pub struct Args {
    /// A GGUF file or a checkpoint folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    #[command(flatten)]
    text: TextArgs,

    /// The file to write, with --part the folder that parts go to [default: imatrix.gguf]
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,

    /// Its form
    #[arg(long, value_enum, default_value_t = Form::Gguf, value_name = "FORM")]
    format: Form,

    /// Tokens of a chunk
    #[arg(long, short, default_value_t = 512, value_name = "TOKENS")]
    ctx: usize,

    /// At most so many chunks of each text
    #[arg(long, value_name = "N", value_parser = parse_count)]
    chunks: Option<usize>,

    /// Leave out so many chunks at the beginning of each text
    #[arg(long, value_name = "N", default_value_t = 0)]
    from_chunk: usize,

    /// Take the names of special tokens in the text as these tokens
    #[arg(long)]
    parse_special: bool,

    /// Write the file after every so many chunks too, so that a run that ends early leaves something
    #[arg(long, value_name = "N", value_parser = parse_count, conflicts_with = "part")]
    output_frequency: Option<usize>,

    /// Keep a copy, NAME.at_CHUNKS, after every so many chunks
    #[arg(long, value_name = "N", value_parser = parse_count, conflicts_with = "part")]
    save_frequency: Option<usize>,

    /// Collect for the output matrix too
    #[arg(long)]
    process_output: bool,

    /// Memory for hidden states and what a layer makes of them
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes, value_name = "SIZE")]
    max_memory: u64,

    #[command(flatten)]
    device: DeviceArgs,

    #[command(flatten)]
    part: PartArgs,

    /// Replace a file that exists
    #[arg(long, help_heading = "Output")]
    force: bool,
}

/// What was collected, beside the sums.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    /// The texts' names.
    datasets: Vec<String>,
    /// Chunks of the text.
    chunks: usize,
    /// Tokens of a chunk.
    ctx: usize,
    /// Where it was computed, if not on the processor.
    #[serde(default)]
    device: Option<Ran>,
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<Exit> {
    let inputs = files_of([&args.model], &args.text.files());
    let file = args.output.as_deref().unwrap_or(Path::new(DEFAULT_OUTPUT));
    if args.part.part.is_none() {
        Output::check(file, args.force, &inputs)?;
    }
    let opened = Opened::open(&args.model, common)?;
    let (model, tokenizer) = (&opened.model, &opened.tokenizer);
    let passages = args.text.read()?;
    let cut = Cut {
        from: args.from_chunk,
        parse_special: args.parse_special,
        ..Cut::new(args.ctx, args.chunks, Protocol::Plain)
    };
    let (mut chunks, texts) = passages.chunks(tokenizer, cut)?;
    let datasets = texts.into_iter().map(|text| text.name).collect();
    let facts = Facts { datasets, chunks: chunks.inputs.len(), ctx: args.ctx, device: None };
    let mut output = None;
    let part = args.part.part.map(|part| {
        let options = [
            ("context (--ctx)", json!(facts.ctx)),
            ("number of chunks (--chunks)", json!(facts.chunks)),
            ("set of matrices (--process-output)", json!(args.process_output)),
            ("first chunk (--from-chunk)", json!(args.from_chunk)),
            ("reading of special tokens (--parse-special)", json!(args.parse_special)),
        ];
        parts::Run::new(("imatrix", part, "chunks"), &opened.source, passages.digest(), options)
    });
    let part = part.transpose()?;
    if let Some(run) = &part {
        chunks = run.chunks(chunks)?;
        output = run.output(&args.model, parts::folder(args.output.as_ref())?, args.force, &inputs)?;
        if output.is_none() {
            return run.finished(common);
        }
    }
    let plan = Schedule::new(model, 1, args.ctx, args.max_memory);
    let bar = ProgressBar::new(common, "imatrix", chunks.tokens() as u64);
    let begun = Instant::now();
    let all = chunks.inputs.len();
    let mut stored_before = false;
    let (sums, device) = args.device.run(common, |device| {
        let collector = Collector::new(&opened.source, args.process_output);
        let weights = OnDevice::new(SourceWeights(&opened.source), device);
        let mut done = 0;
        while done < all {
            // A pass ends where something is written.
            let steps = [args.output_frequency, args.save_frequency].into_iter().flatten();
            let next =
                steps.map(|n| (done / n + 1) * n).chain([done + plan.sequences.max(1), all]).min().unwrap_or(all);
            let passed = &chunks.inputs[done..next];
            let told = |part: u64, total: u64| {
                let of = |chunks: usize| chunks as u64 * total;
                bar.at(of(done) + part * (next - done) as u64, of(all));
            };
            let forward = Forward::new(model, &weights).limits(plan.limits).observer(&collector).progress(&told);
            if args.process_output {
                forward.logits(passed, |_| 0..args.ctx, |_| Ok(())).map_err(|e| e.at(&args.model))?;
            } else {
                forward.hidden(passed).map_err(|e| e.at(&args.model))?;
            }
            done = next;
            let at = |frequency: Option<usize>| frequency.is_some_and(|n| done.is_multiple_of(n)) && done < all;
            let so_far = Facts { datasets: facts.datasets.clone(), chunks: done, ctx: facts.ctx, device: None };
            if at(args.output_frequency) {
                // What this run wrote before is replaced.
                store((file, args.format, args.force || stored_before), &inputs, &so_far, &collector.so_far())?;
                stored_before = true;
            }
            if at(args.save_frequency) {
                let mut name = file.as_os_str().to_owned();
                name.push(format!(".at_{done}"));
                store((Path::new(&name), args.format, args.force), &inputs, &so_far, &collector.so_far())?;
            }
        }
        Ok(collector.finish())
    })?;
    bar.finish();
    let facts = Facts { device, ..facts };
    if let (Some(run), Some(output)) = (part, output) {
        let mut facts = json!(facts);
        facts["shapes"] = sums.iter().map(|(name, s)| (name.clone(), json!([s.columns, s.counts.len()]))).collect();
        return run.write(output, facts, to_numbers(&sums), common);
    }
    let seconds = begun.elapsed().as_secs_f64();
    write(common, (file, args.format, args.force || stored_before), &inputs, &facts, &sums, seconds)
}

/// Writes the file: its entries.
fn store(
    (file, form, force): (&Path, Form, bool),
    inputs: &[PathBuf],
    facts: &Facts,
    sums: &BTreeMap<String, Sums>,
) -> Result<usize> {
    let datasets = facts.datasets.clone();
    let matrix = Imatrix { datasets, ..imatrix(sums, "", facts.chunks as u32, facts.ctx as u32) };
    let bytes = match form {
        Form::Gguf => matrix.to_gguf()?,
        Form::Dat => matrix.to_dat(),
    };
    let mut out = Output::create(file, force, inputs)?;
    out.write_all(&bytes).map_err(|e| Error::io(file, "write", e))?;
    out.commit()?;
    Ok(matrix.entries.len())
}

/// The sums of a part: for each matrix both halves of each sum, the upper first, and the counts behind them.
fn to_numbers(sums: &BTreeMap<String, Sums>) -> BTreeMap<String, Numbers> {
    let halves = |&sum: &i128| [(sum >> 64) as i64, sum as i64];
    let of = |s: &Sums| Numbers::I64(s.sums.iter().flat_map(halves).chain(s.counts.iter().copied()).collect());
    sums.iter().map(|(name, sums)| (name.clone(), of(sums))).collect()
}

/// The sums that a part's numbers stand for.
fn from_numbers(numbers: &[i64], columns: usize, experts: usize) -> Option<Sums> {
    let values = columns.checked_mul(experts)?;
    let (halves, counts) = numbers.split_at_checked(values.checked_mul(2)?)?;
    let whole = |[high, low]: &[i64; 2]| (i128::from(*high) << 64) | i128::from(low.cast_unsigned());
    let sums: Vec<i128> = halves.as_chunks().0.iter().map(whole).collect();
    (counts.len() == experts).then(|| Sums { columns, sums, counts: counts.to_vec() })
}

/// Writes the importance matrix of all parts of a run.
pub fn gather(parts: &Gathered, (file, form, force): (Option<&Path>, Form, bool), common: &Common) -> Result<Exit> {
    let file = file.unwrap_or(Path::new(DEFAULT_OUTPUT));
    Output::check(file, force, &parts.paths)?;
    let mut all: BTreeMap<String, Sums> = BTreeMap::new();
    for (at, (path, part)) in parts.paths.iter().zip(&parts.parts).enumerate() {
        let wrong = |name: &str| Error::input(format!("holds sums of {name} that do not fit")).at(path);
        let shapes: BTreeMap<String, (usize, usize)> = serde_json::from_value(part.facts["shapes"].clone())
            .map_err(|e| Error::input("holds no sums").at(path).caused_by(e))?;
        for (name, (columns, experts)) in shapes {
            let sums = from_numbers(&parts.i64s(at..at + 1, &name)?, columns, experts).ok_or_else(|| wrong(&name))?;
            match all.get_mut(&name) {
                Some(so_far) => {
                    if !so_far.add(&sums) {
                        return Err(wrong(&name));
                    }
                }
                None => drop(all.insert(name, sums)),
            }
        }
    }
    let facts: Facts = serde_json::from_value(parts.first().facts.clone())
        .map_err(|e| Error::input("holds no sums").at(&parts.paths[0]).caused_by(e))?;
    write(common, (file, form, force), &parts.paths, &facts, &all, parts.seconds())
}

/// Writes the file and says what is in it.
fn write(
    common: &Common,
    (file, form, force): (&Path, Form, bool),
    inputs: &[PathBuf],
    facts: &Facts,
    sums: &BTreeMap<String, Sums>,
    seconds: f64,
) -> Result<Exit> {
    let partial = partial(sums);
    if !common.quiet {
        for (name, without, all) in &partial {
            say(&format!("note: {name}: {without} of {all} experts saw no token; a longer text would reach them"));
        }
    }
    let entries = store((file, form, force), inputs, facts, sums)?;
    let tokens = facts.chunks * facts.ctx;
    if common.wants_document() {
        let fields = json!({
            "output": gguf::quote::json(file),
            "entries": entries,
            "chunks": facts.chunks,
            "tokens": tokens,
            "partial": partial.iter().map(|(name, without, all)| json!({"tensor": name, "experts_without_data": without,
                "experts": all})).collect::<Vec<_>>(),
            "device": facts.device,
            "seconds": seconds,
        });
        super::print_document(common, "imatrix", inputs, &[file.to_path_buf()], fields)?;
    } else {
        print(&format!(
            "{}: the importance of {} matrices over {} tokens in {} chunks of {}; {seconds:.1} s\n",
            gguf::quote::path(file),
            entries,
            count(tokens as u64),
            facts.chunks,
            facts.ctx,
        ))?;
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_read_back_as_they_were() {
        let sums = Sums { columns: 2, sums: vec![-1, i128::MAX, 1 << 70, u64::MAX.into()], counts: vec![3, 4] };
        let numbers = to_numbers(&BTreeMap::from([("w".to_owned(), sums.clone())]));
        let Numbers::I64(numbers) = &numbers["w"] else { panic!("sums are i64") };
        assert_eq!(from_numbers(numbers, 2, 2), Some(sums));
        assert_eq!(from_numbers(numbers, 3, 2), None);
        assert_eq!(from_numbers(numbers, usize::MAX, 2), None);
    }
}
