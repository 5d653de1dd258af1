//! `quantize`: a checkpoint or a GGUF file becomes smaller ones.

use std::process::ExitCode;

use clap::Parser;
use quantize::SimdPath;

mod commands;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    gguf::cli::run(|| {
        // What cannot be forced is told before any work, not passed over.
        SimdPath::forced()?;
        match commands::folder::requested(&args) {
            Some(folder) => commands::folder::run(&folder),
            None => commands::run(commands::Args::parse()),
        }
    })
}
