//! The types that make a folder out of a checkpoint folder: bitsandbytes' and compressed-tensors'.

use std::path::Path;

use clap::ValueEnum;
use convert::packed::Float;
use convert::packed::bnb::Code;
use gguf::cli::{Common, Progress, bytes, parse_bytes};
use gguf::lost::Degenerate;
use gguf::{Result, quote};
use quantize::bnb::{self, AffineOptions, Form, Granularity, Options, Report, Stayed, Storage, Why};
use serde_json::{Value, json};

/// The types that make folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderType {
    Nf4,
    Fp4,
    Int8,
    Affine8,
    Affine4,
}

impl FolderType {
    /// Every one, in the order of their list.
    pub const ALL: [FolderType; 5] =
        [FolderType::Nf4, FolderType::Fp4, FolderType::Int8, FolderType::Affine8, FolderType::Affine4];

    /// The name as it is given.
    pub fn name(self) -> &'static str {
        match self {
            FolderType::Nf4 => "nf4",
            FolderType::Fp4 => "fp4",
            FolderType::Int8 => "int8",
            FolderType::Affine8 => "affine8",
            FolderType::Affine4 => "affine4",
        }
    }

    /// What it is, in a line.
    pub fn what(self) -> &'static str {
        match self {
            FolderType::Nf4 => "folder for transformers: bitsandbytes, 4 bits, quantiles of the normal distribution",
            FolderType::Fp4 => "folder for transformers: bitsandbytes, 4 bits, a small float",
            FolderType::Int8 => "folder for transformers: bitsandbytes, LLM.int8, a scale for each row",
            FolderType::Affine8 => "folder for transformers: compressed-tensors, 8 bits, r = s(q - z)",
            FolderType::Affine4 => "folder for transformers: compressed-tensors, 4 bits, r = s(q - z)",
        }
    }

    /// The bits of the forms of compressed-tensors.
    fn affine_bits(self) -> Option<u32> {
        match self {
            FolderType::Affine8 => Some(8),
            FolderType::Affine4 => Some(4),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Per {
    Tensor,
    Row,
    Group,
}

/// Options of the types that make folders. None has a default here: one that is given although no type needs it is an error.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Folders for transformers (nf4, fp4, int8, affine8, affine4)")]
pub struct FolderOptions {
    /// Weights that share a scale (nf4, fp4) [default: 64]
    #[arg(long, value_name = "N")]
    block_size: Option<usize>,

    /// Quantize the scales as well, in blocks of 256 (nf4, fp4)
    #[arg(long)]
    double_quant: bool,

    /// The type that codes are packed into: uint8, int8, float16, bfloat16, float32 or float64 (nf4, fp4)
    /// [default: uint8]
    #[arg(long, value_name = "TYPE")]
    quant_storage: Option<Storage>,

    /// The type transformers computes in: float32, float16 or bfloat16 (nf4, fp4) [default: float32]
    #[arg(long, value_name = "TYPE", value_parser = compute_type)]
    compute_dtype: Option<Float>,

    /// Activations above this are multiplied in f16 (int8) [default: 6]
    #[arg(long, value_name = "X", value_parser = gguf::cli::parse_number)]
    int8_threshold: Option<f64>,

    /// Which weights share a scale (affine8, affine4) [default: group]
    #[arg(long, value_enum)]
    per: Option<Per>,

    /// Weights of a group (affine8, affine4) [default: 128]
    #[arg(long, value_name = "N")]
    group_size: Option<usize>,

    /// Use zero points instead of a symmetric range (affine8, affine4); transformers decodes affine4 as it loads it then
    #[arg(long)]
    zero_point: bool,

    /// Modules to leave alone instead of the output head: regular expressions from the start, or endings
    #[arg(long, value_name = "MODULE,...", value_delimiter = ',')]
    modules_to_not_convert: Option<Vec<String>>,

    /// The most bytes of a file of weights [default: 50000000000]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    max_shard_size: Option<u64>,
}

fn compute_type(name: &str) -> Result<Float, String> {
    Float::from_torch(name).ok_or_else(|| format!("\"{name}\" is none of float32, float16 and bfloat16"))
}

impl FolderOptions {
    /// The first option that is given, by name.
    pub fn given(&self) -> Option<&'static str> {
        let all = [
            (self.block_size.is_some(), "--block-size"),
            (self.double_quant, "--double-quant"),
            (self.quant_storage.is_some(), "--quant-storage"),
            (self.compute_dtype.is_some(), "--compute-dtype"),
            (self.int8_threshold.is_some(), "--int8-threshold"),
            (self.per.is_some(), "--per"),
            (self.group_size.is_some(), "--group-size"),
            (self.zero_point, "--zero-point"),
            (self.modules_to_not_convert.is_some(), "--modules-to-not-convert"),
            (self.max_shard_size.is_some(), "--max-shard-size"),
        ];
        all.into_iter().find(|(given, _)| *given).map(|(_, name)| name)
    }

    /// Writes a folder of this type.
    pub fn write(&self, input: &Path, output: &Path, ty: FolderType, run: Run<'_>) -> Result<Report> {
        let total = convert::safetensors::open_folder(input)?.iter().map(|t| t.bytes().len() as u64).sum();
        let progress = Progress::bytes(run.common.progress, run.common.quiet, "quantizing", total);
        let done = |bytes: u64| progress.add(bytes);
        let Run { no_fallback, no_degenerate, force, .. } = run;
        let skip = self.modules_to_not_convert.clone();
        let shard_bytes = self.max_shard_size.unwrap_or(convert::shards::SHARD_BYTES);
        let four_bit = |code| Form::FourBit {
            code,
            block: self.block_size.unwrap_or(64),
            double: self.double_quant,
            storage: self.quant_storage.unwrap_or(Storage::Uint8),
        };
        let report = if let Some(bits) = ty.affine_bits() {
            let granularity = match self.per.unwrap_or(Per::Group) {
                Per::Tensor => Granularity::Tensor,
                Per::Row => Granularity::Row,
                Per::Group => Granularity::Group(self.group_size.unwrap_or(128)),
            };
            let symmetric = !self.zero_point;
            let options =
                AffineOptions { bits, granularity, symmetric, skip, no_fallback, no_degenerate, shard_bytes, force };
            bnb::write_affine(input, output, &options, &done)?
        } else {
            let form = match ty {
                FolderType::Nf4 => four_bit(Code::Nf4),
                FolderType::Fp4 => four_bit(Code::Fp4),
                _ => Form::Int8 { threshold: self.int8_threshold.unwrap_or(6.0) },
            };
            let compute = self.compute_dtype.unwrap_or(Float::F32);
            bnb::write(
                input,
                output,
                &Options { form, compute, skip, no_fallback, no_degenerate, shard_bytes, force },
                &done,
            )?
        };
        progress.finish();
        Ok(report)
    }
}

/// What concerns every output of a run.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    pub no_fallback: bool,
    pub no_degenerate: bool,
    pub force: bool,
    pub common: &'a Common,
}

/// A folder that was written.
pub struct Written<'a> {
    pub input: &'a Path,
    pub output: &'a Path,
    pub ty: FolderType,
    pub report: Report,
    pub seconds: f64,
}

impl Written<'_> {
    pub fn json(&self) -> Value {
        let report = &self.report;
        json!({
            "type": self.ty.name(),
            "path": quote::json(self.output),
            // Names of the first version, in which a folder was a run of its own.
            "input": quote::json(self.input),
            "output": quote::json(self.output),
            "quantized": report.quantized,
            "kept": report.kept,
            "weights": report.weights,
            "stayed": stayed_json(report),
            "fallback": fallback_json(report, self.ty),
            "degenerate": report.degenerate.iter().map(Degenerate::json).collect::<Vec<_>>(),
            "bytes_before": report.bytes_before,
            "bytes_after": report.bytes_after,
            "seconds": self.seconds,
        })
    }

    pub fn text(&self) -> String {
        format!(
            "{}: {} weights quantized, {} tensors kept, {} from {} in {:.1} s\n{}{}",
            quote::path(self.output),
            self.report.quantized,
            self.report.kept,
            bytes(self.report.bytes_after),
            bytes(self.report.bytes_before),
            self.seconds,
            stayed_line(&self.report),
            fallback_lines(&self.report, self.ty)
        )
    }
}

/// Tensors, weights and their share of the model.
fn sums<'a>(kinds: impl Iterator<Item = &'a Stayed>, report: &Report) -> (usize, u64, f64) {
    let (tensors, weights) = kinds.fold((0, 0), |sum, kind| (sum.0 + kind.tensors, sum.1 + kind.weights));
    (tensors, weights, weights as f64 / report.weights.max(1) as f64)
}

/// What was to be quantized and is not.
fn fallbacks(report: &Report) -> impl Iterator<Item = (&Stayed, &'static str)> {
    report.stayed.iter().filter_map(|kind| Some((kind, kind.why.fallback()?)))
}

/// What share of the weights stays in which types, and what that is.
fn stayed_line(report: &Report) -> String {
    let (tensors, _, share) = sums(report.stayed.iter(), report);
    if tensors == 0 {
        return String::new();
    }
    let mut types: Vec<String> = report.stayed.iter().map(|kind| kind.dtype.to_string()).collect();
    types.sort_unstable();
    types.dedup();
    let kinds: Vec<String> = report
        .stayed
        .iter()
        .map(|kind| {
            let what = format!("{} × {}", kind.tensors, kind.why.what());
            match kind.names.as_slice() {
                _ if kind.why == Why::Small => what,
                [] => what,
                [name] => format!("{what} ({name})"),
                [name, ..] => format!("{what} ({name}, …)"),
            }
        })
        .collect();
    format!(
        "  {:.1} % of the weights ({tensors} tensors) stay {}: {}\n",
        100.0 * share,
        types.join(" and "),
        kinds.join(", ")
    )
}

/// What share of the weights did not get the type that was asked for.
fn fallback_lines(report: &Report, wanted: FolderType) -> String {
    let (tensors, _, share) = sums(fallbacks(report).map(|f| f.0), report);
    if tensors == 0 {
        return "  0 % of the weights fell back to another type\n".to_owned();
    }
    let mut out = format!("  {:.1} % of the weights ({tensors} tensors) fell back to another type:\n", 100.0 * share);
    for (kind, reason) in fallbacks(report) {
        out.push_str(&format!("    {} × {reason} ({}): {}\n", kind.tensors, wanted.name(), kind.dtype));
    }
    out
}

fn stayed_json(report: &Report) -> Value {
    let (tensors, weights, share) = sums(report.stayed.iter(), report);
    let kinds = report.stayed.iter().map(|kind| {
        json!({"what": kind.why.what(), "type": kind.dtype, "tensors": kind.tensors, "weights": kind.weights,
            "names": kind.names})
    });
    json!({"tensors": tensors, "weights": weights, "share": share, "kinds": kinds.collect::<Vec<_>>()})
}

fn fallback_json(report: &Report, wanted: FolderType) -> Value {
    let (tensors, weights, share) = sums(fallbacks(report).map(|f| f.0), report);
    let kinds = fallbacks(report).map(
        |(kind, reason)| json!({"wanted": wanted.name(), "got": kind.dtype, "reason": reason, "tensors": kind.tensors}),
    );
    json!({"tensors": tensors, "weights": weights, "share": share, "kinds": kinds.collect::<Vec<_>>()})
}
