//! `gguf modelfile`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use gguf::cli::{Common, Exit, Output, bytes, count, print, say};
use gguf::memory::Cache;
use gguf::modelfile::{self, cache_line};
use gguf::{Error, File, Result, Source, quote};
use serde_json::json;

/// Write a Modelfile, from which `ollama create NAME -f Modelfile` takes a finished file
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gguf modelfile model-Q4_K_M.gguf                   writes Modelfile beside it
  gguf modelfile model-Q4_K_M.gguf --num-ctx 32768   and says what the cache takes then
  gguf modelfile model-Q4_K_M.gguf --print
  gguf modelfile adapter.gguf --from llama3.1:8b")]
pub struct Modelfile {
    /// The GGUF file
    file: PathBuf,

    /// The Modelfile [default: Modelfile beside FILE]
    #[arg(short, long, value_name = "PATH", conflicts_with = "print")]
    output: Option<PathBuf>,

    /// Print it on standard output instead
    #[arg(long, conflicts_with = "json")]
    print: bool,

    /// Run with this context; without it, Ollama chooses one that fits into memory
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(1..))]
    num_ctx: Option<u64>,

    /// The licence's text
    #[arg(long, value_name = "TEXT FILE")]
    license: Option<PathBuf>,

    /// The projector of a model that sees or hears
    #[arg(long = "projector", alias = "mmproj", value_name = "FILE")]
    mmproj: Option<PathBuf>,

    /// What an adapter is for: a model's name in Ollama, or a file
    #[arg(long, value_name = "MODEL")]
    from: Option<String>,

    /// Replace the output if it exists
    #[arg(long)]
    force: bool,
}

/// No licence is longer than this.
const MAX_LICENSE: u64 = 1 << 20;

impl Modelfile {
    pub fn run(self, common: &Common) -> Result<Exit> {
        if gguf::split::parse(&self.file).is_some_and(|(_, _, count)| count > 1) {
            return Err(Error::input("is a shard of a split model, and Ollama takes one file")
                .at(&self.file)
                .help("`gguf merge` makes one file of the shards"));
        }
        let file = File::open(&self.file)?;
        let target = self.output.clone().unwrap_or_else(|| self.file.with_file_name("Modelfile"));
        let license = self.license.as_deref().map(read_license).transpose()?;
        let cache = match self.num_ctx {
            Some(n) => Some(cache_line(&Cache::new(&file).map_err(|e| e.at(&self.file))?, n, bytes, count)),
            None => None,
        };
        let name = named_from(&self.file, &target)?;
        let projector = self.mmproj.as_deref().map(|path| named_from(path, &target)).transpose()?;
        let options = modelfile::Options {
            license: license.as_deref(),
            num_ctx: self.num_ctx,
            cache: cache.as_deref(),
            projector: projector.as_deref(),
            adapted: self.from.as_deref(),
        };
        let text = modelfile::write(file.metadata(), &name, &options).map_err(|e| e.at(&self.file))?;
        if let Some(line) = cache.filter(|_| !common.quiet) {
            say(&format!("note: {line}"));
        }
        if self.print {
            print(&text)?;
            return Ok(Exit::Done);
        }
        let mut output = Output::create(&target, self.force, &[&self.file])?;
        output.write_all(text.as_bytes()).map_err(|e| Error::io(&target, "write", e))?;
        output.commit()?;
        if common.wants_document() {
            let fields = json!({"file": quote::json(&target), "model": quote::json(&self.file), "text": text});
            super::print_document(common, "modelfile", false, &[self.file], &[target], fields)?;
        } else if !common.quiet {
            say(&format!("{}: for `ollama create NAME -f {}`", quote::path(&target), quote::path(&target)));
        }
        Ok(Exit::Done)
    }
}

/// What a Modelfile calls a file: its name where both are in one folder, else the whole path.
fn named_from(file: &Path, modelfile: &Path) -> Result<String> {
    let whole = file.canonicalize().map_err(|e| Error::io(file, "find", e))?;
    let folder =
        |path: &Path| path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).canonicalize();
    let same = matches!((folder(file), folder(modelfile)), (Ok(a), Ok(b)) if a == b);
    let name = if same { Path::new(file.file_name().unwrap_or_default()) } else { &whole };
    let text =
        name.to_str().ok_or_else(|| Error::usage("a Modelfile cannot name a file that is not UTF-8").at(file))?;
    Ok(text.to_owned())
}

fn read_license(path: &Path) -> Result<String> {
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let mut text = Vec::new();
    file.take(MAX_LICENSE + 1).read_to_end(&mut text).map_err(|e| Error::io(path, "read", e))?;
    if text.len() as u64 > MAX_LICENSE {
        return Err(Error::input("is larger than a licence").at(path));
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}
