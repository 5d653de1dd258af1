//! Tokenizers against what the reference converter wrote and what the reference tokenizer encoded.

use std::path::PathBuf;

use convert::tokenizer::{self, Request, Tokenizer, VocabKind};
use gguf::{Metadata, Value};
use serde_json::json;
use sha2::{Digest, Sha256};

/// The way of reading a vocabulary that the architecture's row names, for the folders of the goldens.
const KINDS: &[(&str, VocabKind)] = &[
    ("BERT-Tiny-uncased", VocabKind::Bert),
    ("Bloom-Tiny-560m", VocabKind::Gpt2),
    ("Command-R-Tiny", VocabKind::Gpt2),
    ("Command-R7B-Tiny", VocabKind::Gpt2),
    ("DeepSeek-V2-Tiny-Lite", VocabKind::Gpt2),
    ("DeepSeek-V3-Tiny-R1", VocabKind::Gpt2),
    ("Ernie-4.5-Tiny", VocabKind::Ernie),
    ("Exaone-4-Tiny", VocabKind::Gpt2),
    ("Falcon-Tiny-7B", VocabKind::Gpt2),
    ("GLM-4-Tiny-0414", VocabKind::Glm4),
    ("GPT-OSS-Tiny-20B", VocabKind::Gpt2),
    ("GPT2-Tiny", VocabKind::Gpt2),
    ("Gemma-2-Tiny-it", VocabKind::Gemma2),
    ("Gemma-3-Tiny", VocabKind::Gemma3),
    ("Gemma-Tiny-2B", VocabKind::Gemma),
    ("Granite-3-Tiny", VocabKind::Llama),
    ("Granite-MoE-Tiny", VocabKind::Llama),
    ("MPT-Tiny-7B", VocabKind::Mpt),
    ("Mamba-Tiny-130m", VocabKind::Mamba),
    ("Mistral-Tiny-v0.1", VocabKind::Llama),
    ("Mixtral-Tiny-4x1B", VocabKind::Llama),
    ("Nemotron-Tiny-Mini", VocabKind::Nemotron),
    ("OLMo-2-Tiny", VocabKind::Gpt2),
    ("OLMo-Tiny", VocabKind::Gpt2),
    ("OLMoE-Tiny", VocabKind::Gpt2),
    ("Phi-2-Tiny", VocabKind::Gpt2),
    ("Phi-3-Tiny-mini-4k", VocabKind::Phi3),
    ("Pythia-Tiny-GPTNeoX", VocabKind::Gpt2),
    ("Qwen2-MoE-Tiny", VocabKind::Gpt2),
    ("Qwen2-Tiny", VocabKind::SentencePieceOrGpt2),
    ("Qwen3-MoE-Tiny-A1B", VocabKind::Gpt2),
    ("Qwen3-Tiny-0.6B", VocabKind::SentencePieceOrGpt2),
    ("SmolLM3-Tiny", VocabKind::Llama),
    ("StableLM-Tiny-2", VocabKind::StableLm),
    ("Starcoder2-Tiny", VocabKind::Gpt2),
    ("T5-Tiny-small", VocabKind::T5),
    ("Tiny-Llama-2-7B-Chat", VocabKind::Llama),
    ("Tiny-Llama-3.2-1B-Instruct", VocabKind::Llama),
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
    assert_eq!(golden.as_object().unwrap().len(), KINDS.len());
    for (name, kind) in KINDS {
        let ours: Vec<_> = metadata(&folder(name), *kind)
            .iter()
            .map(|(key, value)| {
                let (ty, value) = shown(value);
                json!([key, ty, value])
            })
            .collect();
        let mut theirs = golden[name].as_array().unwrap().clone();
        // Phi-2's key stands among the architecture's own parameters, in front of the tokenizer's.
        if *name == "Phi-2-Tiny" {
            assert_eq!(theirs.remove(0)[0], "tokenizer.ggml.add_bos_token");
        }
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
