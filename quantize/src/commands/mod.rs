//! The command line: options, the steps of a run, reports.

pub mod folder;
mod imatrix;
mod inputs;
mod parts;
mod report;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Parser, Subcommand};
use gguf::cli::{Common, Exit, Output, Progress, commit_all, parse_bytes, print, print_json, say};
use gguf::{Error, Result, Source, TensorType, Value};
use quantize::pattern::Pattern;
use quantize::pipeline::{self, Job, Settings};
use quantize::plan::{self, Importance, Options, Plan, Written, parse_tensor_rule, parse_tensor_type};
use quantize::recipe::{FILE_TYPES, FileType, Wishes};

/// Quantize a model: a checkpoint folder or a GGUF file becomes one GGUF file for each type.
///
/// The bytes are those that llama-quantize writes. `quantize --type q4_k_m models/my-llama` writes
/// my-llama-Q4_K_M.gguf into the current folder.
#[derive(Debug, Parser)]
#[command(name = "quantize", version, after_help = types(), args_conflicts_with_subcommands = true)]
#[command(subcommand_negates_reqs = true, max_term_width = 110)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// A checkpoint folder or a GGUF file
    #[arg(required_unless_present = "gather")]
    input: Option<PathBuf>,

    /// The output file; a folder where there are several types [default: NAME-TYPE.gguf in the current folder]
    output: Option<PathBuf>,

    /// The output, as an option
    #[arg(short, long = "output", value_name = "OUTPUT", conflicts_with = "output")]
    out: Option<PathBuf>,

    /// The type of file, such as q4_k_m; several make several files from one reading
    #[arg(short, long = "type", value_name = "TYPE", value_parser = file_type, required_unless_present_any = ["plan", "gather"])]
    types: Vec<&'static FileType>,

    #[command(flatten)]
    choice: ChoiceArgs,

    #[command(flatten)]
    importance: ImportanceArgs,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    parts: parts::PartArgs,

    #[command(flatten)]
    run: RunArgs,

    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at, merge and convert importance matrices
    Imatrix(imatrix::Args),
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Types of tensors")]
struct ChoiceArgs {
    /// Give every tensor the same type, without the recipe's exceptions
    #[arg(long)]
    pure: bool,

    /// Leave output.weight as it is
    #[arg(long)]
    leave_output_tensor: bool,

    /// The type of output.weight
    #[arg(long, value_name = "TYPE", value_parser = parse_tensor_type)]
    output_tensor_type: Option<TensorType>,

    /// The type of the token embedding
    #[arg(long, value_name = "TYPE", value_parser = parse_tensor_type)]
    token_embedding_type: Option<TensorType>,

    /// The type of tensors whose name matches a regular expression; the first that matches wins
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = parse_tensor_rule)]
    tensor_type: Vec<(String, TensorType)>,

    /// A file of such PATTERN=TYPE, separated by spaces or line ends
    #[arg(long, value_name = "FILE")]
    tensor_type_file: Option<PathBuf>,

    /// Refuse a type that does not fit a tensor's rows instead of taking another
    #[arg(long)]
    no_fallback: bool,

    /// Refuse blocks that cannot hold their weights and become zeros, instead of warning of them
    #[arg(long)]
    no_degenerate: bool,

    /// Write the plan as TOML, or follow it if the file exists
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Importance")]
struct ImportanceArgs {
    /// An importance matrix (GGUF or the legacy .dat)
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,

    /// Use it only for tensors whose name contains this
    #[arg(long, value_name = "PART", requires = "imatrix", conflicts_with = "exclude_weights")]
    include_weights: Vec<String>,

    /// Do not use it for tensors whose name contains this
    #[arg(long, value_name = "PART", requires = "imatrix")]
    exclude_weights: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The model")]
struct ModelArgs {
    /// Of a folder, quantize the projector file (towers that see or hear) instead of the text model's
    #[arg(long)]
    mmproj: bool,

    /// Layers to leave out
    #[arg(long, value_name = "N,N,...", value_delimiter = ',')]
    prune_layers: Vec<u64>,

    /// Set a key of the metadata
    #[arg(long, value_name = "KEY=TYPE:VALUE", value_parser = plan::parse_override)]
    override_kv: Vec<(String, Value)>,

    /// Quantize tensors again that are quantized already
    #[arg(long)]
    allow_requantize: bool,

    /// Go on where a weight is NaN or infinite
    #[arg(long)]
    allow_nonfinite: bool,

    /// Write as many shards as the input has
    #[arg(long)]
    keep_split: bool,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Running")]
struct RunArgs {
    /// Plan only: the type of each tensor and the exact size of the file
    #[arg(long)]
    dry_run: bool,

    /// Replace outputs that exist
    #[arg(long)]
    force: bool,

    /// Do not check the finished file
    #[arg(long)]
    no_verify: bool,

    /// Threads that encode [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Bytes of buffers
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "1GiB")]
    max_memory: u64,
}

/// The most bytes of a plan or a list of rules: some for each of a million tensors.
const LARGEST_LIST: u64 = 64 << 20;

fn file_type(text: &str) -> Result<&'static FileType, String> {
    text.parse().map_err(|_| "no such type; the types are listed by --help".to_owned())
}

fn types() -> String {
    let names = FILE_TYPES.iter().map(|t| t.name).collect::<Vec<_>>();
    let lines: Vec<String> = names.chunks(12).map(|line| format!("  {}", line.join(" "))).collect();
    format!("Types (in any case; Q3_K, Q4_K and Q5_K are the M of their kind):\n{}", lines.join("\n"))
        + "\nFolders that transformers loads (options: --type nf4 --help):\n  nf4 fp4 int8 affine8 affine4\n\
            Half the loss in the same bytes, with more time: evaluate optimize --help"
}

/// Does what the arguments say.
pub fn run(args: Args) -> Result<Exit> {
    match args.command {
        Some(Command::Imatrix(command)) => imatrix::run(&command, &args.common),
        None => quantize_model(&args),
    }
}

fn quantize_model(args: &Args) -> Result<Exit> {
    let begun = Instant::now();
    let output = args.output.as_deref().or(args.out.as_deref());
    if let Some(folder) = &args.parts.gather {
        return parts::gather(folder, &args.parts, output, args.run.force, &args.common);
    }
    let input = args.input.as_deref().unwrap_or(Path::new(""));
    let source = inputs::open(input, args.model.mmproj)?;
    let (types, options) = options(args)?;
    let importance = args.importance.imatrix.as_deref().map(|path| importance(path, &args.importance)).transpose()?;
    let mut plans = Vec::with_capacity(types.len());
    for file_type in types {
        let plan = Plan::new(source.metadata(), source.tensors(), file_type, &options, importance.as_ref());
        plans.push(plan.map_err(|e| e.at(input))?);
    }
    // Where it cannot be written there is no use in working; it gets its name when the work has succeeded.
    let written = match (&args.choice.plan, &options.fixed) {
        (Some(path), None) if args.parts.part.is_some() => {
            return Err(Error::usage("there is no such plan").at(path).help("write it before, without --part"));
        }
        (Some(path), None) => Some(report::write_plan(&plans[0], path)?),
        _ => None,
    };
    if !args.common.quiet {
        for note in source.notes().iter().chain(plans.iter().flat_map(|p| &p.notes)) {
            eprintln!("note: {note}");
        }
        let again = plans.iter().any(|p| p.file_type.is_quantized());
        if let Some(method) = source.packed().filter(|_| again) {
            eprintln!(
                "warning: the weights were quantized by {method} before, and what that lost stays lost under the new type; \
                 start from the original checkpoint where there is one"
            );
        }
    }
    if args.run.dry_run {
        let document = report::dry_run(input, &plans)?;
        if args.common.json {
            print_json(&document)?
        } else {
            print(&report::dry_run_text(&plans)?)?
        }
        written.map_or(Ok(()), Output::commit)?;
        return Ok(Exit::Done);
    }
    let inputs = inputs::files(input, &[&args.importance.imatrix, &args.choice.plan, &args.choice.tensor_type_file]);
    let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
    let settings = Settings {
        threads: args.run.threads.map_or(Settings::default().threads, usize::from),
        max_memory: args.run.max_memory,
        allow_nonfinite: args.model.allow_nonfinite,
        no_degenerate: args.choice.no_degenerate,
    };
    if let Some(part) = args.parts.part {
        let run = parts::Run {
            source: source.as_ref(),
            input,
            folder: output.ok_or_else(|| {
                Error::usage("the parts of a model go into one folder").help("give it with -o FOLDER")
            })?,
            part,
            settings: &settings,
            force: args.run.force,
            verify: !args.run.no_verify,
            inputs: &inputs,
            common: &args.common,
        };
        return run.run(&mut plans, |plan| inputs::stem(input, plan));
    }
    let targets = inputs::targets(input, args.model.mmproj, output, &plans)?;
    let mut jobs = Vec::with_capacity(plans.len());
    for target in targets.iter().flatten() {
        Output::check(target, args.run.force, &inputs)?;
    }
    for (plan, target) in plans.iter().zip(&targets) {
        let outputs = target.iter().map(|path| Output::create(path, args.run.force, &inputs));
        let outputs = outputs.collect::<Result<Vec<_>>>()?;
        jobs.push(Job { plan: plan.clone(), files: plan.layouts()?.into_iter().zip(outputs).collect() });
    }
    let total = plans[0].tensors.iter().map(|t| source.tensors()[t.source].bytes()).sum();
    let progress = Progress::bytes(args.common.progress, args.common.quiet, "quantizing", total);
    let (outputs, summary) =
        pipeline::run(source.as_ref(), jobs, &settings, |bytes| progress.add(bytes)).map_err(|e| e.at(input))?;
    progress.finish();
    let outputs: Vec<Output> = outputs.into_iter().flatten().collect();
    if !args.run.no_verify {
        for output in &outputs {
            verify(output, !args.model.keep_split, summary.nonfinite == 0)?;
        }
    }
    // A file of several shards appears as a whole; files of several types do so one by one.
    let mut outputs = outputs.into_iter();
    for target in &targets {
        commit_all(outputs.by_ref().take(target.len()).collect())?;
    }
    written.map_or(Ok(()), Output::commit)?;
    let done = report::Done { input, plans: &plans, targets: &targets, source_bytes: total, summary, begun };
    if args.common.json {
        print_json(&done.json()?)?;
    }
    if !args.common.quiet {
        report::warnings(&done.summary).iter().for_each(|line| say(line));
        eprint!("{}", done.text()?);
    }
    Ok(Exit::Done)
}

/// Opens the finished file again and judges it, so that nothing broken ever gets its name.
fn verify(output: &Output, whole: bool, data: bool) -> Result<()> {
    // A shard's siblings still have temporary names, so it is judged alone: its layout, as any reader would.
    let judged = match whole {
        true => gguf::check::verify_file(output.temporary(), data),
        false => gguf::File::open(output.temporary()).map(drop),
    };
    judged.map_err(|e| {
        let fault = Error::new(e.kind(), format!("the written file is not sound: {}", e.message()));
        fault
            .at(output.target())
            .help("a weight may be too large for this type; --no-verify keeps the file all the same")
    })
}

fn importance(path: &Path, args: &ImportanceArgs) -> Result<Importance> {
    let mut matrix = quantize::imatrix::Imatrix::open(path)?;
    matrix.filter(&args.include_weights, &args.exclude_weights);
    // The name alone: no path of this machine belongs into a model.
    let file = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Ok(Importance { matrix, file })
}

/// The types of file and what else concerns the plan.
fn options(args: &Args) -> Result<(Vec<&'static FileType>, Options)> {
    let choice = &args.choice;
    let mut tensors = Vec::with_capacity(choice.tensor_type.len());
    for (pattern, ty) in &choice.tensor_type {
        tensors.push((Pattern::anywhere("--tensor-type", pattern)?, *ty));
    }
    if let Some(path) = &choice.tensor_type_file {
        let text = convert::json::read_text(path, LARGEST_LIST)?;
        for rule in text.split_whitespace() {
            let (pattern, ty) = parse_tensor_rule(rule).map_err(|e| Error::input(e).at(path))?;
            tensors.push((Pattern::anywhere("--tensor-type-file", &pattern).map_err(|e| e.at(path))?, ty));
        }
    }
    let mut prune = args.model.prune_layers.clone();
    prune.sort_unstable();
    prune.dedup();
    let mut types = args.types.clone();
    if let Some((_, twice)) = types.iter().enumerate().find(|(i, ty)| types[..*i].iter().any(|t| t.name == ty.name)) {
        return Err(Error::usage(format!("--type asks twice for the same file, {twice}"))
            .help("give each type once; Q3_K, Q4_K and Q5_K are the M of their kind"));
    }
    let mut fixed = None;
    if let Some(path) = choice.plan.as_deref() {
        if types.len() > 1 {
            return Err(Error::usage("a plan is of one type").help("give --type once with --plan"));
        }
        if path.exists() {
            let text = convert::json::read_text(path, LARGEST_LIST)?;
            let (file_type, tensors) = Written::parse(&text).map_err(|e| e.at(path))?;
            if types.iter().any(|t| *t != file_type) {
                return Err(Error::usage(format!("the plan is of type {file_type}, not {}", types[0]))
                    .at(path)
                    .help("leave --type out, or name another file to write a new plan"));
            }
            types = vec![file_type];
            fixed = Some(tensors);
        } else if types.is_empty() {
            return Err(Error::usage("there is no such plan").at(path).help("with --type it is written"));
        }
    }
    let wishes = Wishes {
        pure: choice.pure,
        leave_output: choice.leave_output_tensor,
        output: choice.output_tensor_type,
        embedding: choice.token_embedding_type,
        tensors,
    };
    let shards = match (&args.input, args.model.keep_split) {
        (Some(input), true) => Some(inputs::shards(input)?),
        _ => None,
    };
    let options = Options {
        wishes,
        prune,
        shards,
        override_kv: args.model.override_kv.clone(),
        allow_requantize: args.model.allow_requantize,
        no_fallback: choice.no_fallback,
        dry_run: args.run.dry_run,
        measured: false,
        fixed,
    };
    Ok((types, options))
}
