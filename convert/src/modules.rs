//! What a sentence-transformers folder does with the states of its model: the modules that `modules.json` lists.

use std::path::{Component, Path, PathBuf};

use gguf::{Error, Result};
use serde_json::Value;

use crate::json;

/// One step of a sentence-transformers model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// The last part of its class: `Transformer`, `Pooling`, `Dense`, `Normalize`.
    pub kind: String,
    /// Its path as it is written.
    pub path: String,
    /// The folder that it is in.
    pub folder: PathBuf,
}

/// The modules of a folder, in order; none where it has no `modules.json`.
///
/// # Errors
/// A file that is no list of modules, or one that places a module outside the folder.
pub fn read(folder: &Path) -> Result<Vec<Module>> {
    let file = folder.join("modules.json");
    let Some(modules) = json::read_optional(&file)? else { return Ok(Vec::new()) };
    let modules = modules.as_array().ok_or_else(|| Error::input("is not a list of modules").at(&file))?;
    modules
        .iter()
        .map(|module| {
            let kind = module["type"].as_str().unwrap_or("");
            let kind = kind.rsplit('.').next().unwrap_or(kind).to_owned();
            let path = module["path"].as_str().unwrap_or("").to_owned();
            if !Path::new(&path).components().all(|c| matches!(c, Component::Normal(_))) {
                let shown = path.escape_debug();
                return Err(Error::input(format!("modules.json places {kind} in \"{shown}\"")).at(folder));
            }
            Ok(Module { kind, folder: folder.join(&path), path })
        })
        .collect()
}

/// How the states of a text become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean = 1,
    /// The first.
    First = 2,
    /// The last.
    Last = 3,
}

impl Pooling {
    /// What the configuration of a module says. Old files have a switch for each way, which come first; new ones a name.
    ///
    /// # Errors
    /// A file that cannot be read, or another way.
    pub fn of(module: &Module) -> Result<Pooling> {
        let file = module.folder.join("config.json");
        let config = json::read(&file)?;
        let is = |key: &str| config[key] == Value::Bool(true);
        match config["pooling_mode"].as_str() {
            _ if is("pooling_mode_mean_tokens") => Ok(Pooling::Mean),
            _ if is("pooling_mode_cls_token") => Ok(Pooling::First),
            _ if is("pooling_mode_lasttoken") => Ok(Pooling::Last),
            Some("mean") => Ok(Pooling::Mean),
            Some("cls") => Ok(Pooling::First),
            Some("lasttoken") => Ok(Pooling::Last),
            _ => Err(Error::input("pooling other than mean, cls and last token is not known").at(file)),
        }
    }
}
