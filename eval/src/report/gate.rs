//! The gate: limits that a pipeline sets, and what says whether they hold.

use std::fmt::Write as _;

use super::Model;
use crate::divergence::Estimate;

/// What may be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// PPL(Q)/PPL(base) − 1, at most.
    PplIncrease,
    /// Mean KL divergence, at most.
    Kld,
    /// The share of positions with the same top token, at least.
    SameTop,
    /// Mean cosine of a text's vector to the base's, at least.
    Cosine,
    /// Rank correlation of pairwise similarities or of scores, at least.
    RankCorrelation,
    /// Share of the nearest or the best that are so under the base, at least.
    Overlap,
}

/// A model of a report that can be judged.
pub trait Judged {
    /// Its name.
    fn name(&self) -> &str;

    /// What was measured of it; nothing of what a report of its kind has not.
    fn measured(&self, measure: Measure) -> Option<Estimate>;
}

impl Judged for Model {
    fn name(&self) -> &str {
        &self.name
    }

    fn measured(&self, measure: Measure) -> Option<Estimate> {
        let d = &self.divergence;
        match measure {
            Measure::PplIncrease => Some(d.ppl_ratio.derived(d.ppl_ratio.value - 1.0, 1.0)),
            Measure::Kld => Some(d.kld),
            Measure::SameTop => Some(d.same_top),
            Measure::Cosine | Measure::RankCorrelation | Measure::Overlap => None,
        }
    }
}

impl Measure {
    fn name(self) -> &'static str {
        match self {
            Measure::PplIncrease => "perplexity increase",
            Measure::Kld => "mean KL divergence",
            Measure::SameTop => "same top token",
            Measure::Cosine => "mean cosine",
            Measure::RankCorrelation => "rank correlation",
            Measure::Overlap => "overlap",
        }
    }

    /// The option that sets its limit.
    pub fn option(self) -> &'static str {
        match self {
            Measure::PplIncrease => "max-ppl-increase",
            Measure::Kld => "max-kld",
            Measure::SameTop => "min-same-top",
            Measure::Cosine => "min-cosine",
            Measure::RankCorrelation => "min-rank-correlation",
            Measure::Overlap => "min-overlap",
        }
    }

    fn is_floor(self) -> bool {
        !matches!(self, Measure::PplIncrease | Measure::Kld)
    }

    fn show(self, value: f64) -> String {
        match self {
            Measure::Kld | Measure::Cosine | Measure::RankCorrelation => format!("{value:.6}"),
            _ => format!("{:.3} %", 100.0 * value),
        }
    }
}

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// What is limited.
    pub measure: Measure,
    /// The limit, as a fraction of 1 for shares.
    pub limit: f64,
}

/// What a limit said of a model.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The model's name.
    pub model: String,
    /// The limit.
    pub limit: Limit,
    /// What was measured.
    pub measured: Estimate,
    /// Whether the limit holds.
    pub holds: bool,
    /// The verdict as a sentence.
    pub sentence: String,
}

/// Judges every model by every limit.
///
/// With a `confidence` (0.5 to 1), a limit holds only where the measured value stays inside it by the error's
/// one-sided margin at that confidence: a text too short to be sure does not pass.
///
/// What was not measured holds no limit.
pub fn judge(models: &[impl Judged], limits: &[Limit], confidence: Option<f64>) -> Vec<Verdict> {
    let margin = confidence.map_or(0.0, normal_quantile);
    let verdict = |model: &_, limit: Limit| {
        let measured = Judged::measured(model, limit.measure).unwrap_or(Estimate::NONE);
        let floor = limit.measure.is_floor();
        let worst =
            if floor { measured.value - margin * measured.error } else { measured.value + margin * measured.error };
        let name = Judged::name(model);
        // A value that is no number holds nothing.
        let holds = if floor { worst >= limit.limit } else { worst <= limit.limit };
        let by = if floor { limit.limit - worst } else { worst - limit.limit };
        let show = |v| limit.measure.show(v);
        let certainty =
            confidence.map_or(String::new(), |c| format!(" at {:.1} % confidence ({})", 100.0 * c, show(worst)));
        let error = if measured.error.is_finite() { format!(" ± {}", show(measured.error)) } else { String::new() };
        let sentence = format!(
            "{name}: {} is {}{error}{certainty}, {} {} of {}{}",
            limit.measure.name(),
            show(measured.value),
            if holds { "within the" } else { "beyond the" },
            if floor { "least" } else { "most" },
            show(limit.limit),
            if holds || !by.is_finite() { String::new() } else { format!(", by {}", show(by)) },
        );
        Verdict { model: name.to_owned(), limit, measured, holds, sentence }
    };
    models.iter().flat_map(|m| limits.iter().map(move |&l| verdict(m, l))).collect()
}

/// The point below which a standard normal value lies with this probability (0.5 to 1).
///
/// By bisection on the complementary error function's series; good to 1e-9, far below any use here.
fn normal_quantile(p: f64) -> f64 {
    let (mut low, mut high) = (0.0, 9.0);
    for _ in 0..60 {
        let mid = 0.5 * (low + high);
        if normal_cdf(mid) < p { low = mid } else { high = mid }
    }
    0.5 * (low + high)
}

/// Φ(x) for x ≥ 0 by its Taylor-like series (Abramowitz and Stegun 26.2.11).
fn normal_cdf(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while term > 1e-17 * sum {
        n += 2.0;
        term *= x * x / n;
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// Parses `1%`, `0.01` or `95 %` as a fraction of 1, for clap's `value_parser`.
///
/// # Errors
/// Text that is no finite number, with or without a percent sign, or one below 0.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let (number, unit) = match text.trim().strip_suffix('%') {
        Some(number) => (number.trim_end(), 0.01),
        None => (text.trim(), 1.0),
    };
    match number.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value * unit),
        _ => Err(format!("\"{text}\" is no share such as 1% or 0.01")),
    }
}

/// Parses a share of a whole, which is no more than all of it.
///
/// # Errors
/// Those of [`parse_share`], and shares above 100 %.
pub fn parse_part(text: &str) -> Result<f64, String> {
    match parse_share(text)? {
        share if share > 1.0 => Err(format!("\"{text}\" is more than all; shares are such as 95% or 0.95")),
        share => Ok(share),
    }
}

/// The verdicts on a base's models as a JUnit XML document: a test case for each model and limit.
pub fn junit(base: &str, seconds: f64, verdicts: &[Verdict]) -> String {
    let failures = verdicts.iter().filter(|v| !v.holds).count();
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"evaluate compare: {}\" tests=\"{}\" \
         failures=\"{failures}\" errors=\"0\" time=\"{:.3}\">\n",
        xml(base),
        verdicts.len(),
        seconds
    );
    for verdict in verdicts {
        let (class, name) = (xml(&verdict.model), verdict.limit.measure.option());
        let _ = if verdict.holds {
            writeln!(out, "    <testcase classname=\"{class}\" name=\"{name}\"/>")
        } else {
            let message = xml(&verdict.sentence);
            writeln!(
                out,
                "    <testcase classname=\"{class}\" name=\"{name}\"><failure message=\"{message}\"/></testcase>"
            )
        };
    }
    out + "  </testsuite>\n</testsuites>\n"
}

/// The broken limits as GitHub workflow annotations, a line each.
pub fn github(verdicts: &[Verdict]) -> String {
    let escape = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    verdicts
        .iter()
        .filter(|v| !v.holds)
        .map(|v| format!("::error title=evaluate {}::{}\n", v.limit.measure.option(), escape(&v.sentence)))
        .collect()
}

/// Text with the characters escaped that XML and HTML give a meaning.
pub(super) fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Control characters are not allowed in XML at all.
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{FFFD}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;
    use approx::assert_relative_eq;

    const KLD: Limit = Limit { measure: Measure::Kld, limit: 0.02 };

    #[test]
    fn a_broken_limit_is_named_with_its_excess() {
        let report = sample();
        let verdicts = judge(&report.models, &[KLD], None);
        let broken: Vec<&Verdict> = verdicts.iter().filter(|v| !v.holds).collect();
        let names: Vec<&str> = broken.iter().map(|v| v.model.as_str()).collect();
        assert_eq!(names, ["Q4_K_M", "Q4_0"]);
        assert!(broken[0].sentence.contains("mean KL divergence is 0.030000"), "{}", broken[0].sentence);
        assert!(broken[0].sentence.contains("by 0.010000"), "{}", broken[0].sentence);
    }

    #[test]
    fn confidence_asks_for_a_margin() {
        let report = sample();
        let value = report.models[1].divergence.kld.value;
        let limit = Limit { measure: Measure::Kld, limit: value + 1e-4 };
        assert!(judge(&report.models, &[limit], None)[1].holds);
        assert!(!judge(&report.models, &[limit], Some(0.999))[1].holds);
    }

    #[test]
    fn the_floor_is_a_floor() {
        let limit = |limit| Limit { measure: Measure::SameTop, limit };
        let report = sample();
        assert!(judge(&report.models, &[limit(0.97)], None).iter().all(|v| v.holds));
        assert!(judge(&report.models, &[limit(0.99)], None).iter().all(|v| !v.holds));
    }

    #[test]
    fn no_number_never_passes() {
        let mut report = sample();
        report.models[0].divergence.kld.value = f64::NAN;
        assert!(!judge(&report.models, &[KLD], None)[0].holds);
    }

    #[test]
    fn normal_quantiles_are_the_known_ones() {
        assert_relative_eq!(normal_quantile(0.95), 1.6448536269514722, epsilon = 1e-9);
        assert_relative_eq!(normal_quantile(0.999), 3.090232306167813, epsilon = 1e-9);
        assert!(normal_quantile(0.5).abs() < 1e-9);
    }

    #[test]
    fn shares_are_read_with_and_without_a_percent_sign() {
        assert_relative_eq!(parse_share("1%").expect("a share"), 0.01);
        assert_relative_eq!(parse_share("0.01").expect("a share"), 0.01);
        assert!(parse_share("many").is_err());
        assert!(parse_share("-1%").is_err());
        assert!(parse_share("nan").is_err());
    }

    #[test]
    fn reports_for_machines_escape_what_they_quote() {
        let mut report = sample();
        report.models[1].name = "<a & \"b\">".into();
        let verdicts = judge(&report.models, &[KLD], None);
        let xml = junit("tiny-llama", 1.5, &verdicts);
        assert!(xml.contains("classname=\"&lt;a &amp; &quot;b&quot;&gt;\""));
        assert!(xml.contains("tests=\"3\" failures=\"2\""));
        let annotations = github(&verdicts);
        assert_eq!(annotations.lines().count(), 2);
        assert!(annotations.starts_with("::error title=evaluate max-kld::"));
    }
}
