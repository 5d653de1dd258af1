//! The program `quantize`, by its real binary: bytes against the goldens, options, bad input.

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use gguf::{Metadata, Shape, Source, TensorInfo, TensorType, Value};
use serde_json::Value as Json;
use tempfile::TempDir;

/// A folder to run in, with the importance matrices under the names that the goldens saw.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(TempDir::new().unwrap());
        for name in ["imatrix.gguf", "imatrix.dat"] {
            std::fs::copy(fixtures::path(&format!("golden/tiny-llama/{name}")), place.path(name)).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        let mut command = Command::cargo_bin("quantize").unwrap();
        command.current_dir(self.0.path()).args(args).output().unwrap()
    }

    /// Runs and wants success.
    fn done<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        let output = self.run(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Runs and wants this exit code, one error, and nothing new in the folder. Returns what was said.
    fn refused<S: AsRef<std::ffi::OsStr>>(&self, code: i32, args: impl IntoIterator<Item = S>) -> String {
        let before = self.names();
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert_eq!(said.matches("error:").count(), 1, "{said}");
        assert_eq!(self.names(), before);
        said
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The one file here that a run called by its model and this type.
    fn of_type(&self, ty: &str) -> String {
        let end = format!("-{ty}.gguf");
        let all: Vec<String> = self.names().into_iter().filter(|name| name.ends_with(&end)).collect();
        assert_eq!(all.len(), 1, "{ty}: {:?}", self.names());
        all.into_iter().next().unwrap()
    }

    fn sha256(&self, name: &str) -> String {
        fixtures::sha256(&std::fs::read(self.path(name)).unwrap())
    }
}

fn tiny() -> PathBuf {
    fixtures::path("models/tiny-llama")
}

fn golden() -> Json {
    fixtures::json("golden/tiny-llama/expected.json")
}

/// Every type in one run, so that the folder is read once; types that need an importance are refused.
fn all_types(place: &Place, golden: &Json, extra: &[&str]) {
    let mut args: Vec<String> = extra.iter().map(|s| (*s).to_owned()).collect();
    let mut expected = Vec::new();
    for (name, entry) in golden.as_object().unwrap() {
        match entry["sha256"].as_str() {
            Some(hash) => {
                args.extend(["--type".to_owned(), name.to_lowercase()]);
                expected.push((name, hash, entry["bytes"].as_u64().unwrap()));
            }
            None => {
                let said = place.refused(2, ["--type", name, tiny().to_str().unwrap()]);
                assert!(said.contains("importance") && said.contains("blk."), "{name}: {said}");
            }
        }
    }
    args.push(tiny().to_str().unwrap().to_owned());
    place.done(&args);
    for (name, hash, bytes) in expected {
        let file = place.of_type(name);
        assert_eq!(std::fs::metadata(place.path(&file)).unwrap().len(), bytes, "{name}");
        assert_eq!(place.sha256(&file), hash, "{name}");
    }
}

#[test]
fn every_type_equals_the_reference() {
    all_types(&Place::new(), &golden()["quantize"], &[]);
}

#[test]
fn every_type_with_importance_equals_the_reference() {
    all_types(&Place::new(), &golden()["quantize_imatrix"], &["--imatrix", "imatrix.gguf"]);
}

#[test]
fn options_equal_the_reference() {
    let (place, golden) = (Place::new(), golden());
    for (option, hash) in golden["options_q4_k_m"].as_object().unwrap() {
        let mut args: Vec<&str> = option.splitn(2, ' ').collect();
        args.extend(["--type", "q4_k_m", "--force", "-o", "out.gguf"]);
        place.done(args.into_iter().chain([tiny().to_str().unwrap()]));
        assert_eq!(place.sha256("out.gguf"), hash.as_str().unwrap(), "{option}");
    }
}

#[test]
fn any_number_of_threads_and_any_memory_give_the_same_bytes() {
    let (place, golden) = (Place::new(), golden());
    let hash = golden["quantize"]["Q4_K_M"]["sha256"].as_str().unwrap().to_owned();
    let tiny = tiny();
    for (threads, memory) in [("1", "64MiB"), ("2", "1GiB"), ("7", "512KiB")] {
        let args = ["-t", "q4_k_m", "--threads", threads, "--max-memory", memory, "--force"];
        place.done(args.iter().copied().chain([tiny.to_str().unwrap()]));
        assert_eq!(place.sha256(&place.of_type("Q4_K_M")), hash, "{threads} threads, {memory}");
    }
}

#[test]
fn a_gguf_gives_the_same_bytes_as_the_folder() {
    let (place, golden) = (Place::new(), golden());
    place.done(["-t", "bf16", "-o", "tiny-llama-bf16.gguf", tiny().to_str().unwrap()]);
    place.done(["--type", "q5_k_m", "tiny-llama-bf16.gguf"]);
    // The name of the output leaves the input's type out.
    assert_eq!(place.sha256("tiny-llama-Q5_K_M.gguf"), golden["quantize"]["Q5_K_M"]["sha256"].as_str().unwrap());
}

#[test]
fn small_models_of_many_architectures_equal_the_reference() {
    let place = Place::new();
    let mut seen = 0;
    for entry in std::fs::read_dir(fixtures::path("golden/arch")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let golden = fixtures::json(&format!("golden/arch/{name}/expected.json"));
        // Folders whose vocabulary has no published hash need to be told the pre-tokenizer, which is convert's part.
        let Some(quantized) = golden["quantized"].as_object().filter(|_| golden["pre"].as_str() == Some("")) else {
            continue;
        };
        let model = folder.join("hf").join(&name);
        let mut args: Vec<String> = vec![model.to_str().unwrap().into(), "--force".into(), "-o".into(), ".".into()];
        for ty in quantized.keys().filter(|ty| quantized[*ty].is_string()) {
            args.extend(["-t".to_owned(), ty.clone()]);
        }
        let output = place.run(&args);
        if !output.status.success() {
            panic!("{name}: {}", String::from_utf8_lossy(&output.stderr));
        }
        for (ty, hash) in quantized.iter().filter(|(_, hash)| hash.is_string()) {
            let file = place.of_type(ty);
            assert_eq!(place.sha256(&file), hash.as_str().unwrap(), "{name} {ty}");
            std::fs::remove_file(place.path(&file)).unwrap();
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} files were compared");
}

#[test]
fn a_dry_run_tells_the_exact_size_and_writes_nothing() {
    let (place, golden) = (Place::new(), golden());
    let before = place.names();
    let output = place.done(["--dry-run", "--json", "-t", "q4_k_m", "-t", "iq2_xs", tiny().to_str().unwrap()]);
    let document: Json = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["outputs"][0]["file_bytes"], golden["quantize"]["Q4_K_M"]["bytes"]);
    assert_eq!(document["outputs"][0]["fallback"]["weights"], 0);
    assert!(document["outputs"][1]["plan"].as_array().unwrap().iter().any(|t| t["lacks_importance"] == true));
    let text = place.done(["--dry-run", "-t", "q4_k_m", tiny().to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("2,669,056 bytes on disk"));
    assert_eq!(place.names(), before);
}

#[test]
fn a_plan_is_written_and_followed() {
    let (place, golden) = (Place::new(), golden());
    let tiny = tiny();
    let tiny = tiny.to_str().unwrap();
    place.done(["-t", "q4_k_m", "--plan", "plan.toml", "-o", "a.gguf", tiny]);
    place.done(["--plan", "plan.toml", "-o", "b.gguf", tiny]);
    let hash = golden["quantize"]["Q4_K_M"]["sha256"].as_str().unwrap();
    assert_eq!((place.sha256("a.gguf").as_str(), place.sha256("b.gguf").as_str()), (hash, hash));
    let text = std::fs::read_to_string(place.path("plan.toml")).unwrap();
    let name = "\"blk.2.ffn_up.weight\" = ";
    assert!(text.contains(name), "{text}");
    let edited: Vec<String> = text
        .lines()
        .map(|line| if line.starts_with(name) { format!("{name}\"Q8_0\"") } else { line.to_owned() })
        .collect();
    std::fs::write(place.path("plan.toml"), edited.join("\n")).unwrap();
    place.done(["--plan", "plan.toml", "-o", "c.gguf", tiny]);
    let file = gguf::File::open(place.path("c.gguf")).unwrap();
    let at = file.find("blk.2.ffn_up.weight").unwrap();
    assert_eq!(file.tensors()[at].ty(), TensorType::Q8_0);
    let said = place.refused(2, ["-t", "q8_0", "--plan", "plan.toml", tiny]);
    assert!(said.contains("Q4_K_M"), "{said}");
    std::fs::write(place.path("plan.toml"), "file_type = \"Q4_K_M\"\n[tensors]\n\"output.weight\" = \"Q6_K\"\n")
        .unwrap();
    let said = place.refused(3, ["--plan", "plan.toml", tiny]);
    assert!(said.contains("token_embd.weight") || said.contains("output_norm.weight"), "{said}");
    std::fs::write(place.path("plan.toml"), "file_type = 7").unwrap();
    place.refused(3, ["--plan", "plan.toml", tiny]);
}

#[test]
fn rules_from_a_file_and_from_options_are_one() {
    let place = Place::new();
    std::fs::write(place.path("rules.txt"), "attn_v=q6_k\n  ffn_down=q8_0 ").unwrap();
    let tiny = tiny();
    place.done(["-t", "q4_k_m", "--tensor-type-file", "rules.txt", "-o", "a.gguf", tiny.to_str().unwrap()]);
    let options = ["--tensor-type", "ATTN_V=Q6_K", "--tensor-type", "ffn_down=q8_0"];
    place.done(["-t", "q4_k_m", "-o", "b.gguf", tiny.to_str().unwrap()].iter().chain(&options));
    assert_eq!(place.sha256("a.gguf"), place.sha256("b.gguf"));
    std::fs::write(place.path("rules.txt"), "attn_v").unwrap();
    place.refused(3, ["-t", "q4_k_m", "--tensor-type-file", "rules.txt", "--dry-run", tiny.to_str().unwrap()]);
    let said = place.refused(2, ["-t", "q4_k_m", "--tensor-type", "(=q8_0", "--dry-run", tiny.to_str().unwrap()]);
    assert!(said.contains("--tensor-type: \"(\" is no regular expression"), "{said}");
    std::fs::write(place.path("rules.txt"), "(=q8_0").unwrap();
    let said =
        place.refused(2, ["-t", "q4_k_m", "--tensor-type-file", "rules.txt", "--dry-run", tiny.to_str().unwrap()]);
    assert!(
        said.contains("--tensor-type-file: \"(\" is no regular expression") && said.contains("rules.txt"),
        "{said}"
    );
}

#[test]
fn an_output_that_exists_or_is_an_input_is_refused() {
    let place = Place::new();
    place.done(["-t", "bf16", "-o", "m.gguf", tiny().to_str().unwrap()]);
    let said = place.refused(2, ["-t", "bf16", "-o", "m.gguf", tiny().to_str().unwrap()]);
    assert!(said.contains("--force"), "{said}");
    let said = place.refused(2, ["-t", "q8_0", "--force", "-o", "m.gguf", "m.gguf"]);
    assert!(said.contains("the output is the input"), "{said}");
    let said = place.refused(2, ["-t", "q8_0", "--force", "-o", "imatrix.gguf", "--imatrix", "imatrix.gguf", "m.gguf"]);
    assert!(said.contains("the output is the input"), "{said}");
    let said = place.refused(2, ["-t", "q8_0", "-t", "q4_0", "--force", "-o", "m.gguf", "m.gguf"]);
    assert!(said.contains("is a file, and the outputs go into a folder"), "{said}");
    place.refused(2, ["-t", "q9_0", "m.gguf"]);
    place.refused(3, ["-t", "q8_0", "missing.gguf"]);
    place.refused(2, ["m.gguf"]);
    // Requantizing is a loss that has to be wished.
    place.done(["-t", "q8_0", "m.gguf"]);
    let said = place.refused(3, ["-t", "q4_0", "m-Q8_0.gguf"]);
    assert!(said.contains("--allow-requantize"), "{said}");
    place.done(["-t", "q4_0", "--allow-requantize", "m-Q8_0.gguf"]);
}

/// A small model in one file; `weight` gives the values of its one matrix of 4 rows.
fn write_model(path: &Path, row_len: u64, weight: impl Fn(usize) -> f32) {
    let metadata = Metadata::from_iter([
        ("general.architecture", Value::from("llama")),
        ("llama.block_count", Value::from(1_u32)),
        ("general.alignment", Value::from(64_u32)),
    ]);
    let info = |name: &str, dims: &[u64]| TensorInfo::new(name, Shape::new(dims).unwrap(), TensorType::F32).unwrap();
    let infos = [info("blk.0.attn_q.weight", &[row_len, 4]), info("output_norm.weight", &[row_len])];
    let bytes = gguf::write::to_bytes(&metadata, &infos, |i| {
        Ok((0..infos[i].elements() as usize).flat_map(|n| if i == 0 { weight(n) } else { 1.0 }.to_le_bytes()).collect())
    });
    std::fs::write(path, bytes.unwrap()).unwrap();
}

#[test]
fn weights_that_are_not_finite_are_refused_by_name_and_let_through_on_demand() {
    let place = Place::new();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        write_model(&place.path("m.gguf"), 64, |i| if i == 64 * 2 + 5 { bad } else { 0.5 });
        for ty in ["q8_0", "f16", "copy"] {
            let said = place.refused(3, ["-t", ty, "m.gguf"]);
            assert!(said.contains("blk.0.attn_q.weight") && said.contains("row 2, column 5"), "{said}");
            assert!(said.contains("--allow-nonfinite"), "{said}");
            place.done(["-t", ty, "--allow-nonfinite", "--force", "-o", "out.gguf", "m.gguf"]);
        }
        place.done(["-t", "q8_0", "--allow-nonfinite", "--force", "-o", "out.gguf", "m.gguf"]);
        let file = gguf::File::open(place.path("out.gguf")).unwrap();
        let mut values = vec![0.0; 256];
        quantize::decode_rows(
            TensorType::Q8_0,
            &file.rows(file.find("blk.0.attn_q.weight").unwrap(), 0..4).unwrap(),
            &mut values,
        )
        .unwrap();
        assert!(values.iter().all(|v| v.is_finite()) && (values[0] - 0.5).abs() < 0.01);
        std::fs::remove_file(place.path("out.gguf")).unwrap();
    }
    write_model(&place.path("m.gguf"), 64, |_| 1e6);
    let said = place.refused(3, ["-t", "f16", "m.gguf"]);
    assert!(said.contains("too large for F16") && said.contains("blk.0.attn_q.weight"), "{said}");
}

#[test]
fn a_row_that_does_not_fit_falls_back_and_is_told() {
    let place = Place::new();
    write_model(&place.path("m.gguf"), 96, |i| i as f32);
    let output = place.done(["-t", "q4_k_m", "--json", "m.gguf"]);
    let document: Json = serde_json::from_slice(&output.stdout).unwrap();
    let fallback = &document["outputs"][0]["fallback"];
    assert_eq!((fallback["tensors"].as_u64(), fallback["weights"].as_u64()), (Some(1), Some(384)));
    assert_eq!(fallback["kinds"][0]["got"], "Q5_0");
    // With a document on standard output there is no table.
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = place.refused(3, ["-t", "q4_k_m", "--no-fallback", "--force", "m.gguf"]);
    assert!(said.contains("blk.0.attn_q.weight") && said.contains("96"), "{said}");
    let said = place.refused(3, ["-t", "q1_0", "m.gguf"]);
    assert!(said.contains("blk.0.attn_q.weight"), "{said}");
    let output = place.done(["-t", "q8_0", "m.gguf"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("0 % of the weights fell back"));
}

#[test]
fn a_folder_tells_what_stays_in_its_float_type() {
    let place = Place::new();
    let experts = fixtures::path("golden/arch/Qwen3-MoE-Tiny-A1B/hf/Qwen3-MoE-Tiny-A1B");
    let experts = experts.to_str().unwrap();
    let said = place.refused(3, ["-t", "nf4", "--no-fallback", experts, "out"]);
    assert!(said.contains("model.layers.0.mlp.experts.0.down_proj.weight would stay BF16"), "{said}");
    let output = place.done(["-t", "nf4", experts, "out"]);
    let said = String::from_utf8_lossy(&output.stdout);
    let line = "77.0 % of the weights (37 tensors) stay BF16: 24 × experts (model.layers.*.mlp.experts.*.down_proj.weight, …), \
                1 × output head (lm_head.weight), 1 × embeddings (model.embed_tokens.weight)";
    assert!(
        said.contains(line) && said.contains("45.9 % of the weights (24 tensors) fell back to another type"),
        "{said}"
    );
    let output = place.done(["-t", "nf4", "--json", "--force", experts, "out"]);
    let document: Json = serde_json::from_slice(&output.stdout).unwrap();
    let fallback = &document["fallback"];
    assert_eq!((fallback["tensors"].as_u64(), fallback["weights"].as_u64()), (Some(24), Some(24 * 64 * 64)));
    assert_eq!((&fallback["kinds"][0]["wanted"], &fallback["kinds"][0]["got"]), (&"nf4".into(), &"BF16".into()));
    assert_eq!(document["stayed"]["kinds"][0]["what"], "experts");

    let output = place.done(["-t", "nf4", "--no-fallback", tiny().to_str().unwrap(), "tiny"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("0 % of the weights fell back to another type"));
}

#[test]
fn an_importance_of_another_model_is_refused() {
    let place = Place::new();
    write_model(&place.path("m.gguf"), 512, |i| i as f32);
    let said = place.refused(3, ["-t", "q4_k_m", "--imatrix", "imatrix.gguf", "m.gguf"]);
    assert!(said.contains("blk.0.attn_q.weight") && said.contains("another model"), "{said}");
    place.done(["-t", "q4_k_m", "--imatrix", "imatrix.gguf", "--exclude-weights", "attn_q", "m.gguf"]);
    place.refused(3, ["-t", "q4_k_m", "--imatrix", "m.gguf", "m.gguf"]);
}

#[test]
fn the_legacy_importance_gives_the_same_weights() {
    let (place, tiny) = (Place::new(), tiny());
    for (matrix, out) in [("imatrix.gguf", "a.gguf"), ("imatrix.dat", "b.gguf")] {
        place.done(["-t", "q4_k_m", "--imatrix", matrix, "-o", out, tiny.to_str().unwrap()]);
    }
    let (a, b) = (gguf::File::open(place.path("a.gguf")).unwrap(), gguf::File::open(place.path("b.gguf")).unwrap());
    assert_eq!(b.metadata().str("quantize.imatrix.file"), Some("imatrix.dat"));
    assert_eq!(a.metadata().get("quantize.imatrix.chunks_count"), b.metadata().get("quantize.imatrix.chunks_count"));
    assert_eq!(a.tensors(), b.tensors());
}

#[test]
fn importance_matrices_are_shown_merged_and_converted() {
    let place = Place::new();
    let shown = place.done(["imatrix", "show", "imatrix.gguf", "--json"]);
    let document: Json = serde_json::from_slice(&shown.stdout).unwrap();
    let golden = fixtures::json("golden/tiny-llama/imatrix-statistics.json");
    let tensors = document["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), golden["tensors"].as_object().unwrap().len());
    for tensor in tensors {
        let expected = &golden["tensors"][tensor["tensor"].as_str().unwrap()];
        for (key, printed) in expected.as_object().unwrap() {
            let (got, printed) = (tensor[key].as_f64().unwrap(), printed.as_str().unwrap());
            let digits = printed.split_once('.').map_or(0, |(_, d)| d.len());
            let value: f64 = printed.parse().unwrap();
            // The reference prints so many digits of sums in f32.
            let close = (got - value).abs() <= 0.51 * 10_f64.powi(-(digits as i32)) + 2e-5 * value.abs();
            assert!(close, "{}: {key} is {got}, not {printed}", tensor["tensor"]);
        }
    }
    place.done(["imatrix", "convert", "imatrix.gguf", "copy.gguf"]);
    assert_eq!(place.sha256("copy.gguf"), place.sha256("imatrix.gguf"));
    place.done(["imatrix", "convert", "imatrix.gguf", "copy.dat"]);
    assert_eq!(place.sha256("copy.dat"), place.sha256("imatrix.dat"));
    place.done(["imatrix", "merge", "imatrix.gguf", "imatrix.gguf", "-o", "twice.gguf"]);
    assert_eq!(place.sha256("twice.gguf"), golden["merged_with_itself"].as_str().unwrap());
    let place_refuses = place.refused(2, ["imatrix", "merge", "imatrix.gguf", "-o", "imatrix.gguf"]);
    assert!(place_refuses.contains("the output is the input"), "{place_refuses}");
    place.refused(3, ["imatrix", "show", "missing.gguf"]);
}

/// A shard of a file as gguf-split writes it.
fn shard(whole: &gguf::File, no: usize, count: usize, part: &std::ops::Range<usize>) -> Vec<u8> {
    let order = gguf::split::KeyOrder::GgufSplit;
    let metadata = gguf::split::metadata(whole.metadata(), no, count, whole.tensors().len(), order).unwrap();
    gguf::write::copy_part(whole, part.clone(), &metadata, gguf::Endian::Little, Vec::new(), |_| {}).unwrap()
}

#[test]
fn a_split_model_becomes_one_file_or_as_many() {
    let (place, golden) = (Place::new(), golden());
    place.done(["-t", "bf16", "-o", "whole.gguf", tiny().to_str().unwrap()]);
    let whole = gguf::File::open(place.path("whole.gguf")).unwrap();
    let n = whole.tensors().len();
    let parts = [0..n / 3, n / 3..n];
    for (no, part) in parts.iter().enumerate() {
        let bytes = shard(&whole, no, parts.len(), part);
        std::fs::write(gguf::split::path(place.path("m"), no, parts.len()), bytes).unwrap();
    }
    place.done(["-t", "q4_k_m", "m-00001-of-00002.gguf"]);
    assert_eq!(place.sha256("m-Q4_K_M.gguf"), golden["quantize"]["Q4_K_M"]["sha256"].as_str().unwrap());
    place.done(["-t", "q4_k_m", "--keep-split", "-o", "s.gguf", "m-00001-of-00002.gguf"]);
    let one = gguf::File::open(place.path("m-Q4_K_M.gguf")).unwrap();
    let split = gguf::split::open(place.path("s-00001-of-00002.gguf")).unwrap();
    assert_eq!(split.tensors().len(), n);
    for (i, info) in split.tensors().iter().enumerate() {
        assert_eq!(info.name(), whole.tensors()[i].name());
        let at = one.find(info.name()).unwrap();
        assert_eq!(one.rows(at, 0..info.rows()).unwrap(), split.rows(i, 0..info.rows()).unwrap(), "{}", info.name());
    }
    let said = place.refused(2, ["-t", "q8_0", "--keep-split", "whole.gguf"]);
    assert!(said.contains("no split"), "{said}");
    let said = place.refused(2, ["-t", "q8_0", "--force", "-o", "m-00002-of-00002.gguf", "m-00001-of-00002.gguf"]);
    assert!(said.contains("the output is the input"), "{said}");
}

#[test]
fn shards_are_written_at_once_as_gguf_split_divides_the_file() {
    let place = Place::new();
    let model = tiny();
    let model = model.to_str().unwrap();
    place.done(["-t", "q4_k_m", "-o", "whole.gguf", model]);
    let whole = gguf::File::open(place.path("whole.gguf")).unwrap();
    let by = |max_bytes, max_tensors, metadata_first| gguf::split::Division { max_bytes, max_tensors, metadata_first };
    for (options, division) in [
        (&["--split-max-tensors", "9"][..], by(None, Some(9), false)),
        (&["--split-max-size", "300K", "--no-tensor-first-split"], by(Some(300_000), None, true)),
        (&["--split-max-size", "1M", "--split-max-tensors", "11"], by(Some(1_000_000), Some(11), false)),
        (&["--no-tensor-first-split"], by(None, None, true)),
    ] {
        place.done(options.iter().copied().chain(["-t", "q4_k_m", "--force", "-o", "s.gguf", model]));
        let parts = division.parts(whole.tensors(), whole.alignment()).unwrap();
        assert!(parts.len() > 1);
        for (no, part) in parts.iter().enumerate() {
            let bytes = shard(&whole, no, parts.len(), part);
            let written = std::fs::read(gguf::split::path(place.path("s"), no, parts.len())).unwrap();
            assert!(written == bytes, "{options:?}: shard {no}");
        }
    }
    // One file under its own name where no limit is passed.
    place.done(["-t", "q4_k_m", "--split-max-size", "1G", "--outfile", "one.gguf", model]);
    assert_eq!(place.sha256("one.gguf"), place.sha256("whole.gguf"));
    let said = place.refused(2, ["-t", "q8_0", "--split-max-tensors", "9", "--modelfile", "-o", "m.gguf", model]);
    assert!(said.contains("5 files") && said.contains("Ollama"), "{said}");
    let said = place.refused(2, ["-t", "nf4", "--split-max-tensors", "9", "-o", "folder", model]);
    assert!(said.contains("--split-max-tensors is about GGUF files"), "{said}");
    let said = place.refused(2, ["-t", "q8_0", "--split-max-tensors", "9", "--keep-split", "-o", "m.gguf", model]);
    assert!(said.contains("--keep-split"), "{said}");
}

#[test]
fn a_mix_of_a_size_leaves_room_for_the_headers_of_its_shards() {
    let place = Place::new();
    let (model, matrix) = (tiny(), fixtures::path("golden/tiny-llama/imatrix.gguf"));
    let (model, matrix) = (model.to_str().unwrap(), matrix.to_str().unwrap());
    place.done(["--target-size", "2200000", "--imatrix", matrix, "-o", "one.gguf", model]);
    let limits = ["--split-max-tensors", "1", "--no-tensor-first-split"];
    place.done(limits.iter().copied().chain(["--target-size", "2200000", "--imatrix", matrix, "-o", "s.gguf", model]));
    let size = |path: &std::path::Path| std::fs::metadata(path).unwrap().len();
    let shards = gguf::split::files(place.path("s-00001-of-00040.gguf"));
    let all: u64 = shards.iter().map(|path| size(path)).sum();
    assert_eq!(shards.len(), 40);
    assert!(all <= 2_200_000 && size(&place.path("one.gguf")) <= 2_200_000, "{all}");
}

#[test]
fn instructions_that_the_machine_lacks_or_nobody_knows_are_refused_before_any_work() {
    let place = Place::new();
    let mut command = Command::cargo_bin("quantize").unwrap();
    let output = command.current_dir(place.0.path()).env("DOWNCAST_SIMD", "mmx").args(["-t", "q8_0", "m"]).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("mmx") && said.contains("avx2") && said.contains("DOWNCAST_SIMD"), "{said}");
}

#[test]
fn weights_that_a_block_cannot_hold_are_told_and_refused_on_demand() {
    let place = Place::new();
    // Too large for the search of a scale, and smaller than the least scale.
    for (ty, weight) in
        [("q6_k", 1e37), ("q3_k_s", 3e38), ("iq4_xs", 1e37), ("q8_0", 5e-7), ("q6_k", 5e-7), ("iq4_nl", 5e-7)]
    {
        let spread = |i: usize| if i / 256 == 2 { weight * (1.0 - (i % 7) as f32 * 0.25) } else { 0.5 };
        write_model(&place.path("m.gguf"), 256, spread);
        let args = ["--pure", "-t", ty, "m.gguf"];
        let told = place.done(args.iter().chain(&["--force", "-o", "out.gguf"]));
        let told = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(told.contains("warning: tensor blk.0.attn_q.weight: ") && told.contains("cannot hold"), "{ty}: {told}");
        let report = place.done(args.iter().chain(&["--force", "-o", "out.gguf", "--json"]));
        let report: Json = serde_json::from_slice(&report.stdout).unwrap();
        assert_eq!(report["degenerate"][0]["tensor"], "blk.0.attn_q.weight");
        std::fs::remove_file(place.path("out.gguf")).unwrap();
        let said = place.refused(3, args.iter().chain(&["--no-degenerate", "-o", "out.gguf"]));
        assert!(said.contains("blk.0.attn_q.weight"), "{said}");
        // What it holds is told of nowhere.
        write_model(&place.path("m.gguf"), 256, |i| [1e-3, 1.0, 1e6][i % 3] * if i % 2 == 0 { 1.0 } else { -1.0 });
        place.done(args.iter().chain(&["--no-degenerate", "-o", "out.gguf"]));
        std::fs::remove_file(place.path("out.gguf")).unwrap();
    }
}

#[test]
fn a_folder_of_outputs_is_made_and_goes_away_with_a_failure() {
    let place = Place::new();
    write_model(&place.path("m.gguf"), 256, |i| (i % 17) as f32 / 16.0 - 0.45);
    // Several types go into a folder, one type into what ends as a folder does; the old spellings are the same.
    for args in [
        &["-t", "q8_0", "-t", "q4_0", "m.gguf", "-o", "a/b"][..],
        &["-t", "q8_0,q4_0", "m.gguf", "-o", "a/b/"],
        &["--types", "q8_0,q4_0", "m.gguf", "a/b"],
        &["-t", "q8_0", "m.gguf", "-o", "a/b/"],
    ] {
        place.done(args);
        assert!(place.path("a/b/m-Q8_0.gguf").is_file(), "{args:?}");
        std::fs::remove_dir_all(place.path("a")).unwrap();
    }
    std::fs::write(place.path("a"), "a file").unwrap();
    let said = place.refused(2, ["-t", "q8_0,q4_0", "m.gguf", "-o", "a"]);
    assert!(said.contains("is a file"), "{said}");
    // Nothing came of it: no weight of this size fits.
    write_model(&place.path("m.gguf"), 256, |i| if i == 300 { f32::INFINITY } else { 0.5 });
    place.refused(3, ["-t", "q8_0,q4_0", "m.gguf", "-o", "x/y"]);
    assert!(!place.path("x").exists());
}

#[test]
fn parts_of_a_block_and_rows_of_a_plain_type_that_cannot_be_held_are_told() {
    let place = Place::new();
    let args = ["--pure", "m.gguf", "--json", "--force", "-o", "out.gguf", "-t"];
    for (ty, small) in [("q2_k", 1e-4), ("q6_k", 1e-4), ("iq4_xs", 1e-4), ("f16", 1e-9)] {
        let part = if ty == "f16" { 256 } else { 32 };
        let wave = |i: usize| (i % 17) as f32 / 16.0 - 0.45;
        write_model(&place.path("m.gguf"), 256, |i| wave(i) * if i / part == 1 { small } else { 1.0 });
        let report = place.done(args.iter().chain(&[ty]));
        let report: Json = serde_json::from_slice(&report.stdout).unwrap();
        let lost = &report["degenerate"][0];
        assert_eq!((&lost["blocks"], &lost["of"]), (&Json::from(1), &Json::from(4)), "{ty}: {lost}");
        let said = place.refused(3, args.iter().chain(&[ty, "--no-degenerate"]));
        assert!(said.contains("1 of 4") && said.contains("cannot hold"), "{said}");
    }
}

#[test]
fn a_file_without_a_type_is_guessed_as_the_loader_does() {
    let place = Place::new();
    for (ty, id) in [(TensorType::Q4_K, 15), (TensorType::IQ2_S, 28), (TensorType::IQ3_S, 26), (TensorType::NVFP4, 39)]
    {
        let metadata = Metadata::from_iter([("general.architecture", Value::from("llama"))]);
        let info =
            |i: usize| TensorInfo::new(format!("blk.{i}.attn_q.weight"), Shape::new(&[256, 1]).unwrap(), ty).unwrap();
        let infos: Vec<TensorInfo> = (0..2).map(info).collect();
        let bytes = gguf::write::to_bytes(&metadata, &infos, |i| Ok(vec![0x11; infos[i].bytes() as usize]));
        std::fs::write(place.path("m.gguf"), bytes.unwrap()).unwrap();
        place.done(["-t", "copy", "--force", "-o", "out.gguf", "m.gguf"]);
        let file = gguf::File::open(place.path("out.gguf")).unwrap();
        assert_eq!(file.metadata().u64("general.file_type"), Some(1024 | id), "{ty}");
    }
}

#[test]
fn a_key_is_not_set_to_what_no_reader_loads() {
    let place = Place::new();
    place.done(["-t", "bf16", "-o", "m.gguf", tiny().to_str().unwrap()]);
    for wrong in [
        "general.architecture=str:qwen2",
        "split.count=int:2",
        "llama.block_count=int:32",
        "llama.context_length=str:long",
        "llama.rope.freq_base=int:10000",
        "tokenizer.ggml.tokens=str:a",
        "tokenizer.ggml.bos_token_id=int:9999999",
    ] {
        let said = place.refused(2, ["-t", "q8_0", "--override-kv", wrong, "-o", "out.gguf", "m.gguf"]);
        assert!(said.contains("--override-kv"), "{wrong}: {said}");
    }
    for right in ["llama.context_length=int:4096", "llama.rope.freq_base=float:20000", "my.own=bool:true"] {
        place.done(["-t", "q8_0", "--override-kv", right, "--force", "-o", "out.gguf", "m.gguf"]);
    }
}

#[test]
fn arrays_with_an_element_a_layer_are_pruned_with_the_layers() {
    let place = Place::new();
    let source = convert::open(&tiny(), &convert::Options::default()).unwrap();
    let mut metadata = source.metadata().clone();
    let layers = metadata.u64("llama.block_count").unwrap();
    let heads = metadata.u64("llama.attention.head_count_kv").unwrap() as u32;
    metadata.set("llama.attention.head_count_kv", gguf::Array::from(&vec![heads; layers as usize][..]));
    let own: Vec<u32> = (0..layers as u32).collect();
    metadata.set("llama.own_numbers", gguf::Array::from(&own[..]));
    let bytes = gguf::write::to_bytes(&metadata, source.tensors(), |i| {
        Ok(source.rows(i, 0..source.tensors()[i].rows())?.into_owned())
    });
    std::fs::write(place.path("m.gguf"), bytes.unwrap()).unwrap();
    place.done(["-t", "q8_0", "--prune-layers", "1", "-o", "out.gguf", "m.gguf"]);
    let file = gguf::File::open(place.path("out.gguf")).unwrap();
    let kept = file.metadata().array("llama.own_numbers").and_then(gguf::Array::to_u64s).unwrap();
    assert_eq!(kept, (0..layers).filter(|&layer| layer != 1).collect::<Vec<_>>());
    assert!(gguf::check::check(place.path("out.gguf"), &gguf::check::Options::default()).unwrap().passed());
}

#[test]
fn what_is_no_model_or_asked_for_twice_is_refused_before_any_work() {
    let place = Place::new();
    for ty in ["q4_k_m", "copy"] {
        let said = place.refused(3, ["-t", ty, "-o", "out.gguf", "imatrix.gguf"]);
        assert!(said.contains("imatrix.gguf: is an importance matrix"), "{said}");
    }
    std::fs::create_dir(place.path("out")).unwrap();
    let said = place.refused(2, ["-t", "q4_k", "-t", "q4_k_m", tiny().to_str().unwrap(), "out"]);
    assert!(said.contains("Q4_K_M") && std::fs::read_dir(place.path("out")).unwrap().next().is_none(), "{said}");
    let said = place.refused(2, ["-t", "nf4", "-t", "nf4", tiny().to_str().unwrap(), "out"]);
    assert!(said.contains("twice for the same, nf4"), "{said}");
    // A run that fails leaves no plan.
    write_model(&place.path("m.gguf"), 64, |_| f32::NAN);
    place.refused(3, ["-t", "q8_0", "--plan", "plan.toml", "-o", "out.gguf", "m.gguf"]);
    #[cfg(unix)]
    for option in ["--plan", "--tensor-type-file"] {
        let said = place.refused(3, ["-t", "q8_0", option, "/dev/zero", "m.gguf"]);
        assert!(said.contains("is larger than"), "{said}");
    }
}

#[test]
fn projector_files_of_folders_are_byte_identical() {
    let place = Place::new();
    let root = fixtures::path("golden/mmproj");
    let (mut equal, mut other) = (0, Vec::new());
    for entry in std::fs::read_dir(&root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let expected = fixtures::json(&format!("golden/mmproj/{name}/expected.json"));
        // Where a function depends on the processor's library, the bytes of that tensor do.
        if expected["apart"].is_array() || expected["mmproj_quantized"].is_null() {
            continue;
        }
        let folder = root.join(format!("{name}/hf/{name}"));
        let types = ["Q8_0", "Q4_K_M", "Q4_0", "Q2_K"];
        let named = format!("mmproj-{name}-{{ftype}}.gguf");
        let wanted = types.iter().flat_map(|t| ["--type", t]);
        let args = ["--mmproj", "--force", folder.to_str().unwrap()];
        let output = place.done(args.into_iter().chain(wanted).chain(["-o", &named]));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("note: Q2_K asks how many query heads share a key head"), "{name}: {said}");
        for ty in types {
            let file = format!("mmproj-{name}-{ty}.gguf");
            match expected["mmproj_quantized"][ty].as_str().unwrap() {
                error if error.starts_with("error") => assert!(place.path(&file).is_file()),
                hash if place.sha256(&file) == hash => equal += 1,
                _ => other.push(file),
            }
        }
    }
    assert!(other.is_empty(), "other bytes: {other:?}");
    assert!(equal > 70, "{equal} files");
    assert_eq!(place.run(["--mmproj", "mmproj-gemma-3-Tiny-it-Q8_0.gguf", "--type", "q8_0"]).status.code(), Some(2));
}

#[test]
fn types_are_mixed_for_a_size() {
    let place = Place::new();
    let model = tiny();
    let model = model.to_str().unwrap();
    let size = |name: &str| std::fs::metadata(place.path(name)).unwrap().len();
    place.done([model, "--type", "q3_k_m", "--imatrix", "imatrix.gguf", "-o", "plain.gguf"]);
    let most = size("plain.gguf").to_string();
    let mix = [model, "--target-size", &most, "--imatrix", "imatrix.gguf"];
    place.done([&mix[..], &["--plan", "plan.toml", "-o", "mix.gguf"]].concat());
    assert!(size("mix.gguf") <= size("plain.gguf") && size("mix.gguf") + 4096 > size("plain.gguf"));
    place.done([model, "--plan", "plan.toml", "--imatrix", "imatrix.gguf", "-o", "again.gguf"]);
    assert_eq!(place.sha256("mix.gguf"), place.sha256("again.gguf"));
    // Limits hold, and types that are asked for stay.
    let bits = [model, "--target-bpw", "4.4", "--imatrix", "imatrix.gguf"];
    let limits = ["--at-least", "ffn=q4_0", "--at-most", "q5_k", "--output-tensor-type", "q8_0"];
    place.done([&bits[..], &["--at-least", "iq1_s"], &limits].concat());
    let file = gguf::File::open(place.path(&place.of_type("4.4bpw"))).unwrap();
    let weights: u64 = file.tensors().iter().map(|t| t.elements()).sum();
    let bytes: u64 = file.tensors().iter().map(|t| t.bytes()).sum();
    assert!(bytes * 80 <= 44 * weights && bytes * 80 > 43 * weights);
    for tensor in file.tensors().iter().filter(|t| t.shape().dims().len() > 1) {
        match tensor.name() {
            "output.weight" => assert_eq!(tensor.ty(), TensorType::Q8_0),
            name if name.contains("ffn") => assert!(tensor.ty().bits_per_weight() >= 4.5, "{name}"),
            name => assert!(tensor.ty().bits_per_weight() <= 5.5, "{name}"),
        }
    }
    let said = place.refused(2, [model, "--target-bpw", "1.2", "--imatrix", "imatrix.gguf"]);
    assert!(said.contains("the smallest takes 1."), "{said}");
    place.refused(2, [model, "--target-bpw", "4"]);
    place.refused(2, [&bits[..], &["--type", "q4_0"]].concat());
    let said = place.refused(2, [model, "--type", "q4_0", "--at-least", "q4_0"]);
    assert!(said.contains("--target-bpw"), "{said}");
    let said = place.refused(2, [&bits[..], &["--at-least", "q8_0", "--at-most", "q4_0"]].concat());
    assert!(said.contains("leave no type for tensor"), "{said}");
}

#[test]
fn folders_tell_of_weights_that_they_cannot_hold() {
    const LLAMA: &str = "golden/arch/Tiny-Llama-2-7B-Chat/hf/Tiny-Llama-2-7B-Chat";
    const Q: &str = "model.layers.0.self_attn.q_proj.weight";
    let place = Place::new();
    let small = f32::from_bits(1);
    // Rows of 64 weights; of files the checkpoint itself is rounded, to f16.
    for (args, weight, said, blocks) in [
        (&["int8"][..], 1e-9, "rows of int8", 1),
        (&["affine8", "--group-size", "32"], small, "groups of affine8", 2),
        (&["affine4", "--per", "row", "--zero-point"], small, "rows of affine4", 1),
        (&["affine8", "--per", "tensor"], 1e-4, "rows of affine8", 1),
        (&["nf4"], small, "blocks of nf4", 1),
        (&["fp4", "--double-quant"], small, "blocks of fp4", 1),
        (&["q8_0"], 1e-9, "rows of F16", 1),
        (&["f16"], 1e-9, "rows of F16", 1),
    ] {
        fixtures::widened(LLAMA, &place.path("m"), |name, weights| {
            if name == Q {
                weights[192..256].iter_mut().enumerate().for_each(|(i, w)| *w = [weight, -weight][i % 2]);
            }
        });
        let args = [&["m", "--force", "--json", "-o", "out", "-t"], args].concat();
        let out = place.done(&args);
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(told.contains(&format!("{said} cannot hold their weights")), "{args:?}: {told}");
        let report: Json = serde_json::from_slice(&out.stdout).unwrap();
        let lost = report["degenerate"].as_array().unwrap();
        assert_eq!((lost.len(), &lost[0]["blocks"]), (1, &Json::from(blocks)), "{args:?}: {lost:?}");
        let path = place.path("out");
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap()
        } else {
            std::fs::remove_file(path).unwrap()
        }
        let refused = place.refused(3, args.iter().chain(&["--no-degenerate"]));
        assert!(refused.contains("q_proj") || refused.contains("attn_q"), "{refused}");
        // What is held, or is zero from the first, is told of nowhere.
        fixtures::widened(LLAMA, &place.path("m"), |name, weights| {
            if name == Q {
                weights[192..256].fill(0.0);
            }
        });
        place.done(args.iter().chain(&["--no-degenerate"]));
        let path = place.path("out");
        if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
    }
    // Numbers whose difference is beyond f32 come back, and integers that would not come back are refused.
    fixtures::widened(LLAMA, &place.path("m"), |name, weights| {
        if name == Q {
            weights[..2].copy_from_slice(&[3e38, -3e38]);
        }
    });
    place.done(["m", "-o", "out", "-t", "affine8", "--per", "row", "--zero-point"]);
    let stored = convert::safetensors::open_folder(&place.path("out")).unwrap();
    let scales = stored.iter().find(|t| t.name().ends_with("layers.0.self_attn.q_proj.weight_scale")).unwrap();
    assert!(scales.bytes().chunks_exact(4).all(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite()));
    fixtures::widened(LLAMA, &place.path("m"), |name, weights| {
        if name == Q {
            weights[0] = -f32::MAX;
        }
    });
    let said = place.refused(3, ["m", "-o", "more", "-t", "affine8", "--per", "row"]);
    assert!(said.contains("infinite F32"), "{said}");
}
