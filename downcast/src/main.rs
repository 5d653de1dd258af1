//! The program `downcast`: the four programs as its subcommands.

use std::process::ExitCode;

use gguf::cli::Program;

const PROGRAMS: [Program; 4] =
    [convert::program::PROGRAM, quantize::program::PROGRAM, eval::program::PROGRAM, gguf::program::PROGRAM];

const EXAMPLES: &str = "\
Examples:
  downcast quantize --type q4_k_m tiny-llama     a checkpoint folder; writes Tiny-Llama-4.2M-Q4_K_M.gguf
  downcast evaluate perplexity Tiny-Llama-4.2M-Q4_K_M.gguf --text sample.txt
  downcast gguf show Tiny-Llama-4.2M-Q4_K_M.gguf

Called by a link named after one of them, it is that program.

Exit codes: 0 done, 1 the check, comparison or gate said no, 2 wrong usage, 3 bad input, 4 the system failed.";

fn main() -> ExitCode {
    let command = clap::Command::new("downcast")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Convert, quantize and measure language models")
        .after_help(EXAMPLES);
    Program::main_of(&PROGRAMS, command)
}
