//! What the search asks of the forward pass: one part of one layer, on the states of both streams.

use gguf::arch::{Experts, Flow, Kind, Layer, Residual};
use gguf::{Error, Result};
use rayon::prelude::*;

use super::overlay::Overlay;
use super::sums::{Capture, Captured};
use crate::forward::{Begun, Input, Trunk, Walk};
use crate::layers::{Observe, Part};
use crate::model::{Model, Shape, Turn};
use crate::weights::Weights;

/// A layer, and a part of it.
pub(super) type At = (usize, usize);

/// Refuses models whose layers are not run once, one after the other.
pub(super) fn check(model: &Model) -> Result<()> {
    let refused = |what: &str| {
        Err(Error::input(format!("{} {what}", model.name())).help("`quantize` writes its types all the same"))
    };
    if model.shape == Shape::EncoderDecoder {
        return refused("has an encoder and a decoder: only models of one stack are optimized");
    }
    let stack = &model.plan.stacks[0];
    let once = model.turns(stack).iter().enumerate().all(|(i, turn)| *turn == Turn::Layer(i));
    if !once || model.plan.flow != Flow::Once {
        return refused("runs its layers more than once: only models that run each layer once are optimized");
    }
    Ok(())
}

/// The texts on their way through one stream.
pub(super) struct Side<'a> {
    walk: Walk<'a>,
    trunk: Trunk,
    begun: Vec<Begun>,
}

impl<'a> Side<'a> {
    pub(super) fn new(model: &'a Model, weights: &dyn Weights, inputs: &[Input], together: usize) -> Result<Side<'a>> {
        let sequences: Vec<&[u32]> = inputs.iter().map(|i| i.tokens.as_slice()).collect();
        let (walk, trunk) = Walk::new(model, weights, 0, (&sequences, &vec![0; sequences.len()]), None, together)?;
        Ok(Side { walk, trunk, begun: Vec::new() })
    }

    /// The layers that are run.
    pub(super) fn layers(&self) -> &'a [Layer] {
        self.walk.layers()
    }

    /// What the names of a layer's tensors begin with.
    pub(super) fn prefix(&self, layer: usize) -> String {
        self.walk.prefix(layer)
    }

    /// In how many parts a layer is run.
    pub(super) fn parts(&self, layer: usize) -> usize {
        self.walk.parts(layer)
    }

    /// Tokens of each group.
    pub(super) fn groups(&self) -> Vec<usize> {
        self.walk.groups().map(|rows| rows.len()).collect()
    }

    /// The hidden states behind the last norm.
    pub(super) fn end(self, weights: &dyn Weights) -> Result<Vec<f32>> {
        self.walk.end(weights, self.trunk)
    }

    /// Goes to the beginning of a layer.
    pub(super) fn begin(&mut self, layer: usize) -> Result<()> {
        let Side { walk, trunk, begun } = self;
        *begun = (0..walk.groups().len()).map(|group| walk.begin(layer, trunk.at(group))).collect::<Result<_>>()?;
        Ok(())
    }

    fn load<'w>(&self, at: At, weights: &'w dyn Weights, observer: Option<&'w dyn Observe>) -> Result<Part<'w>> {
        Part::load(weights, &self.walk.prefix(at.0), observer)
    }

    /// The states of a group.
    pub(super) fn states(&self, group: usize) -> &[f32] {
        self.trunk.at(group)
    }

    /// What the states of a group become behind a part.
    pub(super) fn behind(&self, at: At, part: &Part<'_>, group: usize) -> Result<Vec<f32>> {
        let mut x = self.trunk.at(group).copied()?;
        self.walk.part(at, part, group, &self.begun[group], &mut x)?;
        Ok(x.into_vec())
    }

    /// What a tensor is multiplied with when a group passes a part, and what comes out where that is asked for.
    pub(super) fn captured(
        &self,
        at: At,
        weights: &Overlay<'_>,
        group: usize,
        capture: Capture<'_>,
    ) -> Result<Captured> {
        let part = self.load(at, weights, Some(&capture))?;
        match self.behind(at, &part, group) {
            Err(_) if weights.was_stopped() => {}
            other => _ = other?,
        }
        drop(part);
        Ok(capture.finish())
    }

    /// Shows an observer what the first group is multiplied with.
    pub(super) fn observe(&self, at: At, weights: &dyn Weights, observer: &dyn Observe) -> Result<()> {
        let part = self.load(at, weights, Some(observer))?;
        self.behind(at, &part, 0).map(|_| ())
    }

    /// Goes through one part of a layer.
    pub(super) fn advance(&mut self, at: At, weights: &dyn Weights) -> Result<()> {
        let part = self.load(at, weights, None)?;
        let groups = self.walk.groups().len();
        (0..groups).try_for_each(|group| self.advance_group(at, &part, group))
    }

    /// Takes a group through one part of a layer, before an observer.
    pub(super) fn advance_observed(
        &mut self,
        at: At,
        weights: &dyn Weights,
        group: usize,
        observer: &dyn Observe,
    ) -> Result<()> {
        let part = self.load(at, weights, Some(observer))?;
        self.advance_group(at, &part, group)
    }

    fn advance_group(&mut self, at: At, part: &Part<'_>, group: usize) -> Result<()> {
        let x = self.trunk.group(group);
        let kept = self.walk.part(at, part, group, &self.begun[group], x)?;
        self.begun[group].blocks(kept);
        Ok(())
    }
}

/// Both streams of one text.
pub(super) struct Streams<'a> {
    pub(super) original: Side<'a>,
    pub(super) quantized: Side<'a>,
}

impl<'a> Streams<'a> {
    /// Before the first layer, at most `together` tokens at a time.
    pub(super) fn new(
        model: &'a Model,
        original: &dyn Weights,
        quantized: &dyn Weights,
        inputs: &[Input],
        together: usize,
    ) -> Result<Streams<'a>> {
        Ok(Streams {
            original: Side::new(model, original, inputs, together)?,
            quantized: Side::new(model, quantized, inputs, together)?,
        })
    }

    /// The layers that are run.
    pub(super) fn layers(&self) -> &'a [Layer] {
        self.original.layers()
    }

    /// What the names of a layer's tensors begin with.
    pub(super) fn prefix(&self, layer: usize) -> String {
        self.original.prefix(layer)
    }

    /// In how many parts a layer is run.
    pub(super) fn parts(&self, layer: usize) -> usize {
        self.original.parts(layer)
    }

    /// Tokens of each group.
    pub(super) fn groups(&self) -> Vec<usize> {
        self.original.groups()
    }

    /// Goes to the beginning of a layer.
    pub(super) fn begin(&mut self, layer: usize) -> Result<()> {
        self.original.begin(layer)?;
        self.quantized.begin(layer)
    }

    /// Takes both through one part of a layer.
    pub(super) fn advance(&mut self, at: At, original: &dyn Weights, quantized: &dyn Weights) -> Result<()> {
        self.original.advance(at, original)?;
        self.quantized.advance(at, quantized)
    }

    /// What the residual streams of a group differ by, divided by `scale`.
    pub(super) fn difference(&self, group: usize, scale: f32) -> Vec<f32> {
        let (original, quantized) = (self.original.states(group), self.quantized.states(group));
        original.par_iter().zip(quantized).map(|(a, b)| (a - b) / scale).collect()
    }

    /// The squared error of the states of all groups behind a part, relative to the states: the original is behind it
    /// already.
    pub(super) fn error(&self, at: At, quantized: &dyn Weights) -> Result<f64> {
        let (mut error, mut all) = (0.0, 0.0);
        let quantized = self.quantized.load(at, quantized, None)?;
        for group in 0..self.groups().len() {
            let got = self.quantized.behind(at, &quantized, group)?;
            for (&want, &got) in self.original.states(group).iter().zip(&got) {
                error += f64::from(want - got).powi(2);
                all += f64::from(want).powi(2);
            }
        }
        Ok(error / all.max(f64::MIN_POSITIVE))
    }

    /// The hidden states of both behind the last norm.
    pub(super) fn end(self, original: &dyn Weights, quantized: &dyn Weights) -> Result<[Vec<f32>; 2]> {
        Ok([self.original.end(original)?, self.quantized.end(quantized)?])
    }
}

/// With what factor the output of a tensor is added to the residual stream, where it is as it is: the tensor may take
/// back an error of the stream then. Of branches side by side only the last does.
pub(super) fn writes(layer: &Layer, part: usize, name: &str) -> Option<f32> {
    let step = layer.steps.get(part).filter(|_| layer.altup.is_none())?;
    let added = step.after.is_none() && !step.replaces && matches!(step.residual, Residual::Stream);
    let branch = step.branches.last().filter(|b| added && b.after.is_none())?;
    let scale = step.scale * branch.scale;
    let writer = writer(&branch.kind)?;
    (scale != 0.0 && name.strip_suffix(".weight") == Some(writer.as_str())).then_some(scale)
}

/// The matrix whose output is that of the branch.
fn writer(kind: &Kind) -> Option<String> {
    let name = match kind {
        Kind::Attention(a) => a.out_name,
        Kind::Latent(_) | Kind::Sparse(_) | Kind::Kda(_) | Kind::Lightning(_) => "attn_output",
        Kind::Compressed(_) => "attn_output_b",
        Kind::Mamba(_) | Kind::Mamba2(_) | Kind::DeltaNet(_) | Kind::HeadMamba(_) => "ssm_out",
        Kind::ShortConv(_) => "shortconv.out_proj",
        Kind::Rwkv6(_) | Kind::Rwkv7(_) => "time_mix_output",
        Kind::Dense(f) => return Some(format!("ffn_down{}", f.suffix)),
        Kind::Experts(e) => return shared_writer(e),
        Kind::Linear(l) => l.name,
        _ => return None,
    };
    Some(name.to_owned())
}

/// Shared experts add what they make as it is, where no gate weighs it.
fn shared_writer(experts: &Experts) -> Option<String> {
    let shared = experts.shared.as_ref().filter(|_| !experts.shared_gate)?;
    Some(format!("ffn_down{}", shared.suffix))
}
