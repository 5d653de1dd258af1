//! Whether what a checkpoint becomes is a whole model: the tensors and keys held against `gguf::arch`, before a byte is
//! written. What is missing or of another shape is named as the checkpoint calls it.

use std::collections::HashMap;

use gguf::arch::{self, Fault, FaultKind};
use gguf::{Error, Metadata, Result, TensorInfo};

use crate::hf::{Class, How};
use crate::names;

/// What a person should know of a whole model.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// That llama.cpp takes models of this form in the published sizes alone.
    pub note: Option<String>,
    /// Where llama.cpp computes something else than the model's own code.
    pub departs: Option<&'static str>,
}

/// Checks the tensors and keys of a converted model.
///
/// # Errors
/// The first tensor that is missing, has no place or has another shape than the keys ask for, or a key that is missing.
pub(crate) fn check(class: &Class, metadata: &Metadata, tensors: &[TensorInfo], sources: &[String]) -> Result<Found> {
    let Some(row) = arch::find(class.arch) else { return Ok(Found::default()) };
    let shapes: HashMap<String, Vec<u64>> =
        tensors.iter().map(|t| (t.name().to_owned(), t.shape().dims().to_vec())).collect();
    let get = |key: &str| metadata.get(key);
    let (dims, faults) = row.dims_of_any_size(&get, shapes.clone());
    if let Some(fault) = faults.first() {
        return Err(Error::input(format!("config.json does not describe a whole model: {}", fault.message)));
    }
    if let Some(empty) = tensors.iter().find(|t| t.elements() == 0) {
        let name = said(class, empty.name());
        return Err(Error::input(format!("tensor {name} holds nothing: its shape is {}", empty.shape()))
            .help("checkpoints saved while the weights were spread over several processes look so; save it again"));
    }
    let lacking = |fault: &Fault| fault.kind == FaultKind::TensorMissing && lacks(class, &fault.subject);
    let (left_out, faults): (Vec<Fault>, Vec<Fault>) = row.plan(&dims).faults(&dims).into_iter().partition(lacking);
    // A missing tensor explains a strange one, not the other way round.
    if let Some(fault) = faults.iter().find(|f| f.kind == FaultKind::TensorMissing).or_else(|| faults.first()) {
        return Err(error(class, fault, sources));
    }
    let departs = (row.departs)(&dims);
    if let Some(fault) = left_out.first() {
        let name = said(class, &fault.subject);
        let note = format!(
            "llama.cpp does not load this file: it asks for tensor {name}, which its own converter leaves out as well"
        );
        return Ok(Found { note: Some(note), departs });
    }
    // The model is whole; what is left is what the loader demands of the sizes that it knows.
    let (dims, mut faults) = row.dims(&get, shapes);
    if faults.is_empty() {
        faults = row.plan(&dims).faults(&dims);
    }
    let refused = |fault: &Fault| format!("llama.cpp does not load a {} of this size: {}", class.arch, fault.message);
    Ok(Found { note: faults.first().map(refused), departs })
}

/// The same for a projector file, held against `gguf::projector`.
///
/// # Errors
/// The first tensor that is missing.
pub(crate) fn check_projector(class: &Class, metadata: &Metadata, tensors: &[TensorInfo]) -> Result<Option<String>> {
    use gguf::projector::{Fault, faults};
    let held: Vec<(&str, &[u64])> = tensors.iter().map(|t| (t.name(), t.shape().dims())).collect();
    let faults = faults(&|key| metadata.get(key), &held);
    if let Some(name) = faults.iter().find_map(|f| if let Fault::Tensor(name) = f { Some(name) } else { None }) {
        let name = said(class, name);
        return Err(Error::input(format!("tensor {name} is missing, without which the projector file does not load"))
            .help("is the checkpoint complete, and does config.json count as many layers as there are?"));
    }
    Ok(faults.first().map(|fault| {
        let what = match fault {
            Fault::NoTower => "no tower".to_owned(),
            Fault::Kind(_, kind) => format!("the kind {kind}"),
            Fault::Key(name) => format!("{name} is not there"),
            Fault::Lacking(name) => format!("tensor {name} is not there, which its own converter leaves out as well"),
            Fault::Tensor(name) | Fault::Beyond(name) => format!("tensor {name}"),
            Fault::Value(name, what) | Fault::Shape(name, what) => format!("{name}: {what}"),
        };
        format!("llama.cpp does not load this projector file: {what}")
    }))
}

fn error(class: &Class, fault: &Fault, sources: &[String]) -> Error {
    let name = said(class, &fault.subject);
    match fault.kind {
        FaultKind::TensorMissing => {
            let error =
                Error::input(format!("tensor {name} is missing, without which a {} model does not load", class.arch));
            match names::nearest_of(sources.iter().map(String::as_str), &name) {
                Some(near) => error.help(format!("the nearest name there is {near}; is the checkpoint complete?")),
                None => error,
            }
        }
        FaultKind::TensorShape => Error::input(format!("tensor {name}: {}", fault.message))
            .help("the weights and config.json do not belong together"),
        _ => Error::input(if name == fault.subject {
            fault.message.clone()
        } else {
            format!("tensor {name}: {}", fault.message)
        }),
    }
}

/// Whether the reference leaves this tensor out too, though the loader asks for it.
fn lacks(class: &Class, name: &str) -> bool {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    names::blocks_in("blk.{}.", stem).is_some_and(|(_, rest)| class.lacks.contains(&rest))
}

/// What the checkpoint calls a tensor of the file: the first spelling that leads to it.
fn said(class: &Class, target: &str) -> String {
    let (stem, suffix) =
        [".weight", ".bias"].iter().find_map(|s| Some((target.strip_suffix(s)?, *s))).unwrap_or((target, ""));
    let found = names::rules(class).find_map(|rule| {
        let (block, rest) = names::blocks_in(rule.to, stem)?;
        let fits = rest.is_empty() || matches!(rule.how, How::Split(_));
        (fits && !rule.to.is_empty()).then(|| names::with_block(rule.from, block).replace("{x}", "0"))
    });
    found.map_or_else(|| target.to_owned(), |from| from + suffix)
}
