//! One self-contained page: no script, no network, light and dark by the reader's choice.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use gguf::cli::{bytes, count};

use super::gate::xml;
use super::svg::{Axis, Cell, Point, Spread, heat, scatter, spreads};
use super::text::{estimate, number};
use super::{ModelRow, Report};
use crate::divergence::{DELTA_P_FRACTIONS, Estimate, KLD_FRACTIONS};
use crate::tensors::TensorError;

/// KL divergences below this are the rounding of f32 logits: a type is as good as lossless.
const FLOOR: f64 = 1e-7;

const STYLE: &str = include_str!("page.css");

/// The report as a page.
pub fn html(report: &Report) -> String {
    let (base, protocol) = (&report.base, &report.protocol);
    let title = format!("What the precision cost: {}", base.name);
    let told = format!(
        "{} · {} weights · {} bits per weight · perplexity {} on {} positions of {}",
        base.architecture,
        count(base.parameters),
        number(base.bits_per_weight, 2),
        estimate(base.ppl, 1.0, 3),
        count(protocol.positions as u64),
        protocol.text,
    );
    let all: Vec<(&str, &[TensorError])> = report.models.iter().map(|m| (m.name.as_str(), &*m.tensors)).collect();
    page(
        &title,
        &told,
        &[trade_off(report), distribution(report), texts(report), tensors(&all), figures(report), measured(report)],
    )
}

/// A page of these sections under a title and a line below it.
pub(super) fn page(title: &str, told: &str, sections: &[String]) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{0}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#figures\">Skip to the figures</a>\n\
         <header>\n<h1>{0}</h1>\n<p>{1}</p>\n</header>\n<main>\n{2}</main>\n</body>\n</html>\n",
        xml(title),
        xml(told),
        sections.concat(),
    )
}

pub(super) fn section(id: &str, heading: &str, body: &str) -> String {
    format!("<section id=\"{id}\" aria-labelledby=\"{id}-h\">\n<h2 id=\"{id}-h\">{heading}</h2>\n{body}</section>\n")
}

fn trade_off(report: &Report) -> String {
    let front = report.pareto_front();
    let points = |y: fn(&ModelRow) -> Estimate| -> Vec<Point> {
        let point = |(i, m): (usize, &ModelRow)| Point {
            name: m.name.clone(),
            x: m.bits_per_weight,
            y: y(m).value,
            error: y(m).larger_error(),
            front: front.contains(&i),
            told: format!(
                "{}: {:.2} bits per weight, mean KL divergence {:.6}, perplexity {:.4}{}",
                m.name,
                m.bits_per_weight,
                m.divergence.kld.value,
                m.divergence.ppl.value,
                if front.contains(&i) { ", on the Pareto front" } else { "" }
            ),
        };
        report.models.iter().enumerate().map(point).collect()
    };
    let bits = "bits per weight";
    let kld = scatter(
        "Bits per weight against mean KL divergence",
        bits,
        "mean KL divergence, nats (log)",
        Axis::Log(FLOOR),
        &points(|m| m.divergence.kld),
    );
    let ppl =
        scatter("Bits per weight against perplexity", bits, "perplexity", Axis::Linear, &points(|m| m.divergence.ppl));
    let names: Vec<String> = front.iter().map(|&i| xml(&report.models[i].name)).collect();
    let body = format!(
        "<p>Down and left is better. Bars are one standard error, the larger of both; what lies at a mark ≤ is that or less: rounding. \
         Filled points, joined by the line, form the Pareto front: no other model is both smaller and \
         closer to the base. On it: {}.</p>\n<div class=\"pair\"><figure>{kld}</figure><figure>{ppl}</figure></div>\n",
        names.join(", ")
    );
    section("trade-off", "Size against divergence", &body)
}

fn distribution(report: &Report) -> String {
    let row = |m: &ModelRow| {
        let d = &m.divergence;
        Spread {
            name: m.name.clone(),
            at: [0.001, 0.05, 0.5, 0.95, 0.999].map(|f| d.kld_at(f)),
            mean: d.kld.value,
            error: d.kld.larger_error(),
            told: format!(
                "{}: median {:.2e}, mean {:.2e}, 5 % {:.2e}, 95 % {:.2e}, 99.9 % {:.2e}, maximum {:.2e}",
                m.name,
                d.kld_at(0.5),
                d.kld.value,
                d.kld_at(0.05),
                d.kld_at(0.95),
                d.kld_at(0.999),
                d.kld_at(1.0)
            ),
        }
    };
    let rows: Vec<Spread> = report.models.iter().map(row).collect();
    let body = format!(
        "<p>KL divergence over the scored positions: the bar spans 5 % to 95 %, the thin line 0.1 % to 99.9 %, the stroke is the \
         median, the diamond the mean with its standard error. A long right end is a model that is mostly right and sometimes far off.</p>\n<figure>{}</figure>\n",
        spreads("Distribution of KL divergence for each model", "KL divergence, nats (log)", FLOOR, &rows)
    );
    section("distribution", "How the divergence is spread", &body)
}

/// The figures on each text, where there were several.
fn texts(report: &Report) -> String {
    let part = |on: &Report| {
        let rows = on.models.iter().map(|m| Row {
            name: &m.name,
            on_front: false,
            cells: TEXT_LINES.iter().map(|(_, show)| show(m)).collect(),
        });
        let p = &on.protocol;
        let told = format!(
            "{} positions in {} chunks, perplexity of the base {}",
            count(p.positions as u64),
            p.chunks,
            estimate(on.base.ppl, 1.0, 3)
        );
        let table = figure_table(&TEXT_LINES.map(|l| l.0), rows, &format!("Figures of each model on {}", p.text));
        on_text((&p.text, &p.text_sha256), &told, &table)
    };
    by_text(report.texts.iter().map(part))
}

/// The section of the figures on each text; none where there was one text.
pub(super) fn by_text(parts: impl Iterator<Item = String>) -> String {
    let parts: String = parts.collect();
    if parts.is_empty() {
        return parts;
    }
    let told = "<p>The figures elsewhere on this page are over all texts together.</p>\n";
    section("texts", "Text by text", &(told.to_owned() + &parts))
}

/// What is told of a text, with its digest, and its table.
pub(super) fn on_text((name, digest): (&str, &str), told: &str, table: &str) -> String {
    format!("<h3>{}</h3>\n<p>{told}. SHA-256 <code>{}</code></p>\n{table}", xml(name), xml(digest))
}

/// Splits `blk.7.attn_q.weight` into (`attn_q`, 7); tensors outside the layers have none.
fn kind_and_layer(name: &str) -> (String, Option<usize>) {
    let bare = name.strip_suffix(".weight").unwrap_or(name);
    let layer = bare.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    match layer.and_then(|(n, kind)| n.parse().ok().map(|n: usize| (kind, n))) {
        Some((kind, n)) if n < 4096 => (kind.to_owned(), Some(n)),
        _ => (bare.to_owned(), None),
    }
}

/// The signal to noise from which on a tensor is as good as lossless, in dB: what is above would stretch the colours.
const LOSSLESS: f64 = 100.0;

/// The error of each tensor of models, by their names.
pub(super) fn tensors(models: &[(&str, &[TensorError])]) -> String {
    let shown = |t: &TensorError| t.snr_db.min(LOSSLESS);
    let all = models.iter().flat_map(|m| m.1).filter(|t| t.snr_db.is_finite()).map(shown);
    let (low, high) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return String::new();
    }
    let most = if high == LOSSLESS { "≥ " } else { "" };
    let mut body = format!(
        "<p>Signal to noise of each tensor's weights, layer by layer, in dB: {most}{high:.1} dB <span class=\"legend\" role=\"img\" \
         aria-label=\"from pale to strong\"></span> {low:.1} dB (largest error). Hover for the figures, or open a table.</p>\n"
    );
    // The first to be seen is the one whose tensors differ most from each other.
    let spread = |tensors: &[TensorError]| {
        let finite = || tensors.iter().filter(|t| t.snr_db.is_finite()).map(shown);
        finite().fold(f64::NEG_INFINITY, f64::max) - finite().fold(f64::INFINITY, f64::min)
    };
    let widest = models.iter().map(|m| spread(m.1)).fold(f64::NEG_INFINITY, f64::max);
    let first = models.iter().position(|m| spread(m.1) == widest);
    for (i, (model, tensors)) in models.iter().enumerate().filter(|(_, m)| !m.1.is_empty()) {
        let mut rows: BTreeMap<String, Vec<Cell>> = BTreeMap::new();
        let mut table = String::new();
        for t in *tensors {
            let (kind, layer) = kind_and_layer(&t.name);
            let cells = rows.entry(kind).or_default();
            let column = layer.unwrap_or(0);
            cells.resize(cells.len().max(column + 1), None);
            let fraction = if high > low { (high - shown(t)) / (high - low) } else { 0.5 };
            cells[column] =
                Some((fraction, format!("{} {}: {:.2} dB, relative error {:.4}", t.name, t.ty, t.snr_db, t.relative)));
            let _ = writeln!(
                table,
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{:.2}</td><td>{:.3e}</td><td>{:.4}</td><td>{:.6}</td></tr>",
                xml(&t.name),
                xml(&t.ty),
                t.snr_db,
                t.rmse,
                t.relative,
                t.cosine
            );
        }
        let rows: Vec<_> = rows.into_iter().collect();
        let open = if Some(i) == first { " open" } else { "" };
        let name = xml(model);
        let _ = writeln!(
            body,
            "<details{open}><summary>{name}</summary>\n<figure class=\"wide\">{}</figure>\n<details><summary>Table for {name}</summary>\
             <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Error of each tensor of {name}\"><table>\
             <thead><tr><th scope=\"col\">tensor</th><th scope=\"col\">type</th><th scope=\"col\">SNR, dB</th><th scope=\"col\">RMSE</th>\
             <th scope=\"col\">relative</th><th scope=\"col\">cosine</th></tr></thead><tbody>\n{table}</tbody></table></div></details></details>",
            heat(&format!("Signal to noise by tensor and layer for {model}"), &rows)
        );
    }
    section("tensors", "Where the error sits", &body)
}

/// A line of the table of figures: its head and what it shows of a model.
type Line = (&'static str, fn(&ModelRow) -> String);

const LINES: [Line; 11] = [
    ("Size", |m| bytes(m.bytes)),
    ("Bits per weight", |m| format!("{:.3}", m.bits_per_weight)),
    ("PPL", |m| estimate(m.divergence.ppl, 1.0, 4)),
    ("± over chunks", |m| number(m.divergence.ppl.chunk_error, 4)),
    ("ln PPL(Q)/PPL(base)", |m| estimate(m.divergence.ln_ppl_ratio, 1.0, 6)),
    ("PPL(Q)/PPL(base)", |m| estimate(m.divergence.ppl_ratio, 1.0, 6)),
    ("PPL(Q) − PPL(base)", |m| estimate(m.divergence.ppl_difference, 1.0, 4)),
    ("Mean KLD", |m| estimate(m.divergence.kld, 1.0, 6)),
    ("Mean Δp, %", |m| estimate(m.divergence.delta_p, 100.0, 3)),
    ("RMS Δp, %", |m| estimate(m.divergence.delta_p_rms, 100.0, 3)),
    ("Same top p, %", |m| estimate(m.divergence.same_top, 100.0, 3)),
];

/// What is shown of each text.
const TEXT_LINES: [Line; 5] =
    [LINES[2], LINES[5], LINES[7], ("99 % KLD", |m| number(m.divergence.kld_at(0.99), 5)), LINES[10]];

fn figures(report: &Report) -> String {
    let heads = LINES.map(|l| l.0);
    let front = report.pareto_front();
    let rows = report.models.iter().enumerate().map(|(i, m)| Row {
        name: &m.name,
        on_front: front.contains(&i),
        cells: LINES.iter().map(|(_, show)| show(m)).collect(),
    });
    let mut body = figure_table(&heads, rows, "Figures of each model");
    for (name, told) in report.made_of() {
        let _ = writeln!(body, "<p>{}: {told}.</p>", xml(name));
    }
    body +=
        &quantile_table("KL divergence by percentile", &KLD_FRACTIONS, report, |m| &m.divergence.kld_quantiles, 1.0);
    body +=
        &quantile_table("Δp by percentile, %", &DELTA_P_FRACTIONS, report, |m| &m.divergence.delta_p_quantiles, 100.0);
    section("figures", "The figures", &body)
}

/// A model in the table of figures.
pub(super) struct Row<'a> {
    pub(super) name: &'a str,
    pub(super) on_front: bool,
    pub(super) cells: Vec<String>,
}

/// The table of figures: a row a model.
pub(super) fn figure_table<'a>(heads: &[&str], rows: impl Iterator<Item = Row<'a>>, label: &str) -> String {
    let heads: String = heads.iter().map(|head| format!("<th scope=\"col\">{}</th>", xml(head))).collect();
    let mut body = String::new();
    for row in rows {
        let mark = if row.on_front { " <abbr title=\"on the Pareto front\">◆</abbr>" } else { "" };
        let _ = write!(body, "<tr><th scope=\"row\">{}{mark}</th>", xml(row.name));
        for cell in row.cells {
            let _ = write!(body, "<td>{}</td>", xml(&cell));
        }
        body += "</tr>\n";
    }
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\"><table><caption>Each value with its standard \
         error; ◆ marks the Pareto front.</caption><thead><tr><th scope=\"col\">Model</th>{heads}</tr></thead><tbody>\n{body}</tbody></table></div>\n",
        xml(label)
    )
}

fn quantile_table(
    name: &str,
    fractions: &[(f64, &str)],
    report: &Report,
    pick: fn(&ModelRow) -> &[f64],
    unit: f64,
) -> String {
    let mut out = format!(
        "<details><summary>{0}</summary><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\"><table><thead><tr>\
         <th scope=\"col\">Model</th>",
        xml(name)
    );
    for (_, head) in fractions {
        let _ = write!(out, "<th scope=\"col\">{head}</th>");
    }
    out += "</tr></thead><tbody>\n";
    for model in &report.models {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", xml(&model.name));
        for value in pick(model) {
            let shown = if value.is_finite() { format!("{:.5}", value * unit) } else { "–".into() };
            let _ = write!(out, "<td>{shown}</td>");
        }
        out += "</tr>\n";
    }
    out + "</tbody></table></div></details>\n"
}

fn measured(report: &Report) -> String {
    let p = &report.protocol;
    let body = format!(
        "<p>The text was cut into {} chunks of {} tokens. In each chunk the first token is replaced by the beginning-of-sequence token where \
         the vocabulary asks for one, and the positions from {} to the one before the last predict the next token: {} positions in all. \
         Arithmetic: {}. Perplexity is the exponential of the mean negative log-likelihood; KL divergence is Σ p ln(p/q) over the whole \
         vocabulary with p the base; Δp is the change of the right token's probability; same top p is the share of positions at which both give \
         the same token the largest probability. Errors are standard errors over positions as if they were independent, which is \
         llama.cpp's convention; those of ratios and differences include the covariance of the two models on the same text. Neighbouring \
         positions are alike, so the error over the means of chunks is usually larger. Percentiles are exact.</p>\n\
         <dl><dt>Text</dt><dd>{}, {} tokens, SHA-256 <code>{}</code></dd><dt>Base</dt><dd>{}, {}</dd><dt>Made by</dt><dd>{}, in {:.1} s</dd></dl>\n",
        p.chunks,
        p.context,
        p.first_scored,
        count(p.positions as u64),
        xml(&p.computed()),
        xml(&p.text),
        count(p.tokens as u64),
        xml(&p.text_sha256),
        xml(&report.base.name),
        report.base.bytes.map_or("size not known".into(), bytes),
        xml(&report.program),
        p.seconds
    );
    section("measured", "How it was measured", &body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn the_page_is_whole_and_loads_nothing() {
        let page = html(&sample());
        assert!(page.starts_with("<!doctype html>"));
        assert!(page.ends_with("</html>\n"));
        for outside in ["http://", "https://", "<script", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        for tag in ["section", "table", "figure", "svg", "details", "main"] {
            let (opened, closed) =
                (page.matches(&format!("<{tag}")).count(), page.matches(&format!("</{tag}>")).count());
            assert_eq!(opened, closed, "{tag}");
        }
    }

    #[test]
    fn names_from_files_cannot_bring_markup() {
        let mut report = sample();
        report.models[0].name = "<img src=x onerror=alert(1)>".into();
        report.base.name = "\"><script>".into();
        let page = html(&report);
        assert!(!page.contains("<img"));
        assert!(!page.contains("<script"));
    }

    #[test]
    fn the_heat_map_has_a_cell_for_each_tensor() {
        let mut report = sample();
        let error = |name: &str, snr_db| TensorError {
            name: name.into(),
            ty: "Q4_K".into(),
            elements: 1024,
            rmse: 1e-3,
            relative: 0.05,
            max: 0.01,
            cosine: 0.999,
            snr_db,
            weighted_rmse: None,
        };
        report.models[1].tensors =
            vec![error("blk.0.attn_q.weight", 20.0), error("blk.3.attn_q.weight", 30.0), error("output.weight", 40.0)];
        let page = html(&report);
        assert_eq!(page.matches("class=\"cell\"").count(), 3);
        assert!(page.contains("style=\"--v:100%\""));
        // What is nearly lossless neither stretches the colours nor is shown first.
        report.models[0].tensors = vec![error("blk.0.attn_q.weight", 181.0), error("output.weight", 110.0)];
        let page = html(&report);
        assert!(page.contains(": ≥ 100.0 dB") && page.contains("style=\"--v:75%\""));
        let opened = page.split("<details open><summary>").nth(1).unwrap();
        assert!(opened.starts_with(&*xml(&report.models[1].name)));
    }
}
