//! LoRA adapters of PEFT: as a GGUF adapter, or merged into the weights while these are converted.
//!
//! An adapter adds to a weight W [out, in] the product of B [out, r] and A [r, in] times alpha ÷ r (Hu et al., *LoRA*,
//! 2021; alpha ÷ √r with rank stabilization). Other variants change more than that and are refused by name.

use std::borrow::Cow;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gguf::{Error, Metadata, Result, Shape, Source, TensorInfo, TensorType, row_range};
use indexmap::IndexMap;
use serde_json::{Map, Value};

use crate::checkpoint::{Tensor, rotated};
use crate::config::{self, Config};
use crate::hf::{self, Class, How, Piece};
use crate::metadata::{General, Overrides, Parameters};
use crate::safetensors::{self, Stored};
use crate::transform::{self, Elements, RowSource, Rows, row_count, row_len};
use crate::{json, names};

/// Keys of `adapter_config.json` that make something else of an adapter than a LoRA, and what they are called.
const VARIANTS: &[(&str, &str)] = &[
    ("use_dora", "DoRA (weight-decomposed adaptation)"),
    ("use_qalora", "QALoRA"),
    ("layer_replication", "layer replication"),
    ("modules_to_save", "fully trained modules beside the adapter (modules_to_save)"),
    ("trainable_token_indices", "trained tokens"),
    ("target_parameters", "adapters of bare parameters (target_parameters)"),
    ("exclude_modules_to_save", "exclude_modules_to_save"),
    ("alora_invocation_tokens", "activated LoRA"),
];

/// A folder with an adapter.
#[derive(Debug)]
pub struct Adapter {
    folder: PathBuf,
    alpha: f32,
    stabilized: bool,
    /// Whether the weights are stored input-major, as those of `Conv1D`.
    input_major: bool,
    pairs: IndexMap<String, Pair>,
}

/// The two matrices beside a weight.
#[derive(Clone, Debug)]
struct Pair {
    /// [r, in]
    a: Stored,
    /// [out, r]
    b: Stored,
}

impl Pair {
    fn rank(&self) -> u64 {
        self.b.shape()[1]
    }
}

impl Adapter {
    /// Reads a folder's configuration and headers.
    ///
    /// # Errors
    /// A folder that is no adapter, a variant that is more than a LoRA, matrices without the other, ranks and target
    /// modules that disagree with the configuration.
    pub fn open(folder: &Path) -> Result<Adapter> {
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
        let pairs = pairs(safetensors::open_file(&weights)?).map_err(|e| e.at(&weights))?;
        check_targets(&config, &pairs).map_err(|e| e.at(&path))?;
        let alpha = config.get("lora_alpha").and_then(Value::as_f64).filter(|a| a.is_finite());
        let alpha = alpha.ok_or_else(|| Error::input("lora_alpha is no number").at(&path))?;
        let flag = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
        Ok(Adapter {
            folder: folder.to_path_buf(),
            alpha: alpha as f32,
            stabilized: flag("use_rslora"),
            input_major: flag("fan_in_fan_out"),
            pairs,
        })
    }

    /// Merges the adapter, times `scale`, into the tensors of a checkpoint. The sums are f32.
    ///
    /// # Errors
    /// A weight that the checkpoint has not, or of another shape.
    pub(crate) fn merge(&self, tensors: &mut [Tensor], scale: f32) -> Result<()> {
        for (name, pair) in &self.pairs {
            let tensor = find(tensors, name).ok_or_else(|| {
                Error::input(format!("the adapter changes {name}, which the checkpoint has not"))
                    .at(&self.folder)
                    .help("the adapter was made for another model")
            })?;
            let rows = if self.input_major { transform::transposed(&tensor.rows)? } else { Arc::clone(&tensor.rows) };
            let expected = [pair.b.shape()[0], pair.a.shape()[1]];
            if rows.shape() != expected {
                return Err(Error::input(format!(
                    "the adapter changes {name} as {expected:?}, the checkpoint's is {:?}",
                    rows.shape()
                ))
                .at(&self.folder));
            }
            if matches!(rows.elements(), Elements::Blocks(_)) {
                return Err(Error::input(format!("{name} is packed in blocks, which nothing is merged into")));
            }
            let rank = pair.rank() as f32;
            let factor = scale * self.alpha / if self.stabilized { rank.sqrt() } else { rank };
            let merged: Rows = Arc::new(Merged {
                of: rows,
                a: values(&pair.a)?,
                b: values(&pair.b)?,
                rank: pair.rank() as usize,
                factor,
            });
            tensor.rows = if self.input_major { transform::transposed(&merged)? } else { merged };
        }
        Ok(())
    }

    /// How many weights it changes.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
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
    if config.get("alpha_pattern").and_then(Value::as_object).is_some_and(|p| !p.is_empty()) {
        return Err(Error::input("the adapter has an alpha of its own for some modules (alpha_pattern)"));
    }
    Ok(())
}

/// Matrices by the name of the weight they change, in the order of the file.
fn pairs(stored: Vec<Stored>) -> Result<IndexMap<String, Pair>> {
    let mut halves: IndexMap<String, [Option<Stored>; 2]> = IndexMap::new();
    for tensor in stored {
        let name = tensor.name().replace("base_model.model.", "");
        if name.contains("lora_magnitude_vector") {
            return Err(Error::input(format!("tensor {name}: the adapter is a DoRA, which is not supported")));
        }
        let half = [".lora_A.weight", ".lora_B.weight"].iter().position(|e| name.ends_with(e));
        let Some(half) = half else {
            let what = format!("tensor {name} is neither A nor B of a linear layer");
            return Err(Error::input(what).help("adapters of embeddings and of norms are not supported"));
        };
        if tensor.shape().len() != 2 || transform::stored(&tensor).is_err() {
            return Err(Error::input(format!("tensor {name}: {} {:?} is no matrix", tensor.dtype(), tensor.shape())));
        }
        let base = format!("{}.weight", &name[..name.len() - ".lora_A.weight".len()]);
        halves.entry(base).or_default()[half] = Some(tensor);
    }
    let mut pairs = IndexMap::new();
    for (name, halves) in halves {
        let [Some(a), Some(b)] = halves else {
            return Err(Error::input(format!("the adapter has only one of the two matrices of {name}")));
        };
        if a.shape()[0] != b.shape()[1] || a.shape()[0] == 0 {
            let what = format!("the ranks of A {:?} and B {:?} of {name} differ", a.shape(), b.shape());
            return Err(Error::input(what));
        }
        pairs.insert(name, Pair { a, b });
    }
    if pairs.is_empty() {
        return Err(Error::input("the adapter changes nothing"));
    }
    Ok(pairs)
}

/// Ranks and modules against what the configuration says of them.
fn check_targets(config: &Map<String, Value>, pairs: &IndexMap<String, Pair>) -> Result<()> {
    let own_ranks = config.get("rank_pattern").and_then(Value::as_object).is_some_and(|p| !p.is_empty());
    if let Some(rank) = config.get("r").and_then(Value::as_u64).filter(|_| !own_ranks)
        && let Some((name, pair)) = pairs.iter().find(|(_, p)| p.rank() != rank)
    {
        return Err(Error::input(format!("r is {rank}, the rank of {name} is {}", pair.rank())));
    }
    // A pattern instead of a list is PEFT's to interpret.
    let Some(targets) = config.get("target_modules").and_then(Value::as_array) else { return Ok(()) };
    let targets: Vec<&str> = targets.iter().filter_map(Value::as_str).collect();
    let is_target = |name: &str, target: &str| {
        let module = name.strip_suffix(".weight").unwrap_or(name);
        module == target || module.ends_with(&format!(".{target}"))
    };
    if let Some(name) = pairs.keys().find(|name| !targets.iter().any(|t| is_target(name, t))) {
        return Err(Error::input(format!("the adapter changes {name}, which target_modules does not name")));
    }
    if let Some(target) = targets.iter().find(|t| !pairs.keys().any(|name| is_target(name, t))) {
        return Err(Error::input(format!("target_modules names {target}, for which the adapter has no matrices")));
    }
    Ok(())
}

/// The tensor of this name, with or without a wrapper's prefix in front.
fn find<'a>(tensors: &'a mut [Tensor], name: &str) -> Option<&'a mut Tensor> {
    let exact = tensors.iter().position(|t| t.name == name);
    let without = |a: &str, b: &str| a.strip_suffix(b).is_some_and(|rest| rest.ends_with('.'));
    let index = exact.or_else(|| {
        let mut near = tensors.iter().enumerate().filter(|(_, t)| without(&t.name, name) || without(name, &t.name));
        near.next().map(|(i, _)| i).filter(|_| near.next().is_none())
    })?;
    tensors.get_mut(index)
}

fn values(stored: &Stored) -> Result<Vec<f32>> {
    let rows = transform::stored(stored)?;
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
}

impl AdapterFile {
    /// Opens an adapter for the model in `base`, of which only the configuration is read. Matrices are f32.
    ///
    /// # Errors
    /// What [`Adapter::open`] meets, a model that is not known, or a layer whose change of layout an adapter cannot take.
    pub fn open(folder: &Path, base: &Path) -> Result<AdapterFile> {
        let adapter = Adapter::open(folder)?;
        let root = config::read(base)?;
        let path = base.join("config.json");
        let (architecture, config) = hf::read(&root).map_err(|e| e.at(&path))?;

        let mut metadata = Metadata::new();
        metadata.set("general.architecture", architecture.arch);
        metadata.set("general.type", "adapter");
        metadata.set("adapter.type", "lora");
        let overrides = Overrides { file: None, name: None, skip_card: false };
        General::load(folder, &overrides, &Parameters::default())?.write(&mut metadata)?;
        metadata.set("adapter.lora.alpha", adapter.alpha);
        metadata.set("general.quantization_version", 2_u32);

        let mut file = AdapterFile { metadata, infos: Vec::new(), rows: Vec::new() };
        for (name, pair) in &adapter.pairs {
            for (target, a, b) in placed(architecture, &config, name, pair).map_err(|e| e.at(folder))? {
                file.push(format!("{target}.lora_a"), a)?;
                file.push(format!("{target}.lora_b"), b)?;
            }
        }
        Ok(file)
    }

    fn push(&mut self, name: String, rows: Rows) -> Result<()> {
        let dims: Vec<u64> = rows.shape().iter().rev().copied().collect();
        self.infos.push(TensorInfo::new(name, Shape::new(&dims)?, TensorType::F32)?);
        self.rows.push(rows);
        Ok(())
    }
}

/// The GGUF names of a changed weight with its A and B. What reorders rows of the weight reorders those of B.
fn placed(architecture: &'static Class, config: &Config, name: &str, pair: &Pair) -> Result<Vec<(String, Rows, Rows)>> {
    let fault = |what: &str| Error::input(format!("the adapter changes {name}: {what}"));
    let found = names::find(architecture, name).ok_or_else(|| fault("no tensor of this architecture has the name"))?;
    let rule = names::rules(architecture).nth(found.index).ok_or_else(|| fault("no rule is known"))?;
    let (a, b) = (transform::stored(&pair.a)?, transform::stored(&pair.b)?);
    let to = names::with_block(rule.to, found.block);
    let target = format!("{to}{}", found.suffix);
    let one = |b: Rows| Ok(vec![(target.clone(), Arc::clone(&a), b)]);
    match rule.how {
        How::Keep => one(b),
        How::RotateQuery => one(rotated(&b, config.heads()?)?),
        How::RotateKey => one(rotated(&b, config.kv_heads()?)?),
        // The transpose of B A is that of A times that of B.
        How::Transpose => Ok(vec![(target.clone(), transform::transposed(&b)?, transform::transposed(&a)?)]),
        How::Split(split) => {
            let piece = Piece { to, suffix: found.suffix.to_owned(), block: found.block.unwrap_or(0), rows: b };
            Ok(split(config, &piece)?.into_iter().map(|(name, b)| (name, Arc::clone(&a), b)).collect())
        }
        _ => Err(fault("its change of layout is not one that an adapter can take")),
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
        row_range(&self.infos, tensor, &rows)?;
        let source = &self.rows[tensor];
        transform::cast(source.rows(rows)?, source.elements(), TensorType::F32)
    }
}

/// Whether a folder holds an adapter instead of a checkpoint.
pub fn is_adapter(folder: &Path) -> bool {
    fs::exists(folder.join("adapter_config.json")).unwrap_or(false) && !folder.join("config.json").exists()
}
