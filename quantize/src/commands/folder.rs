//! `quantize --type nf4 INPUT_DIR OUTPUT_DIR`: a checkpoint folder out of a checkpoint folder.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use convert::packed::Float;
use convert::packed::bnb::Code;
use gguf::cli::{Common, Exit, Progress, bytes, parse_bytes, print_json};
use gguf::{Error, Result};
use quantize::bnb::{self, AffineOptions, Form, Granularity, Options, Report, Stayed, Storage, Why};
use serde_json::{Value, json};

/// The types that make folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Type {
    /// bitsandbytes, 4 bits: quantiles of the normal distribution
    Nf4,
    /// bitsandbytes, 4 bits: a small float
    Fp4,
    /// bitsandbytes, LLM.int8: a scale for each row
    Int8,
    /// compressed-tensors, 8 bits: r = s(q - z)
    Affine8,
    /// compressed-tensors, 4 bits: r = s(q - z)
    Affine4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Per {
    Tensor,
    Row,
    Group,
}

/// Quantize a checkpoint folder to one that transformers loads.
#[derive(Debug, Parser)]
#[command(name = "quantize", version, max_term_width = 110)]
pub struct Args {
    /// A checkpoint folder
    input: PathBuf,

    /// The folder to write
    #[arg(required_unless_present = "out")]
    output: Option<PathBuf>,

    /// The folder to write, as an option
    #[arg(short, long = "output", value_name = "OUTPUT", conflicts_with = "output")]
    out: Option<PathBuf>,

    /// The type of linear weights
    #[arg(short, long = "type", value_enum, ignore_case = true)]
    ty: Type,

    /// Weights that share a scale (nf4, fp4)
    #[arg(long, value_name = "N", default_value_t = 64)]
    block_size: usize,

    /// Quantize the scales as well, in blocks of 256 (nf4, fp4)
    #[arg(long)]
    double_quant: bool,

    /// The type that codes are packed into: uint8, int8, float16, bfloat16, float32 or float64 (nf4, fp4)
    #[arg(long, value_name = "TYPE", default_value = "uint8")]
    quant_storage: String,

    /// The type transformers computes in: float32, float16 or bfloat16 (nf4, fp4)
    #[arg(long, value_name = "TYPE", default_value = "float32")]
    compute_dtype: String,

    /// Activations above this are multiplied in f16 (int8)
    #[arg(long, value_name = "X", default_value_t = 6.0)]
    int8_threshold: f64,

    /// Which weights share a scale (affine8, affine4)
    #[arg(long, value_enum, default_value = "group")]
    per: Per,

    /// Weights of a group (affine8, affine4)
    #[arg(long, value_name = "N", default_value_t = 128)]
    group_size: usize,

    /// Use zero points instead of a symmetric range (affine8, affine4); transformers decodes affine4 as it loads it then
    #[arg(long)]
    zero_point: bool,

    /// Modules to leave alone instead of the output head: regular expressions from the start, or endings
    #[arg(long, value_name = "MODULE,...", value_delimiter = ',')]
    modules_to_not_convert: Option<Vec<String>>,

    /// Refuse a model whose experts, or other linear weights, would stay in their float type
    #[arg(long)]
    no_fallback: bool,

    /// The most bytes of a file of weights
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "50000000000")]
    max_shard_size: u64,

    /// Threads that encode [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Replace an output folder that exists
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    common: Common,
}

/// The arguments, where they ask for one of these types.
pub fn requested(args: &[OsString]) -> Option<Args> {
    let text: Vec<&str> = args.iter().filter_map(|a| a.to_str()).collect();
    let is_folder = |name: &str| Type::from_str(name, true).is_ok();
    let asked = text.windows(2).any(|w| ["--type", "-t"].contains(&w[0]) && is_folder(w[1]))
        || text.iter().any(|a| a.strip_prefix("--type=").or(a.strip_prefix("-t")).is_some_and(is_folder));
    asked.then(|| Args::parse_from(args))
}

/// Does what the arguments say.
pub fn run(args: &Args) -> Result<Exit> {
    let begun = Instant::now();
    if let Some(threads) = args.threads {
        let built = rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global();
        built.map_err(|e| Error::usage("cannot start the threads").caused_by(e))?;
    }
    let input = &args.input;
    let Some(output) = args.output.as_deref().or(args.out.as_deref()) else {
        return Err(Error::usage("no output folder is named").help("give it with -o FOLDER"));
    };
    if !input.is_dir() {
        return Err(Error::input("is not a checkpoint folder").at(input).help("these types are made from a folder"));
    }
    let total = convert::safetensors::open_folder(input)?.iter().map(|t| t.bytes().len() as u64).sum();
    let progress = Progress::bytes(args.common.progress, args.common.quiet, "quantizing", total);
    let skip = args.modules_to_not_convert.clone();
    let (no_fallback, shard_bytes, force) = (args.no_fallback, args.max_shard_size, args.force);
    let done = |bytes: u64| progress.add(bytes);
    let four_bit = |code| -> Result<Form> {
        let (block, double) = (args.block_size, args.double_quant);
        Ok(Form::FourBit { code, block, double, storage: args.quant_storage.parse::<Storage>()? })
    };
    let affine = |bits| AffineOptions {
        bits,
        granularity: match args.per {
            Per::Tensor => Granularity::Tensor,
            Per::Row => Granularity::Row,
            Per::Group => Granularity::Group(args.group_size),
        },
        symmetric: !args.zero_point,
        skip: skip.clone(),
        no_fallback,
        shard_bytes,
        force,
    };
    let form = match args.ty {
        Type::Nf4 => Some(four_bit(Code::Nf4)?),
        Type::Fp4 => Some(four_bit(Code::Fp4)?),
        Type::Int8 => Some(Form::Int8 { threshold: args.int8_threshold }),
        Type::Affine8 | Type::Affine4 => None,
    };
    let report = if let Some(form) = form {
        let compute = Float::from_torch(&args.compute_dtype).ok_or_else(|| {
            Error::usage(format!("\"{}\" is none of float32, float16 and bfloat16", args.compute_dtype))
        })?;
        let options = Options { form, compute, skip, no_fallback, shard_bytes, force };
        bnb::write(input, output, &options, &done)?
    } else {
        let bits = if args.ty == Type::Affine8 { 8 } else { 4 };
        bnb::write_affine(input, output, &affine(bits), &done)?
    };
    progress.finish();
    let seconds = begun.elapsed().as_secs_f64();
    if args.common.json {
        print_json(&json!({
            "input": gguf::quote::json(input),
            "output": gguf::quote::json(output),
            "quantized": report.quantized,
            "kept": report.kept,
            "weights": report.weights,
            "stayed": stayed_json(&report),
            "fallback": fallback_json(&report, args.ty),
            "bytes_before": report.bytes_before,
            "bytes_after": report.bytes_after,
            "seconds": seconds,
        }))?;
    }
    if !args.common.quiet {
        eprintln!(
            "{}: {} weights quantized, {} tensors kept, {} from {} in {seconds:.1} s",
            gguf::quote::path(output),
            report.quantized,
            report.kept,
            bytes(report.bytes_after),
            bytes(report.bytes_before),
        );
        eprint!("{}{}", stayed_line(&report), fallback_lines(&report, args.ty));
    }
    Ok(Exit::Done)
}

impl Type {
    /// The name as it is given.
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
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
    let mut types: Vec<&str> = report.stayed.iter().map(|kind| kind.dtype.name()).collect();
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
fn fallback_lines(report: &Report, wanted: Type) -> String {
    let (tensors, _, share) = sums(fallbacks(report).map(|f| f.0), report);
    if tensors == 0 {
        return "  0 % of the weights fell back to another type\n".to_owned();
    }
    let mut out = format!("  {:.1} % of the weights ({tensors} tensors) fell back to another type:\n", 100.0 * share);
    for (kind, reason) in fallbacks(report) {
        out.push_str(&format!("    {} × {reason} ({}): {}\n", kind.tensors, wanted.name(), kind.dtype.name()));
    }
    out
}

fn stayed_json(report: &Report) -> Value {
    let (tensors, weights, share) = sums(report.stayed.iter(), report);
    let kinds = report.stayed.iter().map(|kind| {
        json!({"what": kind.why.what(), "type": kind.dtype.name(), "tensors": kind.tensors, "weights": kind.weights,
            "names": kind.names})
    });
    json!({"tensors": tensors, "weights": weights, "share": share, "kinds": kinds.collect::<Vec<_>>()})
}

fn fallback_json(report: &Report, wanted: Type) -> Value {
    let (tensors, weights, share) = sums(fallbacks(report).map(|f| f.0), report);
    let kinds = fallbacks(report).map(|(kind, reason)| {
        json!({"wanted": wanted.name(), "got": kind.dtype.name(), "reason": reason, "tensors": kind.tensors})
    });
    json!({"tensors": tensors, "weights": weights, "share": share, "kinds": kinds.collect::<Vec<_>>()})
}
