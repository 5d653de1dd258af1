//! Plans: everything about an output file that is known before any weight is read.
//!
//! A [`Plan`] is the metadata, the tensors in order, each with its type, and where its importance comes from. It is
//! what `--dry-run` prints, what `--plan` writes as TOML and reads again, and what the pipeline carries out.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use gguf::check::{self, Finding};
use gguf::split::{Division, KeyOrder};
use gguf::{Array, Error, Metadata, Result, Shape, TensorInfo, TensorType, Text, Value, ValueType};
use serde::Deserialize;

use crate::imatrix::Imatrix;
use crate::recipe::{Choice, FileType, ModelFacts, Recipe, TypeOverrides, dimensions, needs_importance};
use gguf::arch::Role;

/// The version of the block formats (`GGML_QNT_VERSION`).
const QUANTIZATION_VERSION: u32 = 2;
/// The bit of `general.file_type` that says it was guessed (`LLAMA_FTYPE_GUESSED`).
const GUESSED: u32 = 1024;
/// Strings that the reference stores of its options are cut to this many bytes.
const OPTION_BYTES: usize = 127;

/// What the person asks for, beside the type of file.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What concerns the choice of types.
    pub wishes: TypeOverrides,
    /// Layers to leave out, ascending.
    pub prune: Vec<u64>,
    /// Keys to set.
    pub override_kv: Vec<(String, Value)>,
    /// Tensors that are quantized already may be quantized again.
    pub allow_requantize: bool,
    /// A type that does not fit a row is an error.
    pub no_fallback: bool,
    /// Only plan: a missing importance is told, not an error.
    pub dry_run: bool,
    /// The importance is measured while the file is made: recipes count on one, and none is missing.
    pub measured: bool,
    /// The shard of each tensor of the source: the output gets as many.
    pub shards: Option<Vec<usize>>,
    /// The types of a plan that was written before, by tensor name; the recipe is not asked then.
    pub fixed: Option<BTreeMap<String, TensorType>>,
}

/// An importance matrix with what the output file says about it.
#[derive(Clone, Debug)]
pub struct Importance {
    /// The matrix, filtered.
    pub matrix: Imatrix,
    /// The name of its file.
    pub file: String,
}

/// A tensor of the output file.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its position in the source.
    pub source: usize,
    /// Name, shape and type in the output.
    pub info: TensorInfo,
    /// The shard it goes to, from 0.
    pub shard: usize,
    /// The type in the source.
    pub from: TensorType,
    /// The type that the recipe wanted but the rows do not fit.
    pub instead_of: Option<TensorType>,
    /// The weight of each column, expert after expert.
    pub importance: Option<std::sync::Arc<Vec<f32>>>,
    /// Neither the person nor the architecture asks for this very type.
    pub free: bool,
    /// Its type is useless without an importance, and it has none.
    pub lacks_importance: bool,
}

impl Planned {
    /// Whether the bytes go through an encoder.
    pub fn converts(&self) -> bool {
        self.from != self.info.ty()
    }
}

/// Everything about an output file but its data.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The type of file.
    pub file_type: &'static FileType,
    /// What a mix of types is called, such as `3.5bpw`.
    pub mix: Option<String>,
    /// The keys, in order.
    pub metadata: Metadata,
    /// The tensors, in order.
    pub tensors: Vec<Planned>,
    /// The number of files it becomes.
    pub shards: usize,
    /// The order of the keys that say so.
    pub split_keys: KeyOrder,
    /// What a person should know, a line each.
    pub notes: Vec<String>,
}

/// The order of tensors in a file that `llama-quantize` writes: those outside of layers first, then layer by layer,
/// by name within.
pub fn order(a: &str, b: &str) -> Ordering {
    let layer = |name: &str| crate::recipe::layer(name).map_or(-1, |l| i64::try_from(l).unwrap_or(i64::MAX));
    layer(a).cmp(&layer(b)).then_with(|| a.cmp(b))
}

impl Plan {
    /// Plans a file from a source's metadata and tensors.
    ///
    /// # Errors
    /// Types that nothing fits, quantized tensors that would be quantized again, a missing or wrong importance.
    pub fn new(
        metadata: &Metadata,
        tensors: &[TensorInfo],
        file_type: &'static FileType,
        options: &Options,
        importance: Option<&Importance>,
    ) -> Result<Plan> {
        refuse_what_is_no_model(metadata)?;
        for (key, value) in &options.override_kv {
            check_override(metadata, key, value)?;
        }
        let matrix = importance.map(|i| &i.matrix).filter(|m| !m.entries.is_empty());
        let mut overridden = metadata.clone();
        for (key, value) in &options.override_kv {
            overridden.set(key.as_str(), value.clone());
        }
        let model = ModelFacts::from_metadata(&overridden);
        let mut sorted: Vec<usize> = (0..tensors.len()).collect();
        sorted.sort_by(|&a, &b| order(tensors[a].name(), tensors[b].name()));
        let mut layers = Renumbering::new(&options.prune);
        let mut kept: Vec<(usize, String)> =
            sorted.into_iter().filter_map(|i| Some((i, layers.rename(tensors[i].name())?))).collect();
        let shard = |source: usize| options.shards.as_ref().and_then(|s| s.get(source).copied()).unwrap_or(0);
        if options.shards.is_some() {
            // Within a shard tensors keep their places.
            kept.sort_by_key(|&(source, _)| (shard(source), source));
        }
        let shards = options.shards.iter().flatten().max().map_or(1, |last| last + 1);
        let mut notes = Vec::new();
        let names = kept.iter().map(|k| k.1.as_str());
        let mut recipe = Recipe::new(file_type, &model, &options.wishes, matrix.is_some() || options.measured, names);
        let mut planned = Vec::with_capacity(kept.len());
        let mut without = 0_usize;
        for (source, name) in &kept {
            let info = &tensors[*source];
            let shape = Shape::new(&info.shape().dims()[..dimensions(info.shape()).min(info.shape().dims().len())])?;
            let choice = match &options.fixed {
                Some(types) => fixed(types, name)?,
                None => recipe.choose(name, &shape, info.ty())?,
            };
            let mut tensor = Planned {
                source: *source,
                info: TensorInfo::new(name.as_str(), shape, choice.ty)?,
                shard: shard(*source),
                from: info.ty(),
                instead_of: choice.instead_of,
                free: choice.free,
                importance: None,
                lacks_importance: false,
            };
            if tensor.converts() {
                check_source(&tensor, options)?;
                if let Some(matrix) = matrix {
                    tensor.importance = columns(matrix, layers.original(name), &tensor)?;
                    without += usize::from(tensor.importance.is_none() && choice.ty.is_quantized());
                }
                if let (Some(wanted), true) = (choice.instead_of, options.no_fallback) {
                    return Err(Error::input(format!(
                        "row length {} is not a multiple of the {wanted} block size {}",
                        shape.row_len(),
                        wanted.block_len()
                    ))
                    .in_tensor(name)
                    .help(format!("without --no-fallback it becomes {}", choice.ty)));
                }
                let required = wants_importance(name, choice.ty, file_type);
                tensor.lacks_importance = required && tensor.importance.is_none();
                if tensor.lacks_importance && !options.dry_run && !options.measured {
                    return Err(missing_importance(&tensor, matrix.is_some()));
                }
            }
            planned.push(tensor);
        }
        if without > 0 {
            notes.push(format!("the importance matrix knows nothing of {without} of the quantized tensors"));
        }
        if !options.wishes.tensors.is_empty() && !file_type.is_quantized() {
            notes.push(format!("--tensor-type has no effect on a file of type {file_type}"));
        }
        let projector = metadata.architecture() == Some("clip") && options.fixed.is_none();
        if projector && planned.iter().any(|t| t.converts() && ModelFacts::asks_shared_heads(file_type, t.info.name()))
        {
            notes.push(format!(
                "{file_type} asks how many query heads share a key head, which a projector file does not say: \
                 llama-quantize ends there, here each has its own"
            ));
        }
        let mut out = keys(metadata, tensors, file_type, options);
        if let Some((importance, matrix)) = importance.zip(matrix) {
            put(&mut out, "quantize.imatrix.file", cut(&importance.file));
            if let Some(dataset) = matrix.datasets.first() {
                put(&mut out, "quantize.imatrix.dataset", cut(dataset));
            }
            put(&mut out, "quantize.imatrix.entries_count", matrix.entries.len() as u32);
            if matrix.chunks > 0 {
                put(&mut out, "quantize.imatrix.chunks_count", matrix.chunks);
            }
        }
        if !options.prune.is_empty() {
            let arch = metadata.architecture().unwrap_or_default();
            prune_keys(&mut out, arch, &options.prune);
            put(&mut out, &format!("{arch}.block_count"), layers.left() as u32);
        }
        if !options.prune.is_empty() || !options.override_kv.is_empty() {
            let infos: Vec<TensorInfo> = planned.iter().map(|t| t.info.clone()).collect();
            refuse_new_faults((metadata, tensors), (&out, &infos))?;
        }
        Ok(Plan { file_type, mix: None, metadata: out, tensors: planned, shards, split_keys: KeyOrder::GgufPy, notes })
    }

    /// Divides the file into shards: those that llama-gguf-split makes of it. A file that passes no limit stays one.
    ///
    /// # Errors
    /// A plan that keeps the shards of its source, and those of [`Division::parts`].
    pub fn split(&mut self, division: Division) -> Result<()> {
        if division == Division::default() {
            return Ok(());
        }
        let infos: Vec<TensorInfo> = self.tensors.iter().map(|t| t.info.clone()).collect();
        let parts = division.parts(&infos, self.metadata.u64("general.alignment").unwrap_or(32))?;
        self.split_keys = KeyOrder::GgufSplit;
        self.divide(&parts)
    }

    /// Gives each tensor its shard, of which these are all.
    pub(crate) fn divide(&mut self, parts: &[Range<usize>]) -> Result<()> {
        if self.shards > 1 {
            return Err(Error::usage("the file is divided anew, so the shards of the input cannot be kept"));
        }
        self.shards = parts.len();
        for (shard, part) in parts.iter().enumerate() {
            self.tensors[part.clone()].iter_mut().for_each(|tensor| tensor.shard = shard);
        }
        Ok(())
    }

    /// The layout of each file.
    ///
    /// # Errors
    /// Those of [`gguf::FileLayout::new`].
    pub fn layouts(&self) -> Result<Vec<gguf::FileLayout>> {
        let infos = |shard: Option<usize>| -> Vec<TensorInfo> {
            let here = self.tensors.iter().filter(|t| shard.is_none_or(|no| t.shard == no));
            here.map(|t| t.info.clone()).collect()
        };
        if self.shards == 1 {
            return Ok(vec![gguf::FileLayout::new(&self.metadata, &infos(None))?]);
        }
        let keys = |no| gguf::split::metadata(&self.metadata, no, self.shards, self.tensors.len(), self.split_keys);
        (0..self.shards).map(|no| gguf::FileLayout::new(&keys(no)?, &infos(Some(no)))).collect()
    }

    /// Bytes of all files.
    ///
    /// # Errors
    /// Those of [`gguf::FileLayout::new`].
    pub fn file_bytes(&self) -> Result<u64> {
        Ok(self.layouts()?.iter().map(gguf::FileLayout::file_bytes).sum())
    }

    /// What the file is named after: its type, or its mix of types.
    pub fn label(&self) -> &str {
        self.mix.as_deref().unwrap_or(self.file_type.name)
    }

    /// The number of weights.
    pub fn elements(&self) -> u64 {
        self.tensors.iter().map(|t| t.info.elements()).sum()
    }

    /// Tensors and weights whose type stands in for one that does not fit.
    pub fn fallbacks(&self) -> (usize, u64) {
        let fell = self.tensors.iter().filter(|t| t.instead_of.is_some());
        fell.fold((0, 0), |(n, weights), t| (n + 1, weights + t.info.elements()))
    }

    /// The plan as TOML, which [`Written::parse`] reads again.
    pub fn to_toml(&self) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let mut out =
            String::from("# A plan of quantize: the type of each tensor. Edit it and give it to --plan again.\n");
        out.push_str(&format!("file_type = {}\n\n[tensors]\n", quoted(self.file_type.name)));
        for tensor in &self.tensors {
            out.push_str(&format!("{} = {}\n", quoted(tensor.info.name()), quoted(tensor.info.ty().name())));
        }
        out
    }
}

/// The most bytes of a plan or a list of rules: some for each of a million tensors.
pub const LARGEST_LIST: u64 = 64 << 20;

/// A plan as it stands in a TOML file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// The type of file that the recipe was for.
    pub file_type: String,
    /// The type of each tensor.
    pub tensors: BTreeMap<String, String>,
}

impl Written {
    /// Reads a plan.
    ///
    /// # Errors
    /// Text that is no TOML or no plan, types that do not exist.
    pub fn parse(text: &str) -> Result<(&'static FileType, BTreeMap<String, TensorType>)> {
        let written: Written =
            toml::from_str(text).map_err(|e| Error::input("is no plan of quantize").caused_by(e.to_string()))?;
        let types = written.tensors.iter().map(|(name, ty)| {
            let ty: TensorType = ty.parse().map_err(|e| Error::input(format!("{e}")).in_tensor(name))?;
            Ok((name.clone(), ty))
        });
        Ok((written.file_type.parse()?, types.collect::<Result<_>>()?))
    }

    /// Reads the plan of a file for a run of these types; `None` where there is no such file yet.
    ///
    /// # Errors
    /// Several types, a plan of another type, and those of reading and of [`Written::parse`].
    pub fn read(
        path: &Path,
        types: &[&'static FileType],
    ) -> Result<Option<(&'static FileType, BTreeMap<String, TensorType>)>> {
        if types.len() > 1 {
            return Err(Error::usage("a plan is of one type").help("give --type once with --plan"));
        }
        if !path.exists() {
            return Ok(None);
        }
        let text = convert::json::read_text(path, LARGEST_LIST)?;
        let (file_type, tensors) = Written::parse(&text).map_err(|e| e.at(path))?;
        match types.iter().find(|ty| **ty != file_type) {
            Some(other) => Err(Error::usage(format!("the plan is of type {file_type}, not {other}"))
                .at(path)
                .help("leave --type out, or name another file to write a new plan")),
            None => Ok(Some((file_type, tensors))),
        }
    }
}

/// Whether a tensor cannot be encoded to a type without an importance, or is useless then.
pub(crate) fn wants_importance(name: &str, ty: TensorType, file_type: &FileType) -> bool {
    let refused = crate::codec(ty).is_some_and(|c| c.importance() == crate::codec::ImportanceUse::Required);
    refused || needs_importance(name, ty, file_type)
}

fn fixed(types: &BTreeMap<String, TensorType>, name: &str) -> Result<Choice> {
    let ty = types.get(name).ok_or_else(|| {
        Error::input(format!("the plan says nothing of tensor {name}")).help("write the plan again from this model")
    })?;
    Ok(Choice { ty: *ty, instead_of: None, free: false })
}

/// Whether a tensor of the source may be decoded.
fn check_source(tensor: &Planned, options: &Options) -> Result<()> {
    let (name, from) = (tensor.info.name(), tensor.from);
    if crate::codec(from).is_none() || crate::codec(tensor.info.ty()).is_none() {
        return Err(Error::input(format!("{from} cannot be turned into {}", tensor.info.ty())).in_tensor(name));
    }
    if from.is_quantized() && !options.allow_requantize {
        return Err(Error::input(format!("tensor {name} is {from} already; to quantize it again loses more"))
            .help("begin from the original checkpoint, or accept the loss with --allow-requantize"));
    }
    Ok(())
}

fn missing_importance(tensor: &Planned, given: bool) -> Error {
    let (name, ty) = (tensor.info.name(), tensor.info.ty());
    let error = if given {
        Error::input(format!("tensor {name} would be {ty}, which needs an importance, and the matrix has none for it"))
    } else {
        Error::usage(format!("tensor {name} would be {ty}, which needs an importance matrix"))
    };
    error.help("give one with --imatrix (`evaluate imatrix` computes it), or choose a type with more bits")
}

/// The importance of a tensor's columns: one row of weights for each matrix of a stack.
fn columns(matrix: &Imatrix, name: String, tensor: &Planned) -> Result<Option<std::sync::Arc<Vec<f32>>>> {
    let Some(importance) = matrix.importance(&name) else { return Ok(None) };
    let shape = tensor.info.shape();
    let expected = shape.row_len() * shape.dim(2);
    if importance.len() as u64 == expected {
        return Ok(Some(std::sync::Arc::new(importance)));
    }
    // An embedding is looked up, not multiplied: what a matrix says of it has another size.
    if Role::of(tensor.info.name()) == Role::Embedding {
        return Ok(None);
    }
    Err(Error::input(format!(
        "the importance matrix has {} values for {}, which has {expected} columns",
        importance.len(),
        tensor.info.name()
    ))
    .help("it was computed for another model"))
}

/// Sets a key at the end, as the reference's writer does even where the key exists.
fn put(metadata: &mut Metadata, key: &str, value: impl Into<Value>) {
    metadata.remove(key);
    metadata.set(key, value);
}

/// The keys of the output, but for those about importance and pruning.
fn keys(metadata: &Metadata, tensors: &[TensorInfo], file_type: &FileType, options: &Options) -> Metadata {
    let mut out = metadata.clone();
    let id = match file_type.is_copy() {
        false => file_type.id,
        true => metadata.u64("general.file_type").and_then(|n| u32::try_from(n).ok()).unwrap_or_else(|| guess(tensors)),
    };
    put(&mut out, "general.quantization_version", QUANTIZATION_VERSION);
    put(&mut out, "general.file_type", id);
    for key in ["split.no", "split.count", "split.tensors.count"] {
        out.remove(key);
    }
    for (key, value) in &options.override_kv {
        put(&mut out, key, value.clone());
    }
    out
}

/// The file type of a file that does not tell: the one that llama.cpp's loader names after the most frequent type of a
/// tensor; of several as frequent, after the one that is the first to be so often.
fn guess(tensors: &[TensorInfo]) -> u32 {
    let mut sorted: Vec<&TensorInfo> = tensors.iter().collect();
    sorted.sort_by(|a, b| order(a.name(), b.name()));
    let mut counts: BTreeMap<TensorType, usize> = BTreeMap::new();
    let (mut most, mut often) = (TensorType::F32, 0);
    for info in sorted {
        let count = counts.entry(info.ty()).or_default();
        *count += 1;
        if *count > often {
            (most, often) = (info.ty(), *count);
        }
    }
    crate::recipe::guessed(most).unwrap_or(0) | GUESSED
}

/// Importance matrices and adapters are GGUF files too; llama.cpp knows no architecture of theirs to quantize.
fn refuse_what_is_no_model(metadata: &Metadata) -> Result<()> {
    let kind = metadata.str("general.type").unwrap_or("model");
    let what = match kind {
        "imatrix" => "an importance matrix",
        "adapter" => "an adapter",
        _ if metadata.get("adapter.type").is_some() => "an adapter",
        _ if metadata.architecture().is_none_or(str::is_empty) => {
            return Err(Error::input("is no model: general.architecture is missing")
                .help("`gguf check` lists what is wrong with the file"));
        }
        _ => return Ok(()),
    };
    Err(Error::input(format!("is {what}, not a model")).help(match what {
        "an adapter" => "give the model; `convert ADAPTER --base MODEL --merge-lora` merges the two first",
        _ => "give the model, and the matrix with --imatrix",
    }))
}

/// Refuses to set keys that say what the file is made of, and values of another type than the key has.
fn check_override(metadata: &Metadata, key: &str, value: &Value) -> Result<()> {
    let refused = |why: String| Err(Error::usage(format!("--override-kv: {why}")));
    if key == "general.architecture" || key.starts_with("split.") {
        return refused(format!("{} says what the file holds, which no option changes", shown(key)));
    }
    let fault = |of: &str| {
        let given = value.value_type();
        refused(format!("{} is {of}, not {given}", shown(key)))
    };
    match (metadata.get(key), gguf::keys::kind(key)) {
        (Some(Value::Array(array)), _) => fault(&format!("an array of {} {}", array.len(), array.element_type())),
        (_, Some(kind)) if kind.one.is_none_or(|ty| !alike(ty, value)) => fault(&kind.to_string()),
        (Some(old), None) if !alike(old.value_type(), value) => fault(old.value_type().name()),
        _ => Ok(()),
    }
}

/// Whether a value may stand where a type is asked for: whole numbers are whole numbers, whatever their width.
fn alike(ty: ValueType, value: &Value) -> bool {
    use ValueType::{F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
    let class = |ty: ValueType| match ty {
        U8 | I8 | U16 | I16 | U32 | I32 | U64 | I64 => U32,
        F32 | F64 => F32,
        other => other,
    };
    class(ty) == class(value.value_type())
}

fn shown(key: &str) -> String {
    gguf::quote::text(key)
}

/// Cuts arrays that have an element for each layer, and counts of the first layers.
fn prune_keys(metadata: &mut Metadata, arch: &str, pruned: &[u64]) {
    let Some(layers) = metadata.u64(&format!("{arch}.block_count")) else { return };
    let leading = format!("{arch}.leading_dense_block_count");
    let mut changed = Vec::new();
    for (key, value) in metadata.iter().filter(|(key, _)| key.strip_prefix(arch).is_some_and(|k| k.starts_with('.'))) {
        match value {
            Value::Array(array)
                if array.len() == layers && gguf::keys::kind(key).is_none_or(|kind| kind.by_layer()) =>
            {
                let kept = array.iter().zip(0..).filter(|(_, layer)| !pruned.contains(layer)).map(|(value, _)| value);
                // Elements of an array are of its type.
                if let Ok(array) = Array::of(array.element_type(), kept) {
                    changed.push((key.to_owned(), Value::Array(array)));
                }
            }
            Value::U32(first) if key == leading => {
                let gone = pruned.iter().filter(|&&layer| layer < u64::from(*first)).count() as u32;
                changed.push((key.to_owned(), Value::U32(first - gone)));
            }
            _ => {}
        }
    }
    for (key, value) in changed {
        // In its place: the order of keys stays.
        metadata.set(key, value);
    }
}

/// Refuses what the checker would call an error and the source was not guilty of.
fn refuse_new_faults(before: (&Metadata, &[TensorInfo]), after: (&Metadata, &[TensorInfo])) -> Result<()> {
    let old = check::faults(before.0, before.1)?;
    // Pruning gives layers other numbers, so the names of tensors say nothing.
    let is_old = |f: &Finding| old.iter().any(|o| o.rule.name == f.rule.name && o.key == f.key);
    match check::faults(after.0, after.1)?.into_iter().find(|f| !is_old(f)) {
        None => Ok(()),
        Some(fault) => Err(Error::usage(format!(
            "no reader would load the file with what --override-kv and --prune-layers make of it: rule {}: {}",
            fault.rule.name, fault.message
        ))),
    }
}

/// The first bytes of an option.
fn cut(text: &str) -> Text {
    Text::from(bytes::Bytes::copy_from_slice(&text.as_bytes()[..text.len().min(OPTION_BYTES)]))
}

/// What pruning does to the numbers of layers.
#[derive(Debug)]
struct Renumbering<'a> {
    pruned: &'a [u64],
    mapped: BTreeMap<u64, Option<u64>>,
    next: u64,
}

impl<'a> Renumbering<'a> {
    fn new(pruned: &'a [u64]) -> Renumbering<'a> {
        Renumbering { pruned, mapped: BTreeMap::new(), next: 0 }
    }

    /// The place of a layer's number in a name.
    fn number(name: &str) -> Option<(std::ops::Range<usize>, u64)> {
        name.match_indices("blk.").find_map(|(at, blk)| {
            let start = at + blk.len();
            let len = name[start..].find('.')?;
            Some((start..start + len, name[start..start + len].parse().ok()?))
        })
    }

    /// The name in the output; `None` for a tensor of a pruned layer. Names come in the order of the file.
    fn rename(&mut self, name: &str) -> Option<String> {
        let (Some(_), Some((span, layer))) = (self.pruned.first(), Renumbering::number(name)) else {
            return Some(name.to_owned());
        };
        let next = &mut self.next;
        let new = *self.mapped.entry(layer).or_insert_with(|| {
            (!self.pruned.contains(&layer)).then(|| {
                *next += 1;
                *next - 1
            })
        });
        new.map(|new| format!("{}{new}{}", &name[..span.start], &name[span.end..]))
    }

    /// The name in the source (and in the importance matrix) of a tensor of the output.
    fn original(&self, name: &str) -> String {
        let Some((span, layer)) = Renumbering::number(name) else { return name.to_owned() };
        let old = self.mapped.iter().find(|(_, new)| **new == Some(layer)).map_or(layer, |(old, _)| *old);
        format!("{}{old}{}", &name[..span.start], &name[span.end..])
    }

    /// The number of layers that are left.
    fn left(&self) -> u64 {
        self.next
    }
}

/// Parses a type that weights can be encoded to, such as `q8_0`; errors are one line for people.
///
/// # Errors
/// Other text.
pub fn parse_tensor_type(text: &str) -> Result<TensorType, String> {
    match text.parse() {
        Ok(ty) if crate::codec(ty).is_some() => Ok(ty),
        _ => Err(format!("\"{text}\" is no type of tensor such as q8_0")),
    }
}

/// Parses `PATTERN=TYPE`.
///
/// # Errors
/// Text of another form, and as [`parse_tensor_type`].
pub fn parse_tensor_rule(text: &str) -> Result<(String, TensorType), String> {
    match text.rsplit_once('=') {
        Some((pattern, ty)) if !pattern.is_empty() => Ok((pattern.to_owned(), parse_tensor_type(ty)?)),
        _ => Err(format!("\"{text}\" is not of the form PATTERN=TYPE")),
    }
}

/// Parses `KEY=TYPE:VALUE`, with the types `int`, `float`, `bool` and `str`, as `llama-quantize` takes it.
///
/// # Errors
/// Text of another form.
pub fn parse_override(text: &str) -> Result<(String, Value), String> {
    let form = || format!("\"{text}\" is not of the form KEY=TYPE:VALUE with the types int, float, bool and str");
    let (key, value) = text.split_once('=').ok_or_else(form)?;
    let (ty, value) = value.split_once(':').ok_or_else(form)?;
    let wrong = |what: &str| format!("\"{value}\" is no {what}");
    let value = match ty {
        // Always stored as u32, the sign dropped: what readers of these keys expect.
        "int" => {
            let n: i64 = value.parse().map_err(|_| wrong("whole number"))?;
            Value::U32(u32::try_from(n.unsigned_abs()).map_err(|_| wrong("32-bit number"))?)
        }
        "float" => Value::F32(value.parse::<f64>().map_err(|_| wrong("number"))? as f32),
        "bool" => Value::Bool(value.parse().map_err(|_| wrong("truth value: true or false"))?),
        "str" => Value::from(value),
        _ => return Err(form()),
    };
    if key.is_empty() { Err(form()) } else { Ok((key.to_owned(), value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_in_order_of_their_numbers() {
        let mut names = ["blk.10.a", "blk.2.a", "blk.2.B", "token_embd.weight", "output.weight", "enc.blk.3.a"];
        names.sort_by(|a, b| order(a, b));
        assert_eq!(names, ["enc.blk.3.a", "output.weight", "token_embd.weight", "blk.2.B", "blk.2.a", "blk.10.a"]);
    }

    #[test]
    fn pruning_renumbers_and_remembers() {
        let mut layers = Renumbering::new(&[1, 2]);
        assert_eq!(layers.rename("token_embd.weight").as_deref(), Some("token_embd.weight"));
        assert_eq!(layers.rename("blk.0.x").as_deref(), Some("blk.0.x"));
        assert_eq!(layers.rename("blk.1.x"), None);
        assert_eq!(layers.rename("blk.2.x"), None);
        assert_eq!(layers.rename("blk.3.x").as_deref(), Some("blk.1.x"));
        assert_eq!(layers.rename("blk.3.y").as_deref(), Some("blk.1.y"));
        assert_eq!(layers.left(), 2);
        assert_eq!(layers.original("blk.1.x"), "blk.3.x");
        assert_eq!(layers.original("output.weight"), "output.weight");
    }

    #[test]
    fn overrides_parse_as_the_reference_takes_them() {
        assert_eq!(parse_override("a.b=int:-7").unwrap(), ("a.b".to_owned(), Value::U32(7)));
        assert_eq!(parse_override("a=bool:true").unwrap().1, Value::Bool(true));
        assert_eq!(parse_override("a=str:x=y:z").unwrap().1, Value::from("x=y:z"));
        assert_eq!(parse_override("a=float:0.5").unwrap().1, Value::F32(0.5));
        for wrong in ["a", "a=7", "a=int:x", "=int:1", "a=date:1", "a=bool:yes"] {
            assert!(parse_override(wrong).is_err(), "{wrong}");
        }
    }
}
