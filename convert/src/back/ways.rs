//! The classes of folders: what the configuration of each holds, and what a file does not say in the spelling of its keys.
//!
//! A class that has no row here has no way back. Names of fields are those that the class itself reads, so nothing is
//! written that it would pass over.

use serde_json::{Map, Value as Json};

use super::config::{Keys, float};

/// A class that a file can become a folder of.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    /// The class that `config.json` names.
    pub(crate) class: &'static str,
    /// Its `model_type`.
    pub(crate) model_type: &'static str,
    /// The fields of its configuration that describe the model, beside token ids and the parameters of rotation.
    fields: &'static str,
    /// Fields whose values follow from the keys by a rule of the class, set before the others are sought.
    pub(crate) derive: fn(&Keys<'_>, &mut Map<String, Json>),
    /// Parts of names that tensors of its folders do not have, where the tables know several for one.
    avoid: &'static [&'static str],
    /// Whether its folders leave out what the names of the model with a head begin with.
    pub(crate) bare: bool,
    /// Whether its code is part of the transformers library. Otherwise it stands in files that the original folder has.
    pub(crate) in_library: bool,
    /// Why no folder is made.
    pub(crate) refused: Option<&'static str>,
}

const fn way(class: &'static str, model_type: &'static str, fields: &'static str) -> Way {
    Way { class, model_type, fields, derive: |_, _| {}, avoid: &[], bare: false, in_library: true, refused: None }
}

impl Way {
    const fn derive(mut self, derive: fn(&Keys<'_>, &mut Map<String, Json>)) -> Way {
        self.derive = derive;
        self
    }

    const fn bare(mut self) -> Way {
        self.bare = true;
        self
    }

    const fn avoiding(mut self, parts: &'static [&'static str]) -> Way {
        self.avoid = parts;
        self
    }

    /// Its code stands in files of the original folder.
    const fn remote(mut self) -> Way {
        self.in_library = false;
        self
    }

    const fn refused(mut self, why: &'static str) -> Way {
        self.refused = Some(why);
        self
    }

    /// The fields of the configuration.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &'static str> {
        self.fields.split_whitespace()
    }

    /// Whether a tensor of a folder can have this name.
    pub(crate) fn stores(&self, name: &str) -> bool {
        !self.avoid.iter().any(|part| name.contains(part))
    }

    /// Whether the configuration has such a field.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.fields().any(|own| own == field)
    }
}

/// What queries of Gemma are divided by: the dimensions of a head, in the largest models the width by the heads.
fn query_scalar(keys: &Keys<'_>, largest: u64) -> Option<u64> {
    if keys.u64("block_count") == Some(largest) {
        return keys.u64("embedding_length")?.checked_div(keys.u64("attention.head_count")?);
    }
    keys.head()
}

/// Files say no window that their reader would not apply.
fn no_window(_: &Keys<'_>, root: &mut Map<String, Json>) {
    root.insert("sliding_window".into(), Json::Null);
}

fn gemma2(keys: &Keys<'_>, root: &mut Map<String, Json>) {
    root.insert("query_pre_attn_scalar".into(), query_scalar(keys, 46).into());
}

fn gemma3(keys: &Keys<'_>, root: &mut Map<String, Json>) {
    root.insert("query_pre_attn_scalar".into(), query_scalar(keys, 62).into());
    root.insert("use_bidirectional_attention".into(), (keys.arch() == "gemma-embedding").into());
}

/// Phi's file says another width of the feed-forward than it has.
fn feed_width(keys: &Keys<'_>, root: &mut Map<String, Json>) {
    if let Some(shape) = keys.shape("blk.0.ffn_up.weight") {
        root.insert("intermediate_size".into(), shape[0].into());
    }
}

/// Mamba's files have no feed-forward.
fn inner_width(keys: &Keys<'_>, root: &mut Map<String, Json>) {
    root.insert("intermediate_size".into(), keys.u64("ssm.inner_size").into());
}

/// The parts of a head of latent attention, of which the keys say sums.
fn latent(keys: &Keys<'_>, root: &mut Map<String, Json>) {
    let rope = keys.u64("rope.dimension_count");
    let whole = keys.u64("attention.key_length_mla").or(keys.u64("attention.key_length"));
    let plain = whole.zip(rope).and_then(|(whole, rope)| whole.checked_sub(rope));
    let value = keys.u64("attention.value_length_mla").or(keys.u64("attention.value_length"));
    for (field, value) in [("qk_rope_head_dim", rope), ("qk_nope_head_dim", plain), ("v_head_dim", value)] {
        root.insert(field.into(), value.into());
    }
    if root.contains_key("head_dim") {
        root.insert("head_dim".into(), rope.into());
    }
    in_rope(root, "mscale_all_dim", keys.f32("rope.scaling.yarn_log_multiplier").map(|by| by * 10.0));
    // What the keys call heads is the one that all share.
    root.insert("num_key_value_heads".into(), keys.u64("attention.head_count").into());
}

/// Sets a number of the scaling of rotation.
fn in_rope(root: &mut Map<String, Json>, field: &str, value: Option<f32>) {
    if let (Some(value), Some(scaling)) = (value, root.get_mut("rope_scaling").and_then(Json::as_object_mut)) {
        scaling.insert(field.to_owned(), float(value));
    }
}

fn ministral(keys: &Keys<'_>, root: &mut Map<String, Json>) {
    no_window(keys, root);
    let by = keys.f32("rope.scaling.yarn_log_multiplier");
    in_rope(root, "mscale_all_dim", by);
    // The class divides by the scale of another part, which published models have equal.
    in_rope(root, "mscale", by);
    in_rope(root, "llama_4_scaling_beta", keys.f32("attention.temperature_scale"));
}

/// The embedding is always scaled.
fn afmoe(_: &Keys<'_>, root: &mut Map<String, Json>) {
    root.insert("mup_enabled".into(), true.into());
}

fn gpt_oss(_: &Keys<'_>, root: &mut Map<String, Json>) {
    // All published models leave it so, and so does the reader of files.
    if let Some(scaling) = root.get_mut("rope_scaling").and_then(Json::as_object_mut) {
        scaling.insert("truncate".into(), false.into());
    }
}

/// Which of two forms the feed-forward has.
fn t5(keys: &Keys<'_>, root: &mut Map<String, Json>) {
    let gated = keys.has_tensor("ffn_gate.weight");
    root.insert("feed_forward_proj".into(), if gated { "gated-gelu" } else { "relu" }.into());
}

/// The way to a class.
pub(crate) fn find(class: &str) -> Option<&'static Way> {
    WAYS.iter().find(|way| way.class == class)
}

/// The classes, those first that are taken where a file's architecture is that of several.
pub(crate) const WAYS: &[Way] = &[
    way(
        "LlamaForCausalLM",
        "llama",
        "attention_bias head_dim hidden_act hidden_size intermediate_size max_position_embeddings mlp_bias \
         num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps vocab_size",
    ),
    way(
        "LlamaModel",
        "llama",
        "attention_bias head_dim hidden_act hidden_size intermediate_size max_position_embeddings mlp_bias \
         num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps vocab_size",
    )
    .bare(),
    way(
        "Qwen2ForCausalLM",
        "qwen2",
        "hidden_act hidden_size intermediate_size layer_types max_position_embeddings max_window_layers \
         num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps sliding_window \
         use_sliding_window vocab_size",
    ),
    way(
        "Qwen3ForCausalLM",
        "qwen3",
        "attention_bias head_dim hidden_act hidden_size intermediate_size layer_types max_position_embeddings \
         max_window_layers num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps \
         sliding_window use_sliding_window vocab_size",
    ),
    way(
        "BertModel",
        "bert",
        "hidden_act hidden_size intermediate_size layer_norm_eps max_position_embeddings num_attention_heads \
         num_hidden_layers type_vocab_size vocab_size",
    ),
    way(
        "DeepseekV3ForCausalLM",
        "deepseek_v3",
        "attention_bias first_k_dense_replace head_dim hidden_act hidden_size intermediate_size kv_lora_rank \
         max_position_embeddings moe_intermediate_size n_group n_routed_experts n_shared_experts \
         norm_topk_prob num_attention_heads num_experts_per_tok num_hidden_layers num_key_value_heads \
         num_nextn_predict_layers q_lora_rank qk_head_dim qk_nope_head_dim qk_rope_head_dim rms_norm_eps \
         rope_interleave routed_scaling_factor topk_group v_head_dim vocab_size",
    )
    .derive(latent),
    way(
        "DeepseekV2ForCausalLM",
        "deepseek_v2",
        "attention_bias first_k_dense_replace head_dim hidden_act hidden_size intermediate_size kv_lora_rank \
         max_position_embeddings mlp_bias moe_intermediate_size n_group n_routed_experts n_shared_experts \
         norm_topk_prob num_attention_heads num_experts_per_tok num_hidden_layers num_key_value_heads \
         q_lora_rank qk_head_dim qk_nope_head_dim qk_rope_head_dim rms_norm_eps routed_scaling_factor \
         topk_group topk_method v_head_dim vocab_size",
    )
    .derive(latent),
    way(
        "Olmo2ForCausalLM",
        "olmo2",
        "attention_bias hidden_act hidden_size intermediate_size max_position_embeddings num_attention_heads \
         num_hidden_layers num_key_value_heads rms_norm_eps vocab_size",
    ),
    way(
        "T5ForConditionalGeneration",
        "t5",
        "d_ff d_kv d_model decoder_start_token_id dense_act_fn feed_forward_proj initializer_factor \
         is_gated_act layer_norm_epsilon num_decoder_layers num_heads num_layers \
         relative_attention_max_distance relative_attention_num_buckets scale_decoder_outputs vocab_size",
    )
    .derive(t5)
    .avoiding(&["encoder.embed_tokens", "decoder.embed_tokens"]),
    way(
        "AfmoeForCausalLM",
        "afmoe",
        "attention_bias global_attn_every_n_layers head_dim hidden_act hidden_size intermediate_size \
         layer_types max_position_embeddings moe_intermediate_size mup_enabled num_attention_heads \
         num_dense_layers num_experts num_experts_per_tok num_hidden_layers num_key_value_heads \
         num_shared_experts rms_norm_eps route_norm route_scale sliding_window vocab_size",
    )
    .derive(afmoe),
    way(
        "BailingMoeForCausalLM",
        "bailing_moe",
        "first_k_dense_replace head_dim hidden_size intermediate_size max_position_embeddings \
         moe_intermediate_size norm_head norm_topk_prob num_attention_heads num_experts num_experts_per_tok \
         num_hidden_layers num_key_value_heads num_shared_experts rms_norm_eps vocab_size",
    )
    .remote(),
    way(
        "BailingMoeV2ForCausalLM",
        "bailing_moe",
        "first_k_dense_replace head_dim hidden_size intermediate_size max_position_embeddings \
         moe_intermediate_size moe_shared_expert_intermediate_size n_group norm_topk_prob num_attention_heads \
         num_experts num_experts_per_tok num_hidden_layers num_key_value_heads num_nextn_predict_layers \
         num_shared_experts partial_rotary_factor rms_norm_eps routed_scaling_factor score_function \
         topk_group vocab_size",
    )
    .remote(),
    way(
        "ChatGLMModel",
        "chatglm",
        "add_qkv_bias ffn_hidden_size hidden_size kv_channels layernorm_epsilon multi_query_attention \
         multi_query_group_num num_attention_heads num_hidden_layers num_layers padded_vocab_size rope_ratio \
         seq_length vocab_size",
    )
    .remote(),
    way("GlmForCausalLM", "glm", "").refused("its files say another epsilon and other lengths than the model has"),
    way(
        "CohereForCausalLM",
        "cohere",
        "attention_bias hidden_act hidden_size intermediate_size layer_norm_eps logit_scale \
         max_position_embeddings num_attention_heads num_hidden_layers num_key_value_heads use_qk_norm \
         vocab_size",
    ),
    way(
        "Cohere2ForCausalLM",
        "cohere2",
        "attention_bias head_dim hidden_act hidden_size intermediate_size layer_norm_eps layer_types \
         logit_scale max_position_embeddings num_attention_heads num_hidden_layers num_key_value_heads \
         sliding_window vocab_size",
    ),
    way(
        "DeepseekForCausalLM",
        "deepseek",
        "first_k_dense_replace hidden_size intermediate_size max_position_embeddings moe_intermediate_size \
         n_routed_experts n_shared_experts norm_topk_prob num_attention_heads num_experts_per_tok \
         num_hidden_layers num_key_value_heads rms_norm_eps scoring_func vocab_size",
    )
    .remote(),
    way(
        "YoutuForCausalLM",
        "youtu",
        "attention_bias embedding_initializer_range head_dim hidden_act hidden_size intermediate_size \
         kv_lora_rank max_position_embeddings num_attention_heads num_hidden_layers num_key_value_heads \
         q_lora_rank qk_head_dim qk_nope_head_dim qk_rope_head_dim rms_norm_eps rope_interleave v_head_dim \
         vocab_size",
    )
    .derive(latent),
    way(
        "Dots1ForCausalLM",
        "dots1",
        "attention_bias first_k_dense_replace head_dim hidden_act hidden_size intermediate_size layer_types \
         max_position_embeddings max_window_layers moe_intermediate_size n_group n_routed_experts \
         n_shared_experts norm_topk_prob num_attention_heads num_experts_per_tok num_hidden_layers \
         num_key_value_heads rms_norm_eps routed_scaling_factor scoring_func sliding_window topk_group \
         vocab_size",
    ),
    way(
        "MistralForCausalLM",
        "mistral",
        "head_dim hidden_act hidden_size intermediate_size max_position_embeddings num_attention_heads \
         num_hidden_layers num_key_value_heads rms_norm_eps sliding_window vocab_size",
    )
    .derive(no_window),
    way(
        "DreamModel",
        "Dream",
        "hidden_size intermediate_size mask_token_id max_position_embeddings num_attention_heads \
         num_hidden_layers num_key_value_heads rms_norm_eps vocab_size",
    )
    .remote(),
    way(
        "Ernie4_5ForCausalLM",
        "ernie4_5",
        "head_dim hidden_act hidden_size intermediate_size max_position_embeddings num_attention_heads \
         num_hidden_layers num_key_value_heads rms_norm_eps use_bias vocab_size",
    ),
    way(
        "Ernie4_5_MoeForCausalLM",
        "ernie4_5_moe",
        "hidden_act hidden_size intermediate_size max_position_embeddings moe_intermediate_size moe_k \
         moe_layer_end_index moe_layer_interval moe_layer_start_index moe_norm_min moe_num_experts \
         moe_num_shared_experts num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps \
         use_bias vocab_size",
    ),
    way(
        "Exaone4ForCausalLM",
        "exaone4",
        "hidden_act hidden_size intermediate_size layer_types max_position_embeddings num_attention_heads \
         num_hidden_layers num_key_value_heads rms_norm_eps sliding_window sliding_window_pattern vocab_size",
    ),
    way(
        "GemmaForCausalLM",
        "gemma",
        "attention_bias head_dim hidden_act hidden_size intermediate_size max_position_embeddings \
         num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps use_bidirectional_attention \
         vocab_size",
    ),
    way(
        "Gemma2ForCausalLM",
        "gemma2",
        "attention_bias attn_logit_softcapping final_logit_softcapping head_dim hidden_activation hidden_size \
         intermediate_size layer_types max_position_embeddings num_attention_heads num_hidden_layers \
         num_key_value_heads query_pre_attn_scalar rms_norm_eps sliding_window use_bidirectional_attention \
         vocab_size",
    )
    .derive(gemma2),
    way(
        "Gemma3ForCausalLM",
        "gemma3_text",
        "attention_bias attn_logit_softcapping final_logit_softcapping head_dim hidden_activation hidden_size \
         intermediate_size layer_types max_position_embeddings num_attention_heads num_hidden_layers \
         num_key_value_heads query_pre_attn_scalar rms_norm_eps sliding_window use_bidirectional_attention \
         vocab_size",
    )
    .derive(gemma3),
    way(
        "Gemma3TextModel",
        "gemma3_text",
        "attention_bias attn_logit_softcapping final_logit_softcapping head_dim hidden_activation hidden_size \
         intermediate_size layer_types max_position_embeddings num_attention_heads num_hidden_layers \
         num_key_value_heads query_pre_attn_scalar rms_norm_eps sliding_window use_bidirectional_attention \
         vocab_size",
    )
    .bare()
    .derive(gemma3),
    way(
        "Glm4ForCausalLM",
        "glm4",
        "attention_bias head_dim hidden_act hidden_size intermediate_size max_position_embeddings \
         num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps vocab_size",
    ),
    way(
        "Glm4MoeLiteForCausalLM",
        "glm4_moe_lite",
        "attention_bias first_k_dense_replace hidden_act hidden_size intermediate_size kv_lora_rank \
         max_position_embeddings mlp_layer_types moe_intermediate_size n_group n_routed_experts \
         n_shared_experts norm_topk_prob num_attention_heads num_experts_per_tok num_hidden_layers \
         num_key_value_heads num_nextn_predict_layers q_lora_rank qk_head_dim qk_nope_head_dim \
         qk_rope_head_dim rms_norm_eps rope_interleave routed_scaling_factor scoring_func topk_group \
         v_head_dim vocab_size",
    )
    .derive(latent),
    way(
        "GPT2LMHeadModel",
        "gpt2",
        "activation_function layer_norm_epsilon n_embd n_head n_inner n_layer n_positions scale_attn_weights \
         vocab_size",
    ),
    way(
        "RuGPT3XLForCausalLM",
        "rugpt3xl",
        "hidden_size intermediate_size layer_norm_eps max_position_embeddings num_attention_heads \
         num_hidden_layers vocab_size",
    )
    .remote(),
    way(
        "GPTNeoXForCausalLM",
        "gpt_neox",
        "attention_bias hidden_act hidden_size intermediate_size layer_norm_eps max_position_embeddings \
         num_attention_heads num_hidden_layers use_parallel_residual vocab_size",
    ),
    way(
        "BloomForCausalLM",
        "bloom",
        "apply_residual_connection_post_layernorm hidden_size layer_norm_epsilon n_head n_layer \
         slow_but_exact vocab_size",
    ),
    way(
        "FalconForCausalLM",
        "falcon",
        "activation alibi bias ffn_hidden_size hidden_size layer_norm_epsilon max_position_embeddings \
         multi_query new_decoder_architecture num_attention_heads num_hidden_layers num_kv_heads \
         num_ln_in_parallel_attn parallel_attn vocab_size",
    ),
    way(
        "MPTForCausalLM",
        "mpt",
        "attn_config d_model embedding_fraction expansion_ratio init_device layer_norm_epsilon \
         learned_pos_emb logit_scale max_seq_len n_heads n_layers no_bias norm_type vocab_size",
    )
    .remote(),
    way(
        "Starcoder2ForCausalLM",
        "starcoder2",
        "hidden_act hidden_size intermediate_size max_position_embeddings norm_epsilon num_attention_heads \
         num_hidden_layers num_key_value_heads sliding_window use_bias vocab_size",
    )
    .derive(no_window),
    way(
        "StableLmForCausalLM",
        "stablelm",
        "hidden_act hidden_size intermediate_size layer_norm_eps max_position_embeddings num_attention_heads \
         num_hidden_layers num_key_value_heads qk_layernorm use_parallel_residual use_qkv_bias vocab_size",
    ),
    way(
        "GptOssForCausalLM",
        "gpt_oss",
        "attention_bias head_dim hidden_act hidden_size intermediate_size layer_types max_position_embeddings \
         num_attention_heads num_experts_per_tok num_hidden_layers num_key_value_heads num_local_experts \
         rms_norm_eps sliding_window swiglu_alpha swiglu_limit vocab_size",
    )
    .derive(gpt_oss)
    .avoiding(&["_blocks"]),
    way(
        "GraniteForCausalLM",
        "granite",
        "attention_bias attention_multiplier embedding_multiplier hidden_act hidden_size intermediate_size \
         logits_scaling max_position_embeddings mlp_bias num_attention_heads num_hidden_layers \
         num_key_value_heads residual_multiplier rms_norm_eps vocab_size",
    ),
    way(
        "GraniteMoeForCausalLM",
        "granitemoe",
        "attention_bias attention_multiplier embedding_multiplier hidden_act hidden_size intermediate_size \
         logits_scaling max_position_embeddings num_attention_heads num_experts_per_tok num_hidden_layers \
         num_key_value_heads num_local_experts residual_multiplier rms_norm_eps vocab_size",
    ),
    way(
        "GraniteMoeSharedForCausalLM",
        "granitemoeshared",
        "attention_bias attention_multiplier embedding_multiplier hidden_act hidden_size intermediate_size \
         logits_scaling max_position_embeddings num_attention_heads num_experts_per_tok num_hidden_layers \
         num_key_value_heads num_local_experts residual_multiplier rms_norm_eps shared_intermediate_size \
         vocab_size",
    ),
    way(
        "GraniteSWAForCausalLM",
        "granite_swa",
        "attention_bias attention_multiplier embedding_multiplier hidden_act hidden_size intermediate_size \
         layer_rope_theta layer_types logits_scaling max_position_embeddings mlp_bias num_attention_heads \
         num_hidden_layers num_key_value_heads residual_multiplier rms_norm_eps sliding_window vocab_size",
    ),
    way(
        "GraniteMoeSWAForCausalLM",
        "granitemoe_swa",
        "attention_bias attention_multiplier embedding_multiplier hidden_act hidden_size intermediate_size \
         layer_rope_theta layer_types logits_scaling max_position_embeddings num_attention_heads \
         num_experts_per_tok num_hidden_layers num_key_value_heads num_local_experts residual_multiplier \
         rms_norm_eps shared_intermediate_size sliding_window vocab_size",
    ),
    way(
        "GroveMoeForCausalLM",
        "grove_moe",
        "head_dim hidden_size intermediate_size max_position_embeddings moe_intermediate_size \
         num_attention_heads num_experts num_experts_per_tok num_hidden_layers num_key_value_heads \
         rms_norm_eps vocab_size",
    )
    .remote(),
    way(
        "HYV4ForCausalLM",
        "hy_v4",
        "attention_bias hc_eps hc_magnitude hc_mult head_dim hidden_act hidden_size index_head_dim \
         index_n_heads index_topk indexer_types intermediate_size kv_lora_rank layer_types \
         learnable_sink_init max_position_embeddings mlp_layer_types moe_intermediate_size n_group \
         n_routed_experts n_shared_experts norm_topk_prob num_attention_heads num_experts_per_tok \
         num_hidden_layers num_key_value_heads q_lora_rank qk_head_dim qk_nope_head_dim qk_rope_head_dim \
         rms_norm_eps routed_scaling_factor swiglu_limit topk_group v_head_dim vocab_size",
    )
    .derive(latent),
    way(
        "InternLM3ForCausalLM",
        "internlm3",
        "bias head_dim hidden_size intermediate_size max_position_embeddings num_attention_heads \
         num_hidden_layers num_key_value_heads qkv_bias rms_norm_eps vocab_size",
    )
    .remote(),
    way(
        "Jais2ForCausalLM",
        "jais2",
        "attention_bias head_dim hidden_act hidden_size intermediate_size layer_norm_eps \
         max_position_embeddings mlp_bias num_attention_heads num_hidden_layers num_key_value_heads \
         vocab_size",
    ),
    way(
        "LLaDAModelLM",
        "llada",
        "d_model hidden_size mask_token_id max_sequence_length mlp_hidden_size n_heads n_kv_heads n_layers \
         rms_norm_eps vocab_size",
    )
    .remote(),
    way(
        "ArceeForCausalLM",
        "arcee",
        "attention_bias head_dim hidden_act hidden_size intermediate_size max_position_embeddings mlp_bias \
         num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps vocab_size",
    ),
    way(
        "Llama4ForCausalLM",
        "llama4_text",
        "attention_bias attention_chunk_size attn_scale attn_temperature_tuning floor_scale head_dim \
         hidden_act hidden_size interleave_moe_layer_step intermediate_size intermediate_size_mlp layer_types \
         max_position_embeddings moe_layers no_rope_layer_interval no_rope_layers num_attention_heads \
         num_experts_per_tok num_hidden_layers num_key_value_heads num_local_experts rms_norm_eps use_qk_norm \
         vocab_size",
    ),
    way(
        "NanbeigeForCausalLM",
        "nanbeige",
        "head_dim hidden_size intermediate_size max_position_embeddings num_attention_heads num_hidden_layers \
         num_key_value_heads num_loops rms_norm_eps skip_loop_final_norm vocab_size",
    )
    .remote(),
    way(
        "MixtralForCausalLM",
        "mixtral",
        "head_dim hidden_act hidden_size intermediate_size max_position_embeddings num_attention_heads \
         num_experts_per_tok num_hidden_layers num_key_value_heads num_local_experts rms_norm_eps \
         sliding_window vocab_size",
    )
    .derive(no_window),
    way(
        "SmolLM3ForCausalLM",
        "smollm3",
        "attention_bias hidden_act hidden_size intermediate_size layer_types max_position_embeddings mlp_bias \
         no_rope_layer_interval no_rope_layers num_attention_heads num_hidden_layers num_key_value_heads \
         rms_norm_eps sliding_window use_sliding_window vocab_size",
    ),
    way(
        "MaincoderForCausalLM",
        "maincoder",
        "head_dim hidden_size intermediate_size max_position_embeddings num_attention_heads num_hidden_layers \
         num_key_value_heads rms_norm_eps vocab_size",
    )
    .remote(),
    way(
        "MambaForCausalLM",
        "mamba",
        "conv_kernel expand hidden_act hidden_size intermediate_size layer_norm_epsilon num_hidden_layers \
         rescale_prenorm_residual residual_in_fp32 state_size time_step_floor time_step_init_scheme \
         time_step_max time_step_min time_step_rank time_step_scale use_associative_scan use_bias \
         use_conv_bias use_mambapy vocab_size",
    )
    .derive(inner_width),
    way(
        "MiniMaxM2ForCausalLM",
        "minimax_m2",
        "head_dim hidden_act hidden_size intermediate_size max_position_embeddings num_attention_heads \
         num_experts_per_tok num_hidden_layers num_key_value_heads num_local_experts rms_norm_eps rotary_dim \
         scoring_func vocab_size",
    ),
    way(
        "Ministral3ForCausalLM",
        "ministral3",
        "head_dim hidden_act hidden_size intermediate_size max_position_embeddings num_attention_heads \
         num_hidden_layers num_key_value_heads rms_norm_eps sliding_window vocab_size",
    )
    .derive(ministral),
    way(
        "NemotronForCausalLM",
        "nemotron",
        "attention_bias head_dim hidden_act hidden_size intermediate_size max_position_embeddings mlp_bias \
         norm_eps num_attention_heads num_hidden_layers num_key_value_heads vocab_size",
    ),
    way(
        "OlmoForCausalLM",
        "olmo",
        "attention_bias clip_qkv hidden_act hidden_size intermediate_size max_position_embeddings \
         num_attention_heads num_hidden_layers num_key_value_heads vocab_size",
    ),
    way(
        "Olmo3ForCausalLM",
        "olmo3",
        "attention_bias hidden_act hidden_size intermediate_size layer_types max_position_embeddings \
         num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps sliding_window vocab_size",
    ),
    way(
        "OlmoeForCausalLM",
        "olmoe",
        "attention_bias clip_qkv hidden_act hidden_size intermediate_size max_position_embeddings \
         norm_topk_prob num_attention_heads num_experts num_experts_per_tok num_hidden_layers \
         num_key_value_heads rms_norm_eps vocab_size",
    ),
    way(
        "PanguEmbeddedForCausalLM",
        "PanguEmbedded",
        "bias hidden_size intermediate_size max_position_embeddings num_attention_heads num_hidden_layers \
         num_key_value_heads rms_norm_eps vocab_size",
    )
    .remote(),
    way(
        "PhiForCausalLM",
        "phi",
        "hidden_act hidden_size intermediate_size layer_norm_eps max_position_embeddings num_attention_heads \
         num_hidden_layers num_key_value_heads qk_layernorm vocab_size",
    )
    .derive(feed_width),
    way(
        "Phi3ForCausalLM",
        "phi3",
        "hidden_act hidden_size intermediate_size max_position_embeddings num_attention_heads \
         num_hidden_layers num_key_value_heads original_max_position_embeddings rms_norm_eps sliding_window \
         vocab_size",
    ),
    way(
        "PhiMoEForCausalLM",
        "phimoe",
        "attention_bias hidden_act hidden_size input_jitter_noise intermediate_size lm_head_bias \
         max_position_embeddings num_attention_heads num_experts_per_tok num_hidden_layers \
         num_key_value_heads num_local_experts original_max_position_embeddings rms_norm_eps sliding_window \
         vocab_size",
    )
    .remote(),
    way(
        "Qwen2MoeForCausalLM",
        "qwen2_moe",
        "decoder_sparse_step hidden_act hidden_size intermediate_size layer_types max_position_embeddings \
         max_window_layers mlp_only_layers moe_intermediate_size norm_topk_prob num_attention_heads \
         num_experts num_experts_per_tok num_hidden_layers num_key_value_heads qkv_bias rms_norm_eps \
         shared_expert_intermediate_size sliding_window use_sliding_window vocab_size",
    ),
    way(
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        "attention_bias decoder_sparse_step head_dim hidden_act hidden_size intermediate_size \
         max_position_embeddings mlp_only_layers moe_intermediate_size norm_topk_prob num_attention_heads \
         num_experts_per_tok num_hidden_layers num_key_value_heads num_local_experts rms_norm_eps \
         sliding_window use_sliding_window vocab_size",
    ),
    way(
        "RND1",
        "rnd1",
        "head_dim hidden_size intermediate_size mask_token_id max_position_embeddings moe_intermediate_size \
         norm_topk_prob num_attention_heads num_experts num_experts_per_tok num_hidden_layers \
         num_key_value_heads rms_norm_eps vocab_size",
    )
    .remote(),
    way("GPTRefactForCausalLM", "gpt_refact", "layer_norm_epsilon n_embd n_head n_layer n_positions vocab_size")
        .remote(),
];
