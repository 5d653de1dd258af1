//! `convert`: a checkpoint folder becomes a GGUF file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use convert::cli::{BaseArgs, FolderArgs, ModelfileArgs, TokenizerArgs, check_tokenizer, tokenizer_json};
use convert::lora::{self, AdapterFile};
use convert::tasks::TaskAdapter;
use convert::tokenizer::Report as Comparison;
use convert::{Checkpoint, Options, OutType, Part, hf, location};
use gguf::cli::{self, Align, Common, Exit, Files, Output, Progress, Table};
use gguf::{Error, Result, Source, TensorInfo, TensorType, Writer};
use serde_json::json;

const EXAMPLES: &str = "\
Examples:
  convert models/tiny-llama                       writes tiny-llama-4.2M-BF16.gguf into the current folder
  convert models/tiny-llama -o tiny.gguf --outtype f16
  convert models/tiny-llama --dry-run --json      the plan: tensors, types, bytes
  convert models/tiny-llama --check-tokenizer --text book.txt
  convert hf://meta-llama/Llama-3.2-1B            fetched from the hub into its cache, where it is not there yet
  convert models/llava --mmproj -o mmproj.gguf    the towers that see and hear
  convert models/llava --all -o out/              both files, under their default names
  convert --list                                  the architectures there are

Exit codes: 0 done, 2 wrong usage, 3 bad input, 4 the system failed.";

/// Convert a Hugging Face checkpoint folder to a GGUF file, byte for byte as llama.cpp's converter does
#[derive(Debug, Parser)]
#[command(name = "convert", version, after_help = EXAMPLES)]
struct Args {
    /// The checkpoint: a folder with config.json, safetensors files and a tokenizer, one of the hub's cache, or a name on
    /// the hub such as hf://OWNER/NAME@REVISION
    #[arg(required_unless_present = "list")]
    folder: Option<PathBuf>,

    /// The file to write, or a folder to write it into under its default name
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// The type of the matrices; vectors stay f32 [default: auto, of an adapter f32]
    #[arg(long, value_enum, value_name = "TYPE")]
    outtype: Option<OutType>,

    /// Decode blocks that GGUF has a type for (MXFP4, NVFP4) instead of keeping them
    #[arg(long)]
    decode: bool,

    /// Write the keys and the vocabulary alone, without tensors; the folder needs no weights
    #[arg(long, conflicts_with_all = ["merge_lora", "modelfile"])]
    vocab_only: bool,

    /// The folder of the model that a draft (EAGLE 3, DFlash, DSpark) is made for
    #[arg(long, value_name = "DIR")]
    target_model_dir: Option<PathBuf>,

    /// Write the layers of multi-token prediction alone, with the embeddings and the head that they share
    #[arg(long, conflicts_with_all = ["no_mtp", "dspark"])]
    mtp: bool,

    /// Leave the layers of multi-token prediction out
    #[arg(long, alias = "no-nextn", conflicts_with = "dspark")]
    no_mtp: bool,

    /// Write the DSpark draft inside DeepSeek V4 alone
    #[arg(long)]
    dspark: bool,

    /// Write the projector file (towers that see or hear) instead of the text model's
    #[arg(long, conflicts_with_all = ["all", "vocab_only", "merge_lora", "modelfile", "check_tokenizer"])]
    mmproj: bool,

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

    /// Do not open the finished file again to check it
    #[arg(long)]
    no_verify: bool,

    /// Compare the tokenizer with the folder's own on texts of many kinds; write nothing
    #[arg(long, conflicts_with_all = ["dry_run", "no_check_tokenizer"])]
    check_tokenizer: bool,

    /// Another text for the comparison of tokenizers
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,

    /// Print the architectures that are known
    #[arg(long)]
    list: bool,

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

fn main() -> ExitCode {
    let mut args = cli::parse::<Args>();
    if args.old_force {
        args.force = true;
        cli::say("warning: -f will go away, since `evaluate` takes a text by it; write --force");
    }
    cli::run(|| work(&args))
}

fn work(args: &Args) -> Result<Exit> {
    let Some(wanted) = args.folder.as_deref().filter(|_| !args.list) else {
        return list(args.common.json);
    };
    let folder = &location::find(wanted, &args.common)?;
    if !folder.is_dir() {
        return Err(Error::input("is a file, not a checkpoint folder")
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
        if args.common.json {
            cli::print_json(&json!({ "tokenizer": tokenizer_json(&tokenizer) }))?;
        }
        return Ok(Exit::Done);
    }
    if args.dry_run {
        return print_result(args, folder, &files, None);
    }
    if let Some(path) = args.output.as_deref().filter(|path| args.all && is_folder(path)) {
        std::fs::create_dir_all(path).map_err(|e| Error::io(path, "create", e))?;
    }
    let inputs = read(args, folder)?;
    let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
    // All files are finished before the first of them gets its name.
    let mut written = files.iter().map(|file| file.write(args, folder, &inputs)).collect::<Result<Vec<_>>>()?;
    cli::commit_all(written.iter_mut().flat_map(|file| file.outputs.drain(..)).collect())?;
    print_result(args, folder, &files, Some(&written))
}

/// Encodes texts with the folder's tokenizer and with the one that the keys describe.
fn compare_tokenizers(args: &Args, folder: &Path, metadata: &gguf::Metadata) -> Result<Comparison> {
    // A draft has the vocabulary of its target.
    let folder = args.target_model_dir.as_deref().unwrap_or(folder);
    check_tokenizer(folder, metadata, args.text.as_deref(), &args.common)
}

/// Whether a path stands for a folder, be it there or not.
fn is_folder(path: &Path) -> bool {
    path.is_dir() || path.as_os_str().to_string_lossy().ends_with(std::path::is_separator)
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
    target: PathBuf,
    plan: gguf::Plan,
    projector: bool,
}

/// A file, and what stands beside it, that only lack their names.
struct Written {
    outputs: Vec<Output>,
    tokenizer: Option<Comparison>,
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
        let target = match args.output.as_deref().filter(|path| args.all && is_folder(path)) {
            Some(folder) => folder.join(default),
            None if args.all && args.output.is_some() => {
                return Err(Error::usage("--all writes two files, so -o names a folder")
                    .help("end its path with / where it is not there yet"));
            }
            None => target(args.output.as_deref(), &default),
        };
        let plan = gguf::Plan::new(checkpoint.metadata(), checkpoint.tensors())?;
        let plan = if args.vocab_only { plan.unpadded() } else { plan };
        if !args.common.quiet {
            // What the other file holds is not left out where that is written as well.
            let notes = checkpoint.notes().iter().filter(|note| !args.all || !note.contains("--mmproj"));
            notes.for_each(|note| cli::say(&format!("note: {note}")));
        }
        Ok(Conversion { checkpoint, target, plan, projector })
    }

    /// Writes the file but for its name.
    fn write(&self, args: &Args, folder: &Path, inputs: &[&Path]) -> Result<Written> {
        let begun = std::time::Instant::now();
        let Conversion { checkpoint, target, plan, .. } = self;
        let mut output = Output::create(target, args.force, inputs)?;
        for task in checkpoint.tasks() {
            Output::check(&task_target(task, target), args.force, inputs)?;
        }
        let modelfile = match self.projector {
            true => None,
            false => args.modelfile.create(checkpoint, Some(folder), target, args.force, &args.common)?,
        };
        if args.vocab_only {
            let written = Writer::new(&mut output, plan.clone()).and_then(Writer::finish);
            written.map_err(|e| Error::io(target, "write", e))?;
        } else {
            write(args, checkpoint, &mut output, plan.file_bytes())?;
        }
        if !args.no_verify {
            // The values were looked at while they were written.
            gguf::check::verify_file(output.temporary(), false).map_err(|e| unsound(e, target))?;
        }
        let tokenizer = if args.tokenizer.no_check_tokenizer || self.projector {
            None
        } else {
            let written = gguf::File::open(output.temporary())?;
            Some(compare_tokenizers(args, folder, written.metadata())?)
        };
        let mut outputs = vec![output];
        for task in checkpoint.tasks() {
            outputs.push(task_file(args, task, target, inputs)?);
        }
        outputs.extend(modelfile);
        Ok(Written { outputs, tokenizer, seconds: begun.elapsed().as_secs_f64() })
    }
}

/// How a folder is converted, where nothing is said of the type of its matrices to this one.
fn options(args: &Args, outtype: OutType) -> Result<Options> {
    let blocks = if args.decode { convert::packed::Blocks::Decode } else { convert::packed::Blocks::Keep };
    let options = args.reading.options(args.outtype.unwrap_or(outtype), blocks, &args.common)?;
    let part = match (args.mtp, args.no_mtp, args.dspark) {
        (true, ..) => Part::Prediction,
        (_, true, _) => Part::Trunk,
        (.., true) => Part::DSpark,
        _ => Part::Model,
    };
    Ok(Options { vocab_only: args.vocab_only, part, target: args.target_model_dir.clone(), ..options })
}

/// An adapter's folder becomes a GGUF adapter.
fn adapter_file(args: &Args, folder: &Path) -> Result<Exit> {
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
    let target = target(args.output.as_deref(), adapter.file_name());
    let plan = gguf::Plan::new(adapter.metadata(), adapter.tensors())?;
    if !args.dry_run {
        let mut inputs = read(args, folder)?;
        inputs.extend(convert::files::of_model(&base));
        let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        let mut output = Output::create(&target, args.force, &inputs)?;
        write(args, &adapter, &mut output, plan.file_bytes())?;
        if !args.no_verify {
            gguf::check::verify_file(output.temporary(), true).map_err(|e| unsound(e, &target))?;
        }
        output.commit()?;
    }
    if args.common.wants_document() {
        let weights = adapter.weights();
        let result = json!({"output": target.to_string_lossy(), "written": !args.dry_run, "weights": weights, "bytes": plan.file_bytes(), "notes": adapter.notes()});
        let files = Files::new(
            &args.common,
            !args.dry_run,
            &read(args, folder)?,
            if args.dry_run { &[] } else { std::slice::from_ref(&target) },
        )?;
        let document = cli::document(SCHEMA, VERSION, &files, result);
        args.common.result(|| Ok(document), || Ok(String::new()))?;
    } else {
        cli::print(&format!("{}: {}\n", gguf::quote::path(&target), cli::bytes(plan.file_bytes())))?;
    }
    Ok(Exit::Done)
}

/// Why a finished file does not get its name: a fault of the system stays one.
fn unsound(e: Error, target: &Path) -> Error {
    Error::new(e.kind(), format!("the written file is not sound: {}", e.message())).at(target)
}

/// Where the adapter of a task goes: beside the model.
fn task_target(task: &TaskAdapter, target: &Path) -> PathBuf {
    target.with_file_name(task.file_name(&target.file_name().unwrap_or_default().to_string_lossy()))
}

/// The adapter of a task, finished but for its name.
fn task_file(args: &Args, task: &TaskAdapter, target: &Path, inputs: &[&Path]) -> Result<Output> {
    let target = task_target(task, target);
    let plan = gguf::Plan::new(task.metadata(), task.tensors())?;
    let mut output = Output::create(&target, args.force, inputs)?;
    write(args, task, &mut output, plan.file_bytes())?;
    if !args.no_verify {
        gguf::check::verify_file(output.temporary(), true).map_err(|e| unsound(e, &target))?;
    }
    Ok(output)
}

/// Where the file goes: a folder is given the default name.
fn target(wanted: Option<&Path>, default: &str) -> PathBuf {
    match wanted {
        Some(path) if path.is_dir() => path.join(default),
        Some(path) => path.to_path_buf(),
        None => PathBuf::from(default),
    }
}

fn write(args: &Args, checkpoint: &dyn Source, output: &mut Output, total: u64) -> Result<()> {
    let progress = Progress::bytes(args.common.progress, args.common.quiet, "converting", total);
    let target = output.target().to_path_buf();
    let out = BufWriter::with_capacity(1 << 20, output);
    let watched = Watched { source: checkpoint, allow: args.allow_nonfinite };
    let written = gguf::write::copy(&watched, checkpoint.metadata(), out, |bytes| progress.add(bytes));
    let flushed = written.and_then(|mut out| out.flush().map_err(|e| Error::io(&target, "write", e)));
    progress.finish();
    flushed.map_err(|e| e.at(&target))
}

/// A source whose values are looked at as they pass.
struct Watched<'a> {
    source: &'a dyn Source,
    allow: bool,
}

impl Source for Watched<'_> {
    fn metadata(&self) -> &gguf::Metadata {
        self.source.metadata()
    }

    fn tensors(&self) -> &[TensorInfo] {
        self.source.tensors()
    }

    fn rows(&self, tensor: usize, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let bytes = self.source.rows(tensor, rows)?;
        let info = &self.source.tensors()[tensor];
        if !self.allow && has_nonfinite(info.ty(), &bytes) {
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

/// Whether a value's exponent has all bits set, or a block's scale is NaN.
fn has_nonfinite(ty: TensorType, bytes: &[u8]) -> bool {
    let halves = |exponent: u16| {
        let found = |b: &[u8; 2]| u16::from_le_bytes(*b) & exponent == exponent;
        bytes.as_chunks::<2>().0.iter().fold(false, |any, b| any | found(b))
    };
    match ty {
        TensorType::BF16 => halves(0x7F80),
        TensorType::F16 => halves(0x7C00),
        TensorType::F32 => {
            let found = |b: &[u8; 4]| u32::from_le_bytes(*b) & 0x7F80_0000 == 0x7F80_0000;
            bytes.as_chunks::<4>().0.iter().fold(false, |any, b| any | found(b))
        }
        // E8M0 and E4M3 without infinities: the byte of all ones is NaN.
        TensorType::MXFP4 => bytes.as_chunks::<17>().0.iter().any(|block| block[0] == 0xFF),
        TensorType::NVFP4 => bytes.as_chunks::<36>().0.iter().any(|block| block[..4].iter().any(|s| s & 0x7F == 0x7F)),
        _ => false,
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
    folders.extend(args.target_model_dir.clone());
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
        [self.target.clone()].into_iter().chain(tasks).chain(modelfile).collect()
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
        let Conversion { checkpoint, target, plan, .. } = self;
        let share = |(name, s): (&str, Share)| {
            (name.to_owned(), json!({"tensors": s.tensors, "elements": s.elements, "bytes": s.bytes}))
        };
        let types: serde_json::Map<String, serde_json::Value> = self.shares().into_iter().map(share).collect();
        let adapters: Vec<_> = checkpoint.tasks().iter().map(|t| gguf::quote::json(task_target(t, target))).collect();
        let metadata = checkpoint.metadata();
        let mut result = json!({
            "output": gguf::quote::json(target),
            "written": written.is_some(),
            "architecture": checkpoint.architecture().arch,
            "name": metadata.str("general.name"),
            "pre_tokenizer": metadata.str("tokenizer.ggml.pre"),
            "tensors": checkpoint.tensors().len(),
            "bytes": plan.file_bytes(),
            "types": types,
            "notes": checkpoint.notes(),
            "tokenizer": written.and_then(|written| written.tokenizer.as_ref()).map(tokenizer_json),
            "adapters": adapters,
        });
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
        let Conversion { checkpoint, target, plan, .. } = self;
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
        let bytes = cli::bytes(plan.file_bytes());
        let mut end = match written {
            Some(Written { seconds, .. }) => format!("{}: {bytes} in {seconds:.1} s\n", gguf::quote::path(target)),
            None => format!("{}: {bytes} would be written\n", gguf::quote::path(target)),
        };
        for task in checkpoint.tasks() {
            end += &format!("{}: the adapter of {}\n", gguf::quote::path(task_target(task, target)), task.name());
        }
        table.render() + &end
    }
}

fn list(as_json: bool) -> Result<Exit> {
    if as_json {
        let rows: Vec<_> = hf::all()
            .chain(hf::projectors::all())
            .map(|a| json!({"classes": a.names, "architecture": a.arch, "remark": a.remark, "evaluated": a.is_evaluated()}))
            .collect();
        cli::print_json(&json!(rows))?;
        return Ok(Exit::Done);
    }
    let columns = ["architecture", "class", "evaluate", ""];
    let mut table = Table::new(&columns.map(|name| (name, Align::Left)));
    for row in hf::all().chain(hf::projectors::all()) {
        for (i, class) in row.names.iter().enumerate() {
            let remark = if i == 0 { row.remark } else { "" };
            let evaluated = row.is_evaluated().map_or("", |runs| if runs { "runs it" } else { "-" });
            table.row([row.arch, *class, evaluated, remark].map(str::to_owned));
        }
    }
    cli::print(&table.render())?;
    Ok(Exit::Done)
}
