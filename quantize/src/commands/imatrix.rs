//! `quantize imatrix`: look at, merge and convert importance matrices.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use gguf::cli::{Align, Common, Exit, Files, Output, OutputArg, Table, count, print};
use gguf::{Error, Result};
use quantize::imatrix::Imatrix;
use serde_json::json;

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Statistics of each tensor
    Show {
        /// The importance matrix
        file: PathBuf,
    },
    /// Add up what several runs saw
    Merge {
        /// The importance matrices
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The result: in the legacy form if it ends in .dat, else GGUF
        #[arg(short, long, value_name = "PATH")]
        output: PathBuf,
        /// Replace an output that exists
        #[arg(long)]
        force: bool,
    },
    /// From the legacy form to GGUF, or back
    Convert {
        /// The importance matrix
        file: PathBuf,
        /// In the legacy form if it ends in .dat, else GGUF
        #[command(flatten)]
        output: OutputArg,
        /// Replace an output that exists
        #[arg(long)]
        force: bool,
    },
}

pub fn run(args: &Args, common: &Common) -> Result<Exit> {
    match &args.command {
        Command::Show { file } => show(file, common),
        Command::Merge { files, output, force } => merge(files, output, *force, common),
        Command::Convert { file, output, force } => merge(std::slice::from_ref(file), output.path(), *force, common),
    }
}

fn show(file: &Path, common: &Common) -> Result<Exit> {
    let mut matrix = Imatrix::open(file)?;
    matrix.to_raw();
    let statistics = matrix.statistics();
    if common.wants_document() {
        let fields = json!({
            "datasets": matrix.datasets, "chunks": matrix.chunks, "chunk_size": matrix.chunk_size,
            "tensors": statistics,
        });
        let files = Files::new(common, true, &[file.to_path_buf()], &[])?;
        common.print_document("quantize-imatrix-show-1", VERSION, &files, fields)?;
        return Ok(Exit::Done);
    }
    let right = Align::Right;
    let mut table = Table::new(&[
        ("tensor", Align::Left),
        ("Σ(act²)", right),
        ("min", right),
        ("max", right),
        ("μ", right),
        ("σ", right),
        ("active", right),
        ("columns", right),
        ("entropy", right),
        ("of most", right),
        ("ZD", right),
        ("similarity", right),
    ]);
    for s in &statistics {
        let most = (s.elements as f32).log2();
        table.row([
            s.tensor.clone(),
            format!("{:.2}", s.sum),
            format!("{:.4}", s.min),
            format!("{:.4}", s.max),
            format!("{:.2}", s.mean),
            format!("{:.2}", s.deviation),
            format!("{:.2} %", 100.0 * s.active),
            count(s.elements as u64),
            format!("{:.4}", s.entropy),
            format!("{:.2} %", if most > 0.0 { 100.0 * (s.entropy / most) } else { 0.0 }),
            format!("{:.2} %", 100.0 * s.outliers),
            format!("{:.4}", s.similarity),
        ]);
    }
    let from = if matrix.datasets.is_empty() { "unnamed texts".into() } else { matrix.datasets.join(", ") };
    let head =
        format!("{} tensors, {} chunks of {} tokens of {from}\n", statistics.len(), matrix.chunks, matrix.chunk_size);
    print(&(head + &table.render()))?;
    Ok(Exit::Done)
}

fn merge(files: &[PathBuf], target: &Path, force: bool, common: &Common) -> Result<Exit> {
    let inputs: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    Output::check(target, force, &inputs)?;
    let mut all: Option<Imatrix> = None;
    for file in files {
        let next = Imatrix::open(file)?;
        match &mut all {
            None => all = Some(next),
            Some(all) => all.merge(&next).map_err(|e| e.at(file))?,
        }
    }
    let all = all.ok_or_else(|| Error::usage("no importance matrix is given"))?;
    let bytes = match target.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("dat") => all.to_dat(),
        _ => all.to_gguf()?,
    };
    let mut output = Output::create(target, force, &inputs)?;
    output.write_all(&bytes).map_err(|e| Error::io(target, "write", e))?;
    output.commit()?;
    if common.wants_document() {
        let fields = json!({"path": gguf::quote::json(target), "bytes": bytes.len(), "tensors": all.entries.len(),
            "files": files.len()});
        let files = Files::new(common, true, files, &[target.to_path_buf()])?;
        common.print_document("quantize-imatrix-1", VERSION, &files, fields)?;
    } else if !common.quiet {
        eprintln!("{}: {} tensors, {} bytes", gguf::quote::path(target), all.entries.len(), count(bytes.len() as u64));
    }
    Ok(Exit::Done)
}
