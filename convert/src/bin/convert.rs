//! The program `convert`.

use std::process::ExitCode;

fn main() -> ExitCode {
    convert::program::PROGRAM.main()
}
