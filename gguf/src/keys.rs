//! The types of the keys that readers know.
//!
//! A key of another type than its own is refused by its reader, or read as if it were absent. So who sets a key needs
//! no type where the key is a known one, and who judges a file has one table. Drawn from what llama.cpp's loaders ask
//! for and from what gguf-py writes.

use std::fmt;

use crate::value::ValueType::{Bool, F32, I8, I32, I64, String, U8, U16, U32, U64};
use crate::value::{Value, ValueType};

/// What the value of a key may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The type of a single value; `None` where only an array will do.
    pub one: Option<ValueType>,
    /// The types of the elements where it may be an array, the usual one first.
    pub each: &'static [ValueType],
}

const fn one(ty: ValueType) -> Kind {
    Kind { one: Some(ty), each: &[] }
}

/// One value, or an array with an element for each layer.
const fn layers(ty: ValueType, each: &'static [ValueType]) -> Kind {
    Kind { one: Some(ty), each }
}

const fn list(each: &'static [ValueType]) -> Kind {
    Kind { one: None, each }
}

impl Kind {
    /// Whether an array of this kind has an element for each layer.
    pub fn by_layer(self) -> bool {
        self.one.is_some() && !self.each.is_empty()
    }

    /// Whether a value is of this kind. An empty array is, whatever its element type says.
    pub fn fits(self, value: &Value) -> bool {
        match value {
            Value::Array(array) => {
                !self.each.is_empty() && (array.is_empty() || self.each.contains(&array.element_type()))
            }
            value => self.one == Some(value.value_type()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each: Vec<&str> = self.each.iter().map(|t| t.name()).collect();
        match (self.one, each.is_empty()) {
            (Some(one), true) => write!(f, "{one}"),
            (Some(one), false) => write!(f, "{one} or an array of {}", each.join(" or ")),
            (None, _) => write!(f, "array of {}", each.join(" or ")),
        }
    }
}

/// The kind of a key, where it is a known one.
///
/// ```
/// use gguf::ValueType;
/// assert_eq!(gguf::keys::kind("llama.rope.freq_base").and_then(|k| k.one), Some(ValueType::F32));
/// assert_eq!(gguf::keys::kind("my.own_key"), None);
/// ```
pub fn kind(key: &str) -> Option<Kind> {
    let find = |table: &[(&str, Kind)], key: &str| table.iter().find(|(name, _)| matches(name, key)).map(|row| row.1);
    find(WHOLE, key).or_else(|| {
        let (architecture, own) = key.split_once('.')?;
        (!FAMILIES.contains(&architecture)).then(|| find(OWN, own))?
    })
}

/// Whether a key is that of a row, in which `{}` stands for one segment.
fn matches(row: &str, key: &str) -> bool {
    match row.split_once("{}") {
        None => row == key,
        Some((front, back)) => key
            .strip_prefix(front)
            .and_then(|rest| rest.strip_suffix(back))
            .is_some_and(|segment| !segment.is_empty() && !segment.contains('.')),
    }
}

/// First segments that name no architecture.
const FAMILIES: &[&str] = &["general", "tokenizer", "split", "adapter", "imatrix", "quantize", "clip", "gguf"];

/// Keys under their whole names; `{}` stands for a number or a name.
const WHOLE: &[(&str, Kind)] = &[
    ("adapter.alora.invocation_tokens", list(&[U32, I32])),
    ("adapter.lora.alpha", one(F32)),
    ("adapter.lora.prompt_prefix", one(String)),
    ("adapter.lora.task_name", one(String)),
    ("adapter.type", one(String)),
    ("clip.audio.attention.head_count", one(U32)),
    ("clip.audio.attention.head_count_kv", one(U32)),
    ("clip.audio.attention.head_dim", one(U32)),
    ("clip.audio.attention.layer_norm_epsilon", one(F32)),
    ("clip.audio.block_count", one(U32)),
    ("clip.audio.chunk_size", one(U32)),
    ("clip.audio.conv_kernel_size", one(U32)),
    ("clip.audio.embedding_length", one(U32)),
    ("clip.audio.feature_layer", list(&[I32, U32])),
    ("clip.audio.feed_forward_length", one(U32)),
    ("clip.audio.local_block_count", one(U32)),
    ("clip.audio.local_group_size", one(U32)),
    ("clip.audio.max_pos_emb", one(U32)),
    ("clip.audio.num_mel_bins", one(U32)),
    ("clip.audio.projection_dim", one(U32)),
    ("clip.audio.projector.downsample_rate", one(U32)),
    ("clip.audio.projector.head_count", one(U32)),
    ("clip.audio.projector.stack_factor", one(U32)),
    ("clip.audio.projector.window_size", one(U32)),
    ("clip.audio.projector_type", one(String)),
    ("clip.audio.rvq.codebook_size", list(&[I32, U32])),
    ("clip.audio.rvq.num_quantizers", one(U32)),
    ("clip.audio.subsampling_factor", one(U32)),
    ("clip.audio.wa_pattern_mode", list(&[I32, U32])),
    ("clip.audio.window_size", one(U32)),
    ("clip.gen.audio.attention.head_count", one(U32)),
    ("clip.gen.audio.attention.head_count_kv", one(U32)),
    ("clip.gen.audio.attention.head_dim", one(U32)),
    ("clip.gen.audio.attention.layer_norm_epsilon", one(F32)),
    ("clip.gen.audio.block_count", one(U32)),
    ("clip.gen.audio.embedding_length", one(U32)),
    ("clip.gen.audio.feed_forward_length", one(U32)),
    ("clip.gen.audio.model_variant", one(String)),
    ("clip.gen.audio.projection_dim", one(U32)),
    ("clip.gen.audio.projector_type", one(String)),
    ("clip.has_audio_encoder", one(Bool)),
    ("clip.has_gen_audio_encoder", one(Bool)),
    ("clip.has_llava_projector", one(Bool)),
    ("clip.has_vision_encoder", one(Bool)),
    ("clip.minicpmv_query_num", one(U32)),
    ("clip.minicpmv_version", one(I32)),
    ("clip.projector_type", one(String)),
    ("clip.use_gelu", one(Bool)),
    ("clip.use_silu", one(Bool)),
    ("clip.vision.attention.head_count", one(U32)),
    ("clip.vision.attention.head_count_kv", one(U32)),
    ("clip.vision.attention.head_dim", one(U32)),
    ("clip.vision.attention.layer_norm_epsilon", one(F32)),
    ("clip.vision.block_count", one(U32)),
    ("clip.vision.embedding_length", one(U32)),
    ("clip.vision.expert_count_per_layer", list(&[I32, U32])),
    ("clip.vision.expert_used_count", one(U32)),
    ("clip.vision.feature_layer", list(&[I32, U32])),
    ("clip.vision.feed_forward_length", one(U32)),
    ("clip.vision.image_grid_pinpoints", list(&[I32, U32])),
    ("clip.vision.image_max_pixels", one(U32)),
    ("clip.vision.image_mean", list(&[F32])),
    ("clip.vision.image_min_pixels", one(U32)),
    ("clip.vision.image_size", one(U32)),
    ("clip.vision.image_std", list(&[F32])),
    ("clip.vision.is_deepstack_layers", list(&[Bool])),
    ("clip.vision.mm_patch_merge_type", one(String)),
    ("clip.vision.n_wa_pattern", one(U32)),
    ("clip.vision.patch_size", one(U32)),
    ("clip.vision.preproc_image_size", one(U32)),
    ("clip.vision.preproc_max_tiles", one(U32)),
    ("clip.vision.preproc_min_tiles", one(U32)),
    ("clip.vision.projection_dim", one(U32)),
    ("clip.vision.projector.query_side", one(U32)),
    ("clip.vision.projector.scale_factor", one(U32)),
    ("clip.vision.projector.spatial_offsets", list(&[I32, U32])),
    ("clip.vision.projector.window_side", one(U32)),
    ("clip.vision.projector_type", one(String)),
    ("clip.vision.sam.block_count", one(U32)),
    ("clip.vision.sam.embedding_length", one(U32)),
    ("clip.vision.sam.head_count", one(U32)),
    ("clip.vision.spatial_merge_size", one(U32)),
    ("clip.vision.swiglu_clamp", one(F32)),
    ("clip.vision.wa_layer_indexes", list(&[I32, U32])),
    ("clip.vision.wa_pattern_mode", list(&[I32, U32])),
    ("clip.vision.window_size", one(U32)),
    ("diffusion.shift_logits", one(Bool)),
    ("general.alignment", one(U32)),
    ("general.architecture", one(String)),
    ("general.author", one(String)),
    ("general.base_model.count", one(U32)),
    ("general.base_model.{}.author", one(String)),
    ("general.base_model.{}.description", one(String)),
    ("general.base_model.{}.doi", one(String)),
    ("general.base_model.{}.name", one(String)),
    ("general.base_model.{}.organization", one(String)),
    ("general.base_model.{}.repo_url", one(String)),
    ("general.base_model.{}.url", one(String)),
    ("general.base_model.{}.uuid", one(String)),
    ("general.base_model.{}.version", one(String)),
    ("general.basename", one(String)),
    ("general.dataset.count", one(U32)),
    ("general.dataset.{}.author", one(String)),
    ("general.dataset.{}.description", one(String)),
    ("general.dataset.{}.doi", one(String)),
    ("general.dataset.{}.name", one(String)),
    ("general.dataset.{}.organization", one(String)),
    ("general.dataset.{}.repo_url", one(String)),
    ("general.dataset.{}.url", one(String)),
    ("general.dataset.{}.uuid", one(String)),
    ("general.dataset.{}.version", one(String)),
    ("general.description", one(String)),
    ("general.doi", one(String)),
    ("general.file_type", one(U32)),
    ("general.finetune", one(String)),
    ("general.languages", list(&[String])),
    ("general.license", one(String)),
    ("general.license.link", one(String)),
    ("general.license.name", one(String)),
    ("general.name", one(String)),
    ("general.organization", one(String)),
    ("general.quantization_version", one(U32)),
    ("general.quantized_by", one(String)),
    ("general.repo_url", one(String)),
    ("general.sampling.min_p", one(F32)),
    ("general.sampling.mirostat", one(I32)),
    ("general.sampling.mirostat_eta", one(F32)),
    ("general.sampling.mirostat_tau", one(F32)),
    ("general.sampling.penalty_last_n", one(I32)),
    ("general.sampling.penalty_repeat", one(F32)),
    ("general.sampling.sequence", one(String)),
    ("general.sampling.temp", one(F32)),
    ("general.sampling.top_k", one(I32)),
    ("general.sampling.top_p", one(F32)),
    ("general.sampling.xtc_probability", one(F32)),
    ("general.sampling.xtc_threshold", one(F32)),
    ("general.size_label", one(String)),
    ("general.source.doi", one(String)),
    ("general.source.repo_url", one(String)),
    ("general.source.url", one(String)),
    ("general.source.uuid", one(String)),
    ("general.tags", list(&[String])),
    ("general.type", one(String)),
    ("general.url", one(String)),
    ("general.uuid", one(String)),
    ("general.version", one(String)),
    ("imatrix.chunk_count", one(U32)),
    ("imatrix.chunk_size", one(U32)),
    ("imatrix.datasets", list(&[String])),
    ("quantize.imatrix.chunks_count", one(U32)),
    ("quantize.imatrix.dataset", one(String)),
    ("quantize.imatrix.entries_count", one(U32)),
    ("quantize.imatrix.file", one(String)),
    ("split.count", one(U16)),
    ("split.no", one(U16)),
    ("split.tensors.count", one(I32)),
    ("tokenizer.chat_template", one(String)),
    ("tokenizer.chat_template.{}", one(String)),
    ("tokenizer.chat_templates", list(&[String])),
    ("tokenizer.ggml.add_bos_token", one(Bool)),
    ("tokenizer.ggml.add_eos_token", one(Bool)),
    ("tokenizer.ggml.add_sep_token", one(Bool)),
    ("tokenizer.ggml.add_space_prefix", one(Bool)),
    ("tokenizer.ggml.bos_token_id", one(U32)),
    ("tokenizer.ggml.cls_token_id", one(U32)),
    ("tokenizer.ggml.eom_token_id", one(U32)),
    ("tokenizer.ggml.eos_token_id", one(U32)),
    ("tokenizer.ggml.eot_token_id", one(U32)),
    ("tokenizer.ggml.fim_mid_token_id", one(U32)),
    ("tokenizer.ggml.fim_pad_token_id", one(U32)),
    ("tokenizer.ggml.fim_pre_token_id", one(U32)),
    ("tokenizer.ggml.fim_rep_token_id", one(U32)),
    ("tokenizer.ggml.fim_sep_token_id", one(U32)),
    ("tokenizer.ggml.fim_suf_token_id", one(U32)),
    ("tokenizer.ggml.mask_token_id", one(U32)),
    ("tokenizer.ggml.merges", list(&[String])),
    ("tokenizer.ggml.middle_token_id", one(U32)),
    ("tokenizer.ggml.model", one(String)),
    ("tokenizer.ggml.normalizer.lowercase", one(Bool)),
    ("tokenizer.ggml.normalizer.strip_accents", one(Bool)),
    ("tokenizer.ggml.padding_token_id", one(U32)),
    ("tokenizer.ggml.pre", one(String)),
    ("tokenizer.ggml.precompiled_charsmap", list(&[U8, I8])),
    ("tokenizer.ggml.prefix_token_id", one(U32)),
    ("tokenizer.ggml.remove_extra_whitespaces", one(Bool)),
    ("tokenizer.ggml.scores", list(&[F32, I32])),
    ("tokenizer.ggml.separator_token_id", one(U32)),
    ("tokenizer.ggml.seperator_token_id", one(U32)),
    ("tokenizer.ggml.suffix_token_id", one(U32)),
    ("tokenizer.ggml.suppress_tokens", list(&[I32, U32])),
    ("tokenizer.ggml.token_type", list(&[I32])),
    ("tokenizer.ggml.token_type_count", one(U32)),
    ("tokenizer.ggml.tokens", list(&[String])),
    ("tokenizer.ggml.unknown_token_id", one(U32)),
    ("tokenizer.huggingface.json", one(String)),
    ("tokenizer.rwkv.world", one(String)),
    ("xielu.alpha_n", layers(F32, &[F32])),
    ("xielu.alpha_p", layers(F32, &[F32])),
    ("xielu.beta", layers(F32, &[F32])),
    ("xielu.eps", layers(F32, &[F32])),
];

/// Keys of an architecture, without its name.
const OWN: &[(&str, Kind)] = &[
    ("activation.situ_beta", one(F32)),
    ("activation.situ_linear_beta", one(F32)),
    ("activation_sparsity_scale", list(&[F32])),
    ("adapters.count", one(U32)),
    ("adapters.lora_rank", one(U32)),
    ("adapters.router_gain", one(F32)),
    ("adapters.token_ids_activate", list(&[I32, U32])),
    ("adapters.token_ids_substitute", list(&[I32, U32])),
    ("altup.active_idx", one(U32)),
    ("altup.num_inputs", one(U32)),
    ("attention.causal", one(Bool)),
    ("attention.clamp_kqv", one(F32)),
    ("attention.compress_ratios", layers(U32, &[U32, I32])),
    ("attention.compress_rope_freq_base", one(F32)),
    ("attention.decay_lora_rank", one(U32)),
    ("attention.gate_lora_rank", one(U32)),
    ("attention.group_norm_epsilon", one(F32)),
    ("attention.group_norm_groups", one(U32)),
    ("attention.head_count", layers(U32, &[U32, I32])),
    ("attention.head_count_kv", layers(U32, &[U32, I32])),
    ("attention.iclr_lora_rank", one(U32)),
    ("attention.indexer.block_size", one(U32)),
    ("attention.indexer.head_count", one(U32)),
    ("attention.indexer.key_length", one(U32)),
    ("attention.indexer.kpool", one(U32)),
    ("attention.indexer.kpool_select_tail", one(Bool)),
    ("attention.indexer.local_blocks", one(U32)),
    ("attention.indexer.top_k", one(U32)),
    ("attention.indexer.types", layers(U32, &[U32, I32])),
    ("attention.key_length", one(U32)),
    ("attention.key_length_mla", one(U32)),
    ("attention.key_length_mla_swa", one(U32)),
    ("attention.key_length_swa", one(U32)),
    ("attention.kv_lora_rank", one(U32)),
    ("attention.kv_lora_rank_swa", one(U32)),
    ("attention.layer_norm_epsilon", one(F32)),
    ("attention.layer_norm_rms_epsilon", one(F32)),
    ("attention.max_alibi_bias", one(F32)),
    ("attention.output_group_count", one(U32)),
    ("attention.output_lora_rank", one(U32)),
    ("attention.output_scale", one(F32)),
    ("attention.q_lora_rank", one(U32)),
    ("attention.recurrent_layers", layers(U32, &[Bool, U32, I32])),
    ("attention.relative_buckets_count", one(U32)),
    ("attention.rope_pattern", list(&[U32, I32])),
    ("attention.scale", one(F32)),
    ("attention.shared_kv_layers", one(U32)),
    ("attention.sliding_window", one(U32)),
    ("attention.sliding_window_pattern", layers(U32, &[Bool, U32, I32])),
    ("attention.temperature_length", one(U32)),
    ("attention.temperature_scale", one(F32)),
    ("attention.value_length", one(U32)),
    ("attention.value_length_mla", one(U32)),
    ("attention.value_length_mla_swa", one(U32)),
    ("attention.value_length_swa", one(U32)),
    ("attention.value_residual_mix_lora_rank", one(U32)),
    ("attention.value_scale", one(F32)),
    ("attn_logit_softcapping", one(F32)),
    ("attn_res.block_size", one(U32)),
    ("block_count", one(U32)),
    ("block_size", one(U32)),
    ("classifier.output_labels", list(&[String])),
    ("classifier.pooling_type", one(U32)),
    ("context_length", one(U32)),
    ("conv_group_size", one(U32)),
    ("conv_kernel_size", one(U32)),
    ("convnext.block_count", one(U32)),
    ("convnext.embedding_length", one(U32)),
    ("decoder_block_count", one(U32)),
    ("decoder_start_token_id", one(U32)),
    ("deepstack_mapping", list(&[I32, U32])),
    ("dense_2_feat_in", one(U32)),
    ("dense_2_feat_out", one(U32)),
    ("dense_3_feat_in", one(U32)),
    ("dense_3_feat_out", one(U32)),
    ("embedding_length", one(U32)),
    ("embedding_length_out", one(U32)),
    ("embedding_length_per_layer_input", one(U32)),
    ("embedding_scale", one(F32)),
    ("expert_chunk_feed_forward_length", one(U32)),
    ("expert_count", one(U32)),
    ("expert_feed_forward_length", layers(U32, &[U32, I32])),
    ("expert_gating_func", one(U32)),
    ("expert_group_count", one(U32)),
    ("expert_group_scale", one(F32)),
    ("expert_group_used_count", one(U32)),
    ("expert_latent_length", one(U32)),
    ("expert_shared_count", one(U32)),
    ("expert_shared_feed_forward_length", one(U32)),
    ("expert_used_count", layers(U32, &[U32, I32])),
    ("expert_weights_norm", one(Bool)),
    ("expert_weights_scale", one(F32)),
    ("experts_per_group", one(U32)),
    ("features_length", one(U32)),
    ("feed_forward_length", layers(U32, &[U32, I32])),
    ("final_logit_softcapping", one(F32)),
    ("full_attention_interval", one(U32)),
    ("has_confidence_head", one(Bool)),
    ("hash_layer_count", one(U32)),
    ("hidden_activation", one(String)),
    ("hrm.h_cycles", one(U32)),
    ("hrm.l_cycles", one(U32)),
    ("hrm.layers_per_stack", one(U32)),
    ("hrm.prefix_lm", one(Bool)),
    ("hyper_connection.count", one(U32)),
    ("hyper_connection.epsilon", one(F32)),
    ("hyper_connection.low_rank", one(U32)),
    ("hyper_connection.magnitude", one(F32)),
    ("hyper_connection.sinkhorn_iterations", one(U32)),
    ("interleave_moe_layer_step", one(U32)),
    ("kda.gate_lower_bound", one(F32)),
    ("kda.head_dim", one(U32)),
    ("kda.safe_gate", one(Bool)),
    ("leading_dense_block_count", one(U32)),
    ("logit_scale", one(F32)),
    ("moe_every_n_layers", one(U32)),
    ("moe_latent_size", one(U32)),
    ("n_deepstack_layers", one(U32)),
    ("nextn_predict_layers", one(U32)),
    ("norm_before_fc", one(Bool)),
    ("norm_before_residual", one(Bool)),
    ("num_loops", one(U32)),
    ("ple.conv_kernel", one(U32)),
    ("ple.eos_token_id", one(U32)),
    ("ple.head_offsets", list(&[U64, I64])),
    ("ple.head_vocab_sizes", list(&[U64, I64])),
    ("ple.heads_per_ngram", one(U32)),
    ("ple.image_token_id", one(U32)),
    ("ple.layer_multipliers", list(&[U64, I64])),
    ("ple.layers", list(&[U32, I32])),
    ("ple.ngram_size", one(U32)),
    ("pooling_type", one(U32)),
    ("posnet.block_count", one(U32)),
    ("posnet.embedding_length", one(U32)),
    ("rescale_every_n_layers", one(U32)),
    ("residual_scale", one(F32)),
    ("rope.dimension_count", one(U32)),
    ("rope.dimension_count_swa", one(U32)),
    ("rope.dimension_sections", list(&[I32, U32])),
    ("rope.freq_base", one(F32)),
    ("rope.freq_base_swa", one(F32)),
    ("rope.scale_linear", one(F32)),
    ("rope.scaling.alpha", one(F32)),
    ("rope.scaling.attn_factor", one(F32)),
    ("rope.scaling.factor", one(F32)),
    ("rope.scaling.finetuned", one(Bool)),
    ("rope.scaling.original_context_length", one(U32)),
    ("rope.scaling.type", one(String)),
    ("rope.scaling.yarn_attn_factor", one(F32)),
    ("rope.scaling.yarn_beta_fast", one(F32)),
    ("rope.scaling.yarn_beta_slow", one(F32)),
    ("rope.scaling.yarn_ext_factor", one(F32)),
    ("rope.scaling.yarn_log_multiplier", one(F32)),
    ("router_logit_softcapping", one(F32)),
    ("sample_from_anchor", one(Bool)),
    ("selector_rank", one(U32)),
    ("selector_top_k", one(U32)),
    ("shortconv.l_cache", one(U32)),
    ("skip_loop_final_norm", one(Bool)),
    ("ssm.conv_kernel", one(U32)),
    ("ssm.dt_b_c_rms", one(Bool)),
    ("ssm.group_count", one(U32)),
    ("ssm.inner_size", one(U32)),
    ("ssm.state_size", one(U32)),
    ("ssm.time_step_rank", one(U32)),
    ("swiglu_clamp_exp", layers(F32, &[F32])),
    ("swiglu_clamp_shexp", layers(F32, &[F32])),
    ("swin_norm", one(Bool)),
    ("target_hidden_size", one(U32)),
    ("target_layers", list(&[I32, U32])),
    ("tensor_data_layout", one(String)),
    ("time_decay_extra_dim", one(U32)),
    ("time_mix_extra_dim", one(U32)),
    ("token_shift_count", one(U32)),
    ("use_parallel_residual", one(Bool)),
    ("vocab_size", one(U32)),
    ("wkv.head_size", one(U32)),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Array;

    #[test]
    fn rows_are_sorted_unique_and_say_something() {
        for table in [WHOLE, OWN] {
            assert!(table.is_sorted_by(|a, b| a.0 < b.0));
            assert!(table.iter().all(|(_, kind)| kind.one.is_some() || !kind.each.is_empty()));
        }
        let families = WHOLE.iter().filter_map(|(key, _)| key.split('.').next());
        assert!(families.filter(|f| !["diffusion", "xielu"].contains(f)).all(|f| FAMILIES.contains(&f)));
    }

    #[test]
    fn keys_are_found_by_name_by_number_and_by_architecture() {
        assert_eq!(kind("general.base_model.12.name"), Some(one(String)));
        assert_eq!(kind("general.base_model.1.2.name"), None);
        assert_eq!(kind("tokenizer.chat_template.tool_use"), Some(one(String)));
        assert_eq!(
            kind("any-arch.attention.head_count_kv").map(|k| k.to_string()).as_deref(),
            Some("u32 or an array of u32 or i32")
        );
        assert_eq!(kind("general.block_count"), None);
        assert_eq!(kind("split.no"), Some(one(U16)));
        let kv = kind("llama.attention.head_count_kv").unwrap();
        assert!(kv.fits(&Value::U32(1)) && kv.fits(&Value::from(Array::from(&[1_i32][..]))));
        assert!(!kv.fits(&Value::I32(1)) && !kv.fits(&Value::from(Array::from(&[1_f32][..]))));
    }
}
