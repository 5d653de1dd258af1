//! Folders as people have them: files that are left over, links, tensors without elements, damaged headers.

use std::fs;
use std::path::{Path, PathBuf};

use convert::safetensors::{self, open_file, open_folder};
use convert::{Checkpoint, Options};
use gguf::Source;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const NAME: &str = "Tiny-Llama-2-7B-Chat";

struct Folder {
    temporary: tempfile::TempDir,
    path: PathBuf,
}

impl Folder {
    fn new() -> Folder {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join(NAME);
        fixtures::copy(&fixtures::path(&format!("golden/arch/{NAME}/hf/{NAME}")), &path);
        Folder { temporary, path }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn open(&self) -> gguf::Result<Checkpoint> {
        Checkpoint::open(&self.path, &Options::default())
    }

    /// Opens the folder, wants the golden's bytes, and gives the notes.
    fn is_golden(&self) -> Vec<String> {
        let checkpoint = self.open().unwrap();
        let bytes = gguf::write::copy(&checkpoint, checkpoint.metadata(), Vec::new(), |_| {}).unwrap();
        let golden = fixtures::json(&format!("golden/arch/{NAME}/expected.json"));
        assert_eq!(fixtures::sha256(&bytes), golden["files"]["bf16"]);
        checkpoint.notes().to_vec()
    }

    fn index(&self, map: &Value) {
        fs::write(self.file("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
    }

    /// Changes entries of the header and gives them data of the right size.
    fn header(&self, change: impl FnOnce(&mut Map<String, Value>)) {
        let path = self.file("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        header.shift_remove("__metadata__");
        change(&mut header);
        let mut end = 0;
        for entry in header.values_mut() {
            let numbers: Vec<u64> = entry["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
            let size = numbers.iter().product::<u64>() * if entry["dtype"] == "BF16" { 2 } else { 4 };
            entry["data_offsets"] = json!([end, end + size]);
            end += size;
        }
        fs::write(path, assembled(&Value::Object(header).to_string(), &vec![0; end as usize])).unwrap();
    }
}

fn assembled(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn a_whole_file_counts_more_than_what_is_left_of_shards() {
    let shard = "model-00001-of-00002.safetensors";
    let names: Vec<String> = open_folder(&Folder::new().path).unwrap().iter().map(|t| t.name().to_owned()).collect();
    let map = |file: &str| Value::Object(names.iter().map(|n| (n.clone(), Value::from(file))).collect());

    // The shards are gone, or one of them is.
    let folder = Folder::new();
    folder.index(&map(shard));
    let notes = folder.is_golden();
    assert!(notes[0].contains("remove model.safetensors.index.json") && notes[0].contains(shard), "{notes:?}");
    let mut two = map(shard);
    two["lm_head.weight"] = "model-00002-of-00002.safetensors".into();
    folder.index(&two);
    fs::copy(folder.file("model.safetensors"), folder.file(shard)).unwrap();
    assert!(folder.is_golden()[0].contains("remove"));
    // An index that is no index, or of other tensors.
    for wrong in ["{}", "[", "", "{\"weight_map\": {\"a\": \"../b\"}}", "{\"weight_map\": {\"a\": \"c.safetensors\"}}"]
    {
        fs::write(folder.file("model.safetensors.index.json"), wrong).unwrap();
        assert!(folder.is_golden()[0].contains("read alone"), "{wrong}");
    }
    // Without an index the same tensors stand in two files.
    fs::remove_file(folder.file("model.safetensors.index.json")).unwrap();
    assert!(folder.is_golden()[0].contains("is also in"));
    // Both are whole: the index counts, as it does for the reference, and the other one is named.
    folder.index(&map(shard));
    fs::copy(folder.file("model.safetensors"), folder.file(shard)).unwrap();
    assert!(folder.is_golden()[0].contains("left aside: model.safetensors"));
    // An index of the file itself has to be right.
    let mut more = map("model.safetensors");
    more["extra"] = "model.safetensors".into();
    folder.index(&more);
    assert!(folder.open().unwrap_err().to_string().contains("extra is missing"));
    folder.index(&map("model.safetensors"));
    assert!(folder.is_golden().is_empty());
}

#[test]
fn weights_of_other_names_are_told_apart() {
    for (name, words) in [
        ("consolidated.safetensors", "Mistral's own form"),
        ("consolidated.00.safetensors", "Mistral's own form"),
        ("weights.safetensors", "holds weights.safetensors"),
        ("pytorch_model.bin", "pickle"),
        ("model.txt", "holds no safetensors file"),
    ] {
        let folder = Folder::new();
        fs::rename(folder.file("model.safetensors"), folder.file(name)).unwrap();
        let error = folder.open().unwrap_err();
        assert!(error.to_string().contains(words), "{name}: {error}");
    }
    let folder = Folder::new();
    fs::rename(folder.file("model.safetensors"), folder.file("consolidated.safetensors")).unwrap();
    fs::rename(folder.file("config.json"), folder.file("params.json")).unwrap();
    assert!(folder.open().unwrap_err().to_string().contains("Mistral's own form"));
}

#[test]
fn tensors_without_elements_are_refused_by_name() {
    for (name, shape) in [
        ("model.layers.0.mlp.up_proj.weight", json!([0])),
        ("model.layers.0.mlp.up_proj.weight", json!([0, 64])),
        ("model.layers.1.self_attn.q_proj.weight", json!([64, 0])),
        ("model.embed_tokens.weight", json!([0, 0])),
        ("model.norm.weight", json!([0])),
        ("lm_head.weight", json!([512, 0, 64])),
    ] {
        let folder = Folder::new();
        folder.header(|h| h[name]["shape"] = shape.clone());
        let error = folder.open().unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("has no elements"), "{error}");
    }
    // What no file has a place for may be empty.
    let folder = Folder::new();
    folder.header(|h| {
        h.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), json!({"dtype": "F32", "shape": [0]}));
    });
    folder.open().unwrap();
}

#[cfg(unix)]
#[test]
fn links_out_of_the_folder_are_not_followed() {
    use std::os::unix::fs::symlink;
    let secret = tempfile::NamedTempFile::new().unwrap();
    for name in ["README.md", "vocab.json", "generation_config.json", "LICENSE", "model-extra.safetensors"] {
        let folder = Folder::new();
        let _ = fs::remove_file(folder.file(name));
        symlink(secret.path(), folder.file(name)).unwrap();
        for error in [folder.open().unwrap_err(), open_folder(&folder.path).unwrap_err()] {
            assert!(error.to_string().contains("is a link out of the folder"), "{name}: {error}");
            assert_eq!(error.path(), Some(folder.file(name).as_path()));
        }
    }
    // The cache of the hub: snapshots of links to blobs.
    let folder = Folder::new();
    let cache = folder.temporary.path().join("models--a--b");
    let (snapshot, blobs) = (cache.join("snapshots/12").join(NAME), cache.join("blobs"));
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir(&blobs).unwrap();
    for (i, entry) in fs::read_dir(&folder.path).unwrap().enumerate() {
        let entry = entry.unwrap();
        fs::rename(entry.path(), blobs.join(i.to_string())).unwrap();
        symlink(format!("../../../blobs/{i}"), snapshot.join(entry.file_name())).unwrap();
    }
    Folder { temporary: folder.temporary, path: snapshot }.is_golden();
}

/// Opens these bytes as a file and as a folder, and reads what is said to be there.
fn read_all(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    let Ok(tensors) = open_file(&path) else { return };
    let total: usize = tensors.iter().map(|t| t.bytes().len()).sum();
    assert!(total < bytes.len());
    for tensor in &tensors {
        assert_eq!(tensor.bytes().len() as u64 * 8, tensor.elements() * tensor.dtype().bitsize() as u64);
        tensor.release(0..usize::MAX);
    }
    assert_eq!(open_folder(folder.path()).unwrap().len(), tensors.len());
}

fn entry() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        (0..200_u64).prop_map(|n| n.to_string()),
        Just(u64::MAX.to_string()),
        Just("9223372036854775808".to_owned()),
        Just("-1".to_owned()),
        Just("1.5".to_owned()),
        Just("null".to_owned()),
        Just("1e99".to_owned()),
    ];
    let numbers = prop::collection::vec(number, 0..5).prop_map(|n| format!("[{}]", n.join(",")));
    let dtype = prop::sample::select(vec!["F32", "BF16", "F4", "F6_E2M3", "U8", "", "f32", "Ä"]);
    (dtype, numbers.clone(), numbers, any::<u8>()).prop_map(|(dtype, shape, offsets, kind)| match kind % 16 {
        0 => format!(r#"{{"dtype":"{dtype}","shape":{shape}}}"#),
        1 => format!(r#"{{"dtype":"{dtype}","dtype":"F32","shape":{shape},"data_offsets":{offsets}}}"#),
        2 => shape,
        3 => r#"{"dtype":7,"shape":{},"data_offsets":""}"#.to_owned(),
        _ => format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets},"more":[{{}}]}}"#),
    })
}

proptest! {
    #[test]
    fn any_header_is_read_or_refused(
        entries in prop::collection::vec(("[ab._\"\\\\\u{0}\u{7}ß]{0,6}|__metadata__", entry()), 0..6),
        data in prop::collection::vec(any::<u8>(), 0..100),
        cut in 0..400_usize,
    ) {
        let entries: Vec<String> = entries.iter().map(|(name, entry)| format!("{}:{entry}", json!(name))).collect();
        let bytes = assembled(&format!("{{{}}}", entries.join(",")), &data);
        read_all(&bytes);
        read_all(&bytes[..cut.min(bytes.len())]);
    }

    #[test]
    fn a_damaged_file_is_read_or_refused(place in 0..2000_usize, byte: u8, length: u64) {
        let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"U8","shape":[],"data_offsets":[12,13]}}"#;
        let mut bytes = assembled(header, &[0; 13]);
        read_all(&bytes);
        let place = place % bytes.len();
        bytes[place] = byte;
        read_all(&bytes);
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        read_all(&bytes);
    }

    #[test]
    fn any_index_is_read_or_refused(
        map in prop::collection::vec(("[ab.]{0,3}", r#""[./\\:a-c]{0,8}"|"model(-1)?\.safetensors"|null|7|\{\}"#), 0..5),
        top in prop::sample::select(vec!["weight_map", "metadata", ""]),
        noise in ".{0,20}",
    ) {
        let folder = tempfile::tempdir().unwrap();
        let header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
        fs::write(folder.path().join("model.safetensors"), assembled(header, &[0])).unwrap();
        let entries: Vec<String> = map.iter().map(|(k, v)| format!("{}:{v}", json!(k))).collect();
        for text in [format!("{{\"{top}\":{{{}}}}}", entries.join(",")), noise] {
            fs::write(folder.path().join("model.safetensors.index.json"), text).unwrap();
            let mut notes = Vec::new();
            if let Ok(tensors) = safetensors::open_folder_with_notes(folder.path(), &mut notes) {
                assert!(tensors.iter().all(|t| t.path().parent() == Some(folder.path())));
                assert_eq!(tensors.len(), 1);
            }
        }
    }
}

/// Any JSON, of names and values that configurations have among others.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop::sample::select(vec![-1_i64, 0, 1, 2, 3, 4, 7, 64, 512, 1 << 31, i64::MAX]).prop_map(Value::from),
        prop::sample::select(vec![0.0, -0.5, 1e-9, 1e300, 16.0, 4e9]).prop_map(Value::from),
        prop::sample::select(vec!["", "NaN", "default", "yarn", "llama3", "longrope", "x", "full_attention"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        let key = prop::sample::select(vec![
            "rope_theta",
            "factor",
            "rope_type",
            "type",
            "full_attention",
            "sliding_attention",
            "a",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_configuration_is_converted_or_refused(
        class in prop::sample::select(vec!["LlamaForCausalLM", "Qwen3ForCausalLM", "Gemma3ForCausalLM", "DeepseekV3ForCausalLM", "Phi3ForCausalLM", "GPT2LMHeadModel"]),
        changes in prop::collection::vec((prop::sample::select(KEYS.to_vec()), value()), 1..4),
    ) {
        let folder = SHARED.with(|folder| folder.path.clone());
        let original = fixtures::json(&format!("golden/arch/{NAME}/hf/{NAME}/config.json"));
        let mut config = original.clone();
        config["architectures"] = json!([class]);
        for (key, value) in changes {
            config[key] = value;
        }
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        if let Ok(checkpoint) = Checkpoint::open(&folder, &Options::default()) {
            for (i, tensor) in checkpoint.tensors().iter().enumerate() {
                let _ = checkpoint.rows(i, 0..tensor.rows().min(4));
            }
        }
    }
}

thread_local! {
    static SHARED: Folder = Folder::new();
}

const KEYS: &[&str] = &[
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "vocab_size",
    "text_config",
    "architectures",
    "quantization_config",
    "quantization",
    "sliding_window",
    "layer_types",
    "max_position_embeddings",
    "num_experts",
    "partial_rotary_factor",
    "qk_rope_head_dim",
    "kv_lora_rank",
    "tie_word_embeddings",
    "first_k_dense_replace",
    "original_max_position_embeddings",
    "bos_token_id",
    "model_type",
];

#[test]
fn heads_of_billions_of_dimensions_are_refused() {
    let folder = Folder::new();
    for number in [json!(1_u64 << 31), json!(1e18), json!(65_537)] {
        let mut config: Value = serde_json::from_slice(&fs::read(folder.file("config.json")).unwrap()).unwrap();
        config["head_dim"] = number;
        fs::write(folder.file("config.json"), config.to_string()).unwrap();
        let error = folder.open().unwrap_err();
        assert!(error.to_string().contains("head_dim"), "{error}");
        assert_eq!(error.path(), Some(Path::new(&folder.file("config.json"))));
    }
}
