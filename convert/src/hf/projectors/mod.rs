//! The files that hold what a model sees and hears with: its towers, and what projects their output into the text model.
//!
//! A row is a [`Class`] whose [`Class::towers`] say where in `config.json` the towers are described and which
//! configuration class fills in what is left out there. Everything else is as in the rows of text models: names, what
//! happens to the data, keys.

mod change;
mod cogvlm;
mod deepseek;
mod dots;
mod gemma;
mod gemma3n;
mod glm;
mod granite;
mod kinds;
mod lfm2;
mod llava;
mod mimo;
mod minimax;
mod moonshot;
mod muse;
mod nemotron;
mod ocr;
mod pixtral;
mod qwen;
mod siglip;
mod softplus;
mod speech;
mod spelling;
mod step;
mod whisper;

use std::path::Path;

use gguf::{Array, Error, Result};
use serde_json::{Map, Value};

use super::{Class, Key, NameRule, Params, find as find_text};
use crate::config::{self, Config};

pub(in crate::hf) use change::QUERY_KEY_VALUE;
pub use gguf::projector::Sense;

/// A tower of a class.
#[derive(Clone, Copy, Debug)]
pub struct Tower {
    /// What it perceives.
    pub sense: Sense,
    /// The file of the folder that describes it.
    pub file: &'static str,
    /// The keys of the file that lead to its configuration; none where they are those of the file itself.
    pub path: &'static [&'static str],
    /// The configuration class that fills in what is left out, where its configuration names none; nothing for classes
    /// that the transformers library does not know.
    pub kind: &'static str,
    /// Whether a model may be without it.
    pub optional: bool,
}

/// The file that describes most towers.
const CONFIG: &str = "config.json";

/// A tower under the usual key of a configuration.
const fn vision(kind: &'static str) -> Tower {
    Tower { sense: Sense::Vision, file: CONFIG, path: &["vision_config"], kind, optional: false }
}

/// The same, which hears.
const fn audio(kind: &'static str) -> Tower {
    Tower { sense: Sense::Audio, path: &["audio_config"], ..vision(kind) }
}

/// A type that a tensor has whatever is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forced {
    /// F32.
    F32,
    /// F16.
    F16,
    /// F16 in files of F16, else F32: what convolutions are stored in.
    Float,
}

/// The types that tensors of all projector files have: beginnings of names in the file.
pub(crate) const FORCED: &[(&str, Forced)] = &[
    ("v.patch_embd.weight", Forced::Float),
    ("v.sam.patch_embd.weight", Forced::Float),
    ("mm.patch_merger.weight", Forced::Float),
    ("v.position_embd.weight", Forced::F32),
    ("a.position_embd.weight", Forced::F32),
];

/// The part of a configuration that is about the processor of images and sound.
pub(crate) const PROCESSOR: &str = "processor";

/// The rows, family by family.
pub(super) const FAMILIES: &[&[Class]] = &[
    cogvlm::ROWS,
    deepseek::ROWS,
    dots::ROWS,
    gemma::ROWS,
    gemma3n::ROWS,
    glm::ROWS,
    granite::ROWS,
    lfm2::ROWS,
    llava::ROWS,
    mimo::ROWS,
    minimax::ROWS,
    moonshot::ROWS,
    muse::ROWS,
    nemotron::ROWS,
    ocr::ROWS,
    pixtral::ROWS,
    qwen::ROWS,
    siglip::ROWS,
    speech::ROWS,
    step::ROWS,
    whisper::ROWS,
];

/// A row from which others are made by functional update.
const BASE: Class = Class { arch: "clip", beyond, ..super::BASE };

/// What towers compute with and their files have no key for: readers have values of their own there.
fn beyond(config: &Config) -> Vec<Key> {
    let Some(tower) = config.section("vision") else { return Vec::new() };
    let whole = |key: &'static str, name: &str| {
        let value = u32::try_from(tower.u64(name)?).ok()?;
        Some((key, gguf::Value::from(value)))
    };
    let rope = tower.get("rope_parameters").and_then(|rope| rope.get("rope_theta")).and_then(Value::as_f64);
    let base = rope.or_else(|| tower.f64("rope_theta"));
    let keys = [
        base.map(|base| ("vision.rope.freq_base", gguf::Value::from(base as f32))),
        whole("vision.window_size", "window_size"),
        whole("vision.spatial_merge_size", "spatial_merge_size"),
        whole("vision.projector.scale_factor", "pooling_kernel_size"),
    ];
    keys.into_iter().flatten().collect()
}

/// Every row.
pub fn all() -> impl Iterator<Item = &'static Class> {
    FAMILIES.iter().copied().flatten()
}

/// The row that converts the towers of a configuration, where one does.
pub fn find(root: &Map<String, Value>) -> Option<&'static Class> {
    let named = |map: &Map<String, Value>| Some(map.get("architectures")?.get(0)?.as_str()?.to_owned());
    // The tower's own class decides where it names one that is known.
    let own = root.get("vision_config").and_then(Value::as_object).and_then(named);
    [own, named(root)]
        .into_iter()
        .flatten()
        .find_map(|class| all().find(|row| row.names.contains(&class.as_str()) && (row.when)(root)))
}

/// The row that converts the towers of a folder, and the configuration as that row reads it.
///
/// # Errors
/// A class without towers or one that no row has; parts that are missing.
pub fn read(root: &Map<String, Value>, folder: &Path) -> Result<(&'static Class, Config)> {
    read_with(root, folder, processor)
}

/// As [`read`], with what is said of the processing of images and sound.
pub(crate) fn read_with(
    root: &Map<String, Value>,
    folder: &Path,
    processor: impl Fn(&Path) -> Result<Config>,
) -> Result<(&'static Class, Config)> {
    let class = named(root);
    let row = find(root).ok_or_else(|| unknown(root, &class))?;
    let known = row.towers.iter().any(|t| !t.kind.is_empty()) && config::is_recognized(root);
    let mut values = root.clone();
    if known {
        fill(&mut values, row.defaults)?;
    }
    let mut config = Config::whole(values, &class, known);
    for tower in row.towers {
        if let Some(part) = tower_config(&config, tower, folder)? {
            config.set_section(tower.sense.name(), part);
        }
    }
    config.set_section(PROCESSOR, processor(folder)?);
    config.set(TEXT_WIDTH, text_width(root));
    (row.prepare)(&mut config)?;
    let blocks = blocks(&config)?;
    config.set_blocks(blocks);
    Ok((row, config))
}

/// What is wrong with a configuration whose towers no row converts, and what to do.
fn unknown(root: &Map<String, Value>, class: &str) -> Error {
    let part = ["vision_config", "audio_config"].into_iter().find(|part| root.get(*part).is_some_and(Value::is_object));
    let text = find_text(class, root).is_ok();
    if class.is_empty() {
        return Error::input("config.json names no class").help("\"architectures\" lists the class of the whole model");
    }
    let Some(part) = part else {
        let error = Error::input(format!("{class} has no towers that are known, and config.json describes none"));
        return error.help(if text {
            "it is a text model: convert it without --mmproj"
        } else {
            "is it the configuration of the whole model, and not of a part?"
        });
    };
    let plain = |name: &str| name.split("For").next().unwrap_or(name).to_lowercase();
    let alike = |row: &Class, name: &str| {
        let own = root[part].get("model_type").and_then(Value::as_str).filter(|own| !own.is_empty());
        let same = own.is_some_and(|own| row.towers.iter().any(|tower| tower.kind == own));
        // A tower of the same kind says more than a name.
        strsim::normalized_damerau_levenshtein(&plain(class), &plain(name)) + f64::from(u8::from(same))
    };
    let names = all().flat_map(|row| row.names.iter().map(move |name| (alike(row, name), *name)));
    let nearest = names.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, name)| name).unwrap_or_default();
    let rest = if text { "the text model alone converts without --mmproj; " } else { "" };
    Error::input(format!("{class} has no towers that are known: no row converts its {part}"))
        .help(format!("{rest}the nearest class whose towers are known is {nearest}; convert --list has all"))
}

/// The class that a folder names first.
fn named(root: &Map<String, Value>) -> String {
    root.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str).unwrap_or("").to_owned()
}

/// Fills in what is not there, or null.
fn fill(values: &mut Map<String, Value>, defaults: &str) -> Result<()> {
    let defaults: Map<String, Value> = serde_json::from_str(defaults)
        .map_err(|e| Error::usage("the defaults of a row are no JSON object").caused_by(e))?;
    for (key, value) in defaults {
        if values.get(&key).is_none_or(Value::is_null) {
            values.insert(key, value);
        }
    }
    Ok(())
}

/// A tower's configuration with what its class fills in.
fn tower_config(config: &Config, tower: &Tower, folder: &Path) -> Result<Option<Config>> {
    let place = [tower.file].into_iter().chain(tower.path.iter().copied()).collect::<Vec<_>>();
    let place = place.join(".").replacen(".json.", ".json: ", 1);
    let own = match tower.file {
        CONFIG => Value::Object(config.values().clone()),
        file => crate::json::read_optional(&folder.join(file))?.unwrap_or_default(),
    };
    // Encoders of Whisper's form may be described under a name of their own.
    let path = match tower.path {
        ["audio_config"] if own.get("whisper_config").is_some() => &["whisper_config"],
        path => path,
    };
    let found = path.iter().try_fold(&own, |found, key| found.get(*key)).filter(|found| !found.is_null());
    let mut values = match found {
        Some(Value::Object(map)) => map.clone(),
        Some(_) => return Err(Error::input(format!("{place} is no JSON object"))),
        None if tower.optional => return Ok(None),
        None if tower.path.is_empty() => return Err(Error::input(format!("the folder has no {}", tower.file))),
        None if !config.is_known() => {
            return Err(Error::input(format!("{} has no {}", tower.file, tower.path.join("."))));
        }
        None => Map::new(),
    };
    if config.is_known() {
        let own = values.get("model_type").and_then(Value::as_str).and_then(kinds::find);
        if let Some(kind) = own.or_else(|| kinds::find(tower.kind)) {
            for (alias, name) in kind.aliases {
                if let Some(value) = values.shift_remove(*alias)
                    && values.get(*name).is_none_or(Value::is_null)
                {
                    values.insert((*name).to_owned(), value);
                }
            }
            values.entry("model_type").or_insert_with(|| kind.name.into());
            fill(&mut values, kind.defaults)?;
        }
    }
    Ok(Some(Config::of(values, &place)))
}

/// What the folder's files say of the processing of images and sound: the newer file over the older one, and what is
/// said of images over what is said of all.
fn processor(folder: &Path) -> Result<Config> {
    let mut values = Map::new();
    let mut place = "preprocessor_config.json";
    for (file, inner) in [("preprocessor_config.json", "media_proc_cfg"), ("processor_config.json", "image_processor")]
    {
        let path = folder.join(file);
        let Some(read) = crate::json::read_optional(&path)? else { continue };
        let Value::Object(map) = read else { return Err(Error::input("is not a JSON object").at(path)) };
        place = file;
        let nested = map.get(inner).and_then(Value::as_object).cloned();
        values.extend(map);
        values.extend(nested.into_iter().flatten());
    }
    Ok(Config::of(values, place))
}

/// The key of the configuration under which the width of the text model is kept.
const TEXT_WIDTH: &str = "text_width";

/// How wide the text model is.
fn text_width(root: &Map<String, Value>) -> Value {
    let widths = ["hidden_size", "n_embd"];
    let text = config::class(root).and_then(|class| {
        let row = find_text(&class, root)?;
        Config::new(root, &class, row.reading(root))
    });
    let plain = || {
        let text = config::text_config(root);
        let stated = |map: &Map<String, Value>| widths.iter().find_map(|key| map.get(*key)).cloned();
        text.and_then(stated).or_else(|| stated(root)).or_else(|| root.get("dim").cloned())
    };
    text.ok().and_then(|config| config.first(&widths).cloned()).or_else(plain).unwrap_or(Value::Null)
}

/// The names that the number of a tower's layers has.
const LAYERS: &[&str] = &[
    "n_layers",
    "num_hidden_layers",
    "n_layer",
    "num_layers",
    "depth",
    "layers",
    "encoder_layers",
    "vt_num_hidden_layers",
];

/// The names that the number of a tower's heads has.
const HEADS: &[&str] = &["num_attention_heads", "num_heads", "heads", "vt_num_attention_heads"];

/// The most layers of a folder's towers.
fn blocks(config: &Config) -> Result<u64> {
    let mut most = 0;
    for sense in [Sense::Vision, Sense::Audio] {
        if let Some(part) = config.section(sense.name()).filter(|part| part.first(LAYERS).is_some()) {
            most = most.max(part.need_u64(LAYERS)?);
        }
    }
    Ok(most)
}

/// The part of a tower.
fn tower<'a>(p: &Params<'a>, sense: Sense) -> Result<&'a Config> {
    tower_of(p.config(), sense)
}

/// The same of a configuration.
fn tower_of(config: &Config, sense: Sense) -> Result<&Config> {
    config.section(sense.name()).ok_or_else(|| Error::input(format!("config.json has no {}_config", sense.name())))
}

/// What the folder says of the processing of images and sound.
fn processor_of<'a>(p: &Params<'a>) -> Result<&'a Config> {
    p.config().section(PROCESSOR).ok_or_else(|| Error::input("the folder has no preprocessor_config.json"))
}

/// The keys that all projector files have.
fn common(p: &mut Params<'_>) -> Result<()> {
    p.file_type();
    if p.config().section("vision").is_some() {
        vision_keys(p)?;
    }
    if p.config().section("audio").is_some() {
        audio_keys(p)?;
    }
    Ok(())
}

fn width_of_text(p: &Params<'_>) -> Result<u64> {
    p.config().need_u64(&[TEXT_WIDTH]).map_err(|_| {
        Error::input("config.json does not say how wide the text model is").help("its text_config has no hidden_size")
    })
}

fn vision_keys(p: &mut Params<'_>) -> Result<()> {
    let tower = tower(p, Sense::Vision)?;
    let processor = processor_of(p)?;
    p.set("has_vision_encoder", true);
    p.u32("vision.projection_dim", width_of_text(p)?)?;
    for (key, names) in [
        ("vision.image_size", &["image_size"][..]),
        ("vision.patch_size", &["patch_size"]),
        ("vision.embedding_length", &["hidden_size", "width", "vt_hidden_size"]),
        ("vision.feed_forward_length", &["intermediate_size", "vt_intermediate_size"]),
        ("vision.block_count", LAYERS),
        ("vision.attention.head_count", HEADS),
    ] {
        p.u32(key, tower.need_u64(names)?)?;
    }
    for (key, name) in [("vision.image_mean", "image_mean"), ("vision.image_std", "image_std")] {
        numbers(p, key, processor, name)?;
    }
    Ok(())
}

fn audio_keys(p: &mut Params<'_>) -> Result<()> {
    let tower = tower(p, Sense::Audio)?;
    p.set("has_audio_encoder", true);
    p.u32("audio.projection_dim", width_of_text(p)?)?;
    for (key, names) in [
        ("audio.embedding_length", &["hidden_size"][..]),
        ("audio.feed_forward_length", &["intermediate_size"]),
        ("audio.block_count", LAYERS),
        ("audio.attention.head_count", &["num_attention_heads"]),
    ] {
        p.u32(key, tower.need_u64(names)?)?;
    }
    Ok(())
}

/// Sets a list of numbers, of the type that the first of them has.
fn numbers(p: &mut Params<'_>, key: &str, from: &Config, name: &str) -> Result<()> {
    let wrong = || Error::input(format!("{}: {name} is no list of numbers", from.place()));
    let Some(value) = from.get(name) else {
        return Err(Error::input(format!("{} has no {name}", from.place()))
            .help("the folder's processor configuration says how images are normalized"));
    };
    let items = value.as_array().filter(|items| !items.is_empty()).ok_or_else(wrong)?;
    if items[0].is_i64() || items[0].is_u64() {
        let whole: Option<Vec<i32>> = items.iter().map(|v| v.as_i64().and_then(|n| n.try_into().ok())).collect();
        p.set(key, Array::from(&whole.ok_or_else(wrong)?[..]));
    } else {
        let floats: Option<Vec<f32>> = items.iter().map(|v| v.as_f64().map(|f| f as f32)).collect();
        p.set(key, Array::from(&floats.ok_or_else(wrong)?[..]));
    }
    Ok(())
}

/// Sets the activation of a tower by the name that its configuration has for it.
fn activation(p: &mut Params<'_>, tower: &Config) -> Result<()> {
    match tower.str("hidden_act") {
        Some("silu") => p.set("use_silu", true),
        Some("gelu") => p.set("use_gelu", true),
        other => {
            let shown = other.unwrap_or("none");
            return Err(Error::input(format!("{}: hidden_act is {shown}, not silu or gelu", tower.place())));
        }
    }
    Ok(())
}

/// The same where other activations are not told.
fn told_activation(p: &mut Params<'_>, tower: &Config) {
    match tower.str("hidden_act").unwrap_or("").to_lowercase().as_str() {
        "gelu" => p.set("use_gelu", true),
        "silu" => p.set("use_silu", true),
        _ => {}
    }
}

/// Sets the epsilon of a tower's norms, by default this one.
fn epsilon(p: &mut Params<'_>, sense: Sense, name: &str, default: f64) -> Result<()> {
    let value = tower(p, sense)?.get(name).map_or(Ok(default), |_| tower(p, sense)?.need_f64(&[name]))?;
    p.f32(&format!("{}.attention.layer_norm_epsilon", sense.name()), value);
    Ok(())
}

/// The whole number that one divided by a ratio is, rounded towards zero.
fn inverse(place: &str, name: &str, ratio: f64) -> Result<u64> {
    let whole = (1.0 / ratio).trunc();
    if ratio > 0.0 && whole < f64::from(u32::MAX) {
        Ok(whole as u64)
    } else {
        Err(Error::input(format!("{place}: {name} is {ratio}, which is no ratio")))
    }
}

/// A tensor that is kept as it is.
const fn r(from: &'static str, to: &'static str) -> NameRule {
    super::r(from, to)
}
