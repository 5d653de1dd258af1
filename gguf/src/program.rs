//! The program `gguf`: look at, judge and edit GGUF files.

use std::process::ExitCode;

use clap::Parser;

use crate::commands;
use gguf::cli::{self, Common, Exit, Program};

/// The program.
pub const PROGRAM: Program = Program::of::<Options>();

/// Look at, judge and edit GGUF files
///
/// Exit codes: 0 done, 1 the check or comparison said no, 2 wrong usage, 3 bad input, 4 the system failed.
#[derive(Parser)]
#[command(
    name = "gguf",
    version,
    propagate_version = true,
    after_help = "\
Examples:
  gguf show model.gguf                 what is in a file
  gguf check --data model.gguf         judge it by every rule
  gguf set model.gguf general.name \"My model\""
)]
struct Options {
    #[command(flatten)]
    common: Common,

    #[command(subcommand)]
    command: commands::Command,
}

impl cli::Options for Options {
    fn run(self) -> ExitCode {
        cli::run(|| -> gguf::Result<Exit> { self.command.run(&self.common) })
    }
}
