//! The classes of folders: what the configuration of each holds, and what a file does not say in the spelling of its keys.
//!
//! A class that has no row here has no way back but with a projector file. Names of fields are those that the class itself
//! reads, so nothing is written that it would pass over.

use std::sync::LazyLock;

use serde_json::{Map, Value as Json};

use super::derive::*;
use super::keys::{Keys, Numbers};
use crate::config::Config;

/// A class that a file can become a folder of.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    /// The class that `config.json` names.
    pub(crate) class: &'static str,
    /// Its `model_type`.
    pub(crate) model_type: &'static str,
    /// The architecture of its files, where those of another come back in another way.
    of: Option<&'static str>,
    /// The fields of its configuration that describe the model, beside token ids and the parameters of rotation.
    fields: &'static str,
    /// Fields whose values follow from the keys by a rule of the class, set before the others are sought.
    pub(crate) derive: fn(&Keys<'_>, &mut Map<String, Json>),
    /// Parts of names that tensors of its folders do not have, where the tables know several for one.
    avoid: &'static [&'static str],
    /// Such parts where a file has no gates in its feed-forwards, and where it has.
    avoid_by_gate: [&'static [&'static str]; 2],
    /// Whether its folders leave out what the names of the model with a head begin with.
    pub(crate) bare: bool,
    /// Whether its code is part of the transformers library. Otherwise it stands in files that the original folder has.
    pub(crate) in_library: bool,
    /// What the names of all tensors but those of a head begin with.
    pub(crate) under: Option<&'static str>,
    /// The name of a tensor in the folder, by that of the tables, where the row makes many names to one.
    pub(crate) rename: fn(&Config, &str) -> Option<String>,
    /// Whether vectors of the folder have ones before their length.
    pub(crate) wide: bool,
    /// Ends of the names of vectors that have a row a head in the folder.
    pub(crate) per_head: &'static [&'static str],
    /// Whether matrices of the folder have no ones between their lengths.
    pub(crate) plain: bool,
    /// What the row has in its configuration of tensors that a file has as keys or does not tell, and those tensors that are
    /// keys.
    pub(crate) numbers: fn(&Keys<'_>) -> Numbers,
    /// Whether a file can be one of this class, where files of the architecture are of several.
    pub(crate) fits: fn(&Keys<'_>) -> bool,
    /// Whether its folders have towers: they are made with a projector file alone.
    pub(crate) towers: bool,
    /// Why no folder is made.
    pub(crate) refused: Option<&'static str>,
}

const fn way(class: &'static str, model_type: &'static str, fields: &'static str) -> Way {
    Way {
        class,
        model_type,
        of: None,
        fields,
        derive: |_, _| {},
        avoid: &[],
        avoid_by_gate: [&[], &[]],
        bare: false,
        in_library: true,
        under: None,
        rename: |_, _| None,
        wide: false,
        plain: false,
        per_head: &[],
        numbers: |_| (Vec::new(), Vec::new()),
        fits: |_| true,
        towers: false,
        refused: None,
    }
}

impl Way {
    const fn derive(mut self, derive: fn(&Keys<'_>, &mut Map<String, Json>)) -> Way {
        self.derive = derive;
        self
    }

    /// For files of this architecture alone.
    const fn of(mut self, architecture: &'static str) -> Way {
        self.of = Some(architecture);
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

    const fn under(mut self, beginning: &'static str) -> Way {
        self.under = Some(beginning);
        self
    }

    const fn when(mut self, fits: fn(&Keys<'_>) -> bool) -> Way {
        self.fits = fits;
        self
    }

    const fn renamed(mut self, rename: fn(&Config, &str) -> Option<String>) -> Way {
        self.rename = rename;
        self
    }

    const fn per_head(mut self, ends: &'static [&'static str]) -> Way {
        self.per_head = ends;
        self
    }

    const fn plain(mut self) -> Way {
        self.plain = true;
        self
    }

    const fn numbers(mut self, numbers: fn(&Keys<'_>) -> Numbers) -> Way {
        self.numbers = numbers;
        self
    }

    const fn wide(mut self) -> Way {
        self.wide = true;
        self
    }

    /// As [`Way::avoiding`], without gates and with them.
    const fn by_gate(mut self, plain: &'static [&'static str], gated: &'static [&'static str]) -> Way {
        self.avoid_by_gate = [plain, gated];
        self
    }

    /// Its code stands in files of the original folder.
    const fn remote(mut self) -> Way {
        self.in_library = false;
        self
    }

    /// Its folders have towers.
    const fn towers(mut self) -> Way {
        self.towers = true;
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
    pub(crate) fn stores(&self, name: &str, gated: bool) -> bool {
        let avoid = self.avoid.iter().chain(self.avoid_by_gate[usize::from(gated)]);
        !avoid.into_iter().any(|part| name.contains(part))
    }

    /// Whether files of an architecture come back so.
    pub(crate) fn is_of(&self, architecture: &str) -> bool {
        self.of.is_none_or(|own| own == architecture)
    }

    /// Whether the configuration has such a field.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.fields().any(|own| own == field)
    }
}

/// The ways to a class.
pub(crate) fn find(class: &str) -> impl Iterator<Item = &'static Way> {
    WAYS.iter().filter(move |way| way.class == class)
}

const QWEN2_VL: &str = "hidden_act hidden_size intermediate_size max_position_embeddings num_attention_heads \
    num_hidden_layers num_key_value_heads rms_norm_eps vocab_size";

const GLM4V: &str = "attention_bias head_dim hidden_act hidden_size intermediate_size max_position_embeddings \
    num_attention_heads num_hidden_layers num_key_value_heads partial_rotary_factor rms_norm_eps vocab_size";

const GLM_OCR: &str = "attention_bias head_dim hidden_act hidden_size intermediate_size max_position_embeddings \
    num_attention_heads num_hidden_layers num_key_value_heads num_nextn_predict_layers partial_rotary_factor \
    rms_norm_eps vocab_size";

const GEMMA4: &str = "attention_bias attention_k_eq_v enable_moe_block final_logit_softcapping head_dim \
    hidden_activation hidden_size hidden_size_per_layer_input intermediate_size layer_types \
    max_position_embeddings moe_intermediate_size num_attention_heads num_experts num_hidden_layers \
    num_key_value_heads num_kv_shared_layers rms_norm_eps sliding_window top_k_experts use_double_wide_mlp \
    vocab_size vocab_size_per_layer_input";

const LING3: Way = way(
    "BailingMoeV3ForCausalLM",
    "bailing_hybrid",
    "expert_swiglu_limit_list first_k_dense_replace gated_attention_proj_granularity_type head_dim \
    hidden_act hidden_size intermediate_size kda_lower_bound kda_safe_gate kv_lora_rank layer_group_size \
    max_position_embeddings moe_intermediate_size moe_shared_expert_intermediate_size mrope_section n_group \
    no_kda_lora norm_topk_prob num_attention_heads num_experts num_experts_per_tok num_hidden_layers \
    num_key_value_heads num_nextn_predict_layers num_shared_experts q_lora_rank qk_nope_head_dim \
    qk_rope_head_dim rms_norm_eps routed_scaling_factor score_function share_expert_swiglu_limit_list \
    short_conv_kernel_size topk_group v_head_dim vocab_size",
)
.remote()
.derive(ling3)
.renamed(ling3_names);

const DOTS3: Way = way(
    "Dots3NoteTextForCausalLM",
    "dots3_note_text",
    "first_k_dense_replace hidden_act hidden_size index_head_dim index_n_heads index_topk \
    intermediate_size kv_lora_rank layer_types max_position_embeddings moe_intermediate_size n_group \
    n_routed_experts n_shared_experts norm_topk_prob num_attention_heads num_experts_per_tok num_hidden_layers \
    num_key_value_heads q_lora_rank qk_nope_head_dim qk_rope_head_dim rms_norm_eps routed_scaling_factor \
    scoring_func sliding_window_size topk_group topk_method v_head_dim vocab_size",
)
.derive(dots3)
.numbers(predicted_block)
.renamed(dots3_names);

const DEEPSEEK_OCR: Way = way(
    "DeepseekOCRForCausalLM",
    "deepseek_vl_v2",
    "first_k_dense_replace head_dim hidden_act hidden_size intermediate_size kv_lora_rank \
    max_position_embeddings moe_intermediate_size n_group n_routed_experts n_shared_experts norm_topk_prob \
    num_attention_heads num_experts_per_tok num_hidden_layers num_key_value_heads q_lora_rank qk_nope_head_dim \
    qk_rope_head_dim rms_norm_eps routed_scaling_factor scoring_func sliding_window topk_group use_mla v_head_dim \
    vocab_size",
)
.remote()
.derive(ocr)
.towers();

const QWEN4: Way = way(
    "Qwen4ExpForCausalLM",
    "qwen4_exp_text",
    "attention_bias hc_count hc_lowrank head_dim heads_per_ngram hidden_act hidden_size \
    image_token_id indexer_budget indexer_compress_ratio indexer_head_dim indexer_kv_heads indexer_n_heads \
    intermediate_size layer_types linear_conv_kernel_dim linear_key_head_dim linear_num_key_heads \
    linear_num_value_heads linear_value_head_dim max_position_embeddings moe_intermediate_size ngram_size \
    ngram_vocab_size_base norm_topk_prob num_attention_heads num_experts num_experts_per_tok num_hidden_layers \
    num_key_value_heads ple_conv_kernel_size ple_embed_dim ple_layer_ids rms_norm_eps \
    shared_expert_intermediate_size split_ngram_parts vocab_size",
)
.derive(qwen4)
.numbers(ngrams)
.renamed(qwen4_names)
.avoiding(&["in_proj_qkvz", "in_proj_ba"]);

/// The classes, those first that are taken where a file's architecture is that of several.
const OWN: &[Way] = &[
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
        "Qwen2Model",
        "qwen2",
        "hidden_act hidden_size intermediate_size layer_types max_position_embeddings max_window_layers \
         num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps sliding_window \
         use_sliding_window vocab_size",
    )
    .bare(),
    way(
        "Qwen3ForCausalLM",
        "qwen3",
        "attention_bias head_dim hidden_act hidden_size intermediate_size layer_types max_position_embeddings \
         max_window_layers num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps \
         sliding_window use_sliding_window vocab_size",
    ),
    way(
        "Qwen3Model",
        "qwen3",
        "attention_bias head_dim hidden_act hidden_size intermediate_size layer_types \
         max_position_embeddings max_window_layers num_attention_heads num_hidden_layers \
         num_key_value_heads rms_norm_eps sliding_window use_sliding_window vocab_size",
    ),
    way(
        "BertModel",
        "bert",
        "hidden_act hidden_size intermediate_size layer_norm_eps max_position_embeddings \
         num_attention_heads num_hidden_layers type_vocab_size vocab_size",
    )
    .when(|keys| keys.vocabulary() == "bert" && keys.has_tensor("token_types.weight"))
    .derive(bert)
    .avoiding(&["classifier"]),
    way(
        "RobertaModel",
        "roberta",
        "hidden_act hidden_size intermediate_size layer_norm_eps max_position_embeddings \
         num_attention_heads num_hidden_layers type_vocab_size vocab_size",
    )
    .when(|keys| keys.vocabulary() == "gpt2")
    .derive(roberta)
    .avoiding(&["classifier"]),
    way(
        "RobertaForSequenceClassification",
        "roberta",
        "hidden_act hidden_size intermediate_size layer_norm_eps max_position_embeddings \
         num_attention_heads num_hidden_layers type_vocab_size vocab_size",
    )
    .when(|keys| keys.vocabulary() == "gpt2")
    .derive(roberta)
    .under("roberta."),
    way(
        "XLMRobertaModel",
        "xlm-roberta",
        "hidden_act hidden_size intermediate_size layer_norm_eps max_position_embeddings \
         num_attention_heads num_hidden_layers type_vocab_size vocab_size",
    )
    .of("bert")
    .when(|keys| keys.vocabulary() == "t5")
    .derive(roberta)
    .avoiding(&["classifier"]),
    way(
        "XLMRobertaForSequenceClassification",
        "xlm-roberta",
        "hidden_act hidden_size intermediate_size layer_norm_eps max_position_embeddings \
         num_attention_heads num_hidden_layers type_vocab_size vocab_size",
    )
    .when(|keys| keys.vocabulary() == "t5")
    .derive(roberta)
    .under("roberta."),
    way("XLMRobertaModel", "xlm-roberta", "")
        .of("jina-bert-v3")
        .refused("the matrices of its tasks are in files of their own"),
    way(
        "CamembertModel",
        "camembert",
        "hidden_act hidden_size intermediate_size layer_norm_eps max_position_embeddings \
         num_attention_heads num_hidden_layers type_vocab_size vocab_size",
    )
    .when(|keys| keys.has_tensor("token_types.weight"))
    .derive(camembert)
    .avoiding(&["classifier"]),
    way(
        "JinaBertModel",
        "bert",
        "hidden_act hidden_size intermediate_size layer_norm_eps max_position_embeddings \
         num_attention_heads num_hidden_layers type_vocab_size vocab_size emb_pooler feed_forward_type \
         position_embedding_type",
    )
    .remote()
    .derive(jina_bert)
    .avoiding(&["up_gated_layer", "gated_layers_v", "gated_layers_w", "down_layer", "layer_norm_2"]),
    way(
        "JinaBertForMaskedLM",
        "bert",
        "hidden_act hidden_size intermediate_size layer_norm_eps max_position_embeddings \
         num_attention_heads num_hidden_layers type_vocab_size vocab_size emb_pooler feed_forward_type \
         position_embedding_type",
    )
    .remote()
    .derive(jina_bert)
    .avoiding(&["mlp.gated_layers", "mlp.wo", "mlp.layernorm"]),
    way(
        "NomicBertModel",
        "nomic_bert",
        "activation_function causal layer_norm_epsilon max_trained_positions mlp_fc1_bias mlp_fc2_bias \
         moe_every_n_layers moe_normalize_expert_weights moe_top_k n_embd n_head n_inner n_layer \
         n_positions num_experts prenorm qkv_proj_bias rotary_emb_base rotary_emb_fraction \
         rotary_emb_interleaved rotary_emb_scale_base type_vocab_size vocab_size",
    )
    .remote()
    .derive(nomic)
    .by_gate(&["fc11"], &[])
    .avoiding(&["embeddings.LayerNorm", "classifier"]),
    way(
        "ModernBertModel",
        "modernbert",
        "attention_bias layer_norm_eps classifier_pooling global_attn_every_n_layers hidden_activation hidden_size \
         intermediate_size local_attention max_position_embeddings mlp_bias norm_bias norm_eps \
         num_attention_heads num_hidden_layers vocab_size",
    )
    .derive(modern_bert)
    .bare()
    .avoiding(&["classifier", "head."]),
    way(
        "ModernBertForSequenceClassification",
        "modernbert",
        "attention_bias layer_norm_eps classifier_bias classifier_pooling global_attn_every_n_layers hidden_activation \
         hidden_size intermediate_size local_attention max_position_embeddings mlp_bias norm_bias norm_eps \
         num_attention_heads num_hidden_layers vocab_size",
    )
    .derive(modern_bert)
    .under("model."),
    way(
        "NeoBERT",
        "neobert",
        "hidden_size intermediate_size max_length norm_eps num_attention_heads num_hidden_layers vocab_size",
    )
    .remote()
    .derive(neo_bert)
    .avoiding(&["dense", "classifier"]),
    way(
        "NeoBERTForSequenceClassification",
        "neobert",
        "hidden_size intermediate_size max_length norm_eps num_attention_heads num_hidden_layers vocab_size",
    )
    .remote()
    .derive(neo_bert)
    .under("model."),
    way(
        "EuroBertModel",
        "eurobert",
        "attention_bias head_dim hidden_act hidden_size intermediate_size max_position_embeddings mlp_bias \
         num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps vocab_size",
    )
    .bare(),
    way(
        "T5EncoderModel",
        "t5",
        "d_ff d_kv d_model decoder_start_token_id dense_act_fn feed_forward_proj initializer_factor \
         is_gated_act layer_norm_epsilon num_heads num_layers relative_attention_max_distance \
         relative_attention_num_buckets vocab_size",
    )
    .derive(mt5)
    .avoiding(&["encoder.embed_tokens", "decoder.embed_tokens"])
    .by_gate(&["wi_1"], &[]),
    way(
        "UMT5ForConditionalGeneration",
        "umt5",
        "d_ff d_kv d_model decoder_start_token_id dense_act_fn feed_forward_proj initializer_factor \
         is_gated_act layer_norm_epsilon num_decoder_layers num_heads num_layers \
         relative_attention_max_distance relative_attention_num_buckets scale_decoder_outputs vocab_size",
    )
    .derive(t5)
    .avoiding(&["encoder.embed_tokens", "decoder.embed_tokens"])
    .by_gate(&["wi_1"], &[]),
    way(
        "DeepseekV3ForCausalLM",
        "deepseek_v3",
        "attention_bias first_k_dense_replace head_dim hidden_act hidden_size intermediate_size kv_lora_rank \
         max_position_embeddings moe_intermediate_size n_group n_routed_experts n_shared_experts \
         norm_topk_prob num_attention_heads num_experts_per_tok num_hidden_layers num_key_value_heads \
         num_nextn_predict_layers q_lora_rank qk_head_dim qk_nope_head_dim qk_rope_head_dim rms_norm_eps \
         rope_interleave routed_scaling_factor topk_group v_head_dim vocab_size",
    )
    .of("deepseek2")
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
    .of("deepseek2")
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
    .avoiding(&["encoder.embed_tokens", "decoder.embed_tokens"])
    .by_gate(&["wi_1"], &[]),
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
        "DistilBertModel",
        "distilbert",
        "activation dim hidden_dim max_position_embeddings n_heads n_layers sinusoidal_pos_embds vocab_size",
    )
    .when(|keys| !keys.has_tensor("token_types.weight"))
    .avoiding(&["classifier"]),
    way(
        "DistilBertForSequenceClassification",
        "distilbert",
        "activation dim hidden_dim max_position_embeddings n_heads n_layers sinusoidal_pos_embds vocab_size",
    )
    .when(|keys| !keys.has_tensor("token_types.weight"))
    .under("distilbert.")
    .avoiding(&["classifier.dense", "classifier.out_proj"]),
    way("BitnetForCausalLM", "llama", "").remote().refused("the file has its weights rounded to three values"),
    way(
        "ChatGLMModel",
        "chatglm",
        "add_qkv_bias ffn_hidden_size hidden_size kv_channels layernorm_epsilon multi_query_attention \
         multi_query_group_num num_attention_heads num_hidden_layers num_layers padded_vocab_size rope_ratio \
         seq_length vocab_size",
    )
    .remote()
    .derive(chatglm),
    way(
        "ChatGLMForConditionalGeneration",
        "chatglm",
        "add_qkv_bias attention_dim ffn_hidden_size hidden_size kv_channels layernorm_epsilon \
         multi_query_attention multi_query_group_num num_attention_heads num_layers padded_vocab_size \
         rope_ratio seq_length vocab_size",
    )
    .remote()
    .derive(chatglm),
    way(
        "CodeShellForCausalLM",
        "codeshell",
        "group_query_attention layer_norm_epsilon n_embd n_head n_layer n_positions num_query_groups \
         vocab_size",
    )
    .remote(),
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
        "Cohere2MoeForCausalLM",
        "cohere2_moe",
        "attention_bias expert_selection_fn head_dim hidden_act hidden_size intermediate_size layer_norm_eps \
         layer_types logit_scale max_position_embeddings mlp_layer_types norm_topk_prob num_attention_heads \
         num_experts num_experts_per_tok num_hidden_layers num_key_value_heads num_shared_experts \
         prefix_dense_intermediate_size prefix_dense_sliding_window_pattern rms_norm_eps \
         shared_expert_combination_strategy sliding_window vocab_size",
    )
    .derive(cohere_moe),
    way(
        "DbrxForCausalLM",
        "dbrx",
        "attn_config d_model ffn_config max_seq_len n_heads n_layers num_key_value_heads vocab_size",
    )
    .derive(dbrx),
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
        "DeepseekV32ForCausalLM",
        "deepseek_v32",
        "attention_bias first_k_dense_replace head_dim hidden_act hidden_size index_head_dim index_n_heads \
         index_topk intermediate_size kv_lora_rank layer_types max_position_embeddings mlp_bias \
         mlp_layer_types moe_intermediate_size n_group n_routed_experts n_shared_experts norm_topk_prob \
         num_attention_heads num_experts_per_tok num_hidden_layers num_key_value_heads \
         num_nextn_predict_layers q_lora_rank qk_head_dim qk_nope_head_dim qk_rope_head_dim rms_norm_eps \
         routed_scaling_factor scoring_func topk_group topk_method v_head_dim vocab_size",
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
        "ExaoneForCausalLM",
        "exaone",
        "activation_function hidden_size intermediate_size layer_norm_epsilon max_position_embeddings \
         num_attention_heads num_hidden_layers num_key_value_heads num_layers rms_norm_eps vocab_size",
    )
    .remote()
    .derive(exaone),
    way(
        "Exaone4ForCausalLM",
        "exaone4",
        "hidden_act hidden_size intermediate_size layer_types max_position_embeddings num_attention_heads \
         num_hidden_layers num_key_value_heads rms_norm_eps sliding_window sliding_window_pattern vocab_size",
    ),
    way(
        "FalconH1ForCausalLM",
        "falcon_h1",
        "attention_bias attention_in_multiplier attention_out_multiplier embedding_multiplier head_dim \
         key_multiplier lm_head_multiplier mamba_conv_bias mamba_d_conv mamba_d_head mamba_d_ssm \
         mamba_d_state mamba_expand mamba_n_groups mamba_n_heads mamba_norm_before_gate mamba_proj_bias \
         mamba_rms_norm mlp_bias mlp_multipliers projectors_bias ssm_in_multiplier ssm_multipliers \
         ssm_out_multiplier hidden_act hidden_size intermediate_size max_position_embeddings \
         num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps vocab_size",
    )
    .derive(falcon_h1),
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
        "Gemma3nForCausalLM",
        "gemma3n_text",
        "activation_sparsity_pattern altup_active_idx altup_coef_clip altup_correct_scale altup_num_inputs \
         attention_bias final_logit_softcapping head_dim hidden_activation hidden_size \
         hidden_size_per_layer_input intermediate_size laurel_rank layer_types max_position_embeddings \
         num_attention_heads num_hidden_layers num_key_value_heads num_kv_shared_layers rms_norm_eps \
         sliding_window vocab_size vocab_size_per_layer_input",
    )
    .derive(gemma3n),
    way("Gemma4ForCausalLM", "gemma4_text", GEMMA4).derive(gemma4),
    way(
        "Glm4ForCausalLM",
        "glm4",
        "attention_bias head_dim hidden_act hidden_size intermediate_size max_position_embeddings \
         num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps vocab_size",
    ),
    way(
        "Glm4MoeForCausalLM",
        "glm4_moe",
        "attention_bias first_k_dense_replace head_dim hidden_act hidden_size intermediate_size \
         max_position_embeddings moe_intermediate_size n_group n_routed_experts n_shared_experts \
         norm_topk_prob num_attention_heads num_experts_per_tok num_hidden_layers num_key_value_heads \
         num_nextn_predict_layers rms_norm_eps routed_scaling_factor topk_group use_qk_norm vocab_size",
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
        "GlmMoeDsaForCausalLM",
        "glm_moe_dsa",
        "attention_bias first_k_dense_replace head_dim hidden_act hidden_size index_head_dim index_n_heads \
         index_topk indexer_types intermediate_size kv_lora_rank layer_types max_position_embeddings mlp_bias \
         mlp_layer_types moe_intermediate_size n_group n_routed_experts n_shared_experts norm_topk_prob \
         num_attention_heads num_experts_per_tok num_hidden_layers num_key_value_heads \
         num_nextn_predict_layers q_lora_rank qk_head_dim qk_nope_head_dim qk_rope_head_dim rms_norm_eps \
         routed_scaling_factor topk_group v_head_dim vocab_size",
    )
    .derive(sparse_attention),
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
        "GraniteMoeHybridForCausalLM",
        "granitemoehybrid",
        "attention_bias attention_multiplier embedding_multiplier hidden_act hidden_size intermediate_size \
         layer_types logits_scaling mamba_chunk_size mamba_conv_bias mamba_d_conv mamba_d_head mamba_d_state \
         mamba_expand mamba_n_groups mamba_n_heads mamba_proj_bias max_position_embeddings \
         num_attention_heads num_experts_per_tok num_hidden_layers num_key_value_heads num_local_experts \
         position_embedding_type residual_multiplier rms_norm_eps shared_intermediate_size time_step_limit \
         vocab_size",
    )
    .derive(granite_hybrid)
    .avoiding(&["layers.{}.mlp.", "layers.{}.feed_forward."]),
    way(
        "GroveMoeForCausalLM",
        "grove_moe",
        "head_dim hidden_size intermediate_size max_position_embeddings moe_intermediate_size \
         num_attention_heads num_experts num_experts_per_tok num_hidden_layers num_key_value_heads \
         rms_norm_eps vocab_size",
    )
    .remote(),
    way(
        "HunYuanDenseV1ForCausalLM",
        "hunyuan_v1_dense",
        "attention_bias eod_token_id head_dim hidden_act hidden_size intermediate_size \
         max_position_embeddings num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps \
         vocab_size",
    )
    .derive(hunyuan),
    way(
        "HYV3ForCausalLM",
        "hy_v3",
        "attention_bias enable_moe_fp32_combine head_dim hidden_act hidden_size intermediate_size \
         max_position_embeddings mlp_bias mlp_layer_types moe_intermediate_size num_attention_heads \
         num_experts num_experts_per_tok num_hidden_layers num_key_value_heads num_nextn_predict_layers \
         num_shared_experts rms_norm_eps router_scaling_factor vocab_size",
    )
    .avoiding(&["gate.wg"]),
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
    .derive(sparse_attention),
    way(
        "InternLM2ForCausalLM",
        "internlm2",
        "bias hidden_size intermediate_size max_position_embeddings num_attention_heads num_hidden_layers \
         num_key_value_heads rms_norm_eps vocab_size",
    )
    .remote(),
    way(
        "InternLM3ForCausalLM",
        "internlm3",
        "bias head_dim hidden_size intermediate_size max_position_embeddings num_attention_heads \
         num_hidden_layers num_key_value_heads qkv_bias rms_norm_eps vocab_size",
    )
    .remote(),
    way(
        "JAISLMHeadModel",
        "jais",
        "activation_function embeddings_scale layer_norm_epsilon n_embd n_head n_inner n_layer n_positions \
         position_embedding_type vocab_size width_scale",
    )
    .remote()
    .derive(jais),
    way(
        "Jais2ForCausalLM",
        "jais2",
        "attention_bias head_dim hidden_act hidden_size intermediate_size layer_norm_eps \
         max_position_embeddings mlp_bias num_attention_heads num_hidden_layers num_key_value_heads \
         vocab_size",
    ),
    way(
        "JambaForCausalLM",
        "jamba",
        "attn_layer_offset attn_layer_period expert_layer_offset expert_layer_period hidden_act hidden_size \
         intermediate_size mamba_conv_bias mamba_d_conv mamba_d_state mamba_dt_rank mamba_expand \
         mamba_proj_bias max_position_embeddings num_attention_heads num_experts num_experts_per_tok \
         num_hidden_layers num_key_value_heads rms_norm_eps use_associative_scan use_mamba_kernels \
         use_mambapy vocab_size",
    )
    .derive(jamba),
    way(
        "KimiLinearForCausalLM",
        "kimi_linear",
        "attention_bias first_k_dense_replace head_dim hidden_act hidden_size intermediate_size kv_lora_rank \
         layer_types linear_attn_config linear_conv_kernel_dim linear_head_dim linear_num_heads \
         mlp_layer_types model_max_length moe_intermediate_size moe_renormalize moe_router_activation_func \
         num_attention_heads num_expert_group num_experts num_experts_per_token num_hidden_layers \
         num_key_value_heads num_shared_experts q_lora_rank qk_head_dim qk_nope_head_dim qk_rope_head_dim \
         rms_norm_eps routed_scaling_factor topk_group v_head_dim vocab_size",
    )
    .derive(kimi),
    way(
        "LagunaForCausalLM",
        "laguna",
        "attention_bias gating head_dim hidden_act hidden_size intermediate_size layer_types \
         max_position_embeddings mlp_layer_types moe_apply_router_weight_on_input moe_intermediate_size \
         moe_routed_scaling_factor moe_router_logit_softcapping num_attention_heads \
         num_attention_heads_per_layer num_experts num_experts_per_tok num_hidden_layers num_key_value_heads \
         rms_norm_eps shared_expert_intermediate_size sliding_window vocab_size",
    )
    .derive(laguna)
    .avoiding(&["mlp.gate.e_score"]),
    way(
        "Lfm2ForCausalLM",
        "lfm2",
        "block_auto_adjust_ff_dim block_ffn_dim_multiplier block_multiple_of conv_L_cache conv_bias \
         full_attn_idxs hidden_size intermediate_size layer_types max_position_embeddings norm_eps \
         num_attention_heads num_hidden_layers num_key_value_heads vocab_size",
    )
    .derive(lfm2),
    way(
        "Lfm2Model",
        "lfm2",
        "block_auto_adjust_ff_dim block_ffn_dim_multiplier block_multiple_of conv_L_cache conv_bias \
         full_attn_idxs hidden_size intermediate_size layer_types max_position_embeddings norm_eps \
         num_attention_heads num_hidden_layers num_key_value_heads vocab_size",
    )
    .bare()
    .derive(lfm2),
    way(
        "Lfm2MoeForCausalLM",
        "lfm2_moe",
        "conv_L_cache conv_bias hidden_size intermediate_size layer_types max_position_embeddings \
         moe_intermediate_size norm_eps norm_topk_prob num_attention_heads num_dense_layers num_experts \
         num_experts_per_tok num_hidden_layers num_key_value_heads routed_scaling_factor use_expert_bias \
         vocab_size",
    )
    .derive(lfm2),
    way(
        "LLaDAModelLM",
        "llada",
        "d_model hidden_size mask_token_id max_sequence_length mlp_hidden_size n_heads n_kv_heads n_layers \
         rms_norm_eps vocab_size",
    )
    .remote(),
    way(
        "LLaDAMoEModelLM",
        "llada_moe",
        "expert_intermediate_size head_dim hidden_size intermediate_size max_position_embeddings \
         num_attention_heads num_experts num_experts_per_tok num_hidden_layers num_key_value_heads \
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
         num_experts_per_tok num_hidden_layers num_key_value_heads num_local_experts rms_norm_eps vocab_size",
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
        "MapleForCausalLM",
        "maple",
        "head_dim hidden_act hidden_size intermediate_size layer_types max_position_embeddings \
         moe_intermediate_size nope_on_global_attention norm_topk_prob num_attention_heads num_experts \
         num_experts_per_tok num_hidden_layers num_key_value_heads num_shared_experts rms_norm_eps \
         sliding_window vocab_size",
    )
    .remote()
    .derive(maple),
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
        "Mamba2ForCausalLM",
        "mamba2",
        "chunk_size conv_kernel expand head_dim hidden_act hidden_size layer_norm_epsilon n_groups num_heads \
         num_hidden_layers rescale_prenorm_residual residual_in_fp32 state_size time_step_floor \
         time_step_limit time_step_max time_step_min time_step_rank use_bias use_conv_bias vocab_size",
    )
    .derive(mamba2),
    way(
        "MiniCPMForCausalLM",
        "minicpm",
        "dim_model_base hidden_size intermediate_size max_position_embeddings num_attention_heads \
         num_hidden_layers num_key_value_heads rms_norm_eps scale_depth scale_emb vocab_size",
    )
    .remote()
    .derive(minicpm),
    way(
        "MiniCPM3ForCausalLM",
        "minicpm3",
        "attention_bias dim_model_base head_dim hidden_act hidden_size intermediate_size kv_lora_rank \
         max_position_embeddings mlp_bias num_attention_heads num_hidden_layers num_key_value_heads \
         q_lora_rank qk_head_dim qk_nope_head_dim qk_rope_head_dim rms_norm_eps scale_depth scale_emb \
         v_head_dim vocab_size",
    )
    .derive(parts_of_head),
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
    .of("mistral3")
    .derive(ministral),
    way(
        "NemotronForCausalLM",
        "nemotron",
        "attention_bias head_dim hidden_act hidden_size intermediate_size max_position_embeddings mlp_bias \
         norm_eps num_attention_heads num_hidden_layers num_key_value_heads vocab_size",
    ),
    way(
        "NemotronHForCausalLM",
        "nemotron_h",
        "attention_bias chunk_size conv_kernel expand head_dim hidden_size hybrid_override_pattern \
         intermediate_size layer_norm_epsilon mamba_head_dim mamba_hidden_act mamba_num_heads mamba_proj_bias \
         mamba_ssm_cache_dtype max_position_embeddings mlp_bias mlp_hidden_act moe_intermediate_size \
         moe_latent_size moe_shared_expert_intermediate_size moe_shared_expert_overlap mtp_layers_block_type \
         n_group n_groups n_routed_experts n_shared_experts norm_topk_prob num_attention_heads \
         num_experts_per_tok num_hidden_layers num_key_value_heads num_logits_to_keep \
         num_nextn_predict_layers rescale_prenorm_residual residual_in_fp32 rms_norm_eps \
         routed_scaling_factor sliding_window ssm_state_size time_step_floor time_step_limit time_step_max \
         time_step_min topk_group use_bias use_conv_bias use_mamba_kernels vocab_size",
    )
    .derive(nemotron_h),
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
        "PLMForCausalLM",
        "plm",
        "hidden_act hidden_size intermediate_size kv_lora_rank max_position_embeddings num_attention_heads \
         num_hidden_layers num_key_value_heads qk_nope_head_dim qk_rope_head_dim rms_norm_eps v_head_dim \
         vocab_size",
    )
    .remote()
    .derive(parts_of_head),
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
    way("Qwen2VLForConditionalGeneration", "qwen2_vl_text", QWEN2_VL).towers(),
    way("Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl_text", QWEN2_VL).towers(),
    way(
        "Qwen3VLForConditionalGeneration",
        "qwen3_vl_text",
        "attention_bias head_dim hidden_act hidden_size intermediate_size max_position_embeddings \
         num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps vocab_size",
    )
    .derive(deep_layers)
    .towers(),
    way(
        "Qwen3VLMoeForConditionalGeneration",
        "qwen3_vl_moe_text",
        "attention_bias decoder_sparse_step head_dim hidden_act hidden_size intermediate_size \
         max_position_embeddings mlp_only_layers moe_intermediate_size norm_topk_prob num_attention_heads \
         num_experts num_experts_per_tok num_hidden_layers num_key_value_heads rms_norm_eps vocab_size",
    )
    .derive(deep_layers)
    .avoiding(&["experts.{x}"])
    .towers(),
    way(
        "Mistral3ForConditionalGeneration",
        "mistral",
        "head_dim hidden_act hidden_size intermediate_size max_position_embeddings num_attention_heads \
         num_hidden_layers num_key_value_heads rms_norm_eps sliding_window vocab_size",
    )
    .of("mistral3")
    .derive(no_window)
    .towers(),
    way("Glm4vForConditionalGeneration", "glm4v_text", GLM4V).towers(),
    way("GlmOcrForConditionalGeneration", "glm_ocr_text", GLM_OCR).towers(),
    way(
        "RND1",
        "rnd1",
        "head_dim hidden_size intermediate_size mask_token_id max_position_embeddings moe_intermediate_size \
         norm_topk_prob num_attention_heads num_experts num_experts_per_tok num_hidden_layers \
         num_key_value_heads rms_norm_eps vocab_size",
    )
    .remote(),
    way(
        "Qwen3NextForCausalLM",
        "qwen3_next",
        "attention_bias decoder_sparse_step head_dim hidden_act hidden_size intermediate_size layer_types \
         linear_conv_kernel_dim linear_key_head_dim linear_num_key_heads linear_num_value_heads \
         linear_value_head_dim max_position_embeddings mlp_only_layers moe_intermediate_size \
         mtp_num_hidden_layers norm_topk_prob num_attention_heads num_experts num_experts_per_tok \
         num_hidden_layers num_key_value_heads rms_norm_eps shared_expert_intermediate_size vocab_size",
    )
    .derive(linear_attention),
    way(
        "Qwen3_5ForCausalLM",
        "qwen3_5_text",
        "attention_bias head_dim hidden_act hidden_size intermediate_size layer_types linear_conv_kernel_dim \
         linear_key_head_dim linear_num_key_heads linear_num_value_heads linear_value_head_dim \
         max_position_embeddings mtp_num_hidden_layers num_attention_heads num_hidden_layers \
         num_key_value_heads rms_norm_eps vocab_size",
    )
    .derive(linear_attention)
    .avoiding(&["in_proj_qkvz", "in_proj_ba"]),
    way(
        "Qwen3_5MoeForCausalLM",
        "qwen3_5_moe_text",
        "attention_bias head_dim hidden_act hidden_size intermediate_size layer_types linear_conv_kernel_dim \
         linear_key_head_dim linear_num_key_heads linear_num_value_heads linear_value_head_dim \
         max_position_embeddings moe_intermediate_size mtp_num_hidden_layers num_attention_heads num_experts \
         num_experts_per_tok num_hidden_layers num_key_value_heads rms_norm_eps \
         shared_expert_intermediate_size vocab_size",
    )
    .derive(linear_attention)
    .avoiding(&["in_proj_qkvz", "in_proj_ba"]),
    way("GPTRefactForCausalLM", "gpt_refact", "layer_norm_epsilon n_embd n_head n_layer n_positions vocab_size")
        .remote(),
    way(
        "SmallThinkerForCausalLM",
        "smallthinker",
        "head_dim intermediate_size max_position_embeddings moe_ffn_hidden_size moe_num_active_primary_experts \
         moe_num_primary_experts moe_primary_router_apply_softmax num_attention_heads num_hidden_layers \
         num_key_value_heads hidden_size rms_norm_eps rope_layout sliding_window_layout sliding_window_size \
         vocab_size",
    )
    .remote()
    .derive(smallthinker)
    .avoiding(&["block_sparse_moe.gate", "block_sparse_moe.down", "block_sparse_moe.up"]),
    way(
        "Spark2_5ForCausalLM",
        "spark2_5",
        "gate_attn_act_mode head_dim headwise_attn_output_gate hidden_act hidden_size intermediate_size \
         layer_types max_position_embeddings num_attention_heads num_hidden_layers num_key_value_heads \
         rms_norm_eps sliding_window vocab_size",
    )
    .remote()
    .derive(spark),
    way(
        "MT5ForConditionalGeneration",
        "mt5",
        "d_ff d_kv d_model decoder_start_token_id dense_act_fn feed_forward_proj initializer_factor \
         is_gated_act layer_norm_epsilon num_decoder_layers num_heads num_layers \
         relative_attention_max_distance relative_attention_num_buckets vocab_size",
    )
    .derive(mt5)
    .avoiding(&["encoder.embed_tokens", "decoder.embed_tokens"])
    .by_gate(&["wi_1"], &[]),
    way(
        "UMT5Model",
        "umt5",
        "d_ff d_kv d_model decoder_start_token_id dense_act_fn feed_forward_proj initializer_factor \
         is_gated_act layer_norm_epsilon num_decoder_layers num_heads num_layers \
         relative_attention_max_distance relative_attention_num_buckets vocab_size",
    )
    .derive(mt5)
    .avoiding(&["encoder.embed_tokens", "decoder.embed_tokens"])
    .by_gate(&["wi_1"], &[]),
    way(
        "TalkieForCausalLM",
        "talkie",
        "head_dim hidden_size intermediate_size max_position_embeddings num_attention_heads \
         num_hidden_layers num_key_value_heads vocab_size",
    )
    .remote()
    .numbers(talkie),
    way(
        "DeciLMForCausalLM",
        "deci",
        "block_configs num_key_value_heads_per_layer hidden_size intermediate_size max_position_embeddings \
         num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps vocab_size",
    )
    .remote()
    .derive(deci)
    .renamed(deci_names)
    .avoiding(&["linear_attn"]),
    way(
        "Grok1ForCausalLM",
        "grok-1",
        "attn_output_multiplier embedding_multiplier_scale num_experts_per_tok num_local_experts \
         output_multiplier_scale attn_logit_softcapping router_logit_softcapping final_logit_softcapping \
         hidden_size intermediate_size max_position_embeddings num_attention_heads num_hidden_layers \
         num_key_value_heads rms_norm_eps vocab_size",
    )
    .remote()
    .when(|keys| keys.has_tensor("layer_output_norm.weight"))
    .avoiding(&["transformer.in_out_embed", "model.norm", "model.layers"])
    .derive(grok),
    way(
        "GrokForCausalLM",
        "grok",
        "attn_output_multiplier attn_temperature_len embedding_multiplier_scale head_dim \
         moe_intermediate_size num_experts_per_tok num_local_experts output_multiplier_scale \
         attn_logit_softcapping router_logit_softcapping final_logit_softcapping hidden_size \
         intermediate_size max_position_embeddings num_attention_heads num_hidden_layers \
         num_key_value_heads rms_norm_eps vocab_size",
    )
    .remote()
    .when(|keys| !keys.has_tensor("layer_output_norm.weight"))
    .avoiding(&["transformer."])
    .derive(grok),
    way(
        "HrmTextForCausalLM",
        "hrm_text",
        "H_cycles L_cycles attention_bias embedding_scale head_dim hidden_act hidden_size intermediate_size \
         max_position_embeddings mlp_bias num_attention_heads num_hidden_layers num_key_value_heads \
         num_layers_per_stack prefix_lm rms_norm_eps vocab_size",
    )
    .derive(hrm)
    .renamed(hrm_names),
    way(
        "MiMoV2FlashForCausalLM",
        "mimo_v2_flash",
        "attention_bias attention_value_scale head_dim hidden_size hybrid_layer_pattern intermediate_size \
         layernorm_epsilon max_position_embeddings moe_intermediate_size moe_layer_freq n_group \
         n_routed_experts norm_topk_prob num_attention_heads num_experts_per_tok num_hidden_layers \
         num_key_value_heads partial_rotary_factor routed_scaling_factor scoring_func sliding_window \
         swa_head_dim swa_num_attention_heads swa_num_key_value_heads swa_v_head_dim topk_group topk_method \
         v_head_dim vocab_size",
    )
    .remote()
    .derive(mimo)
    .renamed(mimo_names),
    way(
        "MiniMaxText01ForCausalLM",
        "minimax_text_01",
        "attn_type_list head_dim layernorm_full_attention_alpha layernorm_full_attention_beta \
         layernorm_linear_attention_alpha layernorm_linear_attention_beta layernorm_mlp_alpha \
         layernorm_mlp_beta num_experts_per_tok num_local_experts postnorm rotary_dim \
         shared_intermediate_size hidden_size intermediate_size max_position_embeddings num_attention_heads \
         num_hidden_layers num_key_value_heads rms_norm_eps vocab_size",
    )
    .remote()
    .derive(minimax01)
    .renamed(minimax01_names),
    way(
        "OpenELMForCausalLM",
        "openelm",
        "ffn_dim_divisor ffn_multipliers head_dim max_context_length model_dim num_kv_heads num_query_heads \
         num_transformer_layers rope_freq_constant share_input_output_layers vocab_size",
    )
    .remote()
    .derive(openelm),
    way(
        "Plamo2ForCausalLM",
        "plamo2",
        "hidden_size hidden_size_per_head intermediate_size mamba_d_conv mamba_d_state mamba_enabled \
         mamba_num_heads mamba_step max_position_embeddings num_attention_heads num_hidden_layers \
         num_key_value_heads rms_norm_eps vocab_size",
    )
    .remote()
    .derive(plamo2),
    way(
        "Plamo3ForCausalLM",
        "plamo3",
        "head_dim sliding_window_pattern window_size hidden_size intermediate_size max_position_embeddings \
         num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps vocab_size",
    )
    .remote()
    .derive(plamo3),
    way(
        "RWKV6Qwen2ForCausalLM",
        "rwkv6qwen2",
        "attention_bias hidden_size intermediate_size lora_rank_decay lora_rank_tokenshift \
         max_position_embeddings num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps \
         vocab_size",
    )
    .remote()
    .derive(qrwkv6)
    .wide(),
    way(
        "RwkvHybridForCausalLM",
        "rwkv_hybrid",
        "head_size hidden_size intermediate_size max_position_embeddings num_attention_heads \
         num_hidden_layers rms_norm_eps vocab_size wkv_has_gate wkv_version",
    )
    .remote()
    .derive(arwkv)
    .per_head(&[".r_k"])
    .renamed(|_, name| Some(name.replace(".attention.", ".self_attn.time_mixer.")))
    .wide()
    .avoiding(&["lora", "k_proj", "v_proj", "r_proj", "o_proj", "x_x"]),
    way(
        "Rwkv6ForCausalLM",
        "rwkv6",
        "attention_hidden_size head_size hidden_size intermediate_size layer_norm_epsilon \
         num_attention_heads num_hidden_layers rescale_every vocab_size",
    )
    .remote()
    .derive(rwkv6)
    .wide(),
    way(
        "Step3p5ForCausalLM",
        "step3p5",
        "attention_other_setting head_dim hidden_size intermediate_size layer_types max_position_embeddings \
         moe_intermediate_size moe_layers_enum moe_num_experts moe_router_activation \
         moe_router_scaling_factor moe_top_k norm_expert_weight num_attention_groups num_attention_heads \
         num_hidden_layers num_nextn_predict_layers partial_rotary_factors rms_norm_eps rope_theta \
         share_expert_dim sliding_window vocab_size",
    )
    .remote()
    .derive(step)
    .plain(),
    way(
        "ApertusForCausalLM",
        "apertus",
        "attention_bias hidden_act hidden_size intermediate_size max_position_embeddings \
         num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps vocab_size",
    )
    .numbers(apertus),
    way(
        "RWKV7ForCausalLM",
        "rwkv7",
        "a_low_rank_dim decay_low_rank_dim gate_low_rank_dim head_dim hidden_size intermediate_size \
         norm_eps num_hidden_layers v_low_rank_dim vocab_size",
    )
    .remote()
    .derive(rwkv7)
    .per_head(&[".r_k"])
    .renamed(rwkv7_names)
    .avoiding(&[
        "model.pre_ln",
        "model.ln_out",
        "attention.w1",
        "attention.w2",
        "attention.a1",
        "attention.a2",
        "attention.v1",
        "attention.v2",
        "attention.g1",
        "attention.g2",
        "attention.key",
        "attention.value",
        "attention.receptance",
        "attention.output",
        "attention.x_x",
        ".ln1",
    ]),
    way(
        "SeedOssForCausalLM",
        "seed_oss",
        "attention_bias attention_out_bias head_dim hidden_act hidden_size intermediate_size \
         max_position_embeddings mlp_bias num_attention_heads num_hidden_layers num_key_value_heads \
         rms_norm_eps vocab_size",
    )
    .derive(seed_oss),
    way(
        "OrionForCausalLM",
        "orion",
        "hidden_act hidden_size intermediate_size max_position_embeddings num_attention_heads num_hidden_layers \
         num_key_value_heads rms_norm_eps vocab_size",
    )
    .remote(),
    way(
        "MellumForCausalLM",
        "mellum",
        "attention_bias head_dim hidden_act hidden_size intermediate_size layer_types max_position_embeddings \
         moe_intermediate_size norm_topk_prob num_attention_heads num_experts_per_tok num_hidden_layers \
         num_key_value_heads num_local_experts rms_norm_eps sliding_window vocab_size",
    )
    .derive(mellum),
    way(
        "BaichuanForCausalLM",
        "baichuan",
        "hidden_act hidden_size intermediate_size max_position_embeddings num_attention_heads num_hidden_layers \
         rms_norm_eps vocab_size",
    )
    .remote(),
    way(
        "PlamoForCausalLM",
        "plamo",
        "hidden_size intermediate_size max_position_embeddings n_shared_head num_attention_heads \
         num_hidden_layers num_key_value_heads rms_norm_eps vocab_size",
    )
    .remote(),
    way(
        "QWenLMHeadModel",
        "qwen",
        "hidden_size intermediate_size layer_norm_epsilon max_position_embeddings num_attention_heads \
         num_hidden_layers rms_norm_eps rotary_emb_base seq_length vocab_size",
    )
    .remote(),
    way(
        "GPTBigCodeForCausalLM",
        "gpt_bigcode",
        "activation_function layer_norm_epsilon multi_query n_embd n_head n_inner n_layer n_positions vocab_size",
    ),
    way(
        "HunYuanMoEV1ForCausalLM",
        "hunyuan_v1_moe",
        "attention_bias head_dim hidden_act hidden_size intermediate_size max_position_embeddings moe_topk \
         num_attention_heads num_experts num_hidden_layers num_key_value_heads num_shared_expert \
         moe_intermediate_size rms_norm_eps use_qk_norm vocab_size",
    )
    .derive(hunyuan_moe),
    way(
        "ExaoneMoEForCausalLM",
        "exaone_moe",
        "first_k_dense_replace head_dim hidden_act hidden_size intermediate_size layer_types \
         max_position_embeddings moe_intermediate_size n_group norm_topk_prob num_attention_heads num_experts \
         num_experts_per_tok num_hidden_layers num_key_value_heads num_nextn_predict_layers num_shared_experts \
         rms_norm_eps routed_scaling_factor scoring_func sliding_window sliding_window_pattern topk_group \
         vocab_size",
    )
    .remote(),
    way(
        "SolarOpenForCausalLM",
        "solar_open",
        "attention_bias first_k_dense_replace head_dim hidden_act hidden_size intermediate_size \
         max_position_embeddings moe_intermediate_size n_group n_routed_experts n_shared_experts \
         norm_topk_prob num_attention_heads num_experts_per_tok num_hidden_layers num_key_value_heads \
         num_nextn_predict_layers partial_rotary_factor rms_norm_eps routed_scaling_factor topk_group vocab_size",
    ),
    way(
        "MiniMaxM3SparseForCausalLM",
        "minimax_m3",
        "dense_intermediate_size head_dim hidden_act hidden_size intermediate_size max_position_embeddings \
         moe_layer_freq n_shared_experts num_attention_heads num_experts_per_tok num_hidden_layers \
         num_key_value_heads num_local_experts rms_norm_eps rotary_dim routed_scaling_factor scoring_func \
         sparse_attention_config vocab_size",
    )
    .remote()
    .derive(minimax_m3)
    .avoiding(&["gate.e_score_correction"]),
    way(
        "KORMoForCausalLM",
        "kormo",
        "hidden_act hidden_size intermediate_size max_position_embeddings num_attention_heads num_hidden_layers \
         num_key_value_heads rms_norm_eps vocab_size",
    )
    .remote(),
    way(
        "BambaForCausalLM",
        "bamba",
        "attention_bias attn_layer_indices attn_rotary_emb hidden_act hidden_size intermediate_size mamba_chunk_size \
         mamba_conv_bias mamba_d_conv mamba_d_head mamba_d_state mamba_expand mamba_n_groups mamba_n_heads \
         mamba_proj_bias max_position_embeddings mlp_bias num_attention_heads num_hidden_layers \
         num_key_value_heads rms_norm_eps vocab_size",
    )
    .of("granitehybrid")
    .derive(bamba)
    .avoiding(&["shared_mlp", "block_sparse_moe", "layers.{}.mlp.", "post_attention_layernorm", "model.norm"]),
    LING3,
    Way { class: "BailingMoeV3VLForConditionalGeneration", ..LING3.towers() },
    way("Gemma4UnifiedForConditionalGeneration", "gemma4_unified_text", GEMMA4).derive(gemma4).towers(),
    way(
        "Qwen3ASRForConditionalGeneration",
        "qwen3",
        "attention_bias head_dim hidden_act hidden_size intermediate_size max_position_embeddings \
         num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps vocab_size",
    )
    .towers(),
    way(
        "Ministral3ForCausalLM",
        "mistral4",
        "attention_bias first_k_dense_replace hidden_act hidden_size intermediate_size kv_lora_rank \
         max_position_embeddings moe_intermediate_size n_group n_routed_experts n_shared_experts norm_topk_prob \
         num_attention_heads num_experts_per_tok num_hidden_layers num_key_value_heads q_lora_rank \
         qk_nope_head_dim qk_rope_head_dim rms_norm_eps routed_scaling_factor topk_group v_head_dim vocab_size",
    )
    .of("mistral4")
    .derive(mistral4)
    .avoiding(&["experts.{x}"]),
    DOTS3,
    Way { class: "Dots3NoteForConditionalGeneration", ..DOTS3.towers() },
    Way { class: "Dots3NoteForCausalLM", ..DOTS3.towers() },
    way(
        "Glm5NextForConditionalGeneration",
        "glm5_next_text",
        "attention_bias first_k_dense_replace hc_eps hc_mult hc_sinkhorn_iters hidden_act hidden_size \
         index_head_dim index_kpool index_kpool_always_select_tail index_n_heads index_topk indexer_types \
         intermediate_size kv_lora_rank layer_types max_position_embeddings mlp_layer_types \
         moe_intermediate_size n_group n_routed_experts n_shared_experts norm_topk_prob num_attention_heads \
         num_experts_per_tok num_hidden_layers num_key_value_heads num_nextn_predict_layers q_lora_rank \
         qk_nope_head_dim qk_rope_head_dim rms_norm_eps routed_scaling_factor scoring_func swiglu_limit topk_group \
         v_head_dim vocab_size",
    )
    .derive(glm5_next)
    .towers(),
    DEEPSEEK_OCR,
    Way { class: "UnlimitedOCRForCausalLM", ..DEEPSEEK_OCR },
    way(
        "PaddleOCRVLForConditionalGeneration",
        "paddleocr_vl_text",
        "head_dim hidden_act hidden_size intermediate_size max_position_embeddings num_attention_heads \
         num_hidden_layers num_key_value_heads rms_norm_eps use_bias vocab_size",
    )
    .towers(),
    way(
        "HunYuanVLForConditionalGeneration",
        "hunyuan_vl_text",
        "attention_bias eod_token_id head_dim hidden_act hidden_size intermediate_size max_position_embeddings \
         num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps vocab_size",
    )
    .derive(hunyuan_vl)
    .towers(),
    QWEN4,
    Way { class: "Qwen4ExpForConditionalGeneration", ..QWEN4.towers() },
    way(
        "GraniteSwitchForCausalLM",
        "granite_switch",
        "adapter_substitute_token_ids adapter_token_ids attention_multiplier control_token_gain \
         embedding_multiplier hidden_act hidden_size intermediate_size logits_scaling max_lora_rank \
         max_position_embeddings num_adapters num_attention_heads num_experts_per_tok num_hidden_layers \
         num_key_value_heads num_local_experts projection_head_dim residual_multiplier rms_norm_eps \
         shared_intermediate_size vocab_size",
    )
    .remote()
    .derive(granite_switch),
    way(
        "NemotronHPuzzleForCausalLM",
        "nemotron_h_puzzle",
        "attention_bias block_configs chunk_size conv_kernel expand head_dim hidden_size intermediate_size \
         layer_norm_epsilon mamba_head_dim mamba_num_heads max_position_embeddings moe_latent_size \
         moe_shared_expert_intermediate_size mtp_block_configs n_group n_groups n_routed_experts n_shared_experts \
         norm_topk_prob num_attention_heads num_key_value_heads rms_norm_eps routed_scaling_factor ssm_state_size \
         topk_group use_conv_bias vocab_size",
    )
    .remote()
    .derive(puzzle),
];

const OF_OCR: &str = "its files are those of DeepseekOCRForCausalLM, with its projector file";

/// Classes without a way back, those that have none from files of one architecture with its name, and why.
const REFUSED: &[(&str, Option<&str>, &str)] = &[
    ("ArcticForCausalLM", None, "what its tokens were before tokenizer_config.json redefined them is in no file"),
    ("BambaForCausalLM", None, "it has layers of state spaces, and no file of this architecture has"),
    ("BertForMaskedLM", None, "its head, cls.predictions, is in no file; --class BertModel is the rest"),
    ("BertForSequenceClassification", None, "the layer before its classifier, bert.pooler, is in no file"),
    (
        "ChameleonForConditionalGeneration",
        None,
        "its image tokenizer, model.vqmodel, and the norms of all heads but the first are in no file",
    ),
    ("CogVLMForCausalLM", None, "its experts for images are in no file"),
    ("DeepseekV2ForCausalLM", Some("deepseek2-ocr"), OF_OCR),
    ("DeepseekV3ForCausalLM", Some("deepseek2-ocr"), OF_OCR),
    (
        "DeepseekV4ForCausalLM",
        None,
        "its experts are read packed and never written so, and the biases of routers that hash are in no file",
    ),
    ("DistilBertForMaskedLM", None, "its head, vocab_projector, is in no file; --class DistilBertModel is the rest"),
    ("Gemma4AssistantForCausalLM", None, "its masked embedding is in no file"),
    ("Gemma4UnifiedAssistantForCausalLM", None, "its masked embedding is in no file"),
    (
        "GlmForCausalLM",
        None,
        "its files say another epsilon and other lengths than the model has; --class ChatGLMModel is what they say",
    ),
    (
        "KimiK3ForConditionalGeneration",
        None,
        "of the norms and projections of its residuals the file has the products alone",
    ),
    ("Lfm25AudioTokenizer", None, "its embedding of sound and the window of its transform are in no file"),
    ("ModernBertForMaskedLM", None, "its head, decoder, is in no file; --class ModernBertModel is the rest"),
    ("NeoBERTLMHead", None, "its head, decoder, is in no file; --class NeoBERT is the rest"),
    ("PocketTTSModel", None, "its folder has no config.json, and the first state before its projection is in no file"),
    ("Qwen2VLModel", None, "--class Qwen2VLForConditionalGeneration, with its projector file, is the same model"),
    ("Qwen3OmniMoeForConditionalGeneration", None, "what it speaks with is in no file"),
    (
        "Qwen3TTSForConditionalGeneration",
        None,
        "of its embeddings of words and their projection the file has the product alone",
    ),
    ("SarvamMoEForCausalLM", None, "the mean of its experts' biases is in no file"),
    ("WavTokenizerDec", None, "what its codebook was trained with is in no file"),
    ("XverseForCausalLM", None, "the merges of its vocabulary are in no file"),
    ("params.json", None, "folders in Mistral's own form are read and not written"),
];

const IN_LIBRARY: bool = true;
const REMOTE: bool = false;

/// Classes that are others by another name: the name, its `model_type`, the class, whether the library has the name.
const SPELLINGS: &[(&str, &str, &str, bool)] = &[
    ("BaiChuanForCausalLM", "baichuan", "BaichuanForCausalLM", REMOTE),
    ("BitNetForCausalLM", "bitnet", "BitnetForCausalLM", REMOTE),
    ("BloomModel", "bloom", "BloomForCausalLM", IN_LIBRARY),
    ("ChameleonForCausalLM", "chameleon", "ChameleonForConditionalGeneration", REMOTE),
    ("Ernie4_5_ForCausalLM", "ernie4_5", "Ernie4_5ForCausalLM", REMOTE),
    ("ExaoneMoeForCausalLM", "exaone_moe", "ExaoneMoEForCausalLM", IN_LIBRARY),
    ("FalconMambaForCausalLM", "falcon_mamba", "MambaForCausalLM", IN_LIBRARY),
    ("IQuestCoderForCausalLM", "llama", "LlamaForCausalLM", REMOTE),
    ("JinaEmbeddingsV5Model", "eurobert", "EuroBertModel", REMOTE),
    ("KimiLinearModel", "kimi_linear", "KimiLinearForCausalLM", IN_LIBRARY),
    ("LFM2ForCausalLM", "lfm2", "Lfm2ForCausalLM", REMOTE),
    ("LLaDAMoEModel", "llada", "LLaDAMoEModelLM", REMOTE),
    ("LLaMAForCausalLM", "llama", "LlamaForCausalLM", REMOTE),
    ("Lfm2BidirectionalModel", "lfm2", "Lfm2Model", REMOTE),
    ("LlamaBidirectionalModel", "llama_bidirec", "LlamaModel", REMOTE),
    ("LlavaStableLMEpochForCausalLM", "stablelm_epoch", "StableLmForCausalLM", REMOTE),
    ("MambaLMHeadModel", "mamba", "MambaForCausalLM", REMOTE),
    ("MiMoV2ForCausalLM", "mimo_v2", "MiMoV2FlashForCausalLM", REMOTE),
    ("MiniMaxM1ForCausalLM", "minimax_m1", "MiniMaxText01ForCausalLM", REMOTE),
    ("MptForCausalLM", "mpt", "MPTForCausalLM", IN_LIBRARY),
    ("OLMoForCausalLM", "olmo", "OlmoForCausalLM", REMOTE),
    ("PLaMo2ForCausalLM", "plamo2", "Plamo2ForCausalLM", REMOTE),
    ("PLaMo3ForCausalLM", "plamo3", "Plamo3ForCausalLM", REMOTE),
    ("RWForCausalLM", "RefinedWebModel", "FalconForCausalLM", REMOTE),
    ("Rwkv7ForCausalLM", "rwkv7", "RWKV7ForCausalLM", REMOTE),
    ("StableLMEpochForCausalLM", "stablelm_epoch", "StableLmForCausalLM", REMOTE),
    ("T5WithLMHeadModel", "t5", "T5ForConditionalGeneration", REMOTE),
    ("VLlama3ForCausalLM", "vllama3", "LlamaForCausalLM", REMOTE),
    ("modeling_grove_moe.GroveMoeForCausalLM", "grove_moe", "GroveMoeForCausalLM", REMOTE),
    ("modeling_sarvam_moe.SarvamMoEForCausalLM", "sarvam_moe", "SarvamMoEForCausalLM", REMOTE),
];

/// The ways, those of other names last.
pub(crate) static WAYS: LazyLock<Vec<Way>> = LazyLock::new(|| {
    let refused = REFUSED.iter().map(|(class, of, why)| Way { of: *of, ..way(class, "", "").refused(why) });
    let mut ways: Vec<Way> = OWN.iter().copied().chain(refused).collect();
    for (class, model_type, of, in_library) in SPELLINGS {
        let own: Vec<Way> = ways.iter().filter(|way| way.class == *of).copied().collect();
        ways.extend(own.into_iter().map(|way| Way { class, model_type, in_library: *in_library, ..way }));
    }
    ways
});
