//! No checkpoint becomes a file that does not load: each tensor of every fixture is taken away and resized in turn, and
//! the result is an error that names it, or a file in which the check finds no fault because that tensor is optional.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use convert::{Checkpoint, Options};
use gguf::check::{self, Severity};
use gguf::{ErrorKind, Source};
use serde_json::{Map, Value, json};

/// The checkpoints of the fixtures, or of the folders that `CHECKPOINTS` names.
fn folders() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = match std::env::var_os("CHECKPOINTS") {
        Some(list) => std::env::split_paths(&list).collect(),
        None => ["arch", "encoders", "mmproj"]
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

/// A checkpoint in one file of which tensors can be changed.
struct Weights {
    header: Map<String, Value>,
    data: Vec<u8>,
}

impl Weights {
    fn read(folder: &Path) -> Weights {
        let bytes = fs::read(folder.join("model.safetensors")).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        header.shift_remove("__metadata__");
        Weights { header, data: bytes[8 + length..].to_vec() }
    }

    fn shape(&self, name: &str) -> Vec<u64> {
        serde_json::from_value(self.header[name]["shape"].clone()).unwrap()
    }

    /// Writes the checkpoint with this tensor changed.
    fn write(&self, folder: &Path, changed: &str, change: &Change) {
        let (mut header, mut data) = (Map::new(), Vec::with_capacity(self.data.len()));
        for (name, entry) in &self.header {
            let (mut entry, start) = (entry.clone(), data.len());
            let [from, to] = [0, 1].map(|i| entry["data_offsets"][i].as_u64().unwrap() as usize);
            let own = &self.data[from..to];
            match change {
                _ if name != changed => data.extend_from_slice(own),
                Change::Without => continue,
                Change::Type(dtype, size) => {
                    let elements = self.shape(name).iter().product::<u64>() as usize;
                    data.resize(data.len() + elements * size, 0);
                    entry["dtype"] = json!(dtype);
                }
                Change::Shape(shape) => {
                    let elements = self.shape(name).iter().product::<u64>() as usize;
                    let bytes = shape.iter().product::<u64>() as usize * (own.len() / elements);
                    data.extend(own.iter().copied().cycle().take(bytes));
                    entry["shape"] = json!(shape);
                }
            }
            entry["data_offsets"] = json!([start, data.len()]);
            header.insert(name.clone(), entry);
        }
        let header = Value::Object(header).to_string();
        let all = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
        fs::write(folder.join("model.safetensors"), all).unwrap();
    }
}

/// What is done to a tensor.
#[derive(Debug)]
enum Change {
    Without,
    Shape(Vec<u64>),
    /// Its elements are of another type, of this many bytes.
    Type(&'static str, usize),
}

/// The errors that the check finds in what a folder becomes.
fn faults(folder: &Path, options: &Options) -> gguf::Result<Vec<String>> {
    let checkpoint = Checkpoint::open(folder, options)?;
    let bytes = gguf::write::copy(&checkpoint, checkpoint.metadata(), Vec::new(), |_| {})?;
    let report = check::check_bytes(bytes.into(), "model.gguf", &check::Options { data: true, ..Default::default() });
    let errors = report.findings.iter().filter(|f| f.severity == Severity::Error);
    Ok(errors.map(|f| format!("{}: {}", f.rule.name, f.message)).collect())
}

/// Everything that is done to a tensor of this shape: gone, of whole numbers, one dimension larger, smaller or zero.
fn changes(shape: &[u64], whole_numbers: bool) -> Vec<Change> {
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

/// Copies a folder with the folders in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// What is wrong with what a folder becomes whose tensors are changed one at a time, and how often it was tried.
fn judge(folder: &Path, changed: &Path, options: &Options) -> (Vec<String>, usize) {
    let weights = Weights::read(folder);
    let (mut wrong, mut times) = (Vec::new(), 0);
    let usual = faults(folder, options).unwrap_or_default();
    for (name, entry) in &weights.header {
        let shape = weights.shape(name);
        let integers = entry["dtype"].as_str().unwrap().starts_with(['I', 'U']);
        for change in changes(&shape, integers) {
            weights.write(changed, name, &change);
            times += 1;
            let said = format!("{name} of {shape:?}, {change:?}");
            let fault = match faults(changed, options) {
                Ok(faults) if faults.iter().all(|fault| usual.contains(fault)) => continue,
                Ok(faults) => format!("{said}: written, with {faults:?}"),
                Err(e) if e.kind() == ErrorKind::Input && e.to_string().contains(name.as_str()) => continue,
                Err(e) => format!("{said}: {e}"),
            };
            println!("{}: {fault}", folder.file_name().unwrap().display());
            wrong.push(fault);
        }
    }
    (wrong, times)
}

/// Runs over all folders, as many at a time as the machine has cores.
fn walk(options: &[Options]) {
    let queue = Mutex::new(folders());
    let (wrong, looked) = (Mutex::new(Vec::new()), Mutex::new(0));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(folder) = queue.lock().unwrap().pop() else { break };
                    let temporary = tempfile::tempdir().unwrap();
                    let name = folder.file_name().unwrap();
                    let changed = temporary.path().join(name);
                    copy(&folder, &changed);
                    for options in options.iter().filter(|o| Checkpoint::open(&folder, o).is_ok()) {
                        let (found, times) = judge(&folder, &changed, options);
                        let found = found.into_iter().map(|fault| format!("{}: {fault}", name.display()));
                        wrong.lock().unwrap().extend(found);
                        *looked.lock().unwrap() += times;
                    }
                }
            });
        }
    });
    let (wrong, looked) = (wrong.into_inner().unwrap(), looked.into_inner().unwrap());
    assert!(wrong.is_empty(), "{} of {looked}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(looked > 0);
    println!("{looked} checkpoints");
}

#[test]
fn each_tensor_that_is_missing_or_resized_is_named_or_optional() {
    walk(&[Options::default()]);
}
