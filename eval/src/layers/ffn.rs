//! Feed-forward networks: plain, gated, and gated with both halves in one matrix.

use std::f64::consts::FRAC_1_SQRT_2;

use gguf::Result;
use gguf::arch::{Activation, Dense, FeedGate};
use rayon::prelude::*;

use super::numeric::{self, exp, exp_f64, widest};
use super::{PIECE, Part};
use crate::device::Values;
use crate::numeric::softplus;

/// A dense feed-forward network.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn feed_forward(f: &Dense, part: &Part<'_>, x: &Values) -> Result<Values> {
    let name = |which: &str| format!("ffn_{which}{}", f.suffix);
    let mut up = part.apply(&name("up"), x)?;
    let apart = match f.gate {
        FeedGate::Apart => true,
        FeedGate::Optional => part.has(&format!("{}.weight", name("gate"))),
        FeedGate::None | FeedGate::Fused | FeedGate::FusedLast => false,
    };
    if apart {
        let mut gate = part.apply(&name("gate"), x)?;
        if let Some(deviations) = f.sparsity {
            gate.host().par_chunks_mut(f.len.len().max(1)).for_each(|row| keep_largest(row, deviations));
        }
        up.gate(f.activation, &mut gate)?;
    } else if matches!(f.gate, FeedGate::Fused | FeedGate::FusedLast) {
        up = split_gate(f.activation, &up, 2 * f.len.len(), f.gate == FeedGate::FusedLast)?;
    } else {
        let activation = if f.gate == FeedGate::Optional { f.ungated } else { f.activation };
        up.activate(activation)?;
    }
    if f.act_scales && part.has("ffn.act.scales") {
        let scales = part.values_of("ffn.act.scales", f.len.len())?;
        up.divide_rows(&scales)?;
    }
    if let Some(norm) = &f.sub_norm {
        part.normalize(norm, &mut up)?;
    }
    part.apply(&name("down"), &up)
}

/// Takes the mean plus so many standard deviations from each value, and makes zero of what is below zero then.
fn keep_largest(x: &mut [f32], deviations: f32) {
    let n = x.len() as f64;
    let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
    let least = (mean + variance.sqrt() * f64::from(deviations)) as f32;
    x.iter_mut().for_each(|v| *v = (*v - least).max(0.0));
}

/// `up = activation(gate) · up`. What `gate` holds afterwards is of no use.
pub(crate) fn gated(activation: Activation, gate: &mut [f32], up: &mut [f32]) {
    up.par_chunks_mut(PIECE).zip(gate.par_chunks_mut(PIECE)).for_each(|(up, gate)| {
        if activation == Activation::SwigluOai {
            for (u, g) in up.iter_mut().zip(gate) {
                let g = g.min(7.0);
                *u = (u.clamp(-7.0, 7.0) + 1.0) * g * sigmoid(1.702 * g);
            }
            return;
        }
        if let Activation::SiluLimited(limit) = activation {
            for (u, g) in up.iter_mut().zip(gate) {
                *u = u.clamp(-limit, limit) * (*g * sigmoid(*g)).min(limit);
            }
            return;
        }
        if let Activation::Situ { beta, linear } = activation {
            for (u, g) in up.iter_mut().zip(gate) {
                let other = if linear == 0.0 { *u } else { linear * (*u / linear).tanh() };
                *u = beta * (*g / beta).tanh() * sigmoid(*g) * other;
            }
            return;
        }
        if let Activation::SiluClamped(limit) = activation {
            for (u, g) in up.iter_mut().zip(gate) {
                let g = g.min(limit);
                *u = u.clamp(-limit, limit) * g * sigmoid(g);
            }
            return;
        }
        activate(activation, gate);
        numeric::multiply(up, gate);
    });
}

/// Rows of a gate and what it gates, side by side; the gate first, or last.
fn split_gate(activation: Activation, both: &Values, len: usize, last: bool) -> Result<Values> {
    let half = len / 2;
    let (gate, up) = if last { (half, 0) } else { (0, half) };
    let mut gate = both.columns(len, gate, half)?;
    let mut up = both.columns(len, up, half)?;
    up.gate(activation, &mut gate)?;
    Ok(up)
}

/// Applies an activation without a gate.
pub(crate) fn activate(activation: Activation, x: &mut [f32]) {
    match activation {
        // The others ask for a gate.
        Activation::Silu
        | Activation::SwigluOai
        | Activation::SiluClamped(_)
        | Activation::SiluLimited(_)
        | Activation::Situ { .. } => silu(x),
        Activation::Gelu => gelu(x),
        Activation::GeluTanh => gelu_tanh(x),
        Activation::Relu => relu(x),
        Activation::ReluSquared => relu_squared(x),
        Activation::Xielu(parameters) => x.iter_mut().for_each(|x| *x = xielu(*x, parameters)),
    }
}

widest! {
    fn silu(x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x *= sigmoid(*x));
    }

    fn gelu(x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = (0.5 * f64::from(*x) * erfc(-f64::from(*x) * FRAC_1_SQRT_2)) as f32);
    }

    fn gelu_tanh(x: &mut [f32]) {
        // 0.5 (1 + tanh y) is σ(2y), with y = √(2/π) (x + 0.044715 x³) (Hendrycks and Gimpel).
        x.iter_mut().for_each(|x| *x *= sigmoid(1.595_769 * (*x + 0.044_715 * *x * *x * *x)));
    }

    fn relu(x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = x.max(0.0));
    }

    fn relu_squared(x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = x.max(0.0) * x.max(0.0));
    }
}

/// xIELU (Huang and Schlag): a parabola above zero, a scaled exponential below, both with a linear part. αₚ and αₙ − β are
/// the softplus of what a file holds.
fn xielu(x: f32, [negative, positive, beta, epsilon]: [f32; 4]) -> f32 {
    let (negative, positive) = (beta + softplus(negative), softplus(positive));
    if x > 0.0 { positive * x * x + beta * x } else { (x.min(epsilon).exp_m1() - x) * negative + beta * x }
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The complementary error function: a Chebyshev fit with a relative error below 1.2e-7 everywhere (Numerical
/// Recipes, section 6.2).
#[inline(always)]
fn erfc(x: f64) -> f64 {
    const FIT: [f64; 10] = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let t = 1.0 / (1.0 + 0.5 * x.abs());
    let fit = FIT.iter().rev().fold(0.0, |sum, c| sum * t + c);
    let tail = t * exp_f64(fit - x * x);
    if x >= 0.0 { tail } else { 2.0 - tail }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(activation: Activation, x: f32) -> f32 {
        let mut x = [x];
        activate(activation, &mut x);
        x[0]
    }

    #[test]
    fn activations_have_their_known_values() {
        // From torch.nn.functional in f64.
        let known = [
            (Activation::Silu, 1.0, 0.731_058_6),
            (Activation::Gelu, 1.0, 0.841_344_7),
            (Activation::Gelu, -2.0, -0.045_500_264),
            (Activation::GeluTanh, 1.0, 0.841_192),
            (Activation::GeluTanh, -2.0, -0.045_402_3),
            (Activation::Relu, -1.0, 0.0),
            (Activation::ReluSquared, 3.0, 9.0),
        ];
        for (activation, x, want) in known {
            let got = of(activation, x);
            assert!((got - want).abs() < 1e-6, "{activation:?}({x}) is {got}, not {want}");
        }
    }

    #[test]
    fn the_clipped_gate_of_gpt_oss() {
        let mut up = [10.0, -10.0, 0.5];
        gated(Activation::SwigluOai, &mut [100.0, 1.0, 0.0], &mut up);
        let one = sigmoid(1.702);
        assert!((up[0] - 8.0 * 7.0 * sigmoid(1.702 * 7.0)).abs() < 1e-4);
        assert!((up[1] + 6.0 * one).abs() < 1e-5);
        assert_eq!(up[2], 0.0);
    }
}
