//! What comparisons of tokens and of vectors share: options, candidates, the gate, and how a report is published.

use std::io::Write;
use std::path::{Path, PathBuf};

use eval::embed::Pool;
use eval::encoded::{Encoded, Precision};
use eval::model::Model;
use eval::report::gate::{self, Gate, Judged, Limit, LimitRule, Measure, Verdict, parse_share};
use eval::report::{self, Origin, Quantized};
use eval::tensors::counterpart;
use eval::weights::{Arithmetic, Weights};
use gguf::cli::{Common, Exit, Output, parse_bytes, parse_count, print, say};
use gguf::{Error, Metadata, Result};
use serde_json::Value;

use super::parts::PartArgs;
use super::passages::TextArgs;
use super::{ArithmeticArgs, DeviceArgs, Opened, files_of};

/// The most bytes of a file of limits.
const LARGEST_GATE: u64 = 1 << 20;

/// Tokens of a chunk where nothing else is said.
const CONTEXT: usize = 512;

/// Fewer scored positions than this say nothing with any confidence.
const LEAST_POSITIONS: usize = 100;

/// Measure how far models, or types encoded in memory, are from a base on a text
///
/// Of embedding models the text has a line for each text (or is JSON lines, as `evaluate embed` takes them), and vectors are
/// compared: cosine to the base's, rank correlation of all pairwise similarities, overlap of the ten nearest. Of rerankers
/// and classifiers, scores are.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  evaluate compare tiny-llama --text sample.txt
  evaluate compare tiny-llama --type q8_0,q4_k_m,nf4 --text sample.txt --html report.html
  evaluate compare tiny-llama Tiny-Llama-4.2M-Q4_K_M.gguf --text sample.txt --json
  evaluate compare tiny-llama --type q8_0 --text sample.txt --save-base base.gguf
  evaluate compare Tiny-Llama-4.2M-Q4_K_M.gguf --base-from base.gguf --text sample.txt
  evaluate compare tiny-llama --type q8_0 --text wiki=sample.txt --text code=code.txt --gate gate.toml
  evaluate compare bge-small-en-v1.5 --type q8_0,q4_k_m --text questions.txt --min-cosine 0.99 --min-overlap 90%
  evaluate compare tiny-llama --type q4_k_m --imatrix imatrix.gguf --text sample.txt --max-kld 0.01 --max-ppl-increase 1%

Exit codes: 0 done and within the limits, 1 beyond a limit, 2 wrong usage, 3 bad input, 4 the system failed.")]
pub struct Args {
    /// The base: a GGUF file or a checkpoint folder; with --base-from, which stands for it, it may be left out
    #[arg(value_name = "BASE")]
    pub base: PathBuf,

    /// Models to compare with it
    #[arg(value_name = "MODEL")]
    pub models: Vec<PathBuf>,

    /// Types to encode the base's own weights to, in memory: file types of `quantize`, nf4, nf4-double, fp4, fp4-double,
    /// int8; separated by commas or given again [default without models: q8_0,q6_k,q5_k_m,q4_k_m,iq4_xs,q3_k_m,q2_k,nf4]
    #[arg(long = "type", short = 't', alias = "types", value_delimiter = ',', value_name = "TYPE")]
    pub types: Vec<Precision>,

    #[command(flatten)]
    pub text: TextArgs,

    /// Tokens of a chunk [default: 512]; of an embedding model's texts at most [default: what it was made for]
    #[arg(long, short, value_name = "TOKENS")]
    pub ctx: Option<usize>,

    /// At most so many chunks of each text
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub chunks: Option<usize>,

    /// What stands in front of every text of an embedding model, such as 'query: '
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub prefix: String,

    /// Compare vectors that states are pooled to in this way, whatever the model says
    #[arg(long, value_enum, value_name = "HOW")]
    pub pooling: Option<Pool>,

    /// An importance matrix for the types that are encoded
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,

    /// Save the base's final hidden states, to compare with later without it; as FILE.kld its log-probabilities, as
    /// llama-perplexity stores them
    #[arg(long, value_name = "FILE")]
    pub save_base: Option<PathBuf>,

    /// Take the base's predictions from a saved base, or from a .kld file of llama-perplexity
    #[arg(long, value_name = "FILE", conflicts_with = "save_base")]
    pub base_from: Option<PathBuf>,

    /// The saved base is all there is of it: every model that is named is compared
    #[arg(long, requires = "base_from", conflicts_with_all = ["types", "part"])]
    pub no_base: bool,

    /// Memory for hidden states and what a layer makes of them
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes, value_name = "SIZE")]
    pub max_memory: u64,

    #[command(flatten)]
    pub arithmetic: ArithmeticArgs,

    #[command(flatten)]
    pub device: DeviceArgs,

    #[command(flatten)]
    pub part: PartArgs,

    /// Divide the types and models among the parts, rather than the text
    #[arg(long, requires = "part", help_heading = "Several machines")]
    pub by_types: bool,

    /// The folder that parts go to
    #[arg(long, short, requires = "part", value_name = "PATH", help_heading = "Several machines")]
    pub output: Option<PathBuf>,

    #[command(flatten)]
    pub show: Show,
}

/// How a comparison is shown and judged.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Print every statistic as CSV
    #[arg(long, help_heading = "Output", conflicts_with_all = ["json", "markdown"])]
    pub csv: bool,

    /// Print the table as Markdown
    #[arg(long, help_heading = "Output", conflicts_with = "json")]
    pub markdown: bool,

    /// Write a self-contained page
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub html: Option<PathBuf>,

    /// Write a quality card: Markdown for a model's page, with the table, digests of the texts and the commands
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub card: Option<PathBuf>,

    /// Print wide tables: all columns, and names in full
    #[arg(long, help_heading = "Output", conflicts_with_all = ["csv", "markdown", "json"])]
    pub wide: bool,

    /// Write the verdicts of the gate as JUnit XML
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub junit: Option<PathBuf>,

    /// Write the broken limits as a SARIF log, for code scanning
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub sarif: Option<PathBuf>,

    /// Print broken limits, and those that hold narrowly, as GitHub annotations
    #[arg(long, help_heading = "Output")]
    pub github: bool,

    /// Replace files that exist
    #[arg(long, help_heading = "Output")]
    pub force: bool,

    /// The most that PPL(Q)/PPL(base) may exceed 1, such as 1%
    #[arg(long, value_parser = |t: &str| Measure::PplIncrease.limit(t), value_name = "SHARE", help_heading = "Gate")]
    max_ppl_increase: Option<Limit>,

    /// The largest mean KL divergence, in nats
    #[arg(long, value_parser = |t: &str| Measure::Kld.limit(t), value_name = "NATS", help_heading = "Gate")]
    max_kld: Option<Limit>,

    /// The largest KL divergence that 1 % of the positions may exceed, in nats
    #[arg(long = "max-kld-99", value_parser = |t: &str| Measure::Kld99.limit(t), value_name = "NATS", help_heading = "Gate")]
    max_kld_99: Option<Limit>,

    /// The largest KL divergence of any position, in nats
    #[arg(long, value_parser = |t: &str| Measure::KldMaximum.limit(t), value_name = "NATS", help_heading = "Gate")]
    max_kld_maximum: Option<Limit>,

    /// The most that the mean Δp of the right token may be off 0, such as 0.5%
    #[arg(long, value_parser = |t: &str| Measure::DeltaP.limit(t), value_name = "SHARE", help_heading = "Gate")]
    max_delta_p: Option<Limit>,

    /// The largest root mean square of Δp, such as 2%
    #[arg(long, value_parser = |t: &str| Measure::DeltaPRms.limit(t), value_name = "SHARE", help_heading = "Gate")]
    max_delta_p_rms: Option<Limit>,

    /// The least share of positions with the same top token, such as 95%
    #[arg(long, value_parser = |t: &str| Measure::SameTop.limit(t), value_name = "SHARE", help_heading = "Gate")]
    min_same_top: Option<Limit>,

    /// The least mean cosine of an embedding model's vectors to the base's, such as 0.99
    #[arg(long, value_parser = |t: &str| Measure::Cosine.limit(t), value_name = "COSINE", help_heading = "Gate")]
    min_cosine: Option<Limit>,

    /// The least rank correlation of pairwise similarities, or of a reranker's scores
    #[arg(long, value_parser = |t: &str| Measure::RankCorrelation.limit(t), value_name = "SHARE", help_heading = "Gate")]
    min_rank_correlation: Option<Limit>,

    /// The least share of the ten nearest, or of a reranker's ten best, that are so under the base, such as 90%
    #[arg(long, value_parser = |t: &str| Measure::Overlap.limit(t), value_name = "SHARE", help_heading = "Gate")]
    min_overlap: Option<Limit>,

    /// A TOML file of limits, which may differ by type and by text: `[[limits]]` with `types`, `texts` and the options above
    /// as keys; an option goes before what the file says
    #[arg(long, value_name = "FILE", help_heading = "Gate")]
    pub gate: Option<PathBuf>,

    /// Ask that a limit holds with this certainty, such as 95%, given the errors of measurement
    #[arg(long, value_parser = parse_share, value_name = "SHARE", help_heading = "Gate")]
    pub confidence: Option<f64>,
}

impl Show {
    /// The files that are written.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.html, &self.card, &self.junit, &self.sarif].into_iter().flatten().map(PathBuf::as_path)
    }

    /// The limits of the gate: those of a file, and those of options, which go before them.
    pub fn gate(&self) -> Result<Gate> {
        let limits: Vec<Limit> = [
            self.max_ppl_increase,
            self.max_kld,
            self.max_kld_99,
            self.max_kld_maximum,
            self.max_delta_p,
            self.max_delta_p_rms,
            self.min_same_top,
            self.min_cosine,
            self.min_rank_correlation,
            self.min_overlap,
        ]
        .into_iter()
        .flatten()
        .collect();
        let mut gate = match &self.gate {
            Some(path) => Gate::parse(&convert::json::read_text(path, LARGEST_GATE)?).map_err(|e| e.at(path))?,
            None => Gate::default(),
        };
        gate.rules.push(LimitRule { limits, ..LimitRule::default() });
        gate.confidence = self.confidence.or(gate.confidence);
        gate.check()?;
        for (given, option) in [
            (self.confidence.is_some(), "--confidence"),
            (self.junit.is_some(), "--junit"),
            (self.sarif.is_some(), "--sarif"),
            (self.github, "--github"),
            (self.gate.is_some(), "--gate"),
        ] {
            if given && gate.limits().next().is_none() {
                return Err(Error::usage(format!("{option} needs a limit to judge by")).help(
                    "add --max-ppl-increase, --max-kld or --min-same-top; for vectors --min-cosine or --min-overlap",
                ));
            }
        }
        Ok(gate)
    }

    /// Judges every model on each text. A gate file may serve several runs, so names in it that no model or text
    /// has are told of; where nothing is left to judge by, a slip of the pen must not pass for limits that hold.
    pub fn judge(&self, on: &[(&[impl Judged], &str)], gate: &Gate) -> Result<Vec<Verdict>> {
        let names: Vec<&str> = on.first().into_iter().flat_map(|(models, _)| models.iter().map(Judged::name)).collect();
        let texts: Vec<&str> = on.iter().map(|(_, text)| *text).collect();
        let verdicts: Vec<Verdict> =
            on.iter().flat_map(|(models, text)| gate::judge(models, gate, text, on.len() > 1)).collect();
        if let Some(path) = &self.gate {
            if verdicts.is_empty() {
                return Err(Error::input("has no limit for what is measured here").at(path).help(format!(
                    "models: {}; text: {}",
                    names.join(", "),
                    texts.join(", ")
                )));
            }
            let unknown = gate.unknown(&names, &texts);
            if !unknown.is_empty() {
                let file = gguf::quote::path(path);
                say(&format!("note: {file} has limits for {}, not measured here", unknown.join(", ")));
            }
        }
        Ok(verdicts)
    }

    /// Whether the positions of each text say enough for what is asked.
    pub fn enough(&self, gate: &Gate, texts: &[report::Text], scored: usize) -> Result<()> {
        let least = texts.iter().map(|t| (t.chunks * scored, t)).min_by_key(|(positions, _)| *positions);
        if let Some((positions, text)) = least
            && gate.confidence.is_some()
            && positions < LEAST_POSITIONS
        {
            return Err(Error::input(format!(
                "{positions} scored positions of {} are too few to be confident of anything; at least {LEAST_POSITIONS} are \
                 needed",
                text.name
            ))
            .help("give a longer text, or leave --confidence out"));
        }
        Ok(())
    }
}

impl Args {
    /// The files that are read.
    pub fn inputs(&self) -> Vec<PathBuf> {
        let models = self.models.iter().chain([&self.base]);
        files_of(models, self.text.files().iter().chain(&self.base_from).chain(&self.imatrix))
    }

    /// Tokens of a chunk.
    pub fn context(&self) -> usize {
        self.ctx.unwrap_or(CONTEXT)
    }

    /// Refuses what only all parts together can give.
    pub fn check_part(&self, gate: &Gate) -> Result<()> {
        let shown =
            gate.limits().next().is_some() || self.show.csv || self.show.markdown || self.show.files().next().is_some();
        if self.part.part.is_some() && shown {
            return Err(Error::usage("a part alone is neither shown nor judged")
                .help("give reports and limits to `evaluate gather`"));
        }
        if self.part.part.is_some() && self.save_base.is_some() {
            return Err(Error::usage("--save-base needs all chunks, not a part of them"));
        }
        Ok(())
    }
}

/// One model that is compared.
pub struct Candidate<'a> {
    pub name: String,
    pub bytes: u64,
    pub model: &'a Model,
    pub weights: Box<dyn Weights + 'a>,
    /// Where the base is encoded in memory.
    pub encoded: Option<&'a Encoded<'a>>,
    /// The part of a file's weights that is quantized.
    pub quantized: Quantized,
    /// What a file says of its importance matrix.
    pub importance: Option<Origin>,
}

/// The arithmetic of a run: what the option and the gate ask for.
pub fn arithmetic(option: ArithmeticArgs, gate: &Gate) -> Result<Arithmetic> {
    match (option.asked(), gate.arithmetic) {
        (Some(asked), Some(wanted)) if asked != wanted => {
            Err(Error::usage(format!("the gate's limits are for {wanted} arithmetic, --arithmetic asks for {asked}"))
                .help("leave --arithmetic out, or take another gate file"))
        }
        (asked, wanted) => Ok(asked.or(wanted).unwrap_or_default()),
    }
}

/// The arithmetic of a comparison in words. The base is what the others are measured by, so it is always exact.
pub fn arithmetic_words(arithmetic: Arithmetic) -> String {
    let base = if arithmetic == Arithmetic::Exact { "" } else { "; the base in f32" };
    format!("{}{base}, statistics in f64", arithmetic.words())
}

/// Opens a model that is compared and checks that it is the same model as the base.
pub fn open_other(base: &Opened, path: &Path, common: &Common) -> Result<Opened> {
    let other = Opened::open(path, common)?;
    let wrong = |message: String| Error::input(message).at(path).help("compare precisions of one and the same model");
    let (a, b) = (base.source.metadata(), other.source.metadata());
    if a.architecture() != b.architecture() {
        return Err(wrong(format!("is a {}, the base is a {}", other.model.name(), base.model.name())));
    }
    if base.model.vocabulary != other.model.vocabulary {
        let (ours, theirs) = (base.model.vocabulary, other.model.vocabulary);
        return Err(wrong(format!("has a vocabulary of {theirs} tokens, the base {ours}")));
    }
    if let Some(key) = differing(a, b, |key| key.starts_with("tokenizer.") && !TOKENIZER_ASIDE.contains(&key)).first() {
        return Err(wrong(format!("has another tokenizer than the base: {key} differs")));
    }
    for ours in base.source.tensors() {
        counterpart(ours, other.source.as_ref()).map_err(|e| e.at(path))?;
    }
    Ok(other)
}

/// Keys of the tokenizer that change no token of a text.
const TOKENIZER_ASIDE: &[&str] = &["tokenizer.chat_template", "tokenizer.chat_templates", "tokenizer.huggingface.json"];

/// Keys in which two models differ, of those that are `wanted`, in order.
pub fn differing(a: &Metadata, b: &Metadata, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let ours = a.iter().filter(|(key, value)| b.get(key) != Some(*value)).map(|(key, _)| key);
    let theirs = b.iter().filter(|(key, _)| a.get(key).is_none()).map(|(key, _)| key);
    ours.chain(theirs).filter(|key| wanted(key)).map(str::to_owned).collect()
}

/// A report in each form, made when it is asked for.
pub struct Forms<'a> {
    pub json: &'a dyn Fn() -> Value,
    pub csv: &'a dyn Fn() -> String,
    pub markdown: &'a dyn Fn() -> String,
    pub terminal: &'a dyn Fn() -> String,
    pub html: &'a dyn Fn() -> String,
    /// A quality card, where there is one.
    pub card: Option<&'a dyn Fn() -> String>,
    pub junit: &'a dyn Fn() -> String,
}

/// Prints the result, writes the files, says what the gate says.
pub fn publish(
    args: &Show,
    common: &Common,
    forms: &Forms<'_>,
    verdicts: &[Verdict],
    inputs: &[PathBuf],
) -> Result<Exit> {
    let sarif = || {
        let place = args.gate.as_deref().or(inputs.first().map(PathBuf::as_path)).unwrap_or(Path::new("gate.toml"));
        format!("{:#}\n", gate::sarif(place, verdicts))
    };
    let none = || String::new();
    if args.card.is_some() && forms.card.is_none() {
        return Err(Error::usage("--card is for models that predict tokens").help("--markdown prints a table"));
    }
    let card = forms.card.unwrap_or(&none);
    for (path, text) in
        [(&args.html, forms.html), (&args.card, card), (&args.junit, forms.junit), (&args.sarif, &sarif)]
    {
        if let Some(path) = path {
            let mut out = Output::create(path, args.force, inputs)?;
            out.write_all(text().as_bytes()).map_err(|e| Error::io(path, "write", e))?;
            out.commit()?;
        }
    }
    match (common.wants_document(), args.csv, args.markdown) {
        (true, ..) => {
            let mut json = (forms.json)();
            if !verdicts.is_empty() {
                json["gate"] = verdicts.iter().map(Verdict::json).collect();
            }
            let outputs: Vec<PathBuf> = args.files().map(Path::to_path_buf).collect();
            super::print_document(common, "compare", inputs, &outputs, json)?;
        }
        (_, true, _) => print(&(forms.csv)())?,
        (.., true) => print(&(forms.markdown)())?,
        _ => print(&(forms.terminal)())?,
    }
    if args.github {
        eprint!("{}", gate::github(verdicts));
    }
    let broken: Vec<&Verdict> = verdicts.iter().filter(|v| !v.holds).collect();
    for verdict in &broken {
        eprintln!("gate: {}", verdict.sentence);
    }
    Ok(if broken.is_empty() { Exit::Done } else { Exit::No })
}

/// Refuses limits of what is not measured.
pub fn check_measures(gate: &Gate, known: &[Measure], of: &str) -> Result<()> {
    let Some(other) = gate.limits().find(|l| !known.contains(&l.measure)) else { return Ok(()) };
    let names: Vec<String> = known.iter().map(|m| format!("--{}", m.option())).collect();
    Err(Error::usage(format!("--{} says nothing of {of}", other.measure.option())).help(names.join(", ")))
}
