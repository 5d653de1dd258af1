//! Adapters.

use super::finding::Sink;
use super::model::Model;
use crate::quote::shortened;
use crate::value::Value;

rules! { Lora;
    ADAPTER_INVALID = "adapter-invalid" Error "llama.cpp"
        "an adapter says adapter.type lora, adapter.lora.alpha as f32, and holds .lora_a and .lora_b in pairs"
        => "convert the adapter again";
}

pub(super) fn check(model: &Model<'_>, sink: &mut Sink<'_>) {
    if model.kind != "adapter" {
        return;
    }
    if model.get("adapter.type").and_then(Value::as_str) != Some("lora") {
        model.fault(sink, &ADAPTER_INVALID, "adapter.type", format_args!("adapter.type is not \"lora\""));
    }
    if !matches!(model.get("adapter.lora.alpha"), Some(Value::F32(_))) {
        model.fault(sink, &ADAPTER_INVALID, "adapter.lora.alpha", format_args!("adapter.lora.alpha is no f32"));
    }
    for &(path, tensor) in &model.tensors {
        let twin = match (tensor.name.strip_suffix(".lora_a"), tensor.name.strip_suffix(".lora_b")) {
            (Some(base), _) => format!("{base}.lora_b"),
            (_, Some(base)) => format!("{base}.lora_a"),
            _ => continue,
        };
        if !model.by_name.contains_key(twin.as_str()) {
            let message = format_args!("tensor {} has no {}", shortened(&tensor.name), shortened(&twin));
            model.tensor_fault(sink, &ADAPTER_INVALID, (path, tensor), message);
        }
    }
}
