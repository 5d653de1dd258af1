//! A checkpoint folder seen as if it were a GGUF file.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use gguf::{Error, Metadata, Result, Shape, Source, TensorInfo, TensorType, row_range};
use serde_json::{Map, Value};

use crate::config::{self, Config};
use crate::hf::{self, Class, How, Params, Piece, Rule};
use crate::lora::Adapter;
use crate::metadata::{General, Overrides, Parameters};
use crate::names::Fused;
use crate::packed::{self, Unpacked};
use crate::safetensors::{self, Dtype, Stored};
use crate::transform::{self, Elements, Rows, row_count};
use crate::{Options, OutType, names, tokenizer};

/// A tensor of a checkpoint under its own name: as stored, or what a decoder makes of it.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// The name in the checkpoint.
    pub name: String,
    /// The data.
    pub rows: Rows,
}

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
    file_name: String,
    architecture: &'static Class,
}

impl Checkpoint {
    /// Opens a folder: reads its configuration, headers and tokenizer, no weights.
    ///
    /// # Errors
    /// A folder that is no checkpoint, files that are missing or malformed, an architecture that is not known,
    /// a tensor that no rule maps or that is missing.
    pub fn open(folder: &Path, options: &Options) -> Result<Checkpoint> {
        let mut root = config::read(folder)?;
        let config_path = folder.join("config.json");
        let class = config::class(&root).map_err(|e| e.at(&config_path))?;
        let architecture = hf::find(&class).map_err(|e| e.at(&config_path))?;
        let mut notes = Vec::new();
        let stored = safetensors::open_folder_with_notes(folder, &mut notes)?;
        packed::complete(&mut root, folder, &stored)?;
        let mut config = Config::new(&root, &class, architecture.defaults).map_err(|e| e.at(&config_path))?;
        (architecture.prepare)(&mut config).map_err(|e| e.at(&config_path))?;
        let stored = text_tensors(architecture, stored, &mut notes);
        let file_type = choose(options.outtype, &stored);
        let (mut tensors, packing) = unpacked(&root, &stored, options).map_err(|e| e.at(&config_path))?;
        let packed = packing.map(|(method, note)| {
            notes.push(note);
            method.to_owned()
        });
        for (adapter, scale) in &options.merge {
            let found = Adapter::open(adapter)?;
            found.merge(&mut tensors, architecture, *scale)?;
            notes.push(format!("merged: {} weights changed by {}, times {scale}", found.len(), adapter.display()));
        }
        let request = tokenizer::Request { pre: options.pre.clone() };
        let vocabulary = tokenizer::metadata(folder, &config.to_value(), architecture.vocabulary, &request)?;
        let size = if architecture.cut_embedding { vocabulary_size(folder, &vocabulary)? } else { None };
        let mut plan = Plan::new(architecture, &config, file_type, size)?;
        for (name, rows) in (architecture.generated)(&config).map_err(|e| e.at(&config_path))? {
            plan.push(name, rows)?;
        }
        for tensor in tensors {
            plan.add(tensor).map_err(|e| e.at(folder))?;
        }
        plan.finish().map_err(|e| e.at(folder))?;
        notes.append(&mut plan.notes);

        let mut metadata = Metadata::new();
        metadata.set("general.architecture", architecture.arch);
        let mut params = Params::new(&config, folder, architecture.arch, file_type.file_type(), &mut metadata);
        (architecture.early)(&mut params).map_err(|e| e.at(&config_path))?;
        metadata.set("general.type", "model");
        let shapes = plan.out.iter().map(|(info, rows)| (info.name(), rows.shape()));
        let overrides = Overrides {
            file: options.metadata.clone(),
            name: options.model_name.clone(),
            skip_card: options.skip_model_card,
        };
        let general = General::load(folder, &overrides, &Parameters::count(shapes))?;
        general.write(&mut metadata).map_err(|e| e.at(folder))?;
        notes.extend_from_slice(general.notes());
        let mut params = Params::new(&config, folder, architecture.arch, file_type.file_type(), &mut metadata);
        (architecture.keys)(&mut params).map_err(|e| e.at(&config_path))?;
        metadata.set("general.quantization_version", 2_u32);
        for (key, value) in vocabulary.iter() {
            metadata.set(key, value.clone());
        }
        let (infos, rows) = plan.out.into_iter().unzip();
        let file_name = general.file_name(file_type.name());
        Ok(Checkpoint { metadata, infos, rows, notes, packed, file_name, architecture })
    }

    /// The default name of a converted file, by the naming convention of the specification.
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// The row of the table that converts this checkpoint.
    pub fn architecture(&self) -> &'static Class {
        self.architecture
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
        row_range(&self.infos, tensor, &rows)?;
        let source = &self.rows[tensor];
        if self.infos[tensor].bytes() == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        let bytes = source.rows(rows)?;
        transform::cast(bytes, source.elements(), self.infos[tensor].ty())
    }

    fn release(&self, tensor: usize, rows: Range<u64>) {
        if row_range(&self.infos, tensor, &rows).is_ok() {
            self.rows[tensor].release(rows);
        }
    }

    fn packed(&self) -> Option<&str> {
        self.packed.as_deref()
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// The type of a file's matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileType(TensorType);

impl FileType {
    fn name(self) -> &'static str {
        self.0.name()
    }

    /// llama.cpp's `general.file_type`.
    fn file_type(self) -> u32 {
        match self.0 {
            TensorType::F32 => 0,
            TensorType::F16 => 1,
            _ => 32,
        }
    }
}

/// `auto` is the first 16-bit type among the matrices, and f16 where there is none.
fn choose(wanted: OutType, tensors: &[Stored]) -> FileType {
    FileType(match wanted {
        OutType::F32 => TensorType::F32,
        OutType::F16 => TensorType::F16,
        OutType::BF16 => TensorType::BF16,
        OutType::Auto => {
            let mut matrices = tensors.iter().filter(|t| t.shape().len() >= 2);
            match matrices.find(|t| [Dtype::BF16, Dtype::F16].contains(&t.dtype())).map(Stored::dtype) {
                Some(Dtype::BF16) => TensorType::BF16,
                _ => TensorType::F16,
            }
        }
    })
}

/// The name of a tensor of the text model without what wrappers put in front; none where it is of another sense.
pub(crate) fn text_name(architecture: &Class, name: &str) -> Option<String> {
    let mut name = name.to_owned();
    for (from, to) in architecture.prefixes {
        if let Some(rest) = name.strip_prefix(from) {
            name = format!("{to}{rest}");
        }
    }
    if names::is_other_sense(&name) {
        return None;
    }
    if name.ends_with("e_score_correction_bias") {
        name = name.replace("e_score_correction_bias", "e_score_correction.bias");
    }
    name = name.replace("language_model.", "");
    for (old, new) in [(".gamma", ".weight"), (".beta", ".bias")] {
        if let Some(stem) = name.strip_suffix(old) {
            name = format!("{stem}{new}");
        }
    }
    Some(name)
}

/// The tensors of the text model, their names without what wrappers put in front.
fn text_tensors(architecture: &Class, stored: Vec<Stored>, notes: &mut Vec<String>) -> Vec<Stored> {
    let (mut left_out, mut left_bytes) = (0_u64, 0_u64);
    let mut kept = Vec::with_capacity(stored.len());
    for tensor in stored {
        let Some(name) = text_name(architecture, tensor.name()) else {
            left_out += 1;
            left_bytes += tensor.bytes().len() as u64;
            continue;
        };
        let of_use = !architecture.unused.iter().any(|beginning| name.starts_with(beginning));
        if of_use && !names::is_buffer(&name) {
            kept.push(tensor.renamed(name));
        }
    }
    if left_out > 0 {
        notes.push(format!(
            "left out: {left_out} tensors of other senses than text ({:.1} MiB)",
            left_bytes as f64 / f64::from(1 << 20)
        ));
    }
    kept
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

/// The tensors without their packing.
fn unpacked(root: &Map<String, Value>, stored: &[Stored], options: &Options) -> Result<(Vec<Tensor>, Option<Packing>)> {
    if let Some(Unpacked { tensors, note, method }) = packed::unpack(root, stored, options.blocks)? {
        let tensors = tensors.into_iter().map(|(name, rows)| Tensor { name, rows }).collect();
        return Ok((tensors, Some((method, note))));
    }
    let tensors = stored.iter().map(|t| Ok(Tensor { name: t.name().to_owned(), rows: transform::stored(t)? }));
    Ok((tensors.collect::<Result<_>>()?, None))
}

/// Members of a stack that were seen so far: by rule, then by member.
type Members = BTreeMap<usize, BTreeMap<u64, Rows>>;

/// Maps tensors one after the other and remembers what is still missing.
struct Plan<'a> {
    architecture: &'static Class,
    config: &'a Config,
    rules: Vec<&'static Rule>,
    file_type: FileType,
    vocabulary: Option<u64>,
    blocks: u64,
    out: Vec<(TensorInfo, Rows)>,
    names: HashSet<String>,
    /// Weights that were seen, by rule and block.
    seen: HashSet<(usize, Option<u64>)>,
    stacks: HashMap<(&'static str, u64), Members>,
    sources: Vec<String>,
    embedding: Option<Rows>,
    notes: Vec<String>,
}

impl<'a> Plan<'a> {
    fn new(
        architecture: &'static Class,
        config: &'a Config,
        file_type: FileType,
        vocabulary: Option<u64>,
    ) -> Result<Plan<'a>> {
        Ok(Plan {
            architecture,
            config,
            rules: names::rules(architecture).collect(),
            file_type,
            vocabulary,
            blocks: config.blocks()?,
            out: Vec::new(),
            names: HashSet::new(),
            seen: HashSet::new(),
            stacks: HashMap::new(),
            sources: Vec::new(),
            embedding: None,
            notes: Vec::new(),
        })
    }

    /// Appends a finished tensor.
    fn push(&mut self, name: String, rows: Rows) -> Result<()> {
        let shape: Vec<u64> = rows.shape().iter().rev().copied().collect();
        let shape = Shape::new(&shape).map_err(|e| Error::input(format!("tensor {name}: {}", e.message())))?;
        let ty = match rows.elements() {
            Elements::Blocks(ty) => ty,
            _ if names::is_always_f32(&name, rows.shape().len()) => TensorType::F32,
            _ => self.file_type.0,
        };
        if !self.names.insert(name.clone()) {
            return Err(Error::input(format!("two tensors of the checkpoint become {name}")));
        }
        self.out.push((TensorInfo::new(name, shape, ty)?, rows));
        Ok(())
    }

    /// Maps one tensor of the checkpoint.
    fn add(&mut self, tensor: Tensor) -> Result<()> {
        let Tensor { name, rows } = tensor;
        let fault = |e: Error| Error::input(format!("tensor {name}: {}", e.message()));
        let Some(found) = names::find(self.architecture, &name) else {
            if let Some((form, block)) = names::fused(self.architecture, &name) {
                return self.fused(form, block, &rows).map_err(fault);
            }
            let near = names::nearest(self.architecture, &name).unwrap_or_default();
            return Err(Error::input(format!("tensor {name} has no place in a {} file", self.architecture.arch))
                .help(format!("the nearest name that has is {near}")));
        };
        let rule = self.rules[found.index];
        let blocks = self.blocks_of(rule);
        if let Some(block) = found.block.filter(|b| *b >= blocks) {
            if matches!(rule.how, How::Drop) {
                return Ok(());
            }
            return Err(Error::input(format!("tensor {name} is of block {block}, config.json claims {blocks}")));
        }
        if rows.shape().contains(&0) && !matches!(rule.how, How::Drop) {
            return Err(Error::input(format!("tensor {name} has no elements, its shape is {:?}", rows.shape())).help(
                "DeepSpeed's ZeRO-3 leaves such behind where weights were not gathered: save the model again with \
                 stage3_gather_16bit_weights_on_model_save, or make it of the shards with zero_to_fp32.py",
            ));
        }
        if found.suffix.ends_with("scale") {
            // The factor of a packed weight goes beside it, whatever order its rows have.
            let to = names::with_block(rule.to, found.block);
            return self.push(format!("{to}{}", found.suffix), rows);
        }
        if found.suffix != ".bias" {
            self.seen.insert((found.index, found.block));
        }
        let weight = found.suffix != ".bias";
        let to = names::with_block(rule.to, found.block);
        let target = format!("{to}{}", found.suffix);
        let rows = match rule.how {
            How::Drop => return Ok(()),
            How::DropZeros => {
                let bytes = rows.rows(0..row_count(rows.shape())).map_err(fault)?;
                let zeros = transform::to_f32(rows.elements(), &bytes)?.iter().all(|v| *v == 0.0);
                return if zeros {
                    Ok(())
                } else {
                    Err(Error::input(format!(
                        "tensor {name} is not zero, and {} has no place for it",
                        self.architecture.arch
                    )))
                };
            }
            How::Stack { group, members } => {
                let block = found.block.unwrap_or(0);
                let member = found.member.unwrap_or(0);
                let members = members(self.config)?;
                return self.stack(group, members, found.index, block, member, found.suffix, rows).map_err(fault);
            }
            How::Split(split) => {
                let piece = Piece { to, suffix: found.suffix.to_owned(), block: found.block.unwrap_or(0), rows };
                for (name, rows) in split(self.config, &piece).map_err(fault)? {
                    self.push(name, rows)?;
                }
                self.sources.push(name);
                return Ok(());
            }
            How::First if self.names.contains(&target) => return Ok(()),
            How::Untied if self.is_tied() => return Ok(()),
            How::Tied if self.is_tied() => return Ok(()),
            How::Tied => {
                return Err(Error::input(format!(
                    "tensor {name} has no place in a {} file, whose output is its token embedding",
                    self.architecture.arch
                )));
            }
            How::Keep | How::First | How::Untied => rows,
            How::Map(f) => transform::mapped(&rows, f),
            How::MapWeight(f) if weight => transform::mapped(&rows, f),
            How::Transpose if weight => transform::transposed(&rows).map_err(fault)?,
            How::MapWeight(_) | How::Transpose => rows,
            How::RotateQuery => rotated(&rows, self.config.heads()?).map_err(fault)?,
            How::RotateKey => rotated(&rows, self.config.kv_heads()?).map_err(fault)?,
        };
        let rows = self.trimmed(&target, rows).map_err(fault)?;
        if target == "token_embd.weight" {
            self.embedding = Some(rows.clone());
        }
        if self.architecture.drop_equal_output && target == "output.weight" && self.is_embedding(&rows)? {
            self.notes.push(format!("left out: {name}, which equals the token embedding"));
            return Ok(());
        }
        self.sources.push(name);
        self.push(target, rows)
    }

    /// Experts in one tensor, where the class knows them one by one: they stay one, gate and up apart.
    fn fused(&mut self, form: Fused, block: u64, rows: &Rows) -> Result<()> {
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
            if let How::Stack { members, .. } = rule.how {
                let members = members(self.config)?;
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
            self.push(format!("{}.weight", names::with_block(rule.to, Some(block))), rows)?;
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
    fn blocks_of(&self, rule: &Rule) -> u64 {
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

    #[allow(clippy::too_many_arguments)]
    fn stack(
        &mut self,
        group: &'static str,
        members: u64,
        rule: usize,
        block: u64,
        member: u64,
        suffix: &str,
        rows: Rows,
    ) -> Result<()> {
        if member >= members || suffix == ".bias" {
            return Err(Error::input(format!("it is number {member} of {members} in config.json")));
        }
        let tables: Vec<usize> = (0..self.rules.len())
            .filter(|i| matches!(self.rules[*i].how, How::Stack { group: g, .. } if g == group))
            .collect();
        let seen = self.stacks.entry((group, block)).or_default();
        seen.entry(rule).or_default().insert(member, rows);
        let complete = tables.iter().all(|t| seen.get(t).is_some_and(|m| m.len() as u64 == members));
        if !complete {
            return Ok(());
        }
        let Some(mut seen) = self.stacks.remove(&(group, block)) else { return Ok(()) };
        for table in tables {
            let parts: Vec<Rows> = seen.remove(&table).into_iter().flatten().map(|(_, rows)| rows).collect();
            let to = names::with_block(self.rules[table].to, Some(block));
            self.push(format!("{to}{suffix}"), transform::stacked(parts)?)?;
        }
        Ok(())
    }

    /// Checks that nothing is missing.
    fn finish(&self) -> Result<()> {
        if let Some(((_, block), members)) = self.stacks.iter().next() {
            return Err(self.missing_member(*block, members));
        }
        self.check_head()
    }

    /// A head that the configuration says is not the token embedding has to be there.
    fn check_head(&self) -> Result<()> {
        // Models without a head end in another word.
        let has_head = self.config.class().contains("For");
        let separate = self.config.bool("tie_word_embeddings") == Some(false) && !self.config.is_wrapped() && has_head;
        let head = self.rules.iter().enumerate().find(|(_, rule)| rule.to == "output");
        match head {
            Some((i, rule)) if separate && !self.seen.contains(&(i, None)) => {
                let help =
                    "config.json says \"tie_word_embeddings\": false; set it to true if the head is the embedding";
                Err(Error::input(format!("tensor {}.weight is missing", rule.from)).help(help))
            }
            _ => Ok(()),
        }
    }

    #[allow(dead_code)]
    fn missing(&self, rule: &Rule, block: Option<u64>) -> Error {
        let name = names::with_block(rule.from, block).replace("{x}", "0") + ".weight";
        let error = Error::input(format!("tensor {name} is missing"));
        match names::nearest_of(self.sources.iter().map(String::as_str), &name) {
            Some(near) => error.help(format!("the nearest name there is {near}; is the checkpoint complete?")),
            None => error,
        }
    }

    fn missing_member(&self, block: u64, members: &Members) -> Error {
        let all = members.values().map(|m| m.keys().next_back().copied().unwrap_or(0)).max().unwrap_or(0);
        let gap = self.rules.iter().enumerate().find_map(|(i, rule)| {
            let How::Stack { members: count, .. } = rule.how else { return None };
            let count = count(self.config).ok()?;
            let seen = members.get(&i);
            let first = (0..count).find(|x| seen.is_none_or(|m| !m.contains_key(x)))?;
            Some(names::with_block(rule.from, Some(block)).replace("{x}", &first.to_string()) + ".weight")
        });
        let name = gap.unwrap_or_else(|| format!("the stack of block {block} after member {all}"));
        Error::input(format!("tensor {name} is missing")).help("is the checkpoint complete?")
    }
}

/// Rows of each head in the order in which neighbours rotate: the two halves interleaved.
pub(crate) fn rotated(rows: &Rows, heads: u64) -> Result<Rows> {
    let count = rows.shape().first().copied().unwrap_or(0);
    let half = count / heads / 2;
    if half == 0 || half * 2 * heads != count {
        return Err(Error::input(format!("its {count} rows are no whole number of pairs for {heads} heads")));
    }
    transform::reordered(rows, 0, &[(heads, 2 * half), (half, 1), (2, half)])
}
