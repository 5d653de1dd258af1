//! What leads from a finished file to where it is used: the memory it takes, and a Modelfile for Ollama.

mod common;

use std::fs;

use common::Model;
use common::program::{Folder, args, gguf, json, stderr, stdout};

#[test]
fn memory_counts_weights_and_cache() {
    let folder = Folder::new();
    let path = folder.with("m.gguf", Model::llama().bytes());
    let told = json(&gguf(args(&["show", "--memory", "--ctx", "300", "--json"], &[&path])).code(0));
    let source = gguf::open(&path).expect("a model");
    let weights: u64 = gguf::Source::tensors(&source).iter().map(gguf::TensorInfo::bytes).sum();
    assert_eq!(told["weights_bytes"], weights);
    let contexts = told["contexts"].as_array().expect("contexts");
    let of = |n: u64| contexts.iter().find(|c| c["context"] == n).expect("a context")["caches"]["F16"].clone();
    // Allocations have steps of 256 tokens.
    assert_eq!(of(300)["cache_bytes"], 512 * (4 + 4) * 2);
    assert_eq!(of(64)["cache_bytes"], 256 * (4 + 4) * 2);
    // A row of 4 numbers is no whole block.
    let q8_0 = contexts[0]["caches"]["Q8_0"].clone();
    assert!(q8_0["cache_bytes"].is_null(), "{q8_0}");
    assert_eq!(of(300)["bytes"].as_u64(), Some(weights + of(300)["cache_bytes"].as_u64().expect("bytes")));
    let text = stdout(&gguf(args(&["show", "--memory"], &[&path])).code(0));
    assert!(text.contains("all that it was made for") && text.contains("F16 cache"), "{text}");
    let unknown = folder.with("u.gguf", Model::llama().set("general.architecture", "nothing").bytes());
    assert!(stderr(&gguf(args(&["show", "--memory"], &[&unknown])).code(3)).contains("\"nothing\""));
}

#[test]
fn a_finished_file_gets_its_modelfile() {
    let folder = Folder::new();
    let path = folder.with("m.gguf", Model::llama().set("tokenizer.chat_template", "<|im_start|><|im_end|>").bytes());
    let beside = path.with_file_name("Modelfile");
    gguf(args(&["modelfile"], &[&path])).code(0);
    let text = fs::read_to_string(&beside).expect("a Modelfile");
    assert!(
        text.starts_with("FROM ./m.gguf\n") && text.contains("TEMPLATE \"\"\"{{ if .System }}<|im_start|>"),
        "{text}"
    );
    assert!(!text.contains("num_ctx"), "no context is pinned: {text}");
    // It is not replaced unless told to, and printed where it is asked for.
    gguf(args(&["modelfile"], &[&path])).code(2);
    let printed = stdout(&gguf(args(&["modelfile", "--print"], &[&path])).code(0));
    assert_eq!(printed, text);
    let pinned = gguf(args(&["modelfile", "--force", "--num-ctx", "8192"], &[&path])).code(0);
    assert!(stderr(&pinned).contains("8,192 tokens takes a cache of"), "{}", stderr(&pinned));
    let text = fs::read_to_string(&beside).expect("a Modelfile");
    assert!(
        text.contains("\n# a context of 8,192 tokens takes") && text.contains("\nPARAMETER num_ctx 8192\n"),
        "{text}"
    );
    // From another folder it names the whole path.
    let elsewhere = Folder::new();
    let target = elsewhere.path("Other");
    gguf(args(&["modelfile", "-o", target.to_str().expect("UTF-8")], &[&path])).code(0);
    let whole = path.canonicalize().expect("a path");
    let text = fs::read_to_string(target).expect("a Modelfile");
    assert!(text.starts_with(&format!("FROM {}\n", whole.display())), "{text}");
    let told = json(&gguf(args(&["modelfile", "--force", "--json"], &[&path])).code(0));
    assert_eq!(told["text"].as_str(), fs::read_to_string(&beside).ok().as_deref());
}

#[test]
fn adapters_and_shards_are_told_what_they_need() {
    let folder = Folder::new();
    let adapter = folder.with("a.gguf", Model::llama().set("general.type", "adapter").bytes());
    assert!(stderr(&gguf(args(&["modelfile", "--print"], &[&adapter])).code(2)).contains("--from"));
    let text = stdout(&gguf(args(&["modelfile", "--print", "--from", "llama3.1:8b"], &[&adapter])).code(0));
    assert!(text.starts_with("FROM llama3.1:8b\nADAPTER ./a.gguf\n"), "{text}");
    let shard = folder.with("m-00001-of-00002.gguf", Model::llama().bytes());
    assert!(stderr(&gguf(args(&["modelfile", "--print"], &[&shard])).code(3)).contains("gguf merge"));
}
