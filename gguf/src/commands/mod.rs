//! The subcommands: one file each.

mod check;
mod show;

use gguf::Result;
use gguf::cli::{Common, Exit};

#[derive(clap::Subcommand)]
pub enum Command {
    Show(show::Show),
    Check(check::Check),
    Explain(check::Explain),
}

impl Command {
    pub fn run(self, common: &Common) -> Result<Exit> {
        match self {
            Command::Show(command) => command.run(common),
            Command::Check(command) => command.run(common),
            Command::Explain(command) => command.run(common),
        }
    }
}
