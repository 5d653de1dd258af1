//! Prints the pre-tokenizer that is found for each folder with a `tokenizer.json`.
//!
//!     pretokenizer DIR...

use std::path::Path;

use convert::tokenizer::{Request, VocabKind, metadata};
use gguf::Result;

fn main() -> Result<()> {
    for dir in std::env::args().skip(1) {
        // Larger than any vocabulary: only the pre-tokenizer is asked for.
        let config = serde_json::json!({"vocab_size": 1 << 19});
        match metadata(Path::new(&dir), &config, VocabKind::Gpt2, &Request::default()) {
            Ok(metadata) => println!("{dir}: {}", metadata.str("tokenizer.ggml.pre").unwrap_or("none")),
            Err(e) => println!("{dir}: {e}"),
        }
    }
    Ok(())
}
