//! Opening a file of 100,000 tensors and 256,000 tokens: `cargo bench -p downcast-gguf --bench open`.
//!
//! With `GGUF_BENCH_FILE=path` the file stays there, so that another reader can be timed on it:
//! `python gguf/benches/open_gguf_py.py path`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use gguf::check::{self, Options, Profile};
use gguf::{Array, File, Metadata, Shape, Source, TensorInfo, TensorType, write};

const TENSORS: usize = 100_000;
const TOKENS: usize = 256_000;
const RUNS: usize = 15;

fn main() {
    let kept = std::env::var_os("GGUF_BENCH_FILE").map(PathBuf::from);
    let folder = tempfile::tempdir().expect("a folder");
    let path = kept.unwrap_or_else(|| folder.path().join("large.gguf"));
    let mut metadata = Metadata::from_iter([("general.architecture", "llama")]);
    metadata.set("tokenizer.ggml.tokens", Array::strings((0..TOKENS).map(|i| format!("token{i}"))));
    metadata.set("tokenizer.ggml.scores", Array::from(&vec![0_f32; TOKENS][..]));
    metadata.set("tokenizer.ggml.token_type", Array::from(&vec![1_i32; TOKENS][..]));
    let tensors: Vec<TensorInfo> = (0..TENSORS)
        .map(|i| {
            let shape = Shape::new(&[8]).expect("small");
            TensorInfo::new(format!("blk.{i}.attn_norm.weight"), shape, TensorType::F32).expect("plain")
        })
        .collect();
    let bytes = write::to_bytes(&metadata, &tensors, |_| Ok(vec![0; 32])).expect("a good plan");
    std::fs::write(&path, bytes).expect("written");

    report("open", || {
        let file = File::open(&path).expect("readable");
        assert_eq!(file.tensors().len(), TENSORS);
    });
    report("open and walk over all tokens", || {
        let file = File::open(&path).expect("readable");
        let tokens = file.metadata().array("tokenizer.ggml.tokens").and_then(Array::iter_bytes).expect("strings");
        assert_eq!(tokens.map(<[u8]>::len).filter(|&n| n > 5).count(), TOKENS);
    });
    report("check --profile format", || {
        let report = check::check(&path, &Options { profile: Profile::Format, ..Options::default() });
        assert!(report.expect("readable").passed());
    });
}

/// The best and the median of some runs.
fn report(what: &str, mut work: impl FnMut()) {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let begun = Instant::now();
            work();
            begun.elapsed()
        })
        .collect();
    times.sort();
    println!("{what:32} best {:8.3?}  median {:8.3?}", times[0], times[RUNS / 2]);
}
