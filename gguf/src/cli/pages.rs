//! What a shell and a reader of manuals need of a program: completions and man pages, from its own options.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, Command, value_parser};
use clap_complete::Shell;

use super::{exit_code, print, report};
use crate::error::{Error, Result};

const COMPLETIONS: &str = "completions";
const MAN: &str = "man";

/// The program with the options that print these.
pub(super) fn with_options(command: Command) -> Command {
    let option = |name: &'static str| Arg::new(name).long(name).exclusive(true).help_heading("Installation");
    command
        .arg(
            option(COMPLETIONS)
                .value_name("SHELL")
                .value_parser(value_parser!(Shell))
                .help("Print completions for bash, elvish, fish, powershell or zsh, and nothing else"),
        )
        .arg(
            option(MAN)
                .value_name("FOLDER")
                .value_parser(value_parser!(PathBuf))
                .help("Write the man pages into a folder, and do nothing else"),
        )
}

/// Prints what is asked for and ends the program, where these are what is asked for.
pub(super) fn answer(command: &mut Command, words: &[OsString]) {
    let [_, first, rest @ ..] = words else { return };
    let Some(first) = first.to_str() else { return };
    let (name, value) = match first.split_once('=') {
        Some((name, value)) => (name, Some(OsString::from(value))),
        None => (first, rest.first().cloned()),
    };
    let Some(value) = value else { return };
    let done = match name.strip_prefix("--") {
        // Any other word is left to the parser, which names those that are known.
        Some(COMPLETIONS) => match value.to_str().and_then(|v| v.parse::<Shell>().ok()) {
            Some(shell) => completions(command, shell),
            None => return,
        },
        Some(MAN) => man(command, &PathBuf::from(value)),
        _ => return,
    };
    match done {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            report(&error);
            std::process::exit(exit_code(error.kind()).into())
        }
    }
}

fn completions(command: &mut Command, shell: Shell) -> Result<()> {
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, command, name, &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// Writes `NAME.1`, and a page for each subcommand.
fn man(command: &Command, folder: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create the folder", e))?;
    clap_mangen::generate_to(command.clone(), folder).map_err(|e| Error::io(folder, "write the pages into", e))
}
