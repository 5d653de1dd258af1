//! `gguf split` and `gguf merge`.

use std::io::BufWriter;
use std::ops::Range;
use std::path::{Path, PathBuf};

use gguf::cli::{
    Common, Exit, Output, OutputArg, OutputPlace, Progress, SplitArgs, at_fault, bytes, commit_all, names_folder, print,
};
use gguf::split::{self, KeyOrder, Splits};
use gguf::{Endian, Error, File, Result, Source, quote, write};
use serde_json::json;

/// Split a model into several files; without a limit, of at most 128 tensors
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gguf split --split-max-size 2G model.gguf -o model
  gguf split --split-max-tensors 128 model.gguf -o out/
  gguf split --split-max-size 500M --dry-run model.gguf -o model")]
pub struct Split {
    /// The GGUF file, or the first shard of a model that is to be split otherwise
    file: PathBuf,

    /// The old spelling of -o
    #[arg(hide = true, value_name = "PREFIX")]
    second: Option<PathBuf>,

    /// The shards are called PATH-00001-of-0000N.gguf; in a folder, after the file
    #[arg(short, long, value_name = "PATH", required_unless_present = "second", conflicts_with = "second")]
    output: Option<PathBuf>,

    #[command(flatten)]
    limits: SplitArgs,

    /// Say which files there would be, and write none
    #[arg(long)]
    dry_run: bool,

    /// Replace shards that exist
    #[arg(long)]
    force: bool,

    /// Do not check the shards after writing them
    #[arg(long)]
    no_verify: bool,

    #[command(flatten)]
    unusual: super::Unusual,
}

/// Tensors of a shard where no limit is given, as in gguf-split.
const MAX_TENSORS: u64 = 128;

impl Split {
    pub fn run(self, common: &Common) -> Result<Exit> {
        let source = gguf::open(&self.file)?;
        let mut division = self.limits.division();
        if division.max_bytes.is_none() {
            division.max_tensors.get_or_insert(MAX_TENSORS);
        }
        let alignment = source.metadata().u64("general.alignment").unwrap_or(32);
        let parts = division.parts(source.tensors(), alignment)?;
        let prefix = self.prefix();
        let paths: Vec<PathBuf> = (0..parts.len()).map(|i| split::path(&prefix, i, parts.len())).collect();
        if !self.dry_run {
            let folder = self.output.as_deref().filter(|path| names_folder(path));
            let _place = folder.map(OutputPlace::make).transpose()?;
            self.write(&source, &parts, &paths, common)?;
        }
        let size = |part: &Range<usize>| source.tensors()[part.clone()].iter().map(|t| t.bytes()).sum::<u64>();
        if common.wants_document() {
            let shards: Vec<_> = parts
                .iter()
                .zip(&paths)
                .map(|(part, path)| json!({"file": quote::json(path), "tensors": part.len(), "bytes": size(part)}))
                .collect();
            let fields = json!({"shards": shards, "written": !self.dry_run});
            let written = if self.dry_run { &[] } else { &*paths };
            super::print_document(common, "split", !self.dry_run, &split::files(&self.file), written, fields)?;
        } else if !common.quiet {
            for (part, path) in parts.iter().zip(&paths) {
                print(&format!("{}: {} tensors, {}\n", quote::path(path), part.len(), bytes(size(part))))?;
            }
        }
        Ok(Exit::Done)
    }

    /// What the names of the shards begin with.
    fn prefix(&self) -> PathBuf {
        match self.output.as_deref() {
            Some(folder) if names_folder(folder) => {
                let whole = split::parse(&self.file).map(|(prefix, ..)| prefix);
                let named = whole.unwrap_or_else(|| self.file.with_extension(""));
                folder.join(named.file_name().unwrap_or_default())
            }
            Some(prefix) => prefix.to_path_buf(),
            // As it always was: a prefix, whatever else has that name.
            None => self.second.clone().unwrap_or_default(),
        }
    }

    /// All shards appear, or none: they get their names when the last one is written.
    fn write(&self, source: &dyn Source, parts: &[Range<usize>], paths: &[PathBuf], common: &Common) -> Result<()> {
        let inputs = split::files(&self.file);
        let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        for path in paths {
            Output::check(path, self.force, &inputs)?;
        }
        let total = source.tensors().iter().map(|t| t.bytes()).sum();
        let progress = Progress::bytes(common.progress, common.quiet, "splitting", total);
        let mut outputs = Vec::with_capacity(parts.len());
        for (i, (part, path)) in parts.iter().zip(paths).enumerate() {
            let n_tensors = source.tensors().len();
            let metadata = split::metadata(source.metadata(), i, parts.len(), n_tensors, KeyOrder::GgufSplit)?;
            let out = BufWriter::with_capacity(1 << 20, Output::create(path, self.force, &inputs)?);
            let count = |n| progress.add(n);
            let out =
                write::copy_part(source, part.clone(), &metadata, self.unusual.layout(Endian::Little), out, count)
                    .map_err(|e| at_fault(e, &self.file, path))?;
            let mut output = out.into_inner().map_err(|e| Error::io(path, "write", e.into_error()))?;
            super::verify(&output, self.no_verify)?;
            if i > 0 {
                output.seal()?;
            }
            outputs.push(output);
        }
        progress.finish();
        commit_all(outputs)
    }
}

/// Merge the shards of a model into one file
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gguf merge model-00001-of-00003.gguf -o model.gguf")]
pub struct Merge {
    /// The first shard
    first: PathBuf,

    #[command(flatten)]
    output: OutputArg,

    /// Replace the output if it exists
    #[arg(long)]
    force: bool,

    /// Do not check the file after writing it
    #[arg(long)]
    no_verify: bool,

    #[command(flatten)]
    unusual: super::Unusual,
}

impl Merge {
    pub fn run(self, common: &Common) -> Result<Exit> {
        let first = File::open(&self.first)?;
        if !split::is_shard(first.metadata()) {
            return Err(Error::usage("is no shard of a split model").at(&self.first));
        }
        let metadata = split::merged_metadata(first.metadata());
        let splits = Splits::new(first)?;
        let inputs: Vec<&Path> = splits.files().iter().filter_map(File::path).collect();
        let output = Output::create(self.output.path(), self.force, &inputs)?;
        let total = splits.tensors().iter().map(|t| t.bytes()).sum();
        let progress = Progress::bytes(common.progress, common.quiet, "merging", total);
        let out = BufWriter::with_capacity(1 << 20, output);
        let out = write::copy_part(
            &splits,
            0..splits.tensors().len(),
            &metadata,
            self.unusual.layout(Endian::Little),
            out,
            |n| progress.add(n),
        )
        .map_err(|e| at_fault(e, &self.first, self.output.path()))?;
        let output = out.into_inner().map_err(|e| Error::io(self.output.path(), "write", e.into_error()))?;
        super::verify(&output, self.no_verify)?;
        output.commit()?;
        progress.finish();
        if common.wants_document() {
            let fields = json!({"file": quote::json(self.output.path()), "shards": splits.files().len(),
                "tensors": splits.tensors().len()});
            let output = self.output.path().to_path_buf();
            super::print_document(common, "merge", true, &split::files(&self.first), &[output], fields)?;
        } else if !common.quiet {
            print(&format!(
                "{}: {} tensors of {} shards\n",
                quote::path(self.output.path()),
                splits.tensors().len(),
                splits.files().len()
            ))?;
        }
        Ok(Exit::Done)
    }
}
