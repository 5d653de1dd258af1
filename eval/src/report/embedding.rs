//! What a comparison of embedding models or rerankers found, in the forms that people and programs read.

use std::fmt::Write as _;

use gguf::cli::{Align, Table, bytes, count};
use serde::Serialize;

use super::gate::{Judged, Measure, xml};
use super::html::{Row, by_text, figure_table, on_text, page, section, tensors};
use super::svg::{Axis, Point, scatter};
use super::text::{estimate, number, plain, quoted};
use crate::device::Ran;
use crate::divergence::Estimate;

/// Distances below this are the rounding of f32 values.
const FLOOR: f64 = 1e-7;
use crate::similarity::{ScoreChange, Similarity};
use crate::tensors::TensorError;

/// What was compared, on which texts, and what came out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of this form; it grows when a field changes its meaning.
    pub schema: u32,
    /// The program and its version.
    pub program: String,
    /// The base that the others are compared with.
    pub base: Base,
    /// How it was measured.
    pub protocol: Protocol,
    /// The models that were compared, in the order they were asked for.
    pub models: Vec<EmbeddingRow>,
    /// Where there were several files of texts, the same for each alone; the figures above are over all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<Report>,
}

/// The model that the others are compared with.
#[derive(Clone, Debug, Serialize)]
pub struct Base {
    /// Its name.
    pub name: String,
    /// `general.architecture`.
    pub architecture: String,
    /// Weights.
    pub parameters: u64,
    /// Bytes of tensor data.
    pub bytes: u64,
    /// Bits per weight.
    pub bits_per_weight: f64,
}

/// How it was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Protocol {
    /// The name of the file of texts; of several, all of them.
    pub text: String,
    /// SHA-256 of the file; of several, of the list of theirs.
    pub text_sha256: String,
    /// Texts.
    pub texts: usize,
    /// Tokens of all texts.
    pub tokens: usize,
    /// What stood in front of every text.
    pub prefix: String,
    /// How the states of a text became one.
    pub pooling: String,
    /// Values of a vector, or scores.
    pub dimensions: usize,
    /// The arithmetic, in words.
    pub arithmetic: String,
    /// Where it was computed, if not on the processor.
    pub device: Option<Ran>,
    /// Seconds of wall time.
    pub seconds: f64,
}

/// One model that was compared.
#[derive(Clone, Debug, Serialize)]
pub struct EmbeddingRow {
    /// Its name: a type or a file.
    pub name: String,
    /// Bytes of tensor data.
    pub bytes: u64,
    /// Bits per weight.
    pub bits_per_weight: f64,
    /// The statistics.
    #[serde(flatten)]
    pub change: Change,
    /// The error of each tensor whose type differs from the base's, where it was measured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<TensorError>,
}

/// What became of what a model gives.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Vectors.
    Similarity(Similarity),
    /// Scores.
    Scores(ScoreChange),
}

impl Change {
    /// What the size is weighed against: the larger, the further from the base.
    fn cost(&self) -> f64 {
        match self {
            Change::Similarity(s) => 1.0 - s.cosine.value,
            Change::Scores(s) => s.change.value,
        }
    }
}

impl Judged for EmbeddingRow {
    fn name(&self) -> &str {
        &self.name
    }

    fn measured(&self, measure: Measure) -> Option<Estimate> {
        match (measure, &self.change) {
            (Measure::Cosine, Change::Similarity(s)) => Some(s.cosine),
            (Measure::RankCorrelation, Change::Similarity(s)) => Some(s.rank_correlation),
            (Measure::Overlap, Change::Similarity(s)) => Some(s.overlap),
            (Measure::RankCorrelation, Change::Scores(s)) => Some(s.rank_correlation),
            (Measure::Overlap, Change::Scores(s)) => Some(s.overlap),
            _ => None,
        }
    }
}

/// A statistic: its head in tables, its name for programs, its unit there is 1, its value, the factor and digits shown.
type Statistic = (String, &'static str, Estimate, f64, usize);

/// One that has no error of its own.
fn exact(value: f64) -> Estimate {
    Estimate { value, ..Estimate::NONE }
}

/// The statistics of a model, in the order of the tables.
fn statistics(change: &Change) -> Vec<Statistic> {
    let head = str::to_owned;
    match change {
        Change::Similarity(s) => vec![
            (head("mean cosine"), "cosine", s.cosine, 1.0, 6),
            (head("worst cosine"), "worst_cosine", exact(s.worst_cosine), 1.0, 6),
            (head("rank correlation"), "rank_correlation", s.rank_correlation, 1.0, 6),
            (format!("{} nearest, %", s.nearest), "overlap", s.overlap, 100.0, 2),
        ],
        Change::Scores(s) => {
            let mut all = vec![
                (head("mean change"), "change", s.change, 1.0, 6),
                (head("worst change"), "worst_change", exact(s.worst_change), 1.0, 6),
                (head("rank correlation"), "rank_correlation", s.rank_correlation, 1.0, 6),
                (format!("{} best, %", s.best), "overlap", s.overlap, 100.0, 2),
            ];
            all.extend(s.same_label.map(|same| (head("same label, %"), "same_label", same, 100.0, 2)));
            all
        }
    }
}

impl Report {
    /// The report as a JSON document; see `docs/report.md` for its fields.
    pub fn json(&self) -> serde_json::Value {
        // Only maps with keys that are no strings fail to serialize, and there is none. NaN becomes null.
        serde_json::to_value(self).unwrap_or(serde_json::Value::Null)
    }

    /// The report of each file of texts: itself where there is one.
    pub fn by_text(&self) -> impl Iterator<Item = &Report> {
        super::or_itself(self, &self.texts)
    }

    /// The models that no other one beats in both size and distance to the base, by position in `models`.
    pub fn pareto_front(&self) -> Vec<usize> {
        super::pareto_front(self.models.iter().map(|m| (m.bits_per_weight, m.change.cost())).collect())
    }

    /// Heads of the short table.
    fn heads(&self) -> Vec<String> {
        let own = self.models.first().map_or(Vec::new(), |m| statistics(&m.change));
        ["model", "size", "bits/weight"].map(String::from).into_iter().chain(own.into_iter().map(|s| s.0)).collect()
    }

    fn told(&self) -> String {
        let p = &self.protocol;
        let kind = match self.models.first().map(|m| &m.change) {
            Some(Change::Scores(_)) => "scores",
            _ => "values",
        };
        format!("{} texts of {}, {} {kind} each, {} pooling", count(p.texts as u64), p.text, p.dimensions, p.pooling)
    }
}

/// The cells of a model in the short table.
fn cells(model: &EmbeddingRow) -> Vec<String> {
    let shown = statistics(&model.change).into_iter().map(|(_, _, e, unit, digits)| estimate(e, unit, digits));
    [model.name.clone(), bytes(model.bytes), format!("{:.2}", model.bits_per_weight)].into_iter().chain(shown).collect()
}

/// The short table for a terminal, with the base above it.
pub fn terminal(report: &Report) -> String {
    let base = &report.base;
    let mut out = format!("{}: {}, {:.2} bits per weight\n", base.name, bytes(base.bytes), base.bits_per_weight);
    let tables: Vec<String> = report.by_text().map(|on| format!("{}\n\n{}", on.told(), table(on))).collect();
    out += &tables.join("\n");
    out
}

fn table(report: &Report) -> String {
    let heads = report.heads();
    let align = |i: usize| if i == 0 { Align::Left } else { Align::Right };
    let columns: Vec<(&str, Align)> = heads.iter().enumerate().map(|(i, h)| (h.as_str(), align(i))).collect();
    let mut table = Table::new(&columns);
    for model in &report.models {
        table.row(cells(model));
    }
    table.render()
}

/// The short table as Markdown.
pub fn markdown(report: &Report) -> String {
    report.by_text().map(markdown_on).collect::<Vec<_>>().join("\n")
}

fn markdown_on(report: &Report) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|c| c.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let heads = report.heads();
    let rules: Vec<String> = (0..heads.len()).map(|i| if i == 0 { ":--" } else { "--:" }.to_owned()).collect();
    let mut out = line(&heads) + &line(&rules);
    for model in &report.models {
        out += &line(&cells(model));
    }
    let base = &report.base;
    out + &format!("\nBase {}: {:.2} bits per weight. {}.\n", base.name, base.bits_per_weight, report.told())
}

/// Every statistic as CSV: a line for the heads, a line for each model on each file of texts. Missing numbers are empty.
pub fn csv(report: &Report) -> String {
    let own = report.models.first().map_or(Vec::new(), |m| statistics(&m.change));
    let mut heads: Vec<String> = ["model", "bytes", "bits_per_weight", "texts"].map(String::from).into();
    heads.extend(own.iter().flat_map(|s| [s.1.to_owned(), format!("{}_error", s.1)]));
    heads.push("text".into());
    let mut out = heads.join(",") + "\n";
    for (on, model) in report.by_text().flat_map(|on| on.models.iter().map(move |model| (on, model))) {
        let mut cells = vec![quoted(&model.name), model.bytes.to_string(), plain(model.bits_per_weight)];
        cells.push(on.protocol.texts.to_string());
        cells.extend(statistics(&model.change).iter().flat_map(|s| [plain(s.2.value), plain(s.2.error)]));
        cells.push(quoted(&on.protocol.text));
        out += &(cells.join(",") + "\n");
    }
    out
}

/// The report as a page.
pub fn html(report: &Report) -> String {
    let base = &report.base;
    let title = format!("What the precision cost: {}", base.name);
    let told = format!(
        "{} · {} weights · {:.2} bits per weight · {}",
        base.architecture,
        count(base.parameters),
        base.bits_per_weight,
        report.told()
    );
    let all: Vec<(&str, &[TensorError])> = report.models.iter().map(|m| (m.name.as_str(), &*m.tensors)).collect();
    page(&title, &told, &[trade_off(report), texts(report), tensors(&all), figures(report), measured(report)])
}

fn trade_off(report: &Report) -> String {
    let front = report.pareto_front();
    let scored = matches!(report.models.first().map(|m| &m.change), Some(Change::Scores(_)));
    let points = |y: fn(&Change) -> Estimate| -> Vec<Point> {
        let point = |(i, m): (usize, &EmbeddingRow)| {
            let mut told = format!("{}: {:.2} bits per weight", m.name, m.bits_per_weight);
            for (head, _, e, unit, digits) in statistics(&m.change) {
                let _ = write!(told, ", {head} {}", number(e.value * unit, digits));
            }
            let (y, on) = (y(&m.change), front.contains(&i));
            Point { name: m.name.clone(), x: m.bits_per_weight, y: y.value, error: y.larger_error(), front: on, told }
        };
        report.models.iter().enumerate().map(point).collect()
    };
    let overlap = |change: &Change| {
        let (Change::Similarity(Similarity { overlap, .. }) | Change::Scores(ScoreChange { overlap, .. })) = change;
        overlap.derived(100.0 * overlap.value, 100.0)
    };
    let cost = |change: &Change| match change {
        Change::Similarity(s) => s.cosine.derived(change.cost(), 1.0),
        Change::Scores(s) => s.change,
    };
    let bits = "bits per weight";
    let (far, near) = match scored {
        true => ("mean change of a score (log)", "best in common, %"),
        false => ("1 − mean cosine (log)", "nearest in common, %"),
    };
    let costs = scatter(&format!("Bits per weight against {far}"), bits, far, Axis::Log(FLOOR), &points(cost));
    let shared = scatter(&format!("Bits per weight against {near}"), bits, near, Axis::Linear, &points(overlap));
    let names: Vec<String> = front.iter().map(|&i| xml(&report.models[i].name)).collect();
    let body = format!(
        "<p>Left is smaller; in the first drawing down is closer to the base, in the second up. Filled points, joined by the line, form \
         the Pareto front: no other model is both smaller and closer. On it: {}.</p>\n<div class=\"pair\"><figure>{costs}</figure>\
         <figure>{shared}</figure></div>\n",
        names.join(", ")
    );
    section("trade-off", "Size against distance", &body)
}

fn figures(report: &Report) -> String {
    section("figures", "The figures", &figures_of(report, &report.pareto_front(), "Figures of each model"))
}

/// The figures on each file of texts, where there were several.
fn texts(report: &Report) -> String {
    by_text(report.texts.iter().map(|on| {
        let p = &on.protocol;
        let told = format!("{} texts, {} tokens", count(p.texts as u64), count(p.tokens as u64));
        let table = figures_of(on, &[], &format!("Figures of each model on {}", p.text));
        on_text((&p.text, &p.text_sha256), &told, &table)
    }))
}

fn figures_of(report: &Report, front: &[usize], caption: &str) -> String {
    let heads = report.heads();
    let heads: Vec<&str> = heads.iter().skip(1).map(String::as_str).collect();
    let rows = report.models.iter().enumerate().map(|(i, m)| Row {
        name: &m.name,
        on_front: front.contains(&i),
        cells: cells(m).split_off(1),
    });
    figure_table(&heads, rows, caption)
}

fn measured(report: &Report) -> String {
    let p = &report.protocol;
    let body = format!(
        "<p>Every text became {} values under each model, from the states of its tokens by {} pooling and what stands behind it. The cosine is \
         that of a text's vector to the base's own; the rank correlation is Spearman's, of the cosines of all pairs of texts (of scores: of \
         the scores); the nearest of a text are those under the base that are nearest under the model too. Errors of means over texts are \
         standard errors; those of statistics of pairs are from a jackknife over groups of texts. Arithmetic: {}.</p>\n\
         <dl><dt>Texts</dt><dd>{}, {} texts, {} tokens, SHA-256 <code>{}</code></dd><dt>Base</dt><dd>{}, {}</dd><dt>Made by</dt><dd>{}, in {:.1} s</dd></dl>\n",
        p.dimensions,
        xml(&p.pooling),
        xml(&super::computed(&p.arithmetic, p.device.as_ref())),
        xml(&p.text),
        count(p.texts as u64),
        count(p.tokens as u64),
        xml(&p.text_sha256),
        xml(&report.base.name),
        bytes(report.base.bytes),
        xml(&report.program),
        p.seconds
    );
    section("measured", "How it was measured", &body)
}

#[cfg(test)]
mod tests {
    use super::super::gate::{Gate, Limit, LimitRule, judge};
    use super::*;

    fn vectors(noise: f32) -> Vec<Vec<f32>> {
        let value = |i: usize, j: usize| ((i * 37 + j * 101) % 97) as f32 / 48.0 - 1.0;
        (0..30).map(|i| (0..8).map(|j| value(i, j) + noise * value(i + 5, j * 3 + 1)).collect()).collect()
    }

    fn sample(change: impl Fn(&[Vec<f32>]) -> Change) -> Report {
        let model = |name: &str, bits: f64, noise: f32| EmbeddingRow {
            name: name.into(),
            bytes: (bits * 1e6) as u64,
            bits_per_weight: bits,
            change: change(&vectors(noise)),
            tensors: Vec::new(),
        };
        Report {
            schema: 1,
            program: "evaluate 0.1.0".into(),
            base: Base {
                name: "bge".into(),
                architecture: "bert".into(),
                parameters: 8_000_000,
                bytes: 16_000_000,
                bits_per_weight: 16.0,
            },
            protocol: Protocol {
                text: "texts.txt".into(),
                text_sha256: "00".repeat(32),
                texts: 30,
                tokens: 300,
                prefix: String::new(),
                pooling: "mean".into(),
                dimensions: 8,
                arithmetic: "f32 on decoded weights".into(),
                device: None,
                seconds: 1.5,
            },
            models: vec![model("Q8_0", 8.5, 0.001), model("<Q4_0>", 4.5, 0.2), model("Q4|1", 5.0, 0.3)],
            texts: Vec::new(),
        }
    }

    fn both() -> [Report; 2] {
        let base = vectors(0.0);
        [
            sample(|rows| Change::Similarity(Similarity::of(&base, rows))),
            sample(|rows| Change::Scores(ScoreChange::of(&base, rows))),
        ]
    }

    #[test]
    fn every_form_has_every_model_and_column() {
        for report in both() {
            let lines: Vec<usize> = csv(&report).lines().map(|l| l.split(',').count()).collect();
            assert_eq!(lines.len(), 4);
            assert!(lines.iter().all(|&n| n == lines[0]), "{lines:?}");
            assert!(markdown(&report).contains("Q4\\|1"));
            assert!(terminal(&report).contains("rank correlation"));
            let page = html(&report);
            assert!(page.contains("&lt;Q4_0&gt;") && !page.contains("<Q4_0>"));
            for tag in ["section", "table", "figure", "svg", "main"] {
                assert_eq!(
                    page.matches(&format!("<{tag}")).count(),
                    page.matches(&format!("</{tag}>")).count(),
                    "{tag}"
                );
            }
            assert_eq!(report.pareto_front(), [0, 1]);
        }
    }

    #[test]
    fn the_gate_judges_what_was_measured() {
        let [vectors, scores] = both();
        let limit = |measure| {
            let limits = vec![Limit { measure, limit: 0.9999 }];
            Gate { rules: vec![LimitRule { limits, ..LimitRule::default() }], ..Gate::default() }
        };
        let holds = |models: &[EmbeddingRow], measure| -> Vec<bool> {
            judge(models, &limit(measure), "", false).iter().map(|v| v.holds).collect()
        };
        assert_eq!(holds(&vectors.models, Measure::Cosine), [true, false, false]);
        assert_eq!(holds(&scores.models, Measure::RankCorrelation)[1..], [false, false]);
        // Scores have no cosine: what was not measured holds no limit.
        assert_eq!(holds(&scores.models, Measure::Cosine), [false; 3]);
    }

    #[test]
    fn programs_find_the_kind_by_its_name() {
        let [vectors, scores] = both();
        assert!(vectors.json()["models"][0]["similarity"]["cosine"]["value"].is_number());
        assert!(scores.json()["models"][0]["scores"]["change"]["error"].is_number());
    }
}
