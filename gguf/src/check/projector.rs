//! Projector files: what [`crate::projector`] says of them.

use std::collections::HashMap;

use super::finding::{Place, Rule, Sink};
use super::model::Model;
use crate::projector::{self, Fault};
use crate::quote::shortened;

rules! { Projector;
    PROJECTOR_EMPTY = "projector-empty" Error "ours"
        "a projector file holds tensors"
        => "the folder that it came from had no towers; convert the whole checkpoint with --mmproj";
    PROJECTOR_TOWER = "projector-tower" Error "llama.cpp"
        "clip.has_vision_encoder, has_audio_encoder or has_gen_audio_encoder is true, and each tower has a kind that is known"
        => "convert the checkpoint again with --mmproj, or `gguf set FILE clip.projector_type KIND`";
    PROJECTOR_KEY_MISSING = "projector-key-missing" Error "llama.cpp"
        "the keys of each tower are there: its width, heads, layers, epsilon, and what its kind asks for"
        => "convert the checkpoint again with --mmproj";
    PROJECTOR_KEY_VALUE = "projector-key-value" Error "llama.cpp"
        "sizes are within llama.cpp's limits, heads divide the width, means and deviations are of three channels"
        => "`gguf set FILE KEY VALUE`, or convert the checkpoint again";
    PROJECTOR_TENSOR_MISSING = "projector-tensor-missing" Error "llama.cpp"
        "every tensor that the kind of projector demands is there, in every layer"
        => "convert the checkpoint again; a shard or tensor was lost";
    PROJECTOR_TENSOR_LACKING = "projector-tensor-lacking" Warning "llama.cpp"
        "what llama.cpp demands and its converter may leave out is there (Pixtral's break token, Granite's folded norm)"
        => "llama.cpp does not load the file; other programs may";
    PROJECTOR_LAYER_RANGE = "projector-layer-range" Error "ours"
        "no tensor belongs to a layer beyond the tower's block_count"
        => "`gguf set FILE clip.vision.block_count N`, or convert again";
    PROJECTOR_SHAPE = "projector-shape" Error "ours"
        "tensors are as wide as the keys say, those of one layer as those of others, and each takes what the one before it gives"
        => "convert the checkpoint again with --mmproj";
}

pub(super) fn check(model: &Model<'_>, sink: &mut Sink<'_>) {
    if model.arch != "clip" || !matches!(model.kind, "model" | "mmproj") {
        return;
    }
    if model.tensors.is_empty() {
        sink.add(&PROJECTOR_EMPTY, Place::default(), format_args!("the file has no tensors"));
        return;
    }
    let tensors: Vec<(&str, &[u64])> = model.tensors.iter().map(|(_, t)| (t.name.as_str(), &t.dims[..])).collect();
    let places: HashMap<&str, _> = model.tensors.iter().map(|place| (place.1.name.as_str(), *place)).collect();
    let by_name = |name: &str| places.get(name).copied();
    let key = |sink: &mut Sink<'_>, rule: &'static Rule, key: &str, message: std::fmt::Arguments<'_>| {
        model.fault(sink, rule, key, message);
    };
    let faults = projector::faults(&|key| model.get(key), &tensors);
    for fault in &faults {
        match fault {
            Fault::NoTower => {
                let first = "clip.has_vision_encoder";
                key(sink, &PROJECTOR_TOWER, first, format_args!("no key says that the file has a tower"));
            }
            Fault::Kind(name, kind) if kind.is_empty() => {
                key(sink, &PROJECTOR_TOWER, name, format_args!("{name} is not there"));
            }
            Fault::Kind(name, kind) => {
                let kind = shortened(kind);
                key(sink, &PROJECTOR_TOWER, name, format_args!("{name} is {kind}, which is no kind of such a tower"));
            }
            Fault::Key(name) => key(sink, &PROJECTOR_KEY_MISSING, name, format_args!("{name} is not there")),
            Fault::Value(name, what) => key(sink, &PROJECTOR_KEY_VALUE, name, format_args!("{name}: {what}")),
            Fault::Tensor(name) => {
                let message = format_args!("tensor {} is not there", shortened(name));
                sink.add(&PROJECTOR_TENSOR_MISSING, Place::absent_tensor(name), message);
            }
            Fault::Lacking(name) => {
                let message = format_args!("tensor {} is not there", shortened(name));
                sink.add(&PROJECTOR_TENSOR_LACKING, Place::absent_tensor(name), message);
            }
            Fault::Beyond(name) => {
                if let Some(tensor) = by_name(name) {
                    let message = format_args!("tensor {} is of a layer beyond block_count", shortened(name));
                    model.tensor_fault(sink, &PROJECTOR_LAYER_RANGE, tensor, message);
                }
            }
            Fault::Apart(first, name, what) => {
                if let Some(tensor) = by_name(name) {
                    let (first, name) = (shortened(first), shortened(name));
                    let message = format_args!("tensors {first} and {name} do not fit each other: {what}");
                    model.tensor_fault(sink, &PROJECTOR_SHAPE, tensor, message);
                }
            }
            Fault::Shape(name, what) => {
                if let Some(tensor) = by_name(name) {
                    let message = format_args!("tensor {}: {what}", shortened(name));
                    model.tensor_fault(sink, &PROJECTOR_SHAPE, tensor, message);
                }
            }
        }
    }
}
