//! The forward pass, layer by layer over all sequences.
//!
//! A layer is loaded once, every sequence of the run is pushed through it, then it is dropped: memory is one layer and
//! the hidden states, whatever the model's size. Several precisions of a model ([`Weights`]) go through in lockstep, so
//! that their logits for the same positions arrive together; logits are handed to a visitor block by block and never
//! kept. Within a layer, sequences go in groups of whole sequences, to bound what a block needs for itself.

use std::fmt;
use std::ops::Range;

use gguf::{Error, Result};
use rayon::prelude::*;

use crate::layers::attention::{Buckets, Memory, Site, Span, attention, cross_attention};
use crate::layers::ffn::feed_forward;
use crate::layers::moe::mixture;
use crate::layers::ssm::state_space;
use crate::layers::{Observe, PIECE, Part, add, add_scaled, copied, numeric};
use crate::model::{Mixer, Model, Norm, Residual, Row, Shape, Tables};
use crate::weights::{Matrix, Weights};

/// One sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// The tokens whose hidden states and logits are wanted.
    pub tokens: Vec<u32>,
    /// What the encoder of an encoder-decoder reads; empty for other models.
    pub encoder: Vec<u32>,
}

impl From<Vec<u32>> for Input {
    fn from(tokens: Vec<u32>) -> Input {
        Input { tokens, encoder: Vec::new() }
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

/// One pass of sequences through one or several precisions of a model.
pub struct Forward<'a> {
    model: &'a Model,
    streams: Vec<&'a dyn Weights>,
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

/// One stack of blocks.
#[derive(Clone, Copy)]
struct Stack {
    prefix: &'static str,
    layers: usize,
    causal: bool,
    cross: bool,
}

impl Stack {
    const ENCODER: &str = "enc.blk.";

    fn end(self) -> &'static str {
        match self.prefix {
            Stack::ENCODER => "enc.",
            "dec.blk." => "dec.",
            _ => "",
        }
    }
}

/// The stack that reads the tokens, and the one whose output it attends to.
fn stacks(model: &Model) -> (Option<Stack>, Stack) {
    match model.row.shape {
        Shape::Decoder => (None, Stack { prefix: "blk.", layers: model.layers, causal: true, cross: false }),
        Shape::Encoder => (None, Stack { prefix: "blk.", layers: model.layers, causal: false, cross: false }),
        Shape::EncoderDecoder => (
            Some(Stack { prefix: Stack::ENCODER, layers: model.layers, causal: false, cross: false }),
            Stack { prefix: "dec.blk.", layers: model.decoder_layers, causal: true, cross: true },
        ),
    }
}

impl<'a> Forward<'a> {
    /// A pass through one precision.
    pub fn new(model: &'a Model, weights: &'a dyn Weights) -> Forward<'a> {
        Forward::lockstep(model, vec![weights])
    }

    /// A pass through several precisions of the same model, layer by layer.
    pub fn lockstep(model: &'a Model, streams: Vec<&'a dyn Weights>) -> Forward<'a> {
        Forward { model, streams, limits: Limits::default(), observer: None, progress: None }
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
        if self.model.row.shape == Shape::Encoder {
            return Err(Error::input(format!("{} is an encoder: it gives no logits", self.model.row.name))
                .help("a decoder is needed to score or to continue text"));
        }
        let hidden = self.hidden(inputs)?;
        let heads = self
            .streams
            .iter()
            .map(|&weights| Head::load(self.model, weights, self.limits.decode_head, self.observer))
            .collect::<Result<Vec<_>>>()?;
        let width = self.model.width;
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
                    .map(|(head, hidden)| head.logits(self.model, &hidden[rows.clone()]))
                    .collect::<Result<Vec<_>>>()?;
                visit(&Logits { sequence, positions: block, vocabulary: self.model.vocabulary, streams: &streams })?;
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
        let (encoder, stack) = stacks(self.model);
        let tokens: Vec<&[u32]> = inputs.iter().map(|i| i.tokens.as_slice()).collect();
        let read: Vec<&[u32]> = inputs.iter().map(|i| i.encoder.as_slice()).collect();
        let count = |stack: Stack, tokens: &[&[u32]]| {
            (stack.layers * tokens.iter().map(|t| t.len()).sum::<usize>() * self.streams.len()) as u64
        };
        let total = count(stack, &tokens) + encoder.map_or(0, |s| count(s, &read));
        let mut done = 0;
        let encoded = match encoder {
            None => None,
            Some(_) if read.iter().any(|r| r.is_empty()) => {
                return Err(Error::input(format!("{} needs a text for its encoder", self.model.row.name)));
            }
            Some(encoder) => Some(self.stack(encoder, &read, None, (&mut done, total))?),
        };
        self.stack(stack, &tokens, encoded.as_deref().map(|e| (e, read.as_slice())), (&mut done, total))
    }

    /// Pushes all sequences through one stack.
    fn stack(
        &self,
        stack: Stack,
        sequences: &[&[u32]],
        encoded: Option<Encoded<'_>>,
        (done, total): (&mut u64, u64),
    ) -> Result<Vec<Vec<f32>>> {
        let model = self.model;
        let longest = sequences.iter().map(|s| s.len()).max().unwrap_or(0);
        let tables = model.tables(longest);
        let mut hidden = self
            .streams
            .iter()
            .map(|&weights| embed(model, weights, sequences, &vec![0; sequences.len()]))
            .collect::<Result<Vec<_>>>()?;
        let buckets = self.streams.iter().map(|&w| relative_bias(model, w, stack)).collect::<Result<Vec<_>>>()?;
        let groups = groups(sequences, self.limits.group_tokens);
        for layer in 0..stack.layers {
            for (s, (&weights, hidden)) in self.streams.iter().zip(&mut hidden).enumerate() {
                let part = Part::load(weights, &format!("{}{layer}.", stack.prefix), self.observer)?;
                for group in &groups {
                    let site = Site {
                        model,
                        layer,
                        spans: &group.spans,
                        table: tables.layer(model, layer),
                        causal: stack.causal,
                        buckets: buckets[s].as_ref(),
                    };
                    let x = &mut hidden[group.rows.start * model.width..group.rows.end * model.width];
                    let cross = encoded.map(|(states, read)| rows_of(&states[s], read, model.width));
                    let cross = cross.as_ref().map(|c| &c[group.sequences.clone()]);
                    block(&part, &site, x, None, if stack.cross { cross } else { None })?;
                    check(x, stack, layer)?;
                    *done += group.rows.len() as u64;
                    if let Some(progress) = self.progress {
                        progress(*done, total);
                    }
                }
                part.release(weights);
            }
        }
        for (&weights, hidden) in self.streams.iter().zip(&mut hidden) {
            last_norm(model, weights, stack, hidden)?;
        }
        Ok(hidden)
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

/// Whole sequences in groups of at least one and at most so many tokens.
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

/// One block on a group's hidden states, in place.
fn block(
    part: &Part<'_>,
    site: &Site<'_>,
    x: &mut [f32],
    mut memory: Option<&mut [Memory]>,
    encoded: Option<&[&[f32]]>,
) -> Result<()> {
    let model = site.model;
    let Row { residual, ffn_norm, .. } = *model.row;
    let scale = model.residual_scale;
    let before = input_norm(part, model, "attn_norm", x)?;
    let second = if part.has("attn_norm_2.weight") { part.norm(model, "attn_norm_2", x)? } else { None };
    let input = second.as_ref().unwrap_or(&before);
    let mut mixed = match model.state_space {
        Some(sizes) => state_space(part, site, sizes, input, memory.as_deref_mut())?,
        None => attention(part, site, input, memory)?,
    };
    if ffn_norm != "post_attention_norm" && part.has("post_attention_norm.weight") {
        part.norm_in_place(model, "post_attention_norm", &mut mixed, model.width)?;
    }
    if model.row.mixer == Mixer::StateSpace {
        add(x, &mixed);
        return Ok(());
    }
    let own_norm = part.has(&format!("{ffn_norm}.weight"));
    if model.parallel.unwrap_or(!own_norm) {
        let input = if own_norm { part.norm(model, ffn_norm, x)?.unwrap_or(before) } else { before };
        let forward = forward_network(part, model, &input)?;
        add_scaled(x, &mixed, scale);
        add_scaled(x, &forward, scale);
        return Ok(());
    }
    drop(before);
    add_scaled(x, &mixed, scale);
    drop(mixed);
    if residual == Residual::Normalized {
        normalize(part, model, "attn_output_norm", x)?;
        let forward = forward_network(part, model, x)?;
        add(x, &forward);
        return normalize(part, model, "layer_output_norm", x);
    }
    if let Some(encoded) = encoded {
        let mut query = copied(x);
        normalize(part, model, "cross_attn_norm", &mut query)?;
        add(x, &cross_attention(part, site, &query, encoded)?);
    }
    let input = input_norm(part, model, ffn_norm, x)?;
    let mut forward = forward_network(part, model, &input)?;
    if part.has("post_ffw_norm.weight") {
        part.norm_in_place(model, "post_ffw_norm", &mut forward, model.width)?;
    }
    add_scaled(x, &forward, scale);
    Ok(())
}

fn forward_network(part: &Part<'_>, model: &Model, x: &[f32]) -> Result<Vec<f32>> {
    match &model.experts {
        Some(experts) if part.has("ffn_gate_inp.weight") => mixture(part, model, experts, x),
        _ => feed_forward(part, model, "", x),
    }
}

/// What a branch reads: the hidden states through its norm, if the architecture has one there.
fn input_norm(part: &Part<'_>, model: &Model, name: &str, x: &[f32]) -> Result<Vec<f32>> {
    match part.norm(model, name, x)? {
        Some(x) => Ok(x),
        None if model.row.input_norms => Err(part.missing(&format!("{name}.weight"))),
        None => Ok(copied(x)),
    }
}

/// A norm that must be there, in place.
fn normalize(part: &Part<'_>, model: &Model, name: &str, x: &mut [f32]) -> Result<()> {
    part.need(&format!("{name}.weight"))?;
    part.norm_in_place(model, name, x, model.width).map(|_| ())
}

/// Names the first layer that made something that is no number.
fn check(x: &[f32], stack: Stack, layer: usize) -> Result<()> {
    let broken = x.par_chunks(PIECE).find_first(|x| !numeric::all_finite(x));
    match broken.and_then(|x| x.iter().find(|x| !x.is_finite())) {
        None => Ok(()),
        Some(x) => Err(Error::input(format!("block {}{layer} is the first that makes a value of {x}", stack.prefix))
            .help("a weight of this block is broken or out of range: `gguf check --data FILE` and `evaluate tensors` find it")),
    }
}

/// Embeddings of all tokens, each sequence beginning at its position.
fn embed(model: &Model, weights: &dyn Weights, sequences: &[&[u32]], past: &[usize]) -> Result<Vec<f32>> {
    let ends = Part::pick(weights, "", EMBEDDINGS)?;
    let table = ends.need("token_embd.weight")?;
    let width = model.width;
    let tokens: Vec<u32> = sequences.iter().flat_map(|s| s.iter().copied()).collect();
    if let Some(token) = tokens.iter().find(|&&t| t as usize >= table.rows()) {
        return Err(Error::input(format!("token {token} is outside the vocabulary of {}", table.rows()))
            .help("the tokenizer and the weights do not belong together"));
    }
    let mut x = vec![0.0; tokens.len() * width];
    x.par_chunks_mut(width).zip(&tokens).with_min_len(16).try_for_each(|(row, &token)| {
        table.decode(token as usize..token as usize + 1, row)?;
        if model.embedding_scale != 1.0 {
            row.iter_mut().for_each(|x| *x *= model.embedding_scale);
        }
        Ok::<(), Error>(())
    })?;
    if let Some(positions) = ends.get("position_embd.weight") {
        let mut rows = x.chunks_mut(width);
        let mut row = vec![0.0; width];
        for (sequence, past) in sequences.iter().zip(past) {
            for (i, x) in rows.by_ref().take(sequence.len()).enumerate() {
                let at = past + i;
                if at >= positions.rows() || positions.cols() != width {
                    return Err(Error::input(format!(
                        "the model knows {} positions, not {}",
                        positions.rows(),
                        at + 1
                    ))
                    .help("choose a smaller context: --ctx"));
                }
                positions.decode(at..at + 1, &mut row)?;
                add(x, &row);
            }
        }
    }
    if let Some(kinds) = ends.get("token_types.weight").filter(|k| k.rows() > 0 && k.cols() == width) {
        let mut first = vec![0.0; width];
        kinds.decode(0..1, &mut first)?;
        x.par_chunks_mut(width).for_each(|x| add(x, &first));
    }
    if ends.has("token_embd_norm.weight") {
        ends.norm_in_place(model, "token_embd_norm", &mut x, width)?;
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
fn last_norm(model: &Model, weights: &dyn Weights, stack: Stack, x: &mut [f32]) -> Result<()> {
    let ends = Part::pick(weights, stack.end(), &["output_norm.weight", "output_norm.bias"])?;
    let optional = model.row.residual == Residual::Normalized || model.row.norm == Norm::LayerWithoutWeights;
    if !optional {
        ends.need("output_norm.weight")?;
    }
    if model.row.residual != Residual::Normalized {
        ends.norm_in_place(model, "output_norm", x, model.width)?;
    }
    Ok(())
}

/// The biases that all layers of a stack share; the first holds them.
fn relative_bias(model: &Model, weights: &dyn Weights, stack: Stack) -> Result<Option<Buckets>> {
    let part = Part::pick(weights, &format!("{}0.", stack.prefix), &["attn_rel_b.weight"])?;
    let Some(bias) = part.get("attn_rel_b.weight") else { return Ok(None) };
    if bias.cols() != model.heads || bias.rows() < 2 {
        return Err(Error::input(format!("tensor {} does not fit {} heads", bias.name(), model.heads)));
    }
    Ok(Some(Buckets::new(bias.to_f32()?, model.heads, !stack.causal)))
}

/// The output matrix and what belongs to it.
pub struct Head<'a> {
    output: Matrix<'a>,
    bias: Option<Vec<f32>>,
    observer: Option<&'a dyn Observe>,
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
        if output.rows() != model.vocabulary || output.cols() != model.width {
            return Err(Error::input(format!(
                "tensor {} is {} × {}, not {} × {}",
                output.name(),
                output.rows(),
                output.cols(),
                model.vocabulary,
                model.width
            )));
        }
        if decode {
            output = output.into_f32()?;
        }
        let bias = find("output.bias").map(|b| weights.matrix(b)?.to_f32()).transpose()?;
        Ok(Head { output, bias: bias.filter(|b| b.len() == model.vocabulary), observer })
    }

    /// Logits `[rows, vocabulary]` of hidden states `[rows, width]`.
    ///
    /// # Errors
    /// Rows that cannot be decoded, or a logit that is no number.
    pub fn logits(&self, model: &Model, hidden: &[f32]) -> Result<Vec<f32>> {
        if let Some(observer) = self.observer {
            observer.input(self.output.name(), None, hidden, model.width);
        }
        let mut logits = crate::matmul::product(hidden, &self.output, 0..model.vocabulary)?;
        let scale = model.logit_scale;
        logits.par_chunks_mut(model.vocabulary).try_for_each(|row| {
            if let Some(bias) = &self.bias {
                add(row, bias);
            }
            if scale != 1.0 {
                row.iter_mut().for_each(|x| *x *= scale);
            }
            if let Some(cap) = model.logit_cap {
                row.iter_mut().for_each(|x| *x = (*x / cap).tanh() * cap);
            }
            match numeric::all_finite(row) {
                true => Ok(()),
                false => Err(Error::input(format!("tensor {} makes a logit that is no number", self.output.name()))),
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

/// One sequence that grows: keys and values of its past are kept, so that a new token costs one token.
pub struct Session<'a> {
    model: &'a Model,
    weights: &'a dyn Weights,
    stack: Stack,
    tables: Tables,
    capacity: usize,
    memory: Vec<Memory>,
    len: usize,
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("len", &self.len).field("capacity", &self.capacity).finish()
    }
}

impl<'a> Session<'a> {
    /// A sequence of no tokens that may grow to `capacity`.
    ///
    /// # Errors
    /// A model that is no decoder.
    pub fn new(model: &'a Model, weights: &'a dyn Weights, capacity: usize) -> Result<Session<'a>> {
        if model.row.shape != Shape::Decoder {
            return Err(Error::input(format!("{} is no decoder: it cannot continue a text", model.row.name)));
        }
        let (_, stack) = stacks(model);
        Ok(Session {
            model,
            weights,
            stack,
            tables: model.tables(capacity),
            capacity,
            memory: vec![Memory::default(); stack.layers],
            len: 0,
        })
    }

    /// Appends tokens and gives the logits behind the last one.
    ///
    /// # Errors
    /// No tokens or too many, and as [`Forward::logits`].
    pub fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let model = self.model;
        if tokens.is_empty() || self.len + tokens.len() > self.capacity {
            return Err(Error::usage(format!("{} more tokens do not fit {}", tokens.len(), self.capacity)));
        }
        let mut x = embed(model, self.weights, &[tokens], &[self.len])?;
        let spans = [Span { start: 0, len: tokens.len(), past: self.len }];
        for (layer, memory) in self.memory.iter_mut().enumerate() {
            let part = Part::load(self.weights, &format!("{}{layer}.", self.stack.prefix), None)?;
            let table = self.tables.layer(model, layer);
            let site = Site { model, layer, spans: &spans, table, causal: true, buckets: None };
            block(&part, &site, &mut x, Some(std::slice::from_mut(memory)), None)?;
            check(&x, self.stack, layer)?;
        }
        self.len += tokens.len();
        let mut last = x.split_off((tokens.len() - 1) * model.width);
        last_norm(model, self.weights, self.stack, &mut last)?;
        Head::load(model, self.weights, false, None)?.logits(model, &last)
    }
}
