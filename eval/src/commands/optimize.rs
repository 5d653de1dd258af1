//! `evaluate optimize`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use eval::encoded::Encoded;
use eval::forward::Input;
use eval::optimize::judge::{Verdict, judge};
use eval::optimize::{Job, Options, Outcome, Store, own_text};
use eval::parts::Gathered;
use eval::perplexity::{Chunks, Protocol};
use eval::weights::Stored;
use gguf::cli::{Common, Exit, Output, count, parse_bytes, print, print_json};
use gguf::digest::{sha256, sha256_file};
use gguf::{Error, Result, Source, TensorType, Value};
use quantize::parts::Part;
use quantize::pattern::Pattern;
use quantize::pipeline::{self, Settings};
use quantize::plan::{self, Plan, Written, parse_tensor_rule, parse_tensor_type};
use quantize::recipe::{FileType, Wishes};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::parts::{self, PartArgs};
use super::{Opened, ProgressBar, files_of, read_text};

/// Choose better numbers for a type: less loss at the same size, in a file that every reader decodes
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  evaluate optimize tiny-llama --type q4_k_m --calibrate calibration.txt -o Tiny-Llama-4.2M-Q4_K_M.gguf
  evaluate optimize tiny-llama --type q4_k_m --type q3_k_m --calibrate self -o quantized/
  evaluate optimize tiny-llama --type q4_k_m --calibrate calibration.txt -o out.gguf --resume
  evaluate optimize tiny-llama --type q4_k_m --type iq3_s --calibrate calibration.txt --part 1/2 -o quantized/

The text should be of the kind that the model is used for, 16,000 tokens or more; `self` lets the model write it.")]
pub struct Args {
    /// A GGUF file or a checkpoint folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// The type of file, as `quantize` has it; several make several files
    #[arg(short, long = "type", value_name = "TYPE", value_parser = file_type, required_unless_present = "plan")]
    types: Vec<&'static FileType>,

    /// The text, UTF-8, or `self` for text that the model writes
    #[arg(long, value_name = "TEXT")]
    calibrate: PathBuf,

    /// The file to write; a folder where there are several types [default: NAME-TYPE.gguf in the current folder]
    #[arg(long, short, value_name = "OUTPUT")]
    output: Option<PathBuf>,

    /// Tokens of a chunk
    #[arg(long, short, default_value_t = 512, value_name = "N")]
    ctx: usize,

    /// At most so many chunks; with `self`, so many texts [default: all of the text; 64 with `self`]
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,

    /// What the random numbers of `self` begin with
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,

    /// Go on where a run that was stopped was: finished layers lie beside the output
    #[arg(long)]
    resume: bool,

    /// Memory for the moments of experts, and for what a layer makes of the activations
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes, value_name = "SIZE")]
    max_memory: u64,

    /// Give every tensor the same type, without the recipe's exceptions
    #[arg(long, help_heading = "Types of tensors")]
    pure: bool,

    /// Leave output.weight as it is
    #[arg(long, help_heading = "Types of tensors")]
    leave_output_tensor: bool,

    /// The type of output.weight
    #[arg(long, value_name = "TYPE", value_parser = parse_tensor_type, help_heading = "Types of tensors")]
    output_tensor_type: Option<TensorType>,

    /// The type of the token embedding
    #[arg(long, value_name = "TYPE", value_parser = parse_tensor_type, help_heading = "Types of tensors")]
    token_embedding_type: Option<TensorType>,

    /// The type of tensors whose name matches a regular expression; the first that matches wins
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = parse_tensor_rule, help_heading = "Types of tensors")]
    tensor_type: Vec<(String, TensorType)>,

    /// Follow a plan of `quantize`, or write one if the file does not exist
    #[arg(long, value_name = "FILE", help_heading = "Types of tensors")]
    plan: Option<PathBuf>,

    /// Quantize tensors again that are quantized already
    #[arg(long, help_heading = "Types of tensors")]
    allow_requantize: bool,

    /// Replace files that exist
    #[arg(long, help_heading = "Output")]
    force: bool,

    #[command(flatten)]
    parts: PartArgs,

    #[command(flatten)]
    without: Without,
}

/// Steps that are left out, to measure what they give.
#[derive(Debug, clap::Args)]
struct Without {
    /// Round each value by itself
    #[arg(long, hide = true)]
    no_feedback: bool,
    /// Take fitted scales as they are
    #[arg(long, hide = true)]
    no_scales: bool,
    /// No descent after the feedback
    #[arg(long, hide = true)]
    no_descent: bool,
    /// The original's weights are the target
    #[arg(long, hide = true)]
    no_targets: bool,
    /// The residual stream keeps its error
    #[arg(long, hide = true)]
    no_residual: bool,
    /// Chosen bytes always win
    #[arg(long, hide = true)]
    no_judge: bool,
    /// Sweeps of the descent
    #[arg(long, hide = true, default_value_t = 2)]
    sweeps: usize,
    /// Integers that are tried on either side of a scale
    #[arg(long, hide = true, default_value_t = 2)]
    reach: i32,
    /// Share of the mean that is added to the diagonal of the moments
    #[arg(long, hide = true, default_value_t = 0.01)]
    damping: f64,
    /// The same for what targets are moved by
    #[arg(long, hide = true, default_value_t = 0.05)]
    target_damping: f64,
}

fn file_type(text: &str) -> Result<&'static FileType, String> {
    text.parse().map_err(|_| "no such type; `quantize --help` lists them".to_owned())
}

/// The shortest text that is not warned of.
const FEW_TOKENS: usize = 16_384;
/// One chunk of so many is held back, and at most so many.
const HELD_BACK: usize = 16;
const MOST_HELD: usize = 8;
/// Texts that the model writes.
const OWN_TEXTS: usize = 64;

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<Exit> {
    let opened = Opened::open(&args.model, common)?;
    let plans = plans(args, &opened)?;
    let targets = targets(args, &plans)?;
    let inputs = files_of([&args.model], [&args.calibrate]);
    for target in targets.iter().filter(|_| args.parts.part.is_none()) {
        Output::check(target, args.force, &inputs)?;
    }
    if let Some(part) = args.parts.part {
        return run_part(args, part, common, &opened, &plans, &inputs);
    }
    let text = Text::new(args, common, &opened)?;
    let mut reports = Vec::new();
    for (plan, target) in plans.iter().zip(&targets) {
        let one = One { args, common, opened: &opened, text: &text, plan, target, resume: args.resume };
        reports.push(one.run()?);
        if !common.json {
            print(&reports[reports.len() - 1].text())?;
        }
    }
    if common.json {
        print_json(&json!({
            "schema": 1,
            "program": concat!("evaluate ", env!("CARGO_PKG_VERSION")),
            "model": args.model.display().to_string(),
            "calibration": {"text": text.name, "sha256": text.sha256, "tokens": text.tokens(),
                "held_back": text.held.len() * args.ctx, "context": args.ctx},
            "files": reports,
        }))?;
    }
    Ok(Exit::Done)
}

/// What a part has made: a file of each of its types.
#[derive(Default, Serialize, Deserialize)]
struct Made {
    /// The types of the part.
    types: Vec<String>,
    /// The files that are finished, in the order of the types.
    files: Vec<MadeFile>,
}

#[derive(Serialize, Deserialize)]
struct MadeFile {
    report: Report,
    name: String,
    sha256: String,
}

impl MadeFile {
    /// Whether the file of this name is there and the one that was made.
    fn is_in(&self, folder: &Path) -> Result<bool> {
        let path = folder.join(&self.name);
        Ok(path.is_file() && sha256_file(&path, |_| ())?.0 == self.sha256)
    }
}

/// Makes the files of one part's types. Every layer hangs on all chunks of the layers before, so types are what can be
/// divided; a run that was stopped goes on where it was.
fn run_part(
    args: &Args,
    part: Part,
    common: &Common,
    opened: &Opened,
    plans: &[Plan],
    inputs: &[PathBuf],
) -> Result<Exit> {
    let folder = parts::folder(args.output.as_ref())?;
    let share = eval::parts::share(part, plans.len(), "types")?;
    let text = match args.is_self() {
        true => format!("self, seed {}", args.seed),
        false => read_text(&args.calibrate)?,
    };
    let all: String = plans.iter().map(Plan::to_toml).collect();
    let options = [
        ("set of types", json!(sha256(all.as_bytes()))),
        ("context", json!(args.ctx)),
        ("number of chunks", json!(args.chunks)),
        ("set of steps", json!(format!("{:?}", args.without))),
    ];
    let run = parts::Run::new(("optimize", part, "types"), &opened.source, &text, options)?;
    let record = run.path(&args.model, folder)?;
    let types: Vec<String> = plans[share.clone()].iter().map(|plan| plan.file_type.name.to_owned()).collect();
    let mut made = Made { types, files: Vec::new() };
    if let Some(earlier) = if args.force { None } else { run.earlier(&record)? } {
        let earlier: Made = serde_json::from_value(earlier.facts)
            .map_err(|e| Error::input("is no part of `evaluate optimize`").caused_by(e).at(&record))?;
        for file in earlier.files {
            if !file.is_in(folder)? {
                break;
            }
            made.files.push(file);
        }
    }
    let left = &plans[share.start + made.files.len().min(share.len())..share.end];
    if left.is_empty() {
        return run.finished(common);
    }
    let text = Text::new(args, common, opened)?;
    let mut written = None;
    for plan in left {
        let target = folder.join(usual_name(&args.model, plan));
        Output::check(&target, args.force, inputs)?;
        let report = One { args, common, opened, text: &text, plan, target: &target, resume: true }.run()?;
        if !common.json {
            print(&report.text())?;
        }
        let name = usual_name(&args.model, plan);
        made.files.push(MadeFile { report, name, sha256: sha256_file(&target, |_| ())?.0 });
        let facts = serde_json::to_value(&made).map_err(|e| Error::usage("cannot be put into words").caused_by(e))?;
        written = Some(run.save(Output::create(&record, true, inputs)?, facts, BTreeMap::new())?);
    }
    match written {
        Some((size, seconds)) => run.say(Some((&record, size)), seconds, common),
        None => run.finished(common),
    }
}

/// Looks whether the files of all parts are there and what they were when they were written, and tells what each lost.
pub fn gather(parts: &Gathered, common: &Common) -> Result<Exit> {
    let mut reports = Vec::new();
    for (path, found) in parts.paths.iter().zip(&parts.parts) {
        let made: Made = serde_json::from_value(found.facts.clone())
            .map_err(|e| Error::input("is no part of `evaluate optimize`").caused_by(e).at(path))?;
        let again = |error: Error| error.help(format!("run part {} again", found.part.no));
        if let Some(ty) = made.types.get(made.files.len()) {
            return Err(again(Error::input(format!("the file of {ty} is not finished")).at(path)));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        for file in made.files {
            if !file.is_in(folder)? {
                let fault = Error::input("is missing, or not what its part wrote").at(folder.join(&file.name));
                return Err(again(fault));
            }
            reports.push(file.report);
        }
    }
    if common.json {
        print_json(&json!({"schema": 1, "files": reports}))?;
    } else {
        print(&reports.iter().map(Report::text).collect::<String>())?;
    }
    Ok(Exit::Done)
}

/// The types of each tensor for each type of file.
fn plans(args: &Args, opened: &Opened) -> Result<Vec<Plan>> {
    let mut tensors = Vec::with_capacity(args.tensor_type.len());
    for (pattern, ty) in &args.tensor_type {
        tensors.push((Pattern::anywhere("--tensor-type", pattern)?, *ty));
    }
    let wishes = Wishes {
        pure: args.pure,
        leave_output: args.leave_output_tensor,
        output: args.output_tensor_type,
        embedding: args.token_embedding_type,
        tensors,
    };
    let (mut types, mut fixed) = (args.types.clone(), None);
    if let Some(path) = args.plan.as_deref() {
        if types.len() > 1 {
            return Err(Error::usage("a plan is of one type").help("give --type once with --plan"));
        }
        if path.exists() {
            let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "read", e))?;
            let (file_type, tensors) = Written::parse(&text).map_err(|e| e.at(path))?;
            if types.iter().any(|t| *t != file_type) {
                return Err(Error::usage(format!("the plan is of type {file_type}, not {}", types[0]))
                    .at(path)
                    .help("leave --type out, or name another file to write a new plan"));
            }
            (types, fixed) = (vec![file_type], Some(tensors));
        } else if types.is_empty() {
            return Err(Error::usage("there is no such plan").at(path).help("with --type it is written"));
        }
    }
    let write = args.plan.as_deref().filter(|_| fixed.is_none());
    let options = plan::Options {
        wishes,
        fixed,
        allow_requantize: args.allow_requantize,
        measured: true,
        ..plan::Options::default()
    };
    let source = &opened.source;
    let plans = types.iter().map(|t| Plan::new(source.metadata(), source.tensors(), t, &options, None));
    let plans = plans.collect::<Result<Vec<_>>>().map_err(|e| e.at(&args.model))?;
    if let (Some(path), Some(plan)) = (write, plans.first()) {
        std::fs::write(path, plan.to_toml()).map_err(|e| Error::io(path, "write", e))?;
    }
    Ok(plans)
}

impl Args {
    /// Whether the model writes the text.
    fn is_self(&self) -> bool {
        self.calibrate.as_os_str() == "self" && !Path::new("self").exists()
    }
}

/// What a file is called where nobody says.
fn usual_name(model: &Path, plan: &Plan) -> String {
    format!("{}-{}.gguf", super::name_of(model), plan.file_type.name)
}

/// Where each file goes.
fn targets(args: &Args, plans: &[Plan]) -> Result<Vec<PathBuf>> {
    let usual = |plan: &Plan| usual_name(&args.model, plan);
    match args.output.as_deref() {
        Some(folder) if folder.is_dir() => Ok(plans.iter().map(|p| folder.join(usual(p))).collect()),
        // Parts make it.
        Some(folder) if args.parts.part.is_some() => Ok(plans.iter().map(|p| folder.join(usual(p))).collect()),
        Some(file) if plans.len() == 1 => Ok(vec![file.to_path_buf()]),
        Some(folder) => {
            Err(Error::usage("several types need a folder to go to").at(folder).help("make the folder first"))
        }
        None => Ok(plans.iter().map(|p| PathBuf::from(usual(p))).collect()),
    }
}

/// The calibration text.
struct Text {
    name: String,
    sha256: String,
    text: Vec<Input>,
    held: Vec<Input>,
    context: usize,
}

impl Text {
    fn new(args: &Args, common: &Common, opened: &Opened) -> Result<Text> {
        let (model, tokenizer) = (&opened.model, &opened.tokenizer);
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let (name, sha256, mut inputs) = if args.is_self() {
            let count = args.chunks.unwrap_or(OWN_TEXTS);
            let first = bos.or(tokenizer.bos()).or(tokenizer.eos()).unwrap_or(0);
            let bar = ProgressBar::new(common, "writing text", (count * args.ctx) as u64);
            let mut done = 0;
            let total = (count * args.ctx.saturating_sub(1)) as u64;
            let size = (count, args.ctx);
            let texts = own_text(model, &Stored(&opened.source), first, size, args.seed, |tokens| {
                done += tokens as u64;
                bar.at(done, total);
            });
            let texts = texts.map_err(|e| e.at(&args.model))?;
            bar.finish();
            let tokens: Vec<u8> = texts.iter().flat_map(|t| &t.tokens).flat_map(|t| t.to_le_bytes()).collect();
            (format!("self, seed {}", args.seed), sha256(&tokens), texts)
        } else {
            let text = read_text(&args.calibrate)?;
            let tokens = tokenizer.encode(&text, true, false).map_err(|e| e.at(&args.calibrate))?;
            let chunks = Chunks::new(&tokens, bos, args.ctx, args.chunks, Protocol::Plain);
            let name = args.calibrate.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, sha256(text.as_bytes()), chunks.map_err(|e| e.at(&args.calibrate))?.inputs)
        };
        if inputs.len() < 2 {
            return Err(Error::input(format!(
                "the text has one chunk of {} tokens, and one is held back to judge by",
                args.ctx
            ))
            .at(&args.calibrate)
            .help("give a longer text, or a smaller --ctx"));
        }
        let held = inputs.split_off(inputs.len() - (inputs.len() / HELD_BACK).clamp(1, MOST_HELD));
        let text = Text { name, sha256, text: inputs, held, context: args.ctx };
        if !common.quiet {
            text.warn(opened);
        }
        Ok(text)
    }

    fn tokens(&self) -> usize {
        self.text.len() * self.context
    }

    fn warn(&self, opened: &Opened) {
        let widest = opened.source.tensors().iter().filter(|t| t.name().contains("blk.") && t.shape().dims().len() > 1);
        let widest = widest.map(|t| t.shape().row_len()).max().unwrap_or(0) as usize;
        let needed = FEW_TOKENS.max(2 * widest);
        if self.tokens() + self.held.len() * self.context < needed {
            eprintln!(
                "warning: {} tokens are few: with rows of {widest} values, {} or more tell reliably what matters; what was \
                 seen too little is damped more",
                count(self.tokens() as u64),
                count(needed as u64)
            );
        }
    }
}

/// One file.
struct One<'a> {
    args: &'a Args,
    common: &'a Common,
    opened: &'a Opened,
    text: &'a Text,
    plan: &'a Plan,
    target: &'a Path,
    resume: bool,
}

/// What became of a file.
#[derive(Serialize, Deserialize)]
struct Report {
    output: PathBuf,
    #[serde(rename = "type")]
    ty: String,
    bytes: u64,
    /// Whether the chosen numbers won against the plain ones.
    optimized: bool,
    judge: Option<Judged>,
    stages: Vec<StageReport>,
    seconds: f64,
}

/// The measure on the text held back.
#[derive(Serialize, Deserialize)]
struct Judged {
    measure: String,
    plain: f64,
    chosen: f64,
}

/// A group of matrices, with the errors of plain and of chosen bytes where both were measured.
#[derive(Serialize, Deserialize)]
struct StageReport {
    tensors: Vec<String>,
    plain: bool,
    error_plain: Option<f64>,
    error: Option<f64>,
}

impl One<'_> {
    fn run(&self) -> Result<Report> {
        let begun = Instant::now();
        let (args, text) = (self.args, self.text);
        let without = &args.without;
        let mut options = Options {
            feedback: !without.no_feedback,
            damping: without.damping,
            target_damping: without.target_damping,
            targets: !without.no_targets,
            residual: !without.no_residual,
            judge: !without.no_judge,
            memory: args.max_memory,
            ..Options::default()
        };
        options.effort.sweeps = if without.no_descent { 0 } else { without.sweeps };
        options.effort.reach = if without.no_scales { 0 } else { without.reach };
        let job = Job {
            model: &self.opened.model,
            source: &self.opened.source,
            plan: self.plan,
            text: &text.text,
            held: &text.held,
            options,
        };
        let mut store = Store::open(self.target, &job.digest()?, self.resume)?;
        let tokens = (text.tokens() * job.model.dims.layers().max(1)) as u64;
        let bar = ProgressBar::new(self.common, self.plan.file_type.name, tokens);
        let outcome = job.run(&mut store, &mut |share, _| bar.at((share * 1e6) as u64, 1_000_000));
        let outcome = outcome.map_err(|e| e.at(&args.model))?;
        bar.finish();

        let plain_tensors: usize = outcome.stages.iter().filter(|s| s.plain_won()).map(|s| s.tensors.len()).sum();
        let mut plan = self.plan.clone();
        self.sign(&mut plan, &job, plain_tensors);
        let inputs = files_of([&args.model], [&args.calibrate]);
        let out = Output::create(self.target, args.force, &inputs)?;
        let out = job.write(&plan, &store, &outcome, out).map_err(|e| e.at(self.target))?;
        gguf::check::verify_file(out.temporary(), true).map_err(|e| {
            Error::new(e.kind(), format!("the written file is not sound: {}", e.message())).at(self.target)
        })?;
        let plain_plan = job.plain_plan(&outcome);
        let verdict = match options.judge {
            true => {
                let written = gguf::File::open(out.temporary())?;
                let plain = Encoded::planned(&self.opened.source, plain_plan.clone());
                Some(judge(&job, &plain, &Stored(&written), args.max_memory)?)
            }
            false => None,
        };
        let kept = verdict.is_none_or(|v| v.holds());
        if kept {
            out.commit()?;
        } else {
            drop(out);
            let out = Output::create(self.target, args.force, &inputs)?;
            let files = plain_plan.layouts()?.into_iter().zip([out]).collect();
            let job = pipeline::Job { plan: plain_plan, files };
            let (outputs, _) = pipeline::run(self.opened.source.as_ref(), vec![job], &Settings::default(), |_| ())?;
            for output in outputs.into_iter().flatten() {
                output.commit()?;
            }
        }
        store.remove()?;
        self.report(&outcome, verdict, kept, begun)
    }

    /// Says in the file how it was made.
    fn sign(&self, plan: &mut Plan, job: &Job<'_>, plain_tensors: usize) {
        let text = self.text;
        let mut put = |key: &str, value: Value| {
            plan.metadata.set(format!("quantize.optimize.{key}").as_str(), value);
        };
        put("version", Value::U32(1));
        put("steps", Value::from(job.options.steps().join(",")));
        put("calibration", Value::from(text.name.as_str()));
        put("calibration_sha256", Value::from(text.sha256.as_str()));
        put("tokens", Value::U32(text.tokens() as u32));
        put("held_back", Value::U32((text.held.len() * text.context) as u32));
        put("context", Value::U32(text.context as u32));
        put("plain_tensors", Value::U32(plain_tensors as u32));
    }

    fn report(&self, outcome: &Outcome, verdict: Option<Verdict>, kept: bool, begun: Instant) -> Result<Report> {
        let size = std::fs::metadata(self.target).map_err(|e| Error::io(self.target, "read the size", e))?;
        let stages = outcome.stages.iter().map(|s| StageReport {
            tensors: s.tensors.clone(),
            plain: s.plain,
            error_plain: s.errors.map(|e| e.0),
            error: s.errors.map(|e| e.1),
        });
        let judge = verdict.map(|v| Judged { measure: v.measure.to_owned(), plain: v.plain, chosen: v.chosen });
        Ok(Report {
            output: self.target.to_path_buf(),
            ty: self.plan.file_type.name.to_owned(),
            bytes: size.len(),
            optimized: kept,
            judge,
            stages: stages.collect(),
            seconds: begun.elapsed().as_secs_f64(),
        })
    }
}

impl Report {
    /// For people.
    fn text(&self) -> String {
        let output = gguf::quote::path(&self.output);
        let mut lines = format!("{output}: {} in {} bytes; {:.1} s\n", self.ty, count(self.bytes), self.seconds);
        if let Some(Judged { measure, plain, chosen }) = &self.judge {
            let change = match *plain > 0.0 {
                true => format!(" ({:+.0} %)", 100.0 * (chosen / plain - 1.0)),
                false => String::new(),
            };
            lines += &format!("  on the text held back: {measure} {chosen:.3e}, plain bytes {plain:.3e}{change}\n");
        }
        let mut stayed = self
            .stages
            .iter()
            .filter(|s| s.plain && s.error.is_some())
            .flat_map(|s| &s.tensors)
            .map(String::as_str)
            .peekable();
        if !self.optimized {
            lines += "  plain bytes lose less there, so the file holds those: the text may be too short, or of another kind\n";
        } else if stayed.peek().is_some() {
            lines += &format!("  plain bytes stayed where they won: {}\n", stayed.collect::<Vec<_>>().join(", "));
        }
        lines
    }
}
