//! Attention over heads: multi-head, grouped-query, multi-query, block by block with an online softmax.
//!
//! A head's scores are never held as a whole: a block of queries meets the keys a block at a time, and its running
//! maximum, sum and weighted values are corrected when a greater score appears (FlashAttention). Memory is one block
//! of scores a thread, whatever the context.

use convert::packed::Float;
use gguf::arch::{Attention, Gate, HeadNorm, HeadNorms, Need, Projections, Temperature};
use gguf::{Error, Result};
use rayon::prelude::*;

use super::rope::Table;
use super::sight::Sight;
use super::{LayerState, Part, Site, Span, ffn};
use crate::device::{self, Biases, Values};
use crate::matmul::{Accumulation, View, dense};
use crate::model::RopeKey;
use crate::numeric;
use crate::weights::Arithmetic;

const QUERIES: usize = 64;
const KEYS: usize = 128;

/// Learned biases for buckets of distances (T5).
#[derive(Clone, Debug)]
pub struct Buckets {
    bias: Vec<f32>,
    heads: usize,
    both_ways: bool,
}

/// Distances beyond this share a bucket.
const FARTHEST: f64 = 128.0;

impl Buckets {
    /// Biases `[buckets, heads]`, row-major; `both_ways` where tokens see their future.
    pub fn new(bias: Vec<f32>, heads: usize, both_ways: bool) -> Buckets {
        Buckets { bias, heads, both_ways }
    }

    /// The biases of all distances within so many tokens.
    fn by_distance(&self, heads: usize, tokens: usize) -> Biases {
        let reach = tokens.saturating_sub(1).max(1);
        let distances = -(reach as i64)..=reach as i64;
        let values = (0..heads).flat_map(|head| distances.clone().map(move |distance| self.bias(head, distance)));
        Biases { reach, values: values.collect() }
    }

    /// The bias of a head for a key this far after the query: half the buckets are exact, the rest logarithmic.
    fn bias(&self, head: usize, distance: i64) -> f32 {
        let all = (self.bias.len() / self.heads) as i64;
        let half = if self.both_ways { all / 2 } else { all };
        let first = if self.both_ways && distance > 0 { half } else { 0 };
        let far = if self.both_ways { distance.abs() } else { (-distance).max(0) };
        let exact = half / 2;
        let bucket = if far < exact || exact == 0 {
            far
        } else {
            let log = (far as f64 / exact as f64).ln() / (FARTHEST / exact as f64).ln();
            (exact + (log * (half - exact) as f64) as i64).min(half - 1)
        };
        self.bias.get((first + bucket) as usize * self.heads + head).copied().unwrap_or(0.0)
    }
}

/// What programs that run a model keep keys and values in.
const KEPT: Float = Float::F16;

/// Self-attention of a layer: from normalized activations to what the output matrix gives.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn attention(
    a: &Attention,
    part: &Part<'_>,
    site: &Site<'_>,
    x: &Values,
    state: Option<&mut [LayerState]>,
) -> Result<Values> {
    let tokens = site.tokens();
    let (heads, kv_heads) = (a.heads.len(), a.kv_heads.len());
    let (key_len, value_len) = (a.key_len.len(), a.value_len.len());
    let Projected { mut q, gate, mut k, mut v } = projections(a, part, x, tokens)?;
    head_norms(a, part, "attn_q_norm", &mut q, heads, false)?;
    head_norms(a, part, "attn_k_norm", &mut k, kv_heads, false)?;
    if let Some(kind) = a.value_norm {
        v.normalize(kind, value_len, None, None)?;
    }
    if let Some(table) = site.tables.get(RopeKey::of(a)) {
        turn(table, site.spans, &mut q, heads, key_len)?;
        turn(table, site.spans, &mut k, kv_heads, key_len)?;
    }
    head_norms(a, part, "attn_q_norm", &mut q, heads, true)?;
    head_norms(a, part, "attn_k_norm", &mut k, kv_heads, true)?;
    if let Some(temperature) = a.temperature {
        q.scale_groups(heads * key_len, &warmth(temperature, site.spans))?;
    }
    let sinks = sinks(a.sinks, heads, part)?;
    let spec = Heads {
        heads,
        kv_heads,
        key_len,
        value_len,
        scale: a.scale,
        cap: Some(a.softcap).filter(|c| *c > 0.0),
        sight: Sight::new(a.window, a.causal),
        slopes: (a.alibi > 0.0).then(|| slopes(heads, a.alibi)),
        sinks,
        buckets: site.buckets,
    };
    let steps = (kv_heads * key_len, kv_heads * value_len);
    if part.arithmetic() == Arithmetic::Deployed {
        k.round_to(KEPT)?;
        v.round_to(KEPT)?;
    }
    let mut out = match site.model.kv_from.get(&site.layer).filter(|_| !a.own_kv) {
        Some(source) => {
            let kept = site.kept.kv.borrow();
            let [keys, values] = kept
                .get(source)
                .ok_or_else(|| Error::input(format!("layer {source} keeps no keys for layer {}", site.layer)))?;
            match on_device(&spec, site, &q, keys, values, state.is_none())? {
                Some(out) => out,
                None => over_kept(&spec, site, &q, keys, values, steps).into(),
            }
        }
        None => {
            let kept = site.model.kv_from.values().any(|&l| l == site.layer).then_some(site.layer);
            match on_device(&spec, site, &q, &k, &v, state.is_none())? {
                Some(out) => {
                    if let Some(layer) = kept {
                        site.kept.kv.borrow_mut().insert(layer, [k, v]);
                    }
                    out
                }
                None => with_state(&spec, site, &q, k.into_vec(), v.into_vec(), state, steps, kept).into(),
            }
        }
    };
    if let Some(norm) = &a.sub_norm {
        part.normalize(norm, &mut out)?;
    }
    gate_values(a.gate, (heads, value_len), part, x, &gate, &mut out)?;
    part.apply(a.out_name, &out)
}

/// The same by the kernels of a device, where queries, keys and values are on one.
fn on_device(
    spec: &Heads<'_>,
    site: &Site<'_>,
    q: &Values,
    k: &Values,
    v: &Values,
    whole: bool,
) -> Result<Option<Values>> {
    let (Some((device, queries)), Some((_, keys))) = (q.resident(), k.resident()) else { return Ok(None) };
    // Empty values are the keys.
    let values = if v.is_empty() { keys } else { v.resident().map_or(keys, |(_, values)| values) };
    if !whole || site.chosen.is_some() || (!v.is_empty() && v.resident().is_none()) {
        return Ok(None);
    }
    let longest = site.spans.iter().map(|s| s.len).max().unwrap_or(0);
    let a = device::Attention {
        heads: spec.heads,
        kv_heads: spec.kv_heads,
        key_len: spec.key_len,
        value_len: spec.value_len,
        scale: spec.scale,
        cap: spec.cap,
        sight: spec.sight,
        slopes: spec.slopes.as_deref(),
        sinks: spec.sinks.as_deref(),
        biases: spec.buckets.map(|buckets| buckets.by_distance(spec.heads, longest)),
    };
    let jobs: Vec<_> = site.spans.iter().map(|s| (s.start..s.start + s.len, s.start..s.start + s.len, 0)).collect();
    let out = device.kernels().attend(&a, queries, (keys, values), &jobs)?;
    Ok(Some(Values::on(device, out, q.len() / spec.key_len * spec.value_len)))
}

/// [`rotate`] wherever the values are, from a head's first value on.
fn turn(table: &Table, spans: &[Span], x: &mut Values, heads: usize, len: usize) -> Result<()> {
    let tokens = x.len() / (heads * len).max(1);
    match x.changing() {
        Some((device, buffer)) => {
            let mut positions = vec![0; tokens];
            for span in spans {
                for (i, p) in positions[span.start..span.start + span.len].iter_mut().enumerate() {
                    *p = (span.past + i) as u32;
                }
            }
            table.rotate_on(device, &positions, buffer, heads, len)
        }
        None => {
            rotate(table, spans, x.host(), heads, len, 0);
            Ok(())
        }
    }
}

/// [`apply_gate`] wherever the values are.
fn gate_values(
    gate: Gate,
    (heads, value_len): (usize, usize),
    part: &Part<'_>,
    x: &Values,
    doubled: &Values,
    out: &mut Values,
) -> Result<()> {
    let tokens = out.len() / (heads * value_len).max(1);
    match gate {
        Gate::None => Ok(()),
        Gate::DoubledQuery => out.gate_groups(1, doubled),
        Gate::Element => out.gate_groups(1, &part.apply_to("attn_gate", x, tokens, heads * value_len)?),
        Gate::Head => out.gate_groups(value_len, &part.apply_to("attn_gate", x, tokens, heads)?),
        Gate::SoftplusElement | Gate::SoftplusHead => {
            apply_gate(gate, (heads, value_len), part, x, doubled, out.host())
        }
    }
}

/// Rounds keys and values to what a program that runs the model keeps them in.
pub(super) fn keep(arithmetic: Arithmetic, kept: [&mut [f32]; 2]) {
    if arithmetic == Arithmetic::Deployed {
        kept.into_iter().for_each(|x| numeric::round_to(KEPT, x));
    }
}

/// The learned scores of heads, where the file has them.
pub(super) fn sinks(need: Option<Need>, heads: usize, part: &Part<'_>) -> Result<Option<Vec<f32>>> {
    match need.filter(|_| part.has("attn_sinks.weight")) {
        Some(_) => part.values_of("attn_sinks.weight", heads).map(Some),
        None => Ok(None),
    }
}

/// Multiplies attention's output with its gate; `doubled` is the half of doubled queries.
pub(super) fn apply_gate(
    gate: Gate,
    (heads, value_len): (usize, usize),
    part: &Part<'_>,
    x: &[f32],
    doubled: &[f32],
    out: &mut [f32],
) -> Result<()> {
    let tokens = out.len() / (heads * value_len).max(1);
    let read = |rows: usize| part.linear_to("attn_gate", x, tokens, rows);
    let function = match gate {
        Gate::SoftplusHead | Gate::SoftplusElement => numeric::softplus,
        _ => ffn::sigmoid,
    };
    match gate {
        Gate::None => {}
        Gate::DoubledQuery => out.iter_mut().zip(doubled).for_each(|(o, &g)| *o *= function(g)),
        Gate::Element | Gate::SoftplusElement => {
            out.iter_mut().zip(read(heads * value_len)?).for_each(|(o, g)| *o *= function(g));
        }
        Gate::Head | Gate::SoftplusHead => {
            for (head, g) in out.chunks_mut(value_len).zip(read(heads)?) {
                numeric::scale(head, function(g));
            }
        }
    }
    Ok(())
}

/// Attention of a decoder's tokens to the output of the encoder.
///
/// # Errors
/// Tensors that are missing or do not fit, or no encoder.
pub fn cross_attention(a: &Attention, part: &Part<'_>, site: &Site<'_>, x: &[f32]) -> Result<Vec<f32>> {
    let encoded = site.encoded.ok_or_else(|| Error::usage("cross attention needs what an encoder made"))?;
    let tokens = site.tokens();
    let input = a.input.len();
    let (heads, kv_heads) = (a.heads.len(), a.kv_heads.len());
    let (key_len, value_len) = (a.key_len.len(), a.value_len.len());
    let q = part.linear_to("cross_attn_q", x, tokens, heads * key_len)?;
    let spec = Heads {
        heads,
        kv_heads,
        key_len,
        value_len,
        scale: a.scale,
        cap: None,
        sight: Sight::all(),
        slopes: None,
        sinks: None,
        buckets: None,
    };
    let width = heads * value_len;
    let (key_step, value_step) = (kv_heads * key_len, kv_heads * value_len);
    let mut out = vec![0.0; tokens * width];
    for (span, encoded) in site.spans.iter().zip(encoded) {
        let read = encoded.len() / input;
        let mut k = part.linear_to("cross_attn_k", encoded, read, key_step)?;
        let mut v = part.linear_to("cross_attn_v", encoded, read, value_step)?;
        keep(part.arithmetic(), [&mut k, &mut v]);
        let one = Past { keys: &k, values: &v, key_step, value_step, chosen: None };
        let q = &q[span.start * heads * key_len..(span.start + span.len) * heads * key_len];
        attend(&spec, &[(q, one, 0)], &mut out[span.start * width..(span.start + span.len) * width]);
    }
    part.linear(&format!("cross_{}", a.out_name), &out)
}

/// What the projections give.
struct Projected {
    q: Values,
    /// The half of doubled queries that gates the output; empty elsewhere.
    gate: Values,
    k: Values,
    v: Values,
}

fn projections(a: &Attention, part: &Part<'_>, x: &Values, tokens: usize) -> Result<Projected> {
    let (heads, key_len) = (a.heads.len(), a.key_len.len());
    let doubled = if a.gate == Gate::DoubledQuery { 2 } else { 1 };
    let query = heads * key_len * doubled;
    let (key, value) = (a.kv_heads.len() * key_len, a.kv_heads.len() * a.value_len.len());
    let (mut q, mut k, mut v) = if part.has("attn_qkv.weight") {
        let all = part.apply_to("attn_qkv", x, tokens, query + key + value)?;
        let mut three = if a.projections == Projections::ByHead && a.heads == a.kv_heads {
            // Query, key and value of a head stand together.
            let (key, value) = (key_len, a.value_len.len());
            [(0, key), (key, key), (2 * key, value)].map(|(from, len)| all.columns(2 * key + value, from, len))
        } else {
            let columns = |from: usize, len: usize| all.columns(query + key + value, from, len);
            [columns(0, query), columns(query, key), columns(query + key, value)]
        };
        for (name, y) in ["attn_q", "attn_k", "attn_v"].iter().zip(&mut three) {
            // A fused weight may go with separate biases.
            if let (Ok(y), Some(bias)) = (y, part.values(&format!("{name}.bias"))?.filter(|b| !b.is_empty())) {
                y.add_rows(&bias)?;
            }
        }
        let [q, k, v] = three;
        (q?, k?, v?)
    } else {
        let q = part.apply_to("attn_q", x, tokens, query)?;
        if a.own_kv {
            let k = part.apply_to("attn_k", x, tokens, key)?;
            let v = if a.value_optional && !part.has("attn_v.weight") {
                k.copied()?
            } else {
                part.apply_to("attn_v", x, tokens, value)?
            };
            (q, k, v)
        } else {
            (q, Vec::new().into(), Vec::new().into())
        }
    };
    if a.clamp > 0.0 {
        for x in [&mut q, &mut k, &mut v] {
            x.clamp(a.clamp)?;
        }
    }
    let gate = if doubled == 2 {
        let gate = q.columns(2 * key_len, key_len, key_len)?;
        q = q.columns(2 * key_len, 0, key_len)?;
        gate
    } else {
        Vec::new().into()
    };
    Ok(Projected { q, gate, k, v })
}

/// Norms of queries or keys: over all heads together, or each head with shared weights, weights of its own or none.
fn head_norms(
    a: &Attention,
    part: &Part<'_>,
    name: &str,
    x: &mut Values,
    heads: usize,
    after_rotation: bool,
) -> Result<()> {
    let Some(HeadNorms { kind, query, .. }) = a.norms.filter(|n| n.after_rotation == after_rotation) else {
        return Ok(());
    };
    let key_len = a.key_len.len();
    if query == HeadNorm::Plain {
        return x.normalize(kind, key_len, None, None);
    }
    if query == HeadNorm::QueryGain {
        x.normalize(kind, key_len, None, None)?;
        if name == "attn_q_norm" {
            x.scale_groups(key_len, &part.values_of("attn_q_norm.weight", heads)?)?;
        }
        return Ok(());
    }
    if !part.has(&format!("{name}.weight")) {
        return Ok(());
    }
    let (len, weights) = match query {
        HeadNorm::Whole => (heads * key_len, heads * key_len),
        HeadNorm::PerHead => (key_len, heads * key_len),
        _ => (key_len, key_len),
    };
    let weight = part.values_of(&format!("{name}.weight"), weights)?;
    let bias = part.values(&format!("{name}.bias"))?.filter(|b| b.len() == weights);
    x.normalize(kind, len, Some(&weight), bias.as_deref())
}

/// What the queries of each token are multiplied with, as its position asks for.
fn warmth(temperature: Temperature, spans: &[Span]) -> Vec<f32> {
    let factor = |position: usize| {
        let steps = (position as f32 + temperature.offset) / temperature.floor.get().max(1) as f32;
        1.0 + temperature.scale * steps.floor().ln_1p()
    };
    spans.iter().flat_map(|span| (span.past..span.past + span.len).map(factor)).collect()
}

/// Multiplies the queries of a token with what its position asks for.
pub(super) fn warm(temperature: Temperature, spans: &[Span], q: &mut [f32], width: usize) {
    for (row, factor) in q.chunks_mut(width).zip(warmth(temperature, spans)) {
        numeric::scale(row, factor);
    }
}

/// Rotates heads of `len` values from the value `from` on.
pub(super) fn rotate(table: &Table, spans: &[Span], x: &mut [f32], heads: usize, len: usize, from: usize) {
    if x.is_empty() {
        return;
    }
    let mut positions = vec![0; x.len() / (heads * len)];
    for span in spans {
        for (i, p) in positions[span.start..span.start + span.len].iter_mut().enumerate() {
            *p = span.past + i;
        }
    }
    x.par_chunks_mut(heads * len).zip(&positions).for_each(|(token, &position)| {
        for head in token.chunks_mut(len) {
            table.rotate(&mut head[from..], position);
        }
    });
}

/// Slopes of ALiBi for each head (Press et al., for any number of heads).
fn slopes(heads: usize, exponent: f32) -> Vec<f32> {
    let whole = 1_usize << heads.ilog2();
    let slope = |h: usize| {
        let (base, power) = if h < whole { (exponent, h + 1) } else { (exponent / 2.0, 2 * (h - whole) + 1) };
        f64::from(-base / whole as f32 * power as f32).exp2() as f32
    };
    (0..heads).map(slope).collect()
}

/// Attends over what the tokens bring and, where there is a state, what came before. Empty values are the keys. Keys and
/// values are kept for later layers under the number `kept`.
#[allow(clippy::too_many_arguments)]
pub(super) fn with_state(
    heads: &Heads<'_>,
    site: &Site<'_>,
    q: &[f32],
    k: Vec<f32>,
    v: Vec<f32>,
    state: Option<&mut [LayerState]>,
    (key_step, value_step): (usize, usize),
    kept: Option<usize>,
) -> Vec<f32> {
    let wide = heads.heads * heads.key_len;
    let mut out = vec![0.0; q.len() / wide * heads.heads * heads.value_len];
    let state = state.map(|state| {
        for (span, state) in site.spans.iter().zip(state.iter_mut()) {
            state.keys.extend_from_slice(rows(&k, span, key_step));
            state.values.extend_from_slice(rows(&v, span, value_step));
        }
        &*state
    });
    let mut jobs = Vec::new();
    for (i, span) in site.spans.iter().enumerate() {
        let (keys, values): (&[f32], &[f32]) = match state {
            Some(state) => (&state[i].keys, &state[i].values),
            None => (rows(&k, span, key_step), rows(&v, span, value_step)),
        };
        let values = if values.is_empty() { keys } else { values };
        let chosen = site.chosen.map(|chosen| (chosen, span.start));
        jobs.push((rows(q, span, wide), Past { keys, values, key_step, value_step, chosen }, span.past));
    }
    attend(heads, &jobs, &mut out);
    if let Some(layer) = kept {
        let both = match state.and_then(<[LayerState]>::first) {
            Some(state) => [state.keys.clone(), state.values.clone()],
            None => [k, v],
        }
        .map(Values::from);
        site.kept.kv.borrow_mut().insert(layer, both);
    }
    out
}

/// Attends over keys and values that an earlier layer made.
fn over_kept(
    heads: &Heads<'_>,
    site: &Site<'_>,
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    (key_step, value_step): (usize, usize),
) -> Vec<f32> {
    let wide = heads.heads * heads.key_len;
    let mut out = vec![0.0; q.len() / wide * heads.heads * heads.value_len];
    let jobs: Vec<_> = site
        .spans
        .iter()
        .map(|span| {
            // A growing sequence keeps its whole past, a group the rows of its own tokens.
            let all = Span { start: if span.past > 0 { 0 } else { span.start }, len: span.past + span.len, past: 0 };
            let (keys, values) = (rows(keys, &all, key_step), rows(values, &all, value_step));
            let chosen = site.chosen.map(|chosen| (chosen, span.start));
            let past = Past { keys, values, key_step, value_step, chosen };
            (rows(q, span, wide), past, span.past)
        })
        .collect();
    attend(heads, &jobs, &mut out);
    out
}

/// Attends over keys that are values too, of which each query sees those chosen; of one sequence.
pub(super) fn attend_chosen(heads: &Heads<'_>, q: &[f32], keys: &[f32], chosen: &Chosen) -> Vec<f32> {
    let step = heads.key_len;
    let mut out = vec![0.0; q.len()];
    let past = Past { keys, values: keys, key_step: step, value_step: step, chosen: Some((chosen, 0)) };
    attend(heads, &[(q, past, 0)], &mut out);
    out
}

fn rows<'x>(x: &'x [f32], span: &Span, step: usize) -> &'x [f32] {
    x.get(span.start * step..(span.start + span.len) * step).unwrap_or_default()
}

/// What an indexer chose for the tokens of a group.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// Choices a token: one for all heads, or one for each of so many groups of heads.
    pub groups: usize,
    /// The positions in the sequence that are seen, ascending; of each token and group. No positions: all are seen.
    pub seen: Vec<Vec<usize>>,
}

/// What attention needs to know of the heads.
pub(super) struct Heads<'a> {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) key_len: usize,
    pub(super) value_len: usize,
    pub(super) scale: f32,
    pub(super) cap: Option<f32>,
    pub(super) sight: Sight,
    pub(super) slopes: Option<Vec<f32>>,
    pub(super) sinks: Option<Vec<f32>>,
    pub(super) buckets: Option<&'a Buckets>,
}

/// Keys and values to attend to, rows `*_step` apart.
#[derive(Clone, Copy)]
struct Past<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    key_step: usize,
    value_step: usize,
    /// What the queries see of it, where that is chosen, and the first query's row there.
    chosen: Option<(&'a Chosen, usize)>,
}

impl<'a> Past<'a> {
    /// The positions that query `i` sees with this head of `heads`, where they are chosen.
    fn seen(&self, i: usize, head: usize, heads: usize) -> Option<&'a [usize]> {
        let (chosen, first) = self.chosen?;
        let group = head / (heads / chosen.groups.max(1)).max(1);
        let seen = chosen.seen.get((first + i) * chosen.groups + group)?;
        (!seen.is_empty()).then_some(seen)
    }
}

/// Attention of towers: the queries of each span of the first kind see all keys of the span of the second kind beside
/// it. `q` `[tokens, heads · len]`, `k` and `v` `[tokens, kv_heads · len]`.
#[allow(clippy::too_many_arguments)]
pub fn attend_spans(
    (heads, kv_heads, len): (usize, usize, usize),
    scale: f32,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    spans: &[(std::ops::Range<usize>, std::ops::Range<usize>)],
) -> Vec<f32> {
    let spec = Heads {
        heads,
        kv_heads,
        key_len: len,
        value_len: len,
        scale,
        cap: None,
        sight: Sight::all(),
        slopes: None,
        sinks: None,
        buckets: None,
    };
    let (wide, step) = (heads * len, kv_heads * len);
    let jobs: Vec<(&[f32], Past<'_>, usize)> = spans
        .iter()
        .map(|(from, to)| {
            let past = Past {
                keys: &k[to.start * step..to.end * step],
                values: &v[to.start * step..to.end * step],
                key_step: step,
                value_step: step,
                chosen: None,
            };
            (&q[from.start * wide..from.end * wide], past, 0)
        })
        .collect();
    let mut out = vec![0.0; q.len()];
    attend(&spec, &jobs, &mut out);
    out
}

/// All heads of all sequences; each job: queries `[tokens, heads · key_len]`, what they see, the first one's position.
/// The results follow each other in `out` `[tokens, heads · value_len]`.
fn attend(spec: &Heads<'_>, jobs: &[(&[f32], Past<'_>, usize)], out: &mut [f32]) {
    let wide = spec.heads * spec.key_len;
    let work: Vec<(usize, usize)> = (0..jobs.len()).flat_map(|j| (0..spec.heads).map(move |h| (j, h))).collect();
    let found: Vec<Vec<f32>> = work
        .par_iter()
        .map(|&(j, h)| {
            let (q, past, first) = jobs[j];
            head(spec, h, q, past, first, q.len() / wide)
        })
        .collect();
    let width = spec.heads * spec.value_len;
    let mut rest = out;
    for ((q, ..), found) in jobs.iter().zip(found.chunks(spec.heads)) {
        let (rows, behind) = rest.split_at_mut(q.len() / wide * width);
        rows.par_chunks_mut(width).with_min_len(16).enumerate().for_each(|(t, row)| {
            for (part, found) in row.chunks_mut(spec.value_len).zip(found) {
                part.copy_from_slice(&found[t * spec.value_len..][..spec.value_len]);
            }
        });
        rest = behind;
    }
}

/// One head of one sequence: `[tokens, value_len]`.
fn head(spec: &Heads<'_>, h: usize, q: &[f32], past: Past<'_>, first: usize, tokens: usize) -> Vec<f32> {
    let wide = spec.heads * spec.key_len;
    let shared = h / (spec.heads / spec.kv_heads);
    let seen = past.keys.len() / past.key_step;
    let mut out = vec![0.0; tokens * spec.value_len];
    let mut scores = vec![0.0; QUERIES * KEYS];
    for (block, out) in out.chunks_mut(QUERIES * spec.value_len).enumerate() {
        let n = out.len() / spec.value_len;
        let start = block * QUERIES;
        let (top, bottom) = (first + start, first + start + n - 1);
        let (begin, end) = (spec.sight.of(top, seen).0, spec.sight.of(bottom, seen).1);
        let mut peaks = [f32::NEG_INFINITY; QUERIES];
        let mut sums = [0.0_f32; QUERIES];
        for at in (begin..end).step_by(KEYS) {
            let m = KEYS.min(end - at);
            let scores = &mut scores[..n * m];
            let queries = View::new(&q[start * wide + h * spec.key_len..], wide, 1);
            let keys = View::new(&past.keys[at * past.key_step + shared * spec.key_len..], 1, past.key_step);
            dense(n, m, spec.key_len, spec.scale, queries, keys, Accumulation::Store, scores, m);
            for (i, row) in scores.chunks_mut(m).enumerate() {
                apply_bias_and_mask(spec, h, row, top + i, at);
                if let Some(seen) = past.seen(start + i, h, spec.heads) {
                    keep_seen(row, seen, at);
                }
                let peak = numeric::max(row).max(peaks[i]);
                if peak == f32::NEG_INFINITY {
                    row.fill(0.0);
                    continue;
                }
                let keep = (peaks[i] - peak).exp();
                let sum = numeric::exp_and_sum(row, peak);
                if keep != 1.0 {
                    numeric::scale(&mut out[i * spec.value_len..(i + 1) * spec.value_len], keep);
                }
                sums[i] = sums[i] * keep + sum;
                peaks[i] = peak;
            }
            let values = View::new(&past.values[at * past.value_step + shared * spec.value_len..], past.value_step, 1);
            dense(n, spec.value_len, m, 1.0, View::new(scores, m, 1), values, Accumulation::Add, out, spec.value_len);
        }
        for (i, row) in out.chunks_mut(spec.value_len).enumerate() {
            // A sink is a score without a value: it only takes a share.
            let sink = spec.sinks.as_ref().map_or(f32::NEG_INFINITY, |s| s[h]);
            let peak = peaks[i].max(sink);
            let keep = (peaks[i] - peak).exp();
            let scale = keep / (sums[i] * keep + (sink - peak).exp());
            numeric::scale(row, scale);
        }
    }
    out
}

/// Caps, biases and masks the scores of the query at `position` for the keys from `at` on.
fn apply_bias_and_mask(spec: &Heads<'_>, h: usize, row: &mut [f32], position: usize, at: usize) {
    if let Some(cap) = spec.cap {
        row.iter_mut().for_each(|s| *s = (*s / cap).tanh() * cap);
    }
    if let Some(slopes) = &spec.slopes {
        for (j, s) in row.iter_mut().enumerate() {
            let distance = (at + j) as f32 - position as f32;
            *s += slopes[h] * if spec.sight.causal { distance } else { -distance.abs() };
        }
    }
    if let Some(buckets) = spec.buckets {
        for (j, s) in row.iter_mut().enumerate() {
            *s += buckets.bias(h, (at + j) as i64 - position as i64);
        }
    }
    let (first, last) = spec.sight.of(position, usize::MAX);
    let (first, last) = (first.saturating_sub(at).min(row.len()), last.saturating_sub(at).min(row.len()));
    row[last..].fill(f32::NEG_INFINITY);
    row[..first].fill(f32::NEG_INFINITY);
}

/// Masks the scores of the keys from `at` on that are not among those seen.
fn keep_seen(row: &mut [f32], seen: &[usize], at: usize) {
    let mut next = seen.partition_point(|&position| position < at);
    for (j, score) in row.iter_mut().enumerate() {
        if seen.get(next) == Some(&(at + j)) {
            next += 1;
        } else {
            *score = f32::NEG_INFINITY;
        }
    }
}
