//! `evaluate compare`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use eval::baseline::{Identity, SavedBase, Saver, fingerprint};
use eval::compare::{Baseline, Comparison, compare};
use eval::device::Device;
use eval::divergence::Position;
use eval::embed::{self};
use eval::encoded::{Encoded, Precision};
use eval::forward::{Head, Stream};
use eval::kld::{KldFile, KldWriter};
use eval::parts::{Gathered, Numbers, share};
use eval::perplexity::{Chunks, Protocol, Schedule};
use eval::report::gate::{self, Gate, Measure};
use eval::report::{self, Card, Compared, Facts, Origin, Quantized};
use eval::tensors::TensorError;
use eval::weights::{Arithmetic, Deployed, OnDevice, SourceWeights};
use gguf::cli::{Common, Exit, Output, each_type_once, say};
use gguf::{Error, Metadata, Result, Source, TensorInfo};
use quantize::parts::Part;
use serde_json::{Value, json};

use super::comparison::{
    Args, Candidate, Forms, Show, arithmetic, arithmetic_words, check_measures, differing, open_other, publish,
};
use super::parts::{self};
use super::passages::Cut;
use super::similarity;
use super::{Opened, ProgressBar, name_of, open_importance, weights_of};

/// What is compared where neither models nor types are named.
const DEFAULT_TYPES: &str = "q8_0,q6_k,q5_k_m,q4_k_m,iq4_xs,q3_k_m,q2_k,nf4";

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
