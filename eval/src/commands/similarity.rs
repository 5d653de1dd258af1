//! `evaluate compare` of embedding models, rerankers and classifiers.

use std::ops::Range;
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
use super::passages::Passage;
use super::{Opened, ProgressBar, name_of, texts};

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
    let passages = args.text.read_lines(kind)?;
    let (mut inputs, mut cut) = (Vec::new(), 0);
    let mut parts = Vec::new();
    for passage in passages.iter() {
        let texts = texts::parse(&passage.content, &passage.place, scores)?;
        if gate.confidence.is_some() && texts.len() < LEAST_TEXTS {
            return Err(Error::input(format!(
                "{} texts are too few to be confident of anything; at least {LEAST_TEXTS} are needed",
                texts.len()
            ))
            .at(&passage.place)
            .help("give more texts, or leave --confidence out"));
        }
        let encoded = texts::encode(base, &texts, &args.prefix, args.ctx).map_err(|e| e.at(&passage.place))?;
        parts.push((passage, inputs.len()..inputs.len() + texts.len()));
        inputs.extend(encoded.0);
        cut += encoded.1;
    }

    let tokens_of = |range: Range<usize>| -> usize { inputs[range].iter().map(|i| i.tokens.len()).sum() };
    let tokens = tokens_of(0..inputs.len());
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
    for (candidate, theirs) in candidates.iter().zip(&found) {
        let other = theirs.first().map_or(0, Vec::len);
        if other != width {
            return Err(Error::input(format!("{} makes {other} values of a text, the base {width}", candidate.name)));
        }
    }
    // What became of the texts of a range.
    let models = |range: Range<usize>, errors: bool| {
        let ours = &ours[range.clone()];
        let row = |(candidate, theirs): (&Candidate<'_>, &Vec<Vec<f32>>)| Row {
            name: candidate.name.clone(),
            bytes: candidate.bytes,
            bits_per_weight: bits(candidate.bytes),
            change: match scores {
                true => Change::Scores(ScoreChange::of(ours, &theirs[range.clone()])),
                false => Change::Similarity(Similarity::of(ours, &theirs[range.clone()])),
            },
            tensors: candidate.encoded.filter(|_| errors).map_or(Vec::new(), Encoded::errors),
        };
        candidates.iter().zip(&found).map(row).collect()
    };
    let base_bytes = base.source.stored_bytes();
    let all = Report {
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
            text: passages.name(),
            text_sha256: passages.digest(),
            texts: inputs.len(),
            tokens,
            prefix: args.prefix.clone(),
            pooling: pool.name().into(),
            dimensions: width,
            arithmetic: arithmetic_words(arithmetic),
            device,
            seconds: begun.elapsed().as_secs_f64(),
        },
        models: models(0..inputs.len(), true),
        texts: Vec::new(),
    };
    let on = |(passage, range): &(&Passage, Range<usize>)| Report {
        protocol: Protocol {
            text: passage.name.clone(),
            text_sha256: sha256(passage.content.as_bytes()),
            texts: range.len(),
            tokens: tokens_of(range.clone()),
            ..all.protocol.clone()
        },
        models: models(range.clone(), false),
        ..all.clone()
    };
    let texts = if parts.len() > 1 { parts.iter().map(on).collect() } else { Vec::new() };
    let report = Report { texts, ..all };
    let judged: Vec<(&[Row], &str)> = report.by_text().map(|on| (&*on.models, on.protocol.text.as_str())).collect();
    let verdicts = args.show.judge(&judged, gate)?;
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
