//! Affine quantization, r = s (q − z), in compressed-tensors' forms.
//!
//! A real number r is an integer q, less a zero point z, times a scale s. With zero points, s = (max − min) ÷ (qmax −
//! qmin) over a range that includes zero, and z = qmin − min ÷ s, rounded and clamped, so that zero is exact; without,
//! s = 2 max|r| ÷ (qmax − qmin) and z = 0. Then q = round(r ÷ s + z), clamped (Jacob et al., *Quantization and Training
//! of Neural Networks for Efficient Integer-Arithmetic-Only Inference*, 2018, equations 1 and 13; conventions of
//! compressed-tensors 0.20). The scale is rounded to the type it is stored in before anything is divided by it.

use std::path::Path;

use convert::hf::modules::is_single_expert;
use convert::packed::Float;
use convert::safetensors::{self, Dtype, Stored};
use gguf::atomic::OutputFolder;
use gguf::lost::{Degenerate, Lost, Unit, largest};
use gguf::{Error, Result};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::chosen::{self, Chosen};
use super::folder::{
    CHUNK, Report, check_written, copy, copy_other_files, decode, degenerate, natural_key, read_config,
    refuse_degenerate, save_config,
};
use super::layers::{Layers, Treatment, Why};
use super::stayed;
use convert::shards::{Entry, Shards};

/// Which weights share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// All of a tensor.
    Tensor,
    /// Those of a row.
    Row,
    /// This many neighbours in a row.
    Group(usize),
}

/// What to write.
#[derive(Clone, Debug)]
pub struct AffineOptions {
    /// 4 or 8.
    pub bits: u32,
    /// Which weights share a scale.
    pub granularity: Granularity,
    /// Whether zero is always the integer zero.
    pub symmetric: bool,
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

/// Scale and zero point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// The scale s.
    pub scale: f32,
    /// The zero point z.
    pub zero: i32,
}

impl AffineOptions {
    /// Whether weights lie packed in words (`pack-quantized`), the form in which vLLM's source takes integer weights
    /// beside float activations. It has no zero point for a whole tensor, and eight bits with zero points load in transformers
    /// without further ado where they lie plain (`int-quantized`).
    fn packed(&self) -> bool {
        self.bits == 4 || (self.symmetric && self.granularity != Granularity::Tensor)
    }
}

/// The smallest and largest integer of so many bits.
fn range(bits: u32) -> (i32, i32) {
    let half = 1 << (bits - 1);
    (-half, half - 1)
}

impl Affine {
    /// For values between `min` and `max`, the scale rounded to `float`.
    pub fn new(min: f32, max: f32, bits: u32, symmetric: bool, float: Float) -> Affine {
        let (low, high) = range(bits);
        let (min, max) = (min.min(0.0), max.max(0.0));
        let span = (high - low) as f32;
        let scale = match symmetric {
            true => max.max(-min) / (span / 2.0),
            // The difference of the largest numbers overflows.
            false if (max - min).is_infinite() => max / span - min / span,
            false => (max - min) / span,
        };
        let scale = float.round(scale);
        // Zeros alone, or less than the type of the scale can tell from them.
        let scale = if scale == 0.0 { 1.0 } else { scale };
        let zero = if symmetric { 0 } else { ((low as f32 - min / scale).round_ties_even() as i32).clamp(low, high) };
        Affine { scale, zero }
    }

    /// The integer of a real number.
    pub fn quantize(self, r: f32, bits: u32) -> i32 {
        let (low, high) = range(bits);
        ((r / self.scale + self.zero as f32).round_ties_even() as i32).clamp(low, high)
    }

    /// The real number of an integer.
    pub fn dequantize(self, q: i32) -> f32 {
        (q - self.zero) as f32 * self.scale
    }
}

struct Job<'a> {
    stored: &'a Stored,
    float: Float,
    rows: usize,
    cols: usize,
    first: usize,
}

impl Job<'_> {
    fn decode(&self, row: usize, out: &mut [f32]) {
        let size = self.float.size();
        let from = row * self.cols * size;
        decode(self.float, &self.stored.bytes()[from..from + out.len() * size], out);
    }

    /// Why values whose integers decode to an infinity are not taken.
    fn beyond(&self) -> Error {
        let (tensor, float) = (self.stored.name(), self.stored.dtype());
        Error::input(format!("tensor {tensor} holds weights so large that they would come back as an infinite {float}"))
            .at(self.stored.path())
            .help("name its module with --modules-to-not-convert")
    }

    /// The smallest and the largest, or an error where one is not finite.
    fn bounds(&self, values: &[f32]) -> Result<(f32, f32)> {
        if super::absmax::absmax(values).is_none() {
            let what = format!("tensor {} holds values that are not finite numbers", self.stored.name());
            return Err(Error::input(what)
                .at(self.stored.path())
                .help("name its module with --modules-to-not-convert"));
        }
        Ok(values.iter().fold((0.0, 0.0), |(low, high): (f32, f32), v| (low.min(*v), high.max(*v))))
    }
}

/// Writes `output`, a checkpoint in compressed-tensors' form, from the checkpoint folder `input`.
///
/// # Errors
/// As [`write`](super::write), and groups that do not divide a row.
pub fn write_affine(
    input: &Path,
    output: &Path,
    options: &AffineOptions,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Report> {
    write_affine_chosen(input, output, options, &|_| Ok(None), None, progress)
}

/// The same with codes and scales that were chosen for some matrices. `record` says how.
///
/// # Errors
/// Those of [`write_affine`], and of `chosen`.
pub fn write_affine_chosen(
    input: &Path,
    output: &Path,
    options: &AffineOptions,
    chosen: Chosen<'_>,
    record: Option<&Value>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Report> {
    OutputFolder::check(output, options.force, &[input])?;
    if ![4, 8].contains(&options.bits) {
        return Err(Error::usage(format!("affine quantization to {} bits is not known; 4 and 8 are", options.bits)));
    }
    if options.bits == 4 && options.granularity == Granularity::Tensor && !options.symmetric {
        return Err(Error::usage("pack-quantized has no zero point for a whole tensor")
            .help("choose --per row or group, or leave --zero-point out"));
    }
    let mut config = read_config(input)?;
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let mut tensors = safetensors::open_folder(input)?;
    tensors.sort_by_cached_key(|t| natural_key(t.name()));
    let layers = Layers::new(&config, &tensors, options.skip.as_deref())?;

    let (mut jobs, mut kept, mut kept_entries) = (Vec::new(), Vec::new(), Vec::new());
    let (mut entries, mut ignore) = (Vec::new(), Vec::new());
    for stored in &tensors {
        let float = Float::from_safetensors(stored.dtype());
        let expert = is_single_expert(stored.name(), stored.shape());
        let treatment = match layers.treatment(stored.name(), stored.shape()) {
            Treatment::Kept(Why::Experts) if expert && options.packed() && options.symmetric => Treatment::Quantized,
            Treatment::Kept(_) if expert => {
                return Err(Error::input(format!(
                    "tensor {} would stay {}: transformers (5.23) reads the experts of a compressed-tensors folder only \
                     where they are quantized, without zero points, by rows or groups",
                    stored.name(),
                    stored.dtype()
                ))
                .at(stored.path())
                .help("leave --zero-point, --per tensor and patterns that match experts out, or choose nf4, int8 or a GGUF type"));
            }
            other => other,
        };
        if treatment == Treatment::Transposed {
            let what =
                format!("the layers of \"{model_type}\" are no torch.nn.Linear, which compressed-tensors replaces");
            return Err(Error::input(what).at(input).help("choose nf4, fp4 or int8 for this model"));
        }
        if let (Treatment::Quantized, Some(float), &[rows, cols]) = (treatment, float, stored.shape()) {
            let job = Job { stored, float, rows: rows as usize, cols: cols as usize, first: entries.len() };
            entries.extend(entries_of(&job, options)?);
            jobs.push(job);
        } else {
            if let (Some(module), 2) = (stored.name().strip_suffix(".weight"), stored.shape().len()) {
                ignore.push(module.to_owned());
            }
            let why = if let Treatment::Kept(why) = treatment { why } else { Why::Type };
            kept.push((stored, why));
            kept_entries.push(entries.len());
            let (name, dtype, shape) = (stored.name().to_owned(), stored.dtype(), stored.shape().to_vec());
            entries.push(Entry { name, dtype, shape });
        }
    }
    if jobs.is_empty() {
        return Err(layers.nothing(kept.iter().map(|(_, why)| why)).at(input));
    }
    if options.no_fallback {
        stayed::refuse_fallback(&kept)?;
    }
    if !tensors.iter().any(|t| t.name() == "lm_head.weight") {
        ignore.push("lm_head".to_owned());
    }

    let folder = OutputFolder::create(output, options.force, &[input])?;
    let weights = tensors.iter().map(Stored::elements).sum();
    let shards = Shards::create(folder.temporary(), &entries, options.shard_bytes, weights)?;
    for ((stored, _), &entry) in kept.iter().zip(&kept_entries) {
        copy(stored, entry, &shards, progress)?;
    }
    let write = |job| write_job(job, options, chosen, &shards, progress);
    let lost: Vec<Lost> = jobs.par_iter().map(write).collect::<Result<_>>()?;
    let ty = if options.bits == 4 { "affine4" } else { "affine8" };
    let told = |(job, lost): (&Job<'_>, Lost)| {
        let (unit, of) = match options.granularity {
            Granularity::Group(_) => (Unit::Group, job.rows * groups(job, options.granularity)),
            _ => (Unit::Row, job.rows),
        };
        degenerate(job.stored, lost, (ty, unit, of as u64))
    };
    let degenerate: Vec<Degenerate> = jobs.iter().zip(lost).filter_map(told).collect();
    refuse_degenerate(&degenerate, options.no_degenerate)?;
    config.insert("quantization_config".into(), Value::Object(quantization(options, &ignore)));
    save_config(folder.temporary(), config)?;
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

/// Scales of a row; 0 where one serves the tensor.
fn groups(job: &Job<'_>, granularity: Granularity) -> usize {
    match granularity {
        Granularity::Tensor => 0,
        Granularity::Row => 1,
        Granularity::Group(size) => job.cols / size.max(1),
    }
}

fn entries_of(job: &Job<'_>, options: &AffineOptions) -> Result<Vec<Entry>> {
    if let Granularity::Group(size) = options.granularity
        && (size == 0 || !job.cols.is_multiple_of(size))
    {
        let what = format!("tensor {}: groups of {size} do not divide rows of {}", job.stored.name(), job.cols);
        return Err(Error::usage(what).help("choose another --group-size, or --per row"));
    }
    let (rows, cols) = (job.rows as u64, job.cols as u64);
    let groups = groups(job, options.granularity) as u64;
    let entry = |suffix: &str, dtype, shape: &[u64]| Entry {
        name: format!("{}{suffix}", job.stored.name()),
        dtype,
        shape: shape.to_vec(),
    };
    let scale_shape: &[u64] = if groups == 0 { &[1] } else { &[rows, groups] };
    let per_word = u64::from(32 / options.bits);
    let mut entries = match options.packed() {
        true => vec![entry("_packed", Dtype::I32, &[rows, cols.div_ceil(per_word)])],
        false => vec![entry("", Dtype::I8, &[rows, cols])],
    };
    entries.push(entry("_scale", job.stored.dtype(), scale_shape));
    if options.packed() {
        entries.push(entry("_shape", Dtype::I64, &[2]));
    }
    if !options.symmetric {
        entries.push(match options.packed() {
            true => entry("_zero_point", Dtype::I32, &[rows.div_ceil(per_word), groups]),
            false => entry("_zero_point", Dtype::I8, scale_shape),
        });
    }
    Ok(entries)
}

/// A word of signed numbers of so many bits, less their smallest value.
fn word(numbers: impl Iterator<Item = i32>, bits: u32) -> u32 {
    let (low, high) = range(bits);
    let mask = (high - low) as u32;
    numbers.zip((0..32).step_by(bits as usize)).fold(0, |word, (q, at)| word | ((q - low) as u32 & mask) << at)
}

fn write_job(
    job: &Job<'_>,
    options: &AffineOptions,
    chosen: Chosen<'_>,
    shards: &Shards,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Lost> {
    let (bits, packed) = (options.bits, options.packed());
    let per_word = 32 / bits as usize;
    let affine = |(low, high)| Affine::new(low, high, bits, options.symmetric, job.float);
    // Zero points of as many rows share a word.
    let chunk = (CHUNK / job.cols.max(1)).next_multiple_of(per_word).max(per_word);
    let chunks = job.rows.div_ceil(chunk);
    let groups = groups(job, options.granularity);
    let whole = if groups > 0 {
        None
    } else {
        let bounds = (0..chunks).into_par_iter().map(|number| {
            let start = number * chunk;
            let mut values = vec![0.0; chunk.min(job.rows - start) * job.cols];
            job.decode(start, &mut values);
            job.bounds(&values)
        });
        let bounds = bounds.try_reduce(|| (0.0, 0.0), |a, b| Ok((a.0.min(b.0), a.1.max(b.1))))?;
        Some(affine(bounds))
    };
    let zeros_at = job.first + if packed { 3 } else { 2 };
    let searched = options.symmetric && options.granularity == Granularity::Group(chosen::GROUP);
    let coded = if searched { chosen(job.stored.name())? } else { None };
    let coded = coded.filter(|c| c.codes.len() == job.rows * job.cols);
    let part = |number: usize| {
        let mut lost = Lost::default();
        let start = number * chunk;
        let rows = chunk.min(job.rows - start);
        let mut codes = Vec::with_capacity(rows * job.cols);
        let mut affines = Vec::with_capacity(rows * groups);
        let mut values = vec![0.0; job.cols];
        let mut row_codes = vec![0; job.cols];
        for row in start..start + rows {
            job.decode(row, &mut values);
            let size = job.cols / groups.max(1);
            if let Some(coded) = &coded {
                let low = range(bits).0;
                let chosen = &coded.codes[row * job.cols..(row + 1) * job.cols];
                row_codes.iter_mut().zip(chosen).for_each(|(to, &code)| *to = i32::from(code) + low);
                let scales = &coded.scales[row * groups..(row + 1) * groups];
                affines.extend(scales.iter().map(|&scale| Affine { scale, zero: 0 }));
            }
            for (values, codes) in values.chunks(size).zip(row_codes.chunks_mut(size)).filter(|_| coded.is_none()) {
                let affine = match whole {
                    Some(affine) => affine,
                    None => {
                        let found = affine(job.bounds(values)?);
                        affines.push(found);
                        found
                    }
                };
                let (mut ends, mut zeros) = ((i32::MAX, i32::MIN), true);
                for (code, value) in codes.iter_mut().zip(values) {
                    *code = affine.quantize(*value, bits);
                    ends = (ends.0.min(*code), ends.1.max(*code));
                    zeros &= *code == affine.zero;
                }
                if zeros && largest(values) > 0.0 {
                    lost.count(largest(values));
                }
                if [ends.0, ends.1].iter().any(|&code| !job.float.round(affine.dequantize(code)).is_finite()) {
                    return Err(job.beyond());
                }
            }
            if packed {
                codes.extend(row_codes.chunks(per_word).flat_map(|q| word(q.iter().copied(), bits).to_le_bytes()));
            } else {
                codes.extend(row_codes.iter().map(|q| *q as i8 as u8));
            }
        }
        let row_bytes = if packed { job.cols.div_ceil(per_word) * 4 } else { job.cols };
        shards.write(job.first, (start * row_bytes) as u64, &codes)?;
        let mut scales = Vec::new();
        affines.iter().for_each(|a| job.float.push(a.scale, &mut scales));
        shards.write(job.first + 1, (start * groups * job.float.size()) as u64, &scales)?;
        if !options.symmetric && whole.is_none() {
            if packed {
                let mut zeros = Vec::new();
                for rows in affines.chunks(per_word * groups) {
                    for group in 0..groups {
                        let column = rows.iter().skip(group).step_by(groups).map(|a| a.zero);
                        zeros.extend(word(column, bits).to_le_bytes());
                    }
                }
                shards.write(zeros_at, (start / per_word * groups * 4) as u64, &zeros)?;
            } else {
                let zeros: Vec<u8> = affines.iter().map(|a| a.zero as i8 as u8).collect();
                shards.write(zeros_at, (start * groups) as u64, &zeros)?;
            }
        }
        job.stored.release(start * job.cols * job.float.size()..(start + rows) * job.cols * job.float.size());
        progress((rows * job.cols * job.float.size()) as u64);
        Ok(lost)
    };
    let lost = (0..chunks).into_par_iter().map(part).collect::<Result<Vec<Lost>>>()?.into_iter().sum();
    if let Some(whole) = whole {
        let mut scale = Vec::new();
        job.float.push(whole.scale, &mut scale);
        shards.write(job.first + 1, 0, &scale)?;
        if !options.symmetric {
            shards.write(zeros_at, 0, &[whole.zero as i8 as u8])?;
        }
    }
    if packed {
        let shape: Vec<u8> = [job.rows, job.cols].iter().flat_map(|d| (*d as i64).to_le_bytes()).collect();
        shards.write(job.first + 2, 0, &shape)?;
    }
    Ok(lost)
}

fn quantization(options: &AffineOptions, ignore: &[String]) -> Map<String, Value> {
    let (strategy, size) = match options.granularity {
        Granularity::Tensor => ("tensor", None),
        Granularity::Row => ("channel", None),
        Granularity::Group(size) => ("group", Some(size)),
    };
    let format = if options.packed() { "pack-quantized" } else { "int-quantized" };
    let mut config = json!({
        "config_groups": {"group_0": {
            "format": format,
            "input_activations": null,
            "output_activations": null,
            "targets": ["Linear"],
            "weights": {
                "actorder": null,
                "block_structure": null,
                "dynamic": false,
                "group_size": size,
                "num_bits": options.bits,
                "observer": "minmax",
                "observer_kwargs": {},
                "strategy": strategy,
                "symmetric": options.symmetric,
                "type": "int",
            },
        }},
        "format": format,
        "ignore": ignore,
        "kv_cache_scheme": null,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    });
    if options.packed() && !options.symmetric {
        // The model that transformers (5.23) lays out before it reads a file has zero points of the unpacked shape,
        // because compressed-tensors (0.20) packs them only where there is data. Weights that are decoded as they are
        // read need no such model. Other readers pass over the entry.
        config["dequantize"] = true.into();
    }
    config.as_object().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_hold_numbers_from_the_lowest_bits_on() {
        assert_eq!(word([-8, -7, 7].into_iter(), 4), 0xf10);
        assert_eq!(word([-128, 127, 0].into_iter(), 8), 0x0080_ff00);
    }

    #[test]
    fn zero_is_exact_and_the_ends_are_near() {
        for (low, high) in [(-1.0, 1.0), (0.0, 3.0), (-0.1, 5.0), (0.2, 0.3), (-7.0, -2.0)] {
            for bits in [4, 8] {
                for symmetric in [true, false] {
                    let affine = Affine::new(low, high, bits, symmetric, Float::F32);
                    assert_eq!(affine.dequantize(affine.quantize(0.0, bits)), 0.0);
                    for r in [low, high, (low + high) / 2.0] {
                        let back = affine.dequantize(affine.quantize(r, bits));
                        assert!((back - r).abs() <= affine.scale, "{low} {high} {bits} {symmetric}: {r} {back}");
                    }
                }
            }
        }
        assert_eq!(Affine::new(0.0, 0.0, 8, true, Float::Bf16), Affine { scale: 1.0, zero: 0 });
    }
}
