//! A tiny model of every architecture: keys that its reader accepts, for tests that walk over the table.

use std::collections::HashMap;

use super::slot::{Need, Slot};
use super::{Arch, Fault, FaultKind};
use crate::value::{Array, Metadata, Value};

/// Numbers of a tiny model, by key without the architecture. Keys of the first part are given to every architecture; those
/// of the second where its reader asks for them.
const COMMON: &[(&str, u32)] = &[
    ("context_length", 128),
    ("embedding_length", 64),
    ("block_count", 4),
    ("feed_forward_length", 96),
    ("attention.head_count", 4),
    ("attention.head_count_kv", 2),
];

const ASKED: &[(&str, u32)] = &[
    ("adapters.count", 2),
    ("adapters.lora_rank", 4),
    ("attention.decay_lora_rank", 8),
    ("attention.gate_lora_rank", 8),
    ("attention.group_norm_groups", 2),
    ("attention.iclr_lora_rank", 8),
    ("attention.indexer.block_size", 4),
    ("attention.indexer.head_count", 2),
    ("attention.indexer.key_length", 16),
    ("attention.indexer.kpool", 2),
    ("attention.indexer.local_blocks", 1),
    ("attention.indexer.top_k", 8),
    ("attention.key_length_mla", 24),
    ("attention.key_length_mla_swa", 24),
    ("attention.key_length_swa", 16),
    ("attention.kv_lora_rank", 32),
    ("attention.kv_lora_rank_swa", 32),
    ("attention.output_group_count", 2),
    ("attention.output_lora_rank", 8),
    ("attention.q_lora_rank", 24),
    ("attention.relative_buckets_count", 8),
    ("attention.sliding_window", 32),
    ("attention.value_length_mla", 16),
    ("attention.value_length_mla_swa", 16),
    ("attention.value_length_swa", 16),
    ("attention.value_residual_mix_lora_rank", 8),
    ("attn_res.block_size", 2),
    ("block_size", 4),
    ("conv_group_size", 8),
    ("conv_kernel_size", 3),
    ("convnext.block_count", 2),
    ("convnext.embedding_length", 64),
    ("embedding_length_out", 48),
    ("embedding_length_per_layer_input", 8),
    ("expert_chunk_feed_forward_length", 16),
    ("expert_count", 4),
    ("expert_feed_forward_length", 32),
    ("expert_gating_func", 2),
    ("expert_latent_length", 32),
    ("expert_shared_count", 1),
    ("expert_shared_feed_forward_length", 32),
    ("expert_used_count", 2),
    ("experts_per_group", 2),
    ("features_length", 32),
    ("full_attention_interval", 4),
    ("hash_layer_count", 1),
    ("hrm.h_cycles", 1),
    ("hrm.l_cycles", 1),
    ("hrm.layers_per_stack", 2),
    ("hyper_connection.count", 4),
    ("hyper_connection.low_rank", 8),
    ("hyper_connection.sinkhorn_iterations", 2),
    ("interleave_moe_layer_step", 2),
    ("kda.head_dim", 16),
    ("leading_dense_block_count", 1),
    ("moe_every_n_layers", 2),
    ("moe_latent_size", 32),
    ("n_deepstack_layers", 0),
    ("num_loops", 2),
    ("ple.conv_kernel", 3),
    ("ple.eos_token_id", 1),
    ("ple.heads_per_ngram", 2),
    ("ple.image_token_id", 3),
    ("ple.ngram_size", 3),
    ("posnet.block_count", 4),
    ("posnet.embedding_length", 64),
    ("rope.dimension_count", 16),
    ("selector_rank", 4),
    ("selector_top_k", 4),
    ("shortconv.l_cache", 3),
    ("ssm.conv_kernel", 4),
    ("ssm.group_count", 2),
    ("ssm.inner_size", 128),
    ("ssm.state_size", 16),
    ("ssm.time_step_rank", 4),
    ("target_hidden_size", 64),
    ("time_decay_extra_dim", 8),
    ("time_mix_extra_dim", 8),
    ("wkv.head_size", 16),
];

/// Keys that are lists, one number a layer.
const LISTS: &[(&str, [u32; 4])] = &[
    ("attention.compress_ratios", [0, 4, 128, 4]),
    ("attention.indexer.types", [1, 1, 1, 1]),
    ("attention.sliding_window_pattern", [1, 0, 1, 0]),
];

/// Lists of signed numbers that are no numbers of layers.
const SIGNED: &[(&str, &[i32])] = &[
    ("adapters.token_ids_activate", &[1, 2]),
    ("adapters.token_ids_substitute", &[3, 4]),
    ("rope.dimension_sections", &[3, 3, 2, 0]),
    ("target_layers", &[0, 1, 2]),
];

/// Lists of 64-bit numbers.
const WIDE: &[(&str, &[u64])] = &[
    ("ple.head_offsets", &[0, 8, 16, 24]),
    ("ple.head_vocab_sizes", &[8, 8, 8, 8]),
    ("ple.layer_multipliers", &[3, 5, 7]),
];

/// Tokens of the tiny vocabulary.
const TOKENS: usize = 96;

/// The keys of a tiny model of an architecture, dense where the architecture can be, else with experts; `None` where its
/// reader asks for what no tiny model has.
pub fn sample(arch: &'static Arch) -> Option<Metadata> {
    const EXPERTS: &[&str] = &["expert_count", "expert_used_count"];
    const WIDTHS: &[&str] = &["expert_count", "expert_used_count", "expert_feed_forward_length"];
    const LATENT: &[&str] =
        &["expert_count", "expert_used_count", "attention.key_length_mla", "attention.value_length_mla"];
    [&[], EXPERTS, WIDTHS, LATENT, &["embedding_length_out"], &["attention.gate_lora_rank"]]
        .iter()
        .find_map(|keys| sample_with(arch, keys))
}

/// The same with these keys of the architecture besides those that must be there.
pub fn sample_with(arch: &'static Arch, keys: &[&str]) -> Option<Metadata> {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", arch.name);
    metadata.set("general.type", "model");
    for (key, n) in COMMON {
        metadata.set(format!("{}.{key}", arch.name), *n);
    }
    metadata.set("tokenizer.ggml.model", "none");
    metadata.set("tokenizer.ggml.tokens", Array::strings((0..TOKENS).map(|i| format!("t{i}"))));
    metadata.set("tokenizer.ggml.token_type_count", 2_u32);
    for key in keys {
        set(&mut metadata, arch, &format!("{}.{key}", arch.name));
    }
    // Each round gives what the one before missed.
    for _ in 0..8 {
        let (dims, faults) = arch.dims(&|key| metadata.get(key), HashMap::new());
        if faults.is_empty() {
            // Without experts, what an architecture of experts must have would be empty.
            let hollow = |slot: &Slot| slot.need == Need::Required && slot.shape.iter().any(|d| d.is_empty());
            let whole = !arch.plan(&dims).slots(&dims).iter().any(|(_, slot)| hollow(slot));
            return (whole && (arch.demand)(&dims).is_none()).then_some(metadata);
        }
        // A number that does not fit another may be that of a key which is still missing.
        let range = |f: &Fault| f.kind == FaultKind::Range;
        let only_range = faults.iter().all(range);
        for fault in faults.into_iter().filter(|f| only_range || !range(f)) {
            let given = match fault.kind {
                FaultKind::KeyMissing => {
                    set(&mut metadata, arch, &fault.subject);
                    true
                }
                FaultKind::KeyType => retype(&mut metadata, &fault.subject),
                _ => false,
            };
            given.then_some(())?;
        }
    }
    None
}

/// Gives a key the next type after the one that its reader does not take; `false` where there is none left.
fn retype(metadata: &mut Metadata, key: &str) -> bool {
    let next: Value = match metadata.get(key) {
        Some(Value::U32(_)) => 1.0_f32.into(),
        Some(Value::F32(_)) => true.into(),
        Some(Value::Bool(_)) => "silu".into(),
        _ => return false,
    };
    metadata.set(key, next);
    true
}

/// Gives a key its value; one that no list has gets a small number, whose type is changed until its reader takes it.
fn set(metadata: &mut Metadata, arch: &Arch, key: &str) {
    let own = key.strip_prefix(arch.name).and_then(|k| k.strip_prefix('.')).unwrap_or(key);
    let value: Value = match own {
        _ if own.ends_with("epsilon") => 1e-5_f32.into(),
        // The only way of weighing its experts.
        "expert_gating_func" if arch.name == "deepseek4" => 4_u32.into(),
        "kda.gate_lower_bound" => (-2.0_f32).into(),
        "ple.layers" => Array::from([1_u32, 3].as_slice()).into(),
        _ if SIGNED.iter().any(|(k, _)| *k == own) => {
            let list = SIGNED.iter().find(|(k, _)| *k == own).map_or(&[][..], |(_, list)| list);
            Array::from(list).into()
        }
        _ if WIDE.iter().any(|(k, _)| *k == own) => {
            let list = WIDE.iter().find(|(k, _)| *k == own).map_or(&[][..], |(_, list)| list);
            Array::from(list).into()
        }
        _ => match LISTS.iter().find(|(k, _)| *k == own) {
            Some((_, list)) => Array::from(list.as_slice()).into(),
            None => ASKED.iter().find(|(k, _)| *k == own).map_or(1, |(_, n)| *n).into(),
        },
    };
    metadata.set(key, value);
}
