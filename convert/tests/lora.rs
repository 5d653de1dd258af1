//! Adapters: the GGUF file of the reference, the merge against f64, and what is refused.

use std::fs;
use std::path::Path;

use convert::lora::{Adapter, AdapterFile};
use convert::{Checkpoint, Options, OutType};
use gguf::{Metadata, Source};
use serde_json::{Value, json};

fn values(source: &dyn Source, name: &str) -> Vec<f32> {
    let tensor = source.find(name).unwrap();
    let bytes = source.rows(tensor, 0..source.tensors()[tensor].rows()).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn the_file_is_that_of_the_reference() {
    let (folder, base) = (fixtures::path("lora/tiny-llama-adapter"), fixtures::path("models/tiny-llama"));
    let adapter = AdapterFile::open(&folder, &base).unwrap();
    let metadata: &Metadata = adapter.metadata();
    let bytes = gguf::write::copy(&adapter, metadata, std::io::Cursor::new(Vec::new()), |_| {}).unwrap().into_inner();
    let expected = fixtures::json("lora/expected.json");
    assert_eq!(fixtures::sha256(&bytes), expected["gguf_sha256"]);
}

#[test]
fn a_merge_adds_the_product() {
    let base = fixtures::path("models/tiny-llama");
    let open = |merge| {
        let options = Options { outtype: OutType::F32, merge, ..Options::default() };
        Checkpoint::open(&base, &options).unwrap()
    };
    let adapter = fixtures::path("lora/tiny-llama-adapter");
    let (plain, merged) = (open(vec![]), open(vec![(adapter.clone(), 1.0)]));
    assert!(merged.notes().iter().any(|n| n.starts_with("merged: 8 weights")));
    let expected = fixtures::json("lora/expected.json");
    for (name, gguf_name) in [
        ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight"),
        ("model.layers.3.mlp.down_proj.weight", "blk.3.ffn_down.weight"),
    ] {
        let expected = &expected["merged"][name];
        let found = values(&merged, gguf_name);
        let columns = if gguf_name.contains("down") { 768 } else { 256 };
        for (found, expected) in found[5 * columns..].iter().zip(expected["first"].as_array().unwrap()) {
            approx::assert_abs_diff_eq!(f64::from(*found), expected.as_f64().unwrap(), epsilon = 1e-7);
        }
        let squares: f64 = found.iter().map(|v| f64::from(*v).powi(2)).sum();
        approx::assert_relative_eq!(squares, expected["squares"].as_f64().unwrap(), max_relative = 1e-7);
    }
    assert_eq!(values(&plain, "blk.1.attn_v.weight"), values(&merged, "blk.1.attn_v.weight"));
    assert_ne!(values(&plain, "blk.0.attn_q.weight"), values(&merged, "blk.0.attn_q.weight"));
    // Half twice is once, and the opposite undoes it but for rounding.
    let halves = open(vec![(adapter.clone(), 0.5), (adapter.clone(), 0.5)]);
    let undone = open(vec![(adapter.clone(), 1.0), (adapter, -1.0)]);
    for name in ["blk.0.attn_q.weight", "blk.3.ffn_down.weight"] {
        for ((a, b), (c, d)) in values(&merged, name)
            .into_iter()
            .zip(values(&halves, name))
            .zip(values(&plain, name).into_iter().zip(values(&undone, name)))
        {
            assert!((a - b).abs() < 1e-6 && (c - d).abs() < 1e-6);
        }
    }
}

/// What is said of the adapter after its configuration was changed.
fn refusal(change: impl FnOnce(&mut Value)) -> String {
    let source = fixtures::path("lora/tiny-llama-adapter");
    let folder = tempfile::tempdir().unwrap();
    let weights = "adapter_model.safetensors";
    fs::copy(source.join(weights), folder.path().join(weights)).unwrap();
    let mut config = fixtures::json("lora/tiny-llama-adapter/adapter_config.json");
    change(&mut config);
    fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    Adapter::open(folder.path()).unwrap_err().to_string()
}

#[test]
fn other_variants_and_misfits_are_refused_by_name() {
    for (key, value, word) in [
        ("use_dora", json!(true), "DoRA"),
        ("peft_type", json!("LOHA"), "LOHA"),
        ("modules_to_save", json!(["lm_head"]), "modules_to_save"),
        ("bias", json!("all"), "biases"),
        ("layer_replication", json!([[0, 2]]), "layer replication"),
        ("alpha_pattern", json!({"q_proj": 4}), "alpha_pattern"),
        ("r", json!(8), "r is 8"),
        ("lora_alpha", json!("much"), "lora_alpha"),
        ("target_modules", json!(["q_proj", "k_proj", "v_proj"]), "down_proj"),
        ("target_modules", json!(["q_proj", "k_proj", "v_proj", "down_proj", "o_proj"]), "o_proj"),
    ] {
        let said = refusal(|config| config[key] = value);
        assert!(said.contains(word), "{key}: {said}");
    }
    let other = fixtures::path("golden/arch/Tiny-Llama-2-7B-Chat/hf/Tiny-Llama-2-7B-Chat");
    let merge = vec![(fixtures::path("lora/tiny-llama-adapter"), 1.0)];
    let error = Checkpoint::open(&other, &Options { merge, ..Options::default() }).unwrap_err();
    assert!(error.to_string().contains("the adapter changes"), "{error}");
    assert!(Adapter::open(Path::new("nowhere")).is_err());
}
