//! Encodes a text file with the tokenizer of a GGUF and prints the ids, or checks pairs of texts and ids.
//!
//!     tokenize MODEL.gguf TEXT            ids, one line, without tokens around the text
//!     tokenize MODEL.gguf PAIRS.inp PAIRS.out
//!                                         texts between lines `__ggml_vocab_test__`, and a line of ids for each

use std::time::Instant;

use convert::tokenizer::Tokenizer;
use gguf::{Error, Result, Source};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, text, pairs @ ..] = args.as_slice() else {
        return Err(Error::usage("tokenize MODEL.gguf TEXT, or MODEL.gguf PAIRS.inp PAIRS.out"));
    };
    let read = |path: &str| std::fs::read_to_string(path).map_err(|e| Error::io(path, "read the text", e));
    let start = Instant::now();
    let file = gguf::File::open(model)?;
    let tokenizer = Tokenizer::from_metadata(file.metadata())?;
    eprintln!("loaded in {:.2?}", start.elapsed());
    let text = read(text)?;
    let Some(pairs) = pairs.first() else {
        let start = Instant::now();
        let ids = tokenizer.encode(&text, false, false)?;
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("{} tokens, {:.1} MB/s", ids.len(), text.len() as f64 / 1e6 / seconds);
        println!("{}", ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
        return Ok(());
    };
    let expected = read(pairs)?;
    let (mut good, mut bad) = (0, 0);
    for (text, line) in text.split("\n__ggml_vocab_test__\n").zip(expected.lines()) {
        let expected: Vec<u32> = line.split_whitespace().filter_map(|id| id.parse().ok()).collect();
        let ids = tokenizer.encode(text, false, false)?;
        if ids == expected {
            good += 1;
        } else {
            bad += 1;
            println!("{text:?}\n  expected {expected:?}\n  encoded  {ids:?}");
        }
    }
    println!("{good} equal, {bad} different");
    Ok(())
}
