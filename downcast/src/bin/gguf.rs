//! The program `gguf`.

use std::process::ExitCode;

fn main() -> ExitCode {
    gguf::program::PROGRAM.main()
}
