//! How fast each format is on each path: `cargo bench -p downcast-quantize --bench codec -- [TYPE…] [--input FILE] [--rows N]`.
//!
//! Rates are GB/s of f32 (read by the encoder, written by the decoder) for one thread, by the thread's CPU time, best of
//! a few runs; `×` is the ratio to the one-lane path, which is the scalar program. The weights are random with heavy
//! tails and rounded to BF16, or come from a file of little-endian f32. That all paths give the same bytes is checked
//! on the way.

use std::process::ExitCode;

use gguf::TensorType;
use quantize::{Codec, FORMATS, Format, ImportanceUse, SimdPath};

const COLS: usize = 2048;

fn main() -> ExitCode {
    let mut types: Vec<TensorType> = Vec::new();
    let mut rows = 256;
    let mut input = None;
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--input" => input = args.next(),
            "--rows" => rows = args.next().and_then(|n| n.parse().ok()).unwrap_or(rows),
            name => match name.parse() {
                Ok(ty) => types.push(ty),
                Err(e) => {
                    eprintln!("{e}");
                    return ExitCode::from(2);
                }
            },
        }
    }
    let mut weights = match input {
        Some(path) => match std::fs::read(&path) {
            Ok(bytes) => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Err(e) => {
                eprintln!("{path}: {e}");
                return ExitCode::from(3);
            }
        },
        None => heavy_tailed(rows * COLS),
    };
    weights.truncate(weights.len() / COLS * COLS);
    let importance: Vec<f32> = (0..COLS).map(|i| 0.1 + (i * 7 % 13) as f32).collect();

    let (paths, missing): (Vec<_>, Vec<_>) = SimdPath::ALL.into_iter().partition(|path| path.is_available());
    for path in missing {
        println!("skipped: this machine has no {path}");
    }
    println!("{} weights in rows of {COLS}; GB/s of f32, one thread", weights.len());
    print!("{:<18}", "");
    for path in &paths {
        print!("{:>17}", path.name());
    }
    println!("  FNV-1a of the bytes");

    for format in FORMATS {
        if !types.is_empty() && !types.contains(&format.ty()) {
            continue;
        }
        if format.importance() != ImportanceUse::Required {
            encode(format, &paths, &weights, None);
        }
        if format.importance() != ImportanceUse::Ignored {
            encode(format, &paths, &weights, Some(&importance));
        }
        decode(format, &paths, &weights, &importance);
    }
    ExitCode::SUCCESS
}

fn encode(format: &Format, paths: &[SimdPath], weights: &[f32], importance: Option<&[f32]>) {
    let size = format.ty().bytes_for(weights.len() as u64).expect("whole rows") as usize;
    let mut first: Option<Vec<u8>> = None;
    let rates: Vec<f64> = paths
        .iter()
        .map(|&path| {
            let mut bytes = vec![0; size];
            let seconds = best(|| format.encode_on(path, weights, COLS, importance, &mut bytes));
            assert!(first.get_or_insert_with(|| bytes.clone()) == &bytes, "{} differs on {path}", format.ty());
            rate(weights.len(), seconds)
        })
        .collect();
    let what = if importance.is_some() { "encode +imp" } else { "encode" };
    line(format.ty(), what, &rates, &first.unwrap_or_default());
}

fn decode(format: &Format, paths: &[SimdPath], weights: &[f32], importance: &[f32]) {
    let size = format.ty().bytes_for(weights.len() as u64).expect("whole rows") as usize;
    let mut bytes = vec![0; size];
    format.encode_on(SimdPath::current(), weights, COLS, Some(importance), &mut bytes);
    let mut values = vec![0.0; weights.len()];
    let mut rates = Vec::new();
    for &path in paths {
        let seconds = best(|| format.decode_on(path, &bytes, &mut values));
        rates.push(rate(weights.len(), seconds));
    }
    let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    line(format.ty(), "decode", &rates, &values);
}

fn line(ty: TensorType, what: &str, rates: &[f64], bytes: &[u8]) {
    let one_lane = rates.last().copied().unwrap_or(1.0);
    print!("{:<18}", format!("{ty} {what}"));
    for rate in rates {
        print!("{rate:>8.3} {:>6.1} ×", rate / one_lane);
    }
    let hash =
        bytes.iter().fold(1_469_598_103_934_665_603u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(1_099_511_628_211));
    println!("  {hash:016x}");
}

fn rate(weights: usize, seconds: f64) -> f64 {
    weights as f64 * 4.0 / seconds / 1e9
}

/// The least CPU time of a few runs.
fn best(mut run: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    let mut spent = 0.0;
    for i in 0..10 {
        let start = cpu_seconds();
        run();
        let seconds = cpu_seconds() - start;
        best = best.min(seconds);
        spent += seconds;
        if spent > 0.5 && i > 0 {
            break;
        }
    }
    best
}

/// CPU time of this thread.
#[cfg(unix)]
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

#[cfg(not(unix))]
fn cpu_seconds() -> f64 {
    use std::{sync::OnceLock, time::Instant};
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// A mixture of normal distributions of different widths, rounded to BF16.
fn heavy_tailed(n: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut weight = || {
        let normal: f32 = (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
        let wide = 0.02 / (0.2 + uniform());
        f32::from_bits((normal * wide).to_bits() & 0xffff_0000)
    };
    (0..n).map(|_| weight()).collect()
}
