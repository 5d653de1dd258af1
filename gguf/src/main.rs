//! `gguf`: look at, judge and edit GGUF files.

use std::process::ExitCode;

fn main() -> ExitCode {
    gguf::cli::run(|| Ok(gguf::cli::Exit::Done))
}
