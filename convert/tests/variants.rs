//! The same model stored in other ways gives the same file.

use std::fs;
use std::path::{Path, PathBuf};

use convert::{Checkpoint, Options, OutType};
use gguf::Source;
use serde_json::{Map, Value, json};

const TINY: &str = "golden/arch/Tiny-Llama-2-7B-Chat";

/// A checkpoint's tensors: name, dtype, shape, data.
type Tensors = Vec<(String, String, Value, Vec<u8>)>;

struct Folder {
    _temporary: tempfile::TempDir,
    path: PathBuf,
}

fn copy(name: &str) -> Folder {
    copy_of("golden/arch", name)
}

fn copy_of(root: &str, name: &str) -> Folder {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join(name);
    fixtures::copy(&fixtures::path(&format!("{root}/{name}/hf/{name}")), &path);
    Folder { _temporary: temporary, path }
}

fn read(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    header
        .into_iter()
        .filter(|(name, _)| name != "__metadata__")
        .map(|(name, entry)| {
            let at = |i: usize| 8 + length + entry["data_offsets"][i].as_u64().unwrap() as usize;
            let data = bytes[at(0)..at(1)].to_vec();
            (name, entry["dtype"].as_str().unwrap().to_owned(), entry["shape"].clone(), data)
        })
        .collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let (mut header, mut data) = (Map::new(), Vec::<u8>::new());
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend(bytes);
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(data);
    fs::write(path, out).unwrap();
}

fn config(folder: &Folder, change: impl FnOnce(&mut Map<String, Value>)) {
    edit(folder, "config.json", change);
}

/// Changes a JSON file of a folder.
fn edit(folder: &Folder, name: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    let path = folder.path.join(name);
    let mut config: Map<String, Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(path, Value::Object(config).to_string()).unwrap();
}

fn open(folder: &Folder, outtype: OutType) -> Checkpoint {
    Checkpoint::open(&folder.path, &Options { outtype, ..Options::default() }).unwrap()
}

fn bytes(checkpoint: &Checkpoint) -> Vec<u8> {
    gguf::write::copy(checkpoint, checkpoint.metadata(), Vec::new(), |_| {}).unwrap()
}

fn golden(name: &str, outtype: &str) -> String {
    fixtures::json(&format!("golden/arch/{name}/expected.json"))["files"][outtype].as_str().unwrap().to_owned()
}

#[test]
fn shards_behind_an_index_are_one_checkpoint() {
    let folder = copy("Tiny-Llama-2-7B-Chat");
    let tensors = read(&folder.path.join("model.safetensors"));
    fs::remove_file(folder.path.join("model.safetensors")).unwrap();
    let mut map = Map::new();
    // The first shard has the names that sort first, so that the order of the file stays.
    for (i, part) in tensors.chunks(9).enumerate() {
        let file = format!("model-{:05}-of-00003.safetensors", i + 1);
        write(&folder.path.join(&file), &part.to_vec());
        part.iter().for_each(|t| _ = map.insert(t.0.clone(), file.clone().into()));
    }
    fs::write(folder.path.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
    let checkpoint = open(&folder, OutType::BF16);
    assert_eq!(fixtures::sha256(&bytes(&checkpoint)), golden("Tiny-Llama-2-7B-Chat", "bf16"));
}

#[test]
fn old_spellings_mean_the_same() {
    let folder = copy("Tiny-Llama-3.2-1B-Instruct");
    config(&folder, |c| {
        let rope = c.remove("rope_parameters").unwrap();
        c.insert("rope_theta".into(), rope["rope_theta"].clone());
        let mut scaling = rope.as_object().unwrap().clone();
        scaling.remove("rope_theta");
        c.insert("rope_scaling".into(), Value::Object(scaling));
        let dtype = c.remove("dtype").unwrap();
        c.insert("torch_dtype".into(), dtype);
    });
    assert_eq!(fixtures::sha256(&bytes(&open(&folder, OutType::BF16))), golden("Tiny-Llama-3.2-1B-Instruct", "bf16"));
    let folder = copy("Pythia-Tiny-GPTNeoX");
    config(&folder, |c| {
        c.remove("rope_parameters");
    });
    assert_eq!(fixtures::sha256(&bytes(&open(&folder, OutType::BF16))), golden("Pythia-Tiny-GPTNeoX", "bf16"));
    let folder = copy("StableLM-Tiny-2");
    config(&folder, |c| {
        c.remove("rope_parameters");
        c.insert("rope_theta".into(), 10000.into());
        c.insert("partial_rotary_factor".into(), 0.25.into());
    });
    assert_eq!(fixtures::sha256(&bytes(&open(&folder, OutType::BF16))), golden("StableLM-Tiny-2", "bf16"));
    let folder = copy("Gemma-3-Tiny");
    config(&folder, |c| {
        c.remove("rope_parameters");
        c.insert("rope_theta".into(), 1e6.into());
        c.insert("rope_local_base_freq".into(), 1e4.into());
    });
    assert_eq!(fixtures::sha256(&bytes(&open(&folder, OutType::BF16))), golden("Gemma-3-Tiny", "bf16"));
}

#[test]
fn defaults_that_the_configuration_leaves_out_are_filled_in() {
    let folder = copy("Tiny-Llama-2-7B-Chat");
    config(&folder, |c| {
        for key in ["head_dim", "rms_norm_eps", "rope_parameters", "pretraining_tp", "attention_bias"] {
            c.remove(key);
        }
    });
    assert_eq!(fixtures::sha256(&bytes(&open(&folder, OutType::BF16))), golden("Tiny-Llama-2-7B-Chat", "bf16"));
    let folder = copy("Tiny-Llama-Bias");
    config(&folder, |c| {
        c.remove("num_key_value_heads");
    });
    assert_eq!(fixtures::sha256(&bytes(&open(&folder, OutType::BF16))), golden("Tiny-Llama-Bias", "bf16"));
}

#[test]
fn a_default_within_a_part_of_the_configuration_is_filled_in() {
    let folder = copy("MPT-Tiny-7B");
    config(&folder, |c| _ = c["attn_config"].as_object_mut().unwrap().remove("alibi"));
    assert_eq!(fixtures::sha256(&bytes(&open(&folder, OutType::BF16))), golden("MPT-Tiny-7B", "bf16"));
    config(&folder, |c| c["attn_config"]["alibi"] = false.into());
    assert_eq!(open(&folder, OutType::BF16).metadata().f64("mpt.attention.max_alibi_bias"), Some(0.0));
}

#[test]
fn a_wrapper_gives_its_text_model_and_says_what_it_left_out() {
    let folder = copy("Tiny-Llama-2-7B-Chat");
    let weights = folder.path.join("model.safetensors");
    let mut tensors = read(&weights);
    for tensor in &mut tensors {
        tensor.0 = format!("language_model.{}", tensor.0);
    }
    tensors.push(("vision_tower.patch.weight".into(), "BF16".into(), json!([2, 2]), vec![0; 8]));
    tensors.push(("multi_modal_projector.linear.bias".into(), "BF16".into(), json!([2]), vec![0; 4]));
    write(&weights, &tensors);
    let path = folder.path.join("config.json");
    let text: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let wrapper = json!({"architectures": ["LlavaForConditionalGeneration"], "vision_config": {}, "text_config": text});
    fs::write(path, wrapper.to_string()).unwrap();
    let checkpoint = open(&folder, OutType::BF16);
    assert_eq!(fixtures::sha256(&bytes(&checkpoint)), golden("Tiny-Llama-2-7B-Chat", "bf16"));
    assert!(checkpoint.notes().iter().any(|n| n.contains("2 vision and audio tensors")), "{:?}", checkpoint.notes());
}

#[test]
fn a_stored_head_is_written_though_the_configuration_ties_it() {
    let folder = copy("Tiny-Llama-2-7B-Chat");
    config(&folder, |c| _ = c.insert("tie_word_embeddings".into(), true.into()));
    assert!(open(&folder, OutType::BF16).find("output.weight").is_some());
    let weights = folder.path.join("model.safetensors");
    let tensors: Tensors = read(&weights).into_iter().filter(|t| t.0 != "lm_head.weight").collect();
    write(&weights, &tensors);
    assert!(open(&folder, OutType::BF16).find("output.weight").is_none());
}

#[test]
fn auto_follows_the_matrices() {
    let folder = copy("Tiny-Llama-2-7B-Chat");
    let weights = folder.path.join("model.safetensors");
    let ty = |folder: &Folder| {
        let checkpoint = open(folder, OutType::Auto);
        checkpoint.tensors()[checkpoint.find("token_embd.weight").unwrap()].ty()
    };
    assert_eq!(ty(&folder), gguf::TensorType::BF16);
    let wide: Tensors = read(&weights)
        .into_iter()
        .map(|(name, _, shape, data)| {
            (name, "F32".into(), shape, data.as_chunks::<2>().0.iter().flat_map(|b| [0, 0, b[0], b[1]]).collect())
        })
        .collect();
    write(&weights, &wide);
    assert_eq!(ty(&folder), gguf::TensorType::F16);
    // The same weights stored wider are the same file.
    assert_eq!(fixtures::sha256(&bytes(&open(&folder, OutType::BF16))), golden("Tiny-Llama-2-7B-Chat", "bf16"));
    assert_eq!(fixtures::sha256(&bytes(&open(&folder, OutType::F32))), golden("Tiny-Llama-2-7B-Chat", "f32"));
}

#[test]
fn scaled_rotation_is_written_as_keys() {
    let folder = copy("Qwen2-Tiny");
    config(&folder, |c| {
        c.insert(
            "rope_scaling".into(),
            json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 0.5}),
        );
        c.remove("rope_parameters");
    });
    let checkpoint = open(&folder, OutType::BF16);
    let metadata = checkpoint.metadata();
    assert_eq!(metadata.str("qwen2.rope.scaling.type"), Some("yarn"));
    assert_eq!(metadata.f64("qwen2.rope.scaling.factor"), Some(4.0));
    assert_eq!(metadata.u64("qwen2.rope.scaling.original_context_length"), Some(64));
    assert_eq!(metadata.f64("qwen2.rope.scaling.yarn_attn_factor"), Some(0.5));
    assert_eq!(metadata.f64("qwen2.rope.freq_base"), Some(10000.0));
    let folder = copy("Phi-3-Tiny-mini-4k");
    config(&folder, |c| {
        let factors = vec![1.5; 8];
        c.insert("rope_scaling".into(), json!({"type": "longrope", "long_factor": factors, "short_factor": factors}));
        c.remove("rope_parameters");
        c.insert("rope_theta".into(), 10000.0.into());
        c.insert("original_max_position_embeddings".into(), 64.into());
    });
    let checkpoint = open(&folder, OutType::BF16);
    assert_eq!(checkpoint.tensors()[0].name(), "rope_factors_long.weight");
    assert_eq!(checkpoint.tensors()[1].name(), "rope_factors_short.weight");
    let second = checkpoint.metadata().iter().nth(1).unwrap();
    assert_eq!(second.0, "phi3.rope.scaling.attn_factor");
    assert!((second.1.as_f64().unwrap() - (1.0 + 4_f64.ln() / 64_f64.ln()).sqrt()).abs() < 1e-6);
}

#[test]
fn rows_are_the_same_at_any_cut() {
    for name in ["Tiny-Llama-2-7B-Chat", "GPT2-Tiny", "Mixtral-Tiny-4x1B", "Falcon-Tiny-7B", "GPT-OSS-Tiny-20B"] {
        let folder = fixtures::path(&format!("golden/arch/{name}/hf/{name}"));
        let checkpoint = Checkpoint::open(&folder, &Options::default()).unwrap();
        for (i, tensor) in checkpoint.tensors().iter().enumerate() {
            let whole = checkpoint.rows(i, 0..tensor.rows()).unwrap().into_owned();
            let mut cut = Vec::new();
            for first in (0..tensor.rows()).step_by(7) {
                let rows = first..(first + 7).min(tensor.rows());
                cut.extend_from_slice(&checkpoint.rows(i, rows.clone()).unwrap());
                checkpoint.release(i, rows);
            }
            assert!(whole == cut, "{name} {}", tensor.name());
            assert!(checkpoint.rows(i, 0..tensor.rows() + 1).is_err());
        }
    }
    assert!(fixtures::path(TINY).exists());
}

#[test]
fn experts_of_one_tensor_are_those_of_many() {
    for (name, module, [gate, up, down]) in [
        ("Mixtral-Tiny-4x1B", "block_sparse_moe", ["w1", "w3", "w2"]),
        ("DeepSeek-V2-Tiny-Lite", "mlp", ["gate_proj", "up_proj", "down_proj"]),
        ("DeepSeek-V3-Tiny-R1", "mlp", ["gate_proj", "up_proj", "down_proj"]),
        ("OLMoE-Tiny", "mlp", ["gate_proj", "up_proj", "down_proj"]),
        ("Qwen2-MoE-Tiny", "mlp", ["gate_proj", "up_proj", "down_proj"]),
        ("Qwen3-MoE-Tiny-A1B", "mlp", ["gate_proj", "up_proj", "down_proj"]),
    ] {
        let folder = copy(name);
        let sorted = |checkpoint: &Checkpoint| {
            let mut tensors: Vec<(String, Vec<u64>, Vec<u8>)> = (0..checkpoint.tensors().len())
                .map(|i| {
                    let info = &checkpoint.tensors()[i];
                    let data = checkpoint.rows(i, 0..info.rows()).unwrap().into_owned();
                    (info.name().to_owned(), info.shape().dims().to_vec(), data)
                })
                .collect();
            tensors.sort();
            tensors
        };
        let single = sorted(&open(&folder, OutType::BF16));
        let path = folder.path.join("model.safetensors");
        let tensors = read(&path);
        let mut fused: Tensors = Vec::new();
        for (tensor, dtype, shape, data) in &tensors {
            let Some((before, rest)) = tensor.split_once(&format!(".{module}.experts.")) else {
                // The router goes by the module's new name.
                fused.push((tensor.replace(".block_sparse_moe.", ".mlp."), dtype.clone(), shape.clone(), data.clone()));
                continue;
            };
            if rest != format!("0.{gate}.weight") {
                continue;
            }
            let member = |x: u64, table: &str| {
                let name = format!("{before}.{module}.experts.{x}.{table}.weight");
                tensors.iter().find(|t| t.0 == name).map(|t| (t.2.clone(), t.3.clone()))
            };
            let count = (0..).take_while(|x| member(*x, gate).is_some()).count() as u64;
            let all = |tables: &[&str]| -> Vec<u8> {
                (0..count)
                    .flat_map(|x| tables.iter().flat_map(move |t| member(x, t).unwrap().1).collect::<Vec<u8>>())
                    .collect()
            };
            let shape = |x: &str| {
                member(0, x).unwrap().0.as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect::<Vec<_>>()
            };
            let (g, d) = (shape(gate), shape(down));
            let name = |kind: &str| format!("{before}.mlp.experts.{kind}");
            fused.push((name("gate_up_proj"), dtype.clone(), json!([count, g[0] * 2, g[1]]), all(&[gate, up])));
            fused.push((name("down_proj"), dtype.clone(), json!([count, d[0], d[1]]), all(&[down])));
        }
        assert!(fused.len() < tensors.len());
        write(&path, &fused);
        assert_eq!(sorted(&open(&folder, OutType::BF16)), single, "{name}");
        // Experts that the configuration does not have, and halves that are none. Rows that know both forms leave that to
        // the check of shapes.
        if module == "mlp" && !name.starts_with("DeepSeek") {
            continue;
        }
        for change in [|s: &mut Value| s[0] = 1.into(), |s: &mut Value| *s = json!([s[0], 1, 2])] {
            let mut wrong: Tensors = fused.clone();
            let entry = wrong.iter_mut().find(|t| t.0.ends_with("gate_up_proj")).unwrap();
            change(&mut entry.2);
            let size: u64 = entry.2.as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).product::<u64>() * 2;
            entry.3 = vec![0; size as usize];
            write(&path, &wrong);
            let error = Checkpoint::open(&folder.path, &Options::default()).unwrap_err().to_string();
            assert!(error.contains("gate_up_proj"), "{name}: {error}");
        }
    }
}

#[test]
fn a_model_without_a_head_needs_none() {
    let folder = copy("Qwen2-Tiny");
    let path = folder.path.join("model.safetensors");
    let tensors = read(&path);
    let bare: Tensors = tensors
        .into_iter()
        .filter(|t| t.0 != "lm_head.weight")
        .map(|(name, dtype, shape, data)| (name.trim_start_matches("model.").to_owned(), dtype, shape, data))
        .collect();
    write(&path, &bare);
    config(&folder, |c| _ = c.insert("tie_word_embeddings".into(), false.into()));
    let error = Checkpoint::open(&folder.path, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("lm_head.weight is missing"), "{error}");
    config(&folder, |c| _ = c.insert("architectures".into(), json!(["Qwen2Model"])));
    let found = open(&folder, OutType::BF16);
    assert!(found.find("output.weight").is_none() && found.find("token_embd.weight").is_some());
}

/// The class of a tokenizer makes the tokens of its roles special, by its own names where the files give none; one of the
/// general class has what the files say. (Looked up at the reference converter with transformers 5.23.)
#[test]
fn a_class_brings_the_roles_of_its_tokens() {
    let bert = copy("BERT-Tiny-uncased");
    let ordinary = |tokenizer: &mut Map<String, Value>| {
        for token in tokenizer["added_tokens"].as_array_mut().unwrap() {
            token["special"] = json!(false);
        }
    };
    edit(&bert, "tokenizer.json", ordinary);
    let whole = || fixtures::sha256(&bytes(&open(&bert, OutType::BF16)));
    assert_eq!(whole(), golden("BERT-Tiny-uncased", "bf16"));
    edit(&bert, "tokenizer_config.json", |settings| drop(settings.remove("mask_token")));
    let kind = |folder: &Folder, text: &str| {
        let checkpoint = open(folder, OutType::BF16);
        let list = |key: &str| checkpoint.metadata().array(key).unwrap().clone();
        let at = list("tokenizer.ggml.tokens").iter_bytes().unwrap().position(|token| token == text.as_bytes())?;
        list("tokenizer.ggml.token_type").iter().nth(at)?.as_i64()
    };
    assert_eq!(kind(&bert, "[MASK]"), Some(3));
    edit(&bert, "tokenizer_config.json", |settings| {
        drop(settings.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast")))
    });
    assert_eq!((kind(&bert, "[MASK]"), kind(&bert, "\u{2581}[MASK]")), (None, Some(4)));

    let jina = copy_of("golden/encoders", "jina-embeddings-v3-Tiny");
    let prefix = || open(&jina, OutType::BF16).metadata().bool("tokenizer.ggml.add_space_prefix");
    assert_eq!((kind(&jina, "<mask>"), prefix()), (Some(3), Some(true)));
    edit(&jina, "tokenizer_config.json", |settings| settings.retain(|key, _| !key.ends_with("_token")));
    assert_eq!((kind(&jina, "<mask>"), kind(&jina, "<pad>"), prefix()), (Some(3), Some(3), Some(true)));
    edit(&jina, "tokenizer_config.json", |settings| {
        drop(settings.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast")))
    });
    assert_eq!((kind(&jina, "<mask>"), prefix()), (Some(4), Some(false)));
}
