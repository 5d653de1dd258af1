//! What comes in, and what names go out.

use std::path::{Path, PathBuf};

use gguf::{Error, Result, Source, TensorType};
use quantize::plan::Plan;
use quantize::recipe::FILE_TYPES;

/// Opens a checkpoint folder or a GGUF file.
pub fn open(path: &Path) -> Result<Box<dyn Source + Send>> {
    convert::open(path, &convert::Options::default())
}

/// The files that an output must not replace: the input (every file of a folder), and others that were named.
pub fn files(input: &Path, others: &[&Option<PathBuf>]) -> Vec<PathBuf> {
    let mut all = vec![input.to_path_buf()];
    if let Ok(entries) = std::fs::read_dir(input) {
        all.extend(entries.flatten().map(|entry| entry.path()));
    }
    all.extend(others.iter().filter_map(|path| (*path).clone()));
    all
}

/// The model's name by its file or folder, without what tells a type or a shard: `tiny` for `tiny-bf16.gguf`.
fn name(input: &Path) -> String {
    let whole = input.canonicalize().unwrap_or_else(|_| input.to_path_buf());
    let stem = if whole.is_dir() { whole.file_name() } else { whole.file_stem() };
    let stem = stem.map_or_else(|| "model".into(), |s| s.to_string_lossy());
    let mut name = stem.as_ref();
    if let Some((front, count)) = name.rsplit_once("-of-")
        && count.len() == 5
        && let Some((front, _)) = front.rsplit_once('-')
    {
        name = front;
    }
    let is_type =
        |part: &str| FILE_TYPES.iter().any(|t| t.name.eq_ignore_ascii_case(part)) || part.parse::<TensorType>().is_ok();
    match name.rsplit_once(['-', '.']) {
        Some((front, last)) if is_type(last) && !front.is_empty() => front.to_owned(),
        _ => name.to_owned(),
    }
}

/// Where each plan's file goes.
pub fn targets(input: &Path, output: Option<&Path>, plans: &[Plan]) -> Result<Vec<PathBuf>> {
    let usual = |plan: &Plan| format!("{}-{}.gguf", name(input), plan.file_type.name);
    match output {
        Some(folder) if folder.is_dir() => Ok(plans.iter().map(|p| folder.join(usual(p))).collect()),
        Some(file) if plans.len() == 1 => Ok(vec![file.to_path_buf()]),
        Some(folder) => {
            Err(Error::usage("several types need a folder to go to").at(folder).help("make the folder first"))
        }
        None => Ok(plans.iter().map(|p| PathBuf::from(usual(p))).collect()),
    }
}
