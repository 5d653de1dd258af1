//! Tables: for a terminal, as CSV, as Markdown.

use gguf::cli::{Align, Table, bytes};

use super::{Model, Report};
use crate::divergence::{DELTA_P_FRACTIONS, Divergence, Estimate, KLD_FRACTIONS};

/// A column of the short table: its head and what it shows of a model.
type Column = (&'static str, fn(&Model) -> String);

const COLUMNS: [Column; 10] = [
    ("model", |m| m.name.clone()),
    ("size", |m| bytes(m.bytes)),
    ("bits/weight", |m| format!("{:.2}", m.bits_per_weight)),
    ("PPL", |m| estimate(m.divergence.ppl, 1.0, 4)),
    ("± over chunks", |m| number(m.divergence.ppl.chunk_error, 4)),
    ("PPL ratio − 1, %", |m| {
        let ratio = m.divergence.ppl_ratio;
        estimate(ratio.derived(ratio.value - 1.0, 1.0), 100.0, 3)
    }),
    ("mean KLD", |m| estimate(m.divergence.kld, 1.0, 6)),
    ("99% KLD", |m| number(m.divergence.kld_at(0.99), 5)),
    ("RMS Δp, %", |m| estimate(m.divergence.delta_p_rms, 100.0, 3)),
    ("same top, %", |m| estimate(m.divergence.same_top, 100.0, 2)),
];

pub(super) fn number(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:.digits$}") } else { "–".into() }
}

/// What the errors beside the figures are.
const ERRORS: &str = "± is one standard error over positions as if they were independent, which is llama.cpp's convention; \
                      neighbours in a text are not, so the one over the means of chunks is usually larger.";

/// The base's perplexity with both of its errors.
fn base_ppl(report: &Report) -> String {
    let ppl = report.base.ppl;
    let chunks =
        if ppl.chunk_error.is_finite() { format!(" (± {:.4} over chunks)", ppl.chunk_error) } else { String::new() };
    format!("PPL {}{chunks}", estimate(ppl, 1.0, 4))
}

pub(super) fn estimate(e: Estimate, unit: f64, digits: usize) -> String {
    match (e.value.is_finite(), e.error.is_finite()) {
        (true, true) => format!("{:.digits$} ± {:.digits$}", e.value * unit, e.error * unit),
        (true, false) => number(e.value * unit, digits),
        _ => "–".into(),
    }
}

/// The short table for a terminal, with the base above it.
pub fn terminal(report: &Report) -> String {
    let (base, protocol) = (&report.base, &report.protocol);
    let columns = COLUMNS.map(|c| (c.0, if c.0 == "model" { Align::Left } else { Align::Right }));
    let mut table = Table::new(&columns);
    for model in &report.models {
        table.row(COLUMNS.map(|c| c.1(model)));
    }
    format!(
        "{}: {}, {:.2} bits per weight, {}\n{}: {} chunks of {} tokens, {} positions scored\n\n{}\n{ERRORS}\n",
        base.name,
        bytes(base.bytes),
        base.bits_per_weight,
        base_ppl(report),
        protocol.text,
        protocol.chunks,
        protocol.context,
        protocol.positions,
        table.render()
    )
}

/// The short table as Markdown.
pub fn markdown(report: &Report) -> String {
    let escape = |cell: String| cell.replace('|', "\\|");
    let line = |cells: [String; COLUMNS.len()]| format!("| {} |\n", cells.map(escape).join(" | "));
    let mut out = line(COLUMNS.map(|c| c.0.to_owned()));
    out += &line(COLUMNS.map(|c| if c.0 == "model" { ":--" } else { "--:" }.to_owned()));
    for model in &report.models {
        out += &line(COLUMNS.map(|c| c.1(model)));
    }
    let (base, protocol) = (&report.base, &report.protocol);
    out + &format!(
        "\nBase {}: {:.2} bits per weight, {}. {} positions of {} ({} chunks of {}). {ERRORS}\n",
        base.name,
        base.bits_per_weight,
        base_ppl(report),
        protocol.positions,
        protocol.text,
        protocol.chunks,
        protocol.context
    )
}

/// Every statistic as CSV: a line for the heads, a line a model. Missing numbers are empty.
pub fn csv(report: &Report) -> String {
    let mut heads: Vec<String> =
        ["model", "bytes", "bits_per_weight", "positions", "base_ppl"].map(String::from).into();
    for (name, _) in Divergence::of(&[], &[], 1).estimates() {
        heads.extend([name.to_owned(), format!("{name}_error"), format!("{name}_chunk_error")]);
    }
    heads.extend(KLD_FRACTIONS.map(|f| format!("kld_{}", f.1)));
    heads.extend(DELTA_P_FRACTIONS.map(|f| format!("delta_p_{}", f.1)));
    let mut out = heads.join(",") + "\n";
    for model in &report.models {
        let d = &model.divergence;
        let mut cells = vec![
            quoted(&model.name),
            model.bytes.to_string(),
            plain(model.bits_per_weight),
            d.positions.to_string(),
            plain(report.base.ppl.value),
        ];
        for (_, e) in d.estimates() {
            cells.extend([plain(e.value), plain(e.error), plain(e.chunk_error)]);
        }
        cells.extend(d.kld_quantiles.iter().chain(&d.delta_p_quantiles).map(|&v| plain(v)));
        out += &(cells.join(",") + "\n");
    }
    out
}

pub(super) fn plain(value: f64) -> String {
    if value.is_finite() { value.to_string() } else { String::new() }
}

pub(super) fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn every_csv_line_has_every_column() {
        let text = csv(&sample());
        let widths: Vec<usize> = text.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(widths.len(), 4);
        assert!(widths.iter().all(|&w| w == widths[0]), "{widths:?}");
        assert_eq!(widths[0], 5 + 27 + KLD_FRACTIONS.len() + DELTA_P_FRACTIONS.len());
    }

    #[test]
    fn names_cannot_break_a_table() {
        let mut report = sample();
        report.models[0].name = "a|b,\"c\"".into();
        assert!(csv(&report).contains("\"a|b,\"\"c\"\"\""));
        assert!(markdown(&report).contains("a\\|b"));
        let lines = markdown(&report).lines().filter(|l| l.starts_with('|')).count();
        assert_eq!(lines, 2 + report.models.len());
    }

    #[test]
    fn a_missing_number_is_a_dash_for_people_and_empty_for_programs() {
        let mut report = sample();
        report.models[0].divergence.kld = Estimate::NONE;
        assert!(terminal(&report).contains('–'));
        assert!(csv(&report).contains(",,"));
    }
}
