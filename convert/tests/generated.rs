//! Checkpoints that are made here, of classes that `golden/arch` has no folder of: what the reference converter writes
//! for the same folders. `fixtures/generated/reference.py` says what the cases are.

mod cases;

use std::fs;
use std::path::Path;

use convert::{Checkpoint, Options, OutType};
use gguf::Source;
use serde_json::{Map, Value};

use cases::{options, resolved, write};

/// The file with zeros for the tensors that are `apart`, whose values depend on the processor's library.
fn without(case: &Map<String, Value>, mut bytes: Vec<u8>) -> Vec<u8> {
    let Some(apart) = case.get("apart").and_then(Value::as_array) else { return bytes };
    let file = gguf::File::from_bytes(bytes.clone().into()).unwrap();
    let mut next = file.data_start();
    for tensor in file.tensors() {
        let start = next as usize;
        next = (next + tensor.bytes()).next_multiple_of(32);
        if apart.iter().any(|name| name == tensor.name()) {
            bytes[start..][..tensor.bytes() as usize].fill(0);
        }
    }
    bytes
}

/// The maker's own configurations have one epsilon, under the name of the other kind of norm, and the reference writes it
/// as such: the file is the reference's, what is computed from the folder is the model.
#[test]
fn qwen_1_has_its_epsilon_beyond_the_file() {
    let cases = fixtures::json("generated/back.json");
    let cases = cases.as_object().unwrap();
    let mut case = resolved(cases, "Qwen-1");
    let temporary = tempfile::tempdir().unwrap();
    let open = |case: &Map<String, Value>, name: &str| {
        let folder = temporary.path().join(name);
        write(case, &folder);
        Checkpoint::open(&folder, &options(cases, case, &folder)).unwrap()
    };
    let key = "qwen.attention.layer_norm_rms_epsilon";
    let stated = open(&case, "stated");
    assert!(stated.metadata().f64(key).is_some() && stated.beyond().is_empty());
    case["config"].as_object_mut().unwrap().shift_remove("rms_norm_eps");
    let alone = open(&case, "alone");
    assert_eq!(alone.metadata().f64(key), None);
    assert_eq!(alone.beyond(), [(key.to_owned(), 1e-6_f32.into())]);
    assert!(alone.notes().iter().any(|note| note.contains("does not load") && note.contains(key)));
    // Without either name there is none.
    case["config"].as_object_mut().unwrap().shift_remove("layer_norm_epsilon");
    let folder = temporary.path().join("none");
    write(&case, &folder);
    let error = Checkpoint::open(&folder, &options(cases, &case, &folder)).unwrap_err().to_string();
    assert!(error.contains(key), "{error}");
}

/// What is apart in the models of speech: words behind their projection and codes, or words, learned vectors and a state
/// behind its projection.
#[test]
fn embeddings_that_are_products_are_those_of_their_definition() {
    let cases = fixtures::json("generated/cases.json");
    let cases = cases.as_object().unwrap();
    for (name, prefix) in
        [("Qwen3-TTS", "talker."), ("Pocket-TTS", "flow_lm."), ("Pocket-TTS-without-voice", "flow_lm.")]
    {
        let case = resolved(cases, name);
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join(name);
        write(&case, &folder);
        let options = Options { outtype: OutType::F32, ..options(cases, &case, &folder) };
        let checkpoint = Checkpoint::open(&folder, &options).unwrap();
        let at = checkpoint.find("token_embd.weight").unwrap();
        let info = &checkpoint.tensors()[at];
        let bytes = checkpoint.rows(at, 0..info.rows()).unwrap();
        let made: Vec<f64> = bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();

        let stored = convert::safetensors::open_folder(&folder).unwrap();
        let values = |own: &str| -> Option<Vec<f64>> {
            let found = stored.iter().find(|tensor| tensor.name() == format!("{prefix}{own}"))?;
            let rows = convert::transform::stored(found).unwrap();
            let bytes = rows.rows(0..convert::transform::row_count(rows.shape())).unwrap();
            let values = convert::transform::to_f32(rows.elements(), &bytes).unwrap();
            Some(values.into_iter().map(f64::from).collect())
        };
        let need = |own: &str| values(own).unwrap();
        let product = |x: &[f64], matrix: &[f64]| -> Vec<f64> {
            matrix.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
        };
        let plus = |x: Vec<f64>, bias: &[f64]| -> Vec<f64> { x.iter().zip(bias).map(|(x, b)| x + b).collect() };
        let expected = if prefix == "talker." {
            let up = (need("text_projection.linear_fc1.weight"), need("text_projection.linear_fc1.bias"));
            let down = (need("text_projection.linear_fc2.weight"), need("text_projection.linear_fc2.bias"));
            let projected = |word: &[f64]| {
                let inner = plus(product(word, &up.0), &up.1).into_iter().map(|x| x / (1.0 + (-x).exp()));
                plus(product(&inner.collect::<Vec<_>>(), &down.0), &down.1)
            };
            let words = need("model.text_embedding.weight");
            let words = words.chunks(up.1.len()).flat_map(projected);
            words.chain(need("model.codec_embedding.weight")).collect::<Vec<_>>()
        } else {
            let vectors = [Some(need("conditioner.embed.weight")), values("bos_before_voice")];
            let first = product(&need("bos_emb"), &need("input_linear.weight"));
            vectors.into_iter().flatten().flatten().chain(first).collect()
        };
        assert_eq!(made.len(), expected.len(), "{name}");
        let largest = expected.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        // Sums of at most 48 products in f32, and an exponential.
        let wrong = made.iter().zip(&expected).position(|(a, b)| (a - b).abs() > 1e-6 * largest);
        assert_eq!(wrong, None, "{name}");
    }
}

#[test]
fn generated_checkpoints_are_byte_identical() {
    let cases = fixtures::json("generated/cases.json");
    let cases = cases.as_object().unwrap();
    let only = std::env::var("ONLY").ok();
    let mut faults = Vec::new();
    for name in cases.keys().filter(|n| only.as_ref().is_none_or(|o| n.contains(o.as_str()))) {
        let case = resolved(cases, name);
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join(name);
        write(&case, &folder);
        let options = options(cases, &case, &folder);
        if let Some(wanted) = cases[name].get("vocabulary").and_then(Value::as_str) {
            let checkpoint = Checkpoint::open(&folder, &Options { vocab_only: true, ..options.clone() }).unwrap();
            let plan = gguf::FileLayout::new(checkpoint.metadata(), checkpoint.tensors()).unwrap().unpadded();
            let bytes = gguf::write::copy_planned(&checkpoint, 0..0, plan, u64::MAX, Vec::new(), |_| {}).unwrap();
            if fixtures::sha256(&bytes) != wanted {
                faults.push(format!("{name}: the vocabulary alone has other bytes"));
            }
        }
        let bytes =
            Checkpoint::open(&folder, &options).and_then(|c| gguf::write::copy(&c, c.metadata(), Vec::new(), |_| {}));
        match (bytes, case.get("error").and_then(Value::as_str)) {
            (Ok(bytes), None)
                if fixtures::sha256(&without(&case, bytes.clone())) == case["sha256"].as_str().unwrap() => {}
            (Ok(bytes), _) => {
                if let Some(dir) = std::env::var_os("KEEP") {
                    fs::write(Path::new(&dir).join(format!("{name}.gguf")), bytes).unwrap();
                }
                faults.push(format!("{name}: other bytes"));
            }
            (Err(e), Some(error)) if e.to_string().contains(error) => {}
            (Err(e), _) => faults.push(format!("{name}: {e} ({})", e.way_out().unwrap_or(""))),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
