//! `--part` of the measuring commands: what a part's run has in common.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use eval::parts::{Found, Numbers, share};
use eval::perplexity::Chunks;
use gguf::cli::{Common, Exit, Output, bytes, say};
use gguf::{Error, Result, Source};
use quantize::SimdPath;
use quantize::parts::Part;
use serde_json::{Value, json};

/// The end of a part's file name.
pub const ENDING: &str = ".part";

/// The option of a command that several machines share.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Several machines")]
pub struct PartArgs {
    /// Measure part I of N alone, for `evaluate gather`, into the folder -o; `auto` takes I and N from a Slurm array or a
    /// Kubernetes indexed job
    #[arg(long, value_name = "I/N", value_parser = quantize::parts::argument)]
    pub part: Option<Part>,
}

/// What a part is of: its command, its division, and what all parts of the run must have in common.
pub struct Run {
    command: &'static str,
    part: Part,
    by: &'static str,
    run: BTreeMap<String, String>,
    begun: Instant,
}

impl Run {
    /// A part's run of a command on a model, the text of this digest and these options, each by a name for people.
    pub fn new(
        (command, part, by): (&'static str, Part, &'static str),
        source: &dyn Source,
        text_digest: String,
        options: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Result<Run> {
        let mut run = BTreeMap::from([
            ("version of the program".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("model".to_owned(), quantize::parts::source_digest(source)?),
            ("text".to_owned(), text_digest),
        ]);
        run.extend(options.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())));
        Ok(Run { command, part, by, run, begun: Instant::now() })
    }

    /// Which part it is.
    pub fn part(&self) -> Part {
        self.part
    }

    /// The chunks of this part.
    pub fn chunks(&self, chunks: Chunks) -> Result<Chunks> {
        let range = share(self.part, chunks.inputs.len(), "chunks")?;
        Ok(chunks.only(range))
    }

    /// The part's file, ready to be written; `None` where it is finished already.
    pub fn output(&self, model: &Path, folder: &Path, force: bool, inputs: &[PathBuf]) -> Result<Option<Output>> {
        let path = self.path(model, folder)?;
        if !force && self.earlier(&path)?.is_some() {
            return Ok(None);
        }
        Output::create(&path, force, inputs).map(Some)
    }

    /// Where the part's file goes, in a folder that is made.
    pub fn path(&self, model: &Path, folder: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create the folder", e))?;
        let (Part { no, of }, command) = (self.part, self.command);
        Ok(folder.join(format!("{}-{command}-{no:05}-of-{of:05}{ENDING}", super::name_of(model))))
    }

    /// What an earlier run of the same part left there.
    pub fn earlier(&self, path: &Path) -> Result<Option<Found>> {
        if !path.exists() {
            return Ok(None);
        }
        let found = Found::open(path)?;
        match found.differs(&self.found(Value::Null, BTreeMap::new())) {
            Some(what) => Err(Error::usage(format!("was made by another run, with another {what}"))
                .at(path)
                .help("choose another folder with -o, or replace it with --force")),
            None => Ok(Some(found)),
        }
    }

    fn found(&self, facts: Value, numbers: BTreeMap<String, Numbers>) -> Found {
        // On a device its kernels stand for the path.
        let device = ["/device/name", "/protocol/device/name"].iter().find_map(|at| facts.pointer(at)?.as_str());
        Found {
            path: device.map_or_else(|| SimdPath::current().to_string(), str::to_owned),
            command: self.command.into(),
            part: self.part,
            by: self.by.into(),
            run: self.run.clone(),
            facts,
            seconds: self.begun.elapsed().as_secs_f64(),
            numbers,
        }
    }

    /// Writes what was found.
    pub fn write(
        &self,
        output: Output,
        facts: Value,
        numbers: BTreeMap<String, Numbers>,
        common: &Common,
    ) -> Result<Exit> {
        let path = output.target().to_path_buf();
        let (size, seconds) = self.save(output, facts, numbers)?;
        self.say(Some((&path, size)), seconds, common)
    }

    /// Writes what was found so far: bytes of the file, and seconds.
    pub fn save(&self, mut output: Output, facts: Value, numbers: BTreeMap<String, Numbers>) -> Result<(u64, f64)> {
        let found = self.found(facts, numbers);
        let content = found.to_bytes()?;
        output.write_all(&content).map_err(|e| Error::io(output.target(), "write", e))?;
        output.commit()?;
        Ok((content.len() as u64, found.seconds))
    }

    /// Says that nothing had to be done.
    pub fn finished(&self, common: &Common) -> Result<Exit> {
        self.say(None, 0.0, common)
    }

    /// Says what was written, or that nothing had to be done.
    pub fn say(&self, written: Option<(&Path, u64)>, seconds: f64, common: &Common) -> Result<Exit> {
        if common.wants_document() {
            let fields = json!({
                "command": self.command, "part": self.part.no, "parts": self.part.of, "by": self.by,
                "output": written.map(|w| gguf::quote::json(w.0)), "skipped": written.is_none(), "seconds": seconds,
            });
            let outputs: Vec<PathBuf> = written.iter().map(|w| w.0.to_path_buf()).collect();
            super::print_document(common, "part", &[], &outputs, fields)?;
        } else if !common.quiet {
            say(&match written {
                Some((path, size)) => {
                    format!("{}: {}, {}, {seconds:.1} s", gguf::quote::path(path), self.part, bytes(size))
                }
                None => format!("{} was finished before", self.part),
            });
        }
        Ok(Exit::Done)
    }
}

/// The folder that parts go to.
pub fn folder(output: Option<&PathBuf>) -> Result<&Path> {
    output.map(PathBuf::as_path).ok_or_else(|| Error::usage("--part needs -o FOLDER, the folder that all parts go to"))
}
