//! The shapes of a projector file's tensors: those of the same tensor in other layers, of the tower's width, and of what
//! stands before and behind. llama.cpp compares none of them when it loads a file, and stops in the middle of a picture.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Fault, Positions, Projector, Sense};

/// An end of a tensor that values go through: what it takes, or what it gives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    In,
    Out,
}

use End::{In, Out};

/// Tensors of a layer that take, or give, as many values as the tower is wide. Vectors do both.
const WIDE: &[(&str, End)] = &[
    ("ln1", In),
    ("ln2", In),
    ("ls1", In),
    ("ls2", In),
    ("attn_pre_norm", In),
    ("attn_post_norm", In),
    ("layer_pre_norm", In),
    ("ffn_norm", In),
    ("ffn_norm_1", In),
    ("ffn_post_norm", In),
    ("ffn_post_norm_1", In),
    ("norm_conv", In),
    ("conv_norm", In),
    ("attn_q", In),
    ("attn_k", In),
    ("attn_v", In),
    ("attn_qkv", In),
    ("attn_out", Out),
    ("ffn_up", In),
    ("ffn_up_1", In),
    ("ffn_gate", In),
    ("ffn_gate_inp", In),
    ("ffn_up_exps", In),
    ("ffn_gate_exps", In),
    ("ffn_down", Out),
    ("ffn_down_1", Out),
    ("ffn_down_exps", Out),
];

/// Tensors of a layer of which one takes, or gives, what the other gives.
const PAIRS: &[(&str, &str, End)] = &[
    ("ffn_up", "ffn_down", In),
    ("ffn_gate", "ffn_down", In),
    ("ffn_up_1", "ffn_down_1", In),
    ("ffn_up_exps", "ffn_down_exps", In),
    ("ffn_gate_exps", "ffn_down_exps", In),
    ("attn_q", "attn_out", In),
    ("attn_k", "attn_v", Out),
];

/// Ways of a tower's beginning and end, and of the layers of others that stand beside it, which every kind has.
const USUAL_WAYS: &[(Sense, &str)] = &[
    (Sense::Vision, "W v.pre_ln"),
    (Sense::Vision, "W v.post_ln"),
    (Sense::Vision, "W v.norm_embd"),
    (Sense::Vision, "W @v.class_embd"),
    (Sense::Vision, "v.patch_embd W"),
    (Sense::Vision, "v.patch_embd.weight.1 W"),
    (Sense::Audio, "W a.post_ln"),
];

/// How many values a tensor takes and gives: those of a vector, of a convolution of each channel for itself, of a matrix,
/// of a convolution over a line or an image.
fn ends(dims: &[u64]) -> Option<(u64, u64)> {
    match *dims {
        [len] | [len, 1] | [len, 1, 1] | [1, len] | [1, 1, len] | [1, 1, len, 1] => Some((len, len)),
        [_, len, 1, 1] => Some((len, len)),
        [from, to] | [_, from, to] | [_, _, from, to] => Some((from, to)),
        _ => None,
    }
}

fn end(dims: &[u64], end: End) -> Option<u64> {
    ends(dims).map(|(from, to)| if end == In { from } else { to })
}

fn shown(dims: &[u64]) -> String {
    dims.iter().map(u64::to_string).collect::<Vec<_>>().join(" × ")
}

/// A name as what stands before the number of a layer, the number, and what stands behind.
fn in_layer(name: &str) -> Option<(&str, u64, &str)> {
    let at = ["blk.", "deepstack."].iter().find_map(|word| Some(name.find(word)? + word.len()))?;
    let (number, own) = name[at..].split_once('.')?;
    Some((&name[..at], number.parse().ok()?, own))
}

/// The tensor of one name in each layer that has it.
type Layers<'a> = BTreeMap<u64, (&'a str, &'a [u64])>;

pub(super) struct Shapes<'a> {
    pub(super) kind: &'a Projector,
    pub(super) has: &'a HashMap<&'a str, &'a [u64]>,
    pub(super) number: &'a dyn Fn(&str) -> Option<u64>,
    pub(super) faults: &'a mut Vec<Fault>,
}

impl Shapes<'_> {
    pub(super) fn check(mut self) {
        let front = if self.kind.sense == Sense::Vision { "v." } else { "a." };
        let own: BTreeMap<&str, &[u64]> = self.has.iter().map(|(name, dims)| (*name, *dims)).collect();
        self.layers(front, &own);
        self.biases(front, &own);
        if let Some(width) = (self.number)("embedding_length").filter(|_| self.kind.usual) {
            self.widths(&own, width);
        }
        self.patches();
        let image = |name: &str| name.starts_with(front) || name.starts_with("mm.");
        for (name, dims) in own.iter().filter(|(name, _)| image(name) && name.ends_with(".weight")) {
            let is_table = name.contains("pos_embd") || name.contains("position_embd") || in_layer(name).is_some();
            if dims.len() == 4 && dims[0] != dims[1] && !is_table {
                let what = format!("its shape is {}, which is no square kernel", shown(dims));
                self.faults.push(Fault::Shape((*name).to_owned(), what));
            }
        }
        for (beginning, kernel) in self.kind.kernels {
            for (name, dims) in own.iter().filter(|(name, _)| name.starts_with(beginning) && name.ends_with(".weight"))
            {
                if !dims.starts_with(kernel) && dims.len() > 1 {
                    let what = format!("its shape is {}, the kernel of the model is {}", shown(dims), shown(kernel));
                    self.faults.push(Fault::Shape((*name).to_owned(), what));
                }
            }
        }
        // What layers give to the text model directly.
        for name in own.keys().filter(|name| name.starts_with("v.deepstack.") && name.ends_with(".fc1.weight")) {
            let stem = name.trim_end_matches(".fc1.weight");
            self.way(&format!("{stem}.norm {stem}.fc1 {stem}.fc2 P"));
        }
        let usual = USUAL_WAYS.iter().filter(|(sense, _)| *sense == self.kind.sense && self.kind.usual);
        for way in usual.map(|(_, way)| *way).chain(self.kind.ways.iter().copied()) {
            self.way(way);
        }
    }

    fn apart(&mut self, first: &str, second: &str, what: String) {
        self.faults.push(Fault::Apart(first.to_owned(), second.to_owned(), what));
    }

    /// Layers have the same tensors in the same shapes.
    fn layers(&mut self, front: &str, all: &BTreeMap<&str, &[u64]>) {
        let mut alike: BTreeMap<(&str, &str), Layers<'_>> = BTreeMap::new();
        let mut numbers: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
        for (name, dims) in all {
            let Some((stack, layer, own)) = in_layer(name) else { continue };
            let mine = stack.starts_with(front) || stack.strip_prefix("mm.").is_some_and(|s| s.starts_with(front));
            let varies = self.kind.varies.iter().any(|part| own.starts_with(part));
            if mine && !varies && (self.kind.usual || stack != self.kind.sense.stack()) {
                alike.entry((stack, own)).or_default().insert(layer, (name, dims));
                numbers.entry(stack).or_default().insert(layer);
            }
        }
        for ((stack, own), layers) in &alike {
            let of_all = numbers.get(stack).into_iter().flatten();
            for layer in of_all.filter(|layer| !layers.contains_key(layer)) {
                let name = format!("{stack}{layer}.{own}");
                if !self.faults.contains(&Fault::Tensor(name.clone())) {
                    self.faults.push(Fault::Tensor(name));
                }
            }
            let often = |dims: &[u64]| layers.values().filter(|(_, other)| *other == dims).count();
            let Some(&(like, usual)) = layers.values().max_by_key(|(_, dims)| often(dims)) else { continue };
            for (name, dims) in layers.values().filter(|(_, dims)| *dims != usual) {
                let what = format!("{} and {}, though layers are alike", shown(dims), shown(usual));
                self.apart(name, like, what);
            }
        }
    }

    /// A bias is as long as what it is added to.
    fn biases(&mut self, front: &str, all: &BTreeMap<&str, &[u64]>) {
        for (name, dims) in all {
            let Some(stem) =
                name.strip_suffix(".bias").filter(|stem| stem.starts_with(front) || stem.starts_with("mm."))
            else {
                continue;
            };
            let weight = format!("{stem}.weight");
            let Some(of) = all.get(weight.as_str()) else { continue };
            let layer = in_layer(stem).filter(|(_, _, own)| matches!(*own, "conv" | "scale_conv"));
            let turned = layer.is_some_and(|(stack, ..)| self.kind.turned.contains(&stack));
            let length = dims.iter().product::<u64>();
            // A matrix that gives one value looks like a vector.
            let single = length == 1 && matches!(of, [_, 1]);
            if !single && end(of, if turned { In } else { Out }).is_some_and(|out| out != length) {
                self.apart(&weight, name, format!("{} with a bias of {}", shown(of), shown(dims)));
            }
        }
    }

    fn widths(&mut self, all: &BTreeMap<&str, &[u64]>, width: u64) {
        let (heads, kv) = ((self.number)("attention.head_count"), (self.number)("attention.head_count_kv"));
        for (name, dims) in all {
            let Some(own) = name.strip_prefix(self.kind.sense.stack()) else { continue };
            if own.ends_with(".attn_sinks") && heads.is_some_and(|heads| **dims != [heads]) {
                let what = format!("its shape is {}, the tower has {} heads", shown(dims), heads.unwrap_or(0));
                self.faults.push(Fault::Shape((*name).to_owned(), what));
            }
            let Some((layer, stem)) = own.strip_suffix(".weight").and_then(|own| own.split_once('.')) else { continue };
            let named = |part: &str| format!("{}{layer}.{part}.weight", self.kind.sense.stack());
            let takes = |part: &str| all.get(named(part).as_str()).and_then(|dims| end(dims, In)) == Some(width);
            // Files of old converters call each of the two as the other.
            let swapped = self.kind.swaps && takes("ffn_down") && !takes("ffn_up");
            let meant = |part: &str| match part {
                "ffn_up" if swapped => "ffn_down".to_owned(),
                "ffn_down" if swapped => "ffn_up".to_owned(),
                part => part.to_owned(),
            };
            let stem = meant(stem);
            let near = |part: &str| named(&meant(part));
            // Experts stand side by side in the last dimension.
            let one = |dims: &'_ [u64]| {
                if stem.ends_with("_exps") { dims[..dims.len().min(2)].to_vec() } else { dims.to_vec() }
            };
            let dims = &one(dims)[..];
            let wide = WIDE.iter().filter(|(part, _)| *part == stem);
            let wrong = wide.clone().any(|(_, at)| end(dims, *at) != Some(width));
            if wrong {
                let what = format!("its shape is {}, the tower is {width} wide", shown(dims));
                self.faults.push(Fault::Shape((*name).to_owned(), what));
            }
            let pairs = PAIRS.iter().filter(|(part, _, _)| *part == stem);
            let apart: Vec<(String, String)> = pairs
                .filter_map(|(_, other, at)| {
                    let other = near(other);
                    let dims_of_other = &one(all.get(other.as_str())?)[..];
                    let what = format!("{} before {}", shown(dims), shown(dims_of_other));
                    (end(dims, Out) != end(dims_of_other, *at)).then_some((other, what))
                })
                .collect();
            for (other, what) in apart {
                self.apart(name, &other, what);
            }
            if stem == "ffn_gate_inp" {
                // Each expert has a score.
                let experts = end(dims, Out);
                let stacks = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "exp_probs_b"].map(named);
                for other in stacks.iter().filter(|other| all.contains_key(other.as_str())) {
                    let of = all[other.as_str()];
                    if of.last().copied() != experts {
                        self.apart(
                            name,
                            other,
                            format!("{} and {}, of other numbers of experts", shown(dims), shown(of)),
                        );
                    }
                }
            }
            let out = near("attn_out");
            if stem == "attn_qkv"
                && let (Some(heads), Some(of)) = (heads.filter(|n| *n > 0), all.get(out.as_str()))
                && let (Some(made), Some(taken)) = (end(dims, Out), end(of, In))
                && made.checked_mul(heads) != taken.checked_mul(heads + 2 * kv.unwrap_or(heads))
            {
                self.apart(name, &out, format!("{} before {}", shown(dims), shown(of)));
            }
        }
    }

    /// Patches are as large as the keys say, and there is a position for each of a square.
    fn patches(&mut self) {
        if self.kind.sense != Sense::Vision {
            return;
        }
        let patch = (self.number)("patch_size");
        let area = patch.and_then(|patch| patch.checked_mul(patch)?.checked_mul(3)).filter(|area| *area > 0);
        if let (Some(&[columns, _]), Some(area)) = (self.has.get("v.patch_embd.weight"), area)
            && !columns.is_multiple_of(area)
        {
            let what = format!("its {columns} columns are no patches of {area} values");
            self.faults.push(Fault::Shape("v.patch_embd.weight".to_owned(), what));
        }
        for name in ["v.patch_embd.weight", "v.patch_embd.weight.1"] {
            if let (Some(&dims @ &[a, b, channels, _]), Some(patch)) = (self.has.get(name), patch)
                && (a != patch || b != patch || channels != 3)
            {
                let what = format!("its shape is {}, patches are {patch} × {patch} of three channels", shown(dims));
                self.faults.push(Fault::Shape(name.to_owned(), what));
            }
        }
        let name = "v.sam.patch_embd.weight";
        if let Some(&dims) = self.has.get(name).filter(|dims| dims.get(2) != Some(&3)) {
            let what = format!("its shape is {}, images have three channels", shown(dims));
            self.faults.push(Fault::Shape(name.to_owned(), what));
        }
        let name = "v.position_embd.weight";
        let Some(&dims) = self.has.get(name) else { return };
        if self.kind.positions == Positions::Directions && dims.get(2) != Some(&2) {
            let what = format!("its shape is {}, a table is of two directions", shown(dims));
            self.faults.push(Fault::Shape(name.to_owned(), what));
        }
        let width = (self.number)("embedding_length");
        if width.is_some_and(|width| dims.first() != Some(&width)) {
            let what = format!("its shape is {}, the tower is {} wide", shown(dims), width.unwrap_or(0));
            self.faults.push(Fault::Shape(name.to_owned(), what));
        }
        let side = (self.number)("image_size").zip(patch).and_then(|(size, patch)| size.checked_div(patch));
        let Some(side) = side.filter(|_| self.kind.positions == Positions::Square) else { return };
        let class = self.has.get("v.class_embd").map(|dims| dims.iter().product::<u64>());
        let count: u64 = dims.iter().skip(1).product();
        let square = side.checked_mul(side);
        let with_class = square.and_then(|n| n.checked_add(1));
        if Some(count) == if class.is_some() && class == width { with_class } else { square } {
            return;
        }
        let what = format!("{count} positions for {side} × {side} patches");
        match class {
            None if Some(count) != with_class => self.faults.push(Fault::Shape(name.to_owned(), what)),
            _ => self.apart("v.class_embd", name, what),
        }
    }

    /// Tensors one after the other, `W` for the tower's width, `P` for that of the text model, `S` for that of SAM's tower
    /// and `M` for the bands of a spectrogram: each takes what the one before it gives, a whole multiple of it with `*` in
    /// front, half of it with `/`; with `@` it is a table, whose rows are as long, with `!` one such row. What is not there
    /// takes and gives anything.
    fn way(&mut self, way: &str) {
        let mut before: Option<(String, u64)> = None;
        for step in way.split(' ') {
            let last = before.take();
            let (mark, name) = match step.strip_prefix(['*', '/', '@', '!']) {
                Some(name) => (step.as_bytes()[0], name),
                None => (b' ', step),
            };
            let key = match name {
                "W" => Some("embedding_length"),
                "P" => Some("projection_dim"),
                "M" => Some("num_mel_bins"),
                "S" => Some("sam.embedding_length"),
                _ => None,
            };
            let (name, taken, given) = if let Some(key) = key {
                let Some(n) = (self.number)(key) else { continue };
                (String::new(), n, n)
            } else {
                let name = if self.has.contains_key(name) { name.to_owned() } else { format!("{name}.weight") };
                let Some(dims) = self.has.get(name.as_str()) else { continue };
                let row = match mark {
                    b'@' => dims.first().map(|n| (*n, *n)),
                    b'!' => Some(dims.iter().product::<u64>()).map(|n| (n, n)),
                    _ => ends(dims),
                };
                let Some((taken, given)) = row else { continue };
                (name, taken, given)
            };
            let fits = |n: u64| match mark {
                b'*' => n > 0 && taken.is_multiple_of(n),
                b'/' => taken.checked_mul(2) == Some(n),
                _ => taken == n,
            };
            if let Some((first, n)) = last.filter(|(_, n)| !fits(*n)) {
                let what = format!("{n} values come to where {taken} are taken");
                match (first.is_empty(), name.is_empty()) {
                    (false, false) => self.apart(&first, &name, what),
                    (true, false) => self.faults.push(Fault::Shape(name.clone(), what)),
                    (false, true) => self.faults.push(Fault::Shape(first, what)),
                    (true, true) => {}
                }
            }
            before = Some((name, given));
        }
    }
}
