//! A model's plan: what its layers do and which tensors they hold, held against the tensors that are there.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::dims::Dims;
use super::ends::Ends;
use super::flow::Flow;
use super::slot::{Item, Need, Slot, factor, resolve};
use super::step::{Layer, Norm};
use super::{Arch, Fault, FaultKind};

/// What a model is made of.
#[derive(Clone, Debug)]
pub struct ModelPlan {
    /// The row.
    pub arch: &'static Arch,
    /// Before and behind the layers.
    pub ends: Ends,
    /// The stacks, in order.
    pub stacks: Vec<StackPlan>,
    /// The order in which layers run.
    pub flow: Flow,
}

/// A stack of layers.
#[derive(Clone, Debug)]
pub struct StackPlan {
    /// What its tensors' names begin with: `blk.`.
    pub prefix: &'static str,
    /// Its layers.
    pub layers: Vec<Layer>,
    /// The norm behind it where it is not that of the model's ends.
    pub norm: Option<Norm>,
}

impl ModelPlan {
    pub(super) fn new(arch: &'static Arch, d: &Dims) -> ModelPlan {
        let stacks = arch
            .stacks
            .iter()
            .map(|stack| StackPlan {
                prefix: stack.prefix,
                layers: (0..(stack.count)(d).min(super::MAX_LAYERS)).map(|l| (stack.layer)(d, l)).collect(),
                norm: (stack.norm)(d),
            })
            .collect();
        ModelPlan { arch, ends: (arch.ends)(d), stacks, flow: (arch.flow)(d) }
    }

    /// The slots that hold for a file with these tensors, by their full names.
    pub fn slots(&self, d: &Dims) -> Vec<(String, Slot)> {
        let present = |name: &str| d.present(name);
        let mut slots: Vec<(String, Slot)> =
            resolve(&self.ends.items(), &present).into_iter().map(|s| (s.name.clone(), s)).collect();
        let trunk = !self.arch.mtp.without_trunk || d.nextn == 0 || d.has(0, "attn_norm.weight");
        let prediction = !self.arch.mtp.without_layers || d.nextn == 0 || d.has(d.layers(), "nextn.eh_proj.weight");
        for stack in &self.stacks {
            let norm: Vec<Item> = stack.norm.iter().flat_map(Norm::items).collect();
            slots.extend(resolve(&norm, &present).into_iter().map(|s| (s.name.clone(), s)));
            for (l, layer) in stack.layers.iter().enumerate() {
                let full = |name: &str| format!("{}{l}.{name}", stack.prefix);
                let there = if l < d.layers() { trunk } else { prediction };
                for mut slot in resolve(&layer.items(), &|name| d.present(&full(name))) {
                    if !there {
                        slot.need = Need::Optional;
                    }
                    slots.push((full(&slot.name), slot));
                }
            }
        }
        slots
    }

    /// What is wrong with the tensors that are there: missing, unexpected, or of another shape.
    pub fn faults(&self, d: &Dims) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut known: HashMap<String, Slot> = HashMap::new();
        let mut names: Vec<String> = Vec::new();
        for (name, slot) in self.slots(d) {
            if let Entry::Vacant(first) = known.entry(name) {
                names.push(first.key().clone());
                first.insert(slot);
            }
        }
        for name in &names {
            let slot = &known[name];
            match d.shape(name) {
                None if slot.need == Need::Required => faults.push(Fault {
                    kind: FaultKind::TensorMissing,
                    subject: name.clone(),
                    message: format!("tensor {name} is missing"),
                }),
                _ => faults.extend(self.misshapen(name, slot, d)),
            }
        }
        let mut others: Vec<&String> = d.shapes.keys().filter(|n| !known.contains_key(*n)).collect();
        others.sort_unstable();
        for name in others {
            match factor_of(name, d) {
                Some(slot) => faults.extend(self.misshapen(name, &slot, d)),
                None => faults.push(Fault {
                    kind: FaultKind::TensorUnexpected,
                    subject: name.clone(),
                    message: format!("tensor {name} is not one that {} has there", self.arch.name),
                }),
            }
        }
        if let Some(rule) = (self.arch.demand)(d) {
            faults.push(Fault { kind: FaultKind::Range, subject: format!("{}.block_count", d.arch), message: rule });
        }
        faults
    }

    /// The fault of a tensor that has another shape than its slot.
    fn misshapen(&self, name: &str, slot: &Slot, d: &Dims) -> Option<Fault> {
        let shape = d.shape(name).filter(|shape| !slot.fits(shape))?;
        let want: Vec<String> = slot.shape.iter().map(ToString::to_string).collect();
        let (arch, want) = (self.arch.name, want.join(", "));
        let message = format!("tensor {name} has the shape {shape:?}, the keys of {arch} ask for [{want}]");
        Some(Fault { kind: FaultKind::TensorShape, subject: name.to_owned(), message })
    }

    /// Names that the plan has more than once: a fault of the table.
    pub fn repeated(&self, d: &Dims) -> Vec<String> {
        let mut seen = HashSet::new();
        self.slots(d).into_iter().map(|s| s.0).filter(|n| !seen.insert(n.clone())).collect()
    }
}

/// The slot of a factor beside packed weights.
fn factor_of(name: &str, d: &Dims) -> Option<Slot> {
    let (layer, own) = name.strip_prefix("blk.")?.split_once('.')?;
    let in_range = layer.parse::<usize>().is_ok_and(|l| l < d.layers_all && layer == l.to_string());
    in_range.then(|| factor(own, d.experts)).flatten()
}
