//! `quantize`: a checkpoint or a GGUF file becomes smaller ones.

use std::process::ExitCode;

use clap::Parser;

mod commands;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    gguf::cli::run(|| match commands::folder::requested(&args) {
        Some(folder) => commands::folder::run(&folder),
        None => commands::run(commands::Args::parse()),
    })
}
