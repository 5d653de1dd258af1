//! No checkpoint becomes a file that does not load: each tensor of every fixture is taken away and resized in turn, and
//! the result is an error that names it, or a file in which the check finds no fault because that tensor is optional.

use std::collections::HashSet;
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
        None => fs::read_dir(fixtures::path("golden/arch"))
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                entry.path().join("hf").join(entry.file_name())
            })
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

    /// Writes the checkpoint with another shape of this tensor, or without it.
    fn write(&self, folder: &Path, changed: &str, shape: Option<&[u64]>) {
        let (mut header, mut data) = (Map::new(), Vec::with_capacity(self.data.len()));
        for (name, entry) in &self.header {
            let (mut entry, start) = (entry.clone(), data.len());
            let [from, to] = [0, 1].map(|i| entry["data_offsets"][i].as_u64().unwrap() as usize);
            let own = &self.data[from..to];
            match (name == changed, shape) {
                (false, _) => data.extend_from_slice(own),
                (true, None) => continue,
                (true, Some(shape)) => {
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

/// The errors that the check finds in what a folder becomes.
fn faults(folder: &Path) -> gguf::Result<Vec<String>> {
    let checkpoint = Checkpoint::open(folder, &Options::default())?;
    let bytes = gguf::write::copy(&checkpoint, checkpoint.metadata(), Vec::new(), |_| {})?;
    let report = check::check_bytes(bytes.into(), "model.gguf", &check::Options { data: true, ..Default::default() });
    let errors = report.findings.iter().filter(|f| f.severity == Severity::Error);
    Ok(errors.map(|f| format!("{}: {}", f.rule.name, f.message)).collect())
}

/// Each shape with one dimension larger, smaller or zero.
fn resized(shape: &[u64]) -> Vec<Vec<u64>> {
    let with = |i: usize, n: u64| {
        let mut shape = shape.to_vec();
        shape[i] = n;
        shape
    };
    (0..shape.len())
        .flat_map(|i| [shape[i] + 1, shape[i] - 1, 0].map(|n| with(i, n)))
        .filter(|s| s != shape)
        .collect::<HashSet<_>>()
        .into_iter()
        .collect()
}

/// Runs over all folders, as many at a time as the machine has cores; `work` gives what is wrong and how often it looked.
fn walk(work: impl Fn(&Path, &Path) -> (Vec<String>, usize) + Sync) {
    let queue = Mutex::new(folders());
    let (wrong, looked) = (Mutex::new(Vec::new()), Mutex::new(0));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(folder) = queue.lock().unwrap().pop() else { break };
                    let copy = tempfile::tempdir().unwrap();
                    let copy = copy.path().join(folder.file_name().unwrap());
                    fs::create_dir(&copy).unwrap();
                    for entry in fs::read_dir(&folder).unwrap() {
                        let entry = entry.unwrap();
                        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
                    }
                    let (found, times) = work(&folder, &copy);
                    let name = folder.file_name().unwrap().to_string_lossy();
                    wrong.lock().unwrap().extend(found.into_iter().map(|fault| format!("{name}: {fault}")));
                    *looked.lock().unwrap() += times;
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
    walk(|folder, copy| {
        let weights = Weights::read(folder);
        let (mut wrong, mut times) = (Vec::new(), 0);
        let usual = faults(folder).unwrap_or_default();
        for name in weights.header.keys() {
            let shape = weights.shape(name);
            let changes = resized(&shape).into_iter().map(Some).chain([None]);
            for change in changes {
                weights.write(copy, name, change.as_deref());
                times += 1;
                let said = change.as_ref().map_or("without it".to_owned(), |c| format!("{shape:?} as {c:?}"));
                match faults(copy) {
                    Ok(faults) if faults.iter().all(|fault| usual.contains(fault)) => {
                        if std::env::var_os("SHOW").is_some() {
                            println!("{} {name} {said}: good", folder.file_name().unwrap().display());
                        }
                    }
                    Ok(faults) => wrong.push(format!("{name}, {said}: written, with {faults:?}")),
                    Err(e) if e.kind() == ErrorKind::Input && e.to_string().contains(name.as_str()) => {}
                    Err(e) => wrong.push(format!("{name}, {said}: {e}")),
                }
            }
        }
        (wrong, times)
    });
}
