//! `--part` and `--gather`: one model, quantized by several machines.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use gguf::cli::{Common, Exit, Files, Output, Progress, bytes, commit_all, say};
use gguf::{Error, Result, Source, quote};
use quantize::parts::{self, Part, Record};
use quantize::pipeline::{self, Job, Settings};
use quantize::plan::Plan;
use serde_json::{Value, json};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a part's run needs.
pub struct Run<'a> {
    pub source: &'a dyn Source,
    pub input: &'a Path,
    /// The folder that all parts go to.
    pub folder: &'a Path,
    pub part: Part,
    pub settings: &'a Settings,
    pub force: bool,
    pub verify: bool,
    /// Files that no output may replace.
    pub inputs: &'a [&'a Path],
    pub common: &'a Common,
}

/// The options that concern parts.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Several machines")]
pub struct PartArgs {
    /// Write part I of N alone, as its shard of the whole model, into the folder -o; `auto` takes I and N from a Slurm
    /// array or a Kubernetes indexed job
    #[arg(long, value_name = "I/N", value_parser = parts::argument, conflicts_with_all = ["keep_split", "dry_run",
        "split_max_size", "split_max_tensors", "no_tensor_first_split"])]
    pub part: Option<Part>,

    /// Check that all parts are in this folder and belong together; with -o FILE they become one file
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["input", "part", "types"])]
    pub gather: Option<PathBuf>,

    /// How many parts there have to be
    #[arg(long, value_name = "N", requires = "gather")]
    pub parts: Option<usize>,
}

impl Run<'_> {
    /// Writes the part of each plan that is not there yet. `stem` gives the name of a plan's output without the ending.
    pub fn run(&self, plans: &mut [Plan], stem: impl Fn(&Plan) -> String) -> Result<Exit> {
        let begun = Instant::now();
        fs::create_dir_all(self.folder).map_err(|e| Error::io(self.folder, "create the folder", e))?;
        let source = parts::source_digest(self.source).map_err(|e| e.at(self.input))?;
        let mut done = Vec::with_capacity(plans.len());
        for plan in plans {
            parts::assign(plan, self.part.of).map_err(|e| e.at(self.input))?;
            let target = gguf::split::path(self.folder.join(stem(plan)), self.part.no - 1, self.part.of);
            let wanted = Record {
                schema: parts::SCHEMA.to_owned(),
                part: self.part.no,
                parts: self.part.of,
                file_type: plan.file_type.name.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                source: source.clone(),
                plan: parts::plan_digest(plan)?,
                file: target.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned()),
                bytes: 0,
                sha256: String::new(),
            };
            let finished = if self.force { None } else { finished(&target, &wanted)? };
            let skipped = finished.is_some();
            let record = match finished {
                Some(record) => record,
                None => self.write(plan, &target, wanted)?,
            };
            done.push((target, record, skipped));
        }
        if self.common.wants_document() {
            let written: Vec<PathBuf> = done.iter().map(|(path, ..)| path.clone()).collect();
            let files = Files::new(self.common, true, &convert::files::of_model(self.input), &written)?;
            let outputs = done.iter().map(|(path, record, skipped)| described(path, record, *skipped));
            let fields = json!({
                "input": quote::json(self.input), "part": self.part.no, "parts": self.part.of,
                "outputs": outputs.collect::<Vec<_>>(), "seconds": begun.elapsed().as_secs_f64(),
            });
            self.common.print_document("quantize-part-1", VERSION, &files, fields)?;
        } else if !self.common.quiet {
            for (path, record, skipped) in &done {
                let how = if *skipped { "was finished before".to_owned() } else { bytes(record.bytes) };
                eprintln!("{}: {}, {how}", quote::path(path), self.part);
            }
        }
        Ok(Exit::Done)
    }

    fn write(&self, plan: &Plan, target: &Path, mut record: Record) -> Result<Record> {
        let beside = record_path(target);
        // Only the record of an unfinished run may be in the way: its shard never got its name.
        let stale = beside.exists() && !target.exists();
        let output = Output::create(target, self.force, self.inputs)?;
        let mut record_file = Output::create(&beside, self.force || stale, self.inputs)?;
        let (own, layout) = plan.part(self.part)?;
        let total = own.tensors.iter().map(|t| self.source.tensors()[t.source].bytes()).sum();
        let progress = Progress::bytes(self.common.progress, self.common.quiet, "quantizing", total);
        let jobs = vec![Job { plan: own, files: vec![(layout, output)] }];
        let (outputs, summary) = pipeline::run(self.source, jobs, self.settings, |bytes| progress.add(bytes))
            .map_err(|e| gguf::cli::at_fault(e, self.input, target))?;
        progress.finish();
        if !self.common.quiet {
            gguf::lost::warnings(&summary.degenerate).iter().for_each(|line| say(line));
        }
        let Some(mut output) = outputs.into_iter().flatten().next() else {
            return Err(Error::usage("the part has no file").at(target));
        };
        output.flush().map_err(|e| Error::io(target, "write", e))?;
        if self.verify {
            super::verify(&output, false, false)?;
        }
        (record.sha256, record.bytes) = gguf::digest::sha256_file(output.temporary(), |_| ())?;
        let text = serde_json::to_string_pretty(&record).map_err(|e| Error::usage("no record").caused_by(e))?;
        record_file.write_all(format!("{text}\n").as_bytes()).map_err(|e| Error::io(&beside, "write", e))?;
        // The shard gets its name last: where it is, its record is.
        commit_all(vec![output, record_file])?;
        Ok(record)
    }
}

/// The record's file of a shard: `NAME-00001-of-00004.part.json`.
fn record_path(shard: &Path) -> PathBuf {
    shard.with_extension("part.json")
}

/// The record of a part that needs no work: of the same run, with the shard that it says.
fn finished(target: &Path, wanted: &Record) -> Result<Option<Record>> {
    let path = record_path(target);
    if !target.exists() || !path.exists() {
        return Ok(None);
    }
    let record = read(&path)?;
    if let Some(what) = record.differs(wanted) {
        return Err(Error::usage(format!("was made by another run, with another {what}"))
            .at(target)
            .help("choose an empty folder with -o, or replace it with --force"));
    }
    let (sha256, bytes) = gguf::digest::sha256_file(target, |_| ())?;
    if (&sha256, bytes) != (&record.sha256, record.bytes) {
        return Err(Error::input("is not the file that its record describes")
            .at(target)
            .help("remove it and run again"));
    }
    Ok(Some(record))
}

fn read(path: &Path) -> Result<Record> {
    /// A record has a dozen short fields.
    const MAX_BYTES: u64 = 64 << 10;
    let text = convert::json::read_text(path, MAX_BYTES)?;
    let record: Record =
        serde_json::from_str(&text).map_err(|e| Error::input("is no record of a part").at(path).caused_by(e))?;
    match record.schema.as_str() {
        parts::SCHEMA if record.parts > 0 && (1..=record.parts).contains(&record.part) => Ok(record),
        parts::SCHEMA => Err(Error::input(format!("says part {} of {}", record.part, record.parts)).at(path)),
        other => Err(Error::input(format!("has the schema \"{other}\", not {}", parts::SCHEMA)).at(path)),
    }
}

fn described(path: &Path, record: &Record, skipped: bool) -> Value {
    json!({"path": quote::json(path), "type": record.file_type, "bytes": record.bytes, "sha256": record.sha256,
        "source": record.source, "plan": record.plan, "skipped": skipped})
}

/// The parts of one model in a folder.
struct Model {
    prefix: PathBuf,
    records: Vec<Record>,
}

/// Checks that all parts are there and belong together, and merges them where an output is given.
pub fn gather(folder: &Path, args: &PartArgs, output: Option<&Path>, force: bool, common: &Common) -> Result<Exit> {
    let models = models(folder)?;
    if models.is_empty() {
        return Err(Error::input("has no parts: no file is called NAME-00001-of-0000N.part.json")
            .at(folder)
            .help("write them with --part I/N -o FOLDER"));
    }
    if output.is_some() && models.len() > 1 {
        return Err(Error::usage(format!("holds the parts of {} models, which cannot become one file", models.len()))
            .at(folder)
            .help("leave -o out; `gguf merge` merges each"));
    }
    let mut done = Vec::new();
    for model in &models {
        let first = model.check(folder, args.parts)?;
        gguf::check::verify_file(&first, true)?;
        done.push((first, model));
    }
    if let (Some(output), Some((first, _))) = (output, done.first()) {
        merge(first, output, force, common)?;
    }
    if common.wants_document() {
        let read = |(first, _): &(PathBuf, _)| gguf::split::files(first);
        let inputs: Vec<PathBuf> = done.iter().flat_map(read).collect();
        let files = Files::new(common, true, &inputs, &output.map(Path::to_path_buf).into_iter().collect::<Vec<_>>())?;
        let models = done.iter().map(|(first, model)| {
            let parts = model.records.iter().map(|r| described(&folder.join(&r.file), r, false));
            json!({"first": quote::json(first), "parts": parts.collect::<Vec<_>>()})
        });
        let fields = json!({"folder": quote::json(folder), "models": models.collect::<Vec<_>>(),
            "merged": output.map(quote::json)});
        common.print_document("quantize-gather-1", VERSION, &files, fields)?;
    } else if !common.quiet {
        for (first, model) in &done {
            let size: u64 = model.records.iter().map(|r| r.bytes).sum();
            eprintln!(
                "{}: {} parts, {}, complete and of one run",
                quote::path(first),
                model.records.len(),
                bytes(size)
            );
        }
        if let Some(output) = output {
            eprintln!("{}: merged", quote::path(output));
        }
    }
    Ok(Exit::Done)
}

/// The models whose parts are in a folder, by name.
fn models(folder: &Path) -> Result<Vec<Model>> {
    let failed = |e| Error::io(folder, "read the folder", e);
    let mut all: BTreeMap<PathBuf, Vec<Record>> = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(shard) = path.to_str().and_then(|p| p.strip_suffix(".part.json")).map(|p| format!("{p}.gguf")) else {
            continue;
        };
        let record = read(&path)?;
        let named = gguf::split::parse(&shard).filter(|(_, no, of)| (no + 1, *of) == (record.part, record.parts));
        let Some((prefix, ..)) = named else {
            return Err(
                Error::input(format!("says part {} of {}, its name another", record.part, record.parts)).at(path)
            );
        };
        all.entry(prefix).or_default().push(record);
    }
    Ok(all
        .into_iter()
        .map(|(prefix, mut records)| {
            records.sort_by_key(|r| r.part);
            Model { prefix, records }
        })
        .collect())
}

impl Model {
    /// Whether every part is there, of one run and as it was written. Gives the first shard.
    fn check(&self, folder: &Path, parts: Option<usize>) -> Result<PathBuf> {
        let Some(first) = self.records.first() else { return Err(Error::input("has no parts").at(folder)) };
        let of = parts.unwrap_or(first.parts);
        let name = |no: usize| gguf::split::path(&self.prefix, no - 1, of);
        if let Some(other) = self.records.iter().find(|r| r.parts != of) {
            return Err(Error::input(format!(
                "is part {} of {}, where {of} parts are wanted",
                other.part, other.parts
            ))
            .at(folder.join(&other.file))
            .help("parts of another division are of another run: remove them"));
        }
        for no in 1..=of {
            match self.records.iter().filter(|r| r.part == no).count() {
                0 => {
                    return Err(Error::input(format!("part {no} of {of} is missing"))
                        .at(name(no))
                        .help(format!("write it with --part {no}/{of} and the options of the others")));
                }
                1 => {}
                n => return Err(Error::input(format!("part {no} of {of} is there {n} times")).at(name(no))),
            }
        }
        for record in &self.records {
            let path = name(record.part);
            if let Some(what) = record.differs(first) {
                return Err(Error::input(format!("part {} was made with another {what} than part 1", record.part))
                    .at(path)
                    .help(format!("remove it and write part {} again", record.part)));
            }
            if !path.exists() {
                return Err(Error::input(format!("part {} of {of} was never finished", record.part))
                    .at(path)
                    .help(format!("write it with --part {}/{of}", record.part)));
            }
            let (sha256, bytes) = gguf::digest::sha256_file(&path, |_| ())?;
            if (&sha256, bytes) != (&record.sha256, record.bytes) {
                return Err(Error::input("is not the file that its record describes")
                    .at(path)
                    .help(format!("remove it and write part {} again", record.part)));
            }
        }
        Ok(name(1))
    }
}

/// One file of all shards: the bytes that one machine writes.
fn merge(first: &Path, target: &Path, force: bool, common: &Common) -> Result<()> {
    let splits = gguf::split::open(first)?;
    let shards = gguf::split::files(first);
    let inputs: Vec<&Path> = shards.iter().map(PathBuf::as_path).collect();
    let output = Output::create(target, force, &inputs)?;
    let total = splits.tensors().iter().map(|t| t.bytes()).sum();
    let progress = Progress::bytes(common.progress, common.quiet, "merging", total);
    let out = std::io::BufWriter::with_capacity(1 << 20, output);
    let out = gguf::write::copy(splits.as_ref(), splits.metadata(), out, |n| progress.add(n))
        .map_err(|e| gguf::cli::at_fault(e, first, target))?;
    let output = out.into_inner().map_err(|e| Error::io(target, "write", e.into_error()))?;
    progress.finish();
    gguf::check::verify_file(output.temporary(), true).map_err(|e| e.at(target))?;
    output.commit()
}
