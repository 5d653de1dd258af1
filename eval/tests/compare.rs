//! The comparison against what torch computed in f32 on the weights that the reference programs decoded.

use eval::compare::{Baseline, compare};
use eval::divergence::Divergence;
use eval::encoded::Encoded;
use eval::forward::Stream;
use eval::model::Model;
use eval::perplexity::{Chunks, Protocol, Schedule};
use eval::weights::{Deployed, SourceWeights, Weights};
use gguf::Source;
use quantize::imatrix::Imatrix;
use quantize::plan::Importance;
use serde_json::Value;

struct Fixture {
    source: Box<dyn Source + Send>,
    model: Model,
    chunks: Chunks,
    importance: Importance,
    golden: Value,
}

fn fixture() -> Fixture {
    let source = convert::open(&fixtures::path("models/tiny-llama"), &convert::Options::default()).unwrap();
    let model = Model::new(source.metadata(), &SourceWeights(&source)).unwrap();
    let tokenizer = convert::tokenizer::Tokenizer::from_metadata(source.metadata()).unwrap();
    let text = String::from_utf8(fixtures::bytes("models/tiny-llama/sample.txt")).unwrap();
    let tokens = tokenizer.encode(&text, true, false).unwrap();
    let golden = fixtures::json("golden/tiny-llama/expected.json");
    let count = golden["protocol"]["chunks"].as_u64().unwrap() as usize;
    let chunks = Chunks::new(&tokens, tokenizer.bos(), 512, Some(count), Protocol::Halves).unwrap();
    let matrix = Imatrix::open(fixtures::path("golden/tiny-llama/imatrix.gguf")).unwrap();
    let importance = Importance { matrix, file: "imatrix.gguf".into() };
    Fixture { source, model, chunks, importance, golden }
}

/// The name of a precision for a row of the golden, and whether it was made with importance.
fn precision(row: &str) -> (String, bool) {
    match row.strip_prefix("bnb-") {
        Some(name) => (name.to_owned(), false),
        None => (row.trim_end_matches(".im").to_owned(), row.ends_with(".im")),
    }
}

/// The statistics of some rows of the golden, in lockstep.
fn measure(f: &Fixture, rows: &[&str], deployed: bool) -> Vec<Divergence> {
    let encoded: Vec<Encoded<'_>> = rows
        .iter()
        .map(|row| {
            let (name, importance) = precision(row);
            Encoded::new(&f.source, name.parse().unwrap(), importance.then_some(&f.importance)).unwrap()
        })
        .collect();
    let weights: Vec<Box<dyn Weights + '_>> = encoded
        .iter()
        .map(|e| -> Box<dyn Weights + '_> {
            if deployed { Box::new(Deployed::new(e)) } else { Box::new(e) }
        })
        .collect();
    let streams: Vec<Stream<'_>> = weights.iter().map(|w| Stream { model: &f.model, weights: w }).collect();
    let base = SourceWeights(&f.source);
    let plan = Schedule::new(&f.model, streams.len() + 1, 512, 1 << 30);
    let found =
        compare(Baseline::Run(Stream { model: &f.model, weights: &base }), &streams, &f.chunks, plan, None, |_| Ok(()))
            .unwrap();
    found.models.iter().map(|positions| Divergence::of(&found.base_nll, positions, f.chunks.scored.len())).collect()
}

/// Every figure of some rows of the golden.
fn check(rows: &[&str]) {
    let f = fixture();
    let mut wrong = Vec::new();
    for (row, d) in rows.iter().zip(measure(&f, rows, false)) {
        let golden = &f.golden["perplexity"][row];
        // f32 logits carry rounding errors of some 1e-6, which move a KL divergence by about their square and a
        // probability by as much: below that a relative bound means nothing.
        let figures = [
            ("ppl", d.ppl.value, 2e-4, 0.0),
            ("mean_nll", d.mean_nll.value, 2e-4, 0.0),
            ("kld_mean", d.kld.value, 1e-3, 2e-9),
            ("kld_median", d.kld_at(0.5), 1e-3, 2e-9),
            ("kld_p99", d.kld_at(0.99), 1e-3, 3e-7),
            ("kld_max", d.kld_at(1.0), 1e-3, 6e-7),
            ("rms_dp", d.delta_p_rms.value, 1e-3, 1e-6),
            ("mean_dp", d.delta_p.value, 1e-3, 1e-7),
            ("same_top", d.same_top.value, 1e-3, 0.0),
        ];
        for (name, got, relative, absolute) in figures {
            let want = golden[name].as_f64().unwrap_or_else(|| panic!("{row} has no {name}"));
            if (got - want).abs() > relative * want.abs() + absolute {
                wrong.push(format!("{row} {name}: {got} instead of {want}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_statistics_are_those_of_exact_computation() {
    check(&["Q8_0", "Q4_K_M", "IQ4_XS.im", "bnb-nf4"]);
}

/// All rows: a minute and a half. `cargo test -p downcast-eval --test compare -- --ignored`
#[test]
#[ignore = "takes minutes; the rows above stand for it"]
fn the_statistics_of_every_type() {
    let golden = fixtures::json("golden/tiny-llama/expected.json");
    let rows: Vec<&str> = golden["perplexity"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, row)| row["ppl"].is_number() && *name != "base")
        .map(|(name, _)| name.as_str())
        .collect();
    assert!(rows.len() > 60, "{}", rows.len());
    for some in rows.chunks(12) {
        check(some);
    }
}

/// What llama-perplexity prints for types of the golden, whose kernels round activations. The order of sums alone moves
/// its own figures: with and without flash attention its Q8_0 differs by 1.2e-4 in mean divergence from itself.
fn check_deployed(rows: &[&str]) {
    let f = fixture();
    let mut wrong = Vec::new();
    for (row, d) in rows.iter().zip(measure(&f, rows, true)) {
        let golden = &f.golden["llama_perplexity"][row];
        for (name, got, relative, absolute) in [
            ("ppl", d.ppl.value, 1e-3, 0.0),
            ("kld", d.kld.value, 0.03, 5e-7),
            ("kld_p99", d.kld_at(0.99), 0.05, 1e-5),
            ("same_top", 100.0 * d.same_top.value, 0.0, 0.3),
        ] {
            let want = golden[name].as_f64().unwrap_or_else(|| panic!("{row} has no {name}"));
            if (got - want).abs() > relative * want.abs() + absolute {
                wrong.push(format!("{row} {name}: {got} instead of {want}"));
            }
        }
        // Exact arithmetic is not within these bounds where rounding weighs.
        if *row == "Q8_0" {
            assert!(d.kld.value > 1.5e-4, "nothing was rounded: {}", d.kld.value);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn deployed_arithmetic_gives_the_figures_of_llama_perplexity() {
    check_deployed(&["Q8_0", "Q4_K_M", "Q2_K"]);
}

/// All rows: half a minute. `cargo test -p downcast-eval --test compare -- --ignored`
#[test]
#[ignore = "takes long; the rows above stand for it"]
fn deployed_arithmetic_of_every_type() {
    check_deployed(&["BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M", "Q2_K"]);
}
