//! Bytes of a model per second through the whole pipeline, from the page cache into a sink:
//! `cargo bench -p downcast-quantize --bench pipeline -- MODEL.gguf [--threads N] [TYPE…]`.
//!
//! What is measured is reading, decoding, encoding and the order of the chunks; no disk and no check. The last column
//! is the ratio to a plain copy of the same bytes by one thread in the same run. Best of three.

use std::io;
use std::process::ExitCode;
use std::time::Instant;

use gguf::{Error, Result, Source};
use quantize::pipeline::{self, Job, Settings};
use quantize::plan::{Options, Plan};
use quantize::recipe::FileType;

const RUNS: usize = 3;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(gguf::cli::exit_code(error.kind()))
        }
    }
}

fn run() -> Result<()> {
    let mut model = None;
    let mut types: Vec<&'static FileType> = Vec::new();
    let mut settings = Settings::default();
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--threads" => settings.threads = args.next().and_then(|n| n.parse().ok()).unwrap_or(settings.threads),
            _ if model.is_none() => model = Some(arg),
            name => types.push(name.parse()?),
        }
    }
    let Some(model) = model else {
        // `cargo bench` runs every bench without arguments.
        println!("usage: pipeline MODEL.gguf [--threads N] [TYPE…]");
        return Ok(());
    };
    if types.is_empty() {
        types = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "BF16", "F16"].iter().map(|t| t.parse()).collect::<Result<_>>()?;
    }
    let source = gguf::File::open(&model)?;
    let bytes: u64 = source.tensors().iter().map(|t| t.bytes()).sum();
    let copy = best(|| {
        let mut buffer = vec![0; 1 << 20];
        let mut file = io::BufReader::with_capacity(
            1 << 20,
            std::fs::File::open(&model).map_err(|e| Error::io(&model, "open", e))?,
        );
        while io::Read::read(&mut file, &mut buffer).map_err(|e| Error::io(&model, "read", e))? > 0 {}
        Ok(())
    })?;
    println!(
        "{bytes} bytes, {} threads, {}; a copy: {:.2} GB/s",
        settings.threads,
        quantize::SimdPath::current(),
        bytes as f64 / copy / 1e9
    );
    println!("{:8} {:>8} {:>10} {:>8}", "type", "GB/s", "s", "× copy");
    for file_type in types {
        let plan = Plan::new(source.metadata(), source.tensors(), file_type, &Options::default(), None)?;
        let seconds = best(|| {
            let files = plan.layouts()?.into_iter().map(|layout| (layout, io::sink())).collect();
            pipeline::run(&source, vec![Job { plan: plan.clone(), files }], &settings, |_| {}).map(drop)
        })?;
        println!(
            "{:8} {:8.2} {seconds:10.2} {:8.2}",
            file_type.to_string(),
            bytes as f64 / seconds / 1e9,
            copy / seconds
        );
    }
    Ok(())
}

/// The seconds of the best run.
fn best(work: impl Fn() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let begun = Instant::now();
        work()?;
        best = best.min(begun.elapsed().as_secs_f64());
    }
    Ok(best)
}
