//! `quantize`: a checkpoint or a GGUF file becomes smaller ones.

use std::process::ExitCode;

use quantize::SimdPath;

mod commands;

fn main() -> ExitCode {
    let args = gguf::cli::parse::<commands::Args>();
    gguf::cli::run(|| {
        // What cannot be forced is told before any work, not passed over.
        SimdPath::forced()?;
        commands::run(args)
    })
}
