//! The architecture's keys, and the tensors and shapes that they ask for.

use super::archs::{ARCHS, Arch};
use super::model::Model;
use super::scan::Tensor;
use super::{Place, Sink, shortened};
use crate::value::{Value, ValueType};

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

/// Keys that llama.cpp reads as u32.
const U32_KEYS: &[&str] = &[
    "context_length",
    "embedding_length",
    "block_count",
    "vocab_size",
    "expert_count",
    "expert_used_count",
    "expert_feed_forward_length",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "leading_dense_block_count",
    "attention.q_lora_rank",
    "attention.kv_lora_rank",
    "ssm.conv_kernel",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.time_step_rank",
];

/// Keys that may be one u32 or an array with an element a layer.
const LAYER_KEYS: &[&str] = &["attention.head_count", "attention.head_count_kv", "feed_forward_length"];

const FLOAT_KEYS: &[&str] = &[
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
    demanded(model, sink);
    types(model, sink);
    ranges(model, sink);
    heads(model, sink);
    rope(model, sink);
    blocks(model, sink);
    if let Some(arch) = ARCHS.iter().find(|a| a.name == model.arch) {
        tensors(model, arch, sink);
        shapes(model, arch, sink);
    }
}

fn demanded(model: &Model<'_>, sink: &mut Sink<'_>) {
    const EVERYWHERE: &[&str] = &["context_length", "embedding_length", "block_count"];
    const LLAMA: &[&str] = &["attention.head_count", "feed_forward_length", "attention.layer_norm_rms_epsilon"];
    let llama: &[&str] = if model.arch == "llama" { LLAMA } else { &[] };
    for suffix in EVERYWHERE.iter().chain(llama) {
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

fn types(model: &Model<'_>, sink: &mut Sink<'_>) {
    let blocks = model.number("block_count");
    for suffix in U32_KEYS.iter().chain(LAYER_KEYS) {
        let Some(value) = model.own(suffix) else { continue };
        let key = model.own_key(suffix);
        let per_layer = LAYER_KEYS.contains(suffix);
        match value {
            Value::U32(_) => {}
            Value::Array(array) if per_layer && matches!(array.element_type(), ValueType::U32 | ValueType::I32) => {
                if let Some(n) = blocks.filter(|&n| n != array.len()) {
                    let message = format_args!("{key} has {} elements for {n} blocks", array.len());
                    model.fault(sink, &HPARAM_ARRAY_LENGTH, &key, message);
                }
            }
            other => {
                let wanted = if per_layer { "a u32 or an array of u32" } else { "a u32" };
                let message = format_args!("{} is a {}, not {wanted}", shortened(&key), other.value_type());
                model.fault(sink, &HPARAM_TYPE, &key, message);
            }
        }
    }
    for suffix in FLOAT_KEYS {
        let Some(value) = model.own(suffix) else { continue };
        let key = model.own_key(suffix);
        match value {
            Value::F32(v) if v.is_finite() && *v > 0.0 => {}
            Value::F32(v) => model.fault(sink, &FLOAT_HPARAM_INVALID, &key, format_args!("{key} is {v}")),
            other => {
                let message = format_args!("{} is a {}, not a f32", shortened(&key), other.value_type());
                model.fault(sink, &HPARAM_TYPE, &key, message);
            }
        }
    }
}

/// Architectures without attention, whose head count is 0.
const RECURRENT: &[&str] = &["mamba", "mamba2", "rwkv6", "rwkv7", "arwkv7", "rwkv6qwen2", "wavtokenizer-dec"];

fn ranges(model: &Model<'_>, sink: &mut Sink<'_>) {
    let mut outside = |suffix: &str, low: u64, high: u64| {
        if let Some(n) = model.number(suffix).filter(|n| !(low..=high).contains(n)) {
            let key = model.own_key(suffix);
            model.fault(sink, &HPARAM_RANGE, &key, format_args!("{key} is {n}, not {low} to {high}"));
        }
    };
    outside("block_count", 1, 512);
    outside("expert_count", 0, 1024);
    match model.number("expert_count").unwrap_or(0) {
        0 => outside("expert_used_count", 0, 0),
        n => outside("expert_used_count", 1, n),
    }
    outside("embedding_length", 1, u64::from(u32::MAX));
    if !RECURRENT.contains(&model.arch) {
        outside("attention.head_count", 1, u64::from(u32::MAX));
    }
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

/// The lengths of a head's keys and values.
fn head_lengths(model: &Model<'_>) -> Option<(u64, u64)> {
    let derived = || model.number("embedding_length")?.checked_div(model.number("attention.head_count")?);
    let key = model.number("attention.key_length").or_else(derived)?;
    Some((key, model.number("attention.value_length").or_else(derived)?))
}

fn rope(model: &Model<'_>, sink: &mut Sink<'_>) {
    if ["llama", "deci", "falcon"].contains(&model.arch)
        && let Some((n, (head, _))) = model.number("rope.dimension_count").zip(head_lengths(model))
        && n != head
    {
        let key = model.own_key("rope.dimension_count");
        model.fault(sink, &ROPE_DIMENSION_MISMATCH, &key, format_args!("{key} is {n}, a head has {head}"));
    }
    if let Some(value) = model.own("rope.scaling.type")
        && !value.as_str().is_some_and(|t| ["none", "linear", "yarn", "longrope"].contains(&t))
    {
        let key = model.own_key("rope.scaling.type");
        model.fault(sink, &ROPE_SCALING_TYPE, &key, format_args!("{key} is {value:?}"));
    }
}

/// The stack and the number of the block that a tensor belongs to, and its name there.
fn block_of(name: &str) -> Option<(&str, u64, &str)> {
    let (stack, rest) = match name.split_once("blk.")? {
        (stack @ ("" | "enc." | "dec."), rest) => (stack, rest),
        _ => return None,
    };
    let (number, rest) = rest.split_once('.')?;
    Some((stack, number.parse().ok()?, rest))
}

fn block_count(model: &Model<'_>, stack: &str) -> Option<u64> {
    match stack {
        "dec." => model.number("decoder_block_count").or_else(|| model.number("block_count")),
        _ => model.number("block_count"),
    }
}

fn blocks(model: &Model<'_>, sink: &mut Sink<'_>) {
    for &(path, tensor) in &model.tensors {
        let Some((stack, n, _)) = block_of(&tensor.name) else { continue };
        if let Some(count) = block_count(model, stack).filter(|&count| n >= count) {
            let message = format_args!("tensor {} is beyond the {count} blocks", shortened(&tensor.name));
            model.tensor_fault(sink, &BLOCK_INDEX_RANGE, (path, tensor), message);
        }
    }
}

/// The name of a tensor without what it is of the weights: `.weight`, `.bias`, the scales of some types.
fn base(name: &str) -> &str {
    [".weight", ".bias", ".scale", ".input_scale"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name)
}

fn tensors(model: &Model<'_>, arch: &Arch, sink: &mut Sink<'_>) {
    let missing = |name: &str, sink: &mut Sink<'_>| {
        sink.add(&TENSOR_MISSING, Place::absent_tensor(name), format_args!("tensor {name} is missing"));
    };
    for name in arch.once.iter().filter(|n| !model.by_name.contains_key(**n)) {
        missing(name, sink);
    }
    for pattern in arch.block {
        let stack = pattern.split_once("blk.").map_or("", |p| p.0);
        // More blocks than 512 are another rule's finding; so are tensors of blocks that there are not.
        for i in 0..block_count(model, stack).unwrap_or(0).min(512) {
            let name = pattern.replacen("{}", &i.to_string(), 1);
            if !model.by_name.contains_key(name.as_str()) && !replaced(model, &name) {
                missing(&name, sink);
            }
        }
    }
    for &(path, tensor) in &model.tensors {
        let own = match block_of(base(&tensor.name)) {
            Some((stack, _, rest)) => format!("{stack}blk.{{}}.{rest}"),
            None => base(&tensor.name).to_owned(),
        };
        if !arch.may.contains(&own.as_str()) {
            let message = format_args!("{} has no tensor {}", arch.name, shortened(&tensor.name));
            model.tensor_fault(sink, &TENSOR_UNEXPECTED, (path, tensor), message);
        }
    }
}

/// Whether another tensor stands for this one: three projections may be fused, and experts take the place of a layer.
fn replaced(model: &Model<'_>, name: &str) -> bool {
    let Some((block, last)) = name.strip_suffix(".weight").and_then(|n| n.rsplit_once('.')) else { return false };
    let has = |other: &str| model.by_name.contains_key(format!("{block}.{other}.weight").as_str());
    match last {
        "attn_q" | "attn_k" | "attn_v" => has("attn_qkv"),
        "attn_qkv" => has("attn_q") && has("attn_k") && has("attn_v"),
        "ffn_gate" | "ffn_up" | "ffn_down" => has(&format!("{last}_exps")),
        "ffn_gate_exps" | "ffn_up_exps" => has("ffn_gate_up_exps"),
        _ => false,
    }
}

/// A dimension that the keys ask for; `None` where they do not say.
type Dim = Option<u64>;

/// One row: the tensors of these names have one of these shapes, in ggml order.
fn shapes(model: &Model<'_>, arch: &Arch, sink: &mut Sink<'_>) {
    let embd = model.number("embedding_length");
    let vocab = model.number("vocab_size").or_else(|| Some(model.get("tokenizer.ggml.tokens")?.as_array()?.len()));
    let head = head_lengths(model);
    let (hk, hv) = (head.map(|h| h.0), head.map(|h| h.1));
    let experts = model.number("expert_count");
    let per_layer = |suffix: &str, i: u64| match model.own(suffix)? {
        Value::Array(array) => array.to_u64s()?.get(usize::try_from(i).ok()?).copied(),
        value => value.as_u64(),
    };
    let times = |a: Dim, b: Dim| a?.checked_mul(b?);
    // Latent attention has other shapes, which nothing here describes.
    let latent = model.own("attention.kv_lora_rank").is_some();
    for &(path, tensor) in &model.tensors {
        let (block, name) = match block_of(&tensor.name) {
            Some((_, i, rest)) => (i, rest),
            None => (0, tensor.name.as_str()),
        };
        let heads = per_layer("attention.head_count", block);
        let kv = per_layer("attention.head_count_kv", block).or(heads);
        let ff = per_layer("feed_forward_length", block).filter(|_| arch.ff_is_said);
        let expert_ff = model.number("expert_feed_forward_length").or(ff);
        let wanted: Vec<Vec<Dim>> = match name {
            "token_embd.weight" | "output.weight" => vec![vec![embd, vocab]],
            "attn_q.weight" if !latent => vec![vec![embd, times(hk, heads)]],
            "attn_k.weight" if !latent => vec![vec![embd, times(hk, kv)]],
            "attn_v.weight" if !latent => vec![vec![embd, times(hv, kv)]],
            "attn_output.weight" if !latent => vec![vec![times(hv, heads), embd]],
            // Some models norm each head, others all together.
            "attn_q_norm.weight" if !latent => vec![vec![hk], vec![times(hk, heads)], vec![hk, heads]],
            "attn_k_norm.weight" if !latent => vec![vec![hk], vec![times(hk, kv)], vec![hk, kv]],
            "ffn_gate.weight" => vec![vec![embd, ff]],
            // Gate and up may be one matrix.
            "ffn_up.weight" => vec![vec![embd, ff], vec![embd, times(ff, Some(2))]],
            "ffn_down.weight" => vec![vec![ff, embd]],
            "ffn_gate_inp.weight" => vec![vec![embd, experts]],
            "ffn_gate_exps.weight" | "ffn_up_exps.weight" => vec![vec![embd, expert_ff, experts]],
            "ffn_down_exps.weight" => vec![vec![expert_ff, embd, experts]],
            "attn_norm.weight"
            | "ffn_norm.weight"
            | "output_norm.weight"
            | "post_attention_norm.weight"
            | "post_ffw_norm.weight"
            | "attn_output_norm.weight"
            | "layer_output_norm.weight"
            | "token_embd_norm.weight" => vec![vec![embd]],
            _ => continue,
        };
        if !wanted.iter().any(|shape| fits(tensor, shape)) {
            let shape: Vec<String> =
                wanted[0].iter().map(|d| d.map_or_else(|| "any".into(), |d| d.to_string())).collect();
            let message = format_args!(
                "tensor {} has the shape {:?}, the keys of {} ask for [{}]",
                shortened(&tensor.name),
                tensor.dims,
                arch.name,
                shape.join(", ")
            );
            model.tensor_fault(sink, &TENSOR_SHAPE_MISMATCH, (path, tensor), message);
        }
    }
}

/// Trailing dimensions of 1 say nothing.
fn fits(tensor: &Tensor, wanted: &[Dim]) -> bool {
    let n = tensor.dims.len().max(wanted.len());
    (0..n).all(|i| {
        let have = tensor.dims.get(i).copied().unwrap_or(1);
        wanted.get(i).copied().unwrap_or(Some(1)).is_none_or(|want| want == have)
    })
}
