//! `evaluate compare` of embedding models, rerankers and classifiers.

use std::time::Instant;

use eval::embed::{self, Head};
use eval::encoded::Encoded;
use eval::forward::Stream;
use eval::report::embedding::{self, Base, Change, EmbeddingRow as Row, Protocol, Report};
use eval::report::gate::{self, Gate, Measure};
use eval::similarity::{ScoreChange, Similarity};
use eval::weights::{Arithmetic, OnDevice, SourceWeights};
use gguf::cli::{Common, Exit};
use gguf::digest::sha256;
use gguf::{Error, Result, TensorInfo};

use super::comparison::{Args, Candidate, Forms, arithmetic_words, check_measures, publish};
use super::{Opened, ProgressBar, name_of, read_text, texts};

/// Fewer texts than this say nothing with any confidence.
const LEAST_TEXTS: usize = 20;

/// What may be limited of vectors.
const VECTORS: &[Measure] = &[Measure::Cosine, Measure::RankCorrelation, Measure::Overlap];

/// What may be limited of scores.
const SCORES: &[Measure] = &[Measure::RankCorrelation, Measure::Overlap];

/// Compares candidates with the base on the texts; `told` is what a person should know of the candidates.
pub fn run(
    args: &Args,
    common: &Common,
    base: &Opened,
    candidates: &[Candidate<'_>],
    arithmetic: Arithmetic,
    (gate, told): (&Gate, &[String]),
) -> Result<Exit> {
    let begun = Instant::now();
    let scores = embed::scores(&base.model) && args.pooling.is_none();
    let (known, kind) = if scores { (SCORES, "scores") } else { (VECTORS, "vectors") };
    check_measures(gate, known, kind)?;
    for (given, option) in [
        (args.chunks.is_some(), "--chunks"),
        (args.save_base.is_some(), "--save-base"),
        (args.base_from.is_some(), "--base-from"),
        (args.part.part.is_some(), "--part"),
    ] {
        if given {
            return Err(Error::usage(format!(
                "{option} is for models that predict tokens; of this one {kind} are compared"
            )));
        }
    }
    let file = args.text.one_file(kind)?;
    let all = read_text(file)?;
    let texts = texts::read(file, scores)?;
    let (inputs, cut) = texts::encode(base, &texts, &args.prefix, args.ctx).map_err(|e| e.at(file))?;
    if gate.confidence.is_some() && texts.len() < LEAST_TEXTS {
        return Err(Error::input(format!(
            "{} texts are too few to be confident of anything; at least {LEAST_TEXTS} are needed",
            texts.len()
        ))
        .at(file)
        .help("give more texts, or leave --confidence out"));
    }

    let tokens: usize = inputs.iter().map(|i| i.tokens.len()).sum();
    let bar = ProgressBar::new(common, "compare", tokens as u64);
    if !common.quiet {
        base.say_departures(&bar);
        if cut > 0 {
            bar.say(&format!("note: {cut} texts are longer than the model was made for, and were cut"));
        }
        told.iter().for_each(|note| bar.say(&format!("note: {note}")));
    }
    let ((mut found, pool), device) = args
        .device
        .run(common, |device| {
            let stored = OnDevice::new(SourceWeights(&base.source), device);
            let on: Vec<_> = candidates.iter().map(|c| OnDevice::new(&*c.weights, device)).collect();
            let streams: Vec<Stream<'_>> = std::iter::once(Stream { model: &base.model, weights: &stored })
                .chain(candidates.iter().zip(&on).map(|(c, weights)| Stream { model: c.model, weights }))
                .collect();
            // How states become vectors is the base's; matrices that a file has for it are its own.
            let mut heads = Vec::with_capacity(streams.len());
            for stream in &streams {
                let pool = args.pooling.or_else(|| heads.first().map(Head::pool));
                heads.push(match scores {
                    true => Head::scores(stream.model, stream.weights, &base.behind),
                    false => Head::vectors(stream.model, stream.weights, &base.behind, pool, true),
                }?);
            }
            let told = |done, total| bar.at(done, total);
            Ok((embed::run(&streams, &heads, &inputs, args.max_memory, Some(&told))?, heads[0].pool()))
        })
        .map_err(|e| e.at(&args.base))?;
    bar.finish();
    let ours = found.remove(0);
    let width = ours.first().map_or(0, Vec::len);
    let parameters: u64 = base.source.tensors().iter().map(TensorInfo::elements).sum();
    let bits = |bytes: u64| 8.0 * bytes as f64 / parameters.max(1) as f64;
    let row = |(candidate, theirs): (&Candidate<'_>, &Vec<Vec<f32>>)| {
        let other = theirs.first().map_or(0, Vec::len);
        if other != width {
            return Err(Error::input(format!("{} makes {other} values of a text, the base {width}", candidate.name)));
        }
        let change = match scores {
            true => Change::Scores(ScoreChange::of(&ours, theirs)),
            false => Change::Similarity(Similarity::of(&ours, theirs)),
        };
        Ok(Row {
            name: candidate.name.clone(),
            bytes: candidate.bytes,
            bits_per_weight: bits(candidate.bytes),
            change,
            tensors: candidate.encoded.map_or(Vec::new(), Encoded::errors),
        })
    };
    let base_bytes = base.source.stored_bytes();
    let report = Report {
        schema: 1,
        program: concat!("evaluate ", env!("CARGO_PKG_VERSION")).into(),
        base: Base {
            name: name_of(&args.base),
            architecture: base.model.name().into(),
            parameters,
            bytes: base_bytes,
            bits_per_weight: bits(base_bytes),
        },
        protocol: Protocol {
            text: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            text_sha256: sha256(all.as_bytes()),
            texts: texts.len(),
            tokens,
            prefix: args.prefix.clone(),
            pooling: pool.name().into(),
            dimensions: width,
            arithmetic: arithmetic_words(arithmetic),
            device,
            seconds: begun.elapsed().as_secs_f64(),
        },
        models: candidates.iter().zip(&found).map(row).collect::<Result<_>>()?,
    };
    let verdicts = args.show.judge(&[(&*report.models, &report.protocol.text)], gate)?;
    let forms = Forms {
        json: &|| report.json(),
        csv: &|| embedding::csv(&report),
        markdown: &|| embedding::markdown(&report),
        terminal: &|| embedding::terminal(&report),
        html: &|| embedding::html(&report),
        card: None,
        junit: &|| gate::junit(&report.base.name, report.protocol.seconds, &verdicts),
    };
    publish(&args.show, common, &forms, &verdicts, &args.inputs())
}
