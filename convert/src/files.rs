//! Which files a model is read from: what is fetched from the hub, what a record names, and what no output replaces.

use std::fs;
use std::path::{Path, PathBuf};

use gguf::{Error, Result};

/// Endings of configurations, tokenizers and templates.
const ENDINGS: &[&str] = &[".json", ".model", ".jinja", ".tiktoken"];

/// Other names: vocabularies in plain text, the model card, Mistral's tokenizers by version.
const NAMES: &[&str] = &["vocab.txt", "merges.txt", "README.md"];

/// The folder of chat templates that have names.
pub(crate) const TEMPLATES: &str = "additional_chat_templates";

/// Whether a file beside the weights is read where it is there.
pub(crate) fn is_side(name: &str) -> bool {
    let of_mistral = || name.starts_with("tokenizer.model.v");
    let index = name.ends_with(".index.json") && name != "model.safetensors.index.json";
    (ENDINGS.iter().any(|e| name.ends_with(e)) || NAMES.contains(&name) || LICENSES.contains(&name) || of_mistral())
        && !index
}

/// Names of the licence, which a Modelfile quotes; the first that is there counts.
pub(crate) const LICENSES: [&str; 3] = ["LICENSE", "LICENSE.txt", "LICENSE.md"];

/// Whether a file in a folder of the checkpoint is read: that of a module of an embedding model, `1_Pooling/config.json`,
/// or a chat template of a name.
pub(crate) fn is_module(folder: &str, name: &str) -> bool {
    if folder == TEMPLATES {
        return name.ends_with(".jinja");
    }
    let numbered = folder.starts_with(|c: char| c.is_ascii_digit()) && folder.contains('_');
    numbered && (name == "config.json" || name == "model.safetensors")
}

/// The files of a folder that a conversion may read, in the order of their names, as paths from the folder.
///
/// # Errors
/// A folder that cannot be listed.
pub fn of_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for (name, path) in entries(folder)? {
        if path.is_dir() {
            let modules = entries(&path).unwrap_or_default();
            found.extend(modules.into_iter().filter(|(file, _)| is_module(&name, file)).map(|(file, _)| {
                let mut path = PathBuf::from(&name);
                path.push(file);
                path
            }));
        } else if is_side(&name) || name.ends_with(".safetensors") {
            found.push(name.into());
        }
    }
    found.sort();
    Ok(found)
}

/// Every file that a model is read from: those of a checkpoint folder or of its snapshot in the hub's cache, the shards of
/// a split file, or the file itself; of a name on the hub those in its cache. What is not there gives only its name, for who opens it to say so.
pub fn of_model(model: &Path) -> Vec<PathBuf> {
    let model = &crate::location::in_cache(model);
    if !model.is_dir() {
        return gguf::split::files(model);
    }
    let folder = crate::location::of_cache(model).unwrap_or_else(|_| model.clone());
    let files = of_folder(&folder).unwrap_or_default();
    files.into_iter().map(|name| folder.join(name)).collect()
}

/// The folder of a model that no output folder may be, hold or lie in: that of a name on the hub is in its cache.
pub fn folder_of(model: &Path) -> PathBuf {
    crate::location::in_cache(model)
}

/// The entries of a folder with names that are text, without hidden ones.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let failed = |e| Error::io(folder, "list", e);
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
        {
            out.push((name, entry.path()));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_listed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let read = [
            "1_Pooling/config.json",
            "README.md",
            "additional_chat_templates/tools.jinja",
            "config.json",
            "model.safetensors",
            "vocab.txt",
        ];
        let unread = [".hidden.json", "notes.txt", "out.gguf", "pytorch_model.bin", "pytorch_model.bin.index.json"];
        for name in read.iter().chain(&unread) {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        assert_eq!(of_folder(folder.path()).unwrap(), read.map(PathBuf::from));
        assert_eq!(of_model(folder.path()), read.map(|name| folder.path().join(name)));
        let file = folder.path().join("out.gguf");
        assert_eq!(of_model(&file), [file]);
    }
}
