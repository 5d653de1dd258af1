//! Whether what a checkpoint becomes is a whole model: the tensors and keys held against `gguf::arch`, before a byte is
//! written. What is missing or of another shape is named as the checkpoint calls it.

use std::collections::{BTreeMap, HashMap, HashSet};

use gguf::arch::{self, Fault, FaultKind};
use gguf::{Error, Metadata, Result, TensorInfo};

use crate::hf::{Class, How};
use crate::names::Sources;
use crate::names::{self, Origins};

/// What a person should know of a whole model.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// That llama.cpp takes models of this form in the published sizes alone.
    pub note: Option<String>,
    /// Where llama.cpp computes something else than the model's own code.
    pub departs: Option<&'static str>,
}

/// Checks the tensors and keys of a converted model. `beyond` is what the configuration says and the file does not.
///
/// # Errors
/// The first tensor that is missing, has no place or has another shape than the keys ask for, or a key that is missing.
pub(crate) fn check(
    class: &Class,
    metadata: &Metadata,
    tensors: &[TensorInfo],
    sources: &Sources,
    origins: &Origins<'_>,
    beyond: &[(String, gguf::Value)],
) -> Result<Found> {
    let names = Names { class, sources, origins };
    let Some(row) = arch::find(class.arch) else { return Ok(Found::default()) };
    let shapes: HashMap<String, Vec<u64>> =
        tensors.iter().map(|t| (t.name().to_owned(), t.shape().dims().to_vec())).collect();
    let of_file = |key: &str| metadata.get(key);
    let (dims, faults) = row.dims_of_any_size(&of_file, shapes.clone());
    // A key that the reference leaves out, though the loader asks for it.
    let left_out = |fault: &Fault| {
        let said = beyond.iter().find(|(key, _)| *key == fault.subject && fault.kind == FaultKind::KeyMissing);
        said.map(|(key, _)| format!("{LEFT_OUT}{key}, which its own converter leaves out as well"))
    };
    let without = faults.first().and_then(left_out);
    let get = |key: &str| {
        let said = || beyond.iter().find(|(own, _)| own == key).filter(|_| without.is_some());
        of_file(key).or_else(|| said().map(|(_, value)| value))
    };
    let (dims, faults) = if without.is_some() { row.dims_of_any_size(&get, shapes.clone()) } else { (dims, faults) };
    if let Some(fault) = faults.first() {
        return Err(Error::input(format!("config.json does not describe a whole model: {}", fault.message)));
    }
    if let Some(empty) = tensors.iter().find(|t| t.elements() == 0) {
        let named = names.of(empty.name());
        return Err(Error::input(format!("{named} holds nothing: its shape is {}", empty.shape()))
            .help("checkpoints saved while the weights were spread over several processes look so; save it again"));
    }
    let lacking = |fault: &Fault| fault.kind == FaultKind::TensorMissing && lacks(class, &fault.subject);
    let (left_out, faults): (Vec<Fault>, Vec<Fault>) = row.plan(&dims).faults(&dims).into_iter().partition(lacking);
    // A missing tensor explains a strange one, not the other way round.
    if let Some(fault) = faults.iter().find(|f| f.kind == FaultKind::TensorMissing).or_else(|| faults.first()) {
        return Err(names.error(fault));
    }
    let departs = (row.departs)(&dims);
    if let Some(fault) = left_out.first() {
        let named = names.of(&fault.subject);
        let note = format!("{LEFT_OUT}{named}, which its own converter leaves out as well");
        return Ok(Found { note: Some(note), departs });
    }
    // The model is whole; what is left is what the loader demands of the sizes that it knows.
    let (dims, mut faults) = row.dims(&get, shapes);
    if faults.is_empty() {
        faults = row.plan(&dims).faults(&dims);
    }
    let refused = |fault: &Fault| format!("llama.cpp does not load a {} of this size: {}", class.arch, fault.message);
    Ok(Found { note: without.clone().or_else(|| faults.first().map(refused)), departs })
}

const LEFT_OUT: &str = "llama.cpp does not load this file: it asks for ";

/// The same for a projector file, held against `gguf::projector`.
///
/// # Errors
/// The first tensor that is missing.
pub(crate) fn check_projector(
    class: &Class,
    metadata: &Metadata,
    tensors: &[TensorInfo],
    sources: &Sources,
    origins: &Origins<'_>,
) -> Result<Option<String>> {
    use gguf::projector::{Fault, faults};
    let held: Vec<(&str, &[u64])> = tensors.iter().map(|t| (t.name(), t.shape().dims())).collect();
    let faults = faults(&|key| metadata.get(key), &held);
    let names = Names { class, sources, origins };
    if let Some(name) = faults.iter().find_map(|f| if let Fault::Tensor(name) = f { Some(name) } else { None }) {
        let name = names.of(name);
        return Err(Error::input(format!("{name} is missing, without which the projector file does not load"))
            .help("is the checkpoint complete, and does config.json count as many layers as there are?"));
    }
    let misshapen = faults.iter().find_map(|fault| match fault {
        Fault::Shape(name, what) => Some(Error::input(what.clone()).about(names.of(name))),
        Fault::Apart(first, second, what) => {
            let (first, second) = (names.of(first), names.of(second));
            Some(Error::input(format!("{first} and {second} do not fit each other: {what}")))
        }
        _ => None,
    });
    if let Some(error) = misshapen {
        return Err(error.help("the weights and config.json do not belong together"));
    }
    Ok(faults.first().map(|fault| {
        let what = match fault {
            Fault::NoTower => "no tower".to_owned(),
            Fault::Kind(_, kind) => format!("the kind {kind}"),
            Fault::Key(name) => format!("{name} is not there"),
            Fault::Lacking(name) => format!("tensor {name} is not there, which its own converter leaves out as well"),
            Fault::Tensor(name) | Fault::Beyond(name) => format!("tensor {name}"),
            Fault::Value(name, what) | Fault::Shape(name, what) | Fault::Apart(_, name, what) => {
                format!("{name}: {what}")
            }
        };
        format!("llama.cpp does not load this projector file: {what}")
    }))
}

/// What the checkpoint calls the tensors of the file.
struct Names<'a> {
    class: &'a Class,
    sources: &'a Sources,
    origins: &'a Origins<'a>,
}

impl Names<'_> {
    fn error(&self, fault: &Fault) -> Error {
        let lacking = self.lacking(&fault.subject);
        // What a block is may hang on a tensor that is not there: then other faults come of it.
        if let (FaultKind::TensorMissing | FaultKind::TensorUnexpected, false) = (fault.kind, lacking.is_empty()) {
            let (_, block, _) = in_block(&fault.subject);
            let here = lacking.iter().filter_map(|name| Some(moved(name, in_block(name).1?, block?)));
            let named: Vec<String> = here.map(|name| self.of(&name)).collect();
            return Error::input(format!(
                "{} is missing, which other blocks of this {} model have",
                named.join(" or "),
                self.class.arch
            ))
            .help("is the checkpoint complete?");
        }
        let named = self.of(&fault.subject);
        match fault.kind {
            FaultKind::TensorMissing => {
                let error = Error::input(format!(
                    "{named} is missing, without which a {} model does not load",
                    self.class.arch
                ));
                let names = self.sources.values().flatten().map(String::as_str);
                match names::nearest_of(names, &self.first(&fault.subject)) {
                    Some(near) => {
                        let near = self.origins.of(near);
                        error.help(format!("the nearest name there is {near}; is the checkpoint complete?"))
                    }
                    None => error,
                }
            }
            FaultKind::TensorShape => Error::input(fault.message.clone())
                .about(named)
                .help("the weights and config.json do not belong together"),
            _ if !self.sources.contains_key(&fault.subject) => Error::input(fault.message.clone()),
            _ => Error::input(fault.message.clone()).about(named),
        }
    }

    /// The names, without what wrappers put in front, of the tensors that this block's like of another block's tensor
    /// would be made of, and that are not there: a first block may have it from what is something else in the others.
    fn in_place(&self, of: &str, block: Option<u64>) -> Vec<String> {
        let sources = self.sources.get(of).map_or(&[][..], Vec::as_slice);
        let (Some(from), Some(to)) = (in_block(of).1, block) else { return sources.to_vec() };
        let there = |name: &String| self.sources.values().flatten().any(|other| other == name);
        sources.iter().map(|name| moved(name, from, to)).filter(|name| !there(name)).collect()
    }

    /// Tensors of the file that the block of this one lacks, held against the block that is most like it.
    fn lacking(&self, target: &str) -> Vec<&str> {
        let (front, Some(block), _) = in_block(target) else { return Vec::new() };
        let mut blocks: BTreeMap<u64, BTreeMap<&str, &str>> = BTreeMap::new();
        for name in self.sources.keys() {
            if let (own_front, Some(other), own) = in_block(name)
                && own_front == front
            {
                blocks.entry(other).or_default().insert(own, name);
            }
        }
        let own = blocks.remove(&block).unwrap_or_default();
        // One that has what the other lacks is of another kind.
        // Of several the last: first blocks may have what the others do not.
        let alike = blocks.values().rev().filter(|other| own.keys().all(|name| other.contains_key(name)));
        let lacking =
            alike.map(|other| other.iter().filter(|(name, _)| !own.contains_key(*name)).map(|(_, whole)| *whole));
        let lacking = lacking.map(Iterator::collect::<Vec<_>>).min_by_key(Vec::len);
        lacking.filter(|names| names.len() <= MOST_LACKING).unwrap_or_default()
    }

    /// The names, with the word before them.
    fn of(&self, target: &str) -> String {
        let names = self.all(target);
        if self.sources.contains_key(target) {
            let names: Vec<String> = names.iter().map(|name| self.origins.of(name)).collect();
            return match names.as_slice() {
                [one] => format!("tensor {one}"),
                all => format!("one of the tensors {}", all.join(", ")),
            };
        }
        let mut names: Vec<String> = names.iter().flat_map(|name| self.origins.all_of(name, MOST_SPELLINGS)).collect();
        let mut seen = HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names.truncate(MOST_SPELLINGS);
        match names.as_slice() {
            [first, others @ ..] if !others.is_empty() => format!("tensor {first} (or {})", others.join(", ")),
            all => format!("tensor {}", all.join("")),
        }
    }

    fn first(&self, target: &str) -> String {
        self.all(target).first().cloned().unwrap_or_default()
    }

    /// The names without what wrappers put in front: those that the tensor was made of; else those of its like in
    /// another block, then the spellings of the class, those first that are most like the names there are.
    fn all(&self, target: &str) -> Vec<String> {
        if let Some(names) = self.sources.get(target).filter(|names| !names.is_empty()) {
            return names.clone();
        }
        let mut names = self.of_its_like(target);
        for name in self.spelled(target) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if names.is_empty() {
            names.push(target.to_owned());
        }
        names
    }

    /// What the same tensor of another block is made of, with this block's number.
    fn of_its_like(&self, target: &str) -> Vec<String> {
        let (front, block, own) = in_block(target);
        let alike = self.sources.keys().rev().find(|name| {
            let (other_front, other, other_own) = in_block(name);
            block.is_some() && other.is_some() && (front, own) == (other_front, other_own)
        });
        alike.map(|of| self.in_place(of, block)).unwrap_or_default()
    }

    /// The spellings of the class.
    fn spelled(&self, target: &str) -> Vec<String> {
        let (stem, suffix) =
            [".weight", ".bias"].iter().find_map(|s| Some((target.strip_suffix(s)?, *s))).unwrap_or((target, ""));
        let spellings = names::rules(self.class).filter_map(|rule| {
            // What is not told whole is told by its beginning, of which the longest counts.
            let whole = [stem, target].iter().find_map(|name| Some((names::blocks_in(rule.to, name)?, *name)));
            let ((block, rest), name) = whole?;
            let suffix = if name == stem { suffix } else { "" };
            let fits = rest.is_empty() || matches!(rule.how, How::Split(_) | How::Cut(_));
            let spelled = names::with_block(rule.from, block).replace("{x}", "0") + suffix;
            (fits && !rule.to.is_empty()).then_some((rest.len(), spelled))
        });
        let there: HashSet<&str> = self.sources.values().flatten().map(String::as_str).collect();
        let spellings: Vec<(usize, String)> = spellings.filter(|(_, name)| !there.contains(name.as_str())).collect();
        let rest = spellings.iter().map(|(rest, _)| *rest).min();
        let near = |name: &str| there.iter().map(|other| names::distance(other, name)).min();
        let mut best: Vec<String> =
            spellings.into_iter().filter(|(n, _)| Some(*n) == rest).map(|(_, name)| name).collect();
        best.sort_by_cached_key(|name| near(name));
        best.dedup();
        best.truncate(MOST_SPELLINGS);
        best
    }
}

/// Whether the reference leaves this tensor out too, though the loader asks for it.
fn lacks(class: &Class, name: &str) -> bool {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    names::blocks_in("blk.{}.", stem).is_some_and(|(_, rest)| class.lacks.contains(&rest))
}

/// Tensors that a block may lack and still be of the kind of another.
const MOST_LACKING: usize = 3;

/// Spellings of a missing tensor that an error names.
const MOST_SPELLINGS: usize = 4;

/// A name of a tensor as what stands before its block, the block, and what stands behind.
fn in_block(name: &str) -> (&str, Option<u64>, &str) {
    let parts = name.split_once("blk.").and_then(|(front, rest)| {
        let (block, own) = rest.split_once('.')?;
        Some((front, Some(block.parse().ok()?), own))
    });
    parts.unwrap_or((name, None, ""))
}

/// A name with this number in place of that of another block, which is the first number in it.
fn moved(name: &str, from: u64, to: u64) -> String {
    let from = from.to_string();
    let mut parts: Vec<String> = name.split('.').map(str::to_owned).collect();
    if let Some(part) = parts.iter_mut().find(|part| **part == from) {
        *part = to.to_string();
    }
    parts.join(".")
}
