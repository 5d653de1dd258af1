//! What the four programs share: exit codes, atomic output, progress, tables.

mod document;
mod pages;
mod program;
mod progress;
mod sarif;
mod shards;

pub use crate::atomic::{NO_INPUTS, Output, OutputFolder, OutputPlace, commit_all, names_folder, uninterrupted};
pub use crate::text::{Align, Table, bytes, count, stderr_is_terminal, stdout_is_terminal};
pub use document::{Digests, FileDigest, Files, call_options, digest_files, document};
pub use program::{Options, Program, again};
pub use progress::{Progress, ProgressMode};
pub use sarif::sarif;
pub use shards::SplitArgs;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::{atomic, quote};

/// How a program ended that did what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done: exit code 0.
    Done,
    /// The check or gate said no: exit code 1.
    No,
}

/// Options that every program has.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Common {
    /// Print the result as one JSON document on standard output
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,

    /// Progress on standard error: a bar on a terminal (auto), JSON lines on standard output, or none
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORM", help_heading = "Output")]
    pub progress: ProgressMode,

    /// Which files the JSON document gives the SHA-256 of: those of commands that read them whole (auto), all, or none
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHICH", help_heading = "Output")]
    pub digests: Digests,

    /// Say nothing on standard error but errors
    #[arg(long, short, global = true, help_heading = "Output")]
    pub quiet: bool,
}

/// Where the one output of a command goes.
#[derive(Clone, Debug, clap::Args)]
pub struct OutputArg {
    /// The old spelling of -o
    #[arg(hide = true, value_name = "OUTPUT")]
    second: Option<PathBuf>,

    /// The file to write
    #[arg(short, long, value_name = "PATH", required_unless_present = "second", conflicts_with = "second")]
    output: Option<PathBuf>,
}

impl OutputArg {
    /// The path that was given.
    pub fn path(&self) -> &Path {
        self.output.as_deref().or(self.second.as_deref()).unwrap_or_else(|| Path::new(""))
    }
}

/// Runs a program's work and turns its end into an exit code. `main` is one call of this.
pub fn run(work: impl FnOnce() -> Result<Exit>) -> ExitCode {
    // Where a handler is in place already there is nothing to add.
    let _ = ctrlc::set_handler(|| {
        atomic::abandon(130);
    });
    crate::fault::install();
    // Nobody is told numbers of bytes that were not there without a word.
    match work().and_then(|exit| crate::map::unchanged().map(|()| exit)) {
        Ok(Exit::Done) => ExitCode::SUCCESS,
        Ok(Exit::No) => ExitCode::from(1),
        Err(error) => {
            report(&error);
            ExitCode::from(exit_code(error.kind()))
        }
    }
}

/// The exit code for an error of this kind.
pub fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Usage => 2,
        ErrorKind::Input => 3,
        ErrorKind::System => 4,
        ErrorKind::Interrupted => 130,
    }
}

/// An error of copying, with the file that is at fault: what could not be written is the output's, anything else the
/// input's.
#[must_use]
pub fn at_fault(error: Error, input: &Path, output: &Path) -> Error {
    let path = if error.kind() == ErrorKind::System { output } else { input };
    error.at(path)
}

fn report(error: &Error) {
    let mut err = io::stderr().lock();
    let colour = stderr_is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (red, bold, plain) = if colour { ("\x1b[31;1m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
    // Standard error may be closed; then nobody is left to tell.
    let _ = writeln!(err, "{red}error:{plain} {}", program::as_called(&error.to_string()));
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let _ = writeln!(err, "  {bold}because:{plain} {}", quote::text(&inner.to_string()));
        cause = inner.source();
    }
    if let Some(help) = error.way_out() {
        let _ = writeln!(err, "  {bold}help:{plain} {}", quote::text(&program::as_called(help)));
    }
}

/// Whether the reader of standard output has gone.
static READER_GONE: AtomicBool = AtomicBool::new(false);

/// Writes to standard output. A reader that closes the pipe early (`gguf show f | head`) is no fault and changes no
/// verdict: what nobody reads is dropped, the work goes on to its end.
///
/// # Errors
/// What writing meets.
pub fn print(text: &str) -> Result<()> {
    if reader_is_gone() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => READER_GONE.store(true, Ordering::Relaxed),
        Err(e) => return Err(Error::new(ErrorKind::System, "cannot write to standard output").caused_by(e)),
        Ok(()) => {}
    }
    Ok(())
}

/// Writes a line to standard error: a note or a warning. Where nobody reads it, nothing is lost.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", program::as_called(line));
}

/// Whether somebody closed the other end of standard output: work that only prints may stop then.
pub fn reader_is_gone() -> bool {
    READER_GONE.load(Ordering::Relaxed)
}

/// Writes a JSON document and a line end to standard output.
///
/// # Errors
/// What writing meets.
pub fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}

/// Parses a size such as `64MiB`, `2G` (binary as well) or `4096`, for clap's `value_parser`. No memory and no file is
/// bounded by nothing, so there is no size of 0.
///
/// # Errors
/// Text that is no number with one of the suffixes K, M, G, T (optionally followed by `B` or `iB`), or less than a byte.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    match parse_bytes_or_none(text)? {
        0 => Err(format!("\"{text}\" is nothing; a size such as 512M or 2G is needed")),
        bytes => Ok(bytes),
    }
}

/// The same where 0 has a sense.
///
/// # Errors
/// Those of [`parse_bytes`] but for 0.
pub fn parse_bytes_or_none(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().trim_end_matches("iB").trim_end_matches(['B', 'b']).to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(format!("\"{unit}\" is no unit of size; K, M, G and T are")),
    };
    let number: f64 = number.parse().map_err(|_| format!("\"{text}\" is no size such as 512M or 2G"))?;
    let bytes = number * (1_u64 << shift) as f64;
    if bytes.is_finite() && bytes < u64::MAX as f64 {
        Ok(bytes as u64)
    } else {
        Err(format!("\"{text}\" is too large"))
    }
}

/// Parses a count that is at least 1, for clap's `value_parser`: nothing can be measured over nothing.
///
/// # Errors
/// Text that is no whole number, and 0.
pub fn parse_count(text: &str) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(0) => Err("it is at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err(format!("\"{text}\" is no whole number")),
    }
}

/// Refuses a type that is asked for twice, given the names of all.
///
/// # Errors
/// The first name that stands twice.
pub fn each_type_once(names: impl IntoIterator<Item = impl ToString>) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    match names.into_iter().map(|name| name.to_string()).find(|name| !seen.insert(name.clone())) {
        None => Ok(()),
        Some(twice) => Err(Error::usage(format!("--type asks twice for the same, {twice}"))
            .help("give each type once; Q3_K, Q4_K and Q5_K are the M of their kind")),
    }
}

/// Parses a number that may have a fraction, for clap's `value_parser`.
///
/// # Errors
/// Text that is no number, NaN and infinity: no comparison with them means anything.
pub fn parse_number(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(_) => Err(format!("\"{text}\" is not finite")),
        Err(_) => Err(format!("\"{text}\" is no number")),
    }
}

/// Parses the most or least that a measure may be, for clap's `value_parser`: a number that is not negative.
///
/// # Errors
/// Those of [`parse_number`], and numbers below 0.
pub fn parse_limit(text: &str) -> Result<f64, String> {
    match parse_number(text)? {
        limit if limit < 0.0 => Err(format!("\"{text}\" is below 0, which no measure is")),
        limit => Ok(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_binary_suffixes() {
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("2G"), Ok(2 << 30));
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("1.5k"), Ok(1536));
        assert!(parse_bytes("12 parsecs").is_err());
        assert!(parse_bytes("").is_err());
        for nothing in ["0", "0G", "0.0001", "NaN", "inf", "-1", "1e999", "99999999999T"] {
            assert!(parse_bytes(nothing).is_err(), "{nothing}");
        }
        assert_eq!(parse_bytes_or_none("0"), Ok(0));
    }

    #[test]
    fn a_count_is_at_least_one() {
        assert_eq!(parse_count("7"), Ok(7));
        for not in ["0", "-1", "1.5", "", "many"] {
            assert!(parse_count(not).is_err(), "{not}");
        }
    }

    #[test]
    fn a_limit_is_finite_and_not_negative() {
        assert_eq!(parse_limit("0.005"), Ok(0.005));
        assert_eq!(parse_limit("1e-3"), Ok(0.001));
        assert_eq!(parse_number("-0.5"), Ok(-0.5));
        for not in ["NaN", "-nan", "inf", "infinity", "-inf", "1e999", "-0.5", "", "few"] {
            assert!(parse_limit(not).is_err(), "{not}");
        }
    }
}
