//! The command line: options, the steps of a run, reports.

mod folder;
mod imatrix;
mod inputs;
mod parts;
mod record;
mod report;
mod types;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Parser, Subcommand};
use convert::cli::{BaseArgs, FolderArgs, ModelfileArgs, TokenizerArgs, check_tokenizer, tokenizer_json};
use convert::{location, lora};
use gguf::cli::{
    Common, Exit, Files, Output, OutputFolder, OutputPlace, Progress, SplitArgs, commit_all, document, each_type_once,
    parse_bytes, say,
};
use gguf::{Error, Result, Source, TensorType, Value, quote};
use quantize::pattern::Pattern;
use quantize::pipeline::{self, Job, Settings};
use quantize::plan::{self, Importance, Options, Plan, Written, parse_tensor_rule, parse_tensor_type};
use quantize::recipe::{FileType, TypeOverrides};
use quantize::search::estimate;
use quantize::search::mix::{self, Frame, Limits, Target};
use serde_json::json;

use folder::{FolderOptions, FolderType};
use inputs::Opened;
use types::Wanted;

/// The version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

const EXAMPLES: &str = "\
Examples:
  quantize --type q4_k_m tiny-llama                       a checkpoint folder; writes Tiny-Llama-4.2M-Q4_K_M.gguf
  quantize --type q4_k_m --type q8_0 --type nf4 tiny-llama    several results of one run
  quantize --type q4_k_m --modelfile tiny-llama           and the Modelfile that `ollama create` takes
  quantize --type q4_k_m hf://meta-llama/Llama-3.2-1B     fetched from the hub first
  quantize --target-bpw 3.5 --imatrix i.gguf tiny-llama   the mix of types that should lose least at that size
  quantize --type q4_k_m --dry-run tiny-llama             the plan and the exact size
  quantize --type q8_0 --split-max-size 2G tiny-llama     files NAME-00001-of-0000N.gguf of at most 2 GB each
  quantize --type list                                    all types

`evaluate optimize` takes the same types and makes files of the same size that lose less.

Exit codes: 0 done, 2 wrong usage, 3 bad input, 4 the system failed.";

/// Quantize a model: a checkpoint folder or a GGUF file becomes one GGUF file for each type, or a folder that transformers
/// loads.
///
/// The bytes of a GGUF file are those that llama-quantize writes.
#[derive(Debug, Parser)]
#[command(name = "quantize", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
#[command(subcommand_negates_reqs = true, max_term_width = 110)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// A checkpoint folder, a GGUF file, a folder of the hub's cache, or a name on the hub such as hf://OWNER/NAME@REVISION
    input: Option<PathBuf>,

    /// The old spelling of -o
    #[arg(hide = true)]
    output: Option<PathBuf>,

    /// What llama-quantize takes in third and fourth place.
    #[arg(hide = true)]
    others: Vec<String>,

    /// The output, where {ftype} stands for the type; where there are several types without that, the folder for them,
    /// which is made if need be [default: NAME-TYPE.gguf in the current folder]
    #[arg(short, long = "output", alias = "outfile", value_name = "PATH", conflicts_with = "output")]
    out: Option<PathBuf>,

    /// The type, such as q4_k_m or nf4; several, separated by commas or given again, make several results; `list` prints all
    #[arg(short, long = "type", alias = "types", value_name = "TYPE", value_delimiter = ',')]
    types: Vec<Wanted>,

    #[command(flatten)]
    choice: ChoiceArgs,

    #[command(flatten)]
    importance: ImportanceArgs,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten, next_help_heading = "A model in several files")]
    split: SplitArgs,

    #[command(flatten)]
    folders: FolderOptions,

    #[command(flatten)]
    reading: FolderArgs,

    #[command(flatten)]
    base: BaseArgs,

    #[command(flatten)]
    tokenizer: TokenizerArgs,

    #[command(flatten)]
    modelfile: ModelfileArgs,

    #[command(flatten)]
    parts: parts::PartArgs,

    #[command(flatten)]
    run: RunArgs,

    #[command(flatten)]
    record: record::RecordArgs,

    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at, merge and convert importance matrices
    Imatrix(imatrix::Args),
    #[command(visible_alias = "verify-build")]
    Verify(record::VerifyArgs),
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

    /// Mix types so that a weight takes so many bits in the mean, by an importance matrix; `evaluate optimize` does it
    /// better
    #[arg(long, value_name = "BITS", value_parser = mix::parse_bits, requires = "imatrix",
        conflicts_with_all = ["types", "target_size", "pure", "plan_from"])]
    target_bpw: Option<f64>,

    /// Mix types so that the file takes at most so many bytes
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, requires = "imatrix",
        conflicts_with_all = ["types", "pure", "plan_from"])]
    target_size: Option<u64>,

    /// In a mix no type of fewer bits than this one's; with a pattern for the tensors whose name matches
    #[arg(long, value_name = "[PATTERN=]TYPE", value_parser = mix::parse_limit)]
    at_least: Vec<(Option<String>, TensorType)>,

    /// In a mix no type of more bits than this one's
    #[arg(long, value_name = "[PATTERN=]TYPE", value_parser = mix::parse_limit)]
    at_most: Vec<(Option<String>, TensorType)>,

    /// Give each tensor the type that it has in this GGUF file of the same architecture
    #[arg(long, value_name = "OTHER.gguf", conflicts_with_all = ["plan", "types"])]
    plan_from: Option<PathBuf>,
}

impl ChoiceArgs {
    /// What a mix is to take, where one is asked for.
    fn target(&self) -> Result<Option<Target>> {
        let target = self.target_bpw.map(Target::Bits).or(self.target_size.map(Target::Bytes));
        let limited = !self.at_least.is_empty() || !self.at_most.is_empty();
        match (target, self.plan.as_deref().filter(|plan| plan.exists())) {
            (None, _) if limited => Err(Error::usage("--at-least and --at-most are about a mix of types")
                .help("give a size with --target-bpw or --target-size")),
            (Some(_), Some(plan)) => {
                Err(Error::usage("the plan says which types the file has: there is nothing to mix")
                    .at(plan)
                    .help("leave the size out, or name another file to write the mix to"))
            }
            (target, _) => Ok(target),
        }
    }
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
    #[arg(long, conflicts_with_all = ["split_max_size", "split_max_tensors", "no_tensor_first_split"])]
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
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "1GiB")]
    max_memory: u64,
}

/// Does what the arguments say.
pub fn run(args: Args) -> Result<Exit> {
    match args.command {
        Some(Command::Imatrix(command)) => imatrix::run(&command, &args.common),
        Some(Command::Verify(command)) => record::verify(&command, &args.common),
        None if args.parts.gather.is_some() => gather(&args),
        None if args.types.contains(&Wanted::List) => types::list(&args.common).map(|()| Exit::Done),
        None => quantize_model(&args),
    }
}

/// Checks, and merges, what other runs wrote with `--part`.
fn gather(args: &Args) -> Result<Exit> {
    let folder = args.parts.gather.as_deref().unwrap_or(Path::new(""));
    let output = args.output.as_deref().or(args.out.as_deref());
    parts::gather(folder, &args.parts, output, args.run.force, &args.common)
}

/// What is to be made.
struct Order {
    files: Vec<&'static FileType>,
    folders: Vec<FolderType>,
}

impl Order {
    /// How many outputs there will be: a mix of types, or a plan that is followed, is one file.
    fn kinds(&self) -> inputs::Kinds {
        let unnamed = self.files.is_empty() && self.folders.is_empty();
        inputs::Kinds { files: if unnamed { 1 } else { self.files.len() }, folders: self.folders.len() }
    }
}

/// Sorts the types that are asked for, and refuses what cannot be one run.
fn order(args: &Args) -> Result<Order> {
    in_order_of_llama_quantize(args)?;
    let mut order = Order { files: Vec::new(), folders: Vec::new() };
    for wanted in &args.types {
        match wanted {
            Wanted::File(ty) => order.files.push(ty),
            Wanted::Folder(ty) => order.folders.push(*ty),
            Wanted::List => {}
        }
    }
    each_type_once(order.files.iter().map(|ty| ty.name).chain(order.folders.iter().map(|ty| ty.name())))?;
    let planned = args.choice.plan.is_some() || args.choice.plan_from.is_some() || args.choice.target()?.is_some();
    if args.types.is_empty() && !planned {
        return Err(Error::usage("no type is given").help("--type q4_k_m, for example; `--type list` prints all"));
    }
    let makes_files = planned || !order.files.is_empty();
    if let Some(option) = args.folders.given().filter(|_| order.folders.is_empty()) {
        return Err(Error::usage(format!("{option} is about folders for transformers, and no type here makes one"))
            .help("nf4, fp4, int8, affine8 and affine4 do"));
    }
    if let Some(option) = args.only_files().filter(|_| !makes_files) {
        return Err(Error::usage(format!("{option} is about GGUF files, and no type here makes one"))
            .help("leave it out, or add a type such as --type q4_k_m"));
    }
    let only_folders = args.reading.given().filter(|_| !order.folders.is_empty());
    if let Some(option) = only_folders {
        return Err(Error::usage(format!("{option} is about GGUF files, and {} is a folder", order.folders[0].name()))
            .help("make the folder in a run of its own"));
    }
    if args.parts.part.is_some() && (args.modelfile.modelfile || !order.folders.is_empty()) {
        return Err(
            Error::usage("--part makes shards of GGUF files alone").help("leave folder types and --modelfile out")
        );
    }
    if args.modelfile.modelfile && order.files.len() > 1 {
        return Err(Error::usage("a Modelfile is about one file").help("give one type with --modelfile"));
    }
    Ok(order)
}

/// `llama-quantize IN OUT TYPE` and `llama-quantize IN TYPE` are what people type here first.
fn in_order_of_llama_quantize(args: &Args) -> Result<()> {
    let words: Vec<&str> =
        args.output.iter().filter_map(|o| o.to_str()).chain(args.others.iter().map(String::as_str)).collect();
    let is_type = |word: &&str| word.parse::<Wanted>().is_ok_and(|wanted| wanted != Wanted::List);
    let at = words.iter().position(|word| is_type(word) && !Path::new(word).exists());
    let input = args.input.as_deref().map(quote::path).unwrap_or_default();
    match (at, args.others.first()) {
        (Some(at), _) if args.types.is_empty() => {
            let output = if at == 0 { String::new() } else { format!(" -o {}", words[0]) };
            let threads = words.get(at + 1).filter(|w| w.parse::<u16>().is_ok());
            let threads = threads.map_or_else(String::new, |n| format!(" --threads {n}"));
            let command = format!("quantize {input}{output} --type {}{threads}", words[at].to_lowercase());
            Err(Error::usage("the type is an option here, not an argument").help(command))
        }
        (_, Some(other)) => Err(Error::usage(format!("\"{}\" is one argument too many", other.escape_debug()))
            .help("quantize INPUT --type TYPE -o OUTPUT")),
        _ => Ok(()),
    }
}

impl Args {
    /// The first option that only concerns GGUF files, where one is given.
    fn only_files(&self) -> Option<&'static str> {
        let (choice, model) = (&self.choice, &self.model);
        let all = [
            (choice.pure, "--pure"),
            (choice.leave_output_tensor, "--leave-output-tensor"),
            (choice.output_tensor_type.is_some(), "--output-tensor-type"),
            (choice.token_embedding_type.is_some(), "--token-embedding-type"),
            (!choice.tensor_type.is_empty(), "--tensor-type"),
            (choice.tensor_type_file.is_some(), "--tensor-type-file"),
            (self.importance.imatrix.is_some(), "--imatrix"),
            (!model.prune_layers.is_empty(), "--prune-layers"),
            (!model.override_kv.is_empty(), "--override-kv"),
            (model.allow_requantize, "--allow-requantize"),
            (model.keep_split, "--keep-split"),
            (self.modelfile.modelfile, "--modelfile"),
            (self.parts.part.is_some(), "--part"),
            (model.mmproj, "--mmproj"),
            (choice.target_bpw.is_some(), "--target-bpw"),
            (choice.target_size.is_some(), "--target-size"),
            (self.run.dry_run, "--dry-run"),
        ];
        self.split.given().or_else(|| all.into_iter().find(|(given, _)| *given).map(|(_, name)| name))
    }
}

fn quantize_model(args: &Args) -> Result<Exit> {
    let begun = Instant::now();
    let order = order(args)?;
    let wanted = args.input.as_deref().ok_or_else(|| {
        Error::usage("no model is given")
            .help("quantize INPUT --type TYPE; INPUT is a checkpoint folder or a GGUF file")
    })?;
    let (input, reading) = &located(args, wanted)?;
    let read = inputs::read(input, args)?;
    if args.record.print_cache_key {
        let key = record::cache_key(input, &read, &args.common)?;
        let document = || Ok(document("quantize-key-1", VERSION, &Files::default(), json!({"cache_key": key})));
        args.common.result(document, || Ok(format!("{key}\n")))?;
        return Ok(Exit::Done);
    }
    let output = args.output.as_deref().or(args.out.as_deref());
    let place = inputs::place(output, order.kinds());
    if args.record.if_changed && record::is_current(args, input, &read, &place)? {
        let document = || {
            let files = Files::new(&args.common, false, &read, &[])?;
            Ok(document("quantize-1", VERSION, &files, json!({"input": quote::json(input), "unchanged": true})))
        };
        args.common.result(document, || Ok("nothing has changed since the manifest was written\n".to_owned()))?;
        return Ok(Exit::Done);
    }
    // What is out of date is replaced.
    let force = args.run.force || args.record.if_changed;
    let makes_files = !order.files.is_empty() || args.types.is_empty();
    let model = makes_files.then(|| Opened::open(input, reading, args.model.mmproj, &args.common)).transpose()?;
    if !order.folders.is_empty() && !input.is_dir() {
        return Err(Error::input("is not a checkpoint folder")
            .at(input)
            .help(format!("{} is made from a folder", order.folders[0].name())));
    }
    let (mut plans, plan_file) = match &model {
        Some(model) => plans(args, &order, model.source(), input)?,
        None => (Vec::new(), None),
    };
    if args.run.dry_run {
        let document = || {
            let files = Files::new(&args.common, false, &read, &[])?;
            Ok(document("quantize-1", VERSION, &files, report::dry_run(input, &plans)?))
        };
        args.common.result(document, || report::dry_run_text(&plans))?;
        plan_file.map_or(Ok(()), Output::commit)?;
        return Ok(Exit::Done);
    }
    let untouched: Vec<&Path> = read.iter().map(PathBuf::as_path).collect();
    if let (Some(part), Some(model)) = (args.parts.part, &model) {
        return write_part(args, part, model, input, &mut plans, &untouched);
    }
    let _place = output.filter(|path| order.kinds().go_into(path)).map(OutputPlace::make).transpose()?;
    let targets = inputs::targets(model.as_ref(), input, output, &plans, &order.folders);
    for target in targets.files.iter().flatten() {
        Output::check(target, force, &untouched)?;
    }
    for target in &targets.folders {
        OutputFolder::check(target, force, &[input])?;
    }
    if let Some(threads) = args.run.threads.filter(|_| !order.folders.is_empty()) {
        let built = rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global();
        built.map_err(|e| Error::usage("cannot start the threads").caused_by(e))?;
    }
    let mut tokenizer = None;
    let mut summary = None;
    if let Some(model) = &model {
        let compares = !args.tokenizer.no_check_tokenizer && !args.model.mmproj;
        if let (Opened::Folder(_), true) = (model, compares) {
            // A draft has the vocabulary of its target.
            let folder = args.reading.target_model_dir.as_deref().unwrap_or(input);
            tokenizer = Some(check_tokenizer(folder, &plans[0].metadata, None, &args.common)?);
        }
        summary = Some(write_files(args, model, input, &plans, &targets.files, &untouched)?);
    }
    plan_file.map_or(Ok(()), Output::commit)?;
    let mut folders = Vec::with_capacity(order.folders.len());
    for (ty, output) in order.folders.iter().zip(&targets.folders) {
        let begun = Instant::now();
        let run = folder::Run {
            no_fallback: args.choice.no_fallback,
            no_degenerate: args.choice.no_degenerate,
            force,
            common: &args.common,
        };
        let report = args.folders.write(input, output, *ty, run)?;
        folders.push(folder::Written { input, output, ty: *ty, report, seconds: begun.elapsed().as_secs_f64() });
    }
    let files = summary.map(|summary| report::Done {
        plans: &plans,
        targets: &targets.files,
        source_bytes: source_bytes(model.as_ref(), &plans),
        summary,
    });
    let done = report::Run { input, files, folders: &folders, begun };
    let mut written = done.written()?;
    if let (true, Some(first)) = (args.modelfile.modelfile, targets.files.iter().flatten().next()) {
        written.push(first.with_file_name("Modelfile"));
    }
    let files = if args.record.wants_digests() {
        let (inputs, outputs) = (record::digested(&read, &args.common)?, record::digested(&written, &args.common)?);
        let one = match (targets.files.as_slice(), targets.folders.as_slice()) {
            ([files], []) if files.len() == 1 => files.first(),
            ([], [folder]) => Some(folder),
            _ => None,
        };
        let one = one.map(PathBuf::as_path).or(output.filter(|path| inputs::names_types(path)));
        let finished = record::Finished { input, inputs: &inputs, outputs: &outputs, folder: &place, output: one };
        finished.write(args)?;
        Files::digested(inputs, outputs)
    } else {
        Files::new(&args.common, true, &read, &written)?
    };
    let document = || {
        let mut fields = done.json()?;
        fields["tokenizer"] = tokenizer.as_ref().map_or(serde_json::Value::Null, tokenizer_json);
        Ok(document("quantize-1", VERSION, &files, fields))
    };
    if !args.common.quiet {
        gguf::lost::warnings(&done.lost()).iter().for_each(|line| say(line));
    }
    args.common.result(document, || done.text())?;
    Ok(Exit::Done)
}

/// Writes one part of each planned file, for a run on several machines.
fn write_part(
    args: &Args,
    part: quantize::parts::Part,
    model: &Opened,
    input: &Path,
    plans: &mut [Plan],
    untouched: &[&Path],
) -> Result<Exit> {
    let output = args.output.as_deref().or(args.out.as_deref());
    let run = parts::Run {
        source: model.source(),
        input,
        folder: output
            .ok_or_else(|| Error::usage("the parts of a model go into one folder").help("give it with -o FOLDER"))?,
        part,
        settings: &settings(args),
        force: args.run.force,
        verify: !args.run.no_verify,
        inputs: untouched,
        common: &args.common,
    };
    run.run(plans, |plan| {
        let name = model.file_name(input, plan.label());
        name.strip_suffix(".gguf").map(str::to_owned).unwrap_or(name)
    })
}

fn settings(args: &Args) -> Settings {
    Settings {
        threads: args.run.threads.map_or(Settings::default().threads, usize::from),
        max_memory: args.run.max_memory,
        allow_nonfinite: args.model.allow_nonfinite,
        no_degenerate: args.choice.no_degenerate,
    }
}

/// The folder or file that is meant, and how it is read. An adapter stands for its base with it merged.
fn located(args: &Args, wanted: &Path) -> Result<(PathBuf, FolderArgs)> {
    let input = location::find(wanted, &args.common)?;
    let mut reading = args.reading.clone();
    if !(input.is_dir() && lora::is_adapter(&input)) {
        if args.base.base.is_some() {
            return Err(Error::usage("--base names what an adapter is for, and this is none").at(input));
        }
        return Ok((input, reading));
    }
    let base = location::find(&args.base.of(&input)?, &args.common)
        .map_err(|e| e.help("--base DIR names the checkpoint that the adapter was made for"))?;
    if !args.common.quiet {
        say(&format!("note: {} is merged into {}", quote::path(&input), quote::path(&base)));
    }
    // What comes out is the fine-tune, so it has the adapter's name.
    reading.model_name.get_or_insert_with(|| location::model_name(&input));
    reading.merge_lora.insert(0, (input, 1.0));
    Ok((base, reading))
}

/// Plans every file. A plan that is to be kept has been written, but for its name.
fn plans(args: &Args, order: &Order, source: &dyn Source, input: &Path) -> Result<(Vec<Plan>, Option<Output>)> {
    let (types, options) = options(args, order)?;
    let importance = args.importance.imatrix.as_deref().map(|path| importance(path, &args.importance)).transpose()?;
    let mut plans = Vec::with_capacity(types.len());
    if let Some(target) = args.choice.target()? {
        plans.push(mixed(args, source, target, &options, importance.as_ref()).map_err(|e| e.at(input))?);
    }
    for file_type in types {
        let plan = Plan::new(source.metadata(), source.tensors(), file_type, &options, importance.as_ref());
        let mut plan = plan.map_err(|e| e.at(input))?;
        plan.split(args.split.division()).map_err(|e| e.at(input))?;
        plans.push(plan);
    }
    args.modelfile.check(plans.iter().map(|plan| plan.shards).max().unwrap_or(1))?;
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
            say(&format!("note: {note}"));
        }
        let again = plans.iter().any(|p| p.file_type.is_quantized());
        if let Some(method) = source.packed().filter(|_| again) {
            say(&format!(
                "warning: the weights were quantized by {method} before, and what that lost stays lost under the new type; \
                 start from the original checkpoint where there is one"
            ));
        }
    }
    Ok((plans, written))
}

/// The mix of types that is expected to lose least.
fn mixed(
    args: &Args,
    source: &dyn Source,
    target: Target,
    options: &Options,
    importance: Option<&Importance>,
) -> Result<Plan> {
    let limits = Limits::new(&args.choice.at_least, &args.choice.at_most)?;
    let frame = Frame::new(source.metadata(), source.tensors(), options, importance, &limits)?;
    let losses = estimate::losses(source, &frame)?;
    let mut within = target;
    loop {
        let mut plan = frame.solve(within, &losses)?;
        plan.split(args.split.division())?;
        // Every file beyond the first has a header of its own, for which the tensors have to leave room.
        match (target, within) {
            (Target::Bytes(most), Target::Bytes(now)) if plan.file_bytes()? > most => {
                within = Target::Bytes(now.saturating_sub(plan.file_bytes()? - most));
            }
            _ => return Ok(Plan { mix: Some(target.label(plan.elements())), ..plan }),
        }
    }
}

/// Bytes of the tensors that are read.
fn source_bytes(model: Option<&Opened>, plans: &[Plan]) -> u64 {
    let bytes = |model: &Opened| plans[0].tensors.iter().map(|t| model.source().tensors()[t.source].bytes()).sum();
    model.map_or(0, bytes)
}

/// Writes every planned file, checks it and gives it its name; the Modelfile too, where one is asked for.
fn write_files(
    args: &Args,
    model: &Opened,
    input: &Path,
    plans: &[Plan],
    targets: &[Vec<PathBuf>],
    untouched: &[&Path],
) -> Result<pipeline::Summary> {
    let force = args.run.force || args.record.if_changed;
    let mut jobs = Vec::with_capacity(plans.len());
    for (plan, target) in plans.iter().zip(targets) {
        let layouts = plan.layouts().map_err(|e| e.at(input))?;
        let outputs = layouts.iter().zip(target).enumerate().map(|(i, (layout, path))| Shard {
            target: path,
            force,
            untouched,
            bytes: layout.file_bytes(),
            // The first stays open, so that others see them alive.
            stays_open: i == 0,
            output: None,
        });
        let outputs: Vec<_> = outputs.collect();
        jobs.push(Job { plan: plan.clone(), files: layouts.into_iter().zip(outputs).collect() });
    }
    let total = source_bytes(Some(model), plans);
    let progress = Progress::bytes(args.common.progress, args.common.quiet, "quantizing", total);
    let (outputs, summary) = pipeline::run(model.source(), jobs, &settings(args), |bytes| progress.add(bytes))
        .map_err(|e| gguf::cli::at_fault(e, input, &targets[0][0]))?;
    progress.finish();
    let opened = |shards: Vec<Shard<'_>>| shards.into_iter().filter_map(|shard| shard.output).collect::<Vec<_>>();
    let outputs: Vec<Vec<Output>> = outputs.into_iter().map(opened).collect();
    if !args.run.no_verify {
        for output in outputs.iter().flatten() {
            verify(output, outputs.iter().all(|files| files.len() == 1), summary.nonfinite == 0)?;
        }
    }
    let mut modelfile = match outputs.first().and_then(|files| files.first()) {
        Some(output) if args.modelfile.modelfile => {
            let written = gguf::File::open(output.temporary())?;
            let folder = input.is_dir().then_some(input);
            args.modelfile.create(&written, folder, output.target(), force, &args.common)?
        }
        _ => None,
    };
    // The shards of a model and its Modelfile get their names together.
    for outputs in outputs {
        commit_all(outputs.into_iter().chain(modelfile.take()).collect())?;
    }
    Ok(summary)
}

/// A file that is created when the first byte comes and closed behind the last one: a model may have more shards than
/// there are handles.
struct Shard<'a> {
    target: &'a Path,
    force: bool,
    untouched: &'a [&'a Path],
    /// The size of the file, for which room is set aside.
    bytes: u64,
    stays_open: bool,
    output: Option<Output>,
}

impl Write for Shard<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let output = match self.output.take() {
            Some(output) => output,
            None => {
                let output = Output::create(self.target, self.force, self.untouched).map_err(io::Error::other)?;
                output.reserve(self.bytes).map_err(io::Error::other)?;
                output
            }
        };
        self.output.insert(output).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.output.as_mut().filter(|_| !self.stays_open) {
            Some(output) => output.seal().map_err(io::Error::other),
            None => Ok(()),
        }
    }
}

/// Opens the finished file again and judges it, so that nothing broken ever gets its name.
fn verify(output: &Output, whole: bool, data: bool) -> Result<()> {
    // A shard's siblings still have temporary names, so it is judged alone: its layout, as any reader would.
    let judged = match whole {
        true => gguf::check::verify_file(output.temporary(), data),
        false => gguf::File::open(output.temporary()).map(drop),
    };
    judged.map_err(|e| {
        e.about("the written file is not sound")
            .of_file(output.target())
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
fn options(args: &Args, order: &Order) -> Result<(Vec<&'static FileType>, Options)> {
    let choice = &args.choice;
    let mut tensors = Vec::with_capacity(choice.tensor_type.len());
    for (pattern, ty) in &choice.tensor_type {
        tensors.push((Pattern::anywhere("--tensor-type", pattern)?, *ty));
    }
    if let Some(path) = &choice.tensor_type_file {
        let text = convert::json::read_text(path, plan::LARGEST_LIST)?;
        for rule in text.split_whitespace() {
            let (pattern, ty) = parse_tensor_rule(rule).map_err(|e| Error::input(e).at(path))?;
            tensors.push((Pattern::anywhere("--tensor-type-file", &pattern).map_err(|e| e.at(path))?, ty));
        }
    }
    let mut prune = args.model.prune_layers.clone();
    prune.sort_unstable();
    prune.dedup();
    let mut types = order.files.clone();
    let mut fixed = None;
    if let Some(path) = choice.plan.as_deref() {
        if let Some((file_type, tensors)) = Written::read(path, &types)? {
            types = vec![file_type];
            fixed = Some(tensors);
        } else if types.is_empty() && choice.target()?.is_none() {
            return Err(Error::usage("there is no such plan").at(path).help("with --type it is written"));
        }
    }
    if let Some(path) = choice.plan_from.as_deref() {
        let (file_type, tensors) = types_of(path)?;
        types = vec![file_type];
        fixed = Some(tensors);
    }
    let wishes = TypeOverrides {
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

/// The types of another model's tensors, by name, and the type of that file.
fn types_of(path: &Path) -> Result<(&'static FileType, std::collections::BTreeMap<String, TensorType>)> {
    let other = gguf::open(path)?;
    let id = other.metadata().u64("general.file_type").and_then(|id| u32::try_from(id).ok());
    // Where the file guessed its type, a bit says so.
    let file_type = id.and_then(|id| FileType::from_id(id & !1024)).ok_or_else(|| {
        Error::input("does not say of which type it is (general.file_type)")
            .at(path)
            .help("`--type TYPE --plan plan.toml` writes a plan that can be edited")
    })?;
    Ok((file_type, other.tensors().iter().map(|t| (t.name().to_owned(), t.ty())).collect()))
}
