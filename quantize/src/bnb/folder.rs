//! A checkpoint folder in, a checkpoint folder in bitsandbytes' serialized form out.

use std::fs;
use std::path::Path;

use convert::packed::Float;
use convert::packed::bnb::{BLOCK_LENGTHS, Code, NESTED_BLOCK, QuantState};
use convert::safetensors::{self, Dtype, Stored};
use gguf::atomic::OutputFolder;
use gguf::lost::{Degenerate, Lost, Unit, largest};
use gguf::{Error, Result, TensorType};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::chosen::{self, Chosen};
use super::layers::{Layers, Treatment, Why};
use super::nested::{self, Nested};
use super::stayed::{self, Stayed};
use super::{four_bit, int8, state};
use crate::codec;
use convert::python::{Layout, dumps};
use convert::shards::{Entry, Shards};

/// Weights that a thread takes at a time: a multiple of every block length and of two.
pub(super) const CHUNK: usize = 1 << 18;

/// Weights decoded at a time, so that they stay in the nearest cache.
const PIECE: usize = 4096;

/// How weights are stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// Four bits and a scale for each block.
    FourBit {
        /// The code points.
        code: Code,
        /// Weights that share a scale.
        block: usize,
        /// Whether the scales are quantized again.
        double: bool,
        /// The type the codes are packed into.
        storage: Storage,
    },
    /// Eight bits and a scale for each row.
    Int8 {
        /// Activations above this are multiplied in f16 (`llm_int8_threshold`).
        threshold: f64,
    },
}

macro_rules! storages {
    ($($variant:ident $torch:literal $dtype:ident;)*) => {
        /// The type that four-bit codes are packed into (`bnb_4bit_quant_storage`): the bytes are the same, the shape is not.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Storage { $($variant,)* }

        impl Storage {
            /// Every type there is.
            pub const ALL: &[Storage] = &[$(Storage::$variant,)*];

            /// The name torch gives it.
            pub fn torch(self) -> &'static str {
                match self { $(Storage::$variant => $torch,)* }
            }

            fn dtype(self) -> Dtype {
                match self { $(Storage::$variant => Dtype::$dtype,)* }
            }
        }
    };
}

storages! {
    Uint8 "uint8" U8;
    Int8 "int8" I8;
    Float16 "float16" F16;
    Bfloat16 "bfloat16" BF16;
    Float32 "float32" F32;
    Float64 "float64" F64;
}

impl std::str::FromStr for Storage {
    type Err = Error;

    fn from_str(name: &str) -> Result<Storage> {
        Storage::ALL.iter().copied().find(|s| s.torch() == name).ok_or_else(|| {
            let all: Vec<&str> = Storage::ALL.iter().map(|s| s.torch()).collect();
            Error::usage(format!("\"{name}\" is no storage type; {} are", all.join(", ")))
        })
    }
}

/// What to write.
#[derive(Clone, Debug)]
pub struct Options {
    /// How weights are stored.
    pub form: Form,
    /// The type transformers computes in (`bnb_4bit_compute_dtype`).
    pub compute: Float,
    /// Modules that are left alone, in place of the heads that are by default.
    pub skip: Option<Vec<String>>,
    /// A linear weight that would stay in its float type is an error.
    pub no_fallback: bool,
    /// Weights that share a scale and cannot be held, so that they become zeros, are an error.
    pub no_degenerate: bool,
    /// The most bytes of a shard.
    pub shard_bytes: u64,
    /// Whether an existing folder is replaced.
    pub force: bool,
}

impl Options {
    /// The library's own defaults for a form.
    pub fn new(form: Form) -> Options {
        Options {
            form,
            compute: Float::F32,
            skip: None,
            no_fallback: false,
            no_degenerate: false,
            shard_bytes: 50_000_000_000,
            force: false,
        }
    }
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Tensors that were quantized.
    pub quantized: usize,
    /// Tensors that were kept as they are.
    pub kept: usize,
    /// Weights of all tensors.
    pub weights: u64,
    /// The tensors that were kept, by reason and type, those with most weights first.
    pub stayed: Vec<Stayed>,
    /// Bytes of all tensors before.
    pub bytes_before: u64,
    /// Bytes of all tensors after.
    pub bytes_after: u64,
    /// Tensors with weights that cannot be held and became zeros, in order.
    pub degenerate: Vec<Degenerate>,
}

/// A tensor of the input and the entries that it becomes.
#[derive(Debug)]
struct Job<'a> {
    stored: &'a Stored,
    float: Float,
    treatment: Treatment,
    /// The number of the first of its entries.
    first: usize,
    /// The mean of its scales, with double quantization.
    offset: Option<f32>,
}

impl Job<'_> {
    /// The shape as it is quantized.
    fn shape(&self) -> Vec<u64> {
        let mut shape = self.stored.shape().to_vec();
        if self.treatment == Treatment::Transposed {
            shape.reverse();
        }
        shape
    }

    fn elements(&self) -> usize {
        self.stored.elements() as usize
    }

    /// Decodes the elements from `from` on, in the order they are quantized in.
    fn decode(&self, from: usize, out: &mut [f32]) {
        let bytes = self.stored.bytes();
        let size = self.float.size();
        if self.treatment == Treatment::Transposed {
            let &[rows, cols] = self.stored.shape() else { return };
            let (rows, cols) = (rows as usize, cols as usize);
            for (out, i) in out.iter_mut().zip(from..) {
                let at = (i % rows * cols + i / rows) * size;
                self.float.decode(&bytes[at..at + size], std::slice::from_mut(out));
            }
        } else {
            decode(self.float, &bytes[from * size..(from + out.len()) * size], out);
        }
    }

    fn release(&self, from: usize, len: usize) {
        if self.treatment != Treatment::Transposed {
            self.stored.release(from * self.float.size()..(from + len) * self.float.size());
        }
    }

    fn not_finite(&self) -> Error {
        Error::input(format!("tensor {} holds values that are not finite numbers", self.stored.name()))
            .at(self.stored.path())
            .help("name its module with --modules-to-not-convert, or repair the checkpoint")
    }
}

/// The type of GGUF that stores such floats.
pub(super) fn stored_type(float: Float) -> TensorType {
    match float {
        Float::F32 => TensorType::F32,
        Float::F16 => TensorType::F16,
        Float::Bf16 => TensorType::BF16,
    }
}

/// Decodes little-endian floats, with the lanes of the machine.
pub(super) fn decode(float: Float, bytes: &[u8], out: &mut [f32]) {
    match codec(stored_type(float)) {
        Some(codec) => codec.decode(bytes, out),
        None => float.decode(bytes, out),
    }
}

/// A matrix that is quantized by default.
#[derive(Debug)]
pub(super) struct Matrix<'a> {
    pub(super) name: &'a str,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) float: Float,
    job: Job<'a>,
}

impl Matrix<'_> {
    /// Decodes a row.
    pub(super) fn decode(&self, row: usize, out: &mut [f32]) {
        self.job.decode(row * self.cols, out);
    }
}

/// The matrices of a checkpoint that are quantized by default.
pub(super) fn matrices<'a>(config: &Map<String, Value>, tensors: &'a [Stored]) -> Result<Vec<Matrix<'a>>> {
    let (jobs, _) = sort_out(tensors, &Layers::new(config, tensors, None)?);
    let matrix = |job: Job<'a>| match job.shape()[..] {
        [rows, cols] => {
            let (name, float) = (job.stored.name(), job.float);
            Some(Matrix { name, rows: rows as usize, cols: cols as usize, float, job })
        }
        _ => None,
    };
    Ok(jobs.into_iter().filter_map(matrix).collect())
}

/// Writes `output`, a checkpoint that transformers loads with bitsandbytes, from the checkpoint folder `input`.
///
/// The folder appears whole or not at all. `progress` is told of bytes of input as they are done with.
///
/// # Errors
/// A folder that is no checkpoint or quantized already, options that do not fit, values that are not finite, and what
/// reading and writing meets.
pub fn write(input: &Path, output: &Path, options: &Options, progress: &(dyn Fn(u64) + Sync)) -> Result<Report> {
    write_chosen(input, output, options, &|_| Ok(None), None, progress)
}

/// The same with codes and scales that were chosen for some matrices. `record` says how, in a file of its own
/// ([`chosen::RECORD`]).
///
/// # Errors
/// Those of [`write()`], and of `chosen`.
pub fn write_chosen(
    input: &Path,
    output: &Path,
    options: &Options,
    chosen: Chosen<'_>,
    record: Option<&Value>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Report> {
    OutputFolder::check(output, options.force, &[input])?;
    if let Form::FourBit { block, .. } = options.form
        && !BLOCK_LENGTHS.contains(&block)
    {
        return Err(Error::usage(format!("a block length of {block} is none of {BLOCK_LENGTHS:?}")));
    }
    let config = read_config(input)?;
    let mut skip = options.skip.clone();
    if let Some(skip) = &mut skip
        && config.get("tie_word_embeddings").and_then(Value::as_bool) == Some(true)
        && !skip.iter().any(|s| s == "lm_head")
    {
        // The head is the embedding itself, which stays in its float type.
        skip.push("lm_head".to_owned());
    }
    let mut tensors = safetensors::open_folder(input)?;
    tensors.sort_by_cached_key(|t| natural_key(t.name()));
    let layers = Layers::new(&config, &tensors, skip.as_deref())?;

    let (mut jobs, kept) = sort_out(&tensors, &layers);
    if jobs.is_empty() {
        return Err(layers.nothing(kept.iter().map(|(_, why)| why)).at(input));
    }
    if options.no_fallback {
        stayed::refuse_fallback(&kept)?;
    }
    if let Form::FourBit { double: true, .. } = options.form {
        jobs.par_iter_mut().try_for_each(|job| -> Result<()> {
            job.offset = Some(nested::mean(&scales(job, &options.form)?));
            Ok(())
        })?;
    }

    let mut entries = Vec::new();
    let mut kept_entries = Vec::with_capacity(kept.len());
    let mut next = jobs.iter_mut().peekable();
    for stored in &tensors {
        if let Some(job) = next.next_if(|job| std::ptr::eq(job.stored, stored)) {
            job.first = entries.len();
            entries.extend(entries_of(job, &options.form)?);
        } else {
            kept_entries.push(entries.len());
            entries.push(Entry {
                name: stored.name().to_owned(),
                dtype: stored.dtype(),
                shape: stored.shape().to_vec(),
            });
        }
    }

    let folder = OutputFolder::create(output, options.force, &[input])?;
    let weights = tensors.iter().map(Stored::elements).sum();
    let shards = Shards::create(folder.temporary(), &entries, options.shard_bytes, weights)?;
    for ((stored, _), &entry) in kept.iter().zip(&kept_entries) {
        copy(stored, entry, &shards, progress)?;
    }
    let four_bit = |job| write_four_bit(job, &options.form, chosen, &shards, progress);
    let lost: Vec<Lost> = match options.form {
        Form::FourBit { .. } => jobs.par_iter().map(four_bit).collect::<Result<_>>()?,
        Form::Int8 { .. } => {
            jobs.par_iter().map(|job| write_int8(job, chosen, &shards, progress)).collect::<Result<_>>()?
        }
    };
    let told = |(job, lost): (&Job<'_>, Lost)| {
        let (ty, unit, of) = match options.form {
            Form::FourBit { code, block, .. } => (code.name(), Unit::Block, job.elements().div_ceil(block) as u64),
            Form::Int8 { .. } => ("int8", Unit::Row, job.shape()[0]),
        };
        degenerate(job.stored, lost, (ty, unit, of))
    };
    let degenerate: Vec<Degenerate> = jobs.iter().zip(lost).filter_map(told).collect();
    refuse_degenerate(&degenerate, options.no_degenerate)?;
    write_config(folder.temporary(), config, options, skip)?;
    copy_other_files(input, folder.temporary())?;
    chosen::write_record(folder.temporary(), record)?;
    drop(shards);
    check_written(folder.temporary())?;
    folder.commit()?;
    Ok(Report {
        quantized: jobs.len(),
        kept: kept.len(),
        weights,
        stayed: stayed::gather(&kept),
        bytes_before: tensors.iter().map(|t| t.bytes().len() as u64).sum(),
        bytes_after: entries.iter().map(Entry::bytes).sum(),
        degenerate,
    })
}

/// What a tensor lost, if it did.
pub(super) fn degenerate(
    stored: &Stored,
    Lost { blocks, largest }: Lost,
    (ty, unit, of): (&'static str, Unit, u64),
) -> Option<Degenerate> {
    let tensor = stored.name().to_owned();
    (blocks > 0).then_some(Degenerate { tensor, ty, unit, blocks, of, largest })
}

/// Refuses tensors that lost weights, where that is asked for.
pub(super) fn refuse_degenerate(lost: &[Degenerate], refuse: bool) -> Result<()> {
    match lost.first() {
        Some(first) if refuse => Err(Error::input(first.to_string())
            .help("name its module with --modules-to-not-convert, choose another type, or leave --no-degenerate out")),
        _ => Ok(()),
    }
}

/// Tensors to quantize and tensors to keep, both in the order given.
fn sort_out<'a>(tensors: &'a [Stored], layers: &Layers) -> (Vec<Job<'a>>, Vec<(&'a Stored, Why)>) {
    let mut jobs = Vec::new();
    let mut kept = Vec::new();
    for stored in tensors {
        let float = Float::from_safetensors(stored.dtype());
        let treatment = layers.treatment(stored.name(), stored.shape());
        match (treatment, float) {
            (Treatment::Kept(why), _) => kept.push((stored, why)),
            (_, Some(float)) if stored.elements() > 0 => {
                jobs.push(Job { stored, float, treatment, first: 0, offset: None });
            }
            (_, Some(_)) => kept.push((stored, Why::Small)),
            (_, None) => kept.push((stored, Why::Type)),
        }
    }
    (jobs, kept)
}

/// The tensors that a weight becomes, in the order of the library's state.
fn entries_of(job: &Job<'_>, form: &Form) -> Result<Vec<Entry>> {
    let weight = job.stored.name();
    let shape = job.shape();
    let elements = job.stored.elements();
    let entry = |name: String, dtype, shape: &[u64]| Entry { name, dtype, shape: shape.to_vec() };
    let part = |suffix: &str| format!("{weight}.{suffix}");
    Ok(match form {
        Form::Int8 { .. } => {
            let module = weight.strip_suffix("weight").unwrap_or(weight);
            vec![
                entry(weight.to_owned(), Dtype::I8, &shape),
                entry(format!("{module}SCB"), Dtype::F32, &shape[..1]),
                entry(format!("{module}weight_format"), Dtype::U8, &[]),
            ]
        }
        Form::FourBit { code, block, storage, .. } => {
            let bytes = elements.div_ceil(2);
            let size = storage.dtype().bitsize() as u64 / 8;
            if !bytes.is_multiple_of(size) {
                let what =
                    format!("tensor {weight}: {bytes} bytes of codes do not fill elements of {}", storage.torch());
                return Err(Error::usage(what).help("choose --quant-storage uint8"));
            }
            let blocks = elements.div_ceil(*block as u64);
            let json = state::to_json(&state_of(job, *code, *block)).len() as u64;
            let mut entries = vec![entry(weight.to_owned(), storage.dtype(), &[bytes / size, 1])];
            let scales = if job.offset.is_some() { Dtype::U8 } else { Dtype::F32 };
            entries.push(entry(part("absmax"), scales, &[blocks]));
            entries.push(entry(part("quant_map"), Dtype::F32, &[16]));
            if job.offset.is_some() {
                entries.push(entry(part("nested_absmax"), Dtype::F32, &[blocks.div_ceil(NESTED_BLOCK as u64)]));
                entries.push(entry(part("nested_quant_map"), Dtype::F32, &[256]));
            }
            entries.push(entry(part(&QuantState::key(*code)), Dtype::U8, &[json]));
            entries
        }
    })
}

fn state_of(job: &Job<'_>, code: Code, block: usize) -> QuantState {
    QuantState { code, block, float: job.float, shape: job.shape(), offset: job.offset, nested_block: NESTED_BLOCK }
}

/// The scales of all blocks, without the codes.
fn scales(job: &Job<'_>, form: &Form) -> Result<Vec<f32>> {
    let &Form::FourBit { block, .. } = form else { return Ok(Vec::new()) };
    let mut all = vec![0.0; job.elements().div_ceil(block)];
    all.par_chunks_mut(CHUNK / block).enumerate().try_for_each(|(chunk, scales)| {
        let start = chunk * CHUNK;
        let end = (start + CHUNK).min(job.elements());
        let decoded;
        let (float, bytes) = if job.treatment == Treatment::Transposed {
            let mut values = vec![0.0; end - start];
            job.decode(start, &mut values);
            decoded = bytes_of(&values);
            (Float::F32, &*decoded)
        } else {
            (job.float, &job.stored.bytes()[start * job.float.size()..end * job.float.size()])
        };
        if !four_bit::stored_scales(float, bytes, block, scales) {
            return Err(job.not_finite());
        }
        job.release(start, CHUNK);
        Ok(())
    })?;
    Ok(all)
}

fn write_four_bit(
    job: &Job<'_>,
    form: &Form,
    chosen: Chosen<'_>,
    shards: &Shards,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Lost> {
    let &Form::FourBit { code, block, .. } = form else { return Ok(Lost::default()) };
    let elements = job.elements();
    let coded = if job.offset.is_none() && block == chosen::BLOCK { chosen(job.stored.name())? } else { None };
    if let Some(coded) = coded.filter(|c| c.codes.len() == elements) {
        let pairs: Vec<u8> = coded.codes.chunks(2).map(|c| c[0] << 4 | c.get(1).copied().unwrap_or(0)).collect();
        shards.write(job.first, 0, &pairs)?;
        shards.write(job.first + 1, 0, &bytes_of(&coded.scales))?;
        shards.write(job.first + 2, 0, &bytes_of(code.points()))?;
        progress((elements * job.float.size()) as u64);
        shards.write(job.first + 3, 0, state::to_json(&state_of(job, code, block)).as_bytes())?;
        // What was chosen was chosen by what comes out.
        return Ok(Lost::default());
    }
    let chunk = |start: usize, scales: &mut [f32]| -> Result<Lost> {
        let mut lost = Lost::default();
        let len = CHUNK.min(elements - start);
        let mut codes = vec![0; len.div_ceil(2)];
        let mut values = [0.0; PIECE];
        for from in (0..len).step_by(PIECE) {
            let values = &mut values[..PIECE.min(len - from)];
            job.decode(start + from, values);
            let scales = &mut scales[from / block..(from + values.len()).div_ceil(block)];
            if !four_bit::encode(code, values, block, &mut codes[from / 2..(from + values.len()).div_ceil(2)], scales) {
                return Err(job.not_finite());
            }
            for (values, scale) in values.chunks(block).zip(scales) {
                let most = if *scale <= four_bit::SMALLEST { largest(values) } else { 0.0 };
                if most > 0.0 {
                    lost.count(most);
                }
            }
        }
        shards.write(job.first, start as u64 / 2, &codes)?;
        job.release(start, len);
        progress((len * job.float.size()) as u64);
        Ok(lost)
    };
    let lost = if job.offset.is_some() {
        let mut scales = vec![0.0; elements.div_ceil(block)];
        let lost = scales
            .par_chunks_mut(CHUNK / block)
            .enumerate()
            .map(|(number, scales)| chunk(number * CHUNK, scales))
            .collect::<Result<Vec<Lost>>>()?
            .into_iter()
            .sum();
        let nested = Nested::encode(&scales);
        shards.write(job.first + 1, 0, &nested.codes)?;
        shards.write(job.first + 3, 0, &bytes_of(&nested.scales))?;
        shards.write(job.first + 4, 0, &bytes_of(&*nested::POINTS))?;
        lost
    } else {
        let part = |number: usize| {
            let start = number * CHUNK;
            let mut scales = vec![0.0; CHUNK.min(elements - start).div_ceil(block)];
            let lost = chunk(start, &mut scales)?;
            shards.write(job.first + 1, (start / block * 4) as u64, &bytes_of(&scales))?;
            Ok(lost)
        };
        (0..elements.div_ceil(CHUNK)).into_par_iter().map(part).collect::<Result<Vec<Lost>>>()?.into_iter().sum()
    };
    shards.write(job.first + 2, 0, &bytes_of(code.points()))?;
    let last = job.first + if job.offset.is_some() { 5 } else { 3 };
    shards.write(last, 0, state::to_json(&state_of(job, code, block)).as_bytes())?;
    Ok(lost)
}

fn write_int8(job: &Job<'_>, chosen: Chosen<'_>, shards: &Shards, progress: &(dyn Fn(u64) + Sync)) -> Result<Lost> {
    let shape = job.shape();
    let (rows, cols) = (shape[0] as usize, shape[1] as usize);
    if let Some(coded) = chosen(job.stored.name())?.filter(|c| c.codes.len() == rows * cols) {
        let codes: Vec<u8> = coded.codes.iter().map(|c| c.wrapping_sub(127)).collect();
        shards.write(job.first, 0, &codes)?;
        shards.write(job.first + 1, 0, &bytes_of(&coded.scales))?;
        progress((codes.len() * job.float.size()) as u64);
        shards.write(job.first + 2, 0, &[0])?;
        return Ok(Lost::default());
    }
    let chunk = (CHUNK / cols).max(1);
    let part = |number: usize| {
        let mut lost = Lost::default();
        let start = number * chunk;
        let count = chunk.min(rows - start);
        let mut codes = vec![0; count * cols];
        let mut scales = Vec::with_capacity(count);
        let mut values = vec![0.0; cols];
        for (row, codes) in (start..).zip(codes.chunks_mut(cols)) {
            job.decode(row * cols, &mut values);
            let most = largest(&values);
            let scale = int8::encode_row(&mut values, codes).ok_or_else(|| {
                job.not_finite().help("INT8 goes through f16, whose largest value is 65504; nf4 does not")
            })?;
            if scale == 0.0 && most > 0.0 {
                lost.count(most);
            }
            scales.push(scale);
        }
        shards.write(job.first, (start * cols) as u64, &codes)?;
        job.release(start * cols, codes.len());
        progress((codes.len() * job.float.size()) as u64);
        shards.write(job.first + 1, start as u64 * 4, &bytes_of(&scales))?;
        Ok(lost)
    };
    let lost = (0..rows.div_ceil(chunk)).into_par_iter().map(part).collect::<Result<Vec<Lost>>>()?.into_iter().sum();
    shards.write(job.first + 2, 0, &[0])?;
    Ok(lost)
}

/// Copies a tensor that stays as it is.
pub(super) fn copy(stored: &Stored, entry: usize, shards: &Shards, progress: &(dyn Fn(u64) + Sync)) -> Result<()> {
    const BYTES: usize = 4 << 20;
    stored.bytes().par_chunks(BYTES).enumerate().try_for_each(|(number, bytes)| {
        let at = number * BYTES;
        shards.write(entry, at as u64, bytes)?;
        stored.release(at..at + bytes.len());
        progress(bytes.len() as u64);
        Ok(())
    })
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A name split at its numbers, so that layer 2 comes before layer 10.
pub(super) fn natural_key(name: &str) -> Vec<(u64, String)> {
    let part = |part: &str| match part.parse() {
        Ok(number) => (number, String::new()),
        Err(_) => (u64::MAX, part.to_owned()),
    };
    name.split('.').map(part).collect()
}

/// Opens what was written and holds every part against the others, so that nothing broken ever gets its name.
pub(super) fn check_written(folder: &Path) -> Result<()> {
    let fault = |e: Error| e.about("the written folder is not sound");
    let bytes = convert::json::read_at_most(&folder.join("config.json"), convert::json::MAX_BYTES)?;
    let config: Map<String, Value> =
        serde_json::from_slice(&bytes).map_err(|e| Error::input("config.json is no JSON").caused_by(e))?;
    let tensors = safetensors::open_folder(folder).map_err(fault)?;
    convert::packed::unpack(&config, None, &tensors, convert::packed::Blocks::Decode).map_err(fault)?;
    Ok(())
}

pub(super) fn read_config(folder: &Path) -> Result<Map<String, Value>> {
    let path = folder.join("config.json");
    let bytes = convert::json::read_at_most(&path, convert::json::MAX_BYTES)
        .map_err(|e| e.help("the input is the folder of a Hugging Face checkpoint"))?;
    let config: Map<String, Value> =
        serde_json::from_slice(&bytes).map_err(|e| Error::input("is no JSON object").at(&path).caused_by(e))?;
    if let Some(quantized) = config.get("quantization_config") {
        let method = quantized.get("quant_method").and_then(Value::as_str).unwrap_or("a form unknown");
        return Err(Error::input(format!("the checkpoint is quantized already ({method})"))
            .at(&path)
            .help("start from the checkpoint in its float type"));
    }
    Ok(config)
}

fn write_config(
    folder: &Path,
    mut config: Map<String, Value>,
    options: &Options,
    skip: Option<Vec<String>>,
) -> Result<()> {
    let four = matches!(options.form, Form::FourBit { .. });
    // INT8 leaves what concerns four bits at the library's defaults.
    let (code, double, storage) = match options.form {
        Form::FourBit { code, double, storage, .. } => (code, double, storage),
        Form::Int8 { .. } => (Code::Fp4, false, Storage::Uint8),
    };
    let threshold = match options.form {
        Form::Int8 { threshold } => threshold,
        Form::FourBit { .. } => 6.0,
    };
    config.insert(
        "quantization_config".into(),
        json!({
            "_load_in_4bit": four,
            "_load_in_8bit": !four,
            "bnb_4bit_compute_dtype": options.compute.torch(),
            "bnb_4bit_quant_storage": storage.torch(),
            "bnb_4bit_quant_type": code.name(),
            "bnb_4bit_use_double_quant": double,
            "llm_int8_enable_fp32_cpu_offload": false,
            "llm_int8_has_fp16_weight": false,
            "llm_int8_skip_modules": skip,
            "llm_int8_threshold": threshold,
            "load_in_4bit": four,
            "load_in_8bit": !four,
            "quant_method": "bitsandbytes",
        }),
    );
    save_config(folder, config)
}

pub(super) fn save_config(folder: &Path, config: Map<String, Value>) -> Result<()> {
    let path = folder.join("config.json");
    let text = dumps(&Value::Object(config), Layout::SortedLines) + "\n";
    fs::write(&path, text).map_err(|e| Error::io(&path, "write", e))
}

/// Copies what lies beside the weights: tokenizer, templates, model card, licence, code.
pub(super) fn copy_other_files(input: &Path, output: &Path) -> Result<()> {
    const WEIGHTS: &[&str] = &[".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf"];
    let failed = |e| Error::io(input, "list", e);
    for entry in fs::read_dir(input).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let written = text == "config.json" || text.ends_with(".index.json") || text.starts_with('.');
        let path = entry.path();
        if !written && !WEIGHTS.iter().any(|suffix| text.ends_with(suffix)) && path.is_file() {
            fs::copy(&path, output.join(&name)).map_err(|e| Error::io(&path, "copy", e))?;
        }
    }
    Ok(())
}
