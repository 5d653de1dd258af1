//! Adapters: the GGUF file of the reference, the merge against f64, and what is refused.

mod cases;

use std::fs;
use std::path::{Path, PathBuf};

use convert::lora::{Adapter, AdapterFile, is_adapter};
use convert::safetensors::open_folder;
use convert::{Checkpoint, Options, OutType};
use gguf::{Metadata, Source};
use indexmap::IndexMap;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// A tensor of an adapter: name, dtype, shape, data.
type Tensor = (String, &'static str, Vec<u64>, Vec<u8>);

/// Values that differ, small enough for every type.
fn numbers(seed: usize, count: u64) -> Vec<f32> {
    let value = |i: u64| ((i * 40_503 + seed as u64 * 9_973) % 65_521) as f32 / 65_536.0 - 0.5;
    (0..count).map(value).collect()
}

/// A tensor of such values in this type, which depend on its name and shape alone.
fn tensor(name: impl Into<String>, dtype: &'static str, shape: &[u64]) -> Tensor {
    let name = name.into();
    let values = numbers(name.len() + name.bytes().map(usize::from).sum::<usize>(), shape.iter().product());
    let bytes = match dtype {
        "F16" => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
        "BF16" => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    (name, dtype, shape.to_vec(), bytes)
}

const MODEL: &str = "base_model.model.";

/// The matrices of a linear layer.
fn pair(module: &str, rank: u64, output: u64, input: u64) -> Vec<Tensor> {
    let name = |half: &str| format!("{MODEL}{module}.lora_{half}.weight");
    vec![tensor(name("A"), "F32", &[rank, input]), tensor(name("B"), "F32", &[output, rank])]
}

/// The matrices of an embedding.
fn embedding(module: &str, rank: u64, tokens: u64, width: u64) -> Vec<Tensor> {
    let name = |half: &str| format!("{MODEL}{module}.lora_embedding_{half}");
    vec![tensor(name("A"), "F32", &[rank, tokens]), tensor(name("B"), "F32", &[width, rank])]
}

/// Writes an adapter of these tensors with these settings on top of the usual ones.
fn write(folder: &Path, tensors: &[Tensor], settings: &Value) {
    fs::create_dir_all(folder).unwrap();
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}));
    }
    // Names in a header stand in any order: that of the data counts.
    let names: Vec<String> = header.keys().rev().cloned().collect();
    let header: Map<String, Value> = names.into_iter().map(|n| (n.clone(), header[&n].clone())).collect();
    let header = Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    fs::write(folder.join("adapter_model.safetensors"), file).unwrap();
    let mut config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": "all-linear"});
    config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
}

fn base(name: &str) -> PathBuf {
    fixtures::path(&format!("golden/arch/{name}/hf/{name}"))
}

/// Checkpoints that are made, of classes whose adapters have keys or types of the class.
const MADE: [&str; 3] = ["Jais-Tiny-590m", "DeepSeek-V4-Tiny-Flash", "DeepSeek-OCR"];

/// Where the checkpoint of this name is: one of the fixtures, or one that was made in this folder.
fn base_of(name: &str, made: &Path) -> PathBuf {
    if MADE.contains(&name) { made.join(name) } else { base(name) }
}

/// Makes them.
fn make_bases(made: &Path) {
    let all = fixtures::json("generated/cases.json");
    for name in MADE {
        fs::create_dir_all(made).unwrap();
        cases::write(&cases::resolved(all.as_object().unwrap(), name), &made.join(name));
    }
}

fn converted(folder: &Path, base: &Path, outtype: OutType) -> gguf::Result<Vec<u8>> {
    let adapter = AdapterFile::open(folder, base, &Options { outtype, ..Options::default() })?;
    gguf::write::copy(&adapter, adapter.metadata(), Vec::new(), |_| {})
}

/// An adapter, its settings and the model it is for.
struct Case {
    name: String,
    model: String,
    tensors: Vec<Tensor>,
    settings: Value,
}

/// Every kind of layer of every architecture's checkpoint, and forms of adapters that people have.
fn cases(made: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut models: Vec<String> = fs::read_dir(fixtures::path("golden/arch"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| base(name).is_dir())
        .chain(MADE.map(str::to_owned))
        .collect();
    models.sort();
    for model in models {
        // Weights by name without numbers; the tables of experts together.
        let mut kinds: IndexMap<String, Vec<(String, Vec<u64>)>> = IndexMap::new();
        let stored = open_folder(&base_of(&model, made)).unwrap();
        let has = |name: &str| stored.iter().any(|tensor| tensor.name() == name);
        for stored in &stored {
            let Some(module) = stored.name().strip_suffix(".weight") else { continue };
            // No file has a place for it, and the reference writes one without tensors; of V4's experts too.
            if module.starts_with("pooler") || module.contains("projector") || module.contains(".ffn.experts.") {
                continue;
            }
            let numberless: Vec<&str> =
                module.split('.').map(|p| if p.parse::<u64>().is_ok() { "#" } else { p }).collect();
            let kind = numberless.join(".");
            let kind = kind.split_once("experts.#").map_or(kind.clone(), |(before, _)| format!("{before}experts"));
            kinds.entry(kind).or_default().push((module.to_owned(), stored.shape().to_vec()));
        }
        let input_major = model == "GPT2-Tiny" || model.starts_with("Jais");
        let linear = |(module, shape): &(String, Vec<u64>)| match *shape.as_slice() {
            [input, output] if input_major => pair(module, 2, output, input),
            [output, input] => pair(module, 2, output, input),
            _ => Vec::new(),
        };
        let looked_up = |kind: &str| ["embed", "wte", "wpe"].iter().any(|part| kind.contains(part));
        let first =
            kinds.iter().find(|(kind, of)| of[0].1.len() == 2 && !looked_up(kind)).map(|(_, of)| linear(&of[0]));
        for (kind, of) in &kinds {
            let tensors: Vec<Tensor> = match of[0].1.len() {
                2 if looked_up(kind) => of.iter().flat_map(|(m, s)| embedding(m, 2, s[0], s[1])).collect(),
                2 => of.iter().flat_map(linear).collect(),
                1 if kind.contains("norm") || kind.contains("ln") => {
                    let norms = of.iter().map(|(m, s)| tensor(format!("{MODEL}{m}.weight"), "F32", s));
                    norms.chain(first.clone().unwrap_or_default()).collect()
                }
                _ => continue,
            };
            let settings = json!({"fan_in_fan_out": input_major});
            let mut case = |name: String, tensors: Vec<Tensor>| {
                cases.push(Case { name, model: model.clone(), tensors, settings: settings.clone() });
            };
            if of[0].1.len() == 1 && has(&format!("{}.bias", of[0].0)) {
                let biases = of.iter().map(|(m, s)| tensor(format!("{MODEL}{m}.bias"), "F32", s));
                case(format!("{model}/{kind}.bias"), biases.chain(first.clone().unwrap_or_default()).collect());
            }
            case(format!("{model}/{kind}"), tensors);
        }
    }
    let llama = "Tiny-Llama-2-7B-Chat";
    let q = "model.layers.0.self_attn.q_proj";
    let v = "model.layers.1.self_attn.v_proj";
    let all = |parts: &[&[Tensor]]| parts.concat();
    let mut case = |name: &str, model: &str, tensors: Vec<Tensor>, settings: Value| {
        cases.push(Case { name: name.to_owned(), model: model.to_owned(), tensors, settings });
    };
    let plain = all(&[&pair(q, 2, 64, 64), &pair(v, 2, 32, 64)]);
    let own = tensor(format!("{MODEL}{q}.base_layer.weight"), "F32", &[64, 64]);
    case("own weights beside", llama, all(&[&[own], &plain]), json!({}));
    case("a target without a match", llama, plain.clone(), json!({"target_modules": ["q_proj", "v_proj", "qkv"]}));
    case("names of a wrapper", llama, pair("model.language_model.layers.1.self_attn.v_proj", 2, 32, 64), json!({}));
    case(
        "names of a bare model",
        "GPT2-Tiny",
        pair("transformer.h.1.mlp.c_fc", 2, 256, 64),
        json!({"fan_in_fan_out": true}),
    );
    let mixed: Vec<Tensor> = [("A", "F32", [2, 64]), ("B", "BF16", [64, 2])]
        .map(|(half, dtype, shape)| tensor(format!("{MODEL}{q}.lora_{half}.weight"), dtype, &shape))
        .to_vec();
    case("types that differ", llama, all(&[&mixed, &pair(v, 2, 32, 64)]), json!({}));
    let halves: Vec<Tensor> = [("B", [64, 2]), ("A", [2, 64])]
        .map(|(half, shape)| tensor(format!("{MODEL}{q}.lora_{half}.weight"), "F16", &shape))
        .to_vec();
    case("B before A", llama, all(&[&pair(v, 2, 32, 64), &halves]), json!({}));
    let ranks = json!({"r": 4, "rank_pattern": {"v_proj": 2, "layers.0.self_attn.q_proj": 3}});
    case("ranks of their own", llama, all(&[&pair(q, 3, 64, 64), &pair(v, 2, 32, 64)]), ranks);
    case("tokens of activation", llama, plain.clone(), json!({"alora_invocation_tokens": [5, 6, 7]}));
    let towers = pair("model.vision_tower.layers.0.self_attn.q_proj", 2, 64, 64);
    case("vision and audio beside", llama, all(&[&towers, &plain]), json!({}));
    cases
}

/// The folder's name, from which the reference takes the adapter's.
const FOLDER: &str = "Some-Adapter-7B-v1-lora";

/// `CONVERT_LORA_ADAPTERS=DIR` writes the adapters there, for `fixtures/lora/architectures.py` to ask the reference.
#[test]
fn adapters_of_every_architecture_are_those_of_the_reference() {
    if let Some(out) = std::env::var_os("CONVERT_LORA_ADAPTERS") {
        let (mut list, made) = (Vec::new(), Path::new(&out).join("bases"));
        make_bases(&made);
        for (i, case) in cases(&made).iter().enumerate() {
            write(&Path::new(&out).join(i.to_string()).join(FOLDER), &case.tensors, &case.settings);
            list.push(json!({"name": case.name, "model": base_of(&case.model, &made)}));
        }
        fs::write(Path::new(&out).join("cases.json"), json!(list).to_string()).unwrap();
        return;
    }
    let expected = fixtures::json("lora/architectures.json");
    let temporary = tempfile::tempdir().unwrap();
    let (folder, made) = (temporary.path().join(FOLDER), temporary.path().join("bases"));
    make_bases(&made);
    let (mut same, mut more) = (0, Vec::new());
    for case in cases(&made) {
        write(&folder, &case.tensors, &case.settings);
        for (name, outtype) in [("f32", OutType::F32), ("bf16", OutType::BF16)] {
            let found = converted(&folder, &base_of(&case.model, &made), outtype);
            match expected[&case.name][name].as_str() {
                Some(hash) => {
                    let bytes = found.unwrap_or_else(|e| panic!("{}: {e}", case.name));
                    assert_eq!(fixtures::sha256(&bytes), hash, "{} as {name}", case.name);
                    same += 1;
                }
                // The reference does not know it; what is written is written by the same rules.
                None => more.push((case.name.clone(), found.is_ok())),
            }
        }
    }
    assert!(same > 700, "{same}");
    assert!(more.iter().filter(|(_, written)| !written).count() <= 12, "{more:?}");
}

/// The types of V4's weights are those of the base where it is there, so one that is cut short is no base without weights.
#[test]
fn a_base_whose_types_count_is_read_or_refused() {
    let temporary = tempfile::tempdir().unwrap();
    make_bases(temporary.path());
    let (base, folder) = (temporary.path().join("DeepSeek-V4-Tiny-Flash"), temporary.path().join(FOLDER));
    write(&folder, &pair("layers.0.attn.wkv", 2, 32, 64), &json!({}));
    let weights = base.join("model.safetensors");
    let ty = || {
        let options = Options { outtype: OutType::F16, ..Options::default() };
        AdapterFile::open(&folder, &base, &options).map(|adapter| adapter.tensors()[0].ty())
    };
    assert_eq!(ty().unwrap(), gguf::TensorType::BF16);
    fs::OpenOptions::new().write(true).open(&weights).unwrap().set_len(20).unwrap();
    assert!(ty().unwrap_err().to_string().contains("model.safetensors"));
    fs::remove_file(weights).unwrap();
    assert_eq!(ty().unwrap(), gguf::TensorType::F16);
}

fn values(source: &dyn Source, name: &str) -> Vec<f32> {
    let tensor = source.find(name).unwrap();
    let bytes = source.rows(tensor, 0..source.tensors()[tensor].rows()).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn the_file_is_that_of_the_reference() {
    let (folder, base) = (fixtures::path("lora/tiny-llama-adapter"), fixtures::path("models/tiny-llama"));
    let adapter = AdapterFile::open(&folder, &base, &Options { outtype: OutType::F32, ..Options::default() }).unwrap();
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
        ("alpha_pattern", json!({"q_proj": "4"}), "alpha_pattern"),
        ("alpha_pattern", json!({"q_proj(": 4}), "alpha_pattern"),
        ("rank_pattern", json!({"q_proj": 8}), "r is 8"),
        ("lora_bias", json!(true), "lora_bias"),
        ("alora_invocation_tokens", json!("yes"), "alora_invocation_tokens"),
        ("invocation_string", json!("<|start|>"), "invocation_string"),
        ("r", json!(8), "r is 8"),
        ("lora_alpha", json!("much"), "lora_alpha"),
        ("target_modules", json!(["q_proj", "k_proj", "v_proj"]), "down_proj"),
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

/// The factor of each matrix's product in a GGUF adapter: alpha ÷ rank, and what was multiplied into B.
fn factors(folder: &Path) -> Vec<(String, f32)> {
    let options = Options { outtype: OutType::F32, ..Options::default() };
    let file = AdapterFile::open(folder, &base("Tiny-Llama-2-7B-Chat"), &options).unwrap();
    let alpha = match file.metadata().get("adapter.lora.alpha") {
        Some(gguf::Value::F32(alpha)) => *alpha,
        other => panic!("{other:?}"),
    };
    let names = file.tensors().iter().filter_map(|t| t.name().strip_suffix(".weight.lora_b")).map(str::to_owned);
    names
        .map(|name| {
            let b = format!("{name}.weight.lora_b");
            let rank = file.tensors()[file.find(&b).unwrap()].shape().row_len();
            let stored = values(&file, &b);
            let module = if name.contains("attn_q") {
                "model.layers.0.self_attn.q_proj"
            } else {
                "model.layers.1.self_attn.v_proj"
            };
            let own = tensor(format!("{MODEL}{module}.lora_B.weight"), "F32", &[stored.len() as u64]).3;
            let own: Vec<f32> = own.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            // The rows of a query are reordered, but for the first one.
            let of = (0..rank as usize).find(|i| own[*i] != 0.0).unwrap();
            (name, alpha / rank as f32 * (stored[of] / own[of]))
        })
        .collect()
}

#[test]
fn an_adapter_has_the_factors_that_peft_applies() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("adapter");
    let tensors =
        [pair("model.layers.0.self_attn.q_proj", 16, 64, 64), pair("model.layers.1.self_attn.v_proj", 4, 32, 64)]
            .concat();
    let merged = || {
        let options = Options { outtype: OutType::F32, merge: vec![(folder.clone(), 1.0)], ..Options::default() };
        let plain =
            Checkpoint::open(&base("Tiny-Llama-2-7B-Chat"), &Options { merge: vec![], ..options.clone() }).unwrap();
        let merged = Checkpoint::open(&base("Tiny-Llama-2-7B-Chat"), &options).unwrap();
        let change = |name: &str| values(&merged, name)[0] - values(&plain, name)[0];
        (change("blk.0.attn_q.weight"), change("blk.1.attn_v.weight"))
    };
    let ranks = json!({"q_proj": 16, "v_proj": 4});
    for (settings, q, v, alpha) in [
        (json!({"r": 16, "rank_pattern": ranks}), 8.0 / 16.0, 8.0 / 4.0, 8.0),
        (json!({"r": 16, "rank_pattern": ranks, "use_rslora": true}), 8.0 / 4.0, 8.0 / 2.0, 32.0),
        (json!({"r": 4, "rank_pattern": ranks, "use_rslora": true}), 8.0 / 4.0, 8.0 / 2.0, 16.0),
        (json!({"r": 16, "rank_pattern": ranks, "alpha_pattern": {"v_proj": 24}}), 8.0 / 16.0, 24.0 / 4.0, 8.0),
        (
            json!({"r": 16, "rank_pattern": ranks, "alpha_pattern": {"layers.0.self_attn.q_proj": 2.5}}),
            2.5 / 16.0,
            8.0 / 4.0,
            8.0,
        ),
        (json!({"r": 16, "rank_pattern": ranks, "alpha_pattern": {"(q|v)_proj": 3}}), 3.0 / 16.0, 3.0 / 4.0, 3.0),
    ] {
        write(&folder, &tensors, &settings);
        let options = Options { outtype: OutType::F32, ..Options::default() };
        let file = AdapterFile::open(&folder, &base("Tiny-Llama-2-7B-Chat"), &options).unwrap();
        assert_eq!(file.metadata().get("adapter.lora.alpha"), Some(&gguf::Value::F32(alpha)), "{settings}");
        for ((name, found), expected) in factors(&folder).into_iter().zip([q, v]) {
            approx::assert_relative_eq!(found, expected, max_relative = 1e-6);
            assert!(name.starts_with("blk."));
        }
        // A merge changes the weights by the same factors.
        let (change_q, change_v) = merged();
        write(&folder, &tensors, &json!({"r": 16, "rank_pattern": ranks, "lora_alpha": 1}));
        let (one_q, one_v) = merged();
        approx::assert_relative_eq!(change_q / one_q, q * 16.0, max_relative = 1e-3);
        approx::assert_relative_eq!(change_v / one_v, v * 4.0, max_relative = 1e-3);
    }
    write(&folder, &tensors, &json!({"r": 16, "rank_pattern": ranks, "lora_alpha": 0}));
    let error = AdapterFile::open(&folder, &base("Tiny-Llama-2-7B-Chat"), &Options::default()).unwrap_err();
    assert!(error.to_string().contains("lora_alpha is 0"), "{error}");
}

#[test]
fn a_merge_takes_embeddings_and_what_was_trained_as_a_whole() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("adapter");
    let options = |merge| Options { outtype: OutType::F32, merge, ..Options::default() };
    let llama = base("Tiny-Llama-2-7B-Chat");
    let open = |merge| Checkpoint::open(&llama, &options(merge));
    let norm = tensor(format!("{MODEL}model.layers.0.input_layernorm.weight"), "F32", &[64]);
    let head = tensor(format!("{MODEL}lm_head.modules_to_save.default.weight"), "F32", &[512, 64]);
    let original = tensor(format!("{MODEL}lm_head.original_module.weight"), "F32", &[512, 64]);
    let tensors = [embedding("model.embed_tokens", 2, 512, 64), vec![norm.clone(), head.clone(), original]].concat();
    write(&folder, &tensors, &json!({"modules_to_save": ["lm_head", "score"]}));
    let (plain, merged) = (open(vec![]).unwrap(), open(vec![(folder.clone(), 0.5)]).unwrap());
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    assert_eq!(values(&merged, "output.weight"), floats(&head.3));
    assert_eq!(values(&merged, "blk.0.attn_norm.weight"), floats(&norm.3));
    let (a, b) = (floats(&tensors[0].3), floats(&tensors[1].3));
    let (before, after) = (values(&plain, "token_embd.weight"), values(&merged, "token_embd.weight"));
    for (token, column) in [(0, 0), (0, 63), (7, 5), (511, 63)] {
        let change: f32 = (0..2).map(|r| a[r * 512 + token] * b[column * 2 + r]).sum::<f32>() * 8.0 / 2.0 * 0.5;
        approx::assert_abs_diff_eq!(after[token * 64 + column] - before[token * 64 + column], change, epsilon = 1e-5);
    }
    // A GGUF adapter has no place for the head.
    let error = AdapterFile::open(&folder, &llama, &Options::default()).unwrap_err();
    assert!(error.to_string().contains("lm_head") && error.to_string().contains("as a whole"), "{error}");
    // What was resized is of another model.
    let more = tensor(format!("{MODEL}lm_head.weight"), "F32", &[513, 64]);
    write(&folder, &[embedding("model.embed_tokens", 2, 512, 64), vec![more]].concat(), &json!({}));
    assert!(open(vec![(folder.clone(), 1.0)]).unwrap_err().to_string().contains("[513, 64]"));
    write(&folder, &tensors, &json!({"modules_to_save": ["classifier"]}));
    assert!(open(vec![(folder, 1.0)]).unwrap_err().to_string().contains("modules_to_save"));
}

/// What a model's weights are multiplied with goes to B: M (B A) = (M B) A.
#[test]
fn multipliers_of_a_model_go_to_the_adapter() {
    let place = tempfile::tempdir().unwrap();
    let (base, folder) = (place.path().join("Falcon-H1-Tiny"), place.path().join(FOLDER));
    fs::create_dir(&base).unwrap();
    let config = json!({
        "architectures": ["FalconH1ForCausalLM"], "model_type": "falcon_h1", "hidden_size": 64, "intermediate_size": 96,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 2, "vocab_size": 512,
        "mamba_d_ssm": 96, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_n_heads": 6, "mamba_d_head": 16,
        "attention_in_multiplier": 1.25, "key_multiplier": 0.7, "mlp_multipliers": [0.875, 0.625],
        "ssm_in_multiplier": 1.5, "ssm_multipliers": [0.5, 0.25, 1.5, 0.625, 0.875], "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    });
    fs::write(base.join("config.json"), config.to_string()).unwrap();
    let block = "model.layers.1";
    let (key, down, inner) = (
        format!("{block}.self_attn.k_proj"),
        format!("{block}.feed_forward.down_proj"),
        format!("{block}.mamba.in_proj"),
    );
    let tensors = [pair(&key, 2, 32, 64), pair(&down, 2, 64, 96), pair(&inner, 2, 230, 64)].concat();
    write(&folder, &tensors, &json!({}));
    let options = Options { outtype: OutType::F32, ..Options::default() };
    let adapter = AdapterFile::open(&folder, &base, &options).unwrap();
    let stored = |module: &str, half: &str| {
        let found = tensors.iter().find(|t| t.0.contains(module) && t.0.contains(half)).unwrap();
        found.3.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>()
    };
    for (module, name) in [(&key, "blk.1.attn_k"), (&down, "blk.1.ffn_down"), (&inner, "blk.1.ssm_in")] {
        assert_eq!(values(&adapter, &format!("{name}.weight.lora_a")), stored(module, "lora_A"));
        let factor = |row: usize| match name {
            "blk.1.attn_k" => vec![0.7, 1.25],
            "blk.1.ffn_down" => vec![0.625],
            _ => vec![1.5, [0.5, 0.25, 1.5, 0.625, 0.875][[96, 192, 208, 224].partition_point(|end| *end <= row)]],
        };
        let b = stored(module, "lora_B");
        let want: Vec<f32> =
            b.iter().enumerate().map(|(i, v)| factor(i / 2).iter().fold(*v, |v, factor| v * factor)).collect();
        assert_eq!(values(&adapter, &format!("{name}.weight.lora_b")), want, "{name}");
    }
}

#[test]
fn columns_of_a_weight_that_move_are_those_of_a() {
    let temporary = tempfile::tempdir().unwrap();
    let (folder, base) = (temporary.path().join("adapter"), temporary.path().join("Qwen3.5-Tiny"));
    fs::create_dir(&base).unwrap();
    let config = &fixtures::json("generated/cases.json")["Qwen3.5-Tiny-9B"]["config"];
    fs::write(base.join("config.json"), config.to_string()).unwrap();
    let module = "model.layers.0.linear_attn.out_proj";
    let tensors = pair(module, 2, 64, 64);
    write(&folder, &tensors, &json!({}));
    let options = Options { outtype: OutType::F32, ..Options::default() };
    let adapter = AdapterFile::open(&folder, &base, &options).unwrap();
    let stored = |half: &str| {
        let found = tensors.iter().find(|t| t.0.contains(half)).unwrap();
        found.3.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>()
    };
    // Two value heads of 16 for each of two key heads: first those of one number, in the file.
    let a = stored("lora_A");
    let from = |column: usize| {
        let (head, rest) = (column / 16, column % 16);
        (head % 2 * 2 + head / 2) * 16 + rest
    };
    let want: Vec<f32> = (0..2 * 64).map(|i| a[i / 64 * 64 + from(i % 64)]).collect();
    assert_eq!(values(&adapter, "blk.0.ssm_out.weight.lora_a"), want);
    assert_eq!(values(&adapter, "blk.0.ssm_out.weight.lora_b"), stored("lora_B"));
}

#[test]
fn experts_are_stacked_all_or_not() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("adapter");
    let mixtral = base("Mixtral-Tiny-4x1B");
    let expert = |i: u64, table: &str, output, input| {
        pair(&format!("model.layers.0.block_sparse_moe.experts.{i}.{table}"), 2, output, input)
    };
    let some: Vec<Tensor> = (0..4).flat_map(|i| expert(i, "w1", 96, 64)).collect();
    write(&folder, &some, &json!({}));
    let file = AdapterFile::open(&folder, &mixtral, &Options::default()).unwrap();
    let shapes: Vec<(&str, &[u64])> = file.tensors().iter().map(|t| (t.name(), t.shape().dims())).collect();
    let name = "blk.0.ffn_gate_exps.weight";
    assert_eq!(shapes, [(&*format!("{name}.lora_a"), &[64, 2, 4][..]), (&*format!("{name}.lora_b"), &[2, 96, 4])]);
    write(&folder, &some[..6], &json!({}));
    let error = AdapterFile::open(&folder, &mixtral, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("experts.3.w1"), "{error}");
    let far: Vec<Tensor> = (0..5).flat_map(|i| expert(i, "w1", 96, 64)).collect();
    write(&folder, &far, &json!({}));
    let error = AdapterFile::open(&folder, &mixtral, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("experts.4.w1"), "{error}");
    // Ranks that differ do not stack.
    let unequal =
        [expert(0, "w1", 96, 64), pair("model.layers.0.block_sparse_moe.experts.1.w1", 4, 96, 64), some[4..].to_vec()];
    write(&folder, &unequal.concat(), &json!({"r": null}));
    assert!(AdapterFile::open(&folder, &mixtral, &Options::default()).is_err());
}

#[test]
fn options_are_those_of_checkpoints() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join(FOLDER);
    write(&folder, &pair("model.layers.0.self_attn.q_proj", 2, 64, 64), &json!({}));
    let llama = base("Tiny-Llama-2-7B-Chat");
    let file = temporary.path().join("more.json");
    fs::write(&file, r#"{"general.author": "A. Uthor"}"#).unwrap();
    fs::write(folder.join("README.md"), "---\nlicense: mit\n---\n").unwrap();
    let options =
        Options { outtype: OutType::F16, model_name: Some("Mine".into()), metadata: Some(file), ..Options::default() };
    let found = AdapterFile::open(&folder, &llama, &options).unwrap();
    let text = |key: &str| found.metadata().str(key).unwrap_or_default().to_owned();
    assert_eq!((text("general.name"), text("general.author")), ("Mine".into(), "A. Uthor".into()));
    assert_eq!((text("general.license"), text("general.size_label")), ("mit".into(), "7B".into()));
    assert!(found.tensors().iter().all(|t| t.ty() == gguf::TensorType::F16));
    assert_eq!(found.file_name(), "Some-Adapter-7B-v1-F16-LoRA.gguf");
    let bare = AdapterFile::open(&folder, &llama, &Options { skip_model_card: true, ..Options::default() }).unwrap();
    assert_eq!(bare.metadata().get("general.license"), None);
    // A folder with the model's configuration in it is an adapter's until the model itself is there.
    assert!(is_adapter(&folder));
    fs::copy(llama.join("config.json"), folder.join("config.json")).unwrap();
    assert!(is_adapter(&folder));
    fs::write(folder.join("model-00001-of-00002.safetensors"), "").unwrap();
    assert!(!is_adapter(&folder) && !is_adapter(&llama) && !is_adapter(Path::new("nowhere")));
}

proptest! {
    #[test]
    fn any_adapter_is_converted_or_refused(
        tensors in prop::collection::btree_map(
            prop::sample::select(vec![
                "model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.0.self_attn.q_proj.lora_B.weight",
                "model.layers.0.self_attn.k_proj.lora_A.default.weight", "model.layers.0.self_attn.k_proj.lora_B.default.weight",
                "model.embed_tokens.lora_embedding_A", "model.embed_tokens.lora_embedding_B", "lm_head.weight", "model.norm.weight",
                "model.layers.9.mlp.up_proj.lora_A.weight", "model.layers.9.mlp.up_proj.lora_B.weight", "x.lora_B.bias",
                ".lora_A.weight", "model.layers.0.self_attn.q_proj.base_layer.weight", "lm_head.modules_to_save.weight",
                "model.layers.99999999999999999999.mlp.up_proj.lora_A.weight", "lora_A.weight",
            ]),
            (prop::sample::select(vec!["F32", "F16", "U8", "I64"]), prop::collection::vec(prop::sample::select(vec![0_u64, 1, 2, 3, 64]), 0..4)),
            0..7,
        ),
        settings in prop::collection::btree_map(
            prop::sample::select(vec!["r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out",
                "modules_to_save", "peft_type", "bias", "alora_invocation_tokens", "invocation_string"]),
            prop_oneof![
                Just(json!(null)), Just(json!(0)), Just(json!(2)), Just(json!(-1)), Just(json!(1e300)), Just(json!("NaN")), Just(json!(true)),
                Just(json!("LORA")), Just(json!(["q_proj", 7])), Just(json!([])), Just(json!({"q_proj": 2})), Just(json!({"(": 1})),
                Just(json!({".*": 0})), Just(json!([1, 4294967296_u64])),
            ],
            0..6,
        ),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let tensors: Vec<Tensor> = tensors.into_iter().map(|(name, (dtype, shape))| {
            let size = match dtype { "I64" => 8, "F32" => 4, "F16" => 2, _ => 1 };
            let bytes = vec![1; (shape.iter().product::<u64>() * size) as usize];
            (format!("{MODEL}{name}"), dtype, shape, bytes)
        }).collect();
        write(folder.path(), &tensors, &json!(settings));
        let llama = base("Tiny-Llama-2-7B-Chat");
        let _ = converted(folder.path(), &llama, OutType::Auto);
        let merge = vec![(folder.path().to_owned(), 1.0)];
        if let Ok(merged) = Checkpoint::open(&llama, &Options { merge, ..Options::default() }) {
            for (i, tensor) in merged.tensors().iter().enumerate() {
                merged.rows(i, 0..tensor.rows().min(4)).unwrap();
            }
        }
    }
}
