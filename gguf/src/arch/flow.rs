//! The order in which a model's layers run.

/// How the residual stream goes through the layers.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Flow {
    /// Once, from the first to the last.
    #[default]
    Once,
    /// Through two stacks of `layers` each, the low one first in order, each ending with a norm without weights. A high
    /// state begins as the embedding, a low one as the tensor `start`. A cycle runs the low stack `low` times and then
    /// the high one, each on the sum of both states, and its output takes the place of its state. The high state is the
    /// result after `high` cycles (HRM).
    Cycles {
        /// Layers of a stack.
        layers: usize,
        /// Cycles.
        high: usize,
        /// Runs of the low stack in a cycle.
        low: usize,
        /// The low state's beginning.
        start: &'static str,
        /// Epsilon of the norm behind a stack.
        eps: f32,
    },
}
