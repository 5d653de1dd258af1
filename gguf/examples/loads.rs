//! Says whether llama.cpp would load a file, and with each key or tensor removed or resized: `loads FILE...`.
//!
//! One JSON line a file: `{"file", "fault", "unread", "keys": {name: fault}, "tensors": {…}, "resized": {…}}`, a fault
//! being null where the file would load; `unread` are keys of the architecture that its row does not know. Read by the
//! comparison with the published facts about the loader.

use std::collections::HashMap;

use gguf::Source as _;
use serde_json::{Map, Value as Json, json};

fn main() -> gguf::Result<()> {
    for path in std::env::args().skip(1) {
        let file = gguf::File::open(&path)?;
        let name = file.metadata().architecture().unwrap_or_default().to_owned();
        let Some(arch) = gguf::arch::find(&name) else {
            println!("{}", json!({"file": path, "fault": format!("the architecture {name} has no row")}));
            continue;
        };
        let all: HashMap<String, Vec<u64>> =
            file.tensors().iter().map(|t| (t.name().to_owned(), t.shape().dims().to_vec())).collect();
        let verdict = |without: &str, shapes: HashMap<String, Vec<u64>>| {
            let get = |key: &str| file.metadata().get(key).filter(|_| key != without);
            let (dims, mut faults) = arch.dims(&get, shapes);
            if faults.is_empty() {
                faults = arch.plan(&dims).faults(&dims);
            }
            faults.first().map_or(Json::Null, |f| Json::from(f.message.clone()))
        };
        let mut keys = Map::new();
        for (key, _) in file.metadata().iter().filter(|(k, _)| !k.starts_with("general.")) {
            keys.insert(key.to_owned(), verdict(key, all.clone()));
        }
        let (mut tensors, mut resized) = (Map::new(), Map::new());
        for name in all.keys() {
            let mut without = all.clone();
            without.remove(name);
            tensors.insert(name.clone(), verdict("", without));
            let mut other = all.clone();
            if let Some(shape) = other.get_mut(name) {
                shape[0] += 1;
            }
            resized.insert(name.clone(), verdict("", other));
        }
        let fault = verdict("", all.clone());
        let dims = arch.dims(&|key| file.metadata().get(key), all).0;
        let unread: Vec<&str> = file
            .metadata()
            .iter()
            .map(|(key, _)| key)
            .filter(|key| key.starts_with(&format!("{name}.")) && !dims.read.contains(*key))
            .collect();
        println!(
            "{}",
            json!({"file": path, "fault": fault, "unread": unread, "keys": keys, "tensors": tensors, "resized": resized})
        );
    }
    Ok(())
}
