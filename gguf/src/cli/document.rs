//! The one JSON document of a command, and the digests of the files that it read and wrote.
//!
//! Every document has `schema` (the name of a file under `docs/schemas`, without its ending), `program`, `version`, the
//! `options` that were given, and `files` with the digests (`digests` where a command lists results as `files`). What the
//! command found stands beside them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::{Common, Progress, ProgressMode, print};
use crate::digest;
use crate::error::Result;
use crate::quote;

/// When the files of a run are digested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Digests {
    /// Where the command reads the whole files anyway.
    #[default]
    Auto,
    /// Always.
    All,
    /// Never.
    None,
}

/// What a program was called with: its name and the options that were given.
#[derive(Debug, Default)]
struct Call {
    program: String,
    options: Map<String, Value>,
}

static CALL: OnceLock<Call> = OnceLock::new();

/// Keeps what a program was called with for [`document`].
pub(super) fn keep_call(command: &Command, matches: &ArgMatches) {
    // A second call within one process would be a test's: the first stays.
    let _ = CALL.set(Call { program: command.get_name().to_owned(), options: given(command, matches) });
}

/// The options that the program was called with, by name, with the words that were given for them: flags as `true`,
/// those that may be given more than once as lists.
pub fn call_options() -> Map<String, Value> {
    CALL.get().map(|call| call.options.clone()).unwrap_or_default()
}

/// The options that were given, by name, with the words that were given for them: flags as `true`, those that may be
/// given more than once as lists. A subcommand's stand beside those of the program.
fn given(command: &Command, matches: &ArgMatches) -> Map<String, Value> {
    let mut out = Map::new();
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        if matches.try_contains_id(id).is_err() || matches.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        let words: Vec<Value> = matches.get_raw(id).into_iter().flatten().map(quote::json).collect();
        // The old spelling of -o is an argument in second place.
        let name = argument.get_long().unwrap_or(if id == "second" { "output" } else { id }).to_owned();
        let value = match argument.get_action() {
            clap::ArgAction::SetTrue => Value::Bool(true),
            clap::ArgAction::Append => Value::Array(words),
            _ if words.len() == 1 => words.into_iter().next().unwrap_or_default(),
            _ => Value::Array(words),
        };
        out.insert(name, value);
    }
    if let Some((name, matches)) = matches.subcommand()
        && let Some(inner) = command.find_subcommand(name)
    {
        out.insert("command".into(), name.into());
        out.extend(given(inner, matches));
    }
    out
}

/// The digest of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDigest {
    /// Where it is.
    pub path: PathBuf,
    /// How long it is.
    pub bytes: u64,
    /// SHA-256, as hexadecimal digits.
    pub sha256: String,
}

impl FileDigest {
    /// The file's name, without its folders.
    pub fn name(&self) -> String {
        self.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// Digests files, several at a time.
///
/// # Errors
/// A file that cannot be read.
pub fn digest_files(paths: &[PathBuf], progress: &Progress) -> Result<Vec<FileDigest>> {
    let all: Vec<Result<FileDigest>> = paths.par_iter().map(|path| digest_file(path, progress)).collect();
    all.into_iter().collect()
}

fn digest_file(path: &Path, progress: &Progress) -> Result<FileDigest> {
    let (sha256, bytes) = digest::sha256_file(path, |read| progress.add(read))?;
    Ok(FileDigest { path: path.to_path_buf(), bytes, sha256 })
}

/// The files of a run.
#[derive(Clone, Debug, Default)]
pub struct Files {
    inputs: Vec<Entry>,
    outputs: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    path: PathBuf,
    bytes: Option<u64>,
    sha256: Option<String>,
}

impl Files {
    /// The files that a command read and wrote, with their digests: always where `whole` says that it read all of them,
    /// else where the person asks for it. Nothing is read where no document is printed.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn new(common: &Common, whole: bool, inputs: &[PathBuf], outputs: &[PathBuf]) -> Result<Files> {
        let wanted = match common.digests {
            Digests::Auto => whole,
            Digests::All => true,
            Digests::None => false,
        };
        if !common.wants_document() {
            return Ok(Files::default());
        }
        if !wanted {
            let plain = |paths: &[PathBuf]| {
                let entry = |path: &PathBuf| Entry {
                    path: path.clone(),
                    bytes: fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|m| m.len()),
                    sha256: None,
                };
                paths.iter().map(entry).collect()
            };
            return Ok(Files { inputs: plain(inputs), outputs: plain(outputs) });
        }
        let all: Vec<PathBuf> = inputs.iter().chain(outputs).cloned().collect();
        let total = all.iter().filter_map(|path| Some(fs::metadata(path).ok()?.len())).sum();
        let progress = Progress::bytes(common.progress, common.quiet, "digesting", total);
        let mut digests = digest_files(&all, &progress)?;
        progress.finish();
        let outputs = digests.split_off(inputs.len());
        Ok(Files::digested(digests, outputs))
    }

    /// Files whose digests are known.
    pub fn digested(inputs: Vec<FileDigest>, outputs: Vec<FileDigest>) -> Files {
        let entries = |digests: Vec<FileDigest>| {
            let entry = |d: FileDigest| Entry { path: d.path, bytes: Some(d.bytes), sha256: Some(d.sha256) };
            digests.into_iter().map(entry).collect()
        };
        Files { inputs: entries(inputs), outputs: entries(outputs) }
    }

    fn json(&self) -> Value {
        let list = |entries: &[Entry]| -> Value {
            entries
                .iter()
                .map(|e| json!({"path": quote::json(&e.path), "bytes": e.bytes, "sha256": e.sha256}))
                .collect()
        };
        json!({"inputs": list(&self.inputs), "outputs": list(&self.outputs)})
    }
}

/// A document with what all have, before the fields of the command.
pub fn document(schema: &str, version: &str, files: &Files, fields: Value) -> Value {
    let call = CALL.get();
    let mut out = Map::new();
    out.insert("schema".into(), schema.into());
    out.insert("program".into(), call.map_or("", |c| c.program.as_str()).into());
    out.insert("version".into(), version.into());
    out.insert("options".into(), Value::Object(call_options()));
    // Some commands tell of their files by this name already.
    let digests = if fields.get("files").is_some() { "digests" } else { "files" };
    out.insert(digests.into(), files.json());
    match fields {
        // What all documents have is the same in each.
        Value::Object(fields) => fields.into_iter().for_each(|(name, value)| _ = out.entry(name).or_insert(value)),
        other => _ = out.insert("result".into(), other),
    }
    Value::Object(out)
}

impl Common {
    /// Whether the result is a document instead of a table.
    pub fn wants_document(&self) -> bool {
        self.json || self.progress == ProgressMode::Json
    }

    /// Prints a document: as one, or as the last of JSON lines.
    ///
    /// # Errors
    /// What writing meets.
    pub fn print_document(&self, schema: &str, version: &str, files: &Files, fields: Value) -> Result<()> {
        self.result(|| Ok(document(schema, version, files, fields)), || Ok(String::new()))
    }

    /// Prints a result: as one JSON document, as the last of JSON lines, or as a table.
    ///
    /// # Errors
    /// What writing and the makers of either meet.
    pub fn result(
        &self,
        document: impl FnOnce() -> Result<Value>,
        table: impl FnOnce() -> Result<String>,
    ) -> Result<()> {
        match (self.progress, self.json) {
            (ProgressMode::Json, _) => {
                let mut line = Map::from_iter([("event".to_owned(), Value::from("result"))]);
                if let Value::Object(fields) = document()? {
                    line.extend(fields);
                }
                print(&format!("{}\n", Value::Object(line)))
            }
            (_, true) => super::print_json(&document()?),
            _ => print(&table()?),
        }
    }
}
