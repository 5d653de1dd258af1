//! Any bytes in any file that a person may hand over: seeds, what fuzzing found, and small damage to seeds. `eval/fuzz` runs
//! the same bodies for longer.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "common/bodies.rs"]
mod bodies;

use bodies::{BODIES, Body, Place, WORDS};

/// Seeds of a kind, the smaller ones of the fixtures.
fn seeds(body: &Body) -> Vec<Vec<u8>> {
    const LARGEST: u64 = 64 << 10;
    const MOST: usize = 24;
    let mut files = Vec::new();
    for (folder, name) in body.seeds {
        let mut todo: Vec<PathBuf> = vec![fixtures::path(folder)];
        while let Some(at) = todo.pop() {
            for entry in fs::read_dir(at).expect("a folder").flatten() {
                let path = entry.path();
                let fits = name.is_empty() || path.file_name().is_some_and(|n| n == *name);
                match entry.metadata().expect("there") {
                    meta if meta.is_dir() => todo.push(path),
                    meta if fits && meta.len() <= LARGEST => files.push((meta.len(), path)),
                    _ => {}
                }
            }
        }
    }
    files.sort();
    files.dedup_by_key(|(len, _)| *len);
    let step = files.len().div_ceil(MOST).max(1);
    let read = |(_, path): &(u64, PathBuf)| fs::read(path).expect("readable");
    let mut seeds: Vec<Vec<u8>> = files.iter().step_by(step).map(read).collect();
    seeds.extend(WORDS.iter().filter(|(kind, _)| *kind == body.name).map(|(_, text)| text.as_bytes().to_vec()));
    seeds
}

/// Writes the seeds for `eval/fuzz/run.sh` where it asks for them.
#[test]
fn seeds_of_every_kind_are_read() {
    let place = Place::new();
    let corpus = std::env::var_os("FUZZ_SEEDS");
    for body in BODIES {
        for (i, seed) in seeds(body).iter().enumerate() {
            (body.run)(&place, seed);
            if let Some(corpus) = &corpus {
                let folder = Path::new(corpus).join(body.name);
                fs::create_dir_all(&folder).expect("made");
                fs::write(folder.join(format!("seed-{i}")), seed).expect("written");
            }
        }
    }
}

#[test]
fn what_fuzzing_found_is_refused_or_read() {
    let place = Place::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions");
    for entry in fs::read_dir(folder).expect("the regressions").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let body = BODIES.iter().find(|body| name.split('.').next() == Some(body.name));
        let body = body.unwrap_or_else(|| panic!("{name} is of no kind"));
        (body.run)(&place, &fs::read(entry.path()).expect("readable"));
    }
}

#[test]
fn damaged_seeds_are_refused_or_read() {
    const ROUNDS: usize = 12;
    let place = Place::new();
    let mut state = 1_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    for body in BODIES {
        for seed in seeds(body).iter().filter(|seed| !seed.is_empty()).take(3) {
            for _ in 0..ROUNDS {
                let mut bytes = seed.clone();
                match random(4) {
                    0 => bytes.truncate(random(bytes.len())),
                    1 => {
                        let at = random(bytes.len());
                        bytes[at] ^= 1 << random(8);
                    }
                    2 => {
                        let (at, len) = (random(bytes.len()), random(40));
                        bytes.drain(at..bytes.len().min(at + len));
                    }
                    _ => {
                        let at = random(bytes.len());
                        for byte in bytes.iter_mut().skip(at).take(8) {
                            *byte = 0xFF;
                        }
                    }
                }
                (body.run)(&place, &bytes);
            }
        }
    }
}
