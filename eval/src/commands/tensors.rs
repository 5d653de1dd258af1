//! `evaluate tensors`.

use std::path::PathBuf;

use eval::encoded::{Encoded, Precision};
use eval::tensors::{ErrorSums, TensorError, counterpart};
use gguf::cli::{Align, Common, Exit, Progress, Table, parse_bytes, print};
use gguf::{Result, Source, TensorInfo, quote};
use quantize::plan::Importance;
use rayon::prelude::*;
use serde_json::json;

use super::{files_of, open_importance};

/// Measure what a type did to each tensor's weights, largest error first
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  evaluate tensors tiny-llama Tiny-Llama-4.2M-Q4_K_M.gguf
  evaluate tensors tiny-llama --type q4_k_m,nf4 --imatrix imatrix.gguf --top 10 --json")]
pub struct Args {
    /// The base: a GGUF file or a checkpoint folder
    #[arg(value_name = "BASE")]
    base: PathBuf,

    /// A model to compare with it
    #[arg(value_name = "MODEL", required_unless_present = "types")]
    model: Option<PathBuf>,

    /// Types to encode the base's own weights to, in memory, separated by commas or given again
    #[arg(long = "type", short = 't', alias = "types", value_delimiter = ',', value_name = "TYPE")]
    types: Vec<Precision>,

    /// An importance matrix: for the types that are encoded, and to weigh the errors with
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,

    /// Only so many tensors of each model
    #[arg(long, value_name = "N")]
    top: Option<usize>,

    /// Memory for weights that are compared or encoded together
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes, value_name = "SIZE")]
    max_memory: u64,
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<Exit> {
    let options = convert::Options::default();
    let base = convert::open(&convert::location::find(&args.base, common)?, &options)?;
    let importance = args.imatrix.as_deref().map(open_importance).transpose()?;
    let elements: u64 = base.tensors().iter().map(TensorInfo::elements).sum();
    let jobs = args.types.len() as u64 + u64::from(args.model.is_some());
    let bar = Progress::tokens(common.progress, common.quiet, "weights", elements * jobs);
    let mut results: Vec<(String, Vec<TensorError>)> = Vec::new();
    if let Some(path) = &args.model {
        let other = convert::open(&convert::location::find(path, common)?, &options)?;
        let errors =
            between(&base, &other, importance.as_ref(), args.max_memory, |n| bar.add(n)).map_err(|e| e.at(path))?;
        results.push((quote::path(path), errors));
    }
    for &precision in &args.types {
        let encoded = Encoded::new(&base, precision, importance.as_ref()).map_err(|e| e.at(&args.base))?;
        encoded.measure(args.max_memory, |n| bar.add(n)).map_err(|e| e.at(&args.base))?;
        results.push((precision.to_string(), encoded.errors()));
    }
    bar.finish();
    for (_, errors) in &mut results {
        // Most harm first; tensors without any error last.
        errors.sort_by(|a, b| a.snr_db.total_cmp(&b.snr_db));
        errors.truncate(args.top.unwrap_or(usize::MAX));
    }
    if common.wants_document() {
        let models: Vec<_> = results.iter().map(|(name, tensors)| json!({"name": name, "tensors": tensors})).collect();
        let inputs = files_of([&args.base].into_iter().chain(&args.model), &args.imatrix);
        let fields = json!({"base": quote::json(&args.base), "models": models});
        super::print_document(common, "tensors", &inputs, &[], fields)?;
    } else {
        for (name, errors) in &results {
            print(&format!("{name}\n{}\n", table(errors)))?;
        }
    }
    Ok(Exit::Done)
}

fn table(errors: &[TensorError]) -> String {
    let weighted = errors.iter().any(|e| e.weighted_rmse.is_some());
    let mut heads = vec![
        ("tensor", Align::Left),
        ("type", Align::Left),
        ("SNR, dB", Align::Right),
        ("RMSE", Align::Right),
        ("relative", Align::Right),
        ("max", Align::Right),
        ("cosine", Align::Right),
    ];
    if weighted {
        heads.push(("weighted RMSE", Align::Right));
    }
    let mut table = Table::new(&heads);
    for e in errors {
        let mut cells = vec![
            e.name.clone(),
            e.ty.clone(),
            if e.snr_db.is_finite() { format!("{:.2}", e.snr_db) } else { "–".into() },
            format!("{:.3e}", e.rmse),
            format!("{:.5}", e.relative),
            format!("{:.3e}", e.max),
            format!("{:.6}", e.cosine),
        ];
        if weighted {
            cells.push(e.weighted_rmse.map_or("–".into(), |v| format!("{v:.3e}")));
        }
        table.row(cells);
    }
    table.render()
}

/// The most weights that a thread compares at once.
const MOST_AT_ONCE: u64 = 1 << 17;

/// Bytes of a weight that is compared: stored and as f32 on both sides.
const BYTES_A_WEIGHT: u64 = 16;

/// The errors of the tensors of another model, of all that both have in different bytes or types.
fn between(
    base: &dyn Source,
    other: &dyn Source,
    importance: Option<&Importance>,
    memory: u64,
    mut progress: impl FnMut(u64),
) -> Result<Vec<TensorError>> {
    let mut errors = Vec::new();
    let weights_at_once = (memory / (BYTES_A_WEIGHT * rayon::current_num_threads() as u64)).min(MOST_AT_ONCE);
    for (i, ours) in base.tensors().iter().enumerate() {
        let j = counterpart(ours, other)?;
        let theirs = &other.tensors()[j];
        let cols = ours.shape().row_len();
        let weights = importance.and_then(|m| m.matrix.importance(ours.name())).filter(|w| w.len() as u64 == cols);
        let step = (weights_at_once / cols.max(1)).max(1);
        let parts: Vec<u64> = (0..ours.rows()).step_by(step as usize).collect();
        let sums = parts
            .par_iter()
            .map(|&from| {
                let rows = from..(from + step).min(ours.rows());
                let read = |source: &dyn Source, tensor: usize| -> Result<Vec<f32>> {
                    let info = &source.tensors()[tensor];
                    let mut out = vec![0.0; ((rows.end - rows.start) * cols) as usize];
                    quantize::decode_rows(info.ty(), &source.rows(tensor, rows.clone())?, &mut out)
                        .map_err(|e| e.in_tensor(info.name()))?;
                    source.release(tensor, rows.clone());
                    Ok(out)
                };
                let mut sums = ErrorSums::default();
                sums.add(&read(base, i)?, &read(other, j)?, weights.as_deref());
                Ok(sums)
            })
            .collect::<Result<Vec<_>>>()?;
        let mut all = ErrorSums::default();
        sums.iter().for_each(|s| all.merge(s));
        if ours.ty() != theirs.ty() || !all.is_equal() {
            errors.push(all.finish(ours.name(), theirs.ty().name()));
        }
        progress(ours.elements());
    }
    Ok(errors)
}
