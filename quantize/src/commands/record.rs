//! How a result was made: checksums, the statement that others can verify, and whether anything has changed since.
//!
//! A manifest is an in-toto statement with a SLSA provenance: digests of every file that was read and written, and the
//! options. It holds no time and no path of the machine, so that the same run gives the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use convert::location;
use gguf::cli::{self, Common, Exit, FileDigest, NO_INPUTS, Output, OutputFolder, Progress, digest_files};
use gguf::{Error, Result, quote};
use serde_json::{Map, Value, json};

use super::{Args, VERSION};

const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://slsa.dev/provenance/v1";
const BUILD: &str = "https://github.com/downcast-rs/downcast/quantize/v1";

/// A manifest has a few lines a file.
const MAX_BYTES: u64 = 64 << 20;

/// Options that change no byte of a result, or say where it goes.
const ASIDE: &[&str] = &[
    "input",
    "output",
    "others",
    "json",
    "progress",
    "digests",
    "quiet",
    "force",
    "threads",
    "max-memory",
    "no-verify",
    "no-check-tokenizer",
    "manifest",
    "checksums",
    "if-changed",
    "print-cache-key",
];

/// Options whose value is a file, which a manifest names without its folder.
const FILES: &[&str] = &["imatrix", "tensor-type-file", "plan", "plan-from", "metadata"];

/// Options that name folders of other checkpoints.
const FOLDERS: &[&str] = &["merge-lora", "base", "target-model-dir"];

/// What a run leaves beside its result.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Records")]
pub struct RecordArgs {
    /// Write how the result was made, as an in-toto statement: `quantize verify` derives it again
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dry_run", "part"])]
    pub manifest: Option<PathBuf>,

    /// Write SHA256SUMS beside the result, or renew its lines there
    #[arg(long, conflicts_with_all = ["dry_run", "part"])]
    pub checksums: bool,

    /// Do nothing where the manifest is of these options and no input or output has changed since by its size and time;
    /// otherwise replace the outputs
    #[arg(long, requires = "manifest")]
    pub if_changed: bool,

    /// Print a digest of the options and of every input, and do nothing else
    #[arg(long, conflicts_with_all = ["manifest", "checksums", "dry_run", "part"])]
    pub print_cache_key: bool,
}

impl RecordArgs {
    /// Whether digests are needed.
    pub fn wants_digests(&self) -> bool {
        self.manifest.is_some() || self.checksums
    }
}

/// The options that decide the bytes, by name; files by their names alone.
fn options() -> Map<String, Value> {
    let mut all = cli::call_options();
    all.retain(|name, _| !ASIDE.contains(&name.as_str()));
    for name in FILES.iter().chain(FOLDERS) {
        match all.get_mut(*name) {
            Some(Value::Array(values)) => values.iter_mut().for_each(bare),
            Some(value) => bare(value),
            None => {}
        }
    }
    all
}

/// A path without its folders.
fn bare(value: &mut Value) {
    if let Some(name) = value.as_str().and_then(|text| Path::new(text).file_name()) {
        *value = quote::json(Path::new(name));
    }
}

/// The name of a file in a record: below the model's folder as it is there, else alone.
fn name_below(path: &Path, folder: &Path) -> String {
    let below = path.strip_prefix(folder).ok().filter(|below| !below.as_os_str().is_empty());
    let name = below.map_or_else(|| path.file_name().map(PathBuf::from).unwrap_or_default(), Path::to_path_buf);
    name.to_string_lossy().replace('\\', "/")
}

fn described(files: &[FileDigest], folder: &Path) -> Vec<Value> {
    let mut all: Vec<(String, Value)> = files
        .iter()
        .map(|file| {
            let name = name_below(&file.path, folder);
            let value = json!({"name": name, "digest": {"sha256": file.sha256}, "annotations": {"bytes": file.bytes}});
            (name, value)
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.into_iter().map(|(_, value)| value).collect()
}

/// A finished run, as its records tell it.
pub struct Finished<'a> {
    pub input: &'a Path,
    pub inputs: &'a [FileDigest],
    pub outputs: &'a [FileDigest],
    /// Where outputs are named from.
    pub folder: &'a Path,
    /// The one output, where there is one: a file or folder below `folder`.
    pub output: Option<&'a Path>,
}

impl Finished<'_> {
    fn statement(&self) -> Value {
        json!({
            "_type": STATEMENT,
            "subject": described(self.outputs, self.folder),
            "predicateType": PREDICATE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD,
                    "externalParameters": {
                        "source": location::model_name(self.input),
                        "output": self.output.map(|path| name_below(path, self.folder)),
                        "options": options(),
                    },
                    "internalParameters": {},
                    "resolvedDependencies": described(self.inputs, self.input),
                },
                "runDetails": {"builder": {"id": BUILD, "version": {"quantize": VERSION}}},
            },
        })
    }

    /// Writes what was asked for.
    pub fn write(&self, args: &Args) -> Result<()> {
        if let Some(path) = &args.record.manifest {
            write(path, &format!("{:#}\n", self.statement()), args.run.force || args.record.if_changed)?;
        }
        if args.record.checksums {
            self.write_checksums()?;
        }
        Ok(())
    }

    /// Lines of other files stay; `sha256sum --check SHA256SUMS` reads them.
    fn write_checksums(&self) -> Result<()> {
        let path = self.folder.join("SHA256SUMS");
        let mut lines: BTreeMap<String, String> = BTreeMap::new();
        if path.is_file() {
            let old = read(&path)?;
            lines.extend(old.lines().filter_map(|l| l.split_once("  ")).map(|(sum, name)| (name.into(), sum.into())));
        }
        lines.extend(self.outputs.iter().map(|file| (name_below(&file.path, self.folder), file.sha256.clone())));
        let text: String = lines.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect();
        write(&path, &text, true)
    }
}

fn write(path: &Path, text: &str, force: bool) -> Result<()> {
    let mut output = Output::create(path, force, NO_INPUTS)?;
    output.write_all(text.as_bytes()).map_err(|e| Error::io(path, "write", e))?;
    output.commit()
}

fn read(path: &Path) -> Result<String> {
    convert::json::read_text(path, MAX_BYTES)
}

/// A digest of the version, the options and every input: results of one key are the same bytes.
pub fn cache_key(input: &Path, files: &[PathBuf], common: &Common) -> Result<String> {
    let digests = digested(files, common)?;
    let all = json!([BUILD, VERSION, location::model_name(input), options(), described(&digests, input)]);
    Ok(gguf::digest::sha256(all.to_string().as_bytes()))
}

/// Digests with progress.
pub fn digested(files: &[PathBuf], common: &Common) -> Result<Vec<FileDigest>> {
    let total = files.iter().filter_map(|path| Some(fs::metadata(path).ok()?.len())).sum();
    let progress = Progress::bytes(common.progress, common.quiet, "digesting", total);
    let digests = digest_files(files, &progress)?;
    progress.finish();
    Ok(digests)
}

/// A file in a manifest.
struct Named {
    name: String,
    sha256: String,
    bytes: u64,
}

/// A manifest that was read.
struct Manifest {
    path: PathBuf,
    source: String,
    output: Option<String>,
    options: Map<String, Value>,
    version: String,
    inputs: Vec<Named>,
    outputs: Vec<Named>,
}

impl Manifest {
    fn open(path: &Path) -> Result<Manifest> {
        let fault = |what: &str| Error::input(format!("is no manifest of this program: {what}")).at(path);
        let all: Value = serde_json::from_str(&read(path)?).map_err(|e| fault("not JSON").caused_by(e))?;
        let build = &all["predicate"]["buildDefinition"];
        if all["_type"] != STATEMENT || build["buildType"] != BUILD {
            return Err(fault("another type of statement"));
        }
        let parameters = &build["externalParameters"];
        let files = |list: &Value| -> Option<Vec<Named>> {
            let file = |f: &Value| {
                let (name, sha256) = (f["name"].as_str()?.to_owned(), f["digest"]["sha256"].as_str()?.to_owned());
                // A name that leads elsewhere is none that this program writes.
                let plain = !name.is_empty() && name.split('/').all(|part| !matches!(part, "" | "." | ".."));
                plain.then_some(Named { name, sha256, bytes: f["annotations"]["bytes"].as_u64()? })
            };
            list.as_array()?.iter().map(file).collect()
        };
        let output = parameters["output"].as_str().map(str::to_owned);
        if output.as_deref().is_some_and(|name| name.contains(['/', '\\']) || matches!(name, "" | "." | "..")) {
            return Err(fault("an output in another folder"));
        }
        Ok(Manifest {
            path: path.to_path_buf(),
            source: parameters["source"].as_str().unwrap_or_default().to_owned(),
            output,
            options: parameters["options"].as_object().cloned().ok_or_else(|| fault("no options"))?,
            version: all["predicate"]["runDetails"]["builder"]["version"]["quantize"]
                .as_str()
                .unwrap_or_default()
                .into(),
            inputs: files(&build["resolvedDependencies"]).ok_or_else(|| fault("no list of sources"))?,
            outputs: files(&all["subject"]).ok_or_else(|| fault("no list of results"))?,
        })
    }
}

/// Whether the manifest is of this run and neither an input nor an output has changed since it was written: the sizes are
/// those of the record, and no file is younger than it.
pub fn is_current(args: &Args, input: &Path, inputs: &[PathBuf], folder: &Path) -> Result<bool> {
    let Some(path) = args.record.manifest.as_deref().filter(|path| path.is_file()) else { return Ok(false) };
    let Ok(manifest) = Manifest::open(path) else { return Ok(false) };
    if manifest.version != VERSION
        || manifest.options != options()
        || manifest.source != location::model_name(input)
        || manifest.inputs.len() != inputs.len()
    {
        return Ok(false);
    }
    let written = fs::metadata(path).and_then(|meta| meta.modified()).map_err(|e| Error::io(path, "examine", e))?;
    let unchanged = |path: &Path, bytes: u64| {
        fs::metadata(path).is_ok_and(|m| m.len() == bytes && m.modified().is_ok_and(|time| time <= written))
    };
    let recorded: BTreeMap<&str, u64> = manifest.inputs.iter().map(|file| (file.name.as_str(), file.bytes)).collect();
    let same_inputs = inputs
        .iter()
        .all(|path| recorded.get(name_below(path, input).as_str()).is_some_and(|&bytes| unchanged(path, bytes)));
    Ok(same_inputs && manifest.outputs.iter().all(|file| unchanged(&folder.join(&file.name), file.bytes)))
}

/// Derive a result again from its source and compare: the bytes are the proof
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The manifest that --manifest wrote
    manifest: PathBuf,

    /// The checkpoint folder or GGUF file that it was made from
    #[arg(long, value_name = "MODEL")]
    source: PathBuf,

    /// Other files that it was made with, such as the importance matrix
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Compare the result in this folder as well, by its digests
    #[arg(long, value_name = "FOLDER")]
    result: Option<PathBuf>,
}

/// What was compared, and how it ended.
struct Comparison {
    what: &'static str,
    name: String,
    says: &'static str,
}

/// Runs `quantize verify`.
pub fn verify(args: &VerifyArgs, common: &Common) -> Result<Exit> {
    let manifest = Manifest::open(&args.manifest)?;
    let source = location::find(&args.source, common)?;
    let mut found = inputs_of(&manifest, args, &source, common)?;
    if let Some(folder) = &args.result {
        found.extend(compare("result", &manifest.outputs, |file| Some(folder.join(&file.name)), common)?);
    }
    // With another source there is nothing to derive.
    if found.iter().all(|one| one.says == SAME) {
        let folder = OutputFolder::create(&manifest.path.with_extension("derived"), false, &[])?;
        derive(&manifest, args, &source, folder.temporary())?;
        let derived = |file: &Named| Some(folder.temporary().join(&file.name));
        found.extend(compare("derived", &manifest.outputs, derived, common)?);
    }
    let holds = found.iter().all(|one| one.says == SAME);
    let document = || {
        let files = found.iter().map(|c| json!({"what": c.what, "name": c.name, "says": c.says}));
        let fields = json!({"manifest": quote::json(&args.manifest), "holds": holds, "compared": files.collect::<Vec<_>>(),
            "made_by": manifest.version});
        Ok(cli::document("quantize-verify-1", VERSION, &cli::Files::default(), fields))
    };
    let table = || {
        let left = cli::Align::Left;
        let mut table = cli::Table::new(&[("", left), ("file", left), ("SHA-256", left)]);
        found.iter().for_each(|c| table.row([c.what.to_owned(), quote::text(&c.name), c.says.to_owned()]));
        let end = match holds {
            true => "verified: the same source and options give the same bytes\n".to_owned(),
            false if manifest.version != VERSION => {
                format!("not verified; it was made by version {}, this is {VERSION}\n", quote::text(&manifest.version))
            }
            false => "not verified\n".to_owned(),
        };
        Ok(table.render() + &end)
    };
    common.result(document, table)?;
    Ok(if holds { Exit::Done } else { Exit::No })
}

const SAME: &str = "same";

fn compare(
    what: &'static str,
    files: &[Named],
    place: impl Fn(&Named) -> Option<PathBuf>,
    common: &Common,
) -> Result<Vec<Comparison>> {
    let mut all = Vec::with_capacity(files.len());
    for file in files {
        let says = match place(file).filter(|path| path.is_file()) {
            None => "missing",
            Some(path) => match digested(&[path], common)?.iter().all(|d| d.sha256 == file.sha256) {
                true => SAME,
                false => "differs",
            },
        };
        all.push(Comparison { what, name: file.name.clone(), says });
    }
    Ok(all)
}

/// The file beside the model that a name in the manifest means.
fn side<'a>(args: &'a VerifyArgs, name: &str) -> Option<&'a PathBuf> {
    args.files.iter().find(|path| path.file_name().is_some_and(|n| n.to_string_lossy() == name))
}

fn inputs_of(manifest: &Manifest, args: &VerifyArgs, source: &Path, common: &Common) -> Result<Vec<Comparison>> {
    let place = |file: &Named| {
        if let Some(path) = side(args, &file.name) {
            return Some(path.clone());
        }
        Some(if source.is_dir() { source.join(&file.name) } else { source.with_file_name(&file.name) })
    };
    compare("source", &manifest.inputs, place, common)
}

/// Runs this program again with the options of the manifest, into a folder.
fn derive(manifest: &Manifest, args: &VerifyArgs, source: &Path, folder: &Path) -> Result<()> {
    let refused = |what: String| Error::input(what).at(&manifest.path);
    let mut command = cli::again("quantize")?;
    command.arg(source).arg("--quiet").arg("--no-check-tokenizer");
    for (name, value) in &manifest.options {
        let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !plain || ASIDE.contains(&name.as_str()) {
            return Err(refused(format!("has the option \"{}\", which decides no bytes", name.escape_debug())));
        }
        if FOLDERS.contains(&name.as_str()) {
            return Err(refused(format!("was made with --{name}, which needs another folder"))
                .help("make the merged model a GGUF file first; then a manifest can be verified from it"));
        }
        let values = match value {
            Value::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        for value in values {
            match value {
                Value::Bool(true) => _ = command.arg(format!("--{name}")),
                Value::String(text) if FILES.contains(&name.as_str()) => {
                    let path = side(args, text).ok_or_else(|| {
                        refused(format!("was made with --{name} {}", quote::text(text)))
                            .help(format!("give that file with --file {}", quote::text(text)))
                    })?;
                    command.arg(format!("--{name}")).arg(path);
                }
                Value::String(text) => _ = command.arg(format!("--{name}={text}")),
                _ => return Err(refused(format!("has the option --{name} without a word for it"))),
            }
        }
    }
    let output = manifest.output.as_ref().map_or_else(|| folder.to_path_buf(), |name| folder.join(name));
    command.arg("-o").arg(output);
    let done = command.output().map_err(|e| Error::io(source, "derive from", e))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(refused("cannot be derived again".into()).caused_by(Error::input(said.trim().to_owned())))
}
