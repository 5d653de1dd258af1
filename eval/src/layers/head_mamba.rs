//! State spaces of heads with the projections of Mamba (PLaMo 2).

use gguf::Result;
use gguf::arch::{Activation, HeadMamba, NormKind, StateSpace};

use super::conv::causal_conv;
use super::mamba2::Scan;
use super::{LayerState, Part, Site, ffn, norm};
use crate::numeric::{columns, softplus};

/// The mixer of such a layer: projection, causal convolution, scan over heads, gate, projection.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn head_mamba(
    m: &HeadMamba,
    part: &Part<'_>,
    site: &Site<'_>,
    x: &[f32],
    mut states: Option<&mut [LayerState]>,
) -> Result<Vec<f32>> {
    let StateSpace { kernel, inner, state, rank, .. } = m.sizes;
    let (inner, state, heads, low) = (inner.len(), state.len(), rank.len(), m.step.len());
    let tokens = site.tokens();
    let both = part.linear_to("ssm_in", x, tokens, 2 * inner)?;
    // Head by head, the gate and then the input.
    let len = inner / heads.max(1);
    let (gate, input) = (columns(&both, 2 * len, 0, len), columns(&both, 2 * len, len, len));
    let filter = part.values_of("ssm_conv1d.weight", kernel.len() * inner)?;
    let mut u = causal_conv(site, &input, inner, &filter, None, states.as_deref_mut());
    ffn::activate(Activation::Silu, &mut u);
    let all = part.linear_to("ssm_x", &u, tokens, low + 2 * state)?;
    let normed = |name: &str, from: usize, len: usize| -> Result<Vec<f32>> {
        let mut x = columns(&all, low + 2 * state, from, len);
        norm::normalize(NormKind::Rms(m.eps), &mut x, len, Some(&part.values_of(name, len)?), None);
        Ok(x)
    };
    let (b, c) = (normed("ssm_b_norm", 0, state)?, normed("ssm_c_norm", state, state)?);
    let mut steps = part.linear_to("ssm_dt", &normed("ssm_dt_norm", 2 * state, low)?, tokens, heads)?;
    steps.iter_mut().for_each(|dt| *dt = softplus(*dt));
    let (decay, skip) = (part.values_of("ssm_a", heads)?, part.values_of("ssm_d", heads)?);
    let scan =
        Scan { heads, groups: 1, state, inner, input: &u, steps: &steps, b: &b, c: &c, decay: &decay, skip: &skip };
    let mut out = scan.run(site, states);
    out.iter_mut().zip(&gate).for_each(|(o, &z)| *o *= z * ffn::sigmoid(z));
    part.linear("ssm_out", &out)
}
