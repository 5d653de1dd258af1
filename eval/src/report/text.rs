//! Tables: for a terminal, as CSV, as Markdown.

use gguf::cli::{Align, Table, bytes};

use super::{ModelRow, Report};
use crate::divergence::{DELTA_P_FRACTIONS, Divergence, Estimate, KLD_FRACTIONS};

/// The columns of a terminal that the tables keep to where they are not to be wide.
const TERMINAL: usize = 100;

/// The fewest characters that a name is cut to.
const SHORTEST_NAME: usize = 12;

/// A column of the short tables: its head and what it shows of a model.
type Column = (&'static str, fn(&ModelRow) -> String);

const NAME: Column = ("model", |m| m.name.clone());

/// What a model takes, and its perplexity.
const COSTS: [Column; 5] = [
    ("size", |m| bytes(m.bytes)),
    ("bits/weight", |m| format!("{:.2}", m.bits_per_weight)),
    ("PPL", |m| estimate(m.divergence.ppl, 1.0, 4)),
    ("± over chunks", |m| number(m.divergence.ppl.chunk_error, 4)),
    ("PPL ratio − 1, %", |m| {
        let ratio = m.divergence.ppl_ratio;
        estimate(ratio.derived(ratio.value - 1.0, 1.0), 100.0, 3)
    }),
];

/// How far its predictions are from the base's.
const DISTANCES: [Column; 4] = [
    ("mean KLD", |m| estimate(m.divergence.kld, 1.0, 6)),
    ("99% KLD", |m| number(m.divergence.kld_at(0.99), 5)),
    ("RMS Δp, %", |m| estimate(m.divergence.delta_p_rms, 100.0, 3)),
    ("same top, %", |m| estimate(m.divergence.same_top, 100.0, 2)),
];

/// What there is room for in a wide table alone.
const WIDE: [Column; 5] = [
    ("bits/weight quantized", |m| number(m.quantized_bits_per_weight, 3)),
    ("median KLD", |m| number(m.divergence.kld_at(0.5), 6)),
    ("99.9% KLD", |m| number(m.divergence.kld_at(0.999), 5)),
    ("maximum KLD", |m| number(m.divergence.kld_at(1.0), 5)),
    ("mean Δp, %", |m| estimate(m.divergence.delta_p, 100.0, 3)),
];

pub(super) fn number(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    let shown = format!("{value:.digits$}");
    // What is rounded to nothing has no sign.
    let nothing = shown.chars().all(|c| matches!(c, '-' | '0' | '.'));
    if nothing { shown.trim_start_matches('-').to_owned() } else { shown }
}

/// What the errors beside the figures are.
const ERRORS: &str = "± is one standard error over positions as if they were independent, which is llama.cpp's\n\
                      convention; neighbours in a text are not, so the one over the means of chunks is usually larger.";

/// The base's perplexity with both of its errors.
fn base_ppl(report: &Report) -> String {
    let ppl = report.base.ppl;
    let chunks =
        if ppl.chunk_error.is_finite() { format!(" (± {:.4} over chunks)", ppl.chunk_error) } else { String::new() };
    format!("PPL {}{chunks}", estimate(ppl, 1.0, 4))
}

pub(super) fn estimate(e: Estimate, unit: f64, digits: usize) -> String {
    match (e.value.is_finite(), e.error.is_finite()) {
        (true, true) => format!("{} ± {:.digits$}", number(e.value * unit, digits), e.error * unit),
        (true, false) => number(e.value * unit, digits),
        _ => "–".into(),
    }
}

/// The tables of a text: two that fit a terminal, or one with all columns and whole names.
fn tables(report: &Report, wide: bool) -> String {
    if wide {
        let columns: Vec<Column> = COSTS.into_iter().chain(DISTANCES).chain(WIDE).collect();
        return table(report, &columns, usize::MAX) + "\n";
    }
    format!("{}\n{}\n", table(report, &COSTS, TERMINAL), table(report, &DISTANCES, TERMINAL))
}

/// A table of these columns behind the names, which are cut in the middle where the lines are longer than `most`.
fn table(report: &Report, columns: &[Column], most: usize) -> String {
    let heads: Vec<_> =
        std::iter::once((NAME.0, Align::Left)).chain(columns.iter().map(|c| (c.0, Align::Right))).collect();
    let render = |longest: usize| {
        let mut table = Table::new(&heads);
        for model in &report.models {
            let name = shortened(&NAME.1(model), longest);
            table.row(std::iter::once(name).chain(columns.iter().map(|c| c.1(model))));
        }
        table.render()
    };
    let whole = render(usize::MAX);
    let beyond = whole.lines().map(|line| line.chars().count()).max().unwrap_or(0).saturating_sub(most);
    let longest = report.models.iter().map(|m| NAME.1(m).chars().count()).max().unwrap_or(0);
    if beyond == 0 { whole } else { render(longest.saturating_sub(beyond).max(SHORTEST_NAME)) }
}

/// A name with its beginning and its end, where the type stands.
fn shortened(name: &str, longest: usize) -> String {
    let characters: Vec<char> = name.chars().collect();
    if characters.len() <= longest {
        return name.to_owned();
    }
    let end = longest / 2;
    let (begin, end) = (&characters[..longest - end - 1], &characters[characters.len() - end..]);
    begin.iter().chain(&['…']).chain(end).collect()
}

/// The short tables for a terminal, with the base above them.
pub fn terminal(report: &Report, wide: bool) -> String {
    let base = &report.base;
    let size =
        base.bytes.map_or(String::new(), |n| format!("{}, {:.2} bits per weight, ", bytes(n), base.bits_per_weight));
    let mut out = format!("{}: {size}{}\nArithmetic: {}\n", base.name, base_ppl(report), report.protocol.computed());
    for on in report.by_text() {
        let protocol = &on.protocol;
        let ppl = if report.texts.is_empty() { String::new() } else { format!(", {}", base_ppl(on)) };
        out += &format!(
            "{}: {} chunks of {} tokens, {} positions scored{ppl}\n\n{}",
            protocol.text,
            protocol.chunks,
            protocol.context,
            protocol.positions,
            tables(on, wide)
        );
    }
    for (name, told) in report.made_of() {
        out += &format!("{}: {told}\n", if wide { name.to_owned() } else { shortened(name, 2 * SHORTEST_NAME) });
    }
    out + ERRORS + "\n"
}

/// The short tables as one in Markdown.
pub fn markdown(report: &Report) -> String {
    report.by_text().map(markdown_on).collect::<Vec<_>>().join("\n")
}

fn markdown_on(report: &Report) -> String {
    let columns = || std::iter::once(&NAME).chain(&COSTS).chain(&DISTANCES);
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut out = line(columns().map(|c| c.0.to_owned()).collect());
    out += &line(columns().map(|c| if c.0 == NAME.0 { ":--" } else { "--:" }.to_owned()).collect());
    for model in &report.models {
        out += &line(columns().map(|c| c.1(model).replace('|', "\\|")).collect());
    }
    let (base, protocol) = (&report.base, &report.protocol);
    let made_of: String = report.made_of().iter().map(|(name, told)| format!("\n{name}: {told}.\n")).collect();
    out + &made_of
        + &format!(
            "\nBase {}: {} bits per weight, {}. {} positions of {} ({} chunks of {}). Arithmetic: {}. {ERRORS}\n",
            base.name,
            number(base.bits_per_weight, 2),
            base_ppl(report),
            protocol.positions,
            protocol.text,
            protocol.chunks,
            protocol.context,
            protocol.computed()
        )
}

/// Every statistic as CSV: a line for the heads, a line a model and text. Missing numbers are empty.
pub fn csv(report: &Report) -> String {
    let mut heads: Vec<String> =
        ["model", "bytes", "bits_per_weight", "positions", "base_ppl"].map(String::from).into();
    for (name, _) in Divergence::of(&[], &[], 1).estimates() {
        heads.extend([name.to_owned(), format!("{name}_error"), format!("{name}_chunk_error")]);
    }
    heads.extend(KLD_FRACTIONS.map(|f| format!("kld_{}", f.1)));
    heads.extend(DELTA_P_FRACTIONS.map(|f| format!("delta_p_{}", f.1)));
    heads.push("text".into());
    let mut out = heads.join(",") + "\n";
    let lines = report.by_text().flat_map(|on| on.models.iter().map(move |model| (on, model)));
    for (on, model) in lines {
        let d = &model.divergence;
        let mut cells = vec![
            quoted(&model.name),
            model.bytes.to_string(),
            plain(model.bits_per_weight),
            d.positions.to_string(),
            plain(on.base.ppl.value),
        ];
        for (_, e) in d.estimates() {
            cells.extend([plain(e.value), plain(e.error), plain(e.chunk_error)]);
        }
        cells.extend(d.kld_quantiles.iter().chain(&d.delta_p_quantiles).map(|&v| plain(v)));
        cells.push(quoted(&on.protocol.text));
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
        assert_eq!(widths[0], 5 + 27 + KLD_FRACTIONS.len() + DELTA_P_FRACTIONS.len() + 1);
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
    fn lines_keep_to_a_terminal() {
        let mut report = sample();
        report.models[0].name = format!("{}-Q4_K_M", "Some-Model-of-Many-Words".repeat(4));
        report.models[1].divergence.ppl =
            Estimate { value: 123_456.7, error: 34_567.8, ..report.models[1].divergence.ppl };
        let text = terminal(&report, false);
        let longest = text.lines().skip(2).map(|line| line.chars().count()).max();
        assert!(longest <= Some(TERMINAL), "{text}");
        assert_eq!(text.matches("-Q4_K_M").count(), 2, "{text}");
        assert_eq!(shortened("abcdefghij", 5), "ab…ij");
        assert_eq!(shortened("abcde", 5), "abcde");
    }

    #[test]
    fn what_is_rounded_to_nothing_has_no_sign() {
        let shown = [-1e-9, 0.0, -0.0006, -1.0].map(|v| number(v, 3));
        assert_eq!(shown, ["0.000", "0.000", "-0.001", "-1.000"]);
        assert_eq!(number(-0.2, 0), "0");
    }

    #[test]
    fn a_missing_number_is_a_dash_for_people_and_empty_for_programs() {
        let mut report = sample();
        report.models[0].divergence.kld = Estimate::NONE;
        assert!(terminal(&report, false).contains('–'));
        assert!(csv(&report).contains(",,"));
    }
}
