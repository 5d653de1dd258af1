//! What `gguf check` says of a model, and of the model with each key or tensor removed or resized: `loads FILE...`.
//!
//! One JSON line a file: `{"file", "fault", "unread", "keys": {name: fault}, "tensors": {…}, "resized": {…}}`, a fault
//! being null where llama.cpp would load the file; `unread` are keys of the architecture that its row does not know. Read
//! by the comparison with the published facts about the loader.

use gguf::check::{self, Group};
use gguf::{Metadata, Shape, Source as _, TensorInfo};
use serde_json::{Map, Value as Json, json};

/// The first rule about hyperparameters and tensors that the model breaks.
fn verdict(metadata: &Metadata, tensors: &[TensorInfo]) -> Json {
    let found = check::faults(metadata, tensors).map(|findings| {
        findings
            .into_iter()
            .find(|f| f.rule.group == Group::Hyperparameters)
            .map(|f| format!("{}: {}", f.rule.name, f.message))
    });
    match found {
        Ok(fault) => fault.into(),
        Err(error) => error.to_string().into(),
    }
}

/// A tensor that is one longer in its first dimension.
fn longer(tensor: &TensorInfo) -> gguf::Result<TensorInfo> {
    let mut dims = tensor.shape().dims().to_vec();
    dims[0] += 1;
    TensorInfo::new(tensor.name(), Shape::new(&dims)?, gguf::TensorType::F32)
}

fn main() -> gguf::Result<()> {
    for path in std::env::args().skip(1) {
        let file = gguf::File::open(&path)?;
        let (metadata, all) = (file.metadata(), file.tensors());
        let name = metadata.architecture().unwrap_or_default();
        let Some(arch) = gguf::arch::find(name) else {
            println!("{}", json!({"file": path, "fault": format!("the architecture {name} has no row")}));
            continue;
        };
        let mut keys = Map::new();
        for (key, _) in metadata.iter().filter(|(k, _)| !k.starts_with("general.")) {
            let without: Metadata =
                metadata.iter().filter(|(k, _)| *k != key).map(|(k, v)| (k.to_owned(), v.clone())).collect();
            keys.insert(key.to_owned(), verdict(&without, all));
        }
        let (mut tensors, mut resized) = (Map::new(), Map::new());
        for (i, tensor) in all.iter().enumerate() {
            let mut other = all.to_vec();
            other[i] = longer(tensor)?;
            resized.insert(tensor.name().to_owned(), verdict(metadata, &other));
            other.remove(i);
            tensors.insert(tensor.name().to_owned(), verdict(metadata, &other));
        }
        let shapes = all.iter().map(|t| (t.name().to_owned(), t.shape().dims().to_vec())).collect();
        let dims = arch.dims(&|key| metadata.get(key), shapes).0;
        let own = |key: &&str| key.starts_with(&format!("{name}.")) && !dims.read.contains(*key);
        let unread: Vec<&str> = metadata.iter().map(|(key, _)| key).filter(own).collect();
        let fault = verdict(metadata, all);
        println!(
            "{}",
            json!({"file": path, "fault": fault, "unread": unread, "keys": keys, "tensors": tensors, "resized": resized})
        );
    }
    Ok(())
}
