//! What stays in its float type, why, and how much of the model that is.

use std::collections::BTreeMap;

use convert::safetensors::{Dtype, Stored};
use gguf::{Error, Result};

use super::layers::Why;

/// Tensors that stay as they are, in one type and for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stayed {
    /// The reason.
    pub why: Why,
    /// The type.
    pub dtype: Dtype,
    /// How many they are.
    pub tensors: usize,
    /// Weights in them.
    pub weights: u64,
    /// Their names, each number in them a `*`, those with most weights first.
    pub names: Vec<String>,
}

/// Gathers tensors by reason and type; those with most weights come first.
pub(super) fn gather(kept: &[(&Stored, Why)]) -> Vec<Stayed> {
    let mut kinds: BTreeMap<(Why, Dtype), Vec<&Stored>> = BTreeMap::new();
    for (stored, why) in kept {
        kinds.entry((*why, stored.dtype())).or_default().push(stored);
    }
    let gathered = kinds.into_iter().filter_map(|((why, _), tensors)| {
        let mut names: BTreeMap<String, u64> = BTreeMap::new();
        for stored in &tensors {
            *names.entry(starred(stored.name())).or_default() += stored.elements();
        }
        let weights = names.values().sum();
        let mut names: Vec<(String, u64)> = names.into_iter().collect();
        names.sort_by_key(|(_, weights)| std::cmp::Reverse(*weights));
        let names = names.into_iter().map(|n| n.0).collect();
        Some(Stayed { why, dtype: tensors.first()?.dtype(), tensors: tensors.len(), weights, names })
    });
    let mut gathered: Vec<Stayed> = gathered.collect();
    gathered.sort_by_key(|kind| std::cmp::Reverse(kind.weights));
    gathered
}

/// A name with a `*` for each part that is a number.
fn starred(name: &str) -> String {
    let numberless = |part| if str::parse::<u64>(part).is_ok() { "*" } else { part };
    name.split('.').map(numberless).collect::<Vec<_>>().join(".")
}

/// Complains of the first tensor that did not get the type that was asked for.
pub(super) fn refuse_fallback(kept: &[(&Stored, Why)]) -> Result<()> {
    for (stored, why) in kept {
        if let Some(reason) = why.fallback() {
            let what = format!("tensor {} would stay {}: {reason}", stored.name(), stored.dtype());
            return Err(Error::input(what).at(stored.path()).help(
                "leave --no-fallback out to keep it so, or choose a GGUF type such as q4_k_m, which covers every matrix",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_stars() {
        assert_eq!(starred("model.layers.11.mlp.experts.3.w1.weight"), "model.layers.*.mlp.experts.*.w1.weight");
        assert_eq!(starred("lm_head.weight"), "lm_head.weight");
    }
}
