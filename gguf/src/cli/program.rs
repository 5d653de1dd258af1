//! A program as a value: one binary is one of them, `downcast` is all of them as subcommands.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::builder::StyledStr;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};

use super::{document, pages};
use crate::error::{Error, Result};

/// The options of a program, and what it does with them.
pub trait Options: CommandFactory + FromArgMatches {
    /// Does the program's work.
    fn run(self) -> ExitCode;
}

/// A program.
#[derive(Clone, Copy)]
pub struct Program {
    command: fn() -> Command,
    run: fn(&mut Command, &ArgMatches) -> ExitCode,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Program").field(&(self.command)().get_name()).finish()
    }
}

impl Program {
    /// The program with these options.
    pub const fn of<T: Options>() -> Program {
        Program {
            command: T::command,
            run: |command, matches| match T::from_arg_matches(matches) {
                Ok(options) => options.run(),
                Err(error) => error.format(command).exit(),
            },
        }
    }

    /// Runs the program on the words of the command line.
    pub fn main(self) -> ExitCode {
        let (mut command, matches) = matches((self.command)());
        document::keep_call(&command, &matches);
        (self.run)(&mut command, &matches)
    }

    /// Runs one of several programs, which is named first on the command line, or by the name that the binary is called
    /// by: a link named `quantize` is that program.
    pub fn main_of(all: &[Program], command: Command) -> ExitCode {
        let _ = SEVERAL.set(());
        let called = std::env::args_os().next().unwrap_or_default();
        let called = Path::new(&called).file_stem().unwrap_or_default();
        if let Some(program) = all.iter().find(|p| called == (p.command)().get_name()) {
            return program.main();
        }
        let programs: Vec<Command> = all.iter().map(|program| (program.command)()).collect();
        let group = Group {
            name: command.get_name().to_owned(),
            programs: programs.iter().map(|p| p.get_name().to_owned()).collect(),
        };
        let programs = programs.into_iter().map(|program| group.within(program));
        let (mut command, matches) = matches(
            command.subcommands(programs).max_term_width(120).subcommand_required(true).arg_required_else_help(true),
        );
        let _ = GROUP.set(group);
        let found = matches.subcommand().and_then(|(name, matches)| {
            let program = all.iter().find(|p| (p.command)().get_name() == name)?;
            Some((program, command.find_subcommand_mut(name)?, matches))
        });
        // The parser lets nothing else through.
        let Some((program, command, matches)) = found else { return ExitCode::from(2) };
        document::keep_call(command, matches);
        (program.run)(command, matches)
    }
}

/// The binary holds several programs.
static SEVERAL: OnceLock<()> = OnceLock::new();

/// A command that starts this binary once more as the program of that name.
///
/// # Errors
/// A binary that the system does not find.
pub fn again(program: &str) -> Result<std::process::Command> {
    let binary = std::env::current_exe().map_err(|e| Error::io(Path::new(program), "find", e))?;
    let by_name = binary.file_stem().is_some_and(|name| name == program);
    let mut command = std::process::Command::new(binary);
    if SEVERAL.get().is_some() && !by_name {
        command.arg(program);
    }
    Ok(command)
}

/// What the words of the command line say to a program.
fn matches(command: Command) -> (Command, ArgMatches) {
    let mut command = pages::with_options(command);
    let words: Vec<OsString> = std::env::args_os().collect();
    pages::answer(&mut command, &words);
    let matches = command.try_get_matches_from_mut(words).unwrap_or_else(|error| error.exit());
    (command, matches)
}

/// Programs that are subcommands of one.
struct Group {
    name: String,
    programs: Vec<String>,
}

static GROUP: OnceLock<Group> = OnceLock::new();

/// A text for people in which commands are as the person would type them: `quantize --type list` in backquotes has
/// `downcast` before it where that is what runs.
pub(super) fn as_called(text: &str) -> Cow<'_, str> {
    match GROUP.get() {
        Some(group) => group.in_prose(text).into(),
        None => text.into(),
    }
}

impl Group {
    /// A program's texts as those of a subcommand.
    fn within(&self, command: Command) -> Command {
        let mut command = command;
        if let Some(text) = command.get_about().map(|t| self.text(t)) {
            command = command.about(text);
        }
        if let Some(text) = command.get_long_about().map(|t| self.text(t)) {
            command = command.long_about(text);
        }
        if let Some(text) = command.get_after_help().map(|t| self.text(t)) {
            command = command.after_help(text);
        }
        if let Some(text) = command.get_after_long_help().map(|t| self.text(t)) {
            command = command.after_long_help(text);
        }
        let command = command.mut_args(|argument| {
            let mut argument = argument;
            if let Some(text) = argument.get_help().map(|t| self.text(t)) {
                argument = argument.help(text);
            }
            if let Some(text) = argument.get_long_help().map(|t| self.text(t)) {
                argument = argument.long_help(text);
            }
            argument
        });
        command.mut_subcommands(|inner| self.within(inner))
    }

    fn text(&self, text: &StyledStr) -> String {
        let text = self.in_prose(&text.to_string());
        let line = |line: &str| match line.strip_prefix("  ").filter(|example| self.is_command(example)) {
            Some(example) => format!("  {} {example}", self.name),
            None => line.to_owned(),
        };
        text.split('\n').map(line).collect::<Vec<_>>().join("\n")
    }

    /// Whether a text is a command of one of the programs.
    fn is_command(&self, text: &str) -> bool {
        self.programs.iter().any(|name| text.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with(' ')))
    }

    fn in_prose(&self, text: &str) -> String {
        let mut parts = text.split('`');
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            out.push('`');
            if self.is_command(part) {
                out += &self.name;
                out.push(' ');
            }
            out += part;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_texts_are_those_that_can_be_typed() {
        let group = Group { name: "all".into(), programs: vec!["show".into(), "set".into()] };
        let text = "See `show FILE`, `showing` and `set`.\n  show a.gguf    what is in it\n  settle x\nshow nothing";
        let said = group.text(&StyledStr::from(text));
        assert_eq!(
            said,
            "See `all show FILE`, `showing` and `set`.\n  all show a.gguf    what is in it\n  settle x\nshow nothing"
        );
    }
}
