//! `config.json` from the keys of a file.
//!
//! A row says how a configuration becomes keys, and nothing says it a second time: the configuration is the one from
//! which the row's own functions make the file's keys. It begins with what the class fills in and with the fields that
//! [`FIELDS`] names for the keys; what then still differs is sought among the fields that the functions read.

use std::path::Path;

use gguf::{Error, Metadata, Result, Value};
use serde_json::{Map, Value as Json, json};

use super::file::File;
use super::keys::{Keys, float};
use super::ways::Way;
use crate::config::fields::refused;
use crate::config::{self, Config};
use crate::hf::{ANSWERS, Class, Contents, OWN_BEGINNINGS, Params, WHOLE_HEAD};
use crate::modules::{self, Pooling};
use crate::tokenizer::back::{Place, roles};
use crate::transform::{Rows, to_f32};

/// Keys without the architecture's name, and the fields that say the same, the likeliest first.
const FIELDS: &[(&str, &[&str])] = &[
    ("block_count", &["num_hidden_layers", "n_layer", "n_layers", "num_layers"]),
    (
        "context_length",
        &[
            "max_position_embeddings",
            "n_positions",
            "n_ctx",
            "max_seq_len",
            "seq_length",
            "max_sequence_length",
            "model_max_length",
        ],
    ),
    ("embedding_length", &["hidden_size", "n_embd", "d_model", "dim", "n_embed"]),
    (
        "feed_forward_length",
        &["intermediate_size", "n_inner", "ffn_hidden_size", "d_ff", "ffn_dim", "hidden_dim", "intermediate_size_mlp"],
    ),
    ("attention.head_count", &["num_attention_heads", "n_head", "n_heads", "num_heads"]),
    (
        "attention.head_count_kv",
        &[
            "num_key_value_heads",
            "num_kv_heads",
            "n_head_kv",
            "n_kv_heads",
            "multi_query_group_num",
            "num_query_groups",
        ],
    ),
    ("attention.layer_norm_rms_epsilon", &["rms_norm_eps", "norm_eps", "layer_norm_epsilon", "layernorm_epsilon"]),
    (
        "attention.layer_norm_epsilon",
        &["layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps", "rms_norm_eps"],
    ),
    ("attention.group_norm_epsilon", &["group_norm_eps", "layer_norm_epsilon"]),
    ("attention.key_length", &["head_dim", "d_kv", "kv_channels"]),
    ("attention.value_length", &["head_dim", "v_head_dim", "d_kv"]),
    ("attention.sliding_window", &["sliding_window", "window_size", "attention_chunk_size", "local_attention"]),
    ("attention.sliding_window_pattern", &["layer_types", "sliding_window_pattern"]),
    ("attention.q_lora_rank", &["q_lora_rank"]),
    ("attention.kv_lora_rank", &["kv_lora_rank"]),
    ("attention.value_length_mla", &["v_head_dim"]),
    ("attention.clamp_kqv", &["clip_qkv"]),
    ("attention.causal", &["is_causal"]),
    ("attn_logit_softcapping", &["attn_logit_softcapping"]),
    ("final_logit_softcapping", &["final_logit_softcapping"]),
    ("expert_count", &["num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"]),
    ("expert_used_count", &["num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_top_k", "moe_k"]),
    ("expert_feed_forward_length", &["moe_intermediate_size", "expert_intermediate_size", "intermediate_size"]),
    ("expert_shared_count", &["n_shared_experts", "num_shared_experts", "moe_num_shared_experts"]),
    (
        "expert_shared_feed_forward_length",
        &["shared_expert_intermediate_size", "shared_intermediate_size", "moe_shared_expert_intermediate_size"],
    ),
    ("expert_weights_scale", &["routed_scaling_factor", "moe_routed_scaling_factor"]),
    ("expert_weights_norm", &["norm_topk_prob", "moe_renormalize"]),
    ("expert_gating_func", &["scoring_func", "score_function", "score_func", "moe_router_activation_func"]),
    ("expert_group_count", &["n_group"]),
    ("expert_group_used_count", &["topk_group"]),
    ("leading_dense_block_count", &["first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"]),
    ("nextn_predict_layers", &["num_nextn_predict_layers", "mtp_num_hidden_layers"]),
    ("rope.freq_base", &["rope_theta", "rotary_emb_base"]),
    ("rope.freq_base_swa", &["rope_local_base_freq", "local_rope_theta"]),
    ("rope.dimension_count", &["rotary_dim", "qk_rope_head_dim", "head_dim"]),
    ("logit_scale", &["logit_scale", "logits_scaling"]),
    ("embedding_scale", &["embedding_multiplier", "scale_emb"]),
    ("residual_scale", &["residual_multiplier"]),
    ("attention.scale", &["attention_multiplier"]),
    ("use_parallel_residual", &["use_parallel_residual"]),
    ("ssm.conv_kernel", &["conv_kernel", "d_conv", "mamba_d_conv", "short_conv_kernel_size", "linear_conv_kernel_dim"]),
    ("ssm.inner_size", &["intermediate_size", "d_inner"]),
    ("ssm.state_size", &["state_size", "d_state", "mamba_d_state", "ssm_state_size"]),
    ("ssm.time_step_rank", &["time_step_rank", "dt_rank", "mamba_dt_rank"]),
    ("ssm.group_count", &["n_groups", "num_groups", "mamba_n_groups"]),
    ("vocab_size", &["vocab_size"]),
    ("decoder_start_token_id", &["decoder_start_token_id"]),
    ("decoder_block_count", &["num_decoder_layers"]),
    ("attention.relative_buckets_count", &["relative_attention_num_buckets"]),
    ("token_shift_count", &["token_shift_count"]),
    ("wkv.head_size", &["head_size", "head_dim"]),
    ("attention.indexer.head_count", &["index_n_heads"]),
    ("attention.indexer.key_length", &["index_head_dim"]),
    ("attention.indexer.top_k", &["index_topk"]),
    ("attention.output_group_count", &["o_groups"]),
    ("attention.output_lora_rank", &["o_lora_rank"]),
    ("attention.compress_ratios", &["compress_ratios"]),
    ("attention.compress_rope_freq_base", &["compress_rope_theta"]),
    ("hash_layer_count", &["num_hash_layers"]),
    ("hyper_connection.count", &["hc_mult"]),
    ("hyper_connection.sinkhorn_iterations", &["hc_sinkhorn_iters"]),
    ("hyper_connection.epsilon", &["hc_eps"]),
    ("interleave_moe_layer_step", &["interleave_moe_layer_step"]),
    ("moe_every_n_layers", &["moe_every_n_layers"]),
    ("num_loops", &["num_loops"]),
    ("shortconv.l_cache", &["conv_L_cache"]),
    ("attention.shared_kv_layers", &["num_kv_shared_layers"]),
    ("embedding_length_per_layer_input", &["hidden_size_per_layer_input"]),
    ("altup.num_inputs", &["altup_num_inputs"]),
    ("altup.active_idx", &["altup_active_idx"]),
    ("rescale_every_n_layers", &["rescale_every"]),
];

/// Fields that say whether a part of a layer has biases or norms, whether they say yes where it has, and the tensors
/// that tell.
const SWITCHES: &[(&str, bool, &[&str])] = &[
    (
        "attention_bias",
        true,
        &["attn_q.bias", "attn_qkv.bias", "attn_output.bias", "attn_q_a.bias", "attn_kv_a_mqa.bias"],
    ),
    ("use_qkv_bias", true, &["attn_q.bias", "attn_qkv.bias"]),
    ("qkv_bias", true, &["attn_q.bias", "attn_qkv.bias"]),
    ("qkv_proj_bias", true, &["attn_q.bias", "attn_qkv.bias"]),
    ("mlp_bias", true, &["ffn_up.bias", "ffn_down.bias", "ffn_up_shexp.bias"]),
    ("mlp_fc1_bias", true, &["ffn_up.bias"]),
    ("mlp_fc2_bias", true, &["ffn_down.bias"]),
    ("use_qk_norm", true, &["attn_q_norm.weight"]),
    ("use_bias", true, &["attn_q.bias", "attn_qkv.bias", "ffn_up.bias", "ssm_in.bias", "ssm_out.bias"]),
    ("bias", true, &["attn_q.bias", "attn_qkv.bias", "attn_output.bias", "ffn_up.bias"]),
    ("no_bias", false, &["attn_qkv.bias", "attn_output.bias", "ffn_up.bias", "output_norm.bias"]),
    ("norm_bias", true, &["token_embd_norm.bias", "output_norm.bias", "ffn_norm.bias"]),
    ("classifier_bias", true, &["cls.bias"]),
    ("conv_bias", true, &["shortconv.conv.bias"]),
    ("use_conv_bias", true, &["ssm_conv1d.bias"]),
    ("mamba_conv_bias", true, &["ssm_conv1d.bias"]),
    ("mamba_proj_bias", true, &["ssm_in.bias", "ssm_out.bias"]),
    ("lm_head_bias", true, &["output.bias"]),
];

/// The number of the pooling that scores.
const RANK: u64 = 4;

/// Fields that count layers of prediction.
const NEXT: &[&str] = &["num_nextn_predict_layers", "mtp_num_hidden_layers"];

/// A configuration, and what of it the file does not say.
pub(crate) struct Found {
    pub(crate) root: Map<String, Json>,
    pub(crate) config: Config,
    /// Keys that a conversion would write and the file does not have.
    pub(crate) added: Vec<String>,
    /// Fields that the class fills in and no key says.
    pub(crate) assumed: Vec<(String, Json)>,
    /// How the states of a text become one, where files of modules say so.
    pub(crate) pooling: Option<Pooling>,
    /// Values of a state.
    pub(crate) width: u64,
    /// Tensors of few numbers that the file has as keys.
    pub(crate) numbers: Vec<(String, Rows)>,
}

/// The configuration of a class that a file's keys say.
///
/// # Errors
/// A key that no field of the class gives, and what the row's functions refuse.
pub(crate) fn back(class: &'static Class, way: &'static Way, metadata: &Metadata, file: &File) -> Result<Found> {
    let mut solver = Solver::new(class, way, metadata, file)?;
    solver.seed();
    solver.other_files()?;
    solver.solve()?;
    solver.finish()
}

struct Solver<'a> {
    class: &'static Class,
    way: &'static Way,
    keys: Keys<'a>,
    root: Map<String, Json>,
    defaults: Map<String, Json>,
    /// Fields that a key has decided.
    decided: Vec<String>,
    /// What other files of the folder say.
    beside: Beside,
}

/// What other files of a folder say, as the rows' functions have it in their configuration.
type Beside = Vec<(&'static str, Json)>;

/// What the row's functions make of a configuration.
struct Made {
    config: Config,
    metadata: Metadata,
    reads: Vec<String>,
}

impl<'a> Solver<'a> {
    fn new(class: &'static Class, way: &'static Way, metadata: &'a Metadata, file: &'a File) -> Result<Solver<'a>> {
        let defaults: Map<String, Json> = serde_json::from_str(class.defaults)
            .map_err(|e| Error::usage(format!("the defaults of {} are no JSON object", way.class)).caused_by(e))?;
        let keys = Keys::new(class.arch, metadata, file);
        Ok(Solver { class, way, keys, root: Map::new(), defaults, decided: Vec::new(), beside: Vec::new() })
    }

    /// What stands in other files than the configuration: the pooling of modules, the answers of a reranker.
    fn other_files(&mut self) -> Result<()> {
        self.beside = (self.way.numbers)(&self.keys).0;
        let stated = self.keys.u64("pooling_type");
        let (made, _) = self.make(&self.root);
        let key = format!("{}.pooling_type", self.class.arch);
        let fixed = made.is_ok_and(|made| made.metadata.u64(&key) == stated);
        if let Some(pooling) = stated.and_then(Pooling::numbered).filter(|_| !fixed) {
            self.beside.push((modules::POOLING, (pooling as u32).into()));
        }
        let answers = (self.keys.id_of("yes"), self.keys.id_of("no"));
        if let (Some(RANK), (Some(yes), Some(no)), true) = (stated, answers, self.keys.has_tensor("cls.output.weight"))
        {
            let whole = self.keys.file.0.find("output.weight").is_some();
            if !whole && !self.keys.are_rows("cls.output.weight", "token_embd.weight", &[yes, no]) {
                return Err(Error::input(
                    "the file has the rows of its answers alone, not the output matrix that they are of",
                ));
            }
            self.beside.push((ANSWERS, json!([yes, no])));
            if whole {
                self.beside.push((WHOLE_HEAD, true.into()));
            }
            // The folder's name or this one tells a reranker from a model that answers.
            self.root.insert("_name_or_path".into(), "Qwen3-Reranker".into());
        }
        Ok(())
    }

    /// The names of a classifier's outputs.
    fn labels(&mut self) {
        let labels = self.keys.metadata.array(&format!("{}.classifier.output_labels", self.class.arch));
        let Some(labels) = labels.filter(|_| self.way.class.ends_with("SequenceClassification")) else { return };
        let labels: Vec<String> = labels.iter().filter_map(|label| label.as_str().map(str::to_owned)).collect();
        let by_id: Map<String, Json> = (0..).zip(&labels).map(|(id, l): (u64, _)| (id.to_string(), json!(l))).collect();
        let ids: Map<String, Json> = labels.into_iter().zip(0..).map(|(l, id): (_, u64)| (l, json!(id))).collect();
        self.root.insert("id2label".into(), by_id.into());
        self.root.insert("label2id".into(), ids.into());
    }

    /// Begins with what the class fills in, what the keys say under the names it knows, and what the tensors say.
    fn seed(&mut self) {
        self.root.insert("architectures".into(), json!([self.way.class]));
        self.root.insert("model_type".into(), self.way.model_type.into());
        for (field, value) in &self.defaults {
            if value != "computed" && self.way.has(field) {
                self.root.insert(field.clone(), value.clone());
            }
        }
        for (key, fields) in FIELDS {
            let Some(value) = self.keys.key(key).and_then(|v| json_of(key, v)) else { continue };
            // A field that several keys could be is that of the first of them.
            if let Some(field) = fields.iter().find(|f| self.way.has(f))
                && !self.decided.iter().any(|d| d == *field)
            {
                self.set(field, value);
            }
        }
        let tokens = self.keys.metadata.array("tokenizer.ggml.tokens").map(gguf::Array::len);
        let rows =
            self.keys.file.0.tensors().iter().find(|t| t.name() == "token_embd.weight").map(|t| t.shape().dim(1));
        if let Some(size) = rows.or(tokens) {
            self.set("vocab_size", size.into());
        }
        let tied = self.keys.file.0.find("output.weight").is_none();
        self.root.insert("tie_word_embeddings".into(), tied.into());
        for (field, yes, ends) in SWITCHES.iter().filter(|(field, ..)| self.way.has(field)) {
            // A switch of layers that the model does not have stays as the class has it.
            let has = |end: &str| self.keys.has_tensor(end);
            let there = ends.iter().any(|end| has(end));
            if !there && !ends.iter().any(|end| end.ends_with("weight") || has(&end.replace(".bias", ".weight"))) {
                continue;
            }
            self.root.insert((*field).to_owned(), (there == *yes).into());
        }
        self.labels();
        for role in roles(self.keys.metadata).filter(|role| role.place != Place::Kind) {
            let field = format!("{}_token_id", role.name);
            if ["bos", "eos", "pad"].contains(&role.name) || self.way.has(&field) {
                self.root.insert(field, role.id.into());
            }
        }
        self.layers();
        self.rope();
        (self.way.derive)(&self.keys, &mut self.root);
    }

    fn set(&mut self, field: &str, value: Json) {
        self.root.insert(field.to_owned(), value);
        self.decided.push(field.to_owned());
    }

    /// The layers of the model, where those of prediction are counted among the blocks.
    fn layers(&mut self) {
        let further = self.keys.u64("nextn_predict_layers").unwrap_or(0);
        let layers = self.keys.u64("block_count").and_then(|blocks| blocks.checked_sub(further));
        if let Some(field) = NEXT.iter().find(|field| self.way.has(field)) {
            self.root.insert((*field).to_owned(), further.into());
        }
        if further > 0 && self.way.has("num_hidden_layers") {
            self.root.insert("num_hidden_layers".into(), layers.into());
        }
    }

    /// The parameters of rotation, in the spelling that all versions read.
    fn rope(&mut self) {
        let number = |key: &str| self.keys.key(key).and_then(Value::as_f64).map(|v| float(v as f32));
        let whole = |key: &str| self.keys.key(key).and_then(Value::as_u64).map(Json::from);
        let text = |key: &str| self.keys.key(key).and_then(Value::as_str).map(str::to_owned);
        let theta = number("rope.freq_base");
        let mut scaling = Map::new();
        match text("rope.scaling.type").as_deref() {
            Some("linear") => {
                scaling.insert("rope_type".into(), "linear".into());
                scaling.insert("factor".into(), number("rope.scaling.factor").unwrap_or(json!(1.0)));
            }
            Some("yarn") => {
                scaling.insert("rope_type".into(), "yarn".into());
                for (field, key) in [
                    ("factor", "rope.scaling.factor"),
                    ("extrapolation_factor", "rope.scaling.yarn_ext_factor"),
                    ("attention_factor", "rope.scaling.yarn_attn_factor"),
                    ("beta_fast", "rope.scaling.yarn_beta_fast"),
                    ("beta_slow", "rope.scaling.yarn_beta_slow"),
                ] {
                    if let Some(value) = number(key) {
                        scaling.insert(field.into(), value);
                    }
                }
                if let Some(original) = whole("rope.scaling.original_context_length") {
                    scaling.insert("original_max_position_embeddings".into(), original);
                }
            }
            _ => {}
        }
        // Sections that the configuration does not name are written after the base.
        let place = |key: &str| {
            let key = format!("{}.{key}", self.class.arch);
            self.keys.metadata.iter().position(|(own, _)| own == key)
        };
        let stated = place("rope.dimension_sections") < place("rope.freq_base");
        let sections = self.keys.key("rope.dimension_sections").filter(|_| stated);
        if let Some(sections) = sections.and_then(Value::as_array).and_then(|a| a.to_i32s()) {
            let sections: Vec<i32> = sections.into_iter().take(3).collect();
            scaling.insert("rope_type".into(), "default".into());
            scaling.insert("mrope_section".into(), sections.into());
        }
        for (field, tensor) in
            [("long_factor", "rope_factors_long.weight"), ("short_factor", "rope_factors_short.weight")]
        {
            if let Some(values) = self.keys.values(tensor) {
                scaling.insert("rope_type".into(), "longrope".into());
                scaling.insert(field.into(), values.into_iter().map(float).collect());
            }
        }
        if let Some(original) = whole("rope.scaling.original_context_length")
            && scaling.get("rope_type").is_none_or(|t| t != "yarn")
        {
            self.root.insert("original_max_position_embeddings".into(), original);
        }
        let partial = self.way.has("partial_rotary_factor")
            || self.defaults.get("rope_parameters").is_some_and(|d| d.get("partial_rotary_factor").is_some());
        if let (true, Some(part), Some(head)) = (partial, self.keys.u64("rope.dimension_count"), self.keys.head()) {
            self.set("partial_rotary_factor", json!(part as f64 / head as f64));
        }
        if let Some(theta) = theta {
            self.set("rope_theta", theta);
        }
        if let Some(local) = self.keys.key("rope.freq_base_swa").and_then(Value::as_f64) {
            self.set("rope_local_base_freq", float(local as f32));
        }
        if let Some(factors) = self.keys.values("rope_freqs.weight") {
            scaling = self.llama3(&factors).unwrap_or(scaling);
        }
        if !scaling.is_empty() {
            self.root.insert("rope_scaling".into(), Json::Object(scaling));
        } else if self.defaults.get("rope_parameters").is_some_and(|d| d.get("factor").is_some()) {
            self.root.insert("rope_scaling".into(), json!({"rope_type": "default"}));
        }
    }

    /// The scaling of Llama 3 whose factors these are: those that the row makes of it.
    fn llama3(&self, factors: &[f32]) -> Option<Map<String, Json>> {
        let most = factors.iter().copied().fold(1.0_f32, f32::max);
        let mut root = self.root.clone();
        for original in (5..24).map(|p| 1_u64 << p) {
            for (low, high) in [(1.0, 4.0), (1.0, 2.0), (1.0, 8.0), (2.0, 4.0), (1.0, 32.0)] {
                let scaling = json!({"rope_type": "llama3", "factor": float(most), "low_freq_factor": low,
                    "high_freq_factor": high, "original_max_position_embeddings": original});
                root.insert("rope_scaling".into(), scaling.clone());
                let Ok(config) = read(self.class, self.way.class, &root, &self.beside) else { continue };
                let Ok(made) = (self.class.generated)(&config) else { continue };
                let same = made.iter().any(|(name, rows)| {
                    let count = crate::transform::row_count(rows.shape());
                    let values = rows.rows(0..count).ok().and_then(|b| to_f32(rows.elements(), &b).ok());
                    name == "rope_freqs.weight" && values.as_deref() == Some(factors)
                });
                if same {
                    return scaling.as_object().cloned();
                }
            }
        }
        None
    }

    /// What the row makes of a configuration.
    fn make(&self, root: &Map<String, Json>) -> (Result<Made>, Vec<String>) {
        let (made, reads) = config::reads_of(|| {
            let config = read(self.class, self.way.class, root, &self.beside)?;
            let mut metadata = Metadata::new();
            // There is no such folder: what a row reads from other files is not there.
            let folder = Path::new("/nonexistent/checkpoint");
            let mut params = Params::new(&config, folder, self.class.arch, 0, &mut metadata);
            (self.class.early)(&mut params)?;
            (self.class.keys)(&mut params)?;
            // What comes after the vocabulary may need its files.
            let _ = (self.class.late)(&mut params);
            Ok((config, metadata))
        });
        let made = made.map(|(config, metadata)| Made { config, metadata, reads: reads.clone() });
        (made, reads)
    }

    /// Keys of the model that are not what the file says.
    fn differing(&self, made: &Metadata) -> Vec<String> {
        differing(self.class.arch, self.keys.metadata, made)
    }

    fn solve(&mut self) -> Result<()> {
        // Each step decides one field, so there are no more steps than fields.
        for _ in 0..256 {
            let (made, reads) = self.make(&self.root);
            let made = match made {
                Ok(made) => made,
                Err(error) => {
                    if self.fill(&reads) {
                        continue;
                    }
                    return Err(error);
                }
            };
            let left = self.differing(&made.metadata);
            if left.is_empty() || !self.step(&left, &made) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sets a field that was asked for and is not there, the last one first.
    fn fill(&mut self, reads: &[String]) -> bool {
        for field in reads.iter().rev().filter(|f| self.way.has(f) && !self.root.contains_key(f.as_str())) {
            let found = FIELDS.iter().filter(|(_, fields)| fields.contains(&field.as_str()));
            let value = found.filter_map(|(key, _)| json_of(key, self.keys.key(key)?)).next();
            if let Some(value) = value {
                let field = field.clone();
                self.set(&field, value);
                return true;
            }
        }
        false
    }

    /// Decides a field so that fewer keys differ.
    fn step(&mut self, left: &[String], made: &Made) -> bool {
        let prefix = format!("{}.", self.class.arch);
        let taken = refused(&self.root, None).is_none();
        for key in left {
            let own = key.strip_prefix(&prefix).unwrap_or(key);
            let target = self.keys.metadata.get(key);
            let named = FIELDS.iter().find(|(k, _)| *k == own).map_or(&[][..], |(_, fields)| fields);
            let named = named.iter().copied().filter(|f| self.way.has(f) && made.reads.iter().any(|r| r == f));
            let free = |f: &&str| self.way.has(f) && !self.decided.iter().any(|d| d == f);
            let others = made.reads.iter().map(String::as_str).filter(free);
            let fields: Vec<&str> = named.chain(others).collect();
            for value in self.choices(own, target) {
                for field in fields.iter().filter(|field| self.can_be(field, value.as_ref())) {
                    let mut root = self.root.clone();
                    match &value {
                        Some(value) => _ = root.insert((*field).to_owned(), value.clone()),
                        None => _ = root.insert((*field).to_owned(), Json::Null),
                    }
                    // What the class refuses would be read as it stands, without what is its default.
                    if taken && refused(&root, None).is_some() {
                        continue;
                    }
                    let (Ok(next), _) = self.make(&root) else { continue };
                    let after = self.differing(&next.metadata);
                    if after.len() < left.len() && !after.contains(key) {
                        self.root = root;
                        self.decided.push((*field).to_owned());
                        return true;
                    }
                }
            }
        }
        false
    }

    /// Whether a field may have a value: the class has a default of the same type, or none that says a type.
    fn can_be(&self, field: &str, value: Option<&Json>) -> bool {
        let Some(value) = value else { return true };
        let empty = *value == json!(false) || *value == json!(0);
        match self.defaults.get(field) {
            Some(Json::Bool(_)) => value.is_boolean(),
            Some(Json::Number(_)) => value.is_number() || value.is_array(),
            // What the class computes is a number, and not 0.
            Some(Json::String(computed)) if computed == "computed" => value.is_number() && !empty,
            Some(Json::String(_)) => value.is_string(),
            _ => true,
        }
    }

    /// The values that a field may have for a key to be as the file says.
    fn choices(&self, key: &str, target: Option<&Value>) -> Vec<Option<Json>> {
        let Some(target) = target else {
            return vec![None, Some(json!(false)), Some(json!(0))];
        };
        let mut out: Vec<Option<Json>> = json_of(key, target).into_iter().map(Some).collect();
        let heads = self.keys.key("attention.head_count").and_then(Value::as_u64);
        let width = self.keys.key("embedding_length").and_then(Value::as_u64);
        let head = self.keys.head();
        if let Some(number) = target.as_f64().filter(|_| !matches!(target, Value::Bool(_))) {
            if let (Some(head), true) = (head, key == "rope.dimension_count") {
                out.push(Some(json!(number / head as f64)));
            }
            // Sizes that are a quotient or a product of others.
            for by in [heads, width].into_iter().flatten().filter(|by| *by > 0) {
                let by = by as f64;
                out.extend(
                    [number / by, number * by].into_iter().filter(|n| n.fract() == 0.0).map(|n| Some(json!(n as u64))),
                );
                out.push(Some(float((number / by) as f32)));
            }
            if number != 0.0 {
                out.push(Some(float((1.0 / number) as f32)));
                out.push(Some(float((1.0 / number / number) as f32)));
            }
        }
        out.extend([Some(json!(true)), Some(json!(false)), None]);
        out
    }

    fn finish(self) -> Result<Found> {
        let (made, _) = self.make(&self.root);
        let made = made?;
        let left = self.differing(&made.metadata);
        let mut added = Vec::new();
        for key in left {
            match (self.keys.metadata.get(&key), made.metadata.get(&key)) {
                (Some(of), Some(other)) => {
                    return Err(Error::input(format!(
                        "{key} is {}, and no field of {} was found to say so: it would be {}",
                        shown(of),
                        self.way.class,
                        shown(other)
                    )));
                }
                (Some(of), None) => {
                    return Err(Error::input(format!(
                        "{key} is {}, and no field of {} was found to say so",
                        shown(of),
                        self.way.class
                    )));
                }
                _ => added.push(key),
            }
        }
        let assumed = self
            .defaults
            .iter()
            .filter(|(field, value)| {
                self.root.get(*field) == Some(value) && !self.decided.contains(field) && made.reads.contains(field)
            })
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect();
        let pooling = self.beside.iter().find(|(name, _)| *name == modules::POOLING);
        let pooling = pooling.and_then(|(_, number)| Pooling::numbered(number.as_u64()?));
        Ok(Found {
            root: self.root,
            config: made.config,
            added,
            assumed,
            pooling,
            numbers: (self.way.numbers)(&self.keys).1,
            width: self.keys.u64("embedding_length").unwrap_or(0),
        })
    }
}

/// A configuration as the row reads it.
fn read(class: &'static Class, name: &str, root: &Map<String, Json>, beside: &Beside) -> Result<Config> {
    if !(class.when)(root) {
        return Err(Error::input(format!("{name} with this configuration is another model")));
    }
    let mut config = Config::new(root, name, class.reading(root))?;
    (class.prepare)(&mut config)?;
    let contents = Contents {
        folder: Path::new("/nonexistent/checkpoint"),
        tensors: &[],
        target: None,
        dense_modules: false,
        whole_head: false,
        vocab_only: false,
    };
    // What only tensors say is asked of them later.
    let mut inspected = with(config.clone(), beside);
    if (class.inspect)(&mut inspected, &contents).is_ok() {
        config = inspected;
    }
    Ok(with(config, beside))
}

/// The configuration with what other files of the folder say.
fn with(mut config: Config, beside: &Beside) -> Config {
    for (name, value) in beside {
        config.set(name, value.clone());
    }
    config
}

/// Keys of the model that are not what the file says: those of other values, those that lack, those too many.
pub(crate) fn differing(arch: &str, file: &Metadata, made: &Metadata) -> Vec<String> {
    let own = |key: &str| is_of_model(arch, key);
    let mut out: Vec<String> = Vec::new();
    for (key, value) in file.iter().filter(|(key, _)| own(key)) {
        if !made.get(key).is_some_and(|other| same(other, value)) {
            out.push(key.to_owned());
        }
    }
    out.extend(made.iter().filter(|(key, _)| own(key) && file.get(key).is_none()).map(|(k, _)| k.to_owned()));
    out
}

/// Whether a key describes the model. Others say how a file was made, or are somebody's own.
pub(super) fn is_of_model(arch: &str, key: &str) -> bool {
    let of_arch = key.strip_prefix(arch).is_some_and(|rest| rest.starts_with('.'));
    of_arch || OWN_BEGINNINGS.iter().any(|own| !["general.", "tokenizer."].contains(own) && key.starts_with(own))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Array(array) if array.len() > 16 => format!("a list of {}", array.len()),
        Value::F32(number) => number.to_string(),
        other => json_of("", other).map_or_else(|| "of another type".into(), |value| value.to_string()),
    }
}

/// Whether two values say the same, whatever the width of their integers.
fn same(a: &Value, b: &Value) -> bool {
    a == b || matches!((a.as_u64(), b.as_u64()), (Some(a), Some(b)) if a == b)
}

/// A key's value as a field has it.
pub(crate) fn json_of(key: &str, value: &Value) -> Option<Json> {
    if key == "attention.sliding_window_pattern" {
        // A number says that every so many-th layer sees everything, which classes have under another name.
        let kinds = value.as_array()?.iter().map(|slides| match slides.as_bool() {
            Some(true) => "sliding_attention",
            _ => "full_attention",
        });
        return Some(kinds.collect());
    }
    if key == "expert_gating_func" {
        return Some(match value.as_u64()? {
            1 => "softmax".into(),
            2 => "sigmoid".into(),
            4 => "sqrtsoftplus".into(),
            _ => return None,
        });
    }
    Some(match value {
        Value::F32(v) => float(*v),
        Value::F64(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::Array(array) => array.iter().map(|v| json_of("", &v).unwrap_or(Json::Null)).collect(),
        other => match other.as_str() {
            Some(text) => text.into(),
            None => other.as_u64().map(Json::from).or_else(|| other.as_i64().map(Json::from))?,
        },
    })
}
