//! Tokenizers against what the reference converter wrote and what the reference tokenizer encoded.

use std::path::{Path, PathBuf};

use convert::tokenizer::{self, Request, Tokenizer, VocabKind};
use gguf::{Metadata, Value};
use proptest::prelude::*;
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

fn metadata(dir: &Path, kind: VocabKind) -> Metadata {
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

#[test]
fn every_folder_passes_the_check() {
    let user = String::from_utf8(fixtures::bytes("models/tiny-llama/sample.txt")).unwrap();
    for (name, kind) in KINDS {
        let dir = folder(name);
        let report = tokenizer::check_tokenizer(&dir, &metadata(&dir, *kind), Some(&user[..20_000]));
        let report = report.unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert!(report.texts > 15 && report.tokens > 5_000, "{name}: {report:?}");
    }
}

#[test]
fn ids_equal_those_of_llama_cpp() {
    let text = String::from_utf8(fixtures::bytes("golden/tokenizer/text.txt")).unwrap();
    let golden = fixtures::json("golden/tokenizer/ids.json");
    assert_eq!(golden.as_object().unwrap().len(), KINDS.len());
    for (name, kind) in KINDS {
        let tokenizer = Tokenizer::from_metadata(&metadata(&folder(name), *kind)).unwrap();
        let ids = tokenizer.encode(&text, false, false).unwrap();
        let head: Vec<u64> = golden[name]["head"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect();
        assert_eq!(ids.iter().take(16).map(|&id| u64::from(id)).collect::<Vec<_>>(), head, "{name}");
        assert_eq!(ids.len() as u64, golden[name]["count"].as_u64().unwrap(), "{name}");
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        assert_eq!(fixtures::sha256(&bytes), golden[name]["sha256"].as_str().unwrap(), "{name}");
    }
}

/// A copy of a folder's tokenizer files, for a test to change.
fn copy(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "safetensors") {
            std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    copy
}

fn edit(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

#[test]
fn the_check_names_the_first_difference() {
    let dir = copy("Qwen2-Tiny");
    let mut metadata = metadata(dir.path(), VocabKind::Gpt2);
    assert!(tokenizer::check_tokenizer(dir.path(), &metadata, None).is_ok());
    let mut tokens: Vec<Vec<u8>> =
        metadata.array("tokenizer.ggml.tokens").unwrap().iter_bytes().unwrap().map(<[u8]>::to_vec).collect();
    let (a, b) = (tokens.iter().position(|t| t == b"a").unwrap(), tokens.iter().position(|t| t == b"b").unwrap());
    tokens.swap(a, b);
    metadata.set("tokenizer.ggml.tokens", gguf::Array::strings(&tokens));
    let e = tokenizer::check_tokenizer(dir.path(), &metadata, None).unwrap_err();
    let shown = format!("tokenizer.json gives {a} (\"b\"), the converted tokenizer {b} (\"a\"), near \"a");
    assert!(e.message().starts_with("token 21 of a built-in text differs") && e.message().contains(&shown), "{e}");
    assert!(e.way_out().unwrap().contains("--pre"));
}

#[test]
fn the_users_text_is_checked_too() {
    let dir = copy("GPT2-Tiny");
    let mut metadata = metadata(dir.path(), VocabKind::Gpt2);
    // Only the user's text has this character.
    let mut tokens: Vec<Vec<u8>> =
        metadata.array("tokenizer.ggml.tokens").unwrap().iter_bytes().unwrap().map(<[u8]>::to_vec).collect();
    let control = tokens.iter().position(|t| t == "ā".as_bytes()).unwrap();
    tokens[control] = b"[GONE]".to_vec();
    metadata.set("tokenizer.ggml.tokens", gguf::Array::strings(&tokens));
    tokenizer::check_tokenizer(dir.path(), &metadata, None).unwrap();
    let e = tokenizer::check_tokenizer(dir.path(), &metadata, Some("before\n\u{1}after")).unwrap_err();
    assert!(e.message().contains("the given text") && e.message().contains("after"), "{e}");
}

#[test]
fn an_unknown_pre_tokenizer_is_shown_and_can_be_named() {
    let dir = copy("Qwen2-Tiny");
    edit(&dir.path().join("tokenizer.json"), |json| {
        json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("[a-z]+|.");
    });
    let config = json!({"vocab_size": 512});
    let e = tokenizer::metadata(dir.path(), &config, VocabKind::Gpt2, &Request::default()).unwrap_err();
    assert!(e.message().contains("split at /[a-z]+|./") && e.message().contains("NFC"), "{e}");
    assert!(e.way_out().unwrap().contains("--pre NAME"));
    let request = Request { pre: Some("qwen2".into()), ..Request::default() };
    let named = tokenizer::metadata(dir.path(), &config, VocabKind::Gpt2, &request).unwrap();
    assert_eq!(named.str("tokenizer.ggml.pre"), Some("qwen2"));
}

#[test]
fn merges_come_as_strings_or_as_pairs() {
    let dir = copy("GPT2-Tiny");
    let pairs = metadata(dir.path(), VocabKind::Gpt2);
    edit(&dir.path().join("tokenizer.json"), |json| {
        for merge in json["model"]["merges"].as_array_mut().unwrap() {
            *merge = json!(format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()));
        }
    });
    assert_eq!(metadata(dir.path(), VocabKind::Gpt2), pairs);
    edit(&dir.path().join("tokenizer.json"), |json| json["model"]["merges"] = json!([[1, 2]]));
    let e = tokenizer::metadata(dir.path(), &json!({}), VocabKind::Gpt2, &Request::default()).unwrap_err();
    assert!(e.path().is_some(), "{e}");
}

#[test]
fn chat_templates_come_from_four_places() {
    let dir = copy("GPT2-Tiny");
    let keys = |dir: &Path| -> Vec<(String, String)> {
        let of = |(k, v): (&str, &Value)| {
            let text = match v {
                Value::Array(names) => {
                    names.iter().map(|v| v.as_str().unwrap().to_owned()).collect::<Vec<_>>().join(",")
                }
                v => v.as_str().unwrap().to_owned(),
            };
            (k.to_owned(), text)
        };
        metadata(dir, VocabKind::Gpt2).iter().filter(|(k, _)| k.contains("chat_template")).map(of).collect()
    };
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    assert_eq!(keys(dir.path()), []);
    std::fs::write(dir.path().join("chat_template.json"), r#"{"chat_template": "from json"}"#).unwrap();
    assert_eq!(keys(dir.path()), [pair("tokenizer.chat_template", "from json")]);
    std::fs::write(dir.path().join("chat_template.jinja"), "from\r\njinja").unwrap();
    assert_eq!(keys(dir.path()), [pair("tokenizer.chat_template", "from\njinja")]);
    std::fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    std::fs::write(dir.path().join("additional_chat_templates/tool use.jinja"), "tools").unwrap();
    assert_eq!(
        keys(dir.path()),
        [
            pair("tokenizer.chat_template.tool_use", "tools"),
            pair("tokenizer.chat_templates", "tool_use"),
            pair("tokenizer.chat_template", "from\njinja"),
        ]
    );
    edit(&dir.path().join("tokenizer_config.json"), |json| json["chat_template"] = json!("from configuration"));
    assert_eq!(keys(dir.path()), [pair("tokenizer.chat_template", "from configuration")]);
    edit(&dir.path().join("tokenizer_config.json"), |json| {
        json["chat_template"] = json!([{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]);
    });
    assert_eq!(
        keys(dir.path()),
        [
            pair("tokenizer.chat_template.rag", "r"),
            pair("tokenizer.chat_templates", "rag"),
            pair("tokenizer.chat_template", "d"),
        ]
    );
}

#[test]
fn post_processors_tell_which_tokens_surround_a_text() {
    let dir = copy("Tiny-Llama-3.2-1B-Instruct");
    edit(&dir.path().join("tokenizer.json"), |json| {
        json["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [509], "tokens": ["<|begin_of_text|>"]}},
        });
    });
    let metadata = metadata(dir.path(), VocabKind::Llama);
    assert_eq!(metadata.bool("tokenizer.ggml.add_bos_token"), Some(true));
    assert_eq!(metadata.bool("tokenizer.ggml.add_sep_token"), Some(false));
    assert_eq!(metadata.bool("tokenizer.ggml.add_eos_token"), None);
    let report = tokenizer::check_tokenizer(dir.path(), &metadata, None).unwrap();
    assert_eq!(report.notes, [] as [String; 0]);
}

#[test]
fn folders_older_than_tokenizer_json_are_read() {
    let dir = copy("GPT2-Tiny");
    let new = metadata(dir.path(), VocabKind::Gpt2);
    let path = dir.path().join("tokenizer.json");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    std::fs::write(dir.path().join("vocab.json"), json["model"]["vocab"].to_string()).unwrap();
    let lines: Vec<String> = json["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap()))
        .collect();
    std::fs::write(dir.path().join("merges.txt"), format!("#version: 0.2\n{}\n", lines.join("\n"))).unwrap();
    std::fs::remove_file(&path).unwrap();
    edit(&dir.path().join("tokenizer_config.json"), |json| json["tokenizer_class"] = json!("GPT2Tokenizer"));
    let old = metadata(dir.path(), VocabKind::Gpt2);
    for key in ["model", "pre", "tokens", "token_type", "merges"] {
        let key = format!("tokenizer.ggml.{key}");
        assert_eq!(old.get(&key), new.get(&key), "{key}");
    }
    tokenizer::check_tokenizer(dir.path(), &old, None).unwrap();
}

#[test]
fn missing_and_broken_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let read = |kind| tokenizer::metadata(dir.path(), &json!({"vocab_size": 8}), kind, &Request::default());
    for (kind, file) in [
        (VocabKind::Gpt2, "tokenizer.json"),
        (VocabKind::SentencePiece, "tokenizer.model"),
        (VocabKind::T5, "tokenizer.model"),
        (VocabKind::Llama, "tokenizer.json"),
    ] {
        let e = read(kind).unwrap_err();
        assert!(e.message().contains(file) && e.way_out().is_some(), "{kind:?}: {e}");
    }
    std::fs::write(dir.path().join("tokenizer.model"), "version https://git-lfs.github.com/spec/v1").unwrap();
    let e = read(VocabKind::SentencePiece).unwrap_err();
    assert!(e.way_out().unwrap().contains("LFS"), "{e:?}");
    std::fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
    assert!(read(VocabKind::Gpt2).unwrap_err().path().is_some());
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    std::fs::write(dir.path().join("tekken.json"), "{}").unwrap();
    let e = read(VocabKind::Gpt2).unwrap_err();
    assert!(e.to_string().contains("tekken"), "{e}");
}

#[test]
fn a_vocabulary_larger_than_the_configuration_says_is_refused() {
    let e =
        tokenizer::metadata(&folder("GPT2-Tiny"), &json!({"vocab_size": 100}), VocabKind::Gpt2, &Request::default());
    assert!(e.unwrap_err().message().contains("beyond the vocabulary of 100"));
    let larger =
        tokenizer::metadata(&folder("GPT2-Tiny"), &json!({"vocab_size": 514}), VocabKind::Gpt2, &Request::default());
    let larger = larger.unwrap();
    let last = larger.array("tokenizer.ggml.tokens").unwrap().iter().last().unwrap();
    assert_eq!(last.as_str(), Some("[PAD513]"));
    assert_eq!(larger.array("tokenizer.ggml.token_type").unwrap().to_i32s().unwrap()[512..], [5, 5]);
}

#[test]
fn special_tokens_in_a_text_are_parsed_when_asked() {
    let tokenizer = Tokenizer::from_metadata(&metadata(&folder("Qwen2-Tiny"), VocabKind::Gpt2)).unwrap();
    let (start, end) = (tokenizer.id(b"<|im_start|>").unwrap(), tokenizer.id(b"<|im_end|>").unwrap());
    let text = "<|im_start|>user<|im_end|>";
    let parsed = tokenizer.encode(text, false, true).unwrap();
    assert_eq!((parsed[0], parsed[parsed.len() - 1]), (start, end));
    let plain = tokenizer.encode(text, false, false).unwrap();
    assert!(!plain.contains(&start) && !plain.contains(&end));
    assert_eq!(tokenizer.decode(&plain), text.as_bytes());
    assert_eq!(tokenizer.decode(&parsed), text.as_bytes());
    assert!(tokenizer.is_end_of_generation(end) && tokenizer.is_control(end));
}

#[test]
fn a_stream_of_tokens_is_whole_text_at_any_moment() {
    let tokenizer = Tokenizer::from_metadata(&metadata(&folder("GPT2-Tiny"), VocabKind::Gpt2)).unwrap();
    let text = "Grüße 🦙!";
    let mut decoder = tokenizer.decoder();
    let mut whole = String::new();
    for id in tokenizer.encode(text, false, false).unwrap() {
        let piece = decoder.push(id);
        assert!(!piece.contains('\u{fffd}'), "{piece:?}");
        whole += &piece;
    }
    assert_eq!(whole + &decoder.finish(), text);
    let mut decoder = tokenizer.decoder();
    let first = tokenizer.encode("🦙", false, false).unwrap()[0];
    assert_eq!(decoder.push(first), "");
    assert_eq!(decoder.finish(), "\u{fffd}");
}

#[test]
fn metadata_that_describes_no_tokenizer_is_refused() {
    let good = metadata(&folder("GPT2-Tiny"), VocabKind::Gpt2);
    let refuse = |change: &dyn Fn(&mut Metadata), what: &str| {
        let mut bad = good.clone();
        change(&mut bad);
        let e = Tokenizer::from_metadata(&bad).unwrap_err();
        assert!(e.message().contains(what), "{what}: {e}");
    };
    refuse(&|m| drop(m.remove("tokenizer.ggml.model")), "tokenizer.ggml.model");
    refuse(&|m| drop(m.set("tokenizer.ggml.model", "runes")), "'runes' is not implemented");
    refuse(&|m| drop(m.set("tokenizer.ggml.model", "none")), "without a tokenizer");
    refuse(&|m| drop(m.set("tokenizer.ggml.pre", "no-such")), "'no-such'");
    refuse(&|m| drop(m.remove("tokenizer.ggml.tokens")), "tokenizer.ggml.tokens");
    refuse(&|m| drop(m.remove("tokenizer.ggml.merges")), "tokenizer.ggml.merges");
    refuse(&|m| drop(m.set("tokenizer.ggml.merges", 1_u32)), "tokenizer.ggml.merges");
    refuse(&|m| drop(m.set("tokenizer.ggml.tokens", gguf::Array::strings(["a", "a"]))), "twice");
    refuse(&|m| drop(m.set("tokenizer.ggml.token_type", gguf::Array::from(&[1_i32][..]))), "1 elements for 512 tokens");
    refuse(&|m| drop(m.set("tokenizer.ggml.tokens", gguf::Array::strings([] as [&str; 0]))), "empty");
    let mut cut = metadata(&folder("T5-Tiny-small"), VocabKind::T5);
    cut.set("tokenizer.ggml.precompiled_charsmap", gguf::Array::from(&[200_u8, 0, 0, 0, 1][..]));
    assert!(Tokenizer::from_metadata(&cut).unwrap_err().message().contains("cut short"));
}

/// The tokenizers of the goldens that differ in kind, made once.
fn tokenizers() -> &'static [(&'static str, Tokenizer)] {
    static ALL: std::sync::OnceLock<Vec<(&str, Tokenizer)>> = std::sync::OnceLock::new();
    ALL.get_or_init(|| {
        let names = [
            "GPT2-Tiny",
            "Qwen2-Tiny",
            "Tiny-Llama-3.2-1B-Instruct",
            "Falcon-Tiny-7B",
            "DeepSeek-V2-Tiny-Lite",
            "DeepSeek-V3-Tiny-R1",
            "GPT-OSS-Tiny-20B",
            "Command-R-Tiny",
            "Tiny-Llama-2-7B-Chat",
            "BERT-Tiny-uncased",
            "T5-Tiny-small",
        ];
        KINDS
            .iter()
            .filter(|(name, _)| names.contains(name))
            .map(|(name, kind)| (*name, Tokenizer::from_metadata(&metadata(&folder(name), *kind)).unwrap()))
            .collect()
    })
}

/// Metadata of any shape under the keys that matter.
fn any_metadata() -> impl Strategy<Value = Metadata> {
    let text = prop_oneof!["[ab▁ <>|0x]{0,6}", any::<String>(), Just("<0x41>".to_owned()), Just("<unk>".to_owned())];
    let model = prop::sample::select(vec!["llama", "gpt2", "bert", "t5", "gemma4"]);
    let pre = prop::sample::select(vec!["gpt-2", "llama-bpe", "falcon", "gemma4", "kimi-k2", "gpt-4o"]);
    let ids = prop::collection::vec((0_usize..8, 0_u32..20), 0..6);
    (
        (model, pre, prop::collection::hash_set(text, 1..16)),
        prop::collection::vec(prop::num::f32::ANY, 16),
        prop::collection::vec(0_i32..9, 16),
        prop::collection::vec("[ab▁Ġ]{0,2} ?[ab▁Ġ]{0,2}", 0..8),
        ids,
        prop::option::of(prop::collection::vec(any::<u8>(), 0..64)),
        prop::collection::vec(any::<bool>(), 4),
    )
        .prop_map(|((model, pre, tokens), scores, types, merges, ids, charsmap, flags)| {
            let mut m = Metadata::new();
            m.set("tokenizer.ggml.model", model);
            m.set("tokenizer.ggml.pre", pre);
            m.set("tokenizer.ggml.tokens", gguf::Array::strings(&tokens));
            m.set("tokenizer.ggml.scores", gguf::Array::from(scores.as_slice()));
            m.set("tokenizer.ggml.token_type", gguf::Array::from(types.as_slice()));
            m.set("tokenizer.ggml.merges", gguf::Array::strings(&merges));
            let roles = ["bos", "eos", "unknown", "seperator", "padding", "eot", "fim_pre", "mask"];
            for (role, id) in ids {
                m.set(format!("tokenizer.ggml.{}_token_id", roles[role]), id);
            }
            if let Some(map) = charsmap {
                m.set("tokenizer.ggml.precompiled_charsmap", gguf::Array::from(map.as_slice()));
            }
            let switches = ["add_bos_token", "add_eos_token", "add_space_prefix", "remove_extra_whitespaces"];
            for (key, flag) in switches.iter().zip(flags) {
                m.set(format!("tokenizer.ggml.{key}"), flag);
            }
            m
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn byte_level_and_byte_fallback_lose_nothing(text in any::<String>(), parse in any::<bool>()) {
        let text = text.replace('\u{2581}', "");
        for (name, tokenizer) in tokenizers().iter().filter(|(name, _)| !["BERT-Tiny-uncased", "T5-Tiny-small"].contains(name)) {
            for special in [false, true] {
                let ids = tokenizer.encode(&text, special, parse).unwrap();
                prop_assert_eq!(tokenizer.decode(&ids), text.as_bytes(), "{} {:?}", name, ids);
            }
        }
    }

    #[test]
    fn repeated_texts_are_encoded_alike(text in "[a-c '\\n]{0,8}", n in 1_usize..60) {
        // Long words take another way than short ones.
        for (name, tokenizer) in tokenizers() {
            let ids = tokenizer.encode(&text.repeat(n), false, false).unwrap();
            if !["BERT-Tiny-uncased", "T5-Tiny-small"].contains(name) {
                prop_assert_eq!(tokenizer.decode(&ids), text.repeat(n).into_bytes(), "{}", name);
            }
        }
    }

    #[test]
    fn nothing_panics(metadata in any_metadata(), text in prop_oneof![any::<String>(), "[ab ▁<>|0x\\n]{0,24}"], ids in prop::collection::vec(any::<u32>(), 0..8)) {
        if let Ok(tokenizer) = Tokenizer::from_metadata(&metadata) {
            for (special, parse) in [(false, false), (true, true)] {
                if let Ok(ids) = tokenizer.encode(&text, special, parse) {
                    let _ = tokenizer.decode(&ids);
                    prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
                }
            }
            let _ = tokenizer.decode(&ids);
        }
    }
}
