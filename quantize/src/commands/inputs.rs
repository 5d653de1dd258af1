//! What comes in, and what names go out.

use std::path::{Path, PathBuf};

use gguf::{Error, Result, Source, TensorType};
use quantize::plan::Plan;
use quantize::recipe::FILE_TYPES;

/// Opens a checkpoint folder (for its projector file, if that is wanted) or a GGUF file. Packed weights that are not
/// complete by themselves are decoded.
pub fn open(path: &Path, projector: bool) -> Result<Box<dyn Source + Send>> {
    if gguf::split::parse(path).is_some() {
        return gguf::split::open(path);
    }
    if projector && path.is_file() {
        return Err(Error::usage("--mmproj is for a checkpoint folder")
            .at(path)
            .help("a projector file needs no option"));
    }
    let blocks = convert::packed::Blocks::Alone;
    convert::open(path, &convert::Options { blocks, projector, ..Default::default() })
}

/// The shard of each tensor of a split model, in the order of the source.
pub fn shards(path: &Path) -> Result<Vec<usize>> {
    if gguf::split::parse(path).is_none() || !path.is_file() {
        return Err(Error::usage("is no split GGUF model, so there is no split to keep")
            .at(path)
            .help("give the first shard, NAME-00001-of-0000N.gguf, or leave --keep-split out"));
    }
    let splits = gguf::split::Splits::new(gguf::File::open(path)?)?;
    let sizes = splits.files().iter().map(|file| file.tensors().len());
    Ok(sizes.enumerate().flat_map(|(shard, n)| std::iter::repeat_n(shard, n)).collect())
}

/// The files that an output must not replace: the input (every file of a folder), and others that were named.
pub fn files(input: &Path, others: &[&Option<PathBuf>]) -> Vec<PathBuf> {
    let mut all = vec![input.to_path_buf()];
    if let Some((prefix, _, count)) = gguf::split::parse(input) {
        // No model has so many shards; a name that says so lists none.
        all.extend((0..count.min(65535)).map(|no| gguf::split::path(&prefix, no, count)).filter(|path| path.exists()));
    }
    if let Ok(entries) = std::fs::read_dir(input) {
        all.extend(entries.flatten().map(|entry| entry.path()));
    }
    all.extend(others.iter().filter_map(|path| (*path).clone()));
    all
}

/// The model's name by its file or folder, without what tells a type or a shard: `tiny` for `tiny-bf16.gguf`.
fn name(input: &Path) -> String {
    // `.` and `..` have no name of their own; a link keeps the name it goes by.
    let whole = match input.file_name() {
        Some(_) => input.to_path_buf(),
        None => input.canonicalize().unwrap_or_default(),
    };
    let stem = match gguf::split::parse(&whole) {
        Some((prefix, ..)) => prefix.file_name().map(|n| n.to_os_string()),
        None if input.is_dir() => whole.file_name().map(|n| n.to_os_string()),
        None => whole.file_stem().map(|n| n.to_os_string()),
    };
    let stem = stem.map_or_else(|| "model".to_owned(), |s| s.to_string_lossy().into_owned());
    let name = stem.as_str();
    let is_type =
        |part: &str| FILE_TYPES.iter().any(|t| t.name.eq_ignore_ascii_case(part)) || part.parse::<TensorType>().is_ok();
    match name.rsplit_once(['-', '.']) {
        Some((front, last)) if is_type(last) && !front.is_empty() => front.to_owned(),
        _ => name.to_owned(),
    }
}

/// The usual name of a plan's output, without the ending.
pub fn stem(input: &Path, plan: &Plan) -> String {
    format!("{}-{}", name(input), plan.file_type.name)
}

/// Where each plan's files go.
pub fn targets(input: &Path, projector: bool, output: Option<&Path>, plans: &[Plan]) -> Result<Vec<Vec<PathBuf>>> {
    let kind = if projector { "mmproj-" } else { "" };
    let usual = |plan: &Plan| format!("{kind}{}.gguf", stem(input, plan));
    let whole: Vec<PathBuf> = match output {
        Some(folder) if folder.is_dir() => plans.iter().map(|p| folder.join(usual(p))).collect(),
        Some(file) if plans.len() == 1 => vec![file.to_path_buf()],
        Some(folder) => {
            let error = Error::usage("several types need a folder to go to").at(folder);
            return Err(error.help("make the folder first"));
        }
        None => plans.iter().map(|p| PathBuf::from(usual(p))).collect(),
    };
    let shards = |(plan, target): (&Plan, PathBuf)| match plan.shards {
        1 => vec![target],
        count => (0..count).map(|no| gguf::split::path(without_gguf(&target), no, count)).collect(),
    };
    Ok(plans.iter().zip(whole).map(shards).collect())
}

fn without_gguf(path: &Path) -> PathBuf {
    if path.extension().is_some_and(|e| e == "gguf") { path.with_extension("") } else { path.to_path_buf() }
}
