//! `gguf set`, `rename`, `remove`, `recover` and `copy`.

use std::io::BufWriter;
use std::path::{Path, PathBuf};

use gguf::cli::{Common, Exit, Output, OutputArg, Progress, at_fault, print, print_json, say};
use gguf::edit::{self, Change};
use gguf::write::Layout;
use gguf::{Endian, Error, ErrorKind, File, Metadata, Result, Source, ValueType, keys, quote, write};
use serde_json::json;

/// Where an edited file goes.
#[derive(clap::Args)]
struct Target {
    /// Write the edited file here and leave the input as it is
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,

    /// Replace the output if it exists
    #[arg(long, requires = "output")]
    force: bool,

    /// Keep room of this size in the header, so that later edits need no copy
    #[arg(long, value_name = "SIZE", value_parser = gguf::cli::parse_bytes_or_none)]
    reserve: Option<u64>,

    /// Do not check a copy after writing it
    #[arg(long)]
    no_verify: bool,

    #[command(flatten)]
    unusual: super::Unusual,
}

impl Target {
    /// Makes the changes that the file, as it is, asks for.
    fn edit(&self, path: &Path, common: &Common, changes: impl FnOnce(&File) -> Result<Vec<Change>>) -> Result<Exit> {
        let file = match File::open(path) {
            Err(_) if edit::is_interrupted(path) => {
                if edit::recover(path)? && !common.quiet {
                    say(&format!("{}: put the header back that an interrupted edit was replacing", quote::path(path)));
                }
                File::open(path)?
            }
            file => file?,
        };
        let mut changes = changes(&file)?;
        if let Some(reserve) = self.reserve {
            if reserve > 1 << 30 {
                return Err(Error::usage("more than 1 GiB cannot be reserved"));
            }
            changes.push(Change::Reserve(reserve));
        }
        let metadata = edit::apply(file.metadata(), &changes)?;
        let in_place = match self.output {
            Some(_) => None,
            None => edit::fit(&file, &metadata)?,
        };
        let how = match in_place {
            Some(header) => {
                // Ctrl-C must wait for the header: the journal is for what cannot wait.
                gguf::cli::uninterrupted(|| header.write(path))?;
                "in place"
            }
            None => {
                let target = self.output.as_deref().unwrap_or(path);
                let inputs: &[&Path] = if self.output.is_some() { &[path] } else { &[] };
                // Editing a file is what was asked for, so it needs no --force to be replaced by its new self.
                let force = self.force || self.output.is_none();
                copy(
                    &file,
                    &metadata,
                    self.unusual.layout(file.endian()),
                    target,
                    force,
                    inputs,
                    self.no_verify,
                    common,
                )?;
                "copied"
            }
        };
        let target = self.output.as_deref().unwrap_or(path);
        if common.json {
            print_json(&json!({"file": quote::json(target), "how": how, "keys": metadata.len()}))?;
        } else if !common.quiet {
            say(&format!("{}: {how}", quote::path(target)));
        }
        Ok(Exit::Done)
    }
}

#[allow(clippy::too_many_arguments)]
fn copy(
    source: &dyn Source,
    metadata: &Metadata,
    layout: Layout,
    target: &Path,
    force: bool,
    inputs: &[&Path],
    no_verify: bool,
    common: &Common,
) -> Result<()> {
    let output = Output::create(target, force, inputs)?;
    let total = source.tensors().iter().map(|t| t.bytes()).sum();
    let progress = Progress::bytes(common.progress, common.quiet, "copying", total);
    let all = 0..source.tensors().len();
    let out = BufWriter::with_capacity(1 << 20, output);
    let out = write::copy_part(source, all, metadata, layout, out, |n| progress.add(n)).map_err(|e| {
        match inputs.first() {
            Some(input) => at_fault(e, input, target),
            None => e.at(target),
        }
    })?;
    let output = out.into_inner().map_err(|e| Error::io(target, "write", e.into_error()))?;
    super::verify(&output, no_verify)?;
    output.commit()?;
    progress.finish();
    Ok(())
}

/// Set keys
///
/// A key that readers know gets the type that they want. Other keys keep the type of their old value, and new ones take
/// the type that the value looks like.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gguf set model.gguf general.name \"My model\"
  gguf set model.gguf llama.context_length 8192 -o longer.gguf
  gguf set model.gguf general.tags '[\"chat\",\"tiny\"]' --reserve 4K
  gguf set model.gguf tokenizer.chat_template --from-file template.jinja")]
pub struct Set {
    /// The GGUF file
    file: PathBuf,

    /// The key
    key: String,

    /// The value; arrays as JSON
    #[arg(required_unless_present = "from_file", conflicts_with = "from_file", allow_hyphen_values = true)]
    value: Option<String>,

    /// Take the value from this text file
    #[arg(long, value_name = "TEXT FILE")]
    from_file: Option<PathBuf>,

    /// Another type: u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 bool str, or [TYPE] for an array
    #[arg(long = "value-type", alias = "type", value_name = "TYPE")]
    ty: Option<String>,

    #[command(flatten)]
    target: Target,
}

impl Set {
    pub fn run(self, common: &Common) -> Result<Exit> {
        let text = match (&self.value, &self.from_file) {
            (Some(text), _) => text.clone(),
            (None, Some(path)) => read_value(path)?,
            (None, None) => return Err(Error::usage("a value is needed")),
        };
        self.target.edit(&self.file, common, |file| {
            let value = match &self.ty {
                Some(name) => {
                    let (ty, element) = parse_type(name)?;
                    edit::parse_value(&text, ty, element)?
                }
                None => edit::value_for(&self.key, file.metadata().get(&self.key), &text)?,
            };
            if let Some(kind) = keys::kind(&self.key).filter(|kind| !kind.fits(&value) && !common.quiet) {
                let key = quote::text(&self.key);
                say(&format!("warning: readers want {key} as {kind}, and refuse or overlook another type"));
            }
            Ok(vec![Change::Set(self.key.clone(), value)])
        })
    }
}

/// A value from a file, of at most as many bytes as a string of a key may sensibly have.
fn read_value(path: &std::path::Path) -> Result<String> {
    const MOST: u64 = 64 << 20;
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let mut text = String::new();
    let read = std::io::Read::read_to_string(&mut std::io::Read::take(file, MOST + 1), &mut text);
    read.map_err(|e| Error::io(path, "read", e))?;
    if text.len() as u64 > MOST {
        return Err(Error::input(format!("is larger than {MOST} bytes, the most that a value is read from")).at(path));
    }
    Ok(text)
}

fn parse_type(name: &str) -> Result<(ValueType, Option<ValueType>)> {
    let named = |name: &str| {
        ValueType::ALL.into_iter().find(|t| t.name() == name && *t != ValueType::Array).ok_or_else(|| {
            Error::usage(format!("there is no type \"{name}\""))
                .help("u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 bool str, or [TYPE] for an array")
        })
    };
    match name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        Some(element) => Ok((ValueType::Array, Some(named(element)?))),
        None => Ok((named(name)?, None)),
    }
}

/// Give a key another name
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gguf rename model.gguf tokenizer.ggml.separator_token_id tokenizer.ggml.seperator_token_id")]
pub struct Rename {
    /// The GGUF file
    file: PathBuf,

    /// The key
    old: String,

    /// Its new name
    new: String,

    #[command(flatten)]
    target: Target,
}

impl Rename {
    pub fn run(self, common: &Common) -> Result<Exit> {
        self.target.edit(&self.file, common, |_| Ok(vec![Change::Rename(self.old, self.new)]))
    }
}

/// Remove keys
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gguf remove model.gguf tokenizer.chat_template
  gguf remove model.gguf general.author general.url -o anonymous.gguf")]
pub struct Remove {
    /// The GGUF file
    file: PathBuf,

    /// The keys
    #[arg(required = true)]
    keys: Vec<String>,

    #[command(flatten)]
    target: Target,
}

impl Remove {
    pub fn run(self, common: &Common) -> Result<Exit> {
        self.target.edit(&self.file, common, |_| Ok(self.keys.into_iter().map(Change::Remove).collect()))
    }
}

/// Put the header back that an interrupted edit was replacing
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gguf recover model.gguf")]
pub struct Recover {
    /// The GGUF file
    file: PathBuf,
}

impl Recover {
    pub fn run(self, common: &Common) -> Result<Exit> {
        let recovered = edit::recover(&self.file)?;
        if common.json {
            print_json(&json!({"file": quote::json(&self.file), "recovered": recovered}))?;
        } else {
            let what = if recovered { "the old header is back" } else { "no edit was interrupted" };
            print(&format!("{}: {what}\n", quote::path(&self.file)))?;
        }
        Ok(Exit::Done)
    }
}

/// The byte order to write.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Order {
    Little,
    Big,
}

/// Write a file anew: clean padding, version 3, the byte order wanted; embedded files and split models become plain
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gguf copy padded-badly.gguf -o clean.gguf
  gguf copy --endian big model.gguf -o model-be.gguf
  gguf copy --at 4096 bundle.bin -o model.gguf")]
pub struct Copy {
    /// The GGUF file, or the first shard of a split model
    file: PathBuf,

    #[command(flatten)]
    output: OutputArg,

    /// The byte order
    #[arg(long, value_enum, default_value = "little")]
    endian: Order,

    /// Where the GGUF begins in the file
    #[arg(long, value_name = "BYTE", default_value_t = 0)]
    at: u64,

    /// Replace the output if it exists
    #[arg(long)]
    force: bool,

    /// Do not check the file after writing it
    #[arg(long)]
    no_verify: bool,

    #[command(flatten)]
    unusual: super::Unusual,
}

impl Copy {
    pub fn run(self, common: &Common) -> Result<Exit> {
        let source: Box<dyn Source + Send> = match self.at {
            0 => gguf::open(&self.file)?,
            at => Box::new(File::open_at(&self.file, at)?),
        };
        let endian = match self.endian {
            Order::Little => Endian::Little,
            Order::Big => Endian::Big,
        };
        let metadata = source.metadata().clone();
        let inputs = gguf::split::files(&self.file);
        let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        copy(
            &source,
            &metadata,
            self.unusual.layout(endian),
            self.output.path(),
            self.force,
            &inputs,
            self.no_verify,
            common,
        )
        .map_err(|e| if e.kind() == ErrorKind::Usage { e.at(self.output.path()) } else { e })?;
        if common.json {
            print_json(&json!({"file": quote::json(self.output.path())}))?;
        }
        Ok(Exit::Done)
    }
}
