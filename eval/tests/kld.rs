//! Bases that llama-perplexity stored: what such a file clips is not taken for a probability.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use eval::forward::Forward;
use eval::model::Model;
use eval::perplexity::{Chunks, Protocol};
use eval::weights::SourceWeights;
use gguf::Source;
use serde_json::Value;

const CONTEXT: usize = 32;
const CHUNKS: usize = 2;

/// A row as llama-perplexity stores it: scale, least log-probability, and 16-bit levels down to 16 below the largest
/// logit.
fn stored(logits: &[f32]) -> Vec<u8> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let min = logits.iter().copied().fold(f32::INFINITY, f32::min).max(max - 16.0);
    let log_sum = logits.iter().map(|&l| f64::from(l - max).exp()).sum::<f64>().ln() as f32;
    let scale = (max - min) / 65535.0;
    let mut row = [scale.to_le_bytes(), (min - max - log_sum).to_le_bytes()].concat();
    let level = |l: f32| if l > min { ((l - min) / scale).round() as u16 } else { 0 };
    row.extend(logits.iter().flat_map(|&l| level(l).to_le_bytes()));
    row.resize(row.len().next_multiple_of(4), 0);
    row
}

/// A model whose logits are far apart, a text, and the model's logits as llama-perplexity stores them.
struct Place {
    folder: tempfile::TempDir,
    sample: PathBuf,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let source = convert::open(&fixtures::path("models/tiny-llama"), &convert::Options::default()).unwrap();
        let tensors: Vec<gguf::TensorInfo> = source
            .tensors()
            .iter()
            .map(|t| match t.name() {
                "output_norm.weight" => gguf::TensorInfo::new(t.name(), *t.shape(), gguf::TensorType::F32).unwrap(),
                _ => t.clone(),
            })
            .collect();
        let bytes = gguf::write::to_bytes(source.metadata(), &tensors, |i| match tensors[i].name() {
            "output_norm.weight" => {
                Ok(vec![3.0_f32; tensors[i].elements() as usize].iter().flat_map(|v| v.to_le_bytes()).collect())
            }
            _ => Ok(source.rows(i, 0..tensors[i].rows())?.into_owned()),
        });
        std::fs::write(folder.path().join("model.gguf"), bytes.unwrap()).unwrap();
        let place = Place { folder, sample: fixtures::path("models/tiny-llama/sample.txt") };
        std::fs::write(place.base(), place.kld()).unwrap();
        place
    }

    fn base(&self) -> PathBuf {
        self.folder.path().join("base.kld")
    }

    fn kld(&self) -> Vec<u8> {
        let source = convert::open(&self.folder.path().join("model.gguf"), &convert::Options::default()).unwrap();
        let weights = SourceWeights(&source);
        let model = Model::new(source.metadata(), &weights).unwrap();
        let tokenizer = convert::tokenizer::Tokenizer::from_metadata(source.metadata()).unwrap();
        let text = std::fs::read_to_string(&self.sample).unwrap();
        let tokens = tokenizer.encode(&text, true, false).unwrap();
        let chunks = Chunks::new(&tokens, tokenizer.bos(), CONTEXT, Some(CHUNKS), Protocol::Halves).unwrap();
        let mut file = b"_logits_".to_vec();
        for n in [CONTEXT, model.vocabulary, CHUNKS] {
            file.extend((n as u32).to_le_bytes());
        }
        file.extend(chunks.inputs.iter().flat_map(|c| &c.tokens).flat_map(|t| t.to_le_bytes()));
        let scored = chunks.scored.clone();
        Forward::new(&model, &weights)
            .logits(
                &chunks.inputs,
                |_| scored.clone(),
                |logits| {
                    file.extend(logits.streams[0].chunks(model.vocabulary).flat_map(stored));
                    Ok(())
                },
            )
            .unwrap();
        file
    }

    fn compare(&self, more: &[&str]) -> std::process::Output {
        let mut command = Command::cargo_bin("evaluate").unwrap();
        command.current_dir(self.folder.path()).args(["compare", "model.gguf", "--types", "q8_0", "--text"]);
        command.arg(&self.sample).args(["--ctx", &CONTEXT.to_string(), "--chunks", &CHUNKS.to_string()]);
        command.args(more).output().unwrap()
    }

    fn report(&self, more: &[&str]) -> Value {
        let output = self.compare(&[&["--json"], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn value(report: &Value, name: &str) -> f64 {
    report["models"][0]["divergence"][name]["value"].as_f64().unwrap()
}

#[test]
fn what_the_file_clips_has_no_part_in_the_divergence() {
    let place = Place::new();
    let (run, stored) = (place.report(&[]), place.report(&["--base-from", "base.kld"]));
    approx::assert_relative_eq!(value(&run, "kld"), value(&stored, "kld"), max_relative = 0.01);
    assert_eq!(value(&run, "same_top"), value(&stored, "same_top"));
    // The model is sure of itself and wrong at times, so right tokens lie under the floor; they count as stored.
    let told = place.compare(&["--base-from", "base.kld"]);
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("right tokens") && told.contains("lie at the floor of base.kld"), "{told}");
    assert!(stored["base"]["mean_nll"]["value"].as_f64() < run["base"]["mean_nll"]["value"].as_f64());
}

#[test]
fn rows_that_are_no_probabilities_do_not_pass_the_gate() {
    let place = Place::new();
    let mut bytes = std::fs::read(place.base()).unwrap();
    let rows = 20 + 4 * CONTEXT * CHUNKS;
    bytes[rows..].fill(0);
    std::fs::write(place.base(), bytes).unwrap();
    let output = place.compare(&["--base-from", "base.kld", "--max-kld", "1"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains("base.kld: position 0 of chunk 0 holds no probabilities"), "{told}");
    assert!(output.stdout.is_empty());
    assert!(Path::new(&place.base()).exists());
}

/// No number is exported as 0 where it is not known.
#[test]
fn few_positions_have_no_error() {
    let place = Place::new();
    let output = |more: &[&str]| {
        let mut command = Command::cargo_bin("evaluate").unwrap();
        command.current_dir(place.folder.path()).args(["compare", "model.gguf", "--types", "q8_0", "--text"]);
        command.arg(&place.sample).args(["--chunks", "1"]).args(more).output().unwrap()
    };
    let json =
        |more: &[&str]| -> Value { serde_json::from_slice(&output(&[&["--json"], more].concat()).stdout).unwrap() };
    let few = json(&["--ctx", "16"]);
    assert_eq!(few["protocol"]["positions"], 7);
    let figures = few["models"][0]["divergence"].as_object().unwrap();
    let estimates: Vec<&Value> = figures.values().filter(|v| v.is_object()).chain([&few["base"]["ppl"]]).collect();
    assert_eq!(estimates.len(), 10);
    for estimate in estimates {
        assert!(estimate["value"].is_number() && estimate["error"].is_null() && estimate["chunk_error"].is_null());
    }
    assert!(figures["ppl_correlation"].is_null());
    let csv = String::from_utf8(output(&["--ctx", "16", "--csv"]).stdout).unwrap();
    let (heads, cells) = csv.split_once('\n').unwrap();
    for (head, cell) in heads.split(',').zip(cells.trim_end().split(',')) {
        assert_eq!(head.ends_with("_error"), cell.is_empty(), "{head}: {cell}");
    }
    let table = String::from_utf8(output(&["--ctx", "16"]).stdout).unwrap();
    let figures: String = table.lines().take_while(|l| !l.starts_with("± is")).collect();
    assert!(!figures.replace("± over chunks", "").contains('±'), "{table}");
    let gate = output(&["--ctx", "16", "--max-kld", "0"]);
    assert!(!String::from_utf8_lossy(&gate.stderr).contains("NaN"));
    // Enough of them, in one chunk.
    let more = json(&["--ctx", "64"]);
    let ppl = &more["models"][0]["divergence"]["ppl"];
    assert!(ppl["error"].as_f64().unwrap() > 0.0 && ppl["chunk_error"].is_null());
}
