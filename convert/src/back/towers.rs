//! The towers of a projector file, and the configuration that they and a text model share.
//!
//! As with text models the rows are read the other way: [`super::wrappers`] says which field holds which key, the row's
//! own functions have to make the file's keys of it, and tensors are inverted by watching the row's changes.

use std::path::Path;

use gguf::{Error, Metadata, Result};
use serde_json::{Map, Value as Json, json};

use super::config::{differing, json_of};
use super::file::File;
use super::keys::Keys;
use super::tensors::{Asked, Named, inverted};
use super::wrappers::{Fields, WRAPPERS, Wrapper};
use crate::checkpoint::projector_name;
use crate::config::Config;
use crate::hf::{self, Class, Params, projectors};
use crate::transform;

/// What a projector file adds to a folder.
pub(crate) struct Towers {
    pub(crate) file: File,
    pub(crate) wrapper: &'static Wrapper,
    pub(crate) tensors: Vec<Named>,
    /// The files beside the weights that are of the towers.
    pub(crate) files: Vec<(&'static str, Json)>,
    pub(crate) notes: Vec<String>,
    /// The configuration of the whole model.
    pub(crate) root: Map<String, Json>,
}

/// The architecture of projector files.
pub(crate) const ARCH: &str = "clip";

/// Refuses what is no projector file.
pub(crate) fn check_kind(metadata: &Metadata) -> Result<()> {
    match metadata.architecture() {
        Some(ARCH) => Ok(()),
        other => {
            Err(Error::input(format!("the file is no projector, its architecture is {}", other.unwrap_or("not said")))
                .help("convert FILE.gguf -o FOLDER --mmproj PROJECTOR.gguf: the text model first, then its projector"))
        }
    }
}

/// The kinds of a projector file's towers.
fn kinds(metadata: &Metadata) -> Vec<String> {
    gguf::projector::towers(&|key| metadata.get(key))
        .into_iter()
        .filter_map(|(_, kind)| kind.map(str::to_owned))
        .collect()
}

/// The classes that a projector file can be of, by the kind of its towers.
///
/// # Errors
/// A kind of which no class has a way back, or which is refused.
pub(crate) fn candidates(file: &File, class: Option<&str>) -> Result<Vec<&'static Wrapper>> {
    let metadata = file.0.metadata();
    check_kind(metadata)?;
    let (kinds, keys) = (kinds(metadata), Keys::new(ARCH, metadata, file));
    let of_kind = || WRAPPERS.iter().filter(|wrapper| wrapper.kinds.iter().any(|kind| kinds.iter().any(|k| k == kind)));
    let found: Vec<&Wrapper> =
        of_kind().filter(|w| class.is_none_or(|class| class == w.class) && (w.fits)(&keys)).collect();
    if let Some((wrapper, why)) = found.iter().find_map(|wrapper| Some((wrapper, wrapper.refused?))) {
        return Err(Error::input(format!("there is no way back to {}: {why}", wrapper.class)));
    }
    if found.is_empty() {
        let classes: Vec<&str> = of_kind().map(|wrapper| wrapper.class).collect();
        let kinds = kinds.join(" and ");
        return Err(match (class, classes.as_slice()) {
            (Some(class), [_, ..]) => Error::input(format!(
                "a projector of the kind {kinds} is none of {class}, but of {}",
                classes.join(", ")
            )),
            _ => Error::input(format!("projectors of the kind {kinds} have no way back to a checkpoint folder")),
        }
        .help("convert --list says which classes have one"));
    }
    Ok(found)
}

impl Towers {
    /// Puts the towers of a file back for a class. `text` is the text model's configuration.
    ///
    /// # Errors
    /// Keys that no field says, and tensors that the class has no name for.
    pub(crate) fn of(
        file: &File,
        wrapper: &'static Wrapper,
        text: &Map<String, Json>,
        ids: &Keys<'_>,
    ) -> Result<Towers> {
        let metadata = file.0.metadata();
        let keys = Keys::new(ARCH, metadata, file);
        let fields = fields(wrapper, &keys, ids);
        let root = whole(wrapper, &fields, text);
        let processor = fields.processor.clone();
        let nowhere = Path::new("/nonexistent/checkpoint");
        let read = |root: &Map<String, Json>| -> Result<(&'static Class, Config)> {
            projectors::read_with(root, nowhere, |_| Ok(Config::of(processor.clone(), "preprocessor_config.json")))
        };
        let (class, mut config) = read(&root)?;
        (wrapper.inspected)(&keys, &mut config);
        let mut made = Metadata::new();
        let mut params = Params::new(&config, nowhere, ARCH, 0, &mut made);
        (class.keys)(&mut params)?;
        if let Some(key) = differing(ARCH, metadata, &made).into_iter().find(|key| key != "clip.file_type") {
            let shown = |value: Option<&gguf::Value>| {
                value.and_then(|value| json_of("", value)).map_or_else(|| "not there".to_owned(), |v| v.to_string())
            };
            return Err(Error::input(format!(
                "{key} is {}, and no field of {} was found to say so: it would be {}",
                shown(metadata.get(&key)),
                wrapper.class,
                shown(made.get(&key))
            )));
        }
        let stores = |name: &str| {
            let has = |part: &&str| if part.starts_with('.') { name.ends_with(*part) } else { name.contains(*part) };
            !wrapper.avoid.iter().any(has)
        };
        let asked = Asked {
            passed: wrapper.copies,
            square: wrapper.square,
            first_position: wrapper.first_position,
            ..Asked::of(&stores)
        };
        let mut tensors = inverted(class, &config, file, &asked)?;
        for tensor in &mut tensors {
            // Bounds of single numbers have no dimension there.
            if class.suffixes.iter().any(|s| s.ends_with("_min") || s.ends_with("_max"))
                && ["_min", "_max"].iter().any(|end| tensor.name.ends_with(end))
            {
                tensor.rows = transform::reshaped(&tensor.rows, Vec::new())?;
            }
            tensor.name = stored_name(class, &config, wrapper, &tensor.name)?;
        }
        let mut notes: Vec<String> = wrapper
            .assumed
            .iter()
            .map(|(field, value)| {
                format!("assumed: {field} of the tower is {value}; the projector file does not say it")
            })
            .collect();
        if !wrapper.lost.is_empty() {
            notes.push(format!("in no file: {}", wrapper.lost));
        }
        let mut files = Vec::new();
        if !processor.is_empty() {
            files.push(("preprocessor_config.json", Json::Object(processor)));
        }
        Ok(Towers { file: file.clone(), wrapper, tensors, files, notes, root })
    }

    /// The name that a tensor of the text model has in the folder.
    pub(crate) fn text_name(&self, name: &str) -> String {
        replaced(self.wrapper.text_names, name)
    }
}

/// The name with the first beginning replaced that it has.
fn replaced(beginnings: &[(&str, &str)], name: &str) -> String {
    let found = beginnings.iter().find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)));
    found.unwrap_or_else(|| name.to_owned())
}

/// A name by which the row finds the one that its rules know.
fn stored_name(class: &Class, config: &Config, wrapper: &Wrapper, name: &str) -> Result<String> {
    let plain = (wrapper.rename)(replaced(wrapper.names, name));
    // Rows put an ending behind parameters that have none.
    let bare = plain.rsplit_once('.').map(|(stem, _)| stem.to_owned());
    let leads = |stored: &String| projector_name(class, config, stored).as_deref() == Some(name);
    bare.into_iter()
        .chain([plain])
        .find(leads)
        .ok_or_else(|| Error::input(format!("tensor {name} has no name in a folder of {}", wrapper.class)))
}

/// What the keys say, under the fields of the class.
fn fields(wrapper: &Wrapper, keys: &Keys<'_>, ids: &Keys<'_>) -> Fields {
    let mut out = Fields::default();
    for (sense, table, part) in [("vision", wrapper.vision, &mut out.vision), ("audio", wrapper.audio, &mut out.audio)]
    {
        if table.is_empty() {
            continue;
        }
        part.insert("model_type".into(), wrapper.tower.into());
        for (key, field) in table {
            if let Some(value) = keys.key(&format!("{sense}.{key}")).and_then(|value| json_of(key, value)) {
                part.insert((*field).to_owned(), value);
            }
        }
    }
    if !wrapper.vision.is_empty() {
        out.vision.insert("num_channels".into(), 3.into());
        for name in ["image_mean", "image_std"] {
            if let Some(value) = keys.key(&format!("vision.{name}")).and_then(|value| json_of(name, value)) {
                out.processor.insert(name.to_owned(), value);
            }
        }
        for switch in ["do_normalize", "do_rescale", "do_resize"] {
            out.processor.insert(switch.to_owned(), true.into());
        }
        out.processor.insert("rescale_factor".into(), json!(1.0 / 255.0));
        out.processor.insert("image_processor_type".into(), wrapper.processor.into());
    }
    (wrapper.derive)(keys, &mut out);
    for (field, text) in TOKENS {
        if let Some(id) = ids.id_of(text) {
            out.top.entry((*field).to_owned()).or_insert_with(|| id.into());
        }
    }
    out
}

/// Fields that hold the ids of tokens which stand for images and sound, and these tokens in their several spellings.
const TOKENS: &[(&str, &str)] = &[
    ("image_token_id", "<|image_pad|>"),
    ("image_token_id", "<image>"),
    ("image_token_id", "<|image|>"),
    ("image_token_id", "[IMG]"),
    ("image_token_id", "<image_soft_token>"),
    ("image_token_index", "<image>"),
    ("image_token_index", "[IMG]"),
    ("image_token_index", "<image_soft_token>"),
    ("image_token_index", "<|patch|>"),
    ("video_token_id", "<|video_pad|>"),
    ("video_token_id", "<|video|>"),
    ("vision_start_token_id", "<|vision_start|>"),
    ("vision_end_token_id", "<|vision_end|>"),
    ("image_start_token_id", "<|begin_of_image|>"),
    ("image_end_token_id", "<|end_of_image|>"),
    ("boi_token_index", "<start_of_image>"),
    ("eoi_token_index", "<end_of_image>"),
    ("audio_token_id", "<|AUDIO|>"),
    ("audio_token_index", "<|AUDIO|>"),
    ("audio_token_id", "[AUDIO]"),
];

/// The configuration of the whole model.
fn whole(wrapper: &Wrapper, fields: &Fields, text: &Map<String, Json>) -> Map<String, Json> {
    let mut root = fields.top.clone();
    root.insert("architectures".into(), json!([wrapper.class]));
    root.insert("model_type".into(), wrapper.model_type.into());
    if let Some(tied) = text.get("tie_word_embeddings") {
        root.insert("tie_word_embeddings".into(), tied.clone());
    }
    for (name, part) in [("vision_config", &fields.vision), ("audio_config", &fields.audio)] {
        if !part.is_empty() {
            root.insert(name.into(), Json::Object(part.clone()));
        }
    }
    if wrapper.flat {
        let own: Vec<_> = text.iter().filter(|(field, _)| !root.contains_key(*field)).collect();
        root.extend(own.into_iter().map(|(field, value)| (field.clone(), value.clone())).collect::<Map<_, _>>());
    }
    if !wrapper.text_field.is_empty() {
        root.insert(wrapper.text_field.to_owned(), text_part(wrapper, text));
    }
    if let Some(outer) = wrapper.outer {
        let parts = ["vision_config", "audio_config", wrapper.text_field].into_iter();
        let parts = parts.filter_map(|part| Some((part.to_owned(), root.shift_remove(part)?)));
        let parts: Map<String, Json> = parts.collect();
        root.insert(outer.to_owned(), parts.into());
    }
    root
}

/// The text model's part of the configuration. It names its class where no row converts the text model of the whole one's.
fn text_part(wrapper: &Wrapper, text: &Map<String, Json>) -> Json {
    let mut text = text.clone();
    if let Some(kind) = wrapper.text_type {
        text.insert("model_type".into(), kind.into());
    }
    // What it has to know of the towers stands beside it.
    text.shift_remove("vision_config");
    if let Some(class) = wrapper.text_class {
        text.insert("architectures".into(), json!([class]));
    } else if hf::all().any(|row| row.names.contains(&wrapper.class)) {
        text.shift_remove("architectures");
    }
    Json::Object(text)
}
