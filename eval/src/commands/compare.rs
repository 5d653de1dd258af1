//! `evaluate compare`.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use eval::baseline::{Identity, SavedBase, Saver, fingerprint};
use eval::compare::{Baseline, Comparison, compare};
use eval::device::{Device, OnDevice};
use eval::divergence::Position;
use eval::embed::{self, Pool};
use eval::encoded::{Encoded, Precision};
use eval::forward::{Head, Stream};
use eval::kld::{KldFile, KldWriter};
use eval::model::Model;
use eval::parts::{Gathered, Numbers, share};
use eval::perplexity::{Chunks, Protocol, Schedule};
use eval::report::gate::{self, Gate, Judged, Limit, LimitRule, Measure, Verdict, parse_part, parse_share};
use eval::report::{self, Card, Compared, Facts, Origin, Quantized};
use eval::tensors::{TensorError, counterpart};
use eval::weights::{Arithmetic, Deployed, SourceWeights, Weights};
use gguf::cli::{Common, Exit, Output, each_type_once, parse_bytes, parse_count, parse_limit, print, say};
use gguf::{Error, Metadata, Result, Source, TensorInfo};
use quantize::parts::Part;
use serde_json::{Value, json};

use super::parts::{self, PartArgs};
use super::passages::{Cut, TextArgs};
use super::similarity;
use super::{ArithmeticArgs, DeviceArgs, Opened, ProgressBar, files_of, name_of, open_importance, weights_of};

/// The most bytes of a file of limits.
const LARGEST_GATE: u64 = 1 << 20;

/// What is compared where neither models nor types are named.
const DEFAULT_TYPES: &str = "q8_0,q6_k,q5_k_m,q4_k_m,iq4_xs,q3_k_m,q2_k,nf4";

/// Tokens of a chunk where nothing else is said.
const CONTEXT: usize = 512;

/// What may be limited of a model that predicts tokens.
const TOKEN_MEASURES: &[Measure] = &[
    Measure::PplIncrease,
    Measure::Kld,
    Measure::Kld99,
    Measure::KldMaximum,
    Measure::DeltaP,
    Measure::DeltaPRms,
    Measure::SameTop,
];

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
    models: Vec<PathBuf>,

    /// Types to encode the base's own weights to, in memory: file types of `quantize`, nf4, nf4-double, fp4, fp4-double,
    /// int8; separated by commas or given again [default without models: q8_0,q6_k,q5_k_m,q4_k_m,iq4_xs,q3_k_m,q2_k,nf4]
    #[arg(long = "type", short = 't', alias = "types", value_delimiter = ',', value_name = "TYPE")]
    types: Vec<Precision>,

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
    imatrix: Option<PathBuf>,

    /// Save the base's final hidden states, to compare with later without it; as FILE.kld its log-probabilities, as
    /// llama-perplexity stores them
    #[arg(long, value_name = "FILE")]
    pub save_base: Option<PathBuf>,

    /// Take the base's predictions from a saved base, or from a .kld file of llama-perplexity
    #[arg(long, value_name = "FILE", conflicts_with = "save_base")]
    pub base_from: Option<PathBuf>,

    /// The saved base is all there is of it: every model that is named is compared
    #[arg(long, requires = "base_from", conflicts_with_all = ["types", "part"])]
    no_base: bool,

    /// Memory for hidden states and what a layer makes of them
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes, value_name = "SIZE")]
    pub max_memory: u64,

    #[command(flatten)]
    arithmetic: ArithmeticArgs,

    #[command(flatten)]
    pub device: DeviceArgs,

    #[command(flatten)]
    pub part: PartArgs,

    /// Divide the types and models among the parts, rather than the text
    #[arg(long, requires = "part", help_heading = "Several machines")]
    by_types: bool,

    /// The folder that parts go to
    #[arg(long, short, requires = "part", value_name = "PATH", help_heading = "Several machines")]
    output: Option<PathBuf>,

    #[command(flatten)]
    pub show: Show,
}

/// How a comparison is shown and judged.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Print every statistic as CSV
    #[arg(long, help_heading = "Output", conflicts_with_all = ["json", "markdown"])]
    csv: bool,

    /// Print the table as Markdown
    #[arg(long, help_heading = "Output", conflicts_with = "json")]
    markdown: bool,

    /// Write a self-contained page
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    html: Option<PathBuf>,

    /// Write a quality card: Markdown for a model's page, with the table, digests of the texts and the commands
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    card: Option<PathBuf>,

    /// Print wide tables: all columns, and names in full
    #[arg(long, help_heading = "Output", conflicts_with_all = ["csv", "markdown", "json"])]
    wide: bool,

    /// Write the verdicts of the gate as JUnit XML
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    junit: Option<PathBuf>,

    /// Write the broken limits as a SARIF log, for code scanning
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    sarif: Option<PathBuf>,

    /// Print broken limits, and those that hold narrowly, as GitHub annotations
    #[arg(long, help_heading = "Output")]
    github: bool,

    /// Replace files that exist
    #[arg(long, help_heading = "Output")]
    pub force: bool,

    /// The most that PPL(Q)/PPL(base) may exceed 1, such as 1%
    #[arg(long, value_parser = parse_share, value_name = "SHARE", help_heading = "Gate")]
    max_ppl_increase: Option<f64>,

    /// The largest mean KL divergence, in nats
    #[arg(long, value_parser = parse_limit, value_name = "NATS", help_heading = "Gate")]
    max_kld: Option<f64>,

    /// The largest KL divergence that 1 % of the positions may exceed, in nats
    #[arg(long = "max-kld-99", value_parser = parse_limit, value_name = "NATS", help_heading = "Gate")]
    max_kld_99: Option<f64>,

    /// The largest KL divergence of any position, in nats
    #[arg(long, value_parser = parse_limit, value_name = "NATS", help_heading = "Gate")]
    max_kld_maximum: Option<f64>,

    /// The most that the mean Δp of the right token may be off 0, such as 0.5%
    #[arg(long, value_parser = parse_share, value_name = "SHARE", help_heading = "Gate")]
    max_delta_p: Option<f64>,

    /// The largest root mean square of Δp, such as 2%
    #[arg(long, value_parser = parse_share, value_name = "SHARE", help_heading = "Gate")]
    max_delta_p_rms: Option<f64>,

    /// The least share of positions with the same top token, such as 95%
    #[arg(long, value_parser = parse_part, value_name = "SHARE", help_heading = "Gate")]
    min_same_top: Option<f64>,

    /// The least mean cosine of an embedding model's vectors to the base's, such as 0.99
    #[arg(long, value_parser = parse_share, value_name = "COSINE", help_heading = "Gate")]
    min_cosine: Option<f64>,

    /// The least rank correlation of pairwise similarities, or of a reranker's scores
    #[arg(long, value_parser = parse_share, value_name = "SHARE", help_heading = "Gate")]
    min_rank_correlation: Option<f64>,

    /// The least share of the ten nearest, or of a reranker's ten best, that are so under the base, such as 90%
    #[arg(long, value_parser = parse_share, value_name = "SHARE", help_heading = "Gate")]
    min_overlap: Option<f64>,

    /// A TOML file of limits, which may differ by type and by text: `[[limits]]` with `types`, `texts` and the options above
    /// as keys; an option goes before what the file says
    #[arg(long, value_name = "FILE", help_heading = "Gate")]
    gate: Option<PathBuf>,

    /// Ask that a limit holds with this certainty, such as 95%, given the errors of measurement
    #[arg(long, value_parser = parse_share, value_name = "SHARE", help_heading = "Gate")]
    pub confidence: Option<f64>,
}

impl Show {
    /// The files that are written.
    fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.html, &self.card, &self.junit, &self.sarif].into_iter().flatten().map(PathBuf::as_path)
    }

    /// The limits of the gate: those of a file, and those of options, which go before them.
    fn gate(&self) -> Result<Gate> {
        let of = |measure, limit: Option<f64>| limit.map(|limit| Limit { measure, limit });
        let limits: Vec<Limit> = [
            of(Measure::PplIncrease, self.max_ppl_increase),
            of(Measure::Kld, self.max_kld),
            of(Measure::Kld99, self.max_kld_99),
            of(Measure::KldMaximum, self.max_kld_maximum),
            of(Measure::DeltaP, self.max_delta_p),
            of(Measure::DeltaPRms, self.max_delta_p_rms),
            of(Measure::SameTop, self.min_same_top),
            of(Measure::Cosine, self.min_cosine),
            of(Measure::RankCorrelation, self.min_rank_correlation),
            of(Measure::Overlap, self.min_overlap),
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
    fn enough(&self, gate: &Gate, texts: &[report::Text], scored: usize) -> Result<()> {
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
    fn context(&self) -> usize {
        self.ctx.unwrap_or(CONTEXT)
    }

    /// Refuses what only all parts together can give.
    fn check_part(&self, gate: &Gate) -> Result<()> {
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

/// The part of the weights that is quantized.
fn quantized(tensors: &[TensorInfo]) -> Quantized {
    let part = || tensors.iter().filter(|t| t.ty().is_quantized());
    Quantized { weights: part().map(TensorInfo::elements).sum(), bytes: part().map(TensorInfo::bytes).sum() }
}

/// What a file says of the importance matrix that it was made with.
fn stated_origin(metadata: &Metadata) -> Option<Origin> {
    let text = |key: &str| metadata.str(key).map(str::to_owned);
    let file = text("quantize.imatrix.file")?;
    // Other quantizers write the whole path.
    let file = file.rsplit(['/', '\\']).next().unwrap_or(&file).to_owned();
    let chunks = metadata.u64("quantize.imatrix.chunks_count");
    Some(Origin { file, datasets: text("quantize.imatrix.dataset").into_iter().collect(), chunks, sha256: None })
}

/// Where an importance matrix came from.
fn origin_of(path: &Path, importance: &quantize::plan::Importance) -> Result<Origin> {
    let matrix = &importance.matrix;
    Ok(Origin {
        file: importance.file.clone(),
        datasets: matrix.datasets.clone(),
        chunks: Some(u64::from(matrix.chunks)),
        sha256: Some(gguf::digest::sha256_file(path, |_| ())?.0),
    })
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<Exit> {
    let begun = Instant::now();
    let gate = args.show.gate()?;
    args.check_part(&gate)?;
    let arithmetic = arithmetic(args.arithmetic, &gate)?;
    let written: Vec<&Path> = args.show.files().chain(args.save_base.as_deref()).collect();
    let inputs = args.inputs();
    for (i, target) in written.iter().enumerate() {
        Output::check(target, args.show.force, &inputs)?;
        if written[..i].contains(target) {
            return Err(Error::usage("is to be two files at once").at(*target).help("give each output its own name"));
        }
    }
    each_type_once(&args.types)?;
    let base = Opened::open(&args.base, common)?;
    let stand_in = args.stand_in(&base)?;
    // Where a saved base stands for the base, the first model is one of those that are compared.
    let first = stand_in.as_ref().map(|_| &args.base);
    let models: Vec<&PathBuf> = first.into_iter().chain(&args.models).collect();
    let importance = args.imatrix.as_deref().map(open_importance).transpose()?;
    let others = models.iter().map(|path| open_other(&base, path, common)).collect::<Result<Vec<_>>>()?;
    let precisions = if args.types.is_empty() && models.is_empty() {
        DEFAULT_TYPES.split(',').map(str::parse).collect::<Result<Vec<Precision>>>()?
    } else {
        args.types.clone()
    };
    let encoded = precisions
        .iter()
        .map(|&precision| Encoded::new(&base.source, precision, importance.as_ref()).map_err(|e| e.at(&args.base)))
        .collect::<Result<Vec<_>>>()?;

    let mut candidates: Vec<Candidate<'_>> = models
        .iter()
        .zip(&others)
        .map(|(path, opened)| {
            Ok(Candidate {
                name: name_of(path),
                bytes: opened.source.stored_bytes(),
                model: &opened.model,
                weights: weights_of(&opened.source, arithmetic).map_err(|e| e.at(path))?,
                encoded: None,
                quantized: quantized(opened.source.tensors()),
                importance: stated_origin(opened.source.metadata()),
            })
        })
        .collect::<Result<_>>()?;
    let types = encoded.iter().zip(&precisions).map(|(e, p)| Candidate {
        name: p.to_string(),
        bytes: e.bytes(),
        model: &base.model,
        weights: match arithmetic {
            Arithmetic::Exact => Box::new(e),
            Arithmetic::Deployed => Box::new(Deployed::new(e)),
        },
        encoded: Some(e),
        quantized: e.quantized(),
        importance: None,
    });
    candidates.extend(types);

    if embed::embeds(&base.model) || args.pooling.is_some() {
        let told: Vec<String> = models
            .iter()
            .zip(&others)
            .filter_map(|(path, other)| Some(format!("{}: {}", name_of(path), differences(&base, other)?)))
            .chain(
                notes(&encoded, &precisions).into_iter().map(|(note, names)| format!("{}: {note}", names.join(", "))),
            )
            .collect();
        return similarity::run(args, common, &base, &candidates, arithmetic, (&gate, &told));
    }
    check_measures(&gate, TOKEN_MEASURES, "a model that predicts tokens")?;
    if !args.prefix.is_empty() {
        return Err(Error::usage("--prefix is for embedding models, this one predicts tokens"));
    }

    let passages = args.text.read()?;
    let (chunks, texts) = passages.chunks(&base.tokenizer, Cut::new(args.context(), args.chunks, Protocol::Halves))?;
    let positions = chunks.scored.len() * chunks.inputs.len();
    args.show.enough(&gate, &texts, chunks.scored.len()).map_err(|e| e.at(passages.place()))?;

    let part =
        args.part.part.map(|part| begin_part(args, part, arithmetic, &base, &others, passages.digest())).transpose()?;
    let mut chunks = chunks;
    let all_chunks = chunks.inputs.len();
    let mut output = None;
    if let Some(run) = &part {
        if args.by_types {
            let share = share(run.part(), candidates.len(), "types and models")?;
            candidates = candidates.drain(share).collect();
        } else {
            chunks = run.chunks(chunks)?;
        }
        output = run.output(&args.base, parts::folder(args.output.as_ref())?, args.show.force, &inputs)?;
        if output.is_none() {
            return run.finished(common);
        }
    }

    let identity = match args.save_base.is_some() || args.base_from.is_some() {
        // A base that is not there cannot be held against the saved one.
        true if stand_in.is_some() => Some(Identity { model: String::new(), text: passages.digest() }),
        true => Some(Identity { model: fingerprint(&base.source)?, text: passages.digest() }),
        false => None,
    };
    let bar = ProgressBar::new(common, "compare", chunks.tokens() as u64);
    if !common.quiet {
        for (path, other) in models.iter().zip(&others).filter(|_| stand_in.is_none()) {
            if let Some(differences) = differences(&base, other) {
                bar.say(&format!("note: {}: {differences}", name_of(path)));
            }
        }
        for (note, names) in notes(&encoded, &precisions) {
            bar.say(&format!("note: {}: {note}", names.join(", ")));
        }
    }
    let stands_alone = stand_in.is_some();
    let (found, device) = args.device.run(common, |device| {
        measure(args, &base, (&candidates, device), &chunks, identity.as_ref(), stands_alone, &bar)
    })?;
    bar.finish();

    let parameters = base.source.tensors().iter().map(TensorInfo::elements).sum();
    let of_base = StandIn { name: name_of(&args.base), parameters: None, bytes: Some(base.source.stored_bytes()) };
    let of_base = stand_in.unwrap_or(of_base);
    let origin = args.imatrix.as_deref().zip(importance.as_ref()).map(|(path, i)| origin_of(path, i)).transpose()?;
    let facts = Facts {
        base: of_base.name,
        architecture: base.model.name().into(),
        parameters: of_base.parameters.unwrap_or(parameters),
        bytes: of_base.bytes,
        protocol: report::Protocol {
            text: passages.name(),
            text_sha256: passages.digest(),
            tokens: texts.iter().map(|t| t.tokens).sum(),
            texts,
            context: args.context(),
            chunks: all_chunks,
            first_scored: chunks.scored.start,
            positions,
            arithmetic: arithmetic_words(arithmetic),
            device,
            seconds: begun.elapsed().as_secs_f64(),
        },
        scored: chunks.scored.len(),
        models: candidates
            .iter()
            .map(|c| Compared {
                name: c.name.clone(),
                bytes: c.bytes,
                quantized: c.encoded.map_or(c.quantized, Encoded::quantized),
                importance: match (c.encoded, &origin) {
                    (Some(_), origin) => origin.clone(),
                    (None, _) => c.importance.clone(),
                },
                tensors: c.encoded.map_or(Vec::new(), Encoded::errors),
            })
            .collect(),
    };
    if let (Some(run), Some(output)) = (part, output) {
        let (facts, numbers) = to_part(&facts, &found)?;
        return run.write(output, facts, numbers, common);
    }
    let card = Card { commands: args.commands(&models, &facts) };
    show(&args.show, common, facts, &found, (args.base_from.as_deref(), &card), &gate, &inputs)
}

/// What is known of a base that is not there, but for what was saved of it.
struct StandIn {
    name: String,
    parameters: Option<u64>,
    bytes: Option<u64>,
}

impl Args {
    /// The command that measures the same, with names in place of paths.
    fn commands(&self, models: &[&PathBuf], facts: &Facts) -> Vec<String> {
        let name = |path: &Path| -> String {
            let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
            let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+=,".contains(c));
            if plain { name } else { format!("'{}'", name.replace('\'', "'\\''")) }
        };
        let mut command = String::from("evaluate compare");
        let mut add = |word: String| command += &format!(" {word}");
        let base = models.first().is_none_or(|first| **first != self.base).then_some(&self.base);
        base.into_iter().chain(models.iter().copied()).for_each(|path| add(name(path)));
        let types: Vec<String> = facts.models.iter().skip(models.len()).map(|m| m.name.to_lowercase()).collect();
        if !types.is_empty() {
            add(format!("--types {}", types.join(",")));
        }
        let files = self.text.files();
        for (i, text) in facts.protocol.texts.iter().enumerate() {
            let file = files.get(i).map_or_else(|| name(Path::new(&text.name)), |path| name(path));
            add(if file == text.name { format!("--text {file}") } else { format!("--text {}={file}", text.name) });
        }
        add(format!("--ctx {}", facts.protocol.context));
        if let Some(chunks) = self.chunks {
            add(format!("--chunks {chunks}"));
        }
        for (option, path) in [("--imatrix", &self.imatrix), ("--base-from", &self.base_from)] {
            if let Some(path) = path {
                add(format!("{option} {}", name(path)));
            }
        }
        vec![command]
    }

    /// Whether a saved base stands for a base that is not among the models: where that was said, where the first model is
    /// another than was saved, and where one file alone is given to be compared with log-probabilities.
    fn stand_in(&self, first: &Opened) -> Result<Option<StandIn>> {
        let Some(path) = &self.base_from else { return Ok(None) };
        let alone = !self.no_base && (!self.types.is_empty() || self.base.is_dir());
        if alone || self.part.part.is_some() {
            return Ok(None);
        }
        if is_kld(path)? {
            let stands = self.no_base || self.models.is_empty();
            return Ok(stands.then(|| StandIn { name: name_of(path), parameters: None, bytes: None }));
        }
        let saved = SavedBase::open(path)?;
        if !self.no_base && saved.model() == Some(&fingerprint(&first.source)?) {
            return Ok(None);
        }
        let (name, parameters, bytes) = saved.about();
        Ok(Some(StandIn { name: name.map_or_else(|| name_of(path), str::to_owned), parameters, bytes }))
    }
}

/// What the parts of a comparison have in common.
fn begin_part(
    args: &Args,
    part: Part,
    arithmetic: Arithmetic,
    base: &Opened,
    others: &[Opened],
    text_digest: String,
) -> Result<parts::Run> {
    let file = |path: &PathBuf| -> Result<Value> { Ok(gguf::digest::sha256_file(path, |_| ())?.0.into()) };
    let models: Vec<String> =
        others.iter().map(|o| quantize::parts::source_digest(&o.source)).collect::<Result<_>>()?;
    let names: Vec<String> = args.models.iter().map(|path| name_of(path)).collect();
    let types: Vec<String> = args.types.iter().map(Precision::to_string).collect();
    let by = if args.by_types { "types" } else { "chunks" };
    parts::Run::new(
        ("compare", part, by),
        &base.source,
        text_digest,
        [
            ("set of models", json!(models)),
            ("set of names", json!(names)),
            ("set of types", json!(types)),
            ("importance matrix", args.imatrix.as_ref().map(file).transpose()?.into()),
            ("saved base", args.base_from.as_ref().map(file).transpose()?.into()),
            ("context (--ctx)", json!(args.context())),
            ("number of chunks (--chunks)", json!(args.chunks)),
            ("arithmetic (--arithmetic)", json!(arithmetic)),
        ],
    )
}

/// A comparison of a part as facts and numbers.
fn to_part(facts: &Facts, found: &Comparison) -> Result<(Value, BTreeMap<String, Numbers>)> {
    let mut numbers = BTreeMap::from([
        ("base.nll".to_owned(), Numbers::F64(found.base_nll.clone())),
        ("base.clipped".to_owned(), Numbers::I64(vec![found.clipped as i64])),
    ]);
    let mut tensors = Vec::with_capacity(facts.models.len());
    for (i, (model, positions)) in facts.models.iter().zip(&found.models).enumerate() {
        let mut put = |name: &str, these: Numbers| numbers.insert(format!("{i}.{name}"), these);
        put("nll", Numbers::F64(positions.iter().map(|p| p.nll).collect()));
        put("kld", Numbers::F32(positions.iter().map(|p| p.kld).collect()));
        put("delta_p", Numbers::F32(positions.iter().map(|p| p.delta_p).collect()));
        put("same_top", Numbers::I8(positions.iter().map(|p| p.same_top.into()).collect()));
        let errors = model.tensors.iter().flat_map(TensorError::numbers).collect();
        put("errors", Numbers::F64(errors));
        tensors.push(model.tensors.iter().map(|t| (&t.name, &t.ty, t.elements)).collect::<Vec<_>>());
    }
    let words = |value: serde_json::Result<Value>| value.map_err(|e| Error::usage("no facts").caused_by(e));
    let mut value = words(serde_json::to_value(facts))?;
    value["tensors"] = words(serde_json::to_value(tensors))?;
    Ok((value, numbers))
}

/// What all parts of a comparison come to: as one run would find it.
fn of_parts(parts: &Gathered) -> Result<(Facts, Comparison)> {
    let all = 0..parts.parts.len();
    let mut facts: Vec<Facts> = Vec::new();
    for (path, part) in parts.paths.iter().zip(&parts.parts) {
        let wrong = |e| Error::input("holds no comparison").at(path).caused_by(e);
        let mut one: Facts = serde_json::from_value(part.facts.clone()).map_err(wrong)?;
        let names: Vec<Vec<(String, String, u64)>> =
            serde_json::from_value(part.facts["tensors"].clone()).map_err(wrong)?;
        let at = facts.len();
        for (i, (model, names)) in one.models.iter_mut().zip(names).enumerate() {
            let errors = parts.f64s(at..at + 1, &format!("{i}.errors"))?;
            let errors = errors.as_chunks().0.iter();
            model.tensors = names.into_iter().zip(errors).map(|(n, e)| TensorError::from_numbers(n, e)).collect();
        }
        facts.push(one);
    }
    let by_types = parts.first().by == "types";
    let base = if by_types { 0..1 } else { all.clone() };
    let base_nll = parts.f64s(base.clone(), "base.nll")?;
    let mut models = Vec::new();
    // Where types are divided each part has models of its own, else a part of each model.
    let groups: Vec<Range<usize>> = if by_types { all.clone().map(|i| i..i + 1).collect() } else { vec![all] };
    for group in groups {
        if by_types
            && parts
                .f64s(group.clone(), "base.nll")?
                .iter()
                .map(|v| v.to_bits())
                .ne(base_nll.iter().map(|v| v.to_bits()))
        {
            return Err(Error::input("the base came to other numbers than in part 1")
                .at(&parts.paths[group.start])
                .help("run the parts on machines of one kind, or set DOWNCAST_SIMD alike on all"));
        }
        for i in 0..facts[group.start].models.len() {
            let name = |what: &str| format!("{i}.{what}");
            let (nll, kld) = (parts.f64s(group.clone(), &name("nll"))?, parts.f32s(group.clone(), &name("kld"))?);
            let (delta_p, same) =
                (parts.f32s(group.clone(), &name("delta_p"))?, parts.i8s(group.clone(), &name("same_top"))?);
            if [nll.len(), kld.len(), delta_p.len(), same.len()] != [base_nll.len(); 4] {
                return Err(
                    Error::input("holds another number of positions than its base").at(&parts.paths[group.start])
                );
            }
            let of = |((&nll, &kld), (&delta_p, &same)): ((&f64, &f32), (&f32, &i8))| Position {
                nll,
                kld,
                delta_p,
                same_top: same != 0,
            };
            models.push(nll.iter().zip(&kld).zip(delta_p.iter().zip(&same)).map(of).collect());
        }
    }
    let clipped = parts.i64s(base, "base.clipped")?.iter().map(|&n| usize::try_from(n).unwrap_or(0)).sum();
    let mut facts = facts.into_iter();
    let Some(mut whole) = facts.next() else { return Err(Error::usage("there is no part to gather")) };
    if by_types {
        whole.models.extend(facts.flat_map(|f| f.models));
    }
    whole.protocol.seconds = parts.seconds();
    if base_nll.len() != whole.protocol.positions {
        return Err(Error::input(format!(
            "the parts hold {} positions, the text has {}",
            base_nll.len(),
            whole.protocol.positions
        ))
        .at(&parts.paths[0]));
    }
    Ok((whole, Comparison { base_nll, models, clipped }))
}

/// Shows and judges a comparison that was made in parts.
pub fn gather(parts: &Gathered, args: &Show, common: &Common) -> Result<Exit> {
    let gate = args.gate()?;
    check_measures(&gate, TOKEN_MEASURES, "a model that predicts tokens")?;
    let (facts, found) = of_parts(parts)?;
    args.enough(&gate, &facts.protocol.texts, facts.scored).map_err(|e| e.at(&parts.paths[0]))?;
    show(args, common, facts, &found, (None, &Card::default()), &gate, &parts.paths)
}

/// Reports what was found, and judges it.
fn show(
    args: &Show,
    common: &Common,
    facts: Facts,
    found: &Comparison,
    (base_from, card): (Option<&Path>, &Card),
    gate: &Gate,
    inputs: &[PathBuf],
) -> Result<Exit> {
    if found.clipped > 0 && !common.quiet {
        say(&format!(
            "note: of {} right tokens {} lie at the floor of {}: the base's perplexity and what is measured \
             against it (PPL ratio, Δp) are bounds, the KL divergence is not concerned",
            facts.protocol.positions,
            found.clipped,
            base_from.map_or("the saved base".to_owned(), gguf::quote::path),
        ));
    }
    let report = facts.report(found);
    let on: Vec<(&[report::ModelRow], &str)> =
        report.by_text().map(|on| (&*on.models, on.protocol.text.as_str())).collect();
    let verdicts = args.judge(&on, gate)?;
    let forms = Forms {
        json: &|| report.json(),
        csv: &|| report::csv(&report),
        markdown: &|| report::markdown(&report),
        terminal: &|| report::terminal(&report, args.wide),
        html: &|| report::html(&report),
        card: Some(&|| report::card(&report, card)),
        junit: &|| gate::junit(&report.base.name, report.protocol.seconds, &verdicts),
    };
    publish(args, common, &forms, &verdicts, inputs)
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

/// What a person should know of the precisions: each note once, with the names it is about.
fn notes<'a>(encoded: &'a [Encoded<'_>], precisions: &[Precision]) -> Vec<(&'a str, Vec<String>)> {
    let mut notes: Vec<(&str, Vec<String>)> = Vec::new();
    for (encoded, precision) in encoded.iter().zip(precisions) {
        for note in encoded.notes() {
            match notes.iter_mut().find(|n| n.0 == note) {
                Some((_, names)) => names.push(precision.to_string()),
                None => notes.push((note, vec![precision.to_string()])),
            }
        }
    }
    notes
}

/// Runs what has to be run, saving the base where asked.
fn measure(
    args: &Args,
    base: &Opened,
    (candidates, device): (&[Candidate<'_>], Option<&Device>),
    chunks: &Chunks,
    identity: Option<&Identity>,
    stands_alone: bool,
    bar: &ProgressBar,
) -> Result<Comparison> {
    let stored = OnDevice::new(SourceWeights(&base.source), device);
    let stored = Stream { model: &base.model, weights: &stored };
    let on: Vec<_> = candidates.iter().map(|c| OnDevice::new(&*c.weights, device)).collect();
    let weights: Vec<Stream<'_>> =
        candidates.iter().zip(&on).map(|(c, weights)| Stream { model: c.model, weights }).collect();
    let plan = |streams: usize| Schedule::new(&base.model, streams, chunks.inputs[0].tokens.len(), args.max_memory);
    let go = |baseline: Baseline<'_>, streams: usize, keep: &mut dyn FnMut(&[f32]) -> Result<()>| {
        compare(baseline, &weights, chunks, plan(streams), Some(&|done, total| bar.at(done, total)), keep)
            .map_err(|e| e.at(&args.base))
    };
    let nothing = &mut |_: &[f32]| Ok(());
    match (&args.base_from, &args.save_base, identity) {
        (Some(path), ..) if is_kld(path)? => {
            let file = KldFile::open(path)?;
            check_kld(&file, base, chunks).map_err(|e| e.at(path))?;
            go(Baseline::Kld(&file), weights.len(), nothing)
        }
        (Some(path), _, Some(identity)) => {
            let saved = SavedBase::open(path)?;
            saved.check(identity, chunks, base.model.width)?;
            let of_file = if stands_alone { Some(OnDevice::new(SourceWeights(saved.head()?), device)) } else { None };
            let head = of_file.as_ref().map_or(stored, |of_file| Stream { model: &base.model, weights: of_file });
            go(Baseline::Saved(&saved, head), weights.len(), nothing)
        }
        (None, Some(path), Some(_)) if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("kld")) => {
            let output = Output::create(path, args.show.force, &args.inputs())?;
            let vocabulary = base.model.vocabulary;
            let mut writer = KldWriter::new(std::io::BufWriter::new(output), chunks, vocabulary)?;
            let limits = plan(weights.len() + 1).limits;
            let head = Head::load(&base.model, stored.weights, limits.decode_head, None)?;
            let found = go(Baseline::Run(stored), weights.len() + 1, &mut |hidden| {
                for block in hidden.chunks(base.model.width * limits.logit_rows.max(1)) {
                    writer.add(&head.logits(&base.model, block)?, vocabulary)?;
                }
                Ok(())
            })?;
            let output = writer.finish()?.into_inner().map_err(|e| Error::io(path, "write", e.into_error()))?;
            output.commit()?;
            Ok(found)
        }
        (None, Some(path), Some(identity)) => {
            let output = Output::create(path, args.show.force, &args.inputs())?;
            let mut saver =
                Saver::new(output, (&name_of(&args.base), &base.source), identity, chunks, base.model.width)?;
            let found = go(Baseline::Run(stored), weights.len() + 1, &mut |hidden| saver.add(hidden))?;
            saver.finish()?.commit()?;
            Ok(found)
        }
        _ => go(Baseline::Run(stored), weights.len() + 1, nothing),
    }
}

/// Whether a file is one of llama-perplexity rather than a saved base.
fn is_kld(path: &Path) -> Result<bool> {
    use std::io::Read;
    let mut magic = [0; 4];
    let mut file = std::fs::File::open(path).map_err(|e| Error::io(path, "open", e))?;
    match file.read_exact(&mut magic) {
        Ok(()) => Ok(magic != gguf::read::MAGIC),
        Err(_) => Ok(true),
    }
}

fn check_kld(file: &KldFile, base: &Opened, chunks: &Chunks) -> Result<()> {
    let wrong =
        |message: String| Error::input(message).help("let llama-perplexity write it again for this model and text");
    if file.vocabulary() != base.model.vocabulary {
        return Err(wrong(format!(
            "was written for a vocabulary of {}, the model has {}",
            file.vocabulary(),
            base.model.vocabulary
        )));
    }
    let context = chunks.inputs.first().map_or(0, |c| c.tokens.len());
    if file.context() != context || file.first_scored() != chunks.scored.start {
        return Err(wrong(format!("was written for chunks of {} tokens, not {context}", file.context()))
            .help(format!("--ctx {}", file.context())));
    }
    let asked = chunks.first + chunks.inputs.len();
    if file.chunks() < asked {
        return Err(wrong(format!("holds {} chunks, the text has {asked}", file.chunks()))
            .help(format!("--chunks {}", file.chunks())));
    }
    // The first token of a chunk may have become the beginning token in either.
    let same = |(i, chunk): (usize, &eval::forward::Input)| file.tokens(chunks.first + i)[1..] == chunk.tokens[1..];
    match chunks.inputs.iter().enumerate().position(|c| !same(c)) {
        None => Ok(()),
        Some(chunk) => Err(wrong(format!("was written for another text: chunk {chunk} has other tokens"))),
    }
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
fn differing(a: &Metadata, b: &Metadata, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let ours = a.iter().filter(|(key, value)| b.get(key) != Some(*value)).map(|(key, _)| key);
    let theirs = b.iter().filter(|(key, _)| a.get(key).is_none()).map(|(key, _)| key);
    ours.chain(theirs).filter(|key| wanted(key)).map(str::to_owned).collect()
}

/// How a model's hyperparameters differ from the base's, a line for people; nothing where they do not.
fn differences(base: &Opened, other: &Opened) -> Option<String> {
    let (a, b) = (base.source.metadata(), other.source.metadata());
    let prefix = format!("{}.", base.model.name());
    let shown = |metadata: &Metadata, key: &str| metadata.get(key).map_or("absent".into(), value_text);
    let each: Vec<String> = differing(a, b, |key| key.starts_with(&prefix))
        .iter()
        .map(|key| format!("{key} is {}, the base has {}", shown(b, key), shown(a, key)))
        .collect();
    (!each.is_empty()).then(|| each.join("; "))
}

/// A value as a person reads it.
fn value_text(value: &gguf::Value) -> String {
    match value {
        gguf::Value::F32(number) => number.to_string(),
        gguf::Value::Bool(flag) => flag.to_string(),
        gguf::Value::Array(array) => format!("a list of {}", array.len()),
        _ => match (value.as_str(), value.as_f64()) {
            (Some(text), _) => format!("\"{}\"", text.escape_debug()),
            (None, Some(number)) => number.to_string(),
            (None, None) => value.value_type().to_string(),
        },
    }
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
