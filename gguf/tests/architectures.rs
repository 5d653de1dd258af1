//! The table of architectures: every row makes a model whose slots are unique and whose shapes are positive.

use std::collections::{HashMap, HashSet};

use gguf::arch::{self, FaultKind, Need};

#[test]
fn names_are_unique_and_found() {
    let mut names = HashSet::new();
    for row in arch::all() {
        assert!(names.insert(row.name), "{} stands twice", row.name);
        assert!(!row.stacks.is_empty(), "{} has no stack", row.name);
        assert_eq!(arch::find(row.name).unwrap().name, row.name);
    }
    assert!(names.len() >= ROWS, "{} rows", names.len());
}

/// Architectures that llama.cpp knows as models of text.
const ROWS: usize = 151;

#[test]
fn every_row_has_a_tiny_model_with_unique_slots_of_positive_shape() {
    for row in arch::all() {
        let metadata = arch::sample(row).unwrap_or_else(|| panic!("{} has no tiny model", row.name));
        let (dims, faults) = row.dims(&|key| metadata.get(key), HashMap::new());
        assert_eq!(faults, [], "{}", row.name);
        let plan = row.plan(&dims);
        let mut names = HashSet::new();
        for (name, slot) in plan.slots(&dims) {
            assert!(names.insert(name.clone()), "{}: {name} stands twice", row.name);
            let empty = slot.shape.iter().any(|d| d.is_empty());
            assert!(!empty || slot.need == Need::Optional, "{}: {name} has the shape {:?}", row.name, slot.shape);
        }
    }
}

#[test]
fn each_required_tensor_is_missed_and_each_wrong_shape_is_seen() {
    for row in arch::all() {
        let Some(metadata) = arch::sample(row) else { continue };
        let get = |key: &str| metadata.get(key);
        let (empty, _) = row.dims(&get, HashMap::new());
        let shapes: HashMap<String, Vec<u64>> = row
            .plan(&empty)
            .slots(&empty)
            .into_iter()
            .filter(|(_, slot)| slot.need == Need::Required)
            .map(|(name, slot)| (name, slot.shape.iter().map(|d| d.get()).collect()))
            .collect();
        let faults = |shapes: HashMap<String, Vec<u64>>| {
            let (dims, _) = row.dims(&get, shapes);
            row.plan(&dims).faults(&dims)
        };
        assert_eq!(faults(shapes.clone()), [], "{}", row.name);
        for name in shapes.keys() {
            let mut without = shapes.clone();
            without.remove(name);
            // What a layer is may hang on which of its tensors there are.
            let (dims, _) = row.dims(&get, without.clone());
            let needed = |(n, s): &(String, arch::Slot)| n == name && s.need == Need::Required;
            if row.plan(&dims).slots(&dims).iter().any(needed) {
                assert!(!faults(without).is_empty(), "{} without {name} is whole", row.name);
            }
            let mut other = shapes.clone();
            other.get_mut(name).unwrap()[0] += 1;
            let found = faults(other);
            assert!(found.iter().any(|f| f.kind == FaultKind::TensorShape), "{} with another {name}", row.name);
        }
    }
}
