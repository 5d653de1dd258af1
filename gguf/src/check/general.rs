//! Keys under `general.`.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use spdx::identifiers::{EXCEPTIONS, LICENSES};

use super::finding::{Place, Sink};
use super::known::{ARCHITECTURES, LANGUAGES};
use super::model::Model;
use crate::keys;
use crate::quote::shortened;
use crate::types::TensorType;
use crate::value::Value;

rules! { General;
    ARCHITECTURE_MISSING = "architecture-missing" Error "specification, llama.cpp"
        "general.architecture names the architecture, as a string"
        => "`gguf set FILE general.architecture NAME`";
    ARCHITECTURE_UNKNOWN = "architecture-unknown" Warning "llama.cpp"
        "general.architecture is one that llama.cpp knows"
        => "a newer program may know it; check the spelling";
    ARCHITECTURE_CHARSET = "architecture-charset" Warning "specification"
        "general.architecture has only the characters a-z, 0-9 and hyphen (some known names have _)"
        => "`gguf set FILE general.architecture NAME` and rename its keys";
    QUANTIZATION_VERSION_MISSING = "quantization-version-missing" Error "specification"
        "a file with quantized tensors has general.quantization_version"
        => "`gguf set FILE general.quantization_version 2`";
    QUANTIZATION_VERSION_UNKNOWN = "quantization-version-unknown" Warning "ggml"
        "general.quantization_version is 2"
        => "quantize the original again with a current program";
    FILE_TYPE_UNKNOWN = "file-type-unknown" Warning "llama.cpp"
        "general.file_type is one that llama.cpp knows"
        => "`gguf remove FILE general.file_type`; readers guess it from the tensors";
    FILE_TYPE_MISMATCH = "file-type-mismatch" Warning "llama.cpp"
        "general.file_type is what most tensors of two and more dimensions have"
        => "`gguf set FILE general.file_type N`";
    GENERAL_TYPE_UNKNOWN = "general-type-unknown" Warning "gguf-py"
        "general.type is model, adapter, imatrix or mmproj"
        => "`gguf set FILE general.type model`";
    GENERAL_VALUE_TYPE = "general-value-type" Error "specification; CVE-2024-8063"
        "a standard key has its standard type"
        => "`gguf set FILE KEY VALUE`, which knows the type";
    LICENSE_NOT_SPDX = "license-not-spdx" Warning "specification"
        "general.license is an SPDX expression, or the id under which Hugging Face lists a licence"
        => "the licence stays what its owner gave: `gguf set FILE general.license LicenseRef-NAME` says it as SPDX does";
    UUID_DOI_URL_FORMAT = "uuid-doi-url-format" Warning "specification"
        "keys that end in .uuid, .doi or url look like what they name"
        => "`gguf set FILE KEY VALUE`";
    LANGUAGES_NOT_ISO639 = "languages-not-iso639" Warning "specification"
        "general.languages are codes of ISO 639: two letters of the list, or three letters"
        => "`gguf set FILE general.languages '[\"en\"]'`";
    BASE_MODEL_COUNT = "base-model-count" Warning "specification"
        "general.base_model.count (and general.dataset.count) is the number of entries that follow"
        => "`gguf set FILE general.base_model.count N`";
    SIZE_LABEL_MISMATCH = "size-label-mismatch" Warning "specification"
        "a general.size_label of the form 7B is near the number of weights (labels with experts or words are names)"
        => "`gguf set FILE general.size_label LABEL`";
    FILENAME_CONVENTION = "filename-convention" Warning "specification"
        "the file's name has no spaces, ends in .gguf, and an encoding in it is that of the file"
        => "rename the file: Name-7B-Instruct-v1.0-Q4_K_M.gguf";
}

/// File types (llama.h) with the type that most tensors have.
const FILE_TYPES: &[(u64, &str, TensorType)] = &[
    (0, "F32", TensorType::F32),
    (1, "F16", TensorType::F16),
    (2, "Q4_0", TensorType::Q4_0),
    (3, "Q4_1", TensorType::Q4_1),
    (7, "Q8_0", TensorType::Q8_0),
    (8, "Q5_0", TensorType::Q5_0),
    (9, "Q5_1", TensorType::Q5_1),
    (10, "Q2_K", TensorType::Q2_K),
    (11, "Q3_K_S", TensorType::Q3_K),
    (12, "Q3_K_M", TensorType::Q3_K),
    (13, "Q3_K_L", TensorType::Q3_K),
    (14, "Q4_K_S", TensorType::Q4_K),
    (15, "Q4_K_M", TensorType::Q4_K),
    (16, "Q5_K_S", TensorType::Q5_K),
    (17, "Q5_K_M", TensorType::Q5_K),
    (18, "Q6_K", TensorType::Q6_K),
    (19, "IQ2_XXS", TensorType::IQ2_XXS),
    (20, "IQ2_XS", TensorType::IQ2_XS),
    (21, "Q2_K_S", TensorType::Q2_K),
    (22, "IQ3_XS", TensorType::IQ3_S),
    (23, "IQ3_XXS", TensorType::IQ3_XXS),
    (24, "IQ1_S", TensorType::IQ1_S),
    (25, "IQ4_NL", TensorType::IQ4_NL),
    (26, "IQ3_S", TensorType::IQ3_S),
    (27, "IQ3_M", TensorType::IQ3_S),
    (28, "IQ2_S", TensorType::IQ2_XS),
    (29, "IQ2_M", TensorType::IQ2_S),
    (30, "IQ4_XS", TensorType::IQ4_XS),
    (31, "IQ1_M", TensorType::IQ1_M),
    (32, "BF16", TensorType::BF16),
    (36, "TQ1_0", TensorType::TQ1_0),
    (37, "TQ2_0", TensorType::TQ2_0),
    (38, "MXFP4_MOE", TensorType::MXFP4),
    (39, "NVFP4", TensorType::NVFP4),
    (40, "Q1_0", TensorType::Q1_0),
    (41, "Q2_0", TensorType::Q2_0),
];

/// Licences that are not on SPDX's list and that Hugging Face lists under an id: what a model card says of Gemma's or
/// Llama's terms, and what converters write.
const HUB_LICENSES: &[&str] = &[
    "apple-amlr",
    "apple-ascl",
    "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0",
    "bigscience-openrail-m",
    "bsd",
    "c-uda",
    "cc",
    "creativeml-openrail-m",
    "deepfloyd-if-license",
    "fair-noncommercial-research-license",
    "gemma",
    "gfdl",
    "gpl",
    "grok2-community",
    "h-research",
    "intel-research",
    "lgpl",
    "lgpl-lr",
    "llama2",
    "llama3",
    "llama3.1",
    "llama3.2",
    "llama3.3",
    "llama4",
    "odbl",
    "odc-by",
    "open-mdw",
    "openmdw-1.0",
    "openrail",
    "openrail++",
    "other",
    "pddl",
    "unknown",
];

/// Types in which the tensors of a file of this type may be the most, beside its own: recipes of few bits give more
/// to some tensors, and types whose blocks do not fit the rows fall back.
fn is_mixed(file_type: u64) -> bool {
    matches!(file_type, 10..=13 | 19..=31 | 36..=39)
}

pub(super) fn check(model: &Model<'_>, path: Option<&Path>, sink: &mut Sink<'_>) {
    architecture(model, sink);
    value_types(model, sink);
    types(model, sink);
    texts(model, sink);
    size_label(model, sink);
    if let Some(path) = path {
        file_name(model, path, sink);
    }
}

fn architecture(model: &Model<'_>, sink: &mut Sink<'_>) {
    const KEY: &str = "general.architecture";
    let arch = model.arch;
    if arch.is_empty() {
        // An importance matrix belongs to a model without being one.
        if model.kind != "imatrix" {
            let message = format_args!("{KEY} is missing, empty or no string");
            model.fault(sink, &ARCHITECTURE_MISSING, KEY, message);
        }
        return;
    }
    if ARCHITECTURES.binary_search(&arch).is_ok() {
        return;
    }
    model.fault(sink, &ARCHITECTURE_UNKNOWN, KEY, format_args!("the architecture {} is not known", shortened(arch)));
    if !arch.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        let message = format_args!("the architecture {} has other characters than a-z, 0-9, -", shortened(arch));
        model.fault(sink, &ARCHITECTURE_CHARSET, KEY, message);
    }
}

fn value_types(model: &Model<'_>, sink: &mut Sink<'_>) {
    for key in &model.first.keys {
        // The alignment has rules of its own, and what readers make of a sampler's setting they parse from its text.
        let standard = key.name.starts_with("general.") && !key.name.starts_with("general.sampling.");
        let Some(kind) = keys::kind(&key.name).filter(|_| standard && key.name != "general.alignment") else {
            continue;
        };
        if !kind.fits(&key.value) {
            let found = match &key.value {
                Value::Array(array) => format!("array of {}", array.element_type()),
                value => value.value_type().to_string(),
            };
            let name = &key.name;
            model.fault(sink, &GENERAL_VALUE_TYPE, name, format_args!("{name} is of type {found}, not {kind}"));
        }
    }
}

fn types(model: &Model<'_>, sink: &mut Sink<'_>) {
    const VERSION: &str = "general.quantization_version";
    const FILE_TYPE: &str = "general.file_type";
    let quantized = model.tensors.iter().find(|(_, t)| t.ty.is_some_and(TensorType::is_quantized));
    match (model.get(VERSION).and_then(Value::as_u64), quantized) {
        (None, Some((_, tensor))) => {
            let message = format_args!("{VERSION} is missing, tensor {} is quantized", shortened(&tensor.name));
            model.fault(sink, &QUANTIZATION_VERSION_MISSING, VERSION, message);
        }
        (Some(n), _) if n != 2 => {
            model.fault(sink, &QUANTIZATION_VERSION_UNKNOWN, VERSION, format_args!("{VERSION} is {n}"));
        }
        _ => {}
    }
    if let Some(kind) = model.get("general.type").and_then(Value::as_str)
        && !["model", "adapter", "imatrix", "mmproj"].contains(&kind)
    {
        let message = format_args!("general.type is {}", shortened(kind));
        model.fault(sink, &GENERAL_TYPE_UNKNOWN, "general.type", message);
    }
    let Some(n) = model.get(FILE_TYPE).and_then(Value::as_u64) else { return };
    // llama.cpp marks a guess with this bit; 1024 alone says "guessed, unknown".
    let n = if n == 1024 { return } else { n & !1024 };
    let Some(&(_, name, expected)) = FILE_TYPES.iter().find(|t| t.0 == n) else {
        model.fault(sink, &FILE_TYPE_UNKNOWN, FILE_TYPE, format_args!("{FILE_TYPE} is {n}"));
        return;
    };
    let mut counts: HashMap<TensorType, u64> = HashMap::new();
    for (_, tensor) in &model.tensors {
        let fits = tensor.dims.first().is_some_and(|row| row.is_multiple_of(expected.block_len()));
        if let Some(ty) = tensor.ty.filter(|_| tensor.dims.len() >= 2 && fits) {
            *counts.entry(ty).or_default() += 1;
        }
    }
    let own = counts.get(&expected).copied().unwrap_or(0);
    let most = counts.iter().max_by_key(|&(ty, n)| (*n, std::cmp::Reverse(*ty)));
    if let Some((ty, n)) = most
        && *n > own
        && !(is_mixed(n_of(name)) && own > 0)
    {
        let message = format_args!("{FILE_TYPE} says {name}, but {n} tensors are {ty} and {own} are {expected}");
        model.fault(sink, &FILE_TYPE_MISMATCH, FILE_TYPE, message);
    }
}

fn n_of(name: &str) -> u64 {
    FILE_TYPES.iter().find(|t| t.1 == name).map_or(0, |t| t.0)
}

fn texts(model: &Model<'_>, sink: &mut Sink<'_>) {
    if let Some(license) = model.get("general.license").and_then(Value::as_str) {
        let words = license.split([' ', '(', ')']).filter(|w| !w.is_empty());
        let known = words.clone().count() > 0
            && words.into_iter().enumerate().all(|(i, w)| {
                let lower = w.trim_end_matches('+').to_ascii_lowercase();
                (i > 0 && ["or", "and", "with"].contains(&lower.as_str()))
                    || LICENSES.iter().any(|license| license.name.eq_ignore_ascii_case(&lower))
                    || HUB_LICENSES.binary_search(&lower.as_str()).is_ok()
                    || lower.starts_with("licenseref-")
                    || EXCEPTIONS.iter().any(|exception| exception.name.eq_ignore_ascii_case(&lower))
            });
        if !known {
            const KEY: &str = "general.license";
            let message = format_args!("{KEY} is \"{}\"", shortened(license));
            let place = model.first.at(KEY).map_or(Place::absent_key(KEY), |at| Place::key(at, KEY));
            // Another licence is never advised: only its owner can give one.
            let name = as_license_ref(license);
            let fix = format!(
                "`gguf set FILE {KEY} LicenseRef-{name}` names the same licence as SPDX does; general.license.link may say where it is"
            );
            sink.advise(&LICENSE_NOT_SPDX, place, message, fix);
        }
    }
    if let Some(codes) = model.get("general.languages").and_then(Value::as_array) {
        for code in codes.iter_bytes().into_iter().flatten() {
            let text = String::from_utf8_lossy(code);
            let known = match code.len() {
                2 => LANGUAGES.binary_search(&&*text).is_ok(),
                3 => code.iter().all(u8::is_ascii_lowercase),
                _ => false,
            };
            if !known {
                let message = format_args!("general.languages holds \"{}\"", shortened(&text));
                model.fault(sink, &LANGUAGES_NOT_ISO639, "general.languages", message);
            }
        }
    }
    for key in &model.first.keys {
        let Some(rest) = key.name.strip_prefix("general.") else { continue };
        let Some(text) = key.value.as_str() else { continue };
        let last = rest.rsplit('.').next().unwrap_or(rest);
        let good = match last {
            "uuid" => is_uuid(text),
            "doi" => is_doi(text),
            "url" | "repo_url" => text.contains("://") && !text.contains(char::is_whitespace),
            _ => true,
        };
        if !good {
            let message = format_args!("{} is \"{}\", no {last}", key.name, shortened(text));
            model.fault(sink, &UUID_DOI_URL_FORMAT, &key.name, message);
        }
    }
    for list in ["base_model", "dataset"] {
        let prefix = format!("general.{list}.");
        let entries: BTreeSet<u64> = model
            .first
            .keys
            .iter()
            .filter_map(|k| k.name.strip_prefix(&prefix)?.split_once('.')?.0.parse().ok())
            .collect();
        let key = format!("{prefix}count");
        let count = model.get(&key).and_then(Value::as_u64).unwrap_or(0);
        // Entries are numbered from 0 and need not all say something.
        if entries.last().is_some_and(|&last| last >= count) || (count > 0 && entries.is_empty()) {
            let message = format_args!("{key} is {count}, the entries are {entries:?}");
            model.fault(sink, &BASE_MODEL_COUNT, &key, message);
        }
    }
}

/// A licence's name in the characters that SPDX allows behind `LicenseRef-`.
fn as_license_ref(license: &str) -> String {
    let words = license.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').filter(|w| !w.is_empty());
    let name: Vec<&str> = words.take(8).collect();
    if name.is_empty() { "NAME".to_owned() } else { name.join("-") }
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|p| p.len()).eq([8, 4, 4, 4, 12]) && parts.iter().all(|p| p.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_doi(text: &str) -> bool {
    let text = text.strip_prefix("https://doi.org/").or(text.strip_prefix("doi:")).unwrap_or(text);
    text.strip_prefix("10.").and_then(|r| r.split_once('/')).is_some_and(|(registrant, suffix)| {
        registrant.len() >= 4 && registrant.bytes().all(|b| b.is_ascii_digit() || b == b'.') && !suffix.is_empty()
    })
}

fn size_label(model: &Model<'_>, sink: &mut Sink<'_>) {
    const KEY: &str = "general.size_label";
    let Some(label) = model.get(KEY).and_then(Value::as_str) else { return };
    let Some((number, unit)) = label.len().checked_sub(1).and_then(|at| label.split_at_checked(at)) else { return };
    let scale = match unit {
        "K" => 1e3,
        "M" => 1e6,
        "B" => 1e9,
        "T" => 1e12,
        "Q" => 1e15,
        _ => return,
    };
    let Ok(said) = number.parse::<f64>() else { return };
    let weights: f64 = model.tensors.iter().map(|(_, t)| t.dims.iter().map(|&d| d as f64).product::<f64>()).sum();
    // Labels are rounded, and some leave embeddings out.
    let ratio = weights / (said * scale);
    if weights > 0.0 && !(0.5..=2.0).contains(&ratio) {
        model.fault(
            sink,
            &SIZE_LABEL_MISMATCH,
            KEY,
            format_args!("{KEY} is {label}, the tensors hold {weights} weights"),
        );
    }
}

fn file_name(model: &Model<'_>, path: &Path, sink: &mut Sink<'_>) {
    let Some(name) = path.file_name().map(|n| n.to_string_lossy()) else { return };
    let mut fault = |message: std::fmt::Arguments<'_>| sink.add(&FILENAME_CONVENTION, super::Place::default(), message);
    if name.contains(char::is_whitespace) {
        fault(format_args!("the name \"{}\" has spaces", shortened(&name)));
    }
    let Some(stem) = name.strip_suffix(".gguf") else {
        fault(format_args!("the name {} does not end in .gguf", shortened(&name)));
        return;
    };
    let stem = match crate::split::parse(path) {
        Some((prefix, ..)) => prefix.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        None => stem.to_owned(),
    };
    let encoding = stem.rsplit(['-', '.']).next().unwrap_or("");
    let named = FILE_TYPES.iter().find(|t| t.1.eq_ignore_ascii_case(encoding));
    let own = model.get("general.file_type").and_then(Value::as_u64).map(|n| n & !1024);
    if let Some((named, own)) = named.zip(own).filter(|(named, own)| named.0 != *own)
        && FILE_TYPES.iter().any(|t| t.0 == own)
    {
        fault(format_args!("the name says {}, general.file_type says {own}, not {}", named.1, named.0));
    }
}
