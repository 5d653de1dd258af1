//! Which files a model is read from: what is fetched from the hub, what a record names, and what no output replaces.

use std::fs;
use std::path::{Path, PathBuf};

use gguf::{Error, Result};

use crate::side_files::{is_module, is_side};

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
