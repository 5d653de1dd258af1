//! `evaluate optimize`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use convert::Checkpoint;
use convert::packed::bnb::Code;
use eval::device::{Device, Ran};
use eval::encoded::Encoded;
use eval::forward::Input;
use eval::optimize::judge::{Verdict, judge};
use eval::optimize::survey::Survey;
use eval::optimize::{Folder, Job, Options, Outcome, Store, own_text};
use eval::parts::Gathered;
use eval::perplexity::{Chunks, Protocol};
use eval::weights::SourceWeights;
use gguf::cli::{
    Common, Exit, Output, OutputFolder, OutputPlace, count, each_type_once, names_folder, parse_bytes, print,
};
use gguf::digest::{sha256, sha256_file};
use gguf::{Error, Metadata, Result, Source, TensorType, Value};
use quantize::bnb::chosen::{BLOCK, Chosen, GROUP};
use quantize::bnb::coding::Coding;
use quantize::bnb::matrices::Matrices;
use quantize::bnb::{self, Form, Granularity, Storage};
use quantize::parts::Part;
use quantize::pattern::Pattern;
use quantize::pipeline::{self, Settings};
use quantize::plan::{self, Plan, Written, parse_tensor_rule, parse_tensor_type};
use quantize::recipe::{FileType, TypeOverrides};
use quantize::search::mix::{self, Frame, Limits, Target};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::parts::{self, PartArgs};
use super::{DeviceArgs, Opened, ProgressBar, files_of, read_text};

/// Choose better numbers for a type: less loss at the same size, in a file that every reader decodes
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  evaluate optimize tiny-llama --type q4_k_m --calibrate calibration.txt -o Tiny-Llama-4.2M-Q4_K_M.gguf
  evaluate optimize tiny-llama --type q4_k_m --type q3_k_m --calibrate self -o quantized/
  evaluate optimize tiny-llama --target-bpw 3.5 --at-least attn_v=q4_k --calibrate calibration.txt -o out.gguf
  evaluate optimize tiny-llama --type q4_k_m --calibrate calibration.txt -o out.gguf --resume
  evaluate optimize tiny-llama --type q4_k_m --type iq3_s --calibrate calibration.txt --part 1/2 -o quantized/

The text should be of the kind that the model is used for, 16,000 tokens or more; `self` lets the model write it.")]
pub struct Args {
    /// A GGUF file or a checkpoint folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// The type of file or folder, as `quantize` has it; several, separated by commas or given again, make several
    #[arg(short, long = "type", alias = "types", value_name = "TYPE", value_delimiter = ',', value_parser = kind,
        required_unless_present_any = ["plan", "target_bpw", "target_size"])]
    types: Vec<Kind>,

    /// Mix types so that a weight takes so many bits in the mean: the mix that loses least
    #[arg(long, value_name = "BITS", value_parser = mix::parse_bits, help_heading = "A mix of types",
        conflicts_with_all = ["types", "target_size", "pure"])]
    target_bpw: Option<f64>,

    /// Mix types so that the file takes at most so many bytes
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, help_heading = "A mix of types",
        conflicts_with_all = ["types", "pure"])]
    target_size: Option<u64>,

    /// No type of fewer bits than this one's; with a pattern for the tensors whose name matches
    #[arg(long, value_name = "[PATTERN=]TYPE", value_parser = mix::parse_limit, help_heading = "A mix of types")]
    at_least: Vec<(Option<String>, TensorType)>,

    /// No type of more bits than this one's
    #[arg(long, value_name = "[PATTERN=]TYPE", value_parser = mix::parse_limit, help_heading = "A mix of types")]
    at_most: Vec<(Option<String>, TensorType)>,

    /// The text, UTF-8, or `self` for text that the model writes
    #[arg(long, value_name = "TEXT")]
    calibrate: PathBuf,

    /// The file to write; a folder where there are several types [default: NAME-TYPE.gguf in the current folder]
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,

    /// Tokens of a chunk
    #[arg(long, short, default_value_t = 512, value_name = "TOKENS")]
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

    #[command(flatten)]
    device: DeviceArgs,

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
#[derive(Debug, clap::Args, Serialize)]
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

/// What `--type` asks for.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A GGUF file.
    File(&'static FileType),
    /// A folder for transformers: a row of [`FOLDERS`].
    Folder(&'static str, Coding),
}

/// The folders, by the names that `quantize` has for them.
const FOLDERS: [(&str, Coding); 5] = [
    ("nf4", Coding::FourBit(Code::Nf4)),
    ("fp4", Coding::FourBit(Code::Fp4)),
    ("int8", Coding::Int8),
    ("affine8", Coding::Affine(8)),
    ("affine4", Coding::Affine(4)),
];

fn kind(text: &str) -> Result<Kind, String> {
    if let Some((name, coding)) = FOLDERS.iter().find(|f| f.0.eq_ignore_ascii_case(text)) {
        return Ok(Kind::Folder(name, *coding));
    }
    text.parse().map(Kind::File).map_err(|_| "no such type; `quantize --type list` prints all".to_owned())
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
    each_type_once(args.files().iter().map(|ty| ty.name).chain(args.folders().iter().map(|folder| folder.0)))?;
    let opened = Opened::open(&args.model, common)?;
    let target = args.target()?;
    let (mut plans, follows) = if target.is_none() { plans(args, &opened)? } else { (Vec::new(), false) };
    let plan_file = args.plan.as_deref().filter(|_| !follows);
    let (targets, _place) = targets(args, &opened, target, &plans)?;
    let inputs = files_of([&args.model], args.calibration());
    if let Some(part) = args.parts.part {
        if let Some(path) = plan_file {
            return Err(Error::usage("there is no such plan").at(path).help("write it before, without --part"));
        }
        return run_part(args, part, common, &opened, &plans, &inputs);
    }
    let (files, folders) = targets.split_at(targets.len() - args.folders().len());
    for target in files {
        Output::check(target, args.force, &inputs)?;
    }
    for target in folders {
        OutputFolder::check(target, args.force, &[&convert::files::folder_of(&args.model), &args.calibrate])?;
    }
    // Where it cannot be written there is no use in working; it gets its name when the work has succeeded.
    let plan_file = plan_file.map(|path| Output::create(path, false, &inputs)).transpose()?;
    let text = Text::new(args, common, &opened)?;
    if let Some(target) = target {
        plans.push(mixed(args, common, &opened, &text, target, &targets[0])?);
    }
    let mut reports = Vec::new();
    for (plan, target) in plans.iter().zip(files) {
        let one = One { args, common, opened: &opened, text: &text, plan, target, resume: args.resume };
        reports.push(one.run()?);
        if !common.wants_document() {
            print(&reports[reports.len() - 1].text())?;
        }
    }
    for ((name, coding), target) in args.folders().into_iter().zip(folders) {
        let plan = &Plan::new(
            opened.source.metadata(),
            opened.source.tensors(),
            "COPY".parse()?,
            &plan::Options { measured: true, ..plan::Options::default() },
            None,
        )?;
        let one = One { args, common, opened: &opened, text: &text, plan, target, resume: args.resume };
        let (report, device) = args.device.run(common, |device| one.run_folder(name, coding, device))?;
        reports.push(Report { device, ..report });
        if !common.wants_document() {
            print(&reports[reports.len() - 1].text())?;
        }
    }
    if let (Some(mut file), Some(plan)) = (plan_file, plans.first()) {
        file.write_all(plan.to_toml().as_bytes()).map_err(|e| Error::io(file.target(), "write", e))?;
        file.commit()?;
    }
    if common.wants_document() {
        let fields = json!({
            "model": args.model.display().to_string(),
            "calibration": {"text": text.name, "sha256": text.sha256, "tokens": text.tokens(),
                "held_back": text.held.len() * args.ctx, "context": args.ctx},
            "files": reports,
        });
        super::print_document(common, "optimize", &inputs, &written(&targets)?, fields)?;
    }
    Ok(Exit::Done)
}

/// The files of these outputs, of which some are folders.
fn written(targets: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for target in targets {
        if target.is_dir() {
            let failed = |e| Error::io(target, "list", e);
            let entries = std::fs::read_dir(target).map_err(failed)?;
            let mut files = entries.map(|e| Ok(e.map_err(failed)?.path())).collect::<Result<Vec<_>>>()?;
            files.sort();
            all.extend(files);
        } else {
            all.push(target.clone());
        }
    }
    Ok(all)
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
    if args.mixes() || !args.folders().is_empty() {
        return Err(Error::usage("--part shares out types of GGUF files alone")
            .help("make a mix, or a folder for transformers, in a run of its own"));
    }
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
        ("set of steps", json!(args.without)),
    ];
    let run =
        parts::Run::new(("optimize", part, "types"), &opened.source, gguf::digest::sha256(text.as_bytes()), options)?;
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
        if !common.wants_document() {
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
    if common.wants_document() {
        super::print_document(common, "optimize", &parts.paths, &[], json!({"files": reports}))?;
    } else {
        print(&reports.iter().map(Report::text).collect::<String>())?;
    }
    Ok(Exit::Done)
}

impl Args {
    /// What a mix is to take, where one is asked for.
    fn target(&self) -> Result<Option<Target>> {
        let target = self.target_bpw.map(Target::Bits).or(self.target_size.map(Target::Bytes));
        let limited = !self.at_least.is_empty() || !self.at_most.is_empty();
        match (target, self.plan.as_deref().filter(|p| p.exists())) {
            (None, _) if limited => Err(Error::usage("--at-least and --at-most are about a mix of types")
                .help("give a size with --target-bpw or --target-size")),
            (Some(_), Some(plan)) => {
                Err(Error::usage("the plan says which types the file has, so there is nothing to mix")
                    .at(plan)
                    .help("leave the size out, or name another file to write the mix to"))
            }
            (target, _) => Ok(target),
        }
    }

    /// The types of GGUF files.
    fn files(&self) -> Vec<&'static FileType> {
        let files = self.types.iter().filter_map(|kind| match kind {
            Kind::File(ty) => Some(*ty),
            Kind::Folder(..) => None,
        });
        files.collect()
    }

    /// The folders for transformers.
    fn folders(&self) -> Vec<(&'static str, Coding)> {
        let folders = self.types.iter().filter_map(|kind| match kind {
            Kind::Folder(name, coding) => Some((*name, *coding)),
            Kind::File(_) => None,
        });
        folders.collect()
    }

    fn mixes(&self) -> bool {
        self.target_bpw.is_some() || self.target_size.is_some()
    }

    /// The steps of the search.
    fn options(&self) -> Options {
        let without = &self.without;
        let mut options = Options {
            feedback: !without.no_feedback,
            damping: without.damping,
            target_damping: without.target_damping,
            targets: !without.no_targets,
            residual: !without.no_residual,
            judge: !without.no_judge,
            memory: self.max_memory,
            ..Options::default()
        };
        options.effort.sweeps = if without.no_descent { 0 } else { without.sweeps };
        options.effort.reach = if without.no_scales { 0 } else { without.reach };
        options
    }
}

/// The mix of types that loses least.
fn mixed(args: &Args, common: &Common, opened: &Opened, text: &Text, target: Target, output: &Path) -> Result<Plan> {
    let source = &opened.source;
    let options = plan_options(args)?;
    let limits = Limits::new(&args.at_least, &args.at_most)?;
    // The file will say how it was made, which counts as well.
    let mut metadata = source.metadata().clone();
    sign(&mut metadata, text, &args.options(), 0);
    let frame = Frame::new(&metadata, source.tensors(), &options, None, &limits).map_err(|e| e.at(&args.model))?;
    let none = vec![Vec::new(); frame.free.len()];
    if frame.free.is_empty() {
        return frame.solve(target, &none);
    }
    // Without losses any mix will do: whether one fits is known before the work begins.
    let nothing: Vec<Vec<f64>> = frame.free.iter().map(|f| vec![0.0; f.types.len()]).collect();
    frame.solve(target, &nothing)?;
    let bar = ProgressBar::new(common, "sensitivity", 1_000_000);
    let (losses, _) = args
        .device
        .run(common, |device| {
            let job = Job {
                model: &opened.model,
                source,
                plan: frame.base(),
                text: &text.text,
                held: &text.held,
                options: args.options(),
                folder: None,
                device,
            };
            let survey = Survey::new(job, &frame, output, args.resume)?;
            survey.losses(&mut |share| bar.at((share * 1e6) as u64, 1_000_000))
        })
        .map_err(|e| e.at(&args.model))?;
    bar.finish();
    let mut plan = frame.solve(target, &losses)?;
    // The last keys of the file are set when all of them are known.
    let keys: Vec<String> = plan.metadata.iter().map(|(key, _)| key.to_owned()).collect();
    keys.iter().filter(|key| key.starts_with(SIGNED)).for_each(|key| _ = plan.metadata.remove(key));
    Ok(plan)
}

/// What is asked of every plan.
fn plan_options(args: &Args) -> Result<plan::Options> {
    let mut tensors = Vec::with_capacity(args.tensor_type.len());
    for (pattern, ty) in &args.tensor_type {
        tensors.push((Pattern::anywhere("--tensor-type", pattern)?, *ty));
    }
    let wishes = TypeOverrides {
        pure: args.pure,
        leave_output: args.leave_output_tensor,
        output: args.output_tensor_type,
        embedding: args.token_embedding_type,
        tensors,
    };
    let allow_requantize = args.allow_requantize;
    Ok(plan::Options { wishes, allow_requantize, measured: true, ..plan::Options::default() })
}

/// The types of each tensor for each type of file, and whether they are those of a plan that was written.
fn plans(args: &Args, opened: &Opened) -> Result<(Vec<Plan>, bool)> {
    let mut types = args.files();
    let mut fixed = None;
    if let Some(path) = args.plan.as_deref() {
        if let Some((file_type, tensors)) = Written::read(path, &types)? {
            (types, fixed) = (vec![file_type], Some(tensors));
        } else if types.is_empty() {
            return Err(Error::usage("there is no such plan").at(path).help("with --type it is written"));
        }
    }
    let follows = fixed.is_some();
    let options = plan::Options { fixed, ..plan_options(args)? };
    let source = &opened.source;
    let plans = types.iter().map(|t| Plan::new(source.metadata(), source.tensors(), t, &options, None));
    let plans = plans.collect::<Result<Vec<_>>>().map_err(|e| e.at(&args.model))?;
    Ok((plans, follows))
}

impl Args {
    /// Whether the model writes the text.
    fn is_self(&self) -> bool {
        self.calibrate.as_os_str() == "self" && !Path::new("self").exists()
    }

    /// The file of the text, if it is one.
    fn calibration(&self) -> Option<&PathBuf> {
        (!self.is_self()).then_some(&self.calibrate)
    }
}

/// What a file is called where nobody says.
fn usual_name(model: &Path, plan: &Plan) -> String {
    format!("{}-{}.gguf", super::name_of(model), plan.file_type.name)
}

/// Where each file goes, and the folder around them.
fn targets(
    args: &Args,
    opened: &Opened,
    target: Option<Target>,
    plans: &[Plan],
) -> Result<(Vec<PathBuf>, Option<OutputPlace>)> {
    let stem = super::name_of(&args.model);
    let weights: u64 = opened.source.tensors().iter().map(|t| t.elements()).sum();
    let mix = target.map(|target| target.label(weights));
    let files = mix.into_iter().chain(plans.iter().map(|p| p.file_type.name.to_owned()));
    let files = files.map(|kind| format!("{stem}-{kind}.gguf"));
    let folders: Vec<String> = args.folders().iter().map(|(name, _)| format!("{stem}-{name}")).collect();
    // A folder is where files go; to a folder for transformers it is the output itself.
    let itself = folders.len() == 1 && args.types.len() == 1;
    let kinds: Vec<String> = files.chain(folders).collect();
    let usual = String::clone;
    let into = |folder: &Path| args.parts.part.is_some() || kinds.len() > 1 || (names_folder(folder) && !itself);
    match args.output.as_deref() {
        Some(folder) if into(folder) => {
            let place = args.parts.part.is_none().then(|| OutputPlace::make(folder)).transpose()?;
            Ok((kinds.iter().map(|p| folder.join(usual(p))).collect(), place))
        }
        Some(file) => Ok((vec![file.to_path_buf()], None)),
        None => Ok((kinds.iter().map(|p| PathBuf::from(usual(p))).collect(), None)),
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
            let texts = own_text(model, &SourceWeights(&opened.source), first, size, args.seed, |tokens| {
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

/// What keys begin with that say how a file was made.
const SIGNED: &str = "quantize.optimize.";

/// Says in the file how it was made.
fn sign(metadata: &mut Metadata, text: &Text, options: &Options, plain_tensors: usize) {
    let mut put = |key: &str, value: Value| {
        metadata.set(format!("{SIGNED}{key}").as_str(), value);
    };
    put("version", Value::U32(1));
    put("steps", Value::from(options.steps().join(",")));
    put("calibration", Value::from(text.name.as_str()));
    put("calibration_sha256", Value::from(text.sha256.as_str()));
    put("tokens", Value::U32(text.tokens() as u32));
    put("held_back", Value::U32((text.held.len() * text.context) as u32));
    put("context", Value::U32(text.context as u32));
    put("plain_tensors", Value::U32(plain_tensors as u32));
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
    /// The type, or the types of a mix, for people.
    what: String,
    bits_per_weight: f64,
    bytes: u64,
    /// Whether the chosen numbers won against the plain ones.
    optimized: bool,
    /// Where it was run, if not on the processor.
    #[serde(default)]
    device: Option<Ran>,
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
        let (report, device) = self.args.device.run(self.common, |device| self.run_file(device))?;
        Ok(Report { device, ..report })
    }

    /// Makes a file.
    fn run_file(&self, device: Option<&Device>) -> Result<Report> {
        let begun = Instant::now();
        let (args, text) = (self.args, self.text);
        let options = args.options();
        let job = Job {
            model: &self.opened.model,
            source: &self.opened.source,
            plan: self.plan,
            text: &text.text,
            held: &text.held,
            options,
            folder: None,
            device,
        };
        let mut store = Store::open(self.target, &job.digest()?, self.resume)?;
        let tokens = (text.tokens() * job.model.dims.layers().max(1)) as u64;
        let bar = ProgressBar::new(self.common, self.plan.file_type.name, tokens);
        let outcome = job.run(&mut store, &mut |share, _| bar.at((share * 1e6) as u64, 1_000_000));
        let outcome = outcome.map_err(|e| e.at(&args.model))?;
        bar.finish();

        let plain_tensors: usize = outcome.stages.iter().filter(|s| s.plain_won()).map(|s| s.tensors.len()).sum();
        let mut plan = self.plan.clone();
        sign(&mut plan.metadata, text, &options, plain_tensors);
        let inputs = files_of([&args.model], args.calibration());
        let out = Output::create(self.target, args.force, &inputs)?;
        let out = job.write(&plan, &store, &outcome, out).map_err(|e| e.at(self.target))?;
        gguf::check::verify_file(out.temporary(), true)
            .map_err(|e| e.about("the written file is not sound").of_file(self.target))?;
        let plain_plan = job.plain_plan(&outcome);
        let verdict = match options.judge {
            true => {
                let written = gguf::File::open(out.temporary())?;
                let plain = Encoded::planned(&self.opened.source, plain_plan.clone());
                Some(judge(&job, &plain, &SourceWeights(&written), args.max_memory)?)
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
        let what = if args.mixes() { mix_of(self.plan) } else { self.plan.file_type.name.to_owned() };
        Ok(self.report((self.plan.file_type.name, &what), &outcome, verdict, kept, begun))
    }

    /// Makes a folder for transformers.
    fn run_folder(&self, name: &str, coding: Coding, device: Option<&Device>) -> Result<Report> {
        let begun = Instant::now();
        let (args, text, source) = (self.args, self.text, &self.opened.source);
        let input = convert::location::find(&args.model, self.common)?;
        if !input.is_dir() {
            return Err(Error::input("is not a checkpoint folder")
                .at(&input)
                .help(format!("{name} is made from a folder")));
        }
        let matrices = Matrices::find(&input, source.as_ref(), coding)?;
        if matrices.tensors().is_empty() {
            return Err(Error::input(format!("has no matrices that {name} could be chosen for"))
                .at(&input)
                .help(format!("`quantize --type {name}` rounds what there is to round")));
        }
        let options = args.options();
        let job = Job {
            model: &self.opened.model,
            source,
            plan: self.plan,
            text: &text.text,
            held: &text.held,
            options,
            folder: Some(Folder { coding, matrices: &matrices }),
            device,
        };
        let mut store = Store::open(self.target, &job.digest()?, self.resume)?;
        // Both forms are read back as any reader has them. What cannot be written is known before the work begins.
        let (plain, searched) = (store.folder().join("plain"), store.folder().join("chosen"));
        let none = |_: &str| Ok(None);
        if let Err(e) = write_folder(&input, &plain, coding, true, &none, None) {
            store.remove()?;
            let way = e.way_out().map(|_| format!("`quantize --type {name}` has options for such a model"));
            let plain = Error::new(e.kind(), e.message().to_owned());
            return Err(way.into_iter().fold(plain, Error::help));
        }
        let bar = ProgressBar::new(self.common, name, 1_000_000);
        let outcome = job.run(&mut store, &mut |share, _| bar.at((share * 1e6) as u64, 1_000_000));
        let outcome = outcome.map_err(|e| e.at(&args.model))?;
        bar.finish();
        let plain_tensors: usize = outcome.stages.iter().filter(|s| s.plain_won()).map(|s| s.tensors.len()).sum();
        let mut signed = Metadata::default();
        sign(&mut signed, text, &options, plain_tensors);
        let said: serde_json::Map<String, serde_json::Value> =
            signed.iter().map(|(key, value)| (key.to_owned(), json_of(value))).collect();
        let record = said.into();
        let coded = job.coded(&store);
        let chosen = |name: &str| matrices.coded(name, &coded);
        let verdict = match options.judge {
            true => {
                write_folder(&input, &searched, coding, true, &chosen, Some(&record))?;
                let exact = convert::Options { exact: true, ..convert::Options::default() };
                let (plain, searched) = (Checkpoint::open(&plain, &exact)?, Checkpoint::open(&searched, &exact)?);
                Some(judge(&job, &SourceWeights(&plain), &SourceWeights(&searched), args.max_memory)?)
            }
            false => None,
        };
        let kept = verdict.is_none_or(|v| v.holds());
        match kept {
            true => write_folder(&input, self.target, coding, args.force, &chosen, Some(&record))?,
            false => write_folder(&input, self.target, coding, args.force, &none, None)?,
        }
        drop(coded);
        store.remove()?;
        Ok(self.report((name, name), &outcome, verdict, kept, begun))
    }

    fn report(
        &self,
        (ty, what): (&str, &str),
        outcome: &Outcome,
        verdict: Option<Verdict>,
        kept: bool,
        begun: Instant,
    ) -> Report {
        let bytes = size_of(self.target);
        let stages = outcome.stages.iter().map(|s| StageReport {
            tensors: s.tensors.clone(),
            plain: s.plain,
            error_plain: s.errors.map(|e| e.0),
            error: s.errors.map(|e| e.1),
        });
        let judge = verdict.map(|v| Judged { measure: v.measure.to_owned(), plain: v.plain, chosen: v.chosen });
        Report {
            output: self.target.to_path_buf(),
            ty: ty.to_owned(),
            what: what.to_owned(),
            bits_per_weight: match self.target.is_dir() {
                true => 8.0 * bytes as f64 / self.plan.elements().max(1) as f64,
                false => bits_per_weight(self.plan),
            },
            bytes,
            optimized: kept,
            device: None,
            judge,
            stages: stages.collect(),
            seconds: begun.elapsed().as_secs_f64(),
        }
    }
}

impl Report {
    /// For people.
    fn text(&self) -> String {
        let output = gguf::quote::path(&self.output);
        let mut lines = format!("{output}: {} in {} bytes; {:.1} s\n", self.what, count(self.bytes), self.seconds);
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
            lines += "  plain bytes stayed where they won:\n";
            by_kind(stayed).into_iter().for_each(|kind| lines += &format!("    {kind}\n"));
        }
        lines
    }
}

/// Names of tensors by what they are, with the runs of their layers.
fn by_kind<'n>(names: impl Iterator<Item = &'n str>) -> Vec<String> {
    let mut kinds: Vec<(&str, Vec<u64>)> = Vec::new();
    for name in names {
        let layer = quantize::recipe::layer(name);
        let kind = layer.and_then(|layer| name.split_once(&format!(".{layer}."))).map_or(name, |(_, kind)| kind);
        match kinds.iter_mut().find(|known| known.0 == kind) {
            Some((_, layers)) => layers.extend(layer),
            None => kinds.push((kind, layer.into_iter().collect())),
        }
    }
    let line = |(kind, mut layers): (&str, Vec<u64>)| {
        layers.sort_unstable();
        let runs = layers.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
            [first, .., last] => format!("{first}-{last}"),
            _ => run.iter().map(u64::to_string).collect(),
        });
        let runs: Vec<String> = runs.collect();
        match runs.is_empty() {
            true => kind.to_owned(),
            false => format!("{kind} of layer {}", runs.join(", ")),
        }
    };
    kinds.into_iter().map(line).collect()
}

fn bits_per_weight(plan: &Plan) -> f64 {
    let bytes: u64 = plan.tensors.iter().map(|t| t.info.bytes()).sum();
    bytes as f64 * 8.0 / plan.elements().max(1) as f64
}

/// The bits and types of a mix.
fn mix_of(plan: &Plan) -> String {
    let mut types: BTreeMap<TensorType, usize> = BTreeMap::new();
    plan.tensors.iter().filter(|t| t.converts()).for_each(|t| *types.entry(t.info.ty()).or_default() += 1);
    let mut types: Vec<(TensorType, usize)> = types.into_iter().collect();
    types.sort_by(|a, b| a.0.bits_per_weight().total_cmp(&b.0.bits_per_weight()));
    let types: Vec<String> = types.iter().map(|(ty, n)| format!("{n} × {ty}")).collect();
    format!("{:.3} bits a weight ({})", bits_per_weight(plan), types.join(", "))
}

/// Bytes of a file, or of all files of a folder.
fn size_of(path: &Path) -> u64 {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum(),
        Err(_) => std::fs::metadata(path).map(|m| m.len()).unwrap_or(0),
    }
}

fn json_of(value: &Value) -> serde_json::Value {
    match (value.as_u64(), value.as_str()) {
        (Some(number), _) => number.into(),
        (_, Some(text)) => text.into(),
        _ => serde_json::Value::Null,
    }
}

/// Writes a folder with what was chosen, the rest as `quantize` has it by default.
fn write_folder(
    input: &Path,
    output: &Path,
    coding: Coding,
    force: bool,
    chosen: Chosen<'_>,
    record: Option<&serde_json::Value>,
) -> Result<()> {
    let form = match coding {
        Coding::FourBit(code) => Form::FourBit { code, block: BLOCK, double: false, storage: Storage::Uint8 },
        Coding::Int8 => Form::Int8 { threshold: 6.0 },
        Coding::Affine(bits) => {
            let options = bnb::AffineOptions {
                bits,
                granularity: Granularity::Group(GROUP),
                symmetric: true,
                skip: None,
                no_fallback: false,
                no_degenerate: false,
                shard_bytes: convert::shards::SHARD_BYTES,
                force,
            };
            return bnb::write_affine_chosen(input, output, &options, chosen, record, &|_| ()).map(drop);
        }
    };
    let options = bnb::Options { force, ..bnb::Options::new(form) };
    bnb::write_chosen(input, output, &options, chosen, record, &|_| ()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_by_kind_with_the_runs_of_their_layers() {
        let names = ["blk.3.attn_q.weight", "blk.3.attn_k.weight", "blk.12.attn_q.weight", "blk.4.attn_q.weight"];
        let more = ["blk.13.attn_q.weight", "blk.14.attn_q.weight", "output.weight", "blk.20.attn_q.weight"];
        assert_eq!(
            by_kind(names.into_iter().chain(more)),
            ["attn_q.weight of layer 3-4, 12-14, 20", "attn_k.weight of layer 3", "output.weight"]
        );
        assert!(by_kind(std::iter::empty()).is_empty());
    }
}
