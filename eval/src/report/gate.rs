//! The gate: limits that a pipeline sets, and what says whether they hold.
//!
//! Limits come from options or from a file (`--gate gate.toml`), where they may differ by type and by text. Each is decided
//! with the error of what was measured: the larger of that over positions and that over chunks.

use std::fmt::Write as _;
use std::path::Path;

use gguf::{Error, Result};
use serde_json::{Value, json};

use super::ModelRow;
use crate::divergence::Estimate;
use crate::weights::Arithmetic;

/// What may be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// PPL(Q)/PPL(base) − 1, at most.
    PplIncrease,
    /// Mean KL divergence, at most.
    Kld,
    /// KL divergence that 99 % of the positions stay below, at most.
    Kld99,
    /// The largest KL divergence, at most.
    KldMaximum,
    /// Mean Δp without its sign, at most.
    DeltaP,
    /// Root of the mean square of Δp, at most.
    DeltaPRms,
    /// The share of positions with the same top token, at least.
    SameTop,
    /// Mean cosine of a text's vector to the base's, at least.
    Cosine,
    /// Rank correlation of pairwise similarities or of scores, at least.
    RankCorrelation,
    /// Share of the nearest or the best that are so under the base, at least.
    Overlap,
    /// Share of questions whose answer becomes wrong or right, at most.
    Flips,
}

/// How a value of a measure reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// Nats, or a cosine or a correlation.
    Plain,
    /// A share, as per cent.
    Share,
}

/// What there is to know of a measure.
struct Row {
    measure: Measure,
    /// The option and the key of a gate file.
    option: &'static str,
    /// Its name in JSON, which is that of the report.
    field: &'static str,
    name: &'static str,
    /// Whether the limit is the least rather than the most.
    floor: bool,
    unit: Unit,
    /// Whether it is a mean or a percentile, which another text would move, rather than one position of this text.
    has_error: bool,
}

const fn row(measure: Measure, option: &'static str, field: &'static str, name: &'static str, unit: Unit) -> Row {
    Row { measure, option, field, name, floor: false, unit, has_error: true }
}

const fn floor(row: Row) -> Row {
    Row { floor: true, ..row }
}

const MEASURES: [Row; 11] = [
    row(Measure::PplIncrease, "max-ppl-increase", "ppl_increase", "perplexity increase", Unit::Share),
    row(Measure::Kld, "max-kld", "kld", "mean KL divergence", Unit::Plain),
    row(Measure::Kld99, "max-kld-99", "kld_99", "99 % KL divergence", Unit::Plain),
    Row {
        has_error: false,
        ..row(Measure::KldMaximum, "max-kld-maximum", "kld_maximum", "largest KL divergence", Unit::Plain)
    },
    row(Measure::DeltaP, "max-delta-p", "delta_p", "mean Δp without its sign", Unit::Share),
    row(Measure::DeltaPRms, "max-delta-p-rms", "delta_p_rms", "RMS Δp", Unit::Share),
    floor(row(Measure::SameTop, "min-same-top", "same_top", "same top token", Unit::Share)),
    floor(row(Measure::Cosine, "min-cosine", "cosine", "mean cosine", Unit::Plain)),
    floor(row(Measure::RankCorrelation, "min-rank-correlation", "rank_correlation", "rank correlation", Unit::Plain)),
    floor(row(Measure::Overlap, "min-overlap", "overlap", "overlap", Unit::Share)),
    row(Measure::Flips, "max-flips", "flips", "share of flipped answers", Unit::Share),
];

/// A model of a report that can be judged.
pub trait Judged {
    /// Its name.
    fn name(&self) -> &str;

    /// What was measured of it; nothing of what a report of its kind has not.
    fn measured(&self, measure: Measure) -> Option<Estimate>;
}

impl Judged for ModelRow {
    fn name(&self) -> &str {
        &self.name
    }

    fn measured(&self, measure: Measure) -> Option<Estimate> {
        let d = &self.divergence;
        match measure {
            Measure::PplIncrease => Some(d.ppl_ratio.derived(d.ppl_ratio.value - 1.0, 1.0)),
            Measure::Kld => Some(d.kld),
            Measure::Kld99 => {
                Some(Estimate { value: d.kld_at(0.99), error: d.kld_error_at(0.99), chunk_error: f64::NAN })
            }
            Measure::KldMaximum => Some(Estimate { value: d.kld_at(1.0), ..Estimate::NONE }),
            Measure::DeltaP => Some(d.delta_p.derived(d.delta_p.value.abs(), 1.0)),
            Measure::DeltaPRms => Some(d.delta_p_rms),
            Measure::SameTop => Some(d.same_top),
            Measure::Cosine | Measure::RankCorrelation | Measure::Overlap | Measure::Flips => None,
        }
    }
}

impl Measure {
    fn row(self) -> &'static Row {
        MEASURES.iter().find(|r| r.measure == self).unwrap_or(&MEASURES[0])
    }

    /// The option that sets its limit, and the key of a gate file.
    pub fn option(self) -> &'static str {
        self.row().option
    }

    /// A limit of it from text as an option has it.
    ///
    /// # Errors
    /// Text that is no number of its unit.
    pub fn limit(self, text: &str) -> Result<Limit, String> {
        let row = self.row();
        let limit = match (row.unit, row.floor) {
            // No share, cosine or correlation is above 1: nothing would ever pass.
            (_, true) => parse_part(text)?,
            (Unit::Share, false) => parse_share(text)?,
            (Unit::Plain, false) => gguf::cli::parse_limit(text)?,
        };
        Ok(Limit { measure: self, limit })
    }

    fn show(self, value: f64) -> String {
        match self.row().unit {
            Unit::Plain => format!("{value:.6}"),
            Unit::Share => format!("{:.3} %", 100.0 * value),
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

/// Limits for some types and texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LimitRule {
    /// The types or models that it is for; all where there is none.
    pub types: Vec<String>,
    /// The texts that it is for; all where there is none.
    pub texts: Vec<String>,
    /// The limits.
    pub limits: Vec<Limit>,
}

impl LimitRule {
    fn is_for(&self, model: &str, text: &str) -> bool {
        (self.types.is_empty() || self.types.iter().any(|name| is_type(model, name)))
            && (self.texts.is_empty() || self.texts.iter().any(|name| is_text(text, name)))
    }

    fn parse(table: &toml::Table) -> Result<LimitRule> {
        let mut rule = LimitRule::default();
        for (key, value) in table {
            let names = || match value {
                toml::Value::String(one) => Ok(vec![one.clone()]),
                toml::Value::Array(all) => all
                    .iter()
                    .map(|v| v.as_str().map(str::to_owned).ok_or_else(|| wrong(key, "is a list of names")))
                    .collect(),
                _ => Err(wrong(key, "is a name or a list of names")),
            };
            match key.as_str() {
                "types" => rule.types = names()?,
                "texts" => rule.texts = names()?,
                _ => {
                    let row = MEASURES.iter().find(|r| r.option == key).ok_or_else(|| {
                        let all: Vec<&str> = MEASURES.iter().map(|r| r.option).collect();
                        Error::input(format!("{key} is no limit")).help(format!("types, texts, {}", all.join(", ")))
                    })?;
                    let text = words_of(value).ok_or_else(|| wrong(key, "is a number such as 0.01 or \"1%\""))?;
                    rule.limits.push(row.measure.limit(&text).map_err(|e| wrong(key, &e))?);
                }
            }
        }
        Ok(rule)
    }
}

/// Whether a model is of a type, or called so: `Q4_K_M` and `Tiny-Llama-4.2M-Q4_K_M` are of `q4_k_m`.
fn is_type(model: &str, name: &str) -> bool {
    let (model, name) = (model.to_ascii_lowercase(), name.to_ascii_lowercase());
    model.strip_suffix(&name).is_some_and(|rest| rest.is_empty() || rest.ends_with(['-', '.']))
}

/// What a pipeline asks of models.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gate {
    /// Limits, of which for each measure the last that is for a model and a text counts.
    pub rules: Vec<LimitRule>,
    /// The certainty that is asked for (0.5 to 1); none where the measured value alone decides.
    pub confidence: Option<f64>,
    /// How products are to be taken for these limits; none where either will do.
    pub arithmetic: Option<Arithmetic>,
}

impl Gate {
    /// Reads a gate file.
    ///
    /// # Errors
    /// Text that is no TOML, keys that are not known, limits that are none.
    pub fn parse(text: &str) -> Result<Gate> {
        let table: toml::Table =
            toml::from_str(text).map_err(|e| Error::input("is no gate file").caused_by(e.to_string()))?;
        let mut gate = Gate::default();
        for (key, value) in &table {
            match (key.as_str(), value) {
                ("confidence", value) => {
                    let text = words_of(value).ok_or_else(|| wrong(key, "is a share such as \"95%\""))?;
                    gate.confidence = Some(parse_share(&text).map_err(|e| wrong(key, &e))?);
                }
                ("arithmetic", value) => {
                    let text = words_of(value).ok_or_else(|| wrong(key, "is exact or deployed"))?;
                    gate.arithmetic = Some(text.parse().map_err(|e: Error| wrong(key, e.message()))?);
                }
                ("limits", toml::Value::Array(rules)) => {
                    for rule in rules {
                        let table = rule.as_table().ok_or_else(|| wrong(key, "is a list of tables, [[limits]]"))?;
                        gate.rules.push(LimitRule::parse(table)?);
                    }
                }
                ("limits", toml::Value::Table(table)) => gate.rules.push(LimitRule::parse(table)?),
                _ => {
                    return Err(Error::input(format!("{key} is no key of a gate file"))
                        .help("arithmetic, confidence, [[limits]]"));
                }
            }
        }
        gate.check()?;
        Ok(gate)
    }

    /// Refuses a certainty that cannot be asked for.
    ///
    /// # Errors
    /// One below 50 %, or 100 %.
    pub fn check(&self) -> Result<()> {
        match self.confidence {
            Some(c) if !(0.5..1.0).contains(&c) => {
                Err(Error::usage("the confidence of a gate is a share from 50% to below 100%"))
            }
            _ => Ok(()),
        }
    }

    /// Every limit.
    pub fn limits(&self) -> impl Iterator<Item = &Limit> {
        self.rules.iter().flat_map(|r| &r.limits)
    }

    /// The limits for a model on a text.
    pub fn limits_for(&self, model: &str, text: &str) -> Vec<Limit> {
        let mut found: Vec<Limit> = Vec::new();
        for limit in self.rules.iter().filter(|r| r.is_for(model, text)).flat_map(|r| &r.limits) {
            match found.iter_mut().find(|l| l.measure == limit.measure) {
                Some(earlier) => *earlier = *limit,
                None => found.push(*limit),
            }
        }
        found
    }

    /// The names of types and texts in its rules that are none of these: limits of other runs, or slips of the pen.
    pub fn unknown(&self, models: &[&str], texts: &[&str]) -> Vec<String> {
        let types = self.rules.iter().flat_map(|r| &r.types).filter(|name| !models.iter().any(|m| is_type(m, name)));
        let texts = self.rules.iter().flat_map(|r| &r.texts).filter(|name| !texts.iter().any(|t| is_text(t, name)));
        let mut all: Vec<String> =
            types.map(|t| format!("model \"{t}\"")).chain(texts.map(|t| format!("text \"{t}\""))).collect();
        all.sort();
        all.dedup();
        all
    }
}

/// Whether a text is called so, with or without the ending of its file.
fn is_text(text: &str, name: &str) -> bool {
    text == name || text.rsplit_once('.').is_some_and(|(stem, _)| stem == name)
}

fn wrong(key: &str, why: &str) -> Error {
    Error::input(format!("{key}: {why}"))
}

/// A number or text of a gate file as an option would have it.
fn words_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}

/// What a limit said of a model on a text.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The text's name.
    pub text: String,
    /// The model's name.
    pub model: String,
    /// The limit.
    pub limit: Limit,
    /// What was measured.
    pub value: f64,
    /// One standard error of it, the larger of that over positions and that over chunks; NaN where there is none.
    pub error: f64,
    /// How far the value is on the right side of the limit; negative beyond it.
    pub margin: f64,
    /// How sure it is, by the error, that the value truly lies on the right side; NaN where there is no error.
    pub certainty: f64,
    /// Whether the limit holds.
    pub holds: bool,
    /// The verdict as a sentence.
    pub sentence: String,
}

impl Verdict {
    /// The verdict for programs; a number that could not be had is `null`.
    pub fn json(&self) -> Value {
        let row = self.limit.measure.row();
        json!({
            "text": self.text,
            "model": self.model,
            "metric": row.field,
            "option": row.option,
            "bound": if row.floor { "least" } else { "most" },
            "limit": self.limit.limit,
            "value": self.value,
            "error": self.error,
            "margin": self.margin,
            "certainty": self.certainty,
            "holds": self.holds,
            "sentence": self.sentence,
        })
    }
}

/// Judges every model on a text by the limits that are for it.
///
/// With a confidence, a limit holds only where the measured value stays inside it by the error's one-sided margin at that
/// confidence: a text too short to be sure does not pass. What is one position's rather than a mean is taken as it is.
///
/// What was not measured holds no limit. The sentence names the text where it is one of `several`.
pub fn judge(models: &[impl Judged], gate: &Gate, text: &str, several: bool) -> Vec<Verdict> {
    let errors_inside = gate.confidence.map_or(0.0, normal_quantile);
    let verdict = |model: &_, limit: Limit| {
        let row = limit.measure.row();
        let measured = Judged::measured(model, limit.measure).unwrap_or(Estimate::NONE);
        let (value, error) = (measured.value, measured.larger_error());
        let sign = if row.floor { 1.0 } else { -1.0 };
        let asked = if row.has_error && gate.confidence.is_some() { errors_inside * error } else { 0.0 };
        let margin = sign * (value - limit.limit);
        let name = Judged::name(model);
        // A value that is no number holds nothing.
        let holds = margin - asked >= 0.0;
        let show = |v| limit.measure.show(v);
        let confidence = match gate.confidence {
            Some(c) if row.has_error => format!(" at {:.1} % confidence ({})", 100.0 * c, show(value - sign * asked)),
            _ => String::new(),
        };
        let by = asked - margin;
        let sentence = format!(
            "{name}{}: {} is {}{}{confidence}, {} {} of {}{}",
            if several { format!(" on {text}") } else { String::new() },
            row.name,
            show(value),
            if error.is_finite() { format!(" ± {}", show(error)) } else { String::new() },
            if holds { "within the" } else { "beyond the" },
            if row.floor { "least" } else { "most" },
            show(limit.limit),
            if holds || !by.is_finite() { String::new() } else { format!(", by {}", show(by)) },
        );
        let certainty = certainty_of(margin, error);
        Verdict {
            text: text.to_owned(),
            model: name.to_owned(),
            limit,
            value,
            error,
            margin,
            certainty,
            holds,
            sentence,
        }
    };
    let of = |model| gate.limits_for(Judged::name(model), text).into_iter().map(move |limit| verdict(model, limit));
    models.iter().flat_map(of).collect()
}

/// How sure it is that a value this far inside a limit, with this standard error, truly is.
fn certainty_of(margin: f64, error: f64) -> f64 {
    if error == 0.0 {
        return if margin >= 0.0 { 1.0 } else { 0.0 };
    }
    let errors = margin / error;
    // Beyond 9 errors the series has no digit more to give.
    let p = normal_cdf(errors.abs().min(9.0)).min(1.0);
    match errors {
        e if e.is_nan() => f64::NAN,
        e if e < 0.0 => 1.0 - p,
        _ => p,
    }
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

/// The verdicts on a base's models as a JUnit XML document: a test case for each model, text and limit, with the figures as
/// properties.
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
        let option = verdict.limit.measure.option();
        let (class, name) = (xml(&verdict.model), option);
        let _ = writeln!(out, "    <testcase classname=\"{class}\" name=\"{name}\">\n      <properties>");
        if let Value::Object(fields) = verdict.json() {
            for (name, value) in fields.iter().filter(|(name, _)| *name != "sentence") {
                let shown = match value {
                    Value::Null => String::new(),
                    Value::String(text) => xml(text),
                    other => other.to_string(),
                };
                let _ = writeln!(out, "        <property name=\"{name}\" value=\"{shown}\"/>");
            }
        }
        out += "      </properties>\n";
        if !verdict.holds {
            let _ = writeln!(out, "      <failure message=\"{0}\">{0}</failure>", xml(&verdict.sentence));
        }
        out += "    </testcase>\n";
    }
    out + "  </testsuite>\n</testsuites>\n"
}

/// Limits that hold by less than so many standard errors are worth a word: the next text may break them.
const NARROW: f64 = 2.0;

/// The verdicts as GitHub workflow annotations, a line each: errors for broken limits, notices for those that hold narrowly.
pub fn github(verdicts: &[Verdict]) -> String {
    let escape = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let line = |v: &Verdict| {
        let level = match v.holds {
            false => "error",
            true if v.margin < NARROW * v.error => "notice",
            true => return None,
        };
        let row = v.limit.measure.row();
        let figures = format!(
            "metric={} limit={} value={} error={} margin={}",
            row.field,
            v.limit.limit,
            v.value,
            if v.error.is_finite() { v.error.to_string() } else { "unknown".into() },
            v.margin
        );
        Some(format!("::{level} title=evaluate {}::{} [{figures}]\n", row.option, escape(&v.sentence)))
    };
    verdicts.iter().filter_map(line).collect()
}

/// The broken limits as a SARIF log, which GitHub shows as code-scanning alerts; `gate` is the file where they are shown,
/// since every one has to be in some file: the gate file, or the base.
pub fn sarif(gate: &Path, verdicts: &[Verdict]) -> Value {
    let used: Vec<&Row> = MEASURES.iter().filter(|r| verdicts.iter().any(|v| v.limit.measure == r.measure)).collect();
    let rule = |row: &&Row| {
        let what = format!("{} of a model against its base is within the limit of the gate", row.name);
        json!({
            "id": row.option,
            "shortDescription": {"text": what},
            "fullDescription": {"text": what},
            "help": {"text": "Choose a larger type for the model or for its most sensitive tensors, or another limit."},
            "defaultConfiguration": {"level": "error"},
        })
    };
    let result = |v: &Verdict| {
        let mut figures = v.json();
        if let Some(fields) = figures.as_object_mut() {
            fields.remove("sentence");
        }
        let which = format!("{}\n{}\n{}", v.limit.measure.option(), v.model, v.text);
        json!({
            "ruleId": v.limit.measure.option(),
            "ruleIndex": used.iter().position(|r| r.measure == v.limit.measure),
            "level": "error",
            "message": {"text": v.sentence},
            "locations": [{
                "physicalLocation": {
                    "artifactLocation": {"uri": gguf::quote::uri(gate)},
                    "region": {"startLine": 1},
                },
                "logicalLocations": [{"name": v.model, "kind": "member"}],
            }],
            "partialFingerprints": {"limit/v1": gguf::digest::sha256(which.as_bytes())},
            "properties": figures,
        })
    };
    // Viewers list whatever is in the results, so what holds stays out.
    let broken: Vec<Value> = verdicts.iter().filter(|v| !v.holds).map(result).collect();
    let rules: Vec<Value> = used.iter().map(rule).collect();
    gguf::cli::sarif("evaluate compare", env!("CARGO_PKG_VERSION"), rules, Vec::new(), broken)
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

    fn asking(limits: &[Limit], confidence: Option<f64>) -> Gate {
        Gate {
            rules: vec![LimitRule { limits: limits.to_vec(), ..LimitRule::default() }],
            confidence,
            arithmetic: None,
        }
    }

    #[test]
    fn a_gate_file_has_limits_by_type_and_text() {
        let gate = "confidence = \"95%\"\n[[limits]]\nmax-kld = 0.05\nmin-same-top = \"90%\"\n\
            [[limits]]\ntypes = [\"q4_k_m\", \"Q4_0\"]\ntexts = \"code\"\nmax-kld = 0.1\nmax-kld-99 = 1\n";
        let gate = Gate::parse(gate).unwrap();
        let limit = |model: &str, text: &str| {
            gate.limits_for(model, text).iter().find(|l| l.measure == Measure::Kld).map(|l| l.limit)
        };
        assert_eq!(limit("Tiny-Llama-Q4_K_M", "code.txt"), Some(0.1));
        assert_eq!(limit("Tiny-Llama-Q4_K_M", "prose.txt"), Some(0.05));
        assert_eq!(limit("Q8_0", "code.txt"), Some(0.05));
        assert_eq!(gate.limits().count(), 4);
        assert_relative_eq!(gate.confidence.unwrap(), 0.95, max_relative = 1e-12);
        assert_eq!(gate.unknown(&["Q4_0", "Q4_K_M"], &["code.txt"]), Vec::<String>::new());
        assert_eq!(gate.unknown(&["Q4_K_M"], &["prose.txt"]), ["model \"Q4_0\"", "text \"code\""]);
        for row in MEASURES.iter().filter(|row| row.floor) {
            assert!(row.measure.limit("101%").is_err(), "{}", row.option);
            assert_eq!(row.measure.limit("1").unwrap().limit, 1.0, "{}", row.option);
        }
        for wrong in ["x = 1", "[[limits]]\nmax-klt = 1", "[[limits]]\nmax-kld = true", "confidence = \"20%\"", "[["] {
            assert!(Gate::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_verdict_has_its_figures_in_every_form() {
        let report = sample();
        let verdicts = judge(&report.models, &asking(&[KLD], None), "sample.txt", false);
        let json = verdicts[1].json();
        assert_eq!(
            (&json["metric"], &json["text"], &json["bound"]),
            (&"kld".into(), &"sample.txt".into(), &"most".into())
        );
        let number = |key: &str| json[key].as_f64().unwrap();
        assert_relative_eq!(number("margin"), number("limit") - number("value"), epsilon = 1e-12);
        assert!(number("error") > 0.0 && number("certainty") < 0.5);
        let log = sarif(Path::new("gate.toml"), &verdicts);
        let results = log["runs"][0]["results"].as_array().unwrap();
        assert_eq!(results.len(), 2);
        for result in results {
            assert_eq!(result["locations"][0]["physicalLocation"]["region"]["startLine"], 1);
            assert!(
                result["partialFingerprints"]["limit/v1"].is_string() && result["properties"]["margin"].is_number()
            );
        }
    }

    #[test]
    fn a_broken_limit_is_named_with_its_excess() {
        let report = sample();
        let verdicts = judge(&report.models, &asking(&[KLD], None), "", false);
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
        assert!(judge(&report.models, &asking(&[limit], None), "", false)[1].holds);
        assert!(!judge(&report.models, &asking(&[limit], Some(0.999)), "", false)[1].holds);
    }

    #[test]
    fn the_floor_is_a_floor() {
        let limit = |limit| Limit { measure: Measure::SameTop, limit };
        let report = sample();
        assert!(judge(&report.models, &asking(&[limit(0.97)], None), "", false).iter().all(|v| v.holds));
        assert!(judge(&report.models, &asking(&[limit(0.99)], None), "", false).iter().all(|v| !v.holds));
    }

    #[test]
    fn no_number_never_passes() {
        let mut report = sample();
        report.models[0].divergence.kld.value = f64::NAN;
        assert!(!judge(&report.models, &asking(&[KLD], None), "", false)[0].holds);
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
        let verdicts = judge(&report.models, &asking(&[KLD], None), "", false);
        let xml = junit("tiny-llama", 1.5, &verdicts);
        assert!(xml.contains("classname=\"&lt;a &amp; &quot;b&quot;&gt;\""));
        assert!(xml.contains("tests=\"3\" failures=\"2\""));
        let annotations = github(&verdicts);
        assert_eq!(annotations.lines().count(), 2);
        assert!(annotations.starts_with("::error title=evaluate max-kld::"));
    }
}
