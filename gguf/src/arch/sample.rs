//! A tiny model of every architecture: keys that its reader accepts, for tests that walk over the table.

use std::collections::HashMap;

use super::slot::{Need, Slot};
use super::{Arch, FaultKind};
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

/// Numbers with a fraction.
const FLOATS: &[(&str, f32)] = &[
    ("activation.situ_beta", 2.0),
    ("activation.situ_linear_beta", 3.0),
    ("attention.clamp_kqv", 8.0),
    ("attention.compress_rope_freq_base", 40_000.0),
    ("expert_group_scale", 0.5),
    ("expert_weights_scale", 1.5),
    ("hyper_connection.magnitude", 2.0),
    ("kda.gate_lower_bound", -5.0),
    ("logit_scale", 0.5),
    ("residual_scale", 1.5),
    ("rope.freq_base_swa", 10_000.0),
];

/// Keys that are lists, one number a layer.
const LISTS: &[(&str, [u32; 4])] = &[
    ("attention.compress_ratios", [0, 4, 128, 4]),
    ("attention.indexer.types", [1, 1, 1, 1]),
    ("attention.sliding_window_pattern", [1, 0, 1, 0]),
];

/// Tokens of the tiny vocabulary.
const TOKENS: usize = 96;

/// The keys of a tiny model of an architecture, dense where the architecture can be, else with experts; `None` where its
/// reader asks for what no tiny model has.
pub fn sample(arch: &'static Arch) -> Option<Metadata> {
    sample_with(arch, &[]).or_else(|| sample_with(arch, &["expert_count", "expert_used_count"]))
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
        set(&mut metadata, arch, &format!("{}.{key}", arch.name)).then_some(())?;
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
        // What a key's value should be shows once it has one.
        let missing: Vec<_> = faults.iter().filter(|fault| fault.kind == FaultKind::KeyMissing).collect();
        let given = missing.iter().all(|fault| set(&mut metadata, arch, &fault.subject));
        (given && !missing.is_empty()).then_some(())?;
    }
    None
}

/// Gives a key its value; `false` where there is none.
fn set(metadata: &mut Metadata, arch: &Arch, key: &str) -> bool {
    let Some(own) = key.strip_prefix(arch.name).and_then(|k| k.strip_prefix('.')) else { return false };
    let value: Option<Value> = match own {
        _ if own.ends_with("epsilon") => Some(1e-5_f32.into()),
        "expert_weights_norm" | "use_parallel_residual" => Some(true.into()),
        "swiglu_clamp_exp" => Some(Array::from([7.0_f32; 4].as_slice()).into()),
        "rope.dimension_sections" => Some(Array::from([3_i32, 3, 2, 0].as_slice()).into()),
        _ => LISTS
            .iter()
            .find(|(k, _)| *k == own)
            .map(|(_, list)| Array::from(list.as_slice()).into())
            .or_else(|| FLOATS.iter().find(|(k, _)| *k == own).map(|(_, x)| (*x).into()))
            .or_else(|| ASKED.iter().find(|(k, _)| *k == own).map(|(_, n)| (*n).into())),
    };
    value.is_some_and(|value| {
        metadata.set(key, value);
        true
    })
}
