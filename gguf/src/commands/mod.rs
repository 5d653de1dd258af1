//! The subcommands: one file each.

mod check;
mod diff;
mod dump;
mod edit;
mod hash;
mod layout;
mod memory;
mod modelfile;
mod sarif;
mod show;
mod split;
mod values;

use std::path::{Path, PathBuf};

use gguf::cli::{Common, Exit, Files, Output};
use gguf::write::{Layout, MAX_ALIGNMENT};
use gguf::{Endian, Error, Result};

#[derive(clap::Subcommand)]
pub enum Command {
    Show(show::Show),
    Check(check::Check),
    Explain(check::Explain),
    Diff(diff::Diff),
    Hash(hash::Hash),
    Set(edit::Set),
    Rename(edit::Rename),
    Remove(edit::Remove),
    Recover(edit::Recover),
    Copy(edit::Copy),
    Split(split::Split),
    Merge(split::Merge),
    Dump(dump::Dump),
    Modelfile(modelfile::Modelfile),
}

impl Command {
    pub fn run(self, common: &Common) -> Result<Exit> {
        match self {
            Command::Show(command) => command.run(common),
            Command::Check(command) => command.run(common),
            Command::Explain(command) => command.run(common),
            Command::Diff(command) => command.run(common),
            Command::Hash(command) => command.run(common),
            Command::Set(command) => command.run(common),
            Command::Rename(command) => command.run(common),
            Command::Remove(command) => command.run(common),
            Command::Recover(command) => command.run(common),
            Command::Copy(command) => command.run(common),
            Command::Split(command) => command.run(common),
            Command::Merge(command) => command.run(common),
            Command::Dump(command) => command.run(common),
            Command::Modelfile(command) => command.run(common),
        }
    }
}

/// What files are laid out that other programs could not read, or that would fill a disk.
#[derive(Clone, Copy, clap::Args)]
struct Unusual {
    /// Write a general.alignment above 64 KiB, with padding of that size
    #[arg(long)]
    allow_large_alignment: bool,
}

impl Unusual {
    fn layout(self, endian: Endian) -> Layout {
        let most = if self.allow_large_alignment { u64::MAX } else { MAX_ALIGNMENT };
        Layout { endian, max_alignment: most }
    }
}

/// Prints the document of a command: what all documents have, then these fields. `whole`: the command has read the whole
/// files, so that their digests cost little.
fn print_document(
    common: &Common,
    command: &str,
    whole: bool,
    inputs: &[PathBuf],
    outputs: &[PathBuf],
    fields: serde_json::Value,
) -> Result<()> {
    let files = Files::new(common, whole, inputs, outputs)?;
    common.print_document(&format!("gguf-{command}-1"), env!("CARGO_PKG_VERSION"), &files, fields)
}

/// A text file of at most so many bytes.
fn read_text(path: &Path, most: u64) -> Result<String> {
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let mut text = String::new();
    let read = std::io::Read::read_to_string(&mut std::io::Read::take(file, most + 1), &mut text);
    read.map_err(|e| Error::io(path, "read", e))?;
    if text.len() as u64 > most {
        return Err(Error::input(format!("is larger than {most} bytes, the most that a value is read from")).at(path));
    }
    Ok(text)
}

/// Checks what was written before it gets its name.
fn verify(output: &Output, no_verify: bool) -> Result<()> {
    if no_verify { Ok(()) } else { gguf::check::verify_file(output.temporary(), false) }
}
