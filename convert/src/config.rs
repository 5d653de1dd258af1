//! `config.json`, with the spellings of all years made one and the defaults that it leaves out filled in.
//!
//! The reference reads configurations through the transformers library, whose classes rename old fields and fill in
//! defaults. What those classes do is data here: the `defaults` of an architecture's row, and the rules of
//! [`Config::new`] that hold for all.

use std::path::Path;

use gguf::{Error, Result};
use serde_json::{Map, Value, json};

use crate::json;

/// The keys under which wrappers keep the configuration of the text model, the first one used.
const TEXT_CONFIGS: &[&str] = &["text_config", "llm_config", "lm_config", "language_config", "lfm"];

/// The defaults of a class that the transformers library does not know.
pub(crate) const RAW: &str = "{}";

/// The values of `model_type` that version 5.24 of the transformers library knows, one a line. What the reference reads
/// from a configuration of another type, or of none, is what is written there.
const MODEL_TYPES: &str = include_str!("config/model_types.txt");

fn is_recognized(root: &Map<String, Value>) -> bool {
    root.get("model_type").and_then(Value::as_str).is_some_and(|t| MODEL_TYPES.lines().any(|known| known == t))
}

/// What stands among the defaults for a value that the class computes from others.
const COMPUTED: &str = "computed";

/// A model's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    values: Map<String, Value>,
    rope: Map<String, Value>,
    class: String,
    origin: String,
    wrapped: bool,
    known: bool,
    blocks: Option<u64>,
}

/// `config.json` as it stands in a folder.
///
/// # Errors
/// A folder without one, or a file that is no JSON object.
pub fn read(folder: &Path) -> Result<Map<String, Value>> {
    let path = folder.join("config.json");
    if !path.is_file() {
        return Err(Error::input("has no config.json, so it is no checkpoint folder")
            .at(folder)
            .help("give the folder that holds config.json and the safetensors files"));
    }
    match json::read(&path)? {
        Value::Object(map) => Ok(map),
        _ => Err(Error::input("is not a JSON object").at(path)),
    }
}

/// The class that the rows have for [`read_mistral`], which names none.
pub const MISTRAL_FORM: &str = "params.json";

/// `params.json`, the configuration of a folder in Mistral's own form, as if it were a `config.json`.
///
/// # Errors
/// A folder without one, a file that is no JSON object, weights packed in a way that is not known.
pub fn read_mistral(folder: &Path) -> Result<Map<String, Value>> {
    let path = folder.join("params.json");
    if !path.is_file() {
        return Err(Error::input("has no params.json, so it is not in Mistral's own form")
            .at(folder)
            .help("leave --mistral-format away for a folder in the form of transformers"));
    }
    let Value::Object(mut map) = json::read(&path)? else {
        return Err(Error::input("is not a JSON object").at(path));
    };
    map.insert("architectures".into(), json!([MISTRAL_FORM]));
    if let Some(packing) = map.get("quantization").filter(|q| !q.is_null()) {
        let form = &packing["qformat_weight"];
        if form != "fp8_e4m3" {
            return Err(Error::input(format!("weights packed as {form} are not known")).at(path));
        }
        map.insert("quantization_config".into(), json!({"quant_method": "fp8", "weight_block_size": null}));
    }
    Ok(map)
}

/// The text model's part of a wrapper's configuration.
fn text_config(root: &Map<String, Value>) -> Option<&Map<String, Value>> {
    let thinker = root.get("thinker_config").and_then(|t| t.get("text_config"));
    TEXT_CONFIGS.iter().filter_map(|key| root.get(*key)).chain(thinker).find_map(Value::as_object)
}

/// The first of `architectures`.
fn first_class(map: &Map<String, Value>) -> Option<&str> {
    map.get("architectures")?.get(0)?.as_str()
}

/// The class of the model: `architectures` of the text model, else of the whole.
///
/// # Errors
/// A configuration that names none.
pub fn class(root: &Map<String, Value>) -> Result<String> {
    let first = |map: &Map<String, Value>| first_class(map).map(str::to_owned);
    let old_mamba = || {
        let layer = root.get("ssm_cfg")?.get("layer").and_then(Value::as_str).unwrap_or("Mamba");
        Some(format!("{layer}ForCausalLM"))
    };
    let whole = first(root).filter(|class| WHOLE_CLASSES.contains(&class.as_str()));
    let text = || text_config(root).and_then(first);
    whole.or_else(text).or_else(|| first(root)).or_else(old_mamba).ok_or_else(|| {
        Error::input("config.json names no class under \"architectures\"")
            .help("add \"architectures\": [\"LlamaForCausalLM\"] or the class that the model is")
    })
}

/// The kind of the text model, which decides what its configuration class fills in.
pub fn model_type(root: &Map<String, Value>) -> &str {
    let own = |map: &'_ Map<String, Value>| map.contains_key("model_type");
    let map = text_config(root).filter(|map| own(map)).unwrap_or(root);
    map.get("model_type").and_then(Value::as_str).unwrap_or("")
}

/// Classes of wrappers whose text model names a class that it is not.
const WHOLE_CLASSES: &[&str] = &[
    "StepVLForConditionalGeneration",
    "Sarashina2VisionForCausalLM",
    "Exaone4_5_ForConditionalGeneration",
    "Step3p7ForConditionalGeneration",
    "KimiK3ForConditionalGeneration",
];

impl Config {
    /// A configuration with the text model's values on top, the defaults of its class, and rope parameters in the
    /// newest spelling. `aliases` are other names of fields, each with the one that is read.
    ///
    /// # Errors
    /// Defaults that are no JSON object, which is a fault of the table.
    pub fn new(root: &Map<String, Value>, class: &str, defaults: &str, aliases: &[(&str, &str)]) -> Result<Config> {
        let mut values = root.clone();
        let text = text_config(root);
        for (key, value) in text.into_iter().flatten() {
            values.insert(key.clone(), value.clone());
        }
        // A model that the library does not know is read as it stands.
        let known = defaults != RAW && is_recognized(root);
        let (defaults, aliases) = if known { (defaults, aliases) } else { (RAW, &[][..]) };
        for &(alias, name) in aliases {
            if let Some(value) = values.shift_remove(alias) {
                values.entry(name).or_insert(value);
            }
        }
        let defaults: Map<String, Value> = serde_json::from_str(defaults)
            .map_err(|e| Error::usage(format!("the defaults of {class} are no JSON object")).caused_by(e))?;
        let rope = rope_parameters(&values, &defaults);
        for (key, value) in defaults {
            // What a class computes where nothing is said, it computes for null as well.
            if value == COMPUTED && values.get(&key).is_some_and(Value::is_null) {
                values.insert(key, value);
            } else {
                values.entry(key).or_insert(value);
            }
        }
        // Classes that may leave the number of key-value heads out mean as many as there are heads.
        if known && values.get("num_key_value_heads").is_some_and(Value::is_null) {
            let heads = values.get("num_attention_heads").cloned().unwrap_or(Value::Null);
            values.insert("num_key_value_heads".into(), heads);
        }
        let origin = first_class(root).unwrap_or(class).to_owned();
        let wrapped = text.is_some();
        let mut config = Config { values, rope, class: class.to_owned(), origin, wrapped, known, blocks: None };
        config.fill_head_dim();
        Ok(config)
    }

    /// `"head_dim": "computed"` among the defaults is the quotient that the class computes.
    fn fill_head_dim(&mut self) {
        let asked = self.values.get("head_dim").is_some_and(|v| v == COMPUTED);
        let quotient = self.u64("hidden_size").zip(self.u64("num_attention_heads")).and_then(|(h, n)| h.checked_div(n));
        if asked {
            self.values.insert("head_dim".into(), quotient.map_or(Value::Null, Value::from));
        }
    }

    /// The class that the folder names first: that of a wrapper, or of the model.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The class of the model.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// Whether the text model's configuration was found inside that of a wrapper.
    pub fn is_wrapped(&self) -> bool {
        self.wrapped
    }

    /// All values, as the tokenizer wants them.
    pub fn to_value(&self) -> Value {
        Value::Object(self.values.clone())
    }

    /// Whether a class of the transformers library read the configuration, with what it fills in.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// A value that is there and not null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|v| !v.is_null())
    }

    /// Whether the key is there, be its value null.
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Sets a value, for the few classes that compute one.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.values.insert(key.to_owned(), value.into());
    }

    /// Fills in the kinds of layers that a class assumes where the configuration names none: of each layer, by its
    /// number and the number of all.
    ///
    /// # Errors
    /// A configuration that does not say how many layers there are.
    pub fn set_layer_types(&mut self, kind: impl Fn(u64, u64) -> &'static str) -> Result<()> {
        if self.get("layer_types").is_none() {
            let layers = self.layers()?.min(MAX_BLOCKS);
            self.set("layer_types", (0..layers).map(|i| kind(i, layers)).collect::<Vec<_>>());
        }
        Ok(())
    }

    /// Takes a value away.
    pub fn remove(&mut self, key: &str) {
        self.values.shift_remove(key);
    }

    /// The value of the first of these keys that is there; `None` where that is null.
    pub fn first(&self, keys: &[&str]) -> Option<&Value> {
        keys.iter().find_map(|key| self.values.get(*key)).filter(|v| !v.is_null())
    }

    /// A non-negative integer.
    pub fn u64(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(as_u64)
    }

    /// A number.
    pub fn f64(&self, key: &str) -> Option<f64> {
        self.get(key)?.as_f64()
    }

    /// A boolean.
    pub fn bool(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    /// A string.
    pub fn str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// A non-negative integer under one of these keys.
    ///
    /// # Errors
    /// None of them there, or another type.
    pub fn need_u64(&self, keys: &[&str]) -> Result<u64> {
        let value = self.first(keys).ok_or_else(|| missing(keys))?;
        as_u64(value).ok_or_else(|| wrong(keys, "a whole number", value))
    }

    /// A number under one of these keys.
    ///
    /// # Errors
    /// None of them there, or another type.
    pub fn need_f64(&self, keys: &[&str]) -> Result<f64> {
        let value = self.first(keys).ok_or_else(|| missing(keys))?;
        value.as_f64().ok_or_else(|| wrong(keys, "a number", value))
    }

    /// A non-negative integer under one of these keys; the default where there is none, or 0.
    ///
    /// # Errors
    /// Another type.
    pub fn u64_or(&self, keys: &[&str], default: u64) -> Result<u64> {
        if self.first(keys).is_none() {
            return Ok(default);
        }
        self.need_u64(keys).map(|n| if n == 0 { default } else { n })
    }

    /// A number under one of these keys; the default where there is none, or 0.
    ///
    /// # Errors
    /// Another type.
    pub fn f64_or(&self, keys: &[&str], default: f64) -> Result<f64> {
        if self.first(keys).is_none() {
            return Ok(default);
        }
        self.need_f64(keys).map(|n| if n == 0.0 { default } else { n })
    }

    /// A list of non-negative integers under one of these keys.
    ///
    /// # Errors
    /// None of them there, or another type.
    pub fn need_list(&self, keys: &[&str]) -> Result<Vec<u64>> {
        let value = self.first(keys).ok_or_else(|| missing(keys))?;
        let list = value.as_array().and_then(|items| items.iter().map(as_u64).collect());
        list.ok_or_else(|| wrong(keys, "a list of whole numbers", value))
    }

    /// The rope parameters: flat, or by kind of layer under `full_attention` and `sliding_attention`.
    pub fn rope(&self) -> &Map<String, Value> {
        &self.rope
    }

    /// Sets a rope parameter, for the few classes that compute one.
    pub fn set_rope(&mut self, key: &str, value: impl Into<Value>) {
        self.rope.insert(key.to_owned(), value.into());
    }

    /// The rope parameters of layers with full attention.
    pub fn rope_full(&self) -> &Map<String, Value> {
        self.rope.get("full_attention").and_then(Value::as_object).unwrap_or(&self.rope)
    }

    /// A number of the flat rope parameters.
    pub fn rope_f64(&self, key: &str) -> Option<f64> {
        self.rope_full().get(key)?.as_f64()
    }

    /// The kind of rope scaling, in lower case; empty where there is none.
    pub fn rope_type(&self) -> String {
        self.rope_full().get("rope_type").and_then(Value::as_str).unwrap_or("").to_lowercase()
    }

    /// Says how many blocks the file has, where that is not the number of layers.
    pub fn set_blocks(&mut self, blocks: u64) {
        self.blocks = Some(blocks);
    }

    /// Blocks of the file: the layers, unless a class counts otherwise.
    ///
    /// # Errors
    /// A configuration that does not say, or claims too many.
    pub fn blocks(&self) -> Result<u64> {
        self.blocks.map_or_else(|| self.layers(), believable)
    }

    /// Layers of the model.
    ///
    /// # Errors
    /// A configuration that does not say, or claims too many.
    pub fn layers(&self) -> Result<u64> {
        self.need_u64(&["n_layers", "num_hidden_layers", "n_layer", "num_layers"]).and_then(believable)
    }

    /// Attention heads.
    ///
    /// # Errors
    /// A configuration that does not say, or says none.
    pub fn heads(&self) -> Result<u64> {
        self.need_u64(&["n_heads", "num_attention_heads", "n_head"]).and_then(|n| at_least_one(n, "attention heads"))
    }

    /// Heads of keys and values: as many as there are heads where nothing else is said.
    ///
    /// # Errors
    /// As [`Config::heads`].
    pub fn kv_heads(&self) -> Result<u64> {
        match self.first(&["n_kv_heads", "num_key_value_heads", "num_kv_heads"]) {
            Some(value) => as_u64(value)
                .ok_or_else(|| wrong(&["num_key_value_heads"], "a whole number", value))
                .and_then(|n| at_least_one(n, "key-value heads")),
            None => self.heads(),
        }
    }
}

/// More blocks than any model has; llama.cpp refuses more than 512.
const MAX_BLOCKS: u64 = 4096;

fn believable(blocks: u64) -> Result<u64> {
    if blocks > MAX_BLOCKS {
        return Err(Error::input(format!("config.json claims {blocks} layers; {MAX_BLOCKS} is the most there are")));
    }
    Ok(blocks)
}

fn at_least_one(n: u64, what: &str) -> Result<u64> {
    if n == 0 { Err(Error::input(format!("config.json claims 0 {what}"))) } else { Ok(n) }
}

fn missing(keys: &[&str]) -> Error {
    Error::input(format!("config.json has no {}", keys.join(" nor ")))
}

fn wrong(keys: &[&str], want: &str, value: &Value) -> Error {
    let shown: String = value.to_string().chars().take(60).collect();
    Error::input(format!("config.json: {} is {shown}, not {want}", keys.join(" or ")))
}

/// Whole numbers, also those written as `8.0`.
pub(crate) fn as_u64(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|f| *f >= 0.0 && f.fract() == 0.0 && *f < 2e18).map(|f| f as u64))
}

/// The rope parameters in the newest spelling, from all that were ever in use.
fn rope_parameters(values: &Map<String, Value>, defaults: &Map<String, Value>) -> Map<String, Value> {
    let first = |keys: &[&str]| keys.iter().find_map(|k| values.get(*k)).filter(|v| !v.is_null()).cloned();
    let object = |key: &str| values.get(key).and_then(Value::as_object).cloned();
    let stated = object("rope_parameters").or_else(|| object("rope_scaling"));
    let default = defaults.get("rope_parameters").and_then(Value::as_object).cloned().unwrap_or_default();
    let nested =
        |rope: &Map<String, Value>| rope.contains_key("full_attention") || rope.contains_key("sliding_attention");
    let theta =
        first(&["global_rope_theta", "rope_global_theta", "rope_theta_global", "rope_theta", "rotary_emb_base"]);
    let local =
        first(&["local_rope_theta", "rope_local_theta", "rope_theta_local", "swa_rope_theta", "rope_local_base_freq"]);
    let says_scaling = stated.is_some();
    let mut rope = stated.unwrap_or_default();
    if nested(&rope) {
        return rope;
    }
    let factor = first(&["partial_rotary_factor", "rope_pct", "rope_percent", "rotary_pct"]);
    let original = first(&["original_max_position_embeddings"])
        .or_else(|| defaults.get("original_max_position_embeddings").cloned());
    let mut set = |key: &str, value: Option<Value>| {
        if let (Some(value), false) = (value, rope.contains_key(key)) {
            rope.insert(key.to_owned(), value);
        }
    };
    set("rope_theta", theta);
    set("rope_type", values.get("rope_scaling").and_then(|s| s.get("type")).cloned());
    set("partial_rotary_factor", factor);
    set("original_max_position_embeddings", original);
    if let Some(kind) = rope.get("type").cloned() {
        rope.entry("rope_type").or_insert(kind);
    }
    if nested(&default) {
        return layered(rope, local, &default);
    }
    for (key, value) in default {
        // The kind of a default with scaling belongs to the default as a whole.
        if !says_scaling || !SCALING_FIELDS.contains(&key.as_str()) {
            rope.entry(key).or_insert(value);
        }
    }
    if let Some(local) = local {
        rope.insert("sliding_attention".into(), json!({ "rope_theta": local }));
    }
    let scaled =
        rope.get("rope_type").and_then(Value::as_str).is_some_and(|t| ["llama3", "yarn", "longrope"].contains(&t));
    if scaled && !defaults.is_empty() && !rope.contains_key("original_max_position_embeddings") {
        let longest = values.get("max_position_embeddings").or_else(|| defaults.get("max_position_embeddings"));
        if let Some(longest) = longest.filter(|v| !v.is_null()) {
            rope.insert("original_max_position_embeddings".into(), longest.clone());
        }
    }
    rope
}

/// The fields of a default that come with its kind of scaling.
const SCALING_FIELDS: &[&str] =
    &["rope_type", "factor", "beta_fast", "beta_slow", "truncate", "original_max_position_embeddings"];

/// Old flat parameters as a class with two kinds of layers reads them: scaling is of the full attention.
fn layered(flat: Map<String, Value>, local: Option<Value>, default: &Map<String, Value>) -> Map<String, Value> {
    let mut out = default.clone();
    if let Some(Value::Object(full)) = out.get_mut("full_attention") {
        full.extend(flat);
    }
    if let (Some(Value::Object(sliding)), Some(local)) = (out.get_mut("sliding_attention"), local) {
        sliding.insert("rope_theta".into(), local);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str, defaults: &str) -> Config {
        let mut root: Map<String, Value> = serde_json::from_str(text).unwrap();
        root.insert("model_type".into(), "llama".into());
        Config::new(&root, "X", defaults, &[]).unwrap()
    }

    #[test]
    fn rope_spellings_of_all_years_are_one() {
        let defaults =
            r#"{"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "max_position_embeddings": 64}"#;
        let old = config(r#"{"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}"#, defaults);
        assert_eq!((old.rope_type().as_str(), old.rope_f64("rope_theta")), ("linear", Some(5e5)));
        let new = config(r#"{"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}}"#, defaults);
        assert_eq!(new.rope_f64("factor"), old.rope_f64("factor"));
        let none = config("{}", defaults);
        assert_eq!((none.rope_type().as_str(), none.rope_f64("rope_theta")), ("default", Some(1e4)));
        let yarn = config(r#"{"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}"#, defaults);
        assert_eq!(yarn.rope_f64("original_max_position_embeddings"), Some(64.0));
        let both = config(r#"{"rope_theta": 5.0, "rope_parameters": {"rope_theta": 7.0}}"#, defaults);
        assert_eq!(both.rope_f64("rope_theta"), Some(7.0));
    }

    #[test]
    fn defaults_are_those_of_a_known_type() {
        let read = |text: &str| {
            let root: Map<String, Value> = serde_json::from_str(text).unwrap();
            let config = Config::new(&root, "X", r#"{"b": 2}"#, &[("old", "new")]).unwrap();
            (config.u64("b"), config.u64("new"))
        };
        assert_eq!(read(r#"{"model_type": "qwen3", "old": 1}"#), (Some(2), Some(1)));
        assert_eq!(read(r#"{"model_type": "qwen", "old": 1}"#), (None, None));
        assert_eq!(read(r#"{"old": 1}"#), (None, None));
    }

    #[test]
    fn partial_rotation_has_three_names() {
        for key in ["partial_rotary_factor", "rotary_pct", "rope_pct"] {
            assert_eq!(config(&format!(r#"{{"{key}": 0.25}}"#), "{}").rope_f64("partial_rotary_factor"), Some(0.25));
        }
    }

    #[test]
    fn a_wrapper_gives_its_text_model() {
        let text =
            r#"{"architectures": ["A"], "hidden_size": 1, "text_config": {"hidden_size": 2, "architectures": ["B"]}}"#;
        let root: Map<String, Value> = serde_json::from_str(text).unwrap();
        assert_eq!(class(&root).unwrap(), "B");
        let config = Config::new(&root, "B", "{}", &[]).unwrap();
        assert_eq!((config.u64("hidden_size"), config.is_wrapped()), (Some(2), true));
    }

    #[test]
    fn missing_and_mistyped_values_are_named() {
        let config = config(r#"{"num_hidden_layers": "two", "num_attention_heads": 0}"#, "{}");
        assert!(config.blocks().unwrap_err().to_string().contains("\"two\""));
        assert!(config.heads().is_err());
        assert!(config.need_f64(&["rms_norm_eps"]).unwrap_err().to_string().contains("rms_norm_eps"));
    }
}
