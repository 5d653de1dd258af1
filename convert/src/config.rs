//! `config.json`, with the spellings of all years made one and the defaults that it leaves out filled in.
//!
//! The reference reads configurations through the transformers library, whose classes rename old fields and fill in
//! defaults. What those classes do is data here: the `defaults` of an architecture's row, and the rules of
//! [`Config::new`] that hold for all.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use gguf::{Error, Result};
use serde_json::{Map, Value, json};

use crate::{Part, json, links, safetensors, undescribed};
use fields::{Fields, Null};

pub(crate) mod fields;

/// The keys under which wrappers keep the configuration of the text model, the first one used.
const TEXT_CONFIGS: &[&str] = &["text_config", "llm_config", "lm_config", "language_config", "lfm"];

/// The key under which drafts keep the configuration of their layers, which goes before all others.
pub(crate) const LAYER_CONFIG: &str = "transformer_layer_config";

/// The file that most values are from.
const PLACE: &str = "config.json";

/// The defaults of a class that the transformers library does not know.
pub(crate) const RAW: &str = "{}";

/// The values of `model_type` that version 5.24 of the transformers library knows, one a line. What the reference reads
/// from a configuration of another type, or of none, is what is written there.
pub(crate) const MODEL_TYPES: &str = include_str!("config/model_types.txt");

pub(crate) fn is_recognized(root: &Map<String, Value>) -> bool {
    root.get("model_type").and_then(Value::as_str).is_some_and(|t| MODEL_TYPES.lines().any(|known| known == t))
}

/// What stands among the defaults for a value that the class computes from others.
const COMPUTED: &str = "computed";

/// The size of a head, which many classes compute.
const HEAD_DIM: &str = "head_dim";

/// The heads of keys and values, of which there are as many as heads where a class computes them.
const KV_HEADS: &str = "num_key_value_heads";

thread_local! {
    /// The fields that were read, while someone wants to know.
    static READS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// What `work` makes, and the fields of configurations that it reads, in order.
pub(crate) fn reads_of<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    READS.with(|reads| *reads.borrow_mut() = Some(Vec::new()));
    let made = work();
    (made, READS.with(|reads| reads.borrow_mut().take()).unwrap_or_default())
}

fn note_read(key: &str) {
    READS.with(|reads| {
        if let Some(reads) = reads.borrow_mut().as_mut()
            && !reads.iter().any(|known| known == key)
        {
            reads.push(key.to_owned());
        }
    });
}

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
    part: Part,
    /// What messages call the place that the values are from.
    place: String,
    /// Sections with values of their own: those of towers, and of the processor beside them.
    sections: Vec<(&'static str, Config)>,
}

/// The configuration as it stands in a folder, in this form or in Mistral's own, and where it stands.
///
/// # Errors
/// Those of [`read`] and [`read_mistral`].
pub fn read_form(folder: &Path, mistral: bool) -> Result<(Map<String, Value>, PathBuf)> {
    match mistral {
        true => Ok((read_mistral(folder)?, folder.join("params.json"))),
        false => Ok((read(folder)?, folder.join("config.json"))),
    }
}

/// `config.json` as it stands in a folder.
///
/// # Errors
/// A folder without one or with links out of it, or a file that is no JSON object.
pub fn read(folder: &Path) -> Result<Map<String, Value>> {
    links::check(folder)?;
    let path = folder.join("config.json");
    if !path.is_file() {
        if let Some(error) = safetensors::mistral_form(folder).ok().flatten() {
            return Err(error);
        }
        if let Some(map) = undescribed::configuration(folder)? {
            return Ok(map);
        }
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
/// A folder without one or with links out of it, a file that is no JSON object, weights packed in a way that is not known.
pub fn read_mistral(folder: &Path) -> Result<Map<String, Value>> {
    links::check(folder)?;
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
pub(crate) fn text_config(root: &Map<String, Value>) -> Option<&Map<String, Value>> {
    let thinker = root.get("thinker_config").and_then(|t| t.get("text_config"));
    // Of a model that thinks, what talks is another.
    let talker = root.get("talker_config");
    TEXT_CONFIGS.iter().filter_map(|key| root.get(*key)).chain(thinker).chain(talker).find_map(Value::as_object)
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

/// How a class of the library reads a configuration.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// What it fills in, as JSON.
    pub defaults: &'a str,
    /// Other names of fields, each with the one that is read.
    pub aliases: &'a [(&'a str, &'a str)],
    /// What it makes of the rope parameters.
    pub rope: Rope,
}

/// What a class of the library makes of rope parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rope {
    /// One set for all layers. Fields of older years fill it up: the scaling, and the base under this name.
    One(&'static str),
    /// A set for each kind of layer. Fields of older years fill them up: the bases of layers with full attention and of
    /// those that slide under these names, and the scaling, which is of full attention or of both.
    Kinds {
        /// The base of full attention.
        full: &'static str,
        /// The base of layers that slide.
        sliding: &'static str,
        /// Whether the scaling is of layers that slide as well.
        both: bool,
    },
    /// One set for all layers, which the class refuses where it scales without these.
    Scaled(&'static [&'static str]),
    /// As they stand, else the class's own. Fields of older years say nothing.
    Stated,
    /// Those of older years alone.
    Old,
}

impl Rope {
    /// The field that most classes of a rotation with one base had before.
    pub const ONE: Rope = Rope::One("rope_theta");
    /// The fields of Gemma 3.
    pub const GEMMA: Rope = Rope::Kinds { full: "rope_theta", sliding: "rope_local_base_freq", both: false };

    /// Whether the class reads these values at all. The library's class fails where a scaling lacks what it asks for, or
    /// where one of older years stands beside one set for all layers, and the reference then reads the configuration as
    /// it stands.
    fn reads(self, values: &Map<String, Value>) -> bool {
        let object = |key: &str| values.get(key).and_then(Value::as_object);
        let scaling = || object("rope_scaling").filter(|scaling| !scaling.is_empty());
        if let Rope::Scaled(needed) = self
            && let Some(rope) = scaling().or_else(|| object("rope_parameters"))
        {
            let kind = rope.get("rope_type").or_else(|| rope.get("type"));
            return kind.is_none_or(|kind| kind == "default") || needed.iter().all(|key| rope.contains_key(*key));
        }
        let (Rope::Kinds { both, .. }, Some(_), Some(stated)) =
            (self, object("rope_scaling"), object("rope_parameters"))
        else {
            return true;
        };
        let has = |kind: &str| stated.get(kind).is_some_and(Value::is_object);
        has(FULL) && (has(SLIDING) || !both)
    }
}

/// The kind of layers that see all positions.
const FULL: &str = "full_attention";

/// The kind of layers that see a window.
const SLIDING: &str = "sliding_attention";

impl Config {
    /// A configuration with the text model's values on top, the defaults of its class, and rope parameters in the
    /// newest spelling.
    ///
    /// # Errors
    /// Defaults that are no JSON object, which is a fault of the table.
    pub fn new(root: &Map<String, Value>, class: &str, reading: Reading<'_>) -> Result<Config> {
        let mut values = root.clone();
        let text = text_config(root);
        for (key, value) in text.into_iter().flatten() {
            if !value.is_null() || OFF.contains(&key.as_str()) || !values.contains_key(key) {
                values.insert(key.clone(), value.clone());
            }
        }
        for (key, value) in root.get(LAYER_CONFIG).and_then(Value::as_object).into_iter().flatten() {
            values.insert(key.clone(), value.clone());
        }
        // A model that the library does not know is read as it stands, and so is one that its class refuses.
        let Reading { defaults, aliases, rope } = reading;
        let recognized = defaults != RAW && is_recognized(root) && rope.reads(&values);
        let [whole, part] = fields::of(root, text);
        let known = recognized && fields::refused_of([whole, part], root, text).is_none();
        let own = if recognized { defaults } else { RAW };
        let (defaults, aliases) = if known { (defaults, aliases) } else { (RAW, &[][..]) };
        let null_of = |key: &str| part.or(whole).map_or(Null::Unsaid, |fields| fields.null(key));
        let others = part.or(whole).filter(|_| known).into_iter().flat_map(Fields::names);
        let mut names: Vec<(&str, &str)> = aliases.to_vec();
        for other in others {
            names.push(other);
        }
        let declares = |name: &str| part.or(whole).is_some_and(|fields| fields.declares(name));
        for (alias, name) in names {
            // Where both are stated, the library goes by the one that is no field of the class: it is set later.
            let first = declares(alias) && !declares(name) && values.get(name).is_some_and(|value| !value.is_null());
            if let Some(value) = values.shift_remove(alias).filter(|_| !first)
                && (!value.is_null() || !values.contains_key(name))
            {
                values.insert(name.to_owned(), value);
            }
        }
        let object = |text: &str| -> Result<Map<String, Value>> {
            serde_json::from_str(text)
                .map_err(|e| Error::usage(format!("the defaults of {class} are no JSON object")).caused_by(e))
        };
        for (key, value) in object(own)? {
            if !values.get(&key).is_some_and(Value::is_null) {
                continue;
            }
            if SIZES.contains(&key.as_str()) && value.is_number() {
                return Err(Error::input(format!("config.json: {key} is null")).help(format!(
                    "write the number that the weights were made with; {class} has {value} by default"
                )));
            }
            if NEEDED.contains(&key.as_str()) && null_of(&key) == Null::Unsaid {
                values.insert(key, value);
            }
        }
        let defaults = object(defaults)?;
        check_heads(&values)?;
        let rope = rope_parameters(&values, &defaults, rope);
        for (key, value) in defaults {
            let null = values.get(&key).is_some_and(Value::is_null);
            // What a class computes where nothing is said, it computes for null as well.
            let (states, value) = match null_of(&key) {
                _ if !null => (false, value),
                Null::Stays => (true, value),
                Null::Computed if key == HEAD_DIM => (false, COMPUTED.into()),
                Null::Computed => (key == KV_HEADS, value),
                Null::Unsaid => (OFF.contains(&key.as_str()) && value != COMPUTED, value),
            };
            if !values.contains_key(&key) || null && !states {
                values.insert(key, value);
            }
        }
        // Classes that may leave the number of key-value heads out mean as many as there are heads.
        let computes = part.or(whole).is_none_or(|fields| fields.null(KV_HEADS) == Null::Computed);
        if known && values.get(KV_HEADS).is_some_and(Value::is_null) && computes {
            let heads = values.get("num_attention_heads").cloned().unwrap_or(Value::Null);
            values.insert(KV_HEADS.into(), heads);
        }
        let origin = first_class(root).unwrap_or(class).to_owned();
        let wrapped = text.is_some();
        let mut config = Config { rope, class: class.to_owned(), origin, wrapped, known, ..Config::of(values, PLACE) };
        config.fill_head_dim();
        Ok(config)
    }

    /// Values as they stand, from this place.
    pub(crate) fn of(values: Map<String, Value>, place: &str) -> Config {
        Config {
            values,
            rope: Map::new(),
            class: String::new(),
            origin: String::new(),
            wrapped: false,
            known: false,
            blocks: None,
            place: place.to_owned(),
            part: Part::Model,
            sections: Vec::new(),
        }
    }

    /// The configuration of a folder with towers as their classes read it: that of the whole, with what they fill in.
    pub(crate) fn whole(values: Map<String, Value>, class: &str, known: bool) -> Config {
        Config { class: class.to_owned(), known, ..Config::of(values, PLACE) }
    }

    /// Sets a section.
    pub(crate) fn set_section(&mut self, name: &'static str, section: Config) {
        self.sections.retain(|(own, _)| *own != name);
        self.sections.push((name, section));
    }

    /// A section that may be there.
    pub(crate) fn section(&self, name: &str) -> Option<&Config> {
        self.sections.iter().find(|(own, _)| *own == name).map(|(_, section)| section)
    }

    /// The same, to change it.
    pub(crate) fn section_mut(&mut self, name: &str) -> Option<&mut Config> {
        self.sections.iter_mut().find(|(own, _)| *own == name).map(|(_, section)| section)
    }

    /// What messages call the place that the values are from.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// `"head_dim": "computed"` among the defaults is the quotient that the class computes.
    fn fill_head_dim(&mut self) {
        let asked = self.values.get(HEAD_DIM).is_some_and(|v| v == COMPUTED);
        let quotient = self.u64("hidden_size").zip(self.u64("num_attention_heads")).and_then(|(h, n)| h.checked_div(n));
        if asked {
            self.values.insert(HEAD_DIM.into(), quotient.map_or(Value::Null, Value::from));
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

    /// All values.
    pub(crate) fn values(&self) -> &Map<String, Value> {
        &self.values
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
        note_read(key);
        self.values.get(key).filter(|v| !v.is_null())
    }

    /// Whether the key is there, be its value null: for the few classes to which null says something.
    pub fn has(&self, key: &str) -> bool {
        note_read(key);
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

    /// The value of the first of these keys that is there and not null.
    pub fn first(&self, keys: &[&str]) -> Option<&Value> {
        keys.iter().find_map(|key| self.get(key))
    }

    fn missing(&self, keys: &[&str]) -> Error {
        match keys.iter().find(|key| self.has(key)) {
            Some(key) => Error::input(format!("{}: {key} is null", self.place)),
            None => Error::input(format!("{} has no {}", self.place, keys.join(" nor "))),
        }
    }

    fn wrong(&self, keys: &[&str], want: &str, value: &Value) -> Error {
        let shown: String = value.to_string().chars().take(60).collect();
        Error::input(format!("{}: {} is {shown}, not {want}", self.place, keys.join(" or ")))
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
        let value = self.first(keys).ok_or_else(|| self.missing(keys))?;
        as_u64(value).ok_or_else(|| self.wrong(keys, "a whole number", value))
    }

    /// A number under one of these keys.
    ///
    /// # Errors
    /// None of them there, or another type.
    pub fn need_f64(&self, keys: &[&str]) -> Result<f64> {
        let value = self.first(keys).ok_or_else(|| self.missing(keys))?;
        value.as_f64().ok_or_else(|| self.wrong(keys, "a number", value))
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
        let value = self.first(keys).ok_or_else(|| self.missing(keys))?;
        let list = value.as_array().and_then(|items| items.iter().map(as_u64).collect());
        list.ok_or_else(|| self.wrong(keys, "a list of whole numbers", value))
    }

    /// The rope parameters: flat, or by kind of layer under `full_attention` and `sliding_attention`.
    pub fn rope(&self) -> &Map<String, Value> {
        &self.rope
    }

    /// Sets a rope parameter, for the few classes that compute one.
    pub fn set_rope(&mut self, key: &str, value: impl Into<Value>) {
        self.rope.insert(key.to_owned(), value.into());
    }

    /// Sets all rope parameters, for the few classes that read others than most.
    pub fn set_rope_parameters(&mut self, rope: Map<String, Value>) {
        self.rope = rope;
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

    /// Says which part of the model the file has. Without its layers of prediction, nothing counts them.
    pub(crate) fn set_part(&mut self, part: Part) {
        self.part = part;
        if part == Part::Trunk {
            ["num_nextn_predict_layers", "mtp_num_hidden_layers"].iter().for_each(|key| self.remove(key));
        }
    }

    /// Which part of the model the file has.
    pub fn part(&self) -> Part {
        self.part
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
        self.heads_under(HEADS)
    }

    /// Attention heads under one of these names.
    ///
    /// # Errors
    /// As [`Config::heads`].
    pub fn heads_under(&self, names: &[&str]) -> Result<u64> {
        self.need_u64(names).and_then(|n| at_least_one(n, "attention heads"))
    }

    /// Heads of keys and values: as many as there are heads where nothing else is said.
    ///
    /// # Errors
    /// As [`Config::heads`].
    pub fn kv_heads(&self) -> Result<u64> {
        self.key_heads_under(KEY_HEADS, HEADS)
    }

    /// Heads of keys and values under one of the first names, else as many as there are heads under the others.
    ///
    /// # Errors
    /// As [`Config::heads`].
    pub fn key_heads_under(&self, names: &[&str], heads: &[&str]) -> Result<u64> {
        match self.first(names) {
            Some(_) => self.need_u64(names).and_then(|n| at_least_one(n, "key-value heads")),
            None => self.heads_under(heads),
        }
    }
}

/// The names of the number of attention heads, the first one used.
pub(crate) const HEADS: &[&str] = &["num_attention_heads", "n_head", "n_heads"];

/// The names of the number of heads of keys and values, the first one used.
pub(crate) const KEY_HEADS: &[&str] = &["num_key_value_heads", "n_kv_heads"];

/// More blocks than any model has; llama.cpp refuses more than 512.
const MAX_BLOCKS: u64 = 4096;

fn believable(blocks: u64) -> Result<u64> {
    if blocks > MAX_BLOCKS {
        return Err(Error::input(format!("config.json claims {blocks} layers; {MAX_BLOCKS} is the most there are")));
    }
    Ok(blocks)
}

/// More dimensions of a head than any model has.
const MAX_HEAD: u64 = 1 << 16;

/// Keys whose null is a statement: the thing is off, or, of key-value heads, that there are as many as heads. Elsewhere
/// null equals absent.
const OFF: &[&str] = &[
    "attn_logit_softcapping",
    "clip_qkv",
    "final_logit_softcapping",
    "first_k_dense_replace",
    "kv_lora_rank",
    "moe_intermediate_size",
    "n_group",
    "n_routed_experts",
    "n_shared_experts",
    "norm_topk_prob",
    "num_experts",
    "num_experts_per_tok",
    "num_key_value_heads",
    "num_local_experts",
    "num_shared_experts",
    "q_lora_rank",
    "shared_expert_intermediate_size",
    "sliding_window",
    "top_k_experts",
    "topk_group",
];

/// What every file has to say, so that null equals absent though the library's class refuses it.
const NEEDED: &[&str] =
    &["layer_norm_eps", "layer_norm_epsilon", "max_position_embeddings", "norm_eps", "rms_norm_eps"];

/// Sizes of the weights, which no default can stand for where a configuration says null.
const SIZES: &[&str] = &[
    "d_ff",
    "d_model",
    "hidden_size",
    "intermediate_size",
    "n_embd",
    "n_head",
    "n_heads",
    "n_layer",
    "n_layers",
    "num_attention_heads",
    "num_heads",
    "num_hidden_layers",
    "num_layers",
];

/// Refuses heads that nothing could be allocated for, whatever they are called.
fn check_heads(values: &Map<String, Value>) -> Result<()> {
    let heads =
        values.iter().filter(|(key, _)| key.ends_with("head_dim") || ["d_kv", "kv_channels"].contains(&key.as_str()));
    match heads.into_iter().find(|(_, value)| value.as_f64().is_some_and(|n| n > MAX_HEAD as f64)) {
        Some((key, value)) => {
            Err(Error::input(format!("config.json: {key} is {value}; {MAX_HEAD} is the most there are")))
        }
        None => Ok(()),
    }
}

fn at_least_one(n: u64, what: &str) -> Result<u64> {
    if n == 0 { Err(Error::input(format!("config.json claims 0 {what}"))) } else { Ok(n) }
}

/// Whole numbers, also those written as `8.0`.
pub(crate) fn as_u64(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|f| *f >= 0.0 && f.fract() == 0.0 && *f < 2e18).map(|f| f as u64))
}

/// The rope parameters in the newest spelling, from all that were ever in use.
fn rope_parameters(values: &Map<String, Value>, defaults: &Map<String, Value>, way: Rope) -> Map<String, Value> {
    let stated = |keys: &[&str]| keys.iter().find_map(|k| values.get(*k).filter(|v| !v.is_null())).cloned();
    let object = |key: &str| values.get(key).and_then(Value::as_object).cloned();
    let known = !defaults.is_empty();
    let longest = || {
        let own = || defaults.get("max_position_embeddings").filter(|v| !v.is_null()).cloned();
        stated(&["max_position_embeddings"]).or_else(own)
    };
    let default = defaults.get("rope_parameters").and_then(Value::as_object).cloned().unwrap_or_default();
    match way {
        Rope::Kinds { full, sliding, both } if known => {
            let rope = object("rope_parameters").unwrap_or_default();
            let scaling = object("rope_scaling").unwrap_or_default();
            let longest = longest();
            // The one base of a class is not that of its second kind of layers.
            let local = if sliding == full { None } else { stated(&[sliding]) };
            let bases = [(FULL, stated(&[full]), true), (SLIDING, local, both)];
            return by_kind(
                rope,
                &default,
                bases.map(|(kind, base, scaled)| Kind { kind, base, scaled }),
                &scaling,
                longest,
            );
        }
        Rope::Stated if known => {
            let mut rope = object("rope_parameters").unwrap_or_else(|| default.clone());
            if is_nested(&rope) {
                fill_layered(&mut rope, &default);
                return rope;
            }
        }
        _ => {}
    }
    // A class that has the old field for its own leaves it aside, as all do with one that says nothing.
    let has_rope = defaults.contains_key("rope_parameters");
    let aside = defaults.contains_key("rope_scaling") || known && way == Rope::Stated;
    let old = object("rope_scaling").filter(|scaling| !(aside || has_rope && scaling.is_empty()));
    let scaling = old.clone().filter(|_| has_rope);
    // The old field, written by hand beside the new one, is what the library goes by.
    let found = match scaling {
        Some(scaling) => Some(scaling),
        None => object("rope_parameters").filter(|_| !(known && way == Rope::Old)).or(old),
    };
    let names = match way {
        Rope::One(name) if [defaults, &default].iter().any(|own| own.contains_key("rope_theta")) => &[name][..],
        _ => THETA,
    };
    let theta = stated(names);
    let local =
        stated(&["local_rope_theta", "rope_local_theta", "rope_theta_local", "swa_rope_theta", "rope_local_base_freq"]);
    let says_scaling = found.is_some();
    // The class's own base, where its own scaling says another or none.
    let base = defaults.get("rope_theta").cloned();
    // A default with scaling is taken as a whole, with its base.
    let whole = || Some(default.clone()).filter(|default| default.contains_key("factor"));
    let mut rope = found.or_else(whole).unwrap_or_default();
    if is_nested(&rope) {
        let theta = theta.or_else(|| base.or_else(|| default.get("rope_theta").cloned()));
        let listed = values.get("layer_types").and_then(Value::as_array).filter(|_| has_rope);
        let is_listed = |kind: &str| listed.is_some_and(|kinds| kinds.iter().any(|k| k == kind));
        for (_, own) in rope.iter_mut().filter(|(kind, _)| is_listed(kind)) {
            if let Some(own) = own.as_object_mut() {
                fill_kind(own, theta.clone(), longest());
            }
        }
        if has_rope && !rope.contains_key(FULL) && !is_listed(SLIDING) {
            // What layers with full attention read stands beside the set of the others.
            rope.extend(theta.map(|base| ("rope_theta".to_owned(), base)));
        }
        return rope;
    }
    let null = |map: &Map<String, Value>, key: &str| map.get(key).is_some_and(Value::is_null);
    let no_theta = theta.is_none() && (null(&rope, "rope_theta") || names.iter().any(|key| null(values, key)));
    rope.retain(|_, value| !value.is_null());
    let factor = stated(&["partial_rotary_factor", "rope_pct", "rope_percent"]);
    let original = stated(&["original_max_position_embeddings"])
        .or_else(|| defaults.get("original_max_position_embeddings").cloned());
    let mut set = |key: &str, value: Option<Value>| {
        if let (Some(value), false) = (value, rope.contains_key(key)) {
            rope.insert(key.to_owned(), value);
        }
    };
    set("rope_theta", theta);
    set("partial_rotary_factor", factor);
    if let Some(kind) = rope.get("type").cloned() {
        rope.entry("rope_type").or_insert(kind);
    }
    // One set is none of those by kind that a class has for its own.
    let own = base.map(|base| ("rope_theta".to_owned(), base)).into_iter().chain(default);
    for (key, value) in own.filter(|(key, _)| key != FULL && key != SLIDING) {
        // The reference writes no base where a configuration says null, and readers then take the usual one.
        let usual = no_theta && key == "rope_theta" && value == USUAL_THETA;
        // The kind of a default with scaling belongs to the default as a whole.
        if !usual && (!says_scaling || !SCALING_FIELDS.contains(&key.as_str())) {
            rope.entry(key).or_insert(value);
        }
    }
    if let Some(local) = local {
        rope.insert(SLIDING.into(), json!({ "rope_theta": local }));
    }
    const LENGTH: &str = "original_max_position_embeddings";
    let by_length = rope.get("rope_type").and_then(Value::as_str).is_some_and(|kind| ORIGINAL.contains(&kind));
    if known && by_length {
        // A class with a field for the length of training goes by it before all; the others take the longest text.
        if let (Some(length), true) = (original.clone(), defaults.contains_key(LENGTH)) {
            rope.insert(LENGTH.into(), length);
        } else if let (false, Some(longest)) = (rope.contains_key(LENGTH), longest()) {
            rope.insert(LENGTH.into(), longest);
        }
    }
    if let Some(length) = original {
        rope.entry(LENGTH).or_insert(length);
    }
    rope
}

/// The kinds of scaling that go by the length of training.
const ORIGINAL: &[&str] = &["llama3", "yarn", "longrope"];

/// Whether rope parameters are by kind of layer.
fn is_nested(rope: &Map<String, Value>) -> bool {
    rope.contains_key(FULL) || rope.contains_key(SLIDING)
}

/// What fields of older years say of one kind of layer.
struct Kind {
    kind: &'static str,
    base: Option<Value>,
    /// Whether the scaling is of it.
    scaled: bool,
}

/// Parameters by kind of layer, filled up from fields of older years and the class's own.
fn by_kind(
    mut rope: Map<String, Value>,
    default: &Map<String, Value>,
    kinds: [Kind; 2],
    scaling: &Map<String, Value>,
    longest: Option<Value>,
) -> Map<String, Value> {
    for Kind { kind, base, scaled } in kinds {
        let usual = default.get(kind).and_then(|own| own.get("rope_theta")).cloned();
        let own = rope.entry(kind).or_insert(Value::Null);
        if !own.is_object() {
            *own = Value::Object(Map::new());
        }
        let Some(own) = own.as_object_mut() else { continue };
        if own.is_empty() {
            own.insert("rope_type".into(), "default".into());
        }
        if scaled {
            own.extend(scaling.clone());
        }
        fill_kind(own, base.or(usual), longest.clone());
    }
    rope
}

/// Fills up the parameters of a kind of layer: the kind of scaling under its older name, the base, and the length of
/// training.
fn fill_kind(own: &mut Map<String, Value>, base: Option<Value>, longest: Option<Value>) {
    own.retain(|_, value| !value.is_null());
    let named = own.get("type").cloned().unwrap_or_else(|| "default".into());
    let scaled = own.entry("rope_type").or_insert(named).as_str().is_some_and(|kind| ORIGINAL.contains(&kind));
    if let Some(base) = base {
        own.entry("rope_theta").or_insert(base);
    }
    if let (true, Some(longest)) = (scaled, longest) {
        own.entry("original_max_position_embeddings").or_insert(longest);
    }
}

/// The names of the base of rotation.
const THETA: &[&str] =
    &["global_rope_theta", "rope_global_theta", "rope_theta_global", "rope_theta", "rotary_emb_base"];

/// The base where a file says nothing of it.
const USUAL_THETA: f64 = 10000.0;

/// What parameters by kind of layer say null to, from the default's.
fn fill_layered(rope: &mut Map<String, Value>, default: &Map<String, Value>) {
    for (kind, default) in default.iter().filter_map(|(kind, value)| Some((kind, value.as_object()?))) {
        let Some(stated) = rope.get_mut(kind) else { continue };
        if stated.is_null() {
            *stated = Value::Object(default.clone());
        }
        let Some(stated) = stated.as_object_mut() else { continue };
        for key in ["rope_type", "rope_theta"] {
            if let Some(value) = default.get(key).filter(|_| stated.get(key).is_some_and(Value::is_null)) {
                stated.insert(key.to_owned(), value.clone());
            }
        }
    }
}

/// The fields of a default that come with its kind of scaling.
const SCALING_FIELDS: &[&str] =
    &["rope_type", "factor", "beta_fast", "beta_slow", "truncate", "original_max_position_embeddings"];

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(defaults: &str) -> Reading<'_> {
        Reading { defaults, aliases: &[], rope: Rope::ONE }
    }

    fn config(text: &str, defaults: &str) -> Config {
        let mut root: Map<String, Value> = serde_json::from_str(text).unwrap();
        root.insert("model_type".into(), "llama".into());
        Config::new(&root, "X", reading(defaults)).unwrap()
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
        // A length of training beside the parameters goes before one among them where it is a field of the class, and
        // the longest text before it where it is none.
        let length = |kind: &str, among: &str, defaults: &str| {
            let stated = format!(
                r#"{{"rope_scaling": {{"rope_type": "{kind}", "factor": 4.0 {among}}}, "original_max_position_embeddings": 16}}"#
            );
            config(&stated, defaults).rope_f64("original_max_position_embeddings")
        };
        let (among, field) =
            (r#", "original_max_position_embeddings": 32"#, r#"{"original_max_position_embeddings": 8,"#);
        let field = defaults.replacen('{', field, 1);
        assert_eq!((length("yarn", among, &field), length("dynamic", among, &field)), (Some(16.0), Some(32.0)));
        assert_eq!((length("yarn", among, defaults), length("yarn", "", defaults)), (Some(32.0), Some(64.0)));
        assert_eq!(length("dynamic", "", defaults), Some(16.0));
        let beside =
            r#"{"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_parameters": {"rope_type": "default"}}"#;
        assert_eq!(
            (config(beside, defaults).rope_type(), config(beside, "{}").rope_type()),
            ("linear".into(), "default".into())
        );
        let both = config(r#"{"rope_theta": 5.0, "rope_parameters": {"rope_theta": 7.0}}"#, defaults);
        assert_eq!(both.rope_f64("rope_theta"), Some(7.0));
    }

    #[test]
    fn each_class_reads_the_rope_of_older_years_its_own_way() {
        let own = r#"{"max_position_embeddings": 64, "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}}"#;
        let bases = |rope: Rope, text: &str| {
            let mut root: Map<String, Value> = serde_json::from_str(text).unwrap();
            root.insert("model_type".into(), "llama".into());
            let config = Config::new(&root, "X", Reading { rope, ..reading(own) }).unwrap();
            let sliding = config.rope().get(SLIDING).and_then(|kind| kind["rope_theta"].as_f64());
            (config.rope_f64("rope_theta"), sliding, config.rope_type())
        };
        let modern = Rope::Kinds { full: "global_rope_theta", sliding: "local_rope_theta", both: true };
        let olmo = Rope::Kinds { full: "rope_theta", sliding: "rope_theta", both: false };
        let old =
            r#"{"rope_theta": 5.0, "rope_local_base_freq": 3.0, "global_rope_theta": 7.0, "local_rope_theta": 2.0}"#;
        let none = String::from("default");
        assert_eq!(bases(Rope::GEMMA, old), (Some(5.0), Some(3.0), none.clone()));
        assert_eq!(bases(modern, old), (Some(7.0), Some(2.0), none.clone()));
        assert_eq!(bases(olmo, old), (Some(5.0), Some(1e4), none.clone()));
        assert_eq!(bases(Rope::Stated, old), (Some(1e6), Some(1e4), none.clone()));
        assert_eq!(bases(Rope::GEMMA, "{}"), (Some(1e6), Some(1e4), none.clone()));
        // A kind that the configuration does not have stays away where the class does not look for it.
        let full = r#"{"rope_parameters": {"full_attention": {"rope_theta": 5.0, "rope_type": "default"}}}"#;
        assert_eq!(bases(Rope::Stated, full), (Some(5.0), None, none.clone()));
        assert_eq!(bases(Rope::GEMMA, full), (Some(5.0), Some(1e4), none.clone()));
        // One set is none of a kind of layers.
        let flat = r#"{"rope_parameters": {"rope_theta": 5.0, "rope_type": "linear", "factor": 2.0}}"#;
        assert_eq!(bases(Rope::GEMMA, flat), (Some(1e6), Some(1e4), none.clone()));
        // A scaling of older years is of full attention, and goes by the length of training.
        let scaled = r#"{"rope_scaling": {"rope_type": "yarn", "factor": 2.0}, "rope_theta": 5.0}"#;
        assert_eq!(bases(Rope::GEMMA, scaled), (Some(5.0), Some(1e4), "yarn".into()));
        let root: Map<String, Value> = serde_json::from_str(scaled).unwrap();
        let root = root.into_iter().chain([("model_type".to_owned(), "llama".into())]).collect();
        let both = Config::new(&root, "X", Reading { rope: modern, ..reading(own) }).unwrap();
        for kind in [FULL, SLIDING] {
            assert_eq!(both.rope()[kind]["rope_type"], "yarn");
            assert_eq!(both.rope()[kind]["original_max_position_embeddings"], 64);
        }
        // Beside one set for all layers the class of the library fails, and the file is read as it stands.
        let beside = r#"{"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 5.0}}"#;
        assert_eq!(bases(Rope::GEMMA, beside), (Some(5.0), None, String::new()));
        // The other names of a base are of configurations that are read as they stand.
        let one = |text: &str| config(text, r#"{"rope_parameters": {"rope_theta": 1e4}}"#).rope_f64("rope_theta");
        assert_eq!((one(r#"{"global_rope_theta": 7.0}"#), one(r#"{"rope_theta": 7.0}"#)), (Some(1e4), Some(7.0)));
        // A default with scaling is taken as a whole, with its base.
        let scaled = r#"{"rope_parameters": {"rope_theta": 9.0, "rope_type": "linear", "factor": 2.0}}"#;
        assert_eq!(config(r#"{"rope_theta": 7.0}"#, scaled).rope_f64("rope_theta"), Some(9.0));
        // Unless it has none of its own, but the class has.
        let apart = r#"{"rope_parameters": {"rope_type": "linear", "factor": 2.0}, "rope_theta": 9.0}"#;
        let two = |text: &str| (config(text, apart).rope_f64("rope_theta"), config(text, apart).rope_f64("factor"));
        assert_eq!(two("{}"), (Some(9.0), Some(2.0)));
        assert_eq!(two(r#"{"rope_theta": 7.0, "rope_scaling": {}}"#), (Some(7.0), Some(2.0)));
        assert_eq!(two(r#"{"rope_parameters": {"rope_type": "default"}}"#), (Some(9.0), None));
        // Kinds of layers that the configuration lists are filled up in a class that knows one set.
        let kinds = r#"{"max_position_embeddings": 64, "rope_theta": 5.0, "num_hidden_layers": 1,
            "layer_types": ["full_attention"],
            "rope_parameters": {"full_attention": {"type": "yarn", "factor": 2.0}}}"#;
        let kinds = config(kinds, r#"{"rope_parameters": {"rope_theta": 1e4}}"#);
        assert_eq!((kinds.rope_f64("rope_theta"), kinds.rope_type().as_str()), (Some(5.0), "yarn"));
        assert_eq!(kinds.rope_f64("original_max_position_embeddings"), Some(64.0));
    }

    #[test]
    fn defaults_are_those_of_a_known_type() {
        let read = |text: &str| {
            let root: Map<String, Value> = serde_json::from_str(text).unwrap();
            let config =
                Config::new(&root, "X", Reading { aliases: &[("old", "new")], ..reading(r#"{"b": 2}"#) }).unwrap();
            (config.u64("b"), config.u64("new"))
        };
        assert_eq!(read(r#"{"model_type": "qwen3", "old": 1}"#), (Some(2), Some(1)));
        assert_eq!(read(r#"{"model_type": "qwen", "old": 1}"#), (None, None));
        assert_eq!(read(r#"{"old": 1}"#), (None, None));
    }

    #[test]
    fn other_names_are_those_of_the_kind() {
        let read = |text: &str| {
            let root: Map<String, Value> = serde_json::from_str(text).unwrap();
            Config::new(&root, "X", reading(r#"{"n_embd": 768, "hidden_act": "silu"}"#)).unwrap().u64("n_embd")
        };
        assert_eq!(read(r#"{"model_type": "gpt2", "hidden_size": 64}"#), Some(64));
        assert_eq!(read(r#"{"model_type": "gpt2", "hidden_size": 64, "n_embd": 32}"#), Some(64));
        assert_eq!(read(r#"{"model_type": "llama", "hidden_size": 64}"#), Some(768));
    }

    #[test]
    fn partial_rotation_has_three_names() {
        let part = |key: &str| config(&format!(r#"{{"{key}": 0.25}}"#), "{}").rope_f64("partial_rotary_factor");
        for key in ["partial_rotary_factor", "rope_percent", "rope_pct"] {
            assert_eq!(part(key), Some(0.25));
        }
        // The name of GPT-NeoX alone, whose row reads it.
        assert_eq!(part("rotary_pct"), None);
    }

    #[test]
    fn without_a_model_type_nothing_is_filled_in() {
        let root: Map<String, Value> = serde_json::from_str(r#"{"hidden_size": 4}"#).unwrap();
        let config = Config::new(&root, "X", reading(r#"{"rms_norm_eps": 1e-6, "head_dim": "computed"}"#)).unwrap();
        assert!(!config.has("rms_norm_eps") && !config.has("head_dim"));
    }

    #[test]
    fn a_wrapper_gives_its_text_model() {
        let text =
            r#"{"architectures": ["A"], "hidden_size": 1, "text_config": {"hidden_size": 2, "architectures": ["B"]}}"#;
        let root: Map<String, Value> = serde_json::from_str(text).unwrap();
        assert_eq!(class(&root).unwrap(), "B");
        let config = Config::new(&root, "B", reading("{}")).unwrap();
        assert_eq!((config.u64("hidden_size"), config.is_wrapped()), (Some(2), true));
    }

    #[test]
    fn null_equals_absent() {
        let defaults = r#"{"head_dim": "computed", "num_key_value_heads": null, "rms_norm_eps": 1e-06,
            "sliding_window": 4096, "hidden_size": 4096, "intermediate_size": 11008, "vocab_size": 32000,
            "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}"#;
        let text = r#"{"hidden_size": 64, "num_attention_heads": 4, "n_inner": null, "hidden_dim": 5, "head_dim": null,
            "num_key_value_heads": null, "sliding_window": null, "rope_theta": null, "rope_parameters": null}"#;
        let null = config(text, &defaults.replace("\"num_key_value_heads\": null", "\"num_key_value_heads\": 8"));
        let absent = config(r#"{"hidden_size": 64, "num_attention_heads": 4}"#, defaults);
        for key in ["head_dim", "intermediate_size"] {
            assert_eq!(null.get(key), absent.get(key), "{key}");
        }
        assert_eq!((null.u64("head_dim"), null.u64("num_key_value_heads")), (Some(16), Some(4)));
        assert_eq!((null.rope_f64("rope_theta"), null.rope_type().as_str()), (Some(5e5), "default"));
        assert_eq!(null.first(&["n_inner", "hidden_dim"]).and_then(Value::as_u64), Some(5));
        // What null turns off stays off.
        assert_eq!((null.get("sliding_window"), absent.u64("sliding_window")), (None, Some(4096)));
        // A class that has no such field computes none.
        let bert = r#"{"model_type": "bert", "num_attention_heads": 4, "num_key_value_heads": null}"#;
        let bert: Map<String, Value> = serde_json::from_str(bert).unwrap();
        let bert = Config::new(&bert, "X", reading(r#"{"layer_norm_eps": 1e-12}"#)).unwrap();
        assert_eq!((bert.get("num_key_value_heads"), bert.f64("layer_norm_eps")), (None, Some(1e-12)));
        // The class refuses it, so that nothing else is filled in; but no file can be without it.
        let refused = config(r#"{"rms_norm_eps": null, "attention_bias": null}"#, defaults);
        assert_eq!((refused.f64("rms_norm_eps"), refused.has("head_dim")), (Some(1e-6), false));
        for key in ["hidden_size", "intermediate_size"] {
            let text = format!(r#"{{"model_type": "llama", "{key}": null}}"#);
            let root: Map<String, Value> = serde_json::from_str(&text).unwrap();
            let error = Config::new(&root, "X", reading(defaults)).unwrap_err().to_string();
            assert!(error.contains(&format!("{key} is null")), "{error}");
        }
        let bare = config(r#"{"num_hidden_layers": null}"#, "{}");
        assert!(bare.blocks().unwrap_err().to_string().contains("num_hidden_layers is null"));
    }

    #[test]
    fn a_base_of_null_is_left_out_where_it_is_the_usual_one() {
        let defaults =
            |base: &str| format!(r#"{{"rope_parameters": {{"rope_theta": {base}, "rope_type": "default"}}}}"#);
        for text in [r#"{"rope_theta": null}"#, r#"{"rope_parameters": {"rope_theta": null}}"#] {
            assert_eq!(config(text, &defaults("10000.0")).rope_f64("rope_theta"), None, "{text}");
            assert_eq!(config(text, &defaults("1000000.0")).rope_f64("rope_theta"), Some(1e6), "{text}");
        }
        let layers =
            r#"{"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}}"#;
        let layered = |text: &str| {
            let mut root: Map<String, Value> = serde_json::from_str(text).unwrap();
            root.insert("model_type".into(), "llama".into());
            Config::new(&root, "X", Reading { rope: Rope::GEMMA, ..reading(layers) }).unwrap()
        };
        for text in
            [r#"{"rope_parameters": {"full_attention": null, "sliding_attention": {"rope_theta": null}}}"#, "{}"]
        {
            assert_eq!(layered(text).rope()["full_attention"]["rope_theta"], 1e6, "{text}");
            assert_eq!(layered(text).rope()["sliding_attention"]["rope_theta"], 1e4, "{text}");
        }
    }

    #[test]
    fn heads_that_no_model_has_are_refused_before_anything_is_made_of_them() {
        for key in ["head_dim", "v_head_dim", "qk_rope_head_dim", "d_kv"] {
            for number in ["2147483648", "65537", "1e300"] {
                let root: Map<String, Value> = serde_json::from_str(&format!(r#"{{"{key}": {number}}}"#)).unwrap();
                assert!(Config::new(&root, "X", reading("{}")).unwrap_err().to_string().contains(key));
            }
        }
    }

    #[test]
    fn missing_and_mistyped_values_are_named() {
        let config = config(r#"{"num_hidden_layers": "two", "num_attention_heads": 0}"#, "{}");
        assert!(config.blocks().unwrap_err().to_string().contains("\"two\""));
        assert!(config.heads().is_err());
        assert!(config.need_f64(&["rms_norm_eps"]).unwrap_err().to_string().contains("rms_norm_eps"));
    }
}
