//! What a sentence-transformers folder does with the states of its model: the modules that `modules.json` lists.

use std::path::{Component, Path, PathBuf};

use gguf::arch::HeadFunction;
use gguf::{Error, Result};
use serde_json::{Value, json};

use crate::json;
use crate::safetensors::{self, Stored};
use crate::transform::{self, row_count};

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

/// The pooling of a folder's modules in a configuration that has no folder: on the way back from a file.
pub(crate) const POOLING: &str = "pooling of the modules";

impl Pooling {
    /// The pooling of a file's number.
    pub(crate) fn numbered(number: u64) -> Option<Pooling> {
        [Pooling::Mean, Pooling::First, Pooling::Last].into_iter().find(|pooling| *pooling as u64 == number)
    }

    /// The name that the configuration of a module has for it, and the switch of old files.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Pooling::Mean => ("mean", "pooling_mode_mean_tokens"),
            Pooling::First => ("cls", "pooling_mode_cls_token"),
            Pooling::Last => ("lasttoken", "pooling_mode_lasttoken"),
        }
    }

    /// What the configuration of a module says. Old files have a switch for each way, which come first; new ones a name.
    ///
    /// # Errors
    /// A file that cannot be read, or another way.
    pub fn of(module: &Module) -> Result<Pooling> {
        let file = module.folder.join("config.json");
        let config = json::read(&file)?;
        let is = |key: &str| config[key] == Value::Bool(true);
        let all = [Pooling::Mean, Pooling::First, Pooling::Last];
        let named = |pooling: &Pooling| config["pooling_mode"].as_str() == Some(pooling.names().0);
        let found = all.into_iter().find(|p| is(p.names().1)).or(all.into_iter().find(named));
        found.ok_or_else(|| Error::input("pooling other than mean, cls and last token is not known").at(file))
    }

    /// The files of a folder that pools so: the list of its modules, and the configuration of the one that pools
    /// states of this length. States are normalized in the end, as programs that read files do.
    pub(crate) fn files(self, length: u64) -> Vec<(String, Value)> {
        const SWITCHES: &[&str] = &[
            "pooling_mode_cls_token",
            "pooling_mode_mean_tokens",
            "pooling_mode_max_tokens",
            "pooling_mode_mean_sqrt_len_tokens",
            "pooling_mode_weightedmean_tokens",
            "pooling_mode_lasttoken",
        ];
        let modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")];
        let modules = (0..).zip(modules).map(|(id, (path, kind)): (u64, _)| {
            let class = format!("sentence_transformers.models.{kind}");
            json!({"idx": id, "name": id.to_string(), "path": path, "type": class})
        });
        let mut pooling = json!({"word_embedding_dimension": length, "include_prompt": true});
        for switch in SWITCHES {
            pooling[*switch] = (*switch == self.names().1).into();
        }
        vec![("modules.json".to_owned(), modules.collect()), ("1_Pooling/config.json".to_owned(), pooling)]
    }
}

/// What a folder does with hidden states that files of its architecture may have no place for.
#[derive(Clone, Debug, Default)]
pub struct Behind {
    /// The steps behind the transformer that `modules.json` lists, in order.
    pub stages: Vec<Stage>,
    /// The layer between a classifier's state and its scores, where the file leaves it out (BERT).
    pub pooler: Option<Dense>,
}

/// A step behind the transformer.
#[derive(Clone, Debug)]
pub enum Stage {
    /// The states of a text become one.
    Pool(Pooling),
    /// A matrix.
    Dense(Dense),
    /// A norm of mean and variance.
    Norm(Norm),
    /// Divided by the length.
    Normalize,
}

/// A matrix with what follows it.
#[derive(Clone, Debug)]
pub struct Dense {
    /// What it is called where something is wrong with it.
    pub name: String,
    /// `[outputs, inputs]`, row-major.
    pub weight: Vec<f32>,
    /// Length of its input.
    pub inputs: usize,
    /// One value an output.
    pub bias: Option<Vec<f32>>,
    /// The function of the sum.
    pub function: Option<HeadFunction>,
}

/// A norm of mean and variance.
#[derive(Clone, Debug)]
pub struct Norm {
    /// One factor a value.
    pub weight: Vec<f32>,
    /// One value added a value.
    pub bias: Vec<f32>,
    /// Added to the variance.
    pub eps: f32,
}

/// The steps behind the transformer that a folder's `modules.json` lists.
///
/// # Errors
/// As [`read`], modules of a kind that is not known, and files of theirs that are missing or malformed.
pub fn stages(folder: &Path) -> Result<Vec<Stage>> {
    let mut stages = Vec::new();
    for module in read(folder)? {
        match module.kind.as_str() {
            "Transformer" | "Dropout" => {}
            "Pooling" => stages.push(Stage::Pool(Pooling::of(&module)?)),
            "Dense" => stages.push(Stage::Dense(dense(&module)?)),
            "LayerNorm" => stages.push(Stage::Norm(norm(&module)?)),
            "Normalize" => stages.push(Stage::Normalize),
            other => {
                let shown = other.escape_debug();
                return Err(Error::input(format!("modules.json lists a module {shown}, which is not known")).at(folder));
            }
        }
    }
    Ok(stages)
}

fn dense(module: &Module) -> Result<Dense> {
    let file = module.folder.join("config.json");
    let config = json::read(&file)?;
    let class = config["activation_function"].as_str().unwrap_or("Tanh");
    let class = class.rsplit('.').next().unwrap_or(class);
    let function = match class {
        "Identity" => None,
        _ => Some(HeadFunction::named(&class.to_lowercase()).ok_or_else(|| {
            Error::input(format!("activation_function {} is not known", class.escape_debug())).at(&file)
        })?),
    };
    let tensors = tensors(module)?;
    let weight = find(&tensors, "linear.weight").ok_or_else(|| missing(module, "linear.weight"))?;
    Dense::of(&module.path, weight, find(&tensors, "linear.bias"), function)
}

fn norm(module: &Module) -> Result<Norm> {
    let tensors = tensors(module)?;
    let values = |name: &str| floats(find(&tensors, name).ok_or_else(|| missing(module, name))?);
    Ok(Norm { weight: values("norm.weight")?, bias: values("norm.bias")?, eps: 1e-5 })
}

fn tensors(module: &Module) -> Result<Vec<Stored>> {
    let file = module.folder.join("model.safetensors");
    if !file.is_file() && module.folder.join("pytorch_model.bin").is_file() {
        return Err(Error::input("the module has its weights in a pickle, which is not loaded")
            .at(&module.folder)
            .help("save it as model.safetensors"));
    }
    safetensors::open_file(&file)
}

fn missing(module: &Module, name: &str) -> Error {
    Error::input(format!("has no {name}")).at(module.folder.join("model.safetensors"))
}

fn find<'a>(tensors: &'a [Stored], name: &str) -> Option<&'a Stored> {
    tensors.iter().find(|t| t.name() == name)
}

/// The values of a tensor that is small enough to be read as a whole.
fn floats(tensor: &Stored) -> Result<Vec<f32>> {
    let rows = transform::stored(tensor)?;
    let values = rows.rows(0..row_count(rows.shape()))?;
    transform::to_f32(rows.elements(), &values)
}

impl Dense {
    /// The layer of these tensors.
    ///
    /// # Errors
    /// Tensors that are no matrix and a value for each of its rows, or whose types are not known.
    pub fn of(name: &str, weight: &Stored, bias: Option<&Stored>, function: Option<HeadFunction>) -> Result<Dense> {
        let &[outputs, inputs] = weight.shape() else {
            return Err(Error::input(format!("tensor {} is no matrix", weight.name())).at(weight.path()));
        };
        if let Some(bias) = bias.filter(|b| b.elements() != outputs) {
            let message = format!("tensor {} has {} values, not {outputs}", bias.name(), bias.elements());
            return Err(Error::input(message).at(bias.path()));
        }
        let inputs = usize::try_from(inputs).unwrap_or(usize::MAX);
        Ok(Dense {
            name: name.to_owned(),
            weight: floats(weight)?,
            inputs,
            bias: bias.map(floats).transpose()?,
            function,
        })
    }
}
