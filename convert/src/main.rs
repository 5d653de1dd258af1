//! `convert`: a checkpoint folder becomes a GGUF file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use convert::lora::{self, AdapterFile};
use convert::tasks::TaskAdapter;
use convert::tokenizer::Report as Comparison;
use convert::{Checkpoint, Options, OutType, Part, hf, tokenizer};
use gguf::cli::{self, Align, Common, Exit, Output, Progress, Table};
use gguf::{Error, Result, Source, TensorInfo, TensorType, Writer};
use serde_json::json;

const EXAMPLES: &str = "\
Examples:
  convert models/tiny-llama                       writes tiny-llama-4.2M-BF16.gguf into the current folder
  convert models/tiny-llama -o tiny.gguf --outtype f16
  convert models/tiny-llama --dry-run --json      the plan: tensors, types, bytes
  convert models/tiny-llama --check-tokenizer --text book.txt
  convert models/llava --mmproj -o mmproj.gguf    the towers that see and hear
  convert models/llava --all -o out/              both files, under their default names
  convert --list                                  the architectures there are

Exit codes: 0 done, 2 wrong usage, 3 bad input, 4 the system failed.";

/// Convert a Hugging Face checkpoint folder to a GGUF file, byte for byte as llama.cpp's converter does
#[derive(Debug, Parser)]
#[command(name = "convert", version, after_help = EXAMPLES)]
struct Args {
    /// The checkpoint: a folder with config.json, safetensors files and a tokenizer
    #[arg(required_unless_present = "list")]
    folder: Option<PathBuf>,

    /// The file to write, or a folder to write it into under its default name
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// The type of the matrices; vectors stay f32 [default: auto, of an adapter f32]
    #[arg(long, value_enum, value_name = "TYPE")]
    outtype: Option<OutType>,

    /// The model's name instead of the one that is derived
    #[arg(long, value_name = "NAME")]
    model_name: Option<String>,

    /// A JSON file of general.* keys that override those that are derived
    #[arg(long, value_name = "FILE")]
    metadata: Option<PathBuf>,

    /// Leave the model card (README.md) aside
    #[arg(long)]
    no_model_card: bool,

    /// The pre-tokenizer instead of the one that is found
    #[arg(long, value_name = "NAME")]
    pre: Option<String>,

    /// Decode blocks that GGUF has a type for (MXFP4, NVFP4) instead of keeping them
    #[arg(long)]
    decode: bool,

    /// Read Mistral's own form: params.json and consolidated*.safetensors, with tekken.json or tokenizer.model.v*
    #[arg(long)]
    mistral_format: bool,

    /// With --mistral-format, write no chat template but one that the folder has
    #[arg(long, requires = "mistral_format")]
    disable_mistral_community_chat_template: bool,

    /// Take the layers behind the pooling too (sentence-transformers' Dense modules of EmbeddingGemma)
    #[arg(long)]
    sentence_transformers_dense_modules: bool,

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

    /// Merge a LoRA adapter (a PEFT folder) into the weights, times a factor
    #[arg(long, value_name = "DIR[=SCALE]", value_parser = adapter)]
    merge_lora: Vec<(PathBuf, f32)>,

    /// The checkpoint that the adapter in FOLDER was made for; its configuration is enough
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,

    /// Write a Modelfile for Ollama beside the output
    #[arg(long)]
    modelfile: bool,

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
    #[arg(long, conflicts_with = "dry_run")]
    check_tokenizer: bool,

    /// Another text for the comparison of tokenizers
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,

    /// Do not compare tokenizers after the conversion
    #[arg(long, conflicts_with = "check_tokenizer")]
    no_check_tokenizer: bool,

    /// Print the architectures that are known
    #[arg(long)]
    list: bool,

    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    let mut args = Args::parse();
    if args.old_force {
        args.force = true;
        cli::say("warning: -f will go away, since `evaluate` takes a text by it; write --force");
    }
    cli::run(|| work(&args))
}

fn work(args: &Args) -> Result<Exit> {
    let Some(folder) = args.folder.as_deref().filter(|_| !args.list) else {
        return list(args.common.json);
    };
    if !folder.is_dir() {
        let what = if folder.exists() { "is a file, not a checkpoint folder" } else { "there is no such folder" };
        return Err(Error::input(what).at(folder).help("give the folder that holds config.json"));
    }
    if lora::is_adapter(folder) {
        return adapter_file(args, folder);
    }
    let text = (!args.mmproj).then(|| Conversion::open(args, folder, false)).transpose()?;
    let projector = match (args.mmproj, args.all) {
        (false, true) if !has_towers(args, folder)? => {
            if !args.common.quiet {
                eprintln!("note: the folder has no towers that see or hear, so there is no projector file");
            }
            None
        }
        (true, _) | (_, true) => Some(Conversion::open(args, folder, true)?),
        _ => None,
    };
    let files: Vec<Conversion> = text.into_iter().chain(projector).collect();
    if args.check_tokenizer {
        let tokenizer = check_tokenizer(args, folder, files[0].checkpoint.metadata())?;
        if args.common.json {
            cli::print_json(&json!({ "tokenizer": tokenizer_json(&tokenizer) }))?;
        }
        return Ok(Exit::Done);
    }
    if args.dry_run {
        let reports = files.iter().map(|file| file.report(args, None)).collect::<Result<Vec<_>>>()?;
        return print_reports(args, reports);
    }
    if let Some(path) = args.output.as_deref().filter(|path| args.all && is_folder(path)) {
        std::fs::create_dir_all(path).map_err(|e| Error::io(path, "create", e))?;
    }
    let inputs = inputs(folder)?;
    let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
    // All files are finished before the first of them gets its name.
    let written = files.iter().map(|file| file.write(args, folder, &inputs)).collect::<Result<Vec<_>>>()?;
    let mut outputs = Vec::new();
    let mut reports = Vec::new();
    for (file, written) in files.iter().zip(written) {
        outputs.extend(written.outputs);
        reports.push(file.report(args, Some((written.seconds, written.tokenizer.as_ref())))?);
    }
    cli::commit_all(outputs)?;
    print_reports(args, reports)
}

/// Whether a path stands for a folder, be it there or not.
fn is_folder(path: &Path) -> bool {
    path.is_dir() || path.as_os_str().to_string_lossy().ends_with(std::path::is_separator)
}

/// Whether a folder has towers of a class that is known.
fn has_towers(args: &Args, folder: &Path) -> Result<bool> {
    let root =
        if args.mistral_format { convert::config::read_mistral(folder)? } else { convert::config::read(folder)? };
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
        let mut options = Options { projector, ..options(args, OutType::Auto) };
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
            None => target(args.output.as_deref(), default),
        };
        let plan = gguf::Plan::new(checkpoint.metadata(), checkpoint.tensors())?;
        let plan = if args.vocab_only { plan.unpadded() } else { plan };
        if !args.common.quiet {
            // What the other file holds is not left out where that is written as well.
            let notes = checkpoint.notes().iter().filter(|note| !args.all || !note.contains("--mmproj"));
            notes.for_each(|note| eprintln!("note: {note}"));
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
        let modelfile = args.modelfile && !self.projector;
        let modelfile = modelfile.then(|| modelfile_of(args, folder, checkpoint, target)).transpose()?;
        if args.vocab_only {
            let written = Writer::new(&mut output, plan.clone()).and_then(Writer::finish);
            written.map_err(|e| Error::io(target, "write", e))?;
        } else {
            write(args, checkpoint, &mut output, plan.file_bytes())?;
        }
        if !args.no_verify {
            // The values were looked at while they were written.
            gguf::check::verify_file(output.temporary(), false)
                .map_err(|e| Error::input("the finished file is not sound").caused_by(e))?;
        }
        let tokenizer = if args.no_check_tokenizer || self.projector {
            None
        } else {
            let written = gguf::File::open(output.temporary())?;
            Some(check_tokenizer(args, folder, written.metadata())?)
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
fn options(args: &Args, outtype: OutType) -> Options {
    Options {
        outtype: args.outtype.unwrap_or(outtype),
        model_name: args.model_name.clone(),
        metadata: args.metadata.clone(),
        pre: args.pre.clone(),
        skip_model_card: args.no_model_card,
        blocks: if args.decode { convert::packed::Blocks::Decode } else { convert::packed::Blocks::Keep },
        merge: args.merge_lora.clone(),
        mistral_format: args.mistral_format,
        no_community_template: args.disable_mistral_community_chat_template,
        dense_modules: args.sentence_transformers_dense_modules,
        vocab_only: args.vocab_only,
        part: match (args.mtp, args.no_mtp, args.dspark) {
            (true, ..) => Part::Prediction,
            (_, true, _) => Part::Trunk,
            (.., true) => Part::DSpark,
            _ => Part::Model,
        },
        target: args.target_model_dir.clone(),
        ..Options::default()
    }
}

/// Encodes texts with the folder's tokenizer and with the one that the keys describe.
fn check_tokenizer(args: &Args, folder: &Path, metadata: &gguf::Metadata) -> Result<Comparison> {
    let text = match &args.text {
        Some(path) => Some(convert::json::read_text(path, convert::json::MAX_BYTES)?),
        None => None,
    };
    // A draft has the vocabulary of its target.
    let folder = args.target_model_dir.as_deref().unwrap_or(folder);
    let comparison = tokenizer::check_tokenizer(folder, metadata, text.as_deref()).map_err(|e| {
        e.help("the file would encode text differently; --pre names another pre-tokenizer, --no-check-tokenizer writes it all the same")
    })?;
    if !args.common.quiet {
        eprintln!(
            "tokenizer: {} tokens of {} texts agree with {}",
            cli::count(comparison.tokens as u64),
            comparison.texts,
            comparison.source
        );
        comparison.notes.iter().for_each(|note| eprintln!("note: {note}"));
    }
    Ok(comparison)
}

fn tokenizer_json(c: &Comparison) -> serde_json::Value {
    json!({"source": c.source, "texts": c.texts, "tokens": c.tokens, "notes": c.notes})
}

/// Parses `DIR` or `DIR=SCALE`.
fn adapter(text: &str) -> Result<(PathBuf, f32), String> {
    match text.rsplit_once('=').map(|(folder, scale)| (folder, scale.parse::<f32>())) {
        Some((folder, Ok(scale))) if scale.is_finite() => Ok((folder.into(), scale)),
        Some(_) if !Path::new(text).exists() => Err(format!("\"{text}\" is not of the form DIR=NUMBER")),
        _ => Ok((text.into(), 1.0)),
    }
}

/// An adapter's folder becomes a GGUF adapter.
fn adapter_file(args: &Args, folder: &Path) -> Result<Exit> {
    // Some trainers put the model's configuration beside the adapter.
    let beside = folder.join("config.json").is_file().then_some(folder);
    let base = args.base.as_deref().or(beside).ok_or_else(|| {
        Error::usage("the folder holds an adapter, not a checkpoint")
            .at(folder)
            .help("--base DIR names the checkpoint it was made for; --merge-lora merges it while that is converted")
    })?;
    let adapter = AdapterFile::open(folder, base, &options(args, OutType::F32))?;
    if !args.common.quiet {
        adapter.notes().iter().for_each(|note| eprintln!("note: {note}"));
    }
    let target = target(args.output.as_deref(), adapter.file_name());
    let plan = gguf::Plan::new(adapter.metadata(), adapter.tensors())?;
    if !args.dry_run {
        let inputs = inputs(folder)?;
        let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        let mut output = Output::create(&target, args.force, &inputs)?;
        write(args, &adapter, &mut output, plan.file_bytes())?;
        if !args.no_verify {
            gguf::check::verify_file(output.temporary(), true)
                .map_err(|e| Error::input("the finished file is not sound").caused_by(e))?;
        }
        output.commit()?;
    }
    if args.common.json {
        let weights = adapter.weights();
        let result = json!({"output": target.to_string_lossy(), "written": !args.dry_run, "weights": weights, "bytes": plan.file_bytes(), "notes": adapter.notes()});
        cli::print_json(&result)?;
    } else {
        cli::print(&format!("{}: {}\n", gguf::quote::path(target), cli::bytes(plan.file_bytes())))?;
    }
    Ok(Exit::Done)
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
        gguf::check::verify_file(output.temporary(), true)
            .map_err(|e| Error::input("the finished file is not sound").at(&target).caused_by(e))?;
    }
    Ok(output)
}

/// No licence is longer than this.
const MAX_LICENSE: u64 = 1 << 20;

/// The Modelfile beside the output, finished but for its name.
fn modelfile_of(args: &Args, folder: &Path, checkpoint: &Checkpoint, target: &Path) -> Result<Output> {
    let license = ["LICENSE", "LICENSE.txt", "LICENSE.md"].iter().map(|name| folder.join(name)).find(|p| p.is_file());
    let license = license.map(|p| convert::json::read_at_most(&p, MAX_LICENSE)).transpose()?;
    let license = license.as_deref().map(String::from_utf8_lossy);
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let text = convert::modelfile::write(checkpoint.metadata(), &name, license.as_deref())?;
    let path = target.with_file_name("Modelfile");
    let mut output = Output::create(&path, args.force, &[])?;
    output.write_all(text.as_bytes()).map_err(|e| Error::io(&path, "write", e))?;
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

/// The files of the folder, none of which may be the output.
fn inputs(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, "list", e))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(folder, "list", e))?.path();
        // A file that an earlier run left in the folder is an output, not an input.
        if path.is_file() && path.extension().is_none_or(|e| e != "gguf") {
            files.push(path);
        }
    }
    Ok(files)
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

/// Tensors, elements and bytes of a type.
#[derive(Default)]
struct Share {
    tensors: u64,
    elements: u64,
    bytes: u64,
}

/// What is said of a file in the end: JSON, and text.
type Report = (serde_json::Value, String);

fn print_reports(args: &Args, mut reports: Vec<Report>) -> Result<Exit> {
    if !args.common.json {
        let text: String = reports.into_iter().map(|(_, text)| text).collect();
        cli::print(&text)?;
    } else if args.all {
        let files: Vec<serde_json::Value> = reports.into_iter().map(|(json, _)| json).collect();
        cli::print_json(&json!({ "files": files }))?;
    } else if let Some((json, _)) = reports.pop() {
        cli::print_json(&json)?;
    }
    Ok(Exit::Done)
}

impl Conversion {
    /// What was written, with its time and the comparison of tokenizers, or what would be.
    fn report(&self, args: &Args, written: Option<(f64, Option<&Comparison>)>) -> Result<Report> {
        let Conversion { checkpoint, target, plan, .. } = self;
        let mut types: BTreeMap<&str, Share> = BTreeMap::new();
        for tensor in checkpoint.tensors() {
            let share = types.entry(tensor.ty().name()).or_default();
            share.tensors += 1;
            share.elements += tensor.elements();
            share.bytes += tensor.bytes();
        }
        if args.common.json {
            let types: serde_json::Map<String, serde_json::Value> = types
                .iter()
                .map(|(name, s)| {
                    ((*name).into(), json!({"tensors": s.tensors, "elements": s.elements, "bytes": s.bytes}))
                })
                .collect();
            let metadata = checkpoint.metadata();
            let mut result = json!({
                "output": target.to_string_lossy(),
                "written": written.is_some(),
                "architecture": checkpoint.architecture().arch,
                "name": metadata.str("general.name"),
                "pre_tokenizer": metadata.str("tokenizer.ggml.pre"),
                "tensors": checkpoint.tensors().len(),
                "bytes": plan.file_bytes(),
                "types": types,
                "notes": checkpoint.notes(),
                "tokenizer": written.and_then(|(_, tokenizer)| tokenizer).map(tokenizer_json),
                "adapters": checkpoint.tasks().iter().map(|t| task_target(t, target).to_string_lossy().into_owned()).collect::<Vec<_>>(),
            });
            if self.projector {
                let kinds = ["clip.projector_type", "clip.vision.projector_type", "clip.audio.projector_type"];
                result["projectors"] = kinds.iter().filter_map(|key| metadata.str(key)).collect();
            }
            if written.is_none() {
                let tensor = |t: &TensorInfo| json!({"name": t.name(), "shape": t.shape().dims(), "type": t.ty().name(), "bytes": t.bytes()});
                result["plan"] = checkpoint.tensors().iter().map(tensor).collect();
            }
            return Ok((result, String::new()));
        }
        let mut table = Table::new(&[
            ("type", Align::Left),
            ("tensors", Align::Right),
            ("elements", Align::Right),
            ("bytes", Align::Right),
        ]);
        for (name, share) in &types {
            table.row([
                (*name).to_owned(),
                cli::count(share.tensors),
                cli::count(share.elements),
                cli::bytes(share.bytes),
            ]);
        }
        let bytes = cli::bytes(plan.file_bytes());
        let mut end = match written {
            Some((seconds, _)) => format!("{}: {bytes} in {seconds:.1} s\n", gguf::quote::path(target)),
            None => format!("{}: {bytes} would be written\n", gguf::quote::path(target)),
        };
        for task in checkpoint.tasks() {
            end += &format!("{}: the adapter of {}\n", gguf::quote::path(task_target(task, target)), task.name());
        }
        Ok((serde_json::Value::Null, table.render() + &end))
    }
}

fn list(as_json: bool) -> Result<Exit> {
    if as_json {
        let rows: Vec<_> = hf::all()
            .chain(hf::projectors::all())
            .map(|a| json!({"classes": a.names, "architecture": a.arch, "remark": a.remark}))
            .collect();
        cli::print_json(&json!(rows))?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&[("architecture", Align::Left), ("class", Align::Left), ("", Align::Left)]);
    for row in hf::all().chain(hf::projectors::all()) {
        for (i, class) in row.names.iter().enumerate() {
            let remark = if i == 0 { row.remark } else { "" };
            table.row([row.arch.to_owned(), (*class).to_owned(), remark.to_owned()]);
        }
    }
    cli::print(&table.render())?;
    Ok(Exit::Done)
}
