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

use std::path::Path;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::map::Mapped;
use crate::value::Endian;

/// Makes a group's rules: a static for each and the list of all.
macro_rules! rules {
    ($group:ident; $( $id:ident = $name:literal $severity:ident $source:literal $what:literal => $fix:literal; )*) => {
        $( pub(super) static $id: super::finding::Rule = super::finding::Rule {
            name: $name,
            severity: super::finding::Severity::$severity,
            group: super::finding::Group::$group,
            source: $source,
            what: $what,
            fix: $fix,
        }; )*
        pub(super) static RULES: &[&super::finding::Rule] = &[$( &$id ),*];
    };
}

mod blocks;
mod data;
mod finding;
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

pub use finding::{Finding, Group, MOST_PER_RULE, Options, Profile, Report, Rule, Severity};
pub(crate) use finding::{Place, Sink};
use model::Model;
use scan::{Reader, Scan};
use splits::Shard;

/// Every rule, group by group.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    const GROUPS: [&[&Rule]; 12] = [
        header::RULES,
        keys::RULES,
        tensors::RULES,
        layout::RULES,
        splits::RULES,
        general::RULES,
        hparams::RULES,
        tokenizer::RULES,
        data::RULES,
        lost::RULES,
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
/// Those of [`crate::FileLayout::new`].
pub fn faults(metadata: &crate::Metadata, tensors: &[crate::TensorInfo]) -> Result<Vec<Finding>> {
    let mut header = Vec::new();
    let plan = crate::FileLayout::new(metadata, tensors)?.unpadded();
    crate::Writer::new(&mut header, plan).map_err(|e| Error::usage("the header cannot be laid out").caused_by(e))?;
    let options = Options::default();
    let mut findings = check_bytes(header.into(), "", &options).findings;
    findings.retain(|f| f.severity == Severity::Error && ![Group::Layout, Group::Splits].contains(&f.rule.group));
    Ok(findings)
}

/// Reads what stands before the data.
fn scan(mapped: Mapped, sink: &mut Sink<'_>) -> Scan {
    let bytes = mapped.bytes.clone();
    let mut reader = Reader { bytes: bytes.clone(), at: 0, endian: Endian::Little };
    let mut scan = Scan { bytes, mapped, ..Scan::default() };
    let Some(header) = header::read(&mut reader, sink) else { return scan };
    scan.endian = reader.endian;
    scan.version = header.version;
    let complete = keys::read(&mut reader, header.n_kv, &mut scan, sink);
    scan.alignment = keys::alignment(&scan, sink);
    if complete && tensors::read(&mut reader, header.n_tensors, &mut scan, sink) {
        scan.infos_end = Some(reader.at);
    }
    scan
}

/// The groups that need one file only.
fn one(mapped: Mapped, options: &Options, sink: &mut Sink<'_>) -> Scan {
    let scan = scan(mapped, sink);
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
            Err(error.help(finding.fix.as_ref()))
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
            assert!(rule.what.len() > 10 && !rule.fix.is_empty() && !rule.source.is_empty(), "{}", rule.name);
        }
    }

    #[test]
    fn an_unknown_rule_is_refused_with_near_ones() {
        let error = rule("tensor-overlaps").unwrap_err();
        assert!(error.way_out().is_some_and(|help| help.contains("tensor-overlap")), "{error:?}");
    }
}
