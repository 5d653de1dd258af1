//! Every architecture of the table: a tiny model with random weights is judged, quantized and evaluated.

use std::collections::HashMap;

use eval::forward::{Forward, Input};
use eval::model::{Model, Shape};
use eval::weights::SourceWeights;
use gguf::arch::{self, Arch, Need, Slot};
use gguf::check::{self, Severity};
use gguf::{File, Metadata, Source, TensorInfo, TensorType};
use quantize::pipeline::{self, Job, Settings};
use quantize::plan::{Options, Plan};

/// Tokens of the sequence that is evaluated.
const TOKENS: u32 = 12;

/// Architectures with a kind of layer that has no kernel: drafts that read another model's states, adapters that tokens
/// switch, a vocoder.
const WITHOUT_KERNEL: &[&str] = &["eagle3", "dflash", "graniteswitch", "wavtokenizer-dec"];

/// The tensors that the keys ask for, or these and all that may be there.
fn slots(row: &'static Arch, metadata: &Metadata, optional: bool) -> Vec<(String, Slot)> {
    let (dims, _) = row.dims_of_any_size(&|key| metadata.get(key), HashMap::new());
    let slots = row.plan(&dims).slots(&dims).into_iter();
    let some = |slot: &Slot| !slot.shape.is_empty() && slot.shape.iter().all(|d| !d.is_empty());
    slots.filter(|(_, slot)| slot.need == Need::Required || optional && some(slot)).collect()
}

/// Random values of a tensor, small enough that nothing overflows. Norms are near one, decays below zero.
fn values(name: &str, count: usize) -> Vec<f32> {
    let seed = name.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let unit = |i: usize| {
        let h = (seed ^ i as u32).wrapping_mul(0x9e37_79b1);
        let h = (h ^ (h >> 15)).wrapping_mul(0x85eb_ca6b);
        (h ^ (h >> 13)) as f32 / u32::MAX as f32 - 0.5
    };
    let near = |i: usize| match name {
        _ if name.contains("norm") && name.ends_with("weight") => 1.0 + 0.2 * unit(i),
        _ if name.starts_with("rope_f") => 1.5 + unit(i),
        _ if name.ends_with("ssm_a") => -0.5 + 0.4 * unit(i),
        _ => 0.3 * unit(i),
    };
    (0..count).map(near).collect()
}

/// A tiny model of an architecture with these keys.
fn model(row: &'static Arch, metadata: &Metadata, optional: bool) -> Vec<u8> {
    let made: Vec<(TensorInfo, Vec<u8>)> = slots(row, metadata, optional)
        .into_iter()
        .map(|(name, slot)| {
            let dims: Vec<u64> = slot.shape.iter().map(|d| d.get()).collect();
            let shape = gguf::Shape::new(&dims).unwrap();
            let count = shape.elements() as usize;
            // A table of experts by token holds numbers of experts.
            let (ty, bytes) = if name.ends_with("tid2eid.weight") {
                let ids = (0..count as i32).map(|i| (i % 2).to_le_bytes());
                (TensorType::I32, ids.flatten().collect())
            } else {
                (TensorType::F32, values(&name, count).iter().flat_map(|v| v.to_le_bytes()).collect())
            };
            (TensorInfo::new(name, shape, ty).unwrap(), bytes)
        })
        .collect();
    let infos: Vec<TensorInfo> = made.iter().map(|(info, _)| info.clone()).collect();
    gguf::write::to_bytes(metadata, &infos, |i| Ok(made[i].1.clone())).unwrap()
}

/// Logits, or an encoder's hidden states.
fn compute(file: &File) -> gguf::Result<Vec<f32>> {
    let weights = SourceWeights(file);
    let model = Model::new(file.metadata(), &weights)?;
    let forward = Forward::new(&model, &weights);
    let tokens: Vec<u32> = (0..TOKENS).map(|i| i * 7 % 96).collect();
    let input = match model.shape {
        Shape::Encoder => return Ok(forward.hidden(&[tokens.into()])?.remove(0)),
        Shape::EncoderDecoder => Input { tokens: tokens.clone(), encoder: tokens, second: 0 },
        Shape::Decoder => tokens.into(),
    };
    let mut got = Vec::new();
    let all = |_: usize| 0..TOKENS as usize;
    forward.logits(&[input], all, |logits| {
        got.extend_from_slice(&logits.streams[0]);
        Ok(())
    })?;
    Ok(got)
}

/// The model in blocks of 8 bits.
fn quantized(file: &File) -> gguf::Result<Vec<u8>> {
    let file_type = "Q8_0".parse().unwrap();
    let plan = Plan::new(file.metadata(), file.tensors(), file_type, &Options::default(), None)?;
    let files = plan.layouts()?.into_iter().map(|layout| (layout, Vec::new())).collect();
    let (mut outputs, _) = pipeline::run(file, vec![Job { plan, files }], &Settings::default(), |_| {})?;
    Ok(outputs.remove(0).remove(0))
}

/// Tiny models of an architecture: with shared key heads and without, with the tensors that its loader demands and with
/// all it may have. Not each is one that its graph runs.
fn variants(row: &'static Arch) -> Vec<(Metadata, bool)> {
    let mut found = Vec::new();
    for heads in [2_u32, 4] {
        let Some(mut metadata) = arch::sample(row) else { continue };
        metadata.set(format!("{}.attention.head_count_kv", row.name), heads);
        found.extend([(metadata.clone(), false), (metadata, true)]);
    }
    found
}

/// What is wrong on a model's way.
fn way(row: &'static Arch, metadata: &Metadata, optional: bool) -> Result<(), String> {
    let mut seen = Vec::new();
    let mut bytes = model(row, metadata, optional);
    for step in ["f32", "Q8_0"] {
        let report =
            check::check_bytes(bytes.clone().into(), "tiny.gguf", &check::Options { data: true, ..Default::default() });
        if let Some(fault) = report.findings.iter().find(|f| f.severity == Severity::Error) {
            return Err(format!("{step}: check: {fault}"));
        }
        let file = File::from_bytes(bytes.clone().into()).map_err(|e| e.to_string())?;
        let got = compute(&file).map_err(|e| format!("{step}: evaluate: {e}"))?;
        if got.is_empty() || got.iter().any(|v| !v.is_finite()) {
            return Err(format!(
                "{step}: {} values of {} are not finite",
                got.iter().filter(|v| !v.is_finite()).count(),
                got.len()
            ));
        }
        seen.push(got);
        bytes = quantized(&file).map_err(|e| format!("quantize: {e}"))?;
    }
    let far = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    let size = seen[0].iter().map(|a| f64::from(*a).powi(2)).sum::<f64>();
    let moved = (far(&seen[0], &seen[1]) / size).sqrt();
    // Where experts or positions are chosen, a small change chooses others.
    if moved < 0.5 { Ok(()) } else { Err(format!("8 bits move it by {moved:.2}")) }
}

#[test]
fn every_row_is_judged_quantized_and_evaluated() {
    let mut wrong = Vec::new();
    for row in arch::all() {
        let mut faults = Vec::new();
        let good = variants(row).iter().any(|(metadata, optional)| {
            way(row, metadata, *optional).inspect_err(|fault| faults.push(fault.clone())).is_ok()
        });
        let without = WITHOUT_KERNEL.contains(&row.name);
        if without == good || without && !faults[0].contains("cannot be evaluated yet") {
            wrong.push(format!("{}: {faults:?}", row.name));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

/// What llama.cpp's loader takes for each key that a tiny model lacks.
fn defaults() -> serde_json::Value {
    fixtures::json("golden/defaults.json")
}

/// A value of a list that names its type.
fn value(said: &serde_json::Value) -> gguf::Value {
    let (ty, value) = said.as_object().unwrap().iter().next().unwrap();
    match ty.as_str() {
        "u32" => (value.as_u64().unwrap() as u32).into(),
        "i32" => (value.as_i64().unwrap() as i32).into(),
        "f32" => (value.as_f64().unwrap() as f32).into(),
        "bool" => value.as_bool().unwrap().into(),
        "string" => value.as_str().unwrap().into(),
        other => panic!("there are no defaults of type {other}"),
    }
}

/// The model's numbers with these keys, and the tensors of these.
fn numbers(row: &'static Arch, tensors: &Metadata, optional: bool, keys: &Metadata) -> gguf::Result<Vec<f32>> {
    let of = File::from_bytes(model(row, tensors, optional).into())?;
    let bytes = gguf::write::copy(&of, keys, Vec::new(), |_| {})?;
    compute(&File::from_bytes(bytes.into())?)
}

/// Keys at which a model with the loader's value gives other numbers than one without the key, and how many were looked
/// at.
fn other_defaults(row: &'static Arch) -> (Vec<String>, usize) {
    let (defaults, mut wrong, mut looked) = (defaults(), Vec::new(), 0);
    let whole = variants(row).into_iter().find_map(|(metadata, optional)| {
        let numbers = numbers(row, &metadata, optional, &metadata).ok()?;
        Some((metadata, optional, numbers))
    });
    let Some((sample, optional, whole)) = whole else { return (wrong, looked) };
    for (name, said) in defaults[row.name].as_object().unwrap() {
        let key = format!("{}.{name}", row.name);
        let without: Metadata =
            sample.iter().filter(|(k, _)| *k != key).map(|(k, v)| (k.to_owned(), v.clone())).collect();
        let absent = if sample.get(&key).is_none() {
            whole.clone()
        } else {
            // Without it the tiny model may be none.
            let made = std::panic::catch_unwind(|| numbers(row, &without, optional, &without));
            let Ok(Ok(absent)) = made else { continue };
            absent
        };
        let mut explicit = without.clone();
        explicit.set(key.as_str(), value(said));
        looked += 1;
        match numbers(row, &without, optional, &explicit) {
            Ok(got) if got.iter().map(|v| v.to_bits()).eq(absent.iter().map(|v| v.to_bits())) => {}
            Ok(_) => wrong.push(format!("{key} at {said} gives other numbers than without")),
            Err(e) => wrong.push(format!("{key} at {said}: {e}")),
        }
    }
    (wrong, looked)
}

#[test]
fn every_absent_key_has_the_loader_s_value() {
    let (mut wrong, mut looked) = (Vec::new(), 0);
    let only = std::env::var("ONLY").ok();
    for row in arch::all().filter(|row| only.as_ref().is_none_or(|names| names.split(',').any(|n| n == row.name))) {
        let (found, times) = other_defaults(row);
        if times == 0 && !WITHOUT_KERNEL.contains(&row.name) {
            wrong.push(format!("{}: no key was looked at", row.name));
        }
        wrong.extend(found);
        looked += times;
    }
    assert!(wrong.is_empty(), "{} of {looked}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(only.is_some() || looked > 2_500, "{looked}");
}
