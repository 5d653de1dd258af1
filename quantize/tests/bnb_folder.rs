//! Whole folders against those that transformers and bitsandbytes saved.

use std::collections::BTreeSet;
use std::path::Path;

use convert::packed::Float;
use convert::packed::bnb::Code;
use convert::safetensors::{Dtype, Stored, open_folder};
use quantize::bnb::layers::{Layers, Treatment};
use quantize::bnb::{AffineOptions, Form, Granularity, Options, Storage, Why, write, write_affine};

fn four_bit(code: Code, double: bool) -> Form {
    Form::FourBit { code, block: 64, double, storage: Storage::Uint8 }
}

fn written(input: &Path, options: &Options) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(input, &folder.path().join("out"), options, &|_| {}).unwrap();
    folder
}

fn short_sha(bytes: &[u8]) -> String {
    fixtures::sha256(bytes)[..16].to_owned()
}

#[test]
fn folders_equal_those_of_save_pretrained() {
    let golden = fixtures::json("golden/bnb/folders.json");
    for (name, form, compute) in [
        ("nf4", four_bit(Code::Nf4, false), Float::Bf16),
        ("nf4-double", four_bit(Code::Nf4, true), Float::Bf16),
        ("fp4", four_bit(Code::Fp4, false), Float::F32),
        ("int8", Form::Int8 { threshold: 6.0 }, Float::F32),
    ] {
        let golden = &golden[name];
        let input = fixtures::path("models/tiny-llama");
        let folder = written(&input, &Options { compute, ..Options::new(form) });
        let out = folder.path().join("out");

        let tensors = open_folder(&out).unwrap();
        let expected = golden["tensors"].as_object().unwrap();
        let names: BTreeSet<&str> = tensors.iter().map(Stored::name).collect();
        assert_eq!(names, expected.keys().map(String::as_str).collect(), "{name}");
        for tensor in &tensors {
            let found = serde_json::json!([tensor.dtype(), tensor.shape(), short_sha(tensor.bytes())]);
            assert_eq!(found, expected[tensor.name()], "{name}: {}", tensor.name());
        }
        let file = std::fs::read(out.join("model.safetensors")).unwrap();
        assert_eq!(fixtures::sha256(&file), golden["sha256"], "{name}: the file");

        let config = std::fs::read_to_string(out.join("config.json")).unwrap();
        assert_eq!(config, golden["config.json"].as_str().unwrap(), "{name}");
        for copied in ["tokenizer.model", "tokenizer_config.json", "generation_config.json"] {
            assert_eq!(std::fs::read(out.join(copied)).unwrap(), std::fs::read(input.join(copied)).unwrap());
        }
    }
}

#[test]
fn the_layers_are_those_that_transformers_replaces() {
    let golden = fixtures::json("golden/bnb/layers.json");
    for (name, layers) in golden.as_object().unwrap() {
        let input = fixtures::path(&format!("golden/arch/{name}/hf/{name}"));
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(input.join("config.json")).unwrap()).unwrap();
        let layers = layers.as_object().unwrap();
        let tensors = open_folder(&input).unwrap();
        let rules = Layers::new(config.as_object().unwrap(), &tensors, None).unwrap();
        let chosen: BTreeSet<&str> = tensors
            .iter()
            .filter(|t| !matches!(rules.treatment(t.name(), t.shape()), Treatment::Kept(_)))
            .map(Stored::name)
            .collect();
        assert_eq!(chosen, layers.keys().map(String::as_str).collect(), "{name}");

        if layers.is_empty() {
            let out = tempfile::tempdir().unwrap();
            let options = Options::new(four_bit(Code::Nf4, false));
            let fault = write(&input, &out.path().join("out"), &options, &|_| {}).unwrap_err();
            assert!(fault.message().contains("a class of its own"), "{name}: {fault}");
            continue;
        }
        let folder = written(&input, &Options::new(four_bit(Code::Nf4, false)));
        let tensors = open_folder(&folder.path().join("out")).unwrap();
        let bytes = |name: String| tensors.iter().find(|t| t.name() == name).unwrap().bytes();
        for (layer, hash) in layers {
            let all = ["", ".absmax", ".quant_state.bitsandbytes__nf4"].map(|s| bytes(format!("{layer}{s}"))).concat();
            assert_eq!(short_sha(&all), *hash, "{name}: {layer}");
        }
    }
}

/// A tensor of a checkpoint of which only names and shapes are known.
fn stored(shapes: &serde_json::Map<String, serde_json::Value>, folder: &Path) -> Vec<Stored> {
    let (mut header, mut end) = (serde_json::Map::new(), 0_u64);
    for (name, shape) in shapes {
        let bytes: u64 = shape.as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).product();
        header.insert(
            name.clone(),
            serde_json::json!({"dtype": "U8", "shape": shape, "data_offsets": [end, end + bytes]}),
        );
        end += bytes;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.resize(file.len() + end as usize, 0);
    std::fs::write(folder.join("model.safetensors"), file).unwrap();
    open_folder(folder).unwrap()
}

#[test]
fn the_layers_of_every_class_are_those_that_transformers_replaces() {
    let golden = fixtures::json("golden/bnb/classes.json");
    let mut faults = Vec::new();
    for (name, entry) in golden.as_object().unwrap() {
        let [replaced, kept] = ["replaced", "kept"].map(|key| entry[key].as_object().unwrap());
        let all = replaced.clone().into_iter().chain(kept.clone()).collect();
        let folder = tempfile::tempdir().unwrap();
        let tensors = stored(&all, folder.path());
        let rules = Layers::new(entry["config"].as_object().unwrap(), &tensors, None).unwrap();
        for tensor in &tensors {
            let treatment = rules.treatment(tensor.name(), tensor.shape());
            if matches!(treatment, Treatment::Kept(_)) == replaced.contains_key(tensor.name()) {
                faults.push(format!("{name}: {} {:?} {treatment:?}", tensor.name(), tensor.shape()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn heads_with_a_bias_are_quantized_and_stacks_and_embeddings_are_not() {
    for name in ["bert-base", "bert-sequence", "llama-tokens"] {
        for (form, type_name) in [(four_bit(Code::Nf4, false), "nf4"), (Form::Int8 { threshold: 6.0 }, "int8")] {
            let folder = written(&fixtures::path(&format!("golden/bnb/heads/{name}")), &Options::new(form));
            let golden = fixtures::json(&format!("golden/bnb/heads/{name}/{type_name}.json"));
            let expected = golden.as_object().unwrap();
            let tensors = open_folder(&folder.path().join("out")).unwrap();
            let names: BTreeSet<&str> = tensors.iter().map(Stored::name).collect();
            assert_eq!(names, expected.keys().map(String::as_str).collect(), "{name} {type_name}");
            for tensor in &tensors {
                let found = serde_json::json!([tensor.dtype(), tensor.shape(), short_sha(tensor.bytes())]);
                assert_eq!(found, expected[tensor.name()], "{name} {type_name}: {}", tensor.name());
            }
        }
    }
}

/// Families some of whose linear weights stay in their float type: which, and how many tensors that are.
const FALL_BACK: &[(&str, Why, usize)] = &[
    ("DeepSeek-V2-Tiny-Lite", Why::Experts, 12),
    ("DeepSeek-V3-Tiny-R1", Why::Experts, 12),
    ("GPT-OSS-Tiny-20B", Why::Experts, 4),
    ("Granite-MoE-Tiny", Why::Experts, 4),
    ("Mixtral-Tiny-4x1B", Why::Experts, 24),
    ("OLMoE-Tiny", Why::Experts, 24),
    ("Qwen2-MoE-Tiny", Why::Experts, 24),
    ("Qwen3-MoE-Tiny-A1B", Why::Experts, 24),
    ("T5-Tiny-small", Why::FullPrecision, 4),
];

#[test]
fn what_stays_is_told_and_refused_on_demand() {
    for name in fixtures::json("golden/bnb/layers.json").as_object().unwrap().keys().filter(|n| *n != "Falcon-Tiny-7B")
    {
        let input = fixtures::path(&format!("golden/arch/{name}/hf/{name}"));
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let options = Options { no_fallback: true, ..Options::new(four_bit(Code::Nf4, false)) };
        let expected = FALL_BACK.iter().find(|row| row.0 == name);
        if expected.is_some() {
            let fault = write(&input, &out, &options, &|_| {}).unwrap_err();
            assert!(fault.message().contains("would stay BF16"), "{name}: {fault}");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{name}");
        }
        let options = Options { no_fallback: expected.is_none(), ..options };
        let report = write(&input, &out, &options, &|_| {}).unwrap();
        let fell: Vec<_> = report.stayed.iter().filter(|kind| kind.why.fallback().is_some()).collect();
        assert_eq!(fell.first().map(|kind| (kind.why, kind.tensors)), expected.map(|row| (row.1, row.2)), "{name}");
        assert!(fell.len() < 2, "{name}");

        // Every weight of the model is either quantized or accounted for.
        let written = open_folder(&out).unwrap();
        let packed: u64 =
            written.iter().filter(|t| t.dtype() == Dtype::U8 && t.shape().len() == 2).map(|t| t.elements() * 2).sum();
        assert_eq!(packed + report.stayed.iter().map(|kind| kind.weights).sum::<u64>(), report.weights, "{name}");
        assert_eq!(report.stayed.iter().map(|kind| kind.tensors).sum::<usize>(), report.kept, "{name}");
    }
}

#[test]
fn experts_of_affine_folders_are_quantized_or_refused() {
    let input = fixtures::path("golden/arch/Qwen3-MoE-Tiny-A1B/hf/Qwen3-MoE-Tiny-A1B");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    for bits in [4, 8] {
        let options = AffineOptions {
            bits,
            granularity: Granularity::Group(32),
            symmetric: true,
            skip: None,
            no_fallback: true,
            no_degenerate: true,
            shard_bytes: u64::MAX,
            force: true,
        };
        write_affine(&input, &out, &options, &|_| {}).unwrap();
        let tensors = open_folder(&out).unwrap();
        let packed = |t: &&Stored| t.name().contains(".experts.") && t.name().ends_with(".weight_packed");
        assert_eq!(tensors.iter().filter(packed).count(), 24);

        // transformers would lose float experts and cannot read zero points of experts.
        let zero_points = AffineOptions { symmetric: false, ..options.clone() };
        let left = AffineOptions { skip: Some(vec![".*experts".into(), "lm_head".into()]), ..options.clone() };
        for options in [zero_points, left] {
            let fault = write_affine(&input, &folder.path().join("no"), &options, &|_| {}).unwrap_err();
            assert!(fault.message().contains("model.layers.0.mlp.experts.0.down_proj.weight"), "{fault}");
            assert!(!folder.path().join("no").exists());
        }
    }
}

#[test]
fn large_models_are_split_with_an_index() {
    let mut options = Options::new(four_bit(Code::Nf4, true));
    options.shard_bytes = 1 << 20;
    let whole = written(&fixtures::path("models/tiny-llama"), &Options::new(four_bit(Code::Nf4, true)));
    let split = written(&fixtures::path("models/tiny-llama"), &options);
    let [whole, split] = [whole, split].map(|f| (open_folder(&f.path().join("out")).unwrap(), f));
    let files: BTreeSet<_> = split.0.iter().map(Stored::path).collect();
    assert!(files.len() > 2);
    assert_eq!(whole.0.len(), split.0.len());
    for tensor in &whole.0 {
        let other = split.0.iter().find(|t| t.name() == tensor.name()).unwrap();
        assert!(other.bytes() == tensor.bytes() && other.shape() == tensor.shape());
    }
    let checkpoint = open_folder(&fixtures::path("models/tiny-llama")).unwrap();
    let parameters: u64 = checkpoint.iter().map(Stored::elements).sum();
    let index = std::fs::read(split.1.path().join("out/model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["weight_map"].as_object().unwrap().len(), whole.0.len());
    assert_eq!(index["metadata"]["total_parameters"], parameters);
}

#[test]
fn wrong_requests_write_nothing() {
    let input = fixtures::path("models/tiny-llama");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let nf4 = Options::new(four_bit(Code::Nf4, false));
    let fault =
        |input: &Path, out: &Path, options: &Options| write(input, out, options, &|_| {}).unwrap_err().to_string();

    let odd = Options::new(Form::FourBit { code: Code::Nf4, block: 48, double: false, storage: Storage::Uint8 });
    assert!(fault(&input, &out, &odd).contains("48"));
    let none = Options { skip: Some(vec![".*".into()]), ..nf4.clone() };
    assert!(fault(&input, &out, &none).contains("no linear weight"));
    assert!(fault(&input, &input, &nf4).contains("same folder"));
    assert!(fault(&folder.path().join("missing"), &out, &nf4).contains("config.json"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    write(&input, &out, &nf4, &|_| {}).unwrap();
    assert!(fault(&input, &out, &nf4).contains("exists already"));
    assert!(fault(&out, &folder.path().join("again"), &nf4).contains("quantized already (bitsandbytes)"));
    let int8 = Options { force: true, ..Options::new(Form::Int8 { threshold: 6.0 }) };
    write(&input, &out, &int8, &|_| {}).unwrap();
    assert!(open_folder(&out).unwrap().iter().any(|t| t.name().ends_with(".SCB")));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn every_block_length_and_storage_is_written() {
    let input = fixtures::path("models/tiny-llama");
    for (block, storage) in [(32, "bfloat16"), (128, "float32"), (512, "float16"), (4096, "float64"), (2048, "int8")] {
        let form = Form::FourBit { code: Code::Nf4, block, double: false, storage: storage.parse().unwrap() };
        let folder = written(&input, &Options::new(form));
        let tensors = open_folder(&folder.path().join("out")).unwrap();
        let find = |name: &str| tensors.iter().find(|t| t.name() == name).unwrap();
        let weight = find("model.layers.0.self_attn.q_proj.weight");
        assert_eq!(weight.bytes().len(), 256 * 256 / 2);
        assert_eq!(weight.shape()[1], 1);
        assert_eq!(find("model.layers.0.self_attn.q_proj.weight.absmax").shape(), [(256 * 256 / block) as u64]);
    }
}
