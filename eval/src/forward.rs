//! The forward pass, layer by layer over all sequences.
//!
//! A layer is loaded once, every sequence of the run is pushed through it, then it is dropped: memory is one layer and
//! the hidden states, whatever the model's size. Several precisions of a model ([`Weights`]) go through in lockstep, so
//! that their logits for the same positions arrive together; logits are handed to a visitor block by block and never
//! kept. Within a layer, sequences go in groups of whole sequences, to bound what a block needs for itself.

use std::fmt;
use std::ops::Range;

use gguf::arch::{Flow, Layer, NormKind, Reads, Residual, StackPlan, Step};
use gguf::{Error, Result};
use quantize::first_not_finite;
use rayon::prelude::*;

use crate::device::Values;
use crate::layers::attention::Buckets;
use crate::layers::residual::Form;
use crate::layers::{Kept, LayerState, Observe, Part, Site, Span, add, altup, branch, norm, residual};
use crate::matmul::{Order, product};
use crate::model::{Model, Shape, Tables, Turn};
use crate::numeric::copied;
use crate::weights::{Matrix, Weights, depends_on_batch};

/// One sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// The tokens whose hidden states and logits are wanted.
    pub tokens: Vec<u32>,
    /// What the encoder of an encoder-decoder reads; empty for other models.
    pub encoder: Vec<u32>,
    /// The first token of the second kind, where the model tells two kinds apart; 0: all are of the first.
    pub second: usize,
}

impl From<Vec<u32>> for Input {
    fn from(tokens: Vec<u32>) -> Input {
        Input { tokens, ..Input::default() }
    }
}

/// How much is in memory at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens that pass a block together: more amortize decoding better.
    pub group_tokens: usize,
    /// Positions whose logits are made together.
    pub logit_rows: usize,
    /// Whether the output matrix is decoded once, or panel by panel for each block of logits.
    pub decode_head: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { group_tokens: 2048, logit_rows: 256, decode_head: false }
    }
}

/// Logits of some positions of one sequence, of every stream.
#[derive(Debug)]
pub struct Logits<'a> {
    /// The sequence.
    pub sequence: usize,
    /// The positions within it.
    pub positions: Range<usize>,
    /// Length of a row.
    pub vocabulary: usize,
    /// `[positions, vocabulary]` of each stream, row-major.
    pub streams: &'a [Vec<f32>],
}

/// Told how far a run is: units done and all units. A unit is a token through a layer of a stream.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// One precision of a model, with the hyperparameters that go with it.
#[derive(Clone, Copy)]
pub struct Stream<'a> {
    /// What the model does.
    pub model: &'a Model,
    /// Its weights.
    pub weights: &'a dyn Weights,
}

impl fmt::Debug for Stream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("model", &self.model.name()).finish_non_exhaustive()
    }
}

/// One pass of sequences through one or several precisions of a model.
pub struct Forward<'a> {
    streams: Vec<Stream<'a>>,
    limits: Limits,
    observer: Option<&'a dyn Observe>,
    progress: Option<Progress<'a>>,
}

impl fmt::Debug for Forward<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward").field("streams", &self.streams.len()).field("limits", &self.limits).finish()
    }
}

/// What an encoder made, of each stream, and the sequences it read.
type Encoded<'e> = (&'e [Vec<f32>], &'e [&'e [u32]]);

/// The stack that reads the tokens, and the one whose output it attends to.
fn stacks(model: &Model) -> (Option<&StackPlan>, &StackPlan) {
    match model.plan.stacks.as_slice() {
        [encoder, decoder] => (Some(encoder), decoder),
        stacks => (None, &stacks[0]),
    }
}

impl<'a> Forward<'a> {
    /// A pass through one precision.
    pub fn new(model: &'a Model, weights: &'a dyn Weights) -> Forward<'a> {
        Forward::of(vec![Stream { model, weights }])
    }

    /// A pass through several precisions, layer by layer, each with its own hyperparameters.
    ///
    /// # Errors
    /// No stream, or models that differ in stacks, layers, width or vocabulary.
    pub fn lockstep(streams: Vec<Stream<'a>>) -> Result<Forward<'a>> {
        let form = |m: &Model| {
            let turns: Vec<Vec<Turn>> = m.plan.stacks.iter().map(|s| m.turns(s)).collect();
            (m.shape, turns, m.width, m.vocabulary)
        };
        let Some(first) = streams.first() else { return Err(Error::usage("there is no model to run")) };
        if let Some(other) = streams.iter().find(|s| form(s.model) != form(first.model)) {
            return Err(Error::input(format!(
                "{} and {} differ in layers, width or vocabulary, so they cannot be run side by side",
                first.model.name(),
                other.model.name()
            )));
        }
        Ok(Forward::of(streams))
    }

    fn of(streams: Vec<Stream<'a>>) -> Forward<'a> {
        Forward { streams, limits: Limits::default(), observer: None, progress: None }
    }

    /// The first stream's model: stacks, layers, width and vocabulary are those of all.
    fn model(&self) -> &'a Model {
        self.streams[0].model
    }

    /// Sets how much is in memory at once.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Forward<'a> {
        self.limits = limits;
        self
    }

    /// Shows an observer what each matrix is multiplied with.
    #[must_use]
    pub fn observer(mut self, observer: &'a dyn Observe) -> Forward<'a> {
        self.observer = Some(observer);
        self
    }

    /// Tells how far the pass is.
    #[must_use]
    pub fn progress(mut self, progress: Progress<'a>) -> Forward<'a> {
        self.progress = Some(progress);
        self
    }

    /// The logits of these positions of every sequence, block by block: sequences in order, positions ascending.
    ///
    /// # Errors
    /// A model without logits, tokens outside the vocabulary, tensors that are missing or do not fit, a value that is
    /// no number (the layer is named), and whatever the visitor returns.
    pub fn logits(
        &self,
        inputs: &[Input],
        positions: impl Fn(usize) -> Range<usize>,
        mut visit: impl FnMut(&Logits<'_>) -> Result<()>,
    ) -> Result<()> {
        if self.model().shape == Shape::Encoder {
            return Err(Error::input(format!("{} is an encoder: it gives no logits", self.model().name()))
                .help("a decoder is needed to score or to continue text"));
        }
        let hidden = self.hidden(inputs)?;
        let heads = self
            .streams
            .iter()
            .map(|s| Head::load(s.model, s.weights, self.limits.decode_head, self.observer))
            .collect::<Result<Vec<_>>>()?;
        let width = self.model().width;
        let mut start = 0;
        for (sequence, input) in inputs.iter().enumerate() {
            let wanted = positions(sequence);
            let wanted = wanted.start..wanted.end.min(input.tokens.len());
            for at in wanted.clone().step_by(self.limits.logit_rows.max(1)) {
                let block = at..(at + self.limits.logit_rows.max(1)).min(wanted.end);
                let rows = (start + block.start) * width..(start + block.end) * width;
                let streams = heads
                    .iter()
                    .zip(&hidden)
                    .zip(&self.streams)
                    .map(|((head, hidden), stream)| head.logits(stream.model, &hidden[rows.clone()]))
                    .collect::<Result<Vec<_>>>()?;
                visit(&Logits { sequence, positions: block, vocabulary: self.model().vocabulary, streams: &streams })?;
            }
            start += input.tokens.len();
        }
        Ok(())
    }

    /// The hidden states behind the last norm, of each stream: `[tokens of all sequences, width]`.
    ///
    /// # Errors
    /// As [`Forward::logits`].
    pub fn hidden(&self, inputs: &[Input]) -> Result<Vec<Vec<f32>>> {
        let (encoder, stack) = stacks(self.model());
        let tokens: Vec<&[u32]> = inputs.iter().map(|i| i.tokens.as_slice()).collect();
        let read: Vec<&[u32]> = inputs.iter().map(|i| i.encoder.as_slice()).collect();
        let count = |stack: &StackPlan, tokens: &[&[u32]]| {
            (layer_turns(&self.model().turns(stack))
                * tokens.iter().map(|t| t.len()).sum::<usize>()
                * self.streams.len()) as u64
        };
        let total = count(stack, &tokens) + encoder.map_or(0, |s| count(s, &read));
        let mut done = 0;
        let encoded = match encoder {
            None => None,
            Some(_) if read.iter().any(|r| r.is_empty()) => {
                return Err(Error::input(format!("{} needs a text for its encoder", self.model().name())));
            }
            Some(_) => Some(self.stack(0, &read, &vec![0; read.len()], None, (&mut done, total))?),
        };
        let last = self.model().plan.stacks.len() - 1;
        let seconds: Vec<usize> = inputs.iter().map(|i| i.second).collect();
        self.stack(last, &tokens, &seconds, encoded.as_deref().map(|e| (e, read.as_slice())), (&mut done, total))
    }

    /// Tokens of a group: on a device no more than that what a layer makes of them fits a buffer, and no second sequence
    /// where one would depend on the other.
    fn together(&self, stream: &Stream<'_>) -> usize {
        if depends_on_batch(stream.weights) {
            return 0;
        }
        let (attention, feed) = stream.model.widest();
        let most = stream.weights.device().map_or(usize::MAX, |d| d.kernels().largest() / attention.max(feed).max(1));
        self.limits.group_tokens.min(most.max(1))
    }

    /// Pushes all sequences through one stack.
    fn stack(
        &self,
        number: usize,
        sequences: &[&[u32]],
        seconds: &[usize],
        encoded: Option<Encoded<'_>>,
        (done, total): (&mut u64, u64),
    ) -> Result<Vec<Vec<f32>>> {
        let model = self.model();
        let mut walks = Vec::with_capacity(self.streams.len());
        for (s, stream) in self.streams.iter().enumerate() {
            let encoded = encoded.map(|(states, read)| rows_of(&states[s], read, model.width));
            walks.push(Walk::new(
                stream.model,
                stream.weights,
                number,
                (sequences, seconds),
                encoded,
                self.together(stream),
            )?);
        }
        for turn in model.turns(&model.plan.stacks[number]) {
            for (stream, (walk, trunk)) in self.streams.iter().zip(&mut walks) {
                let Turn::Layer(l) = turn else {
                    trunk.turn(turn, stream.model, stream.weights, walk.stack)?;
                    continue;
                };
                let part = Part::load(stream.weights, &walk.prefix(l), self.observer)?;
                for group in 0..walk.groups.len() {
                    walk.layer(l, &part, group, trunk.group(group), None)?;
                    *done += walk.groups[group].rows.len() as u64;
                    if let Some(progress) = self.progress {
                        progress(*done, total);
                    }
                }
                part.release(stream.weights);
            }
        }
        self.streams.iter().zip(walks).map(|(stream, (walk, trunk))| walk.end(stream.weights, trunk)).collect()
    }
}

/// Sequences on their way through a stack of one precision, layer by layer: what is known of them beside their states.
pub(crate) struct Walk<'a> {
    model: &'a Model,
    stack: &'a StackPlan,
    ids: Vec<u32>,
    groups: Vec<Group>,
    tables: Tables,
    buckets: Option<Buckets>,
    embeddings: Option<Vec<f32>>,
    beside: Option<Beside>,
    encoded: Option<Vec<&'a [f32]>>,
    kept: Vec<Kept>,
}

/// What a group keeps between the steps of a layer.
#[derive(Debug, Default)]
pub(crate) struct Begun {
    /// The stream as it was when the layer began, where a branch asks for it.
    start: Option<Values>,
    /// Blocks that were begun.
    kept: usize,
}

impl Begun {
    /// Says how many blocks are begun.
    pub(crate) fn blocks(&mut self, kept: usize) {
        self.kept = kept;
    }
}

impl<'a> Walk<'a> {
    /// Before the first layer, with the states there.
    pub(crate) fn new(
        model: &'a Model,
        weights: &dyn Weights,
        number: usize,
        (sequences, seconds): (&[&[u32]], &[usize]),
        encoded: Option<Vec<&'a [f32]>>,
        together: usize,
    ) -> Result<(Walk<'a>, Trunk)> {
        let stack = &model.plan.stacks[number];
        let longest = sequences.iter().map(|s| s.len()).max().unwrap_or(0);
        let embedded = embed(model, weights, sequences, &vec![0; sequences.len()], seconds)?;
        let reads_embeddings =
            |layer: &Layer| layer.steps.iter().flat_map(|s| &s.branches).any(|b| b.reads == Reads::Embeddings);
        let groups = groups(sequences, together);
        let walk = Walk {
            model,
            stack,
            ids: sequences.iter().flat_map(|s| s.iter().copied()).collect(),
            kept: groups.iter().map(|_| Kept::default()).collect(),
            groups,
            tables: model.tables(longest),
            buckets: first_relative_bias(weights, stack)?,
            embeddings: model.layers(stack).iter().any(reads_embeddings).then(|| copied(&embedded)),
            beside: Beside::new(model, weights, sequences, &embedded)?,
            encoded,
        };
        let trunk = Trunk::new(model, weights, stack, embedded, walk.groups().cloned().collect())?;
        Ok((walk, trunk))
    }

    /// What the names of a layer's tensors begin with.
    pub(crate) fn prefix(&self, layer: usize) -> String {
        format!("{}{layer}.", self.stack.prefix)
    }

    /// The layers that are run.
    pub(crate) fn layers(&self) -> &'a [Layer] {
        self.model.layers(self.stack)
    }

    /// The tokens of each group of whole sequences.
    pub(crate) fn groups(&self) -> impl ExactSizeIterator<Item = &Range<usize>> {
        self.groups.iter().map(|g| &g.rows)
    }

    /// What a layer of these tensors may look at for the sequences of a group.
    fn at<T>(
        &self,
        layer: usize,
        part: &Part<'_>,
        group: usize,
        act: impl FnOnce(&Site<'_>) -> Result<T>,
    ) -> Result<T> {
        let own = relative_bias(part, self.stack)?;
        let Group { rows, sequences, spans } = &self.groups[group];
        let width = self.model.width;
        let given = self.beside.as_ref().map(|b| b.of_layer(layer, rows.clone()));
        act(&Site {
            model: self.model,
            layer,
            ids: &self.ids[rows.clone()],
            spans,
            tables: &self.tables,
            buckets: own.as_ref().or(self.buckets.as_ref()),
            encoded: self.encoded.as_ref().map(|e| &e[sequences.clone()]),
            kept: &self.kept[group],
            chosen: None,
            blocks: blocks_begun(&self.stack.layers[..layer]),
            layer_input: None,
            stream: None,
            embeddings: self.embeddings.as_ref().map(|e| &e[rows.start * width..rows.end * width]),
            per_layer: given.as_deref(),
        })
    }

    /// A layer on the states of a group, in place.
    fn layer(
        &self,
        layer: usize,
        part: &Part<'_>,
        group: usize,
        x: &mut Values,
        state: Option<&mut [LayerState]>,
    ) -> Result<()> {
        self.at(layer, part, group, |site| run(&self.stack.layers[layer], part, site, x, state))?;
        check(x, part, self.stack.prefix, layer)
    }

    /// In how many parts a layer can be run one after the other: its steps, but for a layer that works on one stream of
    /// several.
    pub(crate) fn parts(&self, layer: usize) -> usize {
        let layer = &self.stack.layers[layer];
        if layer.altup.is_some() { 1 } else { layer.steps.len() }
    }

    /// What is to be kept of a group before a layer's first part.
    pub(crate) fn begin(&self, layer: usize, x: &Values) -> Result<Begun> {
        let kept = blocks_begun(&self.stack.layers[..layer]);
        let layer = &self.stack.layers[layer];
        let start = layer.altup.is_none() && layer.reads_input();
        Ok(Begun { start: start.then(|| x.copied()).transpose()?, kept })
    }

    /// One part of a layer on the states of a group, in place. Gives the number of blocks that are begun then.
    pub(crate) fn part(
        &self,
        (layer, number): (usize, usize),
        part: &Part<'_>,
        group: usize,
        begun: &Begun,
        x: &mut Values,
    ) -> Result<usize> {
        let of = &self.stack.layers[layer];
        let kept = self.at(layer, part, group, |site| {
            if of.altup.is_some() {
                run(of, part, site, x, None)?;
                return Ok(begun.kept);
            }
            let site = &Site { layer_input: begun.start.as_ref(), ..*site };
            let mut form = form_of(site, x, begun.kept);
            step(&of.steps[number], part, site, x, &mut form, None)?;
            if number + 1 == of.steps.len() {
                behind(of, part, x)?;
            }
            Ok::<usize, Error>(form.kept)
        })?;
        check(x, part, self.stack.prefix, layer)?;
        Ok(kept)
    }

    /// The hidden states behind the last norm.
    pub(crate) fn end(&self, weights: &dyn Weights, trunk: Trunk) -> Result<Vec<f32>> {
        let mut x = trunk.end(self.model, weights, self.stack)?;
        last_norm(self.model, weights, self.stack, &mut x)?;
        Ok(x)
    }
}

/// How many of these turns are a layer's.
fn layer_turns(turns: &[Turn]) -> usize {
    turns.iter().filter(|t| matches!(t, Turn::Layer(_))).count()
}

/// How many blocks begin in these layers, where the residual stream has such.
fn blocks_begun(layers: &[Layer]) -> usize {
    let begins = |residual: &Residual| matches!(residual, Residual::Blocks(blocks) if blocks.begins);
    layers.iter().flat_map(|l| &l.steps).filter(|s| begins(&s.residual)).count()
}

/// What goes through a stack: one residual stream or several, the states that cycles keep, and their form.
pub(crate) struct Trunk {
    /// `[tokens, slots · width]` of each group.
    x: Vec<Values>,
    /// The tokens of each group.
    groups: Vec<Range<usize>>,
    form: Form,
    /// The high state and the low one, where layers run in cycles.
    sides: Option<[Vec<f32>; 2]>,
}

impl Trunk {
    /// Before the first layer.
    fn new(
        model: &Model,
        weights: &dyn Weights,
        stack: &StackPlan,
        embeddings: Vec<f32>,
        groups: Vec<Range<usize>>,
    ) -> Result<Trunk> {
        // From the last on, so that no more than a group is held twice.
        let apart = |mut x: Vec<f32>, row: usize| -> Vec<Values> {
            let mut parts = Vec::with_capacity(groups.len());
            for rows in groups.iter().skip(1).rev() {
                parts.push(x.split_off(rows.start * row).into());
                x.shrink_to_fit();
            }
            parts.push(x.into());
            parts.reverse();
            parts
        };
        let width = model.width;
        let layers = model.layers(stack);
        if let Some(ends) = &model.ends().altup {
            let part = Part::pick(weights, "", ALTUP_ENDS)?;
            let x = altup::spread(ends, &part, &embeddings, width)?;
            let form = Form { width, slots: ends.streams.len(), kept: 0 };
            return Ok(Trunk { x: apart(x, width * form.slots), groups, form, sides: None });
        }
        let streams = layers.iter().flat_map(|l| &l.steps).find_map(|s| match &s.residual {
            Residual::Streams(streams) => Some(streams.count.len()),
            _ => None,
        });
        // Streams all begin as the embedding; what blocks keep is put there when they begin.
        let (slots, equal) = match streams {
            Some(count) => (count, true),
            None => (1 + blocks_begun(layers), false),
        };
        let form = Form { width, slots, kept: 0 };
        let sides = match &model.plan.flow {
            Flow::Cycles { start, .. } => {
                let low = Part::pick(weights, "", &[start])?.values_of(start, width)?;
                let low = embeddings.chunks(width).flat_map(|_| &low).copied().collect();
                Some([copied(&embeddings), low])
            }
            _ => None,
        };
        if slots == 1 {
            return Ok(Trunk { x: apart(embeddings, width), groups, form, sides });
        }
        let mut x = vec![0.0; embeddings.len() * slots];
        for (row, embedding) in x.chunks_mut(width * slots).zip(embeddings.chunks(width)) {
            let places = if equal { slots } else { 1 };
            row.chunks_mut(width).take(places).for_each(|stream| stream.copy_from_slice(embedding));
        }
        Ok(Trunk { x: apart(x, width * slots), groups, form, sides })
    }

    /// Values of a token.
    pub(crate) fn row(&self) -> usize {
        self.form.width * self.form.slots
    }

    /// The rows of a group.
    pub(crate) fn group(&mut self, group: usize) -> &mut Values {
        &mut self.x[group]
    }

    /// The same to read.
    pub(crate) fn at(&self, group: usize) -> &Values {
        &self.x[group]
    }

    /// What happens between layers.
    fn turn(&mut self, turn: Turn, model: &Model, weights: &dyn Weights, stack: &StackPlan) -> Result<()> {
        let row = self.row();
        for (x, group) in self.x.iter_mut().zip(&self.groups) {
            let rows = group.start * row..group.end * row;
            match (turn, &mut self.sides, &model.plan.flow) {
                (Turn::Norm, ..) => last_norm(model, weights, stack, x.host())?,
                (Turn::Begin, Some([high, low]), _) => {
                    x.host().copy_from_slice(&high[rows.clone()]);
                    add(x.host(), &low[rows]);
                }
                (Turn::End(side), Some(sides), Flow::Cycles { eps, .. }) => {
                    norm::normalize(NormKind::Rms(*eps), x.host(), self.form.width, None, None);
                    sides[side as usize][rows].copy_from_slice(x);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The one stream that is read behind the last layer.
    fn end(self, model: &Model, weights: &dyn Weights, stack: &StackPlan) -> Result<Vec<f32>> {
        if let Some(ends) = &model.ends().altup {
            let width = self.form.width;
            return altup::gather(ends, &Part::pick(weights, "", ALTUP_ENDS)?, &self.whole()?, width);
        }
        let residual = &model.ends().residual;
        let part = Part::of_items(weights, &residual.reading_items())?;
        let form = Form { kept: blocks_begun(model.layers(stack)), ..self.form };
        residual::read_last(residual, &part, self.whole()?, form)
    }

    /// The rows of all groups.
    fn whole(mut self) -> Result<Vec<f32>> {
        if self.x.len() == 1 {
            return self.x.remove(0).fetched();
        }
        let mut whole = Vec::with_capacity(self.x.iter().map(Values::len).sum());
        for x in self.x {
            whole.extend(x.fetched()?);
        }
        Ok(whole)
    }
}

/// The tensors that make several streams of one and one of several.
const ALTUP_ENDS: &[&str] = &["altup_proj.weight", "altup_unembd_proj.weight"];

/// What layers get of each token beside the stream (Gemma 3n and 4): `[tokens, layers · width]`.
struct Beside {
    values: Vec<f32>,
    layers: usize,
    width: usize,
}

impl Beside {
    /// Made of the tokens and their embeddings, where the model has such.
    fn new(model: &Model, weights: &dyn Weights, sequences: &[&[u32]], embeddings: &[f32]) -> Result<Option<Beside>> {
        let Some(inputs) = &model.ends().per_layer else { return Ok(None) };
        let names = ["per_layer_token_embd.weight", "per_layer_model_proj.weight", "per_layer_proj_norm.weight"];
        let ends = Part::pick(weights, "", &names)?;
        let (width, layers) = (inputs.width.len(), inputs.layers);
        let all = width * layers;
        let tokens: Vec<u32> = sequences.iter().flat_map(|s| s.iter().copied()).collect();
        let mut values = ends.linear_to("per_layer_model_proj", embeddings, tokens.len(), all)?;
        values.iter_mut().for_each(|v| *v *= inputs.model_scale);
        let weight = ends.values_of("per_layer_proj_norm.weight", width)?;
        norm::normalize(inputs.norm, &mut values, width, Some(&weight), None);
        let table = ends.need(names[0])?;
        if table.cols() != all {
            return Err(Error::input(format!("tensor {} has rows of {}, not {all}", table.name(), table.cols())));
        }
        values.par_chunks_mut(all.max(1)).zip(&tokens).try_for_each(|(values, &token)| {
            let mut row = vec![0.0; all];
            table.decode(token as usize..token as usize + 1, &mut row)?;
            for (v, t) in values.iter_mut().zip(&row) {
                *v = (*v + t * inputs.token_scale) * inputs.scale;
            }
            Ok::<(), Error>(())
        })?;
        Ok(Some(Beside { values, layers, width }))
    }

    /// What a layer gets for these tokens.
    fn of_layer(&self, layer: usize, tokens: Range<usize>) -> Vec<f32> {
        let all = self.layers * self.width;
        let rows = self.values[tokens.start * all..tokens.end * all].chunks(all.max(1));
        rows.flat_map(|row| &row[layer * self.width..(layer + 1) * self.width]).copied().collect()
    }
}

/// The rows of each sequence.
fn rows_of<'h>(states: &'h [f32], sequences: &[&[u32]], width: usize) -> Vec<&'h [f32]> {
    let mut rest = states;
    sequences
        .iter()
        .map(|s| {
            let (mine, behind) = rest.split_at_checked(s.len() * width).unwrap_or((rest, &[]));
            rest = behind;
            mine
        })
        .collect()
}

struct Group {
    sequences: Range<usize>,
    rows: Range<usize>,
    spans: Vec<Span>,
}

/// Whole sequences in groups of at most so many tokens, or of one sequence.
fn groups(sequences: &[&[u32]], most: usize) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut row = 0;
    for (i, sequence) in sequences.iter().enumerate() {
        let len = sequence.len();
        let open = groups.last_mut().filter(|g| g.rows.len() + len <= most);
        let group = match open {
            Some(group) => group,
            None => {
                groups.push(Group { sequences: i..i, rows: row..row, spans: Vec::new() });
                let last = groups.len() - 1;
                &mut groups[last]
            }
        };
        group.spans.push(Span { start: group.rows.len(), len, past: 0 });
        group.sequences.end += 1;
        row += len;
        group.rows.end = row;
    }
    groups
}

/// One layer on a group's hidden states, in place.
fn run(
    layer: &Layer,
    part: &Part<'_>,
    site: &Site<'_>,
    x: &mut Values,
    state: Option<&mut [LayerState]>,
) -> Result<()> {
    match &layer.altup {
        Some(a) => altup::layer(a, part, site, x.host(), |active| {
            let mut x = Values::from(active.to_vec());
            steps(layer, part, site, &mut x, state)?;
            active.copy_from_slice(&x);
            Ok(())
        }),
        None => steps(layer, part, site, x, state),
    }
}

/// The steps of a layer, whose branches join the stream.
fn steps(
    layer: &Layer,
    part: &Part<'_>,
    site: &Site<'_>,
    x: &mut Values,
    mut state: Option<&mut [LayerState]>,
) -> Result<()> {
    if let Some(device) = part.device() {
        x.bring(device)?;
    }
    let start = layer.reads_input().then(|| x.copied()).transpose()?;
    let site = &Site { layer_input: start.as_ref(), ..*site };
    let mut form = form_of(site, x, site.blocks);
    for of in &layer.steps {
        step(of, part, site, x, &mut form, state.as_deref_mut())?;
    }
    behind(layer, part, x)
}

/// The form of states of which so many blocks were begun.
fn form_of(site: &Site<'_>, x: &Values, kept: usize) -> Form {
    let width = site.model.width;
    Form { width, slots: x.len() / (site.tokens() * width).max(1), kept }
}

/// One step of a layer.
fn step(
    step: &Step,
    part: &Part<'_>,
    site: &Site<'_>,
    x: &mut Values,
    form: &mut Form,
    mut state: Option<&mut [LayerState]>,
) -> Result<()> {
    let normed = matches!(step.residual, Residual::Normed(_));
    let keeps_input = normed || step.branches.iter().any(|b| b.reads == Reads::FirstInput);
    let mut reading = residual::read(&step.residual, part, x, *form)?;
    let mut read = reading.as_mut().map(|reading| Values::from(std::mem::take(&mut reading.read)));
    if let (Some(read), Some(device)) = (&mut read, part.device()) {
        read.bring(device)?;
    }
    let stream: &Values = read.as_ref().unwrap_or(x);
    let embeddings;
    let kept_embeddings = step.branches.iter().any(|b| b.reads == Reads::Embeddings);
    let embedded = match site.embeddings.filter(|_| kept_embeddings) {
        Some(values) => {
            embeddings = Values::from(copied(values));
            Some(&embeddings)
        }
        None => None,
    };
    let mut first: Option<Values> = None;
    let mut sum: Option<Values> = None;
    for b in &step.branches {
        let from: &Values = match b.reads {
            Reads::Stream => stream,
            Reads::LayerInput => site.layer_input.unwrap_or(stream),
            Reads::FirstInput => first.as_ref().unwrap_or(stream),
            Reads::Embeddings => embedded.ok_or_else(|| Error::usage("the embeddings were not kept"))?,
        };
        let input = match &b.before {
            Some(norm) => part.norm(norm, from)?,
            None => from.copied()?,
        };
        let mut made = branch(&b.kind, part, &Site { stream: Some(stream), ..*site }, &input, state.as_deref_mut())?;
        if keeps_input && first.is_none() {
            first = Some(input);
        }
        if let Some(norm) = &b.after {
            part.normalize(norm, &mut made)?;
        }
        if b.scale != 1.0 {
            made.scale(b.scale)?;
        }
        match &mut sum {
            Some(sum) => sum.add_scaled(&made, 1.0)?,
            None => sum = Some(made),
        }
    }
    let Some(mut sum) = sum else { return Ok(()) };
    if let Some(norm) = &step.after {
        part.normalize(norm, &mut sum)?;
    }
    match (&step.residual, &reading) {
        (_, Some(reading)) => form.kept = reading.join(x.host(), &sum, step.scale, *form),
        _ if step.replaces => *x = sum,
        (Residual::Normed(scale), _) => {
            if let Some(first) = first {
                *x = first;
            }
            x.scale(*scale)?;
            x.add_scaled(&sum, step.scale)?;
        }
        _ => x.add_scaled(&sum, step.scale)?,
    }
    if let Some(norm) = &step.sum_norm {
        part.normalize(norm, x)?;
    }
    if step.stream_scale != 1.0 {
        x.scale(step.stream_scale)?;
    }
    Ok(())
}

/// What a layer does to the stream behind its steps.
fn behind(layer: &Layer, part: &Part<'_>, x: &mut Values) -> Result<()> {
    if layer.times != 1.0 {
        x.scale(layer.times)?;
    }
    if let Some(name) = layer.out_scale.filter(|n| part.has(n)) {
        x.scale(part.values_of(name, 1)?[0])?;
    }
    Ok(())
}

/// Names the first layer that made something that is no number. A device that failed is told of before that.
fn check(x: &Values, part: &Part<'_>, prefix: &str, layer: usize) -> Result<()> {
    let broken = x.broken()?;
    if let Some(device) = part.device() {
        device.state()?;
    }
    match broken {
        None => Ok(()),
        Some(x) => Err(Error::input(format!("layer {prefix}{layer} is the first that makes a value of {x}")).help(
            "a weight of this layer is broken or out of range: `gguf check --data FILE` and `evaluate tensors` find it",
        )),
    }
}

/// Embeddings of all tokens, each sequence beginning at its position.
fn embed(
    model: &Model,
    weights: &dyn Weights,
    sequences: &[&[u32]],
    past: &[usize],
    seconds: &[usize],
) -> Result<Vec<f32>> {
    let ends = Part::pick(weights, "", EMBEDDINGS)?;
    let table = ends.need("token_embd.weight")?;
    let width = model.width;
    let tokens: Vec<u32> = sequences.iter().flat_map(|s| s.iter().copied()).collect();
    if let Some(token) = tokens.iter().find(|&&t| t as usize >= table.rows()) {
        return Err(Error::input(format!("token {token} is outside the vocabulary of {}", table.rows()))
            .help("the tokenizer and the weights do not belong together"));
    }
    let scale = model.ends().embedding_scale;
    let mut x = vec![0.0; tokens.len() * width];
    x.par_chunks_mut(width).zip(&tokens).with_min_len(16).try_for_each(|(row, &token)| {
        table.decode(token as usize..token as usize + 1, row)?;
        if scale != 1.0 {
            row.iter_mut().for_each(|x| *x *= scale);
        }
        Ok::<(), Error>(())
    })?;
    if let Some(positions) = ends.get("position_embd.weight") {
        let mut rows = x.chunks_mut(width);
        let mut row = vec![0.0; width];
        for (sequence, past) in sequences.iter().zip(past) {
            for (i, x) in rows.by_ref().take(sequence.len()).enumerate() {
                let at = model.ends().first_position + past + i;
                if at >= positions.rows() || positions.cols() != width {
                    return Err(Error::input(format!(
                        "the model knows {} positions, not {}",
                        positions.rows().saturating_sub(model.ends().first_position),
                        past + i + 1
                    ))
                    .help("choose a smaller context: --ctx"));
                }
                positions.decode(at..at + 1, &mut row)?;
                add(x, &row);
            }
        }
    }
    if let Some(kinds) = ends.get("token_types.weight").filter(|k| k.rows() > 0 && k.cols() == width) {
        let count = kinds.rows().min(2);
        let mut both = vec![0.0; count * width];
        kinds.decode(0..count, &mut both)?;
        let mut rows = x.chunks_mut(width);
        for (sequence, &second) in sequences.iter().zip(seconds) {
            for (i, x) in rows.by_ref().take(sequence.len()).enumerate() {
                let kind = usize::from(second > 0 && i >= second).min(count - 1);
                add(x, &both[kind * width..(kind + 1) * width]);
            }
        }
    }
    if let Some(norm) = &model.ends().embedding_norm {
        ends.norm_in_place(norm, &mut x)?;
    }
    Ok(x)
}

/// The tensors before the blocks.
const EMBEDDINGS: &[&str] = &[
    "token_embd.weight",
    "position_embd.weight",
    "token_types.weight",
    "token_embd_norm.weight",
    "token_embd_norm.bias",
];

/// The norm behind a stack, where it has one.
fn last_norm(model: &Model, weights: &dyn Weights, stack: &StackPlan, x: &mut [f32]) -> Result<()> {
    let Some(norm) = stack.norm.as_ref().or(model.ends().norm.as_ref()) else { return Ok(()) };
    let names = [norm.weight(), format!("{}.bias", norm.name)];
    let ends = Part::pick(weights, "", &[&names[0], &names[1]])?;
    ends.norm_in_place(norm, x)
}

/// The biases of the first layer, which those without biases of their own share.
fn first_relative_bias(weights: &dyn Weights, stack: &StackPlan) -> Result<Option<Buckets>> {
    relative_bias(&Part::pick(weights, &format!("{}0.", stack.prefix), &[RELATIVE_BIAS])?, stack)
}

/// The biases for distances that a layer has.
fn relative_bias(part: &Part<'_>, stack: &StackPlan) -> Result<Option<Buckets>> {
    let Some(bias) = part.get(RELATIVE_BIAS) else { return Ok(None) };
    let causal = !stack.prefix.starts_with("enc.");
    if bias.rows() < 2 {
        return Err(Error::input(format!("tensor {} has no buckets", bias.name())));
    }
    Ok(Some(Buckets::new(bias.to_f32()?, bias.cols(), !causal)))
}

const RELATIVE_BIAS: &str = "attn_rel_b.weight";

/// The output matrix and what belongs to it.
pub struct Head<'a> {
    output: Matrix<'a>,
    bias: Option<Vec<f32>>,
    observer: Option<&'a dyn Observe>,
    order: Order,
}

impl<'a> Head<'a> {
    /// The output matrix of a precision, or its embeddings where they are tied. `decode`: as a whole, now.
    ///
    /// # Errors
    /// Tensors that are missing or do not fit.
    pub fn load(
        model: &Model,
        weights: &'a dyn Weights,
        decode: bool,
        observer: Option<&'a dyn Observe>,
    ) -> Result<Head<'a>> {
        let find = |name: &str| weights.tensors().iter().position(|t| t.name() == name);
        let tensor = find("output.weight")
            .or_else(|| find("token_embd.weight"))
            .ok_or_else(|| Error::input("tensor output.weight is missing"))?;
        let mut output = weights.matrix(tensor)?;
        let rows = model.vocabulary.saturating_sub(model.ends().first_logit.len());
        if output.rows() != rows || output.cols() != model.width {
            return Err(Error::input(format!(
                "tensor {} is {} × {}, not {} × {}",
                output.name(),
                output.rows(),
                output.cols(),
                rows,
                model.width
            )));
        }
        if decode {
            output = output.into_f32()?;
        }
        let bias = find("output.bias").map(|b| weights.matrix(b)?.to_f32()).transpose()?;
        Ok(Head { output, bias: bias.filter(|b| b.len() == model.vocabulary), observer, order: Order::Fixed })
    }

    /// Adds up in the order that is the quickest, for sequences that grow token by token.
    fn quickest(mut self) -> Head<'a> {
        self.order = Order::Quickest;
        self
    }

    /// Logits `[rows, vocabulary]` of hidden states `[rows, width]`.
    ///
    /// # Errors
    /// Rows that cannot be decoded, or a logit that is no number.
    pub fn logits(&self, model: &Model, hidden: &[f32]) -> Result<Vec<f32>> {
        if let Some(observer) = self.observer {
            observer.input(self.output.name(), None, hidden, model.width);
        }
        let mut logits = product(hidden, &self.output, 0..self.output.rows(), self.order)?;
        let first = model.ends().first_logit.len();
        if first > 0 {
            let rows = logits.chunks(self.output.rows().max(1));
            logits = rows.flat_map(|row| std::iter::repeat_n(&0.0, first).chain(row)).copied().collect();
        }
        let (scale, cap) = (model.ends().logit_scale, model.ends().logit_cap);
        let never = model.ends().never.clone();
        logits.par_chunks_mut(model.vocabulary).try_for_each(|row| {
            if let Some(bias) = &self.bias {
                add(row, bias);
            }
            if scale != 1.0 {
                row.iter_mut().for_each(|x| *x *= scale);
            }
            // Tokens before the first that has a logit are never predicted either.
            row.iter_mut().take(never.end).skip(never.start).for_each(|x| *x = f32::MIN);
            row.iter_mut().take(first).for_each(|x| *x = f32::MIN);
            if cap > 0.0 {
                row.iter_mut().for_each(|x| *x = (*x / cap).tanh() * cap);
            }
            match first_not_finite(row) {
                None => Ok(()),
                Some(_) => Err(Error::input(format!("tensor {} makes a logit that is no number", self.output.name()))),
            }
        })?;
        Ok(logits)
    }
}

impl fmt::Debug for Head<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head").field("output", &self.output).finish()
    }
}

/// Sequences that grow side by side: what the layers know of their past is kept, so that a new token costs one token.
pub struct Session<'a> {
    model: &'a Model,
    weights: &'a dyn Weights,
    stack: &'a StackPlan,
    turns: Vec<Turn>,
    tables: Tables,
    capacity: usize,
    /// Of each run of a layer, what it keeps of each sequence.
    states: Vec<Vec<LayerState>>,
    len: usize,
    /// Whether there is room for all tokens.
    reserved: bool,
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("len", &self.len).field("capacity", &self.capacity).finish()
    }
}

/// Refuses more bytes for what is kept of so many tokens than there are.
fn check_kept(tokens: usize, bytes: u64, memory: u64) -> Result<()> {
    if bytes <= memory {
        return Ok(());
    }
    let [bytes, memory] = [bytes, memory].map(gguf::text::bytes);
    Err(Error::usage(format!("{tokens} tokens need {bytes} for what is kept of them, of {memory} there are"))
        .help("fewer tokens, or a larger --max-memory"))
}

impl<'a> Session<'a> {
    /// One sequence that may grow to `capacity` tokens, whose tables and states take at most `memory` bytes.
    ///
    /// # Errors
    /// A model that is no decoder, tables that are larger.
    pub fn within(model: &'a Model, weights: &'a dyn Weights, capacity: usize, memory: u64) -> Result<Session<'a>> {
        check_kept(capacity, model.table_bytes(capacity), memory)?;
        Session::new(model, weights, 1, capacity)
    }

    /// So many sequences of no tokens that may grow to `capacity` each.
    ///
    /// # Errors
    /// A model that is no decoder.
    pub fn new(model: &'a Model, weights: &'a dyn Weights, sequences: usize, capacity: usize) -> Result<Session<'a>> {
        if model.shape != Shape::Decoder {
            return Err(Error::input(format!("{} is no decoder: it cannot continue a text", model.name())));
        }
        let (_, stack) = stacks(model);
        let turns = model.turns(stack);
        let states = vec![vec![LayerState::default(); sequences]; layer_turns(&turns)];
        Ok(Session {
            model,
            weights,
            stack,
            turns,
            tables: model.tables(capacity),
            capacity,
            states,
            len: 0,
            reserved: false,
        })
    }

    /// Makes room for what is kept of all tokens that may come, once: a vector that grows by itself is copied and takes
    /// more than its size for a while.
    ///
    /// # Errors
    /// More than `memory` bytes.
    pub fn reserve(&mut self, memory: u64) -> Result<()> {
        if self.reserved || self.len == 0 {
            return Ok(());
        }
        let (capacity, len) = (self.capacity, self.len);
        let of_all = |kept: usize| kept.div_ceil(len).saturating_mul(capacity);
        let all: usize = self.states.iter().flatten().map(|s| s.floats(of_all)).fold(0, usize::saturating_add);
        let bytes = (all as u64).saturating_mul(size_of::<f32>() as u64);
        check_kept(capacity, bytes.saturating_add(self.model.table_bytes(capacity)), memory)?;
        for state in self.states.iter_mut().flatten() {
            for kept in state.of_tokens_mut() {
                kept.reserve_exact(of_all(kept.len()).saturating_sub(kept.len()));
            }
        }
        self.reserved = true;
        Ok(())
    }

    /// Appends the same number of tokens to each sequence and gives the logits behind the last one of each.
    ///
    /// # Errors
    /// No tokens, too many or different numbers of them, and as [`Forward::logits`].
    pub fn feed(&mut self, sequences: &[&[u32]]) -> Result<Vec<f32>> {
        let model = self.model;
        let count = sequences.first().map_or(0, |s| s.len());
        let width = model.width;
        if count == 0 || self.len + count > self.capacity || sequences.iter().any(|s| s.len() != count) {
            return Err(Error::usage(format!("{count} more tokens do not fit {}", self.capacity)));
        }
        let embeddings =
            embed(model, self.weights, sequences, &vec![self.len; sequences.len()], &vec![0; sequences.len()])?;
        let spans: Vec<Span> =
            (0..sequences.len()).map(|s| Span { start: s * count, len: count, past: self.len }).collect();
        let tokens = sequences.concat();
        let kept = Kept::default();
        let beside = Beside::new(model, self.weights, sequences, &embeddings)?;
        let mut trunk = Trunk::new(
            model,
            self.weights,
            self.stack,
            copied(&embeddings),
            std::iter::once(0..tokens.len()).collect(),
        )?;
        let mut states = self.states.iter_mut();
        for &turn in &self.turns {
            let Turn::Layer(l) = turn else {
                trunk.turn(turn, model, self.weights, self.stack)?;
                continue;
            };
            let part = Part::load(self.weights, &format!("{}{l}.", self.stack.prefix), None)?.quickest();
            let given = beside.as_ref().map(|b| b.of_layer(l, 0..tokens.len()));
            let site = Site {
                model,
                layer: l,
                ids: &tokens,
                spans: &spans,
                tables: &self.tables,
                buckets: None,
                encoded: None,
                kept: &kept,
                chosen: None,
                blocks: blocks_begun(&self.stack.layers[..l]),
                layer_input: None,
                stream: None,
                embeddings: Some(&embeddings),
                per_layer: given.as_deref(),
            };
            let x = trunk.group(0);
            run(&self.stack.layers[l], &part, &site, x, states.next().map(Vec::as_mut_slice))?;
            check(x, &part, self.stack.prefix, l)?;
        }
        self.len += count;
        let x = trunk.end(model, self.weights, self.stack)?;
        let mut last: Vec<f32> = x.chunks(count * width).flat_map(|x| &x[(count - 1) * width..]).copied().collect();
        last_norm(model, self.weights, self.stack, &mut last)?;
        Head::load(model, self.weights, false, None)?.quickest().logits(model, &last)
    }
}
