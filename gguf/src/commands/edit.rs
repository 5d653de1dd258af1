//! `gguf set`, `rename`, `remove`, `recover` and `copy`.

use std::io::BufWriter;
use std::path::{Path, PathBuf};

use gguf::cli::{Common, Exit, Output, OutputArg, Progress, at_fault, print, say};
use gguf::edit::{self, Change};
use gguf::write::Layout;
use gguf::{Endian, Error, ErrorKind, File, Metadata, Result, Source, Value, ValueType, keys, quote, write};
use serde_json::json;

use super::values::{short, type_name, whole_json};

/// How a file was changed whose header had room.
const IN_PLACE: &str = "in place";

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

    /// Say what would change, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// What changes of the keys, a line each for either side, and as JSON.
fn difference(old: &Metadata, new: &Metadata) -> (String, serde_json::Value) {
    let (mut text, mut list) = (String::new(), Vec::new());
    let names = old.iter().map(|(k, _)| k).chain(new.iter().map(|(k, _)| k).filter(|k| old.get(k).is_none()));
    for key in names.filter(|key| *key != edit::RESERVED) {
        let (a, b) = (old.get(key), new.get(key));
        if a == b {
            continue;
        }
        for (mark, side) in [('-', a), ('+', b)] {
            if let Some(value) = side {
                text += &format!("{mark} {}  {} {}\n", quote::text(key), type_name(value), short(value));
            }
        }
        list.push(json!({"key": key, "old": a.map(whole_json), "new": b.map(whole_json)}));
    }
    (text, list.into())
}

impl Target {
    /// Makes the changes that the file, as it is, asks for.
    fn edit(
        &self,
        command: &str,
        path: &Path,
        common: &Common,
        changes: impl FnOnce(&File) -> Result<Vec<Change>>,
    ) -> Result<Exit> {
        let file = match File::open(path) {
            Err(_) if edit::is_interrupted(path) && !self.dry_run => {
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
        if self.dry_run {
            let how = if in_place.is_some() { IN_PLACE } else { "copied" };
            let target = self.output.as_deref().unwrap_or(path);
            let (text, list) = difference(file.metadata(), &metadata);
            if common.wants_document() {
                let fields = json!({"file": quote::json(target), "how": how, "keys": metadata.len(), "changes": list,
                    "written": false});
                super::print_document(common, command, false, &[path.to_path_buf()], &[], fields)?;
            } else {
                print(&format!("{text}{}: would be {how}\n", quote::path(target)))?;
            }
            return Ok(Exit::Done);
        }
        let how = match in_place {
            Some(header) => {
                // Ctrl-C must wait for the header: the journal is for what cannot wait.
                gguf::cli::uninterrupted(|| header.write(path))?;
                IN_PLACE
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
        if common.wants_document() {
            let inputs: &[PathBuf] = if self.output.is_some() { &[path.to_path_buf()] } else { &[] };
            let fields = json!({"file": quote::json(target), "how": how, "keys": metadata.len()});
            super::print_document(common, command, how != IN_PLACE, inputs, &[target.to_path_buf()], fields)?;
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

/// Several changes of keys: renames first, then removals, then what is set.
#[derive(clap::Args)]
#[command(next_help_heading = "Changes")]
struct Changes {
    /// Give a key another name (may be given more than once)
    #[arg(long, value_name = "OLD=NEW", value_parser = pair)]
    rename: Vec<(String, String)>,

    /// Remove a key (may be given more than once)
    #[arg(long, value_name = "KEY")]
    remove: Vec<String>,

    /// Set a key (may be given more than once)
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,

    /// Set the chat template to the text of this file, or to the chat_template of a tokenizer_config.json
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,

    /// Make the token with this text the special one of this name: bos, eos, eot, eom, unknown, padding, … (may be given
    /// more than once)
    #[arg(long, value_name = "NAME=TEXT", value_parser = pair)]
    special_token: Vec<(String, String)>,

    /// The same by the token's id
    #[arg(long, value_name = "NAME=ID", value_parser = pair)]
    special_token_by_id: Vec<(String, String)>,
}

/// `KEY=VALUE`, for clap's `value_parser`.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a name, =, and a value are needed".into()),
    }
}

/// The key of the chat template.
const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// The longest chat template that is read.
const MOST_TEMPLATE: u64 = 64 << 20;

impl Changes {
    fn is_empty(&self) -> bool {
        self.rename.is_empty()
            && self.remove.is_empty()
            && self.set.is_empty()
            && self.chat_template.is_none()
            && self.special_token.is_empty()
            && self.special_token_by_id.is_empty()
    }

    /// The changes of a file's keys, as they are.
    fn of(&self, metadata: &Metadata, common: &Common) -> Result<Vec<Change>> {
        let mut out: Vec<Change> =
            self.rename.iter().map(|(old, new)| Change::Rename(old.clone(), new.clone())).collect();
        out.extend(self.remove.iter().cloned().map(Change::Remove));
        for (key, text) in &self.set {
            let value = edit::value_for(key, metadata.get(key), text)?;
            warn_of_type(key, &value, common);
            out.push(Change::Set(key.clone(), value));
        }
        if let Some(path) = &self.chat_template {
            out.push(Change::Set(CHAT_TEMPLATE.to_owned(), chat_template(path)?.into()));
        }
        for (name, text) in &self.special_token {
            out.push(Change::Set(special_key(name)?, token_of(metadata, text)?.into()));
        }
        for (name, id) in &self.special_token_by_id {
            let count = tokens(metadata)?.len();
            let id = id.parse().ok().filter(|&id: &u32| u64::from(id) < count);
            let id = id.ok_or_else(|| Error::usage(format!("{name}: there are {count} tokens, from 0")))?;
            out.push(Change::Set(special_key(name)?, id.into()));
        }
        Ok(out)
    }
}

fn warn_of_type(key: &str, value: &Value, common: &Common) {
    if let Some(kind) = keys::kind(key).filter(|kind| !kind.fits(value) && !common.quiet) {
        let key = quote::text(key);
        say(&format!("warning: readers want {key} as {kind}, and refuse or overlook another type"));
    }
}

/// A chat template from a file of its own, or from a tokenizer_config.json.
fn chat_template(path: &Path) -> Result<String> {
    let text = super::read_text(path, MOST_TEMPLATE)?;
    if path.extension().is_none_or(|e| e != "json") {
        return Ok(text);
    }
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| Error::input("is no JSON").at(path).caused_by(e))?;
    let named = |list: &serde_json::Value| {
        let of =
            |one: &serde_json::Value| (one["name"] == "default").then(|| one["template"].as_str().map(str::to_owned));
        list.as_array()?.iter().find_map(of).flatten()
    };
    let found = &json["chat_template"];
    found.as_str().map(str::to_owned).or_else(|| named(found)).ok_or_else(|| {
        Error::input("has no chat_template").at(path).help("give the template in a file of its own, such as chat.jinja")
    })
}

/// The key of a special token by its name, as files spell it.
fn special_key(name: &str) -> Result<String> {
    let key = |name: &str| format!("tokenizer.ggml.{name}_token_id");
    let short = [("unk", "unknown"), ("pad", "padding"), ("sep", "seperator"), ("separator", "seperator")];
    let known = short.iter().find(|(other, _)| *other == name).map_or(name, |(_, known)| known);
    match keys::kind(&key(known)) {
        Some(_) => Ok(key(known)),
        None => Err(Error::usage(format!("there is no special token called \"{name}\""))
            .help("bos, eos, eot, eom, unknown, padding, separator, cls, mask, fim_pre, fim_suf, fim_mid, …")),
    }
}

fn tokens(metadata: &Metadata) -> Result<&gguf::Array> {
    metadata
        .get("tokenizer.ggml.tokens")
        .and_then(Value::as_array)
        .ok_or_else(|| Error::usage("the file has no tokens (tokenizer.ggml.tokens)"))
}

/// The id of the token with a text.
fn token_of(metadata: &Metadata, text: &str) -> Result<u32> {
    let found = tokens(metadata)?.iter().position(|token| token.as_str() == Some(text));
    found.and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
        Error::usage(format!("there is no token \"{}\"", quote::text(text)))
            .help("the text of a token as `gguf show FILE --key tokenizer.ggml.tokens` lists it")
    })
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
  gguf set model.gguf --set general.name=\"My model\" --remove general.url --special-token eot=\"<|im_end|>\" --dry-run
  gguf set model.gguf general.tags '[\"chat\",\"tiny\"]' --reserve 4K
  gguf set model.gguf --chat-template template.jinja")]
pub struct Set {
    /// The GGUF file
    file: PathBuf,

    /// The key
    #[arg(required_unless_present_any = ["rename", "remove", "set", "chat_template", "special_token", "special_token_by_id"])]
    key: Option<String>,

    /// The value; arrays as JSON
    #[arg(conflicts_with = "from_file", allow_hyphen_values = true)]
    value: Option<String>,

    /// Take the value from this text file
    #[arg(long, value_name = "TEXT FILE", requires = "key")]
    from_file: Option<PathBuf>,

    /// Another type: u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 bool str, or [TYPE] for an array
    #[arg(long = "value-type", alias = "type", value_name = "TYPE", requires = "key")]
    ty: Option<String>,

    #[command(flatten)]
    changes: Changes,

    #[command(flatten)]
    target: Target,
}

impl Set {
    pub fn run(self, common: &Common) -> Result<Exit> {
        let text = match (&self.key, &self.value, &self.from_file) {
            (None, ..) => None,
            (Some(_), Some(text), _) => Some(text.clone()),
            (Some(_), None, Some(path)) => Some(super::read_text(path, MOST_VALUE)?),
            (Some(_), None, None) => {
                return Err(Error::usage("a value is needed").help("KEY VALUE, or --from-file FILE"));
            }
        };
        self.target.edit("set", &self.file, common, |file| {
            let mut changes = self.changes.of(file.metadata(), common)?;
            if let (Some(key), Some(text)) = (self.key, text) {
                let value = match &self.ty {
                    Some(name) => {
                        let (ty, element) = parse_type(name)?;
                        edit::parse_value(&text, ty, element)?
                    }
                    None => edit::value_for(&key, file.metadata().get(&key), &text)?,
                };
                warn_of_type(&key, &value, common);
                changes.push(Change::Set(key, value));
            }
            Ok(changes)
        })
    }
}

/// As many bytes as a string of a key may sensibly have.
const MOST_VALUE: u64 = 64 << 20;

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
        self.target.edit("rename", &self.file, common, |_| Ok(vec![Change::Rename(self.old, self.new)]))
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
        self.target.edit("remove", &self.file, common, |_| Ok(self.keys.into_iter().map(Change::Remove).collect()))
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
        if common.wants_document() {
            let fields = json!({"file": quote::json(&self.file), "recovered": recovered});
            super::print_document(common, "recover", false, &[], &[self.file], fields)?;
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
  gguf copy model.gguf -o named.gguf --set general.name=Mine --remove general.url
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

    #[command(flatten)]
    changes: Changes,

    /// Say what would change, and write nothing
    #[arg(long)]
    dry_run: bool,

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
        let mut metadata = source.metadata().clone();
        if !self.changes.is_empty() {
            metadata = edit::apply(&metadata, &self.changes.of(&metadata, common)?)?;
        }
        let (text, list) = difference(source.metadata(), &metadata);
        if self.dry_run {
            if common.wants_document() {
                let fields = json!({"file": quote::json(self.output.path()), "changes": list, "written": false});
                super::print_document(common, "copy", false, &gguf::split::files(&self.file), &[], fields)?;
            } else {
                print(&format!("{text}{}: would be written\n", quote::path(self.output.path())))?;
            }
            return Ok(Exit::Done);
        }
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
        if common.wants_document() {
            let fields = json!({"file": quote::json(self.output.path()), "changes": list});
            let output = self.output.path().to_path_buf();
            super::print_document(common, "copy", true, &gguf::split::files(&self.file), &[output], fields)?;
        }
        Ok(Exit::Done)
    }
}
