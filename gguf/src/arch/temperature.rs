//! Queries that grow with their position.

use super::dim::Dim;

/// A query at position p is multiplied with 1 + scale · ln(1 + ⌊(p + offset) / floor⌋).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature {
    /// How fast.
    pub scale: f32,
    /// Positions of a step.
    pub floor: Dim,
    /// What is added to a position.
    pub offset: f32,
}
