//! Branches that are hardly more than a product.

use super::dim::Dim;
use super::slot::{Bias, Item, Slot, linear};

/// One matrix in place of a mixer.
#[derive(Clone, Debug)]
pub struct Linear {
    /// The tensor's name without `.weight`.
    pub name: &'static str,
    /// Length of what it reads.
    pub input: Dim,
    /// Length of what it gives.
    pub output: Dim,
}

impl Linear {
    pub(super) fn items(&self) -> Vec<Item> {
        linear(self.name, self.input, self.output, Bias::Never)
    }
}

/// What the branch reads, times a number of the file where it has one.
#[derive(Clone, Debug)]
pub struct Pass {
    /// The tensor's full name in the layer, of one element.
    pub factor: Option<&'static str>,
}

impl Pass {
    pub(super) fn items(&self) -> Vec<Item> {
        self.factor.map(|name| Slot::new(name, [Dim(1)]).into()).into_iter().collect()
    }
}
