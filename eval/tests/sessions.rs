//! A sequence that grows gives the logits of one that is computed at once, for every architecture of the table.

use std::collections::HashMap;

use eval::forward::{Forward, Input, Session};
use eval::model::{Model, Shape};
use eval::weights::{Matrix, Weights};
use gguf::arch::{self, Arch, Need};
use gguf::{Metadata, Result, TensorInfo, TensorType};

/// Weights without a meaning, of the shapes that a tiny model has.
struct Tiny {
    infos: Vec<TensorInfo>,
    experts: u64,
}

impl Tiny {
    fn new(arch: &'static Arch, metadata: &Metadata, all: bool) -> Tiny {
        let (dims, faults) = arch.dims_of_any_size(&|key| metadata.get(key), HashMap::new());
        assert!(faults.is_empty(), "{}: {faults:?}", arch.name);
        let slots = arch.plan(&dims).slots(&dims).into_iter().filter(|(_, slot)| all || slot.need == Need::Required);
        let infos = slots
            .map(|(name, slot)| {
                let shape: Vec<u64> = slot.shape.iter().map(|d| d.get()).collect();
                TensorInfo::new(name, gguf::Shape::new(&shape).unwrap(), TensorType::F32).unwrap()
            })
            .collect();
        Tiny { infos, experts: dims.experts.get() }
    }
}

impl Weights for Tiny {
    fn tensors(&self) -> &[TensorInfo] {
        &self.infos
    }

    fn matrix(&self, tensor: usize) -> Result<Matrix<'_>> {
        let info = &self.infos[tensor];
        let name = info.name();
        let value = |i: u64| match name {
            _ if name.ends_with("tid2eid.weight") => (i % self.experts.max(1)) as f32,
            // States must not grow.
            _ if name.ends_with("ssm_a") => -0.5 - 0.1 * (i % 5) as f32,
            _ if name.ends_with("norm.weight") || name.contains("rope_f") => 1.0 + 0.1 * (i as f32).sin(),
            _ => 0.15 * (i as f32 * 1.7 + tensor as f32 * 0.9).sin(),
        };
        Ok(Matrix::from_f32(name, (0..info.elements()).map(value).collect(), info.shape().row_len() as usize))
    }
}

const TOKENS: [u32; 14] = [5, 17, 3, 42, 8, 8, 61, 29, 77, 1, 54, 12, 90, 33];

/// The largest difference between the logits behind the last token, computed at once and in pieces.
fn difference(model: &Model, weights: &dyn Weights) -> Result<f32> {
    let mut once = Vec::new();
    let last = TOKENS.len() - 1..TOKENS.len();
    Forward::new(model, weights).logits(
        &[Input::from(TOKENS.to_vec())],
        |_| last.clone(),
        |logits| {
            once.clone_from(&logits.streams[0]);
            Ok(())
        },
    )?;
    let mut session = Session::new(model, weights, 1, 32)?;
    let mut grown = Vec::new();
    for piece in [&TOKENS[..3], &TOKENS[3..4], &TOKENS[4..12], &TOKENS[12..13], &TOKENS[13..]] {
        grown = session.feed(&[piece])?;
    }
    let scale = once.iter().map(|x| x.abs()).fold(1.0, f32::max);
    assert!(once.iter().any(|x| *x != once[0]), "all logits are equal");
    Ok(once.iter().zip(&grown).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f32::max))
}

/// The same for a tiny model; none where it does not continue texts.
fn grown(arch: &'static Arch, metadata: &Metadata, all: bool) -> Result<Option<f32>> {
    let weights = Tiny::new(arch, metadata, all);
    let model = Model::new(metadata, &weights)?;
    let grows = model.shape == Shape::Decoder && model.dims.causal;
    grows.then(|| difference(&model, &weights)).transpose()
}

/// Architectures whose tiny model cannot be run: with sizes that contradict its keys, of dense layers and experts at once,
/// or of kinds without a kernel (drafts for other models, switched adapters, sound).
const LEFT_OUT: [&str; 10] =
    ["dflash", "dots1", "eagle3", "graniteswitch", "hy_v3", "mimo2", "olmoe", "qwen", "step35", "wavtokenizer-dec"];

#[test]
fn growing_sequences_give_what_whole_ones_give() {
    let mut seen = 0;
    for arch in arch::all().filter(|arch| !LEFT_OUT.contains(&arch.name)) {
        let Some(metadata) = arch::sample(arch) else { continue };
        // What must be there alone, or all that may be there where that is too little.
        let found = grown(arch, &metadata, false).or_else(|_| grown(arch, &metadata, true));
        match found.unwrap_or_else(|e| panic!("{}: {e}", arch.name)) {
            Some(off) => assert!(off < 1e-5, "{}: {off:e}", arch.name),
            None => continue,
        }
        seen += 1;
    }
    assert!(seen > 120, "{seen}");
}

#[test]
fn keys_that_are_compressed_in_time_are_kept() {
    let name = "deepseek4";
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", name);
    metadata.set("tokenizer.ggml.tokens", gguf::Array::strings((0..96).map(|i| format!("t{i}"))));
    let numbers: [(&str, u32); 24] = [
        ("context_length", 128),
        ("embedding_length", 64),
        ("block_count", 3),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 1),
        ("attention.key_length", 16),
        ("attention.value_length", 16),
        ("rope.dimension_count", 8),
        ("attention.q_lora_rank", 24),
        ("attention.sliding_window", 5),
        ("attention.output_group_count", 2),
        ("attention.output_lora_rank", 8),
        ("attention.indexer.head_count", 8),
        ("attention.indexer.key_length", 16),
        ("attention.indexer.top_k", 2),
        ("expert_count", 4),
        ("expert_used_count", 2),
        ("expert_feed_forward_length", 32),
        ("expert_shared_count", 1),
        ("expert_gating_func", 4),
        ("hash_layer_count", 1),
        ("hyper_connection.count", 2),
        ("hyper_connection.sinkhorn_iterations", 3),
        ("feed_forward_length", 32),
    ];
    for (key, n) in numbers {
        metadata.set(format!("{name}.{key}"), n);
    }
    let floats = [
        ("attention.layer_norm_rms_epsilon", 1e-5_f32),
        ("attention.compress_rope_freq_base", 40_000.0),
        ("expert_weights_scale", 1.5),
        ("hyper_connection.epsilon", 1e-6),
    ];
    for (key, x) in floats {
        metadata.set(format!("{name}.{key}"), x);
    }
    metadata.set(format!("{name}.expert_weights_norm"), true);
    metadata.set(format!("{name}.swiglu_clamp_exp"), gguf::Array::from(&[7.0_f32; 3][..]));
    metadata.set(format!("{name}.attention.compress_ratios"), gguf::Array::from(&[0_u32, 4, 4][..]));
    let off = grown(arch::find(name).unwrap(), &metadata, false).unwrap().unwrap();
    assert!(off < 1e-5, "{off:e}");
}
