//! No checkpoint becomes a file that does not load: each tensor of every fixture is taken away and resized in turn, and
//! the result is an error that names it, or a file in which the check finds no fault because that tensor is optional.
//! Of the checkpoints that are made here each tensor is taken away; with `EVERY_CHANGE` they are changed as the others.

#[path = "../cases/mod.rs"]
mod cases;
mod changed;
mod towers;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use convert::{Checkpoint, Options};
use gguf::check::{self, Severity};
use gguf::{ErrorKind, Source};
use serde_json::Value;

use changed::{Change, Weights, names};

/// The checkpoints of the fixtures, or of the folders that `CHECKPOINTS` names.
fn folders() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = match std::env::var_os("CHECKPOINTS") {
        Some(list) => std::env::split_paths(&list).collect(),
        None => ["arch", "encoders"]
            .iter()
            .flat_map(|kind| fs::read_dir(fixtures::path(&format!("golden/{kind}"))).unwrap())
            .map(|entry| {
                let entry = entry.unwrap();
                entry.path().join("hf").join(entry.file_name())
            })
            .filter(|folder| folder.join("model.safetensors").is_file())
            .collect(),
    };
    found.sort();
    found
}

/// What is done to a tensor of a shape, of whole numbers or not.
type Changes = fn(&[u64], bool) -> Vec<Change>;

/// The errors that the check finds in what a folder becomes.
fn faults(folder: &Path, options: &Options) -> gguf::Result<Vec<String>> {
    let checkpoint = Checkpoint::open(folder, options)?;
    let bytes = gguf::write::copy(&checkpoint, checkpoint.metadata(), Vec::new(), |_| {})?;
    let report = check::check_bytes(bytes.into(), "model.gguf", &check::Options { data: true, ..Default::default() });
    let errors = report.findings.iter().filter(|f| f.severity == Severity::Error);
    Ok(errors.map(|f| format!("{}: {}", f.rule.name, f.message)).collect())
}

/// Everything that is done to a tensor of this shape: gone, of whole numbers, one dimension larger, smaller or zero.
fn every_change(shape: &[u64], whole_numbers: bool) -> Vec<Change> {
    let with = |i: usize, n: u64| {
        let mut shape = shape.to_vec();
        shape[i] = n;
        shape
    };
    let shapes: BTreeSet<Vec<u64>> =
        (0..shape.len()).flat_map(|i| [shape[i] + 1, shape[i] - 1, 0].map(|n| with(i, n))).collect();
    let shapes = shapes.into_iter().filter(|s| s != shape).map(Change::Shape);
    let ty = if whole_numbers { Change::Type("BF16", 2) } else { Change::Type("I64", 8) };
    shapes.chain([Change::Without, ty]).collect()
}

/// A checkpoint of which each tensor is changed in turn.
enum Subject {
    Given(PathBuf),
    /// A case of `generated/cases.json`.
    Made(String),
}

impl Subject {
    /// Writes the checkpoint to a folder.
    fn write(&self, folder: &Path) -> Options {
        match self {
            Subject::Given(from) => {
                fixtures::copy(from, folder);
                Options::default()
            }
            Subject::Made(name) => {
                let cases = fixtures::json("generated/cases.json");
                let cases = cases.as_object().unwrap();
                let case = cases::resolved(cases, name);
                cases::write(&case, folder);
                cases::options(cases, &case, folder)
            }
        }
    }

    fn name(&self) -> &str {
        match self {
            Subject::Given(folder) => folder.file_name().unwrap().to_str().unwrap(),
            Subject::Made(name) => name,
        }
    }
}

/// What is wrong with what a checkpoint becomes whose tensors are changed one at a time, and how often it was tried;
/// nothing for a checkpoint that is refused as it stands.
fn judge(subject: &Subject, changes: Changes) -> Option<(Vec<String>, usize)> {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join(subject.name());
    let options = subject.write(&folder);
    let usual = faults(&folder, &options).ok()?;
    let weights = Weights::read(&folder);
    let (mut wrong, mut times) = (Vec::new(), 0);
    for (name, entry) in &weights.header {
        let shape = weights.shape(name);
        let integers = entry["dtype"].as_str().unwrap().starts_with(['I', 'U']);
        for change in changes(&shape, integers) {
            weights.write(&folder, name, &change);
            times += 1;
            let said = format!("{}: {name} of {shape:?}, {change:?}", subject.name());
            let fault = match faults(&folder, &options) {
                Ok(faults) if faults.iter().all(|fault| usual.contains(fault)) => continue,
                Ok(faults) => format!("{said}: written, with {faults:?}"),
                Err(e) if e.kind() == ErrorKind::Input && names(&e.to_string(), name) => continue,
                Err(e) => format!("{said}: {e}"),
            };
            println!("{fault}");
            wrong.push(fault);
        }
    }
    Some((wrong, times))
}

/// Runs over all subjects, as many at a time as the machine has cores. Gives those that are refused as they stand.
fn walk(subjects: Vec<Subject>, changes: Changes) -> Vec<String> {
    let queue = Mutex::new(subjects);
    let (wrong, looked, refused) = (Mutex::new(Vec::new()), Mutex::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(subject) = queue.lock().unwrap().pop() else { break };
                    match judge(&subject, changes) {
                        Some((found, times)) => {
                            wrong.lock().unwrap().extend(found);
                            *looked.lock().unwrap() += times;
                        }
                        None => refused.lock().unwrap().push(subject.name().to_owned()),
                    }
                }
            });
        }
    });
    let (wrong, looked) = (wrong.into_inner().unwrap(), looked.into_inner().unwrap());
    assert!(wrong.is_empty(), "{} of {looked}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(looked > 0);
    println!("{looked} checkpoints");
    refused.into_inner().unwrap()
}

#[test]
fn each_tensor_that_is_missing_or_resized_is_named_or_optional() {
    let refused = walk(folders().into_iter().map(Subject::Given).collect(), every_change);
    assert!(refused.is_empty(), "refused as they stand: {refused:?}");
}

#[test]
fn each_tensor_of_made_checkpoints_that_is_missing_is_named_or_optional() {
    let only = std::env::var("ONLY").ok();
    let every = std::env::var_os("EVERY_CHANGE").is_some();
    let cases = fixtures::json("generated/cases.json");
    let cases = cases.as_object().unwrap();
    let has_weights = |name: &&String| {
        let case = cases::resolved(cases, name);
        let text = |key: &str, text: &str| case.get(key).is_some_and(|value| value.to_string().contains(text));
        let weights = case.get("tensors").and_then(Value::as_object).is_some_and(|tensors| !tensors.is_empty());
        // A tower's tensors and an adapter's are held against other tables; of ternary blocks it is the same model again.
        weights && !text("arguments", "--mmproj") && !text("outtype", "tq")
    };
    let names = cases.keys().filter(has_weights);
    let names = names.filter(|n| only.as_ref().is_none_or(|o| n.contains(o.as_str())));
    let subjects = names.map(|name| Subject::Made(name.clone())).collect();
    let mut refused = walk(subjects, if every { every_change } else { |_, _| vec![Change::Without] });
    refused.retain(|name| !cases::resolved(cases, name).contains_key("error"));
    assert!(refused.is_empty(), "refused as they stand: {refused:?}");
}
