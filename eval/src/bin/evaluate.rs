//! The program `evaluate`.

use std::process::ExitCode;

fn main() -> ExitCode {
    eval::program::PROGRAM.main()
}
