//! Rules, what breaks them, and where findings are collected.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::quote::shortened;

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
    /// How to fix a file that breaks it.
    pub fix: &'static str,
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
    /// How to fix this one: the rule's advice, or one with names of this file.
    pub fix: Cow<'static, str>,
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
    pub(super) fn new(options: &'o Options, path: &Path) -> Sink<'o> {
        Sink { options, file: path.into(), findings: Vec::new(), counts: HashMap::new() }
    }

    /// The file that findings from here on lie in.
    pub(super) fn enter(&mut self, path: &Path) {
        if *self.file != *path {
            self.file = path.into();
        }
    }

    pub(crate) fn add(&mut self, rule: &'static Rule, place: Place<'_>, message: fmt::Arguments<'_>) {
        self.add_as(rule, rule.severity, place, message);
    }

    /// A finding with its own advice.
    pub(crate) fn advise(&mut self, rule: &'static Rule, place: Place<'_>, message: fmt::Arguments<'_>, fix: String) {
        let kept = self.findings.len();
        self.add(rule, place, message);
        if let Some(finding) = self.findings.get_mut(kept) {
            finding.fix = fix.into();
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
            fix: rule.fix.into(),
        });
    }

    pub(super) fn into_report(self, path: &Path, files: Vec<PathBuf>) -> Report {
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
