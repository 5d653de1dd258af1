//! The recipes against what `llama-quantize --dry-run` decides for nine models of real size.

use gguf::{Metadata, Shape, TensorType, Value};
use quantize::plan::{Options, Plan, order};
use quantize::recipe::{FILE_TYPES, FileType};
use serde_json::Value as Json;

/// A model of a golden plan: metadata and, in file order, names with shapes.
fn model(golden: &Json) -> (Metadata, Vec<(String, Shape)>) {
    let mut metadata = Metadata::new();
    for (key, value) in golden["kv"].as_object().unwrap() {
        let value = match value {
            Json::String(text) => Value::from(text.as_str()),
            Json::Number(n) if n.is_u64() => Value::from(n.as_u64().unwrap() as u32),
            other => Value::from(other.as_f64().unwrap() as f32),
        };
        metadata.set(key.as_str(), value);
    }
    let arch = metadata.architecture().unwrap().to_owned();
    let layers = metadata.u64(&format!("{arch}.block_count")).unwrap();
    let mut tensors = Vec::new();
    for (pattern, shape) in golden["tensors"].as_object().unwrap() {
        let dims: Vec<u64> = shape.as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
        for layer in 0..if pattern.contains('*') { layers } else { 1 } {
            tensors.push((pattern.replace('*', &layer.to_string()), Shape::new(&dims).unwrap()));
        }
    }
    tensors.sort_by(|a, b| order(&a.0, &b.0));
    (metadata, tensors)
}

/// The type that a golden plan gives a tensor: `"q4_K"`, or runs over the layers such as `"q6_K*4 q4_K"`.
fn golden_type(plan: &Json, name: &str) -> TensorType {
    let (pattern, layer) = match quantize::recipe::layer(name) {
        Some(layer) => (name.replacen(&format!("blk.{layer}."), "blk.*.", 1), layer),
        None => (name.to_owned(), 0),
    };
    let Some(runs) = plan[&pattern].as_str() else { return TensorType::F32 };
    if !runs.contains(' ') {
        return runs.parse().unwrap();
    }
    let mut left = layer;
    for run in runs.split(' ') {
        let (ty, n) = run.split_once('*').map_or((run, 1), |(ty, n)| (ty, n.parse().unwrap()));
        if left < n {
            return ty.parse().unwrap();
        }
        left -= n;
    }
    panic!("{pattern}: {runs} ends before layer {layer}");
}

#[test]
fn plans_equal_the_reference_for_nine_models() {
    let mut files: Vec<_> = std::fs::read_dir(fixtures::path("golden/plans"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    assert_eq!(files.len(), 9);
    for file in files {
        let golden: Json = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let (metadata, tensors) = model(&golden);
        let plans = golden["plans"].as_object().unwrap();
        assert_eq!(plans.len(), 34);
        for (name, expected) in plans {
            let file_type: &'static FileType = name.parse().unwrap();
            // The models of the goldens are of BF16, their vectors of F32.
            let source_type = |s: &Shape| if s.dims().len() > 1 { TensorType::BF16 } else { TensorType::F32 };
            let infos: Vec<gguf::TensorInfo> =
                tensors.iter().map(|(n, s)| gguf::TensorInfo::new(n.as_str(), *s, source_type(s)).unwrap()).collect();
            // A dry run plans types whose importance is missing, as the reference's does.
            let options = Options { dry_run: true, ..Options::default() };
            let plan = Plan::new(&metadata, &infos, file_type, &options, None);
            if expected.is_null() {
                let error = plan.unwrap_err();
                assert_eq!(error.kind(), gguf::ErrorKind::Input, "{file:?} {name}: {error}");
                continue;
            }
            let plan = plan.unwrap_or_else(|e| panic!("{file:?} {name}: {e}"));
            assert_eq!(plan.tensors.len(), tensors.len());
            for tensor in &plan.tensors {
                let golden = golden_type(expected, tensor.info.name());
                assert_eq!(tensor.info.ty(), golden, "{} {name} {}", file.display(), tensor.info.name());
            }
        }
    }
}

#[test]
fn every_file_type_has_a_golden_but_the_trivial_ones() {
    let golden = fixtures::json("golden/plans/llama-2-7b.json");
    for row in FILE_TYPES {
        assert!(golden["plans"].get(row.name).is_some() || ["F32", "COPY"].contains(&row.name), "{row}");
    }
}
