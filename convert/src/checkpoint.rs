//! A checkpoint folder seen as if it were a GGUF file.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use gguf::arch::HeadFunction;
use gguf::{Error, Metadata, Result, Runtime, Shape, Source, TensorInfo, TensorType, row_range};
use serde_json::{Map, Value};

use crate::config::{self, Config};
use crate::hf::{self, Class, Contents, Early, How, NameRule, Params, Piece, Target};
use crate::lora::{self, Adapter};
use crate::metadata::{General, Overrides, Parameters};
use crate::modules::{self, Behind, Dense};
use crate::names::{Fused, Origins, Renamed, Sources};
use crate::packed::{self, Unpacked};
use crate::safetensors::{self, Dtype, Stored};
use crate::tasks::TaskAdapter;
use crate::text_names::TextNames;
use crate::tokenizer::VocabKind;
use crate::transform::{self, Elements, Rows, Tensor, rotated, row_count};
use crate::{Options, OutType, Part, complete, names, tokenizer};

/// A checkpoint folder in GGUF's layout, converted as its rows are read.
///
/// ```no_run
/// # fn main() -> gguf::Result<()> {
/// use gguf::Source;
/// let checkpoint = convert::Checkpoint::open("models/tiny-llama".as_ref(), &convert::Options::default())?;
/// for (i, tensor) in checkpoint.tensors().iter().enumerate() {
///     let first = checkpoint.rows(i, 0..1)?;
///     println!("{} {} {}: {} bytes a row", tensor.name(), tensor.shape(), tensor.ty(), first.len());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    metadata: Metadata,
    infos: Vec<TensorInfo>,
    rows: Vec<Rows>,
    notes: Vec<String>,
    packed: Option<String>,
    /// Bytes of what the tensors are made of, where that is packed.
    stored_bytes: Option<u64>,
    beyond: Vec<(String, gguf::Value)>,
    general: General,
    /// What default names call the type; `None` of a file of the vocabulary alone.
    type_name: Option<&'static str>,
    part: Part,
    projector: bool,
    architecture: &'static Class,
    tasks: Vec<TaskAdapter>,
    departures: Vec<String>,
    folder: PathBuf,
    pooler: Option<(Stored, Option<Stored>)>,
}

impl Checkpoint {
    /// Opens a folder: reads its configuration, headers and tokenizer, no weights.
    ///
    /// # Errors
    /// A folder that is no checkpoint, files that are missing or malformed, an architecture that is not known,
    /// a tensor that no rule maps or that is missing.
    pub fn open(folder: &Path, options: &Options) -> Result<Checkpoint> {
        if lora::is_adapter(folder) {
            return Err(lora::not_a_model(folder));
        }
        if options.projector {
            return Checkpoint::open_projector(folder, options);
        }
        let (mut root, config_path) = config::read_form(folder, options.mistral_format)?;
        let (architecture, mut config) = hf::read(&root, options.part).map_err(|e| e.at(&config_path))?;
        let target = target(architecture, folder, options)?;
        let mut notes = Vec::new();
        let stored = weights(folder, options, &mut notes)?;
        packed::complete(&mut root, folder, &stored)?;
        let contents = Contents {
            folder,
            tensors: &stored,
            target: target.as_ref(),
            dense_modules: options.dense_modules,
            whole_head: options.whole_head,
            vocab_only: options.vocab_only,
        };
        (architecture.inspect)(&mut config, &contents).map_err(|e| e.at(folder))?;
        let beside = (architecture.beside)(&config, folder)?;
        let tasks = if options.vocab_only { Vec::new() } else { tasks(architecture, &config, &stored, &mut notes)? };
        let pooler = architecture.pooler.and_then(|name| pooler(architecture, name, &stored));
        let Text { stored, moved, origins } =
            text_tensors(architecture, &config, &root, stored, &mut notes).map_err(|e| e.at(folder))?;
        let stored: Vec<Stored> = beside.into_iter().chain(stored).collect();
        let (mut tensors, packing) = if options.vocab_only {
            (Vec::new(), None)
        } else {
            unpacked(&root, architecture, &stored, options).map_err(|e| e.at(&config_path))?
        };
        let packed = packing.map(|(method, note)| {
            notes.push(note);
            method.to_owned()
        });
        let stored_bytes = packed.as_ref().map(|_| bytes_of(&stored));
        let exact = options.exact && packed.is_some() && options.outtype == OutType::Auto;
        let asked = choose(if exact { OutType::F32 } else { options.outtype }, architecture, &stored);
        // A class has a type of its own for its tensors alone.
        let file_type = if options.vocab_only { asked } else { asked.of(architecture) };
        for (adapter, scale) in &options.merge {
            let found = Adapter::open(adapter)?;
            found.merge(&mut tensors, architecture, &config, *scale)?;
            notes.push(format!(
                "merged: {} weights changed by {}, times {scale}",
                found.len(),
                gguf::quote::path(adapter)
            ));
        }
        let request = tokenizer::Request {
            pre: options.pre.clone(),
            any: options.any_pre,
            architecture: Some(architecture.arch.to_owned()),
            mistral_format: options.mistral_format,
            no_community_template: options.no_community_template,
        };
        let (tokenizer, kind) = match &target {
            Some(target) if architecture.vocabulary == VocabKind::Target => (target.folder(), target.vocabulary()),
            Some(target) => (target.folder(), architecture.vocabulary),
            None => (folder, architecture.vocabulary),
        };
        let vocabulary = tokenizer::metadata(tokenizer, &config.to_value(), kind, &request)?;
        let size = if architecture.cut_embedding { vocabulary_size(folder, &vocabulary)? } else { None };
        let mut plan = Plan::new(architecture, &config, &origins, file_type, size)?;
        if !options.vocab_only {
            for (name, rows) in (architecture.generated)(&config).map_err(|e| e.at(&config_path))? {
                plan.push(name, rows, Made { stored: Elements::F32, moved: false, of: &[] })?;
            }
            for tensor in tensors {
                let moved = moved.contains(&tensor.name);
                plan.add(tensor, moved).map_err(|e| e.at(folder))?;
            }
            plan.finish().map_err(|e| e.at(folder))?;
        }
        notes.append(&mut plan.notes);

        let mut metadata = Metadata::new();
        metadata.set("general.architecture", architecture.arch);
        let mut params = Params::new(&config, folder, architecture.arch, file_type.number, &mut metadata);
        if !options.vocab_only || architecture.early_of == Early::Class {
            (architecture.early)(&mut params).map_err(|e| e.at(&config_path))?;
        }
        metadata.set("general.type", "model");
        let general = plan.general(folder, options)?;
        general.write(&mut metadata).map_err(|e| e.at(folder))?;
        notes.extend_from_slice(general.notes());
        let mut params = Params::new(&config, folder, architecture.arch, file_type.number, &mut metadata);
        (architecture.keys)(&mut params).map_err(|e| e.at(&config_path))?;
        metadata.set("general.quantization_version", 2_u32);
        for (key, value) in vocabulary.iter() {
            metadata.set(key, value.clone());
        }
        let mut params = Params::new(&config, folder, architecture.arch, file_type.number, &mut metadata);
        (architecture.late)(&mut params).map_err(|e| e.at(folder))?;
        let key = |(key, value)| (format!("{}.{key}", architecture.arch), value);
        let beyond: Vec<(String, gguf::Value)> = (architecture.beyond)(&config).into_iter().map(key).collect();
        let mut departures: Vec<String> = Vec::new();
        let (infos, rows): (Vec<TensorInfo>, Vec<Rows>) = plan.out.into_iter().unzip();
        if !options.vocab_only {
            let found = complete::check(architecture, &metadata, &infos, &plan.sources, &origins, &beyond);
            let found = found.map_err(|e| e.at(folder))?;
            notes.extend(found.note);
            departures.extend(found.departs.into_iter().chain((architecture.departs)(&config)).map(str::to_owned));
            notes.extend(departures.iter().map(|d| format!("llama.cpp computes something else from this file: {d}")));
        }
        let type_name = (!options.vocab_only).then_some(file_type.name);
        let folder = folder.to_path_buf();
        Ok(Checkpoint {
            metadata,
            infos,
            rows,
            notes,
            packed,
            stored_bytes,
            beyond,
            general,
            type_name,
            part: options.part,
            projector: options.projector,
            architecture,
            tasks,
            departures,
            folder,
            pooler,
        })
    }

    /// Opens a folder for its projector file: the towers, and what stands between them and the text model.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`], a class without towers, and towers without tensors.
    fn open_projector(folder: &Path, options: &Options) -> Result<Checkpoint> {
        let (mut root, config_path) = config::read_form(folder, options.mistral_format)?;
        let (architecture, mut config) = hf::projectors::read(&root, folder).map_err(|e| e.at(&config_path))?;
        let mut notes = Vec::new();
        let stored = weights(folder, options, &mut notes)?;
        packed::complete(&mut root, folder, &stored)?;
        let contents = Contents {
            folder,
            tensors: &stored,
            target: None,
            dense_modules: false,
            whole_head: false,
            vocab_only: false,
        };
        (architecture.inspect)(&mut config, &contents).map_err(|e| e.at(folder))?;
        let beside = (architecture.beside)(&config, folder)?;
        let renamed = |name: &str| projector_name(architecture, &config, name);
        let mut origins =
            Origins::new(architecture, 0, move |name| Some(vec![Renamed { name: renamed(name)?, moved: false }]));
        let mut own = Vec::new();
        for tensor in &stored {
            for Renamed { name, .. } in origins.names_of(tensor.name()).into_iter().flatten() {
                origins.add(&name, tensor.name());
                own.push(tensor.clone().renamed(name));
            }
        }
        let stored: Vec<Stored> = beside.into_iter().chain(own).collect();
        if stored.is_empty() {
            let towers: Vec<String> = architecture.towers.iter().map(|tower| tower.path.join(".")).collect();
            return Err(Error::input(format!("no tensor of the folder is of its towers ({})", towers.join(", ")))
                .at(folder)
                .help("a projector file would be empty; is the checkpoint that of the text model alone?"));
        }
        let (tensors, packing) = unpacked(&root, architecture, &stored, options).map_err(|e| e.at(&config_path))?;
        let packed = packing.map(|(method, note)| {
            notes.push(note);
            method.to_owned()
        });
        let stored_bytes = packed.as_ref().map(|_| bytes_of(&stored));
        let exact = options.exact && packed.is_some() && options.outtype == OutType::Auto;
        let file_type = choose(if exact { OutType::F32 } else { options.outtype }, architecture, &stored);
        let mut plan = Plan::new(architecture, &config, &origins, file_type, None)?;
        for (name, rows) in (architecture.generated)(&config).map_err(|e| e.at(&config_path))? {
            plan.push(name, rows, Made { stored: Elements::F32, moved: false, of: &[] })?;
        }
        for Tensor { name, rows } in tensors {
            // Single numbers become vectors of one element.
            let rows = if rows.shape().is_empty() { transform::reshaped(&rows, vec![1])? } else { rows };
            plan.add(Tensor { name, rows }, false).map_err(|e| e.at(folder))?;
        }
        plan.finish().map_err(|e| e.at(folder))?;
        notes.append(&mut plan.notes);

        let mut metadata = Metadata::new();
        metadata.set("general.architecture", architecture.arch);
        let general = plan.general(folder, options)?;
        if architecture.general {
            metadata.set("general.type", "mmproj");
            general.write(&mut metadata).map_err(|e| e.at(folder))?;
        }
        notes.extend_from_slice(general.notes());
        let mut params = Params::new(&config, folder, architecture.arch, file_type.number, &mut metadata);
        (architecture.keys)(&mut params).map_err(|e| e.at(&config_path))?;
        if architecture.general {
            metadata.set("general.quantization_version", 2_u32);
        }
        let (infos, rows): (Vec<TensorInfo>, Vec<Rows>) = plan.out.into_iter().unzip();
        notes.extend(
            complete::check_projector(architecture, &metadata, &infos, &plan.sources, &origins)
                .map_err(|e| e.at(folder))?,
        );
        let key = |(key, value)| (format!("{}.{key}", architecture.arch), value);
        let beyond = (architecture.beyond)(&config).into_iter().map(key).collect();
        Ok(Checkpoint {
            metadata,
            infos,
            rows,
            notes,
            packed,
            stored_bytes,
            beyond,
            general,
            type_name: Some(file_type.name),
            part: options.part,
            projector: options.projector,
            architecture,
            tasks: Vec::new(),
            departures: Vec::new(),
            folder: folder.to_path_buf(),
            pooler: None,
        })
    }

    /// The default name of a converted file, by the naming convention of the specification.
    pub fn file_name(&self) -> String {
        self.named(self.type_name)
    }

    /// What the default name calls the type of the matrices, where they are written.
    pub fn type_name(&self) -> Option<&str> {
        self.type_name
    }

    /// The default name of a file of this type made from the checkpoint.
    pub fn file_name_of(&self, type_name: &str) -> String {
        self.named(Some(type_name))
    }

    fn named(&self, encoding: Option<&str>) -> String {
        match self.part {
            _ if self.projector => self.general.projector_file_name(encoding),
            Part::Prediction => self.general.prediction_file_name(encoding),
            _ => self.general.file_name(encoding),
        }
    }

    /// The row of the table that converts this checkpoint.
    pub fn architecture(&self) -> &'static Class {
        self.architecture
    }

    /// Where llama.cpp computes something else from the file than the model's own code does; each is a note too.
    pub fn departures(&self) -> &[String] {
        &self.departures
    }

    /// What the folder does with hidden states, whether or not a file of its architecture has a place for it.
    ///
    /// # Errors
    /// Modules that are not known, or whose files are missing or malformed.
    pub fn behind(&self) -> Result<Behind> {
        let pooler = self
            .pooler
            .as_ref()
            .map(|(weight, bias)| Dense::of(weight.name(), weight, bias.as_ref(), Some(HeadFunction::Tanh)));
        Ok(Behind { stages: modules::stages(&self.folder)?, pooler: pooler.transpose()? })
    }

    /// The adapters of its tasks, which become files of their own.
    pub fn tasks(&self) -> &[TaskAdapter] {
        &self.tasks
    }
}

impl Source for Checkpoint {
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

    fn release(&self, tensor: usize, rows: Range<u64>) {
        if row_range(&self.infos, tensor, &rows).is_ok() {
            self.rows[tensor].release(rows);
        }
    }

    fn stored_bytes(&self) -> u64 {
        self.stored_bytes.unwrap_or_else(|| self.infos.iter().map(TensorInfo::bytes).sum())
    }

    fn packed(&self) -> Option<&str> {
        self.packed.as_deref()
    }

    fn runtime(&self, tensor: usize) -> Runtime {
        self.rows.get(tensor).map(|rows| rows.runtime()).unwrap_or_default()
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn beyond(&self) -> &[(String, gguf::Value)] {
        &self.beyond
    }
}

/// The model that a draft is made for; nothing for other models.
fn target(architecture: &Class, folder: &Path, options: &Options) -> Result<Option<Target>> {
    match (&options.target, architecture.drafts) {
        (Some(target), true) => Target::open(target).map(Some),
        (None, true) => Err(Error::usage("the folder holds a draft, whose vocabulary is that of another model")
            .at(folder)
            .help("--target-model-dir DIR names the folder of the model that it drafts for")),
        (_, false) => Ok(None),
    }
}

/// The tensors that are stored. A file of the vocabulary alone needs none of them, but takes its type from those there
/// are.
fn weights(folder: &Path, options: &Options, notes: &mut Vec<String>) -> Result<Vec<Stored>> {
    let prefix = if options.mistral_format { "consolidated" } else { "model" };
    if options.vocab_only && !safetensors::has_file(folder, prefix)? {
        return Ok(Vec::new());
    }
    if options.mistral_format {
        safetensors::open_consolidated(folder)
    } else {
        safetensors::open_folder_with_notes(folder, notes)
    }
}

/// The layer of this name, as the class's checkpoints call it.
fn pooler(class: &Class, name: &str, stored: &[Stored]) -> Option<(Stored, Option<Stored>)> {
    let prefixes = || class.prefixes.iter().map(|p| p.0).chain([""]);
    let find = |suffix: &str| {
        let mut names = prefixes().map(|prefix| format!("{prefix}{name}{suffix}"));
        names.find_map(|name| stored.iter().find(|t| t.name() == name)).cloned()
    };
    Some((find(".weight")?, find(".bias")))
}

/// The adapters that the folder holds beside the weights.
fn tasks(
    class: &'static Class,
    config: &Config,
    stored: &[Stored],
    notes: &mut Vec<String>,
) -> Result<Vec<TaskAdapter>> {
    let tasks = (class.tasks)(config, class, stored)?.into_iter().map(|task| TaskAdapter::new(class.arch, task));
    let tasks: Vec<TaskAdapter> = tasks.collect::<Result<_>>()?;
    if !tasks.is_empty() {
        let names: Vec<&str> = tasks.iter().map(TaskAdapter::name).collect();
        notes.push(format!("adapters of tasks are files of their own, which convert writes: {}", names.join(", ")));
    }
    Ok(tasks)
}

/// The type of a file's matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileType {
    matrices: TensorType,
    /// What file names call it.
    name: &'static str,
    /// llama.cpp's `general.file_type`.
    number: u32,
}

impl FileType {
    fn new(matrices: TensorType) -> FileType {
        let number = match matrices {
            TensorType::F32 => 0,
            TensorType::F16 => 1,
            TensorType::Q8_0 => 7,
            TensorType::TQ1_0 => 36,
            TensorType::TQ2_0 => 37,
            _ => 32,
        };
        FileType { matrices, name: matrices.name(), number }
    }

    /// The type of a file of this class, whose number and name need not follow from the matrices.
    fn of(self, class: &Class) -> FileType {
        class.file_type.map_or(self, |(number, name)| FileType { number, name, ..self })
    }
}

/// `auto` is the first 16-bit type among the matrices, and f16 where there is none.
fn choose(wanted: OutType, architecture: &Class, tensors: &[Stored]) -> FileType {
    let asked = if wanted == OutType::Auto { architecture.unasked.unwrap_or(wanted) } else { wanted };
    let of_checkpoint = || {
        let mut matrices = tensors.iter().filter(|t| t.shape().len() >= 2);
        match matrices.find(|t| [Dtype::BF16, Dtype::F16].contains(&t.dtype())).map(Stored::dtype) {
            Some(Dtype::BF16) => TensorType::BF16,
            _ => TensorType::F16,
        }
    };
    FileType::new(asked.ty().unwrap_or_else(of_checkpoint))
}

/// The tensors of the text model.
struct Text<'a> {
    stored: Vec<Stored>,
    /// Names of those whose block has another number in the checkpoint.
    moved: HashSet<String>,
    origins: Origins<'a>,
}

/// The tensors of the text model, their names without what wrappers put in front.
fn text_tensors<'a>(
    architecture: &'static Class,
    config: &'a Config,
    root: &Map<String, Value>,
    stored: Vec<Stored>,
    notes: &mut Vec<String>,
) -> Result<Text<'a>> {
    let (mut left_out, mut left_bytes) = (0_u64, 0_u64);
    let own = TextNames::new(architecture, config)?;
    let mut text = Text {
        stored: Vec::with_capacity(stored.len()),
        moved: HashSet::new(),
        origins: Origins::new(architecture, own.layers(), move |name| own.of(name)),
    };
    let mut predicts = false;
    for tensor in stored {
        predicts |= architecture.predicts(config, &tensor.name().replace("language_model.", ""));
        let Some(names) = text.origins.names_of(tensor.name()) else {
            left_out += 1;
            left_bytes += tensor.bytes().len() as u64;
            continue;
        };
        for Renamed { name, moved } in names {
            if moved {
                text.moved.insert(name.clone());
            }
            text.origins.add(&name, tensor.name());
            text.stored.push(tensor.clone().renamed(name));
        }
    }
    if config.part() == Part::Prediction && !predicts {
        return Err(Error::input("the checkpoint has no layers of multi-token prediction").help("leave --mtp out"));
    }
    if left_out > 0 {
        let how = if hf::projectors::find(root).is_some() { "; --mmproj writes their file, --all both" } else { "" };
        notes.push(format!(
            "left out: {left_out} vision and audio tensors ({:.1} MiB){how}",
            left_bytes as f64 / f64::from(1 << 20)
        ));
    }
    Ok(text)
}

/// The name under which a projector's tables know a tensor; nothing for one of the text model, or of no use.
pub(crate) fn projector_name(class: &Class, config: &Config, name: &str) -> Option<String> {
    if name.contains("language_model.") {
        return None;
    }
    let renamed = names::replaced(class.prefixes, name.to_owned(), &(0..0)).into_iter().next()?.name;
    let renamed = (class.rename)(config, &renamed)?;
    let unused = class.unused.iter().any(|beginning| renamed.starts_with(beginning));
    (!unused && !names::is_buffer(&renamed)).then_some(renamed)
}

/// The number of tokens that a folder's tokenizer has: the rows of an embedding that are of use.
fn vocabulary_size(folder: &Path, vocabulary: &Metadata) -> Result<Option<u64>> {
    if folder.join("tokenizer.model").is_file() {
        return Ok(vocabulary.array("tokenizer.ggml.tokens").map(gguf::Array::len));
    }
    let Some(tokenizer) = crate::json::read_optional(&folder.join("tokenizer.json"))? else { return Ok(None) };
    let own = tokenizer["model"]["vocab"].as_object().map_or(0, Map::len);
    let added = tokenizer["added_tokens"].as_array().map_or(0, Vec::len);
    Ok(Some((own + added) as u64))
}

/// A method of packing, and what is to be said of it.
type Packing = (&'static str, String);

/// Bytes of the data of these tensors.
fn bytes_of(stored: &[Stored]) -> u64 {
    stored.iter().map(|tensor| tensor.bytes().len() as u64).sum()
}

/// The tensors without their packing.
fn unpacked(
    root: &Map<String, Value>,
    architecture: &Class,
    stored: &[Stored],
    options: &Options,
) -> Result<(Vec<Tensor>, Option<Packing>)> {
    let unpacked = packed::unpack(root, architecture.packing, stored, options.blocks)?;
    if let Some(Unpacked { tensors, note, method }) = unpacked {
        let tensors = tensors.into_iter().map(|(name, rows)| Tensor { name, rows }).collect();
        return Ok((tensors, Some((method, note))));
    }
    let tensors = stored.iter().map(|t| Ok(Tensor { name: t.name().to_owned(), rows: transform::stored(t)? }));
    Ok((tensors.collect::<Result<_>>()?, None))
}

/// Members of a stack that were seen so far, with their names in the checkpoint: by rule, then by member.
type Members = BTreeMap<usize, BTreeMap<u64, (String, Rows)>>;

/// Parts of a joined tensor that were seen so far, by rule and member, with their names in the checkpoint.
type Parts = BTreeMap<(usize, u64), (String, Rows)>;

/// What makes a joined tensor of its parts.
type Make = fn(&Config, &Piece, Vec<Rows>) -> Result<hf::Outputs>;

/// What a finished tensor was made of.
#[derive(Clone, Copy, Debug)]
struct Made<'a> {
    stored: Elements,
    /// Whether its block has another number in the checkpoint.
    moved: bool,
    /// The tensors of the checkpoint, without what wrappers put in front.
    of: &'a [String],
}

/// Maps tensors one after the other and remembers what is still missing.
struct Plan<'a> {
    architecture: &'static Class,
    config: &'a Config,
    origins: &'a Origins<'a>,
    rules: Vec<&'static NameRule>,
    file_type: FileType,
    vocabulary: Option<u64>,
    blocks: u64,
    out: Vec<(TensorInfo, Rows)>,
    names: HashSet<String>,
    /// Weights that were seen, by rule and block.
    seen: HashSet<(usize, Option<u64>)>,
    stacks: BTreeMap<(&'static str, u64), Members>,
    joins: BTreeMap<(&'static str, u64, String), Parts>,
    /// What each tensor of the file is made of.
    sources: Sources,
    embedding: Option<Rows>,
    notes: Vec<String>,
}

impl<'a> Plan<'a> {
    fn new(
        architecture: &'static Class,
        config: &'a Config,
        origins: &'a Origins<'a>,
        file_type: FileType,
        vocabulary: Option<u64>,
    ) -> Result<Plan<'a>> {
        Ok(Plan {
            architecture,
            config,
            origins,
            rules: names::rules(architecture).collect(),
            file_type,
            vocabulary,
            blocks: config.blocks()?,
            out: Vec::new(),
            names: HashSet::new(),
            seen: HashSet::new(),
            stacks: BTreeMap::new(),
            joins: BTreeMap::new(),
            sources: Sources::new(),
            embedding: None,
            notes: Vec::new(),
        })
    }

    /// Appends a finished tensor.
    fn push(&mut self, name: String, rows: Rows, made: Made<'_>) -> Result<()> {
        let shape: Vec<u64> = rows.shape().iter().rev().copied().collect();
        let shape = Shape::new(&shape).map_err(|e| e.in_tensor(&name))?;
        let dimensions = rows.shape().len();
        let fixed = match (self.architecture.in_f32)(self.config, &name) {
            Some(true) => Some(TensorType::F32),
            Some(false) => None,
            None if self.architecture.is_projector() => {
                names::forced_type(self.architecture, &name, dimensions, self.file_type.matrices)
            }
            None => {
                let (types, asked) = (self.architecture.types, self.file_type.matrices);
                let moved = made.moved || names::leaves_its_block(&name, made.of);
                names::fixed_type(types, &name, dimensions, asked, made.stored, moved)
            }
        };
        let ty = match (rows.elements(), fixed) {
            (Elements::Blocks(ty), _) => ty,
            (_, Some(ty)) => ty,
            // Rows that are not a whole number of blocks stay floats.
            _ if self.file_type.matrices.bytes_for(transform::row_len(rows.shape())).is_none() => TensorType::F16,
            _ => self.file_type.matrices,
        };
        if !self.names.insert(name.clone()) {
            return Err(Error::input(format!("two tensors of the checkpoint become {name}")));
        }
        self.sources.insert(name.clone(), made.of.to_vec());
        self.out.push((TensorInfo::new(name, shape, ty)?, rows));
        Ok(())
    }

    /// Maps one tensor of the checkpoint.
    fn add(&mut self, tensor: Tensor, moved: bool) -> Result<()> {
        let Tensor { name, rows } = tensor;
        let of = [name];
        let (made, name) = (Made { stored: rows.elements(), moved, of: &of }, &of[0]);
        let origins = self.origins;
        let fault = |e: Error| e.about(format_args!("tensor {}", origins.of(name)));
        let Some(found) = names::find(self.architecture, name) else {
            if let Some((form, block)) = names::fused(self.architecture, name) {
                return self.fused(form, block, &rows, made).map_err(fault);
            }
            let near = names::nearest(self.architecture, name).unwrap_or_default();
            return Err(Error::input(format!(
                "tensor {} has no place in a {} file",
                origins.of(name),
                self.architecture.arch
            ))
            .help(format!("the nearest name that has is {near}")));
        };
        let rule = self.rules[found.index];
        let blocks = self.blocks_of(rule);
        if let Some(block) = found.block.filter(|b| *b >= blocks) {
            if matches!(rule.how, How::Drop) || self.architecture.drop_further_blocks {
                return Ok(());
            }
            return Err(Error::input(format!(
                "tensor {} is of block {block}, config.json claims {blocks}",
                origins.of(name)
            )));
        }
        if rows.shape().contains(&0) && !matches!(rule.how, How::Drop) {
            return Err(Error::input(format!(
                "tensor {} has no elements, its shape is {:?}",
                origins.of(name),
                rows.shape()
            ))
            .help(
                "DeepSpeed's ZeRO-3 leaves such behind where weights were not gathered: save the model again with \
                 stage3_gather_16bit_weights_on_model_save, or make it of the shards with zero_to_fp32.py",
            ));
        }
        if found.suffix.ends_with("scale") {
            // The factor of a packed weight goes beside it, whatever order its rows have.
            let to = names::with_block(rule.to, found.block);
            return self.push(format!("{to}{}", found.suffix), rows, made);
        }
        if self.architecture.drop_zero_biases && found.suffix == ".bias" {
            let bytes = rows.rows(0..row_count(rows.shape())).map_err(fault)?;
            let zeros = transform::to_f32(rows.elements(), &bytes)?.iter().all(|v| *v == 0.0);
            let told =
                format!("tensor {} is not zero, and {} has no place for it", origins.of(name), self.architecture.arch);
            return if zeros { Ok(()) } else { Err(Error::input(told)) };
        }
        if found.suffix != ".bias" {
            self.seen.insert((found.index, found.block));
        }
        let member = found.member.unwrap_or(0).to_string();
        let to = names::with_block(rule.to, found.block).replace("{x}", &member);
        let target = format!("{to}{}", found.suffix);
        let rows = match rule.how.of(found.suffix) {
            How::Drop => return Ok(()),
            How::Stack { .. } | How::Chain { .. } | How::Uneven { .. } => {
                let block = found.block.unwrap_or(0);
                let member = found.member.unwrap_or(0);
                let Some((group, members)) = rule.how.stack(self.config, block) else { return Ok(()) };
                let members = members?;
                if member >= members || found.suffix == ".bias" {
                    return Err(fault(Error::input(format!("it is number {member} of {members} in config.json"))));
                }
                return self.stack(group, members, (found.index, block, member), found.suffix, rows, made);
            }
            How::Join { group, make } | How::JoinAll { group, make, .. } => {
                let piece = Piece { to, suffix: found.suffix.to_owned(), block: found.block.unwrap_or(0), rows };
                let member = found.member.filter(|_| matches!(rule.how, How::JoinAll { .. })).unwrap_or(0);
                return self.join(group, make, (found.index, member), piece, made);
            }
            How::Split(make) | How::Cut(make) => {
                let piece = Piece { to, suffix: found.suffix.to_owned(), block: found.block.unwrap_or(0), rows };
                let outputs = make(self.config, &piece).map_err(fault)?;
                if matches!(rule.how, How::Split(_)) {
                    all_of(&piece.rows, outputs.iter().map(|(_, rows)| rows)).map_err(fault)?;
                }
                for (name, rows) in outputs {
                    self.push(name, rows, made)?;
                }
                return Ok(());
            }
            How::First if self.names.contains(&target) => return Ok(()),
            How::Untied if self.is_tied() => return Ok(()),
            How::Tied if self.is_tied() => return Ok(()),
            How::Tied => {
                return Err(Error::input(format!(
                    "tensor {} has no place in a {} file, whose output is its token embedding",
                    origins.of(name),
                    self.architecture.arch
                )));
            }
            How::Keep | How::First | How::Untied => rows,
            How::Change(change) => {
                let piece = Piece { to, suffix: found.suffix.to_owned(), block: found.block.unwrap_or(0), rows };
                let changed = change(self.config, &piece).map_err(fault)?;
                all_of(&piece.rows, [&changed]).map_err(fault)?;
                changed
            }
            How::Map(f) | How::MapWeight(f) => transform::mapped(&rows, f),
            How::Transpose => transform::transposed(&rows).map_err(fault)?,
            How::RotateQuery => rotated(&rows, self.architecture.rotated_queries(self.config)?).map_err(fault)?,
            How::RotateKey => rotated(&rows, self.architecture.rotated_keys(self.config)?).map_err(fault)?,
        };
        let rows = self.trimmed(&target, rows).map_err(fault)?;
        if target == "token_embd.weight" {
            self.embedding = Some(rows.clone());
        }
        if self.architecture.drop_equal_output && target == "output.weight" && self.is_embedding(&rows)? {
            self.notes.push(format!("left out: {}, which equals the token embedding", origins.of(name)));
            return Ok(());
        }
        self.push(target, rows, made)
    }

    /// Experts in one tensor, where the class knows them one by one: they stay one, gate and up apart.
    fn fused(&mut self, form: Fused, block: u64, rows: &Rows, made: Made<'_>) -> Result<()> {
        if block >= self.blocks {
            return Err(Error::input(format!("it is of block {block}, config.json claims {}", self.blocks)));
        }
        let parts: &[&str] = match form {
            Fused::Router => &["ffn_gate_inp"],
            Fused::GateUp => &["ffn_gate_exps", "ffn_up_exps"],
            Fused::Gate => &["ffn_gate_exps"],
            Fused::Up => &["ffn_up_exps"],
            Fused::Down => &["ffn_down_exps"],
        };
        for (i, part) in (0..).zip(parts) {
            let (index, rule) = names::target(self.architecture, part)
                .ok_or_else(|| Error::input(format!("a {} file has no {part}", self.architecture.arch)))?;
            if let Some((_, members)) = rule.how.stack(self.config, block) {
                let members = members?;
                if rows.shape().len() != 3 || rows.shape()[0] != members {
                    return Err(Error::input(format!("its shape {:?} is not that of {members} experts", rows.shape())));
                }
            }
            let rows = match (form, rows.shape()) {
                (Fused::GateUp, &[_, both, _]) if both.is_multiple_of(2) => {
                    transform::sliced(rows, 1, i * (both / 2), both / 2)?
                }
                (Fused::GateUp, shape) => {
                    return Err(Error::input(format!("its shape {shape:?} has no two equal halves")));
                }
                _ => rows.clone(),
            };
            self.seen.insert((index, Some(block)));
            self.push(format!("{}.weight", names::with_block(rule.to, Some(block))), rows, made)?;
        }
        Ok(())
    }

    /// Token embeddings without the rows beyond the vocabulary, for those that have such.
    fn trimmed(&self, target: &str, rows: Rows) -> Result<Rows> {
        match (self.vocabulary, rows.shape()) {
            (Some(size), [stored, _]) if target == "token_embd.weight" && *stored > size => {
                transform::sliced(&rows, 0, 0, size)
            }
            _ => Ok(rows),
        }
    }

    fn is_tied(&self) -> bool {
        self.config.bool("tie_word_embeddings") == Some(true)
    }

    /// The blocks that a rule's names count: encoder and decoder may differ.
    fn blocks_of(&self, rule: &NameRule) -> u64 {
        // What stands behind a tower counts for itself.
        if self.architecture.is_projector() && !["v.blk.", "a.blk."].iter().any(|stack| rule.to.starts_with(stack)) {
            return u64::MAX;
        }
        let decoder = rule.from.starts_with("decoder.").then(|| self.config.u64("num_decoder_layers")).flatten();
        decoder.unwrap_or(self.blocks)
    }

    fn is_embedding(&self, rows: &Rows) -> Result<bool> {
        let Some(embedding) = self.embedding.as_ref().filter(|e| e.shape() == rows.shape()) else { return Ok(false) };
        let count = row_count(rows.shape());
        let mut equal = true;
        // A few thousand rows at a time: neither is in memory as a whole.
        for first in (0..count).step_by(4096) {
            let range = first..(first + 4096).min(count);
            let a = transform::to_f32(rows.elements(), &rows.rows(range.clone())?)?;
            let b = transform::to_f32(embedding.elements(), &embedding.rows(range)?)?;
            if a != b {
                equal = false;
                break;
            }
        }
        Ok(equal)
    }

    /// Remembers a member of a stack, told by rule, block and member, and stacks when it was the last.
    fn stack(
        &mut self,
        group: &'static str,
        members: u64,
        (rule, block, member): (usize, u64, u64),
        suffix: &str,
        rows: Rows,
        made: Made<'_>,
    ) -> Result<()> {
        let tables: Vec<usize> = (0..self.rules.len())
            .filter(|i| self.rules[*i].how.stack(self.config, block).is_some_and(|(g, _)| g == group))
            .collect();
        let seen = self.stacks.entry((group, block)).or_default();
        seen.entry(rule).or_default().insert(member, (made.of.concat(), rows));
        let complete = tables.iter().all(|t| seen.get(t).is_some_and(|m| m.len() as u64 == members));
        if !complete {
            return Ok(());
        }
        let Some(mut seen) = self.stacks.remove(&(group, block)) else { return Ok(()) };
        for table in tables {
            let (names, parts): (Vec<String>, Vec<Rows>) =
                seen.remove(&table).into_iter().flatten().map(|m| m.1).unzip();
            let how = self.rules[table].how;
            let parts = if let How::Uneven { padded: true, .. } = how { filled_up(parts)? } else { parts };
            self.same_shape(&names, &parts)?;
            let to = names::with_block(self.rules[table].to, Some(block));
            let chained = matches!(how, How::Chain { .. });
            let whole = if chained { transform::joined(parts) } else { transform::stacked(parts) };
            let whole = whole.map_err(|e| self.about(&names, e))?;
            self.push(format!("{to}{suffix}"), whole, Made { of: &names, ..made })?;
        }
        Ok(())
    }

    /// Names the member of a stack whose shape is not that of the others.
    fn same_shape(&self, names: &[String], parts: &[Rows]) -> Result<()> {
        let alike = |shape: &[u64]| parts.iter().filter(|other| other.shape() == shape).count();
        let Some((most, usual)) = parts.iter().enumerate().max_by_key(|(_, rows)| alike(rows.shape())) else {
            return Ok(());
        };
        match parts.iter().position(|rows| rows.shape() != usual.shape()) {
            None => Ok(()),
            Some(odd) => Err(Error::input(format!(
                "tensor {} has the shape {:?} and {} {:?}: they do not stack",
                self.origins.of(&names[odd]),
                parts[odd].shape(),
                self.origins.of(&names[most]),
                usual.shape()
            ))),
        }
    }

    /// An error about what several tensors become.
    fn about(&self, names: &[String], e: Error) -> Error {
        let named: Vec<String> = names.iter().map(|name| self.origins.of(name)).collect();
        e.about(format_args!("tensors {}", named.join(", ")))
    }

    /// Remembers one of several tensors that are made into others, and makes them when it was the last.
    fn join(
        &mut self,
        group: &'static str,
        make: Make,
        part: (usize, u64),
        piece: Piece,
        made: Made<'_>,
    ) -> Result<()> {
        let parts = self.parts(group)?.len();
        let key = (group, piece.block, piece.suffix.clone());
        let seen = self.joins.entry(key.clone()).or_default();
        seen.insert(part, (made.of.concat(), piece.rows.clone()));
        if seen.len() < parts {
            return Ok(());
        }
        let seen = self.joins.remove(&key).unwrap_or_default();
        let (names, rows): (Vec<String>, Vec<Rows>) = seen.into_values().unzip();
        for (name, rows) in make(self.config, &piece, rows).map_err(|e| self.about(&names, e))? {
            self.push(name, rows, Made { of: &names, ..made })?;
        }
        Ok(())
    }

    /// The parts of a group that is joined: rules, and members of those that have several.
    fn parts(&self, group: &str) -> Result<Vec<(usize, u64)>> {
        let mut parts = Vec::new();
        for (i, rule) in self.rules.iter().enumerate() {
            match rule.how {
                How::Join { group: own, .. } if own == group => parts.push((i, 0)),
                How::JoinAll { group: own, members, .. } if own == group => {
                    parts.extend((0..members(self.config)?).map(|member| (i, member)));
                }
                _ => {}
            }
        }
        Ok(parts)
    }

    /// The general keys of a file with these tensors.
    fn general(&self, folder: &Path, options: &Options) -> Result<General> {
        let shapes = self.out.iter().map(|(info, rows)| (info.name(), rows.shape()));
        let overrides = Overrides {
            file: options.metadata.clone(),
            name: options.model_name.clone(),
            skip_card: options.skip_model_card,
        };
        General::load(folder, &overrides, &Parameters::count(shapes))
    }

    /// Checks that nothing is missing, and brings those to the front that come first.
    fn finish(&mut self) -> Result<()> {
        if let Some(((group, block), members)) = self.stacks.iter().next() {
            return Err(self.missing_member(group, *block, members));
        }
        if let Some(((group, block, suffix), seen)) = self.joins.iter().next() {
            let gap = self.parts(group)?.into_iter().find(|part| !seen.contains_key(part));
            let name = gap.map_or(String::new(), |(rule, member)| {
                names::with_block(self.rules[rule].from, Some(*block)).replace("{x}", &member.to_string())
            });
            let name = self.origins.of(&(name + suffix));
            return Err(Error::input(format!("tensor {name} is missing")).help("is the checkpoint complete?"));
        }
        let leading = self.architecture.leading;
        let last = self.architecture.last;
        self.out.sort_by_key(|(info, _)| (last.contains(&info.name()), names::leading(leading, info.name())));
        self.check_head()
    }

    /// A head that the configuration says is not the token embedding has to be there.
    fn check_head(&self) -> Result<()> {
        // Models without a head end in another word, and what remote code assumes is not known.
        let has_head = self.config.class().contains("For") && self.config.is_known();
        let separate = self.config.bool("tie_word_embeddings") == Some(false) && !self.config.is_wrapped() && has_head;
        let head = self.rules.iter().enumerate().find(|(_, rule)| rule.to == "output");
        match head {
            Some((i, rule)) if separate && !self.seen.contains(&(i, None)) => {
                let help =
                    "config.json says \"tie_word_embeddings\": false; set it to true if the head is the embedding";
                let name = self.origins.of(&format!("{}.weight", rule.from));
                Err(Error::input(format!("tensor {name} is missing")).help(help))
            }
            _ => Ok(()),
        }
    }

    fn missing_member(&self, group: &str, block: u64, members: &Members) -> Error {
        let all = members.values().map(|m| m.keys().next_back().copied().unwrap_or(0)).max().unwrap_or(0);
        let gap = self.rules.iter().enumerate().find_map(|(i, rule)| {
            let (_, count) = rule.how.stack(self.config, block).filter(|(own, _)| *own == group)?;
            let count = count.ok()?;
            let seen = members.get(&i);
            let first = (0..count).find(|x| seen.is_none_or(|m| !m.contains_key(x)))?;
            Some(names::with_block(rule.from, Some(block)).replace("{x}", &first.to_string()) + ".weight")
        });
        let name = gap
            .map(|name| self.origins.of(&name))
            .unwrap_or_else(|| format!("the stack of block {block} after member {all}"));
        Error::input(format!("tensor {name} is missing")).help("is the checkpoint complete?")
    }
}

/// Refuses a tensor that is larger than what is made of it: the configuration is of another one.
fn all_of<'a>(of: &Rows, made: impl IntoIterator<Item = &'a Rows>) -> Result<()> {
    let elements = |rows: &Rows| rows.shape().iter().product::<u64>();
    let mut made = made.into_iter().peekable();
    // What is left out as a whole is no matter of sizes.
    if made.peek().is_none() || made.map(elements).sum::<u64>() >= elements(of) {
        return Ok(());
    }
    Err(Error::input(format!("its shape {:?} is larger than the configuration says", of.shape())))
}

/// Tensors with zeros behind those that have fewer rows than others.
fn filled_up(parts: Vec<Rows>) -> Result<Vec<Rows>> {
    let rows = |part: &Rows| part.shape().first().copied().unwrap_or(0);
    let most = parts.iter().map(rows).max().unwrap_or(0);
    parts.iter().map(|part| if rows(part) == most { Ok(part.clone()) } else { transform::padded(part, most) }).collect()
}
