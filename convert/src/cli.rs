//! What programs that begin at a checkpoint folder share: the options of a conversion, the comparison of tokenizers, the
//! Modelfile beside the result.

use std::io::Write;
use std::path::{Path, PathBuf};

use gguf::cli::{Common, NO_INPUTS, Output, bytes, count, say};
use gguf::memory::Cache;
use gguf::modelfile::{self, cache_line};
use gguf::{Error, Metadata, Result, Source};
use serde_json::{Value, json};

use crate::side_files::LICENSES;
use crate::tokenizer::{self, Report};
use crate::{Options, OutType, Part, json, location, lora, packed};

/// How a folder is read, beside the type of what is written.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Reading a checkpoint folder")]
pub struct FolderArgs {
    /// The model's name instead of the one that is derived
    #[arg(long, value_name = "NAME")]
    pub model_name: Option<String>,

    /// A JSON file of general.* keys that override those that are derived
    #[arg(long, value_name = "FILE")]
    pub metadata: Option<PathBuf>,

    /// Leave the model card (README.md) aside
    #[arg(long)]
    pub no_model_card: bool,

    /// The pre-tokenizer instead of the one that is found
    #[arg(long, value_name = "NAME")]
    pub pre: Option<String>,

    /// Read Mistral's own form: params.json and consolidated*.safetensors, with tekken.json or tokenizer.model.v*
    #[arg(long)]
    pub mistral_format: bool,

    /// With --mistral-format, write no chat template but one that the folder has
    #[arg(long, requires = "mistral_format")]
    pub disable_mistral_community_chat_template: bool,

    /// Take the layers behind the pooling too (sentence-transformers' Dense modules of EmbeddingGemma)
    #[arg(long)]
    pub sentence_transformers_dense_modules: bool,

    /// Merge a LoRA adapter (a PEFT folder) into the weights, times a factor
    #[arg(long, value_name = "DIR[=SCALE]", value_parser = adapter)]
    pub merge_lora: Vec<(PathBuf, f32)>,

    /// The folder of the model that a draft (EAGLE 3, DFlash, DSpark) is made for
    #[arg(long, value_name = "DIR")]
    pub target_model_dir: Option<PathBuf>,

    /// Write the layers of multi-token prediction alone, with the embeddings and the head that they share
    #[arg(long, conflicts_with_all = ["no_mtp", "dspark"])]
    pub mtp: bool,

    /// Leave the layers of multi-token prediction out
    #[arg(long, alias = "no-nextn", conflicts_with = "dspark")]
    pub no_mtp: bool,

    /// Write the DSpark draft inside DeepSeek V4 alone
    #[arg(long)]
    pub dspark: bool,
}

impl FolderArgs {
    /// The options of a conversion to this type. Adapters are fetched where their names are those of the hub.
    ///
    /// # Errors
    /// An adapter that is not there.
    pub fn options(&self, outtype: OutType, blocks: packed::Blocks, common: &Common) -> Result<Options> {
        let merge = self.merge_lora.iter().map(|(adapter, scale)| Ok((location::find(adapter, common)?, *scale)));
        Ok(Options {
            outtype,
            model_name: self.model_name.clone(),
            metadata: self.metadata.clone(),
            pre: self.pre.clone(),
            skip_model_card: self.no_model_card,
            blocks,
            merge: merge.collect::<Result<_>>()?,
            mistral_format: self.mistral_format,
            dense_modules: self.sentence_transformers_dense_modules,
            no_community_template: self.disable_mistral_community_chat_template,
            part: match (self.mtp, self.no_mtp, self.dspark) {
                (true, ..) => Part::Prediction,
                (_, true, _) => Part::Trunk,
                (.., true) => Part::DSpark,
                _ => Part::Model,
            },
            target: self.target_model_dir.clone(),
            ..Options::default()
        })
    }

    /// The first option that only means something for a folder, where one is given.
    pub fn given(&self) -> Option<&'static str> {
        let all = [
            (self.model_name.is_some(), "--model-name"),
            (self.metadata.is_some(), "--metadata"),
            (self.no_model_card, "--no-model-card"),
            (self.pre.is_some(), "--pre"),
            (self.mistral_format, "--mistral-format"),
            (self.sentence_transformers_dense_modules, "--sentence-transformers-dense-modules"),
            (!self.merge_lora.is_empty(), "--merge-lora"),
            (self.target_model_dir.is_some(), "--target-model-dir"),
            (self.mtp, "--mtp"),
            (self.no_mtp, "--no-mtp"),
            (self.dspark, "--dspark"),
        ];
        all.into_iter().find(|(given, _)| *given).map(|(_, name)| name)
    }
}

/// Parses `DIR` or `DIR=SCALE`.
fn adapter(text: &str) -> Result<(PathBuf, f32), String> {
    match text.rsplit_once('=').map(|(folder, scale)| (folder, scale.parse::<f32>())) {
        Some((folder, Ok(scale))) if scale.is_finite() => Ok((folder.into(), scale)),
        Some(_) if !Path::new(text).exists() => Err(format!("\"{text}\" is not of the form DIR=NUMBER")),
        _ => Ok((text.into(), 1.0)),
    }
}

/// The checkpoint that an adapter belongs to.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct BaseArgs {
    /// The checkpoint that an adapter was made for [default: the one that it names itself]
    #[arg(long, visible_alias = "base-model-id", value_name = "DIR", help_heading = "Reading a checkpoint folder")]
    pub base: Option<PathBuf>,
}

impl BaseArgs {
    /// What stands for the base of the adapter in a folder: what was given, else what the adapter names.
    ///
    /// # Errors
    /// An adapter that names none.
    pub fn of(&self, adapter: &Path) -> Result<PathBuf> {
        let named = match &self.base {
            Some(base) => Some(base.clone()),
            None => lora::named_base(adapter)?.map(PathBuf::from),
        };
        named.ok_or_else(|| {
            Error::usage("the folder holds an adapter, not a checkpoint, and does not say of which model")
                .at(adapter)
                .help("--base DIR names the checkpoint it was made for")
        })
    }
}

/// Whether tokenizers are compared.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TokenizerArgs {
    /// Do not compare the tokenizer that was written with the folder's own
    #[arg(long)]
    pub no_check_tokenizer: bool,
}

/// Encodes texts with the folder's tokenizer and with the one that the keys describe. `text` is compared besides.
///
/// # Errors
/// Tokenizers that disagree, files that cannot be read.
pub fn check_tokenizer(folder: &Path, metadata: &Metadata, text: Option<&Path>, common: &Common) -> Result<Report> {
    let text = text.map(|path| json::read_text(path, json::MAX_BYTES)).transpose()?;
    let comparison = tokenizer::check_tokenizer(folder, metadata, text.as_deref()).map_err(|e| {
        e.help("the file would encode text differently; --pre names another pre-tokenizer, --no-check-tokenizer writes it all the same")
    })?;
    if !common.quiet {
        say(&format!(
            "tokenizer: {} tokens of {} texts agree with {}",
            count(comparison.tokens as u64),
            comparison.texts,
            comparison.source
        ));
        comparison.notes.iter().for_each(|note| say(&format!("note: {note}")));
    }
    Ok(comparison)
}

/// A comparison of tokenizers as JSON.
pub fn tokenizer_json(c: &Report) -> Value {
    json!({"source": c.source, "texts": c.texts, "tokens": c.tokens, "notes": c.notes})
}

/// The Modelfile beside the result.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Ollama")]
pub struct ModelfileArgs {
    /// Write a Modelfile for Ollama beside the output
    #[arg(long)]
    pub modelfile: bool,

    /// In the Modelfile, run with this context; without it, Ollama chooses one that fits into memory
    #[arg(long, value_name = "TOKENS", requires = "modelfile", value_parser = clap::value_parser!(u64).range(1..))]
    pub num_ctx: Option<u64>,
}

/// No licence is longer than this.
const MAX_LICENSE: u64 = 1 << 20;

impl ModelfileArgs {
    /// Refuses a Modelfile of a model in so many files, before any work.
    ///
    /// # Errors
    /// More files than one, of which Ollama takes none.
    pub fn check(&self, files: usize) -> Result<()> {
        match files {
            2.. if self.modelfile => Err(Error::usage(format!("the model has {files} files, and Ollama takes one"))
                .help("leave --modelfile out, or the options that split the model")),
            _ => Ok(()),
        }
    }

    /// The Modelfile for a result of this name, finished but for its own name. `folder` is where the licence is.
    ///
    /// # Errors
    /// A name that a Modelfile cannot hold, a Modelfile that is there already (without `force`).
    pub fn create(
        &self,
        source: &dyn Source,
        folder: Option<&Path>,
        target: &Path,
        force: bool,
        common: &Common,
    ) -> Result<Option<Output>> {
        if !self.modelfile {
            return Ok(None);
        }
        let license = folder.and_then(|folder| LICENSES.iter().map(|name| folder.join(name)).find(|p| p.is_file()));
        let license = license.map(|p| json::read_at_most(&p, MAX_LICENSE)).transpose()?;
        let license = license.as_deref().map(String::from_utf8_lossy);
        let cache =
            self.num_ctx.map(|n| Ok::<_, Error>(cache_line(&Cache::new(source)?, n, bytes, count))).transpose()?;
        if let Some(line) = cache.as_deref().filter(|_| !common.quiet) {
            say(&format!("note: {line}"));
        }
        let options = modelfile::Options {
            license: license.as_deref(),
            num_ctx: self.num_ctx,
            cache: cache.as_deref(),
            ..Default::default()
        };
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let text = modelfile::write(source.metadata(), &name, &options)?;
        let path = target.with_file_name("Modelfile");
        let mut output = Output::create(&path, force, NO_INPUTS)?;
        output.write_all(text.as_bytes()).map_err(|e| Error::io(&path, "write", e))?;
        Ok(Some(output))
    }
}
