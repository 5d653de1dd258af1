//! `evaluate gather`.

use std::path::{Path, PathBuf};

use eval::parts::Gathered;
use gguf::cli::{Common, Exit, say};
use gguf::{Error, Result};

use super::{compare, imatrix, optimize, parts, perplexity};

/// Put the parts of a measurement together: what one run would have printed or written
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  evaluate perplexity tiny-llama --text sample.txt --part 1/2 -o parts
  evaluate perplexity tiny-llama --text sample.txt --part 2/2 -o parts
  evaluate gather parts
  evaluate gather parts/*.part --html report.html --max-kld 0.01

Exit codes: 0 done and within the limits, 1 beyond a limit, 2 wrong usage, 3 bad input, 4 the system failed.")]
pub struct Args {
    /// Folders with parts, or the parts themselves, all of one run
    #[arg(value_name = "PART", required = true)]
    parts: Vec<PathBuf>,

    /// The importance matrix to write [default: imatrix.gguf]
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,

    /// The form of the importance matrix
    #[arg(long, value_enum, default_value_t = imatrix::Form::Gguf, value_name = "FORM")]
    format: imatrix::Form,

    #[command(flatten)]
    show: super::comparison::Show,
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<Exit> {
    let mut paths = Vec::new();
    for path in &args.parts {
        match path.is_dir() {
            true => paths.extend(parts_in(path)?),
            false => paths.push(path.clone()),
        }
    }
    let gathered = Gathered::open(&paths)?;
    if let (Some(several), false) = (gathered.several_paths(), common.quiet) {
        say(&format!("note: the parts ran on several kinds of processors ({several}), so their last bits may differ"));
    }
    match gathered.first().command.as_str() {
        "perplexity" => perplexity::gather(&gathered, common),
        "compare" => compare::gather(&gathered, &args.show, common),
        "imatrix" => imatrix::gather(&gathered, (args.output.as_deref(), args.format, args.show.force), common),
        "optimize" => optimize::gather(&gathered, common),
        other => {
            Err(Error::input(format!("is a part of \"{other}\", which this version does not know"))
                .at(&gathered.paths[0]))
        }
    }
}

/// The parts in a folder.
fn parts_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io(folder, "read the folder", e);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.as_os_str().as_encoded_bytes().ends_with(parts::ENDING.as_bytes()) {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(Error::input(format!("holds no parts: no file ends in {}", parts::ENDING))
            .at(folder)
            .help("`evaluate perplexity|compare|imatrix|optimize … --part I/N -o FOLDER` writes them"));
    }
    Ok(paths)
}
