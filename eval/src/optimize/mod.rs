//! Better numbers for a type: every matrix's levels chosen together, from what it is multiplied with.
//!
//! The calibration text goes through the model twice side by side, layer by layer: once through the original, once
//! through what was chosen so far. Matrices that read the same input are one stage; at each stage, in the order of the
//! computation,
//!
//! 1. the inputs of both streams are summed up to second moments,
//! 2. the target becomes what makes the output of the *quantized* model equal the original's: its inputs already
//!    differ, and what a matrix writes to the residual stream may also take back the stream's own error,
//! 3. [`quantize::search`] chooses the levels,
//! 4. a part of the text that was held back decides whether they are better than the type's plain bytes,
//!
//! and the next stage sees the chosen ones. In memory are one layer, the hidden states of both streams, and the moments
//! of one stage; finished layers are on disk ([`Store`]). At the end the divergence on the text held back decides
//! between the whole and a plain file ([`judge`]).

mod choose;
pub mod judge;
mod overlay;
mod pass;
mod store;
mod sums;
pub mod survey;
mod text;
mod write;

use std::collections::{BTreeMap, HashMap};

use gguf::digest::sha256;
use gguf::{Result, Source};
use quantize::bnb::coding::Coding;
use quantize::bnb::matrices::Matrices;
use quantize::plan::{Plan, Planned};
use quantize::search::rows::Effort;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::baseline::fingerprint;
use crate::device::Device;
use crate::forward::Input;
use crate::model::Model;
use crate::weights::{OnDevice, SourceWeights, Weights};
use choose::Chooser;
use overlay::{Chosen, Overlay};
use pass::{At, Side, Streams};
pub use store::Store;
use sums::{Against, Capture, Captured, Recorder, Seen, Sums};
pub use text::own_text;

/// What the search does; each step can be left out, to measure what it gives.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether levels are searched at all; else the type's codec takes each target as it is.
    pub feedback: bool,
    /// How hard levels and scales are searched.
    pub effort: Effort,
    /// Added to the diagonal of the moments, a share of its mean.
    pub damping: f64,
    /// The same for what the target is moved by.
    pub target_damping: f64,
    /// Whether targets make up for inputs that differ already.
    pub targets: bool,
    /// Whether targets take back the residual stream's own error.
    pub residual: bool,
    /// Whether plain bytes stay where they win on the text that was held back.
    pub judge: bool,
    /// Tokens that pass a step together.
    pub together: usize,
    /// Bytes for the moments of experts that are summed up at a time.
    pub memory: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            feedback: true,
            effort: Effort::default(),
            damping: 0.01,
            target_damping: 0.05,
            targets: true,
            residual: true,
            judge: true,
            together: 2048,
            memory: 1 << 30,
        }
    }
}

impl Options {
    /// The steps by name.
    pub fn steps(&self) -> Vec<&'static str> {
        let all = [
            ("feedback", self.feedback),
            ("scales", self.feedback && self.effort.reach > 0),
            ("descent", self.feedback && self.effort.sweeps > 0),
            ("targets", self.targets),
            ("residual", self.targets && self.residual),
            ("judge", self.judge),
        ];
        all.iter().filter(|s| s.1).map(|s| s.0).collect()
    }
}

/// A model, the types it is to have, and the text that decides.
pub struct Job<'a> {
    /// The model.
    pub model: &'a Model,
    /// Its weights.
    pub source: &'a dyn Source,
    /// The type of each tensor.
    pub plan: &'a Plan,
    /// What the moments are taken from.
    pub text: &'a [Input],
    /// What was held back.
    pub held: &'a [Input],
    /// What to do.
    pub options: Options,
    /// The form of a folder, where no GGUF file is made.
    pub folder: Option<Folder<'a>>,
    /// Where it is run, if not on the processor.
    pub device: Option<&'a Device>,
}

/// A folder in place of a file: its own matrices are chosen, in place of what the plan converts.
#[derive(Clone, Copy)]
pub struct Folder<'a> {
    /// How they are stored.
    pub coding: Coding,
    /// Which tensors they are.
    pub matrices: &'a Matrices,
}

/// What became of one stage: matrices that read the same input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Its tensors.
    pub tensors: Vec<String>,
    /// The error of the residual stream behind the step relative to the stream, on the text held back: with plain bytes
    /// and with chosen ones.
    pub errors: Option<(f64, f64)>,
    /// Whether plain bytes stayed.
    pub plain: bool,
}

impl Stage {
    /// Whether plain bytes stayed because they won, not because there was nothing to choose.
    pub fn plain_won(&self) -> bool {
        self.plain && self.errors.is_some()
    }
}

/// What was chosen outside of the layers, and what became of all stages.
pub struct Outcome {
    /// Tensors outside of the layers, by their position in the source.
    ends: BTreeMap<usize, Chosen>,
    /// Mean squares of what each tensor is multiplied with, by its position in the source.
    importance: BTreeMap<usize, Vec<f32>>,
    /// The stages, in order.
    pub stages: Vec<Stage>,
}

/// Told how far a run is: the share of it that is done, and what became of a stage.
pub type Told<'t> = &'t mut dyn FnMut(f64, Option<&Stage>);

impl<'a> Job<'a> {
    /// What a run is made of, so that another is not taken for it.
    ///
    /// # Errors
    /// Whatever reading meets.
    pub fn digest(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(fingerprint(self.source)?);
        hash.update(sha256(self.plan.to_toml().as_bytes()));
        hash.update(format!("{:?}", Options { memory: 0, ..self.options }));
        hash.update(format!("{:?}", self.folder.map(|f| f.coding)));
        for input in self.text.iter().chain(self.held) {
            hash.update((input.tokens.len() as u64).to_le_bytes());
            input.tokens.iter().for_each(|t| hash.update(t.to_le_bytes()));
        }
        Ok(sha256(&hash.finalize()))
    }

    /// Whether a tensor is chosen.
    fn converts(&self, tensor: &Planned) -> bool {
        match self.folder {
            Some(folder) => folder.matrices.tensors().contains_key(&tensor.source),
            None => tensor.converts(),
        }
    }

    /// Chooses the numbers of every tensor. Finished layers are kept in `store`, and those that it holds are taken from
    /// there.
    ///
    /// # Errors
    /// A model that cannot be run layer by layer, and whatever reading, running and writing can meet.
    pub fn run(&self, store: &mut Store, told: Told<'_>) -> Result<Outcome> {
        pass::check(self.model)?;
        let base = OnDevice::new(SourceWeights(self.source), self.device);
        let mut original = Overlay::new(&base);
        let mut weights = Overlay::new(&base);
        let planned: HashMap<usize, &Planned> = self.plan.tensors.iter().map(|t| (t.source, t)).collect();
        let mut outcome = Outcome { ends: BTreeMap::new(), importance: BTreeMap::new(), stages: Vec::new() };
        // What stands outside of the layers, but for the head, is looked up or added, not multiplied.
        let head = self.source.tensors().iter().position(|t| t.name() == "output.weight");
        for tensor in self.plan.tensors.iter().filter(|t| self.converts(t) && !t.info.name().contains("blk.")) {
            if Some(tensor.source) != head {
                let plain = self.plain(tensor, None)?;
                weights.replace(tensor.source, plain.clone());
                outcome.ends.insert(tensor.source, plain);
            }
        }
        let together = self.options.together;
        let mut text = Streams::new(self.model, &base, &weights, self.text, together)?;
        let mut held = Streams::new(self.model, &base, &weights, self.held, together)?;
        let layers = text.layers().len();
        for layer in 0..layers {
            let share = |done: f64| (layer as f64 + done) / (layers + 1) as f64;
            told(share(0.0), None);
            let prefix = text.prefix(layer);
            let here: Vec<&Planned> =
                self.plan.tensors.iter().filter(|t| self.converts(t) && t.info.name().starts_with(&prefix)).collect();
            text.begin(layer)?;
            held.begin(layer)?;
            if let Some(finished) = store.finished().get(layer) {
                outcome.stages.extend(finished.stages.iter().cloned());
                let (tensors, importance) = store.read(layer)?;
                for (tensor, bytes) in tensors {
                    let Some(planned) = planned.get(&tensor) else { continue };
                    weights.replace(tensor, self.chosen(planned, bytes));
                }
                outcome.importance.extend(importance);
                for part in 0..text.parts(layer) {
                    text.advance((layer, part), &original, &weights)?;
                    held.advance((layer, part), &original, &weights)?;
                }
            } else {
                let first = outcome.stages.len();
                for part in 0..text.parts(layer) {
                    let at = (layer, part);
                    // It is the measure of all that is chosen in this part.
                    held.original.advance(at, &original)?;
                    let wanted = |group: &Group| -> Vec<&Planned> {
                        let of = group.tensors.iter().filter_map(|t| planned.get(t).copied());
                        of.filter(|t| self.converts(t)).collect()
                    };
                    let groups = stages(self.source, &text.original, at, &base)?;
                    let groups: Vec<_> = groups.iter().map(|g| (g, wanted(g))).filter(|g| !g.1.is_empty()).collect();
                    for (i, (inputs, wanted)) in groups.iter().enumerate() {
                        let now = Now { at, inputs, wanted, last: i + 1 == groups.len() };
                        let (stage, importance) = self.stage(&mut text, &held, &now, &mut original, &mut weights)?;
                        let done = outcome.stages.len() - first + 1;
                        told(share(done as f64 / (done + 1) as f64), Some(&stage));
                        outcome.stages.push(stage);
                        outcome.importance.extend(importance);
                    }
                    if groups.is_empty() {
                        text.original.advance(at, &original)?;
                    }
                    text.quantized.advance(at, &weights)?;
                    held.quantized.advance(at, &weights)?;
                }
                // What no product was seen of keeps its plain bytes.
                for tensor in &here {
                    if weights.chosen(tensor.source).is_none() {
                        weights.replace(tensor.source, self.plain(tensor, None)?);
                    }
                }
                let chosen = here.iter().filter_map(|t| Some((t.source, weights.chosen(t.source)?.stored())));
                let chosen: Vec<(usize, &[u8])> = chosen.collect();
                let known = here.iter().filter_map(|t| Some((t.source, outcome.importance.get(&t.source)?.as_slice())));
                let known: Vec<(usize, &[f32])> = known.collect();
                store.add(&chosen, &known, outcome.stages[first..].to_vec())?;
            }
            here.iter().for_each(|t| weights.restore(t.source));
        }
        if let Some(tensor) = head.and_then(|h| planned.get(&h)).filter(|t| self.converts(t)) {
            told(layers as f64 / (layers + 1) as f64, None);
            let width = self.model.width;
            let [before, after] = text.end(&original, &weights)?;
            let against = if self.options.targets { Against::inputs(width) } else { Against::Nothing };
            let mut sums = Sums::new(width, against);
            for (before, after) in before.chunks(together * width).zip(after.chunks(together * width)) {
                sums.add(before, after, &[]);
            }
            let seen = sums.finish();
            let found = self.search(tensor, 0, &Chooser::new(&seen, &self.options))?;
            let stage = Stage { tensors: vec![tensor.info.name().to_owned()], errors: None, plain: found.is_none() };
            let chosen = match found {
                Some(bytes) => self.chosen(tensor, bytes),
                None => self.plain(tensor, Some(&seen.importance))?,
            };
            told(1.0, Some(&stage));
            outcome.stages.push(stage);
            outcome.importance.insert(tensor.source, seen.importance);
            outcome.ends.insert(tensor.source, chosen);
        }
        Ok(outcome)
    }

    /// Chooses the tensors of one stage. Also gives the importance of each.
    #[allow(clippy::type_complexity)]
    fn stage(
        &self,
        text: &mut Streams<'_>,
        held: &Streams<'_>,
        now: &Now<'_>,
        original: &mut Overlay<'_>,
        weights: &mut Overlay<'_>,
    ) -> Result<(Stage, Vec<(usize, Vec<f32>)>)> {
        let Now { at, inputs, wanted, .. } = *now;
        let n = self.source.tensors()[inputs.tensors[0]].shape().row_len() as usize;
        let mut found: Vec<Option<Vec<u8>>> = vec![Some(Vec::new()); wanted.len()];
        let mut importance = Vec::with_capacity(n * inputs.matrices);
        // As many experts at a time as there is memory for.
        let together = (self.options.memory / (8 * (n * n) as u64).max(1)).max(1) as usize;
        for from in (0..inputs.matrices).step_by(together) {
            let batch = from..(from + together).min(inputs.matrices);
            let seen = self.gather(text, now, batch, original, weights)?;
            for (expert, seen) in (from..).zip(&seen) {
                importance.extend_from_slice(&seen.importance);
                let chooser = Chooser::new(seen, &self.options);
                for (tensor, found) in wanted.iter().zip(&mut found) {
                    let bytes = match found {
                        Some(_) => self.search(tensor, expert, &chooser)?,
                        None => None,
                    };
                    match (bytes, &mut *found) {
                        (Some(bytes), Some(all)) => all.extend(bytes),
                        _ => *found = None,
                    }
                }
            }
        }
        let chosen = |(tensor, bytes): (&&Planned, Option<Vec<u8>>)| {
            bytes.map(|bytes| (tensor.source, self.chosen(tensor, bytes)))
        };
        let found: Vec<(usize, Chosen)> = wanted.iter().zip(found).filter_map(chosen).collect();
        let mut stage = Stage {
            tensors: wanted.iter().map(|t| t.info.name().to_owned()).collect(),
            errors: None,
            plain: found.is_empty(),
        };
        let needs_plain = self.options.judge || found.len() < wanted.len();
        let mut plain = Vec::new();
        for tensor in wanted.iter().filter(|_| needs_plain) {
            let bytes = self.plain(tensor, Some(&importance))?;
            weights.replace(tensor.source, bytes.clone());
            plain.push((tensor.source, bytes));
        }
        let judged = self.options.judge && !stage.plain;
        let plain_error = judged.then(|| held.error(at, &*weights)).transpose()?;
        found.iter().for_each(|(tensor, chosen)| weights.replace(*tensor, chosen.clone()));
        if let Some(plain_error) = plain_error {
            let error = held.error(at, &*weights)?;
            stage.errors = Some((plain_error, error));
            // No number is not better.
            if error.is_nan() || error > plain_error {
                stage.plain = true;
                plain.into_iter().for_each(|(tensor, chosen)| weights.replace(tensor, chosen));
            }
        }
        let importance = wanted.iter().map(|t| (t.source, importance.clone())).collect();
        Ok((stage, importance))
    }

    /// Sums up what a stage is multiplied with, for some of its matrices. Behind the last of a part the original has gone
    /// through it.
    fn gather(
        &self,
        text: &mut Streams<'_>,
        now: &Now<'_>,
        batch: std::ops::Range<usize>,
        original: &mut Overlay<'_>,
        weights: &mut Overlay<'_>,
    ) -> Result<Vec<Seen>> {
        let Now { at, inputs, .. } = *now;
        let info = &self.source.tensors()[inputs.tensors[0]];
        let (n, rows) = (info.shape().row_len() as usize, info.shape().dim(1) as usize);
        let ahead = now.last && batch.end == inputs.matrices;
        let alone = inputs.tensors.len() == 1 && inputs.matrices == 1;
        // With what factor the outputs are added to the residual stream, where its error is to be taken back.
        let scale = info.name().strip_prefix(&text.prefix(at.0)).filter(|_| alone && inputs.tokens);
        let scale = scale.and_then(|name| pass::writes(&text.layers()[at.0], at.1, name));
        let scale = scale.filter(|_| self.options.targets && self.options.residual);
        let outputs = alone && (scale.is_some() || ahead && rows <= n);
        let against = || match outputs {
            // Experts see other tokens in either stream.
            _ if !self.options.targets || !inputs.dense => Against::Nothing,
            true => Against::outputs(n, rows),
            false => Against::inputs(n),
        };
        let mut sums: Vec<Sums> = batch.clone().map(|_| Sums::new(n, against())).collect();
        if inputs.matrices == 1 {
            weights.stop_at(&inputs.tensors[..1]);
            if !ahead && !outputs {
                original.stop_at(&inputs.tensors[..1]);
            }
        }
        for group in 0..text.groups().len() {
            let error = scale.map(|scale| text.difference(group, scale)).unwrap_or_default();
            let capture = Capture::of(info.name(), outputs);
            let mut before = if ahead {
                text.original.advance_observed(at, &*original, group, &capture)?;
                capture.finish()
            } else {
                text.original.captured(at, original, group, capture)?
            };
            let mut after = text.quantized.captured(at, weights, group, Capture::of(info.name(), false))?;
            before.outputs.iter_mut().zip(&error).for_each(|(y, e)| *y += e);
            for (expert, sums) in batch.clone().zip(&mut sums) {
                let of = |seen: &mut Captured| seen.inputs.remove(&expert).unwrap_or_default();
                sums.add(&of(&mut before), &of(&mut after), &before.outputs);
            }
        }
        original.stop_at(&[]);
        weights.stop_at(&[]);
        let mut seen: Vec<Seen> = sums.into_iter().map(Sums::finish).collect();
        if !inputs.dense {
            share(&mut seen, n);
        }
        Ok(seen)
    }
}

/// What is chosen now.
struct Now<'a> {
    /// The part of the layer.
    at: At,
    /// What the tensors read.
    inputs: &'a Group,
    /// The tensors.
    wanted: &'a [&'a Planned],
    /// Whether no more of this part is chosen.
    last: bool,
}

/// Tensors that read the same inputs.
struct Group {
    /// Their positions in the source.
    tensors: Vec<usize>,
    /// Matrices that are stacked in each: experts, or heads.
    matrices: usize,
    /// Both streams show every matrix the same tokens.
    dense: bool,
    /// An input belongs to each token.
    tokens: bool,
}

/// The tensors of a part that read the same inputs, in the order in which they read them.
fn stages(source: &dyn Source, side: &Side<'_>, at: At, base: &dyn Weights) -> Result<Vec<Group>> {
    let recorder = Recorder::default();
    // The first sequences are enough.
    side.observe(at, base, &recorder)?;
    let position = |name: &String| base.tensors().iter().position(|t| t.name() == name);
    let tokens = side.groups().first().copied().unwrap_or(0);
    let groups = recorder.stages().into_iter().filter_map(|stage| {
        let tensors: Vec<usize> = stage.tensors.iter().filter_map(position).collect();
        let info = &source.tensors()[*tensors.first()?];
        let matrices = (info.shape().dim(2) as usize).max(1);
        // All tokens pass every matrix, as the heads of latent attention and unlike experts.
        let dense = stage.rows.len() == matrices && stage.rows.values().all(|&rows| rows == tokens || matrices == 1);
        let rows = stage.rows.values().next().copied().unwrap_or(0);
        Some(Group { tensors, matrices, dense, tokens: rows == tokens })
    });
    Ok(groups.collect())
}

/// Experts that few tokens reach borrow from the mean of all.
fn share(seen: &mut [Seen], n: usize) {
    let Some(all) = seen.first().map(|s| s.h.clone()) else { return };
    let mut mean = all;
    mean.values_mut().fill(0.0);
    let tokens: usize = seen.iter().map(|s| s.tokens).sum();
    for seen in seen.iter() {
        mean.values_mut().iter_mut().zip(seen.h.values()).for_each(|(m, h)| *m += h);
    }
    let floor = n / 4;
    for seen in seen.iter_mut().filter(|s| s.tokens < 4 * n) {
        let weight = floor as f32 / tokens.max(1) as f32;
        seen.h.values_mut().iter_mut().zip(mean.values()).for_each(|(h, m)| *h += weight * m);
        if seen.importance.iter().all(|&i| i == 0.0) {
            seen.importance.iter_mut().enumerate().for_each(|(i, v)| *v = mean.at(i, i) / tokens.max(1) as f32);
        }
    }
}
