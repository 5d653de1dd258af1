//! Slots: the tensors that a layer, or a model's ends, can hold.

use super::dim::Dim;

/// Whether a model works without a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It does not.
    Required,
    /// It does.
    Optional,
}

/// Whether a linear layer has a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bias {
    /// It has none; one in the file is an error.
    #[default]
    Never,
    /// It may have one.
    Optional,
    /// It has one.
    Required,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The name without the stack's prefix and the layer's number: `attn_q.weight`.
    pub name: String,
    /// The shape in ggml order: the first dimension is contiguous.
    pub shape: Vec<Dim>,
    /// Another shape that serves as well.
    pub or_shape: Option<Vec<Dim>>,
    /// Whether only the number of elements counts.
    pub count_only: bool,
    /// Whether nobody reads it: any shape will do.
    pub ignored: bool,
    /// Whether the model works without it.
    pub need: Need,
}

impl Slot {
    /// A tensor that must be there.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<Dim>>) -> Slot {
        Slot {
            name: name.into(),
            shape: shape.into(),
            or_shape: None,
            count_only: false,
            ignored: false,
            need: Need::Required,
        }
    }

    /// The same, where the file has it.
    #[must_use]
    pub fn optional(mut self) -> Slot {
        self.need = Need::Optional;
        self
    }

    /// The same, optional or not.
    #[must_use]
    pub fn needed(mut self, required: bool) -> Slot {
        self.need = if required { Need::Required } else { Need::Optional };
        self
    }

    /// The same in any shape with as many elements.
    #[must_use]
    pub fn count_only(mut self) -> Slot {
        self.count_only = true;
        self
    }

    /// A tensor that a file may have and nobody reads.
    pub fn ignored(name: impl Into<String>) -> Slot {
        Slot { ignored: true, ..Slot::new(name, []).optional() }
    }

    /// The same, in this shape too.
    #[must_use]
    pub fn or_shape(mut self, shape: impl Into<Vec<Dim>>) -> Slot {
        self.or_shape = Some(shape.into());
        self
    }

    /// Whether a tensor of these dimensions fits; trailing dimensions of 1 say nothing.
    pub fn fits(&self, dims: &[u64]) -> bool {
        if self.ignored {
            return true;
        }
        if self.count_only {
            let product = |it: &mut dyn Iterator<Item = u64>| it.fold(1_u64, u64::saturating_mul);
            return product(&mut dims.iter().copied()) == product(&mut self.shape.iter().map(|d| d.get()));
        }
        let same = |shape: &[Dim]| {
            (0..dims.len().max(shape.len()))
                .all(|i| dims.get(i).copied().unwrap_or(1) == shape.get(i).map_or(1, |d| d.get()))
        };
        same(&self.shape) || self.or_shape.as_deref().is_some_and(same)
    }
}

/// A slot, or a choice between whole sets of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// One tensor.
    Slot(Slot),
    /// Where the file has the tensor `name`, the first set, else the second.
    Either {
        /// The tensor that decides.
        name: String,
        /// The set where it is there.
        with: Vec<Item>,
        /// The set where it is not; this is what a new file is made of.
        without: Vec<Item>,
    },
}

impl From<Slot> for Item {
    fn from(slot: Slot) -> Item {
        Item::Slot(slot)
    }
}

/// A choice of sets by whether a tensor is there.
pub fn either(name: impl Into<String>, with: Vec<Item>, without: Vec<Item>) -> Item {
    Item::Either { name: name.into(), with, without }
}

/// The weight `[cols, rows]` of a linear layer and its bias `[rows]`.
pub fn linear(name: &str, cols: Dim, rows: Dim, bias: Bias) -> Vec<Item> {
    let mut items = vec![Slot::new(format!("{name}.weight"), [cols, rows]).into()];
    items.extend(self::bias(name, rows, bias));
    items
}

/// The bias of a linear layer or a norm.
pub fn bias(name: &str, len: Dim, bias: Bias) -> Option<Item> {
    let slot = Slot::new(format!("{name}.bias"), [len]);
    match bias {
        Bias::Never => None,
        Bias::Optional => Some(slot.optional().into()),
        Bias::Required => Some(slot.into()),
    }
}

/// Makes every slot of these optional.
pub fn optional(items: Vec<Item>) -> Vec<Item> {
    items
        .into_iter()
        .map(|item| match item {
            Item::Slot(slot) => slot.optional().into(),
            Item::Either { name, with, without } => {
                Item::Either { name, with: optional(with), without: optional(without) }
            }
        })
        .collect()
}

/// The slots that hold for a file which has the tensors that `present` says, in order.
pub fn resolve(items: &[Item], present: &dyn Fn(&str) -> bool) -> Vec<Slot> {
    let mut out = Vec::new();
    for item in items {
        match item {
            Item::Slot(slot) => out.push(slot.clone()),
            Item::Either { name, with, without } => {
                out.extend(resolve(if present(name) { with } else { without }, present));
            }
        }
    }
    out
}

/// Tensors that may have factors of their own beside the weight (packed weights): llama.cpp's loader takes `.scale` and
/// `.input_scale` of these, with one element, or one an expert where the name says experts.
const SCALED: &[&str] = &[
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "attn_qkv",
    "attn_gate",
    "ffn_gate",
    "ffn_down",
    "ffn_up",
    "ffn_gate_shexp",
    "ffn_down_shexp",
    "ffn_up_shexp",
    "ffn_gate_exps",
    "ffn_down_exps",
    "ffn_up_exps",
    "ssm_in",
    "ssm_out",
    "ssm_alpha",
    "ssm_beta",
    "nextn.eh_proj",
    "nextn.shared_head_head",
];

/// The slot of a factor beside packed weights, if this is the name of one (without prefix and layer).
pub fn factor(name: &str, experts: Dim) -> Option<Slot> {
    let stem = name.strip_suffix(".scale").or_else(|| name.strip_suffix(".input_scale"))?;
    let len = if stem.ends_with("_exps") { experts } else { Dim(1) };
    SCALED.contains(&stem).then(|| Slot::new(name, [len]).optional())
}
