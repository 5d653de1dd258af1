//! The program `evaluate`: run a model, measure it, compare precisions.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use gguf::cli::{self, Common, Program};
use quantize::SimdPath;

use crate::commands;

/// The program.
pub const PROGRAM: Program = Program::of::<Cli>();

/// Run a model and measure what its precision cost: a GGUF file or a checkpoint folder, one layer in memory at a time
#[derive(Debug, Parser)]
#[command(
    name = "evaluate",
    version,
    after_help = "Examples:
  evaluate perplexity Tiny-Llama-4.2M-Q4_K_M.gguf --text sample.txt
  evaluate compare tiny-llama --text sample.txt --html report.html
  evaluate choices tiny-llama --types q4_k_m --file winogrande.csv --format winogrande
  evaluate tensors tiny-llama --types q4_k_m,nf4
  evaluate devices
  evaluate imatrix tiny-llama --text calibration.txt
  evaluate generate tiny-llama --prompt 'The old man'
  evaluate tokenize tiny-llama --text sample.txt
  evaluate embed bge-small-en-v1.5 --text questions.txt
  evaluate logits tiny-llama --tokens 1,15,72 -o logits.f32
  evaluate features mmproj-llava-F16.gguf --pixels image.f32 --shape 3,336,336

Exit codes: 0 done, 1 the gate said no, 2 wrong usage, 3 bad input, 4 the system failed."
)]
struct Cli {
    #[command(flatten)]
    common: Common,

    /// At most so many threads [default: one for each processor]
    #[arg(long, global = true, value_name = "N", value_parser = gguf::cli::parse_count)]
    threads: Option<usize>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Perplexity(commands::perplexity::Args),
    Compare(Box<commands::comparison::Args>),
    Choices(Box<commands::choices::Args>),
    Tensors(commands::tensors::Args),
    Devices(commands::devices::Args),
    Imatrix(commands::imatrix::Args),
    Gather(Box<commands::gather::Args>),
    Generate(commands::generate::Args),
    Tokenize(commands::tokenize::Args),
    Logits(commands::logits::Args),
    Embed(commands::embed::Args),
    Optimize(Box<commands::optimize::Args>),
    Features(commands::features::Args),
}

impl cli::Options for Cli {
    fn run(self) -> ExitCode {
        let Cli { common, threads, command } = self;
        keep_freed_memory();
        cli::run(|| {
            // What cannot be forced is told before any work, not passed over.
            SimdPath::forced()?;
            crate::matmul::forced_kernel()?;
            if let Some(threads) = threads {
                let built = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
                built.map_err(|e| gguf::Error::usage("cannot start the threads").caused_by(e))?;
            }
            match &command {
                Command::Perplexity(args) => commands::perplexity::run(args, &common),
                Command::Compare(args) => commands::compare::run(args, &common),
                Command::Choices(args) => commands::choices::run(args, &common),
                Command::Tensors(args) => commands::tensors::run(args, &common),
                Command::Devices(args) => commands::devices::run(args, &common),
                Command::Imatrix(args) => commands::imatrix::run(args, &common),
                Command::Gather(args) => commands::gather::run(args, &common),
                Command::Generate(args) => commands::generate::run(args, &common),
                Command::Tokenize(args) => commands::tokenize::run(args, &common),
                Command::Logits(args) => commands::logits::run(args, &common),
                Command::Embed(args) => commands::embed::run(args, &common),
                Command::Optimize(args) => commands::optimize::run(args, &common),
                Command::Features(args) => commands::features::run(args, &common),
            }
        })
    }
}

/// Keeps large buffers that were freed for the next of their size: every layer makes the same ones again, and pages
/// fresh from the system cost up to a tenth of the run.
fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the calls only set limits of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
    }
}
