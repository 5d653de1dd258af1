//! The program's commands: options, work, report.

pub mod choices;
pub mod compare;
pub mod comparison;
pub mod devices;
pub mod embed;
pub mod features;
pub mod gather;
pub mod generate;
pub mod imatrix;
pub mod logits;
pub mod optimize;
pub mod parts;
pub mod passages;
pub mod perplexity;
pub mod similarity;
pub mod tensors;
pub mod texts;
pub mod tokenize;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use convert::Checkpoint;
use convert::modules::Behind;
use convert::tokenizer::Tokenizer;
use eval::device::{Choice, Device, Ran};
use eval::model::Model;
use eval::weights::{Arithmetic, Deployed, SourceWeights, Weights};
use gguf::cli::{Common, Files, Progress, parse_bytes, say};
use gguf::{Error, Result, Runtime, Source};
use quantize::imatrix::Imatrix;
use quantize::plan::Importance;
use serde_json::Value;

/// The files that an output must not replace: those that the models are read from, and others that were named.
pub fn files_of<'a>(
    models: impl IntoIterator<Item = &'a PathBuf>,
    others: impl IntoIterator<Item = &'a PathBuf>,
) -> Vec<PathBuf> {
    let of_models = models.into_iter().flat_map(|model| convert::files::of_model(model));
    of_models.chain(others.into_iter().cloned()).collect()
}

/// A model that was opened, whatever it is stored as.
pub struct Opened {
    pub source: Box<dyn Source + Send>,
    pub model: Model,
    pub tokenizer: Tokenizer,
    /// What a folder does with hidden states; a file has it in its tensors.
    pub behind: Behind,
    /// Where llama.cpp computes something else than the model's own code.
    pub departures: Vec<String>,
}

impl Opened {
    /// Opens a GGUF file or a checkpoint folder and what is needed to run it.
    ///
    /// # Errors
    /// A model that is not there, cannot be read, or that the evaluator cannot run.
    pub fn open(path: &Path, common: &Common) -> Result<Opened> {
        Opened::with(path, common, &convert::Options { exact: true, ..convert::Options::default() })
    }

    /// The same for predicting tokens: a reranker of a folder keeps its whole output matrix.
    pub fn for_tokens(path: &Path, common: &Common) -> Result<Opened> {
        Opened::with(path, common, &convert::Options { exact: true, whole_head: true, ..convert::Options::default() })
    }

    /// The same for work on token ids alone: any pre-tokenizer will do.
    pub fn for_ids(path: &Path, common: &Common) -> Result<Opened> {
        Opened::with(path, common, &convert::Options { any_pre: true, exact: true, ..convert::Options::default() })
    }

    /// Says where llama.cpp computes something else.
    pub fn say_departures(&self, bar: &ProgressBar) {
        for departure in &self.departures {
            bar.say(&format!("note: llama.cpp computes something else from this model: {departure}"));
        }
    }

    fn with(path: &Path, common: &Common, options: &convert::Options) -> Result<Opened> {
        let path = &convert::location::find(path, common)?;
        let (source, folder): (Box<dyn Source + Send>, _) = if path.is_dir() {
            let checkpoint = Checkpoint::open(path, options)?;
            let known = (checkpoint.behind()?, checkpoint.departures().to_vec());
            (Box::new(checkpoint), Some(known))
        } else {
            (convert::open(path, options)?, None)
        };
        let model = Model::new(source.metadata(), &SourceWeights(&source)).map_err(|e| e.at(path))?;
        let tokenizer = Tokenizer::from_metadata(source.metadata()).map_err(|e| e.at(path))?;
        if tokenizer.vocab_size() > model.vocabulary {
            return Err(Error::input(format!(
                "the tokenizer has {} tokens, the embeddings only {}",
                tokenizer.vocab_size(),
                model.vocabulary
            ))
            .at(path));
        }
        let (behind, departures) = folder.unwrap_or_else(|| {
            let own = (model.plan.arch.departs)(&model.dims).map(str::to_owned);
            (Behind::default(), own.into_iter().collect())
        });
        Ok(Opened { source, model, tokenizer, behind, departures })
    }
}

/// How products are taken.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct ArithmeticArgs {
    /// How products are taken: 'exact' (f32 on decoded weights) or 'deployed' (activations rounded, integers multiplied, keys
    /// and values kept in 16 bits, as llama.cpp does on a processor) [default: exact]
    #[arg(long, value_name = "HOW")]
    arithmetic: Option<Arithmetic>,
}

impl ArithmeticArgs {
    /// What was asked for.
    pub fn asked(self) -> Option<Arithmetic> {
        self.arithmetic
    }

    /// What is taken where nothing else asks.
    pub fn chosen(self) -> Arithmetic {
        self.arithmetic.unwrap_or_default()
    }
}

/// Where a model is computed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct DeviceArgs {
    /// Where the model is computed: cpu, gpu, a number of `evaluate devices`, or auto, which goes on on the processor where
    /// there is no device or it fails
    #[arg(long, default_value = "cpu", value_name = "DEVICE", value_parser = device, help_heading = "Device")]
    device: Choice,

    /// Memory of the device to use [default: three quarters of what it has]
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE", help_heading = "Device")]
    device_memory: Option<u64>,
}

fn device(text: &str) -> std::result::Result<Choice, String> {
    text.parse().map_err(|e: Error| e.on_one_line())
}

impl DeviceArgs {
    /// Does work on what was asked for, on the processor where `auto` finds no device or one that fails. Also gives
    /// where it was done.
    ///
    /// # Errors
    /// No such device, and those of the work.
    pub fn run<T>(&self, common: &Common, work: impl FnMut(Option<&Device>) -> Result<T>) -> Result<(T, Option<Ran>)> {
        let say = if common.quiet { |_: &str| () } else { say };
        let device = eval::devices::open(self.device, self.device_memory, say)?;
        Device::work(device.as_ref(), self.device, say, work)
    }
}

/// A source's weights in an arithmetic.
///
/// # Errors
/// Weights that something else than ggml packed: how that multiplies is not known of a source.
pub fn weights_of<'a>(source: &'a dyn Source, arithmetic: Arithmetic) -> Result<Box<dyn Weights + 'a>> {
    match (arithmetic, source.packed()) {
        (Arithmetic::Exact, _) => Ok(Box::new(SourceWeights(source))),
        (Arithmetic::Deployed, Some(packed))
            if (0..source.tensors().len()).all(|tensor| source.runtime(tensor) == Runtime::Ggml) =>
        {
            Err(Error::input(format!("is packed by {packed}, whose arithmetic is not known"))
                .help("leave --arithmetic out; of packed folders those of bitsandbytes are computed as deployed"))
        }
        (Arithmetic::Deployed, _) => Ok(Box::new(Deployed::new(SourceWeights(source)))),
    }
}

/// Prints the document of a command: what all documents have, then these fields.
///
/// # Errors
/// An input or output that cannot be read where its digest is asked for, and what writing meets.
pub fn print_document(
    common: &Common,
    command: &str,
    inputs: &[PathBuf],
    outputs: &[PathBuf],
    fields: Value,
) -> Result<()> {
    // A measurement reads the whole of its inputs.
    let files = Files::new(common, true, inputs, outputs)?;
    common.print_document(&format!("evaluate-{command}-1"), env!("CARGO_PKG_VERSION"), &files, fields)
}

/// The most bytes of a text: years of work for any model, and what a device that never ends may cost.
const LARGEST_TEXT: u64 = 1 << 30;

/// The name of a model: of its folder, or of its file without the ending.
pub fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    stem.unwrap_or_default().to_string_lossy().into_owned()
}

/// A text file.
pub fn read_text(path: &Path) -> Result<String> {
    convert::json::read_text(path, LARGEST_TEXT)
}

/// An importance matrix with the name of its file.
pub fn open_importance(path: &Path) -> Result<Importance> {
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Importance { matrix: Imatrix::open(path)?, file })
}

/// Progress of a run in tokens, told as shares of its work.
pub struct ProgressBar {
    bar: Progress,
    tokens: u64,
    shown: AtomicU64,
}

impl ProgressBar {
    /// Progress over so many tokens.
    pub fn new(common: &Common, label: &str, tokens: u64) -> ProgressBar {
        ProgressBar {
            bar: Progress::tokens(common.progress, common.quiet, label, tokens),
            tokens,
            shown: AtomicU64::new(0),
        }
    }

    /// So much of all the work is done.
    pub fn at(&self, done: u64, total: u64) {
        let now = (u128::from(done) * u128::from(self.tokens) / u128::from(total.max(1))) as u64;
        self.bar.add(now.saturating_sub(self.shown.fetch_max(now, Ordering::Relaxed)));
    }

    /// A line for people.
    pub fn say(&self, line: &str) {
        self.bar.say(line);
    }

    /// Ends the job.
    pub fn finish(&self) {
        self.bar.finish();
    }
}
