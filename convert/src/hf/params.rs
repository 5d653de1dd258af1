//! The keys that describe a model, in the reference's order.

use std::path::Path;

use gguf::{Array, Error, Metadata, Result, Value};
use serde_json::Value as Json;

use super::Key;
use crate::config::{Config, as_u64};
use crate::modules::{self, Pooling};

/// Collects the keys of one model.
#[derive(Debug)]
pub struct Params<'a> {
    config: &'a Config,
    folder: &'a Path,
    architecture: &'a str,
    file_type: u32,
    out: &'a mut Metadata,
}

/// Beginnings of keys that no architecture's name stands before.
pub(crate) const OWN_BEGINNINGS: &[&str] = &["general.", "tokenizer.", "diffusion.", "xielu.", "vision.pos_emb_"];

/// llama.cpp's numbers for the gates of experts.
const GATES: &[(&str, u32)] = &[("softmax", SOFTMAX), ("sigmoid", SIGMOID), ("sqrtsoftplus", 4)];

/// Experts chosen by the softmax of their scores.
pub const SOFTMAX: u32 = 1;

/// Experts chosen by the sigmoid of their scores.
pub const SIGMOID: u32 = 2;

impl<'a> Params<'a> {
    /// Keys go to the end of `out`.
    pub fn new(
        config: &'a Config,
        folder: &'a Path,
        architecture: &'a str,
        file_type: u32,
        out: &'a mut Metadata,
    ) -> Params<'a> {
        Params { config, folder, architecture, file_type, out }
    }

    /// The configuration.
    pub fn config(&self) -> &'a Config {
        self.config
    }

    /// The folder of the checkpoint.
    pub fn folder(&self) -> &'a Path {
        self.folder
    }

    /// Sets a key of the architecture, or one that is not of an architecture.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        let own = OWN_BEGINNINGS.iter().any(|beginning| key.starts_with(beginning));
        let key = if own { key.to_owned() } else { format!("{}.{key}", self.architecture) };
        self.out.set(key, value);
    }

    /// Whether a key that is not of an architecture was set.
    pub fn has(&self, key: &str) -> bool {
        self.out.get(key).is_some()
    }

    /// Sets an unsigned integer.
    ///
    /// # Errors
    /// A value above 2³².
    pub fn u32(&mut self, key: &str, value: u64) -> Result<()> {
        let value = u32::try_from(value).map_err(|_| Error::input(format!("{key}: {value} is too large")))?;
        self.set(key, value);
        Ok(())
    }

    /// Sets a float.
    pub fn f32(&mut self, key: &str, value: f64) {
        self.set(key, value as f32);
    }

    /// Sets an unsigned integer that the configuration must have under one of these names.
    ///
    /// # Errors
    /// A configuration without it.
    pub fn need_u32(&mut self, key: &str, names: &[&str]) -> Result<()> {
        let value = self.config.need_u64(names)?;
        self.u32(key, value)
    }

    /// Sets a float that the configuration must have under one of these names.
    ///
    /// # Errors
    /// A configuration without it.
    pub fn need_f32(&mut self, key: &str, names: &[&str]) -> Result<()> {
        let value = self.config.need_f64(names)?;
        self.f32(key, value);
        Ok(())
    }

    /// Sets an unsigned integer, or one a layer, where the configuration has it.
    ///
    /// # Errors
    /// Another type.
    pub fn maybe_u32(&mut self, key: &str, names: &[&str]) -> Result<()> {
        let Some(value) = self.config.first(names) else { return Ok(()) };
        if let Some(items) = value.as_array() {
            let numbers: Option<Vec<i32>> = items.iter().map(|v| i32::try_from(as_u64(v)?).ok()).collect();
            let numbers =
                numbers.ok_or_else(|| Error::input(format!("config.json: {} has no whole numbers", names[0])))?;
            if !numbers.is_empty() {
                self.set(key, Array::from(numbers.as_slice()));
            }
            return Ok(());
        }
        self.need_u32(key, names)
    }

    /// Sets a float where the configuration has it.
    ///
    /// # Errors
    /// Another type.
    pub fn maybe_f32(&mut self, key: &str, names: &[&str]) -> Result<()> {
        if self.config.first(names).is_none() { Ok(()) } else { self.need_f32(key, names) }
    }

    /// Sets a boolean that the configuration must have. Null is false.
    ///
    /// # Errors
    /// A configuration without it, or with another type.
    pub fn need_bool(&mut self, key: &str, name: &str) -> Result<()> {
        match self.config.get(name) {
            Some(Json::Bool(value)) => {
                self.set(key, *value);
                Ok(())
            }
            Some(other) => Err(Error::input(format!("config.json: {name} is {other}, not true or false"))),
            None if self.config.has(name) => {
                self.set(key, false);
                Ok(())
            }
            None => Err(Error::input(format!("config.json has no {name}"))),
        }
    }

    /// Sets a boolean where the configuration has it.
    ///
    /// # Errors
    /// Another type.
    pub fn maybe_bool(&mut self, key: &str, name: &str) -> Result<()> {
        if self.config.get(name).is_none() { Ok(()) } else { self.need_bool(key, name) }
    }

    /// Sets whole numbers, one a layer or a token. None at all are no key.
    ///
    /// # Errors
    /// A number that is no i32.
    pub fn i32s<T: Copy + TryInto<i32>>(&mut self, key: &str, values: &[T]) -> Result<()> {
        let values: Option<Vec<i32>> = values.iter().map(|v| (*v).try_into().ok()).collect();
        let values = values.ok_or_else(|| Error::input(format!("{key}: a number is too large")))?;
        if !values.is_empty() {
            self.set(key, Array::from(values.as_slice()));
        }
        Ok(())
    }

    /// Sets whole numbers that the configuration must list.
    ///
    /// # Errors
    /// A configuration without them, or with others.
    pub fn need_i32s(&mut self, key: &str, name: &str) -> Result<()> {
        let values = self.config.get(name).and_then(Json::as_array);
        let values = values.ok_or_else(|| Error::input(format!("config.json has no list {name}")))?;
        let values: Option<Vec<u64>> = values.iter().map(as_u64).collect();
        let values = values.ok_or_else(|| Error::input(format!("config.json: {name} has no whole numbers")))?;
        self.i32s(key, &values)
    }

    /// Sets floats, one a layer. None at all are no key.
    pub fn f32s(&mut self, key: &str, values: &[f32]) {
        if !values.is_empty() {
            self.set(key, Array::from(values));
        }
    }

    /// Sets booleans, one a layer. None at all are no key.
    pub fn bools(&mut self, key: &str, values: &[bool]) {
        if !values.is_empty() {
            self.set(key, Array::from(values));
        }
    }

    /// Sets which layers slide, from `layer_types`.
    pub fn sliding_pattern(&mut self, pattern: &[bool]) {
        self.bools("attention.sliding_window_pattern", pattern);
    }

    /// `general.file_type`.
    pub fn file_type(&mut self) {
        self.set("general.file_type", self.file_type);
    }

    /// The number of blocks.
    ///
    /// # Errors
    /// A configuration that does not say.
    pub fn blocks(&mut self) -> Result<()> {
        let blocks = self.config.blocks()?;
        self.u32("block_count", blocks)
    }

    /// [`Params::common`] of a configuration that was changed for these keys alone.
    ///
    /// # Errors
    /// Those of [`Params::common`].
    pub fn common_of(&mut self, config: &Config) -> Result<()> {
        self.with(config, Params::common)
    }

    /// Other keys of a configuration that was changed for these alone.
    ///
    /// # Errors
    /// Those of `keys`.
    pub fn with(&mut self, config: &Config, keys: fn(&mut Params<'_>) -> Result<()>) -> Result<()> {
        let mut params = Params {
            config,
            folder: self.folder,
            architecture: self.architecture,
            file_type: self.file_type,
            out: self.out,
        };
        keys(&mut params)
    }

    /// The dimensions that rotate: this part of a head.
    ///
    /// # Errors
    /// A configuration without hidden size or heads.
    pub fn rotary(&mut self, factor: f64) -> Result<()> {
        let head = self.config.need_u64(&["hidden_size", "n_embd"])? / self.config.heads()?;
        self.u32("rope.dimension_count", (factor * head as f64) as u64)
    }

    /// The kind of every layer: whether it slides.
    pub fn sliding_layers(&self) -> Option<Vec<bool>> {
        self.layers_of("sliding_attention")
    }

    /// Which layers are of this kind, by `layer_types`.
    pub fn layers_of(&self, kind: &str) -> Option<Vec<bool>> {
        let types = self.config.get("layer_types")?.as_array()?;
        Some(types.iter().map(|t| t == kind).collect())
    }

    /// The keys that most architectures share.
    ///
    /// # Errors
    /// Values of the wrong type.
    pub fn common(params: &mut Params<'_>) -> Result<()> {
        let p = params;
        let config = p.config;
        p.blocks()?;
        p.maybe_u32(
            "context_length",
            &[
                "max_position_embeddings",
                "n_ctx",
                "n_positions",
                "max_length",
                "max_sequence_length",
                "model_max_length",
            ],
        )?;
        p.maybe_u32("embedding_length", &["hidden_size", "n_embd", "dim"])?;
        p.maybe_u32(
            "feed_forward_length",
            &[
                "prefix_dense_intermediate_size",
                "dense_intermediate_size",
                "intermediate_size",
                "n_inner",
                "hidden_dim",
            ],
        )?;
        p.maybe_u32("attention.head_count", &["num_attention_heads", "n_head", "n_heads"])?;
        p.maybe_u32("attention.head_count_kv", &["num_key_value_heads", "n_kv_heads"])?;
        if config.bool("is_causal") == Some(false) {
            p.set("attention.causal", false);
        }
        p.rope()?;
        p.maybe_f32("attention.layer_norm_rms_epsilon", &["rms_norm_eps", "norm_eps"])?;
        p.maybe_f32("attention.layer_norm_epsilon", &["layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"])?;
        p.maybe_u32("expert_count", &["num_local_experts", "num_experts", "n_routed_experts"])?;
        p.maybe_u32("expert_used_count", &["num_experts_per_tok", "num_experts_per_token", "top_k_experts"])?;
        p.maybe_u32("expert_group_count", &["n_group"])?;
        p.maybe_u32("expert_group_used_count", &["topk_group"])?;
        p.expert_gate()?;
        p.maybe_u32("attention.key_length", &["head_dim"])?;
        p.maybe_u32("attention.value_length", &["head_dim"])?;
        p.file_type();
        Ok(())
    }

    fn expert_gate(&mut self) -> Result<()> {
        let names = [
            "score_function",
            "scoring_func",
            "score_func",
            "moe_router_activation",
            "moe_router_activation_func",
            "expert_selection_fn",
        ];
        let Some(gate) = self.config.first(&names) else { return Ok(()) };
        let number = GATES.iter().find(|(name, _)| gate == name).map(|g| g.1);
        let number =
            number.ok_or_else(|| Error::input(format!("config.json: experts chosen by {gate} are not known")))?;
        self.set("expert_gating_func", number);
        Ok(())
    }

    fn rope(&mut self) -> Result<()> {
        let config = self.config;
        let full = config.rope_full();
        let number = |key: &str| full.get(key).and_then(Json::as_f64);
        match (config.rope_type().as_str(), number("factor")) {
            ("linear", Some(factor)) => {
                self.set("rope.scaling.type", "linear");
                self.f32("rope.scaling.factor", factor);
            }
            ("yarn", Some(factor)) => {
                self.set("rope.scaling.type", "yarn");
                self.f32("rope.scaling.factor", factor);
                let original = full.get("original_max_position_embeddings").and_then(as_u64);
                let original = original.ok_or_else(|| {
                    Error::input("config.json: rope scaling by yarn needs original_max_position_embeddings")
                })?;
                self.u32("rope.scaling.original_context_length", original)?;
                for (key, value) in [
                    ("rope.scaling.yarn_ext_factor", number("extrapolation_factor")),
                    (
                        "rope.scaling.yarn_attn_factor",
                        if full.contains_key("attention_factor") {
                            number("attention_factor")
                        } else {
                            number("attn_factor")
                        },
                    ),
                    ("rope.scaling.yarn_beta_fast", number("beta_fast")),
                    ("rope.scaling.yarn_beta_slow", number("beta_slow")),
                ] {
                    if let Some(value) = value {
                        self.f32(key, value);
                    }
                }
            }
            ("su" | "longrope", _) => self.set("rope.scaling.type", "longrope"),
            _ => {}
        }
        if let Some(sections) = config.rope().get("mrope_section").and_then(Json::as_array) {
            let mut sections: Vec<i32> = sections.iter().filter_map(|v| i32::try_from(as_u64(v)?).ok()).collect();
            sections.resize(4, 0);
            self.set("rope.dimension_sections", Array::from(sections.as_slice()));
        }
        if let Some(theta) = number("rope_theta") {
            self.f32("rope.freq_base", theta);
        }
        let sliding = config.rope().get("sliding_attention").and_then(|s| s.get("rope_theta")).and_then(Json::as_f64);
        if let Some(theta) = sliding {
            self.f32("rope.freq_base_swa", theta);
        }
        Ok(())
    }

    /// The pooling of a sentence-transformers folder, where `modules.json` names one, and what a classifier scores.
    ///
    /// # Errors
    /// A pooling that the format has no number for, or files that cannot be read.
    pub fn pooling(&mut self) -> Result<()> {
        if let Some(module) = modules::read(self.folder)?.iter().find(|m| m.kind.ends_with("Pooling")) {
            self.set("pooling_type", Pooling::of(module)? as u32);
        } else if let Some(number) = self.config.u64(modules::POOLING) {
            self.u32("pooling_type", number)?;
        }
        // What a classifier scores.
        let Some(of) = self.config.get("classifier_pooling") else { return Ok(()) };
        let number = match of.as_str() {
            Some("mean") => 1_u32,
            Some("cls") => 2,
            _ => {
                return Err(Error::input(format!(
                    "config.json: classifier_pooling is {of}; the format has \"cls\" and \"mean\""
                )));
            }
        };
        self.set("classifier.pooling_type", number);
        Ok(())
    }
}

/// The window that all layers have, where files of the architecture cannot say so.
pub(crate) fn window(config: &Config) -> Vec<Key> {
    let window = config.u64("sliding_window").and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
    window.map(|n| ("attention.sliding_window", n.into())).into_iter().collect()
}

/// The window that layers have where `use_sliding_window` is on: those that `layer_types` names, or by their number and
/// that of `max_window_layers`.
pub(crate) fn switched_window(config: &Config, slides: fn(u64, u64) -> bool) -> Vec<Key> {
    if config.bool("use_sliding_window") != Some(true) {
        return Vec::new();
    }
    let mut keys =
        if config.has("sliding_window") { window(config) } else { vec![("attention.sliding_window", 4096_u32.into())] };
    let most = config.u64("max_window_layers").unwrap_or(28);
    let pattern: Vec<bool> = match config.get("layer_types").and_then(Json::as_array) {
        Some(kinds) => kinds.iter().map(|kind| kind == "sliding_attention").collect(),
        None => (0..config.blocks().unwrap_or(0)).map(|layer| slides(layer, most)).collect(),
    };
    if !keys.is_empty() {
        keys.push(("attention.sliding_window_pattern", Array::from(&pattern[..]).into()));
    }
    keys
}
