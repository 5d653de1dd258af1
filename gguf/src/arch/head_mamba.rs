//! A state space of heads with the projections of Mamba (PLaMo 2).

use super::dim::Dim;
use super::dims::StateSpace;
use super::slot::{Bias, Item, Slot, linear};

/// Each head has one A and one D, as in Mamba 2; B, C and the time step come from the convolved input, as in Mamba.
///
/// `ssm_in` gives, head by head, the gate and then the input. `ssm_x` gives B, C and the time step, in this order, each
/// normalized with weights of its own; `ssm_dt` makes of the time step one a head. The heads' outputs plus D times their
/// inputs are multiplied with SiLU of the gate.
#[derive(Clone, Debug)]
pub struct HeadMamba {
    /// Width of the stream.
    pub input: Dim,
    /// Sizes; `rank` is the number of heads.
    pub sizes: StateSpace,
    /// Length of the compressed time step.
    pub step: Dim,
    /// Epsilon of the norms of B, C and the time step.
    pub eps: f32,
}

impl HeadMamba {
    pub(super) fn items(&self) -> Vec<Item> {
        let StateSpace { kernel, inner, state, rank, .. } = self.sizes;
        let mut items = linear("ssm_in", self.input, 2 * inner, Bias::Never);
        items.push(Slot::new("ssm_conv1d.weight", [kernel, inner]).into());
        items.extend(linear("ssm_x", inner, self.step + 2 * state, Bias::Never));
        items.extend(linear("ssm_dt", self.step, rank, Bias::Required));
        for (name, len) in
            [("ssm_a", rank), ("ssm_d", rank), ("ssm_dt_norm", self.step), ("ssm_b_norm", state), ("ssm_c_norm", state)]
        {
            items.push(Slot::new(name, [len]).into());
        }
        items.extend(linear("ssm_out", inner, self.input, Bias::Never));
        items
    }
}
