//! The program `convert`: a checkpoint folder becomes a GGUF file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Parser;
use convert::back::{self, Float, Folder, Options as BackOptions, Projector};
use convert::cli::{BaseArgs, FolderArgs, ModelfileArgs, TokenizerArgs, check_tokenizer, tokenizer_json};
use convert::lora::{self, AdapterFile};
use convert::tasks::TaskAdapter;
use convert::tokenizer::Report as Comparison;
use convert::{Checkpoint, Options, OutType, hf, location};
use gguf::cli::{
    self, Align, Common, Exit, Files, Output, OutputFolder, OutputPlace, Program, Progress, SplitArgs, Table,
};
use gguf::lost::{Degenerate, Lost};
use gguf::split::{self, Division, KeyOrder};
use gguf::{Error, FileLayout, Result, Source, TensorInfo};
use serde_json::json;

/// The program.
pub const PROGRAM: Program = Program::of::<Args>();

const EXAMPLES: &str = "\
Examples:
  convert models/tiny-llama                       writes tiny-llama-4.2M-BF16.gguf into the current folder
  convert models/tiny-llama -o tiny.gguf --outtype f16
  convert models/tiny-llama --dry-run --json      the plan: tensors, types, bytes
  convert models/tiny-llama --check-tokenizer --text book.txt
  convert hf://meta-llama/Llama-3.2-1B            fetched from the hub into its cache, where it is not there yet
  convert models/llava --mmproj -o mmproj.gguf    the towers that see and hear
  convert models/llava --all -o out/              both files, under their default names
  convert models/tiny-llama --split-max-size 2G   files NAME-00001-of-0000N.gguf of at most 2 GB each
  convert tiny.gguf -o folder                     the way back: a checkpoint folder from a GGUF file
  convert text.gguf --mmproj mmproj.gguf -o folder  the same with the towers of a projector file
  convert --list                                  the architectures there are

Exit codes: 0 done, 2 wrong usage, 3 bad input, 4 the system failed.";

/// Convert a Hugging Face checkpoint folder to a GGUF file, byte for byte as llama.cpp's converter does, or a GGUF file
/// back to a folder
#[derive(Debug, Parser)]
#[command(name = "convert", version, after_help = EXAMPLES)]
struct Args {
    /// The checkpoint: a folder with config.json, safetensors files and a tokenizer, one of the hub's cache, or a name on
    /// the hub such as hf://OWNER/NAME@REVISION. Or a GGUF file, the first part where it is split, for the way back
    #[arg(required_unless_present_any = ["list", "towers"])]
    folder: Option<PathBuf>,

    /// The file to write, {ftype} in its name standing for the type, or a folder to write it into under its default name;
    /// of a GGUF file, the folder to make
    #[arg(long, short, alias = "outfile", value_name = "PATH", conflicts_with = "second")]
    output: Option<PathBuf>,

    /// What llama-quantize takes in second place
    #[arg(hide = true)]
    second: Option<PathBuf>,

    /// The type of the matrices; vectors stay f32 [default: auto, of an adapter f32]
    #[arg(long, value_enum, value_name = "TYPE")]
    outtype: Option<OutType>,

    /// Of a GGUF file: the class of the folder, where files of the architecture are those of several
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,

    /// Of a GGUF file: the most bytes of a file of weights [default: 50000000000]
    #[arg(long, value_name = "BYTES", value_parser = cli::parse_bytes)]
    max_shard_size: Option<u64>,

    /// Decode blocks that GGUF has a type for (MXFP4, NVFP4) instead of keeping them
    #[arg(long)]
    decode: bool,

    /// Write the keys and the vocabulary alone, without tensors; the folder needs no weights
    #[arg(long, conflicts_with_all = ["merge_lora", "modelfile"])]
    vocab_only: bool,

    /// Of a folder: write the projector file (towers that see or hear) instead of the text model's. Of a GGUF file: its
    /// projector file, whose towers come back into the folder too
    #[arg(long = "mmproj", value_name = "PROJECTOR", num_args = 0..=1)]
    #[arg(conflicts_with_all = ["all", "vocab_only", "merge_lora", "modelfile", "check_tokenizer"])]
    towers: Option<Option<PathBuf>>,

    /// Whether the projector file of a folder is wanted.
    #[arg(skip)]
    mmproj: bool,

    /// The projector file beside a GGUF file.
    #[arg(skip)]
    projector: Option<PathBuf>,

    /// Write the text model's file and, where the folder has towers, the projector file; -o names a folder
    #[arg(long, conflicts_with_all = ["vocab_only", "check_tokenizer"])]
    all: bool,

    /// Print the plan and its sizes; write nothing
    #[arg(long)]
    dry_run: bool,

    /// Replace an output that exists
    #[arg(long)]
    force: bool,

    /// The old spelling of --force; -f is the text of `evaluate`
    #[arg(short = 'f', hide = true)]
    old_force: bool,

    /// Convert weights that are NaN or infinite too
    #[arg(long)]
    allow_nonfinite: bool,

    /// Refuse weights that the type cannot hold and that become zeros, instead of warning of them
    #[arg(long)]
    no_degenerate: bool,

    /// Do not open the finished file again to check it
    #[arg(long)]
    no_verify: bool,

    /// Bytes of buffers for pieces of tensors; the vocabulary and what a row needs come on top
    #[arg(long, value_name = "SIZE", value_parser = cli::parse_bytes, default_value = "64MiB")]
    max_memory: u64,

    /// Compare the tokenizer with the folder's own on texts of many kinds; write nothing
    #[arg(long, conflicts_with_all = ["dry_run", "no_check_tokenizer"])]
    check_tokenizer: bool,

    /// Another text for the comparison of tokenizers
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,

    /// Print the architectures that are known
    #[arg(long)]
    list: bool,

    #[command(flatten, next_help_heading = "A model in several files")]
    split: SplitArgs,

    #[command(flatten)]
    reading: FolderArgs,

    #[command(flatten)]
    base: BaseArgs,

    #[command(flatten)]
    tokenizer: TokenizerArgs,

    #[command(flatten)]
    modelfile: ModelfileArgs,

    #[command(flatten)]
    common: Common,
}

impl Args {
    /// The folder that the files go into, where -o names one.
    fn output_folder(&self) -> Option<&Path> {
        self.output.as_deref().filter(|path| self.all || cli::names_folder(path))
    }

    /// Tells what follows `--mmproj`: the projector file beside a GGUF file, or one of the paths of a command about a
    /// folder, for which the option has no value.
    fn sort_paths(&mut self) {
        let Some(value) = self.towers.take() else { return };
        let is_file = self.folder.as_deref().is_some_and(|file| file.is_file() && is_gguf(file));
        self.mmproj = value.is_none() || !is_file;
        let Some(value) = value else { return };
        match self.folder.take() {
            Some(file) if is_file => (self.folder, self.projector) = (Some(file), Some(value)),
            Some(output) if value.is_dir() && !output.is_dir() => {
                (self.folder, self.second) = (Some(value), Some(output))
            }
            Some(folder) => (self.folder, self.second) = (Some(folder), Some(value)),
            None => self.folder = Some(value),
        }
    }
}

impl cli::Options for Args {
    fn run(self) -> ExitCode {
        let mut args = self;
        args.sort_paths();
        args.output = args.output.take().or(args.second.take());
        if args.old_force {
            args.force = true;
            cli::say("warning: -f will go away, since `evaluate` takes a text by it; write --force");
        }
        cli::run(|| work(&args))
    }
}

fn work(args: &Args) -> Result<Exit> {
    if args.folder.is_none() && !args.list {
        return Err(Error::usage("--mmproj needs the folder whose towers are wanted"));
    }
    let Some(wanted) = args.folder.as_deref().filter(|_| !args.list) else {
        return list(&args.common);
    };
    if wanted.is_file() && is_gguf(wanted) {
        return way_back(args, wanted);
    }
    if args.class.is_some() {
        return Err(Error::usage("--class is for the way from a GGUF file to a folder")
            .help("the class of a folder stands in its config.json"));
    }
    let folder = &location::find(wanted, &args.common)?;
    if !folder.is_dir() {
        return Err(Error::input("is a file, neither a checkpoint folder nor a GGUF file")
            .at(folder)
            .help("give the folder that holds config.json"));
    }
    if lora::is_adapter(folder) {
        return adapter_file(args, folder);
    }
    let text = (!args.mmproj).then(|| Conversion::open(args, folder, false)).transpose()?;
    let projector = match (args.mmproj, args.all) {
        (false, true) if !has_towers(args, folder)? => {
            if !args.common.quiet {
                cli::say("note: the folder has no towers that see or hear, so there is no projector file");
            }
            None
        }
        (true, _) | (_, true) => Some(Conversion::open(args, folder, true)?),
        _ => None,
    };
    let files: Vec<Conversion> = text.into_iter().chain(projector).collect();
    if args.check_tokenizer {
        let tokenizer = compare_tokenizers(args, folder, files[0].checkpoint.metadata())?;
        if args.common.wants_document() {
            let files = Files::new(&args.common, false, &convert::files::of_model(folder), &[])?;
            let fields = json!({ "tokenizer": tokenizer_json(&tokenizer) });
            args.common.print_document("convert-tokenizer-1", VERSION, &files, fields)?;
        }
        return Ok(Exit::Done);
    }
    if args.dry_run {
        return print_result(args, folder, &files, None);
    }
    let _place = args.output_folder().map(OutputPlace::make).transpose()?;
    let inputs = read(args, folder)?;
    let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
    // All files are finished before the first of them gets its name.
    let mut written = files.iter().map(|file| file.write(args, folder, &inputs)).collect::<Result<Vec<_>>>()?;
    cli::commit_all(written.iter_mut().flat_map(|file| file.outputs.drain(..)).collect())?;
    print_result(args, folder, &files, Some(&written))
}

/// Whether a file begins as a GGUF file does.
fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let begin = std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic));
    begin.is_ok() && magic == *b"GGUF"
}

/// A GGUF file becomes a checkpoint folder.
fn way_back(args: &Args, file: &Path) -> Result<Exit> {
    if let Some(option) = only_of_a_folder(args) {
        return Err(Error::usage(format!("{option} is for the way from a folder to a file")).help(
            "a GGUF file takes -o, --outtype, --class, --max-shard-size, --max-memory, --dry-run, --force, \
                 --no-verify and --mmproj PROJECTOR.gguf",
        ));
    }
    let Some(target) = args.output.as_deref() else {
        return Err(Error::usage("a GGUF file becomes a folder, which needs a name").help("-o FOLDER names it"));
    };
    let outtype = match args.outtype {
        None | Some(OutType::Auto) => None,
        Some(OutType::BF16) => Some(Float::BF16),
        Some(OutType::F16) => Some(Float::F16),
        Some(OutType::F32) => Some(Float::F32),
        Some(OutType::Q8_0 | OutType::TQ1_0 | OutType::TQ2_0) => {
            return Err(Error::usage("a checkpoint folder has floats").help("--outtype bf16, f16 or f32"));
        }
    };
    let options = BackOptions {
        outtype,
        class: args.class.clone(),
        max_shard_bytes: args.max_shard_size.unwrap_or(convert::shards::SHARD_BYTES),
        projector: args.projector.as_deref().map(gguf::open).transpose()?.map(|file| Projector(Arc::new(file))),
        no_degenerate: args.no_degenerate,
        max_memory: args.max_memory,
    };
    let source: Arc<dyn Source + Send + Sync> = Arc::new(gguf::open(file)?);
    let plan = Folder::plan(source, &options).map_err(|e| e.at(file))?;
    let mut notes: Vec<String> = plan.notes().to_vec();
    let (mut outputs, mut degenerate) = (Vec::new(), Vec::new());
    if !args.dry_run {
        let inputs: Vec<&Path> = std::iter::once(file).chain(args.projector.as_deref()).collect();
        let output = OutputFolder::create(target, args.force, &inputs)?;
        let progress = Progress::bytes(args.common.progress, args.common.quiet, "writing", plan.bytes());
        let written = plan.write(output.temporary(), &|bytes| progress.add(bytes));
        progress.finish();
        degenerate = written.map_err(|e| e.at(target))?;
        if !args.no_verify {
            let differing = plan.check(output.temporary());
            notes.extend(differing.map_err(|e| e.of_file(target))?);
        }
        output.commit()?;
        outputs = files_in(target)?;
    }
    if !args.common.quiet {
        notes.iter().for_each(|note| cli::say(&format!("note: {note}")));
        gguf::lost::warnings(&degenerate).iter().for_each(|line| cli::say(line));
    }
    let document = || {
        let result = json!({"output": gguf::quote::json(target), "written": !args.dry_run, "class": plan.class(),
            "architecture": plan.architecture(), "tensors": plan.entries().len(), "bytes": plan.bytes(),
            "outtype": plan.float().name(), "from": plan.types(), "degenerate": degenerate_json(&degenerate), "notes": notes});
        let inputs: Vec<PathBuf> = std::iter::once(file.to_path_buf()).chain(args.projector.clone()).collect();
        let files = Files::new(&args.common, !args.dry_run, &inputs, &outputs)?;
        Ok(cli::document(SCHEMA, VERSION, &files, result))
    };
    let text = || {
        let types: Vec<String> = plan.types().iter().map(|(ty, n)| format!("{n} of {ty}")).collect();
        Ok(format!(
            "{}{}: {}, {} tensors as {}, {}, from {}\n",
            if args.dry_run { "would write " } else { "" },
            gguf::quote::path(target),
            plan.class(),
            plan.entries().len(),
            plan.float().name(),
            cli::bytes(plan.bytes()),
            types.join(", ")
        ))
    };
    args.common.result(document, text)?;
    Ok(Exit::Done)
}

/// The files of a folder and of those in it, in order.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, "list", e))? {
        let path = entry.map_err(|e| Error::io(folder, "list", e))?.path();
        if path.is_dir() { files.extend(files_in(&path)?) } else { files.push(path) }
    }
    files.sort();
    Ok(files)
}

/// The first option that says nothing of the way back, where one is given.
fn only_of_a_folder(args: &Args) -> Option<&'static str> {
    let given = [
        (args.decode, "--decode"),
        (args.vocab_only, "--vocab-only"),
        (args.reading.target_model_dir.is_some(), "--target-model-dir"),
        (args.reading.mtp, "--mtp"),
        (args.reading.no_mtp, "--no-mtp"),
        (args.reading.dspark, "--dspark"),
        (args.mmproj, "--mmproj"),
        (args.all, "--all"),
        (args.allow_nonfinite, "--allow-nonfinite"),
        (args.check_tokenizer, "--check-tokenizer"),
        (args.text.is_some(), "--text"),
        (args.base.base.is_some(), "--base"),
        (args.modelfile.modelfile, "--modelfile"),
    ];
    args.reading
        .given()
        .or_else(|| args.split.given())
        .or_else(|| given.into_iter().find(|(given, _)| *given).map(|(_, name)| name))
}

/// Encodes texts with the folder's tokenizer and with the one that the keys describe.
fn compare_tokenizers(args: &Args, folder: &Path, metadata: &gguf::Metadata) -> Result<Comparison> {
    // A draft has the vocabulary of its target.
    let folder = args.reading.target_model_dir.as_deref().unwrap_or(folder);
    check_tokenizer(folder, metadata, args.text.as_deref(), &args.common)
}

/// Whether a folder has towers of a class that is known.
fn has_towers(args: &Args, folder: &Path) -> Result<bool> {
    let (root, _) = convert::config::read_form(folder, args.reading.mistral_format)?;
    Ok(hf::projectors::find(&root).is_some_and(|row| {
        let there = |tower: &hf::Tower| root.get(tower.path[0]).is_some_and(|part| !part.is_null());
        row.towers.iter().any(there)
    }))
}

/// One of a folder's files.
struct Conversion {
    checkpoint: Checkpoint,
    /// What it is called where it is one file.
    target: PathBuf,
    files: Vec<PlannedFile>,
    projector: bool,
}

/// A file of which everything but the data is known: a whole model, or a shard.
struct PlannedFile {
    path: PathBuf,
    /// Its tensors.
    part: Range<usize>,
    plan: FileLayout,
}

impl PlannedFile {
    fn whole(source: &dyn Source, path: PathBuf) -> Result<PlannedFile> {
        let plan = FileLayout::new(source.metadata(), source.tensors())?;
        Ok(PlannedFile { path, part: 0..source.tensors().len(), plan })
    }

    /// The files of a model that would be called `target`: one, under that name, where no limit is passed.
    fn shards(source: &dyn Source, target: &Path, division: Division) -> Result<Vec<PlannedFile>> {
        let tensors = source.tensors();
        let parts = if division == Division::default() { Vec::new() } else { division.parts(tensors, UNPADDED)? };
        if parts.len() <= 1 {
            return Ok(vec![PlannedFile::whole(source, target.to_path_buf())?]);
        }
        let count = parts.len();
        let shard = |(no, part): (usize, Range<usize>)| {
            let metadata = split::metadata(source.metadata(), no, count, tensors.len(), KeyOrder::GgufPy)?;
            let plan = FileLayout::new(&metadata, &tensors[part.clone()])?;
            Ok(PlannedFile { path: split::of_whole(target, no, count), part, plan })
        };
        parts.into_iter().enumerate().map(shard).collect()
    }
}

/// The converter counts tensors of a shard without their padding.
const UNPADDED: u64 = 1;

/// A file, and what stands beside it, that only lack their names.
struct Written {
    outputs: Vec<Output>,
    tokenizer: Option<Comparison>,
    degenerate: Vec<Degenerate>,
    seconds: f64,
}

impl Conversion {
    fn open(args: &Args, folder: &Path, projector: bool) -> Result<Conversion> {
        let mut options = Options { projector, ..options(args, OutType::Auto)? };
        if projector {
            options.merge.clear();
        }
        let checkpoint = Checkpoint::open(folder, &options)?;
        let default = checkpoint.file_name();
        let target = with_type(target(args, &default), checkpoint.type_name());
        let mut files = PlannedFile::shards(&checkpoint, &target, args.split.division())?;
        if !projector {
            args.modelfile.check(files.len())?;
        }
        if args.vocab_only {
            files = files.into_iter().map(|file| PlannedFile { plan: file.plan.unpadded(), ..file }).collect();
        }
        if !args.common.quiet {
            // What the other file holds is not left out where that is written as well.
            let notes = checkpoint.notes().iter().filter(|note| !args.all || !note.contains("--mmproj"));
            notes.for_each(|note| cli::say(&format!("note: {note}")));
        }
        Ok(Conversion { checkpoint, target, files, projector })
    }

    /// Writes the file but for its name.
    fn write(&self, args: &Args, folder: &Path, inputs: &[&Path]) -> Result<Written> {
        let begun = std::time::Instant::now();
        let Conversion { checkpoint, target, .. } = self;
        let paths = self.files.iter().map(|file| file.path.clone());
        for path in paths.chain(checkpoint.tasks().iter().map(|task| task_target(task, target))) {
            Output::check(&path, args.force, inputs)?;
        }
        let modelfile = match self.projector {
            true => None,
            false => args.modelfile.create(checkpoint, Some(folder), target, args.force, &args.common)?,
        };
        let (mut outputs, mut degenerate) = write(args, checkpoint, &self.files, inputs)?;
        let tokenizer = if args.tokenizer.no_check_tokenizer || self.projector {
            None
        } else {
            let written = gguf::File::open(outputs[0].temporary())?;
            Some(compare_tokenizers(args, folder, written.metadata())?)
        };
        for task in checkpoint.tasks() {
            let file = PlannedFile::whole(task, task_target(task, target))?;
            let (written, lost) = write(args, task, &[file], inputs)?;
            outputs.extend(written);
            degenerate.extend(lost);
        }
        outputs.extend(modelfile);
        Ok(Written { outputs, tokenizer, degenerate, seconds: begun.elapsed().as_secs_f64() })
    }
}

/// How a folder is converted, where nothing is said of the type of its matrices to this one.
fn options(args: &Args, outtype: OutType) -> Result<Options> {
    let blocks = if args.decode { convert::packed::Blocks::Decode } else { convert::packed::Blocks::Keep };
    let options = args.reading.options(args.outtype.unwrap_or(outtype), blocks, &args.common)?;
    Ok(Options { vocab_only: args.vocab_only, ..options })
}

/// An adapter's folder becomes a GGUF adapter.
fn adapter_file(args: &Args, folder: &Path) -> Result<Exit> {
    if let Some(option) = args.split.given() {
        return Err(Error::usage(format!("{option} is about models, and an adapter is one file")).at(folder));
    }
    // Some trainers put the model's configuration beside the adapter.
    let beside = folder.join("config.json").is_file() && args.base.base.is_none();
    let base = if beside {
        folder.to_path_buf()
    } else {
        let named = args.base.of(folder)?;
        let found = location::find_configuration(&named.to_string_lossy(), &args.common);
        found.map_err(|e| e.help("--base DIR names the checkpoint that the adapter was made for"))?
    };
    let adapter = AdapterFile::open(folder, &base, &options(args, OutType::F32)?)?;
    if !args.common.quiet {
        adapter.notes().iter().for_each(|note| cli::say(&format!("note: {note}")));
    }
    let target = target(args, adapter.file_name());
    let file = PlannedFile::whole(&adapter, target.clone())?;
    let bytes = file.plan.file_bytes();
    let mut degenerate = Vec::new();
    if !args.dry_run {
        let _place = args.output_folder().map(OutputPlace::make).transpose()?;
        let mut inputs = read(args, folder)?;
        inputs.extend(convert::files::of_model(&base));
        let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        let (outputs, lost) = write(args, &adapter, &[file], &inputs)?;
        cli::commit_all(outputs)?;
        degenerate = lost;
    }
    if args.common.wants_document() {
        let weights = adapter.weights();
        let result = json!({"output": target.to_string_lossy(), "written": !args.dry_run, "weights": weights, "bytes": bytes,
            "degenerate": degenerate_json(&degenerate), "notes": adapter.notes()});
        let files = Files::new(
            &args.common,
            !args.dry_run,
            &read(args, folder)?,
            if args.dry_run { &[] } else { std::slice::from_ref(&target) },
        )?;
        let document = cli::document(SCHEMA, VERSION, &files, result);
        args.common.result(|| Ok(document), || Ok(String::new()))?;
    } else {
        cli::print(&format!("{}: {}\n", gguf::quote::path(&target), cli::bytes(bytes)))?;
    }
    Ok(Exit::Done)
}

/// Why a finished file does not get its name: a fault of the system stays one.
fn unsound(e: Error, target: &Path) -> Error {
    e.about("the written file is not sound").of_file(target)
}

/// Where the adapter of a task goes: beside the model.
fn task_target(task: &TaskAdapter, target: &Path) -> PathBuf {
    target.with_file_name(task.file_name(&target.file_name().unwrap_or_default().to_string_lossy()))
}

/// Where the file goes: a folder is given the default name.
fn target(args: &Args, default: &str) -> PathBuf {
    match (args.output_folder(), &args.output) {
        (Some(folder), _) => folder.join(default),
        (None, Some(path)) => path.clone(),
        (None, None) => PathBuf::from(default),
    }
}

/// A path whose file name has the type in place of {ftype} or {FTYPE}.
fn with_type(path: PathBuf, type_name: Option<&str>) -> PathBuf {
    let (Some(name), Some(ty)) = (path.file_name().and_then(|name| name.to_str()), type_name) else { return path };
    let marks = [("{ftype}", ty.to_lowercase()), ("{outtype}", ty.to_lowercase())];
    let marks = marks.into_iter().chain([("{FTYPE}", ty.to_uppercase()), ("{OUTTYPE}", ty.to_uppercase())]);
    let filled = marks.fold(name.to_owned(), |name, (mark, ty)| name.replace(mark, &ty));
    path.with_file_name(filled)
}

/// Writes the files of a source, finished but for their names, and gives the tensors that lost weights.
fn write(
    args: &Args,
    source: &dyn Source,
    files: &[PlannedFile],
    inputs: &[&Path],
) -> Result<(Vec<Output>, Vec<Degenerate>)> {
    let total = files.iter().map(|file| file.plan.file_bytes()).sum();
    let progress = Progress::bytes(args.common.progress, args.common.quiet, "converting", total);
    let watched =
        Watched { source, allow: args.allow_nonfinite, no_degenerate: args.no_degenerate, met: Mutex::default() };
    let piece = args.max_memory / convert::transform::FORMS;
    let write = |(i, PlannedFile { path, part, plan }): (usize, &PlannedFile)| {
        let mut output = Output::create(path, args.force, inputs)?;
        let out = BufWriter::with_capacity(1 << 20, &mut output);
        let count = |bytes| progress.add(bytes);
        let written = gguf::write::copy_planned(&watched, part.clone(), plan.clone(), piece, out, count);
        let flushed = written.and_then(|mut out| out.flush().map_err(|e| Error::io(path, "write", e)));
        flushed.map_err(|e| cli::at_fault(e, args.folder.as_deref().unwrap_or(path), path))?;
        if !args.no_verify {
            // The values were looked at while they were written.
            gguf::check::verify_file(output.temporary(), false).map_err(|e| unsound(e, path))?;
        }
        if i > 0 {
            // The first stays open, so that others see them alive.
            output.seal()?;
        }
        Ok(output)
    };
    let outputs: Result<Vec<Output>> = files.iter().enumerate().map(write).collect();
    progress.finish();
    let outputs = outputs?;
    let (degenerate, nonfinite) = watched.met();
    if !args.common.quiet {
        gguf::lost::warnings(&degenerate).iter().chain(&nonfinite).for_each(|line| cli::say(line));
    }
    Ok((outputs, degenerate))
}

/// A source whose values are looked at as they pass.
struct Watched<'a> {
    source: &'a dyn Source,
    allow: bool,
    no_degenerate: bool,
    /// By tensor: what its type could not hold, and the number of values that are NaN or infinite.
    met: Mutex<BTreeMap<usize, (Lost, u64)>>,
}

impl Watched<'_> {
    fn degenerate(&self, tensor: usize, lost: Lost) -> Degenerate {
        let info = &self.source.tensors()[tensor];
        Degenerate::new(info.name(), info.ty(), lost, info.elements(), info.shape().row_len())
    }

    /// Tensors that lost weights, and warnings of those with values that are NaN or infinite.
    fn met(&self) -> (Vec<Degenerate>, Vec<String>) {
        let met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = met.iter().filter(|(_, (lost, _))| lost.blocks > 0).map(|(&i, (lost, _))| self.degenerate(i, *lost));
        let nonfinite = met.iter().filter(|(_, (_, count))| *count > 0).map(|(&i, (_, count))| {
            let info = &self.source.tensors()[i];
            let name = gguf::quote::text(info.name());
            format!("warning: tensor {name}: {} values are NaN or infinite as {}", cli::count(*count), info.ty())
        });
        (lost.collect(), nonfinite.collect())
    }
}

impl Source for Watched<'_> {
    fn metadata(&self) -> &gguf::Metadata {
        self.source.metadata()
    }

    fn tensors(&self) -> &[TensorInfo] {
        self.source.tensors()
    }

    fn rows(&self, tensor: usize, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let bytes = self.source.rows(tensor, rows.clone())?;
        let info = &self.source.tensors()[tensor];
        let lost = gguf::lost::narrowed(self.source, tensor, rows, &bytes)?;
        if lost.blocks > 0 && self.no_degenerate {
            return Err(Error::input(self.degenerate(tensor, lost).to_string()).help(crate::back::NO_DEGENERATE_HELP));
        }
        let nonfinite = gguf::finite::count(info.ty(), &bytes);
        if lost.blocks > 0 || nonfinite > 0 {
            let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
            let met = met.entry(tensor).or_default();
            met.0.add(lost);
            met.1 += nonfinite;
        }
        if !self.allow && nonfinite > 0 {
            return Err(Error::input(format!("tensor {} as {} holds NaN or infinity", info.name(), info.ty()))
                .help("the checkpoint is damaged, or the type too narrow: try another --outtype; --allow-nonfinite converts it all the same"));
        }
        Ok(bytes)
    }

    fn release(&self, tensor: usize, rows: Range<u64>) {
        self.source.release(tensor, rows);
    }

    fn stored_bytes(&self) -> u64 {
        self.source.stored_bytes()
    }
}

/// The schema of the document that `--json` prints.
const SCHEMA: &str = "convert-1";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The files that the conversion read.
fn read(args: &Args, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = vec![folder.to_path_buf()];
    for (adapter, _) in &args.reading.merge_lora {
        folders.push(location::find(adapter, &args.common)?);
    }
    folders.extend(args.reading.target_model_dir.clone());
    let mut all = Vec::new();
    for folder in folders {
        all.extend(convert::files::of_model(&folder));
    }
    all.extend(args.reading.metadata.clone());
    Ok(all)
}

/// Tensors, elements and bytes of a type.
#[derive(Default)]
struct Share {
    tensors: u64,
    elements: u64,
    bytes: u64,
}

/// Prints what was written, with the comparison of tokenizers and the seconds of each file, or what would be.
fn print_result(args: &Args, folder: &Path, files: &[Conversion], written: Option<&[Written]>) -> Result<Exit> {
    let of = |i: usize| written.map(|all| &all[i]);
    let document = || {
        let mut all: Vec<_> = files.iter().enumerate().map(|(i, file)| file.json(of(i))).collect();
        let fields = if args.all { json!({ "files": all }) } else { all.remove(0) };
        let done = written.is_some();
        let outputs = if done { files.iter().flat_map(|file| file.outputs(args)).collect() } else { Vec::new() };
        Ok(cli::document(SCHEMA, VERSION, &Files::new(&args.common, done, &read(args, folder)?, &outputs)?, fields))
    };
    let text = || Ok(files.iter().enumerate().map(|(i, file)| file.text(of(i))).collect());
    args.common.result(document, text)?;
    Ok(Exit::Done)
}

impl Conversion {
    /// The files that are written.
    fn outputs(&self, args: &Args) -> Vec<PathBuf> {
        let modelfile = args.modelfile.modelfile && !self.projector;
        let modelfile = modelfile.then(|| self.target.with_file_name("Modelfile"));
        let tasks = self.checkpoint.tasks().iter().map(|task| task_target(task, &self.target));
        self.files.iter().map(|file| file.path.clone()).chain(tasks).chain(modelfile).collect()
    }

    /// Tensors, elements and bytes of each type.
    fn shares(&self) -> BTreeMap<&str, Share> {
        let mut types: BTreeMap<&str, Share> = BTreeMap::new();
        for tensor in self.checkpoint.tensors() {
            let share = types.entry(tensor.ty().name()).or_default();
            share.tensors += 1;
            share.elements += tensor.elements();
            share.bytes += tensor.bytes();
        }
        types
    }

    fn json(&self, written: Option<&Written>) -> serde_json::Value {
        let Conversion { checkpoint, target, files, .. } = self;
        let share = |(name, s): (&str, Share)| {
            (name.to_owned(), json!({"tensors": s.tensors, "elements": s.elements, "bytes": s.bytes}))
        };
        let types: serde_json::Map<String, serde_json::Value> = self.shares().into_iter().map(share).collect();
        let adapters: Vec<_> = checkpoint.tasks().iter().map(|t| gguf::quote::json(task_target(t, target))).collect();
        let metadata = checkpoint.metadata();
        let mut result = json!({
            "output": gguf::quote::json(&files[0].path),
            "written": written.is_some(),
            "architecture": checkpoint.architecture().arch,
            "name": metadata.str("general.name"),
            "pre_tokenizer": metadata.str("tokenizer.ggml.pre"),
            "tensors": checkpoint.tensors().len(),
            "bytes": files.iter().map(|file| file.plan.file_bytes()).sum::<u64>(),
            "types": types,
            "notes": checkpoint.notes(),
            "tokenizer": written.and_then(|written| written.tokenizer.as_ref()).map(tokenizer_json),
            "adapters": adapters,
            "degenerate": written.map(|written| degenerate_json(&written.degenerate)),
        });
        if files.len() > 1 {
            let shard = |file: &PlannedFile| {
                let (path, bytes) = (gguf::quote::json(&file.path), file.plan.file_bytes());
                json!({"file": path, "tensors": file.part.len(), "bytes": bytes})
            };
            result["shards"] = files.iter().map(shard).collect();
        }
        if self.projector {
            let kinds = ["clip.projector_type", "clip.vision.projector_type", "clip.audio.projector_type"];
            result["projectors"] = kinds.iter().filter_map(|key| metadata.str(key)).collect();
        }
        if written.is_none() {
            let tensor = |t: &TensorInfo| json!({"name": t.name(), "shape": t.shape().dims(), "type": t.ty().name(), "bytes": t.bytes()});
            result["plan"] = checkpoint.tensors().iter().map(tensor).collect();
        }
        result
    }

    fn text(&self, written: Option<&Written>) -> String {
        let Conversion { checkpoint, target, files, .. } = self;
        let mut table = Table::new(&[
            ("type", Align::Left),
            ("tensors", Align::Right),
            ("elements", Align::Right),
            ("bytes", Align::Right),
        ]);
        for (name, share) in &self.shares() {
            table.row([
                (*name).to_owned(),
                cli::count(share.tensors),
                cli::count(share.elements),
                cli::bytes(share.bytes),
            ]);
        }
        let mut end = String::new();
        for file in files {
            let (path, bytes) = (gguf::quote::path(&file.path), cli::bytes(file.plan.file_bytes()));
            end += &match (written, files.len()) {
                (Some(Written { seconds, .. }), 1) => format!("{path}: {bytes} in {seconds:.1} s\n"),
                (None, 1) => format!("{path}: {bytes} would be written\n"),
                _ => format!("{path}: {} tensors, {bytes}\n", file.part.len()),
            };
        }
        if files.len() > 1 {
            let bytes = cli::bytes(files.iter().map(|file| file.plan.file_bytes()).sum());
            end += &match written {
                Some(Written { seconds, .. }) => format!("{} files: {bytes} in {seconds:.1} s\n", files.len()),
                None => format!("{} files: {bytes} would be written\n", files.len()),
            };
        }
        for task in checkpoint.tasks() {
            end += &format!("{}: the adapter of {}\n", gguf::quote::path(task_target(task, target)), task.name());
        }
        table.render() + &end
    }
}

/// Tensors with weights that their type cannot hold, as `--json` has them.
fn degenerate_json(lost: &[Degenerate]) -> Vec<serde_json::Value> {
    lost.iter().map(Degenerate::json).collect()
}

fn list(common: &Common) -> Result<Exit> {
    if common.wants_document() {
        let rows: Vec<_> = hf::all()
            .chain(hf::projectors::all())
            .map(|a| {
                json!({"classes": a.names, "architecture": a.arch, "remark": a.remark, "evaluated": a.is_evaluated(),
                "folder": a.names.iter().map(|name| (name.to_string(), json!(back::has_way(a, name).is_ok())))
                    .collect::<serde_json::Map<_, _>>()})
            })
            .collect();
        common.print_document("convert-classes-1", VERSION, &Files::default(), json!({"classes": rows}))?;
        return Ok(Exit::Done);
    }
    let columns = ["architecture", "class", "evaluate", "to a folder", ""];
    let mut table = Table::new(&columns.map(|name| (name, Align::Left)));
    for row in hf::all().chain(hf::projectors::all()) {
        for (i, class) in row.names.iter().enumerate() {
            let remark = if i == 0 { row.remark } else { "" };
            let evaluated = row.is_evaluated().map_or("", |runs| if runs { "runs it" } else { "-" });
            let folder = if back::has_way(row, class).is_ok() && !row.is_projector() { "yes" } else { "-" };
            table.row([row.arch, *class, evaluated, folder, remark].map(str::to_owned));
        }
    }
    cli::print(&table.render())?;
    Ok(Exit::Done)
}
