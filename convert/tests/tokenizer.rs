//! Tokenizers against what the reference converter wrote and what the reference tokenizer encoded.

use std::path::PathBuf;

use convert::tokenizer::{self, Request, Tokenizer, VocabKind};
use gguf::{Metadata, Value};
use serde_json::json;
use sha2::{Digest, Sha256};

/// The way of reading a vocabulary that the architecture's row names, for the folders of the goldens.
const KINDS: &[(&str, VocabKind)] = &[
    ("Mistral-Tiny-v0.1", VocabKind::Llama),
    ("Mixtral-Tiny-4x1B", VocabKind::Llama),
    ("Tiny-Llama-2-7B-Chat", VocabKind::Llama),
    ("Tiny-Llama-Bias", VocabKind::Llama),
    ("Tiny-Llama-MQA-256", VocabKind::Llama),
];

fn folder(name: &str) -> PathBuf {
    fixtures::path(&format!("golden/arch/{name}/hf/{name}"))
}

fn metadata(dir: &std::path::Path, kind: VocabKind) -> Metadata {
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    tokenizer::metadata(dir, &config, kind, &Request::default()).unwrap_or_else(|e| panic!("{}: {e:?}", dir.display()))
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// A value as the golden file shows it: its type, and itself or its length and hash.
fn shown(value: &Value) -> (String, serde_json::Value) {
    let name = |ty: gguf::ValueType| match ty.name() {
        "u32" => "uint32".to_owned(),
        "i32" => "int32".to_owned(),
        "f32" => "float32".to_owned(),
        "str" => "string".to_owned(),
        other => other.to_owned(),
    };
    match value {
        Value::Array(array) => {
            let mut hash = Sha256::new();
            for item in array.iter() {
                match item {
                    Value::String(text) => {
                        hash.update((text.as_bytes().len() as u64).to_le_bytes());
                        hash.update(text.as_bytes());
                    }
                    Value::I32(v) => hash.update(v.to_le_bytes()),
                    Value::F32(v) => hash.update(v.to_le_bytes()),
                    Value::U8(v) => hash.update([v]),
                    other => panic!("unexpected {other:?}"),
                }
            }
            (format!("{}[]", name(array.element_type())), json!({"len": array.len(), "sha256": hex(hash.finalize())}))
        }
        Value::String(text) => ("string".into(), json!(text.as_str().unwrap())),
        Value::Bool(b) => ("bool".into(), json!(b)),
        other => (name(other.value_type()), json!(other.as_u64().unwrap())),
    }
}

#[test]
fn metadata_equals_the_reference() {
    let golden = fixtures::json("golden/tokenizer/metadata.json");
    for (name, kind) in KINDS {
        let ours: Vec<_> = metadata(&folder(name), *kind)
            .iter()
            .map(|(key, value)| {
                let (ty, value) = shown(value);
                json!([key, ty, value])
            })
            .collect();
        // The architecture's own parameters may put tokenizer keys in front; those are not the tokenizer's doing.
        let theirs: Vec<_> = golden[name].as_array().unwrap().clone();
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn tiny_llama_encodes_its_sample_as_the_reference_does() {
    let dir = fixtures::path("models/tiny-llama");
    let tokenizer = Tokenizer::from_metadata(&metadata(&dir, VocabKind::Llama)).unwrap();
    let text = String::from_utf8(fixtures::bytes("models/tiny-llama/sample.txt")).unwrap();
    let ids = tokenizer.encode(&text, true, false).unwrap();
    let golden = &fixtures::json("golden/tiny-llama/expected.json")["tokens"];
    assert_eq!(ids.len() as u64, golden["count"].as_u64().unwrap());
    let head: Vec<u64> = golden["head"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect();
    assert_eq!(ids.iter().take(head.len()).map(|&id| u64::from(id)).collect::<Vec<_>>(), head);
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    assert_eq!(fixtures::sha256(&bytes), golden["ids_sha256"].as_str().unwrap());
    assert_eq!(tokenizer.decode(&ids), text.as_bytes());
}
