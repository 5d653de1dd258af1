//! No checkpoint with towers becomes a projector file that does not load: each tensor of every fixture and of every
//! generated checkpoint is taken away and resized in turn, and the result is an error that names it, or a file without
//! a tensor that is optional. Files are held against the same rules, tensor by tensor.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use convert::{Checkpoint, Options};
use gguf::projector::{self, Fault};
use gguf::{ErrorKind, Source};

use crate::cases;
use crate::changed::{Change, Weights, names};

/// Tensors with dimensions that nothing else in a file tells, each with the number of the first such dimension.
const FREE: &[(&str, usize)] = &[
    // Positions of images and sounds of any length.
    ("a.position_embd.weight", 1),
    ("v.position_embd.weight", 1),
    // Queries, words of sound and what speaks them.
    ("a.proj_query", 1),
    ("a.rvq.codebook.weight", 1),
    ("mm.a.code_embd.weight", 1),
    ("mm.embedding.weight", 1),
    ("mm.a.embedding.weight", 1),
    ("a.embd_to_logits.weight", 1),
    ("v.resample_query_768.weight", 1),
    ("v.resample_query_1024.weight", 1),
    ("v.sam.pos_embd.weight", 1),
    // As many class tokens as the tower was made with.
    ("v.class_embd", 1),
    // The filters of a spectrogram.
    ("a.mel_filters", 0),
    ("a.window", 0),
    // What speaks, and the codecs of sound, whose parts are of sizes of their own.
    ("a.gen.", 0),
    ("a.seanet.", 0),
    ("a.downsample.conv.weight", 0),
    // MobileNet's stages, which have sizes of their own.
    ("v.conv_stem.", 0),
    ("v.msfa.", 0),
];

/// Whether a tensor is of a block of a stage of MobileNet.
fn is_staged(name: &str) -> bool {
    let mut parts = name.strip_prefix("v.blk.").unwrap_or_default().split('.');
    [parts.next(), parts.next()].into_iter().all(|part| part.is_some_and(|part| part.parse::<u64>().is_ok()))
}

/// The dimensions of a tensor that something else in the file tells.
fn bound<'a>(name: &str, dims: &'a [u64]) -> &'a [u64] {
    let is_free = |free: &str| if free.ends_with('.') { name.starts_with(free) } else { name == free };
    let free = FREE.iter().find(|(free, _)| is_free(free)).map_or(dims.len(), |(_, first)| *first);
    // Windows of SAM's layers differ.
    let free = if is_staged(name) || name.contains(".attn.pos_") { 0 } else { free };
    &dims[..free.min(dims.len())]
}

fn options() -> Options {
    Options { projector: true, ..Options::default() }
}

/// The folders of all fixtures with towers, and of all generated checkpoints with a hash that are no variants of others.
fn folders(made: &Path) -> Vec<PathBuf> {
    let only = std::env::var("ONLY").ok();
    let given = fs::read_dir(fixtures::path("golden/mmproj")).unwrap().map(|entry| {
        let entry = entry.unwrap();
        entry.path().join("hf").join(entry.file_name())
    });
    let cases = fixtures::json("generated/cases.json");
    let cases = cases.as_object().unwrap();
    let own = cases.iter().filter(|(name, case)| {
        let is_other = case.get("outtype").is_some() || case.get("error").is_some();
        name.starts_with("mmproj-") && !is_other && case.get("tensors").is_some()
    });
    let generated = own.map(|(name, _)| {
        let folder = made.join(name);
        cases::write(&cases::resolved(cases, name), &folder);
        folder
    });
    let mut all: Vec<PathBuf> = given.chain(generated).collect();
    all.retain(|folder| only.as_ref().is_none_or(|o| folder.to_str().unwrap().contains(o.as_str())));
    all.sort();
    all
}

/// The tensors of the file, with their shapes.
fn tensors(checkpoint: &Checkpoint) -> BTreeMap<String, Vec<u64>> {
    checkpoint.tensors().iter().map(|t| (t.name().to_owned(), t.shape().dims().to_vec())).collect()
}

fn faults(checkpoint: &Checkpoint, tensors: &BTreeMap<String, Vec<u64>>) -> Vec<Fault> {
    let held: Vec<(&str, &[u64])> = tensors.iter().map(|(name, dims)| (name.as_str(), &dims[..])).collect();
    projector::faults(&|key| checkpoint.metadata().get(key), &held)
}

/// Whether two files have the same tensors in shapes that differ where they may.
fn is_as(a: &BTreeMap<String, Vec<u64>>, b: &BTreeMap<String, Vec<u64>>) -> bool {
    a.len() == b.len()
        && a.iter().all(|(name, dims)| b.get(name).is_some_and(|of| bound(name, dims) == bound(name, of)))
}

/// Whether a fault is about a tensor.
fn is_about(fault: &Fault, tensor: &str) -> bool {
    match fault {
        Fault::Tensor(name) | Fault::Lacking(name) | Fault::Beyond(name) | Fault::Shape(name, _) => name == tensor,
        Fault::Apart(first, second, _) => [first, second].iter().any(|name| *name == tensor),
        _ => false,
    }
}

/// What is wrong with what a folder becomes whose tensors are changed one at a time, and how often it was tried.
fn changed_folders(folder: &Path, changed: &Path) -> (Vec<String>, usize) {
    let weights = Weights::read(folder);
    let (mut wrong, mut times) = (Vec::new(), 0);
    let usual = match Checkpoint::open(folder, &options()) {
        Ok(checkpoint) => (tensors(&checkpoint), faults(&checkpoint, &tensors(&checkpoint))),
        Err(e) => return (vec![e.to_string()], 1),
    };
    let (usual, usual_faults) = usual;
    let more = |checkpoint: &Checkpoint| {
        faults(checkpoint, &tensors(checkpoint)).iter().any(|fault| !usual_faults.contains(fault))
    };
    let number = |name: &str| name.split('.').find_map(|part| part.parse::<u64>().ok());
    let last = weights.header.keys().filter_map(|name| number(name)).max();
    // Layers between the first and the last are as these.
    let stacked = |name: &str| name.contains("layers") || name.contains("blocks");
    let ends = |name: &&String| number(name).is_none_or(|n| n == 0 || Some(n) == last || !stacked(name));
    for (i, name) in weights.header.keys().filter(ends).enumerate() {
        let shape = weights.shape(name);
        // Another dimension for each tensor; the first of every second.
        let axis = if i.is_multiple_of(2) { 0 } else { (i / 2) % shape.len().max(1) };
        let resized: Vec<u64> = shape.iter().enumerate().map(|(at, n)| n + u64::from(at == axis)).collect();
        let resized = (!shape.is_empty()).then_some(Change::Shape(resized));
        for change in [Change::Without].into_iter().chain(resized) {
            weights.write(changed, name, &change);
            times += 1;
            let (said, gone) = (format!("{name}: {change:?}"), matches!(change, Change::Without));
            match Checkpoint::open(changed, &options()) {
                // What is of no use for the towers may be of any shape.
                Ok(checkpoint) if is_as(&tensors(&checkpoint), &usual) => {}
                Ok(checkpoint) if gone && !more(&checkpoint) => {}
                Ok(_) if gone => wrong.push(format!("{said}: a file with faults")),
                Ok(_) => wrong.push(format!("{said}: written")),
                Err(e) if e.kind() == ErrorKind::Input && names(&e.to_string(), name) => {}
                Err(e) => wrong.push(format!("{said}: {e}")),
            }
        }
    }
    (wrong, times)
}

/// Runs over all folders, as many at a time as the machine has cores.
fn walk(judge: impl Fn(&Path) -> (Vec<String>, usize) + Sync) {
    let made = tempfile::tempdir().unwrap();
    let queue = Mutex::new(folders(made.path()));
    let (wrong, looked) = (Mutex::new(Vec::new()), Mutex::new(0));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(folder) = queue.lock().unwrap().pop() else { break };
                    let (found, times) = judge(&folder);
                    let name = folder.file_name().unwrap().display().to_string();
                    wrong.lock().unwrap().extend(found.into_iter().map(|fault| format!("{name}: {fault}")));
                    *looked.lock().unwrap() += times;
                }
            });
        }
    });
    let (wrong, looked) = (wrong.into_inner().unwrap(), looked.into_inner().unwrap());
    assert!(wrong.is_empty(), "{} of {looked}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(looked > 0);
}

#[test]
fn each_tensor_that_is_missing_or_resized_is_named_or_optional() {
    walk(|folder| {
        let temporary = tempfile::tempdir().unwrap();
        let changed = temporary.path().join(folder.file_name().unwrap());
        fixtures::copy(folder, &changed);
        changed_folders(folder, &changed)
    });
}

#[test]
fn every_dimension_of_a_file_is_held_against_others() {
    walk(|folder| {
        let checkpoint = match Checkpoint::open(folder, &options()) {
            Ok(checkpoint) => checkpoint,
            Err(e) => return (vec![e.to_string()], 1),
        };
        let all = tensors(&checkpoint);
        let mut wrong: Vec<String> = faults(&checkpoint, &all)
            .into_iter()
            .filter(|fault| !matches!(fault, Fault::Lacking(_)))
            .map(|fault| format!("as it is: {fault:?}"))
            .collect();
        let mut times = 0;
        for (name, dims) in &all {
            for axis in 0..bound(name, dims).len() {
                let mut changed = all.clone();
                changed.get_mut(name).unwrap()[axis] += 1;
                times += 1;
                if !faults(&checkpoint, &changed).iter().any(|fault| is_about(fault, name)) {
                    wrong.push(format!("{name} of {dims:?}, dimension {axis}"));
                }
            }
        }
        (wrong, times)
    });
}
