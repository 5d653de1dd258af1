//! The shards of a split model.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::finding::{Options, Place, Sink};
use super::scan::Scan;
use crate::error::Result;
use crate::keys;
use crate::quote::shortened;
use crate::split::{COUNT, NO, TENSORS_COUNT, parse, path as shard_path};
use crate::value::Value;

rules! { Splits;
    SPLIT_KEY_TYPE = "split-key-type" Error "llama.cpp"
        "split.no and split.count are u16, split.tensors.count is i32"
        => "`gguf split` writes them anew; or `gguf set FILE KEY VALUE`, which knows their types";
    SPLIT_KEY_MISSING = "split-key-missing" Error "llama.cpp"
        "a file with split.count above 1 has split.no and split.tensors.count"
        => "`gguf set FILE split.no N`, `gguf set FILE split.tensors.count N`";
    SPLIT_FIRST_SHARD = "split-first-shard" Error "llama.cpp"
        "a split model is opened through its first shard"
        => "name the file that ends in -00001-of-0000N.gguf";
    SPLIT_NUMBER = "split-number" Error "llama.cpp"
        "split.no is below split.count and is the shard's position"
        => "a shard was renamed or mixed up; fetch the set again";
    SPLIT_FILENAME = "split-filename" Error "llama.cpp"
        "a shard is called PREFIX-00001-of-0000N.gguf, counted from 1"
        => "rename the file";
    SPLIT_FILE_MISSING = "split-file-missing" Error "llama.cpp"
        "every shard of a model lies beside the first"
        => "fetch the shard that is missing";
    SPLIT_COUNT_MISMATCH = "split-count-mismatch" Error "llama.cpp"
        "all shards agree how many they are"
        => "the shards belong to different models; fetch the set again";
    SPLIT_TENSOR_COUNT = "split-tensor-count" Error "llama.cpp"
        "the shards together hold as many tensors as split.tensors.count says"
        => "the shards belong to different models; fetch the set again";
    SPLIT_TENSOR_DUPLICATE = "split-tensor-duplicate" Error "llama.cpp"
        "no two shards hold a tensor of the same name"
        => "the shards belong to different models; fetch the set again";
}

/// A file that was looked at.
pub(super) struct Shard {
    pub(super) path: PathBuf,
    pub(super) scan: Scan,
}

/// Judges the keys of splits in the first shard, opens the others and judges them too.
pub(super) fn check(
    first: Scan,
    path: &Path,
    options: &Options,
    sink: &mut Sink<'_>,
    read: impl Fn(&Path, &mut Sink<'_>) -> Result<Scan>,
) -> Vec<Shard> {
    let mut shards = vec![Shard { path: path.to_path_buf(), scan: first }];
    let scan = &shards[0].scan;
    key_types(scan, sink);
    let Some(count) = scan.get(COUNT).and_then(Value::as_u64).filter(|&n| n > 1) else { return shards };
    for key in [NO, TENSORS_COUNT] {
        if scan.get(key).is_none() {
            sink.add(&SPLIT_KEY_MISSING, Place::absent_key(key), format_args!("{COUNT} is {count}, {key} is missing"));
        }
    }
    let no = scan.get(NO).and_then(Value::as_u64);
    let place = |key: &'static str| scan.at(key).map_or(Place::absent_key(key), |at| Place::key(at, key));
    if let Some(no) = no.filter(|&no| no >= count) {
        sink.add(&SPLIT_NUMBER, place(NO), format_args!("{NO} is {no} of {count}, counted from 0"));
    } else if let Some(no) = no.filter(|&no| no != 0) {
        sink.add(&SPLIT_FIRST_SHARD, place(NO), format_args!("this is shard {no} of {count}, counted from 0"));
    }
    let named = parse(path);
    let right = named.as_ref().is_some_and(|&(_, n, c)| Some(n as u64) == no && c as u64 == count);
    if !right {
        let no = no.map_or("nothing".to_owned(), |no| no.to_string());
        let message = format_args!("{NO} is {no} of {count}, counted from 0; the name does not say so");
        sink.add(&SPLIT_FILENAME, Place::default(), message);
        return shards;
    }
    let (Some((prefix, ..)), Some(0)) = (named, no) else { return shards };
    if options.at != 0 {
        return shards;
    }
    for i in 1..count as usize {
        let path = shard_path(&prefix, i, count as usize);
        if !path.is_file() {
            let message = format_args!("shard {} of {count}, {}, is missing", i + 1, crate::quote::path(&path));
            sink.add(&SPLIT_FILE_MISSING, Place::default(), message);
            continue;
        }
        sink.enter(&path);
        match read(&path, sink) {
            Err(error) => sink.add(&SPLIT_FILE_MISSING, Place::default(), format_args!("{error}")),
            Ok(scan) => {
                shard(&scan, i as u64, count, sink);
                shards.push(Shard { path, scan });
            }
        }
    }
    sink.enter(path);
    together(&shards, count, sink);
    shards
}

fn key_types(scan: &Scan, sink: &mut Sink<'_>) {
    for key in [NO, COUNT, TENSORS_COUNT] {
        let found = scan.get(key).zip(scan.at(key)).zip(keys::kind(key));
        if let Some(((value, at), kind)) = found.filter(|((value, _), kind)| !kind.fits(value)) {
            sink.add(
                &SPLIT_KEY_TYPE,
                Place::key(at, key),
                format_args!("{key} is a {}, not a {kind}", value.value_type()),
            );
        }
    }
}

/// A shard beyond the first.
fn shard(scan: &Scan, i: u64, count: u64, sink: &mut Sink<'_>) {
    key_types(scan, sink);
    let place = |key: &'static str| scan.at(key).map_or(Place::absent_key(key), |at| Place::key(at, key));
    match scan.get(NO).and_then(Value::as_u64) {
        None => sink.add(&SPLIT_KEY_MISSING, place(NO), format_args!("{NO} is missing")),
        Some(no) if no != i => {
            sink.add(&SPLIT_NUMBER, place(NO), format_args!("{NO} is {no}, the file is shard {i}, counted from 0"));
        }
        Some(_) => {}
    }
    if let Some(n) = scan.get(COUNT).and_then(Value::as_u64).filter(|&n| n != count) {
        sink.add(&SPLIT_COUNT_MISMATCH, place(COUNT), format_args!("{COUNT} is {n}, {count} in the first shard"));
    }
}

fn together(shards: &[Shard], count: u64, sink: &mut Sink<'_>) {
    let complete = shards.len() as u64 == count && shards.iter().all(|s| s.scan.infos_end.is_some());
    let sum: usize = shards.iter().map(|s| s.scan.tensors.len()).sum();
    let first = &shards[0].scan;
    let said = first.get(TENSORS_COUNT).and_then(Value::as_u64);
    if let Some(said) = said.filter(|&n| complete && n != sum as u64) {
        let place =
            first.at(TENSORS_COUNT).map_or(Place::absent_key(TENSORS_COUNT), |at| Place::key(at, TENSORS_COUNT));
        sink.add(&SPLIT_TENSOR_COUNT, place, format_args!("{TENSORS_COUNT} is {said}, the shards hold {sum}"));
    }
    let mut owners: HashMap<&str, usize> = HashMap::with_capacity(sum);
    for (i, shard) in shards.iter().enumerate() {
        for tensor in &shard.scan.tensors {
            // Twice in one file is another rule's business.
            if let Some(other) = owners.insert(&tensor.name, i).filter(|&other| other != i) {
                sink.enter(&shard.path);
                let name = shortened(&tensor.name);
                let message = format_args!("shards {} and {} both hold the tensor {name}", other + 1, i + 1);
                sink.add(&SPLIT_TENSOR_DUPLICATE, Place::tensor(tensor.at, &tensor.name), message);
            }
        }
    }
}
