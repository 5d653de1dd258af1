//! Several residual streams of which a layer runs on one (Gemma 3n: alternating updates, learned augmented residuals).

use super::dim::Dim;
use super::dims::Dims;
use super::per_layer::PerLayer;
use super::slot::{Bias, Item, Slot, linear};
use super::step::{Norm, NormKind};

/// How a layer's steps meet the streams.
///
/// With m(x) = tanh(`altup_router` · x̂), x̂ being x normalized with `altup_router_norm` times `router_scale`:
/// 1. predict: stream j gets Σ_i stream i · (`altup_predict_coef` · m(active))\[i + n j\] added;
/// 2. the steps run on the active one of these predictions;
/// 3. correct: prediction j gets (result − active prediction) · ((`altup_correct_coef` · m(result))\[j\] + 1) added;
/// 4. the active stream times `altup_correct_scale` goes through the per-layer gate and its norm; the outcome is added to
///    all streams but the first.
#[derive(Clone, Debug)]
pub struct AltUp {
    /// Number of streams.
    pub streams: Dim,
    /// The one that steps run on.
    pub active: usize,
    /// Width of a stream.
    pub input: Dim,
    /// How the router normalizes.
    pub norm: NormKind,
    /// Factor of the router's input.
    pub router_scale: f32,
    /// The per-layer gate.
    pub per_layer: PerLayer,
    /// The norm behind it.
    pub after: Norm,
    /// Number of streams as the loader demands it.
    pub rows: Dim,
}

impl AltUp {
    pub(super) fn items(&self) -> Vec<Item> {
        let (n, width) = (self.rows, self.input);
        let weight = |name: &str, shape: Vec<Dim>| Slot::new(format!("altup_{name}.weight"), shape).into();
        let mut items = vec![
            weight("correct_coef", vec![n, n]),
            weight("correct_scale", vec![width]),
            weight("predict_coef", vec![n, n * n]),
            weight("router", vec![width, n]),
            weight("router_norm", vec![width]),
        ];
        items.extend(self.per_layer.items());
        items.extend(self.after.items());
        items
    }
}

/// How one stream becomes several before the first layer, and one again behind the last.
///
/// Stream j > 0 is piece j − 1 of `altup_proj` times the embeddings, brought to their root of the mean square. Behind the
/// layers stream j > 0 times piece j − 1 of `altup_unembd_proj` is brought to that of the active stream, and the mean of
/// all goes on. Mean squares are taken as `floor` at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AltUpEnds {
    /// Number of streams.
    pub streams: Dim,
    /// The one that layers run on.
    pub active: usize,
    /// Least mean square to divide by.
    pub floor: f32,
}

impl AltUpEnds {
    /// The tensors, as a loader demands them that takes this many streams.
    pub fn items(d: &Dims, streams: Dim) -> Vec<Item> {
        ["altup_proj.weight", "altup_unembd_proj.weight"]
            .map(|name| Slot::new(name, [d.embd, d.embd, streams - 1]).into())
            .into()
    }
}

/// A residual of low rank: what it reads, plus the norm of `laurel_r` · `laurel_l` · what it reads.
#[derive(Clone, Debug)]
pub struct Laurel {
    /// Width of the stream.
    pub input: Dim,
    /// The rank, as the loader demands it.
    pub rank: Dim,
    /// The norm.
    pub norm: Norm,
}

impl Laurel {
    pub(super) fn items(&self) -> Vec<Item> {
        let mut items = linear("laurel_l", self.input, self.rank, Bias::Never);
        items.extend(linear("laurel_r", self.rank, self.input, Bias::Never));
        items.extend(self.norm.items());
        items
    }
}
