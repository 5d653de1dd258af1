//! The architecture's keys, and the tensors and shapes that they ask for: what [`crate::arch`] says of the model.

use std::collections::HashMap;

use super::finding::{Place, Rule, Sink};
use super::model::Model;
use crate::arch::{self, Fault, FaultKind};
use crate::quote::shortened;
use crate::value::Value;

rules! { Hyperparameters;
    HPARAM_MISSING = "hparam-missing" Error "llama.cpp"
        "context_length, embedding_length and block_count are there, expert_used_count where there are experts; for llama also head_count, feed_forward_length and layer_norm_rms_epsilon"
        => "convert the checkpoint again, or `gguf set FILE ARCH.KEY VALUE`";
    HPARAM_TYPE = "hparam-type" Error "llama.cpp"
        "counts and lengths are u32, or per-layer arrays of u32 or i32 where llama.cpp takes them"
        => "`gguf set FILE ARCH.KEY VALUE`, which knows the type";
    HPARAM_RANGE = "hparam-range" Error "llama.cpp"
        "block_count is 1 to 512, expert_count at most 1024, expert_used_count 1 to expert_count, head_count above 0"
        => "the file is damaged, or for a program with other limits";
    HPARAM_ARRAY_LENGTH = "hparam-array-length" Error "llama.cpp"
        "a per-layer array has block_count elements"
        => "convert the checkpoint again";
    HEAD_DIVISIBILITY = "head-divisibility" Error "llama.cpp; CVE-2025-0317"
        "heads divide the embedding (unless key_length is given), and kv heads divide heads"
        => "convert the checkpoint again";
    ROPE_DIMENSION_MISMATCH = "rope-dimension-mismatch" Error "llama.cpp"
        "in llama, deci and falcon rope.dimension_count is the length of a head"
        => "`gguf remove FILE ARCH.rope.dimension_count`";
    ROPE_SCALING_TYPE = "rope-scaling-type" Error "llama.cpp"
        "rope.scaling.type is none, linear, yarn or longrope"
        => "`gguf set FILE ARCH.rope.scaling.type TYPE`";
    FLOAT_HPARAM_INVALID = "float-hparam-invalid" Error "ours"
        "epsilons and rope bases are finite and above 0"
        => "`gguf set FILE ARCH.KEY VALUE`";
    TENSOR_MISSING = "tensor-missing" Error "llama.cpp"
        "every tensor that the architecture demands is there"
        => "convert the checkpoint again; a shard or tensor was lost";
    TENSOR_UNEXPECTED = "tensor-unexpected" Error "llama.cpp"
        "every tensor is one that the architecture has"
        => "llama.cpp refuses to load what it does not use; convert again without it";
    BLOCK_INDEX_RANGE = "block-index-range" Error "ours"
        "no tensor belongs to a block beyond block_count"
        => "`gguf set FILE ARCH.block_count N`, or convert again";
    TENSOR_SHAPE_MISMATCH = "tensor-shape-mismatch" Error "llama.cpp"
        "shapes are those that the hyperparameters ask for"
        => "convert the checkpoint again";
}

/// Keys that every architecture has, also those without a row.
const EVERYWHERE: &[&str] = &["context_length", "embedding_length", "block_count"];

/// Keys that a llama cannot run without though the loader has a default.
const LLAMA: &[&str] = &["attention.head_count", "feed_forward_length"];

/// Numbers under which nothing can be computed.
const POSITIVE: &[&str] = &[
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.group_norm_epsilon",
    "rope.freq_base",
    "rope.freq_base_swa",
];

pub(super) fn check(model: &Model<'_>, sink: &mut Sink<'_>) {
    if model.arch.is_empty() || model.arch == "clip" || model.kind != "model" {
        return;
    }
    positive(model, sink);
    heads(model, sink);
    let Some(row) = arch::find(model.arch) else {
        demanded(model, EVERYWHERE, sink);
        return;
    };
    if model.arch == "llama" {
        demanded(model, LLAMA, sink);
    }
    let shapes: HashMap<String, Vec<u64>> =
        model.tensors.iter().rev().map(|(_, t)| (t.name.clone(), t.dims.clone())).collect();
    let get = |key: &str| model.get(key);
    let (dims, faults) = row.dims(&get, shapes);
    for fault in &faults {
        model.fault(sink, rule_of(fault), &fault.subject, format_args!("{}", fault.message));
    }
    zeros(model, row, sink);
    // Shapes say nothing where the keys that they are computed from are missing or wrong. A file without any tensor is a
    // vocabulary alone.
    if !faults.is_empty() || model.tensors.is_empty() {
        return;
    }
    for fault in row.plan(&dims).faults(&dims) {
        let tensor = model.tensors.iter().find(|(_, t)| t.name == fault.subject);
        let message = format_args!("{}", fault.message);
        match tensor {
            Some(&(path, tensor)) => {
                let rule = match block_of(&tensor.name) {
                    Some(n) if fault.kind == FaultKind::TensorUnexpected && n >= dims.layers_all as u64 => {
                        &BLOCK_INDEX_RANGE
                    }
                    _ => rule_of(&fault),
                };
                model.tensor_fault(sink, rule, (path, tensor), message);
            }
            None if fault.kind == FaultKind::TensorMissing => {
                sink.add(&TENSOR_MISSING, Place::absent_tensor(&fault.subject), message);
            }
            None => model.fault(sink, rule_of(&fault), &fault.subject, message),
        }
    }
}

/// The rule that a fault breaks.
fn rule_of(fault: &Fault) -> &'static Rule {
    match fault.kind {
        FaultKind::KeyMissing => &HPARAM_MISSING,
        FaultKind::KeyType => &HPARAM_TYPE,
        FaultKind::ArrayLength => &HPARAM_ARRAY_LENGTH,
        FaultKind::Range => &HPARAM_RANGE,
        FaultKind::Rotation => &ROPE_DIMENSION_MISMATCH,
        FaultKind::Scaling => &ROPE_SCALING_TYPE,
        FaultKind::TensorMissing => &TENSOR_MISSING,
        FaultKind::TensorUnexpected => &TENSOR_UNEXPECTED,
        FaultKind::TensorShape => &TENSOR_SHAPE_MISMATCH,
    }
}

fn demanded(model: &Model<'_>, keys: &[&str], sink: &mut Sink<'_>) {
    for suffix in keys {
        if model.own(suffix).is_none() {
            let key = model.own_key(suffix);
            model.fault(sink, &HPARAM_MISSING, &key, format_args!("{} is missing", shortened(&key)));
        }
    }
    if let Some(n) = model.number("expert_count").filter(|&n| n > 0)
        && model.own("expert_used_count").is_none()
    {
        let key = model.own_key("expert_used_count");
        let message = format_args!("{} is missing for {n} experts", shortened(&key));
        model.fault(sink, &HPARAM_MISSING, &key, message);
    }
}

fn positive(model: &Model<'_>, sink: &mut Sink<'_>) {
    for suffix in POSITIVE {
        if let Some(Value::F32(v)) = model.own(suffix)
            && !(v.is_finite() && *v > 0.0)
        {
            let key = model.own_key(suffix);
            model.fault(sink, &FLOAT_HPARAM_INVALID, &key, format_args!("{key} is {v}"));
        }
    }
}

/// Lengths that no model has.
fn zeros(model: &Model<'_>, row: &arch::Arch, sink: &mut Sink<'_>) {
    let attends = !row.recurrent && !row.stacks.is_empty() && model.arch != "wavtokenizer-dec";
    let zero = |suffix: &str| model.number(suffix) == Some(0);
    for suffix in ["embedding_length"].into_iter().chain(attends.then_some("attention.head_count")) {
        if zero(suffix) {
            let key = model.own_key(suffix);
            model.fault(sink, &HPARAM_RANGE, &key, format_args!("{key} is 0"));
        }
    }
}

/// The layer that a tensor of any stack of blocks belongs to.
fn block_of(name: &str) -> Option<u64> {
    name.split_once("blk.")?.1.split_once('.')?.0.parse().ok()
}

fn heads(model: &Model<'_>, sink: &mut Sink<'_>) {
    let (embedding, heads) = (model.number("embedding_length"), model.number("attention.head_count"));
    let key = model.own_key("attention.head_count");
    let Some(heads) = heads.filter(|&n| n > 0) else { return };
    if let Some(e) = embedding.filter(|e| model.own("attention.key_length").is_none() && !e.is_multiple_of(heads)) {
        model.fault(sink, &HEAD_DIVISIBILITY, &key, format_args!("{heads} heads do not divide an embedding of {e}"));
    }
    if let Some(kv) = model.number("attention.head_count_kv").filter(|&kv| kv > 0 && !heads.is_multiple_of(kv)) {
        model.fault(sink, &HEAD_DIVISIBILITY, &key, format_args!("{kv} kv heads do not divide {heads} heads"));
    }
}
