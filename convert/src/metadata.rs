//! The `general.*` keys: what folder name, model card, `generation_config.json` and the person say of a model,
//! derived as the reference converter derives it.

use std::path::{Path, PathBuf};

use gguf::{Array, Error, Metadata, Result, Value};
use regex::Regex;
use serde_json::Value as Json;

use crate::location::model_name;
use crate::{card, json, titlecase};

/// Numbers of weights, as size labels want them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// All.
    pub total: u64,
    /// Those that every token passes.
    pub shared: u64,
    /// Those of one expert of each stack.
    pub expert: u64,
    /// Experts of a stack, on average.
    pub experts: u64,
    /// Whether these are the weights that an adapter changes, of which the model may have more.
    pub adapter: bool,
}

impl Parameters {
    /// Counts tensors by GGUF name and row-major shape. A model with adapters inside has no size that the reference
    /// could name: it counts none.
    pub fn count<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a [u64])>) -> Parameters {
        let mut count = Parameters::default();
        let (mut expert_sum, mut stacks) = (0, 0);
        for (name, shape) in tensors {
            if name.ends_with(".lora_a") {
                return Parameters::default();
            }
            let size: u64 = shape.iter().product();
            count.total += size;
            let axis = if name.contains(".bias") { 2 } else { 3 };
            match shape.len().checked_sub(axis).and_then(|i| shape.get(i)) {
                Some(&experts) if name.contains("_exps.") && shape.len() >= 3 && experts > 0 => {
                    count.expert += size / experts;
                    expert_sum += experts;
                    stacks += 1;
                }
                _ => count.shared += size,
            }
        }
        count.experts = expert_sum / stacks.max(1);
        count
    }

    /// All weights as the reference passes them on: less than nothing for an adapter.
    fn signed(&self) -> i128 {
        if self.adapter { -i128::from(self.total) } else { i128::from(self.total) }
    }

    /// The label of this size, such as `1.1B` or `8x7B`.
    fn label(&self) -> String {
        if self.experts > 0 {
            format!("{}x{}", self.experts, rounded(self.shared + self.expert))
        } else {
            rounded(self.total)
        }
    }
}

/// A number of weights with two digits and its unit.
fn rounded(count: u64) -> String {
    let count = count as f64;
    let (scaled, unit) = match count {
        n if n > 1e12 => (n * 1e-12, 'T'),
        n if n > 1e9 => (n * 1e-9, 'B'),
        n if n > 1e6 => (n * 1e-6, 'M'),
        n => (n * 1e-3, 'K'),
    };
    let whole = scaled.round_ties_even().to_string();
    let decimals = 2_usize.saturating_sub(whole.trim_start_matches('0').len());
    format!("{scaled:.decimals$}{unit}")
}

/// Where metadata comes from besides the folder's files.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// A JSON file of `general.*` keys.
    pub file: Option<PathBuf>,
    /// The model's name.
    pub name: Option<String>,
    /// Leave the model card aside.
    pub skip_card: bool,
}

/// What is known of a model besides its weights.
#[derive(Clone, Debug, Default)]
pub struct General {
    sampling: Vec<(&'static str, Sampling, Option<Json>)>,
    name: Option<String>,
    author: Option<String>,
    version: Option<String>,
    organization: Option<String>,
    finetune: Option<String>,
    basename: Option<String>,
    description: Option<String>,
    quantized_by: Option<String>,
    size_label: Option<String>,
    license: Option<String>,
    license_name: Option<String>,
    license_link: Option<String>,
    url: Option<String>,
    doi: Option<String>,
    uuid: Option<String>,
    repo_url: Option<String>,
    source_url: Option<String>,
    source_doi: Option<String>,
    source_uuid: Option<String>,
    source_repo_url: Option<String>,
    base_models: Option<Vec<Origin>>,
    datasets: Option<Vec<Origin>>,
    tags: Option<Vec<String>>,
    languages: Option<Vec<String>>,
    adapter: bool,
    notes: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Sampling {
    Text,
    Int,
    Float,
}

/// Key, type, and the names in `generation_config.json`, the first that is there.
pub(crate) const SAMPLING: &[(&str, Sampling, &[&str])] = &[
    ("sequence", Sampling::Text, &["sequence"]),
    ("top_k", Sampling::Int, &["top_k"]),
    ("top_p", Sampling::Float, &["top_p"]),
    ("min_p", Sampling::Float, &["min_p"]),
    ("xtc_probability", Sampling::Float, &["xtc_probability"]),
    ("xtc_threshold", Sampling::Float, &["xtc_threshold"]),
    ("temp", Sampling::Float, &["temperature"]),
    ("penalty_last_n", Sampling::Int, &["penalty_last_n"]),
    ("penalty_repeat", Sampling::Float, &["penalty_repeat", "repetition_penalty"]),
    ("mirostat", Sampling::Int, &["mirostat"]),
    ("mirostat_tau", Sampling::Float, &["mirostat_tau"]),
    ("mirostat_eta", Sampling::Float, &["mirostat_eta"]),
];

/// A base model or a dataset.
#[derive(Clone, Debug, Default)]
struct Origin(Vec<(&'static str, String)>);

/// The fields of an origin, in the order they are written.
const ORIGIN_FIELDS: &[&str] =
    &["name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url"];

impl General {
    /// Derives everything from a folder's files and the person's wishes.
    ///
    /// # Errors
    /// A model card whose front matter is no YAML, or an override file that cannot be read.
    pub fn load(folder: &Path, overrides: &Overrides, parameters: &Parameters) -> Result<General> {
        let name = model_name(folder);
        let total = parameters.signed();
        let mut general = General { adapter: parameters.adapter, ..General::default() };
        if !overrides.skip_card
            && let Some(card) = card::read(&folder.join("README.md"))?
        {
            general.apply_card(&card, total);
        }
        let config = json::read_optional(&folder.join("config.json"))?.unwrap_or(Json::Null);
        if let Some(path) = config["_name_or_path"].as_str().filter(|p| p.matches('/').count() <= 1) {
            general.fill(&NameParts::of(path, total));
        }
        general.fill(&NameParts::of(&name, total));
        general.apply_generation(&folder.join("generation_config.json"));
        if let Some(file) = &overrides.file {
            general.apply_file(&json::read(file)?).map_err(|e| e.at(file))?;
        }
        if let Some(name) = &overrides.name {
            general.name = Some(name.clone());
        }
        general.name.get_or_insert(name);
        if general.size_label.is_none() && total > 0 {
            general.size_label = Some(parameters.label());
        }
        Ok(general)
    }

    /// What was left aside of the folder's files and why.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Samplers are advice: a file that is no JSON is not an error of the reference either.
    fn apply_generation(&mut self, path: &Path) {
        let generation = match json::read_optional(path) {
            Ok(generation) => generation.unwrap_or(Json::Null),
            Err(error) => {
                self.notes.push(format!("left aside: samplers of generation_config.json, which {}", error.message()));
                Json::Null
            }
        };
        for &(key, kind, names) in SAMPLING {
            let value = names.iter().find_map(|n| generation.get(n)).filter(|v| !v.is_null()).cloned();
            if let Some(word) = value.as_ref().and_then(Json::as_str)
                && json::python_f64(&Json::from(word)).is_some()
            {
                self.notes.push(format!("general.sampling.{key} is {word}, as generation_config.json says"));
            }
            self.sampling.push((key, kind, value));
        }
    }

    /// Takes what a name says for everything that is not known yet.
    fn fill(&mut self, parts: &NameParts) {
        let set = |field: &mut Option<String>, value: Option<String>| {
            if field.is_none() {
                *field = value;
            }
        };
        set(&mut self.name, parts.full.as_deref().map(title));
        set(&mut self.organization, parts.organization.as_deref().map(title));
        set(&mut self.basename, parts.basename.clone());
        set(&mut self.finetune, parts.finetune.clone());
        set(&mut self.version, parts.version.clone());
        set(&mut self.size_label, parts.size_label.clone());
    }

    fn apply_card(&mut self, card: &Json, total: i128) {
        let text = |keys: &[&str]| keys.iter().find_map(|k| card.get(*k).and_then(plain_text));
        self.name = text(&["name", "model_name"]);
        self.author = text(&["author", "model_author", "model_creator"]);
        self.version = text(&["version", "model_version"]);
        self.organization = text(&["organization", "model_organization"]);
        self.description = text(&["description", "model_description"]);
        self.finetune = text(&["finetune", "model_finetune"]);
        self.basename = text(&["basename", "model_basename", "model_type"]);
        self.size_label = text(&["size_label", "model_size_label"]);
        self.source_url = text(&["url", "model_url"]);
        self.source_doi = text(&["doi", "model_doi"]);
        self.source_uuid = text(&["uuid", "model_uuid"]);
        self.source_repo_url = text(&["repo_url", "model_repo_url"]);
        self.base_models = origins(card, &["base_model", "base_models", "base_model_sources"], total);
        self.datasets = origins(card, &["datasets", "dataset", "dataset_sources"], total);
        self.license = text(&["license"]);
        self.license_name = text(&["license_name"]);
        self.license_link = text(&["license_link"]);
        self.tags = list(card, &["tags", "pipeline_tag"]);
        self.languages = list(card, &["languages", "language"]);
    }

    /// Keys of an override file are those of the finished file.
    fn apply_file(&mut self, file: &Json) -> Result<()> {
        let Json::Object(map) = file else {
            return Err(Error::input("is not a JSON object of general.* keys"));
        };
        for (key, value) in map {
            let Some(field) = key.strip_prefix("general.") else {
                return Err(Error::input(format!("the key {key} does not begin with \"general.\"")));
            };
            if let Some(sampler) = field.strip_prefix("sampling.") {
                let slot = self.sampling.iter_mut().find(|(k, ..)| *k == sampler).ok_or_else(|| unknown(key))?;
                slot.2 = Some(value.clone()).filter(|v| !v.is_null());
                continue;
            }
            match field {
                "base_models" => self.base_models = Some(stated_origins(key, value)?),
                "datasets" => self.datasets = Some(stated_origins(key, value)?),
                "tags" => self.tags = Some(strings(key, value)?),
                "languages" => self.languages = Some(strings(key, value)?),
                _ => {
                    let slot = self.text_field(field).ok_or_else(|| unknown(key))?;
                    *slot = plain_text(value);
                }
            }
        }
        Ok(())
    }

    fn text_field(&mut self, field: &str) -> Option<&mut Option<String>> {
        Some(match field {
            "name" => &mut self.name,
            "author" => &mut self.author,
            "version" => &mut self.version,
            "organization" => &mut self.organization,
            "finetune" => &mut self.finetune,
            "basename" => &mut self.basename,
            "description" => &mut self.description,
            "quantized_by" => &mut self.quantized_by,
            "size_label" => &mut self.size_label,
            "license" => &mut self.license,
            "license.name" => &mut self.license_name,
            "license.link" => &mut self.license_link,
            "url" => &mut self.url,
            "doi" => &mut self.doi,
            "uuid" => &mut self.uuid,
            "repo_url" => &mut self.repo_url,
            "source.url" => &mut self.source_url,
            "source.doi" => &mut self.source_doi,
            "source.uuid" => &mut self.source_uuid,
            "source.repo_url" => &mut self.source_repo_url,
            _ => return None,
        })
    }

    /// Appends the keys in the reference's order.
    ///
    /// # Errors
    /// A sampler setting of the wrong type.
    pub fn write(&self, out: &mut Metadata) -> Result<()> {
        for (key, kind, value) in &self.sampling {
            let Some(value) = value else { continue };
            let wrong = |kind: &str| {
                Error::input(format!("general.sampling.{key} is {value}, not {kind}"))
                    .help("fix or remove it in generation_config.json, or set it in a file given with --metadata")
            };
            let whole = |v: f64| (v.fract() == 0.0 && v.abs() < 2_f64.powi(31)).then_some(v as i64);
            let value = match kind {
                Sampling::Text => Value::from(value.as_str().ok_or_else(|| wrong("a text"))?),
                Sampling::Int => {
                    let number = value.as_i64().or_else(|| value.as_f64().and_then(whole));
                    Value::from(number.and_then(|n| i32::try_from(n).ok()).ok_or_else(|| wrong("a whole number"))?)
                }
                Sampling::Float => Value::from(json::python_f64(value).ok_or_else(|| wrong("a number"))? as f32),
            };
            out.set(format!("general.sampling.{key}"), value);
        }
        let mut text = |key: &str, value: &Option<String>| {
            // An empty string is no statement.
            if let Some(value) = value.as_deref().filter(|v| !v.is_empty()) {
                out.set(format!("general.{key}"), value);
            }
        };
        text("name", &self.name);
        text("author", &self.author);
        text("version", &self.version);
        text("organization", &self.organization);
        text("finetune", &self.finetune);
        text("basename", &self.basename);
        text("description", &self.description);
        text("quantized_by", &self.quantized_by);
        text("size_label", &self.size_label);
        text("license", &self.license);
        text("license.name", &self.license_name);
        text("license.link", &self.license_link);
        text("url", &self.url);
        text("doi", &self.doi);
        text("uuid", &self.uuid);
        text("repo_url", &self.repo_url);
        text("source.url", &self.source_url);
        text("source.doi", &self.source_doi);
        text("source.uuid", &self.source_uuid);
        text("source.repo_url", &self.source_repo_url);
        for (kind, origins) in [("base_model", &self.base_models), ("dataset", &self.datasets)] {
            let Some(origins) = origins else { continue };
            out.set(format!("general.{kind}.count"), origins.len() as u32);
            for (i, origin) in origins.iter().enumerate() {
                for field in ORIGIN_FIELDS {
                    if let Some((_, value)) = origin.0.iter().find(|(f, v)| f == field && !v.is_empty()) {
                        out.set(format!("general.{kind}.{i}.{field}"), value.as_str());
                    }
                }
            }
        }
        for (key, items) in [("tags", &self.tags), ("languages", &self.languages)] {
            if let Some(items) = items.as_ref().filter(|items| !items.is_empty()) {
                out.set(format!("general.{key}"), Array::strings(items));
            }
        }
        Ok(())
    }

    /// The default name of the output, by the naming convention of the specification. A file of the vocabulary alone
    /// has neither size nor encoding.
    pub fn file_name(&self, encoding: Option<&str>) -> String {
        self.named(encoding, self.size_label.as_deref().filter(|_| encoding.is_some()))
    }

    /// The default name of a file of layers of prediction alone, which says nothing of its size.
    pub fn prediction_file_name(&self, encoding: Option<&str>) -> String {
        format!("mtp-{}", self.named(encoding, None))
    }

    /// The default name of a projector file, which says nothing of the size.
    pub fn projector_file_name(&self, encoding: Option<&str>) -> String {
        format!("mmproj-{}", self.named(encoding, None))
    }

    fn named(&self, encoding: Option<&str>, size: Option<&str>) -> String {
        let dashed = |text: &str| text.trim().replace(' ', "-");
        let name = self.basename.as_ref().or(self.name.as_ref());
        let mut out = name.map_or_else(|| "ggml-model".to_owned(), |n| dashed(n).replace('/', "-"));
        if let Some(label) = size {
            out += &format!("-{label}");
        }
        for part in [&self.finetune, &self.version].into_iter().flatten() {
            out += &format!("-{}", dashed(part));
        }
        // A model card must not choose another folder, nor write to the terminal of who lists this one.
        let mut out = out.replace(unfit, "-");
        while out.len() > MAX_STEM {
            out.pop();
        }
        let kind = if self.adapter { "-LoRA" } else { "" };
        format!("{out}-{}{kind}.gguf", encoding.unwrap_or("vocab"))
    }
}

/// The longest beginning of a default name: with its ending it fits into the 255 bytes that file systems have.
const MAX_STEM: usize = 200;

/// What no default name has: separators of paths, and characters that no terminal shows as themselves.
fn unfit(c: char) -> bool {
    let invisible =
        matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}');
    c.is_control() || invisible || ['/', '\\'].contains(&c)
}

fn unknown(key: &str) -> Error {
    Error::input(format!("the key {key} is none that can be overridden"))
        .help("general.name, .author, .version, .organization, .license, .tags and the like can be")
}

/// A scalar as text; a list of scalars joined by commas, as licences are.
fn plain_text(value: &Json) -> Option<String> {
    match value {
        Json::Null => None,
        Json::String(s) => Some(s.clone()),
        Json::Array(items) => Some(items.iter().filter_map(plain_text).collect::<Vec<_>>().join(",")),
        other => Some(other.to_string()),
    }
}

fn strings(key: &str, value: &Json) -> Result<Vec<String>> {
    let items = value.as_array().and_then(|a| a.iter().map(|v| v.as_str().map(str::to_owned)).collect());
    items.ok_or_else(|| Error::input(format!("{key} is not a list of strings")))
}

/// Everything under these keys in one list.
fn list(card: &Json, keys: &[&str]) -> Option<Vec<String>> {
    let mut out = None;
    for value in keys.iter().filter_map(|k| card.get(*k)).filter(|v| !v.is_null()) {
        let items: &mut Vec<String> = out.get_or_insert_default();
        match value {
            Json::Array(values) => items.extend(values.iter().filter_map(plain_text)),
            Json::String(text) => items.push(text.clone()),
            _ => {}
        }
    }
    out
}

/// Base models or datasets of a card: names on the hub, addresses, or objects.
fn origins(card: &Json, keys: &[&str], total: i128) -> Option<Vec<Origin>> {
    let value = keys.iter().find_map(|k| card.get(*k))?;
    let items = match value {
        Json::Array(items) => items.as_slice(),
        Json::Null => &[],
        one => std::slice::from_ref(one),
    };
    Some(items.iter().map(|item| origin(item, total)).collect())
}

fn origin(item: &Json, total: i128) -> Origin {
    let Json::String(id) = item else {
        return stated_origin(item);
    };
    let mut out = Origin::default();
    let named = |out: &mut Origin, id: &str| {
        let parts = NameParts::of(id, total);
        out.0.extend(parts.full.as_deref().map(|n| ("name", title(n))));
        out.0.extend(parts.organization.as_deref().map(|n| ("organization", title(n))));
        out.0.extend(parts.version.clone().map(|v| ("version", v)));
        parts
    };
    if ["http://", "https://", "ssh://"].iter().any(|p| id.starts_with(p)) {
        out.0.push(("repo_url", id.clone()));
        let rest = id.strip_prefix("https://").or_else(|| id.strip_prefix("http://"));
        let rest = rest.and_then(|r| r.strip_prefix("huggingface.co/"));
        if let Some(hub) = rest.filter(|r| r.split('/').count() == 2 && r.split('/').all(|p| !p.is_empty())) {
            named(&mut out, hub);
        }
    } else {
        let parts = named(&mut out, id);
        if let (Some(organization), Some(full)) = (parts.organization, parts.full) {
            out.0.push(("repo_url", format!("https://huggingface.co/{organization}/{full}")));
        }
    }
    out
}

fn stated_origin(item: &Json) -> Origin {
    Origin(ORIGIN_FIELDS.iter().filter_map(|f| Some((*f, plain_text(item.get(*f)?)?))).collect())
}

fn stated_origins(key: &str, value: &Json) -> Result<Vec<Origin>> {
    let items = value.as_array().filter(|a| a.iter().all(Json::is_object));
    let items = items.ok_or_else(|| Error::input(format!("{key} is not a list of objects")))?;
    Ok(items.iter().map(stated_origin).collect())
}

/// Words in title case, but for those that have capitals, version numbers and words that begin with a digit.
fn title(text: &str) -> String {
    let version = |w: &str| PATTERNS.as_ref().is_some_and(|p| p.as_it_is.is_match(w));
    let dashless = text.trim().replace('-', " ");
    let words = dashless
        .split_whitespace()
        .map(|w| if titlecase::is_lower(w) && !version(w) { titlecase::word(w) } else { w.to_owned() });
    words.collect::<Vec<_>>().join(" ")
}

/// What the parts of a model's name mean.
#[derive(Clone, Debug, Default)]
struct NameParts {
    full: Option<String>,
    organization: Option<String>,
    basename: Option<String>,
    finetune: Option<String>,
    version: Option<String>,
    size_label: Option<String>,
}

/// The meanings that a part of a name can have, several at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kinds {
    basename: bool,
    size_label: bool,
    finetune: bool,
    version: bool,
    encoding: bool,
}

impl Kinds {
    fn is_empty(self) -> bool {
        self == Kinds::default()
    }
    fn count(self) -> usize {
        [self.basename, self.size_label, self.finetune, self.version, self.encoding].iter().filter(|b| **b).count()
    }
}

struct Patterns {
    /// Words of a title that stay as they are.
    as_it_is: Regex,
    version: Regex,
    encoding: Regex,
    size: Regex,
    finetune: Regex,
}

static PATTERNS: std::sync::LazyLock<Option<Patterns>> = std::sync::LazyLock::new(|| {
    let whole = |p: &str| Regex::new(&format!(r"(?i)\A(?:{p})\z")).ok();
    Some(Patterns {
        as_it_is: Regex::new(r"\A(v\d+(?:\.\d+)*|\d.*)\z").ok()?,
        version: whole(r"(v|iter)?\d+([.]\d+)*")?,
        encoding: whole(r"i?q\d(_\w)*|b?fp?(16|32)")?,
        size: whole(r"(([A]|\d+[x])?\d+([._]\d+)?[KMBT][\d]?|small|mini|medium|large|x?xl)")?,
        finetune: whole("chat|instruct|vision|lora")?,
    })
});

impl NameParts {
    fn of(id: &str, total: i128) -> NameParts {
        if id.contains(' ') {
            return NameParts { full: Some(id.to_owned()), ..NameParts::default() };
        }
        let (organization, full) = match id.split_once('/') {
            Some((organization, full)) => (Some(organization).filter(|o| !o.starts_with('.')), full),
            None => (None, id),
        };
        let known = NameParts {
            full: Some(full.to_owned()),
            organization: organization.map(str::to_owned),
            ..NameParts::default()
        };
        let Some(patterns) = &*PATTERNS else { return known };
        let mut parts: Vec<(String, Kinds)> =
            full.split('-').filter(|p| !p.is_empty()).map(|p| (p.to_owned(), Kinds::default())).collect();
        for (i, (part, kinds)) in parts.iter_mut().enumerate() {
            annotate(patterns, i, part, kinds, total);
        }
        let is_size = |(_, k): &&mut (String, Kinds)| k.size_label;
        // Sizes in words give way to sizes in numbers.
        if parts.iter().any(|(p, k)| k.size_label && p.chars().any(|c| c.is_ascii_digit())) {
            for (part, kinds) in parts.iter_mut().filter(is_size) {
                if part.chars().all(char::is_alphabetic) {
                    kinds.size_label = false;
                }
            }
        }
        let mut at_start = true;
        for (part, kinds) in &mut parts {
            let plain = kinds.is_empty() && part.starts_with(char::is_alphabetic);
            if at_start && (plain || kinds.version) {
                kinds.basename = true;
            } else {
                at_start = false;
                if kinds.is_empty() {
                    kinds.finetune = true;
                }
            }
        }
        for (_, kinds) in parts.iter_mut().rev() {
            if !(kinds.basename && kinds.count() > 1) {
                break;
            }
            kinds.basename = false;
        }
        let joined = |wanted: fn(Kinds) -> bool| {
            let chosen: Vec<&str> = parts.iter().filter(|(_, k)| wanted(*k)).map(|(p, _)| p.as_str()).collect();
            (!chosen.is_empty()).then(|| chosen.join("-"))
        };
        let mut sizes: Vec<&str> = Vec::new();
        for (part, _) in parts.iter().filter(|(_, k)| k.size_label) {
            if !sizes.contains(&part.as_str()) {
                sizes.push(part);
            }
        }
        let size_label = (!sizes.is_empty()).then(|| sizes.join("-"));
        let finetune = joined(|k| k.finetune);
        let version = joined(|k| k.version && !k.basename);
        // A name without any of these is too ambiguous to call a part of it the base.
        let known_parts = size_label.is_some() || finetune.is_some() || version.is_some();
        let basename = joined(|k| k.basename).filter(|_| known_parts);
        NameParts { basename, finetune, version, size_label, ..known }
    }
}

fn annotate(patterns: &Patterns, i: usize, part: &mut String, kinds: &mut Kinds, total: i128) {
    if patterns.version.is_match(part) {
        kinds.version = true;
    } else if patterns.encoding.is_match(part) {
        kinds.encoding = true;
        *part = part.to_uppercase();
    } else if i > 0 && patterns.size.is_match(part) {
        let mut size: Vec<char> = part.replace('_', ".").chars().collect();
        let n = size.len();
        // The spelling of 7b1 for 7.1b.
        if n > 1 && size[n - 1].is_ascii_digit() {
            let (unit, digit) = (size[n - 2], size[n - 1]);
            size.truncate(n - 2);
            size.extend(['.', digit, unit]);
        }
        let n = size.len();
        if n > 1 && size[n - 2].is_ascii_digit() && "kmbt".contains(size[n - 1]) {
            size[n - 1] = size[n - 1].to_ascii_uppercase();
        }
        let number: String = size[..n - 1].iter().collect();
        if total != 0
            && let Ok(number) = number.parse::<f64>()
        {
            let power = " KMBT".find(size[n - 1]).map_or(-1, |p| p as i32);
            let claimed = number * 1000_f64.powi(power);
            let size_of = total.unsigned_abs();
            // Far from the size of this model it is something else, such as a context length. An adapter need not
            // change every layer, so that its model may be larger.
            let far = if total < 0 {
                claimed < (size_of / 8) as f64
            } else {
                (claimed - size_of as f64).abs() > (7 * size_of / 8) as f64
            };
            if far {
                kinds.finetune = true;
                size[n - 1] = size[n - 1].to_ascii_lowercase();
            }
        }
        if kinds.is_empty() {
            kinds.size_label = true;
        }
        *part = size.into_iter().collect();
    } else if i > 0 && patterns.finetune.is_match(part) {
        // The kind of the file says it already.
        *(if total < 0 && part.eq_ignore_ascii_case("lora") { &mut kinds.encoding } else { &mut kinds.finetune }) =
            true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let parts = NameParts::of("mistralai/Mixtral-8x7B-Instruct-v0.1", 46_700_000_000);
        assert_eq!(parts.organization.as_deref(), Some("mistralai"));
        assert_eq!(parts.basename.as_deref(), Some("Mixtral"));
        assert_eq!(parts.size_label.as_deref(), Some("8x7B"));
        assert_eq!(parts.finetune.as_deref(), Some("Instruct"));
        assert_eq!(parts.version.as_deref(), Some("v0.1"));
        let parts = NameParts::of("bloom-7b1-petals", 0);
        assert_eq!(parts.size_label.as_deref(), Some("7.1B"));
        assert_eq!(NameParts::of("a plain sentence", 0).full.as_deref(), Some("a plain sentence"));
        assert_eq!(NameParts::of("model", 0).basename, None);
        assert_eq!(NameParts::of("", 0).full.as_deref(), Some(""));
    }

    #[test]
    fn names_of_adapters_may_name_a_larger_model() {
        for (id, total, basename, size, finetune, version) in [
            ("Llama-3-8B-Instruct-lora", -1_000_000, "Llama-3", Some("8B"), Some("Instruct"), None),
            ("my-8K-lora", -1_000_000_000, "my", None, Some("8k"), None),
            ("x-7b-adapter", -8_000_000_000, "x", Some("7B"), Some("adapter"), None),
            ("x-7b-adapter", -80_000_000_000, "x", None, Some("7b-adapter"), None),
            ("lora-model-v2", -10, "lora-model", None, None, Some("v2")),
            ("model-lora", 0, "model", None, Some("lora"), None),
        ] {
            let parts = NameParts::of(id, total);
            assert_eq!(parts.basename.as_deref(), Some(basename), "{id}");
            assert_eq!((parts.size_label.as_deref(), parts.finetune.as_deref()), (size, finetune), "{id}");
            assert_eq!(parts.version.as_deref(), version, "{id}");
        }
    }

    #[test]
    fn default_names_are_names_of_files() {
        let named = |name: &str| General { name: Some(name.to_owned()), ..General::default() }.file_name(Some("F16"));
        assert_eq!(named("A model"), "A-model-F16.gguf");
        assert_eq!(named("a\nSYSTEM x\t\u{1b}[2J\r\u{202e}b"), "a-SYSTEM-x--[2J--b-F16.gguf");
        assert_eq!(named("../../etc/passwd\0"), "..-..-etc-passwd--F16.gguf");
        let long = named(&"é".repeat(4000));
        assert!(long.len() <= 255 && long.ends_with("é-F16.gguf"));
    }

    #[test]
    fn sizes_have_two_digits() {
        assert_eq!(rounded(4_196_608), "4.2M");
        assert_eq!(rounded(127_296), "127K");
        assert_eq!(rounded(1_100_048_384), "1.1B");
        assert_eq!(rounded(999), "1.0K");
        assert_eq!(rounded(42), "0.04K");
    }

    #[test]
    fn experts_count_once() {
        let stack: &[u64] = &[8, 4, 2];
        let count = Parameters::count([("blk.0.ffn_up_exps.weight", stack), ("token_embd.weight", &[10, 2])]);
        assert_eq!(count, Parameters { total: 84, shared: 20, expert: 8, experts: 8, adapter: false });
        assert_eq!(count.label(), "8x0.03K");
    }

    #[test]
    fn titles_leave_acronyms_and_versions() {
        assert_eq!(title("meta-llama-3-8b-instruct-v0.1-DPO"), "Meta Llama 3 8b Instruct v0.1 DPO");
        assert_eq!(title("my_finetune"), "My_Finetune");
    }
}
