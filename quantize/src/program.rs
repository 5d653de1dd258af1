//! The program `quantize`: a checkpoint or a GGUF file becomes smaller ones.

use std::process::ExitCode;

use gguf::cli::{self, Program};

use crate::SimdPath;
use crate::commands::{self, Args};

/// The program.
pub const PROGRAM: Program = Program::of::<Args>();

impl cli::Options for Args {
    fn run(self) -> ExitCode {
        cli::run(|| {
            // What cannot be forced is told before any work, not passed over.
            SimdPath::forced()?;
            commands::run(self)
        })
    }
}
