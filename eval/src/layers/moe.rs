//! Mixtures of experts.

use gguf::{Error, Result};

use super::{Part, add, add_scaled, ffn};
use crate::model::{Experts, Gating, Model};

/// The experts of a block, and its shared experts where it has them.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn mixture(part: &Part<'_>, model: &Model, experts: &Experts, x: &[f32]) -> Result<Vec<f32>> {
    let tokens = x.len() / model.width;
    let scores = part.linear("ffn_gate_inp", x)?;
    if scores.len() != tokens * experts.count {
        return Err(Error::input(format!(
            "ffn_gate_inp scores {} experts, the metadata has {}",
            scores.len().checked_div(tokens).unwrap_or(0),
            experts.count
        )));
    }
    let bias = match part.has("exp_probs_b.bias") {
        true => Some(part.values_of("exp_probs_b.bias", experts.count)?),
        false => None,
    };
    // Tokens of each expert, with their weights.
    let mut chosen: Vec<Vec<(usize, f32)>> = vec![Vec::new(); experts.count];
    for (t, scores) in scores.chunks(experts.count).enumerate() {
        for (expert, weight) in choose(experts, scores, bias.as_deref()) {
            chosen[expert].push((t, weight));
        }
    }
    let mut out = vec![0.0; x.len()];
    for (e, chosen) in chosen.iter().enumerate().filter(|(_, c)| !c.is_empty()) {
        let rows: Vec<f32> =
            chosen.iter().flat_map(|&(t, _)| &x[t * model.width..(t + 1) * model.width]).copied().collect();
        let mut up = part.expert("ffn_up_exps", e, experts.count, &rows)?;
        if part.has("ffn_gate_exps.weight") {
            let mut gate = part.expert("ffn_gate_exps", e, experts.count, &rows)?;
            ffn::gated(model.row.activation, &mut gate, &mut up);
        } else {
            ffn::activate(model.row.activation, &mut up);
        }
        let down = part.expert("ffn_down_exps", e, experts.count, &up)?;
        for (&(t, weight), down) in chosen.iter().zip(down.chunks(model.width)) {
            add_scaled(&mut out[t * model.width..(t + 1) * model.width], down, weight);
        }
    }
    if part.has("ffn_up_shexp.weight") {
        let mut shared = ffn::feed_forward(part, model, "_shexp", x)?;
        if part.has("ffn_gate_inp_shexp.weight") {
            let gate = part.linear("ffn_gate_inp_shexp", x)?;
            for (row, gate) in shared.chunks_mut(model.width).zip(gate) {
                let gate = ffn::sigmoid(gate);
                row.iter_mut().for_each(|x| *x *= gate);
            }
        }
        add(&mut out, &shared);
    }
    Ok(out)
}

/// The experts of one token with their weights.
fn choose(experts: &Experts, scores: &[f32], bias: Option<&[f32]>) -> Vec<(usize, f32)> {
    let probabilities = match experts.gating {
        Gating::Softmax => softmax(scores),
        Gating::SoftmaxOfBest => scores.to_vec(),
        Gating::Sigmoid => scores.iter().map(|&s| ffn::sigmoid(s)).collect(),
    };
    // The bias decides who is chosen, not with what weight.
    let mut ranks = probabilities.clone();
    if let Some(bias) = bias {
        add(&mut ranks, bias);
    }
    if experts.groups > 1 {
        keep_best_groups(&mut ranks, experts);
    }
    let best = largest(&ranks, experts.used);
    let mut weights: Vec<f32> = best.iter().map(|&e| probabilities[e]).collect();
    if experts.gating == Gating::SoftmaxOfBest {
        weights = softmax(&weights);
    }
    if experts.normalize {
        // Not less than the least normal f16, so that nothing is divided by zero.
        let sum = weights.iter().sum::<f32>().max(6.103_515_6e-5);
        weights.iter_mut().for_each(|w| *w /= sum);
    }
    best.into_iter().zip(weights).map(|(e, w)| (e, w * experts.scale)).collect()
}

/// Groups are ranked by the sum of their two best experts.
fn keep_best_groups(ranks: &mut [f32], experts: &Experts) {
    let len = experts.count / experts.groups;
    let groups: Vec<f32> =
        ranks.chunks(len).map(|group| largest(group, 2.min(len)).iter().map(|&i| group[i]).sum()).collect();
    let kept = largest(&groups, experts.groups_used);
    for (g, group) in ranks.chunks_mut(len).enumerate() {
        if !kept.contains(&g) {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

/// Positions of the `n` largest values, the largest first; of equals the first.
fn largest(x: &[f32], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[b].total_cmp(&x[a]));
    order.truncate(n);
    order
}

fn softmax(x: &[f32]) -> Vec<f32> {
    let peak = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = x.iter().map(|&x| (x - peak).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|p| p / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: Experts =
        Experts { count: 4, used: 2, groups: 1, groups_used: 1, scale: 1.0, normalize: true, gating: Gating::Softmax };

    #[test]
    fn normalized_softmax_is_softmax_of_the_best() {
        let scores = [0.1, 2.0, -1.0, 1.5];
        let a = choose(&FOUR, &scores, None);
        let b = choose(&Experts { gating: Gating::SoftmaxOfBest, normalize: false, ..FOUR }, &scores, None);
        for ((e, w), (f, v)) in a.iter().zip(&b) {
            assert_eq!(e, f);
            assert!((w - v).abs() < 1e-6);
        }
        assert_eq!(a[0].0, 1);
    }

    #[test]
    fn a_bias_changes_the_choice_and_not_the_weight() {
        let sigmoid = Experts { gating: Gating::Sigmoid, normalize: false, scale: 2.0, ..FOUR };
        let chosen = choose(&sigmoid, &[0.0, 0.0, 0.0, 0.0], Some(&[0.0, 0.0, 1.0, 2.0]));
        assert_eq!(chosen, [(3, 1.0), (2, 1.0)]);
    }

    #[test]
    fn only_the_best_groups_are_searched() {
        let grouped = Experts { groups: 2, groups_used: 1, ..FOUR };
        // The single best expert stands in the group whose two best are worse together.
        let chosen = choose(&grouped, &[3.0, -9.0, 2.5, 2.5], None);
        assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), [2, 3]);
    }
}
