//! `evaluate features`.

use std::io::Write;
use std::path::PathBuf;

use clap::ValueEnum;
use eval::towers::{Features, Pixels, Sense, Tower};
use eval::weights::Stored;
use gguf::cli::{Common, Exit, Output, count, print, print_json};
use gguf::{Error, Result, Source};
use serde_json::json;

/// The most bytes of pixels that are read.
const MOST_PIXELS: u64 = 1 << 32;

/// Write the vectors that a projector file's tower makes of an image or of sound: those that enter the text model
///
/// The file holds the vectors in order, f32 little-endian without a header; the shape is printed. A tower reads values
/// that are preprocessed already: an image [3, height, width], flattened patches [patches, values], or a log-mel
/// spectrogram [bins, frames].
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  evaluate features mmproj-llava-F16.gguf --pixels image.f32 --shape 3,336,336 -o features.f32
  evaluate features models/Qwen2-VL --pixels patches.f32 --shape 24,1176 --grid 4,6 --json")]
pub struct Args {
    /// A projector file, or a checkpoint folder with towers
    #[arg(value_name = "PROJECTOR")]
    projector: PathBuf,

    /// What the tower reads: values, f32 little-endian
    #[arg(long, value_name = "FILE", requires = "shape")]
    pixels: PathBuf,

    /// Their shape
    #[arg(long, value_name = "N,N,...", value_delimiter = ',')]
    shape: Vec<usize>,

    /// Rows and columns of the patches, where these are flattened
    #[arg(long, value_name = "ROWS,COLUMNS", value_delimiter = ',')]
    grid: Vec<usize>,

    /// Which of two towers
    #[arg(long)]
    sense: Option<Which>,

    /// The file to write
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Replace an output that exists
    #[arg(long)]
    force: bool,
}

/// A sense on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    Vision,
    Audio,
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<Exit> {
    if let Some(output) = &args.output {
        Output::check(output, args.force, &[&args.projector, &args.pixels])?;
    }
    let pixels = pixels(args)?;
    let source = open(&args.projector)?;
    let weights = Stored(&source);
    let sense = args.sense.map(|which| match which {
        Which::Vision => Sense::Vision,
        Which::Audio => Sense::Audio,
    });
    let tower = Tower::new(source.metadata(), &weights, sense).map_err(|e| e.at(&args.projector))?;
    let made = tower.features(&pixels).map_err(|e| e.at(&args.projector))?;
    let differs = tower.kind().differs;
    if !common.quiet {
        made.notes.iter().for_each(|note| eprintln!("note: {note}"));
        if !differs.is_empty() {
            eprintln!("note: {differs}");
        }
    }
    if let Some(path) = &args.output {
        let output = Output::create(path, args.force, &[&args.projector, &args.pixels])?;
        let bytes: Vec<u8> = made.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let fault = |e| Error::io(path, "write", e);
        std::fs::File::create(output.temporary()).and_then(|mut file| file.write_all(&bytes)).map_err(fault)?;
        output.commit()?;
    }
    report(args, common, &tower, &made)
}

fn report(args: &Args, common: &Common, tower: &Tower<'_>, made: &Features) -> Result<Exit> {
    let Features { values, rows, cols, notes } = made;
    let root = (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
    if common.json {
        print_json(&json!({
            "projector": args.projector.display().to_string(),
            "kind": tower.kind().name,
            "sense": tower.kind().sense.name(),
            "shape": [rows, cols],
            "type": "f32",
            "root_mean_square": root,
            "output": args.output.as_ref().map(|path| path.display().to_string()),
            "notes": notes,
            "llama_cpp_differs": (!tower.kind().differs.is_empty()).then_some(tower.kind().differs),
        }))?;
    } else if !common.quiet {
        let name = args.output.as_ref().unwrap_or(&args.projector).display();
        let (rows, cols) = (count(*rows as u64), count(*cols as u64));
        print(&format!(
            "{name}: {} features, {rows} vectors of {cols}, f32, root mean square {root:.4}\n",
            tower.kind().name
        ))?;
    }
    Ok(Exit::Done)
}

/// Opens a projector file, or the towers of a folder.
pub fn open(path: &std::path::Path) -> Result<Box<dyn Source + Send>> {
    convert::open(path, &convert::Options { projector: path.is_dir(), exact: true, ..convert::Options::default() })
}

fn pixels(args: &Args) -> Result<Pixels> {
    let path = &args.pixels;
    let fault = |e| Error::io(path, "read the pixels", e);
    let size = std::fs::metadata(path).map_err(fault)?.len();
    if size > MOST_PIXELS || !size.is_multiple_of(4) {
        return Err(Error::input(format!("{size} bytes are no pixels of f32")).at(path));
    }
    let bytes = std::fs::read(path).map_err(fault)?;
    let values = bytes.as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
    let grid = match args.grid[..] {
        [] => None,
        [height, width] | [1, height, width] => Some((height, width)),
        _ => return Err(Error::usage("--grid is rows and columns of patches, such as 4,6")),
    };
    Pixels::new(values, &args.shape, grid).map_err(|e| e.at(path))
}
