//! `quantize`: a checkpoint or a GGUF file becomes smaller ones.

use std::process::ExitCode;

use clap::Parser;

mod commands;

fn main() -> ExitCode {
    gguf::cli::run(|| commands::run(commands::Args::parse()))
}
