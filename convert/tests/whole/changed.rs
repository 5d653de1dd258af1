//! Checkpoints of which a tensor is changed.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// A checkpoint in one file of which tensors can be changed.
pub struct Weights {
    pub header: Map<String, Value>,
    data: Vec<u8>,
}

impl Weights {
    pub fn read(folder: &Path) -> Weights {
        let bytes = fs::read(folder.join("model.safetensors")).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        header.shift_remove("__metadata__");
        Weights { header, data: bytes[8 + length..].to_vec() }
    }

    pub fn shape(&self, name: &str) -> Vec<u64> {
        serde_json::from_value(self.header[name]["shape"].clone()).unwrap()
    }

    /// Writes the checkpoint with this tensor changed.
    pub fn write(&self, folder: &Path, changed: &str, change: &Change) {
        let (mut header, mut data) = (Map::new(), Vec::with_capacity(self.data.len()));
        for (name, entry) in &self.header {
            let (mut entry, start) = (entry.clone(), data.len());
            let [from, to] = [0, 1].map(|i| entry["data_offsets"][i].as_u64().unwrap() as usize);
            let own = &self.data[from..to];
            match change {
                _ if name != changed => data.extend_from_slice(own),
                Change::Without => continue,
                Change::Type(dtype, size) => {
                    let elements = self.shape(name).iter().product::<u64>() as usize;
                    data.resize(data.len() + elements * size, 0);
                    entry["dtype"] = json!(dtype);
                }
                Change::Shape(shape) => {
                    let elements = self.shape(name).iter().product::<u64>() as usize;
                    let bytes = shape.iter().product::<u64>() as usize * (own.len() / elements);
                    data.extend(own.iter().copied().cycle().take(bytes));
                    entry["shape"] = json!(shape);
                }
            }
            entry["data_offsets"] = json!([start, data.len()]);
            header.insert(name.clone(), entry);
        }
        let header = Value::Object(header).to_string();
        let all = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
        fs::write(folder.join("model.safetensors"), all).unwrap();
    }
}

/// What is done to a tensor.
#[derive(Debug)]
pub enum Change {
    Without,
    Shape(Vec<u64>),
    /// Its elements are of another type, of this many bytes.
    Type(&'static str, usize),
}

/// Whether an error names this tensor, and not only one that its name begins.
pub fn names(error: &str, tensor: &str) -> bool {
    let part_of_a_name = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    error.match_indices(tensor).any(|(at, _)| {
        let mut after = error[at + tensor.len()..].chars();
        let next = after.next();
        let ends = match next {
            Some('.') => !after.next().is_some_and(part_of_a_name),
            next => !next.is_some_and(part_of_a_name),
        };
        ends && !error[..at].ends_with(|c: char| part_of_a_name(c) || c == '.')
    })
}
