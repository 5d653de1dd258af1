//! Mixtures of experts.

use gguf::arch::{Experts, Gating};
use gguf::{Error, Result};

use super::{Part, Site, add, ffn};
use crate::device::Values;
use crate::weights::Matrix;

/// The experts of a layer, and its shared experts where it has them.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn mixture(experts: &Experts, part: &Part<'_>, site: &Site<'_>, x: &Values) -> Result<Values> {
    let (width, count) = (experts.input.len(), experts.count.len());
    let tokens = x.len() / width.max(1);
    let routed = site.layer_input.filter(|_| experts.router_reads_layer).unwrap_or(x);
    let own;
    let routed = match experts.router.zip(site.stream) {
        Some((router, stream)) => {
            let factors = part.values_of("ffn_gate_inp.scale", width)?;
            let factors: Vec<f32> = factors.iter().map(|f| f * router.scale).collect();
            let mut read = stream.copied()?;
            read.normalize(router.norm, width, Some(&factors), None)?;
            own = read;
            &own
        }
        None => routed,
    };
    // The factor beside the router's weights is that of its input.
    let scores = part.apply_to("ffn_gate_inp", routed, tokens, count)?;
    let bias = match part.has(experts.choice_name) {
        true => Some(part.values_of(experts.choice_name, count)?),
        false => None,
    };
    let table = match experts.by_token {
        Some(_) => Some(part.need("ffn_gate_tid2eid.weight")?),
        None => None,
    };
    // The experts of each token, with their weights.
    let mut choices = Vec::with_capacity(tokens);
    for (t, scores) in scores.chunks(count).enumerate() {
        choices.push(match table {
            Some(table) => said(experts, scores, table, site.ids[t] as usize)?,
            None => choose(experts, scores, bias.as_deref()),
        });
    }
    // What the experts read, and what they write to.
    let compression = experts.compression.as_ref().filter(|c| part.has(&format!("{}.weight", c.down)));
    let low = compression.map(|c| part.apply_to(c.down, x, tokens, experts.inner.len())).transpose()?;
    let (inner, given) = low.as_ref().map_or((width, x), |low| (experts.inner.len(), low));
    let mut out =
        Stack { suffix: "exps", count, len: experts.len.len(), width: inner }.run(experts, part, given, &choices)?;
    if let Some(chunks) = &experts.chunks {
        let (group, groups) = (chunks.group.len().max(1), (experts.count / chunks.group).len());
        let few = Experts { used: experts.used.min(experts.count / chunks.group), ..experts.clone() };
        let choices: Vec<_> = scores
            .chunks(count)
            .map(|scores| choose(&few, scores, bias.as_deref()).into_iter().map(|(e, w)| (e / group, w)).collect())
            .collect();
        let stack = Stack { suffix: "chexps", count: groups, len: chunks.len.len(), width: inner };
        let made = stack.run(experts, part, &out, &choices)?;
        out.add_scaled(&made, chunks.scale)?;
    }
    if let Some(c) = compression {
        if let Some(norm) = &c.norm {
            part.normalize(norm, &mut out)?;
        }
        out = part.apply_to(c.up, &out, tokens, width)?;
    }
    if let Some(shared) = &experts.shared {
        let mut made = ffn::feed_forward(shared, part, x)?;
        if experts.shared_gate {
            let gate = part.apply_to("ffn_gate_inp_shexp", x, tokens, 1)?;
            made.gate_groups(width, &gate)?;
        }
        out.add_scaled(&made, 1.0)?;
    }
    Ok(out)
}

/// A stack of experts.
struct Stack {
    /// How its tensors' names end.
    suffix: &'static str,
    count: usize,
    /// Length between the matrices.
    len: usize,
    /// Width that is read and written.
    width: usize,
}

impl Stack {
    /// The sum of what each token's experts make of its row, weighted.
    fn run(&self, experts: &Experts, part: &Part<'_>, x: &Values, choices: &[Vec<(usize, f32)>]) -> Result<Values> {
        let Stack { suffix, count, len, width } = *self;
        let name = |what: &str| format!("ffn_{what}_{suffix}");
        // Tokens of each expert, with their weights.
        let mut chosen: Vec<Vec<(usize, f32)>> = vec![Vec::new(); count];
        for (t, choices) in choices.iter().enumerate() {
            for &(expert, weight) in choices {
                chosen[expert].push((t, weight));
            }
        }
        let fused = part.has(&format!("{}.weight", name("gate_up")));
        let mut out = x.zeros()?;
        for (e, chosen) in chosen.iter().enumerate().filter(|(_, c)| !c.is_empty()) {
            // The weight goes to what an expert reads, or to what it makes.
            let even: Vec<(usize, f32)> = chosen.iter().map(|&(t, _)| (t, 1.0)).collect();
            let (before, behind) = if experts.weigh_input { (chosen, &even) } else { (&even, chosen) };
            let rows = x.gather(width, before)?;
            let mut up;
            if fused {
                let both = part.apply_expert(&name("gate_up"), e, count, &rows)?;
                let mut gate = both.columns(2 * len, 0, len)?;
                up = both.columns(2 * len, len, len)?;
                up.gate(experts.activation, &mut gate)?;
            } else {
                up = part.apply_expert(&name("up"), e, count, &rows)?;
                if part.has(&format!("{}.weight", name("gate"))) {
                    let mut gate = part.apply_expert(&name("gate"), e, count, &rows)?;
                    up.gate(experts.activation, &mut gate)?;
                } else {
                    up.activate(experts.activation)?;
                }
            }
            let down = part.apply_expert(&name("down"), e, count, &up)?;
            out.scatter(&down, width, behind)?;
        }
        Ok(out)
    }
}

/// The experts that a table says for a token, with the weights of their scores.
fn said(experts: &Experts, scores: &[f32], table: &Matrix<'_>, token: usize) -> Result<Vec<(usize, f32)>> {
    let mut row = vec![0.0; table.cols()];
    table.decode_numbers(token, &mut row)?;
    let chosen: Vec<usize> = row.iter().map(|&e| e as usize).collect();
    if let Some(expert) = chosen.iter().find(|&&e| e >= scores.len()) {
        return Err(Error::input(format!("tensor {} names the expert {expert} of {}", table.name(), scores.len())));
    }
    Ok(weighted(experts, &probabilities(experts, scores), chosen))
}

/// The experts of one token with their weights.
fn choose(experts: &Experts, scores: &[f32], bias: Option<&[f32]>) -> Vec<(usize, f32)> {
    match experts.gating {
        Gating::SparseMixer => return sparse_mixer(scores, experts.used.len()),
        // Refused where the model is made.
        Gating::Unknown => return Vec::new(),
        _ => {}
    }
    let probabilities = probabilities(experts, scores);
    // The bias decides who is chosen, not with what weight.
    let mut ranks = probabilities.clone();
    if let Some(bias) = bias {
        add(&mut ranks, bias);
    }
    if experts.groups > 1 && experts.groups_used < experts.groups {
        keep_best_groups(&mut ranks, experts);
    }
    let best = largest(&ranks, experts.used.len());
    weighted(experts, &probabilities, best)
}

/// Scores as the gating takes them.
fn probabilities(experts: &Experts, scores: &[f32]) -> Vec<f32> {
    match experts.gating {
        Gating::Softmax => softmax(scores),
        Gating::Sigmoid => scores.iter().map(|&s| ffn::sigmoid(s)).collect(),
        Gating::SqrtSoftplus => scores.iter().map(|&s| crate::numeric::softplus(s).sqrt()).collect(),
        Gating::SoftmaxOfBest | Gating::SparseMixer | Gating::Unknown => scores.to_vec(),
    }
}

/// The chosen experts with their weights.
fn weighted(experts: &Experts, probabilities: &[f32], chosen: Vec<usize>) -> Vec<(usize, f32)> {
    let mut weights: Vec<f32> = chosen.iter().map(|&e| probabilities[e]).collect();
    if experts.gating == Gating::SoftmaxOfBest {
        weights = softmax(&weights);
    }
    if experts.normalize {
        // Not less than the least normal f16, so that nothing is divided by zero.
        let sum = weights.iter().sum::<f32>().max(6.103_515_6e-5);
        weights.iter_mut().for_each(|w| *w /= sum);
    }
    let scale = if experts.scale == 0.0 { 1.0 } else { experts.scale };
    chosen.into_iter().zip(weights).map(|(e, w)| (e, w * scale)).collect()
}

/// One expert after the other, each weighted with its share among those left whose score is near the best.
fn sparse_mixer(scores: &[f32], used: usize) -> Vec<(usize, f32)> {
    /// Relative distance to the best score that still counts.
    const NEAR: f32 = 0.02;
    let mut left: Vec<f32> = scores.to_vec();
    let mut chosen = Vec::with_capacity(used);
    for _ in 0..used {
        let Some(&best) = largest(&left, 1).first() else { break };
        let peak = left[best];
        let near = |&s: &f32| s > f32::NEG_INFINITY && (peak - s) / s.abs().max(peak) <= NEAR;
        let sum: f32 = left.iter().filter(|s| near(s)).map(|s| (s - peak).exp()).sum();
        chosen.push((best, 1.0 / sum));
        left[best] = f32::NEG_INFINITY;
    }
    chosen
}

/// Groups are ranked by the sum of their two best experts, or by their best one.
fn keep_best_groups(ranks: &mut [f32], experts: &Experts) {
    let len = (experts.count / experts.groups).len().max(1);
    let best = if experts.group_of_best { 1 } else { 2.min(len) };
    let groups: Vec<f32> =
        ranks.chunks(len).map(|group| largest(group, best).iter().map(|&i| group[i]).sum()).collect();
    let kept = largest(&groups, experts.groups_used.len());
    for (g, group) in ranks.chunks_mut(len).enumerate() {
        if !kept.contains(&g) {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

/// Positions of the `n` largest values, the largest first; of equals the first.
pub(super) fn largest(x: &[f32], n: usize) -> Vec<usize> {
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
    use gguf::arch::Dim;

    fn four() -> Experts {
        Experts {
            input: Dim(4),
            inner: Dim(4),
            count: Dim(4),
            used: Dim(2),
            len: Dim(4),
            gate: gguf::arch::ExpertGate::Apart,
            activation: gguf::arch::Activation::Silu,
            bias: gguf::arch::Bias::Never,
            choice_bias: None,
            gating: Gating::Softmax,
            normalize: true,
            scale: 1.0,
            groups: Dim(1),
            groups_used: Dim(1),
            group_of_best: false,
            weigh_input: false,
            shared: None,
            shared_gate: false,
            need: gguf::arch::Need::Required,
            choice_name: "exp_probs_b.bias",
            router_reads_layer: false,
            by_token: None,
            chunks: None,
            may_lack: false,
            router: None,
            compression: None,
            extra: Vec::new(),
        }
    }

    #[test]
    fn normalized_softmax_is_softmax_of_the_best() {
        let scores = [0.1, 2.0, -1.0, 1.5];
        let a = choose(&four(), &scores, None);
        let b = choose(&Experts { gating: Gating::SoftmaxOfBest, normalize: false, ..four() }, &scores, None);
        for ((e, w), (f, v)) in a.iter().zip(&b) {
            assert_eq!(e, f);
            assert!((w - v).abs() < 1e-6);
        }
        assert_eq!(a[0].0, 1);
    }

    #[test]
    fn a_bias_changes_the_choice_and_not_the_weight() {
        let sigmoid = Experts { gating: Gating::Sigmoid, normalize: false, scale: 2.0, ..four() };
        let chosen = choose(&sigmoid, &[0.0, 0.0, 0.0, 0.0], Some(&[0.0, 0.0, 1.0, 2.0]));
        assert_eq!(chosen, [(3, 1.0), (2, 1.0)]);
    }

    #[test]
    fn only_the_best_groups_are_searched() {
        let grouped = Experts { groups: Dim(2), groups_used: Dim(1), ..four() };
        // The single best expert stands in the group whose two best are worse together.
        let chosen = choose(&grouped, &[3.0, -9.0, 2.5, 2.5], None);
        assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn groups_can_be_as_good_as_their_best_expert() {
        let grouped = Experts { groups: Dim(2), groups_used: Dim(1), group_of_best: true, ..four() };
        let chosen = choose(&grouped, &[3.0, -9.0, 2.5, 2.5], None);
        assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn a_table_says_the_experts_and_scores_their_weights() {
        let table = Matrix::from_f32("table", vec![0.0, 1.0, 3.0, 2.0, 9.0, 0.0], 2);
        let sigmoid = Experts { gating: Gating::Sigmoid, ..four() };
        let chosen = said(&sigmoid, &[1.0, 1.0, 0.0, 0.0], &table, 1).unwrap();
        assert_eq!(chosen, [(3, 0.5), (2, 0.5)]);
        assert!(said(&sigmoid, &[0.0; 4], &table, 2).unwrap_err().message().contains("names the expert 9 of 4"));
    }
}
