//! How far one model's predictions are from another's, position by position.
//!
//! The statistics are those of `llama-perplexity --kl-divergence`, under its names: perplexity and its ratio to the
//! base's, KL divergence, the change Δp of the probability of the right token, and how often both would choose the
//! same token. Each mean comes with its standard error; the errors of a ratio take into account that both models
//! were measured on the same text. Logits are reduced to five numbers a position as soon as they exist; percentiles
//! are exact because those numbers, not a sketch of them, are kept (17 bytes a position and model).

use serde::Serialize;

use crate::numeric;

/// A mean with its standard errors, in the unit of the mean. An error that cannot be told is NaN, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean, or what is derived from it.
    pub value: f64,
    /// One standard error as llama-perplexity has it: over positions, as if they were independent.
    pub error: f64,
    /// One standard error over the means of chunks, which knows that neighbouring positions are alike.
    pub chunk_error: f64,
}

/// Values below which llama-perplexity tells no error.
const LEAST_VALUES: usize = 11;

/// The standard error of the mean of values of which the sum and the sum of squares are known; NaN below `least` values.
fn standard_error(sum: f64, squares: f64, n: usize, least: usize) -> f64 {
    if n < least.max(2) {
        return f64::NAN;
    }
    let mean = sum / n as f64;
    ((squares / n as f64 - mean * mean).max(0.0) / (n - 1) as f64).sqrt()
}

/// The standard error of the mean of the means of chunks; NaN below two chunks.
pub fn error_over_chunks(means: impl IntoIterator<Item = f64>) -> f64 {
    let means: Vec<f64> = means.into_iter().collect();
    let mean = means.iter().sum::<f64>() / means.len() as f64;
    // Around the mean: chunks are few and alike.
    let squares = means.iter().map(|m| (m - mean).powi(2)).sum();
    standard_error(0.0, squares, means.len(), 2)
}

impl Estimate {
    /// What is not known at all.
    pub const NONE: Estimate = Estimate { value: f64::NAN, error: f64::NAN, chunk_error: f64::NAN };

    /// The mean of these values, of which each `chunk` belong together.
    pub fn of(values: impl IntoIterator<Item = f64>, chunk: usize) -> Estimate {
        let (mut sum, mut squares, mut n) = (0.0, 0.0, 0);
        let mut means = Vec::new();
        let mut part = 0.0;
        for value in values {
            sum += value;
            squares += value * value;
            part += value;
            n += 1;
            if chunk > 0 && n % chunk == 0 {
                means.push(part / chunk as f64);
                part = 0.0;
            }
        }
        if n == 0 {
            return Estimate::NONE;
        }
        Estimate {
            value: sum / n as f64,
            error: standard_error(sum, squares, n, LEAST_VALUES),
            chunk_error: error_over_chunks(means),
        }
    }

    /// Another value with its errors, which are these times a factor.
    pub fn derived(self, value: f64, factor: f64) -> Estimate {
        Estimate { value, error: self.error * factor, chunk_error: self.chunk_error * factor }
    }

    /// The larger of both errors where both are known: what a decision should go by.
    pub fn larger_error(self) -> f64 {
        // `max` passes over what is NaN.
        self.error.max(self.chunk_error)
    }

    /// `exp` of the estimate, the errors carried to first order.
    pub fn exp(self) -> Estimate {
        let value = self.value.exp();
        self.derived(value, value)
    }
}

/// A row of logits reduced to what comparing it needs.
#[derive(Clone, Copy, Debug)]
pub struct RowSummary {
    /// ln Σ exp(logit).
    pub log_sum: f64,
    /// The first token with the largest logit.
    pub top: usize,
    /// Tokens of this log-probability or less have no part in a divergence from this row.
    pub least: f64,
}

/// Tokens of less than e⁻⁴⁰ add nothing that an f64 sum would show; their logits may be infinite.
const LEAST: f64 = -40.0;

impl RowSummary {
    /// Reduces one row of logits (`[vocabulary]`); `None` where one of them is NaN or all are −∞.
    pub fn of(logits: &[f32]) -> Option<RowSummary> {
        let log_sum = numeric::log_sum(logits);
        let max = numeric::max(logits);
        let top = logits.iter().position(|&logit| logit == max)?;
        log_sum.is_finite().then_some(RowSummary { log_sum, top, least: LEAST })
    }

    /// Reduces one row of log-probabilities (`[vocabulary]`) that are stored down to a floor only: what was below it
    /// reads as the floor, so `least` leaves it out. They are taken as they are, not made to sum to 1 again.
    pub fn stored(log_probabilities: &[f32], least: f64) -> Option<RowSummary> {
        RowSummary::of(log_probabilities).map(|row| RowSummary { log_sum: 0.0, least, ..row })
    }

    /// −ln p of a token under the row this was made of.
    pub fn nll(&self, logits: &[f32], token: usize) -> f64 {
        self.log_sum - f64::from(logits[token])
    }
}

/// What is kept of one scored position of a model that is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    /// −ln p of the right token under this model.
    pub nll: f64,
    /// KL divergence of this model from the base, in nats.
    pub kld: f32,
    /// p(right token) minus the base's.
    pub delta_p: f32,
    /// Whether both give the same token the largest probability.
    pub same_top: bool,
}

impl Position {
    /// Compares two rows of logits at a position whose right next token is `target`.
    pub fn compare(base: (&[f32], &RowSummary), other: (&[f32], &RowSummary), target: usize) -> Position {
        let ((base, base_row), (other, other_row)) = (base, other);
        let shift = other_row.log_sum - base_row.log_sum;
        let kld = numeric::divergence(base, other, base_row.log_sum, shift, base_row.least);
        let nll = other_row.nll(other, target);
        let base_p = (-base_row.nll(base, target)).exp();
        Position {
            nll,
            kld: kld as f32,
            delta_p: ((-nll).exp() - base_p) as f32,
            same_top: base_row.top == other_row.top,
        }
    }
}

/// The fractions at which KL divergence is reported, as llama-perplexity names them.
pub const KLD_FRACTIONS: [(f64, &str); 11] = [
    (1.0, "maximum"),
    (0.999, "99.9%"),
    (0.99, "99.0%"),
    (0.95, "95.0%"),
    (0.90, "90.0%"),
    (0.50, "median"),
    (0.10, "10.0%"),
    (0.05, "5.0%"),
    (0.01, "1.0%"),
    (0.001, "0.1%"),
    (0.0, "minimum"),
];

/// The fractions at which Δp is reported.
pub const DELTA_P_FRACTIONS: [(f64, &str); 13] = [
    (1.0, "maximum"),
    (0.999, "99.9%"),
    (0.99, "99.0%"),
    (0.95, "95.0%"),
    (0.90, "90.0%"),
    (0.75, "75.0%"),
    (0.50, "median"),
    (0.25, "25.0%"),
    (0.10, "10.0%"),
    (0.05, "5.0%"),
    (0.01, "1.0%"),
    (0.001, "0.1%"),
    (0.0, "minimum"),
];

/// The value at a fraction of sorted values, linear between neighbours.
pub fn quantile(sorted: &[f32], fraction: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = fraction.clamp(0.0, 1.0) * last as f64;
    let below = at.floor() as usize;
    let part = at - below as f64;
    (1.0 - part) * f64::from(sorted[below]) + part * f64::from(sorted[(below + 1).min(last)])
}

/// The standard error of the value at a fraction of sorted values, by the values that stand where a fraction one binomial
/// standard deviation off would; NaN at the ends, of which a sample says nothing, and of fewer values than an error needs.
pub fn quantile_error(sorted: &[f32], fraction: f64) -> f64 {
    let n = sorted.len();
    if n < LEAST_VALUES || fraction <= 0.0 || fraction >= 1.0 {
        return f64::NAN;
    }
    let off = (fraction * (1.0 - fraction) / n as f64).sqrt();
    0.5 * (quantile(sorted, fraction + off) - quantile(sorted, fraction - off))
}

/// Everything that is reported of one compared model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// Scored positions.
    pub positions: usize,
    /// Mean −ln p of the right token.
    pub mean_nll: Estimate,
    /// Perplexity.
    pub ppl: Estimate,
    /// ln(PPL(Q) / PPL(base)).
    pub ln_ppl_ratio: Estimate,
    /// PPL(Q) / PPL(base).
    pub ppl_ratio: Estimate,
    /// PPL(Q) − PPL(base).
    pub ppl_difference: Estimate,
    /// Correlation of ln PPL(Q) and ln PPL(base); absent where one of them does not vary.
    pub ppl_correlation: Option<f64>,
    /// Mean KL divergence from the base, in nats.
    pub kld: Estimate,
    /// KL divergence at [`KLD_FRACTIONS`].
    pub kld_quantiles: Vec<f64>,
    /// One standard error of each, by the order statistics around it; NaN for the maximum and the minimum.
    pub kld_quantile_errors: Vec<f64>,
    /// Mean Δp.
    pub delta_p: Estimate,
    /// Root of the mean square of Δp.
    pub delta_p_rms: Estimate,
    /// Δp at [`DELTA_P_FRACTIONS`].
    pub delta_p_quantiles: Vec<f64>,
    /// The share of positions at which both choose the same token.
    pub same_top: Estimate,
}

impl Divergence {
    /// Reduces the positions of a model against −ln p of the base at the same positions, of which each `chunk` belong
    /// to one chunk of the text.
    ///
    /// # Panics
    /// Never; positions beyond the shorter of the two are left out.
    pub fn of(base_nll: &[f64], positions: &[Position], chunk: usize) -> Divergence {
        let n = positions.len().min(base_nll.len());
        let (base_nll, positions) = (&base_nll[..n], &positions[..n]);
        let both = || positions.iter().map(|p| p.nll).zip(base_nll.iter().copied());
        let of = |pick: fn(&Position) -> f64| Estimate::of(positions.iter().map(pick), chunk);
        let mean_nll = of(|p| p.nll);
        let base = Estimate::of(base_nll.iter().copied(), chunk);
        let product: f64 = both().map(|(p, b)| p * b).sum();
        let covariance = if n < LEAST_VALUES {
            f64::NAN
        } else {
            (product / n as f64 - mean_nll.value * base.value) / (n - 1) as f64
        };
        // NaN stays NaN, unlike with `max`.
        let root = |variance: f64| if variance < 0.0 { 0.0 } else { variance.sqrt() };
        let ln_ppl_ratio = Estimate {
            value: mean_nll.value - base.value,
            error: root(mean_nll.error.powi(2) + base.error.powi(2) - 2.0 * covariance),
            chunk_error: Estimate::of(both().map(|(p, b)| p - b), chunk).chunk_error,
        };
        let (ppl, base_ppl) = (mean_nll.exp(), base.exp());
        let ppl_difference = Estimate {
            value: ppl.value - base_ppl.value,
            error: root(ppl.error.powi(2) + base_ppl.error.powi(2) - 2.0 * ppl.value * base_ppl.value * covariance),
            chunk_error: Estimate::of(both().map(|(p, b)| ppl.value * p - base_ppl.value * b), chunk).chunk_error,
        };
        let squares = of(|p| f64::from(p.delta_p).powi(2));
        let rms = squares.value.sqrt();
        let same = of(|p| f64::from(u8::from(p.same_top)));
        let sorted = |pick: fn(&Position) -> f32| {
            let mut values: Vec<f32> = positions.iter().map(pick).collect();
            values.sort_unstable_by(f32::total_cmp);
            values
        };
        let (klds, delta_ps) = (sorted(|p| p.kld), sorted(|p| p.delta_p));
        Divergence {
            positions: n,
            mean_nll,
            ppl,
            ln_ppl_ratio,
            ppl_ratio: ln_ppl_ratio.exp(),
            ppl_difference,
            ppl_correlation: Some(covariance / (mean_nll.error * base.error)).filter(|c| c.is_finite()),
            kld: of(|p| f64::from(p.kld)),
            kld_quantiles: KLD_FRACTIONS.map(|f| quantile(&klds, f.0)).into(),
            kld_quantile_errors: KLD_FRACTIONS.map(|f| quantile_error(&klds, f.0)).into(),
            delta_p: of(|p| f64::from(p.delta_p)),
            // A mean square of 0 has squares without any spread, whose errors are 0 already.
            delta_p_rms: squares.derived(rms, if rms > 0.0 { 0.5 / rms } else { 1.0 }),
            delta_p_quantiles: DELTA_P_FRACTIONS.map(|f| quantile(&delta_ps, f.0)).into(),
            same_top: same,
        }
    }

    /// Every estimate by its name, in the order in which they are told.
    pub fn estimates(&self) -> [(&'static str, Estimate); 9] {
        [
            ("mean_nll", self.mean_nll),
            ("ppl", self.ppl),
            ("ln_ppl_ratio", self.ln_ppl_ratio),
            ("ppl_ratio", self.ppl_ratio),
            ("ppl_difference", self.ppl_difference),
            ("kld", self.kld),
            ("delta_p", self.delta_p),
            ("delta_p_rms", self.delta_p_rms),
            ("same_top", self.same_top),
        ]
    }

    /// KL divergence at a named fraction of [`KLD_FRACTIONS`].
    pub fn kld_at(&self, fraction: f64) -> f64 {
        at_fraction(&self.kld_quantiles, fraction)
    }

    /// The standard error of that.
    pub fn kld_error_at(&self, fraction: f64) -> f64 {
        at_fraction(&self.kld_quantile_errors, fraction)
    }
}

/// The value that belongs to a fraction of [`KLD_FRACTIONS`].
fn at_fraction(values: &[f64], fraction: f64) -> f64 {
    let at = KLD_FRACTIONS.iter().position(|f| f.0 == fraction);
    at.and_then(|i| values.get(i)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    fn row(logits: &[f32]) -> RowSummary {
        RowSummary::of(logits).expect("finite logits")
    }

    #[test]
    fn equal_rows_do_not_diverge() {
        let logits = [0.5, -1.0, 3.0, 2.0];
        let p = Position::compare((&logits, &row(&logits)), (&logits, &row(&logits)), 1);
        assert_eq!((p.kld, p.delta_p, p.same_top), (0.0, 0.0, true));
    }

    #[test]
    fn a_percentile_has_the_error_that_theory_gives() {
        // Of uniform values the error of a percentile is the binomial one: √(p (1 − p) / n).
        let values: Vec<f32> = (0..10_000).map(|i| i as f32 / 9_999.0).collect();
        for p in [0.5f64, 0.9, 0.99] {
            let theory = (p * (1.0 - p) / 10_000.0).sqrt();
            assert_relative_eq!(quantile_error(&values, p), theory, max_relative = 1e-3);
        }
        assert!(quantile_error(&values, 1.0).is_nan() && quantile_error(&values[..5], 0.5).is_nan());
    }

    #[test]
    fn two_tokens_follow_the_textbook() {
        // p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2).
        let (base, other) = ([3f32.ln(), 0.0], [0.0, 0.0]);
        let p = Position::compare((&base, &row(&base)), (&other, &row(&other)), 0);
        assert_relative_eq!(f64::from(p.kld), 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln(), epsilon = 1e-7);
        assert_relative_eq!(p.delta_p, -0.25, epsilon = 1e-6);
        assert_relative_eq!(p.nll, 2f64.ln(), epsilon = 1e-9);
        // The first of equal logits counts as the top.
        assert!(p.same_top);
    }

    #[test]
    fn a_shift_of_all_logits_changes_nothing() {
        let base: Vec<f32> = (0..50).map(|i| (i as f32 * 0.7).sin()).collect();
        let other: Vec<f32> = base.iter().map(|v| v + 30.0).collect();
        let p = Position::compare((&base, &row(&base)), (&other, &row(&other)), 3);
        assert!(p.kld.abs() < 1e-6, "{}", p.kld);
    }

    #[test]
    fn logits_that_are_no_numbers_are_told() {
        assert!(RowSummary::of(&[0.0, f32::NAN]).is_none());
        assert!(RowSummary::of(&[f32::NEG_INFINITY; 2]).is_none());
        assert!(RowSummary::of(&[]).is_none());
    }

    #[test]
    fn quantiles_are_linear_between_neighbours() {
        let sorted = [0.0, 1.0, 2.0, 10.0];
        assert_eq!(quantile(&sorted, 0.5), 1.5);
        assert_eq!(quantile(&sorted, 0.0), 0.0);
        assert_eq!(quantile(&sorted, 1.0), 10.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn the_error_of_a_ratio_knows_that_the_text_is_the_same() {
        let base: Vec<f64> = (0..1000).map(|i| 4.0 + f64::from(i % 17) * 0.3).collect();
        let positions: Vec<Position> =
            base.iter().map(|nll| Position { nll: nll + 0.01, kld: 0.0, delta_p: 0.0, same_top: true }).collect();
        let d = Divergence::of(&base, &positions, 100);
        assert_relative_eq!(d.ln_ppl_ratio.value, 0.01, epsilon = 1e-9);
        assert!(d.ln_ppl_ratio.error < 1e-6, "a constant shift is certain, not {}", d.ln_ppl_ratio.error);
        assert!(d.mean_nll.error > 0.01);
        assert_relative_eq!(d.ppl_correlation.expect("both vary"), 1.0, epsilon = 1e-3);
    }

    #[test]
    fn an_error_that_cannot_be_told_is_no_number() {
        let base: Vec<f64> = (0..44).map(|i| 4.0 + f64::from(i % 5)).collect();
        let positions: Vec<Position> = (0..44)
            .map(|i| Position { nll: 4.0 + f64::from(i % 7), kld: 0.1, delta_p: 0.01 * (i % 3) as f32, same_top: true })
            .collect();
        let all = |n: usize, chunk: usize| {
            let d = Divergence::of(&base[..n], &positions[..n], chunk);
            let each = d.estimates().map(|(_, estimate)| estimate);
            assert!(n == 0 || each.iter().all(|e| e.value.is_finite()), "{d:?}");
            let told = |pick: fn(&Estimate) -> f64| {
                let told = each.iter().filter(|e| pick(e).is_finite()).count();
                assert!(told == 0 || told == each.len(), "{d:?}");
                told > 0
            };
            (told(|e| e.error), told(|e| e.chunk_error), d.ppl_correlation.is_some())
        };
        assert_eq!(all(0, 5), (false, false, false));
        assert_eq!(all(1, 1), (false, false, false));
        assert_eq!(all(10, 5), (false, true, false));
        assert_eq!(all(11, 11), (true, false, true));
        assert_eq!(all(44, 11), (true, true, true));
    }

    #[test]
    fn the_error_over_chunks_sees_that_neighbours_are_alike() {
        // Four chunks with means 1, 2, 3, 4 and no spread inside: √(1.25 / 3) over chunks, a tenth of it over tokens.
        let values: Vec<f64> = (0..400).map(|i| f64::from(1 + i / 100)).collect();
        let e = Estimate::of(values, 100);
        assert_relative_eq!(e.chunk_error, (1.25_f64 / 3.0).sqrt(), epsilon = 1e-12);
        assert_relative_eq!(e.error, (1.25_f64 / 399.0).sqrt(), epsilon = 1e-12);
        let ppl = e.exp();
        assert_relative_eq!(ppl.chunk_error, 2.5_f64.exp() * e.chunk_error, epsilon = 1e-12);
    }

    #[test]
    fn what_a_stored_row_cannot_tell_has_no_part_in_the_divergence() {
        // ln p of the last token is some floor, whatever it was.
        let (stored, other) = ([0.75_f32.ln(), 0.25_f32.ln(), -16.3], [1.0_f32, 1.0, -9.0]);
        let base = RowSummary::stored(&stored, -16.0).expect("finite");
        let p = Position::compare((&stored, &base), (&other, &row(&other)), 2);
        let log_sum = (2.0 * 1f64.exp() + (-9f64).exp()).ln();
        let q = 1.0 - log_sum;
        assert_relative_eq!(f64::from(p.kld), 0.75 * (0.75f64.ln() - q) + 0.25 * (0.25f64.ln() - q), epsilon = 1e-7);
        assert_relative_eq!(base.nll(&stored, 2), 16.3, epsilon = 1e-5);
        assert_relative_eq!(p.delta_p, ((-9.0 - log_sum).exp() - (-16.3f64).exp()) as f32, epsilon = 1e-9);
    }
}
