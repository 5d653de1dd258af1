//! What each type would cost each tensor: the losses that a mix of types for a size is chosen by.
//!
//! One pass of the original over a part of the text gives the moments of every matrix's inputs. With these, some rows
//! of each tensor are searched in each type, as the file would have them, and the error of their outputs is kept. How
//! much an error counts at the end differs between tensors: probes tell that, each a model of which one kind of tensor, or
//! the layers of one stretch, are rounded. Their divergences are explained by a factor for each kind times one for each
//! stretch.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gguf::{Error, Result, TensorInfo, TensorType};
use quantize::plan::Plan;
use quantize::search::inputs::quadratic;
use quantize::search::knows;
use quantize::search::mix::{Frame, Free};
use quantize::search::rows::{Effort, search};
use quantize::search::strips::Strips;
use serde::{Deserialize, Serialize};

use super::choose::{Chooser, encode};
use super::judge::losses;
use super::overlay::Overlay;
use super::pass::{self, At, Side};
use super::store::write;
use super::sums::{Against, Capture, Seen, Sums};
use super::{Group, Job, Options, stages};
use crate::encoded::Encoded;
use crate::forward::Input;
use crate::weights::{OnDevice, SourceWeights, Weights};
use gguf::digest::sha256;

/// Rows of a matrix that are searched in each type.
const ROWS: usize = 96;
/// Matrices of a stack that are looked at.
const EXPERTS: usize = 4;
/// Tokens that moments are summed up over, where rows are not so wide that they need more.
const TOKENS: usize = 16_384;
/// What probes are rounded to: the first that the rows hold.
const PROBES: [TensorType; 2] = [TensorType::Q3_K, TensorType::Q4_0];
/// Probes that run side by side.
const TOGETHER: usize = 6;
/// Stretches that layers are probed in.
const STRETCHES: usize = 12;
/// Sequences that probes are run on.
const PROBED: usize = 4;

/// A model, and the tensors whose types are to be chosen.
pub struct Survey<'a> {
    job: Job<'a>,
    frame: &'a Frame<'a>,
    folder: PathBuf,
    digest: String,
    kept: bool,
}

/// What was found of one tensor.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Found {
    source: usize,
    /// Squared error of the outputs of one token, for each type.
    errors: Vec<f64>,
    /// The same for what a probe has, rounded plainly.
    probe: f64,
    /// Mean squares of the inputs, where they are known.
    importance: Vec<f32>,
}

/// A file of the survey.
#[derive(Serialize, Deserialize)]
struct Kept<T> {
    digest: String,
    found: T,
}

impl<'a> Survey<'a> {
    /// Of a model's tensors in a frame. Beside the output lies what was found so far; with `resume` a run goes on there.
    ///
    /// # Errors
    /// Whatever reading meets.
    pub fn new(job: Job<'a>, frame: &'a Frame<'a>, output: &Path, resume: bool) -> Result<Survey<'a>> {
        let name = output.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = output.with_file_name(format!("{name}.optimize"));
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "create the folder", e))?;
        let types: Vec<_> = frame.free.iter().map(|f| (&f.name, &f.types)).collect();
        let digest = sha256(format!("{} {types:?}", job.digest()?).as_bytes());
        Ok(Survey { job, frame, folder, digest, kept: resume })
    }

    /// What an earlier run kept under a name.
    fn kept<T: for<'d> Deserialize<'d>>(&self, name: &str) -> Result<Option<T>> {
        let path = self.folder.join(name);
        let Some(text) = self.kept.then(|| fs::read(&path).ok()).flatten() else { return Ok(None) };
        let kept: Kept<T> = serde_json::from_slice(&text)
            .map_err(|e| Error::input("is nothing that a run has kept").caused_by(e.to_string()).at(&path))?;
        if kept.digest != self.digest {
            return Err(Error::input("is of another model, text or options")
                .at(&path)
                .help("give the same model and options, or begin anew without --resume"));
        }
        Ok(Some(kept.found))
    }

    fn keep<T: Serialize>(&self, name: &str, found: &T) -> Result<()> {
        let kept = serde_json::json!({"digest": self.digest, "found": found});
        write(&self.folder.join(name), kept.to_string().as_bytes())
    }

    /// The loss of each free tensor in each of its types, in the order of the frame. `told` is given the share that is
    /// done.
    ///
    /// # Errors
    /// A model that cannot be run layer by layer, and whatever reading, running and writing can meet.
    pub fn losses(&self, told: &mut dyn FnMut(f64)) -> Result<Vec<Vec<f64>>> {
        let found = self.errors(&mut |share| told(share * 0.6))?;
        let found: Vec<Found> =
            self.frame.free.iter().map(|f| found.get(&f.source).cloned().unwrap_or_default()).collect();
        let probes = self.probes();
        let measured = self.probed(&probes, &found, &mut |share| told(0.6 + share * 0.4))?;
        let factors = explain(&probes, &found.iter().map(|f| f.probe).collect::<Vec<_>>(), &measured);
        Ok(found.iter().zip(factors).map(|(f, factor)| f.errors.iter().map(|e| e * factor).collect()).collect())
    }

    /// The errors of all free tensors, by their position in the source.
    fn errors(&self, told: &mut dyn FnMut(f64)) -> Result<BTreeMap<usize, Found>> {
        let Survey { job, frame, .. } = self;
        pass::check(job.model)?;
        let base = OnDevice::new(SourceWeights(job.source), job.device);
        let free: BTreeMap<usize, &Free> = frame.free.iter().map(|f| (f.source, f)).collect();
        let widest = frame.free.iter().map(|f| job.source.tensors()[f.source].shape().row_len() as usize).max();
        let (mut tokens, enough) = (0, TOKENS.max(2 * widest.unwrap_or(0)));
        let text: Vec<Input> = job
            .text
            .iter()
            .take_while(|input| {
                let more = tokens < enough;
                tokens += input.tokens.len();
                more
            })
            .cloned()
            .collect();
        let tokens = text.iter().map(|i| i.tokens.len()).sum();
        let mut original = Overlay::new(&base);
        let mut side = Side::new(job.model, &base, &text, job.options.together)?;
        let mut all = BTreeMap::new();
        let layers = side.layers().len();
        for layer in 0..layers {
            told(layer as f64 / (layers + 1) as f64);
            side.begin(layer)?;
            let name = format!("survey-{layer:04}.json");
            let kept: Option<Vec<Found>> = self.kept(&name)?;
            let known = kept.is_some();
            let mut found = kept.unwrap_or_default();
            for part in 0..side.parts(layer) {
                let at = (layer, part);
                let groups = if known { Vec::new() } else { stages(job.source, &side, at, &base)? };
                for group in groups {
                    let free: Vec<&Free> = group.tensors.iter().filter_map(|t| free.get(t).copied()).collect();
                    if !free.is_empty() {
                        let seen = self.gather(&side, at, &group, &mut original)?;
                        found.extend(self.stage(&free, &seen, tokens, group.matrices)?);
                    }
                }
                side.advance(at, &original)?;
            }
            if !known {
                self.keep(&name, &found)?;
            }
            all.extend(found.into_iter().map(|f| (f.source, f)));
        }
        told(layers as f64 / (layers + 1) as f64);
        let head = frame.free.iter().find(|f| f.name == "output.weight");
        if let Some(head) = head {
            let width = job.model.width;
            let mut sums = Sums::new(width, Against::Nothing);
            for x in side.end(&original)?.chunks(job.options.together * width) {
                sums.add(x, x, &[]);
            }
            let found = self.stage(&[head], &[(0, sums.finish())], tokens, 1)?;
            all.extend(found.into_iter().map(|f| (f.source, f)));
        }
        // What is looked up, and what no token reached.
        for free in &frame.free {
            if let Entry::Vacant(place) = all.entry(free.source) {
                place.insert(self.looked_up(free)?);
            }
        }
        Ok(all)
    }

    /// The moments of some matrices of a stage.
    fn gather(&self, side: &Side<'_>, at: At, group: &Group, original: &mut Overlay<'_>) -> Result<Vec<(usize, Seen)>> {
        let info = &self.job.source.tensors()[group.tensors[0]];
        let n = info.shape().row_len() as usize;
        let matrices = group.matrices;
        let some: Vec<usize> = (0..EXPERTS.min(matrices)).map(|i| i * matrices / EXPERTS.min(matrices)).collect();
        let mut sums: Vec<(usize, Sums)> =
            some.iter().map(|&expert| (expert, Sums::new(n, Against::Nothing))).collect();
        if matrices == 1 {
            original.stop_at(&group.tensors[..1]);
        }
        for part in 0..side.groups().len() {
            let inputs = side.captured(at, original, part, Capture::of(info.name(), false))?.inputs;
            for (expert, sums) in &mut sums {
                let x = inputs.get(expert).map_or(&[][..], Vec::as_slice);
                sums.add(x, x, &[]);
            }
        }
        original.stop_at(&[]);
        Ok(sums.into_iter().map(|(expert, sums)| (expert, sums.finish())).collect())
    }

    /// The errors of tensors that read the same inputs.
    fn stage(&self, free: &[&Free], seen: &[(usize, Seen)], tokens: usize, matrices: usize) -> Result<Vec<Found>> {
        let mut found: Vec<Found> = free
            .iter()
            .map(|f| Found { source: f.source, errors: vec![0.0; f.types.len()], ..Found::default() })
            .collect();
        let share = matrices as f64 / seen.len().max(1) as f64 / tokens.max(1) as f64;
        for (expert, seen) in seen {
            let options = Options { targets: false, ..self.job.options };
            let chooser = Chooser::new(seen, &options);
            for (free, found) in free.iter().zip(&mut found) {
                if matrices == 1 {
                    found.importance.clone_from(&seen.importance);
                }
                let sample = self.sample(free, *expert, &seen.importance)?;
                if sample.cols != seen.h.rows() {
                    continue;
                }
                let target = Strips::transposed(&sample.values, sample.cols);
                let plain = |ty: TensorType| -> Result<f64> {
                    let left = self.rounded(free, ty, &sample, Some(&seen.importance))?;
                    Ok(quadratic(&seen.h, &Strips::transposed(&left, sample.cols)) * sample.share * share)
                };
                for (i, &ty) in free.types.iter().enumerate() {
                    let error = match &chooser.inputs {
                        Some(inputs) if self.job.options.feedback && knows(ty) => {
                            let effort = Effort { ..self.job.options.effort };
                            quadratic(&seen.h, &search(inputs, ty, effort, &target).1) * sample.share * share
                        }
                        _ => plain(ty)?,
                    };
                    found.errors[i] += error;
                }
                found.probe += probe_type(free, sample.cols).map(plain).transpose()?.unwrap_or(0.0);
            }
        }
        // No input of such a matrix was seen.
        found.retain(|f| f.probe > 0.0);
        Ok(found)
    }

    /// The errors of a tensor of whose inputs nothing is known: that of a mean row.
    fn looked_up(&self, free: &Free) -> Result<Found> {
        let sample = self.sample(free, 0, &[])?;
        let of = |ty: TensorType| -> Result<f64> {
            let left = self.rounded(free, ty, &sample, None)?;
            Ok(left.iter().map(|&e| f64::from(e).powi(2)).sum::<f64>() * sample.cols as f64 / left.len().max(1) as f64)
        };
        Ok(Found {
            source: free.source,
            errors: free.types.iter().map(|&ty| of(ty)).collect::<Result<_>>()?,
            probe: probe_type(free, sample.cols).map(of).transpose()?.unwrap_or(0.0),
            importance: Vec::new(),
        })
    }

    /// Some rows of a matrix, evenly over it.
    fn sample(&self, free: &Free, expert: usize, importance: &[f32]) -> Result<Sample> {
        let cols = self.job.source.tensors()[free.source].shape().row_len() as usize;
        let all = self.job.weights(free.source, expert)?;
        let rows = all.len() / cols.max(1);
        let energy = |row: &[f32]| -> f64 {
            let weight = |i: usize| importance.get(i).map_or(1.0, |&w| f64::from(w));
            row.iter().enumerate().map(|(i, &v)| weight(i) * f64::from(v).powi(2)).sum()
        };
        let count = ROWS.min(rows);
        let mut values = Vec::with_capacity(count * cols);
        (0..count).for_each(|i| {
            let row = i * rows / count;
            values.extend_from_slice(&all[row * cols..(row + 1) * cols]);
        });
        let total: f64 = all.chunks_exact(cols).map(energy).sum();
        let part: f64 = values.chunks_exact(cols).map(energy).sum();
        Ok(Sample { values, cols, share: if part > 0.0 { total / part } else { 1.0 } })
    }

    /// What a type's plain bytes leave of rows.
    fn rounded(&self, free: &Free, ty: TensorType, sample: &Sample, importance: Option<&[f32]>) -> Result<Vec<f32>> {
        let rows = (sample.values.len() / sample.cols) as u64;
        let info = TensorInfo::new(free.name.as_str(), gguf::Shape::new(&[sample.cols as u64, rows])?, ty)?;
        let bytes = encode(&info, &sample.values, sample.cols, importance)?;
        let mut decoded = vec![0.0; sample.values.len()];
        quantize::decode_rows(ty, &bytes, &mut decoded)?;
        decoded.iter_mut().zip(&sample.values).for_each(|(d, v)| *d = v - *d);
        Ok(decoded)
    }

    /// Which free tensors are probed together.
    fn probes(&self) -> Vec<Probe> {
        let layers = self.frame.free.iter().filter_map(|f| quantize::recipe::layer(&f.name)).max().map_or(0, |l| l + 1);
        let stretch = |layer: u64| (layer as usize * STRETCHES.min(layers as usize)) / (layers as usize).max(1);
        let mut by: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
        for (i, free) in self.frame.free.iter().enumerate() {
            let layer = quantize::recipe::layer(&free.name);
            let kind = match layer {
                Some(_) => free.name.splitn(3, '.').last().unwrap_or_default().to_owned(),
                None => free.name.clone(),
            };
            by.entry(Key::Kind(kind)).or_default().push(i);
            if let Some(layer) = layer {
                by.entry(Key::Stretch(stretch(layer))).or_default().push(i);
            }
        }
        by.into_iter().map(|(key, tensors)| Probe { key, tensors }).collect()
    }

    /// The divergence of each probe.
    fn probed(&self, probes: &[Probe], found: &[Found], told: &mut dyn FnMut(f64)) -> Result<Vec<f64>> {
        let Survey { job, frame, .. } = self;
        let mut measured: Vec<f64> = self.kept("probes.json")?.unwrap_or_default();
        let text: Vec<Input> = job.held.iter().chain(job.text.iter().rev()).take(PROBED).cloned().collect();
        while measured.len() < probes.len() {
            told(measured.len() as f64 / probes.len() as f64);
            let next = &probes[measured.len()..(measured.len() + TOGETHER).min(probes.len())];
            let plans = next.iter().map(|probe| self.probe_plan(probe, found)).collect::<Result<Vec<_>>>()?;
            let forms: Vec<Encoded<'_>> = plans.into_iter().map(|plan| Encoded::planned(job.source, plan)).collect();
            let forms: Vec<&dyn Weights> = forms.iter().map(|f| f as &dyn Weights).collect();
            measured.extend(losses((job.model, job.device), job.source, &text, &forms, job.options.memory)?);
            self.keep("probes.json", &measured)?;
        }
        debug_assert!(frame.free.len() == found.len());
        Ok(measured)
    }

    /// A model of which some tensors are rounded.
    fn probe_plan(&self, probe: &Probe, found: &[Found]) -> Result<Plan> {
        let mut plan = self.frame.base().clone();
        for tensor in &mut plan.tensors {
            let at = probe.tensors.iter().copied().find(|&i| self.frame.free[i].source == tensor.source);
            let rounded =
                at.and_then(|i| Some((i, probe_type(&self.frame.free[i], tensor.info.shape().row_len() as usize)?)));
            let ty = rounded.map_or(tensor.from, |(_, ty)| ty);
            tensor.info = TensorInfo::new(tensor.info.name(), *tensor.info.shape(), ty)?;
            tensor.importance = rounded
                .map(|(i, _)| &found[i].importance)
                .filter(|importance| !importance.is_empty())
                .map(|importance| Arc::new(importance.clone()));
        }
        Ok(plan)
    }
}

/// The type that a tensor has in a probe.
fn probe_type(free: &Free, cols: usize) -> Option<TensorType> {
    let own = free.types.last().copied();
    PROBES.into_iter().find(|ty| (cols as u64).is_multiple_of(ty.block_len()) && own != Some(*ty))
}

/// Some rows of a matrix.
struct Sample {
    values: Vec<f32>,
    cols: usize,
    /// By how much the whole matrix weighs more than these.
    share: f64,
}

/// What the tensors of a probe have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// Their names, but for the layer.
    Kind(String),
    /// Their layers.
    Stretch(usize),
}

/// Tensors that are rounded together.
#[derive(Clone, Debug)]
struct Probe {
    key: Key,
    /// Positions among the free tensors.
    tensors: Vec<usize>,
}

/// How much the error of each tensor counts, so that the errors of each probe add up to what was measured: one factor
/// for each kind times one for each stretch of layers, fitted in turn.
fn explain(probes: &[Probe], errors: &[f64], measured: &[f64]) -> Vec<f64> {
    let mut factors = vec![1.0; errors.len()];
    // Stretches tell how layers differ, kinds have the last word.
    let order =
        |stretch: bool| probes.iter().zip(measured).filter(move |p| matches!(p.0.key, Key::Stretch(_)) == stretch);
    for _ in 0..50 {
        for (probe, &measured) in order(true).chain(order(false)) {
            let explained: f64 = probe.tensors.iter().map(|&i| factors[i] * errors[i]).sum();
            if explained > 0.0 && measured > 0.0 && (measured / explained).is_finite() {
                probe.tensors.iter().for_each(|&i| factors[i] *= measured / explained);
            }
        }
    }
    factors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_of_kinds_and_stretches_are_found() {
        let (kinds, stretches) = ([3.0, 0.5, 7.0], [1.0, 2.0]);
        let errors: Vec<f64> = (0..6).map(|i| 1.0 + f64::from(i % 4)).collect();
        let want: Vec<f64> = (0..6).map(|i| kinds[i % 3] * stretches[i / 3]).collect();
        let kind = |k: usize| Probe { key: Key::Kind(k.to_string()), tensors: vec![k, k + 3] };
        let stretch = |s: usize| Probe { key: Key::Stretch(s), tensors: (3 * s..3 * s + 3).collect() };
        let probes: Vec<Probe> = (0..3).map(kind).chain((0..2).map(stretch)).collect();
        let measured: Vec<f64> = probes.iter().map(|p| p.tensors.iter().map(|&i| want[i] * errors[i]).sum()).collect();
        for (got, want) in explain(&probes, &errors, &measured).iter().zip(&want) {
            assert!((got / want - 1.0).abs() < 1e-6, "{got} {want}");
        }
    }
}
