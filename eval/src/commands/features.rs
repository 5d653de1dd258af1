//! `evaluate features`.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use eval::towers::{Features, Picture, Pixels, Processor, Sense, Tower};
use eval::weights::SourceWeights;
use gguf::cli::{Common, Exit, Output, count, parse_bytes, print};
use gguf::{Error, Result, Source};
use serde_json::json;

use super::files_of;

/// Write the vectors that a projector file's tower makes of an image or of sound: those that enter the text model
///
/// The file holds the vectors in order, f32 little-endian without a header; the shape is printed. An image is brought to
/// the size that its processor configuration (of a folder) or its keys (of a file) ask for. Values that are preprocessed
/// already are an image [3, height, width], flattened patches [patches, values], or a log-mel spectrogram [bins, frames].
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  evaluate features mmproj-llava-F16.gguf --image cat.png -o features.f32
  evaluate features mmproj-llava-F16.gguf --pixels image.f32 --shape 3,336,336 -o features.f32
  evaluate features models/Qwen2-VL --pixels patches.f32 --shape 24,1176 --grid 4,6 --json")]
pub struct Args {
    /// A projector file, or a checkpoint folder with towers
    #[arg(value_name = "PROJECTOR")]
    projector: PathBuf,

    #[command(flatten)]
    seen: Seen,

    /// The file to write
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,

    /// Replace an output that exists
    #[arg(long)]
    force: bool,

    /// Memory for what the tower reads and for what a layer makes of it
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes, value_name = "SIZE")]
    max_memory: u64,
}

/// What a tower is given.
#[derive(Debug, clap::Args)]
pub struct Seen {
    /// An image, PNG or JPEG
    #[arg(long, value_name = "FILE", conflicts_with = "pixels", help_heading = "Towers")]
    image: Option<PathBuf>,

    /// What the tower reads: values, f32 little-endian
    #[arg(long, value_name = "FILE", requires = "shape", help_heading = "Towers")]
    pixels: Option<PathBuf>,

    /// Their shape
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', help_heading = "Towers")]
    shape: Vec<usize>,

    /// Rows and columns of the patches, where these are flattened
    #[arg(long, value_name = "ROWS,COLUMNS", value_delimiter = ',', help_heading = "Towers")]
    grid: Vec<usize>,

    /// Which of two towers
    #[arg(long, help_heading = "Towers")]
    sense: Option<Which>,
}

/// A sense on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    Vision,
    Audio,
}

impl Seen {
    /// The files that are read.
    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.image.iter().chain(&self.pixels)
    }

    fn sense(&self) -> Option<Sense> {
        self.sense.map(|which| match which {
            Which::Vision => Sense::Vision,
            Which::Audio => Sense::Audio,
        })
    }

    /// What the tower of an opened projector reads, within so many bytes.
    pub fn read(&self, tower: &Tower<'_>, opened: &Opened, memory: u64) -> Result<Pixels> {
        if let Some(image) = &self.image {
            let picture = Picture::open(image, memory)?;
            let metadata = opened.source.metadata();
            let processor = match opened.path.is_dir() {
                true => Processor::of_folder(&opened.path, metadata)?,
                false => Processor::of_file(metadata).map_err(|e| e.at(&opened.path))?,
            };
            return tower.pixels(&picture, &processor).map_err(|e| e.at(&opened.path));
        }
        let Some(path) = &self.pixels else {
            return Err(
                Error::usage("a tower needs something to read").help("--image FILE, or --pixels FILE --shape N,N")
            );
        };
        let bytes = convert::json::read_at_most(path, memory / 2)?;
        if !bytes.len().is_multiple_of(4) {
            return Err(Error::input(format!("{} bytes are no pixels of f32", bytes.len())).at(path));
        }
        let values = bytes.as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
        let grid = match self.grid[..] {
            [] => None,
            [height, width] | [1, height, width] => Some((height, width)),
            _ => return Err(Error::usage("--grid is rows and columns of patches, such as 4,6")),
        };
        Pixels::new(values, &self.shape, grid).map_err(|e| e.at(path))
    }
}

/// A projector file, or the towers of a folder.
pub struct Opened {
    pub path: PathBuf,
    pub source: Box<dyn Source + Send>,
}

impl Opened {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Opened> {
        let options = convert::Options { projector: path.is_dir(), exact: true, ..convert::Options::default() };
        Ok(Opened { path: path.to_path_buf(), source: convert::open(path, &options)? })
    }
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<Exit> {
    let inputs = files_of([&args.projector], args.seen.files());
    if let Some(output) = &args.output {
        Output::check(output, args.force, &inputs)?;
    }
    let opened = Opened::open(&convert::location::find(&args.projector, common)?)?;
    let weights = SourceWeights(&opened.source);
    let tower = Tower::new(opened.source.metadata(), &weights, args.seen.sense()).map_err(|e| e.at(&args.projector))?;
    let tower = tower.within(args.max_memory);
    let pixels = args.seen.read(&tower, &opened, args.max_memory)?;
    let made = tower.features(&pixels).map_err(|e| e.at(&args.projector))?;
    let differs = tower.kind().differs;
    if !common.quiet {
        made.notes.iter().for_each(|note| eprintln!("note: {note}"));
        if !differs.is_empty() {
            eprintln!("note: {differs}");
        }
    }
    if let Some(path) = &args.output {
        let mut output = Output::create(path, args.force, &inputs)?;
        let bytes: Vec<u8> = made.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let fault = |e| Error::io(path, "write", e);
        output.write_all(&bytes).map_err(fault)?;
        output.commit()?;
    }
    report(args, common, &tower, &made)
}

fn report(args: &Args, common: &Common, tower: &Tower<'_>, made: &Features) -> Result<Exit> {
    let Features { values, rows, cols, notes } = made;
    let root = (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
    if common.wants_document() {
        let fields = json!({
            "projector": args.projector.display().to_string(),
            "kind": tower.kind().name,
            "sense": tower.kind().sense.name(),
            "shape": [rows, cols],
            "type": "f32",
            "root_mean_square": root,
            "output": args.output.as_ref().map(|path| path.display().to_string()),
            "notes": notes,
            "llama_cpp_differs": (!tower.kind().differs.is_empty()).then_some(tower.kind().differs),
        });
        let outputs: Vec<PathBuf> = args.output.iter().cloned().collect();
        super::print_document(common, "features", &files_of([&args.projector], args.seen.files()), &outputs, fields)?;
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
