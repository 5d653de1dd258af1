//! The program `quantize`.

use std::process::ExitCode;

fn main() -> ExitCode {
    quantize::program::PROGRAM.main()
}
