//! How far the vectors or scores of a model are from a base's: what perplexity cannot say of embedding models.
//!
//! Vectors serve to find neighbours, so besides the cosine of each text's vector to the base's own there are the rank
//! correlation of all pairwise similarities (Spearman) and the overlap of the ten nearest. Means over texts have their
//! standard error; statistics of pairs, which share texts, have that of a jackknife over groups of texts.

use rayon::prelude::*;
use serde::Serialize;

use crate::divergence::Estimate;

/// Neighbours whose overlap is told.
pub const NEAREST: usize = 10;

/// Texts of which all pairs are looked at; those behind are left out of what is told of pairs.
pub const PAIRWISE: usize = 1000;

/// Groups of texts that the jackknife leaves out, one after the other.
const GROUPS: usize = 20;

/// The cosine of the angle between two vectors; 0 where one has no length.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { (dot(a, b) / lengths).clamp(-1.0, 1.0) } else { 0.0 }
}

/// What became of vectors.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Similarity {
    /// Texts.
    pub texts: usize,
    /// Mean cosine of a text's vector to the base's.
    pub cosine: Estimate,
    /// The least of them.
    pub worst_cosine: f64,
    /// The text that has it, counted from 0.
    pub worst_text: usize,
    /// Spearman's rank correlation of the cosines of all pairs of texts.
    pub rank_correlation: Estimate,
    /// Mean share of a text's nearest under the base that are its nearest still.
    pub overlap: Estimate,
    /// How many nearest: ten, or half of the others where there are fewer than 21 texts.
    pub nearest: usize,
    /// Texts of which pairs were looked at.
    pub pairwise_texts: usize,
}

impl Similarity {
    /// Compares vectors of the same texts.
    pub fn of(base: &[Vec<f32>], other: &[Vec<f32>]) -> Similarity {
        let cosines: Vec<f64> = base.par_iter().zip(other).map(|(a, b)| cosine(a, b)).collect();
        let worst = (0..cosines.len()).min_by(|&a, &b| cosines[a].total_cmp(&cosines[b]));
        let count = base.len().min(other.len()).min(PAIRWISE);
        let (ours, theirs) = (table(&base[..count]), table(&other[..count]));
        let nearest = NEAREST.min(count.saturating_sub(1) / 2);
        let shares = (0..count).into_par_iter().map(|i| {
            let of = |table: &[f64]| best(&table[i * count..(i + 1) * count], nearest, Some(i));
            shared(&of(&ours), &of(&theirs))
        });
        let shares: Vec<f64> = if nearest > 0 { shares.collect() } else { Vec::new() };
        let correlation = |kept: &[usize]| {
            let pairs = kept.iter().enumerate().flat_map(|(n, &i)| kept[..n].iter().map(move |&j| i * count + j));
            let (a, b): (Vec<f64>, Vec<f64>) = pairs.map(|at| (ours[at], theirs[at])).unzip();
            spearman(&a, &b)
        };
        Similarity {
            texts: cosines.len(),
            cosine: Estimate::of(cosines.iter().copied(), 0),
            worst_cosine: worst.map_or(f64::NAN, |w| cosines[w]),
            worst_text: worst.unwrap_or(0),
            rank_correlation: jackknife(count, correlation),
            overlap: Estimate::of(shares, 0),
            nearest,
            pairwise_texts: count,
        }
    }
}

/// What became of scores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreChange {
    /// Texts.
    pub texts: usize,
    /// Mean change of a score, without its sign.
    pub change: Estimate,
    /// The largest.
    pub worst_change: f64,
    /// The text that has it, counted from 0.
    pub worst_text: usize,
    /// Spearman's rank correlation of the scores, the mean over labels.
    pub rank_correlation: Estimate,
    /// Share of the best under the base, by the first label, that are among the best still.
    pub overlap: Estimate,
    /// How many best: ten, or half of the texts where there are fewer than 20.
    pub best: usize,
    /// Share of texts with the same best label, where there are several.
    pub same_label: Option<Estimate>,
}

impl ScoreChange {
    /// Compares scores of the same texts.
    pub fn of(base: &[Vec<f32>], other: &[Vec<f32>]) -> ScoreChange {
        let labels = base.first().map_or(0, Vec::len);
        let apart = |(a, b): (&Vec<f32>, &Vec<f32>)| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>() / labels.max(1) as f64
        };
        let changes: Vec<f64> = base.iter().zip(other).map(apart).collect();
        let worst = (0..changes.len()).max_by(|&a, &b| changes[a].total_cmp(&changes[b]));
        let of = |rows: &[Vec<f32>], kept: &[usize], label: usize| -> Vec<f64> {
            kept.iter().map(|&i| f64::from(rows[i][label])).collect()
        };
        let correlation = |kept: &[usize]| {
            let each = (0..labels).map(|l| spearman(&of(base, kept, l), &of(other, kept, l)));
            each.sum::<f64>() / labels.max(1) as f64
        };
        let nearest = NEAREST.min(base.len() / 2);
        let overlap = |kept: &[usize]| {
            let chosen = |rows: &[Vec<f32>]| best(&of(rows, kept, 0), nearest.min(kept.len()), None);
            shared(&chosen(base), &chosen(other))
        };
        let top = |row: &Vec<f32>| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        let same = base.iter().zip(other).map(|(a, b)| f64::from(u8::from(top(a) == top(b))));
        let usable = labels > 0 && nearest > 0;
        ScoreChange {
            texts: changes.len(),
            change: Estimate::of(changes.iter().copied(), 0),
            worst_change: worst.map_or(f64::NAN, |w| changes[w]),
            worst_text: worst.unwrap_or(0),
            rank_correlation: if usable { jackknife(base.len(), correlation) } else { Estimate::NONE },
            overlap: if usable { jackknife(base.len(), overlap) } else { Estimate::NONE },
            best: nearest,
            same_label: (labels > 1).then(|| Estimate::of(same, 0)),
        }
    }
}

/// Cosines of all pairs, `[texts, texts]`.
fn table(rows: &[Vec<f32>]) -> Vec<f64> {
    rows.par_iter().flat_map_iter(|a| rows.iter().map(move |b| cosine(a, b))).collect()
}

/// The positions of the largest values but that of `not`; of equal ones the first.
fn best(values: &[f64], count: usize, not: Option<usize>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).filter(|&i| Some(i) != not).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    order.truncate(count);
    order
}

fn shared(a: &[usize], b: &[usize]) -> f64 {
    a.iter().filter(|i| b.contains(i)).count() as f64 / a.len().max(1) as f64
}

/// A statistic of texts with the error of a jackknife that leaves out one group of them after the other.
fn jackknife(texts: usize, statistic: impl Fn(&[usize]) -> f64 + Sync) -> Estimate {
    let all: Vec<usize> = (0..texts).collect();
    let value = statistic(&all);
    let groups = GROUPS.min(texts);
    if groups < 3 {
        return Estimate { value, ..Estimate::NONE };
    }
    let without = |g: usize| statistic(&all.iter().copied().filter(|i| i % groups != g).collect::<Vec<_>>());
    let each: Vec<f64> = (0..groups).into_par_iter().map(without).collect();
    let mean = each.iter().sum::<f64>() / groups as f64;
    let squares: f64 = each.iter().map(|v| (v - mean) * (v - mean)).sum();
    Estimate { value, error: (squares * (groups - 1) as f64 / groups as f64).sqrt(), ..Estimate::NONE }
}

/// Spearman's rank correlation: that of the ranks, equal values sharing the mean of theirs. NaN where one side is constant.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let (mut both, mut ours, mut theirs) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(&b) {
        both += (a - mean) * (b - mean);
        ours += (a - mean) * (a - mean);
        theirs += (b - mean) * (b - mean);
    }
    both / (ours * theirs).sqrt()
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for run in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = start as f64 + (run.len() - 1) as f64 / 2.0;
        run.iter().for_each(|&i| ranks[i] = rank);
        start += run.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;

    use super::*;

    /// Texts whose vectors point in many directions.
    fn vectors(count: usize, noise: f32) -> Vec<Vec<f32>> {
        let value = |i: usize, j: usize| ((i * 37 + j * 101) % 97) as f32 / 48.0 - 1.0;
        let moved = |i: usize, j: usize| value(i, j) + noise * value(i + 5, j * 3 + 1);
        (0..count).map(|i| (0..16).map(|j| moved(i, j)).collect()).collect()
    }

    #[test]
    fn ranks_of_equal_values_are_shared() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 0.0]), [2.5, 1.0, 2.5, 0.0]);
        // scipy.stats.spearmanr([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]).
        assert_relative_eq!(
            spearman(&[1., 2., 3., 4., 5.], &[5., 6., 7., 8., 7.]),
            0.820_782_681_668_123,
            epsilon = 1e-12
        );
        assert!(spearman(&[1.0, 1.0], &[1.0, 2.0]).is_nan());
    }

    #[test]
    fn a_model_is_like_itself() {
        let base = vectors(40, 0.0);
        let same = Similarity::of(&base, &base);
        assert_relative_eq!(same.cosine.value, 1.0, epsilon = 1e-12);
        assert_relative_eq!(same.rank_correlation.value, 1.0, epsilon = 1e-12);
        assert_eq!((same.overlap.value, same.nearest, same.texts), (1.0, 10, 40));
    }

    #[test]
    fn noise_shows_in_every_number() {
        let base = vectors(40, 0.0);
        let (little, much) = (Similarity::of(&base, &vectors(40, 0.1)), Similarity::of(&base, &vectors(40, 0.6)));
        assert!(little.cosine.value > much.cosine.value && little.worst_cosine > much.worst_cosine);
        assert!(little.rank_correlation.value > much.rank_correlation.value);
        assert!(little.overlap.value > much.overlap.value);
        assert!(much.worst_cosine <= much.cosine.value);
        assert!(much.rank_correlation.error > 0.0 && much.overlap.error > 0.0);
    }

    #[test]
    fn few_texts_are_compared_as_far_as_that_goes() {
        let base = vectors(1, 0.0);
        let one = Similarity::of(&base, &base);
        assert!(one.rank_correlation.value.is_nan() && one.overlap.value.is_nan());
        assert_eq!((one.nearest, one.texts), (0, 1));
        assert_eq!(Similarity::of(&vectors(7, 0.0), &vectors(7, 0.1)).nearest, 3);
    }

    #[test]
    fn scores_keep_their_order_or_do_not() {
        let base: Vec<Vec<f32>> = (0..30).map(|i| vec![i as f32]).collect();
        let shifted: Vec<Vec<f32>> = (0..30).map(|i| vec![i as f32 + 0.5]).collect();
        let kept = ScoreChange::of(&base, &shifted);
        assert_relative_eq!(kept.change.value, 0.5, epsilon = 1e-6);
        assert_relative_eq!(kept.rank_correlation.value, 1.0, epsilon = 1e-12);
        assert_eq!((kept.overlap.value, kept.best, kept.same_label), (1.0, 10, None));
        let turned: Vec<Vec<f32>> = base.iter().map(|r| vec![-r[0]]).collect();
        let turned = ScoreChange::of(&base, &turned);
        assert_relative_eq!(turned.rank_correlation.value, -1.0, epsilon = 1e-12);
        assert_eq!(turned.overlap.value, 0.0);
    }
}
