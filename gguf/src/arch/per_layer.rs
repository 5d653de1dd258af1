//! What layers get of each token beside the residual stream (Gemma 3n, Gemma 4).

use super::dim::Dim;
use super::dims::Dims;
use super::slot::{Bias, Item, Slot, linear};
use super::step::{Activation, NormKind};

/// The inputs of all layers, made before the first: from the token's row of `per_layer_token_embd` times `token_scale`,
/// and from the embeddings times `per_layer_model_proj`, times `model_scale`, normalized over each layer's share with
/// `per_layer_proj_norm`. Layer l reads piece l of the sum times `scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct PerLayerInputs {
    /// Length of a layer's share.
    pub width: Dim,
    /// Number of layers.
    pub layers: usize,
    /// Factor of the token's row.
    pub token_scale: f32,
    /// Factor of what the embeddings give.
    pub model_scale: f32,
    /// How it is normalized.
    pub norm: NormKind,
    /// Factor of the sum.
    pub scale: f32,
}

impl PerLayerInputs {
    /// Inputs of this width for all layers of the trunk.
    pub fn new(d: &Dims, width: Dim) -> PerLayerInputs {
        PerLayerInputs {
            width,
            layers: d.layers(),
            token_scale: (width.get() as f32).sqrt(),
            model_scale: 1.0 / (d.embd.get() as f32).sqrt(),
            norm: NormKind::Rms(d.rms_eps),
            scale: std::f32::consts::FRAC_1_SQRT_2,
        }
    }

    /// The tensors, as a loader demands them that takes this width.
    pub fn items(d: &Dims, width: Dim) -> Vec<Item> {
        let all = width * d.layers() as u64;
        vec![
            Slot::new("per_layer_token_embd.weight", [all, d.vocab]).into(),
            Slot::new("per_layer_model_proj.weight", [d.embd, all]).into(),
            Slot::new("per_layer_proj_norm.weight", [width]).into(),
        ]
    }
}

/// The function of `inp_gate`'s product with the stream gates the layer's input; `proj` brings it to the stream's width.
#[derive(Clone, Debug, PartialEq)]
pub struct PerLayer {
    /// Width of the stream.
    pub input: Dim,
    /// Length of the layer's input.
    pub width: Dim,
    /// The same as the loader demands it.
    pub rows: Dim,
    /// The function.
    pub activation: Activation,
}

impl PerLayer {
    pub(super) fn items(&self) -> Vec<Item> {
        let mut items = linear("inp_gate", self.input, self.rows, Bias::Never);
        items.extend(linear("proj", self.rows, self.input, Bias::Never));
        items
    }
}
