//! Judging a file against the specification and against what the programs that load it demand.
//!
//! [`File`](crate::File) stops at the first fault. The checker walks on as long as the bytes that follow can still be
//! told apart, so a report holds everything that is wrong, each finding with its rule, its byte and its key or tensor.
//! The rules are a table ([`rules`]); a file of this folder holds one group of them.
//!
//! ```
//! # let path = std::env::temp_dir().join(format!("gguf-doc-check-{}.gguf", std::process::id()));
//! # let meta = gguf::Metadata::from_iter([("general.architecture", "llama")]);
//! # std::fs::write(&path, gguf::write::to_bytes(&meta, &[], |_| Ok(Vec::new())).unwrap()).unwrap();
//! use gguf::check::{self, Options, Profile};
//!
//! let report = check::check(&path, &Options { profile: Profile::Format, ..Options::default() })?;
//! for finding in &report.findings {
//!     println!("{finding}");
//! }
//! assert!(report.passed());
//! # std::fs::remove_file(&path).ok();
//! # Ok::<(), gguf::Error>(())
//! ```

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::map::Mapped;
use crate::quote::shortened;

/// Makes a group's rules: a static for each and the list of all.
macro_rules! rules {
    ($group:ident; $( $id:ident = $name:literal $severity:ident $source:literal $what:literal => $mend:literal; )*) => {
        $( pub(super) static $id: super::Rule = super::Rule {
            name: $name,
            severity: super::Severity::$severity,
            group: super::Group::$group,
            source: $source,
            what: $what,
            mend: $mend,
        }; )*
        pub(super) static RULES: &[&super::Rule] = &[$( &$id ),*];
    };
}

mod data;
mod general;
mod header;
mod hparams;
mod keys;
mod known;
mod layout;
mod lora;
mod lost;
mod model;
mod projector;
mod scan;
mod splits;
mod template;
mod tensors;
mod tokenizer;

use model::Model;
use scan::Scan;
use splits::Shard;

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Legal or tolerated, but worth knowing.
    Warning,
    /// The file breaks the format, or a program that loads it refuses or misreads it.
    Error,
}

impl Severity {
    /// `warning` or `error`.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// What a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// Magic, version, counts.
    Header,
    /// Keys and the encoding of their values.
    Keys,
    /// Names, shapes and types of tensors.
    Tensors,
    /// Where data lies, and what lies between.
    Layout,
    /// The shards of a split model.
    Splits,
    /// Keys under `general.`.
    General,
    /// The architecture's keys and the shapes they ask for.
    Hyperparameters,
    /// Keys under `tokenizer.`.
    Tokenizer,
    /// The values of tensors; looked at only when asked for.
    Data,
    /// Adapters.
    Lora,
    /// Files of towers that see or hear.
    Projector,
}

impl Group {
    /// The name of the group.
    pub fn name(self) -> &'static str {
        match self {
            Group::Header => "header",
            Group::Keys => "keys and values",
            Group::Tensors => "tensor infos",
            Group::Layout => "data layout",
            Group::Splits => "splits",
            Group::General => "general",
            Group::Hyperparameters => "hyperparameters",
            Group::Tokenizer => "tokenizer",
            Group::Data => "data",
            Group::Lora => "lora",
            Group::Projector => "projector",
        }
    }
}

/// Which groups are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Profile {
    /// The container alone: header, keys and values, tensor infos, data layout, splits (and data, when asked for).
    Format,
    /// Everything a model must be to load.
    #[default]
    Model,
}

/// One rule of the table.
#[derive(Debug)]
pub struct Rule {
    /// The stable name by which users silence or promote it.
    pub name: &'static str,
    /// How grave a breach is.
    pub severity: Severity,
    /// What it looks at.
    pub group: Group,
    /// Where the rule stands: the specification, or the program that enforces it.
    pub source: &'static str,
    /// What the rule demands, in one line.
    pub what: &'static str,
    /// How to mend a file that breaks it.
    pub mend: &'static str,
}

/// Every rule, group by group.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    const GROUPS: [&[&Rule]; 11] = [
        header::RULES,
        keys::RULES,
        tensors::RULES,
        layout::RULES,
        splits::RULES,
        general::RULES,
        hparams::RULES,
        tokenizer::RULES,
        data::RULES,
        lora::RULES,
        projector::RULES,
    ];
    GROUPS.into_iter().flatten().copied()
}

/// The rule of this name.
///
/// # Errors
/// No such rule; the error names near ones.
pub fn rule(name: &str) -> Result<&'static Rule> {
    rules().find(|r| r.name == name).ok_or_else(|| {
        let near = near(rules().map(|r| r.name), name).join(", ");
        Error::usage(format!("there is no rule \"{name}\"")).help(format!("near ones: {near}"))
    })
}

/// The names most like this one: those that share most pairs of letters with it.
fn near<'a>(names: impl Iterator<Item = &'a str>, name: &str) -> Vec<&'a str> {
    let pairs = |s: &str| s.as_bytes().windows(2).map(|w| [w[0], w[1]]).collect::<Vec<_>>();
    let wanted = pairs(name);
    let mut names: Vec<(usize, &str)> = names
        .map(|n| {
            let own = pairs(n);
            let shared = wanted.iter().filter(|&p| own.contains(p)).count();
            // Of two that share as much the one with less else is nearer.
            (shared * 100 / (wanted.len() + own.len()).max(1), n)
        })
        .collect();
    names.sort_by_key(|&(score, _)| std::cmp::Reverse(score));
    names.into_iter().take(4).map(|(_, n)| n).collect()
}

/// One breach of a rule.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The rule.
    pub rule: &'static Rule,
    /// The severity after `deny`, and where a rule has two.
    pub severity: Severity,
    /// The file: a shard, where a model is split.
    pub file: Arc<Path>,
    /// The byte of the file.
    pub offset: Option<u64>,
    /// The key.
    pub key: Option<String>,
    /// The tensor.
    pub tensor: Option<String>,
    /// What is wrong, with the offending value.
    pub message: String,
    /// How to mend this one: the rule's advice, or one with names of this file.
    pub mend: Cow<'static, str>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = crate::quote::path(&self.file);
        write!(f, "{file}: {}[{}]: {}", self.severity.name(), self.rule.name, crate::quote::text(&self.message))?;
        if let Some(offset) = self.offset {
            write!(f, " (at byte {offset})")?;
        }
        Ok(())
    }
}

/// What to look at and how to take it.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which groups.
    pub profile: Profile,
    /// Whether to read the tensors' data.
    pub data: bool,
    /// Where the GGUF begins in the file.
    pub at: u64,
    /// Rules whose findings are errors.
    pub deny: Vec<&'static str>,
    /// Rules whose findings are dropped.
    pub allow: Vec<&'static str>,
    /// Whether every warning is an error.
    pub warnings_as_errors: bool,
}

/// What was found in a file or in all shards of a model.
#[derive(Clone, Debug)]
pub struct Report {
    /// The file that was asked for.
    pub path: PathBuf,
    /// Every file that was looked at.
    pub files: Vec<PathBuf>,
    /// The findings, in the order of the file.
    pub findings: Vec<Finding>,
    /// Findings of a rule beyond the first [`MOST_PER_RULE`], which are counted but not kept.
    pub more: Vec<(&'static Rule, u64)>,
}

/// Findings of one rule that a report keeps; a hostile file could hold millions.
pub const MOST_PER_RULE: u64 = 200;

impl Report {
    /// Whether no finding is an error.
    pub fn passed(&self) -> bool {
        self.findings.iter().all(|f| f.severity == Severity::Warning)
    }

    /// The number of findings of this severity that the report keeps.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|f| f.severity == severity).count()
    }
}

/// Where a finding lies.
#[derive(Clone, Copy, Default)]
pub(crate) struct Place<'a> {
    at: Option<u64>,
    key: Option<&'a str>,
    tensor: Option<&'a str>,
}

impl<'a> Place<'a> {
    pub(crate) fn byte(at: u64) -> Place<'a> {
        Place { at: Some(at), ..Place::default() }
    }

    pub(crate) fn key(at: u64, key: &'a str) -> Place<'a> {
        Place { at: Some(at), key: Some(key), tensor: None }
    }

    pub(crate) fn absent_key(key: &'a str) -> Place<'a> {
        Place { at: None, key: Some(key), tensor: None }
    }

    pub(crate) fn tensor(at: u64, tensor: &'a str) -> Place<'a> {
        Place { at: Some(at), key: None, tensor: Some(tensor) }
    }

    pub(crate) fn absent_tensor(tensor: &'a str) -> Place<'a> {
        Place { at: None, key: None, tensor: Some(tensor) }
    }
}

/// Collects findings; keeps few of each rule and counts the rest.
pub(crate) struct Sink<'o> {
    options: &'o Options,
    file: Arc<Path>,
    findings: Vec<Finding>,
    counts: HashMap<&'static str, (&'static Rule, u64)>,
}

impl<'o> Sink<'o> {
    fn new(options: &'o Options, path: &Path) -> Sink<'o> {
        Sink { options, file: path.into(), findings: Vec::new(), counts: HashMap::new() }
    }

    /// The file that findings from here on lie in.
    fn enter(&mut self, path: &Path) {
        if *self.file != *path {
            self.file = path.into();
        }
    }

    pub(crate) fn add(&mut self, rule: &'static Rule, place: Place<'_>, message: fmt::Arguments<'_>) {
        self.add_as(rule, rule.severity, place, message);
    }

    /// A finding with its own advice.
    pub(crate) fn advise(&mut self, rule: &'static Rule, place: Place<'_>, message: fmt::Arguments<'_>, mend: String) {
        let kept = self.findings.len();
        self.add(rule, place, message);
        if let Some(finding) = self.findings.get_mut(kept) {
            finding.mend = mend.into();
        }
    }

    pub(crate) fn add_as(
        &mut self,
        rule: &'static Rule,
        severity: Severity,
        place: Place<'_>,
        message: fmt::Arguments<'_>,
    ) {
        if self.options.allow.contains(&rule.name) {
            return;
        }
        let (_, count) = self.counts.entry(rule.name).or_insert((rule, 0));
        *count += 1;
        if *count > MOST_PER_RULE {
            return;
        }
        let promoted = self.options.warnings_as_errors || self.options.deny.contains(&rule.name);
        self.findings.push(Finding {
            rule,
            severity: if promoted { Severity::Error } else { severity },
            file: self.file.clone(),
            offset: place.at.map(|at| at.saturating_add(self.options.at)),
            key: place.key.map(shortened),
            tensor: place.tensor.map(shortened),
            message: message.to_string(),
            mend: rule.mend.into(),
        });
    }

    fn into_report(self, path: &Path, files: Vec<PathBuf>) -> Report {
        let mut more: Vec<_> = self
            .counts
            .into_values()
            .filter(|&(_, n)| n > MOST_PER_RULE)
            .map(|(rule, n)| (rule, n - MOST_PER_RULE))
            .collect();
        more.sort_by_key(|(rule, _)| rule.name);
        Report { path: path.to_path_buf(), files, findings: self.findings, more }
    }
}

/// Looks at a file and, where it is the first shard of a split model, at the others too.
///
/// # Errors
/// Only a file that cannot be read; everything that is wrong inside is a finding.
pub fn check(path: impl AsRef<Path>, options: &Options) -> Result<Report> {
    let path = path.as_ref();
    let mut sink = Sink::new(options, path);
    let read = |path: &Path, sink: &mut Sink<'_>| -> Result<Scan> {
        let mapped = crate::map::open(path)?.at(options.at).map_err(|e| e.at(path))?;
        // Where the mark of an edit is there, the header tells it by itself.
        if options.at == 0
            && !mapped.bytes.starts_with(&crate::journal::MARK)
            && crate::journal::is_interrupted_in(path, &mapped.bytes)
        {
            header::interrupted(sink);
        }
        Ok(one(mapped, options, sink))
    };
    let first = read(path, &mut sink)?;
    let shards = splits::check(first, path, options, &mut sink, read);
    whole(&shards, Some(path), options, &mut sink);
    let files = shards.into_iter().map(|s| s.path).collect();
    Ok(sink.into_report(path, files))
}

/// Looks at bytes that are in memory; `name` stands for the file in findings. Other shards are not looked for.
pub fn check_bytes(bytes: Bytes, name: impl AsRef<Path>, options: &Options) -> Report {
    let path = name.as_ref().to_path_buf();
    let mut sink = Sink::new(options, &path);
    let scan = one(bytes.into(), options, &mut sink);
    let shards = [Shard { path: path.clone(), scan }];
    whole(&shards, None, options, &mut sink);
    sink.into_report(&path, Vec::new())
}

/// The errors of a file that is still to be written: what its keys and tensor infos say, without data and layout.
///
/// # Errors
/// Those of [`crate::Plan::new`].
pub fn faults(metadata: &crate::Metadata, tensors: &[crate::TensorInfo]) -> Result<Vec<Finding>> {
    let mut header = Vec::new();
    let plan = crate::Plan::new(metadata, tensors)?.unpadded();
    crate::Writer::new(&mut header, plan).map_err(|e| Error::usage("the header cannot be laid out").caused_by(e))?;
    let options = Options::default();
    let mut findings = check_bytes(header.into(), "", &options).findings;
    findings.retain(|f| f.severity == Severity::Error && ![Group::Layout, Group::Splits].contains(&f.rule.group));
    Ok(findings)
}

/// The groups that need one file only.
fn one(mapped: Mapped, options: &Options, sink: &mut Sink<'_>) -> Scan {
    let scan = Scan::run(mapped, sink);
    layout::check(&scan, sink);
    if options.data {
        data::check(&scan, sink);
    }
    scan
}

/// The groups that need the whole model. The file's name is judged where there is one.
fn whole(shards: &[Shard], path: Option<&Path>, options: &Options, sink: &mut Sink<'_>) {
    // Where the keys or tensors could not all be read, what is missing says nothing.
    if options.profile != Profile::Model || shards.iter().any(|s| s.scan.infos_end.is_none()) {
        return;
    }
    let model = Model::new(shards);
    general::check(&model, path.filter(|_| options.at == 0), sink);
    hparams::check(&model, sink);
    tokenizer::check(&model, sink);
    lora::check(&model, sink);
    projector::check(&model, sink);
}

/// Opens a file that was just written and judges its layout and, with `data`, its values.
///
/// A shard is judged alone: it may still have a temporary name, and the others may not be there yet.
///
/// # Errors
/// The first rule that the file breaks, with the key or tensor.
pub fn verify_file(path: impl AsRef<Path>, data: bool) -> Result<()> {
    let path = path.as_ref();
    let options = Options { profile: Profile::Format, data, ..Options::default() };
    let mut sink = Sink::new(&options, path);
    let scan = one(crate::map::open(path)?, &options, &mut sink);
    let report = sink.into_report(path, Vec::new());
    // Without tensors there is nothing that padding would align, and llama.cpp's converter writes none.
    let unpadded = |f: &Finding| scan.tensors.is_empty() && f.rule.name == layout::FINAL_PADDING_MISSING.name;
    // A warning about a key may be inherited from the input; one about the layout would be of our own making.
    let layout = |f: &Finding| f.rule.group == Group::Layout && !unpadded(f);
    let fault = report.findings.iter().find(|f| f.severity == Severity::Error || layout(f));
    match fault {
        None => Ok(()),
        Some(finding) => {
            let mut error = Error::input(format!("rule {}: {}", finding.rule.name, finding.message)).at(&finding.file);
            if let Some(offset) = finding.offset {
                error = error.at_offset(offset);
            }
            Err(error.help(finding.mend.as_ref()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_unique_complete_and_in_the_houses_spelling() {
        let mut names = std::collections::HashSet::new();
        for rule in rules() {
            assert!(names.insert(rule.name), "{} stands twice", rule.name);
            assert!(rule.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            assert!(rule.what.len() > 10 && !rule.mend.is_empty() && !rule.source.is_empty(), "{}", rule.name);
        }
    }

    #[test]
    fn an_unknown_rule_is_refused_with_near_ones() {
        let error = rule("tensor-overlaps").unwrap_err();
        assert!(error.way_out().is_some_and(|help| help.contains("tensor-overlap")), "{error:?}");
    }
}
