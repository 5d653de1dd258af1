//! LoRA adapters of PEFT: as a GGUF adapter, or merged into the weights while these are converted.
//!
//! An adapter adds to a weight W [out, in] the product of B [out, r] and A [r, in] times alpha ÷ r (Hu et al., *LoRA*,
//! 2021; alpha ÷ √r with rank stabilization). A GGUF adapter has one alpha, which readers divide by each rank: where
//! that is not what an adapter means, its alpha is the product with √r, or what is left of the factor goes into B.
//! Beside the matrices an adapter may hold weights that were trained as a whole: norms find a place in a GGUF adapter,
//! and all are put in place by a merge. Other variants change more than that and are refused by name.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gguf::{Array, Error, Metadata, Result, Shape, Source, TensorInfo, TensorType};
use indexmap::IndexMap;
use regex::Regex;
use serde_json::{Map, Value};

use crate::config::{self, Config};
use crate::hf::{self, Class, Early, How, NameRule, Outputs, Params, Piece, Types};
use crate::metadata::{General, Overrides, Parameters};
use crate::names::Renamed;
use crate::safetensors::{self, Dtype, Stored};
use crate::text_names::TextNames;
use crate::tokenizer::folder;
use crate::transform::{self, Elements, RowSource, Rows, row_count, row_len};
use crate::transform::{Tensor, rotated};
use crate::{Options, OutType, json, links, names};

/// Keys of `adapter_config.json` that make something else of an adapter than a LoRA, and what they are called.
const VARIANTS: &[(&str, &str)] = &[
    ("use_dora", "DoRA (weight-decomposed adaptation)"),
    ("use_qalora", "QALoRA"),
    ("lora_bias", "matrices with biases (lora_bias)"),
    ("layer_replication", "layer replication"),
    ("trainable_token_indices", "trained tokens"),
    ("target_parameters", "adapters of bare parameters (target_parameters)"),
    ("exclude_modules_to_save", "exclude_modules_to_save"),
];

/// A folder with an adapter.
#[derive(Debug)]
pub struct Adapter {
    folder: PathBuf,
    /// The alpha of a GGUF adapter: divided by the rank it is the factor of a matrix that has no other.
    alpha: f64,
    /// Whether the weights are stored input-major, as those of `Conv1D`.
    input_major: bool,
    /// Tokens from which on an activated LoRA counts.
    activation: Vec<u32>,
    pairs: IndexMap<String, Pair>,
    /// Weights that were trained as a whole.
    wholes: IndexMap<String, Stored>,
}

/// The two matrices beside a weight.
#[derive(Clone, Debug)]
struct Pair {
    /// [r, in]
    a: Rows,
    /// [out, r]
    b: Rows,
    /// Whether the weight is an embedding: [in, out], looked up instead of multiplied by.
    embedding: bool,
    /// What the product is multiplied by, times the rank.
    strength: f64,
}

impl Pair {
    fn rank(&self) -> u64 {
        self.b.shape()[1]
    }

    /// The factor of the product.
    fn factor(&self) -> f32 {
        (self.strength / self.rank() as f64) as f32
    }
}

impl Adapter {
    /// Reads a folder's configuration and headers.
    ///
    /// # Errors
    /// A folder that is no adapter, a variant that is more than a LoRA, matrices without the other, ranks and target
    /// modules that disagree with the configuration.
    pub fn open(folder: &Path) -> Result<Adapter> {
        links::check(folder)?;
        let path = folder.join("adapter_config.json");
        let value = json::read(&path).map_err(|e| e.help("an adapter's folder has adapter_config.json"))?;
        let Value::Object(config) = value else { return Err(Error::input("is no JSON object").at(&path)) };
        check_variant(&config).map_err(|e| e.at(&path))?;
        let weights = folder.join("adapter_model.safetensors");
        if !weights.is_file() {
            return Err(Error::input("there is no adapter_model.safetensors")
                .at(folder)
                .help("a pickle (adapter_model.bin) is never loaded: save the adapter again with safe_serialization"));
        }
        let mut stored = safetensors::open_file(&weights)?;
        // The order of the file is that in which the reference goes through it.
        stored.sort_by_key(Stored::offset);
        let Parts { halves, wholes } = parts(stored).map_err(|e| e.at(&weights))?;
        let factors = Factors::new(&config).map_err(|e| e.at(&path))?;
        let pairs = pairs(halves, &factors).map_err(|e| e.at(&weights))?;
        check_targets(&config, &pairs, &wholes).map_err(|e| e.at(&path))?;
        let alpha = factors.common(&pairs);
        let flag = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
        let input_major = flag("fan_in_fan_out");
        let activation = activation(&config).map_err(|e| e.at(&path))?;
        Ok(Adapter { folder: folder.to_path_buf(), alpha, input_major, activation, pairs, wholes })
    }

    /// Merges the adapter, times `scale`, into the tensors of a checkpoint of this class. The sums are f32.
    ///
    /// # Errors
    /// A weight that the checkpoint has not, or of another shape.
    pub(crate) fn merge(
        &self,
        tensors: &mut [Tensor],
        class: &'static Class,
        config: &Config,
        scale: f32,
    ) -> Result<()> {
        let own = TextNames::new(class, config)?;
        if !self.activation.is_empty() {
            return Err(Error::input(
                "the adapter counts from certain tokens on (activated LoRA), which no merge does",
            )
            .at(&self.folder));
        }
        for (name, pair) in &self.pairs {
            for i in self.changed(tensors, &own, name)? {
                let rows = &tensors[i].rows;
                tensors[i].rows = self.merged(name, pair, rows, scale)?;
            }
        }
        for (name, whole) in &self.wholes {
            for i in self.changed(tensors, &own, name)? {
                let rows = &mut tensors[i].rows;
                if rows.shape() != whole.shape() {
                    return Err(self.misfit(name, whole.shape(), rows.shape()));
                }
                *rows = transform::stored(whole)?;
            }
        }
        Ok(())
    }

    /// A weight with its change.
    fn merged(&self, name: &str, pair: &Pair, rows: &Rows, scale: f32) -> Result<Rows> {
        let turned = self.input_major && !pair.embedding;
        let rows = if turned { transform::transposed(rows)? } else { Arc::clone(rows) };
        // What is looked up is stored the other way round: the product is turned with it.
        let (a, b) = if pair.embedding {
            (transform::transposed(&pair.b)?, transform::transposed(&pair.a)?)
        } else {
            (Arc::clone(&pair.a), Arc::clone(&pair.b))
        };
        let expected = [b.shape()[0], a.shape()[1]];
        if rows.shape() != expected {
            return Err(self.misfit(name, &expected, rows.shape()));
        }
        if matches!(rows.elements(), Elements::Blocks(_)) {
            return Err(Error::input(format!("{name} is packed in blocks, which nothing is merged into")));
        }
        let merged: Rows = Arc::new(Merged {
            of: rows,
            a: values(&a)?,
            b: values(&b)?,
            rank: pair.rank() as usize,
            factor: scale * pair.factor(),
        });
        if turned { transform::transposed(&merged) } else { Ok(merged) }
    }

    /// The tensors that a name of the adapter means; none where the file has no use for it.
    fn changed(&self, tensors: &[Tensor], own: &TextNames<'_>, name: &str) -> Result<Vec<usize>> {
        let known = own.of(name).into_iter().flatten();
        let found = known.map(|known| {
            find(tensors, &known.name).ok_or_else(|| {
                Error::input(format!("the adapter changes {name}, which the checkpoint has not"))
                    .at(&self.folder)
                    .help("the adapter was made for another model")
            })
        });
        found.collect()
    }

    fn misfit(&self, name: &str, adapter: &[u64], checkpoint: &[u64]) -> Error {
        Error::input(format!("the adapter changes {name} as {adapter:?}, the checkpoint's is {checkpoint:?}"))
            .at(&self.folder)
            .help("the adapter was made for another model, or for one to which tokens were added")
    }

    /// How many weights it changes.
    pub fn len(&self) -> usize {
        self.pairs.len() + self.wholes.len()
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn check_variant(config: &Map<String, Value>) -> Result<()> {
    let kind = config.get("peft_type").and_then(Value::as_str).unwrap_or("without peft_type");
    if kind != "LORA" {
        return Err(Error::input(format!("the adapter is of the type {kind}, not LORA")));
    }
    for (key, name) in VARIANTS {
        let set = match config.get(*key) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Array(items)) => !items.is_empty(),
            Some(_) => true,
        };
        if set {
            return Err(Error::input(format!("the adapter is not a plain LoRA: {name}"))
                .help("merge it with PEFT (merge_and_unload) and convert the merged checkpoint"));
        }
    }
    if config.get("bias").and_then(Value::as_str).is_some_and(|b| b != "none") {
        return Err(Error::input("the adapter trains biases as well, which is not supported"));
    }
    Ok(())
}

/// The tokens that an activated LoRA begins to count with.
fn activation(config: &Map<String, Value>) -> Result<Vec<u32>> {
    let given = |key: &str| config.get(key).filter(|v| !v.is_null());
    match given("alora_invocation_tokens") {
        Some(tokens) => {
            let number = |v: &Value| u32::try_from(config::as_u64(v)?).ok();
            let tokens = tokens.as_array().and_then(|items| items.iter().map(number).collect());
            tokens.ok_or_else(|| Error::input("alora_invocation_tokens is no list of tokens"))
        }
        None if given("invocation_string").and_then(Value::as_str).is_some_and(|s| !s.is_empty()) => {
            Err(Error::input("the adapter is an activated LoRA whose tokens are given as text (invocation_string)")
                .help("write their numbers under alora_invocation_tokens into adapter_config.json"))
        }
        None => Ok(Vec::new()),
    }
}

/// What the configuration says of factors: alpha for all and by patterns of modules' names, likewise the rank.
#[derive(Debug)]
struct Factors {
    alpha: f64,
    alphas: Vec<(Regex, f64)>,
    rank: Option<f64>,
    ranks: Vec<(Regex, f64)>,
    stabilized: bool,
}

impl Factors {
    fn new(config: &Map<String, Value>) -> Result<Factors> {
        let number = |value: Option<&Value>| value.and_then(Value::as_f64).filter(|a| a.is_finite());
        let patterns = |key: &str| -> Result<Vec<(Regex, f64)>> {
            let entries = config.get(key).and_then(Value::as_object).into_iter().flatten();
            let entry = |(pattern, value): (&String, &Value)| {
                let fault = || Error::input(format!("{key} has \"{}\": {value}", pattern.escape_debug()));
                // As PEFT asks: the name ends so, after a dot or as a whole.
                let regex = Regex::new(&format!(r"\A(?:.*\.)?(?:{pattern})\z")).map_err(|e| fault().caused_by(e))?;
                Ok((regex, number(Some(value)).ok_or_else(fault)?))
            };
            entries.map(entry).collect()
        };
        Ok(Factors {
            alpha: number(config.get("lora_alpha")).ok_or_else(|| Error::input("lora_alpha is no number"))?,
            alphas: patterns("alpha_pattern")?,
            rank: number(config.get("r")),
            ranks: patterns("rank_pattern")?,
            stabilized: config.get("use_rslora").and_then(Value::as_bool).unwrap_or(false),
        })
    }

    fn of(patterns: &[(Regex, f64)], module: &str) -> Option<f64> {
        patterns.iter().find(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value)
    }

    /// The factor of a module's product, times its rank.
    fn strength(&self, module: &str, rank: u64) -> Result<f64> {
        let stated = Factors::of(&self.ranks, module).or(self.rank);
        if let Some(stated) = stated.filter(|stated| *stated != rank as f64) {
            return Err(Error::input(format!("r is {stated}, the rank of {module} is {rank}")));
        }
        Ok(self.stretched(Factors::of(&self.alphas, module).unwrap_or(self.alpha), rank as f64))
    }

    fn stretched(&self, alpha: f64, rank: f64) -> f64 {
        if self.stabilized { alpha * rank.sqrt() } else { alpha }
    }

    /// The one alpha of a GGUF adapter: that of all, where a matrix has it.
    fn common(&self, pairs: &IndexMap<String, Pair>) -> f64 {
        let usual = self.rank.map_or(self.alpha, |rank| self.stretched(self.alpha, rank));
        let has = |strength: f64| pairs.values().any(|p| p.strength == strength);
        let other = || pairs.values().map(|p| p.strength).find(|s| *s != 0.0);
        if has(usual) && usual != 0.0 { usual } else { other().unwrap_or(usual) }
    }
}

/// A and B of each changed weight, and weights that were trained as a whole, in the order of the file.
#[derive(Default)]
struct Parts {
    halves: IndexMap<String, Halves>,
    wholes: IndexMap<String, Stored>,
}

#[derive(Default)]
struct Halves {
    found: [Option<Stored>; 2],
    embedding: bool,
}

/// Endings of the names of A and B, and whether they are those of an embedding.
const HALVES: [(&str, usize, bool); 8] = [
    (".lora_A.weight", 0, false),
    (".lora_B.weight", 1, false),
    (".lora_A.default.weight", 0, false),
    (".lora_B.default.weight", 1, false),
    (".lora_embedding_A", 0, true),
    (".lora_embedding_B", 1, true),
    (".lora_embedding_A.default", 0, true),
    (".lora_embedding_B.default", 1, true),
];

/// Sorts an adapter's tensors by the name of the weight they change.
fn parts(stored: Vec<Stored>) -> Result<Parts> {
    let mut out = Parts::default();
    for tensor in stored {
        let name = tensor.name().replace("base_model.model.", "");
        if name.contains("lora_magnitude_vector") {
            return Err(Error::input("the adapter is a DoRA, which is not supported").in_tensor(name));
        }
        if [".base_layer.", ".original_module."].iter().any(|own| name.contains(own)) {
            // The model's own weight, which some trainers save beside the adapter's.
            continue;
        }
        if transform::stored(&tensor).is_err() || tensor.elements() == 0 {
            return Err(Error::input(format!("{} {:?} is no weight", tensor.dtype(), tensor.shape())).in_tensor(name));
        }
        let half = HALVES.iter().find_map(|(ending, half, embedding)| {
            name.strip_suffix(ending).map(|module| (format!("{module}.weight"), *half, *embedding))
        });
        let Some((base, half, embedding)) = half else {
            if name.contains(".lora_") {
                return Err(Error::input(format!("tensor {name} is neither A nor B of a layer"))
                    .help("adapters of linear layers and of embeddings are known"));
            }
            let name = name.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".");
            out.wholes.insert(name, tensor);
            continue;
        };
        if tensor.shape().len() != 2 {
            return Err(Error::input(format!("{:?} is no matrix", tensor.shape())).in_tensor(name));
        }
        let halves = out.halves.entry(base).or_default();
        halves.embedding = embedding;
        halves.found[half] = Some(tensor);
    }
    if out.halves.is_empty() && out.wholes.is_empty() {
        return Err(Error::input("the adapter changes nothing"));
    }
    Ok(out)
}

/// Matrices by the name of the weight they change.
fn pairs(halves: IndexMap<String, Halves>, factors: &Factors) -> Result<IndexMap<String, Pair>> {
    let pair = |(name, Halves { found, embedding }): (String, Halves)| {
        let [Some(a), Some(b)] = found else {
            return Err(Error::input(format!("the adapter has only one of the two matrices of {name}")));
        };
        if a.shape()[0] != b.shape()[1] {
            let what = format!("the ranks of A {:?} and B {:?} of {name} differ", a.shape(), b.shape());
            return Err(Error::input(what));
        }
        let strength = factors.strength(module_of(&name), a.shape()[0])?;
        let (a, b) = (transform::stored(&a)?, transform::stored(&b)?);
        Ok((name, Pair { a, b, embedding, strength }))
    };
    halves.into_iter().map(pair).collect()
}

fn module_of(weight: &str) -> &str {
    weight.rsplit_once('.').map_or(weight, |(module, _)| module)
}

/// Modules against what the configuration says of them. PEFT asks that one of those it names is there, not each.
fn check_targets(
    config: &Map<String, Value>,
    pairs: &IndexMap<String, Pair>,
    wholes: &IndexMap<String, Stored>,
) -> Result<()> {
    // A pattern instead of a list is PEFT's to interpret.
    let list = |key: &str| -> Option<Vec<&str>> {
        Some(config.get(key)?.as_array()?.iter().filter_map(Value::as_str).collect())
    };
    let is_target = |name: &str, target: &str| {
        let module = module_of(name);
        module == target || module.strip_suffix(target).is_some_and(|rest| rest.ends_with('.'))
    };
    if let Some(targets) = list("target_modules")
        && let Some(name) = pairs.keys().find(|name| !targets.iter().any(|t| is_target(name, t)))
    {
        return Err(Error::input(format!("the adapter changes {name}, which target_modules does not name")));
    }
    if let Some(saved) = list("modules_to_save").filter(|saved| !saved.is_empty())
        && !wholes.keys().any(|name| saved.iter().any(|s| is_target(name, s)))
    {
        return Err(Error::input(format!("the adapter has no weights of modules_to_save, {}", saved.join(", "))));
    }
    Ok(())
}

/// The tensor of this name, with or without a wrapper's prefix in front.
fn find(tensors: &[Tensor], name: &str) -> Option<usize> {
    let exact = tensors.iter().position(|t| t.name == name);
    let without = |a: &str, b: &str| a.strip_suffix(b).is_some_and(|rest| rest.ends_with('.'));
    exact.or_else(|| {
        let mut near = tensors.iter().enumerate().filter(|(_, t)| without(&t.name, name) || without(name, &t.name));
        near.next().map(|(i, _)| i).filter(|_| near.next().is_none())
    })
}

fn values(rows: &Rows) -> Result<Vec<f32>> {
    transform::to_f32(rows.elements(), &rows.rows(0..row_count(rows.shape()))?)
}

/// W + factor × B A, row by row.
#[derive(Debug)]
struct Merged {
    of: Rows,
    a: Vec<f32>,
    b: Vec<f32>,
    rank: usize,
    factor: f32,
}

impl RowSource for Merged {
    fn shape(&self) -> &[u64] {
        self.of.shape()
    }

    fn elements(&self) -> Elements {
        Elements::F32
    }

    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let cols = row_len(self.of.shape()) as usize;
        let mut out = transform::to_f32(self.of.elements(), &self.of.rows(rows.clone())?)?;
        let mut change = vec![0.0; cols];
        for (row, out) in (rows.start as usize..).zip(out.chunks_mut(cols.max(1))) {
            change.fill(0.0);
            let b = &self.b[row * self.rank..(row + 1) * self.rank];
            for (b, a) in b.iter().zip(self.a.chunks(cols)) {
                change.iter_mut().zip(a).for_each(|(change, a)| *change += b * a);
            }
            out.iter_mut().zip(&change).for_each(|(w, change)| *w += self.factor * change);
        }
        Ok(Cow::Owned(out.iter().flat_map(|v| v.to_le_bytes()).collect()))
    }

    fn release(&self, rows: Range<u64>) {
        self.of.release(rows);
    }
}

/// An adapter seen as a GGUF file, as `convert_lora_to_gguf.py` writes it.
#[derive(Debug)]
pub struct AdapterFile {
    metadata: Metadata,
    infos: Vec<TensorInfo>,
    rows: Vec<Rows>,
    notes: Vec<String>,
    file_name: String,
    weights: usize,
}

impl AdapterFile {
    /// Opens an adapter for the model in `base`, of which only the configuration is read.
    ///
    /// # Errors
    /// What [`Adapter::open`] meets, a model that is not known, or a layer whose change of layout an adapter cannot take.
    pub fn open(folder: &Path, base: &Path, options: &Options) -> Result<AdapterFile> {
        let adapter = Adapter::open(folder)?;
        let root = config::read(base)?;
        let path = base.join("config.json");
        let (architecture, config) = hf::read(&root, crate::Part::Model).map_err(|e| e.at(&path))?;
        if adapter.alpha == 0.0 {
            return Err(Error::input(
                "lora_alpha is 0: the adapter changes nothing, and readers take 0 for none given",
            )
            .at(folder));
        }

        let mut plan = Plan::new(architecture, &config).map_err(|e| e.at(&path))?;
        plan.add_all(&adapter).map_err(|e| e.at(folder))?;
        let Plan { out, left, .. } = plan;
        let total = out.iter().map(|placed| placed.elements()).sum();
        let parameters = Parameters { total, adapter: !adapter.pairs.is_empty(), ..Parameters::default() };

        let ty = matrix_type(options.outtype, &adapter)?;
        let kept = kept_types(architecture, &config, base)?;

        let mut metadata = Metadata::new();
        metadata.set("general.architecture", architecture.arch);
        if architecture.early_of != Early::Tensors {
            let mut params = Params::new(&config, base, architecture.arch, 0, &mut metadata);
            (architecture.early)(&mut params).map_err(|e| e.at(&path))?;
        }
        metadata.set("general.type", "adapter");
        metadata.set("adapter.type", "lora");
        let overrides = Overrides {
            file: options.metadata.clone(),
            name: options.model_name.clone(),
            skip_card: options.skip_model_card,
        };
        let general = General::load(folder, &overrides, &parameters)?;
        general.write(&mut metadata).map_err(|e| e.at(folder))?;
        metadata.set("adapter.lora.alpha", adapter.alpha as f32);
        if !adapter.activation.is_empty() {
            metadata.set("adapter.alora.invocation_tokens", Array::from(adapter.activation.as_slice()));
        }
        metadata.set("general.quantization_version", 2_u32);

        let mut notes = general.notes().to_vec();
        let norms = out.iter().filter(|placed| matches!(placed.data, Data::Whole(_))).count();
        if norms > 0 {
            notes.push(format!("{norms} norms are written as they are, which llama.cpp leaves aside so far"));
        }
        if left > 0 {
            notes.push(format!("left out: changes of {left} weights that the file of the model does not have"));
        }
        if adapter.pairs.values().any(|pair| pair.strength != adapter.alpha) {
            notes.push("some matrices have factors of their own, which are multiplied into B".to_owned());
        }
        let mut file = AdapterFile {
            metadata,
            infos: Vec::new(),
            rows: Vec::new(),
            notes,
            file_name: general.file_name(Some(architecture.file_type.map_or(ty.name(), |(_, name)| name))),
            weights: out.len(),
        };
        for Placed { name, data } in out {
            match data {
                Data::Whole(rows) => file.push(name, rows, TensorType::F32)?,
                Data::Matrices { a, b } => {
                    // An embedding is looked up in A: a row for each token.
                    let a = if name.contains("token_embd.weight") { transform::transposed(&a)? } else { a };
                    let ty = kept.get(&name).copied().unwrap_or(ty);
                    file.push(format!("{name}.lora_a"), a, ty)?;
                    file.push(format!("{name}.lora_b"), b, ty)?;
                }
            }
        }
        Ok(file)
    }

    fn push(&mut self, name: String, rows: Rows, ty: TensorType) -> Result<()> {
        // Rows that are not a whole number of blocks stay floats.
        let ty = if ty.bytes_for(row_len(rows.shape())).is_some() { ty } else { TensorType::F16 };
        let dims: Vec<u64> = rows.shape().iter().rev().copied().collect();
        self.infos.push(TensorInfo::new(name, Shape::new(&dims)?, ty)?);
        self.rows.push(rows);
        Ok(())
    }

    /// The default name of a converted file, by the naming convention of the specification.
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// How many weights of the model the file changes.
    pub fn weights(&self) -> usize {
        self.weights
    }
}

/// The type of an adapter's matrices; `auto` is the first 16-bit type there is, and f16 where there is none.
fn matrix_type(wanted: OutType, adapter: &Adapter) -> Result<TensorType> {
    match wanted.ty() {
        Some(TensorType::TQ1_0 | TensorType::TQ2_0) => {
            Err(Error::usage("an adapter has no ternary weights").help("--outtype f32, f16, bf16, q8_0 or auto"))
        }
        Some(ty) => Ok(ty),
        None => {
            let mut types = adapter.pairs.values().flat_map(|pair| [pair.a.elements(), pair.b.elements()]);
            Ok(types.find(|e| [Elements::BF16, Elements::F16].contains(e)).map_or(TensorType::F16, Elements::ty))
        }
    }
}

/// The types of matrices that do not depend on what is asked for, by their names in the file: of a class whose files have
/// the types of the checkpoint an adapter has them too, where the weights stand beside the configuration.
///
/// # Errors
/// Weights that are there and cannot be read.
fn kept_types(class: &'static Class, config: &Config, base: &Path) -> Result<BTreeMap<String, TensorType>> {
    let mut types = BTreeMap::new();
    if !matches!(class.types, Types::AsStored) || folder::list(base, "safetensors")?.is_empty() {
        return Ok(types);
    }
    let (own, stored) = (TextNames::new(class, config)?, safetensors::open_folder(base)?);
    let scales: HashSet<&str> = stored.iter().filter_map(|tensor| tensor.name().strip_suffix(".scale")).collect();
    for tensor in stored.iter().filter(|tensor| tensor.shape().len() == 2) {
        let scaled = tensor.name().strip_suffix(".weight").is_some_and(|stem| scales.contains(stem));
        let ty = match tensor.dtype() {
            Dtype::BF16 => TensorType::BF16,
            Dtype::F32 => TensorType::F32,
            Dtype::F8_E4M3 | Dtype::F8_E5M2 if scaled => TensorType::Q8_0,
            _ => continue,
        };
        for Renamed { name, .. } in own.of(tensor.name()).unwrap_or_default() {
            let found = names::find(class, &name);
            let rule = found.as_ref().and_then(|found| Some((names::rules(class).nth(found.index)?, found)));
            if let Some((rule, found)) = rule {
                types.insert(format!("{}{}", names::with_block(rule.to, found.block), found.suffix), ty);
            }
        }
    }
    Ok(types)
}

/// What becomes of a weight's change in a GGUF adapter.
#[derive(Debug)]
struct Placed {
    name: String,
    data: Data,
}

#[derive(Clone, Debug)]
enum Data {
    Whole(Rows),
    Matrices { a: Rows, b: Rows },
}

impl Placed {
    /// Elements of the weight that is changed.
    fn elements(&self) -> u64 {
        match &self.data {
            Data::Whole(rows) => rows.shape().iter().product(),
            Data::Matrices { a, b } => {
                let outer: u64 = b.shape().iter().rev().skip(1).product();
                outer * row_len(a.shape())
            }
        }
    }
}

/// Members of a stack that were seen so far: by rule, then by member.
type Members = BTreeMap<usize, BTreeMap<u64, (Rows, Rows)>>;

/// Maps changes one after the other.
struct Plan<'a> {
    class: &'static Class,
    config: &'a Config,
    own: TextNames<'a>,
    stacks: BTreeMap<(&'static str, u64), Members>,
    out: Vec<Placed>,
    /// Changes of what the file has no use for: vision and audio, mostly.
    left: u64,
}

impl<'a> Plan<'a> {
    fn new(class: &'static Class, config: &'a Config) -> Result<Plan<'a>> {
        let own = TextNames::new(class, config)?;
        Ok(Plan { class, config, own, stacks: BTreeMap::new(), out: Vec::new(), left: 0 })
    }

    /// Weights that were trained as a whole come first, as the reference has it.
    fn add_all(&mut self, adapter: &Adapter) -> Result<()> {
        for (name, whole) in &adapter.wholes {
            self.whole(name, whole)?;
        }
        for (name, pair) in &adapter.pairs {
            // A factor of one's own, unless it is that of all.
            let factor = pair.strength / adapter.alpha;
            let b = if factor == 1.0 { Arc::clone(&pair.b) } else { transform::scaled(&pair.b, factor as f32) };
            self.pair(name, &pair.a, &b)?;
        }
        let stacks = std::mem::take(&mut self.stacks);
        for ((group, block), members) in stacks {
            self.stack(group, block, members)?;
        }
        if self.out.is_empty() {
            return Err(Error::input("the adapter changes nothing that the file of the model has"));
        }
        let mut names: Vec<&str> = self.out.iter().map(|placed| placed.name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|two| two[0] == two[1]) {
            Some(two) => Err(Error::input(format!("two weights of the adapter become {}", two[0]))),
            None => Ok(()),
        }
    }

    /// The names of a weight as the tables know it, with the rule that each falls under.
    fn rules(&mut self, name: &str) -> Result<Vec<(String, &'static NameRule)>> {
        let names = self.own.of(name).unwrap_or_default();
        if names.is_empty() {
            self.left += 1;
        }
        let rule = |Renamed { name: known, .. }| {
            let rule = names::find(self.class, &known).and_then(|found| names::rules(self.class).nth(found.index));
            let near = || names::nearest(self.class, &known).unwrap_or_default();
            match rule {
                Some(rule) => Ok((known, rule)),
                None => Err(fault(name, "no tensor of this architecture has the name").help(format!(
                    "the nearest name that there is is {}; was the adapter made for this model?",
                    near()
                ))),
            }
        };
        names.into_iter().map(rule).collect()
    }

    fn whole(&mut self, name: &str, stored: &Stored) -> Result<()> {
        for (known, rule) in self.rules(name)? {
            let Some(found) = names::find(self.class, &known) else { continue };
            let target = format!("{}{}", names::with_block(rule.to, found.block), found.suffix);
            let rows = transform::stored(stored)?;
            let rows = match rule.how.of(found.suffix) {
                How::Keep => rows,
                How::Map(f) | How::MapWeight(f) => transform::mapped(&rows, f),
                _ => return Err(trained_as_a_whole(name)),
            };
            if rows.shape().len() != 1 || !target.contains("_norm") {
                return Err(trained_as_a_whole(name));
            }
            self.out.push(Placed { name: target, data: Data::Whole(rows) });
        }
        Ok(())
    }

    fn pair(&mut self, name: &str, a: &Rows, b: &Rows) -> Result<()> {
        for (known, rule) in self.rules(name)? {
            self.place(name, &known, rule, Arc::clone(a), Arc::clone(b))?;
        }
        Ok(())
    }

    /// The GGUF names of a changed weight with its A and B. What reorders rows of the weight reorders those of B.
    fn place(&mut self, name: &str, known: &str, rule: &NameRule, a: Rows, b: Rows) -> Result<()> {
        let Some(found) = names::find(self.class, known) else { return Ok(()) };
        let block = found.block.unwrap_or(0);
        let to = names::with_block(rule.to, found.block);
        let target = format!("{to}{}", found.suffix);
        let config = self.config;
        let tied = config.bool("tie_word_embeddings") == Some(true);
        let piece =
            |rows: &Rows| Piece { to: to.clone(), suffix: found.suffix.to_owned(), block, rows: Arc::clone(rows) };
        let (a, b) = match rule.how {
            How::Keep | How::First => (a, b),
            How::Untied if !tied => (a, b),
            How::RotateQuery => (a, rotated(&b, self.class.rotated_queries(config)?)?),
            How::RotateKey => (a, rotated(&b, self.class.rotated_keys(config)?)?),
            // The transpose of B A is that of A times that of B.
            How::Transpose => (transform::transposed(&b)?, transform::transposed(&a)?),
            How::Stack { group, .. } => {
                let members = self.stacks.entry((group, block)).or_default();
                members.entry(found.index).or_default().insert(found.member.unwrap_or(0), (a, b));
                if self.is_complete(group, block)? {
                    let members = self.stacks.remove(&(group, block)).unwrap_or_default();
                    self.stack(group, block, members)?;
                }
                return Ok(());
            }
            How::Split(split) | How::Cut(split) => {
                let make = |rows: &Rows| split(config, &piece(rows));
                for (target, b) in moved(make, &b).map_err(|e| e.about(format_args!("the adapter changes {name}")))? {
                    self.out.push(Placed { name: target, data: Data::Matrices { a: Arc::clone(&a), b } });
                }
                return Ok(());
            }
            How::Change(change) => {
                let make = |rows: &Rows| Ok(vec![(target.clone(), change(config, &piece(rows))?)]);
                let first = |parts: Outputs, own: Rows| parts.into_iter().next().map_or(own, |(_, rows)| rows);
                match moved(make, &b) {
                    Ok(changed) => (a, first(changed, b)),
                    Err(of_rows) => match moved_across(make, &a) {
                        Ok(changed) => (first(changed, a), b),
                        Err(_) => return Err(of_rows.about(format_args!("the adapter changes {name}"))),
                    },
                }
            }
            How::Drop | How::Tied | How::Untied => {
                return Err(fault(
                    name,
                    "a file of this architecture does not have it, its token embedding serves for it or nothing",
                ));
            }
            _ => return Err(fault(name, "its change of layout is not one that an adapter can take")),
        };
        self.out.push(Placed { name: target, data: Data::Matrices { a, b } });
        Ok(())
    }

    /// The rules of a group, in the table's order, with the number of members of each.
    fn tables(&self, group: &str) -> Result<Vec<(usize, &'static NameRule, u64)>> {
        let members = |(i, rule): (usize, &'static NameRule)| match rule.how {
            How::Stack { group: g, members } if g == group => Some(members(self.config).map(|n| (i, rule, n))),
            _ => None,
        };
        names::rules(self.class).enumerate().filter_map(members).collect()
    }

    fn is_complete(&self, group: &'static str, block: u64) -> Result<bool> {
        let seen = self.stacks.get(&(group, block));
        let full = |(i, _, members): &(usize, &NameRule, u64)| {
            seen.and_then(|seen| seen.get(i)).is_some_and(|seen| seen.len() as u64 >= *members)
        };
        Ok(self.tables(group)?.iter().all(full))
    }

    /// Stacks the matrices of a block's experts. An adapter may change some of the tables only, but of all members.
    fn stack(&mut self, group: &str, block: u64, mut members: Members) -> Result<()> {
        for (i, rule, count) in self.tables(group)? {
            let Some(seen) = members.remove(&i) else { continue };
            let gap = (0..count.max(1)).find(|member| !seen.contains_key(member));
            if let Some(gap) = gap.or_else(|| seen.keys().copied().find(|member| *member >= count)) {
                let name = names::with_block(rule.from, Some(block)).replace("{x}", &gap.to_string());
                let what = format!("a stack of {count} members has no place without, or for, {name}.weight");
                return Err(Error::input(what).help("--merge-lora merges what the adapter has"));
            }
            let (a, b): (Vec<Rows>, Vec<Rows>) = seen.into_values().unzip();
            let name = format!("{}.weight", names::with_block(rule.to, Some(block)));
            let data = Data::Matrices { a: transform::stacked(a)?, b: transform::stacked(b)? };
            self.out.push(Placed { name, data });
        }
        Ok(())
    }
}

fn fault(name: &str, what: &str) -> Error {
    Error::input(format!("the adapter changes {name}: {what}"))
}

fn trained_as_a_whole(name: &str) -> Error {
    Error::input(format!("{name} was trained as a whole (modules_to_save), for which a GGUF adapter has no place"))
        .help("--merge-lora puts it into the model; norms find a place")
}

/// Columns of a weight that stands in for the real one: none of its dimensions is this by chance.
const PROBE: u64 = 7919;

/// What becomes of a weight, of B instead of it.
///
/// That is right where rows move as they are or times a factor each, since (M B) A = M (B A). A weight without values
/// shows whether columns stay the last dimension of every part, weights of ones and of the numbers of their rows tell
/// factor and row, and the rows of what is made of B itself have to be these.
fn moved(make: impl Fn(&Rows) -> Result<Outputs>, b: &Rows) -> Result<Outputs> {
    let stand_in = |columns: u64, value: fn(u64) -> f32| -> Rows {
        Arc::new(StandIn { shape: vec![b.shape()[0], columns], value })
    };
    let whole_rows = |rows: &Rows| rows.shape().len() == 2 && row_len(rows.shape()) == PROBE;
    let refused = || Error::input("its change of layout is not one that an adapter can take");
    if !make(&stand_in(PROBE, |_| 0.0))?.iter().all(|(_, rows)| whole_rows(rows)) {
        return Err(refused());
    }
    let rank = row_len(b.shape());
    let (ones, numbers) = (make(&stand_in(rank, |_| 1.0))?, make(&stand_in(rank, |row| (row + 1) as f32))?);
    let (rank, known) = (rank.max(1) as usize, values(b)?);
    let parts = make(b)?;
    if parts.len() != ones.len() || parts.len() != numbers.len() {
        return Err(refused());
    }
    for (((_, part), (_, ones)), (_, numbers)) in parts.iter().zip(&ones).zip(&numbers) {
        let (part, ones, numbers) = (values(part)?, values(ones)?, values(numbers)?);
        let rows = part.chunks(rank).zip(ones.chunks(rank)).zip(numbers.chunks(rank));
        let right = |((part, ones), numbers): ((&[f32], &[f32]), &[f32])| is_scaled(part, ones, numbers, &known);
        if part.len() != ones.len() || part.len() != numbers.len() || !rows.into_iter().all(right) {
            return Err(refused());
        }
    }
    Ok(parts)
}

/// What becomes of a weight, of A instead of it: where its columns move, since (B A) M = B (A M).
fn moved_across(make: impl Fn(&Rows) -> Result<Outputs>, a: &Rows) -> Result<Outputs> {
    let turned = |parts: Outputs| -> Result<Outputs> {
        parts.into_iter().map(|(name, rows)| Ok((name, transform::transposed(&rows)?))).collect()
    };
    turned(moved(|rows| turned(make(&transform::transposed(rows)?)?), &transform::transposed(a)?)?)
}

/// Whether a row is one of `known` times a factor: `ones` and `numbers` are what became of rows of ones and of their numbers
/// from 1 on.
fn is_scaled(row: &[f32], ones: &[f32], numbers: &[f32], known: &[f32]) -> bool {
    let (factor, number) = (ones[0], numbers[0]);
    if ones.iter().any(|f| *f != factor) || numbers.iter().any(|n| *n != number) {
        return false;
    }
    if factor == 0.0 {
        return number == 0.0 && row.iter().all(|v| *v == 0.0);
    }
    let from = (number / factor).round() - 1.0;
    let Some(source) = (from >= 0.0).then(|| known.chunks(row.len()).nth(from as usize)).flatten() else {
        return false;
    };
    // A factor rounds in the type of the weights.
    let close = |(&v, &of): (&f32, &f32)| match factor {
        1.0 => v.to_bits() == of.to_bits(),
        _ => (v - of * factor).abs() <= 0.01 * (of * factor).abs() + 1e-6,
    };
    source.len() == row.len() && row.iter().zip(source).all(close)
}

/// A weight whose rows hold one value each.
struct StandIn {
    shape: Vec<u64>,
    value: fn(u64) -> f32,
}

impl std::fmt::Debug for StandIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StandIn").field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl RowSource for StandIn {
    fn shape(&self) -> &[u64] {
        &self.shape
    }

    fn elements(&self) -> Elements {
        Elements::F32
    }

    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let columns = row_len(&self.shape) as usize;
        Ok(Cow::Owned(rows.flat_map(|row| (self.value)(row).to_le_bytes().repeat(columns)).collect()))
    }
}

impl Source for AdapterFile {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.infos
    }

    fn rows(&self, tensor: usize, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        transform::rows_of(&self.infos, &self.rows, tensor, rows)
    }

    fn unrounded(&self, tensor: usize, rows: Range<u64>) -> Result<Option<Vec<f32>>> {
        transform::unrounded(&self.infos, &self.rows, tensor, rows)
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// The model that an adapter says it was made for: a name on the hub, or a folder.
///
/// # Errors
/// A configuration that is no JSON.
pub fn named_base(folder: &Path) -> Result<Option<String>> {
    let config = json::read(&folder.join("adapter_config.json"))?;
    Ok(config["base_model_name_or_path"].as_str().filter(|name| !name.is_empty()).map(str::to_owned))
}

/// The error of an adapter where a model is needed.
pub(crate) fn not_a_model(folder: &Path) -> Error {
    let base = named_base(folder).ok().flatten().unwrap_or_else(|| "BASE".into());
    let name = gguf::quote::path(folder);
    Error::input("holds a LoRA adapter, not a model").at(folder).help(format!(
        "merge it into its model with `{base} --merge-lora {name}`; `convert {name}` makes a GGUF adapter of it"
    ))
}

/// Whether a folder holds an adapter instead of a checkpoint: some trainers put the model's `config.json` beside it.
pub fn is_adapter(folder: &Path) -> bool {
    let is_model =
        |name: &str| name.starts_with("model") && (name.ends_with(".safetensors") || name.ends_with(".index.json"));
    let has_model = || {
        let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.any(|entry| entry.file_name().to_str().is_some_and(is_model))
    };
    folder.join("adapter_config.json").is_file() && !has_model()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_taken_where_rows_move_as_they_are_or_times_a_factor() {
        let b = transform::values(vec![4, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        let one = |rows: Rows| Ok(vec![("w".to_owned(), rows)]);
        let turned = moved(|rows| one(rotated(rows, 1)?), &b).unwrap();
        assert_eq!(values(&turned[0].1).unwrap(), [1.0, 2.0, 5.0, 6.0, 3.0, 4.0, 7.0, 8.0]);
        let halves = |rows: &Rows| {
            let half = |i: u64| Ok((format!("w{i}"), transform::sliced(rows, 0, i * 2, 2)?));
            [0, 1].into_iter().map(half).collect()
        };
        assert_eq!(moved(halves, &b).unwrap().len(), 2);
        let doubled = moved(|rows| one(transform::scaled(&rotated(rows, 1)?, 2.0)), &b).unwrap();
        assert_eq!(values(&doubled[0].1).unwrap(), [2.0, 4.0, 10.0, 12.0, 6.0, 8.0, 14.0, 16.0]);
        let each = moved(|rows| one(transform::scaled_rows(rows, &[(1, -0.3), (2, 0.0)])), &b).unwrap();
        assert_eq!(values(&each[0].1).unwrap(), [-0.3, -0.6, 0.0, 0.0, 0.0, 0.0, 7.0, 8.0]);
        // Other arithmetic, and what moves columns.
        assert!(moved(|rows| one(transform::mapped(rows, f32::abs)), &transform::scaled(&b, -1.0)).is_err());
        assert!(moved(|rows| one(transform::mapped(rows, |v| v * v)), &b).is_err());
        assert!(moved(|rows| one(transform::mapped(rows, |v| v + 1.0)), &b).is_err());
        assert!(moved(|rows| one(transform::transposed(rows)?), &b).is_err());
    }
}
